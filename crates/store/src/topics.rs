//! The traits of a transaction, topic by topic: rows, locks and batches, no rules.
//!
//! Each back end implements a topic in its file of the same name.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use vfs_sync_core::access::Principal;
use vfs_sync_core::content::{Attachment, Sha256Digest};
use vfs_sync_core::cursor::Epoch;
use vfs_sync_core::entry::EntryKey;
use vfs_sync_core::id::{BlobId, ItemId, RefId, ReplicaId, StagingId, UserId, WriteId};
use vfs_sync_core::server::attach::{AttachChanges, MadeAttach};
use vfs_sync_core::server::credential::{Credential, SigningKey};
use vfs_sync_core::server::deletion::Deletion;
use vfs_sync_core::server::device::{Device, DeviceState};
use vfs_sync_core::server::feed_window::{EpochStart, Window};
use vfs_sync_core::server::push::{
    Accepted, Addition, Changes, Head, Map, Mark, Needs, PlacedEntry, Places, PresentInFeed, Rows,
    UsageChange,
};
use vfs_sync_core::server::session::ConsoleSession;
use vfs_sync_core::server::stage::{NewStage, Stage, UploadRow, Usage};
use vfs_sync_core::server::user::{UserLimits, UserRecord};
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::credential::CredentialId;
use vfs_sync_core::wire::{ReconcileState, StageStatus};

use crate::backend::page::PageBuilder;
use crate::backend::plan_memory::PlanMemory;
use crate::backend::served::Served;
use crate::error::Result;
use crate::examination::Examine;
use crate::values::{
    Admission, BlobRow, BlobSummary, Identity, MalformedState, Reclaim, Retention, Totals,
    TrashCursor, TrashOf, TrashRow, TrashState,
};

/// The number of a feed's epochs that a transaction reads; older ones count as the oldest of these.
pub(crate) const MAX_EPOCHS: usize = 1_000;

/// The rows that a push writes.
pub(crate) struct PushWrite<'a> {
    pub(crate) user: &'a UserId,
    pub(crate) replica: &'a ReplicaId,
    pub(crate) changes: &'a Changes,
    pub(crate) feeds: &'a [FeedWrite],
    pub(crate) now: Timestamp,
    /// The number of the replica's results that are kept, those of the highest write ids.
    pub(crate) keeps: u64,
}

impl PushWrite<'_> {
    /// Returns the write id up to which results of earlier pushes are forgotten, and the most of
    /// them that this push removes; `None` if there are none.
    pub(crate) fn forgets(&self) -> Option<(WriteId, usize)> {
        let last = self.changes.last_write_id?.get();
        let through = WriteId::new(last.checked_sub(self.keeps)?)?;
        Some((through, 2 * self.changes.accepted.len()))
    }
}

/// The entries that a transaction appends to one user's feed, and the feed's new head.
pub(crate) struct FeedWrite {
    pub(crate) user: UserId,
    pub(crate) head: Head,
    /// The position of the first entry; the other entries follow it.
    pub(crate) places: Places,
    pub(crate) bodies: Vec<Addition>,
}

impl FeedWrite {
    /// Returns the entries in their stored form, each built on demand: there may be many.
    pub(crate) fn entries(&self) -> impl Iterator<Item = PlacedEntry> {
        self.entries_from(0)
    }

    /// Returns [`Self::entries`] after the first `skipped`.
    pub(crate) fn entries_from(&self, skipped: usize) -> impl Iterator<Item = PlacedEntry> {
        let bodies = self.bodies.iter().skip(skipped).zip(self.places.first + skipped as u64..);
        bodies.map(|(body, counter)| PlacedEntry::new(body, counter))
    }
}

/// The rows that a transaction is to write.
pub(crate) struct Decision {
    pub(crate) changes: Changes,
    pub(crate) feeds: Vec<FeedWrite>,
}

impl Decision {
    /// Returns the approximate number of rows to write.
    pub(crate) fn rows(&self) -> usize {
        let told: usize = self.feeds.iter().map(|feed| feed.bodies.len()).sum();
        let left = if self.changes.rest.is_some() { MANY_ROWS } else { 0 };
        told + self.changes.access.len() + left
    }
}

