//! Look-ups for operators: any stage, blob or reconcile state, so that triage needs no SQL.

use axum::Json;
use axum::extract::{Path, State};
use futures::StreamExt as _;
use http::Uri;
use serde_json::{Value, json};
use vfs_sync_core::id::{BlobId, ReplicaId, UserId, of_path_step};

use crate::error::{ApiError, count_blob_error};
use crate::http::extract::Administrator;
use crate::http::query::Query;
use crate::operator::audit;
use crate::routes::blobs::{PathId, id, staging_id};
use crate::state::App;

pub(crate) async fn stage(
    State(app): State<App>,
    Administrator(admin): Administrator,
    path: PathId,
) -> Result<Json<Value>, ApiError> {
    let staging_id = staging_id(path)?;
    audit::note(&app, &admin, "stage_shown", &admin, staging_id.as_str());
    let found = app.store.any_stage(&staging_id).await?.ok_or_else(ApiError::unknown_stage)?;
    let stage = found.stage;
    let upload = found.upload.map(|upload| {
        json!({
            "length": upload.length,
            "offset": upload.received,
            "parts": upload.parts,
            "begun": upload.handle.is_some(),
        })
    });
    Ok(Json(json!({
        "stage": stage.to_response(),
        "owner": stage.owner,
        "contentType": stage.content_type,
        "expired": stage.expires_at <= app.now(),
        "blobStatus": found.blob_status,
        "upload": upload,
    })))
}

pub(crate) async fn blob(
    State(app): State<App>,
    Administrator(admin): Administrator,
    path: PathId,
) -> Result<Json<Value>, ApiError> {
    let blob_id: BlobId = id(path, ApiError::unknown_blob)?;
    audit::note(&app, &admin, "blob_shown", &admin, blob_id.as_str());
    let found = app.store.any_blob(&blob_id).await?.ok_or_else(ApiError::unknown_blob)?;
    let attachments: Vec<Value> = found
        .attachments
        .iter()
        .map(|attachment| {
            json!({
                "itemId": attachment.item_id,
                "relationKind": attachment.relation_kind,
                "refId": attachment.ref_id,
                "attachedAt": attachment.attached_at,
                "modifiedAt": attachment.modified_at,
            })
        })
        .collect();
    let object = object(&app, &blob_id).await;
    Ok(Json(json!({
        "blobId": blob_id,
        "stage": found.stage.stage.to_response(),
        "owner": found.stage.stage.owner,
        "blobStatus": found.stage.blob_status,
        "attachments": attachments,
        "object": object,
    })))
}

/// Asks the store for the object of `blob_id`.
async fn object(app: &App, blob_id: &BlobId) -> Value {
    let read = async {
        let mut bytes = app.blobs.get(blob_id, None).await?;
        bytes.next().await.transpose()
    };
    match read.await {
        Ok(_) => json!({"present": true}),
        Err(error) if error.storage_code == "NoSuchKey" => json!({"present": false}),
        Err(error) => {
            count_blob_error(&error);
            json!({"storageCode": error.storage_code, "retryable": error.retryable})
        }
    }
}

pub(crate) async fn state(
    State(app): State<App>,
    Administrator(admin): Administrator,
    path: PathId,
    uri: Uri,
) -> Result<Json<Value>, ApiError> {
    let malformed = |reason: &dyn std::fmt::Display| ApiError::invalid("userId", reason);
    let Path(text) = path.map_err(|_| malformed(&"must be UTF-8"))?;
    let user: UserId = of_path_step(&text).parse().map_err(|reason| malformed(&reason))?;
    let query = Query::parse(&uri, &["clientId"])?;
    let client =
        query.get("clientId").ok_or_else(|| ApiError::invalid("clientId", "is missing"))?;
    let client = ReplicaId::new(client).map_err(|reason| ApiError::invalid("clientId", reason))?;
    audit::note(&app, &admin, "state_shown", &user, client.as_str());
    let state = app.store.state(&user, &client).await?;
    let usage = app.store.blob_usage(&user).await?;
    Ok(Json(json!({
        "userId": user,
        "state": state,
        "blobUsage": {
            "storedBytes": usage.stored,
            "stagedBytes": usage.staged,
            "openStages": usage.open_stages,
        },
    })))
}
