//! A database as plain maps, slow and obviously right, and replicas that know what they were told.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use vfs_sync_core::access::{AccessLevel, Principal};
use vfs_sync_core::cursor::{Epoch, Position};
use vfs_sync_core::entry::{Change, EntryBody, EntryKey, RemovalReason};
use vfs_sync_core::id::{ItemId, ReplicaId, UserId, WriteId};
use vfs_sync_core::item::Name;
use vfs_sync_core::operation::{Basis, Operation};
use vfs_sync_core::register::{GrantRegister, Item, MoveRegister};
use vfs_sync_core::server::push::{
    Accepted, Cause, Changes, FeedPropagation, Head, Link, LinkKey, Map, Mark, Needs, PlacedEntry,
    PresentInFeed, PushBatch, Rows, Step, Tail, decide,
};
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::PushResponse;

/// How many histories to play: as `VFS_SYNC_TEST_CASES` says, or `count`.
pub(crate) fn cases(count: u32) -> u32 {
    std::env::var("VFS_SYNC_TEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(count)
}

pub(crate) struct Database {
    pub(crate) now: i64,
    pub(crate) items: BTreeMap<ItemId, Item>,
    pub(crate) links: BTreeMap<LinkKey, Link>,
    pub(crate) grants: BTreeMap<(ItemId, Principal), GrantRegister>,
    pub(crate) moves: BTreeMap<(ItemId, UserId), MoveRegister>,
    pub(crate) members: BTreeSet<(Principal, UserId)>,
    /// Who blocks whom.
    pub(crate) blocks: BTreeSet<(UserId, UserId)>,
    pub(crate) access: BTreeMap<(ItemId, UserId), AccessLevel>,
    accepted: HashMap<(UserId, ReplicaId, WriteId), Accepted>,
    last: HashMap<(UserId, ReplicaId), WriteId>,
    heads: HashMap<UserId, Head>,
    /// Of each user: key to position and entry.
    feeds: HashMap<UserId, BTreeMap<Vec<u8>, (u64, EntryBody)>>,
    /// Of each user: everything that was ever told, with what it was about and whose change it was.
    told: HashMap<UserId, Vec<(u64, EntryKey, Cause)>>,
}

pub(crate) fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis).unwrap()
}

pub(crate) fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

pub(crate) fn item(n: u8) -> ItemId {
    ItemId::new(format!("i{n}")).unwrap()
}

impl Database {
    pub(crate) fn new() -> Self {
        Self {
            now: 1_000,
            items: BTreeMap::new(),
            links: BTreeMap::new(),
            grants: BTreeMap::new(),
            moves: BTreeMap::new(),
            members: BTreeSet::new(),
            blocks: BTreeSet::new(),
            access: BTreeMap::new(),
            accepted: HashMap::new(),
            last: HashMap::new(),
            heads: HashMap::new(),
            feeds: HashMap::new(),
            told: HashMap::new(),
        }
    }

    fn load(&self, needs: &Needs) -> Rows {
        let mut rows = Rows::default();
        for id in &needs.items {
            rows.items.insert(id.clone(), self.items.get(id).cloned());
        }
        for key in &needs.links {
            rows.links.insert(key.clone(), self.links.get(key).cloned());
        }
        for key in &needs.grants {
            rows.grants.insert(key.clone(), self.grants.get(key).cloned());
        }
        for key in &needs.moves {
            rows.moves.insert(key.clone(), self.moves.get(key).cloned());
        }
        let present = || self.links.iter().filter(|(_, link)| link.register.value);
        for (key, link) in present() {
            if needs.around.contains(&key.0) || needs.around.contains(&key.1) {
                rows.links.insert(key.clone(), Some(link.clone()));
            }
        }
        for (key, grant) in &self.grants {
            let wanted = needs.around.contains(&key.0) || needs.granted.contains(&key.0);
            if wanted && grant.value.is_some() {
                rows.grants.insert(key.clone(), Some(grant.clone()));
            }
        }
        let mut open: Vec<_> = needs.ancestors.iter().cloned().collect();
        let mut seen = HashSet::new();
        while let Some(child) = open.pop() {
            if seen.insert(child.clone()) {
                for (key, link) in present().filter(|(key, link)| key.1 == child && link.in_realm) {
                    rows.links.insert(key.clone(), Some(link.clone()));
                    open.push(key.0.clone());
                }
            }
        }
        let among = |user: &UserId| needs.among.as_ref().is_none_or(|among| among.contains(user));
        for ((item, user), level) in &self.access {
            if needs.access.contains(item) && among(user) {
                rows.access.entry(item.clone()).or_default().insert(user.clone(), *level);
            }
        }
        for (group, user) in &self.members {
            if needs.members.contains(group) && among(user) {
                rows.members.entry(group.clone()).or_default().insert(user.clone());
            }
            if needs.groups_of.contains(user) {
                rows.groups.entry(user.clone()).or_default().insert(group.clone());
            }
        }
        for (user, owner) in &self.blocks {
            if needs.blocks.contains(owner) && among(user) {
                rows.blocks.entry(owner.clone()).or_default().insert(user.clone());
            }
        }
        rows
    }

