//! The connection that writes, and the thread that owns it.
//!
//! It commits in groups: waiting jobs, up to a bound and in the order of their users' turns, share
//! one transaction, because the cost of a commit is the disk's and not the rows'. Each job has a
//! savepoint, so that a failing job fails alone; jobs are answered only after the commit. A store
//! without threads has a writer whose callers run their jobs themselves.

use std::any::Any;
use std::mem::take;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::{oneshot, watch};

use super::conflicts::{Commits, Files, History, Locks, Reserved};
use super::queue::{Party, Queue, stopped};
use super::transaction::SqliteTransaction;
use crate::backend::row_limit::RowLimit;
use crate::command::Operation;
use crate::error::{Result, StoreError};
use crate::moves::Observers;

/// The total weight from which a group takes no further job. A push weighs its operations; this
/// many take some 100 ms, which bounds the wait of a small job behind a large group. A job that
/// turns out to load many rows weighs more.
const GROUP_WEIGHT: usize = 4_000;
/// The weight of a job beside its operations: it is found, begun and answered.
const JOB_WEIGHT: usize = 8;
/// The rows that a job loads for a weight of one.
const ROWS_PER_WEIGHT: usize = 2;

/// The answer of a job. Its type is known where the job is made, so that what is between is compiled
/// once and not for each command.
pub(super) type AnyAnswer = Box<dyn Any + Send>;
/// The work of a job that runs once.
pub(super) type Once = Box<dyn FnOnce(&mut SqliteTransaction<'_>) -> Result<AnyAnswer> + Send>;
/// The work of a job that may run again.
type Again = Arc<dyn Fn(&mut SqliteTransaction<'_>) -> Result<AnyAnswer> + Send + Sync>;

/// Returns a job whose answer is of any type.
pub(super) fn once<T: Send + 'static>(
    job: impl FnOnce(&mut SqliteTransaction<'_>) -> Result<T> + Send + 'static,
) -> Once {
    Box::new(|tx| Ok(Box::new(job(tx)?)))
}

/// Returns an answer as what it is.
pub(super) fn known<T: 'static>(answer: AnyAnswer) -> Result<T> {
    let another = |_| StoreError::Failed("a transaction gave another command's answer".into());
    answer.downcast().map(|answer| *answer).map_err(another)
}

type Answer = Box<dyn FnOnce(Option<&StoreError>) + Send>;
/// A job that runs in the open transaction.
type Run = Box<dyn FnOnce(&Connection, &mut History) -> Outcome + Send>;

struct Job {
    weight: usize,
    run: Run,
}

/// The outcome of a job, before the commit.
struct Outcome {
    went_well: bool,
    /// The number of rows that the job loaded.
    loaded: usize,
    answer: Answer,
}

/// The user for whom a job runs, and its approximate amount of work, in operations of a push.
#[derive(Debug, Clone)]
pub(super) struct Work {
    pub(super) party: Party,
    pub(super) weight: usize,
}

impl Work {
    pub(super) fn of(command: &impl Operation) -> Self {
        Self { party: command.user().cloned(), weight: command.weight() }
    }
}

/// The condition under which a job runs.
enum Terms {
    /// The job runs if it loads no more than this number of rows, and takes no locks that a large
    /// transaction has reserved.
    Small(usize),
    /// The job runs if no commit after this one held any of the locks, whoever reserved them.
    Unchanged(u64, Locks),
}

/// The end of a job.
enum Ran {
    Done(AnyAnswer),
    /// The terms did not hold; the job had no effect.
    NotOnTerms,
    /// A large transaction has reserved a lock that the job takes; the job had no effect.
    HeldUp,
}

/// The locks that a large transaction has reserved.
type Reservation = Arc<watch::Sender<Option<Reserved>>>;

/// The runner of the jobs.
enum Runner {
    /// A thread of the writer's own.
    Thread(Thread),
    /// The caller, who runs each job itself.
    Caller(Box<Mutex<(Connection, History)>>),
}

/// The thread that owns the connection. Dropping this waits for the thread to end, so that the
/// owner of a closed store may remove or replace its file.
struct Thread {
    /// The queue of jobs; closing it ends the thread.
    queue: Arc<Queue<Job>>,
    handle: Option<JoinHandle<()>>,
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.queue.close();
        // The last who holds the store may be a job.
        let handle = self.handle.take();
        let other = handle.filter(|handle| handle.thread().id() != std::thread::current().id());
        // A panic of a job was caught; there is nobody to tell of any other.
        let _ = other.map(JoinHandle::join);
    }
}

