//! Reads for a doctor: pages of rows, counts of registers and blobs, and facts about the server.

use vfs_sync_core::id::{BlobId, ItemId, StagingId, UserId};
use vfs_sync_core::server::push::MetadataUsage;
use vfs_sync_core::server::stage::Usage;
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::StageStatus;

use crate::encoding;
use crate::error::{Result, StoreError};
use crate::examination::{
    ChargePlace, DatabaseFacts, Examine, MalformedRow, OldestRows, ServerFacts, Standby, state_row,
};
use crate::postgres::place::PLACE;
use crate::postgres::rows::Columns;
use crate::postgres::transaction::{PostgresTransaction, texts};
use crate::topics::Maintenance as _;

/// The standbys that are shown.
const MAX_STANDBYS: i64 = 32;

impl Examine for PostgresTransaction<'_> {
    async fn owned_after(
        &mut self,
        owner: &UserId,
        after: Option<&ItemId>,
        at_most: u32,
    ) -> Result<Vec<ItemId>> {
        let rows = self
            .query(
                "SELECT item_id FROM items WHERE owner = $1 AND item_id > $2 \
                 ORDER BY item_id LIMIT $3",
                &[&owner.as_str(), &after.map_or("", ItemId::as_str), &i64::from(at_most)],
            )
            .await?;
        rows.iter().map(|row| Columns { row, table: "items", key: owner }.parse(0)).collect()
    }

    async fn known_after(&mut self, after: Option<&UserId>, at_most: u32) -> Result<Vec<UserId>> {
        // A user who only reads has a feed and no realm.
        let rows = self
            .query(
                "(SELECT user_id FROM realms WHERE user_id > $1 ORDER BY user_id LIMIT $2) UNION \
                 (SELECT user_id FROM feed_head WHERE user_id > $1 ORDER BY user_id LIMIT $2) \
                 ORDER BY user_id LIMIT $2",
                &[&after.map_or("", UserId::as_str), &i64::from(at_most)],
            )
            .await?;
        rows.iter().map(|row| Columns { row, table: "realms", key: "?" }.parse(0)).collect()
    }

    async fn read_after(
        &mut self,
        reader: &UserId,
        after: Option<&ItemId>,
        at_most: u32,
    ) -> Result<(Vec<ItemId>, Option<ItemId>)> {
        let rows = self
            .query(
                "SELECT item_id FROM access WHERE user_id = $1 AND item_id > $2 \
                 ORDER BY item_id LIMIT $3",
                &[&reader.as_str(), &after.map_or("", ItemId::as_str), &i64::from(at_most)],
            )
            .await?;
        let items: Vec<ItemId> = rows
            .iter()
            .map(|row| Columns { row, table: "access", key: reader }.parse(0))
            .collect::<Result<_>>()?;
        let is_full = items.len() as u64 >= u64::from(at_most);
        let next = items.last().filter(|_| is_full).cloned();
        Ok((items, next))
    }

    async fn count_registers(&mut self, items: &[ItemId]) -> Result<(u64, u64)> {
        let items = texts(items);
        let links = "SELECT count(*) FROM links WHERE parent = ANY($1)";
        let grants = "SELECT count(*) FROM grants WHERE item_id = ANY($1)";
        Ok((self.query_count(links, &[&items]).await?, self.query_count(grants, &[&items]).await?))
    }

    async fn held(&mut self, owner: &UserId) -> Result<Option<MetadataUsage>> {
        let row = self
            .query_opt(
                "SELECT items, links, grants, bytes FROM realms WHERE user_id = $1",
                &[&owner.as_str()],
            )
            .await?;
        let Some(row) = row else { return Ok(None) };
        let columns = Columns { row: &row, table: "realms", key: owner };
        Ok(Some(MetadataUsage {
            items: columns.unsigned(0)?,
            links: columns.unsigned(1)?,
            grants: columns.unsigned(2)?,
            bytes: columns.unsigned(3)?,
        }))
    }

    async fn leaving(&mut self, users: &[UserId]) -> Result<Vec<UserId>> {
        let rows = self
            .query(
                "SELECT user_id FROM realms WHERE user_id = ANY($1) AND leaving",
                &[&texts(users)],
            )
            .await?;
        rows.iter().map(|row| Columns { row, table: "realms", key: "?" }.parse(0)).collect()
    }

    async fn count_charges(
        &mut self,
        user: &UserId,
        after: Option<&ChargePlace>,
        at_most: u32,
    ) -> Result<(Usage, Option<ChargePlace>)> {
        let mut usage = Usage::default();
        let (staged_after, charged_after) = match after {
            None => (Some(""), ""),
            Some(ChargePlace::Stage(stage)) => (Some(stage.as_str()), ""),
            Some(ChargePlace::Blob(blob)) => (None, blob.as_str()),
        };
        let mut left = i64::from(at_most);
        if let Some(after) = staged_after {
            let rows = self
                .query(
                    "SELECT s.staging_id, s.status, b.reserved, b.charged IS NULL \
                     FROM blob_stages s JOIN blobs b ON b.blob_id = s.blob_id \
                     WHERE s.owner = $1 AND s.staging_id > $2 ORDER BY s.staging_id LIMIT $3",
                    &[&user.as_str(), &after, &left],
                )
                .await?;
            let mut last: Option<StagingId> = None;
            for row in &rows {
                let columns = Columns { row, table: "blob_stages", key: user };
                let reserved = columns.unsigned(2)?;
                if columns.get(3)? {
                    usage.stored = usage.stored.saturating_add(reserved);
                }
                if columns.get::<&str>(1)? == StageStatus::Staged.as_str() {
                    usage.staged = usage.staged.saturating_add(reserved);
                    usage.open_stages += 1;
                }
                last = Some(columns.parse(0)?);
            }
            left -= rows.len() as i64;
            if left == 0 {
                return Ok((usage, last.map(ChargePlace::Stage)));
            }
        }
        let rows = self
            .query(
                "SELECT blob_id, reserved FROM blobs WHERE charged = $1 AND blob_id > $2 \
                 ORDER BY blob_id LIMIT $3",
                &[&user.as_str(), &charged_after, &left],
            )
            .await?;
        let mut last: Option<BlobId> = None;
        for row in &rows {
            let columns = Columns { row, table: "blobs", key: user };
            usage.stored = usage.stored.saturating_add(columns.unsigned(1)?);
            last = Some(columns.parse(0)?);
        }
        let is_full = rows.len() as i64 == left;
        Ok((usage, last.filter(|_| is_full).map(ChargePlace::Blob)))
    }

    async fn malformed_states(
        &mut self,
        user: &UserId,
        after: &str,
        at_most: u32,
    ) -> Result<(Vec<MalformedRow>, Option<String>)> {
        let rows = self
            .query(
                "SELECT changed_at, change_id, write_ids, client FROM reconcile_state \
                 WHERE user_id = $1 AND client > $2 ORDER BY client LIMIT $3",
                &[&user.as_str(), &after, &i64::from(at_most)],
            )
            .await?;
        let (mut malformed, mut last) = (Vec::new(), None);
        for row in &rows {
            let client: String = row.try_get(3)?;
            let columns = Columns { row, table: "reconcile_state", key: &client };
            let parse = || {
                let (changed_at, change_id) = (columns.get(0)?, columns.get(1)?);
                encoding::reconcile_state(&client, changed_at, change_id, columns.get(2)?)
            };
            if let Err(StoreError::MalformedRow { reason, .. }) = parse() {
                malformed.push(state_row(user, &client, reason));
            }
            last = Some(client);
        }
        let is_full = rows.len() as u64 >= u64::from(at_most);
        Ok((malformed, last.filter(|_| is_full)))
    }

    async fn oldest_rows(&mut self, before: Timestamp) -> Result<OldestRows> {
        let row = self
            .query_opt(
                "SELECT \
                 (SELECT expires_at FROM blob_stages WHERE status = 'blob-stage:staged' \
                  AND expires_at < $1 ORDER BY expires_at LIMIT 1), \
                 (SELECT reclaim_at FROM blobs WHERE reclaim_at < $1 ORDER BY reclaim_at LIMIT 1), \
                 (SELECT surplus_since FROM blob_refs WHERE surplus_since < $1 \
                  ORDER BY surplus_since LIMIT 1), \
                 (SELECT at FROM trash WHERE state = 0 AND at < $1 ORDER BY at LIMIT 1), \
                 (SELECT at FROM trash WHERE state = 1 AND at < $1 ORDER BY at LIMIT 1), \
                 (SELECT changed_at FROM feed WHERE removal AND changed_at < $1 \
                  ORDER BY changed_at LIMIT 1), \
                 (SELECT accepted_from FROM replicas WHERE accepted_from < $1 \
                  ORDER BY accepted_from LIMIT 1), \
                 (SELECT due_at FROM deletions WHERE due_at < $1 ORDER BY due_at LIMIT 1), \
                 (SELECT last_seen FROM devices WHERE last_seen > $1 - 1000000000000000 \
                  ORDER BY last_seen DESC LIMIT 1)",
                &[&before.as_millis()],
            )
            .await?;
        let row = row.ok_or_else(|| encoding::malformed("meta", "oldest", "has no row"))?;
        let at = |column: usize| -> Result<Option<Timestamp>> {
            Ok(row.try_get::<_, Option<i64>>(column)?.and_then(Timestamp::from_millis))
        };
        let mut found = OldestRows {
            stage: at(0)?,
            reclaim: at(1)?,
            version: at(2)?,
            trashed: at(3)?,
            purging: at(4)?,
            removal: at(5)?,
            result: at(6)?,
            deletion: at(7)?,
            last_call: at(8)?,
            held_until: None,
        };
        found.held_until = Some(self.removals_held_until().await?);
        Ok(found)
    }

    async fn database_facts(&mut self) -> Result<DatabaseFacts> {
        let standby = "SELECT pg_is_in_recovery()";
        let row = self.query_opt(standby, &[]).await?;
        let is_standby = row.map(|row| row.try_get(0)).transpose()?.unwrap_or(false);
        let row = self
            .query_opt(
                "SELECT current_setting('server_version'), \
                 (extract(epoch FROM clock_timestamp()) * 1000)::bigint, \
                 pg_database_size(current_database()), \
                 (SELECT coalesce(sum(pg_relation_size(relid) * \
                  (n_dead_tup::float8 / greatest(n_live_tup + n_dead_tup, 1))), 0)::bigint \
                  FROM pg_stat_user_tables), \
                 (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'), \
                 current_setting('max_connections')::bigint, \
                 current_setting('synchronous_commit'), \
                 current_setting('synchronous_standby_names'), \
                 (SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)::float8 \
                  FROM pg_stat_activity WHERE xact_start IS NOT NULL \
                  AND backend_type = 'client backend' AND pid <> pg_backend_pid()), \
                 (SELECT age(datfrozenxid)::bigint FROM pg_database \
                  WHERE datname = current_database()), \
                 current_setting('fsync'), current_setting('full_page_writes')",
                &[],
            )
            .await?;
        let row = row.ok_or_else(|| encoding::malformed("pg_settings", "?", "have no row"))?;
        let columns = Columns { row: &row, table: "pg_settings", key: "?" };
        let synchronous_commit: String = columns.get(6)?;
        let mut unsafe_settings = Vec::new();
        for (name, value) in [
            ("fsync", columns.get::<String>(10)?),
            ("full_page_writes", columns.get::<String>(11)?),
            ("synchronous_commit", synchronous_commit.clone()),
        ] {
            if value == "off" {
                unsafe_settings.push(format!("{name} = {value}"));
            }
        }
        let is_in_place = is_standby || self.is_in_place().await?;
        Ok(DatabaseFacts {
            product: format!("PostgreSQL {}", columns.get::<&str>(0)?),
            clock: Timestamp::from_millis(columns.get(1)?),
            bytes: columns.unsigned(2)?,
            unused_bytes: columns.unsigned(3)?,
            unsafe_settings,
            server: Some(ServerFacts {
                connections: (columns.unsigned(4)?, columns.unsigned(5)?),
                is_standby,
                is_in_place,
                synchronous_commit,
                synchronous_standbys: columns.get(7)?,
                standbys: self.standbys().await?,
                oldest_transaction: columns.get(8)?,
                id_age: columns.unsigned(9)?,
            }),
        })
    }
}

