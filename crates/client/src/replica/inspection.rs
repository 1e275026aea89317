//! A replica that is only read, for a diagnosis.

use std::io::Write;
use std::path::{Path, PathBuf};

use vfs_sync_core::cursor::{Cursor, Epoch};
use vfs_sync_core::id::{BlobId, ItemId, ReplicaId, StagingId, UserId};
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::{AttachRequest, ReconcileState, WriteIds};

use super::{ReplicaStore, inspect_store};
use crate::api::{QueuedOp, QueuedState, RejectedOp, StateExport};
use crate::content::is_on_disk;
use crate::error::{ClientError, Failing, Result, StopReason};

/// The greatest number of steps in a path.
const MAX_STEPS: usize = 256;

/// A replica that is opened for reading: no call changes a file, makes one, or contacts a server.
/// The replica is locked as long as the inspection exists.
pub struct Inspection {
    store: ReplicaStore,
    dir: PathBuf,
}

/// The state of a replica's synchronisation.
#[derive(Debug, Clone, PartialEq)]
pub struct SyncState {
    /// The id of the replica.
    pub client_id: ReplicaId,
    /// The user that the replica belongs to.
    pub user: UserId,
    /// The server that the replica was created for.
    pub server: String,
    /// The position up to which the feed is applied.
    pub cursor: Option<Cursor>,
    /// The feed's head at the first pull, while the cursor is below it.
    pub baseline: Option<Cursor>,
    /// The newest head of the pages of a pull that is not settled.
    pub head: Option<Cursor>,
    /// The epoch of the server's last answer.
    pub epoch: Option<Epoch>,
    /// The greatest write id that was ever seen of each replica in this epoch.
    pub floor: WriteIds,
    /// The state that the last settled pull returned.
    pub settled: Option<ReconcileState>,
    /// The state that the server has acknowledged.
    pub reconciled: Option<ReconcileState>,
    /// The next write id of this replica.
    pub next_write_id: u64,
    /// The number of items that the server has confirmed.
    pub items: u64,
    /// The number of operations to push.
    pub pending: u64,
    /// The number of operations that the server has decided, until a pull covers them.
    pub acknowledged: u64,
    /// The number of rejected operations.
    pub rejected: u64,
    /// The number of contents to upload.
    pub uploads: u64,
    /// The number of contents whose upload was rejected for good.
    pub rejected_uploads: u64,
    /// The number of changes that a restored server lost and that could not be offered again.
    pub lost: u64,
    /// True if the replica was hydrated, and has not settled since.
    pub copied: bool,
    /// The reason why synchronisation stopped.
    pub stopped: Option<StopReason>,
    /// The reason why synchronising has failed since its last success.
    pub failing: Option<Failing>,
}

impl SyncState {
    /// Returns the greatest write id that this replica has given to an operation.
    #[must_use]
    pub fn last_write_id(&self) -> u64 {
        self.next_write_id.saturating_sub(1)
    }
}

/// A content that waits to be uploaded.
#[derive(Debug, Clone, PartialEq)]
pub struct QueuedUpload {
    /// The item that the content belongs to.
    pub item_id: ItemId,
    /// The id of the content.
    pub blob_id: BlobId,
    /// The stage under which the content is uploaded.
    pub staging_id: StagingId,
    /// The size of the content in bytes.
    pub size: u64,
    /// The time at which the content was queued; earlier versions did not store it.
    pub queued_at: Option<Timestamp>,
    /// The attach request, once it was made: a retry sends the same.
    pub attach: Option<AttachRequest>,
    /// The server's reason at the last attempt.
    pub reason: Option<String>,
    /// True if the bytes are on this device.
    pub on_disk: bool,
}

