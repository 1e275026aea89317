//! The folders at which an import of a part of the directory begins.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use vfs_sync_client::{EntryKind, EntryRecord};

use super::super::ignore::RULES_FILE;
use super::super::record;
use super::rules::FolderRules;
use super::tree_folder::{TreeFolder, TreeFolderState};
use super::{Import, Step};
use crate::disk::dir::Kind;
use crate::disk::metadata::{OnDisk, on_disk};
use crate::error::Result;

impl Import<'_> {
    /// Returns the steps that visit `folders`: for each the folder itself or, if it is not where it was
    /// recorded, the nearest one above that is. Ignored folders are left out.
    pub(super) fn steps(&mut self, folders: &BTreeSet<PathBuf>, top: &Step) -> Result<Vec<Step>> {
        let mut steps = BTreeMap::new();
        for path in folders {
            if let Some(step) = self.nearest(path, top)? {
                steps.insert(step.path.clone(), step);
            }
        }
        // The last is visited first.
        Ok(steps.into_values().rev().collect())
    }

    fn nearest(&mut self, path: &Path, top: &Step) -> Result<Option<Step>> {
        let mut step = top.clone();
        for name in path {
            let Some(row) = self.row_named(&step, name)? else { return Ok(Some(step)) };
            let at = step.path.join(name);
            let stat = match self.scanner.folder(&step.path).and_then(|above| above.stat(name)) {
                Ok(stat) if stat.kind == Kind::Folder => stat,
                _ => return Ok(Some(step)),
            };
            let node = self.client.node(&row.tree.item)?;
            let node = node.filter(|node| on_disk(node.object_type) == OnDisk::Folder);
            let is_it = row.disk.kind == EntryKind::Folder
                && record::is_same_entry(&row.disk, &stat)
                && !self.scanner.not_here.contains(&row.tree.item);
            let Some(node) = node.filter(|_| is_it) else { return Ok(Some(step)) };
            let home = match step.place.id() {
                Some(id) => self.client.node(&id)?.map(|node| node.owner),
                None => None,
            };
            let home = home.unwrap_or_else(|| self.client.user());
            let rules_row = self.row_named(&step, OsStr::new(RULES_FILE))?;
            let rows: HashMap<OsString, EntryRecord> =
                rules_row.into_iter().map(|row| (OsString::from(RULES_FILE), row)).collect();
            // The export before this import has written the tree's rules.
            let FolderRules::Known(rules) = self.rules(&step, &home, &rows, &HashMap::new())?
            else {
                return Ok(Some(step));
            };
            if rules.ignore_entry(&step.path, name, &stat) {
                self.has_rules = true;
                return Ok(None);
            }
            let place = TreeFolder::new(TreeFolderState::There(node.id), row.id, true);
            step = Step { path: at, place, known: true, held: false, rules };
        }
        Ok(Some(step))
    }

    fn row_named(&self, step: &Step, name: &OsStr) -> Result<Option<EntryRecord>> {
        let (directory, parent) = (self.record.directory.id, step.place.0.row);
        Ok(self.client.directories().entry_named(directory, parent, name.as_bytes())?)
    }
}
