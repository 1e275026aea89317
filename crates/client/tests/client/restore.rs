//! A server restored from a backup, and a device that was away for longer than the retention.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use vfs_sync_client::transport::CallKind;
use vfs_sync_client::{
    ClientBuilder, ClientConfig, ClientError, Delete, HttpConfig, HttpTransport, QueuedState,
    StateExport, StaticToken, SyncClient,
};
use vfs_sync_core::access::AccessLevel;
use vfs_sync_core::id::{ReplicaId, UserId};
use vfs_sync_core::item::Name;
use vfs_sync_core::operation::Action;
use vfs_sync_core::time::Timestamp;
use vfs_sync_testkit::{
    Fault, FaultyTransport, Retention, TestEnvironment, TestServer, ViolationCollector,
    expect_exact_guardrail_signatures,
};

struct Device {
    client: SyncClient,
    violations: Arc<ViolationCollector>,
}

fn builder(server: &TestServer, user: &str, rematerialise: bool) -> ClientBuilder {
    let token = StaticToken::new(server.token(user));
    let transport = HttpTransport::new(HttpConfig::new(server.url()), token).unwrap();
    let config = ClientConfig { rematerialise, ..ClientConfig::default() };
    SyncClient::builder(Arc::new(transport)).config(config)
}

fn observed(client: SyncClient) -> Device {
    let violations = Arc::new(ViolationCollector::default());
    client.observe(violations.clone());
    Device { client, violations }
}

fn device(server: &TestServer, rematerialise: bool) -> Device {
    let user = UserId::new("alice").unwrap();
    observed(builder(server, "alice", rematerialise).in_memory(user).unwrap())
}

impl Device {
    fn make(&self, name: &str) {
        self.client.create_folder(None, Name::new(name).unwrap()).unwrap();
    }

    fn remove(&self, name: &str) {
        let item = self.client.resolve(name).unwrap().id;
        self.client.delete(&item, Delete::Item).unwrap();
    }

    fn tree(&self) -> BTreeSet<String> {
        self.client.walk(None).unwrap().map(|entry| entry.unwrap().path).collect()
    }

