//! The index of shown items, in memory: the same orders as in SQLite, so that a query looks at a range of one.

use std::collections::BTreeMap;
use std::hash::Hash;
use std::ops::Bound;
use std::sync::Arc;

use foldhash::HashMap;
use vfs_sync_core::id::{ItemId, UserId};
use vfs_sync_core::item::ObjectType;
use vfs_sync_core::time::Timestamp;

use crate::api::{NameIs, Query, SortBy};
use crate::replica::rows::FoundRow;

/// The fields of an item that a query looks at.
struct Entry {
    name: Arc<str>,
    object_type: ObjectType,
    owner: UserId,
    modified_at: Timestamp,
    /// Each key and its value, as JSON.
    metadata: Box<[(Arc<str>, Arc<str>)]>,
}

impl Entry {
    /// Returns true if the entry meets the conditions of a query, but that on metadata.
    fn meets(&self, query: &Query) -> bool {
        let name = match &query.name {
            Some(NameIs::Exactly(name)) => *self.name == **name,
            Some(NameIs::StartsWith(prefix)) => self.name.starts_with(prefix.as_str()),
            None => true,
        };
        name && query.object_type.is_none_or(|object_type| self.object_type == object_type)
            && query.owner.as_ref().is_none_or(|owner| self.owner == *owner)
            && query.modified_since.is_none_or(|since| self.modified_at >= since)
    }
}

/// A place in an order. One without an id is before all items with its key.
type Place<K> = (K, Option<ItemId>);
type Order<K> = BTreeMap<Place<K>, Arc<Entry>>;

/// Items in both orders of results.
#[derive(Default)]
struct Orders {
    by_name: Order<Arc<str>>,
    by_modified: Order<Timestamp>,
}

impl Orders {
    fn insert(&mut self, id: &ItemId, entry: &Arc<Entry>) {
        self.by_name.insert((Arc::clone(&entry.name), Some(id.clone())), Arc::clone(entry));
        self.by_modified.insert((entry.modified_at, Some(id.clone())), Arc::clone(entry));
    }

    /// Removes an item; returns true if it was the last one.
    fn remove(&mut self, id: &ItemId, entry: &Entry) -> bool {
        self.by_name.remove(&(Arc::clone(&entry.name), Some(id.clone())));
        self.by_modified.remove(&(entry.modified_at, Some(id.clone())));
        self.by_name.is_empty()
    }

    fn find(&self, query: &Query) -> Vec<ItemId> {
        let after = query.after.as_ref();
        match query.sort_by {
            SortBy::Name => {
                let place = |name: &str| -> Place<Arc<str>> { (name.into(), None) };
                let (first, beyond) = match &query.name {
                    // No other text is between a text and the same one with a null.
                    Some(NameIs::Exactly(name)) => {
                        (Some(place(name)), Some(place(&format!("{name}\0"))))
                    }
                    // No character comes after this one.
                    Some(NameIs::StartsWith(prefix)) => {
                        (Some(place(prefix)), Some(place(&format!("{prefix}\u{10ffff}"))))
                    }
                    None => (None, None),
                };
                let after = after.map(|at| (at.name.as_str().into(), Some(at.id.clone())));
                page(&self.by_name, (first, beyond), after, query)
            }
            SortBy::ModifiedAt => {
                let first = query.modified_since.map(|since| (since, None));
                let after = after.map(|at| (at.modified_at, Some(at.id.clone())));
                page(&self.by_modified, (first, None), after, query)
            }
        }
    }
}

/// Returns the items of an order from `first` up to `beyond`, and after a place, that meet a query.
fn page<K: Ord>(
    order: &Order<K>,
    (first, beyond): (Option<Place<K>>, Option<Place<K>>),
    after: Option<Place<K>>,
    query: &Query,
) -> Vec<ItemId> {
    let (after, beyond) = match query.descending {
        true => (None, [beyond, after].into_iter().flatten().min()),
        false => (after, beyond),
    };
    let from = match (first, after) {
        (Some(first), Some(after)) if after < first => Bound::Included(first),
        (_, Some(after)) => Bound::Excluded(after),
        (Some(first), None) => Bound::Included(first),
        (None, None) => Bound::Unbounded,
    };
    if let (Bound::Included(from) | Bound::Excluded(from), Some(beyond)) = (&from, &beyond)
        && from >= beyond
    {
        return Vec::new();
    }
    let to = beyond.map_or(Bound::Unbounded, Bound::Excluded);
    let range = order.range((from, to));
    let met = |((_, id), entry): (&Place<K>, &Arc<Entry>)| {
        entry.meets(query).then(|| id.clone()).flatten()
    };
    let limit = query.page_size();
    match query.descending {
        true => range.rev().filter_map(met).take(limit).collect(),
        false => range.filter_map(met).take(limit).collect(),
    }
}

#[derive(Default)]
pub(super) struct Found {
    pub(super) indexed: bool,
    entries: HashMap<ItemId, Arc<Entry>>,
    all: Orders,
    by_type: HashMap<ObjectType, Orders>,
    by_owner: HashMap<UserId, Orders>,
    by_metadata: HashMap<(Arc<str>, Arc<str>), Orders>,
}

impl Found {
    pub(super) fn insert(&mut self, row: FoundRow) {
        let FoundRow { id, name, object_type, owner, modified_at, metadata } = row;
        self.remove(&id);
        let metadata = metadata.into_iter().map(|(key, value)| (key, value.to_string().into()));
        let (name, metadata) = (name.into(), metadata.collect());
        let entry = Arc::new(Entry { name, object_type, owner, modified_at, metadata });
        self.all.insert(&id, &entry);
        self.by_type.entry(object_type).or_default().insert(&id, &entry);
        self.by_owner.entry(entry.owner.clone()).or_default().insert(&id, &entry);
        for pair in &entry.metadata {
            self.by_metadata.entry(pair.clone()).or_default().insert(&id, &entry);
        }
        self.entries.insert(id, entry);
    }

    pub(super) fn remove(&mut self, id: &ItemId) {
        let Some(entry) = self.entries.remove(id) else { return };
        self.all.remove(id, &entry);
        remove(&mut self.by_type, &entry.object_type, id, &entry);
        remove(&mut self.by_owner, &entry.owner, id, &entry);
        for pair in &entry.metadata {
            remove(&mut self.by_metadata, pair, id, &entry);
        }
    }

    /// Finds items by the narrowest condition, and the others among what that one finds.
    pub(super) fn find(&self, query: &Query) -> Vec<ItemId> {
        let orders = if let Some((key, value)) = &query.metadata {
            self.by_metadata.get(&(key.as_str().into(), value.to_string().into()))
        } else if let Some(object_type) = &query.object_type {
            self.by_type.get(object_type)
        } else if let Some(owner) = &query.owner {
            self.by_owner.get(owner)
        } else {
            Some(&self.all)
        };
        orders.map_or_else(Vec::new, |orders| orders.find(query))
    }
}

/// Removes an item from the orders of a key, and these with their last item.
fn remove<K: Hash + Eq>(all: &mut HashMap<K, Orders>, key: &K, id: &ItemId, entry: &Entry) {
    if all.get_mut(key).is_some_and(|orders| orders.remove(id, entry)) {
        all.remove(key);
    }
}
