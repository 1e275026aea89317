//! Stages and blobs, one call at a time.

use std::str::FromStr;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, get};
use futures::StreamExt as _;
use http::{HeaderMap, Method, StatusCode};
use http_body::Body as _;
use serde_json::{Value, json};
use vfs_sync_blobs::Outgoing;
use vfs_sync_core::id::{BlobId, ItemId, StagingId, of_path_step};
use vfs_sync_core::limits;
use vfs_sync_core::wire::{
    AttachRequest, AttachResponse, DeleteResponse, StageRequest, StageResponse, StageStatus,
    UploadResponse, VersionsResponse, code,
};
use vfs_sync_store::{AbandonAnswer, DeleteAnswer, UploadAccess};

use crate::blobs::reclaim;
use crate::blobs::stage::{self, Announced, StageOrder};
use crate::blobs::upload;
use crate::error::{ApiError, count_blob_error, truncated};
use crate::http::body::{MAX_JSON_BYTES, check_plain, timed};
use crate::http::conditional::{self, Selection};
use crate::http::extract::{AuthenticatedUser, RawBody};
use crate::state::App;

/// The greatest size of a stage's body: its content as base64, and the rest.
const MAX_STAGE_BYTES: usize = limits::MAX_INLINE_BLOB_BYTES / 3 * 4 + MAX_JSON_BYTES;

pub(super) type PathId = Result<Path<String>, PathRejection>;

/// Parses an id in a path; a malformed id is answered as an unknown one.
pub(super) fn id<T: FromStr>(path: PathId, unknown: fn() -> ApiError) -> Result<T, ApiError> {
    let Path(text) = path.map_err(|_| unknown())?;
    of_path_step(&text).parse().map_err(|_| unknown())
}

pub(super) fn staging_id(path: PathId) -> Result<StagingId, ApiError> {
    id(path, ApiError::unknown_stage)
}

pub(crate) async fn stage(
    State(app): State<App>,
    AuthenticatedUser(user): AuthenticatedUser,
    raw: RawBody,
) -> Result<(StatusCode, Json<StageResponse>), ApiError> {
    let (request, _memory): (StageRequest, _) =
        app.reader(&user).json(&raw.headers, raw.body, MAX_STAGE_BYTES).await?;
    let data = request.data_base64.as_deref();
    let bytes = data.map(|text| stage::inline("dataBase64", text)).transpose()?;
    let order = StageOrder {
        staging_id: request.staging_id.unwrap_or_else(|| app.environment.new_staging_id()),
        blob_id: request.blob_id,
        expires_at: request.expires_at,
        content_type: request.content_type,
        size: bytes.as_ref().map_or(0, |bytes| bytes.len() as u64),
    };
    let row = stage::open(&app, &user, order).await?;
    let mut response = row.to_response();
    if let Some(bytes) = bytes {
        let uploaded = stage::fill_inline(&app, &user, row, bytes).await?;
        (response.size, response.digest) = (Some(uploaded.size), Some(uploaded.digest));
    }
    Ok((StatusCode::CREATED, Json(response)))
}

pub(crate) async fn stage_state(
    State(app): State<App>,
    AuthenticatedUser(user): AuthenticatedUser,
    path: PathId,
) -> Result<Json<StageResponse>, ApiError> {
    let staging_id = staging_id(path)?;
    let access = app.store.upload(&user, &staging_id, app.now()).await?;
    let access = match upload::finish_if_complete(&app, &user, &staging_id, access.clone()).await {
        // The received bytes differ from the blob's: this call only returns the stage's state.
        Err(error) if error.code == code::UPLOAD_DIFFERS => access,
        finished => finished?,
    };
    let (stage, offset) = match access {
        UploadAccess::Open(stage, upload) => (stage, upload.received),
        UploadAccess::Complete(stage) | UploadAccess::Over(stage) => {
            let size = stage.uploaded.map(|(size, _)| size);
            (stage, size.unwrap_or(0))
        }
        refused => return Err(upload::refused(&app, &user, refused).await),
    };
    Ok(Json(StageResponse { offset: Some(offset), ..stage.to_response() }))
}

pub(crate) async fn upload(
    State(app): State<App>,
    AuthenticatedUser(user): AuthenticatedUser,
    path: PathId,
    raw: RawBody,
) -> Result<Json<UploadResponse>, ApiError> {
    let staging_id = staging_id(path)?;
    check_plain(&raw.headers)?;
    let digest = conditional::named_digest(&raw.headers)?;
    let stage = app.store.stage(&user, &staging_id).await?;
    let stage = stage.ok_or_else(ApiError::unknown_stage)?;
    let length = raw.body.size_hint().exact();
    let bytes = Announced { bytes: timed(raw.body, app.config.pace()).boxed(), length };
    Ok(Json(stage::fill(&app, &user, stage, bytes, digest).await?))
}

