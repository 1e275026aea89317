//! Replicas, accepted operations, reconcile states.

use std::collections::{BTreeSet, HashMap};

use rusqlite::params;
use vfs_sync_core::id::{ReplicaId, UserId, WriteId};
use vfs_sync_core::server::push::Accepted;
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::ReconcileState;

use crate::encoding;
use crate::error::{Result, StoreError};
use crate::sqlite::rows::Columns;
use crate::sqlite::transaction::SqliteTransaction;
use crate::topics::{ReplicaRow, Replicas, Stored};
use crate::values::MalformedState;

impl Replicas for SqliteTransaction<'_> {
    async fn accepted(
        &mut self,
        user: &UserId,
        replica: &ReplicaId,
        write_ids: &BTreeSet<WriteId>,
    ) -> Result<HashMap<WriteId, Accepted>> {
        let rid = self.rid(user, replica)?;
        let mut select = self.prepare(
            "SELECT op_id, digest, outcome, authored_at FROM accepted_ops \
             WHERE rid = ?1 AND write_id = ?2",
        )?;
        let mut accepted = HashMap::new();
        for write_id in write_ids {
            let mut rows = select.query(params![rid, write_id.get() as i64])?;
            let Some(row) = rows.next()? else { continue };
            let key = format_args!("{replica} {write_id}");
            let columns = Columns { row, table: "accepted_ops", key };
            let digest = columns.bytes(1)?.try_into();
            let authored_at = columns.optional_integer(3)?;
            let one = Accepted {
                op_id: columns.parse(0)?,
                digest: digest.map_err(|_| columns.malformed("digest is not 32 bytes"))?,
                outcome: columns.code(2, |code| encoding::outcome(code, authored_at))?,
            };
            accepted.insert(*write_id, one);
        }
        Ok(accepted)
    }

    async fn replicas(
        &mut self,
        user: &UserId,
        replicas: &BTreeSet<ReplicaId>,
    ) -> Result<HashMap<ReplicaId, ReplicaRow>> {
        let mut found = HashMap::with_capacity(replicas.len());
        let Some(uid) = self.uid(user)? else { return Ok(found) };
        let mut select = self.prepare(
            "SELECT last_write_id, last_seen FROM replicas WHERE uid = ?1 AND replica_id = ?2",
        )?;
        for replica in replicas {
            let mut rows = select.query(params![uid, replica.as_str()])?;
            let Some(row) = rows.next()? else { continue };
            let columns = Columns { row, table: "replicas", key: replica };
            let row =
                ReplicaRow { last_write_id: write_id(&columns, 0)?, last_seen: columns.time(1)? };
            found.insert(replica.clone(), row);
        }
        Ok(found)
    }

    async fn active_replicas(
        &mut self,
        user: &UserId,
        limit: usize,
    ) -> Result<Vec<(ReplicaId, WriteId)>> {
        let Some(uid) = self.uid(user)? else { return Ok(Vec::new()) };
        let mut select = self.prepare(
            "SELECT replica_id, last_write_id FROM replicas \
             WHERE uid = ?1 ORDER BY last_seen DESC LIMIT ?2",
        )?;
        let mut rows = select.query(params![uid, limit as i64])?;
        let mut active = Vec::new();
        while let Some(row) = rows.next()? {
            let columns = Columns { row, table: "replicas", key: user };
            active.push((columns.parse(0)?, write_id(&columns, 1)?));
        }
        Ok(active)
    }

    async fn other_replicas(
        &mut self,
        user: &UserId,
        replica: &ReplicaId,
        enough: u64,
    ) -> Result<u64> {
        let Some(uid) = self.uid(user)? else { return Ok(0) };
        let enough = i64::try_from(enough).unwrap_or(i64::MAX);
        let sql = "SELECT count(*) FROM (SELECT 1 FROM replicas \
             WHERE uid = ?1 AND replica_id <> ?2 LIMIT ?3)";
        self.query_count(sql, params![uid, replica.as_str(), enough])
    }

    async fn touch_replica(
        &mut self,
        user: &UserId,
        replica: &ReplicaId,
        now: Timestamp,
    ) -> Result<()> {
        let Some(uid) = self.uid(user)? else { return Ok(()) };
        self.prepare(
            "UPDATE replicas SET last_seen = max(last_seen, ?3) WHERE uid = ?1 AND replica_id = ?2",
        )?
        .execute(params![uid, replica.as_str(), now.as_millis()])?;
        Ok(())
    }

    async fn reconcile_state(
        &mut self,
        user: &UserId,
        client: &ReplicaId,
    ) -> Result<Stored<ReconcileState>> {
        let Some(uid) = self.uid(user)? else { return Ok(None) };
        let key = encoding::client_key(client);
        let mut select = self.prepare(
            "SELECT changed_at, change_id, write_ids FROM reconcile_state \
             WHERE uid = ?1 AND client = ?2",
        )?;
        let mut rows = select.query(params![uid, key])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let columns = Columns { row, table: "reconcile_state", key: &key };
        let parse = || {
            encoding::reconcile_state(&key, columns.integer(0)?, columns.text(1)?, columns.text(2)?)
        };
        Ok(Some(parse()))
    }

    async fn write_reconcile_state(
        &mut self,
        user: &UserId,
        client: &ReplicaId,
        state: &ReconcileState,
        _new: bool,
    ) -> Result<()> {
        let uid = self.make_uid(user)?;
        self.prepare(
            "INSERT INTO reconcile_state (uid, client, changed_at, change_id, write_ids) \
             VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (uid, client) DO UPDATE SET \
             changed_at = excluded.changed_at, change_id = excluded.change_id, \
             write_ids = excluded.write_ids",
        )?
        .execute(params![
            uid,
            encoding::client_key(client),
            state.cursor.changed_at.as_millis(),
            state.cursor.change_id.as_str(),
            encoding::write_ids_json(&state.last_reconciled_write_ids)?,
        ])?;
        Ok(())
    }

    async fn drop_reader_states(&mut self, user: &UserId, most: u64) -> Result<()> {
        let Some(uid) = self.uid(user)? else { return Ok(()) };
        let limit = i64::try_from(most).unwrap_or(i64::MAX);
        let count = "SELECT count(*) FROM \
            (SELECT 1 FROM reconcile_state WHERE uid = ?1 LIMIT ?2 + 1)";
        if self.query_count(count, params![uid, limit])? <= most {
            return Ok(());
        }
        let mut readers: Vec<(i64, String, String)> = self
            .prepare(
                "SELECT changed_at, change_id, client FROM reconcile_state s \
                 WHERE uid = ?1 AND NOT EXISTS (SELECT 1 FROM replicas r \
                 WHERE r.uid = ?1 AND r.replica_id = substr(s.client, 6))",
            )?
            .query_map([uid], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
            .collect::<Result<_, _>>()?;
        readers.sort();
        let surplus = readers.len().saturating_sub(usize::try_from(most).unwrap_or(usize::MAX));
        let mut delete =
            self.prepare("DELETE FROM reconcile_state WHERE uid = ?1 AND client = ?2")?;
        for (_, _, client) in readers.into_iter().take(surplus) {
            delete.execute(params![uid, client])?;
        }
        Ok(())
    }

    async fn repair_reconcile_states(
        &mut self,
        user: Option<&UserId>,
        dry_run: bool,
    ) -> Result<Vec<MalformedState>> {
        let mut malformed = Vec::new();
        {
            let mut select = self.prepare(
                "SELECT s.changed_at, s.change_id, s.write_ids, s.client, u.user_id \
                 FROM reconcile_state s JOIN realms u ON u.uid = s.uid \
                 WHERE ?1 IS NULL OR u.user_id = ?1 ORDER BY u.user_id, s.client",
            )?;
            let mut rows = select.query(params![user.map(UserId::as_str)])?;
            while let Some(row) = rows.next()? {
                let (key, user): (String, String) = (row.get(3)?, row.get(4)?);
                let columns = Columns { row, table: "reconcile_state", key: &key };
                let parse = || {
                    let (changed_at, change_id) = (columns.integer(0)?, columns.text(1)?);
                    encoding::reconcile_state(&key, changed_at, change_id, columns.text(2)?)
                };
                if let Err(StoreError::MalformedRow { reason, .. }) = parse() {
                    malformed.push(MalformedState { user, key: key.clone(), reason });
                }
            }
        }
        if !dry_run {
            let mut delete = self.prepare(
                "DELETE FROM reconcile_state \
                 WHERE uid = (SELECT uid FROM realms WHERE user_id = ?1) AND client = ?2",
            )?;
            for state in &malformed {
                delete.execute(params![state.user, state.key])?;
            }
        }
        Ok(malformed)
    }
}

fn write_id<K: std::fmt::Display>(columns: &Columns<'_, '_, K>, column: usize) -> Result<WriteId> {
    WriteId::new(columns.unsigned(column)?)
        .ok_or_else(|| columns.malformed("last_write_id is out of range"))
}
