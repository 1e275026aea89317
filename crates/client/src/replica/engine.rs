//! The transactions of a replica, over the rows of any back end.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use vfs_sync_core::access::AccessLevel;
use vfs_sync_core::client::flush::FlushCommit;
use vfs_sync_core::client::offer::{Lost, Offered, Trail};
use vfs_sync_core::client::pull::PageCommit;
use vfs_sync_core::client::state::{
    AttachmentRegister, ContainerClock, GrantRegister, ItemRegister, LinkRegister, QueuedOperation,
    RejectedOperation, ReplicaState,
};
use vfs_sync_core::cursor::{Cursor, Epoch};
use vfs_sync_core::entry::{Change, Entry};
use vfs_sync_core::id::{BlobId, ItemId, OpId, UserId, WriteId};
use vfs_sync_core::item::Name;
use vfs_sync_core::operation::{Action, Basis, Operation, Upsert};
use vfs_sync_core::shown::{self, MTIME, TOUCHED};
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::tree::conflict_copy_name;
use vfs_sync_core::wire::{PushReason, ReconcileState, WriteIds};

use super::edits::{Checks, make_operation, touch, used_up};
use super::offering;
use super::page::PageWork;
use super::rows::{AttachmentRow, GrantRow, ItemRow, LinkRow, Result, Rows};
use super::store::{
    Counts, DELETED_REMEMBERED, Meta, NewEdit, NewEdits, Offering, Rebuilt, ReplicaStore, Slot,
    Upload, UploadState,
};
use super::view::{Seen, View};
use crate::api::node::{Grant, Node, QueuedOp, QueuedState, RejectedOp};
use crate::api::record::{DirectoryRecord, EntryRecord, EntryState, RecordChange};
use crate::api::trashed::{Trashed, step};
use crate::error::{ClientError, StopReason};
use crate::event::ChangeEvent;
use crate::transport::TransportError;

/// Contents that a swap looks at in one query.
const CONTENTS_AT_ONCE: usize = 1_000;

/// The greatest number of steps in the path of a deleted item.
const MAX_STEPS: usize = 1_024;

/// The reason for which what was queued for an item is rejected along with the item's creation.
const NOT_MADE: &str = "the server refused to create the item that this is for, or is under";

/// A replica over the rows of a back end.
pub(super) struct Engine<R> {
    rows: R,
    meta: Meta,
    /// Items of others that came into view at the top in the pages of an unfinished pull.
    arrived: Vec<ItemId>,
    /// Facts about containers that reads found out since the last change.
    seen: Seen,
    /// The epochs that the building slot passed through, and its last position.
    building: (Trail, Option<Cursor>),
}

impl<R: Rows> Engine<R> {
    pub(super) fn new(rows: R, meta: Meta) -> Self {
        let (seen, building) = Default::default();
        Self { rows, meta, arrived: Vec::new(), seen, building }
    }

    /// Runs `work` as one transaction, on disk when it returns.
    fn transaction<T>(&mut self, work: impl FnOnce(&mut R, &mut Meta) -> Result<T>) -> Result<T> {
        self.transaction_on(true, work)
    }

    /// Runs `work` as one transaction; if not `at_once`, it is on disk with the next that is.
    fn transaction_on<T>(
        &mut self,
        at_once: bool,
        work: impl FnOnce(&mut R, &mut Meta) -> Result<T>,
    ) -> Result<T> {
        self.seen = Seen::default();
        self.rows.begin(at_once)?;
        let mut meta = self.meta.clone();
        let done = work(&mut self.rows, &mut meta)
            .and_then(|value| self.rows.commit(&self.meta, &meta).map(|()| value));
        match done {
            Ok(value) => {
                self.meta = meta;
                Ok(value)
            }
            Err(error) => {
                self.rows.rollback();
                Err(error)
            }
        }
    }

    /// Reads the current slot. What is found out about containers is kept until something changes:
    /// under a deep chain of queued creations each item's place is as far away as its top.
    fn read<T>(&mut self, work: impl FnOnce(&mut View<'_, R>) -> Result<T>) -> Result<T> {
        let seen = std::mem::take(&mut self.seen);
        let mut view = View::after(&mut self.rows, &self.meta.user, Slot::Current, seen);
        let done = work(&mut view);
        self.seen = view.into_seen();
        done
    }
}

/// Brings the list of what is shown at the top up to date for `items`.
fn refresh_tops<R: Rows>(
    rows: &mut R,
    user: &UserId,
    slot: Slot,
    items: impl IntoIterator<Item = ItemId>,
) -> Result<()> {
    let queue_is_empty = rows.queue_is_empty()?;
    let mut view = View::new(rows, user, slot);
    for id in items {
        let top = view.is_top(&id, queue_is_empty)?;
        view.rows.set_top(slot, &id, top)?;
    }
    Ok(())
}

/// The items whose place an operation can change: its own, and what hangs under one that goes or
/// comes back.
fn affected<R: Rows>(rows: &mut R, op: &Operation) -> Result<Vec<ItemId>> {
    let mut items = vec![op.item_id.clone()];
    if matches!(op.action, Action::Delete | Action::Upsert(_)) {
        items.extend(rows.children(Slot::Current, &op.item_id)?);
        items.extend(rows.queue_of_parent(&op.item_id)?);
    }
    Ok(items)
}

fn refresh_affected<R: Rows>(rows: &mut R, user: &UserId, ops: &[Operation]) -> Result<()> {
    let mut items = BTreeSet::new();
    for op in ops {
        items.extend(affected(rows, op)?);
    }
    refresh_tops(rows, user, Slot::Current, items)
}

/// Notes the epochs that the cursor passes through with these entries.
fn follow(meta: &mut Meta, entries: &[vfs_sync_core::entry::Entry]) {
    let mut last = meta.cursor.as_ref();
    let mut trail: Option<Trail> = None;
    for entry in entries {
        // Nearly all pages are of one epoch, which its twelve digits name.
        let name = |at: &Cursor| at.change_id.as_str().get(..12).map(str::to_owned);
        if let Some(before) = last
            && name(before) != name(&entry.position)
        {
            trail.get_or_insert_with(|| (*meta.trail).clone()).step(Some(before), &entry.position);
        }
        last = Some(&entry.position);
    }
    if let Some(trail) = trail {
        meta.trail = Arc::new(trail);
    }
}

/// The operations of this replica that a server has, as far as its answer tells.
#[derive(Debug, Clone, Copy)]
struct Had {
    /// The greatest write id that the answer shows to be used.
    used: Option<WriteId>,
    /// The answer shows all that are used.
    is_map: bool,
}

impl Had {
    /// Reads a page's map.
    fn of_map(map: Option<&WriteIds>, meta: &Meta) -> Self {
        let used = map.and_then(|map| map.get(&meta.client_id)).copied();
        Self { used, is_map: true }
    }

