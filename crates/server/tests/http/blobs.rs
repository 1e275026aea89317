//! From bytes to an item.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::scene::{Answer, Caller, Scene, on_every_store, send, soon};

pub(crate) fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn digest_field(bytes: &[u8]) -> String {
    format!("sha-256=:{}:", STANDARD.encode(Sha256::digest(bytes)))
}

pub(crate) async fn stage(caller: &Caller, staging: &str, blob: &str) -> Answer {
    caller.post("/v1/vfs/blobs/stage", json!({"stagingId": staging, "blobId": blob})).await
}

pub(crate) async fn upload(caller: &Caller, staging: &str, bytes: &[u8]) -> Answer {
    caller.put(&format!("/v1/vfs/blobs/stage/{staging}/data"), bytes.to_vec()).await
}

pub(crate) async fn attach(caller: &Caller, staging: &str, body: Value) -> Answer {
    caller.post(&format!("/v1/vfs/blobs/stage/{staging}/attach"), body).await
}

pub(crate) async fn abandon(caller: &Caller, staging: &str) -> Answer {
    send(caller.request("POST", &format!("/v1/vfs/blobs/stage/{staging}/abandon"))).await
}

/// Stages, uploads and attaches.
pub(crate) async fn bring(caller: &Caller, item: &str, name: &str, bytes: &[u8]) {
    stage(caller, &format!("s-{name}"), name).await.ok();
    upload(caller, &format!("s-{name}"), bytes).await.ok();
    attach(caller, &format!("s-{name}"), json!({"itemId": item})).await.ok();
}

on_every_store! {
    a_file_is_staged_uploaded_attached_and_read
    everything_can_be_said_twice
    small_content_rides_along
    a_malformed_stage_is_told_by_its_field
    an_id_that_is_taken_leaves_no_object_behind
    a_digest_mismatch_leaves_nothing
    an_upload_that_breaks_off_leaves_nothing
    what_is_another_users_answers_like_what_is_not_there
    an_attach_waits_for_its_checkpoint
    an_attach_that_can_no_longer_be_is_refused_by_its_code
    what_was_abandoned_is_reclaimed_and_served_no_more
    an_expired_stage_takes_nothing
    a_batch_attaches_each_file_or_says_why_not
    a_batch_that_is_repeated_is_answered_like_the_first
    a_batch_is_bounded
    an_id_that_looks_like_a_path_stays_inside
}

async fn a_file_is_staged_uploaded_attached_and_read(scene: Scene) {
    let alice = scene.user("alice");
    let item = alice.file(1).await;
    let opened = stage(&alice, "s", "b").await;
    assert_eq!(opened.status, 201);
    assert_eq!(opened.json()["status"], "blob-stage:staged");
    let bytes = vec![7; 3_000_000];
    let uploaded = upload(&alice, "s", &bytes).await.ok();
    assert_eq!(uploaded, json!({"size": 3_000_000, "digest": hex(&bytes)}));
    let state = alice.get("/v1/vfs/blobs/stage/s").await.ok();
    assert_eq!((&state["size"], &state["digest"]), (&uploaded["size"], &uploaded["digest"]));
    assert_eq!(alice.get("/v1/vfs/blobs/b").await.bytes, bytes, "the stager may read it already");

    let attached = attach(&alice, "s", json!({"itemId": item})).await.ok();
    assert_eq!(
        (&attached["attached"], &attached["blobId"], &attached["relationKind"]),
        (&json!(true), &json!("b"), &json!("file"))
    );
    let page = alice.pull_all().await;
    let entry = &page["items"][1];
    assert_eq!(entry["opType"], "blob_attach");
    assert_eq!((&entry["blobId"], &entry["digest"]), (&json!("b"), &json!(hex(&bytes))));
    assert_eq!(alice.get("/v1/vfs/blobs/b").await.bytes, bytes);
}

async fn everything_can_be_said_twice(scene: Scene) {
    let alice = scene.user("alice");
    let item = alice.file(1).await;
    let first = stage(&alice, "s", "b").await;
    assert_eq!(stage(&alice, "s", "b").await.json(), first.json());
    let first = upload(&alice, "s", b"bytes").await.ok();
    assert_eq!(upload(&alice, "s", b"bytes").await.ok(), first);
    let body = json!({"itemId": item});
    let first_attach = attach(&alice, "s", body.clone()).await.ok();
    assert_eq!(attach(&alice, "s", body).await.ok(), first_attach);
    assert_eq!(upload(&alice, "s", b"bytes").await.ok(), first);
    upload(&alice, "s", b"other").await.refused(409, "upload_differs");
    abandon(&alice, "s").await.refused(409, "stage_not_attachable");

    stage(&alice, "t", "c").await.ok();
    let first = abandon(&alice, "t").await.ok();
    assert_eq!(first["status"], "blob-stage:abandoned");
    assert_eq!(abandon(&alice, "t").await.ok(), first);
}

