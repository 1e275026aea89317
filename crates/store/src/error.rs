//! The reasons why a transaction fails.

use vfs_sync_core::server::stage::OverQuota;

/// A result whose error, unless it says otherwise, is the store's.
pub(crate) type Result<T, E = StoreError> = std::result::Result<T, E>;

/// The reason why a transaction failed; it changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database is full. A retry helps once there is space.
    #[error("the database has no room: {0}")]
    Full(String),
    /// The database cannot be reached or is busy: a retry may help.
    #[error("the database is unavailable: {0}")]
    Unavailable(String),
    /// It would show others more than one transaction can; a retry does not help.
    #[error("the consequences are too many for one transaction")]
    TooManyConsequences,
    /// Planning what it changes takes more memory than the store may use: a retry helps once the
    /// store may use more.
    #[error("a change takes more memory than the server has for one: give it more (--memory)")]
    NoMemory,
    /// It would be more than the owner of a realm may have.
    #[error("the quota {} is used up", over.limit)]
    OverQuota {
        /// True if the quota is the caller's own.
        own: bool,
        /// The quota that would be exceeded.
        over: OverQuota,
    },
    /// Other transactions were in the way each time that it ran: a retry may help.
    #[error("the database is unavailable: transactions were in each other's way")]
    Conflict,
    /// The user was deleted: no push of the user's is applied.
    #[error("the user was deleted")]
    UserDeleted,
    /// The user has too many calls in progress: a retry helps once they are done.
    #[error("the user has too many calls in progress")]
    TooMany,
    /// A row is not of the form that this version writes.
    #[error("the row {key} of {table} is malformed: {reason}")]
    MalformedRow {
        /// The name of the table.
        table: &'static str,
        /// The key of the row.
        key: String,
        /// The column, and its problem.
        reason: String,
    },
    /// The database's URL, or a file that it names, cannot be used. The text has no password.
    #[error("the database's URL: {0}")]
    InvalidUrl(String),
    /// The database was written by a newer version.
    #[error("the database has schema version {found}, this program knows {known}: use a newer one")]
    NewerSchema {
        /// The version of the database.
        found: i64,
        /// The version of this program.
        known: i64,
    },
    /// The database names this schema, but lacks a part of it.
    #[error("the database has lost its table {table}")]
    MissingTable {
        /// The name of the table.
        table: String,
    },
    /// The database shows an earlier state than before: it was restored while the server ran.
    #[error("the database is older than what was answered from it")]
    WentBack,
    /// The database failed for a reason that a retry does not repair.
    #[error("the database failed: {0}")]
    Failed(String),
}
