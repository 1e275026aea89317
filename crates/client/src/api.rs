//! The calls of [`SyncClient`](crate::SyncClient), grouped by subject, and their values.

mod content;
mod directory;
mod edit;
mod item;
pub(crate) mod node;
pub(crate) mod outstanding;
mod path;
mod queue;
pub(crate) mod record;
mod recover;
mod share;
pub(crate) mod state;
mod sync;
mod trash;
mod tree;

pub use content::Contents;
pub use directory::Directories;
pub use edit::{Batch, Delete, MetadataChange};
pub use item::Item;
pub use node::{
    Child, Emptied, Grant, Node, NodeContent, QueuedOp, QueuedState, Reader, RejectedOp, Trashed,
    TreeEntry,
};
pub use outstanding::{LostEntry, Outstanding, RejectedUpload, WaitingUpload};
pub use path::TreePath;
pub use queue::Queue;
pub use record::{
    DirectoryRecord, DiskState, DiskTime, EntryKind, EntryRecord, EntryState, FoundDirectory,
    Intent, IntentKind, ROOT_ENTRY, RecordChange, TreeState,
};
pub use recover::LostChanges;
pub use share::Sharing;
pub use state::{HydrateOutcome, StateExport};
pub use sync::Attempt;
pub use trash::Trash;
pub use tree::{MAX_FOUND, NameIs, Query, QueryCursor, QueryWatch, ResultChange, SortBy};