impl PostgresTransaction<'_> {
    async fn standbys(&mut self) -> Result<Vec<Standby>> {
        let rows = self
            .query(
                "SELECT coalesce(application_name, ''), coalesce(state, ''), \
                 coalesce(sync_state, ''), extract(epoch FROM replay_lag)::float8 \
                 FROM pg_stat_replication LIMIT $1",
                &[&MAX_STANDBYS],
            )
            .await?;
        let standby = |row: &tokio_postgres::Row| {
            Ok(Standby {
                name: row.try_get(0)?,
                state: row.try_get(1)?,
                sync_state: row.try_get(2)?,
                lag: row.try_get(3)?,
            })
        };
        rows.iter().map(standby).collect()
    }

    /// Returns whether the place of this connection is the one where the present epoch began. The
    /// stored place has the system's identifier in front, which not every user may read.
    async fn is_in_place(&mut self) -> Result<bool> {
        let row = self.query_opt(PLACE, &[]).await?;
        let place: Option<String> = row.map(|row| row.try_get(0)).transpose()?;
        let row = self.query_opt("SELECT value FROM identity WHERE name = 'place'", &[]).await?;
        let stored: Option<String> = row.map(|row| row.try_get(0)).transpose()?;
        Ok(match (place, stored) {
            (Some(place), Some(stored)) => {
                stored.split_once(' ').is_some_and(|(_, rest)| rest == place)
            }
            // No server has served it yet.
            _ => true,
        })
    }
}
