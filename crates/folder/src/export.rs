//! Writes a replica's tree to a directory.

mod existing;
mod file;
mod folder;
mod moved;
mod place;
mod removal;
mod rules;
mod symlink;
mod targets;
mod write;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use vfs_sync_client::{
    Child, ClientError, EntryRecord, FoundDirectory, LocalContent, Node, ROOT_ENTRY, RecordChange,
    SyncClient,
};
use vfs_sync_core::id::ItemId;

use self::folder::Leave;
use self::place::Waiting;
use self::removal::Extra;
pub use self::targets::Part;
use self::write::Reading;
use super::aside::{self, Aside};
use super::disk::dir::{Root, Stat};
use super::disk::durable::Unsynced;
use super::disk::link::{self, AllowedLinks};
use super::disk::metadata::{OnDisk, on_disk};
use super::disk::names::{self, DiskRules};
use super::disk::open_files::OpenFiles;
use super::ignore::{RULES_FILE, Rules, Trust};
use super::record::{self, Record};
use super::scope::Scope;
use super::{decision, destination, intents};
use crate::error::{Error, Result};
use crate::report::{Change, Changes, Problem, ProblemKind, Problems};

/// The options of an export.
#[derive(Debug, Clone, Default)]
pub struct ExportOptions {
    /// The replica's own directory, which no export touches.
    pub replica: Option<PathBuf>,
    /// True to write the tree's files over others, which are kept beside them.
    pub force: bool,
    /// True to remove entries that are as recorded and no longer in the tree.
    pub delete: bool,
    /// True to remove even if a rebuilt replica lacks most of the entries.
    pub yes: bool,
    /// True to compare files only by content.
    pub checksum: bool,
    /// True to change nothing and list the changes.
    pub dry_run: bool,
    /// True for a directory that was just imported: it must be there and have a record.
    pub live: bool,
    /// The part of the tree to write; `None` is all of it.
    pub part: Option<Part>,
    /// True to leave out entries that the user has removed from the directory, unless the tree has
    /// changed them since: the next import deletes them.
    pub leave_missing: bool,
    /// The rules that count in another owner's tree.
    pub trust: Trust,
    /// The links out of the directory that are made although others may have written them.
    pub links: AllowedLinks,
    /// The folders of the tree that are not on this device.
    pub not_here: BTreeSet<ItemId>,
}

/// The counts and problems of an export.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExportReport {
    /// True if only a part was written, and the whole tree has to be: a folder hangs in several places.
    #[serde(skip)]
    pub needs_whole: bool,
    /// The folders that were entered.
    #[serde(skip)]
    pub visited: Scope,
    /// The links that were refused now or before, with the digests of their targets.
    #[serde(skip)]
    pub refused_links: BTreeMap<ItemId, String>,
    /// The number of folders that were made.
    pub folders_created: u64,
    /// The number of files and links that got another content.
    pub files_written: u64,
    /// The number of files that only got another time or other permission bits.
    pub metadata_changed: u64,
    /// The number of entries that were moved or renamed.
    pub moved: u64,
    /// The number of entries that were as they should be.
    pub unchanged: u64,
    /// The number of entries that were removed.
    pub removed: u64,
    /// The number of entries whose removal waits for `--yes`.
    pub held: u64,
    /// The number of entries that were left out, because the user has removed them.
    pub missing: u64,
    /// The number of items that the rules ignore, not counting those in ignored folders.
    pub ignored: u64,
    /// The number of entries that were recorded before.
    pub recorded: u64,
    /// The number of bytes written.
    pub bytes: u64,
    /// True if the user stopped the export; the same command resumes it.
    pub interrupted: bool,
    /// The changes that a dry run would have made.
    pub changes: Changes,
    /// The entries that were left out.
    pub problems: Problems,
}

impl ExportReport {
    /// Returns the number of changes that were or would be made on the disk.
    pub fn changes(&self) -> u64 {
        self.folders_created
            + self.files_written
            + self.metadata_changed
            + self.moved
            + self.removed
    }
}

