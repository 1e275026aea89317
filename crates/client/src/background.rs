//! Synchronising in the background: at an interval, when poked, with back-off, and never past a
//! violation.

use std::sync::{Arc, Weak};

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::backoff::back_off;
use crate::client::{Inner, SyncClient, lock};
use crate::error::ClientError;
use crate::event::ChangeEvent;
use crate::sync::{pause_reason, stop_reason};

/// A running task.
pub(crate) struct Background {
    task: JoinHandle<()>,
    stop: CancellationToken,
}

impl Background {
    pub(crate) fn is_running(&self) -> bool {
        !self.task.is_finished()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl SyncClient {
    /// Starts synchronising in the background, at the configured interval and when poked. Clears
    /// the reason of an earlier stop. Does nothing if it is running. Ends with the last clone.
    ///
    /// # Errors
    /// [`ClientError::Storage`]. [`ClientError::Invalid`] outside a tokio runtime.
    pub fn start_background(&self) -> Result<(), ClientError> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| {
            ClientError::Invalid("background work needs a tokio runtime: start one first".into())
        })?;
        let mut background = lock(&self.inner.background);
        if background.as_ref().is_some_and(Background::is_running) {
            return Ok(());
        }
        self.store().set_stopped(None)?;
        *lock(&self.inner.paused) = None;
        let stop = CancellationToken::new();
        let work = work(Arc::downgrade(&self.inner), Arc::clone(&self.inner.poke), stop.clone());
        *background = Some(Background { task: runtime.spawn(work), stop });
        Ok(())
    }

    /// Synchronise soon: something changed. Does nothing without background work.
    pub fn poke(&self) {
        self.inner.poke.notify_one();
    }

    /// Ends background work and waits until it has.
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

/// Synchronises until it is stopped, the client is gone, or something is broken.
async fn work(client: Weak<Inner>, poke: Arc<Notify>, stop: CancellationToken) {
    let mut failures = 0;
    loop {
        let Some(inner) = client.upgrade() else { return };
        let client = SyncClient { inner };
        let synced = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            synced = client.sync() => synced,
        };
        let config = &client.inner.config;
        let (rest, may_poke) = match synced {
            Ok(_) => {
                failures = 0;
                if lock(&client.inner.paused).take().is_some() {
                    client.inner.emit([ChangeEvent::Resumed]);
                }
                match client.outstanding() {
                    Ok(left) if !left.is_empty() => {
                        client.inner.emit([ChangeEvent::Outstanding(left)]);
                    }
                    Ok(_) => {}
                    Err(error) => tracing::warn!(%error, "the queue cannot be read"),
                }
                (config.interval, true)
            }
            Err(error) => {
                if let Some(reason) = stop_reason(&error) {
                    client.inner.emit([ChangeEvent::Stopped(reason)]);
                    return;
                }
                failures += 1;
                if let Some(reason) = pause_reason(&error) {
                    let before = lock(&client.inner.paused).replace(reason.clone());
                    // A request id or a time in it is no other reason.
                    if before.is_none_or(|before| before.signature != reason.signature) {
                        client.inner.emit([ChangeEvent::Paused(reason)]);
                    }
                }
                tracing::warn!(%error, failures, "synchronising failed; it is tried again");
                (back_off(config, failures, error.retry_after()), false)
            }
        };
        // Not kept alive while it rests.
        drop(client);
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = poke.notified(), if may_poke => {}
            () = tokio::time::sleep(rest) => {}
        }
    }
}
