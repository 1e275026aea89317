//! The rows that a decision reads, and the row changes that it produces.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hash;

/// Maps and sets of the rows that a transaction loads: up to some 100,000 ids, hashed with a seed
/// per map.
pub use foldhash::{HashMap as Map, HashSet as Set};
use serde::{Deserialize, Serialize};

use super::quota::{MetadataUsage, UsageChange};
use super::rest::Rest;
use crate::access::{AccessLevel, Audience, Principal};
use crate::content::Attachment;
use crate::cursor::{Cursor, Epoch, Position};
use crate::entry::{EntryBody, EntryKey};
use crate::id::{ItemId, OpId, ReplicaId, UserId, WriteId};
#[cfg(doc)]
use crate::limits;
use crate::operation::Basis;
use crate::register::{GrantRegister, Item, LinkRegister, MoveRegister};
use crate::server::feed_window::{EpochStart, History};
use crate::server::user::UserLimits;
use crate::time::Timestamp;
use crate::wire::PushReason;

/// The parent and the child of a link.
pub type LinkKey = (ItemId, ItemId);

/// A link in the form of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The register: true if the link is present.
    pub register: LinkRegister,
    /// True if both ends have one owner. Other links are shortcuts, which are never walked.
    pub in_realm: bool,
}

/// Rows to load, each set in key order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Needs {
    /// Items to load, by id.
    pub items: BTreeSet<ItemId>,
    /// Link registers by parent and child.
    pub links: BTreeSet<LinkKey>,
    /// Grant registers by item and principal.
    pub grants: BTreeSet<(ItemId, Principal)>,
    /// Move registers by child and realm.
    pub moves: BTreeSet<(ItemId, UserId)>,
    /// Items whose present links (as parent and as child), grants and attachments are wanted.
    pub around: BTreeSet<ItemId>,
    /// Items whose present links to all ancestors in their realm are wanted.
    pub ancestors: BTreeSet<ItemId>,
    /// Items whose present grants are wanted.
    pub granted: BTreeSet<ItemId>,
    /// Items whose audience is wanted.
    pub access: BTreeSet<ItemId>,
    /// Groups and organizations whose members are wanted.
    pub members: BTreeSet<Principal>,
    /// The users wanted in audiences, members and blocks; `None` means everybody.
    pub among: Option<BTreeSet<UserId>>,
    /// Users whose groups and organizations are wanted.
    pub groups_of: BTreeSet<UserId>,
    /// Keys in the pushing user's feed whose marks are wanted.
    pub marks: BTreeSet<EntryKey>,
    /// The owners for whom the blocking users (of `among`) are wanted.
    pub blocks: BTreeSet<UserId>,
    /// The owners for whom the users (of `among`, which is given) are wanted to whom their grants
    /// give nothing yet.
    pub awaited: BTreeSet<UserId>,
    /// Items whose grants are to be counted.
    pub grant_counts: BTreeSet<ItemId>,
    /// Owners with users whose present grants of that owner are to be counted.
    pub user_grants: BTreeSet<(UserId, UserId)>,
}

impl Needs {
    /// Returns whether there is nothing to load.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
            && self.links.is_empty()
            && self.grants.is_empty()
            && self.moves.is_empty()
            && self.around.is_empty()
            && self.ancestors.is_empty()
            && self.granted.is_empty()
            && self.access.is_empty()
            && self.members.is_empty()
            && self.groups_of.is_empty()
            && self.marks.is_empty()
            && self.blocks.is_empty()
            && self.awaited.is_empty()
            && self.grant_counts.is_empty()
            && self.user_grants.is_empty()
    }

    pub(super) fn retain_missing(&mut self, rows: &Rows) {
        self.items.retain(|id| !rows.items.contains_key(id));
        self.links.retain(|key| !rows.links.contains_key(key));
        self.grants.retain(|key| !rows.grants.contains_key(key));
        self.moves.retain(|key| !rows.moves.contains_key(key));
        self.around.retain(|id| !rows.around.contains(id));
        self.ancestors.retain(|id| !rows.ancestors.contains(id));
        self.granted.retain(|id| !rows.granted.contains(id));
        self.access.retain(|id| !rows.access.contains_key(id));
        self.members.retain(|group| !rows.members.contains_key(group));
        self.groups_of.retain(|user| !rows.groups.contains_key(user));
        self.marks.retain(|key| !rows.marks.contains_key(key));
        self.blocks.retain(|owner| !rows.blocks.contains_key(owner));
        self.awaited.retain(|owner| !rows.awaited.contains_key(owner));
        self.grant_counts.retain(|id| !rows.grant_counts.contains_key(id));
        self.user_grants.retain(|key| !rows.user_grants.contains_key(key));
    }
}