/// The number that stands for the rows of later chunks.
const MANY_ROWS: usize = 1_000_000;

/// The rows of an item that were removed.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cleared {
    /// The number of all of them.
    pub(crate) rows: u64,
    /// The number of links of the item's realm among them. A link from another realm counts there
    /// until its own end is removed.
    pub(crate) links: u64,
    /// The number of grants among them.
    pub(crate) grants: u64,
}

impl Cleared {
    /// Returns the change of what the item's realm holds.
    pub(crate) fn usage(&self) -> UsageChange {
        let less = |rows: u64| -i64::try_from(rows).unwrap_or(i64::MAX);
        UsageChange { links: less(self.links), grants: less(self.grants), ..UsageChange::default() }
    }
}

/// The row of a replica, as far as deciding needs it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReplicaRow {
    pub(crate) last_write_id: WriteId,
    pub(crate) last_seen: Timestamp,
}

/// A row that may be missing or malformed; the error names the column.
pub(crate) type Stored<T> = Option<Result<T>>;

/// The topics of an open transaction. Its runner commits it if the command returns `Ok`, else rolls
/// it back.
///
/// Locks are taken in one order, so that no two transactions deadlock: a push's replica, or an
/// attach's stage, blob and reconcile state; then realms; then feed heads; then usages; each set
/// sorted by its bytes.
pub(crate) trait Topics:
    Locks
    + Registers
    + Feeds
    + Replicas
    + Members
    + Stages
    + Uploads
    + Versions
    + Trash
    + Devices
    + Credentials
    + Users
    + Deletions
    + Maintenance
    + Examine
{
}
impl<T> Topics for T where
    T: Locks
        + Registers
        + Feeds
        + Replicas
        + Members
        + Stages
        + Uploads
        + Versions
        + Trash
        + Devices
        + Credentials
        + Users
        + Deletions
        + Maintenance
        + Examine
{
}

/// The locks under which a transaction decides.
pub(crate) trait Locks {
    /// Runs work on about `rows` rows without blocking other transactions.
    fn run_blocking<R>(&self, rows: usize, work: impl FnOnce() -> R) -> R {
        let _ = rows;
        work()
    }

    /// Returns the bytes of memory that planning one change may take.
    fn plan_memory(&self) -> PlanMemory {
        PlanMemory::UNBOUNDED
    }

    /// Returns the states that this process has seen, and the tick at which the transaction began;
    /// `None` if the database cannot regress while it is open.
    fn served(&self) -> Option<(&Served, u64)> {
        None
    }

    /// Locks the replica's row; returns the greatest write id that it used.
    async fn lock_replica(
        &mut self,
        user: &UserId,
        replica: &ReplicaId,
        now: Timestamp,
    ) -> Result<Option<WriteId>>;

    /// Locks groups and organizations against changes of their members.
    async fn share_groups(&mut self, groups: &BTreeSet<Principal>) -> Result<()>;

    /// Locks a group or organization against other changes of its members and grants to it.
    async fn lock_group(&mut self, group: &Principal) -> Result<()>;

    /// Locks the realms of the user and of every item in `named`; loads into `rows` these items,
    /// the realms, the last `changedAt` of each, and the end of the user's feed.
    async fn lock_realms(
        &mut self,
        user: Option<&UserId>,
        named: &BTreeSet<ItemId>,
        rows: &mut Rows,
    ) -> Result<()>;

    /// Locks the users' feed heads, creating the missing ones.
    async fn lock_heads(
        &mut self,
        users: &BTreeSet<UserId>,
        now: Timestamp,
    ) -> Result<BTreeMap<UserId, Head>>;
}

/// Items, links, grants, moves, and the access that they determine.
pub(crate) trait Registers {
    /// Loads the existing rows of `needs` into the empty `found`.
    async fn load(&mut self, needs: &Needs, found: &mut Rows) -> Result<()>;

