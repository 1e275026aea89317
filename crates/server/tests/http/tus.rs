//! Resumable uploads by tus 1.0.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt as _;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use vfs_sync_server::ServerConfig;
use vfs_sync_store::Quota;
use vfs_sync_testkit::TestServer;

use crate::blobs::hex;
use crate::scene::{Answer, Caller, Scene, on_every_store, send};

const UPLOADS: &str = "/v1/vfs/blobs/uploads";

on_every_store! {
    an_upload_goes_up_in_pieces_of_any_size
    an_upload_survives_a_restart_of_the_server
    an_upload_that_was_cut_off_goes_on_at_its_offset
    bytes_may_ride_along_with_the_creation
    a_length_may_be_told_later
    a_checksum_is_verified_and_other_bytes_are_not_kept
    a_client_that_lost_its_state_finds_its_upload
    what_is_wrong_with_an_upload_is_told
    an_upload_that_expired_is_gone
    a_terminated_upload_is_gone_and_leaves_nothing
    what_is_attached_is_not_terminated
    what_was_written_beyond_the_end_is_cut_off
    an_upload_of_nothing_is_complete_at_once
    an_upload_of_nothing_that_was_cut_off_is_completed_by_a_look
    an_upload_is_its_stagers_alone
    a_method_may_be_overridden
}

fn tus(caller: &Caller, method: &str, path: &str) -> reqwest::RequestBuilder {
    caller.request(method, path).header("tus-resumable", "1.0.0")
}

fn metadata(pairs: &[(&str, &str)]) -> String {
    let one = |(key, value): &(&str, &str)| format!("{key} {}", STANDARD.encode(value));
    pairs.iter().map(one).collect::<Vec<_>>().join(",")
}

async fn create(caller: &Caller, staging: &str, length: usize) -> Answer {
    let request = tus(caller, "POST", UPLOADS)
        .header("upload-length", length)
        .header("upload-metadata", metadata(&[("stagingId", staging), ("blobId", staging)]));
    send(request).await
}

fn patch(caller: &Caller, staging: &str, offset: usize) -> reqwest::RequestBuilder {
    tus(caller, "PATCH", &format!("{UPLOADS}/{staging}"))
        .header("upload-offset", offset)
        .header("content-type", "application/offset+octet-stream")
}

async fn append(caller: &Caller, staging: &str, offset: usize, bytes: &[u8]) -> Answer {
    send(patch(caller, staging, offset).body(bytes.to_vec())).await
}

async fn look(caller: &Caller, staging: &str) -> Answer {
    send(tus(caller, "HEAD", &format!("{UPLOADS}/{staging}"))).await
}

