//! A clock that a test controls.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use vfs_sync_client::{self as client, Environment as _};
use vfs_sync_core::time::Timestamp;
use vfs_sync_server as server;

/// A clock that a test moves: the machine's time plus an offset, or a frozen time.
#[derive(Debug, Default)]
pub struct TestClock {
    offset_millis: AtomicI64,
    /// The frozen time in milliseconds, or [`RUNNING`].
    frozen: AtomicI64,
}

/// The value of [`TestClock::frozen`] while the clock runs.
const RUNNING: i64 = i64::MIN;

impl TestClock {
    /// Makes a clock that shows the machine's time.
    #[must_use]
    pub fn running() -> Self {
        Self { offset_millis: AtomicI64::new(0), frozen: AtomicI64::new(RUNNING) }
    }

    /// Moves the clock forward by `by`.
    pub fn advance(&self, by: Duration) {
        self.shift(i64::try_from(by.as_millis()).expect("a test's time is short"));
    }

    /// Moves the clock back by `by`.
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

    /// Returns the clock's time.
    ///
    /// # Panics
    /// If the clock was moved out of the valid range.
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

    /// Stops the clock at `now`; the test can still move it.
    pub fn freeze(&self, now: Timestamp) {
        self.frozen.store(now.as_millis(), Ordering::SeqCst);
    }
}

impl server::Environment for TestClock {
    fn now(&self) -> Timestamp {
        TestClock::now(self)
    }
}
