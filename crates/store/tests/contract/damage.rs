//! Restarts, other versions, several stores, and rows that are not what they should be.

use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::id::{BlobId, RefId, StagingId};
use vfs_sync_core::server::attach::AttachRefusal;
use vfs_sync_core::wire::{AttachRequest, PushStatus, ReconcileRequest, StateResponse};
use vfs_sync_store::sqlite::SqliteStore;
use vfs_sync_store::{NewStage, StoreError};

use super::scene::*;

pub(crate) async fn a_restart_keeps_everything(scene: Scene) {
    scene.apply("laptop", vec![folder(1, "a"), file_in(2, "b", "a")]).await;
    let head = scene.head().await;
    scene.reconcile("laptop", &head, &[("laptop", 2)]).await;
    let entries = scene.settle().await;
    let state = scene.store.state(&user("alice"), &replica("laptop")).await.unwrap();
    let scene = scene.reopened().await;
    assert_eq!(scene.settle().await, entries);
    let after = scene.store.state(&user("alice"), &replica("laptop")).await.unwrap();
    assert!(after.epoch > state.epoch, "a start begins an epoch");
    assert_eq!(StateResponse { epoch: after.epoch, ..state }, after);
    assert!(scene.page(from(Some(head))).await.items.is_empty(), "and costs clients nothing");
    let again = scene.push("laptop", vec![folder(1, "a"), folder(3, "c")]).await;
    assert_eq!(again.results[0].status, PushStatus::AlreadyApplied);
    assert_eq!(again.results[1].status, PushStatus::Applied);
}

pub(crate) async fn a_newer_schema_is_used_as_it_is_if_programs_of_this_one_work_on_it(
    scene: Scene,
) {
    scene.apply("laptop", vec![folder(1, "a")]).await;
    scene.tamper("INSERT INTO schema_version VALUES (99, 0)").await;
    scene.tamper("ALTER TABLE realms ADD COLUMN novelty TEXT").await;
    let database = scene.database.clone().unwrap();
    assert_eq!(vfs_sync_store::migrate(&database, at(0)).await.unwrap(), 99);
    let scene = scene.reopened().await;
    scene.apply("laptop", vec![folder(2, "b")]).await;
    assert_eq!(scene.settle().await.len(), 2);
}

pub(crate) async fn a_newer_schema_is_refused(scene: Scene) {
    scene.tamper("INSERT INTO schema_version VALUES (99, 0)").await;
    scene.tamper("UPDATE meta SET value = 99 WHERE name = 'compatible'").await;
    let database = scene.database.clone().unwrap();
    for refused in [
        vfs_sync_store::open(&database, at(0)).await.map(|_| ()),
        vfs_sync_store::migrate(&database, at(0)).await.map(|_| ()),
    ] {
        assert!(matches!(refused, Err(StoreError::NewerSchema { found: 99, .. })), "{refused:?}");
    }
}

pub(crate) async fn a_database_that_lost_a_table_is_refused(scene: Scene) {
    scene.tamper("DROP TABLE moves").await;
    let database = scene.database.clone().unwrap();
    for refused in [
        vfs_sync_store::open(&database, at(0)).await.map(|_| ()),
        vfs_sync_store::migrate(&database, at(0)).await.map(|_| ()),
    ] {
        let Err(StoreError::MissingTable { table }) = refused else { panic!("{refused:?}") };
        assert_eq!(table, "moves");
    }
}

pub(crate) async fn a_malformed_item_fails_the_push_and_changes_nothing(scene: Scene) {
    scene.apply("laptop", vec![folder(1, "a"), folder(2, "b")]).await;
    let before = scene.settle().await;
    scene.tamper("UPDATE items SET fields = {blob} WHERE item_id = 'a'").await;
    let operations = vec![folder(3, "c"), file_in(4, "d", "a")];
    let failed = scene.store.push(batch("alice", "laptop", operations), scene.now()).await;
    let Err(StoreError::MalformedRow { table: "items", key, .. }) = failed else {
        panic!("{failed:?}")
    };
    assert_eq!(key, "a");
    assert_eq!(scene.settle().await, before);
    scene.apply("laptop", vec![folder(3, "c")]).await;
}

