//! Files of the directory: read, compared with the record and the tree, then edited or created.

use std::path::{Path, PathBuf};

use vfs_sync_client::{Child, DiskState, EntryRecord, EntryState, Node, TakenContent, TreeState};
use vfs_sync_core::access::AccessLevel;
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::id::{BlobId, ItemId, UserId};
use vfs_sync_core::item::ObjectType;

use super::super::decision::{self, Found, Item, ToTree};
use super::super::merge::awaits_content;
use super::super::scan::ScannedEntry;
use super::prefetch::{Outcome, SMALL};
use super::rows::without_metadata;
use super::tree_folder::TreeFolder;
use super::{Import, not_permitted};
use crate::disk::digest::digest;
use crate::disk::dir::{Folder, Stat};
use crate::disk::link;
use crate::disk::metadata::{OnDisk, on_disk};
use crate::disk::stable_reader::{ATTEMPTS, Cut, StableReader};
use crate::error::Result;
use crate::record;
use crate::report::{Change, Problem, ProblemKind};

/// A file to read, with its place in the tree.
pub(super) struct FoundFile {
    disk: Folder,
    place: TreeFolder,
    /// The file's row in the record.
    row: Option<EntryRecord>,
    /// The item of the file's row or, without a row, the item with its name.
    node: Option<Node>,
    /// True if another item has the file's name in the tree.
    taken: bool,
    /// True if the file was moved to a new name.
    moved: bool,
    /// The user's access level in the folder, and the folder's owner.
    level: AccessLevel,
    home: UserId,
    seen: ScannedEntry,
    at: PathBuf,
}

impl FoundFile {
    /// Returns whether the file's time or bits are not those of its row.
    fn is_touched(&self) -> bool {
        let stat = &self.seen.stat;
        let touched =
            |row: &EntryRecord| row.disk.mtime != stat.modified || row.disk.mode != stat.mode;
        self.row.as_ref().is_some_and(touched)
    }

    /// Returns whether the file may live on although the tree deleted its item.
    fn outlives_item(&self) -> bool {
        self.node.is_none() && self.is_touched()
    }

    /// Returns the digests that the file may have and whose bytes need not be stored again.
    fn known(&self) -> Vec<Sha256Digest> {
        if self.outlives_item() {
            return Vec::new();
        }
        let node = self.node.as_ref().and_then(|node| node.content.as_ref());
        let mut known: Vec<_> = node.map(|content| content.digest).into_iter().collect();
        known.extend(self.row.as_ref().and_then(|row| row.disk.digest));
        known.extend(self.row.as_ref().and_then(|row| row.coming));
        known.dedup();
        known
    }

    /// Returns whether a digest for this size is known.
    fn may_be_known(&self, size: u64) -> bool {
        let node = self.node.as_ref().and_then(|node| node.content.as_ref());
        node.is_some_and(|content| content.size == size)
            || self.row.as_ref().is_some_and(|row| row.disk.size == size || row.coming.is_some())
    }
}

/// The bytes of a file after reading.
enum Bytes {
    /// Known bytes, or a dry run: nothing is stored.
    Known(Sha256Digest),
    Taken(TakenContent),
}

impl Bytes {
    fn digest(&self) -> Sha256Digest {
        match self {
            Self::Known(digest) => *digest,
            Self::Taken(content) => content.stored().digest,
        }
    }
}

