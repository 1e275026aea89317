//! The arguments and answers of the operations, and the rows that they share with the back ends.

use std::time::Duration;

use vfs_sync_core::content::{Attachment, Sha256Digest};
use vfs_sync_core::cursor::{Cursor, Epoch};
use vfs_sync_core::id::{BlobId, ItemId, ReplicaId, UserId, WriteId};
use vfs_sync_core::register::Item;
use vfs_sync_core::server::feed_window::Rematerialize;
use vfs_sync_core::server::push::PushBatch;
use vfs_sync_core::server::stage::{OverQuota, StageRow, UploadRow};
use vfs_sync_core::server::user::UserLimits;
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::credential::CredentialId;
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
    /// The feed cannot serve the cursor: the client rebuilds its replica.
    Rematerialize(Rematerialize),
}

/// A page whose entries are already JSON in their wire form.
#[derive(Debug, Clone, PartialEq)]
pub struct FeedPage {
    /// The entries of the page.
    pub items: Vec<String>,
    /// The position of the last entry, if there are more.
    pub next_cursor: Option<Cursor>,
    /// True if the feed has more entries.
    pub has_more: bool,
    /// The last write ids of the user's most recently active replicas, at most 512, including the
    /// client's own.
    pub last_reconciled_write_ids: WriteIds,
    /// The head, in the answer to a pull without a cursor.
    pub baseline: Option<Cursor>,
    /// The head, if the feed has more entries.
    pub head: Option<Cursor>,
    /// The database's present epoch.
    pub epoch: Epoch,
}

/// The answer to a reconcile.
#[derive(Debug, Clone, PartialEq)]
pub enum ReconcileAnswer {
    /// The merged state, which was stored.
    Merged(ReconcileState),
    /// The cursor is not part of this feed's history.
    Rematerialize(Rematerialize),
    /// A write id above the replica's own last, or of an unknown replica.
    WriteIdsAhead {
        /// The replica that the write id belongs to.
        replica_id: ReplicaId,
        /// The write id that was sent.
        sent: WriteId,
        /// The last write id of the replica; `None` for an unknown replica.
        last: Option<WriteId>,
    },
}

/// The answer to opening a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StageAnswer {
    /// The stage is open; a repetition of the same request gets the same answer.
    Open(StageRow),
    /// The staging id or the blob id is taken.
    Taken,
    /// The stage would exceed the user's quota.
    OverQuota(OverQuota),
}

/// The answer to an upload that is complete in the object store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UploadAnswer {
    /// The registry has recorded the bytes of the blob.
    Recorded {
        /// The new row of the stage.
        row: StageRow,
        /// True if the upload may have left remains in the object store: see `reclaim_of`.
        left_over: bool,
    },
    /// The user has no such stage.
    Unknown,
    /// The stage is attached, abandoned or expired, as its row says.
    Over(StageRow),
    /// The stage has other bytes already.
    Differs(StageRow),
    /// Another call has taken over the upload.
    Lost,
    /// The upload would exceed the user's quota.
    OverQuota(OverQuota),
}

/// The answer to an abandon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AbandonAnswer {
    /// The stage is abandoned, by this call or an earlier one.
    Abandoned(StageRow),
    /// The user has no such stage.
    Unknown,
    /// The stage is already attached.
    Attached(StageRow),
}

/// The state of an upload for a caller that wants to write to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UploadAccess {
    /// The upload takes bytes.
    Open(StageRow, UploadRow),
    /// The stage already has its bytes.
    Complete(StageRow),
    /// The stage is attached, abandoned or expired, as its row says.
    Over(StageRow),
    /// Another call has taken over the upload.
    Lost,
    /// The user has no such stage.
    Unknown,
    /// The upload would exceed the user's quota.
    OverQuota(OverQuota),
}

/// The objects of a blob that are to be removed from the object store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reclaim {
    /// The id of the blob.
    pub blob_id: BlobId,
    /// An upload in parts to abort, by the object store's name.
    pub upload: Option<String>,
    /// True if the blob's bytes are to be removed too.
    pub bytes: bool,
}

/// A stage in the form that an operator sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageRecord {
    /// The row of the stage.
    pub stage: StageRow,
    /// The state of the blob's bytes: `live`, `deleting` or `deleted`.
    pub blob_status: &'static str,
    /// The upload in parts of the stage, if one is in progress.
    pub upload: Option<UploadRow>,
}

