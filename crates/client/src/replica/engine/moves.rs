//! Moves into another owner's tree: the deletions of the originals are held until the server has the copy
//! with all its contents, so that a content is in one of the two at any time.

use vfs_sync_core::id::{ItemId, WriteId};
use vfs_sync_core::operation::{Action, Operation};
use vfs_sync_core::time::Timestamp;

use super::tops::refresh_affected;
use crate::api::node::QueuedState;
use crate::event::ChangeEvent;
use crate::replica::edits::used_up;
use crate::replica::rows::{Result, Rows};
use crate::replica::store::{Meta, MoveId, Upload, UploadState};

/// Queues the deletions of the moves whose copies the server has. Each keeps the basis that it was made
/// with: what somebody changed since lives on. Returns whether there was any.
pub(super) fn release<R: Rows>(rows: &mut R, meta: &mut Meta, now: Timestamp) -> Result<bool> {
    let mut any = false;
    for moved in rows.held_moves()? {
        if rows.is_moving(&moved)? {
            continue;
        }
        for op in rows.held_of(&moved)? {
            rows.remove_queued(&op.op_id)?;
            let write_id = WriteId::new(meta.next_write_id).ok_or_else(used_up)?;
            meta.next_write_id += 1;
            let op = Operation { write_id, occurred_at: meta.clock.stamp(now), ..op };
            rows.push_queue_of(&moved, &op, QueuedState::Pending)?;
            any = true;
        }
    }
    Ok(any)
}

/// Takes the held deletions of a move off the queue, since a part of the copy was refused. Returns them.
pub(super) fn withdraw<R: Rows>(
    rows: &mut R,
    moved: &MoveId,
    events: &mut Vec<ChangeEvent>,
) -> Result<Vec<Operation>> {
    let held = rows.held_of(moved)?;
    for op in &held {
        rows.remove_queued(&op.op_id)?;
        events.push(ChangeEvent::NotMoved(op.item_id.clone()));
    }
    Ok(held)
}

/// Withdraws the deletions that wait for a content that was refused for good.
pub(super) fn withdraw_of_refused<R: Rows>(
    rows: &mut R,
    meta: &Meta,
    upload: &Upload,
    events: &mut Vec<ChangeEvent>,
) -> Result<()> {
    let Some(moved) = &upload.moved else { return Ok(()) };
    if upload.state != UploadState::Rejected {
        return Ok(());
    }
    let withdrawn = withdraw(rows, moved, events)?;
    refresh_affected(rows, &meta.user, &withdrawn)
}

/// Withdraws the move that still waits to delete `item`, if there is one: its originals stay.
pub(super) fn give_up<R: Rows>(
    rows: &mut R,
    meta: &Meta,
    item: &ItemId,
) -> Result<Vec<ChangeEvent>> {
    let mut events = Vec::new();
    let mut queued = rows.queue_of_item(item)?.into_iter();
    let held = queued
        .rfind(|one| one.state == QueuedState::Held && one.operation.action == Action::Delete);
    let Some(held) = held else { return Ok(events) };
    let Some(moved) = rows.move_of(&held.operation.op_id)? else { return Ok(events) };
    let withdrawn = withdraw(rows, &moved, &mut events)?;
    refresh_affected(rows, &meta.user, &withdrawn)?;
    Ok(events)
}