impl Import<'_> {
    #[allow(clippy::too_many_arguments, reason = "what is known of one entry")]
    pub(super) fn take_file(
        &mut self,
        disk: &Folder,
        place: &TreeFolder,
        (home, level): (&UserId, AccessLevel),
        rows: (Option<EntryRecord>, Option<EntryRecord>),
        child: Option<&Child>,
        seen: &ScannedEntry,
        at: &Path,
    ) -> Result<()> {
        let (row, moved) = self.matching_row(place, home, rows, seen, at)?;
        let node = match &row {
            Some(row) => self.client.node(&row.tree.item)?,
            None => child.map(|child| child.node.clone()),
        };
        if let Some(row) = &row
            && !moved
            && !self.options.checksum
            && record::is_unchanged(&row.disk, &seen.stat)
        {
            self.report.unchanged += 1;
            if row.state == EntryState::Local {
                self.problem(Problem::rejected(at));
            } else if node.as_ref().is_none_or(|node| !record::has_same_bytes(&row.tree, node)) {
                self.report.stale += 1;
            }
            return Ok(());
        }
        let may = node.as_ref().is_none_or(|node| node.access_level >= AccessLevel::Write);
        let taken = child.is_some_and(|child| node.as_ref().is_none_or(|n| n.id != child.node.id));
        let file = FoundFile {
            disk: disk.clone(),
            place: place.clone(),
            row,
            node,
            taken,
            moved,
            level,
            home: home.clone(),
            seen: seen.clone(),
            at: at.to_owned(),
        };
        if seen.stat.size > SMALL || self.options.dry_run || !may {
            self.finish_prefetched()?;
            return self.take_now(file);
        }
        if self.prefetch.is_full() {
            self.take_prefetched()?;
        }
        let known = file.known();
        self.prefetch.ask(file, disk, seen.disk_name.clone(), known);
        Ok(())
    }

    pub(super) fn finish_prefetched(&mut self) -> Result<()> {
        while self.take_prefetched()? {}
        Ok(())
    }

    /// Imports the first prefetched file; returns `false` if there is none.
    pub(super) fn take_prefetched(&mut self) -> Result<bool> {
        let Some((file, outcome)) = self.prefetch.next() else { return Ok(false) };
        match outcome {
            Outcome::Same(stat, digest) => self.decide(file, stat, Bytes::Known(digest))?,
            Outcome::Taken(stat, content) => self.decide(file, stat, Bytes::Taken(content))?,
            Outcome::Unsettled => self.take_now(file)?,
        }
        Ok(true)
    }

    fn take_now(&mut self, file: FoundFile) -> Result<()> {
        for _ in 0..ATTEMPTS {
            match self.read(&file)? {
                Ok((stat, bytes)) => return self.decide(file, stat, bytes),
                Err(Cut::Changed) => {}
                Err(Cut::Interrupted) => return Ok(()),
                Err(Cut::Io(error)) => {
                    // Gone since the folder was listed: it does not exist any more.
                    if error.kind() != std::io::ErrorKind::NotFound {
                        self.problem(Problem::unreadable(&file.at, &error));
                    }
                    return Ok(());
                }
            }
        }
        let detail = format!("it changed during each of {ATTEMPTS} reads");
        self.problem(Problem::new(&file.at, ProblemKind::Changing, detail));
        Ok(())
    }

    /// Reads a file and stores its bytes, unless they are known or the import may change nothing.
    fn read(&mut self, file: &FoundFile) -> Result<std::result::Result<(Stat, Bytes), Cut>> {
        let open = || StableReader::open(&file.disk, &file.seen.disk_name, self.stop);
        let mut reader = match open() {
            Ok(reader) => reader,
            Err(error) => return Ok(Err(Cut::Io(error))),
        };
        let may = file.node.as_ref().is_none_or(|node| node.access_level >= AccessLevel::Write);
        let only_look = self.options.dry_run || !may;
        if only_look || file.may_be_known(reader.stat().size) {
            let stat = *reader.stat();
            let Ok((found, _)) = digest(&mut reader) else {
                return Ok(Err(reader.cut().unwrap_or(Cut::Changed)));
            };
            if only_look || file.known().contains(&found) {
                return Ok(Ok((stat, Bytes::Known(found))));
            }
            reader = match open() {
                Ok(reader) => reader,
                Err(error) => return Ok(Err(Cut::Io(error))),
            };
        }
        let stat = *reader.stat();
        match self.client.contents().take_from(&mut reader) {
            Ok(content) => Ok(Ok((stat, Bytes::Taken(content)))),
            Err(error) => reader.cut().map_or(Err(error.into()), |cut| Ok(Err(cut))),
        }
    }

    /// Decides about a file that was read, and does it.
    fn decide(&mut self, file: FoundFile, stat: Stat, bytes: Bytes) -> Result<()> {
        let found = bytes.digest();
        let disk = self.record.disk(&stat, Some(found));
        self.note_change_of(&stat);
        let facts = Found {
            bytes: found,
            touched: file.is_touched(),
            name_taken: file.taken,
            may_create: file.level >= AccessLevel::Write,
        };
        let FoundFile { place, row, node, moved, level, home, seen, at, .. } = file;
        let seen = ScannedEntry { stat, ..seen };
        let known = row.as_ref().map(record::facts);
        let item = node.as_ref().map(|node| Item {
            bytes: link::digest_of(node),
            has_content: node.content.is_some(),
            is_file: is_file(node),
            merges_later: node.owner == home && awaits_content(node),
            may_write: node.access_level >= AccessLevel::Write,
        });
        let id = row.as_ref().map(|row| row.id);
        let step = decision::to_tree(&facts, known.as_ref(), item.as_ref());
        let edited = node.as_ref().and_then(|node| self.edited.get(&node.id));
        let step = match step {
            ToTree::Edit if edited.is_some_and(|bytes| *bytes != found) => {
                decision::second_edit(&facts)
            }
            step => step,
        };
        match (step, row, node) {
            (ToTree::MayNotCreate, ..) => {
                self.problem(not_permitted(&at, &home, level));
                return Ok(());
            }
            (ToTree::Create { aside }, ..) => {
                return self.create(&place, id, &seen, &at, disk, bytes, aside);
            }
            (ToTree::Join, _, Some(node)) => {
                self.report.unchanged += 1;
                let tree = without_metadata(record::tree(&node, place.id().as_ref()));
                let id = id.unwrap_or_else(|| self.record.new_id());
                self.put(id, &place, &seen, disk, tree, false);
            }
            (ToTree::EndExport, Some(row), node) => {
                self.report.unchanged += 1;
                let tree = match &node {
                    Some(node) if has_digest(node, found) => {
                        without_metadata(record::tree(node, row.tree.parent.as_ref()))
                    }
                    _ => TreeState { digest: Some(found), blob_id: None, ..row.tree.clone() },
                };
                self.put_row(&row, row.id, &place, &seen, disk, tree, row.made);
            }
            (ToTree::TakeAttributes, Some(row), node) => {
                let tree = self.take_attributes(&row, node.as_ref(), (&seen, found), moved, &at)?;
                let tree = if moved { self.moved_tree(&place, &seen, tree) } else { tree };
                self.put_row(&row, row.id, &place, &seen, disk, tree, row.made);
            }
            (ToTree::Agree, Some(row), Some(node)) => {
                self.report.unchanged += 1;
                let tree = without_metadata(record::tree(&node, row.tree.parent.as_ref()));
                self.put_row(&row, row.id, &place, &seen, disk, tree, row.made);
            }
            (ToTree::Edit, Some(row), Some(node)) => {
                let change = self.mode_change(Some(&row.disk), &stat);
                let mode = if change.is_empty() { row.tree.mode } else { Some(stat.mode) };
                if !change.is_empty() {
                    self.batch.set_metadata(&node.id, change);
                }
                self.report.contents_changed += 1;
                self.change(Change::Content, &at);
                self.edited.insert(node.id.clone(), found);
                let blob_id = self.put_bytes(&node.id, bytes, &stat);
                let (digest, mtime) = (Some(found), Some(stat.mtime));
                let tree = TreeState { blob_id, digest, mtime, mode, ..row.tree.clone() };
                let tree = if moved { self.moved_tree(&place, &seen, tree) } else { tree };
                // A rejected change is queued again.
                let row = EntryRecord { state: EntryState::Agreed, ..row };
                self.put_row(&row, row.id, &place, &seen, disk, tree, row.made);
            }
            (_, _, Some(node)) => {
                self.problem(not_permitted(&at, &node.owner, node.access_level));
                return Ok(());
            }
            (..) => return Ok(()),
        }
        self.commit_if_full()
    }

    /// Takes the time and the bits of a file that has the bytes of its row, where they changed; returns
    /// the tree half of the row.
    fn take_attributes(
        &mut self,
        row: &EntryRecord,
        node: Option<&Node>,
        (seen, found): (&ScannedEntry, Sha256Digest),
        moved: bool,
        at: &Path,
    ) -> Result<TreeState> {
        let stat = &seen.stat;
        let change = self.mode_change(Some(&row.disk), stat);
        let takes_mode = !change.is_empty();
        let touched = row.disk.mtime != stat.modified;
        let mut tree = row.tree.clone();
        match node {
            Some(node) if (touched || takes_mode) && self.may_write(node, at) => {
                self.report.metadata_changed += 1;
                self.change(Change::Attributes, at);
                if takes_mode {
                    self.batch.set_metadata(&node.id, change);
                }
                // Only the time of exactly these bytes.
                if touched && has_digest(node, found) && !self.options.dry_run {
                    self.batch.touch(&node.id, stat.mtime)?;
                }
                tree.mode = if takes_mode { Some(stat.mode) } else { tree.mode };
                tree.mtime = if touched { Some(stat.mtime) } else { tree.mtime };
            }
            Some(node) => {
                self.report.unchanged += u64::from(!moved);
                self.report.stale += u64::from(!record::has_same_bytes(&row.tree, node));
            }
            None => {
                self.report.unchanged += 1;
                self.report.stale += 1;
            }
        }
        if row.state == EntryState::Local {
            self.problem(Problem::rejected(at));
        }
        Ok(tree)
    }

    /// Creates an item for a file; with `aside` under the name of a conflicted copy, because the
    /// tree has another item of its name.
    #[allow(clippy::too_many_arguments, reason = "what is known of one entry")]
    fn create(
        &mut self,
        place: &TreeFolder,
        row: Option<u64>,
        seen: &ScannedEntry,
        at: &Path,
        disk: DiskState,
        bytes: Bytes,
        aside: bool,
    ) -> Result<()> {
        let id = row.unwrap_or_else(|| self.record.new_id());
        let found = bytes.digest();
        if aside && let Some(same) = self.same_copy(place, seen, found)? {
            // These bytes are kept already.
            self.report.unchanged += 1;
            let tree = without_metadata(record::tree(&same, place.id().as_ref()));
            self.put(id, place, seen, disk, tree, false);
            return self.commit_if_full();
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
        let change = self.mode_change(None, &seen.stat);
        let mode = (!change.is_empty()).then_some(seen.stat.mode);
        let item = self.batch.create(ObjectType::File, parent.as_ref(), name.clone(), change);
        let blob_id = self.put_bytes(&item, bytes, &seen.stat);
        let tree = TreeState {
            item,
            parent,
            name: name.as_str().to_owned(),
            blob_id,
            digest: Some(found),
            mtime: Some(seen.stat.mtime),
            mode,
        };
        self.put(id, place, seen, disk, tree, !aside && !place.is_new());
        self.commit_if_full()
    }

    fn put_bytes(&mut self, item: &ItemId, bytes: Bytes, stat: &Stat) -> Option<BlobId> {
        self.report.bytes += stat.size;
        self.batch_bytes += stat.size;
        self.batch_contents += 1;
        match bytes {
            Bytes::Taken(content) => {
                Some(self.batch.put_taken(item, content.with_time(stat.mtime)).blob_id)
            }
            // Only in a dry run.
            Bytes::Known(_) => None,
        }
    }
}

pub(super) fn is_file(node: &Node) -> bool {
    on_disk(node.object_type) == OnDisk::File
}

pub(super) fn has_digest(node: &Node, digest: Sha256Digest) -> bool {
    link::digest_of(node) == Some(digest)
}
