//! The operations of the store. Each is one command, a value, with its rules in one place.
//!
//! The table below names every operation. It generates the command's type, the [`Call`] and
//! [`Reply`] that carry it, and the typed call on `dyn MetadataStore`. A back end runs a command in
//! one of three ways: it `reads` on a snapshot, it `writes` in a transaction, or it `decides` first
//! and then writes, so that a large command can be decided while others write. The `Command` or
//! `Decides` of a command is in the module of its subject.

mod blobs;
mod examine;
mod lookup;
mod maintenance;
mod pull;
mod push;
mod reconcile;
mod rest;
pub(crate) mod trash;
pub(crate) mod users;

pub(crate) use rest::carry_out;

use std::sync::Weak;

use async_trait::async_trait;
use vfs_sync_core::access::Principal;
use vfs_sync_core::content::Attachment;
use vfs_sync_core::cursor::Epoch;
use vfs_sync_core::id::{BlobId, ItemId, RefId, ReplicaId, StagingId, UserId};
use vfs_sync_core::server::attach::AttachRefusal;
use vfs_sync_core::server::credential::SigningKey;
use vfs_sync_core::server::deletion::{Deletion, DeletionPace};
use vfs_sync_core::server::device::{DeviceState, Sighting};
use vfs_sync_core::server::feed_window::PullRequest;
use vfs_sync_core::server::push::{Bound, DerivedFault, MetadataUsage, PushBatch};
use vfs_sync_core::server::session::ConsoleSession;
use vfs_sync_core::server::stage::{
    Advance, NewStage, NewUpload, Quota, StageRow, UploadReplacement, Usage,
};
use vfs_sync_core::server::user::UserRecord;
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::credential::{Proposal, RefreshSecret, SecretHash};
use vfs_sync_core::wire::telemetry::Counted;
use vfs_sync_core::wire::{
    AttachRequest, AttachResponse, PushResponse, ReconcileRequest, StateResponse,
};

use crate::error::{Result, StoreError};
use crate::examination::{
    ChargeCounts, ChargePlace, DatabaseFacts, FeedExamined, HeldCounts, ItemsExamined, ItemsOf,
    MalformedRow, OldestRows,
};
use crate::moves::{Announcements, FeedHeads, HeadObserver};
use crate::topics::{Decision, Topics};
use crate::values::{
    AbandonAnswer, Admission, AllowAnswer, BlobRecord, BlobRow, BlobSummary, DeleteAnswer,
    DeviceChange, Identity, ItemRecord, MalformedState, Pruned, PullAnswer, PurgeAnswer,
    PushAnswer, Reclaim, ReconcileAnswer, RenewAnswer, RestoreAnswer, Retention, SignInAnswer,
    StageAnswer, StageRecord, Totals, TrashCursor, TrashListing, UploadAccess, UploadAnswer,
    UserChange,
};

/// The store of the server's metadata. Each call is one transaction: all of it happens, durably, or
/// none of it.
///
/// Every operation is a method of `dyn MetadataStore`, and also a value, a [`Call`], for code that
/// treats all operations alike: a proxy, a recorder, the faults of a test. An argument `now` is the
/// server's clock; a back end has none.
#[async_trait]
pub trait MetadataStore: Send + Sync + 'static {
    /// Runs one operation; the reply has the same name as the call.
    ///
    /// # Errors
    /// [`StoreError`]: nothing was changed.
    async fn call(&self, call: Call) -> Result<Reply, StoreError>;

    /// Runs one operation as [`MetadataStore::call`] does, unless it turns out to be large: then
    /// nothing was changed, and the call comes back for [`MetadataStore::call_large`].
    ///
    /// # Errors
    /// As [`MetadataStore::call`].
    async fn call_if_small(&self, call: Call) -> Result<Result<Reply, Call>, StoreError> {
        self.call(call).await.map(Ok)
    }

    /// Runs an operation that is large. [`Capacity::large`] of them run at one time.
    ///
    /// # Errors
    /// As [`MetadataStore::call`].
    async fn call_large(&self, call: Call) -> Result<Reply, StoreError> {
        self.call(call).await
    }

    /// Returns the numbers of calls that run at one time; without a bound unless a back end has one.
    fn capacity(&self) -> Capacity {
        Capacity::default()
    }

    /// Reports to `observer` which feed heads transactions of this process move, until the observer
    /// is dropped. A store that cannot tell reports nothing.
    fn observe_heads(&self, observer: Weak<dyn HeadObserver>) {
        drop(observer);
    }

    /// Begins to announce moved heads to other processes, and to report theirs to the observers, if
    /// the database has notifications. Returns whether they arrive; later calls return the same.
    async fn announce_heads(&self) -> Announcements {
        Announcements::None
    }
}

