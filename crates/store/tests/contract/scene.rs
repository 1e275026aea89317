//! A store and what tests do with it, in the words of the protocol.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::cursor::Cursor;
use vfs_sync_core::id::{ReplicaId, UserId, WriteId};
use vfs_sync_core::server::push::PushBatch;
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::{PushResponse, PushStatus, ReconcileRequest, WriteIds};
use vfs_sync_store::sqlite::SqliteStore;
use vfs_sync_store::testing::session;
use vfs_sync_store::{
    FeedPage, MetadataStore, NewUpload, PullAnswer, PullRequest, Quota, ReconcileAnswer,
};

/// 2026-01-01T00:00:00Z, when every scene begins.
pub(crate) const START: i64 = 1_767_225_600_000;

pub(crate) fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(START + millis).unwrap()
}

pub(crate) fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

pub(crate) fn replica(name: &str) -> ReplicaId {
    ReplicaId::new(name).unwrap()
}

pub(crate) fn write_id(value: u64) -> WriteId {
    WriteId::new(value).unwrap()
}

pub(crate) fn write_ids(entries: &[(&str, u64)]) -> WriteIds {
    entries.iter().map(|(name, value)| (replica(name), write_id(*value))).collect()
}

/// In an SQLite database of this name all transactions count as large, and what narrows views is
/// written in chunks of an item.
pub(crate) const ON_SNAPSHOTS: &str = "snapshots.sqlite";

/// More than any test needs.
pub(crate) const QUOTA: Quota = Quota { stored: 1 << 40, staged: 1 << 40, open_stages: 10_000 };

pub(crate) fn uploaded(size: u64, digest: Sha256Digest) -> NewUpload {
    NewUpload { size, digest, lease: None }
}

/// Writes to a database. `{blob}` is an empty blob in its dialect.
pub(crate) async fn tamper(database: &str, sql: &str) {
    if database.starts_with("postgres") {
        let (client, connection) = session(database).await.unwrap();
        client.batch_execute(&sql.replace("{blob}", r"'\x'::bytea")).await.unwrap();
        drop(client);
        connection.await.unwrap().unwrap();
    } else {
        let connection = rusqlite::Connection::open(database).unwrap();
        connection.busy_timeout(std::time::Duration::from_secs(5)).unwrap();
        connection.execute_batch(&sql.replace("{blob}", "x''")).unwrap();
    }
}

/// A store whose clock is a counter.
pub(crate) struct Scene {
    pub(crate) store: Arc<dyn MetadataStore>,
    /// Where the database is, if it outlives the store.
    pub(crate) database: Option<String>,
    clock: AtomicU64,
}

impl Scene {
    pub(crate) fn new(store: Arc<dyn MetadataStore>) -> Self {
        Self { store, database: None, clock: AtomicU64::new(0) }
    }

    /// A store of a database that outlives it.
    pub(crate) fn of(store: Arc<dyn MetadataStore>, database: String) -> Self {
        Self { database: Some(database), ..Self::new(store) }
    }

    pub(crate) async fn at(database: String) -> Self {
        let store: Arc<dyn MetadataStore> = if database.ends_with(ON_SNAPSHOTS) {
            let store = SqliteStore::open(database.as_ref(), at(0)).unwrap();
            Arc::new(store.large_beyond(0).in_chunks_of(0))
        } else {
            vfs_sync_store::open(&database, at(0)).await.unwrap()
        };
        Self::of(store, database)
    }

    /// The same database in a store of its own, as after a restart.
    pub(crate) async fn reopened(self) -> Self {
        let (database, now) = (self.database.clone().unwrap(), self.now());
        drop(self.store);
        let store = vfs_sync_store::open(&database, now).await.unwrap();
        Self { store, database: self.database, clock: self.clock }
    }

    /// Writes to the database behind the store's back.
    pub(crate) async fn tamper(&self, sql: &str) {
        tamper(self.database.as_ref().unwrap(), sql).await;
    }

    /// A moment later than every one before.
    pub(crate) fn now(&self) -> Timestamp {
        at(i64::try_from(self.clock.fetch_add(1, Ordering::Relaxed)).unwrap())
    }

    /// Moves the clock on.
    pub(crate) fn pass(&self, millis: u64) -> Timestamp {
        self.clock.fetch_add(millis, Ordering::Relaxed);
        self.now()
    }

    /// Pushes operations as alice's; missing fields are filled in.
    pub(crate) async fn push(&self, from: &str, operations: Vec<Value>) -> PushResponse {
        self.push_as("alice", from, operations).await
    }

    pub(crate) async fn push_as(
        &self,
        who: &str,
        from: &str,
        operations: Vec<Value>,
    ) -> PushResponse {
        let batch = batch(who, from, operations);
        self.store.push(batch, self.now()).await.unwrap()
    }

    /// Pushes operations that must all be applied.
    pub(crate) async fn apply(&self, from: &str, operations: Vec<Value>) {
        self.apply_as("alice", from, operations).await;
    }

    pub(crate) async fn apply_as(&self, who: &str, from: &str, operations: Vec<Value>) {
        let response = self.push_as(who, from, operations).await;
        for result in &response.results {
            assert_eq!(result.status, PushStatus::Applied, "{result:?}");
        }
    }

