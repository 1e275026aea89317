//! Goes the way to a server step by step, each step timed and bounded: the name, the connection, a
//! proxy, the encryption, an answer. No step sends a token.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::Uri;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use reqwest::Url;
use reqwest::header::{CONTENT_TYPE, DATE, LOCATION, SERVER};
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use vfs_sync_core::limits::Limits;
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::ErrorBody;

use super::{HttpTransport, answer};
use crate::transport::error::TransportError;

/// The number of bytes of an answer that are looked at.
const MAX_LOOKED_AT: usize = 64 * 1024;
/// The greatest size of the head of a proxy's answer.
const MAX_PROXY_ANSWER: usize = 8 * 1024;
/// The number of addresses of a name that are tried.
const MAX_ADDRESSES: usize = 8;

/// A step on the way to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, strum::IntoStaticStr)]
#[strum(serialize_all = "camelCase")]
pub enum ProbeStep {
    /// The name of the server, or of the proxy, is looked up.
    Name,
    /// A connection to one of the addresses is opened.
    Tcp,
    /// The proxy is asked for a connection to the server.
    Proxy,
    /// The connection is encrypted, and the certificate verified.
    Tls,
    /// A request is answered.
    Http,
}

impl ProbeStep {
    /// Returns the name of the step.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// The outcome of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probed {
    /// The step succeeded; the text is its evidence.
    Ok(String),
    /// The step failed for a reason.
    Failed(String),
    /// The step was not made, for a reason.
    Skipped(String),
}

/// The answer of whoever answers under the server's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeAnswer {
    /// The status of the answer.
    pub status: u16,
    /// The answer's time, from its header `Date`.
    pub date: Option<Timestamp>,
    /// The time of this device when the answer arrived.
    pub at: Timestamp,
    /// True if only a vfs-sync server gives such an answer.
    pub is_vfs_sync: bool,
    /// The code of the error that the answer is.
    pub code: Option<String>,
    /// The media type of the answer.
    pub content_type: Option<String>,
    /// The address to which the answer redirects.
    pub location: Option<String>,
    /// The program that answers, as it names itself.
    pub server: Option<String>,
}

/// The way to a server, step by step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The proxy that the environment names for the server's address, without its credentials.
    pub proxy: Option<String>,
    /// The steps in their order, with the time that each took.
    pub steps: Vec<(ProbeStep, Probed, Duration)>,
    /// The answer, if there was one.
    pub answer: Option<ProbeAnswer>,
}

impl Probe {
    fn add(&mut self, step: ProbeStep, began: Instant, outcome: Result<String, String>) -> bool {
        let is_ok = outcome.is_ok();
        let outcome = match outcome {
            Ok(text) => Probed::Ok(text),
            Err(reason) => Probed::Failed(reason),
        };
        self.steps.push((step, outcome, began.elapsed()));
        is_ok
    }

    fn skip(&mut self, step: ProbeStep, reason: impl Into<String>) {
        self.steps.push((step, Probed::Skipped(reason.into()), Duration::ZERO));
    }
}

/// Runs a step, for at most `patience`.
async fn within<T>(
    patience: Duration,
    step: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    let done = tokio::time::timeout(patience, step).await;
    done.unwrap_or_else(|_| Err(format!("no answer within {} s", patience.as_secs())))
}

impl HttpTransport {
    /// Goes the way to the server step by step. Each step takes at most `patience`; a step that
    /// fails skips those that need it, except that a request is tried in any case.
    pub async fn probe(&self, patience: Duration) -> Probe {
        let proxy = self.base.as_str().parse::<Uri>().ok();
        let proxy = proxy.and_then(|uri| Matcher::from_system().intercept(&uri));
        let shown = proxy.as_ref().map(|proxy| plain(proxy.uri()));
        let mut probe = Probe { proxy: shown, steps: Vec::new(), answer: None };
        let reached = self.connect(&mut probe, proxy.as_ref(), patience).await;
        if !reached && probe.proxy.is_none() {
            probe.skip(ProbeStep::Http, "there is no connection");
            return probe;
        }
        let began = Instant::now();
        let asked = within(patience, self.ask()).await;
        let outcome = asked.as_ref().map(|answer| format!("status {}", answer.status));
        probe.add(ProbeStep::Http, began, outcome.map_err(Clone::clone));
        probe.answer = asked.ok();
        probe
    }

    /// Opens a connection to the server, encrypted if its address says so. Returns whether it could.
    async fn connect(
        &self,
        probe: &mut Probe,
        proxy: Option<&Intercept>,
        patience: Duration,
    ) -> bool {
        let https = self.base.scheme() == "https";
        let (host, port) = match proxy {
            Some(proxy) => {
                let uri = proxy.uri();
                let port = uri.port_u16().unwrap_or(match uri.scheme_str() {
                    Some("https") => 443,
                    Some("socks4" | "socks4a" | "socks5" | "socks5h") => 1080,
                    _ => 80,
                });
                (uri.host().unwrap_or_default().to_owned(), port)
            }
            None => target(&self.base),
        };
        let began = Instant::now();
        let found = within(patience, look_up(&host, port)).await;
        let shown = found.as_ref().map(|addresses| {
            let list: Vec<_> = addresses.iter().map(|address| address.ip().to_string()).collect();
            format!("{host} is {}", list.join(", "))
        });
        probe.add(ProbeStep::Name, began, shown.map_err(Clone::clone));
        let Ok(addresses) = found else {
            probe.skip(ProbeStep::Tcp, "the name has no address");
            self.skip_tls(probe, "there is no connection");
            return false;
        };
        let began = Instant::now();
        let opened = within(patience, open(&addresses)).await;
        let shown = opened.as_ref().map(|(_, address)| format!("connected to {address}"));
        probe.add(ProbeStep::Tcp, began, shown.map_err(Clone::clone));
        let Ok((mut stream, _)) = opened else {
            self.skip_tls(probe, "there is no connection");
            return false;
        };
        if let Some(proxy) = proxy {
            if proxy.uri().scheme_str() != Some("http") {
                probe.skip(ProbeStep::Proxy, "it is asked with the request");
                self.skip_tls(probe, "it is made through the proxy, with the request");
                return true;
            }
            if !https {
                probe.skip(ProbeStep::Proxy, "it passes the request on");
                self.skip_tls(probe, "the server's address is not encrypted");
                return true;
            }
            let began = Instant::now();
            let tunnel = within(patience, tunnel(&mut stream, proxy, &self.base)).await;
            if !probe.add(ProbeStep::Proxy, began, tunnel) {
                self.skip_tls(probe, "the proxy opens no connection");
                return false;
            }
        }
        if !https {
            self.skip_tls(probe, "the server's address is not encrypted");
            return true;
        }
        let began = Instant::now();
        let encrypted = within(patience, encrypt(stream, &target(&self.base).0)).await;
        probe.add(ProbeStep::Tls, began, encrypted)
    }

