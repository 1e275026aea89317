//! The runtime that an application embeds: a durable replica of a user's tree that is read and
//! edited offline and converges with the user's other replicas through a server.
//!
//! A [`SyncClient`] is made over a replica (a SQLite file with a directory of contents beside it,
//! or memory) and a [`Transport`]. Reading and editing the tree are local and synchronous: an
//! edit is durable when the call returns and visible at once. [`SyncClient::sync`] and the calls
//! that move contents are asynchronous, safe to cancel at any point, and go on where they were
//! cut off.
//!
//! What breaks the protocol stops the client with a [`Violation`]; nothing of the offending
//! answer is applied.

mod api;
mod builder;
mod client;
mod config;
mod content;
mod directory;
mod environment;
mod error;
mod event;
mod lock;
mod replica;
mod sync;
pub mod transport;

pub use api::*;
pub use builder::ClientBuilder;
pub use client::{Status, SyncClient, report_violation};
pub use config::ClientConfig;
pub use content::{CacheUsage, Fetched, LocalContent, StoredContent, TakenContent};
pub use environment::{Environment, SystemEnvironment};
pub use error::{ClientError, StopReason};
pub use event::{ChangeEvent, Observer, Progress, SyncReport};
pub use transport::{
    HttpConfig, HttpTransport, StaticToken, TokenProvider, Transport, TransportError, TransportExt,
};
pub use vfs_sync_core as core;
pub use vfs_sync_core::guardrail::Violation;
pub use vfs_sync_core::wire::Version;
