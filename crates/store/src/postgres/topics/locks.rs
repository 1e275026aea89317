//! The locks of a transaction in PostgreSQL. A missing lock row is inserted at its place in the
//! order: `INSERT … ON CONFLICT DO UPDATE` locks the rows one by one, in the given order.

use std::collections::{BTreeMap, BTreeSet};

use tokio::runtime::{Handle, RuntimeFlavor};
use vfs_sync_core::access::Principal;
use vfs_sync_core::id::{ItemId, ReplicaId, UserId, WriteId};
use vfs_sync_core::server::push::{Head, MetadataUsage, Rows, Tail};
use vfs_sync_core::time::Timestamp;

use super::{feeds, registers};
use crate::backend::plan_memory::PlanMemory;
use crate::backend::served::Served;
use crate::encoding;
use crate::error::{Result, StoreError};
use crate::postgres::rows::Columns;
use crate::postgres::transaction::{PostgresTransaction, texts};
use crate::topics::Locks;

/// The number of rows from which the work on them counts as long: some milliseconds.
const LONG_WORK: usize = 2_000;

impl Locks for PostgresTransaction<'_> {
    fn served(&self) -> Option<(&Served, u64)> {
        self.served
    }

    fn plan_memory(&self) -> PlanMemory {
        self.plan_memory
    }

    fn run_blocking<R>(&self, rows: usize, work: impl FnOnce() -> R) -> R {
        // Where it runs, the connections of others are served too.
        let others = Handle::current().runtime_flavor() == RuntimeFlavor::MultiThread;
        if others && rows > LONG_WORK { tokio::task::block_in_place(work) } else { work() }
    }

    async fn lock_replica(
        &mut self,
        user: &UserId,
        replica: &ReplicaId,
        now: Timestamp,
    ) -> Result<Option<WriteId>> {
        let row = self
            .query_opt(
                "INSERT INTO replicas (user_id, replica_id, last_write_id, last_seen) \
                 VALUES ($1, $2, 0, $3) ON CONFLICT (user_id, replica_id) DO UPDATE \
                 SET last_seen = greatest(replicas.last_seen, excluded.last_seen) \
                 RETURNING last_write_id",
                &[&user.as_str(), &replica.as_str(), &now.as_millis()],
            )
            .await?
            .ok_or_else(|| encoding::malformed("replicas", replica, "is not there"))?;
        let columns = Columns { row: &row, table: "replicas", key: replica };
        if columns.unsigned(0)? == 0 { Ok(None) } else { columns.write_id(0).map(Some) }
    }

    async fn share_groups(&mut self, groups: &BTreeSet<Principal>) -> Result<()> {
        if groups.is_empty() {
            return Ok(());
        }
        let kinds: Vec<i64> = groups.iter().map(|one| encoding::principal_code(one.kind)).collect();
        let ids = texts(groups.iter().map(|one| &one.id));
        self.execute(
            "INSERT INTO groups (kind, group_id) \
             SELECT kind, id FROM unnest($1::bigint[], $2::text[]) AS g (kind, id) \
             ORDER BY kind, id COLLATE \"C\" ON CONFLICT (kind, group_id) DO NOTHING",
            &[&kinds, &ids],
        )
        .await?;
        // One by one, in the order of the set: a join would lock in an order of its own.
        for (kind, id) in kinds.iter().zip(&ids) {
            self.query_opt(
                "SELECT 1 FROM groups WHERE kind = $1 AND group_id = $2 FOR SHARE",
                &[kind, id],
            )
            .await?;
        }
        Ok(())
    }

    async fn lock_group(&mut self, group: &Principal) -> Result<()> {
        self.execute(
            "INSERT INTO groups (kind, group_id) VALUES ($1, $2) \
             ON CONFLICT (kind, group_id) DO UPDATE SET group_id = excluded.group_id",
            &[&encoding::principal_code(group.kind), &group.id.as_str()],
        )
        .await?;
        Ok(())
    }

    async fn lock_realms(
        &mut self,
        user: Option<&UserId>,
        named: &BTreeSet<ItemId>,
        rows: &mut Rows,
    ) -> Result<()> {
        let ids = texts(named);
        let mut realms = std::mem::take(&mut self.realms);
        realms.extend(user.cloned());
        let owners =
            self.query("SELECT DISTINCT owner FROM items WHERE item_id = ANY($1)", &[&ids]).await?;
        for row in &owners {
            realms.insert(Columns { row, table: "items", key: "owner" }.parse(0)?);
        }
        let held = self
            .query(
                "INSERT INTO realms (user_id) SELECT id FROM unnest($1::text[]) AS id \
                 ORDER BY id COLLATE \"C\" \
                 ON CONFLICT (user_id) DO UPDATE SET user_id = excluded.user_id \
                 RETURNING user_id, items, links, grants, bytes, limits, leaving",
                &[&texts(&realms)],
            )
            .await?;
        for row in &held {
            let owner: UserId = Columns { row, table: "realms", key: "?" }.parse(0)?;
            let columns = Columns { row, table: "realms", key: &owner };
            let usage = MetadataUsage {
                items: columns.unsigned(1)?,
                links: columns.unsigned(2)?,
                grants: columns.unsigned(3)?,
                bytes: columns.unsigned(4)?,
            };
            let limits = encoding::limits(owner.as_str(), columns.get(5)?)?;
            if user == Some(&owner) && columns.get(6)? {
                rows.leaving.insert(owner.clone());
            }
            rows.usage.insert(owner.clone(), usage);
            if !limits.is_empty() {
                rows.limits.insert(owner.clone(), limits);
            }
        }
        registers::items(self, &ids, &mut rows.items).await?;
        for id in named {
            rows.items.entry(id.clone()).or_insert(None);
        }
        let unlocked: Vec<UserId> = rows
            .items
            .values()
            .flatten()
            .filter(|item| !realms.contains(&item.owner))
            .map(|item| item.owner.clone())
            .collect();
        if !unlocked.is_empty() {
            realms.extend(unlocked);
            self.realms = realms;
            return Err(StoreError::Conflict);
        }
        let heads = self
            .query(
                "SELECT user_id, changed_at, epoch, counter, writer, other FROM feed_head \
                 WHERE user_id = ANY($1)",
                &[&texts(&realms)],
            )
            .await?;
        for row in &heads {
            let columns = Columns { row, table: "feed_head", key: "changed_at" };
            let owner: UserId = columns.parse(0)?;
            rows.last_changed.insert(owner.clone(), columns.time(1)?);
            if user == Some(&owner) {
                let (epoch, counter) =
                    (columns.code(2, feeds::stored_epoch)?, columns.unsigned(3)?);
                let mark = feeds::mark(&columns, 4, counter)?;
                rows.tail = Some(Tail { history: vec![(epoch, counter)], mark });
            }
        }
        rows.realms = realms.clone();
        self.realms = realms;
        Ok(())
    }

    async fn lock_heads(
        &mut self,
        users: &BTreeSet<UserId>,
        now: Timestamp,
    ) -> Result<BTreeMap<UserId, Head>> {
        let rows = self
            .query(
                "INSERT INTO feed_head (user_id, epoch, counter, changed_at) \
                 SELECT id, (SELECT value FROM meta WHERE name = 'epoch'), 0, $2 \
                 FROM unnest($1::text[]) AS id ORDER BY id COLLATE \"C\" \
                 ON CONFLICT (user_id) DO UPDATE SET user_id = excluded.user_id \
                 RETURNING user_id, epoch, counter, changed_at, pruned_counter, pruned_changed_at, \
                 (SELECT value FROM meta WHERE name = 'epoch')",
                &[&texts(users), &now.as_millis()],
            )
            .await?;
        self.epoch = rows.first().map(feeds::read_epoch).transpose()?;
        rows.iter().map(feeds::read_head).collect()
    }
}
