//! Exports a replica as a value, and imports it.

use std::collections::BTreeSet;
use std::sync::Arc;

use vfs_sync_core::client::state::{
    AttachmentRegister, ContainerClock, GrantRegister, ItemRegister, LinkRegister, QueuedOperation,
    RejectedOperation, ReplicaState,
};
use vfs_sync_core::id::ItemId;

use super::tops::{affected, refresh_tops};
use crate::api::node::{QueuedState, RejectedOp};
use crate::replica::rows::{AttachmentRow, GrantRow, ItemRow, LinkRow, Result, Rows};
use crate::replica::store::{Meta, Slot};

/// Returns the whole state of the replica as a value.
pub(super) fn export(rows: &mut dyn Rows, meta: Meta) -> Result<ReplicaState> {
    let limit = usize::MAX;
    let clocks = rows.changed_containers(None, limit)?;
    let mut container_clocks: Vec<ContainerClock> = clocks
        .into_iter()
        .map(|(container_id, clock)| ContainerClock { container_id, clock })
        .collect();
    container_clocks.sort_by(|a, b| a.container_id.cmp(&b.container_id));
    let item = |row: ItemRow| ItemRegister { item: *row.view, authored_at: row.authored_at };
    let link = |row: LinkRow| LinkRegister {
        parent_id: row.parent,
        child_id: row.child,
        authored_at: row.authored_at,
    };
    let grant = |row: GrantRow| GrantRegister {
        item_id: row.item,
        principal: row.principal,
        access_level: row.level,
        authored_at: row.authored_at,
    };
    let attachment = |row: AttachmentRow| AttachmentRegister {
        attachment: *row.attachment,
        authored_at: row.authored_at,
    };
    Ok(ReplicaState {
        client_id: meta.client_id,
        user_id: meta.user,
        replay_cursor: meta.cursor,
        baseline: meta.baseline,
        head: meta.head,
        write_id_floor: (*meta.floor).clone(),
        reconcile_state: meta.settled.map(|state| (*state).clone()),
        clock: meta.clock,
        next_local_write_id: meta.next_write_id,
        items: rows.all_items()?.into_iter().map(item).collect(),
        links: rows.all_links()?.into_iter().map(link).collect(),
        grants: rows.all_grants()?.into_iter().map(grant).collect(),
        attachments: rows.all_attachments()?.into_iter().map(attachment).collect(),
        container_clocks,
        // The export has no contents, so it omits the deletions that are held until one is
        // uploaded.
        queue: rows
            .queue(limit)?
            .into_iter()
            .filter(|one| one.state != QueuedState::Held)
            .map(|one| QueuedOperation {
                acknowledged: one.state == QueuedState::Acknowledged,
                operation: one.operation,
            })
            .collect(),
        rejected: rows
            .rejected(limit)?
            .into_iter()
            .map(|one| RejectedOperation {
                operation: one.operation,
                reason: one.reason,
                detail: one.detail,
            })
            .collect(),
    })
}

/// Fills an empty replica with an exported state.
pub(super) fn hydrate(rows: &mut dyn Rows, meta: &mut Meta, state: ReplicaState) -> Result<()> {
    let slot = Slot::Current;
    meta.items = u64::try_from(state.items.len()).unwrap_or(u64::MAX);
    let mut placed: BTreeSet<ItemId> = BTreeSet::new();
    for row in state.items {
        placed.insert(row.item.item_id.clone());
        let row = ItemRow { view: Box::new(row.item), authored_at: row.authored_at, at: None };
        rows.put_item(slot, row)?;
    }
    for row in state.links {
        rows.put_link(
            slot,
            LinkRow {
                parent: row.parent_id,
                child: row.child_id,
                authored_at: row.authored_at,
                at: None,
            },
        )?;
    }
    for row in state.grants {
        let (item, authored_at) = (row.item_id, row.authored_at);
        let (principal, level) = (row.principal, row.access_level);
        rows.put_grant(slot, GrantRow { item, principal, level, authored_at, at: None })?;
    }
    for row in state.attachments {
        let attachment = Box::new(row.attachment);
        rows.put_attachment(
            slot,
            AttachmentRow { attachment, authored_at: row.authored_at, at: None },
        )?;
    }
    for one in &state.container_clocks {
        rows.bump_container(slot, &one.container_id, &one.clock)?;
    }
    for one in state.queue {
        let acknowledged = QueuedState::Acknowledged;
        let state = if one.acknowledged { acknowledged } else { QueuedState::Pending };
        rows.push_queue(&one.operation, state)?;
        placed.extend(affected(rows, &one.operation)?);
    }
    for one in state.rejected {
        rows.push_rejected(&RejectedOp {
            operation: one.operation,
            reason: one.reason,
            detail: one.detail,
        })?;
    }
    meta.cursor = state.replay_cursor;
    meta.baseline = state.baseline;
    meta.head = state.head;
    meta.floor = Arc::new(state.write_id_floor);
    meta.settled = state.reconcile_state.map(Arc::new);
    meta.clock = state.clock;
    meta.next_write_id = state.next_local_write_id;
    meta.copied = true;
    refresh_tops(rows, &meta.user, slot, placed)
}
