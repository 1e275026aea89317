//! Applies a page: the registers, and the state that depends on them.

use std::collections::{BTreeMap, HashSet};

use foldhash::fast::RandomState;
use foldhash::{HashMap, HashMapExt as _};
use indexmap::IndexMap;
use indexmap::map::Entry;
use vfs_sync_core::client::offer::Removal;
use vfs_sync_core::content::RelationKind;
use vfs_sync_core::cursor::{Cursor, Position};
use vfs_sync_core::entry::{Change, Entry as FeedEntry, RemovalReason};
use vfs_sync_core::id::{BlobId, ItemId, ReplicaId, UserId};
use vfs_sync_core::time::Timestamp;

use super::rows::{AttachmentRow, GrantRow, ItemRow, LinkRow, RemovalRow, Result, Rows};
use super::store::{Slot, Upload, UploadState};
use super::view::{Seen, View};
use crate::event::ChangeEvent;

/// An item that a page touched.
#[derive(Default)]
struct Touched {
    /// The position of the item's last change, not counting its links.
    at: Option<Cursor>,
    /// The owner after the page; `Some(None)` if the item was removed, `None` if the page does not
    /// say.
    owner: Option<Option<UserId>>,
}

/// A map in the order of the page, so that writes and events are deterministic.
type Ordered<T> = IndexMap<ItemId, T, RandomState>;

/// The items that a page touched, each looked up once, to update container clocks and the list at
/// the top.
pub(super) struct PageWork<'a> {
    rows: &'a mut dyn Rows,
    slot: Slot,
    items: Ordered<Touched>,
    containers: BTreeMap<ItemId, Cursor>,
    /// The owners of containers that were looked up.
    owners: HashMap<ItemId, Option<UserId>>,
    /// Items of other users that became visible; their known children may have to leave or join the
    /// top.
    foreign: Vec<ItemId>,
    /// Items that appeared or disappeared; items that the queue links under them may have to leave
    /// or join the top.
    turned: Vec<ItemId>,
    queue_is_empty: bool,
    new: i64,
    events: Option<Ordered<ChangeEvent>>,
}

/// The result of applying a page.
pub(super) struct PageOutcome {
    /// The change in the number of items.
    pub(super) new: i64,
    /// The events to emit.
    pub(super) events: Vec<ChangeEvent>,
    /// Items of other users that became visible at the top, if there is a subscriber.
    pub(super) arrived: Vec<ItemId>,
}

