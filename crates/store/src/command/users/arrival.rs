//! A user's first call: what others granted before has no effect until then, so that a grant to
//! somebody who does not exist costs no more than its row.
//!
//! The grants of an owner to a user are awaited if the user has no feed, or if a row of `grantees`
//! says so, which only holders of the owner's realm write. A grant that finds no feed leaves such a
//! row; the user's calls give effect to what they find. So it makes no difference whether the grant
//! or the first call commits first.

use std::collections::{BTreeMap, BTreeSet};

use vfs_sync_core::access::Principal;
use vfs_sync_core::server::push::{Awaited, Changes, FeedPropagation, Needs, Rows};
use vfs_sync_core::time::Timestamp;

use super::members::granted_by;
use crate::command::push::{loaded, propagate_within};
use crate::command::{
    AwaitingOwner, AwaitsCall, BeginFeed, Command, Decides, GiveEffect, one_call,
};
use crate::error::{Result, StoreError};
use crate::topics::{Decision, Topics};

one_call! {
    BeginFeed: |tx, it| tx.begin_feed(&it.user);
    AwaitingOwner: |tx, it| tx.awaiting_owner(&it.user);
}

impl Command for AwaitsCall {
    async fn run<T: Topics>(&self, tx: &mut T) -> Result<Self::Answer> {
        let (head, awaits_call) = tx.feed_state(&self.user).await?;
        Ok(head.is_none() || awaits_call)
    }
}

impl Decides for GiveEffect {
    async fn decide<T: Topics>(&self, tx: &mut T) -> Result<(Self::Answer, Option<Decision>)> {
        let Self { user, owner, bound } = self;
        let mut rows = Rows::default();
        tx.lock_realms(Some(owner), &BTreeSet::new(), &mut rows).await?;
        let among = Some(BTreeSet::from([user.clone()]));
        let awaited = BTreeSet::from([owner.clone()]);
        let found = loaded(tx, &Needs { awaited, among, ..Needs::default() }).await?;
        if found.awaited.get(owner).is_none_or(BTreeSet::is_empty) {
            return Ok(((), None));
        }
        let mut principals = BTreeSet::from_iter(tx.groups_of(user).await?);
        principals.extend(Principal::of_user(user));
        let items = granted_by(tx, owner, &principals).await?;
        // The time of the owner's last change: no grant is later.
        let now = rows.last_changed.get(owner).copied().unwrap_or(Timestamp::MIN);
        let of = (owner.clone(), user.clone());
        let arrival = FeedPropagation::of_arrival(user.clone(), owner.clone(), items, rows, now)
            .within(*bound);
        let decision = match propagate_within(tx, arrival, now).await {
            Ok(Some(decision)) => decision,
            // An owner who shows too much keeps the user from nothing of others.
            Ok(None) | Err(StoreError::NoMemory) => {
                let awaited = BTreeMap::from([(of, Awaited::Less)]);
                let changes = Changes { awaited, ..Changes::default() };
                Decision { changes, feeds: Vec::new() }
            }
            Err(error) => return Err(error),
        };
        Ok(((), Some(decision)))
    }
}
