//! Decides a push: every rule of the protocol that a server applies to an operation.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::propagate::FeedPropagation;
use super::quota::UsageChange;
use super::rows::{Accepted, AcceptedOp, Changes, Link, LinkKey, Outcome, Rows};
use super::visibility::Views;
use super::{PushBatch, Received};
use crate::access::{AccessLevel, Principal, PrincipalType};
use crate::entry::{EntryKey, Origin};
use crate::id::{ItemId, UserId, WriteId};
use crate::item::metadata_problem;
use crate::limits;
use crate::operation::{Action, Operation, Upsert};
use crate::register::{GrantRegister, Item, ItemFields, MoveRegister, Write};
use crate::server::stage::OverQuota;
use crate::stamp::Author;
use crate::time::Timestamp;
use crate::wire::{PushReason, PushResponse, PushResult, PushStatus};

/// The outcome of deciding a push.
#[derive(Debug, Clone)]
pub struct Decided {
    /// The answer to the push.
    pub response: PushResponse,
    /// The changes to propagate, and to write before the server answers.
    pub propagation: FeedPropagation,
    /// The state that deciding the operations after these needs.
    pub carried: Carried,
    /// The quota that the first operation without a result would have passed, and whose it is.
    pub over: Option<(UserId, OverQuota)>,
}

/// The state that one part of a push passes on to the next part.
#[derive(Debug, Clone, Default)]
pub struct Carried {
    /// Rejected operations above the last write id that was used.
    refused: Vec<AcceptedOp>,
    /// Ids that were not created because an item in another tree has them.
    taken: BTreeSet<ItemId>,
}

impl PushBatch {
    /// Returns the answer to a push whose only operation has too many consequences, and what it
    /// leaves for the operations after it.
    #[must_use]
    pub fn refuse_consequences(&self) -> (PushResponse, Carried) {
        let reason = PushReason::TooManyConsequences;
        let mut carried = self.carried.clone();
        let mut results = Vec::with_capacity(self.len());
        for received in &self.entries {
            let mut result = refused(reason);
            if let Received::Operation { op, digest } = received {
                let outcome = Outcome::Refused(reason);
                let accepted = Accepted { op_id: op.op_id.clone(), digest: *digest, outcome };
                carried.refused.push(AcceptedOp { write_id: op.write_id, accepted });
                result.op_id = Some(op.op_id.clone());
            }
            let (rows, bytes) = (limits::MAX_CONSEQUENCES, limits::MAX_CONSEQUENCE_BYTES);
            result.detail = Some(format!(
                "it shows others more than {rows} rows, or items of more than {} MiB: share parts \
                 of it, or with fewer",
                bytes >> 20
            ));
            results.push(result);
        }
        let response = PushResponse { client_id: self.replica.clone(), results, epoch: None };
        (response, carried)
    }

    /// Returns the results of the operations after one that is stale.
    #[must_use]
    pub fn all_stale(&self, last_write_id: Option<WriteId>) -> Vec<PushResult> {
        self.entries.iter().map(|received| stale(received, last_write_id)).collect()
    }
}

/// Decides every operation of `batch`, in order, against `rows` and the earlier operations of the
/// batch.
///
/// `rows` must contain all rows that [`PushBatch::needs`] asked for; `now` is the server's clock.
#[must_use]
pub fn decide(batch: &PushBatch, rows: Rows, now: Timestamp) -> Decided {
    let mut decider = Decider::new(batch, rows, now);
    let mut results = Vec::with_capacity(batch.len());
    let mut is_stale = false;
    for received in &batch.entries {
        let result = match received {
            _ if is_stale => stale(received, decider.last_write_id),
            Received::Operation { op, digest } => decider.operation(op, *digest),
            Received::Malformed { op_id, detail } => PushResult {
                op_id: op_id.clone(),
                detail: Some(detail.clone()),
                ..refused(PushReason::Malformed)
            },
        };
        if decider.over.is_some() {
            break;
        }
        is_stale |= result.status == PushStatus::StaleWriteId;
        results.push(result);
    }
    let response = PushResponse { client_id: batch.replica.clone(), results, epoch: None };
    let carried = Carried { refused: decider.refused.clone(), taken: decider.taken.clone() };
    let over = decider.over.take();
    Decided { response, propagation: decider.finish(), carried, over }
}

