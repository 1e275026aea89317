//! The reconcile: merges a client's progress into its stored state.

use std::collections::BTreeSet;

use vfs_sync_core::id::ReplicaId;
use vfs_sync_core::limits::{MAX_READER_STATES, MAX_WRITE_ID_ENTRIES};
use vfs_sync_core::server::feed_window::{History, Rematerialize};
use vfs_sync_core::server::reconcile::{self, WriteIdAhead};

use super::pull::history_of;
use super::{Command, Reconcile};
use crate::error::Result;
use crate::topics::Topics;
use crate::values::ReconcileAnswer;

impl Command for Reconcile {
    async fn run<T: Topics>(&self, tx: &mut T) -> Result<Self::Answer> {
        let Self { user, request, .. } = self;
        let now = self.now;
        let stored = tx.reconcile_state(user, &request.client_id).await?.transpose()?;
        let head = tx.head(user).await?;
        if head.is_none() || !History::told_by_head(head.as_ref(), [&request.cursor]) {
            let history = history_of(tx, user, head).await?;
            if !history.as_ref().is_some_and(|history| history.has(&request.cursor)) {
                let refused = history.map(|history| history.rematerialize()).unwrap_or_default();
                let refused = Rematerialize { epoch: Some(tx.epoch().await?), ..refused };
                return Ok(ReconcileAnswer::Rematerialize(refused));
            }
        }
        let named: BTreeSet<ReplicaId> =
            request.last_reconciled_write_ids.keys().cloned().collect();
        let known = tx.replicas(user, &named).await?;
        let last_of = |replica: &ReplicaId| known.get(replica).map(|row| row.last_write_id);
        let mut merged = match reconcile::merge(request, stored.as_ref(), last_of) {
            Ok(merged) => merged,
            Err(WriteIdAhead { replica_id, sent, last }) => {
                return Ok(ReconcileAnswer::WriteIdsAhead { replica_id, sent, last: Some(last) });
            }
        };
        let write_ids = &mut merged.last_reconciled_write_ids;
        if write_ids.len() > MAX_WRITE_ID_ENTRIES {
            let all: BTreeSet<ReplicaId> = write_ids.keys().cloned().collect();
            let rows = tx.replicas(user, &all).await?;
            let last_seen = |replica: &ReplicaId| rows.get(replica).map(|row| row.last_seen);
            reconcile::keep_most_active(write_ids, last_seen);
        }
        if stored.as_ref() != Some(&merged) {
            let new = stored.is_none();
            if new {
                tx.drop_reader_states(user, MAX_READER_STATES - 1).await?;
            }
            tx.write_reconcile_state(user, &request.client_id, &merged, new).await?;
        }
        tx.touch_replica(user, &request.client_id, now).await?;
        Ok(ReconcileAnswer::Merged(merged))
    }
}