fn assert_at(answer: &Answer, status: u16, offset: usize) {
    let body = String::from_utf8_lossy(&answer.bytes);
    assert_eq!(answer.status, status, "{body}");
    assert_eq!(answer.header("upload-offset"), offset.to_string());
    assert_eq!(answer.header("tus-resumable"), "1.0.0");
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

async fn an_upload_goes_up_in_pieces_of_any_size(scene: Scene) {
    let alice = scene.user("alice");
    let item = alice.file(1).await;
    let bytes = pattern(20 * 1024 * 1024 + 3);
    let created = create(&alice, "u", bytes.len()).await;
    assert_eq!((created.status, created.header("location")), (201, &*format!("{UPLOADS}/u")));
    assert!(created.header("upload-expires").ends_with("GMT"));
    let mut offset = 0;
    for piece in [1, 5_000_000, 0, 9_000_000, 17, 4_000_000, bytes.len()] {
        let end = (offset + piece).min(bytes.len());
        let answer = append(&alice, "u", offset, &bytes[offset..end]).await;
        offset = end;
        assert_at(&answer, 204, offset);
        let state = look(&alice, "u").await;
        assert_at(&state, 200, offset);
        assert_eq!(state.header("upload-length"), bytes.len().to_string());
        assert_eq!(state.header("cache-control"), "no-store");
        let stage = alice.get("/v1/vfs/blobs/stage/u").await.ok();
        assert_eq!(stage["offset"], offset);
    }
    let stage = alice.get("/v1/vfs/blobs/stage/u").await.ok();
    assert_eq!((&stage["size"], &stage["digest"]), (&json!(bytes.len()), &json!(hex(&bytes))));
    let attach = json!({"itemId": item});
    alice.post("/v1/vfs/blobs/stage/u/attach", attach).await.ok();
    assert!(alice.get("/v1/vfs/blobs/u").await.bytes == bytes);
    assert_eq!(scene.objects().await, ["u"], "nothing of the upload is left");
}

async fn an_upload_survives_a_restart_of_the_server(mut scene: Scene) {
    let alice = scene.user("alice");
    let bytes = pattern(9_000_000);
    create(&alice, "u", bytes.len()).await.created();
    assert_at(&append(&alice, "u", 0, &bytes[..8_500_000]).await, 204, 8_500_000);
    scene.server.restart().await;
    assert_at(&look(&alice, "u").await, 200, 8_500_000);
    assert_at(&append(&alice, "u", 8_500_000, &bytes[8_500_000..]).await, 204, bytes.len());
    assert!(alice.get("/v1/vfs/blobs/u").await.bytes == bytes);
}

async fn an_upload_that_was_cut_off_goes_on_at_its_offset(scene: Scene) {
    let alice = scene.user("alice");
    let bytes = pattern(12_000_000);
    create(&alice, "u", bytes.len()).await.created();
    let chunks: Vec<_> = bytes[..10_000_000]
        .chunks(500_000)
        .map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec()))
        .collect();
    let cut = futures::stream::iter(chunks)
        .chain(futures::stream::once(async { Err(std::io::Error::other("unplugged")) }));
    let request = patch(&alice, "u", 0).header("content-length", bytes.len());
    request.body(reqwest::Body::wrap_stream(cut)).send().await.unwrap_err();
    let mut offset = 0;
    crate::scene::soon(async || !look(&alice, "u").await.header("upload-offset").eq("0")).await;
    for _ in 0..5 {
        offset = look(&alice, "u").await.header("upload-offset").parse().unwrap();
        let answer = append(&alice, "u", offset, &bytes[offset..]).await;
        if answer.status == 204 {
            break;
        }
        // It was still being written down how far the first call came.
        answer.refused(409, "offset_mismatch");
    }
    assert!(offset > 0);
    assert_at(&look(&alice, "u").await, 200, bytes.len());
    assert!(alice.get("/v1/vfs/blobs/u").await.bytes == bytes);
    assert_eq!(scene.objects().await, ["u"]);
}

async fn bytes_may_ride_along_with_the_creation(scene: Scene) {
    let alice = scene.user("alice");
    let request = tus(&alice, "POST", UPLOADS)
        .header("upload-length", 10)
        .header("content-type", "application/offset+octet-stream")
        .header("upload-metadata", metadata(&[("contentType", "text/plain"), ("filename", "x")]));
    let created = send(request.body("hello")).await;
    assert_at(&created, 201, 5);
    // What was not said was made, and is told.
    let told = created.header("upload-metadata").to_owned();
    let value = |key: &str| {
        let pair = told.split(',').find(|pair| pair.starts_with(key)).unwrap();
        String::from_utf8(STANDARD.decode(pair.split_once(' ').unwrap().1).unwrap()).unwrap()
    };
    let (staging, blob) = (value("stagingId"), value("blobId"));
    assert_eq!(value("filename"), "x");
    assert_eq!(created.header("location"), format!("{UPLOADS}/{staging}"));
    assert_eq!(look(&alice, &staging).await.header("upload-metadata"), told);
    assert_at(&append(&alice, &staging, 5, b"world").await, 204, 10);
    let read = alice.get(&format!("/v1/vfs/blobs/{blob}")).await;
    assert_eq!((&*read.bytes, read.header("content-type")), (&b"helloworld"[..], "text/plain"));
}

