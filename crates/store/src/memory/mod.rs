//! Memory: ordered maps, one transaction at a time, nothing on a disk.

mod queries;
mod state;
mod table;
mod transaction;

use std::future::Future;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures::FutureExt as _;
use vfs_sync_core::access::Principal;
use vfs_sync_core::content::Attachment;
use vfs_sync_core::cursor::Epoch;
use vfs_sync_core::id::{BlobId, ItemId, RefId, ReplicaId, StagingId, UserId};
use vfs_sync_core::server::attach::{AttachRefusal, StageRow};
use vfs_sync_core::server::push::PushBatch;
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::{
    AttachRequest, AttachResponse, PushResponse, ReconcileRequest, StateResponse,
};

use crate::reclaim;
use crate::served::{Served, went_back};
use crate::trash;
use crate::trash::{PurgeAnswer, RestoreAnswer, TrashCursor, TrashListing};
use crate::uploads as uploading;
use crate::{
    AbandonAnswer, Advance, Anew, BlobRecord, BlobRow, BlobSummary, DeleteAnswer, Identity,
    MalformedState, MetadataStore, NewStage, NewUpload, Pruned, PullAnswer, PullRequest, Quota,
    Reclaim, ReconcileAnswer, Retention, StageAnswer, StageRecord, StoreError, UploadAccess,
    UploadAnswer, Usage, flow,
};
use state::State;
use transaction::MemoryTransaction;

/// The metadata in memory, gone with the last clone: for tests and for trying things out. Clones
/// are one store, as several servers have one database.
///
/// It decides and tells what the other back ends do. It never waits and starts no thread, and the
/// same calls leave it the same.
#[derive(Clone)]
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
    served: Arc<Served>,
}

/// What a [`MemoryStore`] held at some moment: a backup.
#[derive(Clone)]
pub struct MemorySnapshot(State);

impl MemoryStore {
    /// An empty store; `now` begins its epoch.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self { state: Arc::new(Mutex::new(State::new(now))), served: Arc::default() }
    }

    /// A copy of all that it holds, to be [put back](Self::restore) or to begin
    /// [another store](Self::of_snapshot) with.
    #[must_use]
    pub fn snapshot(&self) -> MemorySnapshot {
        MemorySnapshot(self.lock().clone())
    }

    /// Puts a backup in the place of what it holds, for all its clones. What was acknowledged since
    /// is lost. Whoever has it is told so once an epoch has begun: at the next call that finds that
    /// the store went back, or by [`MetadataStore::new_epoch`].
    pub fn restore(&self, snapshot: &MemorySnapshot) {
        *self.lock() = snapshot.0.clone();
    }

    /// A store of its own with what a backup holds.
    #[must_use]
    pub fn of_snapshot(snapshot: &MemorySnapshot) -> Self {
        Self { state: Arc::new(Mutex::new(snapshot.0.clone())), served: Arc::default() }
    }

    /// A panic left nothing half done: an open transaction is undone when it is dropped.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `job` in a transaction, which is kept if it gives `Ok`.
    fn transact<T>(
        &self,
        job: impl AsyncFnOnce(&mut MemoryTransaction<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut state = self.lock();
        let since = self.served.now();
        let mut tx = MemoryTransaction {
            state: &mut state,
            served: (&self.served, since),
            written: Vec::new(),
        };
        let answer = at_once(job(&mut tx));
        if matches!(answer, Err(StoreError::WentBack)) {
            drop(tx);
            state.new_epoch(self.served.latest(), Timestamp::MIN, 0)?;
            state.commit();
            return Err(went_back());
        }
        let answer = answer?;
        tx.commit();
        Ok(answer)
    }
}

/// What nothing of ever waits.
fn at_once<T>(job: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let waits = || Err(StoreError::Failed("a transaction in memory waits".into()));
    job.now_or_never().unwrap_or_else(waits)
}

impl std::fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryStore").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for MemorySnapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemorySnapshot").finish_non_exhaustive()
    }
}

#[async_trait]
impl MetadataStore for MemoryStore {
    async fn push(&self, batch: PushBatch, now: Timestamp) -> Result<PushResponse, StoreError> {
        self.transact(async |tx| flow::push(tx, &batch, now).await)
    }

    async fn pull(&self, user: &UserId, request: &PullRequest) -> Result<PullAnswer, StoreError> {
        self.transact(async |tx| {
            let write_ids = flow::write_id_map(tx, user, request.client_id.as_ref()).await?;
            let history = flow::history_for(tx, user, request).await?;
            tx.state.pull(user, request, history, write_ids)
        })
    }

    async fn reconcile(
        &self,
        user: &UserId,
        request: &ReconcileRequest,
        now: Timestamp,
    ) -> Result<ReconcileAnswer, StoreError> {
        self.transact(async |tx| flow::reconcile(tx, user, request, now).await)
    }

    async fn state(&self, user: &UserId, client: &ReplicaId) -> Result<StateResponse, StoreError> {
        self.transact(async |tx| flow::state(tx, user, client).await)
    }

