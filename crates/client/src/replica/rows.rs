//! The rows and transactions of a back end, without rules.

use std::collections::{BTreeMap, BTreeSet};

use smallvec::SmallVec;
use vfs_sync_core::access::{AccessLevel, Principal};
use vfs_sync_core::client::offer::{Lost, Removal};
use vfs_sync_core::content::Attachment;
use vfs_sync_core::cursor::{Cursor, Position};
use vfs_sync_core::entry::ItemView;
use vfs_sync_core::id::{BlobId, ItemId, OpId, RefId, UserId, WriteId};
use vfs_sync_core::item::{Metadata, ObjectType};
use vfs_sync_core::operation::Operation;
use vfs_sync_core::time::Timestamp;

use super::store::{Counts, Meta, MoveId, Slot, Upload};
use crate::api::Query;
use crate::api::node::{QueuedOp, QueuedState, RejectedOp};
use crate::api::record::{DirectoryRecord, EntryRecord, Intent};
pub(super) use crate::error::Result;

/// The containers of an item: nearly always one.
pub(super) type Parents = SmallVec<[ItemId; 1]>;

/// The row of a confirmed item.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ItemRow {
    pub(super) view: Box<ItemView>,
    pub(super) authored_at: Timestamp,
    /// The feed position of the item's last change; `None` if it is not known.
    pub(super) at: Option<Position>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LinkRow {
    pub(super) parent: ItemId,
    pub(super) child: ItemId,
    pub(super) authored_at: Timestamp,
    pub(super) at: Option<Position>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GrantRow {
    pub(super) item: ItemId,
    pub(super) principal: Principal,
    pub(super) level: AccessLevel,
    pub(super) authored_at: Timestamp,
    pub(super) at: Option<Position>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AttachmentRow {
    pub(super) attachment: Box<Attachment>,
    pub(super) authored_at: Timestamp,
    pub(super) at: Option<Position>,
}

/// A removal that the replica applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RemovalRow {
    pub(super) removal: Removal,
    pub(super) authored_at: Timestamp,
    pub(super) position: Cursor,
}

/// The row of a shown item in the index that queries read.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct FoundRow {
    pub(super) id: ItemId,
    /// The name; empty if there is none.
    pub(super) name: String,
    pub(super) object_type: ObjectType,
    pub(super) owner: UserId,
    pub(super) modified_at: Timestamp,
    pub(super) metadata: Metadata,
}

/// An entry of the list of changes that a server lost and that this replica cannot offer again.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LostRow {
    pub(super) seq: i64,
    pub(super) lost: Lost,
}

/// The rows of a replica. Writes happen between `begin` and `commit`; a failed transaction is
/// rolled back completely.
pub(super) trait Rows: Send {
    /// Begins a new transaction. With `at_once`, this transaction and all before it are durable
    /// once it commits.
    fn begin(&mut self, at_once: bool) -> Result<()>;
    /// Commits the transaction, and writes the parts of `meta` that differ from `before`.
    fn commit(&mut self, before: &Meta, meta: &Meta) -> Result<()>;
    fn rollback(&mut self);

