//! What is deleted, and the rows that a purge removes.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::params;
use vfs_sync_core::id::{BlobId, ItemId, RefId, UserId};
use vfs_sync_core::register::{Item, ItemFields};
use vfs_sync_core::time::Timestamp;

use super::rows::Columns;
use super::transaction::SqliteTransaction;
use crate::trash::{TrashCursor, TrashOf, TrashRow, TrashState, row_of_earlier};
use crate::{StoreError, codes};

fn read(
    tx: &mut SqliteTransaction<'_>,
    sql: &str,
    parameters: impl rusqlite::Params,
) -> Result<Vec<TrashRow>, StoreError> {
    let mut select = tx.prepare(sql)?;
    let mut rows = select.query(parameters)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let item_id: ItemId = Columns { row, table: "trash", key: "?" }.parse(0)?;
        let columns = Columns { row, table: "trash", key: &item_id };
        found.push(TrashRow {
            owner: tx.user(columns.integer(1)?, "trash", &item_id)?,
            state: columns.code(2, codes::trash_state)?,
            at: columns.time(3)?,
            deleted_by: tx.user(columns.integer(4)?, "trash", &item_id)?,
            replica: columns.parse(5)?,
            size: columns.optional_integer(6)?.map(|_| columns.unsigned(6)).transpose()?,
            item_id: item_id.clone(),
        });
    }
    Ok(found)
}

pub(super) fn rows(
    tx: &mut SqliteTransaction<'_>,
    items: &BTreeSet<ItemId>,
) -> Result<BTreeMap<ItemId, TrashRow>, StoreError> {
    let mut found = BTreeMap::new();
    for item in items {
        let rows = read(
            tx,
            "SELECT item_id, owner, state, at, deleted_by, replica_id, NULL FROM trash \
             WHERE item_id = ?1",
            [item.as_str()],
        )?;
        found.extend(rows.into_iter().map(|row| (item.clone(), row)));
    }
    Ok(found)
}

pub(super) fn page(
    tx: &mut SqliteTransaction<'_>,
    user: &UserId,
    of: TrashOf,
    after: Option<&TrashCursor>,
    limit: usize,
) -> Result<Vec<TrashRow>, StoreError> {
    let Some(uid) = tx.uid(user)? else { return Ok(Vec::new()) };
    let sql = match of {
        TrashOf::Owner => {
            "SELECT item_id, owner, state, at, deleted_by, replica_id, (SELECT b.size \
             FROM blob_refs r JOIN blobs b USING (blob_id) WHERE r.item_id = trash.item_id \
             AND r.is_current = 1 AND r.kind = 'file') FROM trash \
             WHERE state = 0 AND owner = ?1 AND (at, item_id) < (?2, ?3) \
             ORDER BY at DESC, item_id DESC LIMIT ?4"
        }
        TrashOf::Deleter => {
            "SELECT item_id, owner, state, at, deleted_by, replica_id, (SELECT b.size \
             FROM blob_refs r JOIN blobs b USING (blob_id) WHERE r.item_id = trash.item_id \
             AND r.is_current = 1 AND r.kind = 'file') FROM trash \
             WHERE state = 0 AND deleted_by = ?1 AND (at, item_id) < (?2, ?3) \
             ORDER BY at DESC, item_id DESC LIMIT ?4"
        }
    };
    let at = after.map_or(i64::MAX, |after| after.at.as_millis());
    let id = after.map_or("", |after| after.item_id.as_str());
    read(tx, sql, params![uid, at, id, limit as i64])
}

pub(super) fn before(
    tx: &mut SqliteTransaction<'_>,
    state: TrashState,
    before: Timestamp,
    at_most: u32,
) -> Result<Vec<TrashRow>, StoreError> {
    read(
        tx,
        "SELECT item_id, owner, state, at, deleted_by, replica_id, NULL FROM trash \
         WHERE state = ?1 AND at < ?2 ORDER BY at, item_id LIMIT ?3",
        params![codes::trash_code(state), before.as_millis(), at_most],
    )
}

pub(super) fn put(tx: &mut SqliteTransaction<'_>, rows: &[TrashRow]) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    let mut upsert = tx.prepare(
        "INSERT INTO trash (item_id, owner, state, at, deleted_by, replica_id) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (item_id) DO UPDATE SET \
         state = excluded.state, at = excluded.at, deleted_by = excluded.deleted_by, \
         replica_id = excluded.replica_id",
    )?;
    for row in rows {
        upsert.execute(params![
            row.item_id.as_str(),
            tx.make_uid(&row.owner)?,
            codes::trash_code(row.state),
            row.at.as_millis(),
            tx.make_uid(&row.deleted_by)?,
            row.replica.as_str(),
        ])?;
    }
    Ok(())
}

pub(super) fn remove(tx: &mut SqliteTransaction<'_>, items: &[&ItemId]) -> Result<(), StoreError> {
    if items.is_empty() {
        return Ok(());
    }
    let mut delete = tx.prepare("DELETE FROM trash WHERE item_id = ?1")?;
    for item in items {
        delete.execute([item.as_str()])?;
    }
    Ok(())
}

