//! A proxy in front of an S3, with configurable faults.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use futures::StreamExt as _;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderValue, Method, StatusCode};

use crate::S3Config;

/// The ways in which a request fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Answers with an error; the request does not reach S3.
    Answer {
        /// The HTTP status of the answer.
        status: u16,
        /// The S3 code in the body; an empty string for no code.
        code: String,
    },
    /// Forwards the request, and cuts the answer off half way.
    Cut,
    /// Forwards the request, and answers with half the bytes and a matching length.
    Truncate,
    /// Drops the request: it does not reach S3, and no answer arrives.
    Stall,
    /// Forwards the request, and holds the answer back until the proxy is healed.
    Hold,
}

type Chosen = Option<(Option<Method>, Fault)>;

#[derive(Clone)]
struct Inner {
    target: String,
    http: reqwest::Client,
    fault: Arc<Mutex<Chosen>>,
    /// The method whose next request is delayed.
    late: Arc<Mutex<Option<Method>>>,
    /// True if delayed requests may arrive.
    released: Arc<tokio::sync::watch::Sender<bool>>,
    /// The number of requests that failed.
    failed: Arc<tokio::sync::watch::Sender<u64>>,
}

/// A proxy in front of an S3, which ends when it is dropped.
pub struct FaultProxy {
    inner: Inner,
    address: std::net::SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FaultProxy {
    /// Starts a proxy in front of the store of `config`, without faults.
    ///
    /// # Panics
    /// If there is no free port.
    pub async fn before(config: &S3Config) -> Self {
        let inner = Inner {
            target: config.endpoint.clone().expect("an endpoint"),
            http: reqwest::Client::builder().no_proxy().build().expect("a client"),
            fault: Arc::default(),
            late: Arc::default(),
            released: Arc::new(tokio::sync::watch::Sender::new(false)),
            failed: Arc::new(tokio::sync::watch::Sender::new(0)),
        };
        let router = Router::new().fallback(forward).with_state(inner.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("a bound address");
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Self { inner, address, task }
    }

    /// Returns the same location through the proxy. Stalled requests time out after five seconds.
    #[must_use]
    pub fn config(&self, config: &S3Config) -> S3Config {
        S3Config {
            endpoint: Some(format!("http://{}", self.address)),
            answer_timeout: Duration::from_secs(5),
            ..config.clone()
        }
    }

    /// Makes all further requests of this method fail; `None` means every method.
    pub fn fail(&self, method: Option<Method>, fault: Fault) {
        self.choose(Some((method, fault)));
    }

    /// Lets all further requests succeed.
    pub fn heal(&self) {
        self.choose(None);
    }

    /// Delays the next request of this method until [`Self::release`] is called; it counts as
    /// failed.
    pub fn delay_next(&self, method: Method) {
        self.inner.released.send_replace(false);
        *self.inner.late.lock().unwrap_or_else(PoisonError::into_inner) = Some(method);
    }

    /// Lets delayed requests arrive.
    pub fn release(&self) {
        self.inner.released.send_replace(true);
    }

    /// Waits until `times` requests have failed since the start.
    pub async fn until_failed(&self, times: u64) {
        let mut failed = self.inner.failed.subscribe();
        let _ = failed.wait_for(|count| *count >= times).await;
    }

    /// Returns the number of requests that have failed since the start.
    #[must_use]
    pub fn failed(&self) -> u64 {
        *self.inner.failed.borrow()
    }

    fn choose(&self, fault: Chosen) {
        *self.inner.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }
}

impl Inner {
    fn is_late(&self, method: &Method) -> bool {
        let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        late.take_if(|chosen| chosen == method).is_some()
    }

    fn fault_for(&self, method: &Method) -> Option<Fault> {
        let chosen = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        let (only, fault) = chosen.as_ref()?;
        only.as_ref().is_none_or(|only| only == method).then(|| fault.clone())
    }
}

async fn forward(State(inner): State<Inner>, request: Request) -> Response {
    if inner.is_late(request.method()) {
        let mut released = inner.released.subscribe();
        inner.failed.send_modify(|count| *count += 1);
        let _ = released.wait_for(|released| *released).await;
    }
    let fault = inner.fault_for(request.method());
    if fault.is_some() {
        inner.failed.send_modify(|count| *count += 1);
    }
    let method = request.method().clone();
    match fault {
        Some(Fault::Answer { status, code }) => {
            // Read to its end, so that the connection is not closed early.
            let _ = axum::body::to_bytes(request.into_body(), usize::MAX).await;
            return refusal(&method, status, &code);
        }
        Some(Fault::Stall) => return std::future::pending().await,
        _ => {}
    }
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    // The host header stays the client's: its signature covers it.
    let mut headers = parts.headers;
    headers.remove(CONNECTION);
    let length = headers.remove(CONTENT_LENGTH);
    headers.remove(TRANSFER_ENCODING);
    let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
    let mut onward =
        inner.http.request(parts.method, format!("{}{path}", inner.target)).headers(headers);
    if length.is_some() || !bytes.is_empty() {
        onward = onward.body(bytes);
    }
    let answer = match onward.send().await {
        Ok(answer) => answer,
        Err(error) => return refusal(&method, 502, &format!("Proxy{error}")),
    };
    let mut response = Response::builder().status(answer.status());
    if let Some(headers) = response.headers_mut() {
        *headers = answer.headers().clone();
        headers.remove(CONNECTION);
        headers.remove(TRANSFER_ENCODING);
    }
    let length = answer.content_length();
    match fault {
        Some(Fault::Truncate) => {
            let bytes = answer.bytes().await.unwrap_or_default();
            let half = bytes.slice(..bytes.len() / 2);
            if let Some(headers) = response.headers_mut() {
                headers.insert(CONTENT_LENGTH, HeaderValue::from(half.len()));
            }
            response.body(Body::from(half)).unwrap_or_default()
        }
        Some(Fault::Cut) => {
            let mut left = length.unwrap_or(0) / 2;
            let stream = answer.bytes_stream().map(move |chunk| {
                let chunk = chunk.map_err(std::io::Error::other)?;
                left = left
                    .checked_sub(chunk.len() as u64)
                    .ok_or_else(|| std::io::Error::from(std::io::ErrorKind::ConnectionReset))?;
                Ok::<_, std::io::Error>(chunk)
            });
            let end = futures::stream::iter([Err(std::io::Error::from(
                std::io::ErrorKind::ConnectionReset,
            ))]);
            response.body(Body::from_stream(stream.chain(end))).unwrap_or_default()
        }
        Some(Fault::Hold) => {
            while inner.fault_for(&method).is_some() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            response.body(Body::from_stream(answer.bytes_stream())).unwrap_or_default()
        }
        _ => response.body(Body::from_stream(answer.bytes_stream())).unwrap_or_default(),
    }
}

fn refusal(method: &Method, status: u16, code: &str) -> Response {
    let mut response = Response::default();
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if !code.is_empty() && *method != Method::HEAD {
        let xml = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code>\
             <Message>as the test asked</Message></Error>"
        );
        *response.body_mut() = Body::from(xml);
    }
    response
}
