//! Short builders of operations, pages and states for tests. An invalid id, name or time panics.
//!
//! ```
//! use vfs_sync_testkit::build::{self, cursor};
//! use vfs_sync_testkit::core::id::ItemId;
//!
//! let page = build::page()
//!     .entry(10, "a", build::folder("photos"))
//!     .entry(20, "b", build::file("sea"))
//!     .entry(30, "c", build::link("photos", "sea"))
//!     .write_id("laptop", 7)
//!     .more()
//!     .build();
//! assert_eq!(page.next_cursor, Some(cursor(30, "c")));
//!
//! let rename = build::operation("sea").by("laptop", 8).at(40).rename("sky.jpg");
//! let state = build::state("laptop", "alice").page(&page).queued(rename).build();
//! assert_eq!(state.items.len(), 2);
//! assert_eq!(state.next_local_write_id, 9);
//! ```

mod feed;
mod operation;
mod state;

use vfs_sync_core::access::{Principal, PrincipalType};
use vfs_sync_core::cursor::Cursor;
use vfs_sync_core::id::{ChangeId, ItemId, PrincipalId, ReplicaId, WriteId};
use vfs_sync_core::item::Name;
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::WriteIds;

pub use feed::{PageBuilder, deleted, entry, file, folder, grant, item, link, page, unlink};
pub use operation::{OperationBuilder, operation};
pub use state::{StateBuilder, state};

fn item_id(id: &str) -> ItemId {
    ItemId::new(id).expect("an item id")
}

fn replica_id(id: &str) -> ReplicaId {
    ReplicaId::new(id).expect("a replica id")
}

fn write_id(id: u64) -> WriteId {
    WriteId::new(id).expect("a write id")
}

fn name(name: &str) -> Name {
    Name::new(name).expect("a name")
}

/// Returns the time `millis` after the start of 1970.
#[must_use]
pub fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis).expect("a time")
}

/// Creates a position in a feed.
#[must_use]
pub fn cursor(millis: i64, change_id: &str) -> Cursor {
    Cursor { changed_at: at(millis), change_id: ChangeId::new(change_id).expect("a change id") }
}

/// Creates a map of the last write ids of replicas.
#[must_use]
pub fn write_ids(of: &[(&str, u64)]) -> WriteIds {
    of.iter().map(|(replica, id)| (replica_id(replica), write_id(*id))).collect()
}

/// Returns a user as a principal for grants.
#[must_use]
pub fn user(id: &str) -> Principal {
    Principal { kind: PrincipalType::User, id: PrincipalId::new(id).expect("a principal") }
}
