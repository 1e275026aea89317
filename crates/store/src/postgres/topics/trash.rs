//! Deleted items and tombstones.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Row;
use vfs_sync_core::id::{BlobId, ItemId, RefId, UserId};
use vfs_sync_core::register::{Item, ItemFields};
use vfs_sync_core::time::Timestamp;

use crate::command::trash::row_of_earlier;
use crate::encoding;
use crate::error::Result;
use crate::postgres::rows::Columns;
use crate::postgres::transaction::{PostgresTransaction, texts};
use crate::topics::Trash;
use crate::values::{TrashCursor, TrashOf, TrashRow, TrashState};

impl Trash for PostgresTransaction<'_> {
    async fn trash_rows(&mut self, items: &BTreeSet<ItemId>) -> Result<BTreeMap<ItemId, TrashRow>> {
        if items.is_empty() {
            return Ok(BTreeMap::new());
        }
        let rows = self
            .query(
                "SELECT item_id, owner, state, at, deleted_by, replica_id, NULL::bigint FROM trash \
                 WHERE item_id = ANY($1)",
                &[&texts(items)],
            )
            .await?;
        rows.iter().map(|row| read(row).map(|row| (row.item_id.clone(), row))).collect()
    }

    async fn trash_page(
        &mut self,
        user: &UserId,
        of: TrashOf,
        after: Option<&TrashCursor>,
        limit: usize,
    ) -> Result<Vec<TrashRow>> {
        let sql = match of {
            TrashOf::Owner => {
                "SELECT item_id, owner, state, at, deleted_by, replica_id, (SELECT b.size \
                 FROM blob_refs r JOIN blobs b USING (blob_id) WHERE r.item_id = trash.item_id \
                 AND r.is_current AND r.kind = 'file') FROM trash \
                 WHERE state = 0 AND owner = $1 AND (at, item_id) < ($2, $3) \
                 ORDER BY at DESC, item_id DESC LIMIT $4"
            }
            TrashOf::Deleter => {
                "SELECT item_id, owner, state, at, deleted_by, replica_id, (SELECT b.size \
                 FROM blob_refs r JOIN blobs b USING (blob_id) WHERE r.item_id = trash.item_id \
                 AND r.is_current AND r.kind = 'file') FROM trash \
                 WHERE state = 0 AND deleted_by = $1 AND (at, item_id) < ($2, $3) \
                 ORDER BY at DESC, item_id DESC LIMIT $4"
            }
        };
        let at = after.map_or(i64::MAX, |after| after.at.as_millis());
        let id = after.map_or("", |after| after.item_id.as_str());
        let rows = self.query(sql, &[&user.as_str(), &at, &id, &(limit as i64)]).await?;
        rows.iter().map(read).collect()
    }

    async fn trash_before(
        &mut self,
        state: TrashState,
        before: Timestamp,
        at_most: u32,
    ) -> Result<Vec<TrashRow>> {
        let rows = self
            .query(
                "SELECT item_id, owner, state, at, deleted_by, replica_id, NULL::bigint FROM trash \
                 WHERE state = $1 AND at < $2 ORDER BY at, item_id LIMIT $3",
                &[&encoding::trash_code(state), &before.as_millis(), &i64::from(at_most)],
            )
            .await?;
        rows.iter().map(read).collect()
    }

    async fn put_trash(&mut self, rows: &[TrashRow]) -> Result<()> {
        put(self, rows).await
    }

    async fn purging_refs(&mut self, at_most: u32) -> Result<Vec<(RefId, BlobId)>> {
        let rows = self
            .query(
                "SELECT r.ref_id, r.blob_id FROM trash t JOIN blob_refs r ON r.item_id = t.item_id \
                 WHERE t.state = 1 LIMIT $1",
                &[&i64::from(at_most)],
            )
            .await?;
        let read = |row| {
            let columns = Columns { row, table: "blob_refs", key: "?" };
            Ok((columns.parse(0)?, columns.parse(1)?))
        };
        rows.iter().map(read).collect()
    }

    async fn trashed_bytes(&mut self, user: &UserId, at_most: u32) -> Result<u64> {
        let row = self
            .query_opt(
                "SELECT coalesce(sum(reserved), 0)::bigint FROM (SELECT b.reserved FROM trash t \
                 JOIN blob_refs r ON r.item_id = t.item_id JOIN blobs b ON b.blob_id = r.blob_id \
                 WHERE t.state = 0 AND t.owner = $1 LIMIT $2) AS kept",
                &[&user.as_str(), &i64::from(at_most)],
            )
            .await?;
        let Some(row) = row else { return Ok(0) };
        Columns { row: &row, table: "trash", key: user }.unsigned(0)
    }
}

