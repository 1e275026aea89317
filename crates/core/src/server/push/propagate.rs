//! Propagates a transaction's changes to the feeds of all users who see them.
//!
//! An item's audience is everybody but its owner who may see it: those to whom it is granted, and
//! the audiences of the live items that it hangs under in its realm. Where a grant, a link or a
//! deletion changed, the audience is recomputed; if it changed, so are the audiences of what hangs
//! under the item, and so on downwards. To a user who blocks the owner, grants give nothing. Items
//! whose audience cannot have changed are not visited, and the others once: an item is recomputed
//! after everything above it that may change, whatever the shape of the graph ([`super::order`]).
//!
//! Then every feed gets the differences in its user's view. Whether a user sees a shortcut depends
//! on another realm, which is not locked. That realm is read only under the user's feed head: if
//! two transactions make the two ends visible, the later one sees the earlier one's change.

use std::collections::{BTreeMap, BTreeSet};

use super::order::Order;
use super::rest::{Rest, chunk_items};
use super::rows::{Addition, Awaited, Cause, Changes, Map, Needs, Rows, Set};
use super::visibility::{Source, Views};
use crate::access::{AccessLevel, Audience, PrincipalType};
use crate::entry::{EntryBody, EntryKey, RemovalReason};
use crate::id::{ItemId, UserId};
use crate::limits::{MAX_CONSEQUENCE_BYTES, MAX_CONSEQUENCES};
use crate::time::Timestamp;

static NOBODY: Audience = Audience::new();

/// The keys ([`EntryKey::to_bytes`]) that each user's feed shows as present.
pub type PresentInFeed = BTreeMap<UserId, Set<Vec<u8>>>;

/// A transaction's changes on their way to the feeds. [`FeedPropagation::step`] returns the first
/// [`Step`]; each step names the transaction's next action, and its result resumes the propagation.
#[derive(Debug, Clone)]
pub struct FeedPropagation {
    rows: Rows,
    now: Timestamp,
    views: Views,
    changes: Changes,
    started: bool,
    bound: Bound,
    weighed: Bound,
    /// The bytes of memory that the propagation takes, as an estimate, and may take.
    memory: usize,
    max_memory: usize,
    /// The bytes of memory from which the rest of a change that narrows views is left to later chunks.
    chunk: usize,
    /// The bytes of memory of what the chunks before left.
    waiting: usize,
    /// Items that this chunk leaves to later ones.
    left: BTreeSet<ItemId>,
    /// Items that earlier chunks left: links to them were not looked at from above.
    taken_up: BTreeSet<ItemId>,
    /// The first items that have not been recomputed yet.
    roots: BTreeSet<ItemId>,
    /// True once an audience was recomputed.
    visited: bool,
    /// Users whose access to anything may change.
    concerned: BTreeSet<UserId>,
    /// Items whose whole audience is loaded; for others, only the part of the users in `concerned`.
    whole: Set<ItemId>,
    /// Items whose audience is to be recomputed, and that have no place in `order` yet.
    frontier: BTreeSet<ItemId>,
    /// The others of these, in the order in which they are recomputed.
    order: Order,
    /// The audiences that changed.
    after: Map<ItemId, Audience>,
    /// Keys that each user's feed may have to show or to retract.
    plan: BTreeMap<UserId, Vec<Planned>>,
    /// The part of these that is being looked up.
    looked_up: BTreeMap<UserId, Vec<Planned>>,
    /// The user whose feed gets nothing, because it is being removed.
    unread: Option<UserId>,
    /// The reason of all removals, if it is not each one's own.
    reason: Option<RemovalReason>,
}

/// The memory of a row that is planned: a change of access, or an entry of a feed.
const PLANNED_BYTES: usize = 450;
/// The memory of an item that is loaded, beside its fields.
const ITEM_BYTES: usize = 300;
/// The memory of a link that is loaded.
const LINK_BYTES: usize = 200;
/// The memory of a user's level on an item that is loaded.
const LEVEL_BYTES: usize = 64;

/// Keys of several users that are looked up together; one user's are always.
const LOOK_UP_KEYS: usize = 20_000;