    /// Reads the results of a push, which tell of no other operation than those that it had.
    fn of_push(commit: &FlushCommit) -> Self {
        let applied = commit.acknowledged.iter().map(|one| one.write_id);
        let used = applied.chain(commit.outdated.iter().map(|one| one.write_id)).max();
        Self { used, is_map: false }
    }
}

/// Enters the epoch that an answer of the server told. What was acknowledged in another one may be in
/// none of its backups: it is queued again. Gives whether there was any. What is shown stays the same.
///
/// What a map covers is there, unless its number was used since for one whose answer was lost.
fn enter_epoch<R: Rows>(
    rows: &mut R,
    meta: &mut Meta,
    call: &'static str,
    told: Option<Epoch>,
    had: Had,
) -> Result<bool> {
    Epoch::check(meta.epoch, told)
        .map_err(|earlier| TransportError::earlier_epoch(call, &earlier))?;
    if told.is_none() || meta.epoch == told {
        return Ok(false);
    }
    meta.epoch = told;
    meta.floor = Arc::default();
    let first = rows.pending(1)?.pop().map(|(op, _)| op.write_id);
    let apart = had.used.is_none_or(|used| first.is_none_or(|first| first > used));
    // So is what it attached, unless the feed has shown it.
    rows.reset_uploads()?;
    let again = match had.used {
        covered if had.is_map && apart => Again::Lacking { covered },
        used => Again::AsSent { used },
    };
    requeue(rows, meta, again)
}

/// The way in which acknowledged operations are queued again.
#[derive(Debug, Clone, Copy)]
enum Again {
    /// The server lacks all above `covered`. They take the time that it gave them.
    Lacking { covered: Option<WriteId> },
    /// The server may have any of them, and knows each by what was sent; of what was not acknowledged it
    /// has none above `used`.
    AsSent { used: Option<WriteId> },
}

/// Queues again what was acknowledged, and is not covered. Gives whether there was any.
fn requeue<R: Rows>(rows: &mut R, meta: &mut Meta, again: Again) -> Result<bool> {
    let (covered, used, as_sent) = match again {
        Again::Lacking { covered } => (covered, covered, false),
        Again::AsSent { used } => (None, used, true),
    };
    let again = rows.unacknowledge(covered, as_sent)?;
    if again.is_empty() {
        return Ok(false);
    }
    let mut pending = rows.queue(usize::MAX)?;
    pending.retain(|one| one.state == QueuedState::Pending);
    let lacks =
        |op: &Operation| Some(op.write_id) > used && !(as_sent && again.contains(&op.op_id));
    keep_order(rows, &pending, lacks)?;
    let rises = pending.is_sorted_by(|a, b| a.operation.write_id < b.operation.write_id);
    if !rises {
        // One that the feed brought back kept its number while those before it got higher ones.
        for one in pending {
            let write_id = WriteId::new(meta.next_write_id).ok_or_else(used_up)?;
            rows.renumber(&one.operation.op_id, write_id)?;
            meta.next_write_id += 1;
        }
    }
    Ok(true)
}

/// Gives what is pending no earlier a time than what is before it in the queue: one that was acknowledged
/// took the server's time, those before it, whose answer was lost, did not. What the server may have keeps
/// the time that it was sent with: only those that it `lacks` are given another.
fn keep_order<R: Rows>(
    rows: &mut R,
    pending: &[QueuedOp],
    lacks: impl Fn(&Operation) -> bool,
) -> Result<()> {
    let mut latest = None;
    for op in pending.iter().map(|one| &one.operation) {
        match latest {
            Some(latest) if op.occurred_at < latest => {
                if lacks(op) {
                    rows.restamp(&op.op_id, latest)?;
                }
            }
            _ => latest = Some(op.occurred_at),
        }
    }
    Ok(())
}

/// Returns the position up to which the replica shows an item's content. A content on its way covers
/// one that came since it was queued: its user has seen no more of that one than when they put theirs.
fn shown_up_to<R: Rows>(rows: &mut R, meta: &Meta, item: &ItemId) -> Result<Basis> {
    let mut on_their_way = rows.uploads_of_item(item)?;
    on_their_way.retain(|upload| upload.state != UploadState::Rejected);
    let Some(first) = on_their_way.first() else { return Ok(meta.basis()) };
    let Some(below) = rows.content(Slot::Current, item)? else { return Ok(meta.basis()) };
    let blob = &below.attachment.blob_id;
    let shown = |one: &Upload| one.blob_id == *blob || one.expected.as_ref() == Some(blob);
    if on_their_way.iter().any(shown) {
        return Ok(meta.basis());
    }
    Ok(first.basis.clone().unwrap_or(Basis::Start))
}

impl<R: Rows> ReplicaStore for Engine<R> {
    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn apply_page(
        &mut self,
        slot: Slot,
        page: PageCommit,
        events: bool,
    ) -> Result<Vec<ChangeEvent>> {
        // What a loss of power takes of a pull that goes on is pulled again: cursor and registers
        // are one transaction. The page that settles it takes the ones before to the disk.
        let at_once = page.settled.is_some() && slot == Slot::Current;
        let events = events && slot == Slot::Current;
        let mut arrived = std::mem::take(&mut self.arrived);
        if slot == Slot::Building {
            let (trail, last) = &mut self.building;
            for entry in &page.entries {
                trail.step(last.as_ref(), &entry.position);
                *last = Some(entry.position.clone());
            }
        }
        let events = self.transaction_on(at_once, |rows, meta| {
            // What is built beside the replica decides by its map once it is whole.
            let is_map = slot == Slot::Current;
            let had = Had { is_map, ..Had::of_map(page.floor.as_ref(), meta) };
            enter_epoch(rows, meta, "pull", page.epoch, had)?;
            if slot == Slot::Current {
                follow(meta, &page.entries);
            }
            let returned = match slot {
                Slot::Current => take_returned(meta, &page.entries),
                Slot::Building => Vec::new(),
            };
            let mut work = PageWork::new(rows, slot, page.entries.len(), events)?;
            for entry in page.entries {
                work.apply(entry, &meta.user, &meta.client_id)?;
            }
            let outcome = work.finish(&meta.user)?;
            arrived.extend(outcome.arrived);
            let mut events = outcome.events;
            events.extend(returned.into_iter().map(ChangeEvent::Kept));
            if let Some(latest) = page.latest {
                meta.clock.observe(latest);
            }
            if slot == Slot::Building {
                return Ok(Vec::new());
            }
            meta.items = meta.items.saturating_add_signed(outcome.new);
            meta.cursor = page.cursor;
            meta.baseline = page.baseline;
            meta.head = page.head;
            if let Some(floor) = page.floor {
                meta.floor = Arc::new(floor);
            }
            if let Some(map) = page.settled {
                if meta.copied {
                    events.extend(withdraw_unseen(rows, meta)?);
                }
                let kept = settle(rows, meta, map)?;
                events.extend(kept.into_iter().map(ChangeEvent::Kept));
                events.extend(shared(rows, &meta.user, arrived.drain(..))?);
                // A content of its own may still cover one that the same replica wrote.
                meta.copied = meta.copied && rows.counts()?.uploads > 0;
            }
            Ok(events)
        })?;
        self.arrived = arrived;
        Ok(events)
    }

