//! The removal of a user, step by step ([`vfs_sync_core::server::deletion`]).
//!
//! Each step is one transaction, which holds the lock of the deletion's row before all others: of
//! several servers, one at a time goes on. What a step does is found from the rows that are left,
//! so a step that was undone is simply taken again.

use std::collections::{BTreeMap, BTreeSet};

use vfs_sync_core::access::Principal;
use vfs_sync_core::entry::{item_of_key, with_actor};
use vfs_sync_core::id::{ItemId, ReplicaId, StagingId, UserId};
use vfs_sync_core::server::deletion::{Deletion, DeletionCounts, DeletionPhase, Removed};
use vfs_sync_core::server::push::{Changes, FeedPropagation, Rows, UsageChange};
use vfs_sync_core::server::stage::BlobStatus;
use vfs_sync_core::time::Timestamp;

use crate::command::blobs::reclaim::discard;
use crate::command::push::{loaded, propagate};
use crate::command::trash::{clear, detach};
use crate::command::{
    AllowUser, Command, DeleteUser, DeletionStep, DueDeletions, ReadDeletion, one_call,
};
use crate::error::Result;
use crate::topics::Topics;
use crate::values::{AllowAnswer, TrashRow, TrashState};

/// Grants that one step removes: each is told to everybody who sees its item.
const GRANTS_AT_ONCE: usize = 20;

/// Memberships that one step removes.
const GROUPS_AT_ONCE: usize = 20;

one_call! {
    DueDeletions: |tx, it| tx.due_deletions(it.now, it.at_most);
}

async fn pseudonym_of<T: Topics>(tx: &mut T, user: &UserId) -> Result<String> {
    Ok(tx.identity().await?.pseudonym(user))
}

/// Returns whether calls of the user are refused because the user was deleted.
pub(super) async fn is_deleted<T: Topics>(tx: &mut T, user: &UserId) -> Result<bool> {
    let pseudonym = pseudonym_of(tx, user).await?;
    Ok(tx.deletion(&pseudonym).await?.is_some_and(|deletion| deletion.denies()))
}

impl Command for ReadDeletion {
    async fn run<T: Topics>(&self, tx: &mut T) -> Result<Self::Answer> {
        let pseudonym = pseudonym_of(tx, &self.user).await?;
        tx.deletion(&pseudonym).await
    }
}

impl Command for DeleteUser {
    async fn run<T: Topics>(&self, tx: &mut T) -> Result<Self::Answer> {
        let Self { user, due_at, now } = self;
        let pseudonym = pseudonym_of(tx, user).await?;
        let found = tx.deletion(&pseudonym).await?;
        if let Some(mut found) = found.filter(|found| found.allowed_at.is_none()) {
            if found.phase == DeletionPhase::Waiting {
                found.due_at = *due_at;
                tx.put_deletion(&found).await?;
            }
            return Ok(Some(found));
        }
        let Some(record) = tx.user_record(user).await? else { return Ok(None) };
        let was_disabled = record.disabled_at.is_some();
        let deletion = Deletion::new(user.clone(), pseudonym, was_disabled, *now, *due_at);
        tx.put_deletion(&deletion).await?;
        if !was_disabled {
            tx.set_disabled(user, Some(*now)).await?;
            tx.next_admission_generation().await?;
        }
        Ok(Some(deletion))
    }
}

impl Command for AllowUser {
    async fn run<T: Topics>(&self, tx: &mut T) -> Result<Self::Answer> {
        let Self { user, now, chance } = self;
        let pseudonym = pseudonym_of(tx, user).await?;
        let found = tx.deletion(&pseudonym).await?;
        let Some(mut found) = found.filter(|found| found.allowed_at.is_none()) else {
            return Ok(AllowAnswer::NotDeleted);
        };
        match found.phase {
            DeletionPhase::Waiting => {
                tx.drop_deletion(&pseudonym).await?;
                if !found.was_disabled {
                    tx.set_disabled(user, None).await?;
                }
                tx.next_admission_generation().await?;
                Ok(AllowAnswer::CalledOff)
            }
            DeletionPhase::Done => {
                found.allowed_at = Some(*now);
                tx.put_deletion(&found).await?;
                tx.next_admission_generation().await?;
                // The new feed begins where every process has seen a later one.
                tx.begin_epoch(*now, *chance).await?;
                Ok(AllowAnswer::Allowed)
            }
            _ => Ok(AllowAnswer::UnderWay),
        }
    }
}

