//! The database as a server process sees it: the product's store, with simulated time around each
//! transaction, faults, and a model that receives every commit.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use futures::FutureExt as _;
use vfs_sync_core::cursor::Cursor;
use vfs_sync_core::id::{ItemId, ReplicaId, UserId};
use vfs_sync_core::limits::MAX_CLOCK_AHEAD_MILLIS;
use vfs_sync_core::operation::Operation;
use vfs_sync_core::server::push::PushBatch;
use vfs_sync_core::time::Timestamp;
use vfs_sync_store::{
    AbandonAnswer, Call, DeleteAnswer, MetadataStore, PullAnswer, PullRequest, Reply, StageAnswer,
    StoreError, UploadAnswer,
};

use crate::infra::power::{Doubt, ServerDisk};
use crate::infra::process::Process;
use crate::oracle::failure::FailureKind;
use crate::oracle::ledger::Ledger;
use crate::oracle::model::Commit;
use crate::oracle::{belongs, transactions, uncertain_commits};

pub(crate) struct WatchedStore {
    inner: Arc<dyn MetadataStore>,
    /// The disk of the database, unless it is in memory.
    disk: Option<ServerDisk>,
    ledger: Ledger,
    process: Arc<Process>,
}

type Result<T> = std::result::Result<T, StoreError>;

/// Runs a transaction in no simulated time: stores in memory, and those that own their disk, finish
/// at the first poll.
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
        doubt: Doubt,
    ) -> Result<T> {
        let Some(disk) = &self.disk else { return at_once(transaction) };
        let answer = disk.transaction(&self.ledger, || at_once(transaction), doubt);
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

    /// Runs before a transaction, which may fail without an effect.
    async fn before(&self) -> Result<()> {
        self.process.moment().await;
        if self.process.database_fails() {
            self.ledger.fault("database: refused", String::new);
            return Err(StoreError::Unavailable("simulated: the database is away".into()));
        }
        Ok(())
    }

    /// Runs after a transaction: the process may never learn that it was committed.
    async fn after<T>(&self, answer: T) -> Result<T> {
        self.end_with_the_power().await;
        if self.process.database_fails() {
            self.ledger.fault("database: committed, answer lost", String::new);
            return Err(StoreError::Unavailable("simulated: the connection was lost".into()));
        }
        self.process.moment().await;
        Ok(answer)
    }

    /// Returns the latest time that the realm of an item knows, at least `now`.
    fn believed(&self, item: &ItemId, now: Timestamp) -> Result<Timestamp> {
        let Some(owner) = self.ledger.book().model.owner(item).cloned() else { return Ok(now) };
        let client = ReplicaId::new("watch").expect("an id");
        let state = self.spared(self.inner.state(&owner, &client))?;
        Ok(state.feed_head.map_or(now, |head| head.changed_at.max(now)))
    }

    /// Returns the times of the last changes in the feeds of the realms that a push writes to. They
    /// matter only if a clock runs ahead.
    fn last_changed(
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
            self.spared(self.inner.pull(user, request))
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
                PullAnswer::Rematerialize(_) => {
                    let message = format!("the model missed entries in the feed of {user}");
                    self.ledger.fail(FailureKind::Answer, message);
                    return Ok(());
                }
            }
        }
    }
}

/// The state before a call that its check compares with.
enum Seen {
    Nothing,
    /// The operations of a push, whether they are complete, and when the feeds of their realms last
    /// changed.
    Push(Vec<Operation>, bool, BTreeMap<UserId, Timestamp>),
    /// The latest time that the realm of an attach's item knows.
    Attach(Timestamp),
}

/// The way in which faults affect a call.
enum Faults {
    /// An operator makes the call, without a server process in between.
    Outside,
    /// The call may fail before it has an effect, and its answer is never lost.
    Before,
    /// The call changes nothing that an application waits for, and its answer may be lost.
    Around,
    /// The call may fail only before it has an effect, because its outcome cannot be determined
    /// afterwards.
    Spared,
    /// The call meets no fault, but its answer may be lost.
    SparedThenLost,
    /// The call belongs to an earlier call, which met the faults.
    Second,
    /// The disk may fail during the call; the doubt then determines the outcome.
    Disk(Doubt),
}

