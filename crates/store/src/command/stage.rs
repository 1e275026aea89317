//! Stages: opened, uploaded to, abandoned.

use vfs_sync_core::id::{StagingId, UserId};
use vfs_sync_core::wire::StageStatus;

use super::upload::{close_stage, reserve};
use super::{Abandon, Command, ExpiredStages, OpenStage, RecordUpload, Stage, one_call};
use crate::error::{Result, StoreError};
use crate::topics::{StoredStage, Topics};
use crate::values::{AbandonAnswer, NewStage, StageAnswer, UploadAnswer};

one_call! {
    ExpiredStages: |tx, it| tx.expired_stages(it.now, it.at_most);
}

impl Command for OpenStage {
    async fn run<T: Topics>(&self, tx: &mut T) -> Result<Self::Answer> {
        let Self { user, stage, quota, .. } = self;
        let now = self.now;
        if let Some(stored) = tx.stage(&stage.staging_id).await?.transpose()? {
            if !repeats(&stored, user, stage) {
                return Ok(StageAnswer::Taken);
            }
            let waits = stored.row.uploaded.is_none() && stored.row.status == StageStatus::Staged;
            if waits
                && stage.size > stored.reserved
                && let Err(over) = reserve(tx, &stored, stage.size, quota).await?
            {
                return Ok(StageAnswer::OverQuota(over));
            }
            return Ok(StageAnswer::Open(stored.row));
        }
        if !tx.insert_stage(user, stage, now).await? {
            return Ok(StageAnswer::Taken);
        }
        let usage = tx.usage(user).await?;
        match usage.with_stage(quota).and_then(|usage| usage.with_staged(stage.size, quota)) {
            Ok(usage) => {
                tx.set_usage(user, usage).await?;
                if stage.size > 0 {
                    tx.set_reserved(&stage.blob_id, stage.size).await?;
                }
            }
            Err(over) => {
                tx.delete_stage(&stage.staging_id, &stage.blob_id).await?;
                return Ok(StageAnswer::OverQuota(over));
            }
        }
        let made = tx.stage(&stage.staging_id).await?.transpose()?;
        made.map(|made| StageAnswer::Open(made.row))
            .ok_or_else(|| StoreError::Failed("a stage that was just made is not there".into()))
    }
}

fn repeats(stored: &StoredStage, user: &UserId, stage: &NewStage) -> bool {
    stored.row.owner == *user
        && stored.row.blob_id == stage.blob_id
        && stored.row.content_type.as_deref() == stage.content_type.as_deref()
        && stored.expiry_chosen == stage.expiry_chosen
        && (!stage.expiry_chosen || stored.row.expires_at == stage.expires_at)
}

/// Returns the stage, if it is the user's: to everybody else it does not exist.
pub(super) async fn own_stage<T: Topics>(
    tx: &mut T,
    user: &UserId,
    staging_id: &StagingId,
) -> Result<Option<StoredStage>> {
    let stored = tx.stage(staging_id).await?.transpose()?;
    Ok(stored.filter(|stored| stored.row.owner == *user))
}

impl Command for Stage {
    async fn run<T: Topics>(&self, tx: &mut T) -> Result<Self::Answer> {
        let stored = own_stage(tx, &self.user, &self.staging_id).await?;
        Ok(stored.map(|stored| stored.row))
    }
}

impl Command for RecordUpload {
    async fn run<T: Topics>(&self, tx: &mut T) -> Result<Self::Answer> {
        let Self { user, staging_id, upload, quota, .. } = self;
        let now = self.now;
        let Some(stored) = own_stage(tx, user, staging_id).await? else {
            return Ok(UploadAnswer::Unknown);
        };
        let mut row = stored.row.clone();
        let (size, digest) = (upload.size, upload.digest);
        if row.status == StageStatus::Abandoned {
            return Ok(UploadAnswer::Over(row));
        }
        match row.uploaded {
            Some(before) if before == (size, digest) => {
                return Ok(UploadAnswer::Recorded { row, left_over: false });
            }
            Some(_) => return Ok(UploadAnswer::Differs(row)),
            None => {}
        }
        if row.status != StageStatus::Staged || row.expires_at <= now {
            return Ok(UploadAnswer::Over(row));
        }
        let parts = tx.upload(staging_id).await?;
        if upload.lease.is_some()
            && parts.as_ref().map(|parts| &parts.lease) != upload.lease.as_ref()
        {
            return Ok(UploadAnswer::Lost);
        }
        if let Err(over) = reserve(tx, &stored, size, quota).await? {
            return Ok(UploadAnswer::OverQuota(over));
        }
        tx.set_uploaded(&row.blob_id, size, digest).await?;
        let left_over = parts.is_some();
        if left_over {
            tx.set_reclaim(&row.blob_id, now).await?;
        }
        row.uploaded = Some((size, digest));
        Ok(UploadAnswer::Recorded { row, left_over })
    }
}

impl Command for Abandon {
    async fn run<T: Topics>(&self, tx: &mut T) -> Result<Self::Answer> {
        let Self { user, staging_id, .. } = self;
        let now = self.now;
        let Some(stored) = own_stage(tx, user, staging_id).await? else {
            return Ok(AbandonAnswer::Unknown);
        };
        let mut row = stored.row.clone();
        match row.status {
            StageStatus::Attached => return Ok(AbandonAnswer::Attached(row)),
            StageStatus::Abandoned => {}
            StageStatus::Staged => {
                close_stage(tx, &stored, StageStatus::Abandoned, now).await?;
                row.status = StageStatus::Abandoned;
            }
        }
        Ok(AbandonAnswer::Abandoned(row))
    }
}
