//! The reference for all checks: the protocol's rules, stated as simply as possible over plain
//! maps. It receives every transaction in the order of the commits, returns the required answer,
//! and computes at any time what each user may see.
//!
//! It is deliberately slow and independent: it shares only value types with the product.

mod contents;
mod feeds;
mod push;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use vfs_sync_core::access::{AccessLevel, Principal, PrincipalType};
use vfs_sync_core::id::{ItemId, OpId, ReplicaId, UserId};
use vfs_sync_core::item::{Name, ObjectType};
use vfs_sync_core::operation::Operation;
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::{PushReason, PushStatus, ReconcileState};

pub(crate) use contents::{Refused, StageModel};
pub(crate) use feeds::Commit;
pub(crate) use push::Expected;
pub(crate) use view::View;

/// The time and author of a write, compared in this order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stamp {
    at: i64,
    user: UserId,
    replica: ReplicaId,
    write_id: u64,
}

#[derive(Debug, Clone)]
struct Register<T> {
    value: T,
    stamp: Stamp,
}

/// A write in the form in which the server compares it.
struct Write {
    stamp: Stamp,
    latest: i64,
}

impl Write {
    fn beats<T>(&self, held: Option<&Register<T>>) -> bool {
        held.is_none_or(|held| held.stamp < self.stamp)
    }

    /// Sets a register regardless of its stamp, a moment later than that stamp if necessary;
    /// returns the register's new time.
    fn force<T>(&self, slot: &mut Option<Register<T>>, value: T) -> i64 {
        let mut stamp = Stamp { at: self.stamp.at.min(self.latest), ..self.stamp.clone() };
        if let Some(held) = slot.as_ref().filter(|held| held.stamp >= stamp) {
            stamp.at = held.stamp.at + 1;
        }
        let at = stamp.at;
        *slot = Some(Register { value, stamp });
        at
    }

