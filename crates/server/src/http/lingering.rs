//! A connection that limits how long its peer may take to read, and drains its input before it
//! closes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// The time in which a peer may notice that the connection was closed.
const LINGER: Duration = Duration::from_secs(2);

/// A stream that fails a write without progress for too long: a stalled reader would hold its
/// request's memory for ever.
///
/// After shutdown it reads and drops the remaining input for a moment. Closing at once would reset
/// the connection of a peer that still sends a rejected body, and the peer would lose the answer
/// that says why.
pub(crate) struct LingeringStream<S> {
    inner: S,
    limit: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    lingering: Option<Pin<Box<Sleep>>>,
    ended: bool,
}

impl<S: AsyncWrite + Unpin> LingeringStream<S> {
    pub(crate) fn new(inner: S, limit: Duration) -> Self {
        Self { inner, limit, stalled: None, lingering: None, ended: false }
    }

    fn bounded<T>(
        &mut self,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if let Poll::Ready(outcome) = write(Pin::new(&mut self.inner), context) {
            self.stalled = None;
            return Poll::Ready(outcome);
        }
        let limit = self.limit;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for LingeringStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.inner).poll_read(context, buffer));
        self.ended |= read.is_err() || buffer.filled().len() == before;
        Poll::Ready(read)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for LingeringStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.bounded(context, |inner, context| inner.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.bounded(context, |inner, context| inner.poll_write_vectored(context, bytes))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.bounded(context, |inner, context| inner.poll_flush(context))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            ready!(self.bounded(context, |inner, context| inner.poll_shutdown(context)))?;
            self.lingering = Some(Box::pin(tokio::time::sleep(LINGER)));
        }
        while !self.ended {
            if let Some(lingering) = &mut self.lingering
                && lingering.as_mut().poll(context).is_ready()
            {
                break;
            }
            let mut dropped = [0; 8 * 1024];
            let mut dropped = ReadBuf::new(&mut dropped);
            let _ = ready!(self.as_mut().poll_read(context, &mut dropped));
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn a_peer_that_takes_nothing_ends_the_connection() {
        let (ours, _theirs) = tokio::io::duplex(16);
        let mut ours = LingeringStream::new(ours, Duration::from_millis(5));
        let error = ours.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn what_a_peer_still_sends_is_heard_out() {
        let (mut ours, mut theirs) = tokio::io::duplex(4);
        let sent = tokio::spawn(async move { theirs.write_all(&[0; 64]).await });
        LingeringStream::new(&mut ours, Duration::from_secs(30)).shutdown().await.unwrap();
        sent.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_peer_that_takes_bytes_now_and_then_is_served() {
        let (ours, mut theirs) = tokio::io::duplex(1);
        let mut ours = LingeringStream::new(ours, Duration::from_secs(30));
        let (written, read) = tokio::join!(ours.write_all(&[7; 64]), async {
            let mut buffer = [0; 64];
            theirs.read_exact(&mut buffer).await.map(|_| buffer)
        });
        written.unwrap();
        assert_eq!(read.unwrap(), [7; 64]);
    }
}