    /// Asserts what was emitted, all of it.
    fn emitted(&self, signatures: &[&str]) {
        expect_exact_guardrail_signatures(&self.violations.violations(), signatures);
    }
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// Copies of a server's database, write-ahead log included.
struct Backup(tempfile::TempDir);

const SUFFIXES: [&str; 3] = ["", "-wal", "-shm"];

fn with_suffix(database: &Path, suffix: &str) -> PathBuf {
    let name = database.file_name().unwrap().to_str().unwrap();
    database.with_file_name(format!("{name}{suffix}"))
}

/// Stops a server for as long as it takes to copy its database.
async fn back_up(server: &mut TestServer) -> Backup {
    server.stop().await;
    let backup = tempfile::tempdir().unwrap();
    for suffix in SUFFIXES {
        let from = with_suffix(&server.database_file(), suffix);
        if from.exists() {
            std::fs::copy(&from, backup.path().join(from.file_name().unwrap())).unwrap();
        }
    }
    server.start_again().await;
    Backup(backup)
}

/// Puts a server back to what it was, as its `restored`th life.
async fn restore(server: &mut TestServer, backup: &Backup, now: Timestamp, restored: u16) {
    server.stop().await;
    for suffix in SUFFIXES {
        let to = with_suffix(&server.database_file(), suffix);
        let _ = std::fs::remove_file(&to);
        let from = backup.0.path().join(to.file_name().unwrap());
        if from.exists() {
            std::fs::copy(from, to).unwrap();
        }
    }
    server.clock().advance(Duration::from_secs(2));
    server.start_again().await;
    if restored > 0 {
        // As operators may, and need not.
        server.store().new_epoch(now, restored).await.unwrap();
    }
}

#[tokio::test]
async fn restarts_cost_clients_nothing() {
    let mut server = TestServer::start().await;
    let (a, b) = (device(&server, false), device(&server, false));
    for round in 0..4 {
        a.make(&format!("a{round}"));
        a.client.flush().await.unwrap();
        server.stop().await;
        server.start_again().await;
        b.make(&format!("b{round}"));
        for device in [&a, &b, &a] {
            let report = device.client.sync().await.unwrap();
            assert!(!report.rematerialised, "round {round}");
        }
        server.stop().await;
        server.start_again().await;
        server.stop().await;
        server.start_again().await;
        for device in [&b, &a] {
            let report = device.client.sync().await.unwrap();
            assert!(!report.rematerialised);
            assert_eq!((report.applied, report.rejected, report.outdated), (0, 0, 0));
        }
        assert_eq!(a.tree(), b.tree());
        assert_eq!(a.tree().len(), 2 * (round + 1));
    }
    let fresh = device(&server, false);
    fresh.client.sync().await.unwrap();
    assert_eq!(fresh.tree(), a.tree());
    let positions = server.store().totals().await.unwrap().feed_positions;
    assert_eq!(positions, 8, "nothing was applied twice");
}

#[tokio::test]
async fn after_a_restore_and_a_new_epoch_every_replica_converges_and_nothing_queued_is_lost() {
    let mut server = TestServer::start().await;
    let (a, b) = (device(&server, true), device(&server, true));
    a.make("before");
    a.make("removed after");
    a.client.sync().await.unwrap();
    b.client.sync().await.unwrap();

    let backup = back_up(&mut server).await;

    a.make("after");
    a.remove("removed after");
    a.client.sync().await.unwrap();
    b.client.sync().await.unwrap();
    b.make("acknowledged");
    b.client.flush().await.unwrap();
    b.make("queued");
    assert_eq!(b.tree(), set(&["before", "after", "acknowledged", "queued"]));

    let now = server.clock().now();
    restore(&mut server, &backup, now, 0).await;

    for device in [&b, &a, &b] {
        device.client.sync().await.unwrap();
    }
    let fresh = device(&server, false);
    fresh.client.sync().await.unwrap();
    let expected = set(&["before", "after", "acknowledged", "queued"]);
    for device in [&a, &b, &fresh] {
        assert_eq!(device.tree(), expected);
        let status = device.client.status().unwrap();
        assert_eq!((status.pending, status.acknowledged, status.rejected), (0, 0, 0));
    }

    a.make("life");
    a.client.sync().await.unwrap();
    b.make("goes on");
    for device in [&b, &a, &fresh] {
        device.client.sync().await.unwrap();
    }
    assert_eq!(a.tree(), b.tree());
    assert_eq!(a.tree(), fresh.tree());
    assert_eq!(a.tree().len(), 6, "{:?}", a.tree());
    for device in [&a, &b] {
        device.emitted(&["pull:pullRematerializationRequired"]);
    }
    fresh.emitted(&[]);
}

#[tokio::test]
async fn what_is_queued_on_items_that_a_restore_lost_is_not_rejected() {
    for flushed in [false, true] {
        let mut server = TestServer::start().await;
        let a = device(&server, true);
        a.make("before");
        a.client.sync().await.unwrap();
        let backup = back_up(&mut server).await;
        a.make("after");
        a.client.sync().await.unwrap();
        a.client.sync().await.unwrap();
        assert_eq!(a.client.status().unwrap().acknowledged, 0, "the feed has shown it");
        let folder = a.client.resolve("after").unwrap().id;
        a.client.rename(&folder, Name::new("renamed").unwrap()).unwrap();

        let now = server.clock().now();
        restore(&mut server, &backup, now, 0).await;
        if flushed {
            // It may find out, and fail; it gives nothing up.
            let _ = a.client.flush().await;
            assert_eq!(a.client.status().unwrap().rejected, 0);
        }
        a.client.sync().await.unwrap();
        let status = a.client.status().unwrap();
        assert_eq!((status.pending, status.acknowledged, status.rejected), (0, 0, 0));
        let fresh = device(&server, false);
        fresh.client.sync().await.unwrap();
        for device in [&a, &fresh] {
            assert_eq!(device.tree(), set(&["before", "renamed"]), "flushed: {flushed}");
        }
        assert_eq!(fresh.client.resolve("renamed").unwrap().id, folder);
    }
}

#[tokio::test]
async fn a_restored_server_gets_again_what_it_had_acknowledged_to_a_device_that_never_pulled() {
    let mut server = TestServer::start().await;
    let backup = back_up(&mut server).await;
    let (pushes, rests) = (device(&server, true), device(&server, true));
    for device in [&pushes, &rests] {
        device.make("acknowledged");
        device.client.flush().await.unwrap();
        assert_eq!(device.client.status().unwrap().acknowledged, 1);
    }

    let now = server.clock().now();
    restore(&mut server, &backup, now, 0).await;
    pushes.make("later");
    let folder = pushes.client.resolve("acknowledged").unwrap().id;
    pushes.client.rename(&folder, Name::new("renamed").unwrap()).unwrap();
    for device in [&pushes, &rests, &pushes] {
        device.client.sync().await.unwrap();
        let status = device.client.status().unwrap();
        assert_eq!((status.pending, status.acknowledged, status.rejected), (0, 0, 0));
    }
    let fresh = device(&server, false);
    fresh.client.sync().await.unwrap();
    for device in [&pushes, &rests, &fresh] {
        assert_eq!(device.tree(), set(&["acknowledged", "later", "renamed"]));
        device.emitted(&[]);
    }
}

#[tokio::test]
async fn what_is_queued_again_keeps_its_order_though_the_answer_to_its_first_part_was_lost() {
    let mut server = TestServer::start().await;
    let backup = back_up(&mut server).await;
    let now = server.clock().now();
    server.clock().freeze(now);

    // Its clock is an hour ahead, so the server takes its writes for earlier than it says.
    let ahead = now.plus_millis(3_600_000);
    let environment = Arc::new(TestEnvironment::new(1, ahead));
    let line = Arc::new(FaultyTransport::new(server.transport("alice")));
    let config = ClientConfig { environment, rematerialise: true, ..ClientConfig::default() };
    let user = UserId::new("alice").unwrap();
    let client = SyncClient::builder(line.clone()).config(config).in_memory(user).unwrap();
    let folder = client.create_folder(None, Name::new("first").unwrap()).unwrap();
    client.rename(&folder, Name::new("second").unwrap()).unwrap();
    line.next(CallKind::Push, Fault::DropAnswer);
    client.flush().await.unwrap_err();
    // The feed brings back the second alone: it stands in the place of the first.
    client.pull().await.unwrap();
    let queue = client.queue().operations(2).unwrap();
    assert_eq!(queue[0].state, QueuedState::Pending);
    assert_eq!(queue[1].state, QueuedState::Acknowledged);

    restore(&mut server, &backup, now, 1).await;
    server.clock().advance(Duration::from_secs(60));
    client.sync().await.unwrap();
    client.sync().await.unwrap();
    assert_eq!(client.resolve("second").unwrap().id, folder);
    let fresh = device(&server, false);
    fresh.client.sync().await.unwrap();
    assert_eq!(fresh.tree(), set(&["second"]));
}

/// Pulls one page of one entry; the line fails before the next.
async fn pull_a_page(client: &SyncClient, line: &FaultyTransport) {
    line.next(CallKind::Pull, Fault::Delay(Duration::ZERO));
    line.next(CallKind::Pull, Fault::DropRequest);
    client.pull().await.unwrap_err();
}

#[tokio::test]
async fn what_a_restore_puts_back_behind_an_unfinished_pull_is_not_missed() {
    for fresh in [true, false] {
        for copied in [false, true] {
            restored_amid_a_pull(fresh, copied).await;
        }
    }
}

async fn restored_amid_a_pull(fresh: bool, copied: bool) {
    let mut server = TestServer::start().await;
    let writer = device(&server, true);
    let line = Arc::new(FaultyTransport::new(server.transport("alice")));
    let reading = || {
        let config = ClientConfig { page_limit: 1, rematerialise: true, ..ClientConfig::default() };
        let (user, id) = (UserId::new("alice").unwrap(), ReplicaId::new("reader").unwrap());
        SyncClient::builder(line.clone()).config(config).client_id(id).in_memory(user).unwrap()
    };
    let mut reader = reading();
    writer.make("first");
    writer.client.sync().await.unwrap();
    if !fresh {
        reader.sync().await.unwrap();
    }
    for name in ["second", "moves", "third", "fourth"] {
        writer.make(name);
    }
    writer.client.sync().await.unwrap();
    pull_a_page(&reader, &line).await;
    let backup = back_up(&mut server).await;

    // The entry leaves its place before the reader gets there, for one that the restore loses.
    let moves = writer.client.resolve("moves").unwrap().id;
    writer.client.rename(&moves, Name::new("moved").unwrap()).unwrap();
    writer.client.sync().await.unwrap();
    pull_a_page(&reader, &line).await;
    pull_a_page(&reader, &line).await;
    let now = server.clock().now();
    restore(&mut server, &backup, now, 0).await;
    if copied {
        let state = exported(&reader);
        reader = reading();
        reader.hydrate_state(&*state).unwrap();
    }

    let report = reader.sync().await.unwrap();
    assert!(report.rematerialised, "fresh: {fresh}, copied: {copied}");
    assert_eq!(reader.resolve("moves").unwrap().id, moves);
    for client in [&writer.client, &writer.client, &reader] {
        client.sync().await.unwrap();
    }
    assert_eq!(reader.resolve("moved").unwrap().id, moves, "the writer offers it again");
}

#[tokio::test]
async fn a_restart_amid_a_pull_costs_nothing() {
    let mut server = TestServer::start().await;
    let writer = device(&server, false);
    let line = Arc::new(FaultyTransport::new(server.transport("alice")));
    let config = ClientConfig { page_limit: 1, ..ClientConfig::default() };
    let alice = UserId::new("alice").unwrap();
    let reader = SyncClient::builder(line.clone()).config(config).in_memory(alice).unwrap();
    for name in ["first", "second", "third"] {
        writer.make(name);
    }
    writer.client.sync().await.unwrap();
    for _ in 0..2 {
        pull_a_page(&reader, &line).await;
        server.stop().await;
        server.start_again().await;
    }
    let report = reader.sync().await.unwrap();
    assert!(!report.rematerialised);
    assert_eq!(report.pulled, 1, "it goes on where it was");
    assert!(reader.resolve("first").is_ok() && reader.resolve("third").is_ok());
}

#[tokio::test]
async fn a_backup_that_is_restored_twice_while_the_clock_is_behind_it_hands_out_no_position_twice()
{
    let mut server = TestServer::start().await;
    let a = device(&server, true);
    let backup = back_up(&mut server).await;
    let long_ago = Timestamp::from_millis(0).unwrap();
    for (restored, made) in [(1, "first"), (2, "second")] {
        restore(&mut server, &backup, long_ago, restored).await;
        a.make(made);
        a.client.sync().await.unwrap();
    }
    let fresh = device(&server, false);
    fresh.client.sync().await.unwrap();
    assert_eq!(a.tree(), fresh.tree());
    assert_eq!(a.tree(), set(&["first", "second"]), "what the first life confirmed is offered");
    a.emitted(&["pull:pullRematerializationRequired"]);
}

#[tokio::test]
async fn a_device_that_had_nothing_yet_is_not_held_to_what_the_life_before_told() {
    let mut server = TestServer::start().await;
    let (other, rests) = (device(&server, true), device(&server, true));
    let come_and_go = async || {
        other.make("come and gone");
        other.remove("come and gone");
        other.client.flush().await.unwrap();
    };
    come_and_go().await;
    let backup = back_up(&mut server).await;
    come_and_go().await;
    rests.client.sync().await.unwrap();
    assert_eq!(rests.client.status().unwrap().cursor, None, "nothing but how far the other is");

    let now = server.clock().now();
    restore(&mut server, &backup, now, 1).await;
    rests.make("after");
    rests.client.sync().await.unwrap();
    assert_eq!(rests.tree(), set(&["after"]));
    rests.emitted(&[]);
}

#[tokio::test]
async fn a_device_whose_feed_is_empty_and_queue_too_goes_on_after_a_restore() {
    let mut server = TestServer::start().await;
    let device = device(&server, false);
    let come_and_go = async || {
        device.make("come and gone");
        device.remove("come and gone");
        device.client.sync().await.unwrap();
    };
    come_and_go().await;
    let backup = back_up(&mut server).await;
    come_and_go().await;
    let status = device.client.status().unwrap();
    assert_eq!((status.cursor, status.pending), (None, 0), "the pull is what tells of the restore");

    let now = server.clock().now();
    restore(&mut server, &backup, now, 1).await;
    device.client.sync().await.unwrap();
    device.make("after");
    device.client.sync().await.unwrap();
    device.emitted(&[]);
    assert_eq!(device.tree(), set(&["after"]));
    assert_eq!(device.client.status().unwrap().pending, 0);
}

#[tokio::test]
async fn what_a_device_pushed_before_its_first_pull_survives_a_restore() {
    let mut server = TestServer::start().await;
    let backup = back_up(&mut server).await;

    let device_of_a_moment = device(&server, false);
    let client = &device_of_a_moment.client;
    device_of_a_moment.make("folder");
    client.flush().await.unwrap();
    let folder = client.resolve("folder").unwrap().id;
    let file = client.create_file(Some(&folder), Name::new("file").unwrap()).unwrap();
    client.contents().put(&file, &b"bytes"[..]).unwrap();
    client.flush().await.unwrap();
    assert_eq!(client.status().unwrap().pending, 0);
    assert!(client.status().unwrap().acknowledged > 0);

    let now = server.clock().now();
    restore(&mut server, &backup, now, 1).await;

    client.sync().await.unwrap();
    let status = client.status().unwrap();
    assert_eq!((status.pending, status.acknowledged, status.uploads), (0, 0, 0));
    assert_eq!((status.rejected, status.rejected_uploads), (0, 0));
    device_of_a_moment.emitted(&[]);
    let fresh = device(&server, false);
    fresh.client.sync().await.unwrap();
    assert_eq!(fresh.tree(), set(&["folder", "folder/file"]));
    let mut text = String::new();
    let content = fresh.client.contents().read(&file).await.unwrap();
    content.reader().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "bytes");
}

