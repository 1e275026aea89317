//! Visibility of registers: the change by which a reader's feed shows a subject, or its removal.

use std::collections::BTreeSet;

use super::rows::{Addition, Map, Rows};
use crate::access::{AccessLevel, Audience, Principal, PrincipalType};
use crate::content::Attachment;
use crate::entry::{Change, EntryKey, ItemView, Origin, RemovalReason};
use crate::id::{ItemId, ReplicaId, UserId};
use crate::register::Item;
use crate::time::Timestamp;

/// The keys that a transaction touched, each with its visibility to the owner before the first
/// touch.
#[derive(Debug, Clone, Default)]
pub(super) struct Views {
    order: Vec<EntryKey>,
    touched: Map<EntryKey, Touched>,
}

#[derive(Debug, Clone)]
struct Touched {
    was_visible: bool,
    actor: UserId,
    replica: Option<ReplicaId>,
    origin: Option<Origin>,
    /// True if the subject itself changed, not only an item that it belongs to.
    changed: bool,
}

/// The cause of an entry, as its reader sees it.
pub(super) struct Source {
    pub(super) actor: Option<UserId>,
    /// The reader's replica that caused the entry, if one did.
    pub(super) replica: Option<ReplicaId>,
    /// The operation that caused the entry; present only in its author's feed.
    pub(super) origin: Option<Origin>,
    /// True if the subject itself changed.
    pub(super) changed: bool,
}

pub(super) fn attachment_key(attachment: &Attachment) -> EntryKey {
    EntryKey::attachment(&attachment.item_id, attachment.relation_kind, &attachment.ref_id)
}

impl Views {
    /// Records the owner's visibility of `key`, before the register behind it changes.
    pub(super) fn touch(
        &mut self,
        rows: &Rows,
        key: EntryKey,
        actor: &UserId,
        replica: Option<ReplicaId>,
        origin: Option<Origin>,
        changed: bool,
    ) {
        if let Some(touched) = self.touched.get_mut(&key) {
            touched.origin = origin;
            touched.changed |= changed;
            return;
        }
        let (was_visible, actor) = (rows.shows(&key), actor.clone());
        let touched = Touched { was_visible, actor, replica, origin, changed };
        self.order.push(key.clone());
        self.touched.insert(key, touched);
    }

    /// Returns the touched keys in the order of the first touch.
    pub(super) fn keys(&self) -> impl Iterator<Item = &EntryKey> {
        self.order.iter()
    }

    pub(super) fn has(&self, key: &EntryKey) -> bool {
        self.touched.contains_key(key)
    }

    /// Returns whether the owner saw `key` before it was touched.
    pub(super) fn was_visible(&self, key: &EntryKey) -> bool {
        self.touched.get(key).is_some_and(|touched| touched.was_visible)
    }

    /// Returns the user who touched `key` and, only for that user's own feed, the replica and
    /// operation. A subject that appeared or disappeared untouched has the server as its cause.
    pub(super) fn source(&self, key: &EntryKey, reader: &UserId) -> Source {
        let Some(touched) = self.touched.get(key) else {
            return Source { actor: None, replica: None, origin: None, changed: true };
        };
        let own = Some(touched).filter(|touched| touched.actor == *reader);
        Source {
            actor: Some(touched.actor.clone()),
            replica: own.and_then(|touched| touched.replica.clone()),
            origin: own.and_then(|touched| touched.origin.clone()),
            changed: touched.changed,
        }
    }
}

