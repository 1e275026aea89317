//! Moves into another owner's tree. The deletions of the originals are held until the server has
//! the copy with all its contents, so that each content is in at least one of the two at any time.

use vfs_sync_core::id::{ItemId, WriteId};
use vfs_sync_core::operation::{Action, Operation};
use vfs_sync_core::time::Timestamp;

use super::tops::refresh_affected;
use crate::api::node::QueuedState;
use crate::event::ChangeEvent;
use crate::replica::edits::used_up;
use crate::replica::rows::{Result, Rows};
use crate::replica::store::{Meta, MoveId, Upload, UploadState};

/// Queues the deletions of the moves whose copies the server has. Each keeps its original basis, so
/// an item that somebody changed since stays. Returns whether there were any.
pub(super) fn release(rows: &mut dyn Rows, meta: &mut Meta, now: Timestamp) -> Result<bool> {
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

/// Withdraws the held deletions of a move, because a part of the copy was rejected. Returns them.
pub(super) fn withdraw(
    rows: &mut dyn Rows,
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

/// Withdraws the deletions that wait for a content that was rejected for good.
pub(super) fn withdraw_of_refused(
    rows: &mut dyn Rows,
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
pub(super) fn give_up(rows: &mut dyn Rows, meta: &Meta, item: &ItemId) -> Result<Vec<ChangeEvent>> {
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
