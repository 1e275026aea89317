//! The connection that writes, and the thread that owns it.
//!
//! It commits in groups: all waiting jobs, up to a bound, share one transaction, because the cost
//! of a commit is the disk's and not the rows'. Each job has a savepoint, so that a failing job
//! fails alone; jobs are answered only after the commit. A store without threads has a writer whose
//! callers run their jobs themselves.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot, watch};

use super::conflicts::{Commits, Files, History, Locks, Reserved};
use super::transaction::SqliteTransaction;
use crate::error::{Result, StoreError};
use crate::moves::Observers;
use crate::row_limit::RowLimit;

/// The number of jobs that may wait in the queue; later callers wait for a place.
const QUEUE: usize = 256;
/// The total weight from which a group takes no further job. A push weighs its operations; this
/// many take some 100 ms, which bounds the wait of a small job behind a large group.
const GROUP_WEIGHT: usize = 4_000;

type Answer = Box<dyn FnOnce(Option<&StoreError>) + Send>;
/// A job that runs in the open transaction. It returns whether it succeeded, and how to answer
/// after the commit.
type Run = Box<dyn FnOnce(&Connection, &mut History) -> (bool, Answer) + Send>;

struct Job {
    weight: usize,
    run: Run,
}

/// The condition under which a job runs.
enum Terms {
    /// The job runs if it loads no more than this number of rows, and takes no locks that a large
    /// transaction has reserved.
    Small(usize),
    /// The job runs if no commit after this one held any of the locks, whoever reserved them.
    Unchanged(u64, Locks),
}

/// The outcome of a job.
enum Ran<T> {
    Done(T),
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
    /// The sender of jobs; `None` only during the drop, which ends the thread.
    queue: Option<mpsc::Sender<Job>>,
    handle: Option<JoinHandle<()>>,
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.queue = None;
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
        let (queue, jobs) = mpsc::channel(QUEUE);
        let (commits, reservation) = (Commits::default(), Reservation::default());
        let history = History::new(commits.clone(), files, observers);
        let handle = std::thread::Builder::new()
            .name("vfs-sync-writer".into())
            .spawn(move || work(&connection, history, jobs))
            .map_err(|error| StoreError::Unavailable(error.to_string()))?;
        let thread = Thread { queue: Some(queue), handle: Some(handle) };
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
        weight: usize,
        job: impl Fn(&mut SqliteTransaction<'_>) -> Result<T> + Clone + Send + 'static,
    ) -> Result<T> {
        self.run_if_small(weight, usize::MAX, job).await?.ok_or_else(not_run)
    }

    /// Runs `job`, which takes no locks, in a transaction.
    pub(super) async fn run_once<T: Send + 'static>(
        &self,
        weight: usize,
        job: impl FnOnce(&mut SqliteTransaction<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        match self.submit(weight, Terms::Small(usize::MAX), job).await? {
            Ran::Done(answer) => Ok(answer),
            Ran::NotOnTerms | Ran::HeldUp => Err(not_run()),
        }
    }

