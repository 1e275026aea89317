//! A client with the tools that a test needs to inspect it.

mod view;

use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vfs_sync_client::{ClientConfig, ClientError, StateExport, SyncClient, Transport};
use vfs_sync_core::id::UserId;

use crate::violations::ViolationCollector;
pub use view::everything;

/// The longest wait for a replica to be closed.
const CLOSED_WITHIN: Duration = Duration::from_secs(10);

/// A client whose violations are collected. Its replica is in memory, or in a directory that is
/// removed with the device. A failure of the set-up panics.
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

    /// Creates a device of `user` with its replica in memory.
    #[must_use]
    pub fn in_memory(user: &str, transport: Arc<dyn Transport>, config: ClientConfig) -> Self {
        let user = UserId::new(user).expect("a user id");
        let client =
            SyncClient::builder(Arc::clone(&transport)).config(config.clone()).in_memory(user);
        Self::over(client.expect("a replica"), transport, config, None)
    }

    /// Creates a device of `user` with its replica in a temporary directory.
    #[must_use]
    pub fn on_disk(user: &str, transport: Arc<dyn Transport>, config: ClientConfig) -> Self {
        let user = UserId::new(user).expect("a user id");
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (to, how) = (Arc::clone(&transport), config.clone());
        let client = SyncClient::builder(to).server("server").config(how).create(dir.path(), user);
        Self::over(client.expect("a replica"), transport, config, Some(dir))
    }

    /// Creates a device of `user`, on disk if it is `durable`, else in memory.
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

    /// Closes the replica and opens it again, as after a restart. It works only for a replica on
    /// disk, and only if nobody else has a clone of its client. It waits for work that cancelled
    /// calls left running.
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

    /// Returns the client; the device also dereferences to it.
    #[must_use]
    pub fn client(&self) -> &SyncClient {
        self.client.as_ref().expect("the replica is open")
    }

    /// Returns the violations that the client emitted.
    #[must_use]
    pub fn violations(&self) -> &ViolationCollector {
        &self.violations
    }

    /// Returns the directory of the replica, if it is on disk.
    #[must_use]
    pub fn directory(&self) -> Option<&Path> {
        self.dir.as_ref().map(tempfile::TempDir::path)
    }

    /// Returns the exported state: the same bytes if and only if nothing changed.
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
