//! Faults between a client and a server: of single calls, and of the connections below them.

mod bytes;
mod proxy;
mod transport;

use std::time::Duration;

use vfs_sync_client::TransportError;

pub use proxy::{Direction, Proxy};
pub use transport::FaultyTransport;

/// A fault of a call.
///
/// Uploads and downloads are cut at the given byte. Of every other call, the answer is JSON, and
/// the request is cut as a whole.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// Rejects the call with this error; the call does not reach the server.
    Refuse(TransportError),
    /// Drops the request; the caller gets a network error.
    DropRequest,
    /// Executes the call, and drops its answer.
    DropAnswer,
    /// Delays the request by this time, on tokio's clock.
    Delay(Duration),
    /// Delivers the request twice and returns the second answer. A download is made twice.
    Duplicate,
    /// Returns a network error to the caller, and delivers the call after the next one.
    Reorder,
    /// Cuts the request after this many bytes.
    CutRequest(u64),
    /// Changes the byte after this many bytes of the request's contents. A call without contents is
    /// passed on.
    DamageRequest(u64),
    /// Executes the call, and cuts its answer after this many bytes.
    CutAnswer(u64),
    /// Executes the call, and ends its answer after this many bytes as if it were complete.
    TruncateAnswer(u64),
    /// Executes the call, and changes the byte of its answer after this many bytes.
    DamageAnswer(u64),
    /// Returns an earlier answer of the same kind of call instead of delivering the call: 1 is the
    /// last answer. If there is none, or it was a download, the call is passed on.
    Stale(usize),
}

fn lost() -> TransportError {
    TransportError::network("the line was cut")
}
