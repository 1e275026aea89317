//! Writing a replica's tree to a directory.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use vfs_sync_client::{
    Child, ClientError, DiskState, DiskTime, EntryKind, EntryRecord, EntryState, LocalContent,
    Node, ROOT_ENTRY, RecordChange, SyncClient, TreeState,
};
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::id::ItemId;

use super::destination::{self, NotWritten, Over, Placed, Wanted};
use super::digest::digest;
use super::dir::{Folder, Kind, Root, Stat};
use super::metadata::{self, OnDisk, on_disk};
use super::names::{self, DiskRules};
use super::record::{self, Record};
use crate::error::{Failure, Kind as FailureKind, Result};
use crate::report::{Problem, ProblemKind, Problems};

/// Files whose contents are read, or waited for, ahead of the one that is written. How many are
/// downloaded at a time is the client's to say.
const READ_AHEAD: usize = 512;
/// Bytes of their contents; some are in memory, and of a large one little is.
const READ_AHEAD_BYTES: u64 = 32 * 1024 * 1024;
/// What a large content counts for.
const LARGE: u64 = 1024 * 1024;
/// Files whose contents are asked for together.
const ASKED_TOGETHER: usize = 128;
/// Rows of the record that are written together, after one wait for the disk.
const ROWS_TOGETHER: usize = 32_768;
/// Bytes after which the disk is waited for.
const UNSYNCED_BYTES: u64 = 1024 * 1024 * 1024;
/// Removals of so many entries, if they are more than half and come of a rebuilt replica, wait for a
/// word of the user.
const MANY: u64 = 100;
/// A time that no disk tells.
const NEVER: DiskTime = DiskTime { seconds: 0, nanos: 0 };
/// Stands for the bits that the disk is going to tell.
const OF_THE_DISK: u32 = u32::MAX;

/// What an export may do.
#[derive(Debug, Clone, Default)]
pub(crate) struct ExportOptions {
    /// The directory where the replica keeps its own files, which no export touches.
    pub(crate) replica: Option<PathBuf>,
    /// Give the tree's files their names; what has them and differs from the record is kept beside.
    pub(crate) force: bool,
    /// Remove what is as it was recorded and is no longer in the tree.
    pub(crate) delete: bool,
    /// Remove also where a rebuilt replica lacks most of it.
    pub(crate) yes: bool,
    /// Compare by content.
    pub(crate) checksum: bool,
}

/// What an export did.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ExportReport {
    pub(crate) folders_created: u64,
    pub(crate) files_written: u64,
    /// Files that only got another time or other permission bits.
    pub(crate) metadata_changed: u64,
    pub(crate) unchanged: u64,
    pub(crate) removed: u64,
    /// Entries whose removal waits for `--yes`.
    pub(crate) held: u64,
    /// Entries that were recorded before.
    pub(crate) recorded: u64,
    /// Bytes written.
    pub(crate) bytes: u64,
    /// Whether the user stopped it; the same command goes on.
    pub(crate) interrupted: bool,
    pub(crate) problems: Problems,
}

/// Writes what hangs under `top` (`None`: all) to `directory`, which is made if it is not there.
pub(crate) async fn export(
    client: &SyncClient,
    top: Option<ItemId>,
    directory: &Path,
    options: ExportOptions,
    stop: &CancellationToken,
    progress: &mut (dyn FnMut(&ExportReport) + Send),
) -> Result<ExportReport> {
    let what = || format!("cannot write to {}", directory.display());
    if let Some(there) = directory.ancestors().find(|path| path.exists()) {
        own_place(there, options.replica.as_deref()).map_err(Failure::io(what()))?;
    }
    std::fs::create_dir_all(directory).map_err(Failure::io(what()))?;
    let own = own_place(directory, options.replica.as_deref()).map_err(Failure::io(what()))?;
    let mut root = Root::open(directory).map_err(Failure::io(what()))?;
    let folder = root.folder(Path::new("")).map_err(Failure::io(what()))?;
    if !folder.lock().map_err(Failure::io(what()))? {
        let busy = format!("another export is writing to {}", directory.display());
        return Err(Failure::failed(busy).hint("wait for it, or choose another directory"));
    }
    let rules = destination::probe(&folder);
    let found = Record::find(client, &mut root, top.as_ref()).map_err(Failure::io(what()))??;
    let record = Record::begin(client, found, top.as_ref(), false, true)?;
    let export = Export { own, ..Export::new(client, root, record, rules, options, stop) };
    export.run(top, progress).await
}

/// The end of an export whose removals wait.
pub(crate) fn held(report: &ExportReport, directory: &Path) -> Option<Failure> {
    (report.held > 0).then(|| {
        let (held, of) = (report.held, report.recorded);
        let text = format!(
            "the replica was rebuilt and lacks {held} of the {of} entries that {} has: none was removed",
            directory.display()
        );
        Failure::new(FailureKind::Partial, text).hint(
            "see `vfs-sync status` for what the server lost; if they are to be removed, add --yes",
        )
    })
}

/// Where under `directory` the replica is, if it is there. What is in the replica's own directory
/// is none to export to.
fn own_place(directory: &Path, replica: Option<&Path>) -> io::Result<Option<PathBuf>> {
    let Some(replica) = replica else { return Ok(None) };
    let (directory, replica) = (directory.canonicalize()?, replica.canonicalize()?);
    if directory.starts_with(&replica) {
        return Err(io::Error::other("the replica keeps its own files here"));
    }
    Ok(replica.strip_prefix(&directory).ok().map(Path::to_owned))
}

