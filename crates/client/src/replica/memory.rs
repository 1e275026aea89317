//! The replica in memory: for tests, and for applications that store nothing.

mod found;

use std::collections::{BTreeMap, BTreeSet};

use foldhash::HashMap;
use foldhash::fast::RandomState;
use indexmap::IndexMap;
use vfs_sync_core::access::Principal;
use vfs_sync_core::client::offer::{Lost, LostChange, Removal};
use vfs_sync_core::content::RelationKind;
use vfs_sync_core::cursor::{Cursor, Position};
use vfs_sync_core::id::{BlobId, ItemId, OpId, RefId, UserId, WriteId};
use vfs_sync_core::operation::Operation;
use vfs_sync_core::time::Timestamp;

use super::engine::ReplicaStore;
use super::rows::{
    AttachmentRow, FoundRow, GrantRow, ItemRow, LinkRow, LostRow, Parents, RemovalRow, Result, Rows,
};
use super::store::{Counts, Meta, MoveId, Slot, Upload, UploadState};
use crate::api::Query;
use crate::api::node::{QueuedOp, QueuedState, RejectedOp};
use crate::api::record::{DirectoryRecord, EntryRecord, Intent};

pub(crate) fn memory_store(meta: Meta) -> ReplicaStore {
    ReplicaStore::new(MemoryRows::default(), meta)
}

/// A map of up to millions of items: it keeps the hashes, so that growing reads no key.
type Large<T> = IndexMap<ItemId, T, RandomState>;

/// An item and its containers: either may be known before the other.
#[derive(Default)]
struct Place {
    item: Option<ItemRow>,
    parents: Parents,
}

#[derive(Default)]
struct Registers {
    places: Large<Place>,
    /// The children of each parent, with the link's time and position.
    links: HashMap<ItemId, BTreeMap<ItemId, (Timestamp, Option<Position>)>>,
    grants: BTreeMap<ItemId, BTreeMap<Principal, GrantRow>>,
    attachments: HashMap<ItemId, BTreeMap<Option<RefId>, AttachmentRow>>,
    containers: HashMap<ItemId, Cursor>,
    containers_by_change: BTreeSet<(Cursor, ItemId)>,
    tops: BTreeSet<ItemId>,
}

#[derive(Default)]
struct Queue {
    next_seq: i64,
    ops: BTreeMap<i64, QueuedRow>,
    by_id: HashMap<OpId, i64>,
    by_item: HashMap<ItemId, BTreeSet<i64>>,
    by_parent: HashMap<ItemId, BTreeSet<i64>>,
    acknowledged: BTreeSet<i64>,
    pending: BTreeSet<i64>,
    held: BTreeSet<i64>,
}

/// An operation in the queue, with the time under which it is sent; the server may have stored a
/// lower one.
struct QueuedRow {
    queued: QueuedOp,
    sent_at: Timestamp,
    /// The time that a server gave it, if it is sent again as it was sent before.
    given_at: Option<Timestamp>,
    /// The move that the operation is part of.
    moved: Option<MoveId>,
}

impl QueuedRow {
    fn set_time(&mut self, occurred_at: Timestamp) {
        (self.queued.operation.occurred_at, self.sent_at) = (occurred_at, occurred_at);
        self.given_at = None;
    }
}

impl Queue {
    fn push(&mut self, op: Operation, state: QueuedState, moved: Option<MoveId>) -> i64 {
        let seq = self.next_seq;
        self.next_seq += 1;
        self.by_id.insert(op.op_id.clone(), seq);
        self.by_item.entry(op.item_id.clone()).or_default().insert(seq);
        if let Some(parent) = op.parent() {
            self.by_parent.entry(parent.clone()).or_default().insert(seq);
        }
        match state {
            QueuedState::Pending => self.pending.insert(seq),
            QueuedState::Acknowledged => self.acknowledged.insert(seq),
            QueuedState::Held => self.held.insert(seq),
        };
        let sent_at = op.occurred_at;
        let queued = QueuedOp { operation: op, state };
        self.ops.insert(seq, QueuedRow { queued, sent_at, given_at: None, moved });
        seq
    }

    fn remove(&mut self, seq: i64) -> Option<Operation> {
        let op = self.ops.remove(&seq)?.queued.operation;
        self.by_id.remove(&op.op_id);
        self.pending.remove(&seq);
        self.acknowledged.remove(&seq);
        self.held.remove(&seq);
        let forget = |index: &mut HashMap<ItemId, BTreeSet<i64>>, id: &ItemId| {
            if let Some(seqs) = index.get_mut(id) {
                seqs.remove(&seq);
                if seqs.is_empty() {
                    index.remove(id);
                }
            }
        };
        forget(&mut self.by_item, &op.item_id);
        if let Some(parent) = op.parent() {
            forget(&mut self.by_parent, parent);
        }
        Some(op)
    }
}

/// The data to undo a failed transaction. Pages are checked before they are applied and cannot fail
/// in memory; for edits and hydrating the previous values suffice.
#[derive(Default)]
struct Undo {
    first_seq: i64,
    tops: Vec<(Slot, ItemId, bool)>,
    rejected: Option<Vec<RejectedOp>>,
    uploads: Vec<(i64, Option<Upload>)>,
    directories: Vec<(i64, Option<DirectoryRecord>)>,
    entries: Vec<((i64, u64), Option<EntryRecord>)>,
    intents: Vec<((i64, String), Option<Intent>)>,
}

