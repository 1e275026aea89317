//! The queue of operations and contents, and the lists of those that were refused.

use vfs_sync_core::id::{BlobId, OpId};

use crate::api::node::{QueuedOp, RejectedOp};
use crate::api::outstanding::{Outstanding, RejectedUpload, WaitingUpload};
use crate::client::SyncClient;
use crate::error::ClientError;
use crate::replica::Upload;
use crate::sync::renew;

/// Uploads that are read at a time.
const PAGE: usize = 2_048;
/// Contents whose upload waits that are listed at most.
const WAITING_LISTED: usize = 100_000;

/// The operations and contents that wait for the server or were refused by it.
#[derive(Clone, Copy)]
pub struct Queue<'a> {
    client: &'a SyncClient,
}

impl SyncClient {
    /// Returns the calls about the queue and about the operations and contents that were refused.
    #[must_use]
    pub fn queue(&self) -> Queue<'_> {
        Queue { client: self }
    }
}

impl Queue<'_> {
    /// The queue in order, at most `limit` operations of it.
    ///
    /// # Errors
    /// Only if the replica cannot be read.
    pub fn operations(self, limit: usize) -> Result<Vec<QueuedOp>, ClientError> {
        self.client.store().queue(limit)
    }

    /// The operations that were refused, oldest first, at most `limit`.
    ///
    /// # Errors
    /// Only if the replica cannot be read.
    pub fn rejected(self, limit: usize) -> Result<Vec<RejectedOp>, ClientError> {
        self.client.store().rejected(limit)
    }

    /// Puts a rejected operation into the queue again, as a new one; returns its new id.
    ///
    /// # Errors
    /// [`ClientError::UnknownRejected`].
    pub fn retry(self, op_id: &OpId) -> Result<OpId, ClientError> {
        let again = self.client.environment().new_op_id();
        let stays = self.client.store().settle_rejected(
            op_id,
            Some(again.clone()),
            self.client.environment().now(),
        )?;
        self.client.inner.emit(stays);
        self.client.request_sync();
        Ok(again)
    }

    /// Forgets a rejected operation.
    ///
    /// # Errors
    /// [`ClientError::UnknownRejected`].
    pub fn discard(self, op_id: &OpId) -> Result<(), ClientError> {
        let now = self.client.environment().now();
        self.client.store().settle_rejected(op_id, None, now).map(drop)
    }

    /// The contents whose upload was refused for good.
    ///
    /// # Errors
    /// Only if the replica cannot be read.
    pub fn rejected_uploads(self) -> Result<Vec<RejectedUpload>, ClientError> {
        let rejected = self.client.store().rejected_uploads()?.into_iter();
        Ok(rejected
            .map(|upload| RejectedUpload {
                item_id: upload.item,
                blob_id: upload.blob_id,
                size: upload.size,
                digest: upload.digest,
                reason: upload.reason.unwrap_or_default(),
            })
            .collect())
    }

    /// The contents whose upload the server could not take when it was last tried, and why; they are still
    /// in the queue. At most 100,000.
    ///
    /// # Errors
    /// Only if the replica cannot be read.
    pub fn waiting_uploads(self) -> Result<Vec<WaitingUpload>, ClientError> {
        let mut store = self.client.store();
        let (mut waiting, mut after) = (Vec::new(), 0);
        while waiting.len() < WAITING_LISTED {
            let page = store.uploads(after, PAGE)?;
            let Some(last) = page.last() else { break };
            after = last.seq;
            waiting.extend(page.into_iter().filter_map(|upload| {
                let reason = upload.reason?;
                let (item_id, blob_id, size) = (upload.item, upload.blob_id, upload.size);
                Some(WaitingUpload { item_id, blob_id, size, reason })
            }));
        }
        Ok(waiting)
    }

    /// Counts the work that is still to be sent, and the refusals that were neither retried nor
    /// discarded.
    ///
    /// # Errors
    /// Only if the replica cannot be read.
    pub fn outstanding(self) -> Result<Outstanding, ClientError> {
        let mut store = self.client.store();
        let counts = store.counts()?;
        let waiting = match counts.uploads {
            0 => None,
            _ => store.uploads(0, PAGE)?.into_iter().find_map(|upload| upload.reason),
        };
        let operation = match counts.rejected {
            0 => None,
            _ => store.rejected(1)?.pop(),
        };
        let refused = match operation {
            Some(op) => op.detail.or_else(|| {
                let reason = serde_json::to_value(op.reason?).ok()?;
                reason.as_str().map(str::to_owned)
            }),
            None if counts.rejected_uploads > 0 => {
                store.rejected_uploads()?.into_iter().find_map(|upload| upload.reason)
            }
            None => None,
        };
        Ok(Outstanding {
            pending: counts.pending,
            lost: counts.lost,
            uploads: counts.uploads,
            waiting,
            rejected: counts.rejected,
            rejected_uploads: counts.rejected_uploads,
            refused,
        })
    }

    /// Uploads a rejected content again, under new ids.
    ///
    /// # Errors
    /// [`ClientError::UnknownRejected`], or what failed in keeping the bytes.
    pub fn retry_upload(self, blob_id: &BlobId) -> Result<(), ClientError> {
        let upload = self.rejected_upload(blob_id)?;
        let (renewed, content) = renew(&self.client.inner, &upload)?;
        {
            let mut store = self.client.store();
            self.client.inner.emit(store.settle_uploads(&[renewed])?);
            self.client.inner.cache.place(vec![content]);
        }
        self.client.inner.cache.remove(&[upload.blob_id]);
        self.client.request_sync();
        Ok(())
    }

    /// Forgets a rejected content, bytes and all.
    ///
    /// # Errors
    /// [`ClientError::UnknownRejected`].
    pub fn discard_upload(self, blob_id: &BlobId) -> Result<(), ClientError> {
        let upload = self.rejected_upload(blob_id)?;
        self.client.store().remove_upload(upload.seq)?;
        self.client.inner.cache.remove(&[upload.blob_id]);
        Ok(())
    }

    fn rejected_upload(self, blob_id: &BlobId) -> Result<Upload, ClientError> {
        let mut rejected = self.client.store().rejected_uploads()?.into_iter();
        let found = rejected.find(|upload| upload.blob_id == *blob_id);
        found.ok_or_else(|| ClientError::UnknownRejected(blob_id.to_string()))
    }
}
