//! The removal of deleted users, beside everything else that the server does.
//!
//! Every server process looks for steps that are due; a step is one bounded transaction, which no two
//! processes take at one time. After each the task rests for twice as long as the step took, so that it
//! takes at most a third of the database's time.

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use vfs_sync_core::server::deletion::{Deletion, DeletionPace, DeletionPhase};
use vfs_sync_store::StoreError;

use crate::background::maintenance;
use crate::config::{ServerConfig, millis};
use crate::state::App;

/// Rows that one step takes, about.
const AT_A_TIME: u32 = 200;
/// Deletions that are looked at together.
const TOGETHER: u32 = 10;
/// Milliseconds until a step that waits for the object store is taken again.
const RETRY_MILLIS: i64 = 2_000;

fn pace(config: &ServerConfig) -> DeletionPace {
    DeletionPace { settle_millis: millis(config.deletion_settle), retry_millis: RETRY_MILLIS }
}

/// Takes the steps that are due, again and again, until `stop` is cancelled.
pub(crate) async fn delete_regularly(app: App, stop: CancellationToken) {
    while !stop.is_cancelled() {
        if let Err(error) = delete_due(&app, &stop).await {
            tracing::warn!(%error, "a deletion of a user failed and will be retried");
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = app.deletions.notified() => {}
            () = tokio::time::sleep(app.config.deletion_interval) => {}
        }
    }
}

/// Takes the steps that are due, until none is.
async fn delete_due(app: &App, stop: &CancellationToken) -> Result<(), StoreError> {
    loop {
        let due = app.store.due_deletions(app.now(), TOGETHER).await?;
        if due.is_empty() {
            return Ok(());
        }
        for pseudonym in due {
            while let Some(deletion) = step(app, &pseudonym).await? {
                if stop.is_cancelled() {
                    return Ok(());
                }
                let waits = deletion.due_at > app.now();
                if waits && deletion.phase == DeletionPhase::Contents {
                    maintenance::sweep(app, stop).await;
                }
                if waits || deletion.is_done() {
                    break;
                }
            }
        }
    }
}

/// Takes one step, and rests.
async fn step(app: &App, pseudonym: &str) -> Result<Option<Deletion>, StoreError> {
    let begun = Instant::now();
    let step = app.store.deletion_step(pseudonym, app.now(), AT_A_TIME, pace(&app.config)).await?;
    if let Some(deletion) = step.as_ref().filter(|deletion| deletion.is_done()) {
        let counts = &deletion.counts;
        metrics::counter!("vfs_sync_users_deleted_total").increment(1);
        tracing::info!(
            target: "audit", event = "user_deleted", of = pseudonym, items = counts.items,
            contents = counts.contents, bytes = counts.bytes, rows = counts.rows
        );
    }
    tokio::time::sleep(begun.elapsed() * 2).await;
    Ok(step)
}
