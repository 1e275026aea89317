//! An object store that fails, as callers are told.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use http::Method;
use serde_json::json;
use vfs_sync_blobs::testing::{Fault, FaultProxy, new_s3_place};
use vfs_sync_blobs::{BlobStore as _, ObjectBlobs, S3Config};
use vfs_sync_core::id::BlobId;
use vfs_sync_server::ServerConfig;
use vfs_sync_testkit::TestServer;

use crate::blobs::{abandon, attach, bring, stage, upload};
use crate::scene::{Scene, on_every_store, send, soon};

async fn behind_proxy() -> (FaultProxy, Scene) {
    let place = new_s3_place().await.unwrap();
    let proxy = FaultProxy::before(&place).await;
    let blobs = ObjectBlobs::s3(&proxy.config(&place)).unwrap();
    blobs.probe().await.unwrap();
    let sweep_interval = Duration::from_millis(20);
    let config = ServerConfig { sweep_interval, ..ServerConfig::default() };
    let builder = TestServer::builder().blobs(Arc::new(blobs)).config(config);
    (proxy, Scene::of(builder).await)
}

#[tokio::test]
#[ignore = "needs an S3 server"]
async fn each_code_is_told_at_each_operation_and_a_retry_mends_it() {
    let (proxy, scene) = behind_proxy().await;
    let alice = scene.user("alice");
    let item = alice.file(1).await;
    bring(&alice, &item, "b", b"bytes").await;
    for (status, code, retryable) in [
        (403, "AccessDenied", false),
        (503, "ServiceUnavailable", true),
        (503, "SlowDown", true),
        (500, "InternalError", true),
        (400, "InvalidObjectState", false),
    ] {
        let name = format!("s-{code}");
        stage(&alice, &name, &name).await.ok();
        proxy.fail(None, Fault::Answer { status, code: code.into() });
        let inline = format!("i-{code}");
        let inline = json!({"stagingId": inline, "blobId": inline, "dataBase64": "aGVsbG8="});
        let ridden = alice.post("/v1/vfs/blobs/stage", inline.clone()).await;
        let stored = upload(&alice, &name, b"bytes").await;
        let read = alice.get("/v1/vfs/blobs/b").await;
        let abandoned = abandon(&alice, &name).await;
        for (answer, sentence) in [
            (ridden, "Failed to persist blob data"),
            (stored, "Failed to persist blob data"),
            (read, "Failed to read blob data"),
            (abandoned, "Failed to delete blob data"),
        ] {
            let body = answer.refused(500, "blob_store_error");
            assert_eq!(body["error"], sentence);
            assert_eq!(
                (&body["storageCode"], &body["retryable"]),
                (&json!(code), &json!(retryable))
            );
            assert_eq!(answer.header("retry-after"), if code == "SlowDown" { "1" } else { "" });
            // S3 hides from who may not list whether an object is there: that is said.
            let hides = (code, sentence) == ("AccessDenied", "Failed to read blob data");
            let hint = body["hint"].as_str().unwrap_or_default();
            assert_eq!(hint.contains("missing") && hint.contains("list"), hides, "{body}");
        }
        assert_eq!(scene.nobody().get("/readyz").await.status, 200);
        let looked = scene.administrator("root").get("/v1/vfs/admin/blobs/b").await.ok();
        assert_eq!(looked["object"], json!({"storageCode": code, "retryable": retryable}));
        proxy.heal();
        assert_eq!(alice.get("/v1/vfs/blobs/b").await.bytes, b"bytes");
        abandon(&alice, &name).await.ok();
        assert_eq!(alice.post("/v1/vfs/blobs/stage", inline).await.ok()["size"], 5);
    }
}

/// A server whose operator's listener is there, before a store that fails as it is told.
async fn watched() -> (FaultProxy, Scene) {
    let place = new_s3_place().await.unwrap();
    let proxy = FaultProxy::before(&place).await;
    let blobs = ObjectBlobs::s3(&proxy.config(&place)).unwrap();
    blobs.probe().await.unwrap();
    (proxy, Scene::of(TestServer::builder().blobs(Arc::new(blobs)).admin()).await)
}

