//! Stages: opening, uploading to and abandoning them.

use vfs_sync_core::id::{StagingId, UserId};
use vfs_sync_core::server::stage::{self, Recording};
use vfs_sync_core::wire::StageStatus;

use super::upload::{abandon, reserve};
use crate::command::users::user::own_quota;
use crate::command::{Abandon, Command, ExpiredStages, OpenStage, RecordUpload, Stage, one_call};
use crate::error::{Result, StoreError};
use crate::topics::Topics;
use crate::values::{AbandonAnswer, StageAnswer, UploadAnswer};

one_call! {
    ExpiredStages: |tx, it| tx.expired_stages(it.now, it.at_most);
}

impl Command for OpenStage {
    async fn run<T: Topics>(&self, tx: &mut T) -> Result<Self::Answer> {
        let Self { user, stage, quota, .. } = self;
        let now = self.now;
        if let Some(stored) = tx.stage(&stage.staging_id).await?.transpose()? {
            if !stored.is_repeated_by(user, stage) {
                return Ok(StageAnswer::Taken);
            }
            if let Some(bytes) = stored.to_reserve_again(stage)
                && let Err(over) = reserve(tx, &stored, bytes, quota).await?
            {
                return Ok(StageAnswer::OverQuota(over));
            }
            return Ok(StageAnswer::Open(stored.row));
        }
        if !tx.insert_stage(user, stage, now).await? {
            return Ok(StageAnswer::Taken);
        }
        let quota = own_quota(tx, user, quota).await?;
        let usage = tx.usage(user).await?;
        match usage.with_stage(stage.size, &quota) {
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

/// Returns the stage if the user owns it; for all others it does not exist.
pub(super) async fn own_stage<T: Topics>(
    tx: &mut T,
    user: &UserId,
    staging_id: &StagingId,
) -> Result<Option<stage::Stage>> {
    let stored = tx.stage(staging_id).await?.transpose()?;
    Ok(stored.and_then(|stored| stored.of(user)))
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
        let parts = tx.upload(staging_id).await?;
        let left_over = match stored.record(upload, parts.as_ref(), now) {
            Recording::Over => return Ok(UploadAnswer::Over(row)),
            Recording::Repeated => return Ok(UploadAnswer::Recorded { row, left_over: false }),
            Recording::Differs => return Ok(UploadAnswer::Differs(row)),
            Recording::LeaseLost => return Ok(UploadAnswer::Lost),
            Recording::Record { left_over } => left_over,
        };
        let (size, digest) = (upload.size, upload.digest);
        if let Err(over) = reserve(tx, &stored, size, quota).await? {
            return Ok(UploadAnswer::OverQuota(over));
        }
        tx.set_uploaded(&row.blob_id, size, digest).await?;
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
                abandon(tx, &stored, now).await?;
                row.status = StageStatus::Abandoned;
            }
        }
        Ok(AbandonAnswer::Abandoned(row))
    }
}
