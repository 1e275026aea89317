//! Who may do what with a blob: who staged it, who reads its item, and everybody else.

use serde_json::{Value, json};

use crate::blobs::{abandon, attach, bring, stage, upload};
use crate::scene::{Answer, Caller, Scene, create, on_every_store, send};

on_every_store! {
    who_reads_an_item_reads_its_contents_and_no_others
    who_may_only_read_an_item_attaches_nothing
    who_may_write_an_item_attaches_to_it
    an_item_that_is_gone_takes_no_content_and_leaves_the_stage
    a_blob_of_somebody_else_can_be_neither_named_nor_replaced
    without_a_token_there_is_nothing
}

/// Alice's replica pushes one operation more.
async fn push(alice: &Caller, write_id: u64, kind: &str, item: &str, fields: Value) {
    let mut operation = create(item, write_id);
    for field in ["objectType", "name"] {
        operation.as_object_mut().unwrap().remove(field);
    }
    operation["opId"] = json!(format!("op-{write_id}"));
    operation["opType"] = json!(kind);
    operation["occurredAt"] = json!(format!("2026-01-01T00:00:{write_id:02}Z"));
    operation.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let answer = alice.push("laptop", vec![operation]).await.ok();
    assert_eq!(answer["results"][0]["status"], "applied", "{answer}");
}

async fn grant(alice: &Caller, write_id: u64, item: &str, level: &str) {
    let to = json!({"principalType": "user", "principalId": "bob", "accessLevel": level});
    push(alice, write_id, "acl_add", item, to).await;
}

async fn revoke(alice: &Caller, write_id: u64, item: &str) {
    let of = json!({"principalType": "user", "principalId": "bob"});
    push(alice, write_id, "acl_remove", item, of).await;
}

async fn read(caller: &Caller, blob: &str) -> Answer {
    caller.get(&format!("/v1/vfs/blobs/{blob}")).await
}

/// Every way in which `caller` may ask for the bytes, or about them, finds nothing.
async fn assert_hidden(caller: &Caller, blob: &str) {
    let path = format!("/v1/vfs/blobs/{blob}");
    caller.get(&path).await.refused(404, "unknown_blob");
    let head = send(caller.request("HEAD", &path)).await;
    assert_eq!((head.status, head.header("etag"), head.header("repr-digest")), (404, "", ""));
    let part = send(caller.request("GET", &path).header("range", "bytes=0-0")).await;
    part.refused(404, "unknown_blob");
    let matching = send(caller.request("GET", &path).header("if-none-match", "*")).await;
    matching.refused(404, "unknown_blob");
    caller.delete(&path).await.refused(404, "unknown_blob");
    let many = caller.post("/v1/vfs/blobs/batch/read", json!({"blobIds": [blob]})).await;
    let head: Value = serde_json::from_slice(&many.bytes).unwrap();
    assert_eq!((&head["error"]["code"], &head["size"]), (&json!("unknown_blob"), &Value::Null));
}

async fn who_reads_an_item_reads_its_contents_and_no_others(scene: Scene) {
    let (alice, bob) = (scene.user("alice"), scene.user("bob"));
    let (item, other) = (alice.file(1).await, alice.file(2).await);
    bring(&alice, &item, "old", b"old").await;
    bring(&alice, &item, "new", b"new").await;
    bring(&alice, &other, "other", b"other").await;
    stage(&alice, "s", "staged").await.ok();
    upload(&alice, "s", b"staged").await.ok();
    for blob in ["old", "new", "other", "staged"] {
        assert_hidden(&bob, blob).await;
    }

    grant(&alice, 3, &item, "read").await;
    for blob in ["old", "new"] {
        assert_eq!(read(&bob, blob).await.bytes, blob.as_bytes());
        bob.delete(&format!("/v1/vfs/blobs/{blob}")).await.refused(404, "unknown_blob");
    }
    for blob in ["other", "staged"] {
        assert_hidden(&bob, blob).await;
    }
    let versions = bob.get(&format!("/v1/vfs/items/{item}/versions")).await.ok();
    let ids: Vec<_> =
        versions["versions"].as_array().unwrap().iter().map(|v| &v["blobId"]).collect();
    assert_eq!(ids, ["new", "old"]);

    revoke(&alice, 4, &item).await;
    for blob in ["old", "new"] {
        assert_hidden(&bob, blob).await;
    }
    bob.get(&format!("/v1/vfs/items/{item}/versions")).await.refused(404, "unknown_item");

    grant(&alice, 5, &item, "read").await;
    assert_eq!(read(&bob, "new").await.bytes, b"new");
    push(&alice, 6, "item_delete", &item, json!({})).await;
    assert_hidden(&bob, "new").await;
    assert_eq!(read(&alice, "new").await.bytes, b"new", "who staged it has it still");
}

async fn who_may_only_read_an_item_attaches_nothing(scene: Scene) {
    let (alice, bob) = (scene.user("alice"), scene.user("bob"));
    let item = alice.file(1).await;
    bring(&alice, &item, "b", b"bytes").await;
    grant(&alice, 2, &item, "read").await;
    stage(&bob, "s", "c").await.ok();
    upload(&bob, "s", b"of bob").await.ok();
    attach(&bob, "s", json!({"itemId": item})).await.refused(403, "not_permitted");
    let expecting = json!({"itemId": item, "expectedBlobId": "b"});
    attach(&bob, "s", expecting).await.refused(403, "not_permitted");
    let state = bob.get("/v1/vfs/blobs/stage/s").await.ok();
    assert_eq!(state["status"], "blob-stage:staged");
    let versions = alice.get(&format!("/v1/vfs/items/{item}/versions")).await.ok();
    assert_eq!(versions["versions"].as_array().unwrap().len(), 1);
    assert_hidden(&alice, "c").await;
}