/// Writes the items under `top` (`None`: all) to `directory`, which is created if needed.
pub async fn export(
    client: &SyncClient,
    top: Option<ItemId>,
    directory: &Path,
    options: ExportOptions,
    stop: &CancellationToken,
    progress: &mut (dyn FnMut(&ExportReport) + Send),
) -> Result<ExportReport> {
    let what = || format!("cannot write to {}", directory.display());
    if let Some(there) = directory.ancestors().find(|path| path.exists()) {
        own_place(there, options.replica.as_deref()).map_err(Error::io(what()))?;
    }
    // A dry run compares with an empty directory instead of creating one.
    let stand_in = match options.dry_run && !directory.exists() {
        true => Some(tempfile::tempdir().map_err(Error::io(what()))?),
        false => None,
    };
    let directory = stand_in.as_ref().map_or(directory, |stand_in| stand_in.path());
    if !options.dry_run && !options.live {
        std::fs::create_dir_all(directory).map_err(Error::io(what()))?;
    }
    let own = own_place(directory, options.replica.as_deref()).map_err(Error::io(what()))?;
    let mut root = Root::open(directory).map_err(Error::io(what()))?;
    let folder = root.folder(Path::new("")).map_err(Error::io(what()))?;
    if !folder.lock().map_err(Error::io(what()))? {
        return Err(Error::Busy(directory.to_owned()));
    }
    let rules = match options.dry_run {
        true => DiskRules::default(),
        false => destination::probe(&folder),
    };
    let found = Record::find(client, &mut root, top.as_ref()).map_err(Error::io(what()))??;
    if options.live && !matches!(found.found, FoundDirectory::Known(_)) {
        return Err(Error::NotImported(directory.to_owned()));
    }
    let record = Record::begin(client, found, top.as_ref(), false, !options.dry_run)?;
    if !options.dry_run {
        intents::resolve(client, &record, &mut root).map_err(Error::io(what()))??;
    }
    let aside = options.live.then(|| Aside::new(&folder));
    // What is no longer shared leaves without a trace.
    let trashes = match &top {
        Some(id) => client.node(id)?.is_some_and(|node| node.owner == client.user()),
        None => true,
    };
    let export =
        Export { own, aside, trashes, ..Export::new(client, root, record, rules, options, stop) };
    export.run(top, progress).await
}

/// Returns the replica's path under `directory`, if it is there. Fails if the directory is inside
/// the replica's own.
fn own_place(directory: &Path, replica: Option<&Path>) -> io::Result<Option<PathBuf>> {
    let Some(replica) = replica else { return Ok(None) };
    let (directory, replica) = (directory.canonicalize()?, replica.canonicalize()?);
    if directory.starts_with(&replica) {
        return Err(io::Error::other("the replica keeps its own files here"));
    }
    Ok(replica.strip_prefix(&directory).ok().map(Path::to_owned))
}

/// The folder of an entry: its row, and its item.
#[derive(Debug, Clone, Copy)]
struct Parent<'a> {
    row: u64,
    item: Option<&'a ItemId>,
}

/// A folder whose children are to be written.
struct Enter {
    path: PathBuf,
    item: Option<ItemId>,
    new: bool,
    /// The row of the folder.
    row: u64,
    /// True if the record may have rows of the folder's entries.
    has_rows: bool,
    /// The rules of the folders above.
    rules: Rules,
}

