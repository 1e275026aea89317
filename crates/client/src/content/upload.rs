//! Uploads contents: small ones many in one request, large ones resumably.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::TryStreamExt as _;
use serde::Deserialize as _;
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::id::BlobId;
use vfs_sync_core::limits::{MAX_BLOB_BATCH, MAX_BLOB_BATCH_BYTES};
use vfs_sync_core::wire::{AttachRequest, AttachResponse, StageRequest, StageStatus, code};

use super::local::LocalContent;
use crate::client::Inner;
use crate::error::{ClientError, Result};
use crate::host;
use crate::lock::lock;
use crate::replica::Upload;
use crate::sync::backoff::{ATTEMPTS, back_off};
use crate::transport::{BatchFile, ByteStream, TransportError, TransportExt as _};

/// The size of a file in a batch in addition to its content.
const BATCH_FILE_BYTES: usize = 2_048;
/// The size of a batch's body, if it has more than one file: several batches are in memory at a
/// time, each more than once.
const BATCH_BYTES: usize = MAX_BLOB_BATCH_BYTES / 8;

const OTHER_BYTES: &str = "the server has other bytes than were sent";

/// The outcome of one upload.
pub(crate) enum Outcome {
    Attached,
    /// The content was attached, by a server that stores no time with the bytes.
    AttachedUntimed,
    /// The reconcile state must advance first.
    Behind(TransportError),
    /// Another content was attached before, the one that the server names; this one becomes a
    /// conflicted copy.
    ContentChanged(Option<BlobId>),
    /// The stage has expired: the upload needs new ids.
    Expired,
    /// Another upload has one of the ids.
    IdTaken(String),
    /// The server does not know the item, or does not show it.
    UnknownItem(String),
    Rejected(String),
    /// The server cannot take the content until somebody makes space or repairs something; it stays
    /// queued.
    Waits {
        /// The server's reason, for people.
        reason: String,
        /// True if the server has no space for the bytes; a smaller content may still fit.
        full: bool,
    },
    /// The outcome is unknown: the same request is repeated later.
    Failed(TransportError),
}

impl Outcome {
    fn may_succeed_later(&self) -> bool {
        matches!(self, Self::Failed(error) if error.is_transient())
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Failed(error) => error.retry_after(),
            _ => None,
        }
    }

    fn of_attach(result: Result<AttachResponse, TransportError>, upload: &Upload) -> Self {
        match result {
            Ok(answer) if upload.modified_at.is_some() && answer.modified_at.is_none() => {
                Self::AttachedUntimed
            }
            other => Self::of(other),
        }
    }

    fn of<T>(result: Result<T, TransportError>) -> Self {
        let error = match result {
            Ok(_) => return Self::Attached,
            Err(error) => error,
        };
        if error.waits() {
            return Self::Waits { reason: why_it_waits(&error), full: error.is_full() };
        }
        let TransportError::Refused { status, code, message, details } = &error else {
            return match error {
                TransportError::TooLarge(reason) => Self::Rejected(reason),
                other => Self::Failed(other),
            };
        };
        match code.as_str() {
            code::RECONCILE_BEHIND => Self::Behind(error),
            code::CONTENT_CHANGED => {
                let current = details.get("currentBlobId").and_then(serde_json::Value::as_str);
                Self::ContentChanged(current.and_then(|id| BlobId::new(id).ok()))
            }
            code::STAGE_EXPIRED => Self::Expired,
            code::UNKNOWN_ITEM => Self::UnknownItem(format!("{message} ({status} {code})")),
            code::ID_TAKEN => Self::IdTaken(format!("{message} ({status} {code})")),
            _ if ended_as(&error) == Some(StageStatus::Abandoned) => Self::Expired,
            // An earlier request of this client, which it gave up, is still under way there.
            code::UPLOAD_SUPERSEDED => Self::Failed(TransportError::network(message.as_str())),
            // The stage of this upload was lost between two of its requests, by a failover or a restore.
            code::UNKNOWN_STAGE => Self::Failed(TransportError::network(message.as_str())),
            // They were not when they were read: something on the way changed them.
            code::DIGEST_MISMATCH => Self::Failed(TransportError::network(message.as_str())),
            _ => Self::Rejected(format!("{message} ({status} {code})")),
        }
    }
}

/// Returns the server's reason, with the details that an operator needs.
fn why_it_waits(error: &TransportError) -> String {
    let TransportError::Refused { status, code, message, details } = error else {
        return error.to_string();
    };
    let text = |name: &str| details.get(name).and_then(serde_json::Value::as_str);
    let mut reason = format!("{message} ({status} {code}");
    for name in ["storageCode", "limit", "malformed"] {
        if let Some(value) = text(name) {
            reason.push_str(&format!(", {value}"));
        }
    }
    reason.push(')');
    if let Some(repair) = text("repair") {
        reason.push_str(&format!("; the server's operator mends it by `{repair}`"));
    }
    reason
}

