//! Offering again: queues the changes that a rebuilt replica sends to a server that lost part of
//! its history.

use std::collections::{HashMap, HashSet};

use vfs_sync_core::access::{AccessLevel, Principal};
use vfs_sync_core::client::offer::{
    self, Deleted, Held, HeldGrant, HeldLink, Lost, LostChange, LostReason, Offer, Offered, PAGE,
    Removal, Shared, Sides,
};
use vfs_sync_core::content::{Attachment, RelationKind};
use vfs_sync_core::cursor::Position;
use vfs_sync_core::entry::ItemView;
use vfs_sync_core::id::{BlobId, ItemId, WriteId};
use vfs_sync_core::operation::{Action, Basis, Operation};
use vfs_sync_core::time::Timestamp;

use super::edits::used_up;
use super::engine::epoch::renumber;
use super::rows::{AttachmentRow, ItemRow, LinkRow, Rows};
use super::store::{History, Meta, Offering, Slot, Upload, UploadState};
use crate::api::node::QueuedState;
use crate::error::{ClientError, Result};

/// The time for which removals are kept: as long as a server keeps them by default.
const REMOVALS_KEPT_MILLIS: i64 = 90 * 24 * 3_600 * 1_000;
/// The greatest number of removals that are kept.
const MAX_REMOVALS: usize = 1_000_000;

/// Returns the part of the server's history that the replica shares.
pub(super) fn shared_with(rows: &mut dyn Rows, meta: &Meta, history: &History) -> Result<Shared> {
    let Some(cursor) = &meta.cursor else { return Ok(Shared::everything()) };
    let epochs = match history {
        History::Served => return Ok(Shared::everything()),
        History::Epochs(epochs) => epochs,
        History::Unknown { oldest_available } => {
            // An older server. Pruned removals that the cursor needs are the only reason that does
            // not mean a lost history.
            let epoch = |at: Option<Position>| at.map(|at| at.epoch);
            let oldest = oldest_available.as_ref();
            let pruned = oldest.is_some_and(|oldest| {
                let at = Position::parse(&cursor.change_id);
                let last = Position::parse(&oldest.change_id);
                at.is_some() && epoch(at) == epoch(last) && at < last
            });
            return Ok(if pruned { Shared::everything() } else { Shared::nothing() });
        }
    };
    let last = |epoch| epochs.iter().find(|(one, _)| *one == epoch).map(|(_, last)| *last);
    let Some((position, changed_at)) = meta.trail.fork(cursor, last) else {
        return Ok(Shared::nothing());
    };
    if Position::parse(&cursor.change_id) == Some(position) {
        // The replica received nothing after its cursor, at positions that it knows or not.
        return Ok(Shared::everything());
    }
    let changed_at = match changed_at {
        Some(changed_at) => changed_at,
        None => match rows.container_clock_up_to(position)? {
            Some(before) => before.changed_at,
            None => Timestamp::from_millis(0).unwrap_or(cursor.changed_at),
        },
    };
    Ok(Shared::through(position, changed_at))
}

/// Compares the current slot with the building one, and queues the changes that the server lost
/// before all queued operations. `told` are the replica's own operations that the new state covers
/// and the old one does not.
pub(super) fn offer_again(
    rows: &mut dyn Rows,
    meta: &mut Meta,
    shared: &Shared,
    told: &[Operation],
    with: &Offering<'_>,
) -> Result<Offered> {
    let (behind, first) = (rows.queue(usize::MAX)?, meta.next_write_id);
    let lost_epoch = meta.cursor.as_ref().and_then(|cursor| Position::parse(&cursor.change_id));
    let user = meta.user.clone();
    let mut deleted = HashMap::new();
    let queued = behind.iter().filter(|one| one.state != QueuedState::Held);
    let queued = queued.map(|one| (&one.operation, Deleted::Queued));
    for (op, how) in told.iter().map(|op| (op, Deleted::Told)).chain(queued) {
        if matches!(op.action, Action::Delete) {
            deleted.insert(op.item_id.clone(), how);
        }
    }
    let created = HashSet::new();
    let mut sides = Both { rows, meta, shared, with, created, deleted, more_listed: 0 };
    let mut offered =
        offer::decide(&mut sides, &user, shared, lost_epoch.map(|position| position.epoch))?;
    offered.listed += sides.more_listed;
    if offered.sent() > offered.contents {
        // The offers are older than all that is queued, and it may need them.
        for one in behind {
            rows.to_the_end(&one.operation.op_id)?;
        }
        renumber(rows, meta, |op| op.write_id.get() < first)?;
    }
    Ok(offered)
}

