//! Deleted items and tombstones.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::params;
use vfs_sync_core::id::{BlobId, ItemId, RefId, UserId};
use vfs_sync_core::register::{Item, ItemFields};
use vfs_sync_core::time::Timestamp;

use crate::command::trash::row_of_earlier;
use crate::encoding;
use crate::error::Result;
use crate::sqlite::rows::Columns;
use crate::sqlite::transaction::SqliteTransaction;
use crate::topics::Trash;
use crate::values::{TrashCursor, TrashOf, TrashRow, TrashState};

impl Trash for SqliteTransaction<'_> {
    async fn trash_rows(&mut self, items: &BTreeSet<ItemId>) -> Result<BTreeMap<ItemId, TrashRow>> {
        let mut found = BTreeMap::new();
        for item in items {
            let rows = read(
                self,
                "SELECT item_id, owner, state, at, deleted_by, replica_id, NULL FROM trash \
                 WHERE item_id = ?1",
                [item.as_str()],
            )?;
            found.extend(rows.into_iter().map(|row| (item.clone(), row)));
        }
        Ok(found)
    }

    async fn trash_page(
        &mut self,
        user: &UserId,
        of: TrashOf,
        after: Option<&TrashCursor>,
        limit: usize,
    ) -> Result<Vec<TrashRow>> {
        let Some(uid) = self.uid(user)? else { return Ok(Vec::new()) };
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
        read(self, sql, params![uid, at, id, limit as i64])
    }

    async fn trash_before(
        &mut self,
        state: TrashState,
        before: Timestamp,
        at_most: u32,
    ) -> Result<Vec<TrashRow>> {
        read(
            self,
            "SELECT item_id, owner, state, at, deleted_by, replica_id, NULL FROM trash \
             WHERE state = ?1 AND at < ?2 ORDER BY at, item_id LIMIT ?3",
            params![encoding::trash_code(state), before.as_millis(), at_most],
        )
    }

    async fn put_trash(&mut self, rows: &[TrashRow]) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut upsert = self.prepare(
            "INSERT INTO trash (item_id, owner, state, at, deleted_by, replica_id) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (item_id) DO UPDATE SET \
             state = excluded.state, at = excluded.at, deleted_by = excluded.deleted_by, \
             replica_id = excluded.replica_id",
        )?;
        for row in rows {
            upsert.execute(params![
                row.item_id.as_str(),
                self.make_uid(&row.owner)?,
                encoding::trash_code(row.state),
                row.at.as_millis(),
                self.make_uid(&row.deleted_by)?,
                row.replica.as_str(),
            ])?;
        }
        Ok(())
    }

    async fn purging_refs(&mut self, at_most: u32) -> Result<Vec<(RefId, BlobId)>> {
        let mut select = self.prepare(
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

    async fn trashed_bytes(&mut self, user: &UserId, at_most: u32) -> Result<u64> {
        let Some(uid) = self.uid(user)? else { return Ok(0) };
        let mut select = self.prepare(
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
}

fn read(
    tx: &mut SqliteTransaction<'_>,
    sql: &str,
    parameters: impl rusqlite::Params,
) -> Result<Vec<TrashRow>> {
    let mut select = tx.prepare(sql)?;
    let mut rows = select.query(parameters)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let item_id: ItemId = Columns { row, table: "trash", key: "?" }.parse(0)?;
        let columns = Columns { row, table: "trash", key: &item_id };
        found.push(TrashRow {
            owner: tx.user(columns.integer(1)?, "trash", &item_id)?,
            state: columns.code(2, encoding::trash_state)?,
            at: columns.time(3)?,
            deleted_by: tx.user(columns.integer(4)?, "trash", &item_id)?,
            replica: columns.parse(5)?,
            size: columns.optional_integer(6)?.map(|_| columns.unsigned(6)).transpose()?,
            item_id: item_id.clone(),
        });
    }
    Ok(found)
}

pub(super) fn remove(tx: &mut SqliteTransaction<'_>, items: &[&ItemId]) -> Result<()> {
    if items.is_empty() {
        return Ok(());
    }
    let mut delete = tx.prepare("DELETE FROM trash WHERE item_id = ?1")?;
    for item in items {
        delete.execute([item.as_str()])?;
    }
    Ok(())
}

/// The number of items that are read at one time while the trash is filled.
const FILL_AT_ONCE: u32 = 10_000;

/// Fills the trash with the items that an earlier version deleted.
pub(in crate::sqlite) async fn fill(tx: &mut SqliteTransaction<'_>, now: Timestamp) -> Result<()> {
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
        tx.put_trash(&deleted).await?;
    }
}
