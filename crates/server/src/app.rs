//! The routes, and what every request to them passes through.

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequestParts, Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, delete, get, head, options, post, put};
use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{HeaderMap, HeaderName, StatusCode};
use tokio::sync::{Semaphore, SemaphorePermit};
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;
use vfs_sync_blobs::BlobStore;
use vfs_sync_core::id::UserId;
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::{
    PROTOCOL_HEADER, PROTOCOL_VERSION, USER_HEADER, code, user_header, user_of_header,
};
use vfs_sync_store::MetadataStore;

use crate::auth::{Authenticator, Identity, TokenError};
use crate::body::{BodyMemory, Reader};
use crate::config::ServerConfig;
use crate::environment::Environment;
use crate::error::ApiError;
use crate::observe::observe;
use crate::{openapi, routes};

/// The oldest protocol that this server speaks.
const MIN_PROTOCOL: u32 = 1;

/// The scope of a token that may keep groups and organizations.
const ADMIN_SCOPE: &str = "vfs:admin";

/// State shared by all handlers. Nothing in it is state that another server would need.
#[derive(Clone)]
pub(crate) struct App(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) store: Arc<dyn MetadataStore>,
    pub(crate) blobs: Arc<dyn BlobStore>,
    pub(crate) auth: Authenticator,
    pub(crate) environment: Arc<dyn Environment>,
    pub(crate) config: ServerConfig,
    body_memory: BodyMemory,
    requests: Semaphore,
    large_uploads: Semaphore,
}

impl std::ops::Deref for App {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl App {
    pub(crate) fn new(
        store: Arc<dyn MetadataStore>,
        blobs: Arc<dyn BlobStore>,
        auth: Authenticator,
        environment: Arc<dyn Environment>,
        config: ServerConfig,
    ) -> Self {
        let body_memory = BodyMemory::new(config.max_body_memory);
        let requests = Semaphore::new(config.max_requests.min(Semaphore::MAX_PERMITS));
        let large_uploads = Semaphore::new(config.max_large_uploads.min(Semaphore::MAX_PERMITS));
        Self(Arc::new(Inner {
            store,
            blobs,
            auth,
            environment,
            config,
            body_memory,
            requests,
            large_uploads,
        }))
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.environment.now()
    }

    /// The largest blob, by what is configured and by what the object store takes.
    pub(crate) fn max_blob_bytes(&self) -> u64 {
        self.config.max_blob_bytes.min(self.blobs.max_size())
    }

    /// Waits for its turn to upload what is too large to be held in memory.
    pub(crate) async fn upload_share(&self) -> Result<SemaphorePermit<'_>, ApiError> {
        let turn = self.large_uploads.acquire();
        match tokio::time::timeout(self.config.idle_timeout, turn).await {
            Ok(Ok(share)) => Ok(share),
            _ => Err(ApiError::overloaded()),
        }
    }

    pub(crate) fn reader(&self) -> Reader<'_> {
        Reader { memory: &self.body_memory, idle: self.config.idle_timeout }
    }

    /// All routes, behind what every request passes through.
    pub(crate) fn router(&self) -> Router {
        // Few layers that do much: each copies all that is below it for every request.
        let json = collect(json_routes())
            .layer(CompressionLayer::new().quality(CompressionLevel::Fastest))
            .layer(from_fn_with_state(self.clone(), admit_in_time));
        json.merge(collect(byte_routes()).layer(from_fn_with_state(self.clone(), admit)))
            .merge(collect(open_routes()))
            .route(routes::tus::UPLOADS, options(routes::tus::capabilities))
            .route(routes::tus::UPLOAD, options(routes::tus::capabilities))
            .fallback(|| async { ApiError::of_status(StatusCode::NOT_FOUND) })
            .layer(from_fn_with_state(self.clone(), observe))
            .with_state(self.clone())
    }
}

