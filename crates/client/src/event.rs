//! Events and reports of the client, for the application.

use serde::Serialize;
use vfs_sync_core::access::AccessLevel;
use vfs_sync_core::client::offer::Offered;
use vfs_sync_core::guardrail::Violation;
use vfs_sync_core::id::{ItemId, OpId, UserId};
use vfs_sync_core::wire::PushReason;

use crate::api::node::Node;
use crate::api::outstanding::Outstanding;
use crate::error::StopReason;
use crate::sync::connection::Connection;

/// A change of the tree, or of the client's own state, that an application may show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeEvent {
    /// An item became visible.
    Appeared(ItemId),
    /// An item's fields, links, grants or content changed.
    Changed(ItemId),
    /// An item is deleted.
    Went(ItemId),
    /// An item is no longer visible to this user: a grant or a membership ended, or the item moved
    /// out of a shared folder. Its content is no longer on this machine.
    Revoked(ItemId),
    /// Somebody shares an item: it became visible with everything under it, and has no visible
    /// container of its owner's. Emitted once a pull has settled, in addition to
    /// [`Self::Appeared`].
    Shared {
        /// The id of the item.
        item_id: ItemId,
        /// The owner of the item.
        owner: UserId,
        /// The level that this user has on the item.
        level: AccessLevel,
    },
    /// The server rejected an operation; it is in the rejected list.
    Rejected {
        /// The id of the operation.
        op_id: OpId,
        /// The item that the operation edits.
        item_id: ItemId,
        /// The server's reason, if it gave one.
        reason: Option<PushReason>,
    },
    /// An operation was superseded by a newer write. It stays visible until a pull brings the newer
    /// one.
    Outdated {
        /// The id of the operation.
        op_id: OpId,
        /// The item that the operation edits.
        item_id: ItemId,
        /// The server's reason, if it gave one.
        reason: Option<PushReason>,
    },
    /// An item that this replica deleted stays or comes back: somebody changed the item, or an item
    /// under it, in a way that this replica had not seen. The return of an item that was deleted
    /// more than 4,096 items ago is not reported.
    Kept(ItemId),
    /// An item that was moved into another owner's tree stays where it was: the server refused a part of the
    /// copy, which is in the list of what was rejected, or the item was restored before the move was whole.
    NotMoved(ItemId),
    /// Two contents were written at the same time; the second is kept as a separate item.
    ConflictedCopy {
        /// The item whose content changed under the writer.
        item_id: ItemId,
        /// The item that has the writer's content.
        copy: ItemId,
    },
    /// The upload of a content was rejected for good; its bytes are kept.
    UploadRejected {
        /// The item that the content was for.
        item_id: ItemId,
        /// The reason for the rejection.
        reason: String,
    },
    /// Background work cannot continue until somebody renews the token, makes space at the server,
    /// or repairs damaged data there. It keeps trying, and resumes by itself. Emitted once.
    Paused(StopReason),
    /// Background work resumes after a pause.
    Resumed,
    /// Background work synchronised, and this work is still to be sent or was rejected. Emitted
    /// after every such sync.
    Outstanding(Outstanding),
    /// Changes of others now arrive in another way: at once, at an interval, or not at all. Emitted
    /// by background work.
    Connection(Connection),
    /// Background work stopped until it is started by hand.
    Stopped(StopReason),
    /// A restored server had lost changes that this replica has: they are queued again, or in the
    /// list of lost changes.
    Offered(Offered),
    /// The whole tree may have changed: the application should read it again. A subscriber that was
    /// too slow is notified by its channel instead.
    Rebuilt,
}

/// An item as the replica shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct ShownItem {
    /// The item's fields and content.
    pub node: Node,
    /// The visible containers of the item, by id.
    pub parents: Vec<ItemId>,
    /// The path of the item in the form of [`TreePath`](crate::TreePath), by the names as they were
    /// set: siblings that share a name have one path here, and different ones by
    /// [`SyncClient::path_of`](crate::SyncClient::path_of).
    pub path: String,
}

/// A change of one item.
#[derive(Debug, Clone, PartialEq)]
pub struct ItemChange {
    /// The id of the item.
    pub id: ItemId,
    /// The item before the change; `None` if it was not shown.
    pub before: Option<ShownItem>,
    /// The item after the change; `None` if it is not shown any more.
    pub after: Option<ShownItem>,
    /// True for an edit of this replica.
    pub local: bool,
}

/// A change of the tree as the replica shows it, by an edit of its own or by a pull.
#[derive(Debug, Clone, PartialEq)]
pub enum TreeChange {
    /// A change of one item. The paths of items under it may have changed with it: these are not
    /// reported.
    Item(Box<ItemChange>),
    /// The whole tree may have changed: the application should read it again.
    Rebuilt,
}

/// The progress of the present sync and of the downloads in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// The number of operations that the server has acknowledged in this sync.
    pub pushed: u64,
    /// The number of operations that are still to push.
    pub to_push: u64,
    /// The number of feed entries applied in this sync.
    pub pulled: u64,
    /// The number of contents uploaded and attached in this sync.
    pub uploaded: u64,
    /// The number of contents that are still to upload.
    pub to_upload: u64,
    /// The bytes of content sent in this sync, including those of unfinished uploads.
    pub uploaded_bytes: u64,
    /// The number of contents downloaded since the downloads were last all done.
    pub downloaded: u64,
    /// The number of requested contents that are still to download.
    pub to_download: u64,
    /// The bytes of content received, including those of unfinished downloads.
    pub downloaded_bytes: u64,
    /// The bytes that are still to be received.
    pub to_download_bytes: u64,
}

/// The result of a sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SyncReport {
    /// The number of operations that were applied, now or before.
    pub applied: u64,
    /// The number of operations that were superseded by a newer write.
    pub outdated: u64,
    /// The number of operations that were rejected and moved to the rejected list.
    pub rejected: u64,
    /// The number of feed entries applied.
    pub pulled: u64,
    /// The number of contents attached.
    pub uploaded: u64,
    /// The number of contents that the server cannot take at present; they stay in the queue.
    pub waiting: u64,
    /// The bytes of content uploaded.
    pub uploaded_bytes: u64,
    /// The number of pushes made.
    pub pushes: u64,
    /// The number of pages pulled.
    pub pages: u64,
    /// True if the replica was rebuilt from the server's state.
    pub rematerialised: bool,
    /// The changes that the server had lost, and that were queued again or listed.
    pub offered: Offered,
}

/// Receives violations and progress. A panic in an observer does not change what the client does.
pub trait Observer: Send + Sync + 'static {
    /// Reports a failed guardrail: called once for each violation, before the call returns its
    /// error.
    fn violation(&self, violation: &Violation) {
        let _ = violation;
    }

    /// Reports the progress of a long call.
    fn progress(&self, progress: &Progress) {
        let _ = progress;
    }
}
