//! Existing entries of a folder on the disk: found, recovered, or moved out of the way.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use vfs_sync_client::{Child, EntryKind, EntryRecord, EntryState, RecordChange};

use super::super::{aside, destination};
use super::removal::Extra;
use super::symlink::is_recorded_link;
use super::{Export, own_files};
use crate::disk::digest::digest;
use crate::disk::dir::{Folder, Kind, Stat};
use crate::disk::names;
use crate::error::Result;
use crate::record;
use crate::report::{Change, Problem, ProblemKind};

/// The entries of a folder with their names, keyed as the disk compares names.
pub(super) type Entries = HashMap<Vec<u8>, (OsString, Stat)>;

impl Export<'_> {
    /// Lists the entries of a folder, keyed as the disk compares names. Files left by interrupted
    /// exports are removed, or recovered if they may be the user's work. Returns `None` if the folder
    /// cannot be read to its end, and reports it.
    pub(super) fn there(
        &mut self,
        disk: &Folder,
        path: &Path,
        rows: &HashMap<OsString, EntryRecord>,
        children: &[Child],
    ) -> Result<Option<Entries>> {
        let mut there = HashMap::new();
        let names = match disk.names() {
            Ok(names) => names,
            Err(error) => {
                self.problem(Problem::unreadable(path, &error));
                return Ok(None);
            }
        };
        for name in names {
            if name == aside::OWN {
                continue;
            }
            let Some(name) = self.without_leftover(disk, path, name, rows, children) else {
                continue;
            };
            if self.own.as_ref().is_some_and(|own| *own == path.join(&name)) {
                self.problem(own_files(&path.join(&name)));
            } else if let Ok(stat) = disk.stat(&name) {
                there.insert(self.rules.key(&name), (name, stat));
            }
        }
        Ok(Some(there))
    }

    /// Removes a file left by an interrupted export, or recovers it if it may be the user's work.
    /// Returns the name of what is there then.
    pub(super) fn without_leftover(
        &mut self,
        disk: &Folder,
        path: &Path,
        name: OsString,
        rows: &HashMap<OsString, EntryRecord>,
        children: &[Child],
    ) -> Option<OsString> {
        if names::is_temporary(&name) {
            if !self.options.dry_run {
                let _ = disk.remove_file(&name);
            }
            return None;
        }
        if !names::is_displaced(&name) {
            return Some(name);
        }
        if self.options.dry_run {
            return None;
        }
        self.recover(disk, path, &name, rows, children)
    }

    /// Gives a recorded entry the spelling that its item's name has now, where the disk takes both
    /// for one name. Returns its new attributes, unless it keeps its name.
    pub(super) fn respell(
        &mut self,
        disk: &Folder,
        path: &Path,
        (from, to): (&OsStr, &OsStr),
        rows: &mut HashMap<OsString, EntryRecord>,
    ) -> Option<Stat> {
        if from == to || !self.options.delete || self.options.dry_run || rows.contains_key(to) {
            return None;
        }
        let row = rows.get(from)?;
        let before = disk.stat(from).ok().filter(|stat| record::is_same_entry(&row.disk, stat))?;
        // In doubt the disk may take them for two names after all.
        let is_one = disk.stat(to).is_ok_and(|stat| stat.id == before.id);
        is_one.then(|| destination::respell(disk, from, to))?.ok()?;
        self.changed.add(path);
        let mut row = rows.remove(from)?;
        let after = disk.stat(to).ok()?;
        if record::is_unchanged(&row.disk, &before) && record::is_same_but_renamed(&before, &after)
        {
            row.disk.ctime = after.changed;
        }
        row.name = to.as_bytes().to_vec();
        self.report.moved += 1;
        self.rows.push(RecordChange::Put(Box::new(row.clone())));
        rows.insert(to.to_owned(), row);
        Some(after)
    }

    /// Handles a file that an interrupted export moved aside: recorded or known content is removed,
    /// anything else gets a name.
    fn recover(
        &mut self,
        disk: &Folder,
        path: &Path,
        name: &OsStr,
        rows: &HashMap<OsString, EntryRecord>,
        children: &[Child],
    ) -> Option<OsString> {
        let found = disk.open_file(name).and_then(|(file, _)| digest(file));
        if let Ok((found, _)) = found {
            let recorded = rows.values().any(|row| row.disk.digest == Some(found));
            let contents = children.iter().filter_map(|child| child.node.content.as_ref());
            if recorded || contents.into_iter().any(|content| content.digest == found) {
                let _ = disk.remove_file(name);
                return None;
            }
        }
        match destination::keep(disk, name, OsStr::new("recovered"), &self.device) {
            Ok(copy) => {
                let detail = "an interrupted export had moved it from its place";
                self.problem(Problem::new(&path.join(&copy), ProblemKind::ConflictedCopy, detail));
                Some(copy)
            }
            Err(error) => {
                self.problem(Problem::unwritable(&path.join(name), &error));
                None
            }
        }
    }

    /// Moves an entry of another type out of the way: an entry that is as recorded is removed, any
    /// other is kept under another name. Returns `false` if the entry stays in place.
    pub(super) fn clear(
        &mut self,
        disk: &Folder,
        at: &Path,
        name: &OsStr,
        stat: &Stat,
        row: Option<&EntryRecord>,
        wanted: &str,
    ) -> Result<bool> {
        let live = self.options.live;
        let changed_type = || {
            let is = match stat.kind {
                Kind::File => "a file",
                Kind::Folder => "a folder",
                Kind::Link => "a symbolic link",
                Kind::Special(what) => what,
            };
            let see = if live { "" } else { ": see --force" };
            let detail = format!("{is} is in the place of a {wanted}{see}");
            Problem::new(at, ProblemKind::TypeChanged, detail)
        };
        // A file's times may not tell yet whether it changed: then its bytes do.
        let is_recorded = row.is_some_and(|row| match stat.kind {
            Kind::File => self.is_recorded(disk, name, stat, row).unwrap_or(false),
            _ => stat.kind == Kind::Link && is_recorded_link(disk, name, Some(row)),
        });
        let as_recorded = |row: &EntryRecord| {
            // What is in a folder is compared with its own row.
            let folder = stat.kind == Kind::Folder && row.disk.kind == EntryKind::Folder;
            row.state == EntryState::Agreed && (is_recorded || folder)
        };
        let goes = self.options.delete && row.is_some_and(as_recorded);
        if !self.options.force && !goes {
            self.problem(changed_type());
            return Ok(false);
        }
        if self.own.as_ref().is_some_and(|own| own.starts_with(at)) {
            self.problem(own_files(at));
            return Ok(false);
        }
        if self.options.dry_run {
            return self.list_cleared(at, stat, row);
        }
        self.root.forget(at);
        if let Some(row) = row.filter(|row| row.state == EntryState::Agreed) {
            if is_recorded {
                if self.stays_open(at, stat) {
                    return Ok(false);
                }
                match self.remove_file(disk, at, name, stat, row)? {
                    Ok(true) => {
                        self.report.removed += 1;
                        return Ok(true);
                    }
                    Ok(false) => {}
                    Err(error) => {
                        self.unwritable(at, error)?;
                        return Ok(false);
                    }
                }
            }
            if stat.kind == Kind::Folder && self.options.delete {
                self.remove_extra(&Extra {
                    at: at.to_owned(),
                    row: Some(row.clone()),
                    rules: self.rules_here.clone(),
                })?;
                if disk.stat(name).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
                    return Ok(true);
                }
            }
        }
        if stat.kind == Kind::Folder && disk.remove_folder(name).is_ok() {
            self.report.removed += 1;
            return Ok(true);
        }
        self.root.forget(at);
        if !self.options.force {
            self.problem(changed_type());
            return Ok(false);
        }
        match destination::keep(disk, name, name, &self.device) {
            Ok(copy) => {
                self.kept(at, &copy);
                Ok(true)
            }
            Err(error) => {
                self.unwritable(at, error)?;
                Ok(false)
            }
        }
    }

    /// Lists an entry that a dry run would move out of the way.
    fn list_cleared(&mut self, at: &Path, stat: &Stat, row: Option<&EntryRecord>) -> Result<bool> {
        let row = row.filter(|row| row.state == EntryState::Agreed);
        let removed = match (stat.kind, row) {
            (Kind::File | Kind::Link, Some(row)) if record::is_unchanged(&row.disk, stat) => {
                self.report.removed += 1;
                self.change(Change::Deleted, at);
                true
            }
            (Kind::Folder, Some(row)) if self.options.delete => self.remove_extra(&Extra {
                at: at.to_owned(),
                row: Some(row.clone()),
                rules: self.rules_here.clone(),
            })?,
            _ => false,
        };
        if !removed {
            self.change(Change::Copy, at);
        }
        Ok(true)
    }

    pub(super) fn kept(&mut self, at: &Path, copy: &OsStr) {
        let copy = at.with_file_name(copy);
        let detail =
            format!("it differs from what was written here: kept as {}", names::path_text(&copy));
        self.problem(Problem::new(at, ProblemKind::ConflictedCopy, detail));
    }
}
