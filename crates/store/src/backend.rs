//! The trait of a store, how a back end runs commands, and the back ends by name.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use vfs_sync_core::id::{BlobId, UserId};
use vfs_sync_core::time::Timestamp;

use crate::command::maintenance::{Pruned, Retention};
use crate::command::versions::BlobRow;
use crate::command::{Call, Command, Decides, Reply};
use crate::error::{Result, StoreError};
use crate::postgres::PostgresStore;
use crate::sqlite::SqliteStore;

/// The server's metadata. Each call is one transaction: all of it happens, durably, or none.
///
/// Every operation is a method of `dyn MetadataStore`, and a value, a [`Call`], for whoever treats all
/// alike: a proxy, a recorder, a test's faults. A `now` is the server's clock; a back end has none.
#[async_trait]
pub trait MetadataStore: Send + Sync + 'static {
    /// Runs one operation; the reply is the one of the same name.
    ///
    /// # Errors
    /// [`StoreError`]: nothing was changed.
    async fn call(&self, call: Call) -> Result<Reply, StoreError>;
}

impl dyn MetadataStore + '_ {
    /// Returns [`Self::readable_blobs`] of one blob.
    ///
    /// # Errors
    /// As [`Self::readable_blobs`].
    pub async fn readable_blob(&self, user: &UserId, blob_id: &BlobId) -> Result<Option<BlobRow>> {
        let found = self.readable_blobs(user, vec![blob_id.clone()]).await?;
        Ok(found.into_iter().next().flatten())
    }

    /// Removes what retention no longer keeps; to be repeated until it removes nothing.
    ///
    /// # Errors
    /// As [`Self::prune_removals`] and [`Self::prune_accepted`].
    pub async fn prune(&self, retention: Retention) -> Result<Pruned> {
        let removals = self.prune_removals(retention).await?;
        let accepted = self.prune_accepted(retention).await?;
        Ok(Pruned { removals, accepted })
    }
}

/// The three ways in which a back end runs commands.
pub(crate) trait Backend {
    /// Runs a command that changes nothing, on a snapshot.
    async fn reads<C: Command>(&self, command: C) -> Result<C::Answer>;

    /// Runs a command in a transaction.
    async fn writes<C: Command>(&self, command: C) -> Result<C::Answer>;

    /// Runs a command that may be decided on a snapshot, and written later.
    async fn decides<C: Decides>(&self, command: C) -> Result<C::Answer> {
        self.writes(command).await
    }
}

fn is_postgres(database: &str) -> bool {
    database.starts_with("postgres://") || database.starts_with("postgresql://")
}

/// Opens `database`: PostgreSQL for a `postgres://` URL, else the SQLite file at that path.
/// Makes or migrates the schema where needed; `now` begins an epoch: this program cannot know
/// whether the database is the one that it last wrote to.
///
/// # Errors
/// [`StoreError`] if it cannot be opened, or is of a newer version.
pub async fn open(database: &str, now: Timestamp) -> Result<Arc<dyn MetadataStore>, StoreError> {
    if is_postgres(database) {
        return Ok(Arc::new(PostgresStore::connect(database, now).await?));
    }
    Ok(Arc::new(SqliteStore::open(Path::new(database), now)?))
}

/// Brings `database` to this program's schema, making it where it is missing; returns the schema's
/// version. `now` begins the epoch of a new database.
///
/// # Errors
/// As [`open`].
pub async fn migrate(database: &str, now: Timestamp) -> Result<i64, StoreError> {
    if is_postgres(database) {
        return PostgresStore::migrate(database, now).await;
    }
    SqliteStore::migrate(Path::new(database), now)
}
