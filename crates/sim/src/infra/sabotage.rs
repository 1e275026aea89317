//! Silent breakage that no client and no server can notice: what the checkers are there for. With
//! it each of them is shown to find something.

use vfs_sync_core::wire::{PullPage, PushRequest, PushResponse, PushResult, PushStatus};

/// Something that breaks, without a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// Some pushes are answered as applied, and thrown away.
    LostPush,
    /// Some pages lack an entry.
    LostEntry,
    /// The object store keeps nothing of what it takes.
    LostBytes,
    /// Answers stay away for good.
    Silence,
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

/// A page without its first entry, if it has others.
pub(crate) fn without_an_entry(mut page: PullPage) -> PullPage {
    if page.items.len() > 1 {
        page.items.remove(0);
    }
    page
}
