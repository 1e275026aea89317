//! The reasons why a transaction fails.

/// A result whose error, unless it says otherwise, is the store's.
pub(crate) type Result<T, E = StoreError> = std::result::Result<T, E>;

/// The reason why a transaction did not go through; it changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database has no room left. A retry helps once there is some.
    #[error("the database has no room: {0}")]
    Full(String),
    /// The database cannot be reached or is busy: a retry may help.
    #[error("the database is unavailable: {0}")]
    Unavailable(String),
    /// Other transactions were in the way each time that it ran: a retry may help.
    #[error("the database is unavailable: transactions were in each other's way")]
    Conflict,
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
        /// The column, and what is wrong with it.
        reason: String,
    },
    /// The database was written by a newer version.
    #[error("the database has schema version {found}, this program knows {known}: use a newer one")]
    NewerSchema {
        /// The version of the database.
        found: i64,
        /// The version of this program.
        known: i64,
    },
    /// The database claims this schema, but lacks a part of it.
    #[error("the database has lost its table {table}")]
    MissingTable {
        /// The name of the table.
        table: String,
    },
    /// The database shows an earlier state than it did before: it was restored under the server.
    #[error("the database is older than what was answered from it")]
    WentBack,
    /// The database refused for a reason that a retry does not mend.
    #[error("the database failed: {0}")]
    Failed(String),
}