impl Command for DeletionStep {
    async fn run<T: Topics>(&self, tx: &mut T) -> Result<Self::Answer> {
        let Self { pseudonym, now, at_most, pace } = self;
        let Some(mut deletion) = tx.deletion(pseudonym).await? else { return Ok(None) };
        let user = deletion.user.clone().filter(|_| !deletion.is_done());
        let Some(user) = user.filter(|_| deletion.due_at <= *now) else {
            return Ok(Some(deletion));
        };
        let by = deletion.replacement();
        let begins = deletion.phase == DeletionPhase::Shares && deletion.removed == 0;
        if begins && !tx.has_rows(&user).await? {
            // A round that finds nothing is short.
            deletion.phase = DeletionPhase::Rows;
            deletion.advance(&Removed::default(), false, *now, *pace);
            tx.put_deletion(&deletion).await?;
            return Ok(Some(deletion));
        }
        let after = deletion.cursor.as_deref();
        let step = match deletion.phase {
            DeletionPhase::Waiting => begin(tx, &user).await?,
            DeletionPhase::Shares => leave(tx, &user, &by, *now).await?,
            DeletionPhase::Items => end_items(tx, &user, &by, *now, *at_most).await?,
            DeletionPhase::Feed => end_feed(tx, &user, *now, *at_most).await?,
            DeletionPhase::Contents => end_contents(tx, &user, &by, after, *now, *at_most).await?,
            DeletionPhase::Authors => rename_authors(tx, &user, &by, after, *at_most).await?,
            DeletionPhase::Mentions => rename_mentions(tx, &user, &by, after, *at_most).await?,
            DeletionPhase::Rows => end_rows(tx, &user, *at_most).await?,
            DeletionPhase::Done => Removed::default(),
        };
        let is_last = deletion.phase == DeletionPhase::Rows && !step.more;
        let is_known = is_last && tx.has_rows(&user).await?;
        deletion.advance(&step, is_known, *now, *pace);
        tx.put_deletion(&deletion).await?;
        Ok(Some(deletion))
    }
}

/// Ends the wait: from now on the user's calls are refused because of the deletion, and no push of
/// the user's is applied, not even one that was admitted before.
async fn begin<T: Topics>(tx: &mut T, user: &UserId) -> Result<Removed> {
    tx.lock_realms(Some(user), &BTreeSet::new(), &mut Rows::default()).await?;
    tx.refuse_pushes(user).await?;
    tx.next_admission_generation().await?;
    Ok(Removed::default())
}

/// Removes memberships of groups and grants of others, which give the user no access from then on:
/// the rows of the present access go with the feed.
async fn leave<T: Topics>(
    tx: &mut T,
    user: &UserId,
    by: &UserId,
    now: Timestamp,
) -> Result<Removed> {
    let groups = tx.groups_of(user).await?;
    if !groups.is_empty() {
        let some = groups.iter().take(GROUPS_AT_ONCE);
        for group in some.clone() {
            tx.lock_group(group).await?;
        }
        for group in some.clone() {
            tx.write_member(group, user, false).await?;
        }
        let counts = DeletionCounts { shares: some.len() as u64, ..DeletionCounts::default() };
        return Ok(Removed { counts, more: true, ..Removed::default() });
    }
    let Some(principal) = Principal::of_user(user) else { return Ok(Removed::default()) };
    let granted = tx.granted_to(&principal).await?;
    let more = granted.len() > GRANTS_AT_ONCE;
    let items: BTreeSet<ItemId> = granted.into_iter().take(GRANTS_AT_ONCE).collect();
    if items.is_empty() {
        return Ok(Removed::default());
    }
    let rows = departing(tx, &items).await?;
    let left = FeedPropagation::of_grantee_deletion(user, by, &items, rows, now);
    let decision = propagate(tx, left, now).await?;
    tx.write_changes(&decision.changes, &decision.feeds).await?;
    let counts = DeletionCounts { shares: items.len() as u64, ..DeletionCounts::default() };
    Ok(Removed { counts, more, ..Removed::default() })
}

/// Locks the realms of `items` and loads the rows that their end needs.
async fn departing<T: Topics>(tx: &mut T, items: &BTreeSet<ItemId>) -> Result<Rows> {
    let mut rows = Rows::default();
    tx.lock_realms(None, items, &mut rows).await?;
    while let Some(needs) = rows.needs_of_departure(items) {
        let found = loaded(tx, &needs).await?;
        rows.absorb(needs, found);
    }
    Ok(rows)
}

