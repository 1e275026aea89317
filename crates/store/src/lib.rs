//! The server's metadata: one trait of whole transactions, and its back ends.
//!
//! [`MetadataStore`] is what the server needs; `sqlite::SqliteStore` is the default (one file,
//! one writer that groups concurrent pushes into one commit), `postgres::PostgresStore` lets any
//! number of servers share one database, `memory::MemoryStore` is for tests. What a transaction
//! decides is `vfs_sync_core`'s; a back end knows rows, locks and batches.

mod codes;
mod flow;
pub mod memory;
mod open;
mod page;
pub mod postgres;
mod reclaim;
mod schema;
mod served;
pub mod sqlite;
#[cfg(all(feature = "testing", unix))]
pub mod testing;
mod transaction;
mod trash;
mod uploads;

pub use open::{migrate, open};
pub use reclaim::{BlobRecord, BlobSummary, DeleteAnswer, Reclaim, StageRecord};
pub use trash::{MAX_TRASH_ITEMS, PurgeAnswer, RestoreAnswer, TrashCursor, TrashListing};
pub use uploads::{Advance, Anew, OverQuota, Quota, UploadAccess, UploadRow, Usage};

use async_trait::async_trait;
use vfs_sync_core::access::Principal;
use vfs_sync_core::content::{Attachment, Sha256Digest};
use vfs_sync_core::cursor::{Cursor, Epoch};
use vfs_sync_core::id::{BlobId, ItemId, RefId, ReplicaId, StagingId, UserId, WriteId};
use vfs_sync_core::server::attach::{AttachRefusal, StageRow};
use vfs_sync_core::server::push::PushBatch;
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::{
    AttachRequest, AttachResponse, EpochEnd, PushResponse, ReconcileRequest, ReconcileState,
    StateResponse, WriteIds,
};

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

/// Why a transaction did not go through; nothing of it did.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database has no room left: nothing was changed. A retry helps once there is some.
    #[error("the database has no room: {0}")]
    Full(String),
    /// The database cannot be reached or is busy: a retry may help.
    #[error("the database is unavailable: {0}")]
    Unavailable(String),
    /// A row is not what this version writes; names the table and the key.
    #[error("the row {key} of {table} is malformed: {reason}")]
    MalformedRow {
        /// The table.
        table: &'static str,
        /// The key.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// The database was written by a newer version.
    #[error("the database has schema version {found}, this program knows {known}: use a newer one")]
    NewerSchema {
        /// Of the database.
        found: i64,
        /// Of this program.
        known: i64,
    },
    /// The database says that it has this schema, but lacks a part of it.
    #[error("the database has lost its table {table}")]
    MissingTable {
        /// Which.
        table: String,
    },
    /// The database shows an earlier state than it did before: it was put back under the server.
    #[error("the database is older than what was answered from it")]
    WentBack,
    /// The database refused for a reason that a retry does not mend.
    #[error("the database failed: {0}")]
    Failed(String),
}

/// What a pull asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullRequest {
    /// What the client has; `None` starts from the beginning.
    pub cursor: Option<Cursor>,
    /// The head at the client's first pull, while its cursor is below it.
    pub baseline: Option<Cursor>,
    /// The newest head of the pages of a pull that the client has not settled.
    pub head: Option<Cursor>,
    /// Whose write id must be in the map.
    pub client_id: Option<ReplicaId>,
    /// Entries at most: 1 to 500.
    pub limit: u32,
}

impl PullRequest {
    /// The positions that the feed must have for the client to go on from its cursor.
    pub fn positions(&self) -> impl Iterator<Item = &Cursor> {
        self.cursor.iter().chain(&self.baseline).chain(&self.head)
    }
}

/// The answer to a pull.
#[derive(Debug, Clone, PartialEq)]
pub enum PullAnswer {
    /// A page.
    Page(FeedPage),
    /// The cursor cannot be served.
    Rematerialize {
        /// The oldest cursor that can be: what was pruned through, if anything was.
        oldest_available: Option<Cursor>,
        /// The feed's epochs, ascending.
        history: Vec<EpochEnd>,
    },
}

/// A page whose entries are JSON already, as they go on the wire.
#[derive(Debug, Clone, PartialEq)]
pub struct FeedPage {
    /// The entries.
    pub items: Vec<String>,
    /// The last item's position, where there is more.
    pub next_cursor: Option<Cursor>,
    /// Whether the feed goes on.
    pub has_more: bool,
    /// The user's replicas: the most recently active, at most 512, the client's own among them.
    pub last_reconciled_write_ids: WriteIds,
    /// The head, if the pull had no cursor.
    pub baseline: Option<Cursor>,
    /// The head, if there is more.
    pub head: Option<Cursor>,
    /// The feed's epoch.
    pub epoch: Epoch,
}

