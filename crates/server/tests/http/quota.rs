//! What a user may have, and what limits say about it.

use std::time::Duration;

use serde_json::json;
use vfs_sync_server::{MetadataQuota, ServerConfig};

use crate::blobs::{abandon, attach, stage, upload};
use crate::scene::{Scene, on_every_store, send};

on_every_store! {
    with super::small();
    bytes_beyond_the_quota_are_refused_and_not_kept
    what_is_attached_is_staged_no_more
    stages_are_bounded
    each_file_of_a_batch_counts
    what_rides_along_beyond_the_quota_is_not_kept_and_fits_later
    an_announced_upload_counts_before_its_bytes_come
    what_a_request_announces_counts_before_its_bytes_come
    items_beyond_the_quota_are_refused_by_name
}

pub(crate) fn small() -> ServerConfig {
    ServerConfig {
        max_blob_bytes: 4_000_000,
        max_stored_bytes: 5_000_000,
        max_staged_bytes: 3_000_000,
        max_open_stages: 3,
        metadata: MetadataQuota { items: 8, ..MetadataQuota::default() },
        ..ServerConfig::default()
    }
}

async fn items_beyond_the_quota_are_refused_by_name(scene: Scene) {
    let alice = scene.user("alice");
    let folder = |n: u64| {
        json!({"opId": format!("o{n}"), "opType": "item_upsert", "itemId": format!("i{n}"),
            "replicaId": "laptop", "writeId": n, "occurredAt": "2026-01-01T00:00:00Z",
            "objectType": "folder", "name": format!("f{n}")})
    };
    let all: Vec<_> = (1..=10).map(folder).collect();
    let limits = alice.get("/v1/vfs/limits").await.ok();
    assert_eq!((&limits["maxItems"], &limits["maxItemGrants"]), (&json!(8), &json!(256)));
    alice.push("laptop", all[..2].to_vec()).await.ok();
    let refused = alice.push("laptop", all.clone()).await.refused(413, "quota_exceeded");
    let told = (&refused["limit"], &refused["max"], &refused["wanted"]);
    assert_eq!(told, (&json!("maxItems"), &json!(8), &json!(9)));
    let kept = alice.push("laptop", all[..8].to_vec()).await.ok();
    let statuses = kept["results"].as_array().unwrap();
    assert!(statuses.iter().all(|one| one["status"] == "alreadyApplied"), "{statuses:?}");
}

async fn bytes_beyond_the_quota_are_refused_and_not_kept(scene: Scene) {
    let alice = scene.user("alice");
    stage(&alice, "s", "b").await.ok();
    upload(&alice, "s", &vec![0; 4_000_001]).await.refused(413, "too_large");
    let refused = upload(&alice, "s", &vec![0; 3_500_000]).await.refused(413, "quota_exceeded");
    assert_eq!((&refused["limit"], &refused["max"]), (&json!("maxStagedBytes"), &json!(3_000_000)));
    assert_eq!(scene.objects().await, [""; 0]);
    upload(&alice, "s", &vec![0; 3_000_000]).await.ok();
    stage(&alice, "t", "c").await.ok();
    upload(&alice, "t", b"x").await.refused(413, "quota_exceeded");
    assert_eq!(scene.objects().await, ["b"]);
    abandon(&alice, "s").await.ok();
    upload(&alice, "t", b"x").await.ok();
    let bob = scene.user("bob");
    stage(&bob, "u", "d").await.ok();
    upload(&bob, "u", &vec![0; 3_000_000]).await.ok();
}

async fn what_is_attached_is_staged_no_more(scene: Scene) {
    let alice = scene.user("alice");
    for at in 1..=2 {
        let (item, name) = (alice.file(at).await, format!("b{at}"));
        stage(&alice, &name, &name).await.ok();
        upload(&alice, &name, &vec![0; 2_500_000]).await.ok();
        attach(&alice, &name, json!({"itemId": item})).await.ok();
    }
    stage(&alice, "s", "b").await.ok();
    let refused = upload(&alice, "s", b"x").await.refused(413, "quota_exceeded");
    assert_eq!(refused["limit"], "maxStoredBytes");
}

