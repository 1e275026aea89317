//! Retention, repair, epochs, and queries about the database as a whole.

use super::{
    NewEpoch, Ping, PruneAccepted, PruneRemovals, ReadIdentity, ReadTotals, RepairReconcileStates,
    one_call,
};

one_call! {
    PruneRemovals: |tx, it| tx.prune_removals(&it.retention);
    PruneAccepted: |tx, it| tx.prune_accepted(&it.retention);
    RepairReconcileStates: |tx, it| tx.repair_reconcile_states(it.user.as_ref(), it.dry_run);
    NewEpoch: |tx, it| tx.begin_epoch(it.now, it.chance);
    ReadIdentity: |tx, _it| tx.identity();
    Ping: |tx, _it| tx.ping();
    ReadTotals: |tx, _it| tx.totals();
}
