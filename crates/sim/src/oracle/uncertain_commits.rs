//! Transactions that failed with the disk: the commit may or may not have become durable before.
//! Once the database is open again, its state must be that before or that after the transaction;
//! the model records which.

use std::collections::BTreeMap;

use vfs_sync_core::access::Principal;
use vfs_sync_core::id::{ReplicaId, StagingId, UserId};
use vfs_sync_core::operation::Operation;
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::{AttachRequest, ReconcileRequest, ReconcileState, StageStatus};
use vfs_sync_store::StoreError;

use super::transactions;
use crate::infra::power::Doubt;
use crate::infra::store::at_once;
use crate::oracle::failure::FailureKind;
use crate::oracle::ledger::Ledger;

/// Runs a call on a healthy database, which answers immediately.
fn look<T>(ledger: &Ledger, look: impl Future<Output = Result<T, StoreError>>) -> Option<T> {
    match at_once(look) {
        Ok(found) => Some(found),
        Err(error) => {
            ledger.fail(FailureKind::Lost, format!("after the power failed: {error}"));
            None
        }
    }
}

fn neither(ledger: &Ledger, what: &str, found: &dyn std::fmt::Debug) {
    let message = format!("{what} that failed with the disk is there in part: {found:?}");
    ledger.fail(FailureKind::Lost, message);
}

pub(crate) fn push(
    user: UserId,
    replica: ReplicaId,
    operations: Vec<Operation>,
    now: Timestamp,
    last_changed: BTreeMap<UserId, Timestamp>,
) -> Doubt {
    Box::new(move |store, ledger| {
        let Some(state) = look(ledger, store.state(&user, &replica)) else { return };
        let found = state.last_write_ids.get(&replica).map(|id| id.get());
        let mut after = ledger.book().model.clone();
        if found == after.last_write_id(&user, &replica) {
            return;
        }
        let last = |owner: &UserId| last_changed.get(owner).copied();
        after.push(&user, &replica, &operations, now, &last, |_, _| {});
        if found != after.last_write_id(&user, &replica) {
            return neither(ledger, "a push", &found);
        }
        let mut book = ledger.book();
        book.note(|| format!("the push of {replica} that failed with the disk is there"));
        book.model = after;
        book.commits += 1;
    })
}

pub(crate) fn reconcile(user: UserId, request: ReconcileRequest) -> Doubt {
    Box::new(move |store, ledger| {
        let client = &request.client_id;
        let Some(state) = look(ledger, store.state(&user, client)) else { return };
        let before = ledger.book().model.reconciled(&user, client).cloned();
        if state.reconcile_state == before {
            return;
        }
        let sent = ReconcileState {
            cursor: request.cursor.clone(),
            last_reconciled_write_ids: transactions::known_write_ids(
                &ledger.book(),
                &user,
                &request,
            ),
        };
        let merged = transactions::merge(before, sent);
        if state.reconcile_state.as_ref() != Some(&merged) {
            return neither(ledger, "a reconcile", &state.reconcile_state);
        }
        ledger.book().model.reconcile(&user, client, merged);
    })
}

/// Resolves the doubt about opening, uploading or abandoning a stage by reading the stage.
pub(crate) fn stage(user: UserId, staging_id: StagingId) -> Doubt {
    Box::new(move |store, ledger| {
        let Some(found) = look(ledger, store.stage(&user, &staging_id)) else { return };
        let Some(row) = found else { return };
        let opened = (&row.staging_id, &row.blob_id, row.expires_at);
        ledger.book().model.stage_opened(&user, opened.0, opened.1, opened.2);
        transactions::recorded(ledger, &row);
        if row.status == StageStatus::Abandoned {
            ledger.book().model.stage_abandoned(&staging_id);
        }
    })
}

pub(crate) fn attach(
    user: UserId,
    staging_id: StagingId,
    request: AttachRequest,
    now: Timestamp,
    believed: Timestamp,
) -> Doubt {
    Box::new(move |store, ledger| {
        let Some(found) = look(ledger, store.stage(&user, &staging_id)) else { return };
        let attached = found.is_some_and(|row| row.status == StageStatus::Attached);
        let mut book = ledger.book();
        if !attached || book.model.is_stage_attached(&staging_id) {
            return;
        }
        let expected = book.model.attach(&user, &staging_id, &request, now, believed);
        book.commits += 1;
        drop(book);
        if expected != Ok(true) {
            neither(ledger, "an attach", &expected);
        }
    })
}

pub(crate) fn block(user: UserId, owner: UserId, blocked: bool) -> Doubt {
    Box::new(move |store, ledger| {
        let Some(owners) = look(ledger, store.blocked_by(&user)) else { return };
        if owners.contains(&owner) == blocked {
            ledger.book().model.set_block(&user, &owner, blocked);
        }
    })
}

pub(crate) fn member(group: Principal, member: UserId, present: bool) -> Doubt {
    Box::new(move |store, ledger| {
        let Some(groups) = look(ledger, store.groups_of(&member)) else { return };
        if groups.contains(&group) == present {
            ledger.book().model.set_member(&group, &member, present);
        }
    })
}
