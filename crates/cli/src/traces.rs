//! Sends the server's spans to a collector of OpenTelemetry, by OTLP over HTTP.
//!
//! Finished spans wait in a bounded queue for a thread of their own; one that finds no room is
//! dropped. So no request ever waits for the collector.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _,
    TraceFlags, TraceId, TraceState, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, Span};
use tokio::runtime::Handle;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing_subscriber::Layer;
use tracing_subscriber::layer;
use tracing_subscriber::registry::LookupSpan;

use crate::error::{Failure, Result};

/// The time for one batch of spans to reach the collector.
const SENT_WITHIN: Duration = Duration::from_secs(5);
/// The time for the last spans when the server stops.
const FLUSHED_WITHIN: Duration = Duration::from_secs(2);
/// Bytes of a collector's answer; what is longer is no answer.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// The way of spans to a collector.
pub(crate) struct Traces(SdkTracerProvider);

impl Traces {
    /// Begins to send spans to the collector at `endpoint`; nothing is sent before there is a span.
    pub(crate) fn to(endpoint: &reqwest::Url, runtime: &Handle) -> Result<Self> {
        let failed = |error: &dyn std::fmt::Display| {
            Failure::usage(format!("cannot send traces: {error}"))
                .hint("check --otlp-endpoint and the variables OTEL_*: docs/install.md has them")
        };
        let http = reqwest::Client::builder()
            .timeout(SENT_WITHIN)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| failed(&error))?;
        let collector =
            Collector { http, runtime: runtime.clone(), is_lost: AtomicBool::new(false) };
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(collector)
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(format!("{}/v1/traces", endpoint.as_str().trim_end_matches('/')))
            .build()
            .map_err(|error| failed(&error))?;
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let mut resource = Resource::builder().with_attribute(version);
        if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
            resource = resource.with_service_name("vfs-sync");
        }
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource.build())
            .build();
        Ok(Self(provider))
    }

    /// Returns the layer that records spans.
    pub(crate) fn recorder(&self) -> Recorder {
        Recorder(self.0.tracer("vfs-sync"))
    }

    /// Sends what is left, for a short time.
    pub(crate) fn finish(self) {
        let _ = self.0.shutdown_with_timeout(FLUSHED_WITHIN);
    }
}

/// The collector, which may be down.
#[derive(Debug)]
struct Collector {
    http: reqwest::Client,
    /// The library calls from a thread of its own, where no connection can be made.
    runtime: Handle,
    /// True from a failure, which is logged once, to the next success.
    is_lost: AtomicBool,
}

impl Collector {
    async fn send(
        http: reqwest::Client,
        request: Request<Bytes>,
    ) -> reqwest::Result<Response<Bytes>> {
        let mut answer = http.execute(request.try_into()?).await?;
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await? {
            if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                body.clear();
                break;
            }
            body.extend_from_slice(&chunk);
        }
        let mut response = Response::new(body.into());
        *response.status_mut() = answer.status();
        *response.headers_mut() = std::mem::take(answer.headers_mut());
        Ok(response)
    }
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(
        &self,
        request: Request<Bytes>,
    ) -> std::result::Result<Response<Bytes>, HttpError> {
        let sending = self.runtime.spawn(Self::send(self.http.clone(), request));
        let sent = match sending.await {
            Ok(sent) => sent.map_err(|error| HttpError::from(error.without_url())),
            Err(ended) => Err(ended.into()),
        };
        let problem = match &sent {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("it answers {}", answer.status())),
            Err(error) => Some(error.to_string()),
        };
        match problem {
            Some(reason) if !self.is_lost.swap(true, Ordering::Relaxed) => tracing::warn!(
                reason,
                "the collector of traces takes no spans: they are dropped until it does"
            ),
            None if self.is_lost.swap(false, Ordering::Relaxed) => {
                tracing::info!("the collector of traces takes spans again");
            }
            _ => {}
        }
        sent
    }
}

/// A layer that records the server's spans.
// By hand: tracing-opentelemetry takes no parent from a field, so the server would depend on it.
pub(crate) struct Recorder(SdkTracer);

impl<S> Layer<S> for Recorder
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: layer::Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let above = span.parent().and_then(|parent| {
            parent.extensions().get::<Span>().map(|span| span.span_context().clone())
        });
        let parent = match above.or(fields.parent.take()) {
            Some(parent) => Context::new().with_remote_span_context(parent),
            None => Context::new(),
        };
        let name = fields.name.take().unwrap_or_else(|| span.name().to_owned());
        let mut builder = SpanBuilder::from_name(name);
        builder.span_kind = fields.kind.take();
        let mut recorded = self.0.build_with_context(builder, &parent);
        fields.write(&mut recorded);
        span.extensions_mut().insert(recorded);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: layer::Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        values.record(&mut fields);
        if let Some(span) = span.extensions_mut().get_mut::<Span>() {
            fields.write(span);
        }
    }

    fn on_close(&self, id: Id, context: layer::Context<'_, S>) {
        let Some(span) = context.span(&id) else { return };
        let recorded = span.extensions_mut().remove::<Span>();
        if let Some(mut recorded) = recorded {
            recorded.end();
        }
    }
}

/// The fields of a span: its attributes, and those that say something of the span itself.
#[derive(Default)]
struct Fields {
    name: Option<String>,
    kind: Option<SpanKind>,
    parent: Option<SpanContext>,
    failed: bool,
    attributes: Vec<KeyValue>,
}

impl Fields {
    fn write(self, span: &mut Span) {
        span.set_attributes(self.attributes);
        if self.failed {
            span.set_status(Status::error(""));
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "otel.name" => self.name = Some(value.to_owned()),
            "otel.kind" if value == "server" => self.kind = Some(SpanKind::Server),
            "otel.kind" => self.kind = Some(SpanKind::Client),
            "otel.status_code" => self.failed = true,
            "traceparent" => self.parent = remote(value),
            name => self.attributes.push(KeyValue::new(name, value.to_owned())),
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        self.attributes.push(KeyValue::new(field.name(), value));
    }

    fn record_debug(&mut self, _field: &Field, _value: &dyn std::fmt::Debug) {}
}

/// Returns the parent that a well-formed `traceparent` names.
fn remote(header: &str) -> Option<SpanContext> {
    let mut parts = header.split('-').skip(1);
    let trace = TraceId::from_hex(parts.next()?).ok()?;
    let parent = SpanId::from_hex(parts.next()?).ok()?;
    let flags = TraceFlags::new(u8::from_str_radix(parts.next()?.get(..2)?, 16).ok()?);
    Some(SpanContext::new(trace, parent, flags, true, TraceState::default()))
}