/// Groups uploads into requests: contents of up to `together` bytes share one, a larger content has
/// its own.
pub(crate) fn into_requests(uploads: Vec<Upload>, together: u64) -> Vec<Vec<Upload>> {
    let mut requests = Vec::new();
    let (mut batch, mut bytes) = (Vec::new(), 0);
    for upload in uploads {
        if upload.size > together {
            requests.push(vec![upload]);
            continue;
        }
        let size = usize::try_from(upload.size).unwrap_or(usize::MAX);
        let takes = size.div_ceil(3) * 4 + BATCH_FILE_BYTES;
        let full = batch.len() == MAX_BLOB_BATCH || bytes + takes > BATCH_BYTES;
        if full && !batch.is_empty() {
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

/// Sends one of the requests of [`into_requests`], with retries as long as they may help.
pub(crate) async fn send_request(
    inner: &Arc<Inner>,
    uploads: Vec<Upload>,
) -> Result<Vec<(Upload, Outcome)>> {
    let inline = |upload: &Upload| upload.size <= inner.config.batch_max_bytes;
    let (mut uploads, mut outcomes) = (uploads, Vec::new());
    let mut failures = 0;
    loop {
        let done = if uploads.iter().all(inline) {
            send_batch(inner, uploads).await?
        } else {
            let mut done = Vec::with_capacity(uploads.len());
            for upload in uploads {
                let outcome = send_alone(inner, &upload).await?;
                done.push((upload, outcome));
            }
            done
        };
        failures += 1;
        let (again, settled): (Vec<_>, Vec<_>) =
            done.into_iter().partition(|(_, outcome)| outcome.may_succeed_later());
        outcomes.extend(settled);
        if again.is_empty() || failures == ATTEMPTS {
            outcomes.extend(again);
            return Ok(outcomes);
        }
        let asked = again.iter().filter_map(|(_, outcome)| outcome.retry_after()).max();
        host::sleep(back_off(&inner.config, failures, asked)).await;
        uploads = again.into_iter().map(|(upload, _)| upload).collect();
    }
}

fn attach_of(upload: &Upload) -> AttachRequest {
    upload.attach.clone().expect("a round gives every upload its request")
}

pub(crate) const GONE: &str = "the item is gone, or no longer shared with you";
const LOST: &str = "the bytes are no longer on this machine: put the content again";

async fn send_batch(inner: &Arc<Inner>, uploads: Vec<Upload>) -> Result<Vec<(Upload, Outcome)>> {
    let reader = Arc::clone(inner);
    let read = inner.environment().blocking(move || {
        let with_bytes = |upload: Upload| {
            let cache = &reader.cache;
            let bytes = cache.read_whole(&upload.blob_id, upload.size, upload.digest)?;
            Ok::<_, ClientError>((upload, bytes))
        };
        uploads.into_iter().map(with_bytes).collect::<Result<Vec<_>, _>>()
    });
    let read = read.await?;
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
            digest: upload.digest,
            attach: attach_of(&upload),
        });
        sent.push(upload);
    }
    if files.is_empty() {
        return Ok(outcomes);
    }
    match inner.transport.blob_batch(files).await {
        Ok(results) => {
            let bytes = sent.iter().zip(&results).filter(|(_, result)| result.is_ok());
            let bytes: u64 = bytes.map(|(upload, _)| upload.size).sum();
            inner.advance(|progress| progress.uploaded_bytes += bytes);
            outcomes.extend(sent.into_iter().zip(results).map(|(upload, result)| {
                let outcome = Outcome::of_attach(result, &upload);
                (upload, outcome)
            }));
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

/// Uploads one content, then attaches it.
async fn send_alone(inner: &Arc<Inner>, upload: &Upload) -> Result<Outcome> {
    // The server would refuse it too, once it had the bytes; with a basis it brings the item back.
    let (own, item) = (Arc::clone(inner), upload.item.clone());
    let gone = inner.environment().blocking(move || lock(&own.store).node(&item)).await?.is_none();
    if gone && upload.basis.is_none() {
        return Ok(Outcome::Rejected(GONE.into()));
    }
    let verify = (Arc::clone(inner), upload.clone());
    let local = inner
        .environment()
        .blocking(move || {
            let (inner, upload) = verify;
            inner.cache.find_verified(&upload.blob_id, upload.size, upload.digest)
        })
        .await?;
    let Some(local) = local else { return Ok(Outcome::Rejected(LOST.into())) };
    let sent = if upload.size < inner.config.resumable_from {
        send_at_once(inner, upload, &local).await?
    } else {
        send_resumably(inner, upload, &local).await?
    };
    match sent {
        Ok(there) if there == (upload.size, upload.digest) => {}
        Ok(_) => return Ok(Outcome::Rejected(OTHER_BYTES.into())),
        Err(error) => return Ok(Outcome::of::<()>(Err(error))),
    }
    let attached = inner.transport.attach(&upload.staging_id, &attach_of(upload)).await;
    Ok(Outcome::of_attach(attached, upload))
}

/// The size and digest that the server has stored.
type There = Result<(u64, Sha256Digest), TransportError>;

fn stage_of(upload: &Upload) -> StageRequest {
    StageRequest {
        staging_id: Some(upload.staging_id.clone()),
        blob_id: upload.blob_id.clone(),
        expires_at: None,
        content_type: upload.content_type.clone(),
        data_base64: None,
    }
}

/// Stages and uploads a content in one request.
async fn send_at_once(inner: &Arc<Inner>, upload: &Upload, local: &LocalContent) -> Result<There> {
    let stage = match inner.transport.stage(&stage_of(upload)).await {
        Ok(stage) => stage,
        Err(error) => return Ok(Err(error)),
    };
    if let (Some(size), Some(digest)) = (stage.size, stage.digest) {
        return Ok(Ok((size, digest)));
    }
    let sent = Sent::new(inner, 0);
    let bytes = sent.count(local.stream(0).await?);
    let (id, size) = (&upload.staging_id, upload.size);
    let answer = inner.transport.upload(id, size, upload.digest, bytes).await;
    sent.settle(if answer.is_ok() { size } else { 0 });
    Ok(answer.map(|answer| (answer.size, answer.digest)))
}

/// Uploads from the server's offset on; resumes after an interruption as long as attempts make
/// progress.
async fn send_resumably(
    inner: &Arc<Inner>,
    upload: &Upload,
    local: &LocalContent,
) -> Result<There> {
    let id = &upload.staging_id;
    let mut sent: Option<Sent> = None;
    let mut cut: Option<(u64, TransportError)> = None;
    loop {
        let offset = match inner.transport.open_upload(&stage_of(upload), upload.size).await {
            Ok(offset) => offset,
            // By an earlier request of ours, whose answer did not come.
            Err(error) if ended_as(&error) == Some(StageStatus::Attached) => break,
            Err(error) => return Ok(Err(error)),
        };
        let counted = sent.get_or_insert_with(|| Sent::new(inner, offset));
        counted.settle(offset);
        if offset == upload.size {
            break;
        }
        if let Some((before, error)) = cut.take_if(|(before, _)| offset <= *before) {
            tracing::debug!(%error, before, "an upload makes no progress");
            return Ok(Err(error));
        }
        let bytes = counted.count(local.stream(offset).await?);
        let error = match inner.transport.append(id, offset, upload.size, bytes).await {
            Ok(()) => continue,
            Err(error) if error.is_transient() => error,
            Err(error) if is_about_the_offset(&error) => TransportError::network(error.to_string()),
            Err(error) => return Ok(Err(error)),
        };
        let asked = error.retry_after();
        cut = Some((offset, error));
        host::sleep(back_off(&inner.config, 1, asked)).await;
    }
    let stage = match inner.transport.stage_state(id).await {
        Ok(stage) => stage,
        Err(error) => return Ok(Err(error)),
    };
    Ok(match (stage.size, stage.digest) {
        (Some(size), Some(digest)) => Ok((size, digest)),
        _ => Err(TransportError::network("the server is not done with the upload")),
    })
}

/// Returns the final status of a stage that takes no more bytes, if the server's error names it.
fn ended_as(error: &TransportError) -> Option<StageStatus> {
    let TransportError::Refused { code, details, .. } = error else { return None };
    let status = details.get("status").filter(|_| code == code::STAGE_NOT_ATTACHABLE)?;
    StageStatus::deserialize(status).ok()
}

/// Returns true if the server has another offset, or an earlier request of ours is still in
/// progress.
fn is_about_the_offset(error: &TransportError) -> bool {
    let TransportError::Refused { code, .. } = error else { return false };
    [code::OFFSET_MISMATCH, code::UPLOAD_SUPERSEDED].contains(&code.as_str())
}

/// A counter of the bytes of one content that were sent.
struct Sent {
    inner: Arc<Inner>,
    bytes: Arc<AtomicU64>,
}

impl Sent {
    /// Creates the counter; `before` bytes were sent earlier, perhaps by another sync.
    fn new(inner: &Arc<Inner>, before: u64) -> Self {
        Self { inner: Arc::clone(inner), bytes: Arc::new(AtomicU64::new(before)) }
    }

    /// Returns the stream, counting the bytes that are read from it.
    fn count(&self, bytes: ByteStream) -> ByteStream {
        let (inner, counted) = (Arc::clone(&self.inner), Arc::clone(&self.bytes));
        Box::pin(bytes.inspect_ok(move |chunk| {
            let more = chunk.len() as u64;
            counted.fetch_add(more, Ordering::Relaxed);
            inner.advance(|progress| progress.uploaded_bytes += more);
        }))
    }

    /// Sets the count to the bytes that the server has.
    fn settle(&self, there: u64) {
        let counted = self.bytes.swap(there, Ordering::Relaxed);
        self.inner.advance(|progress| {
            progress.uploaded_bytes = (progress.uploaded_bytes + there).saturating_sub(counted);
        });
    }
}
