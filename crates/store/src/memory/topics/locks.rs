//! Locks in memory: a transaction owns all tables, so no lock is needed.

use std::collections::{BTreeMap, BTreeSet};

use vfs_sync_core::access::Principal;
use vfs_sync_core::id::{ItemId, ReplicaId, UserId, WriteId};
use vfs_sync_core::server::push::{Head, Rows, Tail};
use vfs_sync_core::time::Timestamp;

use crate::backend::served::Served;
use crate::error::Result;
use crate::memory::transaction::MemoryTransaction;
use crate::topics::Locks;

impl Locks for MemoryTransaction<'_> {
    fn served(&self) -> Option<(&Served, u64)> {
        Some(self.served)
    }

    async fn lock_replica(
        &mut self,
        user: &UserId,
        replica: &ReplicaId,
        _now: Timestamp,
    ) -> Result<Option<WriteId>> {
        Ok(self.state.replicas.get(user, replica).map(|row| row.last_write_id))
    }

    async fn share_groups(&mut self, _groups: &BTreeSet<Principal>) -> Result<()> {
        Ok(())
    }

    async fn lock_group(&mut self, _group: &Principal) -> Result<()> {
        Ok(())
    }

    async fn lock_realms(
        &mut self,
        user: Option<&UserId>,
        named: &BTreeSet<ItemId>,
        rows: &mut Rows,
    ) -> Result<()> {
        let mut owners: BTreeSet<UserId> = user.cloned().into_iter().collect();
        for id in named {
            let item = self.state.items.get(id).cloned();
            owners.extend(item.as_ref().map(|item| item.owner.clone()));
            rows.items.insert(id.clone(), item);
        }
        for owner in &owners {
            let usage = self.state.holds.get(owner).copied().unwrap_or_default();
            rows.usage.insert(owner.clone(), usage);
            if let Some(limits) = self.state.limits.get(owner) {
                rows.limits.insert(owner.clone(), *limits);
            }
            if let Some(head) = self.state.heads.get(owner) {
                rows.last_changed.insert(owner.clone(), head.changed_at);
                if user == Some(owner) {
                    let mark = self.state.tails.get(owner).cloned().unwrap_or_default();
                    rows.tail = Some(Tail { history: vec![(head.epoch, head.counter)], mark });
                }
            }
        }
        rows.leaving.extend(user.filter(|user| self.state.leaving.get(user).is_some()).cloned());
        rows.realms = owners;
        Ok(())
    }

    async fn lock_heads(
        &mut self,
        users: &BTreeSet<UserId>,
        now: Timestamp,
    ) -> Result<BTreeMap<UserId, Head>> {
        let epoch = self.state.present_epoch()?;
        let new = Head { epoch, counter: 0, changed_at: now, pruned: None };
        let head =
            |user: &UserId| (user.clone(), self.state.heads.get(user).copied().unwrap_or(new));
        Ok(users.iter().map(head).collect())
    }
}