/// The queue of jobs and their runner.
pub(super) struct Writer {
    runner: Runner,
    commits: Commits,
    reservation: Reservation,
}

/// Locks of a large transaction that others wait for, until this is dropped.
pub(super) struct Reserving<'w> {
    writer: &'w Writer,
}

impl Reserving<'_> {
    pub(super) fn add(&self, locks: &Locks) {
        let add = |reserved: &mut Option<Reserved>| {
            reserved.get_or_insert_default().add(locks);
        };
        self.writer.reservation.send_modify(add);
    }
}

impl Drop for Reserving<'_> {
    fn drop(&mut self) {
        self.writer.reservation.send_replace(None);
    }
}

impl Writer {
    pub(super) fn start(
        connection: Connection,
        files: Option<Arc<Files>>,
        observers: Arc<Observers>,
    ) -> Result<Self> {
        let queue = Arc::new(Queue::default());
        let (commits, reservation) = (Commits::default(), Reservation::default());
        let history = History::new(commits.clone(), files, observers);
        let jobs = Ending(queue.clone());
        let handle = std::thread::Builder::new()
            .name("vfs-sync-writer".into())
            .spawn(move || work(&connection, history, &jobs.0))
            .map_err(|error| StoreError::Unavailable(error.to_string()))?;
        let thread = Thread { queue, handle: Some(handle) };
        Ok(Self { runner: Runner::Thread(thread), commits, reservation })
    }

    /// A writer without a thread.
    pub(super) fn of_caller(
        connection: Connection,
        files: Option<Arc<Files>>,
        observers: Arc<Observers>,
    ) -> Self {
        let (commits, reservation) = (Commits::default(), Reservation::default());
        let history = History::new(commits.clone(), files, observers);
        let runner = Runner::Caller(Box::new(Mutex::new((connection, history))));
        Self { runner, commits, reservation }
    }

    /// Returns the number of commits; a snapshot that is opened later shows all of them.
    pub(super) fn commits(&self) -> u64 {
        self.commits.load(Ordering::SeqCst)
    }

