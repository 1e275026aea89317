//! Live updates: the open event streams of this process, and the hints that they are to send.
//!
//! A hint is a feed's newest head. A stream has at most one pending hint, which a newer one
//! replaces. Hints come from the commits of this process, from the database's notifications, and
//! from a sweep that reads the heads of all listening users; a hint that is lost or doubled costs
//! time, never correctness.

mod stream;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use vfs_sync_core::cursor::{Epoch, Position};
use vfs_sync_core::id::{ReplicaId, UserId};
use vfs_sync_store::{FeedHeads, HeadObserver, MovedHead};

use crate::config::ServerConfig;
use crate::error::ApiError;
use crate::http::connection::Streaming;
use crate::state::App;
pub(crate) use stream::events;

/// The sweep begins again after a time between these two.
const SWEEP_AFTER: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(5));
/// The shortest time between two sweeps, whoever asks for one.
const SWEEP_PAUSE: Duration = Duration::from_millis(100);
/// The number of users whose heads one statement reads.
const SWEPT_AT_ONCE: usize = 1_000;
/// The time that a client waits before it opens its stream again, in milliseconds.
const RETRY: (u64, u64) = (1_000, 5_000);
/// The streams that reconnect in a second after a shutdown.
const RECONNECTS_A_SECOND: u64 = 200;
/// The longest delay of a hint.
const MAX_DELAY: Duration = Duration::from_secs(60);
/// The cost of a pull before one was measured, and the greatest cost that counts.
const FIRST_COST: Duration = Duration::from_millis(1);
const MAX_COST: Duration = Duration::from_millis(100);
/// The share of a new measurement in the average cost of a pull.
const WEIGHT: u64 = 16;

/// The newest known state of a feed; a later epoch is newer than any position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FeedHead {
    /// The present epoch of the database.
    pub(crate) epoch: Epoch,
    /// The position of the last entry; `None` for a feed without entries.
    pub(crate) position: Option<Position>,
}

/// The reason why the server ends a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "camelCase")]
pub(crate) enum Bye {
    /// The token has expired.
    Expired,
    /// The same client has opened another stream.
    Replaced,
    /// The server shuts down.
    Shutdown,
}

/// The event streams of a process.
pub(crate) struct Live {
    streams: Mutex<Streams>,
    max_streams: usize,
    max_user_streams: usize,
    keep_alive: Duration,
    /// The average cost of a pull in microseconds.
    pull_cost: AtomicU64,
    /// Woken when other processes may have moved any head.
    look: Notify,
    /// Cancelled when the server shuts down.
    closing: CancellationToken,
}

struct Streams {
    open: usize,
    next: u64,
    users: HashMap<UserId, Listener>,
    random: fastrand::Rng,
}

/// A user with open streams.
#[derive(Default)]
struct Listener {
    head: Option<FeedHead>,
    /// The streams by their clients. One that was replaced is not among them, but still open.
    streams: HashMap<ReplicaId, (u64, Arc<Signal>)>,
    open: usize,
}

/// The state that a stream shares with those who wake it.
#[derive(Debug)]
struct Signal {
    pending: Mutex<Pending>,
    changed: Notify,
}

#[derive(Debug)]
struct Pending {
    /// The hint to send, and the time from which it is due.
    hint: Option<(FeedHead, Instant)>,
    bye: Option<Bye>,
}

impl Signal {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the pending hint by a newer one. It is due no later than the replaced one.
    fn hint(&self, head: FeedHead, due: Instant) {
        let mut pending = self.pending();
        let due = pending.hint.map_or(due, |(_, before)| before.min(due));
        pending.hint = Some((head, due));
        drop(pending);
        self.changed.notify_one();
    }

    fn end(&self, bye: Bye) {
        self.pending().bye = Some(bye);
        self.changed.notify_one();
    }
}

/// An open stream, until this is dropped.
pub(crate) struct Open {
    live: Arc<Live>,
    user: UserId,
    client: ReplicaId,
    id: u64,
    signal: Arc<Signal>,
    _connection: Option<Streaming>,
}

impl Drop for Open {
    fn drop(&mut self) {
        metrics::gauge!("vfs_sync_event_streams").decrement(1);
        let mut streams = self.live.streams();
        streams.open -= 1;
        if let Some(listener) = streams.users.get_mut(&self.user) {
            listener.open -= 1;
            if listener.streams.get(&self.client).is_some_and(|(id, _)| *id == self.id) {
                listener.streams.remove(&self.client);
            }
            if listener.open == 0 {
                streams.users.remove(&self.user);
            }
        }
    }
}

