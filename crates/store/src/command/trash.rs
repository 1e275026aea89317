//! Deleted items: listed, restored, and removed for good.
//!
//! A deletion adds a row to `trash`; a revival removes it. Removing an item for good takes several
//! transactions, each of which leaves a state that any later caller can finish: the item becomes a
//! tombstone, which nothing brings back; its contents are detached; its other rows are removed; the
//! tombstone is removed once nobody can name the item any more.

use std::collections::{BTreeMap, BTreeSet};

use vfs_sync_core::access::AccessLevel;
use vfs_sync_core::id::{BlobId, ItemId, RefId, UserId};
use vfs_sync_core::register::{Item, ItemFields};
use vfs_sync_core::server::push::{Changes, FeedPropagation, Needs, Rows, UsageChange};
use vfs_sync_core::server::stage::{BlobStatus, Usage};
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::trash::{TrashedItem, TrashedParent};

use super::blobs::reclaim::locked;
use super::push::{loaded, propagate};
use super::{Command, Decides, ListTrash, Purge, PurgeStep, Restore, TrashedBytes};
use crate::error::Result;
use crate::topics::{Decision, PushWrite, Topics};
use crate::values::{
    MAX_TRASH_ITEMS, PurgeAnswer, RestoreAnswer, TrashCursor, TrashListing, TrashOf, TrashRow,
    TrashState,
};

/// The number of pages of candidates that a listing searches for items that its reader may restore.
const LOOKS: usize = 8;

impl Command for ListTrash {
    async fn run<T: Topics>(&self, tx: &mut T) -> Result<Self::Answer> {
        let Self { user, after, .. } = self;
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let mut rows = Rows::default();
        let (mut kept, mut after) = (Vec::new(), after.clone());
        let mut more = true;
        for _ in 0..LOOKS {
            let found = candidates(tx, user, after.as_ref(), limit + 1).await?;
            more = found.len() > limit;
            let foreign: BTreeSet<ItemId> = found
                .iter()
                .filter(|row| row.owner != *user)
                .map(|row| row.item_id.clone())
                .collect();
            load_rights(tx, user, &foreign, &mut rows).await?;
            for row in found.into_iter().take(limit - kept.len()) {
                after = Some(TrashCursor { at: row.at, item_id: row.item_id.clone() });
                if may_restore(&rows, user, &row) {
                    kept.push(row);
                }
            }
            if !more || kept.len() == limit {
                break;
            }
        }
        let items = described(tx, user, &kept, &mut rows, self.keep_millis).await?;
        Ok(TrashListing { items, next: after.filter(|_| more) })
    }
}

/// Returns the newest deletions of items that the user owns or deleted, at most `limit`.
async fn candidates<T: Topics>(
    tx: &mut T,
    user: &UserId,
    after: Option<&TrashCursor>,
    limit: usize,
) -> Result<Vec<TrashRow>> {
    let mut found = tx.trash_page(user, TrashOf::Owner, after, limit).await?;
    let deleted = tx.trash_page(user, TrashOf::Deleter, after, limit).await?;
    found.extend(deleted.into_iter().filter(|row| row.owner != *user));
    found.sort_by(|a, b| (b.at, &b.item_id).cmp(&(a.at, &a.item_id)));
    found.truncate(limit);
    Ok(found)
}

/// Returns whether the user may see the row and restore its item: as the owner, or as the deleter
/// with the right to write in its place.
fn may_restore(rows: &Rows, user: &UserId, row: &TrashRow) -> bool {
    let writes = || rows.right(user, &row.item_id) >= Some(AccessLevel::Write);
    row.owner == *user || (row.deleted_by == *user && writes())
}

/// Loads the rows that determine the user's rights on `items`.
async fn load_rights<T: Topics>(
    tx: &mut T,
    user: &UserId,
    items: &BTreeSet<ItemId>,
    rows: &mut Rows,
) -> Result<()> {
    while let Some(needs) = rows.needs_of_rights(user, items) {
        let found = loaded(tx, &needs).await?;
        rows.absorb(needs, found);
    }
    Ok(())
}

