//! The server's metadata: operations as commands, and the back ends that run them.
//!
//! [`MetadataStore`] is the interface that the server needs. [`sqlite::SqliteStore`] is the default
//! (one file, one writer that groups concurrent pushes into one commit),
//! [`postgres::PostgresStore`] lets any number of servers share one database,
//! `memory::MemoryStore` is for tests (feature `memory`). [`command`] has the operations: each loads rows, lets
//! `vfs_sync_core` decide, and writes the result. `topics` has the interface that they need of a
//! back end: rows, locks and batches.

mod backend;
pub mod backup;
pub mod command;
mod encoding;
mod error;
mod examination;
#[cfg(feature = "memory")]
pub mod memory;
mod moves;
mod open;
pub mod postgres;
pub mod sqlite;
#[cfg(all(feature = "testing", unix))]
pub mod testing;
mod topics;
mod values;

pub use command::{Call, Capacity, MetadataStore, Own, Reply};
pub use error::StoreError;
pub use examination::{
    ChargeCounts, ChargePlace, DatabaseFacts, Extent, FeedExamined, Findings, HeldCounts,
    ItemsExamined, ItemsOf, MalformedRow, OldestRows, ServerFacts, Standby, examine,
};
pub use moves::{Announcements, FeedHeads, HeadObserver, MovedHead};
pub use open::{SchemaVersion, migrate, open, open_to_read, open_within};
pub use vfs_sync_core::server::feed_window::{PullRequest, Rematerialize};
pub use vfs_sync_core::server::push::{DerivedFault, MetadataQuota, MetadataUsage};
pub use vfs_sync_core::server::stage::{
    Advance, NewStage, NewUpload, OverQuota, Quota, UploadReplacement, UploadRow, Usage,
};

pub use values::{
    AbandonAnswer, Admission, AllowAnswer, BlobRecord, BlobRow, BlobSummary, DeleteAnswer,
    DeviceChange, FeedPage, Identity, ItemRecord, KEPT_VERSIONS, MAX_COUNTED, MAX_HOLD,
    MAX_TRASH_ITEMS, MalformedState, Pruned, PullAnswer, PurgeAnswer, PushAnswer, Reclaim,
    ReconcileAnswer, RenewAnswer, RestoreAnswer, Retention, SignInAnswer, StageAnswer, StageRecord,
    Totals, TrashCursor, TrashListing, UploadAccess, UploadAnswer, UserChange, pseudonym,
};
