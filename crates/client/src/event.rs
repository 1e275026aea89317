//! Events and reports of the client, for the application.

use vfs_sync_core::access::AccessLevel;
use vfs_sync_core::client::offer::Offered;
use vfs_sync_core::guardrail::Violation;
use vfs_sync_core::id::{ItemId, OpId, UserId};
use vfs_sync_core::wire::PushReason;

use crate::api::outstanding::Outstanding;
use crate::error::StopReason;

/// A change of the tree, or of the client's own state, that an application may show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeEvent {
    /// An item came into view.
    Appeared(ItemId),
    /// An item's fields, links, grants or content changed.
    Changed(ItemId),
    /// An item is gone.
    Went(ItemId),
    /// An item is no longer for this user to see: a grant or a membership ended, or it moved out of
    /// what is shared. Its content is no longer on this machine.
    Revoked(ItemId),
    /// Somebody shares an item: it came into view under nothing else of its owner's, with all that
    /// hangs under it. Told once a pull has settled, beside what appeared.
    Shared {
        /// The id of the item.
        item_id: ItemId,
        /// The owner of the item.
        owner: UserId,
        /// The level that this user has on it.
        level: AccessLevel,
    },
    /// The server refused an operation; it is in the rejected list.
    Rejected {
        /// The id of the operation.
        op_id: OpId,
        /// The item that it edits.
        item_id: ItemId,
        /// The server's reason, if it gave one.
        reason: Option<PushReason>,
    },
    /// An operation was superseded by a newer write. It is shown until a pull brings that one.
    Outdated {
        /// The id of the operation.
        op_id: OpId,
        /// The item that it edits.
        item_id: ItemId,
        /// The server's reason, if it gave one.
        reason: Option<PushReason>,
    },
    /// An item that this replica deleted lives on or comes back: somebody changed it, or something in
    /// it, in a way that this replica had not seen. Of what was deleted long ago (4,096 items later) it is
    /// not told that it comes back.
    Kept(ItemId),
    /// An item that was moved into another owner's tree stays where it was: the server refused a part of the
    /// copy, which is in the list of what was rejected, or the item was restored before the move was whole.
    NotMoved(ItemId),
    /// Two contents were written at the same time: the second is kept as an item of its own.
    ConflictedCopy {
        /// The item whose content changed under the writer.
        item_id: ItemId,
        /// The item that has the writer's content.
        copy: ItemId,
    },
    /// The upload of a content was refused for good; its bytes are kept.
    UploadRejected {
        /// The item that it was for.
        item_id: ItemId,
        /// The reason of the refusal.
        reason: String,
    },
    /// Background work cannot continue until somebody renews the token, makes room at the server, or mends what
    /// is damaged there. It keeps trying, and then resumes by itself. Emitted once.
    Paused(StopReason),
    /// Background work resumes after a pause.
    Resumed,
    /// Background work synchronised, and this is still to be sent, or was refused: emitted after every such
    /// sync.
    Outstanding(Outstanding),
    /// Background work stopped until it is started by hand.
    Stopped(StopReason),
    /// A restored server had lost changes that this replica knows: they are queued again, or in the
    /// list of lost changes.
    Offered(Offered),
    /// The tree changed as a whole: it should be read again. A subscriber that was too slow is notified
    /// by its channel instead.
    Rebuilt,
}

/// The progress of the sync that runs and of the downloads under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Operations that the server has acknowledged in this sync.
    pub pushed: u64,
    /// Operations that are still to push.
    pub to_push: u64,
    /// Feed entries applied in this sync.
    pub pulled: u64,
    /// Contents uploaded and attached in this sync.
    pub uploaded: u64,
    /// Contents that are still to upload.
    pub to_upload: u64,
    /// Bytes of content sent in this sync, those of contents that are not whole yet among them.
    pub uploaded_bytes: u64,
    /// Contents downloaded since there was last nothing to download.
    pub downloaded: u64,
    /// Contents that are asked for and still to download.
    pub to_download: u64,
    /// Bytes of content received, those of contents that are not whole yet among them.
    pub downloaded_bytes: u64,
    /// Bytes that are still to be received.
    pub to_download_bytes: u64,
}

/// The result of a sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SyncReport {
    /// Operations that were applied, now or before.
    pub applied: u64,
    /// Operations that were superseded by a newer write.
    pub outdated: u64,
    /// Operations that were refused, in the rejected list now.
    pub rejected: u64,
    /// The number of feed entries applied.
    pub pulled: u64,
    /// The number of contents attached.
    pub uploaded: u64,
    /// Contents that the server cannot take at present: they stay in the queue.
    pub waiting: u64,
    /// Bytes of content uploaded.
    pub uploaded_bytes: u64,
    /// The number of pushes made.
    pub pushes: u64,
    /// The number of pages pulled.
    pub pages: u64,
    /// True if the replica was rebuilt from the server's state.
    pub rematerialised: bool,
    /// Changes that the server had lost, and that were queued again or listed.
    pub offered: Offered,
}

/// Receives violations and progress. A panic in an observer does not change what the client does.
pub trait Observer: Send + Sync + 'static {
    /// A guardrail failed: called once for each violation, before the call returns its error.
    fn violation(&self, violation: &Violation) {
        let _ = violation;
    }

    /// A long call went on.
    fn progress(&self, progress: &Progress) {
        let _ = progress;
    }
}
