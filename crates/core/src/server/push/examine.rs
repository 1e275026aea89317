//! Compares derived rows with what they are derived from: the levels of users with the grants, and
//! feeds with what their users see.
//!
//! A level is compared with the item's grants and the stored levels on its parents: if all items
//! agree with what is right above them, all levels are those that a computation from the top gives.

use std::collections::{BTreeMap, BTreeSet};

use super::rows::{Addition, Cause, Needs, Rows};
use crate::access::{AccessLevel, Audience, PrincipalType};
use crate::entry::{Change, EntryBody, EntryKey, RemovalReason};
use crate::id::{ItemId, UserId};
use crate::time::Timestamp;

static NOBODY: Audience = Audience::new();

/// A derived row that is not what it is derived from.
#[derive(Debug, Clone, PartialEq)]
pub enum DerivedFault {
    /// A user's level on an item is not the one that the grants give.
    Level {
        /// The item of the level.
        item: ItemId,
        /// The user of the level.
        user: UserId,
        /// The level in the row.
        stored: Option<AccessLevel>,
        /// The level that the grants give.
        derived: Option<AccessLevel>,
    },
    /// A user's feed lacks something that the user sees.
    Missing {
        /// The user of the feed.
        user: UserId,
        /// The subject that the feed lacks.
        key: EntryKey,
    },
    /// A user's feed shows something that the user does not see.
    Stray {
        /// The user of the feed.
        user: UserId,
        /// The entry of the feed.
        change: Box<Change>,
    },
    /// A user's feed shows another state than the present one.
    Differs {
        /// The user of the feed.
        user: UserId,
        /// The subject of the entry.
        key: EntryKey,
    },
}

impl DerivedFault {
    /// Returns the user whose level or feed it is.
    #[must_use]
    pub const fn user(&self) -> &UserId {
        match self {
            Self::Level { user, .. }
            | Self::Missing { user, .. }
            | Self::Stray { user, .. }
            | Self::Differs { user, .. } => user,
        }
    }

    /// Returns the item whose level it is, or that the subject belongs to; of a link the child.
    #[must_use]
    pub fn item(&self) -> &ItemId {
        match self {
            Self::Level { item, .. } => item,
            Self::Missing { key, .. } | Self::Differs { key, .. } => item_of(key),
            Self::Stray { change, .. } => change.item(),
        }
    }
}

/// Returns the item from whose surroundings the subject is loaded.
const fn item_of(key: &EntryKey) -> &ItemId {
    match key {
        EntryKey::Link { child: item, .. }
        | EntryKey::Item(item)
        | EntryKey::Content(item)
        | EntryKey::Grant { item, .. }
        | EntryKey::Attachment { item, .. } => item,
    }
}

/// Items with all rows around them. A caller loads [`Examination::needs`] until there are none, on
/// one snapshot, and then has everything compared.
#[derive(Debug, Default)]
pub struct Examination {
    items: BTreeSet<ItemId>,
    rows: Rows,
    /// Users who are being deleted: their rows go step by step.
    leaving: BTreeSet<UserId>,
}

impl Examination {
    /// Begins the examination of items.
    #[must_use]
    pub fn of(items: BTreeSet<ItemId>) -> Self {
        Self { items, ..Self::default() }
    }

