//! The last good exports that a replica keeps beside itself.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use vfs_sync_client::core::id::UserId;
use vfs_sync_client::core::item::Name;
use vfs_sync_client::core::time::Timestamp;
use vfs_sync_client::transport::CallKind;
use vfs_sync_client::{ClientConfig, GoodExport, SyncClient};
use vfs_sync_testkit::{Fault, FaultyTransport, TestEnvironment, TestServer};

const HOUR: Duration = Duration::from_secs(3_600);

fn environment() -> Arc<TestEnvironment> {
    let noon = "2026-01-01T12:00:00.000Z".parse::<Timestamp>().unwrap();
    Arc::new(TestEnvironment::new(7, noon))
}

fn config(environment: &Arc<TestEnvironment>) -> ClientConfig {
    let environment = Arc::clone(environment);
    ClientConfig { environment, ..ClientConfig::default() }
}

fn times(dir: &Path) -> Vec<String> {
    let exports = GoodExport::list(dir).unwrap().into_iter();
    exports.map(|export| export.made_at.to_string()[..13].to_owned()).collect()
}

#[tokio::test]
async fn the_last_three_are_kept_at_most_one_a_day() {
    let server = TestServer::start().await;
    let (dir, environment) = (tempfile::tempdir().unwrap(), environment());
    let alice = UserId::new("alice").unwrap();
    let client = SyncClient::builder(server.transport("alice")).config(config(&environment));
    let client = client.create(dir.path(), alice.clone()).unwrap();
    client.create_folder(None, Name::new("a").unwrap()).unwrap();
    assert_eq!(times(dir.path()), [""; 0], "nothing is settled yet");
    client.sync().await.unwrap();
    assert_eq!(times(dir.path()), ["2026-01-01T12"]);
    environment.clock().advance(HOUR * 23);
    client.sync().await.unwrap();
    assert_eq!(times(dir.path()), ["2026-01-01T12"], "one a day");
    for _ in 0..4 {
        environment.clock().advance(HOUR * 25);
        client.create_folder(None, Name::new("b").unwrap()).unwrap();
        client.sync().await.unwrap();
    }
    let kept = ["2026-01-06T15", "2026-01-05T14", "2026-01-04T13"];
    assert_eq!(times(dir.path()), kept);
    // A clock that was set back is no reason for one at each sync, nor for none for years.
    environment.clock().step_back(HOUR * 24 * 400);
    client.sync().await.unwrap();
    client.sync().await.unwrap();
    assert_eq!(times(dir.path())[1..], kept[..2]);

    let newest = &GoodExport::list(dir.path()).unwrap()[0];
    let counts = newest.check().unwrap();
    assert_eq!((counts.items, counts.queued), (5, 0));
    for path in [newest.path.clone(), dir.path().join("exports/tried")] {
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{path:?}");
    }
    let mode = dir.path().join("exports").metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o700);
    // A damaged replica is hydrated from it.
    let state = std::fs::read(&newest.path).unwrap();
    let fresh = tempfile::tempdir().unwrap();
    let builder = SyncClient::builder(server.transport("alice")).client_id(client.client_id());
    drop(client);
    let (again, outcome) = builder.hydrate(fresh.path(), alice, &state[..]).unwrap();
    assert_eq!(outcome.items, 5);
    again.sync().await.unwrap();
}

#[tokio::test]
async fn a_failure_to_keep_one_fails_no_sync_and_is_not_repeated_the_same_day() {
    let server = TestServer::start().await;
    let (dir, environment) = (tempfile::tempdir().unwrap(), environment());
    let alice = UserId::new("alice").unwrap();
    let client = SyncClient::builder(server.transport("alice")).config(config(&environment));
    let client = client.create(dir.path(), alice).unwrap();
    // A folder in the place of the file to write.
    std::fs::create_dir_all(dir.path().join("exports/unfinished/x")).unwrap();
    client.create_folder(None, Name::new("a").unwrap()).unwrap();
    client.sync().await.unwrap();
    assert_eq!(times(dir.path()), [""; 0]);
    std::fs::remove_dir_all(dir.path().join("exports/unfinished")).unwrap();
    client.sync().await.unwrap();
    assert_eq!(times(dir.path()), [""; 0], "it was tried today");
    environment.clock().advance(HOUR * 24);
    client.sync().await.unwrap();
    assert_eq!(times(dir.path()), ["2026-01-02T12"]);
    // A file in the place of the folder.
    std::fs::remove_dir_all(dir.path().join("exports")).unwrap();
    std::fs::write(dir.path().join("exports"), "").unwrap();
    client.sync().await.unwrap();
}

#[tokio::test]
async fn a_pull_that_does_not_settle_makes_none() {
    let server = TestServer::start().await;
    let (dir, environment) = (tempfile::tempdir().unwrap(), environment());
    let faulty = Arc::new(FaultyTransport::new(server.transport("alice")));
    let alice = UserId::new("alice").unwrap();
    let client = SyncClient::builder(faulty.clone()).config(config(&environment));
    let client = client.create(dir.path(), alice).unwrap();
    client.create_folder(None, Name::new("a").unwrap()).unwrap();
    faulty.next(CallKind::Pull, Fault::DropAnswer);
    client.sync().await.unwrap_err();
    assert_eq!(times(dir.path()), [""; 0]);
    client.flush().await.unwrap();
    assert_eq!(times(dir.path()), [""; 0], "a push settles nothing");
    client.pull().await.unwrap();
    assert_eq!(times(dir.path()).len(), 1);
}
