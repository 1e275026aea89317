//! The locks of past commits, by which a transaction that was decided on a reader's snapshot finds
//! out whether the decision still holds on the present state.
//!
//! There is one writer, so nothing is really locked; but every transaction names the locks that it
//! would take ([`crate::topics::Locks`]), and these cover everything that its decision reads. If no
//! transaction with any of these locks has committed since the snapshot, then holding the locks
//! from the snapshot to the commit would have changed nothing.
//!
//! A commit also fails if somebody removed or replaced the database's files: [`Files`] detects
//! that.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::Connection;
use vfs_sync_core::access::Principal;
use vfs_sync_core::id::{ReplicaId, UserId};

use crate::error::{Result, StoreError};
use crate::moves::{MovedHead, Observers};

/// The number of locks that are remembered; beyond it, all count as just held.
const REMEMBERED: usize = 10_000;

/// A subject that a transaction locks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Lock {
    Replica(UserId, ReplicaId),
    Group(Principal),
    Realm(UserId),
    Head(UserId),
}

/// The locks of a transaction.
#[derive(Debug, Default)]
pub(super) struct Locks {
    /// The exclusive locks of the transaction.
    pub(super) own: Vec<Lock>,
    /// Locks that are shared with other readers.
    pub(super) shared: Vec<Lock>,
    /// True if the transaction changes rows that others decide by, without a lock.
    pub(super) everything: bool,
}

/// The locks that a large transaction keeps for itself while it is decided. Other transactions that
/// take one of them wait.
#[derive(Debug, Default)]
pub(super) struct Reserved {
    own: HashSet<Lock>,
    shared: HashSet<Lock>,
}

impl Reserved {
    pub(super) fn add(&mut self, locks: &Locks) {
        self.own.extend(locks.own.iter().cloned());
        self.shared.extend(locks.shared.iter().cloned());
    }

    /// Returns whether a transaction with `locks` waits. One that locks everything does not: it is
    /// rare, and short.
    pub(super) fn holds_up(&self, locks: &Locks) -> bool {
        locks.own.iter().any(|lock| self.own.contains(lock) || self.shared.contains(lock))
            || locks.shared.iter().any(|lock| self.own.contains(lock))
    }
}

/// The number of transactions that a store has committed.
pub(super) type Commits = Arc<AtomicU64>;

/// The commit that last held each lock; it belongs to the writer.
#[derive(Debug, Default)]
pub(super) struct History {
    commits: Commits,
    last: HashMap<Lock, u64>,
    /// The commit by which every lock counts as held.
    floor: u64,
    /// SQLite's `data_version`, which changes when another connection commits.
    data_version: Option<i64>,
    files: Option<Arc<Files>>,
    observers: Arc<Observers>,
    /// The feed heads that the next commit moves.
    moved: Vec<MovedHead>,
}

impl History {
    pub(super) fn new(
        commits: Commits,
        files: Option<Arc<Files>>,
        observers: Arc<Observers>,
    ) -> Self {
        Self { commits, files, observers, ..Self::default() }
    }

    /// Checks that the files of this database are still those at their paths, which the next start
    /// opens.
    pub(super) fn check_files(&self) -> Result<()> {
        self.files.as_ref().map_or(Ok(()), |files| files.check())
    }

    /// Returns the number of the next commit.
    fn next(&self) -> u64 {
        self.commits.load(Ordering::SeqCst) + 1
    }

    /// Begins the bookkeeping of a write transaction. If another process has committed, every lock
    /// counts as held.
    pub(super) fn begin(&mut self, connection: &Connection) -> Result<()> {
        let mut select = connection.prepare_cached("PRAGMA data_version")?;
        let version: i64 = select.query_row([], |row| row.get(0))?;
        if self.data_version.replace(version) != Some(version) {
            self.forget();
        }
        Ok(())
    }

    /// Makes every lock count as held by the next commit.
    fn forget(&mut self) {
        self.last.clear();
        self.floor = self.next();
    }

    /// Records `locks` as held by the next commit.
    pub(super) fn note(&mut self, locks: Locks) {
        if locks.everything || self.last.len() + locks.own.len() > REMEMBERED {
            return self.forget();
        }
        let next = self.next();
        self.last.extend(locks.own.into_iter().map(|lock| (lock, next)));
    }

    /// Returns whether any of `locks` was held by a commit after number `base`.
    pub(super) fn held_since(&self, base: u64, locks: &Locks) -> bool {
        let held = |lock| self.last.get(lock).is_some_and(|last| *last > base);
        self.floor > base || locks.own.iter().chain(&locks.shared).any(held)
    }

    /// Records the feed heads that the next commit moves.
    pub(super) fn note_moved(&mut self, moved: Vec<MovedHead>) {
        if !self.observers.is_empty() {
            self.moved.extend(moved);
        }
    }

    /// Counts one more commit.
    pub(super) fn committed(&mut self) {
        self.commits.fetch_add(1, Ordering::SeqCst);
    }

    /// Ends a group: reports the heads that it moved if it was committed, else forgets them.
    pub(super) fn ended(&mut self, committed: bool) {
        let moved = std::mem::take(&mut self.moved);
        if committed {
            self.observers.moved(&moved);
        }
    }
}

/// The files of an open database. SQLite keeps writing to files that were removed or replaced;
/// those writes are lost when the process ends.
#[derive(Debug)]
pub(super) struct Files {
    path: PathBuf,
    files: Vec<(PathBuf, Option<Mark>)>,
}

/// The identity of a file, which differs from that of any other file at its path.
type Mark = (u64, u64);

#[cfg(unix)]
fn mark(path: &Path) -> io::Result<Mark> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

#[cfg(not(unix))]
fn mark(path: &Path) -> io::Result<Mark> {
    std::fs::metadata(path).map(|_| (0, 0))
}

impl Files {
    /// Takes the files of the database that was just opened at `path` and has written its log.
    pub(super) fn of(path: &Path) -> Self {
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        let found = [path.to_owned(), log.into()];
        let marked = |file: PathBuf| {
            let mark = mark(&file).ok();
            (file, mark)
        };
        Self { path: path.to_owned(), files: found.into_iter().map(marked).collect() }
    }

    /// Checks that every file is still at its path.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if one of them is not.
    pub(super) fn check(&self) -> Result<()> {
        for (file, expected) in &self.files {
            let Some(expected) = expected else { continue };
            let what = match mark(file) {
                Ok(found) if found == *expected => continue,
                Ok(_) => "was replaced by another file",
                Err(error) if error.kind() == io::ErrorKind::NotFound => "was removed",
                Err(error) => {
                    let text = format!("cannot look at {}: {error}", file.display());
                    return Err(StoreError::Unavailable(text));
                }
            };
            return Err(StoreError::Unavailable(format!(
                "{} {what} while this server has {} open: nothing is read or written any more; \
                 stop the server, see to it that the right database is there, start it again",
                file.display(),
                self.path.display(),
            )));
        }
        Ok(())
    }
}
