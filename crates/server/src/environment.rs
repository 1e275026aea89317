//! The server's sources of time and ids, which come from neither a store nor the network.

use std::time::{SystemTime, UNIX_EPOCH};

use uuid::Uuid;
use vfs_sync_core::id::{BlobId, RefId, StagingId};
use vfs_sync_core::time::Timestamp;

/// A source of time and new ids. [`SystemEnvironment`] uses the machine's; a test provides its own
/// to control the clock and to get the same ids in each run.
pub trait Environment: Send + Sync + 'static {
    /// Returns the wall clock's time.
    fn now(&self) -> Timestamp;

    /// Returns 128 bits that were never used before: they become an id in the form of a UUID.
    fn unique(&self) -> u128 {
        Uuid::now_v7().as_u128()
    }
}

/// The machine's clock, and random UUIDs of version 7.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemEnvironment;

impl Environment for SystemEnvironment {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis())
            .ok()
            .and_then(Timestamp::from_millis)
            .unwrap_or(Timestamp::MAX)
    }
}

impl dyn Environment {
    /// Returns a new unique name.
    pub(crate) fn new_name(&self) -> String {
        Uuid::from_u128(self.unique()).to_string()
    }

    pub(crate) fn new_staging_id(&self) -> StagingId {
        StagingId::new(self.new_name()).expect("a UUID is an id")
    }

    pub(crate) fn new_blob_id(&self) -> BlobId {
        BlobId::new(self.new_name()).expect("a UUID is an id")
    }

    pub(crate) fn new_ref_id(&self) -> RefId {
        RefId::new(self.new_name()).expect("a UUID is an id")
    }
}
