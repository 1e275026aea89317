//! Deletions of users, and the rows that name a user.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use vfs_sync_core::access::Principal;
use vfs_sync_core::id::{BlobId, ItemId, ReplicaId, StagingId, UserId};
use vfs_sync_core::server::deletion::Deletion;
use vfs_sync_core::server::push::Link;
use vfs_sync_core::stamp::Stamp;
use vfs_sync_core::time::Timestamp;

use crate::encoding;
use crate::error::Result;
use crate::memory::state::{FeedRow, StoredStage, count, oldest};
use crate::memory::transaction::MemoryTransaction;
use crate::topics::{Deletions, Mention, Renamed};
use crate::values::TrashRow;

impl Deletions for MemoryTransaction<'_> {
    async fn deletion(&mut self, pseudonym: &str) -> Result<Option<Deletion>> {
        Ok(self.state.deletions.get(&pseudonym.to_owned()).cloned())
    }

    async fn put_deletion(&mut self, deletion: &Deletion) -> Result<()> {
        self.state.deletions.put(deletion.pseudonym.clone(), deletion.clone());
        Ok(())
    }

    async fn drop_deletion(&mut self, pseudonym: &str) -> Result<()> {
        self.state.deletions.remove(&pseudonym.to_owned());
        Ok(())
    }

    async fn due_deletions(&mut self, now: Timestamp, at_most: u32) -> Result<Vec<String>> {
        let all = self.state.deletions.rows().values();
        let due = all.filter(|one| !one.is_done() && one.due_at <= now);
        Ok(oldest(due.map(|one| (one.due_at, one.pseudonym.clone())), at_most).collect())
    }

    async fn refuse_pushes(&mut self, user: &UserId) -> Result<()> {
        self.state.leaving.put(user.clone(), ());
        Ok(())
    }

    async fn owned_items(&mut self, owner: &UserId, at_most: u32) -> Result<BTreeSet<ItemId>> {
        let all = self.state.items.rows().iter().rev();
        let owned = all.filter(|(_, item)| item.owner == *owner).map(|(id, _)| id.clone());
        Ok(owned.take(count(at_most)).collect())
    }

    async fn items_after(&mut self, after: Option<&ItemId>, at_most: u32) -> Result<Vec<ItemId>> {
        let all = self.state.items.rows().keys();
        let next = all.filter(|id| after.is_none_or(|after| *id > after));
        Ok(next.take(count(at_most)).cloned().collect())
    }

    async fn items_naming(&mut self, _user: &UserId, items: &[ItemId]) -> Result<BTreeSet<ItemId>> {
        // A look at the rows is as much work as the renaming.
        Ok(items.iter().cloned().collect())
    }

    async fn rename_author(
        &mut self,
        user: &UserId,
        by: &UserId,
        items: &BTreeSet<ItemId>,
    ) -> Result<BTreeMap<ItemId, Renamed>> {
        let mut found = BTreeMap::new();
        for item in items {
            let renamed = self.rename_around(user, by, item);
            found.insert(item.clone(), renamed);
        }
        Ok(found)
    }

    async fn feed_keys(&mut self, user: &UserId, at_most: u32) -> Result<Vec<(u64, Vec<u8>)>> {
        let rows = self.state.feeds.group(user).iter().take(count(at_most));
        Ok(rows.map(|(counter, row)| (*counter, row.key.clone())).collect())
    }

    async fn remove_feed(
        &mut self,
        user: &UserId,
        counters: &[u64],
        items: &BTreeSet<ItemId>,
    ) -> Result<()> {
        for counter in counters {
            if let Some(row) = self.state.feeds.get(user, counter) {
                let key = row.key.clone();
                self.state.counters.remove(user, &key);
            }
            self.state.feeds.remove(user, counter);
        }
        for item in items {
            self.state.access.remove(item, user);
        }
        Ok(())
    }

    async fn stages_of(
        &mut self,
        owner: &UserId,
        after: Option<&StagingId>,
        at_most: u32,
    ) -> Result<Vec<StagingId>> {
        let all = self.state.stages.rows().iter();
        let own = all.filter(|(_, stage)| stage.owner == *owner).map(|(id, _)| id);
        let next = own.filter(|id| after.is_none_or(|after| *id > after));
        Ok(next.take(count(at_most)).cloned().collect())
    }

    async fn give_stage(
        &mut self,
        staging_id: &StagingId,
        blob_id: &BlobId,
        to: &UserId,
        forget: bool,
    ) -> Result<()> {
        if let Some(stage) = self.state.stages.get(staging_id) {
            let stage = StoredStage { owner: to.clone(), ..stage.clone() };
            self.state.stages.put(staging_id.clone(), stage);
        }
        self.state.change_blob(blob_id, |blob| {
            blob.owner = to.clone();
            if forget {
                (blob.charged, blob.content_type) = (None, None);
            }
        });
        Ok(())
    }

    async fn stages_charged_to(&mut self, user: &UserId, at_most: u32) -> Result<Vec<StagingId>> {
        let charged = self.state.blobs.rows().values();
        let charged = charged.filter(|blob| blob.charged.as_ref() == Some(user));
        Ok(charged.take(count(at_most)).map(|blob| blob.staging_id.clone()).collect())
    }

    async fn mentions(
        &mut self,
        name: &UserId,
        after: Option<&str>,
        _at_most: u32,
    ) -> Result<(Vec<Mention>, Option<String>)> {
        if after.is_some() {
            return Ok((Vec::new(), None));
        }
        let quoted = encoding::json_text(name.as_str());
        let mut found = Vec::new();
        for (user, rows) in self.state.feeds.groups() {
            for (counter, row) in rows.iter().filter(|(_, row)| row.json.contains(&quoted)) {
                let place = format!("{counter} {user}");
                found.push(Mention { place, json: row.json.to_string() });
            }
        }
        Ok((found, None))
    }

    async fn replace_mention(&mut self, mention: &Mention, json: &str) -> Result<()> {
        let Some((counter, user)) = mention.place.split_once(' ') else { return Ok(()) };
        let (Ok(counter), Ok(user)) = (counter.parse::<u64>(), user.parse::<UserId>()) else {
            return Ok(());
        };
        if let Some(row) = self.state.feeds.get(&user, &counter) {
            let row = FeedRow { json: json.into(), ..row.clone() };
            self.state.feeds.put(&user, counter, row);
        }
        Ok(())
    }

    async fn remove_rows(&mut self, user: &UserId, _at_most: u32) -> Result<u64> {
        let state = &mut *self.state;
        let mut rows = 0;
        let mine = |(of, _): &&(UserId, ReplicaId)| of == user;
        let devices: Vec<_> = state.devices.rows().keys().filter(mine).cloned().collect();
        for key in devices {
            rows += u64::from(state.devices.remove(&key));
        }
        let credentials: Vec<_> = state.credentials.rows().keys().filter(mine).cloned().collect();
        for key in credentials {
            rows += u64::from(state.credentials.remove(&key));
        }
        let replicas: Vec<_> = state.accepted.groups().keys().filter(mine).cloned().collect();
        for key in replicas {
            rows += state.accepted.group(&key).len() as u64;
            state.accepted.remove_group(&key);
        }
        rows += state.replicas.group(user).len() as u64;
        state.replicas.remove_group(user);
        rows += state.reconciled.group(user).len() as u64;
        state.reconciled.remove_group(user);
        rows += state.epoch_starts.group(user).len() as u64;
        state.epoch_starts.remove_group(user);
        let groups: Vec<Principal> = state.groups.group(user).keys().cloned().collect();
        for group in groups {
            state.members.remove(&group, user);
            rows += u64::from(state.groups.remove(user, &group));
        }
        let blocked: Vec<UserId> = state.blocked.group(user).keys().cloned().collect();
        for owner in blocked {
            state.blockers.remove(&owner, user);
            rows += u64::from(state.blocked.remove(user, &owner));
        }
        let blockers: Vec<UserId> = state.blockers.group(user).keys().cloned().collect();
        for reader in blockers {
            state.blocked.remove(&reader, user);
            rows += u64::from(state.blockers.remove(user, &reader));
        }
        let granted: Vec<UserId> = state.grantees.group(user).keys().cloned().collect();
        for reader in granted {
            state.awaiting.remove(&reader, user);
            state.withheld.remove(&reader, user);
            rows += u64::from(state.grantees.remove(user, &reader));
        }
        let awaiting = state.awaiting.group(user).keys().chain(state.withheld.group(user).keys());
        let awaiting: Vec<UserId> = awaiting.cloned().collect();
        for owner in awaiting {
            state.awaiting.remove(user, &owner);
            state.withheld.remove(user, &owner);
            rows += u64::from(state.grantees.remove(&owner, user));
        }
        Ok(rows)
    }

    async fn remove_user(&mut self, user: &UserId) -> Result<u64> {
        let state = &mut *self.state;
        let named = state.items.rows().values().any(|item| item.owner == *user)
            || state.stages.rows().values().any(|stage| stage.owner == *user)
            || state.blobs.rows().values().any(|blob| blob.charged.as_ref() == Some(user))
            || !state.feeds.group(user).is_empty();
        if named {
            return Ok(0);
        }
        let mut rows = 0;
        rows += u64::from(state.heads.remove(user));
        rows += u64::from(state.tails.remove(user));
        rows += u64::from(state.usages.remove(user));
        rows += u64::from(state.holds.remove(user));
        rows += u64::from(state.limits.remove(user));
        rows += u64::from(state.disabled.remove(user));
        rows += u64::from(state.leaving.remove(user));
        rows += u64::from(state.users.remove(user));
        Ok(rows)
    }

    async fn has_rows(&mut self, user: &UserId) -> Result<bool> {
        let state = &*self.state;
        Ok(state.users.get(user).is_some()
            || state.devices.rows().keys().any(|(of, _)| of == user)
            || state.credentials.rows().keys().any(|(of, _)| of == user)
            || !state.replicas.group(user).is_empty()
            || !state.reconciled.group(user).is_empty()
            || state.heads.get(user).is_some()
            || state.usages.get(user).is_some()
            || state.holds.get(user).is_some())
    }
}

