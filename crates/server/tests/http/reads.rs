//! Reading a blob, in whole and in part.

use crate::blobs::{bring, digest_field, hex};
use crate::scene::{Answer, Caller, Scene, send};

const BLOB: &str = "/v1/vfs/blobs/b";

async fn scene(bytes: &[u8]) -> (Scene, Caller) {
    let scene = Scene::new().await;
    let alice = scene.user("alice");
    let item = alice.file(1).await;
    bring(&alice, &item, "b", bytes).await;
    (scene, alice)
}

async fn read(caller: &Caller, fields: &[(&str, &str)]) -> Answer {
    let request = caller.request("GET", BLOB);
    send(fields.iter().fold(request, |request, (name, value)| request.header(*name, *value))).await
}

#[tokio::test]
async fn a_blob_is_served_as_somebodys_bytes() {
    let (_scene, alice) = scene(b"0123456789").await;
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

#[tokio::test]
async fn a_range_is_served_as_a_part() {
    let (_scene, alice) = scene(b"0123456789").await;
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
    let head = send(alice.request("HEAD", BLOB).header("range", "bytes=2-4")).await;
    assert_eq!((head.status, head.header("content-length")), (206, "3"));
}

#[tokio::test]
async fn what_the_caller_has_is_not_sent_again() {
    let (_scene, alice) = scene(b"0123456789").await;
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

#[tokio::test]
async fn an_empty_blob_is_a_blob() {
    let (_scene, alice) = scene(b"").await;
    let whole = read(&alice, &[]).await;
    assert_eq!((whole.status, whole.header("content-length")), (200, "0"));
    assert_eq!(read(&alice, &[("range", "bytes=0-")]).await.status, 200);
}

#[tokio::test]
async fn a_blob_whose_object_is_missing_is_a_failure_of_the_store() {
    let (scene, alice) = scene(b"bytes").await;
    std::fs::remove_file(scene.server.blobs_directory().join("b")).unwrap();
    let failed = alice.get(BLOB).await.refused(500, "blob_store_error");
    assert_eq!(failed["error"], "Failed to read blob data");
    assert_eq!(failed["storageCode"], "NoSuchKey");
    assert_eq!(failed["retryable"], false);
    alice.get("/v1/vfs/blobs/never").await.refused(404, "unknown_blob");
}

#[tokio::test]
async fn an_object_that_was_cut_short_is_not_taken_for_whole() {
    let (scene, alice) = scene(&[7; 100_000]).await;
    std::fs::write(scene.server.blobs_directory().join("b"), [7; 99_999]).unwrap();
    let read = async { alice.request("GET", BLOB).send().await?.bytes().await };
    assert!(read.await.is_err(), "the answer breaks off, with or without its head");
}

#[tokio::test]
async fn a_store_that_cannot_write_says_so() {
    let (scene, alice) = scene(b"bytes").await;
    let directory = scene.server.blobs_directory();
    std::fs::remove_dir_all(&directory).unwrap();
    std::fs::write(&directory, "not a directory").unwrap();
    let body = serde_json::json!({"blobId": "c", "dataBase64": "aGVsbG8="});
    let failed = alice.post("/v1/vfs/blobs/stage", body).await.refused(500, "blob_store_error");
    assert_eq!(failed["error"], "Failed to persist blob data");
    assert_eq!(scene.nobody().get("/readyz").await.status, 200);
}