/// Removes the records of removals that are too old for any restored server to undo.
pub(super) fn prune(rows: &mut dyn Rows, meta: &Meta) -> Result<()> {
    let Some(cursor) = &meta.cursor else { return Ok(()) };
    rows.prune_removals(cursor.changed_at.plus_millis(-REMOVALS_KEPT_MILLIS), MAX_REMOVALS)
}

/// Removes from the list of lost changes those that the feed shows again, and queues the kept
/// contents of items that it shows again.
pub(super) fn settle_lost(rows: &mut dyn Rows, meta: &Meta) -> Result<()> {
    let mut after = 0;
    loop {
        let page = rows.lost(after, PAGE)?;
        let Some(last) = page.last() else { return Ok(()) };
        after = last.seq;
        for row in page {
            if !is_back(rows, meta, &row.lost)? {
                if let Some(upload) = kept_upload(rows, meta, &row.lost)? {
                    rows.remove_lost(row.seq)?;
                    rows.put_upload(&upload)?;
                }
                continue;
            }
            rows.remove_lost(row.seq)?;
            if let Some(blob_id) = row.lost.change.kept() {
                rows.forget(&row.lost.item, blob_id)?;
            }
        }
    }
}

/// Returns the upload of a content that is kept with the list, if its item is visible again and the
/// user may write it.
fn kept_upload(rows: &mut dyn Rows, meta: &Meta, lost: &Lost) -> Result<Option<Upload>> {
    let LostChange::Content { blob_id, size, digest, content_type, modified_at, here: true } =
        &lost.change
    else {
        return Ok(None);
    };
    let item = rows.item(Slot::Current, &lost.item)?;
    if item.is_none_or(|row| row.view.access_level < AccessLevel::Write)
        || rows.is_uploading(blob_id)?
    {
        return Ok(None);
    }
    // Whatever the item has now came without this content's author's knowledge.
    let there = rows.content(Slot::Current, &lost.item)?;
    Ok(Some(Upload {
        seq: 0,
        item: lost.item.clone(),
        blob_id: blob_id.clone(),
        staging_id: offer::staging_id(blob_id, &meta.client_id),
        size: *size,
        digest: *digest,
        content_type: content_type.as_ref().map(|text| text.to_string()),
        modified_at: *modified_at,
        expected: there.map(|_| blob_id.clone()),
        basis: Some(Basis::Start),
        occurred_at: Some(lost.authored_at),
        state: UploadState::Queued,
        attach: None,
        reason: None,
        offered: true,
        renewed: false,
        sent: false,
        moved: None,
    }))
}

fn is_back(rows: &mut dyn Rows, meta: &Meta, lost: &Lost) -> Result<bool> {
    let slot = Slot::Current;
    let id = &lost.item;
    let level = |rows: &mut dyn Rows, principal: &Principal| -> Result<Option<AccessLevel>> {
        let grants = rows.grants(slot, id)?;
        Ok(grants.into_iter().find(|row| row.principal == *principal).map(|row| row.level))
    };
    Ok(match &lost.change {
        LostChange::Item => rows.owner(slot, id)?.is_some(),
        LostChange::Fields => {
            rows.item(slot, id)?.is_some_and(|row| row.authored_at >= lost.authored_at)
        }
        LostChange::Deletion => rows.owner(slot, id)?.is_none(),
        LostChange::Link { parent_id } => rows.parents(slot, id)?.contains(parent_id),
        LostChange::LinkRemoval { parent_id } => !rows.parents(slot, id)?.contains(parent_id),
        LostChange::Grant { principal_type, principal_id, access_level } => {
            let principal = Principal { kind: *principal_type, id: principal_id.clone() };
            level(rows, &principal)? >= Some(*access_level)
        }
        LostChange::Revocation { principal_type, principal_id } => {
            let principal = Principal { kind: *principal_type, id: principal_id.clone() };
            level(rows, &principal)?.is_none()
        }
        LostChange::Content { digest, .. } => {
            // Another device may have brought it back as a conflicted copy.
            let copy = offer::copy_id(id, *digest, &meta.user);
            let mut is_there = |item: &ItemId| {
                let content = rows.content(slot, item)?;
                Ok::<_, ClientError>(content.is_some_and(|row| row.attachment.digest == *digest))
            };
            is_there(id)? || is_there(&copy)?
        }
        LostChange::Attachment { .. } => false,
    })
}

