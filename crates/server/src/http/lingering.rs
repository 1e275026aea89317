//! A connection that limits how long its peer may take to read, and drains its input before it
//! closes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::http::body::Pace;

/// The time in which a peer may notice that the connection was closed.
const LINGER: Duration = Duration::from_secs(2);

/// Fails a write whose peer takes less than the least for too long: a reader that stalls would hold
/// its request's memory for ever. Only the time counts in which the peer keeps the server waiting.
///
/// After shutdown it reads and drops the remaining input for a moment. Closing at once would reset
/// the connection of a peer that still sends a rejected body, and the peer would lose the answer
/// that says why.
pub(crate) struct LingeringStream<S> {
    inner: S,
    pace: Pace,
    /// The end of the time in which the least has to be taken.
    stalled: Option<Pin<Box<Sleep>>>,
    /// Bytes that were taken in that time.
    taken: u64,
    lingering: Option<Pin<Box<Sleep>>>,
    ended: bool,
}

impl<S: AsyncWrite + Unpin> LingeringStream<S> {
    pub(crate) fn new(inner: S, pace: Pace) -> Self {
        Self { inner, pace, stalled: None, taken: 0, lingering: None, ended: false }
    }

    /// Runs a write, and fails it if the peer lets it wait for too long.
    fn bounded<T>(
        &mut self,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if let Poll::Ready(outcome) = write(Pin::new(&mut self.inner), context) {
            return Poll::Ready(outcome);
        }
        let window = self.pace.window;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(window)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Counts bytes that were written; enough of them begin a new time.
    fn took(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let (Poll::Ready(Ok(bytes)), Some(_)) = (&written, &self.stalled) {
            self.taken += *bytes as u64;
            if self.taken >= self.pace.least {
                self.keeps_up();
            }
        }
        written
    }

    fn keeps_up(&mut self) {
        self.stalled = None;
        self.taken = 0;
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
        let written = self.bounded(context, |inner, context| inner.poll_write(context, bytes));
        self.took(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let write = |inner: Pin<&mut S>, context: &mut Context<'_>| {
            inner.poll_write_vectored(context, bytes)
        };
        let written = self.bounded(context, write);
        self.took(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = ready!(self.bounded(context, |inner, context| inner.poll_flush(context)));
        // All that there was is written.
        self.keeps_up();
        Poll::Ready(flushed)
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

    fn pace(window: Duration) -> Pace {
        Pace { window, least: 32 }
    }

    /// Writes 64 bytes to a peer that takes `bytes` every 8 of 30 seconds.
    async fn written_to_who_takes(bytes: usize) -> io::Result<()> {
        let (ours, mut theirs) = tokio::io::duplex(1);
        let mut ours = LingeringStream::new(ours, pace(Duration::from_secs(30)));
        let reading = async {
            let mut ticks = tokio::time::interval(Duration::from_secs(8));
            let mut buffer = vec![0; bytes];
            loop {
                ticks.tick().await;
                theirs.read_exact(&mut buffer).await.unwrap();
            }
        };
        tokio::select! {
            written = ours.write_all(&[0; 64]) => written,
            () = reading => unreachable!(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_less_than_the_least_ends_the_connection() {
        let error = written_to_who_takes(4).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        written_to_who_takes(16).await.unwrap();
    }

    #[tokio::test]
    async fn a_peer_that_takes_nothing_ends_the_connection() {
        let (ours, _theirs) = tokio::io::duplex(16);
        let mut ours = LingeringStream::new(ours, pace(Duration::from_millis(5)));
        let error = ours.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn what_a_peer_still_sends_is_heard_out() {
        let (mut ours, mut theirs) = tokio::io::duplex(4);
        let sent = tokio::spawn(async move { theirs.write_all(&[0; 64]).await });
        LingeringStream::new(&mut ours, pace(Duration::from_secs(30))).shutdown().await.unwrap();
        sent.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_peer_that_takes_bytes_now_and_then_is_served() {
        let (ours, mut theirs) = tokio::io::duplex(1);
        let mut ours = LingeringStream::new(ours, pace(Duration::from_secs(30)));
        let (written, read) = tokio::join!(ours.write_all(&[7; 64]), async {
            let mut buffer = [0; 64];
            theirs.read_exact(&mut buffer).await.map(|_| buffer)
        });
        written.unwrap();
        assert_eq!(read.unwrap(), [7; 64]);
    }
}