pub(crate) async fn a_malformed_reconcile_state_is_named(scene: Scene) {
    scene.apply("laptop", vec![folder(1, "a")]).await;
    let head = scene.head().await;
    scene.reconcile("laptop", &head, &[]).await;
    stage(&scene).await;
    for text in ["[]", "{\"laptop\": 0}", "{\"laptop\": \"1\"}", "{\"a:b\": 1}", "nonsense"] {
        scene.tamper(&format!("UPDATE reconcile_state SET write_ids = '{text}'")).await;
        let request = ReconcileRequest {
            client_id: replica("laptop"),
            cursor: head.clone(),
            last_reconciled_write_ids: write_ids(&[]),
        };
        let failed = scene.store.reconcile(&user("alice"), &request, scene.now()).await;
        let Err(StoreError::MalformedRow { table: "reconcile_state", key, .. }) = failed else {
            panic!("{failed:?}")
        };
        assert_eq!(key, "crdt:laptop");
        let failed = scene.store.state(&user("alice"), &replica("laptop")).await;
        assert!(matches!(failed, Err(StoreError::MalformedRow { .. })), "{failed:?}");
        let behind = AttachRequest {
            client_id: Some(replica("laptop")),
            required_cursor: Some(head.clone()),
            required_last_reconciled_write_ids: Some(write_ids(&[])),
            ..to_a()
        };
        let refused = attach(&scene, &behind).await;
        assert!(
            matches!(&refused, Err(AttachRefusal::MalformedRow(text))
            if text.contains("crdt:laptop")),
            "{refused:?}"
        );
    }
}

pub(crate) async fn a_malformed_stage_is_named(scene: Scene) {
    scene.apply("laptop", vec![folder(1, "a")]).await;
    stage(&scene).await;
    scene.tamper("UPDATE blob_stages SET status = 'blob-stage:lost'").await;
    let refused = attach(&scene, &to_a()).await;
    assert!(matches!(&refused, Err(AttachRefusal::MalformedRow(text)) if text.contains("status")));
    let failed = scene.store.stage(&user("alice"), &StagingId::new("s").unwrap()).await;
    assert!(matches!(failed, Err(StoreError::MalformedRow { table: "blob_stages", .. })));
}

async fn stage(scene: &Scene) {
    let stage = NewStage {
        staging_id: StagingId::new("s").unwrap(),
        blob_id: BlobId::new("b").unwrap(),
        expires_at: at(86_400_000),
        expiry_chosen: false,
        content_type: None,
        size: 0,
    };
    let alice = user("alice");
    scene.store.open_stage(&alice, &stage, &QUOTA, scene.now()).await.unwrap();
    let digest = Sha256Digest([1; 32]);
    scene
        .store
        .record_upload(&alice, &stage.staging_id, &uploaded(1, digest), &QUOTA, scene.now())
        .await
        .unwrap();
}