    pub(crate) fn push(&mut self, replica: &str, operations: Vec<Operation>) -> PushResponse {
        self.push_as("u", replica, operations)
    }

    pub(crate) fn push_as(
        &mut self,
        who: &str,
        replica: &str,
        operations: Vec<Operation>,
    ) -> PushResponse {
        let (who, replica) = (user(who), ReplicaId::new(replica).unwrap());
        let batch = PushBatch::new(who.clone(), replica.clone(), operations);
        let mut rows = Rows::default();
        rows.last_write_id = self.last.get(&(who.clone(), replica.clone())).copied();
        for id in batch.replayed(rows.last_write_id) {
            if let Some(one) = self.accepted.get(&(who.clone(), replica.clone(), id)) {
                rows.accepted.insert(id, one.clone());
            }
        }
        self.lock_realms(Some(&who), &batch.named_items(), &mut rows);
        while let Some(needs) = batch.needs(&rows) {
            let mut found = self.load(&needs);
            found.marks = self.marks(&who, &needs.marks);
            rows.absorb(needs, found);
        }
        let decided = decide(&batch, rows, at(self.now));
        let changes = self.propagated(decided.propagation);
        for one in &changes.accepted {
            let key = (who.clone(), replica.clone(), one.write_id);
            self.accepted.insert(key, one.accepted.clone());
        }
        if let Some(last) = changes.last_write_id {
            self.last.insert((who, replica), last);
        }
        self.write(changes);
        decided.response
    }

    /// A user's feed, in its order.
    pub(crate) fn feed(&self, who: &UserId) -> Vec<EntryBody> {
        let entries = self.feeds.get(who).into_iter().flat_map(BTreeMap::values);
        let mut entries: Vec<&(u64, EntryBody)> = entries.collect();
        entries.sort_by_key(|(counter, _)| *counter);
        entries.into_iter().map(|(_, entry)| entry.clone()).collect()
    }

    pub(crate) fn set_member(&mut self, group: &Principal, member: &UserId, present: bool) {
        let key = (group.clone(), member.clone());
        let changed = if present { self.members.insert(key) } else { self.members.remove(&key) };
        let granted =
            self.grants.iter().filter(|((_, to), grant)| to == group && grant.value.is_some());
        let items: BTreeSet<ItemId> = granted.map(|((item, _), _)| item.clone()).collect();
        if changed {
            let mut rows = Rows::default();
            self.lock_realms(None, &items, &mut rows);
            let users = BTreeSet::from([member.clone()]);
            let changes =
                self.propagated(FeedPropagation::of_grants(users, items, rows, at(self.now)));
            self.write(changes);
        }
    }

    pub(crate) fn set_block(&mut self, who: &UserId, owner: &UserId, blocked: bool) {
        let key = (who.clone(), owner.clone());
        let changed = if blocked { self.blocks.insert(key) } else { self.blocks.remove(&key) };
        if changed {
            let mut rows = Rows::default();
            self.lock_realms(Some(owner), &BTreeSet::new(), &mut rows);
            let own = self.items.iter().filter(|(_, item)| item.owner == *owner);
            let items = own.map(|(id, _)| id.clone()).collect();
            let users = BTreeSet::from([who.clone()]);
            let changes =
                self.propagated(FeedPropagation::of_grants(users, items, rows, at(self.now)));
            self.write(changes);
        }
    }

