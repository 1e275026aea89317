//! The layer around every request: its id, span, log line, metrics and error body.

use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures::FutureExt as _;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use http_body::{Body as _, Frame, SizeHint};
use tracing::Instrument as _;
use vfs_sync_core::id::{ReplicaId, UserId};

use crate::environment::Environment;
use crate::error::ApiError;
use crate::http::cors::cors;
use crate::operator::traces;
use crate::state::App;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");
const MAX_REQUEST_ID_BYTES: usize = 128;

/// The id of the request, for handlers that answer parts of it separately.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(pub(crate) Arc<str>);

impl RequestId {
    /// Takes the caller's id if it is safe for a log, else creates a new one.
    // By hand: tower_http's request_id takes every id that a caller sends.
    fn of(headers: &HeaderMap, environment: &dyn Environment) -> Self {
        let sane = |id: &&str| {
            (1..=MAX_REQUEST_ID_BYTES).contains(&id.len())
                && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:/+=@".contains(&b))
        };
        let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok()).filter(sane);
        match given {
            Some(given) => Self(given.into()),
            None => Self(environment.new_name().into()),
        }
    }
}

/// The trace that a request belongs to (W3C Trace Context).
pub(crate) struct TraceParent<'a> {
    pub(crate) header: &'a str,
    trace: &'a str,
}

/// Returns the trace that the request belongs to, if it names one.
pub(crate) fn trace_parent(headers: &HeaderMap) -> Option<TraceParent<'_>> {
    let header = headers.get(TRACE_PARENT)?.to_str().ok()?;
    let mut parts = header.split('-');
    let (version, trace, parent) = (parts.next()?, parts.next()?, parts.next()?);
    let hex = |part: &str, length: usize| {
        part.len() == length
            && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let valid = hex(version, 2)
        && version != "ff"
        && hex(trace, 32)
        && hex(parent, 16)
        && trace.bytes().any(|b| b != b'0')
        && parent.bytes().any(|b| b != b'0');
    valid.then_some(TraceParent { header, trace })
}

/// The sender of a request, for its log line.
#[derive(Debug, Clone)]
pub(crate) struct Noted {
    pub(crate) user: Option<UserId>,
    pub(crate) device: Option<ReplicaId>,
    pub(crate) address: Option<IpAddr>,
}

/// The routes that clients and monitors ask again and again: where they succeed, their lines are for
/// debugging.
const POLLED: [&str; 7] = [
    "/v1/vfs/crdt/vfs-sync",
    "/v1/vfs/crdt/reconcile",
    "/v1/vfs/crdt/events",
    "/healthz",
    "/readyz",
    "/v1/vfs/admin/overview",
    "/v1/vfs/admin/problems",
];

/// The log line of a request.
struct Line {
    span: tracing::Span,
    /// The span of the trace, which ends with the line.
    _trace: tracing::Span,
    user: Option<String>,
    device: Option<ReplicaId>,
    address: Option<IpAddr>,
    status: u16,
    code: Option<&'static str>,
    reason: Option<String>,
    latency: Duration,
    is_polled: bool,
}

impl Line {
    /// Writes the line of an answer whose body has so many bytes.
    fn write(&self, bytes: u64) {
        let Self { user, status, code, reason, .. } = self;
        let device = self.device.as_ref().map(tracing::field::display);
        let address = self.address.as_ref().map(tracing::field::display);
        let latency_us = self.latency.as_micros();
        self.span.in_scope(|| {
            if self.is_polled {
                tracing::debug!(
                    user, device, address, status, code, reason, bytes, latency_us, "answered"
                );
            } else {
                tracing::info!(
                    user, device, address, status, code, reason, bytes, latency_us, "answered"
                );
            }
        });
    }
}

/// A body whose log line is written once the body was sent, or given up.
struct Counted {
    body: Body,
    bytes: u64,
    line: Line,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame {
            this.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.line.write(self.bytes);
    }
}

/// A guard that counts a request as in progress until it is dropped.
struct InFlight;

impl InFlight {
    fn begin() -> Self {
        metrics::gauge!("vfs_sync_http_requests_in_flight").increment(1);
        Self
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        metrics::gauge!("vfs_sync_http_requests_in_flight").decrement(1);
    }
}

