//! The blob queue: contents on their way to the server, and what comes of them.

use std::collections::HashSet;
use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream;
use tokio_util::task::AbortOnDropHandle;
use vfs_sync_core::id::{BlobId, ItemId};

use crate::client::{Inner, SyncClient};
use crate::content::NewContent;
use crate::error::ClientError;
use crate::event::ChangeEvent;
use crate::sending::{GONE, Outcome, into_requests, send_request};
use crate::store::{Upload, UploadState};
use crate::sync::Session;
use crate::transport::TransportError;

/// Uploads that are looked at in one round.
const ROUND: usize = 2_048;
/// Requests in a row that bring nothing, before the line is taken for down.
const FRUITLESS_REQUESTS: u32 = 2;

/// A content whose upload was refused for good. Its bytes are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectedUpload {
    /// The item that it was for.
    pub item_id: ItemId,
    /// What names it.
    pub blob_id: BlobId,
    /// Bytes.
    pub size: u64,
    /// Why.
    pub reason: String,
}

impl SyncClient {
    /// The contents whose upload was refused for good.
    ///
    /// # Errors
    /// Only if the replica cannot be read.
    pub fn rejected_uploads(&self) -> Result<Vec<RejectedUpload>, ClientError> {
        let rejected = self.store().rejected_uploads()?.into_iter();
        Ok(rejected
            .map(|upload| RejectedUpload {
                item_id: upload.item,
                blob_id: upload.blob_id,
                size: upload.size,
                reason: upload.reason.unwrap_or_default(),
            })
            .collect())
    }

    /// Uploads a rejected content again, under new ids.
    ///
    /// # Errors
    /// [`ClientError::UnknownRejected`], or what failed in keeping the bytes.
    pub fn retry_upload(&self, blob_id: &BlobId) -> Result<(), ClientError> {
        let upload = self.rejected_upload(blob_id)?;
        let (renewed, content) = renew(&self.inner, &upload)?;
        {
            let mut store = self.store();
            store.settle_uploads(&[renewed])?;
            self.inner.cache.place(vec![content]);
        }
        self.inner.cache.remove(&[upload.blob_id]);
        self.poke();
        Ok(())
    }

    /// Forgets a rejected content, bytes and all.
    ///
    /// # Errors
    /// [`ClientError::UnknownRejected`].
    pub fn discard_upload(&self, blob_id: &BlobId) -> Result<(), ClientError> {
        let upload = self.rejected_upload(blob_id)?;
        self.store().remove_upload(upload.seq)?;
        self.inner.cache.remove(&[upload.blob_id]);
        Ok(())
    }

    fn rejected_upload(&self, blob_id: &BlobId) -> Result<Upload, ClientError> {
        let mut rejected = self.store().rejected_uploads()?.into_iter();
        let found = rejected.find(|upload| upload.blob_id == *blob_id);
        found.ok_or_else(|| ClientError::UnknownRejected(blob_id.to_string()))
    }
}

/// The same bytes under new ids, for one whose stage is over.
fn renew(inner: &Inner, upload: &Upload) -> Result<(Upload, NewContent), ClientError> {
    let content = inner.cache.renamed(&upload.blob_id, upload.digest)?;
    let renewed = Upload {
        blob_id: content.blob_id.clone(),
        staging_id: inner.environment().new_staging_id(),
        state: UploadState::Queued,
        attach: None,
        reason: None,
        ..upload.clone()
    };
    Ok((renewed, content))
}

impl Session {
    /// Uploads what is queued. Gives whether there is more to do once the feed was pulled again.
    pub(crate) async fn upload_contents(&mut self) -> Result<bool, ClientError> {
        let counts = self.store(|_, store| store.counts()).await?;
        self.inner.advance(|progress| progress.to_upload = counts.uploads);
        let mut again = false;
        let mut told_again = false;
        let mut after = 0;
        loop {
            let round = self.round(after).await?;
            let Some(last) = round.last() else { return Ok(again) };
            after = last.seq;
            // Of several contents of one item, the next is for the next time.
            let mut items = HashSet::new();
            let (now, later): (Vec<Upload>, Vec<Upload>) =
                round.into_iter().partition(|upload| items.insert(upload.item.clone()));
            again |= !later.is_empty();
            if now.is_empty() {
                continue;
            }
            let outcomes = self.send(now).await?;
            again = true;
            let behind = self.settle(outcomes).await?;
            if let Some(error) = behind {
                if told_again {
                    return Err(error.into());
                }
                told_again = true;
                self.reconcile(true).await?;
                after = 0;
            }
        }
    }

