//! Taking a directory into a replica: what changed in it since it was last read or written, as edits.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde::Serialize;
use tokio_util::sync::CancellationToken;
use vfs_sync_client::{
    Batch, Child, DiskTime, EntryKind, EntryRecord, EntryState, FoundDirectory, Node, ROOT_ENTRY,
    RecordChange, SyncClient, TakenContent, TreeState,
};
use vfs_sync_core::access::AccessLevel;
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::id::{BlobId, ItemId, UserId};
use vfs_sync_core::item::{Name, ObjectType};
use vfs_sync_core::tree::conflict_copy_name;

use super::digest::digest;
use super::dir::{Folder, Kind, Stat};
use super::metadata::{self, OnDisk, on_disk};
use super::names;
use super::prefetch::{Ahead, Committer, Outcome, SMALL};
use super::record::{self, Record};
use super::scan::{Listing, Scanner, Seen};
use super::stable_reader::{ATTEMPTS, Cut, StableReader};
use crate::error::{Failure, Kind as FailureKind, Result};
use crate::report::{Change, Changes, Conflicts, Problem, ProblemKind, Problems};

/// Operations that are queued in one transaction; each new file keeps one descriptor open.
const BATCH_OPERATIONS: usize = 256;
/// Bytes of content that go into one transaction.
const BATCH_BYTES: u64 = 16 * 1024 * 1024;
/// Rows of the record that go into one transaction.
const BATCH_ROWS: usize = 4_096;
/// Deletions of so many entries, if they are more than half, wait for a word of the user.
const MANY: u64 = 100;

/// What an import may do.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ImportOptions {
    /// Delete what was in the directory and is gone.
    pub(crate) delete: bool,
    /// Delete also where that is most of it, or the directory is another one.
    pub(crate) yes: bool,
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
    /// Items that were moved or renamed.
    pub(crate) moved: u64,
    pub(crate) deleted: u64,
    pub(crate) unchanged: u64,
    /// Entries that the tree has changed, moved or deleted since they were written here.
    pub(crate) stale: u64,
    /// Entries that are gone, and whose deletion waits for `--yes`.
    pub(crate) held: u64,
    /// Entries that were recorded before.
    pub(crate) recorded: u64,
    /// Bytes of content taken.
    pub(crate) bytes: u64,
    /// Whether the user stopped it; the same command goes on.
    pub(crate) interrupted: bool,
    /// Contents that were kept beside others.
    pub(crate) conflicts: Conflicts,
    /// What was done, or would be; only with a dry run.
    pub(crate) changes: Changes,
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
        self.seen() - self.unchanged + self.moved + self.deleted
    }
}

/// A folder of the tree, which may be yet to be made.
#[derive(Debug, Clone)]
struct Place(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    state: RefCell<State>,
    /// The row of the folder.
    row: u64,
    /// Whether rows of what is in it may be there already.
    has_rows: bool,
}

#[derive(Debug, Clone)]
enum State {
    Top,
    There(ItemId),
    /// Made by this import: nothing is in it.
    New(ItemId),
    /// The tree deleted it: it is made again for what is new or edited in it.
    Gone {
        above: Place,
        name: Name,
        mode: u32,
        record: Box<EntryRecord>,
    },
}

impl Place {
    fn new(state: State, row: u64, has_rows: bool) -> Self {
        Self(Rc::new(Inner { state: RefCell::new(state), row, has_rows }))
    }

    /// The folder's item, if there is one.
    fn id(&self) -> Option<ItemId> {
        match &*self.0.state.borrow() {
            State::There(id) | State::New(id) => Some(id.clone()),
            State::Top | State::Gone { .. } => None,
        }
    }

    fn is_gone(&self) -> bool {
        matches!(&*self.0.state.borrow(), State::Gone { .. })
    }

    fn is_new(&self) -> bool {
        matches!(&*self.0.state.borrow(), State::New(_))
    }
}

/// A folder to read.
struct Step {
    path: PathBuf,
    place: Place,
    /// Why what is missing in it is not taken for deleted.
    held: bool,
}

