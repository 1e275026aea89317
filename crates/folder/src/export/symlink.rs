//! Symbolic links of an export: compared with the disk and the record, and made without following
//! them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use vfs_sync_client::{EntryKind, EntryRecord, EntryState, Node};

use super::super::destination::{self, Over};
use super::place::Unplaced;
use super::{Export, Parent};
use crate::disk::dir::{Folder, Kind, Stat};
use crate::disk::{link, names};
use crate::error::Result;
use crate::record;
use crate::report::{Change, Problem, ProblemKind};

/// Returns whether the link `name` has the target that its row recorded.
pub(super) fn is_recorded_link(disk: &Folder, name: &OsStr, row: Option<&EntryRecord>) -> bool {
    row.filter(|row| row.disk.kind == EntryKind::Link).is_some_and(|row| {
        disk.read_link(name).is_ok_and(|target| row.disk.digest == Some(link::digest(&target)))
    })
}

impl Export<'_> {
    /// Makes a link, or changes its target.
    #[allow(clippy::too_many_arguments, reason = "what is known of one entry")]
    pub(super) fn link(
        &mut self,
        disk: &Folder,
        at: &Path,
        name: &OsStr,
        (node, target): (&Node, &OsStr),
        stat: Option<Stat>,
        row: Option<EntryRecord>,
        parent: Parent<'_>,
    ) -> Result<()> {
        if self.leaves_out(stat.as_ref(), row.as_ref(), node, parent) {
            return Ok(());
        }
        let mut over = Over::Nothing;
        let mut before = None;
        if let Some(stat) = stat.filter(|stat| stat.kind == Kind::Link) {
            let found = match disk.read_link(name) {
                Ok(found) => link::digest(&found),
                Err(error) => {
                    self.problem(Problem::unreadable(at, &error));
                    return Ok(());
                }
            };
            before = row.clone().filter(|row| row.disk.kind == EntryKind::Link);
            if found == link::digest(target) {
                self.report.unchanged += 1;
                return self.record_link(name, (node, target), stat, before, parent);
            }
            let as_recorded = |row: &EntryRecord| {
                row.state == EntryState::Agreed && row.disk.digest == Some(found)
            };
            over = match &before {
                Some(row) if as_recorded(row) => Over::Expected(stat),
                _ if self.options.force => Over::Anything,
                _ => {
                    let detail = "a link to another target is in its place: see --force";
                    self.problem(Problem::new(at, ProblemKind::Differs, detail));
                    return Ok(());
                }
            };
        }
        if !self.options.links.may_make(self.client, node, at, target)? {
            let detail = format!(
                "another user may have written this link to {}: see `vfs-sync folder allow` and \
                 `export --allow-links`",
                target.to_string_lossy()
            );
            self.problem(Problem::new(at, ProblemKind::LinkNotAllowed, detail));
            return Ok(());
        }
        if let Some(stat) = stat.filter(|stat| stat.kind != Kind::Link)
            && !self.clear(disk, at, name, &stat, row.as_ref(), "symbolic link")?
        {
            return Ok(());
        }
        if self.options.dry_run {
            self.report.files_written += 1;
            self.change(if stat.is_some() { Change::Content } else { Change::NewFile }, at);
            return Ok(());
        }
        let unique = names::unique();
        match destination::write_link(disk, &unique, target) {
            Ok(stat) => {
                let row = self.link_row(name, (node, target), &stat, before.as_ref(), parent);
                let (folder, at) = (disk.clone(), at.to_owned());
                self.wait_to_place(Unplaced {
                    folder,
                    at,
                    unique,
                    over,
                    stat,
                    row,
                    before,
                    bytes: 0,
                })
            }
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::PERM.raw_os_error()) => {
                let detail = format!("the disk has no symbolic links: {error}");
                self.problem(Problem::new(at, ProblemKind::Unwritable, detail));
                Ok(())
            }
            Err(error) => self.unwritable(at, error),
        }
    }

    fn record_link(
        &mut self,
        name: &OsStr,
        (node, target): (&Node, &OsStr),
        stat: Stat,
        before: Option<EntryRecord>,
        parent: Parent<'_>,
    ) -> Result<()> {
        let row = self.link_row(name, (node, target), &stat, before.as_ref(), parent);
        self.put(before.as_ref(), row)
    }

    fn link_row(
        &mut self,
        name: &OsStr,
        (node, target): (&Node, &OsStr),
        stat: &Stat,
        before: Option<&EntryRecord>,
        parent: Parent<'_>,
    ) -> EntryRecord {
        let id = before.map_or_else(|| self.record.new_id(), |row| row.id);
        EntryRecord {
            id,
            parent: parent.row,
            name: name.as_bytes().to_vec(),
            disk: self.record.disk(stat, Some(link::digest(target))),
            tree: record::tree(node, parent.item),
            state: EntryState::Agreed,
            coming: None,
            made: before.is_some_and(|row| row.made),
        }
    }
}
