//! Collects guardrail violations, and asserts their properties.

use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value, json};
use vfs_sync_client::{Observer, Violation};
use vfs_sync_core::cursor::Cursor;
use vfs_sync_core::guardrail::Stage;
use vfs_sync_core::id::{ChangeId, ReplicaId, WriteId};

/// A record of violations in the order in which they are emitted. Pass it to `SyncClient::observe`.
#[derive(Debug, Default)]
pub struct ViolationCollector(Mutex<Vec<Violation>>);

impl ViolationCollector {
    fn all(&self) -> MutexGuard<'_, Vec<Violation>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the violations recorded so far.
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        self.all().clone()
    }

    /// Removes and returns the recorded violations.
    pub fn take(&self) -> Vec<Violation> {
        std::mem::take(&mut self.all())
    }
}

impl Observer for ViolationCollector {
    fn violation(&self, violation: &Violation) {
        self.all().push(violation.clone());
    }
}

/// The properties that one of the violations must have: a signature, and at least these details.
struct Expected<'a> {
    signature: String,
    details: Value,
    /// A part of the message.
    message: Option<&'a str>,
}

impl<'a> Expected<'a> {
    fn new(signature: impl Into<String>, details: Value) -> Self {
        Self { signature: signature.into(), details, message: None }
    }

    fn is(&self, violation: &Violation) -> bool {
        let got = violation.details();
        let expected = self.details.as_object();
        violation.signature() == self.signature
            && expected.into_iter().flatten().all(|(name, value)| got.get(name) == Some(value))
            && self.message.is_none_or(|part| violation.message().contains(part))
    }

    #[track_caller]
    fn among(&self, violations: &[Violation]) {
        if violations.iter().any(|violation| self.is(violation)) {
            return;
        }
        let mut text = format!("expected {}", self.signature);
        if self.details.as_object().is_some_and(|details| !details.is_empty()) {
            let _ = write!(text, " with {}", self.details);
        }
        if let Some(part) = self.message {
            let _ = write!(text, " whose message has {part:?} in it");
        }
        fail(&text, violations);
    }
}

#[track_caller]
#[allow(clippy::panic)]
fn fail(expected: &str, violations: &[Violation]) -> ! {
    let mut text = format!("{expected}\ngot");
    if violations.is_empty() {
        text.push_str(" no violation");
    }
    for violation in violations {
        let details = Value::Object(violation.details());
        let (signature, message) = (violation.signature(), violation.message());
        let _ = write!(text, "\n  {signature} {message:?} with {details}");
    }
    panic!("{text}")
}

/// The four details about a cursor that regressed or does not match.
fn cursors(names: [&str; 2], cursors: [Option<&Cursor>; 2]) -> Value {
    let mut details = Map::new();
    for (name, cursor) in names.into_iter().zip(cursors) {
        details.insert(format!("{name}ChangedAt"), json!(cursor.map(|cursor| cursor.changed_at)));
        details.insert(format!("{name}ChangeId"), json!(cursor.map(|cursor| &cursor.change_id)));
    }
    Value::Object(details)
}

/// Expects that a page had `has_more` and `items_length` items: `true` and 0.
#[track_caller]
pub fn expect_pull_page_invariant_violation(
    violations: &[Violation],
    has_more: bool,
    items_length: usize,
) {
    let details = json!({"hasMore": has_more, "itemsLength": items_length});
    Expected::new("pull:pullPageInvariantViolation", details).among(violations);
}

/// Expects that a page replayed `op_id`.
#[track_caller]
pub fn expect_pull_duplicate_op_replay_violation(violations: &[Violation], op_id: &ChangeId) {
    Expected::new("pull:pullDuplicateOpReplay", json!({"opId": op_id})).among(violations);
}

/// Expects that a page regressed from `previous` to `incoming`.
#[track_caller]
pub fn expect_pull_cursor_regression_violation(
    violations: &[Violation],
    previous: &Cursor,
    incoming: &Cursor,
) {
    let details = cursors(["previous", "incoming"], [Some(previous), Some(incoming)]);
    Expected::new("pull:pullCursorRegression", details).among(violations);
}

/// Expects that the server could not serve `requested`.
#[track_caller]
pub fn expect_pull_rematerialization_required_violation(
    violations: &[Violation],
    requested: Option<&Cursor>,
    oldest_available: Option<&Cursor>,
) {
    let details = cursors(["requested", "oldestAvailable"], [requested, oldest_available]);
    Expected::new("pull:pullRematerializationRequired", details).among(violations);
}

