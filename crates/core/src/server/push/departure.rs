//! The end of a user's items and of the grants to the user: writes of the server, in nobody's name.

use std::collections::{BTreeMap, BTreeSet};

use super::propagate::FeedPropagation;
use super::quota::UsageChange;
use super::rows::{Changes, Needs, Rows};
use super::visibility::Views;
use crate::access::Principal;
use crate::entry::{EntryKey, RemovalReason};
use crate::id::{ItemId, UserId};
use crate::register::{Item, ItemFields, Register};
use crate::stamp::Stamp;
use crate::time::Timestamp;

impl Rows {
    /// Returns the rows that ending `items`, or grants on them, needs and that are not loaded yet.
    #[must_use]
    pub fn needs_of_departure(&self, items: &BTreeSet<ItemId>) -> Option<Needs> {
        let mut needs = Needs {
            items: items.clone(),
            around: items.clone(),
            access: items.clone(),
            ..Needs::default()
        };
        self.add_ends_of_links(&mut needs);
        // Who sees a link within the realm is found from its parent.
        let above = items.iter().flat_map(|id| self.links_above(id));
        needs.access.extend(above.map(|(parent, _)| parent.clone()));
        needs.retain_missing(self);
        (!needs.is_empty()).then_some(needs)
    }

    /// Returns about how many rows the end of an item writes.
    #[must_use]
    pub fn weight_of_departure(&self, id: &ItemId) -> usize {
        let mut around = Vec::new();
        self.keys_around(id, |_| true, &mut around);
        let readers = self.access.get(id).map_or(0, BTreeMap::len);
        1 + (around.len() + 1) * readers
    }
}

impl FeedPropagation {
    /// Makes items of one owner tombstones, and removes them from everybody's view but the owner's,
    /// whose feed gets nothing. `rows` has the rows of [`Rows::needs_of_departure`]; the owner's
    /// realm is locked. `by` is named as the one who did it.
    #[must_use]
    pub fn of_owner_deletion(
        owner: &UserId,
        by: &UserId,
        items: &BTreeSet<ItemId>,
        mut rows: Rows,
        now: Timestamp,
    ) -> Self {
        let (mut views, mut changes) = (Views::default(), Changes::default());
        for id in items {
            let mut around = Vec::new();
            rows.keys_around(id, |_| true, &mut around);
            around.sort();
            for key in std::iter::once(EntryKey::Item(id.clone())).chain(around) {
                views.touch(&rows, key, by, None, None, true);
            }
        }
        for id in items {
            let Some(item) = rows.item(id).cloned() else { continue };
            let author = item.fields.object_type.as_ref().map(|held| &held.stamp.author);
            let Some(author) = author else { continue };
            let stamp = Stamp { authored_at: now, author: author.renamed(by).into() };
            let deleted = Some(Register { value: true, stamp });
            let fields = ItemFields { deleted, ..ItemFields::default() };
            let usage = changes.usage.entry(owner.clone()).or_default();
            *usage = usage.and(UsageChange::of_fields(Some(&item.fields), &fields));
            let readers = rows.access.get(id).into_iter().flatten();
            let lost: BTreeMap<_, _> = readers.map(|(user, _)| (user.clone(), None)).collect();
            if !lost.is_empty() {
                changes.access.insert(id.clone(), lost);
            }
            let item = Item { fields, ..item };
            changes.items.insert(id.clone(), item.clone());
            rows.items.insert(id.clone(), Some(item));
        }
        let reason = Some(RemovalReason::OwnerDeleted);
        Self::of_leaving(owner, rows, views, changes, reason, now)
    }

    /// Removes the grants on `items` to a user who is being removed. The user's own access goes
    /// with the user's feed, which gets nothing.
    #[must_use]
    pub fn of_grantee_deletion(
        user: &UserId,
        by: &UserId,
        items: &BTreeSet<ItemId>,
        mut rows: Rows,
        now: Timestamp,
    ) -> Self {
        let (mut views, mut changes) = (Views::default(), Changes::default());
        let Some(principal) = Principal::of_user(user) else {
            return Self::of_leaving(user, rows, views, changes, None, now);
        };
        for id in items {
            let key = (id.clone(), principal.clone());
            let held = rows.grants.get(&key).and_then(Option::as_ref);
            let Some(mut held) = held.filter(|held| held.value.is_some()).cloned() else {
                continue;
            };
            let shown = EntryKey::Grant { item: id.clone(), principal: principal.clone() };
            views.touch(&rows, shown, by, None, None, true);
            held.value = None;
            // Nobody's operation: its stamp is the grant's, only later.
            held.stamp.authored_at = now.max(held.stamp.authored_at.plus_millis(1));
            if let Some(item) = rows.item(id) {
                *changes.user_grants.entry((item.owner.clone(), user.clone())).or_default() -= 1;
            }
            rows.set_grant(key.clone(), held.clone());
            changes.grants.insert(key, held);
        }
        Self::of_leaving(user, rows, views, changes, None, now)
    }
}