#[tokio::test]
async fn a_device_that_was_away_for_longer_than_the_retention_comes_back_with_its_queue() {
    let server = TestServer::start().await;
    let (home, away) = (device(&server, true), device(&server, false));
    home.make("kept");
    home.make("gone");
    home.client.sync().await.unwrap();
    away.client.sync().await.unwrap();
    home.remove("gone");
    home.make("new");
    home.client.sync().await.unwrap();

    server.clock().advance(Duration::from_secs(100 * 24 * 3_600));
    let now = server.clock().now();
    let retention = Retention { removals_before: now, accepted_before: now, at_most: 1_000 };
    assert!(server.store().prune(retention).await.unwrap().removals > 0);

    away.make("made on the road");
    let before = away.tree();
    let error = away.client.sync().await.unwrap_err();
    let ClientError::Violation(violation) = error else { panic!("{error}") };
    assert_eq!(violation.signature(), "pull:pullRematerializationRequired");
    assert_eq!(away.tree(), before, "it stopped, as it was");

    away.client.rematerialise().await.unwrap();
    away.client.sync().await.unwrap();
    home.client.sync().await.unwrap();
    let expected = set(&["kept", "new", "made on the road"]);
    assert_eq!(away.tree(), expected);
    assert_eq!(home.tree(), expected, "who was there needed no rebuild");
    home.emitted(&[]);
}

