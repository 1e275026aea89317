//! Tasks and timers of the machine: tokio's, or, in a browser, those of the page.

#[cfg(target_family = "wasm")]
mod page;
#[cfg(target_family = "wasm")]
pub(crate) use page::*;

#[cfg(not(target_family = "wasm"))]
mod machine {
    pub(crate) use fastrand::f64 as random;
    pub(crate) use tokio::runtime::Handle as Spawner;
    pub(crate) use tokio::spawn;
    pub(crate) use tokio::task::JoinHandle;
    pub(crate) use tokio::time::{Instant, sleep, sleep_until, timeout};
    pub(crate) use tokio_util::task::AbortOnDropHandle;

    /// Runs blocking work on a thread for it.
    pub(crate) async fn blocking<T: Send + 'static>(
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, String> {
        tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())
    }

    /// Returns what starts tasks here; `None` outside a tokio runtime.
    pub(crate) fn spawner() -> Option<Spawner> {
        Spawner::try_current().ok()
    }
}
#[cfg(not(target_family = "wasm"))]
pub(crate) use machine::*;
