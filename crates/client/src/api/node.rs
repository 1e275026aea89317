//! Values that an application reads: the confirmed state with the queue applied on top.

use vfs_sync_core::access::{AccessLevel, Principal};
use vfs_sync_core::id::ItemId;
use vfs_sync_core::operation::Operation;
pub use vfs_sync_core::tree::{Node, NodeContent};
use vfs_sync_core::wire::PushReason;

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
