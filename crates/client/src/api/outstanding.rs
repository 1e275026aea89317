//! Values that say what is still to be sent, and what was refused or lost.

use vfs_sync_core::client::offer::Lost;
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::id::{BlobId, ItemId};

/// A content whose upload the server cannot take at present. It is tried again in every sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingUpload {
    /// The item that it is for.
    pub item_id: ItemId,
    /// The id of the content.
    pub blob_id: BlobId,
    /// Its size in bytes.
    pub size: u64,
    /// The server's reason, for people.
    pub reason: String,
}

/// The work that a replica still owes its server, and the work that the server refused.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outstanding {
    /// Operations in the queue.
    pub pending: u64,
    /// Contents in the queue.
    pub uploads: u64,
    /// The server's reason for the first of those that it cannot take at present.
    pub waiting: Option<String>,
    /// Operations that were refused.
    pub rejected: u64,
    /// Contents that were refused.
    pub rejected_uploads: u64,
    /// The reason for the first of them.
    pub refused: Option<String>,
    /// Changes that a restored server lost and that could not be offered to it again.
    pub lost: u64,
}

impl Outstanding {
    /// Returns true if nothing is outstanding.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pending + self.uploads + self.rejected + self.rejected_uploads + self.lost == 0
    }
}

/// A content whose upload was refused for good. Its bytes are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectedUpload {
    /// The item that it was for.
    pub item_id: ItemId,
    /// The id of the content.
    pub blob_id: BlobId,
    /// The size in bytes.
    pub size: u64,
    /// The digest of these bytes.
    pub digest: Sha256Digest,
    /// The reason of the refusal.
    pub reason: String,
}

/// An entry of the list of lost changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostEntry {
    /// Its number in the list.
    pub number: i64,
    /// The change, and the reason for which it was not offered.
    pub lost: Lost,
}