    fn enqueue(&mut self, edits: NewEdits, now: Timestamp) -> Result<()> {
        self.transaction(|rows, meta| {
            let mut checks = Checks::default();
            let mut touched = BTreeSet::new();
            let mut seen = Seen::default();
            for NewEdit { op_id, item, action, unconditional } in edits.actions {
                let user = meta.user.clone();
                let mut view = View::after(rows, &user, Slot::Current, seen);
                checks.edit(&mut view, &item, &action)?;
                seen = view.into_seen().places_only();
                let basis = match &action {
                    _ if unconditional => None,
                    Action::Delete => Some(shown_up_to(rows, meta, &item)?),
                    _ => Some(meta.basis()),
                };
                let op = make_operation(meta, op_id, item, action, basis, now)?;
                rows.push_queue(&op, QueuedState::Pending)?;
                touched.extend(affected(rows, &op)?);
                if op.action == Action::Delete {
                    // What was on its way goes with its item.
                    for upload in rows.uploads_of_item(&op.item_id)? {
                        if upload.state == UploadState::Queued {
                            rows.remove_upload(upload.seq)?;
                            rows.forget(&upload.item, &upload.blob_id)?;
                        }
                    }
                }
            }
            refresh_tops(rows, &meta.user, Slot::Current, touched)?;
            for (op_id, mut upload) in edits.uploads {
                let mut view = View::after(rows, &meta.user, Slot::Current, seen);
                let node = view.node(&upload.item)?;
                seen = view.into_seen().places_only();
                let node = node.ok_or_else(|| ClientError::UnknownItem(upload.item.clone()))?;
                if node.access_level < AccessLevel::Write {
                    let (item, has) = (upload.item, node.access_level);
                    let needs = AccessLevel::Write;
                    return Err(ClientError::NotPermitted { item, needs, has });
                }
                upload.expected = node.content.map(|content| content.blob_id);
                upload.basis = Some(shown_up_to(rows, meta, &upload.item)?);
                // One that nobody has heard of yet is replaced, not followed.
                let queued = rows.uploads_of_item(&upload.item)?;
                if let Some(last) = queued.into_iter().next_back()
                    && last.state == UploadState::Queued
                    && last.attach.is_none()
                {
                    upload.expected = last.expected;
                    rows.remove_upload(last.seq)?;
                    rows.forget(&last.item, &last.blob_id)?;
                }
                touch(rows, meta, op_id, &upload.item, now)?;
                upload.occurred_at = Some(meta.clock.stamp(now));
                rows.put_upload(&upload)?;
            }
            for (directory, change) in edits.records {
                change_record(rows, directory, change)?;
            }
            Ok(())
        })
    }

    fn pending(&mut self, at_most: usize) -> Result<Vec<(Operation, usize)>> {
        self.rows.pending(at_most)
    }

    fn before_rebase(&mut self) -> Result<Option<WriteId>> {
        self.transaction(|rows, _| {
            let mut pending = rows.queue(usize::MAX)?;
            pending.retain(|one| one.state == QueuedState::Pending);
            keep_order(rows, &pending, |_| true)?;
            Ok(pending.first().map(|one| one.operation.write_id))
        })
    }

    fn commit_flush(&mut self, commit: &FlushCommit) -> Result<Vec<ChangeEvent>> {
        self.transaction(|rows, meta| {
            let (mut events, mut gone) = (Vec::new(), Vec::new());
            let mut not_made = BTreeSet::new();
            if commit.shift > 0 {
                rows.shift_pending(commit.shift)?;
                meta.next_write_id = meta.next_write_id.saturating_add(commit.shift);
            }
            let requeued = enter_epoch(rows, meta, "push", commit.epoch, Had::of_push(commit))?;
            // What was queued again before them took new numbers; the server knows these by those that
            // they were sent under.
            for one in &commit.acknowledged {
                rows.acknowledge(&one.op_id, one.write_id, one.authored_at)?;
            }
            for beaten in &commit.outdated {
                // It stays on top until a pull brings what superseded it: what is below may be older.
                let Some(item_id) =
                    rows.acknowledge(&beaten.op_id, beaten.write_id, commit.believed)?
                else {
                    continue;
                };
                let (op_id, reason) = (beaten.op_id.clone(), beaten.reason);
                events.push(ChangeEvent::Outdated { op_id, item_id, reason });
            }
            for refused in commit.rejected.iter().filter(|_| !requeued) {
                let (reason, detail) = (refused.reason, refused.detail.clone());
                let Some(op) = reject(rows, &refused.op_id, reason, detail, &mut events)? else {
                    continue;
                };
                if reason == Some(PushReason::NotPermitted) && is_creation(&op) {
                    not_made.insert(op.item_id.clone());
                }
                gone.push(op);
            }
            if !not_made.is_empty() {
                gone.extend(reject_what_follows(rows, not_made, &mut events)?);
            }
            leave_alone(rows, gone.iter().map(|op| op.item_id.clone()).collect())?;
            refresh_affected(rows, &meta.user, &gone)?;
            if let Some(believed) = commit.believed {
                meta.clock.lower(believed, rows.latest_queued_stamp()?);
            }
            Ok(events)
        })
    }

    fn set_reconciled(&mut self, state: ReconcileState) -> Result<()> {
        self.transaction(|_, meta| {
            meta.reconciled = Some(Arc::new(state));
            Ok(())
        })
    }

    fn set_stopped(&mut self, reason: Option<StopReason>) -> Result<()> {
        self.transaction(|_, meta| {
            meta.stopped = reason.map(Arc::new);
            Ok(())
        })
    }

    fn begin_rebuild(&mut self) -> Result<()> {
        self.building = Default::default();
        self.transaction(|rows, _| rows.clear(Slot::Building))
    }