type Route = (&'static str, MethodRouter<App>);

fn collect(routes: Vec<Route>) -> Router<App> {
    routes.into_iter().fold(Router::new(), |router, (path, methods)| router.route(path, methods))
}

/// Answers in JSON, bounded in time as a whole, compressed if the caller likes.
fn json_routes() -> Vec<Route> {
    use routes::{batch, blobs, lookup, members, sync, trash};
    let group_member = put(members::set_group_member).delete(members::set_group_member);
    let organization_member =
        put(members::set_organization_member).delete(members::set_organization_member);
    vec![
        ("/v1/vfs/crdt/push", post(sync::push)),
        ("/v1/vfs/crdt/vfs-sync", get(sync::pull)),
        ("/v1/vfs/crdt/reconcile", post(sync::reconcile)),
        ("/v1/vfs/crdt/state", get(sync::state)),
        ("/v1/vfs/limits", get(sync::limits)),
        ("/v1/vfs/groups", get(members::groups)),
        ("/v1/vfs/blocks", get(members::blocks)),
        ("/v1/vfs/blocks/{userId}", put(members::set_block).delete(members::set_block)),
        ("/v1/vfs/principals/{type}/{id}", get(members::known)),
        ("/v1/vfs/admin/groups/{groupId}/members", get(members::group_members)),
        ("/v1/vfs/admin/groups/{groupId}/members/{userId}", group_member),
        (
            "/v1/vfs/admin/organizations/{organizationId}/members",
            get(members::organization_members),
        ),
        ("/v1/vfs/admin/organizations/{organizationId}/members/{userId}", organization_member),
        ("/v1/vfs/items/{itemId}/versions", get(blobs::versions)),
        ("/v1/vfs/trash", get(trash::list)),
        ("/v1/vfs/trash/{itemId}", delete(trash::purge)),
        ("/v1/vfs/trash/{itemId}/restore", post(trash::restore)),
        ("/v1/vfs/admin/stages/{stagingId}", get(lookup::stage)),
        ("/v1/vfs/admin/blobs/{blobId}", get(lookup::blob)),
        ("/v1/vfs/admin/users/{userId}/state", get(lookup::state)),
        ("/v1/vfs/blobs/stage", post(blobs::stage)),
        ("/v1/vfs/blobs/stage/{stagingId}", get(blobs::stage_state)),
        ("/v1/vfs/blobs/stage/{stagingId}/attach", post(blobs::attach)),
        ("/v1/vfs/blobs/stage/{stagingId}/abandon", post(blobs::abandon)),
        ("/v1/vfs/blobs/batch", post(batch::batch)),
    ]
}

/// Bytes stream for as long as they flow, and are never compressed.
fn byte_routes() -> Vec<Route> {
    use routes::{blobs, reading, tus};
    let one = head(tus::look).patch(tus::append).delete(tus::terminate).post(tus::overridden);
    vec![
        ("/v1/vfs/blobs/stage/{stagingId}/data", put(blobs::upload)),
        ("/v1/vfs/blobs/batch/read", post(reading::read_many)),
        (tus::UPLOADS, post(tus::create).layer(from_fn(tus::versioned))),
        (tus::UPLOAD, one.layer(from_fn(tus::versioned))),
        ("/v1/vfs/blobs/{blobId}", get(blobs::read).delete(blobs::delete)),
        // Blobs may be named as calls are.
        ("/v1/vfs/blobs/stage", blobs::named("stage")),
        ("/v1/vfs/blobs/batch", blobs::named("batch")),
        (tus::UPLOADS, blobs::named("uploads")),
    ]
}

/// Lists the routes that need no token.
fn open_routes() -> Vec<Route> {
    use routes::health;
    vec![
        ("/healthz", get(health::healthz)),
        ("/readyz", get(health::readyz)),
        ("/v1/openapi.json", get(openapi::serve)),
    ]
}

#[cfg(test)]
pub(crate) fn route_paths() -> Vec<&'static str> {
    [json_routes(), byte_routes(), open_routes()]
        .concat()
        .into_iter()
        .map(|(path, _)| path)
        .collect()
}

/// Sends away what is more than the server can do at a time, and protocols that it does not speak
/// any more.
async fn admit(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let Ok(_permit) = app.requests.try_acquire() else {
        return ApiError::overloaded().into_response();
    };
    if let Err(error) = check_protocol(request.headers()) {
        return error.into_response();
    }
    let authenticated = Authenticated::default();
    request.extensions_mut().insert(authenticated.clone());
    let mut response = next.run(request).await;
    let user = authenticated.0.get().and_then(|user| user_header(user).try_into().ok());
    if let Some(value) = user {
        response.headers_mut().insert(USER, value);
    }
    response
}

/// [`USER_HEADER`], as the HTTP library has it.
const USER: HeaderName = HeaderName::from_static("vfs-sync-user");

/// The user of a request's verified token. Every answer names it, error answers too, so that a
/// client can check that an answer is its own user's.
#[derive(Clone, Default)]
struct Authenticated(Arc<OnceLock<UserId>>);

/// The user that a request is meant for, if it says so. A request that names nobody is served for
/// whomever its token is of: clients of earlier versions send none.
fn meant_for(headers: &HeaderMap) -> Result<Option<UserId>, ApiError> {
    let mut given = headers.get_all(USER).iter();
    let Some(value) = given.next() else { return Ok(None) };
    let user = value.to_str().ok().and_then(user_of_header).filter(|_| given.next().is_none());
    user.map(Some)
        .ok_or_else(|| ApiError::invalid(USER_HEADER, "must be one percent-encoded user id"))
}

/// [`admit`], for what is bounded in time as a whole.
async fn admit_in_time(State(app): State<App>, request: Request, next: Next) -> Response {
    let limit = app.config.request_timeout;
    match tokio::time::timeout(limit, admit(State(app), request, next)).await {
        Ok(response) => response,
        Err(_) => ApiError::timed_out().into_response(),
    }
}

fn check_protocol(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(value) = headers.get(PROTOCOL_HEADER) else { return Ok(()) };
    let digits = value.to_str().ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    let version = digits.and_then(|text| text.parse::<u32>().ok());
    let version = version
        .ok_or_else(|| ApiError::invalid(PROTOCOL_HEADER, "must be the number of a protocol"))?;
    if version >= MIN_PROTOCOL {
        return Ok(());
    }
    Err(ApiError::new(
        StatusCode::UPGRADE_REQUIRED,
        code::UPGRADE_REQUIRED,
        format!("This server speaks protocol {MIN_PROTOCOL} and above: upgrade the client"),
    )
    .with("minimum", MIN_PROTOCOL)
    .with("current", PROTOCOL_VERSION))
}

/// The user that a request's token speaks for.
pub(crate) struct Caller(pub(crate) UserId);

impl FromRequestParts<App> for Caller {
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

/// A body as it comes, with the headers that say how to read it.
pub(crate) struct Raw {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Body,
}

impl<S: Send + Sync> axum::extract::FromRequest<S> for Raw {
    type Rejection = std::convert::Infallible;

    async fn from_request(request: Request, _: &S) -> Result<Self, Self::Rejection> {
        let (parts, body) = request.into_parts();
        Ok(Self { headers: parts.headers, body })
    }
}
