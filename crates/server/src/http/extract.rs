//! Extractors for handlers: the user of a request, compared with the user that the request names,
//! and the raw body.

use std::net::IpAddr;

use axum::body::Body;
use axum::extract::{FromRequestParts, Request};
use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{HeaderMap, HeaderName};
use vfs_sync_core::id::UserId;
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::device::{CLIENT_HEADER, client_of_header};
use vfs_sync_core::wire::{USER_HEADER, user_of_header};

use crate::admission::rates::Origin;
use crate::auth::{Identity, TokenError, access};
use crate::background::devices::Caller;
use crate::error::ApiError;
use crate::state::App;

/// The scope of a token that may manage groups and organizations.
const ADMIN_SCOPE: &str = "vfs:admin";

/// The header [`USER_HEADER`] as a name of the HTTP library.
pub(crate) const USER: HeaderName = HeaderName::from_static("vfs-sync-user");

/// The header [`CLIENT_HEADER`] as a name of the HTTP library.
const CLIENT: HeaderName = HeaderName::from_static("vfs-sync-client");
/// The header [`DEVICE_HEADER`](vfs_sync_core::wire::device::DEVICE_HEADER) as a name of the HTTP
/// library.
const DEVICE: HeaderName = HeaderName::from_static("vfs-sync-device");

/// The outcome of authenticating a request, which is done once, before anything is spent on it.
#[derive(Clone)]
pub(crate) struct Authenticated {
    /// The user of the verified token. Every answer names it, error answers too, so that a client
    /// can check that an answer is its own user's.
    pub(crate) user: Option<UserId>,
    /// The identity that the request is served for, or why it is not served.
    identity: Result<Identity, ApiError>,
}

impl Authenticated {
    /// Authenticates a request by its path and headers.
    pub(crate) async fn of(path: &str, headers: &HeaderMap, app: &App) -> Self {
        match verified(path, headers, app).await {
            Ok(identity) => {
                Self { user: Some(identity.user.clone()), identity: intended(headers, identity) }
            }
            Err(error) => Self { user: None, identity: Err(error) },
        }
    }

    /// Binds the device that a request names to the one that its token is good for.
    ///
    /// # Errors
    /// [`TokenError::OtherDevice`] as an [`ApiError`], if it names another one.
    pub(crate) fn bind(
        &self,
        caller: Option<Caller>,
        address: Option<IpAddr>,
    ) -> Result<Option<Caller>, ApiError> {
        let identity = self.identity.as_ref().ok();
        let Some(device) = identity.and_then(|identity| identity.device.as_ref()) else {
            return Ok(caller);
        };
        let credential = Some(device.credential);
        match caller {
            Some(caller) if caller.client != device.client => Err(refused(TokenError::OtherDevice)),
            Some(caller) => Ok(Some(Caller { credential, ..caller })),
            None => {
                let client = device.client.clone();
                Ok(Some(Caller { client, address, description: None, credential }))
            }
        }
    }

    /// Returns the user that the request is served for, if it is.
    pub(crate) fn served_user(&self) -> Option<&UserId> {
        self.identity.as_ref().ok().map(|identity| &identity.user)
    }
}

/// The start of the paths of operators' calls.
const ADMIN_PATHS: &str = "/v1/vfs/admin/";

/// Verifies a request's token: of a device, or given by hand.
async fn verified(path: &str, headers: &HeaderMap, app: &App) -> Result<Identity, ApiError> {
    let token = bearer(headers).map_err(refused)?;
    if access::is_access_token(token) {
        return app.access.verify(&*app.store, token, app.now()).await?.map_err(refused);
    }
    let identity = app.auth.verify(token, app.now()).await.map_err(refused)?;
    // Operators' calls need a scope, which no device has.
    if app.auth.requires_device_credentials() && !path.starts_with(ADMIN_PATHS) {
        return Err(refused(TokenError::DeviceCredentialRequired));
    }
    Ok(identity)
}

/// Converts a rejection of a token to the answer, and counts it.
pub(crate) fn refused(error: TokenError) -> ApiError {
    let reason = error.reason();
    metrics::counter!("vfs_sync_auth_failures_total", "reason" => reason).increment(1);
    error.into()
}

/// Checks that the request is meant for the token's user.
pub(crate) fn intended(headers: &HeaderMap, identity: Identity) -> Result<Identity, ApiError> {
    match meant_for(headers)? {
        Some(expected) if expected != identity.user => {
            metrics::counter!("vfs_sync_wrong_user_total").increment(1);
            Err(ApiError::wrong_user(&expected, &identity.user))
        }
        _ => Ok(identity),
    }
}

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

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, ApiError> {
        Ok(Self(identity(parts)?.user))
    }
}

impl FromRequestParts<App> for Origin {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, ApiError> {
        identity(parts)?;
        parts.extensions.get().cloned().ok_or_else(ApiError::internal)
    }
}

/// The device that a request's headers name, if they name one.
pub(crate) struct CallerDevice(pub(crate) Option<Caller>);

impl FromRequestParts<App> for CallerDevice {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, ApiError> {
        Ok(Self(parts.extensions.get().cloned()))
    }
}

/// Reads the device that a request names: in its headers, or, as clients of earlier versions do, by
/// `clientId` in its query.
pub(crate) fn caller_of(
    headers: &HeaderMap,
    query: Option<&str>,
    address: Option<IpAddr>,
) -> Result<Option<Caller>, ApiError> {
    let mut given = headers.get_all(CLIENT).iter();
    let client = match given.next() {
        Some(value) => {
            let client = value.to_str().ok().and_then(client_of_header);
            client.filter(|_| given.next().is_none()).map(Some).ok_or_else(|| {
                ApiError::invalid(CLIENT_HEADER, "must be one percent-encoded client id")
            })?
        }
        None => {
            let pairs = query.unwrap_or_default().split('&');
            let named = pairs.filter_map(|pair| pair.strip_prefix("clientId=")).next();
            // What is malformed is refused where it is used.
            named.and_then(client_of_header)
        }
    };
    let description = headers.get(DEVICE).cloned();
    Ok(client.map(|client| Caller { client, address, description, credential: None }))
}

/// The time from which a request's token is rejected as expired.
pub(crate) struct TokenExpiry(pub(crate) Option<Timestamp>);

impl FromRequestParts<App> for TokenExpiry {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, ApiError> {
        Ok(Self(identity(parts)?.expires_at))
    }
}

/// A user whose token has the scope [`ADMIN_SCOPE`].
pub(crate) struct Administrator(pub(crate) UserId);

impl FromRequestParts<App> for Administrator {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, ApiError> {
        let identity = identity(parts)?;
        if identity.scopes.iter().any(|scope| scope == ADMIN_SCOPE) {
            return Ok(Self(identity.user));
        }
        Err(ApiError::lacks_scope(ADMIN_SCOPE))
    }
}

fn identity(parts: &Parts) -> Result<Identity, ApiError> {
    // Every route with a user is behind the layer that authenticates.
    let authenticated = parts.extensions.get::<Authenticated>().ok_or_else(ApiError::internal)?;
    authenticated.identity.clone()
}

pub(crate) fn bearer(headers: &HeaderMap) -> Result<&str, TokenError> {
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
