//! Files of an export: compared with the disk and the record.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use vfs_sync_client::{Child, EntryKind, EntryRecord, EntryState, Node, TreeState};
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::id::ItemId;
use vfs_sync_core::item::Name;

use super::super::decision::{self, ToDisk};
use super::super::destination::{Over, Wanted};
use super::super::merge::awaits_content;
use super::symlink::is_recorded_link;
use super::{Export, Parent};
use crate::disk::digest::digest;
use crate::disk::dir::{Folder, Kind, Stat};
use crate::disk::{metadata, names};
use crate::error::Result;
use crate::record;
use crate::report::{Change, Problem, ProblemKind};

/// A file to write.
pub(super) struct ToWrite {
    pub(super) name: OsString,
    pub(super) item: ItemId,
    pub(super) wanted: Wanted,
    pub(super) over: Over,
    /// The number of the file's row, old or new.
    pub(super) row: u64,
    pub(super) before: Option<EntryRecord>,
    /// The row of the folder that contains the file.
    pub(super) parent: u64,
    pub(super) tree: TreeState,
}

impl ToWrite {
    /// Returns the file's row before it is written: the present one, or one that records that no
    /// file existed.
    pub(super) fn coming(&self) -> EntryRecord {
        let coming = Some(self.wanted.digest);
        if let Some(before) = &self.before {
            return EntryRecord { coming, ..before.clone() };
        }
        EntryRecord {
            id: self.row,
            parent: self.parent,
            name: self.name.as_bytes().to_vec(),
            disk: record::not_on_disk(EntryKind::File, 0),
            tree: self.tree.clone(),
            state: EntryState::Agreed,
            coming,
            made: false,
        }
    }
}