/// Both sides of the comparison: the current slot is the old one, the building slot the new one.
struct Both<'a, 'b> {
    rows: &'a mut dyn Rows,
    meta: &'a mut Meta,
    shared: &'a Shared,
    with: &'a Offering<'b>,
    created: HashSet<ItemId>,
    /// The items that the replica itself has deleted since the old side's state.
    deleted: HashMap<ItemId, Deleted>,
    /// Entries of the list that the decision does not count.
    more_listed: u64,
}

const OLD: Slot = Slot::Current;
const NEW: Slot = Slot::Building;

fn held_item(row: ItemRow) -> Held<ItemView> {
    Held { value: *row.view, authored_at: row.authored_at, at: row.at }
}

fn held_parent(row: LinkRow) -> Held<ItemId> {
    Held { value: row.parent, authored_at: row.authored_at, at: row.at }
}

fn held_content(row: AttachmentRow) -> Held<Attachment> {
    Held { value: *row.attachment, authored_at: row.authored_at, at: row.at }
}

impl Both<'_, '_> {
    /// Returns the position up to which registers are skipped; a register without a position is
    /// never skipped.
    fn known(&self) -> Option<Position> {
        self.shared.position()
    }

    /// Returns the basis of the offers: the shared history, which the lost changes had seen at
    /// least.
    fn basis(&self) -> Basis {
        self.shared.last().into()
    }

    fn grant(
        &mut self,
        slot: Slot,
        item: &ItemId,
        principal: &Principal,
    ) -> Result<Option<AccessLevel>> {
        let grants = self.rows.grants(slot, item)?;
        Ok(grants.into_iter().find(|row| row.principal == *principal).map(|row| row.level))
    }

    fn queue(&mut self, item: ItemId, action: Action, occurred_at: Timestamp) -> Result<()> {
        let write_id = WriteId::new(self.meta.next_write_id).ok_or_else(used_up)?;
        let creates = matches!(&action, Action::Upsert(upsert) if upsert.object_type.is_some());
        let op = Operation {
            op_id: self.with.environment.new_op_id(),
            item_id: item.clone(),
            replica_id: self.meta.client_id.clone(),
            write_id,
            occurred_at,
            basis: Some(self.basis()),
            action,
        };
        if Operation::parse(&op.to_json()).is_err() {
            // The server stored a value that no operation can carry.
            self.more_listed += 1;
            let (path, change) = (item.to_string(), LostChange::Fields);
            let reason = LostReason::NotCarried;
            let lost = Lost { item, path, change, reason, authored_at: occurred_at };
            return self.rows.push_lost(&lost);
        }
        self.meta.next_write_id += 1;
        if creates {
            self.created.insert(item);
        }
        self.rows.push_queue(&op, QueuedState::Pending)
    }

    fn upload(
        &mut self,
        item: ItemId,
        attachment: Attachment,
        expected: Option<BlobId>,
        occurred_at: Timestamp,
    ) -> Result<()> {
        let mut waiting = self.rows.uploads_of_item(&item)?;
        waiting.retain(|upload| upload.state != UploadState::Rejected);
        // It may wait itself: the feed showed it before the server's answer came. Else the user put
        // another one over it in between, and that one takes its place.
        let blob_id = Some(&attachment.blob_id);
        let itself = waiting.iter().find(|upload| Some(&upload.blob_id) == blob_id);
        let first = itself.or_else(|| waiting.iter().find(|one| one.expected.as_ref() == blob_id));
        if let Some(first) = first {
            return self.rows.put_upload(&Upload { expected, attach: None, ..first.clone() });
        }
        if self.rows.is_uploading(&attachment.blob_id)? {
            return Ok(());
        }
        self.rows.put_upload(&Upload {
            seq: 0,
            item,
            blob_id: attachment.blob_id,
            staging_id: self.with.environment.new_staging_id(),
            size: attachment.size,
            digest: attachment.digest,
            content_type: attachment.content_type.map(|text| text.to_string()),
            modified_at: attachment.modified_at,
            expected,
            basis: Some(self.basis()),
            occurred_at: Some(occurred_at),
            state: UploadState::Queued,
            attach: None,
            reason: None,
            offered: true,
            renewed: false,
            sent: false,
            moved: None,
        })
    }
}

