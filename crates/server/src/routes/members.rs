//! Members of groups and organizations: administrators change them, users read their own
//! memberships.

use std::str::FromStr;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use http::{Method, StatusCode, Uri};
use vfs_sync_core::access::{Principal, PrincipalType};
use vfs_sync_core::id::{InvalidId, PrincipalId, UserId, of_path_step};
use vfs_sync_core::limits;
use vfs_sync_core::wire::{BlocksResponse, GroupsResponse, KnownResponse, MembersResponse};

use crate::error::ApiError;
use crate::http::extract::{Administrator, AuthenticatedUser};
use crate::http::query::Query;
use crate::operator::audit;
use crate::state::App;

type OneId = Result<Path<String>, PathRejection>;
type TwoIds = Result<Path<(String, String)>, PathRejection>;

fn id<T: FromStr<Err = InvalidId>>(field: &str, text: &str) -> Result<T, ApiError> {
    text.parse().map_err(|reason| ApiError::invalid(field, reason))
}

fn no_utf8(_: PathRejection) -> ApiError {
    ApiError::invalid("the path", "must be UTF-8, percent-encoded")
}

/// Parses the principal in a route's path; the route determines its kind.
fn principal_of(kind: PrincipalType, text: &str) -> Result<Principal, ApiError> {
    let field = match kind {
        PrincipalType::User => "userId",
        PrincipalType::Group => "groupId",
        PrincipalType::Organization => "organizationId",
    };
    Ok(Principal { kind, id: id::<PrincipalId>(field, of_path_step(text))? })
}

pub(crate) async fn set_group_member(
    app: State<App>,
    admin: Administrator,
    path: TwoIds,
    method: Method,
) -> Result<StatusCode, ApiError> {
    set_member(app, admin, PrincipalType::Group, path, &method).await
}

pub(crate) async fn set_organization_member(
    app: State<App>,
    admin: Administrator,
    path: TwoIds,
    method: Method,
) -> Result<StatusCode, ApiError> {
    set_member(app, admin, PrincipalType::Organization, path, &method).await
}

async fn set_member(
    State(app): State<App>,
    Administrator(admin): Administrator,
    kind: PrincipalType,
    path: TwoIds,
    method: &Method,
) -> Result<StatusCode, ApiError> {
    let Path((group, member)) = path.map_err(no_utf8)?;
    let group = principal_of(kind, &group)?;
    let member: UserId = id("userId", of_path_step(&member))?;
    let present = *method == Method::PUT;
    app.store.set_member(&group, &member, present, app.now()).await?;
    let event = if present { "member_added" } else { "member_removed" };
    audit::note(&app, &admin, event, &member, &group.to_string());
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn group_members(
    app: State<App>,
    admin: Administrator,
    path: OneId,
    uri: Uri,
) -> Result<Json<MembersResponse>, ApiError> {
    members(app, admin, PrincipalType::Group, path, &uri).await
}

pub(crate) async fn organization_members(
    app: State<App>,
    admin: Administrator,
    path: OneId,
    uri: Uri,
) -> Result<Json<MembersResponse>, ApiError> {
    members(app, admin, PrincipalType::Organization, path, &uri).await
}

async fn members(
    State(app): State<App>,
    Administrator(admin): Administrator,
    kind: PrincipalType,
    path: OneId,
    uri: &Uri,
) -> Result<Json<MembersResponse>, ApiError> {
    let Path(group) = path.map_err(no_utf8)?;
    let group = principal_of(kind, &group)?;
    let query = Query::parse(uri, &["after", "limit"])?;
    let after: Option<UserId> = query.get("after").map(|text| id("after", text)).transpose()?;
    let limit = query.limit(limits::DEFAULT_PULL_LIMIT, limits::MAX_PULL_LIMIT)?;
    // One row more than requested shows whether there are more.
    let mut members = app.store.members(&group, after, limit + 1).await?;
    let has_more = members.len() > limit as usize;
    members.truncate(limit as usize);
    audit::note(&app, &admin, "members_listed", &admin, &group.to_string());
    Ok(Json(MembersResponse { members, has_more }))
}

pub(crate) async fn groups(
    State(app): State<App>,
    AuthenticatedUser(user): AuthenticatedUser,
) -> Result<Json<GroupsResponse>, ApiError> {
    let mut response = GroupsResponse::default();
    for group in app.store.groups_of(&user).await? {
        match group.kind {
            PrincipalType::Group => response.groups.push(group.id),
            PrincipalType::Organization => response.organizations.push(group.id),
            PrincipalType::User => {}
        }
    }
    Ok(Json(response))
}

pub(crate) async fn known(
    State(app): State<App>,
    AuthenticatedUser(_): AuthenticatedUser,
    path: TwoIds,
) -> Result<Json<KnownResponse>, ApiError> {
    let Path((kind, text)) = path.map_err(no_utf8)?;
    let kind = match kind.as_str() {
        "user" => PrincipalType::User,
        "group" => PrincipalType::Group,
        "organization" => PrincipalType::Organization,
        _ => return Err(ApiError::invalid("type", "must be user, group or organization")),
    };
    let principal = Principal { kind, id: id("id", of_path_step(&text))? };
    Ok(Json(KnownResponse { known: app.store.knows(&principal).await? }))
}

pub(crate) async fn blocks(
    State(app): State<App>,
    AuthenticatedUser(user): AuthenticatedUser,
) -> Result<Json<BlocksResponse>, ApiError> {
    Ok(Json(BlocksResponse { owners: app.store.blocked_by(&user).await? }))
}

pub(crate) async fn set_block(
    State(app): State<App>,
    AuthenticatedUser(user): AuthenticatedUser,
    path: OneId,
    method: Method,
) -> Result<StatusCode, ApiError> {
    let Path(owner) = path.map_err(no_utf8)?;
    let owner: UserId = id("userId", of_path_step(&owner))?;
    if owner == user {
        return Err(ApiError::invalid("userId", "must be another user than the caller"));
    }
    let blocked = method == Method::PUT;
    if blocked {
        let owners = app.store.blocked_by(&user).await?;
        if owners.len() >= limits::MAX_BLOCKED_OWNERS && !owners.contains(&owner) {
            let most = format!("would be more than {} blocked", limits::MAX_BLOCKED_OWNERS);
            return Err(ApiError::invalid("userId", most));
        }
    }
    app.store.set_block(&user, &owner, blocked, app.now()).await?;
    Ok(StatusCode::NO_CONTENT)
}
