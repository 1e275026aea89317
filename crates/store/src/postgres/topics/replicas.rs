//! Replicas, accepted operations, reconcile states.

use std::collections::{BTreeSet, HashMap};

use vfs_sync_core::id::{ReplicaId, UserId, WriteId};
use vfs_sync_core::server::push::Accepted;
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::ReconcileState;

use crate::encoding;
use crate::error::{Result, StoreError};
use crate::postgres::rows::Columns;
use crate::postgres::transaction::{PostgresTransaction, texts};
use crate::topics::{ReplicaRow, Replicas, Stored};
use crate::values::MalformedState;

impl Replicas for PostgresTransaction<'_> {
    async fn accepted(
        &mut self,
        user: &UserId,
        replica: &ReplicaId,
        write_ids: &BTreeSet<WriteId>,
    ) -> Result<HashMap<WriteId, Accepted>> {
        let ids: Vec<i64> = write_ids.iter().map(|id| id.get() as i64).collect();
        let rows = self
            .query(
                "SELECT write_id, op_id, digest, outcome, authored_at FROM accepted_ops \
                 WHERE user_id = $1 AND replica_id = $2 AND write_id = ANY($3)",
                &[&user.as_str(), &replica.as_str(), &ids],
            )
            .await?;
        let mut accepted = HashMap::with_capacity(rows.len());
        for row in &rows {
            let key = format!("{replica} {}", row.try_get::<_, i64>(0).unwrap_or(0));
            let columns = Columns { row, table: "accepted_ops", key };
            let authored_at = columns.get(4)?;
            let one = Accepted {
                op_id: columns.parse(1)?,
                digest: columns.digest(2)?,
                outcome: columns.code(3, |code| encoding::outcome(code, authored_at))?,
            };
            accepted.insert(columns.write_id(0)?, one);
        }
        Ok(accepted)
    }

    async fn replicas(
        &mut self,
        user: &UserId,
        replicas: &BTreeSet<ReplicaId>,
    ) -> Result<HashMap<ReplicaId, ReplicaRow>> {
        if replicas.is_empty() {
            return Ok(HashMap::new());
        }
        let rows = self
            .query(
                "SELECT replica_id, last_write_id, last_seen FROM replicas \
                 WHERE user_id = $1 AND replica_id = ANY($2) AND last_write_id <> 0",
                &[&user.as_str(), &texts(replicas)],
            )
            .await?;
        let mut found = HashMap::with_capacity(rows.len());
        for row in &rows {
            let columns = Columns { row, table: "replicas", key: user };
            let (last_write_id, last_seen) = (columns.write_id(1)?, columns.time(2)?);
            found.insert(columns.parse(0)?, ReplicaRow { last_write_id, last_seen });
        }
        Ok(found)
    }

    async fn active_replicas(
        &mut self,
        user: &UserId,
        limit: usize,
    ) -> Result<Vec<(ReplicaId, WriteId)>> {
        let rows = self
            .query(
                "SELECT replica_id, last_write_id FROM replicas \
                 WHERE user_id = $1 AND last_write_id > 0 ORDER BY last_seen DESC LIMIT $2",
                &[&user.as_str(), &(limit as i64)],
            )
            .await?;
        rows.iter()
            .map(|row| {
                let columns = Columns { row, table: "replicas", key: user };
                Ok((columns.parse(0)?, columns.write_id(1)?))
            })
            .collect()
    }

    async fn other_replicas(
        &mut self,
        user: &UserId,
        replica: &ReplicaId,
        enough: u64,
    ) -> Result<u64> {
        let enough = i64::try_from(enough).unwrap_or(i64::MAX);
        let sql = "SELECT count(*) FROM (SELECT 1 FROM replicas \
             WHERE user_id = $1 AND replica_id <> $2 LIMIT $3) AS others";
        self.query_count(sql, &[&user.as_str(), &replica.as_str(), &enough]).await
    }

    async fn touch_replica(
        &mut self,
        user: &UserId,
        replica: &ReplicaId,
        now: Timestamp,
    ) -> Result<()> {
        self.execute(
            "UPDATE replicas SET last_seen = greatest(last_seen, $3) \
             WHERE user_id = $1 AND replica_id = $2",
            &[&user.as_str(), &replica.as_str(), &now.as_millis()],
        )
        .await?;
        Ok(())
    }

    async fn reconcile_state(
        &mut self,
        user: &UserId,
        client: &ReplicaId,
    ) -> Result<Stored<ReconcileState>> {
        let key = encoding::client_key(client);
        let sql = if self.only_reads {
            "SELECT changed_at, change_id, write_ids FROM reconcile_state \
             WHERE user_id = $1 AND client = $2"
        } else {
            "SELECT changed_at, change_id, write_ids FROM reconcile_state \
             WHERE user_id = $1 AND client = $2 FOR UPDATE"
        };
        let row = self.query_opt(sql, &[&user.as_str(), &key]).await?;
        Ok(row.map(|row| {
            let columns = Columns { row: &row, table: "reconcile_state", key: &key };
            encoding::reconcile_state(&key, columns.get(0)?, columns.get(1)?, columns.get(2)?)
        }))
    }

    async fn write_reconcile_state(
        &mut self,
        user: &UserId,
        client: &ReplicaId,
        state: &ReconcileState,
        new: bool,
    ) -> Result<()> {
        let sql = if new {
            "INSERT INTO reconcile_state (user_id, client, changed_at, change_id, write_ids) \
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT (user_id, client) DO NOTHING"
        } else {
            "UPDATE reconcile_state SET changed_at = $3, change_id = $4, write_ids = $5 \
             WHERE user_id = $1 AND client = $2"
        };
        let written = self
            .execute(
                sql,
                &[
                    &user.as_str(),
                    &encoding::client_key(client),
                    &state.cursor.changed_at.as_millis(),
                    &state.cursor.change_id.as_str(),
                    &encoding::write_ids_json(&state.last_reconciled_write_ids)?,
                ],
            )
            .await?;
        // Another call stored the first state at the same time: this one has to merge with it.
        if written == 0 { Err(StoreError::Conflict) } else { Ok(()) }
    }

    async fn drop_reader_states(&mut self, user: &UserId, most: u64) -> Result<()> {
        let limit = i64::try_from(most).unwrap_or(i64::MAX);
        let count = "SELECT count(*) FROM \
             (SELECT 1 FROM reconcile_state WHERE user_id = $1 LIMIT $2::bigint + 1) AS present";
        if self.query_count(count, &[&user.as_str(), &limit]).await? <= most {
            return Ok(());
        }
        let sql = "DELETE FROM reconcile_state WHERE user_id = $1 AND client IN \
             (SELECT client FROM reconcile_state s WHERE s.user_id = $1 AND NOT EXISTS \
              (SELECT 1 FROM replicas r \
               WHERE r.user_id = $1 AND r.replica_id = substr(s.client, 6)) \
              ORDER BY changed_at DESC, change_id COLLATE \"C\" DESC, client COLLATE \"C\" DESC OFFSET $2)";
        self.execute(sql, &[&user.as_str(), &limit]).await?;
        Ok(())
    }

    async fn repair_reconcile_states(
        &mut self,
        user: Option<&UserId>,
        dry_run: bool,
    ) -> Result<Vec<MalformedState>> {
        let rows = self
            .query(
                "SELECT changed_at, change_id, write_ids, client, user_id FROM reconcile_state \
                 WHERE $1::text IS NULL OR user_id = $1 ORDER BY user_id, client FOR UPDATE",
                &[&user.map(UserId::as_str)],
            )
            .await?;
        let mut malformed = Vec::new();
        for row in &rows {
            let (key, user): (String, String) = (row.get(3), row.get(4));
            let columns = Columns { row, table: "reconcile_state", key: &key };
            let parse = || {
                encoding::reconcile_state(&key, columns.get(0)?, columns.get(1)?, columns.get(2)?)
            };
            if let Err(StoreError::MalformedRow { reason, .. }) = parse() {
                malformed.push(MalformedState { user, key: key.clone(), reason });
            }
        }
        if !dry_run {
            for state in &malformed {
                self.execute(
                    "DELETE FROM reconcile_state WHERE user_id = $1 AND client = $2",
                    &[&state.user, &state.key],
                )
                .await?;
            }
        }
        Ok(malformed)
    }
}
