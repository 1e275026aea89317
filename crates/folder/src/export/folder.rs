//! Folders of an export: created, filled, and then given their permission bits.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use vfs_sync_client::{DiskState, EntryKind, EntryRecord, EntryState, Node, RecordChange};

use super::super::ignore::Rules;
use super::symlink::is_recorded_link;
use super::{Enter, Export, Parent};
use crate::disk::dir::{Folder, Kind, Stat, accept_refused_mode};
use crate::disk::{metadata, names};
use crate::error::Result;
use crate::report::{Change, Problem, ProblemKind};
use crate::{marker, record};

/// A placeholder for the permission bits that the disk finally reports.
const OF_THE_DISK: u32 = u32::MAX;

/// A folder that is completed after its contents.
pub(super) struct Leave {
    pub(super) path: PathBuf,
    /// The permission bits to set, which may forbid writing.
    mode: Option<u32>,
    /// The folder's row, without the final disk attributes.
    row: Option<EntryRecord>,
}

impl Export<'_> {
    /// Lets this user write to a folder whose bits forbid it, until the folder is completed.
    pub(super) fn make_writable(&mut self, disk: &Folder, path: &Path) {
        const NEEDS: u32 = 0o300;
        let Ok(stat) = disk.stat_self() else { return };
        if stat.mode & NEEDS == NEEDS || disk.set_mode(stat.mode | NEEDS).is_err() {
            return;
        }
        match self.leaving.iter_mut().rev().find(|leave| leave.path == path) {
            Some(leave) => leave.mode = Some(leave.mode.unwrap_or(stat.mode)),
            None => {
                self.leaving.push(Leave { path: path.to_owned(), mode: Some(stat.mode), row: None })
            }
        }
    }

    /// Creates a folder if needed; returns the step that fills it, to which the caller gives its
    /// rules.
    #[allow(clippy::too_many_arguments, reason = "what is known of one entry")]
    pub(super) fn folder(
        &mut self,
        disk: &Folder,
        at: &Path,
        name: &OsStr,
        node: &Node,
        stat: Option<Stat>,
        row: Option<EntryRecord>,
        parent: Parent<'_>,
    ) -> Result<Option<Enter>> {
        if !self.whole && self.client.parents_of(&node.id)?.len() > 1 {
            // Which of its places is written depends on the others.
            self.report.needs_whole = true;
            return Ok(None);
        }
        if let Some(first) = self.folders.get(&node.id) {
            let detail = format!("it was already written to {}", names::path_text(first));
            self.problem(Problem::new(at, ProblemKind::LinkedAgain, detail));
            return Ok(None);
        }
        if let Some(stat) = stat.filter(|stat| stat.kind != Kind::Folder) {
            if stat.kind == Kind::Link && !is_recorded_link(disk, name, row.as_ref()) {
                let detail = "a symbolic link is in its place";
                self.problem(Problem::new(at, ProblemKind::SymbolicLink, detail));
                return Ok(None);
            }
            if !self.clear(disk, at, name, &stat, row.as_ref(), "folder")? {
                return Ok(None);
            }
        }
        if self.leaves_out(stat.as_ref(), row.as_ref(), node, parent) {
            return Ok(None);
        }
        if let (Some(row), Some(stat)) = (&row, &stat)
            && self.is_other_disk(at, row, stat)?
        {
            self.folders.insert(node.id.clone(), at.to_owned());
            return Ok(None);
        }
        let is_there = stat.is_some_and(|stat| stat.kind == Kind::Folder);
        if is_there && marker::is_in(disk, name) {
            self.problem(marker::of_another(at));
            self.folders.insert(node.id.clone(), at.to_owned());
            return Ok(None);
        }
        if !is_there
            && !self.options.dry_run
            && let Err(error) = disk.create_folder(name)
        {
            self.unwritable(at, error)?;
            return Ok(None);
        }
        match is_there {
            false => {
                self.changed.add(at);
                self.report.folders_created += 1;
                self.change(Change::NewFolder, at);
            }
            true => self.report.unchanged += 1,
        }
        self.folders.insert(node.id.clone(), at.to_owned());
        let row = row.filter(|row| row.disk.kind == EntryKind::Folder);
        let has_rows = row.is_some();
        let id = row.as_ref().map_or_else(|| self.record.new_id(), |row| row.id);
        let wanted = metadata::mode_here(node, &self.client.user());
        // Bits that were changed here and not imported yet stay.
        let own = match (&row, &stat) {
            (Some(row), Some(stat)) => row.disk.mode != stat.mode,
            _ => false,
        };
        let is_set = is_there && row.as_ref().is_some_and(|row| row.tree.mode == wanted);
        let mode = if own || is_set { None } else { wanted };
        let mut tree = record::tree(node, parent.item);
        tree.mode = if own { row.as_ref().and_then(|row| row.tree.mode) } else { wanted };
        let (name, parent) = (name.as_bytes().to_vec(), parent.row);
        let (state, made) = (EntryState::Agreed, row.as_ref().is_some_and(|row| row.made));
        let before = row;
        let kept_mode = before.as_ref().filter(|_| own).map(|row| row.disk.mode);
        let disk = record::not_on_disk(EntryKind::Folder, kept_mode.unwrap_or(OF_THE_DISK));
        let row = EntryRecord { id, parent, name, disk, tree, state, coming: None, made };
        self.leaving.push(Leave { path: at.to_owned(), mode, row: Some(row) });
        let (path, item) = (at.to_owned(), Some(node.id.clone()));
        let rules = Rules::default();
        Ok(Some(Enter { path, item, new: !is_there, row: id, has_rows, rules }))
    }

    /// Returns whether another disk than recorded is mounted on a folder, or none any more. Reports
    /// it: the folder is left alone.
    pub(super) fn is_other_disk(
        &mut self,
        at: &Path,
        row: &EntryRecord,
        stat: &Stat,
    ) -> Result<bool> {
        let is_folder = row.disk.kind == EntryKind::Folder && stat.kind == Kind::Folder;
        let is_other = is_folder && self.record.is_other_disk(&mut self.root, at, row, stat)?;
        if is_other {
            let detail = "another disk than before is mounted here, or none: it is left alone";
            self.problem(Problem::new(at, ProblemKind::OtherDisk, detail));
        }
        Ok(is_other)
    }

    pub(super) fn leave(&mut self, Leave { path, mode, row }: Leave) {
        if self.options.dry_run {
            return;
        }
        let set = self.root.folder(&path).and_then(|folder| {
            let stat = folder.stat_self()?;
            match mode {
                Some(mode) if stat.mode != mode => {
                    self.changed.add(&path);
                    // The bits of a disk that refuses them stay, and are those to compare with.
                    folder.set_mode(mode).or_else(accept_refused_mode)?;
                    folder.stat_self()
                }
                _ => Ok(stat),
            }
        });
        let stat = match set {
            Ok(stat) => stat,
            Err(error) => return self.problem(Problem::unwritable(&path, &error)),
        };
        let Some(mut row) = row else { return };
        let own_mode = Some(row.disk.mode).filter(|mode| *mode != OF_THE_DISK);
        row.disk = self.record.disk(&stat, None);
        row.disk.mode = own_mode.unwrap_or(row.disk.mode);
        let before =
            self.client.directories().entry(self.record.directory.id, row.id).ok().flatten();
        let same = before.is_some_and(|before| {
            let DiskState { mtime, ctime, .. } = before.disk;
            let disk = DiskState { mtime, ctime, ..row.disk.clone() };
            before == EntryRecord { disk, ..row.clone() }
        });
        if !same {
            self.rows.push(RecordChange::Put(Box::new(row)));
        }
    }
}
