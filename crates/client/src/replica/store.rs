//! The values that go through the transactions of a replica.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vfs_sync_core::client::clock::HybridClock;
use vfs_sync_core::client::flush::{FlushCommit, Refused};
use vfs_sync_core::client::offer::Trail;
use vfs_sync_core::content::{RelationKind, Sha256Digest};
use vfs_sync_core::cursor::{Cursor, Epoch};
use vfs_sync_core::id::{BlobId, ItemId, OpId, ReplicaId, StagingId, UserId, WriteId};
use vfs_sync_core::operation::{Action, Basis, Operation, present};
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::telemetry::{MAX_REPORTS, Report};
use vfs_sync_core::wire::{AttachRequest, ReconcileState, WriteIds};

use crate::api::record::RecordChange;
use crate::environment::Environment;
use crate::error::{Failing, StopReason};

/// The small part of a replica's state, which memory holds too.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Meta {
    pub(crate) client_id: ReplicaId,
    pub(crate) user: UserId,
    pub(crate) server: Arc<str>,
    pub(crate) cursor: Option<Cursor>,
    pub(crate) baseline: Option<Cursor>,
    /// The newest head of the pages of a pull that is not settled.
    pub(crate) head: Option<Cursor>,
    /// The epoch of the server's last answer, to which all acknowledgements belong.
    pub(crate) epoch: Option<Epoch>,
    /// True from the first answer of another epoch until a pull has settled: the server may have lost
    /// what the queue builds on.
    pub(crate) unsettled: bool,
    /// The epochs that the cursor passed through.
    pub(crate) trail: Arc<Trail>,
    pub(crate) floor: Arc<WriteIds>,
    /// The state that the last settled pull returned and reconcile sends.
    pub(crate) settled: Option<Arc<ReconcileState>>,
    /// The state that the server has acknowledged and an attach may require.
    pub(crate) reconciled: Option<Arc<ReconcileState>>,
    pub(crate) clock: HybridClock,
    /// The next write id: from 1 to one above the greatest.
    pub(crate) next_write_id: u64,
    pub(crate) stopped: Option<Arc<StopReason>>,
    /// The reason why synchronising has failed since the last success, if it has.
    pub(crate) failing: Option<Arc<Failing>>,
    pub(crate) items: u64,
    /// The number of times that a rebuilt copy was swapped in.
    pub(crate) rebuilds: u64,
    /// The last items that this replica deleted, the oldest first; their return is reported.
    pub(crate) deleted: Arc<Vec<ItemId>>,
    /// True if the replica was created from an exported state and has not settled since, or still
    /// has contents to upload: the same replica may have written changes that this one does not
    /// show.
    pub(crate) copied: bool,
    /// The reports that the server has not taken yet, the oldest first.
    pub(crate) reports: Arc<Vec<Report>>,
}

/// The number of deleted items whose return is reported.
pub(crate) const DELETED_REMEMBERED: usize = 4_096;

impl Meta {
    pub(crate) fn new(client_id: ReplicaId, user: UserId, server: &str) -> Self {
        Self {
            client_id,
            user,
            server: server.into(),
            cursor: None,
            baseline: None,
            head: None,
            epoch: None,
            unsettled: false,
            trail: Arc::default(),
            floor: Arc::default(),
            settled: None,
            reconciled: None,
            clock: HybridClock::default(),
            next_write_id: 1,
            stopped: None,
            failing: None,
            items: 0,
            rebuilds: 0,
            deleted: Arc::default(),
            copied: false,
            reports: Arc::default(),
        }
    }

    /// Keeps a report; beyond [`MAX_REPORTS`] the oldest is dropped.
    pub(crate) fn note_report(&mut self, report: Report) {
        let reports = Arc::make_mut(&mut self.reports);
        reports.push(report);
        let surplus = reports.len().saturating_sub(MAX_REPORTS);
        reports.drain(..surplus);
    }

    /// Returns the applied part of the feed, which an edit made now has seen.
    pub(crate) fn basis(&self) -> Basis {
        self.cursor.clone().into()
    }
}

/// A copy of the registers, to which pages are applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slot {
    /// The copy that is read.
    Current,
    /// The copy that a rematerialisation builds beside it.
    Building,
}

/// The stage of a content's upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum UploadState {
    Queued,
    /// The content is attached, but the feed has not shown it yet.
    Attached,
    /// The content was rejected for good; its bytes are kept until the user decides.
    Rejected,
}

/// A move into another owner's tree, named by the operation that creates the copy.
pub(crate) type MoveId = OpId;

/// A content on its way to the server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Upload {
    /// The position in the order of uploads; 0 until it is queued.
    pub(crate) seq: i64,
    pub(crate) item: ItemId,
    pub(crate) blob_id: BlobId,
    pub(crate) staging_id: StagingId,
    pub(crate) size: u64,
    pub(crate) digest: Sha256Digest,
    pub(crate) content_type: Option<String>,
    /// The time of the bytes; uploads queued by an earlier version have none.
    #[serde(default)]
    pub(crate) modified_at: Option<Timestamp>,
    /// The content that the writer saw before the upload.
    pub(crate) expected: Option<BlobId>,
    /// The content's [`Operation::basis`]; `None` in uploads queued by an older client.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub(crate) basis: Option<Basis>,
    /// The hybrid logical clock's time when it was queued; `None` in uploads queued by an older
    /// client.
    #[serde(default)]
    pub(crate) occurred_at: Option<Timestamp>,
    pub(crate) state: UploadState,
    /// The attach request, once it was sent: a retry sends the same.
    pub(crate) attach: Option<AttachRequest>,
    /// True if the server may have the content although `attach` is `None`: the request was sent in
    /// an earlier epoch of the server.
    #[serde(default)]
    pub(crate) sent: bool,
    /// The reason for the rejection.
    pub(crate) reason: Option<String>,
    /// True if the content is offered again to a server that lost it: it must not bring an item
    /// back.
    #[serde(default)]
    pub(crate) offered: bool,
    /// True if the content has new ids because another upload used the ones under which it was
    /// offered.
    #[serde(default)]
    pub(crate) renewed: bool,
    /// The move whose copy the content belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) moved: Option<MoveId>,
}

