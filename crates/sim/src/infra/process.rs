//! One life of a server process: what is under way in it ends with it, wherever it is.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use vfs_sync_testkit::Random;

/// The life of one server process. Its stores go through it: once it is over, nothing that the
/// process still has under way reaches them.
#[derive(Debug)]
pub(crate) struct Process {
    dead: AtomicBool,
    random: Mutex<Random>,
    /// In 1,000: how often the database and the object store fail it.
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

    /// Takes a moment, as what is asked of a store does. Never ends if the process does.
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
