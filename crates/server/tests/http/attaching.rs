//! Which attach goes through, and what the others are told.

use serde_json::{Value, json};

use crate::blobs::{abandon, attach, bring, stage, upload};
use crate::scene::{Scene, create, on_every_store, send};

on_every_store! {
    an_attach_waits_for_its_checkpoint
    an_attach_is_behind_in_each_way_that_there_is
    an_attach_that_can_no_longer_be_is_refused_by_its_code
    an_item_takes_contents_of_every_kind
    a_content_has_its_time_whichever_way_it_came
}

async fn an_attach_waits_for_its_checkpoint(scene: Scene) {
    let alice = scene.user("alice");
    let item = alice.file(1).await;
    stage(&alice, "s", "b").await.ok();
    attach(&alice, "s", json!({"itemId": item})).await.refused(409, "stage_empty");
    upload(&alice, "s", b"bytes").await.ok();
    let head = alice.pull_all().await["baseline"].clone();
    let whole = json!({
        "itemId": item, "clientId": "laptop", "requiredCursor": head,
        "requiredLastReconciledWriteIds": {"laptop": 1},
    });
    for missing in ["clientId", "requiredCursor", "requiredLastReconciledWriteIds"] {
        let mut part = whole.clone();
        part.as_object_mut().unwrap().remove(missing);
        attach(&alice, "s", part).await.refused(400, "invalid_request");
    }
    let refused = attach(&alice, "s", whole.clone()).await.refused(409, "reconcile_state_behind");
    assert_eq!(refused["error"], "Client reconcile state is behind required visibility");
    assert_eq!(refused["cursorBehind"], true);
    assert_eq!(refused["writeIdsBehind"][0]["replicaId"], "laptop");
    let state =
        json!({"clientId": "laptop", "cursor": head, "lastReconciledWriteIds": {"laptop": 1}});
    alice.post("/v1/vfs/crdt/reconcile", state).await.ok();
    attach(&alice, "s", whole).await.ok();
}

async fn an_attach_is_behind_in_each_way_that_there_is(scene: Scene) {
    let (alice, bob) = (scene.user("alice"), scene.user("bob"));
    let item = alice.file(1).await;
    let early = alice.pull_all().await["baseline"].clone();
    alice.file(2).await;
    let late = alice.pull_all().await["baseline"].clone();
    stage(&alice, "s", "b").await.ok();
    upload(&alice, "s", b"bytes").await.ok();
    let behind = async |client: &str, cursor: &Value, write_ids: Value| {
        let body = json!({
            "itemId": item, "clientId": client, "requiredCursor": cursor,
            "requiredLastReconciledWriteIds": write_ids,
        });
        let body = attach(&alice, "s", body).await.refused(409, "reconcile_state_behind");
        assert_eq!(body["clientId"], json!(client));
        ["cursorBehind", "reconciledCursor", "writeIdsBehind"].map(|field| body[field].clone())
    };
    let missing = |replica: &str, required: u64, has: Value| json!([{"replicaId": replica, "requiredWriteId": required, "reconciledWriteId": has}]);
    // Nothing is stored, neither of this client nor of another user's of the same name.
    let state = |cursor: &Value, write_ids: Value| json!({"clientId": "laptop", "cursor": cursor, "lastReconciledWriteIds": write_ids});
    bob.push("laptop", vec![create("bobs", 1)]).await.ok();
    let of_bob = bob.pull_all().await["baseline"].clone();
    bob.post("/v1/vfs/crdt/reconcile", state(&of_bob, json!({"laptop": 1}))).await.ok();
    let nothing = [json!(true), Value::Null, json!([])];
    assert_eq!(behind("laptop", &early, json!({})).await, nothing);

    alice.post("/v1/vfs/crdt/reconcile", state(&early, json!({"laptop": 1}))).await.ok();
    assert_eq!(behind("phone", &early, json!({})).await, nothing);
    let told = behind("laptop", &late, json!({"laptop": 1})).await;
    assert_eq!(told, [json!(true), early.clone(), json!([])]);
    let told = behind("laptop", &early, json!({"laptop": 2})).await;
    assert_eq!(told, [json!(false), early.clone(), missing("laptop", 2, json!(1))]);
    let told = behind("laptop", &early, json!({"laptop": 1, "phone": 1})).await;
    assert_eq!(told, [json!(false), early.clone(), missing("phone", 1, Value::Null)]);
    let state_now = alice.get("/v1/vfs/blobs/stage/s").await.ok();
    assert_eq!(state_now["status"], "blob-stage:staged");

    // The same request goes through once the state has advanced; what lies beyond is no matter.
    let required = json!({
        "itemId": item, "clientId": "laptop", "requiredCursor": late,
        "requiredLastReconciledWriteIds": {"laptop": 2},
    });
    attach(&alice, "s", required.clone()).await.refused(409, "reconcile_state_behind");
    alice.post("/v1/vfs/crdt/reconcile", state(&late, json!({"laptop": 2}))).await.ok();
    let attached = attach(&alice, "s", required.clone()).await.ok();
    assert_eq!(attach(&alice, "s", required).await.ok(), attached);
    stage(&alice, "t", "c").await.ok();
    upload(&alice, "t", b"more").await.ok();
    let earlier = json!({
        "itemId": item, "clientId": "laptop", "requiredCursor": early,
        "requiredLastReconciledWriteIds": {"laptop": 1},
    });
    attach(&alice, "t", earlier).await.ok();
}

