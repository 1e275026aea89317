//! The database as a server process sees it: the product's store, with simulated time around each
//! transaction, faults, and a model that receives every commit.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use futures::FutureExt as _;
use vfs_sync_core::access::Principal;
use vfs_sync_core::content::Attachment;
use vfs_sync_core::cursor::{Cursor, Epoch};
use vfs_sync_core::id::{BlobId, ItemId, RefId, ReplicaId, StagingId, UserId};
use vfs_sync_core::limits::MAX_CLOCK_AHEAD_MILLIS;
use vfs_sync_core::operation::Operation;
use vfs_sync_core::server::attach::AttachRefusal;
use vfs_sync_core::server::push::PushBatch;
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::{
    AttachRequest, AttachResponse, PushResponse, ReconcileRequest, StateResponse,
};
use vfs_sync_store::{
    AbandonAnswer, Advance, Anew, BlobRecord, BlobRow, BlobSummary, DeleteAnswer, Identity,
    MalformedState, MetadataStore, NewStage, NewUpload, Pruned, PullAnswer, PullRequest, Quota,
    Reclaim, ReconcileAnswer, Retention, StageAnswer, StageRecord, StoreError, UploadAccess,
    UploadAnswer, Usage,
};
use vfs_sync_store::{PurgeAnswer, RestoreAnswer, TrashCursor, TrashListing};

use crate::check::{answers, belongs, doubts};
use crate::ledger::Ledger;
use crate::model::Commit;
use crate::power::{Doubt, ServerDisk};
use crate::process::Process;

pub(crate) struct WatchedStore {
    inner: Arc<dyn MetadataStore>,
    /// The disk of the database, unless it is in memory.
    disk: Option<ServerDisk>,
    ledger: Ledger,
    process: Arc<Process>,
}

type Result<T> = std::result::Result<T, StoreError>;

/// A transaction takes no simulated time: stores in memory, and those that are alone on a disk, are
/// done at the first poll.
pub(crate) fn at_once<T>(transaction: impl Future<Output = T>) -> T {
    transaction.now_or_never().expect("the store waits for nobody")
}

impl WatchedStore {
    pub(crate) fn new(
        inner: Arc<dyn MetadataStore>,
        disk: Option<ServerDisk>,
        ledger: Ledger,
        process: Arc<Process>,
    ) -> Self {
        Self { inner, disk, ledger, process }
    }

    /// Runs a writing transaction; if it fails, `doubt` resolves whether it was committed.
    async fn write<T>(
        &self,
        transaction: impl Future<Output = Result<T>>,
        doubt: impl FnOnce() -> Doubt,
    ) -> Result<T> {
        let Some(disk) = &self.disk else { return at_once(transaction) };
        let answer = disk.transaction(&self.ledger, || at_once(transaction), doubt());
        if answer.is_err() {
            self.end_with_the_power().await;
        }
        answer
    }

    /// Runs a transaction whose outcome cannot be determined afterwards, so without faults.
    fn spared<T>(&self, transaction: impl Future<Output = Result<T>>) -> Result<T> {
        match &self.disk {
            None => at_once(transaction),
            Some(disk) => disk.spare(|| at_once(transaction)),
        }
    }

    /// Waits for ever if the power has failed: nobody receives an answer.
    async fn end_with_the_power(&self) {
        if let Some(disk) = self.disk.as_ref().filter(|disk| disk.is_off()) {
            disk.power_on(&self.ledger);
            std::future::pending::<()>().await;
        }
    }

    /// Before a transaction: it may fail without having happened.
    async fn before(&self) -> Result<()> {
        self.process.moment().await;
        if self.process.database_fails() {
            self.ledger.fault("database: refused", String::new);
            return Err(StoreError::Unavailable("simulated: the database is away".into()));
        }
        Ok(())
    }

    /// After a transaction: the process may never learn that it happened.
    async fn after<T>(&self, answer: T) -> Result<T> {
        self.end_with_the_power().await;
        if self.process.database_fails() {
            self.ledger.fault("database: committed, answer lost", String::new);
            return Err(StoreError::Unavailable("simulated: the connection was lost".into()));
        }
        self.process.moment().await;
        Ok(answer)
    }

    /// The latest time that the realm of an item knows of, `now` at least.
    fn believed(&self, item: &ItemId, now: Timestamp) -> Result<Timestamp> {
        let Some(owner) = self.ledger.book().model.owner(item).cloned() else { return Ok(now) };
        let client = ReplicaId::new("watch").expect("an id");
        let state = self.spared(self.inner.state(&owner, &client))?;
        Ok(state.feed_head.map_or(now, |head| head.changed_at.max(now)))
    }

