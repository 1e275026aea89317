//! Taking a directory into a replica: the difference between the two, as edits.

use std::collections::HashMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use tokio_util::sync::CancellationToken;
use vfs_sync_client::{Batch, Child, Delete, Node, SyncClient, TakenContent};
use vfs_sync_core::access::AccessLevel;
use vfs_sync_core::id::{ItemId, UserId};
use vfs_sync_core::item::ObjectType;

use super::ahead::{Ahead, Committer, Outcome, SMALL};
use super::digest::{digest, digest_bytes};
use super::metadata::{self, OnDisk, on_disk};
use super::names;
use super::root::{Folder, Kind};
use super::scan::{Listing, Scanner, Seen};
use super::stable::{ATTEMPTS, Cut, StableReader};
use crate::error::{Failure, Result};
use crate::report::{Problem, ProblemKind, Problems};

/// Operations that are queued in one transaction; each new file keeps one descriptor open.
const BATCH_OPERATIONS: usize = 256;
/// Bytes of content that go into one transaction.
const BATCH_BYTES: u64 = 16 * 1024 * 1024;

/// What an import may do.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ImportOptions {
    /// Delete what is not in the directory.
    pub(crate) delete: bool,
    /// Compare by content.
    pub(crate) checksum: bool,
    /// Change nothing.
    pub(crate) dry_run: bool,
}

/// What an import did.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ImportReport {
    pub(crate) folders_created: u64,
    pub(crate) files_created: u64,
    /// Files whose content changed.
    pub(crate) contents_changed: u64,
    /// Items of which only time or permission bits changed.
    pub(crate) metadata_changed: u64,
    pub(crate) deleted: u64,
    pub(crate) unchanged: u64,
    /// Bytes of content taken.
    pub(crate) bytes: u64,
    /// Whether the user stopped it; the same command goes on.
    pub(crate) interrupted: bool,
    pub(crate) problems: Problems,
}

impl ImportReport {
    /// Files and folders looked at.
    pub(crate) fn seen(&self) -> u64 {
        self.folders_created
            + self.files_created
            + self.contents_changed
            + self.metadata_changed
            + self.unchanged
    }

    /// Whether the replica was changed, or would have been.
    pub(crate) fn changes(&self) -> u64 {
        self.seen() - self.unchanged + self.deleted
    }
}

/// A folder of the tree.
#[derive(Debug, Clone)]
enum Place {
    Top,
    There(ItemId),
    /// Made by this import: nothing is in it.
    New(ItemId),
}

impl Place {
    fn id(&self) -> Option<&ItemId> {
        match self {
            Self::Top => None,
            Self::There(id) | Self::New(id) => Some(id),
        }
    }
}

/// Makes what is in the directory of `scanner` hang under `target` (`None`: the top). `progress`
/// is told now and then.
pub(crate) fn import(
    client: &SyncClient,
    scanner: Scanner,
    target: Option<ItemId>,
    options: ImportOptions,
    stop: &CancellationToken,
    progress: &mut dyn FnMut(&ImportReport),
) -> Result<ImportReport> {
    std::thread::scope(|scope| {
        let mut import = Import {
            client,
            scanner,
            options,
            stop,
            ahead: Ahead::start(scope, client, stop),
            committer: Committer::start(scope),
            batch: client.batch(),
            batch_contents: 0,
            batch_bytes: 0,
            report: ImportReport::default(),
        };
        let mut stack = vec![(PathBuf::new(), target.map_or(Place::Top, Place::There))];
        while let Some((path, place)) = stack.pop() {
            if stop.is_cancelled() {
                import.report.interrupted = true;
                break;
            }
            import.folder(&path, &place, &mut stack, progress)?;
            progress(&import.report);
        }
        import.take_all_ahead()?;
        import.report.interrupted |= stop.is_cancelled();
        import.commit()?;
        import.committer.wait()?;
        Ok(import.report)
    })
}

/// A file that is read ahead: where it is, and what it is to become.
struct Asked {
    disk: Folder,
    place: Place,
    node: Option<Node>,
    seen: Seen,
    at: PathBuf,
}

/// Bytes of a file.
enum Bytes<'a> {
    Taken(TakenContent),
    Read(&'a mut dyn std::io::Read),
}

struct Import<'a> {
    client: &'a SyncClient,
    scanner: Scanner,
    options: ImportOptions,
    stop: &'a CancellationToken,
    ahead: Ahead<Asked>,
    committer: Committer<'a>,
    batch: Batch<'a>,
    batch_contents: usize,
    batch_bytes: u64,
    report: ImportReport,
}

