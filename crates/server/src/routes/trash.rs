//! The trash: lists, restores and purges deleted items.

use axum::Json;
use axum::extract::State;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderName, HeaderValue, StatusCode, Uri};
use vfs_sync_core::id::ItemId;
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::code;
use vfs_sync_core::wire::trash::{PurgeResponse, RestoreResponse, TrashPage};
use vfs_sync_store::{MAX_TRASH_ITEMS, PurgeAnswer, RestoreAnswer, TrashCursor};

use crate::config::millis;
use crate::error::ApiError;
use crate::http::extract::AuthenticatedUser;
use crate::http::query::Query;
use crate::operator::audit;
use crate::routes::blobs::{PathId, id};
use crate::routes::sync::NO_STORE;
use crate::state::App;

/// The number of items on a page, unless the caller requests another.
const USUAL_PAGE: u32 = 100;
/// The greatest number of items on a page.
const LARGEST_PAGE: u32 = 500;

pub(crate) async fn list(
    State(app): State<App>,
    AuthenticatedUser(user): AuthenticatedUser,
    uri: Uri,
) -> Result<([(HeaderName, HeaderValue); 1], Json<TrashPage>), ApiError> {
    let query = Query::parse(&uri, &["limit", "cursor"])?;
    let limit = query.limit(USUAL_PAGE, LARGEST_PAGE)?;
    let after = query.get("cursor").map(read_cursor).transpose()?;
    let keep = millis(app.config.keep_deleted);
    let listing = app.store.trash(&user, after, limit, keep).await?;
    let next_cursor = listing.next.as_ref().map(cursor_text);
    Ok(([NO_STORE], Json(TrashPage { items: listing.items, next_cursor })))
}

fn cursor_text(cursor: &TrashCursor) -> String {
    URL_SAFE_NO_PAD.encode(format!("{} {}", cursor.at.as_millis(), cursor.item_id))
}

fn read_cursor(text: &str) -> Result<TrashCursor, ApiError> {
    let read = || {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let text = String::from_utf8(bytes).ok()?;
        let (at, item_id) = text.split_once(' ')?;
        let at = Timestamp::from_millis(at.parse().ok()?)?;
        Some(TrashCursor { at, item_id: item_id.parse().ok()? })
    };
    read().ok_or_else(|| ApiError::invalid_cursor("cursor"))
}

/// Parses `recursive`: whether a call covers the items that were deleted with the named one. True
/// by default.
fn recursive(uri: &Uri) -> Result<bool, ApiError> {
    match Query::parse(uri, &["recursive"])?.get("recursive") {
        None | Some("true") => Ok(true),
        Some("false") => Ok(false),
        Some(_) => Err(ApiError::invalid("recursive", "must be true or false")),
    }
}

fn too_many() -> ApiError {
    let sentence = "More items were deleted with it than one call may cover: restore or purge the items in it first";
    ApiError::too_large(sentence).with("maxItems", MAX_TRASH_ITEMS)
}

pub(crate) async fn restore(
    State(app): State<App>,
    AuthenticatedUser(user): AuthenticatedUser,
    path: PathId,
    uri: Uri,
) -> Result<Json<RestoreResponse>, ApiError> {
    let item_id = id::<ItemId>(path, ApiError::unknown_item)?;
    match app.store.restore(&user, &item_id, recursive(&uri)?, app.now()).await? {
        RestoreAnswer::Restored(restored) => Ok(Json(RestoreResponse { item_id, restored })),
        RestoreAnswer::Unknown => Err(ApiError::unknown_item()),
        RestoreAnswer::TooMany => Err(too_many()),
    }
}

pub(crate) async fn purge(
    State(app): State<App>,
    AuthenticatedUser(user): AuthenticatedUser,
    path: PathId,
    uri: Uri,
) -> Result<Json<PurgeResponse>, ApiError> {
    let item_id = id::<ItemId>(path, ApiError::unknown_item)?;
    match app.store.purge(&user, &item_id, recursive(&uri)?, app.now()).await? {
        PurgeAnswer::Purged(purged) => {
            audit::note(&app, &user, "purged", &user, item_id.as_str());
            Ok(Json(PurgeResponse { item_id, purged }))
        }
        PurgeAnswer::Unknown => Err(ApiError::unknown_item()),
        PurgeAnswer::Live => {
            Err(ApiError::conflict(code::NOT_IN_TRASH, "The item is not deleted: delete it first"))
        }
        PurgeAnswer::NotOwner => Err(ApiError::new(
            StatusCode::FORBIDDEN,
            code::NOT_PERMITTED,
            "Only the owner may remove an item for good",
        )),
        PurgeAnswer::TooMany => Err(too_many()),
    }
}
