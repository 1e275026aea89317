//! Calls at the same time that exclude each other: one wins, and no bytes change.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use vfs_sync_server::ServerConfig;

use crate::blobs::{abandon, attach, stage, upload};
use crate::scene::{Caller, Scene, on_every_store, send, soon};

on_every_store! {
    with super::busy();
    of_two_items_for_one_stage_one_gets_it
    of_two_contents_in_place_of_the_same_one_comes_first
    of_an_attach_and_an_abandon_one_wins
    of_an_attach_and_a_deletion_one_wins
    of_two_calls_that_end_one_upload_both_hear_of_its_end
    what_stalls_is_swept_and_finishes_too_late
    who_comes_later_takes_over_what_stalls
    who_was_taken_over_adds_nothing_any_more
    of_two_whole_uploads_the_one_that_stalls_changes_nothing
    of_two_small_uploads_the_one_that_stalls_changes_nothing
}

const ROUNDS: u64 = 8;

/// A sweeper that is always about.
fn busy() -> ServerConfig {
    ServerConfig { sweep_interval: Duration::from_millis(10), ..ServerConfig::default() }
}

/// A stage that has its bytes, which are its name.
async fn staged(caller: &Caller, name: &str) {
    stage(caller, name, name).await.ok();
    upload(caller, name, name.as_bytes()).await.ok();
}

/// The blob that the feed tells as the item's content.
async fn content_of(caller: &Caller, item: &str) -> Value {
    let page = caller.pull_all().await;
    let entries = page["items"].as_array().unwrap().clone();
    let attached = |entry: &&Value| entry["opType"] == "blob_attach" && entry["itemId"] == item;
    entries.iter().find(attached).map_or(Value::Null, |entry| entry["blobId"].clone())
}

/// What [`staged`] brought is read back.
async fn assert_there(caller: &Caller, name: &str) {
    assert_eq!(caller.get(&format!("/v1/vfs/blobs/{name}")).await.bytes, name.as_bytes());
}

async fn assert_gone(scene: &Scene, caller: &Caller, name: &str) {
    caller.get(&format!("/v1/vfs/blobs/{name}")).await.refused(404, "unknown_blob");
    soon(async || !scene.objects().await.iter().any(|object| object == name)).await;
}

async fn of_two_items_for_one_stage_one_gets_it(scene: Scene) {
    let alice = scene.user("alice");
    for round in 0..ROUNDS {
        let (one, other) = (alice.file(2 * round + 1).await, alice.file(2 * round + 2).await);
        let name = format!("b{round}");
        staged(&alice, &name).await;
        let (to_one, to_other) = (json!({"itemId": one}), json!({"itemId": other}));
        let (first, second) =
            tokio::join!(attach(&alice, &name, to_one), attach(&alice, &name, to_other));
        let (won, lost, with, without) = match first.status {
            200 => (first, second, &one, &other),
            _ => (second, first, &other, &one),
        };
        assert_eq!(won.ok()["itemId"], json!(with));
        let refused = lost.refused(409, "stage_not_attachable");
        assert_eq!(refused["status"], "blob-stage:attached");
        assert_eq!(content_of(&alice, with).await, json!(name));
        assert_eq!(content_of(&alice, without).await, Value::Null);
        assert_there(&alice, &name).await;
    }
}

async fn of_two_contents_in_place_of_the_same_one_comes_first(scene: Scene) {
    let alice = scene.user("alice");
    let item = alice.file(1).await;
    let mut current = Value::Null;
    for round in 0..ROUNDS {
        let (one, other) = (format!("one{round}"), format!("other{round}"));
        staged(&alice, &one).await;
        staged(&alice, &other).await;
        let body = json!({"itemId": item, "expectedBlobId": current});
        let (first, second) =
            tokio::join!(attach(&alice, &one, body.clone()), attach(&alice, &other, body));
        let (won, lost, loser) = match first.status {
            200 => (first, second, &other),
            _ => (second, first, &one),
        };
        current = won.ok()["blobId"].clone();
        assert_eq!(lost.refused(409, "content_changed")["currentBlobId"], current);
        assert_eq!(content_of(&alice, &item).await, current);
        // Nothing is lost: who came second has the bytes still, and both are read.
        let kept = alice.get(&format!("/v1/vfs/blobs/stage/{loser}")).await.ok();
        assert_eq!(kept["status"], "blob-stage:staged");
        for name in [&one, &other] {
            assert_there(&alice, name).await;
        }
    }
}