/// Makes what is in the directory of `scanner` hang under `target` (`None`: the top). `progress`
/// is told now and then.
pub(crate) fn import(
    client: &SyncClient,
    mut scanner: Scanner,
    target: Option<ItemId>,
    options: ImportOptions,
    stop: &CancellationToken,
    progress: &mut dyn FnMut(&ImportReport),
) -> Result<ImportReport> {
    let what = format!("cannot read {}", scanner.root().path().display());
    let found =
        Record::find(client, scanner.root(), target.as_ref()).map_err(Failure::io(&what))??;
    if let FoundDirectory::Replaced(_) = &found.found
        && options.delete
        && !options.yes
    {
        let path = scanner.root().path().display().to_string();
        return Err(Failure::failed(format!(
            "{path} is not the directory that was imported or exported here before: another disk is \
             mounted, none is, or it was made anew; nothing was deleted, and nothing imported"
        ))
        .hint(
            "if its disk is not mounted, mount it; to join it as a new directory, import it without \
             --delete; to delete in the tree what it lacks, add --yes",
        ));
    }
    let record = Record::begin(
        client,
        found,
        target.as_ref(),
        options.delete && options.yes,
        !options.dry_run,
    )?;
    // What was saved before this is read as it survives a loss of power.
    let started = record::now();
    if !options.dry_run {
        scanner
            .folder(Path::new(""))
            .and_then(|top| top.sync_disk())
            .map_err(Failure::io(&what))?;
    }
    std::thread::scope(|scope| {
        let report = ImportReport { recorded: record.count, ..ImportReport::default() };
        let mut import = Import {
            client,
            device: client.device(),
            scanner,
            record,
            options,
            stop,
            ahead: Ahead::start(scope, client, stop),
            committer: Committer::start(scope),
            batch: client.batch(),
            batch_contents: 0,
            batch_bytes: 0,
            batch_rows: 0,
            started,
            unsynced: false,
            gone: Vec::new(),
            copies: HashSet::new(),
            report,
        };
        let state = match target {
            // A dry run into a folder that is not there yet.
            Some(id) if client.node(&id)?.is_none() => State::New(id),
            Some(id) => State::There(id),
            None => State::Top,
        };
        let place = Place::new(state, ROOT_ENTRY, true);
        let mut stack = vec![Step { path: PathBuf::new(), place, held: false }];
        while let Some(step) = stack.pop() {
            if stop.is_cancelled() {
                import.report.interrupted = true;
                break;
            }
            import.folder(&step, &mut stack, progress)?;
            progress(&import.report);
        }
        import.take_all_ahead()?;
        import.report.interrupted |= stop.is_cancelled();
        import.commit()?;
        import.committer.wait()?;
        if !import.report.interrupted {
            import.delete_gone()?;
            import.commit()?;
            import.committer.wait()?;
        }
        Ok(import.report)
    })
}

/// A file that is to be read: where it is, and what it is to become.
struct Asked {
    disk: Folder,
    place: Place,
    /// Its row.
    row: Option<EntryRecord>,
    /// The item of its row, or, without one, the one of its name.
    node: Option<Node>,
    /// Whether the name is another item's in the tree.
    taken: bool,
    /// Whether it was found under a new name.
    moved: bool,
    /// What the user may do in the folder, and whose it is.
    level: AccessLevel,
    home: UserId,
    seen: Seen,
    at: PathBuf,
}

impl Asked {
    /// Digests that it may have.
    fn known(&self) -> Vec<Sha256Digest> {
        let node = self.node.as_ref().and_then(|node| node.content.as_ref());
        let mut known: Vec<_> = node.map(|content| content.digest).into_iter().collect();
        known.extend(self.row.as_ref().and_then(|row| row.disk.digest));
        known.extend(self.row.as_ref().and_then(|row| row.coming));
        known.dedup();
        known
    }

    /// Whether a digest of such a size is known.
    fn may_be_known(&self, size: u64) -> bool {
        let node = self.node.as_ref().and_then(|node| node.content.as_ref());
        node.is_some_and(|content| content.size == size)
            || self.row.as_ref().is_some_and(|row| row.disk.size == size || row.coming.is_some())
    }
}

/// The bytes of a file, as they were read.
enum Bytes {
    /// Not taken: they are known, or nothing is to be changed.
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

/// What was in the directory and is gone.
struct Gone {
    row: EntryRecord,
    /// Something of another kind has its name.
    replaced: bool,
    at: PathBuf,
}

struct Import<'a> {
    client: &'a SyncClient,
    device: String,
    scanner: Scanner,
    record: Record,
    options: ImportOptions,
    stop: &'a CancellationToken,
    ahead: Ahead<Asked>,
    committer: Committer<'a>,
    batch: Batch<'a>,
    batch_contents: usize,
    batch_bytes: u64,
    batch_rows: usize,
    started: DiskTime,
    /// Whether something of the batch was saved after the disk was synced.
    unsynced: bool,
    gone: Vec<Gone>,
    /// The names of conflicted copies that were made, each in its folder.
    copies: HashSet<(Option<ItemId>, Name)>,
    report: ImportReport,
}