async fn stages_are_bounded(scene: Scene) {
    let alice = scene.user("alice");
    for name in ["a", "b", "c"] {
        stage(&alice, name, name).await.ok();
    }
    let refused = stage(&alice, "d", "d").await.refused(413, "quota_exceeded");
    assert_eq!(refused["limit"], "maxOpenStages");
    alice.get("/v1/vfs/blobs/stage/d").await.refused(404, "unknown_stage");
    stage(&alice, "a", "a").await.ok();
    abandon(&alice, "a").await.ok();
    stage(&alice, "d", "d").await.ok();
}

async fn each_file_of_a_batch_counts(scene: Scene) {
    use base64::Engine as _;
    let alice = scene.user("alice");
    let data = base64::engine::general_purpose::STANDARD.encode(vec![0; 900_000]);
    let mut files = Vec::new();
    for at in 1..=4 {
        // What is attached to nothing stays staged.
        let (name, attach) = (format!("b{at}"), json!({"itemId": "nowhere"}));
        files
            .push(json!({"stagingId": name, "blobId": name, "dataBase64": data, "attach": attach}));
    }
    let answer = alice.post("/v1/vfs/blobs/batch", json!({"files": files})).await.ok();
    let errors: Vec<_> =
        answer["results"].as_array().unwrap().iter().map(|one| &one["error"]).collect();
    let over: Vec<_> = errors.iter().filter(|error| error["code"] == "quota_exceeded").collect();
    assert_eq!(over.len(), 1, "{answer}");
    assert_eq!((&over[0]["httpStatus"], &over[0]["limit"]), (&json!(413), &json!("maxOpenStages")));
    assert_eq!(scene.objects().await.len(), 3);

    let (stage, bytes) = (format!("/v1/vfs/blobs/stage/{}", "b1"), vec![0; 400_000]);
    alice.post(&format!("{stage}/abandon"), json!({})).await.ok();
    self::stage(&alice, "s", "c").await.ok();
    upload(&alice, "s", &bytes).await.ok();
    let left = scene.objects().await;
    for name in ["b2", "b3"] {
        abandon(&alice, name).await.ok();
    }
    assert_eq!((left.len(), scene.objects().await), (3, vec!["c".to_owned()]));
    let large = |name: &str| json!({"stagingId": name, "blobId": name, "dataBase64": data, "attach": {"itemId": "x"}});
    // Two of them fit into what is left of the staged bytes, once.
    let batch = json!({"files": [large("d"), large("e")]});
    alice.post("/v1/vfs/blobs/batch", batch).await.ok();
    abandon(&alice, "s").await.ok();
    self::stage(&alice, "t", "f").await.ok();
    upload(&alice, "t", &vec![0; 1_300_000]).await.refused(413, "quota_exceeded");
    assert_eq!(scene.objects().await, ["d", "e"]);
}

async fn what_rides_along_beyond_the_quota_is_not_kept_and_fits_later(scene: Scene) {
    use base64::Engine as _;
    let alice = scene.user("alice");
    let item = alice.file(1).await;
    stage(&alice, "full", "full").await.ok();
    upload(&alice, "full", &vec![0; 2_500_000]).await.ok();
    let data = base64::engine::general_purpose::STANDARD.encode(vec![0; 600_000]);
    let inline = |name: &str| json!({"stagingId": name, "blobId": name, "dataBase64": data});
    let mut file = inline("c");
    file["attach"] = json!({"itemId": item});
    let batch = json!({"files": [file]});
    stage(&alice, "b", "b").await.ok();
    for _ in 0..2 {
        let refused = alice.post("/v1/vfs/blobs/stage", inline("b")).await;
        let refused = refused.refused(413, "quota_exceeded");
        assert_eq!(
            (&refused["limit"], &refused["wanted"]),
            (&json!("maxStagedBytes"), &json!(3_100_000))
        );
        let answer = alice.post("/v1/vfs/blobs/batch", batch.clone()).await.ok();
        assert_eq!(answer["results"][0]["error"]["code"], "quota_exceeded");
        assert_eq!(scene.objects().await, ["full"]);
    }
    // A stage that was there before stays; one that was to come with its bytes does not.
    assert_eq!(alice.get("/v1/vfs/blobs/stage/b").await.ok()["status"], "blob-stage:staged");
    alice.get("/v1/vfs/blobs/stage/c").await.refused(404, "unknown_stage");
    abandon(&alice, "full").await.ok();
    assert_eq!(alice.post("/v1/vfs/blobs/stage", inline("b")).await.ok()["size"], 600_000);
    let answer = alice.post("/v1/vfs/blobs/batch", batch).await.ok();
    assert_eq!(answer["results"][0]["status"], "attached", "{answer}");
}

