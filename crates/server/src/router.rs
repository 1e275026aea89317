//! The routes, and the layers around all of them.

pub(crate) mod openapi;

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, delete, get, head, options, post, put};
use http::header::ACCEPT_ENCODING;
use http::{HeaderMap, HeaderValue, StatusCode};
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;
use vfs_sync_core::id::UserId;
use vfs_sync_core::wire::{PROTOCOL_HEADER, PROTOCOL_VERSION, code, user_header};

use crate::admission::fair_store::calling_for;
use crate::admission::rates::{Origin, Rates};
use crate::background::devices::Caller;
use crate::error::ApiError;
use crate::http::address;
use crate::http::answer::Paid;
use crate::http::connection::Connection;
use crate::http::extract::{Authenticated, USER, caller_of};
use crate::http::observe::{Noted, observe};
use crate::operator::console;
use crate::state::App;
use crate::{admission, routes};

/// The oldest protocol version that this server supports.
const MIN_PROTOCOL: u32 = 1;

/// Builds the router with all routes and the layers around them.
pub(crate) fn router(app: &App) -> Router {
    // Few layers that do much: each copies all that is below it for every request.
    let json = collect([json_routes(), admin_routes()].concat())
        .layer(CompressionLayer::new().quality(CompressionLevel::Fastest))
        .layer(from_fn_with_state(app.clone(), admit_in_time));
    let open = collect(open_routes())
        .route(routes::tus::UPLOADS, options(routes::tus::capabilities))
        .route(routes::tus::UPLOAD, options(routes::tus::capabilities))
        .fallback(|| async { ApiError::of_status(StatusCode::NOT_FOUND) })
        .layer(from_fn_with_state(app.clone(), count_anonymous));
    let streams = collect(event_routes()).layer(from_fn_with_state(app.clone(), admit_stream));
    json.merge(collect(byte_routes()).layer(from_fn_with_state(app.clone(), admit)))
        .merge(streams)
        .merge(open)
        .layer(from_fn_with_state(app.clone(), observe))
        .with_state(app.clone())
}

/// Builds the routes of the operator's listener, except for the metrics.
pub(crate) fn operated(app: &App) -> Router {
    let json = collect([admin_routes(), console_routes()].concat())
        .layer(CompressionLayer::new().quality(CompressionLevel::Fastest))
        .layer(from_fn_with_state(app.clone(), admit_in_time))
        .layer(from_fn_with_state(app.clone(), console::guard));
    let health =
        vec![("/healthz", get(routes::health::healthz)), ("/readyz", get(routes::health::readyz))];
    let open = collect(health).fallback(|| async { ApiError::of_status(StatusCode::NOT_FOUND) });
    json.merge(console::pages(app))
        .merge(open)
        .layer(from_fn_with_state(app.clone(), observe))
        .with_state(app.clone())
}