/// The state of an owner's grants to a user who has not made a call since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Awaited {
    /// The grants have an effect.
    No,
    /// The user's next call gives them effect.
    Call,
    /// The grants have no effect: they would show more than one transaction may.
    Less,
}

/// The number of an item's grants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GrantCounts {
    /// The grants that are present; any number above [`limits::MAX_ITEM_GRANTS`] may stand for more.
    pub present: usize,
    /// The principals that were ever granted the item; any number above
    /// [`limits::MAX_ITEM_GRANTS_EVER`] may stand for more.
    pub ever: usize,
}

/// The rows that were loaded. A key with `None` was looked for and not found.
#[derive(Debug, Clone, Default)]
pub struct Rows {
    /// The greatest write id that the replica used.
    pub last_write_id: Option<WriteId>,
    /// Operations of the replica under the write ids of [`super::PushBatch::replayed`].
    pub accepted: std::collections::HashMap<WriteId, Accepted>,
    /// The last `changedAt` of the owner's feed for each realm involved.
    pub last_changed: Map<UserId, Timestamp>,
    /// The items, by id.
    pub items: Map<ItemId, Option<Item>>,
    /// The link registers, by parent and child.
    pub links: Map<LinkKey, Option<Link>>,
    /// The grant registers, by item and principal.
    pub grants: Map<(ItemId, Principal), Option<GrantRegister>>,
    /// The move registers, by child and realm.
    pub moves: Map<(ItemId, UserId), Option<MoveRegister>>,
    /// The attachments of the items in `around`: the current content and those of other kinds.
    pub attachments: Map<ItemId, Vec<Attachment>>,
    /// Items whose surroundings are loaded.
    pub around: Set<ItemId>,
    /// Items whose links upward are loaded.
    pub ancestors: Set<ItemId>,
    /// Items whose present grants are loaded.
    pub granted: Set<ItemId>,
    /// The audiences of items.
    pub access: Map<ItemId, Audience>,
    /// Members of groups and organizations.
    pub members: Map<Principal, BTreeSet<UserId>>,
    /// The groups and organizations of users.
    pub groups: Map<UserId, BTreeSet<Principal>>,
    /// The marks of entries that are present in the pushing user's feed.
    pub marks: Map<EntryKey, Option<Mark>>,
    /// The end of the pushing user's feed; `None` if the feed has no entry.
    pub tail: Option<Tail>,
    /// The users who block each owner: the owner's grants have no effect on them.
    pub blocks: Map<UserId, BTreeSet<UserId>>,
    /// The users to whom each owner's grants give nothing before their first call, or until a call
    /// of theirs has given these grants effect.
    pub awaited: Map<UserId, BTreeSet<UserId>>,
    /// The number of grants on items.
    pub grant_counts: Map<ItemId, GrantCounts>,
    /// The number of present grants of an owner to a user.
    pub user_grants: Map<(UserId, UserId), u64>,
    /// The usage of each realm involved.
    pub usage: Map<UserId, MetadataUsage>,
    /// The limits of their own that owners of locked realms have.
    pub limits: Map<UserId, UserLimits>,
    /// Users of locked realms who are being deleted: no push of theirs is applied.
    pub leaving: BTreeSet<UserId>,
    /// The realms that are locked: nothing in them changes but by this transaction.
    pub realms: BTreeSet<UserId>,
    /// The links, by child.
    above: Map<ItemId, Vec<LinkKey>>,
    /// The links, by parent.
    below: Map<ItemId, Vec<LinkKey>>,
    /// The principals of the grants on each item.
    grants_of: Map<ItemId, Vec<Principal>>,
}

