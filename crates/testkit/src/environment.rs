//! Time, ids and randomness that a test controls.

mod clock;
mod random;

use std::sync::{Mutex, PoisonError};

use vfs_sync_client as client;
use vfs_sync_core::time::Timestamp;
use vfs_sync_server as server;

pub use clock::TestClock;
pub use random::{Random, number, seed, seeds};

/// An environment of a client or a server, derived from a seed: ids, jitter, and a clock that
/// stands still until the test moves it. A client does the work on its replica on the thread that
/// polls it.
///
/// Two environments of one seed give the same ids: each replica and each server has its own.
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
/// use vfs_sync_testkit::client::core::time::Timestamp;
/// use vfs_sync_testkit::client::{ClientConfig, Environment as _};
/// use vfs_sync_testkit::TestEnvironment;
///
/// let noon = "2026-01-01T12:00:00.000Z".parse::<Timestamp>().expect("a time");
/// let environment = Arc::new(TestEnvironment::new(7, noon));
/// let config = ClientConfig { environment: environment.clone(), ..ClientConfig::default() };
/// environment.clock().advance(Duration::from_secs(60));
/// assert_eq!(config.environment.now(), noon.plus_millis(60_000));
/// assert_eq!(config.environment.unique(), TestEnvironment::new(7, noon).unique());
/// ```
#[derive(Debug)]
pub struct TestEnvironment {
    clock: TestClock,
    random: Mutex<(Random, u64)>,
}

impl TestEnvironment {
    /// Creates the environment of `seed`, whose clock shows `now`.
    #[must_use]
    pub fn new(seed: u64, now: Timestamp) -> Self {
        let clock = TestClock::running();
        clock.freeze(now);
        Self { clock, random: Mutex::new((Random::new(seed), 0)) }
    }

    /// Returns the clock of this environment.
    #[must_use]
    pub fn clock(&self) -> &TestClock {
        &self.clock
    }

    fn next_id(&self) -> u128 {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        let (random, count) = &mut *random;
        *count += 1;
        let mut bits = || random.below(1 << 31) as u128;
        // Ids are in no order, and their count keeps them apart.
        bits() << 97 | bits() << 66 | u128::from(*count)
    }
}

impl client::Environment for TestEnvironment {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn unique(&self) -> u128 {
        self.next_id()
    }

    fn jitter(&self) -> f64 {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        random.0.below(1_000_000) as f64 / 1e6
    }

    fn is_single_threaded(&self) -> bool {
        true
    }
}

impl server::Environment for TestEnvironment {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn unique(&self) -> u128 {
        self.next_id()
    }
}
