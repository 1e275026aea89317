//! The memory in which a share is revoked: it does not grow with what the share shows.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use serde_json::{Value, json};
use vfs_sync_core::id::UserId;
use vfs_sync_core::server::push::PushBatch;
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::PushStatus;
use vfs_sync_store::MetadataStore;
use vfs_sync_store::postgres::PostgresStore;
use vfs_sync_store::sqlite::SqliteStore;
use vfs_sync_store::testing::new_postgres_database;

const READERS: [&str; 3] = ["bob", "carol", "dave"];
/// The files of a folder. Each reader has a row of access, an item and a link of each.
const FILES: usize = 1_000;
/// The memory of a chunk and of the database, with room for what the allocator keeps. Planned whole,
/// the tree takes twice as much.
const MOST: u64 = 40 << 20;

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(1_767_225_600_000 + millis).unwrap()
}

/// The memory is that of the process, so one test runs at a time.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Alice's pushes, one after the other.
struct Alice<'s> {
    store: &'s dyn MetadataStore,
    write_id: u64,
}

impl Alice<'_> {
    async fn push(&mut self, operations: impl IntoIterator<Item = Value>) {
        let sent = operations.into_iter().map(|mut op| {
            self.write_id += 1;
            op["writeId"] = json!(self.write_id);
            op["opId"] = json!(format!("op{}", self.write_id));
            op["replicaId"] = json!("laptop");
            op["occurredAt"] = json!(at(self.write_id as i64).to_string());
            op
        });
        let body = json!({"clientId": "laptop", "operations": sent.collect::<Vec<_>>()});
        let alice = UserId::new("alice").unwrap();
        let batch = PushBatch::parse(alice, body.to_string().as_bytes()).unwrap();
        let answer = self.store.push(batch, at(self.write_id as i64)).await.unwrap();
        let refused = answer.results.iter().find(|one| one.status != PushStatus::Applied);
        assert!(refused.is_none(), "{refused:?}");
    }
}

fn made(id: &str, kind: &str, parent: Option<&str>) -> Value {
    json!({"opType": "item_upsert", "itemId": id, "objectType": kind, "name": id,
        "parentId": parent})
}

fn access(op_type: &str, user: &str) -> Value {
    json!({"opType": op_type, "itemId": "top", "principalType": "user", "principalId": user,
        "accessLevel": (op_type == "acl_add").then_some("read")})
}

/// Returns the greatest memory that this process has had.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Shares a tree of so many folders, then takes the share from one user by its end, and from the
/// others by deleting its root.
async fn revoke_a_large_share(store: &dyn MetadataStore, folders: usize) {
    let _alone = ALONE.lock().await;
    for reader in READERS {
        store.arrive(&UserId::new(reader).unwrap()).await.unwrap();
    }
    let mut alice = Alice { store, write_id: 0 };
    alice.push([made("top", "folder", None)]).await;
    alice.push(READERS.map(|reader| access("acl_add", reader))).await;
    for folder in 0..folders {
        let id = format!("folder-{folder}");
        alice.push([made(&id, "folder", Some("top"))]).await;
        for first in (0..FILES).step_by(500) {
            let file = |n| made(&format!("file-{folder}-{n}"), "file", Some(&id));
            alice.push((first..first + 500).map(file)).await;
        }
    }
    let rows = async || store.totals().await.unwrap().feed_positions;
    let (before, told) = (peak(), rows().await);
    alice.push([access("acl_remove", READERS[0])]).await;
    let all = (folders * (FILES + 1) * 2) as u64;
    assert!(rows().await >= told + all, "one of them is told of all");
    alice.push([json!({"opType": "item_delete", "itemId": "top"})]).await;
    assert!(rows().await >= told + 3 * all, "and so are the others");
    let grown = peak() - before;
    assert!(grown < MOST, "the memory grew by {} MB", grown >> 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_share_is_revoked_in_little_memory_on_sqlite() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&directory.path().join("db"), at(0)).unwrap();
    // 207,000 rows of three readers.
    revoke_a_large_share(&store, 23).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL"]
async fn a_large_share_is_revoked_in_little_memory_on_postgres() {
    let url = new_postgres_database().await.unwrap();
    revoke_a_large_share(&PostgresStore::connect(&url, at(0)).await.unwrap(), 12).await;
}
