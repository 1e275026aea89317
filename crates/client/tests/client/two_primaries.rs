//! A device between a former primary and its successor: servers of two copies of one database.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use vfs_sync_client::transport::{Answer, Call};
use vfs_sync_client::{ClientConfig, ClientError, Device, SyncReport, Transport, TransportError};
use vfs_sync_core::id::UserId;
use vfs_sync_core::item::Name;
use vfs_sync_testkit::{TestDevice, TestServer, everything};

const FORMER: usize = 0;
const SUCCESSOR: usize = 1;
/// The guardrail that fires when a position is not of the successor's history.
const BEYOND_HISTORY: &str = "pull:pullRematerializationRequired";

/// A line to both of them: each pull and reconcile reaches the one that the test says.
struct Between {
    to: [Arc<dyn Transport>; 2],
    /// Those that the next of these calls reach; the last one gets all others.
    script: Mutex<VecDeque<usize>>,
}

#[async_trait]
impl Transport for Between {
    fn bind_user(&self, user: &UserId) -> Result<(), UserId> {
        self.to.iter().try_for_each(|to| to.bind_user(user))
    }

    fn bind_device(&self, device: &Arc<Device>) {
        self.to.iter().for_each(|to| to.bind_device(device));
    }

    async fn call(&self, call: Call) -> Result<Answer, TransportError> {
        let to = {
            let mut script = self.script.lock().unwrap();
            match call {
                Call::Pull(_) | Call::Reconcile(_) if script.len() > 1 => {
                    script.pop_front().unwrap()
                }
                _ => *script.back().unwrap(),
            }
        };
        self.to[to].call(call).await
    }
}

struct Scene {
    former: TestServer,
    successor: TestServer,
    line: Arc<Between>,
    device: TestDevice,
}

fn copy(from: &Path, to: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let with = |path: &Path| format!("{}{suffix}", path.display());
        let _ = std::fs::remove_file(with(to));
        if Path::new(&with(from)).exists() {
            std::fs::copy(with(from), with(to)).unwrap();
        }
    }
}

impl Scene {
    /// A device that has applied something that only the former primary has, not the successor.
    async fn set() -> Self {
        let mut former = TestServer::start().await;
        let mut successor = TestServer::start().await;
        former.stop().await;
        successor.stop().await;
        copy(&former.database_file(), &successor.database_file());
        former.start_again().await;
        successor.clock().advance(Duration::from_secs(60));
        successor.start_again().await;
        let to = [former.transport("alice"), successor.transport("alice")];
        let line = Arc::new(Between { to, script: Mutex::new([FORMER].into()) });
        let config = ClientConfig { rematerialise: true, ..ClientConfig::default() };
        let device = TestDevice::in_memory("alice", line.clone(), config);
        let scene = Self { former, successor, line, device };
        scene.make("lost");
        scene.sync(&[FORMER]).await.unwrap();
        scene
    }

    fn make(&self, name: &str) {
        self.device.create_folder(None, Name::new(name).unwrap()).unwrap();
    }

    async fn sync(&self, script: &[usize]) -> Result<SyncReport, ClientError> {
        *self.line.script.lock().unwrap() = script.iter().copied().collect();
        self.device.sync().await
    }

    /// Synchronises with a process that must not serve the device.
    async fn is_not_served(&self, script: &[usize]) {
        match self.sync(script).await.unwrap_err() {
            ClientError::Transport(TransportError::Network { reason, .. }) => {
                assert!(reason.contains("database_behind"), "{reason}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(self.device.status().unwrap().stopped, None);
    }

    async fn names_at(&self, server: &TestServer) -> Vec<String> {
        let fresh = server.device("alice");
        fresh.sync().await.unwrap();
        everything(&fresh).unwrap().into_iter().map(|entry| entry.path).collect()
    }
}

#[tokio::test]
async fn a_former_primary_serves_no_device_that_has_heard_of_its_successor() {
    let scene = Scene::set().await;
    assert!(scene.sync(&[SUCCESSOR]).await.unwrap().rematerialised);
    scene.make("new");
    scene.is_not_served(&[FORMER]).await;
    assert_eq!(scene.device.status().unwrap().pending, 1, "nothing was acknowledged");
    assert_eq!(scene.names_at(&scene.former).await, ["lost"]);
    scene.sync(&[SUCCESSOR]).await.unwrap();
    assert_eq!(scene.names_at(&scene.successor).await, ["lost", "new"]);
}

#[tokio::test]
async fn a_replica_is_not_rebuilt_from_a_former_primary() {
    let scene = Scene::set().await;
    // The successor refuses the position, and the pages for the rebuild come from the former one.
    scene.is_not_served(&[SUCCESSOR, FORMER]).await;
    // So do the later ones, and the answer to what of the history is there.
    scene.is_not_served(&[SUCCESSOR, SUCCESSOR, FORMER]).await;
    let report = scene.sync(&[SUCCESSOR]).await.unwrap();
    assert_eq!((report.rematerialised, report.offered.items), (true, 1));
    assert_eq!(scene.names_at(&scene.successor).await, ["lost"]);
    for violation in scene.device.violations().violations() {
        assert_eq!(violation.signature(), BEYOND_HISTORY);
    }
}

#[tokio::test]
async fn a_position_that_the_successor_refuses_in_a_reconcile_is_not_rebuilt_from_the_former_primary()
 {
    let scene = Scene::set().await;
    let other = scene.former.device("alice");
    other.create_folder(None, Name::new("other").unwrap()).unwrap();
    other.sync().await.unwrap();
    scene.is_not_served(&[FORMER, SUCCESSOR, FORMER]).await;
    let report = scene.sync(&[SUCCESSOR]).await.unwrap();
    assert_eq!((report.rematerialised, report.offered.items), (true, 2));
}
