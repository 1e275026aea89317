//! Reads the confirmed rows with the queue on top, without scanning the queue.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use vfs_sync_core::access::AccessLevel;
use vfs_sync_core::id::{ItemId, UserId};
use vfs_sync_core::operation::Action;
use vfs_sync_core::tree::{Node, NodeContent, Overlay, overlay_parents};

use super::rows::{ItemRow, Result, Rows};
use super::store::{Slot, UploadState};
use crate::api::node::{Grant, QueuedOp};

pub(super) struct View<'a> {
    pub(super) rows: &'a mut dyn Rows,
    pub(super) user: &'a UserId,
    pub(super) slot: Slot,
    seen: Seen,
}

/// Facts about containers that a view has found. They hold as long as no register and no queued
/// operation changes.
#[derive(Default)]
pub(super) struct Seen {
    places: HashMap<ItemId, (UserId, AccessLevel)>,
    shown: HashMap<ItemId, bool>,
}

impl Seen {
    /// Keeps the facts that still hold after an operation was queued: the trees in which items were
    /// created.
    pub(super) fn places_only(self) -> Self {
        Self { shown: HashMap::new(), ..self }
    }
}

impl<'a> View<'a> {
    pub(super) fn new(rows: &'a mut dyn Rows, user: &'a UserId, slot: Slot) -> Self {
        Self { rows, user, slot, seen: Seen::default() }
    }

    /// Makes a view that continues with the facts of another.
    pub(super) fn after(rows: &'a mut dyn Rows, user: &'a UserId, slot: Slot, seen: Seen) -> Self {
        Self { rows, user, slot, seen }
    }

    pub(super) fn into_seen(self) -> Seen {
        self.seen
    }

    pub(super) fn node(&mut self, id: &ItemId) -> Result<Option<Node>> {
        let queued = self.rows.queue_of_item(id)?;
        self.node_with(id, &queued)
    }

    /// Works as [`Self::node`], with the item's queued operations given.
    fn node_with(&mut self, id: &ItemId, queued: &[QueuedOp]) -> Result<Option<Node>> {
        let confirmed = self.rows.item(self.slot, id)?;
        let confirmed = match confirmed {
            Some(row) => Some(self.confirmed_node(row)?),
            None => None,
        };
        let mut overlay = Overlay::new(self.user, confirmed);
        for one in queued {
            let place = match one.operation.parent() {
                Some(parent) => self.place(parent)?,
                None => None,
            };
            overlay.apply(&one.operation, place);
        }
        let Some(mut node) = overlay.finish() else { return Ok(None) };
        let uploads = self.rows.uploads_of_item(id)?;
        let on_its_way = |state| state != UploadState::Rejected;
        if let Some(upload) = uploads.into_iter().rfind(|upload| on_its_way(upload.state)) {
            node.pending = true;
            node.content = Some(NodeContent {
                blob_id: upload.blob_id,
                size: upload.size,
                digest: upload.digest,
                content_type: upload.content_type.map(Into::into),
                modified_at: upload.modified_at,
            });
        }
        Ok(Some(node))
    }

    fn confirmed_node(&mut self, row: ItemRow) -> Result<Node> {
        let view = *row.view;
        let content = self.rows.content(self.slot, &view.item_id)?;
        Ok(Node::confirmed(view, content.map(|row| (*row.attachment).into())))
    }

    /// Returns the owner of an item, even if the queue deletes it; `None` if it is not known.
    pub(super) fn owner(&mut self, id: &ItemId) -> Result<Option<UserId>> {
        if let Some(owner) = self.rows.owner(self.slot, id)? {
            return Ok(Some(owner));
        }
        Ok(self.place(id)?.map(|(owner, _)| owner))
    }

    /// Returns the owner of the tree that contains an item, and the reader's level there, even if
    /// the queue deletes the item; `None` if it is not known.
    fn place(&mut self, id: &ItemId) -> Result<Option<(UserId, AccessLevel)>> {
        // Created in the queue: it belongs to the tree that it was created in, or, where that is not
        // known, to the user's own. The chain of creations is as long as the tree is deep; a state file
        // may hold one that bites its tail.
        let (mut at, mut chain) = (id.clone(), Vec::new());
        let mut place = None;
        let (mut mark, mut next_mark) = (None, 64);
        loop {
            if mark.as_ref() == Some(&at) {
                break;
            }
            if chain.len() == next_mark {
                (mark, next_mark) = (Some(at.clone()), next_mark * 2);
            }
            if let Some(known) = self.seen.places.get(&at) {
                place = Some(known.clone());
                break;
            }
            if let Some(row) = self.rows.item(self.slot, &at)? {
                place = Some((row.view.owner_id.clone(), row.view.access_level));
                chain.push(at);
                break;
            }
            let queued = self.rows.queue_of_item(&at)?;
            let created = queued.first().and_then(|one| match &one.operation.action {
                Action::Upsert(upsert) => upsert.object_type.map(|_| upsert.parent.clone()),
                _ => None,
            });
            match created {
                Some(Some(parent)) => {
                    chain.push(at);
                    at = parent;
                }
                Some(None) => {
                    place = Some((self.user.clone(), AccessLevel::Admin));
                    chain.push(at);
                    break;
                }
                None => {
                    place = (!chain.is_empty()).then(|| (self.user.clone(), AccessLevel::Admin));
                    break;
                }
            }
        }
        if let Some(place) = &place {
            let known = chain.into_iter().map(|on_the_way| (on_the_way, place.clone()));
            self.seen.places.extend(known);
        }
        Ok(place)
    }