async fn who_may_write_an_item_attaches_to_it(scene: Scene) {
    let (alice, bob) = (scene.user("alice"), scene.user("bob"));
    let item = alice.file(1).await;
    grant(&alice, 2, &item, "write").await;
    stage(&bob, "s", "c").await.ok();
    upload(&bob, "s", b"of bob").await.ok();
    attach(&bob, "s", json!({"itemId": item})).await.ok();
    assert_eq!(read(&alice, "c").await.bytes, b"of bob");
    // It is the item's now, and nobody's to delete; the stage stays bob's.
    alice.delete("/v1/vfs/blobs/c").await.refused(404, "unknown_blob");
    bob.delete("/v1/vfs/blobs/c").await.refused(409, "blob_attached");
    alice.get("/v1/vfs/blobs/stage/s").await.refused(404, "unknown_stage");
    revoke(&alice, 3, &item).await;
    assert_eq!(read(&alice, "c").await.bytes, b"of bob");
    stage(&bob, "t", "d").await.ok();
    upload(&bob, "t", b"more").await.ok();
    attach(&bob, "t", json!({"itemId": item})).await.refused(404, "unknown_item");
    // What is deleted is visible to nobody, and so is what it held.
    push(&alice, 4, "item_delete", &item, json!({})).await;
    assert_hidden(&alice, "c").await;
    assert_eq!(read(&bob, "c").await.bytes, b"of bob", "he staged it");
}

async fn an_item_that_is_gone_takes_no_content_and_leaves_the_stage(scene: Scene) {
    let alice = scene.user("alice");
    let (gone, item) = (alice.file(1).await, alice.file(2).await);
    push(&alice, 3, "item_delete", &gone, json!({})).await;
    stage(&alice, "s", "b").await.ok();
    upload(&alice, "s", b"bytes").await.ok();
    for nowhere in [&*gone, "never"] {
        attach(&alice, "s", json!({"itemId": nowhere})).await.refused(404, "unknown_item");
    }
    let state = alice.get("/v1/vfs/blobs/stage/s").await.ok();
    assert_eq!((&state["status"], &state["size"]), (&json!("blob-stage:staged"), &json!(5)));
    attach(&alice, "s", json!({"itemId": item})).await.ok();
    assert_eq!(read(&alice, "b").await.bytes, b"bytes");
}

/// An id that is taken is refused whoever asks, and that is all that anybody hears.
async fn a_blob_of_somebody_else_can_be_neither_named_nor_replaced(scene: Scene) {
    let (alice, bob) = (scene.user("alice"), scene.user("bob"));
    let item = alice.file(1).await;
    bring(&alice, &item, "attached", b"attached").await;
    stage(&alice, "s-staged", "staged").await.ok();
    upload(&alice, "s-staged", b"staged").await.ok();
    stage(&alice, "s-gone", "gone").await.ok();
    abandon(&alice, "s-gone").await.ok();
    let before = scene.objects().await;
    let told = |answer: Answer| {
        let mut body = answer.refused(409, "id_taken");
        body["requestId"] = Value::Null;
        body
    };
    let mut answers = Vec::new();
    for (at, blob) in ["attached", "staged", "gone"].into_iter().enumerate() {
        let new = format!("t{at}");
        let body = json!({"stagingId": new, "blobId": blob, "dataBase64": "aGVsbG8="});
        answers.push(told(bob.post("/v1/vfs/blobs/stage", body).await));
        let same = json!({"stagingId": format!("s-{blob}"), "blobId": format!("x{at}")});
        answers.push(told(bob.post("/v1/vfs/blobs/stage", same).await));
        let file = json!({"blobId": blob, "dataBase64": "aGVsbG8=", "attach": {"itemId": item}});
        let batch = bob.post("/v1/vfs/blobs/batch", json!({"files": [file]})).await.ok();
        assert_eq!(batch["results"][0]["error"]["code"], "id_taken");
        bob.get(&format!("/v1/vfs/blobs/stage/{new}")).await.refused(404, "unknown_stage");
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    assert_eq!(scene.objects().await, before);
    assert_eq!(read(&alice, "attached").await.bytes, b"attached");
    assert_eq!(read(&alice, "staged").await.bytes, b"staged");
}

async fn without_a_token_there_is_nothing(scene: Scene) {
    let (alice, nobody) = (scene.user("alice"), scene.nobody());
    let item = alice.file(1).await;
    bring(&alice, &item, "b", b"bytes").await;
    stage(&alice, "s", "c").await.ok();
    for (method, path) in [
        ("POST", "stage"),
        ("PUT", "stage/s/data"),
        ("GET", "stage/s"),
        ("POST", "stage/s/attach"),
        ("POST", "stage/s/abandon"),
        ("POST", "batch"),
        ("POST", "batch/read"),
        ("GET", "b"),
        ("DELETE", "b"),
        ("GET", "stage"),
        ("POST", "uploads"),
        ("PATCH", "uploads/s"),
        ("DELETE", "uploads/s"),
    ] {
        let request = nobody.request(method, &format!("/v1/vfs/blobs/{path}"));
        let request =
            request.header("tus-resumable", "1.0.0").header("content-type", "application/json");
        send(request.body("{}")).await.refused(401, "unauthorized");
    }
    for path in ["b", "uploads/s"] {
        let request = nobody.request("HEAD", &format!("/v1/vfs/blobs/{path}"));
        assert_eq!(send(request.header("tus-resumable", "1.0.0")).await.status, 401);
    }
    nobody.get(&format!("/v1/vfs/items/{item}/versions")).await.refused(401, "unauthorized");
    let state = alice.get("/v1/vfs/blobs/stage/s").await.ok();
    assert_eq!(state["status"], "blob-stage:staged");
}
