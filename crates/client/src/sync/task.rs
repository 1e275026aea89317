//! The handle of the background work.

use tokio_util::sync::CancellationToken;

use crate::host::JoinHandle;

/// A running background task.
pub(crate) struct Background {
    pub(crate) task: JoinHandle<()>,
    pub(crate) stop: CancellationToken,
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
