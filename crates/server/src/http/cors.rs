//! Calls from pages of other origins (CORS), for the configured origins only. Preflight requests
//! need no token.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN,
    VARY,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use crate::state::App;

const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE");
const HEADERS: HeaderValue = HeaderValue::from_static(
    "Authorization, Content-Type, Content-Digest, Content-Encoding, If-None-Match, If-Range, \
     Range, Tus-Resumable, Upload-Length, Upload-Defer-Length, Upload-Offset, Upload-Metadata, \
     Upload-Checksum, Upload-Concat, Vfs-Sync-Client, Vfs-Sync-Device, Vfs-Sync-Protocol, Vfs-Sync-User, X-HTTP-Method-Override, \
     X-Request-ID, traceparent",
);
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "Location, Upload-Offset, Upload-Length, Upload-Defer-Length, Upload-Metadata, \
     Upload-Expires, Tus-Resumable, Tus-Version, Tus-Extension, Tus-Max-Size, \
     Tus-Checksum-Algorithm, ETag, Content-Range, Content-Digest, Repr-Digest, Retry-After, \
     Vfs-Sync-User, X-Request-ID",
);
/// The seconds for which a browser caches the answer to a preflight.
const MAX_AGE: HeaderValue = HeaderValue::from_static("7200");

/// Adds the CORS headers for callers of allowed origins.
// By hand: tower_http's layer takes every OPTIONS for a preflight; tus clients discover the server
// by OPTIONS.
pub(crate) async fn cors(app: &App, request: Request, next: Next) -> Response {
    let covered = request.uri().path().starts_with("/v1/");
    if !covered || app.config.cors_origins.is_empty() {
        return next.run(request).await;
    }
    let known = |origin: &&HeaderValue| {
        app.config.cors_origins.iter().any(|known| known.as_bytes() == origin.as_bytes())
    };
    let origin = request.headers().get(ORIGIN).filter(known).cloned();
    let preflight = request.method() == Method::OPTIONS
        && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = if preflight {
        let mut response = StatusCode::NO_CONTENT.into_response();
        if origin.is_some() {
            let headers = response.headers_mut();
            headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HEADERS);
            headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        }
        response
    } else {
        next.run(request).await
    };
    allow(response.headers_mut(), origin);
    response
}

fn allow(headers: &mut HeaderMap, origin: Option<HeaderValue>) {
    headers.append(VARY, HeaderValue::from_static("Origin"));
    if let Some(origin) = origin {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    }
}
