//! An object store that fails, as callers are told.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use serde_json::json;
use vfs_sync_blobs::testing::{Fault, FaultProxy, new_s3_place};
use vfs_sync_blobs::{BlobStore as _, ObjectBlobs};
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
        let stored = upload(&alice, &name, b"bytes").await;
        let read = alice.get("/v1/vfs/blobs/b").await;
        let abandoned = abandon(&alice, &name).await;
        for (answer, sentence) in [
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
        }
        assert_eq!(scene.nobody().get("/readyz").await.status, 200);
        proxy.heal();
        assert_eq!(alice.get("/v1/vfs/blobs/b").await.bytes, b"bytes");
        abandon(&alice, &name).await.ok();
    }
}

#[tokio::test]
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
async fn a_large_upload_that_fails_leaves_nothing_and_is_repeated() {
    let (proxy, scene) = behind_proxy().await;
    let alice = scene.user("alice");
    let bytes = vec![7; 20_000_000];
    stage(&alice, "s", "b").await.ok();
    for method in [Method::PUT, Method::POST] {
        proxy.fail(Some(method), Fault::Answer { status: 503, code: "ServiceUnavailable".into() });
        let body = upload(&alice, "s", &bytes).await.refused(500, "blob_store_error");
        assert_eq!(body["storageCode"], "ServiceUnavailable");
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