/// Expects that a reconcile acknowledged `incoming` for `previous`.
#[track_caller]
pub fn expect_reconcile_cursor_regression_violation(
    violations: &[Violation],
    previous: &Cursor,
    incoming: &Cursor,
) {
    let details = cursors(["previous", "incoming"], [Some(previous), Some(incoming)]);
    Expected::new("reconcile:reconcileCursorRegression", details).among(violations);
}

/// Expects that a pull or a reconcile, as `stage` says, returned a lower write id of `replica_id`.
#[track_caller]
pub fn expect_last_write_id_regression_violation(
    violations: &[Violation],
    stage: Stage,
    replica_id: &ReplicaId,
    previous: WriteId,
    incoming: WriteId,
) {
    let details = json!({
        "replicaId": replica_id, "previousWriteId": previous, "incomingWriteId": incoming,
    });
    let signature = format!("{}:lastWriteIdRegression", stage.as_str());
    Expected::new(signature, details).among(violations);
}

/// Expects that write ids were still stale after `attempts` recoveries.
#[track_caller]
pub fn expect_stale_write_recovery_exhausted_violation(
    violations: &[Violation],
    attempts: u32,
    max_attempts: u32,
) {
    let details = json!({"attempts": attempts, "maxAttempts": max_attempts});
    Expected::new("flush:staleWriteRecoveryExhausted", details).among(violations);
}

/// Expects that a state was rejected; with a `message_pattern`, for a reason that contains it.
#[track_caller]
pub fn expect_hydrate_guardrail_violation<'a>(
    violations: &[Violation],
    message_pattern: impl Into<Option<&'a str>>,
) {
    let expected = Expected::new("hydrate:hydrateGuardrailViolation", json!({}));
    Expected { message: message_pattern.into(), ..expected }.among(violations);
}

/// Expects a violation with this `stage:code`, perhaps among others.
#[track_caller]
pub fn expect_guardrail_signature(violations: &[Violation], signature: &str) {
    Expected::new(signature, json!({})).among(violations);
}

