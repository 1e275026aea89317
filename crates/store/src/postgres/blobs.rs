//! The registry of blobs: stages, blobs, attachments.

use tokio_postgres::Row;
use vfs_sync_core::content::{Attachment, RelationKind};
use vfs_sync_core::id::{BlobId, ItemId, StagingId, UserId};
use vfs_sync_core::register::ItemFields;
use vfs_sync_core::server::attach::{AttachChanges, Expected, MadeAttach, StageRow};
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::StageStatus;

use super::rows::Columns;
use super::transaction::PostgresTransaction;
use crate::codes::{self, BLOB_DELETED, BLOB_DELETING, BLOB_LIVE};
use crate::transaction::{Stored, StoredStage};
use crate::{BlobRow, BlobSummary, KEPT_VERSIONS, NewStage, Reclaim, StoreError};

pub(super) async fn stage(
    tx: &PostgresTransaction<'_>,
    staging_id: &StagingId,
) -> Result<Stored<StoredStage>, StoreError> {
    let (stage_sql, blob_sql) = if tx.only_reads {
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
    let Some(stage) = tx.query_opt(stage_sql, &[&staging_id.as_str()]).await? else {
        return Ok(None);
    };
    let blob_id: String = stage.try_get(1)?;
    let blob = tx.query_opt(blob_sql, &[&blob_id]).await?;
    Ok(Some(read_stage(staging_id, &stage, blob.as_ref())))
}

fn read_stage(
    staging_id: &StagingId,
    stage: &Row,
    blob: Option<&Row>,
) -> Result<StoredStage, StoreError> {
    let columns = Columns { row: stage, table: "blob_stages", key: staging_id };
    let blob = blob.ok_or_else(|| columns.malformed("its blob is missing"))?;
    let blob = Columns { row: blob, table: "blobs", key: columns.get::<&str>(1)? };
    let row = StageRow {
        staging_id: staging_id.clone(),
        owner: columns.parse(0)?,
        blob_id: columns.parse(1)?,
        status: columns.code(2, codes::stage_status)?,
        staged_at: columns.time(3)?,
        expires_at: columns.time(4)?,
        content_type: blob.get::<Option<&str>>(0)?.map(Into::into),
        uploaded: blob.size_and_digest(1)?,
    };
    let charged = match blob.get::<Option<&str>>(5)? {
        Some(_) => blob.parse(5)?,
        None => row.owner.clone(),
    };
    Ok(StoredStage {
        row,
        charged,
        expiry_chosen: columns.get(5)?,
        reserved: blob.unsigned(3)?,
        blob_status: blob.code(4, codes::blob_status)?,
    })
}

pub(super) async fn insert_stage(
    tx: &mut PostgresTransaction<'_>,
    user: &UserId,
    stage: &NewStage,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let (owner, id) = (user.as_str(), stage.staging_id.as_str());
    let made = tx
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
        // It was not there a moment ago: look again what it is.
        return Err(tx.begin_again());
    }
    let made = tx
        .execute(
            "INSERT INTO blobs (blob_id, owner, status, content_type) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (blob_id) DO NOTHING",
            &[&stage.blob_id.as_str(), &owner, &BLOB_LIVE, &stage.content_type],
        )
        .await?;
    if made == 0 {
        tx.execute("DELETE FROM blob_stages WHERE staging_id = $1", &[&id]).await?;
    }
    Ok(made > 0)
}

pub(super) async fn set_stage_status(
    tx: &PostgresTransaction<'_>,
    staging_id: &StagingId,
    status: StageStatus,
) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE blob_stages SET status = $2 WHERE staging_id = $1",
        &[&staging_id.as_str(), &status.as_str()],
    )
    .await?;
    Ok(())
}

pub(super) async fn delete_stage(
    tx: &PostgresTransaction<'_>,
    staging_id: &StagingId,
    blob_id: &BlobId,
) -> Result<(), StoreError> {
    tx.execute("DELETE FROM blob_stages WHERE staging_id = $1", &[&staging_id.as_str()]).await?;
    tx.execute("DELETE FROM blobs WHERE blob_id = $1", &[&blob_id.as_str()]).await?;
    Ok(())
}

pub(super) async fn discard(
    tx: &PostgresTransaction<'_>,
    blob_id: &BlobId,
    now: Timestamp,
) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE blobs SET status = $2, reserved = 0, reclaim_at = $3 WHERE blob_id = $1",
        &[&blob_id.as_str(), &BLOB_DELETING, &now.as_millis()],
    )
    .await?;
    Ok(())
}