/// The reasons why an operation sets nothing.
pub(super) enum Refusal {
    /// The operation is invalid and does not use up its write id.
    Invalid(PushReason, Option<String>),
    /// The operation is outdated and uses up its write id.
    Outdated(PushReason),
    /// The operation is beyond the quota of a realm's owner: neither it nor what follows is decided.
    OverQuota(UserId, OverQuota),
}

pub(super) const NOT_PERMITTED: Refusal = Refusal::Invalid(PushReason::NotPermitted, None);
pub(super) const UNKNOWN_ITEM: Refusal = Refusal::Invalid(PushReason::UnknownItem, None);
pub(super) const SUPERSEDED: Refusal = Refusal::Outdated(PushReason::Superseded);
pub(super) const UNSEEN: Refusal = Refusal::Outdated(PushReason::Unseen);
const CYCLE: Refusal = Refusal::Outdated(PushReason::Cycle);

fn bare(status: PushStatus) -> PushResult {
    PushResult {
        op_id: None,
        status,
        reason: None,
        detail: None,
        authored_at: None,
        last_write_id: None,
    }
}

fn stale(received: &Received, last_write_id: Option<WriteId>) -> PushResult {
    let op_id = match received {
        Received::Operation { op, .. } => Some(op.op_id.clone()),
        Received::Malformed { op_id, .. } => op_id.clone(),
    };
    PushResult { op_id, last_write_id, ..bare(PushStatus::StaleWriteId) }
}

fn refused(reason: PushReason) -> PushResult {
    PushResult { reason: Some(reason), ..bare(PushStatus::InvalidOp) }
}

fn outdated(reason: PushReason) -> PushResult {
    PushResult { reason: Some(reason), ..bare(PushStatus::OutdatedOp) }
}

pub(super) struct Decider<'a> {
    pub(super) batch: &'a PushBatch,
    pub(super) rows: Rows,
    now: Timestamp,
    views: Views,
    changed_items: BTreeSet<ItemId>,
    changed_links: BTreeSet<LinkKey>,
    pub(super) changes: Changes,
    /// The greatest write id used, the batch included.
    last_write_id: Option<WriteId>,
    /// Rejected operations above the last write id. Once the replica uses a later write id, a retry
    /// must find these again.
    refused: Vec<AcceptedOp>,
    /// Ids that this batch could not create because an item in another realm has them.
    taken: BTreeSet<ItemId>,
    /// The quota that ended the push.
    over: Option<(UserId, OverQuota)>,
}

impl<'a> Decider<'a> {
    pub(super) fn new(batch: &'a PushBatch, rows: Rows, now: Timestamp) -> Self {
        let last_write_id = rows.last_write_id;
        Self {
            batch,
            rows,
            now,
            views: Views::default(),
            changed_items: BTreeSet::new(),
            changed_links: BTreeSet::new(),
            changes: Changes::default(),
            last_write_id,
            refused: batch.carried.refused.clone(),
            taken: batch.carried.taken.clone(),
            over: None,
        }
    }

    fn operation(&mut self, op: &Operation, digest: [u8; 32]) -> PushResult {
        let op_id = Some(op.op_id.clone());
        let is_of_a_taken_id = self.is_of_a_taken_id(op);
        if Some(op.write_id) <= self.last_write_id {
            let result = match self.accepted(op.write_id) {
                Some(before) if before.op_id == op.op_id && before.digest == digest => {
                    match before.outcome {
                        Outcome::Applied(at) => {
                            PushResult { authored_at: Some(at), ..bare(PushStatus::AlreadyApplied) }
                        }
                        Outcome::Outdated(reason) => outdated(reason),
                        Outcome::Refused(reason) => refused(reason),
                    }
                }
                _ => PushResult {
                    last_write_id: self.last_write_id,
                    ..bare(PushStatus::StaleWriteId)
                },
            };
            return PushResult { op_id, ..result };
        }
        let accepted = |outcome| {
            let accepted = Accepted { op_id: op.op_id.clone(), digest, outcome };
            AcceptedOp { write_id: op.write_id, accepted }
        };
        let applied = if is_of_a_taken_id { Err(NOT_PERMITTED) } else { self.apply(op) };
        let (result, outcome) = match applied {
            Ok(at) => {
                let result = PushResult { authored_at: Some(at), ..bare(PushStatus::Applied) };
                (result, Outcome::Applied(at))
            }
            Err(Refusal::Outdated(reason)) => (outdated(reason), Outcome::Outdated(reason)),
            Err(Refusal::OverQuota(owner, over)) => {
                self.over = Some((owner, over));
                return refused(PushReason::NotPermitted);
            }
            Err(Refusal::Invalid(reason, detail)) => {
                self.refused.push(accepted(Outcome::Refused(reason)));
                return PushResult { op_id, detail, ..refused(reason) };
            }
        };
        self.last_write_id = Some(op.write_id);
        self.changes.last_write_id = Some(op.write_id);
        self.settle_refused(op.write_id);
        self.changes.accepted.push(accepted(outcome));
        PushResult { op_id, ..result }
    }

