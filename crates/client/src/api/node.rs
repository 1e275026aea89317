//! Values that an application reads: the confirmed state with the queue applied on top, and the
//! trash.

use vfs_sync_core::access::{AccessLevel, Principal};
use vfs_sync_core::id::{ItemId, UserId};
use vfs_sync_core::item::{Name, ObjectType};
use vfs_sync_core::operation::Operation;
use vfs_sync_core::time::Timestamp;
pub use vfs_sync_core::tree::{Node, NodeContent};
use vfs_sync_core::wire::PushReason;
use vfs_sync_core::wire::trash::{TrashedItem, TrashedParent};

/// An item under a container, with its name among the siblings.
#[derive(Debug, Clone, PartialEq)]
pub struct Child {
    /// The name, unique among the siblings and the same on every replica.
    pub name: String,
    /// True if the item is in another owner's tree than its container, which only links to it.
    pub shortcut: bool,
    /// The item with that name.
    pub node: Node,
}

/// An item that a walk through the tree visits.
#[derive(Debug, Clone, PartialEq)]
pub struct TreeEntry {
    /// The names from the start of the walk to the item, separated by `/`, without a leading `/`.
    pub path: String,
    /// The number of containers between the start of the walk and the item.
    pub depth: usize,
    /// The container on this path; `None` at the top.
    pub parent: Option<ItemId>,
    /// True if the item is in another owner's tree than the container: the walk does not descend
    /// into it.
    pub shortcut: bool,
    /// The path on which the walk descended into this container before, if it did: the walk visited
    /// its children there, and does not visit them again. An empty path is the start of the walk,
    /// to which a cycle leads back.
    pub linked_again: Option<String>,
    /// The item that the walk visits.
    pub node: Node,
}

/// A grant on an item, as the application sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The principal that has the grant.
    pub principal: Principal,
    /// The level that the grant gives.
    pub level: AccessLevel,
    /// True while the grant is not acknowledged by the server.
    pub pending: bool,
}

/// A principal that may read an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reader {
    /// The principal that may read the item.
    pub principal: Principal,
    /// The highest level that this replica knows of.
    pub level: AccessLevel,
    /// The item with the grant: the item itself, or a container above it.
    pub through: ItemId,
}

/// The stage of a queued operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QueuedState {
    /// The operation is to be pushed.
    Pending,
    /// The server has decided the operation; no pull that covers it has settled yet.
    Acknowledged,
    /// The operation deletes the original of a move into another owner's tree: it is to be pushed once
    /// the server has the copy with all its contents.
    Held,
}

/// An operation in the queue.
#[derive(Debug, Clone, PartialEq)]
pub struct QueuedOp {
    /// The operation in the queue.
    pub operation: Operation,
    /// The stage of the operation.
    pub state: QueuedState,
}

/// An operation that the server rejected for good.
#[derive(Debug, Clone, PartialEq)]
pub struct RejectedOp {
    /// The operation as it was sent.
    pub operation: Operation,
    /// The server's reason, if it gave one.
    pub reason: Option<PushReason>,
    /// Further detail from the server.
    pub detail: Option<String>,
}

/// A deleted item that can be restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trashed {
    /// The id of the item.
    pub item: ItemId,
    /// The type of the deleted item.
    pub object_type: ObjectType,
    /// The name of the item; `None` if it had none, or an encrypted one.
    pub name: Option<Name>,
    /// The owner of the item.
    pub owner: UserId,
    /// The names from the top of the tree down to the item, as far as the user may see them. An
    /// item without a name appears with its id.
    pub path: Vec<String>,
    /// The time of the deletion: by the server's clock, or by this device's while it is pending.
    pub deleted_at: Timestamp,
    /// The user who deleted the item.
    pub deleted_by: UserId,
    /// The size of the content in bytes; `None` if the item had none.
    pub size: Option<u64>,
    /// The time at which the server purges the item; `None` while the deletion is pending.
    pub expires_at: Option<Timestamp>,
    /// True while the deletion is not acknowledged by the server.
    pub pending: bool,
}

/// The result of emptying the trash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Emptied {
    /// The number of items that were purged.
    pub purged: u64,
    /// The number of items that stay, because only their owners may purge them.
    pub of_others: u64,
}

impl Trashed {
    pub(crate) fn of_server(found: TrashedItem) -> Self {
        let step = |parent: &TrashedParent| step(parent.name.as_ref(), &parent.item_id);
        let mut path: Vec<String> = found.path.iter().map(step).collect();
        path.push(self::step(found.name.as_ref(), &found.item_id));
        Self {
            item: found.item_id,
            object_type: found.object_type,
            name: found.name,
            owner: found.owner_id,
            path,
            deleted_at: found.deleted_at,
            deleted_by: found.deleted_by,
            size: found.size,
            expires_at: Some(found.expires_at),
            pending: false,
        }
    }
}

/// Returns an item's step in a path.
pub(crate) fn step(name: Option<&Name>, id: &ItemId) -> String {
    name.map_or_else(|| id.to_string(), |name| name.as_str().to_owned())
}
