//! Registers, and the access that they determine.

use std::collections::{BTreeMap, BTreeSet};

use vfs_sync_core::access::Principal;
use vfs_sync_core::id::{ItemId, UserId};
use vfs_sync_core::server::push::{
    Awaited, Changes, GrantCounts, LinkKey, MetadataQuota, Needs, Rows,
};

use crate::command::trash::{revived, rows_of_push};
use crate::error::Result;
use crate::memory::state::{Grantee, Replica};
use crate::memory::transaction::MemoryTransaction;
use crate::topics::{
    Cleared, FeedWrite, PushWrite, Registers, Replicas as _, Trash as _, Versions as _,
};

impl Registers for MemoryTransaction<'_> {
    async fn load(&mut self, needs: &Needs, found: &mut Rows) -> Result<()> {
        for id in &needs.items {
            found.items.insert(id.clone(), self.state.items.get(id).cloned());
        }
        self.load_links(needs, found);
        self.load_grants(needs, found);
        for key in &needs.moves {
            if let Some(moved) = self.state.moves.get(key) {
                found.moves.insert(key.clone(), Some(moved.clone()));
            }
        }
        for item in &needs.around {
            let attached = self.attachments_of(item).await?;
            if !attached.is_empty() {
                found.attachments.insert(item.clone(), attached);
            }
        }
        self.load_access(needs, found);
        Ok(())
    }

    async fn write_push(&mut self, write: &PushWrite<'_>) -> Result<()> {
        self.state.know(write.user);
        let Some(last_write_id) = write.changes.last_write_id else {
            return self.touch_replica(write.user, write.replica, write.now).await;
        };
        let before = self.state.replicas.get(write.user, write.replica);
        let replica = Replica {
            last_write_id,
            last_seen: before.map_or(write.now, |before| before.last_seen.max(write.now)),
            accepted_from: before.and_then(|before| before.accepted_from).or(Some(write.now)),
        };
        self.state.replicas.put(write.user, write.replica.clone(), replica);
        self.write_registers(write.changes);
        self.write_access(write.changes);
        self.write_grantees(write.changes);
        self.write_usage(write.changes);
        self.put_trash(&rows_of_push(write)).await?;
        self.leave_trash(write.changes);
        let author = (write.user.clone(), write.replica.clone());
        for one in &write.changes.accepted {
            let row = (one.accepted.clone(), write.now);
            self.state.accepted.put(&author, one.write_id, row);
        }
        if let Some((through, at_most)) = write.forgets() {
            let old = self.state.accepted.group(&author).keys();
            let old: Vec<_> = old.take_while(|id| **id <= through).take(at_most).copied().collect();
            for write_id in old {
                self.state.accepted.remove(&author, &write_id);
            }
        }
        self.place_entries(write.feeds);
        Ok(())
    }

    async fn write_changes(&mut self, changes: &Changes, feeds: &[FeedWrite]) -> Result<()> {
        self.write_registers(changes);
        self.leave_trash(changes);
        self.write_access(changes);
        self.write_grantees(changes);
        self.write_usage(changes);
        self.place_entries(feeds);
        Ok(())
    }

    async fn granted_to(&mut self, group: &Principal) -> Result<BTreeSet<ItemId>> {
        Ok(self.state.granted.group(group).keys().cloned().collect())
    }

    async fn all_grants(&mut self) -> Result<(BTreeSet<UserId>, BTreeSet<ItemId>)> {
        let granted = self.state.granted.groups();
        let mut users: BTreeSet<UserId> = granted.keys().filter_map(Principal::user).collect();
        users.extend(self.state.groups.groups().keys().cloned());
        Ok((users, granted.values().flat_map(BTreeMap::keys).cloned().collect()))
    }

    async fn clear_item(&mut self, item: &ItemId, at_most: u64) -> Result<Cleared> {
        let mut left = at_most;
        let mut take = |wanted: usize| {
            let taken = left.min(wanted as u64);
            left -= taken;
            usize::try_from(taken).unwrap_or(usize::MAX)
        };
        let below: Vec<ItemId> = self.state.links.group(item).keys().cloned().collect();
        let room = take(below.len());
        for child in below.into_iter().take(room) {
            self.remove_link(item, &child);
        }
        let mut links = room as u64;
        let all: Vec<ItemId> = self.state.parents.group(item).keys().cloned().collect();
        let in_realm =
            |parent: &ItemId| self.state.links.get(parent, item).is_some_and(|link| link.in_realm);
        let (above, shortcuts): (Vec<ItemId>, Vec<ItemId>) = all.into_iter().partition(in_realm);
        let room = take(above.len());
        links += room as u64;
        for parent in above.into_iter().take(room) {
            self.remove_link(&parent, item);
        }
        let room = take(shortcuts.len());
        for parent in shortcuts.into_iter().take(room) {
            self.remove_link(&parent, item);
        }
        let grants: Vec<Principal> = self.state.grants.group(item).keys().cloned().collect();
        let room = take(grants.len());
        let removed_grants = room as u64;
        let owner = self.state.items.get(item).map(|item| item.owner.clone());
        for principal in grants.into_iter().take(room) {
            self.state.grants.remove(item, &principal);
            let was_present = self.state.granted.remove(&principal, item);
            if let (true, Some(owner), Some(user)) = (was_present, &owner, principal.user()) {
                self.change_grantee(owner, &user, -1, None);
            }
        }
        let moves = self.state.moves.rows().keys().filter(|(child, _)| child == item);
        let moves: Vec<(ItemId, UserId)> = moves.cloned().collect();
        let room = take(moves.len());
        for key in moves.into_iter().take(room) {
            self.state.moves.remove(&key);
        }
        let seen: Vec<UserId> = self.state.access.group(item).keys().cloned().collect();
        let room = take(seen.len());
        for user in seen.into_iter().take(room) {
            self.state.access.remove(item, &user);
        }
        Ok(Cleared { rows: at_most - left, links, grants: removed_grants })
    }

    async fn delete_items(&mut self, items: &BTreeSet<ItemId>) -> Result<()> {
        for item in items {
            self.state.items.remove(item);
            self.state.trash.remove(item);
        }
        Ok(())
    }
}