/// The kind of consequences that a [`Bound`] counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BoundKind {
    /// Items that become visible to users, and levels that rise. Changes that narrow a view count
    /// nothing.
    Widening,
    /// All rows that are written to feeds and to access.
    All,
}

/// The most that the consequences of a transaction may be, as they are estimated while they are
/// planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// The kind of consequences that are counted.
    pub kind: BoundKind,
    /// Rows of feeds and of access.
    pub rows: usize,
    /// Bytes of items that are copied into feeds.
    pub bytes: usize,
    /// Levels of users on parents that were looked at.
    pub steps: usize,
}

impl Bound {
    /// The bound of what cannot be split.
    pub const OPERATION: Self = Self {
        kind: BoundKind::Widening,
        rows: MAX_CONSEQUENCES,
        bytes: MAX_CONSEQUENCE_BYTES,
        steps: 20 * MAX_CONSEQUENCES,
    };
    /// The bound of several operations that one transaction applies: others wait for it for a tenth
    /// of a second.
    pub const PART: Self = Self {
        kind: BoundKind::All,
        rows: MAX_CONSEQUENCES / 100,
        bytes: MAX_CONSEQUENCE_BYTES / 32,
        steps: MAX_CONSEQUENCES / 2,
    };
    /// No bound: for what has to be done at once, when nobody waits.
    pub const NONE: Self =
        Self { kind: BoundKind::Widening, rows: usize::MAX, bytes: usize::MAX, steps: usize::MAX };
}

/// A key that a user's feed may have to show, with the user's level on it if they see it.
#[derive(Debug, Clone)]
struct Planned {
    key: EntryKey,
    level: Option<AccessLevel>,
    /// True if nothing is to be told unless the user no longer sees it.
    only_if_gone: bool,
}

impl Planned {
    const fn new(key: EntryKey) -> Self {
        Self { key, level: None, only_if_gone: false }
    }
}

/// The next step of a propagation.
#[derive(Debug)]
pub enum Step {
    /// Rows are to be loaded.
    Load(Load),
    /// The readers' feed heads are to be locked until the transaction ends.
    LockHeads(LockHeads),
    /// The feeds are to be searched for keys that they show, under the locks of their heads.
    LookUp(LookUp),
    /// The changes are to be written: the decision is complete.
    Write(Box<Changes>),
    /// Nothing: the consequences are beyond the bound.
    TooMuch,
    /// Nothing: planning the consequences takes more memory than there is for it.
    NoMemory,
}

impl Step {
    /// Returns the number of items involved so far: the work after the step grows with it.
    #[must_use]
    pub fn size(&self) -> usize {
        match self {
            Self::Load(Load { propagation, .. })
            | Self::LockHeads(LockHeads { propagation, .. })
            | Self::LookUp(LookUp { propagation, .. }) => propagation.size(),
            Self::Write(_) | Self::TooMuch | Self::NoMemory => 0,
        }
    }
}

/// A request for the rows that the propagation needs next.
#[derive(Debug)]
pub struct Load {
    needs: Box<Needs>,
    heads_are_locked: bool,
    propagation: Box<FeedPropagation>,
}

impl Load {
    /// Returns the rows to load.
    #[must_use]
    pub fn needs(&self) -> &Needs {
        &self.needs
    }

    /// Continues with the rows that were found.
    #[must_use]
    pub fn resume(self, found: Rows) -> Step {
        let Self { needs, heads_are_locked, mut propagation } = self;
        propagation.memory = propagation.memory.saturating_add(memory(&found));
        if propagation.has_no_memory() {
            return Step::NoMemory;
        }
        propagation.rows.absorb(*needs, found);
        if heads_are_locked { propagation.look_up() } else { propagation.next() }
    }
}

/// The users whose feeds may get entries.
#[derive(Debug)]
pub struct LockHeads {
    readers: BTreeSet<UserId>,
    propagation: Box<FeedPropagation>,
}

impl LockHeads {
    /// Returns the users whose feed heads are to be locked.
    #[must_use]
    pub fn readers(&self) -> &BTreeSet<UserId> {
        &self.readers
    }

