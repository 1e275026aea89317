//! Calls on the one thread of a page. Nothing blocks it: a replica in memory has no disk to wait for.
//! A panic ends the program, and the page with it.

use futures::FutureExt as _;
use futures::future::RemoteHandle;
use wasm_bindgen_futures::spawn_local;

use crate::Result;

/// Returns false: a page does not fork.
pub(crate) const fn forked() -> bool {
    false
}

/// Runs `work` at once.
pub(crate) fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    work()
}

/// Runs `work` as a task. Dropping the future ends the work at its next await.
pub(crate) fn spawned<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> impl Future<Output = Result<T>> + Send + 'static {
    let (task, done) = work.remote_handle();
    spawn_local(task);
    done
}

/// A future that runs as a task. Dropping it cancels the future at its next await.
#[derive(Debug)]
pub struct Task(#[allow(dead_code, reason = "held to be dropped")] RemoteHandle<()>);

/// Runs a future as a task.
///
/// # Errors
/// None.
pub fn spawn(work: impl Future<Output = ()> + Send + 'static) -> Result<Task> {
    let (task, done) = work.remote_handle();
    spawn_local(task);
    Ok(Task(done))
}

/// Runs `work` as a task to its end.
pub(crate) fn detached(work: impl Future<Output = ()> + Send + 'static) -> Result<()> {
    spawn_local(work);
    Ok(())
}

/// Runs `work`, which never blocks here.
pub(crate) async fn blocking<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    work()
}
