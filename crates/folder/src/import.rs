//! Imports a directory into a replica: changes of the directory since the last import or export
//! become edits.

mod deletion;
mod file;
mod folder;
mod looks;
mod moves;
mod prefetch;
mod rows;
mod rules;
mod steps;
mod symlink;
mod tree_folder;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use tokio_util::sync::CancellationToken;
use vfs_sync_client::{
    Batch, Child, DiskState, DiskTime, EntryKind, EntryRecord, FoundDirectory, MetadataChange,
    Node, ROOT_ENTRY, SyncClient,
};
use vfs_sync_core::access::AccessLevel;
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::id::{ItemId, UserId};
use vfs_sync_core::item::Name;

use self::deletion::Gone;
use self::file::FoundFile;
pub use self::looks::Looks;
use self::prefetch::{Committer, Prefetch};
use self::rules::{FolderRules, Ignored};
use self::tree_folder::{TreeFolder, TreeFolderState};
use super::destination;
use super::disk::dir::{Kind, Stat};
use super::disk::{metadata, names};
use super::ignore::{RULES_FILE, Rules};
use super::intents;
use super::record::{self, Record};
use super::scan::{Listing, Scanner};
use super::scope::Scope;
use crate::error::{Error, Result};
use crate::report::{Change, Changes, Conflicts, Problem, ProblemKind, Problems};

/// The number of operations in one transaction; each new file keeps one descriptor open.
const BATCH_OPERATIONS: usize = 256;
/// The bytes of content in one transaction.
const BATCH_BYTES: u64 = 16 * 1024 * 1024;
/// The number of record rows in one transaction.
const BATCH_ROWS: usize = 4_096;

/// The number of seconds by which the clock of a disk may be behind that of the system, or be coarser:
/// what changed since then may have changed after the disk was synchronised.
const CLOCKS_DIFFER: i64 = 2;

/// The options of an import.
#[derive(Debug, Clone, Copy, Default)]
pub struct ImportOptions {
    /// True to delete items whose entries are missing from the directory.
    pub delete: bool,
    /// True to delete even if most entries are missing, or the directory is another one.
    pub yes: bool,
    /// True to compare files only by content.
    pub checksum: bool,
    /// True to change nothing and list the changes.
    pub dry_run: bool,
    /// True to forget that missing entries were ever here: an export writes their items, as those that
    /// come from elsewhere.
    pub forget_missing: bool,
}

/// The counts and problems of an import.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ImportReport {
    /// The folders that were visited.
    #[serde(skip)]
    pub visited: Scope,
    /// True if entries are missing that may be in an ignored folder: a visit of the whole directory
    /// finds them.
    #[serde(skip)]
    pub needs_whole: bool,
    /// The number of folders that were new.
    pub folders_created: u64,
    /// The number of files and links that were new.
    pub files_created: u64,
    /// The number of files whose content changed.
    pub contents_changed: u64,
    /// The number of items of which only the time or the permission bits changed.
    pub metadata_changed: u64,
    /// The number of items that were moved or renamed.
    pub moved: u64,
    /// The number of items that were deleted, not counting those under them.
    pub deleted: u64,
    /// The number of entries that were as recorded.
    pub unchanged: u64,
    /// The number of entries that the tree has changed, moved or deleted since the last export
    /// wrote them.
    pub stale: u64,
    /// The number of missing entries whose deletion waits for `--yes`.
    pub held: u64,
    /// The rows of these entries, without those under them.
    #[serde(skip)]
    pub held_rows: BTreeSet<u64>,
    /// The number of missing entries whose deletion waits for another look.
    pub missing: u64,
    /// The number of missing entries whose items stay in the tree: the next export writes them.
    pub kept: u64,
    /// The number of entries that the rules ignore, not counting those in ignored folders.
    pub ignored: u64,
    /// The number of entries that were recorded before.
    pub recorded: u64,
    /// The bytes of content that were imported.
    pub bytes: u64,
    /// True if the user stopped the import; the same command resumes it.
    pub interrupted: bool,
    /// The contents that were kept beside others.
    pub conflicts: Conflicts,
    /// The changes that a dry run would have made.
    pub changes: Changes,
    /// The entries that were left out.
    pub problems: Problems,
}