async fn a_length_may_be_told_later(scene: Scene) {
    let alice = scene.user("alice");
    let request = tus(&alice, "POST", UPLOADS)
        .header("upload-defer-length", 1)
        .header("upload-metadata", metadata(&[("stagingId", "u"), ("blobId", "u")]));
    send(request).await.created();
    let state = look(&alice, "u").await;
    assert_eq!((state.header("upload-defer-length"), state.header("upload-length")), ("1", ""));
    assert_at(&append(&alice, "u", 0, b"hel").await, 204, 3);
    let short = patch(&alice, "u", 3).header("upload-length", 2);
    send(short.body("l")).await.refused_field("Upload-Length");
    // Nor is it told by creating it again.
    create(&alice, "u", 2).await.refused(409, "id_taken");
    assert_eq!(look(&alice, "u").await.header("upload-defer-length"), "1");
    let told = patch(&alice, "u", 3).header("upload-length", 5);
    assert_at(&send(told.body("l")).await, 204, 4);
    let other = patch(&alice, "u", 4).header("upload-length", 6);
    send(other.body("o!")).await.refused_field("Upload-Length");
    assert_at(&append(&alice, "u", 4, b"o").await, 204, 5);
    assert_eq!(alice.get("/v1/vfs/blobs/u").await.bytes, b"hello");
}

async fn a_checksum_is_verified_and_other_bytes_are_not_kept(scene: Scene) {
    let alice = scene.user("alice");
    let bytes = pattern(9_000_000);
    create(&alice, "u", bytes.len()).await.created();
    let sent = |offset: usize, checksum: String, bytes: &[u8]| {
        send(patch(&alice, "u", offset).header("upload-checksum", checksum).body(bytes.to_vec()))
    };
    let sha256 = |bytes: &[u8]| format!("sha256 {}", STANDARD.encode(Sha256::digest(bytes)));
    let half = &bytes[..8_600_000];
    sent(0, sha256(b"other"), half).await.refused(460, "checksum_mismatch");
    assert_at(&look(&alice, "u").await, 200, 0);
    assert_at(&sent(0, sha256(half), half).await, 204, half.len());
    let rest = &bytes[half.len()..];
    let wrong = format!("sha1 {}", STANDARD.encode([0; 20]));
    sent(half.len(), wrong, rest).await.refused(460, "checksum_mismatch");
    assert_at(&look(&alice, "u").await, 200, half.len());
    sent(half.len(), "md5 AAAA".into(), rest).await.refused_field("Upload-Checksum");
    sent(half.len(), "sha1".into(), rest).await.refused_field("Upload-Checksum");
    let sha1 = format!("sha1 {}", STANDARD.encode(sha1::Sha1::digest(rest)));
    assert_at(&sent(half.len(), sha1, rest).await, 204, bytes.len());
    assert!(alice.get("/v1/vfs/blobs/u").await.bytes == bytes);
}

