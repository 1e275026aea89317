//! Reconcile: reports the applied state to the server and checks the acknowledgement.

use crate::guardrail::{Stage, Violation};
use crate::id::ReplicaId;
use crate::wire::{ReconcileRequest, ReconcileResponse, ReconcileState};

/// Builds the request that acknowledges `state`.
#[must_use]
pub fn request(client_id: ReplicaId, state: &ReconcileState) -> ReconcileRequest {
    ReconcileRequest {
        client_id,
        cursor: state.cursor.clone(),
        last_reconciled_write_ids: state.last_reconciled_write_ids.clone(),
    }
}

/// Checks that the acknowledgement is not behind the request. A replica that the server no longer
/// names is not behind.
///
/// The acknowledged state may be ahead, if another copy of this client reported more; the client
/// never pulls from it.
///
/// # Errors
/// The rule that the answer breaks.
pub fn check(sent: &ReconcileRequest, answer: &ReconcileResponse) -> Result<(), Violation> {
    if answer.cursor < sent.cursor {
        return Err(Violation::ReconcileCursorRegression {
            previous: sent.cursor.clone(),
            incoming: answer.cursor.clone(),
        });
    }
    for (replica_id, &previous) in &sent.last_reconciled_write_ids {
        if let Some(&incoming) = answer.last_reconciled_write_ids.get(replica_id)
            && incoming < previous
        {
            return Err(Violation::LastWriteIdRegression {
                stage: Stage::Reconcile,
                replica_id: replica_id.clone(),
                previous,
                incoming,
            });
        }
    }
    Ok(())
}
