//! Reports the applied state to the server.

use vfs_sync_core::client::reconcile;
use vfs_sync_core::cursor::Epoch;
use vfs_sync_core::guardrail::Violation;
use vfs_sync_core::wire::ReconcileState;

use super::session::Session;
use crate::error::Result;
use crate::transport::{TransportError, TransportExt as _};

impl Session {
    /// Reports the applied state to the server, unless the server has already acknowledged it; with
    /// `again` it reports in any case.
    pub(crate) async fn reconcile(&mut self, again: bool) -> Result<()> {
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
                Err(TransportError::RematerializationRequired {
                    oldest_available, epoch, ..
                }) => {
                    Epoch::check(meta.epoch, epoch)
                        .map_err(|earlier| TransportError::earlier_epoch("reconcile", &earlier))?;
                    self.inner.description.saw(epoch);
                    let requested = Some(sent.cursor);
                    let violation =
                        Violation::RematerializationRequired { requested, oldest_available };
                    return Err(violation.into());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}