    fn skip_tls(&self, probe: &mut Probe, reason: &str) {
        probe.skip(ProbeStep::Tls, reason);
    }

    /// Asks for the server's limits without a token, and looks at the answer.
    async fn ask(&self) -> Result<ProbeAnswer, String> {
        let mut response =
            self.http.get(self.url(&["limits"])).send().await.map_err(
                |error| match answer::network(error) {
                    TransportError::Network { reason, .. } => reason,
                    other => other.to_string(),
                },
            )?;
        let at = std::time::SystemTime::now();
        let at = Timestamp::from_system_time(at).unwrap_or(Timestamp::MIN);
        let status = response.status().as_u16();
        let header = |name| {
            let value = response.headers().get(name)?.to_str().ok()?;
            Some(value.chars().take(256).collect::<String>())
        };
        let (content_type, location, server) =
            (header(CONTENT_TYPE), header(LOCATION), header(SERVER));
        let date = header(DATE).and_then(|text| httpdate::parse_http_date(&text).ok());
        let mut body = Vec::new();
        while body.len() < MAX_LOOKED_AT {
            match response.chunk().await {
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                // What there is says enough.
                Ok(None) | Err(_) => break,
            }
        }
        let error = serde_json::from_slice::<ErrorBody>(&body).ok();
        let is_error = error.is_some() && status >= 400;
        let is_limits = status == 200 && serde_json::from_slice::<Limits>(&body).is_ok();
        Ok(ProbeAnswer {
            status,
            date: date.and_then(Timestamp::from_system_time),
            at,
            is_vfs_sync: is_error || is_limits,
            code: error.map(|error| error.code).filter(|_| is_error),
            content_type,
            location,
            server,
        })
    }
}

/// Returns the host and the port of a server's address.
fn target(base: &Url) -> (String, u16) {
    let host = base.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    (host, base.port_or_known_default().unwrap_or(443))
}

/// Returns a proxy's address without user and password.
fn plain(uri: &Uri) -> String {
    let scheme = uri.scheme_str().unwrap_or("http");
    let port = uri.port_u16().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{scheme}://{}{port}", uri.host().unwrap_or_default())
}

async fn look_up(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    let host = host.trim_matches(['[', ']']);
    let found = tokio::net::lookup_host((host, port)).await;
    let found = found.map_err(|error| format!("{host}: {error}"))?;
    let found: Vec<_> = found.take(MAX_ADDRESSES).collect();
    if found.is_empty() { Err(format!("{host} has no address")) } else { Ok(found) }
}

/// Opens a connection to the first address that takes one.
async fn open(addresses: &[SocketAddr]) -> Result<(TcpStream, SocketAddr), String> {
    let mut reasons = Vec::new();
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok((stream, *address)),
            Err(error) => reasons.push(format!("{address}: {error}")),
        }
    }
    Err(reasons.join("; "))
}

/// Asks a proxy for a connection to the server.
async fn tunnel(stream: &mut TcpStream, proxy: &Intercept, base: &Url) -> Result<String, String> {
    let (host, port) = target(base);
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let mut request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n");
    if let Some(value) = proxy.basic_auth().and_then(|value| value.to_str().ok()) {
        request.push_str(&format!("Proxy-Authorization: {value}\r\n"));
    }
    request.push_str("\r\n");
    let failed = |error: std::io::Error| format!("the proxy: {error}");
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= MAX_PROXY_ANSWER {
            return Err("the proxy's answer is too long".to_owned());
        }
        // One byte at a time: what follows belongs to the server.
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(error) => return Err(failed(error)),
        }
    }
    let head = String::from_utf8_lossy(&head);
    let line = head.lines().next().unwrap_or_default().chars().take(256).collect::<String>();
    match line.split(' ').nth(1) {
        Some(status) if status.starts_with('2') => Ok(line),
        _ => Err(format!("the proxy answers: {line}")),
    }
}

/// Encrypts a connection as the transport does. Returns the protocol and the cipher.
async fn encrypt(stream: TcpStream, host: &str) -> Result<String, String> {
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_platform_verifier())
        .map_err(|error| format!("TLS cannot be set up: {error}"))?
        .with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from(host.to_owned())
        .map_err(|error| format!("{host}: {error}"))?;
    let connector = TlsConnector::from(std::sync::Arc::new(config));
    let stream = connector.connect(name, stream).await.map_err(|error| error.to_string())?;
    let (_, session) = stream.get_ref();
    let version = session.protocol_version().and_then(|version| version.as_str());
    Ok(format!("{}, the certificate is valid for {host}", version.unwrap_or("TLS")))
}
