//! A call's exclusive turn to communicate with the server.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;
use vfs_sync_core::id::ItemId;
use vfs_sync_core::wire::telemetry::Report;

use super::outcome::stop_reason;
use crate::client::Inner;
use crate::error::{ClientError, Failing, Result};
use crate::event::{Progress, SyncReport};
use crate::lock::lock;
use crate::replica::exports;
use crate::replica::{Meta, ReplicaStore};

/// A call's exclusive turn to communicate with the server.
pub(crate) struct Session {
    pub(crate) inner: Arc<Inner>,
    /// The lock of the turn, shared with running transactions, so that none of a cancelled call
    /// still runs when the next call gets its turn.
    turn: Arc<OwnedMutexGuard<()>>,
    pub(crate) report: SyncReport,
    pub(crate) committed: Committed,
    /// True if operations may get other write ids.
    pub(crate) renumbers: bool,
    /// Items with a content that the server cannot take at present: each is tried once in a sync.
    pub(crate) waiting: HashSet<ItemId>,
    /// The items that the server did not know when their contents came.
    pub(crate) unknown: HashSet<ItemId>,
}

/// The greatest length of the text that is stored of a failure.
const MAX_FAILING_CHARS: usize = 1_000;

/// The transactions that a session has committed.
#[derive(Clone, Copy, Default)]
pub(crate) struct Committed {
    pub(crate) pages: u64,
    pub(crate) pushes: u64,
}

/// The part of a sync to run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    All,
    Flush,
    Pull,
    Rematerialise,
    /// A push, a pull and a reconcile, without any repair.
    Attempt,
}

impl Session {
    pub(crate) async fn begin(inner: &Arc<Inner>) -> Self {
        let turn = Arc::new(Arc::clone(&inner.work).lock_owned().await);
        let inner = Arc::clone(inner);
        {
            let mut progress = lock(&inner.progress);
            *progress = Progress {
                downloaded: progress.downloaded,
                to_download: progress.to_download,
                downloaded_bytes: progress.downloaded_bytes,
                to_download_bytes: progress.to_download_bytes,
                ..Progress::default()
            };
        }
        let (report, committed) = (SyncReport::default(), Committed::default());
        let (waiting, unknown) = (HashSet::new(), HashSet::new());
        Self { inner, turn, report, committed, renumbers: true, waiting, unknown }
    }

    /// Runs `work`, and emits the violation in which it ends, if there is one.
    pub(crate) async fn run(&mut self, work: Work) -> Result<()> {
        let done = self.work(work).await;
        if let Err(ClientError::Violation(violation)) = &done {
            self.note_violation(violation).await;
        }
        done.map_err(|error| self.inner.emitted(error))
    }

    async fn work(&mut self, work: Work) -> Result<()> {
        match work {
            Work::Flush => self.flush().await,
            Work::Pull => self.pull_and_reconcile().await,
            Work::Rematerialise => self.rematerialise().await,
            Work::Attempt => {
                self.renumbers = false;
                self.flush().await?;
                self.pull_and_reconcile().await
            }
            Work::All => {
                match self.flush().await {
                    // A queue that cannot be pushed at present holds up neither the changes of others
                    // nor the contents of items that the server has.
                    Err(ClientError::Transport(error)) if error.waits() => {
                        self.pull_and_reconcile().await?;
                        self.upload_contents().await?;
                        return Err(error.into());
                    }
                    flushed => flushed?,
                }
                let epoch = self.meta().await?.epoch;
                self.pull_and_reconcile().await?;
                let pushes = self.report.pushes;
                if self.meta().await?.epoch != epoch {
                    // Operations that another epoch acknowledged are queued again.
                    self.flush().await?;
                }
                if self.report.pushes > pushes {
                    self.pull_and_reconcile().await?;
                }
                while self.upload_contents().await? {
                    // Conflicted copies are new operations; attached contents arrive by the feed.
                    self.flush().await?;
                    self.pull_and_reconcile().await?;
                }
                let inner = Arc::clone(&self.inner);
                self.inner.environment().blocking(move || inner.trim_cache()).await
            }
        }
    }

