//! The transactions of a replica, over the rows of any back end.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use vfs_sync_core::content::RelationKind;
use vfs_sync_core::cursor::Cursor;
use vfs_sync_core::entry::{Change, Entry as FeedEntry};
use vfs_sync_core::flush::FlushCommit;
use vfs_sync_core::id::{ItemId, OpId, UserId, WriteId};
use vfs_sync_core::item::metadata_bytes;
use vfs_sync_core::limits;
use vfs_sync_core::op::{Action, Operation, Upsert};
use vfs_sync_core::pull::PageCommit;
use vfs_sync_core::state::{
    AttachmentRegister, ContainerClock, GrantRegister, ItemRegister, LinkRegister, QueuedOperation,
    RejectedOperation, ReplicaState,
};
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::ReconcileState;

use super::rows::{AttachmentRow, GrantRow, ItemRow, LinkRow, Result, Rows};
use super::view::View;
use super::{Counts, Meta, NewEdits, Rebuilt, ReplicaStore, Slot, Upload, UploadState};
use crate::error::{ClientError, StopReason};
use crate::event::ChangeEvent;
use crate::node::{Node, QueuedOp, QueuedState, RejectedOp};

/// A replica over the rows of a back end.
pub(super) struct Engine<R> {
    rows: R,
    meta: Meta,
}

impl<R: Rows> Engine<R> {
    pub(super) fn new(rows: R, meta: Meta) -> Self {
        Self { rows, meta }
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

    fn view(&mut self) -> View<'_, R> {
        View { rows: &mut self.rows, user: &self.meta.user, slot: Slot::Current }
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
    for id in items {
        let top = View { rows, user, slot }.is_top(&id, queue_is_empty)?;
        rows.set_top(slot, &id, top)?;
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
    let mut items = HashSet::new();
    for op in ops {
        items.extend(affected(rows, op)?);
    }
    refresh_tops(rows, user, Slot::Current, items)
}

/// An item that a page touched.
#[derive(Default)]
struct Touched {
    /// Its last change, but for its links.
    at: Option<Cursor>,
    /// Whose it is as the page leaves it; `Some(None)` if it went, `None` if the page says nothing.
    owner: Option<Option<UserId>>,
}

/// What a page touched: for clocks and for the top of the tree, looked up once an item.
struct PageWork<'a, R> {
    rows: &'a mut R,
    slot: Slot,
    items: HashMap<ItemId, Touched>,
    containers: BTreeMap<ItemId, Cursor>,
    /// Owners of containers, as they were looked up.
    owners: HashMap<ItemId, Option<UserId>>,
    /// Items of others that came into view: what hung under them already may move to the top.
    foreign: Vec<ItemId>,
    /// Items that came or went: what the queue hangs under them may move to the top or from it.
    turned: Vec<ItemId>,
    queue_is_empty: bool,
    new: i64,
    events: Option<HashMap<ItemId, ChangeEvent>>,
}

impl<'a, R: Rows> PageWork<'a, R> {
    fn new(rows: &'a mut R, slot: Slot, entries: usize, events: bool) -> Result<Self> {
        let queue_is_empty = rows.queue_is_empty()?;
        Ok(Self {
            rows,
            slot,
            items: HashMap::with_capacity(entries),
            containers: BTreeMap::new(),
            owners: HashMap::new(),
            foreign: Vec::new(),
            turned: Vec::new(),
            queue_is_empty,
            new: 0,
            events: events.then(HashMap::new),
        })
    }

    fn touch(&mut self, item: ItemId, at: Cursor) -> &mut Touched {
        let touched = self.items.entry(item).or_default();
        touched.at = Some(at);
        touched
    }

    fn moved(&mut self, parent: ItemId, child: ItemId, at: Cursor) {
        self.containers.insert(parent, at);
        self.items.entry(child).or_default();
    }

    /// Remembers what to tell; that something came or went tells more than that it changed.
    fn tell(&mut self, item: &ItemId, event: fn(ItemId) -> ChangeEvent) {
        let Some(events) = &mut self.events else { return };
        let event = event(item.clone());
        match events.entry(item.clone()) {
            Entry::Vacant(slot) => drop(slot.insert(event)),
            Entry::Occupied(mut slot) => {
                if !matches!(event, ChangeEvent::Changed(_)) {
                    slot.insert(event);
                }
            }
        }
    }

