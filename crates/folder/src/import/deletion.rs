//! Deletes the items whose entries are missing from the directory.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use vfs_sync_client::{EntryRecord, Node, RecordChange};
use vfs_sync_core::id::ItemId;
use vfs_sync_core::item::Name;

use super::super::ignore::Rules;
use super::{Import, is_ignored, not_permitted};
use crate::disk::link;
use crate::error::Result;
use crate::report::Change;
use crate::{decision, record, seam};

/// An entry that was in the directory and is missing now.
pub(super) struct Gone {
    pub(super) row: EntryRecord,
    pub(super) at: PathBuf,
    /// The rules of the folder that the entry was in.
    pub(super) rules: Rules,
}

impl Import<'_> {
    /// Deletes the items of missing entries that are in the tree as recorded.
    pub(super) fn delete_gone(&mut self) -> Result<()> {
        let claimed = |import: &Self, gone: &Gone| import.record.claimed.contains(&gone.row.id);
        let mut gone = std::mem::take(&mut self.gone);
        gone.retain(|gone| !claimed(self, gone));
        if self.options.forget_missing {
            return gone.iter().try_for_each(|gone| self.forget(&gone.row));
        }
        if self.has_rules && !gone.is_empty() {
            self.report.needs_whole = true;
            self.report.missing = gone.len() as u64;
            return Ok(());
        }
        if let Some(looks) = &mut self.looks {
            let missing = gone.iter().map(|gone| gone.row.id);
            let confirmed = looks.confirm(missing, seam::instant());
            let all = gone.len();
            gone.retain(|gone| confirmed.contains(&gone.row.id));
            self.report.missing = (all - gone.len()) as u64;
        }
        let mut weight = 0;
        for one in &gone {
            weight += self.record.weight(&one.row)?;
        }
        let rows = || gone.iter().map(|gone| gone.row.id);
        // After a question: if more is gone than was asked about, all of it waits again.
        // Once deletions are held, an entry that is new does not make them few.
        let held_before = self.looks.as_ref().is_some_and(|looks| looks.holds && weight > 0);
        let holds = match self.looks.as_ref().and_then(|looks| looks.covers(rows())) {
            Some(confirmed) => !confirmed,
            None => !self.options.yes && (held_before || self.record.needs_confirmation(weight)),
        };
        if holds {
            if let Some(looks) = &mut self.looks {
                looks.holds = true;
            }
            self.report.held += weight;
            self.report.held_rows.extend(rows());
            gone.clear();
        }
        self.find_ignored(&gone)?;
        for Gone { row, at, rules } in gone {
            if self.stop.is_cancelled() {
                self.report.interrupted = true;
                return Ok(());
            }
            self.delete_one(&row, &at, &rules)?;
        }
        Ok(())
    }

    /// Deletes the item of a missing entry with everything in it that is as recorded.
    pub(super) fn delete_one(&mut self, row: &EntryRecord, at: &Path, rules: &Rules) -> Result<()> {
        let planned = self.plan(row, at, rules)?;
        if planned.first().is_none_or(|(node, ..)| node.id != row.tree.item)
            && self.client.node(&row.tree.item)?.is_some()
        {
            self.report.kept += 1;
        }
        for (node, parent, at) in planned {
            let parents = self.client.parents_of(&node.id)?;
            if parents.len() > 1
                && let Some(parent) = &parent
            {
                // It is in other folders too.
                self.batch.unlink(&node.id, parent);
            } else if !self.client.sharing().may_delete(&node.id)? {
                self.problem(not_permitted(&at, &node.owner, node.access_level));
                self.report.kept += 1;
                continue;
            } else {
                self.batch.delete(&node.id);
            }
            self.report.deleted += 1;
            self.change(Change::Deleted, &at);
            self.commit_if_full()?;
        }
        self.row(RecordChange::Remove(row.id));
        self.commit_if_full()
    }

    /// Plans the deletion of a missing entry, from the top down: items that are as recorded, and
    /// folders that contain only such items. What is ignored, got an ignored name or
    /// is excluded from this device stays.
    fn plan(
        &self,
        row: &EntryRecord,
        at: &Path,
        rules: &Rules,
    ) -> Result<Vec<(Node, Option<ItemId>, PathBuf)>> {
        struct Planned {
            node: Node,
            parent: Option<ItemId>,
            at: PathBuf,
            above: Option<usize>,
            stays: bool,
        }
        let mut planned: Vec<Planned> = Vec::new();
        let mut left = vec![(row.clone(), at.to_owned(), None)];
        while let Some((row, at, above)) = left.pop() {
            let node = self.client.node(&row.tree.item)?;
            let node = match node {
                Some(node)
                    if self.is_as_recorded(&row, &node)?
                        && !self.has_ignored_name(&row.disk)
                        && !self.scanner.not_here.contains(&node.id)
                        && !is_ignored(rules, at.parent().unwrap_or(Path::new("")), &row) =>
                {
                    node
                }
                _ => {
                    if let Some(above) = above
                        && self.client.node(&row.tree.item)?.is_some()
                    {
                        let above: usize = above;
                        planned[above].stays = true;
                    }
                    continue;
                }
            };
            let index = planned.len();
            let children = self.client.children(Some(&node.id))?;
            let rows = self.client.directories().entries(self.record.directory.id, row.id)?;
            let mut rows: HashMap<ItemId, EntryRecord> = rows
                .into_iter()
                .filter(|row| !self.record.claimed.contains(&row.id))
                .map(|row| (row.tree.item.clone(), row))
                .collect();
            let mut stays = false;
            for child in children {
                match rows.remove(&child.node.id) {
                    Some(row) => {
                        let at = at.join(OsStr::from_bytes(&row.name));
                        left.push((row, at, Some(index)));
                    }
                    // A shortcut is deleted with its folder; a new entry in the folder keeps it.
                    None => stays |= !child.shortcut,
                }
            }
            let parent = row.tree.parent.clone();
            planned.push(Planned { node, parent, at, above, stays });
        }
        for index in (0..planned.len()).rev() {
            if planned[index].stays
                && let Some(above) = planned[index].above
            {
                planned[above].stays = true;
            }
        }
        let going = planned.into_iter().filter(|one| !one.stays);
        Ok(going.map(|one| (one.node, one.parent, one.at)).collect())
    }

    /// Returns whether an item has the place and the state that the record has.
    fn is_as_recorded(&self, row: &EntryRecord, node: &Node) -> Result<bool> {
        let parents = self.client.parents_of(&node.id)?;
        let is_here = match &row.tree.parent {
            Some(parent) => parents.contains(parent),
            None => parents.is_empty(),
        };
        let name = node.name.as_ref().map(Name::as_str).unwrap_or_default();
        let same = is_here
            && name == row.tree.name
            && record::has_same_metadata(&row.tree, node, &self.client.user());
        Ok(decision::is_deletion(&record::facts(row), link::digest_of(node), same))
    }
}
