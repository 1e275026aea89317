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
use super::store::{
    Counts, Meta, NewEdits, NewTimes, Offering, Rebuilt, ReplicaStore, Slot, Upload,
};
use super::view::{Seen, View};
use crate::api::Query;
use crate::api::node::{Grant, Node, QueuedOp, QueuedState, RejectedOp, Trashed, step};
use crate::api::record::{DirectoryRecord, EntryRecord, RecordChange};
use crate::error::{ClientError, Failing, StopReason};
use crate::event::ChangeEvent;
use epoch::as_new;
use queue::change_record;
use report::{Reports, Touched};

/// The greatest number of steps in the path of a deleted item.
const MAX_STEPS: usize = 1_024;

/// A replica over the rows of a back end.
pub(super) struct Engine<R> {
    rows: R,
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

impl<R: Rows> Engine<R> {
    pub(super) fn new(rows: R, meta: Meta) -> Self {
        let (seen, building) = Default::default();
        Self {
            rows,
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
    fn transaction<T>(&mut self, work: impl FnOnce(&mut R, &mut Meta) -> Result<T>) -> Result<T> {
        self.transaction_on(true, work)
    }

    /// Runs `work` as one transaction; unless `at_once` is set, it becomes durable with the next
    /// durable transaction.
    fn transaction_on<T>(
        &mut self,
        at_once: bool,
        work: impl FnOnce(&mut R, &mut Meta) -> Result<T>,
    ) -> Result<T> {
        self.seen = Seen::default();
        let touched = self.touched.take();
        let drops_index = matches!(touched, Some(Touched::All));
        self.rows.begin(at_once)?;
        let mut meta = self.meta.clone();
        let done = work(&mut self.rows, &mut meta).and_then(|value| {
            match &touched {
                None => {}
                Some(Touched::All) => self.rows.clear_found()?,
                Some(Touched::Items(ids)) => found::refresh(&mut self.rows, &meta, ids)?,
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
    fn read<T>(&mut self, work: impl FnOnce(&mut View<'_, R>) -> Result<T>) -> Result<T> {
        let seen = std::mem::take(&mut self.seen);
        let mut view = View::after(&mut self.rows, &self.meta.user, Slot::Current, seen);
        let done = work(&mut view);
        self.seen = view.into_seen();
        done
    }
}

impl<R: Rows> ReplicaStore for Engine<R> {
    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn report_to(&mut self, reports: Reports) {
        self.reports = Some(reports);
    }

    fn apply_page(
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

    fn enqueue(&mut self, edits: NewEdits, now: Timestamp) -> Result<()> {
        let before = self.before(true, |_| Ok(report::of_edits(&edits)))?;
        self.transaction(|rows, meta| queue::enqueue(rows, meta, edits, now))?;
        self.report(before);
        Ok(())
    }

    fn pending(&mut self, at_most: usize) -> Result<Vec<(Operation, usize)>> {
        self.rows.pending(at_most)
    }

    fn release_moves(&mut self, now: Timestamp) -> Result<bool> {
        if self.rows.held_moves()?.is_empty() {
            return Ok(false);
        }
        self.transaction(|rows, meta| moves::release(rows, meta, now))
    }

    fn give_up_move(&mut self, item: &ItemId) -> Result<Vec<ChangeEvent>> {
        self.reported(
            true,
            |rows| report::of_held(rows, item),
            |rows, meta| moves::give_up(rows, meta, item),
        )
    }

    fn rebase(&mut self) -> Result<Option<(WriteId, NewTimes)>> {
        let (pending, times) = as_new(&mut self.rows, |_| true)?;
        Ok(pending.first().map(|one| (one.operation.write_id, times)))
    }

    fn commit_flush(&mut self, commit: &FlushCommit) -> Result<Vec<ChangeEvent>> {
        self.reported(
            false,
            |rows| report::of_flush(rows, commit),
            |rows, meta| flush::commit_flush(rows, meta, commit),
        )
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

    fn note_report(&mut self, report: Report) -> Result<()> {
        self.transaction(|_, meta| {
            meta.note_report(report);
            Ok(())
        })
    }

    fn set_failing(&mut self, failing: Option<Failing>) -> Result<()> {
        self.transaction_on(false, |_, meta| {
            meta.failing = failing.map(Arc::new);
            Ok(())
        })
    }

    fn forget_reports(&mut self, ids: &[OpId]) -> Result<()> {
        self.transaction(|_, meta| {
            Arc::make_mut(&mut meta.reports).retain(|report| !ids.contains(&report.report_id));
            Ok(())
        })
    }

    fn queued_uploads(&mut self, at_most: usize) -> Result<Vec<Upload>> {
        self.rows.queued_uploads(at_most)
    }

    fn integrity(&mut self) -> Result<Vec<String>> {
        self.rows.integrity()
    }

    fn verify_rows(&mut self) -> Result<u64> {
        self.rows.verify()
    }

    fn begin_rebuild(&mut self) -> Result<()> {
        self.building = Default::default();
        self.transaction(|rows, _| rows.clear(Slot::Building))
    }

    fn swap(&mut self, rebuilt: Rebuilt, with: &Offering<'_>) -> Result<Offered> {
        self.arrived.clear();
        let (trail, _) = std::mem::take(&mut self.building);
        self.reported(
            false,
            |_| Ok(Touched::All),
            |rows, meta| rebuild::swap(rows, meta, trail, rebuilt, with),
        )
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
        self.reported(
            false,
            |rows| report::of_uploads(rows, uploads),
            |rows, _| uploads.iter().try_for_each(|upload| rows.put_upload(upload)),
        )
    }

    fn settle_uploads(&mut self, uploads: &[Upload]) -> Result<Vec<ChangeEvent>> {
        self.reported(
            false,
            |rows| report::of_uploads(rows, uploads),
            |rows, meta| uploads::settle_uploads(rows, meta, uploads),
        )
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
    ) -> Result<Vec<ChangeEvent>> {
        let items = vec![upload.item.clone(), copy.clone()];
        self.reported(
            false,
            |_| Ok(Touched::Items(items)),
            |rows, meta| uploads::copy_aside(rows, meta, upload, op_id, copy, device, now),
        )
    }

    fn rejected_uploads(&mut self) -> Result<Vec<Upload>> {
        self.rows.rejected_uploads()
    }

    fn forgettable(&mut self, at_most: usize) -> Result<Vec<BlobId>> {
        if self.rows.forgotten(1)?.is_empty() {
            return Ok(Vec::new());
        }
        self.transaction(|rows, _| uploads::forgettable(rows, at_most))
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

    fn find(&mut self, query: &Query) -> Result<Vec<Node>> {
        self.found(query)
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

    fn settle_rejected(
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

    fn entry_named(
        &mut self,
        directory: i64,
        parent: u64,
        name: &[u8],
    ) -> Result<Option<EntryRecord>> {
        self.rows.entry_named(directory, parent, name)
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
        state::export(&mut self.rows, self.meta.clone())
    }

    fn is_pristine(&mut self) -> Result<bool> {
        let pristine = Meta {
            stopped: self.meta.stopped.clone(),
            reports: self.meta.reports.clone(),
            ..Meta::new(self.meta.client_id.clone(), self.meta.user.clone(), &self.meta.server)
        };
        let counts = self.rows.counts()?;
        Ok(self.meta == pristine && counts == Counts::default())
    }

    fn hydrate(&mut self, state: ReplicaState) -> Result<()> {
        self.reported(true, |_| Ok(Touched::All), |rows, meta| state::hydrate(rows, meta, state))
    }
}
