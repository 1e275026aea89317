//! Contents: the cache beside the replica, and what is on its way to or from the server.

use std::io::Read;
use std::path::Path;

use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::id::{BlobId, ItemId};

use crate::client::{SyncClient, later};
use crate::error::ClientError;

/// A content that was taken into the replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredContent {
    /// Its bytes, once they are with the server too.
    pub blob_id: BlobId,
    /// How many.
    pub size: u64,
    /// Their digest.
    pub digest: Sha256Digest,
}

/// A content that is on this machine, verified by its digest.
#[derive(Debug)]
pub struct LocalContent {
    pub(crate) _size: u64,
}

impl LocalContent {
    /// How many bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self._size
    }

    /// Its digest.
    #[must_use]
    pub fn digest(&self) -> Sha256Digest {
        Sha256Digest([0; 32])
    }

    /// Reads it from the start. It stays readable when it leaves the cache meanwhile.
    ///
    /// # Errors
    /// [`ClientError::Io`] if the cache's file cannot be opened.
    pub fn reader(&self) -> Result<Box<dyn Read + Send>, ClientError> {
        later()
    }
}

impl SyncClient {
    /// Takes a content for an item, to be uploaded by the next sync. Durable when it returns, and
    /// read back from then on. The bytes are copied, in bounded memory.
    ///
    /// # Errors
    /// [`ClientError::UnknownItem`], or what failed in reading or writing.
    pub fn put_content(
        &self,
        item: &ItemId,
        reader: impl Read,
    ) -> Result<StoredContent, ClientError> {
        let _ = (item, reader);
        later()
    }

    /// [`Self::put_content`] from a file.
    ///
    /// # Errors
    /// As [`Self::put_content`].
    pub fn put_file(&self, item: &ItemId, path: &Path) -> Result<StoredContent, ClientError> {
        let file = std::fs::File::open(path)
            .map_err(ClientError::io(format!("cannot open {}", path.display())))?;
        self.put_content(item, file)
    }

    /// The content of an item, from the cache, or downloaded into it and verified.
    ///
    /// # Errors
    /// [`ClientError::NoContent`], [`ClientError::UnknownItem`], or why it cannot be had.
    pub async fn read_content(&self, item: &ItemId) -> Result<LocalContent, ClientError> {
        let _ = item;
        later()
    }

    /// Downloads the contents of `items` that are not in the cache, several at a time; gives how
    /// many were downloaded. Items without content are passed over.
    ///
    /// # Errors
    /// The first that could not be had; those before it are in the cache.
    pub async fn fetch_contents(&self, items: &[ItemId]) -> Result<u64, ClientError> {
        let _ = items;
        later()
    }
}
