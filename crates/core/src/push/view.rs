//! What each user is told of a transaction: their view before it against their view after it.

use std::collections::{BTreeMap, HashMap};

use super::rows::Rows;
use crate::access::AccessLevel;
use crate::content::Attachment;
use crate::entry::{Change, EntryBody, EntryKey, ItemView, Origin};
use crate::id::{ItemId, UserId};
use crate::register::Item;
use crate::time::Timestamp;

/// What a transaction touched, each with its visibility before the first touch.
#[derive(Default)]
pub(super) struct Views {
    order: Vec<EntryKey>,
    touched: HashMap<EntryKey, Touched>,
}

struct Touched {
    was_visible: bool,
    actor: UserId,
    origin: Origin,
}

pub(super) fn attachment_key(attachment: &Attachment) -> EntryKey {
    EntryKey::attachment(&attachment.item_id, attachment.relation_kind, &attachment.ref_id)
}

impl Views {
    /// To be called before the register behind `key` is changed.
    pub(super) fn touch(&mut self, rows: &Rows, key: EntryKey, actor: &UserId, origin: Origin) {
        if let Some(touched) = self.touched.get_mut(&key) {
            touched.origin = origin;
            return;
        }
        let touched = Touched { was_visible: rows.shows(&key), actor: actor.clone(), origin };
        self.order.push(key.clone());
        self.touched.insert(key, touched);
    }

    /// The entries for each user, additions before removals.
    pub(super) fn into_feed(self, rows: &Rows) -> BTreeMap<UserId, Vec<EntryBody>> {
        let mut feed: BTreeMap<UserId, Vec<EntryBody>> = BTreeMap::new();
        for key in &self.order {
            let touched = &self.touched[key];
            let Some(owner) = rows.realm_of(key) else { continue };
            let change = if rows.shows(key) {
                rows.present(key)
            } else if touched.was_visible {
                rows.removal(key)
            } else {
                None
            };
            let Some((change, authored_at)) = change else { continue };
            let origin = (touched.actor == *owner).then(|| touched.origin.clone());
            feed.entry(owner.clone()).or_default().push(EntryBody {
                actor: Some(touched.actor.clone()),
                authored_at,
                origin,
                change,
            });
        }
        for entries in feed.values_mut() {
            order_entries(entries);
        }
        feed
    }
}

/// Additions before removals; ends of links before links, and the other way round for removals.
fn order_entries(entries: &mut [EntryBody]) {
    entries.sort_by_key(|entry| match &entry.change {
        Change::ItemUpsert(_) => 0,
        Change::LinkAdd { .. } => 1,
        Change::GrantAdd { .. } => 2,
        Change::BlobAttach(_) => 3,
        Change::BlobDetach { .. } => 4,
        Change::GrantRemove { .. } => 5,
        Change::LinkRemove { .. } => 6,
        Change::ItemDelete { .. } => 7,
    });
}

impl Rows {
    fn live(&self, id: &ItemId) -> Option<&Item> {
        self.item(id).filter(|item| !item.fields.is_deleted())
    }

    fn attachment(&self, key: &EntryKey) -> Option<&Attachment> {
        let (EntryKey::Content(item) | EntryKey::Attachment { item, .. }) = key else {
            return None;
        };
        self.attachments.get(item)?.iter().find(|attachment| attachment_key(attachment) == *key)
    }

    /// Whose view `key` is part of.
    fn realm_of(&self, key: &EntryKey) -> Option<&UserId> {
        let (EntryKey::Item(id)
        | EntryKey::Content(id)
        | EntryKey::Link { parent: id, .. }
        | EntryKey::Grant { item: id, .. }
        | EntryKey::Attachment { item: id, .. }) = key;
        self.item(id).map(|item| &item.owner)
    }