    /// The next uploads, each with the request that it is going to make, durably.
    async fn round(&self, after: i64) -> Result<Vec<Upload>, ClientError> {
        self.store(move |inner, store| {
            let mut round = store.uploads(after, ROUND)?;
            let (client_id, at) = (store.meta().client_id.clone(), store.meta().reconciled.clone());
            let Some(at) = at else {
                // The feed has told of nothing yet: what these are for was refused, or went.
                if store.meta().cursor.is_none() && !round.is_empty() {
                    for upload in &mut round {
                        (upload.state, upload.reason) = (UploadState::Rejected, Some(GONE.into()));
                    }
                    store.settle_uploads(&round)?;
                    inner.emit(round.into_iter().map(|upload| ChangeEvent::UploadRejected {
                        item_id: upload.item,
                        reason: GONE.into(),
                    }));
                }
                return Ok(Vec::new());
            };
            let mut new = Vec::new();
            for upload in round.iter_mut().filter(|upload| upload.attach.is_none()) {
                upload.attach = Some(upload.request(&client_id, &at));
                new.push(upload.clone());
            }
            if !new.is_empty() {
                store.put_uploads(&new)?;
            }
            Ok(round)
        })
        .await
    }

    /// Sends uploads, small ones many to a request, several requests at a time. Stops where the
    /// line is down, and gives what is known by then.
    async fn send(&mut self, uploads: Vec<Upload>) -> Result<Vec<(Upload, Outcome)>, ClientError> {
        let mut outcomes = Vec::new();
        let requests =
            stream::iter(into_requests(uploads, self.inner.config.together_up_to)).map(|uploads| {
                let inner = Arc::clone(&self.inner);
                AbortOnDropHandle::new(tokio::spawn(
                    async move { send_request(&inner, uploads).await },
                ))
            });
        let mut requests = requests.buffer_unordered(self.inner.config.transfers);
        let mut fruitless = 0;
        while let Some(done) = requests.next().await {
            let done = done.unwrap_or_else(|error| Err(ClientError::Storage(error.to_string())))?;
            let failed = done.iter().filter(|(_, o)| matches!(o, Outcome::Failed(_))).count();
            fruitless = if failed == done.len() { fruitless + 1 } else { 0 };
            let attached = done.iter().filter(|(_, o)| matches!(o, Outcome::Attached)).count();
            let settled = (done.len() - failed) as u64;
            self.inner.advance(|progress| {
                progress.uploaded += attached as u64;
                progress.to_upload = progress.to_upload.saturating_sub(settled);
            });
            outcomes.extend(done);
            if fruitless == FRUITLESS_REQUESTS {
                break;
            }
        }
        Ok(outcomes)
    }

    /// Makes outcomes durable. Gives the refusal of one that is behind, if there is any.
    async fn settle(
        &mut self,
        outcomes: Vec<(Upload, Outcome)>,
    ) -> Result<Option<TransportError>, ClientError> {
        let (mut written, mut copies, mut events) = (Vec::new(), Vec::new(), Vec::new());
        let (mut behind, mut failed) = (None, None);
        let (mut old, mut renewed) = (Vec::new(), Vec::new());
        for (upload, outcome) in outcomes {
            match outcome {
                Outcome::Attached => {
                    self.report.uploaded += 1;
                    self.report.uploaded_bytes += upload.size;
                    written.push(Upload { state: UploadState::Attached, ..upload });
                }
                Outcome::Behind(error) => behind = Some(error),
                Outcome::ContentChanged => copies.push(upload),
                Outcome::Expired => {
                    let (again, content) = renew(&self.inner, &upload)?;
                    old.push(upload.blob_id);
                    written.push(again);
                    renewed.push(content);
                }
                Outcome::Rejected(reason) => {
                    events.push(ChangeEvent::UploadRejected {
                        item_id: upload.item.clone(),
                        reason: reason.clone(),
                    });
                    let (state, reason) = (UploadState::Rejected, Some(reason));
                    written.push(Upload { state, reason, ..upload });
                }
                Outcome::Failed(error) => failed = Some(error),
            }
        }
        self.store(move |inner, store| {
            store.settle_uploads(&written)?;
            inner.cache.place(renewed);
            inner.cache.remove(&old);
            let here = inner.environment();
            for upload in copies {
                let copy = here.new_item_id();
                let item_id = upload.item.clone();
                if store.copy_aside(upload, here.new_op_id(), copy.clone(), here.now())? {
                    events.push(ChangeEvent::ConflictedCopy { item_id, copy });
                }
            }
            inner.emit(events);
            Ok(())
        })
        .await?;
        match failed {
            Some(error) => Err(error.into()),
            None => Ok(behind),
        }
    }
}
