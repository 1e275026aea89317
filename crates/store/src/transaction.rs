//! What a back end offers inside a transaction: rows, locks and batches, and no rules.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use vfs_sync_core::access::Principal;
use vfs_sync_core::content::{Attachment, Sha256Digest};
use vfs_sync_core::cursor::Epoch;
use vfs_sync_core::entry::EntryKey;
use vfs_sync_core::id::{BlobId, ItemId, RefId, ReplicaId, StagingId, UserId, WriteId};
use vfs_sync_core::server::attach::{AttachChanges, MadeAttach, StageRow};
use vfs_sync_core::server::feed_window::EpochStart;
use vfs_sync_core::server::push::{
    Accepted, Addition, Changes, Head, Map, Mark, Needs, PlacedEntry, Places, Rows, Told,
};
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::{ReconcileState, StageStatus};

use crate::codes::BlobStatus;
use crate::served::Served;
use crate::trash::{TrashCursor, TrashOf, TrashRow, TrashState};
use crate::{NewStage, StoreError, UploadRow, Usage};

/// Epochs of a feed that are told at most. What is older counts as of the oldest of them.
pub(crate) const MAX_EPOCHS: usize = 1_000;

/// What a push writes.
pub(crate) struct PushWrite<'a> {
    pub(crate) user: &'a UserId,
    pub(crate) replica: &'a ReplicaId,
    pub(crate) changes: &'a Changes,
    pub(crate) feeds: &'a [FeedWrite],
    pub(crate) now: Timestamp,
}

/// What a transaction appends to one user's feed, and the head that it leaves.
pub(crate) struct FeedWrite {
    pub(crate) user: UserId,
    pub(crate) head: Head,
    /// The position of the first; the others follow it.
    pub(crate) places: Places,
    pub(crate) bodies: Vec<Addition>,
}

impl FeedWrite {
    /// The entries as they are stored, each made when it is asked for: there may be many.
    pub(crate) fn entries(&self) -> impl Iterator<Item = PlacedEntry> {
        self.entries_from(0)
    }

    /// [`Self::entries`] without the first `skipped`.
    pub(crate) fn entries_from(&self, skipped: usize) -> impl Iterator<Item = PlacedEntry> {
        let bodies = self.bodies.iter().skip(skipped).zip(self.places.first + skipped as u64..);
        bodies.map(|(body, counter)| PlacedEntry::new(body, counter))
    }
}

/// A replica as its row tells.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReplicaRow {
    pub(crate) last_write_id: WriteId,
    pub(crate) last_seen: Timestamp,
}

/// A stage with what only opening it compares.
pub(crate) struct StoredStage {
    pub(crate) row: StageRow,
    pub(crate) expiry_chosen: bool,
    /// Bytes that count against the quota of `charged`.
    pub(crate) reserved: u64,
    /// Who the bytes count against: who staged them, once they are attached the item's owner.
    pub(crate) charged: UserId,
    pub(crate) blob_status: BlobStatus,
}

/// A row that may be malformed: the text names what of it is, and how.
pub(crate) type Stored<T> = Option<Result<T, StoreError>>;

/// An open transaction. Whoever runs it commits it when the flow gives `Ok`, and rolls it back
/// otherwise.
///
/// Locks are taken in one order, so that nothing dead-locks: a push's replica, or an attach's
/// stage, blob and reconcile state; then realms; then feed heads; then usages; each set by its
/// bytes.
pub(crate) trait Transaction {
    /// Does work on about `rows` rows, in a way that does not hold up other transactions.
    fn reckon<R>(&self, rows: usize, work: impl FnOnce() -> R) -> R {
        let _ = rows;
        work()
    }

    /// What the process has seen before, and when the transaction began: none where the database
    /// cannot go back while it is open.
    fn served(&self) -> Option<(&Served, u64)> {
        None
    }

    /// Locks the replica's row; gives the greatest write id that it used.
    async fn lock_replica(
        &mut self,
        user: &UserId,
        replica: &ReplicaId,
        now: Timestamp,
    ) -> Result<Option<WriteId>, StoreError>;

    /// What the replica used these write ids for.
    async fn accepted(
        &mut self,
        user: &UserId,
        replica: &ReplicaId,
        write_ids: &BTreeSet<WriteId>,
    ) -> Result<HashMap<WriteId, Accepted>, StoreError>;

    /// Locks groups and organizations against changes of their members.
    async fn share_groups(&mut self, groups: &BTreeSet<Principal>) -> Result<(), StoreError>;

    /// Locks a group or organization against other changes of its members and grants to it.
    async fn lock_group(&mut self, group: &Principal) -> Result<(), StoreError>;

    /// Puts `user` into a group, or takes the user out; tells whether that changed anything.
    async fn write_member(
        &mut self,
        group: &Principal,
        user: &UserId,
        present: bool,
    ) -> Result<bool, StoreError>;

    /// The items that a principal is granted.
    async fn granted_to(&mut self, principal: &Principal) -> Result<BTreeSet<ItemId>, StoreError>;

