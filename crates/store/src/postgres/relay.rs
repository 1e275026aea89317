//! Announces moved feed heads to the other processes of the database, and hears theirs.
//!
//! A `NOTIFY` within a push would take a lock of the whole database server at its commit, so the
//! heads that many commits moved go out in one small `NOTIFY` of its own. A notification that is
//! lost costs time, never correctness: servers read the heads of their users again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, OnceCell, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_postgres::types::Type;
use tokio_postgres::{AsyncMessage, Client};
use vfs_sync_core::cursor::{Epoch, Position};
use vfs_sync_core::id::UserId;

use super::hosts::Hosts;
use crate::encoding;
use crate::moves::{Announcements, MovedHead, Observers};

/// The channel of the notifications; a database has channels of its own.
const CHANNEL: &str = "vfs_sync_heads";
/// The shortest time between two notifications.
const PAUSE: Duration = Duration::from_millis(10);
/// The longest payload, in bytes: PostgreSQL takes less than 8,000.
const MAX_PAYLOAD: usize = 7_900;
/// The number of moved heads that wait for the next notification; beyond, it names none of them.
const MAX_WAITING: usize = 1_000;
/// The time within which the first notification to itself has to arrive.
const ARRIVES_WITHIN: Duration = Duration::from_secs(3);
/// The pause before a lost connection is opened again.
const RECONNECT: Duration = Duration::from_secs(1);

/// The announcements of one process.
pub(super) struct Relay {
    inner: Arc<Inner>,
    started: OnceCell<(Announcements, Task)>,
}

struct Inner {
    hosts: Arc<Hosts>,
    observers: Arc<Observers>,
    /// The number of this process, by which it recognises its own notifications.
    id: u64,
    waiting: Mutex<Waiting>,
    wake: Notify,
}

/// The moved heads to announce.
#[derive(Default)]
struct Waiting {
    heads: HashMap<UserId, (Position, bool)>,
    /// True if there are too many to name.
    any: bool,
    /// True once somebody announces them.
    running: bool,
}

/// The content of a notification.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Payload {
    from: u64,
    /// The heads as user, epoch, counter, and whether the user's replica made the change; empty if
    /// any may have moved.
    heads: Vec<(UserId, Epoch, u64, bool)>,
}

/// A task that ends with its owner.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Relay {
    pub(super) fn new(hosts: Arc<Hosts>, observers: Arc<Observers>) -> Self {
        let (id, waiting, wake) = (encoding::chance() & ID_BITS, Mutex::default(), Notify::new());
        let inner = Inner { hosts, observers, id, waiting, wake };
        Self { inner: Arc::new(inner), started: OnceCell::new() }
    }

    /// Notes heads that a transaction moved, for the next notification.
    pub(super) fn announce(&self, moved: Vec<MovedHead>) {
        if moved.is_empty() {
            return;
        }
        let mut waiting = self.inner.waiting();
        if waiting.running {
            waiting.add(moved);
            drop(waiting);
            self.inner.wake.notify_one();
        }
    }

    /// Begins to announce and to listen; returns whether notifications arrive.
    pub(super) async fn start(&self) -> Announcements {
        let start = async {
            let (arrives, mut arrived) = watch::channel(false);
            self.inner.waiting().running = true;
            let task = Task(tokio::spawn(run(Arc::clone(&self.inner), arrives)));
            let first = arrived.wait_for(|arrived| *arrived);
            let arrives = tokio::time::timeout(ARRIVES_WITHIN, first).await;
            let announcements = match arrives {
                Ok(Ok(_)) => Announcements::Notified,
                _ => Announcements::Swallowed,
            };
            (announcements, task)
        };
        self.started.get_or_init(|| start).await.0
    }
}

/// The bits of a process's number that a JSON reader keeps exactly.
const ID_BITS: u64 = (1 << 53) - 1;

impl Waiting {
    fn add(&mut self, moved: Vec<MovedHead>) {
        for MovedHead { user, position, own } in moved {
            let (newest, is_own) = self.heads.entry(user).or_insert((position, own));
            *newest = position.max(*newest);
            *is_own |= own;
        }
        if self.heads.len() > MAX_WAITING {
            self.heads.clear();
            self.any = true;
        }
    }

    /// Takes what waits; `None` if nothing does.
    fn take(&mut self, from: u64) -> Option<String> {
        let any = std::mem::take(&mut self.any);
        let heads = std::mem::take(&mut self.heads);
        if heads.is_empty() && !any {
            return None;
        }
        let named = heads.into_iter().map(|(user, (position, own))| {
            let Position { epoch, counter } = position;
            (user, epoch, counter, own)
        });
        let heads = if any { Vec::new() } else { named.collect() };
        let text = |heads| serde_json::to_string(&Payload { from, heads }).ok();
        text(heads).filter(|text| text.len() <= MAX_PAYLOAD).or_else(|| text(Vec::new()))
    }
}

