//! The thread that owns the connection which writes.
//!
//! It commits in groups: whatever is waiting, up to a bound, goes into one transaction, since a
//! commit's cost is the disk's and not the rows'. Each job has a savepoint, so that one that fails
//! fails alone; nobody is answered before the commit.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::transaction::SqliteTransaction;
use crate::StoreError;

/// Jobs that may wait; who comes later waits for a place.
const QUEUE: usize = 256;
/// A group takes no further job once its jobs weigh this much together. A push weighs its
/// operations; this many take some 100 ms, a bound on what a small job waits behind a large group.
const GROUP_WEIGHT: usize = 4_000;

type Answer = Box<dyn FnOnce(Option<&StoreError>) + Send>;
/// Runs in the open transaction; tells whether it went well, and how to answer after the commit.
type Run = Box<dyn FnOnce(&Connection) -> (bool, Answer) + Send>;

struct Job {
    weight: usize,
    run: Run,
}

/// Sends jobs to the thread, which ends when this is dropped.
pub(super) struct Writer {
    queue: mpsc::Sender<Job>,
}

impl Writer {
    pub(super) fn start(connection: Connection) -> Result<Self, StoreError> {
        let (queue, jobs) = mpsc::channel(QUEUE);
        std::thread::Builder::new()
            .name("vfs-sync-writer".into())
            .spawn(move || work(&connection, jobs))
            .map_err(|error| StoreError::Unavailable(error.to_string()))?;
        Ok(Self { queue })
    }

    /// Runs `job` in a transaction; gives its answer once that is durable.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        weight: usize,
        job: impl FnOnce(&mut SqliteTransaction<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (sender, receiver) = oneshot::channel();
        let run: Run = Box::new(move |connection| {
            let run = AssertUnwindSafe(|| job(&mut SqliteTransaction::new(connection)));
            let result = catch_unwind(run).unwrap_or_else(|_| {
                Err(StoreError::Failed("a transaction broke off; the log says where".into()))
            });
            let went_well = result.is_ok();
            let answer: Answer = Box::new(move |failed| {
                // Whoever asked may be gone; what is done is done all the same.
                let _ = sender.send(match (result, failed) {
                    (Ok(_), Some(error)) => Err(StoreError::Unavailable(error.to_string())),
                    (result, _) => result,
                });
            });
            (went_well, answer)
        });
        let stopped = || StoreError::Unavailable("the writer has stopped".into());
        self.queue.send(Job { weight, run }).await.map_err(|_| stopped())?;
        receiver.await.map_err(|_| stopped())?
    }
}

fn work(connection: &Connection, mut jobs: mpsc::Receiver<Job>) {
    while let Some(first) = jobs.blocking_recv() {
        let mut answers = Vec::new();
        let failed = group(connection, first, &mut jobs, &mut answers).err();
        if let Some(error) = &failed {
            tracing::error!(%error, "a group of transactions failed");
            if !connection.is_autocommit() {
                let _ = connection.execute_batch("ROLLBACK");
            }
        }
        for answer in answers {
            answer(failed.as_ref());
        }
    }
}

/// Runs `first` and what else is waiting in one transaction; on an error nothing of it happened.
fn group(
    connection: &Connection,
    first: Job,
    jobs: &mut mpsc::Receiver<Job>,
    answers: &mut Vec<Answer>,
) -> Result<(), StoreError> {
    // Without a transaction there is nothing to run in; dropping the job answers it.
    execute(connection, "BEGIN IMMEDIATE")?;
    let mut weight = 0;
    let mut next = Some(first);
    while let Some(job) = next {
        weight += job.weight.max(1);
        execute(connection, "SAVEPOINT job")?;
        let (went_well, answer) = (job.run)(connection);
        answers.push(answer);
        if connection.is_autocommit() {
            let lost = "SQLite rolled the whole transaction back";
            return Err(StoreError::Unavailable(lost.into()));
        }
        if !went_well {
            execute(connection, "ROLLBACK TO job")?;
        }
        execute(connection, "RELEASE job")?;
        next = if weight < GROUP_WEIGHT { jobs.try_recv().ok() } else { None };
    }
    execute(connection, "COMMIT")
}

fn execute(connection: &Connection, sql: &str) -> Result<(), StoreError> {
    connection.prepare_cached(sql)?.execute([])?;
    Ok(())
}
