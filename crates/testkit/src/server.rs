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

/// A server on a port of its own, over a SQLite file and a directory of blobs that are gone when
/// it is dropped.
///
/// Whatever cannot be set up panics: it is for tests.
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
    /// Starts a server as it is by default.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// A server to be set up otherwise.
    #[must_use]
    pub fn builder() -> TestServerBuilder {
        TestServerBuilder::new()
    }

    /// Returns its address: `http://127.0.0.1:<port>`, the same after a restart.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the address of the operator's listener, if it has one.
    #[must_use]
    pub fn admin_url(&self) -> Option<String> {
        self.admin_address.map(|address| format!("http://{address}"))
    }

    /// Returns the server's clock.
    #[must_use]
    pub fn clock(&self) -> &TestClock {
        &self.clock
    }

    /// A bearer token for `user` that stays good however the clock is moved.
    #[must_use]
    pub fn token(&self, user: &str) -> String {
        self.mint(user, None)
    }

    /// The same, with a scope such as `vfs:admin`.
    #[must_use]
    pub fn token_with_scope(&self, user: &str, scope: &str) -> String {
        self.mint(user, Some(scope))
    }

    /// The way to it for `user`, over HTTP.
    #[must_use]
    pub fn transport(&self, user: &str) -> Arc<dyn Transport> {
        let token = StaticToken::new(self.token(user));
        let http = HttpTransport::new(HttpConfig::new(self.url()), token);
        Arc::new(http.expect("the server's address"))
    }

    /// A device of `user`'s, its replica in memory.
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

    /// Lets an hour pass and forgets, as retention does, the removals and the outcomes of pushes
    /// that are older than that; `at_most` of each.
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

    /// The directory of its blobs, unless it was given another object store.
    #[must_use]
    pub fn blobs_directory(&self) -> PathBuf {
        self.directory.path().join("blobs")
    }

    /// Its SQLite file, unless it was given another database.
    #[must_use]
    pub fn database_file(&self) -> PathBuf {
        self.directory.path().join("server.db")
    }

    /// Returns the server's directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Stops it, its requests under way finished. Its port refuses connections until
    /// [`Self::start_again`].
    pub async fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop.cancel();
            running.task.await.expect("the server ends");
        }
    }

    /// Stops it in the middle of whatever it does, connections included.
    pub async fn abort(&mut self) {
        if let Some(running) = self.running.take() {
            running.task.abort();
            let _ = running.task.await;
        }
    }

    /// Starts it over its data, where it was before.
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

    /// Stops and starts it.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.start_again().await;
    }
}

/// Binds, and remembers the port for the next time. The tasks of a server that was aborted may
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
