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

mod background;
mod backoff;
mod cache;
mod client;
mod content;
mod download;
mod edit;
mod environment;
mod error;
mod event;
mod http;
mod hydrate;
mod node;
mod path;
mod read;
mod record;
mod recover;
mod sending;
mod share;
mod store;
mod sync;
pub mod transport;
mod trash;
mod upload;

pub use cache::CacheUsage;
pub use client::{ClientConfig, Status, SyncClient, report_violation};
pub use content::{LocalContent, StoredContent, TakenContent};
pub use download::Fetched;
pub use edit::{Batch, Delete, MetadataChange};
pub use environment::{Environment, SystemEnvironment};
pub use error::{ClientError, StopReason};
pub use event::{ChangeEvent, Observer, Progress, SyncReport};
pub use http::{HttpConfig, HttpTransport, StaticToken, TokenProvider};
pub use node::{
    Child, Grant, Node, NodeContent, QueuedOp, QueuedState, Reader, RejectedOp, TreeEntry,
};
pub use path::TreePath;
pub use read::{HydrateOutcome, StateExport};
pub use record::{
    DirectoryRecord, DiskState, DiskTime, EntryKind, EntryRecord, EntryState, FoundDirectory,
    ROOT_ENTRY, RecordChange, TreeState,
};
pub use recover::LostEntry;
pub use transport::{Transport, TransportError, TransportExt};
pub use trash::{Emptied, Trashed};
pub use upload::{Outstanding, RejectedUpload, WaitingUpload};
pub use vfs_sync_core as core;
pub use vfs_sync_core::guardrail::Violation;
pub use vfs_sync_core::wire::Version;