impl<'a> PageWork<'a> {
    pub(super) fn new(
        rows: &'a mut dyn Rows,
        slot: Slot,
        entries: usize,
        events: bool,
    ) -> Result<Self> {
        let queue_is_empty = rows.queue_is_empty()?;
        Ok(Self {
            rows,
            slot,
            items: Ordered::with_capacity_and_hasher(entries, RandomState::default()),
            containers: BTreeMap::new(),
            owners: HashMap::new(),
            foreign: Vec::new(),
            turned: Vec::new(),
            queue_is_empty,
            new: 0,
            events: events.then(Ordered::default),
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

    /// Records an event; an appearance or disappearance replaces a mere change.
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

    pub(super) fn apply(
        &mut self,
        entry: FeedEntry,
        user: &UserId,
        client: &ReplicaId,
    ) -> Result<()> {
        let (authored_at, slot, position) = (entry.body.authored_at, self.slot, entry.position);
        let at = Position::parse(&position.change_id);
        if !self.queue_is_empty
            && let Some(origin) = entry.body.origin.filter(|origin| origin.replica_id == *client)
        {
            // The server has it, whatever became of the answer that said so.
            self.rows.acknowledge(&origin.op_id, origin.write_id, Some(authored_at))?;
        }
        match entry.body.change {
            Change::ItemUpsert(view) => {
                let (item, owner) = (view.item_id.clone(), view.owner_id.clone());
                if self.rows.put_item(slot, ItemRow { view, authored_at, at })? {
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
            Change::ItemDelete { item, reason } => {
                self.forget(&item, None)?;
                if reason.is_some() {
                    self.give_up_bringing_back(&item)?;
                }
                if reason.is_none() {
                    self.removed(Removal::Item(item.clone()), authored_at, &position)?;
                    if slot == Slot::Current {
                        self.rows.remove_lost_content(&item)?;
                    }
                }
                if self.rows.remove_item(slot, &item)? {
                    match reason {
                        Some(RemovalReason::Revoked | RemovalReason::OwnerDeleted) => {
                            self.tell(&item, ChangeEvent::Revoked);
                        }
                        None => self.tell(&item, ChangeEvent::Went),
                    }
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
                self.rows.put_grant(slot, GrantRow { item, principal, level, authored_at, at })?;
            }
            Change::GrantRemove { item, principal, reason } => {
                self.tell(&item, ChangeEvent::Changed);
                self.rows.remove_grant(slot, &item, &principal)?;
                if reason.is_none() {
                    let item = item.clone();
                    self.removed(Removal::Grant { item, principal }, authored_at, &position)?;
                }
                self.touch(item, position);
            }
            Change::LinkAdd { parent, child } => {
                self.tell(&child, ChangeEvent::Changed);
                self.moved(parent.clone(), child.clone(), position);
                self.rows.put_link(slot, LinkRow { parent, child, authored_at, at })?;
            }
            Change::LinkRemove { parent, child, reason } => {
                self.tell(&child, ChangeEvent::Changed);
                self.rows.remove_link(slot, &parent, &child)?;
                if reason.is_none() {
                    let (parent, child) = (parent.clone(), child.clone());
                    self.removed(Removal::Link { parent, child }, authored_at, &position)?;
                }
                self.moved(parent, child, position);
            }
            Change::BlobAttach(attachment) => {
                let item = attachment.item_id.clone();
                self.tell(&item, ChangeEvent::Changed);
                if slot == Slot::Current {
                    self.rows.remove_attached_upload(&item, &attachment.blob_id)?;
                }
                if attachment.relation_kind == RelationKind::File {
                    self.forget(&item, Some(&attachment.blob_id))?;
                }
                self.rows.put_attachment(slot, AttachmentRow { attachment, authored_at, at })?;
                self.touch(item, position);
            }
            Change::BlobDetach { item, relation_kind, ref_id, .. } => {
                self.tell(&item, ChangeEvent::Changed);
                if relation_kind == RelationKind::File {
                    self.forget(&item, None)?;
                }
                let ref_id = (relation_kind != RelationKind::File).then_some(&ref_id);
                self.rows.remove_attachment(slot, &item, ref_id)?;
                self.touch(item, position);
            }
        }
        Ok(())
    }

    /// Clears the basis of the waiting contents of an item that is no longer visible to the user:
    /// they then cannot bring the item back, and their bytes need not be sent.
    fn give_up_bringing_back(&mut self, item: &ItemId) -> Result<()> {
        if self.slot == Slot::Building {
            return Ok(());
        }
        for upload in self.rows.uploads_of_item(item)? {
            if upload.state == UploadState::Queued && upload.attach.is_none() {
                self.rows.put_upload(&Upload { basis: None, ..upload })?;
            }
        }
        Ok(())
    }

    /// Records a removal, because a restored server may have lost it.
    fn removed(
        &mut self,
        removal: Removal,
        authored_at: Timestamp,
        position: &Cursor,
    ) -> Result<()> {
        self.rows.put_removal(RemovalRow { removal, authored_at, position: position.clone() })
    }

    /// Marks an item's content as removable when the item is removed, or when the content `by`
    /// replaces it.
    fn forget(&mut self, item: &ItemId, by: Option<&BlobId>) -> Result<()> {
        if self.slot == Slot::Building {
            return Ok(());
        }
        match self.rows.content(self.slot, item)? {
            Some(row) if Some(&row.attachment.blob_id) != by => {
                self.rows.forget(item, &row.attachment.blob_id)
            }
            _ => Ok(()),
        }
    }

    /// Returns true if a container does not belong to `owner`, so that a link under it is a
    /// shortcut: see [`View::is_top`].
    fn is_foreign(&mut self, container: &ItemId, owner: &UserId, user: &UserId) -> Result<bool> {
        if !self.owners.contains_key(container) {
            let found = self.rows.owner(self.slot, container)?;
            self.owners.insert(container.clone(), found);
        }
        let found = self.owners.get(container).and_then(Option::as_ref);
        Ok(found.unwrap_or(user) != owner)
    }

    /// Updates container clocks and the list at the top, once all rows of the page are written.
    pub(super) fn finish(mut self, user: &UserId) -> Result<PageOutcome> {
        let slot = self.slot;
        let foreign = std::mem::take(&mut self.foreign);
        for id in &foreign {
            for child in self.rows.children(slot, id)? {
                self.items.entry(child).or_default();
            }
        }
        let (mut tops, mut seen) = (HashSet::new(), Seen::default());
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
                self.is_confirmed_top(&parents, owner.as_ref(), user)?
            } else {
                let mut view = View::after(self.rows, user, slot, seen);
                let top = view.is_top(&id, false)?;
                seen = view.into_seen();
                top
            };
            self.rows.set_top(slot, &id, top)?;
            if top && self.events.is_some() {
                tops.insert(id);
            }
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
        let events = self.events.map(Ordered::into_values).into_iter().flatten().collect();
        let arrived = foreign.into_iter().filter(|id| tops.contains(id)).collect();
        Ok(PageOutcome { new: self.new, events, arrived })
    }

    fn is_confirmed_top(
        &mut self,
        parents: &[ItemId],
        owner: Option<&UserId>,
        user: &UserId,
    ) -> Result<bool> {
        let Some(owner) = owner else { return Ok(false) };
        for parent in parents {
            if !self.is_foreign(parent, owner, user)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
