//! What each operation of a push has to come to.

use vfs_sync_core::access::{AccessLevel, Principal, PrincipalType};
use vfs_sync_core::id::{ItemId, ReplicaId, UserId};
use vfs_sync_core::op::{Action, Operation, Upsert};
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::{PushReason, PushResult, PushStatus};

use super::{Accepted, Item, Model, Stamp, Write, millis};

/// How much later than the server's clock a time is believed.
const BELIEVED: i64 = 60_000;

/// The answer that an operation has to get.
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

/// Why an operation sets nothing, and whether its write id is used up.
struct Refusal(PushReason, bool);

const SUPERSEDED: Refusal = Refusal(PushReason::Superseded, true);

fn invalid(reason: PushReason) -> Refusal {
    Refusal(reason, false)
}

type Outcome<T> = Result<T, Refusal>;

impl Model {
    /// Applies a push of well-formed operations; gives what the answer has to be. `now` is the
    /// server's clock, `last_changed` gives when a user's feed last changed.
    pub(crate) fn push(
        &mut self,
        user: &UserId,
        replica: &ReplicaId,
        operations: &[Operation],
        now: Timestamp,
        last_changed: &dyn Fn(&UserId) -> Option<Timestamp>,
    ) -> Vec<Expected> {
        let refused = Vec::new();
        let mut push = Push { model: self, user, replica, now, last_changed, refused };
        let mut stale = false;
        let mut expected = Vec::with_capacity(operations.len());
        for op in operations {
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
    /// Refused in this push, with no later write id used yet.
    refused: Vec<(u64, Accepted)>,
}

impl Push<'_> {
    fn last(&self) -> Option<u64> {
        self.model.last_write_id(self.user, self.replica)
    }

    fn stale(&self) -> Expected {
        Expected { last_write_id: self.last(), ..Expected::bare(PushStatus::StaleWriteId) }
    }

    fn operation(&mut self, op: &Operation) -> Expected {
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
        let (status, reason, authored_at) = match self.apply(op) {
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
        // What stood before it in the push has this answer from now on.
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
            Action::Delete => {
                let write = self.write(op, &self.needs(id, AccessLevel::Admin)?);
                let item = self.model.items.get_mut(id).expect("it is there");
                write.set(&mut item.deleted, true).ok_or(SUPERSEDED)
            }
            Action::GrantAdd { principal, level } => self.grant(op, principal, Some(*level)),
            Action::GrantRemove { principal } => self.grant(op, principal, None),
            Action::LinkAdd { parent } => self.link(op, parent),
            Action::LinkRemove { parent } => self.unlink(op, parent),
            Action::LinkReassign { parent } => self.reassign(op, parent),
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
        set_fields(item, upsert, &write).ok_or(SUPERSEDED)
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

    /// The principals and items whose grants reach an item.
    fn reaches(&self, id: &ItemId) -> std::collections::BTreeSet<(ItemId, Principal)> {
        let lineage = self.model.lineage(id, true);
        let on = |at: &ItemId| {
            let at = at.clone();
            let grants = self.model.grants_on(&at);
            grants.map(|(to, _)| (at.clone(), to.clone())).collect::<Vec<_>>()
        };
        lineage.iter().flat_map(on).collect()
    }

    /// Rights, and that neither a deletion nor a later move took the place away.
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
            if !write.beats(deleted) {
                return Err(SUPERSEDED);
            }
        }
        if !write.beats(self.model.moves.get(&(child.clone(), realm.clone()))) {
            return Err(SUPERSEDED);
        }
        Ok((realm, write))
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
        self.set_link(op, &write, parent, true).ok_or(SUPERSEDED)
    }

    fn unlink(&mut self, op: &Operation, parent: &ItemId) -> Outcome<i64> {
        let realm = self.needs(parent, AccessLevel::Write)?;
        if !self.model.parents(&op.item_id).any(|held| held == parent) {
            self.needs(&op.item_id, AccessLevel::Read)?;
        }
        let write = self.write(op, &realm);
        self.set_link(op, &write, parent, false).ok_or(SUPERSEDED)
    }

    fn reassign(&mut self, op: &Operation, parent: &ItemId) -> Outcome<i64> {
        let (realm, write) = self.ends(op, parent)?;
        if self.closes_cycle(parent, &op.item_id) {
            return Err(Refusal(PushReason::Cycle, true));
        }
        let key = (op.item_id.clone(), realm.clone());
        let mut moved = self.model.moves.get(&key).cloned();
        let mut at = write.set(&mut moved, parent.clone()).ok_or(SUPERSEDED)?;
        self.model.moves.extend(moved.map(|moved| (key, moved)));
        at = at.max(self.set_link(op, &write, parent, true).unwrap_or(at));
        let others: Vec<ItemId> = self.model.parents(&op.item_id).cloned().collect();
        for other in others.iter().filter(|other| *other != parent) {
            let ours = self.needs(other, AccessLevel::Write).is_ok_and(|owner| owner == realm);
            if ours {
                at = at.max(self.set_link(op, &write, other, false).unwrap_or(at));
            }
        }
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

/// Sets the fields that are there, and "not deleted"; gives the greatest time that one now has.
fn set_fields(item: &mut Item, upsert: &Upsert, write: &Write) -> Option<i64> {
    let mut at = write.set(&mut item.deleted, false);
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