/// Ends items of the user: some become tombstones, or the contents and rows of tombstones go, or
/// tombstones without any do. Each kind takes locks of its own.
async fn end_items<T: Topics>(
    tx: &mut T,
    owner: &UserId,
    by: &UserId,
    now: Timestamp,
    at_most: u32,
) -> Result<Removed> {
    let more = Removed { more: true, ..Removed::default() };
    let owned = tx.owned_items(owner, at_most.div_ceil(2)).await?;
    if owned.is_empty() {
        return Ok(Removed::default());
    }
    let trash = tx.trash_rows(&owned).await?;
    let in_state = |state: TrashState| {
        let found = trash.iter().filter(move |(_, row)| row.state == state);
        found.map(|(id, _)| id.clone()).collect::<BTreeSet<ItemId>>()
    };
    let gone = in_state(TrashState::Gone);
    if !gone.is_empty() {
        tx.lock_realms(None, &gone, &mut Rows::default()).await?;
        let count = gone.len() as u64;
        let usage = UsageChange { items: -(count as i64), ..UsageChange::default() };
        let usage = BTreeMap::from([(owner.clone(), usage)]);
        tx.write_changes(&Changes { usage, ..Changes::default() }, &[]).await?;
        tx.delete_items(&gone).await?;
        let counts = DeletionCounts { items: count, ..DeletionCounts::default() };
        return Ok(Removed { counts, ..more });
    }
    if !in_state(TrashState::Purging).is_empty() {
        // They may be of another server whose clock is ahead.
        let now = now.max(trash.values().map(|row| row.at).max().unwrap_or(now));
        let detached = detach(tx, now, at_most).await?;
        let cleared = if detached == 0 { clear(tx, now, at_most).await? } else { 0 };
        return Ok(Removed { waits: detached + cleared == 0, ..more });
    }
    bury(tx, owner, by, owned, now, at_most).await?;
    Ok(more)
}

/// Makes items of the user tombstones, as many as write about `at_most` rows.
async fn bury<T: Topics>(
    tx: &mut T,
    owner: &UserId,
    by: &UserId,
    owned: BTreeSet<ItemId>,
    now: Timestamp,
    at_most: u32,
) -> Result<()> {
    let rows = departing(tx, &owned).await?;
    let mut room = usize::try_from(at_most).unwrap_or(usize::MAX).saturating_mul(4);
    let mut items = BTreeSet::new();
    // Newer ids first: what was made in a folder goes before the folder.
    for id in owned.iter().rev() {
        let weight = rows.weight_of_departure(id);
        if weight > room && !items.is_empty() {
            break;
        }
        room = room.saturating_sub(weight);
        items.insert(id.clone());
    }
    let ended = FeedPropagation::of_owner_deletion(owner, by, &items, rows, now);
    let decision = propagate(tx, ended, now).await?;
    tx.write_changes(&decision.changes, &decision.feeds).await?;
    let row = |item_id| TrashRow {
        item_id,
        owner: owner.clone(),
        state: TrashState::Purging,
        at: now,
        deleted_by: owner.clone(),
        replica: ReplicaId::nameless(),
        size: None,
    };
    let purged: Vec<TrashRow> = items.into_iter().map(row).collect();
    tx.put_trash(&purged).await
}

/// Removes a part of the user's feed, with the access to the items in it.
async fn end_feed<T: Topics>(
    tx: &mut T,
    user: &UserId,
    now: Timestamp,
    at_most: u32,
) -> Result<Removed> {
    let found = tx.feed_keys(user, at_most).await?;
    if found.is_empty() {
        return Ok(Removed::default());
    }
    let items: BTreeSet<ItemId> = found.iter().filter_map(|(_, key)| item_of_key(key)).collect();
    tx.lock_realms(None, &items, &mut Rows::default()).await?;
    tx.lock_heads(&BTreeSet::from([user.clone()]), now).await?;
    let counters: Vec<u64> = found.iter().map(|(counter, _)| *counter).collect();
    tx.remove_feed(user, &counters, &items).await?;
    let counts = DeletionCounts { feed_rows: counters.len() as u64, ..DeletionCounts::default() };
    Ok(Removed { counts, more: true, ..Removed::default() })
}

