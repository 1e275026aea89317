//! The confirmed state: the effects of a page beyond its registers, and the operations that a
//! settled pull covers.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use vfs_sync_core::client::offer::Trail;
use vfs_sync_core::client::pull::PageCommit;
use vfs_sync_core::cursor::Cursor;
use vfs_sync_core::entry::{Change, Entry};
use vfs_sync_core::id::ItemId;
use vfs_sync_core::operation::{Action, Basis};
use vfs_sync_core::wire::{PushReason, ReconcileState, WriteIds};

use super::epoch::{Had, enter_epoch};
use super::tops::{refresh_affected, shared};
use super::uploads;
use crate::api::node::{QueuedOp, QueuedState};
use crate::event::ChangeEvent;
use crate::replica::offering;
use crate::replica::page::PageWork;
use crate::replica::rows::{Result, Rows};
use crate::replica::store::{DELETED_REMEMBERED, Meta, Slot};
use crate::replica::view::View;

/// Applies a page to a slot. Collects in `arrived` the items that became visible at the top.
pub(super) fn apply_page(
    rows: &mut dyn Rows,
    meta: &mut Meta,
    slot: Slot,
    page: PageCommit,
    events: bool,
    arrived: &mut Vec<ItemId>,
) -> Result<Vec<ChangeEvent>> {
    // For pages of a rebuild, the map decides only once the rebuild is complete.
    let had = Had::of_map(page.floor.as_ref(), meta, slot == Slot::Current);
    enter_epoch(rows, meta, "pull", page.epoch, had)?;
    if slot == Slot::Current {
        follow(meta, &page.entries);
    }
    let returned = match slot {
        Slot::Current => take_returned(meta, &page.entries),
        Slot::Building => Vec::new(),
    };
    let mut work = PageWork::new(rows, slot, page.entries.len(), events)?;
    for entry in page.entries {
        work.apply(entry, &meta.user, &meta.client_id)?;
    }
    let outcome = work.finish(&meta.user)?;
    arrived.extend(outcome.arrived);
    let mut events = outcome.events;
    events.extend(returned.into_iter().map(ChangeEvent::Kept));
    if let Some(latest) = page.latest {
        meta.clock.observe(latest);
    }
    if slot == Slot::Building {
        return Ok(Vec::new());
    }
    meta.items = meta.items.saturating_add_signed(outcome.new);
    meta.cursor = page.cursor;
    meta.baseline = page.baseline;
    meta.head = page.head;
    if let Some(floor) = page.floor {
        meta.floor = Arc::new(floor);
    }
    if let Some(map) = page.settled {
        meta.unsettled = false;
        if meta.copied {
            events.extend(withdraw_unseen(rows, meta)?);
        }
        let kept = settle(rows, meta, map)?;
        events.extend(kept.into_iter().map(ChangeEvent::Kept));
        events.extend(shared(rows, &meta.user, arrived.drain(..))?);
        // A content of its own may still cover one that the same replica wrote.
        meta.copied = meta.copied && rows.counts()?.uploads > 0;
    }
    Ok(events)
}

/// Records the epochs that the cursor passes through with these entries.
fn follow(meta: &mut Meta, entries: &[Entry]) {
    let mut last = meta.cursor.as_ref();
    let mut trail: Option<Trail> = None;
    for entry in entries {
        // Nearly all pages are of one epoch, which its twelve digits name.
        let name = |at: &Cursor| at.change_id.as_str().get(..12).map(str::to_owned);
        if let Some(before) = last
            && name(before) != name(&entry.position)
        {
            trail.get_or_insert_with(|| (*meta.trail).clone()).step(Some(before), &entry.position);
        }
        last = Some(&entry.position);
    }
    if let Some(trail) = trail {
        meta.trail = Arc::new(trail);
    }
}

/// Removes from the remembered deletions the items that a page brings back, and returns those that
/// somebody else changed. A restore by the replica's own user is not reported.
fn take_returned(meta: &mut Meta, entries: &[Entry]) -> Vec<ItemId> {
    if meta.deleted.is_empty() {
        return Vec::new();
    }
    let deleted: HashSet<&ItemId> = meta.deleted.iter().collect();
    let (mut back, mut told) = (HashSet::new(), Vec::new());
    for entry in entries {
        let Change::ItemUpsert(view) = &entry.body.change else { continue };
        if deleted.contains(&view.item_id) && back.insert(view.item_id.clone()) {
            let body = &entry.body;
            let by_device = body.origin.is_some() || body.author_replica.is_some();
            if by_device || body.actor.as_ref() != Some(&meta.user) {
                told.push(view.item_id.clone());
            }
        }
    }
    if !back.is_empty() {
        let left = meta.deleted.iter().filter(|id| !back.contains(*id));
        meta.deleted = Arc::new(left.cloned().collect());
    }
    told
}

