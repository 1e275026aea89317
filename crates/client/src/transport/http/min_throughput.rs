//! Detects streams that are stalled or nearly so.

use std::io::{Error, ErrorKind};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};

use crate::host::{Instant, timeout};

/// Returns the stream; it fails once fewer than `least` bytes arrived in a `window` of waiting for
/// them. The reader's own time does not count.
pub(super) fn min_throughput(
    bytes: impl Stream<Item = Result<Bytes, Error>> + Send,
    least: u64,
    window: Duration,
) -> impl Stream<Item = Result<Bytes, Error>> + Send {
    let begin = (Box::pin(bytes), Duration::ZERO, 0, false);
    futures::stream::unfold(begin, move |(mut bytes, mut waited, mut came, over)| async move {
        if over {
            return None;
        }
        loop {
            let since = Instant::now();
            let next = timeout(window.saturating_sub(waited), bytes.next()).await;
            waited += since.elapsed();
            if let Ok(next) = next {
                let next = next?;
                came += next.as_ref().map_or(0, |chunk| chunk.len() as u64);
                let over = next.is_err();
                return Some((next, (bytes, waited, came, over)));
            }
            if came < least {
                let seconds = window.as_secs_f64();
                let text = format!("{came} bytes came in {seconds} s: taken for stuck");
                let error = Error::new(ErrorKind::TimedOut, text);
                return Some((Err(error), (bytes, waited, came, true)));
            }
            (waited, came) = (Duration::ZERO, 0);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(60);

    /// Returns `count` chunks of `size` bytes, one after every `every`.
    fn trickle(
        count: usize,
        size: usize,
        every: Duration,
    ) -> impl Stream<Item = Result<Bytes, Error>> + Send {
        futures::stream::iter(0..count).then(move |_| async move {
            tokio::time::sleep(every).await;
            Ok(Bytes::from(vec![0; size]))
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_byte_a_second_is_cut_off() {
        let begin = Instant::now();
        let stream = min_throughput(trickle(10_000, 1, Duration::from_secs(1)), 1_000, WINDOW);
        let all: Vec<_> = stream.collect().await;
        let error = all.last().unwrap().as_ref().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
        assert_eq!(begin.elapsed(), WINDOW);
        assert_eq!(all.iter().filter(|one| one.is_err()).count(), 1, "said once");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_stream_that_goes_on_is_left_alone() {
        let stream = min_throughput(trickle(50, 1_000, Duration::from_secs(50)), 1_000, WINDOW);
        let count = stream.filter(|one| std::future::ready(one.is_ok())).count().await;
        assert_eq!(count, 50);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_its_time_is_not_the_senders_fault() {
        let mut stream =
            Box::pin(min_throughput(trickle(20, 1, Duration::from_secs(1)), 1_000, WINDOW));
        let mut count = 0;
        while let Some(chunk) = stream.next().await {
            chunk.unwrap();
            count += 1;
            tokio::time::sleep(10 * WINDOW).await;
        }
        assert_eq!(count, 20);
    }
}
