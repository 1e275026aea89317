//! Users, and what operators decided about them.

use vfs_sync_core::id::UserId;
use vfs_sync_core::server::deletion::is_replacement;
use vfs_sync_core::server::user::{UserLimits, UserRecord};
use vfs_sync_core::time::Timestamp;

use crate::error::Result;
use crate::memory::state::{State, count};
use crate::memory::transaction::MemoryTransaction;
use crate::topics::Users;

impl State {
    fn record(&self, user: &UserId) -> UserRecord {
        let devices = self.devices.rows().keys().filter(|(owner, _)| owner == user).count();
        UserRecord {
            user: user.clone(),
            disabled_at: self.disabled.get(user).copied(),
            limits: self.limits.get(user).copied().unwrap_or_default(),
            metadata: self.holds.get(user).copied().unwrap_or_default(),
            blobs: self.usages.get(user).copied().unwrap_or_default(),
            devices: devices as u64,
        }
    }
}

impl Users for MemoryTransaction<'_> {
    async fn users_after(&mut self, after: Option<&UserId>, limit: u32) -> Result<Vec<UserRecord>> {
        let all = self.state.users.rows().keys();
        let users = all.filter(|user| !is_replacement(user));
        let found = users.filter(|user| after.is_none_or(|after| *user > after)).take(count(limit));
        Ok(found.map(|user| self.state.record(user)).collect())
    }

    async fn user_record(&mut self, user: &UserId) -> Result<Option<UserRecord>> {
        Ok(self.state.users.get(user).map(|()| self.state.record(user)))
    }

    async fn limits_of(&mut self, user: &UserId) -> Result<UserLimits> {
        Ok(self.state.limits.get(user).copied().unwrap_or_default())
    }

    async fn set_limits(&mut self, user: &UserId, limits: &UserLimits) -> Result<()> {
        self.state.know(user);
        self.state.limits.put(user.clone(), *limits);
        Ok(())
    }

    async fn set_disabled(&mut self, user: &UserId, since: Option<Timestamp>) -> Result<()> {
        self.state.know(user);
        match since {
            Some(since) => self.state.disabled.put(user.clone(), since),
            None => drop(self.state.disabled.remove(user)),
        }
        Ok(())
    }
}