async fn a_client_that_lost_its_state_finds_its_upload(scene: Scene) {
    let alice = scene.user("alice");
    create(&alice, "u", 10).await.created();
    append(&alice, "u", 0, b"hello").await;
    let again = create(&alice, "u", 10).await;
    assert_at(&again, 201, 5);
    assert_eq!(again.header("location"), format!("{UPLOADS}/u"));
    let request = tus(&alice, "POST", UPLOADS)
        .header("upload-length", 10)
        .header("upload-metadata", metadata(&[("stagingId", "u")]));
    assert_at(&send(request).await, 201, 5);
    create(&alice, "u", 11).await.refused(409, "id_taken");
    for other in [("blobId", "other"), ("contentType", "text/plain")] {
        let request = tus(&alice, "POST", UPLOADS)
            .header("upload-length", 10)
            .header("upload-metadata", metadata(&[("stagingId", "u"), other]));
        send(request).await.refused(409, "id_taken");
    }
    let opened = json!({"stagingId": "v", "blobId": "v", "contentType": "text/plain"});
    alice.post("/v1/vfs/blobs/stage", opened).await.created();
    let request = tus(&alice, "POST", UPLOADS)
        .header("upload-length", 10)
        .header("upload-metadata", metadata(&[("stagingId", "v")]));
    let all = metadata(&[("stagingId", "v"), ("blobId", "v"), ("contentType", "text/plain")]);
    assert_eq!(send(request).await.header("upload-metadata"), all);
    append(&alice, "u", 5, b"world").await;
    assert_at(&create(&alice, "u", 10).await, 201, 10);
    create(&alice, "u", 11).await.refused(409, "id_taken");
    let item = alice.file(1).await;
    alice.post("/v1/vfs/blobs/stage/u/attach", json!({"itemId": item})).await.ok();
    create(&alice, "u", 10).await.refused(409, "stage_not_attachable");
    assert_at(&look(&alice, "u").await, 200, 10);
}

async fn what_is_wrong_with_an_upload_is_told(scene: Scene) {
    let alice = scene.user("alice");
    let plain = send(alice.request("POST", UPLOADS).header("upload-length", 5)).await;
    plain.refused(412, "invalid_request");
    assert_eq!(plain.header("tus-version"), "1.0.0");
    let post =
        |name: &'static str, value: String| send(tus(&alice, "POST", UPLOADS).header(name, value));
    post("upload-concat", "partial".into()).await.refused_field("Upload-Concat");
    post("upload-length", "many".into()).await.refused_field("Upload-Length");
    post("upload-length", (6_u64 << 40).to_string()).await.refused(413, "too_large");
    post("upload-defer-length", "2".into()).await.refused_field("Upload-Defer-Length");
    let id = metadata(&[("stagingId", " ")]);
    let bad = tus(&alice, "POST", UPLOADS).header("upload-length", 5).header("upload-metadata", id);
    send(bad).await.refused_field("Upload-Metadata: stagingId");

    create(&alice, "u", 5).await.created();
    create(&scene.user("bob"), "u", 5).await.refused(409, "id_taken");
    let refused = append(&alice, "u", 3, b"lo").await.refused(409, "offset_mismatch");
    assert_eq!(refused["offset"], 0);
    append(&alice, "u", 0, b"hello world").await.refused(413, "too_large");
    let more = futures::stream::iter([Ok::<_, std::io::Error>("hello world")]);
    let unannounced = patch(&alice, "u", 0).body(reqwest::Body::wrap_stream(more));
    send(unannounced).await.refused(413, "too_large");
    assert_at(&look(&alice, "u").await, 200, 0);
    // What is announced to be too much is not taken, as far as it would fit.
    create(&alice, "long", 3_000_000).await.created();
    append(&alice, "long", 0, &pattern(9_000_000)).await.refused(413, "too_large");
    assert_at(&look(&alice, "long").await, 200, 0);
    let long = metadata(&[("note", &"x".repeat(8 * 1_024))]);
    let long = tus(&alice, "POST", UPLOADS).header("upload-metadata", long);
    send(long.header("upload-length", 5)).await.refused_field("Upload-Metadata");
    let kind = tus(&alice, "PATCH", &format!("{UPLOADS}/u")).header("upload-offset", 0);
    send(kind.body("hello")).await.refused(415, "unsupported_media_type");
    let path = format!("{UPLOADS}/u");
    let missing =
        tus(&alice, "PATCH", &path).header("content-type", "application/offset+octet-stream");
    send(missing.body("hello")).await.refused_field("Upload-Offset");
    assert_at(&append(&alice, "u", 0, b"hello").await, 204, 5);
    assert_at(&append(&alice, "u", 5, b"").await, 204, 5);
    append(&alice, "u", 0, b"hello").await.refused(409, "offset_mismatch");
}

