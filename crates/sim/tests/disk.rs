//! The power fails at each single operation of the disk, on a client and on a server: what is there
//! afterwards is the state before or the state after, and what was acknowledged is there.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::FutureExt as _;
use vfs_sync_client::core::item::Name;
use vfs_sync_client::{ClientConfig, ClientError, StateExport, SyncClient, Transport};
use vfs_sync_core::id::UserId;
use vfs_sync_core::server::push::PushBatch;
use vfs_sync_core::time::Timestamp;
use vfs_sync_sim::disk::{Disk, DiskFault, Unsynced};
use vfs_sync_store::sqlite::SqliteStore;
use vfs_sync_store::{MetadataStore, PullAnswer, PullRequest, StoreError};
use vfs_sync_testkit::{Random, ScriptedTransport, TestEnvironment, build};

fn noon() -> Timestamp {
    "2026-01-01T12:00:00.000Z".parse().unwrap()
}

/// What is lost when the power fails: everything, or what chance leaves.
fn losses() -> impl Iterator<Item = Unsynced> {
    std::iter::once(Unsynced::Lost).chain((0..3).map(|n| Unsynced::Torn(Random::new(n))))
}

/// Something on a disk that does one thing and can be looked at.
trait Subject: Sized {
    type Failure: std::fmt::Debug;
    fn open(dir: &Path) -> Result<Self, Self::Failure>;
    fn act(&mut self) -> Result<(), Self::Failure>;
    fn look(&mut self) -> Vec<String>;
}

/// Takes `begin`'s disk through one action, with a fault at each of its operations.
fn at_each_operation<S: Subject>(root: &Path, begin: &Disk, faults: &[DiskFault]) {
    let scratch = |name: &str| -> PathBuf {
        let dir = root.join(name);
        std::fs::create_dir_all(&dir).unwrap();
        dir
    };
    let (before, after, operations) = {
        let dir = scratch("plain");
        let disk = begin.copied_below(&dir);
        let mut subject = S::open(&dir).unwrap();
        let (before, first) = (subject.look(), disk.operations());
        subject.act().unwrap();
        (before, subject.look(), disk.operations() - first)
    };
    assert_ne!(before, after);
    assert!(operations > 1, "something is written and synced");
    for (run, unsynced) in losses().enumerate() {
        for at in 0..=operations {
            for fault in faults {
                let what = format!("{fault:?} at {at} of {operations}, {unsynced:?}");
                let dir = scratch(&format!("{run}-{at}-{fault:?}"));
                let disk = begin.copied_below(&dir);
                let mut subject = S::open(&dir).unwrap();
                disk.fault_at(disk.operations() + at, *fault);
                let acknowledged = subject.act().is_ok();
                assert!(acknowledged || at < operations, "{what}: nothing failed");
                if *fault == DiskFault::Fails && !acknowledged {
                    // What failed can be tried again, on the same connection.
                    let seen = subject.look();
                    assert!(seen == before || seen == after, "{what}: {seen:?}");
                }
                disk.power_off();
                drop(subject);
                disk.power_on(unsynced.clone());
                let seen = S::open(&dir).unwrap_or_else(|e| panic!("{what}: {e:?}")).look();
                assert!(seen == before || seen == after, "{what}: {seen:?}");
                assert!(seen == after || !acknowledged, "{what}: an acknowledged call is lost");
            }
        }
    }
}

struct Server(Box<dyn MetadataStore>);

fn push(name: &str, write_id: u64) -> PushBatch {
    let body = serde_json::json!({"clientId": "r", "operations": [{
        "opId": name, "opType": "item_upsert", "itemId": name, "objectType": "folder", "name": name,
        "replicaId": "r", "writeId": write_id, "occurredAt": "2026-01-01T12:00:00Z"}]});
    PushBatch::parse(UserId::new("alice").unwrap(), body.to_string().as_bytes()).unwrap()
}

impl Server {
    fn pull(&self) -> Result<PullAnswer, StoreError> {
        let (cursor, baseline, head) = (None, None, None);
        let request = PullRequest { cursor, baseline, head, client_id: None, limit: 500 };
        let user = UserId::new("alice").unwrap();
        self.0.pull(&user, &request).now_or_never().expect("a call is done at the first poll")
    }
}

impl Subject for Server {
    type Failure = StoreError;

    fn open(dir: &Path) -> Result<Self, StoreError> {
        SqliteStore::open_alone(&dir.join("server.db"), Some(&Disk::vfs()), noon())
            .map(|store| Self(Box::new(store)))
    }

    fn act(&mut self) -> Result<(), StoreError> {
        let pushed = self.0.push(push("b", 2), noon()).now_or_never();
        pushed.expect("a call is done at the first poll").map(drop)
    }

    fn look(&mut self) -> Vec<String> {
        match self.pull().unwrap() {
            PullAnswer::Page(page) => page.items,
            refused @ PullAnswer::Rematerialize(_) => panic!("{refused:?}"),
        }
    }
}

#[test]
fn a_push_survives_the_power_or_never_was() {
    let root = tempfile::tempdir().unwrap();
    let disk = Disk::below(&root.path().join("begin"));
    let mut server = Server::open(&root.path().join("begin")).unwrap();
    server.0.push(push("a", 1), noon()).now_or_never().unwrap().unwrap();
    assert_eq!(server.look().len(), 1);
    disk.power_off();
    disk.power_on(Unsynced::Lost);
    at_each_operation::<Server>(root.path(), &disk, &[DiskFault::PowerFails, DiskFault::Fails]);
}

