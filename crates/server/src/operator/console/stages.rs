//! Open stages: the ones that end first, and their end.

use axum::Json;
use axum::extract::{Path, State};
use http::{StatusCode, Uri};
use serde_json::{Value, json};
use vfs_sync_core::id::{StagingId, of_path_step};
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::code;
use vfs_sync_store::AbandonAnswer;

use crate::blobs::reclaim;
use crate::error::ApiError;
use crate::http::extract::Administrator;
use crate::http::query::Query;
use crate::operator::audit;
use crate::state::App;

/// The number of stages in an answer, unless the caller requests another, and the greatest.
const USUAL_PAGE: u32 = 50;
const MAX_PAGE: u32 = 100;

pub(crate) async fn list(
    State(app): State<App>,
    Administrator(admin): Administrator,
    uri: Uri,
) -> Result<Json<Value>, ApiError> {
    let limit = Query::parse(&uri, &["limit"])?.limit(USUAL_PAGE, MAX_PAGE)?;
    audit::note(&app, &admin, "stages_listed", &admin, "");
    // Of a time beyond all times every open stage has expired.
    let mut found = app.store.expired_stages(Timestamp::MAX, limit + 1).await?;
    let has_more = found.len() > limit as usize;
    found.truncate(limit as usize);
    let now = app.now();
    let mut stages = Vec::new();
    for (_, id) in found {
        // One that was attached since is not open any more.
        let Some(record) = app.store.any_stage(&id).await? else { continue };
        stages.push(json!({
            "stage": record.stage.to_response(),
            "owner": record.stage.owner,
            "expired": record.stage.expires_at <= now,
            "upload": record.upload.map(|upload| json!({
                "length": upload.length,
                "offset": upload.received,
                "parts": upload.parts,
            })),
        }));
    }
    Ok(Json(json!({"stages": stages, "hasMore": has_more})))
}

pub(crate) async fn abandon(
    State(app): State<App>,
    Administrator(admin): Administrator,
    Path(text): Path<String>,
) -> Result<StatusCode, ApiError> {
    let id: StagingId = of_path_step(&text).parse().map_err(|_| ApiError::unknown_stage())?;
    let found = app.store.any_stage(&id).await?.ok_or_else(ApiError::unknown_stage)?;
    let owner = found.stage.owner;
    match app.store.abandon(&owner, &id, app.now()).await? {
        AbandonAnswer::Unknown => Err(ApiError::unknown_stage()),
        AbandonAnswer::Attached(row) => Err(ApiError::conflict(
            code::STAGE_NOT_ATTACHABLE,
            "The stage is attached and cannot be abandoned",
        )
        .with("status", row.status.as_str())),
        AbandonAnswer::Abandoned(row) => {
            audit::note(&app, &admin, "stage_abandoned", &owner, id.as_str());
            reclaim::now(&app, &row.blob_id).await?;
            Ok(StatusCode::NO_CONTENT)
        }
    }
}
