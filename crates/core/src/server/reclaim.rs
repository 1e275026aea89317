//! Removing a blob's bytes: the registry first says that they are to go, then the object store
//! removes them, then the registry says that they are gone.

use super::stage::{BlobStatus, Stage};
use crate::time::Timestamp;
use crate::wire::StageStatus;

/// Milliseconds after its stage's expiry for which the id of a deleted blob is not given out again:
/// no client keeps an upload for longer without a settled pull.
const KEEP_DELETED_ID_MILLIS: i64 = 366 * 24 * 3_600 * 1_000;

/// The decision about a user's request to delete a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletion {
    /// It is deleted already: to the user it does not exist.
    Unknown,
    /// Its bytes are to go since an earlier request.
    Repeated,
    /// It is attached to something.
    Attached,
    /// It is to be discarded, as [`Stage::discard`] says.
    Discard,
}

/// The change that discards a live blob without attachments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discard {
    /// Its stage is open: the stage is abandoned.
    Abandon,
    /// Its bytes no longer count against the user that they are charged to.
    Uncharge,
}

/// The change that follows once something was removed from the object store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reclaimed {
    /// Nothing changes: bytes came or a deletion began since the removal was planned.
    Nothing,
    /// The blob is deleted from now on; the sweeper looks at it once more.
    Delete,
    /// The upload's remains are gone; the blob stays.
    Clear,
    /// The id stays taken until then.
    KeepId(Timestamp),
    /// The stage and its blob are forgotten.
    Forget,
}

impl Stage {
    /// Decides what a request to delete the stage's blob comes to.
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

    /// Decides what follows from a removal; `with_bytes` says whether the blob's own bytes were
    /// removed, not only what an upload in parts left.
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