/// The calls that a store runs at one time; further ones wait, whoever makes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capacity {
    /// Calls of any kind.
    pub calls: Option<usize>,
    /// Calls that only read.
    pub reads: Option<usize>,
    /// Calls that change so many rows that each takes seconds, and hundreds of megabytes.
    pub large: Option<usize>,
}

impl dyn MetadataStore + '_ {
    /// Returns `readable_blobs` of one blob.
    ///
    /// # Errors
    /// As `readable_blobs`.
    pub async fn readable_blob(&self, user: &UserId, blob_id: &BlobId) -> Result<Option<BlobRow>> {
        let found = self.readable_blobs(user, vec![blob_id.clone()]).await?;
        Ok(found.into_iter().next().flatten())
    }

    /// Decides and applies a push: in one transaction, or, if its consequences are many, in several,
    /// between which others write. A push that is broken off between two goes on when it is
    /// repeated.
    ///
    /// # Errors
    /// As `push_part`.
    pub async fn push(&self, batch: impl Own<PushBatch>, now: Timestamp) -> Result<PushResponse> {
        let PushAnswer { mut response, mut rest } = self.push_part(batch, now).await?;
        while let Some(batch) = rest {
            let next = self.push_part(*batch, now).await?;
            response.results.extend(next.response.results);
            rest = next.rest;
        }
        Ok(response)
    }

    /// Reads a page of a user's feed. A user's first call makes the feed, and gives effect to the
    /// grants that waited for it: a transaction for each owner, so that a call that is broken off
    /// has its next one go on.
    ///
    /// # Errors
    /// As `pull_page`.
    pub async fn pull(&self, user: &UserId, request: impl Own<PullRequest>) -> Result<PullAnswer> {
        let request = request.own();
        loop {
            if let Some(answer) = self.pull_page(user, &request).await? {
                return Ok(answer);
            }
            self.arrive(user).await?;
        }
    }

    /// Makes the user's feed and gives effect to the grants that waited for a call of the user;
    /// returns whether there was anything to do.
    ///
    /// # Errors
    /// [`StoreError`]: what was done until then stays.
    pub async fn arrive(&self, user: &UserId) -> Result<bool> {
        if !self.awaits_call(user).await? {
            return Ok(false);
        }
        self.begin_feed(user).await?;
        while let Some(owner) = self.awaiting_owner(user).await? {
            self.give_effect(user, owner, Bound::OPERATION).await?;
        }
        Ok(true)
    }

    /// Attaches a stage, as `attach_now` does, after giving effect to grants that waited for it.
    ///
    /// # Errors
    /// As `attach_now`.
    pub async fn attach(
        &self,
        user: &UserId,
        staging_id: &StagingId,
        request: &AttachRequest,
        ref_id: RefId,
        quota: &Quota,
        now: Timestamp,
    ) -> Result<Result<AttachResponse, AttachRefusal>> {
        let again = ref_id.clone();
        let answer = self.attach_now(user, staging_id, request, ref_id, quota, now).await?;
        if matches!(answer, Err(AttachRefusal::UnknownItem)) && self.arrive(user).await? {
            return self.attach_now(user, staging_id, request, again, quota, now).await;
        }
        Ok(answer)
    }

    /// Returns `versions_now`, after giving effect to grants that waited for a call.
    ///
    /// # Errors
    /// As `versions_now`.
    pub async fn versions(
        &self,
        user: &UserId,
        item_id: &ItemId,
        limit: u32,
    ) -> Result<Option<Vec<Attachment>>> {
        let answer = self.versions_now(user, item_id, limit).await?;
        if answer.is_none() && self.arrive(user).await? {
            return self.versions_now(user, item_id, limit).await;
        }
        Ok(answer)
    }

    /// Returns `readable_now`, after giving effect to grants that waited for a call.
    ///
    /// # Errors
    /// As `readable_now`.
    pub async fn readable_blobs(
        &self,
        user: &UserId,
        blob_ids: impl Own<Vec<BlobId>>,
    ) -> Result<Vec<Option<BlobRow>>> {
        let blob_ids = blob_ids.own();
        let answer = self.readable_now(user, &*blob_ids).await?;
        if answer.iter().any(Option::is_none) && self.arrive(user).await? {
            return self.readable_now(user, blob_ids).await;
        }
        Ok(answer)
    }

    /// Removes what retention no longer keeps; to be repeated until it removes nothing.
    ///
    /// # Errors
    /// As `prune_removals` and `prune_accepted`.
    pub async fn prune(&self, retention: Retention) -> Result<Pruned> {
        let removals = self.prune_removals(retention).await?;
        let accepted = self.prune_accepted(retention).await?;
        Ok(Pruned { removals, accepted })
    }
}