/// Wraps each request as the outermost layer.
pub(crate) async fn observe(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let in_flight = InFlight::begin();
    let id = RequestId::of(request.headers(), &*app.environment);
    request.extensions_mut().insert(id.clone());
    let method = known(request.method());
    let head_only = request.method() == Method::HEAD;
    let route: Arc<str> = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "none".into(), |path| path.as_str().into());
    let span = tracing::info_span!(
        "request",
        request_id = &*id.0,
        method,
        route = &*route,
        trace_id = trace_parent(request.headers()).map(|parent| parent.trace),
    );
    let is_own = request.headers().get(REQUEST_ID).is_none_or(|given| given != &*id.0);
    let trace = span.in_scope(|| {
        traces::of_request(method, &route, is_own.then_some(&id.0), request.headers())
    });
    // By hand: tower_http's catch_panic boxes each body once more.
    let answer = AssertUnwindSafe(cors(&app, request, next))
        .catch_unwind()
        .instrument(trace.clone())
        .instrument(span.clone())
        .await;
    let mut response = answer.unwrap_or_else(|_| {
        span.in_scope(|| tracing::error!("a request panicked"));
        ApiError::internal().into_response()
    });
    let error = finish_error(&mut response, &id, head_only);
    let code = error.as_ref().map(|error| error.code);
    let reason = error.as_ref().and_then(|error| error.details.get("reason")?.as_str());
    if let Ok(value) = HeaderValue::from_str(&id.0) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    let (status, elapsed) = (response.status().as_u16(), started.elapsed());
    traces::answered(&trace, status, error.as_deref());
    drop(in_flight);
    let line = Line {
        span,
        _trace: trace,
        user: None,
        device: None,
        address: None,
        status,
        code,
        reason: reason.map(str::to_owned),
        latency: elapsed,
        is_polled: POLLED.contains(&&*route) && status < 400,
    };
    let line = match response.extensions_mut().remove::<Noted>() {
        None => line,
        Some(Noted { user, device, address }) => {
            Line { user: user.map(|user| app.pseudonyms.of(&user)), device, address, ..line }
        }
    };
    let response = match response.body().size_hint().exact() {
        Some(bytes) => {
            line.write(bytes);
            response
        }
        // Its length is known once it was sent.
        None => response.map(|body| Body::new(Counted { body, bytes: 0, line })),
    };
    metrics::counter!(
        "vfs_sync_http_requests_total",
        "method" => method, "route" => Arc::clone(&route), "status" => status.to_string(),
    )
    .increment(1);
    metrics::histogram!(
        "vfs_sync_http_request_duration_seconds", "route" => route, "status" => status.to_string(),
    )
    .record(elapsed.as_secs_f64());
    response
}

/// Returns a method's name for a label; unknown methods share one label.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// Writes the body of an error and returns the error.
fn finish_error(response: &mut Response, id: &RequestId, head_only: bool) -> Option<Arc<ApiError>> {
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return None;
    }
    let error = response.extensions_mut().remove::<Arc<ApiError>>();
    let error = error.unwrap_or_else(|| Arc::new(ApiError::of_status(status)));
    let headers = response.headers_mut();
    headers.remove(CONTENT_LENGTH);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if !head_only {
        let body = serde_json::to_vec(&error.body(&id.0)).unwrap_or_default();
        *response.body_mut() = body.into();
    }
    Some(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::SystemEnvironment;

    fn headers(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn a_request_id_is_kept_if_it_is_fit_for_a_log() {
        let of = |value: &str| {
            RequestId::of(&headers(REQUEST_ID, value), &SystemEnvironment).0.to_string()
        };
        assert_eq!(of("abc-1.2"), "abc-1.2");
        for odd in ["", "a b", "a\"b", &"x".repeat(129)] {
            assert_ne!(of(odd), odd);
        }
    }

    #[test]
    fn a_trace_is_told_by_a_well_formed_traceparent_alone() {
        let trace = |value: &str| {
            trace_parent(&headers(TRACE_PARENT, value)).map(|parent| parent.trace.to_owned())
        };
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(trace(good).as_deref(), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
        for bad in [
            "00-4bf92f3577b34da6a3ce929d0e0e4736",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(trace(bad), None, "{bad}");
        }
    }
}
