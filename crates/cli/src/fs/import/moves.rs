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

impl Import<'_> {
    /// Moves an item to the place of its entry; returns `false` if that is impossible.
    pub(super) fn take_move(
        &mut self,
        place: &TreeFolder,
        home: &UserId,
        row: &EntryRecord,
        node: &Node,
        seen: &ScannedEntry,
        at: &Path,
    ) -> Result<bool> {
        if node.owner != *home || node.access_level < AccessLevel::Admin {
            return Ok(false);
        }
        let to_other_folder = row.parent != place.0.row;
        if to_other_folder && !place.is_new() && !place.is_gone() {
            // The tree may have moved the target folder into the moved item.
            let mut above: Vec<ItemId> = place.id().into_iter().collect();
            let mut met = HashSet::new();
            while let Some(id) = above.pop() {
                if id == node.id {
                    return Ok(false);
                }
                if met.insert(id.clone()) && self.client.node(&id)?.is_some() {
                    above.extend(self.client.parents_of(&id)?);
                }
            }
        }
        self.record.claimed.insert(row.id);
        self.report.moved += 1;
        self.change(Change::Moved, at);
        if to_other_folder {
            match self.ensure_created(place)? {
                Some(parent) => self.batch.move_to(&node.id, &parent),
                None => {
                    for parent in self.client.parents_of(&node.id)? {
                        let above = self.client.node(&parent)?;
                        if above.is_some_and(|above| above.owner == node.owner) {
                            self.batch.unlink(&node.id, &parent);
                        }
                    }
                }
            }
        }
        if row.name != seen.disk_name.as_bytes() {
            self.batch.rename(&node.id, seen.name.clone());
        }
        Ok(true)
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
