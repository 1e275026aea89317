//! Time and ids that a test controls, so that each language makes the same state.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use vfs_sync_client::Environment;
use vfs_sync_client::core::time::Timestamp;

/// A clock that stands still until it is moved, and ids that count.
#[derive(Debug)]
pub(crate) struct CountedEnvironment {
    seed: u64,
    count: AtomicU64,
    now: AtomicI64,
}

impl CountedEnvironment {
    pub(crate) fn new(seed: u64, now: Timestamp) -> Self {
        let (count, now) = (AtomicU64::new(0), AtomicI64::new(now.as_millis()));
        Self { seed, count, now }
    }

    pub(crate) fn advance(&self, millis: i64) {
        self.now.fetch_add(millis, Ordering::Relaxed);
    }
}

impl Environment for CountedEnvironment {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.now.load(Ordering::Relaxed)).unwrap_or(Timestamp::MAX)
    }

    fn unique(&self) -> u128 {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        u128::from(self.seed) << 64 | u128::from(count)
    }

    fn jitter(&self) -> f64 {
        0.5
    }
}
