//! What a client was told of its own write ids it goes by: a number that it knows to be used it gives
//! to nothing else. One that forgets it asks in vain each time, and hears of it from the server.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use vfs_sync_core::id::OpId;
use vfs_sync_core::wire::{PushRequest, PushResponse, PushStatus};

use super::answers::show;
use crate::failure::FailureKind;
use crate::ledger::Ledger;
use crate::rogue;

/// What the client of one device was told of its write ids.
#[derive(Default)]
pub(crate) struct Numbers(Mutex<Told>);

#[derive(Default)]
struct Told {
    /// The greatest that is used, as the client that is there was told.
    last: u64,
    /// What was ever sent: it may be sent again as it was, when a server has lost it.
    sent: BTreeSet<OpId>,
}

impl Numbers {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another client is there, or one that may not have kept what it was told.
    pub(crate) fn forget(&self) {
        self.told().last = 0;
    }

    pub(crate) fn sent(&self, ledger: &Ledger, request: &PushRequest) {
        if rogue::is_one(&request.client_id) {
            return;
        }
        let mut told = self.told();
        for op in &request.operations {
            let new = told.sent.insert(op.op_id.clone());
            // What a disk that failed has not kept is not known any more.
            if new && op.write_id.get() <= told.last && !ledger.book().on_disks {
                let (client, last) = (&request.client_id, told.last);
                let message = format!("{client} sends {}, knowing that {last} is used", show(op));
                ledger.fail(FailureKind::Session, message);
            }
        }
    }

    pub(crate) fn answered(&self, request: &PushRequest, answer: &PushResponse) {
        let fits = request.operations.len() == answer.results.len();
        if !fits || rogue::is_one(&request.client_id) {
            return;
        }
        let mut told = self.told();
        for (op, result) in request.operations.iter().zip(&answer.results) {
            use PushStatus::{AlreadyApplied, Applied, OutdatedOp};
            // An answer to something else is taken by nobody.
            if result.op_id.as_ref() != Some(&op.op_id) {
                return;
            }
            if matches!(result.status, Applied | AlreadyApplied | OutdatedOp) {
                told.last = told.last.max(op.write_id.get());
            }
        }
    }
}
