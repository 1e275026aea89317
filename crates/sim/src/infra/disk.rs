//! A disk for SQLite that tracks which writes are durable. The power can fail at any operation,
//! which loses or tears unsynced writes; the disk can be full; operations can fail.
//!
//! SQLite reaches it as the VFS of [`Disk::vfs`], by paths below the directory of a [`Disk`]. A
//! database on it belongs to one connection that locks it exclusively, as in
//! `SqliteStore::open_alone` and a client's replica: there is no shared memory for the index of a
//! log. The state of a VFS is not thread-safe: each thread has its own VFS, and a database stays
//! with the thread that opened it.

mod files;

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Result};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use sqlite_vfs::{DatabaseHandle, LockKind, OpenAccess, OpenOptions, Vfs, WalDisabled};
use vfs_sync_testkit::Random;

use files::File;

/// The fate of unsynced writes in a power failure.
#[derive(Debug, Clone)]
pub enum Unsynced {
    /// All writes are kept: only the process died that made them.
    Kept,
    /// All unsynced writes are lost.
    Lost,
    /// Randomness decides, for each sector of each write.
    Torn(Random),
}

/// A fault of one operation of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFault {
    /// A write, a truncation, a removal or a sync fails without any effect.
    Fails,
    /// The power fails before the operation.
    PowerFails,
}

/// A simulated disk in memory. Clones share it, and its open files outlive its last clone.
#[derive(Debug, Clone)]
pub struct Disk {
    below: Arc<str>,
    platter: Arc<Mutex<Platter>>,
}

#[derive(Debug, Default)]
struct Platter {
    files: BTreeMap<String, File>,
    /// The number of power failures: files that were opened before the last one stay closed.
    uptime: u64,
    is_off: bool,
    operations: u64,
    next_handle: u64,
    /// The faults, each by the number of its operation.
    faults: BTreeMap<u64, DiskFault>,
    capacity: Option<u64>,
    reads_fail: bool,
}

type Platters = BTreeMap<Arc<str>, Weak<Mutex<Platter>>>;

/// Returns the disks of this process, by their directories.
fn platters() -> MutexGuard<'static, Platters> {
    static PLATTERS: Mutex<Platters> = Mutex::new(Platters::new());
    PLATTERS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn lock(platter: &Mutex<Platter>) -> MutexGuard<'_, Platter> {
    platter.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Disk {
    /// Creates an empty disk for the files that SQLite opens by paths below `directory`. No two
    /// disks of a process may have the same directory.
    #[must_use]
    pub fn below(directory: &Path) -> Self {
        let below: Arc<str> = format!("{}/", directory.display()).into();
        let platter = Arc::new(Mutex::new(Platter::default()));
        let mut platters = platters();
        platters.retain(|_, platter| platter.strong_count() > 0);
        platters.insert(Arc::clone(&below), Arc::downgrade(&platter));
        Self { below, platter }
    }

    /// Returns the name of this thread's VFS, registering it the first time.
    ///
    /// # Panics
    /// If SQLite does not accept it.
    #[must_use]
    pub fn vfs() -> String {
        static THREADS: AtomicU64 = AtomicU64::new(0);
        thread_local!(static NAME: OnceCell<String> = const { OnceCell::new() });
        NAME.with(|name| {
            let register = || {
                let name = format!("vfs-sync-sim-{}", THREADS.fetch_add(1, Ordering::Relaxed));
                sqlite_vfs::register(&name, Disks, false).expect("SQLite takes the VFS");
                name
            };
            name.get_or_init(register).clone()
        })
    }

    /// Returns the number of bytes of all files.
    #[must_use]
    pub fn used(&self) -> u64 {
        lock(&self.platter).files.values().map(File::len).sum()
    }

    /// Returns the number of modifying operations: writes, truncations, removals and syncs.
    #[must_use]
    pub fn operations(&self) -> u64 {
        lock(&self.platter).operations
    }

    /// Schedules `fault` for the operation with the number `operation`, counted from 0 by
    /// [`Self::operations`].
    pub fn fault_at(&self, operation: u64, fault: DiskFault) {
        lock(&self.platter).faults.insert(operation, fault);
    }

    /// Returns the limit of [`Self::set_capacity`].
    #[must_use]
    pub fn capacity(&self) -> Option<u64> {
        lock(&self.platter).capacity
    }

    /// Limits the bytes of all files; `None` removes the limit. A write beyond it fails.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        lock(&self.platter).capacity = bytes;
    }

    /// Sets whether reads fail from now on.
    pub fn set_reads_fail(&self, fail: bool) {
        lock(&self.platter).reads_fail = fail;
    }

    /// Discards the faults that have not occurred yet.
    pub fn forget_faults(&self) {
        lock(&self.platter).faults.clear();
    }

    /// Fails the power, or kills the process with open files: operations on open files fail from
    /// now on.
    pub fn power_off(&self) {
        lock(&self.platter).power_off();
    }

    /// Returns whether the power has failed.
    #[must_use]
    pub fn is_off(&self) -> bool {
        lock(&self.platter).is_off
    }

    /// Restores the power, if it failed: synced data is present, and `unsynced` decides about the
    /// rest. Pending faults are discarded.
    pub fn power_on(&self, mut unsynced: Unsynced) {
        let mut platter = lock(&self.platter);
        if std::mem::take(&mut platter.is_off) {
            platter.files.retain(|_, file| file.survives(&unsynced));
            platter.files.values_mut().for_each(|file| file.recover(&mut unsynced));
        }
        platter.faults.clear();
    }

    /// Copies the disk with all its files to `directory`; no file is open on the copy.
    #[must_use]
    pub fn copied_below(&self, directory: &Path) -> Self {
        let copy = Self::below(directory);
        let from = lock(&self.platter);
        let renamed = |name: &String| {
            let rest = name.strip_prefix(&*self.below).unwrap_or(name);
            format!("{}{rest}", copy.below)
        };
        let files = from.files.iter().map(|(name, file)| (renamed(name), file.closed()));
        lock(&copy.platter).files = files.collect();
        drop(from);
        copy
    }
}

