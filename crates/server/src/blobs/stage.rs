//! Stages: the steps from bytes to an item that the single calls and the batch share.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use sha2::{Digest as _, Sha256};
use vfs_sync_core::content::{MAX_CONTENT_TYPE_BYTES, Sha256Digest, is_content_type};
use vfs_sync_core::id::{BlobId, StagingId, UserId};
use vfs_sync_core::limits;
use vfs_sync_core::server::stage::StageRow;
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::{AttachRequest, AttachResponse, StageStatus, UploadResponse, code};
use vfs_sync_store::{NewStage, NewUpload, StageAnswer, StoreError, UploadAccess};

use crate::admission::fair_store::complete_for;
use crate::blobs::upload::{self, UploadWriter, over, over_quota, refused, too_large};
use crate::config::millis;
use crate::error::{
    ApiError, attach_failed, attach_refused, broken_source, digest_mismatch, upload_differs,
};
use crate::http::body::Incoming;
use crate::routes::sync::check_write_ids;
use crate::state::App;

/// The size up to which a content is stored in one write.
pub(crate) const MAX_AT_ONCE: usize = 1024 * 1024;

/// A stage that a client requests.
pub(crate) struct StageOrder {
    pub(crate) staging_id: StagingId,
    pub(crate) blob_id: BlobId,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) content_type: Option<String>,
    /// The number of bytes that the request contains.
    pub(crate) size: u64,
}

