//! Values that an application reads: the confirmed state with the queue applied on top, and the trash.

use vfs_sync_core::access::{AccessLevel, Principal};
use vfs_sync_core::id::{ItemId, UserId};
use vfs_sync_core::item::{Name, ObjectType};
use vfs_sync_core::operation::Operation;
use vfs_sync_core::time::Timestamp;
pub use vfs_sync_core::tree::{Node, NodeContent};
use vfs_sync_core::wire::PushReason;
use vfs_sync_core::wire::trash::{TrashedItem, TrashedParent};

/// An item under a container, with the name that it has among its siblings.
#[derive(Debug, Clone, PartialEq)]
pub struct Child {
    /// Unique among the siblings, the same on every replica.
    pub name: String,
    /// True if it is in another owner's tree than its container, which only links to it.
    pub shortcut: bool,
    /// The item with that name.
    pub node: Node,
}

/// An item met on a walk through the tree.
#[derive(Debug, Clone, PartialEq)]
pub struct TreeEntry {
    /// `/`-separated names from where the walk began, without a leading `/`.
    pub path: String,
    /// 0 for what hangs where the walk began.
    pub depth: usize,
    /// The container on this path; `None` at the top.
    pub parent: Option<ItemId>,
    /// True if it is in another owner's tree than that container: the walk does not go through it.
    pub shortcut: bool,
    /// The path on which the walk went through it, if it is a container that was met before: its
    /// children are there, and not met again. An empty path is the start of the walk, which a cycle
    /// leads back to.
    pub linked_again: Option<String>,
    /// The item that was met.
    pub node: Node,
}

/// A grant on an item, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The principal that has the grant.
    pub principal: Principal,
    /// The level that it gives.
    pub level: AccessLevel,
    /// True while the grant is on its way to the server.
    pub pending: bool,
}

/// Somebody who may read an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reader {
    /// The principal that may read it.
    pub principal: Principal,
    /// The highest level that is known of.
    pub level: AccessLevel,
    /// The item that the grant is on: this one, or a container above it.
    pub through: ItemId,
}

/// The stage of a queued operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QueuedState {
    /// The operation is to be pushed.
    Pending,
    /// The server has decided it; no pull that covers it has settled yet.
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
    /// The stage that it is in.
    pub state: QueuedState,
}

/// An operation that the server refused for good.
#[derive(Debug, Clone, PartialEq)]
pub struct RejectedOp {
    /// The operation as it was sent.
    pub operation: Operation,
    /// The server's reason, if it gave one.
    pub reason: Option<PushReason>,
    /// More detail from the server.
    pub detail: Option<String>,
}

/// A deleted item that can be restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trashed {
    /// The id of the item.
    pub item: ItemId,
    /// The type that it had.
    pub object_type: ObjectType,
    /// The name that it had; `None` if it had none, or an encrypted one.
    pub name: Option<Name>,
    /// The owner of the item.
    pub owner: UserId,
    /// The names from the top of the tree down to the item, as far as the user may see them. An item
    /// without a name stands there with its id.
    pub path: Vec<String>,
    /// The time of the deletion: by the server's clock, or by this device's while it is pending.
    pub deleted_at: Timestamp,
    /// The user who deleted it.
    pub deleted_by: UserId,
    /// The bytes of its content; `None` if it had none.
    pub size: Option<u64>,
    /// The time at which the server removes it for good; `None` while the deletion is pending.
    pub expires_at: Option<Timestamp>,
    /// True while the deletion is on its way to the server.
    pub pending: bool,
}

/// The result of emptying the trash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Emptied {
    /// Items that were removed for good.
    pub purged: u64,
    /// Items that stay, since only their owners may remove them.
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

/// A step of a path.
pub(crate) fn step(name: Option<&Name>, id: &ItemId) -> String {
    name.map_or_else(|| id.to_string(), |name| name.as_str().to_owned())
}