    /// Continues once the heads are locked.
    #[must_use]
    pub fn resume(self) -> Step {
        let mut propagation = self.propagation;
        match propagation.needs_under_heads() {
            Some(needs) => {
                let needs = Box::new(needs);
                Step::Load(Load { needs, heads_are_locked: true, propagation })
            }
            None => propagation.look_up(),
        }
    }
}

/// Keys that users no longer see; those that their feeds show are to be retracted.
#[derive(Debug)]
pub struct LookUp {
    keys: BTreeMap<UserId, Vec<Vec<u8>>>,
    propagation: Box<FeedPropagation>,
}

impl LookUp {
    /// Returns the keys to look up, per user, in ascending order.
    #[must_use]
    pub fn keys(&self) -> &BTreeMap<UserId, Vec<Vec<u8>>> {
        &self.keys
    }

    /// Continues with `present`, the keys that the feeds show as present.
    #[must_use]
    pub fn resume(self, present: &PresentInFeed) -> Step {
        let mut propagation = self.propagation;
        propagation.add_entries(present);
        propagation.look_up()
    }
}

/// Returns the bytes of memory that loaded rows take, as an estimate.
fn memory(rows: &Rows) -> usize {
    let items = rows.items.values().flatten().map(|item| ITEM_BYTES + item.fields.weight());
    let levels: usize = rows.access.values().map(Audience::len).sum();
    items.sum::<usize>() + rows.links.len() * LINK_BYTES + levels * LEVEL_BYTES
}

impl FeedPropagation {
    pub(super) fn of_push(mut rows: Rows, views: Views, changes: Changes, now: Timestamp) -> Self {
        // The rows loaded for the decision cover the author alone.
        rows.blocks.clear();
        Self {
            rows,
            now,
            views,
            changes,
            started: false,
            bound: Bound::OPERATION,
            weighed: Bound { kind: BoundKind::Widening, rows: 0, bytes: 0, steps: 0 },
            memory: 0,
            max_memory: usize::MAX,
            chunk: usize::MAX,
            waiting: 0,
            left: BTreeSet::new(),
            taken_up: BTreeSet::new(),
            roots: BTreeSet::new(),
            visited: false,
            concerned: BTreeSet::new(),
            whole: Set::default(),
            frontier: BTreeSet::new(),
            order: Order::default(),
            after: Map::default(),
            plan: BTreeMap::new(),
            looked_up: BTreeMap::new(),
            unread: None,
            reason: None,
        }
    }

    /// Propagates changes that end what readers see, without a look at what hangs under it: the
    /// feed of `leaver`, who is being removed, gets nothing. `changes` has the levels to remove.
    pub(super) fn of_leaving(
        leaver: &UserId,
        rows: Rows,
        views: Views,
        changes: Changes,
        reason: Option<RemovalReason>,
        now: Timestamp,
    ) -> Self {
        let mut propagation = Self::of_push(rows, views, changes, now);
        propagation.started = true;
        propagation.unread = Some(leaver.clone());
        propagation.reason = reason;
        propagation
    }

    /// Propagates a change of what `users` may see of `items` by grants, such as joining or leaving
    /// a group with grants, or blocking the owner. `rows` has the realms that are locked.
    #[must_use]
    pub fn of_grants(
        users: BTreeSet<UserId>,
        items: BTreeSet<ItemId>,
        rows: Rows,
        now: Timestamp,
    ) -> Self {
        let mut propagation = Self::of_push(rows, Views::default(), Changes::default(), now);
        propagation.started = true;
        propagation.concerned = users;
        propagation.roots.clone_from(&items);
        propagation.frontier = items;
        propagation
    }

    /// Gives effect to the grants of `owner` on `items` that waited for a call of `user`. `rows` has
    /// the owner's realm, which is locked.
    #[must_use]
    pub fn of_arrival(
        user: UserId,
        owner: UserId,
        items: BTreeSet<ItemId>,
        mut rows: Rows,
        now: Timestamp,
    ) -> Self {
        rows.awaited.insert(owner.clone(), BTreeSet::new());
        let mut propagation = Self::of_grants(BTreeSet::from([user.clone()]), items, rows, now);
        propagation.changes.awaited.insert((owner, user), Awaited::No);
        propagation
    }

