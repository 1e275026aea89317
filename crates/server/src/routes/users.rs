//! Users, for operators: listed, limited, disabled and enabled, deleted and allowed again.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use http::{HeaderName, HeaderValue, StatusCode, Uri};
use vfs_sync_core::id::{UserId, of_path_step};
use vfs_sync_core::limits::MAX_PULL_LIMIT;
use vfs_sync_core::server::deletion::Deletion;
use vfs_sync_core::server::push::MetadataUsage;
use vfs_sync_core::server::stage::Usage;
use vfs_sync_core::server::user::{UserLimits, UserRecord};
use vfs_sync_core::wire::device::{
    AllowOutcome, AllowUserResponse, DeleteUserRequest, DeletionView, UserView, UsersResponse,
};
use vfs_sync_store::{AllowAnswer, UserChange};

use crate::error::ApiError;
use crate::http::extract::{Administrator, RawBody};
use crate::http::query::Query;
use crate::operator::audit;
use crate::routes::sync::NO_STORE;
use crate::state::App;

/// The number of users on a page, unless the caller requests another.
const USUAL_PAGE: u32 = 100;
/// Bytes of the body that limits a user.
const MAX_BODY_BYTES: usize = 4 * 1024;
/// Seconds from the request of a deletion to the first removal, unless the caller requests others.
const USUAL_WAIT: u64 = 7 * 24 * 3_600;
/// The longest wait, in seconds.
const MAX_WAIT: u64 = 366 * 24 * 3_600;
/// The greatest limit: what a database stores.
const MAX_LIMIT: u64 = i64::MAX as u64;

type OneId = Result<Path<String>, PathRejection>;
type NoStore = [(HeaderName, HeaderValue); 1];

fn user_of(path: OneId) -> Result<UserId, ApiError> {
    let malformed = |reason: &dyn std::fmt::Display| ApiError::invalid("userId", reason);
    let Path(text) = path.map_err(|_| malformed(&"must be UTF-8"))?;
    of_path_step(&text).parse().map_err(|reason| malformed(&reason))
}

fn view(app: &App, record: UserRecord, deletion: Option<&Deletion>) -> UserView {
    let UserRecord { user, disabled_at, limits, metadata, blobs, devices } = record;
    UserView {
        pseudonym: app.pseudonyms.of(&user),
        user_id: user,
        disabled_at,
        limits,
        stored_bytes: blobs.stored,
        staged_bytes: blobs.staged,
        open_stages: blobs.open_stages,
        items: metadata.items,
        links: metadata.links,
        grants: metadata.grants,
        register_bytes: metadata.bytes,
        devices,
        deletion: deletion.map(DeletionView::from),
    }
}

/// The record of a user of whom nothing is left.
fn no_record(user: UserId) -> UserRecord {
    UserRecord {
        user,
        disabled_at: None,
        limits: UserLimits::default(),
        metadata: MetadataUsage::default(),
        blobs: Usage::default(),
        devices: 0,
    }
}

pub(crate) async fn list(
    State(app): State<App>,
    Administrator(admin): Administrator,
    uri: Uri,
) -> Result<(NoStore, Json<UsersResponse>), ApiError> {
    let query = Query::parse(&uri, &["after", "limit"])?;
    let after: Option<UserId> = match query.get("after") {
        Some(text) => Some(text.parse().map_err(|reason| ApiError::invalid("after", reason))?),
        None => None,
    };
    let limit = query.limit(USUAL_PAGE, MAX_PULL_LIMIT)?;
    // One row more than requested shows whether there are more.
    let mut found = app.store.users(after, limit + 1).await?;
    let has_more = found.len() > limit as usize;
    found.truncate(limit as usize);
    audit::note(&app, &admin, "users_listed", &admin, "");
    let mut users = Vec::new();
    for record in found {
        // Whoever is being deleted is disabled.
        let deletion = match record.disabled_at {
            Some(_) => app.store.deletion(&record.user).await?,
            None => None,
        };
        users.push(view(&app, record, deletion.as_ref()));
    }
    Ok(([NO_STORE], Json(UsersResponse { users, has_more })))
}

pub(crate) async fn show(
    State(app): State<App>,
    Administrator(admin): Administrator,
    path: OneId,
) -> Result<(NoStore, Json<UserView>), ApiError> {
    let user = user_of(path)?;
    let found = app.store.user_record(&user).await?;
    let deletion = app.store.deletion(&user).await?;
    let found = match (found, &deletion) {
        (Some(found), _) => found,
        (None, Some(_)) => no_record(user.clone()),
        (None, None) => return Err(ApiError::unknown_user()),
    };
    audit::note(&app, &admin, "user_shown", &user, "");
    Ok(([NO_STORE], Json(view(&app, found, deletion.as_ref()))))
}