    /// Begins to reserve locks for a large transaction, of which one runs at a time.
    pub(super) fn reserve(&self) -> Reserving<'_> {
        Reserving { writer: self }
    }

    /// Runs `job` in a transaction; returns its answer once the commit is durable. It runs again if
    /// it was held up.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: Work,
        job: impl Fn(&mut SqliteTransaction<'_>) -> Result<T> + Send + Sync + 'static,
    ) -> Result<T> {
        self.run_if_small(work, usize::MAX, job).await?.ok_or_else(not_run)
    }

    /// Runs `job`, which takes no locks, in a transaction.
    pub(super) async fn run_once(&self, work: Work, job: Once) -> Result<AnyAnswer> {
        match self.submit(work, Terms::Small(usize::MAX), job).await? {
            Ran::Done(answer) => Ok(answer),
            Ran::NotOnTerms | Ran::HeldUp => Err(not_run()),
        }
    }

    /// Runs `job` if it loads at most `rows` rows; otherwise it has no effect and returns no
    /// answer. It runs again if it was held up.
    pub(super) async fn run_if_small<T: Send + 'static>(
        &self,
        work: Work,
        rows: usize,
        job: impl Fn(&mut SqliteTransaction<'_>) -> Result<T> + Send + Sync + 'static,
    ) -> Result<Option<T>> {
        let job: Again = Arc::new(move |tx| Ok(Box::new(job(tx)?)));
        self.run_until_not_held_up(work, rows, job).await?.map(known).transpose()
    }

    async fn run_until_not_held_up(
        &self,
        work: Work,
        rows: usize,
        job: Again,
    ) -> Result<Option<AnyAnswer>> {
        loop {
            let again = Arc::clone(&job);
            let once: Once = Box::new(move |tx| again(tx));
            match self.submit(work.clone(), Terms::Small(rows), once).await? {
                Ran::Done(answer) => return Ok(Some(answer)),
                Ran::NotOnTerms => return Ok(None),
                Ran::HeldUp => {
                    let mut reservation = self.reservation.subscribe();
                    reservation.wait_for(Option::is_none).await.map_err(|_| stopped())?;
                }
            }
        }
    }

    /// Runs `job`, which holds `locks`, if no commit after number `base` held any of them.
    pub(super) async fn run_if_unchanged(
        &self,
        work: Work,
        base: u64,
        locks: Locks,
        job: Once,
    ) -> Result<Option<AnyAnswer>> {
        match self.submit(work, Terms::Unchanged(base, locks), job).await? {
            Ran::Done(answer) => Ok(Some(answer)),
            Ran::NotOnTerms | Ran::HeldUp => Ok(None),
        }
    }

    async fn submit(&self, work: Work, terms: Terms, job: Once) -> Result<Ran> {
        let _waits = Waits::begin();
        let (sender, receiver) = oneshot::channel();
        let reservation = self.reservation.clone();
        let run: Run = Box::new(move |connection, history| {
            let (result, loaded) = on_terms(connection, history, &reservation, terms, job);
            let went_well = matches!(result, Ok(Ran::Done(_)));
            let answer: Answer = Box::new(move |failed| {
                // The caller may have gone; the job is done all the same.
                let _ = sender.send(match (result, failed) {
                    (Ok(_), Some(StoreError::Full(text))) => Err(StoreError::Full(text.clone())),
                    (Ok(_), Some(error)) => Err(StoreError::Unavailable(error.to_string())),
                    (result, _) => result,
                });
            });
            Outcome { went_well, loaded, answer }
        });
        let job = Job { weight: work.weight, run };
        match &self.runner {
            Runner::Thread(thread) => thread.queue.add(work.party, job)?,
            Runner::Caller(held) => {
                let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
                let (connection, history) = &mut *held;
                perform(connection, history, job, None);
            }
        }
        receiver.await.map_err(|_| stopped())?
    }
}

/// Counts a transaction that waits for the writer or runs, until it is dropped.
struct Waits;

impl Waits {
    fn begin() -> Self {
        metrics::gauge!("vfs_sync_commit_queue").increment(1);
        Self
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        metrics::gauge!("vfs_sync_commit_queue").decrement(1);
    }
}

fn not_run() -> StoreError {
    StoreError::Failed("a transaction was not run".into())
}

/// Runs `job` on its terms; returns the number of rows that it loaded as well.
fn on_terms(
    connection: &Connection,
    history: &mut History,
    reservation: &Reservation,
    terms: Terms,
    job: Once,
) -> (Result<Ran>, usize) {
    let mut tx = SqliteTransaction::new(connection);
    let result = ran(&mut tx, history, reservation, terms, job);
    (result, tx.limit.loaded())
}

fn ran(
    tx: &mut SqliteTransaction<'_>,
    history: &mut History,
    reservation: &Reservation,
    terms: Terms,
    job: Once,
) -> Result<Ran> {
    let mut holds_reservation = false;
    match terms {
        Terms::Small(rows) => tx.limit = RowLimit::of(rows),
        Terms::Unchanged(base, locks) => {
            if history.held_since(base, &locks) {
                return Ok(Ran::NotOnTerms);
            }
            (tx.locks, holds_reservation) = (locks, true);
        }
    }
    let result = contained(|| job(tx));
    if tx.limit.is_exceeded() {
        return Ok(Ran::NotOnTerms);
    }
    let answer = result?;
    let held_up = |reserved: &Reserved| reserved.holds_up(&tx.locks);
    if !holds_reservation && reservation.borrow().as_ref().is_some_and(held_up) {
        return Ok(Ran::HeldUp);
    }
    history.note(take(&mut tx.locks));
    history.note_moved(take(&mut tx.moved));
    Ok(Ran::Done(answer))
}

/// Converts a panic to an error, because it must not take the connection down.
pub(super) fn contained<T>(job: impl FnOnce() -> Result<T>) -> Result<T> {
    let broken = |_| Err(StoreError::Failed("a transaction broke off; the log says where".into()));
    catch_unwind(AssertUnwindSafe(job)).unwrap_or_else(broken)
}

