//! What was deleted: who may list, restore and remove it, and what everybody else hears.

use std::time::Duration;

use serde_json::{Value, json};
use vfs_sync_server::ServerConfig;

use crate::blobs::{attach, stage, upload};
use crate::scene::{Answer, Caller, Scene, on_every_store, soon};

on_every_store! {
    with super::swept();
    what_is_deleted_comes_back_bytes_and_all
    a_purge_removes_the_bytes_and_frees_the_quota
    what_one_may_not_restore_answers_as_what_is_not_there
}

fn swept() -> ServerConfig {
    ServerConfig {
        sweep_interval: Duration::from_millis(50),
        max_stored_bytes: 1_000,
        ..ServerConfig::default()
    }
}

async fn trash(who: &Caller) -> Vec<Value> {
    let page = who.get("/v1/vfs/trash").await.ok();
    page["items"].as_array().unwrap().clone()
}

async fn restore(who: &Caller, id: &str) -> Answer {
    who.post(&format!("/v1/vfs/trash/{id}/restore"), json!({})).await
}

async fn purge(who: &Caller, id: &str) -> Answer {
    who.delete(&format!("/v1/vfs/trash/{id}")).await
}

async fn push(who: &Caller, replica: &str, write_id: u64, mut op: Value) {
    let fields = op.as_object_mut().unwrap();
    fields.insert("opId".into(), json!(format!("{replica}-{write_id}")));
    fields.insert("replicaId".into(), json!(replica));
    fields.insert("writeId".into(), json!(write_id));
    // Later writes beat earlier ones, whatever the machine's clock says.
    fields.insert("occurredAt".into(), json!(format!("2026-01-01T00:00:{write_id:02}Z")));
    let body = json!({ "clientId": replica, "operations": [op] });
    let answer = who.post("/v1/vfs/crdt/push", body).await.ok();
    assert_eq!(answer["results"][0]["status"], "applied", "{answer}");
}

async fn content(who: &Caller, name: &str, item: &str, bytes: &[u8]) {
    stage(who, name, name).await.ok();
    upload(who, name, bytes).await.ok();
    attach(who, name, json!({ "itemId": item })).await.ok();
}

fn file(id: &str) -> Value {
    json!({"opType": "item_upsert", "itemId": id, "objectType": "file", "name": id})
}

fn deletion(id: &str) -> Value {
    json!({"opType": "item_delete", "itemId": id})
}

async fn what_is_deleted_comes_back_bytes_and_all(scene: Scene) {
    let alice = scene.user("alice");
    push(&alice, "laptop", 1, file("thesis")).await;
    content(&alice, "b", "thesis", b"thesis").await;
    push(&alice, "laptop", 2, deletion("thesis")).await;
    let listed = trash(&alice).await;
    assert_eq!(listed.len(), 1, "{listed:?}");
    let one = &listed[0];
    assert_eq!(
        (&one["itemId"], &one["name"], &one["size"]),
        (&json!("thesis"), &json!("thesis"), &json!(6))
    );
    assert_eq!((&one["deletedBy"], &one["objectType"]), (&json!("alice"), &json!("file")));
    assert_eq!(restore(&alice, "thesis").await.ok()["restored"], 1);
    assert_eq!(restore(&alice, "thesis").await.ok()["restored"], 0);
    assert_eq!(alice.get("/v1/vfs/blobs/b").await.bytes, b"thesis");
    assert!(trash(&alice).await.is_empty());
    purge(&alice, "thesis").await.refused(409, "not_in_trash");
}

async fn a_purge_removes_the_bytes_and_frees_the_quota(scene: Scene) {
    let alice = scene.user("alice");
    push(&alice, "laptop", 1, file("a")).await;
    push(&alice, "laptop", 2, file("c")).await;
    content(&alice, "b", "a", &[7; 900]).await;
    push(&alice, "laptop", 3, deletion("a")).await;
    stage(&alice, "s", "s").await.ok();
    let refused = upload(&alice, "s", &[1; 200]).await.refused(413, "quota_exceeded");
    assert_eq!(refused["trashedBytes"], 900, "{refused}");
    assert_eq!(purge(&alice, "a").await.ok()["purged"], 1);
    assert_eq!(purge(&alice, "a").await.ok()["purged"], 0);
    restore(&alice, "a").await.refused(404, "unknown_item");
    soon(async || scene.objects().await.is_empty()).await;
    upload(&alice, "s", &[1; 200]).await.ok();
    attach(&alice, "s", json!({"itemId": "c"})).await.ok();
    stage(&alice, "t", "t").await.ok();
    upload(&alice, "t", b"x").await.ok();
    attach(&alice, "t", json!({"itemId": "a"})).await.refused(404, "unknown_item");
}

async fn what_one_may_not_restore_answers_as_what_is_not_there(scene: Scene) {
    let (alice, bob) = (scene.user("alice"), scene.user("bob"));
    push(&alice, "laptop", 1, file("secret")).await;
    push(&alice, "laptop", 2, file("live")).await;
    push(&alice, "laptop", 3, deletion("secret")).await;
    assert!(trash(&bob).await.is_empty());
    let body = |answer: Value| {
        let mut answer = answer;
        answer.as_object_mut().unwrap().remove("requestId");
        answer
    };
    let nothing = body(restore(&bob, "nothing").await.refused(404, "unknown_item"));
    for id in ["secret", "live", "%00", "a%2Fb"] {
        assert_eq!(body(restore(&bob, id).await.refused(404, "unknown_item")), nothing);
        assert_eq!(body(purge(&bob, id).await.refused(404, "unknown_item")), nothing);
    }
    for query in ["cursor=x", "limit=0", "limit=501", "cursor=AAAA"] {
        let answer = alice.get(&format!("/v1/vfs/trash?{query}")).await;
        assert_eq!(answer.status, 400, "{query}");
    }
    alice
        .post("/v1/vfs/trash/secret/restore?recursive=maybe", json!({}))
        .await
        .refused(400, "invalid_request");
    assert_eq!(restore(&alice, "secret").await.ok()["restored"], 1);
}