/// Goes through the user's stages: discards what is attached to nothing, and gives the rest, which
/// others' items show or whose bytes are gone, to the replacement. It waits for the object store.
async fn end_contents<T: Topics>(
    tx: &mut T,
    user: &UserId,
    by: &UserId,
    after: Option<&str>,
    now: Timestamp,
    at_most: u32,
) -> Result<Removed> {
    let (after, waiting) = match after.map(|after| after.split_at_checked(1)) {
        Some(Some((waiting, id))) => (id.parse::<StagingId>().ok(), waiting == "+"),
        _ => (None, false),
    };
    let mut found = tx.stages_of(user, after.as_ref(), at_most).await?;
    let last = found.last().cloned();
    let mut others = false;
    if found.is_empty() {
        found = tx.stages_charged_to(user, at_most).await?;
        others = true;
    }
    let mut step = Removed { more: true, ..Removed::default() };
    let (mut waits, mut progress) = (waiting, false);
    // Locked in the order of their ids, as everywhere.
    for staging_id in found.into_iter().collect::<BTreeSet<_>>() {
        let Some(stored) = tx.stage(&staging_id).await?.transpose()? else { continue };
        let blob_id = stored.row.blob_id.clone();
        let attached = !tx.attachments_with(&blob_id).await?.is_empty();
        match stored.blob_status {
            // A later round ends the item that came meanwhile.
            BlobStatus::Live if attached && others => {}
            BlobStatus::Live if attached => {
                tx.give_stage(&staging_id, &blob_id, by, false).await?;
            }
            BlobStatus::Live => {
                waits = true;
                discard(tx, &stored, now).await?;
            }
            BlobStatus::Deleting => waits = true,
            BlobStatus::Deleted => {
                if let Some((size, _)) = stored.row.uploaded {
                    step.counts.contents += 1;
                    step.counts.bytes += size;
                }
                if others {
                    progress = true;
                    tx.set_charged(&blob_id, &stored.row.owner).await?;
                } else {
                    tx.give_stage(&staging_id, &blob_id, by, true).await?;
                }
            }
        }
    }
    let mark = if waits { "+" } else { "-" };
    match last {
        Some(last) => step.cursor = Some(format!("{mark}{last}")),
        // From the beginning, once the object store had time.
        None if waits => step.waits = true,
        None => step.more = progress,
    }
    Ok(step)
}

/// Replaces the user's name as the author of registers of the next items.
async fn rename_authors<T: Topics>(
    tx: &mut T,
    user: &UserId,
    by: &UserId,
    after: Option<&str>,
    at_most: u32,
) -> Result<Removed> {
    let after: Option<ItemId> = after.and_then(|after| after.parse().ok());
    let next = tx.items_after(after.as_ref(), at_most).await?;
    let Some(last) = next.last() else { return Ok(Removed::default()) };
    let cursor = Some(last.to_string());
    let mut counts = DeletionCounts::default();
    let found = tx.items_naming(user, &next).await?;
    if !found.is_empty() {
        let mut rows = Rows::default();
        tx.lock_realms(None, &found, &mut rows).await?;
        let renamed = tx.rename_author(user, by, &found).await?;
        let mut changes = Changes::default();
        for id in &found {
            let Some(Some(item)) = rows.items.get(id) else { continue };
            let mut item = item.clone();
            if item.fields.rename_author(user, by) {
                counts.names += 1;
                changes.items.insert(id.clone(), item.clone());
            }
            let renamed = renamed.get(id).copied().unwrap_or_default();
            counts.names += renamed.rows;
            if renamed.grants > 0 {
                let usage = changes.usage.entry(item.owner).or_default();
                usage.grants -= i64::try_from(renamed.grants).unwrap_or(0);
            }
        }
        tx.write_changes(&changes, &[]).await?;
    }
    Ok(Removed { counts, more: true, cursor, waits: false })
}

/// Replaces the user's name in entries of others' feeds, among the next rows.
async fn rename_mentions<T: Topics>(
    tx: &mut T,
    user: &UserId,
    by: &UserId,
    after: Option<&str>,
    at_most: u32,
) -> Result<Removed> {
    let (found, cursor) = tx.mentions(user, after, at_most).await?;
    let mut counts = DeletionCounts::default();
    for mention in &found {
        if let Some(json) = with_actor(&mention.json, user, by) {
            tx.replace_mention(mention, &json).await?;
            counts.names += 1;
        }
    }
    Ok(Removed { counts, more: cursor.is_some(), cursor, waits: false })
}

/// Removes the rows that are the user's own, and at last the user.
async fn end_rows<T: Topics>(tx: &mut T, user: &UserId, at_most: u32) -> Result<Removed> {
    tx.lock_realms(Some(user), &BTreeSet::new(), &mut Rows::default()).await?;
    let removed = tx.remove_rows(user, at_most).await?;
    let rows = if removed == 0 { tx.remove_user(user).await? } else { removed };
    let counts = DeletionCounts { rows, ..DeletionCounts::default() };
    Ok(Removed { counts, more: removed > 0, ..Removed::default() })
}