    /// Replaces the bound on the consequences, which by default is that of one operation.
    #[must_use]
    pub fn within(mut self, bound: Bound) -> Self {
        self.bound = bound;
        self
    }

    /// Bounds the bytes of memory that the propagation takes, which are estimated while it is
    /// planned. They count for changes that narrow a view as well.
    #[must_use]
    pub fn within_memory(mut self, bytes: usize) -> Self {
        self.max_memory = bytes;
        self
    }

    /// Has a change that narrows views leave a [`Rest`] in its [`Changes`] once this many bytes of
    /// memory are taken. Without this it is planned whole.
    #[must_use]
    pub fn in_chunks_of(mut self, bytes: usize) -> Self {
        self.chunk = bytes;
        self
    }

    /// Continues earlier chunks, whose consequences were `weighed`; what still waits takes `waiting`
    /// bytes of memory.
    pub(super) fn after_chunks(mut self, weighed: Bound, waiting: usize) -> Self {
        self.weighed = Bound { steps: 0, ..weighed };
        self.waiting = waiting;
        self.taken_up.clone_from(&self.frontier);
        self
    }

    /// Begins the propagation: returns its first step.
    #[must_use]
    pub fn step(self) -> Step {
        Box::new(self).next()
    }

    /// Computes as many audiences as the loaded rows allow.
    fn next(mut self: Box<Self>) -> Step {
        if let Some(needs) = self.needs() {
            let needs = Box::new(needs);
            return Step::Load(Load { needs, heads_are_locked: false, propagation: self });
        }
        if let Some(refused) = self.refused() {
            return refused;
        }
        let mut access = self.access_changes();
        self.changes.access.append(&mut access);
        self.make_plan();
        if let Some(refused) = self.refused() {
            return refused;
        }
        let readers: BTreeSet<UserId> = self.plan.keys().cloned().collect();
        if readers.is_empty() {
            return self.look_up();
        }
        Step::LockHeads(LockHeads { readers, propagation: self })
    }

    /// Determines what each reader sees now, and which keys the feeds may have to retract: of as
    /// many readers as are looked up together. Returns the changes once all were.
    fn look_up(mut self: Box<Self>) -> Step {
        loop {
            let keys = self.possible_removals();
            if !keys.is_empty() {
                return Step::LookUp(LookUp { keys, propagation: self });
            }
            self.add_entries(&PresentInFeed::new());
            if self.plan.is_empty() {
                self.changes.rest = self.rest();
                return Step::Write(Box::new(self.changes));
            }
        }
    }

    /// Returns the number of items involved so far: the work of a step grows with it.
    #[must_use]
    pub fn size(&self) -> usize {
        self.rows.access.len()
    }

    /// Returns the rows that are needed next; `None` once all audiences are computed.
    fn needs(&mut self) -> Option<Needs> {
        if !self.started {
            let mut needs = self.needs_of_roots();
            needs.retain_missing(&self.rows);
            if !needs.is_empty() {
                return Some(needs);
            }
            self.start();
        }
        loop {
            self.leave_rest();
            let needs = self.needs_of_frontier();
            if !needs.is_empty() {
                return Some(needs);
            }
            let ancestors = self.order.place(&mut self.frontier, &self.rows, &self.changes);
            if !ancestors.is_empty() {
                return Some(Needs { ancestors, ..Needs::default() });
            }
            let next = self.order.next();
            if next.is_empty() {
                return None;
            }
            self.recompute_all(next);
            if self.refused().is_some() {
                return None;
            }
        }
    }

    /// Leaves items to later chunks: all that still wait once this chunk is full, and otherwise those
    /// that are more than it loads at one time. What shows anything leaves nothing, because it may
    /// have to be refused whole.
    fn leave_rest(&mut self) {
        let is_whole = self.chunk == usize::MAX || self.bound.kind == BoundKind::All;
        if is_whole || !self.visited || self.weighed.rows > 0 {
            return;
        }
        if self.memory > self.chunk || self.weighed.steps > self.bound.steps / 10 {
            self.left.append(&mut self.frontier);
            self.left.extend(self.order.take_waiting());
            return;
        }
        let most = chunk_items(self.chunk, self.concerned.len());
        if let Some(first_left) = self.frontier.iter().nth(most).cloned() {
            self.left.append(&mut self.frontier.split_off(&first_left));
        }
    }

