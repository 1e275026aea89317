//! The removal of blobs from the object store: the registry marks a blob, the caller removes it,
//! and the registry records the removal.

use vfs_sync_core::id::{BlobId, StagingId};
use vfs_sync_core::server::reclaim::{self, Deletion, Discard};
use vfs_sync_core::server::stage::{BlobStatus, Stage};
use vfs_sync_core::time::Timestamp;

use super::upload::abandon;
use crate::command::{
    AnyBlob, AnyStage, BlobsAfter, Command, DeleteBlob, HoldRemovals, ReclaimOf, Reclaimed,
    RemoveVersion, ToReclaim, one_call,
};
use crate::encoding;
use crate::error::Result;
use crate::topics::Topics;
use crate::values::{BlobRecord, DeleteAnswer, MAX_HOLD, StageRecord};

one_call! {
    BlobsAfter: |tx, it| tx.blobs_after(it.after.as_ref(), it.at_most);
    AnyStage: |tx, it| any_stage(tx, &it.staging_id);
}

impl Command for ToReclaim {
    async fn run<T: Topics>(&self, tx: &mut T) -> Result<Self::Answer> {
        if tx.removals_held_until().await? > self.now {
            return Ok(Vec::new());
        }
        tx.to_reclaim(self.now, self.at_most).await
    }
}

impl Command for ReclaimOf {
    async fn run<T: Topics>(&self, tx: &mut T) -> Result<Self::Answer> {
        if tx.removals_held_until().await? > self.now {
            return Ok(None);
        }
        tx.reclaim_of(&self.blob_id).await
    }
}

impl Command for HoldRemovals {
    async fn run<T: Topics>(&self, tx: &mut T) -> Result<Self::Answer> {
        let longest = self.now.plus_millis(i64::try_from(MAX_HOLD.as_millis()).unwrap_or(i64::MAX));
        tx.hold_removals(self.until.min(longest)).await
    }
}

/// Returns the stage of the blob, locked.
pub(crate) async fn locked<T: Topics>(tx: &mut T, blob_id: &BlobId) -> Result<Option<Stage>> {
    let Some(staging_id) = tx.stage_of(blob_id).await? else { return Ok(None) };
    tx.stage(&staging_id).await?.transpose()
}

async fn any_stage<T: Topics>(tx: &mut T, staging_id: &StagingId) -> Result<Option<StageRecord>> {
    let Some(stored) = tx.stage(staging_id).await?.transpose()? else { return Ok(None) };
    let upload = tx.upload(staging_id).await?;
    let blob_status = encoding::blob_status_code(stored.blob_status);
    Ok(Some(StageRecord { stage: stored.row, blob_status, upload }))
}

impl Command for AnyBlob {
    async fn run<T: Topics>(&self, tx: &mut T) -> Result<Self::Answer> {
        let Self { blob_id } = self;
        let Some(staging_id) = tx.stage_of(blob_id).await? else { return Ok(None) };
        let Some(stage) = any_stage(tx, &staging_id).await? else { return Ok(None) };
        let made = tx.attachments_with(blob_id).await?;
        let attachments = made.into_iter().map(|made| made.attachment).collect();
        Ok(Some(BlobRecord { stage, attachments }))
    }
}

impl Command for DeleteBlob {
    async fn run<T: Topics>(&self, tx: &mut T) -> Result<Self::Answer> {
        let Self { user, blob_id, .. } = self;
        let now = self.now;
        let stored = locked(tx, blob_id).await?.filter(|stored| stored.row.owner == *user);
        let Some(stored) = stored else { return Ok(DeleteAnswer::Unknown) };
        let is_attached = !tx.attachments_with(blob_id).await?.is_empty();
        match stored.delete_blob(is_attached) {
            Deletion::Unknown => Ok(DeleteAnswer::Unknown),
            Deletion::Attached => Ok(DeleteAnswer::Attached),
            Deletion::Repeated => Ok(DeleteAnswer::Deleting),
            Deletion::Discard => {
                discard(tx, &stored, now).await?;
                Ok(DeleteAnswer::Deleting)
            }
        }
    }
}

/// Marks the bytes of a live blob without attachments for removal.
pub(in crate::command) async fn discard<T: Topics>(
    tx: &mut T,
    stored: &Stage,
    now: Timestamp,
) -> Result<()> {
    match stored.discard() {
        Discard::Abandon => abandon(tx, stored, now).await,
        Discard::Uncharge => {
            tx.discard_blob(&stored.row.blob_id, now).await?;
            let usage = tx.usage(&stored.charged).await?;
            tx.set_usage(&stored.charged, usage.without_stored(stored.reserved)).await
        }
    }
}

impl Command for Reclaimed {
    async fn run<T: Topics>(&self, tx: &mut T) -> Result<Self::Answer> {
        let Self { done, again, .. } = self;
        let now = self.now;
        let blob_id = &done.blob_id;
        let Some(stored) = locked(tx, blob_id).await? else { return Ok(()) };
        match stored.reclaimed(done.bytes, now) {
            reclaim::Reclaimed::Nothing => return Ok(()),
            reclaim::Reclaimed::Delete => tx.set_deleted(blob_id, *again).await?,
            reclaim::Reclaimed::Clear => tx.clear_reclaim(blob_id, now).await?,
            reclaim::Reclaimed::KeepId(until) => tx.move_reclaim(blob_id, now, until).await?,
            reclaim::Reclaimed::Forget => {
                tx.delete_upload(&stored.row.staging_id).await?;
                return tx.delete_stage(&stored.row.staging_id, blob_id).await;
            }
        }
        tx.delete_upload(&stored.row.staging_id).await
    }
}

impl Command for RemoveVersion {
    async fn run<T: Topics>(&self, tx: &mut T) -> Result<Self::Answer> {
        let Self { ref_id, blob_id, .. } = self;
        let now = self.now;
        let Some(stored) = locked(tx, blob_id).await? else { return Ok(false) };
        if !tx.delete_version(ref_id).await? {
            return Ok(false);
        }
        let last = tx.attachments_with(blob_id).await?.is_empty();
        if last && stored.blob_status == BlobStatus::Live {
            discard(tx, &stored, now).await?;
        }
        Ok(true)
    }
}