    // Registers. `put_*` return true if the key is new, `remove_*` if it was there.
    fn put_item(&mut self, slot: Slot, row: ItemRow) -> Result<bool>;
    fn remove_item(&mut self, slot: Slot, id: &ItemId) -> Result<bool>;
    fn item(&mut self, slot: Slot, id: &ItemId) -> Result<Option<ItemRow>>;
    fn owner(&mut self, slot: Slot, id: &ItemId) -> Result<Option<UserId>>;
    fn put_link(&mut self, slot: Slot, row: LinkRow) -> Result<()>;
    fn remove_link(&mut self, slot: Slot, parent: &ItemId, child: &ItemId) -> Result<()>;
    fn parents(&mut self, slot: Slot, child: &ItemId) -> Result<Parents>;
    fn children(&mut self, slot: Slot, parent: &ItemId) -> Result<Vec<ItemId>>;
    fn put_grant(&mut self, slot: Slot, row: GrantRow) -> Result<()>;
    fn grants(&mut self, slot: Slot, item: &ItemId) -> Result<Vec<GrantRow>>;
    fn remove_grant(&mut self, slot: Slot, item: &ItemId, principal: &Principal) -> Result<()>;
    /// Writes an attachment: a current content replaces the previous one, other attachments
    /// coexist.
    fn put_attachment(&mut self, slot: Slot, row: AttachmentRow) -> Result<()>;
    /// Removes an attachment; `ref_id` is `None` for the current content.
    fn remove_attachment(
        &mut self,
        slot: Slot,
        item: &ItemId,
        ref_id: Option<&RefId>,
    ) -> Result<()>;
    fn content(&mut self, slot: Slot, item: &ItemId) -> Result<Option<AttachmentRow>>;
    /// Lists the current contents of the current slot, by item, after `after`; an empty list means
    /// the end.
    fn contents(&mut self, after: Option<&ItemId>, at_most: usize) -> Result<Vec<AttachmentRow>>;

    // The rows that are compared with a restored server.
    /// Returns the links to the containers of an item, by container.
    fn parent_links(&mut self, slot: Slot, child: &ItemId) -> Result<Vec<LinkRow>>;
    /// Lists the items of the current slot whose position is after `position` or unknown; by id,
    /// after `after`.
    fn items_told_after(
        &mut self,
        position: Option<Position>,
        after: Option<&ItemId>,
        at_most: usize,
    ) -> Result<Vec<ItemRow>>;
    /// Lists links as [`Self::items_told_after`] lists items, by parent and child.
    fn links_told_after(
        &mut self,
        position: Option<Position>,
        after: Option<(&ItemId, &ItemId)>,
        at_most: usize,
    ) -> Result<Vec<LinkRow>>;
    /// Records a removal, replacing an earlier one of the same register.
    fn put_removal(&mut self, row: RemovalRow) -> Result<()>;
    /// Lists the removals after the number `after`, in the order in which they were applied, each
    /// with its number.
    fn removals(&mut self, after: i64, at_most: usize) -> Result<Vec<(i64, RemovalRow)>>;
    /// Deletes the records of removals older than `before`, and all except the last `at_most`.
    fn prune_removals(&mut self, before: Timestamp, at_most: usize) -> Result<()>;
    /// Returns the greatest container clock of the current slot up to `position`.
    fn container_clock_up_to(&mut self, position: Position) -> Result<Option<Cursor>>;

    // The changes that were lost and could not be offered again.
    /// Adds an entry to the list of lost changes, unless the list has it already.
    fn push_lost(&mut self, lost: &Lost) -> Result<()>;
    fn lost(&mut self, after: i64, at_most: usize) -> Result<Vec<LostRow>>;
    fn is_lost(&mut self, item: &ItemId) -> Result<bool>;
    fn remove_lost(&mut self, seq: i64) -> Result<()>;
    /// Removes the lost content of an item that was deleted since, unless its bytes are kept: nobody
    /// misses it any more.
    fn remove_lost_content(&mut self, item: &ItemId) -> Result<()>;

    // Contents whose bytes need not stay on this machine.
    fn forget(&mut self, item: &ItemId, blob_id: &BlobId) -> Result<()>;
    fn forgotten(&mut self, at_most: usize) -> Result<Vec<(ItemId, BlobId)>>;
    fn remove_forgotten(&mut self, blob_id: &BlobId) -> Result<()>;

