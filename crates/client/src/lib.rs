//! The runtime that an application embeds: a durable replica of a user's tree. The application
//! reads and edits it offline, and it converges with the user's other replicas through a server.
//!
//! A [`SyncClient`] is built over a replica (a SQLite file with a directory of contents beside it,
//! or memory) and a [`Transport`]:
//!
//! ```no_run
//! use vfs_sync_client::core::{id::UserId, item::Name};
//! use vfs_sync_client::{ClientError, StaticToken, SyncClient};
//!
//! # async fn first_steps() -> Result<(), Box<dyn std::error::Error>> {
//! let client = SyncClient::http("https://sync.example.org", StaticToken::new("token"))?
//!     .create("replica", UserId::new("alice")?)?; // the next time: open("replica")
//!
//! // Durable when the call returns and visible at once, online or not.
//! let photos = client.get_or_create_folder(None, Name::new("Photos")?)?;
//! let sea = client.create_file(Some(&photos), Name::new("sea.jpg")?)?;
//! client.item(&sea).put(&b"bytes"[..])?;
//! assert_eq!(client.resolve("/Photos/sea.jpg")?.id, sea);
//!
//! // Pushes the queue, pulls until settled, uploads contents.
//! match client.sync().await {
//!     Ok(report) => println!("{} applied, {} pulled", report.applied, report.pulled),
//!     Err(ClientError::Violation(violation)) => println!("stopped: {}", violation.signature()),
//!     Err(other) => println!("later: {other}"),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Reading and editing the tree are local and synchronous. [`SyncClient::sync`] and the calls that
//! move contents are asynchronous, safe to cancel at any point, and resume where they were cut off.
//!
//! An answer that breaks the protocol stops the client with a [`Violation`]; nothing of it is
//! applied.

#![cfg_attr(
    target_family = "wasm",
    allow(dead_code, unused_imports, reason = "a page has no disk: what is for one is not used")
)]

mod api;
mod client;
mod config;
mod content;
mod device;
mod environment;
mod error;
mod event;
mod host;
mod lock;
mod replica;
#[cfg(not(target_family = "wasm"))]
pub mod sign_in;
mod sync;
pub mod transport;

pub use api::*;
pub use client::builder::ClientBuilder;
pub use client::{Status, SyncClient, report_violation};
pub use config::ClientConfig;
pub use content::{CacheUsage, DraftContent, Fetched, LocalContent, StoredContent, TakenContent};
pub use device::{BoundDevice, Device};
pub use environment::{Environment, SystemEnvironment};
pub use error::{ClientError, Failing, Result, StopReason};
pub use event::{ChangeEvent, ItemChange, Observer, Progress, ShownItem, SyncReport, TreeChange};
pub use replica::exports::{ExportedCounts, GoodExport};
#[cfg(not(target_family = "wasm"))]
pub use replica::inspection::{Inspection, QueuedUpload, SyncState};
pub use sync::connection::{Connection, Connectivity, PollingReason};
pub use sync::live::Hints;
pub use transport::{
    HttpConfig, HttpTransport, StaticToken, TokenProvider, Transport, TransportError, TransportExt,
};
pub use vfs_sync_core as core;
pub use vfs_sync_core::guardrail::Violation;
pub use vfs_sync_core::wire::Version;
