//! The body of an answer: it is handed out in small pieces, and what the answer costs is paid until
//! the last of them is taken or given up.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::body::Body;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use http::Version;
use http_body::{Body as _, Frame, SizeHint};

use crate::admission::shares::Share;
use crate::http::connection::{Busy, Connection};

/// The largest piece that is handed to a connection of HTTP/2, which holds one for each of its
/// streams while the peer takes nothing.
const STREAM_PIECE: usize = 16 * 1024;
/// The same of HTTP/1, which has one answer at a time. Pieces of more bytes than this are copies:
/// otherwise a piece that nobody takes would keep them.
const MAX_PIECE: usize = 256 * 1024;
/// Pieces that are smaller are put together, so that what makes a small answer is gone before its
/// peer has taken it.
const GATHERED: usize = 16 * 1024;

/// The peer took too little of the answer for too long.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the answer was taken too slowly")]
struct GivenUp;

/// A request's share, which its answer keeps.
#[derive(Debug, Clone)]
pub(crate) struct Paid {
    _share: Arc<Share>,
}

impl From<Share> for Paid {
    fn from(share: Share) -> Self {
        Self { _share: Arc::new(share) }
    }
}

/// The shares that an answer holds for as long as any of its bytes are in memory.
#[derive(Debug)]
pub(crate) struct Costs {
    _share: Option<Paid>,
    _busy: Option<Busy>,
}

/// Bytes of an answer, with what they cost.
struct Piece {
    bytes: Bytes,
    _costs: Arc<Costs>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// An answer that is being taken.
#[derive(Debug)]
pub(crate) struct Answer {
    source: Mutex<Source>,
    taken: AtomicU64,
}

#[derive(Debug)]
enum Source {
    Flows { body: Body, rest: Bytes, piece: usize, costs: Arc<Costs>, waits: bool },
    Ended,
    GivenUp,
}

impl Answer {
    fn source(&self) -> MutexGuard<'_, Source> {
        self.source.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the number of bytes that the peer's connection has taken.
    pub(crate) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Returns whether the peer waits for the answer's next bytes, not the answer for the peer.
    pub(crate) fn waits_for_source(&self) -> bool {
        matches!(&*self.source(), Source::Flows { waits: true, .. })
    }

    /// Frees what is left of the answer. The peer finds that it broke off.
    pub(crate) fn give_up(&self) {
        let mut source = self.source();
        if matches!(&*source, Source::Flows { .. }) {
            let given_up = std::mem::replace(&mut *source, Source::GivenUp);
            drop(source);
            drop(given_up);
        }
    }
}

/// Lets the answer hold what it costs, and lists it with the connection that it goes to.
pub(crate) fn hold(
    response: Response,
    version: Version,
    connection: Option<(&Arc<Connection>, Busy)>,
) -> Response {
    let (mut parts, body) = response.into_parts();
    let share = parts.extensions.remove::<Paid>();
    let (connection, busy) = match connection {
        Some((connection, busy)) => (Some(connection), Some(busy)),
        None => (None, None),
    };
    if body.is_end_stream() || (share.is_none() && busy.is_none()) {
        return Response::from_parts(parts, body);
    }
    let costs = Arc::new(Costs { _share: share, _busy: busy });
    let watched = Arc::downgrade(&costs);
    let piece = if version == Version::HTTP_2 { STREAM_PIECE } else { MAX_PIECE };
    let source = Source::Flows { body, rest: Bytes::new(), piece, costs, waits: false };
    let answer = Arc::new(Answer { source: Mutex::new(source), taken: AtomicU64::new(0) });
    if let Some(connection) = connection {
        connection.list(&answer, watched);
    }
    Response::from_parts(parts, Body::new(Pieces(answer)))
}

/// The body of a listed answer.
struct Pieces(Arc<Answer>);

impl Drop for Pieces {
    fn drop(&mut self) {
        *self.0.source() = Source::Ended;
    }
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut source = self.0.source();
        let Source::Flows { body, rest, piece, costs, waits } = &mut *source else {
            let given_up = matches!(*source, Source::GivenUp);
            return Poll::Ready(given_up.then(|| Err(axum::Error::new(GivenUp))));
        };
        let mut gathered = BytesMut::new();
        let mut ended = false;
        while rest.len() + gathered.len() < GATHERED && !ended {
            match Pin::new(&mut *body).poll_frame(context) {
                Poll::Pending => {
                    *waits = true;
                    break;
                }
                Poll::Ready(None) => ended = true,
                Poll::Ready(Some(Err(error))) => {
                    *source = Source::Ended;
                    return Poll::Ready(Some(Err(error)));
                }
                Poll::Ready(Some(Ok(frame))) => {
                    *waits = false;
                    // No answer has trailers.
                    let Ok(bytes) = frame.into_data() else { continue };
                    if rest.is_empty() && gathered.is_empty() {
                        *rest = bytes;
                    } else {
                        gathered.extend_from_slice(rest);
                        gathered.extend_from_slice(&bytes);
                        *rest = Bytes::new();
                    }
                    ended = body.is_end_stream();
                }
            }
        }
        if !gathered.is_empty() {
            *rest = gathered.freeze();
        }
        let piece = if rest.len() <= *piece {
            std::mem::take(rest)
        } else if rest.len() <= MAX_PIECE {
            rest.split_to(*piece)
        } else {
            Bytes::copy_from_slice(&rest.split_to(*piece))
        };
        let costs = Arc::clone(costs);
        if ended && rest.is_empty() {
            *source = Source::Ended;
        }
        drop(source);
        match (piece.is_empty(), ended) {
            (true, true) => Poll::Ready(None),
            (true, false) => Poll::Pending,
            (false, _) => {
                self.0.taken.fetch_add(piece.len() as u64, Ordering::Relaxed);
                let piece = Bytes::from_owner(Piece { bytes: piece, _costs: costs });
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(*self.0.source(), Source::Ended)
    }

    fn size_hint(&self) -> SizeHint {
        match &*self.0.source() {
            Source::Flows { body, rest, .. } => {
                let (hint, rest) = (body.size_hint(), rest.len() as u64);
                let mut with_rest = SizeHint::new();
                with_rest.set_lower(hint.lower().saturating_add(rest));
                if let Some(upper) = hint.upper().and_then(|upper| upper.checked_add(rest)) {
                    with_rest.set_upper(upper);
                }
                with_rest
            }
            Source::Ended => SizeHint::with_exact(0),
            Source::GivenUp => SizeHint::new(),
        }
    }
}
