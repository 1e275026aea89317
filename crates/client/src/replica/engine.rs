//! The transactions of a replica, over the rows of any back end.

mod confirmed;
pub(super) mod epoch;
mod flush;
mod found;
mod moves;
mod queue;
mod rebuild;
pub(super) mod report;
mod state;
mod tops;
mod uploads;

use std::collections::BTreeSet;
use std::sync::Arc;

use vfs_sync_core::client::flush::FlushCommit;
use vfs_sync_core::client::offer::{Lost, Offered, Trail};
use vfs_sync_core::client::pull::PageCommit;
use vfs_sync_core::client::state::ReplicaState;
use vfs_sync_core::cursor::Cursor;
use vfs_sync_core::id::{BlobId, ItemId, OpId, UserId, WriteId};
use vfs_sync_core::operation::{Action, Operation};
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::ReconcileState;
use vfs_sync_core::wire::telemetry::Report;

use super::rows::{ItemRow, Result, Rows};
use super::store::{Counts, Meta, NewEdits, NewTimes, Offering, Rebuilt, Slot, Superseded, Upload};
use super::view::{Seen, View};
use crate::api::Query;
use crate::api::node::{Grant, Node, QueuedOp, QueuedState, RejectedOp, Trashed, step};
use crate::api::record::{DirectoryRecord, EntryRecord, Intent, RecordChange};
use crate::error::{ClientError, Failing, StopReason};
use crate::event::ChangeEvent;
use epoch::as_new;
use queue::change_record;
use report::{Reports, Touched};

/// The greatest number of steps in the path of a deleted item.
const MAX_STEPS: usize = 1_024;

/// The durable state of a replica, over the rows of a back end. Each call is one transaction: all of
/// it happens, durably, or none.
pub(crate) struct ReplicaStore {
    rows: Box<dyn Rows>,
    meta: Meta,
    /// Items of other users that became visible at the top in the pages of an unfinished pull.
    arrived: Vec<ItemId>,
    /// Facts about containers that reads have found since the last change.
    seen: Seen,
    /// The epochs that the building slot passed through, and its last position.
    building: (Trail, Option<Cursor>),
    reports: Option<Reports>,
    /// True if there is an index of shown items; `None` until that is known.
    indexed: Option<bool>,
    /// The items that the next transaction may change, if there is an index.
    touched: Option<Touched>,
}

impl ReplicaStore {
    pub(super) fn new(rows: impl Rows + 'static, meta: Meta) -> Self {
        let (seen, building) = Default::default();
        Self {
            rows: Box::new(rows),
            meta,
            arrived: Vec::new(),
            seen,
            building,
            reports: None,
            indexed: None,
            touched: None,
        }
    }

    /// Runs `work` as one transaction, which is durable when the call returns.
    fn transaction<T>(
        &mut self,
        work: impl FnOnce(&mut dyn Rows, &mut Meta) -> Result<T>,
    ) -> Result<T> {
        self.transaction_on(true, work)
    }