// What the server lost is offered to it again.

/// A device whose replica is in a directory.
fn on_disk(server: &TestServer, dir: &Path) -> Device {
    let user = UserId::new("alice").unwrap();
    observed(builder(server, "alice", true).server("here").create(dir, user).unwrap())
}

fn device_of(server: &TestServer, user: &str) -> Device {
    let id = UserId::new(user).unwrap();
    observed(builder(server, user, true).in_memory(id).unwrap())
}

impl Device {
    /// Writes a file at the top, a new one or the one of that name.
    fn write(&self, name: &str, text: &str) {
        let item = match self.client.resolve(name) {
            Ok(node) => node.id,
            Err(_) => self.client.create_file(None, Name::new(name).unwrap()).unwrap(),
        };
        self.client.contents().put(&item, text.as_bytes()).unwrap();
    }

    async fn read(&self, path: &str) -> String {
        let item = self.client.resolve(path).unwrap_or_else(|e| panic!("{path}: {e}")).id;
        let content = self.client.contents().read(&item).await.unwrap();
        let mut text = String::new();
        content.reader().unwrap().read_to_string(&mut text).unwrap();
        text
    }

    fn waits(&self) -> (u64, u64, u64, u64, u64, u64) {
        let status = self.client.status().unwrap();
        (
            status.pending,
            status.acknowledged,
            status.rejected,
            status.uploads,
            status.rejected_uploads,
            status.lost,
        )
    }
}

