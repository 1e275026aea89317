//! The registry of blobs: stages, blobs, attachments.

use std::collections::BTreeSet;

use rusqlite::params;
use vfs_sync_core::content::{Attachment, RelationKind, Sha256Digest};
use vfs_sync_core::id::{BlobId, ItemId, StagingId, UserId};
use vfs_sync_core::register::ItemFields;
use vfs_sync_core::server::attach::{AttachChanges, Expected, MadeAttach, StageRow};
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::StageStatus;

use super::rows::Columns;
use super::transaction::SqliteTransaction;
use crate::codes::{self, BLOB_DELETED, BLOB_DELETING, BLOB_LIVE};
use crate::transaction::{Stored, StoredStage};
use crate::{BlobRow, BlobSummary, KEPT_VERSIONS, NewStage, Reclaim, StoreError};

pub(super) fn stage(
    tx: &mut SqliteTransaction<'_>,
    staging_id: &StagingId,
) -> Result<Stored<StoredStage>, StoreError> {
    let mut select = tx.prepare(
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
            owner: tx.user(columns.integer(0)?, "blob_stages", staging_id)?,
            blob_id: columns.parse(1)?,
            status: codes::stage_status(columns.text(2)?)
                .ok_or_else(|| columns.malformed("status has an unknown value"))?,
            staged_at: columns.time(3)?,
            expires_at: columns.time(4)?,
            content_type: columns.optional_text(6)?.map(Into::into),
            uploaded: size_and_digest(&columns, 7)?,
        };
        let charged = match columns.optional_integer(12)? {
            Some(uid) => tx.user(uid, "blobs", &row.blob_id)?,
            None => row.owner.clone(),
        };
        Ok(StoredStage {
            row,
            charged,
            expiry_chosen: columns.integer(5)? != 0,
            reserved: columns.unsigned(10)?,
            blob_status: codes::blob_status(columns.text(11)?)
                .ok_or_else(|| columns.malformed("its blob's status has an unknown value"))?,
        })
    };
    Ok(Some(read()))
}

/// The columns `size` and `digest`, both there or neither.
fn size_and_digest<K: std::fmt::Display>(
    columns: &Columns<'_, '_, K>,
    first: usize,
) -> Result<Option<(u64, Sha256Digest)>, StoreError> {
    if columns.optional_integer(first)?.is_none() {
        return Ok(None);
    }
    let digest = columns.bytes(first + 1)?.try_into();
    let digest = digest.map_err(|_| columns.malformed("digest is not 32 bytes"))?;
    Ok(Some((columns.unsigned(first)?, Sha256Digest(digest))))
}

