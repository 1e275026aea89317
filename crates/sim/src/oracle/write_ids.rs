//! Checks that a client respects the write ids that it has learnt: it assigns none of them to
//! another operation. A client that forgets one is rejected each time, and learns it from the
//! server.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use vfs_sync_core::id::OpId;
use vfs_sync_core::wire::{PushRequest, PushResponse, PushStatus};

use super::transactions::show;
use crate::actor::malicious_client;
use crate::oracle::failure::FailureKind;
use crate::oracle::ledger::Ledger;

/// The write ids that the client of one device has learnt.
#[derive(Default)]
pub(crate) struct Numbers(Mutex<Told>);

#[derive(Default)]
struct Told {
    /// The greatest used write id that the present client knows.
    last: u64,
    /// The operations that were sent: each may be sent again unchanged, if a server has lost it.
    sent: BTreeSet<OpId>,
}

impl Numbers {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that the device has another client, or one that may have lost its knowledge.
    pub(crate) fn forget(&self) {
        self.told().last = 0;
    }

    pub(crate) fn sent(&self, ledger: &Ledger, request: &PushRequest) {
        if malicious_client::is_one(&request.client_id) {
            return;
        }
        let mut told = self.told();
        for op in &request.operations {
            let new = told.sent.insert(op.op_id.clone());
            // After a disk failure, the client may no longer know ids that were not durable.
            if new && op.write_id.get() <= told.last && !ledger.book().on_disks {
                let (client, last) = (&request.client_id, told.last);
                let message = format!("{client} sends {}, knowing that {last} is used", show(op));
                ledger.fail(FailureKind::Session, message);
            }
        }
    }

    pub(crate) fn answered(&self, request: &PushRequest, answer: &PushResponse) {
        let fits = request.operations.len() == answer.results.len();
        if !fits || malicious_client::is_one(&request.client_id) {
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
