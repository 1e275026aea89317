//! The view of a user, computed from scratch, and the view that a replica holds, in the same form.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::sync::Arc;

use vfs_sync_core::access::{AccessLevel, Principal};
use vfs_sync_core::client::state::ReplicaState;
use vfs_sync_core::content::{Attachment, RelationKind};
use vfs_sync_core::entry::ItemView;
use vfs_sync_core::id::{ItemId, UserId};
use vfs_sync_core::item::{Metadata, Name, ObjectType};

use super::contents::Content;
use super::{Item, Model};

/// An item in the form that one user sees.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Seen {
    owner: UserId,
    level: AccessLevel,
    object_type: Option<ObjectType>,
    name: Option<Name>,
    metadata: Metadata,
    created_at: i64,
}

/// Everything that one user sees.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct View {
    pub(crate) items: BTreeMap<ItemId, Seen>,
    /// The parent and child of each link.
    pub(crate) links: BTreeSet<(ItemId, ItemId)>,
    pub(crate) grants: BTreeMap<(ItemId, Principal), AccessLevel>,
    pub(crate) contents: BTreeMap<ItemId, Content>,
}

impl Seen {
    fn of(item: &Item, level: AccessLevel) -> Self {
        let live = |(key, one): (&Arc<str>, &super::Register<Option<serde_json::Value>>)| {
            Some((key.clone(), one.value.clone()?))
        };
        Self {
            owner: item.owner.clone(),
            level,
            object_type: item.object_type.as_ref().map(|register| register.value),
            name: item.name.as_ref().map(|register| register.value.clone()),
            metadata: item.metadata.iter().filter_map(live).collect(),
            created_at: item.created_at,
        }
    }

    fn told(view: &ItemView) -> Self {
        Self {
            owner: view.owner_id.clone(),
            level: view.access_level,
            object_type: Some(view.object_type),
            name: view.name.clone(),
            metadata: view.metadata.clone(),
            created_at: view.created_at.as_millis(),
        }
    }
}

fn content(attachment: &Attachment) -> Content {
    (attachment.blob_id.clone(), attachment.size, attachment.digest, attachment.modified_at)
}

impl View {
    /// Returns the confirmed view of a replica.
    pub(crate) fn held(state: &ReplicaState) -> Self {
        let file = |kind| kind == RelationKind::File;
        let files =
            state.attachments.iter().filter(|one| file(one.attachment.relation_kind)).map(|one| {
                let attachment = &one.attachment;
                (attachment.item_id.clone(), content(attachment))
            });
        Self {
            items: state
                .items
                .iter()
                .map(|row| (row.item.item_id.clone(), Seen::told(&row.item)))
                .collect(),
            links: state
                .links
                .iter()
                .map(|link| (link.parent_id.clone(), link.child_id.clone()))
                .collect(),
            grants: state
                .grants
                .iter()
                .map(|grant| ((grant.item_id.clone(), grant.principal.clone()), grant.access_level))
                .collect(),
            contents: files.collect(),
        }
    }

    /// Returns the items at the top of each owner's tree: those without a visible container of the
    /// same owner.
    pub(crate) fn places(&self) -> BTreeMap<UserId, BTreeSet<ItemId>> {
        let owner = |id: &ItemId| self.items.get(id).map(|seen| &seen.owner);
        let in_realm = |(parent, child): &&(ItemId, ItemId)| owner(parent) == owner(child);
        let hanging: BTreeSet<&ItemId> =
            self.links.iter().filter(in_realm).map(|(_, child)| child).collect();
        let mut places: BTreeMap<UserId, BTreeSet<ItemId>> = BTreeMap::new();
        for (id, seen) in self.items.iter().filter(|(id, _)| !hanging.contains(id)) {
            places.entry(seen.owner.clone()).or_default().insert(id.clone());
        }
        places
    }

    /// Describes the difference from the expected view in a few lines; `None` if there is none.
    pub(crate) fn differs(&self, expected: &Self) -> Option<String> {
        if self == expected {
            return None;
        }
        let mut text = String::new();
        differences(&mut text, "item", &self.items, &expected.items);
        let as_map = |links: &BTreeSet<(ItemId, ItemId)>| {
            links.iter().map(|link| (link.clone(), ())).collect::<BTreeMap<_, _>>()
        };
        differences(&mut text, "link", &as_map(&self.links), &as_map(&expected.links));
        differences(&mut text, "grant", &self.grants, &expected.grants);
        differences(&mut text, "content", &self.contents, &expected.contents);
        Some(text)
    }
}

fn differences<K: Ord + std::fmt::Debug, V: PartialEq + std::fmt::Debug>(
    text: &mut String,
    what: &str,
    found: &BTreeMap<K, V>,
    expected: &BTreeMap<K, V>,
) {
    for key in found.keys().chain(expected.keys()).collect::<BTreeSet<_>>() {
        let _ = match (found.get(key), expected.get(key)) {
            (Some(found), None) => writeln!(text, "has {what} {key:?} {found:?}, should not"),
            (None, Some(expected)) => writeln!(text, "lacks {what} {key:?} {expected:?}"),
            (Some(found), Some(expected)) if found != expected => {
                writeln!(text, "has {what} {key:?} {found:?}, should be {expected:?}")
            }
            _ => Ok(()),
        };
    }
}

impl Model {
    /// Returns whether `user` sees an item in the delivered form.
    pub(crate) fn shows(&self, user: &UserId, told: &ItemView) -> bool {
        let level = self.level(user, &told.item_id, false);
        level.is_some_and(|level| Seen::of(&self.items[&told.item_id], level) == Seen::told(told))
    }

    /// Computes everything that `user` may see.
    pub(crate) fn view(&self, user: &UserId) -> View {
        let mut levels = HashMap::new();
        for id in self.items.keys() {
            self.level_into(user, id, &mut levels);
        }
        let level = |id: &ItemId| levels.get(id).copied().flatten();
        let mut view = View::default();
        for (id, item) in &self.items {
            let Some(level) = level(id) else { continue };
            view.items.insert(id.clone(), Seen::of(item, level));
            if let Some(current) = self.contents.current(id) {
                view.contents.insert(id.clone(), current.clone());
            }
        }
        for ((child, parent), link) in &self.links {
            if link.value && level(child).is_some() && level(parent).is_some() {
                view.links.insert((parent.clone(), child.clone()));
            }
        }
        for ((item, principal), grant) in &self.grants {
            if let Some(granted) = grant.value.filter(|_| level(item).is_some()) {
                view.grants.insert((item.clone(), principal.clone()), granted);
            }
        }
        view
    }

    /// Computes [`Model::level`] of live items, each once: trees have no cycles.
    fn level_into<'a>(
        &'a self,
        user: &UserId,
        id: &'a ItemId,
        levels: &mut HashMap<&'a ItemId, Option<AccessLevel>>,
    ) -> Option<AccessLevel> {
        if let Some(known) = levels.get(id) {
            return *known;
        }
        let item = self.items.get(id)?;
        // A cycle, which is a failure of its own, ends here.
        levels.insert(id, None);
        let level = if item.is_dead() {
            None
        } else if item.owner == *user {
            Some(AccessLevel::Admin)
        } else if self.is_blocked(user, &item.owner) {
            None
        } else {
            let own = self.grants_on(id).filter(|(to, _)| self.names(to, user));
            let mut level = own.map(|(_, level)| level).max();
            for parent in self.parents(id).filter(|parent| self.in_realm(id, parent)) {
                level = level.max(self.level_into(user, parent, levels));
            }
            level
        };
        levels.insert(id, level);
        level
    }
}
