//! Moved entries, and names for conflicted copies.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use vfs_sync_client::{EntryRecord, Node, TreeState};
use vfs_sync_core::access::AccessLevel;
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::id::{ItemId, UserId};
use vfs_sync_core::item::Name;
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::tree::conflict_copy_name;

use super::super::scan::ScannedEntry;
use super::Import;
use super::file::{has_digest, is_file};
use super::tree_folder::TreeFolder;
use crate::error::Result;
use crate::report::Change;

/// The outcome of moving an item to the place of its entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Move {
    Done,
    /// The user may not move it: the entry counts as new.
    NotPermitted,
    /// The tree has moved its new folder into it: it stays where the tree has it.
    Cycle,
}

impl Import<'_> {
    /// Returns the row of an entry, and whether its item was moved here: that of the entry's place, or
    /// the one that was found at another place, if its item can be moved.
    pub(super) fn matching_row(
        &mut self,
        place: &TreeFolder,
        home: &UserId,
        (row, moved_row): (Option<EntryRecord>, Option<EntryRecord>),
        seen: &ScannedEntry,
        at: &Path,
    ) -> Result<(Option<EntryRecord>, bool)> {
        if let Some(found) = moved_row
            && let Some(node) = self.client.node(&found.tree.item)?
            && self.take_move(place, home, &found, &node, seen, at)? == Move::Done
        {
            return Ok((Some(found), true));
        }
        Ok((row, false))
    }

    /// Moves an item to the place of its entry, if that is possible.
    pub(super) fn take_move(
        &mut self,
        place: &TreeFolder,
        home: &UserId,
        row: &EntryRecord,
        node: &Node,
        seen: &ScannedEntry,
        at: &Path,
    ) -> Result<Move> {
        if node.owner != *home || node.access_level < AccessLevel::Admin {
            return Ok(Move::NotPermitted);
        }
        let to_other_folder = row.parent != place.0.row;
        if to_other_folder && !place.is_new() && !place.is_gone() {
            // The tree may have moved the target folder into the moved item.
            let mut above: Vec<ItemId> = place.id().into_iter().collect();
            let mut met = HashSet::new();
            while let Some(id) = above.pop() {
                if id == node.id {
                    self.record.claimed.insert(row.id);
                    return Ok(Move::Cycle);
                }
                if met.insert(id.clone()) && self.client.node(&id)?.is_some() {
                    above.extend(self.client.parents_of(&id)?);
                }
            }
        }
        self.record.claimed.insert(row.id);
        let parents = self.client.parents_of(&node.id)?;
        let new_parent = if to_other_folder { self.ensure_created(place)? } else { None };
        let is_elsewhere = to_other_folder && parents != Vec::from_iter(new_parent.clone());
        let is_renamed =
            row.name != seen.disk_name.as_bytes() && node.name.as_ref() != Some(&seen.name);
        if is_elsewhere || is_renamed {
            self.report.moved += 1;
            self.change(Change::Moved, at);
        }
        match new_parent {
            Some(parent) if is_elsewhere => self.batch.move_to(&node.id, &parent),
            None if is_elsewhere => {
                for parent in parents {
                    let above = self.client.node(&parent)?;
                    if above.is_some_and(|above| above.owner == node.owner) {
                        self.batch.unlink(&node.id, &parent);
                    }
                }
            }
            _ => {}
        }
        if is_renamed {
            self.batch.rename(&node.id, seen.name.clone());
        }
        Ok(Move::Done)
    }

    pub(super) fn moved_tree(
        &self,
        place: &TreeFolder,
        seen: &ScannedEntry,
        tree: TreeState,
    ) -> TreeState {
        TreeState { parent: place.id(), name: seen.name.as_str().to_owned(), ..tree }
    }

    /// Returns a name for a conflicted copy in a folder.
    pub(super) fn copy_name(
        &mut self,
        place: &TreeFolder,
        name: &Name,
        at: Timestamp,
    ) -> Result<Name> {
        let parent = place.id();
        let taken: HashSet<String> = match place.is_new() || place.is_gone() {
            true => HashSet::new(),
            false => {
                let children = self.client.children(parent.as_ref())?.into_iter();
                children.map(|child| child.name).collect()
            }
        };
        let mut number = 0;
        loop {
            let copy = conflict_copy_name(name, &self.device, at, number);
            let made = (parent.clone(), copy.clone());
            if !taken.contains(copy.as_str()) && !self.copies.contains(&made) {
                self.copies.insert(made);
                return Ok(copy);
            }
            number += 1;
        }
    }

    /// Finds an existing conflicted copy with these bytes.
    pub(super) fn same_copy(
        &self,
        place: &TreeFolder,
        seen: &ScannedEntry,
        found: Sha256Digest,
    ) -> Result<Option<Node>> {
        if place.is_new() || place.is_gone() {
            return Ok(None);
        }
        let at = Timestamp::MIN;
        let plain = |name: &Name| conflict_copy_name(name, "x", at, 0);
        let is_copy = |node: &Node| {
            let name = node.name.as_ref();
            name.is_some_and(|name| *name != seen.name && plain(name) == plain(&seen.name))
        };
        let children = self.client.children(place.id().as_ref())?.into_iter();
        let mut nodes = children.filter(|child| !child.shortcut).map(|child| child.node);
        Ok(nodes.find(|node| is_file(node) && has_digest(node, found) && is_copy(node)))
    }
}