#[derive(Default)]
pub(super) struct MemoryRows {
    found: found::Found,
    slots: [Registers; 2],
    current: usize,
    queue: Queue,
    rejected: Vec<RejectedOp>,
    next_upload: i64,
    uploads: BTreeMap<i64, Upload>,
    uploads_of: HashMap<ItemId, BTreeSet<i64>>,
    forgotten: BTreeMap<BlobId, ItemId>,
    next_removal: i64,
    removals: BTreeMap<i64, RemovalRow>,
    removal_of: HashMap<Removal, i64>,
    next_lost: i64,
    lost: BTreeMap<i64, Lost>,
    lost_of: HashMap<String, i64>,
    next_directory: i64,
    directories: BTreeMap<i64, DirectoryRecord>,
    entries: BTreeMap<(i64, u64), EntryRecord>,
    intents: BTreeMap<(i64, String), Intent>,
    undo: Undo,
}

impl MemoryRows {
    fn at(&mut self, slot: Slot) -> &mut Registers {
        let index = if slot == Slot::Current { self.current } else { 1 - self.current };
        &mut self.slots[index]
    }

    /// Sets or removes an upload; returns the previous one.
    fn set_upload(&mut self, seq: i64, upload: Option<Upload>) -> Option<Upload> {
        let before = self.uploads.remove(&seq);
        if let Some(before) = &before
            && let Some(seqs) = self.uploads_of.get_mut(&before.item)
        {
            seqs.remove(&seq);
            if seqs.is_empty() {
                self.uploads_of.remove(&before.item);
            }
        }
        if let Some(upload) = upload {
            self.uploads_of.entry(upload.item.clone()).or_default().insert(seq);
            self.uploads.insert(seq, upload);
        }
        before
    }

    fn remove_uploads(&mut self, which: impl Fn(&Upload) -> bool) {
        let found = self.uploads.iter().filter(|(_, upload)| which(upload)).map(|(seq, _)| *seq);
        for seq in found.collect::<Vec<_>>() {
            self.set_upload(seq, None);
        }
    }

    fn queued(&self, seqs: Option<&BTreeSet<i64>>) -> Vec<QueuedOp> {
        let rows = seqs.into_iter().flatten().filter_map(|seq| self.queue.ops.get(seq));
        rows.map(|row| row.queued.clone()).collect()
    }
}

impl Registers {
    fn item(&self, id: &ItemId) -> Option<&ItemRow> {
        self.places.get(id)?.item.as_ref()
    }

    fn forget_empty(&mut self, id: &ItemId) {
        if self.places.get(id).is_some_and(|p| p.item.is_none() && p.parents.is_empty()) {
            self.places.swap_remove(id);
        }
    }
}

/// Sets or removes the value of a key; returns the previous value.
fn set<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) -> Option<V> {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    }
}

impl MemoryRows {
    fn set_entry(&mut self, key: (i64, u64), row: Option<EntryRecord>) {
        let before = set(&mut self.entries, key, row);
        self.undo.entries.push((key, before));
    }

    fn set_intent(&mut self, key: (i64, String), intent: Option<Intent>) {
        let before = set(&mut self.intents, key.clone(), intent);
        self.undo.intents.push((key, before));
    }

    fn of_directory(&self, directory: i64) -> impl Iterator<Item = &EntryRecord> {
        self.entries.range((directory, 0)..=(directory, u64::MAX)).map(|(_, row)| row)
    }
}

impl Rows for MemoryRows {
    fn begin(&mut self, _at_once: bool) -> Result<()> {
        self.undo = Undo { first_seq: self.queue.next_seq, ..Undo::default() };
        Ok(())
    }

    fn commit(&mut self, _before: &Meta, _meta: &Meta) -> Result<()> {
        self.undo = Undo::default();
        Ok(())
    }

    fn rollback(&mut self) {
        let undo = std::mem::take(&mut self.undo);
        for seq in undo.first_seq..self.queue.next_seq {
            self.queue.remove(seq);
        }
        for (slot, id, top) in undo.tops.into_iter().rev() {
            let tops = &mut self.at(slot).tops;
            if top {
                tops.insert(id)
            } else {
                tops.remove(&id)
            };
        }
        if let Some(rejected) = undo.rejected {
            self.rejected = rejected;
        }
        for (seq, upload) in undo.uploads.into_iter().rev() {
            self.set_upload(seq, upload);
        }
        for (id, record) in undo.directories.into_iter().rev() {
            set(&mut self.directories, id, record);
        }
        for (key, row) in undo.entries.into_iter().rev() {
            set(&mut self.entries, key, row);
        }
        for (key, intent) in undo.intents.into_iter().rev() {
            set(&mut self.intents, key, intent);
        }
    }

    fn put_item(&mut self, slot: Slot, row: ItemRow) -> Result<bool> {
        let id = row.view.item_id.clone();
        Ok(self.at(slot).places.entry(id).or_default().item.replace(row).is_none())
    }

