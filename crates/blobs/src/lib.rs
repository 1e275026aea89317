//! The bytes of vfs-sync: object stores behind one trait.
//!
//! [`BlobStore`] is what a server needs of an object store; [`ObjectBlobs`] implements it over the
//! `object_store` library, for a directory and for memory. Only this crate names an object key
//! ([`key`]): nothing else may depend on where the bytes of a blob are.

mod error;
pub mod key;
mod object;

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::id::BlobId;

pub use error::{BlobError, BlobOperation, PutError};
pub use object::ObjectBlobs;

/// Whatever broke a stream of bytes that is being stored.
pub type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// Bytes on their way into the store.
pub type Incoming = BoxStream<'static, Result<Bytes, SourceError>>;

/// Bytes on their way out of the store.
pub type Outgoing = BoxStream<'static, Result<Bytes, BlobError>>;

/// What the bytes of a put must come to, or nothing is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// Bytes at most.
    pub max_size: u64,
    /// Their digest, if the sender named it.
    pub digest: Option<Sha256Digest>,
}

/// What was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Bytes.
    pub size: u64,
    /// Of the bytes.
    pub digest: Sha256Digest,
}

/// An object store. Nothing in it is retried: that is the caller's.
#[async_trait]
pub trait BlobStore: Send + Sync + 'static {
    /// Stores the blob's bytes, durably, in memory that does not grow with them.
    ///
    /// Bytes that are there never change: storing the same again is fine, other bytes are
    /// [`PutError::Differs`]. A put that fails leaves nothing behind.
    async fn put(
        &self,
        id: &BlobId,
        bytes: Incoming,
        expected: Expected,
    ) -> Result<Stored, PutError>;

    /// Reads the blob's bytes, or those of `range`, which must not be empty nor go beyond the end.
    async fn get(&self, id: &BlobId, range: Option<Range<u64>>) -> Result<Outgoing, BlobError>;

    /// Removes the blob's bytes. Those that are not there are removed already.
    async fn delete(&self, id: &BlobId) -> Result<(), BlobError>;

    /// Writes, reads and deletes an object of its own: finds a bad configuration.
    async fn probe(&self) -> Result<(), BlobError>;
}

/// Bytes that are in memory already, as a put takes them.
#[must_use]
pub fn incoming(bytes: Bytes) -> Incoming {
    Box::pin(futures::stream::once(async move { Ok(bytes) }))
}
