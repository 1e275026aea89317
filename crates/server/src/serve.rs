//! Accepts connections within limits, serves them, and drains them at shutdown.

pub(crate) mod service;
pub(crate) mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::MissedTickBehavior;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use crate::config::ServerConfig;
use crate::http::answer;
use crate::http::body::Pace;
use crate::http::connection::{Connections, Open};
use crate::http::lingering::LingeringStream;
use tls::Certificate;

/// Streams of one HTTP/2 connection at a time.
const MAX_STREAMS: u32 = 100;
/// Bytes that are held to be sent for one stream, and that are read of one request's head.
const BUFFER_BYTES: usize = 64 * 1024;
/// Connections beyond the bound that are still closing, until no further one is accepted.
const CLOSING: usize = 64;
/// Bytes of all the header fields of an HTTP/2 request.
const MAX_HEADER_BYTES: u32 = 64 * 1024;
/// The pause after the process has run out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Limits on a listener's connections.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    connections: usize,
    head: Duration,
    pace: Pace,
    drain: Duration,
}

impl Bounds {
    pub(crate) fn of(config: &ServerConfig) -> Self {
        Self {
            connections: config.max_connections.max(1),
            head: config.head_timeout,
            pace: config.pace(),
            drain: config.drain_timeout,
        }
    }
}

/// Serves until `stop`, then until the requests in progress are done or the drain time is over.
pub(crate) async fn serve(
    listener: TcpListener,
    certificate: Option<Certificate>,
    router: Router,
    bounds: Bounds,
    stop: CancellationToken,
) {
    let acceptor = match certificate.map(|certificate| certificate.acceptor()).transpose() {
        Ok(acceptor) => acceptor,
        Err(error) => {
            tracing::error!(%error, "connections cannot be encrypted: the server does not serve");
            return;
        }
    };
    let open = Arc::new(Connections::default());
    let connections = TaskTracker::new();
    let give_up = CancellationToken::new();
    // Whoever drops the server in the middle drops its connections.
    let _guard = give_up.clone().drop_guard();
    loop {
        let next = async {
            while open.len() >= bounds.connections + CLOSING {
                open.ended.notified().await;
            }
            listener.accept().await
        };
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = next => accepted,
        };
        match accepted {
            Ok((stream, address)) => {
                let Some(place) = place(&open, bounds.connections, address) else { continue };
                connections.spawn(connection(
                    stream,
                    place,
                    acceptor.clone(),
                    router.clone(),
                    bounds,
                    stop.clone(),
                    give_up.clone(),
                ));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(bounds.drain, connections.wait()).await.is_err() {
        tracing::warn!(left = connections.len(), "the server stopped with requests in flight");
        give_up.cancel();
        connections.wait().await;
    }
}

/// Makes room for a new connection, which is hung up on if all others are busy for users.
fn place(open: &Arc<Connections>, most: usize, address: SocketAddr) -> Option<Open> {
    if open.len() >= most {
        let has_room = open.evict();
        let reason = if has_room { "evicted" } else { "refused" };
        metrics::counter!("vfs_sync_connections_ended_total", "reason" => reason).increment(1);
        if !has_room {
            return None;
        }
    }
    Some(open.add(address.ip()))
}

/// The answer to a peer that speaks HTTP without encryption.
const NOT_ENCRYPTED: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n\
    content-length: 94\r\nconnection: close\r\n\r\n\
    {\"error\":\"this server speaks https: begin its address with https://\",\"code\":\"https_required\"}\n";

/// Opens encryption on a new connection; `None` if the peer does not go along.
async fn encrypted(
    stream: TcpStream,
    acceptor: &TlsAcceptor,
    pace: Pace,
) -> Option<TlsStream<TcpStream>> {
    let mut first = [0];
    if stream.peek(&mut first).await.ok()? == 1 && first[0].is_ascii_uppercase() {
        let mut stream = LingeringStream::new(stream, pace);
        let _ = stream.write_all(NOT_ENCRYPTED).await;
        let _ = stream.shutdown().await;
        return None;
    }
    match acceptor.accept(stream).await {
        Ok(stream) => Some(stream),
        Err(error) => {
            tracing::debug!(%error, "a connection was not encrypted");
            None
        }
    }
}

async fn connection(
    stream: TcpStream,
    place: Open,
    acceptor: Option<TlsAcceptor>,
    router: Router,
    bounds: Bounds,
    stop: CancellationToken,
    give_up: CancellationToken,
) {
    // Small answers must not wait for the peer's acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set");
    }
    let stream = match acceptor {
        None => Either::Left(stream),
        Some(acceptor) => {
            let opening =
                tokio::time::timeout(bounds.head, encrypted(stream, &acceptor, bounds.pace));
            tokio::select! {
                opened = opening => match opened {
                    Ok(Some(stream)) => Either::Right(stream),
                    Ok(None) | Err(_) => return,
                },
                () = stop.cancelled() => return,
                () = place.connection.evicted.notified() => return,
            }
        }
    };
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.head)
        .max_buf_size(BUFFER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(bounds.head)
        .max_concurrent_streams(MAX_STREAMS)
        .max_send_buf_size(BUFFER_BYTES)
        .max_header_list_size(MAX_HEADER_BYTES);
    let io = TokioIo::new(LingeringStream::new(stream, bounds.pace));
    let begun = Arc::new(AtomicBool::new(false));
    let place = Arc::new(place);
    let service = tower::service_fn({
        let (begun, place) = (Arc::clone(&begun), Arc::clone(&place));
        move |mut request: Request<_>| {
            begun.store(true, Ordering::Relaxed);
            let (busy, connection) = (place.begin(), Arc::clone(&place.connection));
            request.extensions_mut().insert(Arc::clone(&connection));
            let version = request.version();
            let answer = router.clone().oneshot(request);
            async move {
                // A connection on which many requests wait takes turns with all others.
                tokio::task::yield_now().await;
                let answer = answer.await?;
                let place = Some((&connection, busy));
                Ok::<_, std::convert::Infallible>(answer::hold(answer, version, place))
            }
        }
    });
    let served = builder.serve_connection(io, TowerToHyperService::new(service));
    let mut served = std::pin::pin!(served);
    let mut looks = tokio::time::interval(bounds.pace.window);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The library's own time-out begins once it knows which HTTP is spoken.
    let mut opening = std::pin::pin!(tokio::time::sleep(bounds.head));
    let mut opened = false;
    let mut stopping = false;
    loop {
        tokio::select! {
            outcome = &mut served => {
                if let Err(error) = outcome {
                    tracing::debug!(%error, "a connection ended early");
                }
                return;
            }
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                served.as_mut().graceful_shutdown();
            }
            () = &mut opening, if !opened => {
                opened = begun.load(Ordering::Relaxed);
                if !opened {
                    return;
                }
            }
            _ = looks.tick() => {
                if place.connection.give_up_stalled(bounds.pace.least) {
                    return;
                }
            }
            () = place.connection.evicted.notified() => return,
            () = give_up.cancelled() => return,
        }
    }
}
