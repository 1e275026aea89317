//! Decides operations that name an item which was removed for good.

use std::collections::BTreeSet;

use super::decide::{Decider, Refusal, SUPERSEDED, UNKNOWN_ITEM};
use crate::access::AccessLevel;
use crate::id::ItemId;
use crate::operation::{Action, Operation, Upsert};
use crate::time::Timestamp;

impl Decider<'_> {
    /// Decides an owner's operation on or under a tombstone; returns `None` if it names no
    /// tombstone. For all other users the item does not exist.
    pub(super) fn apply_to_tombstone(
        &mut self,
        op: &Operation,
    ) -> Option<Result<Timestamp, Refusal>> {
        if self.is_own_tombstone(&op.item_id) {
            // An edit has content or names that the owner may want to keep: it is not dropped.
            return Some(Err(match op.action {
                Action::Upsert(_) => UNKNOWN_ITEM,
                _ => SUPERSEDED,
            }));
        }
        let parent = op.parent().filter(|parent| self.is_own_tombstone(parent))?;
        match &op.action {
            Action::Upsert(upsert) if self.rows.item(&op.item_id).is_none() => {
                let upsert = Upsert { parent: None, ..(**upsert).clone() };
                Some(self.create(op, &upsert))
            }
            Action::Upsert(_) => None,
            Action::LinkReassign { .. } => Some(self.move_to_top(op, parent)),
            _ => Some(Err(SUPERSEDED)),
        }
    }

    fn is_own_tombstone(&self, id: &ItemId) -> bool {
        let item = self.rows.item(id);
        item.is_some_and(|item| item.is_purged() && item.owner == self.batch.user)
    }

    /// Moves an item that would hang under a tombstone to the owner's top.
    fn move_to_top(&mut self, op: &Operation, parent: &ItemId) -> Result<Timestamp, Refusal> {
        let child = self.permitted(&op.item_id, AccessLevel::Read)?;
        if child.fields.is_deleted() && op.basis.is_none() {
            return Err(SUPERSEDED);
        }
        let realm = self.batch.user.clone();
        let write = self.write(op, &realm);
        let key = (op.item_id.clone(), realm.clone());
        let mut moved = self.rows.moves.get(&key).cloned().flatten();
        let stamp = write.set(&mut moved, parent.clone()).ok_or(SUPERSEDED)?;
        self.put_move(key, moved);
        let mut others = self.rows.links_above(&op.item_id).to_vec();
        others.retain(|key| self.rows.is_linked(key));
        others.sort();
        let mut at = stamp.authored_at;
        for (other, _) in others {
            if self.rows.item(&other).is_some_and(|container| container.owner == realm) {
                at = at.max(self.set_link(op, &write, other, false).unwrap_or(at));
            }
        }
        self.bring_back(op, &BTreeSet::from([op.item_id.clone()]));
        Ok(at)
    }
}
