//! The settings of a test's server.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use vfs_sync_blobs::BlobStore;
use vfs_sync_server::ServerConfig;
use vfs_sync_server::auth::{AuthConfig, Secret};
use vfs_sync_store::MetadataStore;

use super::TestServer;
use crate::environment::TestClock;

/// A builder of a [`TestServer`].
pub struct TestServerBuilder {
    config: ServerConfig,
    auth: Option<AuthConfig>,
    database: Option<String>,
    store: Option<Arc<dyn MetadataStore>>,
    blobs: Option<Arc<dyn BlobStore>>,
    admin: bool,
}

impl TestServerBuilder {
    pub(super) fn new() -> Self {
        Self {
            config: ServerConfig::default(),
            auth: None,
            database: None,
            store: None,
            blobs: None,
            admin: false,
        }
    }

    /// Replaces the default limits, time-outs and retention.
    #[must_use]
    pub fn config(mut self, config: ServerConfig) -> Self {
        self.config = config;
        self
    }

    /// Replaces the default keys, a generated secret. [`TestServer::token`] then works only if the
    /// new keys are a secret too.
    #[must_use]
    pub fn auth(mut self, auth: AuthConfig) -> Self {
        self.auth = Some(auth);
        self
    }

    /// Replaces the temporary SQLite file by another database, named as for `vfs_sync_store::open`.
    #[must_use]
    pub fn database(mut self, database: impl Into<String>) -> Self {
        self.database = Some(database.into());
        self
    }

    /// Replaces the temporary SQLite file by another metadata store, which survives a restart of
    /// the server and may be shared with another server. [`crate::MemoryStore`] is fast, and can be
    /// restored like a backup.
    #[must_use]
    pub fn store(mut self, store: Arc<dyn MetadataStore>) -> Self {
        self.store = Some(store);
        self
    }

    /// Replaces the temporary directory by another object store.
    #[must_use]
    pub fn blobs(mut self, blobs: Arc<dyn BlobStore>) -> Self {
        self.blobs = Some(blobs);
        self
    }

    /// Adds the operator's listener.
    #[must_use]
    pub fn admin(mut self) -> Self {
        self.admin = true;
        self
    }

    /// Starts the configured server.
    pub async fn start(self) -> TestServer {
        let secret = Secret::new(uuid::Uuid::now_v7().simple().to_string().repeat(2));
        let auth = self
            .auth
            .unwrap_or_else(|| AuthConfig::with_secret(secret).expect("the secret is long"));
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut server = TestServer {
            directory: tempfile::tempdir().expect("a temporary directory"),
            config: self.config,
            auth,
            clock: Arc::new(TestClock::running()),
            database: self.database,
            store: self.store,
            blobs: self.blobs,
            address: any_port,
            admin_address: self.admin.then_some(any_port),
            running: None,
        };
        server.start_again().await;
        server
    }
}
