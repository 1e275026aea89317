//! Synchronisation: on demand, and in the background.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use vfs_sync_core::guardrail::Violation;
use vfs_sync_core::wire::StateResponse;

use crate::client::SyncClient;
use crate::error::{ClientError, Result};
use crate::event::SyncReport;
use crate::host;
use crate::lock::lock;
use crate::sync::task::Background;
use crate::sync::{Session, Work, background};
use crate::transport::TransportExt as _;

/// The outcome of an attempt to synchronise, for a diagnosis.
#[derive(Debug)]
pub struct Attempt {
    /// The failure in which the attempt ended.
    pub error: Option<ClientError>,
    /// The number of pages that were committed.
    pub pages: u64,
    /// The number of pushes whose results were committed.
    pub pushes: u64,
}

impl SyncClient {
    /// Pushes the queue, pulls until settled, reports what was applied, and uploads queued
    /// contents. A call that is cancelled at any point loses nothing; concurrent calls take turns.
    ///
    /// # Errors
    /// [`ClientError::Violation`] and [`ClientError::Transport`]; steps completed before stay done.
    pub async fn sync(&self) -> Result<SyncReport> {
        self.run(Work::All).await
    }

    /// Pushes only the queue.
    ///
    /// # Errors
    /// As [`Self::sync`].
    pub async fn flush(&self) -> Result<SyncReport> {
        self.run(Work::Flush).await
    }

    /// Pulls until settled, and reports the applied state to the server.
    ///
    /// # Errors
    /// As [`Self::sync`].
    pub async fn pull(&self) -> Result<SyncReport> {
        self.run(Work::Pull).await
    }

    /// Rebuilds the replica from the server's state, beside the present one, and swaps the two in
    /// one transaction. The queue, the rejected list and the clock stay.
    ///
    /// # Errors
    /// As [`Self::sync`]; then the replica is unchanged.
    pub async fn rematerialise(&self) -> Result<SyncReport> {
        self.run(Work::Rematerialise).await
    }

    /// Makes one attempt for a diagnosis: pushes the queue as it is, pulls until settled, and reports
    /// the applied state. Operations get no other numbers, the replica is not rebuilt, nothing is
    /// offered again, and no contents are sent. It tells what the attempt has committed: a failed one
    /// that committed nothing must leave the exported state as it was.
    pub async fn attempt(&self) -> Attempt {
        let mut session = Session::begin(&self.inner).await;
        let error = session.run(Work::Attempt).await.err();
        let (pages, pushes) = (session.committed.pages, session.committed.pushes);
        // What only this attempt does not do is no reason to stop.
        if !matches!(error, Some(ClientError::Invalid(_))) {
            if let Err(failed) = session.note_outcome(error.as_ref()).await {
                tracing::warn!(error = %failed, "the reason of a stop cannot be stored");
            }
            session.note_failing(error.as_ref()).await;
        }
        Attempt { error, pages, pushes }
    }

    /// Asks for the server's state of this client.
    ///
    /// # Errors
    /// [`ClientError::Transport`].
    pub async fn server_state(&self) -> Result<StateResponse> {
        Ok(self.inner.transport.state(&self.client_id()).await?)
    }

    async fn run(&self, work: Work) -> Result<SyncReport> {
        let mut session = Session::begin(&self.inner).await;
        session.describe().await;
        let mut done = session.run(work).await;
        let asked = |error: &ClientError| {
            matches!(error.violation(), Some(Violation::RematerializationRequired { .. }))
        };
        if self.inner.config.rematerialise && done.as_ref().is_err_and(asked) {
            done = session.run(Work::Rematerialise).await;
            if done.is_ok() && work == Work::All {
                done = session.run(work).await;
            }
        }
        match &done {
            Ok(()) => self.inner.reached(true),
            Err(ClientError::Transport(error)) if error.is_transient() => {
                self.inner.reached(false);
            }
            Err(_) => {}
        }
        if done.is_ok() && work == Work::All && session.report.waiting == 0 {
            let now = self.environment().now();
            self.inner.connected(|connection| connection.in_step_at = Some(now));
        }
        if done.is_ok() && work != Work::Flush {
            session.keep_export().await;
        }
        if done.is_err() || work == Work::All {
            session.note_failing(done.as_ref().err()).await;
        }
        // A successful push says nothing about the reason why a pull stopped.
        if done.is_err() || work != Work::Flush {
            session.note_outcome(done.as_ref().err()).await?;
        }
        session.send_reports(done.as_ref().err()).await;
        done.map(|()| session.report)
    }

    /// Starts synchronising in the background, at the configured interval and on request. It clears
    /// the reason of an earlier stop, and has no effect if background work is running. The work
    /// ends with the last clone.
    ///
    /// # Errors
    /// [`ClientError::Storage`]. [`ClientError::Invalid`] outside a tokio runtime.
    pub fn start_background(&self) -> Result<()> {
        let runtime = host::spawner().ok_or_else(|| {
            ClientError::Invalid("background work needs a tokio runtime: start one first".into())
        })?;
        let mut background = lock(&self.inner.background);
        if background.as_ref().is_some_and(Background::is_running) {
            return Ok(());
        }
        self.store().set_stopped(None)?;
        self.inner.description.set_stopped(None);
        *lock(&self.inner.paused) = None;
        let stop = CancellationToken::new();
        let work = background::work(
            Arc::downgrade(&self.inner),
            Arc::clone(&self.inner.sync_requested),
            stop.clone(),
        );
        *background = Some(Background { task: runtime.spawn(work), stop });
        Ok(())
    }

    /// Requests a sync soon, because something changed. It has no effect without background work.
    pub fn request_sync(&self) {
        self.inner.sync_requested.notify_one();
    }

    /// Stops background work and waits until it has ended.
    pub async fn stop_background(&self) {
        let background = lock(&self.inner.background).take();
        if let Some(mut background) = background {
            background.stop.cancel();
            // A task that panicked has ended too.
            let _ = (&mut background.task).await;
            *lock(&self.inner.paused) = None;
            // A transaction that it began is finished too.
            drop(self.inner.work.lock().await);
        }
    }
}