impl<'a> Import<'a> {
    fn folder(
        &mut self,
        path: &Path,
        place: &Place,
        stack: &mut Vec<(PathBuf, Place)>,
        progress: &mut dyn FnMut(&ImportReport),
    ) -> Result<()> {
        let listing = self.scanner.list(path);
        let Listing { entries, held, problems, complete } = listing;
        self.report.problems.extend(problems);
        let home = match place.id() {
            Some(id) => self.client.node(id)?.map(|node| (node.owner, node.access_level)),
            None => None,
        };
        // What this import makes is not there before it is committed; it may be written to.
        let (home, level) = home.unwrap_or_else(|| (self.client.user(), AccessLevel::Admin));
        let mut there: HashMap<String, Child> = match place {
            Place::New(_) => HashMap::new(),
            known => self
                .client
                .children(known.id())?
                .into_iter()
                .map(|child| (child.name.clone(), child))
                .collect(),
        };
        let disk = self.scanner.folder(path);
        // Pushed in reverse, so that folders are entered in the order of their names.
        let mut folders = Vec::new();
        for seen in &entries {
            if self.stop.is_cancelled() {
                return Ok(());
            }
            let child = there.remove(seen.name.as_str());
            let at = path.join(&seen.disk_name);
            if let Some(child) = child.as_ref().filter(|child| child.shortcut) {
                self.problem(shortcut(&at, child));
                continue;
            }
            let mut node = child.map(|child| child.node);
            if node.is_none() && level < AccessLevel::Write {
                self.problem(not_permitted(&at, &home, level));
                continue;
            }
            if !self.fits(&mut node, seen, &at, &home)? {
                continue;
            }
            if seen.stat.kind == Kind::Folder {
                folders.push((at.clone(), self.take_folder(place, node.as_ref(), seen, &at)?));
            } else {
                match &disk {
                    Ok(disk) => self.take_file(disk, place, node.as_ref(), seen, &at)?,
                    Err(error) => self.problem(Problem::unreadable(&at, error)),
                }
            }
            progress(&self.report);
        }
        stack.extend(folders.into_iter().rev());
        if self.options.delete && complete {
            for name in &held {
                there.remove(name.as_str());
            }
            self.delete_rest(there, &home, path)?;
        }
        Ok(())
    }

    /// Whether what is on the disk can become what is in the tree; `node` is emptied if it was
    /// deleted to make room.
    fn fits(
        &mut self,
        node: &mut Option<Node>,
        seen: &Seen,
        at: &Path,
        home: &UserId,
    ) -> Result<bool> {
        let Some(there) = &*node else { return Ok(true) };
        let detail = match (seen.stat.kind, on_disk(there.object_type)) {
            (Kind::Folder, OnDisk::Folder) | (Kind::File, OnDisk::File) => return Ok(true),
            (_, OnDisk::Nothing) => "the tree has something of this name that is no file",
            _ if there.owner != *home => "somebody shares something of another kind by this name",
            _ if self.options.delete && there.access_level < AccessLevel::Admin => {
                let (owner, level) = (there.owner.clone(), there.access_level);
                self.problem(not_permitted(at, &owner, level));
                return Ok(false);
            }
            _ if self.options.delete => {
                self.delete(&there.id.clone())?;
                *node = None;
                return Ok(true);
            }
            (Kind::Folder, _) => "a file in the tree is a folder on the disk: see --delete",
            _ => "a folder in the tree is a file on the disk: see --delete",
        };
        self.problem(Problem::new(at, ProblemKind::TypeChanged, detail));
        Ok(false)
    }

    fn take_folder(
        &mut self,
        place: &Place,
        node: Option<&Node>,
        seen: &Seen,
        at: &Path,
    ) -> Result<Place> {
        let change = metadata::change(node, &seen.stat);
        match node {
            None => {
                self.report.folders_created += 1;
                let (parent, name) = (place.id(), seen.name.clone());
                let id = self.batch.create(ObjectType::Folder, parent, name, change);
                self.commit_if_full()?;
                Ok(Place::New(id))
            }
            Some(node) if change.is_empty() => {
                self.report.unchanged += 1;
                Ok(Place::There(node.id.clone()))
            }
            Some(node) => {
                if self.may_write(node, at) {
                    self.report.metadata_changed += 1;
                    self.batch.set_metadata(&node.id, change);
                    self.commit_if_full()?;
                }
                Ok(Place::There(node.id.clone()))
            }
        }
    }

    fn take_file(
        &mut self,
        disk: &Folder,
        place: &Place,
        node: Option<&Node>,
        seen: &Seen,
        at: &Path,
    ) -> Result<()> {
        if let Some(node) = node
            && !self.options.checksum
            && node.modified_at() == seen.stat.mtime
            && node.content.as_ref().is_some_and(|content| content.size == seen.stat.size)
        {
            return self.only_metadata(node, seen, at);
        }
        let may = node.is_none_or(|node| node.access_level >= AccessLevel::Write);
        if seen.stat.size > SMALL || self.options.dry_run || !may {
            self.take_all_ahead()?;
            return self.take_now(disk, place, node, seen, at);
        }
        if self.ahead.is_full() {
            self.take_one_ahead()?;
        }
        let known = node.and_then(|node| node.content.as_ref()).map(|content| content.digest);
        let asked = Asked {
            disk: disk.clone(),
            place: place.clone(),
            node: node.cloned(),
            seen: seen.clone(),
            at: at.to_owned(),
        };
        self.ahead.ask(asked, disk, seen.disk_name.clone(), known);
        Ok(())
    }

