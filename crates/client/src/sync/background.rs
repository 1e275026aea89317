//! Synchronises in the background: on request, on hints of the server, at an interval, with
//! back-off, and never past a violation.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use vfs_sync_core::id::ChangeId;

use super::backoff::back_off;
use super::live::{Heard, Link, listen};
use super::outcome::{pause_reason, stop_reason};
use crate::client::{Inner, SyncClient};
use crate::error::Result;
use crate::event::ChangeEvent;
use crate::host::{Instant, sleep, sleep_until};
use crate::lock::lock;
use crate::sync::connection::Connectivity;

/// The pause after a pull that a hint called for and that brought nothing; it doubles with each such
/// pull in a row, up to the interval, so that no server keeps a client busy with hints.
const FRUITLESS: Duration = Duration::from_millis(10);
/// The time after the first edit of a burst, in which the others join its push.
const BURST: Duration = Duration::from_millis(5);

/// Synchronises until it is stopped, the client is dropped, or an error makes it stop.
pub(crate) async fn work(
    client: Weak<Inner>,
    sync_requested: Arc<Notify>,
    stop: CancellationToken,
) {
    let Some(inner) = client.upgrade() else { return };
    let (heard, hints) = watch::channel(Heard::default());
    let (answered, again) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let listening = {
        let (transport, config) = (Arc::clone(&inner.transport), inner.config.clone());
        let client_id = SyncClient { inner }.client_id();
        let (answered, again) = (Arc::clone(&answered), Arc::clone(&again));
        async move {
            if !config.live {
                return std::future::pending().await;
            }
            // A server that answers nothing else gets no stream to open.
            answered.notified().await;
            listen(transport, client_id, config, heard, again).await;
        }
    };
    let emitted = Connectivity::Unknown;
    let of = client.clone();
    let work = Work { client, sync_requested, stop, hints, answered, again, emitted };
    tokio::select! {
        biased;
        () = work.run() => {}
        () = listening => {}
    }
    if let Some(inner) = of.upgrade() {
        inner.connected(|connection| {
            if matches!(connection.state, Connectivity::Live | Connectivity::Polling(_)) {
                connection.state = Connectivity::Online;
            }
        });
    }
}

/// The background work of a client.
struct Work {
    client: Weak<Inner>,
    sync_requested: Arc<Notify>,
    stop: CancellationToken,
    hints: watch::Receiver<Heard>,
    /// Woken after every sync.
    answered: Arc<Notify>,
    /// Woken when the server is reached again, perhaps over another network.
    again: Arc<Notify>,
    /// The state of the connection that was emitted last.
    emitted: Connectivity,
}

/// The rest after a sync.
struct Rest {
    since: Instant,
    /// The back-off after a failure, in which neither a request nor a hint counts.
    back_off: Option<Duration>,
    interval: Duration,
    /// The interval while a stream is up, with nothing left to send.
    live_interval: Duration,
    /// The time in which other edits join a push.
    burst: Option<Duration>,
    /// The time before which no hint counts.
    hints_from: Instant,
}

/// The end of a rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wake {
    Hint,
    Other,
    Stop,
}

impl Rest {
    fn until(&self, heard: &Heard) -> Instant {
        if let Some(back_off) = self.back_off {
            return self.since + back_off;
        }
        match heard.link {
            Link::Up => self.since + self.live_interval,
            _ => {
                let until = self.since + self.interval;
                heard.not_before.map_or(until, |not_before| until.max(not_before))
            }
        }
    }
}