impl Inner {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports what a notification says, unless it is this process's own; returns whether it is.
    fn hear(&self, payload: &str) -> bool {
        match serde_json::from_str::<Payload>(payload) {
            Ok(Payload { from, .. }) if from == self.id => return true,
            Ok(Payload { heads, .. }) if !heads.is_empty() => {
                let moved = heads.into_iter().map(|(user, epoch, counter, own)| MovedHead {
                    user,
                    position: Position { epoch, counter },
                    own,
                });
                self.observers.moved(&moved.collect::<Vec<_>>());
            }
            // A later version may say it in another form.
            _ => self.observers.any_moved(),
        }
        false
    }

    async fn notify(&self, client: &Client, payload: &str) -> Result<(), tokio_postgres::Error> {
        let parameters = [(&CHANNEL as _, Type::TEXT), (&payload as _, Type::TEXT)];
        client.query_typed("SELECT pg_notify($1, $2)", &parameters).await.map(drop)
    }

    /// Listens and announces over one connection, until that ends.
    async fn session(&self, arrives: &watch::Sender<bool>) -> Result<(), tokio_postgres::Error> {
        let (client, mut connection) = self.hosts.connect().await?;
        let mut messages =
            futures::stream::poll_fn(move |context| connection.poll_message(context));
        let hearing = async {
            while let Some(message) = messages.next().await {
                if let AsyncMessage::Notification(one) = message?
                    && self.hear(one.payload())
                {
                    arrives.send_replace(true);
                }
            }
            Ok(())
        };
        let announcing = async {
            client.batch_execute(&format!("LISTEN {CHANNEL}")).await?;
            // What others announced before is not heard; its sender's number makes this one ours.
            let to_itself = serde_json::to_string(&Payload { from: self.id, heads: Vec::new() });
            self.notify(&client, &to_itself.unwrap_or_default()).await?;
            self.observers.any_moved();
            loop {
                self.wake.notified().await;
                let begun = Instant::now();
                let payload = self.waiting().take(self.id);
                if let Some(payload) = payload {
                    if let Err(error) = self.notify(&client, &payload).await {
                        self.waiting().any = true;
                        return Err(error);
                    }
                    tokio::time::sleep_until(begun + PAUSE).await;
                }
            }
        };
        tokio::select! {
            ended = hearing => ended,
            ended = announcing => ended,
        }
    }
}

async fn run(relay: Arc<Inner>, arrives: watch::Sender<bool>) {
    loop {
        let mut host = relay.hosts.moves();
        tokio::select! {
            ended = relay.session(&arrives) => if let Err(error) = ended {
                tracing::warn!(%error, "the connection for notifications is lost; it is opened again");
            },
            // The connection to a former host may never end.
            _ = host.changed() => {}
        }
        tokio::time::sleep(RECONNECT).await;
        // What could not be announced is announced over the next connection.
        relay.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(user: &str, counter: u64, own: bool) -> MovedHead {
        let position = Position { epoch: Epoch::from_u64(7).unwrap(), counter };
        MovedHead { user: UserId::new(user).unwrap(), position, own }
    }

    fn named(payload: &str) -> Vec<(UserId, Epoch, u64, bool)> {
        serde_json::from_str::<Payload>(payload).unwrap().heads
    }

    #[test]
    fn a_payload_names_the_newest_head_of_each_user() {
        let mut waiting = Waiting::default();
        assert_eq!(waiting.take(1), None);
        waiting.add(vec![moved("a", 5, true), moved("b", 1, false)]);
        waiting.add(vec![moved("a", 4, false)]);
        let mut heads = named(&waiting.take(1).unwrap());
        heads.sort();
        let epoch = Epoch::from_u64(7).unwrap();
        let user = |name| UserId::new(name).unwrap();
        assert_eq!(heads, [(user("a"), epoch, 5, true), (user("b"), epoch, 1, false)]);
        assert_eq!(waiting.take(1), None);
    }

    #[test]
    fn what_does_not_fit_says_only_that_heads_moved() {
        let long = |n: usize| moved(&format!("{n:0>120}"), 1, false);
        let mut waiting = Waiting::default();
        waiting.add((0..40).map(long).collect());
        assert_eq!(named(&waiting.take(1).unwrap()).len(), 40);
        waiting.add((0..100).map(long).collect());
        assert_eq!(named(&waiting.take(1).unwrap()), []);
        waiting.add((0..=MAX_WAITING).map(long).collect());
        assert!(waiting.heads.is_empty());
        assert_eq!(named(&waiting.take(1).unwrap()), []);
        assert_eq!(waiting.take(1), None);
    }
}
