//! Many small files in one request.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::blobs::{attach, bring, hex};
use crate::scene::{Scene, create, on_every_store};

on_every_store! {
    a_batch_attaches_each_file_or_says_why_not
    a_batch_that_is_repeated_is_answered_like_the_first
    a_batch_is_bounded
    a_batch_refuses_each_attach_as_the_call_for_one_would
}

async fn a_batch_attaches_each_file_or_says_why_not(scene: Scene) {
    let alice = scene.user("alice");
    let mut files = Vec::new();
    for at in 1..=40 {
        let item = alice.file(at).await;
        files.push(json!({
            "blobId": format!("b{at}"), "dataBase64": STANDARD.encode(format!("content {at}")),
            "attach": {"itemId": item},
        }));
    }
    files[3]["attach"]["itemId"] = json!("nowhere");
    files[5]["dataBase64"] = json!("!");
    files[7]["blobId"] = json!("b1");
    files[9]["digest"] = json!(hex(b"other bytes"));
    files[11]["digest"] = json!(hex(b"content 12"));
    let answer = alice.post("/v1/vfs/blobs/batch", json!({"files": files})).await;
    let answer = answer.ok();
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results.len(), 40);
    for (at, result) in results.iter().enumerate() {
        let failed = match at {
            3 => Some((404, "unknown_item")),
            5 => Some((400, "invalid_request")),
            7 => Some((409, "id_taken")),
            9 => Some((400, "digest_mismatch")),
            _ => None,
        };
        if let Some((status, code)) = failed {
            assert_eq!(result["status"], "failed");
            assert_eq!(result["error"]["httpStatus"], status, "{result}");
            assert_eq!(result["error"]["code"], code, "{result}");
            assert!(result["error"]["requestId"].is_string());
            continue;
        }
        assert_eq!(result["status"], "attached", "{result}");
        let content = format!("content {}", at + 1);
        assert_eq!(result["digest"], hex(content.as_bytes()));
        assert!(result["stagingId"].is_string() && result["refId"].is_string());
        let read = alice.get(&format!("/v1/vfs/blobs/b{}", at + 1)).await;
        assert_eq!(read.bytes, content.as_bytes());
    }
    let error = &results[5]["error"];
    assert_eq!(error["field"], "files[5].dataBase64");
    assert!(!scene.objects().await.contains(&"b10".to_owned()));
    files[9]["digest"] = json!(hex(b"content 10"));
    let again = alice.post("/v1/vfs/blobs/batch", json!({"files": [files[9]]})).await.ok();
    // What was refused had a staging id that the server made.
    assert_eq!(again["results"][0]["error"]["code"], "id_taken");
}

async fn a_batch_that_is_repeated_is_answered_like_the_first(scene: Scene) {
    let alice = scene.user("alice");
    let item = alice.file(1).await;
    let file = json!({"stagingId": "s", "blobId": "b", "dataBase64": "aGVsbG8=", "attach": {"itemId": item}});
    let body = json!({"files": [file]});
    let first = alice.post("/v1/vfs/blobs/batch", body.clone()).await.ok();
    assert_eq!(alice.post("/v1/vfs/blobs/batch", body).await.ok(), first);
}

async fn a_batch_is_bounded(scene: Scene) {
    let alice = scene.user("alice");
    let file = json!({"blobId": "b", "dataBase64": "", "attach": {"itemId": "i"}});
    let many = json!({"files": vec![file; 257]});
    alice.post("/v1/vfs/blobs/batch", many).await.refused(413, "too_large");
    let large =
        json!({"blobId": "b", "dataBase64": "A".repeat(9_000_000), "attach": {"itemId": "i"}});
    alice.post("/v1/vfs/blobs/batch", json!({"files": [large]})).await.refused(413, "too_large");
    let mut odd = json!({"blobId": "b", "dataBase64": "", "attach": {}});
    odd["attach"]["clientId"] = json!("a:b");
    let refused = alice.post("/v1/vfs/blobs/batch", json!({"files": [odd]})).await;
    refused.refused_field("files[0].attach.clientId");
    assert_eq!(
        alice.post("/v1/vfs/blobs/batch", json!({"files": []})).await.ok()["results"],
        json!([])
    );
}

async fn a_batch_refuses_each_attach_as_the_call_for_one_would(scene: Scene) {
    let (alice, bob) = (scene.user("alice"), scene.user("bob"));
    let (item, other) = (alice.file(1).await, alice.file(2).await);
    bob.push("laptop", vec![create("bobs", 1)]).await.ok();
    bring(&alice, &item, "current", b"current").await;
    let head = alice.pull_all().await["baseline"].clone();
    let file = |name: &str, attach: Value| {
        let data = STANDARD.encode(name);
        json!({"stagingId": name, "blobId": name, "dataBase64": data, "attach": attach})
    };
    let expecting = |item: &str| json!({"itemId": item, "expectedBlobId": null});
    let files = [
        file("changed", expecting(&item)),
        file("first", expecting(&other)),
        file("second", expecting(&other)),
        file(
            "behind",
            json!({
                "itemId": item, "clientId": "laptop", "requiredCursor": head,
                "requiredLastReconciledWriteIds": {"laptop": 2},
            }),
        ),
        file("part", json!({"itemId": item, "clientId": "laptop"})),
        file("invisible", json!({"itemId": "bobs"})),
        file("kind", json!({"itemId": item, "relationKind": "photo"})),
    ];
    let answer = alice.post("/v1/vfs/blobs/batch", json!({"files": files})).await.ok();
    let result = |at: usize| &answer["results"][at];
    let error = |at: usize, status: u16, code: &str| {
        let error = &result(at)["error"];
        let told = (&error["httpStatus"], &error["code"]);
        assert_eq!(told, (&json!(status), &json!(code)), "{answer}");
        error
    };
    assert_eq!(error(0, 409, "content_changed")["currentBlobId"], "current");
    // Two in place of nothing, in one batch: one of them is first.
    let (won, lost) = if result(1)["status"] == "attached" { (1, 2) } else { (2, 1) };
    assert_eq!(result(won)["status"], "attached");
    assert_eq!(error(lost, 409, "content_changed")["currentBlobId"], result(won)["blobId"]);
    assert_eq!(error(3, 409, "reconcile_state_behind")["writeIdsBehind"][0]["requiredWriteId"], 2);
    error(4, 400, "invalid_request");
    error(5, 404, "unknown_item");
    assert_eq!(result(6)["relationKind"], "photo");
    // What was refused is staged with its bytes, and is attached by itself.
    for name in ["changed", "behind", "part", "invisible"] {
        let state = alice.get(&format!("/v1/vfs/blobs/stage/{name}")).await.ok();
        assert_eq!(state["status"], "blob-stage:staged");
        assert_eq!(alice.get(&format!("/v1/vfs/blobs/{name}")).await.bytes, name.as_bytes());
    }
    attach(&alice, "changed", json!({"itemId": item, "expectedBlobId": "current"})).await.ok();
    scene
        .nobody()
        .post("/v1/vfs/blobs/batch", json!({"files": []}))
        .await
        .refused(401, "unauthorized");
}
