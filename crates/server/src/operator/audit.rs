//! The audit log: what operators and users decided, with pseudonyms for users.
//!
//! Its lines have the target `audit`, so that a log filter can keep them apart.

use vfs_sync_core::id::UserId;

use crate::state::App;

/// Logs that `by` did `event` to `of`, or to something of `of`'s that `what` names by an id.
pub(crate) fn note(app: &App, by: &UserId, event: &'static str, of: &UserId, what: &str) {
    let (by, of) = (app.pseudonyms.of(by), app.pseudonyms.of(of));
    tracing::info!(target: "audit", event, by, of, what);
}