/// Opens a stage, or finds it already open.
pub(crate) async fn open(
    app: &App,
    user: &UserId,
    order: StageOrder,
) -> Result<StageRow, ApiError> {
    check_content_type(order.content_type.as_deref())?;
    let max = app.max_blob_bytes();
    if order.size > max {
        return Err(too_large(max));
    }
    let now = app.now();
    let latest = now.plus_millis(millis(app.config.max_stage_lifetime));
    if let Some(end) = order.expires_at {
        if end > latest {
            let hours = app.config.max_stage_lifetime.as_secs() / 3_600;
            let problem = format_args!("must be at most {hours} hours from now");
            return Err(ApiError::invalid("expiresAt", problem));
        }
        // A repetition of an old request gets the present state of its stage.
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
        size: order.size,
    };
    match app.store.open_stage(user, &stage, &app.config.quota(), now).await? {
        StageAnswer::Open(row) => Ok(row),
        StageAnswer::OverQuota(over) => Err(over_quota(app, user, over).await),
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

/// Decodes content that a JSON body contains.
pub(crate) fn inline(field: &str, text: &str) -> Result<Bytes, ApiError> {
    let max = limits::MAX_INLINE_BLOB_BYTES;
    if text.len() > max.div_ceil(3) * 4 {
        return Err(inline_too_large());
    }
    let bytes = STANDARD
        .decode(text)
        .map_err(|error| ApiError::invalid(field, format_args!("is not base64: {error}")))?;
    if bytes.len() > max { Err(inline_too_large()) } else { Ok(bytes.into()) }
}

fn inline_too_large() -> ApiError {
    let max = limits::MAX_INLINE_BLOB_BYTES;
    ApiError::too_large(format!("Content in a JSON body has at most {max} bytes: upload it"))
        .with("maxBytes", max)
}

/// Bytes on their way in, and how many of them were announced.
pub(crate) struct Announced {
    pub(crate) bytes: Incoming,
    pub(crate) length: Option<u64>,
}

/// Stores the stage's bytes and says so in the registry.
pub(crate) async fn fill(
    app: &App,
    user: &UserId,
    stage: StageRow,
    bytes: Announced,
    digest: Option<Sha256Digest>,
) -> Result<UploadResponse, ApiError> {
    let (app, user) = (app.clone(), user.clone());
    complete_for(&user.clone(), async move { fill_now(&app, &user, &stage, bytes, digest).await })
        .await?
}

/// Works as [`fill`] for bytes from the request body, which count since the stage was opened.
pub(crate) async fn fill_inline(
    app: &App,
    user: &UserId,
    stage: StageRow,
    bytes: Bytes,
) -> Result<UploadResponse, ApiError> {
    let (app, user) = (app.clone(), user.clone());
    complete_for(&user.clone(), async move {
        let upload = check_bytes(&app, &stage, &bytes, None)?;
        store_bytes(&app, &user, &stage, bytes, &upload).await?;
        Ok(upload)
    })
    .await?
}

async fn fill_now(
    app: &App,
    user: &UserId,
    stage: &StageRow,
    Announced { mut bytes, length }: Announced,
    digest: Option<Sha256Digest>,
) -> Result<UploadResponse, ApiError> {
    if let Some((size, had)) = stage.uploaded {
        return repeated(bytes, digest, size, had).await;
    }
    check_open(stage, app.now())?;
    let mut head = BytesMut::new();
    let mut memory = app.received(user)?;
    while let Some(chunk) = bytes.next().await {
        let chunk = chunk.map_err(|error| broken_source(&error))?;
        memory.add(chunk.len())?;
        if head.len() + chunk.len() > MAX_AT_ONCE {
            let head = head.freeze();
            let rest = Announced { bytes, length };
            return fill_in_parts(app, user, stage, [head, chunk], rest, 0, digest).await;
        }
        head.extend_from_slice(&chunk);
    }
    let bytes = head.freeze();
    let upload = check_bytes(app, stage, &bytes, digest)?;
    let quota = app.config.quota();
    let access =
        app.store.reserve_upload(user, &stage.staging_id, upload.size, &quota, app.now()).await?;
    match access {
        UploadAccess::Open(stage, _) => {
            store_bytes(app, user, &stage, bytes, &upload).await?;
            Ok(upload)
        }
        // Another call was faster.
        UploadAccess::Complete(stage) => check_bytes(app, &stage, &bytes, digest),
        access => Err(refused(app, user, access).await),
    }
}

/// Stores bytes in parts: if memory should not hold them at once, or if the store has no
/// conditional writes.
async fn fill_in_parts(
    app: &App,
    user: &UserId,
    stage: &StageRow,
    first: [Bytes; 2],
    Announced { mut bytes, length }: Announced,
    counted: u64,
    digest: Option<Sha256Digest>,
) -> Result<UploadResponse, ApiError> {
    let session = UploadWriter::take(app, user, &stage.staging_id, true).await?;
    let mut session = session.whole().of_any_length().announced(length, counted);
    let received = async {
        for chunk in first {
            session.push(chunk).await?;
        }
        session.receive(&mut bytes, |_| {}).await?;
        let actual = session.digest();
        match digest.filter(|expected| *expected != actual) {
            Some(expected) => Err(digest_mismatch(expected, actual)),
            None => session.finish().await,
        }
    };
    match received.await {
        Ok(stored) => Ok(UploadResponse { size: stored.size, digest: stored.digest }),
        Err(error) => {
            let error = session.why(error).await;
            session.give_up().await;
            Err(error)
        }
    }
}

/// Stores checked bytes that already count against the quota, unless the stage has them.
async fn store_bytes(
    app: &App,
    user: &UserId,
    stage: &StageRow,
    bytes: Bytes,
    upload: &UploadResponse,
) -> Result<(), ApiError> {
    if stage.uploaded.is_none() {
        if !app.blobs.writes_once() {
            return put_in_parts(app, user, stage, bytes).await;
        }
        app.blobs.put(&stage.blob_id, bytes).await?;
    }
    record(app, user, stage, upload).await
}

/// Stores a few bytes as an upload in parts, and records them in the registry.
pub(crate) async fn put_in_parts(
    app: &App,
    user: &UserId,
    stage: &StageRow,
    bytes: Bytes,
) -> Result<(), ApiError> {
    let counted = bytes.len() as u64;
    let rest = Announced { bytes: futures::stream::empty().boxed(), length: None };
    fill_in_parts(app, user, stage, [bytes, Bytes::new()], rest, counted, None).await?;
    Ok(())
}

/// Checks that the stage may take these bytes, or that they equal the bytes that it already has.
pub(crate) fn check_bytes(
    app: &App,
    stage: &StageRow,
    bytes: &[u8],
    digest: Option<Sha256Digest>,
) -> Result<UploadResponse, ApiError> {
    let actual = Sha256Digest(Sha256::digest(bytes).into());
    let upload = UploadResponse { size: bytes.len() as u64, digest: actual };
    if let Some(expected) = digest.filter(|expected| *expected != actual) {
        return Err(digest_mismatch(expected, actual));
    }
    if let Some(had) = stage.uploaded {
        let same = had == (upload.size, upload.digest);
        return if same { Ok(upload) } else { Err(upload_differs()) };
    }
    check_open(stage, app.now())?;
    let max = app.max_blob_bytes();
    if upload.size > max {
        return Err(too_large(max));
    }
    Ok(upload)
}

/// Records in the registry that the stage has its bytes, once they are stored.
pub(crate) async fn record(
    app: &App,
    user: &UserId,
    stage: &StageRow,
    upload: &UploadResponse,
) -> Result<(), ApiError> {
    if stage.uploaded.is_some() {
        return Ok(());
    }
    let upload = NewUpload { size: upload.size, digest: upload.digest, lease: None };
    upload::record(app, user, stage, &upload).await
}

/// Answers a repeated upload like the first one; rejects other bytes.
async fn repeated(
    mut bytes: Incoming,
    named: Option<Sha256Digest>,
    size: u64,
    digest: Sha256Digest,
) -> Result<UploadResponse, ApiError> {
    let (mut received, mut hash) = (0_u64, Sha256::new());
    while let Some(chunk) = bytes.next().await {
        let chunk = chunk.map_err(|error| broken_source(&error))?;
        received += chunk.len() as u64;
        if received > size {
            return Err(upload_differs());
        }
        hash.update(&chunk);
    }
    let actual = Sha256Digest(hash.finalize().into());
    if let Some(expected) = named.filter(|named| *named != actual) {
        return Err(digest_mismatch(expected, actual));
    }
    if received == size && actual == digest {
        Ok(UploadResponse { size, digest })
    } else {
        Err(upload_differs())
    }
}

pub(crate) fn check_open(stage: &StageRow, now: Timestamp) -> Result<(), ApiError> {
    if stage.status != StageStatus::Staged || stage.expires_at <= now {
        return Err(over(stage));
    }
    Ok(())
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
    let ref_id = app.environment.new_ref_id();
    match app.store.attach(user, staging_id, request, ref_id, &app.config.quota(), app.now()).await
    {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(refusal)) => Err(attach_refused(refusal)),
        Err(StoreError::MalformedRow { table, key, reason }) => {
            Err(attach_failed(&format!("the row {key} of {table}: {reason}")))
        }
        Err(error) => Err(error.into()),
    }
}