async fn load<T: Topics>(tx: &mut T, mut needs: Needs, rows: &mut Rows) -> Result<()> {
    needs.items.retain(|id| !rows.items.contains_key(id));
    needs.ancestors.retain(|id| !rows.ancestors.contains(id));
    if !needs.is_empty() {
        let found = loaded(tx, &needs).await?;
        rows.absorb(needs, found);
    }
    Ok(())
}

/// Describes the rows as their reader may see them.
async fn described<T: Topics>(
    tx: &mut T,
    user: &UserId,
    kept: &[TrashRow],
    rows: &mut Rows,
    keep_millis: i64,
) -> Result<Vec<TrashedItem>> {
    let ids: BTreeSet<ItemId> = kept.iter().map(|row| row.item_id.clone()).collect();
    let needs = Needs { items: ids.clone(), ancestors: ids.clone(), ..Needs::default() };
    load(tx, needs, rows).await?;
    let mut above = BTreeSet::new();
    let mut open: Vec<ItemId> = ids.into_iter().collect();
    while let Some(id) = open.pop() {
        open.extend(rows.above(&id).into_iter().filter(|parent| above.insert(parent.clone())));
    }
    load_rights(tx, user, &above, rows).await?;
    let parent = |id: &ItemId| {
        rows.right(user, id)?;
        let item = rows.items.get(id)?.as_ref().filter(|item| !item.is_purged())?;
        let name = item.fields.name.as_ref().map(|register| register.value.clone());
        Some(TrashedParent { item_id: id.clone(), name, deleted: item.fields.is_deleted() })
    };
    let parents = |id: &ItemId| {
        let mut above = rows.above(id);
        above.sort();
        above.iter().filter_map(parent).collect::<Vec<_>>()
    };
    let mut items = Vec::with_capacity(kept.len());
    for row in kept {
        let Some(Some(item)) = rows.items.get(&row.item_id) else { continue };
        let (by, expires) = (row.deleted_by.clone(), row.at.plus_millis(keep_millis));
        let found = TrashedItem::of_item(&row.item_id, item, row.at, by, expires);
        let Some(mut found) = found else { continue };
        found.size = row.size;
        found.parents = parents(&row.item_id);
        let mut next = found.parents.first().cloned();
        while let Some(at) = next {
            next = parents(&at.item_id).into_iter().next();
            found.path.push(at);
        }
        found.path.reverse();
        items.push(found);
    }
    Ok(items)
}

/// The state of the item that a restore or purge names.
enum Found {
    /// The item is in the trash, and the user may restore it.
    Kept(TrashRow),
    /// The item is live, and the user may write it.
    Live,
    /// The item is a tombstone of the user's.
    Gone,
    Unknown,
}

/// Looks an item up under its realm's lock.
async fn find<T: Topics>(
    tx: &mut T,
    user: &UserId,
    item_id: &ItemId,
    rows: &mut Rows,
) -> Result<Found> {
    let ids = BTreeSet::from([item_id.clone()]);
    tx.lock_realms(Some(user), &ids, rows).await?;
    let Some(Some(item)) = rows.items.get(item_id).cloned() else { return Ok(Found::Unknown) };
    if item.is_purged() {
        return Ok(if item.owner == *user { Found::Gone } else { Found::Unknown });
    }
    load_rights(tx, user, &ids, rows).await?;
    if !item.fields.is_deleted() {
        let writes = rows.right(user, item_id) >= Some(AccessLevel::Write);
        return Ok(if writes { Found::Live } else { Found::Unknown });
    }
    let row = tx.trash_rows(&ids).await?.remove(item_id);
    Ok(match row {
        Some(row) if may_restore(rows, user, &row) => Found::Kept(row),
        _ => Found::Unknown,
    })
}