    /// Returns what is left to later chunks.
    fn rest(&mut self) -> Option<Box<Rest>> {
        if self.left.is_empty() {
            return None;
        }
        // Below its first items, a change reaches nobody whose access to these does not change.
        let users = if self.roots.is_disjoint(&self.left) {
            let changed = self.changes.access.values().flat_map(BTreeMap::keys);
            changed.cloned().collect()
        } else {
            self.concerned.clone()
        };
        let (realms, items) = (self.rows.realms.clone(), std::mem::take(&mut self.left));
        let bounds = (self.bound, self.weighed);
        Some(Box::new(Rest::new(users, realms, items, self.now, bounds, self.chunk)))
    }

    /// Returns the needs of the first round: the audiences of all touched items, and the members of
    /// the groups concerned.
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

    /// Determines the users concerned and the first items to recompute.
    fn start(&mut self) {
        self.started = true;
        let mut concerned: BTreeSet<UserId> = BTreeSet::new();
        for audience in self.rows.access.values() {
            concerned.extend(audience.keys().cloned());
        }
        for key in self.views.keys() {
            if let EntryKey::Grant { principal, .. } = key {
                concerned.extend(self.rows.users_of(principal));
            }
        }
        self.concerned = concerned;
        if self.concerned.is_empty() {
            return;
        }
        self.whole = self.rows.access.keys().cloned().collect();
        let seen = |id: &ItemId| self.rows.access.get(id).is_some_and(|them| !them.is_empty());
        // Where an item appears or disappears by a deletion or its end, its grants and links are
        // touched too.
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
        self.roots.clone_from(&self.frontier);
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
                needs.awaited.insert(item.owner.clone());
            }
            for (principal, _) in grants {
                if principal.kind != PrincipalType::User {
                    needs.members.insert(principal.clone());
                }
            }
        }
        needs.members.retain(|group| !self.rows.members.contains_key(group));
        needs.blocks.retain(|owner| !self.rows.blocks.contains_key(owner));
        needs.awaited.retain(|owner| !self.rows.awaited.contains_key(owner));
        needs
    }

    fn recompute_all(&mut self, ids: BTreeSet<ItemId>) {
        self.visited = true;
        for id in ids {
            self.note_awaited(&id);
            self.left.remove(&id);
            let next = self.recompute(&id);
            if next != *self.audience(&id) {
                self.weigh(&id, &next);
                let below = self.rows.children(&id).filter(|child| !self.order.has(child));
                self.frontier.extend(below.cloned());
                self.after.insert(id, next);
            }
        }
    }

    /// Returns the step that ends the propagation if it is beyond a bound.
    fn refused(&self) -> Option<Step> {
        if self.is_too_much() {
            return Some(Step::TooMuch);
        }
        self.has_no_memory().then_some(Step::NoMemory)
    }

    const fn has_no_memory(&self) -> bool {
        self.memory.saturating_add(self.waiting) > self.max_memory
    }

    fn is_too_much(&self) -> bool {
        self.weighed.rows > self.bound.rows
            || self.weighed.bytes > self.bound.bytes
            || self.weighed.steps > self.bound.steps
    }

    /// Weighs the rows of access of an item whose audience is about to be `next`. Those of feeds
    /// are weighed as they are planned.
    fn weigh(&mut self, id: &ItemId, next: &Audience) {
        let before = self.audience(id);
        let (mut toggled, mut levels, mut shown) = (0_usize, 0_usize, 0_usize);
        let after = next.len() * LEVEL_BYTES;
        for (user, level) in next {
            match before.get(user) {
                None => (toggled, shown) = (toggled + 1, shown + 1),
                Some(held) if held < level => (levels, shown) = (levels + 1, shown + 1),
                Some(held) if held > level && self.bound.kind == BoundKind::All => levels += 1,
                Some(_) => {}
            }
        }
        let lost = before.keys().filter(|user| !next.contains_key(*user)).count();
        if self.bound.kind == BoundKind::All {
            toggled += lost;
        }
        let steps: usize = self.rows.parents(id).map(|parent| self.audience(parent).len()).sum();
        let bytes = self.rows.item(id).map_or(0, |item| item.fields.weight());
        self.memory = self.memory.saturating_add(after + (lost + shown) * PLANNED_BYTES);
        self.weighed.rows += toggled + levels;
        self.weighed.bytes += shown * bytes;
        self.weighed.steps += steps;
    }

    /// Records the users to whom the grants on an item give nothing before a call of theirs: that
    /// call finds the owner by it.
    fn note_awaited(&mut self, id: &ItemId) {
        let Some(item) = self.rows.live(id) else { return };
        if self.rows.awaited.get(&item.owner).is_none_or(BTreeSet::is_empty) {
            return;
        }
        for (principal, _) in self.rows.grants_on(id) {
            for user in self.rows.users_of(principal) {
                if self.concerned.contains(&user) && self.rows.is_awaited(&user, &item.owner) {
                    self.changes.awaited.insert((item.owner.clone(), user), Awaited::Call);
                }
            }
        }
    }

    fn audience(&self, id: &ItemId) -> &Audience {
        self.after.get(id).or_else(|| self.rows.access.get(id)).unwrap_or(&NOBODY)
    }

    /// Computes an item's audience from its grants and its parents' audiences.
    fn recompute(&self, id: &ItemId) -> Audience {
        let mut others = self.audience(id).clone();
        others.retain(|user, _| !self.concerned.contains(user));
        let above = |parent: &ItemId| self.audience(parent);
        self.rows.derive_audience(id, others, above, |user| self.concerned.contains(user))
    }

    /// Returns the end of a shortcut whose realm is locked.
    fn locked_end<'a>(&self, parent: &'a ItemId, child: &'a ItemId) -> &'a ItemId {
        let locked = |id| self.rows.item(id).is_some_and(|i| self.rows.realms.contains(&i.owner));
        if locked(parent) { parent } else { child }
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

    /// Returns whether an item appeared to the user or disappeared.
    fn toggled(&self, id: &ItemId, user: &UserId) -> bool {
        let Some(after) = self.after.get(id) else { return false };
        let before = self.rows.access.get(id).is_some_and(|held| held.contains_key(user));
        before != after.contains_key(user)
    }

    /// Returns whether only the user's level changed for `key`.
    fn is_level_only(&self, key: &EntryKey, user: &UserId) -> bool {
        let EntryKey::Item(id) = key else { return false };
        !self.views.has(key) && !self.toggled(id, user)
    }

    fn make_plan(&mut self) {
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
            let readers = before.chain(after).map(|(user, _)| user).chain(owner);
            let readers: BTreeSet<&UserId> =
                readers.filter(|user| self.unread.as_ref() != Some(*user)).collect();
            if self.bound.kind == BoundKind::All {
                self.weighed.rows += readers.len();
                if let EntryKey::Item(id) = key {
                    let bytes = self.rows.item(id).map_or(0, |item| item.fields.weight());
                    self.weighed.bytes += readers.len() * bytes;
                }
                if self.is_too_much() {
                    return;
                }
            }
            self.memory = self.memory.saturating_add(readers.len() * PLANNED_BYTES);
            if self.has_no_memory() {
                return;
            }
            for user in readers {
                plan.entry(user.clone()).or_default().push(Planned::new(key.clone()));
            }
        }
        for (id, changed) in &self.changes.access {
            for (user, level) in changed {
                let before = self.rows.access.get(id).and_then(|held| held.get(user));
                let counts = self.bound.kind == BoundKind::All || *level > before.copied();
                let keys = plan.entry(user.clone()).or_default();
                let planned = keys.len();
                let mut add = |key: EntryKey| {
                    if !self.views.has(&key) {
                        keys.push(Planned::new(key));
                    }
                };
                add(EntryKey::Item(id.clone()));
                if self.toggled(id, user) {
                    let mut around = Vec::new();
                    // A link whose child appeared or went too is found from there, and so is one
                    // to a child that a later chunk looks at.
                    let here = |child: &ItemId| {
                        child == id || !(self.toggled(child, user) || self.left.contains(child))
                    };
                    self.rows.keys_around(id, here, &mut around);
                    around.sort();
                    around.into_iter().for_each(&mut add);
                }
                let planned = keys.len() - planned;
                self.memory = self.memory.saturating_add(planned * PLANNED_BYTES);
                if counts {
                    self.weighed.rows += planned;
                }
                if self.refused().is_some() {
                    return;
                }
            }
        }
        self.plan_links_above(&mut plan);
        self.plan = plan;
    }

    /// Plans the links to items that earlier chunks left, for users whose access to these stays: the
    /// other end may have gone from their views.
    fn plan_links_above(&mut self, plan: &mut BTreeMap<UserId, Vec<Planned>>) {
        let mut count = 0;
        for id in &self.taken_up {
            for user in self.audience(id).keys() {
                if !self.concerned.contains(user) || self.toggled(id, user) {
                    continue;
                }
                for (parent, child) in self.rows.links_above(id) {
                    // One whose other end goes in this chunk is found from there.
                    let is_found = self.toggled(parent, user)
                        || !self.rows.is_shortcut(parent, child)
                            && self.level(parent, user).is_some();
                    if !is_found {
                        let (parent, child) = (parent.clone(), child.clone());
                        let key = EntryKey::Link { parent, child };
                        let planned = Planned { only_if_gone: true, ..Planned::new(key) };
                        plan.entry(user.clone()).or_default().push(planned);
                        count += 1;
                    }
                }
            }
        }
        self.memory = self.memory.saturating_add(count * PLANNED_BYTES);
    }

    /// Returns the rows that tell who sees the other ends of shortcuts, to be read under the
    /// readers' heads; `None` if there are none.
    fn needs_under_heads(&mut self) -> Option<Needs> {
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

    /// Returns the user's level on an item that they see.
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

    /// Returns the user's level on the subject of `key`, if they see it.
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

    /// Returns whether the user's view of `key` before the transaction is known: it is for the
    /// owner of a locked realm.
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

    /// Takes the next users of the plan; returns the keys to retract, per user, if the user's feed
    /// shows them, in ascending order.
    fn possible_removals(&mut self) -> BTreeMap<UserId, Vec<Vec<u8>>> {
        let mut removals: BTreeMap<UserId, Vec<Vec<u8>>> = BTreeMap::new();
        let mut keys = 0;
        while keys < LOOK_UP_KEYS
            && let Some((user, mut planned)) = self.plan.pop_first()
        {
            let mut gone = Vec::new();
            for Planned { key, level, .. } in &mut planned {
                *level = self.sees(key, &user);
                if level.is_none() && !self.is_own(key, &user) {
                    gone.push(key.to_bytes());
                }
            }
            planned.retain(|one| one.level.is_none() || !one.only_if_gone);
            keys += planned.len();
            if !gone.is_empty() {
                // A database reads adjacent keys faster together.
                gone.sort_unstable();
                removals.insert(user.clone(), gone);
            }
            self.looked_up.insert(user, planned);
        }
        removals
    }

    /// Adds the entries of the users that were looked up to their feeds; `present` has the keys of
    /// [`FeedPropagation::possible_removals`] that the feeds show.
    fn add_entries(&mut self, present: &PresentInFeed) {
        for (user, planned) in std::mem::take(&mut self.looked_up) {
            let (user, present) = (&user, present.get(&user));
            let mut entries = Vec::with_capacity(planned.len());
            for Planned { key, level, .. } in &planned {
                let change = match level {
                    Some(level) => self.rows.present(key, *level),
                    None => {
                        let was_present = if self.is_own(key, user) {
                            self.views.was_visible(key)
                        } else {
                            present.is_some_and(|keys| keys.contains(&key.to_bytes()))
                        };
                        if was_present { self.rows.removal(key, self.now) } else { None }
                    }
                };
                if let Some((mut change, authored_at)) = change {
                    if self.reason.is_some() {
                        change.set_reason(self.reason);
                    }
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
                entries.shrink_to_fit();
                self.changes.feed.insert(user.clone(), entries);
            }
        }
    }
}
