//! Silent faults that no client and no server can notice. They verify the checkers, each of which
//! must find one.

use vfs_sync_core::wire::{PullPage, PushRequest, PushResponse, PushResult, PushStatus};
use vfs_sync_store::{MetadataStore, MetadataUsage, StoreError};

/// A fault that nothing reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// Some pushes are answered as applied, and discarded.
    LostPush,
    /// Some pages lack an entry.
    LostEntry,
    /// The object store keeps none of the bytes that it accepts.
    LostBytes,
    /// All answers to a device are lost.
    Silence,
    /// A sum that counts against a user's quota is one too high.
    WrongSum,
}

/// Raises the number of items of each user by one.
pub(crate) async fn raise_sums(store: &dyn MetadataStore) -> Result<(), StoreError> {
    for user in store.known_users(None, u32::MAX).await? {
        let (counts, _) = store.count_held(&user, None, 1).await?;
        let raised = MetadataUsage { items: counts.stored.items + 1, ..counts.stored };
        store.repair_held(user, counts.stored, raised).await?;
    }
    Ok(())
}

pub(crate) fn push_thrown_away(request: &PushRequest) -> PushResponse {
    let applied = |op: &vfs_sync_core::operation::Operation| PushResult {
        op_id: Some(op.op_id.clone()),
        status: PushStatus::Applied,
        reason: None,
        detail: None,
        authored_at: Some(op.occurred_at),
        last_write_id: None,
    };
    let results = request.operations.iter().map(applied).collect();
    PushResponse { client_id: request.client_id.clone(), results, epoch: None }
}

/// Returns a page without its first entry, if it has others.
pub(crate) fn without_an_entry(mut page: PullPage) -> PullPage {
    if page.items.len() > 1 {
        page.items.remove(0);
    }
    page
}