    /// Writes the rows of a push.
    async fn write_push(&mut self, write: &PushWrite<'_>) -> Result<()>;

    /// Writes changes made by the server itself: registers, access and feeds, but no new item.
    async fn write_changes(&mut self, changes: &Changes, feeds: &[FeedWrite]) -> Result<()>;

    /// Returns the items that a principal is granted.
    async fn granted_to(&mut self, principal: &Principal) -> Result<BTreeSet<ItemId>>;

    /// Returns all users who may hold a grant, and all items with a grant.
    async fn all_grants(&mut self) -> Result<(BTreeSet<UserId>, BTreeSet<ItemId>)>;

    /// Removes links, grants, moves and access of the item, at most `at_most` rows.
    async fn clear_item(&mut self, item: &ItemId, at_most: u64) -> Result<Cleared>;

    /// Removes the rows of tombstones.
    async fn delete_items(&mut self, items: &BTreeSet<ItemId>) -> Result<()>;
}

/// Feeds: heads, epochs, entries.
pub(crate) trait Feeds {
    /// Returns the user's feed head without locking it.
    async fn head(&mut self, user: &UserId) -> Result<Option<Head>>;

    /// Returns the feed heads of the users that have a feed, in any order, without locking them.
    async fn heads(&mut self, users: &[UserId]) -> Result<Vec<(UserId, Head)>>;

    /// Returns the user's feed head without locking it, and whether grants wait for a call of the
    /// user.
    async fn feed_state(&mut self, user: &UserId) -> Result<(Option<Head>, bool)>;

    /// Makes the user's feed head, of no entry, if there is none.
    async fn begin_feed(&mut self, user: &UserId) -> Result<()>;

    /// Returns an owner whose grants wait for a call of the user.
    async fn awaiting_owner(&mut self, user: &UserId) -> Result<Option<UserId>>;

    /// Returns owners whose grants to the user were too many to give effect to, ascending: `limit`
    /// at most.
    async fn withheld_owners(&mut self, user: &UserId, limit: usize) -> Result<Vec<UserId>>;

    /// Returns the database's present epoch. Entries written under the locks of feed heads belong
    /// to the epoch that was read together with the heads.
    async fn epoch(&mut self) -> Result<Epoch>;

    /// Begins an epoch after the present one and every epoch that this process has seen.
    async fn begin_epoch(&mut self, now: Timestamp, chance: u16) -> Result<Epoch>;

    /// Returns the epochs in which the user's feed got entries, ascending: the last [`MAX_EPOCHS`].
    async fn epoch_starts(&mut self, user: &UserId) -> Result<Vec<EpochStart>>;

    /// Returns the marks of the `keys` that the user's feed shows as present.
    async fn marks(
        &mut self,
        user: &UserId,
        keys: &BTreeSet<EntryKey>,
    ) -> Result<Map<EntryKey, Option<Mark>>>;

    /// Returns, for each user, the keys that the user's feed shows as present.
    async fn present_in_feed(
        &mut self,
        keys: &BTreeMap<UserId, Vec<Vec<u8>>>,
    ) -> Result<PresentInFeed>;

    /// Reads the entries of a window, until the page is full.
    async fn read_page(&mut self, user: &UserId, window: Window) -> Result<PageBuilder>;
}

/// Replicas, the write ids that they used, and the states that they acknowledged.
pub(crate) trait Replicas {
    /// Returns the operations for which the replica used these write ids.
    async fn accepted(
        &mut self,
        user: &UserId,
        replica: &ReplicaId,
        write_ids: &BTreeSet<WriteId>,
    ) -> Result<HashMap<WriteId, Accepted>>;

    /// Returns the rows of those `replicas` that the user has.
    async fn replicas(
        &mut self,
        user: &UserId,
        replicas: &BTreeSet<ReplicaId>,
    ) -> Result<HashMap<ReplicaId, ReplicaRow>>;

    /// Returns the user's most recently active replicas, at most `limit`, the most recent first.
    async fn active_replicas(
        &mut self,
        user: &UserId,
        limit: usize,
    ) -> Result<Vec<(ReplicaId, WriteId)>>;

    /// Returns how many other replicas the user has, up to `enough`.
    async fn other_replicas(
        &mut self,
        user: &UserId,
        replica: &ReplicaId,
        enough: u64,
    ) -> Result<u64>;

