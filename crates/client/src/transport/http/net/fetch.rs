//! Requests of a page: the names of reqwest over the page's `fetch`.

use std::fmt::{Debug, Display, Formatter};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use http::header::{ACCEPT_ENCODING, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
pub(in super::super) use url::Url;

use super::super::HttpConfig;
use crate::host::{Instant, timeout};
use crate::transport::call::ByteStream;

/// A request for the page's `fetch`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchRequest {
    /// The method, in capitals.
    pub method: String,
    /// The URL of the request.
    pub url: String,
    /// The headers, apart from those that the page sets by itself.
    pub headers: Vec<(String, String)>,
    /// The body of the request.
    pub body: Option<Bytes>,
}

/// An answer of the page's `fetch`.
pub struct FetchResponse {
    /// The status of the answer.
    pub status: u16,
    /// The headers that the page may read.
    pub headers: Vec<(String, String)>,
    /// The bytes of the body; dropping the stream gives up what has not come.
    pub body: ByteStream,
}

/// The page's way to the network.
#[async_trait]
pub trait Fetch: Send + Sync + 'static {
    /// Sends a request, which dropping the future gives up. It must not follow redirections: a token
    /// is for one server.
    ///
    /// # Errors
    /// A sentence that says why there is no answer.
    async fn fetch(&self, request: FetchRequest) -> Result<FetchResponse, String>;
}

/// A [`Fetch`] that is shared.
#[derive(Clone)]
pub struct PageFetch(Arc<dyn Fetch>);

impl PageFetch {
    /// Shares a way to the network.
    pub fn new(fetch: impl Fetch) -> Self {
        Self(Arc::new(fetch))
    }
}

impl Debug for PageFetch {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str("PageFetch")
    }
}

