//! Decides deletions by what their author had seen, and which items come back.

use std::collections::BTreeSet;

use super::decide::Decider;
use super::rows::{LinkKey, Needs, Rows};
use super::visibility::attachment_key;
use super::{FeedPropagation, PushBatch, Set};
use crate::access::AccessLevel;
use crate::content::Attachment;
use crate::entry::EntryKey;
use crate::id::{ItemId, OpId, ReplicaId, UserId, WriteId};
use crate::operation::{Action, Basis, Operation};
use crate::time::Timestamp;
use crate::wire::AttachRequest;

impl Rows {
    /// Returns the keys whose marks show whether somebody changed an item: the item, its contents,
    /// the links to it, and its links to live items.
    fn keys_of_sight(&self, id: &ItemId) -> Vec<EntryKey> {
        let present = |key: &&LinkKey| self.is_linked(key);
        let above = self.links_above(id).iter().filter(present);
        let below = self.links_below(id).iter().filter(present);
        let below = below.filter(|(_, child)| !self.is_deleted(child));
        let links = above
            .chain(below)
            .map(|(parent, child)| EntryKey::Link { parent: parent.clone(), child: child.clone() });
        let contents = self.attachments.get(id).into_iter().flatten().map(attachment_key);
        std::iter::once(EntryKey::Item(id.clone())).chain(contents).chain(links).collect()
    }

    /// Returns the counter up to which an author with `basis` has seen the feed, if any replica
    /// except `replica` changed something after it.
    fn unseen_from(&self, basis: &Basis, replica: &ReplicaId) -> Option<u64> {
        let tail = self.tail.as_ref()?;
        let seen = tail.seen(basis);
        (tail.mark.by_others(replica) > seen).then_some(seen)
    }

    /// Returns whether any replica except `replica` changed the item after the author with `basis`
    /// saw it.
    fn is_unseen(&self, id: &ItemId, basis: &Basis, replica: &ReplicaId) -> bool {
        let Some(seen) = self.unseen_from(basis, replica) else { return false };
        self.keys_of_sight(id).into_iter().any(|key| {
            let mark = self.marks.get(&key).and_then(Option::as_ref);
            mark.is_some_and(|mark| mark.by_others(replica) > seen)
        })
    }

    /// Adds the deleted containers of those items in `back` that have no live container, up to the
    /// first live container or one that `take` rejects.
    fn add_containers(&self, back: &mut BTreeSet<ItemId>, take: impl Fn(&ItemId) -> bool) {
        // The requested items count as live; items found on the way do not, so that the order in
        // which they are found does not matter.
        let live = back.clone();
        let mut open: Vec<ItemId> = back.iter().cloned().collect();
        while let Some(at) = open.pop() {
            let is_live = |id: &ItemId| live.contains(id) || self.live(id).is_some();
            if self.parents(&at).any(is_live) {
                continue;
            }
            for parent in self.parents(&at) {
                if take(parent) && back.insert(parent.clone()) {
                    open.push(parent.clone());
                }
            }
        }
    }

    fn is_deleted(&self, id: &ItemId) -> bool {
        self.item(id).is_some_and(|item| item.fields.is_deleted())
    }
}

impl Decider<'_> {
    /// Returns whether a deletion's author had not seen some change of the item.
    pub(super) fn is_unseen(&self, op: &Operation, basis: &Basis) -> bool {
        self.rows.is_unseen(&op.item_id, basis, &op.replica_id)
    }

    /// Returns the ends of a link that are deleted and that `op`, by its basis, brings back.
    pub(super) fn deleted_ends(&self, op: &Operation, parent: &ItemId) -> BTreeSet<ItemId> {
        if op.basis.is_none() {
            return BTreeSet::new();
        }
        let ends = [&op.item_id, parent].into_iter();
        ends.filter(|id| self.rows.is_deleted(id)).cloned().collect()
    }

    /// Brings back the deleted ones of `items`, and the deleted containers above them, as far as
    /// the author may write them. Without a basis, it does nothing.
    pub(super) fn bring_back(&mut self, op: &Operation, items: &BTreeSet<ItemId>) {
        if op.basis.is_none() {
            return;
        }
        let may_write = |id: &ItemId| self.permitted(id, AccessLevel::Write).is_ok();
        let gone = items.iter().filter(|id| self.rows.is_deleted(id) && may_write(id));
        let mut back: BTreeSet<ItemId> = gone.cloned().collect();
        self.rows.add_containers(&mut back, may_write);
        self.undelete(op, back);
    }

    /// Brings back the containers that the same replica deleted, above an item that `op` failed to
    /// delete.
    pub(super) fn bring_back_around(&mut self, op: &Operation) {
        let user = &self.batch.user;
        let deleted_here = |id: &ItemId| {
            let deleted = self.rows.item(id).and_then(|item| item.fields.deleted.as_ref());
            deleted.is_some_and(|register| {
                let author = &register.stamp.author;
                register.value && author.user == *user && author.replica == op.replica_id
            })
        };
        let take = |id: &ItemId| deleted_here(id) && self.permitted(id, AccessLevel::Write).is_ok();
        let mut back = BTreeSet::from([op.item_id.clone()]);
        self.rows.add_containers(&mut back, take);
        back.remove(&op.item_id);
        self.undelete(op, back);
    }

    fn undelete(&mut self, op: &Operation, items: BTreeSet<ItemId>) {
        for id in items {
            let Some(mut item) = self.rows.item(&id).cloned() else { continue };
            self.touch_return(op, &id);
            self.touch(op, EntryKey::Item(id.clone()));
            self.write(op, &item.owner).set_above(&mut item.fields.deleted, false);
            self.put_item(&id, item);
        }
    }
}

