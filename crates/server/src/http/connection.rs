//! The connections of a listener: which of them is the first to go when there are too many, and
//! whether their peers take what they are sent.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Notify;
use vfs_sync_core::id::UserId;

use crate::http::answer::{Answer, Costs};

/// A connection of a peer.
#[derive(Debug)]
pub(crate) struct Connection {
    address: IpAddr,
    state: Mutex<State>,
    /// Requests whose answers are not taken yet.
    busy: AtomicUsize,
    /// Event streams over the connection, and the number of connections that have any.
    streams: AtomicUsize,
    streaming: Arc<AtomicUsize>,
    /// The number of requests of the listener when this connection's last one came.
    active: AtomicU64,
    /// Woken when the connection has to make room.
    pub(crate) evicted: Notify,
}

#[derive(Debug, Default)]
struct State {
    user: Option<UserId>,
    evicted: bool,
    answers: Vec<Watched>,
}

/// An answer, whose costs last until the connection has no bytes of it any more.
#[derive(Debug)]
struct Watched {
    answer: Weak<Answer>,
    costs: Weak<Costs>,
    /// Bytes of it that were taken at the last look.
    taken: u64,
    /// The number of looks in a row at which too little of it was taken.
    slow: u32,
}

/// An answer is given up when it was slow as often in a row: one look sees the time since the one
/// before, and a part of it in which the answer did not exist yet.
const SLOW_LOOKS: u32 = 2;

/// A request of a connection, until its answer is taken.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Connection>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An event stream over a connection. A connection with one does not count against the bound of
/// connections: event streams have a bound of their own.
#[derive(Debug)]
pub(crate) struct Streaming(Arc<Connection>);

impl Streaming {
    pub(crate) fn over(connection: Arc<Connection>) -> Self {
        if connection.streams.fetch_add(1, Ordering::Relaxed) == 0 {
            connection.streaming.fetch_add(1, Ordering::Relaxed);
        }
        Self(connection)
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        if self.0.streams.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.streaming.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Connection {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the address of the peer, which may be a proxy.
    pub(crate) const fn peer(&self) -> IpAddr {
        self.address
    }

    /// Notes whose requests come over the connection.
    pub(crate) fn is_of(&self, user: &UserId) {
        let mut state = self.state();
        if state.user.as_ref() != Some(user) {
            state.user = Some(user.clone());
        }
    }

    /// Watches whether the peer takes an answer.
    pub(crate) fn list(&self, answer: &Arc<Answer>, costs: Weak<Costs>) {
        let mut state = self.state();
        if state.answers.len() == state.answers.capacity() {
            state.answers.retain(|watched| watched.costs.strong_count() > 0);
        }
        state.answers.push(Watched { answer: Arc::downgrade(answer), costs, taken: 0, slow: 0 });
    }

    /// Gives up the answers of which the peer takes fewer than `least` bytes between two looks, though
    /// there are more. Returns whether the connection has nothing else to do.
    pub(crate) fn give_up_stalled(&self, least: u64) -> bool {
        let mut stalled = Vec::new();
        let mut left = 0;
        self.state().answers.retain_mut(|watched| {
            if watched.costs.strong_count() == 0 {
                return false;
            }
            let answer = watched.answer.upgrade();
            let taken = answer.as_ref().map_or(watched.taken, |answer| answer.taken());
            let waits = answer.as_ref().is_some_and(|answer| answer.waits_for_source());
            watched.slow =
                if waits || taken - watched.taken >= least { 0 } else { watched.slow + 1 };
            watched.taken = taken;
            if watched.slow >= SLOW_LOOKS {
                left += 1;
                stalled.extend(answer);
            }
            true
        });
        for answer in &stalled {
            answer.give_up();
        }
        left > 0 && left >= self.busy.load(Ordering::Relaxed)
    }
}

/// The connections of a listener.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    open: Mutex<HashMap<u64, Arc<Connection>>>,
    opened: AtomicU64,
    requests: AtomicU64,
    streaming: Arc<AtomicUsize>,
    /// Woken whenever a connection ends.
    pub(crate) ended: Notify,
}

/// An open connection, until this is dropped.
pub(crate) struct Open {
    of: Arc<Connections>,
    id: u64,
    pub(crate) connection: Arc<Connection>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.of.open().remove(&self.id);
        self.of.ended.notify_one();
    }
}