/// Returns the item and, if `recursive`, the items under it by present links that the same replica
/// deleted at the same time or later; `None` if there are more than [`MAX_TRASH_ITEMS`].
async fn deleted_with<T: Topics>(
    tx: &mut T,
    root: &TrashRow,
    recursive: bool,
    rows: &mut Rows,
) -> Result<Option<BTreeMap<ItemId, TrashRow>>> {
    let mut all = BTreeMap::from([(root.item_id.clone(), root.clone())]);
    let mut frontier = BTreeSet::from([root.item_id.clone()]);
    while recursive && !frontier.is_empty() {
        let needs = Needs { around: std::mem::take(&mut frontier), ..Needs::default() };
        let parents = needs.around.clone();
        let found = loaded(tx, &needs).await?;
        rows.absorb(needs, found);
        let below = parents.iter().flat_map(|id| rows.below(id));
        let below: BTreeSet<ItemId> = below.filter(|id| !all.contains_key(id)).collect();
        if all.len() + below.len() > MAX_TRASH_ITEMS {
            return Ok(None);
        }
        for (id, row) in tx.trash_rows(&below).await? {
            let with = row.state == TrashState::Kept
                && row.owner == root.owner
                && row.deleted_by == root.deleted_by
                && row.replica == root.replica
                && row.at >= root.at;
            if with {
                frontier.insert(id.clone());
                all.insert(id, row);
            }
        }
    }
    Ok(Some(all))
}

impl Decides for Restore {
    async fn decide<T: Topics>(&self, tx: &mut T) -> Result<(Self::Answer, Option<Decision>)> {
        let Self { user, item_id, recursive, .. } = self;
        let now = self.now;
        let mut rows = Rows::default();
        let root = match find(tx, user, item_id, &mut rows).await? {
            Found::Kept(row) => row,
            Found::Live => return Ok((RestoreAnswer::Restored(0), None)),
            Found::Gone | Found::Unknown => return Ok((RestoreAnswer::Unknown, None)),
        };
        let Some(all) = deleted_with(tx, &root, *recursive, &mut rows).await? else {
            return Ok((RestoreAnswer::TooMany, None));
        };
        let ids: BTreeSet<ItemId> = all.into_keys().collect();
        while let Some(needs) = rows.needs_of_restore(&ids) {
            let found = loaded(tx, &needs).await?;
            rows.absorb(needs, found);
        }
        let restored = FeedPropagation::of_restore(user, &ids, rows, now);
        let decision = propagate(tx, restored, now).await?;
        Ok((RestoreAnswer::Restored(ids.len() as u64), Some(decision)))
    }
}

impl Command for Purge {
    async fn run<T: Topics>(&self, tx: &mut T) -> Result<Self::Answer> {
        let Self { user, item_id, recursive, .. } = self;
        let now = self.now;
        let mut rows = Rows::default();
        let root = match find(tx, user, item_id, &mut rows).await? {
            Found::Kept(row) if row.owner == *user => row,
            Found::Kept(_) => return Ok(PurgeAnswer::NotOwner),
            Found::Gone => return Ok(PurgeAnswer::Purged(0)),
            Found::Live => {
                let item = rows.items.get(item_id).and_then(Option::as_ref);
                let own = item.is_some_and(|item| item.owner == *user);
                return Ok(if own { PurgeAnswer::Live } else { PurgeAnswer::Unknown });
            }
            Found::Unknown => return Ok(PurgeAnswer::Unknown),
        };
        let Some(all) = deleted_with(tx, &root, *recursive, &mut rows).await? else {
            return Ok(PurgeAnswer::TooMany);
        };
        let ids = all.keys().cloned().collect();
        load(tx, Needs { items: ids, ..Needs::default() }, &mut rows).await?;
        let count = all.len() as u64;
        bury(tx, all.into_values(), &rows, now).await?;
        Ok(PurgeAnswer::Purged(count))
    }
}