async fn rounds(devices: &[&Device]) {
    for _ in 0..3 {
        for device in devices {
            device.client.sync().await.unwrap();
        }
    }
}

const NOTHING: (u64, u64, u64, u64, u64, u64) = (0, 0, 0, 0, 0, 0);

#[tokio::test]
async fn a_restored_server_gets_back_items_contents_and_moves_from_any_device_that_has_them() {
    let mut server = TestServer::start().await;
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (on_disk(&server, dir.path()), device(&server, true));
    a.write("monday", "monday");
    a.make("from");
    a.make("to");
    a.client.sync().await.unwrap();
    let moved = a
        .client
        .create_file(Some(&a.client.resolve("from").unwrap().id), Name::new("moved").unwrap())
        .unwrap();
    rounds(&[&a, &b]).await;
    let backup = back_up(&mut server).await;

    a.write("tuesday", "tuesday");
    a.write("monday", "monday, better");
    a.client.move_to(&moved, Some(&a.client.resolve("to").unwrap().id)).unwrap();
    let deep = a
        .client
        .create_folder(Some(&a.client.resolve("to").unwrap().id), Name::new("deep").unwrap())
        .unwrap();
    let deeper = a.client.create_file(Some(&deep), Name::new("deeper").unwrap()).unwrap();
    a.client.contents().put(&deeper, "deeper".as_bytes()).unwrap();
    rounds(&[&a, &b]).await;
    assert_eq!(b.read("tuesday").await, "tuesday");

    let now = server.clock().now();
    restore(&mut server, &backup, now, 0).await;
    // The one that has only some of the bytes comes first.
    b.client.sync().await.unwrap();
    a.client.sync().await.unwrap();
    rounds(&[&b, &a]).await;
    let fresh = device(&server, false);
    fresh.client.sync().await.unwrap();
    let expected =
        set(&["monday", "tuesday", "from", "to", "to/moved", "to/deep", "to/deep/deeper"]);
    for device in [&a, &b, &fresh] {
        assert_eq!(device.tree(), expected);
        assert_eq!(device.read("monday").await, "monday, better");
        assert_eq!(device.read("tuesday").await, "tuesday");
        assert_eq!(device.read("to/deep/deeper").await, "deeper");
        assert_eq!(device.waits(), NOTHING);
    }
}

#[tokio::test]
async fn a_lost_content_whose_answer_was_lost_too_comes_back_to_its_file() {
    let mut server = TestServer::start().await;
    let line = Arc::new(FaultyTransport::new(server.transport("alice")));
    let config = ClientConfig { rematerialise: true, ..ClientConfig::default() };
    let user = UserId::new("alice").unwrap();
    let client = SyncClient::builder(line.clone()).config(config).in_memory(user).unwrap();
    let author = observed(client);
    author.client.create_file(None, Name::new("monday").unwrap()).unwrap();
    author.client.sync().await.unwrap();
    let backup = back_up(&mut server).await;
    author.write("monday", "one");
    author.client.sync().await.unwrap();
    author.write("monday", "two");
    (0..4).for_each(|_| line.next(CallKind::BlobBatch, Fault::DropAnswer));
    author.client.sync().await.unwrap_err();
    // The feed shows what still waits to be sent.
    author.client.pull().await.unwrap();
    assert_eq!(author.client.status().unwrap().uploads, 1);

    let now = server.clock().now();
    restore(&mut server, &backup, now, 0).await;
    rounds(&[&author]).await;
    let fresh = device(&server, false);
    fresh.client.sync().await.unwrap();
    assert_eq!(fresh.tree(), set(&["monday"]));
    assert_eq!(fresh.read("monday").await, "two");
    assert_eq!(author.waits(), NOTHING);
}