    /// Sets a register if the write is later; returns the register's new time.
    fn set<T>(&self, slot: &mut Option<Register<T>>, value: T) -> Option<i64> {
        if !self.beats(slot.as_ref()) {
            return None;
        }
        let mut stamp = Stamp { at: self.stamp.at.min(self.latest), ..self.stamp.clone() };
        if let Some(held) = slot.as_ref().filter(|held| held.stamp >= stamp) {
            stamp.at = (held.stamp.at + 1).min(self.stamp.at);
        }
        let at = stamp.at;
        *slot = Some(Register { value, stamp });
        Some(at)
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Item {
    owner: UserId,
    created_at: i64,
    object_type: Option<Register<ObjectType>>,
    name: Option<Register<Name>>,
    metadata: BTreeMap<Arc<str>, Register<Option<serde_json::Value>>>,
    deleted: Option<Register<bool>>,
    /// Every name that the item ever had, in the order of the commits.
    names: Vec<Name>,
}

impl Item {
    fn is_dead(&self) -> bool {
        self.deleted.as_ref().is_some_and(|deleted| deleted.value)
    }
}

/// The outcome of an operation, for its retries.
#[derive(Debug, Clone)]
struct Accepted {
    operation: Operation,
    status: PushStatus,
    reason: Option<PushReason>,
    authored_at: Option<i64>,
    /// The time of the server's clock when it was accepted.
    taken_at: Timestamp,
}

type Child = ItemId;
type Parent = ItemId;

/// The required state of the server.
#[derive(Debug, Clone, Default)]
pub(crate) struct Model {
    items: BTreeMap<ItemId, Item>,
    links: BTreeMap<(Child, Parent), Register<bool>>,
    grants: BTreeMap<(ItemId, Principal), Register<Option<AccessLevel>>>,
    moves: BTreeMap<(Child, UserId), Register<Parent>>,
    members: BTreeSet<(Principal, UserId)>,
    /// The pairs of user and blocked owner.
    blocks: BTreeSet<(UserId, UserId)>,
    /// The users who were ever members of a principal.
    joined: BTreeSet<(Principal, UserId)>,
    last: BTreeMap<(UserId, ReplicaId), u64>,
    accepted: BTreeMap<(UserId, ReplicaId, u64), Accepted>,
    /// The applied operations, by their ids.
    applied: BTreeMap<OpId, (UserId, ReplicaId, u64)>,
    /// The operations that were superseded.
    outdated: BTreeSet<OpId>,
    contents: contents::Contents,
    feeds: feeds::Feeds,
    /// The items that came back in the last transaction, even if it deleted them again.
    returned: BTreeSet<ItemId>,
    reconciled: BTreeMap<(UserId, ReplicaId), ReconcileState>,
}

impl Model {
    /// Returns whether an item exists and is not deleted.
    pub(crate) fn is_live(&self, id: &ItemId) -> bool {
        self.items.get(id).is_some_and(|item| !item.is_dead())
    }

    pub(crate) fn owner(&self, id: &ItemId) -> Option<&UserId> {
        self.items.get(id).map(|item| &item.owner)
    }

    fn names(&self, principal: &Principal, user: &UserId) -> bool {
        match principal.kind {
            PrincipalType::User => principal.id.as_str() == user.as_str(),
            _ => self.members.contains(&(principal.clone(), user.clone())),
        }
    }

    /// Returns the containers of an item, deleted ones included.
    fn parents(&self, id: &ItemId) -> impl Iterator<Item = &ItemId> {
        let (from, id) = ((id.clone(), first_id()), id.clone());
        let all = self.links.range(from..);
        all.take_while(move |((child, _), _)| *child == id)
            .filter(|(_, link)| link.value)
            .map(|((_, parent), _)| parent)
    }

    fn grants_on(&self, id: &ItemId) -> impl Iterator<Item = (&Principal, AccessLevel)> {
        let (from, id) = ((id.clone(), first_principal()), id.clone());
        let all = self.grants.range(from..);
        all.take_while(move |((item, _), _)| *item == id)
            .filter_map(|((_, principal), grant)| Some((principal, grant.value?)))
    }

    /// Returns an item and all its ancestors in its realm; with `dead`, through deleted ones too.
    fn lineage(&self, id: &ItemId, dead: bool) -> BTreeSet<ItemId> {
        let mut all = BTreeSet::new();
        let mut open = vec![id.clone()];
        while let Some(at) = open.pop() {
            let Some(item) = self.items.get(&at) else { continue };
            if (!dead && item.is_dead()) || !all.insert(at.clone()) {
                continue;
            }
            let above = self.parents(&at).filter(|parent| self.owner(parent) == Some(&item.owner));
            open.extend(above.cloned());
        }
        all
    }

    /// Returns the level of `user` on an item; with `dead`, as if nothing were deleted.
    pub(crate) fn level(&self, user: &UserId, id: &ItemId, dead: bool) -> Option<AccessLevel> {
        let item = self.items.get(id).filter(|item| dead || !item.is_dead())?;
        if item.owner == *user {
            return Some(AccessLevel::Admin);
        }
        if self.is_blocked(user, &item.owner) {
            return None;
        }
        let lineage = self.lineage(id, dead);
        let grants = lineage.iter().flat_map(|at| self.grants_on(at));
        grants.filter(|(to, _)| self.names(to, user)).map(|(_, level)| level).max()
    }

    /// Returns whether `user` can ever have seen an item: as its owner, or by a grant to the user,
    /// or to a group that they were in, on the item or on one of its containers at some time. Feeds
    /// of other users must not contain it.
    pub(crate) fn can_have_seen(&self, user: &UserId, id: &ItemId) -> bool {
        if self.owner(id) == Some(user) {
            return true;
        }
        let named = |principal: &Principal| match principal.kind {
            PrincipalType::User => principal.id.as_str() == user.as_str(),
            _ => self.joined.contains(&(principal.clone(), user.clone())),
        };
        let (mut all, mut open) = (BTreeSet::new(), vec![id]);
        while let Some(at) = open.pop() {
            let grants = self.grants.range((at.clone(), first_principal())..);
            if grants.take_while(|((on, _), _)| on == at).any(|((_, to), _)| named(to)) {
                return true;
            }
            if all.insert(at) {
                let links = self.links.range((at.clone(), first_id())..);
                let above = links.take_while(|((child, _), _)| child == at);
                let above = above.map(|((_, parent), _)| parent);
                open.extend(above.filter(|parent| self.in_realm(at, parent)));
            }
        }
        false
    }

    /// Returns whether a link is part of a tree, rather than a shortcut.
    fn in_realm(&self, child: &ItemId, parent: &ItemId) -> bool {
        self.owner(child).is_some_and(|owner| self.owner(parent) == Some(owner))
    }

    pub(crate) fn set_member(&mut self, group: &Principal, member: &UserId, present: bool) {
        let key = (group.clone(), member.clone());
        if present {
            self.joined.insert(key.clone());
            self.members.insert(key);
        } else {
            self.members.remove(&key);
        }
    }

    /// Returns whether `user` blocks `owner`: the user then sees no item of the owner's.
    fn is_blocked(&self, user: &UserId, owner: &UserId) -> bool {
        self.blocks.contains(&(user.clone(), owner.clone()))
    }

    pub(crate) fn set_block(&mut self, user: &UserId, owner: &UserId, blocked: bool) {
        let key = (user.clone(), owner.clone());
        if blocked {
            self.blocks.insert(key);
            let of_owner = self.items.iter().filter(|(_, item)| item.owner == *owner);
            let hidden: Vec<ItemId> = of_owner.map(|(id, _)| id.clone()).collect();
            self.feeds.hide(user, hidden);
        } else {
            self.blocks.remove(&key);
        }
    }

    /// Applies a reconcile that the server accepted.
    pub(crate) fn reconcile(&mut self, user: &UserId, client: &ReplicaId, state: ReconcileState) {
        self.reconciled.insert((user.clone(), client.clone()), state);
    }

    pub(crate) fn reconciled(&self, user: &UserId, client: &ReplicaId) -> Option<&ReconcileState> {
        self.reconciled.get(&(user.clone(), client.clone()))
    }

    /// Returns every reconcile state that the server keeps for a user, with its client.
    pub(crate) fn reconciled_of(
        &self,
        user: &UserId,
    ) -> impl Iterator<Item = (&ReplicaId, &ReconcileState)> {
        let all = self.reconciled.iter().filter(move |((of, _), _)| of == user);
        all.map(|((_, client), state)| (client, state))
    }

    /// Returns the last write id that a replica used.
    pub(crate) fn last_write_id(&self, user: &UserId, replica: &ReplicaId) -> Option<u64> {
        self.last.get(&(user.clone(), replica.clone())).copied()
    }

    /// Returns the index of a name among those that an item had; `None` if it never had it.
    pub(crate) fn name_index(&self, id: &ItemId, name: &Name) -> Option<usize> {
        self.items.get(id)?.names.iter().rposition(|one| one == name)
    }

    /// Returns the stamp of an item's name, if the item still has that name.
    pub(crate) fn stamp_of_name(&self, id: &ItemId, name: &Name) -> Option<&Stamp> {
        let held = self.items.get(id)?.name.as_ref()?;
        (held.value == *name).then_some(&held.stamp)
    }

    /// Returns the names that items had which they do not have in another model.
    pub(crate) fn names_not_in(&self, other: &Self) -> Vec<(ItemId, Name)> {
        let named =
            self.items.iter().flat_map(|(id, item)| item.names.iter().map(move |n| (id, n)));
        let lost = named.filter(|(id, name)| other.name_index(id, name).is_none());
        lost.map(|(id, name)| (id.clone(), name.clone())).collect()
    }

    /// Returns whether `stamp` belongs to a register that an applied operation set.
    pub(crate) fn is_stamp_of(&self, op_id: &OpId, stamp: &Stamp) -> bool {
        let applied = self.applied.get(op_id);
        applied.is_some_and(|(user, replica, write_id)| {
            (&stamp.user, &stamp.replica, stamp.write_id) == (user, replica, *write_id)
        })
    }

    /// Removes operations accepted before a time, of each replica from its first one on; returns
    /// their number.
    pub(crate) fn prune_accepted(&mut self, before: Timestamp) -> u64 {
        let all = self.accepted.len();
        let mut kept: Option<(UserId, ReplicaId)> = None;
        self.accepted.retain(|(user, replica, _), accepted| {
            let whose = Some((user.clone(), replica.clone()));
            if accepted.taken_at >= before {
                kept.clone_from(&whose);
            }
            kept == whose
        });
        (all - self.accepted.len()) as u64
    }

    /// Returns the write id under which an operation was applied.
    pub(crate) fn applied_as(&self, op_id: &OpId) -> Option<u64> {
        self.applied.get(op_id).map(|(_, _, write_id)| *write_id)
    }

    pub(crate) fn was_applied(&self, op_id: &OpId) -> bool {
        self.applied.contains_key(op_id)
    }

    pub(crate) fn was_outdated(&self, op_id: &OpId) -> bool {
        self.outdated.contains(op_id)
    }

    /// Returns an item that contains itself through its tree, if there is one; links of deleted
    /// items count.
    pub(crate) fn cycle(&self) -> Option<ItemId> {
        self.items.keys().find(|start| self.is_under(start, start)).cloned()
    }

    /// Returns whether a tree contains a cycle through `id`.
    pub(crate) fn is_in_cycle(&self, id: &ItemId) -> bool {
        self.is_under(id, id)
    }

    /// Returns whether `low` is somewhere under `high`.
    fn is_under(&self, low: &ItemId, high: &ItemId) -> bool {
        let mut seen = BTreeSet::new();
        let mut open = vec![low.clone()];
        while let Some(at) = open.pop() {
            for parent in self.parents(&at).filter(|parent| self.in_realm(&at, parent)) {
                if parent == high {
                    return true;
                }
                if seen.insert(parent.clone()) {
                    open.push(parent.clone());
                }
            }
        }
        false
    }
}

pub(crate) fn millis(time: Timestamp) -> i64 {
    time.as_millis()
}

fn first_id() -> ItemId {
    ItemId::new("\u{21}").expect("an id")
}

fn first_principal() -> Principal {
    let id = vfs_sync_core::id::PrincipalId::new("\u{21}").expect("an id");
    Principal { kind: PrincipalType::User, id }
}
