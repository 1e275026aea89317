//! Operations, pages and states for scripts, in a few words. What is no valid id, name or time
//! panics: it is for tests.
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

use std::sync::Arc;

use serde_json::Value;
use vfs_sync_core::access::{AccessLevel, Principal, PrincipalType};
use vfs_sync_core::client::clock::HybridClock;
use vfs_sync_core::client::state::{
    ContainerClock, GrantRegister, ItemRegister, LinkRegister, QueuedOperation, RejectedOperation,
    ReplicaState,
};
use vfs_sync_core::cursor::{Cursor, Epoch};
use vfs_sync_core::entry::{Change, Entry, EntryBody, ItemView};
use vfs_sync_core::id::{ChangeId, ItemId, OpId, PrincipalId, ReplicaId, UserId, WriteId};
use vfs_sync_core::item::{Metadata, Name, ObjectType};
use vfs_sync_core::operation::{Action, Basis, Operation, Upsert};
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::{PullPage, PushReason, ReconcileState, WriteIds};

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

/// The time so many milliseconds after 1970 began.
#[must_use]
pub fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis).expect("a time")
}

/// A position in a feed.
#[must_use]
pub fn cursor(millis: i64, change_id: &str) -> Cursor {
    Cursor { changed_at: at(millis), change_id: ChangeId::new(change_id).expect("a change id") }
}

/// The last write ids of replicas.
#[must_use]
pub fn write_ids(of: &[(&str, u64)]) -> WriteIds {
    of.iter().map(|(replica, id)| (replica_id(replica), write_id(*id))).collect()
}

/// A user as a grant names them.
#[must_use]
pub fn user(id: &str) -> Principal {
    Principal { kind: PrincipalType::User, id: PrincipalId::new(id).expect("a principal") }
}

/// Begins an operation on the item `item`: the first of the replica `replica`, until it is said
/// otherwise, written when 1970 began. Its id follows from replica and write id.
#[must_use]
pub fn operation(item: &str) -> OperationBuilder {
    OperationBuilder {
        op_id: None,
        item: item_id(item),
        by: ("replica".into(), 1),
        at: at(0),
        basis: None,
    }
}

/// An operation that still needs its change.
#[derive(Debug, Clone)]
pub struct OperationBuilder {
    op_id: Option<OpId>,
    item: ItemId,
    by: (String, u64),
    at: Timestamp,
    basis: Option<Basis>,
}

impl OperationBuilder {
    /// Sets the operation's id.
    #[must_use]
    pub fn op_id(mut self, id: &str) -> Self {
        self.op_id = Some(OpId::new(id).expect("an operation id"));
        self
    }

    /// Sets the author's replica and write id.
    #[must_use]
    pub fn by(mut self, replica: &str, write_id: u64) -> Self {
        self.by = (replica.to_owned(), write_id);
        self
    }

    /// Sets the time of writing, in milliseconds.
    #[must_use]
    pub fn at(mut self, millis: i64) -> Self {
        self.at = at(millis);
        self
    }

    /// Sets the author's basis; an operation without one is an older client's.
    #[must_use]
    pub fn basis(mut self, seen: Option<Cursor>) -> Self {
        self.basis = Some(seen.into());
        self
    }

    /// It sets what `action` says.
    #[must_use]
    pub fn sets(self, action: Action) -> Operation {
        let (replica, id) = self.by;
        let op_id = self
            .op_id
            .unwrap_or_else(|| OpId::new(format!("op-{replica}-{id}")).expect("an operation id"));
        Operation {
            op_id,
            item_id: self.item,
            replica_id: replica_id(&replica),
            write_id: write_id(id),
            occurred_at: self.at,
            basis: self.basis,
            action,
        }
    }

    fn upserts(self, upsert: Upsert) -> Operation {
        self.sets(Action::Upsert(Box::new(upsert)))
    }

    /// It makes the item, under `parent` or as a root.
    #[must_use]
    pub fn create(self, object_type: ObjectType, called: &str, parent: Option<&str>) -> Operation {
        self.upserts(Upsert {
            object_type: Some(object_type),
            name: Some(name(called)),
            parent: parent.map(item_id),
            ..Upsert::default()
        })
    }

    /// It names the item.
    #[must_use]
    pub fn rename(self, to: &str) -> Operation {
        self.upserts(Upsert { name: Some(name(to)), ..Upsert::default() })
    }

    /// It sets a metadata key, or removes it.
    #[must_use]
    pub fn metadata(self, key: &str, value: Option<Value>) -> Operation {
        let metadata = std::iter::once((Arc::from(key), value)).collect();
        self.upserts(Upsert { metadata, ..Upsert::default() })
    }

    /// It deletes the item.
    #[must_use]
    pub fn delete(self) -> Operation {
        self.sets(Action::Delete)
    }

    /// It hangs the item under `parent` too.
    #[must_use]
    pub fn link(self, parent: &str) -> Operation {
        self.sets(Action::LinkAdd { parent: item_id(parent) })
    }

