//! Accepts connections within limits, serves them, and drains them at shutdown.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use crate::config::ServerConfig;
use crate::http::lingering::LingeringStream;

/// The greatest number of concurrent streams of one HTTP/2 connection.
const MAX_STREAMS: u32 = 256;
/// The greatest size of an HTTP/2 request's header fields in bytes.
const MAX_HEADER_BYTES: u32 = 64 * 1024;
/// The pause after the process has run out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Limits on a listener's connections.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    connections: usize,
    head: Duration,
    idle: Duration,
    drain: Duration,
}

impl Bounds {
    pub(crate) fn of(config: &ServerConfig) -> Self {
        Self {
            connections: config.max_connections.min(Semaphore::MAX_PERMITS),
            head: config.head_timeout,
            idle: config.idle_timeout,
            drain: config.drain_timeout,
        }
    }
}

/// Serves until `stop`, then until the requests in progress are done or the drain time is over.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    bounds: Bounds,
    stop: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(bounds.connections));
    let connections = TaskTracker::new();
    let give_up = CancellationToken::new();
    // Whoever drops the server in the middle drops its connections.
    let _guard = give_up.clone().drop_guard();
    loop {
        let next = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            () = stop.cancelled() => break,
            next = next => next,
        };
        match accepted {
            Ok((stream, _)) => {
                let connection =
                    connection(stream, router.clone(), bounds, stop.clone(), give_up.clone());
                connections.spawn(async move {
                    connection.await;
                    drop(slot);
                });
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

async fn connection(
    stream: TcpStream,
    router: Router,
    bounds: Bounds,
    stop: CancellationToken,
    give_up: CancellationToken,
) {
    // Small answers must not wait for the peer's acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set");
    }
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(bounds.head);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(bounds.head)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_BYTES);
    let io = TokioIo::new(LingeringStream::new(stream, bounds.idle));
    let begun = Arc::new(AtomicBool::new(false));
    let service = router.map_request(noting(Arc::clone(&begun)));
    let served = builder.serve_connection(io, TowerToHyperService::new(service));
    let mut served = std::pin::pin!(served);
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
            () = give_up.cancelled() => return,
        }
    }
}

/// Passes requests on, and records in `begun` that one arrived.
fn noting<B>(begun: Arc<AtomicBool>) -> impl Fn(Request<B>) -> Request<B> + Clone {
    move |request| {
        begun.store(true, Ordering::Relaxed);
        request
    }
}
