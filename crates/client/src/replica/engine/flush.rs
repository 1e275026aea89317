//! Applies the results of a push: acknowledged operations, and rejected ones with the operations
//! that depend on them.

use std::collections::BTreeSet;

use vfs_sync_core::client::flush::FlushCommit;
use vfs_sync_core::id::{ItemId, OpId};
use vfs_sync_core::operation::{Action, Operation};
use vfs_sync_core::wire::PushReason;

use super::epoch::{Had, enter_epoch};
use super::moves;
use super::tops::refresh_affected;
use crate::api::node::{QueuedOp, QueuedState, RejectedOp};
use crate::api::record::{EntryRecord, EntryState};
use crate::event::ChangeEvent;
use crate::replica::rows::{Result, Rows};
use crate::replica::store::{Meta, Upload, UploadState};

/// The reason for rejecting the operations on an item whose creation was rejected.
const NOT_MADE: &str = "the server refused to create the item that this is for, or is under";

/// Applies the results of a push to the queue.
pub(super) fn commit_flush(
    rows: &mut dyn Rows,
    meta: &mut Meta,
    commit: &FlushCommit,
) -> Result<Vec<ChangeEvent>> {
    let (mut events, mut gone) = (Vec::new(), Vec::new());
    let mut not_made = BTreeSet::new();
    for (op_id, at) in &commit.times {
        rows.restamp(op_id, *at)?;
    }
    if commit.shift > 0 {
        rows.shift_pending(commit.shift)?;
        meta.next_write_id = meta.next_write_id.saturating_add(commit.shift);
    }
    let requeued = enter_epoch(rows, meta, "push", commit.epoch, Had::of_push(commit))?;
    // Operations queued again before them got new write ids; the server knows these by the write
    // ids with which they were sent.
    for one in &commit.acknowledged {
        rows.acknowledge(&one.op_id, one.write_id, one.authored_at)?;
    }
    for beaten in &commit.outdated {
        // The operation stays overlaid until a pull brings the newer write: the confirmed state may
        // be older than both.
        let Some(item_id) = rows.acknowledge(&beaten.op_id, beaten.write_id, commit.believed)?
        else {
            continue;
        };
        let (op_id, reason) = (beaten.op_id.clone(), beaten.reason);
        events.push(ChangeEvent::Outdated { op_id, item_id, reason });
    }
    // What the server refuses may rest on what it has lost, and is offered again once a pull has
    // shown that.
    let is_final = !requeued && !meta.unsettled;
    for refused in commit.rejected.iter().filter(|_| is_final) {
        let (reason, detail) = (refused.reason, refused.detail.clone());
        let Some(op) = reject(rows, &refused.op_id, reason, detail, &mut events, &mut gone)? else {
            continue;
        };
        if reason == Some(PushReason::NotPermitted) && is_creation(&op) {
            not_made.insert(op.item_id.clone());
        }
        gone.push(op);
    }
    if !not_made.is_empty() {
        gone.extend(reject_what_follows(rows, not_made, &mut events)?);
    }
    leave_alone(rows, gone.iter().map(|op| op.item_id.clone()).collect())?;
    refresh_affected(rows, &meta.user, &gone)?;
    if let Some(believed) = commit.believed {
        meta.clock.lower(believed, rows.latest_queued_stamp()?);
    }
    Ok(events)
}

/// Moves a queued operation to the list of rejected ones; returns it, if it is still queued. If it
/// is part of a move, the held operations of the move are added to `gone`.
fn reject(
    rows: &mut dyn Rows,
    op_id: &OpId,
    reason: Option<PushReason>,
    detail: Option<String>,
    events: &mut Vec<ChangeEvent>,
    gone: &mut Vec<Operation>,
) -> Result<Option<Operation>> {
    let moved = rows.move_of(op_id)?;
    let Some(operation) = rows.remove_queued(op_id)? else { return Ok(None) };
    events.push(ChangeEvent::Rejected {
        op_id: operation.op_id.clone(),
        item_id: operation.item_id.clone(),
        reason,
    });
    rows.push_rejected(&RejectedOp { operation: operation.clone(), reason, detail })?;
    if let Some(moved) = moved {
        gone.extend(moves::withdraw(rows, &moved, events)?);
    }
    Ok(Some(operation))
}

fn is_creation(op: &Operation) -> bool {
    matches!(&op.action, Action::Upsert(upsert) if upsert.object_type.is_some())
}

/// Rejects the queued operations and contents of items whose creation the server rejected.
/// Otherwise, if the id belongs to another user's item, they would change that item. Returns the
/// operations.
fn reject_what_follows(
    rows: &mut dyn Rows,
    mut not_made: BTreeSet<ItemId>,
    events: &mut Vec<ChangeEvent>,
) -> Result<Vec<Operation>> {
    let mut rejected = Vec::new();
    for QueuedOp { operation: op, state } in rows.queue(usize::MAX)? {
        let mut named = [Some(&op.item_id), op.parent()].into_iter().flatten();
        if state != QueuedState::Pending || !named.any(|id| not_made.contains(id)) {
            continue;
        }
        if is_creation(&op) {
            not_made.insert(op.item_id.clone());
        }
        let (reason, detail) = (Some(PushReason::NotPermitted), Some(NOT_MADE.to_owned()));
        let op = reject(rows, &op.op_id, reason, detail, events, &mut rejected)?;
        rejected.extend(op);
    }
    for item in &not_made {
        let mut uploads = rows.uploads_of_item(item)?;
        uploads.retain(|upload| upload.state == UploadState::Queued);
        // None of them replaces one of the others any more.
        let expected = uploads.first().and_then(|first| first.expected.clone());
        for upload in uploads {
            let (item_id, reason) = (item.clone(), NOT_MADE.to_owned());
            events.push(ChangeEvent::UploadRejected { item_id, reason: reason.clone() });
            let (state, reason, expected) = (UploadState::Rejected, Some(reason), expected.clone());
            rows.put_upload(&Upload { state, reason, expected, ..upload })?;
        }
    }
    leave_alone(rows, not_made)?;
    Ok(rejected)
}

/// Marks the directories' rows of these items as local after a rejection: the files on the disk may
/// be the only copy, and stay.
pub(super) fn leave_alone(rows: &mut dyn Rows, items: BTreeSet<ItemId>) -> Result<()> {
    if items.is_empty() || rows.directories()?.is_empty() {
        return Ok(());
    }
    for (directory, row) in rows.entries_of_items(&items)? {
        rows.put_entry(directory, &EntryRecord { state: EntryState::Local, ..row })?;
    }
    Ok(())
}
