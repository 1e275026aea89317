//! Tasks and timers of a page, with the names that tokio gives its own.

use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{AbortHandle, Abortable, Either, select};
use gloo_timers::future::TimeoutFuture;
use send_wrapper::SendWrapper;
use tokio::sync::oneshot;
pub(crate) use web_time::Instant;

/// The longest timer of a page, in milliseconds.
const LONGEST_MILLIS: u32 = i32::MAX as u32;

/// Returns a random number from 0 to 1: the last bits of an id are random.
pub(crate) fn random() -> f64 {
    let (_, bits) = uuid::Uuid::now_v7().as_u64_pair();
    f64::from(bits as u32) / f64::from(u32::MAX)
}

/// Waits for a time.
pub(crate) fn sleep(time: Duration) -> impl Future<Output = ()> + Send + Unpin {
    // A timer may fire within the millisecond before its time.
    let millis = u32::try_from(time.as_micros().div_ceil(1_000)).unwrap_or(LONGEST_MILLIS);
    SendWrapper::new(TimeoutFuture::new(millis.min(LONGEST_MILLIS)))
}

/// Waits until a time.
pub(crate) fn sleep_until(time: Instant) -> impl Future<Output = ()> + Send + Unpin {
    sleep(time.saturating_duration_since(Instant::now()))
}

/// A time that has passed.
#[derive(Debug)]
pub(crate) struct Elapsed;

/// Waits for `work`, but no longer than `time`.
pub(crate) async fn timeout<T>(
    time: Duration,
    work: impl Future<Output = T>,
) -> Result<T, Elapsed> {
    match select(std::pin::pin!(work), sleep(time)).await {
        Either::Left((done, _)) => Ok(done),
        Either::Right(_) => Err(Elapsed),
    }
}

/// A handle of a task, which runs on if the handle is dropped.
#[derive(Debug)]
pub(crate) struct JoinHandle<T> {
    done: oneshot::Receiver<T>,
    abort: AbortHandle,
    running: Weak<()>,
}

impl<T> JoinHandle<T> {
    pub(crate) fn abort(&self) {
        self.abort.abort();
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.running.strong_count() == 0
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, oneshot::error::RecvError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.done.poll_unpin(context)
    }
}

/// A task that ends with its handle.
#[derive(Debug)]
pub(crate) struct AbortOnDropHandle<T>(JoinHandle<T>);

impl<T> AbortOnDropHandle<T> {
    pub(crate) fn new(task: JoinHandle<T>) -> Self {
        Self(task)
    }
}

impl<T> Future for AbortOnDropHandle<T> {
    type Output = Result<T, oneshot::error::RecvError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll_unpin(context)
    }
}

impl<T> Drop for AbortOnDropHandle<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Starts a task on the page's thread.
pub(crate) fn spawn<T: 'static>(work: impl Future<Output = T> + 'static) -> JoinHandle<T> {
    let (sender, done) = oneshot::channel();
    let (abort, registration) = AbortHandle::new_pair();
    let held = Arc::new(());
    let running = Arc::downgrade(&held);
    let work = async move {
        // Nobody may wait for it any more.
        drop(sender.send(work.await));
        drop(held);
    };
    wasm_bindgen_futures::spawn_local(Abortable::new(work, registration).map(drop));
    JoinHandle { done, abort, running }
}

/// Runs work that never blocks on the page's one thread.
#[allow(clippy::unused_async, reason = "as outside a browser")]
pub(crate) async fn blocking<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    Ok(work())
}

/// Starts tasks on the page's thread.
pub(crate) struct Spawner;

impl Spawner {
    pub(crate) fn spawn<T: 'static>(
        &self,
        work: impl Future<Output = T> + 'static,
    ) -> JoinHandle<T> {
        spawn(work)
    }
}

/// Returns what starts tasks here.
#[allow(clippy::unnecessary_wraps, reason = "as outside a browser")]
pub(crate) fn spawner() -> Option<Spawner> {
    Some(Spawner)
}
