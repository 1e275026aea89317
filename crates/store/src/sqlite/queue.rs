//! The queue of the writer's jobs, in which users take turns.
//!
//! The jobs of one user run in the order of their arrival. Among users, the next is the one whose
//! jobs have cost least since the user began to wait, so that a job of a user who has no other waits
//! for at most one job of each other user, however many of theirs are there. The server's own jobs
//! are those of one more user.
//!
//! A job that took long cannot be interrupted, nor the commit of its changes. After one, its user
//! rests for twice as long while others are about, so that most of their jobs find the thread idle.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::mem::take;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vfs_sync_core::id::UserId;

use crate::error::{Result, StoreError};

/// The user for whom a job runs; `None` is the server itself.
pub(super) type Party = Option<UserId>;

/// The number of jobs of one user that wait; further ones are refused. It is several batches of
/// files.
const WAITING: usize = 4_096;
/// The number of users whose costs are remembered while others wait.
const REMEMBERED: usize = 4_096;

/// The time from which a job is long: several times that of a push of one operation.
const LONG: Duration = Duration::from_millis(4);
/// The longest rest: a user's small jobs wait for it too.
const REST: Duration = Duration::from_secs(1);
/// The time for which a user is about who had a job.
const ABOUT: Duration = Duration::from_secs(10);

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
        state.turns.add(Instant::now(), party, job)?;
        drop(state);
        self.arrived.notify_one();
        Ok(())
    }

    /// Returns the next job; waits for one. Returns `None` once the queue is closed and empty.
    pub(super) fn wait(&self) -> Option<J> {
        let mut state = self.state();
        loop {
            let now = Instant::now();
            if let Some(job) = state.turns.next(now, |_| true) {
                return Some(job);
            }
            if state.is_closed {
                return None;
            }
            state = match state.turns.first_end_of_rest() {
                Some(end) => {
                    let rest = end.saturating_duration_since(now);
                    let waited = self.arrived.wait_timeout(state, rest);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Returns the next job if one waits and `fits`.
    pub(super) fn next_if(&self, fits: impl FnOnce(&J) -> bool) -> Option<J> {
        self.state().turns.next(Instant::now(), fits)
    }

    /// Adds to what the jobs of the user have cost whose job was taken last, and `took` this time.
    pub(super) fn charge(&self, cost: usize, took: Duration) {
        self.state().turns.charge(cost, took, Instant::now());
    }

    /// Adds the time of a commit to what the jobs took that were charged since the last one.
    pub(super) fn charge_commit(&self, took: Duration) {
        self.state().turns.charge_commit(took, Instant::now());
    }

    /// Closes the queue to further jobs.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.is_closed = true;
        state.turns.end_rests();
        drop(state);
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
    /// The users of the jobs that wait for their commit, and what each job took.
    uncommitted: Vec<(Party, Duration)>,
    /// The cost of the user whose job was taken last: nobody who waits has less.
    least: u64,
    next: u64,
    /// The user whose job arrived last, and the last other one.
    about: [Option<(UserId, Instant)>; 2],
}

/// The waiting jobs of one user.
struct Line<J> {
    /// The cost of the user's jobs. It begins at the least of those who wait.
    cost: u64,
    jobs: VecDeque<J>,
    /// The end of the user's rest after a long job.
    rests_until: Option<Instant>,
}

impl<J> Line<J> {
    /// Begins the rest after a job that took this time, if it is a long one.
    fn rest_after(&mut self, took: Duration, now: Instant) {
        if took >= LONG {
            self.rests_until = self.rests_until.max(Some(now + (2 * took).min(REST)));
        }
    }
}

impl<J> Default for Turns<J> {
    fn default() -> Self {
        Self {
            users: HashMap::new(),
            order: BTreeMap::new(),
            running: None,
            uncommitted: Vec::new(),
            least: 0,
            next: 0,
            about: [None, None],
        }
    }
}

impl<J> Turns<J> {
    fn add(&mut self, now: Instant, party: Party, job: J) -> Result<()> {
        if self.users.len() >= REMEMBERED && !self.users.contains_key(&party) {
            let running = self.running.as_ref();
            self.users.retain(|user, line| !line.jobs.is_empty() || running == Some(user));
        }
        let new = || Line { cost: 0, jobs: VecDeque::new(), rests_until: None };
        let line = self.users.entry(party.clone()).or_insert_with(new);
        if line.jobs.len() >= WAITING {
            return Err(StoreError::TooMany);
        }
        line.jobs.push_back(job);
        if let Some(user) = &party {
            if self.about[0].as_ref().is_none_or(|(last, _)| last != user) {
                self.about[1] = self.about[0].take();
            }
            self.about[0] = Some((user.clone(), now));
        }
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

    fn charge(&mut self, cost: usize, took: Duration, now: Instant) {
        let Some(party) = &self.running else { return };
        if let Some(line) = self.users.get_mut(party) {
            line.cost = line.cost.saturating_add(cost as u64);
            line.rest_after(took, now);
        }
        self.uncommitted.push((party.clone(), took));
    }

    fn charge_commit(&mut self, took: Duration, now: Instant) {
        let jobs = take(&mut self.uncommitted);
        let all: Duration = jobs.iter().map(|(_, took)| *took).sum();
        for (party, job) in jobs {
            // A job that changes much takes long, and so does its commit.
            let share =
                took.mul_f64(job.div_duration_f64(all.max(Duration::from_nanos(1))).min(1.0));
            if let Some(line) = self.users.get_mut(&party) {
                line.rest_after(job + share, now);
            }
        }
    }

    /// Returns the time until which the user rests, if others are about.
    fn rest_of(&self, party: &Party, now: Instant) -> Option<Instant> {
        let until = self.users.get(party)?.rests_until.filter(|until| *until > now)?;
        let others = self.about.iter().flatten().filter(|(user, _)| Some(user) != party.as_ref());
        let is_one_about = others.map(|(_, last)| *last).any(|last| last + ABOUT > now);
        is_one_about.then_some(until)
    }

    /// Returns the first end of a rest of the users with waiting jobs.
    fn first_end_of_rest(&self) -> Option<Instant> {
        self.order.values().filter_map(|party| self.users.get(party)?.rests_until).min()
    }

    fn end_rests(&mut self) {
        self.about = [None, None];
    }

    /// Returns the job whose turn it is if it `fits`; the one that was taken before has ended.
    fn next(&mut self, now: Instant, fits: impl FnOnce(&J) -> bool) -> Option<J> {
        if let Some(ended) = self.running.take() {
            self.stand(ended);
        }
        if self.order.is_empty() {
            // Nobody waits, so nobody is ahead of anybody. Who rests goes on resting.
            self.users.retain(|_, line| line.rests_until.is_some_and(|until| until > now));
            self.users.values_mut().for_each(|line| line.cost = 0);
            self.least = 0;
            return None;
        }
        let mut standing = self.order.iter();
        let (place, party) = standing.find(|(_, party)| self.rest_of(party, now).is_none())?;
        let (place, party) = (*place, party.clone());
        let line = self.users.get_mut(&party)?;
        line.jobs.front().filter(|job| fits(job))?;
        let job = line.jobs.pop_front();
        // Who rested has no turns saved up either.
        self.least = self.least.max(line.cost);
        line.cost = self.least;
        self.order.remove(&place);
        self.running = Some(party);
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
            turns.add(Instant::now(), party(name), *name).unwrap();
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
                let job = turns.next(Instant::now(), |_| true)?;
                turns.charge(cost(job), Duration::ZERO, Instant::now());
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
    fn who_had_a_long_job_rests_for_twice_as_long_while_others_are_about() {
        let (begun, mut turns) = (Instant::now(), Turns::default());
        let at = |millis| begun + Duration::from_millis(millis);
        let add = |turns: &mut Turns<&'static str>, now, name| {
            turns.add(now, party(name), name).unwrap();
        };
        for name in ["a", "a", "a"] {
            add(&mut turns, at(0), name);
        }
        let long = Duration::from_millis(100);
        assert_eq!(turns.next(at(0), |_| true), Some("a"));
        turns.charge(1, long, at(100));
        assert_eq!(turns.next(at(100), |_| true), Some("a"), "nobody else is about");
        turns.charge(1, long, at(200));
        add(&mut turns, at(200), "b");
        assert_eq!(turns.next(at(200), |_| true), Some("b"));
        turns.charge(1, Duration::ZERO, at(201));
        assert_eq!(turns.next(at(399), |_| true), None, "the next of b would wait for nobody");
        assert_eq!(turns.first_end_of_rest(), Some(at(400)));
        assert_eq!(turns.next(at(400), |_| true), Some("a"));
        turns.charge(1, 50 * long, at(5_400));
        add(&mut turns, at(5_400), "a");
        assert_eq!(turns.next(at(6_399), |_| true), None, "b is about for a while");
        assert_eq!(turns.next(at(6_400), |_| true), Some("a"), "no rest is longer than a second");
        turns.charge(1, long, at(10_300));
        assert_eq!(turns.next(at(10_300), |_| true), None);
        add(&mut turns, at(10_301), "a");
        assert_eq!(turns.next(at(10_301), |_| true), Some("a"), "b is not about any more");
    }

    #[test]
    fn a_commit_counts_for_those_whose_jobs_it_writes() {
        let (now, mut turns) = (Instant::now(), Turns::default());
        for name in ["large", "small", "large", "small"] {
            turns.add(now, party(name), name).unwrap();
        }
        let millis = Duration::from_millis;
        assert_eq!(turns.next(now, |_| true), Some("large"));
        turns.charge(1, millis(3), now);
        assert_eq!(turns.next(now, |_| true), Some("small"));
        turns.charge(1, Duration::from_micros(100), now);
        turns.charge_commit(millis(31), now);
        assert_eq!(turns.next(now, |_| true), Some("small"));
        turns.charge_commit(millis(31), now);
        assert_eq!(turns.next(now + millis(65), |_| true), None, "it took 3 + 30 ms");
        assert_eq!(turns.next(now + millis(67), |_| true), Some("large"));
    }

    #[test]
    fn who_rested_has_no_turns_saved_up() {
        let (now, mut turns) = (Instant::now(), Turns::default());
        for name in ["b", "a", "a", "a", "b", "b"] {
            turns.add(now, party(name), name).unwrap();
        }
        assert_eq!(turns.next(now, |_| true), Some("b"));
        turns.charge(1, REST, now);
        for _ in 0..3 {
            assert_eq!(turns.next(now, |_| true), Some("a"));
            turns.charge(50, Duration::ZERO, now);
        }
        let end = turns.first_end_of_rest().unwrap();
        turns.add(end, party("new"), "new").unwrap();
        let mut order = Vec::new();
        while let Some(name) = turns.next(end, |_| true) {
            turns.charge(1, Duration::ZERO, end);
            order.push(name);
        }
        assert_eq!(order, ["b", "new", "b"]);
    }

    #[test]
    fn a_job_that_does_not_fit_keeps_its_turn() {
        let mut turns = Turns::default();
        added(&mut turns, &["a", "b"]);
        assert_eq!(turns.next(Instant::now(), |_| false), None);
        assert_eq!(taken(&mut turns, 2, |_| 1), ["a", "b"]);
    }

    #[test]
    fn no_user_has_more_jobs_waiting_than_one_may() {
        let mut turns = Turns::default();
        added(&mut turns, &["a"; WAITING]);
        assert!(matches!(turns.add(Instant::now(), party("a"), "a"), Err(StoreError::TooMany)));
        added(&mut turns, &["b"]);
    }

    #[test]
    fn as_many_users_are_remembered_as_the_bound_says_beside_those_who_wait() {
        let mut turns = Turns::default();
        turns.add(Instant::now(), None, 0).unwrap();
        turns.add(Instant::now(), None, 0).unwrap();
        for n in 0..3 * REMEMBERED {
            turns.add(Instant::now(), party(&format!("u{n}")), n).unwrap();
            turns.next(Instant::now(), |_| true).unwrap();
            turns.charge(1, Duration::ZERO, Instant::now());
        }
        assert!(turns.users.len() <= REMEMBERED + 2, "{}", turns.users.len());
    }

    /// Takes the next job; if all who wait rest, at the end of the first rest.
    fn next_in_time<J>(turns: &mut Turns<J>, now: &mut Instant) -> Option<J> {
        turns.next(*now, |_| true).or_else(|| {
            *now = turns.first_end_of_rest()?;
            turns.next(*now, |_| true)
        })
    }

    proptest! {
        /// Users add jobs, or the next job is taken, with the cost and time that go with the step.
        #[test]
        fn each_user_s_jobs_run_in_order_and_a_new_user_waits_for_one_of_each_other(
            steps in proptest::collection::vec(
                (proptest::option::of(0..4_usize), 0..50_usize, 0..90_u64), 0..200
            )
        ) {
            let (mut now, mut turns) = (Instant::now(), Turns::default());
            let mut waiting = [const { VecDeque::<usize>::new() }; 4];
            for (number, (adds, cost, took)) in steps.into_iter().enumerate() {
                if let Some(user) = adds {
                    turns.add(now, party(&user.to_string()), Some((user, number))).unwrap();
                    waiting[user].push_back(number);
                } else if let Some(job) = next_in_time(&mut turns, &mut now) {
                    let took = Duration::from_millis(took);
                    now += took;
                    turns.charge(cost, took, now);
                    let (user, number) = job.unwrap();
                    prop_assert_eq!(waiting[user].pop_front(), Some(number));
                } else {
                    prop_assert!(waiting.iter().all(VecDeque::is_empty));
                }
            }
            turns.add(now, party("new"), None).unwrap();
            let mut before = [0; 4];
            while let Some(Some((user, number))) = turns.next(now, |_| true) {
                turns.charge(1, Duration::ZERO, now);
                prop_assert_eq!(waiting[user].pop_front(), Some(number));
                before[user] += 1;
            }
            prop_assert!(before.iter().all(|jobs| *jobs <= 1), "{:?}", before);
            while let Some(job) = next_in_time(&mut turns, &mut now) {
                let (user, number) = job.unwrap();
                prop_assert_eq!(waiting[user].pop_front(), Some(number));
            }
            prop_assert!(waiting.iter().all(VecDeque::is_empty));
        }
    }
}
