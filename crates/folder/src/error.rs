//! The reasons why an import or export ends before its end.

use std::io;
use std::path::PathBuf;

use vfs_sync_client::ClientError;

/// The reason why an import, an export or a merge failed.
///
/// A single entry that cannot be read or written is a [`Problem`](crate::report::Problem) instead, and the
/// others go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The replica refused a call or failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The directory cannot be read or written.
    #[error("{what}: {source}")]
    Io {
        /// The step that failed, with its path.
        what: String,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The disk takes no more; what was written stays.
    #[error("cannot write {}: {source}", path.display())]
    DiskFull {
        /// The entry that was being written.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// Another export is writing to the directory.
    #[error("another export is writing to {}", .0.display())]
    Busy(PathBuf),
    /// The directory is not the one that was imported before.
    #[error("{} is not the directory that was imported: nothing was written", .0.display())]
    NotImported(PathBuf),
    /// Another directory is in the place of the recorded one, so that nothing in it counts as deleted.
    #[error(
        "{} is not the directory that was imported or exported here before: another disk or none \
         is mounted, or it was created again; nothing was deleted, and nothing imported",
        .0.display()
    )]
    Replaced(PathBuf),
    /// A part of the work ended unexpectedly.
    #[error("{0}")]
    Ended(String),
    /// The caller failed at what the engine asked of it.
    #[error(transparent)]
    Caller(Box<dyn std::error::Error + Send + Sync>),
}

/// The result of a call of the engine.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Returns a function that adds the failed step to an I/O error.
    pub(crate) fn io(what: impl std::fmt::Display) -> impl FnOnce(io::Error) -> Self {
        let what = what.to_string();
        move |source| Self::Io { what, source }
    }
}
