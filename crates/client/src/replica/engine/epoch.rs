//! Enters another epoch of the server, and queues operations again for it.

use std::sync::Arc;

use vfs_sync_core::client::flush::FlushCommit;
use vfs_sync_core::cursor::Epoch;
use vfs_sync_core::id::WriteId;
use vfs_sync_core::operation::Operation;
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::WriteIds;

use crate::api::node::{QueuedOp, QueuedState};
use crate::replica::edits::used_up;
use crate::replica::rows::{Result, Rows};
use crate::replica::store::{Meta, NewTimes};
use crate::transport::TransportError;

/// The operations of this replica that a server has, as far as its answer shows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Had {
    /// The greatest write id that the answer shows as used.
    used: Option<WriteId>,
    /// True if the answer shows all used write ids.
    is_map: bool,
}

impl Had {
    /// Reads a page's map; `is_map` says whether it shows all used write ids.
    pub(super) fn of_map(map: Option<&WriteIds>, meta: &Meta, is_map: bool) -> Self {
        let used = map.and_then(|map| map.get(&meta.client_id)).copied();
        Self { used, is_map }
    }

    /// Reads the results of a push, which show only the operations of that push.
    pub(super) fn of_push(commit: &FlushCommit) -> Self {
        let applied = commit.acknowledged.iter().map(|one| one.write_id);
        let used = applied.chain(commit.outdated.iter().map(|one| one.write_id)).max();
        Self { used, is_map: false }
    }
}

/// Enters the epoch of a server's answer. Operations that were acknowledged in another epoch may be
/// missing from the restored database, so they are queued again. Returns whether there were any.
/// The visible state stays the same.
///
/// An operation that a map covers is present, with two exceptions: its write id was used again for
/// an operation whose answer was lost, or by a replica of which this one is an old copy.
pub(super) fn enter_epoch(
    rows: &mut dyn Rows,
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
    meta.unsettled |= meta.epoch.is_some();
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
    /// The server lacks all operations above `covered`. They are sent with the times that it gave
    /// them.
    Lacking { covered: Option<WriteId> },
    /// The server may have any of them, and knows each as it was sent; of the unacknowledged ones
    /// it has none above `used`.
    AsSent { used: Option<WriteId> },
}

/// Queues again the acknowledged operations that are not covered. Returns whether there were any.
pub(super) fn requeue(rows: &mut dyn Rows, meta: &mut Meta, again: Again) -> Result<bool> {
    let (covered, used, as_sent) = match again {
        Again::Lacking { covered } => (covered, covered, false),
        Again::AsSent { used } => (None, used, true),
    };
    let again = rows.unacknowledge(covered, as_sent)?;
    if again.is_empty() {
        return Ok(false);
    }
    let pending = pending(rows)?;
    if !pending.is_sorted_by(|a, b| a.operation.write_id < b.operation.write_id) {
        // One that the feed brought back kept its number while those before it got higher ones.
        renumber(rows, meta, |_| true)?;
        return Ok(true);
    }
    let lacks =
        |op: &Operation| Some(op.write_id) > used && !(as_sent && again.contains(&op.op_id));
    keep_order(rows, &pending, lacks)?;
    Ok(true)
}

fn pending(rows: &mut dyn Rows) -> Result<Vec<QueuedOp>> {
    let mut pending = rows.queue(usize::MAX)?;
    pending.retain(|one| one.state == QueuedState::Pending);
    Ok(pending)
}

/// Returns the pending operations that `which` accepts, and the times that some of them get with
/// other write ids, under which they are new to the server. What an earlier epoch acknowledged
/// takes the time that the server gave it: others may have seen it with that time and changed it
/// since, and their changes stay the later ones. Times never decrease along the queue.
pub(super) fn as_new(
    rows: &mut dyn Rows,
    which: impl Fn(&Operation) -> bool,
) -> Result<(Vec<QueuedOp>, NewTimes)> {
    let given = rows.given_times()?;
    let mut pending = pending(rows)?;
    pending.retain(|one| which(&one.operation));
    let (mut times, mut latest) = (NewTimes::new(), Timestamp::MIN);
    for op in pending.iter().map(|one| &one.operation) {
        let given = given.get(&op.op_id).copied();
        latest = given.unwrap_or(op.occurred_at).max(latest);
        if given.is_some() || latest != op.occurred_at {
            times.insert(op.op_id.clone(), latest);
        }
    }
    Ok((pending, times))
}

/// Gives new write ids to the pending operations that `which` accepts, in their order.
pub(in crate::replica) fn renumber(
    rows: &mut dyn Rows,
    meta: &mut Meta,
    which: impl Fn(&Operation) -> bool,
) -> Result<()> {
    let (pending, times) = as_new(rows, which)?;
    for (op_id, at) in times {
        rows.restamp(&op_id, at)?;
    }
    for one in pending {
        let write_id = WriteId::new(meta.next_write_id).ok_or_else(used_up)?;
        rows.renumber(&one.operation.op_id, write_id)?;
        meta.next_write_id += 1;
    }
    Ok(())
}

/// Restamps pending operations so that their times never decrease along the queue: an acknowledged
/// operation took the server's time, while those before it, whose answer was lost, did not.
/// Operations that the server may have keep the times with which they were sent; only those that it
/// `lacks` are restamped.
fn keep_order(
    rows: &mut dyn Rows,
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