    // Derived from the registers.
    fn bump_container(&mut self, slot: Slot, id: &ItemId, at: &Cursor) -> Result<()>;
    fn changed_containers(
        &mut self,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Vec<(ItemId, Cursor)>>;
    fn set_top(&mut self, slot: Slot, id: &ItemId, top: bool) -> Result<()>;
    /// Lists the items at the top, by id, each with its owner if known.
    fn tops(&mut self) -> Result<Vec<(ItemId, Option<UserId>)>>;

    fn clear(&mut self, slot: Slot) -> Result<()>;
    fn swap_slots(&mut self) -> Result<()>;

    // The index of shown items.
    fn is_indexed(&mut self) -> Result<bool>;
    fn set_indexed(&mut self, indexed: bool) -> Result<()>;
    /// Empties the index, which does not count from then on.
    fn clear_found(&mut self) -> Result<()>;
    /// Adds a row that the index does not have.
    fn put_found(&mut self, row: FoundRow) -> Result<()>;
    fn remove_found(&mut self, id: &ItemId) -> Result<()>;
    fn find(&mut self, query: &Query) -> Result<Vec<ItemId>>;

    // The queue, in order.
    fn push_queue(&mut self, op: &Operation, state: QueuedState) -> Result<()>;
    /// Works as [`Self::push_queue`] for an operation that is part of a move.
    fn push_queue_of(&mut self, of: &MoveId, op: &Operation, state: QueuedState) -> Result<()>;
    /// Returns the move that a queued operation is part of.
    fn move_of(&mut self, op_id: &OpId) -> Result<Option<MoveId>>;
    /// Returns the moves that have held operations.
    fn held_moves(&mut self) -> Result<BTreeSet<MoveId>>;
    /// Returns the held operations of a move, in order.
    fn held_of(&mut self, of: &MoveId) -> Result<Vec<Operation>>;
    /// Returns true if an operation of a move is pending, or a content of it is still to be
    /// uploaded.
    fn is_moving(&mut self, of: &MoveId) -> Result<bool>;
    /// Moves an operation behind all others in the queue, and restores the time with which it was
    /// sent.
    fn to_the_end(&mut self, op_id: &OpId) -> Result<()>;
    fn queue_is_empty(&mut self) -> Result<bool>;
    fn queue_of_item(&mut self, item: &ItemId) -> Result<Vec<QueuedOp>>;
    /// Returns the items whose operations name `parent`.
    fn queue_of_parent(&mut self, parent: &ItemId) -> Result<Vec<ItemId>>;
    fn pending(&mut self, at_most: usize) -> Result<Vec<(Operation, usize)>>;
    fn queue(&mut self, limit: usize) -> Result<Vec<QueuedOp>>;
    /// Returns the items of acknowledged operations and attached contents, which a settled pull may
    /// remove from the queue.
    fn unsettled_items(&mut self) -> Result<Vec<ItemId>>;
    /// Marks an operation as acknowledged, and lowers its write id and time to these. Later
    /// operations on the item get no earlier [`Rows::given_times`]. Returns the item,
    /// if the operation is queued.
    fn acknowledge(
        &mut self,
        op_id: &OpId,
        write_id: WriteId,
        at: Option<Timestamp>,
    ) -> Result<Option<ItemId>>;
    /// Makes acknowledged operations above `covered` pending again. With `as_sent` they keep the
    /// times with which they were last sent, and [`Rows::given_times`] has the server's; else they have
    /// the server's times. Returns their ids.
    fn unacknowledge(&mut self, covered: Option<WriteId>, as_sent: bool) -> Result<BTreeSet<OpId>>;
    /// Sets a later time on a queued operation.
    fn restamp(&mut self, op_id: &OpId, occurred_at: Timestamp) -> Result<()>;
    fn remove_queued(&mut self, op_id: &OpId) -> Result<Option<Operation>>;
    /// Removes acknowledged operations up to a write id, except those behind a pending one, so that
    /// the overlay keeps its order. Returns them.
    fn remove_covered(&mut self, through: WriteId) -> Result<Vec<Operation>>;
    /// Returns the times that the server gave to pending operations that are sent again as they
    /// were.
    fn given_times(&mut self) -> Result<BTreeMap<OpId, Timestamp>>;
    fn shift_pending(&mut self, by: u64) -> Result<()>;
    fn renumber(&mut self, op_id: &OpId, write_id: WriteId) -> Result<()>;
    fn latest_queued_stamp(&mut self) -> Result<Option<Timestamp>>;

    fn push_rejected(&mut self, op: &RejectedOp) -> Result<()>;
    fn rejected(&mut self, limit: usize) -> Result<Vec<RejectedOp>>;
    fn remove_rejected(&mut self, op_id: &OpId) -> Result<Option<RejectedOp>>;

    // Contents on their way.
    /// Inserts an upload whose `seq` is 0; replaces any other.
    fn put_upload(&mut self, upload: &Upload) -> Result<()>;
    fn remove_upload(&mut self, seq: i64) -> Result<()>;
    fn uploads(&mut self, after: i64, at_most: usize) -> Result<Vec<Upload>>;
    fn uploads_of_item(&mut self, item: &ItemId) -> Result<Vec<Upload>>;
    fn remove_attached_upload(&mut self, item: &ItemId, blob_id: &BlobId) -> Result<()>;
    /// Removes the attached uploads and returns them.
    fn remove_attached_uploads(&mut self) -> Result<Vec<Upload>>;
    fn reset_uploads(&mut self) -> Result<()>;
    fn rejected_uploads(&mut self) -> Result<Vec<Upload>>;
    fn is_uploading(&mut self, blob_id: &BlobId) -> Result<bool>;
    /// Returns true if a content is still to be uploaded, or is kept with the list of lost changes.
    fn is_needed(&mut self, blob_id: &BlobId) -> Result<bool>;
    fn blobs_to_keep(&mut self) -> Result<Vec<BlobId>>;
    fn counts(&mut self) -> Result<Counts>;

    // The records of directories.
    fn directories(&mut self) -> Result<Vec<DirectoryRecord>>;
    /// Inserts a record whose id is 0; replaces any other. Returns its id.
    fn put_directory(&mut self, record: &DirectoryRecord) -> Result<i64>;
    /// Removes a record with all its rows and intents.
    fn remove_directory(&mut self, directory: i64) -> Result<()>;
    /// Writes a row, replacing rows with the same number or the same name.
    fn put_entry(&mut self, directory: i64, row: &EntryRecord) -> Result<()>;
    fn remove_entry(&mut self, directory: i64, id: u64) -> Result<()>;
    fn entries(&mut self, directory: i64, parent: u64) -> Result<Vec<EntryRecord>>;
    fn entry(&mut self, directory: i64, id: u64) -> Result<Option<EntryRecord>>;
    fn entry_named(
        &mut self,
        directory: i64,
        parent: u64,
        name: &[u8],
    ) -> Result<Option<EntryRecord>>;
    fn entries_of_inode(&mut self, directory: i64, inode: u64) -> Result<Vec<EntryRecord>>;
    /// Returns the rows of some items, in every record.
    fn entries_of_items(&mut self, items: &BTreeSet<ItemId>) -> Result<Vec<(i64, EntryRecord)>>;
    /// Returns the rows that are [`EntryRecord::made`], in every record.
    fn entries_made(&mut self) -> Result<Vec<(i64, EntryRecord)>>;
    fn count_entries(&mut self, directory: i64) -> Result<u64>;
    fn last_entry(&mut self, directory: i64) -> Result<u64>;
    fn put_intent(&mut self, directory: i64, intent: &Intent) -> Result<()>;
    fn remove_intent(&mut self, directory: i64, unique: &str) -> Result<()>;
    /// Returns the intents in the order of [`Intent::unique`].
    fn intents(&mut self, directory: i64) -> Result<Vec<Intent>>;

    fn queued_uploads(&mut self, at_most: usize) -> Result<Vec<Upload>>;
    /// Checks the storage as a whole; returns the problems found in it, a few at most.
    fn integrity(&mut self) -> Result<Vec<String>>;
    /// Reads every row; returns their number.
    fn verify(&mut self) -> Result<u64>;

    /// Counts the items of the current slot.
    fn count_items(&mut self) -> Result<u64>;

    // All rows of the current slot, in the order of their keys.
    fn all_items(&mut self) -> Result<Vec<ItemRow>>;
    fn all_links(&mut self) -> Result<Vec<LinkRow>>;
    fn all_grants(&mut self) -> Result<Vec<GrantRow>>;
    fn all_attachments(&mut self) -> Result<Vec<AttachmentRow>>;
}
