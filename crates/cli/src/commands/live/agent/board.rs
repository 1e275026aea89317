//! Publishes the state of the live folders for other commands.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::output::Output;
use crate::replica::LiveFolder;
use crate::replica::live_state::{self, FolderState, LiveState, Scanned, State};

/// The interval at which the progress of a step is published.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// The interval at which a state is published that differs only by when it was in step.
const SAME_EVERY: Duration = Duration::from_secs(60);

/// The publisher of the states.
pub(super) struct Board {
    replica: PathBuf,
    output: Output,
    inner: Mutex<Inner>,
}

struct Inner {
    folders: Vec<FolderState>,
    /// The state that was last written, and when.
    written: Option<(LiveState, Instant)>,
    /// The time of the last attempt to write.
    tried: Instant,
    /// True once a failure to write was reported.
    failed: bool,
}

impl Board {
    /// Creates a publisher that begins with the states of an earlier run; a file that cannot be
    /// read is replaced.
    pub(super) fn new(replica: PathBuf, output: Output) -> Self {
        let folders = match live_state::read(&replica) {
            Ok(state) => state.map(|state| state.folders).unwrap_or_default(),
            Err(_) => Vec::new(),
        };
        let inner = Inner { folders, written: None, tried: Instant::now(), failed: false };
        Self { replica, output, inner: Mutex::new(inner) }
    }

    fn with<T>(&self, f: impl FnOnce(&mut Inner) -> T) -> T {
        f(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the last published state of a folder, perhaps by an earlier run.
    pub(super) fn earlier(&self, live: &LiveFolder) -> Option<FolderState> {
        self.with(|inner| inner.folders.iter().find(|state| state.is_of(live)).cloned())
    }

    /// Publishes the states of all folders, if they have changed; with `ends` in any case.
    pub(super) fn publish(&self, folders: Vec<FolderState>, ends: bool) {
        self.with(|inner| {
            inner.folders = folders;
            self.write(inner, ends, true);
        });
    }

    /// Publishes the progress of the step that is under way, in the folder `live` or in all, once
    /// it takes a while.
    pub(super) fn progress(
        &self,
        live: Option<&LiveFolder>,
        began: Instant,
        bytes: u64,
        text: impl FnOnce() -> String,
    ) {
        self.with(|inner| {
            if inner.tried.elapsed() < PROGRESS_EVERY || began.elapsed() < PROGRESS_EVERY {
                return;
            }
            let text = text();
            let rate = u128::from(bytes) * 1_000 / began.elapsed().as_millis().max(1);
            let rate = u64::try_from(rate).ok().filter(|rate| *rate > 0);
            for folder in &mut inner.folders {
                if live.is_none_or(|live| folder.is_of(live)) {
                    folder.state = State::Working;
                    folder.reason = Some(text.clone());
                    folder.bytes_per_second = rate;
                }
            }
            self.write(inner, false, false);
        });
    }

    /// Publishes that a scan is done for which the user waits.
    pub(super) fn scanned(&self, live: &LiveFolder, scanned: &Scanned) {
        self.with(|inner| {
            for folder in inner.folders.iter_mut().filter(|folder| folder.is_of(live)) {
                folder.scanned = Some(scanned.clone());
            }
            self.write(inner, true, false);
        });
    }

    fn write(&self, inner: &mut Inner, ends: bool, durable: bool) {
        let state = LiveState::new(live_state::now(), inner.folders.clone());
        let same = inner.written.as_ref().filter(|(written, _)| state.is_same(written));
        if !ends && same.is_some_and(|(_, at)| at.elapsed() < SAME_EVERY) {
            return;
        }
        inner.tried = Instant::now();
        match state.write(&self.replica, durable) {
            Ok(()) => inner.written = Some((state, inner.tried)),
            Err(error) if !inner.failed => {
                inner.failed = true;
                self.output.note(format_args!("cannot write {}: {error}", live_state::FILE));
            }
            Err(_) => {}
        }
    }
}
