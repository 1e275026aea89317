//! What an application reads: the confirmed state with the queue applied on top.

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
    /// Whether it is in another owner's tree than its container: a place to find it.
    pub shortcut: bool,
    /// The item.
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
    /// Whether it is in another owner's tree than that container: the walk does not go through it.
    pub shortcut: bool,
    /// Where the walk went through it, if it is a container that was met before: what hangs under it
    /// is there, and not met again. Empty: where the walk began, which a circle leads back to.
    pub linked_again: Option<String>,
    /// The item.
    pub node: Node,
}

/// A grant on an item, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// To whom.
    pub principal: Principal,
    /// How much.
    pub level: AccessLevel,
    /// Whether it is still on its way to the server.
    pub pending: bool,
}

/// Somebody who may read an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reader {
    /// Who.
    pub principal: Principal,
    /// The highest level that is known of.
    pub level: AccessLevel,
    /// What the grant is on: the item itself, or a container above it.
    pub through: ItemId,
}

/// How far a queued operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QueuedState {
    /// To be pushed.
    Pending,
    /// The server has decided it; no pull that tells what came of it has settled yet.
    Acknowledged,
}

/// An operation in the queue.
#[derive(Debug, Clone, PartialEq)]
pub struct QueuedOp {
    /// The operation.
    pub operation: Operation,
    /// How far it is.
    pub state: QueuedState,
}

/// An operation that the server refused for good.
#[derive(Debug, Clone, PartialEq)]
pub struct RejectedOp {
    /// The operation as it was sent.
    pub operation: Operation,
    /// Why.
    pub reason: Option<PushReason>,
    /// What more the server told.
    pub detail: Option<String>,
}
