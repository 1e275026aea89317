//! Removes entries that are on the disk and not in the tree.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use vfs_sync_client::{EntryKind, EntryRecord, EntryState, RecordChange};

use super::super::ignore::{RULES_FILE, Rules};
use super::super::{decision, destination};
use super::{Export, own_files, split};
use crate::disk::digest::digest;
use crate::disk::dir::{Folder, Kind, Stat};
use crate::disk::{link, names};
use crate::error::Result;
use crate::report::{Change, Problem, ProblemKind, count_text};
use crate::{marker, record};

/// An entry that is on the disk and not in the tree.
pub(super) struct Extra {
    pub(super) at: PathBuf,
    pub(super) row: Option<EntryRecord>,
    /// The rules of the folder that contains the entry.
    pub(super) rules: Rules,
}

/// The outcome of visiting an entry that may be removed.
enum Removable {
    /// A folder whose entries are to be removed first.
    Folder {
        row: Box<EntryRecord>,
        names: Vec<OsString>,
        /// The permission bits to restore if the folder stays.
        mode: Option<u32>,
    },
    /// Any other entry, which was removed or stays.
    File { removed: bool },
    /// An entry that the rules ignore, and that stays.
    Ignored,
}

impl Export<'_> {
    /// Removes the entries that are not in the tree and that are as recorded.
    pub(super) fn remove_extras(&mut self) -> Result<()> {
        let extras = std::mem::take(&mut self.extras);
        if self.record.is_before_rebuild() && !self.options.yes {
            let mut weight = 0;
            for row in extras.iter().filter_map(|extra| extra.row.as_ref()) {
                weight += self.record.weight(row)?;
            }
            if self.record.needs_confirmation(weight) {
                self.report.held = weight;
                return Ok(());
            }
        }
        for extra in &extras {
            if self.stop.is_cancelled() {
                return Ok(());
            }
            let row = extra.row.as_ref();
            self.excluding = row.is_some_and(|row| self.options.not_here.contains(&row.tree.item));
            self.remove_extra(extra)?;
            self.excluding = false;
            self.flush_if_full()?;
        }
        Ok(())
    }

    /// Removes an entry that is as recorded; in a folder, it removes all such entries. Returns
    /// whether the entry was removed as a whole, or would be in a dry run.
    pub(super) fn remove_extra(&mut self, Extra { at, row, rules }: &Extra) -> Result<bool> {
        self.place_all()?;
        struct Frame {
            at: PathBuf,
            row: Box<EntryRecord>,
            /// The entries left to visit, last first.
            left: Vec<(OsString, Option<EntryRecord>)>,
            /// The number of entries that stay, and of those that do because they are ignored.
            stay: usize,
            ignored: usize,
            /// The rules that apply in the folder.
            rules: Rules,
            /// The permission bits to restore if the folder stays.
            mode: Option<u32>,
        }
        let mut frames: Vec<Frame> = Vec::new();
        let mut next = Some((at.clone(), row.clone()));
        loop {
            let removed = match next.take() {
                Some((at, row)) => {
                    if self.stop.is_cancelled() {
                        return Ok(false);
                    }
                    let above = frames.last().map_or(rules, |frame| &frame.rules).clone();
                    match self.removable(&at, row, &above)? {
                        Removable::Folder { row, mut names, mode } => {
                            // The entries of a folder whose rules cannot be used stay.
                            let rules = self.rules_on_disk(&at, &above);
                            let stay =
                                if rules.is_none() { std::mem::take(&mut names).len() } else { 0 };
                            let rules = rules.unwrap_or_default();
                            // The rules go last, and only if nothing stays to which they apply.
                            names.sort_by_key(|name| name == RULES_FILE);
                            let mut rows = self.record.rows(row.id)?;
                            if let Ok(disk) = self.root.folder(&at) {
                                let left = names.into_iter();
                                names = left
                                    .filter_map(|name| {
                                        self.without_leftover(&disk, &at, name, &rows, &[])
                                    })
                                    .collect();
                            }
                            let with_row = |name: OsString| {
                                let row = rows.remove(&name);
                                (name, row)
                            };
                            let left = names.into_iter().rev().map(with_row).collect();
                            frames.push(Frame { at, row, left, stay, ignored: 0, rules, mode });
                            None
                        }
                        Removable::Ignored => {
                            if let Some(frame) = frames.last_mut() {
                                frame.ignored += 1;
                            }
                            Some(false)
                        }
                        Removable::File { removed } => Some(removed),
                    }
                }
                None => match frames.pop() {
                    None => return Ok(true),
                    Some(Frame { at, row, stay, ignored, mode, .. }) => {
                        if ignored > 0 {
                            self.ignored_left(&at, ignored);
                        }
                        Some(self.remove_folder(&at, &row, stay, mode)?)
                    }
                },
            };
            if let Some(removed) = removed {
                match frames.last_mut() {
                    None => return Ok(removed),
                    Some(frame) => frame.stay += usize::from(!removed),
                }
            }
            if let Some(frame) = frames.last_mut()
                && let Some((name, row)) = frame.left.pop()
            {
                if name == RULES_FILE && frame.stay > 0 {
                    frame.stay += 1;
                    continue;
                }
                next = Some((frame.at.join(name), row));
            }
        }
    }

    /// Removes a folder after its entries, `stay` of which could not be removed.
    fn remove_folder(
        &mut self,
        at: &Path,
        row: &EntryRecord,
        stay: usize,
        mode: Option<u32>,
    ) -> Result<bool> {
        if self.options.dry_run {
            if stay == 0 {
                self.report.removed += 1;
                self.change(Change::Deleted, at);
            }
            return Ok(stay == 0);
        }
        let forgotten = stay == 0 && self.forget_living(row)?;
        self.root.forget(at);
        let (parent, name) = split(at);
        match self.root.folder(parent).and_then(|folder| folder.remove_folder(name)) {
            Ok(()) => {
                self.report.removed += 1;
                self.changed.add(parent);
                self.rows.push(RecordChange::Remove(row.id));
                return Ok(true);
            }
            // The entries that stay were reported.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                if let (Some(mode), Ok(folder)) = (mode, self.root.folder(at)) {
                    let _ = folder.set_mode(mode);
                }
            }
            Err(error) => self.unwritable(at, error)?,
        }
        if forgotten {
            self.rows.push(RecordChange::Put(Box::new(row.clone())));
        }
        Ok(false)
    }

    /// Removes the row of an entry that is about to go although its item lives on elsewhere: after a
    /// crash between the two, the entry must not count as deleted by the user. Returns whether there
    /// is such an item.
    fn forget_living(&self, row: &EntryRecord) -> Result<bool> {
        let lives = !self.excluding && self.client.node(&row.tree.item)?.is_some();
        if lives {
            let gone = vec![RecordChange::Remove(row.id)];
            self.client.directories().write(self.record.directory.id, gone, false)?;
        }
        Ok(lives)
    }

    /// Removes a file, or opens a folder whose entries are to be removed first; reports an entry
    /// that stays.
    fn removable(
        &mut self,
        at: &Path,
        row: Option<EntryRecord>,
        rules: &Rules,
    ) -> Result<Removable> {
        const STAYS: Removable = Removable::File { removed: false };
        const GONE: Removable = Removable::File { removed: true };
        if self.own.as_ref().is_some_and(|own| own.starts_with(at)) {
            self.problem(own_files(at));
            return Ok(STAYS);
        }
        let (parent, name) = split(at);
        let folder = match self.root.folder(parent) {
            Ok(folder) => folder,
            Err(error) => {
                self.unwritable(at, error)?;
                return Ok(STAYS);
            }
        };
        let stat = match folder.stat(name) {
            Ok(stat) => stat,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(GONE),
            Err(error) => {
                self.unwritable(at, error)?;
                return Ok(STAYS);
            }
        };
        if rules.ignore_entry(parent, name, &stat) {
            if let Some(row) = row {
                self.rows.push(RecordChange::Remove(row.id));
            }
            return Ok(Removable::Ignored);
        }
        let Some(row) = row else {
            if self.excluding {
                self.left_of_excluded(at);
                return Ok(STAYS);
            }
            let detail =
                "it was created here and is not in the tree: import it, or remove it yourself";
            self.problem(Problem::new(at, ProblemKind::Kept, detail));
            return Ok(STAYS);
        };
        if row.state == EntryState::Local {
            self.problem(Problem::rejected(at));
            return Ok(STAYS);
        }
        match (row.disk.kind, stat.kind) {
            (EntryKind::Folder, Kind::Folder) if self.is_other_disk(at, &row, &stat)? => {}
            (EntryKind::Folder, Kind::Folder) if marker::is_in(&folder, name) => {
                self.problem(marker::of_another(at));
            }
            (EntryKind::Folder, Kind::Folder) => {
                let bind = self.bits_bind && !self.options.dry_run;
                let mode = bind && stat.mode & 0o700 != 0o700;
                let opened = self.root.folder(at).and_then(|folder| {
                    if mode {
                        folder.set_mode(stat.mode | 0o700)?;
                    }
                    folder.names()
                });
                match opened {
                    Ok(names) => {
                        let mode = mode.then_some(stat.mode);
                        return Ok(Removable::Folder { row: Box::new(row), names, mode });
                    }
                    Err(error) => self.unwritable(at, error)?,
                }
            }
            (EntryKind::File, Kind::File) | (EntryKind::Link, Kind::Link) => {
                match self.is_recorded(&folder, name, &stat, &row) {
                    Ok(true) if self.options.dry_run => {
                        self.report.removed += 1;
                        self.change(Change::Deleted, at);
                        return Ok(GONE);
                    }
                    Ok(true) if self.stays_open(at, &stat) => {}
                    Ok(true) => {
                        let forgotten = self.forget_living(&row)?;
                        match self.remove_file(&folder, at, name, &stat, &row)? {
                            Ok(true) => {
                                self.report.removed += 1;
                                self.rows.push(RecordChange::Remove(row.id));
                                return Ok(GONE);
                            }
                            Ok(false) => self.changed_here(at),
                            Err(error) => self.unwritable(at, error)?,
                        }
                        if forgotten {
                            self.rows.push(RecordChange::Put(Box::new(row)));
                        }
                    }
                    Ok(false) => self.changed_here(at),
                    Err(error) => self.problem(Problem::unreadable(at, &error)),
                }
            }
            _ => self.changed_here(at),
        }
        Ok(STAYS)
    }

    /// Removes a file that is as recorded, to the trash if the tree deleted its item.
    pub(super) fn remove_file(
        &mut self,
        folder: &Folder,
        at: &Path,
        name: &OsStr,
        stat: &Stat,
        row: &EntryRecord,
    ) -> Result<io::Result<bool>> {
        let deleted = self.trashes && self.client.node(&row.tree.item)?.is_none();
        self.changed.add(split(at).0);
        // A folder is excluded to have its space.
        let mut aside = self.aside.as_mut().filter(|_| !self.excluding);
        if let Some(aside) = aside.as_mut().filter(|_| deleted)
            && let Ok(done) = aside.discard(folder, name, at, stat, &self.device)
        {
            return Ok(Ok(done));
        }
        let mut dispose = |folder: &Folder, name: &OsStr| {
            let Some(aside) = &mut aside else { return folder.remove_file(name) };
            let kept = aside.displace(folder, name, at, &names::unique());
            kept.or_else(|_| folder.remove_file(name))
        };
        Ok(destination::remove_expected(folder, name, stat, &mut dispose))
    }

    pub(super) fn is_recorded(
        &self,
        folder: &Folder,
        name: &OsStr,
        stat: &Stat,
        row: &EntryRecord,
    ) -> io::Result<bool> {
        if !self.options.checksum && record::is_unchanged(&row.disk, stat) {
            return Ok(true);
        }
        let coming = row.coming.is_some();
        let touched = row.disk.mode != stat.mode || row.disk.mtime != stat.modified;
        if (row.disk.size != stat.size || touched) && !coming {
            return Ok(false);
        }
        let found = match stat.kind {
            Kind::Link => link::digest(&folder.read_link(name)?),
            _ => digest(folder.open_file(name)?.0)?.0,
        };
        let known = decision::is_removal(found, touched, &record::facts(row));
        Ok(known && folder.stat(name)? == *stat)
    }

    /// Reports an entry of a folder that is excluded from this device: its bytes are only here.
    fn left_of_excluded(&mut self, at: &Path) {
        let detail = "it was made or changed here, in a folder that is excluded from this device: move it \
                      elsewhere, or see `vfs-sync folder include`";
        self.problem(Problem::new(at, ProblemKind::Excluded, detail));
    }

    /// Reports a folder that stays because of ignored entries in it.
    fn ignored_left(&mut self, at: &Path, ignored: usize) {
        let them = match ignored {
            1 => "1 entry that is".to_owned(),
            _ => format!("{} entries that are", count_text(ignored)),
        };
        let why =
            if self.excluding { "is excluded from this device" } else { "was deleted in the tree" };
        let detail = format!("it {why}, and stays here with {them} ignored");
        self.problem(Problem::new(at, ProblemKind::IgnoredLeft, detail));
    }

    fn changed_here(&mut self, at: &Path) {
        if self.excluding {
            return self.left_of_excluded(at);
        }
        let detail =
            "it is no longer in the tree, and was changed here: import it, or remove it yourself";
        self.problem(Problem::new(at, ProblemKind::Kept, detail));
    }
}