    /// Returns the times of the last changes in the feeds of the realms that a push writes to, if a
    /// clock runs ahead: only then they matter.
    async fn last_changed(
        &self,
        user: &UserId,
        replica: &ReplicaId,
        operations: &[Operation],
        now: Timestamp,
    ) -> Result<BTreeMap<UserId, Timestamp>> {
        let mut last_changed = BTreeMap::new();
        let believed = now.plus_millis(MAX_CLOCK_AHEAD_MILLIS);
        if operations.iter().all(|op| op.occurred_at <= believed) {
            return Ok(last_changed);
        }
        let mut owners = vec![user.clone()];
        for op in operations {
            let named = [Some(&op.item_id), op.parent()];
            let book = self.ledger.book();
            owners
                .extend(named.into_iter().flatten().filter_map(|id| book.model.owner(id)).cloned());
        }
        owners.sort();
        owners.dedup();
        for owner in owners {
            let state = at_once(self.inner.state(&owner, replica))?;
            if let Some(head) = state.feed_head {
                last_changed.insert(owner, head.changed_at);
            }
        }
        Ok(last_changed)
    }
}

impl WatchedStore {
    /// Updates the model by the feeds' entries since the last update.
    fn follow(&self, commit: Commit<'_>) -> Result<()> {
        let users = self.ledger.book().model.users();
        for user in users {
            self.follow_one(&user, commit)?;
        }
        Ok(())
    }

    fn follow_one(&self, user: &UserId, commit: Commit<'_>) -> Result<()> {
        let pull = |cursor: Option<Cursor>| {
            let (baseline, head) = (None, None);
            let request = PullRequest { cursor, baseline, head, client_id: None, limit: 500 };
            self.spared(self.inner.pull(user, &request))
        };
        loop {
            let from = self.ledger.book().model.told_until(user);
            match pull(from)? {
                PullAnswer::Page(page) => {
                    self.ledger.book().model.told(user, &page, commit);
                    if !page.has_more {
                        return Ok(());
                    }
                }
                PullAnswer::Rematerialize { .. } => return Ok(()),
            }
        }
    }
}

#[async_trait]
impl MetadataStore for WatchedStore {
    async fn push(&self, batch: PushBatch, now: Timestamp) -> Result<PushResponse> {
        self.before().await?;
        self.follow(Commit::Other)?;
        let (user, replica) = (batch.user.clone(), batch.replica.clone());
        let operations: Vec<Operation> = batch.operations().cloned().collect();
        let whole = operations.len() == batch.len();
        belongs::pushed(&self.ledger, &user, &replica, &operations);
        let last_changed = self.last_changed(&user, &replica, &operations, now).await?;
        let doubt = || {
            let operations = if whole { operations.clone() } else { Vec::new() };
            doubts::push(user.clone(), replica.clone(), operations, now, last_changed.clone())
        };
        let answer = self.write(self.inner.push(batch, now), doubt).await?;
        if whole {
            answers::push(&self.ledger, &user, &replica, &operations, now, &last_changed, &answer);
        }
        self.follow(Commit::Push(&user, &replica, &operations))?;
        self.after(answer).await
    }

    async fn pull(&self, user: &UserId, request: &PullRequest) -> Result<PullAnswer> {
        self.before().await?;
        let answer = at_once(self.inner.pull(user, request))?;
        answers::pull(&self.ledger, user, request, &answer);
        self.after(answer).await
    }

    async fn reconcile(
        &self,
        user: &UserId,
        request: &ReconcileRequest,
        now: Timestamp,
    ) -> Result<ReconcileAnswer> {
        self.before().await?;
        let doubt = || doubts::reconcile(user.clone(), request.clone());
        let answer = self.write(self.inner.reconcile(user, request, now), doubt).await?;
        answers::reconcile(&self.ledger, user, request, &answer);
        self.after(answer).await
    }

    async fn state(&self, user: &UserId, client: &ReplicaId) -> Result<StateResponse> {
        self.before().await?;
        at_once(self.inner.state(user, client))
    }

