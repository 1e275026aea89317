//! Entries of a feed, and the pages that carry them.

use vfs_sync_core::access::{AccessLevel, Principal};
use vfs_sync_core::cursor::{Cursor, Epoch};
use vfs_sync_core::entry::{Change, Entry, EntryBody, ItemView};
use vfs_sync_core::id::UserId;
use vfs_sync_core::item::{Metadata, ObjectType};
use vfs_sync_core::wire::{PullPage, WriteIds};

use super::{at, cursor, item_id, name, replica_id, write_id};

/// The item as its owner, alice, has it, called as its id is.
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

/// A folder of alice's appears, called as its id is.
#[must_use]
pub fn folder(id: &str) -> Change {
    Change::ItemUpsert(Box::new(item(id, ObjectType::Folder)))
}

/// A file of alice's appears, called as its id is.
#[must_use]
pub fn file(id: &str) -> Change {
    Change::ItemUpsert(Box::new(item(id, ObjectType::File)))
}

/// An item is deleted.
#[must_use]
pub fn deleted(item: &str) -> Change {
    Change::ItemDelete { item: item_id(item), reason: None }
}

/// An item hangs under another.
#[must_use]
pub fn link(parent: &str, child: &str) -> Change {
    Change::LinkAdd { parent: item_id(parent), child: item_id(child) }
}

/// An item hangs under another no longer.
#[must_use]
pub fn unlink(parent: &str, child: &str) -> Change {
    Change::LinkRemove { parent: item_id(parent), child: item_id(child), reason: None }
}

/// An item is granted.
#[must_use]
pub fn grant(item: &str, principal: Principal, level: AccessLevel) -> Change {
    Change::GrantAdd { item: item_id(item), principal, level }
}

/// An entry of a feed, written when it was placed there.
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

/// A page of a feed, with whatever is wrong with it.
#[derive(Debug, Clone)]
pub struct PageBuilder(PullPage, NextCursor);

#[derive(Debug, Clone)]
enum NextCursor {
    /// The last item's where there is more, as it should be.
    OfTail,
    /// This, whatever it should be.
    Said(Option<Cursor>),
}

impl PageBuilder {
    /// The next entry, at a position.
    #[must_use]
    pub fn entry(mut self, millis: i64, change_id: &str, change: Change) -> Self {
        self.0.items.push(entry(millis, change_id, change));
        self
    }

    /// The next entry: a folder `item-<change id>`.
    #[must_use]
    pub fn item(self, millis: i64, change_id: &str) -> Self {
        self.entry(millis, change_id, folder(&format!("item-{change_id}")))
    }

    /// More entries, as they are.
    #[must_use]
    pub fn entries(mut self, entries: impl IntoIterator<Item = Entry>) -> Self {
        self.0.items.extend(entries);
        self
    }

    /// The map, as a whole.
    #[must_use]
    pub fn write_ids(mut self, write_ids: WriteIds) -> Self {
        self.0.last_reconciled_write_ids = write_ids;
        self
    }

    /// The page has more after it.
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

    /// `nextCursor`, whatever it should be: without this, the last item's where there is more.
    #[must_use]
    pub fn next_cursor(mut self, cursor: Option<Cursor>) -> Self {
        self.1 = NextCursor::Said(cursor);
        self
    }

    /// The feed's head at the first pull.
    #[must_use]
    pub fn baseline(mut self, cursor: Cursor) -> Self {
        self.0.baseline = Some(cursor);
        self
    }

    /// Sets the feed's head at the moment of the read.
    #[must_use]
    pub fn head(mut self, cursor: Cursor) -> Self {
        self.0.head = Some(cursor);
        self
    }

    /// Sets the server's epoch.
    ///
    /// # Panics
    /// It has more than 48 bits.
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