    /// Notes that the replica was active, if it has a row.
    async fn touch_replica(
        &mut self,
        user: &UserId,
        replica: &ReplicaId,
        now: Timestamp,
    ) -> Result<()>;

    /// Returns the client's reconcile state, locked if the transaction writes.
    async fn reconcile_state(
        &mut self,
        user: &UserId,
        client: &ReplicaId,
    ) -> Result<Stored<ReconcileState>>;

    /// Stores the client's reconcile state; `new` says that the row did not exist when it was read.
    async fn write_reconcile_state(
        &mut self,
        user: &UserId,
        client: &ReplicaId,
        state: &ReconcileState,
        new: bool,
    ) -> Result<()>;

    /// Removes the reconcile states of the user's clients that have no replica, down to `most`: those
    /// of the lowest cursors.
    async fn drop_reader_states(&mut self, user: &UserId, most: u64) -> Result<()>;

    /// Finds malformed reconcile states, of one user or of all; removes them unless `dry_run` is
    /// set.
    async fn repair_reconcile_states(
        &mut self,
        user: Option<&UserId>,
        dry_run: bool,
    ) -> Result<Vec<MalformedState>>;
}

/// Groups, their members, and blocks.
pub(crate) trait Members {
    /// Adds `user` to a group or removes the user; returns whether that changed anything.
    async fn write_member(
        &mut self,
        group: &Principal,
        user: &UserId,
        present: bool,
    ) -> Result<bool>;

    /// Sets or clears a block of `owner` by `user`; returns whether that changed anything.
    async fn write_block(&mut self, user: &UserId, owner: &UserId, blocked: bool) -> Result<bool>;

    /// Returns at most `limit` members after `after`, ascending.
    async fn members_after(
        &mut self,
        group: &Principal,
        after: Option<&UserId>,
        limit: u32,
    ) -> Result<Vec<UserId>>;

    /// Returns the number of members, up to `enough`.
    async fn group_size(&mut self, group: &Principal, enough: u64) -> Result<u64>;

    /// Returns the groups and organizations of a user, ascending.
    async fn groups_of(&mut self, user: &UserId) -> Result<Vec<Principal>>;

    /// Returns the owners whom a user blocks, ascending.
    async fn blocked_by(&mut self, user: &UserId) -> Result<Vec<UserId>>;

    /// Returns whether the user ever had a replica, or the group has a member.
    async fn knows(&mut self, principal: &Principal) -> Result<bool>;
}

/// Stages, their blobs, and the quota that these count against.
pub(crate) trait Stages {
    /// Returns a stage with its blob; both are locked if the transaction writes.
    async fn stage(&mut self, staging_id: &StagingId) -> Result<Stored<Stage>>;

    /// Returns the stage of the blob.
    async fn stage_of(&mut self, blob_id: &BlobId) -> Result<Option<StagingId>>;

    /// Creates a stage and its blob; returns `false`, and creates neither, if the blob's id is
    /// taken.
    async fn insert_stage(
        &mut self,
        user: &UserId,
        stage: &NewStage,
        now: Timestamp,
    ) -> Result<bool>;

    /// Removes a stage and its blob.
    async fn delete_stage(&mut self, staging_id: &StagingId, blob_id: &BlobId) -> Result<()>;

    /// Sets a stage's status.
    async fn set_stage_status(&mut self, staging_id: &StagingId, status: StageStatus)
    -> Result<()>;

    /// Records the size and digest of a blob.
    async fn set_uploaded(
        &mut self,
        blob_id: &BlobId,
        size: u64,
        digest: Sha256Digest,
    ) -> Result<()>;

    /// Sets the bytes that a blob counts against its quota.
    async fn set_reserved(&mut self, blob_id: &BlobId, bytes: u64) -> Result<()>;

    /// Charges a blob to `user` from now on.
    async fn set_charged(&mut self, blob_id: &BlobId, user: &UserId) -> Result<()>;

    /// Marks a blob's bytes for removal from `now` on.
    async fn discard_blob(&mut self, blob_id: &BlobId, now: Timestamp) -> Result<()>;