    /// Whether the owner sees what `key` names.
    fn shows(&self, key: &EntryKey) -> bool {
        match key {
            EntryKey::Item(id) => self.live(id).is_some(),
            EntryKey::Link { parent, child } => {
                let link = self.links.get(&(parent.clone(), child.clone()));
                link.is_some_and(|link| link.as_ref().is_some_and(|link| link.register.value))
                    && self.live(parent).is_some()
                    && self.live(child).is_some()
            }
            EntryKey::Grant { item, principal } => {
                let grant = self.grants.get(&(item.clone(), principal.clone()));
                grant.is_some_and(|grant| grant.as_ref().is_some_and(|g| g.value.is_some()))
                    && self.live(item).is_some()
            }
            EntryKey::Content(item) | EntryKey::Attachment { item, .. } => {
                self.attachment(key).is_some() && self.live(item).is_some()
            }
        }
    }

    /// The change that tells what `key` is now, with the greatest stamp in it.
    fn present(&self, key: &EntryKey) -> Option<(Change, Timestamp)> {
        Some(match key {
            EntryKey::Item(id) => {
                let item = self.item(id)?;
                let view = item_view(id, item, AccessLevel::Admin)?;
                (Change::ItemUpsert(Box::new(view)), item.fields.latest()?)
            }
            EntryKey::Link { parent, child } => {
                let link = self.links.get(&(parent.clone(), child.clone()))?.as_ref()?;
                let change = Change::LinkAdd { parent: parent.clone(), child: child.clone() };
                (change, link.register.stamp.authored_at)
            }
            EntryKey::Grant { item, principal } => {
                let grant = self.grants.get(&(item.clone(), principal.clone()))?.as_ref()?;
                let change = Change::GrantAdd {
                    item: item.clone(),
                    principal: principal.clone(),
                    level: grant.value?,
                };
                (change, grant.stamp.authored_at)
            }
            EntryKey::Content(_) | EntryKey::Attachment { .. } => {
                let attachment = self.attachment(key)?;
                (Change::BlobAttach(Box::new(attachment.clone())), attachment.attached_at)
            }
        })
    }

    /// The change that tells that `key` went, with the greatest stamp behind it.
    fn removal(&self, key: &EntryKey) -> Option<(Change, Timestamp)> {
        let deleted = |id: &ItemId| {
            let register = self.item(id)?.fields.deleted.as_ref().filter(|r| r.value)?;
            Some(register.stamp.authored_at)
        };
        let reason = None;
        let (change, at) = match key {
            EntryKey::Item(id) => (Change::ItemDelete { item: id.clone(), reason }, deleted(id)),
            EntryKey::Link { parent, child } => {
                let link = self.links.get(&(parent.clone(), child.clone()))?.as_ref()?;
                let at =
                    Some(link.register.stamp.authored_at).max(deleted(parent)).max(deleted(child));
                let (parent, child) = (parent.clone(), child.clone());
                (Change::LinkRemove { parent, child, reason }, at)
            }
            EntryKey::Grant { item, principal } => {
                let grant = self.grants.get(&(item.clone(), principal.clone()))?.as_ref()?;
                let at = Some(grant.stamp.authored_at).max(deleted(item));
                let (item, principal) = (item.clone(), principal.clone());
                (Change::GrantRemove { item, principal, reason }, at)
            }
            EntryKey::Content(item) | EntryKey::Attachment { item, .. } => {
                let attachment = self.attachment(key)?;
                let change = Change::BlobDetach {
                    item: item.clone(),
                    relation_kind: attachment.relation_kind,
                    blob_id: attachment.blob_id.clone(),
                    ref_id: attachment.ref_id.clone(),
                    reason,
                };
                (change, Some(attachment.attached_at).max(deleted(item)))
            }
        };
        Some((change, at?))
    }
}

/// An item as a reader with `access_level` sees it; `None` for a row without a type.
fn item_view(id: &ItemId, item: &Item, access_level: AccessLevel) -> Option<ItemView> {
    Some(ItemView {
        item_id: id.clone(),
        owner_id: item.owner.clone(),
        object_type: item.fields.object_type.as_ref()?.value,
        name: item.fields.name.as_ref().map(|register| register.value.clone()),
        metadata: item.fields.live_metadata(),
        encrypted: item.fields.encrypted.as_ref().map(|register| register.value.clone()),
        created_at: item.created_at,
        access_level,
    })
}
