//! The exported state of a replica.

use vfs_sync_core::client::clock::HybridClock;
use vfs_sync_core::client::state::{
    ContainerClock, GrantRegister, ItemRegister, LinkRegister, QueuedOperation, RejectedOperation,
    ReplicaState,
};
use vfs_sync_core::cursor::Cursor;
use vfs_sync_core::entry::Change;
use vfs_sync_core::id::{UserId, WriteId};
use vfs_sync_core::operation::Operation;
use vfs_sync_core::wire::{PullPage, PushReason, ReconcileState, WriteIds};

use super::{item_id, replica_id};

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
    /// Applies the additions of `page`: items, links and grants. The cursor becomes the page's last
    /// item, the write-id floor the page's map.
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

    /// Sets the last change in a container.
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

    /// Adds an operation to the rejected ones.
    #[must_use]
    pub fn rejected(mut self, operation: Operation, reason: PushReason) -> Self {
        let reason = Some(reason);
        self.0.rejected.push(RejectedOperation { operation, reason, detail: None });
        self.numbered()
    }

    /// Sets the next write id above all used ones.
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

    /// Returns the exported form, as `SyncClient::hydrate_state` takes it.
    #[must_use]
    pub fn json(&self) -> String {
        let mut bytes = Vec::new();
        self.0.write(&mut bytes, false).expect("memory takes it");
        String::from_utf8(bytes).expect("JSON")
    }
}
