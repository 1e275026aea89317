//! Following a transaction's changes to everybody who sees them.
//!
//! An item's audience is everybody but its owner who may see it: those to whom it is granted, and
//! the audiences of the live items that it hangs under in its realm. Where a grant, a link or a
//! deletion changed, the audience is reckoned anew; where that changes it, those of what hangs under
//! it are, and so on downwards. To whoever blocks the owner, grants give nothing. What did not change is not walked. Links of a realm make no cycle, so
//! this ends, whatever the order.
//!
//! Then everybody's feed gets what they see otherwise than before. Whether somebody sees a shortcut
//! depends on another realm, which is not locked: that is read only under the reader's feed head,
//! so that of two transactions that make the two ends visible the later sees the earlier.

use std::collections::{BTreeMap, BTreeSet};

use super::rows::{Addition, Cause, Changes, Map, Needs, Rows, Set};
use super::visibility::{Source, Views};
use crate::access::{AccessLevel, Audience, Principal, PrincipalType};
use crate::entry::{EntryBody, EntryKey};
use crate::id::{ItemId, UserId};
use crate::time::Timestamp;

static NOBODY: Audience = Audience::new();

/// Of each user, the keys ([`EntryKey::to_bytes`]) that the feed tells as present.
pub type Told = BTreeMap<UserId, Set<Vec<u8>>>;

/// A transaction's changes on their way to everybody who sees them.
///
/// Whoever runs the transaction loads what [`FeedPropagation::needs`] asks for until it asks for nothing,
/// locks the feed heads of [`FeedPropagation::readers`], loads [`FeedPropagation::needs_under_heads`], looks up which
/// of [`FeedPropagation::doubtful`] the feeds tell, and writes what [`FeedPropagation::finish`] gives.
#[derive(Debug, Clone)]
pub struct FeedPropagation {
    rows: Rows,
    now: Timestamp,
    views: Views,
    changes: Changes,
    started: bool,
    /// Whose access to anything may change.
    concerned: BTreeSet<UserId>,
    /// Items whose audience is loaded whole; of others it is loaded for those concerned.
    whole: Set<ItemId>,
    /// Items whose audience is to be reckoned.
    frontier: BTreeSet<ItemId>,
    /// Audiences that changed.
    after: Map<ItemId, Audience>,
    /// What each user may have to be told.
    plan: BTreeMap<UserId, Vec<Planned>>,
}

/// Something that a user may have to be told, and what the user may do with it, if they see it.
#[derive(Debug, Clone)]
struct Planned {
    key: EntryKey,
    level: Option<AccessLevel>,
}

impl FeedPropagation {
    pub(super) fn of_push(mut rows: Rows, views: Views, changes: Changes, now: Timestamp) -> Self {
        // What deciding asked for tells of the author alone.
        rows.blocks.clear();
        Self {
            rows,
            now,
            views,
            changes,
            started: false,
            concerned: BTreeSet::new(),
            whole: Set::default(),
            frontier: BTreeSet::new(),
            after: Map::default(),
            plan: BTreeMap::new(),
        }
    }

    /// A change of what `users` may see of `items` by grants, as when somebody joins or leaves a
    /// group that these were granted to, or blocks their owner. `rows` has the realms that are locked.
    #[must_use]
    pub fn of_grants(
        users: BTreeSet<UserId>,
        items: BTreeSet<ItemId>,
        rows: Rows,
        now: Timestamp,
    ) -> Self {
        let mut spread = Self::of_push(rows, Views::default(), Changes::default(), now);
        spread.started = true;
        spread.concerned = users;
        spread.frontier = items;
        spread
    }

    /// Items that it is about: each step's work grows with them.
    #[must_use]
    pub fn size(&self) -> usize {
        self.rows.access.len()
    }

    /// The rows that it takes to go on; `None` once all audiences are reckoned.
    pub fn needs(&mut self) -> Option<Needs> {
        if !self.started {
            let mut needs = self.needs_of_roots();
            needs.retain_missing(&self.rows);
            if !needs.is_empty() {
                return Some(needs);
            }
            self.start();
        }
        while !self.frontier.is_empty() {
            let needs = self.needs_of_frontier();
            if !needs.is_empty() {
                return Some(needs);
            }
            self.reckon_frontier();
        }
        None
    }

    /// Takes in what was found of `needs`.
    pub fn absorb(&mut self, needs: Needs, found: Rows) {
        self.rows.absorb(needs, found);
    }

