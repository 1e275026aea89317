//! Checks edits before they are queued, and builds their operations.

use std::collections::{HashMap, HashSet};

use vfs_sync_core::access::{AccessLevel, Principal, PrincipalType};
use vfs_sync_core::id::{ItemId, OpId, UserId, WriteId};
use vfs_sync_core::item::metadata_bytes;
use vfs_sync_core::limits;
use vfs_sync_core::operation::{Action, Basis, Operation, Upsert};
use vfs_sync_core::time::Timestamp;

use super::rows::{Result, Rows};
use super::store::{Meta, Slot};
use super::view::View;
use crate::api::node::{QueuedOp, QueuedState};
use crate::error::ClientError;

/// Checks edits one after another against the visible tree.
#[derive(Default)]
pub(super) struct Checks {
    /// The reader's level on items that are known to be visible.
    live: HashMap<ItemId, AccessLevel>,
}

impl Checks {
    fn level(&mut self, view: &mut View<'_>, id: &ItemId) -> Result<AccessLevel> {
        if let Some(level) = self.live.get(id) {
            return Ok(*level);
        }
        let node = view.node(id)?.ok_or_else(|| ClientError::UnknownItem(id.clone()))?;
        self.live.insert(id.clone(), node.access_level);
        Ok(node.access_level)
    }

    /// Checks that an item is visible and that the reader has the level `needs`. The server decides
    /// cases that the replica cannot know.
    fn allowed(&mut self, view: &mut View<'_>, item: &ItemId, needs: AccessLevel) -> Result<()> {
        let has = self.level(view, item)?;
        if has >= needs {
            return Ok(());
        }
        Err(ClientError::NotPermitted { item: item.clone(), needs, has })
    }

    /// Checks that the tree permits `action`.
    pub(super) fn edit(
        &mut self,
        view: &mut View<'_>,
        item: &ItemId,
        action: &Action,
    ) -> Result<()> {
        match action {
            Action::Upsert(upsert) => self.upsert(view, item, upsert),
            Action::Delete => {
                self.live.remove(item);
                let needs = self.needed_to_delete(view, item)?;
                self.allowed(view, item, needs)?;
                self.live.remove(item);
                Ok(())
            }
            Action::GrantRemove { principal } if names(principal, view.user) => {
                self.allowed(view, item, AccessLevel::Read)
            }
            Action::GrantAdd { .. } | Action::GrantRemove { .. } => {
                self.allowed(view, item, AccessLevel::Admin)
            }
            Action::LinkAdd { parent } | Action::LinkReassign { parent } => {
                self.level(view, item)?;
                self.allowed(view, parent, AccessLevel::Write)?;
                let (owner, home) = (view.owner(item)?, view.owner(parent)?);
                if owner == home {
                    self.allowed(view, item, AccessLevel::Write)?;
                    return check_cycle(view, item, parent);
                }
                // A shortcut can be moved; its target stays in its own tree.
                if matches!(action, Action::LinkReassign { .. }) && !is_in(view, item, &home)? {
                    let (item, parent) = (item.clone(), Some(parent.clone()));
                    return Err(ClientError::OtherTree { item, parent });
                }
                Ok(())
            }
            Action::LinkRemove { parent } => {
                if !view.all_parents(item)?.contains(parent) {
                    return Err(ClientError::Invalid(format!(
                        "{item} does not hang under {parent}"
                    )));
                }
                if view.node(parent)?.is_some() {
                    self.allowed(view, parent, AccessLevel::Write)?;
                }
                let owner = view.owner(item)?;
                for other in view.all_parents(item)? {
                    if other != *parent && view.owner(&other)? == owner {
                        return Ok(());
                    }
                }
                // Out of its last folder it would be out of reach of those who share that.
                if view.node(item)?.is_some() && view.owner(parent)? == owner {
                    self.allowed(view, item, AccessLevel::Admin)?;
                }
                Ok(())
            }
        }
    }

    /// Returns the level that deleting an item needs: `write` if the user may write all its
    /// containers in its tree, as if nothing were deleted; else `admin`.
    fn needed_to_delete(&mut self, view: &mut View<'_>, item: &ItemId) -> Result<AccessLevel> {
        let owner = view.owner(item)?;
        let mut needs = AccessLevel::Admin;
        for parent in view.all_parents(item)? {
            if view.owner(&parent)? != owner {
                continue;
            }
            // A folder that goes in the same breath is hidden already.
            let known = match self.live.get(&parent) {
                Some(level) => Some(*level),
                None => view.rows.item(Slot::Current, &parent)?.map(|row| row.view.access_level),
            };
            if known.is_some_and(|level| level < AccessLevel::Write) {
                return Ok(AccessLevel::Admin);
            }
            needs = AccessLevel::Write;
        }
        Ok(needs)
    }

