//! Permissions of the pushing user, computed as if nothing were deleted.

use super::decide::{Decider, NOT_PERMITTED, Refusal, UNKNOWN_ITEM};
use super::rows::Rows;
use crate::access::{AccessLevel, Principal};
use crate::id::{ItemId, UserId};
use crate::register::Item;

impl Rows {
    /// Returns the user's access to an item: `admin` for its owner, else the greatest level among
    /// the grants to the user and the user's groups, on the item or on any of its ancestors in the
    /// realm.
    pub(super) fn level(&self, user: &UserId, id: &ItemId) -> Option<AccessLevel> {
        let owner = &self.item(id)?.owner;
        if owner == user {
            return Some(AccessLevel::Admin);
        }
        if self.is_blocked(user, owner) {
            return None;
        }
        let oneself = Principal::of_user(user);
        let groups = self.groups.get(user);
        let names_user = |principal: &Principal| {
            oneself.as_ref() == Some(principal)
                || groups.is_some_and(|groups| groups.contains(principal))
        };
        let lineage = self.lineage(id);
        let grants = lineage.into_iter().flat_map(|at| self.grants_on(at));
        grants.filter(|(principal, _)| names_user(principal)).map(|(_, level)| level).max()
    }
}

impl Decider<'_> {
    fn level(&self, id: &ItemId) -> Option<AccessLevel> {
        self.rows.level(&self.batch.user, id)
    }

    /// Returns the item if the user has at least the level `needed` on it.
    pub(super) fn permitted(&self, id: &ItemId, needed: AccessLevel) -> Result<&Item, Refusal> {
        let item = self.rows.item(id).filter(|item| !item.is_purged()).ok_or(UNKNOWN_ITEM)?;
        match self.level(id) {
            None => Err(UNKNOWN_ITEM),
            Some(level) if level < needed => Err(NOT_PERMITTED),
            Some(_) => Ok(item),
        }
    }

    /// Returns the item if the user may delete it: with `admin`; or with `write`, if the item has
    /// containers in its realm and the user may write all of them.
    pub(super) fn deletable(&self, id: &ItemId) -> Result<&Item, Refusal> {
        let item = self.permitted(id, AccessLevel::Write)?;
        let mut parents = self.rows.parents(id).peekable();
        let writes = |parent| self.level(parent) >= Some(AccessLevel::Write);
        if self.level(id) == Some(AccessLevel::Admin)
            || (parents.peek().is_some() && parents.all(writes))
        {
            return Ok(item);
        }
        Err(NOT_PERMITTED)
    }

    /// Returns whether the user may hang `child` under `parent` in the same realm: with only
    /// `write`, no grant may reach `child` through the new link that does not reach it already.
    pub(super) fn may_reorganise(&self, parent: &ItemId, child: &ItemId) -> bool {
        match self.level(child) {
            Some(AccessLevel::Admin) => true,
            Some(AccessLevel::Write) => {
                let below = self.rows.lineage(child);
                let above = self.rows.lineage(parent);
                let granted = |id: &&ItemId| self.rows.grants_on(id).next().is_some();
                above.into_iter().filter(granted).all(|id| below.contains(id))
            }
            Some(AccessLevel::Read) | None => false,
        }
    }
}