    fn apply(&mut self, entry: FeedEntry, user: &UserId) -> Result<()> {
        let (authored_at, slot, position) = (entry.body.authored_at, self.slot, entry.position);
        match entry.body.change {
            Change::ItemUpsert(view) => {
                let (item, owner) = (view.item_id.clone(), view.owner_id.clone());
                if self.rows.put_item(slot, ItemRow { view, authored_at })? {
                    self.tell(&item, ChangeEvent::Appeared);
                    self.new += 1;
                    if !self.queue_is_empty {
                        self.turned.push(item.clone());
                    }
                    if owner != *user {
                        self.foreign.push(item.clone());
                    }
                } else {
                    self.tell(&item, ChangeEvent::Changed);
                }
                self.touch(item, position).owner = Some(Some(owner));
            }
            Change::ItemDelete { item, .. } => {
                if self.rows.remove_item(slot, &item)? {
                    self.tell(&item, ChangeEvent::Went);
                    self.new -= 1;
                    if !self.queue_is_empty {
                        self.turned.push(item.clone());
                    }
                }
                self.touch(item, position).owner = Some(None);
            }
            Change::GrantAdd { item, principal, level } => {
                self.tell(&item, ChangeEvent::Changed);
                self.touch(item.clone(), position);
                self.rows.put_grant(slot, GrantRow { item, principal, level, authored_at })?;
            }
            Change::GrantRemove { item, principal, .. } => {
                self.tell(&item, ChangeEvent::Changed);
                self.rows.remove_grant(slot, &item, &principal)?;
                self.touch(item, position);
            }
            Change::LinkAdd { parent, child } => {
                self.tell(&child, ChangeEvent::Changed);
                self.moved(parent.clone(), child.clone(), position);
                self.rows.put_link(slot, LinkRow { parent, child, authored_at })?;
            }
            Change::LinkRemove { parent, child, .. } => {
                self.tell(&child, ChangeEvent::Changed);
                self.rows.remove_link(slot, &parent, &child)?;
                self.moved(parent, child, position);
            }
            Change::BlobAttach(attachment) => {
                let item = attachment.item_id.clone();
                self.tell(&item, ChangeEvent::Changed);
                if slot == Slot::Current {
                    self.rows.remove_attached_upload(&item, &attachment.blob_id)?;
                }
                self.rows.put_attachment(slot, AttachmentRow { attachment, authored_at })?;
                self.touch(item, position);
            }
            Change::BlobDetach { item, relation_kind, ref_id, .. } => {
                self.tell(&item, ChangeEvent::Changed);
                let ref_id = (relation_kind != RelationKind::File).then_some(&ref_id);
                self.rows.remove_attachment(slot, &item, ref_id)?;
                self.touch(item, position);
            }
        }
        Ok(())
    }

    /// Whether a container belongs to somebody else, so that a link under it is a shortcut.
    fn is_foreign(&mut self, container: &ItemId, owner: &UserId) -> Result<bool> {
        if !self.owners.contains_key(container) {
            let found = self.rows.owner(self.slot, container)?;
            self.owners.insert(container.clone(), found);
        }
        let found = self.owners.get(container).and_then(Option::as_ref);
        Ok(found.is_some_and(|found| found != owner))
    }