    fn lock_realms(&self, user: Option<&UserId>, named: &BTreeSet<ItemId>, rows: &mut Rows) {
        rows.realms.extend(user.cloned());
        for id in named {
            let item = self.items.get(id).cloned();
            rows.realms.extend(item.iter().map(|item| item.owner.clone()));
            rows.items.insert(id.clone(), item);
        }
        for owner in &rows.realms {
            if let Some(head) = self.heads.get(owner) {
                rows.last_changed.insert(owner.clone(), head.changed_at);
                if user == Some(owner) {
                    let mark = self.mark_of(owner, |_| true).unwrap_or_default();
                    rows.tail = Some(Tail { history: vec![(head.epoch, head.counter)], mark });
                }
            }
        }
    }

    /// The newest change of what `about` says in a user's feed, from the log of all that was told.
    fn mark_of(&self, who: &UserId, about: impl Fn(&EntryKey) -> bool) -> Option<Mark> {
        let told = self.told.get(who)?.iter();
        let changes = || {
            let changes =
                told.clone().filter(|(_, key, cause)| about(key) && *cause != Cause::Same);
            changes.map(|(at, _, cause)| (*at, cause.replica()))
        };
        let (change, replica) = changes().max()?;
        let others = changes().filter(|(_, by)| *by != replica).map(|(at, _)| at);
        Some(Mark { replica: replica.cloned(), change, other: others.max().unwrap_or(0) })
    }

    fn marks(&self, who: &UserId, keys: &BTreeSet<EntryKey>) -> Map<EntryKey, Option<Mark>> {
        let mark = |key: &EntryKey| {
            let (_, entry) = self.feeds.get(who)?.get(&key.to_bytes())?;
            let present = !entry.change.is_removal();
            present.then(|| (key.clone(), self.mark_of(who, |told| told == key)))
        };
        keys.iter().filter_map(mark).collect()
    }

    /// The basis of somebody who read a feed up to a position.
    pub(crate) fn basis(position: u64) -> Basis {
        let epoch = Epoch::from_u64(1).unwrap();
        match position {
            0 => Basis::Start,
            counter => Basis::At(Position { epoch, counter }.at(at(0))),
        }
    }

    /// Whether somebody but `replica` changed something of `id` that counts, after `seen`, as the
    /// feed of `who` tells it.
    pub(crate) fn changed_unseen(
        &self,
        who: &UserId,
        replica: &ReplicaId,
        id: &ItemId,
        seen: u64,
    ) -> bool {
        let present = |parent: &ItemId, child: &ItemId| {
            self.links.get(&(parent.clone(), child.clone())).is_some_and(|link| link.register.value)
        };
        let counts = |key: &EntryKey| match key {
            EntryKey::Item(item) => item == id,
            EntryKey::Content(item) | EntryKey::Attachment { item, .. } => item == id,
            EntryKey::Link { parent, child } if child == id => present(parent, child),
            EntryKey::Link { parent, child } => {
                parent == id && present(parent, child) && self.live(child)
            }
            EntryKey::Grant { .. } => false,
        };
        let shown = |key: &EntryKey| {
            let entry = self.feeds.get(who).and_then(|feed| feed.get(&key.to_bytes()));
            entry.is_some_and(|(_, entry)| !entry.change.is_removal())
        };
        self.told.get(who).into_iter().flatten().any(|(at, key, cause)| {
            let others =
                *cause == Cause::Another || cause.replica().is_some_and(|by| by != replica);
            *at > seen && others && counts(key) && shown(key)
        })
    }

    fn propagated(&self, propagation: FeedPropagation) -> Changes {
        let (mut step, mut locked) = (propagation.step(), BTreeSet::new());
        let changes = loop {
            step = match step {
                Step::Load(load) => {
                    let found = self.load(load.needs());
                    load.resume(found)
                }
                Step::LockHeads(lock) => {
                    locked.clone_from(lock.readers());
                    lock.resume()
                }
                Step::LookUp(look_up) => {
                    let mut present = PresentInFeed::new();
                    for (user, keys) in look_up.keys() {
                        let shows = |key: &&Vec<u8>| {
                            let entry = self.feeds.get(user).and_then(|feed| feed.get(*key));
                            entry.is_some_and(|(_, entry)| !entry.change.is_removal())
                        };
                        present.insert(user.clone(), keys.iter().filter(shows).cloned().collect());
                    }
                    look_up.resume(&present)
                }
                Step::Write(changes) => break *changes,
                Step::TooMuch | Step::NoMemory => panic!("no scene is that large"),
            };
        };
        assert!(changes.feed.keys().all(|user| locked.contains(user)), "a head was not locked");
        changes
    }

