//! A clock that a test owns.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use vfs_sync_client::{self as client, Environment as _};
use vfs_sync_core::time::Timestamp;
use vfs_sync_server as server;

/// A clock that a test moves: the machine's time and an offset, or a time that stands still.
#[derive(Debug, Default)]
pub struct TestClock {
    offset_millis: AtomicI64,
    /// Milliseconds, while it stands still.
    frozen: AtomicI64,
}

/// [`TestClock::frozen`] while the clock runs.
const RUNNING: i64 = i64::MIN;

impl TestClock {
    /// Makes a clock that shows the machine's time.
    #[must_use]
    pub fn running() -> Self {
        Self { offset_millis: AtomicI64::new(0), frozen: AtomicI64::new(RUNNING) }
    }

    /// Moves the clock on.
    pub fn advance(&self, by: Duration) {
        self.shift(i64::try_from(by.as_millis()).expect("a test's time is short"));
    }

    /// Moves the clock back.
    pub fn step_back(&self, by: Duration) {
        self.shift(-i64::try_from(by.as_millis()).expect("a test's time is short"));
    }

    fn shift(&self, millis: i64) {
        if self.frozen.load(Ordering::SeqCst) == RUNNING {
            self.offset_millis.fetch_add(millis, Ordering::SeqCst);
        } else {
            self.frozen.fetch_add(millis, Ordering::SeqCst);
        }
    }

    /// Returns the time that it shows.
    ///
    /// # Panics
    /// If it was moved to where no time is.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        match self.frozen.load(Ordering::SeqCst) {
            RUNNING => {
                let machine = client::SystemEnvironment.now();
                machine.plus_millis(self.offset_millis.load(Ordering::SeqCst))
            }
            millis => Timestamp::from_millis(millis).expect("a test's time is a real one"),
        }
    }

    /// Makes the clock stand still at `now`; it can be moved on from there.
    pub fn freeze(&self, now: Timestamp) {
        self.frozen.store(now.as_millis(), Ordering::SeqCst);
    }
}

impl server::Environment for TestClock {
    fn now(&self) -> Timestamp {
        TestClock::now(self)
    }
}
