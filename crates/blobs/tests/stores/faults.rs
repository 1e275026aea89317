//! The errors that a failing S3 is reported as.

use bytes::Bytes;
use futures::TryStreamExt as _;
use http::Method;
use vfs_sync_blobs::testing::{Fault, FaultProxy, as_reader, new_s3_place};
use vfs_sync_blobs::{BlobError, BlobStore as _, ObjectBlobs, PutError, S3Config};
use vfs_sync_core::id::BlobId;

fn blob(id: &str) -> BlobId {
    BlobId::new(id).unwrap()
}

fn answer(status: u16, code: &str) -> Fault {
    Fault::Answer { status, code: code.into() }
}

async fn behind_proxy() -> (FaultProxy, ObjectBlobs, S3Config) {
    let place = new_s3_place().await.unwrap();
    let proxy = FaultProxy::before(&place).await;
    let blobs = ObjectBlobs::s3(&proxy.config(&place)).unwrap();
    blobs.probe().await.unwrap();
    blobs.put(&blob("b"), Bytes::from(vec![7; 100_000])).await.unwrap();
    (proxy, blobs, place)
}

async fn read(blobs: &ObjectBlobs) -> Result<Vec<Bytes>, BlobError> {
    blobs.get(&blob("b"), None).await?.try_collect().await
}

async fn put(blobs: &ObjectBlobs) -> Result<(), BlobError> {
    match blobs.put(&blob("c"), Bytes::from_static(b"bytes")).await {
        Ok(()) => Ok(()),
        Err(PutError::Store(error)) => Err(error),
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
#[ignore = "needs an S3 server"]
async fn each_code_of_the_table_is_told_and_nothing_is_retried() {
    let (proxy, blobs, _) = behind_proxy().await;
    for (status, code, retryable) in [
        (404, "NoSuchKey", false),
        (403, "AccessDenied", false),
        (503, "ServiceUnavailable", true),
        (503, "SlowDown", true),
        (500, "InternalError", true),
        (400, "InvalidObjectState", false),
        (404, "NoSuchBucket", false),
        (301, "PermanentRedirect", false),
    ] {
        proxy.fail(None, answer(status, code));
        let before = proxy.failed();
        let told = |error: BlobError| (error.storage_code, error.retryable);
        assert_eq!(told(read(&blobs).await.unwrap_err()), (code.to_owned(), retryable));
        assert_eq!(told(put(&blobs).await.unwrap_err()), (code.to_owned(), retryable));
        if code != "NoSuchKey" {
            let deleted = blobs.delete(&blob("b")).await.unwrap_err();
            assert_eq!(told(deleted), (code.to_owned(), retryable));
            assert_eq!(proxy.failed() - before, 3, "{code}: once each");
        }
    }
    proxy.heal();
    read(&blobs).await.unwrap();
    put(&blobs).await.unwrap();
}

#[tokio::test]
#[ignore = "needs an S3 server"]
async fn an_answer_without_a_code_is_told_by_its_status() {
    let (proxy, blobs, _) = behind_proxy().await;
    for (status, code) in [
        (503, "ServiceUnavailable"),
        (502, "ServiceUnavailable"),
        (429, "SlowDown"),
        (403, "AccessDenied"),
        (500, "InternalError"),
    ] {
        proxy.fail(None, answer(status, ""));
        assert_eq!(read(&blobs).await.unwrap_err().storage_code, code);
    }
}

#[tokio::test]
#[ignore = "needs an S3 server"]
async fn a_cut_a_stall_and_a_short_answer_are_no_whole_read() {
    let (proxy, blobs, _) = behind_proxy().await;
    for fault in [Fault::Cut, Fault::Stall] {
        proxy.fail(Some(Method::GET), fault.clone());
        let error = read(&blobs).await.unwrap_err();
        let told = (&*error.storage_code, error.retryable);
        assert_eq!(told, ("ServiceUnavailable", true), "{fault:?}: {error}");
    }
    proxy.fail(Some(Method::GET), Fault::Truncate);
    let short: usize = match read(&blobs).await {
        Ok(chunks) => chunks.iter().map(Bytes::len).sum(),
        Err(_) => 0,
    };
    assert!(short < 100_000, "whoever reads compares with the size it knows");
}

#[tokio::test]
#[ignore = "needs an S3 server"]
async fn a_write_whose_answer_was_lost_is_repeated_safely() {
    let (proxy, blobs, _) = behind_proxy().await;
    proxy.fail(Some(Method::PUT), Fault::Cut);
    let _ = put(&blobs).await;
    proxy.heal();
    put(&blobs).await.unwrap();
    let other = blobs.put(&blob("c"), Bytes::from_static(b"other")).await;
    assert!(matches!(other, Err(PutError::Differs)));
}

#[tokio::test]
#[ignore = "needs an S3 server"]
async fn nobody_listening_is_an_outage() {
    let place = new_s3_place().await.unwrap();
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = Some(format!("http://{}", nobody.local_addr().unwrap()));
    drop(nobody);
    let blobs = ObjectBlobs::s3(&S3Config { endpoint, ..place }).unwrap();
    let error = blobs.probe().await.unwrap_err();
    assert_eq!((&*error.storage_code, error.retryable), ("ServiceUnavailable", true), "{error}");
}

#[tokio::test]
#[ignore = "needs an S3 server"]
async fn a_bad_configuration_is_found_by_the_probe() {
    let place = new_s3_place().await.unwrap();
    let probe = async |config: S3Config| {
        let blobs = ObjectBlobs::s3(&config).unwrap();
        blobs.probe().await.unwrap_err().storage_code
    };
    assert_eq!(probe(as_reader(&place)).await, "AccessDenied");
    let key = Some(("nobody".to_owned(), "nothing".to_owned()));
    assert_eq!(probe(S3Config { key, ..place.clone() }).await, "InvalidAccessKeyId");
    let key = place.key.as_ref().map(|(id, _)| (id.clone(), "wrong".to_owned()));
    assert_eq!(probe(S3Config { key, ..place.clone() }).await, "SignatureDoesNotMatch");
    let bucket = "no-such-bucket".to_owned();
    assert_eq!(probe(S3Config { bucket, ..as_reader(&place) }).await, "AccessDenied");
}