    fn swap(&mut self, rebuilt: Rebuilt, with: &Offering<'_>) -> Result<Offered> {
        self.arrived.clear();
        let (trail, _) = std::mem::take(&mut self.building);
        self.transaction(|rows, meta| {
            let shared = offering::shared_with(rows, meta, &rebuilt.history)?;
            forget_what_went(rows)?;
            meta.rebuilds += 1;
            // What this epoch acknowledged and has is done with; of the rest it is not certain.
            let own = rebuilt.settled.get(&meta.client_id).copied();
            let again = match rebuilt.epoch {
                Some(_) => Again::Lacking { covered: own },
                None => Again::AsSent { used: own },
            };
            let mut affecting = match again {
                Again::Lacking { covered: Some(own) } => rows.remove_covered(own)?,
                _ => Vec::new(),
            };
            requeue(rows, meta, again)?;
            rows.reset_uploads()?;
            let offered = offering::offer_again(rows, meta, &shared, with)?;
            rows.swap_slots()?;
            rows.clear(Slot::Building)?;
            meta.trail = Arc::new(trail);
            meta.cursor = rebuilt.cursor;
            meta.baseline = rebuilt.baseline;
            meta.head = None;
            meta.floor = Arc::new(rebuilt.floor);
            (meta.settled, meta.reconciled) = (None, None);
            if let Some(cursor) = meta.cursor.clone() {
                let last_reconciled_write_ids = rebuilt.settled;
                let state = ReconcileState { cursor, last_reconciled_write_ids };
                meta.settled = Some(Arc::new(state));
            }
            meta.items = rows.count_items()?;
            affecting.extend(rows.queue(usize::MAX)?.into_iter().map(|one| one.operation));
            refresh_affected(rows, &meta.user, &affecting)?;
            offering::settle_lost(rows, meta)?;
            Ok(offered)
        })
    }

    fn lost(&mut self, after: i64, at_most: usize) -> Result<Vec<(i64, Lost)>> {
        let rows = self.rows.lost(after, at_most)?;
        Ok(rows.into_iter().map(|row| (row.seq, row.lost)).collect())
    }

    fn discard_lost(&mut self, numbers: &[i64]) -> Result<()> {
        self.transaction(|rows, _| {
            for number in numbers {
                let row = rows.lost(number - 1, 1)?.pop().filter(|row| row.seq == *number);
                let Some(row) = row else { continue };
                rows.remove_lost(row.seq)?;
                if let Some(blob_id) = row.lost.change.kept() {
                    rows.forget(&row.lost.item, blob_id)?;
                }
            }
            Ok(())
        })
    }

    fn uploads(&mut self, after: i64, at_most: usize) -> Result<Vec<Upload>> {
        self.rows.uploads(after, at_most)
    }

    fn put_uploads(&mut self, uploads: &[Upload]) -> Result<()> {
        self.transaction(|rows, _| uploads.iter().try_for_each(|upload| rows.put_upload(upload)))
    }

    fn settle_uploads(&mut self, uploads: &[Upload]) -> Result<()> {
        self.transaction(|rows, meta| {
            let refused = uploads.iter().filter(|upload| upload.state == UploadState::Rejected);
            leave_alone(rows, refused.map(|upload| upload.item.clone()).collect())?;
            for upload in uploads {
                let mut upload = upload.clone();
                let queue = rows.uploads_of_item(&upload.item)?;
                let before = queue.iter().find(|one| one.seq == upload.seq);
                if let Some(before) = before.filter(|one| one.blob_id != upload.blob_id) {
                    // A touch names the bytes by the id that they lose.
                    let node = View::new(rows, &meta.user, Slot::Current).node(&upload.item)?;
                    let touched = node.as_ref().and_then(|node| shown::touched(&node.metadata));
                    let of_these = touched.filter(|(_, of)| *of == before.blob_id.as_str());
                    upload.modified_at = of_these.map(|(time, _)| time).or(upload.modified_at);
                }
                let now = match upload.state {
                    UploadState::Rejected => upload.expected.clone(),
                    UploadState::Queued | UploadState::Attached => Some(upload.blob_id.clone()),
                };
                if let Some(before) = before {
                    let gone = Some(before.blob_id.clone());
                    for later in queue.iter().filter(|later| later.expected == gone && now != gone)
                    {
                        let expected = now.clone();
                        rows.put_upload(&Upload { expected, attach: None, ..later.clone() })?;
                    }
                }
                rows.put_upload(&upload)?;
            }
            Ok(())
        })
    }

    fn remove_upload(&mut self, seq: i64) -> Result<()> {
        self.transaction(|rows, _| rows.remove_upload(seq))
    }

    fn copy_aside(
        &mut self,
        upload: Upload,
        op_id: OpId,
        copy: ItemId,
        device: &str,
        now: Timestamp,
    ) -> Result<bool> {
        self.transaction(|rows, meta| {
            let current = rows.content(Slot::Current, &upload.item)?;
            if current.is_some_and(|row| row.attachment.digest == upload.digest) {
                rows.remove_upload(upload.seq)?;
                rows.forget(&upload.item, &upload.blob_id)?;
                return Ok(false);
            }
            let there = rows.content(Slot::Current, &copy)?;
            if there.is_some_and(|row| row.attachment.digest == upload.digest) {
                // Another device of the user has made the same copy.
                rows.remove_upload(upload.seq)?;
                rows.forget(&upload.item, &upload.blob_id)?;
                return Ok(false);
            }
            let mut view = View::new(rows, &meta.user, Slot::Current);
            let Some(node) = view.node(&upload.item)? else {
                leave_alone(rows, BTreeSet::from([upload.item.clone()]))?;
                let reason = Some("the item went while its content was on its way".into());
                rows.put_upload(&Upload { state: UploadState::Rejected, reason, ..upload })?;
                return Ok(false);
            };
            let parent = view.parents(&upload.item)?.into_iter().next();
            let siblings = siblings_of(&mut view, parent.as_ref())?;
            let same = siblings.iter().find(|sibling| {
                let content = sibling.content.as_ref();
                sibling.id != upload.item
                    && sibling.owner == node.owner
                    && content.is_some_and(|content| content.digest == upload.digest)
                    && is_copy_of(sibling, &node)
            });
            if let Some(same) = same.map(|sibling| sibling.id.clone()) {
                // Another device, or an earlier attempt, kept these bytes.
                follow_copy(rows, &upload, &same, parent.as_ref())?;
                rows.remove_upload(upload.seq)?;
                rows.forget(&upload.item, &upload.blob_id)?;
                return Ok(false);
            }
            let made_at = upload.modified_at.unwrap_or(now);
            let name =
                node.name.as_ref().map(|name| free_copy_name(name, device, made_at, &siblings));
            // What was written on top of it goes along.
            let later = rows.uploads_of_item(&upload.item)?.into_iter();
            let later = later.filter(|later| later.expected.as_ref() == Some(&upload.blob_id));
            let later: Vec<Upload> = later.collect();
            // So do the times of these bytes, and no others.
            let goes_along = |blob: &str| {
                let mut along = later.iter().chain([&upload]);
                along.any(|one| one.blob_id.as_str() == blob)
            };
            let touched = shown::touched(&node.metadata).is_some_and(|(_, of)| goes_along(of));
            let stays = |key: &str| match key {
                TOUCHED => touched,
                MTIME => upload.modified_at.is_none(),
                _ => true,
            };
            let metadata = node.metadata.into_iter().filter(|(key, _)| stays(key));
            let metadata = metadata.map(|(key, value)| (key, Some(value)));
            let encrypted = node.encrypted;
            let upsert = Upsert {
                object_type: Some(node.object_type),
                name: if encrypted.is_some() { None } else { name },
                metadata: if encrypted.is_some() { BTreeMap::new() } else { metadata.collect() },
                encrypted,
                parent: parent.clone(),
            };
            let action = Action::Upsert(Box::new(upsert));
            let basis = Some(meta.basis());
            let op = make_operation(meta, op_id, copy.clone(), action, basis, now)?;
            rows.push_queue(&op, QueuedState::Pending)?;
            refresh_affected(rows, &meta.user, &[op])?;
            for later in later {
                rows.put_upload(&Upload { item: copy.clone(), attach: None, ..later })?;
            }
            follow_copy(rows, &upload, &copy, parent.as_ref())?;
            rows.put_upload(&Upload { item: copy, expected: None, attach: None, ..upload })?;
            Ok(true)
        })
    }

