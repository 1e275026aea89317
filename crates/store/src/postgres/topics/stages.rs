//! The registry of blobs: stages, blobs, and the quota that they count against.

use tokio_postgres::Row;
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::id::{BlobId, StagingId, UserId};
use vfs_sync_core::server::stage::{NewStage, Stage, StageRow, Usage};
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::StageStatus;

use crate::encoding::{self, BLOB_DELETED, BLOB_DELETING, BLOB_LIVE};
use crate::error::{Result, StoreError};
use crate::postgres::rows::Columns;
use crate::postgres::transaction::PostgresTransaction;
use crate::topics::{Stages, Stored};
use crate::values::{BlobSummary, Reclaim};

impl Stages for PostgresTransaction<'_> {
    async fn stage(&mut self, staging_id: &StagingId) -> Result<Stored<Stage>> {
        let (stage_sql, blob_sql) = if self.only_reads {
            (
                "SELECT owner, blob_id, status, staged_at, expires_at, expiry_chosen \
                 FROM blob_stages WHERE staging_id = $1",
                "SELECT content_type, size, digest, reserved, status, charged FROM blobs WHERE blob_id = $1",
            )
        } else {
            (
                "SELECT owner, blob_id, status, staged_at, expires_at, expiry_chosen \
                 FROM blob_stages WHERE staging_id = $1 FOR UPDATE",
                "SELECT content_type, size, digest, reserved, status, charged FROM blobs WHERE blob_id = $1 FOR UPDATE",
            )
        };
        let Some(stage) = self.query_opt(stage_sql, &[&staging_id.as_str()]).await? else {
            return Ok(None);
        };
        let blob_id: String = stage.try_get(1)?;
        let blob = self.query_opt(blob_sql, &[&blob_id]).await?;
        Ok(Some(read_stage(staging_id, &stage, blob.as_ref())))
    }

    async fn stage_of(&mut self, blob_id: &BlobId) -> Result<Option<StagingId>> {
        let row = self
            .query_opt(
                "SELECT staging_id FROM blob_stages WHERE blob_id = $1",
                &[&blob_id.as_str()],
            )
            .await?;
        row.map(|row| Columns { row: &row, table: "blob_stages", key: blob_id }.parse(0))
            .transpose()
    }

    async fn insert_stage(
        &mut self,
        user: &UserId,
        stage: &NewStage,
        now: Timestamp,
    ) -> Result<bool> {
        let (owner, id) = (user.as_str(), stage.staging_id.as_str());
        let made = self
            .execute(
                "INSERT INTO blob_stages \
                 (staging_id, owner, blob_id, status, staged_at, expires_at, expiry_chosen) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (staging_id) DO NOTHING",
                &[
                    &id,
                    &owner,
                    &stage.blob_id.as_str(),
                    &StageStatus::Staged.as_str(),
                    &now.as_millis(),
                    &stage.expires_at.as_millis(),
                    &stage.expiry_chosen,
                ],
            )
            .await?;
        if made == 0 {
            // The row did not exist a moment ago: the call runs again and reads it.
            return Err(StoreError::Conflict);
        }
        let made = self
            .execute(
                "INSERT INTO blobs (blob_id, owner, status, content_type) VALUES ($1, $2, $3, $4) \
                 ON CONFLICT (blob_id) DO NOTHING",
                &[&stage.blob_id.as_str(), &owner, &BLOB_LIVE, &stage.content_type],
            )
            .await?;
        if made == 0 {
            self.execute("DELETE FROM blob_stages WHERE staging_id = $1", &[&id]).await?;
        }
        Ok(made > 0)
    }

    async fn delete_stage(&mut self, staging_id: &StagingId, blob_id: &BlobId) -> Result<()> {
        self.execute("DELETE FROM blob_stages WHERE staging_id = $1", &[&staging_id.as_str()])
            .await?;
        self.execute("DELETE FROM blobs WHERE blob_id = $1", &[&blob_id.as_str()]).await?;
        Ok(())
    }

    async fn set_stage_status(
        &mut self,
        staging_id: &StagingId,
        status: StageStatus,
    ) -> Result<()> {
        self.execute(
            "UPDATE blob_stages SET status = $2 WHERE staging_id = $1",
            &[&staging_id.as_str(), &status.as_str()],
        )
        .await?;
        Ok(())
    }

    async fn set_uploaded(
        &mut self,
        blob_id: &BlobId,
        size: u64,
        digest: Sha256Digest,
    ) -> Result<()> {
        self.execute(
            "UPDATE blobs SET size = $2, digest = $3 WHERE blob_id = $1",
            &[&blob_id.as_str(), &encoding::size(size)?, &digest.0.as_slice()],
        )
        .await?;
        Ok(())
    }

    async fn set_reserved(&mut self, blob_id: &BlobId, bytes: u64) -> Result<()> {
        self.execute(
            "UPDATE blobs SET reserved = $2 WHERE blob_id = $1",
            &[&blob_id.as_str(), &encoding::size(bytes)?],
        )
        .await?;
        Ok(())
    }

    async fn set_charged(&mut self, blob_id: &BlobId, user: &UserId) -> Result<()> {
        self.execute(
            "UPDATE blobs SET charged = $2 WHERE blob_id = $1",
            &[&blob_id.as_str(), &user.as_str()],
        )
        .await?;
        Ok(())
    }

    async fn discard_blob(&mut self, blob_id: &BlobId, now: Timestamp) -> Result<()> {
        self.execute(
            "UPDATE blobs SET status = $2, reserved = 0, reclaim_at = $3 WHERE blob_id = $1",
            &[&blob_id.as_str(), &BLOB_DELETING, &now.as_millis()],
        )
        .await?;
        Ok(())
    }

    async fn set_reclaim(&mut self, blob_id: &BlobId, at: Timestamp) -> Result<()> {
        self.execute(
            "UPDATE blobs SET reclaim_at = $2 WHERE blob_id = $1",
            &[&blob_id.as_str(), &at.as_millis()],
        )
        .await?;
        Ok(())
    }

    async fn clear_reclaim(&mut self, blob_id: &BlobId, now: Timestamp) -> Result<()> {
        self.execute(
            "UPDATE blobs SET reclaim_at = NULL WHERE blob_id = $1 AND reclaim_at <= $2",
            &[&blob_id.as_str(), &now.as_millis()],
        )
        .await?;
        Ok(())
    }

    async fn move_reclaim(
        &mut self,
        blob_id: &BlobId,
        now: Timestamp,
        at: Timestamp,
    ) -> Result<()> {
        self.execute(
            "UPDATE blobs SET reclaim_at = $3 WHERE blob_id = $1 AND reclaim_at <= $2",
            &[&blob_id.as_str(), &now.as_millis(), &at.as_millis()],
        )
        .await?;
        Ok(())
    }

    async fn set_deleted(&mut self, blob_id: &BlobId, again: Timestamp) -> Result<()> {
        self.execute(
            "UPDATE blobs SET status = $2, reclaim_at = $3 WHERE blob_id = $1",
            &[&blob_id.as_str(), &BLOB_DELETED, &again.as_millis()],
        )
        .await?;
        Ok(())
    }

    async fn expired_stages(
        &mut self,
        now: Timestamp,
        at_most: u32,
    ) -> Result<Vec<(UserId, StagingId)>> {
        let rows = self
            .query(
                "SELECT owner, staging_id FROM blob_stages \
                 WHERE status = 'blob-stage:staged' AND expires_at <= $1 \
                 ORDER BY expires_at LIMIT $2",
                &[&now.as_millis(), &i64::from(at_most)],
            )
            .await?;
        let read = |row| {
            let columns = Columns { row, table: "blob_stages", key: "?" };
            Ok((columns.parse(0)?, columns.parse(1)?))
        };
        rows.iter().map(read).collect()
    }

    async fn to_reclaim(&mut self, now: Timestamp, at_most: u32) -> Result<Vec<Reclaim>> {
        let rows = self
            .query(
                "SELECT b.blob_id, b.status, u.handle FROM blobs b \
                 JOIN blob_stages s ON s.blob_id = b.blob_id \
                 LEFT JOIN blob_uploads u ON u.staging_id = s.staging_id \
                 WHERE b.reclaim_at <= $1 ORDER BY b.reclaim_at LIMIT $2",
                &[&now.as_millis(), &i64::from(at_most)],
            )
            .await?;
        rows.iter().map(reclaim).collect()
    }

    async fn reclaim_of(&mut self, blob_id: &BlobId) -> Result<Option<Reclaim>> {
        let row = self
            .query_opt(
                "SELECT b.blob_id, b.status, u.handle FROM blobs b \
                 JOIN blob_stages s ON s.blob_id = b.blob_id \
                 LEFT JOIN blob_uploads u ON u.staging_id = s.staging_id \
                 WHERE b.blob_id = $1 AND b.reclaim_at IS NOT NULL \
                 AND b.status <> 'deleted'",
                &[&blob_id.as_str()],
            )
            .await?;
        row.as_ref().map(reclaim).transpose()
    }

    async fn blobs_after(
        &mut self,
        after: Option<&BlobId>,
        at_most: u32,
    ) -> Result<Vec<BlobSummary>> {
        let rows = self
            .query(
                "SELECT blob_id, status, size FROM blobs WHERE blob_id > $1 \
                 ORDER BY blob_id LIMIT $2",
                &[&after.map_or("", BlobId::as_str), &i64::from(at_most)],
            )
            .await?;
        let read = |row| {
            let columns = Columns { row, table: "blobs", key: "?" };
            let size = columns.get::<Option<i64>>(2)?.map(|_| columns.unsigned(2)).transpose()?;
            let live = columns.get::<&str>(1)? == BLOB_LIVE;
            Ok(BlobSummary { blob_id: columns.parse(0)?, live, size })
        };
        rows.iter().map(read).collect()
    }

    async fn usage(&mut self, owner: &UserId) -> Result<Usage> {
        let sql = if self.only_reads {
            "SELECT stored, staged, open_stages FROM blob_usage WHERE owner = $1"
        } else {
            "INSERT INTO blob_usage (owner, stored, staged, open_stages) VALUES ($1, 0, 0, 0) \
             ON CONFLICT (owner) DO UPDATE SET owner = excluded.owner \
             RETURNING stored, staged, open_stages"
        };
        let row = self.query_opt(sql, &[&owner.as_str()]).await?;
        let Some(row) = row else { return Ok(Usage::default()) };
        let columns = Columns { row: &row, table: "blob_usage", key: owner };
        Ok(Usage {
            stored: columns.unsigned(0)?,
            staged: columns.unsigned(1)?,
            open_stages: columns.unsigned(2)?,
        })
    }

    async fn set_usage(&mut self, owner: &UserId, usage: Usage) -> Result<()> {
        self.execute(
            "UPDATE blob_usage SET stored = $2, staged = $3, open_stages = $4 WHERE owner = $1",
            &[
                &owner.as_str(),
                &encoding::size(usage.stored)?,
                &encoding::size(usage.staged)?,
                &encoding::size(usage.open_stages)?,
            ],
        )
        .await?;
        Ok(())
    }
}