    fn take_all_ahead(&mut self) -> Result<()> {
        while self.take_one_ahead()? {}
        Ok(())
    }

    /// Takes the first of the files that are read ahead; `false` if there is none.
    fn take_one_ahead(&mut self) -> Result<bool> {
        let Some((asked, outcome)) = self.ahead.next() else { return Ok(false) };
        let Asked { disk, place, node, seen, at } = asked;
        match (outcome, &node) {
            (Outcome::Same(stat), Some(node)) => {
                self.only_metadata(node, &Seen { stat, ..seen }, &at)?;
            }
            (Outcome::Taken(stat, content), _) => {
                let seen = Seen { stat, ..seen };
                self.take_bytes(&place, node.as_ref(), &seen, Bytes::Taken(content))?;
                self.commit_if_full()?;
            }
            _ => self.take_now(&disk, &place, node.as_ref(), &seen, &at)?,
        }
        Ok(true)
    }

    fn take_now(
        &mut self,
        disk: &Folder,
        place: &Place,
        node: Option<&Node>,
        seen: &Seen,
        at: &Path,
    ) -> Result<()> {
        for _ in 0..ATTEMPTS {
            match self.read_and_take(disk, place, node, seen, at)? {
                None => return self.commit_if_full(),
                Some(Cut::Changed) => {}
                Some(Cut::Interrupted) => return Ok(()),
                Some(Cut::Io(error)) => {
                    // Gone since the folder was listed: not there any more, then.
                    if error.kind() != std::io::ErrorKind::NotFound {
                        self.problem(Problem::unreadable(at, &error));
                    }
                    return Ok(());
                }
            }
        }
        let detail = format!("it changed each of the {ATTEMPTS} times that it was read");
        self.problem(Problem::new(at, ProblemKind::Changing, detail));
        Ok(())
    }

    fn only_metadata(&mut self, node: &Node, seen: &Seen, at: &Path) -> Result<()> {
        let change = metadata::change(Some(node), &seen.stat);
        let touched = node.modified_at() != seen.stat.mtime;
        if change.is_empty() && !touched {
            self.report.unchanged += 1;
            return Ok(());
        }
        if !self.may_write(node, at) {
            return Ok(());
        }
        self.report.metadata_changed += 1;
        if !change.is_empty() {
            self.batch.set_metadata(&node.id, change);
        }
        if touched && !self.options.dry_run {
            self.batch.touch(&node.id, seen.stat.mtime)?;
        }
        self.commit_if_full()
    }

    /// Reads the file and takes it, all or nothing.
    fn read_and_take(
        &mut self,
        disk: &Folder,
        place: &Place,
        node: Option<&Node>,
        seen: &Seen,
        at: &Path,
    ) -> Result<Option<Cut>> {
        let open = || StableReader::open(disk, &seen.disk_name, self.stop);
        let mut reader = match open() {
            Ok(reader) => reader,
            Err(error) => return Ok(Some(Cut::Io(error))),
        };
        let seen = Seen { stat: *reader.stat(), ..seen.clone() };
        if seen.stat.size <= SMALL {
            let mut bytes = Vec::with_capacity(usize::try_from(seen.stat.size).unwrap_or(0) + 1);
            if (&mut reader).take(SMALL + 1).read_to_end(&mut bytes).is_err() {
                return Ok(reader.cut());
            }
            if bytes.len() as u64 != seen.stat.size {
                return Ok(Some(Cut::Changed));
            }
            let same = node.filter(|node| {
                node.content.as_ref().is_some_and(|c| c.digest == digest_bytes(&bytes))
            });
            if let Some(node) = same {
                return self.only_metadata(node, &seen, at).map(|()| None);
            }
            if node.is_some_and(|node| !self.may_write(node, at)) {
                return Ok(None);
            }
            self.take_bytes(place, node, &seen, Bytes::Read(&mut &bytes[..]))?;
            return Ok(None);
        }
        if let Some(content) = node.and_then(|node| node.content.as_ref())
            && content.size == seen.stat.size
        {
            let Ok((found, _)) = digest(&mut reader) else { return Ok(reader.cut()) };
            if let Some(node) = node.filter(|_| found == content.digest) {
                return self.only_metadata(node, &seen, at).map(|()| None);
            }
            reader = match open() {
                Ok(reader) => reader,
                Err(error) => return Ok(Some(Cut::Io(error))),
            };
        }
        if node.is_some_and(|node| !self.may_write(node, at)) {
            return Ok(None);
        }
        // A transaction of its own, which is dropped if the file cannot be read to its end.
        self.commit()?;
        let seen = Seen { stat: *reader.stat(), ..seen };
        match self.take_bytes(place, node, &seen, Bytes::Read(&mut reader)) {
            Ok(()) => self.commit().map(|()| None),
            Err(failure) => {
                self.drop_batch();
                reader.cut().map_or(Err(failure), |cut| Ok(Some(cut)))
            }
        }
    }

