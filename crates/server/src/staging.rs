//! From bytes to an item: the steps that the single calls and the batch share.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use vfs_sync_blobs::{Expected, Incoming};
use vfs_sync_core::attach::StageRow;
use vfs_sync_core::content::{MAX_CONTENT_TYPE_BYTES, Sha256Digest, is_content_type};
use vfs_sync_core::id::{BlobId, RefId, StagingId, UserId};
use vfs_sync_core::limits;
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::{AttachRequest, AttachResponse, StageStatus, UploadResponse, code};
use vfs_sync_store::{NewStage, StageAnswer, StoreError, UploadAnswer};

use crate::app::App;
use crate::config::millis;
use crate::error::{ApiError, attach_failed, attach_refused, upload_differs};
use crate::routes::sync::check_write_ids;

/// A stage that a client asks for.
pub(crate) struct StageOrder {
    pub(crate) staging_id: StagingId,
    pub(crate) blob_id: BlobId,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) content_type: Option<String>,
}

/// A staging id for a client that chose none.
pub(crate) fn new_staging_id() -> StagingId {
    StagingId::new(uuid::Uuid::now_v7().to_string()).expect("a UUID is an id")
}

fn new_ref_id() -> RefId {
    RefId::new(uuid::Uuid::now_v7().to_string()).expect("a UUID is an id")
}

/// Opens a stage, or finds it open.
pub(crate) async fn open(
    app: &App,
    user: &UserId,
    order: StageOrder,
) -> Result<StageRow, ApiError> {
    check_content_type(order.content_type.as_deref())?;
    let now = app.now();
    let latest = now.plus_millis(millis(app.config.max_stage_lifetime));
    if let Some(end) = order.expires_at {
        if end > latest {
            let hours = app.config.max_stage_lifetime.as_secs() / 3_600;
            let problem = format_args!("must be at most {hours} hours from now");
            return Err(ApiError::invalid("expiresAt", problem));
        }
        // A repetition of an old request is told what became of its stage.
        if end <= now && app.store.stage(user, &order.staging_id).await?.is_none() {
            return Err(ApiError::invalid("expiresAt", "must be in the future"));
        }
    }
    let usual = now.plus_millis(millis(app.config.stage_lifetime));
    let stage = NewStage {
        staging_id: order.staging_id,
        blob_id: order.blob_id,
        expires_at: order.expires_at.unwrap_or(usual),
        expiry_chosen: order.expires_at.is_some(),
        content_type: order.content_type,
    };
    match app.store.open_stage(user, &stage, now).await? {
        StageAnswer::Open(row) => Ok(row),
        StageAnswer::Taken => Err(ApiError::conflict(
            code::ID_TAKEN,
            "The staging id or the blob id is in use for something else",
        )),
    }
}

fn check_content_type(text: Option<&str>) -> Result<(), ApiError> {
    if text.is_none_or(is_content_type) {
        return Ok(());
    }
    Err(ApiError::invalid(
        "contentType",
        format_args!("must be 1 to {MAX_CONTENT_TYPE_BYTES} bytes of printable ASCII"),
    ))
}

/// Decodes content that rides along in JSON.
pub(crate) fn inline(field: &str, text: &str) -> Result<Bytes, ApiError> {
    let max = limits::MAX_INLINE_BLOB_BYTES;
    if text.len() > max.div_ceil(3) * 4 {
        return Err(inline_too_large());
    }
    let bytes = STANDARD
        .decode(text)
        .map_err(|error| ApiError::invalid(field, format_args!("is no base64: {error}")))?;
    if bytes.len() > max { Err(inline_too_large()) } else { Ok(bytes.into()) }
}

fn inline_too_large() -> ApiError {
    let max = limits::MAX_INLINE_BLOB_BYTES;
    ApiError::too_large(format!("Content in a JSON body has at most {max} bytes: upload it"))
        .with("maxBytes", max)
}

/// Stores the stage's bytes and says so in the registry, in a task of its own: a caller who goes
/// away in the middle leaves neither half an object nor an object that nobody knows.
pub(crate) async fn fill(
    app: &App,
    user: &UserId,
    stage: StageRow,
    bytes: Incoming,
    digest: Option<Sha256Digest>,
) -> Result<UploadResponse, ApiError> {
    let (app, user) = (app.clone(), user.clone());
    let span = tracing::Span::current();
    let work = async move { fill_now(&app, &user, &stage, bytes, digest).await };
    match tokio::spawn(tracing::Instrument::instrument(work, span)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(ApiError::internal()),
    }
}