/// Notes the keys that were asked for and not found.
fn note_missing<K: Hash + Eq, V: Default>(map: &mut Map<K, V>, asked: BTreeSet<K>) {
    for key in asked {
        map.entry(key).or_default();
    }
}

impl Rows {
    pub(super) fn item(&self, id: &ItemId) -> Option<&Item> {
        self.items.get(id)?.as_ref()
    }

    /// Adds the rows found for `needs`, and records the rest of `needs` as missing. Rows loaded
    /// before stay unchanged.
    pub fn absorb(&mut self, needs: Needs, found: Self) {
        self.items.reserve(found.items.len());
        self.links.reserve(found.links.len());
        self.above.reserve(found.links.len());
        self.access.reserve(found.access.len());
        for (id, item) in found.items {
            self.items.entry(id).or_insert(item);
        }
        note_missing(&mut self.items, needs.items);
        for (key, link) in found.links {
            self.add_link(key, link);
        }
        note_missing(&mut self.links, needs.links);
        for (key, grant) in found.grants {
            self.add_grant(key, grant);
        }
        note_missing(&mut self.grants, needs.grants);
        for (key, moved) in found.moves {
            self.moves.entry(key).or_insert(moved);
        }
        note_missing(&mut self.moves, needs.moves);
        self.attachments.extend(found.attachments);
        for (id, audience) in found.access {
            self.access.entry(id).or_default().extend(audience);
        }
        note_missing(&mut self.access, needs.access);
        self.members.extend(found.members);
        note_missing(&mut self.members, needs.members);
        self.groups.extend(found.groups);
        note_missing(&mut self.groups, needs.groups_of);
        for (key, mark) in found.marks {
            self.marks.insert(key, mark);
        }
        note_missing(&mut self.marks, needs.marks);
        self.blocks.extend(found.blocks);
        note_missing(&mut self.blocks, needs.blocks);
        self.awaited.extend(found.awaited);
        note_missing(&mut self.awaited, needs.awaited);
        self.grant_counts.extend(found.grant_counts);
        note_missing(&mut self.grant_counts, needs.grant_counts);
        self.user_grants.extend(found.user_grants);
        note_missing(&mut self.user_grants, needs.user_grants);
        self.granted.extend(needs.around.iter().cloned());
        self.around.extend(needs.around);
        self.granted.extend(needs.granted);
        self.ancestors.extend(needs.ancestors);
    }

    fn add_link(&mut self, key: LinkKey, link: Option<Link>) {
        if let Entry::Vacant(slot) = self.links.entry(key) {
            if link.is_some() {
                let (parent, child) = slot.key().clone();
                self.above.entry(child).or_default().push(slot.key().clone());
                self.below.entry(parent).or_default().push(slot.key().clone());
            }
            slot.insert(link);
        }
    }

    fn add_grant(&mut self, key: (ItemId, Principal), grant: Option<GrantRegister>) {
        if let Entry::Vacant(slot) = self.grants.entry(key) {
            if grant.is_some() {
                let (item, principal) = slot.key().clone();
                self.grants_of.entry(item).or_default().push(principal);
            }
            slot.insert(grant);
        }
    }

    /// Records that the database has no rows for a new item.
    pub(super) fn know_new_item(&mut self, id: &ItemId) {
        self.around.insert(id.clone());
        self.granted.insert(id.clone());
        self.access.entry(id.clone()).or_default();
    }

    /// Sets a link's register.
    pub(super) fn set_link(&mut self, key: LinkKey, link: Link) {
        match self.links.get_mut(&key) {
            Some(Some(held)) => *held = link,
            _ => {
                self.links.remove(&key);
                self.add_link(key, Some(link));
            }
        }
    }

    /// Sets a grant's register.
    pub(super) fn set_grant(&mut self, key: (ItemId, Principal), grant: GrantRegister) {
        match self.grants.get_mut(&key) {
            Some(Some(held)) => *held = grant,
            _ => {
                self.grants.remove(&key);
                self.add_grant(key, Some(grant));
            }
        }
    }

