//! The runtime of asynchronous calls: threads of this crate, whatever executor polls a call; in a
//! browser, the one thread of the page.

#[cfg(target_family = "wasm")]
mod page;
#[cfg(not(target_family = "wasm"))]
mod threads;

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio_util::sync::CancellationToken;

use crate::{Error, Result};

#[cfg(target_family = "wasm")]
use page as here;
#[cfg(not(target_family = "wasm"))]
use threads as here;

pub use here::{Task, spawn};
pub(crate) use here::{blocking, detached, forked, guarded, spawned};

/// Takes a turn at a lock now, and not when the future is polled first: turns have the order of the
/// calls.
pub(crate) fn turn<T: Send + 'static>(
    lock: &Arc<Mutex<T>>,
) -> impl Future<Output = OwnedMutexGuard<T>> + Send + use<T> {
    let mut turn = Box::pin(Arc::clone(lock).lock_owned());
    let ready = match turn.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(guard) => Some(guard),
        Poll::Pending => None,
    };
    async move {
        match ready {
            Some(guard) => guard,
            None => turn.await,
        }
    }
}

/// A means to cancel calls: each call that got it fails with [`crate::ErrorCode::Cancelled`] at its next
/// await. Edits are never cancelled in their middle.
#[derive(Debug, Clone, Default)]
pub struct Cancellation(CancellationToken);

impl Cancellation {
    /// Creates a cancellation that is not used yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancels the calls that have it, now and later.
    pub fn cancel(&self) {
        self.0.cancel();
    }

    /// Runs `work` until it is done or cancelled.
    pub(crate) async fn over<T>(self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.0.cancelled() => Err(Error::cancelled()),
            done = work => done,
        }
    }
}