impl Inspection {
    /// Opens the replica in `dir` for reading.
    ///
    /// # Errors
    /// [`ClientError::NoReplica`], [`ClientError::InUse`], [`ClientError::NewerReplica`],
    /// [`ClientError::OlderReplica`], [`ClientError::CorruptReplica`], [`ClientError::Storage`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref().to_owned();
        let store = inspect_store(&dir)?;
        Ok(Self { store, dir })
    }

    /// Returns the state of the synchronisation.
    ///
    /// # Errors
    /// Only if the replica cannot be read.
    pub fn state(&mut self) -> Result<SyncState> {
        let counts = self.store.counts()?;
        let meta = self.store.meta();
        Ok(SyncState {
            client_id: meta.client_id.clone(),
            user: meta.user.clone(),
            server: meta.server.to_string(),
            cursor: meta.cursor.clone(),
            baseline: meta.baseline.clone(),
            head: meta.head.clone(),
            epoch: meta.epoch,
            floor: (*meta.floor).clone(),
            settled: meta.settled.as_deref().cloned(),
            reconciled: meta.reconciled.as_deref().cloned(),
            next_write_id: meta.next_write_id,
            items: meta.items,
            pending: counts.pending,
            acknowledged: counts.acknowledged,
            rejected: counts.rejected,
            uploads: counts.uploads,
            rejected_uploads: counts.rejected_uploads,
            lost: counts.lost,
            copied: meta.copied,
            stopped: meta.stopped.as_deref().cloned(),
            failing: meta.failing.as_deref().cloned(),
        })
    }

    /// Checks the replica's file; returns the problems found in it, a few at most.
    ///
    /// # Errors
    /// Only if the file cannot be read at all.
    pub fn integrity(&mut self) -> Result<Vec<String>> {
        self.store.integrity()
    }

    /// Reads every row; returns their number.
    ///
    /// # Errors
    /// The first row that cannot be read, as [`ClientError::CorruptReplica`].
    pub fn verify(&mut self) -> Result<u64> {
        self.store.verify_rows()
    }

    /// Returns the first operation that is still to be pushed, if there is one.
    ///
    /// # Errors
    /// Only if the replica cannot be read.
    pub fn oldest_operation(&mut self) -> Result<Option<QueuedOp>> {
        let next = self.store.pending(1)?.pop();
        if let Some((operation, _)) = next {
            return Ok(Some(QueuedOp { operation, state: QueuedState::Pending }));
        }
        let all = self.store.queue(usize::MAX)?;
        Ok(all.into_iter().find(|one| one.state == QueuedState::Held))
    }

    /// Lists at most `limit` contents that wait to be uploaded, in order. Those whose items still have
    /// operations to push come after these operations.
    ///
    /// # Errors
    /// Only if the replica cannot be read.
    pub fn uploads(&mut self, limit: usize) -> Result<Vec<QueuedUpload>> {
        let uploads = self.store.queued_uploads(limit)?.into_iter();
        Ok(uploads
            .map(|upload| QueuedUpload {
                on_disk: is_on_disk(&self.dir, &upload.blob_id, upload.size),
                item_id: upload.item,
                blob_id: upload.blob_id,
                staging_id: upload.staging_id,
                size: upload.size,
                queued_at: upload.occurred_at,
                attach: upload.attach,
                reason: upload.reason,
            })
            .collect())
    }

    /// Lists at most `limit` rejected operations, the oldest first.
    ///
    /// # Errors
    /// Only if the replica cannot be read.
    pub fn rejected(&mut self, limit: usize) -> Result<Vec<RejectedOp>> {
        self.store.rejected(limit)
    }

    /// Returns the reason for the first rejected content.
    ///
    /// # Errors
    /// Only if the replica cannot be read.
    pub fn rejected_upload_reason(&mut self) -> Result<Option<String>> {
        Ok(self.store.rejected_uploads()?.into_iter().find_map(|upload| upload.reason))
    }

    /// Returns the path of an item in the tree, as far as the replica shows it.
    ///
    /// # Errors
    /// Only if the replica cannot be read.
    pub fn path(&mut self, item: &ItemId) -> Result<Option<String>> {
        let (mut path, mut at) = (String::new(), item.clone());
        for _ in 0..MAX_STEPS {
            let Some(node) = self.store.node(&at)? else { break };
            let name = node.name.as_ref().map_or(at.as_str(), |name| name.as_str());
            path = format!("/{name}{path}");
            match self.store.parents(&at)?.into_iter().next() {
                Some(parent) => at = parent,
                None => break,
            }
        }
        Ok((!path.is_empty()).then_some(path))
    }

    /// Writes the replica's state as canonical JSON, as
    /// [`SyncClient::export_state`](crate::SyncClient::export_state) does.
    ///
    /// # Errors
    /// A failure to read or write.
    pub fn export_state(&mut self, options: StateExport, writer: impl Write) -> Result<()> {
        let state = self.store.export()?;
        let state = if options.redact { state.redact() } else { state };
        let failed = ClientError::io("cannot write the exported state");
        state.write(writer, options.redact).map_err(failed)
    }
}

impl std::fmt::Debug for Inspection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inspection").field("dir", &self.dir).finish_non_exhaustive()
    }
}
