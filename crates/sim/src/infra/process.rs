//! One life of a server process: when the process ends, its work in progress ends at its present
//! point.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use vfs_sync_testkit::Random;

/// The life of one server process. Its stores check it: once it is over, no work of the process
/// reaches them.
#[derive(Debug)]
pub(crate) struct Process {
    dead: AtomicBool,
    random: Mutex<Random>,
    /// The number of database and object store calls of the process that fail, in 1,000.
    database_faults: Arc<AtomicU32>,
}

impl Process {
    pub(crate) fn new(random: Random, database_faults: Arc<AtomicU32>) -> Self {
        Self { dead: AtomicBool::new(false), random: Mutex::new(random), database_faults }
    }

    pub(crate) fn kill(&self) {
        self.dead.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    pub(crate) fn below(&self, bound: usize) -> usize {
        self.random.lock().unwrap_or_else(PoisonError::into_inner).below(bound)
    }

    /// Waits for a short simulated time, as a store's call takes; never returns if the process
    /// ends.
    pub(crate) async fn moment(&self) {
        if self.below(4) == 0 {
            let millis = u64::try_from(1 + self.below(8)).unwrap_or(1);
            tokio::time::sleep(Duration::from_millis(millis)).await;
        }
        if self.is_dead() {
            std::future::pending::<()>().await;
        }
    }

    /// Returns whether the database fails this call.
    pub(crate) fn database_fails(&self) -> bool {
        let often = self.database_faults.load(Ordering::Relaxed);
        often > 0 && self.below(1_000) < usize::try_from(often).unwrap_or(0)
    }
}
