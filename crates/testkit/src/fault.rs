//! Faults between a client and a server: of single calls, and of the connections below them.

mod bytes;
mod proxy;
mod transport;

use std::time::Duration;

use vfs_sync_client::TransportError;

pub use proxy::{Direction, Proxy};
pub use transport::FaultyTransport;

/// The fault of a call.
///
/// Uploads and downloads are cut at the byte that is named; of every other call, the answer is
/// JSON, and the request is cut as a whole.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// It goes nowhere, and is answered with this.
    Refuse(TransportError),
    /// It does not arrive; the caller hears of a failure of the network.
    DropRequest,
    /// It is done, and its answer is lost.
    DropAnswer,
    /// It arrives after so long, on tokio's clock.
    Delay(Duration),
    /// It arrives twice; the second answer is given. A download is made twice.
    Duplicate,
    /// The caller hears of a failure of the network, and the call arrives behind the next one.
    Reorder,
    /// The request is cut after as many bytes.
    CutRequest(u64),
    /// The byte after as many bytes of the request's contents is replaced. A call without contents
    /// is passed on.
    DamageRequest(u64),
    /// It is done, and its answer is cut after as many bytes.
    CutAnswer(u64),
    /// It is done, and its answer ends after as many bytes as if it was whole.
    TruncateAnswer(u64),
    /// It is done, and the byte of its answer that comes after as many is another one.
    DamageAnswer(u64),
    /// It goes nowhere, and is answered as the call of its kind that many answers ago was: 1 is
    /// the last. If there was none, or it was a download, it is passed on.
    Stale(usize),
}

fn lost() -> TransportError {
    TransportError::network("the line was cut")
}