    async fn open_stage(
        &self,
        user: &UserId,
        stage: &NewStage,
        quota: &Quota,
        now: Timestamp,
    ) -> Result<StageAnswer> {
        self.before().await?;
        let doubt = || doubts::stage(user.clone(), stage.staging_id.clone());
        let answer = self.write(self.inner.open_stage(user, stage, quota, now), doubt).await?;
        if let StageAnswer::Open(row) = &answer {
            let model = &mut self.ledger.book().model;
            model.stage_opened(user, &row.staging_id, &row.blob_id, row.expires_at);
        }
        self.after(answer).await
    }

    async fn stage(
        &self,
        user: &UserId,
        staging_id: &StagingId,
    ) -> Result<Option<vfs_sync_core::server::attach::StageRow>> {
        self.before().await?;
        at_once(self.inner.stage(user, staging_id))
    }

    async fn reserve_upload(
        &self,
        user: &UserId,
        staging_id: &StagingId,
        size: u64,
        quota: &Quota,
        now: Timestamp,
    ) -> Result<UploadAccess> {
        self.before().await?;
        let reserving = self.inner.reserve_upload(user, staging_id, size, quota, now);
        let doubt = || doubts::stage(user.clone(), staging_id.clone());
        let answer = self.write(reserving, doubt).await?;
        self.after(answer).await
    }

    async fn record_upload(
        &self,
        user: &UserId,
        staging_id: &StagingId,
        upload: &NewUpload,
        quota: &Quota,
        now: Timestamp,
    ) -> Result<UploadAnswer> {
        self.before().await?;
        let recording = self.inner.record_upload(user, staging_id, upload, quota, now);
        let doubt = || doubts::stage(user.clone(), staging_id.clone());
        let answer = self.write(recording, doubt).await?;
        if let UploadAnswer::Recorded { row, .. } = &answer {
            answers::recorded(&self.ledger, row);
        }
        self.after(answer).await
    }

    async fn upload(
        &self,
        user: &UserId,
        staging_id: &StagingId,
        now: Timestamp,
    ) -> Result<UploadAccess> {
        self.before().await?;
        at_once(self.inner.upload(user, staging_id, now))
    }

    async fn open_upload(
        &self,
        user: &UserId,
        staging_id: &StagingId,
        length: Option<u64>,
        metadata: Option<&str>,
        quota: &Quota,
        now: Timestamp,
    ) -> Result<UploadAccess> {
        self.before().await?;
        let answer =
            at_once(self.inner.open_upload(user, staging_id, length, metadata, quota, now))?;
        self.after(answer).await
    }

    async fn claim_upload(
        &self,
        user: &UserId,
        staging_id: &StagingId,
        lease: &str,
        anew: Option<&Anew>,
        now: Timestamp,
    ) -> Result<UploadAccess> {
        self.before().await?;
        let answer = at_once(self.inner.claim_upload(user, staging_id, lease, anew, now))?;
        self.after(answer).await
    }

    async fn advance_upload(
        &self,
        user: &UserId,
        staging_id: &StagingId,
        lease: &str,
        advance: &Advance,
        quota: &Quota,
        now: Timestamp,
    ) -> Result<UploadAccess> {
        self.before().await?;
        let answer =
            at_once(self.inner.advance_upload(user, staging_id, lease, advance, quota, now))?;
        self.after(answer).await
    }

    async fn holds_upload(
        &self,
        user: &UserId,
        staging_id: &StagingId,
        lease: &str,
        now: Timestamp,
    ) -> Result<bool> {
        self.before().await?;
        at_once(self.inner.holds_upload(user, staging_id, lease, now))
    }

    async fn upload_parts(&self, staging_id: &StagingId) -> Result<Vec<String>> {
        self.before().await?;
        at_once(self.inner.upload_parts(staging_id))
    }

    async fn attach(
        &self,
        user: &UserId,
        staging_id: &StagingId,
        request: &AttachRequest,
        ref_id: RefId,
        quota: &Quota,
        now: Timestamp,
    ) -> Result<std::result::Result<AttachResponse, AttachRefusal>> {
        self.before().await?;
        let believed = self.believed(&request.item_id, now)?;
        let attaching = self.inner.attach(user, staging_id, request, ref_id, quota, now);
        let doubt =
            || doubts::attach(user.clone(), staging_id.clone(), request.clone(), now, believed);
        let answer = self.write(attaching, doubt).await?;
        answers::attach(&self.ledger, user, staging_id, request, now, believed, &answer);
        let blob = answer.as_ref().ok().map(|answer| answer.blob_id.clone());
        let replica = request.replica_id.as_ref();
        let attached = |blob| Commit::Attach(user, replica, blob);
        self.follow(blob.as_ref().map_or(Commit::Other, attached))?;
        self.after(answer).await
    }