impl WatchedStore {
    fn faults(&self, call: &Call, seen: &Seen) -> Faults {
        match call {
            Call::AnyStage(_)
            | Call::AnyBlob(_)
            | Call::BlobsAfter(_)
            | Call::UploadHandles(_)
            | Call::BlobUsage(_)
            | Call::RepairReconcileStates(_)
            | Call::NewEpoch(_)
            | Call::ReadIdentity(_)
            | Call::ReadTotals(_)
            | Call::ListDevices(_)
            | Call::ActiveDevices(_)
            | Call::ListUsers(_)
            | Call::ReadUser(_) => Faults::Outside,
            Call::Pull(_)
            | Call::OpenUpload(_)
            | Call::ClaimUpload(_)
            | Call::AdvanceUpload(_)
            | Call::ToReclaim(_)
            | Call::Reclaimed(_)
            | Call::ReadableBlobs(_) => Faults::Around,
            Call::Restore(_) | Call::Purge(_) | Call::PurgeStep(_) => Faults::Spared,
            Call::RemoveVersion(_) | Call::PruneRemovals(_) => Faults::SparedThenLost,
            Call::PruneAccepted(_) => Faults::Second,
            _ => match self.doubt(call, seen) {
                Some(doubt) => Faults::Disk(doubt),
                None => Faults::Before,
            },
        }
    }

    /// Returns the doubt that determines the outcome of a call during which the disk failed.
    fn doubt(&self, call: &Call, seen: &Seen) -> Option<Doubt> {
        Some(match (call.clone(), seen) {
            (Call::Push(push), Seen::Push(operations, whole, last_changed)) => {
                let PushBatch { user, replica, .. } = push.batch;
                let operations = if *whole { operations.clone() } else { Vec::new() };
                uncertain_commits::push(user, replica, operations, push.now, last_changed.clone())
            }
            (Call::Attach(it), Seen::Attach(believed)) => {
                uncertain_commits::attach(it.user, it.staging_id, it.request, it.now, *believed)
            }
            (Call::Reconcile(it), _) => uncertain_commits::reconcile(it.user, it.request),
            (Call::OpenStage(it), _) => uncertain_commits::stage(it.user, it.stage.staging_id),
            (Call::ReserveUpload(it), _) => uncertain_commits::stage(it.user, it.staging_id),
            (Call::RecordUpload(it), _) => uncertain_commits::stage(it.user, it.staging_id),
            (Call::Abandon(it), _) => uncertain_commits::stage(it.user, it.staging_id),
            (Call::DeleteBlob(it), _) => {
                match self.ledger.book().model.stage_of(&it.blob_id).cloned() {
                    Some(staging_id) => uncertain_commits::stage(it.user, staging_id),
                    None => Box::new(|_, _| {}),
                }
            }
            (Call::SetMember(it), _) => uncertain_commits::member(it.group, it.member, it.present),
            (Call::SetBlock(it), _) => uncertain_commits::block(it.user, it.owner, it.blocked),
            _ => return None,
        })
    }

    /// Reads the state from before the call that the check needs.
    fn look(&self, call: &Call) -> Result<Seen> {
        Ok(match call {
            Call::Push(push) => {
                self.follow(Commit::Other)?;
                let (user, replica) = (&push.batch.user, &push.batch.replica);
                let operations: Vec<Operation> = push.batch.operations().cloned().collect();
                let whole = operations.len() == push.batch.len();
                belongs::pushed(&self.ledger, user, replica, &operations);
                let last_changed = self.last_changed(user, replica, &operations, push.now)?;
                Seen::Push(operations, whole, last_changed)
            }
            Call::Attach(it) => Seen::Attach(self.believed(&it.request.item_id, it.now)?),
            Call::PruneRemovals(_) => {
                // What is pruned cannot be followed any more.
                self.follow(Commit::Other)?;
                Seen::Nothing
            }
            _ => Seen::Nothing,
        })
    }