fn read(row: &Row) -> Result<TrashRow> {
    let item_id: ItemId = Columns { row, table: "trash", key: "?" }.parse(0)?;
    let columns = Columns { row, table: "trash", key: &item_id };
    Ok(TrashRow {
        owner: columns.parse(1)?,
        state: columns.code(2, encoding::trash_state)?,
        at: columns.time(3)?,
        deleted_by: columns.parse(4)?,
        replica: columns.parse(5)?,
        size: columns.get::<Option<i64>>(6)?.map(|_| columns.unsigned(6)).transpose()?,
        item_id: item_id.clone(),
    })
}

pub(super) async fn put(tx: &PostgresTransaction<'_>, rows: &[TrashRow]) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let items = texts(rows.iter().map(|row| &row.item_id));
    let owners = texts(rows.iter().map(|row| &row.owner));
    let states: Vec<i64> = rows.iter().map(|row| encoding::trash_code(row.state)).collect();
    let times: Vec<i64> = rows.iter().map(|row| row.at.as_millis()).collect();
    let deleters = texts(rows.iter().map(|row| &row.deleted_by));
    let replicas = texts(rows.iter().map(|row| &row.replica));
    tx.execute(
        "INSERT INTO trash (item_id, owner, state, at, deleted_by, replica_id) \
         SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::text[], \
         $6::text[]) ON CONFLICT (item_id) DO UPDATE SET \
         state = excluded.state, at = excluded.at, deleted_by = excluded.deleted_by, \
         replica_id = excluded.replica_id",
        &[&items, &owners, &states, &times, &deleters, &replicas],
    )
    .await?;
    Ok(())
}

pub(super) async fn remove(tx: &PostgresTransaction<'_>, items: &[&ItemId]) -> Result<()> {
    if !items.is_empty() {
        tx.execute("DELETE FROM trash WHERE item_id = ANY($1)", &[&texts(items)]).await?;
    }
    Ok(())
}

/// The number of items that are read at one time while the trash is filled.
const FILL_AT_ONCE: i64 = 10_000;

/// Fills the trash with the items that an earlier version deleted.
pub(in crate::postgres) async fn fill(
    tx: &mut PostgresTransaction<'_>,
    now: Timestamp,
) -> Result<()> {
    let mut after = String::new();
    loop {
        let rows = tx
            .query(
                "SELECT item_id, owner, created_at, fields FROM items WHERE item_id > $1 \
                 ORDER BY item_id LIMIT $2",
                &[&after, &FILL_AT_ONCE],
            )
            .await?;
        let Some(last) = rows.last() else { return Ok(()) };
        after = last.try_get(0)?;
        let mut deleted = Vec::new();
        for row in &rows {
            let id: ItemId = Columns { row, table: "items", key: "?" }.parse(0)?;
            let columns = Columns { row, table: "items", key: &id };
            let fields = ItemFields::from_bytes(columns.get(3)?)
                .map_err(|error| columns.malformed(error))?;
            let item = Item { owner: columns.parse(1)?, created_at: columns.time(2)?, fields };
            deleted.extend(row_of_earlier(&id, &item, now));
        }
        put(tx, &deleted).await?;
    }
}