impl<'a> Import<'a> {
    fn folder(
        &mut self,
        step: &Step,
        stack: &mut Vec<Step>,
        progress: &mut dyn FnMut(&ImportReport),
    ) -> Result<()> {
        let Step { path, place, held } = step;
        let Listing { entries, held: kept, problems, complete } = self.scanner.list(path);
        self.report.problems.extend(problems);
        let home = match place.id() {
            Some(id) => self.client.node(&id)?.map(|node| (node.owner, node.access_level)),
            None => None,
        };
        // What this import makes is not there before it is committed; it may be written to.
        let (home, level) = home.unwrap_or_else(|| (self.client.user(), AccessLevel::Admin));
        let there: HashMap<String, Child> = if place.is_new() || place.is_gone() {
            HashMap::new()
        } else {
            let children = self.client.children(place.id().as_ref())?.into_iter();
            children.map(|child| (child.name.clone(), child)).collect()
        };
        let mut rows = match place.0.has_rows {
            true => self.record.rows(place.0.row)?,
            false => HashMap::new(),
        };
        let disk = self.scanner.folder(path);
        // Pushed in reverse, so that folders are entered in the order of their names.
        let mut folders = Vec::new();
        for seen in &entries {
            if self.stop.is_cancelled() {
                return Ok(());
            }
            let at = path.join(&seen.disk_name);
            let mut row = rows.remove(&seen.disk_name);
            if let Some(before) = row.take_if(|row| !is_of_kind(row, &seen.stat)) {
                if !self.options.delete {
                    let (was, is) = match before.disk.kind {
                        EntryKind::File => ("file", "folder"),
                        EntryKind::Folder => ("folder", "file"),
                    };
                    let detail = format!("a {was} in the tree is a {is} on the disk: see --delete");
                    self.problem(Problem::new(&at, ProblemKind::TypeChanged, detail));
                    continue;
                }
                self.gone.push(Gone { row: before, replaced: true, at: at.clone() });
            }
            let replaces = self.gone.last().filter(|gone| gone.replaced && gone.at == at);
            let child = there.get(seen.name.as_str());
            // What makes room for it is no other item of its name.
            let child = child
                .filter(|child| replaces.is_none_or(|gone| gone.row.tree.item != child.node.id));
            if row.is_none()
                && let Some(child) = child.filter(|child| child.shortcut)
            {
                self.problem(shortcut(&at, child));
                continue;
            }
            if row.is_none() && child.is_none() && level < AccessLevel::Write {
                self.problem(not_permitted(&at, &home, level));
                continue;
            }
            if seen.stat.kind == Kind::Folder {
                if let Some(step) = self.take_folder(place, &home, row, child, seen, &at)? {
                    folders.push(step);
                }
            } else {
                match &disk {
                    Ok(disk) => {
                        self.take_file(disk, place, (&home, level), row, child, seen, &at)?
                    }
                    Err(error) => self.problem(Problem::unreadable(&at, error)),
                }
            }
            progress(&self.report);
        }
        stack.extend(folders.into_iter().rev());
        if self.options.delete && complete && !held {
            for name in &kept {
                rows.remove(&names::to_disk(name.as_str()));
            }
            let mut rows: Vec<_> = rows.into_iter().collect();
            rows.sort_by(|a, b| a.0.cmp(&b.0));
            // What an export was about to make was never here.
            for (name, row) in rows.into_iter().filter(|(_, row)| row.disk.inode != 0) {
                self.gone.push(Gone { row, replaced: false, at: path.join(name) });
            }
        }
        Ok(())
    }

    #[allow(clippy::too_many_lines, reason = "one case after the other")]
    fn take_folder(
        &mut self,
        place: &Place,
        home: &UserId,
        row: Option<EntryRecord>,
        child: Option<&Child>,
        seen: &Seen,
        at: &Path,
    ) -> Result<Option<Step>> {
        let step = |state, row: u64, has_rows, held| {
            let place = Place::new(state, row, has_rows);
            Some(Step { path: at.to_owned(), place, held })
        };
        let mut moved = false;
        let row = match row {
            Some(row) => Some(row),
            None => {
                let found = self.record.moved(self.scanner.root(), &seen.stat)?;
                moved = found.is_some();
                found
            }
        };
        let disk = self.record.disk(&seen.stat, None);
        if let Some(row) = row {
            // What is on another disk than it was is mounted there, or no longer: nothing in it is gone.
            let held = row.disk.elsewhere != disk.elsewhere;
            if held && self.options.delete {
                let detail = "another disk is mounted here than before: nothing is deleted in it";
                self.problem(Problem::new(at, ProblemKind::OtherDisk, detail));
            }
            let node = self.client.node(&row.tree.item)?;
            let Some(node) = node else {
                if moved {
                    self.record.claimed.insert(row.id);
                }
                self.report.stale += u64::from(!moved);
                self.report.unchanged += 1;
                let above = place.clone();
                let (name, mode) = (seen.name.clone(), seen.stat.mode);
                let record = Box::new(EntryRecord {
                    parent: place.0.row,
                    name: seen.disk_name.as_bytes().to_vec(),
                    disk,
                    ..row.clone()
                });
                return Ok(step(State::Gone { above, name, mode, record }, row.id, true, held));
            };
            if moved && !self.take_move(place, home, &row, &node, seen, at)? {
                return self.take_folder_anew(place, child, seen, at);
            }
            let change = metadata::since(&row.disk, &seen.stat);
            if change.is_empty() {
                self.report.unchanged += u64::from(!moved);
            } else if self.may_write(&node, at) {
                self.report.metadata_changed += 1;
                self.change(Change::Attributes, at);
                self.batch.set_metadata(&node.id, change);
            }
            let tree = TreeState { mode: Some(seen.stat.mode), ..row.tree.clone() };
            let tree = if disk.mode == row.disk.mode { row.tree.clone() } else { tree };
            let tree = if moved { self.moved_tree(place, seen, tree) } else { tree };
            self.put_row(&row, row.id, place, seen, disk, tree, row.made);
            self.commit_if_full()?;
            return Ok(step(State::There(node.id), row.id, true, held));
        }
        self.take_folder_anew(place, child, seen, at)
    }

    /// Takes a folder that has no row.
    fn take_folder_anew(
        &mut self,
        place: &Place,
        child: Option<&Child>,
        seen: &Seen,
        at: &Path,
    ) -> Result<Option<Step>> {
        let disk = self.record.disk(&seen.stat, None);
        let id = self.record.new_id();
        let joins = child.filter(|child| on_disk(child.node.object_type) == OnDisk::Folder);
        let (state, tree, made) = match joins {
            Some(child) => {
                self.report.unchanged += 1;
                let tree = with_own(record::tree(&child.node, place.id().as_ref()), &seen.stat);
                (State::There(child.node.id.clone()), tree, false)
            }
            None => {
                let parent = self.realise(place)?;
                let name = match child {
                    Some(_) => self.copy_name(place, &seen.name, seen.stat.mtime)?,
                    None => seen.name.clone(),
                };
                if child.is_some() {
                    self.report.conflicts.add(at, &name);
                }
                self.report.folders_created += 1;
                self.change(Change::NewFolder, at);
                let change = metadata::change(None, &seen.stat);
                let parent = parent.as_ref();
                let item = self.batch.create(ObjectType::Folder, parent, name.clone(), change);
                let tree = TreeState {
                    item: item.clone(),
                    parent: parent.cloned(),
                    name: name.as_str().to_owned(),
                    blob_id: None,
                    digest: None,
                    mtime: None,
                    mode: Some(seen.stat.mode),
                };
                (State::New(item), tree, !place.is_new())
            }
        };
        self.put(id, place, seen, disk, tree, made);
        self.commit_if_full()?;
        let place = Place::new(state, id, false);
        Ok(Some(Step { path: at.to_owned(), place, held: false }))
    }

