//! Uploads in parts, and the quota that blobs count against.

use std::collections::{BTreeMap, BTreeSet};

use vfs_sync_core::id::{StagingId, UserId};
use vfs_sync_core::server::stage::{NotWritable, OverQuota, Quota, Stage, Usage};
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::StageStatus;

use super::stage::own_stage;
use crate::command::users::user::own_quota;
use crate::command::{
    AdvanceUpload, BlobUsage, ClaimUpload, Command, HoldsUpload, OpenUpload, ReadUpload,
    ReserveUpload, UploadHandles, UploadParts, one_call,
};
use crate::error::Result;
use crate::topics::Topics;
use crate::values::UploadAccess;

/// Sets the bytes that the blob counts against its quota to `bytes`.
pub(crate) async fn reserve<T: Topics>(
    tx: &mut T,
    stage: &Stage,
    bytes: u64,
    quota: &Quota,
) -> Result<Result<(), OverQuota>> {
    if bytes == stage.reserved {
        return Ok(Ok(()));
    }
    let quota = own_quota(tx, &stage.row.owner, quota).await?;
    let usage = tx.usage(&stage.row.owner).await?;
    match usage.with_reservation(stage.reserved, bytes, &quota) {
        Ok(usage) => {
            tx.set_usage(&stage.row.owner, usage).await?;
            tx.set_reserved(&stage.row.blob_id, bytes).await?;
            Ok(Ok(()))
        }
        Err(over) => Ok(Err(over)),
    }
}

/// Returns the usages after a stage is attached to an item of `owner`, who is then charged for the
/// bytes; `None` if this exceeds the owner's quota. The usages stay locked, in the order of their
/// users' ids.
pub(crate) async fn charged<T: Topics>(
    tx: &mut T,
    stage: &Stage,
    owner: &UserId,
    quota: &Quota,
) -> Result<Option<BTreeMap<UserId, Usage>>> {
    let quota = &own_quota(tx, owner, quota).await?;
    let mut usages = BTreeMap::new();
    for user in BTreeSet::from([&stage.row.owner, owner]) {
        usages.insert(user.clone(), tx.usage(user).await?);
    }
    let keeps = *owner == stage.row.owner;
    for (user, usage) in &mut usages {
        if *user == stage.row.owner {
            *usage = usage.without_attached(stage.reserved, keeps);
        } else {
            let Some(received) = usage.with_received(stage.reserved, quota) else {
                return Ok(None);
            };
            *usage = received;
        }
    }
    Ok(Some(usages))
}

/// Abandons an open stage, and marks its bytes for removal.
pub(crate) async fn abandon<T: Topics>(tx: &mut T, stage: &Stage, now: Timestamp) -> Result<()> {
    tx.set_stage_status(&stage.row.staging_id, StageStatus::Abandoned).await?;
    let usage = tx.usage(&stage.row.owner).await?;
    tx.discard_blob(&stage.row.blob_id, now).await?;
    tx.set_usage(&stage.row.owner, usage.without_abandoned(stage.reserved)).await
}

/// Returns the user's stage if it takes bytes; it is locked if the transaction writes.
async fn writable<T: Topics>(
    tx: &mut T,
    user: &UserId,
    staging_id: &StagingId,
    now: Timestamp,
) -> Result<Result<Stage, UploadAccess>> {
    let Some(stored) = own_stage(tx, user, staging_id).await? else {
        return Ok(Err(UploadAccess::Unknown));
    };
    match stored.check_writable(now) {
        Ok(()) => Ok(Ok(stored)),
        Err(NotWritable::Complete) => Ok(Err(UploadAccess::Complete(stored.row))),
        Err(NotWritable::Over) => Ok(Err(UploadAccess::Over(stored.row))),
    }
}

one_call! {
    UploadParts: |tx, it| tx.upload_parts(&it.staging_id);
    UploadHandles: |tx, _it| tx.upload_handles();
    BlobUsage: |tx, it| tx.usage(&it.user);
    ReadUpload: |tx, it| read(tx, &it.user, &it.staging_id, it.now);
}

/// Reads the upload in its present state; an upload that never began is at its beginning.
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
        let upload = found.clone().unwrap_or_default().opened(*length, metadata.as_deref());
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
        let Self { user, staging_id, lease, replacement, .. } = self;
        let stored = match writable(tx, user, staging_id, self.now).await? {
            Ok(stored) => stored,
            Err(access) => return Ok(access),
        };
        let before = tx.upload(staging_id).await?.unwrap_or_default();
        let Some(upload) = before.claimed(lease, replacement.as_ref()) else {
            return Ok(UploadAccess::Lost);
        };
        if replacement.is_some() {
            tx.delete_parts(staging_id).await?;
        }
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
        let before = tx.upload(staging_id).await?;
        let Some((upload, counted)) = before.and_then(|before| before.advanced(lease, advance))
        else {
            return Ok(UploadAccess::Lost);
        };
        if let Err(over) = reserve(tx, &stored, counted, quota).await? {
            return Ok(UploadAccess::OverQuota(over));
        }
        let new = u32::try_from(advance.new_parts.len()).unwrap_or(u32::MAX);
        tx.add_parts(staging_id, advance.parts.saturating_sub(new), &advance.new_parts).await?;
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
