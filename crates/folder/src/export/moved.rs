//! Entries whose items were moved or renamed in the tree: renamed on the disk.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use vfs_sync_client::{
    Child, EntryKind, EntryRecord, EntryState, Intent, IntentKind, RecordChange,
};
use vfs_sync_core::id::ItemId;

use super::super::ignore::Rules;
use super::super::record;
use super::existing::Entries;
use super::rules::ignores;
use super::{Export, Parent, split};
use crate::disk::dir::{Folder, Kind, Stat};
use crate::disk::metadata::{OnDisk, on_disk};
use crate::disk::names::{self, DiskName};
use crate::error::Result;

/// An entry that was renamed to its present place.
pub(super) struct Brought {
    /// The path that it had before.
    pub(super) from: PathBuf,
    pub(super) stat: Stat,
    pub(super) row: EntryRecord,
}

impl Export<'_> {
    /// Renames the entries of a folder that get other names in it, so that each has its place before
    /// another item takes its old one. Those that take each other's names stay for now.
    pub(super) fn rename_within(
        &mut self,
        (disk, path, parent): (&Folder, &Path, Parent<'_>),
        (children, named): (&[&Child], &[DiskName]),
        rules: &Rules,
        there: &mut Entries,
        rows: &mut HashMap<OsString, EntryRecord>,
    ) -> Result<()> {
        if !self.options.delete || self.options.dry_run {
            return Ok(());
        }
        let here: HashSet<&ItemId> = rows.values().map(|row| &row.tree.item).collect();
        let gets_other_name = |(child, name): &(&&Child, &DiskName)| {
            here.contains(&child.node.id)
                && rows.get(&name.name).is_none_or(|row| row.tree.item != child.node.id)
                && !self.options.not_here.contains(&child.node.id)
                && !ignores(rules, path, &name.name, &child.node)
        };
        let mut left: Vec<_> = children.iter().zip(named).filter(gets_other_name).collect();
        // Each round gives free places to the next; a chain has a round for each of its links.
        while !left.is_empty() {
            let mut blocked = Vec::new();
            let before = left.len();
            for (child, name) in left {
                if there.contains_key(&self.rules.key(&name.name)) {
                    blocked.push((child, name));
                    continue;
                }
                let at = path.join(&name.name);
                let Some(brought) = self.bring(disk, &at, &name.name, child, parent)? else {
                    continue;
                };
                if let (from, old) = split(&brought.from)
                    && from == path
                {
                    there.remove(&self.rules.key(old));
                    rows.remove(old);
                }
                there.insert(self.rules.key(&name.name), (name.name.clone(), brought.stat));
                rows.insert(name.name.clone(), brought.row);
            }
            if blocked.len() == before {
                break;
            }
            left = blocked;
        }
        Ok(())
    }

    /// Renames the entry of an item from the place where it was recorded to its present place, which
    /// is free. Returns `None` if there is no such entry, or the disk cannot rename it: then it is
    /// written anew.
    pub(super) fn bring(
        &mut self,
        disk: &Folder,
        at: &Path,
        name: &OsStr,
        child: &Child,
        parent: Parent<'_>,
    ) -> Result<Option<Brought>> {
        if !self.options.delete || self.options.dry_run || child.shortcut {
            return Ok(None);
        }
        let is_folder = match on_disk(child.node.object_type) {
            OnDisk::Folder if !self.folders.contains_key(&child.node.id) => true,
            OnDisk::File => false,
            _ => return Ok(None),
        };
        for row in self.record.of_item(&child.node.id)? {
            let is_agreed = row.state == EntryState::Agreed && row.coming.is_none();
            let same_kind = (row.disk.kind == EntryKind::Folder) == is_folder;
            if !is_agreed || !same_kind || self.is_still_a_place(&row, name, child, parent)? {
                continue;
            }
            if let Some(found) = self.bring_from(&row, disk, at, name, child, parent)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Returns whether the recorded place of a row is still one of its item's.
    fn is_still_a_place(
        &self,
        row: &EntryRecord,
        name: &OsStr,
        child: &Child,
        parent: Parent<'_>,
    ) -> Result<bool> {
        if row.parent == parent.row {
            return Ok(row.name == name.as_bytes());
        }
        let parents = self.client.parents_of(&child.node.id)?;
        let has_parent = match &row.tree.parent {
            Some(parent) => parents.contains(parent),
            None => parents.is_empty(),
        };
        Ok(has_parent && row.tree.name == child.name)
    }

    fn bring_from(
        &mut self,
        row: &EntryRecord,
        disk: &Folder,
        at: &Path,
        name: &OsStr,
        child: &Child,
        parent: Parent<'_>,
    ) -> Result<Option<Brought>> {
        let Some(old) = self.record.path_of(row)? else { return Ok(None) };
        let holds_own_files = self.own.as_ref().is_some_and(|own| own.starts_with(&old));
        if holds_own_files || at.starts_with(&old) {
            return Ok(None);
        }
        let (old_parent, old_name) = split(&old);
        let Ok(from) = self.root.folder(old_parent) else { return Ok(None) };
        let Ok(before) = from.stat(old_name) else { return Ok(None) };
        let is_it = record::is_same_entry(&row.disk, &before)
            && !self.brought.contains(&before.id)
            && !self.record.is_elsewhere(&before)
            && (before.kind == Kind::Folder) == (row.disk.kind == EntryKind::Folder);
        if !is_it {
            return Ok(None);
        }
        if before.kind == Kind::Folder {
            // What waits is under its old path.
            self.place_all()?;
            self.root.forget(&old);
        }
        let mut row = row.clone();
        let unique = self.intend_to_move(&row, at, child, parent)?;
        self.rows.push(RecordChange::Settle(unique));
        if from.rename_to(old_name, disk, name).is_err() {
            return Ok(None);
        }
        [old_parent, split(at).0].into_iter().for_each(|path| self.changed.add(path));
        let Ok(after) = disk.stat(name) else { return Ok(None) };
        let was_as_recorded = record::is_unchanged(&row.disk, &before);
        if was_as_recorded && record::is_same_but_renamed(&before, &after) {
            row.disk.ctime = after.changed;
        }
        let row = moved_row(&row, name, child, parent);
        self.record.place(&row);
        self.brought.insert(after.id);
        self.report.moved += 1;
        self.rows.push(RecordChange::Put(Box::new(row.clone())));
        Ok(Some(Brought { from: old, stat: after, row }))
    }

    /// Announces that the entry of a row is renamed to `at`; returns the intent's name. A crash of this
    /// process does not lose it.
    fn intend_to_move(
        &self,
        row: &EntryRecord,
        at: &Path,
        child: &Child,
        parent: Parent<'_>,
    ) -> Result<String> {
        let unique = names::unique();
        let intent = Intent {
            unique: unique.clone(),
            kind: IntentKind::Move,
            path: at.as_os_str().as_bytes().to_vec(),
            row: moved_row(row, split(at).1, child, parent),
            replaces: None,
        };
        let intent = RecordChange::Intend(Box::new(intent));
        self.client.directories().write(self.record.directory.id, vec![intent], false)?;
        Ok(unique)
    }
}

/// Returns the row of an entry at the place to which its item was moved.
fn moved_row(row: &EntryRecord, name: &OsStr, child: &Child, parent: Parent<'_>) -> EntryRecord {
    let mut row = row.clone();
    (row.parent, row.name) = (parent.row, name.as_bytes().to_vec());
    (row.tree.parent, row.tree.name) = (parent.item.cloned(), child.name.clone());
    row
}
