//! Writing a replica's tree to a directory.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use vfs_sync_client::{Child, ClientError, LocalContent, Node, SyncClient};
use vfs_sync_core::id::ItemId;

use super::digest::digest;
use super::metadata::{self, OnDisk, on_disk};
use super::names::{self, DiskRules};
use super::root::{Folder, Kind, Root, Stat, set_mode_and_mtime};
use super::target::{self, NotWritten, Wanted};
use crate::error::{Failure, Result};
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

/// What an export may do.
#[derive(Debug, Clone, Default)]
pub(crate) struct ExportOptions {
    /// The directory where the replica keeps its own files, which no export touches.
    pub(crate) replica: Option<PathBuf>,
    /// Replace what differs.
    pub(crate) force: bool,
    /// Remove what is not in the tree.
    pub(crate) delete: bool,
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
    let rules = target::probe(&folder);
    let export = Export { own, ..Export::new(client, root, rules, options, stop) };
    let report = export.run(top, progress).await?;
    folder.sync_disk().map_err(Failure::io(what()))?;
    Ok(report)
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

/// A folder to write what is in it.
struct Enter {
    path: PathBuf,
    item: Option<ItemId>,
    new: bool,
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
    /// Something is there, and may be replaced.
    replace: bool,
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
    /// The permission bits of folders, which may forbid writing: set when all is in them.
    modes: Vec<(PathBuf, u32)>,
}

impl<'a> Export<'a> {
    fn new(
        client: &'a SyncClient,
        root: Root,
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
            report: ExportReport::default(),
            own: None,
            folders: HashMap::new(),
            reading: VecDeque::new(),
            ahead: 0,
            unasked: Vec::new(),
            written: HashSet::new(),
            modes: Vec::new(),
        }
    }

