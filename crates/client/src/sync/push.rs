//! Pushes the queue to the server.

use vfs_sync_core::client::flush::{FlushCommit, FlushCycle, FlushError, FlushStep};
use vfs_sync_core::id::WriteId;
use vfs_sync_core::wire::PushRequest;

use super::session::Session;
use crate::client::Inner;
use crate::error::{ClientError, Result};
use crate::event::ChangeEvent;
use crate::replica::{ReplicaStore, own_write_id, unsendable};
use crate::transport::{TransportError, TransportExt as _};

/// The nature of an answer to a push, beside its results.
#[derive(Default)]
struct Committed {
    /// True if it came from another epoch than the last one.
    another: bool,
    /// True if it rejected operations that stay in the queue until a pull has settled.
    withheld: bool,
}

impl Session {
    pub(super) async fn flush(&mut self) -> Result<()> {
        if self.meta().await?.copied {
            // The client must know the changes that the same replica made after the export before
            // it sends any.
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
                let release = |inner: &Inner, store: &mut ReplicaStore| {
                    store.release_moves(inner.environment().now())
                };
                if self.store(release).await? {
                    continue;
                }
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
            let mut committed = Committed::default();
            match cycle.results(&request.operations, &answer) {
                Ok(FlushStep::Commit(commit)) => committed = self.commit(commit).await?,
                Ok(FlushStep::Recover { commit, last_write_id }) => {
                    if let Some(commit) = commit {
                        committed = self.commit(commit).await?;
                    }
                    if !self.renumbers {
                        let text = "the server calls write ids of this replica stale, and this attempt \
                                    renumbers none";
                        return Err(ClientError::Invalid(text.into()));
                    }
                    self.recover(&mut cycle, last_write_id).await?;
                    // It has pulled.
                    committed.withheld = false;
                }
                Err(error) => return Err(Self::flush_error(error)),
            }
            epochs += u32::from(committed.another);
            if epochs > 1 {
                // Each epoch queues again the operations that the previous one accepted: the next
                // flush continues.
                return Ok(());
            }
            if committed.withheld {
                self.pull().await?;
                cycle = FlushCycle::default();
            }
        }
    }

    /// Pulls, and rebases the queue above the greatest write id that the server has of this
    /// replica.
    async fn recover(&mut self, cycle: &mut FlushCycle, told: Option<WriteId>) -> Result<()> {
        self.pull().await?;
        let (own, rebase) = self
            .store(|_, store| {
                let rebase = store.rebase()?;
                Ok((own_write_id(store.meta()), rebase))
            })
            .await?;
        if let (Some(last), Some((head, times))) = (told.max(own), rebase) {
            cycle.recover(head, last, times);
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

    /// Commits the results of a push.
    async fn commit(&mut self, commit: FlushCommit) -> Result<Committed> {
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let applied = commit.acknowledged.len();
        let (outdated, rejected, committed) = self
            .store(move |inner, store| {
                let before = store.meta().epoch;
                let events = store.commit_flush(&commit)?;
                let another = before.is_some() && store.meta().epoch != before;
                inner.description.saw(store.meta().epoch);
                let withheld = store.meta().unsettled && !commit.rejected.is_empty();
                let outdated = |event: &&ChangeEvent| matches!(event, ChangeEvent::Outdated { .. });
                let rejected = |event: &&ChangeEvent| matches!(event, ChangeEvent::Rejected { .. });
                let outdated = events.iter().filter(outdated).count();
                let rejected = events.iter().filter(rejected).count();
                inner.emit(events);
                Ok((outdated, rejected, Committed { another, withheld }))
            })
            .await?;
        self.committed.pushes += 1;
        self.report.applied += count(applied);
        self.report.outdated += count(outdated);
        self.report.rejected += count(rejected);
        let done = applied + outdated + rejected;
        self.inner.advance(|progress| {
            progress.pushed += count(done);
            progress.to_push = progress.to_push.saturating_sub(count(done));
        });
        Ok(committed)
    }
}