    /// The loaded links to an item's parents, present or not.
    pub(super) fn links_above(&self, id: &ItemId) -> &[LinkKey] {
        self.above.get(id).map_or(&[], Vec::as_slice)
    }

    /// The loaded links to an item's children, present or not.
    pub(super) fn links_below(&self, id: &ItemId) -> &[LinkKey] {
        self.below.get(id).map_or(&[], Vec::as_slice)
    }

    /// Returns whether the link is present.
    pub(super) fn is_linked(&self, key: &LinkKey) -> bool {
        self.links.get(key).is_some_and(|l| l.as_ref().is_some_and(|l| l.register.value))
    }

    /// The item's parents in its realm, deleted ones included.
    pub(super) fn parents(&self, id: &ItemId) -> impl Iterator<Item = &ItemId> {
        self.links_above(id).iter().filter(|key| self.is_in_realm(key)).map(|(parent, _)| parent)
    }

    /// Returns the items that hang under the item in its realm, deleted ones included.
    pub(super) fn children(&self, id: &ItemId) -> impl Iterator<Item = &ItemId> {
        self.links_below(id).iter().filter(|key| self.is_in_realm(key)).map(|(_, child)| child)
    }

    /// Returns whether the link is present and not a shortcut.
    fn is_in_realm(&self, key: &LinkKey) -> bool {
        let link = self.links.get(key).and_then(Option::as_ref);
        link.is_some_and(|link| link.in_realm && link.register.value)
    }

    /// The item and all its ancestors in its realm, by any path, deleted ones included.
    pub(super) fn lineage<'a>(&'a self, id: &'a ItemId) -> Set<&'a ItemId> {
        let mut seen = Set::from_iter([id]);
        let mut open = vec![id];
        while let Some(at) = open.pop() {
            open.extend(self.parents(at).filter(|parent| seen.insert(parent)));
        }
        seen
    }

    /// Returns all principals that an item was ever granted to, as far as they are loaded.
    pub(super) fn grants_to(&self, id: &ItemId) -> &[Principal] {
        self.grants_of.get(id).map_or(&[], Vec::as_slice)
    }

    /// Returns the present grants on an item.
    pub(super) fn grants_on(&self, id: &ItemId) -> impl Iterator<Item = (&Principal, AccessLevel)> {
        self.grants_to(id).iter().filter_map(|principal| {
            let grant = self.grants.get(&(id.clone(), principal.clone()))?.as_ref()?;
            Some((principal, grant.value?))
        })
    }

    /// Returns whether `user` is loaded as one who blocks `owner`.
    pub(super) fn is_blocked(&self, user: &UserId, owner: &UserId) -> bool {
        self.blocks.get(owner).is_some_and(|users| users.contains(user))
    }

    /// Returns whether the grants of `owner` give `user` nothing yet, if that is loaded.
    pub(super) fn is_awaited(&self, user: &UserId, owner: &UserId) -> bool {
        self.awaited.get(owner).is_some_and(|users| users.contains(user))
    }

    /// A link's visibility depends on both its ends.
    pub(super) fn add_ends_of_links(&self, needs: &mut Needs) {
        let present = self.links.iter().filter(|(_, link)| link.is_some());
        for ((parent, child), _) in present {
            needs.items.insert(parent.clone());
            needs.items.insert(child.clone());
        }
    }
}

/// An operation that used up its write id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The id of the operation.
    pub op_id: OpId,
    /// The digest of the operation, [`crate::operation::Operation::digest`].
    pub digest: [u8; 32],
    /// The outcome of the operation.
    pub outcome: Outcome,
}

/// The outcome of an operation whose write id is at most its replica's last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The operation was applied with this time.
    Applied(Timestamp),
    /// The operation was superseded: [`PushReason::Superseded`] or [`PushReason::Cycle`].
    Outdated(PushReason),
    /// The operation was rejected before a later one of its push used up a higher write id.
    Refused(PushReason),
}