pub(super) async fn set_reclaim(
    tx: &PostgresTransaction<'_>,
    blob_id: &BlobId,
    at: Timestamp,
) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE blobs SET reclaim_at = $2 WHERE blob_id = $1",
        &[&blob_id.as_str(), &at.as_millis()],
    )
    .await?;
    Ok(())
}

pub(super) async fn clear_reclaim(
    tx: &PostgresTransaction<'_>,
    blob_id: &BlobId,
    now: Timestamp,
) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE blobs SET reclaim_at = NULL WHERE blob_id = $1 AND reclaim_at <= $2",
        &[&blob_id.as_str(), &now.as_millis()],
    )
    .await?;
    Ok(())
}

pub(super) async fn move_reclaim(
    tx: &PostgresTransaction<'_>,
    blob_id: &BlobId,
    now: Timestamp,
    at: Timestamp,
) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE blobs SET reclaim_at = $3 WHERE blob_id = $1 AND reclaim_at <= $2",
        &[&blob_id.as_str(), &now.as_millis(), &at.as_millis()],
    )
    .await?;
    Ok(())
}

pub(super) async fn set_deleted(
    tx: &PostgresTransaction<'_>,
    blob_id: &BlobId,
    again: Timestamp,
) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE blobs SET status = $2, reclaim_at = $3 WHERE blob_id = $1",
        &[&blob_id.as_str(), &BLOB_DELETED, &again.as_millis()],
    )
    .await?;
    Ok(())
}

