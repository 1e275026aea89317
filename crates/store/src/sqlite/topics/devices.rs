//! Devices, and the number by which servers notice that one was revoked.

use rusqlite::{Params, params};
use vfs_sync_core::id::{ChangeId, ReplicaId, UserId};
use vfs_sync_core::server::device::{Device, DeviceState};
use vfs_sync_core::time::Timestamp;

use crate::encoding;
use crate::error::Result;
use crate::sqlite::rows::Columns;
use crate::sqlite::transaction::SqliteTransaction;
use crate::topics::Devices;
use crate::values::Admission;

impl Devices for SqliteTransaction<'_> {
    async fn device(&mut self, user: &UserId, client: &ReplicaId) -> Result<Option<DeviceState>> {
        let sql = "SELECT d.user_id, d.client, d.last_seen, d.revoked_at, d.body, s.change_id, \
             h.counter FROM devices d LEFT JOIN realms r ON r.user_id = d.user_id \
             LEFT JOIN reconcile_state s ON s.uid = r.uid AND s.client = 'crdt:' || d.client \
             LEFT JOIN feed_head h ON h.uid = r.uid WHERE d.user_id = ?1 AND d.client = ?2";
        Ok(read(self, sql, params![user.as_str(), client.as_str()])?.pop())
    }

    async fn devices_after(
        &mut self,
        of: Option<&UserId>,
        after: Option<&(UserId, ReplicaId)>,
        limit: u32,
    ) -> Result<Vec<DeviceState>> {
        let (user, client) = after.map_or(("", ""), |(user, id)| (user.as_str(), id.as_str()));
        match of {
            Some(of) => {
                let client = if of.as_str() == user { client } else { "" };
                let sql = "SELECT d.user_id, d.client, d.last_seen, d.revoked_at, d.body, \
                     s.change_id, h.counter FROM devices d \
                     LEFT JOIN realms r ON r.user_id = d.user_id \
                     LEFT JOIN reconcile_state s ON s.uid = r.uid \
                     AND s.client = 'crdt:' || d.client LEFT JOIN feed_head h ON h.uid = r.uid \
                     WHERE d.user_id = ?1 AND d.client > ?2 ORDER BY d.client LIMIT ?3";
                read(self, sql, params![of.as_str(), client, limit])
            }
            None => {
                let sql = "SELECT d.user_id, d.client, d.last_seen, d.revoked_at, d.body, \
                     s.change_id, h.counter FROM devices d \
                     LEFT JOIN realms r ON r.user_id = d.user_id \
                     LEFT JOIN reconcile_state s ON s.uid = r.uid \
                     AND s.client = 'crdt:' || d.client LEFT JOIN feed_head h ON h.uid = r.uid \
                     WHERE (d.user_id, d.client) > (?1, ?2) \
                     ORDER BY d.user_id, d.client LIMIT ?3";
                read(self, sql, params![user, client, limit])
            }
        }
    }

    async fn devices_seen_since(
        &mut self,
        since: Timestamp,
        at_most: u32,
    ) -> Result<Vec<DeviceState>> {
        let sql = "SELECT d.user_id, d.client, d.last_seen, d.revoked_at, d.body, s.change_id, \
             h.counter FROM devices d LEFT JOIN realms r ON r.user_id = d.user_id \
             LEFT JOIN reconcile_state s ON s.uid = r.uid AND s.client = 'crdt:' || d.client \
             LEFT JOIN feed_head h ON h.uid = r.uid \
             WHERE d.last_seen >= ?1 ORDER BY d.last_seen DESC LIMIT ?2";
        read(self, sql, params![since.as_millis(), at_most])
    }

    async fn put_device(&mut self, device: &Device, new: bool) -> Result<()> {
        let sql = if new {
            "INSERT INTO devices (user_id, client, last_seen, revoked_at, body) \
             VALUES (?1, ?2, ?3, ?4, ?5)"
        } else {
            "UPDATE devices SET last_seen = ?3, revoked_at = ?4, body = ?5 \
             WHERE user_id = ?1 AND client = ?2"
        };
        self.prepare(sql)?.execute(params![
            device.user.as_str(),
            device.client.as_str(),
            device.last_seen.as_millis(),
            device.revoked_at.map(Timestamp::as_millis),
            encoding::device_json(&device.facts)?,
        ])?;
        Ok(())
    }

    async fn count_devices(&mut self, user: &UserId, enough: u64) -> Result<u64> {
        let enough = i64::try_from(enough).unwrap_or(i64::MAX);
        let sql = "SELECT count(*) FROM (SELECT 1 FROM devices WHERE user_id = ?1 LIMIT ?2)";
        self.query_count(sql, params![user.as_str(), enough])
    }

    async fn drop_oldest_device(&mut self, user: &UserId) -> Result<bool> {
        let sql = "DELETE FROM devices WHERE user_id = ?1 AND client = \
             (SELECT client FROM devices WHERE user_id = ?1 AND revoked_at IS NULL \
              ORDER BY last_seen LIMIT 1)";
        Ok(self.prepare(sql)?.execute([user.as_str()])? > 0)
    }

    async fn admission(&mut self, user: &UserId, client: Option<&ReplicaId>) -> Result<Admission> {
        let generation = self.admission_generation().await?;
        let mut disabled = self.prepare("SELECT disabled_at FROM realms WHERE user_id = ?1")?;
        let mut rows = disabled.query([user.as_str()])?;
        let is_disabled = match rows.next()? {
            Some(row) => row.get::<_, Option<i64>>(0)?.is_some(),
            None => false,
        };
        let Some(client) = client else {
            return Ok(Admission {
                generation,
                is_disabled,
                is_deleted: false,
                is_revoked: false,
                credential: None,
            });
        };
        let mut revoked =
            self.prepare("SELECT revoked_at FROM devices WHERE user_id = ?1 AND client = ?2")?;
        let mut rows = revoked.query(params![user.as_str(), client.as_str()])?;
        let is_revoked = match rows.next()? {
            Some(row) => row.get::<_, Option<i64>>(0)?.is_some(),
            None => false,
        };
        let mut credential = self.prepare(
            "SELECT id FROM credentials WHERE user_id = ?1 AND client = ?2 AND ended_at IS NULL",
        )?;
        let mut rows = credential.query(params![user.as_str(), client.as_str()])?;
        let credential = match rows.next()? {
            Some(row) => Some(encoding::credential_id(row.get_ref(0)?.as_str().ok())?),
            None => None,
        };
        Ok(Admission { generation, is_disabled, is_deleted: false, is_revoked, credential })
    }

    async fn admission_generation(&mut self) -> Result<u64> {
        let mut select = self.prepare("SELECT value FROM meta WHERE name = 'admission'")?;
        let mut rows = select.query([])?;
        let Some(row) = rows.next()? else { return Ok(0) };
        Columns { row, table: "meta", key: "admission" }.unsigned(0)
    }

    async fn next_admission_generation(&mut self) -> Result<()> {
        self.prepare(
            "INSERT INTO meta (name, value) VALUES ('admission', 1) \
             ON CONFLICT (name) DO UPDATE SET value = value + 1",
        )?
        .execute([])?;
        Ok(())
    }
}

fn read(
    tx: &SqliteTransaction<'_>,
    sql: &str,
    parameters: impl Params,
) -> Result<Vec<DeviceState>> {
    let mut select = tx.prepare(sql)?;
    let mut rows = select.query(parameters)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let key: String = row.get(1)?;
        let columns = Columns { row, table: "devices", key };
        let revoked_at = columns.optional_integer(3)?.map(|_| columns.time(3)).transpose()?;
        let device = Device {
            user: columns.parse(0)?,
            client: columns.parse(1)?,
            last_seen: columns.time(2)?,
            revoked_at,
            facts: encoding::device_facts(&columns.key, columns.text(4)?)?,
        };
        // A malformed state of the replica is its own affair.
        let applied = columns.optional_text(5)?.and_then(|id| ChangeId::new(id).ok());
        let head = columns.optional_integer(6)?.map(i64::unsigned_abs);
        found.push(DeviceState { device, applied, head });
    }
    Ok(found)
}
