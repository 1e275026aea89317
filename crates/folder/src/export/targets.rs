//! The folders at which an export of a part of the tree begins.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use vfs_sync_client::{EntryKind, EntryRecord, ROOT_ENTRY};
use vfs_sync_core::id::ItemId;

use super::super::ignore::{RULES_FILE, Rules};
use super::super::record;
use super::super::scope::Scope;
use super::{Enter, Export};
use crate::error::Result;

/// The greatest number of changed items of a part.
const MANY: usize = 2_048;
/// The number of folders above an item that are searched for one that was written.
const HIGHEST: usize = 1_024;

/// The part of the tree that an export writes.
#[derive(Debug, Clone)]
pub struct Part {
    /// The folders on the disk whose entries may differ from the tree.
    pub folders: Scope,
    /// The items that changed; `None` if any may have.
    pub items: Option<BTreeSet<ItemId>>,
}

impl Part {
    /// Returns the part that has no item.
    pub fn nothing() -> Self {
        Self { folders: Scope::nothing(), items: Some(BTreeSet::new()) }
    }

    /// Returns the part that is the whole tree.
    pub fn whole() -> Self {
        Self { folders: Scope::Whole, items: None }
    }

    /// Adds an item that has changed to the part.
    pub fn add_item(&mut self, item: ItemId) {
        if let Some(items) = &mut self.items {
            items.insert(item);
            if items.len() > MANY {
                self.items = None;
            }
        }
    }
}

/// A folder of a part, by its row.
struct Target {
    row: u64,
    item: Option<ItemId>,
    rules: Rules,
}

impl Export<'_> {
    /// Returns the folders of a part, outer ones first; `None` if the whole tree has to be written.
    pub(super) fn targets(
        &mut self,
        part: &Part,
        top: Option<&ItemId>,
    ) -> Result<Option<Vec<Enter>>> {
        let (Scope::Folders(folders), Some(items)) = (&part.folders, &part.items) else {
            return Ok(None);
        };
        if self.record.is_before_rebuild() {
            return Ok(None);
        }
        let mut paths = folders.clone();
        for item in items {
            if !self.add_places(item, top, &mut paths)? {
                return Ok(None);
            }
        }
        let mut targets = BTreeMap::new();
        for path in paths {
            let Some((at, enter)) = self.nearest(&path, top)? else { return Ok(None) };
            targets.insert((at.components().count(), at), enter);
        }
        Ok(Some(targets.into_values().collect()))
    }

    /// Adds the folders in which an item is or was; returns `false` if these cannot be known.
    fn add_places(
        &mut self,
        item: &ItemId,
        top: Option<&ItemId>,
        paths: &mut BTreeSet<PathBuf>,
    ) -> Result<bool> {
        for row in self.record.of_item(item)? {
            if row.name == RULES_FILE.as_bytes() {
                return Ok(false);
            }
            if let Some(path) = self.record.path_of(&row)? {
                paths.insert(path.parent().unwrap_or(Path::new("")).to_owned());
            }
        }
        let Some(node) = self.client.node(item)? else { return Ok(true) };
        if node.name.as_ref().is_some_and(|name| name.as_str() == RULES_FILE) {
            return Ok(false);
        }
        let mut left = self.client.parents_of(item)?;
        if left.is_empty() && top.is_none() {
            paths.insert(PathBuf::new());
        }
        let mut met = BTreeSet::new();
        while let Some(parent) = left.pop() {
            self.wanted.insert(parent.clone());
            if Some(&parent) == top {
                paths.insert(PathBuf::new());
                continue;
            }
            if !met.insert(parent.clone()) {
                continue;
            }
            if met.len() > HIGHEST {
                return Ok(false);
            }
            let mut written = false;
            for row in self.record.of_item(&parent)? {
                if let Some(path) = self.record.path_of(&row)? {
                    paths.insert(path);
                    written = true;
                }
            }
            if !written {
                // A new folder is written by the one that holds it.
                let above = self.client.parents_of(&parent)?;
                if above.is_empty() && top.is_none() {
                    paths.insert(PathBuf::new());
                }
                left.extend(above);
            }
        }
        Ok(true)
    }

    /// Returns the folder at a path or the nearest one above that is as recorded; `None` if rules above
    /// it may not count.
    fn nearest(&mut self, path: &Path, top: Option<&ItemId>) -> Result<Option<(PathBuf, Enter)>> {
        let mut at = PathBuf::new();
        let mut target = Target { row: ROOT_ENTRY, item: top.cloned(), rules: Rules::default() };
        for name in path {
            let Some(row) = self.folder_row(target.row, name)? else { break };
            let Some(node) = self.client.node(&row.tree.item)? else { break };
            if self.options.not_here.contains(&node.id) {
                break;
            }
            let there = self.root.folder(&at).and_then(|above| above.stat(name));
            if !there.is_ok_and(|stat| record::is_same_entry(&row.disk, &stat)) {
                break;
            }
            let Some(rules) = self.rules_on_disk(&at, &target.rules) else { break };
            if !rules.is_empty() && !self.trashes {
                // Whose rules count in another owner's tree is decided from the top.
                return Ok(None);
            }
            at.push(name);
            target = Target { row: row.id, item: Some(node.id), rules };
        }
        let Target { row, item, rules } = target;
        let enter = Enter { path: at.clone(), item, new: false, row, has_rows: true, rules };
        Ok(Some((at, enter)))
    }

    fn folder_row(&self, parent: u64, name: &OsStr) -> Result<Option<EntryRecord>> {
        let directory = self.record.directory.id;
        let row = self.client.directories().entry_named(directory, parent, name.as_bytes())?;
        Ok(row.filter(|row| row.disk.kind == EntryKind::Folder))
    }
}
