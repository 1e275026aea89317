//! Retention: removes rows whose retention has passed.

use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use vfs_sync_store::Pruned;

use crate::background::sampling::Task;
use crate::blobs::reclaim;
use crate::error::count_blob_error;
use crate::state::App;

/// Wakes the regular work, for an operator who does not want to wait.
#[derive(Default)]
pub(crate) struct Wake {
    pub(crate) sweep: Notify,
    pub(crate) prune: Notify,
}

/// Prunes at every interval until `stop` is cancelled.
pub(crate) async fn prune_regularly(app: App, stop: CancellationToken) {
    let mut ticks = ticks(app.config.prune_interval);
    while is_next(&mut ticks, &app.wake.prune, &stop).await {
        prune(&app, &stop).await;
    }
}

/// Returns the ticks of regular work: one at once, then one at every interval; a late tick delays
/// the next.
fn ticks(interval: Duration) -> Interval {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Waits for the next tick, or for `wake`; returns false once `stop` is cancelled.
async fn is_next(ticks: &mut Interval, wake: &Notify, stop: &CancellationToken) -> bool {
    tokio::select! {
        biased;
        () = stop.cancelled() => false,
        _ = ticks.tick() => true,
        () = wake.notified() => true,
    }
}

/// Removes expired rows, and the remains of unfinished writes in the object store.
pub(crate) async fn prune(app: &App, stop: &CancellationToken) {
    prune_all(app, stop).await;
    if let Err(error) = app.store.drop_ended_sessions(app.now()).await {
        tracing::warn!(%error, "ended sessions of the console were not removed, and will be later");
    }
    if let Err(error) = reclaim::sweep_temporary(app).await {
        count_blob_error(&error);
    }
}

/// Sweeps at every interval until `stop` is cancelled.
pub(crate) async fn sweep_regularly(app: App, stop: CancellationToken) {
    let mut ticks = ticks(app.config.sweep_interval);
    while is_next(&mut ticks, &app.wake.sweep, &stop).await {
        sweep(&app, &stop).await;
    }
}

/// Ends expired stages and removes unneeded bytes from the object store.
pub(crate) async fn sweep(app: &App, stop: &CancellationToken) {
    while !stop.is_cancelled() {
        match reclaim::sweep(app).await {
            Ok(0) => {
                app.successes.note(Task::Sweep);
                return;
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(code = error.code, "sweeping failed and will be retried");
                return;
            }
        }
    }
}

/// Prunes in small transactions until nothing is left to remove.
async fn prune_all(app: &App, stop: &CancellationToken) {
    while !stop.is_cancelled() {
        match app.store.prune(app.config.retention(app.now())).await {
            Ok(Pruned { removals: 0, accepted: 0 }) => {
                app.successes.note(Task::Prune);
                return;
            }
            Ok(Pruned { removals, accepted }) => {
                metrics::counter!("vfs_sync_pruned_total", "kind" => "removals")
                    .increment(removals);
                metrics::counter!("vfs_sync_pruned_total", "kind" => "accepted")
                    .increment(accepted);
                tracing::info!(removals, accepted, "pruned");
            }
            Err(error) => {
                tracing::warn!(%error, "pruning failed and will be retried at the next interval");
                return;
            }
        }
    }
}
