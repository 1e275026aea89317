//! Edits on their way into the queue: whether they are possible, and the operations they become.

use std::collections::HashSet;

use vfs_sync_core::id::{ItemId, OpId, WriteId};
use vfs_sync_core::item::metadata_bytes;
use vfs_sync_core::limits;
use vfs_sync_core::op::{Action, Operation};
use vfs_sync_core::time::Timestamp;

use super::Meta;
use super::rows::{Result, Rows};
use super::view::View;
use crate::error::ClientError;
use crate::node::{QueuedOp, QueuedState};

/// Checks that `action` is possible on the tree as it is shown.
pub(super) fn check_edit<R: Rows>(
    view: &mut View<'_, R>,
    item: &ItemId,
    action: &Action,
    live: &mut HashSet<ItemId>,
) -> Result<()> {
    let unknown = |id: &ItemId| ClientError::UnknownItem(id.clone());
    let mut shown = |view: &mut View<'_, R>, id: &ItemId| -> Result<()> {
        if !live.contains(id) {
            view.node(id)?.ok_or_else(|| unknown(id))?;
            live.insert(id.clone());
        }
        Ok(())
    };
    match action {
        Action::Upsert(upsert) => {
            let before = view.node(item)?;
            if before.is_none() && upsert.object_type.is_none() {
                return Err(unknown(item));
            }
            if let (None, Some(parent)) = (&before, &upsert.parent) {
                shown(view, parent)?;
            }
            let mut metadata = before.map(|node| node.metadata).unwrap_or_default();
            for (key, value) in &upsert.metadata {
                match value {
                    Some(value) => metadata.insert(key.clone(), value.clone()),
                    None => metadata.remove(key),
                };
            }
            let too_large = metadata_bytes(&metadata) > limits::MAX_METADATA_BYTES;
            if !upsert.metadata.is_empty()
                && (metadata.len() > limits::MAX_METADATA_KEYS || too_large)
            {
                return Err(ClientError::Invalid(format!(
                    "the metadata of {item} would be more than {} keys or {} bytes: remove some",
                    limits::MAX_METADATA_KEYS,
                    limits::MAX_METADATA_BYTES
                )));
            }
            live.insert(item.clone());
        }
        Action::Delete => {
            view.node(item)?.ok_or_else(|| unknown(item))?;
            live.remove(item);
        }
        Action::GrantAdd { .. } | Action::GrantRemove { .. } => shown(view, item)?,
        Action::LinkAdd { parent } | Action::LinkReassign { parent } => {
            shown(view, item)?;
            shown(view, parent)?;
            check_cycle(view, item, parent)?;
        }
        Action::LinkRemove { parent } => {
            if !view.all_parents(item)?.contains(parent) {
                return Err(ClientError::Invalid(format!("{item} does not hang under {parent}")));
            }
        }
    }
    Ok(())
}

/// Walks up from `parent`; meeting `child` there means that the link would close a cycle.
fn check_cycle<R: Rows>(view: &mut View<'_, R>, child: &ItemId, parent: &ItemId) -> Result<()> {
    let mut seen = HashSet::new();
    let mut above = vec![parent.clone()];
    while let Some(id) = above.pop() {
        if id == *child {
            return Err(ClientError::Cycle { parent: parent.clone(), child: child.clone() });
        }
        if seen.insert(id.clone()) {
            above.extend(view.all_parents(&id)?);
        }
    }
    Ok(())
}

/// Makes the queue's operation of an action, checked against the protocol's bounds.
pub(super) fn make_operation(
    meta: &mut Meta,
    op_id: OpId,
    item_id: ItemId,
    action: Action,
    now: Timestamp,
) -> Result<Operation> {
    let write_id = WriteId::new(meta.next_write_id).ok_or_else(|| {
        ClientError::Invalid("the replica's write ids are used up: make a new replica".into())
    })?;
    let op = Operation {
        op_id,
        item_id,
        replica_id: meta.client_id.clone(),
        write_id,
        occurred_at: meta.clock.stamp(now),
        action,
    };
    Operation::parse(&op.to_json()).map_err(|error| ClientError::Invalid(error.to_string()))?;
    meta.next_write_id += 1;
    Ok(op)
}

/// A new content is an edit: it brings an item back that is deleted meanwhile. So the queue gets
/// an operation for it, unless it has one for the item that does as much.
pub(super) fn touch<R: Rows>(
    rows: &mut R,
    meta: &mut Meta,
    op_id: OpId,
    item: &ItemId,
    now: Timestamp,
) -> Result<()> {
    let edits = |one: &QueuedOp| {
        one.state == QueuedState::Pending && matches!(one.operation.action, Action::Upsert(_))
    };
    if rows.queue_of_item(item)?.iter().any(edits) {
        return Ok(());
    }
    let action = Action::Upsert(Box::default());
    let op = make_operation(meta, op_id, item.clone(), action, now)?;
    rows.push_queue(&op, QueuedState::Pending)
}
