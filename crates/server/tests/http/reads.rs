//! Reading a blob, in whole and in part; and many of them.

use serde_json::{Value, json};
use vfs_sync_core::id::BlobId;

use crate::blobs::{bring, digest_field, hex, stage, upload};
use crate::scene::{Answer, Caller, Scene, on_every_store, send};

const BLOB: &str = "/v1/vfs/blobs/b";

/// Somebody who has a file of these bytes.
async fn with(scene: &Scene, bytes: &[u8]) -> Caller {
    let alice = scene.user("alice");
    let item = alice.file(1).await;
    bring(&alice, &item, "b", bytes).await;
    alice
}

async fn read(caller: &Caller, fields: &[(&str, &str)]) -> Answer {
    let request = caller.request("GET", BLOB);
    send(fields.iter().fold(request, |request, (name, value)| request.header(*name, *value))).await
}

on_every_store! {
    a_blob_is_served_as_somebodys_bytes
    a_range_is_served_as_a_part
    what_the_caller_has_is_not_sent_again
    an_empty_blob_is_a_blob
    many_blobs_come_in_one_answer_each_with_its_own_outcome
    an_answer_of_many_blobs_is_bounded
}

async fn a_blob_is_served_as_somebodys_bytes(scene: Scene) {
    let alice = with(&scene, b"0123456789").await;
    let whole = read(&alice, &[("accept-encoding", "gzip, zstd")]).await;
    assert_eq!((whole.status, &*whole.bytes), (200, &b"0123456789"[..]));
    let digest = digest_field(b"0123456789");
    for (name, value) in [
        ("content-length", "10"),
        ("content-type", "application/octet-stream"),
        ("content-encoding", ""),
        ("accept-ranges", "bytes"),
        ("etag", &format!("\"{}\"", hex(b"0123456789"))),
        ("repr-digest", &digest),
        ("content-digest", &digest),
        ("x-content-type-options", "nosniff"),
        ("content-disposition", "attachment"),
        ("content-security-policy", "default-src 'none'; sandbox"),
        ("cache-control", "private, no-cache"),
    ] {
        assert_eq!(whole.header(name), value, "{name}");
    }
    let head = send(alice.request("HEAD", BLOB)).await;
    assert_eq!((head.status, head.bytes.len(), head.header("content-length")), (200, 0, "10"));
}

async fn a_range_is_served_as_a_part(scene: Scene) {
    let alice = with(&scene, b"0123456789").await;
    let part = read(&alice, &[("range", "bytes=2-4")]).await;
    assert_eq!((part.status, &*part.bytes), (206, &b"234"[..]));
    assert_eq!(part.header("content-range"), "bytes 2-4/10");
    assert_eq!(part.header("content-length"), "3");
    assert_eq!(part.header("repr-digest"), digest_field(b"0123456789"));
    assert_eq!(part.header("content-digest"), "");
    assert_eq!(read(&alice, &[("range", "bytes=-3")]).await.bytes, b"789");
    assert_eq!(read(&alice, &[("range", "bytes=8-")]).await.bytes, b"89");
    assert_eq!(read(&alice, &[("range", "bytes=0-1,4-5")]).await.status, 200);

    let beyond = read(&alice, &[("range", "bytes=10-")]).await;
    assert_eq!(beyond.refused(416, "range_not_satisfiable")["size"], 10);
    assert_eq!(beyond.header("content-range"), "bytes */10");
    for range in ["bytes=2-4", "bytes=10-"] {
        let head = send(alice.request("HEAD", BLOB).header("range", range)).await;
        assert_eq!((head.status, head.header("content-length")), (200, "10"), "of GET alone");
    }
}

async fn what_the_caller_has_is_not_sent_again(scene: Scene) {
    let alice = with(&scene, b"0123456789").await;
    let tag = read(&alice, &[]).await.header("etag").to_owned();
    let unchanged = read(&alice, &[("if-none-match", &tag), ("range", "bytes=0-1")]).await;
    assert_eq!((unchanged.status, unchanged.bytes.len()), (304, 0));
    assert_eq!(unchanged.header("etag"), tag);
    assert_eq!(read(&alice, &[("if-none-match", "\"other\"")]).await.status, 200);
    assert_eq!(
        read(&alice, &[("if-range", "\"other\""), ("range", "bytes=0-1")]).await.status,
        200
    );
}

async fn an_empty_blob_is_a_blob(scene: Scene) {
    let alice = with(&scene, b"").await;
    let whole = read(&alice, &[]).await;
    assert_eq!((whole.status, whole.header("content-length")), (200, "0"));
    assert_eq!(read(&alice, &[("range", "bytes=0-")]).await.status, 200);
}

#[tokio::test]
async fn a_blob_whose_object_is_missing_is_a_failure_of_the_store() {
    let scene = Scene::new().await;
    let alice = with(&scene, b"bytes").await;
    std::fs::remove_file(scene.server.blobs_directory().join("b")).unwrap();
    let failed = alice.get(BLOB).await.refused(500, "blob_store_error");
    assert_eq!(failed["error"], "Failed to read blob data");
    assert_eq!(failed["storageCode"], "NoSuchKey");
    assert_eq!(failed["retryable"], false);
    alice.get("/v1/vfs/blobs/never").await.refused(404, "unknown_blob");
}