type Route = (&'static str, MethodRouter<App>);

fn collect(routes: Vec<Route>) -> Router<App> {
    routes.into_iter().fold(Router::new(), |router, (path, methods)| router.route(path, methods))
}

/// Lists the routes that answer in JSON: limited in time as a whole, and compressed if the caller
/// accepts it.
fn json_routes() -> Vec<Route> {
    use routes::{batch, blobs, devices, members, sync, telemetry, trash};
    vec![
        ("/v1/vfs/crdt/push", post(sync::push)),
        ("/v1/vfs/crdt/vfs-sync", get(sync::pull)),
        ("/v1/vfs/crdt/reconcile", post(sync::reconcile)),
        ("/v1/vfs/crdt/state", get(sync::state)),
        ("/v1/vfs/telemetry", post(telemetry::telemetry)),
        ("/v1/vfs/devices", get(devices::list)),
        ("/v1/vfs/devices/{clientId}", post(devices::rename).delete(devices::revoke)),
        ("/v1/vfs/limits", get(sync::limits)),
        ("/v1/vfs/groups", get(members::groups)),
        ("/v1/vfs/blocks", get(members::blocks)),
        ("/v1/vfs/blocks/{userId}", put(members::set_block).delete(members::set_block)),
        ("/v1/vfs/principals/{type}/{id}", get(members::known)),
        ("/v1/vfs/items/{itemId}/versions", get(blobs::versions)),
        ("/v1/vfs/trash", get(trash::list)),
        ("/v1/vfs/trash/{itemId}", delete(trash::purge)),
        ("/v1/vfs/trash/{itemId}/restore", post(trash::restore)),
        ("/v1/vfs/blobs/stage", post(blobs::stage)),
        ("/v1/vfs/blobs/stage/{stagingId}", get(blobs::stage_state)),
        ("/v1/vfs/blobs/stage/{stagingId}/attach", post(blobs::attach)),
        ("/v1/vfs/blobs/stage/{stagingId}/abandon", post(blobs::abandon)),
        ("/v1/vfs/blobs/batch", post(batch::batch)),
    ]
}

/// Lists the routes for operators, which answer in JSON too. The operator's listener has them as well.
fn admin_routes() -> Vec<Route> {
    use routes::{devices, lookup, members, users};
    let group_member = put(members::set_group_member).delete(members::set_group_member);
    let organization_member =
        put(members::set_organization_member).delete(members::set_organization_member);
    vec![
        ("/v1/vfs/admin/groups/{groupId}/members", get(members::group_members)),
        ("/v1/vfs/admin/groups/{groupId}/members/{userId}", group_member),
        (
            "/v1/vfs/admin/organizations/{organizationId}/members",
            get(members::organization_members),
        ),
        ("/v1/vfs/admin/organizations/{organizationId}/members/{userId}", organization_member),
        ("/v1/vfs/admin/stages/{stagingId}", get(lookup::stage)),
        ("/v1/vfs/admin/blobs/{blobId}", get(lookup::blob)),
        ("/v1/vfs/admin/users/{userId}/state", get(lookup::state)),
        ("/v1/vfs/admin/devices", get(devices::list_any)),
        ("/v1/vfs/admin/devices/{userId}/{clientId}", delete(devices::revoke_any)),
        ("/v1/vfs/admin/users", get(users::list)),
        ("/v1/vfs/admin/users/{userId}", get(users::show)),
        ("/v1/vfs/admin/users/{userId}/limits", post(users::limit)),
        ("/v1/vfs/admin/users/{userId}/disable", post(users::disable)),
        ("/v1/vfs/admin/users/{userId}/enable", post(users::enable)),
        ("/v1/vfs/admin/users/{userId}/delete", post(users::delete)),
        ("/v1/vfs/admin/users/{userId}/allow", post(users::allow)),
    ]
}

/// Lists the calls that the console makes besides, which only the operator's listener has.
fn console_routes() -> Vec<Route> {
    use console::{SESSIONS, examination, lookup, overview, problems, search, session, stages};
    vec![
        (SESSIONS, get(session::list).post(session::begin)),
        ("/v1/vfs/admin/sessions/current", get(session::show).delete(session::sign_out)),
        ("/v1/vfs/admin/sessions/{sessionId}", delete(session::end)),
        ("/v1/vfs/admin/overview", get(overview::overview)),
        ("/v1/vfs/admin/problems", get(problems::problems)),
        ("/v1/vfs/admin/database", get(overview::database)),
        ("/v1/vfs/admin/tasks/{task}/run", post(overview::run_task)),
        ("/v1/vfs/admin/search", get(search::search)),
        ("/v1/vfs/admin/items/{itemId}", get(lookup::item)),
        ("/v1/vfs/admin/items/{itemId}/name", get(lookup::item_name)),
        ("/v1/vfs/admin/users/{userId}/examination", get(examination::examine)),
        ("/v1/vfs/admin/stages", get(stages::list)),
        ("/v1/vfs/admin/stages/{stagingId}/abandon", post(stages::abandon)),
    ]
}

/// Lists the routes that stream bytes: without a time limit as a whole, and never compressed.
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

/// Lists the routes that stream events: open for hours, with a bound of their own.
fn event_routes() -> Vec<Route> {
    vec![("/v1/vfs/crdt/events", get(routes::events::events))]
}

/// Lists the routes that need no token.
fn open_routes() -> Vec<Route> {
    use routes::{health, sign_in};
    vec![
        ("/v1/vfs/auth", get(sign_in::methods)),
        ("/v1/vfs/auth/credential", post(sign_in::sign_in).delete(sign_in::sign_out)),
        ("/v1/vfs/auth/renewal", post(sign_in::renew)),
        ("/healthz", get(health::healthz)),
        ("/readyz", get(health::readyz)),
        ("/v1/openapi.json", get(openapi::serve)),
    ]
}

#[cfg(test)]
pub(crate) fn route_paths() -> Vec<&'static str> {
    let all = [
        json_routes(),
        admin_routes(),
        console_routes(),
        byte_routes(),
        event_routes(),
        open_routes(),
    ];
    all.concat().into_iter().map(|(path, _)| path).collect()
}

/// The time for which a request holds the user's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
    /// Until the answer is taken.
    Answer,
    /// Until the answer begins.
    Beginning,
}

/// Authenticates a request, and lets it wait for the user's turn. What has no user gets no place:
/// it is refused by its handler before that does anything. The answer keeps the place until it is
/// taken.
async fn admit(State(app): State<App>, request: Request, next: Next) -> Response {
    authenticate(&app, Holds::Answer, request, next).await
}

/// Applies [`admit`] to a stream of events, which keeps no place and whose bytes do not count.
async fn admit_stream(State(app): State<App>, request: Request, next: Next) -> Response {
    authenticate(&app, Holds::Beginning, request, next).await
}

