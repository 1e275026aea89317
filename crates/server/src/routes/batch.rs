//! Many small files in one request.

use axum::Json;
use axum::extract::{Extension, State};
use futures::{StreamExt as _, TryFutureExt as _};
use vfs_sync_core::id::{StagingId, UserId};
use vfs_sync_core::limits;
use vfs_sync_core::wire::{
    BlobBatchAttached, BlobBatchError, BlobBatchFile, BlobBatchRequest, BlobBatchResponse,
    BlobBatchResult, BlobBatchStatus,
};

use crate::app::{App, Caller, Raw};
use crate::error::ApiError;
use crate::observe::RequestId;
use crate::staging::{self, StageOrder};

/// Files of one batch under way at a time: the store puts their transactions into one commit.
const AT_A_TIME: usize = 64;

pub(crate) async fn batch(
    State(app): State<App>,
    Caller(user): Caller,
    Extension(id): Extension<RequestId>,
    raw: Raw,
) -> Result<Json<BlobBatchResponse>, ApiError> {
    let max = limits::MAX_BLOB_BATCH_BYTES;
    let held = app.reader().json_bytes(&raw.headers, raw.body, max).await?;
    let request: BlobBatchRequest = crate::body::parse(&held.bytes)?;
    let count = request.files.len();
    if count > limits::MAX_BLOB_BATCH {
        let max = limits::MAX_BLOB_BATCH;
        return Err(ApiError::too_large(format!(
            "A batch has at most {max} files, this one {count}"
        ))
        .with("maxFiles", max));
    }
    let results = futures::stream::iter(request.files.into_iter().enumerate())
        .map(|(at, file)| one(&app, &user, &id, at, file))
        .buffered(AT_A_TIME)
        .collect()
        .await;
    drop(held);
    Ok(Json(BlobBatchResponse { results }))
}

async fn one(
    app: &App,
    user: &UserId,
    request: &RequestId,
    at: usize,
    file: BlobBatchFile,
) -> BlobBatchResult {
    let staging_id = file.staging_id.clone().unwrap_or_else(staging::new_staging_id);
    let blob_id = file.blob_id.clone();
    match all_steps(app, user, &staging_id, at, file).await {
        Ok(attached) => BlobBatchResult {
            staging_id,
            blob_id,
            status: BlobBatchStatus::Attached,
            attached: Some(attached),
            error: None,
        },
        Err(error) => BlobBatchResult {
            staging_id,
            blob_id,
            status: BlobBatchStatus::Failed,
            attached: None,
            error: Some(BlobBatchError {
                http_status: error.status.as_u16(),
                body: error.body(&request.0),
            }),
        },
    }
}

async fn all_steps(
    app: &App,
    user: &UserId,
    staging_id: &StagingId,
    at: usize,
    file: BlobBatchFile,
) -> Result<BlobBatchAttached, ApiError> {
    let bytes = staging::inline(&format!("files[{at}].dataBase64"), &file.data_base64)?;
    let order = StageOrder {
        staging_id: staging_id.clone(),
        blob_id: file.blob_id,
        expires_at: None,
        content_type: file.content_type,
    };
    let uploaded = staging::open(app, user, order)
        .and_then(|stage| staging::fill_inline(app, user, stage, bytes))
        .await?;
    let attached = staging::attach(app, user, staging_id, &file.attach).await?;
    Ok(BlobBatchAttached {
        size: uploaded.size,
        digest: uploaded.digest,
        item_id: attached.item_id,
        relation_kind: attached.relation_kind,
        ref_id: attached.ref_id,
        attached_at: attached.attached_at,
    })
}
