//! The blob queue: contents on their way to the server, and what comes of them.

use std::collections::HashSet;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream;
use vfs_sync_core::id::{BlobId, ItemId};
use vfs_sync_core::limits::{MAX_BLOB_BATCH, MAX_BLOB_BATCH_BYTES, MAX_INLINE_BLOB_BYTES};
use vfs_sync_core::wire::{AttachRequest, StageRequest, StageStatus, code};

use crate::client::{Inner, SyncClient, new_item_id, new_op_id, new_staging_id, wall_clock};
use crate::content::NewContent;
use crate::error::ClientError;
use crate::event::ChangeEvent;
use crate::store::{Upload, UploadState};
use crate::sync::Session;
use crate::transport::{BatchFile, TransportError};

/// Uploads that are looked at in one round.
const ROUND: usize = 2_048;
/// What a file in a batch takes besides its bytes.
const BATCH_FILE_BYTES: usize = 2_048;

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
            store.put_uploads(&[renewed])?;
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
        staging_id: new_staging_id(),
        state: UploadState::Queued,
        attach: None,
        reason: None,
        ..upload.clone()
    };
    Ok((renewed, content))
}

/// What came of one upload.
enum Outcome {
    Attached,
    /// The reconcile state must advance first.
    Behind(TransportError),
    /// Another content was attached since: this one becomes a conflicted copy.
    ContentChanged,
    /// The stage is over: new ids.
    Expired,
    Rejected(String),
    /// Nothing is known: the same again later.
    Failed(TransportError),
}

