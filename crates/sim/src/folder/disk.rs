//! The engine's disk: what happens before each of its operations, and what the directories have.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use vfs_sync_folder::seam::{Operation, Simulator};
use vfs_sync_testkit::Random;

use super::plan::Trouble;
use super::program::Program;
use super::saved::Saved;
use crate::infra::environment::time_of_world;
use crate::oracle::ledger::Ledger;

/// The payload of a killed process that unwinds.
pub(crate) struct Killed;

/// The longest gap between two events in a round, in operations.
const GAP: usize = 40;

/// Everything of a world that the engine's operations may change.
pub(crate) struct Surroundings {
    ledger: Ledger,
    pub(crate) saved: RefCell<Saved>,
    pub(crate) programs: RefCell<Vec<Program>>,
    /// The directory of each device.
    pub(crate) roots: Vec<PathBuf>,
    now: RefCell<Now>,
    unique: Cell<u64>,
    /// The number of reads of files' bytes.
    pub(crate) reads: Cell<u64>,
}

/// The round that is under way.
struct Now {
    device: usize,
    trouble: Trouble,
    random: Random,
    /// The number of operations until the next event.
    left: usize,
    /// The longest gap between two steps of programs.
    gap: usize,
    /// The number of further operations that fail.
    failing: usize,
    error: i32,
    /// The lead of the device's clock.
    skew: i64,
}

impl Surroundings {
    pub(crate) fn new(ledger: Ledger, roots: Vec<PathBuf>) -> Rc<Self> {
        let random = Random::new(1);
        let (device, trouble, left, failing) = (0, Trouble::None, 0, 0);
        let now = Now { device, trouble, random, left, gap: 1, failing, error: 0, skew: 0 };
        Rc::new(Self {
            ledger,
            saved: RefCell::default(),
            programs: RefCell::default(),
            roots,
            now: RefCell::new(now),
            unique: Cell::new(0),
            reads: Cell::new(0),
        })
    }

    /// Begins a round of a device, whose clock leads by `skew` milliseconds.
    pub(crate) fn begin(&self, device: usize, trouble: Trouble, mut random: Random, skew: i64) {
        let gap = *random.one(&[2, 6, GAP]);
        let left = match trouble {
            Trouble::Busy => 1 + random.below(gap),
            _ => 1 + random.below(GAP * 3),
        };
        let error = *random.one(&ERRORS);
        *self.now.borrow_mut() =
            Now { device, trouble, random, left, gap, failing: 0, error, skew };
    }

    /// Ends the trouble of the round.
    pub(crate) fn end(&self) {
        self.now.borrow_mut().trouble = Trouble::None;
    }

    /// Has a program of the device take its next step.
    pub(crate) fn work(&self, device: usize, random: &mut Random) {
        let mut programs = self.programs.borrow_mut();
        let own: Vec<usize> =
            (0..programs.len()).filter(|i| programs[*i].device == device).collect();
        if own.is_empty() {
            return;
        }
        let index = *random.one(&own);
        let now = system_time(&self.ledger, 0);
        let saved = &mut self.saved.borrow_mut();
        let line = programs[index].step(&self.roots[device], now, saved);
        self.ledger.note(|| format!("device {device}: program: {line}"));
        if programs[index].is_over() {
            programs.remove(index);
        }
    }

    /// Completes the programs of all devices.
    pub(crate) fn finish(&self) {
        let mut random = Random::new(2);
        let next = || self.programs.borrow().first().map(|one| one.device);
        while let Some(device) = next() {
            self.work(device, &mut random);
        }
    }
}

const EIO: i32 = 5;
const EACCES: i32 = 13;
const EBUSY: i32 = 16;
const ENOSPC: i32 = 28;
const ESTALE: i32 = 116;
const ERRORS: [i32; 5] = [EIO, EACCES, EBUSY, ENOSPC, ESTALE];

/// Returns whether a disk may answer an operation with this error.
fn may_fail(operation: Operation, error: i32) -> bool {
    use Operation as O;
    match error {
        ENOSPC => matches!(operation, O::Create | O::Write | O::Rename | O::Sync),
        EBUSY => matches!(operation, O::Rename | O::Remove),
        EACCES => {
            matches!(operation, O::List | O::Stat | O::Open | O::Create | O::Rename | O::Remove)
        }
        _ => operation != O::Commit,
    }
}