    fn remove_item(&mut self, slot: Slot, id: &ItemId) -> Result<bool> {
        let registers = self.at(slot);
        let before = registers.places.get_mut(id).and_then(|place| place.item.take());
        registers.forget_empty(id);
        Ok(before.is_some())
    }

    fn item(&mut self, slot: Slot, id: &ItemId) -> Result<Option<ItemRow>> {
        Ok(self.at(slot).item(id).cloned())
    }

    fn owner(&mut self, slot: Slot, id: &ItemId) -> Result<Option<UserId>> {
        Ok(self.at(slot).item(id).map(|row| row.view.owner_id.clone()))
    }

    fn put_link(&mut self, slot: Slot, row: LinkRow) -> Result<()> {
        let registers = self.at(slot);
        let children = registers.links.entry(row.parent.clone()).or_default();
        if children.insert(row.child.clone(), (row.authored_at, row.at)).is_none() {
            let parents = &mut registers.places.entry(row.child).or_default().parents;
            let at = parents.binary_search(&row.parent).unwrap_or_else(|at| at);
            parents.insert(at, row.parent);
        }
        Ok(())
    }

    fn remove_link(&mut self, slot: Slot, parent: &ItemId, child: &ItemId) -> Result<()> {
        let registers = self.at(slot);
        if let Some(children) = registers.links.get_mut(parent) {
            children.remove(child);
            if children.is_empty() {
                registers.links.remove(parent);
            }
        }
        if let Some(place) = registers.places.get_mut(child) {
            place.parents.retain(|one| one != parent);
            registers.forget_empty(child);
        }
        Ok(())
    }

    fn parents(&mut self, slot: Slot, child: &ItemId) -> Result<Parents> {
        let place = self.at(slot).places.get(child);
        Ok(place.map(|place| place.parents.clone()).unwrap_or_default())
    }

    fn children(&mut self, slot: Slot, parent: &ItemId) -> Result<Vec<ItemId>> {
        let children = self.at(slot).links.get(parent);
        Ok(children.map(|children| children.keys().cloned().collect()).unwrap_or_default())
    }

    fn put_grant(&mut self, slot: Slot, row: GrantRow) -> Result<()> {
        let of_item = self.at(slot).grants.entry(row.item.clone()).or_default();
        of_item.insert(row.principal.clone(), row);
        Ok(())
    }

    fn grants(&mut self, slot: Slot, item: &ItemId) -> Result<Vec<GrantRow>> {
        let of_item = self.at(slot).grants.get(item);
        Ok(of_item.map(|of_item| of_item.values().cloned().collect()).unwrap_or_default())
    }

    fn remove_grant(&mut self, slot: Slot, item: &ItemId, principal: &Principal) -> Result<()> {
        let all = &mut self.at(slot).grants;
        if let Some(of_item) = all.get_mut(item) {
            of_item.remove(principal);
            if of_item.is_empty() {
                all.remove(item);
            }
        }
        Ok(())
    }

    fn put_attachment(&mut self, slot: Slot, row: AttachmentRow) -> Result<()> {
        let other = row.attachment.relation_kind != RelationKind::File;
        let key = other.then(|| row.attachment.ref_id.clone());
        let item = row.attachment.item_id.clone();
        self.at(slot).attachments.entry(item).or_default().insert(key, row);
        Ok(())
    }

    fn remove_attachment(
        &mut self,
        slot: Slot,
        item: &ItemId,
        ref_id: Option<&RefId>,
    ) -> Result<()> {
        let all = &mut self.at(slot).attachments;
        if let Some(of_item) = all.get_mut(item) {
            of_item.remove(&ref_id.cloned());
            if of_item.is_empty() {
                all.remove(item);
            }
        }
        Ok(())
    }

    fn content(&mut self, slot: Slot, item: &ItemId) -> Result<Option<AttachmentRow>> {
        Ok(self.at(slot).attachments.get(item).and_then(|of_item| of_item.get(&None)).cloned())
    }

    fn contents(&mut self, after: Option<&ItemId>, _at_most: usize) -> Result<Vec<AttachmentRow>> {
        let all = self.at(Slot::Current).attachments.iter();
        let current = all.filter_map(|(item, of_item)| Some((item, of_item.get(&None)?)));
        let mut rest: Vec<_> =
            current.filter(|(item, _)| after.is_none_or(|after| *item > after)).collect();
        rest.sort_by(|a, b| a.0.cmp(b.0));
        Ok(rest.into_iter().map(|(_, row)| row.clone()).collect())
    }

    fn parent_links(&mut self, slot: Slot, child: &ItemId) -> Result<Vec<LinkRow>> {
        let parents = self.parents(slot, child)?;
        let registers = self.at(slot);
        let link = |parent: ItemId| {
            let (authored_at, at) = *registers.links.get(&parent)?.get(child)?;
            Some(LinkRow { parent, child: child.clone(), authored_at, at })
        };
        Ok(parents.into_iter().filter_map(link).collect())
    }