/// The three ways in which a back end runs commands.
pub(crate) trait Backend {
    /// Runs a command that changes nothing, on a snapshot.
    async fn reads<C: Command>(&self, command: C) -> Result<C::Answer>;

    /// Runs a command in a transaction.
    async fn writes<C: Command>(&self, command: C) -> Result<C::Answer>;

    /// Runs a command that may be decided on a snapshot, and is written afterwards.
    async fn decides<C: Decides>(&self, command: C) -> Result<C::Answer> {
        match self.decides_if_small(command).await? {
            Ok(answer) => Ok(answer),
            Err(command) => self.decides_large(command).await,
        }
    }

    /// Runs such a command unless it is large; then it has no effect and comes back.
    async fn decides_if_small<C: Decides>(&self, command: C) -> Result<Result<C::Answer, C>> {
        self.writes(command).await.map(Ok)
    }

    /// Runs such a command that is large.
    async fn decides_large<C: Decides>(&self, command: C) -> Result<C::Answer> {
        self.writes(command).await
    }
}

/// A command of the table, with the type of its answer.
pub(crate) trait Operation: Clone + Send + Sync + 'static {
    type Answer: Send + 'static;

    /// The approximate amount of work, in operations of a push.
    fn weight(&self) -> usize {
        1
    }

    /// Returns the user for whom it runs; `None` for the server's own work.
    fn user(&self) -> Option<&UserId>;
}

/// An operation that runs in one transaction. It may run again from the beginning on another
/// transaction.
pub(crate) trait Command: Operation {
    async fn run<T: Topics>(&self, tx: &mut T) -> Result<Self::Answer>;
}

/// An operation that is first decided and then written, under the locks of the decision.
pub(crate) trait Decides: Operation {
    async fn decide<T: Topics>(&self, tx: &mut T) -> Result<(Self::Answer, Option<Decision>)>;

    /// Returns whether it is known before it is decided that it is large.
    fn is_known_large(&self) -> bool {
        false
    }

    async fn write<T: Topics>(&self, tx: &mut T, decision: &Decision) -> Result<()> {
        tx.write_changes(&decision.changes, &decision.feeds).await
    }
}

impl<C: Decides> Command for C {
    async fn run<T: Topics>(&self, tx: &mut T) -> Result<Self::Answer> {
        let (answer, decision) = self.decide(tx).await?;
        if let Some(decision) = decision {
            carry_out(self, tx, decision).await?;
        }
        Ok(answer)
    }
}

/// A conversion of an argument, given by value or by reference, into a field of a command.
pub trait Own<T> {
    /// Returns the value, cloned if it was borrowed.
    fn own(self) -> T;
}

impl<T> Own<T> for T {
    fn own(self) -> T {
        self
    }
}
impl<T: Clone> Own<T> for &T {
    fn own(self) -> T {
        self.clone()
    }
}
impl<T: Clone> Own<Vec<T>> for &[T] {
    fn own(self) -> Vec<T> {
        self.to_vec()
    }
}
impl Own<String> for &str {
    fn own(self) -> String {
        self.to_owned()
    }
}

