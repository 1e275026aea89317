//! The required result of each operation of a push.

use std::collections::BTreeSet;

use vfs_sync_core::access::{AccessLevel, Principal, PrincipalType};
use vfs_sync_core::id::{ItemId, ReplicaId, UserId};
use vfs_sync_core::operation::{Action, Operation, Upsert};
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::{AttachRequest, PushReason, PushResult, PushStatus};

use super::{Accepted, Item, Model, Stamp, Write, millis};

/// The greatest lead over the server's clock that is accepted, in milliseconds.
const BELIEVED: i64 = 60_000;

/// The required answer to an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) status: PushStatus,
    pub(crate) reason: Option<PushReason>,
    pub(crate) authored_at: Option<i64>,
    pub(crate) last_write_id: Option<u64>,
}

impl Expected {
    fn bare(status: PushStatus) -> Self {
        Self { status, reason: None, authored_at: None, last_write_id: None }
    }

    pub(crate) fn got(result: &PushResult) -> Self {
        Self {
            status: result.status,
            reason: result.reason,
            authored_at: result.authored_at.map(millis),
            last_write_id: result.last_write_id.map(|id| id.get()),
        }
    }
}

/// The reason why an operation sets nothing, and whether its write id is used up.
struct Refusal(PushReason, bool);

const SUPERSEDED: Refusal = Refusal(PushReason::Superseded, true);

fn invalid(reason: PushReason) -> Refusal {
    Refusal(reason, false)
}

type Outcome<T> = Result<T, Refusal>;

impl Model {
    /// Returns the deleted folders that the items `asked` need because they have no live container:
    /// their deleted containers, and so on upwards, as far as `take` accepts them.
    fn dead_above(
        &self,
        asked: &BTreeSet<ItemId>,
        take: impl Fn(&ItemId) -> bool,
    ) -> BTreeSet<ItemId> {
        let mut found = BTreeSet::new();
        let mut open: Vec<&ItemId> = asked.iter().collect();
        while let Some(at) = open.pop() {
            let above: Vec<&ItemId> =
                self.parents(at).filter(|above| self.in_realm(at, above)).collect();
            let alive = |id: &ItemId| asked.contains(id) || !self.items[id].is_dead();
            if above.iter().any(|id| alive(id)) {
                continue;
            }
            for id in above {
                if take(id) && found.insert(id.clone()) {
                    open.push(id);
                }
            }
        }
        found
    }

    fn come_back(&mut self, items: BTreeSet<ItemId>, write: &Write) {
        for id in items {
            if let Some(item) = self.items.get_mut(&id) {
                write.force(&mut item.deleted, false);
                self.returned.insert(id);
            }
        }
    }

    /// Brings back the item of an attach with a basis, and the folders that it then needs.
    pub(super) fn come_back_by_attach(
        &mut self,
        user: &UserId,
        request: &AttachRequest,
        now: Timestamp,
        believed: Timestamp,
    ) {
        let may = |id: &ItemId| self.level(user, id, true) >= Some(AccessLevel::Write);
        let mut back = BTreeSet::from([request.item_id.clone()]);
        back.extend(self.dead_above(&back, may));
        let replica = request.replica_id.as_ref().or(request.client_id.as_ref());
        let server = || ReplicaId::new("server").expect("an id");
        let stamp = Stamp {
            at: millis(request.occurred_at.unwrap_or(now)),
            user: user.clone(),
            replica: replica.cloned().unwrap_or_else(server),
            write_id: 1,
        };
        let latest = millis(believed) + BELIEVED;
        self.come_back(back, &Write { stamp, latest });
    }

    /// Applies a push of well-formed operations; returns the required answer. `now` is the server's
    /// clock; `last_changed` returns the time of the last change of a user's feed. `look` is called
    /// with each operation and the state before it.
    pub(crate) fn push(
        &mut self,
        user: &UserId,
        replica: &ReplicaId,
        operations: &[Operation],
        now: Timestamp,
        last_changed: &dyn Fn(&UserId) -> Option<Timestamp>,
        mut look: impl FnMut(&Model, &Operation),
    ) -> Vec<Expected> {
        self.returned.clear();
        let refused = Vec::new();
        let taken = BTreeSet::new();
        let mut push = Push { model: self, user, replica, now, last_changed, refused, taken };
        let mut stale = false;
        let mut expected = Vec::with_capacity(operations.len());
        for op in operations {
            look(push.model, op);
            let one = if stale { push.stale() } else { push.operation(op) };
            stale |= one.status == PushStatus::StaleWriteId;
            expected.push(one);
        }
        expected
    }
}

