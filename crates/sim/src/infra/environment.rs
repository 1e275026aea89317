//! Time, ids and randomness of one process, all derived from the seed and from simulated time.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use vfs_sync_client as client;
use vfs_sync_core::time::Timestamp;
use vfs_sync_server as server;
use vfs_sync_testkit::Random;

/// The time of every clock at the start of a world, in milliseconds since 1970, before its skew.
const BEGINNING: i64 = 1_767_268_800_000;

/// Returns the world's time `elapsed` after its start.
pub(crate) fn time_of_world(elapsed: Duration) -> Timestamp {
    let elapsed = i64::try_from(elapsed.as_millis()).unwrap_or(0);
    Timestamp::from_millis(BEGINNING + elapsed).unwrap_or(Timestamp::MAX)
}

/// The machine of one device or server.
#[derive(Debug)]
pub(crate) struct Machine {
    began: Instant,
    /// The lead of the machine's clock over the world's.
    skew: AtomicI64,
    /// The number that distinguishes the machine's ids from all others.
    id: u16,
    state: Mutex<(Random, u32)>,
}

impl Machine {
    pub(crate) fn new(id: u16, random: Random, skew: i64) -> Self {
        let state = Mutex::new((random, 0));
        Self { began: Instant::now(), skew: AtomicI64::new(skew), id, state }
    }

    /// Moves the machine's clock forward or back.
    pub(crate) fn shift(&self, millis: i64) {
        self.skew.fetch_add(millis, Ordering::Relaxed);
    }

    pub(crate) fn time(&self) -> Timestamp {
        let elapsed = i64::try_from(self.began.elapsed().as_millis()).unwrap_or(0);
        let millis = BEGINNING + elapsed + self.skew.load(Ordering::Relaxed);
        Timestamp::from_millis(millis.max(0)).unwrap_or(Timestamp::MAX)
    }

    fn next_id(&self) -> u128 {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.1 += 1;
        // In no order, and apart by the machine and a count.
        let chance = u128::try_from(state.0.below(1 << 24)).unwrap_or(0);
        chance << 104 | u128::from(self.id) << 80 | u128::from(state.1)
    }
}

impl client::Environment for Machine {
    fn now(&self) -> Timestamp {
        self.time()
    }

    fn unique(&self) -> u128 {
        self.next_id()
    }

    fn jitter(&self) -> f64 {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        f64::from(u32::try_from(state.0.below(1 << 20)).unwrap_or(0)) / f64::from(1 << 20)
    }

    fn is_single_threaded(&self) -> bool {
        true
    }
}

impl server::Environment for Machine {
    fn now(&self) -> Timestamp {
        self.time()
    }

    fn unique(&self) -> u128 {
        self.next_id()
    }
}
