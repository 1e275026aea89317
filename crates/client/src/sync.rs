//! Synchronising: pushing, pulling, telling what was applied. The rules are the core's machines;
//! here is the order in which they are asked, and what is made durable when.

pub(crate) mod background;
pub(crate) mod backoff;
pub(crate) mod task;
mod upload;

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;
use vfs_sync_core::client::flush::{FlushCommit, FlushCycle, FlushError, FlushStep};
use vfs_sync_core::client::offer::Offered;
use vfs_sync_core::client::pull::{PageCommit, PullCycle};
use vfs_sync_core::client::reconcile;
use vfs_sync_core::cursor::{Epoch, Position};
use vfs_sync_core::guardrail::Violation;
use vfs_sync_core::id::{ItemId, WriteId};
use vfs_sync_core::limits::{MAX_PULL_LIMIT, MAX_WRITE_ID_ENTRIES};
use vfs_sync_core::wire::code;
use vfs_sync_core::wire::{PullPage, PushRequest, ReconcileState, WriteIds};

use crate::client::Inner;
use crate::error::{ClientError, StopReason};
use crate::event::{ChangeEvent, Progress, SyncReport};
use crate::lock::lock;
use crate::replica::{
    History, Meta, Offering, Rebuilt, ReplicaStore, Slot, own_write_id, unsendable,
};
use crate::transport::{PullQuery, TransportError, TransportExt as _};

pub(crate) use upload::renew;

/// One call's turn at talking to the server.
pub(crate) struct Session {
    pub(crate) inner: Arc<Inner>,
    /// Shared with the transactions that run, so that none of a cancelled call is still under way
    /// when the next has its turn.
    turn: Arc<OwnedMutexGuard<()>>,
    pub(crate) report: SyncReport,
    /// Items with a content that the server cannot take at present: tried once in a sync.
    pub(crate) waiting: HashSet<ItemId>,
}

/// Contents that leave the cache in one transaction.
const FORGOTTEN_AT_ONCE: usize = 500;

/// Rebuilds before giving up, where the server is restored during each.
const REBUILDS: usize = 3;

/// The part of a sync to do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    All,
    Flush,
    Pull,
    Rematerialise,
}

impl Session {
    pub(crate) async fn begin(inner: &Arc<Inner>) -> Self {
        let turn = Arc::new(Arc::clone(&inner.work).lock_owned().await);
        let inner = Arc::clone(inner);
        {
            let mut progress = lock(&inner.progress);
            *progress = Progress {
                downloaded: progress.downloaded,
                to_download: progress.to_download,
                downloaded_bytes: progress.downloaded_bytes,
                to_download_bytes: progress.to_download_bytes,
                ..Progress::default()
            };
        }
        Self { inner, turn, report: SyncReport::default(), waiting: HashSet::new() }
    }

    /// Does `work`, and emits the violation that it ends with, if it does.
    pub(crate) async fn run(&mut self, work: Work) -> Result<(), ClientError> {
        self.work(work).await.map_err(|error| self.inner.emitted(error))
    }

    async fn work(&mut self, work: Work) -> Result<(), ClientError> {
        match work {
            Work::Flush => self.flush().await,
            Work::Pull => self.pull_and_reconcile().await,
            Work::Rematerialise => self.rematerialise().await,
            Work::All => {
                match self.flush().await {
                    // What cannot be pushed at present keeps nothing of others' from coming.
                    Err(ClientError::Transport(error)) if error.waits() => {
                        self.pull().await?;
                        return Err(error.into());
                    }
                    flushed => flushed?,
                }
                let epoch = self.meta().await?.epoch;
                self.pull_and_reconcile().await?;
                let pushes = self.report.pushes;
                if self.meta().await?.epoch != epoch {
                    // What another epoch acknowledged is queued again.
                    self.flush().await?;
                }
                if self.report.pushes > pushes {
                    self.pull_and_reconcile().await?;
                }
                while self.upload_contents().await? {
                    // Conflicted copies are new operations; what was attached comes by the feed.
                    self.flush().await?;
                    self.pull_and_reconcile().await?;
                }
                let inner = Arc::clone(&self.inner);
                self.inner.environment().blocking(move || inner.trim_cache()).await
            }
        }
    }

