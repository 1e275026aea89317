//! Uploads in parts, and the quota that blobs count against.

use std::collections::{BTreeMap, BTreeSet};

use vfs_sync_core::id::{StagingId, UserId};
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::StageStatus;

use super::stage::own_stage;
use super::{
    AdvanceUpload, BlobUsage, ClaimUpload, Command, HoldsUpload, OpenUpload, ReadUpload,
    ReserveUpload, UploadHandles, UploadParts, one_call,
};
use crate::error::Result;
use crate::topics::{StoredStage, Topics};
use crate::values::{OverQuota, Quota, UploadAccess, UploadRow, Usage};

/// Counts `bytes` as the blob's, instead of what was counted before.
pub(crate) async fn reserve<T: Topics>(
    tx: &mut T,
    stage: &StoredStage,
    bytes: u64,
    quota: &Quota,
) -> Result<Result<(), OverQuota>> {
    if bytes == stage.reserved {
        return Ok(Ok(()));
    }
    let usage = tx.usage(&stage.row.owner).await?;
    let without = Usage {
        stored: usage.stored.saturating_sub(stage.reserved),
        staged: usage.staged.saturating_sub(stage.reserved),
        ..usage
    };
    // What is fewer than before is never too much, whatever the bounds are by now.
    let unbounded = Quota { stored: u64::MAX, staged: u64::MAX, ..*quota };
    let quota = if bytes < stage.reserved { &unbounded } else { quota };
    match without.with_staged(bytes, quota) {
        Ok(usage) => {
            tx.set_usage(&stage.row.owner, usage).await?;
            tx.set_reserved(&stage.row.blob_id, bytes).await?;
            Ok(Ok(()))
        }
        Err(over) => Ok(Err(over)),
    }
}

/// Returns the usages after a stage is attached to an item of `owner`, whose bytes they are then;
/// `None` if that is more than the owner may have. The usages stay locked, each set by its bytes.
pub(crate) async fn charged<T: Topics>(
    tx: &mut T,
    stage: &StoredStage,
    owner: &UserId,
    quota: &Quota,
) -> Result<Option<BTreeMap<UserId, Usage>>> {
    let mut usages = BTreeMap::new();
    for user in BTreeSet::from([&stage.row.owner, owner]) {
        usages.insert(user.clone(), tx.usage(user).await?);
    }
    if let Some(usage) = usages.get_mut(&stage.row.owner) {
        usage.staged = usage.staged.saturating_sub(stage.reserved);
        usage.stored = usage.stored.saturating_sub(stage.reserved);
        usage.open_stages = usage.open_stages.saturating_sub(1);
    }
    if let Some(usage) = usages.get_mut(owner) {
        usage.stored = usage.stored.saturating_add(stage.reserved);
        // What was within the stager's own quota stays so, whatever the bounds are by now.
        if *owner != stage.row.owner && usage.stored > quota.stored {
            return Ok(None);
        }
    }
    Ok(Some(usages))
}

/// Closes a stage with `status`. An abandoned stage's bytes are to be reclaimed.
pub(crate) async fn close_stage<T: Topics>(
    tx: &mut T,
    stage: &StoredStage,
    status: StageStatus,
    now: Timestamp,
) -> Result<()> {
    tx.set_stage_status(&stage.row.staging_id, status).await?;
    let usage = tx.usage(&stage.row.owner).await?;
    let mut after = Usage {
        staged: usage.staged.saturating_sub(stage.reserved),
        open_stages: usage.open_stages.saturating_sub(1),
        ..usage
    };
    if status == StageStatus::Abandoned {
        after.stored = after.stored.saturating_sub(stage.reserved);
        tx.discard_blob(&stage.row.blob_id, now).await?;
    }
    tx.set_usage(&stage.row.owner, after).await
}

/// The user's stage, locked where the transaction writes, if it takes bytes.
async fn writable<T: Topics>(
    tx: &mut T,
    user: &UserId,
    staging_id: &StagingId,
    now: Timestamp,
) -> Result<Result<StoredStage, UploadAccess>> {
    let Some(stored) = own_stage(tx, user, staging_id).await? else {
        return Ok(Err(UploadAccess::Unknown));
    };
    if stored.row.status != StageStatus::Abandoned && stored.row.uploaded.is_some() {
        return Ok(Err(UploadAccess::Complete(stored.row)));
    }
    if stored.row.status != StageStatus::Staged || stored.row.expires_at <= now {
        return Ok(Err(UploadAccess::Over(stored.row)));
    }
    Ok(Ok(stored))
}

one_call! {
    UploadParts: |tx, it| tx.upload_parts(&it.staging_id);
    UploadHandles: |tx, _it| tx.upload_handles();
    BlobUsage: |tx, it| tx.usage(&it.user);
    ReadUpload: |tx, it| read(tx, &it.user, &it.staging_id, it.now);
}

