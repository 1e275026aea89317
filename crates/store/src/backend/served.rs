//! The states that a process has seen of its database, by which it notices if the database
//! regresses while it runs.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use vfs_sync_core::cursor::Epoch;
use vfs_sync_core::id::UserId;
use vfs_sync_core::server::push::Head;

use crate::error::{Result, StoreError};

/// The number of users whose heads are remembered in each of two generations, the most recently
/// served ones.
const REMEMBERED: usize = 5_000;

/// Returns the error of a call that found its database in an earlier state, after an epoch has
/// begun.
pub(crate) fn went_back() -> StoreError {
    tracing::error!(
        "the database is older than what was answered from it: an epoch has begun, so that clients \
         find what it lacks"
    );
    let text = "it is older than what was answered from it; an epoch has begun, ask again";
    StoreError::Unavailable(text.into())
}

/// The epochs and heads that a process has seen. They are kept in memory only, because another
/// process begins a new epoch.
#[derive(Debug, Default)]
pub(crate) struct Served(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    /// The number of observations so far.
    tick: u64,
    latest: Option<(Epoch, u64)>,
    young: HashMap<UserId, Noted>,
    old: HashMap<UserId, Noted>,
}

#[derive(Debug, Clone, Copy)]
struct Noted {
    /// The database's epoch when the head was seen.
    present: Epoch,
    counter: u64,
    tick: u64,
}

impl Served {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the present tick, to take before a transaction's first read: the transaction is
    /// compared only with earlier observations.
    pub(crate) fn now(&self) -> u64 {
        self.seen().tick
    }

    /// Returns the latest epoch that was seen.
    pub(crate) fn latest(&self) -> Option<Epoch> {
        self.seen().latest.map(|(epoch, _)| epoch)
    }

    /// Records the state that a transaction found which began at `since`.
    ///
    /// # Errors
    /// [`StoreError::WentBack`] if the database has shown a later state before.
    pub(crate) fn check(
        &self,
        user: &UserId,
        head: Option<&Head>,
        present: Epoch,
        since: u64,
    ) -> Result<()> {
        let counter = head.map_or(0, |head| head.counter);
        let mut seen = self.seen();
        if seen.latest.is_some_and(|(latest, tick)| tick <= since && present < latest) {
            return Err(StoreError::WentBack);
        }
        let noted = seen.young.get(user).or_else(|| seen.old.get(user)).copied();
        if let Some(noted) = noted {
            // What an epoch that began since lacks, everybody will be told.
            if noted.tick <= since && present <= noted.present && counter < noted.counter {
                return Err(StoreError::WentBack);
            }
        }
        seen.note(user, counter, present);
        Ok(())
    }

    /// Records an epoch that has begun, or was found at the start.
    pub(crate) fn begin(&self, epoch: Epoch) {
        let mut seen = self.seen();
        if seen.latest.is_none_or(|(latest, _)| latest < epoch) {
            seen.tick += 1;
            seen.latest = Some((epoch, seen.tick));
        }
    }

    /// Records a head that was written and committed.
    pub(crate) fn note(&self, user: &UserId, counter: u64, present: Epoch) {
        self.seen().note(user, counter, present);
    }
}

impl Seen {
    fn note(&mut self, user: &UserId, counter: u64, present: Epoch) {
        let seen = self;
        let noted = seen.young.get(user).or_else(|| seen.old.get(user));
        if noted.is_some_and(|noted| noted.present == present && noted.counter >= counter) {
            return;
        }
        seen.tick += 1;
        let tick = seen.tick;
        if seen.latest.is_none_or(|(latest, _)| latest < present) {
            seen.latest = Some((present, tick));
        }
        if seen.young.len() >= REMEMBERED && !seen.young.contains_key(user) {
            seen.old = std::mem::take(&mut seen.young);
        }
        seen.young.insert(user.clone(), Noted { present, counter, tick });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vfs_sync_core::time::Timestamp;

    #[test]
    fn a_state_before_one_that_was_seen_is_noticed_unless_an_epoch_began_since() {
        let served = Served::default();
        let user = |name: &str| UserId::new(name).unwrap();
        let epoch = |value| Epoch::from_u64(value).unwrap();
        let head = |counter| {
            let changed_at = Timestamp::from_millis(0).unwrap();
            Head { epoch: epoch(1), counter, changed_at, pruned: None }
        };
        let finds = |name: &str, counter: u64, present: u64, since: u64| {
            served.check(&user(name), Some(&head(counter)), epoch(present), since).is_ok()
        };
        let before = served.now();
        assert!(finds("a", 5, 1, served.now()));
        assert!(finds("b", 9, 1, served.now()));
        assert!(finds("a", 5, 1, served.now()) && finds("a", 6, 1, served.now()));
        assert!(!finds("a", 5, 1, served.now()), "a head went back");
        assert!(finds("a", 5, 1, before), "a transaction that began before");
        assert!(served.check(&user("b"), None, epoch(1), served.now()).is_err(), "it is gone");
        assert!(finds("a", 5, 3, served.now()), "an epoch has begun");
        assert!(!finds("c", 1, 2, served.now()), "an epoch went back");
        assert_eq!(served.latest(), Some(epoch(3)));
        for n in 0..2 * REMEMBERED + 1 {
            assert!(finds(&format!("u{n}"), 1, 3, served.now()));
        }
        assert!(finds("a", 1, 3, served.now()), "so many are remembered");
    }
}