impl Work {
    async fn run(mut self) {
        let mut failures = 0;
        // The position up to which the replica was pulled after a hint of it.
        let mut pulled_to = None;
        let (mut wake, mut fruitless) = (Wake::Other, 0);
        loop {
            let Some(inner) = self.client.upgrade() else { return };
            let client = SyncClient { inner };
            let hinted = self.hints.borrow_and_update().head.clone();
            let synced = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                synced = client.sync() => synced,
            };
            let failed_before = failures > 0;
            match &synced {
                Ok(report) if report.pulled > 0 => fruitless = 0,
                Ok(_) if wake == Wake::Hint => fruitless += 1,
                _ => {}
            }
            let Ok(after) = outcome(&client, synced, &mut failures) else { return };
            let back_off = after.back_off();
            if back_off.is_none() {
                pulled_to = hinted;
                if failed_before {
                    self.again.notify_one();
                }
                self.answered.notify_one();
            }
            let config = &client.inner.config;
            let interval = config.interval;
            // What the server cannot take at present is tried again as often as without a stream.
            let waits = matches!(after, After::Synced { waits: true });
            let live_interval = if waits { interval } else { config.live_interval };
            let (since, burst) = (Instant::now(), config.live.then_some(BURST));
            let pause = FRUITLESS.saturating_mul((1 << fruitless.min(20)) - 1).min(interval);
            let hints_from = since + pause;
            let rest = Rest { since, back_off, interval, live_interval, burst, hints_from };
            // Not kept alive while it rests.
            drop(client);
            wake = self.rest(&rest, &mut pulled_to).await;
            if wake == Wake::Stop {
                return;
            }
        }
    }

    /// Waits for the next sync.
    async fn rest(&mut self, rest: &Rest, pulled_to: &mut Option<Option<ChangeId>>) -> Wake {
        let may_resume = rest.back_off.is_none();
        loop {
            let heard = self.hints.borrow_and_update().clone();
            let Some(inner) = self.client.upgrade() else { return Wake::Stop };
            self.note_link(&inner, heard.link);
            let hinted = may_resume && !has_all(&inner, &heard, pulled_to);
            if hinted && Instant::now() >= rest.hints_from {
                return Wake::Hint;
            }
            drop(inner);
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Wake::Stop,
                () = self.sync_requested.notified(), if may_resume => {
                    let Some(burst) = rest.burst else { return Wake::Other };
                    tokio::select! {
                        biased;
                        () = self.stop.cancelled() => return Wake::Stop,
                        () = sleep(burst) => return Wake::Other,
                    }
                }
                Ok(()) = self.hints.changed() => {}
                () = sleep_until(rest.hints_from), if hinted => return Wake::Hint,
                () = sleep_until(rest.until(&heard)) => return Wake::Other,
            }
        }
    }

    /// Records the state of the stream, and emits the state of the connection if it is another.
    fn note_link(&mut self, inner: &Inner, link: Link) {
        let live = inner.config.live;
        let connection = inner.connected(|connection| {
            let reached =
                !matches!(connection.state, Connectivity::Unknown | Connectivity::Offline { .. });
            if live && reached {
                connection.state = match link {
                    Link::Down => Connectivity::Online,
                    Link::Up => Connectivity::Live,
                    Link::None(reason) => Connectivity::Polling(reason),
                };
            }
        });
        if std::mem::replace(&mut self.emitted, connection.state) != connection.state {
            inner.emit([ChangeEvent::Connection(connection)]);
        }
    }
}

/// Returns whether the replica has all that the stream hints at.
fn has_all(inner: &Inner, heard: &Heard, pulled_to: &mut Option<Option<ChangeId>>) -> bool {
    let Some(position) = &heard.head else { return true };
    if pulled_to.as_ref() == Some(position) {
        return true;
    }
    let cursor = lock(&inner.store).meta().cursor.as_ref().map(|at| at.change_id.clone());
    if cursor != *position {
        return false;
    }
    *pulled_to = Some(cursor);
    let now = inner.environment().now();
    inner.connected(|connection| connection.in_step_at = Some(now));
    true
}

/// The outcome of a sync after which background work continues.
enum After {
    Synced {
        /// True if something is left to send.
        waits: bool,
    },
    Failed(Duration),
}

impl After {
    fn back_off(&self) -> Option<Duration> {
        match self {
            Self::Synced { .. } => None,
            Self::Failed(back_off) => Some(*back_off),
        }
    }
}

/// Emits what a sync in the background came to; returns an error if the work has to stop.
fn outcome(
    client: &SyncClient,
    synced: Result<crate::event::SyncReport>,
    failures: &mut u32,
) -> Result<After, ()> {
    let error = match synced {
        Ok(_) => {
            *failures = 0;
            if lock(&client.inner.paused).take().is_some() {
                client.inner.emit([ChangeEvent::Resumed]);
            }
            let mut waits = false;
            match client.queue().outstanding() {
                Ok(left) if !left.is_empty() => {
                    waits = left.pending + left.uploads > 0;
                    client.inner.emit([ChangeEvent::Outstanding(left)]);
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "the queue cannot be read"),
            }
            return Ok(After::Synced { waits });
        }
        Err(error) => error,
    };
    if let Some(reason) = stop_reason(&error) {
        client.inner.emit([ChangeEvent::Stopped(reason)]);
        return Err(());
    }
    *failures += 1;
    if let Some(reason) = pause_reason(&error) {
        let before = lock(&client.inner.paused).replace(reason.clone());
        // A request id or a time in it is no other reason.
        if before.is_none_or(|before| before.signature != reason.signature) {
            client.inner.emit([ChangeEvent::Paused(reason)]);
        }
    }
    tracing::warn!(%error, failures, "synchronising failed; it is tried again");
    Ok(After::Failed(back_off(&client.inner.config, *failures, error.retry_after())))
}