async fn an_announced_upload_counts_before_its_bytes_come(scene: Scene) {
    let alice = scene.user("alice");
    let create = |length: u64| {
        let request = alice.request("POST", "/v1/vfs/blobs/uploads");
        send(request.header("tus-resumable", "1.0.0").header("upload-length", length))
    };
    assert_eq!(create(2_900_000).await.status, 201);
    create(200_000).await.refused(413, "quota_exceeded");
    assert_eq!(create(100_000).await.status, 201);
}

/// However the bytes come.
#[tokio::test]
async fn a_blob_has_no_more_bytes_than_is_configured() {
    use base64::Engine as _;
    let config = ServerConfig { max_blob_bytes: 1_000, ..ServerConfig::default() };
    let scene = Scene::of(vfs_sync_testkit::TestServer::builder().config(config)).await;
    let alice = scene.user("alice");
    let item = alice.file(1).await;
    let inline = |name: &str, size: usize| {
        let data = base64::engine::general_purpose::STANDARD.encode(vec![7; size]);
        json!({"stagingId": name, "blobId": name, "dataBase64": data})
    };
    let file = |name: &str, size: usize| {
        let mut file = inline(name, size);
        file["attach"] = json!({"itemId": item});
        file
    };
    let batch = json!({"files": [file("a", 1_000), file("b", 1_001)]});
    let answer = alice.post("/v1/vfs/blobs/batch", batch).await.ok();
    assert_eq!(answer["results"][0]["status"], "attached");
    let error = &answer["results"][1]["error"];
    assert_eq!((&error["code"], &error["maxSize"]), (&json!("too_large"), &json!(1_000)));
    alice.post("/v1/vfs/blobs/stage", inline("c", 1_000)).await.ok();
    alice.post("/v1/vfs/blobs/stage", inline("d", 1_001)).await.refused(413, "too_large");
    alice.get("/v1/vfs/blobs/stage/d").await.refused(404, "unknown_stage");
    for size in [1_001, 2_000_000] {
        stage(&alice, "e", "e").await.ok();
        upload(&alice, "e", &vec![7; size]).await.refused(413, "too_large");
    }
    upload(&alice, "e", &vec![7; 1_000]).await.ok();
    let tus = |method: &str, path: &str| {
        let request = alice.request(method, &format!("/v1/vfs/blobs/uploads{path}"));
        request.header("tus-resumable", "1.0.0")
    };
    send(tus("POST", "").header("upload-length", 1_001)).await.refused(413, "too_large");
    let later = tus("POST", "").header("upload-defer-length", 1);
    send(later.header("upload-metadata", "stagingId Zg==,blobId Zg==")).await;
    let append = tus("PATCH", "/f").header("upload-offset", 0);
    let append = append.header("content-type", "application/offset+octet-stream");
    send(append.body(vec![7; 1_001])).await.refused(413, "too_large");
    let append = tus("PATCH", "/f").header("upload-offset", 0).header("upload-length", 1_001);
    let append = append.header("content-type", "application/offset+octet-stream");
    send(append.body(vec![7; 10])).await.refused(413, "too_large");
    assert_eq!(send(tus("OPTIONS", "")).await.header("tus-max-size"), "1000");
    assert_eq!(scene.objects().await.iter().filter(|name| !name.starts_with("_t")).count(), 3);
}

#[tokio::test]
#[ignore = "needs an S3 server"]
async fn the_limits_are_those_that_are_configured() {
    let keep_deleted = Duration::from_secs(45 * 24 * 3_600);
    let config = ServerConfig { keep_deleted, ..small() };
    let scene = Scene::of(vfs_sync_testkit::TestServer::builder().config(config)).await;
    let limits = scene.user("alice").get("/v1/vfs/limits").await.ok();
    for (name, value) in [
        ("maxBlobBytes", 4_000_000),
        ("maxStoredBytes", 5_000_000),
        ("maxStagedBytes", 3_000_000),
        ("maxOpenStages", 3),
        ("maxStageSeconds", 7 * 24 * 3_600),
        ("defaultStageSeconds", 24 * 3_600),
        ("keptVersions", 10),
        ("keepVersionsSeconds", 30 * 24 * 3_600),
        ("keepDeletedSeconds", 45 * 24 * 3_600),
    ] {
        assert_eq!(limits[name], value, "{name}");
    }
    let scene = Scene::on_s3().await;
    let limits = scene.user("alice").get("/v1/vfs/limits").await.ok();
    assert!(limits["maxBlobBytes"].as_u64().unwrap() < 5 << 40, "as large as 10,000 parts");
}