    /// The audiences of all that was touched, and the members of the groups that are concerned.
    fn needs_of_roots(&self) -> Needs {
        let mut needs = Needs::default();
        for key in self.views.keys() {
            match key {
                EntryKey::Link { parent, child } if self.rows.is_shortcut(parent, child) => {
                    needs.access.insert(self.locked_end(parent, child).clone());
                }
                EntryKey::Link { parent, child } => {
                    needs.access.insert(parent.clone());
                    needs.access.insert(child.clone());
                }
                EntryKey::Grant { item, principal } => {
                    needs.access.insert(item.clone());
                    if principal.kind != PrincipalType::User {
                        needs.members.insert(principal.clone());
                    }
                }
                EntryKey::Item(item)
                | EntryKey::Content(item)
                | EntryKey::Attachment { item, .. } => {
                    needs.access.insert(item.clone());
                }
            }
        }
        needs
    }

    /// Finds out whom the changes concern, and where to begin.
    fn start(&mut self) {
        self.started = true;
        let mut concerned: BTreeSet<UserId> = BTreeSet::new();
        for audience in self.rows.access.values() {
            concerned.extend(audience.keys().cloned());
        }
        for key in self.views.keys() {
            if let EntryKey::Grant { principal, .. } = key {
                concerned.extend(self.members(principal));
            }
        }
        self.concerned = concerned;
        if self.concerned.is_empty() {
            return;
        }
        self.whole = self.rows.access.keys().cloned().collect();
        let seen = |id: &ItemId| self.rows.access.get(id).is_some_and(|them| !them.is_empty());
        // What appears or goes by a deletion or its end has its grants and links touched with it.
        for key in self.views.keys() {
            match key {
                EntryKey::Grant { item, .. } => {
                    self.frontier.insert(item.clone());
                }
                EntryKey::Link { parent, child }
                    if !self.rows.is_shortcut(parent, child) && seen(parent) =>
                {
                    self.frontier.insert(child.clone());
                }
                _ => {}
            }
        }
    }

    /// Whom a grant to `principal` is to.
    fn members(&self, principal: &Principal) -> BTreeSet<UserId> {
        match principal.kind {
            PrincipalType::User => principal.user().into_iter().collect(),
            PrincipalType::Group | PrincipalType::Organization => {
                self.rows.members.get(principal).cloned().unwrap_or_default()
            }
        }
    }

    fn needs_of_frontier(&self) -> Needs {
        let mut needs = Needs { among: Some(self.concerned.clone()), ..Needs::default() };
        for id in &self.frontier {
            if !self.rows.around.contains(id) {
                needs.around.insert(id.clone());
            }
            for id in std::iter::once(id).chain(self.rows.parents(id)) {
                if !self.rows.items.contains_key(id) {
                    needs.items.insert(id.clone());
                }
                if !self.rows.access.contains_key(id) {
                    needs.access.insert(id.clone());
                }
            }
            let mut grants = self.rows.grants_on(id).peekable();
            if let (Some(_), Some(item)) = (grants.peek(), self.rows.item(id)) {
                needs.blocks.insert(item.owner.clone());
            }
            for (principal, _) in grants {
                if principal.kind != PrincipalType::User {
                    needs.members.insert(principal.clone());
                }
            }
        }
        needs.members.retain(|group| !self.rows.members.contains_key(group));
        needs.blocks.retain(|owner| !self.rows.blocks.contains_key(owner));
        needs
    }

    fn reckon_frontier(&mut self) {
        for id in std::mem::take(&mut self.frontier) {
            let next = self.reckon(&id);
            if next != *self.audience(&id) {
                self.frontier.extend(self.rows.children(&id).cloned());
                self.after.insert(id, next);
            }
        }
    }

    fn audience(&self, id: &ItemId) -> &Audience {
        self.after.get(id).or_else(|| self.rows.access.get(id)).unwrap_or(&NOBODY)
    }

    /// An item's audience by its grants and its parents' audiences.
    fn reckon(&self, id: &ItemId) -> Audience {
        let mut next = self.audience(id).clone();
        next.retain(|user, _| !self.concerned.contains(user));
        let Some(item) = self.rows.live(id) else { return next };
        let mut allow = |user: &UserId, level: AccessLevel| {
            if *user != item.owner && self.concerned.contains(user) {
                let held = next.entry(user.clone()).or_insert(level);
                *held = level.max(*held);
            }
        };
        for (principal, level) in self.rows.grants_on(id) {
            for user in self.members(principal) {
                if !self.rows.is_blocked(&user, &item.owner) {
                    allow(&user, level);
                }
            }
        }
        // A deleted parent has no audience.
        for parent in self.rows.parents(id) {
            for (user, level) in self.audience(parent) {
                allow(user, *level);
            }
        }
        next
    }

