//! The answer that streams a client's hints as server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse as _, Response};
use futures::Stream;
use http::header::CACHE_CONTROL;
use http::{HeaderName, HeaderValue};
use serde_json::json;
use tokio::time::Instant;

use super::{Bye, FeedHead, Open};

/// The shortest time between two hints of a stream.
const PAUSE: Duration = Duration::from_millis(10);
/// The longest time for which a stream is open: a client opens another.
const MAX_LIFE: Duration = Duration::from_secs(30 * 24 * 3_600);
/// The header by which a proxy is asked not to hold events back.
const UNBUFFERED: HeaderName = HeaderName::from_static("x-accel-buffering");

/// The next thing for a stream to send.
enum Next {
    Retry,
    Hints,
    Nothing,
}

struct Events {
    open: Open,
    next: Next,
    /// The head of the first event, if nothing newer came meanwhile.
    first: Option<FeedHead>,
    expires: Instant,
    sent: Instant,
    hinted: Option<Instant>,
}

/// Builds the answer: the newest head at once, and each newer one, until the stream has to end.
pub(crate) fn events(open: Open, head: FeedHead, expires_in: Option<Duration>) -> Response {
    let now = Instant::now();
    let expires = now + expires_in.unwrap_or(MAX_LIFE).min(MAX_LIFE);
    let (next, first) = (Next::Retry, Some(head));
    let events = Events { open, next, first, expires, sent: now, hinted: None };
    let mut response = Sse::new(events.stream()).into_response();
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(UNBUFFERED, HeaderValue::from_static("no"));
    response
}

impl Events {
    fn stream(self) -> impl Stream<Item = Result<Event, Infallible>> + Send {
        futures::stream::unfold(self, |mut events| async move {
            let event = events.next().await?;
            events.sent = Instant::now();
            Some((Ok(event), events))
        })
    }

    async fn next(&mut self) -> Option<Event> {
        match self.next {
            Next::Nothing => return None,
            Next::Retry => {
                self.next = Next::Hints;
                return Some(Event::default().retry(self.open.live.retry(false)));
            }
            Next::Hints => {}
        }
        if let Some(head) = self.first.take() {
            let known = self.open.signal.pending().hint.take();
            return Some(self.hint(known.map_or(head, |(known, _)| known.max(head))));
        }
        let live = std::sync::Arc::clone(&self.open.live);
        loop {
            let due = {
                let mut pending = self.open.signal.pending();
                if let Some(bye) = pending.bye {
                    drop(pending);
                    return Some(self.bye(bye));
                }
                let now = Instant::now();
                let due = pending
                    .hint
                    .map(|(_, due)| self.hinted.map_or(due, |hinted| due.max(hinted + PAUSE)));
                if due.is_some_and(|due| due <= now)
                    && let Some((head, _)) = pending.hint.take()
                {
                    drop(pending);
                    return Some(self.hint(head));
                }
                due
            };
            let quiet_until = self.sent + live.keep_alive;
            let wake = due.map_or(quiet_until, |due| due.min(quiet_until)).min(self.expires);
            tokio::select! {
                biased;
                () = live.closing.cancelled() => return Some(self.bye(Bye::Shutdown)),
                () = self.open.signal.changed.notified() => {}
                () = tokio::time::sleep_until(wake) => {
                    if wake == self.expires {
                        return Some(self.bye(Bye::Expired));
                    }
                    if wake == quiet_until {
                        return Some(Event::default().comment("keep-alive"));
                    }
                }
            }
        }
    }

    fn hint(&mut self, head: FeedHead) -> Event {
        metrics::counter!("vfs_sync_event_heads_sent_total").increment(1);
        self.hinted = Some(Instant::now());
        let position = head.position.map(|position| position.to_string());
        let data = json!({ "epoch": head.epoch.as_u64().to_string(), "position": position });
        Event::default().event("head").data(data.to_string())
    }

    fn bye(&mut self, bye: Bye) -> Event {
        self.next = Next::Nothing;
        let reason: &'static str = bye.into();
        metrics::counter!("vfs_sync_event_streams_ended_total", "reason" => reason).increment(1);
        let retry = self.open.live.retry(bye == Bye::Shutdown);
        Event::default().event("bye").retry(retry).data(json!({ "reason": reason }).to_string())
    }
}
