//! Rules for the entries of an export's folders: the tree's file with rules is written before
//! everything else in its folder.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;

use vfs_sync_client::{Child, EntryKind, EntryRecord, Node, RecordChange};
use vfs_sync_core::id::ItemId;

use super::super::ignore::{self, RULES_FILE, Rules, RulesFile};
use super::removal::Extra;
use super::{Export, ExportReport, Parent};
use crate::disk::dir::{Folder, Stat};
use crate::disk::metadata::{OnDisk, on_disk};
use crate::error::Result;

/// The rules of a folder that is exported.
pub(super) struct FolderRules {
    /// The rules, unless they cannot be used: then the folder is left as it is.
    pub(super) rules: Option<Rules>,
    /// True if the folder's file with rules was written or removed, or stays as it is.
    pub(super) done: bool,
}

impl Export<'_> {
    /// Brings the file with rules of a folder up to date, and returns the rules that then apply.
    /// `disk` is `None` for a folder that a dry run did not create.
    #[allow(clippy::too_many_arguments, reason = "what is known of one folder")]
    pub(super) async fn rules(
        &mut self,
        disk: Option<&Folder>,
        path: &Path,
        above: &Rules,
        children: &[Child],
        rows: &mut HashMap<OsString, EntryRecord>,
        parent: Parent<'_>,
        progress: &mut (dyn FnMut(&ExportReport) + Send),
    ) -> Result<FolderRules> {
        let (name, at) = (OsStr::new(RULES_FILE), path.join(RULES_FILE));
        let is_rules = |child: &&Child| {
            child.name == RULES_FILE
                && !child.shortcut
                && on_disk(child.node.object_type) == OnDisk::File
                && child.node.content.is_some()
        };
        let node = children.iter().find(is_rules).map(|child| &child.node);
        let row = rows.get(name).filter(|row| row.disk.kind == EntryKind::File).cloned();
        let (mut done, mut would_write) = (false, false);
        if let (Some(node), Some(disk)) = (node, disk) {
            done = true;
            let stat = disk.stat(name).ok();
            let file = self.file(disk, &at, name.to_owned(), node, stat, row.clone(), parent)?;
            would_write = self.options.dry_run && file.is_some();
            self.read_all(disk, path, file.into_iter().collect(), progress).await?;
            while !self.reading.is_empty() && !self.stop.is_cancelled() {
                self.write_next().await?;
            }
            self.place_all()?;
        } else if let (Some(row), Some(disk)) = (&row, disk)
            && self.options.delete
            && (self.options.yes || !self.record.is_before_rebuild())
            && children.iter().all(|child| child.name != RULES_FILE)
            && disk.stat(name).is_ok()
        {
            done = true;
            let row = Some(row.clone());
            self.remove_extra(&Extra { at: at.clone(), row, rules: above.clone() })?;
        }
        if done {
            rows.remove(name);
        }
        let found = match disk {
            Some(disk) if !would_write => ignore::read(disk, self.stop),
            _ => RulesFile::Missing,
        };
        let found = match (found, node) {
            (RulesFile::Missing, Some(node)) => match ignore::text_of(self.client, node).await {
                Err(_) if self.options.dry_run => RulesFile::Missing,
                text => text.map_or_else(RulesFile::Refused, RulesFile::Text),
            },
            (found, _) => found,
        };
        let rules = match found {
            RulesFile::Missing => Some(above.clone()),
            RulesFile::Text(text) => {
                self.parsed(path, &at, above, &text, node, row.as_ref(), parent.item)?
            }
            RulesFile::Refused(why) => {
                self.problem(ignore::refused(&at, &why));
                None
            }
        };
        Ok(FolderRules { rules, done })
    }

    /// Returns the rules of a folder with the file of this text.
    #[allow(clippy::too_many_arguments, reason = "what is known of one file")]
    fn parsed(
        &mut self,
        path: &Path,
        at: &Path,
        above: &Rules,
        text: &[u8],
        node: Option<&Node>,
        row: Option<&EntryRecord>,
        folder: Option<&ItemId>,
    ) -> Result<Option<Rules>> {
        let home = match folder {
            Some(folder) => self.client.node(folder)?.map(|folder| folder.owner),
            None => None,
        };
        if home.is_some_and(|home| home != self.client.user()) {
            let content = node.and_then(|node| node.content.as_ref());
            let known = [
                row.and_then(|row| row.disk.digest),
                row.and_then(|row| row.coming),
                content.map(|content| content.digest),
            ];
            let changed_here = ignore::is_changed_here(text, &known);
            if !self.options.trust.counts(text, changed_here)? {
                if !self.options.live {
                    self.problem(ignore::untrusted(at));
                }
                return Ok(Some(above.clone()));
            }
        }
        match ignore::parse(text) {
            Ok(parsed) => {
                // The import of a live directory has reported them.
                if !self.options.live {
                    self.report.problems.extend(parsed.problems(at));
                }
                Ok(Some(above.with(path, parsed.matcher)))
            }
            Err(why) => {
                self.problem(ignore::refused(at, &why));
                Ok(None)
            }
        }
    }

    /// Returns the rules that apply in a folder on the disk that the tree no longer has; `None` if
    /// its file with rules cannot be used.
    pub(super) fn rules_on_disk(&mut self, path: &Path, above: &Rules) -> Option<Rules> {
        let at = path.join(RULES_FILE);
        let found = match self.root.folder(path) {
            Ok(folder) => ignore::read(&folder, self.stop),
            Err(error) => RulesFile::Refused(error.to_string()),
        };
        let why = match found {
            RulesFile::Missing => return Some(above.clone()),
            // Also rules that would not count otherwise: in doubt an entry stays.
            RulesFile::Text(text) => match ignore::parse(&text) {
                Ok(parsed) => return Some(above.with(path, parsed.matcher)),
                Err(why) => why,
            },
            RulesFile::Refused(why) => why,
        };
        self.problem(ignore::refused(&at, &why));
        None
    }

    /// Takes the ignored entries of a folder out of those on its disk and returns them. Their rows
    /// are removed: they stay as they are.
    pub(super) fn take_ignored(
        &mut self,
        rules: &Rules,
        path: &Path,
        there: &mut HashMap<Vec<u8>, (OsString, Stat)>,
        rows: &mut HashMap<OsString, EntryRecord>,
    ) -> HashMap<Vec<u8>, OsString> {
        let ignored = there.extract_if(|_, (name, stat)| rules.ignore_entry(path, name, stat));
        let ignored: HashMap<_, _> = ignored.map(|(key, (name, _))| (key, name)).collect();
        for name in ignored.values() {
            if let Some(row) = rows.remove(name) {
                self.rows.push(RecordChange::Remove(row.id));
            }
        }
        ignored
    }

    /// Returns whether an item is ignored under the name that it would have on the disk. Its row is
    /// removed: its absence is no deletion.
    pub(super) fn is_ignored(
        &mut self,
        rules: &Rules,
        path: &Path,
        name: &OsStr,
        node: &Node,
        rows: &mut HashMap<OsString, EntryRecord>,
    ) -> bool {
        if !ignores(rules, path, name, node) {
            return false;
        }
        self.report.ignored += 1;
        let of_item = |row: &EntryRecord| row.tree.item == node.id;
        if rows.get(name).is_some_and(of_item)
            && let Some(row) = rows.remove(name)
        {
            self.rows.push(RecordChange::Remove(row.id));
        }
        true
    }
}

/// Returns whether the rules ignore an item under a name in the folder at `path`.
pub(super) fn ignores(rules: &Rules, path: &Path, name: &OsStr, node: &Node) -> bool {
    let is_folder = on_disk(node.object_type) == OnDisk::Folder;
    let size = node.content.as_ref().map_or(0, |content| content.size);
    rules.ignore(path, name, is_folder, size)
}
