//! Settings of a server that an operator can change.

use std::path::PathBuf;
use std::time::Duration;

use vfs_sync_core::time::Timestamp;
use vfs_sync_store::{MetadataQuota, Quota, Retention};

use crate::http::address::AddressRange;
use crate::http::body::Pace;

/// An amount in a second, and the amount that may be taken at once after a pause: at least that of a
/// second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// The amount of a second.
    pub per_second: u64,
    /// The amount that may be taken at once.
    pub burst: u64,
}

/// The rates of users and addresses; `None` is no limit. What is beyond gets 429 and `Retry-After`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// Requests of a user.
    pub user_requests: Option<Rate>,
    /// Operations that a user pushes, and files in batches.
    pub user_operations: Option<Rate>,
    /// Bytes of a user's bodies and answers; those of a request in progress are delayed.
    pub user_bytes: Option<Rate>,
    /// Requests of an address without a valid token.
    pub address_requests: Option<Rate>,
    /// Operations of all users of an address.
    pub address_operations: Option<Rate>,
    /// Bytes of all users of an address.
    pub address_bytes: Option<Rate>,
}

impl Default for Rates {
    fn default() -> Self {
        let rate = |per_second, burst| Some(Rate { per_second, burst });
        Self {
            user_requests: rate(5_000, 50_000),
            user_operations: rate(100_000, 1_000_000),
            user_bytes: rate(1 << 30, 8 << 30),
            address_requests: rate(1_000, 10_000),
            address_operations: None,
            address_bytes: None,
        }
    }
}

/// Bounds, time-outs and retention. The defaults suit a server that faces the internet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerConfig {
    /// Connections at one time. Beyond them the one that can best be spared is closed: those that
    /// never had a token first, then idle ones; requests of users are never ended for it.
    pub max_connections: usize,
    /// The greatest number of requests in progress; the server answers further ones with 503 and
    /// `Retry-After`.
    pub max_requests: usize,
    /// Requests of one user handled at one time, until their answers are taken; further ones get
    /// 429 and `Retry-After`.
    pub max_user_requests: usize,
    /// Event streams at one time, besides the connections and requests; further ones get 429 and
    /// `Retry-After`.
    pub max_event_streams: usize,
    /// Event streams of one user at one time; further ones get 429 and `Retry-After`.
    pub max_user_event_streams: usize,
    /// The time after which an event stream that has nothing to send sends a comment.
    pub events_keepalive: Duration,
    /// Bytes of bodies and answers held in memory at one time; further requests get 503 and
    /// `Retry-After`.
    pub max_body_memory: usize,
    /// Bytes of one user's bodies and answers held in memory at one time; further requests get 429
    /// and `Retry-After`.
    pub max_user_memory: usize,
    /// The time that a request waits for its turn before it is refused.
    pub queue_wait: Duration,
    /// The rates of users and addresses.
    pub rates: Rates,
    /// The proxies in front of the server, whose `X-Forwarded-For` names the address of a request.
    pub proxies: Vec<AddressRange>,
    /// The time for the head of a request, and for the next request on a connection.
    pub head_timeout: Duration,
    /// The time for a whole request, including its body, except for streams of blob bytes.
    pub request_timeout: Duration,
    /// The time of waiting for a peer in which `min_rate` is measured: for the next bytes of a body,
    /// and for the peer to take the next bytes of an answer.
    pub idle_timeout: Duration,
    /// Bytes a second that a peer sends or takes at least while the server waits for it.
    pub min_rate: u64,
    /// The time that requests in flight have to finish at shutdown.
    pub drain_timeout: Duration,
    /// The largest blob, in bytes.
    pub max_blob_bytes: u64,
    /// The greatest total size of a user's blobs in bytes, staged ones included.
    pub max_stored_bytes: u64,
    /// The greatest number of bytes that a user may have staged and not attached.
    pub max_staged_bytes: u64,
    /// The greatest number of open stages of a user.
    pub max_open_stages: u64,
    /// The bounds on what the realm of a user holds besides contents.
    pub metadata: MetadataQuota,
    /// Bytes of memory for planning large changes, for whoever opens the store.
    pub plan_memory: usize,
    /// Uploads at one time that are too large to be held in memory; more wait. Each takes some
    /// three parts of the object store, 24 MiB, or more beyond 8 GB.
    pub max_large_uploads: usize,
    /// The same of one user.
    pub max_user_large_uploads: usize,
    /// The retention of earlier contents of a file, besides the last ones that are kept in any
    /// case.
    pub keep_versions: Duration,
    /// The origins of web pages that may call this server from a browser.
    pub cors_origins: Vec<String>,
    /// The names, besides addresses and `localhost`, at which the console may be opened: without a port.
    pub admin_hosts: Vec<String>,
    /// The prefix of all paths behind a proxy: empty, or `/` and segments.
    pub public_path: String,
    /// The lifetime of a stage whose client names no expiry.
    pub stage_lifetime: Duration,
    /// The longest lifetime of a stage.
    pub max_stage_lifetime: Duration,
    /// The time for which a deleted item can be restored; after it, the sweeper removes the item
    /// for good.
    pub keep_deleted: Duration,
    /// The retention of replicas that neither push, pull nor reconcile, and of everything that they
    /// may still name: the ids of purged items and deleted blobs.
    pub keep_replicas: Duration,
    /// The retention of removals in a feed. A replica that was away for longer rematerialises.
    pub keep_removals: Duration,
    /// The retention of accepted operations: a retry within it gets the same answer.
    pub keep_accepted: Duration,
    /// The directory whose disk's free space is measured, if there is one.
    pub data: Option<PathBuf>,
    /// The interval between two runs of the retention.
    pub prune_interval: Duration,
    /// The interval between two sweeps of expired stages and unneeded bytes.
    pub sweep_interval: Duration,
    /// The interval between two looks for deletions of users whose next step is due.
    pub deletion_interval: Duration,
    /// The time from the removal of a user's last row to a look for what a late call left.
    pub deletion_settle: Duration,
}

