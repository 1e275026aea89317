//! Reads for a doctor. A scan of all rows finds the oldest ones: a store in memory is small.

use vfs_sync_core::id::{ItemId, UserId};
use vfs_sync_core::server::push::MetadataUsage;
use vfs_sync_core::server::stage::Usage;
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::StageStatus;

use crate::error::Result;
use crate::examination::{ChargePlace, DatabaseFacts, Examine, MalformedRow, OldestRows};
use crate::memory::state::count;
use crate::memory::transaction::MemoryTransaction;
use crate::topics::Maintenance as _;
use crate::values::TrashState;

/// Returns at most `at_most` of `found`, and the last one if there are so many.
fn page<T: Clone>(found: impl Iterator<Item = T>, at_most: u32) -> (Vec<T>, Option<T>) {
    let found: Vec<T> = found.take(count(at_most)).collect();
    let next = found.last().filter(|_| found.len() == count(at_most)).cloned();
    (found, next)
}

impl Examine for MemoryTransaction<'_> {
    async fn owned_after(
        &mut self,
        owner: &UserId,
        after: Option<&ItemId>,
        at_most: u32,
    ) -> Result<Vec<ItemId>> {
        let all = self.state.items.rows().iter();
        let owned = all.filter(|(id, item)| item.owner == *owner && Some(*id) > after);
        Ok(page(owned.map(|(id, _)| id.clone()), at_most).0)
    }

    async fn known_after(&mut self, after: Option<&UserId>, at_most: u32) -> Result<Vec<UserId>> {
        let all = self.state.users.rows().keys().chain(self.state.heads.rows().keys());
        let all: std::collections::BTreeSet<&UserId> = all.filter(|id| Some(*id) > after).collect();
        Ok(all.into_iter().take(count(at_most)).cloned().collect())
    }

    async fn read_after(
        &mut self,
        reader: &UserId,
        after: Option<&ItemId>,
        at_most: u32,
    ) -> Result<(Vec<ItemId>, Option<ItemId>)> {
        let all = self.state.access.groups().iter();
        let held = all.filter(|(id, levels)| levels.contains_key(reader) && Some(*id) > after);
        Ok(page(held.map(|(id, _)| id.clone()), at_most))
    }

    async fn count_registers(&mut self, items: &[ItemId]) -> Result<(u64, u64)> {
        let links = items.iter().map(|item| self.state.links.group(item).len() as u64);
        let grants = items.iter().map(|item| self.state.grants.group(item).len() as u64);
        Ok((links.sum(), grants.sum()))
    }

    async fn held(&mut self, owner: &UserId) -> Result<Option<MetadataUsage>> {
        let known = self.state.users.get(owner).is_some();
        Ok(known.then(|| self.state.holds.get(owner).copied().unwrap_or_default()))
    }

    async fn leaving(&mut self, users: &[UserId]) -> Result<Vec<UserId>> {
        let leaves = |user: &&UserId| self.state.leaving.get(user).is_some();
        Ok(users.iter().filter(leaves).cloned().collect())
    }

    async fn count_charges(
        &mut self,
        user: &UserId,
        _after: Option<&ChargePlace>,
        _at_most: u32,
    ) -> Result<(Usage, Option<ChargePlace>)> {
        let mut usage = Usage::default();
        for blob in self.state.blobs.rows().values() {
            if blob.charged.as_ref().unwrap_or(&blob.owner) == user {
                usage.stored += blob.reserved;
            }
            let stage = self.state.stages.get(&blob.staging_id);
            if stage.is_some_and(|s| s.owner == *user && s.status == StageStatus::Staged) {
                usage.staged += blob.reserved;
                usage.open_stages += 1;
            }
        }
        Ok((usage, None))
    }

    async fn malformed_states(
        &mut self,
        _user: &UserId,
        _after: &str,
        _at_most: u32,
    ) -> Result<(Vec<MalformedRow>, Option<String>)> {
        Ok((Vec::new(), None))
    }

    async fn oldest_rows(&mut self, before: Timestamp) -> Result<OldestRows> {
        let held_until = Some(self.removals_held_until().await?);
        let state = &self.state;
        let due = |at: &Timestamp| *at < before;
        let trash = |wanted: TrashState| {
            let rows = state.trash.rows().values();
            rows.filter(|row| row.state == wanted).map(|row| row.at).filter(due).min()
        };
        let stages = state.stages.rows().values();
        let stages = stages.filter(|stage| stage.status == StageStatus::Staged);
        let feeds = state.feeds.groups().values().flat_map(|rows| rows.values());
        let replicas = state.replicas.groups().values().flat_map(|rows| rows.values());
        let deletions = state.deletions.rows().values().filter(|deletion| !deletion.is_done());
        Ok(OldestRows {
            stage: stages.map(|stage| stage.expires_at).filter(due).min(),
            reclaim: state.blobs.rows().values().filter_map(|b| b.reclaim_at).filter(due).min(),
            held_until,
            version: state.refs.rows().values().filter_map(|r| r.surplus_since).filter(due).min(),
            trashed: trash(TrashState::Kept),
            purging: trash(TrashState::Purging),
            removal: feeds.filter(|row| row.removal).map(|row| row.changed_at).filter(due).min(),
            result: replicas.filter_map(|row| row.accepted_from).filter(due).min(),
            deletion: deletions.map(|deletion| deletion.due_at).filter(due).min(),
            last_call: state.devices.rows().values().map(|device| device.last_seen).max(),
        })
    }

    async fn database_facts(&mut self) -> Result<DatabaseFacts> {
        Ok(DatabaseFacts { product: "memory".into(), ..DatabaseFacts::default() })
    }
}