/// A blob in the form that an operator sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobRecord {
    /// The stage of the blob.
    pub stage: StageRecord,
    /// The attachments of the blob, earlier versions included.
    pub attachments: Vec<Attachment>,
}

/// An item in the form that an operator sees.
#[derive(Debug, Clone, PartialEq)]
pub struct ItemRecord {
    /// The item with its registers.
    pub item: Item,
    /// The containers of its owner's tree that it hangs under, ascending.
    pub parents: Vec<ItemId>,
    /// The number of grants on it, as far as they are counted.
    pub grants: usize,
    /// Its present content and other attachments, without earlier versions.
    pub attachments: Vec<Attachment>,
}

/// The registry's summary of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobSummary {
    /// The id of the blob.
    pub blob_id: BlobId,
    /// True if the blob's bytes are stored, or are expected.
    pub live: bool,
    /// The size of the blob in bytes, once it has them.
    pub size: Option<u64>,
}

/// The answer to a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeleteAnswer {
    /// The blob's bytes are to be removed now.
    Deleting,
    /// The user has no such blob, or no longer.
    Unknown,
    /// The blob is attached to an item.
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
    /// The media type of the bytes, a hint for readers.
    pub content_type: Option<String>,
}

/// The longest time for which removals of objects are held at once.
pub const MAX_HOLD: Duration = Duration::from_secs(60 * 60);

/// The number of a file's earlier contents that are always kept.
pub const KEPT_VERSIONS: u32 = 10;

/// The greatest number of items that one call restores or purges.
pub const MAX_TRASH_ITEMS: usize = 100_000;

/// The progress of the removal of a deleted item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TrashState {
    /// The item can still be restored.
    Kept,
    /// The item is a tombstone with other rows left.
    Purging,
    /// The item is a tombstone without other rows.
    Gone,
}

/// A row of `trash`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TrashRow {
    pub(crate) item_id: ItemId,
    pub(crate) owner: UserId,
    pub(crate) state: TrashState,
    /// The server's time of the deletion, or of the purge for a tombstone.
    pub(crate) at: Timestamp,
    pub(crate) deleted_by: UserId,
    pub(crate) replica: ReplicaId,
    /// The size of the current content in bytes, in the rows of a page.
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

/// The start of a page of the trash, which continues after this deletion with older ones.
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
    /// The number of items that were restored; 0 if the item was already live.
    Restored(u64),
    /// The user sees no such item.
    Unknown,
    /// More than [`MAX_TRASH_ITEMS`] items were deleted with it.
    TooMany,
}

/// The answer to a purge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PurgeAnswer {
    /// The number of items that became tombstones; 0 if the item already was one.
    Purged(u64),
    /// The user sees no such item.
    Unknown,
    /// The item is not deleted.
    Live,
    /// The user sees the item in the trash but does not own it.
    NotOwner,
    /// More than [`MAX_TRASH_ITEMS`] items were deleted with it.
    TooMany,
}

/// A stored reconcile state that does not have the form that this version writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MalformedState {
    /// The user whom the state belongs to.
    pub user: String,
    /// The key of the stored row: `crdt:<clientId>`.
    pub key: String,
    /// The malformed column, and the problem.
    pub reason: String,
}

/// The facts that identify a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The id that was created with the database.
    pub id: String,
    /// True if nobody has ever written to it.
    pub is_empty: bool,
    /// The secret of the pseudonyms by which logs name users, created with the database.
    pub pseudonym_secret: String,
}

impl Identity {
    /// Returns the pseudonym of a user.
    #[must_use]
    pub fn pseudonym(&self, user: &UserId) -> String {
        pseudonym(&self.pseudonym_secret, user)
    }
}

/// Hex digits of a pseudonym: 64 bits, so that no two of a million users share one.
const PSEUDONYM_DIGITS: usize = 16;

/// Returns the pseudonym of a user: a hash with a key of the database's own, so that nobody else can
/// tell which name is whose.
#[must_use]
pub fn pseudonym(secret: &str, user: &UserId) -> String {
    let key = blake3::derive_key("vfs-sync pseudonyms of users", secret.as_bytes());
    let hash = blake3::keyed_hash(&key, user.as_str().as_bytes());
    hash.to_hex().chars().take(PSEUDONYM_DIGITS).collect()
}

