//! The look-up of an item, without its name; the name is a call of its own, which the audit log has.

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};
use vfs_sync_core::id::{ItemId, of_path_step};
use vfs_sync_store::ItemRecord;

use crate::error::ApiError;
use crate::http::extract::Administrator;
use crate::operator::audit;
use crate::state::App;

async fn record(app: &App, text: &str) -> Result<(ItemId, ItemRecord), ApiError> {
    let id: ItemId = of_path_step(text).parse().map_err(|_| ApiError::unknown_item())?;
    let record = app.store.any_item(&id).await?.ok_or_else(ApiError::unknown_item)?;
    Ok((id, record))
}

pub(crate) async fn item(
    State(app): State<App>,
    Administrator(admin): Administrator,
    Path(text): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let (id, ItemRecord { item, parents, grants, attachments }) = record(&app, &text).await?;
    audit::note(&app, &admin, "item_shown", &item.owner, id.as_str());
    let attachments: Vec<Value> = attachments
        .iter()
        .map(|one| {
            json!({
                "blobId": one.blob_id,
                "relationKind": one.relation_kind,
                "size": one.size,
                "attachedAt": one.attached_at,
            })
        })
        .collect();
    Ok(Json(json!({
        "itemId": id,
        "owner": item.owner,
        "objectType": item.fields.object_type.as_ref().map(|register| register.value),
        "createdAt": item.created_at,
        "deleted": item.fields.is_deleted(),
        "purged": item.is_purged(),
        "encrypted": item.fields.encrypted.is_some(),
        "parents": parents,
        "grants": grants,
        "attachments": attachments,
    })))
}

pub(crate) async fn item_name(
    State(app): State<App>,
    Administrator(admin): Administrator,
    Path(text): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let (id, ItemRecord { item, .. }) = record(&app, &text).await?;
    audit::note(&app, &admin, "item_name_shown", &item.owner, id.as_str());
    let name = item.fields.name.as_ref().map(|register| &register.value);
    Ok(Json(json!({"itemId": id, "name": name})))
}