/// Withdraws queued deletions of items that changed after the exported state was made. The server
/// would decide them like deletions of unseen changes by another replica, but it counts the changes
/// of this replica as seen, and the same replica may have made them after the export. Containers
/// above an item that stays are kept too.
fn withdraw_unseen(rows: &mut dyn Rows, meta: &Meta) -> Result<Vec<ChangeEvent>> {
    let mut deletions = BTreeMap::new();
    for QueuedOp { operation, state } in rows.queue(usize::MAX)? {
        if state != QueuedState::Acknowledged
            && operation.action == Action::Delete
            && let Some(basis) = operation.basis
        {
            deletions.insert(operation.item_id, (operation.op_id, basis));
        }
    }
    let mut open = Vec::new();
    for (item, (_, basis)) in &deletions {
        if has_changed_since(rows, item, basis)? {
            open.push(item.clone());
        }
    }
    let (mut stays, mut withdrawn, mut events) = (BTreeSet::new(), Vec::new(), Vec::new());
    while let Some(item) = open.pop() {
        if !stays.insert(item.clone()) {
            continue;
        }
        open.extend(rows.parents(Slot::Current, &item)?);
        let Some((op_id, _)) = deletions.get(&item) else { continue };
        if uploads::is_being_deleted(rows, &item)? {
            uploads::settle_deletion(rows, &item, true)?;
        }
        withdrawn.extend(rows.remove_queued(op_id)?);
        let (op_id, reason) = (op_id.clone(), Some(PushReason::Unseen));
        events.push(ChangeEvent::Outdated { op_id, item_id: item.clone(), reason });
        events.push(ChangeEvent::Kept(item));
    }
    refresh_affected(rows, &meta.user, &withdrawn)?;
    Ok(events)
}

/// Returns true if the feed changed an item, its content, a link to it or one of its own links
/// after `basis`.
fn has_changed_since(rows: &mut dyn Rows, item: &ItemId, basis: &Basis) -> Result<bool> {
    let Some(row) = rows.item(Slot::Current, item)? else { return Ok(false) };
    let mut told = vec![row.at];
    told.extend(rows.content(Slot::Current, item)?.map(|row| row.at));
    told.extend(rows.parent_links(Slot::Current, item)?.into_iter().map(|link| link.at));
    for child in rows.children(Slot::Current, item)? {
        let links = rows.parent_links(Slot::Current, &child)?.into_iter();
        told.extend(links.filter(|link| link.parent == *item).map(|link| link.at));
    }
    Ok(told.into_iter().flatten().any(|at| basis.is_before(at)))
}

/// Settles a pull: its map becomes the reconcile state, and removes the acknowledged operations
/// that it covers. Returns the items that are present although this replica deleted them.
fn settle(rows: &mut dyn Rows, meta: &mut Meta, map: WriteIds) -> Result<Vec<ItemId>> {
    let (mut kept, mut gone, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
    if let Some(own) = map.get(&meta.client_id) {
        let covered = rows.remove_covered(*own)?;
        refresh_affected(rows, &meta.user, &covered)?;
        for op in covered.iter().filter(|op| op.action == Action::Delete) {
            let shown = View::new(rows, &meta.user, Slot::Current).node(&op.item_id)?.is_some();
            if !seen.insert(op.item_id.clone()) {
                continue;
            }
            if rows.queue_of_item(&op.item_id)?.is_empty() {
                uploads::settle_deletion(rows, &op.item_id, shown)?;
            }
            let list = if shown { &mut kept } else { &mut gone };
            list.push(op.item_id.clone());
        }
        if !gone.is_empty() {
            let again: HashSet<&ItemId> = gone.iter().collect();
            let before = meta.deleted.iter().filter(|id| !again.contains(id)).cloned();
            let mut deleted: Vec<ItemId> = before.chain(gone.iter().cloned()).collect();
            deleted.drain(..deleted.len().saturating_sub(DELETED_REMEMBERED));
            meta.deleted = Arc::new(deleted);
        }
    }
    // Those that the feed did not bring back went with their items, or others took their places.
    for upload in rows.remove_attached_uploads()? {
        rows.forget(&upload.item, &upload.blob_id)?;
    }
    offering::prune(rows, meta)?;
    if meta.settled.as_ref().map(|state| &state.cursor) != meta.cursor.as_ref() {
        offering::settle_lost(rows, meta)?;
    }
    if let Some(cursor) = meta.cursor.clone() {
        let state = ReconcileState { cursor, last_reconciled_write_ids: map };
        if meta.settled.as_deref() != Some(&state) {
            meta.settled = Some(Arc::new(state));
        }
    }
    Ok(kept)
}
