//! Rows that retention removes, and queries about the database.

use std::collections::BTreeMap;

use rusqlite::{OptionalExtension as _, params};
use vfs_sync_core::time::Timestamp;

use super::feeds::{COUNTER_BITS, MAX_COUNTER};
use crate::encoding::malformed;
use crate::error::Result;
use crate::sqlite::rows::Columns;
use crate::sqlite::transaction::SqliteTransaction;
use crate::topics::Maintenance;
use crate::values::{Identity, MAX_COUNTED, Retention, Totals};

impl Maintenance for SqliteTransaction<'_> {
    async fn identity(&mut self) -> Result<Identity> {
        let number = "SELECT value FROM identity WHERE name = 'id'";
        let id = self.connection.query_row(number, [], |row| row.get(0))?;
        let any = "SELECT EXISTS (SELECT 1 FROM realms) OR EXISTS (SELECT 1 FROM blobs)";
        let any: bool = self.connection.query_row(any, [], |row| row.get(0))?;
        let secret = "SELECT value FROM identity WHERE name = 'pseudonyms'";
        let pseudonym_secret = self.connection.query_row(secret, [], |row| row.get(0))?;
        Ok(Identity { id, is_empty: !any, pseudonym_secret })
    }

    async fn removals_held_until(&mut self) -> Result<Timestamp> {
        let mut select =
            self.prepare("SELECT value FROM meta WHERE name = 'removals_held_until'")?;
        let until: Option<i64> = select.query_row([], |row| row.get(0)).optional()?;
        Ok(until.and_then(Timestamp::from_millis).unwrap_or(Timestamp::MIN))
    }

    async fn hold_removals(&mut self, until: Timestamp) -> Result<()> {
        self.prepare(
            "INSERT INTO meta (name, value) VALUES ('removals_held_until', ?1) \
             ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)",
        )?
        .execute([until.as_millis()])?;
        Ok(())
    }

    async fn ping(&mut self) -> Result<()> {
        Ok(self.connection.query_row("SELECT 1", [], |_| Ok(()))?)
    }

    async fn prune_removals(&mut self, retention: &Retention) -> Result<u64> {
        let mut select = self.prepare(
            "SELECT position, changed_at FROM feed WHERE removal = 1 AND changed_at < ?1 \
             ORDER BY changed_at, position LIMIT ?2",
        )?;
        let old: Vec<(i64, i64)> = select
            .query_map(params![retention.removals_before.as_millis(), retention.at_most], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?
            .collect::<Result<_, _>>()?;
        let mut through: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
        let mut delete = self.prepare("DELETE FROM feed WHERE position = ?1")?;
        for (position, changed_at) in &old {
            delete.execute([position])?;
            let counter = position & MAX_COUNTER as i64;
            let last = through.entry(position >> COUNTER_BITS).or_insert((counter, *changed_at));
            *last = (*last).max((counter, *changed_at));
        }
        let mut remember = self.prepare(
            "UPDATE feed_head SET pruned_counter = ?2, pruned_changed_at = ?3 \
             WHERE uid = ?1 AND (pruned_counter IS NULL OR pruned_counter < ?2)",
        )?;
        for (uid, (counter, changed_at)) in through {
            remember.execute(params![uid, counter, changed_at])?;
        }
        Ok(old.len() as u64)
    }

    async fn prune_accepted(&mut self, retention: &Retention) -> Result<u64> {
        let before = retention.accepted_before.as_millis();
        let mut left = u64::from(retention.at_most);
        let mut pruned = 0;
        let mut replicas = self.prepare(
            "SELECT rid FROM replicas WHERE accepted_from < ?1 ORDER BY accepted_from LIMIT ?2",
        )?;
        let replicas: Vec<i64> = replicas
            .query_map(params![before, retention.at_most], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        let mut oldest = self.prepare(
        "SELECT write_id, accepted_at FROM accepted_ops WHERE rid = ?1 ORDER BY write_id LIMIT ?2",
    )?;
        let mut delete =
            self.prepare("DELETE FROM accepted_ops WHERE rid = ?1 AND write_id <= ?2")?;
        let mut remember = self.prepare("UPDATE replicas SET accepted_from = ?2 WHERE rid = ?1")?;
        for rid in replicas {
            if left == 0 {
                break;
            }
            let rows: Vec<(i64, i64)> = oldest
                .query_map(params![rid, left as i64 + 1], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<Result<_, _>>()?;
            let at_most = usize::try_from(left).unwrap_or(usize::MAX);
            let old = rows.iter().take(at_most).take_while(|(_, at)| *at < before).count();
            if let Some((write_id, _)) = old.checked_sub(1).and_then(|last| rows.get(last)) {
                delete.execute([rid, *write_id])?;
            }
            remember.execute(params![rid, rows.get(old).map(|(_, at)| *at)])?;
            left -= old as u64;
            pruned += old as u64;
        }
        Ok(pruned)
    }

    async fn totals(&mut self) -> Result<Totals> {
        let mut select = self.prepare(
            "SELECT r.users, r.items, r.bytes, u.stored, u.staged, u.stages, t.items, t.bytes, \
             (SELECT coalesce(sum(counter), 0) FROM (SELECT counter FROM feed_head LIMIT ?1)) \
             FROM (SELECT count(*) AS users, coalesce(sum(items), 0) AS items, \
              coalesce(sum(bytes), 0) AS bytes \
              FROM (SELECT items, bytes FROM realms LIMIT ?1)) AS r, \
             (SELECT coalesce(sum(stored), 0) AS stored, coalesce(sum(staged), 0) AS staged, \
              coalesce(sum(open_stages), 0) AS stages \
              FROM (SELECT stored, staged, open_stages FROM blob_usage LIMIT ?1)) AS u, \
             (SELECT count(DISTINCT d.item_id) AS items, coalesce(sum(b.reserved), 0) AS bytes \
              FROM (SELECT item_id FROM trash WHERE state = 0 LIMIT ?1) AS d \
              LEFT JOIN blob_refs k ON k.item_id = d.item_id \
              LEFT JOIN blobs b ON b.blob_id = k.blob_id) AS t",
        )?;
        let mut rows = select.query([MAX_COUNTED])?;
        let row = rows.next()?.ok_or_else(|| malformed("realms", "all", "have no sums"))?;
        let columns = Columns { row, table: "realms", key: "all" };
        Ok(Totals {
            users: columns.unsigned(0)?,
            items: columns.unsigned(1)?,
            register_bytes: columns.unsigned(2)?,
            stored_bytes: columns.unsigned(3)?,
            staged_bytes: columns.unsigned(4)?,
            open_stages: columns.unsigned(5)?,
            trashed_items: columns.unsigned(6)?,
            trashed_bytes: columns.unsigned(7)?,
            feed_positions: columns.unsigned(8)?,
            is_primary: true,
            standbys: 0,
            replication_lag: None,
        })
    }
}
