//! Contents that a file has and had.

use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::id::BlobId;

use super::{ReadableBlobs, SurplusVersions, Versions, one_call};

/// A blob that a user may read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobRow {
    /// Which.
    pub blob_id: BlobId,
    /// Bytes.
    pub size: u64,
    /// Of the bytes.
    pub digest: Sha256Digest,
    /// A hint for readers.
    pub content_type: Option<String>,
}

/// The number of a file's earlier contents that are kept in any case.
pub const KEPT_VERSIONS: u32 = 10;

one_call! {
    ReadableBlobs: |tx, it| tx.readable(&it.user, &it.blob_ids);
    Versions: |tx, it| tx.versions(&it.user, &it.item_id, it.limit);
    SurplusVersions: |tx, it| tx.surplus_versions(it.before, it.at_most);
}
