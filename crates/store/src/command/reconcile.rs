//! The reconcile: a client's progress, merged into its stored state.

use std::collections::BTreeSet;

use vfs_sync_core::id::{ReplicaId, UserId};
use vfs_sync_core::limits::MAX_WRITE_ID_ENTRIES;
use vfs_sync_core::server::feed_window::History;
use vfs_sync_core::wire::{ReconcileState, WriteIds};

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
                return Ok(ReconcileAnswer::Rematerialize {
                    oldest_available: history.as_ref().and_then(History::pruned_cursor),
                    history: history.map(|history| history.ends()).unwrap_or_default(),
                });
            }
        }
        let mut merged = ReconcileState {
            cursor: request.cursor.clone(),
            last_reconciled_write_ids: request.last_reconciled_write_ids.clone(),
        };
        let named: BTreeSet<ReplicaId> = merged.last_reconciled_write_ids.keys().cloned().collect();
        let known = tx.replicas(user, &named).await?;
        // A replica that is known no longer, or never was, has nothing to be behind of.
        merged.last_reconciled_write_ids.retain(|replica, _| known.contains_key(replica));
        for (replica_id, sent) in &merged.last_reconciled_write_ids {
            let last = known.get(replica_id).map(|row| row.last_write_id);
            if Some(*sent) > last {
                let replica_id = replica_id.clone();
                return Ok(ReconcileAnswer::WriteIdsAhead { replica_id, sent: *sent, last });
            }
        }
        if let Some(stored) = &stored {
            merged.cursor = merged.cursor.max(stored.cursor.clone());
            for (replica, write_id) in &stored.last_reconciled_write_ids {
                let slot =
                    merged.last_reconciled_write_ids.entry(replica.clone()).or_insert(*write_id);
                *slot = (*slot).max(*write_id);
            }
        }
        if merged.last_reconciled_write_ids.len() > MAX_WRITE_ID_ENTRIES {
            keep_most_active(tx, user, &mut merged.last_reconciled_write_ids).await?;
        }
        if stored.as_ref() != Some(&merged) {
            let new = stored.is_none();
            tx.write_reconcile_state(user, &request.client_id, &merged, new).await?;
        }
        tx.touch_replica(user, &request.client_id, now).await?;
        Ok(ReconcileAnswer::Merged(merged))
    }
}

/// Drops the entries of the least recently active replicas, down to the limit.
async fn keep_most_active<T: Topics>(
    tx: &mut T,
    user: &UserId,
    write_ids: &mut WriteIds,
) -> Result<()> {
    let all: BTreeSet<ReplicaId> = write_ids.keys().cloned().collect();
    let rows = tx.replicas(user, &all).await?;
    let mut by_activity: Vec<_> = all
        .into_iter()
        .map(|replica| (rows.get(&replica).map(|row| row.last_seen), replica))
        .collect();
    by_activity.sort_by(|a, b| b.cmp(a));
    for (_, replica) in by_activity.drain(MAX_WRITE_ID_ENTRIES..) {
        write_ids.remove(&replica);
    }
    Ok(())
}