    fn rejected_uploads(&mut self) -> Result<Vec<Upload>> {
        self.rows.rejected_uploads()
    }

    fn forgettable(&mut self, at_most: usize) -> Result<Vec<BlobId>> {
        if self.rows.forgotten(1)?.is_empty() {
            return Ok(Vec::new());
        }
        self.transaction(|rows, _| {
            let mut going = Vec::new();
            while going.is_empty() {
                let forgotten = rows.forgotten(at_most)?;
                if forgotten.is_empty() {
                    break;
                }
                for (item, blob_id) in forgotten {
                    // It came back, or is on its way to the server under the same id.
                    let current = rows.content(Slot::Current, &item)?;
                    let shown = current.is_some_and(|row| row.attachment.blob_id == blob_id);
                    if shown || rows.is_needed(&blob_id)? {
                        rows.remove_forgotten(&blob_id)?;
                    } else {
                        going.push(blob_id);
                    }
                }
            }
            Ok(going)
        })
    }

    fn forget(&mut self, item: &ItemId, blob_id: &BlobId) -> Result<()> {
        self.transaction(|rows, _| rows.forget(item, blob_id))
    }

    fn forgot(&mut self, blobs: &[BlobId]) -> Result<()> {
        self.transaction(|rows, _| blobs.iter().try_for_each(|id| rows.remove_forgotten(id)))
    }

    fn blobs_to_keep(&mut self) -> Result<Vec<BlobId>> {
        self.rows.blobs_to_keep()
    }

    fn node(&mut self, id: &ItemId) -> Result<Option<Node>> {
        self.read(|view| view.node(id))
    }

    fn children(&mut self, parent: Option<&ItemId>) -> Result<Vec<Node>> {
        if let Some(parent) = parent {
            return self.read(|view| {
                view.node(parent)?.ok_or_else(|| ClientError::UnknownItem(parent.clone()))?;
                view.children(parent)
            });
        }
        let user = self.meta.user.clone();
        self.tops_of(&user)
    }

    fn tops_of(&mut self, owner: &UserId) -> Result<Vec<Node>> {
        let tops = self.rows.tops()?;
        self.read(|view| {
            let mut nodes = Vec::new();
            for (id, told) in tops {
                if told.is_none_or(|told| told == *owner) {
                    nodes.extend(view.node(&id)?.filter(|node| node.owner == *owner));
                }
            }
            Ok(nodes)
        })
    }

    fn other_owners(&mut self) -> Result<BTreeSet<UserId>> {
        let tops = self.rows.tops()?;
        let user = self.meta.user.clone();
        self.read(|view| {
            let mut owners = BTreeSet::new();
            for (id, told) in tops {
                // An item of an owner who is known may be deleted in the queue.
                let known =
                    told.as_ref().is_some_and(|told| *told == user || owners.contains(told));
                if let Some(node) = if known { None } else { view.node(&id)? } {
                    owners.insert(node.owner);
                }
            }
            owners.remove(&user);
            Ok(owners)
        })
    }

    fn parents(&mut self, id: &ItemId) -> Result<Vec<ItemId>> {
        self.read(|view| view.parents(id))
    }

    fn grants(&mut self, id: &ItemId) -> Result<Vec<Grant>> {
        self.read(|view| view.grants(id))
    }

    fn granted_items(&mut self) -> Result<BTreeSet<ItemId>> {
        let confirmed = self.rows.all_grants()?.into_iter().map(|row| row.item);
        let mut items: BTreeSet<ItemId> = confirmed.collect();
        for one in self.rows.queue(usize::MAX)? {
            if let Action::GrantAdd { .. } = one.operation.action {
                items.insert(one.operation.item_id);
            }
        }
        Ok(items)
    }

