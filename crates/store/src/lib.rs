//! The server's metadata: operations as commands, and the back ends that run them.
//!
//! [`MetadataStore`] is what the server needs; [`sqlite::SqliteStore`] is the default (one file, one
//! writer that groups concurrent pushes into one commit), [`postgres::PostgresStore`] lets any number
//! of servers share one database, [`memory::MemoryStore`] is for tests. [`command`] has the operations:
//! each loads rows, has `vfs_sync_core` decide, and writes what follows. `topics` has what they need of
//! a back end: rows, locks and batches.

mod backend;
pub mod command;
mod encoding;
mod error;
pub mod memory;
pub mod postgres;
mod schema;
mod served;
pub mod sqlite;
#[cfg(all(feature = "testing", unix))]
pub mod testing;
mod topics;

pub use backend::{MetadataStore, migrate, open};
pub use command::maintenance::{Identity, MalformedState, Pruned, Retention};
pub use command::pull::{FeedPage, PullAnswer, PullRequest};
pub use command::reclaim::{BlobRecord, BlobSummary, DeleteAnswer, Reclaim, StageRecord};
pub use command::reconcile::ReconcileAnswer;
pub use command::stage::{AbandonAnswer, NewStage, NewUpload, StageAnswer, UploadAnswer};
pub use command::trash::{MAX_TRASH_ITEMS, PurgeAnswer, RestoreAnswer, TrashCursor, TrashListing};
pub use command::upload::{Advance, Anew, OverQuota, Quota, UploadAccess, UploadRow, Usage};
pub use command::versions::{BlobRow, KEPT_VERSIONS};
pub use command::{Call, Own, Reply};
pub use error::StoreError;
