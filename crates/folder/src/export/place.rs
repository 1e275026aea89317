//! Gives complete files and links their names, many at a time: the disk is waited for twice, and the
//! record is written twice, for all of them.
//!
//! The order survives a crash at any point: the files are durable; then what is about to happen is, by
//! an intent for each entry that is replaced and by the announced digest for each new one; then they
//! get their names; then the names are durable; then the rows are written and the intents removed.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use vfs_sync_client::{EntryKind, EntryRecord, Intent, IntentKind, RecordChange};

use super::super::destination::{self, Over};
use super::{Export, split};
use crate::disk::dir::{Folder, Kind, Stat};
use crate::disk::names;
use crate::error::{Error, Result};
use crate::report::{Problem, ProblemKind};
use crate::{record, seam};

/// The number of entries that get their names together.
const PLACED_TOGETHER: usize = 4_096;
/// The number of folders in which they are, each of which is kept open.
const FOLDERS_TOGETHER: usize = 128;
/// The time for which a complete file waits for others: at least, at most, and as a multiple of the
/// time that the last ones took.
const WAITS: (Duration, Duration, u32) = (Duration::from_secs(2), Duration::from_secs(30), 20);

/// A complete entry under its temporary name.
pub(super) struct Unplaced {
    pub(super) folder: Folder,
    pub(super) at: PathBuf,
    /// The unique part of its temporary name.
    pub(super) unique: String,
    pub(super) over: Over,
    pub(super) stat: Stat,
    /// The row of the entry at its place.
    pub(super) row: EntryRecord,
    /// The row before that.
    pub(super) before: Option<EntryRecord>,
    /// The bytes that are written.
    pub(super) bytes: u64,
}

impl Unplaced {
    fn remove(&self) {
        // If this fails, the next export removes it.
        let _ = self.folder.remove_file(&names::temporary_of(&self.unique));
    }

    fn intent(&self) -> Option<RecordChange> {
        let replaces = match &self.over {
            Over::Nothing => return None,
            Over::Expected(_) => self.before.as_ref().map(|row| row.disk.clone()),
            Over::Anything => None,
        };
        Some(RecordChange::Intend(Box::new(Intent {
            unique: self.unique.clone(),
            kind: IntentKind::Place,
            path: self.at.as_os_str().as_bytes().to_vec(),
            row: self.row.clone(),
            replaces,
        })))
    }

    /// Returns the row that announces a new file.
    fn coming(&self) -> Option<RecordChange> {
        let coming = self.row.disk.digest.filter(|_| self.row.disk.kind == EntryKind::File)?;
        let coming = Some(coming);
        let row = match &self.before {
            Some(before) => EntryRecord { coming, ..before.clone() },
            None => {
                let disk = record::not_on_disk(EntryKind::File, 0);
                EntryRecord { coming, disk, ..self.row.clone() }
            }
        };
        Some(RecordChange::Put(Box::new(row)))
    }
}

/// The entries that wait to be placed.
#[derive(Default)]
pub(super) struct Waiting {
    entries: Vec<Unplaced>,
    folders: usize,
    /// The time at which they are placed at the latest.
    due: Option<Instant>,
    /// The time that the last ones took.
    took: Duration,
}

impl Waiting {
    /// Returns the time at which the entries are to be placed, if there are any.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    fn is_full(&self) -> bool {
        self.entries.len() >= PLACED_TOGETHER
            || self.folders >= FOLDERS_TOGETHER
            || self.due.is_some_and(|due| due <= seam::instant())
    }
}

