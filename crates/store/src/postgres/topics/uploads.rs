//! Uploads in parts of stages.

use vfs_sync_core::id::StagingId;
use vfs_sync_core::server::stage::UploadRow;

use crate::encoding;
use crate::error::Result;
use crate::postgres::rows::Columns;
use crate::postgres::transaction::PostgresTransaction;
use crate::topics::Uploads;

impl Uploads for PostgresTransaction<'_> {
    async fn upload(&mut self, staging_id: &StagingId) -> Result<Option<UploadRow>> {
        let row = self
            .query_opt(
                "SELECT handle, lease, length, metadata, received, parts, tail, hash \
                 FROM blob_uploads WHERE staging_id = $1",
                &[&staging_id.as_str()],
            )
            .await?;
        let Some(row) = row else { return Ok(None) };
        let columns = Columns { row: &row, table: "blob_uploads", key: staging_id };
        let length = columns.get::<Option<i64>>(2)?.map(|_| columns.unsigned(2)).transpose()?;
        Ok(Some(UploadRow {
            handle: columns.get(0)?,
            lease: columns.get(1)?,
            length,
            metadata: columns.get(3)?,
            received: columns.unsigned(4)?,
            parts: columns.code(5, |parts: i64| u32::try_from(parts).ok())?,
            tail: columns.get(6)?,
            hash: columns.get(7)?,
        }))
    }

    async fn write_upload(&mut self, staging_id: &StagingId, upload: &UploadRow) -> Result<()> {
        self.execute(
            "INSERT INTO blob_uploads \
             (staging_id, handle, lease, length, metadata, received, parts, tail, hash) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (staging_id) DO UPDATE SET \
             handle = excluded.handle, lease = excluded.lease, length = excluded.length, \
             metadata = excluded.metadata, received = excluded.received, parts = excluded.parts, \
             tail = excluded.tail, hash = excluded.hash",
            &[
                &staging_id.as_str(),
                &upload.handle,
                &upload.lease,
                &upload.length.map(encoding::size).transpose()?,
                &upload.metadata,
                &encoding::size(upload.received)?,
                &i64::from(upload.parts),
                &upload.tail,
                &upload.hash,
            ],
        )
        .await?;
        Ok(())
    }

    async fn delete_upload(&mut self, staging_id: &StagingId) -> Result<()> {
        self.delete_parts(staging_id).await?;
        self.execute("DELETE FROM blob_uploads WHERE staging_id = $1", &[&staging_id.as_str()])
            .await?;
        Ok(())
    }

    async fn upload_parts(&mut self, staging_id: &StagingId) -> Result<Vec<String>> {
        let rows = self
            .query(
                "SELECT tag FROM blob_parts WHERE staging_id = $1 ORDER BY part",
                &[&staging_id.as_str()],
            )
            .await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    async fn add_parts(
        &mut self,
        staging_id: &StagingId,
        from: u32,
        tags: &[String],
    ) -> Result<()> {
        let parts: Vec<i64> = (i64::from(from)..).take(tags.len()).collect();
        self.execute(
            "INSERT INTO blob_parts (staging_id, part, tag) \
             SELECT $1, v.part, v.tag FROM unnest($2::bigint[], $3::text[]) AS v (part, tag) \
             ON CONFLICT (staging_id, part) DO UPDATE SET tag = excluded.tag",
            &[&staging_id.as_str(), &parts, &tags],
        )
        .await?;
        Ok(())
    }

    async fn delete_parts(&mut self, staging_id: &StagingId) -> Result<()> {
        self.execute("DELETE FROM blob_parts WHERE staging_id = $1", &[&staging_id.as_str()])
            .await?;
        Ok(())
    }

    async fn upload_handles(&mut self) -> Result<Vec<String>> {
        let sql = "SELECT handle FROM blob_uploads WHERE handle IS NOT NULL";
        let rows = self.query(sql, &[]).await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }
}
