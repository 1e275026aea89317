//! Shares a replica between `up`, which runs all the time, and commands that need it for a moment.
//!
//! One process at a time has a replica open. A command that finds `up` in its way holds a shared
//! lock on a file until it has the replica. `up` looks for that lock, ends its step, closes the
//! replica, and opens it again when nobody waits any more.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use vfs_sync_client::ClientError;

use crate::error::Failure;

/// The file that `up` holds locked as long as it runs.
const RUNNING: &str = "up.lock";
/// The file that waiting commands hold locked together.
const WANTED: &str = "wanted.lock";

/// The greatest time that a command waits for `up`: a step may have to end a transaction first.
const PATIENCE: Duration = Duration::from_secs(60);
/// The greatest time for which a look whether `up` runs holds its lock.
const LOOK_AT_MOST: Duration = Duration::from_millis(500);
/// The interval at which a waiting command tries again.
const TRY_EVERY: Duration = Duration::from_millis(20);

/// The mark that `up` runs on a replica, until it is dropped.
#[derive(Debug)]
pub(crate) struct Running(#[expect(dead_code, reason = "the lock ends with the file")] File);

/// Marks that `up` runs on the replica in `directory`; `None` if another one does. A command that only
/// looks has the lock for a moment: that is waited out.
pub(crate) fn begin(directory: &Path) -> io::Result<Option<Running>> {
    let file = lock_file(directory, RUNNING)?;
    let until = Instant::now() + LOOK_AT_MOST;
    loop {
        match is_free(file.try_lock())? {
            true => return Ok(Some(Running(file))),
            false if Instant::now() >= until => return Ok(None),
            false => std::thread::sleep(TRY_EVERY),
        }
    }
}

/// Returns whether `up` runs on the replica in `directory`.
pub(crate) fn is_running(directory: &Path) -> bool {
    // Where no `up` ever ran there is no file, and a look makes none.
    let tried =
        File::open(directory.join(RUNNING)).and_then(|file| is_free(file.try_lock_shared()));
    matches!(tried, Ok(false))
}

/// Returns whether a command waits for the replica in `directory`.
pub(crate) fn is_wanted(directory: &Path) -> bool {
    let tried = lock_file(directory, WANTED).and_then(|file| is_free(file.try_lock()));
    matches!(tried, Ok(false))
}

/// Opens a replica with `open`. If `up` has it open, asks for it and waits.
pub(crate) fn open<T>(
    directory: &Path,
    open: impl Fn() -> Result<T, ClientError>,
) -> crate::error::Result<T> {
    let first = open();
    if !matches!(first, Err(ClientError::InUse(_))) || !is_running(directory) {
        return Ok(first?);
    }
    let wanted = lock_file(directory, WANTED).and_then(|file| file.lock_shared().map(|()| file));
    let what = format!("cannot lock {}", directory.join(WANTED).display());
    let _wanted = wanted.map_err(Failure::io(what))?;
    let until = Instant::now() + PATIENCE;
    loop {
        let opened = open();
        if !matches!(opened, Err(ClientError::InUse(_))) || Instant::now() >= until {
            return Ok(opened?);
        }
        std::thread::sleep(TRY_EVERY);
    }
}

fn lock_file(directory: &Path, name: &str) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true);
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(directory.join(name))
}

fn is_free(tried: Result<(), TryLockError>) -> io::Result<bool> {
    match tried {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn in_use() -> ClientError {
        ClientError::InUse("here".to_owned())
    }

    #[test]
    fn a_second_up_is_refused_until_the_first_ends() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!is_running(dir.path()));
        let running = begin(dir.path()).unwrap().unwrap();
        assert!(begin(dir.path()).unwrap().is_none());
        assert!(is_running(dir.path()));
        drop(running);
        assert!(begin(dir.path()).unwrap().is_some());
    }

    #[test]
    fn a_command_that_looks_keeps_up_from_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    let looks = lock_file(dir.path(), RUNNING).unwrap();
                    looks.try_lock_shared().ok();
                    std::thread::yield_now();
                }
            });
            let began = (0..100).all(|_| begin(dir.path()).unwrap().is_some());
            done.store(true, Ordering::SeqCst);
            assert!(began);
        });
    }

    #[test]
    fn without_up_a_replica_in_use_is_reported_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let opened = open::<()>(dir.path(), || Err(in_use()));
        assert_eq!(opened.unwrap_err(), Failure::from(in_use()));
        assert!(!is_wanted(dir.path()));
    }

    #[test]
    fn a_command_asks_up_for_the_replica_until_it_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let _running = begin(dir.path()).unwrap().unwrap();
        let given = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let opened = scope.spawn(|| {
                open(
                    dir.path(),
                    || if given.load(Ordering::SeqCst) { Ok(()) } else { Err(in_use()) },
                )
            });
            while !is_wanted(dir.path()) {
                std::thread::yield_now();
            }
            given.store(true, Ordering::SeqCst);
            opened.join().unwrap().unwrap();
        });
        assert!(!is_wanted(dir.path()), "it has what it wanted");
    }
}
