//! Fair shares: a bounded quantity that users draw from, so that none of them takes it all.
//!
//! A user may hold a part as long as what is left free stays in proportion to it, and up to a fixed
//! bound. With one busy user a part stays free for the others, with two a smaller one, and so on: a
//! user who holds nothing finds room. Whoever waits for more gets it in the order of what they hold,
//! least first; among equals, the user who was served longest ago is next.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use vfs_sync_core::id::UserId;

use crate::error::ApiError;

/// The bounds of a quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Units of all users together.
    pub(crate) total: usize,
    /// Units of one user.
    pub(crate) per_user: usize,
    /// The multiple of what stays free that a user may hold.
    pub(crate) of_free: usize,
    /// Shares for which one user waits at one time; further ones are refused at once.
    pub(crate) waiting: usize,
}

/// A quantity that users share.
#[derive(Debug, Clone)]
pub(crate) struct Shares(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// The name of the quantity in metrics.
    name: &'static str,
    bounds: Bounds,
    pool: Mutex<Pool>,
}

#[derive(Debug)]
struct Pool {
    free: usize,
    users: HashMap<UserId, Held>,
    /// The number of all who wait.
    waiting: usize,
    next: u64,
}

/// The units that a user holds, and the user's requests that wait for more, the first one first.
#[derive(Debug, Default)]
struct Held {
    units: usize,
    /// The number of the user's last share, until nothing is held and nobody waits.
    served: u64,
    waiting: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    id: u64,
    units: usize,
    granted: oneshot::Sender<Share>,
}

/// The reason why a user gets no share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The user holds as much as one user may.
    User,
    /// Nothing is left, whoever asks.
    Everybody,
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::User => Self::too_many_requests(),
            Refused::Everybody => Self::overloaded(),
        }
    }
}

impl Pool {
    /// Returns whether a user gets `units`, of which `own` are held by the one who asks for more.
    fn fits(&self, bounds: &Bounds, user: &UserId, own: usize, units: usize) -> bool {
        let held = self.users.get(user).map_or(0, |held| held.units);
        let Some(left) = self.free.checked_sub(units) else { return false };
        // The first thing that a user does is not bounded by the user's share: each may do one.
        let after = held + units;
        held == own || (after <= bounds.per_user && after <= left.saturating_mul(bounds.of_free))
    }

    fn give(&mut self, user: &UserId, units: usize) {
        self.free -= units;
        let served = self.next_number();
        let held = self.users.entry(user.clone()).or_default();
        held.units += units;
        held.served = served;
    }

    fn take_back(&mut self, user: &UserId, units: usize) {
        self.free += units;
        if let Some(held) = self.users.get_mut(user) {
            held.units -= units;
        }
        self.forget(user);
    }

    /// Returns the next of the ascending numbers of waiters and shares.
    fn next_number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Keeps nothing of a user who holds nothing and waits for nothing.
    fn forget(&mut self, user: &UserId) {
        if self.users.get(user).is_some_and(|held| held.units == 0 && held.waiting.is_empty()) {
            self.users.remove(user);
        }
    }

    /// Ends the waiting of the one that `which` accepts, if any does.
    fn stop_waiting(&mut self, user: &UserId, which: impl Fn(&Waiter) -> bool) -> Option<Waiter> {
        let waiting = &mut self.users.get_mut(user)?.waiting;
        let at = waiting.iter().position(which)?;
        self.waiting -= 1;
        waiting.remove(at)
    }
}

impl Inner {
    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refused(&self, pool: &Pool, units: usize) -> Refused {
        let refused = if units <= pool.free { Refused::User } else { Refused::Everybody };
        let of = if refused == Refused::User { "user" } else { "all" };
        metrics::counter!("vfs_sync_refused_total", "share" => self.name, "of" => of).increment(1);
        refused
    }

    /// Gives what is free to those who wait, to who holds least first.
    fn serve_waiting(self: &Arc<Self>, pool: &mut Pool) -> Vec<(oneshot::Sender<Share>, Share)> {
        let mut served = Vec::new();
        loop {
            let next = pool
                .users
                .iter()
                .filter_map(|(user, held)| Some((user, held, held.waiting.front()?)))
                .filter(|(user, _, first)| pool.fits(&self.bounds, user, 0, first.units))
                .min_by_key(|(_, held, first)| (held.units, held.served, first.id))
                .map(|(user, ..)| user.clone());
            let Some(user) = next else { return served };
            let Some(Waiter { units, granted, .. }) = pool.stop_waiting(&user, |_| true) else {
                return served;
            };
            pool.give(&user, units);
            served.push((granted, Share { of: Arc::clone(self), user, units }));
        }
    }