    fn upsert(&mut self, view: &mut View<'_>, item: &ItemId, upsert: &Upsert) -> Result<()> {
        let before = view.node(item)?;
        let mut level = AccessLevel::Admin;
        match &before {
            Some(node) => {
                level = node.access_level;
                if level < AccessLevel::Write {
                    let (item, needs) = (item.clone(), AccessLevel::Write);
                    return Err(ClientError::NotPermitted { item, needs, has: level });
                }
            }
            None if upsert.object_type.is_none() => {
                return Err(ClientError::UnknownItem(item.clone()));
            }
            None => {
                if let Some(parent) = &upsert.parent {
                    self.allowed(view, parent, AccessLevel::Write)?;
                    level = self.level(view, parent)?;
                }
            }
        }
        let mut metadata = before.map(|node| node.metadata).unwrap_or_default();
        for (key, value) in &upsert.metadata {
            match value {
                Some(value) => metadata.insert(key.clone(), value.clone()),
                None => metadata.remove(key),
            };
        }
        let too_large = metadata_bytes(&metadata) > limits::MAX_METADATA_BYTES;
        if !upsert.metadata.is_empty() && (metadata.len() > limits::MAX_METADATA_KEYS || too_large)
        {
            return Err(ClientError::Invalid(format!(
                "the metadata of {item} would be more than {} keys or {} bytes: remove some",
                limits::MAX_METADATA_KEYS,
                limits::MAX_METADATA_BYTES
            )));
        }
        self.live.insert(item.clone(), level);
        Ok(())
    }
}

fn names(principal: &Principal, user: &UserId) -> bool {
    principal.kind == PrincipalType::User && principal.id.as_str() == user.as_str()
}

/// Returns true if an item is under a container of `owner`.
fn is_in(view: &mut View<'_>, item: &ItemId, owner: &Option<UserId>) -> Result<bool> {
    for parent in view.all_parents(item)? {
        if view.owner(&parent)? == *owner {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Walks up from `parent`; finding `child` there means that the link would close a cycle. The walk
/// passes through no shortcut.
fn check_cycle(view: &mut View<'_>, child: &ItemId, parent: &ItemId) -> Result<()> {
    let owner = view.owner(child)?;
    let mut seen = HashSet::new();
    let mut above = vec![parent.clone()];
    while let Some(id) = above.pop() {
        if id == *child {
            return Err(ClientError::Cycle { parent: parent.clone(), child: child.clone() });
        }
        if !seen.insert(id.clone()) {
            continue;
        }
        for one in view.all_parents(&id)? {
            let other = view.owner(&one)?;
            if other.is_none() || other == owner {
                above.push(one);
            }
        }
    }
    Ok(())
}

pub(super) fn used_up() -> ClientError {
    ClientError::Invalid("the replica's write ids are used up: make a new replica".into())
}

/// Builds the queue's operation for an action, and checks it against the protocol's limits.
pub(super) fn make_operation(
    meta: &mut Meta,
    op_id: OpId,
    item_id: ItemId,
    action: Action,
    basis: Option<Basis>,
    now: Timestamp,
) -> Result<Operation> {
    let write_id = WriteId::new(meta.next_write_id).ok_or_else(used_up)?;
    let op = Operation {
        op_id,
        item_id,
        replica_id: meta.client_id.clone(),
        write_id,
        occurred_at: meta.clock.stamp(now),
        basis,
        action,
    };
    Operation::parse(&op.to_json()).map_err(|error| ClientError::Invalid(error.to_string()))?;
    meta.next_write_id += 1;
    Ok(op)
}

/// Queues an edit for a new content, unless the queue has one for the item: like any edit, it
/// brings back an item that somebody deletes at the same time.
pub(super) fn touch(
    rows: &mut dyn Rows,
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
    let basis = Some(meta.basis());
    let op = make_operation(meta, op_id, item.clone(), action, basis, now)?;
    rows.push_queue(&op, QueuedState::Pending)
}
