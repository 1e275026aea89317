//! The history of every user's feed, which shows what a deletion's author may have seen.

use std::collections::{BTreeMap, BTreeSet};

use vfs_sync_core::cursor::{Cursor, Epoch, Position};
use vfs_sync_core::entry::{Change, Entry, EntryKey};
use vfs_sync_core::id::{BlobId, ItemId, ReplicaId, UserId};
use vfs_sync_core::operation::{Basis, Operation};
use vfs_sync_store::FeedPage;

use super::Model;

/// An entry in a user's history.
#[derive(Debug, Clone)]
struct Told {
    counter: u64,
    /// The user's own replica that caused the change, if one did.
    by: Option<ReplicaId>,
    /// True if the subject itself did not change since its previous entry: only the user's level
    /// changed, or an item that it belongs to.
    same: bool,
    present: bool,
}

#[derive(Debug, Clone, Default)]
struct Feed {
    /// The last counter in each epoch.
    ends: BTreeMap<Epoch, u64>,
    last: Option<Cursor>,
    told: BTreeMap<EntryKey, Vec<Told>>,
}

/// Every feed as a log.
#[derive(Debug, Clone, Default)]
pub(super) struct Feeds(BTreeMap<UserId, Feed>);

/// The transaction whose entries are being checked.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Commit<'a> {
    /// A push by a replica.
    Push(&'a UserId, &'a ReplicaId, &'a [Operation]),
    /// An attach of a blob by a user's replica.
    Attach(&'a UserId, Option<&'a ReplicaId>, &'a BlobId),
    /// Any other kind of transaction.
    Other,
}

impl Feed {
    fn take(&mut self, entry: &Entry, by: Option<ReplicaId>, changed: bool) {
        let Some(position) = Position::parse(&entry.position.change_id) else { return };
        self.last = Some(entry.position.clone());
        self.ends.insert(position.epoch, position.counter);
        let rows = self.told.entry(entry.body.change.key()).or_default();
        let was_present = rows.last().is_some_and(|last| last.present);
        let is_item = matches!(entry.body.change, Change::ItemUpsert(_));
        // A subject without an earlier entry became visible, which counts as another's change.
        let first = rows.is_empty();
        rows.push(Told {
            counter: position.counter,
            by: by.filter(|_| changed || !first),
            same: (!changed && !first) || (is_item && was_present && entry.body.actor.is_none()),
            present: !entry.body.change.is_removal(),
        });
    }

    fn seen(&self, basis: &Basis) -> u64 {
        let Basis::At(cursor) = basis else { return 0 };
        let position = Position::parse(&cursor.change_id);
        let last = position.and_then(|position| self.ends.get(&position.epoch).copied());
        position.map_or(0, |position| position.counter.min(last.unwrap_or(0)))
    }
}

impl Feeds {
    /// Records that items left a user's feed, even if they are back before the next check.
    pub(super) fn hide(&mut self, user: &UserId, items: Vec<ItemId>) {
        let Some(feed) = self.0.get_mut(user) else { return };
        for item in items {
            let Some(rows) = feed.told.get_mut(&EntryKey::Item(item)) else { continue };
            let Some(last) = rows.last().filter(|last| last.present) else { continue };
            let gone = Told { by: None, same: true, present: false, ..last.clone() };
            rows.push(gone);
        }
    }
}

impl Model {
    /// Returns the users who may have a feed.
    pub(crate) fn users(&self) -> BTreeSet<UserId> {
        let owners = self.items.values().map(|item| item.owner.clone());
        let granted = self.grants.keys().filter_map(|(_, principal)| principal.user());
        let members = self.joined.iter().map(|(_, user)| user.clone());
        owners.chain(granted).chain(members).collect()
    }

    /// Returns the last known position of a user's feed.
    pub(crate) fn told_until(&self, user: &UserId) -> Option<Cursor> {
        self.feeds.0.get(user)?.last.clone()
    }

    /// Adds a page of a user's feed, which continues the known part.
    pub(crate) fn told(&mut self, user: &UserId, page: &FeedPage, commit: Commit<'_>) {
        for item in &page.items {
            let entry: Entry = serde_json::from_str(item).expect("a server's entry is one");
            let changed = self.changed_by(commit, &entry);
            let by = match (commit, &entry.body.origin) {
                (Commit::Attach(author, replica, _), _) if author == user => replica.cloned(),
                (_, origin) => origin.as_ref().map(|origin| origin.replica_id.clone()),
            };
            self.feeds.0.entry(user.clone()).or_default().take(&entry, by, changed);
        }
    }

    /// Returns whether a transaction changed the subject of an entry itself, rather than an item
    /// that its link or content belongs to. Otherwise the subject only became visible. A link is
    /// changed if its child came back, not if its container did.
    fn changed_by(&self, commit: Commit<'_>, entry: &Entry) -> bool {
        if entry.body.actor.is_none() && !matches!(commit, Commit::Attach(..)) {
            return true;
        }
        match (entry.body.change.key(), commit) {
            (EntryKey::Link { child, .. }, Commit::Push(..) | Commit::Attach(..))
                if self.returned.contains(&child) =>
            {
                true
            }
            (EntryKey::Link { parent, child }, Commit::Push(user, replica, operations)) => {
                let register = self.links.get(&(child, parent));
                register.is_some_and(|link| {
                    let stamp = &link.stamp;
                    stamp.user == *user
                        && stamp.replica == *replica
                        && operations.iter().any(|op| op.write_id.get() == stamp.write_id)
                })
            }
            (EntryKey::Link { .. }, Commit::Attach(..)) => false,
            (EntryKey::Content(_), Commit::Push(..)) => false,
            (EntryKey::Content(_), Commit::Attach(_, _, blob)) => {
                matches!(&entry.body.change, Change::BlobAttach(one) if one.blob_id == *blob)
            }
            _ => true,
        }
    }

    /// Records that removals up to a position left a user's feed: nothing is known about their
    /// subjects any more.
    pub(crate) fn pruned_until(&mut self, user: &UserId, pruned: &Cursor) {
        let Some(pruned) = Position::parse(&pruned.change_id) else { return };
        let feed = self.feeds.0.entry(user.clone()).or_default();
        feed.told.retain(|_, rows| {
            let last = rows.last();
            last.is_none_or(|last| last.present || last.counter > pruned.counter)
        });
    }

    /// Returns whether any other replica changed the item, its contents, the links to it or its
    /// links to live items after the basis.
    pub(super) fn is_unseen(
        &self,
        user: &UserId,
        replica: &ReplicaId,
        id: &ItemId,
        basis: &Basis,
    ) -> bool {
        let Some(feed) = self.feeds.0.get(user) else { return false };
        let seen = feed.seen(basis);
        let linked = |child: &ItemId, parent: &ItemId| {
            self.links.get(&(child.clone(), parent.clone())).is_some_and(|link| link.value)
        };
        let alive = |id: &ItemId| self.items.get(id).is_some_and(|item| !item.is_dead());
        feed.told.iter().any(|(key, rows)| {
            let counts = match key {
                EntryKey::Item(item)
                | EntryKey::Content(item)
                | EntryKey::Attachment { item, .. } => item == id,
                EntryKey::Link { parent, child } if child == id => linked(child, parent),
                EntryKey::Link { parent, child } => {
                    parent == id && linked(child, parent) && alive(child)
                }
                EntryKey::Grant { .. } => false,
            };
            let by_another = |told: &Told| {
                told.counter > seen && !told.same && told.by.as_ref() != Some(replica)
            };
            counts && rows.last().is_some_and(|last| last.present) && rows.iter().any(by_another)
        })
    }
}