async fn an_attach_that_can_no_longer_be_is_refused_by_its_code(scene: Scene) {
    let alice = scene.user("alice");
    let (item, other) = (alice.file(1).await, alice.file(2).await);
    bring(&alice, &item, "b", b"one").await;
    let to = |item: &str| json!({"itemId": item});
    attach(&alice, "s-b", to(&other)).await.refused(409, "stage_not_attachable");
    let kind = json!({"itemId": item, "relationKind": "photo"});
    let refused = attach(&alice, "s-b", kind).await.refused(409, "attached_as_other_kind");
    assert_eq!(refused["relationKind"], "file");

    stage(&alice, "s2", "c").await.ok();
    upload(&alice, "s2", b"two").await.ok();
    let expecting = |blob: Value| json!({"itemId": item, "expectedBlobId": blob});
    let refused =
        attach(&alice, "s2", expecting(Value::Null)).await.refused(409, "content_changed");
    assert_eq!(refused["currentBlobId"], "b");
    attach(&alice, "s2", expecting(json!("b"))).await.ok();

    attach(&alice, "s2", json!({"itemId": item, "relationKind": "wallpaper"}))
        .await
        .refused_field("relationKind");
    stage(&alice, "s3", "d").await.ok();
    upload(&alice, "s3", b"three").await.ok();
    abandon(&alice, "s3").await.ok();
    let refused = attach(&alice, "s3", to(&item)).await.refused(409, "stage_not_attachable");
    assert_eq!(refused["status"], "blob-stage:abandoned");
}

