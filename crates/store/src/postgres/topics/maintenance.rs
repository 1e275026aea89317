//! Rows that retention removes, and queries about the database.

use std::collections::{BTreeMap, BTreeSet};

use vfs_sync_core::id::UserId;
use vfs_sync_core::time::Timestamp;

use crate::encoding;
use crate::error::Result;
use crate::postgres::rows::Columns;
use crate::postgres::transaction::{PostgresTransaction, texts};
use crate::topics::Maintenance;
use crate::values::{Identity, MAX_COUNTED, Retention, Totals};

/// The number of replicas whose operations one transaction prunes.
const REPLICAS: i64 = 64;

impl Maintenance for PostgresTransaction<'_> {
    async fn prune_removals(&mut self, retention: &Retention) -> Result<u64> {
        let before = retention.removals_before.as_millis();
        let rows = self
            .query(
                "SELECT user_id, counter FROM feed WHERE removal AND changed_at < $1 \
                 ORDER BY changed_at, user_id, counter LIMIT $2",
                &[&before, &i64::from(retention.at_most)],
            )
            .await?;
        let mut users: Vec<String> = Vec::with_capacity(rows.len());
        let mut counters: Vec<i64> = Vec::with_capacity(rows.len());
        for row in &rows {
            users.push(row.try_get(0)?);
            counters.push(row.try_get(1)?);
        }
        let heads: BTreeSet<&String> = users.iter().collect();
        self.query(
            "SELECT 1 FROM feed_head WHERE user_id = ANY($1) ORDER BY user_id FOR UPDATE",
            &[&texts(heads)],
        )
        .await?;
        // A row that moved to the head before the locks were taken is no longer at its position,
        // and stays.
        let gone = self
            .query(
                "DELETE FROM feed USING unnest($1::text[], $2::bigint[]) AS v (user_id, counter) \
                 WHERE feed.user_id = v.user_id AND feed.counter = v.counter AND feed.removal \
                 RETURNING feed.user_id, feed.counter, feed.changed_at",
                &[&users, &counters],
            )
            .await?;
        let mut through: BTreeMap<UserId, (i64, i64)> = BTreeMap::new();
        for row in &gone {
            let columns = Columns { row, table: "feed", key: "?" };
            let position = (columns.get(1)?, columns.get(2)?);
            let last = through.entry(columns.parse(0)?).or_insert(position);
            *last = (*last).max(position);
        }
        let counters: Vec<i64> = through.values().map(|(counter, _)| *counter).collect();
        let times: Vec<i64> = through.values().map(|(_, changed_at)| *changed_at).collect();
        self.execute(
            "UPDATE feed_head SET pruned_counter = v.counter, pruned_changed_at = v.changed_at \
             FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS v (user_id, counter, changed_at) \
             WHERE feed_head.user_id = v.user_id \
             AND (pruned_counter IS NULL OR pruned_counter < v.counter)",
            &[&texts(through.keys()), &counters, &times],
        )
        .await?;
        Ok(gone.len() as u64)
    }

    async fn prune_accepted(&mut self, retention: &Retention) -> Result<u64> {
        let before = retention.accepted_before.as_millis();
        let mut left = i64::from(retention.at_most);
        let mut pruned = 0;
        // A replica that is pushing has its turn another time.
        let replicas = self
            .query(
                "SELECT user_id, replica_id FROM replicas WHERE accepted_from < $1 \
                 ORDER BY accepted_from LIMIT $2 FOR UPDATE SKIP LOCKED",
                &[&before, &REPLICAS.min(left)],
            )
            .await?;
        for replica in &replicas {
            if left == 0 {
                break;
            }
            let (user, replica): (&str, &str) = (replica.try_get(0)?, replica.try_get(1)?);
            let rows = self
                .query(
                    "SELECT write_id, accepted_at FROM accepted_ops \
                     WHERE user_id = $1 AND replica_id = $2 ORDER BY write_id LIMIT $3",
                    &[&user, &replica, &(left + 1)],
                )
                .await?;
            let rows: Vec<(i64, i64)> = rows
                .iter()
                .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
                .collect::<Result<_>>()?;
            let at_most = usize::try_from(left).unwrap_or(usize::MAX);
            let old = rows.iter().take(at_most).take_while(|(_, at)| *at < before).count();
            if let Some((write_id, _)) = old.checked_sub(1).and_then(|last| rows.get(last)) {
                self.execute(
                    "DELETE FROM accepted_ops \
                     WHERE user_id = $1 AND replica_id = $2 AND write_id <= $3",
                    &[&user, &replica, write_id],
                )
                .await?;
            }
            let from = rows.get(old).map(|(_, at)| *at);
            self.execute(
                "UPDATE replicas SET accepted_from = $3 WHERE user_id = $1 AND replica_id = $2",
                &[&user, &replica, &from],
            )
            .await?;
            left -= old as i64;
            pruned += old as u64;
        }
        Ok(pruned)
    }

    async fn identity(&mut self) -> Result<Identity> {
        let row = self
            .query_opt(
                "SELECT value, EXISTS (SELECT 1 FROM realms) OR EXISTS (SELECT 1 FROM blobs), \
                 (SELECT value FROM identity WHERE name = 'pseudonyms') \
                 FROM identity WHERE name = 'id'",
                &[],
            )
            .await?;
        let row = row.ok_or_else(|| encoding::malformed("identity", "id", "is missing"))?;
        Ok(Identity {
            id: row.try_get(0)?,
            is_empty: !row.try_get::<_, bool>(1)?,
            pseudonym_secret: row.try_get(2)?,
        })
    }

    async fn totals(&mut self) -> Result<Totals> {
        let row = self
            .query_opt(
                "SELECT r.users, r.items, r.bytes, u.stored, u.staged, u.stages, t.items, t.bytes, \
                 NOT pg_is_in_recovery(), (SELECT count(*) FROM pg_stat_replication), \
                 (SELECT max(extract(epoch FROM replay_lag))::float8 FROM pg_stat_replication), \
                 (SELECT coalesce(sum(counter), 0)::bigint \
                  FROM (SELECT counter FROM feed_head LIMIT $1) AS s) \
                 FROM (SELECT count(*) AS users, coalesce(sum(items), 0)::bigint AS items, \
                  coalesce(sum(bytes), 0)::bigint AS bytes \
                  FROM (SELECT items, bytes FROM realms LIMIT $1) AS s) AS r, \
                 (SELECT coalesce(sum(stored), 0)::bigint AS stored, \
                  coalesce(sum(staged), 0)::bigint AS staged, \
                  coalesce(sum(open_stages), 0)::bigint AS stages \
                  FROM (SELECT stored, staged, open_stages FROM blob_usage LIMIT $1) AS s) AS u, \
                 (SELECT count(DISTINCT d.item_id) AS items, \
                  coalesce(sum(b.reserved), 0)::bigint AS bytes \
                  FROM (SELECT item_id FROM trash WHERE state = 0 LIMIT $1) AS d \
                  LEFT JOIN blob_refs k ON k.item_id = d.item_id \
                  LEFT JOIN blobs b ON b.blob_id = k.blob_id) AS t",
                &[&i64::from(MAX_COUNTED)],
            )
            .await?;
        let row = row.ok_or_else(|| encoding::malformed("realms", "all", "have no sums"))?;
        let columns = Columns { row: &row, table: "realms", key: "all" };
        Ok(Totals {
            users: columns.unsigned(0)?,
            items: columns.unsigned(1)?,
            register_bytes: columns.unsigned(2)?,
            stored_bytes: columns.unsigned(3)?,
            staged_bytes: columns.unsigned(4)?,
            open_stages: columns.unsigned(5)?,
            feed_positions: columns.unsigned(11)?,
            trashed_items: columns.unsigned(6)?,
            trashed_bytes: columns.unsigned(7)?,
            is_primary: columns.get(8)?,
            standbys: columns.unsigned(9)?,
            replication_lag: columns.get(10)?,
        })
    }

    async fn removals_held_until(&mut self) -> Result<Timestamp> {
        let row = self
            .query_opt("SELECT value FROM meta WHERE name = 'removals_held_until'", &[])
            .await?;
        let until = row.map(|row| row.try_get(0)).transpose()?;
        Ok(until.and_then(Timestamp::from_millis).unwrap_or(Timestamp::MIN))
    }

    async fn hold_removals(&mut self, until: Timestamp) -> Result<()> {
        self.execute(
            "INSERT INTO meta (name, value) VALUES ('removals_held_until', $1) \
             ON CONFLICT (name) DO UPDATE SET value = greatest(meta.value, excluded.value)",
            &[&until.as_millis()],
        )
        .await
        .map(drop)
    }

    async fn ping(&mut self) -> Result<()> {
        self.query_opt("SELECT 1", &[]).await.map(drop)
    }
}
