//! Users as operators see them: their usage, their limits, and whether they are disabled.

use vfs_sync_core::id::UserId;
use vfs_sync_core::server::stage::Quota;

use crate::command::{ChangeUser, Command, ListUsers, ReadUser, one_call};
use crate::error::Result;
use crate::topics::Topics;
use crate::values::UserChange;

one_call! {
    ListUsers: |tx, it| tx.users_after(it.after.as_ref(), it.limit);
    ReadUser: |tx, it| tx.user_record(&it.user);
}

impl Command for ChangeUser {
    async fn run<T: Topics>(&self, tx: &mut T) -> Result<Self::Answer> {
        let Self { user, change, now } = self;
        let found = tx.user_record(user).await?;
        let was_disabled = found.as_ref().is_some_and(|found| found.disabled_at.is_some());
        match change {
            UserChange::Limit(limits) => tx.set_limits(user, limits).await?,
            UserChange::Disable if was_disabled => {}
            UserChange::Enable if !was_disabled => {}
            UserChange::Disable | UserChange::Enable => {
                let since = (*change == UserChange::Disable).then_some(*now);
                tx.set_disabled(user, since).await?;
                tx.next_admission_generation().await?;
            }
        }
        Ok(found.is_some())
    }
}

/// Returns the bounds on the blobs of `user`, where `default` are the server's.
pub(in crate::command) async fn own_quota<T: Topics>(
    tx: &mut T,
    user: &UserId,
    default: &Quota,
) -> Result<Quota> {
    Ok(tx.limits_of(user).await?.blobs(default))
}
