//! The operations that the benchmarks push: files created in folders, as an import makes them.

use vfs_sync_core::id::{ItemId, OpId, ReplicaId, WriteId};
use vfs_sync_core::item::{Name, ObjectType};
use vfs_sync_core::operation::{Action, Operation, Upsert};
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::PushRequest;

/// The form of item ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ids {
    /// Ids ordered by time, as this project generates them.
    UuidV7,
    /// Ids in random order: the worst case for an index.
    Random,
}

impl Ids {
    fn make(self) -> String {
        match self {
            Self::UuidV7 => uuid::Uuid::now_v7().to_string(),
            Self::Random => {
                // The halves of a v7 id are swapped and hashed, which destroys the order.
                let id = uuid::Uuid::now_v7();
                let hash = blake3::hash(id.as_bytes());
                uuid::Uuid::from_slice(&hash.as_bytes()[..16]).unwrap_or(id).to_string()
            }
        }
    }
}

/// A replica's stream of creations: a folder, then files in it.
pub(crate) struct Workload {
    replica: ReplicaId,
    next: u64,
    folder: ItemId,
    ids: Ids,
}

impl Workload {
    /// Creates a stream for `replica`.
    pub(crate) fn new(replica: &str, ids: Ids) -> Self {
        let replica = ReplicaId::new(replica).expect("an id");
        let folder = ItemId::new(ids.make()).expect("an id");
        Self { replica, next: 0, folder, ids }
    }

    /// Returns the next push of `count` operations.
    pub(crate) fn push(&mut self, count: usize) -> PushRequest {
        let operations = (0..count).map(|_| self.operation()).collect();
        PushRequest { client_id: self.replica.clone(), operations }
    }

    fn operation(&mut self) -> Operation {
        self.next += 1;
        let millis = 1_790_000_000_000 + i64::try_from(self.next).unwrap_or(0);
        let id = ItemId::new(self.ids.make()).expect("an id");
        let folder = self.next % 100 == 1;
        let upsert = Upsert {
            object_type: Some(if folder { ObjectType::Folder } else { ObjectType::File }),
            name: Name::new(format!("file-{:08}.txt", self.next)).ok(),
            metadata: [
                ("mtime".into(), Some("2026-03-01T09:00:00.000Z".into())),
                ("mode".into(), Some(420.into())),
            ]
            .into(),
            encrypted: None,
            parent: (self.next > 1).then(|| self.folder.clone()),
        };
        if folder {
            self.folder = id.clone();
        }
        Operation {
            op_id: OpId::new(uuid::Uuid::now_v7().to_string()).expect("an id"),
            item_id: id,
            replica_id: self.replica.clone(),
            write_id: WriteId::new(self.next).expect("a small number"),
            occurred_at: Timestamp::from_millis(millis).expect("a time of this century"),
            basis: None,
            action: Action::Upsert(Box::new(upsert)),
        }
    }
}