/// Two devices that have a file's new content by name alone, and its author; the server has lost it.
async fn content_that_one_device_has(server: &mut TestServer, dir: &Path) -> [Device; 3] {
    let devices = [device(server, true), device(server, true), on_disk(server, dir)];
    let author = &devices[0];
    author.write("monday", "one");
    rounds(&devices.each_ref()).await;
    let backup = back_up(server).await;
    author.write("monday", "two");
    rounds(&devices.each_ref()).await;
    let now = server.clock().now();
    restore(server, &backup, now, 0).await;
    for other in &devices[1..] {
        other.client.sync().await.unwrap();
        assert_eq!(other.client.status().unwrap().lost, 1);
    }
    devices
}

#[tokio::test]
async fn a_lost_content_is_listed_until_its_author_has_deleted_the_file() {
    let (mut server, dir) = (TestServer::start().await, tempfile::tempdir().unwrap());
    let devices = content_that_one_device_has(&mut server, dir.path()).await;
    devices[0].remove("monday");
    rounds(&devices.each_ref()).await;
    for device in &devices {
        assert_eq!((device.tree(), device.waits()), (set(&[]), NOTHING));
    }
}

#[tokio::test]
async fn what_a_device_deletes_after_a_restore_its_own_lost_changes_do_not_bring_back() {
    let mut server = TestServer::start().await;
    let (a, b) = (device(&server, true), device(&server, true));
    a.write("one", "one");
    a.make("to");
    rounds(&[&a, &b]).await;
    let backup = back_up(&mut server).await;
    let item = a.client.resolve("one").unwrap().id;
    a.client.rename(&item, Name::new("renamed").unwrap()).unwrap();
    a.write("renamed", "two");
    a.client.move_to(&item, Some(&a.client.resolve("to").unwrap().id)).unwrap();
    a.make("new");
    rounds(&[&a]).await;
    let now = server.clock().now();
    restore(&mut server, &backup, now, 0).await;
    a.client.delete(&item, Delete::Item).unwrap();
    a.remove("new");
    rounds(&[&a, &b]).await;
    for device in [&a, &b] {
        assert_eq!((device.tree(), device.waits()), (set(&["to"]), NOTHING));
    }
}

#[tokio::test]
async fn a_lost_deletion_is_undone_by_a_lost_change_of_who_had_not_heard_of_it() {
    for deleter_first in [true, false] {
        let mut server = TestServer::start().await;
        let (a, b) = (device(&server, true), device(&server, true));
        a.make("one");
        rounds(&[&a, &b]).await;
        let backup = back_up(&mut server).await;
        let item = a.client.resolve("one").unwrap().id;
        a.client.rename(&item, Name::new("renamed").unwrap()).unwrap();
        rounds(&[&a, &b]).await;
        a.remove("renamed");
        a.client.sync().await.unwrap();
        let now = server.clock().now();
        restore(&mut server, &backup, now, 0).await;
        let order = if deleter_first { [&a, &b] } else { [&b, &a] };
        rounds(&order).await;
        for device in [&a, &b] {
            assert_eq!((device.tree(), device.waits()), (set(&["renamed"]), NOTHING));
        }
    }
}

#[tokio::test]
async fn an_emptied_server_gets_everything_back() {
    let mut server = TestServer::start().await;
    let empty = back_up(&mut server).await;
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (device(&server, true), on_disk(&server, dir.path()));
    a.make("folder");
    for number in 0..20 {
        a.write(&format!("f{number}"), &format!("content {number}"));
    }
    rounds(&[&a, &b]).await;
    let tree = a.tree();

    let now = server.clock().now();
    restore(&mut server, &empty, now, 0).await;
    for device in [&b, &a] {
        device.client.sync().await.unwrap();
        assert_eq!(device.tree(), tree);
    }
    rounds(&[&b, &a]).await;
    let fresh = device(&server, false);
    fresh.client.sync().await.unwrap();
    assert_eq!(fresh.tree(), tree);
    for number in 0..20 {
        assert_eq!(fresh.read(&format!("f{number}")).await, format!("content {number}"));
    }
    assert_eq!(a.waits(), NOTHING);
    assert_eq!(b.waits(), NOTHING);
}

