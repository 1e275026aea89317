//! Spans for an exporter of traces: each request, and each call of the database below it.
//!
//! They have a target of their own and the level `trace`, so logs do not show them and, without an
//! exporter, they cost nothing. Their fields have OpenTelemetry's names. **None of them has a name,
//! a content, an id of a user, device or item, or a token**: a trace leaves the operator's machines.

use http::HeaderMap;
use tracing::Span;
use tracing::field::Empty;
use vfs_sync_store::{Call, Reply, StoreError};

use crate::error::ApiError;
use crate::http::observe::trace_parent;

/// The target of the spans for an exporter of traces.
///
/// Beside fields that are attributes they have `otel.name`, `otel.kind`, `otel.status_code` and
/// `traceparent`, the header of the caller's trace.
pub const TRACES: &str = "vfs_sync_traces";

/// Returns the span of a request. `id` is the request's, unless the caller chose it.
pub(crate) fn of_request(method: &str, route: &str, id: Option<&str>, headers: &HeaderMap) -> Span {
    tracing::trace_span!(
        target: TRACES,
        "request",
        otel.name = format!("{method} {route}"),
        otel.kind = "server",
        otel.status_code = Empty,
        http.request.method = method,
        http.route = route,
        http.response.status_code = Empty,
        "error.type" = Empty,
        request_id = id,
        traceparent = trace_parent(headers).map(|parent| parent.header),
    )
}

/// Notes the answer in the span of its request.
pub(crate) fn answered(span: &Span, status: u16, error: Option<&ApiError>) {
    span.record("http.response.status_code", status);
    if let Some(error) = error {
        span.record("error.type", error.code);
    }
    if status >= 500 {
        span.record("otel.status_code", "ERROR");
    }
}

/// Returns the span of a call of the database, including its wait for a turn.
pub(crate) fn of_store(call: &Call) -> Span {
    tracing::trace_span!(
        target: TRACES,
        "database",
        otel.name = call.name(),
        otel.kind = "client",
        otel.status_code = Empty,
        db.operation.name = call.name(),
    )
}

/// Notes in the span of a call of the database that it failed.
pub(crate) fn replied(span: &Span, reply: &Result<Reply, StoreError>) {
    if reply.is_err() {
        span.record("otel.status_code", "ERROR");
    }
}