    /// Begins the examination of what entries of a feed show.
    pub fn of_entries<'a>(changes: impl IntoIterator<Item = &'a Change>) -> Self {
        Self::of(changes.into_iter().map(|change| item_of(&change.key()).clone()).collect())
    }

    /// Returns the rows that are needed next; `None` once all are there.
    #[must_use]
    pub fn needs(&self) -> Option<Needs> {
        let mut needs = Needs::default();
        // All at once, with the first look.
        if self.items.iter().any(|id| !self.rows.around.contains(id)) {
            needs.items.clone_from(&self.items);
            needs.around.clone_from(&self.items);
            needs.access.clone_from(&self.items);
        }
        let mut owners = BTreeSet::new();
        for id in &self.items {
            for (parent, _) in self.rows.links_above(id) {
                needs.items.insert(parent.clone());
                needs.access.insert(parent.clone());
            }
            let groups = self.rows.grants_on(id).map(|(principal, _)| principal);
            let groups = groups.filter(|principal| principal.kind != PrincipalType::User);
            needs.members.extend(groups.cloned());
            if self.rows.grants_on(id).next().is_some() {
                owners.extend(self.rows.item(id).map(|item| item.owner.clone()));
            }
        }
        needs.blocks.clone_from(&owners);
        needs.retain_missing(&self.rows);
        if !needs.is_empty() {
            return Some(needs);
        }
        let among = Some(self.grantees());
        let mut needs = Needs { among, awaited: owners, ..Needs::default() };
        needs.retain_missing(&self.rows);
        (!needs.is_empty()).then_some(needs)
    }

    /// Adds the rows that were found for `needs`.
    pub fn absorb(&mut self, needs: Needs, found: Rows) {
        self.rows.absorb(needs, found);
    }

    /// Returns the users whom the rows name: owners, readers, and those to whom something is
    /// granted.
    #[must_use]
    pub fn users(&self) -> BTreeSet<UserId> {
        let mut users = self.grantees();
        for id in &self.items {
            users.extend(self.rows.item(id).map(|item| item.owner.clone()));
            users.extend(self.audience(id).keys().cloned());
        }
        users
    }

    /// Leaves out what concerns users who are being deleted.
    pub fn leave_out(&mut self, leaving: BTreeSet<UserId>) {
        self.leaving = leaving;
    }

    /// Returns the items in the realm that hang under the examined ones.
    #[must_use]
    pub fn children(&self) -> BTreeSet<ItemId> {
        self.items.iter().flat_map(|id| self.rows.children(id)).cloned().collect()
    }

    fn grantees(&self) -> BTreeSet<UserId> {
        let grants = self.items.iter().flat_map(|id| self.rows.grants_on(id));
        grants.flat_map(|(principal, _)| self.rows.users_of(principal)).collect()
    }

    /// Returns whether an item belongs to `user`.
    #[must_use]
    pub fn is_owner(&self, user: &UserId, id: &ItemId) -> bool {
        self.rows.item(id).is_some_and(|item| item.owner == *user)
    }

    fn audience(&self, id: &ItemId) -> &Audience {
        self.rows.access.get(id).unwrap_or(&NOBODY)
    }

    /// Returns whether an item is there and its owner is not being deleted.
    fn counts(&self, id: &ItemId) -> bool {
        self.rows.item(id).is_some_and(|item| !self.leaving.contains(&item.owner))
    }

    /// Returns the levels that are not those that the grants give, of one user or of all.
    #[must_use]
    pub fn levels(&self, only: Option<&UserId>) -> Vec<DerivedFault> {
        let mut faults = Vec::new();
        for id in &self.items {
            if !self.counts(id) && self.rows.item(id).is_some() {
                continue;
            }
            let stored = self.audience(id);
            let above = |parent: &ItemId| self.audience(parent);
            let derived = self.rows.derive_audience(id, Audience::new(), above, |_| true);
            let users: BTreeSet<&UserId> = stored.keys().chain(derived.keys()).collect();
            for user in users {
                let wanted = only.is_none_or(|only| only == user) && !self.leaving.contains(user);
                let (held, given) = (stored.get(user).copied(), derived.get(user).copied());
                if wanted && held != given {
                    let (item, user) = (id.clone(), user.clone());
                    faults.push(DerivedFault::Level { item, user, stored: held, derived: given });
                }
            }
        }
        faults
    }

    /// Returns the subjects that the feeds of readers have to show, of one user or of all. A link
    /// belongs to its child.
    #[must_use]
    pub fn shown(&self, only: Option<&UserId>) -> BTreeMap<UserId, Vec<EntryKey>> {
        let mut shown: BTreeMap<UserId, Vec<EntryKey>> = BTreeMap::new();
        for id in self.items.iter().filter(|id| self.counts(id)) {
            let Some(item) = self.rows.live(id).filter(|item| !item.is_purged()) else { continue };
            let mut keys = vec![EntryKey::Item(id.clone())];
            self.rows.keys_around(id, |_| false, &mut keys);
            let readers = self.audience(id).keys().chain([&item.owner]);
            let readers = readers.filter(|user| only.is_none_or(|only| only == *user));
            for user in readers.filter(|user| !self.leaving.contains(*user)) {
                let seen = keys.iter().filter(|key| self.sees(key, user).is_some());
                shown.entry(user.clone()).or_default().extend(seen.cloned());
            }
        }
        shown
    }

    /// Compares an entry of a user's feed with the present state. Removals are left to
    /// [`Self::shown`].
    #[must_use]
    pub fn entry(&self, user: &UserId, change: &Change) -> Option<DerivedFault> {
        let key = change.key();
        if change.is_removal() || self.leaving.contains(user) || self.is_leaving(&key) {
            return None;
        }
        let user = user.clone();
        match self.sees(&key, &user) {
            None => Some(DerivedFault::Stray { user, change: Box::new(change.clone()) }),
            Some(level) => {
                let same = self.rows.present(&key, level).is_some_and(|(now, _)| now == *change);
                (!same).then_some(DerivedFault::Differs { user, key })
            }
        }
    }

    /// Returns whether an item of the subject belongs to a user who is being deleted.
    fn is_leaving(&self, key: &EntryKey) -> bool {
        let leaves = |id: &ItemId| self.rows.item(id).is_some() && !self.counts(id);
        match key {
            EntryKey::Link { parent, child } => leaves(parent) || leaves(child),
            _ => leaves(item_of(key)),
        }
    }

    fn level(&self, id: &ItemId, user: &UserId) -> Option<AccessLevel> {
        let item = self.rows.live(id).filter(|item| !item.is_purged())?;
        if item.owner == *user {
            return Some(AccessLevel::Admin);
        }
        self.audience(id).get(user).copied()
    }

    fn sees(&self, key: &EntryKey, user: &UserId) -> Option<AccessLevel> {
        if !self.rows.is_there(key) {
            return None;
        }
        if let EntryKey::Link { parent, .. } = key {
            self.level(parent, user)?;
        }
        self.level(item_of(key), user)
    }

    /// Returns the entry that makes a user's feed show a subject as it is now, or retracts it;
    /// `shown` is the entry that the feed has.
    #[must_use]
    pub fn repair(
        &self,
        user: &UserId,
        key: &EntryKey,
        shown: Option<&Change>,
        now: Timestamp,
    ) -> Option<Addition> {
        let (change, authored_at) = match self.sees(key, user) {
            Some(level) => self.rows.present(key, level)?,
            None => (removed(shown?), now),
        };
        let body =
            EntryBody { actor: None, authored_at, origin: None, author_replica: None, change };
        Some(Addition { body, cause: Cause::Another })
    }
}

/// Returns the change that takes back what an entry shows.
fn removed(shown: &Change) -> Change {
    let reason = Some(RemovalReason::Revoked);
    match shown {
        Change::ItemUpsert(view) => Change::ItemDelete { item: view.item_id.clone(), reason },
        Change::GrantAdd { item, principal, .. } => {
            Change::GrantRemove { item: item.clone(), principal: principal.clone(), reason }
        }
        Change::LinkAdd { parent, child } => {
            Change::LinkRemove { parent: parent.clone(), child: child.clone(), reason }
        }
        Change::BlobAttach(attachment) => Change::BlobDetach {
            item: attachment.item_id.clone(),
            relation_kind: attachment.relation_kind,
            blob_id: attachment.blob_id.clone(),
            ref_id: attachment.ref_id.clone(),
            reason,
        },
        removal => removal.clone(),
    }
}
