//! The registry of blobs: stages, blobs, attachments.

use tokio_postgres::Row;
use vfs_sync_core::attach::StageRow;
use vfs_sync_core::content::{Attachment, RelationKind};
use vfs_sync_core::id::{BlobId, ItemId, StagingId, UserId};
use vfs_sync_core::register::ItemFields;
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::StageStatus;

use super::rows::Columns;
use super::transaction::PostgresTransaction;
use crate::codes::{self, BLOB_ABANDONED, BLOB_LIVE};
use crate::transaction::{Stored, StoredStage};
use crate::{BlobRow, NewStage, StoreError};

pub(super) async fn stage(
    tx: &PostgresTransaction<'_>,
    staging_id: &StagingId,
) -> Result<Stored<StoredStage>, StoreError> {
    let (stage_sql, blob_sql) = if tx.only_reads {
        (
            "SELECT owner, blob_id, status, staged_at, expires_at, expiry_chosen \
             FROM blob_stages WHERE staging_id = $1",
            "SELECT content_type, size, digest FROM blobs WHERE blob_id = $1",
        )
    } else {
        (
            "SELECT owner, blob_id, status, staged_at, expires_at, expiry_chosen \
             FROM blob_stages WHERE staging_id = $1 FOR UPDATE",
            "SELECT content_type, size, digest FROM blobs WHERE blob_id = $1 FOR UPDATE",
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
    Ok(StoredStage { row, expiry_chosen: columns.get(5)? })
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
    stage: &StageRow,
    status: StageStatus,
) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE blob_stages SET status = $2 WHERE staging_id = $1",
        &[&stage.staging_id.as_str(), &status.as_str()],
    )
    .await?;
    if status == StageStatus::Abandoned {
        tx.execute(
            "UPDATE blobs SET status = $2 WHERE blob_id = $1",
            &[&stage.blob_id.as_str(), &BLOB_ABANDONED],
        )
        .await?;
    }
    Ok(())
}

pub(super) async fn attachments_of(
    tx: &PostgresTransaction<'_>,
    items: &[String],
) -> Result<Vec<Attachment>, StoreError> {
    let rows = tx
        .query(
            "SELECT r.ref_id, r.item_id, r.blob_id, r.kind, r.attached_at, b.content_type, \
             b.size, b.digest FROM blob_refs r JOIN blobs b USING (blob_id) \
             WHERE r.item_id = ANY($1) AND r.is_current",
            &[&items],
        )
        .await?;
    rows.iter().map(attachment).collect()
}

pub(super) async fn attachments_with(
    tx: &PostgresTransaction<'_>,
    blob: &BlobId,
) -> Result<Vec<Attachment>, StoreError> {
    let rows = tx
        .query(
            "SELECT r.ref_id, r.item_id, r.blob_id, r.kind, r.attached_at, b.content_type, \
             b.size, b.digest FROM blob_refs r JOIN blobs b USING (blob_id) \
             WHERE r.blob_id = $1",
            &[&blob.as_str()],
        )
        .await?;
    rows.iter().map(attachment).collect()
}

fn attachment(row: &Row) -> Result<Attachment, StoreError> {
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
    })
}

pub(super) async fn insert_attachment(
    tx: &PostgresTransaction<'_>,
    attachment: &Attachment,
) -> Result<(), StoreError> {
    if attachment.relation_kind == RelationKind::File {
        tx.execute(
            "UPDATE blob_refs SET is_current = false \
             WHERE item_id = $1 AND is_current AND kind = 'file'",
            &[&attachment.item_id.as_str()],
        )
        .await?;
    }
    tx.execute(
        "INSERT INTO blob_refs (ref_id, item_id, blob_id, kind, is_current, attached_at) \
         VALUES ($1, $2, $3, $4, true, $5)",
        &[
            &attachment.ref_id.as_str(),
            &attachment.item_id.as_str(),
            &attachment.blob_id.as_str(),
            &codes::kind_code(attachment.relation_kind),
            &attachment.attached_at.as_millis(),
        ],
    )
    .await?;
    Ok(())
}

/// The blob, if it has bytes, is not abandoned, and the user staged it or sees it on an item.
pub(super) async fn readable(
    tx: &mut PostgresTransaction<'_>,
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