    /// Has `user` block `owner`, or ends that; tells whether that changed anything.
    async fn write_block(
        &mut self,
        user: &UserId,
        owner: &UserId,
        blocked: bool,
    ) -> Result<bool, StoreError>;

    /// All items that are granted to somebody, and all users who may be somebody.
    async fn all_grants(&mut self) -> Result<(BTreeSet<UserId>, BTreeSet<ItemId>), StoreError>;

    /// Locks the realms of the user and of every item in `named`; loads these items, the realms,
    /// the last `changedAt` of each, and the end of the user's feed into `rows`.
    async fn lock_realms(
        &mut self,
        user: Option<&UserId>,
        named: &BTreeSet<ItemId>,
        rows: &mut Rows,
    ) -> Result<(), StoreError>;

    /// Loads into `found`, which is empty, what is there of `needs`.
    async fn load(&mut self, needs: &Needs, found: &mut Rows) -> Result<(), StoreError>;

    /// Of what the user's feed tells as present, the marks of those of `keys` that are there.
    async fn marks(
        &mut self,
        user: &UserId,
        keys: &BTreeSet<EntryKey>,
    ) -> Result<Map<EntryKey, Option<Mark>>, StoreError>;

    /// Of each user, those of the keys that the feed tells as present.
    async fn told(&mut self, keys: &BTreeMap<UserId, Vec<Vec<u8>>>) -> Result<Told, StoreError>;

    /// Locks the users' feed heads, making those that are missing.
    async fn lock_heads(
        &mut self,
        users: &BTreeSet<UserId>,
        now: Timestamp,
    ) -> Result<BTreeMap<UserId, Head>, StoreError>;

    /// Writes who sees what from now on.
    async fn write_access(&mut self, changes: &Changes) -> Result<(), StoreError>;

