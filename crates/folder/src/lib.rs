//! Keeps a directory of this machine in step with a folder of a replica.
//!
//! An [`import`] makes the directory's changes edits of the replica, an [`export`] writes the tree's changes to
//! the directory. Both compare their side with the rows of the directory's [`record`], which say how both
//! sides were when they were last in step: what differs from its row has changed, and what neither side may
//! replace is kept beside the other. `vfs-sync up` calls the two in turn.

pub mod aside;
mod decision;
mod destination;
pub mod disk;
pub mod error;
pub mod export;
pub mod ignore;
pub mod import;
pub mod intents;
pub mod marker;
pub mod merge;
pub mod record;
pub mod report;
pub mod scan;
pub mod scope;
pub mod seam;
pub mod watcher;

pub use self::error::{Error, Result};
