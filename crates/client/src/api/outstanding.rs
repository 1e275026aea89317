//! Values that describe work still to be sent, and work that was rejected or lost.

use vfs_sync_core::client::offer::Lost;
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::id::{BlobId, ItemId};

/// A content whose upload the server cannot take at present. Every sync tries it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingUpload {
    /// The item that the content belongs to.
    pub item_id: ItemId,
    /// The id of the content.
    pub blob_id: BlobId,
    /// The size of the content in bytes.
    pub size: u64,
    /// The server's reason, for people.
    pub reason: String,
}

/// The work that a replica still has to send, and the work that the server rejected.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outstanding {
    /// The number of pending operations in the queue.
    pub pending: u64,
    /// The number of contents in the queue.
    pub uploads: u64,
    /// The server's reason for the first upload that it cannot take at present.
    pub waiting: Option<String>,
    /// The number of rejected operations.
    pub rejected: u64,
    /// The number of rejected contents.
    pub rejected_uploads: u64,
    /// The reason for the first rejection.
    pub refused: Option<String>,
    /// The number of changes that a restored server lost and that could not be offered again.
    pub lost: u64,
}

impl Outstanding {
    /// Returns true if nothing is outstanding.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pending + self.uploads + self.rejected + self.rejected_uploads + self.lost == 0
    }
}

/// A content whose upload was rejected for good. Its bytes are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectedUpload {
    /// The item that the content was for.
    pub item_id: ItemId,
    /// The id of the content.
    pub blob_id: BlobId,
    /// The size in bytes.
    pub size: u64,
    /// The digest of the content's bytes.
    pub digest: Sha256Digest,
    /// The reason for the rejection.
    pub reason: String,
}

/// An entry of the list of lost changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostEntry {
    /// The number of the entry in the list.
    pub number: i64,
    /// The change, and the reason why it was not offered.
    pub lost: Lost,
}