    /// Schedules the sweeper's next check of the blob.
    async fn set_reclaim(&mut self, blob_id: &BlobId, at: Timestamp) -> Result<()>;

    /// Cancels the sweeper's check, if it was due at `now`.
    async fn clear_reclaim(&mut self, blob_id: &BlobId, now: Timestamp) -> Result<()>;

    /// Moves the sweeper's check to `at`, if it was due at `now`.
    async fn move_reclaim(&mut self, blob_id: &BlobId, now: Timestamp, at: Timestamp)
    -> Result<()>;

    /// Records that a blob's bytes were removed; the sweeper checks once more at `again`.
    async fn set_deleted(&mut self, blob_id: &BlobId, again: Timestamp) -> Result<()>;

    /// Returns open stages that expired by `now`, the oldest first.
    async fn expired_stages(
        &mut self,
        now: Timestamp,
        at_most: u32,
    ) -> Result<Vec<(UserId, StagingId)>>;

    /// Returns the blobs that the sweeper is to check by `now`, the oldest first.
    async fn to_reclaim(&mut self, now: Timestamp, at_most: u32) -> Result<Vec<Reclaim>>;

    /// Returns the removal that the sweeper is to make for one blob.
    async fn reclaim_of(&mut self, blob_id: &BlobId) -> Result<Option<Reclaim>>;

    /// Returns blobs after `after` in the order of their ids.
    async fn blobs_after(
        &mut self,
        after: Option<&BlobId>,
        at_most: u32,
    ) -> Result<Vec<BlobSummary>>;

    /// Returns the usage of a user, locked if the transaction writes.
    async fn usage(&mut self, owner: &UserId) -> Result<Usage>;

    /// Writes a usage that [`Self::usage`] read.
    async fn set_usage(&mut self, owner: &UserId, usage: Usage) -> Result<()>;
}

/// Uploads in parts of stages.
pub(crate) trait Uploads {
    /// Returns the upload of a stage, which is locked if the transaction writes.
    async fn upload(&mut self, staging_id: &StagingId) -> Result<Option<UploadRow>>;

    /// Writes the upload of a stage.
    async fn write_upload(&mut self, staging_id: &StagingId, upload: &UploadRow) -> Result<()>;

    /// Removes an upload and its parts.
    async fn delete_upload(&mut self, staging_id: &StagingId) -> Result<()>;

    /// Returns the tags of an upload's parts, in their order.
    async fn upload_parts(&mut self, staging_id: &StagingId) -> Result<Vec<String>>;

    /// Writes the tags of parts `from` and up.
    async fn add_parts(&mut self, staging_id: &StagingId, from: u32, tags: &[String])
    -> Result<()>;

    /// Removes an upload's parts.
    async fn delete_parts(&mut self, staging_id: &StagingId) -> Result<()>;

    /// Returns the object store's names of all uploads in progress.
    async fn upload_handles(&mut self) -> Result<Vec<String>>;
}

/// Attachments: current contents, earlier versions, and other attachments.
pub(crate) trait Versions {
    /// Returns the item's current content and its other attachments, without earlier versions.
    async fn attachments_of(&mut self, item: &ItemId) -> Result<Vec<Attachment>>;

    /// Returns the blob's attachments, with the content that each attach expected to replace.
    async fn attachments_with(&mut self, blob: &BlobId) -> Result<Vec<MadeAttach>>;

    /// Inserts an attachment; a `file` replaces the current content.
    async fn insert_attachment(&mut self, changes: &AttachChanges) -> Result<()>;

    /// Removes an attachment that is an earlier version; returns whether there was one.
    async fn delete_version(&mut self, ref_id: &RefId) -> Result<bool>;

    /// Removes an attachment; returns whether there was one.
    async fn delete_ref(&mut self, ref_id: &RefId) -> Result<bool>;

    /// Returns whether the item has any attachment, earlier versions included.
    async fn has_refs(&mut self, item: &ItemId) -> Result<bool>;