/// The folder that an entry is in: its row, and its item.
#[derive(Debug, Clone, Copy)]
struct Parent<'a> {
    row: u64,
    item: Option<&'a ItemId>,
}

/// A folder to write what is in it.
struct Enter {
    path: PathBuf,
    item: Option<ItemId>,
    new: bool,
    /// The folder's row.
    row: u64,
    /// Whether rows of what is in it may be there already.
    has_rows: bool,
}

/// A file whose content is on its way.
struct Reading {
    disk: Folder,
    at: PathBuf,
    file: ToWrite,
    content: oneshot::Receiver<std::result::Result<LocalContent, ClientError>>,
    /// What reads it; `None` until it was asked for.
    reader: Option<Arc<AbortOnDropHandle<()>>>,
}

/// A file to write.
struct ToWrite {
    name: OsString,
    item: ItemId,
    wanted: Wanted,
    over: Over,
    /// The file's row as it was, or the number that a new one gets.
    row: u64,
    before: Option<EntryRecord>,
    /// The row of the folder.
    parent: u64,
    tree: TreeState,
}

impl ToWrite {
    /// Its row before it is written: the one that it has, or one that says that nothing was here.
    fn coming(&self) -> EntryRecord {
        let coming = Some(self.wanted.digest);
        if let Some(before) = &self.before {
            return EntryRecord { coming, ..before.clone() };
        }
        EntryRecord {
            id: self.row,
            parent: self.parent,
            name: self.name.as_bytes().to_vec(),
            disk: nothing(EntryKind::File, 0),
            tree: self.tree.clone(),
            state: EntryState::Agreed,
            coming,
            made: false,
        }
    }
}

/// The disk half of a row whose entry is yet to be made.
fn nothing(kind: EntryKind, mode: u32) -> DiskState {
    DiskState {
        kind,
        size: 0,
        mtime: NEVER,
        ctime: NEVER,
        inode: 0,
        born: None,
        mode,
        elsewhere: false,
        digest: None,
        unsettled: false,
    }
}

/// What is on the disk and not in the tree.
struct Extra {
    at: PathBuf,
    row: Option<EntryRecord>,
}

/// A folder that is done once all is in it.
struct Leave {
    path: PathBuf,
    /// The bits to set, which may forbid writing.
    mode: Option<u32>,
    /// Its row, but for what the disk says in the end.
    row: Option<EntryRecord>,
}

struct Export<'a> {
    client: &'a SyncClient,
    root: Root,
    rules: DiskRules,
    options: ExportOptions,
    stop: &'a CancellationToken,
    report: ExportReport,
    /// Where under the root the replica keeps its own files, if it does.
    own: Option<PathBuf>,
    /// Where each folder was written: one that hangs in several places is written once, since
    /// links between folders can multiply without bound.
    folders: HashMap<ItemId, PathBuf>,
    /// In the order in which they are written.
    reading: VecDeque<Reading>,
    /// Bytes of their contents, up to [`LARGE`] of each.
    ahead: u64,
    /// The contents of the last of them, which were not asked for yet.
    unasked: Vec<(ItemId, oneshot::Sender<std::result::Result<LocalContent, ClientError>>)>,
    /// The files that were written where something may be replaced.
    written: HashSet<(u64, u64)>,
    /// The folders that were entered, to be left when all is in them.
    leaving: Vec<Leave>,
    record: Record,
    device: String,
    /// Rows of what was written, which wait until it is on the disk.
    rows: Vec<RecordChange>,
    /// Bytes that were written since the disk was last waited for.
    unsynced: u64,
    /// What is to be removed at the end.
    extras: Vec<Extra>,
    /// Whether a folder's own bits forbid this user anything.
    bits_bind: bool,
}

impl<'a> Export<'a> {
    fn new(
        client: &'a SyncClient,
        root: Root,
        record: Record,
        rules: DiskRules,
        options: ExportOptions,
        stop: &'a CancellationToken,
    ) -> Self {
        Self {
            client,
            root,
            rules,
            options,
            stop,
            report: ExportReport { recorded: record.count, ..ExportReport::default() },
            own: None,
            folders: HashMap::new(),
            reading: VecDeque::new(),
            ahead: 0,
            unasked: Vec::new(),
            written: HashSet::new(),
            leaving: Vec::new(),
            record,
            device: client.device(),
            rows: Vec::new(),
            unsynced: 0,
            extras: Vec::new(),
            bits_bind: !rustix::process::geteuid().is_root(),
        }
    }

    async fn run(
        mut self,
        top: Option<ItemId>,
        progress: &mut (dyn FnMut(&ExportReport) + Send),
    ) -> Result<ExportReport> {
        let walked = self.walk(top, progress).await;
        // Also where it was cut short: what was written is recorded, and folders get their bits back.
        for leave in std::mem::take(&mut self.leaving).into_iter().rev() {
            self.leave(leave);
        }
        let flushed = self.flush();
        walked?;
        flushed?;
        self.report.interrupted = self.stop.is_cancelled();
        if !self.report.interrupted && self.report.held == 0 {
            self.record.in_step()?;
        }
        Ok(self.report)
    }