    /// Compares an answer with the model, which records what was committed.
    fn check(&self, call: &Call, reply: &Reply, seen: &Seen) -> Result<()> {
        let ledger = &self.ledger;
        match (call, reply) {
            (Call::Push(push), Reply::Push(answer)) => {
                let Seen::Push(operations, whole, last_changed) = seen else { return Ok(()) };
                let (user, replica) = (&push.batch.user, &push.batch.replica);
                if *whole {
                    let now = push.now;
                    transactions::push(
                        ledger,
                        user,
                        replica,
                        operations,
                        now,
                        last_changed,
                        &answer.response,
                    );
                }
                self.follow(Commit::Push(user, replica, operations))?;
            }
            (Call::Pull(it), Reply::Pull(Some(answer))) => {
                transactions::pull(ledger, &it.user, &it.request, answer);
            }
            (Call::Reconcile(it), Reply::Reconcile(answer)) => {
                transactions::reconcile(ledger, &it.user, &it.request, answer);
            }
            (Call::OpenStage(it), Reply::OpenStage(StageAnswer::Open(row))) => {
                let model = &mut ledger.book().model;
                model.stage_opened(&it.user, &row.staging_id, &row.blob_id, row.expires_at);
            }
            (_, Reply::RecordUpload(UploadAnswer::Recorded { row, .. })) => {
                transactions::recorded(ledger, row);
            }
            (Call::Attach(it), Reply::Attach(answer)) => {
                let Seen::Attach(believed) = seen else { return Ok(()) };
                let (user, request) = (&it.user, &it.request);
                transactions::attach(
                    ledger,
                    user,
                    &it.staging_id,
                    request,
                    it.now,
                    *believed,
                    answer,
                );
                let blob = answer.as_ref().ok().map(|answer| &answer.blob_id);
                let attached = |blob| Commit::Attach(user, request.replica_id.as_ref(), blob);
                self.follow(blob.map_or(Commit::Other, attached))?;
            }
            (Call::Abandon(it), Reply::Abandon(AbandonAnswer::Abandoned(_))) => {
                transactions::abandoned(ledger, &it.user, &it.staging_id, it.now);
            }
            (Call::DeleteBlob(it), Reply::DeleteBlob(DeleteAnswer::Deleting)) => {
                transactions::deleted(ledger, &it.user, &it.blob_id);
            }
            (_, Reply::ToReclaim(found)) => transactions::reclaiming(ledger, found),
            (Call::RemoveVersion(it), Reply::RemoveVersion(true)) => {
                let mut book = ledger.book();
                let removed = book.model.version_removed(&it.blob_id);
                book.saved.retire(removed);
            }
            (Call::ReadableBlobs(it), Reply::ReadableBlobs(rows)) => {
                for (blob_id, row) in it.blob_ids.iter().zip(rows) {
                    transactions::readable(ledger, &it.user, blob_id, row.as_ref());
                }
            }
            (Call::SetMember(it), Reply::SetMember(())) => {
                ledger.book().model.set_member(&it.group, &it.member, it.present);
                self.follow(Commit::Other)?;
            }
            (Call::SetBlock(it), Reply::SetBlock(())) => {
                ledger.book().model.set_block(&it.user, &it.owner, it.blocked);
            }
            (_, Reply::PruneRemovals(removals)) => self.removals_pruned(*removals)?,
            (Call::PruneAccepted(it), Reply::PruneAccepted(accepted)) => {
                transactions::accepted_pruned(ledger, &it.retention, *accepted);
            }
            _ => {}
        }
        Ok(())
    }

    fn removals_pruned(&self, removals: u64) -> Result<()> {
        if removals == 0 {
            return Ok(());
        }
        transactions::removals_pruned(&self.ledger);
        let client = ReplicaId::new("watch").expect("an id");
        let users = self.ledger.book().model.users();
        for user in users {
            let state = self.spared(self.inner.state(&user, &client))?;
            if let Some(through) = state.pruned_through {
                self.ledger.book().model.pruned_until(&user, &through);
            }
        }
        Ok(())
    }
}

#[async_trait]
impl MetadataStore for WatchedStore {
    async fn call(&self, call: Call) -> Result<Reply> {
        let alone = Seen::Nothing;
        match self.faults(&call, &alone) {
            Faults::Outside => return at_once(self.inner.call(call)),
            Faults::Second => {
                let reply = self.spared(self.inner.call(call.clone()))?;
                return self.check(&call, &reply, &alone).map(|()| reply);
            }
            _ => self.before().await?,
        }
        let seen = self.look(&call)?;
        let faults = self.faults(&call, &seen);
        let ends = matches!(faults, Faults::Before | Faults::Spared);
        let running = self.inner.call(call.clone());
        let reply = match faults {
            Faults::Disk(doubt) => self.write(running, doubt).await?,
            Faults::Spared | Faults::SparedThenLost => self.spared(running)?,
            _ => at_once(running)?,
        };
        self.check(&call, &reply, &seen)?;
        if ends { Ok(reply) } else { self.after(reply).await }
    }
}