async fn an_upload_that_expired_is_gone(scene: Scene) {
    let alice = scene.user("alice");
    create(&alice, "u", 10).await.created();
    append(&alice, "u", 0, b"hello").await;
    scene.server.clock().advance(std::time::Duration::from_secs(25 * 3_600));
    assert_eq!(look(&alice, "u").await.status, 410);
    append(&alice, "u", 5, b"world").await.refused(410, "stage_expired");
}

async fn a_terminated_upload_is_gone_and_leaves_nothing(scene: Scene) {
    let alice = scene.user("alice");
    create(&alice, "u", 20_000_000).await.created();
    append(&alice, "u", 0, &pattern(9_000_000)).await;
    let path = format!("{UPLOADS}/u");
    for _ in 0..2 {
        assert_eq!(send(tus(&alice, "DELETE", &path)).await.status, 204);
    }
    assert_eq!(look(&alice, "u").await.status, 410);
    append(&alice, "u", 9_000_000, b"x").await.refused(410, "stage_not_attachable");
    assert_eq!(scene.objects().await, [""; 0]);
}

async fn what_is_attached_is_not_terminated(scene: Scene) {
    let alice = scene.user("alice");
    create(&alice, "u", 5).await.created();
    append(&alice, "u", 0, b"hello").await;
    let item = alice.file(1).await;
    alice.post("/v1/vfs/blobs/stage/u/attach", json!({"itemId": item})).await.ok();
    let terminated = send(tus(&alice, "DELETE", &format!("{UPLOADS}/u"))).await;
    terminated.refused(409, "stage_not_attachable");
    assert_eq!(alice.get("/v1/vfs/blobs/u").await.bytes, b"hello");
}

/// Bytes that were written and do not count are none of the blob's.
async fn what_was_written_beyond_the_end_is_cut_off(scene: Scene) {
    let alice = scene.user("alice");
    let request = tus(&alice, "POST", UPLOADS)
        .header("upload-defer-length", 1)
        .header("upload-metadata", metadata(&[("stagingId", "u"), ("blobId", "u")]));
    send(request).await.created();
    let bytes = pattern(5_000_000);
    assert_at(&append(&alice, "u", 0, &bytes[..3_000_000]).await, 204, 3_000_000);
    let wrong = format!("sha256 {}", STANDARD.encode([0; 32]));
    let more = patch(&alice, "u", 3_000_000).header("upload-checksum", wrong);
    send(more.body(vec![7; 9_000_000])).await.refused(460, "checksum_mismatch");
    let rest = patch(&alice, "u", 3_000_000).header("upload-length", bytes.len());
    assert_at(&send(rest.body(bytes[3_000_000..].to_vec())).await, 204, bytes.len());
    assert!(alice.get("/v1/vfs/blobs/u").await.bytes == bytes);
}

/// However much of it is written before the checksum is known to be wrong.
#[tokio::test]
async fn of_what_a_checksum_refuses_nothing_counts() {
    let scene = Scene::new().await;
    let alice = scene.user("alice");
    create(&alice, "u", 50_000_000).await.created();
    let wrong = format!("sha256 {}", STANDARD.encode([0; 32]));
    let request = patch(&alice, "u", 0).header("upload-checksum", wrong);
    send(request.body(vec![7; 40_000_000])).await.refused(460, "checksum_mismatch");
    assert_at(&look(&alice, "u").await, 200, 0);
}

async fn an_upload_of_nothing_is_complete_at_once(scene: Scene) {
    let alice = scene.user("alice");
    assert_at(&create(&alice, "u", 0).await, 201, 0);
    let stage = alice.get("/v1/vfs/blobs/stage/u").await.ok();
    assert_eq!((&stage["size"], &stage["digest"]), (&json!(0), &json!(hex(b""))));
    assert_eq!(alice.get("/v1/vfs/blobs/u").await.bytes, b"");
}

