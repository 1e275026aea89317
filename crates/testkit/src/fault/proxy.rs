//! A TCP proxy between two processes, with faults that a test controls.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

/// The direction of a flow of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The flow from the connecting side to the proxy's target.
    Forth,
    /// The flow from the target back to the connecting side.
    Back,
}

/// The present state of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Line {
    /// True if new connections are refused and existing ones reset.
    cut: bool,
    /// True for each direction (forth, back) in which bytes are held.
    held: [bool; 2],
    /// The delay of each chunk.
    delay: Duration,
}

/// A proxy that passes connections on to an address, byte by byte, until it is dropped. It needs a
/// runtime.
pub struct Proxy {
    address: SocketAddr,
    target: Arc<Mutex<SocketAddr>>,
    line: Arc<watch::Sender<Line>>,
    limits: Arc<Mutex<Vec<(Direction, u64)>>>,
    _stop: DropGuard,
}

impl Proxy {
    /// Starts a proxy to `target` on a free port.
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("a bound address");
        let (line, limits) = (Arc::new(watch::Sender::new(Line::default())), Arc::default());
        let target = Arc::new(Mutex::new(target));
        let stop = CancellationToken::new();
        let serving = serve(listener, Arc::clone(&target), Arc::clone(&line), Arc::clone(&limits));
        tokio::spawn(stop.clone().run_until_cancelled_owned(serving));
        Self { address, target, line, limits, _stop: stop.drop_guard() }
    }

    /// Returns the address to connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the proxy's URL as a server's: `http://127.0.0.1:<port>`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Leads new connections to another target; open ones stay where they are.
    pub fn redirect(&self, target: SocketAddr) {
        *lock(&self.target) = target;
    }

    /// Resets all connections, and new ones at once, until [`Self::heal`].
    pub fn cut(&self) {
        self.line.send_modify(|line| line.cut = true);
    }

    /// Holds bytes in one direction until [`Self::heal`], which delivers them; connections stay
    /// open. Holding both directions simulates a network without a route.
    pub fn hold(&self, direction: Direction) {
        self.line.send_modify(|line| line.held[direction as usize] = true);
    }

    /// Delays every chunk by `by`.
    pub fn delay(&self, by: Duration) {
        self.line.send_modify(|line| line.delay = by);
    }

    /// Ends a connection once `bytes` have passed in one direction: the next connection that has no
    /// limit yet.
    pub fn cut_next_after(&self, direction: Direction, bytes: u64) {
        lock(&self.limits).push((direction, bytes));
    }

    /// Ends all faults: all bytes pass.
    pub fn heal(&self) {
        self.line.send_replace(Line::default());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(
    listener: TcpListener,
    target: Arc<Mutex<SocketAddr>>,
    line: Arc<watch::Sender<Line>>,
    limits: Arc<Mutex<Vec<(Direction, u64)>>>,
) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((client, _)) = listener.accept().await else { continue };
        if line.borrow().cut {
            reset(&client);
            continue;
        }
        let limit = {
            let mut limits = lock(&limits);
            (!limits.is_empty()).then(|| limits.remove(0))
        };
        let target = *lock(&target);
        connections.spawn(pass(client, target, line.subscribe(), limit));
    }
}

/// Makes the stream close with a reset, as the connection of a killed process may.
fn reset(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}

async fn pass(
    client: TcpStream,
    target: SocketAddr,
    mut line: watch::Receiver<Line>,
    limit: Option<(Direction, u64)>,
) {
    // One that reaches nobody ends as one that is refused does.
    let Ok(server) = TcpStream::connect(target).await else { return reset(&client) };
    for stream in [&client, &server] {
        reset(stream);
        let _ = stream.set_nodelay(true);
    }
    let of = |direction| limit.filter(|(of, _)| *of == direction).map(|(_, bytes)| bytes);
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let forth = copy(from_client, to_server, line.clone(), Direction::Forth, of(Direction::Forth));
    let back = copy(from_server, to_client, line.clone(), Direction::Back, of(Direction::Back));
    let both = async {
        tokio::select! {
            ended = forth => ended,
            ended = back => ended,
        }
    };
    tokio::select! {
        _ = line.wait_for(|line| line.cut) => {}
        () = both => {}
    }
}

/// Copies until the end of the stream or the limit of bytes; both end the connection.
async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut line: watch::Receiver<Line>,
    direction: Direction,
    limit: Option<u64>,
) {
    let mut left = limit.unwrap_or(u64::MAX);
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else { return };
        let delay = line.borrow().delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let Ok(_) = line.wait_for(|line| !line.held[direction as usize]).await else { return };
        let passed = read.min(usize::try_from(left).unwrap_or(usize::MAX));
        if to.write_all(&buffer[..passed]).await.is_err() {
            return;
        }
        left -= passed as u64;
        if left == 0 {
            return;
        }
    }
}