    /// The end of a shortcut whose realm is locked.
    fn locked_end<'a>(&self, parent: &'a ItemId, child: &'a ItemId) -> &'a ItemId {
        let locked = |id| self.rows.item(id).is_some_and(|i| self.rows.realms.contains(&i.owner));
        if locked(parent) { parent } else { child }
    }

    /// Whose feeds may get entries: their heads are to be locked.
    pub fn readers(&mut self) -> BTreeSet<UserId> {
        self.changes.access = self.access_changes();
        self.plan = self.plan();
        self.plan.keys().cloned().collect()
    }

    fn access_changes(&self) -> BTreeMap<ItemId, BTreeMap<UserId, Option<AccessLevel>>> {
        let changed = |(id, after): (&ItemId, &Audience)| {
            let before = self.rows.access.get(id).unwrap_or(&NOBODY);
            let held = after
                .iter()
                .filter(|(user, level)| before.get(*user) != Some(level))
                .map(|(user, level)| (user.clone(), Some(*level)));
            let lost = before.keys().filter(|user| !after.contains_key(*user));
            let changed: BTreeMap<UserId, Option<AccessLevel>> =
                held.chain(lost.map(|user| (user.clone(), None))).collect();
            (!changed.is_empty()).then(|| (id.clone(), changed))
        };
        self.after.iter().filter_map(changed).collect()
    }

    /// Whether an item appeared to the user, or went.
    fn toggled(&self, id: &ItemId, user: &UserId) -> bool {
        let Some(after) = self.after.get(id) else { return false };
        let before = self.rows.access.get(id).is_some_and(|held| held.contains_key(user));
        before != after.contains_key(user)
    }

    /// Whether all that changed of `key` is what the user may do with it.
    fn is_level_only(&self, key: &EntryKey, user: &UserId) -> bool {
        let EntryKey::Item(id) = key else { return false };
        !self.views.has(key) && !self.toggled(id, user)
    }

    fn plan(&self) -> BTreeMap<UserId, Vec<Planned>> {
        let mut plan: BTreeMap<UserId, Vec<Planned>> = BTreeMap::new();
        for key in self.views.keys() {
            let at = match key {
                EntryKey::Link { parent, child } if self.rows.is_shortcut(parent, child) => {
                    self.locked_end(parent, child)
                }
                EntryKey::Item(id)
                | EntryKey::Content(id)
                | EntryKey::Link { parent: id, .. }
                | EntryKey::Grant { item: id, .. }
                | EntryKey::Attachment { item: id, .. } => id,
            };
            let owner = self.rows.item(at).map(|item| &item.owner);
            let before = self.rows.access.get(at).into_iter().flatten();
            let after = self.after.get(at).into_iter().flatten();
            let readers: BTreeSet<&UserId> =
                before.chain(after).map(|(user, _)| user).chain(owner).collect();
            for user in readers {
                plan.entry(user.clone())
                    .or_default()
                    .push(Planned { key: key.clone(), level: None });
            }
        }
        for (id, changed) in &self.changes.access {
            for user in changed.keys() {
                let keys = plan.entry(user.clone()).or_default();
                let mut add = |key: EntryKey| {
                    if !self.views.has(&key) {
                        keys.push(Planned { key, level: None });
                    }
                };
                add(EntryKey::Item(id.clone()));
                if self.toggled(id, user) {
                    let mut around = Vec::new();
                    // A link whose child appeared or went too is found from there.
                    let here = |child: &ItemId| child == id || !self.toggled(child, user);
                    self.rows.keys_around(id, here, &mut around);
                    around.sort();
                    around.into_iter().for_each(&mut add);
                }
            }
        }
        plan
    }