    pub(crate) async fn pull(&self, request: PullRequest) -> PullAnswer {
        self.pull_as("alice", request).await
    }

    pub(crate) async fn pull_as(&self, who: &str, request: PullRequest) -> PullAnswer {
        self.store.pull(&user(who), &request).await.unwrap()
    }

    /// A page that must be served.
    pub(crate) async fn page(&self, request: PullRequest) -> FeedPage {
        match self.pull(request).await {
            PullAnswer::Page(page) => page,
            refused @ PullAnswer::Rematerialize(_) => panic!("{refused:?}"),
        }
    }

    /// Everything after `cursor`, pulled in pages of `limit`.
    pub(crate) async fn settle_as(
        &self,
        who: &str,
        mut cursor: Option<Cursor>,
        limit: u32,
    ) -> Vec<Value> {
        let mut entries = Vec::new();
        let (mut baseline, mut head) = (None, None);
        loop {
            let from = cursor.clone();
            let request = PullRequest { cursor: from, baseline, head, client_id: None, limit };
            baseline = request.baseline.clone();
            let PullAnswer::Page(page) = self.pull_as(who, request).await else {
                panic!("the pull was refused")
            };
            baseline = page.baseline.clone().or(baseline);
            head = page.head.clone();
            assert_eq!(head.is_some(), page.has_more);
            assert!(page.items.len() <= limit as usize);
            let items: Vec<Value> = parsed(&page);
            if let Some(last) = items.last() {
                cursor = Some(cursor_of(last));
            }
            entries.extend(items);
            assert_eq!(page.next_cursor, cursor.clone().filter(|_| page.has_more));
            if !page.has_more {
                return entries;
            }
        }
    }

    pub(crate) async fn settle(&self) -> Vec<Value> {
        self.settle_as("alice", None, 500).await
    }

    /// The cursor of the feed's head.
    pub(crate) async fn head(&self) -> Cursor {
        let state = self.store.state(&user("alice"), &replica("nobody")).await.unwrap();
        state.feed_head.unwrap()
    }

    pub(crate) async fn reconcile(
        &self,
        client: &str,
        cursor: &Cursor,
        ids: &[(&str, u64)],
    ) -> ReconcileAnswer {
        let request = ReconcileRequest {
            client_id: replica(client),
            cursor: cursor.clone(),
            last_reconciled_write_ids: write_ids(ids),
        };
        self.store.reconcile(&user("alice"), &request, self.now()).await.unwrap()
    }
}

pub(crate) fn from(cursor: Option<Cursor>) -> PullRequest {
    PullRequest { cursor, baseline: None, head: None, client_id: None, limit: 500 }
}

pub(crate) fn parsed(page: &FeedPage) -> Vec<Value> {
    page.items.iter().map(|item| serde_json::from_str(item).unwrap()).collect()
}

/// The position of an entry.
pub(crate) fn cursor_of(entry: &Value) -> Cursor {
    let entry: vfs_sync_core::entry::Entry = serde_json::from_value(entry.clone()).unwrap();
    entry.position
}

/// What entries tell, in short: `item_upsert a`, `link_add p/c`.
pub(crate) fn told(entries: &[Value]) -> Vec<String> {
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or("?").to_owned();
    let one = |entry: &Value| {
        let kind = text(entry, "opType");
        if kind.starts_with("link") {
            return format!("{kind} {}/{}", text(entry, "parentId"), text(entry, "childId"));
        }
        format!("{kind} {}", text(entry, "itemId"))
    };
    entries.iter().map(one).collect()
}

/// A batch of operations; `opId`, `replicaId` and `occurredAt` are filled in where missing.
pub(crate) fn batch(who: &str, from: &str, operations: Vec<Value>) -> PushBatch {
    let operations: Vec<Value> = operations
        .into_iter()
        .map(|mut op| {
            let fields = op.as_object_mut().unwrap();
            let op_id = format!("{from}-{}", fields["writeId"]);
            fields.entry("opId").or_insert(json!(op_id));
            fields.entry("replicaId").or_insert(json!(from));
            fields.entry("occurredAt").or_insert(json!("2026-01-01T00:00:00Z"));
            op
        })
        .collect();
    let body = json!({ "clientId": from, "operations": operations }).to_string();
    PushBatch::parse(user(who), body.as_bytes()).unwrap()
}

pub(crate) fn folder(write_id: u64, id: &str) -> Value {
    json!({"opType": "item_upsert", "writeId": write_id, "itemId": id, "objectType": "folder", "name": id})
}

pub(crate) fn file_in(write_id: u64, id: &str, parent: &str) -> Value {
    json!({"opType": "item_upsert", "writeId": write_id, "itemId": id, "objectType": "file",
        "name": id, "parentId": parent, "metadata": {"mtime": 1, "mode": 420}})
}

pub(crate) fn delete(write_id: u64, id: &str) -> Value {
    json!({"opType": "item_delete", "writeId": write_id, "itemId": id,
        "occurredAt": "2026-01-01T00:00:30Z"})
}

/// An operation on the link between `parent` and `child`.
pub(crate) fn link(write_id: u64, op_type: &str, parent: &str, child: &str) -> Value {
    json!({"opType": op_type, "writeId": write_id, "itemId": child, "parentId": parent,
        "childId": child, "occurredAt": "2026-01-01T00:00:20Z"})
}
