//! The limits of `serve` on what is shared between users.

use clap::Args;
use vfs_sync_server::{AddressRange, Rate, Rates};

use super::values::{parse_bytes, parse_ttl};

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
    /// The greatest number of event streams, besides the connections
    #[arg(long, value_name = "N", env = "VFS_SYNC_MAX_EVENT_STREAMS", value_parser = parse_count)]
    pub(crate) max_event_streams: Option<usize>,
    /// The greatest number of one user's event streams
    #[arg(
        long,
        value_name = "N",
        env = "VFS_SYNC_MAX_USER_EVENT_STREAMS",
        value_parser = parse_count
    )]
    pub(crate) max_user_event_streams: Option<usize>,
    /// The time after which an event stream that has nothing to send sends a comment
    #[arg(long, value_name = "TIME", env = "VFS_SYNC_EVENTS_KEEPALIVE", value_parser = parse_ttl)]
    pub(crate) events_keepalive: Option<u64>,
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
    /// The rate of a user's requests: so many a second, and after a slash so many at once, or "off"
    #[arg(long, value_name = "RATE", env = "VFS_SYNC_USER_REQUEST_RATE", value_parser = parse_rate)]
    pub(crate) user_request_rate: Option<GivenRate>,
    /// The rate of the operations that a user pushes, and of files in batches
    #[arg(long, value_name = "RATE", env = "VFS_SYNC_USER_OPERATION_RATE", value_parser = parse_rate)]
    pub(crate) user_operation_rate: Option<GivenRate>,
    /// The rate of the bytes that a user sends and takes
    #[arg(long, value_name = "RATE", env = "VFS_SYNC_USER_BYTE_RATE", value_parser = parse_rate)]
    pub(crate) user_byte_rate: Option<GivenRate>,
    /// The rate of requests of an address without a valid token
    #[arg(long, value_name = "RATE", env = "VFS_SYNC_ADDRESS_REQUEST_RATE", value_parser = parse_rate)]
    pub(crate) address_request_rate: Option<GivenRate>,
    /// The rate of the operations of all users of an address
    #[arg(
        long,
        value_name = "RATE",
        env = "VFS_SYNC_ADDRESS_OPERATION_RATE",
        value_parser = parse_rate
    )]
    pub(crate) address_operation_rate: Option<GivenRate>,
    /// The rate of the bytes of all users of an address
    #[arg(long, value_name = "RATE", env = "VFS_SYNC_ADDRESS_BYTE_RATE", value_parser = parse_rate)]
    pub(crate) address_byte_rate: Option<GivenRate>,
    /// The proxies in front of the server, separated by commas: addresses or ranges such as
    /// 10.0.0.0/8. Their X-Forwarded-For names the address of a request
    #[arg(long, value_name = "ADDRS", env = "VFS_SYNC_PROXIES", value_delimiter = ',')]
    pub(crate) proxies: Vec<AddressRange>,
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

impl Limits {
    /// Returns the rates with those that are given in place of the defaults.
    pub(crate) fn rates(&self) -> Rates {
        let default = Rates::default();
        let or = |given: Option<GivenRate>, default| given.map_or(default, |given| given.0);
        Rates {
            user_requests: or(self.user_request_rate, default.user_requests),
            user_operations: or(self.user_operation_rate, default.user_operations),
            user_bytes: or(self.user_byte_rate, default.user_bytes),
            address_requests: or(self.address_request_rate, default.address_requests),
            address_operations: or(self.address_operation_rate, default.address_operations),
            address_bytes: or(self.address_byte_rate, default.address_bytes),
        }
    }
}

/// A rate, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GivenRate(Option<Rate>);

/// Parses the amount of a second and, after a slash, the amount that may come at once: ten times as
/// much if it is not given.
fn parse_rate(text: &str) -> Result<GivenRate, String> {
    if text == "off" {
        return Ok(GivenRate(None));
    }
    let wrong = |_| {
        "must be \"off\", or an amount a second, optionally with K, M or G, and after a \
                     slash the amount at once, such as 100/1000"
            .to_owned()
    };
    let (rate, burst) = match text.split_once('/') {
        Some((rate, burst)) => (rate, Some(burst)),
        None => (text, None),
    };
    let per_second = parse_bytes(rate).map_err(wrong)?;
    let burst = match burst {
        Some(burst) => parse_bytes(burst).map_err(wrong)?,
        None => per_second.saturating_mul(10),
    };
    if per_second == 0 || burst < per_second {
        return Err("must be at least 1 a second, and at once at least that of a second".to_owned());
    }
    Ok(GivenRate(Some(Rate { per_second, burst })))
}

/// Parses a number of things of which one at least is needed.
fn parse_count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=1_000_000) => Ok(count),
        _ => Err("must be a number from 1 to 1000000".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_an_amount_a_second_and_at_once() {
        let rate = |per_second, burst| Ok(GivenRate(Some(Rate { per_second, burst })));
        assert_eq!(parse_rate("100"), rate(100, 1_000));
        assert_eq!(parse_rate("1M/4M"), rate(1 << 20, 4 << 20));
        assert_eq!(parse_rate("off"), Ok(GivenRate(None)));
        for bad in ["", "0", "-1", "10/", "/10", "10/9", "10/20/30", "10/s", "OFF"] {
            assert!(parse_rate(bad).is_err(), "{bad}");
        }
    }
}