    async fn walk(
        &mut self,
        top: Option<ItemId>,
        progress: &mut (dyn FnMut(&ExportReport) + Send),
    ) -> Result<()> {
        let first =
            Enter { path: PathBuf::new(), item: top, new: false, row: ROOT_ENTRY, has_rows: true };
        let mut folders = vec![first];
        while let Some(folder) = folders.pop() {
            if self.stop.is_cancelled() {
                break;
            }
            self.enter(folder, &mut folders, progress).await?;
            progress(&self.report);
        }
        while !self.reading.is_empty() && !self.stop.is_cancelled() {
            self.write_next().await?;
            progress(&self.report);
        }
        if !self.stop.is_cancelled() {
            self.remove_extras()?;
        }
        Ok(())
    }

    async fn enter(
        &mut self,
        Enter { path, item, new, row, has_rows }: Enter,
        steps: &mut Vec<Enter>,
        progress: &mut (dyn FnMut(&ExportReport) + Send),
    ) -> Result<()> {
        let (path, item) = (path.as_path(), item.as_ref());
        let disk = match self.root.folder(path) {
            Ok(disk) => disk,
            Err(error) => return self.unwritable(path, error),
        };
        if !new && self.bits_bind {
            self.make_writable(&disk, path);
        }
        let children: Vec<Child> = self.client.children(item)?;
        let mut rows = if has_rows { self.record.rows(row)? } else { HashMap::new() };
        let there = if new { HashMap::new() } else { self.there(&disk, path, &rows, &children)? };
        let siblings: Vec<_> = children
            .iter()
            .filter(|child| match on_disk(child.node.object_type) {
                OnDisk::Nothing => {
                    let detail = "it is no file or folder";
                    let at = path.join(names::to_disk(&child.name));
                    self.report.problems.add(Problem::new(&at, ProblemKind::NotAFile, detail));
                    false
                }
                _ if is_own_name(&names::to_disk(&child.name)) => {
                    let detail = "an export would take it for a file left behind";
                    let at = path.join(names::to_disk(&child.name));
                    self.report.problems.add(Problem::new(&at, ProblemKind::Name, detail));
                    false
                }
                _ => true,
            })
            .collect();
        let keys: Vec<_> =
            siblings.iter().map(|child| (child.name.as_str(), child.node.id.as_str())).collect();
        let named = names::distinct(&keys, self.rules);
        let mut rest = there.clone();
        let mut files = Vec::new();
        let mut folders = Vec::new();
        for (child, name) in siblings.iter().zip(named) {
            let at = path.join(&name.name);
            if name.changed {
                let detail = format!("the disk takes {} for another's name", child.name);
                self.problem(Problem::new(&at, ProblemKind::NameChanged, detail));
            }
            let stat = rest.remove(&self.rules.key(&name.name)).map(|(_, stat)| stat);
            let known = rows.remove(&name.name);
            let folder = Parent { row, item };
            match on_disk(child.node.object_type) {
                OnDisk::Folder if child.shortcut => {
                    let detail = format!(
                        "it is a shortcut into {}'s tree: export it from its own place",
                        child.node.owner
                    );
                    self.problem(Problem::new(&at, ProblemKind::Shortcut, detail));
                }
                OnDisk::Folder => {
                    folders.extend(self.folder(
                        &disk,
                        &at,
                        &name.name,
                        &child.node,
                        stat,
                        known,
                        folder,
                    )?);
                }
                _ => {
                    for under in self.client.children(Some(&child.node.id))? {
                        let detail = "it hangs under a file, where a disk has no place for it";
                        let at = at.join(names::to_disk(&under.name));
                        self.problem(Problem::new(&at, ProblemKind::Unwritable, detail));
                    }
                    files.extend(self.file(
                        &disk,
                        &at,
                        name.name,
                        &child.node,
                        stat,
                        known,
                        folder,
                    )?);
                }
            }
            if self.stop.is_cancelled() {
                return Ok(());
            }
        }
        self.read_all(&disk, path, files, progress).await?;
        if self.options.delete {
            let mut names: Vec<OsString> = rest.into_values().map(|(name, _)| name).collect();
            names.sort_unstable();
            for name in names {
                let (at, row) = (path.join(&name), rows.remove(&name));
                self.extras.push(Extra { at, row });
            }
            // What is neither on the disk nor in the tree.
            for (name, row) in rows {
                if disk.stat(&name).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
                    && self.client.node(&row.tree.item)?.is_none()
                {
                    self.rows.push(RecordChange::Remove(row.id));
                }
            }
        }
        steps.extend(folders.into_iter().rev());
        Ok(())
    }

    /// What is in a folder already, by what the disk takes for a name. Left-overs of exports that
    /// were cut short go, or come back where they may be somebody's work.
    fn there(
        &mut self,
        disk: &Folder,
        path: &Path,
        rows: &HashMap<OsString, EntryRecord>,
        children: &[Child],
    ) -> Result<HashMap<Vec<u8>, (OsString, Stat)>> {
        let mut there = HashMap::new();
        let names = match disk.names() {
            Ok(names) => names,
            Err(error) => {
                self.unwritable(path, error)?;
                return Ok(there);
            }
        };
        for name in names {
            if names::is_temporary(&name) {
                let _ = disk.remove_file(&name);
                continue;
            }
            let mut name = name;
            if names::is_displaced(&name) {
                match self.recover(disk, path, &name, rows, children) {
                    Some(recovered) => name = recovered,
                    None => continue,
                }
            }
            if self.own.as_ref().is_some_and(|own| *own == path.join(&name)) {
                self.problem(own_files(&path.join(&name)));
            } else if let Ok(stat) = disk.stat(&name) {
                there.insert(self.rules.key(&name), (name, stat));
            }
        }
        Ok(there)
    }