pub(super) fn purging_refs(
    tx: &mut SqliteTransaction<'_>,
    at_most: u32,
) -> Result<Vec<(RefId, BlobId)>, StoreError> {
    let mut select = tx.prepare(
        "SELECT r.ref_id, r.blob_id FROM trash t JOIN blob_refs r ON r.item_id = t.item_id \
         WHERE t.state = 1 LIMIT ?1",
    )?;
    let mut rows = select.query([at_most])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let columns = Columns { row, table: "blob_refs", key: "?" };
        found.push((columns.parse(0)?, columns.parse(1)?));
    }
    Ok(found)
}

pub(super) fn delete_ref(
    tx: &mut SqliteTransaction<'_>,
    ref_id: &RefId,
) -> Result<bool, StoreError> {
    let gone = tx.prepare("DELETE FROM blob_refs WHERE ref_id = ?1")?.execute([ref_id.as_str()])?;
    Ok(gone > 0)
}

pub(super) fn has_refs(tx: &mut SqliteTransaction<'_>, item: &ItemId) -> Result<bool, StoreError> {
    Ok(tx.prepare("SELECT 1 FROM blob_refs WHERE item_id = ?1")?.exists([item.as_str()])?)
}

pub(super) fn clear_item(
    tx: &mut SqliteTransaction<'_>,
    item: &ItemId,
    at_most: u64,
) -> Result<u64, StoreError> {
    let mut left = at_most;
    for sql in [
        "DELETE FROM links WHERE (parent, child) IN \
         (SELECT parent, child FROM links WHERE parent = ?1 LIMIT ?2)",
        "DELETE FROM links WHERE (parent, child) IN \
         (SELECT parent, child FROM links WHERE child = ?1 LIMIT ?2)",
        "DELETE FROM grants WHERE (item_id, kind, principal_id) IN \
         (SELECT item_id, kind, principal_id FROM grants WHERE item_id = ?1 LIMIT ?2)",
        "DELETE FROM moves WHERE (child, realm) IN \
         (SELECT child, realm FROM moves WHERE child = ?1 LIMIT ?2)",
        "DELETE FROM access WHERE (item_id, uid) IN \
         (SELECT item_id, uid FROM access WHERE item_id = ?1 LIMIT ?2)",
    ] {
        let limit = i64::try_from(left).unwrap_or(i64::MAX);
        left -= tx.prepare(sql)?.execute(params![item.as_str(), limit])? as u64;
    }
    Ok(at_most - left)
}

pub(super) fn delete_items(
    tx: &mut SqliteTransaction<'_>,
    items: &BTreeSet<ItemId>,
) -> Result<(), StoreError> {
    let mut delete = tx.prepare("DELETE FROM items WHERE item_id = ?1")?;
    for item in items {
        delete.execute([item.as_str()])?;
    }
    remove(tx, &items.iter().collect::<Vec<_>>())
}

pub(super) fn set_charged(
    tx: &mut SqliteTransaction<'_>,
    blob_id: &BlobId,
    user: &UserId,
) -> Result<(), StoreError> {
    let uid = tx.make_uid(user)?;
    tx.prepare("UPDATE blobs SET charged = ?2 WHERE blob_id = ?1")?
        .execute(params![blob_id.as_str(), uid])?;
    Ok(())
}

/// The bytes of everything that the user owns in the trash, up to `at_most` contents.
pub(super) fn bytes(
    tx: &mut SqliteTransaction<'_>,
    user: &UserId,
    at_most: u32,
) -> Result<u64, StoreError> {
    let Some(uid) = tx.uid(user)? else { return Ok(0) };
    let mut select = tx.prepare(
        "SELECT b.reserved FROM trash t JOIN blob_refs r ON r.item_id = t.item_id \
         JOIN blobs b ON b.blob_id = r.blob_id WHERE t.state = 0 AND t.owner = ?1 LIMIT ?2",
    )?;
    let mut rows = select.query(params![uid, at_most])?;
    let mut sum = 0;
    while let Some(row) = rows.next()? {
        sum += Columns { row, table: "blobs", key: user }.unsigned(0)?;
    }
    Ok(sum)
}

/// Items that are read at one time while the trash is filled.
const FILL_AT_ONCE: u32 = 10_000;

/// Puts what a database of an earlier version has deleted into the trash.
pub(super) fn fill(tx: &mut SqliteTransaction<'_>, now: Timestamp) -> Result<(), StoreError> {
    let mut after = String::new();
    loop {
        let mut select = tx.prepare(
            "SELECT item_id, owner, created_at, fields FROM items WHERE item_id > ?1 \
             ORDER BY item_id LIMIT ?2",
        )?;
        let mut rows = select.query(params![after, FILL_AT_ONCE])?;
        let (mut last, mut deleted) = (None, Vec::new());
        while let Some(row) = rows.next()? {
            let id: ItemId = Columns { row, table: "items", key: "?" }.parse(0)?;
            let columns = Columns { row, table: "items", key: &id };
            let fields = ItemFields::from_bytes(columns.bytes(3)?)
                .map_err(|error| columns.malformed(error))?;
            if fields.is_deleted() {
                let owner = tx.user(columns.integer(1)?, "items", &id)?;
                let item = Item { owner, created_at: columns.time(2)?, fields };
                deleted.extend(row_of_earlier(&id, &item, now));
            }
            last = Some(id.to_string());
        }
        let Some(last) = last else { return Ok(()) };
        after = last;
        put(tx, &deleted)?;
    }
}