/// The answer to a reconcile.
#[derive(Debug, Clone, PartialEq)]
pub enum ReconcileAnswer {
    /// The merged state, stored.
    Merged(ReconcileState),
    /// The cursor is not of this feed's history.
    Rematerialize {
        /// The oldest cursor that can be served.
        oldest_available: Option<Cursor>,
        /// The feed's epochs, ascending.
        history: Vec<EpochEnd>,
    },
    /// A write id above the replica's own last, or of an unknown replica.
    WriteIdsAhead {
        /// Whose.
        replica_id: ReplicaId,
        /// What was sent.
        sent: WriteId,
        /// The replica's last; `None` if it is unknown.
        last: Option<WriteId>,
    },
}

/// A stage to open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewStage {
    /// Its id.
    pub staging_id: StagingId,
    /// The blob that it brings.
    pub blob_id: BlobId,
    /// When it ends by itself.
    pub expires_at: Timestamp,
    /// Whether the client chose `expires_at`: then a repetition must name the same.
    pub expiry_chosen: bool,
    /// A hint for readers.
    pub content_type: Option<String>,
    /// Bytes that come with it, which count from now on; 0 where they come later.
    pub size: u64,
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
        /// The upload that made it may have left something: see [`MetadataStore::reclaim_of`].
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

/// An upload that is complete in the object store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewUpload {
    /// Bytes.
    pub size: u64,
    /// Of the bytes.
    pub digest: Sha256Digest,
    /// Who wrote it, if it was an upload in parts.
    pub lease: Option<String>,
}

/// The answer to an abandon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AbandonAnswer {
    /// It is abandoned, now or before.
    Abandoned(StageRow),
    /// No such stage of the user's.
    Unknown,
    /// It is attached.
    Attached(StageRow),
}

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

/// Earlier contents of a file that are kept in any case.
pub const KEPT_VERSIONS: u32 = 10;

/// What tells a database from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Made with the database.
    pub id: String,
    /// Whether nobody has ever written to it.
    pub is_empty: bool,
}

/// What retention removes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Removals told before this moment leave the feeds.
    pub removals_before: Timestamp,
    /// Operations accepted before this moment leave the audit trail.
    pub accepted_before: Timestamp,
    /// At most so many rows of each kind in one call, so that no lock is held for long.
    pub at_most: u32,
}

/// What retention removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pruned {
    /// Feed entries.
    pub removals: u64,
    /// Accepted operations.
    pub accepted: u64,
}