/// A row for `accepted_ops`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptedOp {
    /// The write id under which the operation was accepted.
    pub write_id: WriteId,
    /// The operation that was accepted.
    pub accepted: Accepted,
}

/// The row changes of a transaction, in key order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Changes {
    /// The changed items, in their new state.
    pub items: BTreeMap<ItemId, Item>,
    /// The ids of the new items among them; a conflict means that another transaction took the id.
    pub new_items: BTreeSet<ItemId>,
    /// The changed link registers, in their new state.
    pub links: BTreeMap<LinkKey, Link>,
    /// The changed grant registers, in their new state.
    pub grants: BTreeMap<(ItemId, Principal), GrantRegister>,
    /// By how much the number of present grants of an owner to a user changed.
    pub user_grants: BTreeMap<(UserId, UserId), i64>,
    /// By how much what each realm holds changed.
    pub usage: BTreeMap<UserId, UsageChange>,
    /// Owners with users whose grants wait for a call of the user, or no longer do.
    pub awaited: BTreeMap<(UserId, UserId), Awaited>,
    /// Move registers as they are now.
    pub moves: BTreeMap<(ItemId, UserId), MoveRegister>,
    /// Items that were deleted (`true`), or brought back (`false`).
    pub trash: BTreeMap<ItemId, bool>,
    /// Operations that used up a write id, ascending.
    pub accepted: Vec<AcceptedOp>,
    /// The greatest write id of `accepted`.
    pub last_write_id: Option<WriteId>,
    /// The changed levels of users on items, in key order; `None` removes a user's access.
    pub access: BTreeMap<ItemId, BTreeMap<UserId, Option<AccessLevel>>>,
    /// The entries for each user's feed, in this order.
    pub feed: BTreeMap<UserId, Vec<Addition>>,
    /// The rest of the change, decided and written after these in the same transaction.
    pub rest: Option<Box<Rest>>,
}

/// An entry for the end of a feed, which replaces the row with the same key.
#[derive(Debug, Clone, PartialEq)]
pub struct Addition {
    /// The entry to append.
    pub body: EntryBody,
    /// The author of the change.
    pub cause: Cause,
}

/// The author of the change that an entry shows; deletions by the feed's reader depend on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// A change by this replica of the feed's user.
    Replica(ReplicaId),
    /// A change by anybody else, or one that made the subject visible.
    Another,
    /// The subject itself is unchanged: the reader's level changed, or an item that it belongs to
    /// appeared or disappeared. A link whose child came back is changed.
    Same,
}

impl Cause {
    /// The replica of the feed's user, if the change was made by one.
    #[must_use]
    pub fn replica(&self) -> Option<&ReplicaId> {
        match self {
            Self::Replica(replica) => Some(replica),
            Self::Another | Self::Same => None,
        }
    }
}

/// The last changes to a feed's row by the reader's replicas and by others, so that a reader's own
/// write never hides somebody else's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mark {
    /// The replica of the feed's user that made the newest change; `None` if another user or the
    /// server made it.
    pub replica: Option<ReplicaId>,
    /// The position of the newest change.
    pub change: u64,
    /// The position of the newest change not made by `replica`; 0 if there is none.
    pub other: u64,
}

impl Mark {
    /// Returns the position of the newest change not made by `replica`.
    #[must_use]
    pub fn by_others(&self, replica: &ReplicaId) -> u64 {
        if self.replica.as_ref() == Some(replica) { self.other } else { self.change }
    }

    /// Returns the mark of a row with the mark `before`, after an entry was added at `position`.
    #[must_use]
    pub fn after(before: Option<&Self>, cause: &Cause, position: u64) -> Self {
        if let (Cause::Same, Some(before)) = (cause, before) {
            return before.clone();
        }
        let replica = cause.replica().cloned();
        let other = match before {
            None => 0,
            Some(before) if before.replica == replica => before.other,
            Some(before) => before.change,
        };
        Self { replica, change: position, other }
    }

    /// The cause of several additions together: a replica, if it caused all of them.
    #[must_use]
    pub fn cause_of(additions: &[Addition]) -> Cause {
        let mut causes = additions.iter().map(|one| &one.cause);
        match causes.next() {
            Some(first @ Cause::Replica(_)) if causes.all(|cause| cause == first) => first.clone(),
            _ => Cause::Another,
        }
    }
}