    fn take_back(self: &Arc<Self>, user: &UserId, units: usize) {
        let served = {
            let mut pool = self.pool();
            pool.take_back(user, units);
            if pool.waiting == 0 { Vec::new() } else { self.serve_waiting(&mut pool) }
        };
        // Outside the lock: a share whose waiter has gone comes back at once.
        for (granted, share) in served {
            drop(granted.send(share));
        }
    }
}

impl Shares {
    pub(crate) fn new(name: &'static str, bounds: Bounds) -> Self {
        let pool = Pool { free: bounds.total, users: HashMap::new(), waiting: 0, next: 0 };
        Self(Arc::new(Inner { name, bounds, pool: Mutex::new(pool) }))
    }

    /// Takes `units` for a user, without waiting.
    pub(crate) fn try_take(&self, user: &UserId, units: usize) -> Result<Share, Refused> {
        let mut pool = self.0.pool();
        if !pool.fits(&self.0.bounds, user, 0, units) {
            return Err(self.0.refused(&pool, units));
        }
        pool.give(user, units);
        Ok(Share { of: Arc::clone(&self.0), user: user.clone(), units })
    }

    /// Takes `units` for a user; waits for at most `patience` for them.
    pub(crate) async fn take(
        &self,
        user: &UserId,
        units: usize,
        patience: Duration,
    ) -> Result<Share, Refused> {
        let (id, granted) = {
            let mut pool = self.0.pool();
            if pool.fits(&self.0.bounds, user, 0, units) {
                pool.give(user, units);
                return Ok(Share { of: Arc::clone(&self.0), user: user.clone(), units });
            }
            let waits = pool.users.get(user).map_or(0, |held| held.waiting.len());
            if waits >= self.0.bounds.waiting || units > self.0.bounds.total {
                return Err(self.0.refused(&pool, units));
            }
            let (grant, granted) = oneshot::channel();
            let id = pool.next_number();
            pool.waiting += 1;
            let waiter = Waiter { id, units, granted: grant };
            pool.users.entry(user.clone()).or_default().waiting.push_back(waiter);
            (id, granted)
        };
        let _place = Place { of: &self.0, user, id };
        match tokio::time::timeout(patience, granted).await {
            Ok(Ok(share)) => Ok(share),
            _ => Err(self.0.refused(&self.0.pool(), units)),
        }
    }

    /// Returns the units that nobody holds.
    #[cfg(test)]
    fn free(&self) -> usize {
        self.0.pool().free
    }
}

/// A place among those who wait, given up with whoever stood there.
struct Place<'a> {
    of: &'a Inner,
    user: &'a UserId,
    id: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut pool = self.of.pool();
        if pool.stop_waiting(self.user, |waiter| waiter.id == self.id).is_some() {
            pool.forget(self.user);
        }
    }
}

/// Units that a user holds, until this is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    of: Arc<Inner>,
    user: UserId,
    units: usize,
}

impl Share {
    /// Takes `units` more, without waiting.
    pub(crate) fn grow(&mut self, units: usize) -> Result<(), Refused> {
        let mut pool = self.of.pool();
        if !pool.fits(&self.of.bounds, &self.user, self.units, units) {
            return Err(self.of.refused(&pool, units));
        }
        pool.give(&self.user, units);
        drop(pool);
        self.units += units;
        Ok(())
    }

    /// Gives back all but `units`.
    pub(crate) fn shrink_to(&mut self, units: usize) {
        if let Some(surplus) = self.units.checked_sub(units).filter(|surplus| *surplus > 0) {
            self.units = units;
            self.of.take_back(&self.user, surplus);
        }
    }

