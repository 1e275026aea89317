//! From bytes to an item.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use vfs_sync_blobs::Stored;
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::id::BlobId;

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
    what_was_abandoned_is_reclaimed_and_served_no_more
    an_expired_stage_takes_nothing
    each_call_is_answered_in_full
    what_rides_along_has_a_mebibyte_at_most
    the_same_id_with_another_payload_is_refused
    an_object_that_is_there_is_never_replaced
}

/// A store that was asked for nothing at its start is taken for one that cannot write only where
/// there is no object.
#[tokio::test]
#[ignore = "needs an S3 server"]
async fn what_is_there_is_compared_where_the_store_cannot_tell() {
    let place = vfs_sync_blobs::testing::new_s3_place().await.unwrap();
    let blobs = std::sync::Arc::new(vfs_sync_blobs::ObjectBlobs::s3(&place).unwrap());
    let server = vfs_sync_testkit::TestServer::builder().blobs(blobs);
    an_object_that_is_there_is_never_replaced(Scene::of(server).await).await;
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

async fn each_call_is_answered_in_full(scene: Scene) {
    let alice = scene.user("alice");
    let item = alice.file(1).await;
    let clock = scene.server.clock();
    clock.freeze(clock.now());
    let (now, day) = (json!(clock.now()), json!(clock.now().plus_millis(24 * 3_600_000)));
    let opened = json!({
        "stagingId": "s", "blobId": "b", "status": "blob-stage:staged",
        "stagedAt": now, "expiresAt": day,
    });
    assert_eq!(stage(&alice, "s", "b").await.ok(), opened);
    let mut state = opened;
    state["offset"] = json!(0);
    assert_eq!(alice.get("/v1/vfs/blobs/stage/s").await.ok(), state);
    let uploaded = upload(&alice, "s", b"bytes").await.ok();
    assert_eq!(uploaded, json!({"size": 5, "digest": hex(b"bytes")}));
    (state["offset"], state["size"], state["digest"]) =
        (json!(5), json!(5), uploaded["digest"].clone());
    assert_eq!(alice.get("/v1/vfs/blobs/stage/s").await.ok(), state);
    let mut attached = attach(&alice, "s", json!({"itemId": item})).await.ok();
    assert!(attached["refId"].as_str().is_some_and(|id| !id.is_empty()));
    attached.as_object_mut().unwrap().remove("refId");
    let expected = json!({
        "attached": true, "stagingId": "s", "blobId": "b", "itemId": item,
        "relationKind": "file", "attachedAt": now,
    });
    assert_eq!(attached, expected);
    state["status"] = json!("blob-stage:attached");
    assert_eq!(alice.get("/v1/vfs/blobs/stage/s").await.ok(), state);

    stage(&alice, "t", "c").await.ok();
    let expected = json!({"abandoned": true, "stagingId": "t", "status": "blob-stage:abandoned"});
    assert_eq!(abandon(&alice, "t").await.ok(), expected);
    for staging in ["never", "t/x", "%20"] {
        alice
            .get(&format!("/v1/vfs/blobs/stage/{staging}"))
            .await
            .refused(404, if staging == "t/x" { "not_found" } else { "unknown_stage" });
    }
    let versions = alice.get(&format!("/v1/vfs/items/{item}/versions")).await.ok();
    let newest = &versions["versions"][0];
    assert_eq!((&versions["itemId"], &newest["blobId"]), (&json!(item), &json!("b")));
    assert_eq!((&newest["size"], &newest["digest"]), (&json!(5), &uploaded["digest"]));
    assert_eq!(newest["attachedAt"], now);
}

async fn what_rides_along_has_a_mebibyte_at_most(scene: Scene) {
    let alice = scene.user("alice");
    let body = |name: &str, length: usize| {
        let data = STANDARD.encode(vec![7; length]);
        json!({"stagingId": name, "blobId": name, "dataBase64": data})
    };
    let most = 1024 * 1024;
    let opened = alice.post("/v1/vfs/blobs/stage", body("b", most)).await.ok();
    assert_eq!(opened["size"], most);
    assert!(alice.get("/v1/vfs/blobs/b").await.bytes == vec![7; most]);
    let refused = alice.post("/v1/vfs/blobs/stage", body("c", most + 1)).await;
    assert_eq!(refused.refused(413, "too_large")["maxBytes"], most);
    alice.get("/v1/vfs/blobs/stage/c").await.refused(404, "unknown_stage");
    assert_eq!(scene.objects().await, ["b"]);
}

async fn the_same_id_with_another_payload_is_refused(scene: Scene) {
    let alice = scene.user("alice");
    let item = alice.file(1).await;
    let whole = json!({
        "stagingId": "s", "blobId": "b", "contentType": "text/plain", "dataBase64": "aGVsbG8=",
        "expiresAt": scene.server.clock().now().plus_millis(3_600_000),
    });
    let first = alice.post("/v1/vfs/blobs/stage", whole.clone()).await;
    assert_eq!(first.status, 201);
    let other = [
        ("blobId", json!("c"), "id_taken"),
        ("contentType", json!("text/html"), "id_taken"),
        ("contentType", Value::Null, "id_taken"),
        ("expiresAt", json!(scene.server.clock().now().plus_millis(7_200_000)), "id_taken"),
        ("expiresAt", Value::Null, "id_taken"),
        ("dataBase64", json!("b3RoZXI="), "upload_differs"),
    ];
    for (field, value, code) in other {
        let mut changed = whole.clone();
        match value {
            Value::Null => drop(changed.as_object_mut().unwrap().remove(field)),
            value => changed[field] = value,
        }
        alice.post("/v1/vfs/blobs/stage", changed).await.refused(409, code);
    }
    assert_eq!(alice.post("/v1/vfs/blobs/stage", whole.clone()).await.json(), first.json());
    for other in [&b"hell"[..], b"hello!", b"", &[7; 2_000_000]] {
        upload(&alice, "s", other).await.refused(409, "upload_differs");
    }
    let attached = attach(&alice, "s", json!({"itemId": item})).await.ok();
    // Said again after all that: what came of it is told, and nothing changes.
    let again = alice.post("/v1/vfs/blobs/stage", whole).await.ok();
    assert_eq!(again["status"], "blob-stage:attached");
    assert_eq!(attach(&alice, "s", json!({"itemId": item})).await.ok(), attached);
    assert_eq!(alice.get("/v1/vfs/blobs/b").await.bytes, b"hello");
}

/// What a crash left behind of an upload that was never registered.
async fn an_object_that_is_there_is_never_replaced(scene: Scene) {
    let alice = scene.user("alice");
    for (name, size) in [("small", 1_000), ("large", 9_000_000)] {
        let (there, mut other) = (vec![7; size], vec![7; size]);
        other[size / 2] = 8;
        let id = BlobId::new(name).unwrap();
        leave_behind(&scene, &id, &there).await;
        stage(&alice, name, name).await.ok();
        upload(&alice, name, &other).await.refused(409, "upload_differs");
        let state = alice.get(&format!("/v1/vfs/blobs/stage/{name}")).await.ok();
        assert_eq!(state["digest"], Value::Null);
        alice.get(&format!("/v1/vfs/blobs/{name}")).await.refused(404, "unknown_blob");
        upload(&alice, name, &there).await.ok();
        assert!(alice.get(&format!("/v1/vfs/blobs/{name}")).await.bytes == there);
    }
}

async fn leave_behind(scene: &Scene, id: &BlobId, bytes: &[u8]) {
    let blobs = scene.server.blobs();
    let upload = blobs.begin(id).await.unwrap();
    let writer = blobs.take_up(id, &upload).await.unwrap();
    let (mut tags, mut start) = (Vec::new(), 0);
    while start < bytes.len() {
        let number = u32::try_from(tags.len()).unwrap();
        let end = (start + blobs.part_size(number)).min(bytes.len());
        let part = bytes[start..end].to_vec().into();
        tags.push(writer.write_part(number, start as u64, part).await.unwrap());
        start = end;
    }
    let digest = Sha256Digest(Sha256::digest(bytes).into());
    writer.finish(tags, Stored { size: bytes.len() as u64, digest }).await.unwrap();
}
