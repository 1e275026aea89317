//! Rows that retention removes, and queries about the database. A scan of all rows finds the due
//! ones: a store in memory is small.

use vfs_sync_core::id::{UserId, WriteId};
use vfs_sync_core::server::push::Head;
use vfs_sync_core::time::Timestamp;

use crate::error::Result;
use crate::memory::state::{Replica, State, count, oldest};
use crate::memory::transaction::MemoryTransaction;
use crate::topics::Maintenance;
use crate::values::{Identity, Retention, Totals, TrashState};

impl Maintenance for MemoryTransaction<'_> {
    async fn prune_removals(&mut self, retention: &Retention) -> Result<u64> {
        Ok(self.state.prune_removals(retention))
    }

    async fn prune_accepted(&mut self, retention: &Retention) -> Result<u64> {
        Ok(self.state.prune_accepted(retention))
    }

    async fn identity(&mut self) -> Result<Identity> {
        let is_empty = self.state.users.rows().is_empty() && self.state.blobs.rows().is_empty();
        let pseudonym_secret = "memory".into();
        Ok(Identity { id: "memory".into(), is_empty, pseudonym_secret })
    }

    async fn totals(&mut self) -> Result<Totals> {
        let state = &self.state;
        let held = || state.holds.rows().values();
        let used = || state.usages.rows().values();
        let trashed = || state.trash.rows().values().filter(|row| row.state == TrashState::Kept);
        let refs = trashed().flat_map(|row| state.refs_of.group(&row.item_id).keys());
        let blobs = refs.filter_map(|id| state.blobs.get(&state.refs.get(id)?.blob_id));
        Ok(Totals {
            users: state.users.rows().len() as u64,
            items: held().map(|one| one.items).sum(),
            register_bytes: held().map(|one| one.bytes).sum(),
            stored_bytes: used().map(|one| one.stored).sum(),
            staged_bytes: used().map(|one| one.staged).sum(),
            open_stages: used().map(|one| one.open_stages).sum(),
            feed_positions: state.heads.rows().values().map(|head| head.counter).sum(),
            trashed_items: trashed().count() as u64,
            trashed_bytes: blobs.map(|blob| blob.reserved).sum(),
            is_primary: true,
            standbys: 0,
            replication_lag: None,
        })
    }

    async fn removals_held_until(&mut self) -> Result<Timestamp> {
        Ok(self.state.removals_held_until.get(&()).copied().unwrap_or(Timestamp::MIN))
    }

    async fn hold_removals(&mut self, until: Timestamp) -> Result<()> {
        let held = self.removals_held_until().await?;
        self.state.removals_held_until.put((), until.max(held));
        Ok(())
    }

    async fn ping(&mut self) -> Result<()> {
        Ok(())
    }
}

impl State {
    /// Prunes the oldest removals. A feed's times ascend with its positions, so each feed loses a
    /// prefix, and its head records where the prefix ends.
    fn prune_removals(&mut self, retention: &Retention) -> u64 {
        let feeds = self.feeds.groups().iter();
        let rows = feeds.flat_map(|(user, rows)| rows.iter().map(move |row| (user, row)));
        let old = rows
            .filter(|(_, (_, row))| row.removal && row.changed_at < retention.removals_before)
            .map(|(user, (counter, row))| (row.changed_at, (user.clone(), *counter)));
        let old: Vec<(UserId, u64)> = oldest(old, retention.at_most).collect();
        for (user, counter) in &old {
            let Some(row) = self.feeds.get(user, counter) else { continue };
            let (key, changed_at) = (row.key.clone(), row.changed_at);
            self.feeds.remove(user, counter);
            self.counters.remove(user, &key);
            if let Some(head) = self.heads.get(user).copied() {
                let pruned = head.pruned.max(Some((*counter, changed_at)));
                self.heads.put(user.clone(), Head { pruned, ..head });
            }
        }
        old.len() as u64
    }

    /// Prunes the oldest accepted operations: of each replica, those with the lowest write ids.
    fn prune_accepted(&mut self, retention: &Retention) -> u64 {
        let before = retention.accepted_before;
        let all = self.replicas.groups().iter();
        let all = all.flat_map(|(user, rows)| rows.iter().map(move |row| (user, row)));
        let old = all.filter_map(|(user, (id, row))| {
            let from = row.accepted_from.filter(|from| *from < before)?;
            Some((from, (user.clone(), id.clone())))
        });
        let old: Vec<_> = oldest(old, retention.at_most).collect();
        let mut left = count(retention.at_most);
        for replica in &old {
            let rows = self.accepted.group(replica).iter();
            let old = rows.take(left).take_while(|(_, (_, at))| *at < before);
            let old: Vec<WriteId> = old.map(|(write_id, _)| *write_id).collect();
            for write_id in &old {
                self.accepted.remove(replica, write_id);
            }
            left -= old.len();
            let accepted_from = self.accepted.group(replica).values().next().map(|(_, at)| *at);
            if let Some(row) = self.replicas.get(&replica.0, &replica.1) {
                let row = Replica { accepted_from, ..row.clone() };
                self.replicas.put(&replica.0, replica.1.clone(), row);
            }
            if left == 0 {
                break;
            }
        }
        (count(retention.at_most) - left) as u64
    }
}