    fn items_told_after(
        &mut self,
        position: Option<Position>,
        after: Option<&ItemId>,
        _at_most: usize,
    ) -> Result<Vec<ItemRow>> {
        let rows = self.at(Slot::Current).places.values().filter_map(|place| place.item.as_ref());
        let told = rows.filter(|row| row.at.is_none() || row.at > position);
        let told = told.filter(|row| after.is_none_or(|after| row.view.item_id > *after));
        let mut rows: Vec<ItemRow> = told.cloned().collect();
        rows.sort_by(|a, b| a.view.item_id.cmp(&b.view.item_id));
        Ok(rows)
    }

    fn links_told_after(
        &mut self,
        position: Option<Position>,
        after: Option<(&ItemId, &ItemId)>,
        _at_most: usize,
    ) -> Result<Vec<LinkRow>> {
        let mut links = self.all_links()?;
        links.retain(|link| {
            let told = link.at.is_none() || link.at > position;
            told && after.is_none_or(|after| (&link.parent, &link.child) > after)
        });
        Ok(links)
    }

    fn put_removal(&mut self, row: RemovalRow) -> Result<()> {
        self.next_removal += 1;
        let seq = self.next_removal;
        if let Some(before) = self.removal_of.insert(row.removal.clone(), seq) {
            self.removals.remove(&before);
        }
        self.removals.insert(seq, row);
        Ok(())
    }

    fn removals(&mut self, after: i64, at_most: usize) -> Result<Vec<(i64, RemovalRow)>> {
        let rest = self.removals.range(after.saturating_add(1)..).take(at_most);
        Ok(rest.map(|(seq, row)| (*seq, row.clone())).collect())
    }

    fn prune_removals(&mut self, before: Timestamp, at_most: usize) -> Result<()> {
        let at_most = i64::try_from(at_most).unwrap_or(i64::MAX);
        let last = self.next_removal.saturating_sub(at_most);
        while let Some(oldest) = self.removals.first_entry() {
            if *oldest.key() > last && oldest.get().position.changed_at >= before {
                break;
            }
            self.removal_of.remove(&oldest.remove().removal);
        }
        Ok(())
    }

    fn container_clock_up_to(&mut self, position: Position) -> Result<Option<Cursor>> {
        let change_id = position.change_id();
        let clocks = self.at(Slot::Current).containers_by_change.iter().rev();
        Ok(clocks.map(|(at, _)| at).find(|at| at.change_id <= change_id).cloned())
    }

    fn push_lost(&mut self, lost: &Lost) -> Result<()> {
        let next = self.next_lost + 1;
        let seq = *self.lost_of.entry(lost.key()).or_insert(next);
        self.next_lost = self.next_lost.max(seq);
        self.lost.insert(seq, lost.clone());
        Ok(())
    }

    fn lost(&mut self, after: i64, at_most: usize) -> Result<Vec<LostRow>> {
        let rest = self.lost.range(after.saturating_add(1)..).take(at_most);
        Ok(rest.map(|(seq, lost)| LostRow { seq: *seq, lost: lost.clone() }).collect())
    }

    fn is_lost(&mut self, item: &ItemId) -> Result<bool> {
        Ok(self.lost_of.contains_key(&LostChange::Item.key(item)))
    }

    fn remove_lost(&mut self, seq: i64) -> Result<()> {
        if let Some(lost) = self.lost.remove(&seq) {
            self.lost_of.remove(&lost.key());
        }
        Ok(())
    }

    fn remove_lost_content(&mut self, item: &ItemId) -> Result<()> {
        let seq = self.lost_of.get(&LostChange::content_key(item)).copied();
        let lost = seq.and_then(|seq| self.lost.get(&seq));
        match (seq, lost.and_then(|lost| lost.change.kept())) {
            (Some(seq), None) => self.remove_lost(seq),
            _ => Ok(()),
        }
    }

    fn forget(&mut self, item: &ItemId, blob_id: &BlobId) -> Result<()> {
        self.forgotten.insert(blob_id.clone(), item.clone());
        Ok(())
    }

    fn forgotten(&mut self, at_most: usize) -> Result<Vec<(ItemId, BlobId)>> {
        let all = self.forgotten.iter().take(at_most);
        Ok(all.map(|(blob_id, item)| (item.clone(), blob_id.clone())).collect())
    }

    fn remove_forgotten(&mut self, blob_id: &BlobId) -> Result<()> {
        self.forgotten.remove(blob_id);
        Ok(())
    }

    fn bump_container(&mut self, slot: Slot, id: &ItemId, at: &Cursor) -> Result<()> {
        let registers = self.at(slot);
        if let Some(before) = registers.containers.insert(id.clone(), at.clone()) {
            registers.containers_by_change.remove(&(before, id.clone()));
        }
        registers.containers_by_change.insert((at.clone(), id.clone()));
        Ok(())
    }