    /// Runs a transaction off the runtime. It is finished even if nobody waits for it any more.
    pub(crate) async fn store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner, &mut dyn ReplicaStore) -> Result<T, ClientError> + Send + 'static,
    ) -> Result<T, ClientError> {
        let (inner, turn) = (Arc::clone(&self.inner), Arc::clone(&self.turn));
        let done = self.inner.environment().blocking(move || {
            let _turn = turn;
            let mut store = lock(&inner.store);
            work(&inner, &mut **store)
        });
        done.await
    }

    pub(crate) async fn meta(&self) -> Result<Meta, ClientError> {
        self.store(|_, store| Ok(store.meta().clone())).await
    }

    // Pushing.

    async fn flush(&mut self) -> Result<(), ClientError> {
        if self.meta().await?.copied {
            // What the same replica wrote after the export is told before anything is sent.
            self.pull().await?;
        }
        let mut cycle = FlushCycle::default();
        let mut epochs = 0;
        let counts = self.store(|_, store| store.counts()).await?;
        self.inner.advance(|progress| progress.to_push = counts.pending);
        loop {
            let at_most = cycle.at_most();
            let pending = self.store(move |_, store| store.pending(at_most)).await?;
            if pending.is_empty() {
                return Ok(());
            }
            let batch = cycle.batch(pending).map_err(Self::flush_error)?;
            let client_id = batch[0].replica_id.clone();
            let request = PushRequest { client_id, operations: batch };
            let answer = match self.inner.transport.push(&request).await {
                Ok(answer) => answer,
                Err(TransportError::TooLarge(_)) if cycle.too_large(request.operations.len()) => {
                    continue;
                }
                Err(TransportError::TooLarge(_)) => {
                    let refused =
                        unsendable(&request.operations[0], "the operation is too large to push");
                    self.commit(refused).await?;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            self.report.pushes += 1;
            match cycle.results(&request.operations, &answer) {
                Ok(FlushStep::Commit(commit)) => epochs += u32::from(self.commit(commit).await?),
                Ok(FlushStep::Recover { commit, last_write_id }) => {
                    if let Some(commit) = commit {
                        epochs += u32::from(self.commit(commit).await?);
                    }
                    self.recover(&mut cycle, last_write_id).await?;
                }
                Err(error) => return Err(Self::flush_error(error)),
            }
            if epochs > 1 {
                // Each queues again what the one before took: the next flush continues.
                return Ok(());
            }
        }
    }

    /// Pulls, and rebases above the greatest write id that the server has of this replica.
    async fn recover(
        &mut self,
        cycle: &mut FlushCycle,
        told: Option<WriteId>,
    ) -> Result<(), ClientError> {
        self.pull().await?;
        let (own, head) = self
            .store(|_, store| {
                let head = store.before_rebase()?;
                Ok((own_write_id(store.meta()), head))
            })
            .await?;
        if let (Some(last), Some(head)) = (told.max(own), head) {
            cycle.recover(head, last);
        }
        Ok(())
    }

    fn flush_error(error: FlushError) -> ClientError {
        match error {
            FlushError::Violation(violation) => ClientError::Violation(violation),
            FlushError::WriteIdsUsedUp => ClientError::Invalid(error.to_string()),
            FlushError::Malformed(malformed) => TransportError::MalformedResponse {
                call: "push",
                field: malformed.field,
                reason: malformed.reason,
            }
            .into(),
        }
    }

    /// Gives whether another epoch than the last one answered.
    async fn commit(&mut self, commit: FlushCommit) -> Result<bool, ClientError> {
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let applied = commit.acknowledged.len();
        let (outdated, rejected, another) = self
            .store(move |inner, store| {
                let before = store.meta().epoch;
                let events = store.commit_flush(&commit)?;
                let another = before.is_some() && store.meta().epoch != before;
                let outdated = |event: &&ChangeEvent| matches!(event, ChangeEvent::Outdated { .. });
                let rejected = |event: &&ChangeEvent| matches!(event, ChangeEvent::Rejected { .. });
                let outdated = events.iter().filter(outdated).count();
                let rejected = events.iter().filter(rejected).count();
                inner.emit(events);
                Ok((outdated, rejected, another))
            })
            .await?;
        self.report.applied += count(applied);
        self.report.outdated += count(outdated);
        self.report.rejected += count(rejected);
        let done = applied + outdated + rejected;
        self.inner.advance(|progress| {
            progress.pushed += count(done);
            progress.to_push = progress.to_push.saturating_sub(count(done));
        });
        Ok(another)
    }

    // Pulling.

    async fn page(&self, cycle: &PullCycle, meta: &Meta) -> Result<PullPage, ClientError> {
        let query = PullQuery {
            client_id: meta.client_id.clone(),
            cursor: cycle.cursor().cloned(),
            baseline: cycle.baseline().cloned(),
            head: cycle.head().cloned(),
            limit: self.inner.config.page_limit,
        };
        match self.inner.transport.pull(&query).await {
            Err(TransportError::RematerializationRequired { oldest_available, .. }) => {
                let requested = query.cursor;
                let violation =
                    Violation::RematerializationRequired { requested, oldest_available };
                Err(violation.into())
            }
            other => {
                let page = other?;
                within_bounds(&page)?;
                Epoch::check(cycle.epoch(), page.epoch)
                    .map_err(|earlier| TransportError::earlier_epoch("pull", &earlier))?;
                Ok(page)
            }
        }
    }

    /// The next page, checked.
    async fn checked(&self, cycle: &mut PullCycle, meta: &Meta) -> Result<PageCommit, ClientError> {
        let page = self.page(cycle, meta).await?;
        Ok(cycle.page(page)?)
    }

    async fn apply(&self, slot: Slot, commit: PageCommit) -> Result<(), ClientError> {
        let events = self.inner.has_subscribers();
        self.store(move |inner, store| {
            inner.emit(store.apply_page(slot, commit, events)?);
            Ok(())
        })
        .await
    }

    /// Pulls pages into a slot until settled; while one is applied the next is on its way and
    /// checked. Returns the map and the epoch of the last page.
    async fn pull_into(
        &mut self,
        slot: Slot,
        cycle: &mut PullCycle,
        meta: &Meta,
    ) -> Result<(WriteIds, Option<Epoch>), ClientError> {
        let mut commit = self.checked(cycle, meta).await?;
        loop {
            self.report.pages += 1;
            let entries = u64::try_from(commit.entries.len()).unwrap_or(u64::MAX);
            let (settled, epoch) = (commit.settled.clone(), commit.epoch);
            let next = if settled.is_some() {
                self.apply(slot, commit).await?;
                None
            } else {
                let (applied, next) =
                    tokio::join!(self.apply(slot, commit), self.checked(cycle, meta));
                applied?;
                Some(next)
            };
            self.report.pulled += entries;
            self.inner.advance(|progress| progress.pulled += entries);
            match (settled, next) {
                (_, Some(next)) => commit = next?,
                (settled, None) => return Ok((settled.unwrap_or_default(), epoch)),
            }
        }
    }

    async fn pull(&mut self) -> Result<(), ClientError> {
        let meta = self.meta().await?;
        let mut cycle =
            PullCycle::new(meta.cursor.clone(), meta.baseline.clone(), (*meta.floor).clone())
                .in_epoch(meta.epoch)
                .seen_through(meta.head.clone());
        self.pull_into(Slot::Current, &mut cycle, &meta).await?;
        self.forget_contents().await
    }

    /// Removes the bytes of what went from the cache. What a crash leaves is removed the next time.
    async fn forget_contents(&self) -> Result<(), ClientError> {
        loop {
            let forgotten = self.store(|inner, store| {
                let going = store.forgettable(FORGOTTEN_AT_ONCE)?;
                if !going.is_empty() {
                    inner.cache.remove(&going);
                    store.forgot(&going)?;
                }
                Ok(going.is_empty())
            });
            if forgotten.await? {
                return Ok(());
            }
        }
    }

    pub(crate) async fn pull_and_reconcile(&mut self) -> Result<(), ClientError> {
        self.pull().await?;
        self.reconcile(false).await
    }

    /// Reports to the server what was applied, unless it has acknowledged that; `again` reports anyway.
    pub(crate) async fn reconcile(&mut self, again: bool) -> Result<(), ClientError> {
        let mut retried = false;
        loop {
            let meta = self.meta().await?;
            let Some(settled) = meta.settled.clone() else { return Ok(()) };
            if meta.reconciled.as_ref() == Some(&settled) && !again {
                return Ok(());
            }
            let sent = reconcile::request(meta.client_id, &settled);
            match self.inner.transport.reconcile(&sent).await {
                Ok(answer) if answer.client_id != sent.client_id => {
                    return Err(TransportError::MalformedResponse {
                        call: "reconcile",
                        field: "clientId".into(),
                        reason: "is not the client's".into(),
                    }
                    .into());
                }
                Ok(answer) => {
                    reconcile::check(&sent, &answer)?;
                    let state: ReconcileState = (*settled).clone();
                    return self.store(move |_, store| store.set_reconciled(state)).await;
                }
                Err(TransportError::WriteIdsAhead { .. }) if !retried => {
                    retried = true;
                    self.pull().await?;
                }
                Err(TransportError::RematerializationRequired { oldest_available, .. }) => {
                    let requested = Some(sent.cursor);
                    let violation =
                        Violation::RematerializationRequired { requested, oldest_available };
                    return Err(violation.into());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    // Starting over.

    async fn rematerialise(&mut self) -> Result<(), ClientError> {
        for _ in 0..REBUILDS {
            self.store(|_, store| store.begin_rebuild()).await?;
            let meta = self.meta().await?;
            let mut cycle = PullCycle::new(None, None, WriteIds::new());
            let (settled, epoch) = self.pull_into(Slot::Building, &mut cycle, &meta).await?;
            let Some(history) = self.history(&meta, &cycle, epoch).await? else {
                continue;
            };
            let rebuilt = Rebuilt {
                cursor: cycle.cursor().cloned(),
                baseline: cycle.baseline().cloned(),
                epoch,
                floor: settled.clone(),
                settled,
                history,
            };
            let offered = self
                .store(move |inner, store| {
                    let has_bytes = |blob_id: &_, size| inner.cache.has(blob_id, size);
                    let environment = inner.environment();
                    let offered =
                        store.swap(rebuilt, &Offering { environment, has_bytes: &has_bytes })?;
                    let news = offered != Offered::default();
                    inner.emit(news.then_some(ChangeEvent::Offered(offered)));
                    inner.emit([ChangeEvent::Rebuilt]);
                    Ok(offered)
                })
                .await?;
            self.report.rematerialised = true;
            self.report.offered.add(offered);
            self.forget_contents().await?;
            return self.reconcile(false).await;
        }
        Err(ClientError::RestoredDuringRebuild)
    }

    /// Asks what of the replica's history the server has, once the pages of a rebuild are there.
    /// Returns `None` if these are of a history that has ended since.
    async fn history(
        &self,
        meta: &Meta,
        rebuilt: &PullCycle,
        epoch: Option<Epoch>,
    ) -> Result<Option<History>, ClientError> {
        let query = PullQuery {
            client_id: meta.client_id.clone(),
            cursor: meta.cursor.clone(),
            baseline: meta.baseline.clone(),
            // All that was applied is of positions up to the cursor.
            head: None,
            limit: 1,
        };
        if query.cursor.is_none() {
            return Ok(Some(History::Served));
        }
        match self.inner.transport.pull(&query).await {
            Ok(page) => {
                let same = page.epoch.is_none() || epoch.is_none() || page.epoch == epoch;
                Ok(same.then_some(History::Served))
            }
            Err(TransportError::RematerializationRequired {
                oldest_available, history, ..
            }) => {
                let Some(history) = history else {
                    return Ok(Some(History::Unknown { oldest_available }));
                };
                let at = rebuilt.cursor().and_then(|cursor| Position::parse(&cursor.change_id));
                let goes_on = at.is_none_or(|at| {
                    let of_epoch = history.iter().find(|end| end.epoch == at.epoch);
                    of_epoch.is_some_and(|end| at.counter <= end.last_counter)
                });
                let epochs = history.iter().map(|end| (end.epoch, end.last_counter)).collect();
                Ok(goes_on.then_some(History::Epochs(epochs)))
            }
            Err(error) => Err(error.into()),
        }
    }

    // What stays of an outcome.

    /// Keeps why it stopped, or that it no longer is. A network that is down is no reason.
    pub(crate) async fn note_outcome(
        &self,
        error: Option<&ClientError>,
    ) -> Result<(), ClientError> {
        let reason = match error {
            None => None,
            Some(error) => match stop_reason(error) {
                Some(reason) => Some(reason),
                None => return Ok(()),
            },
        };
        self.store(move |_, store| {
            let same = store.meta().stopped.as_deref() == reason.as_ref();
            if same { Ok(()) } else { store.set_stopped(reason) }
        })
        .await
    }
}

/// Returns the reason for which a failure pauses background work: it resumes once somebody has
/// renewed the token, made room, or repaired what is damaged.
pub(crate) fn pause_reason(error: &ClientError) -> Option<StopReason> {
    let ClientError::Transport(cause) = error else { return None };
    let (signature, details) = match cause {
        TransportError::Unauthorized(_) => (code::UNAUTHORIZED, "{}".to_owned()),
        TransportError::Refused { code, details, .. } if cause.waits() => {
            (&**code, serde_json::Value::Object(details.clone()).to_string())
        }
        _ => return None,
    };
    let (signature, message) = (signature.to_owned(), error.to_string());
    Some(StopReason { signature, message, details, oldest_available: None })
}

/// Returns the reason for which a failure stops background work; `None` if a retry may succeed.
pub(crate) fn stop_reason(error: &ClientError) -> Option<StopReason> {
    let message = error.to_string();
    let plain = |signature: &str| StopReason {
        signature: signature.to_owned(),
        message: message.clone(),
        details: "{}".into(),
        oldest_available: None,
    };
    match error {
        ClientError::Violation(violation) => {
            let oldest_available = match &**violation {
                Violation::RematerializationRequired { oldest_available, .. } => {
                    oldest_available.clone()
                }
                _ => None,
            };
            let details = serde_json::Value::Object(violation.details()).to_string();
            Some(StopReason { details, oldest_available, ..plain(&violation.signature()) })
        }
        ClientError::Transport(error) => match error {
            TransportError::Network { .. } => None,
            // Somebody renews the token, makes room or mends a row: it is tried again until then.
            TransportError::Unauthorized(_) => None,
            error if error.waits() => None,
            TransportError::WrongUser { .. } => Some(plain(code::WRONG_USER)),
            TransportError::WriteIdsAhead { .. } => Some(plain(code::WRITE_IDS_AHEAD)),
            TransportError::TooLarge(_) => Some(plain("too_large")),
            TransportError::RematerializationRequired { .. } => {
                Some(plain(code::REMATERIALIZATION_REQUIRED))
            }
            TransportError::InvalidAddress(_) => Some(plain("invalid_address")),
            TransportError::Refused { code, .. } => Some(plain(code)),
            TransportError::MalformedResponse { .. } => Some(plain("malformedResponse")),
        },
        ClientError::Storage(_) | ClientError::Io { .. } => None,
        _ => Some(plain("client")),
    }
}

/// A page larger than the protocol allows is none of its pages: no client's memory follows what a
/// server chooses to send.
fn within_bounds(page: &PullPage) -> Result<(), TransportError> {
    let bounds = [
        ("items", page.items.len(), MAX_PULL_LIMIT as usize),
        ("lastReconciledWriteIds", page.last_reconciled_write_ids.len(), MAX_WRITE_ID_ENTRIES),
    ];
    for (field, len, at_most) in bounds {
        if len > at_most {
            let reason = format!("has {len} entries, at most {at_most} are allowed");
            return Err(TransportError::MalformedResponse {
                call: "pull",
                field: field.into(),
                reason,
            });
        }
    }
    Ok(())
}
