//! The limits of `serve` on what is shared between users.

use clap::Args;

use super::operator::{parse_bytes, parse_ttl};

/// Limits on connections, requests and memory; what is not given has its default.
#[derive(Debug, Args)]
pub(crate) struct Limits {
    /// The memory that the server plans with: three quarters of the machine's or the container's
    /// by default
    #[arg(long, value_name = "BYTES", env = "VFS_SYNC_MEMORY", value_parser = parse_bytes)]
    pub(crate) memory: Option<u64>,
    /// The greatest size of one user's bodies and answers that are in memory
    #[arg(long, value_name = "BYTES", env = "VFS_SYNC_MAX_USER_MEMORY", value_parser = parse_bytes)]
    pub(crate) max_user_memory: Option<u64>,
    /// The greatest number of connections
    #[arg(long, value_name = "N", env = "VFS_SYNC_MAX_CONNECTIONS", value_parser = parse_count)]
    pub(crate) max_connections: Option<usize>,
    /// The greatest number of requests in progress
    #[arg(long, value_name = "N", env = "VFS_SYNC_MAX_REQUESTS", value_parser = parse_count)]
    pub(crate) max_requests: Option<usize>,
    /// The greatest number of one user's requests in progress
    #[arg(long, value_name = "N", env = "VFS_SYNC_MAX_USER_REQUESTS", value_parser = parse_count)]
    pub(crate) max_user_requests: Option<usize>,
    /// The greatest number of uploads in progress that are too large for memory
    #[arg(long, value_name = "N", env = "VFS_SYNC_MAX_LARGE_UPLOADS", value_parser = parse_count)]
    pub(crate) max_large_uploads: Option<usize>,
    /// The greatest number of one user's such uploads
    #[arg(
        long,
        value_name = "N",
        env = "VFS_SYNC_MAX_USER_LARGE_UPLOADS",
        value_parser = parse_count
    )]
    pub(crate) max_user_large_uploads: Option<usize>,
    /// The time that a request waits for its turn: a number and s, m, h or d
    #[arg(long, value_name = "TIME", env = "VFS_SYNC_QUEUE_WAIT", value_parser = parse_ttl)]
    pub(crate) queue_wait: Option<u64>,
    /// The time for the head of a request, and for the next request on a connection
    #[arg(long, value_name = "TIME", env = "VFS_SYNC_HEAD_TIMEOUT", value_parser = parse_ttl)]
    pub(crate) head_timeout: Option<u64>,
    /// The time for a whole request that streams no contents
    #[arg(long, value_name = "TIME", env = "VFS_SYNC_REQUEST_TIMEOUT", value_parser = parse_ttl)]
    pub(crate) request_timeout: Option<u64>,
    /// The time of waiting for a peer in which it sends or takes bytes at the least rate
    #[arg(long, value_name = "TIME", env = "VFS_SYNC_IDLE_TIMEOUT", value_parser = parse_ttl)]
    pub(crate) idle_timeout: Option<u64>,
    /// The least rate, in bytes a second, of a body that comes and of an answer that is taken
    #[arg(long, value_name = "BYTES", env = "VFS_SYNC_MIN_RATE", value_parser = parse_bytes)]
    pub(crate) min_rate: Option<u64>,
}

/// Parses a number of things of which one at least is needed.
fn parse_count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=1_000_000) => Ok(count),
        _ => Err("must be a number from 1 to 1000000".to_owned()),
    }
}
