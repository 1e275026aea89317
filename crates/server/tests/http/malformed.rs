//! Stored rows that are not what this version writes.

use serde_json::{Value, json};

use crate::blobs::{stage, upload};
use crate::scene::{Answer, Caller, Scene};

/// A staged blob, and the attach that is to be refused.
async fn scene() -> (Scene, Value) {
    let scene = Scene::new().await;
    let alice = scene.user("alice");
    let item = alice.file(1).await;
    stage(&alice, "s", "b").await.ok();
    upload(&alice, "s", b"bytes").await.ok();
    let head = alice.pull_all().await["baseline"].clone();
    let write_ids = json!({"laptop": 1});
    let state = json!({"clientId": "laptop", "cursor": head, "lastReconciledWriteIds": write_ids});
    alice.post("/v1/vfs/crdt/reconcile", state).await.ok();
    let attach = json!({
        "itemId": item, "clientId": "laptop", "requiredCursor": head,
        "requiredLastReconciledWriteIds": write_ids,
    });
    (scene, attach)
}

/// Changes rows behind the server's back.
async fn tamper(scene: &mut Scene, sql: &str) {
    scene.server.stop().await;
    let database = rusqlite::Connection::open(scene.server.database_file()).unwrap();
    assert!(database.execute(sql, []).unwrap() > 0, "{sql}");
    drop(database);
    scene.server.start_again().await;
}

async fn attach(caller: &Caller, body: &Value) -> Answer {
    caller.post("/v1/vfs/blobs/stage/s/attach", body.clone()).await
}

#[tokio::test]
async fn an_attach_behind_a_malformed_row_fails_the_same_way_every_time() {
    for (sql, named) in [
        ("UPDATE reconcile_state SET write_ids = '[1]'", "reconcile_state"),
        ("UPDATE reconcile_state SET write_ids = '{\"laptop\": 0}'", "reconcile_state"),
        ("UPDATE reconcile_state SET change_id = ''", "reconcile_state"),
        ("UPDATE blob_stages SET status = 'blob-stage:mislaid'", "blob_stages"),
    ] {
        let (mut scene, body) = scene().await;
        tamper(&mut scene, sql).await;
        let alice = scene.user("alice");
        let mut answers = Vec::new();
        for _ in 0..2 {
            let mut answer = attach(&alice, &body).await.refused(500, "attach_failed");
            assert_eq!(answer["error"], "Failed to attach staged blob");
            assert!(answer["malformed"].as_str().unwrap().contains(named), "{answer}");
            answer["requestId"] = Value::Null;
            answers.push(answer);
        }
        assert_eq!(answers[0], answers[1]);
        let page = alice.pull_all().await;
        assert_eq!(page["items"].as_array().unwrap().len(), 1, "nothing was attached");
    }
}

#[tokio::test]
async fn a_malformed_row_names_its_table() {
    let (mut scene, _) = scene().await;
    tamper(&mut scene, "UPDATE reconcile_state SET write_ids = 'x'").await;
    let alice = scene.user("alice");
    let answer = alice.get("/v1/vfs/crdt/state?clientId=laptop").await;
    let answer = answer.refused(500, "malformed_row");
    assert_eq!(answer["table"], "reconcile_state");
    assert_eq!(answer["key"], "crdt:laptop");
    assert_eq!(answer["retryable"], false);
}

#[tokio::test]
async fn a_malformed_reconcile_state_names_the_repair_which_mends_it() {
    let (mut scene, body) = scene().await;
    let state = json!({
        "clientId": "laptop", "cursor": body["requiredCursor"],
        "lastReconciledWriteIds": body["requiredLastReconciledWriteIds"],
    });
    tamper(&mut scene, "UPDATE reconcile_state SET write_ids = '{\"laptop\": 0}'").await;
    let alice = scene.user("alice");
    let repair = "vfs-sync admin repair reconcile-state";
    let answer = attach(&alice, &body).await.refused(500, "attach_failed");
    assert_eq!(answer["repair"], repair);
    let answer = alice.post("/v1/vfs/crdt/reconcile", state.clone()).await;
    assert_eq!(answer.refused(500, "malformed_row")["repair"], repair);

    let store = scene.server.store();
    let found = store.repair_reconcile_states(None, true).await.unwrap();
    assert_eq!((found.len(), &*found[0].user, &*found[0].key), (1, "alice", "crdt:laptop"));
    let bob = vfs_sync_core::id::UserId::new("bob").unwrap();
    assert_eq!(store.repair_reconcile_states(Some(bob), false).await.unwrap(), []);
    attach(&alice, &body).await.refused(500, "attach_failed");
    assert_eq!(store.repair_reconcile_states(None, false).await.unwrap(), found);
    assert_eq!(store.repair_reconcile_states(None, false).await.unwrap(), []);

    // Its client is told that it is behind, stores its state again, and goes on.
    attach(&alice, &body).await.refused(409, "reconcile_state_behind");
    alice.post("/v1/vfs/crdt/reconcile", state).await.ok();
    attach(&alice, &body).await.ok();
}