async fn an_upload_of_nothing_that_was_cut_off_is_completed_by_a_look(scene: Scene) {
    let alice = scene.user("alice");
    alice.post("/v1/vfs/blobs/stage", json!({"stagingId": "u", "blobId": "u"})).await.created();
    // What a server that is killed in between leaves behind: the length, and nothing begun.
    let quota = Quota { stored: 1, staged: 1, open_stages: 1 };
    let (user, staging_id) = ("alice".parse().unwrap(), "u".parse().unwrap());
    let (store, now) = (scene.server.store(), scene.server.clock().now());
    store.open_upload(&user, &staging_id, Some(0), None, &quota, now).await.unwrap();
    assert_at(&look(&alice, "u").await, 200, 0);
    assert_eq!(alice.get("/v1/vfs/blobs/u").await.bytes, b"");
}

async fn an_upload_is_its_stagers_alone(scene: Scene) {
    let (alice, bob) = (scene.user("alice"), scene.user("bob"));
    create(&alice, "u", 10).await.created();
    assert_eq!(look(&bob, "u").await.status, 404);
    append(&bob, "u", 0, b"mine").await.refused(404, "unknown_stage");
    let deleted = send(tus(&bob, "DELETE", &format!("{UPLOADS}/u"))).await;
    deleted.refused(404, "unknown_stage");
    append(&scene.nobody(), "u", 0, b"mine").await.refused(401, "unauthorized");
    assert_at(&look(&alice, "u").await, 200, 0);
}

async fn a_method_may_be_overridden(scene: Scene) {
    let alice = scene.user("alice");
    create(&alice, "u", 5).await.created();
    let path = format!("{UPLOADS}/u");
    let overridden =
        |method: &'static str| tus(&alice, "POST", &path).header("x-http-method-override", method);
    let sent = overridden("PATCH")
        .header("upload-offset", 0)
        .header("content-type", "application/offset+octet-stream");
    assert_at(&send(sent.body("hello")).await, 204, 5);
    assert_at(&send(overridden("HEAD")).await, 200, 5);
    assert_eq!(send(overridden("DELETE")).await.status, 204);
    send(overridden("GET")).await.refused(405, "method_not_allowed");
}

#[tokio::test]
async fn what_the_server_can_is_told_to_everybody() {
    let scene = Scene::new().await;
    let told = send(scene.nobody().request("OPTIONS", UPLOADS)).await;
    assert_eq!((told.status, told.header("tus-version")), (204, "1.0.0"));
    assert_eq!(told.header("tus-checksum-algorithm"), "sha1,sha256");
    for extension in [
        "creation",
        "creation-with-upload",
        "creation-defer-length",
        "checksum",
        "expiration",
        "termination",
    ] {
        assert!(told.header("tus-extension").split(',').any(|one| one == extension));
    }
    assert_eq!(told.header("tus-max-size"), (5_u64 << 40).to_string());
}

#[tokio::test]
async fn a_location_is_under_the_public_path_and_never_from_the_host() {
    let public_path = "/files".to_owned();
    let config = ServerConfig { public_path, ..ServerConfig::default() };
    let scene = Scene::of(TestServer::builder().config(config)).await;
    let alice = scene.user("alice");
    let request = tus(&alice, "POST", UPLOADS)
        .header("upload-length", 5)
        .header("host", "evil.example")
        .header("x-forwarded-host", "evil.example")
        .header("forwarded", "host=evil.example;proto=https")
        .header("upload-metadata", metadata(&[("stagingId", "a/b ü")]));
    let created = send(request).await;
    assert_eq!(created.header("location"), format!("/files{UPLOADS}/a%2Fb%20%C3%BC"));
}

