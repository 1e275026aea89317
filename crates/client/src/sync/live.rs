//! Holds the stream of live updates, and passes on what it says.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::sync::{Notify, watch};
use vfs_sync_core::id::{ChangeId, ReplicaId};

use super::backoff::back_off;
use super::connection::{PollingReason, SILENCE, TRY_AGAIN};
use crate::client::SyncClient;
use crate::config::ClientConfig;
use crate::host::{self, Instant, JoinHandle, sleep_until, timeout};
use crate::transport::{EventStream, LiveEvent, Transport, TransportError, TransportExt as _};

/// The wait before a stream is opened again if the server names none.
const RETRY: Duration = Duration::from_secs(3);
/// The shortest wait before a stream is opened again, whatever the server says.
const LEAST_RETRY: Duration = Duration::from_secs(1);
/// The number of streams in a row that fell silent, from which something holds the events back.
const SILENT: u32 = 2;

/// The state of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Link {
    /// The stream is being opened, or was interrupted.
    #[default]
    Down,
    /// The stream is open and delivers events.
    Up,
    /// There is no stream for the time being.
    None(PollingReason),
}

/// The news of the stream for the background work.
#[derive(Debug, Clone, Default)]
pub(super) struct Heard {
    pub(super) link: Link,
    /// The position of the newest head, if one was heard of on this stream.
    pub(super) head: Option<Option<ChangeId>>,
    /// The time before which neither a stream nor a poll is to reach the server.
    pub(super) not_before: Option<Instant>,
}

/// Hints of the server's live updates that this user's feed has moved, for a program that does not
/// keep the replica open. Background work follows them by itself.
///
/// A hint may be lost, late or doubled: changes come only by [`SyncClient::sync`]. Dropping the
/// value ends the stream.
#[derive(Debug)]
pub struct Hints {
    heard: watch::Receiver<Heard>,
    listening: JoinHandle<()>,
}

impl Hints {
    /// Returns whether the server's hints arrive at present.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.heard.borrow().link == Link::Up
    }

    /// Returns the newest position of the feed, as a hint named it; `None` without hints, or if the
    /// feed is empty.
    #[must_use]
    pub fn position(&self) -> Option<ChangeId> {
        self.heard.borrow().head.clone().flatten()
    }

    /// Waits for another hint, or for the hints to come or to stop.
    pub async fn changed(&mut self) {
        if self.heard.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

impl Drop for Hints {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl SyncClient {
    /// Follows the server's live updates until the result is dropped, even after this client is
    /// closed. Must be called in a tokio runtime. The server allows one stream for each replica.
    #[must_use]
    pub fn hints(&self) -> Hints {
        let (heard, hints) = watch::channel(Heard::default());
        let transport = Arc::clone(&self.inner.transport);
        let (client_id, config) = (self.client_id(), self.inner.config.clone());
        let again = Arc::new(Notify::new());
        let listening = host::spawn(listen(transport, client_id, config, heard, again));
        Hints { heard: hints, listening }
    }
}

/// The way in which a stream ended.
enum Ended {
    /// The stream could not be opened, or is not one of the protocol.
    NotOpened(TransportError),
    /// No event came for too long.
    Silent {
        /// True if not a single one came.
        mute: bool,
    },
    /// The stream ended or broke after events had come; the server names the time to wait.
    Over(Duration),
    /// The stream broke before anything came.
    Broken,
}

/// Holds a stream for as long as it is polled, and opens another one whenever it ends. `again` has it
/// try at once, where it waits for the hour to pass.
pub(super) async fn listen(
    transport: Arc<dyn Transport>,
    client_id: ReplicaId,
    config: ClientConfig,
    heard: watch::Sender<Heard>,
    again: Arc<Notify>,
) {
    let (mut failures, mut silent) = (0, 0);
    loop {
        let ended = match open(&*transport, &client_id).await {
            Ok(Some(stream)) => follow(stream, &heard).await,
            Ok(None) => Ended::Silent { mute: true },
            Err(error) => Ended::NotOpened(error),
        };
        let hourly = |reason| (Link::None(reason), TRY_AGAIN);
        let (link, wait) = match ended {
            Ended::Over(retry) => {
                (failures, silent) = (0, 0);
                (Link::Down, retry)
            }
            Ended::Silent { mute } => {
                silent += if mute { SILENT } else { 1 };
                if silent < SILENT { (Link::Down, RETRY) } else { hourly(PollingReason::HeldBack) }
            }
            Ended::NotOpened(error) => {
                tracing::debug!(%error, "live updates are not available");
                failures += 1;
                match &error {
                    TransportError::Network { retry_after, .. } => {
                        let link = match retry_after {
                            Some(_) => Link::None(PollingReason::Refused),
                            None => Link::Down,
                        };
                        (link, back_off(&config, failures, *retry_after))
                    }
                    // The background work pauses for the same reason.
                    TransportError::Unauthorized(_) => {
                        (Link::Down, back_off(&config, failures, None))
                    }
                    TransportError::MalformedResponse { .. } => hourly(PollingReason::HeldBack),
                    TransportError::Refused { status: 404 | 405, .. } => {
                        hourly(PollingReason::Unsupported)
                    }
                    _ => hourly(PollingReason::Refused),
                }
            }
            Ended::Broken => {
                failures += 1;
                (Link::Down, back_off(&config, failures, Some(RETRY)))
            }
        };
        let until = Instant::now() + wait;
        let not_before = (link == Link::Down).then_some(until);
        heard.send_replace(Heard { link, head: None, not_before });
        tokio::select! {
            () = sleep_until(until) => {}
            () = again.notified(), if matches!(link, Link::None(_)) => silent = 0,
        }
    }
}

/// Opens a stream; returns none if the server does not answer in time.
async fn open(
    transport: &dyn Transport,
    client_id: &ReplicaId,
) -> Result<Option<EventStream>, TransportError> {
    match timeout(SILENCE, transport.events(client_id)).await {
        Ok(opened) => opened.map(Some),
        Err(_) => Ok(None),
    }
}

/// Reports what a stream says until it ends.
async fn follow(mut stream: EventStream, heard: &watch::Sender<Heard>) -> Ended {
    let mut last = Instant::now();
    let (mut retry, mut ever) = (RETRY, false);
    loop {
        let event = match timeout(SILENCE, stream.next()).await {
            Err(_) => return Ended::Silent { mute: !ever },
            Ok(Some(Ok(event))) => event,
            Ok(Some(Err(error @ TransportError::MalformedResponse { .. }))) => {
                return Ended::NotOpened(error);
            }
            // The transport may notice the silence first.
            Ok(_) if last.elapsed() >= SILENCE / 2 => return Ended::Silent { mute: !ever },
            Ok(_) if ever => return Ended::Over(retry),
            Ok(_) => return Ended::Broken,
        };
        (ever, last) = (true, Instant::now());
        match event {
            LiveEvent::Head { position, .. } => {
                let up = Heard { link: Link::Up, head: Some(position), not_before: None };
                heard.send_replace(up);
            }
            LiveEvent::Alive => {}
            LiveEvent::Retry(wait) => retry = wait.max(LEAST_RETRY),
            LiveEvent::Bye { reason } => {
                tracing::debug!(reason, "the server ends the stream of live updates");
                return Ended::Over(retry);
            }
        }
    }
}