impl Export<'_> {
    /// Has an entry wait until it is placed together with others.
    pub(super) fn wait_to_place(&mut self, entry: Unplaced) -> Result<()> {
        let waiting = &mut self.waiting;
        let of_last = waiting.entries.last().map(|last| split(&last.at).0);
        waiting.folders += usize::from(of_last != Some(split(&entry.at).0));
        let wait = (waiting.took * WAITS.2).clamp(WAITS.0, WAITS.1);
        waiting.due.get_or_insert_with(|| seam::instant() + wait);
        self.unsynced += entry.bytes;
        waiting.entries.push(entry);
        if self.waiting.is_full() { self.place_all() } else { self.flush_if_full() }
    }

    /// Places the entries that wait, and writes their rows.
    pub(super) fn place_all(&mut self) -> Result<()> {
        if self.waiting.entries.is_empty() {
            return Ok(());
        }
        let waiting = std::mem::take(&mut self.waiting);
        let began = seam::instant();
        let mut entries = waiting.entries.into_iter();
        let mut placed = self.announce(entries.as_slice());
        while placed.is_ok()
            && let Some(entry) = entries.next()
        {
            placed = self.place(entry);
        }
        entries.for_each(|entry| entry.remove());
        placed?;
        self.flush()?;
        self.waiting.took = began.elapsed();
        Ok(())
    }

    /// Makes the files durable, and then what is about to happen to them.
    fn announce(&mut self, entries: &[Unplaced]) -> Result<()> {
        self.sync_disk()?;
        let mut announced: Vec<_> = entries.iter().filter_map(Unplaced::intent).collect();
        // The rows that announce new files were written before, and become durable with any later one.
        announced.extend(entries.iter().rev().find_map(Unplaced::coming));
        Ok(self.client.directories().write(self.record.directory.id, announced, true)?)
    }

    fn place(&mut self, entry: Unplaced) -> Result<()> {
        let Unplaced { folder, at, unique, over, stat, bytes, .. } = &entry;
        let mut row = entry.row.clone();
        let (_, name) = split(at);
        self.changed.add(split(at).0);
        let settled = RecordChange::Settle(unique.clone());
        // Where the disk confuses two names, a file just written is not overwritten.
        let confuses =
            |export: &Self| folder.stat(name).is_ok_and(|stat| export.written.contains(&stat.id));
        if !matches!(over, Over::Nothing) && confuses(self) {
            entry.remove();
            self.rows.push(settled);
            let detail = "the disk confuses its name with that of a file beside it";
            self.problem(Problem::new(at, ProblemKind::Differs, detail));
            return Ok(());
        }
        if let Over::Expected(seen) = over
            && self.stays_open(at, seen)
        {
            entry.remove();
            self.rows.push(settled);
            return Ok(());
        }
        let mut placed = self.give_name(folder, unique, name, at, *over);
        if self.options.force
            && matches!(&placed, Err(error) if error.kind() == io::ErrorKind::AlreadyExists)
            && !confuses(self)
        {
            // It appeared since the folder was read: it is kept like one that was there before.
            placed = self.give_name(folder, unique, name, at, Over::Anything);
        }
        match placed {
            Ok(kept) => {
                self.rows.push(settled);
                self.written.insert(stat.id);
                self.report.files_written += 1;
                self.report.bytes += bytes;
                if let Some(copy) = kept {
                    self.kept(at, &copy);
                }
                // A file that a program has changed or replaced since is a change of this one.
                let now = folder.stat(name).ok();
                let now = now.filter(|now| record::is_same_but_renamed(stat, now));
                if let Some(now) = now {
                    row.disk = self.record.disk(&now, row.disk.digest);
                }
                self.put(None, row)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                entry.remove();
                self.rows.push(settled);
                let detail = "another file appeared in its place during the export";
                self.problem(Problem::new(at, ProblemKind::Differs, detail));
                Ok(())
            }
            // The next use of the record finds out what was done.
            Err(error) => {
                entry.remove();
                self.unwritable(at, error)
            }
        }
    }

    fn give_name(
        &mut self,
        folder: &Folder,
        unique: &str,
        name: &OsStr,
        at: &Path,
        over: Over,
    ) -> io::Result<Option<OsString>> {
        let aside = &mut self.aside;
        let mut dispose = |folder: &Folder, name: &OsStr| match aside {
            // An old link has nothing that a program could still write to.
            Some(aside) if folder.stat(name)?.kind == Kind::File => {
                let displaced = aside.displace(folder, name, at, unique);
                displaced.or_else(|_| folder.remove_file(name))
            }
            _ => folder.remove_file(name),
        };
        destination::place(folder, unique, name, over, &self.device, &mut dispose)
    }

    /// Waits until everything that was written to the directory is durable.
    pub(super) fn sync_disk(&mut self) -> Result<()> {
        let what = format!("cannot write to {}", self.root.path().display());
        let noted = match &mut self.aside {
            Some(aside) => aside.changed(&mut self.changed),
            None => Ok(()),
        };
        let synced = noted.and_then(|()| self.changed.sync(&mut self.root));
        synced.map_err(Error::io(what))?;
        self.unsynced = 0;
        Ok(())
    }
}