impl PartialEq for PageFetch {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// A failure of the network.
#[derive(Debug)]
pub(in super::super) struct Error(String);

impl Error {
    pub(in super::super) fn without_url(self) -> Self {
        self
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

fn late() -> Error {
    Error("no answer came in time".into())
}

pub(in super::super) enum Body {
    None,
    Bytes(Bytes),
    Stream(ByteStream),
}

impl Body {
    pub(in super::super) fn wrap_stream(
        stream: impl Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static,
    ) -> Self {
        Self::Stream(Box::pin(stream))
    }

    /// Takes the bytes into memory: not every browser sends a body in parts.
    async fn gathered(self) -> Result<Option<Bytes>, Error> {
        let mut stream = match self {
            Self::None => return Ok(None),
            Self::Bytes(bytes) => return Ok(Some(bytes)),
            Self::Stream(stream) => stream,
        };
        let mut whole: Option<Bytes> = None;
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|error| Error(error.to_string()))?;
            whole = Some(match whole {
                None => chunk,
                Some(first) => [first, chunk].concat().into(),
            });
        }
        Ok(Some(whole.unwrap_or_default()))
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

pub(in super::super) struct Client {
    fetch: PageFetch,
    headers: HeaderMap,
    idle: Duration,
}

/// Creates a client that sends `headers` with each request.
pub(in super::super) fn client(config: &HttpConfig, headers: HeaderMap) -> Result<Client, String> {
    let fetch = config.fetch.clone().ok_or("there is no way to the network: set `fetch`")?;
    Ok(Client { fetch, headers, idle: config.idle_timeout })
}

/// Compresses nothing: that costs a page more than it saves.
pub(in super::super) fn compressed(_body: &[u8]) -> Option<Vec<u8>> {
    None
}

impl Client {
    pub(in super::super) fn request(&self, method: Method, url: Url) -> RequestBuilder {
        let request = http::Request::builder().method(method).uri(url.as_str());
        let (fetch, idle) = (self.fetch.clone(), self.idle);
        let new = RequestBuilder { fetch, idle, request, body: Body::None, timeout: None };
        new.headers(self.headers.clone())
    }

    pub(in super::super) fn get(&self, url: Url) -> RequestBuilder {
        self.request(Method::GET, url)
    }

    pub(in super::super) fn put(&self, url: Url) -> RequestBuilder {
        self.request(Method::PUT, url)
    }

    pub(in super::super) fn patch(&self, url: Url) -> RequestBuilder {
        self.request(Method::PATCH, url)
    }
}

pub(in super::super) struct RequestBuilder {
    fetch: PageFetch,
    idle: Duration,
    request: http::request::Builder,
    body: Body,
    timeout: Option<Duration>,
}

/// The headers that a page cannot set.
const OF_THE_PAGE: [HeaderName; 2] = [CONTENT_LENGTH, ACCEPT_ENCODING];

impl RequestBuilder {
    pub(in super::super) fn header<K, V>(mut self, name: K, value: V) -> Self
    where
        K: TryInto<HeaderName>,
        K::Error: Into<http::Error>,
        V: TryInto<HeaderValue>,
        V::Error: Into<http::Error>,
    {
        self.request = self.request.header(name, value);
        self
    }

    pub(in super::super) fn headers(mut self, headers: HeaderMap) -> Self {
        for (name, value) in &headers {
            self.request = self.request.header(name, value);
        }
        self
    }

    pub(in super::super) fn body(mut self, body: impl Into<Body>) -> Self {
        self.body = body.into();
        self
    }

    pub(in super::super) fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    pub(in super::super) async fn send(self) -> Result<Response, Error> {
        let invalid = |error: &dyn Display| Error(format!("the request is not valid: {error}"));
        let request = self.request.body(()).map_err(|error| invalid(&error))?;
        let mut headers = Vec::with_capacity(request.headers().len());
        for (name, value) in request.headers() {
            if !OF_THE_PAGE.contains(name) {
                let value = value.to_str().map_err(|error| invalid(&error))?;
                headers.push((name.to_string(), value.to_owned()));
            }
        }
        let request = FetchRequest {
            method: request.method().to_string(),
            url: request.uri().to_string(),
            headers,
            body: self.body.gathered().await?,
        };
        let until = self.timeout.map(|timeout| Instant::now() + timeout);
        let fetching = self.fetch.0.fetch(request);
        let answer = match self.timeout {
            Some(time) => timeout(time, fetching).await.map_err(|_| late())?,
            None => fetching.await,
        };
        let FetchResponse { status, headers: given, body } = answer.map_err(Error)?;
        let status = StatusCode::from_u16(status)
            .map_err(|_| Error(format!("the answer has the status {status}")))?;
        let mut headers = HeaderMap::with_capacity(given.len());
        for (name, value) in given {
            // What HTTP does not allow is of no use to the client.
            if let (Ok(name), Ok(value)) =
                (HeaderName::try_from(name), HeaderValue::try_from(value))
            {
                headers.append(name, value);
            }
        }
        Ok(Response { status, headers, body, until, idle: self.idle })
    }
}

pub(in super::super) struct Response {
    status: StatusCode,
    headers: HeaderMap,
    body: ByteStream,
    /// The end of the time for the whole answer.
    until: Option<Instant>,
    idle: Duration,
}

impl Response {
    pub(in super::super) fn status(&self) -> StatusCode {
        self.status
    }

    pub(in super::super) fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    pub(in super::super) async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        let left = self.until.map(|until| until.saturating_duration_since(Instant::now()));
        let time = left.map_or(self.idle, |left| left.min(self.idle));
        let next = timeout(time, self.body.next()).await.map_err(|_| late())?;
        next.transpose().map_err(|error| Error(error.to_string()))
    }

    pub(in super::super) fn bytes_stream(
        self,
    ) -> impl Stream<Item = Result<Bytes, Error>> + Send + Unpin {
        Box::pin(futures::stream::unfold(Some(self), |response| async move {
            let mut response = response?;
            match response.chunk().await {
                Ok(chunk) => chunk.map(|chunk| (Ok(chunk), Some(response))),
                Err(error) => Some((Err(error), None)),
            }
        }))
    }
}