struct Export<'a> {
    client: &'a SyncClient,
    root: Root,
    rules: DiskRules,
    options: ExportOptions,
    stop: &'a CancellationToken,
    report: ExportReport,
    /// The replica's path under the root, if it is there.
    own: Option<PathBuf>,
    /// The path at which each folder was written. A folder in several places is written once,
    /// because links between folders can multiply without bound.
    folders: HashMap<ItemId, PathBuf>,
    /// The files whose contents are being read, in the order of writing.
    reading: VecDeque<Reading>,
    /// The total size of these contents, counting at most [`write::LARGE`] of each.
    ahead: u64,
    /// The contents of these files that were not requested yet.
    unasked: Vec<(ItemId, oneshot::Sender<std::result::Result<LocalContent, ClientError>>)>,
    /// The entries that were renamed to their present places.
    brought: HashSet<(u64, u64)>,
    /// The files that were written, if the export may replace files at the destination.
    written: HashSet<(u64, u64)>,
    /// The folders that were entered, to be completed after their contents.
    leaving: Vec<Leave>,
    record: Record,
    device: String,
    /// The rows of written entries, which wait until the disk is synchronised.
    rows: Vec<RecordChange>,
    /// The complete entries that wait to get their names.
    waiting: Waiting,
    /// The bytes that were written since the disk was last synchronised.
    unsynced: u64,
    /// The folders that were changed since then.
    changed: Unsynced,
    /// The entries to be removed at the end.
    extras: Vec<Extra>,
    /// The rules of the folder that is being written.
    rules_here: Rules,
    /// True while a folder is removed because it is excluded from this device.
    excluding: bool,
    /// True if known folders are entered too.
    whole: bool,
    /// The folders that hold changed items.
    wanted: HashSet<ItemId>,
    /// True if permission bits restrict this user.
    bits_bind: bool,
    open_files: OpenFiles,
    /// The place for files that a live directory loses.
    aside: Option<Aside>,
    /// True if what the tree deleted goes to the trash: it is the user's own tree.
    trashes: bool,
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
            brought: HashSet::new(),
            written: HashSet::new(),
            leaving: Vec::new(),
            record,
            device: client.device(),
            rows: Vec::new(),
            waiting: Waiting::default(),
            unsynced: 0,
            changed: Unsynced::default(),
            extras: Vec::new(),
            rules_here: Rules::default(),
            excluding: false,
            whole: true,
            wanted: HashSet::new(),
            bits_bind: !rustix::process::geteuid().is_root(),
            open_files: OpenFiles::default(),
            aside: None,
            trashes: false,
        }
    }

    async fn run(
        mut self,
        top: Option<ItemId>,
        progress: &mut (dyn FnMut(&ExportReport) + Send),
    ) -> Result<ExportReport> {
        let walked = self.walk(top, progress).await;
        let placed = self.place_all();
        // Also after an interruption: written files are recorded, and folders get their bits back.
        for leave in std::mem::take(&mut self.leaving).into_iter().rev() {
            self.leave(leave);
        }
        let flushed = self.flush();
        walked?;
        placed?;
        flushed?;
        self.report.interrupted = self.stop.is_cancelled();
        let complete = !self.report.interrupted && !self.report.needs_whole;
        if complete && self.report.held == 0 && !self.options.dry_run {
            self.record.in_step()?;
        }
        self.report.refused_links = self.options.links.into_refused();
        Ok(self.report)
    }

    async fn walk(
        &mut self,
        top: Option<ItemId>,
        progress: &mut (dyn FnMut(&ExportReport) + Send),
    ) -> Result<()> {
        let first = Enter {
            path: PathBuf::new(),
            item: top,
            new: false,
            row: ROOT_ENTRY,
            has_rows: true,
            rules: Rules::default(),
        };
        let part = self.options.part.take();
        let targets = match &part {
            Some(part) => self.targets(part, first.item.as_ref())?,
            None => None,
        };
        self.whole = targets.is_none();
        if self.whole {
            self.report.visited = Scope::Whole;
        }
        let mut folders = match targets {
            Some(targets) => targets.into_iter().rev().collect(),
            None => vec![first],
        };
        while let Some(mut folder) = folders.pop() {
            if self.stop.is_cancelled() || self.report.needs_whole {
                break;
            }
            if !self.whole && !folder.new && folder.row != ROOT_ENTRY {
                // Folders above it may have been renamed since.
                let row = self.client.directories().entry(self.record.directory.id, folder.row)?;
                let path = row.map(|row| self.record.path_of(&row)).transpose()?.flatten();
                folder.path = path.unwrap_or(folder.path);
            }
            if !self.whole && self.report.visited.has(&folder.path) {
                continue;
            }
            self.report.visited.add_folder(folder.path.clone());
            self.enter(folder, &mut folders, progress).await?;
            progress(&self.report);
        }
        while !self.reading.is_empty() && !self.stop.is_cancelled() {
            self.write_next().await?;
            progress(&self.report);
        }
        self.place_all()?;
        if !self.stop.is_cancelled() && !self.report.needs_whole {
            self.remove_extras()?;
        }
        Ok(())
    }

    async fn enter(
        &mut self,
        Enter { path, item, new, row, has_rows, rules: above }: Enter,
        steps: &mut Vec<Enter>,
        progress: &mut (dyn FnMut(&ExportReport) + Send),
    ) -> Result<()> {
        let (path, item) = (path.as_path(), item.as_ref());
        // A dry run has not created a new folder: nothing is looked up in it.
        let opened = if new && self.options.dry_run { Path::new("") } else { path };
        let disk = match self.root.folder(opened) {
            Ok(disk) => disk,
            Err(error) => return self.unwritable(path, error),
        };
        if !new && self.bits_bind && !self.options.dry_run {
            self.make_writable(&disk, path);
        }
        let mut children: Vec<Child> = self.client.children(item)?;
        let mut rows = if has_rows { self.record.rows(row)? } else { HashMap::new() };
        self.let_wait(path, &mut children, &rows);
        let is_there = !(new && self.options.dry_run);
        let parent = Parent { row, item };
        let found = self
            .rules(is_there.then_some(&disk), path, &above, &children, &mut rows, parent, progress)
            .await?;
        let Some(rules) = found.rules else { return Ok(()) };
        self.rules_here = rules.clone();
        let mut there = match new {
            true => HashMap::new(),
            false => match self.there(&disk, path, &rows, &children)? {
                Some(there) => there,
                None => return Ok(()),
            },
        };
        let siblings: Vec<_> = children
            .iter()
            .filter(|child| match on_disk(child.node.object_type) {
                OnDisk::Nothing => {
                    let detail = "it is neither file nor folder";
                    let at = path.join(names::to_disk(&child.name));
                    self.report.problems.add(Problem::new(&at, ProblemKind::NotAFile, detail));
                    false
                }
                _ if is_own_name(&names::to_disk(&child.name)) => {
                    let detail = "its name is reserved for this program's own files";
                    let at = path.join(names::to_disk(&child.name));
                    self.report.problems.add(Problem::new(&at, ProblemKind::Name, detail));
                    false
                }
                _ => match self.rules.drops_end(&names::to_disk(&child.name)) {
                    Some(why) => {
                        let at = path.join(names::to_disk(&child.name));
                        self.report.problems.add(Problem::new(&at, ProblemKind::NameRefused, why));
                        false
                    }
                    None => true,
                },
            })
            .collect();
        let keys: Vec<_> =
            siblings.iter().map(|child| (child.name.as_str(), child.node.id.as_str())).collect();
        let named = names::distinct(&keys, self.rules);
        let ignored = self.take_ignored(&rules, path, &mut there, &mut rows);
        let here = (&disk, path, parent);
        self.rename_within(here, (&siblings, &named), &rules, &mut there, &mut rows)?;
        let mut rest = there.clone();
        if found.done {
            rest.remove(&self.rules.key(OsStr::new(RULES_FILE)));
        }
        let mut files = Vec::new();
        let mut folders = Vec::new();
        for (child, name) in siblings.iter().zip(named) {
            let at = path.join(&name.name);
            if found.done && child.name == RULES_FILE
                || self.is_ignored(&rules, path, &name.name, &child.node, &mut rows)
            {
                continue;
            }
            if self.options.not_here.contains(&child.node.id) {
                let there = rest.remove(&self.rules.key(&name.name)).is_some();
                self.exclude(at, there, rows.remove(&name.name), &rules);
                continue;
            }
            if ignored.contains_key(&self.rules.key(&name.name)) {
                let detail = "an entry that is ignored is in its place";
                self.problem(Problem::new(&at, ProblemKind::Unwritable, detail));
                continue;
            }
            if name.changed {
                let detail =
                    format!("the disk confuses {} with the name of another file", child.name);
                self.problem(Problem::new(&at, ProblemKind::NameChanged, detail));
            }
            let found = rest.remove(&self.rules.key(&name.name));
            let mut stat = found.map(|(listed, stat)| {
                self.respell(&disk, path, (&listed, &name.name), &mut rows).unwrap_or(stat)
            });
            let moved_away = |row: &EntryRecord| self.record.is_moved_away(row);
            let mut known = rows.remove(&name.name).filter(|row| !moved_away(row));
            let folder = Parent { row, item };
            if known.as_ref().is_none_or(|known| known.tree.item != child.node.id) {
                let brought = match stat {
                    None => self.bring(&disk, &at, &name.name, child, folder)?,
                    Some(_) => None,
                };
                match (brought, &known) {
                    (Some(brought), _) => {
                        if let Some(old_name) = brought.from.file_name()
                            && split(&brought.from).0 == path
                        {
                            rest.remove(&self.rules.key(old_name));
                        }
                        (stat, known) = (Some(brought.stat), Some(brought.row));
                    }
                    // Its item has to be written where it is now.
                    (None, Some(known)) => drop(self.record.claimed.insert(known.id)),
                    (None, None) => {}
                }
            }
            match on_disk(child.node.object_type) {
                OnDisk::Folder if child.shortcut => {
                    let detail = format!(
                        "it is a shortcut into {}'s tree: export it from its own path",
                        child.node.owner
                    );
                    self.problem(Problem::new(&at, ProblemKind::Shortcut, detail));
                }
                OnDisk::Folder => {
                    let was_another =
                        known.as_ref().is_some_and(|known| known.tree.item != child.node.id);
                    let enter =
                        self.folder(&disk, &at, &name.name, &child.node, stat, known, folder)?;
                    let enter = enter
                        .filter(|enter| self.whole || enter.new || !enter.has_rows || was_another);
                    let rules = rules.clone();
                    folders.extend(enter.map(|enter| Enter { rules, ..enter }));
                }
                _ => {
                    for under in self.client.children(Some(&child.node.id))? {
                        let detail = "it is under a file, which a disk cannot represent";
                        let at = at.join(names::to_disk(&under.name));
                        self.problem(Problem::new(&at, ProblemKind::Unwritable, detail));
                    }
                    if let Some(target) = link::target(&child.node) {
                        let link = (&child.node, target.as_os_str());
                        self.link(&disk, &at, &name.name, link, stat, known, folder)?;
                        continue;
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
        if self.options.delete && !(new && self.options.dry_run) {
            let mut names: Vec<OsString> = rest.into_values().map(|(name, _)| name).collect();
            names.sort_unstable();
            for name in names {
                let (at, row) = (path.join(&name), rows.remove(&name));
                self.extras.push(Extra { at, row, rules: rules.clone() });
            }
            // Rows of entries that are neither on the disk nor in the tree.
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

    /// Reports that writing failed, or ends the export if all later writes would fail alike.
    fn unwritable(&mut self, at: &Path, error: io::Error) -> Result<()> {
        use io::ErrorKind as E;
        match error.kind() {
            E::StorageFull | E::QuotaExceeded | E::ReadOnlyFilesystem => {
                return Err(Error::DiskFull { path: self.root.path().join(at), source: error });
            }
            E::InvalidFilename | E::InvalidInput => {
                let why = at.file_name().and_then(OsStr::to_str).and_then(names::reserved);
                let detail = match why {
                    Some(why) => format!("{error}: {why}"),
                    None => format!("the disk rejects the name: {error}"),
                };
                self.problem(Problem::new(at, ProblemKind::NameRefused, detail));
            }
            _ if error.raw_os_error() == Some(rustix::io::Errno::ILSEQ.raw_os_error()) => {
                let detail = format!("the disk rejects the name: {error}");
                self.problem(Problem::new(at, ProblemKind::NameRefused, detail));
            }
            _ => self.problem(Problem::unwritable(at, &error)),
        }
        Ok(())
    }

    /// Returns whether a file of a live directory stays because a program has it open for writing:
    /// the program would write to a file that has lost its name. Reports it.
    fn stays_open(&mut self, at: &Path, stat: &Stat) -> bool {
        let stays = self.options.live && self.open_files.is_written(stat.id);
        if stays {
            let detail =
                "a program has it open for writing: the tree's file waits until it is closed";
            self.problem(Problem::new(at, ProblemKind::Open, detail));
        }
        stays
    }

    /// Leaves out an entry that is missing from the disk, and returns whether it did: it was there,
    /// and the tree has it as it was.
    fn leaves_out(
        &mut self,
        stat: Option<&Stat>,
        row: Option<&EntryRecord>,
        node: &Node,
        parent: Parent<'_>,
    ) -> bool {
        let is_left_out = |row: &EntryRecord| {
            let is_same = row.tree.item == node.id && row.tree.parent.as_ref() == parent.item;
            decision::is_left_out(&record::facts(row), link::digest_of(node), is_same)
        };
        let leaves = self.options.leave_missing && stat.is_none() && row.is_some_and(is_left_out);
        self.report.missing += u64::from(leaves);
        leaves
    }

    /// Plans the removal of what is left of a folder that is excluded from this device.
    fn exclude(&mut self, at: PathBuf, there: bool, row: Option<EntryRecord>, rules: &Rules) {
        match row {
            Some(row) if there && self.options.delete => {
                self.extras.push(Extra { at, row: Some(row), rules: rules.clone() });
            }
            Some(row) if !there => self.rows.push(RecordChange::Remove(row.id)),
            // An entry without a row was made here; the import reports it.
            _ => {}
        }
    }

    /// Lists a change of a dry run.
    fn change(&mut self, change: Change, at: &Path) {
        if self.options.dry_run {
            self.report.changes.add(change, at);
        }
    }

    fn problem(&mut self, problem: Problem) {
        self.report.problems.add(problem);
    }
}

fn is_own_name(name: &OsStr) -> bool {
    name == aside::OWN || names::is_temporary(name) || names::is_displaced(name)
}

/// Splits a path into its folder and its last name.
fn split(at: &Path) -> (&Path, &OsStr) {
    (at.parent().unwrap_or(Path::new("")), at.file_name().unwrap_or_default())
}

fn own_files(at: &Path) -> Problem {
    Problem::new(at, ProblemKind::OwnReplica, "the replica keeps its own files here")
}

#[cfg(test)]
mod tests;