impl Open {
    /// Notes that a request has come.
    pub(crate) fn begin(&self) -> Busy {
        self.of.begin(&self.connection)
    }
}

impl Connections {
    fn open(&self) -> MutexGuard<'_, HashMap<u64, Arc<Connection>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a request has come over a connection.
    pub(crate) fn begin(&self, connection: &Arc<Connection>) -> Busy {
        connection.busy.fetch_add(1, Ordering::Relaxed);
        let now = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        connection.active.store(now, Ordering::Relaxed);
        Busy(Arc::clone(connection))
    }

    /// Returns the number of connections that count against the bound: those without an event
    /// stream.
    pub(crate) fn len(&self) -> usize {
        let streaming = self.streaming.load(Ordering::Relaxed);
        self.open().len().saturating_sub(streaming)
    }

    pub(crate) fn add(self: &Arc<Self>, address: IpAddr) -> Open {
        let connection = Arc::new(Connection {
            address,
            state: Mutex::default(),
            busy: AtomicUsize::new(0),
            streams: AtomicUsize::new(0),
            streaming: Arc::clone(&self.streaming),
            active: AtomicU64::new(self.requests.load(Ordering::Relaxed)),
            evicted: Notify::new(),
        });
        let id = self.opened.fetch_add(1, Ordering::Relaxed);
        self.open().insert(id, Arc::clone(&connection));
        Open { of: Arc::clone(self), id, connection }
    }

    /// Ends the connection that can best be spared: one without a token before those of users, an
    /// idle one before a busy one; of several, one of the address or user that has most, and of
    /// these the one that has been idle for longest. Returns false if none can be spared: requests
    /// of users are never ended.
    pub(crate) fn evict(&self) -> bool {
        let open = self.open();
        let mut spare = Vec::with_capacity(open.len());
        let (mut of_address, mut of_user) = (HashMap::new(), HashMap::new());
        for (id, connection) in &*open {
            let state = connection.state();
            if state.evicted {
                continue;
            }
            let busy = connection.busy.load(Ordering::Relaxed) > 0;
            match &state.user {
                None => *of_address.entry(connection.address).or_insert(0_usize) += 1,
                Some(user) => *of_user.entry(user.clone()).or_insert(0_usize) += 1,
            }
            if state.user.is_none() || !busy {
                spare.push((state.user.clone(), busy, *id, connection));
            }
        }
        let first = spare.into_iter().min_by_key(|(user, busy, id, connection)| {
            let count = match user {
                None => of_address.get(&connection.address),
                Some(user) => of_user.get(user),
            };
            let active = connection.active.load(Ordering::Relaxed);
            (user.is_some(), *busy, Reverse(count.copied().unwrap_or(0)), active, *id)
        });
        let Some((.., connection)) = first else { return false };
        connection.state().evicted = true;
        connection.evicted.notify_one();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    /// The connections in the order in which they are ended.
    fn order(connections: &Arc<Connections>, open: &[(&'static str, Open)]) -> Vec<&'static str> {
        let mut order = Vec::new();
        while connections.evict() {
            let evicted = |open: &Open| open.connection.state().evicted;
            let next = open.iter().find(|(name, one)| evicted(one) && !order.contains(name));
            order.push(next.unwrap().0);
        }
        order
    }

    #[test]
    fn those_without_a_token_go_first_then_idle_ones_of_whoever_has_most() {
        let connections = Arc::new(Connections::default());
        let open = |last: u8, user: Option<&str>| {
            let open = connections.add(address(last));
            if let Some(user) = user {
                open.connection.is_of(&UserId::new(user).unwrap());
            }
            open
        };
        let all = [
            ("only one of its address", open(1, None)),
            ("busy without a token", open(2, None)),
            ("one of two, active later", open(3, None)),
            ("one of two", open(3, None)),
            ("a user's only one", open(4, Some("alice"))),
            ("a user's busy one", open(4, Some("bob"))),
            ("one of a user's two", open(4, Some("bob"))),
        ];
        let _busy = [all[1].1.begin(), all[5].1.begin()];
        drop(all[2].1.begin());
        let expected = [
            "one of two",
            "only one of its address",
            "one of two, active later",
            "busy without a token",
            "one of a user's two",
            "a user's only one",
        ];
        assert_eq!(order(&connections, &all), expected);
        assert!(!connections.evict());
        assert_eq!(connections.len(), 7);
        drop(all);
        assert_eq!(connections.len(), 0);
    }
}
