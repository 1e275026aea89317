//! The metadata store of a world, and its backups.

use std::sync::Arc;

use vfs_sync_core::time::Timestamp;
use vfs_sync_store::MetadataStore;

use crate::ledger::Ledger;
use crate::model::Model;
use crate::objects::Objects;

/// What the servers keep their metadata in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StoreKind {
    /// A SQLite file.
    #[default]
    Sqlite,
}

/// The metadata store of one world.
pub(crate) struct Database {
    dir: tempfile::TempDir,
}

/// A copy of all that the servers have.
pub(crate) struct Backup {
    pub(crate) model: Model,
}

impl Database {
    pub(crate) fn new(_: StoreKind) -> Self {
        Self { dir: tempfile::tempdir().expect("a directory") }
    }

    pub(crate) async fn open(&self) -> Arc<dyn MetadataStore> {
        let path = self.dir.path().join("server.db");
        let path = path.to_str().expect("a plain path");
        let now = Timestamp::from_millis(0).expect("1970");
        vfs_sync_store::open(path, now).await.expect("a database")
    }

    /// A copy of all that the servers have, if there can be one.
    pub(crate) async fn back_up(
        &self,
        _: &Arc<dyn MetadataStore>,
        _: &Ledger,
        _: &Objects,
    ) -> Option<Backup> {
        None
    }

    /// The database as it was.
    pub(crate) async fn restore(&self, _: &Backup, _: &Objects) -> Arc<dyn MetadataStore> {
        self.open().await
    }
}
