//! The queue of the writer's jobs, in which users take turns.
//!
//! The jobs of one user run in the order of their arrival. Among users, the next is the one whose
//! jobs have cost least since the user began to wait, so that a job of a user who has no other waits
//! for at most one job of each other user, however many of theirs are there. The server's own jobs
//! are those of one more user.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::mem::take;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use vfs_sync_core::id::UserId;

use crate::error::{Result, StoreError};

/// The user for whom a job runs; `None` is the server itself.
pub(super) type Party = Option<UserId>;

/// The number of jobs of one user that wait; further ones are refused. It is several batches of
/// files.
const WAITING: usize = 4_096;
/// The number of users whose costs are remembered while others wait.
const REMEMBERED: usize = 4_096;

/// The queue of one thread that runs jobs.
pub(super) struct Queue<J> {
    state: Mutex<State<J>>,
    arrived: Condvar,
}

struct State<J> {
    turns: Turns<J>,
    is_closed: bool,
}

impl<J> Default for Queue<J> {
    fn default() -> Self {
        let state = State { turns: Turns::default(), is_closed: false };
        Self { state: Mutex::new(state), arrived: Condvar::new() }
    }
}

impl<J> Queue<J> {
    fn state(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a job at the end of its user's.
    ///
    /// # Errors
    /// [`StoreError::TooMany`] if too many jobs of the user wait, and [`StoreError::Unavailable`] if
    /// the queue is closed.
    pub(super) fn add(&self, party: Party, job: J) -> Result<()> {
        let mut state = self.state();
        if state.is_closed {
            return Err(stopped());
        }
        state.turns.add(party, job)?;
        drop(state);
        self.arrived.notify_one();
        Ok(())
    }

    /// Returns the next job; waits for one. Returns `None` once the queue is closed and empty.
    pub(super) fn wait(&self) -> Option<J> {
        let mut state = self.state();
        loop {
            if let Some(job) = state.turns.next(|_| true) {
                return Some(job);
            }
            if state.is_closed {
                return None;
            }
            state = self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Returns the next job if one waits and `fits`.
    pub(super) fn next_if(&self, fits: impl FnOnce(&J) -> bool) -> Option<J> {
        self.state().turns.next(fits)
    }

    /// Adds to what the jobs of the user have cost whose job was taken last.
    pub(super) fn charge(&self, cost: usize) {
        self.state().turns.charge(cost);
    }

    /// Closes the queue to further jobs.
    pub(super) fn close(&self) {
        self.state().is_closed = true;
        self.arrived.notify_one();
    }

    /// Closes the queue and drops all jobs.
    pub(super) fn abandon(&self) {
        self.close();
        let turns = take(&mut self.state().turns);
        // Outside the lock: a job may hold the store.
        drop(turns);
    }
}

/// Returns the error of a caller whose job does not run because the thread has ended.
pub(super) fn stopped() -> StoreError {
    StoreError::Unavailable("the writer has stopped".into())
}

/// The waiting jobs, in the order of their turns.
struct Turns<J> {
    users: HashMap<Party, Line<J>>,
    /// The users with waiting jobs, except the user of the running job, by what their jobs have cost.
    /// The second number is ascending: users who are equal take turns.
    order: BTreeMap<(u64, u64), Party>,
    running: Option<Party>,
    /// The cost of the user whose job was taken last: nobody who waits has less.
    least: u64,
    next: u64,
}

/// The waiting jobs of one user.
struct Line<J> {
    /// The cost of the user's jobs. It begins at the least of those who wait.
    cost: u64,
    jobs: VecDeque<J>,
}

impl<J> Default for Turns<J> {
    fn default() -> Self {
        let (users, order) = Default::default();
        Self { users, order, running: None, least: 0, next: 0 }
    }
}

impl<J> Turns<J> {
    fn add(&mut self, party: Party, job: J) -> Result<()> {
        if self.users.len() >= REMEMBERED && !self.users.contains_key(&party) {
            let running = self.running.as_ref();
            self.users.retain(|user, line| !line.jobs.is_empty() || running == Some(user));
        }
        let new = || Line { cost: 0, jobs: VecDeque::new() };
        let line = self.users.entry(party.clone()).or_insert_with(new);
        if line.jobs.len() >= WAITING {
            return Err(StoreError::TooMany);
        }
        line.jobs.push_back(job);
        if line.jobs.len() == 1 && self.running.as_ref() != Some(&party) {
            line.cost = line.cost.max(self.least);
            self.stand(party);
        }
        Ok(())
    }

    /// Gives a user a place in the order if jobs of the user wait.
    fn stand(&mut self, party: Party) {
        if let Some(line) = self.users.get(&party).filter(|line| !line.jobs.is_empty()) {
            self.next += 1;
            self.order.insert((line.cost, self.next), party);
        }
    }

    fn charge(&mut self, cost: usize) {
        if let Some(line) = self.running.as_ref().and_then(|party| self.users.get_mut(party)) {
            line.cost = line.cost.saturating_add(cost as u64);
        }
    }

    /// Returns the job whose turn it is if it `fits`; the one that was taken before has ended.
    fn next(&mut self, fits: impl FnOnce(&J) -> bool) -> Option<J> {
        if let Some(ended) = self.running.take() {
            self.stand(ended);
        }
        let Some(first) = self.order.first_entry() else {
            // Nobody waits, so nobody is ahead of anybody.
            self.users.clear();
            self.least = 0;
            return None;
        };
        let jobs = &mut self.users.get_mut(first.get())?.jobs;
        jobs.front().filter(|job| fits(job))?;
        let job = jobs.pop_front();
        self.least = first.key().0;
        self.running = Some(first.remove());
        job
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn party(name: &str) -> Party {
        Some(UserId::new(name).unwrap())
    }

    /// Adds jobs, which are the names of their users.
    fn added(turns: &mut Turns<&'static str>, names: &[&'static str]) {
        for name in names {
            turns.add(party(name), *name).unwrap();
        }
    }

    /// Takes the next `count` jobs, each of which costs as much as `cost` says.
    fn taken(
        turns: &mut Turns<&'static str>,
        count: usize,
        cost: impl Fn(&str) -> usize,
    ) -> Vec<&'static str> {
        (0..count)
            .filter_map(|_| {
                let job = turns.next(|_| true)?;
                turns.charge(cost(job));
                Some(job)
            })
            .collect()
    }

    #[test]
    fn users_take_turns_however_many_jobs_each_has() {
        let mut turns = Turns::default();
        added(&mut turns, &["a", "a", "a", "a", "b", "c", "c"]);
        assert_eq!(taken(&mut turns, 9, |_| 1), ["a", "b", "c", "a", "c", "a", "a"]);
        assert!(turns.users.is_empty(), "nothing is kept of anybody");
    }

    #[test]
    fn a_user_whose_jobs_cost_more_has_fewer_turns() {
        let mut turns = Turns::default();
        added(&mut turns, &["a"; 8]);
        added(&mut turns, &["b"; 8]);
        let cost = |name: &str| if name == "a" { 3 } else { 1 };
        assert_eq!(taken(&mut turns, 8, cost), ["a", "b", "b", "b", "a", "b", "b", "b"]);
    }

    #[test]
    fn a_user_who_comes_later_has_no_turns_saved_up() {
        let mut turns = Turns::default();
        added(&mut turns, &["a"; 8]);
        assert_eq!(taken(&mut turns, 4, |_| 10), ["a"; 4]);
        added(&mut turns, &["b"; 8]);
        assert_eq!(taken(&mut turns, 5, |_| 10), ["b", "a", "b", "a", "b"]);
    }

    #[test]
    fn a_user_with_one_job_after_the_other_pays_for_each_while_others_wait() {
        let mut turns = Turns::default();
        added(&mut turns, &["a", "b", "b", "b"]);
        assert_eq!(taken(&mut turns, 2, |_| 10), ["a", "b"]);
        added(&mut turns, &["a", "c"]);
        assert_eq!(taken(&mut turns, 3, |_| 10), ["c", "a", "b"]);
    }

    #[test]
    fn a_job_that_does_not_fit_keeps_its_turn() {
        let mut turns = Turns::default();
        added(&mut turns, &["a", "b"]);
        assert_eq!(turns.next(|_| false), None);
        assert_eq!(taken(&mut turns, 2, |_| 1), ["a", "b"]);
    }

    #[test]
    fn no_user_has_more_jobs_waiting_than_one_may() {
        let mut turns = Turns::default();
        added(&mut turns, &["a"; WAITING]);
        assert!(matches!(turns.add(party("a"), "a"), Err(StoreError::TooMany)));
        added(&mut turns, &["b"]);
    }

    #[test]
    fn as_many_users_are_remembered_as_the_bound_says_beside_those_who_wait() {
        let mut turns = Turns::default();
        turns.add(None, 0).unwrap();
        turns.add(None, 0).unwrap();
        for n in 0..3 * REMEMBERED {
            turns.add(party(&format!("u{n}")), n).unwrap();
            turns.next(|_| true).unwrap();
            turns.charge(1);
        }
        assert!(turns.users.len() <= REMEMBERED + 2, "{}", turns.users.len());
    }

    proptest! {
        /// Users add jobs, or the next job is taken, with the cost that goes with the step.
        #[test]
        fn each_user_s_jobs_run_in_order_and_a_new_user_waits_for_one_of_each_other(
            steps in proptest::collection::vec((proptest::option::of(0..4_usize), 0..50_usize), 0..200)
        ) {
            let mut turns = Turns::default();
            let mut waiting = [const { VecDeque::<usize>::new() }; 4];
            for (number, (adds, cost)) in steps.into_iter().enumerate() {
                if let Some(user) = adds {
                    turns.add(party(&user.to_string()), Some((user, number))).unwrap();
                    waiting[user].push_back(number);
                } else if let Some(job) = turns.next(|_| true) {
                    turns.charge(cost);
                    let (user, number) = job.unwrap();
                    prop_assert_eq!(waiting[user].pop_front(), Some(number));
                } else {
                    prop_assert!(waiting.iter().all(VecDeque::is_empty));
                }
            }
            turns.add(party("new"), None).unwrap();
            let mut before = [0; 4];
            while let Some(Some((user, number))) = turns.next(|_| true) {
                turns.charge(1);
                prop_assert_eq!(waiting[user].pop_front(), Some(number));
                before[user] += 1;
            }
            prop_assert!(before.iter().all(|jobs| *jobs <= 1), "{:?}", before);
            while let Some(job) = turns.next(|_| true) {
                let (user, number) = job.unwrap();
                prop_assert_eq!(waiting[user].pop_front(), Some(number));
            }
            prop_assert!(waiting.iter().all(VecDeque::is_empty));
        }
    }
}