const MIB: usize = 1024 * 1024;
/// Descriptors for the database, for files that are written, and for connections that are closing.
const RESERVED_DESCRIPTORS: usize = 128;
/// The memory of an upload in parts: one that fills up and two that are written.
const LARGE_UPLOAD_BYTES: usize = 24 * MIB;
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(24 * 3_600);

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            max_connections: 4_096,
            max_requests: 1_024,
            max_user_requests: 256,
            max_event_streams: 20_000,
            max_user_event_streams: 64,
            events_keepalive: Duration::from_secs(25),
            max_body_memory: 512 * MIB,
            max_user_memory: 64 * MIB,
            plan_memory: usize::MAX,
            queue_wait: Duration::from_secs(2),
            rates: Rates::default(),
            proxies: Vec::new(),
            head_timeout: Duration::from_secs(60),
            request_timeout: Duration::from_secs(120),
            idle_timeout: Duration::from_secs(30),
            min_rate: 128,
            drain_timeout: Duration::from_secs(20),
            max_blob_bytes: 5 << 40,
            max_stored_bytes: 64 << 40,
            max_staged_bytes: 8 << 40,
            max_open_stages: 10_000,
            metadata: MetadataQuota::default(),
            max_large_uploads: 32,
            max_user_large_uploads: 8,
            keep_versions: 30 * DAY,
            cors_origins: Vec::new(),
            admin_hosts: Vec::new(),
            public_path: String::new(),
            stage_lifetime: DAY,
            max_stage_lifetime: 7 * DAY,
            keep_deleted: 30 * DAY,
            keep_replicas: 366 * DAY,
            keep_removals: 90 * DAY,
            keep_accepted: 30 * DAY,
            data: None,
            prune_interval: HOUR,
            sweep_interval: Duration::from_secs(60),
            deletion_interval: Duration::from_secs(2),
            deletion_settle: Duration::from_secs(15),
        }
    }
}

/// The number of rows that one pruning transaction removes: it holds the database's lock for
/// milliseconds.
const PRUNE_ROWS: u32 = 1_000;

impl ServerConfig {
    pub(crate) fn pace(&self) -> Pace {
        let millis = u64::try_from(self.idle_timeout.as_millis()).unwrap_or(u64::MAX);
        let least = (self.min_rate.saturating_mul(millis) / 1_000).max(1);
        Pace { window: self.idle_timeout, least }
    }

    /// Lowers the bounds of connections, requests and event streams to what fits into `descriptors`, of which some
    /// stay for the database and for files that are written.
    #[must_use]
    pub fn fitted_to_descriptors(self, descriptors: u64) -> Self {
        let all = usize::try_from(descriptors).unwrap_or(usize::MAX);
        let quarter = (all.saturating_sub(RESERVED_DESCRIPTORS) / 4).max(2);
        let max_connections = self.max_connections.min(quarter.saturating_mul(2));
        let max_requests = self.max_requests.min(quarter);
        let taken = RESERVED_DESCRIPTORS + max_connections + max_requests;
        let left = all.saturating_sub(taken);
        Self {
            max_connections,
            max_requests,
            // Each may have a connection of its own.
            max_event_streams: self.max_event_streams.min(left.max(1)),
            ..self
        }
    }

    /// Lowers the bounds of memory to what fits into `bytes` for the whole process: a half for bodies
    /// and answers, a quarter for large uploads, and a quarter for planning large changes.
    #[must_use]
    pub fn fitted_to_memory(self, bytes: u64) -> Self {
        let all = usize::try_from(bytes).unwrap_or(usize::MAX);
        Self {
            max_body_memory: self.max_body_memory.min(all / 2),
            max_large_uploads: self.max_large_uploads.min((all / 4 / LARGE_UPLOAD_BYTES).max(1)),
            plan_memory: self.plan_memory.min(all / 4),
            ..self
        }
    }

    pub(crate) const fn quota(&self) -> Quota {
        Quota {
            stored: self.max_stored_bytes,
            staged: self.max_staged_bytes,
            open_stages: self.max_open_stages,
        }
    }

    /// Returns the bounds below which retention removes rows at `now`.
    #[must_use]
    pub fn retention(&self, now: Timestamp) -> Retention {
        Retention {
            removals_before: now.plus_millis(-millis(self.keep_removals)),
            accepted_before: now.plus_millis(-millis(self.keep_accepted)),
            at_most: PRUNE_ROWS,
        }
    }
}

/// Converts a duration to milliseconds, the unit of [`Timestamp`].
pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_fit_the_descriptors_with_a_reserve() {
        let fitted = |descriptors| {
            let config = ServerConfig::default().fitted_to_descriptors(descriptors);
            (config.max_connections, config.max_requests, config.max_event_streams)
        };
        assert_eq!(fitted(1_024), (448, 224, 224));
        assert_eq!(fitted(20_000), (4_096, 1_024, 14_752));
        assert_eq!(fitted(1 << 20), (4_096, 1_024, 20_000));
        assert_eq!(fitted(0), (4, 2, 1));
    }

    #[test]
    fn bounds_fit_the_memory() {
        let fitted = |bytes| {
            let config = ServerConfig::default().fitted_to_memory(bytes);
            (config.max_body_memory / MIB, config.max_large_uploads)
        };
        assert_eq!(fitted(384 << 20), (192, 4));
        assert_eq!(fitted(1 << 40), (512, 32));
        assert_eq!(fitted(1 << 20), (0, 1));
    }
}