pub(super) async fn expired(
    tx: &mut PostgresTransaction<'_>,
    now: Timestamp,
    at_most: u32,
) -> Result<Vec<(UserId, StagingId)>, StoreError> {
    let rows = tx
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

fn reclaim(row: &Row) -> Result<Reclaim, StoreError> {
    let columns = Columns { row, table: "blobs", key: "?" };
    Ok(Reclaim {
        blob_id: columns.parse(0)?,
        bytes: columns.get::<&str>(1)? != BLOB_LIVE,
        upload: columns.get(2)?,
    })
}

pub(super) async fn to_reclaim(
    tx: &mut PostgresTransaction<'_>,
    now: Timestamp,
    at_most: u32,
) -> Result<Vec<Reclaim>, StoreError> {
    let rows = tx
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

pub(super) async fn reclaim_of(
    tx: &mut PostgresTransaction<'_>,
    blob_id: &BlobId,
) -> Result<Option<Reclaim>, StoreError> {
    let row = tx
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

pub(super) async fn after(
    tx: &mut PostgresTransaction<'_>,
    after: Option<&BlobId>,
    at_most: u32,
) -> Result<Vec<BlobSummary>, StoreError> {
    let rows = tx
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

pub(super) async fn attachments_of(
    tx: &PostgresTransaction<'_>,
    items: &[String],
) -> Result<Vec<Attachment>, StoreError> {
    let rows = tx
        .query(
            "SELECT r.ref_id, r.item_id, r.blob_id, r.kind, r.attached_at, b.content_type, \
             b.size, b.digest, r.modified_at FROM blob_refs r JOIN blobs b USING (blob_id) \
             WHERE r.item_id = ANY($1) AND r.is_current",
            &[&items],
        )
        .await?;
    rows.iter().map(attachment).collect()
}

pub(super) async fn attachments_with(
    tx: &PostgresTransaction<'_>,
    blob: &BlobId,
) -> Result<Vec<MadeAttach>, StoreError> {
    let rows = tx
        .query(
            "SELECT r.ref_id, r.item_id, r.blob_id, r.kind, r.attached_at, b.content_type, \
             b.size, b.digest, r.modified_at, r.expected \
             FROM blob_refs r JOIN blobs b USING (blob_id) WHERE r.blob_id = $1",
            &[&blob.as_str()],
        )
        .await?;
    let read = |row| {
        let columns = Columns { row, table: "blob_refs", key: blob };
        let expected = columns.get::<Option<&str>>(9)?.map(|text| {
            Expected::from_text(text).ok_or_else(|| columns.malformed("expected is no expectation"))
        });
        Ok(MadeAttach { attachment: attachment(row)?, expected: expected.transpose()? })
    };
    rows.iter().map(read).collect()
}

pub(super) fn attachment(row: &Row) -> Result<Attachment, StoreError> {
    let key = row.try_get::<_, &str>(0).unwrap_or("?");
    let columns = Columns { row, table: "blob_refs", key };
    let (size, digest) = columns
        .size_and_digest(6)?
        .ok_or_else(|| columns.malformed("its blob has no size and digest"))?;
    Ok(Attachment {
        ref_id: columns.parse(0)?,
        item_id: columns.parse(1)?,
        blob_id: columns.parse(2)?,
        relation_kind: columns.code(3, codes::kind)?,
        attached_at: columns.time(4)?,
        content_type: columns.get::<Option<&str>>(5)?.map(Into::into),
        size,
        digest,
        modified_at: columns.get::<Option<i64>>(8)?.map(|_| columns.time(8)).transpose()?,
    })
}

pub(super) async fn insert_attachment(
    tx: &PostgresTransaction<'_>,
    changes: &AttachChanges,
) -> Result<(), StoreError> {
    let attachment = &changes.attachment;
    if attachment.relation_kind == RelationKind::File {
        tx.execute(
            "UPDATE blob_refs SET is_current = false \
             WHERE item_id = $1 AND is_current AND kind = 'file'",
            &[&attachment.item_id.as_str()],
        )
        .await?;
    }
    tx.execute(
        "INSERT INTO blob_refs (ref_id, item_id, blob_id, kind, is_current, attached_at, \
         modified_at, expected) VALUES ($1, $2, $3, $4, true, $5, $6, $7)",
        &[
            &attachment.ref_id.as_str(),
            &attachment.item_id.as_str(),
            &attachment.blob_id.as_str(),
            &codes::kind_code(attachment.relation_kind),
            &attachment.attached_at.as_millis(),
            &attachment.modified_at.map(Timestamp::as_millis),
            &changes.expected.to_text(),
        ],
    )
    .await?;
    if attachment.relation_kind == RelationKind::File {
        // The one that this makes the first beyond the versions that are kept.
        tx.execute(
            "UPDATE blob_refs SET surplus_since = $2 WHERE surplus_since IS NULL AND ref_id = ( \
             SELECT ref_id FROM blob_refs WHERE item_id = $1 AND kind = 'file' \
             ORDER BY attached_at DESC, ref_id DESC LIMIT 1 OFFSET $3)",
            &[
                &attachment.item_id.as_str(),
                &attachment.attached_at.as_millis(),
                &i64::from(KEPT_VERSIONS + 1),
            ],
        )
        .await?;
    }
    Ok(())
}

/// The blob, if it has bytes, is not abandoned, and the user staged it or sees it on an item.
pub(super) async fn readable(
    tx: &PostgresTransaction<'_>,
    user: &UserId,
    blob_id: &BlobId,
) -> Result<Option<BlobRow>, StoreError> {
    let row = tx
        .query_opt(
            "SELECT owner, content_type, size, digest FROM blobs \
             WHERE blob_id = $1 AND status = 'live' AND size IS NOT NULL",
            &[&blob_id.as_str()],
        )
        .await?;
    let Some(row) = row else { return Ok(None) };
    let columns = Columns { row: &row, table: "blobs", key: blob_id };
    if columns.get::<&str>(0)? != user.as_str() && !shown_to(tx, user, blob_id).await? {
        return Ok(None);
    }
    let (size, digest) = columns
        .size_and_digest(2)?
        .ok_or_else(|| columns.malformed("it has no size and digest"))?;
    let content_type = columns.get(1)?;
    Ok(Some(BlobRow { blob_id: blob_id.clone(), size, digest, content_type }))
}

/// [`readable`] of each, all asked for at once.
pub(super) async fn all_readable(
    tx: &PostgresTransaction<'_>,
    user: &UserId,
    blob_ids: &[BlobId],
) -> Result<Vec<Option<BlobRow>>, StoreError> {
    futures::future::try_join_all(blob_ids.iter().map(|id| readable(tx, user, id))).await
}

/// Whether the blob is attached to a live item that the user may read.
async fn shown_to(
    tx: &PostgresTransaction<'_>,
    user: &UserId,
    blob_id: &BlobId,
) -> Result<bool, StoreError> {
    let rows = tx
        .query(
            "SELECT i.item_id, i.fields FROM blob_refs r JOIN items i USING (item_id) \
             WHERE r.blob_id = $1 AND (i.owner = $2 OR EXISTS \
             (SELECT 1 FROM access a WHERE a.item_id = i.item_id AND a.user_id = $2))",
            &[&blob_id.as_str(), &user.as_str()],
        )
        .await?;
    for row in &rows {
        let item: ItemId = Columns { row, table: "items", key: blob_id }.parse(0)?;
        let columns = Columns { row, table: "items", key: &item };
        let fields =
            ItemFields::from_bytes(columns.get(1)?).map_err(|error| columns.malformed(error))?;
        if !fields.is_deleted() {
            return Ok(true);
        }
    }
    Ok(false)
}