/// Makes items tombstones, which nothing brings back.
async fn bury<T: Topics>(
    tx: &mut T,
    all: impl Iterator<Item = TrashRow>,
    rows: &Rows,
    now: Timestamp,
) -> Result<()> {
    let (mut changes, mut purged) = (Changes::default(), Vec::new());
    for row in all {
        let Some(Some(item)) = rows.items.get(&row.item_id) else { continue };
        let fields = ItemFields { deleted: item.fields.deleted.clone(), ..ItemFields::default() };
        let usage = changes.usage.entry(item.owner.clone()).or_default();
        *usage = usage.and(UsageChange::of_fields(Some(&item.fields), &fields));
        changes.items.insert(row.item_id.clone(), Item { fields, ..item.clone() });
        purged.push(TrashRow { state: TrashState::Purging, at: now, ..row });
    }
    tx.write_changes(&changes, &[]).await?;
    tx.put_trash(&purged).await
}

/// Makes tombstones of at most `at_most` items that were deleted before `before`; returns their
/// number.
async fn expire<T: Topics>(
    tx: &mut T,
    before: Timestamp,
    now: Timestamp,
    at_most: u32,
) -> Result<u64> {
    let due = tx.trash_before(TrashState::Kept, before, at_most).await?;
    if due.is_empty() {
        return Ok(0);
    }
    let ids: BTreeSet<ItemId> = due.iter().map(|row| row.item_id.clone()).collect();
    let mut rows = Rows::default();
    tx.lock_realms(None, &ids, &mut rows).await?;
    // Some may have been brought back, or deleted once more, before the lock.
    let mut held = tx.trash_rows(&ids).await?;
    held.retain(|_, row| row.state == TrashState::Kept && row.at < before);
    bury(tx, held.into_values(), &rows, now).await?;
    Ok(due.len() as u64)
}

/// Detaches at most `at_most` contents of tombstones, marks their bytes for removal and stops
/// counting them; returns the number of contents.
pub(super) async fn detach<T: Topics>(tx: &mut T, now: Timestamp, at_most: u32) -> Result<u64> {
    let refs = tx.purging_refs(at_most).await?;
    // Stages and blobs are locked in the order of the stages' bytes, as everywhere.
    let mut by_stage: BTreeMap<_, Vec<(RefId, BlobId)>> = BTreeMap::new();
    for (ref_id, blob_id) in &refs {
        let stage = tx.stage_of(blob_id).await?;
        by_stage.entry(stage).or_default().push((ref_id.clone(), blob_id.clone()));
    }
    let mut freed: BTreeMap<UserId, Usage> = BTreeMap::new();
    for (ref_id, blob_id) in by_stage.into_values().flatten() {
        let stored = locked(tx, &blob_id).await?;
        if !tx.delete_ref(&ref_id).await? {
            continue;
        }
        let Some(stored) = stored.filter(|stored| stored.blob_status == BlobStatus::Live) else {
            continue;
        };
        if tx.attachments_with(&blob_id).await?.is_empty() {
            freed.entry(stored.charged.clone()).or_default().stored += stored.reserved;
            tx.discard_blob(&blob_id, now).await?;
        }
    }
    for (user, freed) in freed {
        let mut usage = tx.usage(&user).await?;
        usage.stored = usage.stored.saturating_sub(freed.stored);
        tx.set_usage(&user, usage).await?;
    }
    Ok(refs.len() as u64)
}