    /// Records the operations rejected below `used`, which the replica's last write id now covers.
    /// Without the record, and with the answer lost, the server would take their retry for stale
    /// and everything after them for new.
    fn settle_refused(&mut self, used: WriteId) {
        let (mut behind, ahead): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.refused).into_iter().partition(|one| one.write_id < used);
        behind.sort_by_key(|one| one.write_id);
        behind.dedup_by_key(|one| one.write_id);
        self.changes.accepted.extend(behind);
        self.refused = ahead;
    }

    /// Returns the earlier use of a write id, in this push or in a previous one.
    fn accepted(&self, write_id: WriteId) -> Option<&Accepted> {
        let here = self.changes.accepted.binary_search_by_key(&write_id, |one| one.write_id);
        match here {
            Ok(index) => Some(&self.changes.accepted[index].accepted),
            Err(_) => self.rows.accepted.get(&write_id),
        }
    }

    /// Returns whether `op` names an item that its author creates, now or earlier in the batch,
    /// under an id that an item in another realm has. A write meant for the created item must never
    /// reach the readers of the other one.
    fn is_of_a_taken_id(&mut self, op: &Operation) -> bool {
        let named = [Some(&op.item_id), op.parent()];
        let mut is_taken = named.into_iter().flatten().any(|id| self.taken.contains(id));
        if let Action::Upsert(upsert) = &op.action
            && upsert.object_type.is_some()
        {
            let parent = upsert.parent.as_ref();
            let parent = parent.and_then(|id| self.permitted(id, AccessLevel::Read).ok());
            let owner = parent.map_or(&self.batch.user, |parent| &parent.owner);
            is_taken |= self.rows.item(&op.item_id).is_some_and(|item| item.owner != *owner);
            if is_taken {
                self.taken.insert(op.item_id.clone());
            }
        }
        is_taken
    }

    /// Applies an operation with a new write id; returns its stored time.
    fn apply(&mut self, op: &Operation) -> Result<Timestamp, Refusal> {
        if let Some(outcome) = self.apply_to_tombstone(op) {
            return outcome;
        }
        match &op.action {
            Action::Upsert(upsert) => match self.rows.item(&op.item_id) {
                None => self.create(op, upsert),
                Some(_) => self.edit(op, upsert),
            },
            Action::Delete => self.delete(op),
            Action::GrantAdd { principal, level } => self.grant(op, principal, Some(*level)),
            Action::GrantRemove { principal } => self.grant(op, principal, None),
            Action::LinkAdd { parent } => self.link(op, parent),
            Action::LinkRemove { parent } => self.unlink(op, parent),
            Action::LinkReassign { parent } => self.reassign(op, parent),
        }
    }

    /// Returns the write that `op` makes to a register of `realm`.
    pub(super) fn write(&self, op: &Operation, realm: &UserId) -> Write {
        let author = Author {
            user: self.batch.user.clone(),
            replica: op.replica_id.clone(),
            write_id: op.write_id,
        };
        let last_changed = self.rows.last_changed.get(realm).copied();
        let now = last_changed.map_or(self.now, |last| self.now.max(last));
        Write::new(op.occurred_at, Arc::new(author), now)
    }

    pub(super) fn touch(&mut self, op: &Operation, key: EntryKey) {
        self.touch_as(op, key, true);
    }

    fn touch_as(&mut self, op: &Operation, key: EntryKey, changed: bool) {
        let origin = self.batch.is_push.then(|| Origin {
            op_id: op.op_id.clone(),
            replica_id: op.replica_id.clone(),
            write_id: op.write_id,
        });
        let replica = Some(op.replica_id.clone());
        self.views.touch(&self.rows, key, &self.batch.user, replica, origin, changed);
    }

    pub(super) fn create(&mut self, op: &Operation, upsert: &Upsert) -> Result<Timestamp, Refusal> {
        if upsert.object_type.is_none() {
            return Err(UNKNOWN_ITEM);
        }
        let owner = match &upsert.parent {
            Some(parent) => self.permitted(parent, AccessLevel::Write)?.owner.clone(),
            None => self.batch.user.clone(),
        };
        let write = self.write(op, &owner);
        let mut fields = ItemFields::default();
        let at = merge(&mut fields, upsert, &write)?.ok_or(SUPERSEDED)?;
        let links = i64::from(upsert.parent.is_some());
        let change = UsageChange { items: 1, links, ..UsageChange::of_fields(None, &fields) };
        self.charge(&owner, change)?;
        self.touch(op, EntryKey::Item(op.item_id.clone()));
        self.changes.new_items.insert(op.item_id.clone());
        self.rows.know_new_item(&op.item_id);
        self.put_item(&op.item_id, Item { owner, created_at: at, fields });
        if let Some(parent) = &upsert.parent {
            self.set_link(op, &write, parent.clone(), true);
            self.bring_back(op, &BTreeSet::from([parent.clone()]));
        }
        Ok(at)
    }

    fn edit(&mut self, op: &Operation, upsert: &Upsert) -> Result<Timestamp, Refusal> {
        let item = match self.permitted(&op.item_id, AccessLevel::Write) {
            // Only a creation under a taken id reveals that an unseen item exists.
            Err(Refusal::Invalid(PushReason::UnknownItem, _)) if upsert.object_type.is_some() => {
                return Err(NOT_PERMITTED);
            }
            other => other?.clone(),
        };
        let write = self.write(op, &item.owner);
        let mut fields = item.fields.clone();
        if op.basis.is_some() && fields.is_deleted() {
            let at = merge_fields(&mut fields, upsert, &write)?.ok_or(SUPERSEDED)?;
            let changed = !fields.has_values_of(&item.fields);
            let change = UsageChange::of_fields(Some(&item.fields), &fields);
            self.charge(&item.owner, change)?;
            self.touch(op, EntryKey::Item(op.item_id.clone()));
            self.put_item(&op.item_id, Item { fields, ..item });
            if changed {
                self.bring_back(op, &BTreeSet::from([op.item_id.clone()]));
            }
            return Ok(at);
        }
        let at = merge(&mut fields, upsert, &write)?.ok_or(SUPERSEDED)?;
        let change = UsageChange::of_fields(Some(&item.fields), &fields);
        self.charge(&item.owner, change)?;
        if item.fields.is_deleted() && !fields.is_deleted() {
            self.touch_return(op, &op.item_id);
        }
        self.touch(op, EntryKey::Item(op.item_id.clone()));
        self.put_item(&op.item_id, Item { fields, ..item });
        Ok(at)
    }

    fn delete(&mut self, op: &Operation) -> Result<Timestamp, Refusal> {
        let mut item = self.deletable(&op.item_id)?.clone();
        let write = self.write(op, &item.owner);
        let was_deleted = item.fields.is_deleted();
        let stamp = match &op.basis {
            Some(basis) if !was_deleted && self.is_unseen(op, basis) => {
                self.bring_back_around(op);
                return Err(UNSEEN);
            }
            Some(_) => write.set_above(&mut item.fields.deleted, true),
            None => write.set(&mut item.fields.deleted, true).ok_or(SUPERSEDED)?,
        };
        if !was_deleted {
            self.touch_around(op, &op.item_id);
        }
        self.touch(op, EntryKey::Item(op.item_id.clone()));
        self.put_item(&op.item_id, item);
        Ok(stamp.authored_at)
    }

    fn grant(
        &mut self,
        op: &Operation,
        principal: &Principal,
        level: Option<AccessLevel>,
    ) -> Result<Timestamp, Refusal> {
        let to_oneself = level.is_none()
            && principal.kind == PrincipalType::User
            && principal.id.as_str() == self.batch.user.as_str();
        let needed = if to_oneself { AccessLevel::Read } else { AccessLevel::Admin };
        let owner = self.permitted(&op.item_id, needed)?.owner.clone();
        let write = self.write(op, &owner);
        let key = (op.item_id.clone(), principal.clone());
        let before = self.rows.grants.get(&key).cloned().flatten();
        let mut register = before.clone();
        let stamp = write.set(&mut register, level).ok_or(SUPERSEDED)?;
        self.count_grant(&owner, &key, before.as_ref(), level)?;
        self.touch(op, EntryKey::Grant { item: op.item_id.clone(), principal: principal.clone() });
        if let Some(register) = register {
            self.changes.grants.insert(key.clone(), register.clone());
            self.rows.set_grant(key, register);
        }
        Ok(stamp.authored_at)
    }

    /// Counts a grant that is about to be set.
    ///
    /// # Errors
    /// The refusal of one that would be one too many. A grant that is there is never refused for
    /// its removal.
    fn count_grant(
        &mut self,
        owner: &UserId,
        (id, principal): &(ItemId, Principal),
        before: Option<&GrantRegister>,
        level: Option<AccessLevel>,
    ) -> Result<(), Refusal> {
        let was_present = before.is_some_and(|register| register.value.is_some());
        let held = self.rows.grant_counts.get(id).copied().unwrap_or_default();
        let mut counts = held;
        counts.ever += usize::from(before.is_none());
        counts.present += usize::from(level.is_some());
        counts.present = counts.present.saturating_sub(usize::from(was_present));
        let too_many = |what| {
            let detail = format!("the item would have more than {what}");
            Err(Refusal::Invalid(PushReason::TooManyGrants, Some(detail)))
        };
        if counts.present > held.present && counts.present > limits::MAX_ITEM_GRANTS {
            let max = limits::MAX_ITEM_GRANTS;
            return too_many(format!("{max} grants: a group takes one for all its members"));
        }
        if counts.ever > held.ever && counts.ever > limits::MAX_ITEM_GRANTS_EVER {
            let max = limits::MAX_ITEM_GRANTS_EVER;
            return too_many(format!("{max} principals, past ones included, that it was granted"));
        }
        let pair = principal.user().map(|user| (owner.clone(), user));
        let pair = pair.filter(|_| was_present != level.is_some());
        let granted = pair.as_ref().and_then(|pair| self.rows.user_grants.get(pair)).copied();
        let granted = granted.unwrap_or(0);
        if pair.is_some() && level.is_some() && granted >= limits::MAX_USER_GRANTS {
            let max = limits::MAX_USER_GRANTS;
            let detail = format!(
                "the owner would have granted one user more than {max} items one by one: a \
                 folder takes one grant for all that is in it"
            );
            return Err(Refusal::Invalid(PushReason::TooManyGrants, Some(detail)));
        }
        if before.is_none() {
            self.charge(owner, UsageChange { grants: 1, ..UsageChange::default() })?;
        }
        if let Some(pair) = pair {
            let change = if level.is_some() { 1 } else { -1 };
            self.rows.user_grants.insert(pair.clone(), granted.saturating_add_signed(change));
            *self.changes.user_grants.entry(pair).or_default() += change;
        }
        self.rows.grant_counts.insert(id.clone(), counts);
        Ok(())
    }

    /// Checks the requirements of a link or a move: rights, and ends that are live or that it
    /// brings back.
    fn check_ends(&self, op: &Operation, parent: &ItemId) -> Result<(UserId, Write), Refusal> {
        let container = self.permitted(parent, AccessLevel::Write)?;
        let child = self.permitted(&op.item_id, AccessLevel::Read)?;
        if child.owner == container.owner && !self.may_reorganise(parent, &op.item_id) {
            return Err(NOT_PERMITTED);
        }
        let write = self.write(op, &container.owner);
        for end in [container, child] {
            let Some(deleted) = end.fields.deleted.as_ref().filter(|deleted| deleted.value) else {
                continue;
            };
            let goes_through = match op.basis {
                Some(_) => child.owner == container.owner,
                None => write.beats(Some(&deleted.stamp)),
            };
            if !goes_through {
                return Err(SUPERSEDED);
            }
        }
        let moved = self.move_register(&op.item_id, &container.owner);
        if moved.is_some_and(|moved| !write.beats(Some(&moved.stamp))) {
            return Err(SUPERSEDED);
        }
        Ok((container.owner.clone(), write))
    }

    fn link(&mut self, op: &Operation, parent: &ItemId) -> Result<Timestamp, Refusal> {
        let (owner, write) = self.check_ends(op, parent)?;
        let key = (parent.clone(), op.item_id.clone());
        if !write.beats(self.link_row(&key).map(|link| &link.register.stamp)) {
            return Err(SUPERSEDED);
        }
        if self.closes_cycle(parent, &op.item_id) {
            return Err(CYCLE);
        }
        let gone = self.deleted_ends(op, parent);
        if !gone.is_empty() && self.rows.is_linked(&key) {
            return Err(SUPERSEDED);
        }
        self.charge_link(&owner, &key)?;
        let at = self.set_link(op, &write, parent.clone(), true).ok_or(SUPERSEDED)?;
        self.bring_back(op, &gone);
        Ok(at)
    }

    /// Counts a link that has no register yet.
    fn charge_link(&mut self, owner: &UserId, key: &LinkKey) -> Result<(), Refusal> {
        let links = i64::from(self.link_row(key).is_none());
        self.charge(owner, UsageChange { links, ..UsageChange::default() })
    }

    fn unlink(&mut self, op: &Operation, parent: &ItemId) -> Result<Timestamp, Refusal> {
        let owner = self.permitted(parent, AccessLevel::Write)?.owner.clone();
        let key = (parent.clone(), op.item_id.clone());
        let there = self.link_row(&key).is_some_and(|link| link.register.value);
        if !there {
            self.permitted(&op.item_id, AccessLevel::Read)?;
        } else if self.rows.parents(&op.item_id).eq([parent]) {
            // Out of the last container it is out of reach of those who write there.
            self.permitted(&op.item_id, AccessLevel::Admin)?;
        }
        let write = self.write(op, &owner);
        self.charge_link(&owner, &key)?;
        self.set_link(op, &write, parent.clone(), false).ok_or(SUPERSEDED)
    }

    pub(super) fn reassign(
        &mut self,
        op: &Operation,
        parent: &ItemId,
    ) -> Result<Timestamp, Refusal> {
        let (realm, write) = self.check_ends(op, parent)?;
        if self.closes_cycle(parent, &op.item_id) {
            return Err(CYCLE);
        }
        let mut others = self.rows.links_above(&op.item_id).to_vec();
        others.retain(|key| key.0 != *parent && self.rows.is_linked(key));
        others.retain(|(other, _)| {
            let container = self.permitted(other, AccessLevel::Write);
            container.is_ok_and(|container| container.owner == realm)
        });
        others.sort();
        let gone = self.deleted_ends(op, parent);
        let link = (parent.clone(), op.item_id.clone());
        if !gone.is_empty() && others.is_empty() && self.rows.is_linked(&link) {
            return Err(SUPERSEDED);
        }
        let key = (op.item_id.clone(), realm.clone());
        let mut moved = self.rows.moves.get(&key).cloned().flatten();
        let stamp = write.set(&mut moved, parent.clone()).ok_or(SUPERSEDED)?;
        self.charge_link(&realm, &link)?;
        self.put_move(key, moved);
        let mut at = stamp.authored_at;
        at = at.max(self.set_link(op, &write, parent.clone(), true).unwrap_or(at));
        for (other, _) in others {
            at = at.max(self.set_link(op, &write, other, false).unwrap_or(at));
        }
        self.bring_back(op, &gone);
        Ok(at)
    }

    /// Returns whether hanging `child` under `parent` would make it its own ancestor. Links of
    /// deleted items count too, so that bringing one back cannot close a cycle.
    fn closes_cycle(&self, parent: &ItemId, child: &ItemId) -> bool {
        if self.rows.parents(child).any(|held| held == parent) {
            return false;
        }
        self.rows.lineage(parent).contains(child)
    }

    fn link_row(&self, key: &LinkKey) -> Option<&Link> {
        self.rows.links.get(key)?.as_ref()
    }

    fn move_register(&self, child: &ItemId, realm: &UserId) -> Option<&MoveRegister> {
        self.rows.moves.get(&(child.clone(), realm.clone()))?.as_ref()
    }

    /// Sets a link's register if the write supersedes it; returns the register's new time.
    pub(super) fn set_link(
        &mut self,
        op: &Operation,
        write: &Write,
        parent: ItemId,
        present: bool,
    ) -> Option<Timestamp> {
        let key = (parent, op.item_id.clone());
        let mut register = self.link_row(&key).map(|link| link.register.clone());
        let stamp = write.set(&mut register, present)?;
        let (parent, child) = key.clone();
        self.touch(op, EntryKey::Link { parent: parent.clone(), child: child.clone() });
        let owner = |id: &ItemId| self.rows.item(id).map(|item| &item.owner);
        let in_realm = owner(&parent) == owner(&child);
        let link = register.map(|register| Link { register, in_realm })?;
        self.changed_links.insert(key.clone());
        self.rows.set_link(key, link);
        Some(stamp.authored_at)
    }

    pub(super) fn put_move(&mut self, key: (ItemId, UserId), moved: Option<MoveRegister>) {
        if let Some(moved) = &moved {
            self.changes.moves.insert(key.clone(), moved.clone());
        }
        self.rows.moves.insert(key, moved);
    }

    pub(super) fn put_item(&mut self, id: &ItemId, item: Item) {
        let was_deleted = self.rows.item(id).is_some_and(|held| held.fields.is_deleted());
        if was_deleted != item.fields.is_deleted() {
            self.changes.trash.insert(id.clone(), !was_deleted);
        }
        self.changed_items.insert(id.clone());
        self.rows.items.insert(id.clone(), Some(item));
    }

    /// Marks the surroundings of an item that appears or disappears.
    fn touch_around(&mut self, op: &Operation, id: &ItemId) {
        let mut keys: Vec<EntryKey> = Vec::new();
        self.rows.keys_around(id, |_| true, &mut keys);
        keys.sort();
        for key in keys {
            self.touch_as(op, key, false);
        }
    }

    /// Marks the surroundings of an item that comes back. The links to it count as changed: its
    /// containers have an item again that a deletion's author may not have seen in them.
    pub(super) fn touch_return(&mut self, op: &Operation, id: &ItemId) {
        self.touch_around(op, id);
        let above: Vec<LinkKey> = self.rows.links_above(id).to_vec();
        for (parent, child) in above {
            self.touch(op, EntryKey::Link { parent, child });
        }
    }

    pub(super) fn finish(self) -> FeedPropagation {
        let Self { rows, now, views, changed_items, changed_links, mut changes, .. } = self;
        for id in changed_items {
            if let Some(item) = rows.item(&id) {
                changes.items.insert(id, item.clone());
            }
        }
        for key in changed_links {
            if let Some(Some(link)) = rows.links.get(&key) {
                changes.links.insert(key, link.clone());
            }
        }
        FeedPropagation::of_push(rows, views, changes, now)
    }
}

