//! Extractors for handlers: the user of a request, compared with the user that the request names,
//! and the raw body.

use std::sync::{Arc, OnceLock};

use axum::body::Body;
use axum::extract::{FromRequestParts, Request};
use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{HeaderMap, HeaderName};
use vfs_sync_core::id::UserId;
use vfs_sync_core::wire::{USER_HEADER, user_of_header};

use crate::auth::{Identity, TokenError};
use crate::error::ApiError;
use crate::state::App;

/// The scope of a token that may manage groups and organizations.
const ADMIN_SCOPE: &str = "vfs:admin";

/// The header [`USER_HEADER`] as a name of the HTTP library.
pub(crate) const USER: HeaderName = HeaderName::from_static("vfs-sync-user");

/// The user of a request's verified token. Every answer names this user, including error answers,
/// so that a client can check that an answer belongs to its own user.
#[derive(Clone, Default)]
pub(crate) struct Authenticated(pub(crate) Arc<OnceLock<UserId>>);

/// The user that a request expects, if it names one. A request that names no user is served for its
/// token's user: clients of earlier versions send none.
fn meant_for(headers: &HeaderMap) -> Result<Option<UserId>, ApiError> {
    let mut given = headers.get_all(USER).iter();
    let Some(value) = given.next() else { return Ok(None) };
    let user = value.to_str().ok().and_then(user_of_header).filter(|_| given.next().is_none());
    user.map(Some)
        .ok_or_else(|| ApiError::invalid(USER_HEADER, "must be one percent-encoded user id"))
}

/// The user whom a request's token authenticates.
pub(crate) struct AuthenticatedUser(pub(crate) UserId);

impl FromRequestParts<App> for AuthenticatedUser {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        Ok(Self(identity(parts, app).await?.user))
    }
}

/// A user whose token has the scope [`ADMIN_SCOPE`].
pub(crate) struct Administrator(pub(crate) UserId);

impl FromRequestParts<App> for Administrator {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let identity = identity(parts, app).await?;
        if identity.scopes.iter().any(|scope| scope == ADMIN_SCOPE) {
            return Ok(Self(identity.user));
        }
        Err(ApiError::lacks_scope(ADMIN_SCOPE))
    }
}

async fn identity(parts: &Parts, app: &App) -> Result<Identity, ApiError> {
    let token = bearer(&parts.headers)?;
    let identity = app.auth.verify(token, app.now()).await?;
    if let Some(authenticated) = parts.extensions.get::<Authenticated>() {
        let _ = authenticated.0.set(identity.user.clone());
    }
    match meant_for(&parts.headers)? {
        Some(expected) if expected != identity.user => {
            metrics::counter!("vfs_sync_wrong_user_total").increment(1);
            Err(ApiError::wrong_user(&expected, &identity.user))
        }
        _ => Ok(identity),
    }
}

fn bearer(headers: &HeaderMap) -> Result<&str, TokenError> {
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let value = given.next().ok_or(TokenError::Missing)?;
    if given.next().is_some() {
        return Err(TokenError::Malformed);
    }
    let (scheme, token) =
        value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or(TokenError::Malformed)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(token.trim()) } else { Err(TokenError::Missing) }
}

/// A request body as received, with the headers that describe its encoding.
pub(crate) struct RawBody {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Body,
}

impl<S: Send + Sync> axum::extract::FromRequest<S> for RawBody {
    type Rejection = std::convert::Infallible;

    async fn from_request(request: Request, _: &S) -> Result<Self, Self::Rejection> {
        let (parts, body) = request.into_parts();
        Ok(Self { headers: parts.headers, body })
    }
}
