//! The queue of operations and contents, and the lists of rejected ones.

use vfs_sync_core::id::{BlobId, OpId};

use crate::api::node::{QueuedOp, RejectedOp};
use crate::api::outstanding::{Outstanding, RejectedUpload, WaitingUpload};
use crate::client::SyncClient;
use crate::error::{ClientError, Result};
use crate::replica::Upload;
use crate::sync::renew;

/// The number of uploads that are read at a time.
const PAGE: usize = 2_048;
/// The greatest number of waiting contents in a listing.
const WAITING_LISTED: usize = 100_000;

/// The calls about operations and contents that wait for the server or were rejected by it.
#[derive(Clone, Copy)]
pub struct Queue<'a> {
    client: &'a SyncClient,
}

impl SyncClient {
    /// Returns the calls about the queue, and about rejected operations and contents.
    #[must_use]
    pub fn queue(&self) -> Queue<'_> {
        Queue { client: self }
    }
}

impl Queue<'_> {
    /// Lists at most `limit` operations of the queue, in order.
    ///
    /// # Errors
    /// Only if the replica cannot be read.
    pub fn operations(self, limit: usize) -> Result<Vec<QueuedOp>> {
        self.client.store().queue(limit)
    }

    /// Lists at most `limit` rejected operations, the oldest first.
    ///
    /// # Errors
    /// Only if the replica cannot be read.
    pub fn rejected(self, limit: usize) -> Result<Vec<RejectedOp>> {
        self.client.store().rejected(limit)
    }

    /// Queues a rejected operation again, as a new one; returns its new id.
    ///
    /// # Errors
    /// [`ClientError::UnknownRejected`].
    pub fn retry(self, op_id: &OpId) -> Result<OpId> {
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

    /// Removes a rejected operation for good.
    ///
    /// # Errors
    /// [`ClientError::UnknownRejected`].
    pub fn discard(self, op_id: &OpId) -> Result<()> {
        let now = self.client.environment().now();
        self.client.store().settle_rejected(op_id, None, now).map(drop)
    }

    /// Lists the contents whose upload was rejected for good.
    ///
    /// # Errors
    /// Only if the replica cannot be read.
    pub fn rejected_uploads(self) -> Result<Vec<RejectedUpload>> {
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

    /// Lists the contents whose upload the server could not take at the last attempt, with the
    /// reason. They are still in the queue. The list has at most 100,000.
    ///
    /// # Errors
    /// Only if the replica cannot be read.
    pub fn waiting_uploads(self) -> Result<Vec<WaitingUpload>> {
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

    /// Counts the work that is still to be sent, and the rejected work that was neither retried nor
    /// discarded.
    ///
    /// # Errors
    /// Only if the replica cannot be read.
    pub fn outstanding(self) -> Result<Outstanding> {
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
            Some(op) => op.detail.or_else(|| Some(op.reason?.as_str().to_owned())),
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
    /// [`ClientError::UnknownRejected`], or a failure to keep the bytes.
    pub fn retry_upload(self, blob_id: &BlobId) -> Result<()> {
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

    /// Removes a rejected content and its bytes for good.
    ///
    /// # Errors
    /// [`ClientError::UnknownRejected`].
    pub fn discard_upload(self, blob_id: &BlobId) -> Result<()> {
        let upload = self.rejected_upload(blob_id)?;
        self.client.store().remove_upload(upload.seq)?;
        self.client.inner.cache.remove(&[upload.blob_id]);
        Ok(())
    }

    fn rejected_upload(self, blob_id: &BlobId) -> Result<Upload> {
        let mut rejected = self.client.store().rejected_uploads()?.into_iter();
        let found = rejected.find(|upload| upload.blob_id == *blob_id);
        found.ok_or_else(|| ClientError::UnknownRejected(blob_id.to_string()))
    }
}
