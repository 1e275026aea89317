//! Removal of a blob's bytes, in three steps: the registry marks them as to be deleted, the object
//! store removes them, and the registry marks them as deleted.

use super::stage::{BlobStatus, Stage};
use crate::time::Timestamp;
use crate::wire::StageStatus;

/// Milliseconds after its stage's expiry for which the id of a deleted blob is not assigned again:
/// no client keeps an upload for longer without a settled pull.
const KEEP_DELETED_ID_MILLIS: i64 = 366 * 24 * 3_600 * 1_000;

/// The decision about a user's request to delete a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletion {
    /// The blob is already deleted, so it does not exist for the user.
    Unknown,
    /// An earlier request already marked the bytes for deletion.
    Repeated,
    /// The blob is attached to an item.
    Attached,
    /// The blob is to be discarded, as [`Stage::discard`] says.
    Discard,
}

/// The change that discards a live blob without attachments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discard {
    /// The stage is open and becomes abandoned.
    Abandon,
    /// The bytes no longer count against the user whom they are charged to.
    Uncharge,
}

/// The change to the registry after the object store removed something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reclaimed {
    /// Nothing changes: since the removal was planned, bytes arrived or a deletion began.
    Nothing,
    /// The blob becomes deleted; the sweeper checks it once more later.
    Delete,
    /// The upload's remains are gone; the blob stays.
    Clear,
    /// The id of the blob stays taken until this time.
    KeepId(Timestamp),
    /// The stage and its blob are removed from the registry.
    Forget,
}

impl Stage {
    /// Decides a request to delete the stage's blob.
    #[must_use]
    pub fn delete_blob(&self, is_attached: bool) -> Deletion {
        match self.blob_status {
            BlobStatus::Deleted => Deletion::Unknown,
            BlobStatus::Deleting => Deletion::Repeated,
            BlobStatus::Live if is_attached => Deletion::Attached,
            BlobStatus::Live => Deletion::Discard,
        }
    }

    /// Returns how a live blob without attachments is discarded.
    #[must_use]
    pub fn discard(&self) -> Discard {
        match self.row.status {
            StageStatus::Staged => Discard::Abandon,
            _ => Discard::Uncharge,
        }
    }

    /// Decides the change that follows a removal; `with_bytes` says whether the blob's own bytes
    /// were removed, not only the remains of an upload in parts.
    #[must_use]
    pub fn reclaimed(&self, with_bytes: bool, now: Timestamp) -> Reclaimed {
        match self.blob_status {
            BlobStatus::Live if self.row.uploaded.is_none() => Reclaimed::Nothing,
            BlobStatus::Live => Reclaimed::Clear,
            BlobStatus::Deleting if !with_bytes => Reclaimed::Nothing,
            BlobStatus::Deleting => Reclaimed::Delete,
            BlobStatus::Deleted => {
                let until = self.row.expires_at.plus_millis(KEEP_DELETED_ID_MILLIS);
                if until > now { Reclaimed::KeepId(until) } else { Reclaimed::Forget }
            }
        }
    }
}