    fn take_bytes(
        &mut self,
        place: &Place,
        node: Option<&Node>,
        seen: &Seen,
        bytes: Bytes<'_>,
    ) -> Result<()> {
        let change = metadata::change(node, &seen.stat);
        let (created, id) = match node {
            None if self.options.dry_run => (true, self.client.new_item_id()),
            None => {
                let (parent, name) = (place.id(), seen.name.clone());
                (true, self.batch.create(ObjectType::File, parent, name, change))
            }
            Some(node) => {
                if !change.is_empty() {
                    self.batch.set_metadata(&node.id, change);
                }
                (false, node.id.clone())
            }
        };
        let size = if self.options.dry_run {
            seen.stat.size
        } else {
            match bytes {
                Bytes::Taken(content) => {
                    self.batch.put_taken(&id, content.with_time(seen.stat.mtime)).size
                }
                Bytes::Read(reader) => {
                    self.batch
                        .put_content_at(&id, reader, seen.stat.mtime)
                        .map_err(Failure::from)?
                        .size
                }
            }
        };
        self.report.bytes += size;
        self.batch_bytes += size;
        self.batch_contents += 1;
        match created {
            true => self.report.files_created += 1,
            false => self.report.contents_changed += 1,
        }
        Ok(())
    }

    /// Deletes what the directory does not have. What others own and is only found here, as what
    /// they share or by a shortcut, is not missing from a directory.
    fn delete_rest(
        &mut self,
        rest: HashMap<String, Child>,
        home: &UserId,
        path: &Path,
    ) -> Result<()> {
        let mut rest: Vec<Child> = rest.into_values().collect();
        rest.sort_by(|a, b| a.name.cmp(&b.name));
        for child in rest {
            // What no directory can have is not missing from one.
            let node = &child.node;
            let lacks = on_disk(node.object_type) != OnDisk::Nothing && node.owner == *home;
            if lacks && !self.stop.is_cancelled() {
                if node.access_level < AccessLevel::Admin {
                    let at = path.join(names::to_disk(&child.name));
                    self.problem(not_permitted(&at, home, node.access_level));
                } else {
                    self.delete(&node.id)?;
                }
            }
        }
        Ok(())
    }

    fn delete(&mut self, item: &ItemId) -> Result<()> {
        self.take_all_ahead()?;
        self.commit()?;
        self.committer.wait()?;
        self.report.deleted += match self.options.dry_run {
            true => 1,
            false => self.client.delete(item, Delete::Recursive)?,
        };
        Ok(())
    }

    /// Whether an item may be changed; if not, that is a problem.
    fn may_write(&mut self, node: &Node, at: &Path) -> bool {
        let may = node.access_level >= AccessLevel::Write;
        if !may {
            self.problem(not_permitted(at, &node.owner, node.access_level));
        }
        may
    }

    fn commit_if_full(&mut self) -> Result<()> {
        let work = self.batch.len().max(self.batch_contents);
        if work >= BATCH_OPERATIONS || self.batch_bytes >= BATCH_BYTES {
            self.commit()?;
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<()> {
        let work = self.batch.len() + self.batch_contents;
        let batch = self.drop_batch();
        if !self.options.dry_run && work > 0 {
            self.committer.begin(batch)?;
        }
        Ok(())
    }

    /// Begins a new batch; gives the one before.
    fn drop_batch(&mut self) -> Batch<'a> {
        self.batch_contents = 0;
        self.batch_bytes = 0;
        std::mem::replace(&mut self.batch, self.client.batch())
    }

    fn problem(&mut self, problem: Problem) {
        self.report.problems.add(problem);
    }
}

fn not_permitted(at: &Path, owner: &UserId, level: AccessLevel) -> Problem {
    let detail = format!("it is in {owner}'s tree, and you may only {level} there");
    Problem::new(at, ProblemKind::NotPermitted, detail)
}

fn shortcut(at: &Path, child: &Child) -> Problem {
    let owner = &child.node.owner;
    let detail = format!("it is a shortcut into {owner}'s tree: import to its own place");
    Problem::new(at, ProblemKind::Shortcut, detail)
}