fn read_stage(staging_id: &StagingId, stage: &Row, blob: Option<&Row>) -> Result<Stage> {
    let columns = Columns { row: stage, table: "blob_stages", key: staging_id };
    let blob = blob.ok_or_else(|| columns.malformed("its blob is missing"))?;
    let blob = Columns { row: blob, table: "blobs", key: columns.get::<&str>(1)? };
    let row = StageRow {
        staging_id: staging_id.clone(),
        owner: columns.parse(0)?,
        blob_id: columns.parse(1)?,
        status: columns.code(2, encoding::stage_status)?,
        staged_at: columns.time(3)?,
        expires_at: columns.time(4)?,
        content_type: blob.get::<Option<&str>>(0)?.map(Into::into),
        uploaded: blob.size_and_digest(1)?,
    };
    let charged = match blob.get::<Option<&str>>(5)? {
        Some(_) => blob.parse(5)?,
        None => row.owner.clone(),
    };
    Ok(Stage {
        row,
        charged,
        expiry_chosen: columns.get(5)?,
        reserved: blob.unsigned(3)?,
        blob_status: blob.code(4, encoding::blob_status)?,
    })
}

fn reclaim(row: &Row) -> Result<Reclaim> {
    let columns = Columns { row, table: "blobs", key: "?" };
    Ok(Reclaim {
        blob_id: columns.parse(0)?,
        bytes: columns.get::<&str>(1)? != BLOB_LIVE,
        upload: columns.get(2)?,
    })
}