async fn of_an_attach_and_an_abandon_one_wins(scene: Scene) {
    let alice = scene.user("alice");
    let item = alice.file(1).await;
    for round in 0..ROUNDS {
        let name = format!("b{round}");
        staged(&alice, &name).await;
        let attaching = attach(&alice, &name, json!({"itemId": item}));
        let (attached, abandoned) = tokio::join!(attaching, abandon(&alice, &name));
        if attached.status == 200 {
            let refused = abandoned.refused(409, "stage_not_attachable");
            assert_eq!(refused["status"], "blob-stage:attached");
            assert_eq!(content_of(&alice, &item).await, json!(name));
            assert_there(&alice, &name).await;
        } else {
            let refused = attached.refused(409, "stage_not_attachable");
            assert_eq!(refused["status"], "blob-stage:abandoned");
            abandoned.ok();
            assert_ne!(content_of(&alice, &item).await, json!(name));
            assert_gone(&scene, &alice, &name).await;
        }
    }
}

async fn of_an_attach_and_a_deletion_one_wins(scene: Scene) {
    let alice = scene.user("alice");
    let item = alice.file(1).await;
    for round in 0..ROUNDS {
        let name = format!("b{round}");
        staged(&alice, &name).await;
        let attaching = attach(&alice, &name, json!({"itemId": item}));
        let path = format!("/v1/vfs/blobs/{name}");
        let (attached, deleted) = tokio::join!(attaching, alice.delete(&path));
        if attached.status == 200 {
            deleted.refused(409, "blob_attached");
            assert_there(&alice, &name).await;
        } else {
            attached.refused(409, "stage_not_attachable");
            deleted.ok();
            assert_ne!(content_of(&alice, &item).await, json!(name));
            assert_gone(&scene, &alice, &name).await;
        }
    }
}

fn tus(caller: &Caller, method: &str, path: &str) -> reqwest::RequestBuilder {
    caller.request(method, path).header("tus-resumable", "1.0.0")
}

fn append(caller: &Caller, name: &str, offset: usize) -> reqwest::RequestBuilder {
    tus(caller, "PATCH", &format!("/v1/vfs/blobs/uploads/{name}"))
        .header("upload-offset", offset)
        .header("content-type", "application/offset+octet-stream")
}

async fn create(caller: &Caller, name: &str, length: usize) {
    stage(caller, name, name).await.ok();
    let metadata = {
        use base64::Engine as _;
        let name = base64::engine::general_purpose::STANDARD.encode(name);
        format!("stagingId {name},blobId {name}")
    };
    let request = tus(caller, "POST", "/v1/vfs/blobs/uploads").header("upload-metadata", metadata);
    assert_eq!(send(request.header("upload-length", length)).await.status, 201);
}

/// Whoever looks at an upload whose bytes are all there ends it too.
async fn of_two_calls_that_end_one_upload_both_hear_of_its_end(scene: Scene) {
    let alice = scene.user("alice");
    for round in 0..3 {
        let (name, bytes) = (format!("b{round}"), vec![7; 2_000_000]);
        create(&alice, &name, bytes.len()).await;
        let path = format!("/v1/vfs/blobs/stage/{name}");
        let looking = async {
            let mut offset = 0;
            while offset < bytes.len() as u64 {
                let state = alice.get(&path).await;
                match state.status {
                    200 => offset = state.json()["offset"].as_u64().unwrap(),
                    _ => drop(state.refused(409, "upload_superseded")),
                }
            }
        };
        let appending = send(append(&alice, &name, 0).body(bytes.clone()));
        let (appended, ()) = tokio::join!(appending, looking);
        if appended.status != 204 {
            appended.refused(409, "upload_superseded");
        }
        let state = alice.get(&path).await.ok();
        assert_eq!(state["size"], bytes.len());
        assert!(alice.get(&format!("/v1/vfs/blobs/{name}")).await.bytes == bytes);
    }
}

/// A request whose first bytes the server has, and whose others are still to come.
async fn begin(scene: &Scene, method: &str, path: &str, sizes: [usize; 2]) -> TcpStream {
    begin_at(scene, method, path, 0, sizes).await
}

async fn begin_at(
    scene: &Scene,
    method: &str,
    path: &str,
    offset: usize,
    sizes: [usize; 2],
) -> TcpStream {
    let address = scene.server.url().strip_prefix("http://").unwrap().to_owned();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let (token, length) = (scene.server.token("alice"), sizes[0] + sizes[1]);
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\
         tus-resumable: 1.0.0\r\nupload-offset: {offset}\r\ncontent-length: {length}\r\n\
         content-type: application/offset+octet-stream\r\nexpect: 100-continue\r\n\
         connection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).await.unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(&vec![7; sizes[0]]).await.unwrap();
    stream
}

/// Sends the rest, as far as the server wants it; gives status and code of the answer.
async fn end(stream: TcpStream, size: usize) -> (u16, String) {
    let (mut from, mut to) = stream.into_split();
    let rest = tokio::spawn(async move {
        let _ = to.write_all(&vec![7; size]).await;
        to
    });
    let mut answer = Vec::new();
    let _ = from.read_to_end(&mut answer).await;
    drop(rest.await);
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let body: Value = serde_json::from_str(body).unwrap();
    (head[9..12].parse().unwrap(), body["code"].as_str().unwrap().to_owned())
}