    /// Notes how much waits to be sent, for the server's list of devices.
    pub(crate) async fn describe(&self) {
        if let Ok(counts) = self.store(|_, store| store.counts()).await {
            self.inner.description.set_queue(counts.pending + counts.uploads);
        }
    }

    /// Runs a transaction on a blocking thread. It finishes even if its caller is cancelled.
    pub(crate) async fn store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner, &mut ReplicaStore) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (inner, turn) = (Arc::clone(&self.inner), Arc::clone(&self.turn));
        let done = self.inner.environment().blocking(move || {
            let _turn = turn;
            let mut store = lock(&inner.store);
            work(&inner, &mut store)
        });
        done.await
    }

    pub(crate) async fn meta(&self) -> Result<Meta> {
        self.store(|_, store| Ok(store.meta().clone())).await
    }

    pub(crate) async fn pull_and_reconcile(&mut self) -> Result<()> {
        self.describe().await;
        self.pull().await?;
        self.reconcile(false).await
    }

    /// Keeps the state after a settled pull as a good export, at most once a day. Its failure changes
    /// nothing.
    pub(crate) async fn keep_export(&self) {
        if self.inner.config.vfs.is_some() {
            return;
        }
        let Some(dir) = self.inner.cache.replica_dir().map(Path::to_owned) else { return };
        let now = self.inner.environment().now();
        let place = dir.clone();
        let state = self.store(move |_, store| {
            let due = exports::is_due(&place, store.meta().items, now);
            due.then(|| store.export()).transpose()
        });
        // Not within the transaction: edits need not wait for the disk.
        let kept = async {
            let Some(state) = state.await? else { return Ok(()) };
            let failed = ClientError::io("cannot keep an export");
            let keep = move || exports::keep(&dir, state, now).map_err(failed);
            self.inner.environment().blocking(keep).await
        };
        if let Err(error) = kept.await {
            tracing::warn!(%error, "no good export of the state was kept");
        }
    }

    /// Stores for a later diagnosis that synchronising fails, or that it succeeded again. It writes
    /// only if another reason is stored, and its own failure changes nothing.
    pub(crate) async fn note_failing(&self, error: Option<&ClientError>) {
        let now = self.inner.environment().now();
        let failure = error.map(|error| {
            let message = error.to_string().chars().take(MAX_FAILING_CHARS).collect();
            Failing { key: error.key(), message, since: now, at: now }
        });
        let noted = self.store(move |_, store| {
            let before = store.meta().failing.as_deref();
            if before.map(|before| &before.key) == failure.as_ref().map(|failure| &failure.key) {
                return Ok(());
            }
            let since = before.map_or(now, |before| before.since);
            store.set_failing(failure.map(|failure| Failing { since, ..failure }))
        });
        if let Err(error) = noted.await {
            tracing::debug!(%error, "the reason of a failure cannot be stored");
        }
    }

    /// Stores the reason why synchronisation stopped, or clears it after a success. A network
    /// failure changes nothing.
    pub(crate) async fn note_outcome(&self, error: Option<&ClientError>) -> Result<()> {
        let reason = match error {
            None => None,
            Some(error) => match stop_reason(error) {
                Some(reason) => Some(reason),
                None => return Ok(()),
            },
        };
        self.inner.description.set_stopped(reason.as_ref().map(|one| one.signature.clone()));
        let stops = reason.as_ref().filter(|_| self.inner.config.report);
        // A violation has its own report.
        let stops = stops.filter(|_| error.is_some_and(|error| error.violation().is_none()));
        let here = self.inner.environment();
        let report =
            stops.map(|reason| Report::of_stop(here.new_op_id(), &reason.signature, here.now()));
        self.store(move |_, store| {
            let same = store.meta().stopped.as_deref() == reason.as_ref();
            if same {
                return Ok(());
            }
            if let Some(report) = report {
                store.note_report(report)?;
            }
            store.set_stopped(reason)
        })
        .await
    }
}
