//! Devices: their users list, rename and revoke them, operators list and revoke any.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderName, HeaderValue, StatusCode, Uri};
use vfs_sync_core::id::{ReplicaId, UserId, of_path_step};
use vfs_sync_core::limits::MAX_PULL_LIMIT;
use vfs_sync_core::server::device::DeviceState;
use vfs_sync_core::tree::device_name;
use vfs_sync_core::wire::device::{DeviceView, DevicesResponse, RenameDevice};
use vfs_sync_store::DeviceChange;

use crate::error::ApiError;
use crate::http::extract::{Administrator, AuthenticatedUser, RawBody};
use crate::http::query::Query;
use crate::operator::audit;
use crate::routes::sync::NO_STORE;
use crate::state::App;

/// The number of devices on a page, unless the caller requests another.
const USUAL_PAGE: u32 = 100;
/// Bytes of the body that renames a device.
const MAX_BODY_BYTES: usize = 4 * 1024;

type Listing = ([(HeaderName, HeaderValue); 1], Json<DevicesResponse>);
type OneId = Result<Path<String>, PathRejection>;
type TwoIds = Result<Path<(String, String)>, PathRejection>;

fn client_of(text: &str) -> Result<ReplicaId, ApiError> {
    of_path_step(text).parse().map_err(|reason| ApiError::invalid("clientId", reason))
}

fn user_of(text: &str) -> Result<UserId, ApiError> {
    of_path_step(text).parse().map_err(|reason| ApiError::invalid("userId", reason))
}

fn no_utf8(_: PathRejection) -> ApiError {
    ApiError::invalid("the path", "must be UTF-8, percent-encoded")
}

async fn page(
    app: &App,
    of: Option<UserId>,
    query: &Query,
    to_operator: bool,
) -> Result<Listing, ApiError> {
    let limit = query.limit(USUAL_PAGE, MAX_PULL_LIMIT)?;
    let after = query.get("cursor").map(read_cursor).transpose()?;
    // One row more than requested shows whether there are more.
    let mut found = app.store.devices(of, after, limit + 1).await?;
    let more = found.len() > limit as usize;
    found.truncate(limit as usize);
    let next_cursor = found.last().filter(|_| more).map(cursor_text);
    let now = app.now();
    let view = |state| DeviceView::of(state, now, to_operator);
    let devices = found.into_iter().map(view).collect();
    Ok(([NO_STORE], Json(DevicesResponse { devices, next_cursor })))
}

fn cursor_text(state: &DeviceState) -> String {
    let (user, client) = (state.device.user.as_str(), state.device.client.as_str());
    URL_SAFE_NO_PAD.encode(format!("{client}:{user}"))
}

fn read_cursor(text: &str) -> Result<(UserId, ReplicaId), ApiError> {
    let read = || {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        // A client id has no colon.
        let (client, user) = text.split_once(':')?;
        Some((user.parse().ok()?, client.parse().ok()?))
    };
    read().ok_or_else(|| ApiError::invalid_cursor("cursor"))
}

pub(crate) async fn list(
    State(app): State<App>,
    AuthenticatedUser(user): AuthenticatedUser,
    uri: Uri,
) -> Result<Listing, ApiError> {
    let query = Query::parse(&uri, &["cursor", "limit"])?;
    page(&app, Some(user), &query, false).await
}

pub(crate) async fn rename(
    State(app): State<App>,
    AuthenticatedUser(user): AuthenticatedUser,
    path: OneId,
    raw: RawBody,
) -> Result<StatusCode, ApiError> {
    let Path(client) = path.map_err(no_utf8)?;
    let client = client_of(&client)?;
    let (body, _memory): (RenameDevice, _) =
        app.reader(&user).json(&raw.headers, raw.body, MAX_BODY_BYTES).await?;
    if body.name.trim().is_empty() {
        return Err(ApiError::invalid("name", "must not be empty"));
    }
    let rename = DeviceChange::Rename(device_name(&body.name));
    if !app.store.change_device(&user, &client, rename, app.now()).await? {
        return Err(ApiError::unknown_device());
    }
    audit::note(&app, &user, "device_renamed", &user, client.as_str());
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn revoke(
    State(app): State<App>,
    AuthenticatedUser(user): AuthenticatedUser,
    path: OneId,
) -> Result<StatusCode, ApiError> {
    let Path(client) = path.map_err(no_utf8)?;
    revoke_by(&app, &user, &user, &client_of(&client)?).await
}

async fn revoke_by(
    app: &App,
    by: &UserId,
    user: &UserId,
    client: &ReplicaId,
) -> Result<StatusCode, ApiError> {
    if !app.store.change_device(user, client, DeviceChange::Revoke, app.now()).await? {
        return Err(ApiError::unknown_device());
    }
    app.admissions.changed();
    audit::note(app, by, "device_revoked", user, client.as_str());
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn list_any(
    State(app): State<App>,
    Administrator(admin): Administrator,
    uri: Uri,
) -> Result<Listing, ApiError> {
    let query = Query::parse(&uri, &["cursor", "limit", "userId"])?;
    let of = query.get("userId").map(user_of).transpose()?;
    audit::note(&app, &admin, "devices_listed", of.as_ref().unwrap_or(&admin), "");
    page(&app, of, &query, true).await
}

pub(crate) async fn revoke_any(
    State(app): State<App>,
    Administrator(admin): Administrator,
    path: TwoIds,
) -> Result<StatusCode, ApiError> {
    let Path((user, client)) = path.map_err(no_utf8)?;
    revoke_by(&app, &admin, &user_of(&user)?, &client_of(&client)?).await
}