    pub(crate) fn units(&self) -> usize {
        self.units
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.of.take_back(&self.user, self.units);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn user(name: &str) -> UserId {
        UserId::new(name).unwrap()
    }

    fn shares(total: usize, per_user: usize) -> Shares {
        Shares::new("test", Bounds { total, per_user, of_free: 1, waiting: 8 })
    }

    /// Takes one unit after another until it is refused.
    fn as_many_as_there_are(shares: &Shares, name: &str) -> (Vec<Share>, Refused) {
        let mut held = Vec::new();
        loop {
            match shares.try_take(&user(name), 1) {
                Ok(share) => held.push(share),
                Err(refused) => return (held, refused),
            }
        }
    }

    #[test]
    fn each_user_leaves_room_for_the_next() {
        let shares = shares(64, 64);
        let mut all = Vec::new();
        for (name, expected) in [("a", 32), ("b", 16), ("c", 8), ("d", 4)] {
            let (held, refused) = as_many_as_there_are(&shares, name);
            assert_eq!((held.len(), refused), (expected, Refused::User), "{name}");
            all.extend(held);
        }
        drop(all);
        assert_eq!(shares.free(), 64);
        assert!(shares.0.pool().users.is_empty());
    }

    #[test]
    fn a_user_holds_no_more_than_one_user_may() {
        let shares = shares(64, 5);
        let (held, refused) = as_many_as_there_are(&shares, "a");
        assert_eq!((held.len(), refused), (5, Refused::User));
    }

    #[test]
    fn the_first_of_a_user_is_bounded_by_what_is_free_alone() {
        let shares = shares(64, 5);
        let mut first = shares.try_take(&user("a"), 40).unwrap();
        first.grow(20).unwrap();
        assert_eq!(shares.try_take(&user("a"), 1).unwrap_err(), Refused::User);
        assert_eq!(shares.try_take(&user("b"), 5).unwrap_err(), Refused::Everybody);
        assert_eq!(first.grow(5), Err(Refused::Everybody));
        first.shrink_to(10);
        assert_eq!((shares.free(), first.units()), (54, 10));
        let other = shares.try_take(&user("b"), 54).unwrap();
        drop((first, other));
        assert_eq!(shares.free(), 64);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_served_when_something_comes_back_who_holds_least_first() {
        let shares = shares(4, 4);
        let wait = |name: &'static str| {
            let shares = shares.clone();
            tokio::spawn(async move { shares.take(&user(name), 2, Duration::from_secs(5)).await })
        };
        let mut first = shares.try_take(&user("a"), 4).unwrap();
        let (mut greedy, mut modest) = (wait("a"), wait("b"));
        while shares.0.pool().waiting < 2 {
            tokio::task::yield_now().await;
        }
        first.shrink_to(2);
        let served = (&mut modest).await.unwrap().unwrap();
        assert_eq!(shares.free(), 0);
        assert_eq!((&mut greedy).await.unwrap().unwrap_err(), Refused::Everybody);
        drop((first, served));
        assert_eq!(shares.free(), 4);
        assert!(shares.0.pool().users.is_empty() && shares.0.pool().waiting == 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_much_leaves_every_other_turn_to_others() {
        for names in [["a", "b"], ["b", "a"]] {
            let shares = shares(1, 1);
            let held = shares.try_take(&user("x"), 1).unwrap();
            let (sender, mut turns) = tokio::sync::mpsc::unbounded_channel();
            for name in [names[0]; 4].into_iter().chain([names[1]; 2]) {
                let (taken, sender) = (shares.clone(), sender.clone());
                let before = shares.0.pool().waiting;
                tokio::spawn(async move {
                    let share = taken.take(&user(name), 1, Duration::from_secs(5)).await.unwrap();
                    sender.send(name).unwrap();
                    drop(share);
                });
                while shares.0.pool().waiting == before {
                    tokio::task::yield_now().await;
                }
            }
            drop((sender, held));
            let mut order = Vec::new();
            while let Some(name) = turns.recv().await {
                order.push(name);
            }
            let [many, few] = names;
            assert_eq!(order, [many, few, many, few, many, many]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_of_one_user_wait_and_who_gives_up_leaves_no_trace() {
        let shares = shares(1, 1);
        let first = shares.try_take(&user("a"), 1).unwrap();
        let mut waiting = Vec::new();
        for _ in 0..8 {
            let shares = shares.clone();
            let take = async move { shares.take(&user("b"), 1, Duration::from_secs(5)).await };
            let mut take = Box::pin(take);
            assert!(futures::poll!(&mut take).is_pending());
            waiting.push(take);
        }
        let started = tokio::time::Instant::now();
        let refused = shares.take(&user("b"), 1, Duration::from_secs(5)).await.unwrap_err();
        assert_eq!((refused, started.elapsed()), (Refused::Everybody, Duration::ZERO));
        drop(waiting);
        assert_eq!(shares.0.pool().waiting, 0);
        drop(first);
        assert!(shares.take(&user("b"), 1, Duration::ZERO).await.is_ok());
        assert_eq!(shares.free(), 1);
    }

    proptest! {
        #[test]
        fn what_is_held_and_what_is_free_are_always_all_there_is(
            steps in prop::collection::vec((0..4_usize, 0..6_usize, any::<bool>()), 1..200)
        ) {
            let shares = shares(16, 9);
            let mut held: Vec<Share> = Vec::new();
            for (who, units, take) in steps {
                if take {
                    held.extend(shares.try_take(&user(["a", "b", "c", "d"][who]), units));
                } else if !held.is_empty() {
                    let mut share = held.swap_remove(who % held.len());
                    let _ = share.grow(units);
                    share.shrink_to(units);
                    held.push(share);
                    if units == 0 { held.pop(); }
                }
                let sum: usize = held.iter().map(Share::units).sum();
                prop_assert_eq!(sum + shares.free(), 16);
            }
            drop(held);
            prop_assert!(shares.0.pool().users.is_empty());
        }
    }
}