/// Sets the fields of `upsert` and clears "deleted"; returns the register's greatest new time, or
/// `None` if no register changed.
fn merge(
    fields: &mut ItemFields,
    upsert: &Upsert,
    write: &Write,
) -> Result<Option<Timestamp>, Refusal> {
    let live = write.set(&mut fields.deleted, false).map(|stamp| stamp.authored_at);
    Ok(live.max(merge_fields(fields, upsert, write)?))
}

/// Works as [`merge`], but leaves "deleted" unchanged.
fn merge_fields(
    fields: &mut ItemFields,
    upsert: &Upsert,
    write: &Write,
) -> Result<Option<Timestamp>, Refusal> {
    let mut latest = None;
    if let Some(object_type) = upsert.object_type {
        latest = latest.max(write.set(&mut fields.object_type, object_type));
    }
    if let Some(name) = &upsert.name {
        latest = latest.max(write.set(&mut fields.name, name.clone()));
    }
    if let Some(encrypted) = &upsert.encrypted {
        latest = latest.max(write.set(&mut fields.encrypted, encrypted.clone()));
    }
    for (key, value) in &upsert.metadata {
        let mut register = fields.metadata.remove(key);
        latest = latest.max(write.set(&mut register, value.clone()));
        if let Some(register) = register {
            fields.metadata.insert(key.clone(), register);
        }
    }
    if !upsert.metadata.is_empty() {
        let live = fields.metadata.iter().filter_map(|(key, r)| Some((key, r.value.as_ref()?)));
        let problem = if fields.metadata.len() > limits::MAX_METADATA_KEYS_EVER {
            Some("has had more than 1024 keys")
        } else {
            metadata_problem(live)
        };
        if let Some(problem) = problem {
            let detail = format!("the item's metadata then {problem}");
            return Err(Refusal::Invalid(PushReason::Malformed, Some(detail)));
        }
    }
    Ok(latest.map(|stamp| stamp.authored_at))
}