/// Puts additions before removals; among additions, items before their links, and among removals,
/// links before their items.
pub(super) fn order_entries(entries: &mut [Addition]) {
    entries.sort_by_key(|entry| match &entry.body.change {
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
    /// Returns the item unless it is deleted.
    pub(super) fn live(&self, id: &ItemId) -> Option<&Item> {
        self.item(id).filter(|item| !item.fields.is_deleted())
    }

    /// Returns the users whom a grant to `principal` covers.
    pub(super) fn users_of(&self, principal: &Principal) -> BTreeSet<UserId> {
        match principal.kind {
            PrincipalType::User => principal.user().into_iter().collect(),
            PrincipalType::Group | PrincipalType::Organization => {
                self.members.get(principal).cloned().unwrap_or_default()
            }
        }
    }

    /// Computes the audience of an item from its grants and the audiences `above` it, for the users
    /// that are `concerned`; `others` has the levels of all others.
    pub(super) fn derive_audience<'a>(
        &self,
        id: &ItemId,
        others: Audience,
        above: impl Fn(&ItemId) -> &'a Audience,
        concerned: impl Fn(&UserId) -> bool,
    ) -> Audience {
        let mut next = others;
        let Some(item) = self.live(id) else { return next };
        let mut allow = |user: &UserId, level: AccessLevel| {
            if *user != item.owner && concerned(user) {
                let held = next.entry(user.clone()).or_insert(level);
                *held = level.max(*held);
            }
        };
        for (principal, level) in self.grants_on(id) {
            for user in self.users_of(principal) {
                let is_blocked = self.is_blocked(&user, &item.owner);
                if !(is_blocked || self.is_awaited(&user, &item.owner)) {
                    allow(&user, level);
                }
            }
        }
        // A deleted parent has no audience.
        for parent in self.parents(id) {
            for (user, level) in above(parent) {
                allow(user, *level);
            }
        }
        next
    }

    fn attachment(&self, key: &EntryKey) -> Option<&Attachment> {
        let (EntryKey::Content(item) | EntryKey::Attachment { item, .. }) = key else {
            return None;
        };
        self.attachments.get(item)?.iter().find(|attachment| attachment_key(attachment) == *key)
    }

    /// Returns whether the ends of a link have two owners, if the link is known.
    pub(super) fn is_shortcut(&self, parent: &ItemId, child: &ItemId) -> bool {
        let link = self.links.get(&(parent.clone(), child.clone()));
        link.is_some_and(|link| link.as_ref().is_some_and(|link| !link.in_realm))
    }

    /// Returns whether the register behind `key` is present, regardless of its items.
    pub(super) fn is_there(&self, key: &EntryKey) -> bool {
        match key {
            EntryKey::Item(_) => true,
            EntryKey::Link { parent, child } => self.is_linked(&(parent.clone(), child.clone())),
            EntryKey::Grant { item, principal } => {
                let grant = self.grants.get(&(item.clone(), principal.clone()));
                grant.is_some_and(|grant| grant.as_ref().is_some_and(|g| g.value.is_some()))
            }
            EntryKey::Content(_) | EntryKey::Attachment { .. } => self.attachment(key).is_some(),
        }
    }

    /// Returns whether the owner sees the subject of `key` in the realm.
    pub(super) fn shows(&self, key: &EntryKey) -> bool {
        self.is_there(key)
            && match key {
                EntryKey::Link { parent, child } => {
                    self.live(parent).is_some() && self.live(child).is_some()
                }
                EntryKey::Item(item)
                | EntryKey::Grant { item, .. }
                | EntryKey::Content(item)
                | EntryKey::Attachment { item, .. } => self.live(item).is_some(),
            }
    }

    /// Returns the keys that appear and disappear with an item: its links, grants and contents.
    /// Links to children are included only if `below` accepts the child.
    pub(super) fn keys_around(
        &self,
        id: &ItemId,
        below: impl Fn(&ItemId) -> bool,
        keys: &mut Vec<EntryKey>,
    ) {
        let links = self.links_above(id).iter();
        let links = links.chain(self.links_below(id).iter().filter(|key| below(&key.1)));
        keys.extend(links.map(|(parent, child)| EntryKey::Link {
            parent: parent.clone(),
            child: child.clone(),
        }));
        keys.extend(
            self.grants_to(id).iter().map(|principal| EntryKey::Grant {
                item: id.clone(),
                principal: principal.clone(),
            }),
        );
        keys.extend(self.attachments.get(id).into_iter().flatten().map(attachment_key));
    }

    /// Returns the change that shows the present state of `key` to a reader with `level`, with its
    /// greatest stamp.
    pub(super) fn present(
        &self,
        key: &EntryKey,
        level: AccessLevel,
    ) -> Option<(Change, Timestamp)> {
        Some(match key {
            EntryKey::Item(id) => {
                let item = self.item(id)?;
                let view = item_view(id, item, level)?;
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

    /// Returns the change that removes `key`, with the greatest stamp behind it; `now` serves for a
    /// subject that others still see.
    pub(super) fn removal(&self, key: &EntryKey, now: Timestamp) -> Option<(Change, Timestamp)> {
        let revoked = self.shows(key);
        let reason = revoked.then_some(RemovalReason::Revoked);
        let deleted = |id: &ItemId| {
            let register = self.item(id)?.fields.deleted.as_ref().filter(|r| r.value)?;
            Some(register.stamp.authored_at)
        };
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
        Some((change, at.filter(|_| !revoked).unwrap_or(now)))
    }
}

/// Builds an item's view for a reader with `access_level`; `None` for a row without a type.
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