    async fn abandon(
        &self,
        user: &UserId,
        staging_id: &StagingId,
        now: Timestamp,
    ) -> Result<AbandonAnswer> {
        self.before().await?;
        let doubt = || doubts::stage(user.clone(), staging_id.clone());
        let answer = self.write(self.inner.abandon(user, staging_id, now), doubt).await?;
        if matches!(answer, AbandonAnswer::Abandoned(_)) {
            answers::abandoned(&self.ledger, user, staging_id, now);
        }
        self.after(answer).await
    }

    async fn expired_stages(
        &self,
        now: Timestamp,
        at_most: u32,
    ) -> Result<Vec<(UserId, StagingId)>> {
        self.before().await?;
        at_once(self.inner.expired_stages(now, at_most))
    }

    async fn delete_blob(
        &self,
        user: &UserId,
        blob_id: &BlobId,
        now: Timestamp,
    ) -> Result<DeleteAnswer> {
        self.before().await?;
        let staging_id = self.ledger.book().model.stage_of(blob_id).cloned();
        let doubt = || -> Doubt {
            match staging_id {
                Some(staging_id) => doubts::stage(user.clone(), staging_id),
                None => Box::new(|_: &dyn MetadataStore, _: &Ledger| {}),
            }
        };
        let answer = self.write(self.inner.delete_blob(user, blob_id, now), doubt).await?;
        if matches!(answer, DeleteAnswer::Deleting) {
            answers::deleted(&self.ledger, user, blob_id);
        }
        self.after(answer).await
    }

    async fn to_reclaim(&self, now: Timestamp, at_most: u32) -> Result<Vec<Reclaim>> {
        self.before().await?;
        let answer = at_once(self.inner.to_reclaim(now, at_most))?;
        answers::reclaiming(&self.ledger, &answer);
        self.after(answer).await
    }

    async fn any_stage(&self, staging_id: &StagingId) -> Result<Option<StageRecord>> {
        at_once(self.inner.any_stage(staging_id))
    }

    async fn any_blob(&self, blob_id: &BlobId) -> Result<Option<BlobRecord>> {
        at_once(self.inner.any_blob(blob_id))
    }

    async fn blobs_after(&self, after: Option<&BlobId>, at_most: u32) -> Result<Vec<BlobSummary>> {
        at_once(self.inner.blobs_after(after, at_most))
    }

    async fn upload_handles(&self) -> Result<Vec<String>> {
        at_once(self.inner.upload_handles())
    }

    async fn blob_usage(&self, user: &UserId) -> Result<Usage> {
        at_once(self.inner.blob_usage(user))
    }

    async fn reclaim_of(&self, blob_id: &BlobId) -> Result<Option<Reclaim>> {
        self.before().await?;
        at_once(self.inner.reclaim_of(blob_id))
    }

    async fn reclaimed(&self, done: &Reclaim, now: Timestamp, again: Timestamp) -> Result<()> {
        self.before().await?;
        at_once(self.inner.reclaimed(done, now, again))?;
        self.after(()).await
    }

    async fn trash(
        &self,
        user: &UserId,
        after: Option<&TrashCursor>,
        limit: u32,
        keep_millis: i64,
    ) -> Result<TrashListing> {
        self.before().await?;
        at_once(self.inner.trash(user, after, limit, keep_millis))
    }

    async fn restore(
        &self,
        user: &UserId,
        item_id: &ItemId,
        recursive: bool,
        now: Timestamp,
    ) -> Result<RestoreAnswer> {
        self.before().await?;
        self.spared(self.inner.restore(user, item_id, recursive, now))
    }

    async fn purge(
        &self,
        user: &UserId,
        item_id: &ItemId,
        recursive: bool,
        now: Timestamp,
    ) -> Result<PurgeAnswer> {
        self.before().await?;
        self.spared(self.inner.purge(user, item_id, recursive, now))
    }

    async fn purge_step(
        &self,
        before: Timestamp,
        forget: Timestamp,
        now: Timestamp,
        at_most: u32,
    ) -> Result<u64> {
        self.before().await?;
        self.spared(self.inner.purge_step(before, forget, now, at_most))
    }

    async fn trashed_bytes(&self, user: &UserId) -> Result<u64> {
        self.before().await?;
        at_once(self.inner.trashed_bytes(user))
    }

    async fn versions(
        &self,
        user: &UserId,
        item_id: &ItemId,
        limit: u32,
    ) -> Result<Option<Vec<Attachment>>> {
        self.before().await?;
        at_once(self.inner.versions(user, item_id, limit))
    }