    /// Writes a push.
    async fn write_push(&mut self, write: &PushWrite<'_>) -> Result<(), StoreError>;

    /// Writes what the server itself changes: items, links, grants, access and feeds.
    async fn write_changes(
        &mut self,
        changes: &Changes,
        feeds: &[FeedWrite],
    ) -> Result<(), StoreError>;

    /// The user's feed head, not locked.
    async fn head(&mut self, user: &UserId) -> Result<Option<Head>, StoreError>;

    /// The database's present epoch. What is written under the locks of feed heads is of the one
    /// that was read with them.
    async fn epoch(&mut self) -> Result<Epoch, StoreError>;

    /// The epochs in which the user's feed got entries, ascending: the last [`MAX_EPOCHS`].
    async fn epoch_starts(&mut self, user: &UserId) -> Result<Vec<EpochStart>, StoreError>;

    /// Those of `replicas` that the user has.
    async fn replicas(
        &mut self,
        user: &UserId,
        replicas: &BTreeSet<ReplicaId>,
    ) -> Result<HashMap<ReplicaId, ReplicaRow>, StoreError>;

    /// The user's most recently active replicas, at most `limit`, the most recent first.
    async fn active_replicas(
        &mut self,
        user: &UserId,
        limit: usize,
    ) -> Result<Vec<(ReplicaId, WriteId)>, StoreError>;

    /// Notes that the replica was active, if it has a row.
    async fn touch_replica(
        &mut self,
        user: &UserId,
        replica: &ReplicaId,
        now: Timestamp,
    ) -> Result<(), StoreError>;

    /// The client's reconcile state, locked where the transaction writes.
    async fn reconcile_state(
        &mut self,
        user: &UserId,
        client: &ReplicaId,
    ) -> Result<Stored<ReconcileState>, StoreError>;

    /// Stores the client's reconcile state, which was read before as `None` if it is `new`.
    async fn write_reconcile_state(
        &mut self,
        user: &UserId,
        client: &ReplicaId,
        state: &ReconcileState,
        new: bool,
    ) -> Result<(), StoreError>;

    /// A stage, with its blob; both locked where the transaction writes.
    async fn stage(&mut self, staging_id: &StagingId) -> Result<Stored<StoredStage>, StoreError>;

    /// Makes a stage and its blob; `false`, and nothing made, if the blob's id is taken.
    async fn insert_stage(
        &mut self,
        user: &UserId,
        stage: &NewStage,
        now: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Removes a stage and its blob.
    async fn delete_stage(
        &mut self,
        staging_id: &StagingId,
        blob_id: &BlobId,
    ) -> Result<(), StoreError>;

    /// Records the size and digest of a blob.
    async fn set_uploaded(
        &mut self,
        blob_id: &BlobId,
        size: u64,
        digest: Sha256Digest,
    ) -> Result<(), StoreError>;

    /// Sets a stage's state.
    async fn set_stage_status(
        &mut self,
        staging_id: &StagingId,
        status: StageStatus,
    ) -> Result<(), StoreError>;

    /// Makes a blob one whose bytes are to go, from `now` on.
    async fn discard_blob(&mut self, blob_id: &BlobId, now: Timestamp) -> Result<(), StoreError>;

    /// Has the sweeper look at `at` for what is left of the blob.
    async fn set_reclaim(&mut self, blob_id: &BlobId, at: Timestamp) -> Result<(), StoreError>;

    /// Spares the sweeper its look, if that was due at `now`.
    async fn clear_reclaim(&mut self, blob_id: &BlobId, now: Timestamp) -> Result<(), StoreError>;

    /// Has the sweeper look at `at` instead, if its look was due at `now`.
    async fn move_reclaim(
        &mut self,
        blob_id: &BlobId,
        now: Timestamp,
        at: Timestamp,
    ) -> Result<(), StoreError>;

    /// Notes that a blob's bytes were removed; the sweeper looks once more at `again`.
    async fn set_deleted(&mut self, blob_id: &BlobId, again: Timestamp) -> Result<(), StoreError>;

    /// Removes an attachment that is an earlier version; tells whether there was one.
    async fn delete_version(&mut self, ref_id: &RefId) -> Result<bool, StoreError>;

    /// The stage that brings the blob.
    async fn stage_of(&mut self, blob_id: &BlobId) -> Result<Option<StagingId>, StoreError>;

    /// The upload in parts of a stage, which is locked where the transaction writes.
    async fn upload(&mut self, staging_id: &StagingId) -> Result<Option<UploadRow>, StoreError>;

    /// Writes the upload in parts of a stage.
    async fn write_upload(
        &mut self,
        staging_id: &StagingId,
        upload: &UploadRow,
    ) -> Result<(), StoreError>;

    /// Removes an upload and its parts.
    async fn delete_upload(&mut self, staging_id: &StagingId) -> Result<(), StoreError>;

    /// Writes the tags of parts `from` and up.
    async fn add_parts(
        &mut self,
        staging_id: &StagingId,
        from: u32,
        tags: &[String],
    ) -> Result<(), StoreError>;

    /// Removes an upload's parts.
    async fn delete_parts(&mut self, staging_id: &StagingId) -> Result<(), StoreError>;

    /// What a user's blobs come to, locked.
    async fn usage(&mut self, owner: &UserId) -> Result<Usage, StoreError>;

    /// Writes what was read by `usage`.
    async fn set_usage(&mut self, owner: &UserId, usage: Usage) -> Result<(), StoreError>;

    /// Sets what counts as the blob's against its owner's quota.
    async fn set_reserved(&mut self, blob_id: &BlobId, bytes: u64) -> Result<(), StoreError>;

    /// What is attached to the item: its current content and what is no content.
    async fn attachments_of(&mut self, item: &ItemId) -> Result<Vec<Attachment>, StoreError>;

    /// Where the blob is attached, and what each attach was to replace.
    async fn attachments_with(&mut self, blob: &BlobId) -> Result<Vec<MadeAttach>, StoreError>;

    /// Makes an attachment; a `file` takes the place of the current content.
    async fn insert_attachment(&mut self, changes: &AttachChanges) -> Result<(), StoreError>;

    /// Those of the items that are in the trash, or tombstones.
    async fn trash_rows(
        &mut self,
        items: &BTreeSet<ItemId>,
    ) -> Result<BTreeMap<ItemId, TrashRow>, StoreError>;

    /// The newest deletions older than `after` that can be restored, with the sizes of their
    /// contents.
    async fn trash_page(
        &mut self,
        user: &UserId,
        of: TrashOf,
        after: Option<&TrashCursor>,
        limit: usize,
    ) -> Result<Vec<TrashRow>, StoreError>;

    /// Rows in `state` since before `before`, the oldest first.
    async fn trash_before(
        &mut self,
        state: TrashState,
        before: Timestamp,
        at_most: u32,
    ) -> Result<Vec<TrashRow>, StoreError>;

    /// Writes rows of the trash in the place of what was there.
    async fn put_trash(&mut self, rows: &[TrashRow]) -> Result<(), StoreError>;

    /// Attachments of tombstones, earlier versions included.
    async fn purging_refs(&mut self, at_most: u32) -> Result<Vec<(RefId, BlobId)>, StoreError>;

    /// Removes an attachment; tells whether there was one.
    async fn delete_ref(&mut self, ref_id: &RefId) -> Result<bool, StoreError>;

    /// Whether anything is attached to the item, earlier versions included.
    async fn has_refs(&mut self, item: &ItemId) -> Result<bool, StoreError>;

    /// Removes links, grants, moves and access of the item, at most `at_most` rows; gives how many.
    async fn clear_item(&mut self, item: &ItemId, at_most: u64) -> Result<u64, StoreError>;

    /// Removes tombstones.
    async fn delete_items(&mut self, items: &BTreeSet<ItemId>) -> Result<(), StoreError>;

    /// Has a blob count against `user` from now on.
    async fn set_charged(&mut self, blob_id: &BlobId, user: &UserId) -> Result<(), StoreError>;

    /// Writes feed entries and their heads.
    async fn write_feeds(&mut self, feeds: &[FeedWrite]) -> Result<(), StoreError>;
}
