//! Retention, repair, epochs, and facts about the database as a whole.

use vfs_sync_core::time::Timestamp;

use super::{
    Counts, NewEpoch, Ping, PruneAccepted, PruneRemovals, ReadIdentity, RepairReconcileStates,
    one_call,
};
use crate::topics::{Feeds as _, Maintenance as _, Replicas as _};

/// A stored reconcile state that is not of the form that this version writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MalformedState {
    /// The user that it is of.
    pub user: String,
    /// The key that it is stored under: `crdt:<clientId>`.
    pub key: String,
    /// The column that is malformed, and how.
    pub reason: String,
}

/// What tells a database from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Made with the database.
    pub id: String,
    /// Whether nobody has ever written to it.
    pub is_empty: bool,
}

/// What retention removes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Removals told before this moment leave the feeds.
    pub removals_before: Timestamp,
    /// Operations accepted before this moment leave the audit trail.
    pub accepted_before: Timestamp,
    /// At most so many rows of each kind in one call, so that no lock is held for long.
    pub at_most: u32,
}

/// What retention removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pruned {
    /// Feed entries.
    pub removals: u64,
    /// Accepted operations.
    pub accepted: u64,
}

one_call! {
    PruneRemovals: |tx, it| tx.prune_removals(&it.retention);
    PruneAccepted: |tx, it| tx.prune_accepted(&it.retention);
    RepairReconcileStates: |tx, it| tx.repair_reconcile_states(it.user.as_ref(), it.dry_run);
    NewEpoch: |tx, it| tx.begin_epoch(it.now, it.chance);
    ReadIdentity: |tx, _it| tx.identity();
    Ping: |tx, _it| tx.ping();
    Counts: |tx, _it| tx.counts();
}
