//! Rebuilds the replica from the server's state.

use vfs_sync_core::client::offer::Offered;
use vfs_sync_core::client::pull::PullCycle;
use vfs_sync_core::cursor::{Epoch, Position};
use vfs_sync_core::wire::WriteIds;

use super::session::Session;
use crate::error::{ClientError, Result};
use crate::event::ChangeEvent;
use crate::replica::{History, Meta, Offering, Rebuilt, Slot};
use crate::transport::{PullQuery, TransportError, TransportExt as _};

/// The number of rebuilds before giving up, if the server is restored during each.
const REBUILDS: usize = 3;

impl Session {
    pub(super) async fn rematerialise(&mut self) -> Result<()> {
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

    /// Asks which part of the replica's history the server has, once the pages of a rebuild are
    /// received. Returns `None` if the pages belong to a history that has ended since.
    async fn history(
        &self,
        meta: &Meta,
        rebuilt: &PullCycle,
        epoch: Option<Epoch>,
    ) -> Result<Option<History>> {
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
}
