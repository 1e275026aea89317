//! Traces that a server sends, taken by a collector's endpoint: OTLP over HTTP.

use std::fs::File;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Attribute;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::support::{Scene, ServerProcess};

const PATIENCE: Duration = Duration::from_secs(30);
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// A collector, and what it got.
struct Collector {
    arrivals: mpsc::UnboundedReceiver<Bytes>,
    bytes: Vec<u8>,
    spans: Vec<Span>,
    resource: Vec<(String, String)>,
}

impl Collector {
    fn at(listener: TcpListener) -> Self {
        let (sender, arrivals) = mpsc::unbounded_channel();
        let take = move |headers: HeaderMap, body: Bytes| {
            let is_told = headers["content-type"] == "application/x-protobuf"
                && headers["authorization"] == "collector-key";
            let taken = is_told && sender.send(body).is_ok();
            async move { if taken { StatusCode::OK } else { StatusCode::BAD_REQUEST } }
        };
        let router = axum::Router::new().route("/v1/traces", post(take));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { arrivals, bytes: Vec::new(), spans: Vec::new(), resource: Vec::new() }
    }

    /// Waits for a span.
    async fn span(&mut self, wanted: impl Fn(&Span) -> bool) -> Span {
        loop {
            if let Some(found) = self.spans.iter().find(|span| wanted(span)) {
                return found.clone();
            }
            let arrival = tokio::time::timeout(PATIENCE, self.arrivals.recv()).await;
            let arrival = arrival.expect("the span arrives").unwrap();
            self.bytes.extend_from_slice(&arrival);
            for of in ExportTraceServiceRequest::decode(arrival).unwrap().resource_spans {
                let named = of.resource.unwrap().attributes;
                self.resource = named.iter().map(|one| (one.key.clone(), text(one))).collect();
                self.spans.extend(of.scope_spans.into_iter().flat_map(|scope| scope.spans));
            }
        }
    }
}

fn text(attribute: &opentelemetry_proto::tonic::common::v1::KeyValue) -> String {
    match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Attribute::StringValue(text)) => text.clone(),
        Some(Attribute::IntValue(number)) => number.to_string(),
        other => panic!("{}: {other:?}", attribute.key),
    }
}

