//! The metadata store of a world, and its backups.

use std::path::PathBuf;
use std::sync::Arc;

use vfs_sync_core::time::Timestamp;
use vfs_sync_store::MetadataStore;
use vfs_sync_store::memory::{MemorySnapshot, MemoryStore};

use crate::model::Model;
use crate::objects::{Objects, ObjectsCopy};

/// What the servers keep their metadata in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StoreKind {
    /// Memory.
    #[default]
    Memory,
    /// A SQLite file.
    Sqlite,
}

/// The metadata store of one world.
pub(crate) enum Database {
    Memory(MemoryStore),
    /// A directory; the file that is in use; how many there were.
    Sqlite(tempfile::TempDir, PathBuf, u32),
}

/// A copy of all that the servers have.
pub(crate) struct Backup {
    pub(crate) model: Model,
    metadata: Metadata,
    objects: ObjectsCopy,
}

enum Metadata {
    Memory(Box<MemorySnapshot>),
    Sqlite(PathBuf),
}

/// Files that are a database together.
const PARTS: [&str; 2] = ["", "-wal"];

fn with(path: &std::path::Path, part: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(part);
    name.into()
}

impl Database {
    pub(crate) fn new(kind: StoreKind) -> Self {
        match kind {
            StoreKind::Memory => {
                Self::Memory(MemoryStore::new(Timestamp::from_millis(0).expect("1970")))
            }
            StoreKind::Sqlite => {
                let dir = tempfile::tempdir().expect("a directory");
                let path = dir.path().join("server.db");
                Self::Sqlite(dir, path, 0)
            }
        }
    }

    pub(crate) async fn open(&self) -> Arc<dyn MetadataStore> {
        match self {
            Self::Memory(store) => Arc::new(store.clone()),
            Self::Sqlite(_, path, _) => {
                let path = path.to_str().expect("a plain path");
                let now = Timestamp::from_millis(0).expect("1970");
                vfs_sync_store::open(path, now).await.expect("a database")
            }
        }
    }

    fn next(&mut self) -> PathBuf {
        let Self::Sqlite(dir, _, count) = self else { return PathBuf::new() };
        *count += 1;
        dir.path().join(format!("copy-{count}.db"))
    }

    fn copy(from: &std::path::Path, to: &std::path::Path) {
        for part in PARTS.iter().filter(|part| with(from, part).exists()) {
            std::fs::copy(with(from, part), with(to, part)).expect("a copy of a database");
        }
    }

    /// A copy of all that the servers have. No transaction is ever under way between two steps.
    pub(crate) fn back_up(&mut self, model: Model, objects: &Objects) -> Backup {
        let to = self.next();
        let metadata = match self {
            Self::Memory(store) => Metadata::Memory(Box::new(store.snapshot())),
            Self::Sqlite(_, path, _) => {
                Self::copy(path, &to);
                Metadata::Sqlite(to)
            }
        };
        Backup { model, metadata, objects: objects.copy() }
    }

    /// The database as it was; of the objects, what it had comes back. No server may be running.
    pub(crate) async fn restore(
        &mut self,
        backup: &Backup,
        objects: &Objects,
    ) -> Arc<dyn MetadataStore> {
        let to = self.next();
        objects.put_back(&backup.objects);
        match (&mut *self, &backup.metadata) {
            (Self::Memory(store), Metadata::Memory(snapshot)) => {
                *store = MemoryStore::of_snapshot(snapshot);
            }
            (Self::Sqlite(_, path, _), Metadata::Sqlite(from)) => {
                Self::copy(from, &to);
                *path = to;
            }
            _ => {}
        }
        self.open().await
    }
}