/// The queue of a thread. When the thread ends, no job is left without an answer.
struct Ending(Arc<Queue<Job>>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

fn work(connection: &Connection, mut history: History, jobs: &Queue<Job>) {
    while let Some(first) = jobs.wait() {
        perform(connection, &mut history, first, Some(jobs));
    }
}

/// Runs `first` and jobs that wait in one transaction, and answers them.
fn perform(
    connection: &Connection,
    history: &mut History,
    first: Job,
    waiting: Option<&Queue<Job>>,
) {
    let mut answers = Vec::new();
    let failed = group(connection, history, first, waiting, &mut answers).err();
    if let Some(error) = &failed {
        if let Some(jobs) = waiting {
            jobs.charge_commit(Duration::ZERO);
        }
        tracing::error!(%error, "a group of transactions failed");
        if !connection.is_autocommit() {
            let _ = connection.execute_batch("ROLLBACK");
        }
    }
    history.ended(failed.is_none());
    for answer in answers {
        answer(failed.as_ref());
    }
}

/// Runs the jobs in one transaction; on an error none of them has an effect.
fn group(
    connection: &Connection,
    history: &mut History,
    first: Job,
    waiting: Option<&Queue<Job>>,
    answers: &mut Vec<Answer>,
) -> Result<()> {
    // Without a transaction there is nothing to run in; dropping the job answers it.
    begin(connection, history)?;
    let mut group_weight = 0;
    let mut next = Some(first);
    while let Some(Job { weight, run }) = next {
        // A savepoint copies every page that changes; the first job can do without.
        let alone = answers.is_empty();
        if !alone {
            execute(connection, "SAVEPOINT job")?;
        }
        let begun = Instant::now();
        let Outcome { went_well, loaded, answer } = run(connection, history);
        answers.push(answer);
        if connection.is_autocommit() {
            let lost = "SQLite rolled the whole transaction back";
            return Err(StoreError::Unavailable(lost.into()));
        }
        match (alone, went_well) {
            (true, true) => {}
            (true, false) => {
                execute(connection, "ROLLBACK")?;
                begin(connection, history)?;
            }
            (false, true) => execute(connection, "RELEASE job")?,
            (false, false) => {
                execute(connection, "ROLLBACK TO job")?;
                execute(connection, "RELEASE job")?;
            }
        }
        let weight = weight.max(loaded / ROWS_PER_WEIGHT).saturating_add(JOB_WEIGHT);
        group_weight += weight;
        let Some(jobs) = waiting else { break };
        // Large jobs have turns of their own: what one costs its user here is bounded.
        jobs.charge(weight.min(GROUP_WEIGHT), begun.elapsed());
        // A large job does not join those that are before it: they would wait for it.
        next = (group_weight < GROUP_WEIGHT)
            .then(|| jobs.next_if(|job| job.weight < GROUP_WEIGHT))
            .flatten();
    }
    let begun = Instant::now();
    execute(connection, "COMMIT")?;
    if let Some(jobs) = waiting {
        jobs.charge_commit(begun.elapsed());
    }
    metrics::histogram!("vfs_sync_commit_duration_seconds").record(begun.elapsed());
    #[allow(clippy::cast_precision_loss, reason = "few jobs share a commit")]
    metrics::histogram!("vfs_sync_commit_transactions").record(answers.len() as f64);
    history.committed();
    history.check_files()
}

/// Begins a write transaction. Between two of our transactions another process may have written.
fn begin(connection: &Connection, history: &mut History) -> Result<()> {
    execute(connection, "BEGIN IMMEDIATE")?;
    history.begin(connection)
}

fn execute(connection: &Connection, sql: &str) -> Result<()> {
    connection.prepare_cached(sql)?.execute([])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use vfs_sync_core::id::UserId;

    use super::super::conflicts::Lock;
    use super::*;

    fn writer() -> Writer {
        let connection = Connection::open_in_memory().unwrap();
        let schema = "PRAGMA foreign_keys = ON; CREATE TABLE t (n INTEGER PRIMARY KEY)";
        connection.execute_batch(schema).unwrap();
        Writer::start(connection, None, Arc::default()).unwrap()
    }

    /// Work of a user, or of the server if there is no name.
    fn work_of(name: &str, weight: usize) -> Work {
        Work { party: UserId::new(name).ok(), weight }
    }

    async fn insert(writer: &Writer, n: i64) -> Result<()> {
        writer
            .run(work_of("", 1), move |tx| {
                tx.connection.execute("INSERT INTO t VALUES (?1)", [n])?;
                if n % 3 == 0 {
                    return Err(StoreError::Failed("a third".into()));
                }
                assert!(n % 5 != 0, "a fifth");
                Ok(())
            })
            .await
    }

    async fn rows(writer: &Writer) -> Vec<i64> {
        let read = |tx: &mut SqliteTransaction<'_>| {
            let mut select = tx.connection.prepare("SELECT n FROM t ORDER BY n")?;
            let rows = select.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
            Ok(rows)
        };
        writer.run(work_of("", 1), read).await.unwrap()
    }

    #[tokio::test]
    async fn a_job_of_a_group_that_fails_or_panics_does_so_alone() {
        let writer = writer();
        let jobs = (1..=30).map(|n| insert(&writer, n));
        let answers = futures::future::join_all(jobs).await;
        for (n, answer) in (1..).zip(&answers) {
            assert_eq!(answer.is_ok(), n % 3 != 0 && n % 5 != 0, "{n}: {answer:?}");
        }
        let expected: Vec<i64> = (1..=30).filter(|n| n % 3 != 0 && n % 5 != 0).collect();
        assert_eq!(rows(&writer).await, expected);
    }

    /// A job that inserts a row and locks a realm.
    async fn insert_in(writer: &Writer, realm: &str, n: i64) -> Result<()> {
        let lock = Lock::Realm(UserId::new(realm).unwrap());
        writer
            .run(work_of("", 1), move |tx| {
                tx.locks.own.push(lock.clone());
                tx.connection.execute("INSERT INTO t VALUES (?1)", [n])?;
                Ok(())
            })
            .await
    }

    #[tokio::test]
    async fn a_reservation_holds_up_who_takes_its_locks_and_nobody_else() {
        let writer = writer();
        let realm = |name| Lock::Realm(UserId::new(name).unwrap());
        let locks = |own, shared| Locks { own, shared, everything: false };
        let reserving = writer.reserve();
        reserving.add(&locks(vec![realm("a")], vec![realm("s")]));
        let mut waiting: Vec<_> = ["a", "s"]
            .into_iter()
            .zip(1..)
            .map(|(name, n)| Box::pin(insert_in(&writer, name, n)))
            .collect();
        for waiting in &mut waiting {
            assert!(futures::poll!(waiting).is_pending());
        }
        insert_in(&writer, "b", 3).await.unwrap();
        for waiting in &mut waiting {
            assert!(futures::poll!(waiting).is_pending());
        }
        assert_eq!(rows(&writer).await, [3]);
        let holder = once(|tx| Ok(tx.connection.execute("INSERT INTO t VALUES (4)", [])?));
        let (base, held) = (writer.commits(), locks(vec![realm("a")], vec![]));
        let ran = writer.run_if_unchanged(work_of("", 1), base, held, holder).await.unwrap();
        assert!(ran.is_some());
        drop(reserving);
        for waiting in waiting {
            waiting.await.unwrap();
        }
        assert_eq!(rows(&writer).await, [1, 2, 3, 4]);
    }

    #[tokio::test]
    async fn a_large_job_does_not_join_those_before_it() {
        let writer = writer();
        let (begin, begun) = std::sync::mpsc::channel();
        let waits = once(move |_| {
            begun.recv().unwrap();
            Ok(())
        });
        let first = writer.run_once(work_of("", 1), waits);
        let commits = Arc::clone(&writer.commits);
        let at = move || commits.load(Ordering::SeqCst);
        let small = insert(&writer, 1);
        let large = writer.run_once(work_of("", GROUP_WEIGHT), once(move |_| Ok(at())));
        let waiting = async move { begin.send(()).unwrap() };
        let (first, small, seen, ()) = futures::join!(first, small, large, waiting);
        first.unwrap();
        small.unwrap();
        assert_eq!(seen.and_then(known::<u64>).unwrap(), 1, "the commits before it");
    }

    /// Runs `first` while the jobs of `names` come, in this order; returns the order in which they
    /// ran, and the number of commits before each. A job loads as many rows as `loads` says.
    async fn order(names: Vec<&'static str>, loads: usize) -> Vec<(&'static str, u64)> {
        let writer = writer();
        let (begin, begun) = std::sync::mpsc::channel();
        let waits = once(move |_| {
            begun.recv().unwrap();
            Ok(())
        });
        let first = writer.run_once(work_of("", 1), waits);
        let ran = Arc::new(Mutex::new(Vec::new()));
        let jobs = names.into_iter().map(|name| {
            let (ran, commits) = (Arc::clone(&ran), Arc::clone(&writer.commits));
            let job = once(move |tx| {
                ran.lock().unwrap().push((name, commits.load(Ordering::SeqCst)));
                tx.limit.count(loads)
            });
            writer.run_once(work_of(name, 1), job)
        });
        let jobs = futures::future::join_all(jobs);
        let waiting = async move { begin.send(()).unwrap() };
        let (first, answers, ()) = futures::join!(first, jobs, waiting);
        first.unwrap();
        answers.into_iter().for_each(|answer| drop(answer.unwrap()));
        ran.lock().unwrap().clone()
    }

    #[tokio::test]
    async fn a_user_s_job_waits_for_one_of_each_other_user_and_not_for_all() {
        let mut names = vec!["busy"; 1_000];
        names.extend(["other", "busy", "victim"]);
        let ran: Vec<_> = order(names.clone(), 0).await.into_iter().map(|(name, _)| name).collect();
        assert_eq!(ran.len(), names.len());
        assert_eq!(ran[..4], ["busy", "other", "victim", "busy"]);
    }

    #[tokio::test]
    async fn a_group_ends_after_many_rows_as_after_many_operations() {
        let commits = |loads| async move {
            let ran = order(vec!["a"; 6], loads).await;
            ran.into_iter().map(|(_, commits)| commits).collect::<Vec<_>>()
        };
        assert_eq!(commits(10).await, [0; 6]);
        let half = GROUP_WEIGHT * ROWS_PER_WEIGHT / 2;
        assert_eq!(commits(half).await, [0, 0, 1, 1, 2, 2]);
    }

    #[tokio::test]
    async fn a_user_whose_job_is_held_up_has_others_done_meanwhile() {
        let writer = writer();
        let realm = |name| Lock::Realm(UserId::new(name).unwrap());
        let reserving = writer.reserve();
        reserving.add(&Locks { own: vec![realm("a")], ..Locks::default() });
        let mut held_up: Vec<_> =
            (0..100).map(|n| Box::pin(insert_in(&writer, "a", n + 10))).collect();
        for job in &mut held_up {
            assert!(futures::poll!(job).is_pending());
        }
        // Of the same user, and behind all of them in the queue.
        insert_in(&writer, "b", 2).await.unwrap();
        assert_eq!(rows(&writer).await, [2]);
        drop(reserving);
        for job in held_up {
            job.await.unwrap();
        }
        assert_eq!(rows(&writer).await.len(), 101);
    }

    #[tokio::test]
    async fn if_the_commit_fails_every_job_of_the_group_fails() {
        let writer = writer();
        let setup = |tx: &mut SqliteTransaction<'_>| {
            Ok(tx.connection.execute_batch(
                "CREATE TABLE parent (n INTEGER PRIMARY KEY);
                 CREATE TABLE child (n REFERENCES parent (n) DEFERRABLE INITIALLY DEFERRED)",
            )?)
        };
        writer.run(work_of("", 1), setup).await.unwrap();
        let orphan = |tx: &mut SqliteTransaction<'_>| {
            tx.connection.execute("INSERT INTO child VALUES (1)", [])?;
            Ok(())
        };
        let (release, held) = std::sync::mpsc::channel();
        let hold = once(move |_| {
            held.recv().unwrap();
            Ok(())
        });
        let waiting = async move { release.send(()).unwrap() };
        let (first, one, other, ()) = futures::join!(
            async { writer.run_once(work_of("", 1), hold).await.map(drop) },
            insert(&writer, 1),
            writer.run(work_of("", 1), orphan),
            waiting
        );
        for failed in [first, one, other] {
            assert!(matches!(failed, Err(StoreError::Unavailable(_))), "{failed:?}");
        }
        assert!(rows(&writer).await.is_empty());
        insert(&writer, 2).await.unwrap();
    }
}