impl ImportReport {
    /// Returns the number of files and folders that were visited.
    pub fn seen(&self) -> u64 {
        self.folders_created
            + self.files_created
            + self.contents_changed
            + self.metadata_changed
            + self.unchanged
    }

    /// Returns the number of changes that were or would be made.
    pub fn changes(&self) -> u64 {
        self.seen() - self.unchanged + self.moved + self.deleted
    }
}

/// A folder to read.
#[derive(Clone)]
struct Step {
    path: PathBuf,
    place: TreeFolder,
    /// True if the folder is where it was recorded, and its item is there.
    known: bool,
    /// True if missing entries of the folder do not count as deleted.
    held: bool,
    /// The rules of the folders above.
    rules: Rules,
}

/// Imports the directory of `scanner` into the folder `target` (`None`: the top). With `looks`,
/// missing entries are deleted only once several imports missed them. `progress` is called
/// regularly.
pub fn import(
    client: &SyncClient,
    mut scanner: Scanner,
    target: Option<ItemId>,
    options: ImportOptions,
    looks: Option<&mut Looks>,
    stop: &CancellationToken,
    progress: &mut dyn FnMut(&ImportReport),
) -> Result<ImportReport> {
    let what = format!("cannot read {}", scanner.root().path().display());
    let found =
        Record::find(client, scanner.root(), target.as_ref()).map_err(Error::io(&what))??;
    if let FoundDirectory::Replaced(_) = &found.found
        && options.delete
        && !options.yes
    {
        return Err(Error::Replaced(scanner.root().path().to_owned()));
    }
    let record = Record::begin(
        client,
        found,
        target.as_ref(),
        options.delete && options.yes,
        !options.dry_run,
    )?;
    if !options.dry_run {
        intents::resolve(client, &record, scanner.root()).map_err(Error::io(&what))??;
    }
    // Files saved before this point are read as they survive a loss of power.
    let started = record::now();
    if !options.dry_run {
        scanner.folder(Path::new("")).and_then(|top| top.sync_disk()).map_err(Error::io(&what))?;
    }
    std::thread::scope(|scope| {
        let report = ImportReport { recorded: record.count, ..ImportReport::default() };
        let mut import = Import {
            client,
            device: client.device(),
            scanner,
            record,
            options,
            looks,
            stop,
            prefetch: Prefetch::start(scope, client, stop),
            committer: Committer::start(scope),
            batch: client.batch(),
            batch_contents: 0,
            batch_bytes: 0,
            batch_rows: 0,
            started,
            unsynced: false,
            gone: Vec::new(),
            edited: HashMap::new(),
            replaced: HashSet::new(),
            keeps_modes: None,
            copies: HashSet::new(),
            ignored: Ignored::default(),
            whole: true,
            has_rules: false,
            report,
        };
        let state = match target {
            // A dry run into a folder that does not exist yet.
            Some(id) if client.node(&id)?.is_none() => TreeFolderState::New(id),
            Some(id) => TreeFolderState::There(id),
            None => TreeFolderState::Top,
        };
        let place = TreeFolder::new(state, ROOT_ENTRY, true);
        let rules = Rules::default();
        let top = Step { path: PathBuf::new(), place, known: true, held: false, rules };
        let mut stack = match std::mem::take(&mut import.scanner.scope) {
            Scope::Whole => {
                import.report.visited = Scope::Whole;
                vec![top]
            }
            Scope::Folders(folders) => {
                import.whole = false;
                import.steps(&folders, &top)?
            }
        };
        while let Some(step) = stack.pop() {
            if stop.is_cancelled() {
                import.report.interrupted = true;
                break;
            }
            import.report.visited.add_folder(step.path.clone());
            import.folder(&step, &mut stack, progress)?;
            progress(&import.report);
        }
        import.finish_prefetched()?;
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

struct Import<'a> {
    client: &'a SyncClient,
    device: String,
    scanner: Scanner,
    record: Record,
    options: ImportOptions,
    looks: Option<&'a mut Looks>,
    stop: &'a CancellationToken,
    prefetch: Prefetch<'a, FoundFile>,
    committer: Committer<'a>,
    batch: Batch<'a>,
    batch_contents: usize,
    batch_bytes: u64,
    batch_rows: usize,
    started: DiskTime,
    /// True if a file of the batch was saved after the disk was synchronised.
    unsynced: bool,
    gone: Vec<Gone>,
    /// The items that this import gave other bytes, with these: a second entry of one, left from a move
    /// that meets an edit, is another edit of it.
    edited: HashMap<ItemId, Sha256Digest>,
    /// The rows of files that this import found replaced at their places. An entry elsewhere that has such
    /// a row's identity, as a hard link from before, is another file.
    replaced: HashSet<u64>,
    /// True if the disk keeps permission bits, once that was needed.
    keeps_modes: Option<bool>,
    /// The names of new conflicted copies, each with its folder.
    copies: HashSet<(Option<ItemId>, Name)>,
    ignored: Ignored,
    /// True if known folders are visited too.
    whole: bool,
    /// True if a part of the directory is visited, and something in it may be ignored.
    has_rules: bool,
    report: ImportReport,
}

impl<'a> Import<'a> {
    fn folder(
        &mut self,
        step: &Step,
        stack: &mut Vec<Step>,
        progress: &mut dyn FnMut(&ImportReport),
    ) -> Result<()> {
        let Step { path, place, held, .. } = step;
        let home = match place.id() {
            Some(id) => self.client.node(&id)?.map(|node| (node.owner, node.access_level)),
            None => None,
        };
        // A folder that this import creates exists only after the commit; the user may write to it.
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
        let rules = match self.rules(step, &home, &rows, &there)? {
            FolderRules::Known(rules) => rules,
            FolderRules::Missing => return self.leave_alone(step, rows),
            FolderRules::Refused => return Ok(()),
        };
        let Listing { entries, held: kept, ignored, problems, complete } =
            self.scanner.list(path, &rules);
        self.report.problems.extend(problems);
        self.has_rules |= !self.whole && !rules.is_empty();
        self.take_ignored(path, ignored, &mut rows)?;
        let disk = self.scanner.folder(path);
        if let (Ok(disk), false) = (&disk, self.options.dry_run) {
            let what = format!("cannot sync {}", self.scanner.root().path().join(path).display());
            disk.sync_names().map_err(Error::io(what))?;
        }
        // Pushed in reverse, so that folders are entered in the order of their names.
        let mut folders = Vec::new();
        for seen in &entries {
            if self.stop.is_cancelled() {
                return Ok(());
            }
            let at = path.join(&seen.disk_name);
            self.note_change_of(&seen.stat);
            let mut row = rows.remove(&seen.disk_name);
            let moved = self.record.moved(self.scanner.root(), row.as_ref(), &seen.stat)?;
            let moved = moved.filter(|row| !self.replaced.contains(&row.id));
            // The entry of this place is then at another one, and takes its item there.
            let leaves = if moved.is_some() { row.take().map(|row| row.tree.item) } else { None };
            if let Some(row) = &row
                && seen.stat.kind != Kind::Folder
                && !record::is_same_entry(&row.disk, &seen.stat)
            {
                self.replaced.insert(row.id);
            }
            let mut replaced = None;
            if self.is_not_here(row.as_ref(), there.get(seen.name.as_str())) {
                // The next export removes what it has a row for.
                if row.is_none() {
                    let detail = "a folder that is excluded from this device has its name: \
                                  rename it, or see `vfs-sync folder include`";
                    self.problem(Problem::new(&at, ProblemKind::Excluded, detail));
                }
                continue;
            }
            let was_ignored = |row: &mut EntryRecord| {
                !is_of_kind(row, &seen.stat) && is_ignored(&rules, path, row)
            };
            if let Some(before) = row.take_if(was_ignored) {
                self.forget(&before)?;
            }
            if let Some(before) = row.take_if(|row| !is_of_kind(row, &seen.stat)) {
                if !self.options.delete {
                    let was = match before.disk.kind {
                        EntryKind::File => "file",
                        EntryKind::Folder => "folder",
                        EntryKind::Link => "link",
                    };
                    let is = match seen.stat.kind {
                        Kind::Folder => "folder",
                        Kind::Link => "link",
                        _ => "file",
                    };
                    let detail = format!("a {was} in the tree is a {is} on the disk: see --delete");
                    self.problem(Problem::new(&at, ProblemKind::TypeChanged, detail));
                    continue;
                }
                let weight = self.record.weight(&before)?;
                // A link may lead to where the folder was moved.
                let many = before.disk.kind == EntryKind::Folder
                    && weight > 1
                    && (self.record.needs_confirmation(weight) || seen.stat.kind == Kind::Link);
                let asked =
                    self.looks.as_ref().and_then(|looks| looks.covers([before.id].into_iter()));
                if many && !self.options.yes && asked != Some(true) {
                    self.report.held += weight;
                    self.report.held_rows.insert(before.id);
                    let what = match seen.stat.kind {
                        Kind::Link => "a folder with entries is a link on the disk",
                        _ => "a folder with most of the entries is a file on the disk",
                    };
                    let detail = match self.looks {
                        Some(_) => format!("{what}: its deletion waits for your confirmation"),
                        None => format!("{what}: see --yes"),
                    };
                    self.problem(Problem::new(&at, ProblemKind::TypeChanged, detail));
                    continue;
                }
                // In one transaction with the new item, so that no interruption leaves both.
                self.delete_one(&before, &at, &rules)?;
                replaced = Some(before.tree.item);
            }
            let child = there.get(seen.name.as_str());
            // An entry that is being replaced does not count as another item of its name.
            let child = child.filter(|child| {
                let id = Some(&child.node.id);
                replaced.as_ref() != id && leaves.as_ref() != id
            });
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
                let found = self.take_folder(place, &home, (row, moved), child, seen, &at)?;
                if let Some(step) = found.filter(|step| self.whole || !step.known) {
                    folders.push(Step { rules: rules.clone(), ..step });
                }
            } else {
                match &disk {
                    Ok(disk) if seen.stat.kind == Kind::Link => {
                        let rows = (row, moved);
                        self.take_link(disk, place, (&home, level), rows, child, seen, &at)?;
                    }
                    Ok(disk) => {
                        let rows = (row, moved);
                        self.take_file(disk, place, (&home, level), rows, child, seen, &at)?;
                    }
                    Err(error) => self.problem(Problem::unreadable(&at, error)),
                }
            }
            progress(&self.report);
        }
        stack.extend(folders.into_iter().rev());
        if (self.options.delete || self.options.forget_missing) && complete && !held {
            for name in &kept {
                rows.remove(&names::to_disk(name.as_str()));
            }
            self.take_gone(path, rows, &rules)?;
        }
        Ok(())
    }

    /// Remembers the missing entries of a folder, by their rows.
    fn take_gone(
        &mut self,
        path: &Path,
        rows: HashMap<OsString, EntryRecord>,
        rules: &Rules,
    ) -> Result<()> {
        let mut rows: Vec<_> = rows.into_iter().collect();
        rows.sort_by(|a, b| a.0.cmp(&b.0));
        // An entry that an export was about to create never existed here.
        for (name, row) in rows.into_iter().filter(|(_, row)| row.disk.inode != 0) {
            if is_ignored(rules, path, &row) || self.scanner.not_here.contains(&row.tree.item) {
                // Its absence is no deletion.
                if !self.record.claimed.contains(&row.id) {
                    self.forget(&row)?;
                }
                continue;
            }
            self.gone.push(Gone { row, at: path.join(name), rules: rules.clone() });
        }
        Ok(())
    }

    /// Leaves a folder as it is while its rules are missing, except that missing entries are looked
    /// for.
    fn leave_alone(&mut self, step: &Step, mut rows: HashMap<OsString, EntryRecord>) -> Result<()> {
        let Step { path, held, rules, .. } = step;
        let Ok(names) = self.scanner.folder(path).and_then(|folder| folder.names()) else {
            return Ok(());
        };
        if *held || !self.options.delete || names.iter().any(|name| name == RULES_FILE) {
            return Ok(());
        }
        for name in names {
            rows.remove(&name);
        }
        self.take_gone(path, rows, rules)
    }

    /// Returns whether an entry is, or has the place of, a folder that is excluded from this device.
    fn is_not_here(&self, row: Option<&EntryRecord>, child: Option<&Child>) -> bool {
        let not_here = &self.scanner.not_here;
        !not_here.is_empty()
            && (row.is_some_and(|row| not_here.contains(&row.tree.item))
                || child.is_some_and(|child| not_here.contains(&child.node.id)))
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

    /// Notes whether an entry may have changed after the disk was synchronised.
    fn note_change_of(&mut self, stat: &Stat) {
        self.unsynced |= stat.changed.seconds >= self.started.seconds - CLOCKS_DIFFER;
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
            synced.map_err(Error::io(what))?;
        }
        self.committer.begin(batch)
    }

    /// Returns whether the user may change an item; reports the entry if not.
    fn may_write(&mut self, node: &Node, at: &Path) -> bool {
        let may = node.access_level >= AccessLevel::Write;
        if !may {
            self.problem(not_permitted(at, &node.owner, node.access_level));
        }
        may
    }

    /// Returns the change to the bits of `stat` of an entry with the bits `recorded`, or a new one.
    /// From a disk that keeps no bits none are taken.
    fn mode_change(&mut self, recorded: Option<&DiskState>, stat: &Stat) -> MetadataChange {
        let change = match recorded {
            Some(recorded) => metadata::since(recorded, stat),
            None => metadata::change(None, stat),
        };
        if change.is_empty() || self.keeps_modes() { change } else { MetadataChange::new() }
    }

    fn keeps_modes(&mut self) -> bool {
        if self.options.dry_run {
            return true;
        }
        let scanner = &mut self.scanner;
        *self.keeps_modes.get_or_insert_with(|| {
            scanner.folder(Path::new("")).map_or(true, |top| destination::keeps_modes(&top))
        })
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
        EntryKind::Link => stat.kind == Kind::Link,
    }
}

/// Returns whether the entry of a row, in the folder at `path`, is ignored.
fn is_ignored(rules: &Rules, path: &Path, row: &EntryRecord) -> bool {
    let (name, folder) = (OsStr::from_bytes(&row.name), row.disk.kind == EntryKind::Folder);
    rules.ignore(path, name, folder, row.disk.size)
}

fn not_permitted(at: &Path, owner: &UserId, level: AccessLevel) -> Problem {
    let detail = format!("it is in {owner}'s tree, where you have only {level} access");
    Problem::new(at, ProblemKind::NotPermitted, detail)
}

fn shortcut(at: &Path, child: &Child) -> Problem {
    let owner = &child.node.owner;
    let detail = format!("it is a shortcut into {owner}'s tree: import to its own path");
    Problem::new(at, ProblemKind::Shortcut, detail)
}
