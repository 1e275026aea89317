//! Checks that no server ever stores data of one user under another, and that no replica receives
//! data of another user, with any token.

use vfs_sync_core::id::{ReplicaId, UserId};
use vfs_sync_core::operation::Operation;

use crate::oracle::coverage::Kind;
use crate::oracle::failure::FailureKind;
use crate::oracle::ledger::Ledger;

/// Checks an answered request of a replica, which was sent with a token of `token`.
pub(crate) fn answered(
    ledger: &Ledger,
    replica: Option<&UserId>,
    token: Option<&UserId>,
    call: &'static str,
    status: u16,
) {
    let (Some(replica), Some(token)) = (replica, token) else { return };
    if replica == token {
        return;
    }
    ledger.count(Kind::Check, "nothing goes to another user");
    if (200..300).contains(&status) {
        let message = format!("{call} of a replica of {replica} was served for {token}");
        ledger.fail(FailureKind::Secrecy, message);
    }
}

/// Checks that operations pushed under `user` come from that user's replicas.
pub(crate) fn pushed(
    ledger: &Ledger,
    user: &UserId,
    replica: &ReplicaId,
    operations: &[Operation],
) {
    let mut book = ledger.book();
    let owner = book.replicas.get(replica).filter(|owner| *owner != user).cloned();
    if let Some(owner) = owner {
        let count = operations.len();
        let message = format!("{count} operations of {owner}'s {replica} came under {user}");
        book.fail(FailureKind::Secrecy, message);
    }
}
