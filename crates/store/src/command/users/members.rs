//! Groups and blocks, and the access that their grants give.

use std::collections::BTreeSet;

use vfs_sync_core::access::Principal;
use vfs_sync_core::id::{ItemId, UserId};
use vfs_sync_core::limits;
use vfs_sync_core::server::push::{Bound, FeedPropagation, Needs, Rows};
use vfs_sync_core::server::stage::OverQuota;
use vfs_sync_core::time::Timestamp;

use crate::command::push::{loaded, propagate, propagate_within};
use crate::command::{
    BlockedBy, Decides, GroupsOf, Knows, ListMembers, SetBlock, SetMember, one_call,
};
use crate::error::{Result, StoreError};
use crate::topics::{Decision, Topics};

one_call! {
    ListMembers: |tx, it| tx.members_after(&it.group, it.after.as_ref(), it.limit);
    GroupsOf: |tx, it| tx.groups_of(&it.user);
    BlockedBy: |tx, it| tx.blocked_by(&it.user);
    Knows: |tx, it| tx.knows(&it.principal);
}

impl Decides for SetMember {
    async fn decide<T: Topics>(&self, tx: &mut T) -> Result<(Self::Answer, Option<Decision>)> {
        let Self { group, member, present, now } = self;
        tx.lock_group(group).await?;
        let size =
            if *present { tx.group_size(group, limits::MAX_GROUP_MEMBERS + 1).await? } else { 0 };
        if !tx.write_member(group, member, *present).await? {
            return Ok(((), None));
        }
        if *present {
            let groups = tx.groups_of(member).await?.len() as u64;
            within("maxGroupMembers", size + 1, limits::MAX_GROUP_MEMBERS)?;
            within("maxUserGroups", groups, limits::MAX_USER_GROUPS as u64)?;
        }
        let items = tx.granted_to(group).await?;
        Ok(((), regrant(tx, BTreeSet::from([member.clone()]), items, *now).await?))
    }
}

fn within(limit: &'static str, wanted: u64, max: u64) -> Result<()> {
    let over = OverQuota { limit, max, wanted };
    if wanted <= max { Ok(()) } else { Err(StoreError::OverQuota { own: true, over }) }
}

/// The decision locks the owner's realm, so nobody grants anything in it at the same time. A
/// concurrent change of one of the user's groups locks the realms that the group has grants in, and
/// recomputes the user's access, before or after this one.
impl Decides for SetBlock {
    async fn decide<T: Topics>(&self, tx: &mut T) -> Result<(Self::Answer, Option<Decision>)> {
        let Self { user, owner, blocked, now } = self;
        let mut rows = Rows::default();
        tx.lock_realms(Some(owner), &BTreeSet::new(), &mut rows).await?;
        if !tx.write_block(user, owner, *blocked).await? {
            return Ok(((), None));
        }
        let needs = Needs { groups_of: BTreeSet::from([user.clone()]), ..Needs::default() };
        let mut found = loaded(tx, &needs).await?;
        let mut principals = found.groups.remove(user).unwrap_or_default();
        principals.extend(Principal::of_user(user));
        let items = granted_by(tx, owner, &principals).await?;
        if items.is_empty() {
            return Ok(((), None));
        }
        let regranted =
            FeedPropagation::of_grants(BTreeSet::from([user.clone()]), items, rows, *now)
                .in_chunks_of(tx.plan_memory().chunk);
        Ok(((), Some(propagate(tx, regranted, *now).await?)))
    }
}

/// The items of `owner` that one of `principals` is granted.
pub(super) async fn granted_by<T: Topics>(
    tx: &mut T,
    owner: &UserId,
    principals: &BTreeSet<Principal>,
) -> Result<BTreeSet<ItemId>> {
    let mut items = BTreeSet::new();
    for principal in principals {
        items.extend(tx.granted_to(principal).await?);
    }
    let needs = Needs { items: items.clone(), ..Needs::default() };
    let found = loaded(tx, &needs).await?;
    items.retain(|id| {
        let item = found.items.get(id).and_then(Option::as_ref);
        item.is_some_and(|item| item.owner == *owner)
    });
    Ok(items)
}

/// Gives effect to the grants of a database in which they had none.
pub(crate) async fn regrant_all<T: Topics>(tx: &mut T, now: Timestamp) -> Result<()> {
    let (users, items) = tx.all_grants().await?;
    if items.is_empty() || users.is_empty() {
        return Ok(());
    }
    let mut rows = Rows::default();
    tx.lock_realms(None, &items, &mut rows).await?;
    let regranted = FeedPropagation::of_grants(users, items, rows, now).within(Bound::NONE);
    match propagate_within(tx, regranted, now).await? {
        Some(decision) => tx.write_changes(&decision.changes, &decision.feeds).await,
        None => Ok(()),
    }
}

/// Recomputes the access of `users` to `items`.
async fn regrant<T: Topics>(
    tx: &mut T,
    users: BTreeSet<UserId>,
    items: BTreeSet<ItemId>,
    now: Timestamp,
) -> Result<Option<Decision>> {
    if items.is_empty() || users.is_empty() {
        return Ok(None);
    }
    let mut rows = Rows::default();
    tx.lock_realms(None, &items, &mut rows).await?;
    let regranted =
        FeedPropagation::of_grants(users, items, rows, now).in_chunks_of(tx.plan_memory().chunk);
    Ok(Some(propagate(tx, regranted, now).await?))
}