fn to_a() -> AttachRequest {
    serde_json::from_str(r#"{"itemId": "a"}"#).unwrap()
}

async fn attach(
    scene: &Scene,
    request: &AttachRequest,
) -> Result<vfs_sync_core::wire::AttachResponse, AttachRefusal> {
    let (staging, ref_id) = (StagingId::new("s").unwrap(), RefId::new("r").unwrap());
    scene
        .store
        .attach(&user("alice"), &staging, request, ref_id, &QUOTA, scene.now())
        .await
        .unwrap()
}

pub(crate) async fn migrating_at_once_happens_once(scene: Scene) {
    let database = scene.database.clone().unwrap();
    let tasks: Vec<_> = (0..6)
        .map(|_| {
            let database = database.clone();
            tokio::spawn(async move { vfs_sync_store::migrate(&database, at(9)).await })
        })
        .collect();
    let version = vfs_sync_store::migrate(&database, at(9)).await.unwrap();
    for task in tasks {
        assert_eq!(task.await.unwrap().unwrap(), version);
    }
    scene.apply("laptop", vec![folder(1, "a")]).await;
}

pub(crate) async fn two_stores_on_one_database_share_it(scene: Scene) {
    let other = Scene::at(scene.database.clone().unwrap()).await;
    scene.apply("laptop", vec![folder(1, "a")]).await;
    assert_eq!(told(&other.settle().await), ["item_upsert a"]);
    other.pass(10);
    other.apply("phone", vec![file_in(1, "b", "a")]).await;
    let cursor = cursor_of(&scene.settle().await[0]);
    assert_eq!(
        told(&scene.settle_as("alice", Some(cursor), 1).await),
        ["item_upsert b", "link_add a/b"]
    );
}

#[tokio::test]
async fn what_is_no_database_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notes.txt");
    std::fs::write(&path, "not a database, but long enough to look at".repeat(300)).unwrap();
    let nowhere = directory.path().join("missing").join("metadata.sqlite");
    let foreign = directory.path().join("photos.sqlite");
    let photos = rusqlite::Connection::open(&foreign).unwrap();
    photos.execute_batch("CREATE TABLE photos (name TEXT); CREATE TABLE items (n)").unwrap();
    for path in [path, nowhere, foreign] {
        let path = path.to_str().unwrap();
        let Err(refused) = vfs_sync_store::open(path, at(0)).await else { panic!("{path}") };
        assert!(refused.to_string().contains(path), "{refused}");
    }
    let tables = photos.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0));
    assert_eq!(tables, Ok(2), "another program's database is left as it is");
    let Err(refused) = vfs_sync_store::open("postgres://u:secret@[", at(0)).await else { panic!() };
    assert!(!refused.to_string().contains("secret"), "{refused}");
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn connections_that_are_cut_are_made_anew() {
    let url = vfs_sync_store::testing::new_postgres_database().await.unwrap();
    let scene = Scene::at(url).await;
    scene.apply("laptop", vec![folder(1, "a")]).await;
    for write_id in 2..6 {
        scene
            .tamper(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                 WHERE datname = current_database() AND pid <> pg_backend_pid()",
            )
            .await;
        // The first call may still get a connection that nobody knows is dead.
        let retried =
            || scene.store.push(batch("alice", "laptop", vec![folder(write_id, "a")]), scene.now());
        let mut answer = retried().await;
        for _ in 0..16 {
            let Err(error) = &answer else { break };
            assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
            answer = retried().await;
        }
        assert_ne!(answer.unwrap().results[0].status, PushStatus::StaleWriteId);
    }
}

#[tokio::test]
async fn a_new_file_can_be_opened_by_several_at_once() {
    for _ in 0..5 {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metadata.sqlite");
        let opening: Vec<_> = (0..6)
            .map(|_| {
                let path = path.clone();
                tokio::task::spawn_blocking(move || SqliteStore::open(&path, at(0)).map(|_| ()))
            })
            .collect();
        for opened in opening {
            opened.await.unwrap().unwrap();
        }
    }
}

