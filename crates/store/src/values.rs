//! The arguments and answers of the operations, and the rows that they share with the back ends.

use vfs_sync_core::content::{Attachment, Sha256Digest};
use vfs_sync_core::cursor::{Cursor, Epoch};
use vfs_sync_core::id::{BlobId, ItemId, ReplicaId, UserId, WriteId};
use vfs_sync_core::server::feed_window::Rematerialize;
use vfs_sync_core::server::push::PushBatch;
use vfs_sync_core::server::stage::{OverQuota, StageRow, UploadRow};
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::trash::TrashedItem;
use vfs_sync_core::wire::{PushResponse, ReconcileState, WriteIds};

/// The answer to a push, or to its first operations.
#[derive(Debug, Clone)]
pub struct PushAnswer {
    /// The results of these operations.
    pub response: PushResponse,
    /// The push of the others: the consequences of all were too many for one transaction.
    pub rest: Option<Box<PushBatch>>,
}

/// The answer to a pull.
#[derive(Debug, Clone, PartialEq)]
pub enum PullAnswer {
    /// A page of the feed.
    Page(FeedPage),
    /// The cursor cannot be served.
    Rematerialize(Rematerialize),
}

/// A page whose entries are JSON already, as they go on the wire.
#[derive(Debug, Clone, PartialEq)]
pub struct FeedPage {
    /// The entries of the page.
    pub items: Vec<String>,
    /// The last item's position, where there is more.
    pub next_cursor: Option<Cursor>,
    /// True if the feed has more entries.
    pub has_more: bool,
    /// The user's replicas: the most recently active, at most 512, the client's own among them.
    pub last_reconciled_write_ids: WriteIds,
    /// The head, if the pull had no cursor.
    pub baseline: Option<Cursor>,
    /// The head, if there is more.
    pub head: Option<Cursor>,
    /// The database's present epoch.
    pub epoch: Epoch,
}

/// The answer to a reconcile.
#[derive(Debug, Clone, PartialEq)]
pub enum ReconcileAnswer {
    /// The merged state, stored.
    Merged(ReconcileState),
    /// The cursor is not of this feed's history.
    Rematerialize(Rematerialize),
    /// A write id above the replica's own last, or of an unknown replica.
    WriteIdsAhead {
        /// The replica that it names.
        replica_id: ReplicaId,
        /// The write id that was sent.
        sent: WriteId,
        /// The replica's last; `None` if it is unknown.
        last: Option<WriteId>,
    },
}

/// The answer to opening a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StageAnswer {
    /// It is open; a repetition of the same request gives the same answer.
    Open(StageRow),
    /// The staging id or the blob id is taken.
    Taken,
    /// That would be more than the user may have.
    OverQuota(OverQuota),
}

/// The answer to an upload that is complete in the object store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UploadAnswer {
    /// The registry says that the blob has bytes.
    Recorded {
        /// The stage as it now is.
        row: StageRow,
        /// The upload that made it may have left something: see `reclaim_of`.
        left_over: bool,
    },
    /// No such stage of the user's.
    Unknown,
    /// The stage is over (status and expiry in the row).
    Over(StageRow),
    /// The stage has other bytes already.
    Differs(StageRow),
    /// Somebody else writes to the upload since.
    Lost,
    /// That would be more than the user may have.
    OverQuota(OverQuota),
}

/// The answer to an abandon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AbandonAnswer {
    /// It is abandoned, now or before.
    Abandoned(StageRow),
    /// No such stage of the user's.
    Unknown,
    /// It is attached already.
    Attached(StageRow),
}

/// The state of an upload for a caller that wants to write to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UploadAccess {
    /// The upload takes bytes.
    Open(StageRow, UploadRow),
    /// The stage has its bytes.
    Complete(StageRow),
    /// The stage is over (status and expiry in the row).
    Over(StageRow),
    /// Somebody else writes to it since.
    Lost,
    /// No such stage of the user's.
    Unknown,
    /// That would be more than the user may have.
    OverQuota(OverQuota),
}

/// The leftovers of a blob in the object store that are to be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reclaim {
    /// The id of the blob.
    pub blob_id: BlobId,
    /// An upload in parts, by the object store's name for it.
    pub upload: Option<String>,
    /// True if its bytes are to be removed too.
    pub bytes: bool,
}

