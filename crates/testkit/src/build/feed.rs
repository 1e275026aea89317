//! Entries of a feed, and the pages that carry them.

use vfs_sync_core::access::{AccessLevel, Principal};
use vfs_sync_core::cursor::{Cursor, Epoch};
use vfs_sync_core::entry::{Change, Entry, EntryBody, ItemView};
use vfs_sync_core::id::UserId;
use vfs_sync_core::item::{Metadata, ObjectType};
use vfs_sync_core::wire::{PullPage, WriteIds};

use super::{at, cursor, item_id, name, replica_id, write_id};

/// Builds an item named after its id, as its owner alice sees it.
#[must_use]
pub fn item(id: &str, object_type: ObjectType) -> ItemView {
    ItemView {
        item_id: item_id(id),
        owner_id: UserId::new("alice").expect("a user id"),
        object_type,
        name: Some(name(id)),
        metadata: Metadata::new(),
        encrypted: None,
        created_at: at(0),
        access_level: AccessLevel::Admin,
    }
}

/// Builds the appearance of a folder of alice's, named after its id.
#[must_use]
pub fn folder(id: &str) -> Change {
    Change::ItemUpsert(Box::new(item(id, ObjectType::Folder)))
}

/// Builds the appearance of a file of alice's, named after its id.
#[must_use]
pub fn file(id: &str) -> Change {
    Change::ItemUpsert(Box::new(item(id, ObjectType::File)))
}

/// Builds the deletion of an item.
#[must_use]
pub fn deleted(item: &str) -> Change {
    Change::ItemDelete { item: item_id(item), reason: None }
}

/// Builds the addition of a link.
#[must_use]
pub fn link(parent: &str, child: &str) -> Change {
    Change::LinkAdd { parent: item_id(parent), child: item_id(child) }
}

/// Builds the removal of a link.
#[must_use]
pub fn unlink(parent: &str, child: &str) -> Change {
    Change::LinkRemove { parent: item_id(parent), child: item_id(child), reason: None }
}

/// Builds a grant on an item.
#[must_use]
pub fn grant(item: &str, principal: Principal, level: AccessLevel) -> Change {
    Change::GrantAdd { item: item_id(item), principal, level }
}

/// Builds a feed entry whose change was written at the time of its position.
#[must_use]
pub fn entry(millis: i64, change_id: &str, change: Change) -> Entry {
    let body = EntryBody {
        actor: None,
        authored_at: at(millis),
        origin: None,
        author_replica: None,
        change,
    };
    Entry { position: cursor(millis, change_id), body }
}

/// Begins an empty page that settles the pull.
#[must_use]
pub fn page() -> PageBuilder {
    PageBuilder(
        PullPage {
            items: Vec::new(),
            next_cursor: None,
            has_more: false,
            last_reconciled_write_ids: WriteIds::new(),
            baseline: None,
            head: None,
            epoch: None,
        },
        NextCursor::OfTail,
    )
}

/// A builder of a feed page, valid or malformed.
#[derive(Debug, Clone)]
pub struct PageBuilder(PullPage, NextCursor);

#[derive(Debug, Clone)]
enum NextCursor {
    /// The position of the last item if there are more: the valid value.
    OfTail,
    /// The given value, valid or not.
    Said(Option<Cursor>),
}

impl PageBuilder {
    /// Adds an entry at a position.
    #[must_use]
    pub fn entry(mut self, millis: i64, change_id: &str, change: Change) -> Self {
        self.0.items.push(entry(millis, change_id, change));
        self
    }

    /// Adds an entry for a folder `item-<change id>`.
    #[must_use]
    pub fn item(self, millis: i64, change_id: &str) -> Self {
        self.entry(millis, change_id, folder(&format!("item-{change_id}")))
    }

    /// Adds the given entries, unchanged.
    #[must_use]
    pub fn entries(mut self, entries: impl IntoIterator<Item = Entry>) -> Self {
        self.0.items.extend(entries);
        self
    }

    /// Sets the whole map of write ids.
    #[must_use]
    pub fn write_ids(mut self, write_ids: WriteIds) -> Self {
        self.0.last_reconciled_write_ids = write_ids;
        self
    }

    /// Marks the page as followed by more entries.
    #[must_use]
    pub fn more(mut self) -> Self {
        self.0.has_more = true;
        self
    }

    /// Sets a replica's write id in the map.
    #[must_use]
    pub fn write_id(mut self, replica: &str, id: u64) -> Self {
        self.0.last_reconciled_write_ids.insert(replica_id(replica), write_id(id));
        self
    }

    /// Sets `nextCursor` to any value; by default it is the last item's position if there are more.
    #[must_use]
    pub fn next_cursor(mut self, cursor: Option<Cursor>) -> Self {
        self.1 = NextCursor::Said(cursor);
        self
    }

    /// Sets the feed's head at the first pull.
    #[must_use]
    pub fn baseline(mut self, cursor: Cursor) -> Self {
        self.0.baseline = Some(cursor);
        self
    }

    /// Sets the feed's head at the time of the read.
    #[must_use]
    pub fn head(mut self, cursor: Cursor) -> Self {
        self.0.head = Some(cursor);
        self
    }

    /// Sets the server's epoch.
    ///
    /// # Panics
    /// If the epoch has more than 48 bits.
    #[must_use]
    pub fn epoch(mut self, epoch: u64) -> Self {
        self.0.epoch = Some(Epoch::from_u64(epoch).expect("48 bits"));
        self
    }

    /// Returns the finished page.
    #[must_use]
    pub fn build(self) -> PullPage {
        let Self(mut page, next_cursor) = self;
        page.next_cursor = match next_cursor {
            NextCursor::Said(cursor) => cursor,
            NextCursor::OfTail if page.has_more => {
                page.items.last().map(|entry| entry.position.clone())
            }
            NextCursor::OfTail => None,
        };
        page
    }
}
