//! The transactions that add edits to the queue.

use std::collections::BTreeSet;

use vfs_sync_core::access::AccessLevel;
use vfs_sync_core::id::{ItemId, OpId};
use vfs_sync_core::operation::{Action, Basis};
use vfs_sync_core::time::Timestamp;

use super::moves;
use super::tops::{affected, refresh_affected, refresh_tops};
use crate::api::node::QueuedState;
use crate::api::record::RecordChange;
use crate::error::ClientError;
use crate::event::ChangeEvent;
use crate::replica::edits::{Checks, make_operation, touch};
use crate::replica::rows::{Result, Rows};
use crate::replica::store::{Meta, NewEdit, NewEdits, Slot, Upload, UploadState};
use crate::replica::view::{Seen, View};

/// Queues edits, with their contents and directory records.
pub(super) fn enqueue(
    rows: &mut dyn Rows,
    meta: &mut Meta,
    edits: NewEdits,
    now: Timestamp,
) -> Result<()> {
    let mut checks = Checks::default();
    let mut touched = BTreeSet::new();
    let mut seen = Seen::default();
    let moved = edits.moves.then(|| edits.actions.first().map(|edit| edit.op_id.clone())).flatten();
    for NewEdit { op_id, item, action, unconditional } in edits.actions {
        let user = meta.user.clone();
        let mut view = View::after(rows, &user, Slot::Current, seen);
        checks.edit(&mut view, &item, &action)?;
        seen = view.into_seen().places_only();
        let basis = match &action {
            _ if unconditional => None,
            Action::Delete => Some(shown_up_to(rows, meta, &item)?),
            _ => Some(meta.basis()),
        };
        let op = make_operation(meta, op_id, item, action, basis, now)?;
        match (&moved, &op.action) {
            (None, _) => rows.push_queue(&op, QueuedState::Pending)?,
            (Some(of), Action::Delete) => rows.push_queue_of(of, &op, QueuedState::Held)?,
            (Some(of), _) => rows.push_queue_of(of, &op, QueuedState::Pending)?,
        }
        touched.extend(affected(rows, &op)?);
    }
    refresh_tops(rows, &meta.user, Slot::Current, touched)?;
    for (op_id, mut upload) in edits.uploads {
        let mut view = View::after(rows, &meta.user, Slot::Current, seen);
        let node = view.node(&upload.item)?;
        seen = view.into_seen().places_only();
        let node = node.ok_or_else(|| ClientError::UnknownItem(upload.item.clone()))?;
        if node.access_level < AccessLevel::Write {
            let (item, has) = (upload.item, node.access_level);
            let needs = AccessLevel::Write;
            return Err(ClientError::NotPermitted { item, needs, has });
        }
        upload.expected = node.content.map(|content| content.blob_id);
        upload.basis = Some(shown_up_to(rows, meta, &upload.item)?);
        // One that nobody has heard of yet is replaced, not followed.
        let queued = rows.uploads_of_item(&upload.item)?;
        if let Some(last) = queued.into_iter().next_back()
            && last.state == UploadState::Queued
            && last.attach.is_none()
            && !last.sent
        {
            (upload.expected, upload.moved) = (last.expected, last.moved);
            rows.remove_upload(last.seq)?;
            rows.forget(&last.item, &last.blob_id)?;
        }
        upload.moved = moved.clone().or(upload.moved);
        touch(rows, meta, op_id, &upload.item, now)?;
        upload.occurred_at = Some(meta.clock.stamp(now));
        rows.put_upload(&upload)?;
    }
    for (directory, change) in edits.records {
        change_record(rows, directory, change)?;
    }
    Ok(())
}

/// Removes an operation from the rejected list, and queues it again under the id `again` if one is
/// given.
pub(super) fn settle_rejected(
    rows: &mut dyn Rows,
    meta: &mut Meta,
    op_id: &OpId,
    again: Option<OpId>,
    now: Timestamp,
) -> Result<Vec<ChangeEvent>> {
    let mut events = Vec::new();
    let unknown = || ClientError::UnknownRejected(op_id.to_string());
    let rejected = rows.remove_rejected(op_id)?.ok_or_else(unknown)?;
    if let Some(again) = again {
        let before = rejected.operation;
        // An operation sent without a basis was meant to apply regardless of what its author saw.
        let basis = match (&before.basis, &before.action) {
            (None, _) => None,
            (Some(_), Action::Delete) => Some(shown_up_to(rows, meta, &before.item_id)?),
            (Some(_), _) => Some(meta.basis()),
        };
        let (item, action) = (before.item_id, before.action);
        events.extend(moves::give_up(rows, meta, &item)?);
        let op = make_operation(meta, again, item, action, basis, now)?;
        rows.push_queue(&op, QueuedState::Pending)?;
        refresh_affected(rows, &meta.user, &[op])?;
    }
    Ok(events)
}

/// Returns the position up to which the replica shows an item's content. A queued content hides
/// contents that arrived after it was queued, so the user has seen no later one.
fn shown_up_to(rows: &mut dyn Rows, meta: &Meta, item: &ItemId) -> Result<Basis> {
    let mut on_their_way = rows.uploads_of_item(item)?;
    on_their_way.retain(|upload| upload.state != UploadState::Rejected);
    let Some(first) = on_their_way.first() else { return Ok(meta.basis()) };
    let Some(below) = rows.content(Slot::Current, item)? else { return Ok(meta.basis()) };
    let blob = &below.attachment.blob_id;
    let shown = |one: &Upload| one.blob_id == *blob || one.expected.as_ref() == Some(blob);
    if on_their_way.iter().any(shown) {
        return Ok(meta.basis());
    }
    Ok(first.basis.clone().unwrap_or(Basis::Start))
}

pub(super) fn change_record(
    rows: &mut dyn Rows,
    directory: i64,
    change: RecordChange,
) -> Result<()> {
    let mut going = match change {
        RecordChange::Put(row) => return rows.put_entry(directory, &row),
        RecordChange::Intend(intent) => return rows.put_intent(directory, &intent),
        RecordChange::Settle(unique) => return rows.remove_intent(directory, &unique),
        RecordChange::Remove(id) => vec![id],
    };
    while let Some(id) = going.pop() {
        going.extend(rows.entries(directory, id)?.into_iter().map(|row| row.id));
        rows.remove_entry(directory, id)?;
    }
    Ok(())
}
