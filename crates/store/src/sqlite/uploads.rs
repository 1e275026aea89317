//! Uploads in parts, and what a user's blobs come to.

use rusqlite::{OptionalExtension as _, params};
use vfs_sync_core::id::{BlobId, StagingId, UserId};

use super::rows::Columns;
use super::transaction::SqliteTransaction;
use crate::{StoreError, UploadRow, Usage, codes};

pub(super) fn upload(
    tx: &mut SqliteTransaction<'_>,
    staging_id: &StagingId,
) -> Result<Option<UploadRow>, StoreError> {
    let mut select = tx.prepare(
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

pub(super) fn write_upload(
    tx: &mut SqliteTransaction<'_>,
    staging_id: &StagingId,
    upload: &UploadRow,
) -> Result<(), StoreError> {
    tx.prepare(
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
        upload.length.map(codes::size).transpose()?,
        upload.metadata,
        codes::size(upload.received)?,
        upload.parts,
        upload.tail,
        upload.hash,
    ])?;
    Ok(())
}

pub(super) fn delete_upload(
    tx: &mut SqliteTransaction<'_>,
    staging_id: &StagingId,
) -> Result<(), StoreError> {
    delete_parts(tx, staging_id)?;
    tx.prepare("DELETE FROM blob_uploads WHERE staging_id = ?1")?.execute([staging_id.as_str()])?;
    Ok(())
}

pub(super) fn parts(
    tx: &mut SqliteTransaction<'_>,
    staging_id: &StagingId,
) -> Result<Vec<String>, StoreError> {
    let mut select =
        tx.prepare("SELECT tag FROM blob_parts WHERE staging_id = ?1 ORDER BY part")?;
    let tags = select.query_map([staging_id.as_str()], |row| row.get(0))?;
    Ok(tags.collect::<Result<_, _>>()?)
}

pub(super) fn add_parts(
    tx: &mut SqliteTransaction<'_>,
    staging_id: &StagingId,
    from: u32,
    tags: &[String],
) -> Result<(), StoreError> {
    let mut insert = tx.prepare(
        "INSERT INTO blob_parts (staging_id, part, tag) VALUES (?1, ?2, ?3) \
         ON CONFLICT (staging_id, part) DO UPDATE SET tag = excluded.tag",
    )?;
    for (part, tag) in (from..).zip(tags) {
        insert.execute(params![staging_id.as_str(), part, tag])?;
    }
    Ok(())
}

pub(super) fn delete_parts(
    tx: &mut SqliteTransaction<'_>,
    staging_id: &StagingId,
) -> Result<(), StoreError> {
    tx.prepare("DELETE FROM blob_parts WHERE staging_id = ?1")?.execute([staging_id.as_str()])?;
    Ok(())
}

pub(super) fn usage(tx: &mut SqliteTransaction<'_>, owner: &UserId) -> Result<Usage, StoreError> {
    let Some(uid) = tx.uid(owner)? else { return Ok(Usage::default()) };
    let mut select =
        tx.prepare("SELECT stored, staged, open_stages FROM blob_usage WHERE owner = ?1")?;
    let mut rows = select.query([uid])?;
    let Some(row) = rows.next()? else { return Ok(Usage::default()) };
    let columns = Columns { row, table: "blob_usage", key: owner };
    Ok(Usage {
        stored: columns.unsigned(0)?,
        staged: columns.unsigned(1)?,
        open_stages: columns.unsigned(2)?,
    })
}

pub(super) fn set_usage(
    tx: &mut SqliteTransaction<'_>,
    owner: &UserId,
    usage: Usage,
) -> Result<(), StoreError> {
    let uid = tx.make_uid(owner)?;
    tx.prepare(
        "INSERT INTO blob_usage (owner, stored, staged, open_stages) VALUES (?1, ?2, ?3, ?4) \
         ON CONFLICT (owner) DO UPDATE SET stored = excluded.stored, staged = excluded.staged, \
         open_stages = excluded.open_stages",
    )?
    .execute(params![
        uid,
        codes::size(usage.stored)?,
        codes::size(usage.staged)?,
        codes::size(usage.open_stages)?,
    ])?;
    Ok(())
}

pub(super) fn set_reserved(
    tx: &mut SqliteTransaction<'_>,
    blob_id: &BlobId,
    bytes: u64,
) -> Result<(), StoreError> {
    tx.prepare("UPDATE blobs SET reserved = ?2 WHERE blob_id = ?1")?
        .execute(params![blob_id.as_str(), codes::size(bytes)?])?;
    Ok(())
}

/// The stage that brings the blob.
pub(super) fn stage_of(
    tx: &mut SqliteTransaction<'_>,
    blob_id: &BlobId,
) -> Result<Option<StagingId>, StoreError> {
    let mut select = tx.prepare("SELECT staging_id FROM blob_stages WHERE blob_id = ?1")?;
    let found: Option<String> =
        select.query_row([blob_id.as_str()], |row| row.get(0)).optional()?;
    let malformed = |error| codes::malformed("blob_stages", blob_id, error);
    found.map(|id| id.parse().map_err(malformed)).transpose()
}

/// The object store's names of all uploads: for an operator's comparison, and few.
pub(super) fn handles(tx: &mut SqliteTransaction<'_>) -> Result<Vec<String>, StoreError> {
    let mut select = tx.prepare("SELECT handle FROM blob_uploads WHERE handle IS NOT NULL")?;
    let handles = select.query_map([], |row| row.get(0))?;
    Ok(handles.collect::<Result<_, _>>()?)
}
