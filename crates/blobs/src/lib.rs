//! The bytes of vfs-sync: object stores behind one trait.
//!
//! [`BlobStore`] is the interface that a server needs of an object store; [`ObjectBlobs`]
//! implements it over the `object_store` library, for S3, for a directory and for memory. Only this
//! crate names object keys ([`key`]): nothing else may depend on where a blob's bytes are stored.

mod barrier;
mod error;
mod files;
pub mod key;
mod multipart;
mod object;
mod s3;
#[cfg(all(feature = "testing", unix))]
pub mod testing;

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::id::BlobId;

pub use error::{BlobError, BlobOperation, PutError, STORAGE_CODES};
pub use object::ObjectBlobs;
pub use s3::{S3Config, S3ConfigError};

/// A stream of bytes from the store.
pub type Outgoing = BoxStream<'static, Result<Bytes, BlobError>>;

/// The objects in the store, by name.
pub type Listing = BoxStream<'static, Result<Object, BlobError>>;

/// Size and digest of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// The size in bytes.
    pub size: u64,
    /// The digest of the bytes.
    pub digest: Sha256Digest,
}

/// An object under the store's prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// The object's name: [`key::object_name`] of a blob's id, or a temporary name.
    pub name: String,
    /// The size in bytes.
    pub size: u64,
    /// The time of the last write, in milliseconds since 1970.
    pub modified: i64,
}

/// An object store for blobs. It retries nothing; retries are the caller's task.
#[async_trait]
pub trait BlobStore: Send + Sync + 'static {
    /// Stores the blob's bytes durably in one call; they must not exceed the size of a part.
    ///
    /// Stored bytes never change: storing the same bytes again succeeds, other bytes fail with
    /// [`PutError::Differs`]. A failed put leaves nothing behind.
    async fn put(&self, id: &BlobId, bytes: Bytes) -> Result<(), PutError>;

    /// Returns whether [`BlobStore::put`] is safe against concurrent writers. A store without
    /// conditional writes checks for an object first, so a late write may change its bytes. Such a
    /// store takes all uploads in parts, which can be aborted.
    fn writes_once(&self) -> bool {
        true
    }

    /// Stores blobs, each as [`BlobStore::put`] does; returns one outcome for each, in their order.
    /// They become durable together: a directory synchronises its disk once for all.
    async fn put_many(&self, blobs: Vec<(BlobId, Bytes)>) -> Vec<Result<(), PutError>> {
        let mut outcomes = Vec::with_capacity(blobs.len());
        for (id, bytes) in blobs {
            outcomes.push(self.put(&id, bytes).await);
        }
        outcomes
    }

    /// Reads blobs into memory, each with its required size; returns an outcome for each, in their
    /// order.
    async fn get_many(&self, blobs: Vec<(BlobId, u64)>) -> Vec<Result<Bytes, BlobError>> {
        let mut outcomes = Vec::with_capacity(blobs.len());
        for (id, size) in blobs {
            outcomes.push(match self.get(&id, None).await {
                Ok(chunks) => object::collected(chunks, size).await,
                Err(error) => Err(error),
            });
        }
        outcomes
    }

    /// Begins a multipart upload; returns its name, by which it can be resumed after a restart. The
    /// upload uses no storage until it has parts.
    async fn begin(&self, id: &BlobId) -> Result<String, BlobError>;

    /// Resumes an interrupted upload. Only one caller may write to it at a time: the call waits
    /// briefly for a previous writer, then fails with `ServiceUnavailable`.
    async fn take_up(&self, id: &BlobId, upload: &str) -> Result<Box<dyn Upload>, BlobError>;

    /// Aborts an upload and removes all its leftovers, also those of a completed one. Aborting an
    /// upload that does not exist succeeds.
    async fn abort(&self, id: &BlobId, upload: &str) -> Result<(), BlobError>;

    /// Returns the size of a part, which all parts of an upload except the last have.
    fn part_size(&self, part: u32) -> usize;

    /// Returns the size of the largest blob that the store accepts.
    fn max_size(&self) -> u64;

    /// Reads the blob's bytes, or those of `range`, which must be neither empty nor extend beyond
    /// the end.
    async fn get(&self, id: &BlobId, range: Option<Range<u64>>) -> Result<Outgoing, BlobError>;

    /// Removes the blob's bytes. It is no error if they do not exist.
    async fn delete(&self, id: &BlobId) -> Result<(), BlobError>;

    /// Lists everything under the prefix, temporary objects included, in no order.
    fn list(&self) -> Listing;

    /// Lists temporary objects under the prefix; a store that can filters out all others.
    fn list_temporary(&self) -> Listing;

    /// Removes an object that [`BlobStore::list`] named.
    async fn remove(&self, name: &str) -> Result<(), BlobError>;

    /// Writes, reads and deletes a probe object, to detect a wrong configuration and the store's
    /// capabilities.
    async fn probe(&self) -> Result<(), BlobError>;
}

/// A multipart upload in progress.
#[async_trait]
pub trait Upload: Send + Sync {
    /// Writes part `number`, whose first byte is the upload's byte `start`; returns the handle for
    /// [`Upload::finish`]. The same part may be written again.
    async fn write_part(&self, number: u32, start: u64, bytes: Bytes) -> Result<String, BlobError>;

    /// Makes the written parts durable, together with `tail`: bytes from `start` on that are fewer
    /// than a part. Returns the name for [`Upload::read_tail`].
    async fn write_tail(&self, start: u64, tail: Bytes) -> Result<String, BlobError>;

    /// Removes what was written beyond the first `length` bytes, and returns whether the store can
    /// do that.
    ///
    /// # Errors
    /// [`BlobError`] if the store fails.
    async fn cut(&self, length: u64) -> Result<bool, BlobError> {
        let _ = length;
        Ok(false)
    }

    /// Reads the tail that was written as `name` at `start`.
    async fn read_tail(&self, name: &str, start: u64, length: usize) -> Result<Bytes, BlobError>;

    /// Completes the blob from its parts. The call may be repeated; it fails with
    /// [`PutError::Differs`] if the blob has other bytes.
    async fn finish(&self, parts: Vec<String>, stored: Stored) -> Result<(), PutError>;
}

/// Returns the offset of part `number`, from the store's part sizes.
#[must_use]
pub fn part_start(store: &dyn BlobStore, number: u32) -> u64 {
    (0..number).map(|part| store.part_size(part) as u64).sum()
}