    fn write(&mut self, changes: Changes) {
        self.items.extend(changes.items);
        self.links.extend(changes.links);
        self.grants.extend(changes.grants);
        self.moves.extend(changes.moves);
        for (item, users) in changes.access {
            for (user, level) in users {
                let key = (item.clone(), user);
                match level {
                    Some(level) => self.access.insert(key, level),
                    None => self.access.remove(&key),
                };
            }
        }
        for (reader, entries) in changes.feed {
            let head = self.heads.entry(reader.clone()).or_insert(Head {
                epoch: Epoch::from_u64(1).unwrap(),
                counter: 0,
                changed_at: at(0),
                pruned: None,
            });
            let first = head.advance(entries.len(), at(self.now), head.epoch).first;
            let told = self.told.entry(reader.clone()).or_default();
            let feed = self.feeds.entry(reader).or_default();
            for (addition, counter) in entries.into_iter().zip(first..) {
                let key = addition.body.change.key();
                let placed = PlacedEntry::new(&addition, counter);
                // What the feed did not have came into sight.
                let first = !feed.contains_key(&placed.key);
                let came = first && addition.cause == Cause::Same;
                told.push((counter, key, if came { Cause::Another } else { addition.cause }));
                feed.insert(placed.key, (counter, addition.body));
            }
        }
    }

    /// The feed after a position, in order.
    fn read(&self, who: &UserId, after: u64, limit: usize) -> Vec<(u64, EntryBody)> {
        let feed = self.feeds.get(who).into_iter().flat_map(|feed| feed.values());
        let mut entries: Vec<_> = feed.filter(|(at, _)| *at > after).cloned().collect();
        entries.sort_by_key(|(at, _)| *at);
        entries.truncate(limit);
        entries
    }

    pub(crate) fn live(&self, id: &ItemId) -> bool {
        self.items.get(id).is_some_and(|item| !item.fields.is_deleted())
    }

    fn names(&self, principal: &Principal, who: &UserId) -> bool {
        principal.user().as_ref() == Some(who)
            || self.members.contains(&(principal.clone(), who.clone()))
    }

    /// An item and all that it hangs under in its realm; with `dead`, through deleted ones too.
    pub(crate) fn lineage(&self, id: &ItemId, dead: bool) -> BTreeSet<ItemId> {
        let mut all = BTreeSet::new();
        let mut open = vec![id.clone()];
        while let Some(at) = open.pop() {
            if self.items.contains_key(&at) && (dead || self.live(&at)) && all.insert(at.clone()) {
                let up = self.links.iter().filter(|((_, child), link)| {
                    *child == at && link.register.value && link.in_realm
                });
                open.extend(up.map(|((parent, _), _)| parent.clone()));
            }
        }
        all
    }

    /// What an item hangs under in its realm, deleted or not.
    pub(crate) fn parents(&self, id: &ItemId) -> BTreeSet<ItemId> {
        let above = self
            .links
            .iter()
            .filter(|((_, child), link)| child == id && link.register.value && link.in_realm);
        above.map(|((parent, _), _)| parent.clone()).collect()
    }

    /// What `who` may do with an item, from scratch; with `dead`, as if nothing were deleted.
    pub(crate) fn level(&self, who: &UserId, id: &ItemId, dead: bool) -> Option<AccessLevel> {
        let item = self.items.get(id).filter(|_| dead || self.live(id))?;
        if item.owner == *who {
            return Some(AccessLevel::Admin);
        }
        if self.blocks.contains(&(who.clone(), item.owner.clone())) {
            return None;
        }
        let lineage = self.lineage(id, dead);
        let grants = self.grants.iter().filter(|((at, _), _)| lineage.contains(at));
        grants.filter(|((_, to), _)| self.names(to, who)).filter_map(|(_, grant)| grant.value).max()
    }

