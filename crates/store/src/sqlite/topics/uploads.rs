//! Uploads in parts of stages.

use rusqlite::params;
use vfs_sync_core::id::StagingId;
use vfs_sync_core::server::stage::UploadRow;

use crate::encoding;
use crate::error::Result;
use crate::sqlite::rows::Columns;
use crate::sqlite::transaction::SqliteTransaction;
use crate::topics::Uploads;

impl Uploads for SqliteTransaction<'_> {
    async fn upload(&mut self, staging_id: &StagingId) -> Result<Option<UploadRow>> {
        let mut select = self.prepare(
            "SELECT handle, lease, length, metadata, received, parts, tail, hash \
             FROM blob_uploads WHERE staging_id = ?1",
        )?;
        let mut rows = select.query([staging_id.as_str()])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let columns = Columns { row, table: "blob_uploads", key: staging_id };
        let length = columns.optional_integer(2)?.map(|_| columns.unsigned(2)).transpose()?;
        Ok(Some(UploadRow {
            handle: columns.optional_text(0)?.map(str::to_owned),
            lease: columns.text(1)?.to_owned(),
            length,
            metadata: columns.optional_text(3)?.map(str::to_owned),
            received: columns.unsigned(4)?,
            parts: columns.code(5, |parts| u32::try_from(parts).ok())?,
            tail: columns.text(6)?.to_owned(),
            hash: columns.bytes(7)?.to_vec(),
        }))
    }

    async fn write_upload(&mut self, staging_id: &StagingId, upload: &UploadRow) -> Result<()> {
        self.prepare(
            "INSERT INTO blob_uploads \
             (staging_id, handle, lease, length, metadata, received, parts, tail, hash) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT (staging_id) DO UPDATE SET \
             handle = excluded.handle, lease = excluded.lease, length = excluded.length, \
             metadata = excluded.metadata, received = excluded.received, parts = excluded.parts, \
             tail = excluded.tail, hash = excluded.hash",
        )?
        .execute(params![
            staging_id.as_str(),
            upload.handle,
            upload.lease,
            upload.length.map(encoding::size).transpose()?,
            upload.metadata,
            encoding::size(upload.received)?,
            upload.parts,
            upload.tail,
            upload.hash,
        ])?;
        Ok(())
    }

    async fn delete_upload(&mut self, staging_id: &StagingId) -> Result<()> {
        self.delete_parts(staging_id).await?;
        self.prepare("DELETE FROM blob_uploads WHERE staging_id = ?1")?
            .execute([staging_id.as_str()])?;
        Ok(())
    }

    async fn upload_parts(&mut self, staging_id: &StagingId) -> Result<Vec<String>> {
        let mut select =
            self.prepare("SELECT tag FROM blob_parts WHERE staging_id = ?1 ORDER BY part")?;
        let tags = select.query_map([staging_id.as_str()], |row| row.get(0))?;
        Ok(tags.collect::<Result<_, _>>()?)
    }

    async fn add_parts(
        &mut self,
        staging_id: &StagingId,
        from: u32,
        tags: &[String],
    ) -> Result<()> {
        let mut insert = self.prepare(
            "INSERT INTO blob_parts (staging_id, part, tag) VALUES (?1, ?2, ?3) \
             ON CONFLICT (staging_id, part) DO UPDATE SET tag = excluded.tag",
        )?;
        for (part, tag) in (from..).zip(tags) {
            insert.execute(params![staging_id.as_str(), part, tag])?;
        }
        Ok(())
    }

    async fn delete_parts(&mut self, staging_id: &StagingId) -> Result<()> {
        self.prepare("DELETE FROM blob_parts WHERE staging_id = ?1")?
            .execute([staging_id.as_str()])?;
        Ok(())
    }

    async fn upload_handles(&mut self) -> Result<Vec<String>> {
        let mut select =
            self.prepare("SELECT handle FROM blob_uploads WHERE handle IS NOT NULL")?;
        let handles = select.query_map([], |row| row.get(0))?;
        Ok(handles.collect::<Result<_, _>>()?)
    }
}