pub(super) fn insert_stage(
    tx: &mut SqliteTransaction<'_>,
    user: &UserId,
    stage: &NewStage,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let owner = tx.make_uid(user)?;
    let made = tx
        .prepare(
            "INSERT INTO blobs (blob_id, owner, status, content_type) VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT (blob_id) DO NOTHING",
        )?
        .execute(params![stage.blob_id.as_str(), owner, BLOB_LIVE, stage.content_type])?;
    if made == 0 {
        return Ok(false);
    }
    tx.prepare(
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

pub(super) fn set_uploaded(
    tx: &mut SqliteTransaction<'_>,
    blob_id: &BlobId,
    size: u64,
    digest: Sha256Digest,
) -> Result<(), StoreError> {
    tx.prepare("UPDATE blobs SET size = ?2, digest = ?3 WHERE blob_id = ?1")?.execute(params![
        blob_id.as_str(),
        codes::size(size)?,
        digest.0.as_slice()
    ])?;
    Ok(())
}

pub(super) fn set_stage_status(
    tx: &mut SqliteTransaction<'_>,
    staging_id: &StagingId,
    status: StageStatus,
) -> Result<(), StoreError> {
    tx.prepare("UPDATE blob_stages SET status = ?2 WHERE staging_id = ?1")?
        .execute([staging_id.as_str(), status.as_str()])?;
    Ok(())
}

pub(super) fn delete_stage(
    tx: &mut SqliteTransaction<'_>,
    staging_id: &StagingId,
    blob_id: &BlobId,
) -> Result<(), StoreError> {
    tx.prepare("DELETE FROM blob_stages WHERE staging_id = ?1")?.execute([staging_id.as_str()])?;
    tx.prepare("DELETE FROM blobs WHERE blob_id = ?1")?.execute([blob_id.as_str()])?;
    Ok(())
}

pub(super) fn discard(
    tx: &mut SqliteTransaction<'_>,
    blob_id: &BlobId,
    now: Timestamp,
) -> Result<(), StoreError> {
    tx.prepare("UPDATE blobs SET status = ?2, reserved = 0, reclaim_at = ?3 WHERE blob_id = ?1")?
        .execute(params![blob_id.as_str(), BLOB_DELETING, now.as_millis()])?;
    Ok(())
}

pub(super) fn set_reclaim(
    tx: &mut SqliteTransaction<'_>,
    blob_id: &BlobId,
    at: Timestamp,
) -> Result<(), StoreError> {
    tx.prepare("UPDATE blobs SET reclaim_at = ?2 WHERE blob_id = ?1")?
        .execute(params![blob_id.as_str(), at.as_millis()])?;
    Ok(())
}

pub(super) fn clear_reclaim(
    tx: &mut SqliteTransaction<'_>,
    blob_id: &BlobId,
    now: Timestamp,
) -> Result<(), StoreError> {
    tx.prepare("UPDATE blobs SET reclaim_at = NULL WHERE blob_id = ?1 AND reclaim_at <= ?2")?
        .execute(params![blob_id.as_str(), now.as_millis()])?;
    Ok(())
}

pub(super) fn move_reclaim(
    tx: &mut SqliteTransaction<'_>,
    blob_id: &BlobId,
    now: Timestamp,
    at: Timestamp,
) -> Result<(), StoreError> {
    tx.prepare("UPDATE blobs SET reclaim_at = ?3 WHERE blob_id = ?1 AND reclaim_at <= ?2")?
        .execute(params![blob_id.as_str(), now.as_millis(), at.as_millis()])?;
    Ok(())
}

pub(super) fn set_deleted(
    tx: &mut SqliteTransaction<'_>,
    blob_id: &BlobId,
    again: Timestamp,
) -> Result<(), StoreError> {
    tx.prepare("UPDATE blobs SET status = ?2, reclaim_at = ?3 WHERE blob_id = ?1")?
        .execute(params![blob_id.as_str(), BLOB_DELETED, again.as_millis()])?;
    Ok(())
}

pub(super) fn expired(
    tx: &mut SqliteTransaction<'_>,
    now: Timestamp,
    at_most: u32,
) -> Result<Vec<(UserId, StagingId)>, StoreError> {
    let mut select = tx.prepare(
        "SELECT owner, staging_id FROM blob_stages \
         WHERE status = 'blob-stage:staged' AND expires_at <= ?1 ORDER BY expires_at LIMIT ?2",
    )?;
    let mut rows = select.query(params![now.as_millis(), at_most])?;
    let mut expired = Vec::new();
    while let Some(row) = rows.next()? {
        let columns = Columns { row, table: "blob_stages", key: "?" };
        let staging_id: StagingId = columns.parse(1)?;
        expired.push((tx.user(columns.integer(0)?, "blob_stages", &staging_id)?, staging_id));
    }
    Ok(expired)
}

fn reclaims(
    tx: &mut SqliteTransaction<'_>,
    sql: &str,
    parameters: impl rusqlite::Params,
) -> Result<Vec<Reclaim>, StoreError> {
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

pub(super) fn to_reclaim(
    tx: &mut SqliteTransaction<'_>,
    now: Timestamp,
    at_most: u32,
) -> Result<Vec<Reclaim>, StoreError> {
    reclaims(
        tx,
        "SELECT b.blob_id, b.status, u.handle FROM blobs b \
         JOIN blob_stages s ON s.blob_id = b.blob_id \
         LEFT JOIN blob_uploads u ON u.staging_id = s.staging_id \
         WHERE b.reclaim_at <= ?1 ORDER BY b.reclaim_at LIMIT ?2",
        params![now.as_millis(), at_most],
    )
}

pub(super) fn reclaim_of(
    tx: &mut SqliteTransaction<'_>,
    blob_id: &BlobId,
) -> Result<Option<Reclaim>, StoreError> {
    let found = reclaims(
        tx,
        "SELECT b.blob_id, b.status, u.handle FROM blobs b \
         JOIN blob_stages s ON s.blob_id = b.blob_id \
         LEFT JOIN blob_uploads u ON u.staging_id = s.staging_id \
         WHERE b.blob_id = ?1 AND b.reclaim_at IS NOT NULL \
             AND b.status <> 'deleted'",
        [blob_id.as_str()],
    )?;
    Ok(found.into_iter().next())
}

pub(super) fn after(
    tx: &mut SqliteTransaction<'_>,
    after: Option<&BlobId>,
    at_most: u32,
) -> Result<Vec<BlobSummary>, StoreError> {
    let mut select = tx.prepare(
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

pub(super) fn attachments_of(
    tx: &mut SqliteTransaction<'_>,
    item: &ItemId,
) -> Result<Vec<Attachment>, StoreError> {
    attachments(
        tx,
        "SELECT r.ref_id, r.item_id, r.blob_id, r.kind, r.attached_at, b.content_type, b.size, \
         b.digest, r.modified_at FROM blob_refs r JOIN blobs b USING (blob_id) \
         WHERE r.item_id = ?1 AND r.is_current = 1",
        item.as_str(),
    )
}

/// What is attached to each of `items`; of those that have nothing, nothing is said.
pub(super) fn load_attachments(
    tx: &mut SqliteTransaction<'_>,
    items: &BTreeSet<ItemId>,
    found: &mut vfs_sync_core::server::push::Map<ItemId, Vec<Attachment>>,
) -> Result<(), StoreError> {
    let mut any = tx.prepare("SELECT 1 FROM blob_refs WHERE item_id = ?1 AND is_current = 1")?;
    for item in items {
        if any.exists([item.as_str()])? {
            found.insert(item.clone(), attachments_of(tx, item)?);
        }
    }
    Ok(())
}

pub(super) fn attachments_with(
    tx: &mut SqliteTransaction<'_>,
    blob: &BlobId,
) -> Result<Vec<MadeAttach>, StoreError> {
    let sql = "SELECT r.ref_id, r.item_id, r.blob_id, r.kind, r.attached_at, b.content_type, \
         b.size, b.digest, r.modified_at, r.expected \
         FROM blob_refs r JOIN blobs b USING (blob_id) WHERE r.blob_id = ?1";
    let mut select = tx.prepare(sql)?;
    let mut rows = select.query([blob.as_str()])?;
    let mut made = Vec::new();
    while let Some(row) = rows.next()? {
        let columns = Columns { row, table: "blob_refs", key: blob };
        let expected = columns.optional_text(9)?.map(|text| {
            Expected::from_text(text).ok_or_else(|| columns.malformed("expected is no expectation"))
        });
        let expected = expected.transpose()?;
        made.push(MadeAttach { attachment: attachment(&columns)?, expected });
    }
    Ok(made)
}

pub(super) fn attachments(
    tx: &mut SqliteTransaction<'_>,
    sql: &str,
    key: &str,
) -> Result<Vec<Attachment>, StoreError> {
    let mut select = tx.prepare(sql)?;
    let mut rows = select.query([key])?;
    let mut attachments = Vec::new();
    while let Some(row) = rows.next()? {
        attachments.push(attachment(&Columns { row, table: "blob_refs", key })?);
    }
    Ok(attachments)
}

fn attachment<K: std::fmt::Display>(
    columns: &Columns<'_, '_, K>,
) -> Result<Attachment, StoreError> {
    let (size, digest) = size_and_digest(columns, 6)?
        .ok_or_else(|| columns.malformed("its blob has no size and digest"))?;
    Ok(Attachment {
        ref_id: columns.parse(0)?,
        item_id: columns.parse(1)?,
        blob_id: columns.parse(2)?,
        relation_kind: codes::kind(columns.text(3)?)
            .ok_or_else(|| columns.malformed("kind has an unknown value"))?,
        attached_at: columns.time(4)?,
        content_type: columns.optional_text(5)?.map(Into::into),
        size,
        digest,
        modified_at: columns.optional_integer(8)?.map(|_| columns.time(8)).transpose()?,
    })
}

pub(super) fn insert_attachment(
    tx: &mut SqliteTransaction<'_>,
    changes: &AttachChanges,
) -> Result<(), StoreError> {
    let attachment = &changes.attachment;
    if attachment.relation_kind == RelationKind::File {
        tx.prepare(
            "UPDATE blob_refs SET is_current = 0 \
             WHERE item_id = ?1 AND is_current = 1 AND kind = 'file'",
        )?
        .execute([attachment.item_id.as_str()])?;
    }
    tx.prepare(
        "INSERT INTO blob_refs (ref_id, item_id, blob_id, kind, is_current, attached_at, \
         modified_at, expected) VALUES (?1, ?2, ?3, ?4, 1, ?5, ?6, ?7)",
    )?
    .execute(params![
        attachment.ref_id.as_str(),
        attachment.item_id.as_str(),
        attachment.blob_id.as_str(),
        codes::kind_code(attachment.relation_kind),
        attachment.attached_at.as_millis(),
        attachment.modified_at.map(Timestamp::as_millis),
        changes.expected.to_text(),
    ])?;
    if attachment.relation_kind == RelationKind::File {
        // The one that this makes the first beyond the versions that are kept.
        tx.prepare(
            "UPDATE blob_refs SET surplus_since = ?2 WHERE surplus_since IS NULL AND ref_id = ( \
             SELECT ref_id FROM blob_refs WHERE item_id = ?1 AND kind = 'file' \
             ORDER BY attached_at DESC, ref_id DESC LIMIT 1 OFFSET ?3)",
        )?
        .execute(params![
            attachment.item_id.as_str(),
            attachment.attached_at.as_millis(),
            KEPT_VERSIONS + 1,
        ])?;
    }
    Ok(())
}

/// The blob, if it has bytes, is not abandoned, and the user staged it or sees it on an item.
pub(super) fn readable(
    tx: &mut SqliteTransaction<'_>,
    user: &UserId,
    blob_id: &BlobId,
) -> Result<Option<BlobRow>, StoreError> {
    let mut select = tx.prepare(
        "SELECT size, digest, content_type, owner FROM blobs \
         WHERE blob_id = ?1 AND status = 'live' AND size IS NOT NULL",
    )?;
    let mut rows = select.query([blob_id.as_str()])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let columns = Columns { row, table: "blobs", key: blob_id };
    let Some(uid) = tx.uid(user)? else { return Ok(None) };
    if columns.integer(3)? != uid && !shown_to(tx, uid, blob_id)? {
        return Ok(None);
    }
    let (size, digest) = size_and_digest(&columns, 0)?
        .ok_or_else(|| columns.malformed("it has no size and digest"))?;
    let content_type = columns.optional_text(2)?.map(ToOwned::to_owned);
    Ok(Some(BlobRow { blob_id: blob_id.clone(), size, digest, content_type }))
}

/// Whether the blob is attached to a live item that the user may read.
fn shown_to(
    tx: &mut SqliteTransaction<'_>,
    uid: i64,
    blob_id: &BlobId,
) -> Result<bool, StoreError> {
    let mut select = tx.prepare(
        "SELECT i.item_id, i.fields FROM blob_refs r JOIN items i ON i.item_id = r.item_id \
         WHERE r.blob_id = ?1 AND (i.owner = ?2 OR EXISTS \
         (SELECT 1 FROM access a WHERE a.item_id = i.item_id AND a.uid = ?2))",
    )?;
    let mut rows = select.query(params![blob_id.as_str(), uid])?;
    while let Some(row) = rows.next()? {
        let item: ItemId = Columns { row, table: "items", key: blob_id }.parse(0)?;
        let columns = Columns { row, table: "items", key: &item };
        let fields =
            ItemFields::from_bytes(columns.bytes(1)?).map_err(|error| columns.malformed(error))?;
        if !fields.is_deleted() {
            return Ok(true);
        }
    }
    Ok(false)
}