    fn changed_containers(
        &mut self,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Vec<(ItemId, Cursor)>> {
        let all = &self.at(Slot::Current).containers_by_change;
        // Everything at the cursor itself counts as seen: ids cannot sort below all of it.
        let later = all.iter().skip_while(|(at, _)| after.is_some_and(|after| at <= after));
        Ok(later.take(limit).map(|(at, id)| (id.clone(), at.clone())).collect())
    }

    fn set_top(&mut self, slot: Slot, id: &ItemId, top: bool) -> Result<()> {
        let tops = &mut self.at(slot).tops;
        let changed = if top { tops.insert(id.clone()) } else { tops.remove(id) };
        if changed {
            self.undo.tops.push((slot, id.clone(), !top));
        }
        Ok(())
    }

    fn tops(&mut self) -> Result<Vec<(ItemId, Option<UserId>)>> {
        let registers = self.at(Slot::Current);
        let owner = |id: &ItemId| registers.item(id).map(|row| row.view.owner_id.clone());
        Ok(registers.tops.iter().map(|id| (id.clone(), owner(id))).collect())
    }

    fn clear(&mut self, slot: Slot) -> Result<()> {
        *self.at(slot) = Registers::default();
        Ok(())
    }

    fn swap_slots(&mut self) -> Result<()> {
        self.current = 1 - self.current;
        Ok(())
    }

    fn is_indexed(&mut self) -> Result<bool> {
        Ok(self.found.indexed)
    }

    fn set_indexed(&mut self, indexed: bool) -> Result<()> {
        self.found.indexed = indexed;
        Ok(())
    }

    fn clear_found(&mut self) -> Result<()> {
        self.found = found::Found::default();
        Ok(())
    }

    fn put_found(&mut self, row: FoundRow) -> Result<()> {
        self.found.insert(row);
        Ok(())
    }

    fn remove_found(&mut self, id: &ItemId) -> Result<()> {
        self.found.remove(id);
        Ok(())
    }

    fn find(&mut self, query: &Query) -> Result<Vec<ItemId>> {
        Ok(self.found.find(query))
    }

    fn push_queue(&mut self, op: &Operation, state: QueuedState) -> Result<()> {
        self.queue.push(op.clone(), state, None);
        Ok(())
    }

    fn push_queue_of(&mut self, of: &MoveId, op: &Operation, state: QueuedState) -> Result<()> {
        self.queue.push(op.clone(), state, Some(of.clone()));
        Ok(())
    }

    fn move_of(&mut self, op_id: &OpId) -> Result<Option<MoveId>> {
        let row = self.queue.by_id.get(op_id).and_then(|seq| self.queue.ops.get(seq));
        Ok(row.and_then(|row| row.moved.clone()))
    }

    fn held_moves(&mut self) -> Result<BTreeSet<MoveId>> {
        let held = self.queue.held.iter().filter_map(|seq| self.queue.ops.get(seq));
        Ok(held.filter_map(|row| row.moved.clone()).collect())
    }

    fn held_of(&mut self, of: &MoveId) -> Result<Vec<Operation>> {
        let held = self.queue.held.iter().filter_map(|seq| self.queue.ops.get(seq));
        let held = held.filter(|row| row.moved.as_ref() == Some(of));
        Ok(held.map(|row| row.queued.operation.clone()).collect())
    }

    fn is_moving(&mut self, of: &MoveId) -> Result<bool> {
        let pending = self.queue.pending.iter().filter_map(|seq| self.queue.ops.get(seq));
        let mut uploads =
            self.uploads.values().filter(|upload| upload.state == UploadState::Queued);
        Ok(pending.map(|row| &row.moved).any(|moved| moved.as_ref() == Some(of))
            || uploads.any(|upload| upload.moved.as_ref() == Some(of)))
    }

    fn to_the_end(&mut self, op_id: &OpId) -> Result<()> {
        let Some(seq) = self.queue.by_id.get(op_id).copied() else { return Ok(()) };
        let Some(row) = self.queue.ops.get(&seq) else { return Ok(()) };
        let (sent_at, given_at) = (row.sent_at, row.given_at);
        let (state, moved) = (row.queued.state, row.moved.clone());
        if let Some(op) = self.queue.remove(seq) {
            let seq = self.queue.push(op, state, moved);
            if let Some(row) = self.queue.ops.get_mut(&seq) {
                (row.sent_at, row.given_at) = (sent_at, given_at);
            }
        }
        Ok(())
    }

    fn queue_is_empty(&mut self) -> Result<bool> {
        Ok(self.queue.ops.is_empty())
    }

    fn queue_of_item(&mut self, item: &ItemId) -> Result<Vec<QueuedOp>> {
        Ok(self.queued(self.queue.by_item.get(item)))
    }

    fn queue_of_parent(&mut self, parent: &ItemId) -> Result<Vec<ItemId>> {
        let queued = self.queued(self.queue.by_parent.get(parent));
        let items: BTreeSet<ItemId> = queued.into_iter().map(|one| one.operation.item_id).collect();
        Ok(items.into_iter().collect())
    }

    fn pending(&mut self, at_most: usize) -> Result<Vec<(Operation, usize)>> {
        let pending = self.queue.pending.iter().take(at_most);
        let ops = pending.filter_map(|seq| self.queue.ops.get(seq));
        let operations = ops.map(|one| &one.queued.operation);
        Ok(operations.map(|op| (op.clone(), op.to_json().len())).collect())
    }

    fn queue(&mut self, limit: usize) -> Result<Vec<QueuedOp>> {
        Ok(self.queue.ops.values().take(limit).map(|row| row.queued.clone()).collect())
    }

    fn unsettled_items(&mut self) -> Result<Vec<ItemId>> {
        let acknowledged = self.queue.acknowledged.iter();
        let operations = acknowledged.filter_map(|seq| self.queue.ops.get(seq));
        let attached = |upload: &&Upload| upload.state == UploadState::Attached;
        let uploads = self.uploads.values().filter(attached).map(|upload| upload.item.clone());
        Ok(operations.map(|row| row.queued.operation.item_id.clone()).chain(uploads).collect())
    }

    fn acknowledge(
        &mut self,
        op_id: &OpId,
        write_id: WriteId,
        at: Option<Timestamp>,
    ) -> Result<Option<ItemId>> {
        let Some(seq) = self.queue.by_id.get(op_id).copied() else { return Ok(None) };
        self.queue.pending.remove(&seq);
        self.queue.acknowledged.insert(seq);
        let Some(row) = self.queue.ops.get_mut(&seq) else { return Ok(None) };
        let QueuedOp { operation, state } = &mut row.queued;
        *state = QueuedState::Acknowledged;
        row.given_at = None;
        operation.write_id = operation.write_id.min(write_id);
        let before = operation.occurred_at;
        let stored_at = at.map_or(before, |at| at.min(before));
        operation.occurred_at = stored_at;
        let item = operation.item_id.clone();
        for later in
            self.queue.by_item.get(&item).into_iter().flat_map(|seqs| seqs.range(seq + 1..))
        {
            if let Some(QueuedRow { given_at: Some(given_at), .. }) = self.queue.ops.get_mut(later)
            {
                *given_at = stored_at.max(*given_at);
            }
        }
        Ok(Some(item))
    }

    fn unacknowledge(&mut self, covered: Option<WriteId>, as_sent: bool) -> Result<BTreeSet<OpId>> {
        let mut again = BTreeSet::new();
        for (seq, QueuedRow { queued, sent_at, given_at, .. }) in &mut self.queue.ops {
            let acknowledged = queued.state == QueuedState::Acknowledged;
            if acknowledged && Some(queued.operation.write_id) > covered {
                queued.state = QueuedState::Pending;
                if as_sent {
                    *given_at = Some(queued.operation.occurred_at);
                    queued.operation.occurred_at = *sent_at;
                }
                self.queue.acknowledged.remove(seq);
                self.queue.pending.insert(*seq);
                again.insert(queued.operation.op_id.clone());
            }
        }
        Ok(again)
    }

    fn restamp(&mut self, op_id: &OpId, occurred_at: Timestamp) -> Result<()> {
        let seq = self.queue.by_id.get(op_id);
        if let Some(row) = seq.and_then(|seq| self.queue.ops.get_mut(seq)) {
            row.set_time(occurred_at);
        }
        Ok(())
    }

    fn remove_queued(&mut self, op_id: &OpId) -> Result<Option<Operation>> {
        let seq = self.queue.by_id.get(op_id).copied();
        Ok(seq.and_then(|seq| self.queue.remove(seq)))
    }

    fn remove_covered(&mut self, through: WriteId) -> Result<Vec<Operation>> {
        let end = self.queue.pending.first().copied().unwrap_or(i64::MAX);
        let covered = self.queue.acknowledged.range(..end).copied().filter(|seq| {
            self.queue.ops.get(seq).is_some_and(|row| row.queued.operation.write_id <= through)
        });
        let covered: Vec<i64> = covered.collect();
        Ok(covered.into_iter().filter_map(|seq| self.queue.remove(seq)).collect())
    }

    fn given_times(&mut self) -> Result<BTreeMap<OpId, Timestamp>> {
        let pending = self.queue.pending.iter().filter_map(|seq| self.queue.ops.get(seq));
        let given =
            pending.filter_map(|row| Some((row.queued.operation.op_id.clone(), row.given_at?)));
        Ok(given.collect())
    }

    fn shift_pending(&mut self, by: u64) -> Result<()> {
        for seq in &self.queue.pending {
            if let Some(row) = self.queue.ops.get_mut(seq) {
                let operation = &mut row.queued.operation;
                let write_id = operation.write_id.get().saturating_add(by);
                operation.write_id = WriteId::new(write_id).unwrap_or(WriteId::MAX);
            }
        }
        Ok(())
    }

    fn renumber(&mut self, op_id: &OpId, write_id: WriteId) -> Result<()> {
        let seq = self.queue.by_id.get(op_id);
        if let Some(row) = seq.and_then(|seq| self.queue.ops.get_mut(seq)) {
            row.queued.operation.write_id = write_id;
        }
        Ok(())
    }

    fn latest_queued_stamp(&mut self) -> Result<Option<Timestamp>> {
        Ok(self.queue.ops.values().map(|row| row.queued.operation.occurred_at).max())
    }

    fn push_rejected(&mut self, op: &RejectedOp) -> Result<()> {
        self.rejected.push(op.clone());
        Ok(())
    }

    fn rejected(&mut self, limit: usize) -> Result<Vec<RejectedOp>> {
        Ok(self.rejected.iter().take(limit).cloned().collect())
    }

    fn remove_rejected(&mut self, op_id: &OpId) -> Result<Option<RejectedOp>> {
        let at = self.rejected.iter().position(|one| one.operation.op_id == *op_id);
        if at.is_some() && self.undo.rejected.is_none() {
            self.undo.rejected = Some(self.rejected.clone());
        }
        Ok(at.map(|at| self.rejected.remove(at)))
    }

    fn put_upload(&mut self, upload: &Upload) -> Result<()> {
        let mut upload = upload.clone();
        if upload.seq == 0 {
            self.next_upload += 1;
            upload.seq = self.next_upload;
        }
        let seq = upload.seq;
        let before = self.set_upload(seq, Some(upload));
        self.undo.uploads.push((seq, before));
        Ok(())
    }

    fn remove_upload(&mut self, seq: i64) -> Result<()> {
        let before = self.set_upload(seq, None);
        self.undo.uploads.push((seq, before));
        Ok(())
    }

    fn uploads(&mut self, after: i64, at_most: usize) -> Result<Vec<Upload>> {
        let flushed = |upload: &&Upload| {
            let seqs = self.queue.by_item.get(&upload.item);
            !seqs.is_some_and(|seqs| seqs.iter().any(|seq| self.queue.pending.contains(seq)))
        };
        let queued = self.uploads.range(after + 1..).map(|(_, upload)| upload);
        let queued = queued.filter(|upload| upload.state == UploadState::Queued);
        Ok(queued.filter(flushed).take(at_most).cloned().collect())
    }

    fn uploads_of_item(&mut self, item: &ItemId) -> Result<Vec<Upload>> {
        let seqs = self.uploads_of.get(item).into_iter().flatten();
        Ok(seqs.filter_map(|seq| self.uploads.get(seq).cloned()).collect())
    }

    fn remove_attached_upload(&mut self, item: &ItemId, blob_id: &BlobId) -> Result<()> {
        for upload in self.uploads_of_item(item)? {
            if upload.blob_id == *blob_id && upload.state == UploadState::Attached {
                self.set_upload(upload.seq, None);
            }
        }
        Ok(())
    }

    fn remove_attached_uploads(&mut self) -> Result<Vec<Upload>> {
        let attached = |upload: &Upload| upload.state == UploadState::Attached;
        let removed = self.uploads.values().filter(|upload| attached(upload)).cloned().collect();
        self.remove_uploads(attached);
        Ok(removed)
    }

    fn reset_uploads(&mut self) -> Result<()> {
        for upload in self.uploads.values_mut() {
            if upload.state != UploadState::Rejected {
                upload.send_anew();
            }
        }
        Ok(())
    }

    fn rejected_uploads(&mut self) -> Result<Vec<Upload>> {
        let all = self.uploads.values();
        Ok(all.filter(|upload| upload.state == UploadState::Rejected).cloned().collect())
    }

    fn is_uploading(&mut self, blob_id: &BlobId) -> Result<bool> {
        Ok(self.uploads.values().any(|upload| upload.blob_id == *blob_id))
    }

    fn is_needed(&mut self, blob_id: &BlobId) -> Result<bool> {
        let kept = |lost: &Lost| lost.change.kept() == Some(blob_id);
        Ok(self.uploads.values().any(|upload| upload.blob_id == *blob_id)
            || self.lost.values().any(kept))
    }

    fn blobs_to_keep(&mut self) -> Result<Vec<BlobId>> {
        let uploads = self.uploads.values().map(|upload| &upload.blob_id);
        let lost = self.lost.values().filter_map(|lost| lost.change.kept());
        Ok(uploads.chain(lost).cloned().collect())
    }

    fn counts(&mut self) -> Result<Counts> {
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let of = |state| self.uploads.values().filter(|upload| upload.state == state).count();
        Ok(Counts {
            pending: count(self.queue.pending.len() + self.queue.held.len()),
            acknowledged: count(self.queue.acknowledged.len()),
            rejected: count(self.rejected.len()),
            uploads: count(of(UploadState::Queued)),
            rejected_uploads: count(of(UploadState::Rejected)),
            lost: count(self.lost.len()),
        })
    }

    fn directories(&mut self) -> Result<Vec<DirectoryRecord>> {
        Ok(self.directories.values().cloned().collect())
    }

    fn put_directory(&mut self, record: &DirectoryRecord) -> Result<i64> {
        let id = match record.id {
            0 => {
                self.next_directory += 1;
                self.next_directory
            }
            id => id,
        };
        let before = self.directories.insert(id, DirectoryRecord { id, ..record.clone() });
        self.undo.directories.push((id, before));
        Ok(id)
    }

    fn remove_directory(&mut self, directory: i64) -> Result<()> {
        let rows: Vec<u64> = self.of_directory(directory).map(|row| row.id).collect();
        rows.into_iter().for_each(|id| self.set_entry((directory, id), None));
        for intent in self.intents(directory)? {
            self.set_intent((directory, intent.unique), None);
        }
        let before = self.directories.remove(&directory);
        self.undo.directories.push((directory, before));
        Ok(())
    }

    fn put_entry(&mut self, directory: i64, row: &EntryRecord) -> Result<()> {
        let same = |one: &&EntryRecord| one.parent == row.parent && one.name == row.name;
        let other = self.of_directory(directory).find(same).map(|one| one.id);
        if let Some(other) = other.filter(|id| *id != row.id) {
            self.set_entry((directory, other), None);
        }
        self.set_entry((directory, row.id), Some(row.clone()));
        Ok(())
    }

    fn remove_entry(&mut self, directory: i64, id: u64) -> Result<()> {
        self.set_entry((directory, id), None);
        Ok(())
    }

    fn entries(&mut self, directory: i64, parent: u64) -> Result<Vec<EntryRecord>> {
        let of_parent = self.of_directory(directory).filter(|row| row.parent == parent);
        let mut rows: Vec<EntryRecord> = of_parent.cloned().collect();
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(rows)
    }

    fn entry(&mut self, directory: i64, id: u64) -> Result<Option<EntryRecord>> {
        Ok(self.entries.get(&(directory, id)).cloned())
    }

    fn entry_named(
        &mut self,
        directory: i64,
        parent: u64,
        name: &[u8],
    ) -> Result<Option<EntryRecord>> {
        let named = |row: &&EntryRecord| row.parent == parent && row.name == name;
        Ok(self.of_directory(directory).find(named).cloned())
    }

    fn entries_of_inode(&mut self, directory: i64, inode: u64) -> Result<Vec<EntryRecord>> {
        let of_inode = self.of_directory(directory).filter(|row| row.disk.inode == inode);
        Ok(of_inode.cloned().collect())
    }

    fn entries_of_items(&mut self, items: &BTreeSet<ItemId>) -> Result<Vec<(i64, EntryRecord)>> {
        let of_items = self.entries.iter().filter(|(_, row)| items.contains(&row.tree.item));
        Ok(of_items.map(|((directory, _), row)| (*directory, row.clone())).collect())
    }

    fn entries_made(&mut self) -> Result<Vec<(i64, EntryRecord)>> {
        let made = self.entries.iter().filter(|(_, row)| row.made);
        Ok(made.map(|((directory, _), row)| (*directory, row.clone())).collect())
    }

    fn count_entries(&mut self, directory: i64) -> Result<u64> {
        Ok(u64::try_from(self.of_directory(directory).count()).unwrap_or(u64::MAX))
    }

    fn last_entry(&mut self, directory: i64) -> Result<u64> {
        Ok(self.of_directory(directory).map(|row| row.id).max().unwrap_or(0))
    }

    fn put_intent(&mut self, directory: i64, intent: &Intent) -> Result<()> {
        self.set_intent((directory, intent.unique.clone()), Some(intent.clone()));
        Ok(())
    }

    fn remove_intent(&mut self, directory: i64, unique: &str) -> Result<()> {
        self.set_intent((directory, unique.to_owned()), None);
        Ok(())
    }

    fn intents(&mut self, directory: i64) -> Result<Vec<Intent>> {
        let of_directory = self.intents.range((directory, String::new())..);
        let of_directory = of_directory.take_while(|((of, _), _)| *of == directory);
        Ok(of_directory.map(|(_, intent)| intent.clone()).collect())
    }

    fn queued_uploads(&mut self, at_most: usize) -> Result<Vec<Upload>> {
        let queued = |upload: &&Upload| upload.state == UploadState::Queued;
        Ok(self.uploads.values().filter(queued).take(at_most).cloned().collect())
    }

    fn integrity(&mut self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn verify(&mut self) -> Result<u64> {
        self.count_items()
    }

    fn count_items(&mut self) -> Result<u64> {
        let items = self.at(Slot::Current).places.values().filter(|place| place.item.is_some());
        Ok(u64::try_from(items.count()).unwrap_or(u64::MAX))
    }

    fn all_items(&mut self) -> Result<Vec<ItemRow>> {
        let places = self.at(Slot::Current).places.values();
        let mut all: Vec<ItemRow> = places.filter_map(|place| place.item.clone()).collect();
        all.sort_by(|a, b| a.view.item_id.cmp(&b.view.item_id));
        Ok(all)
    }

    fn all_links(&mut self) -> Result<Vec<LinkRow>> {
        let links = self.at(Slot::Current).links.iter();
        let mut all: Vec<LinkRow> = links
            .flat_map(|(parent, children)| {
                children.iter().map(|(child, (authored_at, at))| LinkRow {
                    parent: parent.clone(),
                    child: child.clone(),
                    authored_at: *authored_at,
                    at: *at,
                })
            })
            .collect();
        all.sort_by(|a, b| (&a.parent, &a.child).cmp(&(&b.parent, &b.child)));
        Ok(all)
    }

    fn all_grants(&mut self) -> Result<Vec<GrantRow>> {
        let all = self.at(Slot::Current).grants.values();
        Ok(all.flat_map(BTreeMap::values).cloned().collect())
    }

    fn all_attachments(&mut self) -> Result<Vec<AttachmentRow>> {
        let mut all: Vec<_> = self.at(Slot::Current).attachments.iter().collect();
        all.sort_by(|a, b| a.0.cmp(b.0));
        Ok(all.into_iter().flat_map(|(_, of_item)| of_item.values().cloned()).collect())
    }
}