/// A database of the first version, in which alice granted bob an item with another under it, and
/// deleted one; bob staged the content of the first, alice that of the deleted one.
const FIRST_VERSION: [(&str, &str); 2] = [
    (
        include_str!("../../src/sqlite/migrations/0001.sql"),
        "PRAGMA application_id = 1449554771;
         INSERT INTO meta VALUES ('epoch', 1767225600000);
         INSERT INTO realms VALUES (1, 'alice');
         INSERT INTO replicas VALUES (1, 1, 'laptop', 4, 0, 0);
         INSERT INTO realms VALUES (2, 'bob');
         INSERT INTO items VALUES ('f', 1, 0, x'{fields}'), ('g', 1, 0, x'{fields}');
         INSERT INTO items VALUES ('d', 1, 0, x'{deleted}');
         INSERT INTO blobs VALUES ('one', 2, 'live', 5, zeroblob(32), NULL);
         INSERT INTO blobs VALUES ('two', 1, 'live', 7, zeroblob(32), NULL);
         INSERT INTO blob_stages VALUES ('one', 2, 'one', 'blob-stage:attached', 0, 0, 0);
         INSERT INTO blob_stages VALUES ('two', 1, 'two', 'blob-stage:attached', 0, 0, 0);
         INSERT INTO blob_refs VALUES ('one', 'f', 'one', 'file', 1, 0);
         INSERT INTO blob_refs VALUES ('two', 'd', 'two', 'file', 1, 0);
         INSERT INTO links VALUES ('f', 'g', 1, 1, 0, 1, 3);
         INSERT INTO grants VALUES ('f', 1, 'bob', 2, 0, 1, 4);",
    ),
    (
        include_str!("../../src/postgres/migrations/0001.sql"),
        "INSERT INTO meta VALUES ('epoch', 1767225600000);
         INSERT INTO realms VALUES ('alice');
         INSERT INTO replicas VALUES ('alice', 'laptop', 4, 0, 0);
         INSERT INTO items VALUES ('f', 'alice', 0, '\\x{fields}'), ('g', 'alice', 0, '\\x{fields}');
         INSERT INTO items VALUES ('d', 'alice', 0, '\\x{deleted}');
         INSERT INTO blobs VALUES ('one', 'bob', 'live', 5, decode(repeat('00', 32), 'hex'), NULL);
         INSERT INTO blobs VALUES ('two', 'alice', 'live', 7, decode(repeat('00', 32), 'hex'), NULL);
         INSERT INTO blob_stages VALUES ('one', 'bob', 'one', 'blob-stage:attached', 0, 0, false);
         INSERT INTO blob_stages VALUES ('two', 'alice', 'two', 'blob-stage:attached', 0, 0, false);
         INSERT INTO blob_refs VALUES ('one', 'f', 'one', 'file', true, 0);
         INSERT INTO blob_refs VALUES ('two', 'd', 'two', 'file', true, 0);
         INSERT INTO links VALUES ('f', 'g', true, true, 0, 'alice', 'laptop', 3);
         INSERT INTO grants VALUES ('f', 1, 'bob', 2, 0, 'alice', 'laptop', 4);",
    ),
];

pub(crate) async fn a_database_of_the_first_version_is_migrated(scene: Scene) {
    use vfs_sync_core::register::{ItemFields, Register};
    let author = std::sync::Arc::new(vfs_sync_core::stamp::Author {
        user: user("alice"),
        replica: replica("laptop"),
        write_id: write_id(1),
    });
    let stamp = vfs_sync_core::stamp::Stamp { authored_at: at(0), author };
    let folder = vfs_sync_core::item::ObjectType::Folder;
    let fields = ItemFields {
        object_type: Some(Register { value: folder, stamp: stamp.clone() }),
        ..ItemFields::default()
    };
    let deleted = ItemFields { deleted: Some(Register { value: true, stamp }), ..fields.clone() };
    let hex = |fields: &ItemFields| -> String {
        fields.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
    };
    let mut database = scene.database.clone().unwrap();
    let postgres = database.starts_with("postgres");
    let (schema, rows) = FIRST_VERSION[usize::from(postgres)];
    if postgres {
        scene.tamper("DROP SCHEMA public CASCADE; CREATE SCHEMA public").await;
    } else {
        database.push_str("-first");
    }
    tamper(&database, schema).await;
    let versions = "CREATE TABLE schema_version (version BIGINT PRIMARY KEY, applied_at BIGINT)";
    tamper(&database, versions).await;
    tamper(&database, "INSERT INTO schema_version VALUES (1, 0)").await;
    let rows = rows.replace("{fields}", &hex(&fields)).replace("{deleted}", &hex(&deleted));
    tamper(&database, &rows).await;

    let scene = Scene::at(database).await;
    let seen = scene.settle_as("bob", None, 500).await;
    let expected = ["item_upsert f", "item_upsert g", "link_add f/g", "acl_add f", "blob_attach f"];
    assert_eq!(told(&seen), expected);
    assert_eq!(seen[0]["accessLevel"], "write");
    // What was deleted before counts from the migration on, and bytes against the items' owners.
    let trash = scene.store.trash(&user("alice"), None, 10, 1_000).await.unwrap();
    let found: Vec<_> = trash.items.iter().map(|one| (one.item_id.as_str(), one.size)).collect();
    assert_eq!(found, [("d", Some(7))]);
    assert_eq!(trash.items[0].deleted_at, at(0));
    let stored = async |who| scene.store.blob_usage(&user(who)).await.unwrap().stored;
    assert_eq!((stored("alice").await, stored("bob").await), (12, 0));
}