    /// Container clocks and the top, once the rows are as the page leaves them.
    fn finish(mut self, user: &UserId) -> Result<(i64, Vec<ChangeEvent>)> {
        let slot = self.slot;
        for id in std::mem::take(&mut self.foreign) {
            for child in self.rows.children(slot, &id)? {
                self.items.entry(child).or_default();
            }
        }
        for id in std::mem::take(&mut self.turned) {
            let mut around = self.rows.children(slot, &id)?;
            around.extend(self.rows.queue_of_parent(&id)?);
            for child in around {
                self.items.entry(child).or_default();
            }
        }
        for (id, touched) in std::mem::take(&mut self.items) {
            let parents = self.rows.parents(slot, &id)?;
            let top = if self.queue_is_empty {
                let owner = match touched.owner {
                    Some(owner) => owner,
                    None => self.rows.owner(slot, &id)?,
                };
                self.is_confirmed_top(&parents, owner.as_ref())?
            } else {
                View { rows: self.rows, user, slot }.is_top(&id, false)?
            };
            self.rows.set_top(slot, &id, top)?;
            let Some(at) = touched.at else { continue };
            for parent in parents {
                let clock = self.containers.entry(parent).or_insert_with(|| at.clone());
                if *clock < at {
                    clock.clone_from(&at);
                }
            }
        }
        for (container, at) in &self.containers {
            self.rows.bump_container(slot, container, at)?;
        }
        let events = self.events.map(HashMap::into_values).into_iter().flatten().collect();
        Ok((self.new, events))
    }

