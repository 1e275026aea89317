//! The environment of a client besides its disk and network: time, ids, randomness, and threads.

use std::fmt::Debug;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use uuid::Uuid;
use vfs_sync_core::id::{BlobId, ItemId, OpId, ReplicaId, StagingId};
use vfs_sync_core::time::Timestamp;

use crate::error::{ClientError, Result};
use crate::host;

/// The source of a client's time, new ids and randomness. [`SystemEnvironment`] uses the machine's;
/// a test implements its own, to control the clock or to get the same ids in each run.
///
/// A client runs deterministically, step by step, under these conditions: it is on a current-thread
/// tokio runtime whose clock is paused, its environment [answers from a seed](Self::unique) and is
/// [single-threaded](Self::is_single_threaded), and its transport is deterministic too.
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use vfs_sync_client::{ClientConfig, Environment};
/// use vfs_sync_client::core::time::Timestamp;
///
/// /// Noon for ever, and ids that count.
/// #[derive(Debug, Default)]
/// struct Fixed(AtomicU64);
///
/// impl Environment for Fixed {
///     fn now(&self) -> Timestamp {
///         "2026-01-01T12:00:00.000Z".parse().expect("a time")
///     }
///     fn unique(&self) -> u128 {
///         u128::from(self.0.fetch_add(1, Ordering::Relaxed))
///     }
///     fn jitter(&self) -> f64 {
///         0.5
///     }
/// }
///
/// let environment = std::sync::Arc::new(Fixed::default());
/// let config = ClientConfig { environment, ..ClientConfig::default() };
/// # drop(config);
/// ```
pub trait Environment: Debug + Send + Sync + 'static {
    /// Returns the time of the wall clock. It may be wrong, jump and go back.
    fn now(&self) -> Timestamp;

    /// Returns 128 bits that were never used before: they become an id in the form of a UUID. Two
    /// replicas that get the same bits overwrite each other's items.
    fn unique(&self) -> u128;

    /// Returns a random number from 0 to 1, which spreads actions that many clients would make at
    /// one time.
    fn jitter(&self) -> f64;

    /// Returns true if blocking disk work runs on the polling thread instead of the runtime's
    /// blocking threads. A transaction then begins and ends in one step.
    fn is_single_threaded(&self) -> bool {
        cfg!(target_family = "wasm")
    }
}

/// The machine's clock, random UUIDs of version 7 (ordered by time), and the runtime's threads.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemEnvironment;

impl Environment for SystemEnvironment {
    fn now(&self) -> Timestamp {
        #[cfg(target_family = "wasm")]
        use web_time::{SystemTime, UNIX_EPOCH};
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let millis = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
        Timestamp::from_millis(millis).unwrap_or(Timestamp::MAX)
    }

    fn unique(&self) -> u128 {
        Uuid::now_v7().as_u128()
    }

    fn jitter(&self) -> f64 {
        host::random()
    }
}

impl dyn Environment {
    fn id(&self) -> String {
        Uuid::from_u128(self.unique()).to_string()
    }

    pub(crate) fn new_replica_id(&self) -> ReplicaId {
        ReplicaId::new(self.id()).expect("a UUID is an id")
    }

    pub(crate) fn new_item_id(&self) -> ItemId {
        ItemId::new(self.id()).expect("a UUID is an id")
    }

    pub(crate) fn new_op_id(&self) -> OpId {
        OpId::new(self.id()).expect("a UUID is an id")
    }

    pub(crate) fn new_blob_id(&self) -> BlobId {
        BlobId::new(self.id()).expect("a UUID is an id")
    }

    pub(crate) fn new_staging_id(&self) -> StagingId {
        StagingId::new(self.id()).expect("a UUID is an id")
    }

    /// Returns the wall clock's time as a file time.
    pub(crate) fn file_time(&self) -> SystemTime {
        let millis = u64::try_from(self.now().as_millis()).unwrap_or_default();
        UNIX_EPOCH + Duration::from_millis(millis)
    }

    /// Runs blocking work on a thread for it. The work finishes even if its caller is cancelled.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        if self.is_single_threaded() {
            return work();
        }
        host::blocking(work).await.unwrap_or_else(|error| Err(ClientError::Storage(error)))
    }
}
