//! Opens back ends by name: the only module that knows them all.

use std::path::Path;
use std::sync::Arc;

use vfs_sync_core::time::Timestamp;

use crate::command::MetadataStore;
use crate::error::StoreError;
use crate::postgres::{self, PostgresStore};
use crate::sqlite::{self, SqliteStore};

/// The least memory for planning one change, in bytes: what one operation takes that shows as much as
/// it may.
const LEAST_PLAN_MEMORY: usize = 512 * 1024 * 1024;

pub(crate) fn is_postgres(database: &str) -> bool {
    database.starts_with("postgres://") || database.starts_with("postgresql://")
}

/// Opens `database`: PostgreSQL for a `postgres://` URL, else the SQLite file at that path. Creates
/// or migrates the schema if needed. `now` begins an epoch: this program cannot know whether the
/// database is the one that it last wrote to. Only of a database with several hosts, of which one
/// does not answer, the present epoch goes on at the place where it began.
///
/// # Errors
/// [`StoreError`] if it cannot be opened, or was written by a newer version.
pub async fn open(database: &str, now: Timestamp) -> Result<Arc<dyn MetadataStore>, StoreError> {
    open_within(database, now, usize::MAX).await
}

/// Opens `database` as [`open`] does. Planning large changes takes at most `plan_memory` bytes, of
/// all that are planned at one time, but of each as much as one operation needs that shows as much
/// as it may. A change that would take more fails with [`StoreError::NoMemory`].
///
/// # Errors
/// As [`open`].
pub async fn open_within(
    database: &str,
    now: Timestamp,
    plan_memory: usize,
) -> Result<Arc<dyn MetadataStore>, StoreError> {
    let of_each = |at_once: usize| (plan_memory / at_once).max(LEAST_PLAN_MEMORY);
    if is_postgres(database) {
        let store = PostgresStore::connect(database, now).await?;
        return Ok(Arc::new(store.plans_within(of_each(postgres::LARGE_AT_ONCE))));
    }
    let store = SqliteStore::open(Path::new(database), now)?;
    Ok(Arc::new(store.plans_within(of_each(sqlite::LARGE_AT_ONCE))))
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

/// The version of a database's schema, beside the one that this program knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchemaVersion {
    /// The version of the database; 0 if it has no schema.
    pub found: i64,
    /// The version that this program writes.
    pub known: i64,
}

/// Opens an existing `database` to read it beside the servers that use it: nothing is migrated, and no
/// epoch begins. Only commands that read may be run.
///
/// Returns no store if the schema is of another version than this program's.
///
/// # Errors
/// [`StoreError`] if it cannot be opened, or lacks a table.
pub async fn open_to_read(
    database: &str,
) -> Result<(SchemaVersion, Option<Arc<dyn MetadataStore>>), StoreError> {
    if is_postgres(database) {
        let (version, store) = PostgresStore::connect_to_read(database).await?;
        let store = (version.found == version.known).then_some(store);
        return Ok((version, store.map(|store| Arc::new(store) as Arc<dyn MetadataStore>)));
    }
    let (version, store) = SqliteStore::open_to_read(Path::new(database))?;
    Ok((version, store.map(|store| Arc::new(store) as Arc<dyn MetadataStore>)))
}