fn attribute(span: &Span, name: &str) -> Option<String> {
    span.attributes.iter().find(|attribute| attribute.key == name).map(text)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A server that sends traces to a port of this machine, and its log.
struct Traced {
    scene: Scene,
    server: ServerProcess,
    http: reqwest::Client,
    token: String,
}

impl Traced {
    fn start(port: u16) -> Self {
        let scene = Scene::offline();
        let (endpoint, log) = (format!("http://127.0.0.1:{port}/"), scene.path("log"));
        let binary = || {
            let mut command = scene.command();
            command
                .env("VFS_SYNC_OTLP_ENDPOINT", &endpoint)
                .env("OTEL_EXPORTER_OTLP_HEADERS", "authorization=collector-key")
                .env("OTEL_BSP_SCHEDULE_DELAY", "50")
                .stderr(File::create(&log).unwrap());
            command
        };
        let server = ServerProcess::start(binary, "127.0.0.1:0", &scene.path("server"));
        let token = scene.token("user-marker");
        Self { server, scene, http: reqwest::Client::new(), token }
    }

    fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let url = format!("{}{path}", self.server.url());
        self.http.request(method.parse().unwrap(), url).bearer_auth(&self.token)
    }

    fn log(&self) -> String {
        self.scene.read("log")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_request_is_a_span_with_its_calls_of_the_database_and_nothing_of_people() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let traced = Traced::start(listener.local_addr().unwrap().port());
    let mut collector = Collector::at(listener);
    let push = json!({"clientId": "device-marker", "operations": [{
        "opId": "o", "opType": "item_upsert", "itemId": "item-marker", "replicaId": "device-marker",
        "writeId": 1, "occurredAt": "2026-01-01T00:00:00Z", "objectType": "file",
        "name": "name-marker", "metadata": {"k": "metadata-marker"},
    }]});
    let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let answer = traced
        .request("POST", "/v1/vfs/crdt/push?query-marker")
        .header("traceparent", &parent)
        .header("x-request-id", "request-marker")
        .header("vfs-sync-client", "device-marker")
        .json(&push);
    assert_eq!(answer.send().await.unwrap().status(), 200);
    let pull = traced.request("GET", "/v1/vfs/crdt/vfs-sync?cursor=cursor-marker");
    assert_eq!(pull.send().await.unwrap().status(), 400);
    traced.request("GET", "/path-marker").send().await.unwrap();

    let pushed = collector.span(|span| span.name == "POST /v1/vfs/crdt/push").await;
    assert_eq!(hex(&pushed.trace_id), TRACE);
    assert_eq!(hex(&pushed.parent_span_id), "00f067aa0ba902b7");
    assert_eq!(pushed.kind, 2, "of a server");
    let of = |name: &str| attribute(&pushed, name);
    assert_eq!(of("http.request.method").as_deref(), Some("POST"));
    assert_eq!(of("http.route").as_deref(), Some("/v1/vfs/crdt/push"));
    assert_eq!(of("http.response.status_code").as_deref(), Some("200"));
    assert_eq!(of("request_id"), None, "the caller chose it");
    let call = collector.span(|span| span.name == "push_part").await;
    assert_eq!((&call.trace_id, &call.parent_span_id), (&pushed.trace_id, &pushed.span_id));
    assert_eq!(call.kind, 3, "of a client");
    assert!(call.start_time_unix_nano >= pushed.start_time_unix_nano);
    assert!(call.end_time_unix_nano <= pushed.end_time_unix_nano);
    let refused = collector.span(|span| span.name == "GET /v1/vfs/crdt/vfs-sync").await;
    assert_eq!(attribute(&refused, "error.type").as_deref(), Some("invalid_cursor"));
    assert!(attribute(&refused, "request_id").is_some(), "the server chose it");
    assert_ne!(refused.trace_id, pushed.trace_id);
    collector.span(|span| span.name == "GET none").await;
    let service = ("service.name".to_owned(), "vfs-sync".to_owned());
    assert!(collector.resource.contains(&service), "{:?}", collector.resource);

    let sent = String::from_utf8_lossy(&collector.bytes);
    assert!(!sent.contains("marker") && !sent.contains(&traced.token), "{sent}");
    let log = traced.log();
    assert!(log.contains("answered") && !log.contains("push_part"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_down_is_told_once_and_costs_no_request_anything() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let traced = Traced::start(address.port());
    let count = |text: &str| traced.log().matches(text).count();
    let began = Instant::now();
    while count("takes no spans") == 0 {
        assert!(began.elapsed() < PATIENCE, "it is told: {}", traced.log());
        assert_eq!(traced.request("GET", "/v1/vfs/limits").send().await.unwrap().status(), 200);
    }
    // It takes connections now, and says nothing.
    let silent = TcpListener::bind(address).await.unwrap();
    let began = Instant::now();
    let connection = loop {
        let request = traced.request("GET", "/v1/vfs/limits").send().await.unwrap();
        assert_eq!(request.status(), 200);
        assert!(began.elapsed() < PATIENCE, "no spans are sent");
        let waiting = tokio::time::timeout(Duration::from_millis(50), silent.accept()).await;
        if let Ok(accepted) = waiting {
            break accepted.unwrap().0;
        }
    };
    let began = Instant::now();
    // More than wait for the collector.
    for _ in 0..3_000 {
        let request = traced.request("GET", "/v1/vfs/limits").send().await.unwrap();
        assert_eq!(request.status(), 200);
    }
    println!("3,000 requests took {:?}", began.elapsed());
    drop(connection);
    let mut collector = Collector::at(silent);
    collector.span(|span| span.name == "GET /v1/vfs/limits").await;
    let began = Instant::now();
    while count("takes spans again") == 0 {
        assert!(began.elapsed() < PATIENCE, "it is told: {}", traced.log());
    }
    assert_eq!(count("takes no spans"), 1, "{}", traced.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_stops_beside_a_collector_that_says_nothing() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let traced = Traced::start(silent.local_addr().unwrap().port());
    assert_eq!(traced.request("GET", "/v1/vfs/limits").send().await.unwrap().status(), 200);
    let _connection = tokio::time::timeout(PATIENCE, silent.accept()).await.unwrap().unwrap();
    let began = Instant::now();
    assert!(traced.server.terminate().success());
    assert!(began.elapsed() < Duration::from_secs(10), "it took {:?}", began.elapsed());
}