async fn small_content_rides_along(scene: Scene) {
    let alice = scene.user("alice");
    let item = alice.file(1).await;
    let body = json!({"blobId": "b", "contentType": "text/plain", "dataBase64": "aGVsbG8="});
    let opened = alice.post("/v1/vfs/blobs/stage", body).await.ok();
    assert_eq!((&opened["size"], &opened["digest"]), (&json!(5), &json!(hex(b"hello"))));
    let staging = opened["stagingId"].as_str().unwrap();
    attach(&alice, staging, json!({"itemId": item})).await.ok();
    let read = alice.get("/v1/vfs/blobs/b").await;
    assert_eq!((&*read.bytes, read.header("content-type")), (&b"hello"[..], "text/plain"));
}

async fn a_malformed_stage_is_told_by_its_field(scene: Scene) {
    let alice = scene.user("alice");
    let with = |field: &str, value: Value| {
        let mut body = json!({"stagingId": "s", "blobId": "b"});
        body[field] = value;
        let alice = alice.clone();
        async move { alice.post("/v1/vfs/blobs/stage", body).await }
    };
    let at = |millis: i64| {
        let now = scene.server.clock().now();
        json!(now.plus_millis(millis).to_string())
    };
    const DAY: i64 = 24 * 3_600_000;
    with("blobId", json!(" b")).await.refused_field("blobId");
    with("stagingId", json!("")).await.refused_field("stagingId");
    with("expiresAt", json!("tomorrow")).await.refused_field("expiresAt");
    with("expiresAt", at(-1)).await.refused_field("expiresAt");
    with("expiresAt", at(8 * DAY)).await.refused_field("expiresAt");
    with("dataBase64", json!("not base64!")).await.refused_field("dataBase64");
    with("dataBase64", json!("A".repeat(1_500_000))).await.refused(413, "too_large");
    with("contentType", json!("text/html\r\nX: y")).await.refused_field("contentType");
    with("contentType", json!("x".repeat(256))).await.refused_field("contentType");
    alice.get("/v1/vfs/blobs/stage/s").await.refused(404, "unknown_stage");
    with("expiresAt", at(6 * DAY)).await.ok();
    assert_eq!(scene.objects().await, [""; 0]);
}

async fn an_id_that_is_taken_leaves_no_object_behind(scene: Scene) {
    let (alice, bob) = (scene.user("alice"), scene.user("bob"));
    stage(&alice, "s", "b").await.ok();
    let inline = |staging: &str, blob: &str| json!({"stagingId": staging, "blobId": blob, "dataBase64": "aGVsbG8="});
    for (caller, staging, blob) in
        [(&alice, "s", "c"), (&alice, "t", "b"), (&bob, "t", "b"), (&bob, "s", "c")]
    {
        let answer = caller.post("/v1/vfs/blobs/stage", inline(staging, blob)).await;
        answer.refused(409, "id_taken");
    }
    assert_eq!(scene.objects().await, [""; 0]);
}

async fn a_digest_mismatch_leaves_nothing(scene: Scene) {
    let alice = scene.user("alice");
    stage(&alice, "s", "b").await.ok();
    let put = |bytes: Vec<u8>, digest: String| {
        let request = alice.request("PUT", "/v1/vfs/blobs/stage/s/data").body(bytes);
        send(request.header("content-digest", digest))
    };
    for bytes in [b"bytes".to_vec(), vec![1; 3_000_000]] {
        let refused =
            put(bytes.clone(), digest_field(b"other")).await.refused(400, "digest_mismatch");
        assert_eq!(refused["expectedDigest"], hex(b"other"));
        assert_eq!(refused["actualDigest"], hex(&bytes));
        assert_eq!(scene.objects().await, [""; 0]);
    }
    let state = alice.get("/v1/vfs/blobs/stage/s").await.ok();
    assert_eq!(state["digest"], Value::Null);
    put(b"bytes".to_vec(), "sha-256=nonsense".into()).await.refused_field("Content-Digest");
    put(b"bytes".to_vec(), digest_field(b"bytes")).await.ok();
    put(b"bytes".to_vec(), digest_field(b"other")).await.refused(400, "digest_mismatch");
    let part = alice.request("PUT", "/v1/vfs/blobs/stage/s/data").body("bytes");
    send(part.header("content-range", "bytes 0-4/10")).await.refused_field("Content-Range");
    let compressed = alice.request("PUT", "/v1/vfs/blobs/stage/s/data").body("x");
    send(compressed.header("content-encoding", "gzip"))
        .await
        .refused(415, "unsupported_media_type");
}

