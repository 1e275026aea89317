//! Worker threads of an import: some read small files in advance, one commits while others read.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::Read as _;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Scope;

use tokio_util::sync::CancellationToken;
use vfs_sync_client::{Batch, SyncClient, TakenContent};
use vfs_sync_core::content::Sha256Digest;

use crate::disk::digest::digest_bytes;
use crate::disk::dir::{Folder, Stat};
use crate::disk::stable_reader::StableReader;
use crate::error::{Error, Result};
use crate::seam::{self, Operation};

/// The greatest size of a file that is read into memory as a whole.
pub(super) const SMALL: u64 = 512 * 1024;
/// The number of reading threads: while one waits for the disk, another hashes.
const READERS: usize = 4;
/// The number of files in progress; each may keep a descriptor open.
const AT_MOST: usize = 64;

/// The outcome of reading a file.
pub(super) enum Outcome {
    /// The file has known bytes with this digest.
    Same(Stat, Sha256Digest),
    Taken(Stat, TakenContent),
    /// The file changed or could not be read; it is read again in sequence.
    Unsettled,
}

struct Job {
    disk: Folder,
    name: OsString,
    known: Vec<Sha256Digest>,
    outcome: Sender<Outcome>,
}

/// Reads small files in advance; `T` is the caller's data for a file.
pub(super) struct Prefetch<'scope, T> {
    jobs: Sender<Job>,
    /// The replica of reads in place, without threads, under a simulator.
    inline: Option<(&'scope SyncClient, &'scope CancellationToken)>,
    asked: VecDeque<(T, Receiver<Outcome>)>,
}

impl<'scope, T> Prefetch<'scope, T> {
    pub(super) fn start(
        scope: &'scope Scope<'scope, '_>,
        client: &'scope SyncClient,
        stop: &'scope CancellationToken,
    ) -> Self {
        let (jobs, waiting) = mpsc::channel::<Job>();
        let waiting = Arc::new(Mutex::new(waiting));
        if seam::is_simulated() {
            return Self { jobs, inline: Some((client, stop)), asked: VecDeque::new() };
        }
        for _ in 0..READERS {
            let waiting = Arc::clone(&waiting);
            scope.spawn(move || {
                let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
                while let Ok(job) = next() {
                    // The receiver may have given up.
                    let _ = job.outcome.send(read(client, &job, stop));
                }
            });
        }
        Self { jobs, inline: None, asked: VecDeque::new() }
    }

    pub(super) fn is_full(&self) -> bool {
        self.asked.len() >= AT_MOST
    }

    /// Schedules a file, whose bytes may have one of the digests `known`.
    pub(super) fn ask(&mut self, file: T, disk: &Folder, name: OsString, known: Vec<Sha256Digest>) {
        let (outcome, answer) = mpsc::channel();
        let job = Job { disk: disk.clone(), name, known, outcome };
        if let Some((client, stop)) = self.inline {
            let _ = job.outcome.send(read(client, &job, stop));
        } else {
            // If no thread takes it, the outcome never arrives.
            let _ = self.jobs.send(job);
        }
        self.asked.push_back((file, answer));
    }

    /// Waits for the first scheduled file; `None` if none is left.
    pub(super) fn next(&mut self) -> Option<(T, Outcome)> {
        let (file, answer) = self.asked.pop_front()?;
        Some((file, answer.recv().unwrap_or(Outcome::Unsettled)))
    }
}

fn read(client: &SyncClient, job: &Job, stop: &CancellationToken) -> Outcome {
    let Ok(mut reader) = StableReader::open(&job.disk, &job.name, stop) else {
        return Outcome::Unsettled;
    };
    let stat = *reader.stat();
    if stat.size > SMALL {
        return Outcome::Unsettled;
    }
    let mut bytes = Vec::with_capacity(usize::try_from(stat.size).unwrap_or(0) + 1);
    let read = (&mut reader).take(SMALL + 1).read_to_end(&mut bytes);
    if read.is_err() || bytes.len() as u64 != stat.size {
        return Outcome::Unsettled;
    }
    if !job.known.is_empty() {
        let found = digest_bytes(&bytes);
        if job.known.contains(&found) {
            return Outcome::Same(stat, found);
        }
    }
    client.contents().take(&bytes).map_or(Outcome::Unsettled, |taken| Outcome::Taken(stat, taken))
}

/// Commits one batch after another on a thread of its own.
pub(super) struct Committer<'a> {
    batches: Sender<Batch<'a>>,
    outcomes: Receiver<Result<()>>,
    under_way: bool,
    /// True if batches are committed in place, under a simulator.
    inline: bool,
}

impl<'a> Committer<'a> {
    pub(super) fn start<'scope>(scope: &'scope Scope<'scope, '_>) -> Self
    where
        'a: 'scope,
    {
        let (batches, waiting) = mpsc::channel::<Batch<'a>>();
        let (done, outcomes) = mpsc::channel();
        if seam::is_simulated() {
            return Self { batches, outcomes, under_way: false, inline: true };
        }
        scope.spawn(move || {
            for batch in waiting {
                if done.send(batch.commit().map(drop).map_err(Error::from)).is_err() {
                    break;
                }
            }
        });
        Self { batches, outcomes, under_way: false, inline: false }
    }

    /// Starts to commit a batch after the previous one.
    pub(super) fn begin(&mut self, batch: Batch<'a>) -> Result<()> {
        if self.inline {
            seam::before(Operation::Commit).map_err(Error::io("cannot commit"))?;
            batch.commit()?;
            return Ok(());
        }
        self.wait()?;
        self.under_way = self.batches.send(batch).is_ok();
        if self.under_way { Ok(()) } else { Err(ended()) }
    }

    /// Waits until everything is committed.
    pub(super) fn wait(&mut self) -> Result<()> {
        match std::mem::take(&mut self.under_way) {
            true => self.outcomes.recv().unwrap_or_else(|_| Err(ended())),
            false => Ok(()),
        }
    }
}

fn ended() -> Error {
    Error::Ended("the committing thread has ended".to_owned())
}