/// Generates the types and calls of a table of operations.
macro_rules! operations {
    (@user $command:ident, user $($other:ident)*) => { (&$command.user).into() };
    (@user $command:ident, batch $($other:ident)*) => { Some(&$command.batch.user) };
    (@user $command:ident, $($other:ident)*) => { None };
    (@small decides $backend:ident, $command:ident) => {
        $backend.decides_if_small($command).await?
    };
    (@small $how:ident $backend:ident, $command:ident) => {
        Ok($backend.$how($command).await?)
    };
    (@large decides $backend:ident, $command:ident) => {
        $backend.decides_large($command).await?
    };
    (@large $how:ident $backend:ident, $command:ident) => {
        $backend.$how($command).await?
    };
    ($($(#[$doc:meta])* $how:ident $name:ident: $Command:ident {
        $($field:ident: $type:ty),* $(,)?
    } -> $answer:ty $(, weighs |$it:ident| $weight:expr)?;)*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone)]
            #[allow(missing_docs, reason = "the fields are the arguments of the call")]
            pub struct $Command { $(pub $field: $type),* }

            impl Operation for $Command {
                type Answer = $answer;

                $(fn weight(&self) -> usize {
                    let $it = self;
                    $weight
                })?

                fn user(&self) -> Option<&UserId> {
                    operations!(@user self, $($field)*)
                }
            }
        )*

        /// One of the operations, with its arguments.
        #[derive(Debug, Clone)]
        #[allow(missing_docs, reason = "each is the command of its name")]
        #[allow(clippy::large_enum_variant, reason = "it is moved once")]
        pub enum Call { $($Command($Command)),* }

        /// The answer to a [`Call`], of the same name.
        #[derive(Debug)]
        #[allow(missing_docs, reason = "each is the answer to the command of its name")]
        #[allow(clippy::large_enum_variant, reason = "it is moved once")]
        pub enum Reply { $($Command($answer)),* }

        impl Call {
            /// Returns whether it changes nothing.
            #[must_use]
            pub fn reads(&self) -> bool {
                match self {
                    $(Self::$Command(_) => stringify!($how) == "reads"),*
                }
            }

            /// Returns the name of the operation.
            #[must_use]
            pub fn name(&self) -> &'static str {
                match self {
                    $(Self::$Command(_) => stringify!($name)),*
                }
            }

            /// Runs it on a back end.
            pub(crate) async fn run_on<B: Backend>(self, backend: &B) -> Result<Reply> {
                Ok(match self {
                    $(Self::$Command(command) => Reply::$Command(backend.$how(command).await?)),*
                })
            }

            /// Runs it on a back end unless it is large; then it comes back.
            pub(crate) async fn run_small_on<B: Backend>(
                self,
                backend: &B,
            ) -> Result<Result<Reply, Self>> {
                Ok(match self {
                    $(Self::$Command(command) => {
                        operations!(@small $how backend, command)
                            .map(Reply::$Command)
                            .map_err(Self::$Command)
                    }),*
                })
            }

            /// Runs it on a back end as a large one.
            pub(crate) async fn run_large_on<B: Backend>(self, backend: &B) -> Result<Reply> {
                Ok(match self {
                    $(Self::$Command(command) => {
                        Reply::$Command(operations!(@large $how backend, command))
                    }),*
                })
            }
        }

        impl dyn MetadataStore + '_ {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// [`StoreError`]: nothing was changed.
                #[allow(clippy::too_many_arguments, reason = "the fields of the command")]
                pub async fn $name(&self, $($field: impl Own<$type>),*) -> Result<$answer> {
                    let call = Call::$Command($Command { $($field: $field.own()),* });
                    match self.call(call).await? {
                        Reply::$Command(answer) => Ok(answer),
                        _ => Err(StoreError::Failed("another call was answered".into())),
                    }
                }
            )*
        }
    };
}

