//! The metadata store of a world, and its backups.

use std::sync::Arc;

use vfs_sync_core::time::Timestamp;
use vfs_sync_store::MetadataStore;
use vfs_sync_store::memory::{MemorySnapshot, MemoryStore};
use vfs_sync_testkit::Random;

use crate::infra::disk::Disk;
use crate::infra::objects::{Objects, ObjectsCopy};
use crate::infra::power::ServerDisk;
use crate::oracle::model::Model;

/// The back end for metadata, on servers and devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StoreKind {
    /// A store in memory.
    #[default]
    Memory,
    /// SQLite, on disks that fail.
    Sqlite,
}

/// The metadata store of one world.
pub(crate) enum Database {
    Memory(MemoryStore),
    /// A disk, and the number of copies made of it.
    Sqlite(ServerDisk, u32),
}

/// A copy of everything that the servers store.
pub(crate) struct Backup {
    pub(crate) model: Model,
    metadata: Metadata,
    objects: ObjectsCopy,
}

enum Metadata {
    Memory(Box<MemorySnapshot>),
    Sqlite(Disk),
}

impl Database {
    /// Creates a database; `random` decides the faults of its disk.
    pub(crate) fn new(kind: StoreKind, random: Random) -> Self {
        match kind {
            StoreKind::Memory => {
                Self::Memory(MemoryStore::new(Timestamp::from_millis(0).expect("1970")))
            }
            StoreKind::Sqlite => Self::Sqlite(ServerDisk::new(random), 0),
        }
    }

    pub(crate) fn open(&self) -> Arc<dyn MetadataStore> {
        match self {
            Self::Memory(store) => Arc::new(store.clone()),
            Self::Sqlite(disk, _) => disk.open().expect("a database on a disk that is well"),
        }
    }

    pub(crate) fn disk(&self) -> Option<&ServerDisk> {
        match self {
            Self::Memory(_) => None,
            Self::Sqlite(disk, _) => Some(disk),
        }
    }

    /// Copies everything that the servers store. No transaction is in progress between two steps.
    pub(crate) fn back_up(&mut self, model: Model, objects: &Objects) -> Backup {
        let metadata = match self {
            Self::Memory(store) => Metadata::Memory(Box::new(store.snapshot())),
            Self::Sqlite(disk, copies) => {
                *copies += 1;
                Metadata::Sqlite(disk.copy(&format!("backup-{copies}")))
            }
        };
        Backup { model, metadata, objects: objects.copy() }
    }

    /// Restores the database; objects that the backup had return. No server may be running.
    pub(crate) fn restore(&mut self, backup: &Backup, objects: &Objects) -> Arc<dyn MetadataStore> {
        objects.put_back(&backup.objects);
        match (&mut *self, &backup.metadata) {
            (Self::Memory(store), Metadata::Memory(snapshot)) => {
                *store = MemoryStore::of_snapshot(snapshot);
            }
            (Self::Sqlite(disk, copies), Metadata::Sqlite(copy)) => {
                *copies += 1;
                disk.put_back(copy, &format!("server-{copies}"));
            }
            _ => {}
        }
        self.open()
    }
}
