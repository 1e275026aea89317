//! Synchronising in the background.

use tokio::task::JoinHandle;

/// A running task.
pub(crate) struct Background {
    task: JoinHandle<()>,
}

impl Background {
    pub(crate) fn is_running(&self) -> bool {
        !self.task.is_finished()
    }
}

impl crate::SyncClient {
    /// Synchronise soon: something changed. Does nothing without background work.
    pub fn poke(&self) {
        self.inner.poke.notify_one();
    }
}
