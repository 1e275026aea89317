//! Replicas, accepted operations, reconcile states.

use std::collections::{BTreeSet, HashMap};

use vfs_sync_core::id::{ReplicaId, UserId, WriteId};
use vfs_sync_core::server::push::Accepted;
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::ReconcileState;

use crate::error::Result;
use crate::memory::state::Replica;
use crate::memory::transaction::MemoryTransaction;
use crate::topics::{ReplicaRow, Replicas, Stored};
use crate::values::MalformedState;

impl Replicas for MemoryTransaction<'_> {
    async fn accepted(
        &mut self,
        user: &UserId,
        replica: &ReplicaId,
        write_ids: &BTreeSet<WriteId>,
    ) -> Result<HashMap<WriteId, Accepted>> {
        let rows = self.state.accepted.group(&(user.clone(), replica.clone()));
        let found = write_ids.iter().filter_map(|id| Some((*id, rows.get(id)?.0.clone())));
        Ok(found.collect())
    }

    async fn replicas(
        &mut self,
        user: &UserId,
        replicas: &BTreeSet<ReplicaId>,
    ) -> Result<HashMap<ReplicaId, ReplicaRow>> {
        let rows = self.state.replicas.group(user);
        let found = replicas.iter().filter_map(|id| {
            let row = rows.get(id)?;
            let (last_write_id, last_seen) = (row.last_write_id, row.last_seen);
            Some((id.clone(), ReplicaRow { last_write_id, last_seen }))
        });
        Ok(found.collect())
    }

    async fn active_replicas(
        &mut self,
        user: &UserId,
        limit: usize,
    ) -> Result<Vec<(ReplicaId, WriteId)>> {
        let mut active: Vec<_> = self.state.replicas.group(user).iter().collect();
        active.sort_by_key(|(_, row)| std::cmp::Reverse(row.last_seen));
        active.truncate(limit);
        Ok(active.into_iter().map(|(id, row)| (id.clone(), row.last_write_id)).collect())
    }

    async fn other_replicas(
        &mut self,
        user: &UserId,
        replica: &ReplicaId,
        enough: u64,
    ) -> Result<u64> {
        let others = self.state.replicas.group(user).keys().filter(|one| *one != replica);
        Ok((others.count() as u64).min(enough))
    }

    async fn touch_replica(
        &mut self,
        user: &UserId,
        replica: &ReplicaId,
        now: Timestamp,
    ) -> Result<()> {
        if let Some(row) = self.state.replicas.get(user, replica) {
            let row = Replica { last_seen: row.last_seen.max(now), ..row.clone() };
            self.state.replicas.put(user, replica.clone(), row);
        }
        Ok(())
    }

    async fn reconcile_state(
        &mut self,
        user: &UserId,
        client: &ReplicaId,
    ) -> Result<Stored<ReconcileState>> {
        Ok(self.state.reconciled.get(user, client).cloned().map(Ok))
    }

    async fn write_reconcile_state(
        &mut self,
        user: &UserId,
        client: &ReplicaId,
        state: &ReconcileState,
        _new: bool,
    ) -> Result<()> {
        self.state.know(user);
        self.state.reconciled.put(user, client.clone(), state.clone());
        Ok(())
    }

    async fn drop_reader_states(&mut self, user: &UserId, most: u64) -> Result<()> {
        let replicas = self.state.replicas.group(user);
        let states = self.state.reconciled.group(user);
        let mut readers: Vec<_> = states
            .iter()
            .filter(|(client, _)| !replicas.contains_key(*client))
            .map(|(client, state)| (state.cursor.clone(), client.clone()))
            .collect();
        readers.sort();
        let surplus = readers.len().saturating_sub(usize::try_from(most).unwrap_or(usize::MAX));
        for (_, client) in readers.into_iter().take(surplus) {
            self.state.reconciled.remove(user, &client);
        }
        Ok(())
    }

    async fn repair_reconcile_states(
        &mut self,
        _user: Option<&UserId>,
        _dry_run: bool,
    ) -> Result<Vec<MalformedState>> {
        // Values in memory are of the form that they have.
        Ok(Vec::new())
    }
}