    /// Runs `job` if it loads at most `rows` rows; otherwise it has no effect and returns no
    /// answer. It runs again if it was held up.
    pub(super) async fn run_if_small<T: Send + 'static>(
        &self,
        weight: usize,
        rows: usize,
        job: impl Fn(&mut SqliteTransaction<'_>) -> Result<T> + Clone + Send + 'static,
    ) -> Result<Option<T>> {
        loop {
            match self.submit(weight, Terms::Small(rows), job.clone()).await? {
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
    pub(super) async fn run_if_unchanged<T: Send + 'static>(
        &self,
        weight: usize,
        base: u64,
        locks: Locks,
        job: impl FnOnce(&mut SqliteTransaction<'_>) -> Result<T> + Send + 'static,
    ) -> Result<Option<T>> {
        match self.submit(weight, Terms::Unchanged(base, locks), job).await? {
            Ran::Done(answer) => Ok(Some(answer)),
            Ran::NotOnTerms | Ran::HeldUp => Ok(None),
        }
    }

    async fn submit<T: Send + 'static>(
        &self,
        weight: usize,
        terms: Terms,
        job: impl FnOnce(&mut SqliteTransaction<'_>) -> Result<T> + Send + 'static,
    ) -> Result<Ran<T>> {
        let (sender, receiver) = oneshot::channel();
        let reservation = self.reservation.clone();
        let run: Run = Box::new(move |connection, history| {
            let result = on_terms(connection, history, &reservation, terms, job);
            let went_well = matches!(result, Ok(Ran::Done(_)));
            let answer: Answer = Box::new(move |failed| {
                // The caller may have gone; the job is done all the same.
                let _ = sender.send(match (result, failed) {
                    (Ok(_), Some(StoreError::Full(text))) => Err(StoreError::Full(text.clone())),
                    (Ok(_), Some(error)) => Err(StoreError::Unavailable(error.to_string())),
                    (result, _) => result,
                });
            });
            (went_well, answer)
        });
        let job = Job { weight, run };
        match &self.runner {
            Runner::Thread(thread) => {
                let queue = thread.queue.as_ref().ok_or_else(stopped)?;
                queue.send(job).await.map_err(|_| stopped())?;
            }
            Runner::Caller(held) => {
                let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
                let (connection, history) = &mut *held;
                perform(connection, history, job, &mut || None);
            }
        }
        receiver.await.map_err(|_| stopped())?
    }
}

fn not_run() -> StoreError {
    StoreError::Failed("a transaction was not run".into())
}

fn stopped() -> StoreError {
    StoreError::Unavailable("the writer has stopped".into())
}

fn on_terms<T>(
    connection: &Connection,
    history: &mut History,
    reservation: &Reservation,
    terms: Terms,
    job: impl FnOnce(&mut SqliteTransaction<'_>) -> Result<T>,
) -> Result<Ran<T>> {
    let mut tx = SqliteTransaction::new(connection);
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
    let result = contained(|| job(&mut tx));
    if tx.limit.is_exceeded() {
        return Ok(Ran::NotOnTerms);
    }
    let answer = result?;
    let held_up = |reserved: &Reserved| reserved.holds_up(&tx.locks);
    if !holds_reservation && reservation.borrow().as_ref().is_some_and(held_up) {
        return Ok(Ran::HeldUp);
    }
    history.note(tx.locks);
    history.note_moved(tx.moved);
    Ok(Ran::Done(answer))
}

/// Converts a panic to an error, because it must not take the connection down.
pub(super) fn contained<T>(job: impl FnOnce() -> Result<T>) -> Result<T> {
    let broken = |_| Err(StoreError::Failed("a transaction broke off; the log says where".into()));
    catch_unwind(AssertUnwindSafe(job)).unwrap_or_else(broken)
}

fn work(connection: &Connection, mut history: History, mut jobs: mpsc::Receiver<Job>) {
    let mut next = None;
    while let Some(first) = next.take().or_else(|| jobs.blocking_recv()) {
        // A large job does not join those that are before it: they would wait for it.
        let mut waiting = || {
            let job = jobs.try_recv().ok()?;
            if job.weight < GROUP_WEIGHT {
                return Some(job);
            }
            next = Some(job);
            None
        };
        perform(connection, &mut history, first, &mut waiting);
    }
}

/// Runs `first` and the jobs in `waiting` in one transaction, and answers them.
fn perform(
    connection: &Connection,
    history: &mut History,
    first: Job,
    waiting: &mut dyn FnMut() -> Option<Job>,
) {
    let mut answers = Vec::new();
    let failed = group(connection, history, first, waiting, &mut answers).err();
    if let Some(error) = &failed {
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
    waiting: &mut dyn FnMut() -> Option<Job>,
    answers: &mut Vec<Answer>,
) -> Result<()> {
    // Without a transaction there is nothing to run in; dropping the job answers it.
    begin(connection, history)?;
    let mut weight = 0;
    let mut next = Some(first);
    while let Some(job) = next {
        weight += job.weight.max(1);
        // A savepoint copies every page that changes; the first job can do without.
        let alone = answers.is_empty();
        if !alone {
            execute(connection, "SAVEPOINT job")?;
        }
        let (went_well, answer) = (job.run)(connection, history);
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
        next = if weight < GROUP_WEIGHT { waiting() } else { None };
    }
    execute(connection, "COMMIT")?;
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

    async fn insert(writer: &Writer, n: i64) -> Result<()> {
        writer
            .run(1, move |tx| {
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
        writer.run(1, read).await.unwrap()
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
            .run(1, move |tx| {
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
        let holder = |tx: &mut SqliteTransaction<'_>| {
            tx.connection.execute("INSERT INTO t VALUES (4)", [])?;
            Ok(())
        };
        let (base, held) = (writer.commits(), locks(vec![realm("a")], vec![]));
        let ran = writer.run_if_unchanged(1, base, held, holder).await.unwrap();
        assert_eq!(ran, Some(()));
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
        let first = writer.run_once(1, move |_| {
            begun.recv().unwrap();
            Ok(())
        });
        let commits = Arc::clone(&writer.commits);
        let at = move || commits.load(Ordering::SeqCst);
        let small = insert(&writer, 1);
        let large = writer.run_once(GROUP_WEIGHT, move |_| Ok(at()));
        let waiting = async move { begin.send(()).unwrap() };
        let (first, small, seen, ()) = futures::join!(first, small, large, waiting);
        first.unwrap();
        small.unwrap();
        assert_eq!(seen.unwrap(), 1, "the commits before it");
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
        writer.run(1, setup).await.unwrap();
        let orphan = |tx: &mut SqliteTransaction<'_>| {
            tx.connection.execute("INSERT INTO child VALUES (1)", [])?;
            Ok(())
        };
        let (release, held) = std::sync::mpsc::channel();
        let hold = move |_: &mut SqliteTransaction<'_>| {
            held.recv().unwrap();
            Ok(())
        };
        let waiting = async move { release.send(()).unwrap() };
        let (first, one, other, ()) = futures::join!(
            writer.run_once(1, hold),
            insert(&writer, 1),
            writer.run(1, orphan),
            waiting
        );
        for failed in [first, one, other] {
            assert!(matches!(failed, Err(StoreError::Unavailable(_))), "{failed:?}");
        }
        assert!(rows(&writer).await.is_empty());
        insert(&writer, 2).await.unwrap();
    }
}
