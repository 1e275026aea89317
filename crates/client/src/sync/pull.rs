//! Pulls pages of the feed.

use vfs_sync_core::client::pull::{PageCommit, PullCycle};
use vfs_sync_core::cursor::Epoch;
use vfs_sync_core::guardrail::Violation;
use vfs_sync_core::limits::{MAX_PULL_LIMIT, MAX_WRITE_ID_ENTRIES};
use vfs_sync_core::wire::{PullPage, WriteIds};

use super::session::Session;
use crate::error::Result;
use crate::replica::{Meta, Slot};
use crate::transport::{PullQuery, TransportError, TransportExt as _};

/// The number of contents that leave the cache in one transaction.
const FORGOTTEN_AT_ONCE: usize = 500;

impl Session {
    async fn page(&self, cycle: &PullCycle, meta: &Meta) -> Result<PullPage> {
        let query = PullQuery {
            client_id: meta.client_id.clone(),
            cursor: cycle.cursor().cloned(),
            baseline: cycle.baseline().cloned(),
            head: cycle.head().cloned(),
            limit: self.inner.config.page_limit,
        };
        match self.inner.transport.pull(&query).await {
            Err(TransportError::RematerializationRequired { oldest_available, epoch, .. }) => {
                self.enter(cycle, epoch)?;
                let requested = query.cursor;
                let violation =
                    Violation::RematerializationRequired { requested, oldest_available };
                Err(violation.into())
            }
            other => {
                let page = other?;
                within_bounds(&page)?;
                self.enter(cycle, page.epoch)?;
                Ok(page)
            }
        }
    }

    /// Checks the epoch of an answer, and has the requests from now on name it: whoever serves an
    /// earlier one then does not answer.
    fn enter(&self, cycle: &PullCycle, told: Option<Epoch>) -> Result<()> {
        Epoch::check(cycle.epoch(), told)
            .map_err(|earlier| TransportError::earlier_epoch("pull", &earlier))?;
        self.inner.description.saw(told);
        Ok(())
    }

    /// Pulls and checks the next page.
    async fn checked(&self, cycle: &mut PullCycle, meta: &Meta) -> Result<PageCommit> {
        let page = self.page(cycle, meta).await?;
        Ok(cycle.page(page)?)
    }

    async fn apply(&self, slot: Slot, commit: PageCommit) -> Result<()> {
        let events = self.inner.has_subscribers();
        self.store(move |inner, store| {
            inner.emit(store.apply_page(slot, commit, events)?);
            Ok(())
        })
        .await
    }

    /// Pulls pages into a slot until settled; the next page is pulled and checked while one is
    /// applied. Returns the map and the epoch of the last page.
    pub(super) async fn pull_into(
        &mut self,
        slot: Slot,
        cycle: &mut PullCycle,
        meta: &Meta,
    ) -> Result<(WriteIds, Option<Epoch>)> {
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
            self.committed.pages += 1;
            self.report.pulled += entries;
            self.inner.advance(|progress| progress.pulled += entries);
            match (settled, next) {
                (_, Some(next)) => commit = next?,
                (settled, None) => return Ok((settled.unwrap_or_default(), epoch)),
            }
        }
    }

    pub(super) async fn pull(&mut self) -> Result<()> {
        let meta = self.meta().await?;
        let mut cycle =
            PullCycle::new(meta.cursor.clone(), meta.baseline.clone(), (*meta.floor).clone())
                .in_epoch(meta.epoch)
                .seen_through(meta.head.clone());
        self.pull_into(Slot::Current, &mut cycle, &meta).await?;
        self.forget_contents().await
    }

    /// Removes the bytes of removed contents from the cache. After a crash, the next call removes
    /// the rest.
    pub(super) async fn forget_contents(&self) -> Result<()> {
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
}

/// Rejects a page larger than the protocol allows, so that the server does not determine the
/// client's memory use.
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
