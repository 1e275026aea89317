//! `tus-js-client` in a browser, on a page of another origin, to a server behind a proxy with a
//! path prefix that breaks off in the middle.
//!
//! The test is ignored unless asked for: it needs Chromium, its driver and the client, which
//! `scripts/test` installs.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{Html, Response};
use axum::routing::get;
use futures::StreamExt as _;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use vfs_sync_server::ServerConfig;
use vfs_sync_testkit::TestServer;

use crate::browser::Browser;

const SIZE: usize = 12_345_678;
/// Bytes of a `PATCH` that pass before the proxy breaks off, and how often it does.
const PASSED: usize = 4_000_000;
const CUTS: u32 = 2;

#[derive(Clone)]
struct Proxy {
    target: String,
    http: reqwest::Client,
    cuts: Arc<AtomicU32>,
}

/// Passes `/files/…` on as `/…`.
async fn forward(State(proxy): State<Proxy>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("", |path| path.as_str());
    let Some(path) = path.strip_prefix("/files") else { return answer(StatusCode::NOT_FOUND) };
    let mut headers = parts.headers;
    for name in [HOST, CONNECTION, TRANSFER_ENCODING] {
        headers.remove(name);
    }
    let cut = parts.method == Method::PATCH && proxy.cuts.fetch_add(1, Ordering::SeqCst) < CUTS;
    let mut left = if cut { PASSED } else { usize::MAX };
    let bytes = body.into_data_stream().map(move |chunk| {
        let chunk = chunk.map_err(std::io::Error::other)?;
        left = left.checked_sub(chunk.len()).ok_or_else(|| std::io::Error::other("cut"))?;
        Ok::<_, std::io::Error>(chunk)
    });
    let url = format!("{}{path}", proxy.target);
    let mut onward = proxy.http.request(parts.method, url);
    if headers.contains_key(CONTENT_LENGTH) {
        onward = onward.body(reqwest::Body::wrap_stream(bytes));
    }
    match onward.headers(headers).send().await {
        Ok(answered) => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = answered.status();
            *response.headers_mut() = answered.headers().clone();
            response.headers_mut().remove(TRANSFER_ENCODING);
            *response.body_mut() = Body::from_stream(answered.bytes_stream());
            response
        }
        Err(_) => answer(StatusCode::BAD_GATEWAY),
    }
}

fn answer(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

async fn serve(listener: TcpListener, router: Router) {
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
}

async fn bound() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Chromium and tus-js-client"]
async fn a_page_of_another_origin_uploads_behind_a_prefix_and_resumes() {
    let client = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../target/tools/tus/node_modules/tus-js-client/dist/tus.min.js");
    let script = std::fs::read_to_string(&client).expect("tus-js-client is in target/tools");
    let (pages, page) = bound().await;
    let html = include_str!("clients/upload.html");
    let router = Router::new().route("/", get(move || async move { Html(html) })).route(
        "/tus.js",
        get(move || async move { ([("content-type", "text/javascript")], script) }),
    );
    serve(pages, router).await;
    let config = ServerConfig {
        cors_origins: vec![format!("http://{page}")],
        public_path: "/files".to_owned(),
        ..ServerConfig::default()
    };
    let server = TestServer::builder().config(config).start().await;
    let (listener, address) = bound().await;
    let cuts = Arc::new(AtomicU32::new(0));
    let proxy =
        Proxy { target: server.url(), http: reqwest::Client::new(), cuts: Arc::clone(&cuts) };
    serve(listener, Router::new().fallback(forward).with_state(proxy)).await;

    let token = server.token("alice");
    let browser = Browser::start().await;
    let url = format!(
        "http://{page}/?size={SIZE}&token={token}&endpoint=http://{address}/files/v1/vfs/blobs/uploads"
    );
    browser.call("url", json!({ "url": url })).await;
    let mut outcome = Value::Null;
    for _ in 0..1_200 {
        let script = json!({"script": "return window.outcome", "args": []});
        outcome = browser.call("execute/sync", script).await;
        if !outcome.is_null() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    browser.close().await;
    let location = format!("http://{address}/files/v1/vfs/blobs/uploads/from-a-page");
    assert_eq!(outcome, format!("done: {location}"));
    assert!(cuts.load(Ordering::SeqCst) > CUTS, "the upload was cut off");
    let url = format!("{}/v1/vfs/blobs/from-a-page", server.url());
    let read = reqwest::Client::new().get(url).bearer_auth(&token).send().await.unwrap();
    let expected: Vec<u8> = (0..SIZE).map(|at| (at % 251) as u8).collect();
    assert!(read.bytes().await.unwrap() == expected);
}
