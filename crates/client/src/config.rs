//! The configuration of a client.

use std::sync::Arc;
use std::time::Duration;

use vfs_sync_core::limits::MAX_INLINE_BLOB_BYTES;

use crate::environment::{Environment, SystemEnvironment};
use crate::error::ClientError;

/// The configuration of a client.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Rematerialise by itself, once in a sync, when the server asks for it; otherwise stop.
    pub rematerialise: bool,
    /// Entries in a page: 1 to 500.
    pub page_limit: u32,
    /// Contents on their way at one time, in each direction: 1 to 64.
    pub transfers: usize,
    /// Contents of up to so many bytes go up many to a request; 1 MiB at most.
    pub batch_max_bytes: u64,
    /// Uploads of at least this many bytes, and above [`Self::batch_max_bytes`], are resumable.
    pub resumable_from: u64,
    /// Bytes of content to keep on this machine at most; `None`: all. What is queued for upload
    /// or in the application's hands stays beyond that.
    pub cache_size: Option<u64>,
    /// The rest of background work between two syncs, unless a sync is requested.
    pub interval: Duration,
    /// The shortest and the longest back-off after a failure of the network.
    pub backoff: (Duration, Duration),
    /// The name of this device in conflicted copies; `None` takes the end of the client's id.
    pub device: Option<String>,
    /// A VFS that the application has registered with SQLite, for a replica's database on a disk
    /// that is not the system's; `None`: the system's. Contents stay in the replica's directory.
    pub vfs: Option<String>,
    /// The source of time, ids and chance.
    pub environment: Arc<dyn Environment>,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            rematerialise: false,
            page_limit: 500,
            transfers: 4,
            batch_max_bytes: MAX_INLINE_BLOB_BYTES as u64,
            resumable_from: 16 * 1024 * 1024,
            cache_size: Some(10 * 1024 * 1024 * 1024),
            interval: Duration::from_secs(30),
            backoff: (Duration::from_millis(500), Duration::from_secs(60)),
            device: None,
            vfs: None,
            environment: Arc::new(SystemEnvironment),
        }
    }
}

impl ClientConfig {
    pub(crate) fn check(&self) -> Result<(), ClientError> {
        let invalid = |what: &str| Err(ClientError::Invalid(what.into()));
        if !(1..=vfs_sync_core::limits::MAX_PULL_LIMIT).contains(&self.page_limit) {
            return invalid("page_limit must be from 1 to 500");
        }
        if !(1..=64).contains(&self.transfers) {
            return invalid("transfers must be from 1 to 64");
        }
        if self.batch_max_bytes > MAX_INLINE_BLOB_BYTES as u64 {
            return invalid("batch_max_bytes must be at most 1 MiB");
        }
        if self.backoff.0.is_zero() || self.backoff.0 > self.backoff.1 {
            return invalid("backoff must rise from above zero");
        }
        Ok(())
    }
}
