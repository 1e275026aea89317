//! Uploads in parts, and what a user's blobs come to.

use vfs_sync_core::id::{BlobId, StagingId, UserId};

use super::rows::Columns;
use super::transaction::PostgresTransaction;
use crate::{StoreError, UploadRow, Usage, codes};

pub(super) async fn upload(
    tx: &PostgresTransaction<'_>,
    staging_id: &StagingId,
) -> Result<Option<UploadRow>, StoreError> {
    let row = tx
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

pub(super) async fn write_upload(
    tx: &PostgresTransaction<'_>,
    staging_id: &StagingId,
    upload: &UploadRow,
) -> Result<(), StoreError> {
    tx.execute(
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
            &upload.length.map(codes::size).transpose()?,
            &upload.metadata,
            &codes::size(upload.received)?,
            &i64::from(upload.parts),
            &upload.tail,
            &upload.hash,
        ],
    )
    .await?;
    Ok(())
}

pub(super) async fn delete_upload(
    tx: &PostgresTransaction<'_>,
    staging_id: &StagingId,
) -> Result<(), StoreError> {
    delete_parts(tx, staging_id).await?;
    tx.execute("DELETE FROM blob_uploads WHERE staging_id = $1", &[&staging_id.as_str()]).await?;
    Ok(())
}

pub(super) async fn parts(
    tx: &mut PostgresTransaction<'_>,
    staging_id: &StagingId,
) -> Result<Vec<String>, StoreError> {
    let rows = tx
        .query(
            "SELECT tag FROM blob_parts WHERE staging_id = $1 ORDER BY part",
            &[&staging_id.as_str()],
        )
        .await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

pub(super) async fn add_parts(
    tx: &PostgresTransaction<'_>,
    staging_id: &StagingId,
    from: u32,
    tags: &[String],
) -> Result<(), StoreError> {
    let parts: Vec<i64> = (i64::from(from)..).take(tags.len()).collect();
    tx.execute(
        "INSERT INTO blob_parts (staging_id, part, tag) \
         SELECT $1, v.part, v.tag FROM unnest($2::bigint[], $3::text[]) AS v (part, tag) \
         ON CONFLICT (staging_id, part) DO UPDATE SET tag = excluded.tag",
        &[&staging_id.as_str(), &parts, &tags],
    )
    .await?;
    Ok(())
}

pub(super) async fn delete_parts(
    tx: &PostgresTransaction<'_>,
    staging_id: &StagingId,
) -> Result<(), StoreError> {
    tx.execute("DELETE FROM blob_parts WHERE staging_id = $1", &[&staging_id.as_str()]).await?;
    Ok(())
}

/// What the user's blobs come to; locked where the transaction writes.
pub(super) async fn usage(
    tx: &PostgresTransaction<'_>,
    owner: &UserId,
) -> Result<Usage, StoreError> {
    let sql = if tx.only_reads {
        "SELECT stored, staged, open_stages FROM blob_usage WHERE owner = $1"
    } else {
        "INSERT INTO blob_usage (owner, stored, staged, open_stages) VALUES ($1, 0, 0, 0) \
         ON CONFLICT (owner) DO UPDATE SET owner = excluded.owner \
         RETURNING stored, staged, open_stages"
    };
    let row = tx.query_opt(sql, &[&owner.as_str()]).await?;
    let Some(row) = row else { return Ok(Usage::default()) };
    let columns = Columns { row: &row, table: "blob_usage", key: owner };
    Ok(Usage {
        stored: columns.unsigned(0)?,
        staged: columns.unsigned(1)?,
        open_stages: columns.unsigned(2)?,
    })
}

pub(super) async fn set_usage(
    tx: &PostgresTransaction<'_>,
    owner: &UserId,
    usage: Usage,
) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE blob_usage SET stored = $2, staged = $3, open_stages = $4 WHERE owner = $1",
        &[
            &owner.as_str(),
            &codes::size(usage.stored)?,
            &codes::size(usage.staged)?,
            &codes::size(usage.open_stages)?,
        ],
    )
    .await?;
    Ok(())
}

pub(super) async fn set_reserved(
    tx: &PostgresTransaction<'_>,
    blob_id: &BlobId,
    bytes: u64,
) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE blobs SET reserved = $2 WHERE blob_id = $1",
        &[&blob_id.as_str(), &codes::size(bytes)?],
    )
    .await?;
    Ok(())
}

/// The stage that brings the blob.
pub(super) async fn stage_of(
    tx: &PostgresTransaction<'_>,
    blob_id: &BlobId,
) -> Result<Option<StagingId>, StoreError> {
    let row = tx
        .query_opt("SELECT staging_id FROM blob_stages WHERE blob_id = $1", &[&blob_id.as_str()])
        .await?;
    row.map(|row| Columns { row: &row, table: "blob_stages", key: blob_id }.parse(0)).transpose()
}

/// The object store's names of all uploads: for an operator's comparison, and few.
pub(super) async fn handles(tx: &mut PostgresTransaction<'_>) -> Result<Vec<String>, StoreError> {
    let sql = "SELECT handle FROM blob_uploads WHERE handle IS NOT NULL";
    let rows = tx.query(sql, &[]).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}
