//! Opens back ends by name: the only module that knows them all.

use std::path::Path;
use std::sync::Arc;

use vfs_sync_core::time::Timestamp;

use crate::command::MetadataStore;
use crate::error::StoreError;
use crate::postgres::PostgresStore;
use crate::sqlite::SqliteStore;

fn is_postgres(database: &str) -> bool {
    database.starts_with("postgres://") || database.starts_with("postgresql://")
}

/// Opens `database`: PostgreSQL for a `postgres://` URL, else the SQLite file at that path. Creates
/// or migrates the schema if needed. `now` begins an epoch: this program cannot know whether the
/// database is the one that it last wrote to.
///
/// # Errors
/// [`StoreError`] if it cannot be opened, or was written by a newer version.
pub async fn open(database: &str, now: Timestamp) -> Result<Arc<dyn MetadataStore>, StoreError> {
    if is_postgres(database) {
        return Ok(Arc::new(PostgresStore::connect(database, now).await?));
    }
    Ok(Arc::new(SqliteStore::open(Path::new(database), now)?))
}

/// Migrates `database` to this program's schema, or creates the schema if it is missing; returns
/// the schema's version. `now` begins the epoch of a new database.
///
/// # Errors
/// As [`open`].
pub async fn migrate(database: &str, now: Timestamp) -> Result<i64, StoreError> {
    if is_postgres(database) {
        return PostgresStore::migrate(database, now).await;
    }
    SqliteStore::migrate(Path::new(database), now)
}