    /// Returns, for each id, the blob if it has bytes, is not deleted, and the user staged it or
    /// may read an item that it is attached to.
    async fn readable(
        &mut self,
        user: &UserId,
        blob_ids: &[BlobId],
    ) -> Result<Vec<Option<BlobRow>>>;

    /// Returns the contents of a file, the newest first; `None` if the user sees no such item.
    async fn versions(
        &mut self,
        user: &UserId,
        item: &ItemId,
        limit: u32,
    ) -> Result<Option<Vec<Attachment>>>;

    /// Returns versions that have been surplus since before `before`, the oldest first.
    async fn surplus_versions(
        &mut self,
        before: Timestamp,
        at_most: u32,
    ) -> Result<Vec<(RefId, BlobId)>>;
}

/// Deleted items and tombstones.
pub(crate) trait Trash {
    /// Returns the rows of those `items` that are in the trash, or are tombstones.
    async fn trash_rows(&mut self, items: &BTreeSet<ItemId>) -> Result<BTreeMap<ItemId, TrashRow>>;

    /// Returns the newest deletions older than `after` that can be restored, with the sizes of
    /// their contents.
    async fn trash_page(
        &mut self,
        user: &UserId,
        of: TrashOf,
        after: Option<&TrashCursor>,
        limit: usize,
    ) -> Result<Vec<TrashRow>>;

    /// Returns rows that have been in `state` since before `before`, the oldest first.
    async fn trash_before(
        &mut self,
        state: TrashState,
        before: Timestamp,
        at_most: u32,
    ) -> Result<Vec<TrashRow>>;

    /// Writes rows of the trash, replacing existing ones.
    async fn put_trash(&mut self, rows: &[TrashRow]) -> Result<()>;

    /// Returns attachments of tombstones, earlier versions included.
    async fn purging_refs(&mut self, at_most: u32) -> Result<Vec<(RefId, BlobId)>>;

    /// Returns the bytes of the user's items in the trash, up to `at_most` contents.
    async fn trashed_bytes(&mut self, user: &UserId, at_most: u32) -> Result<u64>;
}

/// Devices, and the admission of users and devices.
pub(crate) trait Devices {
    /// Returns a device beside the position that it acknowledged and its user's feed head, none of
    /// which is locked; the device's row is, if the transaction writes.
    async fn device(&mut self, user: &UserId, client: &ReplicaId) -> Result<Option<DeviceState>>;

    /// Returns at most `limit` devices of a user, or of all, after `after`, ascending.
    async fn devices_after(
        &mut self,
        of: Option<&UserId>,
        after: Option<&(UserId, ReplicaId)>,
        limit: u32,
    ) -> Result<Vec<DeviceState>>;

    /// Returns devices that were seen at `since` or later, the most recent first.
    async fn devices_seen_since(
        &mut self,
        since: Timestamp,
        at_most: u32,
    ) -> Result<Vec<DeviceState>>;

    /// Writes the row of a device; `new` says that it did not exist when it was read.
    async fn put_device(&mut self, device: &Device, new: bool) -> Result<()>;

    /// Returns how many devices the user has, up to `enough`.
    async fn count_devices(&mut self, user: &UserId, enough: u64) -> Result<u64>;

    /// Removes the device of the user that was away longest and is not revoked; returns whether
    /// there was one.
    async fn drop_oldest_device(&mut self, user: &UserId) -> Result<bool>;

    /// Returns whether a user, and a device of the user's, may be served.
    async fn admission(&mut self, user: &UserId, client: Option<&ReplicaId>) -> Result<Admission>;

    /// Returns the number that changes with every change of an admission.
    async fn admission_generation(&mut self) -> Result<u64>;

    /// Changes the number of [`Self::admission_generation`].
    async fn next_admission_generation(&mut self) -> Result<()>;
}

/// Credentials of devices, the keys that sign their access tokens, and sessions of the console.
pub(crate) trait Credentials {
    /// Returns a credential, whose row is locked if the transaction writes.
    async fn credential(&mut self, id: &CredentialId) -> Result<Option<Credential>>;

    /// Writes the row of a credential; `new` says that neither its id nor its replica had one.
    async fn put_credential(&mut self, credential: &Credential, new: bool) -> Result<()>;

