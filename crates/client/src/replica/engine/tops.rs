//! The list of items at the top, stored beside the rows.

use std::collections::BTreeSet;

use vfs_sync_core::id::{ItemId, UserId};
use vfs_sync_core::operation::{Action, Operation};

use crate::event::ChangeEvent;
use crate::replica::rows::{Result, Rows};
use crate::replica::store::Slot;
use crate::replica::view::View;

/// Updates the list of items at the top for `items`.
pub(super) fn refresh_tops(
    rows: &mut dyn Rows,
    user: &UserId,
    slot: Slot,
    items: impl IntoIterator<Item = ItemId>,
) -> Result<()> {
    let queue_is_empty = rows.queue_is_empty()?;
    let mut view = View::new(rows, user, slot);
    for id in items {
        let top = view.is_top(&id, queue_is_empty)?;
        view.rows.set_top(slot, &id, top)?;
    }
    Ok(())
}

/// Returns the items whose place an operation can change: its own, and the children of an item that
/// it deletes or brings back.
pub(super) fn affected(rows: &mut dyn Rows, op: &Operation) -> Result<Vec<ItemId>> {
    let mut items = vec![op.item_id.clone()];
    if matches!(op.action, Action::Delete | Action::Upsert(_)) {
        items.extend(rows.children(Slot::Current, &op.item_id)?);
        items.extend(rows.queue_of_parent(&op.item_id)?);
    }
    Ok(items)
}

pub(super) fn refresh_affected(
    rows: &mut dyn Rows,
    user: &UserId,
    ops: &[Operation],
) -> Result<()> {
    let mut items = BTreeSet::new();
    for op in ops {
        items.extend(affected(rows, op)?);
    }
    refresh_tops(rows, user, Slot::Current, items)
}

/// Selects the new items that belong to other users and are at the top.
pub(super) fn shared(
    rows: &mut dyn Rows,
    user: &UserId,
    arrived: impl Iterator<Item = ItemId>,
) -> Result<Vec<ChangeEvent>> {
    let queue_is_empty = rows.queue_is_empty()?;
    let mut events = Vec::new();
    let mut view = View::new(rows, user, Slot::Current);
    for item_id in arrived {
        if !view.is_top(&item_id, queue_is_empty)? {
            continue;
        }
        if let Some(node) = view.node(&item_id)? {
            let (owner, level) = (node.owner, node.access_level);
            events.push(ChangeEvent::Shared { item_id, owner, level });
        }
    }
    Ok(events)
}