#[tokio::test]
#[ignore = "needs an S3 server"]
async fn each_failure_is_counted_by_operation_and_code() {
    let (proxy, scene) = watched().await;
    let alice = scene.user("alice");
    for name in ["b", "c"] {
        stage(&alice, name, name).await.ok();
    }
    upload(&alice, "b", b"bytes").await.ok();
    proxy.fail(None, Fault::Answer { status: 400, code: "CountedCode".into() });
    upload(&alice, "c", b"bytes").await.refused(500, "blob_store_error");
    for _ in 0..2 {
        alice.get("/v1/vfs/blobs/b").await.refused(500, "blob_store_error");
    }
    alice.delete("/v1/vfs/blobs/b").await.refused(500, "blob_store_error");
    let metrics = format!("{}/metrics", scene.server.admin_url().unwrap());
    let text = reqwest::get(metrics).await.unwrap().text().await.unwrap();
    for (operation, count) in [("persist", 1), ("read", 2), ("delete", 1)] {
        let name = "vfs_sync_blob_store_errors_total";
        let labels = [
            format!(r#"{{operation="{operation}",storage_code="CountedCode"}}"#),
            format!(r#"{{storage_code="CountedCode",operation="{operation}"}}"#),
        ];
        let told = labels.iter().any(|labels| text.contains(&format!("{name}{labels} {count}")));
        assert!(told, "{operation} in\n{text}");
    }
}

#[tokio::test]
#[ignore = "needs an S3 server"]
async fn nobody_listening_is_told_as_an_outage() {
    let place = new_s3_place().await.unwrap();
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = Some(format!("http://{}", nobody.local_addr().unwrap()));
    drop(nobody);
    let blobs = ObjectBlobs::s3(&S3Config { endpoint, ..place }).unwrap();
    let scene = Scene::of(TestServer::builder().blobs(Arc::new(blobs))).await;
    let alice = scene.user("alice");
    for (name, size) in [("small", 5), ("large", 2_000_000)] {
        stage(&alice, name, name).await.ok();
        let body = upload(&alice, name, &vec![7; size]).await.refused(500, "blob_store_error");
        assert_eq!(body["error"], "Failed to persist blob data");
        assert_eq!(
            (&body["storageCode"], &body["retryable"]),
            (&json!("ServiceUnavailable"), &json!(true))
        );
    }
    assert_eq!(scene.nobody().get("/readyz").await.status, 200);
}

#[tokio::test]
#[ignore = "needs an S3 server"]
async fn a_resumable_upload_goes_on_after_a_failure_of_the_store() {
    let (proxy, scene) = behind_proxy().await;
    let alice = scene.user("alice");
    let bytes: Vec<u8> = (0..20_000_000_u32).map(|at| (at % 251) as u8).collect();
    let tus = |method: &str, path: &str| {
        let request = alice.request(method, &format!("/v1/vfs/blobs/uploads{path}"));
        request.header("tus-resumable", "1.0.0")
    };
    let create = tus("POST", "").header("upload-metadata", "stagingId cw==,blobId Yg==");
    assert_eq!(send(create.header("upload-length", bytes.len())).await.status, 201);
    let append = |at: usize, end: usize| {
        let request = tus("PATCH", "/s").header("upload-offset", at);
        let request = request.header("content-type", "application/offset+octet-stream");
        send(request.body(bytes[at..end].to_vec()))
    };
    let offset = async || -> usize {
        let told = send(tus("HEAD", "/s")).await;
        assert_eq!(told.status, 200);
        told.header("upload-offset").parse().unwrap()
    };
    assert_eq!(append(0, 3_000_000).await.status, 204);
    for method in [Method::PUT, Method::GET] {
        let slow = Fault::Answer { status: 503, code: "SlowDown".into() };
        proxy.fail(Some(method), slow);
        let failed = append(3_000_000, bytes.len()).await;
        let body = failed.refused(500, "blob_store_error");
        assert_eq!((&body["storageCode"], &body["retryable"]), (&json!("SlowDown"), &json!(true)));
        assert_eq!(failed.header("retry-after"), "1");
        proxy.heal();
        assert_eq!(offset().await, 3_000_000);
    }
    // The last step fails: all bytes are there, and whoever asks next completes it.
    proxy.fail(Some(Method::POST), Fault::Answer { status: 500, code: "InternalError".into() });
    append(3_000_000, bytes.len()).await.refused(500, "blob_store_error");
    proxy.heal();
    assert_eq!(offset().await, bytes.len());
    let state = alice.get("/v1/vfs/blobs/stage/s").await.ok();
    assert_eq!(state["size"], bytes.len());
    assert!(alice.get("/v1/vfs/blobs/b").await.bytes == bytes);
    assert_eq!(scene.objects().await, ["b"]);
}

#[tokio::test]
#[ignore = "needs an S3 server"]
async fn each_file_of_a_batch_is_told_that_the_store_failed_and_a_retry_mends_it() {
    let (proxy, scene) = behind_proxy().await;
    let alice = scene.user("alice");
    let mut files = Vec::new();
    for at in 1..=3 {
        let (item, name) = (alice.file(at).await, format!("b{at}"));
        files.push(json!({
            "stagingId": name, "blobId": name, "dataBase64": "aGVsbG8=", "attach": {"itemId": item},
        }));
    }
    let batch = json!({"files": files});
    let asked = json!({"blobIds": ["b1", "b2", "b3"]});
    proxy.fail(None, Fault::Answer { status: 503, code: "SlowDown".into() });
    let answer = alice.post("/v1/vfs/blobs/batch", batch.clone()).await.ok();
    for result in answer["results"].as_array().unwrap() {
        let error = &result["error"];
        assert_eq!(
            (&error["httpStatus"], &error["code"]),
            (&json!(500), &json!("blob_store_error"))
        );
        assert_eq!(error["error"], "Failed to persist blob data");
        assert_eq!(
            (&error["storageCode"], &error["retryable"]),
            (&json!("SlowDown"), &json!(true))
        );
    }
    assert_eq!(alice.pull_all().await["items"].as_array().unwrap().len(), 3, "nothing is attached");
    proxy.heal();
    let answer = alice.post("/v1/vfs/blobs/batch", batch).await.ok();
    assert!(answer["results"].as_array().unwrap().iter().all(|one| one["status"] == "attached"));

    proxy.fail(Some(Method::GET), Fault::Answer { status: 403, code: "AccessDenied".into() });
    let many = alice.post("/v1/vfs/blobs/batch/read", asked.clone()).await;
    for line in many.bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let error = serde_json::from_slice::<serde_json::Value>(line).unwrap()["error"].clone();
        assert_eq!(error["error"], "Failed to read blob data");
        assert_eq!(
            (&error["storageCode"], &error["retryable"]),
            (&json!("AccessDenied"), &json!(false))
        );
    }
    proxy.heal();
    let many = alice.post("/v1/vfs/blobs/batch/read", asked).await;
    assert!(many.bytes.ends_with(b"hello"));
}

#[tokio::test]
#[ignore = "needs an S3 server"]
async fn a_deletion_that_fails_is_repeated_by_its_caller_or_the_sweeper() {
    let (proxy, scene) = behind_proxy().await;
    let alice = scene.user("alice");
    let delete = |blob: &str| send(alice.request("DELETE", &format!("/v1/vfs/blobs/{blob}")));
    for name in ["b", "c"] {
        stage(&alice, name, name).await.ok();
        upload(&alice, name, b"bytes").await.ok();
    }
    proxy.fail(Some(Method::DELETE), Fault::Answer { status: 503, code: "SlowDown".into() });
    let body = delete("b").await.refused(500, "blob_store_error");
    assert_eq!(body["error"], "Failed to delete blob data");
    alice.get("/v1/vfs/blobs/b").await.refused(404, "unknown_blob");
    delete("c").await.refused(500, "blob_store_error");
    proxy.heal();
    soon(async || scene.objects().await.is_empty()).await;
}

#[tokio::test]
#[ignore = "needs an S3 server"]
async fn a_large_upload_that_fails_leaves_nothing_and_is_repeated() {
    let (proxy, scene) = behind_proxy().await;
    let alice = scene.user("alice");
    let bytes = vec![7; 20_000_000];
    stage(&alice, "s", "b").await.ok();
    for method in [Method::PUT, Method::POST] {
        proxy.fail(Some(method), Fault::Answer { status: 503, code: "ServiceUnavailable".into() });
        let body = upload(&alice, "s", &bytes).await.refused(500, "blob_store_error");
        assert_eq!(body["storageCode"], "ServiceUnavailable");
        // Of what counts whole or not at all, nothing is there.
        let state = alice.get("/v1/vfs/blobs/stage/s").await.ok();
        assert_eq!((&state["offset"], &state["size"]), (&json!(0), &json!(null)));
    }
    // The end of the upload is done, but nobody hears of it.
    proxy.heal();
    proxy.fail(Some(Method::POST), Fault::Cut);
    upload(&alice, "s", &bytes).await.refused(500, "blob_store_error");
    proxy.heal();
    upload(&alice, "s", &bytes).await.ok();
    assert!(alice.get("/v1/vfs/blobs/b").await.bytes == bytes);
    assert_eq!(scene.objects().await, ["b"]);
}

#[tokio::test]
#[ignore = "needs an S3 server"]
async fn an_answer_that_is_cut_or_short_is_never_taken_for_the_whole() {
    let (proxy, scene) = behind_proxy().await;
    let alice = scene.user("alice");
    let item = alice.file(1).await;
    bring(&alice, &item, "b", &vec![7; 3_000_000]).await;
    for fault in [Fault::Cut, Fault::Truncate] {
        proxy.fail(Some(Method::GET), fault);
        let answer = alice.request("GET", "/v1/vfs/blobs/b").send().await.unwrap();
        if answer.status() == 200 {
            answer.bytes().await.unwrap_err();
        }
    }
    proxy.fail(Some(Method::GET), Fault::Stall);
    let body = alice.get("/v1/vfs/blobs/b").await.refused(500, "blob_store_error");
    assert_eq!(
        (&body["storageCode"], &body["retryable"]),
        (&json!("ServiceUnavailable"), &json!(true))
    );
}

#[tokio::test]
#[ignore = "needs an S3 server"]
async fn an_upload_that_stalls_and_is_swept_finishes_too_late() {
    let (proxy, scene) = behind_proxy().await;
    let alice = scene.user("alice");
    let item = alice.file(1).await;
    stage(&alice, "s", "b").await.ok();
    // The object is written, but its server hears of that only later.
    proxy.fail(Some(Method::PUT), Fault::Hold);
    let uploading = upload(&alice, "s", b"bytes");
    let meanwhile = async {
        proxy.until_failed(1).await;
        scene.server.clock().advance(Duration::from_secs(25 * 3_600));
        soon(async || {
            alice.get("/v1/vfs/blobs/stage/s").await.ok()["status"] == "blob-stage:abandoned"
        })
        .await;
        proxy.heal();
    };
    let (late, ()) = tokio::join!(uploading, meanwhile);
    late.refused(409, "stage_not_attachable");
    attach(&alice, "s", json!({"itemId": item})).await.refused(409, "stage_not_attachable");
    soon(async || scene.objects().await.is_empty()).await;
}

/// A store that was asked for nothing at its start is taken for one that cannot write only where
/// there is no object.
#[tokio::test]
#[ignore = "needs an S3 server"]
async fn a_write_that_comes_late_changes_no_bytes_where_the_store_cannot_tell() {
    let place = new_s3_place().await.unwrap();
    let proxy = FaultProxy::before(&place).await;
    let blobs = ObjectBlobs::s3(&proxy.config(&place)).unwrap();
    let scene = Scene::of(TestServer::builder().blobs(Arc::new(blobs))).await;
    let alice = scene.user("alice");
    for (at, way) in ["put", "inline", "batch"].into_iter().enumerate() {
        let bring = async |bytes: &str| {
            let data = base64::engine::general_purpose::STANDARD.encode(bytes);
            let mut file = json!({"stagingId": way, "blobId": way, "dataBase64": data});
            match way {
                "put" => upload(&alice, way, bytes.as_bytes()).await.status,
                "inline" => alice.post("/v1/vfs/blobs/stage", file).await.status,
                _ => {
                    file["attach"] = json!({"itemId": "nowhere"});
                    let batch = json!({"files": [file]});
                    let answer = alice.post("/v1/vfs/blobs/batch", batch).await.ok();
                    let status = answer["results"][0]["error"]["httpStatus"].as_u64().unwrap();
                    // It is there, and attached to nothing.
                    if status == 404 { 200 } else { u16::try_from(status).unwrap() }
                }
            }
        };
        stage(&alice, way, way).await.ok();
        proxy.delay_next(Method::PUT);
        let meanwhile = async {
            proxy.until_failed(at as u64 + 1).await;
            let status = bring("here").await;
            proxy.release();
            status
        };
        let (late, first) = tokio::join!(bring("late"), meanwhile);
        assert_eq!((late, first / 100), (409, 2), "{way}");
        assert_eq!(alice.get(&format!("/v1/vfs/blobs/{way}")).await.bytes, b"here", "{way}");
        assert_eq!(bring("here").await / 100, 2, "{way}");
    }
    soon(async || scene.objects().await == ["batch", "inline", "put"]).await;
}

on_every_store! {
    registered_bytes_that_are_gone_are_told_as_such
}

async fn registered_bytes_that_are_gone_are_told_as_such(scene: Scene) {
    let alice = scene.user("alice");
    let item = alice.file(1).await;
    bring(&alice, &item, "b", b"bytes").await;
    scene.server.blobs().delete(&BlobId::new("b").unwrap()).await.unwrap();
    let body = alice.get("/v1/vfs/blobs/b").await.refused(500, "blob_store_error");
    assert_eq!(body["error"], "Failed to read blob data");
    assert_eq!((&body["storageCode"], &body["retryable"]), (&json!("NoSuchKey"), &json!(false)));
    alice.get("/v1/vfs/blobs/none").await.refused(404, "unknown_blob");
}