    /// Removes the credential of a user's replica; returns whether there was one.
    async fn drop_credential(&mut self, user: &UserId, client: &ReplicaId) -> Result<bool>;

    /// Returns how many credentials the user has, up to `enough`.
    async fn count_credentials(&mut self, user: &UserId, enough: u64) -> Result<u64>;

    /// Removes the credential of the user that was used longest ago.
    async fn drop_oldest_credential(&mut self, user: &UserId) -> Result<()>;

    /// Returns the keys that sign access tokens, the newest first.
    async fn signing_keys(&mut self) -> Result<Vec<SigningKey>>;

    /// Adds a key that signs access tokens.
    async fn put_signing_key(&mut self, key: &SigningKey) -> Result<()>;

    /// Removes a key that signs access tokens.
    async fn drop_signing_key(&mut self, id: &str) -> Result<()>;

    /// Returns a session of the console.
    async fn session(&mut self, id: &str) -> Result<Option<ConsoleSession>>;

    /// Returns at most `at_most` sessions of the console, the newest first.
    async fn sessions(&mut self, at_most: u32) -> Result<Vec<ConsoleSession>>;

    /// Adds a session of the console.
    async fn put_session(&mut self, session: &ConsoleSession) -> Result<()>;

    /// Removes a session of the console; returns whether there was one.
    async fn drop_session(&mut self, id: &str) -> Result<bool>;

    /// Removes at most `at_most` sessions of the console that ended by `now`; returns how many.
    async fn drop_ended_sessions(&mut self, now: Timestamp, at_most: u32) -> Result<u64>;
}

/// Users, and what operators decided about them.
pub(crate) trait Users {
    /// Returns at most `limit` users after `after`, ascending.
    async fn users_after(&mut self, after: Option<&UserId>, limit: u32) -> Result<Vec<UserRecord>>;

    /// Returns a user's record, without locking anything.
    async fn user_record(&mut self, user: &UserId) -> Result<Option<UserRecord>>;

    /// Returns the limits of the user's own.
    async fn limits_of(&mut self, user: &UserId) -> Result<UserLimits>;

    /// Writes the limits of the user's own.
    async fn set_limits(&mut self, user: &UserId, limits: &UserLimits) -> Result<()>;

    /// Writes the time since when the user is disabled.
    async fn set_disabled(&mut self, user: &UserId, since: Option<Timestamp>) -> Result<()>;
}

/// Rows that name a user who is being removed, and the progress of the removal. No method that removes rows takes more
/// than it is told, so that nobody waits for long.
pub(crate) trait Deletions {
    /// Returns the deletion of a pseudonym's user; it is locked if the transaction writes.
    async fn deletion(&mut self, pseudonym: &str) -> Result<Option<Deletion>>;

    /// Writes a deletion, replacing the one of the same pseudonym.
    async fn put_deletion(&mut self, deletion: &Deletion) -> Result<()>;

    /// Removes a deletion that was called off.
    async fn drop_deletion(&mut self, pseudonym: &str) -> Result<()>;

    /// Returns the pseudonyms of deletions whose next step is due at `now`, the longest due first.
    async fn due_deletions(&mut self, now: Timestamp, at_most: u32) -> Result<Vec<String>>;

    /// Marks the user's realm, so that no push of the user's is decided under its lock.
    async fn refuse_pushes(&mut self, user: &UserId) -> Result<()>;

    /// Returns items that the user owns, tombstones included, those of the greatest ids.
    async fn owned_items(&mut self, owner: &UserId, at_most: u32) -> Result<BTreeSet<ItemId>>;

    /// Returns items after `after` in the order of their ids, whoever owns them.
    async fn items_after(&mut self, after: Option<&ItemId>, at_most: u32) -> Result<Vec<ItemId>>;

    /// Returns those of `items` whose registers, access or trash name the user.
    async fn items_naming(&mut self, user: &UserId, items: &[ItemId]) -> Result<BTreeSet<ItemId>>;