async fn an_upload_that_breaks_off_leaves_nothing(scene: Scene) {
    use futures::StreamExt as _;
    let alice = scene.user("alice");
    stage(&alice, "s", "b").await.ok();
    let chunk = || Ok::<_, std::io::Error>(vec![0_u8; 500_000]);
    let broken = futures::stream::iter([chunk(), chunk(), chunk(), chunk()])
        .chain(futures::stream::once(async { Err(std::io::Error::other("unplugged")) }));
    let request =
        alice.request("PUT", "/v1/vfs/blobs/stage/s/data").body(reqwest::Body::wrap_stream(broken));
    request.send().await.unwrap_err();
    let whole = vec![1; 2_500_000];
    // The first call may take the upload over once more before it notices that nobody is there.
    soon(async || upload(&alice, "s", &whole).await.status == 200).await;
    assert_eq!(alice.get("/v1/vfs/blobs/b").await.bytes, whole);
    soon(async || scene.objects().await == ["b"]).await;
}

async fn what_is_another_users_answers_like_what_is_not_there(scene: Scene) {
    let (alice, bob) = (scene.user("alice"), scene.user("bob"));
    let item = alice.file(1).await;
    bring(&alice, &item, "b", b"bytes").await;
    stage(&alice, "s", "c").await.ok();
    let same = |mine: Answer, none: Answer, code: &str| {
        let (mut mine, mut none) = (mine.refused(404, code), none.refused(404, code));
        (mine["requestId"], none["requestId"]) = (json!(0), json!(0));
        assert_eq!(mine, none);
    };
    for path in ["stage/s", "b"] {
        let path = format!("/v1/vfs/blobs/{path}");
        let unknown = format!("{path}x");
        let code = if path.contains("stage") { "unknown_stage" } else { "unknown_blob" };
        same(bob.get(&path).await, bob.get(&unknown).await, code);
    }
    same(upload(&bob, "s", b"x").await, upload(&bob, "no", b"x").await, "unknown_stage");
    same(abandon(&bob, "s").await, abandon(&bob, "no").await, "unknown_stage");
    let body = json!({"itemId": item});
    same(attach(&bob, "s", body.clone()).await, attach(&bob, "no", body).await, "unknown_stage");
    stage(&bob, "t", "d").await.ok();
    upload(&bob, "t", b"x").await.ok();
    let (there, not) = (json!({"itemId": item}), json!({"itemId": "no"}));
    same(attach(&bob, "t", there).await, attach(&bob, "t", not).await, "unknown_item");
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

async fn what_was_abandoned_is_reclaimed_and_served_no_more(scene: Scene) {
    let alice = scene.user("alice");
    stage(&alice, "s", "b").await.ok();
    upload(&alice, "s", b"bytes").await.ok();
    assert_eq!(scene.objects().await, ["b"]);
    abandon(&alice, "s").await.ok();
    assert_eq!(scene.objects().await, [""; 0]);
    alice.get("/v1/vfs/blobs/b").await.refused(404, "unknown_blob");
    stage(&alice, "t", "b").await.refused(409, "id_taken");
}

async fn an_expired_stage_takes_nothing(scene: Scene) {
    let alice = scene.user("alice");
    let item = alice.file(1).await;
    stage(&alice, "s", "b").await.ok();
    stage(&alice, "t", "c").await.ok();
    upload(&alice, "t", b"bytes").await.ok();
    scene.server.clock().advance(std::time::Duration::from_secs(25 * 3_600));
    upload(&alice, "s", b"bytes").await.refused(409, "stage_expired");
    attach(&alice, "t", json!({"itemId": item})).await.refused(409, "stage_expired");
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
    let answer = alice.post("/v1/vfs/blobs/batch", json!({"files": files})).await;
    let answer = answer.ok();
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results.len(), 40);
    for (at, result) in results.iter().enumerate() {
        let failed = match at {
            3 => Some((404, "unknown_item")),
            5 => Some((400, "invalid_request")),
            7 => Some((409, "id_taken")),
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

async fn an_id_that_looks_like_a_path_stays_inside(scene: Scene) {
    let alice = scene.user("alice");
    for id in ["../outside", "/etc/passwd", "..", "a/../../b"] {
        let inline = json!({"stagingId": id, "blobId": id, "dataBase64": "aGVsbG8="});
        alice.post("/v1/vfs/blobs/stage", inline).await.ok();
        let escaped = id.replace('%', "%25").replace('/', "%2F").replace('.', "%2E");
        if id != ".." {
            assert_eq!(
                alice.get(&format!("/v1/vfs/blobs/{escaped}")).await.bytes,
                b"hello",
                "{id}"
            );
            alice.get(&format!("/v1/vfs/blobs/stage/{escaped}")).await.ok();
        }
    }
    assert_eq!(scene.objects().await.len(), 4);
    let outside: Vec<_> = std::fs::read_dir(scene.server.directory())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "blobs" && !name.starts_with("server.db"))
        .collect();
    assert_eq!(outside, [""; 0]);
}
