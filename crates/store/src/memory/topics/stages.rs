//! The registry of blobs: stages, blobs, and the quota that they count against.

use std::ops::Bound;

use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::id::{BlobId, StagingId, UserId};
use vfs_sync_core::server::stage::{BlobStatus, NewStage, Stage, StageRow, Usage};
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::StageStatus;

use crate::encoding;
use crate::error::Result;
use crate::memory::state::{Blob, State, StoredStage, count, oldest};
use crate::memory::transaction::MemoryTransaction;
use crate::topics::{Stages, Stored};
use crate::values::{BlobSummary, Reclaim};

impl Stages for MemoryTransaction<'_> {
    async fn stage(&mut self, staging_id: &StagingId) -> Result<Stored<Stage>> {
        let Some(stage) = self.state.stages.get(staging_id) else { return Ok(None) };
        let Some(blob) = self.state.blobs.get(&stage.blob_id) else {
            return Ok(Some(Err(encoding::malformed("blob_stages", staging_id, "has no blob"))));
        };
        let charged = blob.charged.clone().unwrap_or_else(|| stage.owner.clone());
        let row = StageRow {
            staging_id: staging_id.clone(),
            owner: stage.owner.clone(),
            blob_id: stage.blob_id.clone(),
            status: stage.status,
            staged_at: stage.staged_at,
            expires_at: stage.expires_at,
            content_type: blob.content_type.clone(),
            uploaded: blob.uploaded,
        };
        Ok(Some(Ok(Stage {
            row,
            expiry_chosen: stage.expiry_chosen,
            reserved: blob.reserved,
            charged,
            blob_status: blob.status,
        })))
    }

    async fn stage_of(&mut self, blob_id: &BlobId) -> Result<Option<StagingId>> {
        Ok(self.state.blobs.get(blob_id).map(|blob| blob.staging_id.clone()))
    }

    async fn insert_stage(
        &mut self,
        user: &UserId,
        stage: &NewStage,
        now: Timestamp,
    ) -> Result<bool> {
        if self.state.blobs.get(&stage.blob_id).is_some() {
            return Ok(false);
        }
        self.state.know(user);
        let blob = Blob {
            owner: user.clone(),
            staging_id: stage.staging_id.clone(),
            status: BlobStatus::Live,
            uploaded: None,
            content_type: stage.content_type.as_deref().map(Into::into),
            reserved: 0,
            charged: None,
            reclaim_at: None,
        };
        self.state.blobs.put(stage.blob_id.clone(), blob);
        let row = StoredStage {
            owner: user.clone(),
            blob_id: stage.blob_id.clone(),
            status: StageStatus::Staged,
            staged_at: now,
            expires_at: stage.expires_at,
            expiry_chosen: stage.expiry_chosen,
        };
        self.state.stages.put(stage.staging_id.clone(), row);
        Ok(true)
    }

    async fn delete_stage(&mut self, staging_id: &StagingId, blob_id: &BlobId) -> Result<()> {
        self.state.stages.remove(staging_id);
        self.state.blobs.remove(blob_id);
        Ok(())
    }

    async fn set_stage_status(
        &mut self,
        staging_id: &StagingId,
        status: StageStatus,
    ) -> Result<()> {
        if let Some(stage) = self.state.stages.get(staging_id) {
            let stage = StoredStage { status, ..stage.clone() };
            self.state.stages.put(staging_id.clone(), stage);
        }
        Ok(())
    }

    async fn set_uploaded(
        &mut self,
        blob_id: &BlobId,
        size: u64,
        digest: Sha256Digest,
    ) -> Result<()> {
        self.state.change_blob(blob_id, |blob| blob.uploaded = Some((size, digest)));
        Ok(())
    }

    async fn set_reserved(&mut self, blob_id: &BlobId, bytes: u64) -> Result<()> {
        self.state.change_blob(blob_id, |blob| blob.reserved = bytes);
        Ok(())
    }

    async fn set_charged(&mut self, blob_id: &BlobId, user: &UserId) -> Result<()> {
        self.state.know(user);
        self.state.change_blob(blob_id, |blob| blob.charged = Some(user.clone()));
        Ok(())
    }

    async fn discard_blob(&mut self, blob_id: &BlobId, now: Timestamp) -> Result<()> {
        self.state.change_blob(blob_id, |blob| {
            (blob.status, blob.reserved, blob.reclaim_at) = (BlobStatus::Deleting, 0, Some(now));
        });
        Ok(())
    }

    async fn set_reclaim(&mut self, blob_id: &BlobId, at: Timestamp) -> Result<()> {
        self.state.change_blob(blob_id, |blob| blob.reclaim_at = Some(at));
        Ok(())
    }

    async fn clear_reclaim(&mut self, blob_id: &BlobId, now: Timestamp) -> Result<()> {
        self.state.change_blob(blob_id, |blob| {
            blob.reclaim_at = blob.reclaim_at.filter(|at| *at > now);
        });
        Ok(())
    }

    async fn move_reclaim(
        &mut self,
        blob_id: &BlobId,
        now: Timestamp,
        at: Timestamp,
    ) -> Result<()> {
        self.state.change_blob(blob_id, |blob| {
            blob.reclaim_at = blob.reclaim_at.map(|due| if due <= now { at } else { due });
        });
        Ok(())
    }

    async fn set_deleted(&mut self, blob_id: &BlobId, again: Timestamp) -> Result<()> {
        self.state.change_blob(blob_id, |blob| {
            (blob.status, blob.reclaim_at) = (BlobStatus::Deleted, Some(again));
        });
        Ok(())
    }

    async fn expired_stages(
        &mut self,
        now: Timestamp,
        at_most: u32,
    ) -> Result<Vec<(UserId, StagingId)>> {
        let all = self.state.stages.rows().iter();
        let expired = all
            .filter(|(_, stage)| stage.status == StageStatus::Staged && stage.expires_at <= now)
            .map(|(id, stage)| (stage.expires_at, (id, &stage.owner)));
        let expired = oldest(expired, at_most);
        Ok(expired.map(|(id, owner)| (owner.clone(), id.clone())).collect())
    }

    async fn to_reclaim(&mut self, now: Timestamp, at_most: u32) -> Result<Vec<Reclaim>> {
        let all = self.state.blobs.rows().iter();
        let due = all.filter_map(|(id, blob)| Some((blob.reclaim_at?, id)));
        let due = oldest(due.filter(|(at, _)| *at <= now), at_most);
        Ok(due.filter_map(|id| self.state.reclaim(id)).collect())
    }

    async fn reclaim_of(&mut self, blob_id: &BlobId) -> Result<Option<Reclaim>> {
        let blob = self.state.blobs.get(blob_id);
        let left = blob
            .is_some_and(|blob| blob.reclaim_at.is_some() && blob.status != BlobStatus::Deleted);
        Ok(if left { self.state.reclaim(blob_id) } else { None })
    }

    async fn blobs_after(
        &mut self,
        after: Option<&BlobId>,
        at_most: u32,
    ) -> Result<Vec<BlobSummary>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let rows = self.state.blobs.rows().range::<BlobId, _>((from, Bound::Unbounded));
        let summary = |(id, blob): (&BlobId, &Blob)| BlobSummary {
            blob_id: id.clone(),
            live: blob.status == BlobStatus::Live,
            size: blob.uploaded.map(|(size, _)| size),
        };
        Ok(rows.take(count(at_most)).map(summary).collect())
    }

    async fn usage(&mut self, owner: &UserId) -> Result<Usage> {
        Ok(self.state.usages.get(owner).copied().unwrap_or_default())
    }

    async fn set_usage(&mut self, owner: &UserId, usage: Usage) -> Result<()> {
        self.state.know(owner);
        self.state.usages.put(owner.clone(), usage);
        Ok(())
    }
}

impl State {
    fn reclaim(&self, blob_id: &BlobId) -> Option<Reclaim> {
        let blob = self.blobs.get(blob_id)?;
        let upload = self.uploads.get(&blob.staging_id).and_then(|upload| upload.handle.clone());
        let bytes = blob.status != BlobStatus::Live;
        Some(Reclaim { blob_id: blob_id.clone(), upload, bytes })
    }

    pub(super) fn change_blob(&mut self, blob_id: &BlobId, change: impl FnOnce(&mut Blob)) {
        if let Some(mut blob) = self.blobs.get(blob_id).cloned() {
            change(&mut blob);
            self.blobs.put(blob_id.clone(), blob);
        }
    }
}