impl Export<'_> {
    /// Leaves out files whose content is on its way and that have the name of another item, so that
    /// the other one keeps its name on the disk until both are merged.
    pub(super) fn let_wait(
        &mut self,
        path: &Path,
        children: &mut Vec<Child>,
        rows: &HashMap<OsString, EntryRecord>,
    ) {
        if children.iter().all(|child| !awaits_content(&child.node)) {
            return;
        }
        let here: HashSet<&ItemId> = rows.values().map(|row| &row.tree.item).collect();
        let waits = |child: &Child| awaits_content(&child.node) && !here.contains(&child.node.id);
        let mut first: HashMap<Name, ItemId> = HashMap::new();
        for child in children.iter().filter(|child| !child.shortcut && !waits(child)) {
            if let Some(name) = child.node.name.clone() {
                let id = &child.node.id;
                let least = first.entry(name).or_insert_with(|| id.clone());
                if *id < *least {
                    *least = id.clone();
                }
            }
        }
        let mut freed = HashSet::new();
        children.retain(|child| {
            let name = child.node.name.clone().filter(|name| first.contains_key(name));
            let Some(name) = name.filter(|_| waits(child)) else { return true };
            self.report.problems.add(no_content(&path.join(names::to_disk(&child.name))));
            if child.name == name.as_str() {
                freed.insert(name);
            }
            false
        });
        for child in children {
            if let Some(name) = child.node.name.clone().filter(|name| freed.contains(name))
                && first.get(&name) == Some(&child.node.id)
            {
                child.name = name.as_str().to_owned();
            }
        }
    }

    /// Compares a file with the disk; returns it if it has to be written.
    #[allow(clippy::too_many_arguments, reason = "what is known of one entry")]
    pub(super) fn file(
        &mut self,
        disk: &Folder,
        at: &Path,
        name: OsString,
        node: &Node,
        stat: Option<Stat>,
        row: Option<EntryRecord>,
        parent: Parent<'_>,
    ) -> Result<Option<ToWrite>> {
        let Some(content) = &node.content else {
            self.problem(no_content(at));
            return Ok(None);
        };
        let wanted = Wanted {
            size: content.size,
            digest: content.digest,
            mtime: Some(node.modified_at()),
            mode: metadata::mode_here(node, &self.client.user()),
        };
        let mut tree = record::tree(node, parent.item);
        (tree.mtime, tree.mode) = (wanted.mtime, wanted.mode);
        let id = row.as_ref().map_or_else(|| self.record.new_id(), |row| row.id);
        let write = |name, over, before| ToWrite {
            name,
            item: node.id.clone(),
            wanted,
            over,
            row: id,
            before,
            parent: parent.row,
            tree: tree.clone(),
        };
        if self.leaves_out(stat.as_ref(), row.as_ref(), node, parent) {
            return Ok(None);
        }
        let Some(stat) = stat else { return Ok(Some(write(name, Over::Nothing, row))) };
        if stat.kind != Kind::File {
            if stat.kind == Kind::Link
                && !self.options.force
                && !is_recorded_link(disk, &name, row.as_ref())
            {
                let detail = "a symbolic link is in its place: see --force";
                self.problem(Problem::new(at, ProblemKind::SymbolicLink, detail));
                return Ok(None);
            }
            let cleared = self.clear(disk, at, &name, &stat, row.as_ref(), "file")?;
            return Ok(cleared.then(|| write(name, Over::Nothing, row)));
        }
        let mut row = row.filter(|row| row.disk.kind == EntryKind::File);
        let found = match self.look(disk, &name, &stat, row.as_ref(), &wanted) {
            Ok(found) => found,
            Err(error) => {
                self.problem(Problem::unreadable(at, &error));
                return Ok(None);
            }
        };
        if let Some(row) = &mut row
            && found.is_some()
            && row.coming == found
            && row.disk.digest != found
        {
            // An export that was killed wrote it, and the next may be killed too: its row says so
            // before it announces another content.
            row.disk = self.record.disk(&stat, found);
        }
        let known = row.as_ref().map(record::facts);
        match decision::to_disk(wanted.digest, found, known.as_ref()) {
            ToDisk::KeepBytes => {
                self.take_as_it_is(disk, at, &name, &stat, row, id, parent.row, &wanted, tree)?;
                return Ok(None);
            }
            ToDisk::Replace if self.stays_open(at, &stat) => return Ok(None),
            ToDisk::Replace => return Ok(Some(write(name, Over::Expected(stat), row))),
            ToDisk::Differs => {}
        }
        if self.options.force {
            return Ok(Some(write(name, Over::Anything, row)));
        }
        let detail = match &row {
            Some(row) if row.state == EntryState::Local => {
                "the server rejected the file in its place: see `vfs-sync rejected`"
            }
            Some(_) if self.options.live => "the file in its place was changed here",
            None if self.options.live => "another content is in its place",
            Some(_) => "the file in its place was changed here: import it, or see --force",
            None => "another content is in its place: see --force",
        };
        self.problem(Problem::new(at, ProblemKind::Differs, detail));
        Ok(None)
    }

    /// Returns the digest of a file that may have the tree's bytes or recorded ones; `None` for any
    /// other file, and for one that is changing.
    fn look(
        &self,
        disk: &Folder,
        name: &OsStr,
        stat: &Stat,
        row: Option<&EntryRecord>,
        wanted: &Wanted,
    ) -> io::Result<Option<Sha256Digest>> {
        if let Some(row) = row
            && !self.options.checksum
            && record::is_unchanged(&row.disk, stat)
            && row.disk.digest.is_some()
        {
            return Ok(row.disk.digest);
        }
        let may_be_ours = row.is_some_and(|row| row.disk.size == stat.size || row.coming.is_some());
        if stat.size != wanted.size && !may_be_ours {
            return Ok(None);
        }
        let (found, _) = digest(disk.open_file(name)?.0)?;
        // A file that changes at this moment is the user's work.
        Ok(Some(found).filter(|_| disk.stat(name).is_ok_and(|now| now == *stat)))
    }

    /// Records a file that has the tree's bytes, with the tree's time and bits.
    #[allow(clippy::too_many_arguments, reason = "what is known of one entry")]
    fn take_as_it_is(
        &mut self,
        disk: &Folder,
        at: &Path,
        name: &OsStr,
        stat: &Stat,
        row: Option<EntryRecord>,
        id: u64,
        parent: u64,
        wanted: &Wanted,
        mut tree: TreeState,
    ) -> Result<()> {
        let (mut mode, mut mtime) = (wanted.mode, wanted.mtime);
        let (mut own_mode, mut own_time) = (None, None);
        if let Some(row) = &row {
            // Changes here that are not imported yet stay.
            own_mode = (row.disk.mode != stat.mode).then_some(row.disk.mode);
            own_time = (row.disk.mtime != stat.modified).then_some(row.disk.mtime);
            mode = mode.filter(|_| own_mode.is_none() && row.tree.mode != wanted.mode);
            mtime = mtime.filter(|_| own_time.is_none() && row.tree.mtime != wanted.mtime);
            if own_mode.is_some() {
                tree.mode = row.tree.mode;
            }
            if own_time.is_some() {
                tree.mtime = row.tree.mtime;
            }
        }
        mode = mode.filter(|mode| *mode != stat.mode);
        mtime = mtime.filter(|mtime| *mtime != stat.mtime);
        let mut now = *stat;
        if mode.is_none() && mtime.is_none() {
            self.report.unchanged += 1;
        } else if self.options.dry_run {
            self.report.metadata_changed += 1;
            self.change(Change::Attributes, at);
            return Ok(());
        } else {
            let set = disk.set_file_mode_and_mtime(name, mode, mtime);
            match set.and_then(|()| disk.sync_attributes(name)).and_then(|()| disk.stat(name)) {
                Ok(stat) => {
                    self.report.metadata_changed += 1;
                    now = stat;
                }
                Err(error) => return self.unwritable(at, error),
            }
            if now.id != stat.id || now.size != stat.size {
                return Ok(());
            }
        }
        let mut disk = self.record.disk(&now, Some(wanted.digest));
        disk.mode = own_mode.unwrap_or(disk.mode);
        disk.mtime = own_time.unwrap_or(disk.mtime);
        let (state, made) = (EntryState::Agreed, row.as_ref().is_some_and(|row| row.made));
        let name = name.as_bytes().to_vec();
        let coming = None;
        self.put(row.as_ref(), EntryRecord { id, parent, name, disk, tree, state, coming, made })
    }
}

/// Reports a file whose content another device has not sent yet.
pub(super) fn no_content(at: &Path) -> Problem {
    Problem::new(at, ProblemKind::NoContent, "its content is not at the server yet")
}