    fn changed_containers(
        &mut self,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Vec<(ItemId, Cursor)>> {
        self.rows.changed_containers(after, limit)
    }

    fn queue(&mut self, limit: usize) -> Result<Vec<QueuedOp>> {
        self.rows.queue(limit)
    }

    fn rejected(&mut self, limit: usize) -> Result<Vec<RejectedOp>> {
        self.rows.rejected(limit)
    }

    fn deleted_here(&mut self, limit: usize) -> Result<Vec<Trashed>> {
        let mut found: Vec<Trashed> = Vec::new();
        let user = self.meta.user.clone();
        let queue = self.rows.queue(usize::MAX)?;
        for one in queue.into_iter().rev() {
            let operation = &one.operation;
            let id = &operation.item_id;
            let deletes =
                one.state == QueuedState::Pending && matches!(operation.action, Action::Delete);
            if !deletes || found.iter().any(|other| other.item == *id) {
                continue;
            }
            // What was created and deleted before any synchronisation is known to the queue only.
            let row = self.rows.item(Slot::Current, id)?;
            let Some(ItemRow { view, .. }) = row else { continue };
            if self.node(id)?.is_some() {
                continue;
            }
            let mut path = vec![step(view.name.as_ref(), id)];
            let mut at = id.clone();
            while path.len() < MAX_STEPS {
                let above = self.rows.parents(Slot::Current, &at)?;
                let Some(parent) = above.into_iter().next() else { break };
                let Some(row) = self.rows.item(Slot::Current, &parent)? else { break };
                path.push(step(row.view.name.as_ref(), &parent));
                at = parent;
            }
            path.reverse();
            let content = self.rows.content(Slot::Current, id)?;
            found.push(Trashed {
                item: id.clone(),
                object_type: view.object_type,
                name: view.name.clone(),
                owner: view.owner_id.clone(),
                path,
                deleted_at: operation.occurred_at,
                deleted_by: user.clone(),
                size: content.map(|row| row.attachment.size),
                expires_at: None,
                pending: true,
            });
            if found.len() == limit {
                break;
            }
        }
        Ok(found)
    }

    fn settle_rejected(&mut self, op_id: &OpId, again: Option<OpId>, now: Timestamp) -> Result<()> {
        self.transaction(|rows, meta| {
            let unknown = || ClientError::UnknownRejected(op_id.to_string());
            let rejected = rows.remove_rejected(op_id)?.ok_or_else(unknown)?;
            if let Some(again) = again {
                let before = rejected.operation;
                // What was sent without one was to apply whatever its author saw.
                let basis = match (&before.basis, &before.action) {
                    (None, _) => None,
                    (Some(_), Action::Delete) => Some(shown_up_to(rows, meta, &before.item_id)?),
                    (Some(_), _) => Some(meta.basis()),
                };
                let (item, action) = (before.item_id, before.action);
                let op = make_operation(meta, again, item, action, basis, now)?;
                rows.push_queue(&op, QueuedState::Pending)?;
                refresh_affected(rows, &meta.user, &[op])?;
            }
            Ok(())
        })
    }

    fn counts(&mut self) -> Result<Counts> {
        self.rows.counts()
    }

    fn directories(&mut self) -> Result<Vec<DirectoryRecord>> {
        self.rows.directories()
    }

    fn put_directory(
        &mut self,
        record: DirectoryRecord,
        at_most: usize,
    ) -> Result<DirectoryRecord> {
        self.transaction(|rows, _| {
            let id = rows.put_directory(&record)?;
            let mut all = rows.directories()?;
            all.sort_by_key(|one| (std::cmp::Reverse(one.used_at), std::cmp::Reverse(one.id)));
            for old in all.iter().skip(at_most).filter(|old| old.id != id) {
                rows.remove_directory(old.id)?;
            }
            Ok(DirectoryRecord { id, ..record })
        })
    }

    fn entries(&mut self, directory: i64, parent: u64) -> Result<Vec<EntryRecord>> {
        self.rows.entries(directory, parent)
    }

    fn entry(&mut self, directory: i64, id: u64) -> Result<Option<EntryRecord>> {
        self.rows.entry(directory, id)
    }

    fn entries_of_inode(&mut self, directory: i64, inode: u64) -> Result<Vec<EntryRecord>> {
        self.rows.entries_of_inode(directory, inode)
    }

    fn entries_of_item(&mut self, item: &ItemId) -> Result<Vec<(i64, EntryRecord)>> {
        self.rows.entries_of_items(&BTreeSet::from([item.clone()]))
    }

    fn entries_made(&mut self) -> Result<Vec<(i64, EntryRecord)>> {
        self.rows.entries_made()
    }

    fn count_entries(&mut self, directory: i64) -> Result<u64> {
        self.rows.count_entries(directory)
    }

    fn last_entry(&mut self, directory: i64) -> Result<u64> {
        self.rows.last_entry(directory)
    }

    fn write_entries(
        &mut self,
        directory: i64,
        changes: Vec<RecordChange>,
        at_once: bool,
    ) -> Result<()> {
        self.transaction_on(at_once, |rows, _| {
            changes.into_iter().try_for_each(|change| change_record(rows, directory, change))
        })
    }

    fn export(&mut self) -> Result<ReplicaState> {
        let meta = self.meta.clone();
        let (rows, limit) = (&mut self.rows, usize::MAX);
        let clocks = rows.changed_containers(None, limit)?;
        let mut container_clocks: Vec<ContainerClock> = clocks
            .into_iter()
            .map(|(container_id, clock)| ContainerClock { container_id, clock })
            .collect();
        container_clocks.sort_by(|a, b| a.container_id.cmp(&b.container_id));
        let item = |row: ItemRow| ItemRegister { item: *row.view, authored_at: row.authored_at };
        let link = |row: LinkRow| LinkRegister {
            parent_id: row.parent,
            child_id: row.child,
            authored_at: row.authored_at,
        };
        let grant = |row: GrantRow| GrantRegister {
            item_id: row.item,
            principal: row.principal,
            access_level: row.level,
            authored_at: row.authored_at,
        };
        let attachment = |row: AttachmentRow| AttachmentRegister {
            attachment: *row.attachment,
            authored_at: row.authored_at,
        };
        Ok(ReplicaState {
            client_id: meta.client_id,
            user_id: meta.user,
            replay_cursor: meta.cursor,
            baseline: meta.baseline,
            head: meta.head,
            write_id_floor: (*meta.floor).clone(),
            reconcile_state: meta.settled.map(|state| (*state).clone()),
            clock: meta.clock,
            next_local_write_id: meta.next_write_id,
            items: rows.all_items()?.into_iter().map(item).collect(),
            links: rows.all_links()?.into_iter().map(link).collect(),
            grants: rows.all_grants()?.into_iter().map(grant).collect(),
            attachments: rows.all_attachments()?.into_iter().map(attachment).collect(),
            container_clocks,
            queue: rows
                .queue(limit)?
                .into_iter()
                .map(|one| QueuedOperation {
                    acknowledged: one.state == QueuedState::Acknowledged,
                    operation: one.operation,
                })
                .collect(),
            rejected: rows
                .rejected(limit)?
                .into_iter()
                .map(|one| RejectedOperation {
                    operation: one.operation,
                    reason: one.reason,
                    detail: one.detail,
                })
                .collect(),
        })
    }

    fn is_pristine(&mut self) -> Result<bool> {
        let pristine = Meta {
            stopped: self.meta.stopped.clone(),
            ..Meta::new(self.meta.client_id.clone(), self.meta.user.clone(), &self.meta.server)
        };
        let counts = self.rows.counts()?;
        Ok(self.meta == pristine && counts == Counts::default())
    }

    fn hydrate(&mut self, state: ReplicaState) -> Result<()> {
        self.transaction(|rows, meta| {
            let slot = Slot::Current;
            meta.items = u64::try_from(state.items.len()).unwrap_or(u64::MAX);
            let mut placed: BTreeSet<ItemId> = BTreeSet::new();
            for row in state.items {
                placed.insert(row.item.item_id.clone());
                let row =
                    ItemRow { view: Box::new(row.item), authored_at: row.authored_at, at: None };
                rows.put_item(slot, row)?;
            }
            for row in state.links {
                rows.put_link(
                    slot,
                    LinkRow {
                        parent: row.parent_id,
                        child: row.child_id,
                        authored_at: row.authored_at,
                        at: None,
                    },
                )?;
            }
            for row in state.grants {
                let (item, authored_at) = (row.item_id, row.authored_at);
                let (principal, level) = (row.principal, row.access_level);
                rows.put_grant(slot, GrantRow { item, principal, level, authored_at, at: None })?;
            }
            for row in state.attachments {
                let attachment = Box::new(row.attachment);
                rows.put_attachment(
                    slot,
                    AttachmentRow { attachment, authored_at: row.authored_at, at: None },
                )?;
            }
            for one in &state.container_clocks {
                rows.bump_container(slot, &one.container_id, &one.clock)?;
            }
            for one in state.queue {
                let acknowledged = QueuedState::Acknowledged;
                let state = if one.acknowledged { acknowledged } else { QueuedState::Pending };
                rows.push_queue(&one.operation, state)?;
                placed.extend(affected(rows, &one.operation)?);
            }
            for one in state.rejected {
                rows.push_rejected(&RejectedOp {
                    operation: one.operation,
                    reason: one.reason,
                    detail: one.detail,
                })?;
            }
            meta.cursor = state.replay_cursor;
            meta.baseline = state.baseline;
            meta.head = state.head;
            meta.floor = Arc::new(state.write_id_floor);
            meta.settled = state.reconcile_state.map(Arc::new);
            meta.clock = state.clock;
            meta.next_write_id = state.next_local_write_id;
            meta.copied = true;
            refresh_tops(rows, &meta.user, slot, placed)
        })
    }
}

/// Siblings that are looked through for the name and the bytes of a conflicted copy; in a folder of
/// more, names are made unique as those of any siblings are.
const SIBLINGS_AT_MOST: usize = 2_048;

fn siblings_of<R: Rows>(view: &mut View<'_, R>, parent: Option<&ItemId>) -> Result<Vec<Node>> {
    let ids = match parent {
        Some(parent) => {
            let few = view.rows.children(Slot::Current, parent)?.len() <= SIBLINGS_AT_MOST;
            return if few { view.children(parent) } else { Ok(Vec::new()) };
        }
        None => view.rows.tops()?.into_iter().map(|(id, _)| id).collect::<Vec<_>>(),
    };
    let mut siblings = Vec::new();
    for id in ids.iter().filter(|_| ids.len() <= SIBLINGS_AT_MOST) {
        siblings.extend(view.node(id)?);
    }
    Ok(siblings)
}

/// Returns true if a sibling is named as a conflicted copy of an item is, by whichever device.
fn is_copy_of(sibling: &Node, node: &Node) -> bool {
    let (Some(name), Some(of)) = (&sibling.name, &node.name) else { return false };
    let at = Timestamp::MIN;
    name != of && conflict_copy_name(name, "x", at, 0) == conflict_copy_name(of, "x", at, 0)
}

fn free_copy_name(name: &Name, device: &str, at: Timestamp, siblings: &[Node]) -> Name {
    let taken: BTreeSet<&Name> = siblings.iter().filter_map(|one| one.name.as_ref()).collect();
    let names = (0..).map(|number| conflict_copy_name(name, device, at, number));
    names.into_iter().find(|name| !taken.contains(name)).unwrap_or_else(|| name.clone())
}

/// Moves the directories' rows of a content that became a conflicted copy to the copy.
fn follow_copy<R: Rows>(
    rows: &mut R,
    upload: &Upload,
    copy: &ItemId,
    parent: Option<&ItemId>,
) -> Result<()> {
    if rows.directories()?.is_empty() {
        return Ok(());
    }
    for (directory, mut row) in rows.entries_of_items(&BTreeSet::from([upload.item.clone()]))? {
        if row.tree.digest == Some(upload.digest) {
            row.tree.item = copy.clone();
            row.tree.parent = parent.cloned();
            row.tree.blob_id = Some(upload.blob_id.clone());
            rows.put_entry(directory, &row)?;
        }
    }
    Ok(())
}

fn change_record<R: Rows>(rows: &mut R, directory: i64, change: RecordChange) -> Result<()> {
    let mut going = match change {
        RecordChange::Put(row) => return rows.put_entry(directory, &row),
        RecordChange::Remove(id) => vec![id],
    };
    while let Some(id) = going.pop() {
        going.extend(rows.entries(directory, id)?.into_iter().map(|row| row.id));
        rows.remove_entry(directory, id)?;
    }
    Ok(())
}

/// Moves a queued operation to the list of rejected ones; gives it, if it is still queued.
fn reject<R: Rows>(
    rows: &mut R,
    op_id: &OpId,
    reason: Option<PushReason>,
    detail: Option<String>,
    events: &mut Vec<ChangeEvent>,
) -> Result<Option<Operation>> {
    let Some(operation) = rows.remove_queued(op_id)? else { return Ok(None) };
    events.push(ChangeEvent::Rejected {
        op_id: operation.op_id.clone(),
        item_id: operation.item_id.clone(),
        reason,
    });
    rows.push_rejected(&RejectedOp { operation: operation.clone(), reason, detail })?;
    Ok(Some(operation))
}

fn is_creation(op: &Operation) -> bool {
    matches!(&op.action, Action::Upsert(upsert) if upsert.object_type.is_some())
}

/// Rejects the queued operations and contents of items whose creation the server refused: where the
/// id is that of somebody else's item, they would go to that one. Gives the operations.
fn reject_what_follows<R: Rows>(
    rows: &mut R,
    mut not_made: BTreeSet<ItemId>,
    events: &mut Vec<ChangeEvent>,
) -> Result<Vec<Operation>> {
    let mut rejected = Vec::new();
    for QueuedOp { operation: op, state } in rows.queue(usize::MAX)? {
        let mut named = [Some(&op.item_id), op.parent()].into_iter().flatten();
        if state != QueuedState::Pending || !named.any(|id| not_made.contains(id)) {
            continue;
        }
        if is_creation(&op) {
            not_made.insert(op.item_id.clone());
        }
        let (reason, detail) = (Some(PushReason::NotPermitted), Some(NOT_MADE.to_owned()));
        rejected.extend(reject(rows, &op.op_id, reason, detail, events)?);
    }
    for item in &not_made {
        let mut uploads = rows.uploads_of_item(item)?;
        uploads.retain(|upload| upload.state == UploadState::Queued);
        // None of them replaces one of the others any more.
        let expected = uploads.first().and_then(|first| first.expected.clone());
        for upload in uploads {
            let (item_id, reason) = (item.clone(), NOT_MADE.to_owned());
            events.push(ChangeEvent::UploadRejected { item_id, reason: reason.clone() });
            let (state, reason, expected) = (UploadState::Rejected, Some(reason), expected.clone());
            rows.put_upload(&Upload { state, reason, expected, ..upload })?;
        }
    }
    leave_alone(rows, not_made)?;
    Ok(rejected)
}

/// The server refused something of these items: what directories have of them may be the only
/// bytes there are, and stays.
fn leave_alone<R: Rows>(rows: &mut R, items: BTreeSet<ItemId>) -> Result<()> {
    if items.is_empty() || rows.directories()?.is_empty() {
        return Ok(());
    }
    for (directory, row) in rows.entries_of_items(&items)? {
        rows.put_entry(directory, &EntryRecord { state: EntryState::Local, ..row })?;
    }
    Ok(())
}

/// Selects the new items that belong to somebody else and hang at the top.
fn shared<R: Rows>(
    rows: &mut R,
    user: &UserId,
    arrived: impl Iterator<Item = ItemId>,
) -> Result<Vec<ChangeEvent>> {
    let queue_is_empty = rows.queue_is_empty()?;
    let mut events = Vec::new();
    let mut view = View::new(rows, user, Slot::Current);
    for item_id in arrived {
        if !view.is_top(&item_id, queue_is_empty)? {
            continue;
        }
        if let Some(node) = view.node(&item_id)? {
            let (owner, level) = (node.owner, node.access_level);
            events.push(ChangeEvent::Shared { item_id, owner, level });
        }
    }
    Ok(events)
}

/// Before a rebuilt replica is swapped in: the contents that it does not have any more.
fn forget_what_went<R: Rows>(rows: &mut R) -> Result<()> {
    let mut after = None;
    loop {
        let page = rows.contents(after.as_ref(), CONTENTS_AT_ONCE)?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.attachment.item_id.clone());
        for row in page {
            let (item, blob_id) = (&row.attachment.item_id, &row.attachment.blob_id);
            let rebuilt = rows.content(Slot::Building, item)?;
            if rebuilt.is_none_or(|rebuilt| rebuilt.attachment.blob_id != *blob_id) {
                rows.forget(item, blob_id)?;
            }
        }
    }
}

/// The items that this replica deleted and that a page brings back, since somebody changed them: they
/// are remembered no more. A restore by its own user is not reported.
fn take_returned(meta: &mut Meta, entries: &[Entry]) -> Vec<ItemId> {
    if meta.deleted.is_empty() {
        return Vec::new();
    }
    let deleted: HashSet<&ItemId> = meta.deleted.iter().collect();
    let (mut back, mut told) = (HashSet::new(), Vec::new());
    for entry in entries {
        let Change::ItemUpsert(view) = &entry.body.change else { continue };
        if deleted.contains(&view.item_id) && back.insert(view.item_id.clone()) {
            let body = &entry.body;
            let by_device = body.origin.is_some() || body.author_replica.is_some();
            if by_device || body.actor.as_ref() != Some(&meta.user) {
                told.push(view.item_id.clone());
            }
        }
    }
    if !back.is_empty() {
        let left = meta.deleted.iter().filter(|id| !back.contains(*id));
        meta.deleted = Arc::new(left.cloned().collect());
    }
    told
}

/// Takes the deletions of what a copy had not seen off its queue, as a server decides those of what another
/// replica wrote: what the same replica wrote after the export is for a server seen by its copy too. The
/// containers stay that hang above what stays.
fn withdraw_unseen<R: Rows>(rows: &mut R, meta: &Meta) -> Result<Vec<ChangeEvent>> {
    let mut deletions = BTreeMap::new();
    for QueuedOp { operation, state } in rows.queue(usize::MAX)? {
        if state == QueuedState::Pending
            && operation.action == Action::Delete
            && let Some(basis) = operation.basis
        {
            deletions.insert(operation.item_id, (operation.op_id, basis));
        }
    }
    let mut open = Vec::new();
    for (item, (_, basis)) in &deletions {
        if has_changed_since(rows, item, basis)? {
            open.push(item.clone());
        }
    }
    let (mut stays, mut withdrawn, mut events) = (BTreeSet::new(), Vec::new(), Vec::new());
    while let Some(item) = open.pop() {
        if !stays.insert(item.clone()) {
            continue;
        }
        open.extend(rows.parents(Slot::Current, &item)?);
        let Some((op_id, _)) = deletions.get(&item) else { continue };
        withdrawn.extend(rows.remove_queued(op_id)?);
        let (op_id, reason) = (op_id.clone(), Some(PushReason::Unseen));
        events.push(ChangeEvent::Outdated { op_id, item_id: item.clone(), reason });
        events.push(ChangeEvent::Kept(item));
    }
    refresh_affected(rows, &meta.user, &withdrawn)?;
    Ok(events)
}

/// Returns true if the feed changed an item, its content, a link to it or one from it after `basis`.
fn has_changed_since<R: Rows>(rows: &mut R, item: &ItemId, basis: &Basis) -> Result<bool> {
    let Some(row) = rows.item(Slot::Current, item)? else { return Ok(false) };
    let mut told = vec![row.at];
    told.extend(rows.content(Slot::Current, item)?.map(|row| row.at));
    told.extend(rows.parent_links(Slot::Current, item)?.into_iter().map(|link| link.at));
    for child in rows.children(Slot::Current, item)? {
        let links = rows.parent_links(Slot::Current, &child)?.into_iter();
        told.extend(links.filter(|link| link.parent == *item).map(|link| link.at));
    }
    Ok(told.into_iter().flatten().any(|at| basis.is_before(at)))
}

/// A pull has settled: its map is the reconcile state, and covers what was acknowledged. Gives the
/// items that are there although this replica deleted them.
fn settle<R: Rows>(
    rows: &mut R,
    meta: &mut Meta,
    map: vfs_sync_core::wire::WriteIds,
) -> Result<Vec<ItemId>> {
    let (mut kept, mut gone, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
    if let Some(own) = map.get(&meta.client_id) {
        let covered = rows.remove_covered(*own)?;
        refresh_affected(rows, &meta.user, &covered)?;
        for op in covered.iter().filter(|op| op.action == Action::Delete) {
            let shown = View::new(rows, &meta.user, Slot::Current).node(&op.item_id)?.is_some();
            if !seen.insert(op.item_id.clone()) {
                continue;
            }
            let list = if shown { &mut kept } else { &mut gone };
            list.push(op.item_id.clone());
        }
        if !gone.is_empty() {
            let again: HashSet<&ItemId> = gone.iter().collect();
            let before = meta.deleted.iter().filter(|id| !again.contains(id)).cloned();
            let mut deleted: Vec<ItemId> = before.chain(gone.iter().cloned()).collect();
            deleted.drain(..deleted.len().saturating_sub(DELETED_REMEMBERED));
            meta.deleted = Arc::new(deleted);
        }
    }
    // Those that the feed did not bring back went with their items, or others took their places.
    for upload in rows.remove_attached_uploads()? {
        rows.forget(&upload.item, &upload.blob_id)?;
    }
    offering::prune(rows, meta)?;
    if meta.settled.as_ref().map(|state| &state.cursor) != meta.cursor.as_ref() {
        offering::settle_lost(rows, meta)?;
    }
    if let Some(cursor) = meta.cursor.clone() {
        let state = ReconcileState { cursor, last_reconciled_write_ids: map };
        if meta.settled.as_deref() != Some(&state) {
            meta.settled = Some(Arc::new(state));
        }
    }
    Ok(kept)
}