impl MemoryTransaction<'_> {
    fn take_link(&self, key: LinkKey, found: &mut Rows) {
        if let Some(link) = self.state.links.get(&key.0, &key.1) {
            found.links.insert(key, Some(link.clone()));
        }
    }

    /// Collects the present links to an item's parents into `found`; returns the keys of those
    /// within the realm.
    fn take_links_above(&self, child: &ItemId, found: &mut Rows) -> Vec<LinkKey> {
        let above = self.state.parents.group(child).keys();
        let links = above.filter_map(|parent| {
            let link = self.state.links.get(parent, child)?;
            link.register.value.then_some((parent, link))
        });
        let links: Vec<_> = links.map(|(parent, link)| (parent.clone(), link.clone())).collect();
        let mut keys = Vec::with_capacity(links.len());
        for (parent, link) in links {
            if link.in_realm {
                keys.push((parent.clone(), child.clone()));
            }
            found.links.insert((parent, child.clone()), Some(link));
        }
        keys
    }

    fn load_links(&self, needs: &Needs, found: &mut Rows) {
        for key in &needs.links {
            self.take_link(key.clone(), found);
        }
        for item in &needs.around {
            for (child, link) in self.state.links.group(item) {
                if link.register.value {
                    found.links.insert((item.clone(), child.clone()), Some(link.clone()));
                }
            }
            self.take_links_above(item, found);
        }
        let mut open: Vec<ItemId> = needs.ancestors.iter().cloned().collect();
        let mut seen = needs.ancestors.clone();
        while let Some(child) = open.pop() {
            let parents = self.take_links_above(&child, found).into_iter().map(|key| key.0);
            open.extend(parents.filter(|parent| seen.insert(parent.clone())));
        }
    }

    fn load_grants(&self, needs: &Needs, found: &mut Rows) {
        for (item, principal) in &needs.grants {
            if let Some(grant) = self.state.grants.get(item, principal) {
                found.grants.insert((item.clone(), principal.clone()), Some(grant.clone()));
            }
        }
        for item in needs.around.union(&needs.granted) {
            for (principal, grant) in self.state.grants.group(item) {
                if grant.value.is_some() {
                    found.grants.insert((item.clone(), principal.clone()), Some(grant.clone()));
                }
            }
        }
        for item in &needs.grant_counts {
            let grants = self.state.grants.group(item);
            let present = grants.values().filter(|grant| grant.value.is_some()).count();
            found.grant_counts.insert(item.clone(), GrantCounts { present, ever: grants.len() });
        }
    }

    fn load_access(&self, needs: &Needs, found: &mut Rows) {
        let wanted = |user: &UserId| needs.among.as_ref().is_none_or(|among| among.contains(user));
        for item in &needs.access {
            let audience = self.state.access.group(item).iter();
            let audience = audience.filter(|(user, _)| wanted(user));
            let audience = audience.map(|(user, level)| (user.clone(), *level)).collect();
            found.access.insert(item.clone(), audience);
        }
        for group in &needs.members {
            let members = self.state.members.group(group).keys();
            let members = members.filter(|user| wanted(user)).cloned().collect();
            found.members.insert(group.clone(), members);
        }
        for user in &needs.groups_of {
            let groups = self.state.groups.group(user).keys().cloned().collect();
            found.groups.insert(user.clone(), groups);
        }
        for owner in &needs.blocks {
            let users = self.state.blockers.group(owner).keys();
            let users = users.filter(|user| wanted(user)).cloned().collect();
            found.blocks.insert(owner.clone(), users);
        }
        for owner in &needs.awaited {
            let waits = |user: &&UserId| {
                let grantee = self.state.grantees.get(owner, user);
                self.state.heads.get(user).is_none()
                    || grantee.is_some_and(|grantee| grantee.awaited != Awaited::No)
            };
            let users = needs.among.iter().flatten().filter(waits).cloned().collect();
            found.awaited.insert(owner.clone(), users);
        }
        for key in &needs.user_grants {
            if let Some(grantee) = self.state.grantees.get(&key.0, &key.1) {
                found.user_grants.insert(key.clone(), grantee.grants);
            }
        }
    }

    fn write_usage(&mut self, changes: &Changes) {
        for (owner, change) in &changes.usage {
            let held = self.state.holds.get(owner).copied().unwrap_or_default();
            // Beyond every bound: whether there is room was decided before.
            if let Ok(after) = held.with(*change, &MetadataQuota::NONE) {
                self.state.holds.put(owner.clone(), after);
            }
        }
    }

    fn write_grantees(&mut self, changes: &Changes) {
        for ((owner, user), change) in &changes.user_grants {
            self.change_grantee(owner, user, *change, None);
        }
        for ((owner, user), awaited) in &changes.awaited {
            self.change_grantee(owner, user, 0, Some(*awaited));
        }
    }

    fn change_grantee(
        &mut self,
        owner: &UserId,
        user: &UserId,
        change: i64,
        awaited: Option<Awaited>,
    ) {
        let held = self.state.grantees.get(owner, user).copied();
        let held = held.unwrap_or(Grantee { grants: 0, awaited: Awaited::No });
        let grantee = Grantee {
            grants: held.grants.saturating_add_signed(change),
            awaited: awaited.unwrap_or(held.awaited),
        };
        self.state.awaiting.remove(user, owner);
        self.state.withheld.remove(user, owner);
        match grantee.awaited {
            Awaited::No => {}
            Awaited::Call => self.state.awaiting.put(user, owner.clone(), ()),
            Awaited::Less => self.state.withheld.put(user, owner.clone(), ()),
        }
        if grantee.grants == 0 && grantee.awaited == Awaited::No {
            self.state.grantees.remove(owner, user);
        } else {
            self.state.grantees.put(owner, user.clone(), grantee);
        }
    }

    fn write_registers(&mut self, changes: &Changes) {
        let state = &mut *self.state;
        for (id, item) in &changes.items {
            state.know(&item.owner);
            state.items.put(id.clone(), item.clone());
        }
        for ((parent, child), link) in &changes.links {
            state.links.put(parent, child.clone(), link.clone());
            state.parents.put(child, parent.clone(), ());
        }
        for ((item, principal), grant) in &changes.grants {
            match grant.value {
                Some(_) => state.granted.put(principal, item.clone(), ()),
                None => drop(state.granted.remove(principal, item)),
            }
            state.grants.put(item, principal.clone(), grant.clone());
        }
        for ((child, realm), moved) in &changes.moves {
            state.know(realm);
            state.moves.put((child.clone(), realm.clone()), moved.clone());
        }
    }

    fn write_access(&mut self, changes: &Changes) {
        for (item, users) in &changes.access {
            for (user, level) in users {
                self.state.know(user);
                match level {
                    Some(level) => self.state.access.put(item, user.clone(), *level),
                    None => drop(self.state.access.remove(item, user)),
                }
            }
        }
    }

    fn leave_trash(&mut self, changes: &Changes) {
        for item in revived(changes) {
            self.state.trash.remove(item);
        }
    }

    fn remove_link(&mut self, parent: &ItemId, child: &ItemId) {
        self.state.links.remove(parent, child);
        self.state.parents.remove(child, parent);
    }
}