    #[allow(clippy::too_many_arguments, reason = "what is known of one entry")]
    fn take_file(
        &mut self,
        disk: &Folder,
        place: &Place,
        (home, level): (&UserId, AccessLevel),
        row: Option<EntryRecord>,
        child: Option<&Child>,
        seen: &Seen,
        at: &Path,
    ) -> Result<()> {
        let mut moved = false;
        let mut row = row;
        if row.is_none()
            && let Some(found) = self.record.moved(self.scanner.root(), &seen.stat)?
        {
            if let Some(node) = self.client.node(&found.tree.item)? {
                moved = self.take_move(place, home, &found, &node, seen, at)?;
            }
            if moved {
                row = Some(found);
            }
        }
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
                self.problem(refused(at));
            } else if node.as_ref().is_none_or(|node| !record::has_same_bytes(&row.tree, node)) {
                self.report.stale += 1;
            }
            return Ok(());
        }
        let may = node.as_ref().is_none_or(|node| node.access_level >= AccessLevel::Write);
        let taken = child.is_some_and(|child| node.as_ref().is_none_or(|n| n.id != child.node.id));
        let asked = Asked {
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
            self.take_all_ahead()?;
            return self.take_now(asked);
        }
        if self.ahead.is_full() {
            self.take_one_ahead()?;
        }
        let known = asked.known();
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
        match outcome {
            Outcome::Same(stat, digest) => self.decide(asked, stat, Bytes::Known(digest))?,
            Outcome::Taken(stat, content) => self.decide(asked, stat, Bytes::Taken(content))?,
            Outcome::Unsettled => self.take_now(asked)?,
        }
        Ok(true)
    }

    fn take_now(&mut self, asked: Asked) -> Result<()> {
        for _ in 0..ATTEMPTS {
            match self.read(&asked)? {
                Ok((stat, bytes)) => return self.decide(asked, stat, bytes),
                Err(Cut::Changed) => {}
                Err(Cut::Interrupted) => return Ok(()),
                Err(Cut::Io(error)) => {
                    // Gone since the folder was listed: not there any more, then.
                    if error.kind() != std::io::ErrorKind::NotFound {
                        self.problem(Problem::unreadable(&asked.at, &error));
                    }
                    return Ok(());
                }
            }
        }
        let detail = format!("it changed each of the {ATTEMPTS} times that it was read");
        self.problem(Problem::new(&asked.at, ProblemKind::Changing, detail));
        Ok(())
    }

    /// Reads a file: its bytes are taken, unless they are known, or nothing is to be changed.
    fn read(&mut self, asked: &Asked) -> Result<std::result::Result<(Stat, Bytes), Cut>> {
        let open = || StableReader::open(&asked.disk, &asked.seen.disk_name, self.stop);
        let mut reader = match open() {
            Ok(reader) => reader,
            Err(error) => return Ok(Err(Cut::Io(error))),
        };
        let may = asked.node.as_ref().is_none_or(|node| node.access_level >= AccessLevel::Write);
        let only_look = self.options.dry_run || !may;
        if only_look || asked.may_be_known(reader.stat().size) {
            let stat = *reader.stat();
            let Ok((found, _)) = digest(&mut reader) else {
                return Ok(Err(reader.cut().unwrap_or(Cut::Changed)));
            };
            if only_look || asked.known().contains(&found) {
                return Ok(Ok((stat, Bytes::Known(found))));
            }
            reader = match open() {
                Ok(reader) => reader,
                Err(error) => return Ok(Err(Cut::Io(error))),
            };
        }
        let stat = *reader.stat();
        match self.client.take_from(&mut reader) {
            Ok(content) => Ok(Ok((stat, Bytes::Taken(content)))),
            Err(error) => reader.cut().map_or(Err(error.into()), |cut| Ok(Err(cut))),
        }
    }

    /// Decides what a file that was read becomes.
    fn decide(&mut self, asked: Asked, stat: Stat, bytes: Bytes) -> Result<()> {
        let found = bytes.digest();
        let disk = self.record.disk(&stat, Some(found));
        self.unsynced |= stat.changed >= self.started;
        let Asked { place, row, node, taken, moved, level, home, seen, at, .. } = asked;
        let seen = Seen { stat, ..seen };
        // What is no item yet, or not to become its content, is made in the folder.
        let is_known = |digest| {
            row.as_ref().is_some_and(|row| row.disk.digest == digest || row.coming == digest)
                || node.as_ref().is_some_and(|node| has_digest(node, found))
        };
        let edits = |row: &EntryRecord, node: &Node| {
            node.content.is_none() || record::has_same_bytes(&row.tree, node)
        };
        let edits = row.as_ref().zip(node.as_ref()).is_some_and(|(row, node)| edits(row, node));
        if level < AccessLevel::Write && !edits && !is_known(Some(found)) {
            self.problem(not_permitted(&at, &home, level));
            return Ok(());
        }
        let never_here = |row: &EntryRecord| row.disk.inode == 0 && row.coming != Some(found);
        let id = row.as_ref().map(|row| row.id);
        let Some(row) = row.filter(|row| !never_here(row)) else {
            return match node {
                None => self.create(&place, id, &seen, &at, disk, bytes, taken),
                Some(node) if is_file(&node) && has_digest(&node, found) => {
                    self.report.unchanged += 1;
                    let tree = with_own(record::tree(&node, place.id().as_ref()), &stat);
                    let id = id.unwrap_or_else(|| self.record.new_id());
                    self.put(id, &place, &seen, disk, tree, false);
                    self.commit_if_full()
                }
                Some(_) => self.create(&place, id, &seen, &at, disk, bytes, true),
            };
        };
        if row.coming == Some(found) && row.disk.digest != Some(found) {
            // A killed export wrote it.
            self.report.unchanged += 1;
            let tree = match &node {
                Some(node) if has_digest(node, found) => {
                    with_own(record::tree(node, row.tree.parent.as_ref()), &stat)
                }
                _ => TreeState { digest: Some(found), blob_id: None, ..row.tree.clone() },
            };
            self.put_row(&row, row.id, &place, &seen, disk, tree, row.made);
            return self.commit_if_full();
        }
        if row.disk.digest == Some(found) {
            // The same bytes: at most time and bits are new.
            let change = metadata::since(&row.disk, &stat);
            let touched = row.disk.mtime != stat.modified;
            let mut tree = row.tree.clone();
            match &node {
                Some(node) if (touched || !change.is_empty()) && self.may_write(node, &at) => {
                    self.report.metadata_changed += 1;
                    self.change(Change::Attributes, &at);
                    if !change.is_empty() {
                        self.batch.set_metadata(&node.id, change);
                    }
                    // Only the time of these very bytes.
                    if touched && has_digest(node, found) && !self.options.dry_run {
                        self.batch.touch(&node.id, stat.mtime)?;
                    }
                    tree.mode =
                        if stat.mode == row.disk.mode { tree.mode } else { Some(stat.mode) };
                    tree.mtime =
                        if stat.modified == row.disk.mtime { tree.mtime } else { Some(stat.mtime) };
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
                self.problem(refused(&at));
            }
            let tree = if moved { self.moved_tree(&place, &seen, tree) } else { tree };
            self.put_row(&row, row.id, &place, &seen, disk, tree, row.made);
            return self.commit_if_full();
        }
        let Some(node) = node else {
            return self.create(&place, Some(row.id), &seen, &at, disk, bytes, taken);
        };
        if has_digest(&node, found) {
            self.report.unchanged += 1;
            let tree = with_own(record::tree(&node, row.tree.parent.as_ref()), &stat);
            self.put_row(&row, row.id, &place, &seen, disk, tree, row.made);
            return self.commit_if_full();
        }
        if node.content.is_some() && !record::has_same_bytes(&row.tree, &node) {
            // Both sides changed it.
            return self.create(&place, Some(row.id), &seen, &at, disk, bytes, true);
        }
        if !self.may_write(&node, &at) {
            return Ok(());
        }
        let change = metadata::since(&row.disk, &stat);
        if !change.is_empty() {
            self.batch.set_metadata(&node.id, change);
        }
        self.report.contents_changed += 1;
        self.change(Change::Content, &at);
        let blob_id = self.put_bytes(&node.id, bytes, &stat);
        let mode = if stat.mode == row.disk.mode { row.tree.mode } else { Some(stat.mode) };
        let (digest, mtime) = (Some(found), Some(stat.mtime));
        let tree = TreeState { blob_id, digest, mtime, mode, ..row.tree.clone() };
        let tree = if moved { self.moved_tree(&place, &seen, tree) } else { tree };
        // What was refused is on its way again.
        let row = EntryRecord { state: EntryState::Agreed, ..row };
        self.put_row(&row, row.id, &place, &seen, disk, tree, row.made);
        self.commit_if_full()
    }

    /// Makes an item for a file; `aside` under the name of a conflicted copy, because the tree has
    /// something else by its name.
    #[allow(clippy::too_many_arguments, reason = "what is known of one entry")]
    fn create(
        &mut self,
        place: &Place,
        row: Option<u64>,
        seen: &Seen,
        at: &Path,
        disk: vfs_sync_client::DiskState,
        bytes: Bytes,
        aside: bool,
    ) -> Result<()> {
        let id = row.unwrap_or_else(|| self.record.new_id());
        let found = bytes.digest();
        if aside && let Some(same) = self.same_copy(place, seen, found)? {
            // These bytes were kept before.
            self.report.unchanged += 1;
            let tree = with_own(record::tree(&same, place.id().as_ref()), &seen.stat);
            self.put(id, place, seen, disk, tree, false);
            return self.commit_if_full();
        }
        let parent = self.realise(place)?;
        let name = match aside {
            true => self.copy_name(place, &seen.name, seen.stat.mtime)?,
            false => seen.name.clone(),
        };
        if aside {
            self.report.conflicts.add(at, &name);
        }
        self.report.files_created += 1;
        self.change(if aside { Change::Copy } else { Change::NewFile }, at);
        let change = metadata::change(None, &seen.stat);
        let item = self.batch.create(ObjectType::File, parent.as_ref(), name.clone(), change);
        let blob_id = self.put_bytes(&item, bytes, &seen.stat);
        let tree = TreeState {
            item,
            parent,
            name: name.as_str().to_owned(),
            blob_id,
            digest: Some(found),
            mtime: Some(seen.stat.mtime),
            mode: Some(seen.stat.mode),
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
            // Only where nothing is changed.
            Bytes::Known(_) => None,
        }
    }

    /// The folder's item, which is made if the tree deleted it.
    fn realise(&mut self, place: &Place) -> Result<Option<ItemId>> {
        let mut missing = vec![place.clone()];
        while let Some(last) = missing.last() {
            let above = match &*last.0.state.borrow() {
                State::Gone { above, .. } => above.clone(),
                _ => break,
            };
            missing.push(above);
        }
        let mut parent = missing.pop().and_then(|above| above.id());
        for place in missing.into_iter().rev() {
            let state = place.0.state.borrow().clone();
            let State::Gone { above, name, mode, record } = state else { continue };
            let joins =
                if above.is_new() { None } else { self.folder_named(parent.as_ref(), &name)? };
            let (item, state) = match joins {
                Some(node) => (node.id.clone(), State::There(node.id)),
                None => {
                    self.report.folders_created += 1;
                    let change = metadata::mode_change(mode);
                    let (kind, parent) = (ObjectType::Folder, parent.as_ref());
                    let item = self.batch.create(kind, parent, name.clone(), change);
                    (item.clone(), State::New(item))
                }
            };
            let name = name.as_str().to_owned();
            let mode = Some(mode);
            let tree = TreeState { item: item.clone(), parent, name, mode, ..record.tree.clone() };
            let row = EntryRecord { tree, state: EntryState::Agreed, ..*record };
            self.row(RecordChange::Put(Box::new(row)));
            *place.0.state.borrow_mut() = state;
            parent = Some(item);
        }
        Ok(parent)
    }

    fn folder_named(&self, parent: Option<&ItemId>, name: &Name) -> Result<Option<Node>> {
        let Ok(children) = self.client.children(parent) else { return Ok(None) };
        let is_it = |child: &Child| {
            child.name == name.as_str()
                && on_disk(child.node.object_type) == OnDisk::Folder
                && !child.shortcut
        };
        Ok(children.into_iter().find(is_it).map(|child| child.node))
    }

    /// Moves an item to where its entry was found; `false` if that is not possible.
    fn take_move(
        &mut self,
        place: &Place,
        home: &UserId,
        row: &EntryRecord,
        node: &Node,
        seen: &Seen,
        at: &Path,
    ) -> Result<bool> {
        if node.owner != *home || node.access_level < AccessLevel::Admin {
            return Ok(false);
        }
        let to_other_folder = row.parent != place.0.row;
        if to_other_folder && !place.is_new() && !place.is_gone() {
            // The tree may have moved the folder into what is moved.
            let mut above: Vec<ItemId> = place.id().into_iter().collect();
            let mut met = HashSet::new();
            while let Some(id) = above.pop() {
                if id == node.id {
                    return Ok(false);
                }
                if met.insert(id.clone()) && self.client.node(&id)?.is_some() {
                    above.extend(self.client.parents_of(&id)?);
                }
            }
        }
        self.record.claimed.insert(row.id);
        self.report.moved += 1;
        self.change(Change::Moved, at);
        if to_other_folder {
            match self.realise(place)? {
                Some(parent) => self.batch.move_to(&node.id, &parent),
                None => {
                    for parent in self.client.parents_of(&node.id)? {
                        let above = self.client.node(&parent)?;
                        if above.is_some_and(|above| above.owner == node.owner) {
                            self.batch.unlink(&node.id, &parent);
                        }
                    }
                }
            }
        }
        if row.name != seen.disk_name.as_bytes() {
            self.batch.rename(&node.id, seen.name.clone());
        }
        Ok(true)
    }

    fn moved_tree(&self, place: &Place, seen: &Seen, tree: TreeState) -> TreeState {
        TreeState { parent: place.id(), name: seen.name.as_str().to_owned(), ..tree }
    }

    /// A name for a conflicted copy in a folder.
    fn copy_name(
        &mut self,
        place: &Place,
        name: &Name,
        at: vfs_sync_core::time::Timestamp,
    ) -> Result<Name> {
        let parent = place.id();
        let taken: HashSet<String> = match place.is_new() || place.is_gone() {
            true => HashSet::new(),
            false => {
                let children = self.client.children(parent.as_ref())?.into_iter();
                children.map(|child| child.name).collect()
            }
        };
        let mut number = 0;
        loop {
            let copy = conflict_copy_name(name, &self.device, at, number);
            let made = (parent.clone(), copy.clone());
            if !taken.contains(copy.as_str()) && !self.copies.contains(&made) {
                self.copies.insert(made);
                return Ok(copy);
            }
            number += 1;
        }
    }

    /// A conflicted copy of these bytes that is there already.
    fn same_copy(&self, place: &Place, seen: &Seen, found: Sha256Digest) -> Result<Option<Node>> {
        if place.is_new() || place.is_gone() {
            return Ok(None);
        }
        let at = vfs_sync_core::time::Timestamp::MIN;
        let plain = |name: &Name| conflict_copy_name(name, "x", at, 0);
        let is_copy = |node: &Node| {
            let name = node.name.as_ref();
            name.is_some_and(|name| *name != seen.name && plain(name) == plain(&seen.name))
        };
        let children = self.client.children(place.id().as_ref())?.into_iter();
        let mut nodes = children.filter(|child| !child.shortcut).map(|child| child.node);
        Ok(nodes.find(|node| is_file(node) && has_digest(node, found) && is_copy(node)))
    }

    /// Deletes what was in the directory, is gone, and is in the tree as it was here.
    fn delete_gone(&mut self) -> Result<()> {
        let claimed = |import: &Self, gone: &Gone| import.record.claimed.contains(&gone.row.id);
        let mut gone = std::mem::take(&mut self.gone);
        gone.retain(|gone| !claimed(self, gone));
        let mut weight = 0;
        for one in gone.iter().filter(|gone| !gone.replaced) {
            weight += self.record.weight(&one.row)?;
        }
        let most = weight * 2 > self.record.count;
        let all = weight >= self.record.count;
        if most && (all || weight >= MANY) && !self.options.yes {
            self.report.held = weight;
            gone.retain(|gone| gone.replaced);
        }
        for Gone { row, at, .. } in gone {
            if self.stop.is_cancelled() {
                self.report.interrupted = true;
                return Ok(());
            }
            self.delete_one(&row, &at)?;
        }
        Ok(())
    }

    fn delete_one(&mut self, row: &EntryRecord, at: &Path) -> Result<()> {
        for (node, parent, at) in self.plan(row, at)? {
            let parents = self.client.parents_of(&node.id)?;
            if parents.len() > 1
                && let Some(parent) = &parent
            {
                // It hangs elsewhere too.
                self.batch.unlink(&node.id, parent);
            } else if !self.may_delete(&node)? {
                self.problem(not_permitted(&at, &node.owner, node.access_level));
                continue;
            } else {
                self.batch.delete(&node.id);
            }
            self.report.deleted += 1;
            self.change(Change::Deleted, &at);
            self.commit_if_full()?;
        }
        self.row(RecordChange::Remove(row.id));
        self.commit_if_full()
    }

    /// What of an entry that is gone goes in the tree, from the top down: what is as the record says,
    /// and the folders that have nothing else in them.
    fn plan(&self, row: &EntryRecord, at: &Path) -> Result<Vec<(Node, Option<ItemId>, PathBuf)>> {
        struct Planned {
            node: Node,
            parent: Option<ItemId>,
            at: PathBuf,
            above: Option<usize>,
            stays: bool,
        }
        let mut planned: Vec<Planned> = Vec::new();
        let mut left = vec![(row.clone(), at.to_owned(), None)];
        while let Some((row, at, above)) = left.pop() {
            let node = self.client.node(&row.tree.item)?;
            let node = match node {
                Some(node) if self.is_as_recorded(&row, &node)? => node,
                _ => {
                    if let Some(above) = above
                        && self.client.node(&row.tree.item)?.is_some()
                    {
                        let above: usize = above;
                        planned[above].stays = true;
                    }
                    continue;
                }
            };
            let index = planned.len();
            let children = self.client.children(Some(&node.id))?;
            let rows = self.client.records(self.record.directory.id, row.id)?;
            let mut rows: HashMap<ItemId, EntryRecord> = rows
                .into_iter()
                .filter(|row| !self.record.claimed.contains(&row.id))
                .map(|row| (row.tree.item.clone(), row))
                .collect();
            let mut stays = false;
            for child in children {
                match rows.remove(&child.node.id) {
                    Some(row) => {
                        let at = at.join(std::ffi::OsStr::from_bytes(&row.name));
                        left.push((row, at, Some(index)));
                    }
                    // A shortcut goes with its folder; what is new in the folder keeps it.
                    None => stays |= !child.shortcut,
                }
            }
            let parent = row.tree.parent.clone();
            planned.push(Planned { node, parent, at, above, stays });
        }
        for index in (0..planned.len()).rev() {
            if planned[index].stays
                && let Some(above) = planned[index].above
            {
                planned[above].stays = true;
            }
        }
        let going = planned.into_iter().filter(|one| !one.stays);
        Ok(going.map(|one| (one.node, one.parent, one.at)).collect())
    }

    /// Whether an item is where and what the record says.
    fn is_as_recorded(&self, row: &EntryRecord, node: &Node) -> Result<bool> {
        let parents = self.client.parents_of(&node.id)?;
        let is_here = match &row.tree.parent {
            Some(parent) => parents.contains(parent),
            None => parents.is_empty(),
        };
        let name = node.name.as_ref().map(Name::as_str).unwrap_or_default();
        let same = name == row.tree.name && record::has_same_bytes(&row.tree, node);
        Ok(is_here && same && row.state == EntryState::Agreed)
    }

    /// Whether an item may be deleted: by whoever may write all folders that it is in.
    fn may_delete(&self, node: &Node) -> Result<bool> {
        if node.access_level < AccessLevel::Write || node.access_level == AccessLevel::Admin {
            return Ok(node.access_level == AccessLevel::Admin);
        }
        let mut may = false;
        for parent in self.client.parents_of(&node.id)? {
            let above = self.client.node(&parent)?;
            match above.filter(|above| above.owner == node.owner) {
                Some(above) if above.access_level < AccessLevel::Write => return Ok(false),
                Some(_) => may = true,
                None => {}
            }
        }
        Ok(may)
    }

    /// Whether an item may be changed; if not, that is a problem.
    fn may_write(&mut self, node: &Node, at: &Path) -> bool {
        let may = node.access_level >= AccessLevel::Write;
        if !may {
            self.problem(not_permitted(at, &node.owner, node.access_level));
        }
        may
    }

    /// Writes the row of an entry that was taken; with `before` only if it says something new.
    #[allow(clippy::too_many_arguments, reason = "the parts of a row")]
    fn put_row(
        &mut self,
        before: &EntryRecord,
        id: u64,
        place: &Place,
        seen: &Seen,
        disk: vfs_sync_client::DiskState,
        tree: TreeState,
        made: bool,
    ) {
        let (parent, name) = (place.0.row, seen.disk_name.as_bytes().to_vec());
        let (state, folder) = (before.state, disk.kind == EntryKind::Folder);
        let coming = None;
        let row = EntryRecord { id, parent, name, disk, tree, state, coming, made };
        let same = if folder { is_same_folder(before, &row) } else { *before == row };
        if !same {
            self.row(RecordChange::Put(Box::new(row)));
        }
    }

    fn put(
        &mut self,
        id: u64,
        place: &Place,
        seen: &Seen,
        disk: vfs_sync_client::DiskState,
        tree: TreeState,
        made: bool,
    ) {
        let (parent, name) = (place.0.row, seen.disk_name.as_bytes().to_vec());
        let (state, coming) = (EntryState::Agreed, None);
        let row = EntryRecord { id, parent, name, disk, tree, state, coming, made };
        self.row(RecordChange::Put(Box::new(row)));
    }

    fn row(&mut self, change: RecordChange) {
        self.batch_rows += 1;
        self.batch.record(self.record.directory.id, change);
    }

    fn commit_if_full(&mut self) -> Result<()> {
        let work = self.batch.len().max(self.batch_contents);
        if work >= BATCH_OPERATIONS
            || self.batch_bytes >= BATCH_BYTES
            || self.batch_rows >= BATCH_ROWS
        {
            self.commit()?;
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<()> {
        let empty = self.batch.is_empty();
        self.batch_contents = 0;
        self.batch_bytes = 0;
        self.batch_rows = 0;
        let batch = std::mem::replace(&mut self.batch, self.client.batch());
        if self.options.dry_run || empty {
            return Ok(());
        }
        if std::mem::take(&mut self.unsynced) {
            let what = format!("cannot sync {}", self.scanner.root().path().display());
            let synced = self.scanner.folder(Path::new("")).and_then(|top| top.sync_disk());
            synced.map_err(Failure::io(what))?;
        }
        self.committer.begin(batch)
    }

    fn change(&mut self, change: Change, at: &Path) {
        if self.options.dry_run {
            self.report.changes.add(change, at);
        }
    }

    fn problem(&mut self, problem: Problem) {
        self.report.problems.add(problem);
    }
}

fn is_of_kind(row: &EntryRecord, stat: &Stat) -> bool {
    match row.disk.kind {
        EntryKind::File => stat.kind == Kind::File,
        EntryKind::Folder => stat.kind == Kind::Folder,
    }
}

/// Whether two rows of a folder say the same; its times change with everything in it.
fn is_same_folder(one: &EntryRecord, other: &EntryRecord) -> bool {
    let still = |row: &EntryRecord| {
        let mut row = row.clone();
        (row.disk.mtime, row.disk.ctime) =
            (DiskTime { seconds: 0, nanos: 0 }, DiskTime { seconds: 0, nanos: 0 });
        row
    };
    still(one) == still(other)
}

/// The tree half of an entry that was found to be in the tree: the tree's time and bits, where they
/// differ, are for the next export to set.
fn with_own(tree: TreeState, stat: &Stat) -> TreeState {
    let mtime = tree.mtime.map(|_| stat.mtime);
    TreeState { mtime, mode: Some(stat.mode), ..tree }
}

fn is_file(node: &Node) -> bool {
    on_disk(node.object_type) == OnDisk::File
}

fn has_digest(node: &Node, digest: Sha256Digest) -> bool {
    node.content.as_ref().is_some_and(|content| content.digest == digest)
}

fn not_permitted(at: &Path, owner: &UserId, level: AccessLevel) -> Problem {
    let detail = format!("it is in {owner}'s tree, and you may only {level} there");
    Problem::new(at, ProblemKind::NotPermitted, detail)
}

fn refused(at: &Path) -> Problem {
    let detail = "the server refused it: it is only here (see `vfs-sync rejected`)";
    Problem::new(at, ProblemKind::Refused, detail)
}

fn shortcut(at: &Path, child: &Child) -> Problem {
    let owner = &child.node.owner;
    let detail = format!("it is a shortcut into {owner}'s tree: import to its own place");
    Problem::new(at, ProblemKind::Shortcut, detail)
}

/// The end of an import whose deletions wait.
pub(crate) fn held(report: &ImportReport, directory: &Path) -> Option<Failure> {
    (report.held > 0).then(|| {
        let (held, of) = (report.held, report.recorded);
        let text = format!(
            "{held} of the {of} entries that {} had are gone: none was deleted in the tree",
            directory.display()
        );
        Failure::new(FailureKind::Partial, text).hint(
            "if a disk is not mounted, mount it and import again; if they are to be deleted, add --yes",
        )
    })
}
