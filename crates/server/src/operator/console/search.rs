//! The search of the console: what an operator has in hand is an id, a pseudonym of a log, a device's
//! name, or a signature.

use axum::Json;
use axum::extract::State;
use http::Uri;
use serde_json::{Value, json};
use vfs_sync_core::id::{BlobId, ItemId, StagingId, UserId};
use vfs_sync_core::runbook::{self, Entry};
use vfs_sync_core::wire::device::DeviceView;

use super::problems::recent_devices;
use crate::error::ApiError;
use crate::http::extract::Administrator;
use crate::http::query::Query;
use crate::operator::audit;
use crate::state::App;

/// Bytes of a text that is searched for.
const MAX_QUERY_BYTES: usize = 256;
/// Devices in an answer.
const MAX_DEVICES: usize = 20;
/// Entries of the runbook in an answer.
const MAX_ENTRIES: usize = 5;
/// Users of a page, and the most whose pseudonyms are compared.
const PAGE: u32 = 500;
const MAX_USERS: usize = 20_000;
/// Characters of a pseudonym.
const PSEUDONYM: usize = 16;

pub(crate) async fn search(
    State(app): State<App>,
    Administrator(admin): Administrator,
    uri: Uri,
) -> Result<Json<Value>, ApiError> {
    let query = Query::parse(&uri, &["q"])?;
    let text = query.get("q").map(str::trim).unwrap_or_default();
    if text.is_empty() || text.len() > MAX_QUERY_BYTES {
        let problem = format_args!("must have 1 to {MAX_QUERY_BYTES} bytes");
        return Err(ApiError::invalid("q", problem));
    }
    let user = user(&app, text).await?;
    let devices = devices(&app, text).await?;
    let item = match text.parse::<ItemId>() {
        Ok(id) => app.store.any_item(&id).await?.map(|found| (id, found.item.owner)),
        Err(_) => None,
    };
    let blob = match text.parse::<BlobId>() {
        Ok(id) => app.store.any_blob(&id).await?.map(|found| (id, found.stage.stage.owner)),
        Err(_) => None,
    };
    let stage = match text.parse::<StagingId>() {
        Ok(id) => app.store.any_stage(&id).await?.map(|found| (id, found.stage.owner)),
        Err(_) => None,
    };
    let entries = runbook::find(text).into_iter().take(MAX_ENTRIES).map(Entry::to_json);
    // What is no id may be a name, which no log has.
    let owners = [item.as_ref().map(|(_, of)| of), blob.as_ref().map(|(_, of)| of)];
    let owners = owners.into_iter().chain([stage.as_ref().map(|(_, of)| of), user.as_ref()]);
    let of = owners.flatten().next();
    let is_id = item.is_some() || blob.is_some() || stage.is_some();
    audit::note(&app, &admin, "searched", of.unwrap_or(&admin), if is_id { text } else { "" });
    Ok(Json(json!({
        "user": user.map(|user| json!({"pseudonym": app.pseudonyms.of(&user), "userId": user})),
        "devices": devices,
        "item": item.map(|(id, owner)| json!({"itemId": id, "owner": owner})),
        "blob": blob.map(|(id, owner)| json!({"blobId": id, "owner": owner})),
        "stage": stage.map(|(id, owner)| json!({"stagingId": id, "owner": owner})),
        "entries": entries.collect::<Vec<_>>(),
    })))
}

/// Returns the user of an id or of a pseudonym.
async fn user(app: &App, text: &str) -> Result<Option<UserId>, ApiError> {
    if let Ok(user) = text.parse::<UserId>()
        && app.store.user_record(&user).await?.is_some()
    {
        return Ok(Some(user));
    }
    if text.len() != PSEUDONYM || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(None);
    }
    let (mut seen, mut after) = (0, None);
    while seen < MAX_USERS {
        let page = app.store.known_users(after, PAGE).await?;
        if let Some(found) = page.iter().find(|user| app.pseudonyms.of(user) == text) {
            return Ok(Some(found.clone()));
        }
        if page.len() < PAGE as usize {
            break;
        }
        seen += page.len();
        after = page.last().cloned();
    }
    Ok(None)
}

/// Returns devices that called within 7 days with this id, or with this text in their names.
async fn devices(app: &App, text: &str) -> Result<Vec<DeviceView>, ApiError> {
    let wanted = text.to_lowercase();
    let recent = recent_devices(app).await?;
    let now = app.now();
    let found = recent.iter().filter(|state| {
        state.device.client.as_str() == text || state.device.name().to_lowercase().contains(&wanted)
    });
    Ok(found.take(MAX_DEVICES).map(|state| DeviceView::of(state.clone(), now, true)).collect())
}