/// Reads the upload as it stands; one that never began is at its beginning.
async fn read<T: Topics>(
    tx: &mut T,
    user: &UserId,
    staging_id: &StagingId,
    now: Timestamp,
) -> Result<UploadAccess> {
    match writable(tx, user, staging_id, now).await? {
        Ok(stored) => {
            let upload = tx.upload(staging_id).await?.unwrap_or_default();
            Ok(UploadAccess::Open(stored.row, upload))
        }
        Err(access) => Ok(access),
    }
}

impl Command for ReserveUpload {
    async fn run<T: Topics>(&self, tx: &mut T) -> Result<Self::Answer> {
        let Self { user, staging_id, size, quota, .. } = self;
        let stored = match writable(tx, user, staging_id, self.now).await? {
            Ok(stored) => stored,
            Err(access) => return Ok(access),
        };
        // Another upload of the same stage may count on more.
        if let Err(over) = reserve(tx, &stored, (*size).max(stored.reserved), quota).await? {
            return Ok(UploadAccess::OverQuota(over));
        }
        let upload = tx.upload(staging_id).await?.unwrap_or_default();
        Ok(UploadAccess::Open(stored.row, upload))
    }
}

impl Command for OpenUpload {
    async fn run<T: Topics>(&self, tx: &mut T) -> Result<Self::Answer> {
        let Self { user, staging_id, length, metadata, quota, .. } = self;
        let stored = match writable(tx, user, staging_id, self.now).await? {
            Ok(stored) => stored,
            Err(access) => return Ok(access),
        };
        let found = tx.upload(staging_id).await?;
        let mut upload = found.clone().unwrap_or_default();
        // One that is less than what came already is somebody's mistake.
        upload.length = upload.length.or((*length).filter(|length| *length >= upload.received));
        upload.metadata = upload.metadata.or_else(|| metadata.clone());
        let counted = upload.length.unwrap_or(0).max(stored.reserved);
        if let Err(over) = reserve(tx, &stored, counted, quota).await? {
            return Ok(UploadAccess::OverQuota(over));
        }
        if found.as_ref() != Some(&upload) {
            tx.write_upload(staging_id, &upload).await?;
        }
        Ok(UploadAccess::Open(stored.row, upload))
    }
}

impl Command for ClaimUpload {
    async fn run<T: Topics>(&self, tx: &mut T) -> Result<Self::Answer> {
        let Self { user, staging_id, lease, anew, .. } = self;
        let stored = match writable(tx, user, staging_id, self.now).await? {
            Ok(stored) => stored,
            Err(access) => return Ok(access),
        };
        let before = tx.upload(staging_id).await?.unwrap_or_default();
        let lease = lease.clone();
        let upload = match anew {
            None => UploadRow { lease, ..before },
            Some(anew) if anew.instead_of != before.handle => return Ok(UploadAccess::Lost),
            Some(anew) => {
                tx.delete_parts(staging_id).await?;
                UploadRow {
                    handle: Some(anew.handle.clone()),
                    lease,
                    length: before.length,
                    metadata: before.metadata,
                    ..UploadRow::default()
                }
            }
        };
        tx.write_upload(staging_id, &upload).await?;
        Ok(UploadAccess::Open(stored.row, upload))
    }
}

impl Command for AdvanceUpload {
    async fn run<T: Topics>(&self, tx: &mut T) -> Result<Self::Answer> {
        let Self { user, staging_id, lease, advance, quota, .. } = self;
        let stored = match writable(tx, user, staging_id, self.now).await? {
            Ok(stored) => stored,
            Err(access) => return Ok(access),
        };
        let before = tx.upload(staging_id).await?.filter(|upload| upload.lease == *lease);
        let Some(before) = before else { return Ok(UploadAccess::Lost) };
        let length = advance.length.or(before.length);
        let counted = length.unwrap_or(0).max(advance.received);
        if let Err(over) = reserve(tx, &stored, counted, quota).await? {
            return Ok(UploadAccess::OverQuota(over));
        }
        let new = u32::try_from(advance.new_parts.len()).unwrap_or(u32::MAX);
        tx.add_parts(staging_id, advance.parts.saturating_sub(new), &advance.new_parts).await?;
        let upload = UploadRow {
            length,
            received: advance.received,
            parts: advance.parts,
            tail: advance.tail.clone(),
            hash: advance.hash.clone(),
            ..before
        };
        tx.write_upload(staging_id, &upload).await?;
        Ok(UploadAccess::Open(stored.row, upload))
    }
}

impl Command for HoldsUpload {
    async fn run<T: Topics>(&self, tx: &mut T) -> Result<Self::Answer> {
        let Self { user, staging_id, lease, .. } = self;
        Ok(match read(tx, user, staging_id, self.now).await? {
            UploadAccess::Open(_, upload) => upload.lease == *lease,
            _ => false,
        })
    }
}