impl Outcome {
    fn of<T>(result: Result<T, TransportError>) -> Self {
        let error = match result {
            Ok(_) => return Self::Attached,
            Err(error) => error,
        };
        let TransportError::Refused { status, code, message, details } = &error else {
            return match error {
                TransportError::TooLarge(reason) => Self::Rejected(reason),
                other => Self::Failed(other),
            };
        };
        let abandoned = details.get("status").and_then(serde_json::Value::as_str)
            == Some(StageStatus::Abandoned.as_str());
        match code.as_str() {
            code::RECONCILE_BEHIND => Self::Behind(error),
            code::CONTENT_CHANGED => Self::ContentChanged,
            code::STAGE_EXPIRED => Self::Expired,
            code::STAGE_NOT_ATTACHABLE if abandoned => Self::Expired,
            _ => Self::Rejected(format!("{message} ({status} {code})")),
        }
    }
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
        self.store(move |_, store| {
            let mut round = store.uploads(after, ROUND)?;
            let (client_id, at) = (store.meta().client_id.clone(), store.meta().reconciled.clone());
            let Some(at) = at else { return Ok(Vec::new()) };
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

    /// Sends uploads, small ones many to a request, several requests at a time. Stops at the
    /// first that says nothing about the upload itself, and gives what is known by then.
    async fn send(&mut self, uploads: Vec<Upload>) -> Result<Vec<(Upload, Outcome)>, ClientError> {
        let mut outcomes = Vec::new();
        let inner = std::sync::Arc::clone(&self.inner);
        let requests = stream::iter(into_requests(uploads)).map(|uploads| {
            let inner = std::sync::Arc::clone(&inner);
            async move { send_request(&inner, uploads).await }
        });
        let mut requests = requests.buffer_unordered(self.inner.config.transfers);
        while let Some(done) = requests.next().await {
            let done = done?;
            let failed = done.iter().any(|(_, outcome)| matches!(outcome, Outcome::Failed(_)));
            let count = u64::try_from(done.len()).unwrap_or(0);
            let attached = done.iter().filter(|(_, o)| matches!(o, Outcome::Attached));
            let (attached, bytes) = attached
                .fold((0, 0), |(count, bytes), (upload, _)| (count + 1, bytes + upload.size));
            self.inner.advance(|progress| {
                progress.uploaded += attached;
                progress.uploaded_bytes += bytes;
                progress.to_upload = progress.to_upload.saturating_sub(count);
            });
            outcomes.extend(done);
            if failed {
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
            store.put_uploads(&written)?;
            inner.cache.place(renewed);
            inner.cache.remove(&old);
            for upload in copies {
                let copy = new_item_id();
                let item_id = upload.item.clone();
                if store.copy_aside(upload, new_op_id(), copy.clone(), wall_clock())? {
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

/// Groups uploads: small ones share a request, a large one has its own.
fn into_requests(uploads: Vec<Upload>) -> Vec<Vec<Upload>> {
    let mut requests = Vec::new();
    let (mut batch, mut bytes) = (Vec::new(), 0);
    for upload in uploads {
        let size = usize::try_from(upload.size).unwrap_or(usize::MAX);
        if size > MAX_INLINE_BLOB_BYTES {
            requests.push(vec![upload]);
            continue;
        }
        let takes = size.div_ceil(3) * 4 + BATCH_FILE_BYTES;
        if batch.len() == MAX_BLOB_BATCH || bytes + takes > MAX_BLOB_BATCH_BYTES {
            requests.push(std::mem::take(&mut batch));
            bytes = 0;
        }
        bytes += takes;
        batch.push(upload);
    }
    if !batch.is_empty() {
        requests.push(batch);
    }
    requests
}

async fn send_request(
    inner: &std::sync::Arc<Inner>,
    uploads: Vec<Upload>,
) -> Result<Vec<(Upload, Outcome)>, ClientError> {
    let inline = |upload: &Upload| upload.size <= MAX_INLINE_BLOB_BYTES as u64;
    if uploads.iter().all(inline) {
        return send_batch(inner, uploads).await;
    }
    let mut outcomes = Vec::with_capacity(uploads.len());
    for upload in uploads {
        let outcome = send_alone(inner, &upload).await?;
        outcomes.push((upload, outcome));
    }
    Ok(outcomes)
}

fn attach_of(upload: &Upload) -> AttachRequest {
    upload.attach.clone().expect("a round gives every upload its request")
}

/// The bytes of a small content; `None` if the cache has lost them.
fn read_small(inner: &Inner, upload: &Upload) -> Result<Option<Bytes>, ClientError> {
    let local = inner.cache.find_verified(&upload.blob_id, upload.size, upload.digest)?;
    let Some(local) = local else { return Ok(None) };
    let mut bytes = Vec::new();
    let failed = ClientError::io("cannot read a cached content");
    std::io::Read::read_to_end(&mut local.reader()?, &mut bytes).map_err(failed)?;
    Ok(Some(bytes.into()))
}

const LOST: &str = "the bytes are no longer on this machine: put the content again";

async fn send_batch(
    inner: &std::sync::Arc<Inner>,
    uploads: Vec<Upload>,
) -> Result<Vec<(Upload, Outcome)>, ClientError> {
    let reader = std::sync::Arc::clone(inner);
    let read = tokio::task::spawn_blocking(move || {
        let with_bytes = |upload: Upload| {
            let bytes = read_small(&reader, &upload)?;
            Ok::<_, ClientError>((upload, bytes))
        };
        uploads.into_iter().map(with_bytes).collect::<Result<Vec<_>, _>>()
    });
    let read = read.await.map_err(|error| ClientError::Storage(error.to_string()))??;
    let (mut outcomes, mut sent, mut files) = (Vec::new(), Vec::new(), Vec::new());
    for (upload, bytes) in read {
        let Some(data) = bytes else {
            outcomes.push((upload, Outcome::Rejected(LOST.into())));
            continue;
        };
        files.push(BatchFile {
            staging_id: upload.staging_id.clone(),
            blob_id: upload.blob_id.clone(),
            content_type: upload.content_type.clone(),
            data,
            attach: attach_of(&upload),
        });
        sent.push(upload);
    }
    if files.is_empty() {
        return Ok(outcomes);
    }
    match inner.transport.blob_batch(files).await {
        Ok(results) => {
            outcomes.extend(sent.into_iter().zip(results.into_iter().map(Outcome::of)));
        }
        // Nothing is known of any of them; a batch that is too large goes one by one.
        Err(TransportError::TooLarge(_)) if sent.len() > 1 => {
            for upload in sent {
                let outcome = send_alone(inner, &upload).await?;
                outcomes.push((upload, outcome));
            }
        }
        Err(error) => {
            for upload in sent {
                outcomes.push((upload, Outcome::of::<()>(Err(error.clone()))));
            }
        }
    }
    Ok(outcomes)
}

/// Stage, streamed upload, attach.
async fn send_alone(inner: &Inner, upload: &Upload) -> Result<Outcome, ClientError> {
    let request = StageRequest {
        staging_id: Some(upload.staging_id.clone()),
        blob_id: upload.blob_id.clone(),
        expires_at: None,
        content_type: upload.content_type.clone(),
        data_base64: None,
    };
    let stage = match inner.transport.stage(&request).await {
        Ok(stage) => stage,
        Err(error) => return Ok(Outcome::of::<()>(Err(error))),
    };
    if stage.size.is_none() {
        let Some(local) = inner.cache.find(&upload.blob_id, upload.size, upload.digest) else {
            return Ok(Outcome::Rejected(LOST.into()));
        };
        let bytes = local.stream(0).await?;
        let sent =
            inner.transport.upload(&upload.staging_id, upload.size, upload.digest, bytes).await;
        match sent {
            Ok(answer) if answer.size != upload.size || answer.digest != upload.digest => {
                return Ok(Outcome::Failed(TransportError::MalformedResponse {
                    call: "upload",
                    field: "digest".into(),
                    reason: "is not that of the bytes sent".into(),
                }));
            }
            Ok(_) => {}
            Err(error) => return Ok(Outcome::of::<()>(Err(error))),
        }
    }
    let attached = inner.transport.attach(&upload.staging_id, &attach_of(upload)).await;
    Ok(Outcome::of(attached))
}
