//! Collecting guardrail violations, and asserting what they are.

use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use vfs_sync_client::{Observer, Violation};
use vfs_sync_core::cursor::Cursor;
use vfs_sync_core::guardrail::Stage;
use vfs_sync_core::id::{ChangeId, ReplicaId, WriteId};

/// Records violations in the order in which they are emitted. Give it to `SyncClient::observe`.
#[derive(Debug, Default)]
pub struct ViolationCollector(Mutex<Vec<Violation>>);

impl ViolationCollector {
    fn all(&self) -> MutexGuard<'_, Vec<Violation>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was recorded so far.
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        self.all().clone()
    }

    /// Forgets what was recorded; gives it.
    pub fn take(&self) -> Vec<Violation> {
        std::mem::take(&mut self.all())
    }
}

impl Observer for ViolationCollector {
    fn violation(&self, violation: &Violation) {
        self.all().push(violation.clone());
    }
}

fn show(violation: &Violation) -> String {
    let details = serde_json::Value::Object(violation.details());
    format!("{} \"{}\" {details}", violation.signature(), violation.message())
}

#[track_caller]
fn expect(violations: &[Violation], expected: &Violation) {
    if violations.contains(expected) {
        return;
    }
    let mut message = format!("expected {}\ngot", show(expected));
    if violations.is_empty() {
        message.push_str(" no violation");
    }
    for violation in violations {
        let _ = write!(message, "\n  {}", show(violation));
    }
    fail(&message);
}

#[track_caller]
#[allow(clippy::panic)]
fn fail(message: &str) -> ! {
    panic!("{message}")
}

/// Expects that a page had `hasMore` and no items.
#[track_caller]
pub fn expect_pull_page_invariant_violation(
    violations: &[Violation],
    has_more: bool,
    items_length: usize,
) {
    let found = violations.iter().any(|violation| {
        let details = violation.details();
        violation.signature() == "pull:pullPageInvariantViolation"
            && details.get("hasMore") == Some(&has_more.into())
            && details.get("itemsLength") == Some(&items_length.into())
    });
    if !found {
        let got: Vec<String> = violations.iter().map(show).collect();
        fail(&format!(
            "expected pull:pullPageInvariantViolation with hasMore={has_more} and \
             itemsLength={items_length}\ngot {got:#?}"
        ));
    }
}

/// Expects that a page replayed `op_id`.
#[track_caller]
pub fn expect_pull_duplicate_op_replay_violation(violations: &[Violation], op_id: &ChangeId) {
    expect(violations, &Violation::DuplicateOpReplay { op_id: op_id.clone() });
}

/// Expects that a page went back from `previous` to `incoming`.
#[track_caller]
pub fn expect_pull_cursor_regression_violation(
    violations: &[Violation],
    previous: &Cursor,
    incoming: &Cursor,
) {
    let (previous, incoming) = (previous.clone(), incoming.clone());
    expect(violations, &Violation::PullCursorRegression { previous, incoming });
}

/// Expects that the server could not serve `requested`.
#[track_caller]
pub fn expect_pull_rematerialization_required_violation(
    violations: &[Violation],
    requested: Option<&Cursor>,
    oldest_available: Option<&Cursor>,
) {
    let (requested, oldest_available) = (requested.cloned(), oldest_available.cloned());
    expect(violations, &Violation::RematerializationRequired { requested, oldest_available });
}

/// Expects that a reconcile acknowledged `incoming` for `previous`.
#[track_caller]
pub fn expect_reconcile_cursor_regression_violation(
    violations: &[Violation],
    previous: &Cursor,
    incoming: &Cursor,
) {
    let (previous, incoming) = (previous.clone(), incoming.clone());
    expect(violations, &Violation::ReconcileCursorRegression { previous, incoming });
}

/// Expects that a pull or a reconcile, as `stage` says, told a lower write id of `replica_id`.
#[track_caller]
pub fn expect_last_write_id_regression_violation(
    violations: &[Violation],
    stage: Stage,
    replica_id: &ReplicaId,
    previous: WriteId,
    incoming: WriteId,
) {
    let replica_id = replica_id.clone();
    expect(violations, &Violation::LastWriteIdRegression { stage, replica_id, previous, incoming });
}

/// Expects that `stale_results` write ids were stale after `attempts` recoveries.
#[track_caller]
pub fn expect_stale_write_recovery_exhausted_violation(
    violations: &[Violation],
    attempts: u32,
    max_attempts: u32,
    stale_results: usize,
) {
    expect(
        violations,
        &Violation::StaleWriteRecoveryExhausted { attempts, max_attempts, stale_results },
    );
}

/// Expects that a state was refused, with a message that contains `message`.
#[track_caller]
pub fn expect_hydrate_guardrail_violation(violations: &[Violation], message: &str) {
    let found = violations.iter().any(|violation| {
        violation.signature() == "hydrate:hydrateGuardrailViolation"
            && violation.message().contains(message)
    });
    if !found {
        let got: Vec<String> = violations.iter().map(show).collect();
        fail(&format!(
            "expected hydrate:hydrateGuardrailViolation with {message:?} in it\ngot {got:#?}"
        ));
    }
}

/// Expects that a violation with this `stage:code` is there.
#[track_caller]
pub fn expect_guardrail_signature(violations: &[Violation], signature: &str) {
    let got: Vec<String> = violations.iter().map(Violation::signature).collect();
    if !got.iter().any(|one| one == signature) {
        fail(&format!("expected {signature} to be there\ngot {got:?}"));
    }
}

/// Expects exactly these signatures, in this order.
#[track_caller]
pub fn expect_exact_guardrail_signatures(violations: &[Violation], signatures: &[&str]) {
    let got: Vec<String> = violations.iter().map(Violation::signature).collect();
    if got != signatures {
        fail(&format!("expected exactly {signatures:?}\ngot {got:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "expected exactly [\"pull:lastWriteIdRegression\"]")]
    fn a_failed_expectation_shows_what_was_expected() {
        let violations = [Violation::EmptyPageWithMore];
        expect_pull_page_invariant_violation(&violations, true, 0);
        expect_guardrail_signature(&violations, "pull:pullPageInvariantViolation");
        expect_exact_guardrail_signatures(&violations, &["pull:lastWriteIdRegression"]);
    }
}
