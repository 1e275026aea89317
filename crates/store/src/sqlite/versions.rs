//! The contents that a file had.

use rusqlite::params;
use vfs_sync_core::content::Attachment;
use vfs_sync_core::id::{BlobId, ItemId, RefId, UserId};
use vfs_sync_core::register::ItemFields;
use vfs_sync_core::time::Timestamp;

use super::blobs;
use super::rows::Columns;
use super::transaction::SqliteTransaction;
use crate::StoreError;

pub(super) fn of(
    tx: &mut SqliteTransaction<'_>,
    user: &UserId,
    item: &ItemId,
    limit: u32,
) -> Result<Option<Vec<Attachment>>, StoreError> {
    if !sees(tx, user, item)? {
        return Ok(None);
    }
    let sql = format!(
        "SELECT r.ref_id, r.item_id, r.blob_id, r.kind, r.attached_at, b.content_type, b.size, \
         b.digest, r.modified_at FROM blob_refs r JOIN blobs b USING (blob_id) \
         WHERE r.item_id = ?1 AND r.kind = 'file' \
         ORDER BY r.attached_at DESC, r.ref_id DESC LIMIT {limit}"
    );
    blobs::attachments(tx, &sql, item.as_str()).map(Some)
}

/// Whether the item is there, for the user.
fn sees(tx: &mut SqliteTransaction<'_>, user: &UserId, item: &ItemId) -> Result<bool, StoreError> {
    let Some(uid) = tx.uid(user)? else { return Ok(false) };
    let mut select = tx.prepare(
        "SELECT fields FROM items i WHERE item_id = ?1 AND (owner = ?2 OR EXISTS \
         (SELECT 1 FROM access a WHERE a.item_id = i.item_id AND a.uid = ?2))",
    )?;
    let mut rows = select.query(params![item.as_str(), uid])?;
    let Some(row) = rows.next()? else { return Ok(false) };
    let columns = Columns { row, table: "items", key: item };
    let fields =
        ItemFields::from_bytes(columns.bytes(0)?).map_err(|error| columns.malformed(error))?;
    Ok(!fields.is_deleted())
}

pub(super) fn surplus(
    tx: &mut SqliteTransaction<'_>,
    before: Timestamp,
    at_most: u32,
) -> Result<Vec<(RefId, BlobId)>, StoreError> {
    let mut select = tx.prepare(
        "SELECT ref_id, blob_id FROM blob_refs WHERE surplus_since < ?1 \
         ORDER BY surplus_since LIMIT ?2",
    )?;
    let mut rows = select.query(params![before.as_millis(), at_most])?;
    let mut surplus = Vec::new();
    while let Some(row) = rows.next()? {
        let columns = Columns { row, table: "blob_refs", key: "?" };
        surplus.push((columns.parse(0)?, columns.parse(1)?));
    }
    Ok(surplus)
}

pub(super) fn delete(tx: &mut SqliteTransaction<'_>, ref_id: &RefId) -> Result<bool, StoreError> {
    let gone = tx
        .prepare("DELETE FROM blob_refs WHERE ref_id = ?1 AND is_current = 0")?
        .execute([ref_id.as_str()])?;
    Ok(gone > 0)
}