async fn what_a_request_announces_counts_before_its_bytes_come(scene: Scene) {
    let alice = scene.user("alice");
    stage(&alice, "s", "b").await.ok();
    let refused = upload(&alice, "s", &vec![0; 3_000_001]).await.refused(413, "quota_exceeded");
    assert_eq!(refused["wanted"], 3_000_001);
    upload(&alice, "s", &vec![0; 3_000_000]).await.ok();
}

/// How bytes come whose number nobody announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unannounced {
    Put,
    Deferred,
    Checksum,
}

/// Bytes of all files of the object store.
fn on_disk(scene: &Scene) -> u64 {
    let files = std::fs::read_dir(scene.server.blobs_directory()).unwrap();
    files.filter_map(|file| Some(file.ok()?.metadata().ok()?.len())).sum()
}

/// A part is 8 MiB, and the quota is less.
#[tokio::test]
async fn no_byte_is_written_that_does_not_count() {
    use futures::StreamExt as _;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    const MIB: u64 = 1 << 20;
    for (way, quota) in [
        (Unannounced::Put, 1),
        (Unannounced::Put, 20),
        (Unannounced::Deferred, 1),
        (Unannounced::Deferred, 20),
        (Unannounced::Checksum, 1),
        (Unannounced::Checksum, 20),
        (Unannounced::Checksum, 100),
    ] {
        let config = ServerConfig { max_staged_bytes: quota * MIB, ..ServerConfig::default() };
        let scene =
            Arc::new(Scene::of(vfs_sync_testkit::TestServer::builder().config(config)).await);
        let alice = scene.user("alice");
        let most = Arc::new(AtomicU64::new(0));
        let looks = (Arc::clone(&scene), Arc::clone(&most));
        let body = futures::stream::iter(0..48).map(move |_| {
            looks.1.fetch_max(on_disk(&looks.0), Ordering::Relaxed);
            Ok::<_, std::io::Error>(vec![7; 1 << 20])
        });
        let body = reqwest::Body::wrap_stream(body);
        let tus = |method: &str, path: &str| {
            let request = alice.request(method, &format!("/v1/vfs/blobs/uploads{path}"));
            request.header("tus-resumable", "1.0.0")
        };
        let append = tus("PATCH", "/s").header("upload-offset", 0);
        let append = append.header("content-type", "application/offset+octet-stream");
        let request = match way {
            Unannounced::Put => {
                stage(&alice, "s", "b").await.ok();
                alice.request("PUT", "/v1/vfs/blobs/stage/s/data")
            }
            Unannounced::Deferred | Unannounced::Checksum => {
                let create = tus("POST", "").header("upload-metadata", "stagingId cw==");
                let created = send(create.header("upload-defer-length", 1)).await;
                assert_eq!(created.status, 201);
                let sum = "sha1 qqqqqqqqqqqqqqqqqqqqqqqqqqo=";
                if way == Unannounced::Deferred {
                    append
                } else {
                    append.header("upload-checksum", sum)
                }
            }
        };
        let expected = if quota < 48 { 413 } else { 460 };
        let status = request.body(body).send().await.map(|answer| answer.status().as_u16());
        // The server may hang up on a body that it refused while it comes.
        assert!(
            status.as_ref().is_ok_and(|status| *status == expected) || status.is_err(),
            "{way:?} {quota}: {status:?}"
        );
        most.fetch_max(on_disk(&scene), Ordering::Relaxed);
        let most = most.load(Ordering::Relaxed);
        assert!(most <= quota * MIB, "{way:?} {quota}: {most}");
        if way != Unannounced::Deferred {
            assert_eq!(on_disk(&scene), 0, "{way:?} {quota}");
        }
        // What was counted for it counts no more, or is there.
        let left = quota * MIB - on_disk(&scene);
        stage(&alice, "t", "u").await.ok();
        upload(&alice, "t", &vec![0; usize::try_from(left).unwrap()]).await.ok();
        upload(&alice, "t", b"").await;
    }
}