async fn what_stalls_is_swept_and_finishes_too_late(scene: Scene) {
    let alice = scene.user("alice");
    let item = alice.file(1).await;
    for (name, sizes) in [("small", [10, 10]), ("large", [2_000_000, 9_000_000])] {
        for resumable in [false, true] {
            let name = format!("{name}-{resumable}");
            let uploading = if resumable {
                create(&alice, &name, sizes[0] + sizes[1]).await;
                begin(&scene, "PATCH", &format!("/v1/vfs/blobs/uploads/{name}"), sizes).await
            } else {
                stage(&alice, &name, &name).await.ok();
                begin(&scene, "PUT", &format!("/v1/vfs/blobs/stage/{name}/data"), sizes).await
            };
            scene.server.clock().advance(Duration::from_secs(25 * 3_600));
            let path = format!("/v1/vfs/blobs/stage/{name}");
            let status = async || alice.get(&path).await.ok()["status"].clone();
            soon(async || status().await == "blob-stage:abandoned").await;
            let (status, code) = end(uploading, sizes[1]).await;
            let over = ["stage_expired", "stage_not_attachable", "upload_superseded"];
            assert!(status == 409 && over.contains(&&*code), "{name}: {status} {code}");
            let attached = attach(&alice, &name, json!({"itemId": item})).await;
            attached.refused(409, "stage_not_attachable");
            assert_gone(&scene, &alice, &name).await;
        }
    }
    soon(async || scene.objects().await.is_empty()).await;
}

const MB: usize = 1_000_000;

/// Three megabytes of ones are there; then comes a call that stalls amid sevens.
async fn stalled(scene: &Scene, name: &str) -> TcpStream {
    let alice = scene.user("alice");
    create(&alice, name, 12 * MB).await;
    assert_eq!(send(append(&alice, name, 0).body(vec![1; 3 * MB])).await.status, 204);
    let path = format!("/v1/vfs/blobs/uploads/{name}");
    begin_at(scene, "PATCH", &path, 3 * MB, [2 * MB, 7 * MB]).await
}

async fn assert_ones_and_eights(alice: &Caller, name: &str) {
    let read = alice.get(&format!("/v1/vfs/blobs/{name}")).await;
    assert_eq!(read.status, 200);
    assert!(read.bytes[..3 * MB] == vec![1; 3 * MB] && read.bytes[3 * MB..] == vec![8; 9 * MB]);
}

/// A client whose connection hangs goes on over another.
async fn who_comes_later_takes_over_what_stalls(scene: Scene) {
    let alice = scene.user("alice");
    let hanging = stalled(&scene, "b").await;
    assert_eq!(send(append(&alice, "b", 3 * MB).body(vec![8; 9 * MB])).await.status, 204);
    assert_ones_and_eights(&alice, "b").await;
    assert_eq!(end(hanging, 7 * MB).await, (409, "upload_superseded".to_owned()));
    assert_ones_and_eights(&alice, "b").await;
    soon(async || scene.objects().await == ["b"]).await;
}

async fn who_was_taken_over_adds_nothing_any_more(scene: Scene) {
    let alice = scene.user("alice");
    let hanging = stalled(&scene, "b").await;
    assert_eq!(send(append(&alice, "b", 3 * MB).body(vec![8; 4 * MB])).await.status, 204);
    assert_eq!(end(hanging, 7 * MB).await, (409, "upload_superseded".to_owned()));
    assert_eq!(send(append(&alice, "b", 7 * MB).body(vec![8; 5 * MB])).await.status, 204);
    assert_ones_and_eights(&alice, "b").await;
}

async fn of_two_whole_uploads_the_one_that_stalls_changes_nothing(scene: Scene) {
    let alice = scene.user("alice");
    stage(&alice, "b", "b").await.ok();
    let path = "/v1/vfs/blobs/stage/b/data";
    let hanging = begin(&scene, "PUT", path, [2 * MB, 7 * MB]).await;
    let bytes = vec![8; 9 * MB];
    // Whichever of the two begins to write later takes over.
    soon(async || upload(&alice, "b", &bytes).await.status == 200).await;
    let (status, code) = end(hanging, 7 * MB).await;
    assert!(status == 409 && ["upload_superseded", "upload_differs"].contains(&&*code), "{code}");
    assert!(alice.get("/v1/vfs/blobs/b").await.bytes == bytes);
    soon(async || scene.objects().await == ["b"]).await;
}

async fn of_two_small_uploads_the_one_that_stalls_changes_nothing(scene: Scene) {
    let alice = scene.user("alice");
    stage(&alice, "b", "b").await.ok();
    let hanging = begin(&scene, "PUT", "/v1/vfs/blobs/stage/b/data", [10, 10]).await;
    upload(&alice, "b", &[8; 20]).await.ok();
    assert_eq!(end(hanging, 10).await, (409, "upload_differs".to_owned()));
    assert_eq!(alice.get("/v1/vfs/blobs/b").await.bytes, [8; 20]);
    assert_eq!(scene.objects().await, ["b"]);
}
