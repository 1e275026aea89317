//! The entry into another epoch of the server, and what is queued again for it.

use std::sync::Arc;

use vfs_sync_core::client::flush::FlushCommit;
use vfs_sync_core::cursor::Epoch;
use vfs_sync_core::id::WriteId;
use vfs_sync_core::operation::Operation;
use vfs_sync_core::wire::WriteIds;

use crate::api::node::{QueuedOp, QueuedState};
use crate::replica::edits::used_up;
use crate::replica::rows::{Result, Rows};
use crate::replica::store::Meta;
use crate::transport::TransportError;

/// The operations of this replica that a server has, as far as its answer tells.
#[derive(Debug, Clone, Copy)]
pub(super) struct Had {
    /// The greatest write id that the answer shows to be used.
    used: Option<WriteId>,
    /// The answer shows all that are used.
    is_map: bool,
}

impl Had {
    /// Reads a page's map, which decides as one only if `is_map`.
    pub(super) fn of_map(map: Option<&WriteIds>, meta: &Meta, is_map: bool) -> Self {
        let used = map.and_then(|map| map.get(&meta.client_id)).copied();
        Self { used, is_map }
    }

    /// Reads the results of a push, which tell of no other operation than those that it had.
    pub(super) fn of_push(commit: &FlushCommit) -> Self {
        let applied = commit.acknowledged.iter().map(|one| one.write_id);
        let used = applied.chain(commit.outdated.iter().map(|one| one.write_id)).max();
        Self { used, is_map: false }
    }
}

/// Enters the epoch that an answer of the server told. What was acknowledged in another one may be in
/// none of its backups: it is queued again. Returns whether there was any. What is shown stays the same.
///
/// What a map covers is there, unless its number was used since for one whose answer was lost, or by
/// the replica that this one is an old copy of.
pub(super) fn enter_epoch<R: Rows>(
    rows: &mut R,
    meta: &mut Meta,
    call: &'static str,
    told: Option<Epoch>,
    had: Had,
) -> Result<bool> {
    Epoch::check(meta.epoch, told)
        .map_err(|earlier| TransportError::earlier_epoch(call, &earlier))?;
    if told.is_none() || meta.epoch == told {
        return Ok(false);
    }
    meta.epoch = told;
    meta.floor = Arc::default();
    let first = rows.pending(1)?.pop().map(|(op, _)| op.write_id);
    let apart = !meta.copied && had.used.is_none_or(|used| first.is_none_or(|first| first > used));
    // So is what it attached, unless the feed has shown it.
    rows.reset_uploads()?;
    let again = match had.used {
        covered if had.is_map && apart => Again::Lacking { covered },
        used => Again::AsSent { used },
    };
    requeue(rows, meta, again)
}

/// The way in which acknowledged operations are queued again.
#[derive(Debug, Clone, Copy)]
pub(super) enum Again {
    /// The server lacks all above `covered`. They take the time that it gave them.
    Lacking { covered: Option<WriteId> },
    /// The server may have any of them, and knows each by what was sent; of what was not acknowledged it
    /// has none above `used`.
    AsSent { used: Option<WriteId> },
}

/// Queues again what was acknowledged, and is not covered. Returns whether there was any.
pub(super) fn requeue<R: Rows>(rows: &mut R, meta: &mut Meta, again: Again) -> Result<bool> {
    let (covered, used, as_sent) = match again {
        Again::Lacking { covered } => (covered, covered, false),
        Again::AsSent { used } => (None, used, true),
    };
    let again = rows.unacknowledge(covered, as_sent)?;
    if again.is_empty() {
        return Ok(false);
    }
    let mut pending = rows.queue(usize::MAX)?;
    pending.retain(|one| one.state == QueuedState::Pending);
    let lacks =
        |op: &Operation| Some(op.write_id) > used && !(as_sent && again.contains(&op.op_id));
    keep_order(rows, &pending, lacks)?;
    let rises = pending.is_sorted_by(|a, b| a.operation.write_id < b.operation.write_id);
    if !rises {
        // One that the feed brought back kept its number while those before it got higher ones.
        for one in pending {
            let write_id = WriteId::new(meta.next_write_id).ok_or_else(used_up)?;
            rows.renumber(&one.operation.op_id, write_id)?;
            meta.next_write_id += 1;
        }
    }
    Ok(true)
}

/// Gives what is pending no earlier a time than what is before it in the queue: one that was acknowledged
/// took the server's time, those before it, whose answer was lost, did not. What the server may have keeps
/// the time that it was sent with: only those that it `lacks` are given another.
pub(super) fn keep_order<R: Rows>(
    rows: &mut R,
    pending: &[QueuedOp],
    lacks: impl Fn(&Operation) -> bool,
) -> Result<()> {
    let mut latest = None;
    for op in pending.iter().map(|one| &one.operation) {
        match latest {
            Some(latest) if op.occurred_at < latest => {
                if lacks(op) {
                    rows.restamp(&op.op_id, latest)?;
                }
            }
            _ => latest = Some(op.occurred_at),
        }
    }
    Ok(())
}