struct Push<'a> {
    model: &'a mut Model,
    user: &'a UserId,
    replica: &'a ReplicaId,
    now: Timestamp,
    last_changed: &'a dyn Fn(&UserId) -> Option<Timestamp>,
    /// The operations rejected in this push so far, with no later write id used yet.
    refused: Vec<(u64, Accepted)>,
    /// Ids under which this push would have created an item, and that belong to items elsewhere.
    taken: BTreeSet<ItemId>,
}

impl Push<'_> {
    fn last(&self) -> Option<u64> {
        self.model.last_write_id(self.user, self.replica)
    }

    fn stale(&self) -> Expected {
        Expected { last_write_id: self.last(), ..Expected::bare(PushStatus::StaleWriteId) }
    }

    /// Returns whether an operation names an item of another tree that its author creates. An item is
    /// created in its parent's tree, or in its author's. If the id belongs to another tree, it is not
    /// created, and no later operation of the push reaches that item instead.
    fn goes_elsewhere(&mut self, op: &Operation) -> bool {
        let mut elsewhere = self.taken.contains(&op.item_id)
            || op.parent().is_some_and(|parent| self.taken.contains(parent));
        if let Action::Upsert(upsert) = &op.action
            && upsert.object_type.is_some()
        {
            let above = upsert.parent.as_ref();
            let above = above.and_then(|parent| self.needs(parent, AccessLevel::Read).ok());
            let owner = above.unwrap_or_else(|| self.user.clone());
            let there = self.model.items.get(&op.item_id);
            elsewhere |= there.is_some_and(|item| item.owner != owner);
            if elsewhere {
                self.taken.insert(op.item_id.clone());
            }
        }
        elsewhere
    }

    fn operation(&mut self, op: &Operation) -> Expected {
        let elsewhere = self.goes_elsewhere(op);
        let key = (self.user.clone(), self.replica.clone(), op.write_id.get());
        if self.last().is_some_and(|last| key.2 <= last) {
            let before = self.model.accepted.get(&key).filter(|before| before.operation == *op);
            let Some(before) = before else { return self.stale() };
            let status = match before.status {
                PushStatus::Applied => PushStatus::AlreadyApplied,
                other => other,
            };
            let (reason, authored_at) = (before.reason, before.authored_at);
            return Expected { reason, authored_at, ..Expected::bare(status) };
        }
        let outcome =
            if elsewhere { Err(invalid(PushReason::NotPermitted)) } else { self.apply(op) };
        let (status, reason, authored_at) = match outcome {
            Ok(at) => (PushStatus::Applied, None, Some(at)),
            Err(Refusal(reason, true)) => (PushStatus::OutdatedOp, Some(reason), None),
            Err(Refusal(reason, false)) => (PushStatus::InvalidOp, Some(reason), None),
        };
        let (operation, taken_at) = (op.clone(), self.now);
        let accepted = Accepted { operation, status, reason, authored_at, taken_at };
        if status == PushStatus::InvalidOp {
            self.refused.push((key.2, accepted));
            return Expected { reason, ..Expected::bare(status) };
        }
        self.model.last.insert((self.user.clone(), self.replica.clone()), key.2);
        if status == PushStatus::Applied {
            self.model.applied.insert(op.op_id.clone(), key.clone());
        } else {
            self.model.outdated.insert(op.op_id.clone());
        }
        // The rejected operations before it in the push keep this answer from now on.
        for (write_id, refused) in std::mem::take(&mut self.refused) {
            let key = (self.user.clone(), self.replica.clone(), write_id);
            self.model.accepted.insert(key, refused);
        }
        self.model.accepted.insert(key, accepted);
        Expected { reason, authored_at, ..Expected::bare(status) }
    }

    fn write(&self, op: &Operation, realm: &UserId) -> Write {
        let believed = (self.last_changed)(realm).map_or(self.now, |last| last.max(self.now));
        Write {
            stamp: Stamp {
                at: millis(op.occurred_at),
                user: self.user.clone(),
                replica: op.replica_id.clone(),
                write_id: op.write_id.get(),
            },
            latest: millis(believed) + BELIEVED,
        }
    }

    fn needs(&self, id: &ItemId, level: AccessLevel) -> Outcome<UserId> {
        match self.model.level(self.user, id, true) {
            None => Err(invalid(PushReason::UnknownItem)),
            Some(has) if has < level => Err(invalid(PushReason::NotPermitted)),
            Some(_) => Ok(self.model.items[id].owner.clone()),
        }
    }

    fn apply(&mut self, op: &Operation) -> Outcome<i64> {
        let id = &op.item_id;
        match &op.action {
            Action::Upsert(upsert) if !self.model.items.contains_key(id) => self.create(op, upsert),
            Action::Upsert(upsert) => self.edit(op, upsert),
            Action::Delete => self.delete(op),
            Action::GrantAdd { principal, level } => self.grant(op, principal, Some(*level)),
            Action::GrantRemove { principal } => self.grant(op, principal, None),
            Action::LinkAdd { parent } => self.link(op, parent),
            Action::LinkRemove { parent } => self.unlink(op, parent),
            Action::LinkReassign { parent } => self.reassign(op, parent),
        }
    }

    /// Returns the owner of an item that the user may delete: as its admin, or as a writer of all
    /// its containers.
    fn deletable(&self, id: &ItemId) -> Outcome<UserId> {
        let owner = self.needs(id, AccessLevel::Write)?;
        let mut parents = self.model.parents(id).filter(|above| self.model.in_realm(id, above));
        let writes = |above: &ItemId| self.needs(above, AccessLevel::Write).is_ok();
        let by_parents = parents.next().is_some_and(writes) && parents.all(writes);
        if by_parents { Ok(owner) } else { self.needs(id, AccessLevel::Admin) }
    }

    fn delete(&mut self, op: &Operation) -> Outcome<i64> {
        let id = &op.item_id;
        let write = self.write(op, &self.deletable(id)?);
        let is_dead = self.model.items[id].is_dead();
        let Some(basis) = &op.basis else {
            let item = self.model.items.get_mut(id).expect("it is there");
            return write.set(&mut item.deleted, true).ok_or(SUPERSEDED);
        };
        if !is_dead && self.model.is_unseen(self.user, self.replica, id, basis) {
            // An item that stays keeps its folders, if the same replica deleted them.
            let by_this = |above: &ItemId| {
                let deleted = self.model.items[above].deleted.as_ref();
                deleted.is_some_and(|one| {
                    one.stamp.user == *self.user && one.stamp.replica == *self.replica
                })
            };
            let above = self.model.dead_above(&BTreeSet::from([id.clone()]), |above| {
                by_this(above) && self.needs(above, AccessLevel::Write).is_ok()
            });
            self.come_back(op, above);
            return Err(Refusal(PushReason::Unseen, true));
        }
        let item = self.model.items.get_mut(id).expect("it is there");
        Ok(write.force(&mut item.deleted, true))
    }

    /// Brings back the items that an operation with a basis revives: the deleted items of `asked`,
    /// and the deleted folders above them.
    fn bring_back(&mut self, op: &Operation, asked: &[&ItemId]) {
        if op.basis.is_none() {
            return;
        }
        let may = |id: &ItemId| self.needs(id, AccessLevel::Write).is_ok();
        let dead = asked.iter().filter(|id| self.model.items[**id].is_dead() && may(id));
        let mut back: BTreeSet<ItemId> = dead.map(|id| (*id).clone()).collect();
        back.extend(self.model.dead_above(&back, may));
        self.come_back(op, back);
    }

    fn come_back(&mut self, op: &Operation, items: BTreeSet<ItemId>) {
        for id in items {
            let write = self.write(op, &self.model.items[&id].owner);
            self.model.come_back(BTreeSet::from([id]), &write);
        }
    }

    fn create(&mut self, op: &Operation, upsert: &Upsert) -> Outcome<i64> {
        if upsert.object_type.is_none() {
            return Err(invalid(PushReason::UnknownItem));
        }
        let owner = match &upsert.parent {
            Some(parent) => self.needs(parent, AccessLevel::Write)?,
            None => self.user.clone(),
        };
        let write = self.write(op, &owner);
        let mut item = Item {
            owner,
            created_at: 0,
            object_type: None,
            name: None,
            metadata: Default::default(),
            deleted: None,
            names: Vec::new(),
        };
        item.created_at = set_fields(&mut item, upsert, &write).expect("nothing was there");
        let at = item.created_at;
        self.model.items.insert(op.item_id.clone(), item);
        if let Some(parent) = &upsert.parent {
            self.set_link(op, &write, parent, true);
            self.bring_back(op, &[parent]);
        }
        Ok(at)
    }

    fn edit(&mut self, op: &Operation, upsert: &Upsert) -> Outcome<i64> {
        let owner = match self.needs(&op.item_id, AccessLevel::Write) {
            Err(Refusal(PushReason::UnknownItem, _)) if upsert.object_type.is_some() => {
                return Err(invalid(PushReason::NotPermitted));
            }
            other => other?,
        };
        let write = self.write(op, &owner);
        let item = self.model.items.get_mut(&op.item_id).expect("it is there");
        if op.basis.is_some() && item.is_dead() {
            let before = values(item);
            let at = set_values(item, upsert, &write).ok_or(SUPERSEDED)?;
            if values(item) != before {
                self.bring_back(op, &[&op.item_id]);
            }
            return Ok(at);
        }
        let was_dead = item.is_dead();
        let at = set_fields(item, upsert, &write).ok_or(SUPERSEDED)?;
        if was_dead && !item.is_dead() {
            self.model.returned.insert(op.item_id.clone());
        }
        Ok(at)
    }

    fn grant(
        &mut self,
        op: &Operation,
        principal: &Principal,
        level: Option<AccessLevel>,
    ) -> Outcome<i64> {
        let own = principal.kind == PrincipalType::User
            && principal.id.as_str() == self.user.as_str()
            && level.is_none();
        let needed = if own { AccessLevel::Read } else { AccessLevel::Admin };
        let write = self.write(op, &self.needs(&op.item_id, needed)?);
        let key = (op.item_id.clone(), principal.clone());
        let mut register = self.model.grants.get(&key).cloned();
        let at = write.set(&mut register, level).ok_or(SUPERSEDED)?;
        self.model.grants.extend(register.map(|register| (key, register)));
        Ok(at)
    }

    /// Returns the principals and items whose grants reach an item.
    fn reaches(&self, id: &ItemId) -> std::collections::BTreeSet<(ItemId, Principal)> {
        let lineage = self.model.lineage(id, true);
        let on = |at: &ItemId| {
            let at = at.clone();
            let grants = self.model.grants_on(&at);
            grants.map(|(to, _)| (at.clone(), to.clone())).collect::<Vec<_>>()
        };
        lineage.iter().flat_map(on).collect()
    }

    /// Checks the author's rights on both ends of a link, and that neither a deletion nor a later
    /// move supersedes it.
    fn ends(&self, op: &Operation, parent: &ItemId) -> Outcome<(UserId, Write)> {
        let child = &op.item_id;
        let realm = self.needs(parent, AccessLevel::Write)?;
        if self.needs(child, AccessLevel::Read)? == realm {
            let widens = !self.reaches(parent).is_subset(&self.reaches(child));
            let needed = if widens { AccessLevel::Admin } else { AccessLevel::Write };
            self.needs(child, needed)?;
        }
        let write = self.write(op, &realm);
        for end in [parent, child] {
            let deleted = self.model.items[end].deleted.as_ref().filter(|one| one.value);
            let stays = match op.basis {
                Some(_) => deleted.is_some() && !self.model.in_realm(child, parent),
                None => !write.beats(deleted),
            };
            if stays {
                return Err(SUPERSEDED);
            }
        }
        if !write.beats(self.model.moves.get(&(child.clone(), realm.clone()))) {
            return Err(SUPERSEDED);
        }
        Ok((realm, write))
    }

    /// Returns whether a link or move would have to bring one of its ends back.
    fn meets_the_dead(&self, op: &Operation, parent: &ItemId) -> bool {
        op.basis.is_some() && [&op.item_id, parent].iter().any(|id| self.model.items[*id].is_dead())
    }

    fn closes_cycle(&self, parent: &ItemId, child: &ItemId) -> bool {
        let hangs_there = self.model.parents(child).any(|held| held == parent);
        !hangs_there
            && self.model.in_realm(child, parent)
            && self.model.lineage(parent, true).contains(child)
    }

    fn link(&mut self, op: &Operation, parent: &ItemId) -> Outcome<i64> {
        let (_, write) = self.ends(op, parent)?;
        let held = self.model.links.get(&(op.item_id.clone(), parent.clone()));
        if !write.beats(held) {
            return Err(SUPERSEDED);
        }
        if self.closes_cycle(parent, &op.item_id) {
            return Err(Refusal(PushReason::Cycle, true));
        }
        let is_there = self.model.parents(&op.item_id).any(|held| held == parent);
        if is_there && self.meets_the_dead(op, parent) {
            return Err(SUPERSEDED);
        }
        let at = self.set_link(op, &write, parent, true).ok_or(SUPERSEDED)?;
        self.bring_back(op, &[&op.item_id, parent]);
        Ok(at)
    }

    fn unlink(&mut self, op: &Operation, parent: &ItemId) -> Outcome<i64> {
        let realm = self.needs(parent, AccessLevel::Write)?;
        let in_realm = |above: &&ItemId| self.model.in_realm(&op.item_id, above);
        let places: Vec<&ItemId> = self.model.parents(&op.item_id).filter(in_realm).collect();
        if !self.model.parents(&op.item_id).any(|held| held == parent) {
            self.needs(&op.item_id, AccessLevel::Read)?;
        } else if places == [parent] {
            self.needs(&op.item_id, AccessLevel::Admin)?;
        }
        let write = self.write(op, &realm);
        self.set_link(op, &write, parent, false).ok_or(SUPERSEDED)
    }

    fn reassign(&mut self, op: &Operation, parent: &ItemId) -> Outcome<i64> {
        let (realm, write) = self.ends(op, parent)?;
        if self.closes_cycle(parent, &op.item_id) {
            return Err(Refusal(PushReason::Cycle, true));
        }
        let leaves: Vec<ItemId> = self.model.parents(&op.item_id).cloned().collect();
        let leaves = leaves.into_iter().filter(|other| {
            other != parent
                && self.needs(other, AccessLevel::Write).is_ok_and(|owner| owner == realm)
        });
        let leaves: Vec<ItemId> = leaves.collect();
        let is_there = self.model.parents(&op.item_id).any(|held| held == parent);
        if leaves.is_empty() && is_there && self.meets_the_dead(op, parent) {
            return Err(SUPERSEDED);
        }
        let key = (op.item_id.clone(), realm.clone());
        let mut moved = self.model.moves.get(&key).cloned();
        let mut at = write.set(&mut moved, parent.clone()).ok_or(SUPERSEDED)?;
        self.model.moves.extend(moved.map(|moved| (key, moved)));
        at = at.max(self.set_link(op, &write, parent, true).unwrap_or(at));
        for other in &leaves {
            at = at.max(self.set_link(op, &write, other, false).unwrap_or(at));
        }
        self.bring_back(op, &[&op.item_id, parent]);
        Ok(at)
    }

    fn set_link(
        &mut self,
        op: &Operation,
        write: &Write,
        parent: &ItemId,
        present: bool,
    ) -> Option<i64> {
        let key = (op.item_id.clone(), parent.clone());
        let mut register = self.model.links.get(&key).cloned();
        let at = write.set(&mut register, present)?;
        self.model.links.extend(register.map(|register| (key, register)));
        Some(at)
    }
}

