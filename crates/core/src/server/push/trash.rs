//! Restores items from the trash: a write of the server in a user's name.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::propagate::FeedPropagation;
use super::rows::{Changes, Needs, Rows};
use super::visibility::Views;
use crate::access::AccessLevel;
use crate::entry::EntryKey;
use crate::id::{ItemId, UserId};
use crate::register::Register;
use crate::stamp::Stamp;
use crate::time::Timestamp;

impl Rows {
    /// Returns the rows that determine the rights of `user` on `ids` and are not loaded yet.
    #[must_use]
    pub fn needs_of_rights(&self, user: &UserId, ids: &BTreeSet<ItemId>) -> Option<Needs> {
        let mut needs = Needs { items: ids.clone(), ..Needs::default() };
        let foreign = |id: &&ItemId| self.item(id).is_some_and(|item| item.owner != *user);
        for id in ids.iter().filter(foreign) {
            needs.groups_of.insert(user.clone());
            needs.blocks.extend(self.item(id).map(|item| item.owner.clone()));
            needs.among = Some(BTreeSet::from([user.clone()]));
            needs.ancestors.insert(id.clone());
            if self.ancestors.contains(id) {
                needs.granted.extend(self.lineage(id).into_iter().cloned());
            }
        }
        needs.retain_missing(self);
        (!needs.is_empty()).then_some(needs)
    }

    /// Returns the user's level on an item, as if nothing were deleted.
    #[must_use]
    pub fn right(&self, user: &UserId, id: &ItemId) -> Option<AccessLevel> {
        self.level(user, id)
    }

    /// Returns the items under an item by the present links of its realm, deleted items included.
    #[must_use]
    pub fn below(&self, id: &ItemId) -> Vec<ItemId> {
        self.children(id).cloned().collect()
    }

    /// Returns the items above an item by the present links of its realm, deleted items included.
    #[must_use]
    pub fn above(&self, id: &ItemId) -> Vec<ItemId> {
        self.parents(id).cloned().collect()
    }

    /// Returns the rows that bringing `items` back needs and that are not loaded yet.
    #[must_use]
    pub fn needs_of_restore(&self, items: &BTreeSet<ItemId>) -> Option<Needs> {
        let mut needs = Needs { items: items.clone(), around: items.clone(), ..Needs::default() };
        self.add_ends_of_links(&mut needs);
        needs.retain_missing(self);
        (!needs.is_empty()).then_some(needs)
    }
}

impl FeedPropagation {
    /// Restores `items` in the name of `user`: clears "deleted" with a stamp above the deletion's.
    /// `rows` has the rows of [`Rows::needs_of_restore`], and the realms that are locked.
    #[must_use]
    pub fn of_restore(
        user: &UserId,
        items: &BTreeSet<ItemId>,
        mut rows: Rows,
        now: Timestamp,
    ) -> Self {
        let (mut views, mut changes) = (Views::default(), Changes::default());
        let deleted = |id: &&ItemId| rows.item(id).is_some_and(|item| item.fields.is_deleted());
        let items: Vec<&ItemId> = items.iter().filter(deleted).collect();
        for id in &items {
            let mut around = Vec::new();
            rows.keys_around(id, |_| true, &mut around);
            around.sort();
            for key in std::iter::once(EntryKey::Item((*id).clone())).chain(around) {
                views.touch(&rows, key, user, None, None, true);
            }
        }
        for id in items {
            let Some(mut item) = rows.item(id).cloned() else { continue };
            let Some(held) = &item.fields.deleted else { continue };
            let last = rows.last_changed.get(&item.owner).copied();
            let now = last.map_or(now, |last| now.max(last));
            // Nobody's operation: its stamp is the deletion's, only later.
            let stamp = Stamp {
                authored_at: now.max(held.stamp.authored_at.plus_millis(1)),
                author: Arc::clone(&held.stamp.author),
            };
            item.fields.deleted = Some(Register { value: false, stamp });
            changes.trash.insert(id.clone(), false);
            changes.items.insert(id.clone(), item.clone());
            rows.items.insert(id.clone(), Some(item));
        }
        Self::of_push(rows, views, changes, now)
    }
}
