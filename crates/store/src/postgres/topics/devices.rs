//! Devices, and the number by which servers notice that one was revoked.

use tokio_postgres::Row;
use vfs_sync_core::id::{ChangeId, ReplicaId, UserId};
use vfs_sync_core::server::device::{Device, DeviceState};
use vfs_sync_core::time::Timestamp;

use crate::encoding;
use crate::error::{Result, StoreError};
use crate::postgres::rows::Columns;
use crate::postgres::transaction::PostgresTransaction;
use crate::topics::Devices;
use crate::values::Admission;

impl Devices for PostgresTransaction<'_> {
    async fn device(&mut self, user: &UserId, client: &ReplicaId) -> Result<Option<DeviceState>> {
        let sql = if self.only_reads {
            "SELECT d.user_id, d.client, d.last_seen, d.revoked_at, d.body, s.change_id, \
             h.counter FROM devices d LEFT JOIN reconcile_state s \
             ON s.user_id = d.user_id AND s.client = 'crdt:' || d.client \
             LEFT JOIN feed_head h ON h.user_id = d.user_id \
             WHERE d.user_id = $1 AND d.client = $2"
        } else {
            "SELECT d.user_id, d.client, d.last_seen, d.revoked_at, d.body, s.change_id, \
             h.counter FROM devices d LEFT JOIN reconcile_state s \
             ON s.user_id = d.user_id AND s.client = 'crdt:' || d.client \
             LEFT JOIN feed_head h ON h.user_id = d.user_id \
             WHERE d.user_id = $1 AND d.client = $2 FOR UPDATE OF d"
        };
        let row = self.query_opt(sql, &[&user.as_str(), &client.as_str()]).await?;
        row.as_ref().map(read).transpose()
    }

    async fn devices_after(
        &mut self,
        of: Option<&UserId>,
        after: Option<&(UserId, ReplicaId)>,
        limit: u32,
    ) -> Result<Vec<DeviceState>> {
        let (user, client) = after.map_or(("", ""), |(user, id)| (user.as_str(), id.as_str()));
        let limit = i64::from(limit);
        let rows = match of {
            Some(of) => {
                let client = if of.as_str() == user { client } else { "" };
                self.query(
                    "SELECT d.user_id, d.client, d.last_seen, d.revoked_at, d.body, s.change_id, \
                     h.counter FROM devices d LEFT JOIN reconcile_state s \
                     ON s.user_id = d.user_id AND s.client = 'crdt:' || d.client \
                     LEFT JOIN feed_head h ON h.user_id = d.user_id \
                     WHERE d.user_id = $1 AND d.client > $2 ORDER BY d.client LIMIT $3",
                    &[&of.as_str(), &client, &limit],
                )
                .await?
            }
            None => {
                self.query(
                    "SELECT d.user_id, d.client, d.last_seen, d.revoked_at, d.body, s.change_id, \
                     h.counter FROM devices d LEFT JOIN reconcile_state s \
                     ON s.user_id = d.user_id AND s.client = 'crdt:' || d.client \
                     LEFT JOIN feed_head h ON h.user_id = d.user_id \
                     WHERE (d.user_id, d.client) > ($1, $2) \
                     ORDER BY d.user_id, d.client LIMIT $3",
                    &[&user, &client, &limit],
                )
                .await?
            }
        };
        rows.iter().map(read).collect()
    }

    async fn devices_seen_since(
        &mut self,
        since: Timestamp,
        at_most: u32,
    ) -> Result<Vec<DeviceState>> {
        let rows = self
            .query(
                "SELECT d.user_id, d.client, d.last_seen, d.revoked_at, d.body, s.change_id, \
                 h.counter FROM devices d LEFT JOIN reconcile_state s \
                 ON s.user_id = d.user_id AND s.client = 'crdt:' || d.client \
                 LEFT JOIN feed_head h ON h.user_id = d.user_id \
                 WHERE d.last_seen >= $1 ORDER BY d.last_seen DESC LIMIT $2",
                &[&since.as_millis(), &i64::from(at_most)],
            )
            .await?;
        rows.iter().map(read).collect()
    }

    async fn put_device(&mut self, device: &Device, new: bool) -> Result<()> {
        let sql = if new {
            "INSERT INTO devices (user_id, client, last_seen, revoked_at, body) \
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT (user_id, client) DO NOTHING"
        } else {
            "UPDATE devices SET last_seen = $3, revoked_at = $4, body = $5 \
             WHERE user_id = $1 AND client = $2"
        };
        let written = self
            .execute(
                sql,
                &[
                    &device.user.as_str(),
                    &device.client.as_str(),
                    &device.last_seen.as_millis(),
                    &device.revoked_at.map(Timestamp::as_millis),
                    &encoding::device_json(&device.facts)?,
                ],
            )
            .await?;
        // Another call noted the device first: this one has to go on from its row.
        if written == 0 { Err(StoreError::Conflict) } else { Ok(()) }
    }

    async fn count_devices(&mut self, user: &UserId, enough: u64) -> Result<u64> {
        let enough = i64::try_from(enough).unwrap_or(i64::MAX);
        let sql = "SELECT count(*) FROM \
             (SELECT 1 FROM devices WHERE user_id = $1 LIMIT $2) AS present";
        self.query_count(sql, &[&user.as_str(), &enough]).await
    }

    async fn drop_oldest_device(&mut self, user: &UserId) -> Result<bool> {
        let sql = "DELETE FROM devices WHERE user_id = $1 AND client = \
             (SELECT client FROM devices WHERE user_id = $1 AND revoked_at IS NULL \
              ORDER BY last_seen LIMIT 1)";
        Ok(self.execute(sql, &[&user.as_str()]).await? > 0)
    }

    async fn admission(&mut self, user: &UserId, client: Option<&ReplicaId>) -> Result<Admission> {
        let client = client.map(ReplicaId::as_str);
        let row = self
            .query_opt(
                "SELECT coalesce((SELECT value FROM meta WHERE name = 'admission'), 0), \
                 EXISTS (SELECT 1 FROM realms \
                  WHERE user_id = $1 AND disabled_at IS NOT NULL), \
                 EXISTS (SELECT 1 FROM devices \
                  WHERE user_id = $1 AND client = $2 AND revoked_at IS NOT NULL), \
                 (SELECT id FROM credentials \
                  WHERE user_id = $1 AND client = $2 AND ended_at IS NULL)",
                &[&user.as_str(), &client],
            )
            .await?
            .ok_or_else(|| encoding::malformed("meta", "admission", "is not there"))?;
        let columns = Columns { row: &row, table: "meta", key: "admission" };
        Ok(Admission {
            generation: columns.unsigned(0)?,
            is_disabled: columns.get(1)?,
            is_deleted: false,
            is_revoked: columns.get(2)?,
            credential: columns
                .get::<Option<&str>>(3)?
                .map(|id| encoding::credential_id(Some(id)))
                .transpose()?,
        })
    }

    async fn admission_generation(&mut self) -> Result<u64> {
        let row = self.query_opt("SELECT value FROM meta WHERE name = 'admission'", &[]).await?;
        let Some(row) = row else { return Ok(0) };
        Columns { row: &row, table: "meta", key: "admission" }.unsigned(0)
    }

    async fn next_admission_generation(&mut self) -> Result<()> {
        self.execute(
            "INSERT INTO meta (name, value) VALUES ('admission', 1) \
             ON CONFLICT (name) DO UPDATE SET value = meta.value + 1",
            &[],
        )
        .await?;
        Ok(())
    }
}

fn read(row: &Row) -> Result<DeviceState> {
    let key: String = row.try_get(1)?;
    let columns = Columns { row, table: "devices", key };
    let revoked_at = columns.get::<Option<i64>>(3)?.map(|_| columns.time(3)).transpose()?;
    let device = Device {
        user: columns.parse(0)?,
        client: columns.parse(1)?,
        last_seen: columns.time(2)?,
        revoked_at,
        facts: encoding::device_facts(&columns.key, columns.get(4)?)?,
    };
    // A malformed state of the replica is its own affair.
    let applied = columns.get::<Option<&str>>(5)?.and_then(|id| ChangeId::new(id).ok());
    let head = columns.get::<Option<i64>>(6)?.map(i64::unsigned_abs);
    Ok(DeviceState { device, applied, head })
}