#[tokio::test]
async fn an_object_of_another_size_is_not_taken_for_the_blob() {
    let scene = Scene::new().await;
    let alice = with(&scene, &[7; 100_000]).await;
    for size in [0, 99_999, 100_001, 300_000] {
        std::fs::write(scene.server.blobs_directory().join("b"), vec![7; size]).unwrap();
        let read = async { alice.request("GET", BLOB).send().await?.bytes().await };
        assert!(read.await.is_err(), "{size}: the answer breaks off, with or without its head");
    }
}

#[tokio::test]
async fn a_store_that_cannot_write_says_so() {
    let scene = Scene::new().await;
    let alice = with(&scene, b"bytes").await;
    let directory = scene.server.blobs_directory();
    std::fs::remove_dir_all(&directory).unwrap();
    std::fs::write(&directory, "not a directory").unwrap();
    let body = serde_json::json!({"blobId": "c", "dataBase64": "aGVsbG8="});
    let failed = alice.post("/v1/vfs/blobs/stage", body).await.refused(500, "blob_store_error");
    assert_eq!(failed["error"], "Failed to persist blob data");
    assert_eq!(scene.nobody().get("/readyz").await.status, 200);
}

const MANY: &str = "/v1/vfs/blobs/batch/read";

/// The heads of an answer, and the bytes after each.
fn taken_apart(mut answer: &[u8]) -> Vec<(Value, Vec<u8>)> {
    let mut found = Vec::new();
    while !answer.is_empty() {
        let end = answer.iter().position(|byte| *byte == b'\n').unwrap();
        let head: Value = serde_json::from_slice(&answer[..end]).unwrap();
        let size = usize::try_from(head["size"].as_u64().unwrap_or(0)).unwrap();
        found.push((head, answer[end + 1..end + 1 + size].to_vec()));
        answer = &answer[end + 1 + size..];
    }
    found
}

async fn many_blobs_come_in_one_answer_each_with_its_own_outcome(scene: Scene) {
    let (alice, bob) = (scene.user("alice"), scene.user("bob"));
    let item = alice.file(1).await;
    for (name, bytes) in [("one", &b"a\nb"[..]), ("two", b""), ("lost", b"lost"), ("short", b"12")]
    {
        bring(&alice, &item, name, bytes).await;
    }
    bring(&alice, &item, "large", &vec![7; 1024 * 1024 + 1]).await;
    stage(&bob, "bobs", "bobs").await.ok();
    upload(&bob, "bobs", b"of bob").await.ok();
    scene.server.blobs().delete(&BlobId::new("lost").unwrap()).await.unwrap();
    let short = BlobId::new("short").unwrap();
    scene.server.blobs().delete(&short).await.unwrap();
    scene.server.blobs().put(&short, b"1"[..].into()).await.unwrap();

    let asked = ["one", "bobs", "never", "two", "lost", "short", "large", "one"];
    let answer = alice.post(MANY, json!({"blobIds": asked})).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "application/vnd.vfs-sync.blobs");
    assert_eq!(
        (answer.header("content-encoding"), answer.header("cache-control")),
        ("", "no-store")
    );
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    let found = taken_apart(&answer.bytes);
    assert_eq!(
        found.iter().map(|(head, _)| head["blobId"].as_str().unwrap()).collect::<Vec<_>>(),
        asked
    );
    for (at, bytes) in [(0, &b"a\nb"[..]), (3, b""), (7, b"a\nb")] {
        assert_eq!(found[at].1, bytes);
        assert_eq!(found[at].0["digest"], hex(bytes));
    }
    for (at, status, code) in [
        (1, 404, "unknown_blob"),
        (2, 404, "unknown_blob"),
        (4, 500, "blob_store_error"),
        (5, 500, "blob_store_error"),
        (6, 413, "too_large"),
    ] {
        let error = &found[at].0["error"];
        assert_eq!((&error["httpStatus"], &error["code"]), (&json!(status), &json!(code)), "{at}");
        assert_eq!(error["requestId"], answer.header("x-request-id"));
    }
    assert_eq!(
        found[1].0["error"]["error"], found[2].0["error"]["error"],
        "as if it was not there"
    );
    assert_eq!(found[4].0["error"]["storageCode"], "NoSuchKey");
    scene.nobody().post(MANY, json!({"blobIds": []})).await.refused(401, "unauthorized");
}

async fn an_answer_of_many_blobs_is_bounded(scene: Scene) {
    let alice = scene.user("alice");
    let item = alice.file(1).await;
    let bytes = vec![7; 1024 * 1024];
    bring(&alice, &item, "b", &bytes).await;
    let answer = alice.post(MANY, json!({"blobIds": vec!["b"; 10]})).await;
    let found = taken_apart(&answer.bytes);
    assert!(found[..8].iter().all(|(_, content)| *content == bytes));
    for (head, _) in &found[8..] {
        assert_eq!(head["error"]["code"], "too_large");
        assert_eq!(head["error"]["maxBytes"], 8 * 1024 * 1024);
    }
    alice.post(MANY, json!({"blobIds": vec!["b"; 257]})).await.refused(413, "too_large");
    alice.post(MANY, json!({"blobIds": [""]})).await.refused_field("blobIds[0]");
    alice.post(MANY, json!({})).await.refused_field("blobIds");
    assert_eq!(alice.post(MANY, json!({"blobIds": []})).await.bytes, b"");
}
