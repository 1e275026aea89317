//! The configuration of a client.

use std::sync::Arc;
use std::time::Duration;

use vfs_sync_core::limits::MAX_INLINE_BLOB_BYTES;

use crate::environment::{Environment, SystemEnvironment};
use crate::error::{ClientError, Result};

/// The configuration of a client.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// True to rematerialise automatically, once in a sync, when the server requires it; otherwise
    /// the client stops.
    pub rematerialise: bool,
    /// The number of entries in a page: 1 to 500.
    pub page_limit: u32,
    /// The number of concurrent transfers of contents in each direction: 1 to 64.
    pub transfers: usize,
    /// The size up to which contents share a request when they are uploaded; 1 MiB at most.
    pub batch_max_bytes: u64,
    /// Uploads of at least this many bytes, and above [`Self::batch_max_bytes`], are resumable.
    pub resumable_from: u64,
    /// The greatest size of the content cache in bytes; `None` keeps everything. Contents that are
    /// queued for upload or held by the application stay even beyond it.
    pub cache_size: Option<u64>,
    /// The pause of background work between two syncs, unless a sync is requested.
    pub interval: Duration,
    /// True if background work holds a stream of live updates: changes of others arrive at once,
    /// and edits go out at once. Without it, or where the stream does not get through, both wait for
    /// the interval or a request.
    pub live: bool,
    /// The pause between two syncs while a stream of live updates is up.
    pub live_interval: Duration,
    /// The shortest and the longest back-off after a network failure.
    pub backoff: (Duration, Duration),
    /// The name of this device, in conflicted copies and in the server's list of devices; `None`
    /// takes the end of the client's id for the former.
    pub device: Option<String>,
    /// True if violations and stops are reported to the server, without names and contents, so that
    /// its operator learns of them.
    pub report: bool,
    /// A VFS that the application has registered with SQLite, for a replica's database on a disk
    /// that is not the system's; `None` for the system's. Contents stay in the replica's directory.
    pub vfs: Option<String>,
    /// The source of time, ids and randomness.
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
            live: true,
            live_interval: Duration::from_secs(300),
            backoff: (Duration::from_millis(500), Duration::from_secs(60)),
            device: None,
            report: true,
            vfs: None,
            environment: Arc::new(SystemEnvironment),
        }
    }
}

impl ClientConfig {
    pub(crate) fn check(&self) -> Result<()> {
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
        if self.interval.is_zero() || self.live_interval.is_zero() {
            return invalid("interval and live_interval must be above zero");
        }
        if self.backoff.0.is_zero() || self.backoff.0 > self.backoff.1 {
            return invalid("backoff must rise from above zero");
        }
        Ok(())
    }
}