impl Sides for Both<'_, '_> {
    type Error = ClientError;

    fn removals(&mut self, after: i64) -> Result<Vec<(i64, Held<Removal>)>> {
        let rows = self.rows.removals(after.max(0), PAGE)?.into_iter();
        Ok(rows
            .map(|(seq, row)| {
                let at = Position::parse(&row.position.change_id);
                (seq, Held { value: row.removal, authored_at: row.authored_at, at })
            })
            .collect())
    }

    fn grants(&mut self) -> Result<Vec<HeldGrant>> {
        let rows = self.rows.all_grants()?.into_iter();
        Ok(rows
            .map(|row| {
                let held = Held { value: row.level, authored_at: row.authored_at, at: row.at };
                (row.item, row.principal, held)
            })
            .collect())
    }

    fn items(&mut self, after: Option<&ItemId>) -> Result<Vec<Held<ItemView>>> {
        let known = self.known();
        let rows = self.rows.items_told_after(known, after, PAGE)?;
        Ok(rows.into_iter().map(held_item).collect())
    }

    fn links(&mut self, after: Option<&(ItemId, ItemId)>) -> Result<Vec<HeldLink>> {
        let known = self.known();
        let after = after.map(|(parent, child)| (parent, child));
        let rows = self.rows.links_told_after(known, after, PAGE)?.into_iter();
        Ok(rows
            .map(|row| Held {
                value: (row.parent, row.child),
                authored_at: row.authored_at,
                at: row.at,
            })
            .collect())
    }

    fn contents(&mut self, after: Option<&ItemId>) -> Result<Vec<Held<Attachment>>> {
        Ok(self.rows.contents(after, PAGE)?.into_iter().map(held_content).collect())
    }

    fn old_item(&mut self, id: &ItemId) -> Result<Option<Held<ItemView>>> {
        Ok(self.rows.item(OLD, id)?.map(held_item))
    }

    fn old_parents(&mut self, id: &ItemId) -> Result<Vec<Held<ItemId>>> {
        Ok(self.rows.parent_links(OLD, id)?.into_iter().map(held_parent).collect())
    }

    fn old_grant(&mut self, item: &ItemId, principal: &Principal) -> Result<Option<AccessLevel>> {
        self.grant(OLD, item, principal)
    }

    fn new_item(&mut self, id: &ItemId) -> Result<Option<ItemView>> {
        Ok(self.rows.item(NEW, id)?.map(|row| *row.view))
    }

    fn new_parents(&mut self, id: &ItemId) -> Result<Vec<Held<ItemId>>> {
        Ok(self.rows.parent_links(NEW, id)?.into_iter().map(held_parent).collect())
    }

    fn new_content(&mut self, id: &ItemId) -> Result<Option<Held<Attachment>>> {
        Ok(self.rows.content(NEW, id)?.map(held_content))
    }

    fn new_grant(&mut self, item: &ItemId, principal: &Principal) -> Result<Option<AccessLevel>> {
        self.grant(NEW, item, principal)
    }

    fn is_offered(&mut self, id: &ItemId) -> Result<bool> {
        Ok(self.created.contains(id))
    }

    fn has_bytes(&mut self, attachment: &Attachment) -> Result<bool> {
        Ok(attachment.relation_kind == RelationKind::File
            && (self.with.has_bytes)(&attachment.blob_id, attachment.size))
    }

    fn deleted(&mut self, id: &ItemId) -> Result<Option<Deleted>> {
        Ok(self.deleted.get(id).copied())
    }

    fn offer(&mut self, offer: Offer) -> Result<()> {
        match offer {
            Offer::Operation { item, action, occurred_at } => self.queue(item, action, occurred_at),
            Offer::Content { item, attachment, expected, occurred_at } => {
                self.upload(item, *attachment, expected, occurred_at)
            }
        }
    }

    fn list(&mut self, lost: Lost) -> Result<()> {
        self.rows.push_lost(&lost)
    }

    fn is_listed(&mut self, id: &ItemId) -> Result<bool> {
        self.rows.is_lost(id)
    }
}