async fn fill_now(
    app: &App,
    user: &UserId,
    stage: &StageRow,
    bytes: Incoming,
    digest: Option<Sha256Digest>,
) -> Result<UploadResponse, ApiError> {
    let upload = store_bytes(app, stage, bytes, digest).await?;
    record(app, user, stage, &upload).await?;
    Ok(upload)
}

/// Stores the stage's bytes; if it has them already, compares.
pub(crate) async fn store_bytes(
    app: &App,
    stage: &StageRow,
    bytes: Incoming,
    digest: Option<Sha256Digest>,
) -> Result<UploadResponse, ApiError> {
    if let Some((size, had)) = stage.uploaded {
        return repeated(bytes, digest, size, had).await;
    }
    check_open(stage, app.now())?;
    let expected = Expected { max_size: app.config.max_blob_bytes, digest };
    let stored = app.blobs.put(&stage.blob_id, bytes, expected).await?;
    Ok(UploadResponse { size: stored.size, digest: stored.digest })
}

/// Says in the registry that the stage has its bytes, once they are stored.
pub(crate) async fn record(
    app: &App,
    user: &UserId,
    stage: &StageRow,
    upload: &UploadResponse,
) -> Result<(), ApiError> {
    if stage.uploaded.is_some() {
        return Ok(());
    }
    let recorded = app
        .store
        .record_upload(user, &stage.staging_id, upload.size, upload.digest, app.now())
        .await?;
    match recorded {
        UploadAnswer::Recorded(_) => Ok(()),
        // It ended meanwhile: nobody else will reclaim what came late.
        UploadAnswer::Over(row) => {
            app.blobs.delete(&stage.blob_id).await?;
            Err(over(&row))
        }
        UploadAnswer::Unknown => {
            app.blobs.delete(&stage.blob_id).await?;
            Err(ApiError::unknown_stage())
        }
        UploadAnswer::Differs(_) => Err(upload_differs()),
    }
}

/// The same upload again is answered like the first; other bytes are refused.
async fn repeated(
    mut bytes: Incoming,
    named: Option<Sha256Digest>,
    size: u64,
    digest: Sha256Digest,
) -> Result<UploadResponse, ApiError> {
    use futures::TryStreamExt as _;
    let (mut received, mut hash) = (0_u64, Sha256::new());
    while let Some(chunk) = bytes
        .try_next()
        .await
        .map_err(|error| ApiError::from(vfs_sync_blobs::PutError::Source(error)))?
    {
        received += chunk.len() as u64;
        if received > size {
            return Err(upload_differs());
        }
        hash.update(&chunk);
    }
    let actual = Sha256Digest(hash.finalize().into());
    if let Some(expected) = named.filter(|named| *named != actual) {
        return Err(vfs_sync_blobs::PutError::DigestMismatch { expected, actual }.into());
    }
    if received == size && actual == digest {
        Ok(UploadResponse { size, digest })
    } else {
        Err(upload_differs())
    }
}

fn check_open(stage: &StageRow, now: Timestamp) -> Result<(), ApiError> {
    if stage.status != StageStatus::Staged || stage.expires_at <= now {
        return Err(over(stage));
    }
    Ok(())
}

fn over(stage: &StageRow) -> ApiError {
    if stage.status == StageStatus::Staged {
        return ApiError::conflict(code::STAGE_EXPIRED, "The stage has expired");
    }
    ApiError::conflict(code::STAGE_NOT_ATTACHABLE, "The stage takes no more bytes")
        .with("status", stage.status.as_str())
}

/// Binds a stage to an item.
pub(crate) async fn attach(
    app: &App,
    user: &UserId,
    staging_id: &StagingId,
    request: &AttachRequest,
) -> Result<AttachResponse, ApiError> {
    if let Some(write_ids) = &request.required_last_reconciled_write_ids {
        check_write_ids("requiredLastReconciledWriteIds", write_ids.len())?;
    }
    match app.store.attach(user, staging_id, request, new_ref_id(), app.now()).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(refusal)) => Err(attach_refused(refusal)),
        Err(StoreError::MalformedRow { table, key, reason }) => {
            Err(attach_failed(&format!("the row {key} of {table}: {reason}")))
        }
        Err(error) => Err(error.into()),
    }
}
