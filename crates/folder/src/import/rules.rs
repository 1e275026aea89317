//! Ignored entries of an import: the rules of each folder, and items whose entries got an ignored
//! name.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use vfs_sync_client::{Child, DiskState, EntryKind, EntryRecord, Node, RecordChange};
use vfs_sync_core::id::UserId;

use super::super::ignore::{self, RULES_FILE, Rules, RulesFile};
use super::super::record;
use super::deletion::Gone;
use super::{Import, Step};
use crate::disk::dir::{Kind, Stat};
use crate::disk::metadata::{OnDisk, on_disk};
use crate::error::Result;

/// The rules of a folder, as far as they are known.
pub(super) enum FolderRules {
    Known(Rules),
    /// The recorded file with rules is missing, perhaps only while a program saves it.
    Missing,
    /// The rules cannot be used.
    Refused,
}

/// The ignored entries that an import met.
#[derive(Default)]
pub(super) struct Ignored {
    /// The ignored entries by inode, except for folders.
    files: HashMap<u64, Vec<Stat>>,
    /// The ignored folders, which were not entered.
    folders: Vec<(PathBuf, Stat)>,
}

/// Returns whether an item with the name of a file with rules has any.
fn is_rules(node: &Node) -> bool {
    on_disk(node.object_type) == OnDisk::File && node.content.is_some()
}

impl Import<'_> {
    /// Reads the rules that apply in a folder.
    pub(super) fn rules(
        &mut self,
        step: &Step,
        home: &UserId,
        rows: &HashMap<OsString, EntryRecord>,
        there: &HashMap<String, Child>,
    ) -> Result<FolderRules> {
        let Step { path, rules: above, .. } = step;
        // A folder that cannot be opened is reported by its listing.
        let Ok(folder) = self.scanner.folder(path) else {
            return Ok(FolderRules::Known(above.clone()));
        };
        let at = path.join(RULES_FILE);
        let row = rows.get(OsStr::new(RULES_FILE));
        let row = row.filter(|row| row.disk.inode != 0 && row.disk.kind == EntryKind::File);
        let child = there.get(RULES_FILE).filter(|child| !child.shortcut);
        let child = child.map(|child| &child.node);
        let text = match ignore::read(&folder, self.stop) {
            RulesFile::Text(text) => text,
            RulesFile::Missing if row.is_some() && !self.deletes_at_once() => {
                if self.looks.is_none() || !self.options.delete {
                    let why = "it is missing: put it back, or import with --delete";
                    self.problem(ignore::refused(&at, why));
                }
                return Ok(FolderRules::Missing);
            }
            // The rules of the tree count before an export has written them.
            RulesFile::Missing => match child.filter(|node| row.is_none() && is_rules(node)) {
                None => return Ok(FolderRules::Known(above.clone())),
                Some(node) => match ignore::text_of_blocking(self.client, node) {
                    Ok(text) => text,
                    Err(why) => {
                        self.problem(ignore::refused(&at, &why));
                        return Ok(FolderRules::Refused);
                    }
                },
            },
            RulesFile::Refused(why) => {
                self.problem(ignore::refused(&at, &why));
                return Ok(FolderRules::Refused);
            }
        };
        if *home != self.client.user() {
            let content = child.and_then(|node| node.content.as_ref());
            let known = [
                row.and_then(|row| row.disk.digest),
                row.and_then(|row| row.coming),
                content.map(|content| content.digest),
            ];
            let changed_here = ignore::is_changed_here(&text, &known);
            if !self.scanner.trust.counts(&text, changed_here)? {
                self.problem(ignore::untrusted(&at));
                return Ok(FolderRules::Known(above.clone()));
            }
        }
        match ignore::parse(&text) {
            Ok(parsed) => {
                parsed.problems(&at).into_iter().for_each(|problem| self.problem(problem));
                Ok(FolderRules::Known(above.with(path, parsed.matcher)))
            }
            Err(why) => {
                self.problem(ignore::refused(&at, &why));
                Ok(FolderRules::Refused)
            }
        }
    }

    /// Returns whether a missing entry counts as deleted without another look.
    fn deletes_at_once(&self) -> bool {
        self.options.delete && self.looks.is_none()
    }

    /// Counts the ignored entries of a folder and removes their rows: they stay as they are, on the
    /// disk and in the tree.
    pub(super) fn take_ignored(
        &mut self,
        path: &Path,
        ignored: Vec<(OsString, Stat)>,
        rows: &mut HashMap<OsString, EntryRecord>,
    ) -> Result<()> {
        for (name, stat) in ignored {
            self.report.ignored += 1;
            if let Some(row) = rows.remove(&name) {
                self.forget(&row)?;
            }
            if self.options.delete {
                match stat.kind {
                    Kind::Folder => self.ignored.folders.push((path.join(name), stat)),
                    _ => self.ignored.files.entry(stat.id.1).or_default().push(stat),
                }
            }
        }
        Ok(())
    }

    /// Removes the row of an entry that became ignored.
    pub(super) fn forget(&mut self, row: &EntryRecord) -> Result<()> {
        self.row(RecordChange::Remove(row.id));
        self.commit_if_full()
    }

    /// Finds the missing entries that were moved to an ignored name, also inside of ignored folders.
    pub(super) fn find_ignored(&mut self, gone: &[Gone]) -> Result<()> {
        if gone.is_empty() || self.ignored.folders.is_empty() {
            return Ok(());
        }
        let mut wanted: HashSet<u64> = HashSet::new();
        let mut left: Vec<EntryRecord> = gone.iter().map(|gone| gone.row.clone()).collect();
        while let Some(row) = left.pop() {
            wanted.insert(row.disk.inode);
            if row.disk.kind == EntryKind::Folder {
                left.extend(self.client.directories().entries(self.record.directory.id, row.id)?);
            }
        }
        let mut folders = std::mem::take(&mut self.ignored.folders);
        while let Some((path, stat)) = folders.pop() {
            if self.stop.is_cancelled() {
                return Ok(());
            }
            let mut met = |stat: Stat| {
                if wanted.contains(&stat.id.1) {
                    self.ignored.files.entry(stat.id.1).or_default().push(stat);
                }
            };
            met(stat);
            // Another disk has inodes of its own.
            if self.record.is_elsewhere(&stat) {
                continue;
            }
            let Ok(folder) = self.scanner.folder(&path) else { continue };
            for name in folder.names().unwrap_or_default() {
                match folder.stat(&name) {
                    Ok(stat) if stat.kind == Kind::Folder => folders.push((path.join(name), stat)),
                    Ok(stat) => met(stat),
                    Err(_) => {}
                }
            }
        }
        Ok(())
    }

    /// Returns whether an entry is on the disk under an ignored name.
    pub(super) fn has_ignored_name(&self, disk: &DiskState) -> bool {
        let there = self.ignored.files.get(&disk.inode);
        there.is_some_and(|there| there.iter().any(|stat| record::is_same_entry(disk, stat)))
    }
}
