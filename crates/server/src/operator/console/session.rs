//! Sessions: a pasted token, exchanged for a cookie.
//!
//! The cookie is a random secret. The session's id and the key that seals the token follow from it
//! ([`vfs_sync_core::server::session`]); the database has the id and the sealed token.

use std::net::IpAddr;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use axum::Json;
use axum::extract::{Path, Request, State};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{COOKIE, ORIGIN, SET_COOKIE};
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use serde::Serialize;
use vfs_sync_core::id::UserId;
use vfs_sync_core::server::session::{ConsoleSession, MAX_SESSIONS};
use vfs_sync_core::time::Timestamp;

use super::guard::host_of;
use crate::auth::{TokenError, access};
use crate::error::ApiError;
use crate::http::extract::{Administrator, TokenExpiry, bearer, refused};
use crate::http::query::Query;
use crate::operator::audit;
use crate::state::App;

/// The path of the calls that begin and list sessions.
pub(crate) const SESSIONS: &str = "/v1/vfs/admin/sessions";
/// The start of the paths to which browsers send the cookie.
const COOKIE_PATH: &str = "/v1/vfs/admin";
/// The contexts by which the id and the key are derived from the secret.
const ID: &str = "vfs-sync console session id";
const KEY: &str = "vfs-sync console session key";
const ID_BYTES: usize = 16;

/// The id of the session that a request's cookie named.
#[derive(Debug, Clone)]
pub(crate) struct CurrentSession(pub(crate) String);

/// Notes a look at the whole server. Of an open page, which looks again and again, the sign-in is
/// noted alone.
pub(super) fn note_look(
    app: &App,
    admin: &UserId,
    by: Option<&CurrentSession>,
    event: &'static str,
) {
    if by.is_none() {
        audit::note(app, admin, event, admin, "");
    }
}

/// The secret of a session, which only the browser has.
#[derive(Clone, Copy)]
pub(super) struct SessionSecret([u8; 32]);

impl SessionSecret {
    fn new() -> Option<Self> {
        access::random().map(Self)
    }

    fn parse(text: &str) -> Option<Self> {
        URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok().map(Self)
    }

    fn text(self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    fn id(self) -> String {
        let derived = blake3::derive_key(ID, &self.0);
        derived[..ID_BYTES].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn key(self) -> Option<LessSafeKey> {
        let key = UnboundKey::new(&AES_256_GCM, &blake3::derive_key(KEY, &self.0)).ok()?;
        Some(LessSafeKey::new(key))
    }

    /// The nonce, the same for all keys: each seals one token.
    fn nonce() -> Nonce {
        Nonce::assume_unique_for_key([0; NONCE_LEN])
    }

    fn seal(self, token: &str) -> Option<Vec<u8>> {
        let mut bytes = token.as_bytes().to_vec();
        self.key()?.seal_in_place_append_tag(Self::nonce(), Aad::empty(), &mut bytes).ok()?;
        Some(bytes)
    }

    fn unseal(self, mut sealed: Vec<u8>) -> Option<Box<str>> {
        let opened = self.key()?.open_in_place(Self::nonce(), Aad::empty(), &mut sealed).ok()?;
        Some(std::str::from_utf8(opened).ok()?.into())
    }
}

/// Returns the name of the cookie at a host: browsers do not keep the cookies of ports apart.
fn cookie_name(host: &str) -> String {
    let port = host.parse::<Authority>().ok().and_then(|host| host.port_u16());
    format!("vfs_sync_console_{}", port.unwrap_or(0))
}

/// Returns the secret that the cookie of a host has, if there is one.
pub(super) fn secret_of(headers: &HeaderMap, host: &str) -> Option<SessionSecret> {
    let name = cookie_name(host);
    let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut cookies = lines.flat_map(|line| line.split(';'));
    let value = cookies.find_map(|cookie| {
        let (given, value) = cookie.trim().split_once('=')?;
        (given == name).then_some(value)
    });
    SessionSecret::parse(value?)
}

/// Returns the id and the token of a session that is open.
///
/// # Errors
/// [`TokenError::SessionEnded`], or the failure of the database.
pub(super) async fn open(
    app: &App,
    secret: &SessionSecret,
    address: Option<IpAddr>,
) -> Result<(String, Box<str>), ApiError> {
    let id = secret.id();
    let found = app.store.session(&*id).await?.filter(|session| session.is_open(app.now()));
    match found.and_then(|session| secret.unseal(session.sealed)) {
        Some(token) => Ok((id, token)),
        None => {
            app.rates.anonymous_request(address)?;
            Err(refused(TokenError::SessionEnded))
        }
    }
}

/// A session in an answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SessionView {
    session_id: String,
    /// The pseudonym of the operator.
    by: String,
    made_at: Timestamp,
    expires_at: Timestamp,
    /// True for the session of the request.
    current: bool,
}

impl SessionView {
    fn of(session: ConsoleSession, current: Option<&str>) -> Self {
        let ConsoleSession { id, by, sealed: _, made_at, expires_at } = session;
        let current = current == Some(&*id);
        Self { session_id: id, by, made_at, expires_at, current }
    }
}

/// The session of a request, with the operator's name.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OwnSession {
    user_id: UserId,
    #[serde(flatten)]
    session: SessionView,
}