/// An attach to a deleted item: it brings the item back, and is decided like an operation that
/// changes the item.
///
/// The caller loads the rows that [`Revival::needs`] returns until it returns none.
#[derive(Debug, Clone)]
pub struct Revival {
    batch: PushBatch,
}

impl Revival {
    /// Returns the revival of an attach by `user` at `now`; `None` without a basis.
    #[must_use]
    pub fn of(user: &UserId, request: &AttachRequest, now: Timestamp) -> Option<Self> {
        let basis = Some(request.basis.clone()?);
        let replica = request.replica_id.as_ref().or(request.client_id.as_ref()).cloned();
        let replica_id = replica.or_else(|| ReplicaId::new("server").ok())?;
        let op = Operation {
            op_id: OpId::new("attach").ok()?,
            item_id: request.item_id.clone(),
            replica_id: replica_id.clone(),
            write_id: WriteId::FIRST,
            occurred_at: request.occurred_at.unwrap_or(now),
            basis,
            action: Action::Upsert(Box::default()),
        };
        let mut batch = PushBatch::new(user.clone(), replica_id, vec![op]);
        batch.is_push = false;
        Some(Self { batch })
    }

    /// Returns the rows that the revival needs and `rows` lacks; `None` once it has all of them.
    #[must_use]
    pub fn needs(&self, rows: &Rows) -> Option<Needs> {
        self.batch.needs(rows)
    }

    /// Returns the user's level on the item, as if nothing were deleted.
    #[must_use]
    pub fn level(&self, rows: &Rows) -> Option<AccessLevel> {
        let op = self.batch.operations().next()?;
        rows.level(&self.batch.user, &op.item_id)
    }

    /// Brings the item back with `attachment`; returns the changes to propagate.
    #[must_use]
    pub fn apply(
        &self,
        mut rows: Rows,
        attachment: &Attachment,
        now: Timestamp,
    ) -> FeedPropagation {
        let key = attachment_key(attachment);
        let held = rows.attachments.entry(attachment.item_id.clone()).or_default();
        held.retain(|one| attachment_key(one) != key);
        held.push(attachment.clone());
        let mut decider = Decider::new(&self.batch, rows, now);
        for op in self.batch.operations() {
            decider.bring_back(op, &BTreeSet::from([op.item_id.clone()]));
            decider.touch(op, key.clone());
        }
        decider.finish()
    }
}

impl PushBatch {
    /// Adds the rows that show what the authors of deletions had seen, and the surroundings of the
    /// items that come back.
    pub(super) fn add_seen(&self, rows: &Rows, needs: &mut Needs) {
        let deletes = |op: &&Operation| op.action == Action::Delete;
        let going: Set<&ItemId> = self.operations().filter(deletes).map(|op| &op.item_id).collect();
        let is_gone = |id: &ItemId| going.contains(id) || rows.is_deleted(id);
        let mut back: BTreeSet<&ItemId> = BTreeSet::new();
        // One operation with a basis brings back everything above its item, through links that
        // other operations of the batch create too.
        let revives = self.operations().any(|op| op.basis.is_some());
        for op in self.operations() {
            match (&op.action, &op.basis) {
                (Action::Delete, Some(basis)) if rows.around.contains(&op.item_id) => {
                    if rows.unseen_from(basis, &op.replica_id).is_none() {
                        continue;
                    }
                    needs.marks.extend(rows.keys_of_sight(&op.item_id));
                    if rows.is_unseen(&op.item_id, basis, &op.replica_id) {
                        back.insert(&op.item_id);
                    }
                }
                (Action::Upsert(_) | Action::LinkAdd { .. } | Action::LinkReassign { .. }, _)
                    if revives =>
                {
                    let ends = std::iter::once(&op.item_id).chain(op.parent());
                    back.extend(ends.filter(|id| is_gone(id)));
                }
                _ => {}
            }
        }
        for id in back {
            needs.ancestors.insert(id.clone());
            let above = rows.lineage(id).into_iter().filter(|above| is_gone(above));
            needs.around.extend(above.cloned());
        }
    }
}
