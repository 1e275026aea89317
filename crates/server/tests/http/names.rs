//! Ids of any shape: each names one blob, and none reaches beyond the store.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::scene::{Scene, on_every_store, send};

on_every_store! {
    an_id_that_looks_like_a_path_stays_inside
    a_blob_of_any_name_is_found_by_it
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

async fn a_blob_of_any_name_is_found_by_it(scene: Scene) {
    let alice = scene.user("alice");
    let long = "é".repeat(64);
    let ids = [
        "batch", "stage", "uploads", "read", "data", ".", "..", "../..", "a/b", "a\\b", "%2e",
        "a b", "?x#y", "ü", &long, "~", "_h", "CON", "con",
    ];
    for id in ids {
        let inline = json!({"stagingId": id, "blobId": id, "dataBase64": STANDARD.encode(id)});
        alice.post("/v1/vfs/blobs/stage", inline).await.ok();
    }
    for id in ["batch", "stage", "uploads"] {
        let path = format!("/v1/vfs/blobs/{id}");
        assert_eq!(alice.get(&path).await.bytes, id.as_bytes());
        assert_eq!(
            send(alice.request("HEAD", &path)).await.header("content-length"),
            id.len().to_string()
        );
        scene.user("bob").get(&path).await.refused(404, "unknown_blob");
        scene.user("bob").delete(&path).await.refused(404, "unknown_blob");
    }
    for id in ids {
        let path = format!("/v1/vfs/blobs/{}", escaped(id));
        assert_eq!(raw(&scene, "alice", "GET", &path).await, (200, id.to_owned()), "{id}");
        let stage = format!("/v1/vfs/blobs/stage/{}", escaped(id));
        let (status, state) = raw(&scene, "alice", "GET", &stage).await;
        assert_eq!(status, 200, "{id}");
        assert_eq!(serde_json::from_str::<Value>(&state).unwrap()["blobId"], id);
        let upload = format!("/v1/vfs/blobs/uploads/{}", escaped(id));
        assert_eq!(raw(&scene, "alice", "HEAD", &upload).await.0, 200, "{id}");
        let many = alice.post("/v1/vfs/blobs/batch/read", json!({"blobIds": [id]})).await;
        assert!(many.bytes.ends_with(format!("\n{id}").as_bytes()), "{id}");
    }
    assert_eq!(scene.objects().await.len(), ids.len());
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b);
    assert!(scene.objects().await.iter().all(|name| name.bytes().all(plain)));
    for id in ids {
        let path = format!("/v1/vfs/blobs/{}", escaped(id));
        assert_eq!(raw(&scene, "alice", "DELETE", &path).await.0, 200, "{id}");
        assert_eq!(raw(&scene, "alice", "GET", &path).await.0, 404, "{id}");
    }
    assert_eq!(scene.objects().await, [""; 0]);
    // What is no id names nothing.
    let too_long = "x".repeat(129);
    for path in ["%00", "%20a", "a%20", "%FF", "%7F", "%0A", &too_long] {
        for under in ["/v1/vfs/blobs/", "/v1/vfs/blobs/stage/", "/v1/vfs/blobs/uploads/"] {
            let (status, body) = raw(&scene, "alice", "GET", &format!("{under}{path}")).await;
            let expected = if under.ends_with("uploads/") { 405 } else { 404 };
            assert_eq!(status, expected, "{under}{path}: {body}");
        }
        let inline = json!({"blobId": format!("{path}\u{0}"), "dataBase64": ""});
        alice.post("/v1/vfs/blobs/stage", inline).await.refused_field("blobId");
    }
}

/// The answer to a request whose path a client's library would have changed.
async fn raw(scene: &Scene, caller: &str, method: &str, path: &str) -> (u16, String) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let address = scene.server.url().strip_prefix("http://").unwrap().to_owned();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let token = scene.server.token(caller);
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\
         tus-resumable: 1.0.0\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_owned())
}

fn escaped(id: &str) -> String {
    id.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