    /// Runs `work` as one transaction; unless `at_once` is set, it becomes durable with the next
    /// durable transaction.
    fn transaction_on<T>(
        &mut self,
        at_once: bool,
        work: impl FnOnce(&mut dyn Rows, &mut Meta) -> Result<T>,
    ) -> Result<T> {
        self.seen = Seen::default();
        let touched = self.touched.take();
        let drops_index = matches!(touched, Some(Touched::All));
        self.rows.begin(at_once)?;
        let mut meta = self.meta.clone();
        let done = work(&mut *self.rows, &mut meta).and_then(|value| {
            match &touched {
                None => {}
                Some(Touched::All) => self.rows.clear_found()?,
                Some(Touched::Items(ids)) => found::refresh(&mut *self.rows, &meta, ids)?,
            }
            self.rows.commit(&self.meta, &meta).map(|()| value)
        });
        if drops_index {
            self.indexed = None;
        }
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

    /// Reads the current slot. Facts found about containers are kept until something changes: in a
    /// deep chain of queued creations, finding an item's tree takes a walk to the top.
    fn read<T>(&mut self, work: impl FnOnce(&mut View<'_>) -> Result<T>) -> Result<T> {
        let seen = std::mem::take(&mut self.seen);
        let mut view = View::after(&mut *self.rows, &self.meta.user, Slot::Current, seen);
        let done = work(&mut view);
        self.seen = view.into_seen();
        done
    }

    pub(crate) fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Reports what later transactions change.
    pub(crate) fn report_to(&mut self, reports: Reports) {
        self.reports = Some(reports);
    }

    /// Applies a checked page to a slot. Returns the visible changes, if `events` is set.
    pub(crate) fn apply_page(
        &mut self,
        slot: Slot,
        page: PageCommit,
        events: bool,
    ) -> Result<Vec<ChangeEvent>> {
        // A page that a power failure removes is pulled again: cursor and registers are one
        // transaction. The page that settles the pull makes the earlier ones durable.
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
        let (copied, epoch) = (self.meta.copied, self.meta.epoch);
        let before = match slot {
            Slot::Current => {
                self.before(false, |rows| report::of_page(rows, copied, epoch, &page))?
            }
            Slot::Building => None,
        };
        let events = self.transaction_on(at_once, |rows, meta| {
            confirmed::apply_page(rows, meta, slot, page, events, &mut arrived)
        })?;
        if slot == Slot::Current {
            self.report(before);
        }
        self.arrived = arrived;
        Ok(events)
    }

    /// Checks edits against the visible tree and queues them.
    pub(crate) fn enqueue(&mut self, edits: NewEdits, now: Timestamp) -> Result<()> {
        let before = self.before(true, |_| Ok(report::of_edits(&edits)))?;
        self.transaction(|rows, meta| queue::enqueue(rows, meta, edits, now))?;
        self.report(before);
        Ok(())
    }

    /// Returns the first operations to push, each with the size of its JSON.
    pub(crate) fn pending(&mut self, at_most: usize) -> Result<Vec<(Operation, usize)>> {
        self.rows.pending(at_most)
    }

    /// Queues the deletions of the moves whose copies the server has, with all contents. Returns
    /// whether there were any.
    pub(crate) fn release_moves(&mut self, now: Timestamp) -> Result<bool> {
        if self.rows.held_moves()?.is_empty() {
            return Ok(false);
        }
        self.transaction(|rows, meta| moves::release(rows, meta, now))
    }

    /// Withdraws the move that still waits to delete `item`, if there is one. Returns what stays.
    pub(crate) fn give_up_move(&mut self, item: &ItemId) -> Result<Vec<ChangeEvent>> {
        self.reported(
            true,
            |rows| report::of_held(rows, item),
            |rows, meta| moves::give_up(rows, meta, item),
        )
    }

    /// Returns the first pending write id, and the times that operations get with other write ids,
    /// if the server lacks the first one under the present one; `None` if nothing is pending.
    pub(crate) fn rebase(&mut self) -> Result<Option<(WriteId, NewTimes)>> {
        let (pending, times) = as_new(&mut *self.rows, |_| true)?;
        Ok(pending.first().map(|one| (one.operation.write_id, times)))
    }

    /// Applies the results of a push. Returns events about operations that were superseded or
    /// rejected.
    pub(crate) fn commit_flush(&mut self, commit: &FlushCommit) -> Result<Vec<ChangeEvent>> {
        self.reported(
            false,
            |rows| report::of_flush(rows, commit),
            |rows, meta| flush::commit_flush(rows, meta, commit),
        )
    }

    pub(crate) fn set_reconciled(&mut self, state: ReconcileState) -> Result<()> {
        self.transaction(|_, meta| {
            meta.reconciled = Some(Arc::new(state));
            Ok(())
        })
    }

    pub(crate) fn set_stopped(&mut self, reason: Option<StopReason>) -> Result<()> {
        self.transaction(|_, meta| {
            meta.stopped = reason.map(Arc::new);
            Ok(())
        })
    }

    /// Keeps a report; beyond `MAX_REPORTS` the oldest is dropped.
    pub(crate) fn note_report(&mut self, report: Report) -> Result<()> {
        self.transaction(|_, meta| {
            meta.note_report(report);
            Ok(())
        })
    }

    pub(crate) fn set_failing(&mut self, failing: Option<Failing>) -> Result<()> {
        self.transaction_on(false, |_, meta| {
            meta.failing = failing.map(Arc::new);
            Ok(())
        })
    }

    /// Removes reports that the server has taken.
    pub(crate) fn forget_reports(&mut self, ids: &[OpId]) -> Result<()> {
        self.transaction(|_, meta| {
            Arc::make_mut(&mut meta.reports).retain(|report| !ids.contains(&report.report_id));
            Ok(())
        })
    }

    /// Lists at most `at_most` contents that are still to be uploaded, in order, whether their items
    /// have operations to push or not.
    pub(crate) fn queued_uploads(&mut self, at_most: usize) -> Result<Vec<Upload>> {
        self.rows.queued_uploads(at_most)
    }

    /// Checks the file of the replica; returns the problems found in it, a few at most.
    pub(crate) fn integrity(&mut self) -> Result<Vec<String>> {
        self.rows.integrity()
    }

    /// Reads every row; returns their number.
    pub(crate) fn verify_rows(&mut self) -> Result<u64> {
        self.rows.verify()
    }

    /// Empties the building slot.
    pub(crate) fn begin_rebuild(&mut self) -> Result<()> {
        self.building = Default::default();
        self.transaction(|rows, _| rows.clear(Slot::Building))
    }

    /// Makes the building slot the current one, and queues the changes that the server lost.
    pub(crate) fn swap(&mut self, rebuilt: Rebuilt, with: &Offering<'_>) -> Result<Offered> {
        self.arrived.clear();
        let (trail, _) = std::mem::take(&mut self.building);
        self.reported(
            false,
            |_| Ok(Touched::All),
            |rows, meta| rebuild::swap(rows, meta, trail, rebuilt, with),
        )
    }

    /// Lists the changes that a server lost and that could not be offered again, after the number
    /// `after`; each with its number.
    pub(crate) fn lost(&mut self, after: i64, at_most: usize) -> Result<Vec<(i64, Lost)>> {
        let rows = self.rows.lost(after, at_most)?;
        Ok(rows.into_iter().map(|row| (row.seq, row.lost)).collect())
    }

    /// Removes entries from the list of lost changes.
    pub(crate) fn discard_lost(&mut self, numbers: &[i64]) -> Result<()> {
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

    /// Lists contents to upload whose items have no operation left to push and are not being deleted,
    /// in order, after `after`.
    pub(crate) fn uploads(&mut self, mut after: i64, at_most: usize) -> Result<Vec<Upload>> {
        loop {
            let page = self.rows.uploads(after, at_most)?;
            let Some(last) = page.last() else { return Ok(page) };
            after = last.seq;
            let mut sendable = Vec::with_capacity(page.len());
            for upload in page {
                if !uploads::is_being_deleted(&mut *self.rows, &upload.item)? {
                    sendable.push(upload);
                }
            }
            if !sendable.is_empty() {
                return Ok(sendable);
            }
        }
    }

    pub(crate) fn put_uploads(&mut self, uploads: &[Upload]) -> Result<()> {
        self.reported(
            false,
            |rows| report::of_uploads(rows, uploads),
            |rows, _| uploads.iter().try_for_each(|upload| rows.put_upload(upload)),
        )
    }

    /// Writes uploads that were sent, as [`Self::put_uploads`] does. If an upload has another id
    /// now, or was rejected, later contents of its item then expect the new id, or the content
    /// before it. Returns events about originals that stay because their copy was rejected.
    pub(crate) fn settle_uploads(&mut self, uploads: &[Upload]) -> Result<Vec<ChangeEvent>> {
        self.reported(
            false,
            |rows| report::of_uploads(rows, uploads),
            |rows, meta| uploads::settle_uploads(rows, meta, uploads),
        )
    }

    pub(crate) fn remove_upload(&mut self, seq: i64) -> Result<()> {
        self.transaction(|rows, _| rows.remove_upload(seq))
    }

    /// Keeps a content whose item got another one before it, as the content of a new item beside
    /// the original. `device` and the content's day are part of the new item's name. Returns the
    /// resulting events; none if the same bytes exist already.
    pub(crate) fn copy_aside(
        &mut self,
        superseded: Superseded,
        op_id: OpId,
        copy: ItemId,
        device: &str,
        now: Timestamp,
    ) -> Result<Vec<ChangeEvent>> {
        let items = vec![superseded.upload.item.clone(), copy.clone()];
        self.reported(
            false,
            |_| Ok(Touched::Items(items)),
            |rows, meta| uploads::copy_aside(rows, meta, superseded, op_id, copy, device, now),
        )
    }

    pub(crate) fn rejected_uploads(&mut self) -> Result<Vec<Upload>> {
        self.rows.rejected_uploads()
    }

    /// Returns contents that were removed with their items or replaced by others: their bytes are
    /// to leave the cache, followed by [`Self::forgot`].
    pub(crate) fn forgettable(&mut self, at_most: usize) -> Result<Vec<BlobId>> {
        if self.rows.forgotten(1)?.is_empty() {
            return Ok(Vec::new());
        }
        self.transaction(|rows, _| uploads::forgettable(rows, at_most))
    }

    /// Marks the bytes of a removed item as no longer needed.
    pub(crate) fn forget(&mut self, item: &ItemId, blob_id: &BlobId) -> Result<()> {
        self.transaction(|rows, _| rows.forget(item, blob_id))
    }

    pub(crate) fn forgot(&mut self, blobs: &[BlobId]) -> Result<()> {
        self.transaction(|rows, _| blobs.iter().try_for_each(|id| rows.remove_forgotten(id)))
    }

    /// Returns the contents that may exist only on this device: to be uploaded, rejected, or
    /// attached but not shown by the feed yet (a server restored in between has lost those).
    pub(crate) fn blobs_to_keep(&mut self) -> Result<Vec<BlobId>> {
        self.rows.blobs_to_keep()
    }

    /// Returns a page of the shown items that a query finds.
    pub(crate) fn find(&mut self, query: &Query) -> Result<Vec<Node>> {
        self.found(query)
    }

    pub(crate) fn node(&mut self, id: &ItemId) -> Result<Option<Node>> {
        self.read(|view| view.node(id))
    }

    /// Returns the children of `parent`; `None` for the top of the user's own tree.
    pub(crate) fn children(&mut self, parent: Option<&ItemId>) -> Result<Vec<Node>> {
        if let Some(parent) = parent {
            return self.read(|view| {
                view.node(parent)?.ok_or_else(|| ClientError::UnknownItem(parent.clone()))?;
                view.children(parent)
            });
        }
        let user = self.meta.user.clone();
        self.tops_of(&user)
    }

    /// Returns the items of `owner` that have no visible container of that owner.
    pub(crate) fn tops_of(&mut self, owner: &UserId) -> Result<Vec<Node>> {
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

    /// Returns the other users who own visible items.
    pub(crate) fn other_owners(&mut self) -> Result<BTreeSet<UserId>> {
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

    pub(crate) fn parents(&mut self, id: &ItemId) -> Result<Vec<ItemId>> {
        self.read(|view| view.parents(id))
    }

    pub(crate) fn grants(&mut self, id: &ItemId) -> Result<Vec<Grant>> {
        self.read(|view| view.grants(id))
    }

    /// Returns the items that may have grants, by id.
    pub(crate) fn granted_items(&mut self) -> Result<BTreeSet<ItemId>> {
        let confirmed = self.rows.all_grants()?.into_iter().map(|row| row.item);
        let mut items: BTreeSet<ItemId> = confirmed.collect();
        for one in self.rows.queue(usize::MAX)? {
            if let Action::GrantAdd { .. } = one.operation.action {
                items.insert(one.operation.item_id);
            }
        }
        Ok(items)
    }

    pub(crate) fn changed_containers(
        &mut self,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Vec<(ItemId, Cursor)>> {
        self.rows.changed_containers(after, limit)
    }

    pub(crate) fn queue(&mut self, limit: usize) -> Result<Vec<QueuedOp>> {
        self.rows.queue(limit)
    }

    pub(crate) fn rejected(&mut self, limit: usize) -> Result<Vec<RejectedOp>> {
        self.rows.rejected(limit)
    }

    /// Returns the confirmed items whose deletion is queued or held, the newest first, at most
    /// `limit`.
    pub(crate) fn deleted_here(&mut self, limit: usize) -> Result<Vec<Trashed>> {
        let mut found: Vec<Trashed> = Vec::new();
        let user = self.meta.user.clone();
        let queue = self.rows.queue(usize::MAX)?;
        for one in queue.into_iter().rev() {
            let operation = &one.operation;
            let id = &operation.item_id;
            let deletes =
                one.state != QueuedState::Acknowledged && operation.action == Action::Delete;
            if !deletes || found.iter().any(|other| other.item == *id) {
                continue;
            }
            // An item that was created and deleted before any synchronisation is known only to the
            // queue.
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

    /// Takes an operation from the rejected list and, if `again` is given, queues it under that id. A move
    /// that waits to delete its item is withdrawn: returns what stays.
    pub(crate) fn settle_rejected(
        &mut self,
        op_id: &OpId,
        again: Option<OpId>,
        now: Timestamp,
    ) -> Result<Vec<ChangeEvent>> {
        self.reported(
            true,
            |rows| report::of_rejected(rows, op_id),
            |rows, meta| queue::settle_rejected(rows, meta, op_id, again, now),
        )
    }

    pub(crate) fn counts(&mut self) -> Result<Counts> {
        self.rows.counts()
    }

    pub(crate) fn directories(&mut self) -> Result<Vec<DirectoryRecord>> {
        self.rows.directories()
    }

    /// Writes a directory's record, a new one if its id is 0; removes the least recently used ones
    /// beyond `at_most`.
    pub(crate) fn put_directory(
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

    pub(crate) fn entries(&mut self, directory: i64, parent: u64) -> Result<Vec<EntryRecord>> {
        self.rows.entries(directory, parent)
    }

    pub(crate) fn entry(&mut self, directory: i64, id: u64) -> Result<Option<EntryRecord>> {
        self.rows.entry(directory, id)
    }

    pub(crate) fn entry_named(
        &mut self,
        directory: i64,
        parent: u64,
        name: &[u8],
    ) -> Result<Option<EntryRecord>> {
        self.rows.entry_named(directory, parent, name)
    }

    pub(crate) fn entries_of_inode(
        &mut self,
        directory: i64,
        inode: u64,
    ) -> Result<Vec<EntryRecord>> {
        self.rows.entries_of_inode(directory, inode)
    }

    pub(crate) fn entries_of_item(&mut self, item: &ItemId) -> Result<Vec<(i64, EntryRecord)>> {
        self.rows.entries_of_items(&BTreeSet::from([item.clone()]))
    }

    pub(crate) fn entries_made(&mut self) -> Result<Vec<(i64, EntryRecord)>> {
        self.rows.entries_made()
    }

    pub(crate) fn count_entries(&mut self, directory: i64) -> Result<u64> {
        self.rows.count_entries(directory)
    }

    pub(crate) fn last_entry(&mut self, directory: i64) -> Result<u64> {
        self.rows.last_entry(directory)
    }

    pub(crate) fn intents(&mut self, directory: i64) -> Result<Vec<Intent>> {
        self.rows.intents(directory)
    }

    pub(crate) fn write_entries(
        &mut self,
        directory: i64,
        changes: Vec<RecordChange>,
        at_once: bool,
    ) -> Result<()> {
        self.transaction_on(at_once, |rows, _| {
            changes.into_iter().try_for_each(|change| change_record(rows, directory, change))
        })
    }

    pub(crate) fn export(&mut self) -> Result<ReplicaState> {
        state::export(&mut *self.rows, self.meta.clone())
    }

    /// Returns true if the replica has never been used.
    pub(crate) fn is_pristine(&mut self) -> Result<bool> {
        let pristine = Meta {
            stopped: self.meta.stopped.clone(),
            reports: self.meta.reports.clone(),
            ..Meta::new(self.meta.client_id.clone(), self.meta.user.clone(), &self.meta.server)
        };
        let counts = self.rows.counts()?;
        Ok(self.meta == pristine && counts == Counts::default())
    }

    pub(crate) fn hydrate(&mut self, state: ReplicaState) -> Result<()> {
        self.reported(true, |_| Ok(Touched::All), |rows, meta| state::hydrate(rows, meta, state))
    }
}