/// Removes about `at_most` other rows of tombstones; returns the number of rows and tombstones
/// done. A tombstone without contents and other rows is done.
pub(super) async fn clear<T: Topics>(tx: &mut T, now: Timestamp, at_most: u32) -> Result<u64> {
    let due = tx.trash_before(TrashState::Purging, now.plus_millis(1), at_most).await?;
    if due.is_empty() {
        return Ok(0);
    }
    let ids: BTreeSet<ItemId> = due.iter().map(|row| row.item_id.clone()).collect();
    tx.lock_realms(None, &ids, &mut Rows::default()).await?;
    let held = tx.trash_rows(&ids).await?;
    let (mut left, mut gone, mut progress) = (u64::from(at_most), Vec::new(), 0);
    let mut changes = Changes::default();
    for (id, row) in held {
        if row.state != TrashState::Purging || left == 0 {
            continue;
        }
        let cleared = tx.clear_item(&id, left).await?;
        let usage = changes.usage.entry(row.owner.clone()).or_default();
        *usage = usage.and(cleared.usage());
        let removed = cleared.rows;
        // Fewer than there was room for: these were all.
        if removed < left && !tx.has_refs(&id).await? {
            gone.push(TrashRow { state: TrashState::Gone, at: now, ..row });
        }
        progress += removed;
        left = left.saturating_sub(removed.max(1));
    }
    tx.write_changes(&changes, &[]).await?;
    tx.put_trash(&gone).await?;
    Ok(progress + gone.len() as u64)
}

/// Removes at most `at_most` tombstones that are older than `before`; returns their number.
async fn forget<T: Topics>(tx: &mut T, before: Timestamp, at_most: u32) -> Result<u64> {
    let due = tx.trash_before(TrashState::Gone, before, at_most).await?;
    let ids: BTreeSet<ItemId> = due.into_iter().map(|row| row.item_id).collect();
    if ids.is_empty() {
        return Ok(0);
    }
    let (mut rows, mut changes) = (Rows::default(), Changes::default());
    tx.lock_realms(None, &ids, &mut rows).await?;
    for item in ids.iter().filter_map(|id| rows.items.get(id)?.as_ref()) {
        changes.usage.entry(item.owner.clone()).or_default().items -= 1;
    }
    tx.write_changes(&changes, &[]).await?;
    tx.delete_items(&ids).await?;
    Ok(ids.len() as u64)
}

impl Command for PurgeStep {
    async fn run<T: Topics>(&self, tx: &mut T) -> Result<Self::Answer> {
        let Self { before, forget: forgotten, now, at_most } = *self;
        // Each kind takes locks of its own: only one of them in a transaction.
        let mut done = expire(tx, before, now, at_most).await?;
        if done == 0 {
            done = detach(tx, now, at_most).await?;
        }
        if done == 0 {
            done = clear(tx, now, at_most).await?;
        }
        if done == 0 {
            done = forget(tx, forgotten, at_most).await?;
        }
        Ok(done)
    }
}

impl Command for TrashedBytes {
    async fn run<T: Topics>(&self, tx: &mut T) -> Result<Self::Answer> {
        tx.trashed_bytes(&self.user, MAX_TRASH_ITEMS as u32).await
    }
}

/// Returns the rows that a push adds to the trash.
pub(crate) fn rows_of_push(write: &PushWrite<'_>) -> Vec<TrashRow> {
    let deleted = write.changes.trash.iter().filter(|(_, deleted)| **deleted);
    let row = |(id, _): (&ItemId, &bool)| {
        let item = write.changes.items.get(id)?;
        Some(TrashRow {
            item_id: id.clone(),
            owner: item.owner.clone(),
            state: TrashState::Kept,
            at: write.now,
            deleted_by: write.user.clone(),
            replica: write.replica.clone(),
            size: None,
        })
    };
    deleted.filter_map(row).collect()
}

/// Returns the items that a transaction removes from the trash.
pub(crate) fn revived(changes: &Changes) -> Vec<&ItemId> {
    changes.trash.iter().filter(|(_, deleted)| !**deleted).map(|(id, _)| id).collect()
}

/// Builds the trash row of an item that an earlier version deleted; `None` if it is not deleted.
pub(crate) fn row_of_earlier(item_id: &ItemId, item: &Item, now: Timestamp) -> Option<TrashRow> {
    let deleted = item.fields.deleted.as_ref().filter(|register| register.value)?;
    Some(TrashRow {
        item_id: item_id.clone(),
        owner: item.owner.clone(),
        state: TrashState::Kept,
        at: now,
        deleted_by: deleted.stamp.author.user.clone(),
        replica: deleted.stamp.author.replica.clone(),
        size: None,
    })
}