/// Sets the given fields and clears "deleted"; returns the greatest new time of a register.
fn set_fields(item: &mut Item, upsert: &Upsert, write: &Write) -> Option<i64> {
    let alive = write.set(&mut item.deleted, false);
    alive.max(set_values(item, upsert, write))
}

/// Formats the values of an item except whether it is deleted.
fn values(item: &Item) -> String {
    let live = item.metadata.iter().filter_map(|(key, one)| Some((key, one.value.as_ref()?)));
    let metadata: Vec<_> = live.collect();
    let kind = item.object_type.as_ref().map(|one| one.value);
    format!("{kind:?} {:?} {metadata:?}", item.name.as_ref().map(|one| &one.value))
}

fn set_values(item: &mut Item, upsert: &Upsert, write: &Write) -> Option<i64> {
    let mut at = None;
    if let Some(object_type) = upsert.object_type {
        at = at.max(write.set(&mut item.object_type, object_type));
    }
    if let Some(name) = &upsert.name {
        let set = write.set(&mut item.name, name.clone());
        if set.is_some() {
            item.names.push(name.clone());
        }
        at = at.max(set);
    }
    for (key, value) in &upsert.metadata {
        let mut register = item.metadata.remove(key);
        at = at.max(write.set(&mut register, value.clone()));
        item.metadata.extend(register.map(|register| (key.clone(), register)));
    }
    at
}
