//! A server in the test's own process.

mod builder;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use vfs_sync_blobs::{BlobStore, ObjectBlobs};
use vfs_sync_client::{ClientConfig, HttpConfig, HttpTransport, StaticToken, Transport};
use vfs_sync_core::id::UserId;
use vfs_sync_core::time::Timestamp;
use vfs_sync_server::auth::{AuthConfig, Authenticator};
use vfs_sync_server::{Environment, Server, ServerConfig};
use vfs_sync_store::{MetadataStore, Retention};

use crate::device::TestDevice;
use crate::environment::TestClock;
pub use builder::TestServerBuilder;

/// A server on a free port, over a SQLite file and a directory of blobs that are removed when it is
/// dropped.
///
/// A failure of the set-up panics.
pub struct TestServer {
    directory: tempfile::TempDir,
    config: ServerConfig,
    auth: AuthConfig,
    clock: Arc<TestClock>,
    database: Option<String>,
    store: Option<Arc<dyn MetadataStore>>,
    blobs: Option<Arc<dyn BlobStore>>,
    address: SocketAddr,
    admin_address: Option<SocketAddr>,
    running: Option<Running>,
}

struct Running {
    store: Arc<dyn MetadataStore>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl TestServer {
    /// Starts a server with default settings.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// Begins the set-up of a server with other settings.
    #[must_use]
    pub fn builder() -> TestServerBuilder {
        TestServerBuilder::new()
    }

    /// Returns the server's URL: `http://127.0.0.1:<port>`, the same after a restart.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the URL of the operator's listener, if the server has one.
    #[must_use]
    pub fn admin_url(&self) -> Option<String> {
        self.admin_address.map(|address| format!("http://{address}"))
    }

    /// Returns the server's clock.
    #[must_use]
    pub fn clock(&self) -> &TestClock {
        &self.clock
    }

    /// Returns a bearer token for `user` that stays valid however the clock is moved.
    #[must_use]
    pub fn token(&self, user: &str) -> String {
        self.mint(user, None)
    }

    /// Returns a bearer token for `user` with a scope such as `vfs:admin`.
    #[must_use]
    pub fn token_with_scope(&self, user: &str, scope: &str) -> String {
        self.mint(user, Some(scope))
    }

    /// Returns a transport to the server for `user`, over HTTP.
    #[must_use]
    pub fn transport(&self, user: &str) -> Arc<dyn Transport> {
        let token = StaticToken::new(self.token(user));
        let http = HttpTransport::new(HttpConfig::new(self.url()), token);
        Arc::new(http.expect("the server's address"))
    }

    /// Returns a device of `user` with its replica in memory.
    #[must_use]
    pub fn device(&self, user: &str) -> TestDevice {
        TestDevice::in_memory(user, self.transport(user), ClientConfig::default())
    }

    fn mint(&self, user: &str, scope: Option<&str>) -> String {
        const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3_600);
        let user = UserId::new(user).expect("a user id");
        let long_ago = Timestamp::from_millis(0).expect("1970");
        self.auth.mint(&user, scope, CENTURY, long_ago).expect("the server has a secret")
    }

    /// Returns the metadata store.
    #[must_use]
    pub fn store(&self) -> Arc<dyn MetadataStore> {
        Arc::clone(&self.running.as_ref().expect("the server runs").store)
    }

    /// Lets an hour pass, then removes older feed removals and push outcomes as retention does, at
    /// most `at_most` of each.
    pub async fn forget(&self, at_most: u32) {
        self.clock.advance(Duration::from_secs(3_600));
        let before = self.clock.now().plus_millis(-1_000);
        let retention = Retention { removals_before: before, accepted_before: before, at_most };
        self.store().prune(retention).await.expect("a database");
    }

    /// Returns the object store.
    #[must_use]
    pub fn blobs(&self) -> Arc<dyn BlobStore> {
        match &self.blobs {
            Some(blobs) => Arc::clone(blobs),
            None => {
                let directory = ObjectBlobs::directory(self.blobs_directory());
                Arc::new(directory.expect("a directory of blobs"))
            }
        }
    }

    /// Returns the directory of the blobs, unless the server uses another object store.
    #[must_use]
    pub fn blobs_directory(&self) -> PathBuf {
        self.directory.path().join("blobs")
    }

    /// Returns the SQLite file, unless the server uses another database.
    #[must_use]
    pub fn database_file(&self) -> PathBuf {
        self.directory.path().join("server.db")
    }

    /// Returns the server's directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Stops the server after its requests in progress. Its port refuses connections until
    /// [`Self::start_again`].
    pub async fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop.cancel();
            running.task.await.expect("the server ends");
        }
    }

    /// Aborts the server and its connections in the middle of their work.
    pub async fn abort(&mut self) {
        if let Some(running) = self.running.take() {
            running.task.abort();
            let _ = running.task.await;
        }
    }

    /// Starts the server again over its data, at the same address.
    pub async fn start_again(&mut self) {
        assert!(self.running.is_none(), "the server runs");
        let store = match &self.store {
            Some(store) => Arc::clone(store),
            None => {
                let file = self.database_file().to_str().expect("a plain path").to_owned();
                let database = self.database.clone().unwrap_or(file);
                let opened = vfs_sync_store::open(&database, self.clock.now()).await;
                opened.expect("a database")
            }
        };
        let blobs = self.blobs();
        let auth = Authenticator::load(&self.auth).await.expect("keys");
        let clock = Arc::clone(&self.clock) as Arc<dyn Environment>;
        let server = Server::builder(Arc::clone(&store), blobs, auth)
            .environment(clock)
            .config(self.config.clone())
            .build();
        let listener = bind(&mut self.address).await;
        let admin = match &mut self.admin_address {
            Some(address) => Some(bind(address).await),
            None => None,
        };
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let task = tokio::spawn(server.serve(listener, admin, stopped));
        self.running = Some(Running { store, stop, task });
    }

    /// Stops and starts the server.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.start_again().await;
    }
}

/// Binds the listener, and remembers the port for the next time. The tasks of an aborted server may
/// hold its port for a moment longer.
async fn bind(address: &mut SocketAddr) -> TcpListener {
    let free = async {
        loop {
            match TcpListener::bind(*address).await {
                Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                    tokio::task::yield_now().await;
                }
                bound => return bound,
            }
        }
    };
    let bound = tokio::time::timeout(Duration::from_secs(10), free).await;
    let listener = bound.expect("the port is freed").expect("a port");
    *address = listener.local_addr().expect("a bound address");
    listener
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop.cancel();
        }
    }
}