/// Returns the value of `Set-Cookie` that keeps `value` for so many seconds.
fn set_cookie(host: &str, value: &str, seconds: i64, encrypted: bool) -> Option<HeaderValue> {
    let name = cookie_name(host);
    let secure = if encrypted { "; Secure" } else { "" };
    let text = format!(
        "{name}={value}; Path={COOKIE_PATH}; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}"
    );
    let mut value = HeaderValue::from_str(&text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

pub(crate) async fn begin(
    State(app): State<App>,
    Administrator(admin): Administrator,
    TokenExpiry(token_expires_at): TokenExpiry,
    request: Request,
) -> Result<(StatusCode, [(HeaderName, HeaderValue); 1], Json<OwnSession>), ApiError> {
    let token = bearer(request.headers()).map_err(refused)?;
    let secret = SessionSecret::new().ok_or_else(ApiError::internal)?;
    let made_at = app.now();
    let session = ConsoleSession {
        id: secret.id(),
        by: app.pseudonyms.of(&admin),
        sealed: secret.seal(token).ok_or_else(ApiError::internal)?,
        made_at,
        expires_at: ConsoleSession::end(made_at, token_expires_at),
    };
    let seconds = (session.expires_at.as_millis() - made_at.as_millis()) / 1_000;
    let encrypted = request
        .headers()
        .get(ORIGIN)
        .is_some_and(|origin| origin.as_bytes().starts_with(b"https:"));
    let host = host_of(&request).unwrap_or_default();
    let cookie = set_cookie(host, &secret.text(), seconds, encrypted);
    let cookie = cookie.ok_or_else(ApiError::internal)?;
    app.store.begin_session(&session).await?;
    audit::note(&app, &admin, "console_signed_in", &admin, &session.id);
    let id = session.id.clone();
    let session = SessionView::of(session, Some(&id));
    let answer = OwnSession { user_id: admin, session };
    Ok((StatusCode::CREATED, [(SET_COOKIE, cookie)], Json(answer)))
}

/// Returns the id of the session of a request.
fn current(request: &Request) -> Result<String, ApiError> {
    let found = request.extensions().get::<CurrentSession>();
    found.map(|current| current.0.clone()).ok_or_else(ApiError::unknown_session)
}

pub(crate) async fn show(
    State(app): State<App>,
    Administrator(admin): Administrator,
    request: Request,
) -> Result<Json<OwnSession>, ApiError> {
    let id = current(&request)?;
    let session = app.store.session(&*id).await?.ok_or_else(ApiError::unknown_session)?;
    Ok(Json(OwnSession { user_id: admin, session: SessionView::of(session, Some(&id)) }))
}

pub(crate) async fn sign_out(
    State(app): State<App>,
    Administrator(admin): Administrator,
    request: Request,
) -> Result<(StatusCode, [(HeaderName, HeaderValue); 1]), ApiError> {
    let id = current(&request)?;
    app.store.end_session(&*id).await?;
    audit::note(&app, &admin, "console_signed_out", &admin, &id);
    let host = host_of(&request).unwrap_or_default();
    let gone = set_cookie(host, "", 0, false).ok_or_else(ApiError::internal)?;
    Ok((StatusCode::NO_CONTENT, [(SET_COOKIE, gone)]))
}

/// The answer to a listing of sessions.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SessionsResponse {
    /// The sessions that are open, the newest first.
    sessions: Vec<SessionView>,
}

pub(crate) async fn list(
    State(app): State<App>,
    Administrator(admin): Administrator,
    uri: Uri,
    request: Request,
) -> Result<Json<SessionsResponse>, ApiError> {
    audit::note(&app, &admin, "sessions_listed", &admin, "");
    let limit = Query::parse(&uri, &["limit"])?.limit(MAX_SESSIONS, MAX_SESSIONS)?;
    let (now, current) = (app.now(), current(&request).ok());
    let found = app.store.sessions(limit).await?.into_iter();
    let open = found.filter(|session| session.is_open(now));
    let sessions = open.map(|session| SessionView::of(session, current.as_deref())).collect();
    Ok(Json(SessionsResponse { sessions }))
}

pub(crate) async fn end(
    State(app): State<App>,
    Administrator(admin): Administrator,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let is_id = id.len() == 2 * ID_BYTES && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_id || !app.store.end_session(&*id).await? {
        return Err(ApiError::unknown_session());
    }
    audit::note(&app, &admin, "console_session_ended", &admin, &id);
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_token_opens_with_its_secret_and_no_other() {
        let (one, other) = (SessionSecret::new().unwrap(), SessionSecret::new().unwrap());
        let sealed = one.seal("a.b.c").unwrap();
        assert!(!sealed.windows(5).any(|part| part == b"a.b.c"));
        assert_eq!(one.unseal(sealed.clone()).as_deref(), Some("a.b.c"));
        assert_eq!(other.unseal(sealed.clone()), None);
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(one.unseal(changed), None);
        }
        assert_ne!(one.id(), other.id());
        assert_eq!(SessionSecret::parse(&one.text()).unwrap().id(), one.id());
    }

    #[test]
    fn the_cookie_of_the_host_is_found_among_others() {
        let secret = SessionSecret::new().unwrap();
        let line = format!("a=b; vfs_sync_console_7071={}; c", secret.text());
        let headers = HeaderMap::from_iter([(COOKIE, HeaderValue::from_str(&line).unwrap())]);
        let found = |host| secret_of(&headers, host).map(SessionSecret::id);
        assert_eq!(found("127.0.0.1:7071"), Some(secret.id()));
        assert_eq!(found("127.0.0.1:7072"), None);
        assert_eq!(found("127.0.0.1"), None);
        for bad in ["vfs_sync_console_7071=", "vfs_sync_console_7071=AAAA", "vfs_sync_console_7071"]
        {
            let headers = HeaderMap::from_iter([(COOKIE, HeaderValue::from_static(bad))]);
            assert!(secret_of(&headers, "127.0.0.1:7071").is_none(), "{bad}");
        }
    }
}