/// A stage, as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageRecord {
    /// The row of the stage.
    pub stage: StageRow,
    /// `live`, `deleting` or `deleted`.
    pub blob_status: &'static str,
    /// Its upload in parts, if it has one under way.
    pub upload: Option<UploadRow>,
}

/// A blob, as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobRecord {
    /// The stage that brought it.
    pub stage: StageRecord,
    /// Its attachments, earlier versions included.
    pub attachments: Vec<Attachment>,
}

/// The registry's summary of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobSummary {
    /// The id of the blob.
    pub blob_id: BlobId,
    /// True if its bytes are there, or are expected.
    pub live: bool,
    /// Its bytes, once it has them.
    pub size: Option<u64>,
}

/// The answer to a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeleteAnswer {
    /// Its bytes are to go now.
    Deleting,
    /// No such blob of the user's, or no more.
    Unknown,
    /// It is attached to something.
    Attached,
}

/// A blob that a user may read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobRow {
    /// The id of the blob.
    pub blob_id: BlobId,
    /// The number of bytes.
    pub size: u64,
    /// The digest of the bytes.
    pub digest: Sha256Digest,
    /// A hint for readers.
    pub content_type: Option<String>,
}

/// The number of a file's earlier contents that are kept in any case.
pub const KEPT_VERSIONS: u32 = 10;

/// Items that one call restores or purges at most.
pub const MAX_TRASH_ITEMS: usize = 100_000;

/// The progress of the removal of a deleted item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TrashState {
    /// It can be restored.
    Kept,
    /// It is a tombstone of which other rows are left.
    Purging,
    /// It is a tombstone, and nothing else is left.
    Gone,
}

/// A row of `trash`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TrashRow {
    pub(crate) item_id: ItemId,
    pub(crate) owner: UserId,
    pub(crate) state: TrashState,
    /// The server's time of the deletion; of a tombstone, of its purge.
    pub(crate) at: Timestamp,
    pub(crate) deleted_by: UserId,
    pub(crate) replica: ReplicaId,
    /// Bytes of the current content, where a page was read.
    pub(crate) size: Option<u64>,
}

/// The relation of a user to the rows of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TrashOf {
    /// Items that the user owns.
    Owner,
    /// Items that the user deleted.
    Deleter,
}

/// The start of a page of the trash: after this deletion, towards older ones.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TrashCursor {
    /// The time of the deletion.
    pub at: Timestamp,
    /// The deleted item's id.
    pub item_id: ItemId,
}

/// The answer to a listing of the trash.
#[derive(Debug, Clone, PartialEq)]
pub struct TrashListing {
    /// The items, the newest deletion first.
    pub items: Vec<TrashedItem>,
    /// The start of the next page; `None` after the last one.
    pub next: Option<TrashCursor>,
}

/// The answer to a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestoreAnswer {
    /// The number of items that were restored; none if the item was live already.
    Restored(u64),
    /// No such item, for this user.
    Unknown,
    /// More than [`MAX_TRASH_ITEMS`] were deleted with it.
    TooMany,
}

/// The answer to a purge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PurgeAnswer {
    /// The number of items that became tombstones; none if the item was one already.
    Purged(u64),
    /// No such item, for this user.
    Unknown,
    /// The item is not deleted.
    Live,
    /// The user sees it in the trash, and does not own it.
    NotOwner,
    /// More than [`MAX_TRASH_ITEMS`] were deleted with it.
    TooMany,
}

/// A stored reconcile state that is not of the form that this version writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MalformedState {
    /// The user that it is of.
    pub user: String,
    /// The key that it is stored under: `crdt:<clientId>`.
    pub key: String,
    /// The column that is malformed, and how.
    pub reason: String,
}

/// The facts that identify a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Made with the database.
    pub id: String,
    /// True if nobody has ever written to it.
    pub is_empty: bool,
}

/// The bounds of what retention removes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Removals told before this moment leave the feeds.
    pub removals_before: Timestamp,
    /// Operations accepted before this moment leave the audit trail.
    pub accepted_before: Timestamp,
    /// At most so many rows of each kind in one call, so that no lock is held for long.
    pub at_most: u32,
}

/// The rows that retention removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pruned {
    /// The number of feed entries.
    pub removals: u64,
    /// The number of accepted operations.
    pub accepted: u64,
}