    fn is_confirmed_top(&mut self, parents: &[ItemId], owner: Option<&UserId>) -> Result<bool> {
        let Some(owner) = owner else { return Ok(false) };
        for parent in parents {
            if !self.is_foreign(parent, owner)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Checks that `action` is possible on the tree as it is shown.
fn check_edit<R: Rows>(
    view: &mut View<'_, R>,
    item: &ItemId,
    action: &Action,
    live: &mut HashSet<ItemId>,
) -> Result<()> {
    let unknown = |id: &ItemId| ClientError::UnknownItem(id.clone());
    let mut shown = |view: &mut View<'_, R>, id: &ItemId| -> Result<()> {
        if !live.contains(id) {
            view.node(id)?.ok_or_else(|| unknown(id))?;
            live.insert(id.clone());
        }
        Ok(())
    };
    match action {
        Action::Upsert(upsert) => {
            let before = view.node(item)?;
            if before.is_none() && upsert.object_type.is_none() {
                return Err(unknown(item));
            }
            if let (None, Some(parent)) = (&before, &upsert.parent) {
                shown(view, parent)?;
            }
            let mut metadata = before.map(|node| node.metadata).unwrap_or_default();
            for (key, value) in &upsert.metadata {
                match value {
                    Some(value) => metadata.insert(key.clone(), value.clone()),
                    None => metadata.remove(key),
                };
            }
            let too_large = metadata_bytes(&metadata) > limits::MAX_METADATA_BYTES;
            if !upsert.metadata.is_empty()
                && (metadata.len() > limits::MAX_METADATA_KEYS || too_large)
            {
                return Err(ClientError::Invalid(format!(
                    "the metadata of {item} would be more than {} keys or {} bytes: remove some",
                    limits::MAX_METADATA_KEYS,
                    limits::MAX_METADATA_BYTES
                )));
            }
            live.insert(item.clone());
        }
        Action::Delete => {
            view.node(item)?.ok_or_else(|| unknown(item))?;
            live.remove(item);
        }
        Action::GrantAdd { .. } | Action::GrantRemove { .. } => shown(view, item)?,
        Action::LinkAdd { parent } | Action::LinkReassign { parent } => {
            shown(view, item)?;
            shown(view, parent)?;
            check_cycle(view, item, parent)?;
        }
        Action::LinkRemove { parent } => {
            if !view.all_parents(item)?.contains(parent) {
                return Err(ClientError::Invalid(format!("{item} does not hang under {parent}")));
            }
        }
    }
    Ok(())
}

/// Walks up from `parent`; meeting `child` there means that the link would close a cycle.
fn check_cycle<R: Rows>(view: &mut View<'_, R>, child: &ItemId, parent: &ItemId) -> Result<()> {
    let mut seen = HashSet::new();
    let mut above = vec![parent.clone()];
    while let Some(id) = above.pop() {
        if id == *child {
            return Err(ClientError::Cycle { parent: parent.clone(), child: child.clone() });
        }
        if seen.insert(id.clone()) {
            above.extend(view.all_parents(&id)?);
        }
    }
    Ok(())
}

/// Makes the queue's operation of an action, checked against the protocol's bounds.
fn make_operation(
    meta: &mut Meta,
    op_id: OpId,
    item_id: ItemId,
    action: Action,
    now: Timestamp,
) -> Result<Operation> {
    let write_id = WriteId::new(meta.next_write_id).ok_or_else(|| {
        ClientError::Invalid("the replica's write ids are used up: make a new replica".into())
    })?;
    let op = Operation {
        op_id,
        item_id,
        replica_id: meta.client_id.clone(),
        write_id,
        occurred_at: meta.clock.stamp(now),
        action,
    };
    Operation::parse(&op.to_json()).map_err(|error| ClientError::Invalid(error.to_string()))?;
    meta.next_write_id += 1;
    Ok(op)
}

/// A new content is an edit: it brings an item back that is deleted meanwhile. So the queue gets
/// an operation for it, unless it has one for the item that does as much.
fn touch<R: Rows>(
    rows: &mut R,
    meta: &mut Meta,
    op_id: OpId,
    item: &ItemId,
    now: Timestamp,
) -> Result<()> {
    let edits = |one: &QueuedOp| {
        one.state == QueuedState::Pending && matches!(one.operation.action, Action::Upsert(_))
    };
    if rows.queue_of_item(item)?.iter().any(edits) {
        return Ok(());
    }
    let action = Action::Upsert(Box::default());
    let op = make_operation(meta, op_id, item.clone(), action, now)?;
    rows.push_queue(&op, QueuedState::Pending)
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
        self.transaction_on(at_once, |rows, meta| {
            let events = events && slot == Slot::Current;
            let mut work = PageWork::new(rows, slot, page.entries.len(), events)?;
            for entry in page.entries {
                work.apply(entry, &meta.user)?;
            }
            let (new, events) = work.finish(&meta.user)?;
            if let Some(latest) = page.latest {
                meta.clock.observe(latest);
            }
            if slot == Slot::Building {
                return Ok(Vec::new());
            }
            meta.items = meta.items.saturating_add_signed(new);
            meta.cursor = page.cursor;
            meta.baseline = page.baseline;
            if let Some(floor) = page.floor {
                meta.floor = Arc::new(floor);
            }
            if let Some(map) = page.settled {
                settle(rows, meta, map)?;
            }
            Ok(events)
        })
    }

    fn enqueue(&mut self, edits: NewEdits, now: Timestamp) -> Result<()> {
        self.transaction(|rows, meta| {
            let mut live = HashSet::new();
            let mut touched = HashSet::new();
            for (op_id, item, action) in edits.actions {
                let user = meta.user.clone();
                let mut view = View { rows, user: &user, slot: Slot::Current };
                check_edit(&mut view, &item, &action, &mut live)?;
                let op = make_operation(meta, op_id, item, action, now)?;
                rows.push_queue(&op, QueuedState::Pending)?;
                touched.extend(affected(rows, &op)?);
                if op.action == Action::Delete {
                    // What was on its way goes with its item.
                    for upload in rows.uploads_of_item(&op.item_id)? {
                        if upload.state == UploadState::Queued {
                            rows.remove_upload(upload.seq)?;
                        }
                    }
                }
            }
            refresh_tops(rows, &meta.user, Slot::Current, touched)?;
            for (op_id, mut upload) in edits.uploads {
                let mut view = View { rows, user: &meta.user, slot: Slot::Current };
                let node = view.node(&upload.item)?;
                let node = node.ok_or_else(|| ClientError::UnknownItem(upload.item.clone()))?;
                upload.expected = node.content.map(|content| content.blob_id);
                // One that nobody has heard of yet is replaced, not followed.
                let queued = rows.uploads_of_item(&upload.item)?;
                if let Some(last) = queued.into_iter().next_back()
                    && last.state == UploadState::Queued
                    && last.attach.is_none()
                {
                    upload.expected = last.expected;
                    rows.remove_upload(last.seq)?;
                }
                touch(rows, meta, op_id, &upload.item, now)?;
                rows.put_upload(&upload)?;
            }
            Ok(())
        })
    }

    fn pending(&mut self, at_most: usize) -> Result<Vec<(Operation, usize)>> {
        self.rows.pending(at_most)
    }

    fn commit_flush(&mut self, commit: &FlushCommit) -> Result<Vec<ChangeEvent>> {
        self.transaction(|rows, meta| {
            let (mut events, mut gone) = (Vec::new(), Vec::new());
            if commit.shift > 0 {
                rows.shift_pending(commit.shift)?;
                meta.next_write_id = meta.next_write_id.saturating_add(commit.shift);
            }
            for op_id in &commit.acknowledged {
                rows.acknowledge(op_id)?;
            }
            for refused in &commit.outdated {
                let Some(op) = rows.remove_queued(&refused.op_id)? else { continue };
                events.push(ChangeEvent::Outdated {
                    op_id: op.op_id.clone(),
                    item_id: op.item_id.clone(),
                    reason: refused.reason,
                });
                gone.push(op);
            }
            for refused in &commit.rejected {
                let Some(op) = rows.remove_queued(&refused.op_id)? else { continue };
                events.push(ChangeEvent::Rejected {
                    op_id: op.op_id.clone(),
                    item_id: op.item_id.clone(),
                    reason: refused.reason,
                });
                rows.push_rejected(&RejectedOp {
                    operation: op.clone(),
                    reason: refused.reason,
                    detail: refused.detail.clone(),
                })?;
                gone.push(op);
            }
            refresh_affected(rows, &meta.user, &gone)?;
            if let Some(believed) = commit.believed {
                meta.clock.lower(believed, rows.latest_pending_stamp()?);
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
        self.transaction(|rows, _| rows.clear(Slot::Building))
    }

    fn swap(&mut self, rebuilt: Rebuilt) -> Result<()> {
        self.transaction(|rows, meta| {
            rows.swap_slots()?;
            rows.clear(Slot::Building)?;
            rows.unacknowledge_all()?;
            rows.reset_uploads()?;
            meta.cursor = rebuilt.cursor;
            meta.baseline = rebuilt.baseline;
            meta.floor = Arc::new(rebuilt.floor);
            (meta.settled, meta.reconciled) = (None, None);
            if let Some(cursor) = meta.cursor.clone() {
                let last_reconciled_write_ids = rebuilt.settled;
                let state = ReconcileState { cursor, last_reconciled_write_ids };
                meta.settled = Some(Arc::new(state));
            }
            meta.items = u64::try_from(rows.all_items()?.len()).unwrap_or(u64::MAX);
            let queued: Vec<Operation> =
                rows.queue(usize::MAX)?.into_iter().map(|one| one.operation).collect();
            refresh_affected(rows, &meta.user, &queued)
        })
    }

    fn uploads(&mut self, after: i64, at_most: usize) -> Result<Vec<Upload>> {
        self.rows.uploads(after, at_most)
    }

    fn put_uploads(&mut self, uploads: &[Upload]) -> Result<()> {
        self.transaction(|rows, _| uploads.iter().try_for_each(|upload| rows.put_upload(upload)))
    }

    fn remove_upload(&mut self, seq: i64) -> Result<()> {
        self.transaction(|rows, _| rows.remove_upload(seq))
    }

    fn copy_aside(
        &mut self,
        upload: Upload,
        op_id: OpId,
        copy: ItemId,
        now: Timestamp,
    ) -> Result<bool> {
        self.transaction(|rows, meta| {
            let current = rows.content(Slot::Current, &upload.item)?;
            if current.is_some_and(|row| row.attachment.digest == upload.digest) {
                rows.remove_upload(upload.seq)?;
                return Ok(false);
            }
            let mut view = View { rows, user: &meta.user, slot: Slot::Current };
            let Some(node) = view.node(&upload.item)? else {
                let reason = Some("the item went while its content was on its way".into());
                rows.put_upload(&Upload { state: UploadState::Rejected, reason, ..upload })?;
                return Ok(false);
            };
            let mut parents = view.parents(&upload.item)?.into_iter();
            let metadata = node.metadata.into_iter().map(|(key, value)| (key, Some(value)));
            let encrypted = node.encrypted;
            let upsert = Upsert {
                object_type: Some(node.object_type),
                name: if encrypted.is_some() { None } else { node.name },
                metadata: if encrypted.is_some() { BTreeMap::new() } else { metadata.collect() },
                encrypted,
                parent: parents.next(),
            };
            let action = Action::Upsert(Box::new(upsert));
            let op = make_operation(meta, op_id, copy.clone(), action, now)?;
            rows.push_queue(&op, QueuedState::Pending)?;
            refresh_affected(rows, &meta.user, &[op])?;
            rows.put_upload(&Upload { item: copy, expected: None, attach: None, ..upload })?;
            Ok(true)
        })
    }

    fn rejected_uploads(&mut self) -> Result<Vec<Upload>> {
        self.rows.rejected_uploads()
    }

    fn node(&mut self, id: &ItemId) -> Result<Option<Node>> {
        self.view().node(id)
    }

    fn children(&mut self, parent: Option<&ItemId>) -> Result<Vec<Node>> {
        if let Some(parent) = parent {
            let mut view = self.view();
            view.node(parent)?.ok_or_else(|| ClientError::UnknownItem(parent.clone()))?;
            return view.children(parent);
        }
        let tops = self.rows.tops()?;
        let mut view = self.view();
        let mut nodes = Vec::with_capacity(tops.len());
        for id in tops {
            nodes.extend(view.node(&id)?);
        }
        Ok(nodes)
    }

    fn parents(&mut self, id: &ItemId) -> Result<Vec<ItemId>> {
        self.view().parents(id)
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

    fn settle_rejected(&mut self, op_id: &OpId, again: Option<OpId>, now: Timestamp) -> Result<()> {
        self.transaction(|rows, meta| {
            let unknown = || ClientError::UnknownRejected(op_id.to_string());
            let rejected = rows.remove_rejected(op_id)?.ok_or_else(unknown)?;
            if let Some(again) = again {
                let before = rejected.operation;
                let op = make_operation(meta, again, before.item_id, before.action, now)?;
                rows.push_queue(&op, QueuedState::Pending)?;
                refresh_affected(rows, &meta.user, &[op])?;
            }
            Ok(())
        })
    }

    fn counts(&mut self) -> Result<Counts> {
        self.rows.counts()
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
            let mut placed: HashSet<ItemId> = HashSet::new();
            for row in state.items {
                placed.insert(row.item.item_id.clone());
                let row = ItemRow { view: Box::new(row.item), authored_at: row.authored_at };
                rows.put_item(slot, row)?;
            }
            for row in state.links {
                rows.put_link(
                    slot,
                    LinkRow {
                        parent: row.parent_id,
                        child: row.child_id,
                        authored_at: row.authored_at,
                    },
                )?;
            }
            for row in state.grants {
                let (item, authored_at) = (row.item_id, row.authored_at);
                let (principal, level) = (row.principal, row.access_level);
                rows.put_grant(slot, GrantRow { item, principal, level, authored_at })?;
            }
            for row in state.attachments {
                let attachment = Box::new(row.attachment);
                rows.put_attachment(
                    slot,
                    AttachmentRow { attachment, authored_at: row.authored_at },
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
            meta.floor = Arc::new(state.write_id_floor);
            meta.settled = state.reconcile_state.map(Arc::new);
            meta.clock = state.clock;
            meta.next_write_id = state.next_local_write_id;
            refresh_tops(rows, &meta.user, slot, placed)
        })
    }
}

/// A pull has settled: its map is the reconcile state, and covers what was acknowledged.
fn settle<R: Rows>(
    rows: &mut R,
    meta: &mut Meta,
    map: vfs_sync_core::wire::WriteIds,
) -> Result<()> {
    if let Some(own) = map.get(&meta.client_id) {
        let covered = rows.remove_covered(*own)?;
        refresh_affected(rows, &meta.user, &covered)?;
    }
    rows.remove_attached_uploads()?;
    if let Some(cursor) = meta.cursor.clone() {
        let state = ReconcileState { cursor, last_reconciled_write_ids: map };
        if meta.settled.as_deref() != Some(&state) {
            meta.settled = Some(Arc::new(state));
        }
    }
    Ok(())
}