    /// It takes the item from under `parent`.
    #[must_use]
    pub fn unlink(self, parent: &str) -> Operation {
        self.sets(Action::LinkRemove { parent: item_id(parent) })
    }

    /// It moves the item under `parent`.
    #[must_use]
    pub fn move_to(self, parent: &str) -> Operation {
        self.sets(Action::LinkReassign { parent: item_id(parent) })
    }

    /// It grants the item to somebody.
    #[must_use]
    pub fn grant(self, principal: Principal, level: AccessLevel) -> Operation {
        self.sets(Action::GrantAdd { principal, level })
    }

    /// It takes somebody's grant away.
    #[must_use]
    pub fn revoke(self, principal: Principal) -> Operation {
        self.sets(Action::GrantRemove { principal })
    }
}

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

/// Begins the state of a replica that has applied nothing.
#[must_use]
pub fn state(client_id: &str, user: &str) -> StateBuilder {
    StateBuilder(ReplicaState {
        client_id: replica_id(client_id),
        user_id: UserId::new(user).expect("a user id"),
        replay_cursor: None,
        baseline: None,
        head: None,
        write_id_floor: WriteIds::new(),
        reconcile_state: None,
        clock: HybridClock::default(),
        next_local_write_id: 1,
        items: Vec::new(),
        links: Vec::new(),
        grants: Vec::new(),
        attachments: Vec::new(),
        container_clocks: Vec::new(),
        queue: Vec::new(),
        rejected: Vec::new(),
    })
}

/// Builds the exported state of a replica.
#[derive(Debug, Clone)]
pub struct StateBuilder(ReplicaState);

impl StateBuilder {
    /// It has applied what `page` adds: items, links and grants; its cursor is the page's last
    /// item, its write-id floor the page's map.
    #[must_use]
    pub fn page(mut self, page: &PullPage) -> Self {
        let state = &mut self.0;
        for entry in &page.items {
            let authored_at = entry.body.authored_at;
            match &entry.body.change {
                Change::ItemUpsert(item) => {
                    state.items.push(ItemRegister { item: (**item).clone(), authored_at });
                }
                Change::LinkAdd { parent, child } => {
                    let (parent_id, child_id) = (parent.clone(), child.clone());
                    state.links.push(LinkRegister { parent_id, child_id, authored_at });
                }
                Change::GrantAdd { item, principal, level } => {
                    state.grants.push(GrantRegister {
                        item_id: item.clone(),
                        principal: principal.clone(),
                        access_level: *level,
                        authored_at,
                    });
                }
                _ => {}
            }
            state.replay_cursor = Some(entry.position.clone());
        }
        state.write_id_floor.extend(page.last_reconciled_write_ids.clone());
        self.numbered()
    }

    /// Sets the applied cursor.
    #[must_use]
    pub fn cursor(mut self, cursor: Cursor) -> Self {
        self.0.replay_cursor = Some(cursor);
        self
    }

    /// Sets the state of the last settled pull.
    #[must_use]
    pub fn reconciled(mut self, cursor: Cursor, write_ids: WriteIds) -> Self {
        let last_reconciled_write_ids = write_ids;
        self.0.reconcile_state = Some(ReconcileState { cursor, last_reconciled_write_ids });
        self.numbered()
    }

    /// The last change in a container.
    #[must_use]
    pub fn container_clock(mut self, container: &str, clock: Cursor) -> Self {
        let container_id = item_id(container);
        self.0.container_clocks.push(ContainerClock { container_id, clock });
        self
    }

    /// Adds an operation to the queue.
    #[must_use]
    pub fn queued(mut self, operation: Operation) -> Self {
        self.0.queue.push(QueuedOperation { acknowledged: false, operation });
        self.numbered()
    }

    /// An operation was refused.
    #[must_use]
    pub fn rejected(mut self, operation: Operation, reason: PushReason) -> Self {
        let reason = Some(reason);
        self.0.rejected.push(RejectedOperation { operation, reason, detail: None });
        self.numbered()
    }

    /// The next write id is above all that were used.
    fn numbered(mut self) -> Self {
        let state = &mut self.0;
        let queued = state.queue.iter().map(|one| &one.operation);
        let rejected = state.rejected.iter().map(|one| &one.operation);
        let told = state.reconcile_state.as_ref().map(|told| &told.last_reconciled_write_ids);
        let maps = [Some(&state.write_id_floor), told];
        let known = maps.into_iter().flatten().filter_map(|map| map.get(&state.client_id).copied());
        let used = queued.chain(rejected).map(|operation| operation.write_id).chain(known);
        state.next_local_write_id = used.map(WriteId::get).max().unwrap_or(0) + 1;
        self
    }

    /// Returns the finished state.
    #[must_use]
    pub fn build(self) -> ReplicaState {
        self.0
    }

    /// Its export, as `SyncClient::hydrate_state` takes it.
    #[must_use]
    pub fn json(&self) -> String {
        let mut bytes = Vec::new();
        self.0.write(&mut bytes, false).expect("memory takes it");
        String::from_utf8(bytes).expect("JSON")
    }
}