    /// Looks at what an export took from its place before it was cut short: what the record or the
    /// tree has goes, anything else gets a name.
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
                let detail = "an export that was cut short had taken it from its place";
                self.problem(Problem::new(&path.join(&copy), ProblemKind::ConflictedCopy, detail));
                Some(copy)
            }
            Err(error) => {
                self.problem(Problem::unwritable(&path.join(name), &error));
                None
            }
        }
    }

    /// Lets this user write to a folder whose bits forbid it, until it is left.
    fn make_writable(&mut self, disk: &Folder, path: &Path) {
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

    /// Makes sure of a folder; gives the step that fills it.
    #[allow(clippy::too_many_arguments, reason = "what is known of one entry")]
    fn folder(
        &mut self,
        disk: &Folder,
        at: &Path,
        name: &OsStr,
        node: &Node,
        stat: Option<Stat>,
        row: Option<EntryRecord>,
        parent: Parent<'_>,
    ) -> Result<Option<Enter>> {
        if let Some(first) = self.folders.get(&node.id) {
            let detail = format!("it was written to {} already", names::path_text(first));
            self.problem(Problem::new(at, ProblemKind::LinkedAgain, detail));
            return Ok(None);
        }
        if let Some(stat) = stat.filter(|stat| stat.kind != Kind::Folder) {
            if stat.kind == Kind::Link {
                let detail = "a symbolic link is in its place";
                self.problem(Problem::new(at, ProblemKind::SymbolicLink, detail));
                return Ok(None);
            }
            if !self.clear(disk, at, name, &stat, row.as_ref(), "folder")? {
                return Ok(None);
            }
        }
        let is_there = stat.is_some_and(|stat| stat.kind == Kind::Folder);
        if !is_there && let Err(error) = disk.create_folder(name) {
            self.unwritable(at, error)?;
            return Ok(None);
        }
        match is_there {
            false => self.report.folders_created += 1,
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
        let disk = nothing(EntryKind::Folder, kept_mode.unwrap_or(OF_THE_DISK));
        let row = EntryRecord { id, parent, name, disk, tree, state, coming: None, made };
        self.leaving.push(Leave { path: at.to_owned(), mode, row: Some(row) });
        let (path, item) = (at.to_owned(), Some(node.id.clone()));
        Ok(Some(Enter { path, item, new: !is_there, row: id, has_rows }))
    }

    /// Clears what is no `wanted` out of the way of one: what is as it was recorded goes, anything else
    /// is kept under another name. `false` if it stays.
    fn clear(
        &mut self,
        disk: &Folder,
        at: &Path,
        name: &OsStr,
        stat: &Stat,
        row: Option<&EntryRecord>,
        wanted: &str,
    ) -> Result<bool> {
        if !self.options.force {
            let is = match stat.kind {
                Kind::File => "a file",
                Kind::Folder => "a folder",
                Kind::Link => "a symbolic link",
                Kind::Special(what) => what,
            };
            let detail = format!("{is} is in the place of a {wanted}: see --force");
            self.problem(Problem::new(at, ProblemKind::TypeChanged, detail));
            return Ok(false);
        }
        if self.own.as_ref().is_some_and(|own| own.starts_with(at)) {
            self.problem(own_files(at));
            return Ok(false);
        }
        self.root.forget(at);
        if let Some(row) = row.filter(|row| row.state == EntryState::Agreed) {
            if stat.kind == Kind::File && record::is_unchanged(&row.disk, stat) {
                match destination::remove_expected(disk, name, stat) {
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
                self.remove_extra(&Extra { at: at.to_owned(), row: Some(row.clone()) })?;
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

    fn kept(&mut self, at: &Path, copy: &OsStr) {
        let copy = at.with_file_name(copy);
        let detail =
            format!("it is not what was written here: kept as {}", names::path_text(&copy));
        self.problem(Problem::new(at, ProblemKind::ConflictedCopy, detail));
    }

    /// Compares a file with what is there; gives what is to be written.
    #[allow(clippy::too_many_arguments, reason = "what is known of one entry")]
    fn file(
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
            let detail = "its content has not arrived yet";
            self.problem(Problem::new(at, ProblemKind::NoContent, detail));
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
        let Some(stat) = stat else { return Ok(Some(write(name, Over::Nothing, row))) };
        if stat.kind != Kind::File {
            if stat.kind == Kind::Link && !self.options.force {
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
        if found == Some(wanted.digest) {
            self.take_as_it_is(disk, at, &name, &stat, row, id, parent.row, &wanted, tree)?;
            return Ok(None);
        }
        let is_recorded = |row: &EntryRecord| {
            row.state == EntryState::Agreed && found.is_some() && row.disk.digest == found
        };
        if row.as_ref().is_some_and(is_recorded) {
            return Ok(Some(write(name, Over::Expected(stat), row)));
        }
        if self.options.force {
            return Ok(Some(write(name, Over::Anything, row)));
        }
        let detail = match &row {
            Some(row) if row.state == EntryState::Local => {
                "the server refused what is in its place: see `vfs-sync rejected`"
            }
            Some(_) => "what is in its place was changed here: import it, or see --force",
            None => "another content is in its place: see --force",
        };
        self.problem(Problem::new(at, ProblemKind::Differs, detail));
        Ok(None)
    }

    /// Returns the digest of a file that may have the tree's bytes or recorded ones; `None` for any
    /// other, and for one that changes at this moment.
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
        // One that changed meanwhile is somebody's work.
        Ok(Some(found).filter(|_| disk.stat(name).is_ok_and(|now| now == *stat)))
    }

    /// Takes a file that has the tree's bytes into the record, with the tree's time and bits.
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
            // What was changed here and not imported yet stays.
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
        } else {
            let set = disk.set_file_mode_and_mtime(name, mode, mtime);
            match set.and_then(|()| disk.stat(name)) {
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

    /// Writes a row, if it says something new.
    fn put(&mut self, before: Option<&EntryRecord>, row: EntryRecord) -> Result<()> {
        if before != Some(&row) {
            self.rows.push(RecordChange::Put(Box::new(row)));
        }
        self.flush_if_full()
    }

    fn flush_if_full(&mut self) -> Result<()> {
        if self.rows.len() >= ROWS_TOGETHER || self.unsynced >= UNSYNCED_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    /// Waits until what was written is on the disk, then writes its rows.
    fn flush(&mut self) -> Result<()> {
        if self.rows.is_empty() && self.unsynced == 0 {
            return Ok(());
        }
        let what = format!("cannot write to {}", self.root.path().display());
        let top = self.root.folder(Path::new(""));
        top.and_then(|top| top.sync_disk()).map_err(Failure::io(what))?;
        self.unsynced = 0;
        let rows = std::mem::take(&mut self.rows);
        if !rows.is_empty() {
            self.client.write_records(self.record.directory.id, rows, true)?;
        }
        Ok(())
    }

    /// Begins to read the contents of files; writes those before them to make room.
    async fn read_all(
        &mut self,
        disk: &Folder,
        path: &Path,
        files: Vec<ToWrite>,
        progress: &mut (dyn FnMut(&ExportReport) + Send),
    ) -> Result<()> {
        for file in files {
            while (self.reading.len() >= READ_AHEAD || self.ahead >= READ_AHEAD_BYTES)
                && !self.stop.is_cancelled()
            {
                self.write_next().await?;
                progress(&self.report);
            }
            self.ahead += file.wanted.size.min(LARGE);
            let (sender, content) = oneshot::channel();
            self.unasked.push((file.item.clone(), sender));
            let (disk, at) = (disk.clone(), path.join(&file.name));
            self.reading.push_back(Reading { disk, at, file, content, reader: None });
            if self.unasked.len() >= ASKED_TOGETHER {
                self.ask()?;
            }
        }
        Ok(())
    }

    /// Asks for the contents of the last files, whose rows say what is to come.
    fn ask(&mut self) -> Result<()> {
        let (client, asked) = (self.client.clone(), std::mem::take(&mut self.unasked));
        let first = self.reading.len() - asked.len();
        let reader = tokio::spawn(async move {
            let (items, senders): (Vec<_>, Vec<_>) = asked.into_iter().unzip();
            for (content, sender) in client.pass_contents(&items).await.into_iter().zip(senders) {
                // Whoever no longer waits was interrupted.
                let _ = sender.send(content);
            }
        });
        let reader = Arc::new(AbortOnDropHandle::new(reader));
        let mut coming = Vec::new();
        for reading in self.reading.range_mut(first..) {
            reading.reader = Some(Arc::clone(&reader));
            coming.push(RecordChange::Put(Box::new(reading.file.coming())));
        }
        self.client.write_records(self.record.directory.id, coming, false)?;
        Ok(())
    }

    async fn write_next(&mut self) -> Result<()> {
        if self.reading.front().is_some_and(|reading| reading.reader.is_none()) {
            self.ask()?;
        }
        let Some(Reading { disk, at, file, content, reader: _reader }) = self.reading.pop_front()
        else {
            return Ok(());
        };
        self.ahead -= file.wanted.size.min(LARGE);
        let content = tokio::select! {
            content = content => content.map_err(|error| Failure::failed(error.to_string()))?,
            () = self.stop.cancelled() => return Ok(()),
        };
        match content {
            Ok(content) => self.write(&disk, &at, &file, &content),
            Err(error) if ends_it(&error) => Err(error.into()),
            Err(error) => {
                self.problem(Problem::new(&at, ProblemKind::Unreadable, error.to_string()));
                Ok(())
            }
        }
    }

    fn write(
        &mut self,
        disk: &Folder,
        at: &Path,
        file: &ToWrite,
        content: &LocalContent,
    ) -> Result<()> {
        // Where the disk has taken two names for one, what was just written is not written over.
        let replaces = !matches!(file.over, Over::Nothing);
        if replaces && disk.stat(&file.name).is_ok_and(|stat| self.written.contains(&stat.id)) {
            let detail = "the disk takes its name for that of a file beside it";
            self.problem(Problem::new(at, ProblemKind::Differs, detail));
            return Ok(());
        }
        let reader = content.reader()?;
        let (name, wanted, device) = (&file.name, &file.wanted, self.device.as_str());
        let mut done =
            destination::write_file(disk, name, wanted, reader, file.over, device, self.stop);
        if self.options.force
            && matches!(&done, Err(NotWritten::Io(error)) if error.kind() == io::ErrorKind::AlreadyExists)
            && !disk.stat(name).is_ok_and(|stat| self.written.contains(&stat.id))
        {
            // It appeared since the folder was read: it is kept as what was there before is.
            let reader = content.reader()?;
            done = destination::write_file(
                disk,
                name,
                wanted,
                reader,
                Over::Anything,
                device,
                self.stop,
            );
        }
        match done {
            Ok(Placed { stat, kept }) => {
                self.written.insert(stat.id);
                self.report.files_written += 1;
                self.report.bytes += file.wanted.size;
                self.unsynced += file.wanted.size;
                if let Some(copy) = kept {
                    self.kept(at, &copy);
                }
                if stat.size == file.wanted.size {
                    let row = EntryRecord {
                        id: file.row,
                        parent: file.parent,
                        name: file.name.as_bytes().to_vec(),
                        disk: self.record.disk(&stat, Some(file.wanted.digest)),
                        tree: file.tree.clone(),
                        state: EntryState::Agreed,
                        coming: None,
                        made: false,
                    };
                    self.put(None, row)?;
                } else {
                    self.rows.push(RecordChange::Remove(file.row));
                }
            }
            Err(NotWritten::Interrupted) => {}
            Err(NotWritten::WrongBytes) => {
                let detail = "the content is not the one that the tree names";
                self.problem(Problem::new(at, ProblemKind::Unreadable, detail));
            }
            Err(NotWritten::Io(error)) if error.kind() == io::ErrorKind::AlreadyExists => {
                let detail = "something appeared in its place meanwhile";
                self.problem(Problem::new(at, ProblemKind::Differs, detail));
            }
            Err(NotWritten::Io(error)) => self.unwritable(at, error)?,
        }
        Ok(())
    }

    /// Removes what is not in the tree, where it is as it was recorded.
    fn remove_extras(&mut self) -> Result<()> {
        let extras = std::mem::take(&mut self.extras);
        if self.record.is_before_rebuild() && !self.options.yes {
            let mut weight = 0;
            for row in extras.iter().filter_map(|extra| extra.row.as_ref()) {
                weight += self.record.weight(row)?;
            }
            let (most, all) = (weight * 2 > self.record.count, weight >= self.record.count);
            if most && (all || weight >= MANY) {
                self.report.held = weight;
                return Ok(());
            }
        }
        for extra in &extras {
            if self.stop.is_cancelled() {
                return Ok(());
            }
            self.remove_extra(extra)?;
            self.flush_if_full()?;
        }
        Ok(())
    }

    /// Removes an entry that is as it was recorded, a folder with all in it that is.
    fn remove_extra(&mut self, Extra { at, row }: &Extra) -> Result<()> {
        struct Frame {
            at: PathBuf,
            row: EntryRecord,
            /// What is to be looked at in it, last first.
            left: Vec<(OsString, Option<EntryRecord>)>,
            /// The bits to give back if it stays.
            mode: Option<u32>,
        }
        let mut frames: Vec<Frame> = Vec::new();
        let mut next = Some((at.clone(), row.clone()));
        loop {
            let Some((at, row)) = next.take() else {
                let Some(frame) = frames.last_mut() else { return Ok(()) };
                if let Some((name, row)) = frame.left.pop() {
                    next = Some((frame.at.join(name), row));
                    continue;
                }
                let Some(Frame { at, row, mode, .. }) = frames.pop() else { return Ok(()) };
                self.root.forget(&at);
                let (parent, name) = split(&at);
                let gone = self.root.folder(parent).and_then(|folder| folder.remove_folder(name));
                match gone {
                    Ok(()) => {
                        self.report.removed += 1;
                        self.rows.push(RecordChange::Remove(row.id));
                    }
                    // Why it is not empty was told.
                    Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                        if let (Some(mode), Ok(folder)) = (mode, self.root.folder(&at)) {
                            let _ = folder.set_mode(mode);
                        }
                    }
                    Err(error) => self.unwritable(&at, error)?,
                }
                continue;
            };
            if self.stop.is_cancelled() {
                return Ok(());
            }
            if self.own.as_ref().is_some_and(|own| own.starts_with(&at)) {
                self.problem(own_files(&at));
                continue;
            }
            let (parent, name) = split(&at);
            let folder = match self.root.folder(parent) {
                Ok(folder) => folder,
                Err(error) => {
                    self.unwritable(&at, error)?;
                    continue;
                }
            };
            let stat = match folder.stat(name) {
                Ok(stat) => stat,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    self.unwritable(&at, error)?;
                    continue;
                }
            };
            let Some(row) = row else {
                let detail =
                    "it was made here and is not in the tree: import it, or remove it yourself";
                self.problem(Problem::new(&at, ProblemKind::Kept, detail));
                continue;
            };
            if row.state == EntryState::Local {
                let detail = "the server refused it: it is only here (see `vfs-sync rejected`)";
                self.problem(Problem::new(&at, ProblemKind::Refused, detail));
                continue;
            }
            match (row.disk.kind, stat.kind) {
                (EntryKind::Folder, Kind::Folder) => {
                    let mode = self.bits_bind && stat.mode & 0o700 != 0o700;
                    let opened = self.root.folder(&at).and_then(|folder| {
                        if mode {
                            folder.set_mode(stat.mode | 0o700)?;
                        }
                        folder.names()
                    });
                    let names = match opened {
                        Ok(names) => names,
                        Err(error) => {
                            self.unwritable(&at, error)?;
                            continue;
                        }
                    };
                    let mut rows = self.record.rows(row.id)?;
                    let with_row = |name: OsString| {
                        let row = rows.remove(&name);
                        (name, row)
                    };
                    let left = names.into_iter().rev().map(with_row).collect();
                    let mode = mode.then_some(stat.mode);
                    frames.push(Frame { at, row, left, mode });
                }
                (EntryKind::File, Kind::File) => match self.is_recorded(&folder, name, &stat, &row)
                {
                    Ok(true) => match destination::remove_expected(&folder, name, &stat) {
                        Ok(true) => {
                            self.report.removed += 1;
                            self.rows.push(RecordChange::Remove(row.id));
                        }
                        Ok(false) => self.changed_here(&at),
                        Err(error) => self.unwritable(&at, error)?,
                    },
                    Ok(false) => self.changed_here(&at),
                    Err(error) => self.problem(Problem::unreadable(&at, &error)),
                },
                _ => self.changed_here(&at),
            }
        }
    }

    fn is_recorded(
        &self,
        folder: &Folder,
        name: &OsStr,
        stat: &Stat,
        row: &EntryRecord,
    ) -> io::Result<bool> {
        if !self.options.checksum && record::is_unchanged(&row.disk, stat) {
            return Ok(true);
        }
        if row.disk.size != stat.size && row.coming.is_none() {
            return Ok(false);
        }
        let (found, _) = digest(folder.open_file(name)?.0)?;
        let known = row.disk.digest == Some(found) || row.coming == Some(found);
        Ok(known && folder.stat(name)? == *stat)
    }

    fn changed_here(&mut self, at: &Path) {
        let detail =
            "it is no longer in the tree, and was changed here: import it, or remove it yourself";
        self.problem(Problem::new(at, ProblemKind::Kept, detail));
    }

    fn leave(&mut self, Leave { path, mode, row }: Leave) {
        let set = self.root.folder(&path).and_then(|folder| {
            let stat = folder.stat_self()?;
            match mode {
                Some(mode) if stat.mode != mode => {
                    folder.set_mode(mode)?;
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
        let before = self.client.record(self.record.directory.id, row.id).ok().flatten();
        let same = before.is_some_and(|before| {
            let DiskState { mtime, ctime, .. } = before.disk;
            let disk = DiskState { mtime, ctime, ..row.disk.clone() };
            before == EntryRecord { disk, ..row.clone() }
        });
        if !same {
            self.rows.push(RecordChange::Put(Box::new(row)));
        }
    }

    /// Reports that writing failed, or ends the export where all the rest would fail alike.
    fn unwritable(&mut self, at: &Path, error: io::Error) -> Result<()> {
        use io::ErrorKind as E;
        match error.kind() {
            E::StorageFull | E::QuotaExceeded | E::ReadOnlyFilesystem => {
                let path = self.root.path().join(at);
                return Err(Failure::io(format!("cannot write {}", path.display()))(error)
                    .hint("what is written stays; the same command goes on from there"));
            }
            E::InvalidFilename | E::InvalidInput => {
                let why = at.file_name().and_then(OsStr::to_str).and_then(names::reserved);
                let detail = match why {
                    Some(why) => format!("{error}: {why}"),
                    None => format!("the disk does not take the name: {error}"),
                };
                self.problem(Problem::new(at, ProblemKind::NameRefused, detail));
            }
            _ if error.raw_os_error() == Some(rustix::io::Errno::ILSEQ.raw_os_error()) => {
                let detail = format!("the disk does not take the name: {error}");
                self.problem(Problem::new(at, ProblemKind::NameRefused, detail));
            }
            _ => self.problem(Problem::unwritable(at, &error)),
        }
        Ok(())
    }

    fn problem(&mut self, problem: Problem) {
        self.report.problems.add(problem);
    }
}

fn is_own_name(name: &OsStr) -> bool {
    names::is_temporary(name) || names::is_displaced(name)
}

/// A path's folder and its last name.
fn split(at: &Path) -> (&Path, &OsStr) {
    (at.parent().unwrap_or(Path::new("")), at.file_name().unwrap_or_default())
}

fn own_files(at: &Path) -> Problem {
    Problem::new(at, ProblemKind::OwnReplica, "the replica keeps its own files here")
}

/// Whether no other content can be had either.
fn ends_it(error: &ClientError) -> bool {
    use vfs_sync_client::TransportError as T;
    match error {
        ClientError::Transport(error) => {
            matches!(error, T::Network { .. } | T::Unauthorized(_) | T::WrongUser { .. })
        }
        ClientError::NoContent(_) | ClientError::UnknownItem(_) => false,
        ClientError::Violation(_) | ClientError::Storage(_) | ClientError::Stopped(_) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::import::{ImportOptions, import};
    use crate::fs::scan::Scanner;
    use std::sync::Arc;

    use proptest::prelude::*;
    use vfs_sync_client::{ClientConfig, HttpConfig, HttpTransport, StaticToken};
    use vfs_sync_core::id::UserId;

    /// A replica that never meets a server.
    fn client() -> SyncClient {
        let config = HttpConfig::new("http://127.0.0.1:9");
        let transport = HttpTransport::new(config, StaticToken::new("none")).unwrap();
        let user = UserId::new("alice").unwrap();
        SyncClient::in_memory(user, Arc::new(transport), ClientConfig::default()).unwrap()
    }

    fn take(client: &SyncClient, directory: &Path) -> Problems {
        let scanner = Scanner::open(directory, &[]).unwrap();
        let stop = CancellationToken::new();
        let options = ImportOptions::default();
        import(client, scanner, None, options, &stop, &mut |_| {}).unwrap().problems
    }

    fn write(client: &SyncClient, directory: &Path, rules: DiskRules) -> ExportReport {
        let (mut root, stop) = (Root::open(directory).unwrap(), CancellationToken::new());
        let found = Record::find(client, &mut root, None).unwrap().unwrap();
        let record = Record::begin(client, found, None, false, true).unwrap();
        let export = Export::new(client, root, record, rules, ExportOptions::default(), &stop);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(export.run(None, &mut |_| {})).unwrap()
    }

    #[test]
    fn a_disk_that_ignores_case_gets_both_files_under_names_of_their_own() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(from.path().join("readme.md"), "small").unwrap();
        std::fs::write(from.path().join("README.md"), "large").unwrap();
        let client = client();
        assert_eq!(take(&client, from.path()).total(), 0);
        let rules = DiskRules { case_insensitive: true, normalising: true };
        let report = write(&client, to.path(), rules);
        assert_eq!((report.files_written, report.problems.failures()), (2, 0));
        assert_eq!(report.problems.first[0].kind, ProblemKind::NameChanged);
        assert_eq!(std::fs::read(to.path().join("README.md")).unwrap(), b"large");
        assert_eq!(write(&client, to.path(), rules).files_written, 0, "the same names again");
    }

    #[test]
    fn an_export_killed_after_another_that_was_killed_leaves_nothing_to_keep_beside() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let client = client();
        let now_in_the_tree = |bytes: &str| {
            std::fs::write(from.path().join("f"), bytes).unwrap();
            assert_eq!(take(&client, from.path()).total(), 0);
        };
        now_in_the_tree("one");
        write(&client, to.path(), DiskRules::default());

        // The first was killed after the file had the new bytes, before its row said so.
        now_in_the_tree("two");
        let digest_of = |bytes: &str| digest(bytes.as_bytes()).unwrap().0;
        let mut root = Root::open(to.path()).unwrap();
        let found = Record::find(&client, &mut root, None).unwrap().unwrap();
        let record = Record::begin(&client, found, None, false, true).unwrap();
        let row = record.rows(ROOT_ENTRY).unwrap().remove(OsStr::new("f")).unwrap();
        let row = EntryRecord { coming: Some(digest_of("two")), ..row };
        let directory = record.directory.id;
        client
            .write_records(directory, vec![RecordChange::Put(Box::new(row.clone()))], true)
            .unwrap();
        std::fs::write(to.path().join("f"), "two").unwrap();

        // The second announces the next bytes, and is killed before it writes them.
        now_in_the_tree("three");
        let stop = CancellationToken::new();
        let (rules, options) = (DiskRules::default(), ExportOptions::default());
        let mut export = Export::new(&client, root, record, rules, options, &stop);
        let disk = export.root.folder(Path::new("")).unwrap();
        let (name, stat) = (OsString::from("f"), disk.stat(OsStr::new("f")).unwrap());
        let node = client.children(None).unwrap().remove(0).node;
        let parent = Parent { item: None, row: ROOT_ENTRY };
        let file = export.file(&disk, Path::new("f"), name, &node, Some(stat), Some(row), parent);
        let coming = file.unwrap().unwrap().coming();
        assert_eq!(coming.disk.digest, Some(digest_of("two")));
        assert_eq!(coming.coming, Some(digest_of("three")));
        client.write_records(directory, vec![RecordChange::Put(Box::new(coming))], true).unwrap();

        let report = write(&client, to.path(), DiskRules::default());
        assert_eq!((report.files_written, report.problems.total()), (1, 0));
        assert_eq!(std::fs::read(to.path().join("f")).unwrap(), b"three");
    }

    fn names_and_bytes(top: &Path) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        let mut found: Vec<_> = std::fs::read_dir(top)
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let bytes = std::fs::read(entry.path()).ok();
                (entry.file_name().as_bytes().to_vec(), bytes)
            })
            .collect();
        found.sort();
        found
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn any_names_and_bytes_come_back(
            files in proptest::collection::btree_map(
                proptest::collection::vec(
                    prop_oneof![Just(b'%'), Just(b'r'), Just(b'\n'), Just(0xFF), 1..=255u8],
                    1..20,
                ),
                proptest::option::of(proptest::collection::vec(any::<u8>(), 0..50)),
                0..12,
            )
        ) {
            let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            for (name, bytes) in &files {
                if name.contains(&b'/') || name == b"." || name == b".." {
                    continue;
                }
                let path = from.path().join(OsStr::from_bytes(name));
                match bytes {
                    Some(bytes) => std::fs::write(path, bytes).unwrap(),
                    None => std::fs::create_dir(path).unwrap(),
                }
            }
            let client = client();
            prop_assert_eq!(take(&client, from.path()).total(), 0);
            prop_assert_eq!(write(&client, to.path(), DiskRules::default()).problems.total(), 0);
            prop_assert_eq!(names_and_bytes(to.path()), names_and_bytes(from.path()));
        }
    }
}