    async fn open_stage(
        &self,
        user: &UserId,
        stage: &NewStage,
        quota: &Quota,
        now: Timestamp,
    ) -> Result<StageAnswer, StoreError> {
        self.transact(async |tx| flow::open_stage(tx, user, stage, quota, now).await)
    }

    async fn stage(
        &self,
        user: &UserId,
        staging_id: &StagingId,
    ) -> Result<Option<StageRow>, StoreError> {
        self.transact(async |tx| flow::stage(tx, user, staging_id).await)
    }

    async fn reserve_upload(
        &self,
        user: &UserId,
        staging_id: &StagingId,
        size: u64,
        quota: &Quota,
        now: Timestamp,
    ) -> Result<UploadAccess, StoreError> {
        self.transact(async |tx| {
            uploading::reserve_upload(tx, user, staging_id, size, quota, now).await
        })
    }

    async fn record_upload(
        &self,
        user: &UserId,
        staging_id: &StagingId,
        upload: &NewUpload,
        quota: &Quota,
        now: Timestamp,
    ) -> Result<UploadAnswer, StoreError> {
        self.transact(async |tx| {
            flow::record_upload(tx, user, staging_id, upload, quota, now).await
        })
    }

    async fn upload(
        &self,
        user: &UserId,
        staging_id: &StagingId,
        now: Timestamp,
    ) -> Result<UploadAccess, StoreError> {
        self.transact(async |tx| uploading::upload(tx, user, staging_id, now).await)
    }

    async fn open_upload(
        &self,
        user: &UserId,
        staging_id: &StagingId,
        length: Option<u64>,
        metadata: Option<&str>,
        quota: &Quota,
        now: Timestamp,
    ) -> Result<UploadAccess, StoreError> {
        self.transact(async |tx| {
            uploading::open_upload(tx, user, staging_id, length, metadata, quota, now).await
        })
    }

    async fn claim_upload(
        &self,
        user: &UserId,
        staging_id: &StagingId,
        lease: &str,
        anew: Option<&Anew>,
        now: Timestamp,
    ) -> Result<UploadAccess, StoreError> {
        self.transact(async |tx| {
            uploading::claim_upload(tx, user, staging_id, lease, anew, now).await
        })
    }

    async fn advance_upload(
        &self,
        user: &UserId,
        staging_id: &StagingId,
        lease: &str,
        advance: &Advance,
        quota: &Quota,
        now: Timestamp,
    ) -> Result<UploadAccess, StoreError> {
        self.transact(async |tx| {
            uploading::advance_upload(tx, user, staging_id, lease, advance, quota, now).await
        })
    }

    async fn holds_upload(
        &self,
        user: &UserId,
        staging_id: &StagingId,
        lease: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        self.transact(async |tx| uploading::holds_upload(tx, user, staging_id, lease, now).await)
    }

    async fn upload_parts(&self, staging_id: &StagingId) -> Result<Vec<String>, StoreError> {
        Ok(self.lock().parts.group(staging_id).values().cloned().collect())
    }

    async fn attach(
        &self,
        user: &UserId,
        staging_id: &StagingId,
        request: &AttachRequest,
        ref_id: RefId,
        quota: &Quota,
        now: Timestamp,
    ) -> Result<Result<AttachResponse, AttachRefusal>, StoreError> {
        self.transact(async |tx| {
            flow::attach(tx, user, staging_id, request, ref_id, quota, now).await
        })
    }

    async fn abandon(
        &self,
        user: &UserId,
        staging_id: &StagingId,
        now: Timestamp,
    ) -> Result<AbandonAnswer, StoreError> {
        self.transact(async |tx| flow::abandon(tx, user, staging_id, now).await)
    }

    async fn expired_stages(
        &self,
        now: Timestamp,
        at_most: u32,
    ) -> Result<Vec<(UserId, StagingId)>, StoreError> {
        Ok(self.lock().expired(now, at_most))
    }

    async fn delete_blob(
        &self,
        user: &UserId,
        blob_id: &BlobId,
        now: Timestamp,
    ) -> Result<DeleteAnswer, StoreError> {
        self.transact(async |tx| reclaim::delete_blob(tx, user, blob_id, now).await)
    }

    async fn to_reclaim(&self, now: Timestamp, at_most: u32) -> Result<Vec<Reclaim>, StoreError> {
        Ok(self.lock().to_reclaim(now, at_most))
    }

    async fn any_stage(&self, staging_id: &StagingId) -> Result<Option<StageRecord>, StoreError> {
        self.transact(async |tx| reclaim::any_stage(tx, staging_id).await)
    }

    async fn any_blob(&self, blob_id: &BlobId) -> Result<Option<BlobRecord>, StoreError> {
        self.transact(async |tx| reclaim::any_blob(tx, blob_id).await)
    }

    async fn blobs_after(
        &self,
        after: Option<&BlobId>,
        at_most: u32,
    ) -> Result<Vec<BlobSummary>, StoreError> {
        Ok(self.lock().blobs_after(after, at_most))
    }

    async fn upload_handles(&self) -> Result<Vec<String>, StoreError> {
        let state = self.lock();
        Ok(state.uploads.rows().values().filter_map(|upload| upload.handle.clone()).collect())
    }

