//! A client with what a test wants to know of it.

mod view;

use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vfs_sync_client::{ClientConfig, ClientError, StateExport, SyncClient, Transport};
use vfs_sync_core::id::UserId;

use crate::violations::ViolationCollector;
pub use view::everything;

/// The longest wait until nobody has a replica open.
const CLOSED_WITHIN: Duration = Duration::from_secs(10);

/// A client whose violations are collected; its replica is in memory, or in a directory that is
/// gone with it. What cannot be set up panics: it is for tests.
pub struct TestDevice {
    /// The open client; absent only while it is reopened.
    client: Option<SyncClient>,
    violations: Arc<ViolationCollector>,
    transport: Arc<dyn Transport>,
    config: ClientConfig,
    dir: Option<tempfile::TempDir>,
}

impl TestDevice {
    fn over(
        client: SyncClient,
        transport: Arc<dyn Transport>,
        config: ClientConfig,
        dir: Option<tempfile::TempDir>,
    ) -> Self {
        let violations = Arc::new(ViolationCollector::default());
        client.observe(violations.clone());
        Self { client: Some(client), violations, transport, config, dir }
    }

    /// One of `user`'s, in memory.
    #[must_use]
    pub fn in_memory(user: &str, transport: Arc<dyn Transport>, config: ClientConfig) -> Self {
        let user = UserId::new(user).expect("a user id");
        let client =
            SyncClient::builder(Arc::clone(&transport)).config(config.clone()).in_memory(user);
        Self::over(client.expect("a replica"), transport, config, None)
    }

    /// One of `user`'s, in a directory of its own.
    #[must_use]
    pub fn on_disk(user: &str, transport: Arc<dyn Transport>, config: ClientConfig) -> Self {
        let user = UserId::new(user).expect("a user id");
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (to, how) = (Arc::clone(&transport), config.clone());
        let client = SyncClient::builder(to).server("server").config(how).create(dir.path(), user);
        Self::over(client.expect("a replica"), transport, config, Some(dir))
    }

    /// One of `user`'s, on disk if it is `durable`, else in memory.
    #[must_use]
    pub fn new(
        durable: bool,
        user: &str,
        transport: Arc<dyn Transport>,
        config: ClientConfig,
    ) -> Self {
        let make = if durable { Self::on_disk } else { Self::in_memory };
        make(user, transport, config)
    }

    /// Closes the replica and opens it again, as after a restart. Of one on disk only, and only
    /// when nobody else has a clone of its client. What a call that was cancelled left under way
    /// elsewhere is waited for.
    pub async fn reopen(&mut self) {
        let dir = self.dir.as_ref().expect("a replica on disk").path();
        drop(self.client.take());
        let open = || {
            SyncClient::builder(Arc::clone(&self.transport)).config(self.config.clone()).open(dir)
        };
        let until = Instant::now() + CLOSED_WITHIN;
        let mut opened = open();
        while matches!(opened, Err(ClientError::InUse(_))) && Instant::now() < until {
            tokio::task::yield_now().await;
            opened = open();
        }
        let client = opened.expect("a replica");
        client.observe(self.violations.clone());
        self.client = Some(client);
    }

    /// The client; a device is one where that is enough.
    #[must_use]
    pub fn client(&self) -> &SyncClient {
        self.client.as_ref().expect("the replica is open")
    }

    /// The violations that it emitted.
    #[must_use]
    pub fn violations(&self) -> &ViolationCollector {
        &self.violations
    }

    /// Returns the directory of its replica, if it is on disk.
    #[must_use]
    pub fn directory(&self) -> Option<&Path> {
        self.dir.as_ref().map(tempfile::TempDir::path)
    }

    /// The exported state: the same bytes if and only if nothing changed.
    #[must_use]
    pub fn exported(&self) -> String {
        let mut bytes = Vec::new();
        self.client().export_state(StateExport::default(), &mut bytes).expect("a state");
        String::from_utf8(bytes).expect("JSON")
    }
}

impl Deref for TestDevice {
    type Target = SyncClient;

    fn deref(&self) -> &SyncClient {
        self.client()
    }
}