/// Expects exactly these signatures, in this order.
#[track_caller]
pub fn expect_exact_guardrail_signatures(violations: &[Violation], signatures: &[&str]) {
    let got: Vec<String> = violations.iter().map(Violation::signature).collect();
    if got != signatures {
        fail(&format!("expected exactly {signatures:?}"), violations);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::cursor;

    /// Returns the message of an expectation that is not met.
    fn said(expect: impl FnOnce() + std::panic::UnwindSafe) -> String {
        *std::panic::catch_unwind(expect).unwrap_err().downcast::<String>().unwrap()
    }

    fn replica() -> ReplicaId {
        ReplicaId::new("phone").unwrap()
    }

    fn write_id(id: u64) -> WriteId {
        WriteId::new(id).unwrap()
    }

    /// Returns one violation of each kind, in the order of the table.
    fn each() -> Vec<Violation> {
        let (previous, incoming) = (cursor(20, "b"), cursor(10, "a"));
        let regression = |stage| Violation::LastWriteIdRegression {
            stage,
            replica_id: replica(),
            previous: write_id(5),
            incoming: write_id(4),
        };
        vec![
            regression(Stage::Pull),
            Violation::EmptyPageWithMore,
            Violation::DuplicateOpReplay { op_id: ChangeId::new("b").unwrap() },
            Violation::PullCursorRegression {
                previous: previous.clone(),
                incoming: incoming.clone(),
            },
            Violation::RematerializationRequired {
                requested: Some(previous.clone()),
                oldest_available: None,
            },
            Violation::ReconcileCursorRegression { previous, incoming },
            regression(Stage::Reconcile),
            Violation::StaleWriteRecoveryExhausted {
                attempts: 2,
                max_attempts: 2,
                stale_results: 7,
            },
            Violation::Hydrate {
                field: "queue".into(),
                index: Some(3),
                reason: "is not in order".into(),
            },
        ]
    }

    type Check = fn(&[Violation]);
    type CheckWith<'a> = &'a (dyn Fn(&[Violation]) + std::panic::RefUnwindSafe);

    /// For each violation of [`each`], the expectation that only it meets.
    const MET: [Check; 9] = [
        |all| {
            expect_last_write_id_regression_violation(
                all,
                Stage::Pull,
                &replica(),
                write_id(5),
                write_id(4),
            );
        },
        |all| expect_pull_page_invariant_violation(all, true, 0),
        |all| expect_pull_duplicate_op_replay_violation(all, &ChangeId::new("b").unwrap()),
        |all| expect_pull_cursor_regression_violation(all, &cursor(20, "b"), &cursor(10, "a")),
        |all| {
            let requested = cursor(20, "b");
            expect_pull_rematerialization_required_violation(all, Some(&requested), None);
        },
        |all| expect_reconcile_cursor_regression_violation(all, &cursor(20, "b"), &cursor(10, "a")),
        |all| {
            expect_last_write_id_regression_violation(
                all,
                Stage::Reconcile,
                &replica(),
                write_id(5),
                write_id(4),
            );
        },
        |all| expect_stale_write_recovery_exhausted_violation(all, 2, 2),
        |all| expect_hydrate_guardrail_violation(all, "is not in order"),
    ];

    #[test]
    fn each_expectation_is_met_by_its_violation_and_by_no_other() {
        for (at, met) in MET.iter().enumerate() {
            met(&each());
            let others: Vec<Violation> =
                each().into_iter().enumerate().filter(|(i, _)| *i != at).map(|(_, v)| v).collect();
            let said = said(|| met(&others));
            let signature = each()[at].signature();
            assert!(said.starts_with(&format!("expected {signature}")), "{said}");
            assert_eq!(said.lines().count(), 2 + others.len(), "{said}");
        }
    }

    #[test]
    fn each_detail_counts() {
        let (b, a, id) = (cursor(20, "b"), cursor(10, "a"), ChangeId::new("x").unwrap());
        let phone = replica();
        let unmet: [CheckWith<'_>; 15] = [
            &|all| expect_pull_page_invariant_violation(all, false, 0),
            &|all| expect_pull_page_invariant_violation(all, true, 1),
            &|all| expect_pull_duplicate_op_replay_violation(all, &id),
            &|all| expect_pull_cursor_regression_violation(all, &b, &b),
            &|all| expect_pull_cursor_regression_violation(all, &a, &a),
            &|all| expect_pull_rematerialization_required_violation(all, None, None),
            &|all| expect_pull_rematerialization_required_violation(all, Some(&b), Some(&a)),
            &|all| expect_reconcile_cursor_regression_violation(all, &b, &b),
            &|all| expect_reconcile_cursor_regression_violation(all, &a, &a),
            &|all| {
                let (stage, id) = (Stage::Flush, write_id);
                expect_last_write_id_regression_violation(all, stage, &phone, id(5), id(4));
            },
            &|all| {
                let (stage, id) = (Stage::Pull, write_id);
                expect_last_write_id_regression_violation(all, stage, &phone, id(6), id(4));
            },
            &|all| {
                let (stage, id) = (Stage::Pull, write_id);
                expect_last_write_id_regression_violation(all, stage, &phone, id(5), id(3));
            },
            &|all| expect_stale_write_recovery_exhausted_violation(all, 1, 2),
            &|all| expect_stale_write_recovery_exhausted_violation(all, 2, 3),
            &|all| expect_hydrate_guardrail_violation(all, "is in order"),
        ];
        for expect in unmet {
            said(|| expect(&each()));
        }
        expect_hydrate_guardrail_violation(&each(), None);
    }

    #[test]
    fn a_failed_expectation_shows_what_was_expected_and_what_came() {
        let violations = [Violation::EmptyPageWithMore];
        let expected = "expected pull:pullDuplicateOpReplay with {\"opId\":\"b\"}\ngot\n  \
                        pull:pullPageInvariantViolation \"transport returned hasMore=true with an \
                        empty pull page\" with {\"hasMore\":true,\"itemsLength\":0}";
        let op_id = ChangeId::new("b").unwrap();
        assert_eq!(
            said(|| expect_pull_duplicate_op_replay_violation(&violations, &op_id)),
            expected
        );
        let expected = "expected hydrate:hydrateGuardrailViolation whose message has \"x\" in it\n\
                        got no violation";
        assert_eq!(said(|| expect_hydrate_guardrail_violation(&[], "x")), expected);
    }

    #[test]
    fn exact_signatures_are_all_of_them_in_order() {
        let violations = [Violation::EmptyPageWithMore, each().remove(2)];
        let [page, replay] = ["pull:pullPageInvariantViolation", "pull:pullDuplicateOpReplay"];
        expect_guardrail_signature(&violations, replay);
        expect_exact_guardrail_signatures(&violations, &[page, replay]);
        for wrong in [&[page][..], &[replay, page], &[page, replay, replay], &[]] {
            let said = said(|| expect_exact_guardrail_signatures(&violations, wrong));
            assert!(said.starts_with(&format!("expected exactly {wrong:?}\ngot\n")), "{said}");
        }
        said(|| expect_guardrail_signature(&violations, "flush:staleWriteRecoveryExhausted"));
    }
}