impl Simulator for Surroundings {
    fn before(&self, operation: Operation) -> io::Result<()> {
        if operation == Operation::Read {
            self.reads.set(self.reads.get() + 1);
        }
        let (device, mut random) = {
            let mut now = self.now.borrow_mut();
            if now.trouble == Trouble::None {
                return Ok(());
            }
            if now.failing > 0 && may_fail(operation, now.error) {
                now.failing -= 1;
                let error = now.error;
                self.ledger.note(|| format!("{operation:?} fails again"));
                return Err(io::Error::from_raw_os_error(error));
            }
            now.left = now.left.saturating_sub(1);
            if now.left > 0 {
                return Ok(());
            }
            match now.trouble {
                Trouble::Fails if !may_fail(operation, now.error) => {
                    now.left = 1;
                    return Ok(());
                }
                Trouble::Fails => {
                    now.left = 1 + now.random.below(GAP * 2);
                    now.failing = *now.random.one(&[0, 0, 0, 1, 5]);
                    let error = now.error;
                    drop(now);
                    self.ledger.fault(fault(error), || format!("at {operation:?}"));
                    return Err(io::Error::from_raw_os_error(error));
                }
                Trouble::Killed => {
                    now.trouble = Trouble::None;
                    drop(now);
                    self.ledger.fault("agent: killed", || format!("before {operation:?}"));
                    std::panic::resume_unwind(Box::new(Killed));
                }
                _ => {}
            }
            let gap = now.gap;
            now.left = 1 + now.random.below(gap);
            (now.device, now.random.fork())
        };
        self.ledger.note(|| format!("before {operation:?}"));
        for _ in 0..=random.below(3) {
            self.work(device, &mut random);
        }
        Ok(())
    }

    fn unique(&self) -> u128 {
        let next = self.unique.get() + 1;
        self.unique.set(next);
        u128::from(next)
    }

    fn now(&self) -> SystemTime {
        system_time(&self.ledger, self.now.borrow().skew)
    }

    fn is_open(&self, id: (u64, u64)) -> bool {
        self.programs.borrow().iter().any(|program| program.open_file() == Some(id))
    }
}

fn fault(error: i32) -> &'static str {
    match error {
        ENOSPC => "directory: the disk is full",
        EACCES => "directory: permission denied",
        EBUSY => "directory: busy",
        ESTALE => "directory: stale handle",
        _ => "directory: input or output error",
    }
}

fn system_time(ledger: &Ledger, skew: i64) -> SystemTime {
    let millis = time_of_world(ledger.elapsed()).as_millis() + skew;
    SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

/// An entry of a directory, as far as devices have to agree on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    Folder,
    Link(PathBuf),
    File { content: Vec<u8>, bits: u32, millis: i64 },
}

/// Reads a directory without the agent's own folder.
pub(crate) fn entries(root: &Path) -> BTreeMap<PathBuf, Entry> {
    let mut found = BTreeMap::new();
    collect(root, Path::new(""), &mut found);
    found.retain(|path, _| !path.starts_with(".vfs-sync"));
    found
}

/// Reads the files of the agent's own folder.
pub(crate) fn kept_aside(root: &Path, folder: &str) -> Vec<Vec<u8>> {
    let mut found = BTreeMap::new();
    collect(&root.join(".vfs-sync").join(folder), Path::new(""), &mut found);
    let contents = found.into_values().filter_map(|entry| match entry {
        Entry::File { content, .. } => Some(content),
        _ => None,
    });
    contents.collect()
}

fn collect(root: &Path, path: &Path, found: &mut BTreeMap<PathBuf, Entry>) {
    for entry in std::fs::read_dir(root.join(path)).into_iter().flatten().flatten() {
        let at = path.join(entry.file_name());
        let whole = root.join(&at);
        let Ok(meta) = std::fs::symlink_metadata(&whole) else { continue };
        let entry = if meta.is_dir() {
            collect(root, &at, found);
            Entry::Folder
        } else if meta.is_symlink() {
            Entry::Link(std::fs::read_link(&whole).unwrap_or_default())
        } else {
            let millis = meta.mtime() * 1_000 + meta.mtime_nsec() / 1_000_000;
            let bits = meta.permissions().mode() & 0o777;
            Entry::File { content: std::fs::read(&whole).unwrap_or_default(), bits, millis }
        };
        found.insert(at, entry);
    }
}

/// Exchanges two entries atomically.
pub(crate) fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?)
}
