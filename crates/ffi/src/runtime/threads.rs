//! Calls on threads of this crate.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use tokio::runtime::{Builder, Runtime};
use tokio_util::task::AbortOnDropHandle;

use crate::{Error, ErrorCode, Result};

/// The threads that run calls; disk work has threads of its own.
const WORKERS: usize = 2;

struct Threads {
    runtime: std::result::Result<Runtime, String>,
    /// The process that has the threads.
    process: u32,
}

static THREADS: OnceLock<Threads> = OnceLock::new();

fn runtime() -> Result<&'static Runtime> {
    let threads = THREADS.get_or_init(|| {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(WORKERS).thread_name("vfs-sync").enable_all();
        let runtime = builder.build().map_err(|error| error.to_string());
        Threads { runtime, process: std::process::id() }
    });
    if threads.process != std::process::id() {
        return Err(Error::invalid(
            "the process was forked after it had used a client: start it anew instead of forking \
             it, or use the first client after the fork",
        ));
    }
    let failed = |reason: &String| {
        Error::new(ErrorCode::Storage, format!("cannot start the threads of the client: {reason}"))
    };
    threads.runtime.as_ref().map_err(failed)
}

/// Returns true in a child that `fork` made of a process with clients. The threads are missing there,
/// and the open files are the parent's: a clean-up in the child would damage what the parent uses.
pub(crate) fn forked() -> bool {
    THREADS.get().is_some_and(|threads| threads.process != std::process::id())
}

/// Runs `work` on the caller's thread, within the runtime; a panic becomes an error.
pub(crate) fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let _within = runtime()?.enter();
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => done,
        Err(payload) => Err(Error::panicked(&*payload)),
    }
}

/// Runs `work` on the runtime's threads. Dropping the future aborts the work at its next await; a
/// panic becomes an error.
pub(crate) fn spawned<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> impl Future<Output = Result<T>> + Send + 'static {
    let task = runtime().map(|runtime| AbortOnDropHandle::new(runtime.spawn(work)));
    async move { joined(task?.await) }
}

/// A future that runs on the threads of this crate. Dropping it cancels the future at its next await.
#[derive(Debug)]
pub struct Task(#[allow(dead_code, reason = "held to be dropped")] AbortOnDropHandle<()>);

/// Runs a future on the threads of this crate, for a binding without an executor.
///
/// # Errors
/// [`ErrorCode::Storage`] if the system has no threads.
pub fn spawn(work: impl Future<Output = ()> + Send + 'static) -> Result<Task> {
    Ok(Task(AbortOnDropHandle::new(runtime()?.spawn(work))))
}

/// Runs `work` on the runtime's threads to its end.
pub(crate) fn detached(work: impl Future<Output = ()> + Send + 'static) -> Result<()> {
    drop(runtime()?.spawn(work));
    Ok(())
}

/// Runs blocking `work` on a thread for it. The work finishes even if the future is dropped.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    joined(tokio::task::spawn_blocking(work).await)
}

fn joined<T>(done: std::result::Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    match done {
        Ok(done) => done,
        Err(error) if error.is_panic() => Err(Error::panicked(&*error.into_panic())),
        Err(_) => Err(Error::cancelled()),
    }
}
