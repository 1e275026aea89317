//! Contents: the cache on this machine, and the transfers from and to the server.

mod batch_download;
pub(crate) mod cache;
mod download;
mod index;
mod local;
mod upload;

pub use cache::CacheUsage;
pub use download::Fetched;
pub use local::{DraftContent, LocalContent, StoredContent, TakenContent};

pub(crate) use batch_download::{Keep, batch_read};
pub(crate) use cache::is_on_disk;
pub(crate) use download::{cached, download, read};
pub(crate) use local::NewContent;
pub(crate) use upload::{GONE, Outcome, into_requests, send_request};
