//! A builder for the operations of an author.

use std::sync::Arc;

use serde_json::Value;
use vfs_sync_core::access::{AccessLevel, Principal};
use vfs_sync_core::cursor::Cursor;
use vfs_sync_core::id::{ItemId, OpId};
use vfs_sync_core::item::ObjectType;
use vfs_sync_core::operation::{Action, Basis, Operation, Upsert};
use vfs_sync_core::time::Timestamp;

use super::{at, item_id, name, replica_id, write_id};

/// Begins an operation on the item `item`. By default it is the first one of the replica `replica`,
/// written at the start of 1970; its id follows from replica and write id.
#[must_use]
pub fn operation(item: &str) -> OperationBuilder {
    OperationBuilder {
        op_id: None,
        item: item_id(item),
        by: ("replica".into(), 1),
        at: at(0),
        basis: None,
    }
}

/// An operation that still needs its change.
#[derive(Debug, Clone)]
pub struct OperationBuilder {
    op_id: Option<OpId>,
    item: ItemId,
    by: (String, u64),
    at: Timestamp,
    basis: Option<Basis>,
}

impl OperationBuilder {
    /// Sets the operation's id.
    #[must_use]
    pub fn op_id(mut self, id: &str) -> Self {
        self.op_id = Some(OpId::new(id).expect("an operation id"));
        self
    }

    /// Sets the author's replica and write id.
    #[must_use]
    pub fn by(mut self, replica: &str, write_id: u64) -> Self {
        self.by = (replica.to_owned(), write_id);
        self
    }

    /// Sets the time of writing, in milliseconds.
    #[must_use]
    pub fn at(mut self, millis: i64) -> Self {
        self.at = at(millis);
        self
    }

    /// Sets the author's basis; an operation without one comes from an older client.
    #[must_use]
    pub fn basis(mut self, seen: Option<Cursor>) -> Self {
        self.basis = Some(seen.into());
        self
    }

    /// Finishes the operation with `action`.
    #[must_use]
    pub fn sets(self, action: Action) -> Operation {
        let (replica, id) = self.by;
        let op_id = self
            .op_id
            .unwrap_or_else(|| OpId::new(format!("op-{replica}-{id}")).expect("an operation id"));
        Operation {
            op_id,
            item_id: self.item,
            replica_id: replica_id(&replica),
            write_id: write_id(id),
            occurred_at: self.at,
            basis: self.basis,
            action,
        }
    }

    fn upserts(self, upsert: Upsert) -> Operation {
        self.sets(Action::Upsert(Box::new(upsert)))
    }

    /// Creates the item, under `parent` or as a root.
    #[must_use]
    pub fn create(self, object_type: ObjectType, called: &str, parent: Option<&str>) -> Operation {
        self.upserts(Upsert {
            object_type: Some(object_type),
            name: Some(name(called)),
            parent: parent.map(item_id),
            ..Upsert::default()
        })
    }

    /// Sets the item's name.
    #[must_use]
    pub fn rename(self, to: &str) -> Operation {
        self.upserts(Upsert { name: Some(name(to)), ..Upsert::default() })
    }

    /// Sets a metadata key, or removes it.
    #[must_use]
    pub fn metadata(self, key: &str, value: Option<Value>) -> Operation {
        let metadata = std::iter::once((Arc::from(key), value)).collect();
        self.upserts(Upsert { metadata, ..Upsert::default() })
    }

    /// Deletes the item with this operation.
    #[must_use]
    pub fn delete(self) -> Operation {
        self.sets(Action::Delete)
    }

    /// Adds a link that hangs the item under `parent`.
    #[must_use]
    pub fn link(self, parent: &str) -> Operation {
        self.sets(Action::LinkAdd { parent: item_id(parent) })
    }

    /// Removes the link of the item under `parent`.
    #[must_use]
    pub fn unlink(self, parent: &str) -> Operation {
        self.sets(Action::LinkRemove { parent: item_id(parent) })
    }

    /// Moves the item under `parent`.
    #[must_use]
    pub fn move_to(self, parent: &str) -> Operation {
        self.sets(Action::LinkReassign { parent: item_id(parent) })
    }

    /// Gives `principal` a grant on the item.
    #[must_use]
    pub fn grant(self, principal: Principal, level: AccessLevel) -> Operation {
        self.sets(Action::GrantAdd { principal, level })
    }

    /// Removes the grant of `principal` on the item.
    #[must_use]
    pub fn revoke(self, principal: Principal) -> Operation {
        self.sets(Action::GrantRemove { principal })
    }
}
