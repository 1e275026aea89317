//! The registry of blobs: stages, blobs, and the quota that they count against.

use rusqlite::{OptionalExtension as _, params};
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::id::{BlobId, StagingId, UserId};
use vfs_sync_core::server::stage::{NewStage, Stage, StageRow, Usage};
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::StageStatus;

use crate::encoding::{self, BLOB_DELETED, BLOB_DELETING, BLOB_LIVE};
use crate::error::Result;
use crate::sqlite::rows::Columns;
use crate::sqlite::transaction::SqliteTransaction;
use crate::topics::{Stages, Stored};
use crate::values::{BlobSummary, Reclaim};

impl Stages for SqliteTransaction<'_> {
    async fn stage(&mut self, staging_id: &StagingId) -> Result<Stored<Stage>> {
        let mut select = self.prepare(
            "SELECT s.owner, s.blob_id, s.status, s.staged_at, s.expires_at, s.expiry_chosen, \
             b.content_type, b.size, b.digest, b.blob_id, b.reserved, b.status, b.charged \
             FROM blob_stages s LEFT JOIN blobs b USING (blob_id) \
             WHERE s.staging_id = ?1",
        )?;
        let mut rows = select.query([staging_id.as_str()])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let columns = Columns { row, table: "blob_stages", key: staging_id };
        let mut read = || {
            if columns.optional_text(9)?.is_none() {
                return Err(columns.malformed("its blob is missing"));
            }
            let row = StageRow {
                staging_id: staging_id.clone(),
                owner: self.user(columns.integer(0)?, "blob_stages", staging_id)?,
                blob_id: columns.parse(1)?,
                status: encoding::stage_status(columns.text(2)?)
                    .ok_or_else(|| columns.malformed("status has an unknown value"))?,
                staged_at: columns.time(3)?,
                expires_at: columns.time(4)?,
                content_type: columns.optional_text(6)?.map(Into::into),
                uploaded: size_and_digest(&columns, 7)?,
            };
            let charged = match columns.optional_integer(12)? {
                Some(uid) => self.user(uid, "blobs", &row.blob_id)?,
                None => row.owner.clone(),
            };
            Ok(Stage {
                row,
                charged,
                expiry_chosen: columns.integer(5)? != 0,
                reserved: columns.unsigned(10)?,
                blob_status: encoding::blob_status(columns.text(11)?)
                    .ok_or_else(|| columns.malformed("its blob's status has an unknown value"))?,
            })
        };
        Ok(Some(read()))
    }

    async fn stage_of(&mut self, blob_id: &BlobId) -> Result<Option<StagingId>> {
        let mut select = self.prepare("SELECT staging_id FROM blob_stages WHERE blob_id = ?1")?;
        let found: Option<String> =
            select.query_row([blob_id.as_str()], |row| row.get(0)).optional()?;
        let malformed = |error| encoding::malformed("blob_stages", blob_id, error);
        found.map(|id| id.parse().map_err(malformed)).transpose()
    }

    async fn insert_stage(
        &mut self,
        user: &UserId,
        stage: &NewStage,
        now: Timestamp,
    ) -> Result<bool> {
        let owner = self.make_uid(user)?;
        let made = self
            .prepare(
                "INSERT INTO blobs (blob_id, owner, status, content_type) VALUES (?1, ?2, ?3, ?4) \
                 ON CONFLICT (blob_id) DO NOTHING",
            )?
            .execute(params![stage.blob_id.as_str(), owner, BLOB_LIVE, stage.content_type])?;
        if made == 0 {
            return Ok(false);
        }
        self.prepare(
            "INSERT INTO blob_stages \
             (staging_id, owner, blob_id, status, staged_at, expires_at, expiry_chosen) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            stage.staging_id.as_str(),
            owner,
            stage.blob_id.as_str(),
            StageStatus::Staged.as_str(),
            now.as_millis(),
            stage.expires_at.as_millis(),
            stage.expiry_chosen,
        ])?;
        Ok(true)
    }

    async fn delete_stage(&mut self, staging_id: &StagingId, blob_id: &BlobId) -> Result<()> {
        self.prepare("DELETE FROM blob_stages WHERE staging_id = ?1")?
            .execute([staging_id.as_str()])?;
        self.prepare("DELETE FROM blobs WHERE blob_id = ?1")?.execute([blob_id.as_str()])?;
        Ok(())
    }

    async fn set_stage_status(
        &mut self,
        staging_id: &StagingId,
        status: StageStatus,
    ) -> Result<()> {
        self.prepare("UPDATE blob_stages SET status = ?2 WHERE staging_id = ?1")?
            .execute([staging_id.as_str(), status.as_str()])?;
        Ok(())
    }

    async fn set_uploaded(
        &mut self,
        blob_id: &BlobId,
        size: u64,
        digest: Sha256Digest,
    ) -> Result<()> {
        self.prepare("UPDATE blobs SET size = ?2, digest = ?3 WHERE blob_id = ?1")?
            .execute(params![blob_id.as_str(), encoding::size(size)?, digest.0.as_slice()])?;
        Ok(())
    }

    async fn set_reserved(&mut self, blob_id: &BlobId, bytes: u64) -> Result<()> {
        self.prepare("UPDATE blobs SET reserved = ?2 WHERE blob_id = ?1")?
            .execute(params![blob_id.as_str(), encoding::size(bytes)?])?;
        Ok(())
    }

    async fn set_charged(&mut self, blob_id: &BlobId, user: &UserId) -> Result<()> {
        let uid = self.make_uid(user)?;
        self.prepare("UPDATE blobs SET charged = ?2 WHERE blob_id = ?1")?
            .execute(params![blob_id.as_str(), uid])?;
        Ok(())
    }

    async fn discard_blob(&mut self, blob_id: &BlobId, now: Timestamp) -> Result<()> {
        self.prepare(
            "UPDATE blobs SET status = ?2, reserved = 0, reclaim_at = ?3 WHERE blob_id = ?1",
        )?
        .execute(params![blob_id.as_str(), BLOB_DELETING, now.as_millis()])?;
        Ok(())
    }

    async fn set_reclaim(&mut self, blob_id: &BlobId, at: Timestamp) -> Result<()> {
        self.prepare("UPDATE blobs SET reclaim_at = ?2 WHERE blob_id = ?1")?
            .execute(params![blob_id.as_str(), at.as_millis()])?;
        Ok(())
    }

    async fn clear_reclaim(&mut self, blob_id: &BlobId, now: Timestamp) -> Result<()> {
        self.prepare("UPDATE blobs SET reclaim_at = NULL WHERE blob_id = ?1 AND reclaim_at <= ?2")?
            .execute(params![blob_id.as_str(), now.as_millis()])?;
        Ok(())
    }

    async fn move_reclaim(
        &mut self,
        blob_id: &BlobId,
        now: Timestamp,
        at: Timestamp,
    ) -> Result<()> {
        self.prepare("UPDATE blobs SET reclaim_at = ?3 WHERE blob_id = ?1 AND reclaim_at <= ?2")?
            .execute(params![blob_id.as_str(), now.as_millis(), at.as_millis()])?;
        Ok(())
    }

    async fn set_deleted(&mut self, blob_id: &BlobId, again: Timestamp) -> Result<()> {
        self.prepare("UPDATE blobs SET status = ?2, reclaim_at = ?3 WHERE blob_id = ?1")?
            .execute(params![blob_id.as_str(), BLOB_DELETED, again.as_millis()])?;
        Ok(())
    }

    async fn expired_stages(
        &mut self,
        now: Timestamp,
        at_most: u32,
    ) -> Result<Vec<(UserId, StagingId)>> {
        let mut select = self.prepare(
            "SELECT owner, staging_id FROM blob_stages \
             WHERE status = 'blob-stage:staged' AND expires_at <= ?1 ORDER BY expires_at LIMIT ?2",
        )?;
        let mut rows = select.query(params![now.as_millis(), at_most])?;
        let mut expired = Vec::new();
        while let Some(row) = rows.next()? {
            let columns = Columns { row, table: "blob_stages", key: "?" };
            let staging_id: StagingId = columns.parse(1)?;
            expired.push((self.user(columns.integer(0)?, "blob_stages", &staging_id)?, staging_id));
        }
        Ok(expired)
    }

    async fn to_reclaim(&mut self, now: Timestamp, at_most: u32) -> Result<Vec<Reclaim>> {
        reclaims(
            self,
            "SELECT b.blob_id, b.status, u.handle FROM blobs b \
             JOIN blob_stages s ON s.blob_id = b.blob_id \
             LEFT JOIN blob_uploads u ON u.staging_id = s.staging_id \
             WHERE b.reclaim_at <= ?1 ORDER BY b.reclaim_at LIMIT ?2",
            params![now.as_millis(), at_most],
        )
    }

    async fn reclaim_of(&mut self, blob_id: &BlobId) -> Result<Option<Reclaim>> {
        let found = reclaims(
            self,
            "SELECT b.blob_id, b.status, u.handle FROM blobs b \
             JOIN blob_stages s ON s.blob_id = b.blob_id \
             LEFT JOIN blob_uploads u ON u.staging_id = s.staging_id \
             WHERE b.blob_id = ?1 AND b.reclaim_at IS NOT NULL \
                 AND b.status <> 'deleted'",
            [blob_id.as_str()],
        )?;
        Ok(found.into_iter().next())
    }

    async fn blobs_after(
        &mut self,
        after: Option<&BlobId>,
        at_most: u32,
    ) -> Result<Vec<BlobSummary>> {
        let mut select = self.prepare(
            "SELECT blob_id, status, size FROM blobs WHERE blob_id > ?1 ORDER BY blob_id LIMIT ?2",
        )?;
        let mut rows = select.query(params![after.map_or("", BlobId::as_str), at_most])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            let columns = Columns { row, table: "blobs", key: "?" };
            let size = columns.optional_integer(2)?.map(|_| columns.unsigned(2)).transpose()?;
            let live = columns.text(1)? == BLOB_LIVE;
            found.push(BlobSummary { blob_id: columns.parse(0)?, live, size });
        }
        Ok(found)
    }

    async fn usage(&mut self, owner: &UserId) -> Result<Usage> {
        let Some(uid) = self.uid(owner)? else { return Ok(Usage::default()) };
        let mut select =
            self.prepare("SELECT stored, staged, open_stages FROM blob_usage WHERE owner = ?1")?;
        let mut rows = select.query([uid])?;
        let Some(row) = rows.next()? else { return Ok(Usage::default()) };
        let columns = Columns { row, table: "blob_usage", key: owner };
        Ok(Usage {
            stored: columns.unsigned(0)?,
            staged: columns.unsigned(1)?,
            open_stages: columns.unsigned(2)?,
        })
    }

    async fn set_usage(&mut self, owner: &UserId, usage: Usage) -> Result<()> {
        let uid = self.make_uid(owner)?;
        self.prepare(
            "INSERT INTO blob_usage (owner, stored, staged, open_stages) VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT (owner) DO UPDATE SET stored = excluded.stored, staged = excluded.staged, \
             open_stages = excluded.open_stages",
        )?
        .execute(params![
            uid,
            encoding::size(usage.stored)?,
            encoding::size(usage.staged)?,
            encoding::size(usage.open_stages)?,
        ])?;
        Ok(())
    }
}

/// Reads the columns `size` and `digest`, which are both set or both empty.
pub(super) fn size_and_digest<K: std::fmt::Display>(
    columns: &Columns<'_, '_, K>,
    first: usize,
) -> Result<Option<(u64, Sha256Digest)>> {
    if columns.optional_integer(first)?.is_none() {
        return Ok(None);
    }
    let digest = columns.bytes(first + 1)?.try_into();
    let digest = digest.map_err(|_| columns.malformed("digest is not 32 bytes"))?;
    Ok(Some((columns.unsigned(first)?, Sha256Digest(digest))))
}

fn reclaims(
    tx: &mut SqliteTransaction<'_>,
    sql: &str,
    parameters: impl rusqlite::Params,
) -> Result<Vec<Reclaim>> {
    let mut select = tx.prepare(sql)?;
    let mut rows = select.query(parameters)?;
    let mut reclaims = Vec::new();
    while let Some(row) = rows.next()? {
        let columns = Columns { row, table: "blobs", key: "?" };
        reclaims.push(Reclaim {
            blob_id: columns.parse(0)?,
            upload: columns.optional_text(2)?.map(str::to_owned),
            bytes: columns.text(1)? != BLOB_LIVE,
        });
    }
    Ok(reclaims)
}