async fn an_item_takes_contents_of_every_kind(scene: Scene) {
    let alice = scene.user("alice");
    let item = alice.file(1).await;
    bring(&alice, &item, "content", b"content").await;
    for kind in ["photo", "emailAttachment", "other"] {
        stage(&alice, kind, kind).await.ok();
        upload(&alice, kind, kind.as_bytes()).await.ok();
        // What is expected as the content is no matter to what does not become it.
        let body = json!({"itemId": item, "relationKind": kind, "expectedBlobId": "another"});
        let attached = attach(&alice, kind, body).await.ok();
        assert_eq!(attached["relationKind"], kind);
        let other = if kind == "photo" { "other" } else { "photo" };
        let body = json!({"itemId": item, "relationKind": other});
        let refused = attach(&alice, kind, body).await.refused(409, "attached_as_other_kind");
        assert_eq!(refused["relationKind"], kind);
    }
    let page = alice.pull_all().await;
    let told: Vec<(&str, &str)> = page["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry["opType"] == "blob_attach")
        .map(|entry| (entry["relationKind"].as_str().unwrap(), entry["blobId"].as_str().unwrap()))
        .collect();
    assert_eq!(
        told,
        [
            ("file", "content"),
            ("photo", "photo"),
            ("emailAttachment", "emailAttachment"),
            ("other", "other")
        ]
    );
    let versions = alice.get(&format!("/v1/vfs/items/{item}/versions")).await.ok();
    assert_eq!(versions["versions"].as_array().unwrap().len(), 1, "contents, and nothing else");
    for blob in ["content", "photo", "emailAttachment", "other"] {
        assert_eq!(alice.get(&format!("/v1/vfs/blobs/{blob}")).await.bytes, blob.as_bytes());
        alice.delete(&format!("/v1/vfs/blobs/{blob}")).await.refused(409, "blob_attached");
    }
}

async fn a_content_has_its_time_whichever_way_it_came(scene: Scene) {
    let alice = scene.user("alice");
    let item = alice.file(1).await;
    let body = |time: Option<&str>, expected: Option<&str>| {
        json!({
            "itemId": item, "modifiedAt": time, "expectedBlobId": expected, "basis": null,
            "replicaId": "laptop", "occurredAt": "2026-01-01T00:00:00Z",
        })
    };
    // By itself, and again behind another basis.
    stage(&alice, "s", "b").await.ok();
    upload(&alice, "s", b"bytes").await.ok();
    let first = body(Some("1601-01-01T00:00:00+01:00"), None);
    let attached = attach(&alice, "s", first.clone()).await.ok();
    assert_eq!(attached["modifiedAt"], "1600-12-31T23:00:00.000Z");
    let mut again = first.clone();
    again.as_object_mut().unwrap().remove("basis");
    assert_eq!(attach(&alice, "s", again).await.ok(), attached);
    let other = attach(&alice, "s", body(None, None)).await.refused(409, "attach_differs");
    assert_eq!(other["field"], "modifiedAt");
    let other = body(Some("1600-12-31T23:00:00Z"), Some("b"));
    let other = attach(&alice, "s", other).await.refused(409, "attach_differs");
    assert_eq!(other["field"], "expectedBlobId");
    // In a batch.
    let file = json!({
        "blobId": "c", "dataBase64": "eA==",
        "attach": body(Some("9999-12-31T23:59:59.999Z"), Some("b")),
    });
    let answer = alice.post("/v1/vfs/blobs/batch", json!({"files": [file]})).await.ok();
    assert_eq!(answer["results"][0]["modifiedAt"], "9999-12-31T23:59:59.999Z", "{answer}");
    // By an upload in parts.
    let call = alice.request("POST", "/v1/vfs/blobs/uploads").header("tus-resumable", "1.0.0");
    let metadata = "stagingId dQ==,blobId ZA==";
    let call = call.header("upload-length", "5").header("upload-metadata", metadata);
    let call = call.header("content-type", "application/offset+octet-stream").body("bytes");
    assert_eq!(send(call).await.status, 201);
    attach(&alice, "u", body(Some("2026-01-01T00:00:00.5Z"), Some("c"))).await.ok();

    let entries = alice.pull_all().await;
    let entries = entries["items"].as_array().unwrap();
    let told = entries.iter().find(|entry| entry["opType"] == "blob_attach").unwrap();
    assert_eq!((&told["blobId"], &told["actorId"]), (&json!("d"), &json!("alice")));
    assert_eq!(told["authorReplicaId"], "laptop");
    let versions = alice.get(&format!("/v1/vfs/items/{item}/versions")).await.ok();
    let times: Vec<&Value> =
        versions["versions"].as_array().unwrap().iter().map(|one| &one["modifiedAt"]).collect();
    let expected =
        ["2026-01-01T00:00:00.500Z", "9999-12-31T23:59:59.999Z", "1600-12-31T23:00:00.000Z"];
    assert_eq!(times, expected);
    for (field, value) in [("modifiedAt", json!("then")), ("basis", json!(7))] {
        let mut wrong = first.clone();
        wrong[field] = value;
        let refused = attach(&alice, "s", wrong).await;
        assert_eq!(refused.status, 400, "{field}");
        assert_eq!(refused.json()["field"], field);
    }
}