    /// The rows that tell who sees the other ends of shortcuts, to be read under the readers'
    /// heads; `None` if there are none.
    pub fn needs_under_heads(&mut self) -> Option<Needs> {
        let mut ends: BTreeSet<ItemId> = BTreeSet::new();
        for planned in self.plan.values().flatten() {
            if let EntryKey::Link { parent, child } = &planned.key
                && self.rows.is_shortcut(parent, child)
            {
                ends.extend([parent.clone(), child.clone()]);
            }
        }
        let mut needs = Needs::default();
        for id in ends {
            let locked =
                self.rows.item(&id).is_some_and(|item| self.rows.realms.contains(&item.owner));
            if !locked {
                self.rows.items.remove(&id);
                self.rows.access.remove(&id);
                needs.items.insert(id.clone());
            }
            if !(locked && self.whole.contains(&id)) {
                needs.access.insert(id);
            }
        }
        (!needs.is_empty()).then_some(needs)
    }

    /// What the user may do with an item that they see.
    fn level(&self, id: &ItemId, user: &UserId) -> Option<AccessLevel> {
        if self.rows.live(id)?.owner == *user {
            return Some(AccessLevel::Admin);
        }
        let audience = match self.after.get(id) {
            Some(after) if self.concerned.contains(user) => Some(after),
            _ => self.rows.access.get(id),
        };
        audience?.get(user).copied()
    }

    /// What the user may do with what `key` is about, if they see it.
    fn sees(&self, key: &EntryKey, user: &UserId) -> Option<AccessLevel> {
        if !self.rows.is_there(key) {
            return None;
        }
        match key {
            EntryKey::Link { parent, child } => {
                self.level(parent, user)?;
                self.level(child, user)
            }
            EntryKey::Item(id)
            | EntryKey::Content(id)
            | EntryKey::Grant { item: id, .. }
            | EntryKey::Attachment { item: id, .. } => self.level(id, user),
        }
    }

    /// Whether the user's view of `key` before the transaction is known: an owner's of what is in
    /// the realm.
    fn is_own(&self, key: &EntryKey, user: &UserId) -> bool {
        let id = match key {
            EntryKey::Link { parent, child } if self.rows.is_shortcut(parent, child) => {
                return false;
            }
            EntryKey::Item(id)
            | EntryKey::Content(id)
            | EntryKey::Link { parent: id, .. }
            | EntryKey::Grant { item: id, .. }
            | EntryKey::Attachment { item: id, .. } => id,
        };
        self.rows.item(id).is_some_and(|item| item.owner == *user)
    }

    /// What is to be told as gone to those whom it was told, if it was; in the order of the keys.
    #[must_use]
    pub fn doubtful(&mut self) -> BTreeMap<UserId, Vec<Vec<u8>>> {
        let mut plan = std::mem::take(&mut self.plan);
        let mut doubtful: BTreeMap<UserId, Vec<Vec<u8>>> = BTreeMap::new();
        for (user, planned) in &mut plan {
            for Planned { key, level } in planned {
                *level = self.sees(key, user);
                if level.is_none() && !self.is_own(key, user) {
                    doubtful.entry(user.clone()).or_default().push(key.to_bytes());
                }
            }
        }
        self.plan = plan;
        // A database finds what lies together together.
        doubtful.values_mut().for_each(|keys| keys.sort_unstable());
        doubtful
    }

    /// The changes to write, with what to tell whom; `told` is what the feeds tell of
    /// [`FeedPropagation::doubtful`].
    #[must_use]
    pub fn finish(mut self, told: &Told) -> Changes {
        let mut feed: BTreeMap<UserId, Vec<Addition>> = BTreeMap::new();
        for (user, planned) in &self.plan {
            let told = told.get(user);
            let mut entries = Vec::with_capacity(planned.len());
            for Planned { key, level } in planned {
                let change = match level {
                    Some(level) => self.rows.present(key, *level),
                    None => {
                        let was_told = if self.is_own(key, user) {
                            self.views.was_visible(key)
                        } else {
                            told.is_some_and(|keys| keys.contains(&key.to_bytes()))
                        };
                        if was_told { self.rows.removal(key, self.now) } else { None }
                    }
                };
                if let Some((change, authored_at)) = change {
                    let Source { actor, replica, origin, changed } = self.views.source(key, user);
                    let author_replica = replica.clone().filter(|_| origin.is_none());
                    let cause = match replica {
                        _ if !changed || self.is_level_only(key, user) => Cause::Same,
                        Some(replica) => Cause::Replica(replica),
                        None => Cause::Another,
                    };
                    let body = EntryBody { actor, authored_at, author_replica, origin, change };
                    entries.push(Addition { body, cause });
                }
            }
            if !entries.is_empty() {
                super::visibility::order_entries(&mut entries);
                feed.insert(user.clone(), entries);
            }
        }
        self.changes.feed = feed;
        self.changes
    }
}
