//! The disk of the servers' database and its faults: power failures (even within transactions),
//! failing operations, and lack of space.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vfs_sync_core::time::Timestamp;
use vfs_sync_store::sqlite::SqliteStore;
use vfs_sync_store::{MetadataStore, StoreError};
use vfs_sync_testkit::Random;

use crate::infra::disk::{Disk, DiskFault, Unsynced};
use crate::oracle::failure::FailureKind;
use crate::oracle::ledger::Ledger;

const FILE: &str = "server.db";

/// Resolves whether a failed transaction was committed, and informs the model.
pub(crate) type Doubt = Box<dyn FnOnce(&dyn MetadataStore, &Ledger) + Send>;
/// A callback after a power failure, when all processes have died; its argument is the database.
type Gone = Box<dyn Fn(Arc<dyn MetadataStore>) + Send + Sync>;

/// The disk of the servers. Clones are cheap and share it.
#[derive(Clone)]
pub(crate) struct ServerDisk(Arc<Mutex<State>>);

struct State {
    disk: Disk,
    dir: PathBuf,
    random: Random,
    /// The fault of the next transaction, and the number of the operation that it hits.
    next: Option<(DiskFault, u64)>,
    /// The unresolved doubts: the log shows after a restart whether a failed transaction was
    /// committed.
    doubts: Vec<Doubt>,
    gone: Option<Arc<Gone>>,
}

/// Returns the name of a directory on simulated disks only, the same for each world of a thread.
pub(crate) fn directory(name: &str) -> PathBuf {
    static THREADS: AtomicU64 = AtomicU64::new(0);
    thread_local!(static THREAD: u64 = THREADS.fetch_add(1, Ordering::Relaxed));
    Path::new("/simulated").join(THREAD.with(u64::to_string)).join(name)
}

/// Draws the fate of unsynced writes.
pub(crate) fn unsynced(random: &mut Random) -> Unsynced {
    if random.below(2) == 0 { Unsynced::Lost } else { Unsynced::Torn(random.fork()) }
}

impl ServerDisk {
    pub(crate) fn new(random: Random) -> Self {
        let dir = directory("server");
        let disk = Disk::below(&dir);
        let doubts = Vec::new();
        Self(Arc::new(Mutex::new(State { disk, dir, random, next: None, doubts, gone: None })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the callback for the time after a power failure.
    pub(crate) fn when_gone(&self, gone: impl Fn(Arc<dyn MetadataStore>) + Send + Sync + 'static) {
        self.state().gone = Some(Arc::new(Box::new(gone)));
    }

    pub(crate) fn open(&self) -> Result<Arc<dyn MetadataStore>, StoreError> {
        let path = self.state().dir.join(FILE);
        let now = Timestamp::from_millis(0).expect("1970");
        Ok(Arc::new(SqliteStore::open_alone(&path, Some(&Disk::vfs()), now)?))
    }

    /// Returns a copy of the disk.
    pub(crate) fn copy(&self, name: &str) -> Disk {
        self.state().disk.copied_below(&directory(name))
    }

    /// Replaces the disk's files by those of a copy.
    pub(crate) fn put_back(&self, copy: &Disk, name: &str) {
        let mut state = self.state();
        let dir = directory(name);
        state.disk = copy.copied_below(&dir);
        state.dir = dir;
        state.doubts.clear();
    }

    /// Schedules `fault` for operation number `at` of the next transaction, if the transaction has
    /// that many.
    pub(crate) fn fault_next(&self, fault: DiskFault, at: u64) {
        self.state().next = Some((fault, at));
    }

    /// Limits the free space to `bytes`; `None` removes the limit.
    pub(crate) fn set_room(&self, bytes: Option<u64>) {
        let state = self.state();
        state.disk.set_capacity(bytes.map(|bytes| state.disk.used() + bytes));
    }

    /// Ends all faults of the disk.
    pub(crate) fn heal(&self) {
        let mut state = self.state();
        state.next = None;
        state.disk.forget_faults();
        state.disk.set_capacity(None);
    }

    /// Runs a transaction with the faults of the disk. If it fails, `doubt` later resolves its
    /// outcome.
    pub(crate) fn transaction<T>(
        &self,
        ledger: &Ledger,
        transaction: impl FnOnce() -> Result<T, StoreError>,
        doubt: Doubt,
    ) -> Result<T, StoreError> {
        let disk = {
            let mut state = self.state();
            if let Some((fault, at)) = state.next.take() {
                state.disk.fault_at(state.disk.operations() + at, fault);
            }
            state.disk.clone()
        };
        let answer = transaction();
        disk.forget_faults();
        if let Err(error) = &answer {
            self.state().doubts.push(doubt);
            let full = error.to_string().contains("is full");
            let name = if full {
                "server's disk: it was full"
            } else {
                "server's disk: a transaction failed"
            };
            ledger.fault(name, || error.to_string());
        } else if !disk.is_off() {
            // The transaction overwrote the log where the failed one had been.
            self.state().doubts.clear();
        }
        answer
    }

    /// Runs a transaction without faults.
    pub(crate) fn spare<T>(&self, transaction: impl FnOnce() -> T) -> T {
        let disk = self.state().disk.clone();
        let capacity = disk.capacity();
        disk.set_capacity(None);
        let answer = transaction();
        disk.set_capacity(capacity);
        answer
    }

    /// Returns whether the power has failed; [`Self::power_on`] must follow.
    pub(crate) fn is_off(&self) -> bool {
        self.state().disk.is_off()
    }

    pub(crate) fn power_off(&self) {
        self.state().disk.power_off();
    }

    /// Restores the power, opens the database, and checks that it kept all committed transactions.
    pub(crate) fn power_on(&self, ledger: &Ledger) {
        let (doubts, gone) = {
            let mut state = self.state();
            let unsynced = unsynced(&mut state.random);
            let name = match unsynced {
                Unsynced::Torn(_) => "server's disk: the power failed, torn",
                _ => "server's disk: the power failed",
            };
            ledger.fault(name, String::new);
            state.disk.power_on(unsynced);
            // Who starts a server on a full disk makes room first.
            state.disk.set_capacity(None);
            (std::mem::take(&mut state.doubts), state.gone.clone())
        };
        match self.open() {
            Ok(store) => {
                doubts.into_iter().for_each(|doubt| doubt(&*store, ledger));
                gone.iter().for_each(|gone| gone(Arc::clone(&store)));
            }
            Err(error) => {
                let message = format!("the database is gone with the power: {error}");
                ledger.fail(FailureKind::Lost, message);
            }
        }
    }
}