pub(crate) async fn attach(
    State(app): State<App>,
    AuthenticatedUser(user): AuthenticatedUser,
    path: PathId,
    raw: RawBody,
) -> Result<Json<AttachResponse>, ApiError> {
    let staging_id = staging_id(path)?;
    let (request, _memory): (AttachRequest, _) =
        app.reader(&user).json(&raw.headers, raw.body, MAX_JSON_BYTES).await?;
    Ok(Json(stage::attach(&app, &user, &staging_id, &request).await?))
}

pub(crate) async fn abandon(
    State(app): State<App>,
    AuthenticatedUser(user): AuthenticatedUser,
    path: PathId,
) -> Result<Json<Value>, ApiError> {
    match app.store.abandon(&user, &staging_id(path)?, app.now()).await? {
        AbandonAnswer::Unknown => Err(ApiError::unknown_stage()),
        AbandonAnswer::Attached(row) => Err(ApiError::conflict(
            code::STAGE_NOT_ATTACHABLE,
            "The stage is attached and cannot be abandoned",
        )
        .with("status", row.status.as_str())),
        AbandonAnswer::Abandoned(row) => {
            reclaim::now(&app, &row.blob_id).await?;
            Ok(Json(json!({
                "abandoned": true,
                "stagingId": row.staging_id,
                "status": StageStatus::Abandoned,
            })))
        }
    }
}

pub(crate) async fn read(
    State(app): State<App>,
    AuthenticatedUser(user): AuthenticatedUser,
    path: PathId,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let blob_id = id::<BlobId>(path, ApiError::unknown_blob)?;
    let blob = app.store.readable_blob(&user, &blob_id).await?;
    let blob = blob.ok_or_else(ApiError::unknown_blob)?;
    let selection = conditional::select(&method, &headers, &blob);
    let (status, fields) = conditional::answer_head(&blob, &selection);
    let range = match selection {
        Selection::Unchanged => return Ok((status, fields).into_response()),
        Selection::Unsatisfiable => {
            let error = ApiError::new(
                status,
                "range_not_satisfiable",
                format!("The blob has {} bytes", blob.size),
            )
            .with("size", blob.size);
            return Ok((fields, error).into_response());
        }
        Selection::Whole => None,
        Selection::Part(range) => Some(range),
    };
    if method == Method::HEAD {
        return Ok((status, fields).into_response());
    }
    let length = range.as_ref().map_or(blob.size, |range| range.end - range.start);
    let bytes = app.blobs.get(&blob_id, range).await?;
    Ok((status, fields, Body::from_stream(exactly(bytes, length))).into_response())
}

/// Serves the blob whose id is `name`, for a fixed route that has the same path.
pub(crate) fn named(name: &'static str) -> MethodRouter<App> {
    let path = || PathId::Ok(Path(name.to_owned()));
    get(move |app, caller, method, headers| read(app, caller, path(), method, headers))
        .delete(move |app, caller| delete(app, caller, path()))
}

/// The greatest number of versions in one answer.
const MAX_VERSIONS: u32 = 1_000;

pub(crate) async fn delete(
    State(app): State<App>,
    AuthenticatedUser(user): AuthenticatedUser,
    path: PathId,
) -> Result<Json<DeleteResponse>, ApiError> {
    let blob_id = id::<BlobId>(path, ApiError::unknown_blob)?;
    match app.store.delete_blob(&user, &blob_id, app.now()).await? {
        DeleteAnswer::Unknown => Err(ApiError::unknown_blob()),
        DeleteAnswer::Attached => Err(ApiError::conflict(
            code::BLOB_ATTACHED,
            "The blob is attached to an item and cannot be deleted",
        )),
        DeleteAnswer::Deleting => {
            reclaim::now(&app, &blob_id).await?;
            Ok(Json(DeleteResponse { deleted: true, blob_id }))
        }
    }
}

pub(crate) async fn versions(
    State(app): State<App>,
    AuthenticatedUser(user): AuthenticatedUser,
    path: PathId,
) -> Result<Json<VersionsResponse>, ApiError> {
    let item_id = id::<ItemId>(path, ApiError::unknown_item)?;
    let versions = app.store.versions(&user, &item_id, MAX_VERSIONS).await?;
    let versions = versions.ok_or_else(ApiError::unknown_item)?;
    let versions = versions.into_iter().map(Into::into).collect();
    Ok(Json(VersionsResponse { item_id, versions }))
}

/// Passes on the bytes of an object; the answer breaks off if their number differs from `length`,
/// so that nobody takes a part for the whole.
fn exactly(bytes: Outgoing, length: u64) -> Outgoing {
    futures::stream::unfold(Some((bytes, length)), |state| async move {
        let (mut bytes, left) = state?;
        let next = match bytes.next().await {
            None if left == 0 => return None,
            None => Err(truncated(left)),
            Some(Ok(chunk)) if chunk.len() as u64 > left => Err(truncated(0)),
            Some(next) => next,
        };
        match next {
            Ok(chunk) => {
                let left = left - chunk.len() as u64;
                Some((Ok(chunk), Some((bytes, left))))
            }
            Err(error) => {
                count_blob_error(&error);
                Some((Err(error), None))
            }
        }
    })
    .boxed()
}