    /// Replaces the user by `by` in links from `items`, grants on them, their moves and trash, and
    /// removes the user's access and grants to the user that were removed. Returns the number of
    /// rows of each item, and the number of removed grants among them. The fields of the items stay.
    async fn rename_author(
        &mut self,
        user: &UserId,
        by: &UserId,
        items: &BTreeSet<ItemId>,
    ) -> Result<BTreeMap<ItemId, Renamed>>;

    /// Returns rows of the user's feed, the oldest first: counters and keys.
    async fn feed_keys(&mut self, user: &UserId, at_most: u32) -> Result<Vec<(u64, Vec<u8>)>>;

    /// Removes rows of the user's feed by their counters, and the user's access to `items`.
    async fn remove_feed(
        &mut self,
        user: &UserId,
        counters: &[u64],
        items: &BTreeSet<ItemId>,
    ) -> Result<()>;

    /// Returns stages of the user after `after`, in the order of their ids.
    async fn stages_of(
        &mut self,
        owner: &UserId,
        after: Option<&StagingId>,
        at_most: u32,
    ) -> Result<Vec<StagingId>>;

    /// Makes `to` the owner of a stage and its blob; with `forget`, the blob loses its media type,
    /// and counts against nobody else.
    async fn give_stage(
        &mut self,
        staging_id: &StagingId,
        blob_id: &BlobId,
        to: &UserId,
        forget: bool,
    ) -> Result<()>;

    /// Returns stages of others whose blobs count against the user.
    async fn stages_charged_to(&mut self, user: &UserId, at_most: u32) -> Result<Vec<StagingId>>;

    /// Returns rows of feeds whose entries contain `name`, among the next `at_most` rows after
    /// `after`, and the place of the last of these rows; no place after the last row.
    async fn mentions(
        &mut self,
        name: &UserId,
        after: Option<&str>,
        at_most: u32,
    ) -> Result<(Vec<Mention>, Option<String>)>;

    /// Replaces the entry of a feed's row, if it is still the one that was read.
    async fn replace_mention(&mut self, mention: &Mention, json: &str) -> Result<()>;

    /// Removes at most `at_most` of the user's devices, replicas, results, states and blocks;
    /// returns their number.
    async fn remove_rows(&mut self, user: &UserId, at_most: u32) -> Result<u64>;

    /// Removes the user's feed head, usage and own row, unless another row still names the user;
    /// returns the number of rows.
    async fn remove_user(&mut self, user: &UserId) -> Result<u64>;

    /// Returns whether the database has a row of the user's own.
    async fn has_rows(&mut self, user: &UserId) -> Result<bool>;
}

/// The rows of an item in which another name replaced a user's.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Renamed {
    /// The number of all of them.
    pub(crate) rows: u64,
    /// The number of removed grants among them.
    pub(crate) grants: u64,
}

/// A row of a feed whose entry contains a name.
#[derive(Debug, Clone)]
pub(crate) struct Mention {
    /// The row's place, as the back end names it.
    pub(crate) place: String,
    /// The entry in its stored form.
    pub(crate) json: String,
}

/// Rows that retention removes, and queries about the database as a whole.
pub(crate) trait Maintenance {
    /// Removes the oldest removals from the feeds; the heads record how far.
    async fn prune_removals(&mut self, retention: &Retention) -> Result<u64>;

    /// Removes the oldest accepted operations: of each replica, those with the lowest write ids.
    async fn prune_accepted(&mut self, retention: &Retention) -> Result<u64>;

    /// Returns the identity of the database.
    async fn identity(&mut self) -> Result<Identity>;

    /// Returns the sums over all users, of at most [`MAX_COUNTED`](crate::values::MAX_COUNTED) rows
    /// of a kind, and the database's role.
    async fn totals(&mut self) -> Result<Totals>;

    /// Returns the time until which no object is removed; in the past if removals are not held.
    async fn removals_held_until(&mut self) -> Result<Timestamp>;

    /// Holds removals until a time, unless they are held for longer.
    async fn hold_removals(&mut self, until: Timestamp) -> Result<()>;

    /// Queries the database for a constant.
    async fn ping(&mut self) -> Result<()>;
}