#[tokio::test]
async fn pages_of_known_origins_may_call_and_others_may_not() {
    let cors_origins = vec!["https://app.example".to_owned()];
    let config = ServerConfig { cors_origins, ..ServerConfig::default() };
    let scene = Scene::of(TestServer::builder().config(config)).await;
    let preflight = |origin: &'static str| {
        let request = scene.nobody().request("OPTIONS", "/v1/vfs/blobs/uploads/u");
        send(request.header("origin", origin).header("access-control-request-method", "PATCH"))
    };
    let known = preflight("https://app.example").await;
    assert_eq!(known.status, 204);
    assert_eq!(known.header("access-control-allow-origin"), "https://app.example");
    let allowed = |name: &str| -> Vec<&str> { known.header(name).split(", ").collect() };
    let methods = allowed("access-control-allow-methods");
    assert_eq!(methods, ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]);
    let headers = allowed("access-control-allow-headers");
    for header in [
        "Authorization",
        "Content-Type",
        "Content-Digest",
        "If-None-Match",
        "If-Range",
        "Range",
        "Tus-Resumable",
        "Upload-Length",
        "Upload-Defer-Length",
        "Upload-Offset",
        "Upload-Metadata",
        "Upload-Checksum",
        "Vfs-Sync-Protocol",
        "X-HTTP-Method-Override",
    ] {
        assert!(headers.contains(&header), "{header}");
    }
    assert_eq!(known.header("access-control-max-age"), "7200");
    assert!(known.header("vary").contains("Origin"), "no cache gives it to another origin");
    let other = preflight("https://evil.example").await;
    assert_eq!(other.status, 204);
    assert!(!other.headers.keys().any(|name| name.as_str().starts_with("access-control")));
    assert!(other.header("vary").contains("Origin"));
    let options =
        scene.nobody().request("OPTIONS", UPLOADS).header("origin", "https://app.example");
    let told = send(options).await;
    assert_eq!(told.header("tus-version"), "1.0.0", "no preflight: what the server can");
    let health = scene.nobody().request("GET", "/healthz").header("origin", "https://app.example");
    assert_eq!(send(health).await.header("access-control-allow-origin"), "");
    let alice = scene.user("alice");
    let request = tus(&alice, "POST", UPLOADS).header("origin", "https://app.example");
    let answer = send(request.header("upload-length", 5)).await;
    assert_eq!(
        (answer.status, answer.header("access-control-allow-origin")),
        (201, "https://app.example")
    );
    let told = answer.header("access-control-expose-headers").to_owned();
    let told: Vec<&str> = told.split(", ").collect();
    for exposed in [
        "Location",
        "Upload-Offset",
        "Upload-Length",
        "Upload-Defer-Length",
        "Upload-Metadata",
        "Upload-Expires",
        "Tus-Resumable",
        "Tus-Version",
        "Tus-Extension",
        "Tus-Max-Size",
        "Tus-Checksum-Algorithm",
        "ETag",
        "Content-Range",
        "Content-Digest",
        "Repr-Digest",
        "Retry-After",
    ] {
        assert!(told.contains(&exposed), "{exposed}");
    }
    let refused = send(
        scene.nobody().request("GET", "/v1/vfs/limits").header("origin", "https://app.example"),
    )
    .await;
    assert_eq!(
        (refused.status, refused.header("access-control-allow-origin")),
        (401, "https://app.example")
    );

    let closed = Scene::new().await;
    let request = closed.nobody().request("OPTIONS", "/v1/vfs/limits");
    let answer = send(
        request
            .header("origin", "https://app.example")
            .header("access-control-request-method", "GET"),
    )
    .await;
    assert_eq!(answer.header("access-control-allow-origin"), "");
}

impl Answer {
    fn created(self) -> Self {
        assert_eq!(self.status, 201, "{}", String::from_utf8_lossy(&self.bytes));
        self
    }
}