struct Client(SyncClient);

fn nobody() -> Arc<dyn Transport> {
    Arc::new(ScriptedTransport::default())
}

fn config(seed: u64) -> ClientConfig {
    ClientConfig {
        vfs: Some(Disk::vfs()),
        environment: Arc::new(TestEnvironment::new(seed, noon())),
        ..ClientConfig::default()
    }
}

impl Subject for Client {
    type Failure = ClientError;

    fn open(dir: &Path) -> Result<Self, ClientError> {
        SyncClient::builder(nobody()).config(config(2)).open(dir).map(Self)
    }

    fn act(&mut self) -> Result<(), ClientError> {
        let mut batch = self.0.batch();
        let folder = batch.create(
            vfs_sync_core::item::ObjectType::Folder,
            None,
            Name::new("b").unwrap(),
            Vec::new(),
        );
        batch.create(
            vfs_sync_core::item::ObjectType::File,
            Some(&folder),
            Name::new("c").unwrap(),
            Vec::new(),
        );
        batch.commit().map(drop)
    }

    fn look(&mut self) -> Vec<String> {
        let mut bytes = Vec::new();
        self.0.export_state(StateExport::default(), &mut bytes).unwrap();
        vec![String::from_utf8(bytes).unwrap()]
    }
}

/// A client that pulls a page.
struct Reader(SyncClient);

impl Subject for Reader {
    type Failure = ClientError;

    fn open(dir: &Path) -> Result<Self, ClientError> {
        let transport = ScriptedTransport::new();
        let page = build::page()
            .entry(1, "e-1", build::folder("f"))
            .entry(2, "e-2", build::file("c"))
            .entry(3, "e-3", build::link("f", "c"));
        transport.on_pull(|_| Ok(page.build()));
        SyncClient::builder(Arc::new(transport)).config(config(2)).open(dir).map(Self)
    }

    fn act(&mut self) -> Result<(), ClientError> {
        self.0.pull().now_or_never().expect("nothing waits").map(drop)
    }

    /// What a page brings, all in one transaction; that the server was told of it is another.
    fn look(&mut self) -> Vec<String> {
        let paths = self.0.walk(None).unwrap().map(|entry| entry.unwrap().path);
        let status = self.0.status().unwrap();
        paths.chain([format!("{:?} {}", status.cursor, status.items)]).collect()
    }
}

#[test]
fn an_edit_survives_the_power_or_never_was() {
    on_a_replica::<Client>();
}

#[test]
fn a_page_survives_the_power_whole_or_never_was() {
    on_a_replica::<Reader>();
}

fn on_a_replica<S: Subject>() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("begin");
    let disk = Disk::below(&dir);
    let user = UserId::new("alice").unwrap();
    let client =
        SyncClient::builder(nobody()).server("s").config(config(1)).create(&dir, user).unwrap();
    client.create_folder(None, Name::new("a").unwrap()).unwrap();
    drop(client);
    at_each_operation::<S>(root.path(), &disk, &[DiskFault::PowerFails, DiskFault::Fails]);
}

#[test]
fn a_close_that_the_power_cuts_loses_nothing() {
    let root = tempfile::tempdir().unwrap();
    for unsynced in losses() {
        let mut at = 0;
        loop {
            let disk = Disk::below(root.path());
            let mut server = Server::open(root.path()).unwrap();
            server.0.push(push("a", 1), noon()).now_or_never().unwrap().unwrap();
            server.act().unwrap();
            let before = server.look();
            disk.fault_at(disk.operations() + at, DiskFault::PowerFails);
            // Its log goes into the database, and is removed.
            drop(server);
            let cut = disk.is_off();
            disk.power_on(unsynced.clone());
            assert_eq!(Server::open(root.path()).unwrap().look(), before, "{at}, {unsynced:?}");
            if !cut {
                break;
            }
            at += 1;
        }
        assert!(at > 3, "a close writes, syncs and removes");
    }
}

#[test]
fn a_disk_that_cannot_be_read_is_told_and_mends() {
    let root = tempfile::tempdir().unwrap();
    let disk = Disk::below(root.path());
    let mut server = Server::open(root.path()).unwrap();
    server.act().unwrap();
    let before = server.look();
    drop(server);
    let mut server = Server::open(root.path()).unwrap();
    disk.set_reads_fail(true);
    let refused = server.pull();
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    disk.set_reads_fail(false);
    assert_eq!(server.look(), before);
}

#[test]
fn a_full_disk_takes_no_push_and_keeps_those_that_it_has() {
    let root = tempfile::tempdir().unwrap();
    let disk = Disk::below(root.path());
    let mut server = Server::open(root.path()).unwrap();
    server.0.push(push("a", 1), noon()).now_or_never().unwrap().unwrap();
    let before = server.look();
    disk.set_capacity(Some(0));
    let refused = server.act();
    assert!(matches!(refused, Err(StoreError::Full(_))), "{refused:?}");
    assert_eq!(server.look(), before);
    disk.set_capacity(None);
    server.act().unwrap();
    assert_eq!(server.look().len(), 2);
}