    async fn blob_usage(&self, user: &UserId) -> Result<Usage, StoreError> {
        Ok(self.lock().usages.get(user).copied().unwrap_or_default())
    }

    async fn reclaim_of(&self, blob_id: &BlobId) -> Result<Option<Reclaim>, StoreError> {
        Ok(self.lock().reclaim_of(blob_id))
    }

    async fn reclaimed(
        &self,
        done: &Reclaim,
        now: Timestamp,
        again: Timestamp,
    ) -> Result<(), StoreError> {
        self.transact(async |tx| reclaim::reclaimed(tx, done, now, again).await)
    }

    async fn versions(
        &self,
        user: &UserId,
        item_id: &ItemId,
        limit: u32,
    ) -> Result<Option<Vec<Attachment>>, StoreError> {
        self.lock().versions_for(user, item_id, limit)
    }

    async fn surplus_versions(
        &self,
        before: Timestamp,
        at_most: u32,
    ) -> Result<Vec<(RefId, BlobId)>, StoreError> {
        Ok(self.lock().surplus(before, at_most))
    }

    async fn remove_version(
        &self,
        ref_id: &RefId,
        blob_id: &BlobId,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        self.transact(async |tx| reclaim::remove_version(tx, ref_id, blob_id, now).await)
    }

    async fn trash(
        &self,
        user: &UserId,
        after: Option<&TrashCursor>,
        limit: u32,
        keep_millis: i64,
    ) -> Result<TrashListing, StoreError> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        self.transact(async |tx| trash::list(tx, user, after, limit, keep_millis).await)
    }

    async fn restore(
        &self,
        user: &UserId,
        item_id: &ItemId,
        recursive: bool,
        now: Timestamp,
    ) -> Result<RestoreAnswer, StoreError> {
        self.transact(async |tx| trash::restore(tx, user, item_id, recursive, now).await)
    }

    async fn purge(
        &self,
        user: &UserId,
        item_id: &ItemId,
        recursive: bool,
        now: Timestamp,
    ) -> Result<PurgeAnswer, StoreError> {
        self.transact(async |tx| trash::purge(tx, user, item_id, recursive, now).await)
    }

    async fn purge_step(
        &self,
        before: Timestamp,
        forget: Timestamp,
        now: Timestamp,
        at_most: u32,
    ) -> Result<u64, StoreError> {
        self.transact(async |tx| trash::step(tx, before, forget, now, at_most).await)
    }

    async fn trashed_bytes(&self, user: &UserId) -> Result<u64, StoreError> {
        Ok(self.lock().trashed_bytes(user))
    }

    async fn readable_blob(
        &self,
        user: &UserId,
        blob_id: &BlobId,
    ) -> Result<Option<BlobRow>, StoreError> {
        Ok(self.lock().readable(user, blob_id))
    }

    async fn set_member(
        &self,
        group: &Principal,
        member: &UserId,
        present: bool,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.transact(async |tx| flow::set_member(tx, group, member, present, now).await)
    }

    async fn members(
        &self,
        group: &Principal,
        after: Option<&UserId>,
        limit: u32,
    ) -> Result<Vec<UserId>, StoreError> {
        let state = self.lock();
        let from = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let members = state.members.group(group).range::<UserId, _>(from).map(|(user, ())| user);
        Ok(members.take(usize::try_from(limit).unwrap_or(usize::MAX)).cloned().collect())
    }

    async fn groups_of(&self, user: &UserId) -> Result<Vec<Principal>, StoreError> {
        Ok(self.lock().groups.group(user).keys().cloned().collect())
    }

    async fn set_block(
        &self,
        user: &UserId,
        owner: &UserId,
        blocked: bool,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.transact(async |tx| flow::set_block(tx, user, owner, blocked, now).await)
    }

    async fn blocked_by(&self, user: &UserId) -> Result<Vec<UserId>, StoreError> {
        Ok(self.lock().blocked.group(user).keys().cloned().collect())
    }

    async fn knows(&self, principal: &Principal) -> Result<bool, StoreError> {
        Ok(self.lock().knows(principal))
    }

    async fn prune(&self, retention: Retention) -> Result<Pruned, StoreError> {
        self.transact(async |tx| Ok(tx.state.prune(&retention)))
    }

    async fn repair_reconcile_states(
        &self,
        _: Option<&UserId>,
        _: bool,
    ) -> Result<Vec<MalformedState>, StoreError> {
        // Values in memory are of the form that they have.
        Ok(Vec::new())
    }

    async fn new_epoch(&self, now: Timestamp, chance: u16) -> Result<Epoch, StoreError> {
        let begun =
            self.transact(async |tx| tx.state.new_epoch(tx.served.0.latest(), now, chance))?;
        self.served.begin(begun);
        Ok(begun)
    }

    async fn identity(&self) -> Result<Identity, StoreError> {
        let state = self.lock();
        let is_empty = state.users.rows().is_empty() && state.blobs.rows().is_empty();
        Ok(Identity { id: "memory".into(), is_empty })
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn counts(&self) -> Result<Vec<(&'static str, u64)>, StoreError> {
        Ok(self.lock().counts())
    }
}