#[tokio::test]
async fn what_was_written_after_the_restore_stays_beside_what_is_offered() {
    let mut server = TestServer::start().await;
    let (a, b) = (device(&server, true), device(&server, true));
    a.write("file", "v1");
    rounds(&[&a, &b]).await;
    let backup = back_up(&mut server).await;
    a.write("file", "lost");
    a.make("lost folder");
    a.client.sync().await.unwrap();

    let now = server.clock().now();
    restore(&mut server, &backup, now, 0).await;
    // It was away: it knows of the old content alone, and writes over it.
    b.write("file", "after");
    b.make("after folder");
    b.client.sync().await.unwrap();
    rounds(&[&a, &b]).await;
    assert_eq!(a.tree(), b.tree());
    let contents: BTreeSet<String> = {
        let mut contents = BTreeSet::new();
        for path in a.tree().iter().filter(|path| path.starts_with("file")) {
            contents.insert(a.read(path).await);
        }
        contents
    };
    assert_eq!(contents, set(&["after", "lost"]));
    assert!(a.tree().is_superset(&set(&["lost folder", "after folder"])));
    assert_eq!((a.waits(), b.waits()), (NOTHING, NOTHING));
}

#[tokio::test]
async fn a_revocation_and_a_deletion_that_a_restore_undoes_are_offered_first() {
    let mut server = TestServer::start().await;
    let (a, bob) = (device(&server, true), device_of(&server, "bob"));
    a.make("shared");
    a.write("secret", "s");
    let shared = a.client.resolve("shared").unwrap().id;
    let to_bob = vfs_sync_core::access::Principal {
        kind: vfs_sync_core::access::PrincipalType::User,
        id: vfs_sync_core::id::PrincipalId::new("bob").unwrap(),
    };
    a.client.sharing().share(&shared, to_bob.clone(), AccessLevel::Read).unwrap();
    a.client.sync().await.unwrap();
    bob.client.sync().await.unwrap();
    let backup = back_up(&mut server).await;
    a.client.sharing().unshare(&shared, to_bob.clone()).unwrap();
    a.remove("secret");
    a.make("later");
    a.client.sync().await.unwrap();

    let now = server.clock().now();
    restore(&mut server, &backup, now, 0).await;
    a.client.pull().await.unwrap();
    let kinds: Vec<_> = a
        .client
        .queue()
        .operations(10)
        .unwrap()
        .into_iter()
        .map(|one| one.operation.action)
        .collect();
    assert!(matches!(kinds[0], Action::GrantRemove { .. }), "{kinds:?}");
    assert_eq!(kinds[1], Action::Delete, "{kinds:?}");
    assert!(matches!(kinds[2], Action::Upsert(_)), "{kinds:?}");
    rounds(&[&a, &bob]).await;
    assert_eq!(a.tree(), set(&["shared", "later"]));
    assert!(a.client.sharing().grants(&shared).unwrap().is_empty());
    assert_eq!(a.waits(), NOTHING);
}

#[tokio::test]
async fn a_lost_grant_is_listed_and_given_again_on_the_users_word_alone() {
    let mut server = TestServer::start().await;
    let (a, bob) = (device(&server, true), device_of(&server, "bob"));
    a.make("shared");
    a.client.sync().await.unwrap();
    let backup = back_up(&mut server).await;
    let shared = a.client.resolve("shared").unwrap().id;
    let to_bob = vfs_sync_core::access::Principal {
        kind: vfs_sync_core::access::PrincipalType::User,
        id: vfs_sync_core::id::PrincipalId::new("bob").unwrap(),
    };
    a.client.sharing().share(&shared, to_bob, AccessLevel::Write).unwrap();
    a.client.sync().await.unwrap();
    bob.client.sync().await.unwrap();
    let of_bob = bob.client.create_file(Some(&shared), Name::new("of bob").unwrap()).unwrap();
    bob.client.contents().put(&of_bob, "bob".as_bytes()).unwrap();
    bob.client.sync().await.unwrap();
    a.client.sync().await.unwrap();

    let now = server.clock().now();
    restore(&mut server, &backup, now, 0).await;
    bob.client.sync().await.unwrap();
    let lost = bob.client.lost().list(0, 10).unwrap();
    assert!(!lost.is_empty(), "what bob wrote there is listed, with its bytes");
    a.client.sync().await.unwrap();
    bob.client.sync().await.unwrap();
    assert!(a.client.sharing().grants(&shared).unwrap().is_empty());
    let listed = a.client.lost().list(0, 10).unwrap();
    assert!(listed.iter().any(|one| one.lost.path == "/shared"), "{listed:?}");
    assert_eq!(a.client.lost().grant_again().unwrap().len(), 1);
    rounds(&[&a, &bob]).await;
    assert_eq!(a.client.sharing().grants(&shared).unwrap().len(), 1);
    assert!(bob.client.node(&of_bob).unwrap().is_some());
    assert_eq!((a.waits(), bob.waits()), (NOTHING, NOTHING));
    let content = a.client.contents().read(&of_bob).await.unwrap();
    assert_eq!(content.size(), 3, "bob's bytes were kept, and came back with his access");
}