/// The end of a feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tail {
    /// The feed's epochs, ascending, each with its last counter.
    pub history: Vec<(Epoch, u64)>,
    /// The combined marks of all rows of the feed: an upper bound of each.
    pub mark: Mark,
}

impl Tail {
    /// Returns whether the epoch of `basis` is part of the history.
    #[must_use]
    pub fn knows(&self, basis: &Basis) -> bool {
        let Basis::At(cursor) = basis else { return true };
        Position::parse(&cursor.change_id)
            .is_none_or(|position| self.history.iter().any(|(epoch, _)| *epoch == position.epoch))
    }

    /// Adds the feed's epochs before that of its head; before this call the history has the head's
    /// alone.
    pub fn take_history(&mut self, starts: Vec<EpochStart>) {
        let Some((epoch, counter)) = self.history.last().copied() else { return };
        let head = Head { epoch, counter, changed_at: Timestamp::MIN, pruned: None };
        let ends = History::new(head, starts).ends();
        self.history = ends.into_iter().map(|end| (end.epoch, end.last_counter)).collect();
    }

    /// The last position of this feed that a write with `basis` has surely seen; 0 is its start.
    ///
    /// A basis of an epoch that the feed does not have, or that no server made, counts as the
    /// start; a basis beyond an epoch's last position counts as that position.
    #[must_use]
    pub fn seen(&self, basis: &Basis) -> u64 {
        let Basis::At(cursor) = basis else { return 0 };
        let Some(position) = Position::parse(&cursor.change_id) else { return 0 };
        let last = self.history.iter().find(|(epoch, _)| *epoch == position.epoch);
        last.map_or(0, |(_, last)| position.counter.min(*last))
    }
}

/// The head of a feed, held under its lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The epoch of the last position.
    pub epoch: Epoch,
    /// The last position taken; 0 if none was taken.
    pub counter: u64,
    /// The time of the head's position.
    pub changed_at: Timestamp,
    /// The greatest position whose entry was pruned, and its time.
    pub pruned: Option<(u64, Timestamp)>,
}

impl Head {
    /// The cursor of the last position; `None` if no position was taken.
    #[must_use]
    pub fn cursor(&self) -> Option<Cursor> {
        (self.counter > 0)
            .then(|| Position { epoch: self.epoch, counter: self.counter }.at(self.changed_at))
    }

    /// Takes positions for `count` entries in the epoch `present`, all at the head's new time. The
    /// positions never precede the head's epoch.
    pub fn advance(&mut self, count: usize, now: Timestamp, present: Epoch) -> Places {
        let first = self.counter + 1;
        let mut begins = false;
        if count > 0 {
            begins = self.counter == 0 || present > self.epoch;
            self.epoch = if self.counter == 0 { present } else { self.epoch.max(present) };
            self.counter += count as u64;
            self.changed_at = self.changed_at.max(now);
        }
        Places { first, begins }
    }
}

/// Positions that were taken in a feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Places {
    /// The counter of the first position taken.
    pub first: u64,
    /// True if this is the feed's first position in its epoch.
    pub begins: bool,
}

/// A feed entry with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedEntry {
    /// The encoded key, [`crate::entry::EntryKey::to_bytes`].
    pub key: Vec<u8>,
    /// The counter of the entry's position.
    pub counter: u64,
    /// The entry, as [`EntryBody::to_stored_json`] encodes it.
    pub json: String,
    /// True if retention may prune the row.
    pub removal: bool,
    /// The author of the change.
    pub cause: Cause,
}

impl PlacedEntry {
    /// Creates the entry for a position that [`Head::advance`] took.
    #[must_use]
    pub fn new(addition: &Addition, counter: u64) -> Self {
        let entry = &addition.body;
        Self {
            cause: addition.cause.clone(),
            key: entry.change.key().to_bytes(),
            counter,
            json: entry.to_stored_json(),
            removal: entry.change.is_removal(),
        }
    }
}