pub(crate) async fn limit(
    State(app): State<App>,
    Administrator(admin): Administrator,
    path: OneId,
    raw: RawBody,
) -> Result<StatusCode, ApiError> {
    let user = user_of(path)?;
    let (limits, _memory): (UserLimits, _) =
        app.reader(&admin).json(&raw.headers, raw.body, MAX_BODY_BYTES).await?;
    let UserLimits {
        max_stored_bytes,
        max_staged_bytes,
        max_open_stages,
        max_items,
        max_links,
        max_grants,
        max_register_bytes,
        max_replicas,
    } = limits;
    for (field, value) in [
        ("maxStoredBytes", max_stored_bytes),
        ("maxStagedBytes", max_staged_bytes),
        ("maxOpenStages", max_open_stages),
        ("maxItems", max_items),
        ("maxLinks", max_links),
        ("maxGrants", max_grants),
        ("maxRegisterBytes", max_register_bytes),
        ("maxReplicas", max_replicas),
    ] {
        if value > Some(MAX_LIMIT) {
            return Err(ApiError::invalid(field, format_args!("must be at most {MAX_LIMIT}")));
        }
    }
    app.store.change_user(&user, UserChange::Limit(limits), app.now()).await?;
    audit::note(&app, &admin, "user_limited", &user, "");
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn disable(
    app: State<App>,
    admin: Administrator,
    path: OneId,
) -> Result<StatusCode, ApiError> {
    change(app, admin, path, UserChange::Disable, "user_disabled").await
}

pub(crate) async fn enable(
    app: State<App>,
    admin: Administrator,
    path: OneId,
) -> Result<StatusCode, ApiError> {
    change(app, admin, path, UserChange::Enable, "user_enabled").await
}

async fn change(
    State(app): State<App>,
    Administrator(admin): Administrator,
    path: OneId,
    change: UserChange,
    event: &'static str,
) -> Result<StatusCode, ApiError> {
    let user = user_of(path)?;
    if change == UserChange::Disable && user == admin {
        return Err(ApiError::invalid("userId", "must be another user than the caller"));
    }
    if change == UserChange::Enable {
        let deletion = app.store.deletion(&user).await?;
        if deletion.is_some_and(|deletion| deletion.allowed_at.is_none()) {
            return Err(ApiError::deletion_under_way());
        }
    }
    app.store.change_user(&user, change, app.now()).await?;
    app.admissions.changed();
    audit::note(&app, &admin, event, &user, "");
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn delete(
    State(app): State<App>,
    Administrator(admin): Administrator,
    path: OneId,
    raw: RawBody,
) -> Result<(NoStore, Json<DeletionView>), ApiError> {
    let user = user_of(path)?;
    let (request, _memory): (DeleteUserRequest, _) =
        app.reader(&admin).json(&raw.headers, raw.body, MAX_BODY_BYTES).await?;
    if user == admin {
        return Err(ApiError::invalid("userId", "must be another user than the caller"));
    }
    let wait = request.wait_seconds.unwrap_or(USUAL_WAIT);
    if wait > MAX_WAIT {
        let problem = format_args!("must be at most {MAX_WAIT}");
        return Err(ApiError::invalid("waitSeconds", problem));
    }
    let now = app.now();
    let due = now.plus_millis(i64::try_from(wait * 1_000).unwrap_or(i64::MAX));
    let deletion = app.store.delete_user(&user, due, now).await?;
    let deletion = deletion.ok_or_else(ApiError::unknown_user)?;
    app.admissions.changed();
    app.deletions.notify_one();
    audit::note(&app, &admin, "user_deletion_requested", &user, "");
    Ok(([NO_STORE], Json(DeletionView::from(&deletion))))
}

pub(crate) async fn allow(
    State(app): State<App>,
    Administrator(admin): Administrator,
    path: OneId,
) -> Result<(NoStore, Json<AllowUserResponse>), ApiError> {
    let user = user_of(path)?;
    let answer = app.store.allow_user(&user, app.now(), app.chance()).await?;
    let outcome = match answer {
        AllowAnswer::NotDeleted => AllowOutcome::NotDeleted,
        AllowAnswer::CalledOff => AllowOutcome::CalledOff,
        AllowAnswer::Allowed => AllowOutcome::Allowed,
        AllowAnswer::UnderWay => return Err(ApiError::deletion_under_way()),
    };
    app.admissions.changed();
    audit::note(&app, &admin, "user_allowed", &user, "");
    Ok(([NO_STORE], Json(AllowUserResponse { outcome })))
}