#[tokio::test]
async fn a_device_that_was_away_for_two_restores_loses_nothing() {
    let mut server = TestServer::start().await;
    let (a, b) = (device(&server, true), device(&server, true));
    a.write("base", "base");
    rounds(&[&a, &b]).await;
    let first = back_up(&mut server).await;
    a.write("one", "one");
    rounds(&[&a, &b]).await;
    let now = server.clock().now();
    restore(&mut server, &first, now, 1).await;
    a.write("two", "two");
    a.client.sync().await.unwrap();
    let second = back_up(&mut server).await;
    a.write("three", "three");
    a.client.sync().await.unwrap();
    let now = server.clock().now();
    restore(&mut server, &second, now, 2).await;
    b.client.sync().await.unwrap();
    rounds(&[&a, &b]).await;
    let fresh = device(&server, false);
    fresh.client.sync().await.unwrap();
    for device in [&a, &b, &fresh] {
        assert_eq!(device.tree(), set(&["base", "one", "two", "three"]));
        for name in ["base", "one", "two", "three"] {
            assert_eq!(device.read(name).await, name);
        }
    }
    assert_eq!((a.waits(), b.waits()), (NOTHING, NOTHING));
}

/// A client that an export of `of` was hydrated into.
fn copy_of(server: &TestServer, of: &Device, state: &[u8]) -> SyncClient {
    let user = UserId::new("alice").unwrap();
    let builder = builder(server, "alice", true).client_id(of.client.client_id());
    let copy = builder.in_memory(user).unwrap();
    copy.hydrate_state(state).unwrap();
    copy
}

fn exported(client: &SyncClient) -> Vec<u8> {
    let mut state = Vec::new();
    client.export_state(StateExport::default(), &mut state).unwrap();
    state
}

#[tokio::test]
async fn a_copy_of_a_replica_offers_what_was_written_long_before_the_server_received_it() {
    let mut server = TestServer::start().await;
    let a = device(&server, true);
    // The server's clock is ahead: what the device writes is older than what the server has.
    server.clock().advance(Duration::from_secs(3_600));
    a.make("before");
    a.client.sync().await.unwrap();
    let backup = back_up(&mut server).await;
    a.make("after");
    a.client.sync().await.unwrap();
    let state = exported(&a.client);

    let now = server.clock().now();
    restore(&mut server, &backup, now, 0).await;
    let copy = copy_of(&server, &a, &state);
    let report = copy.sync().await.unwrap();
    assert_eq!(report.offered.items, 1, "only what the server lacks: {report:?}");
    copy.sync().await.unwrap();
    let fresh = device(&server, false);
    fresh.client.sync().await.unwrap();
    assert_eq!(fresh.tree(), set(&["before", "after"]));
}

#[tokio::test]
async fn an_old_copy_does_not_take_the_later_writes_of_its_original_for_its_own() {
    let mut server = TestServer::start().await;
    let mut a = device(&server, true);
    let line = Arc::new(FaultyTransport::new(server.transport("alice")));
    let alice = UserId::new("alice").unwrap();
    a.client = SyncClient::builder(line.clone()).in_memory(alice).unwrap();
    a.make("before");
    a.client.sync().await.unwrap();
    let backup = back_up(&mut server).await;
    a.make("acknowledged");
    a.client.flush().await.unwrap();
    let state = exported(&a.client);
    a.make("after the copy");

    let now = server.clock().now();
    restore(&mut server, &backup, now, 0).await;
    // The restored server gets the later write of the original alone.
    line.next(CallKind::Push, Fault::DropAnswer);
    a.client.flush().await.unwrap_err();
    let copy = copy_of(&server, &a, &state);
    copy.sync().await.unwrap();
    copy.sync().await.unwrap();
    let fresh = device(&server, false);
    fresh.client.sync().await.unwrap();
    assert_eq!(fresh.tree(), set(&["before", "acknowledged", "after the copy"]));
}

#[tokio::test]
async fn a_copy_that_was_away_for_longer_than_the_retention_brings_nothing_deleted_back() {
    let server = TestServer::start().await;
    let (home, away) = (device(&server, true), device(&server, true));
    home.make("kept");
    home.make("gone");
    home.client.sync().await.unwrap();
    away.client.sync().await.unwrap();
    let copy = copy_of(&server, &away, &exported(&away.client));
    home.remove("gone");
    home.client.sync().await.unwrap();
    server.clock().advance(Duration::from_secs(100 * 24 * 3_600));
    let now = server.clock().now();
    let retention = Retention { removals_before: now, accepted_before: now, at_most: 1_000 };
    assert!(server.store().prune(retention).await.unwrap().removals > 0);

    // The server has all that the copy received, at whichever positions that was.
    let report = copy.sync().await.unwrap();
    assert!(report.rematerialised);
    assert_eq!(report.offered.sent(), 0, "{report:?}");
    home.client.sync().await.unwrap();
    assert_eq!(home.tree(), set(&["kept"]));
}