    async fn surplus_versions(
        &self,
        before: Timestamp,
        at_most: u32,
    ) -> Result<Vec<(RefId, BlobId)>> {
        self.before().await?;
        at_once(self.inner.surplus_versions(before, at_most))
    }

    async fn remove_version(
        &self,
        ref_id: &RefId,
        blob_id: &BlobId,
        now: Timestamp,
    ) -> Result<bool> {
        self.before().await?;
        let removed = self.spared(self.inner.remove_version(ref_id, blob_id, now))?;
        if removed {
            let mut book = self.ledger.book();
            let removed = book.model.version_removed(blob_id);
            book.saved.retire(removed);
        }
        self.after(removed).await
    }

    async fn readable_blob(&self, user: &UserId, blob_id: &BlobId) -> Result<Option<BlobRow>> {
        self.before().await?;
        let row = at_once(self.inner.readable_blob(user, blob_id))?;
        answers::readable(&self.ledger, user, blob_id, row.as_ref());
        self.after(row).await
    }

    async fn readable_blobs(
        &self,
        user: &UserId,
        blob_ids: &[BlobId],
    ) -> Result<Vec<Option<BlobRow>>> {
        self.before().await?;
        let rows = at_once(self.inner.readable_blobs(user, blob_ids))?;
        for (blob_id, row) in blob_ids.iter().zip(&rows) {
            answers::readable(&self.ledger, user, blob_id, row.as_ref());
        }
        self.after(rows).await
    }

    async fn set_member(
        &self,
        group: &Principal,
        member: &UserId,
        present: bool,
        now: Timestamp,
    ) -> Result<()> {
        self.before().await?;
        let doubt = || doubts::member(group.clone(), member.clone(), present);
        self.write(self.inner.set_member(group, member, present, now), doubt).await?;
        self.ledger.book().model.set_member(group, member, present);
        self.follow(Commit::Other)?;
        self.after(()).await
    }

    async fn members(
        &self,
        group: &Principal,
        after: Option<&UserId>,
        limit: u32,
    ) -> Result<Vec<UserId>> {
        self.before().await?;
        at_once(self.inner.members(group, after, limit))
    }

    async fn groups_of(&self, user: &UserId) -> Result<Vec<Principal>> {
        self.before().await?;
        at_once(self.inner.groups_of(user))
    }

    async fn set_block(
        &self,
        user: &UserId,
        owner: &UserId,
        blocked: bool,
        now: Timestamp,
    ) -> Result<()> {
        self.before().await?;
        let doubt = || doubts::block(user.clone(), owner.clone(), blocked);
        self.write(self.inner.set_block(user, owner, blocked, now), doubt).await?;
        self.ledger.book().model.set_block(user, owner, blocked);
        self.after(()).await
    }

    async fn blocked_by(&self, user: &UserId) -> Result<Vec<UserId>> {
        self.before().await?;
        at_once(self.inner.blocked_by(user))
    }

    async fn knows(&self, principal: &Principal) -> Result<bool> {
        self.before().await?;
        at_once(self.inner.knows(principal))
    }

    async fn prune(&self, retention: Retention) -> Result<Pruned> {
        self.before().await?;
        let pruned = self.spared(self.inner.prune(retention))?;
        answers::pruned(&self.ledger, &retention, pruned);
        if pruned.removals > 0 {
            let client = ReplicaId::new("watch").expect("an id");
            let users = self.ledger.book().model.users();
            for user in users {
                let state = self.spared(self.inner.state(&user, &client))?;
                if let Some(through) = state.pruned_through {
                    self.ledger.book().model.pruned_until(&user, &through);
                }
            }
        }
        self.after(pruned).await
    }

    async fn repair_reconcile_states(
        &self,
        user: Option<&UserId>,
        dry_run: bool,
    ) -> Result<Vec<MalformedState>> {
        at_once(self.inner.repair_reconcile_states(user, dry_run))
    }

    async fn new_epoch(&self, now: Timestamp, chance: u16) -> Result<Epoch> {
        at_once(self.inner.new_epoch(now, chance))
    }

    async fn identity(&self) -> Result<Identity> {
        at_once(self.inner.identity())
    }

    async fn ping(&self) -> Result<()> {
        self.before().await?;
        at_once(self.inner.ping())
    }

    async fn counts(&self) -> Result<Vec<(&'static str, u64)>> {
        at_once(self.inner.counts())
    }
}