fn failed(what: &str) -> Error {
    Error::other(format!("simulated: {what}"))
}

impl Platter {
    fn power_off(&mut self) {
        self.is_off = true;
        self.uptime += 1;
        self.files.values_mut().for_each(File::unlock_all);
    }

    /// Checks that the power has not failed since `uptime`, before any operation on a file opened
    /// then.
    fn check(&self, uptime: u64) -> Result<()> {
        if self.is_off || self.uptime != uptime {
            return Err(failed("the power has failed"));
        }
        Ok(())
    }

    /// Counts a modifying operation and applies its fault, before the operation changes the disk.
    fn change(&mut self, uptime: u64) -> Result<()> {
        self.check(uptime)?;
        let operation = self.operations;
        self.operations += 1;
        match self.faults.remove(&operation) {
            None => Ok(()),
            Some(DiskFault::Fails) => Err(failed("the disk fails")),
            Some(DiskFault::PowerFails) => {
                self.power_off();
                self.check(uptime)
            }
        }
    }

    fn file(&mut self, name: &str) -> Result<&mut File> {
        self.files.get_mut(name).ok_or_else(|| ErrorKind::NotFound.into())
    }

    /// Checks that `name` may grow to `len` bytes.
    fn check_room(&mut self, name: &str, len: u64) -> Result<()> {
        let others = self.files.iter().filter(|(other, _)| *other != name);
        let others: u64 = others.map(|(_, file)| file.len()).sum();
        match self.capacity {
            // SQLite reads this error as a full disk.
            Some(capacity) if others + len > capacity => Err(ErrorKind::WriteZero.into()),
            _ => Ok(()),
        }
    }
}

/// All disks, for SQLite.
struct Disks;

/// A handle of a file that SQLite has open.
struct Handle {
    platter: Arc<Mutex<Platter>>,
    name: String,
    id: u64,
    uptime: u64,
}

fn disk_of(name: &str) -> Result<Arc<Mutex<Platter>>> {
    let platters = platters();
    let found = platters.iter().rev().find(|(below, _)| name.starts_with(&***below));
    let platter = found.and_then(|(_, platter)| platter.upgrade());
    platter.ok_or_else(|| failed(&format!("{name} is on no disk")))
}

