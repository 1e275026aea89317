//! The locks of a transaction in SQLite. There is one writer, so they are only recorded, for
//! decisions on a snapshot.

use std::collections::{BTreeMap, BTreeSet};

use vfs_sync_core::access::Principal;
use vfs_sync_core::id::{ItemId, ReplicaId, UserId, WriteId};
use vfs_sync_core::server::push::{Head, Rows};
use vfs_sync_core::time::Timestamp;

use super::{feeds, members};
use crate::backend::plan_memory::PlanMemory;
use crate::error::Result;
use crate::sqlite::conflicts::Lock;
use crate::sqlite::transaction::SqliteTransaction;
use crate::topics::{Feeds as _, Locks, Replicas as _};

impl Locks for SqliteTransaction<'_> {
    fn plan_memory(&self) -> PlanMemory {
        self.plan_memory
    }

    async fn lock_replica(
        &mut self,
        user: &UserId,
        replica: &ReplicaId,
        _now: Timestamp,
    ) -> Result<Option<WriteId>> {
        self.locks.own.push(Lock::Replica(user.clone(), replica.clone()));
        let found = self.replicas(user, &BTreeSet::from([replica.clone()])).await?;
        Ok(found.get(replica).map(|row| row.last_write_id))
    }

    async fn share_groups(&mut self, groups: &BTreeSet<Principal>) -> Result<()> {
        self.locks.shared.extend(groups.iter().cloned().map(Lock::Group));
        Ok(())
    }

    async fn lock_group(&mut self, group: &Principal) -> Result<()> {
        self.locks.own.push(Lock::Group(group.clone()));
        Ok(())
    }

    async fn lock_realms(
        &mut self,
        user: Option<&UserId>,
        named: &BTreeSet<ItemId>,
        rows: &mut Rows,
    ) -> Result<()> {
        self.load_items(named, &mut rows.items)?;
        let mut owners: BTreeSet<UserId> =
            rows.items.values().flatten().map(|item| item.owner.clone()).collect();
        owners.extend(user.cloned());
        for owner in &owners {
            let (usage, limits) = members::usage(self, owner)?;
            rows.usage.insert(owner.clone(), usage);
            if !limits.is_empty() {
                rows.limits.insert(owner.clone(), limits);
            }
            if user == Some(owner) && members::is_leaving(self, owner)? {
                rows.leaving.insert(owner.clone());
            }
            if let Some(head) = self.head(owner).await? {
                rows.last_changed.insert(owner.clone(), head.changed_at);
                if user == Some(owner) {
                    rows.tail = feeds::tail(self, owner, &head)?;
                }
            }
        }
        self.locks.own.extend(owners.iter().cloned().map(Lock::Realm));
        rows.realms = owners;
        Ok(())
    }

    async fn lock_heads(
        &mut self,
        users: &BTreeSet<UserId>,
        now: Timestamp,
    ) -> Result<BTreeMap<UserId, Head>> {
        self.locks.own.extend(users.iter().cloned().map(Lock::Head));
        let mut heads = BTreeMap::new();
        for user in users {
            let head = match self.head(user).await? {
                Some(head) => head,
                None => {
                    Head { epoch: self.epoch().await?, counter: 0, changed_at: now, pruned: None }
                }
            };
            heads.insert(user.clone(), head);
        }
        Ok(heads)
    }
}