/// A content that the server did not take because another one was attached before.
pub(crate) struct Superseded {
    pub(crate) upload: Upload,
    /// The other content, if the server named it.
    pub(crate) current: Option<BlobId>,
}

impl Upload {
    /// Queues the upload anew for another epoch of the server.
    pub(crate) fn send_anew(&mut self) {
        self.sent |= self.attach.take().is_some();
        self.state = UploadState::Queued;
    }

    /// Builds the attach request, which requires the state `at` that the server has acknowledged
    /// for `client_id`.
    pub(crate) fn request(&self, client_id: &ReplicaId, at: &ReconcileState) -> AttachRequest {
        let own = at.last_reconciled_write_ids.get(client_id);
        AttachRequest {
            relation_kind: RelationKind::File,
            client_id: Some(client_id.clone()),
            required_cursor: Some(at.cursor.clone()),
            required_last_reconciled_write_ids: Some(
                own.map(|id| (client_id.clone(), *id)).into_iter().collect(),
            ),
            expected_blob_id: Some(self.expected.clone()),
            modified_at: self.modified_at,
            basis: self.basis.clone(),
            replica_id: Some(client_id.clone()),
            occurred_at: self.occurred_at,
            ..AttachRequest::to(self.item.clone())
        }
    }
}

/// The numbers that `status` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    pub(crate) pending: u64,
    pub(crate) acknowledged: u64,
    pub(crate) rejected: u64,
    pub(crate) uploads: u64,
    pub(crate) rejected_uploads: u64,
    /// The number of changes that a server lost and that could not be offered again.
    pub(crate) lost: u64,
}

/// An action to add to the queue.
#[derive(Debug)]
pub(crate) struct NewEdit {
    /// The operation's id, which is random.
    pub(crate) op_id: OpId,
    pub(crate) item: ItemId,
    pub(crate) action: Action,
    /// True if the operation is sent without a basis, and so applies regardless of what its author
    /// had seen.
    pub(crate) unconditional: bool,
}

/// Edits that enter the queue together.
#[derive(Debug, Default)]
pub(crate) struct NewEdits {
    pub(crate) actions: Vec<NewEdit>,
    /// The contents, each with the id of the operation to queue for it if no other operation edits
    /// the item.
    pub(crate) uploads: Vec<(OpId, Upload)>,
    /// Rows of directories' records.
    pub(crate) records: Vec<(i64, RecordChange)>,
    /// True if the deletions are those of a move: each waits until the server has the copy.
    pub(crate) moves: bool,
}

/// The result of a rematerialisation, to be swapped in.
#[derive(Debug)]
pub(crate) struct Rebuilt {
    pub(crate) cursor: Option<Cursor>,
    pub(crate) baseline: Option<Cursor>,
    /// The epoch of the rebuilt pages.
    pub(crate) epoch: Option<Epoch>,
    pub(crate) floor: WriteIds,
    pub(crate) settled: WriteIds,
    /// The server's answer about the replica's cursor, once all pages were received.
    pub(crate) history: History,
}

/// A server's answer on the history of a feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum History {
    /// The feed continues from the replica's cursor.
    Served,
    /// The feed does not continue from the cursor; these are its epochs, each with its last
    /// counter.
    Epochs(Vec<(Epoch, u64)>),
    /// The feed does not continue, and the answer names only the oldest cursor that the server can
    /// serve.
    Unknown { oldest_available: Option<Cursor> },
}

/// The inputs of offering again that are not part of the replica.
pub(crate) struct Offering<'a> {
    pub(crate) environment: &'a dyn Environment,
    /// Returns true if all bytes of a content are on this device.
    pub(crate) has_bytes: &'a dyn Fn(&BlobId, u64) -> bool,
}

/// The times of operations under new write ids.
pub(crate) type NewTimes = BTreeMap<OpId, Timestamp>;

/// Returns the greatest write id of this client that the server has.
pub(crate) fn own_write_id(meta: &Meta) -> Option<WriteId> {
    let settled = meta.settled.as_ref();
    settled
        .and_then(|state| state.last_reconciled_write_ids.get(&meta.client_id))
        .max(meta.floor.get(&meta.client_id))
        .copied()
}

/// Builds a rejection made by the client itself: the operation cannot be sent.
pub(crate) fn unsendable(op: &Operation, detail: &str) -> FlushCommit {
    let refused = Refused {
        op_id: op.op_id.clone(),
        write_id: op.write_id,
        reason: Some(vfs_sync_core::wire::PushReason::Malformed),
        detail: Some(detail.into()),
    };
    FlushCommit { rejected: vec![refused], ..FlushCommit::default() }
}
