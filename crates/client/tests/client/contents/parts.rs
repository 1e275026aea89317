//! A large content that the object store does not take at once.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use vfs_sync_blobs::{
    BlobError, BlobOperation, BlobStore, Listing, ObjectBlobs, Outgoing, PutError, Stored, Upload,
};
use vfs_sync_client::core::id::BlobId;
use vfs_sync_testkit::TestServer;

use super::scene::{MIB, Replica, config, noise, read};
use crate::support::put;

/// A store that fails to write an upload's first part for the first time.
struct Hiccup {
    inner: ObjectBlobs,
    tries: Arc<AtomicU32>,
}

struct HiccupUpload {
    inner: Box<dyn Upload>,
    tries: Arc<AtomicU32>,
}

#[async_trait]
impl BlobStore for Hiccup {
    async fn put(&self, id: &BlobId, bytes: Bytes) -> Result<(), PutError> {
        self.inner.put(id, bytes).await
    }
    async fn begin(&self, id: &BlobId) -> Result<String, BlobError> {
        self.inner.begin(id).await
    }
    async fn take_up(&self, id: &BlobId, upload: &str) -> Result<Box<dyn Upload>, BlobError> {
        let (inner, tries) = (self.inner.take_up(id, upload).await?, Arc::clone(&self.tries));
        Ok(Box::new(HiccupUpload { inner, tries }))
    }
    async fn abort(&self, id: &BlobId, upload: &str) -> Result<(), BlobError> {
        self.inner.abort(id, upload).await
    }
    fn part_size(&self, part: u32) -> usize {
        self.inner.part_size(part)
    }
    fn max_size(&self) -> u64 {
        self.inner.max_size()
    }
    async fn get(&self, id: &BlobId, range: Option<Range<u64>>) -> Result<Outgoing, BlobError> {
        self.inner.get(id, range).await
    }
    async fn delete(&self, id: &BlobId) -> Result<(), BlobError> {
        self.inner.delete(id).await
    }
    fn list(&self) -> Listing {
        self.inner.list()
    }
    fn list_temporary(&self) -> Listing {
        self.inner.list_temporary()
    }
    async fn remove(&self, name: &str) -> Result<(), BlobError> {
        self.inner.remove(name).await
    }
    async fn probe(&self) -> Result<(), BlobError> {
        self.inner.probe().await
    }
}

#[async_trait]
impl Upload for HiccupUpload {
    async fn write_part(&self, number: u32, start: u64, bytes: Bytes) -> Result<String, BlobError> {
        if number == 0 && self.tries.fetch_add(1, Ordering::Relaxed) == 0 {
            return Err(BlobError::new(BlobOperation::Persist, "ServiceUnavailable", "a hiccup"));
        }
        self.inner.write_part(number, start, bytes).await
    }
    async fn write_tail(&self, start: u64, tail: Bytes) -> Result<String, BlobError> {
        self.inner.write_tail(start, tail).await
    }
    async fn read_tail(&self, name: &str, start: u64, length: usize) -> Result<Bytes, BlobError> {
        self.inner.read_tail(name, start, length).await
    }
    async fn finish(&self, parts: Vec<String>, stored: Stored) -> Result<(), PutError> {
        self.inner.finish(parts, stored).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_the_store_did_not_take_is_not_left_out() {
    let tries = Arc::new(AtomicU32::new(0));
    let blobs = Hiccup { inner: ObjectBlobs::memory(), tries: Arc::clone(&tries) };
    let server = TestServer::builder().blobs(Arc::new(blobs)).start().await;
    let one = Replica::new(&server, config());
    let item = put(one.client(), "f", &noise(40 * MIB, 1));
    one.client().sync().await.unwrap();
    assert_eq!(tries.load(Ordering::Relaxed), 2);
    let other = Replica::new(&server, config());
    other.client().sync().await.unwrap();
    assert!(read(other.client(), &item).await == noise(40 * MIB, 1));
}