operations! {
    /// Decides and applies a push ([`vfs_sync_core::server::push`]), or as many of its first
    /// operations as one transaction should have the consequences of.
    decides push_part: Push { batch: PushBatch, now: Timestamp } -> PushAnswer,
        weighs |push| push.batch.len();

    /// Reads a page of a user's feed: head, pruned-through, page and map are of one snapshot; `None`
    /// if it is the user's first call, or grants wait for a call, before `arrive`.
    reads pull_page: Pull { user: UserId, request: PullRequest } -> Option<PullAnswer>;

    /// Reads the feed heads of some users.
    reads heads: ReadHeads { users: Vec<UserId> } -> FeedHeads;

    /// Makes the user's feed, which has no entry yet, if there is none.
    writes begin_feed: BeginFeed { user: UserId } -> ();

    /// Returns whether it is the user's first call, or grants wait for a call.
    reads awaits_call: AwaitsCall { user: UserId } -> bool;

    /// Returns an owner whose grants wait for a call of the user.
    reads awaiting_owner: AwaitingOwner { user: UserId } -> Option<UserId>;

    /// Gives effect to the grants of `owner` that wait for a call of the user, unless their
    /// consequences are beyond the bound: then the owner is one of the user's withheld owners.
    decides give_effect: GiveEffect { user: UserId, owner: UserId, bound: Bound } -> ();

    /// Merges a client's progress into its stored state, which never regresses.
    writes reconcile: Reconcile { user: UserId, request: ReconcileRequest, now: Timestamp }
        -> ReconcileAnswer;

    /// Reads the server's state of a client, for triage.
    reads state: State { user: UserId, client: ReplicaId } -> StateResponse;

    /// Opens a stage; a repetition gets the same answer.
    writes open_stage: OpenStage { user: UserId, stage: NewStage, quota: Quota, now: Timestamp }
        -> StageAnswer;

    /// Reads the user's stage.
    reads stage: Stage { user: UserId, staging_id: StagingId } -> Option<StageRow>;

    /// Reserves `size` bytes for the stage, which are about to be written in one call.
    ///
    /// A rejected caller writes nothing, so nothing has to be removed: the bytes of a blob that is
    /// not deleted may be those that another call is just registering.
    writes reserve_upload: ReserveUpload {
        user: UserId, staging_id: StagingId, size: u64, quota: Quota, now: Timestamp
    } -> UploadAccess;

    /// Records that the stage's bytes are in the object store.
    writes record_upload: RecordUpload {
        user: UserId, staging_id: StagingId, upload: NewUpload, quota: Quota, now: Timestamp
    } -> UploadAnswer;

    /// Reads the upload in parts of a stage; an upload that never began is at its beginning.
    reads upload: ReadUpload { user: UserId, staging_id: StagingId, now: Timestamp } -> UploadAccess;

    /// Opens an upload in parts, or returns the open one. It sets `length` and `metadata` only if
    /// the upload has none, and a length only if it is not below the received bytes.
    writes open_upload: OpenUpload {
        user: UserId, staging_id: StagingId, length: Option<u64>, metadata: Option<String>,
        quota: Quota, now: Timestamp
    } -> UploadAccess;

    /// Transfers the upload to `lease` and invalidates the previous holder. With `replacement`, it
    /// restarts at byte 0, as another upload of the object store.
    writes claim_upload: ClaimUpload {
        user: UserId, staging_id: StagingId, lease: String, replacement: Option<UploadReplacement>, now: Timestamp
    } -> UploadAccess;

    /// Records the progress of the upload, if `lease` still holds it.
    writes advance_upload: AdvanceUpload {
        user: UserId, staging_id: StagingId, lease: String, advance: Advance, quota: Quota,
        now: Timestamp
    } -> UploadAccess;

    /// Returns whether `lease` still holds the upload.
    reads holds_upload: HoldsUpload {
        user: UserId, staging_id: StagingId, lease: String, now: Timestamp
    } -> bool;

    /// Returns the tags of the upload's parts.
    reads upload_parts: UploadParts { staging_id: StagingId } -> Vec<String>;

    /// Attaches a stage ([`vfs_sync_core::server::attach`]); `ref_id` is the id of a new
    /// attachment. From then on the bytes count against the item's owner, whose `quota` they must
    /// be within.
    writes attach_now: Attach {
        user: UserId, staging_id: StagingId, request: AttachRequest, ref_id: RefId, quota: Quota,
        now: Timestamp
    } -> Result<AttachResponse, AttachRefusal>;

    /// Abandons a stage and marks its bytes for removal.
    writes abandon: Abandon { user: UserId, staging_id: StagingId, now: Timestamp } -> AbandonAnswer;

    /// Returns stages that expired by `now`, the oldest first, with their users. The caller is to
    /// abandon them.
    reads expired_stages: ExpiredStages { now: Timestamp, at_most: u32 }
        -> Vec<(UserId, StagingId)>;

    /// Deletes an unattached blob of the user's: readers no longer find it.
    writes delete_blob: DeleteBlob { user: UserId, blob_id: BlobId, now: Timestamp } -> DeleteAnswer;

    /// Returns the removals that are due in the object store at `now`, the oldest first.
    reads to_reclaim: ToReclaim { now: Timestamp, at_most: u32 } -> Vec<Reclaim>;

    /// Reads a stage of any user, for operators.
    reads any_stage: AnyStage { staging_id: StagingId } -> Option<StageRecord>;

    /// Reads a blob of any user, for operators.
    reads any_blob: AnyBlob { blob_id: BlobId } -> Option<BlobRecord>;

    /// Reads an item of any user, for operators.
    reads any_item: AnyItem { item_id: ItemId } -> Option<ItemRecord>;

    /// Returns blobs after `after` in the order of their ids, for a comparison with the object
    /// store.
    reads blobs_after: BlobsAfter { after: Option<BlobId>, at_most: u32 } -> Vec<BlobSummary>;

    /// Returns the object store's names of all uploads in parts in progress.
    reads upload_handles: UploadHandles {} -> Vec<String>;

    /// Returns the sum of a user's blobs.
    reads blob_usage: BlobUsage { user: UserId } -> Usage;

    /// Returns the removal that is due for one blob.
    reads reclaim_of: ReclaimOf { blob_id: BlobId, now: Timestamp } -> Option<Reclaim>;

    /// Holds the removal of objects until a time, at most [`crate::MAX_HOLD`] after `now`: until then
    /// `to_reclaim` and `reclaim_of` return nothing. A hold is only ever made longer.
    writes hold_removals: HoldRemovals { until: Timestamp, now: Timestamp } -> ();

    /// Records that the caller removed exactly what `done` names, which was due at `now`. Bytes are
    /// removed once more at `again`, for the sake of a late write.
    writes reclaimed: Reclaimed { done: Reclaim, now: Timestamp, again: Timestamp } -> ();

    /// Returns the current and earlier contents of a file, the newest first; `None` if the user
    /// sees no such item.
    reads versions_now: Versions { user: UserId, item_id: ItemId, limit: u32 }
        -> Option<Vec<Attachment>>;

    /// Returns versions that have been beyond an item's latest [`crate::KEPT_VERSIONS`] since
    /// before `before`, the oldest first.
    reads surplus_versions: SurplusVersions { before: Timestamp, at_most: u32 }
        -> Vec<(RefId, BlobId)>;

    /// Removes an earlier version, and the blob with its last attachment. Returns whether the
    /// version existed.
    writes remove_version: RemoveVersion { ref_id: RefId, blob_id: BlobId, now: Timestamp } -> bool;

    /// Reads a page of the items that the user may restore, the newest deletion first: items that
    /// the user owns, and items that the user deleted and may still write. `keep_millis` is the
    /// retention of the trash.
    reads trash: ListTrash {
        user: UserId, after: Option<TrashCursor>, limit: u32, keep_millis: i64
    } -> TrashListing;

    /// Restores a deleted item; if `recursive`, with the items under it that the same replica
    /// deleted at the same time or later.
    decides restore: Restore { user: UserId, item_id: ItemId, recursive: bool, now: Timestamp }
        -> RestoreAnswer;

    /// Makes a deleted item of the user's a tombstone, which nothing restores; if `recursive`, with
    /// the items that a restore would bring back.
    writes purge: Purge { user: UserId, item_id: ItemId, recursive: bool, now: Timestamp }
        -> PurgeAnswer;

    /// Takes a step in removing items that were purged or deleted before `before`, and tombstones
    /// older than `forget`; repeat it until it does nothing. Returns the number of things done.
    writes purge_step: PurgeStep {
        before: Timestamp, forget: Timestamp, now: Timestamp, at_most: u32
    } -> u64;

    /// Returns the bytes of the user's items in the trash, as they count against the quota; at most
    /// [`crate::MAX_TRASH_ITEMS`] contents are counted.
    reads trashed_bytes: TrashedBytes { user: UserId } -> u64;

    /// Returns, for each id, the blob if it has bytes, is not deleted, and the user staged it or
    /// may read an item that it is attached to.
    reads readable_now: ReadableBlobs { user: UserId, blob_ids: Vec<BlobId> }
        -> Vec<Option<BlobRow>>;

    /// Adds `member` to a group or organization, or removes the member, and updates the access that
    /// its grants give. A repetition changes nothing.
    decides set_member: SetMember {
        group: Principal, member: UserId, present: bool, now: Timestamp
    } -> ();

    /// Returns at most `limit` members of a group after `after`, ascending.
    reads members: ListMembers { group: Principal, after: Option<UserId>, limit: u32 }
        -> Vec<UserId>;

    /// Returns the groups and organizations of a user, ascending.
    reads groups_of: GroupsOf { user: UserId } -> Vec<Principal>;

    /// Sets or clears a block of `owner` by `user`. While it is set, the owner's grants to the
    /// user, or to a group of the user's, have no effect.
    decides set_block: SetBlock { user: UserId, owner: UserId, blocked: bool, now: Timestamp } -> ();

    /// Returns the owners whom a user blocks, ascending.
    reads blocked_by: BlockedBy { user: UserId } -> Vec<UserId>;

    /// Returns whether the server knows a principal: a user that has pushed or synced, or a group
    /// that has a member.
    reads knows: Knows { principal: Principal } -> bool;

    /// Notes the calls of devices, one of each.
    writes note_devices: NoteDevices { sightings: Vec<Sighting> } -> ();

    /// Keeps the reports of a device of the user's, and notes its call if it describes itself.
    /// Returns the reports that are no repetitions.
    writes record_reports: RecordReports {
        user: UserId, seen: Sighting, reports: Vec<Counted>, now: Timestamp
    } -> Vec<Counted>;

    /// Returns at most `limit` devices of a user, or of all users, after `after`, ascending by user
    /// and client.
    reads devices: ListDevices {
        of: Option<UserId>, after: Option<(UserId, ReplicaId)>, limit: u32
    } -> Vec<DeviceState>;

    /// Returns devices that have called since `since`, the most recent first.
    reads active_devices: ActiveDevices { since: Timestamp, at_most: u32 } -> Vec<DeviceState>;

    /// Renames or revokes a device of the user's; returns whether there is one.
    writes change_device: ChangeDevice {
        user: UserId, client: ReplicaId, change: DeviceChange, now: Timestamp
    } -> bool;

    /// Gives a replica of the user a credential in place of the one that it had. A repetition with
    /// the same secret changes nothing.
    writes sign_in: SignIn { user: UserId, client: ReplicaId, first: Proposal, now: Timestamp }
        -> SignInAnswer;

    /// Decides about a secret of a credential ([`vfs_sync_core::server::credential`]), and notes the
    /// digest of the one that follows it.
    writes renew_credential: RenewCredential {
        presented: RefreshSecret, client: ReplicaId, next: SecretHash, now: Timestamp
    } -> RenewAnswer;

    /// Removes the credential of a secret; returns the replica that it was good for.
    writes end_credential: EndCredential { presented: RefreshSecret }
        -> Option<(UserId, ReplicaId)>;

    /// Returns the keys that sign access tokens, the newest first.
    reads signing_keys: ReadSigningKeys {} -> Vec<SigningKey>;

    /// Adds a key that signs access tokens if one is due at its time, and removes keys that verify no
    /// longer; with `only` it adds the key in any case, and removes all others. Returns the keys, the
    /// newest first.
    writes add_signing_key: AddSigningKey { key: SigningKey, only: bool } -> Vec<SigningKey>;

    /// Begins a session of the console, and removes ended ones; beyond
    /// [`MAX_SESSIONS`](vfs_sync_core::server::session::MAX_SESSIONS) the oldest one too.
    writes begin_session: BeginSession { session: ConsoleSession } -> ();

    /// Reads a session of the console, which may have ended.
    reads session: ReadSession { id: String } -> Option<ConsoleSession>;

    /// Returns at most `limit` sessions of the console, the newest first; some may have ended.
    reads sessions: ListSessions { limit: u32 } -> Vec<ConsoleSession>;

    /// Removes a session of the console; returns whether there was one.
    writes end_session: EndSession { id: String } -> bool;

    /// Removes sessions of the console that ended by `now`, a bounded number.
    writes drop_ended_sessions: DropEndedSessions { now: Timestamp } -> u64;

    /// Returns at most `limit` users after `after`, ascending.
    reads users: ListUsers { after: Option<UserId>, limit: u32 } -> Vec<UserRecord>;

    /// Returns a user's record; `None` for an unknown one.
    reads user_record: ReadUser { user: UserId } -> Option<UserRecord>;

    /// Disables or enables a user, or replaces the user's limits. Returns whether the user was known
    /// before; one who was not is from then on.
    writes change_user: ChangeUser { user: UserId, change: UserChange, now: Timestamp } -> bool;

    /// Begins the deletion of a user, who is disabled from now on: nothing is removed before `due_at`.
    /// A repetition moves the time, until the removal has begun. Returns the deletion; `None` for an
    /// unknown user.
    writes delete_user: DeleteUser { user: UserId, due_at: Timestamp, now: Timestamp }
        -> Option<Deletion>;

    /// Reads the deletion of a user, or its receipt.
    reads deletion: ReadDeletion { user: UserId } -> Option<Deletion>;

    /// Allows a user who was deleted, or calls a deletion off whose removal has not begun. `chance`
    /// is a random number, for the epoch that begins: the user's new feed follows no earlier one.
    writes allow_user: AllowUser { user: UserId, now: Timestamp, chance: u16 } -> AllowAnswer;

    /// Returns the pseudonyms of users of whose deletion a step is due at `now`.
    reads due_deletions: DueDeletions { now: Timestamp, at_most: u32 } -> Vec<String>;

    /// Takes the next step of a deletion, if one is due at `now`: a bounded part of a phase, of about
    /// `at_most` rows. Returns the deletion after it.
    writes deletion_step: DeletionStep {
        pseudonym: String, now: Timestamp, at_most: u32, pace: DeletionPace
    } -> Option<Deletion>, weighs |_it| 1_000;

    /// Returns whether a user, and a device of the user's, may be served.
    reads admission: AdmissionOf { user: UserId, client: Option<ReplicaId> } -> Admission;

    /// Returns a number that changes whenever an answer of `admission` does.
    reads admission_generation: ReadAdmissionGeneration {} -> u64;

    /// Removes old removals from the feeds, a bounded number; repeat it until it removes none.
    writes prune_removals: PruneRemovals { retention: Retention } -> u64, weighs |_it| 1_000;

    /// Removes old accepted operations, a bounded number; repeat it until it removes none.
    writes prune_accepted: PruneAccepted { retention: Retention } -> u64, weighs |_it| 1_000;

    /// Removes malformed reconcile states of one user or of all, so that their clients store them
    /// again; with `dry_run` it removes none. Returns the states that it found.
    writes repair_reconcile_states: RepairReconcileStates { user: Option<UserId>, dry_run: bool }
        -> Vec<MalformedState>;

    /// Begins a new epoch for new feed entries. Positions of earlier epochs stay valid as far as
    /// the feeds have them. `chance` is a random number, which distinguishes this life of the
    /// database from others that start from the same backup.
    writes new_epoch: NewEpoch { now: Timestamp, chance: u16 } -> Epoch;

    /// Returns the id of the database, and whether it is empty.
    reads identity: ReadIdentity {} -> Identity;

    /// Checks that the database answers.
    reads ping: Ping {} -> ();

    /// Returns the sums over all users and the database's role, for the operator: a look at no more
    /// than [`crate::MAX_COUNTED`] rows of a kind.
    reads totals: ReadTotals {} -> Totals;

    /// Returns at most `at_most` users after `after`, ascending: those who own something, see
    /// something, or both.
    reads known_users: KnownUsers { after: Option<UserId>, at_most: u32 } -> Vec<UserId>;

    /// Compares the levels on a page of items, and what feeds show of them, with what they are
    /// derived from. The items follow `after` in the order of their ids, up to `until`.
    reads examine_items: ExamineItems {
        of: ItemsOf, after: Option<ItemId>, until: Option<ItemId>, at_most: u32
    }
        -> ItemsExamined;

    /// Compares a page of a user's feed, after the counter `after`, with what the user sees; with
    /// `own`, the user's own items in it too, as [`ItemsOf::Owner`] does.
    reads examine_feed: ExamineFeed { user: UserId, after: u64, at_most: u32, own: bool }
        -> FeedExamined;

    /// Counts the registers of a page of a user's items, beside the stored numbers of the realm.
    reads count_held: CountHeld { user: UserId, after: Option<ItemId>, at_most: u32 }
        -> (HeldCounts, Option<ItemId>);

    /// Sums up a page of the blobs that count against a user, beside the stored sums.
    reads count_charges: CountCharges { user: UserId, after: Option<ChargePlace>, at_most: u32 }
        -> (ChargeCounts, Option<ChargePlace>);

    /// Returns the malformed ones of a page of the user's reconcile states, after the client `after`,
    /// and the client after which the next page begins.
    reads examine_states: ExamineStates { user: UserId, after: String, at_most: u32 }
        -> (Vec<MalformedRow>, Option<String>);

    /// Returns the times of the oldest rows that background work removes, before `before`.
    reads oldest_rows: ReadOldestRows { before: Timestamp } -> OldestRows;

    /// Returns facts about the database as a whole.
    reads database_facts: ReadDatabaseFacts {} -> DatabaseFacts;

    /// Derives the levels of users on items again, and of what hangs under them. Returns the number
    /// of levels that it changed.
    decides repair_levels: RepairLevels {
        items: Vec<ItemId>, users: Vec<UserId>, now: Timestamp
    } -> u64;

    /// Has a user's feed show the subjects of `faults` as the user sees them now. Returns the number
    /// of entries that it wrote.
    writes repair_feed: RepairFeed { user: UserId, faults: Vec<DerivedFault>, now: Timestamp } -> u64,
        weighs |it| it.faults.len();

    /// Stores the counted numbers of a realm's items, links and grants, if the stored ones are still
    /// those that were seen. Returns whether they were.
    writes repair_held: RepairHeld { user: UserId, seen: MetadataUsage, counted: MetadataUsage }
        -> bool;

    /// Stores the counted sums of a user's blobs, if the stored ones are still those that were seen.
    /// Returns whether they were.
    writes repair_usage: RepairUsage { user: UserId, seen: Usage, counted: Usage } -> bool;
}

/// Implements commands that consist of one call of a topic.
macro_rules! one_call {
    ($($Command:ident: |$tx:ident, $it:ident| $call:expr;)*) => {
        $(impl $crate::command::Command for $Command {
            async fn run<T: $crate::topics::Topics>(
                &self,
                $tx: &mut T,
            ) -> $crate::error::Result<Self::Answer> {
                let $it = self;
                $call.await
            }
        })*
    };
}
pub(crate) use one_call;
