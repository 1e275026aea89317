//! Symbolic links of the directory: read, never followed, and compared with the record and the tree.

use std::ffi::OsStr;
use std::io;
use std::path::Path;

use vfs_sync_client::{Child, DiskState, EntryRecord, EntryState, TreeState};
use vfs_sync_core::access::AccessLevel;
use vfs_sync_core::id::UserId;
use vfs_sync_core::item::ObjectType;

use super::super::scan::ScannedEntry;
use super::tree_folder::TreeFolder;
use super::{Import, not_permitted};
use crate::disk::dir::Folder;
use crate::disk::link;
use crate::error::Result;
use crate::record;
use crate::report::{Change, Problem, ProblemKind};

impl Import<'_> {
    #[allow(clippy::too_many_arguments, reason = "what is known of one entry")]
    pub(super) fn take_link(
        &mut self,
        disk: &Folder,
        place: &TreeFolder,
        (home, level): (&UserId, AccessLevel),
        rows: (Option<EntryRecord>, Option<EntryRecord>),
        child: Option<&Child>,
        seen: &ScannedEntry,
        at: &Path,
    ) -> Result<()> {
        let target = match disk.read_link(&seen.disk_name) {
            Ok(target) => target,
            // Gone since the folder was listed: it does not exist any more.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => {
                self.problem(Problem::unreadable(at, &error));
                return Ok(());
            }
        };
        let Some(change) = link::change(&target) else {
            let detail = "the target of this link is too long";
            self.problem(Problem::new(at, ProblemKind::SymbolicLink, detail));
            return Ok(());
        };
        let (row, moved) = self.matching_row(place, home, rows, seen, at)?;
        let node = match &row {
            Some(row) => self.client.node(&row.tree.item)?,
            None => child.map(|child| child.node.clone()),
        };
        let taken = child.is_some_and(|child| node.as_ref().is_none_or(|n| n.id != child.node.id));
        let found = Some(link::digest(&target));
        let disk = self.record.disk(&seen.stat, found);
        let in_tree = node.as_ref().and_then(link::digest_of);
        let Some(row) = row else {
            return match node {
                Some(node) if in_tree == found => {
                    self.report.unchanged += 1;
                    let id = self.record.new_id();
                    let tree = record::tree(&node, place.id().as_ref());
                    self.put(id, place, seen, disk, tree, false);
                    self.commit_if_full()
                }
                node => {
                    let aside = node.is_some() || taken;
                    self.create_link(place, (home, level), None, seen, at, disk, &target, aside)
                }
            };
        };
        if row.disk.digest == found {
            self.report.unchanged += u64::from(!moved);
            if row.state == EntryState::Local {
                self.problem(Problem::rejected(at));
            } else if node.as_ref().is_none_or(|node| !record::has_same_bytes(&row.tree, node)) {
                self.report.stale += 1;
            }
            let tree = row.tree.clone();
            let tree = if moved { self.moved_tree(place, seen, tree) } else { tree };
            self.put_row(&row, row.id, place, seen, disk, tree, row.made);
            return self.commit_if_full();
        }
        let Some(node) = node else {
            let (id, level) = (Some(row.id), (home, level));
            return self.create_link(place, level, id, seen, at, disk, &target, taken);
        };
        if in_tree == found {
            self.report.unchanged += 1;
            let tree = record::tree(&node, row.tree.parent.as_ref());
            self.put_row(&row, row.id, place, seen, disk, tree, row.made);
            return self.commit_if_full();
        }
        let digest = link::digest(&target);
        let is_edited = self.edited.get(&node.id).is_some_and(|bytes| *bytes != digest);
        if node.content.is_some() || !record::has_same_bytes(&row.tree, &node) || is_edited {
            // Both sides changed it, or another entry of the item was changed here.
            let (id, level) = (Some(row.id), (home, level));
            return self.create_link(place, level, id, seen, at, disk, &target, true);
        }
        if !self.may_write(&node, at) {
            return Ok(());
        }
        self.report.contents_changed += 1;
        self.change(Change::Content, at);
        self.edited.insert(node.id.clone(), digest);
        self.batch.set_metadata(&node.id, change);
        let tree = TreeState { digest: found, ..row.tree.clone() };
        let tree = if moved { self.moved_tree(place, seen, tree) } else { tree };
        let row = EntryRecord { state: EntryState::Agreed, ..row };
        self.put_row(&row, row.id, place, seen, disk, tree, row.made);
        self.commit_if_full()
    }

    /// Creates an item for a link; with `aside` under the name of a conflicted copy.
    #[allow(clippy::too_many_arguments, reason = "what is known of one entry")]
    fn create_link(
        &mut self,
        place: &TreeFolder,
        (home, level): (&UserId, AccessLevel),
        row: Option<u64>,
        seen: &ScannedEntry,
        at: &Path,
        disk: DiskState,
        target: &OsStr,
        aside: bool,
    ) -> Result<()> {
        let digest = link::digest(target);
        let id = row.unwrap_or_else(|| self.record.new_id());
        if aside && let Some(same) = self.same_copy(place, seen, digest)? {
            self.report.unchanged += 1;
            let tree = record::tree(&same, place.id().as_ref());
            self.put(id, place, seen, disk, tree, false);
            return self.commit_if_full();
        }
        if level < AccessLevel::Write {
            self.problem(not_permitted(at, home, level));
            return Ok(());
        }
        let parent = self.ensure_created(place)?;
        let name = match aside {
            true => self.copy_name(place, &seen.name, seen.stat.mtime)?,
            false => seen.name.clone(),
        };
        if aside {
            self.report.conflicts.add(at, &name);
        }
        self.report.files_created += 1;
        self.change(if aside { Change::Copy } else { Change::NewFile }, at);
        let change = link::change(target).unwrap_or_default();
        let item = self.batch.create(ObjectType::File, parent.as_ref(), name.clone(), change);
        let name = name.as_str().to_owned();
        let digest = Some(digest);
        let tree = TreeState { item, parent, name, blob_id: None, digest, mtime: None, mode: None };
        self.put(id, place, seen, disk, tree, !aside && !place.is_new());
        self.commit_if_full()
    }
}