impl Live {
    /// Creates the streams of a process, none yet; `seed` begins the random numbers.
    pub(crate) fn new(config: &ServerConfig, seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        Self {
            streams: Mutex::new(Streams { open: 0, next: 0, users: HashMap::new(), random }),
            max_streams: config.max_event_streams,
            max_user_streams: config.max_user_event_streams,
            keep_alive: config.events_keepalive,
            pull_cost: AtomicU64::new(micros(FIRST_COST)),
            look: Notify::new(),
            closing: CancellationToken::new(),
        }
    }

    fn streams(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the stream of a client, and ends the one that the client has.
    ///
    /// # Errors
    /// [`ApiError`] with 429 beyond a bound.
    pub(crate) fn open(
        self: &Arc<Self>,
        user: &UserId,
        client: &ReplicaId,
        connection: Option<Streaming>,
    ) -> Result<Open, ApiError> {
        let mut streams = self.streams();
        let of_user = streams.users.get(user).map_or(0, |listener| listener.open);
        let refused =
            [("user", of_user >= self.max_user_streams), ("all", streams.open >= self.max_streams)];
        if let Some((of, _)) = refused.into_iter().find(|(_, refused)| *refused) {
            metrics::counter!("vfs_sync_refused_total", "share" => "event_streams", "of" => of)
                .increment(1);
            let wait = streams.retry(RETRY.1);
            return Err(ApiError::too_many_streams(of == "user", wait));
        }
        streams.open += 1;
        streams.next += 1;
        let id = streams.next;
        let listener = streams.users.entry(user.clone()).or_default();
        listener.open += 1;
        let pending = Mutex::new(Pending { hint: None, bye: None });
        let signal = Arc::new(Signal { pending, changed: Notify::new() });
        let before = listener.streams.insert(client.clone(), (id, Arc::clone(&signal)));
        drop(streams);
        if let Some((_, before)) = before {
            before.end(Bye::Replaced);
        }
        metrics::gauge!("vfs_sync_event_streams").increment(1);
        let (live, user, client) = (Arc::clone(self), user.clone(), client.clone());
        Ok(Open { live, user, client, id, signal, _connection: connection })
    }

    /// Takes heads that were read from the database: hints whoever listens to a feed that is newer
    /// than known, spread over a time if they are many.
    pub(crate) fn found(&self, found: &FeedHeads) {
        let mut streams = self.streams();
        let Streams { users, random, .. } = &mut *streams;
        let head =
            |position: &Option<Position>| FeedHead { epoch: found.epoch, position: *position };
        let news = found.heads.iter().filter_map(|(user, position)| {
            let listener = users.get(user).filter(|listener| listener.lacks(head(position)))?;
            Some(listener.streams.len())
        });
        let spread = micros(self.spread(news.sum()));
        let now = Instant::now();
        for (user, position) in &found.heads {
            if let Some(listener) = users.get_mut(user) {
                let due = |_: &_| now + Duration::from_micros(random.u64(0..=spread));
                listener.hint(head(position), due);
            }
        }
    }

    /// Ends all streams, present and future ones.
    pub(crate) fn close(&self) {
        self.closing.cancel();
    }

    /// Counts the time that a pull took in the average.
    pub(crate) fn pulled(&self, took: Duration) {
        let took = micros(took.min(MAX_COST));
        // Of two at one time one is lost, which does not matter to an average.
        let average = self.pull_cost.load(Ordering::Relaxed);
        let next = (average * (WEIGHT - 1) + took).div_ceil(WEIGHT);
        self.pull_cost.store(next, Ordering::Relaxed);
    }

    /// Returns the time up to which the hints of `listeners` streams are spread, so that their
    /// pulls come one after another.
    fn spread(&self, listeners: usize) -> Duration {
        let cost = Duration::from_micros(self.pull_cost.load(Ordering::Relaxed));
        let listeners = u32::try_from(listeners).unwrap_or(u32::MAX);
        cost.saturating_mul(listeners).min(MAX_DELAY)
    }

    /// Draws the time after which the client of a stream opens it again.
    fn retry(&self, shutdown: bool) -> Duration {
        let mut streams = self.streams();
        let spread = streams.open as u64 * 1_000 / RECONNECTS_A_SECOND;
        streams.retry(if shutdown { spread.max(RETRY.1) } else { RETRY.1 })
    }

    /// Returns the users who have a stream.
    fn users(&self) -> Vec<UserId> {
        self.streams().users.keys().cloned().collect()
    }

    /// Returns the number of open streams.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.streams().open
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl Streams {
    fn retry(&mut self, most: u64) -> Duration {
        Duration::from_millis(self.random.u64(RETRY.0..=most))
    }
}

impl Listener {
    /// Returns whether `head` is newer than known.
    fn lacks(&self, head: FeedHead) -> bool {
        self.head.is_none_or(|known| known < head)
    }

    /// Hints all streams of the user if `head` is newer than known; `due` gives each its time.
    fn hint(&mut self, head: FeedHead, mut due: impl FnMut(&ReplicaId) -> Instant) {
        if !self.lacks(head) {
            return;
        }
        self.head = Some(head);
        for (client, (_, signal)) in &self.streams {
            signal.hint(head, due(client));
        }
    }
}

impl HeadObserver for Live {
    fn moved(&self, heads: &[MovedHead]) {
        let mut streams = self.streams();
        let Streams { users, random, .. } = &mut *streams;
        if users.is_empty() {
            return;
        }
        let others = heads.iter().filter(|head| !head.own);
        let listeners = others.filter_map(|head| Some(users.get(&head.user)?.streams.len())).sum();
        let spread = micros(self.spread(listeners));
        let now = Instant::now();
        for MovedHead { user, position, own } in heads {
            let Some(listener) = users.get_mut(user) else { continue };
            // A head is moved into the database's present epoch.
            let head = FeedHead { epoch: position.epoch, position: Some(*position) };
            listener.hint(head, |_| match own {
                true => now,
                false => now + Duration::from_micros(random.u64(0..=spread)),
            });
        }
    }

    fn any_moved(&self) {
        self.look.notify_one();
    }
}

/// Announces moved heads to other processes and hears theirs, and reads the heads of all listening
/// users regularly, until `stop` is cancelled.
pub(crate) async fn keep_up(app: App, stop: CancellationToken) {
    let work = async {
        app.store.announce_heads().await;
        loop {
            sweep(&app).await;
            let (least, most) = SWEEP_AFTER;
            let range = micros(least)..=micros(most);
            let pause = Duration::from_micros(app.live.streams().random.u64(range));
            tokio::time::sleep(SWEEP_PAUSE).await;
            tokio::select! {
                () = app.live.look.notified() => {}
                () = tokio::time::sleep(pause - SWEEP_PAUSE) => {}
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
}

async fn sweep(app: &App) {
    for users in app.live.users().chunks(SWEPT_AT_ONCE) {
        match app.store.heads(users).await {
            Ok(found) => app.live.found(&found),
            Err(error) => {
                tracing::warn!(%error, "the heads of listening users cannot be read");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, Stream, StreamExt as _};

    use super::*;

    fn live(change: impl FnOnce(&mut ServerConfig)) -> Arc<Live> {
        let mut config = ServerConfig::default();
        change(&mut config);
        Arc::new(Live::new(&config, 7))
    }

    fn user(name: &str) -> UserId {
        UserId::new(name).unwrap()
    }

    fn open(live: &Arc<Live>, name: &str, client: &str) -> Result<Open, ApiError> {
        live.open(&user(name), &ReplicaId::new(client).unwrap(), None)
    }

    fn epoch() -> Epoch {
        Epoch::from_u64(9).unwrap()
    }

    fn moved(name: &str, counter: u64, own: bool) -> MovedHead {
        MovedHead { user: user(name), position: Position { epoch: epoch(), counter }, own }
    }

    /// A stream as text, without its first event, which only has `retry`.
    async fn begin(open: Open, expires_in: Option<Duration>) -> impl Stream<Item = String> {
        let head = FeedHead { epoch: epoch(), position: None };
        let response = events(open, head, expires_in);
        let mut body = Box::pin(
            response
                .into_body()
                .into_data_stream()
                .map(|bytes| String::from_utf8(bytes.unwrap().to_vec()).unwrap()),
        );
        let first = body.next().await.unwrap();
        let retry: u64 = first.trim().strip_prefix("retry:").unwrap().trim().parse().unwrap();
        assert!((RETRY.0..=RETRY.1).contains(&retry), "{first}");
        assert!(body.next().await.unwrap().contains("\"position\":null"));
        body
    }

    fn counter_of(event: &str) -> u64 {
        let data = event.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
        let data: serde_json::Value = serde_json::from_str(data).unwrap();
        let position = data["position"].as_str().unwrap();
        u64::from_str_radix(position.split_once('-').unwrap().1, 16).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn hints_are_coalesced_and_the_newest_wins() {
        let live = live(|_| {});
        let mut events = std::pin::pin!(begin(open(&live, "a", "x").unwrap(), None).await);
        let begun = Instant::now();
        for counter in [1, 2, 3] {
            live.moved(&[moved("a", counter, true)]);
        }
        assert_eq!(counter_of(&events.next().await.unwrap()), 3);
        assert!(events.next().now_or_never().is_none());
        // An older head, and one that is known, are no news.
        live.moved(&[moved("a", 2, true), moved("a", 3, true), moved("b", 9, true)]);
        assert!(events.next().now_or_never().is_none());
        for counter in 4..40 {
            live.moved(&[moved("a", counter, true)]);
        }
        assert_eq!(counter_of(&events.next().await.unwrap()), 39);
        assert!(begun.elapsed() >= Duration::from_millis(10), "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_stream_sends_a_comment() {
        let live = live(|config| config.events_keepalive = Duration::from_secs(25));
        let mut events = std::pin::pin!(begin(open(&live, "a", "x").unwrap(), None).await);
        let begun = Instant::now();
        for n in 1..=3 {
            assert!(events.next().await.unwrap().starts_with(':'));
            assert_eq!(begun.elapsed().as_secs(), n * 25);
        }
        tokio::time::sleep(Duration::from_secs(20)).await;
        live.moved(&[moved("a", 1, true)]);
        assert_eq!(counter_of(&events.next().await.unwrap()), 1);
        assert!(events.next().await.unwrap().starts_with(':'));
        assert_eq!(begun.elapsed().as_secs(), 75 + 20 + 25);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_with_a_reason_and_gives_its_place_back() {
        let live = live(|_| {});
        let expiring = open(&live, "a", "x").unwrap();
        let mut expiring = std::pin::pin!(begin(expiring, Some(Duration::from_secs(10))).await);
        let mut replaced = std::pin::pin!(begin(open(&live, "a", "y").unwrap(), None).await);
        let mut last = std::pin::pin!(begin(open(&live, "a", "y").unwrap(), None).await);
        assert_eq!(live.len(), 3);
        let bye = replaced.next().await.unwrap();
        assert!(bye.contains("event: bye") && bye.contains("replaced"), "{bye}");
        assert!(bye.contains("retry: "), "{bye}");
        assert_eq!((replaced.next().await, live.len()), (None, 2));
        let bye = expiring.next().await.unwrap();
        assert!(bye.contains("event: bye") && bye.contains("expired"), "{bye}");
        assert_eq!((expiring.next().await, live.len()), (None, 1));
        live.close();
        let bye = last.next().await.unwrap();
        assert!(bye.contains("event: bye") && bye.contains("shutdown"), "{bye}");
        assert_eq!((last.next().await, live.len()), (None, 0));
        assert!(live.users().is_empty());
    }

    #[test]
    fn streams_are_bounded_for_a_user_and_for_all() {
        let live = live(|config| {
            config.max_user_event_streams = 2;
            config.max_event_streams = 3;
        });
        let first = open(&live, "a", "x").unwrap();
        let _second = open(&live, "a", "y").unwrap();
        let refused = |name: &str| {
            let error = open(&live, name, "z").err().unwrap();
            assert!(error.retry_after.is_some_and(|wait| (1..=5).contains(&wait)), "{error:?}");
            error.status.as_u16()
        };
        assert_eq!(refused("a"), 429);
        let _other = open(&live, "b", "x").unwrap();
        assert_eq!(refused("b"), 429);
        drop(first);
        open(&live, "b", "z").unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn hints_to_many_are_spread_by_the_cost_of_a_pull_and_the_authors_are_not() {
        let live = live(|_| {});
        for _ in 0..200 {
            live.pulled(Duration::from_millis(4));
        }
        let cost = live.spread(1);
        assert!((Duration::from_millis(3)..Duration::from_millis(5)).contains(&cost), "{cost:?}");
        let all: Vec<_> = (0..500).map(|n| open(&live, &format!("u{n}"), "x").unwrap()).collect();
        let own = open(&live, "me", "x").unwrap();
        let begun = Instant::now();
        let mut heads: Vec<_> = (0..500).map(|n| moved(&format!("u{n}"), 1, false)).collect();
        heads.push(moved("me", 1, true));
        live.moved(&heads);
        let due = |open: &Open| open.signal.pending().hint.unwrap().1 - begun;
        assert_eq!(due(&own), Duration::ZERO);
        let delays: Vec<_> = all.iter().map(due).collect();
        assert!(delays.iter().all(|delay| *delay <= live.spread(500)));
        let late = delays.iter().filter(|delay| **delay > live.spread(250)).count();
        assert!((200..300).contains(&late), "{late}");
        // A second move does not put a hint off.
        let before = due(&all[0]);
        live.moved(&[moved("u0", 2, false)]);
        assert!(due(&all[0]) <= before);
    }

    #[test]
    fn what_a_sweep_finds_is_news_only_if_it_is_newer() {
        let live = live(|_| {});
        let open = open(&live, "a", "x").unwrap();
        let found = |epoch: u64, counter: u64| {
            let epoch = Epoch::from_u64(epoch).unwrap();
            let position = Some(Position { epoch, counter });
            live.found(&FeedHeads { epoch, heads: vec![(user("a"), position)] });
            open.signal.pending().hint.take().map(|(head, _)| head.position.unwrap().counter)
        };
        assert_eq!(found(9, 5), Some(5));
        assert_eq!(found(9, 5), None);
        assert_eq!(found(9, 4), None);
        assert_eq!(found(10, 4), Some(4), "another history");
    }
}
