//! Groups, their members, and blocks.

use std::ops::Bound;

use vfs_sync_core::access::{Principal, PrincipalType};
use vfs_sync_core::id::UserId;

use crate::error::Result;
use crate::memory::state::count;
use crate::memory::transaction::MemoryTransaction;
use crate::topics::Members;

impl Members for MemoryTransaction<'_> {
    async fn write_member(
        &mut self,
        group: &Principal,
        user: &UserId,
        present: bool,
    ) -> Result<bool> {
        let was = self.state.members.get(group, user).is_some();
        if present {
            self.state.know(user);
        }
        match (was, present) {
            (false, true) => {
                self.state.members.put(group, user.clone(), ());
                self.state.groups.put(user, group.clone(), ());
            }
            (true, false) => {
                self.state.members.remove(group, user);
                self.state.groups.remove(user, group);
            }
            _ => {}
        }
        Ok(was != present)
    }

    async fn write_block(&mut self, user: &UserId, owner: &UserId, blocked: bool) -> Result<bool> {
        let was = self.state.blocked.get(user, owner).is_some();
        match (was, blocked) {
            (false, true) => {
                self.state.know(user);
                self.state.know(owner);
                self.state.blocked.put(user, owner.clone(), ());
                self.state.blockers.put(owner, user.clone(), ());
            }
            (true, false) => {
                self.state.blocked.remove(user, owner);
                self.state.blockers.remove(owner, user);
            }
            _ => {}
        }
        Ok(was != blocked)
    }

    async fn members_after(
        &mut self,
        group: &Principal,
        after: Option<&UserId>,
        limit: u32,
    ) -> Result<Vec<UserId>> {
        let from = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let members = self.state.members.group(group).range::<UserId, _>(from);
        Ok(members.take(count(limit)).map(|(user, ())| user.clone()).collect())
    }

    async fn group_size(&mut self, group: &Principal, enough: u64) -> Result<u64> {
        Ok((self.state.members.group(group).len() as u64).min(enough))
    }

    async fn groups_of(&mut self, user: &UserId) -> Result<Vec<Principal>> {
        Ok(self.state.groups.group(user).keys().cloned().collect())
    }

    async fn blocked_by(&mut self, user: &UserId) -> Result<Vec<UserId>> {
        Ok(self.state.blocked.group(user).keys().cloned().collect())
    }

    async fn knows(&mut self, principal: &Principal) -> Result<bool> {
        Ok(match (principal.kind, principal.user()) {
            (PrincipalType::User, Some(user)) => {
                let synced = !self.state.reconciled.group(&user).is_empty();
                synced || !self.state.replicas.group(&user).is_empty()
            }
            _ => !self.state.members.group(principal).is_empty(),
        })
    }
}