async fn authenticate(app: &App, holds: Holds, mut request: Request, next: Next) -> Response {
    if let Err(error) = check_protocol(request.headers()) {
        return error.into_response();
    }
    let authenticated = Authenticated::of(request.uri().path(), request.headers(), app).await;
    if let Some(user) = &authenticated.user
        && let Some(connection) = request.extensions().get::<Arc<Connection>>()
    {
        connection.is_of(user);
    }
    let user = authenticated.user.as_ref().and_then(|user| user_header(user).try_into().ok());
    let served = authenticated.served_user().cloned();
    let address = address_of(app, &request);
    let caller = caller_of(request.headers(), request.uri().query(), address);
    let caller = caller.and_then(|caller| authenticated.bind(caller, address));
    request.extensions_mut().insert(authenticated);
    let device = caller.as_ref().ok().and_then(|caller| Some(caller.as_ref()?.client.clone()));
    let noted = Noted { user: served.clone(), device, address };
    let mut response = match served {
        None => match app.rates.anonymous_request(address) {
            Err(error) => error.into_response(),
            Ok(()) => next.run(request).await,
        },
        Some(user) => serve(app, Origin { user, address }, caller, holds, request, next).await,
    };
    response.extensions_mut().insert(noted);
    if let Some(value) = user {
        response.headers_mut().insert(USER, value);
    }
    response
}

/// Serves a request of a user within the user's shares and rates.
async fn serve(
    app: &App,
    origin: Origin,
    caller: Result<Option<Caller>, ApiError>,
    holds: Holds,
    mut request: Request,
    next: Next,
) -> Response {
    let caller = match caller {
        Ok(caller) => caller,
        Err(error) => return error.into_response(),
    };
    let admitted = match app.admit(&origin.user, caller.as_ref()).await {
        Ok(admitted) => admitted,
        Err(error) => return error.into_response(),
    };
    let share = match app.request_share(&origin).await {
        Ok(share) => share,
        Err(error) => return error.into_response(),
    };
    request.extensions_mut().insert(origin.clone());
    if let Some(caller) = caller.clone() {
        request.extensions_mut().insert(caller);
    }
    let request = request.map(|body| Rates::metered(app, &origin, body));
    let served = async {
        match app.check_epoch(caller.as_ref()).await {
            Ok(()) => next.run(request).await,
            Err(error) => error.into_response(),
        }
    };
    let response = tokio::select! {
        biased;
        response = calling_for(&origin.user, served) => response,
        // As if its connection had been cut.
        () = admitted.ended() => return no_longer(app, &origin.user, caller.as_ref()).await,
    };
    let response = response.map(|body| admission::until_ended(body, admitted));
    if holds == Holds::Beginning {
        return response;
    }
    let mut response = response.map(|body| Rates::metered(app, &origin, body));
    response.extensions_mut().insert(Paid::from(share));
    response
}

/// Returns the answer to a request in progress whose user or device is no longer served.
async fn no_longer(app: &App, user: &UserId, caller: Option<&Caller>) -> Response {
    match app.admit(user, caller).await {
        Err(denied) => denied.into_response(),
        // Served again since.
        Ok(_) => ApiError::overloaded().into_response(),
    }
}

/// Returns the address of whoever sent a request, if it is known.
pub(crate) fn address_of(app: &App, request: &Request) -> Option<IpAddr> {
    let connection = request.extensions().get::<Arc<Connection>>()?;
    address::client(connection.peer(), request.headers(), &app.config.proxies)
}

/// Counts the requests that need no token.
async fn count_anonymous(State(app): State<App>, request: Request, next: Next) -> Response {
    let address = address_of(&app, &request);
    let mut response = match app.rates.anonymous_request(address) {
        Err(error) => error.into_response(),
        Ok(()) => next.run(request).await,
    };
    response.extensions_mut().insert(Noted { user: None, device: None, address });
    response
}

/// Applies [`admit`] with a time limit for the whole request.
async fn admit_in_time(State(app): State<App>, mut request: Request, next: Next) -> Response {
    allow_plain(request.headers_mut());
    let limit = app.config.request_timeout;
    match tokio::time::timeout(limit, admit(State(app), request, next)).await {
        Ok(response) => response,
        Err(_) => ApiError::timed_out().into_response(),
    }
}

/// Removes the refusal of an answer without compression. The layer that compresses would replace the
/// answer to a request that is done already by `406`.
fn allow_plain(headers: &mut HeaderMap) {
    let refuses = |element: &str| {
        let (coding, weight) = element.split_once(';').unwrap_or((element, ""));
        let weight = weight.trim().trim_start_matches(['q', 'Q']).trim_start_matches('=');
        matches!(coding.trim(), "identity" | "*") && weight.parse() == Ok(0.0)
    };
    let given = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let elements: Vec<&str> = given.flat_map(|value| value.split(',')).collect();
    if !elements.iter().any(|element| refuses(element)) {
        return;
    }
    let rest: Vec<&str> = elements.into_iter().filter(|element| !refuses(element)).collect();
    match HeaderValue::from_str(&rest.join(",")) {
        Ok(rest) if !rest.is_empty() => drop(headers.insert(ACCEPT_ENCODING, rest)),
        _ => drop(headers.remove(ACCEPT_ENCODING)),
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