impl MemoryTransaction<'_> {
    fn rename_around(&mut self, user: &UserId, by: &UserId, item: &ItemId) -> Renamed {
        let state = &mut *self.state;
        let mut renamed = Renamed::default();
        let named = |stamp: &Stamp| stamp.author.user == *user;
        let anew = |stamp: &Stamp| Stamp {
            authored_at: stamp.authored_at,
            author: Arc::new(stamp.author.renamed(by)),
        };
        let links: Vec<(ItemId, Link)> = state
            .links
            .group(item)
            .iter()
            .filter(|(_, link)| named(&link.register.stamp))
            .map(|(child, link)| (child.clone(), link.clone()))
            .collect();
        for (child, mut link) in links {
            link.register.stamp = anew(&link.register.stamp);
            state.links.put(item, child, link);
            renamed.rows += 1;
        }
        let grants: Vec<_> = state
            .grants
            .group(item)
            .iter()
            .map(|(principal, grant)| (principal.clone(), grant.clone()))
            .collect();
        for (principal, mut grant) in grants {
            if principal.user().as_ref() == Some(user) && grant.value.is_none() {
                state.grants.remove(item, &principal);
                renamed.rows += 1;
                renamed.grants += 1;
            } else if named(&grant.stamp) {
                grant.stamp = anew(&grant.stamp);
                state.grants.put(item, principal, grant);
                renamed.rows += 1;
            }
        }
        let moves: Vec<_> = state
            .moves
            .rows()
            .iter()
            .filter(|((child, _), _)| child == item)
            .map(|(key, moved)| (key.clone(), moved.clone()))
            .collect();
        for (key, mut moved) in moves {
            if key.1 == *user {
                state.moves.remove(&key);
                renamed.rows += 1;
            } else if named(&moved.stamp) {
                moved.stamp = anew(&moved.stamp);
                state.moves.put(key, moved);
                renamed.rows += 1;
            }
        }
        renamed.rows += u64::from(state.access.remove(item, user));
        if let Some(row) = state.trash.get(item).filter(|row| row.deleted_by == *user) {
            let replica = ReplicaId::nameless();
            let row = TrashRow { deleted_by: by.clone(), replica, ..row.clone() };
            state.trash.put(item.clone(), row);
            renamed.rows += 1;
        }
        renamed
    }
}
