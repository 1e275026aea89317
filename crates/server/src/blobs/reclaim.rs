//! Removal of unneeded bytes from the object store.

use std::time::Duration;

use futures::TryStreamExt as _;
use vfs_sync_blobs::BlobError;
use vfs_sync_core::id::BlobId;
use vfs_sync_store::Reclaim;

use crate::config::millis;
use crate::environment::{Environment as _, SystemEnvironment};
use crate::error::ApiError;
use crate::state::App;

/// The time after which no interrupted write can still arrive: the sweeper then removes the objects
/// once more.
const STRAGGLERS: Duration = Duration::from_secs(15 * 60);

/// Removes the objects that the registry lists for removal, and records each removal.
pub(crate) async fn carry_out(app: &App, reclaim: &Reclaim) -> Result<(), ApiError> {
    // Anything written after this time is left for another check.
    let now = app.now();
    if let Some(upload) = &reclaim.upload {
        app.blobs.abort(&reclaim.blob_id, upload).await?;
    }
    if reclaim.bytes {
        app.blobs.delete(&reclaim.blob_id).await?;
    }
    let again = app.now().plus_millis(millis(STRAGGLERS));
    Ok(app.store.reclaimed(reclaim, now, again).await?)
}

/// Removes a blob whose bytes are marked for deletion.
pub(crate) async fn now(app: &App, blob_id: &BlobId) -> Result<(), ApiError> {
    match app.store.reclaim_of(blob_id, app.now()).await? {
        Some(reclaim) => carry_out(app, &reclaim).await,
        None => Ok(()),
    }
}

/// Removes the remains of the upload that created a blob; the sweeper retries failures.
pub(crate) async fn leftovers(app: &App, blob_id: &BlobId) {
    let done = async {
        let found = app.store.reclaim_of(blob_id, app.now()).await?;
        if let Some(reclaim) = found.filter(|reclaim| !reclaim.bytes) {
            carry_out(app, &reclaim).await?;
        }
        Ok::<_, ApiError>(())
    };
    if let Err(error) = done.await {
        tracing::warn!(
            code = error.code,
            "the rest of an upload was not removed; the sweeper will remove it"
        );
    }
}

/// The number of stages, versions and blobs that one query returns; the sweeper repeats it until
/// none are left.
const AT_A_TIME: u32 = 200;

/// Runs one round of the sweeper: expired stages, old versions, deleted items, and unneeded bytes.
/// Returns their number.
pub(crate) async fn sweep(app: &App) -> Result<u64, ApiError> {
    let mut swept = 0;
    let now = app.now();
    let expired = app.store.expired_stages(now, AT_A_TIME).await?;
    for (user, staging_id) in &expired {
        app.store.abandon(user, staging_id, now).await?;
    }
    count("stages", expired.len());
    let before = now.plus_millis(-millis(app.config.keep_versions));
    let surplus = app.store.surplus_versions(before, AT_A_TIME).await?;
    for (ref_id, blob_id) in &surplus {
        app.store.remove_version(ref_id, blob_id, now).await?;
    }
    count("versions", surplus.len());
    let due = now.plus_millis(-millis(app.config.keep_deleted));
    let forgotten = now.plus_millis(-millis(app.config.keep_replicas));
    let purged = app.store.purge_step(due, forgotten, now, AT_A_TIME).await?;
    count("purged", usize::try_from(purged).unwrap_or(0));
    let reclaims = app.store.to_reclaim(now, AT_A_TIME).await?;
    for reclaim in &reclaims {
        // One that fails does not keep the others.
        match carry_out(app, reclaim).await {
            Ok(()) => swept += 1,
            Err(error) => tracing::warn!(
                code = error.code,
                "a blob could not be reclaimed and will be retried"
            ),
        }
    }
    count("blobs", usize::try_from(swept).unwrap_or(0));
    Ok(swept + purged + (expired.len() + surplus.len()) as u64)
}

fn count(kind: &'static str, swept: usize) {
    if swept > 0 {
        metrics::counter!("vfs_sync_swept_total", "kind" => kind).increment(swept as u64);
        tracing::info!(kind, swept, "swept");
    }
}

/// The age at which a temporary file of an interrupted write is removed.
const ABANDONED_WRITE: Duration = Duration::from_secs(3_600);

/// Removes temporary objects that nothing needs any more: the remains of writes that were killed
/// before the registry recorded them. It compares the object store's times with the machine's
/// clock.
pub(crate) async fn sweep_temporary(app: &App) -> Result<(), BlobError> {
    let now = SystemEnvironment.now().as_millis();
    let longest = millis(app.config.max_stage_lifetime + ABANDONED_WRITE);
    let mut listed = app.blobs.list_temporary();
    let mut swept = 0;
    while let Some(object) = listed.try_next().await? {
        // An upload in parts may last as long as its stage.
        let lives = if object.name.contains('#') { millis(ABANDONED_WRITE) } else { longest };
        if now - object.modified > lives {
            app.blobs.remove(&object.name).await?;
            swept += 1;
        }
    }
    count("temporary", swept);
    Ok(())
}
