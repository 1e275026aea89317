//! Deletions, versions, and what the sweeper does about what nobody needs.

use std::time::Duration;

use serde_json::{Value, json};
use vfs_sync_core::id::BlobId;
use vfs_sync_server::ServerConfig;

use crate::blobs::{abandon, attach, bring, stage, upload};
use crate::scene::{Answer, Caller, Scene, on_every_store, send, soon};

on_every_store! {
    with super::busy();
    an_unattached_blob_of_ones_own_is_deleted
    a_deletion_that_stopped_half_way_is_finished
    an_expired_stage_is_swept
    an_expired_upload_is_swept_with_its_parts
    bytes_that_come_late_are_swept_too
    of_an_attach_and_the_sweeper_one_wins
    of_two_uploads_of_one_id_one_wins
    the_last_versions_and_the_young_ones_are_kept
}

const DAY: Duration = Duration::from_secs(24 * 3_600);

/// A sweeper that is always about.
fn busy() -> ServerConfig {
    ServerConfig { sweep_interval: Duration::from_millis(10), ..ServerConfig::default() }
}

async fn delete(caller: &Caller, blob: &str) -> Answer {
    send(caller.request("DELETE", &format!("/v1/vfs/blobs/{blob}"))).await
}

async fn an_unattached_blob_of_ones_own_is_deleted(scene: Scene) {
    let (alice, bob) = (scene.user("alice"), scene.user("bob"));
    let item = alice.file(1).await;
    bring(&alice, &item, "attached", b"bytes").await;
    delete(&alice, "attached").await.refused(409, "blob_attached");
    stage(&alice, "s", "b").await.ok();
    upload(&alice, "s", b"bytes").await.ok();
    delete(&bob, "b").await.refused(404, "unknown_blob");
    delete(&bob, "none").await.refused(404, "unknown_blob");
    assert_eq!(delete(&alice, "b").await.ok(), json!({"deleted": true, "blobId": "b"}));
    delete(&alice, "b").await.refused(404, "unknown_blob");
    alice.get("/v1/vfs/blobs/b").await.refused(404, "unknown_blob");
    attach(&alice, "s", json!({"itemId": item})).await.refused(409, "stage_not_attachable");
    stage(&alice, "t", "b").await.refused(409, "id_taken");
    assert_eq!(scene.objects().await, ["attached"]);
    assert_eq!(alice.get("/v1/vfs/blobs/attached").await.bytes, b"bytes");
}

async fn a_deletion_that_stopped_half_way_is_finished(scene: Scene) {
    let alice = scene.user("alice");
    stage(&alice, "s", "b").await.ok();
    upload(&alice, "s", b"bytes").await.ok();
    let (user, now) =
        (vfs_sync_core::id::UserId::new("alice").unwrap(), scene.server.clock().now());
    let blob = BlobId::new("b").unwrap();
    scene.server.store().delete_blob(&user, &blob, now).await.unwrap();
    alice.get("/v1/vfs/blobs/b").await.refused(404, "unknown_blob");
    soon(async || scene.objects().await.is_empty()).await;
}

async fn an_expired_stage_is_swept(scene: Scene) {
    let alice = scene.user("alice");
    let item = alice.file(1).await;
    stage(&alice, "s", "b").await.ok();
    upload(&alice, "s", b"bytes").await.ok();
    scene.server.clock().advance(DAY + DAY);
    soon(async || scene.objects().await.is_empty()).await;
    let stage = alice.get("/v1/vfs/blobs/stage/s").await.ok();
    assert_eq!(stage["status"], "blob-stage:abandoned");
    attach(&alice, "s", json!({"itemId": item})).await.refused(409, "stage_not_attachable");
}

async fn an_expired_upload_is_swept_with_its_parts(scene: Scene) {
    let alice = scene.user("alice");
    let tus =
        |method: &str, path: &str| alice.request(method, path).header("tus-resumable", "1.0.0");
    let id = "stagingId cw==,blobId Yg==";
    let create = tus("POST", "/v1/vfs/blobs/uploads").header("upload-metadata", id);
    send(create.header("upload-length", 20_000_000)).await;
    let append = tus("PATCH", "/v1/vfs/blobs/uploads/s").header("upload-offset", 0);
    let append = append.header("content-type", "application/offset+octet-stream");
    assert_eq!(send(append.body(vec![1; 9_000_000])).await.status, 204);
    assert_eq!(scene.objects().await.len(), 1, "what is not a whole part");
    scene.server.clock().advance(DAY + DAY);
    soon(async || scene.objects().await.is_empty()).await;
    assert_eq!(send(tus("HEAD", "/v1/vfs/blobs/uploads/s")).await.status, 410);
}

/// What killed writes left in a directory, by the age of the file.
#[tokio::test]
async fn what_a_killed_write_left_behind_goes_after_its_time() {
    let config = ServerConfig { prune_interval: Duration::from_millis(10), ..busy() };
    let scene = Scene::of(vfs_sync_testkit::TestServer::builder().config(config)).await;
    let alice = scene.user("alice");
    stage(&alice, "s", "b").await.ok();
    upload(&alice, "s", b"bytes").await.ok();
    let hour = Duration::from_secs(3_600);
    let made = |name: &str, age: Duration| {
        let path = scene.server.blobs_directory().join(name);
        // A name of its own until its age is that of which it is to be.
        let beside = scene.server.directory().join(name);
        let file = std::fs::File::create(&beside).unwrap();
        file.set_modified(std::time::SystemTime::now() - age).unwrap();
        std::fs::rename(beside, path).unwrap();
    };
    for (name, age) in [
        ("_tyoung#put", hour / 2),
        ("half#1", hour / 2),
        ("_tupload", 6 * DAY),
        ("stranger", 60 * DAY),
        ("_told#put", 2 * hour),
        ("older#1", 2 * hour),
        ("_tnobodys", 8 * DAY),
    ] {
        made(name, age);
    }
    let left = ["_tupload", "_tyoung#put", "b", "half#1", "stranger"];
    soon(async || scene.objects().await == left).await;
    assert_eq!(alice.get("/v1/vfs/blobs/b").await.bytes, b"bytes");
}