/// The server's metadata. Each call is one transaction: all of it happens, durably, or none.
///
/// `now` is the server's clock; a back end has no clock of its own.
#[async_trait]
pub trait MetadataStore: Send + Sync + 'static {
    /// Decides and applies a push (`vfs_sync_core::server::push`).
    async fn push(&self, batch: PushBatch, now: Timestamp) -> Result<PushResponse, StoreError>;

    /// Reads a page of a user's feed: head, pruned-through, page and map are one snapshot.
    async fn pull(&self, user: &UserId, request: &PullRequest) -> Result<PullAnswer, StoreError>;

    /// Merges what a client has applied into its stored state, which never goes back.
    async fn reconcile(
        &self,
        user: &UserId,
        request: &ReconcileRequest,
        now: Timestamp,
    ) -> Result<ReconcileAnswer, StoreError>;

    /// What triage compares with.
    async fn state(&self, user: &UserId, client: &ReplicaId) -> Result<StateResponse, StoreError>;

    /// Opens a stage.
    async fn open_stage(
        &self,
        user: &UserId,
        stage: &NewStage,
        quota: &Quota,
        now: Timestamp,
    ) -> Result<StageAnswer, StoreError>;

    /// The user's stage.
    async fn stage(
        &self,
        user: &UserId,
        staging_id: &StagingId,
    ) -> Result<Option<StageRow>, StoreError>;

    /// Counts `size` bytes as the stage's that are about to be written in one go.
    ///
    /// Whoever is refused writes nothing, so that nothing has to be removed again: bytes under the id
    /// of a blob that is not deleted may be those that another call is just registering.
    async fn reserve_upload(
        &self,
        user: &UserId,
        staging_id: &StagingId,
        size: u64,
        quota: &Quota,
        now: Timestamp,
    ) -> Result<UploadAccess, StoreError>;

    /// Records that the stage's bytes are in the object store.
    async fn record_upload(
        &self,
        user: &UserId,
        staging_id: &StagingId,
        upload: &NewUpload,
        quota: &Quota,
        now: Timestamp,
    ) -> Result<UploadAnswer, StoreError>;

    /// The upload in parts of a stage, as it stands.
    async fn upload(
        &self,
        user: &UserId,
        staging_id: &StagingId,
        now: Timestamp,
    ) -> Result<UploadAccess, StoreError>;

    /// Opens an upload in parts, or finds it open; `length` and `metadata` count if it has none, a
    /// length only if no more bytes than that came already.
    async fn open_upload(
        &self,
        user: &UserId,
        staging_id: &StagingId,
        length: Option<u64>,
        metadata: Option<&str>,
        quota: &Quota,
        now: Timestamp,
    ) -> Result<UploadAccess, StoreError>;

    /// Makes `lease` the one who writes to the upload: whoever did before no longer may. With
    /// `anew` it begins at nothing, as another upload of the object store.
    async fn claim_upload(
        &self,
        user: &UserId,
        staging_id: &StagingId,
        lease: &str,
        anew: Option<&Anew>,
        now: Timestamp,
    ) -> Result<UploadAccess, StoreError>;

    /// Records how far the upload has come, if `lease` still writes to it.
    async fn advance_upload(
        &self,
        user: &UserId,
        staging_id: &StagingId,
        lease: &str,
        advance: &Advance,
        quota: &Quota,
        now: Timestamp,
    ) -> Result<UploadAccess, StoreError>;

    /// Whether `lease` may still write to the upload.
    async fn holds_upload(
        &self,
        user: &UserId,
        staging_id: &StagingId,
        lease: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError>;

    /// The tags of the upload's parts.
    async fn upload_parts(&self, staging_id: &StagingId) -> Result<Vec<String>, StoreError>;

    /// Attaches a stage (`vfs_sync_core::server::attach`); `ref_id` is the id that a new attachment gets. From
    /// then on the bytes count against the item's owner, whose `quota` they must be within.
    async fn attach(
        &self,
        user: &UserId,
        staging_id: &StagingId,
        request: &AttachRequest,
        ref_id: RefId,
        quota: &Quota,
        now: Timestamp,
    ) -> Result<Result<AttachResponse, AttachRefusal>, StoreError>;

    /// Ends a stage.
    async fn abandon(
        &self,
        user: &UserId,
        staging_id: &StagingId,
        now: Timestamp,
    ) -> Result<AbandonAnswer, StoreError>;

    /// Stages whose time is over, the oldest first: whose, and which. They are to be abandoned.
    async fn expired_stages(
        &self,
        now: Timestamp,
        at_most: u32,
    ) -> Result<Vec<(UserId, StagingId)>, StoreError>;

    /// Deletes an unattached blob of the user's: from now on it is not there.
    async fn delete_blob(
        &self,
        user: &UserId,
        blob_id: &BlobId,
        now: Timestamp,
    ) -> Result<DeleteAnswer, StoreError>;

    /// What is to be removed from the object store at `now`, the oldest first.
    async fn to_reclaim(&self, now: Timestamp, at_most: u32) -> Result<Vec<Reclaim>, StoreError>;

    /// Any stage, whoever staged it: for operators.
    async fn any_stage(&self, staging_id: &StagingId) -> Result<Option<StageRecord>, StoreError>;

    /// Any blob, whoever staged it: for operators.
    async fn any_blob(&self, blob_id: &BlobId) -> Result<Option<BlobRecord>, StoreError>;

    /// Blobs after `after` by their ids, at most `at_most`: for a comparison with the object store.
    async fn blobs_after(
        &self,
        after: Option<&BlobId>,
        at_most: u32,
    ) -> Result<Vec<BlobSummary>, StoreError>;

    /// The object store's names of all uploads in parts that are under way.
    async fn upload_handles(&self) -> Result<Vec<String>, StoreError>;

    /// What a user's blobs come to.
    async fn blob_usage(&self, user: &UserId) -> Result<Usage, StoreError>;

    /// What is to be removed of one blob.
    async fn reclaim_of(&self, blob_id: &BlobId) -> Result<Option<Reclaim>, StoreError>;

    /// Notes that what `done` names, due at `now`, was removed: nothing more than that. Bytes are
    /// removed once more at `again`, for a write that was under way meanwhile.
    async fn reclaimed(
        &self,
        done: &Reclaim,
        now: Timestamp,
        again: Timestamp,
    ) -> Result<(), StoreError>;

    /// The contents that a file had and has, the newest first, at most `limit`; `None` if the user
    /// sees no such item.
    async fn versions(
        &self,
        user: &UserId,
        item_id: &ItemId,
        limit: u32,
    ) -> Result<Option<Vec<Attachment>>, StoreError>;

    /// Versions that are none of an item's last [`KEPT_VERSIONS`] since before `before`, the oldest
    /// first.
    async fn surplus_versions(
        &self,
        before: Timestamp,
        at_most: u32,
    ) -> Result<Vec<(RefId, BlobId)>, StoreError>;

    /// Removes an earlier version; its blob is deleted with its last attachment. Tells whether it
    /// was there.
    async fn remove_version(
        &self,
        ref_id: &RefId,
        blob_id: &BlobId,
        now: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Reads a page of what the user may restore, the newest deletion first: what the user owns, and
    /// what the user deleted and may still write. `keep_millis` is how long the trash keeps.
    async fn trash(
        &self,
        user: &UserId,
        after: Option<&TrashCursor>,
        limit: u32,
        keep_millis: i64,
    ) -> Result<TrashListing, StoreError>;

    /// Brings a deleted item back; if `recursive`, with what is deleted under it and was deleted by
    /// the same replica not before it.
    async fn restore(
        &self,
        user: &UserId,
        item_id: &ItemId,
        recursive: bool,
        now: Timestamp,
    ) -> Result<RestoreAnswer, StoreError>;

    /// Makes a deleted item of the user's a tombstone, which nothing brings back; if `recursive`,
    /// with what a restore would have brought back.
    async fn purge(
        &self,
        user: &UserId,
        item_id: &ItemId,
        recursive: bool,
        now: Timestamp,
    ) -> Result<PurgeAnswer, StoreError>;

    /// Takes a step in removing what was deleted before `before` or purged, and tombstones since
    /// before `forget`; to be repeated until it does nothing. Gives how much it did.
    async fn purge_step(
        &self,
        before: Timestamp,
        forget: Timestamp,
        now: Timestamp,
        at_most: u32,
    ) -> Result<u64, StoreError>;

    /// The bytes of what the user owns in the trash, as they count against the quota. Beyond
    /// [`MAX_TRASH_ITEMS`] contents it is less than all.
    async fn trashed_bytes(&self, user: &UserId) -> Result<u64, StoreError>;

    /// The blob, if the user staged it or may read an item that it is attached to, and it has
    /// bytes and is not abandoned.
    async fn readable_blob(
        &self,
        user: &UserId,
        blob_id: &BlobId,
    ) -> Result<Option<BlobRow>, StoreError>;

    /// [`MetadataStore::readable_blob`] of several, in their order.
    async fn readable_blobs(
        &self,
        user: &UserId,
        blob_ids: &[BlobId],
    ) -> Result<Vec<Option<BlobRow>>, StoreError> {
        let mut found = Vec::with_capacity(blob_ids.len());
        for blob_id in blob_ids {
            found.push(self.readable_blob(user, blob_id).await?);
        }
        Ok(found)
    }

    /// Puts `member` into a group or organization, or takes the member out. What was granted to
    /// the group is then granted to the member, or no longer. A repetition changes nothing.
    async fn set_member(
        &self,
        group: &Principal,
        member: &UserId,
        present: bool,
        now: Timestamp,
    ) -> Result<(), StoreError>;

    /// At most `limit` members of a group after `after`, ascending.
    async fn members(
        &self,
        group: &Principal,
        after: Option<&UserId>,
        limit: u32,
    ) -> Result<Vec<UserId>, StoreError>;

    /// The groups and organizations that a user is in, ascending.
    async fn groups_of(&self, user: &UserId) -> Result<Vec<Principal>, StoreError>;

    /// Has `user` block `owner`, or ends that: while it lasts, what the owner grants to the user, or
    /// to a group of the user's, counts as if it were not there.
    async fn set_block(
        &self,
        user: &UserId,
        owner: &UserId,
        blocked: bool,
        now: Timestamp,
    ) -> Result<(), StoreError>;

    /// Returns the owners whom a user blocks, ascending.
    async fn blocked_by(&self, user: &UserId) -> Result<Vec<UserId>, StoreError>;

    /// Whether a principal was ever seen: a user that has pushed or synced, a group
    /// that has a member.
    async fn knows(&self, principal: &Principal) -> Result<bool, StoreError>;

    /// Removes what retention no longer keeps; to be repeated until it removes nothing.
    async fn prune(&self, retention: Retention) -> Result<Pruned, StoreError>;

    /// Removes stored reconcile states that are malformed, so that their clients store them again; of one
    /// user or of all. With `dry_run` only looks. Gives what it found.
    async fn repair_reconcile_states(
        &self,
        user: Option<&UserId>,
        dry_run: bool,
    ) -> Result<Vec<MalformedState>, StoreError>;

    /// Begins a new epoch: what the feeds get from then on is of that one. Positions of the epochs
    /// before stay what they are, as far as the feeds have them. `chance` is a random number: it
    /// tells this life of the database from others that go on from the same backup.
    async fn new_epoch(&self, now: Timestamp, chance: u16) -> Result<Epoch, StoreError>;

    /// What tells this database from others.
    async fn identity(&self) -> Result<Identity, StoreError>;

    /// Whether the database answers.
    async fn ping(&self) -> Result<(), StoreError>;

    /// Counts for the operator, by name.
    async fn counts(&self) -> Result<Vec<(&'static str, u64)>, StoreError>;
}
