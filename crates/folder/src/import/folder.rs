//! Folders of the directory: matched with a folder of the tree, moved, or created.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use vfs_sync_client::{Child, EntryRecord, TreeState};
use vfs_sync_core::id::UserId;
use vfs_sync_core::item::ObjectType;

use super::super::ignore::Rules;
use super::super::record;
use super::super::scan::ScannedEntry;
use super::moves::Move;
use super::rows::without_metadata;
use super::tree_folder::{TreeFolder, TreeFolderState};
use super::{Import, Step};
use crate::disk::metadata::{OnDisk, on_disk};
use crate::error::Result;
use crate::report::{Change, Problem, ProblemKind};

impl Import<'_> {
    /// Matches a folder of the disk with one of the tree; returns the step that reads it, to which
    /// the caller gives its rules.
    #[allow(clippy::too_many_lines, reason = "one case after the other")]
    pub(super) fn take_folder(
        &mut self,
        place: &TreeFolder,
        home: &UserId,
        (row, moved_row): (Option<EntryRecord>, Option<EntryRecord>),
        child: Option<&Child>,
        seen: &ScannedEntry,
        at: &Path,
    ) -> Result<Option<Step>> {
        let step = |state, row: u64, known, held| {
            let place = TreeFolder::new(state, row, true);
            Some(Step { path: at.to_owned(), place, known, held, rules: Rules::default() })
        };
        let moved = moved_row.is_some();
        let row = row.or(moved_row);
        let disk = self.record.disk(&seen.stat, None);
        if let Some(row) = row {
            // Another disk is mounted there, or no longer: nothing in it counts as gone, and the
            // row stays, so that it counts at the next import too.
            let held =
                !moved && self.record.is_other_disk(self.scanner.root(), at, &row, &seen.stat)?;
            if held && self.options.delete {
                let detail = "another disk than before is mounted here, or none: it is left alone; \
                              import without --delete takes it as it is now";
                self.problem(Problem::new(at, ProblemKind::OtherDisk, detail));
                self.report.unchanged += 1;
                return Ok(None);
            }
            let node = self.client.node(&row.tree.item)?;
            let Some(node) = node else {
                if moved {
                    self.record.claimed.insert(row.id);
                }
                self.report.stale += u64::from(!moved);
                self.report.unchanged += 1;
                let above = place.clone();
                let (name, mode) = (seen.name.clone(), seen.stat.mode);
                let record = Box::new(EntryRecord {
                    parent: place.0.row,
                    name: seen.disk_name.as_bytes().to_vec(),
                    disk,
                    ..row.clone()
                });
                return Ok(step(
                    TreeFolderState::Gone { above, name, mode, record },
                    row.id,
                    false,
                    held,
                ));
            };
            let done = match moved {
                true => Some(self.take_move(place, home, &row, &node, seen, at)?),
                false => None,
            };
            if done == Some(Move::NotPermitted) {
                return self.take_new_folder(place, child, seen, at);
            }
            self.report.stale += u64::from(done == Some(Move::Cycle));
            let change = self.mode_change(Some(&row.disk), &seen.stat);
            let takes_mode = !change.is_empty();
            if change.is_empty() {
                self.report.unchanged += u64::from(!moved);
            } else if self.may_write(&node, at) {
                self.report.metadata_changed += 1;
                self.change(Change::Attributes, at);
                self.batch.set_metadata(&node.id, change);
            }
            let tree = TreeState { mode: Some(seen.stat.mode), ..row.tree.clone() };
            let tree = if takes_mode { tree } else { row.tree.clone() };
            let tree = match done {
                Some(Move::Done) => self.moved_tree(place, seen, tree),
                _ => tree,
            };
            self.put_row(&row, row.id, place, seen, disk, tree, row.made);
            self.commit_if_full()?;
            let known = !moved && !held && record::is_same_entry(&row.disk, &seen.stat);
            return Ok(step(TreeFolderState::There(node.id), row.id, known, held));
        }
        self.take_new_folder(place, child, seen, at)
    }

    /// Imports a folder that has no row in the record.
    pub(super) fn take_new_folder(
        &mut self,
        place: &TreeFolder,
        child: Option<&Child>,
        seen: &ScannedEntry,
        at: &Path,
    ) -> Result<Option<Step>> {
        let disk = self.record.disk(&seen.stat, None);
        let id = self.record.new_id();
        let joins = child.filter(|child| on_disk(child.node.object_type) == OnDisk::Folder);
        let (state, tree, made) = match joins {
            Some(child) => {
                self.report.unchanged += 1;
                let tree = without_metadata(record::tree(&child.node, place.id().as_ref()));
                (TreeFolderState::There(child.node.id.clone()), tree, false)
            }
            None => {
                let parent = self.ensure_created(place)?;
                let name = match child {
                    Some(_) => self.copy_name(place, &seen.name, seen.stat.mtime)?,
                    None => seen.name.clone(),
                };
                if child.is_some() {
                    self.report.conflicts.add(at, &name);
                }
                self.report.folders_created += 1;
                self.change(Change::NewFolder, at);
                let change = self.mode_change(None, &seen.stat);
                let mode = (!change.is_empty()).then_some(seen.stat.mode);
                let parent = parent.as_ref();
                let item = self.batch.create(ObjectType::Folder, parent, name.clone(), change);
                let tree = TreeState {
                    item: item.clone(),
                    parent: parent.cloned(),
                    name: name.as_str().to_owned(),
                    blob_id: None,
                    digest: None,
                    mtime: None,
                    mode,
                };
                (TreeFolderState::New(item), tree, !place.is_new())
            }
        };
        self.put(id, place, seen, disk, tree, made);
        self.commit_if_full()?;
        let place = TreeFolder::new(state, id, false);
        let rules = Rules::default();
        Ok(Some(Step { path: at.to_owned(), place, known: false, held: false, rules }))
    }
}
