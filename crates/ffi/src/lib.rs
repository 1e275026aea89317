//! The client for other languages. A binding wraps these few types, and gives them the names and
//! the idioms of its language:
//!
//! - [`Client`]: a client with its replica. Its calls are data ([`call`]): JSON text goes in and
//!   comes out, so a new call needs nothing from a binding but its name and its types.
//! - [`Subscription`]: a stream of changes, events, sync states or results of a query.
//! - [`ContentReader`] and [`ContentWriter`]: contents as streams of bytes.
//! - [`Violations`]: the violations of guardrails so far.
//! - [`ForeignTransport`]: a transport of the host language, alone or around the one over HTTP.
//!
//! All of them own what they need and may be dropped in any order, on any thread. A call that is
//! asynchronous runs on a runtime of this crate, and its future may be polled by any executor;
//! dropping it cancels the call. Every failure is an [`Error`] with a code, a panic too.

pub mod call;
mod client;
mod content;
mod environment;
mod error;
pub mod query;
mod runtime;
mod stream;
mod transport;
mod value;

pub use client::{Client, ClientOptions, Mode, Server, TestOptions};
pub use content::{ContentReader, ContentWriter, PutOptions};
pub use error::{Error, ErrorCode};
pub use runtime::{Cancellation, Task, spawn};
pub use stream::{Subscription, Violations};
pub use transport::{ForeignAnswer, ForeignCall, ForeignTransport};
pub use vfs_sync_client::core::time::Timestamp;
#[cfg(target_family = "wasm")]
pub use vfs_sync_client::transport::{Fetch, FetchRequest, FetchResponse, PageFetch};
pub use vfs_sync_client::{StaticToken, TokenProvider};

/// The result of a call.
pub type Result<T> = std::result::Result<T, Error>;