/// The bounds below which retention removes rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Removals from before this time leave the feeds.
    pub removals_before: Timestamp,
    /// Accepted operations from before this time are removed.
    pub accepted_before: Timestamp,
    /// The greatest number of rows of each kind in one call, so that no lock is held for long.
    pub at_most: u32,
}

/// The rows that retention removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pruned {
    /// The number of removed feed entries.
    pub removals: u64,
    /// The number of removed accepted operations.
    pub accepted: u64,
}

/// The admission of a user, and of a device of the user's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    /// The number that changes whenever an admission does.
    pub generation: u64,
    /// True if an operator has disabled the user.
    pub is_disabled: bool,
    /// True if the user was deleted, and not allowed since.
    pub is_deleted: bool,
    /// True if the device was revoked.
    pub is_revoked: bool,
    /// The credential of the device that is good now, if it has one.
    pub credential: Option<CredentialId>,
}

impl Admission {
    /// Returns whether the user or the device is refused.
    #[must_use]
    pub const fn is_denied(&self) -> bool {
        self.is_disabled || self.is_deleted || self.is_revoked
    }
}

/// The answer to a sign-in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignInAnswer {
    /// The replica has the credential, and none besides.
    SignedIn,
    /// The user is disabled or deleted, or the device was revoked.
    Denied(Admission),
    /// The id of the credential is in use.
    Taken,
}

/// The answer to a renewal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RenewAnswer {
    /// The replica of the user gets an access token.
    Granted {
        /// The user of the credential.
        user: UserId,
        /// The replica that the credential is good for.
        client: ReplicaId,
    },
    /// The secret is of the past, and has ended the credential now.
    Reused {
        /// The user of the credential.
        user: UserId,
        /// The replica that the credential was good for.
        client: ReplicaId,
    },
    /// The credential has ended, was given up, or never was one.
    Ended,
    /// The secret is not known, and nothing has changed.
    Unknown {
        /// The number of the newest secret that the database knows.
        generation: u64,
    },
    /// The credential is another replica's.
    OtherClient,
    /// The user is disabled, or the device was revoked.
    Denied(Admission),
}

/// The answer to allowing a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AllowAnswer {
    /// The user is not being deleted, and was not.
    NotDeleted,
    /// The deletion was called off: nothing was removed.
    CalledOff,
    /// The removal has begun and is not at its end.
    UnderWay,
    /// The user may call again, as one who never did.
    Allowed,
}

/// A change of a device by its user or an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceChange {
    /// Gives the device a name.
    Rename(String),
    /// Ends the service of the device, for ever.
    Revoke,
}

/// A change of a user by an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserChange {
    /// Ends the service of the user's devices until the user is enabled.
    Disable,
    /// Resumes the service of the user's devices.
    Enable,
    /// Replaces the limits of the user's own.
    Limit(UserLimits),
}

/// The greatest number of rows of a kind that [`Totals`] are of; beyond it they are of that many.
pub const MAX_COUNTED: u32 = 1_000_000;

/// The sums over all users, and the role of the database.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Totals {
    /// The number of users.
    pub users: u64,
    /// The number of items, deleted ones included until they are forgotten.
    pub items: u64,
    /// The bytes of the items' registers.
    pub register_bytes: u64,
    /// The stored bytes of contents, staged ones included.
    pub stored_bytes: u64,
    /// The bytes that are staged and not attached.
    pub staged_bytes: u64,
    /// The number of stages that are neither attached nor abandoned.
    pub open_stages: u64,
    /// The sum of the last positions of all feeds.
    pub feed_positions: u64,
    /// The number of items in the trash.
    pub trashed_items: u64,
    /// The bytes of the present contents of items in the trash.
    pub trashed_bytes: u64,
    /// True if the database takes writes; false on a standby.
    pub is_primary: bool,
    /// The number of standbys that the database knows of.
    pub standbys: u64,
    /// The seconds by which the slowest standby is behind; `None` if there is none, or the
    /// database does not say.
    pub replication_lag: Option<f64>,
}