    /// Everything that the user may see, from scratch.
    pub(crate) fn view_of(&self, who: &UserId) -> View {
        let level = |id: &ItemId| self.level(who, id, false);
        let mut view = View::default();
        for (id, item) in &self.items {
            let Some(level) = level(id) else { continue };
            let fields = &item.fields;
            let text = format!(
                "{level:?} {:?} {:?} {:?}",
                fields.object_type.as_ref().unwrap().value,
                fields.name.as_ref().map(|name| name.value.as_str()),
                fields.live_metadata(),
            );
            view.insert(format!("item {id}"), text);
        }
        for ((parent, child), link) in &self.links {
            if link.register.value && level(parent).is_some() && level(child).is_some() {
                view.insert(format!("link {parent} {child}"), String::new());
            }
        }
        for ((item, principal), grant) in &self.grants {
            if let Some(granted) = grant.value.filter(|_| level(item).is_some()) {
                view.insert(format!("grant {item} {principal:?}"), format!("{granted:?}"));
            }
        }
        view
    }

    /// Everything that "u" may see.
    pub(crate) fn view(&self) -> View {
        self.view_of(&user("u"))
    }

    pub(crate) fn assert_acyclic(&self) {
        let mut children: BTreeMap<&ItemId, Vec<&ItemId>> = BTreeMap::new();
        let present = |link: &Link| link.register.value && link.in_realm;
        for ((parent, child), _) in self.links.iter().filter(|(_, link)| present(link)) {
            children.entry(parent).or_default().push(child);
        }
        for start in self.items.keys() {
            let mut open: Vec<_> = children.get(start).into_iter().flatten().collect();
            let mut seen = BTreeSet::new();
            while let Some(id) = open.pop() {
                assert_ne!(*id, start, "a cycle through {start}");
                if seen.insert(*id) {
                    open.extend(children.get(*id).into_iter().flatten());
                }
            }
        }
    }
}

pub(crate) type View = BTreeMap<String, String>;

/// A replica as naive as can be: what it was told, newest last.
pub(crate) struct Replica {
    pub(crate) who: UserId,
    pub(crate) position: u64,
    pub(crate) view: View,
    /// It has pulled everything after each step so far: nothing may go that it did not see.
    follows: bool,
}

impl Replica {
    pub(crate) fn of(who: &str) -> Self {
        Self { who: user(who), position: 0, view: View::new(), follows: false }
    }

    /// One that pulls everything after each step.
    pub(crate) fn following(who: &str) -> Self {
        Self { follows: true, ..Self::of(who) }
    }

    fn gone(&mut self, key: String, reason: Option<RemovalReason>) {
        let held = self.view.remove(&key);
        assert!(held.is_some() || !self.follows, "{} is told of {key} ({reason:?})", self.who);
    }

    pub(crate) fn pull(&mut self, database: &Database, limit: usize) -> bool {
        let page = database.read(&self.who, self.position, limit);
        for (at, entry) in &page {
            assert!(*at > self.position);
            self.position = *at;
            match &entry.change {
                Change::ItemUpsert(item) => {
                    let name = item.name.as_ref().map(Name::as_str);
                    let (level, kind) = (item.access_level, item.object_type);
                    let text = format!("{level:?} {kind:?} {name:?} {:?}", item.metadata);
                    self.view.insert(format!("item {}", item.item_id), text);
                }
                Change::LinkAdd { parent, child } => {
                    self.view.insert(format!("link {parent} {child}"), String::new());
                }
                Change::GrantAdd { item, principal, level } => {
                    self.view.insert(format!("grant {item} {principal:?}"), format!("{level:?}"));
                }
                Change::ItemDelete { item, reason } => self.gone(format!("item {item}"), *reason),
                Change::LinkRemove { parent, child, reason } => {
                    self.gone(format!("link {parent} {child}"), *reason);
                }
                Change::GrantRemove { item, principal, reason } => {
                    self.gone(format!("grant {item} {principal:?}"), *reason);
                }
                Change::BlobAttach(_) | Change::BlobDetach { .. } => unreachable!(),
            }
        }
        !page.is_empty()
    }

    pub(crate) fn settle(&mut self, database: &Database, limit: usize) {
        while self.pull(database, limit) {}
        assert_eq!(self.view, database.view_of(&self.who), "what {} sees", self.who);
    }
}