    async fn run(
        mut self,
        top: Option<ItemId>,
        progress: &mut (dyn FnMut(&ExportReport) + Send),
    ) -> Result<ExportReport> {
        let mut folders = vec![Enter { path: PathBuf::new(), item: top, new: false }];
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
            for (path, mode) in std::mem::take(&mut self.modes).into_iter().rev() {
                self.leave(&path, mode);
            }
        }
        self.report.interrupted = self.stop.is_cancelled();
        Ok(self.report)
    }

    async fn enter(
        &mut self,
        Enter { path, item, new }: Enter,
        steps: &mut Vec<Enter>,
        progress: &mut (dyn FnMut(&ExportReport) + Send),
    ) -> Result<()> {
        let (path, item) = (path.as_path(), item.as_ref());
        let disk = match self.root.folder(path) {
            Ok(disk) => disk,
            Err(error) => return self.unwritable(path, error),
        };
        let there = if new { HashMap::new() } else { self.there(&disk, path)? };
        let children: Vec<Child> = self.client.children(item)?;
        let siblings: Vec<_> = children
            .iter()
            .filter(|child| match on_disk(child.node.object_type) {
                OnDisk::Nothing => {
                    let detail = "it is no file or folder";
                    let at = path.join(names::to_disk(&child.name));
                    self.report.problems.add(Problem::new(&at, ProblemKind::NotAFile, detail));
                    false
                }
                _ if names::is_temporary(&names::to_disk(&child.name)) => {
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
            match on_disk(child.node.object_type) {
                OnDisk::Folder if child.shortcut => {
                    let detail = format!(
                        "it is a shortcut into {}'s tree: export it from its own place",
                        child.node.owner
                    );
                    self.problem(Problem::new(&at, ProblemKind::Shortcut, detail));
                }
                OnDisk::Folder => {
                    if let Some(step) = self.folder(&disk, &at, &name.name, &child.node, stat)? {
                        folders.push((step, metadata::mode(&child.node)));
                    }
                }
                _ => {
                    for under in self.client.children(Some(&child.node.id))? {
                        let detail = "it hangs under a file, where a disk has no place for it";
                        let at = at.join(names::to_disk(&under.name));
                        self.problem(Problem::new(&at, ProblemKind::Unwritable, detail));
                    }
                    files.extend(self.file(&disk, &at, name.name, &child.node, stat)?);
                }
            }
            if self.stop.is_cancelled() {
                return Ok(());
            }
        }
        self.read_all(&disk, path, files, progress).await?;
        if self.options.delete && !self.stop.is_cancelled() {
            self.remove_rest(&disk, path, rest)?;
        }
        for (enter, mode) in folders.into_iter().rev() {
            self.modes.extend(mode.map(|mode| (enter.path.clone(), mode)));
            steps.push(enter);
        }
        Ok(())
    }

    /// What is in a folder already, by what the disk takes for a name. Left-overs of exports that
    /// were cut short go.
    fn there(&mut self, disk: &Folder, path: &Path) -> Result<HashMap<Vec<u8>, (OsString, Stat)>> {
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
            } else if self.own.as_ref().is_some_and(|own| *own == path.join(&name)) {
                self.problem(own_files(&path.join(&name)));
            } else if let Ok(stat) = disk.stat(&name) {
                there.insert(self.rules.key(&name), (name, stat));
            }
        }
        Ok(there)
    }

    /// Makes sure of a folder; gives the step that fills it.
    fn folder(
        &mut self,
        disk: &Folder,
        at: &Path,
        name: &OsStr,
        node: &Node,
        stat: Option<Stat>,
    ) -> Result<Option<Enter>> {
        if let Some(first) = self.folders.get(&node.id) {
            let detail = format!("it was written to {} already", names::path_text(first));
            self.problem(Problem::new(at, ProblemKind::LinkedAgain, detail));
            return Ok(None);
        }
        let refused = match stat.map(|stat| stat.kind) {
            None | Some(Kind::Folder) => None,
            Some(Kind::Link) => {
                Some((ProblemKind::SymbolicLink, "a symbolic link is in its place"))
            }
            Some(_) if self.options.force => {
                if let Err(error) = disk.remove_file(name) {
                    self.unwritable(at, error)?;
                    return Ok(None);
                }
                self.report.removed += 1;
                None
            }
            Some(_) => Some((ProblemKind::TypeChanged, "a file is in its place: see --force")),
        };
        if let Some((kind, detail)) = refused {
            self.problem(Problem::new(at, kind, detail));
            return Ok(None);
        }
        let new = stat.is_none_or(|stat| stat.kind != Kind::Folder);
        if new && let Err(error) = disk.create_folder(name) {
            self.unwritable(at, error)?;
            return Ok(None);
        }
        match new {
            true => self.report.folders_created += 1,
            false => self.report.unchanged += 1,
        }
        self.folders.insert(node.id.clone(), at.to_owned());
        Ok(Some(Enter { path: at.to_owned(), item: Some(node.id.clone()), new }))
    }

    /// Compares a file with what is there; gives what is to be written.
    fn file(
        &mut self,
        disk: &Folder,
        at: &Path,
        name: OsString,
        node: &Node,
        stat: Option<Stat>,
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
            mode: metadata::mode(node),
        };
        let write = |name, replace| ToWrite { name, item: node.id.clone(), wanted, replace };
        let Some(stat) = stat else { return Ok(Some(write(name, false))) };
        match stat.kind {
            Kind::File => match self.has_content(disk, &name, &stat, &wanted) {
                Ok(true) => {
                    self.match_metadata(disk, at, &name, &stat, &wanted)?;
                    Ok(None)
                }
                Ok(false) if self.options.force => Ok(Some(write(name, true))),
                Ok(false) => {
                    let detail = "another content is in its place: see --force";
                    self.problem(Problem::new(at, ProblemKind::Differs, detail));
                    Ok(None)
                }
                Err(error) => {
                    self.problem(Problem::unreadable(at, &error));
                    Ok(None)
                }
            },
            Kind::Folder => {
                self.replace_folder(disk, at, &name).map(|gone| gone.then(|| write(name, false)))
            }
            // The link itself would be replaced, what it leads to never touched.
            Kind::Link | Kind::Special(_) if self.options.force => Ok(Some(write(name, true))),
            Kind::Link => {
                let detail = "a symbolic link is in its place: see --force";
                self.problem(Problem::new(at, ProblemKind::SymbolicLink, detail));
                Ok(None)
            }
            Kind::Special(what) => {
                let detail = format!("what is in its place is {what}: see --force");
                self.problem(Problem::new(at, ProblemKind::TypeChanged, detail));
                Ok(None)
            }
        }
    }

    /// Clears a folder out of the way of a file, if that was asked for.
    fn replace_folder(&mut self, disk: &Folder, at: &Path, name: &OsStr) -> Result<bool> {
        let removed = match (self.options.force, self.options.delete) {
            (true, true) => disk.remove_all(name),
            (true, false) => disk.remove_folder(name).map(|()| 1),
            (false, _) => Err(io::Error::from(io::ErrorKind::AlreadyExists)),
        };
        self.root.forget(at);
        match removed {
            Ok(removed) => {
                self.report.removed += removed;
                Ok(true)
            }
            Err(_) => {
                let detail = "a folder is in its place: see --force with --delete";
                self.problem(Problem::new(at, ProblemKind::TypeChanged, detail));
                Ok(false)
            }
        }
    }

    fn has_content(
        &self,
        disk: &Folder,
        name: &OsStr,
        stat: &Stat,
        wanted: &Wanted,
    ) -> io::Result<bool> {
        if stat.size != wanted.size {
            return Ok(false);
        }
        if !self.options.checksum && wanted.mtime == Some(stat.mtime) {
            return Ok(true);
        }
        let (found, _) = digest(disk.open_file(name)?.0)?;
        Ok(found == wanted.digest)
    }

    fn match_metadata(
        &mut self,
        disk: &Folder,
        at: &Path,
        name: &OsStr,
        stat: &Stat,
        wanted: &Wanted,
    ) -> Result<()> {
        let mode = wanted.mode.filter(|mode| *mode != stat.mode);
        let mtime = wanted.mtime.filter(|mtime| *mtime != stat.mtime);
        if mode.is_none() && mtime.is_none() {
            self.report.unchanged += 1;
            return Ok(());
        }
        let set = disk.open_file(name).and_then(|(file, _)| set_mode_and_mtime(&file, mode, mtime));
        match set {
            Ok(()) => self.report.metadata_changed += 1,
            Err(error) => self.unwritable(at, error)?,
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
                self.ask();
            }
        }
        Ok(())
    }

    /// Asks for the contents of the last files.
    fn ask(&mut self) {
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
        for reading in self.reading.range_mut(first..) {
            reading.reader = Some(Arc::clone(&reader));
        }
    }

    async fn write_next(&mut self) -> Result<()> {
        if self.reading.front().is_some_and(|reading| reading.reader.is_none()) {
            self.ask();
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
        if file.replace && disk.stat(&file.name).is_ok_and(|stat| self.written.contains(&stat.id)) {
            let detail = "the disk takes its name for that of a file beside it";
            self.problem(Problem::new(at, ProblemKind::Differs, detail));
            return Ok(());
        }
        let reader = content.reader()?;
        let done =
            target::write_file(disk, &file.name, &file.wanted, reader, file.replace, self.stop);
        match done {
            Ok(id) => {
                if self.options.force {
                    self.written.insert(id);
                }
                self.report.files_written += 1;
                self.report.bytes += file.wanted.size;
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

    fn remove_rest(
        &mut self,
        disk: &Folder,
        path: &Path,
        rest: HashMap<Vec<u8>, (OsString, Stat)>,
    ) -> Result<()> {
        let mut names: Vec<OsString> = rest.into_values().map(|(name, _)| name).collect();
        names.sort_unstable();
        for name in names {
            let at = path.join(&name);
            if self.own.as_ref().is_some_and(|own| own.starts_with(&at)) {
                self.problem(own_files(&at));
                continue;
            }
            self.root.forget(&at);
            match disk.remove_all(&name) {
                Ok(removed) => self.report.removed += removed,
                Err(error) => self.unwritable(&at, error)?,
            }
        }
        Ok(())
    }

    fn leave(&mut self, path: &Path, mode: u32) {
        let set = self.root.folder(path).and_then(|folder| {
            if folder.stat_self()?.mode == mode { Ok(()) } else { folder.set_mode(mode) }
        });
        if let Err(error) = set {
            self.problem(Problem::unwritable(path, &error));
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
    use std::os::unix::ffi::OsStrExt as _;
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
        let (root, stop) = (Root::open(directory).unwrap(), CancellationToken::new());
        let export = Export::new(client, root, rules, ExportOptions::default(), &stop);
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
