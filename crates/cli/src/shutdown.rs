//! Handles Ctrl-C and SIGTERM: the first one finishes the work in progress, the second one exits at
//! once. Both are safe.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::error::{Failure, Kind, Result};
use crate::output::Output;

/// Returns a token that the first signal cancels.
pub(crate) fn on_signals(output: Output) -> Result<CancellationToken> {
    let stop = CancellationToken::new();
    let signalled = stop.clone();
    let listen = |kind| signal(kind).map_err(Failure::io("cannot wait for signals"));
    let mut interrupts = listen(SignalKind::interrupt())?;
    let mut terminations = listen(SignalKind::terminate())?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupts.recv() => {}
                _ = terminations.recv() => {}
            }
            if signalled.is_cancelled() {
                std::process::exit(i32::from(Kind::Interrupted.exit_code()));
            }
            signalled.cancel();
            output.note("stopping: finishing the work in progress; press again to exit at once");
        }
    });
    Ok(stop)
}

/// Waits for `work`, or fails as soon as the user stops the command.
pub(crate) async fn unless_stopped<T, E>(
    stop: &CancellationToken,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T>
where
    Failure: From<E>,
{
    match stop.run_until_cancelled(work).await {
        Some(done) => done.map_err(Failure::from),
        None => Err(interrupted()),
    }
}

/// Returns the failure of a command that the user stopped.
pub(crate) fn interrupted() -> Failure {
    Failure::new(Kind::Interrupted, "interrupted; completed work is kept")
        .hint("the same command resumes from there")
}