impl Vfs for Disks {
    type Handle = Handle;

    fn open(&self, name: &str, options: OpenOptions) -> Result<Handle> {
        let platter = disk_of(name)?;
        let mut disk = lock(&platter);
        let uptime = disk.uptime;
        disk.check(uptime)?;
        match (disk.files.contains_key(name), &options.access) {
            (true, OpenAccess::CreateNew) => return Err(ErrorKind::AlreadyExists.into()),
            (false, OpenAccess::Create | OpenAccess::CreateNew) => {
                disk.files.insert(name.to_owned(), File::default());
            }
            (false, _) => return Err(ErrorKind::NotFound.into()),
            (true, _) => {}
        }
        disk.next_handle += 1;
        let id = disk.next_handle;
        drop(disk);
        Ok(Handle { platter, name: name.to_owned(), id, uptime })
    }

    /// Removes a file; the removal is durable at once, as SQLite requests.
    fn delete(&self, name: &str) -> Result<()> {
        let platter = disk_of(name)?;
        let mut disk = lock(&platter);
        let uptime = disk.uptime;
        disk.change(uptime)?;
        disk.files.remove(name).map(drop).ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn exists(&self, name: &str) -> Result<bool> {
        let platter = disk_of(name)?;
        let disk = lock(&platter);
        disk.check(disk.uptime)?;
        Ok(disk.files.contains_key(name))
    }

    /// Fails, because SQLite is configured to keep temporary data in memory.
    fn temporary_name(&self) -> String {
        "temporary".into()
    }

    fn random(&self, buffer: &mut [i8]) {
        buffer.fill(7);
    }

    fn sleep(&self, duration: Duration) -> Duration {
        duration
    }
}

impl DatabaseHandle for Handle {
    type WalIndex = WalDisabled;

    fn size(&self) -> Result<u64> {
        let mut disk = lock(&self.platter);
        disk.check(self.uptime)?;
        Ok(disk.file(&self.name)?.len())
    }

    fn read_exact_at(&mut self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let mut disk = lock(&self.platter);
        disk.check(self.uptime)?;
        if disk.reads_fail {
            return Err(failed("the disk cannot be read"));
        }
        disk.file(&self.name)?.read(buffer, offset)
    }

    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> Result<()> {
        let mut disk = lock(&self.platter);
        disk.change(self.uptime)?;
        let len = disk.file(&self.name)?.len().max(offset + bytes.len() as u64);
        disk.check_room(&self.name, len)?;
        disk.file(&self.name)?.write(bytes, offset);
        Ok(())
    }

    fn sync(&mut self, _data_only: bool) -> Result<()> {
        let mut disk = lock(&self.platter);
        disk.change(self.uptime)?;
        disk.file(&self.name)?.sync();
        Ok(())
    }

    fn set_len(&mut self, len: u64) -> Result<()> {
        let mut disk = lock(&self.platter);
        disk.change(self.uptime)?;
        disk.check_room(&self.name, len)?;
        disk.file(&self.name)?.set_len(len);
        Ok(())
    }

    fn lock(&mut self, kind: LockKind) -> Result<bool> {
        let mut disk = lock(&self.platter);
        disk.check(self.uptime)?;
        Ok(disk.file(&self.name)?.lock(self.id, kind))
    }

    fn reserved(&mut self) -> Result<bool> {
        let mut disk = lock(&self.platter);
        disk.check(self.uptime)?;
        Ok(disk.file(&self.name)?.is_reserved())
    }

    fn current_lock(&self) -> Result<LockKind> {
        let mut disk = lock(&self.platter);
        disk.check(self.uptime)?;
        Ok(disk.file(&self.name)?.lock_of(self.id))
    }

    fn wal_index(&self, _readonly: bool) -> Result<WalDisabled> {
        Ok(WalDisabled)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut disk = lock(&self.platter);
        if let Ok(file) = disk.file(&self.name) {
            file.lock(self.id, LockKind::None);
        }
    }
}