async fn of_an_attach_and_the_sweeper_one_wins(scene: Scene) {
    let alice = scene.user("alice");
    let item = alice.file(1).await;
    for round in 0..8 {
        let name = format!("b{round}");
        stage(&alice, &name, &name).await.ok();
        upload(&alice, &name, name.as_bytes()).await.ok();
        let attaching = attach(&alice, &name, json!({"itemId": item}));
        let expiring = async { scene.server.clock().advance(DAY + DAY) };
        let (attached, ()) = tokio::join!(attaching, expiring);
        let state = alice.get(&format!("/v1/vfs/blobs/stage/{name}")).await.ok();
        let read = alice.get(&format!("/v1/vfs/blobs/{name}")).await;
        if attached.status == 200 {
            assert_eq!(state["status"], "blob-stage:attached");
            assert_eq!(read.bytes, name.as_bytes());
        } else {
            let code = attached.json()["code"].as_str().unwrap().to_owned();
            assert!(code == "stage_expired" || code == "stage_not_attachable", "{code}");
            soon(async || alice.get(&format!("/v1/vfs/blobs/{name}")).await.status == 404).await;
        }
    }
}

async fn of_two_uploads_of_one_id_one_wins(scene: Scene) {
    let alice = scene.user("alice");
    for round in 0..4 {
        for size in [1_000, 1_500_000] {
            let name = format!("b{round}-{size}");
            stage(&alice, &name, &name).await.ok();
            let (one, other) = (vec![1; size], vec![2; size]);
            let (first, second) =
                tokio::join!(upload(&alice, &name, &one), upload(&alice, &name, &other));
            let won: Vec<&Vec<u8>> = [(&first, &one), (&second, &other)]
                .into_iter()
                .filter(|(answer, _)| answer.status == 200)
                .map(|(_, bytes)| bytes)
                .collect();
            assert!(won.len() <= 1, "both were told that they won");
            for lost in [&first, &second].into_iter().filter(|answer| answer.status != 200) {
                let code = lost.json()["code"].as_str().unwrap_or_default().to_owned();
                let known = ["upload_differs", "upload_superseded"];
                assert!(known.contains(&&*code), "{code}");
            }
            // Whoever lost may try again; nothing that was acknowledged changes.
            if let [winner] = won[..] {
                let path = format!("/v1/vfs/blobs/{name}");
                assert!(alice.get(&path).await.bytes == *winner);
                let loser = if *winner == one { &other } else { &one };
                upload(&alice, &name, loser).await.refused(409, "upload_differs");
                assert!(alice.get(&path).await.bytes == *winner);
            }
        }
    }
}

async fn bytes_that_come_late_are_swept_too(scene: Scene) {
    let alice = scene.user("alice");
    stage(&alice, "s", "b").await.ok();
    abandon(&alice, "s").await.ok();
    // A write that was under way when its server was killed.
    let blob = BlobId::new("b").unwrap();
    scene.server.blobs().put(&blob, "late".into()).await.unwrap();
    alice.get("/v1/vfs/blobs/b").await.refused(404, "unknown_blob");
    scene.server.clock().advance(Duration::from_secs(3_600));
    soon(async || scene.objects().await.is_empty()).await;
}

async fn the_last_versions_and_the_young_ones_are_kept(scene: Scene) {
    let (alice, bob) = (scene.user("alice"), scene.user("bob"));
    let item = alice.file(1).await;
    let path = format!("/v1/vfs/items/{item}/versions");
    let ids = |answer: Value| -> Vec<String> {
        let versions = answer["versions"].as_array().unwrap().clone();
        versions.iter().map(|version| version["blobId"].as_str().unwrap().to_owned()).collect()
    };
    for at in 0..13 {
        bring(&alice, &item, &format!("b{at}"), format!("content {at}").as_bytes()).await;
        scene.server.clock().advance(Duration::from_secs(60));
    }
    let newest_first =
        |oldest: usize| -> Vec<String> { (oldest..13).rev().map(|at| format!("b{at}")).collect() };
    assert_eq!(ids(alice.get(&path).await.ok()), newest_first(0));
    scene.server.clock().advance(29 * DAY);
    assert_eq!(ids(alice.get(&path).await.ok()), newest_first(0));
    scene.server.clock().advance(2 * DAY);
    soon(async || ids(alice.get(&path).await.ok()) == newest_first(2)).await;
    soon(async || scene.objects().await.len() == 11).await;
    alice.get("/v1/vfs/blobs/b0").await.refused(404, "unknown_blob");
    assert_eq!(alice.get("/v1/vfs/blobs/b2").await.bytes, b"content 2");
    bob.get(&path).await.refused(404, "unknown_item");
    alice.get("/v1/vfs/items/none/versions").await.refused(404, "unknown_item");
}