    /// Returns true if an item is shown.
    fn is_shown(&mut self, id: &ItemId) -> Result<bool> {
        if let Some(shown) = self.seen.shown.get(id) {
            return Ok(*shown);
        }
        let shown = self.node(id)?.is_some();
        self.seen.shown.insert(id.clone(), shown);
        Ok(shown)
    }

    /// Returns the grants on an item, by principal.
    pub(super) fn grants(&mut self, id: &ItemId) -> Result<Vec<Grant>> {
        let mut shown = BTreeMap::new();
        for row in self.rows.grants(self.slot, id)? {
            shown.insert(row.principal, (row.level, false));
        }
        for one in self.rows.queue_of_item(id)? {
            match one.operation.action {
                Action::GrantAdd { principal, level } => {
                    shown.insert(principal, (level, true));
                }
                Action::GrantRemove { principal } => drop(shown.remove(&principal)),
                _ => {}
            }
        }
        let grant = |(principal, (level, pending))| Grant { principal, level, pending };
        Ok(shown.into_iter().map(grant).collect())
    }

    /// Returns the containers of an item, including deleted ones.
    pub(super) fn all_parents(&mut self, id: &ItemId) -> Result<BTreeSet<ItemId>> {
        let queued = self.rows.queue_of_item(id)?;
        self.all_parents_with(id, &queued)
    }

    /// Works as [`Self::all_parents`], with the item's queued operations given.
    fn all_parents_with(&mut self, id: &ItemId, queued: &[QueuedOp]) -> Result<BTreeSet<ItemId>> {
        let mut parents: BTreeSet<ItemId> = self.rows.parents(self.slot, id)?.into_iter().collect();
        if queued.is_empty() {
            return Ok(parents);
        }
        let confirmed = self.rows.owner(self.slot, id)?.is_some();
        for one in queued {
            let mut owners = Vec::new();
            if let (Some(to), false) = (one.operation.parent(), parents.is_empty()) {
                let new_owner = self.owner(to)?;
                for parent in &parents.clone() {
                    let owner = self.owner(parent)?;
                    if owner.is_some() && new_owner.is_some() && owner != new_owner {
                        owners.push(parent.clone());
                    }
                }
            }
            overlay_parents(&mut parents, &one.operation, confirmed, |parent, _| {
                !owners.contains(parent)
            });
        }
        Ok(parents)
    }

    /// Returns the visible containers of an item.
    pub(super) fn parents(&mut self, id: &ItemId) -> Result<Vec<ItemId>> {
        let mut shown = Vec::new();
        for parent in self.all_parents(id)? {
            if self.is_shown(&parent)? {
                shown.push(parent);
            }
        }
        Ok(shown)
    }

    pub(super) fn children(&mut self, parent: &ItemId) -> Result<Vec<Node>> {
        let mut ids = self.rows.children(self.slot, parent)?;
        let queue_is_empty = self.rows.queue_is_empty()?;
        if !queue_is_empty {
            ids.extend(self.rows.queue_of_parent(parent)?);
            ids.sort();
            ids.dedup();
        }
        let mut nodes = Vec::with_capacity(ids.len());
        for id in ids {
            let queued = if queue_is_empty { Vec::new() } else { self.rows.queue_of_item(&id)? };
            if !queued.is_empty() && !self.all_parents_with(&id, &queued)?.contains(parent) {
                continue;
            }
            nodes.extend(self.node_with(&id, &queued)?);
        }
        Ok(nodes)
    }

    /// Returns true if an item is shown at the top: it is visible, and has no visible container in
    /// its own tree. An unknown container counts as the user's own; when it arrives and belongs to
    /// another user, its children are checked again.
    pub(super) fn is_top(&mut self, id: &ItemId, queue_is_empty: bool) -> Result<bool> {
        let owner = self.rows.owner(self.slot, id)?;
        if queue_is_empty && owner.is_none() {
            return Ok(false);
        }
        let (owner, parents) = if queue_is_empty {
            (owner, self.rows.parents(self.slot, id)?)
        } else {
            let queued = self.rows.queue_of_item(id)?;
            if self.node_with(id, &queued)?.is_none() {
                return Ok(false);
            }
            let owner = match owner {
                None => self.owner(id)?,
                known => known,
            };
            (owner, self.all_parents_with(id, &queued)?.into_iter().collect())
        };
        for parent in parents {
            let other = self.owner(&parent)?;
            let in_tree =
                other.as_ref().unwrap_or(self.user) == owner.as_ref().unwrap_or(self.user);
            if in_tree && (queue_is_empty || self.is_shown(&parent)?) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
