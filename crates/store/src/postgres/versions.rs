//! The contents that a file had.

use vfs_sync_core::content::Attachment;
use vfs_sync_core::id::{BlobId, ItemId, RefId, UserId};
use vfs_sync_core::register::ItemFields;
use vfs_sync_core::time::Timestamp;

use super::blobs;
use super::rows::Columns;
use super::transaction::PostgresTransaction;
use crate::StoreError;

pub(super) async fn of(
    tx: &mut PostgresTransaction<'_>,
    user: &UserId,
    item: &ItemId,
    limit: u32,
) -> Result<Option<Vec<Attachment>>, StoreError> {
    if !sees(tx, user, item).await? {
        return Ok(None);
    }
    let rows = tx
        .query(
            "SELECT r.ref_id, r.item_id, r.blob_id, r.kind, r.attached_at, b.content_type, \
             b.size, b.digest, r.modified_at FROM blob_refs r JOIN blobs b USING (blob_id) \
             WHERE r.item_id = $1 AND r.kind = 'file' \
             ORDER BY r.attached_at DESC, r.ref_id DESC LIMIT $2",
            &[&item.as_str(), &i64::from(limit)],
        )
        .await?;
    rows.iter().map(blobs::attachment).collect::<Result<_, _>>().map(Some)
}

/// Whether the item is there, for the user.
async fn sees(
    tx: &mut PostgresTransaction<'_>,
    user: &UserId,
    item: &ItemId,
) -> Result<bool, StoreError> {
    let row = tx
        .query_opt(
            "SELECT fields FROM items i WHERE item_id = $1 AND (owner = $2 OR EXISTS \
             (SELECT 1 FROM access a WHERE a.item_id = i.item_id AND a.user_id = $2))",
            &[&item.as_str(), &user.as_str()],
        )
        .await?;
    let Some(row) = row else { return Ok(false) };
    let columns = Columns { row: &row, table: "items", key: item };
    let fields =
        ItemFields::from_bytes(columns.get(0)?).map_err(|error| columns.malformed(error))?;
    Ok(!fields.is_deleted())
}

pub(super) async fn surplus(
    tx: &mut PostgresTransaction<'_>,
    before: Timestamp,
    at_most: u32,
) -> Result<Vec<(RefId, BlobId)>, StoreError> {
    let rows = tx
        .query(
            "SELECT ref_id, blob_id FROM blob_refs WHERE surplus_since < $1 \
             ORDER BY surplus_since LIMIT $2",
            &[&before.as_millis(), &i64::from(at_most)],
        )
        .await?;
    let read = |row| {
        let columns = Columns { row, table: "blob_refs", key: "?" };
        Ok((columns.parse(0)?, columns.parse(1)?))
    };
    rows.iter().map(read).collect()
}

pub(super) async fn delete(
    tx: &mut PostgresTransaction<'_>,
    ref_id: &RefId,
) -> Result<bool, StoreError> {
    let gone = tx
        .execute("DELETE FROM blob_refs WHERE ref_id = $1 AND NOT is_current", &[&ref_id.as_str()])
        .await?;
    Ok(gone > 0)
}
