//! The door of the console: which pages may call, and the token that a cookie stands for.
//!
//! A page of another site can make a browser send requests here, with the cookie if it manages to be of
//! the same site, and with a name of its own that it has pointed at this address (DNS rebinding). So a
//! call that rests on a cookie, and a sign-in, have to be addressed to a name that is this server's,
//! and to come from a page of the same origin. A call with a bearer token rests on neither: no page
//! sends one that it does not have.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, ORIGIN, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::session::{self, CurrentSession, SESSIONS};
use crate::error::ApiError;
use crate::router::address_of;
use crate::state::App;

/// The header that only a page of the same origin can send without a preflight, which is not answered.
const CONSOLE: HeaderName = HeaderName::from_static("vfs-sync-console");
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");

/// The policy of the page: scripts, styles and calls of its own origin alone, nothing inline.
const CONTENT_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
     form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
);

/// Lets calls of the API pass, with the token of the session in place of a cookie.
pub(crate) async fn guard(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let mut response = match enter(&app, &mut request).await {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    };
    harden(response.headers_mut());
    response
}

/// Lets requests for the page's files pass, which have to name this server.
pub(crate) async fn guard_files(State(app): State<App>, request: Request, next: Next) -> Response {
    let mut response = match trusted_host(&app, &request) {
        Ok(_) => next.run(request).await,
        Err(error) => error.into_response(),
    };
    let headers = response.headers_mut();
    harden(headers);
    headers.insert(CONTENT_SECURITY_POLICY, CONTENT_POLICY);
    headers.insert(OPENER_POLICY, HeaderValue::from_static("same-origin"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    response
}

fn harden(headers: &mut HeaderMap) {
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
}

async fn enter(app: &App, request: &mut Request) -> Result<(), ApiError> {
    if request.headers().contains_key(AUTHORIZATION) {
        if request.method() == Method::POST && request.uri().path() == SESSIONS {
            check_page(app, request)?;
            app.rates.sign_in(address_of(app, request))?;
        }
        return Ok(());
    }
    let host = host_of(request).unwrap_or_default();
    let Some(secret) = session::secret_of(request.headers(), host) else { return Ok(()) };
    check_page(app, request)?;
    let (id, token) = session::open(app, &secret, address_of(app, request)).await?;
    let mut bearer =
        HeaderValue::from_str(&format!("Bearer {}", &*token)).map_err(|_| ApiError::internal())?;
    bearer.set_sensitive(true);
    request.headers_mut().insert(AUTHORIZATION, bearer);
    request.extensions_mut().insert(CurrentSession(id));
    Ok(())
}

/// Returns the host that a request names, with its port; `None` if it names none, or several.
pub(super) fn host_of(request: &Request) -> Option<&str> {
    let mut given = request.headers().get_all(HOST).iter();
    let named = given.next().map(HeaderValue::to_str).transpose().ok()?;
    if given.next().is_some() {
        return None;
    }
    match (request.uri().authority().map(Authority::as_str), named) {
        (Some(one), Some(other)) if one != other => None,
        (one, other) => one.or(other),
    }
}

/// Checks that a request is addressed to a name of this server, and returns the host.
///
/// # Errors
/// `untrusted_host`.
fn trusted_host<'a>(app: &App, request: &'a Request) -> Result<&'a str, ApiError> {
    let host = host_of(request).filter(|host| is_trusted(host, &app.config.admin_hosts));
    host.ok_or_else(ApiError::untrusted_host)
}

/// Returns whether a host is an address, this machine, or one of the configured names. No page
/// elsewhere can have an address for its name.
fn is_trusted(host: &str, names: &[String]) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host();
    let address = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    !host.contains('@')
        && (address.parse::<IpAddr>().is_ok()
            || name.eq_ignore_ascii_case("localhost")
            || names.iter().any(|known| name.eq_ignore_ascii_case(known)))
}

/// Checks that a request is of a page of this server's.
///
/// # Errors
/// `untrusted_host`, `untrusted_origin`.
fn check_page(app: &App, request: &Request) -> Result<(), ApiError> {
    let host = trusted_host(app, request)?;
    let headers = request.headers();
    let is_own = |origin: &HeaderValue| {
        let origin = origin.to_str().unwrap_or_default();
        let named = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        named.is_some_and(|named| named.eq_ignore_ascii_case(host))
    };
    let reads = [Method::GET, Method::HEAD].contains(request.method());
    let mut origins = headers.get_all(ORIGIN).iter().peekable();
    let of_this_origin = (reads || origins.peek().is_some()) && origins.all(is_own);
    let same_site = headers.get_all(FETCH_SITE).iter().all(|site| site == "same-origin");
    if of_this_origin && same_site && headers.contains_key(CONSOLE) {
        Ok(())
    } else {
        Err(ApiError::untrusted_origin())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_this_machine_and_configured_names_are_trusted() {
        let names = ["ops.example.com".to_owned()];
        for good in [
            "127.0.0.1:7071",
            "10.1.2.3",
            "[::1]:7071",
            "[2001:db8::1]",
            "localhost",
            "LOCALHOST:80",
            "Ops.Example.com:7071",
        ] {
            assert!(is_trusted(good, &names), "{good}");
        }
        for bad in [
            "",
            "evil.example",
            "127.0.0.1.evil.example:7071",
            "localhost.evil.example",
            "sub.ops.example.com",
            "ops.example.com@evil.example",
            "evil.example@127.0.0.1",
            "[::1",
            "::1",
            "127.0.0.1:7071/console",
            "127.0.0.1 ",
        ] {
            assert!(!is_trusted(bad, &names), "{bad}");
        }
    }
}
