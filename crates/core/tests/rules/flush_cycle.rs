//! The flush cycle: what goes into a push, what an answer does to the queue, how often write ids
//! that are stale are renumbered, and answers that do not fit.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use vfs_sync_core::client::flush::{Acknowledged, FlushCommit, FlushCycle, FlushError, FlushStep};
use vfs_sync_core::cursor::Epoch;
use vfs_sync_core::id::{ItemId, OpId, ReplicaId, WriteId};
use vfs_sync_core::limits::{MAX_PUSH_BYTES, MAX_PUSH_OPERATIONS};
use vfs_sync_core::operation::{Action, Operation};
use vfs_sync_core::wire::{PushReason, PushResponse, PushResult, PushStatus};

use PushStatus::{AlreadyApplied, Applied, InvalidOp, OutdatedOp, StaleWriteId};

use super::world::at;

fn write_id(id: u64) -> WriteId {
    WriteId::new(id).unwrap()
}

/// The operation with this write id, written at 1,000.
fn op(id: u64) -> Operation {
    Operation {
        op_id: OpId::new(format!("op-{id}")).unwrap(),
        item_id: ItemId::new("i").unwrap(),
        replica_id: ReplicaId::new("me").unwrap(),
        write_id: write_id(id),
        occurred_at: at(1_000),
        basis: None,
        action: Action::Delete,
    }
}

fn ops(ids: std::ops::RangeInclusive<u64>) -> Vec<Operation> {
    ids.map(op).collect()
}

fn pending(ids: std::ops::RangeInclusive<u64>, size: usize) -> Vec<(Operation, usize)> {
    ids.map(|id| (op(id), size)).collect()
}

fn answer(sent: &[Operation], statuses: &[PushStatus]) -> PushResponse {
    let result = |(op, status): (&Operation, &PushStatus)| PushResult {
        op_id: Some(op.op_id.clone()),
        status: *status,
        reason: (*status == InvalidOp).then_some(PushReason::NotPermitted),
        detail: None,
        authored_at: None,
        last_write_id: None,
    };
    let results = sent.iter().zip(statuses).map(result).collect();
    PushResponse { client_id: ReplicaId::new("me").unwrap(), results, epoch: None }
}

fn names(ops: &[Acknowledged]) -> Vec<&str> {
    ops.iter().map(|one| one.op_id.as_str()).collect()
}

fn committed(step: FlushStep) -> FlushCommit {
    match step {
        FlushStep::Commit(commit) => commit,
        other => panic!("{other:?}"),
    }
}

/// A push of which nothing but stale write ids came back.
fn stale(cycle: &mut FlushCycle, last: Option<u64>) -> Result<FlushStep, FlushError> {
    let sent = ops(1..=2);
    let mut all = answer(&sent, &[StaleWriteId, StaleWriteId]);
    all.results[1].last_write_id = last.map(write_id);
    cycle.results(&sent, &all)
}

#[test]
fn a_push_takes_as_many_operations_as_it_may_carry() {
    let cycle = FlushCycle::default();
    assert_eq!(cycle.at_most(), MAX_PUSH_OPERATIONS);
    let count = MAX_PUSH_OPERATIONS as u64;
    assert_eq!(cycle.batch(pending(1..=count, 10)).unwrap().len(), MAX_PUSH_OPERATIONS);
    assert_eq!(cycle.batch(pending(1..=count + 1, 10)).unwrap().len(), MAX_PUSH_OPERATIONS);
    assert_eq!(cycle.batch(pending(1..=3, 10)).unwrap(), ops(1..=3));
    assert_eq!(cycle.batch(Vec::new()).unwrap(), []);
}

#[test]
fn a_push_stays_within_its_bytes_and_has_one_operation_at_least() {
    let cycle = FlushCycle::default();
    // Each with its comma and room for a longer write id, behind the frame.
    let half = (MAX_PUSH_BYTES - 512) / 2 - 17;
    assert_eq!(cycle.batch(pending(1..=3, half)).unwrap().len(), 2, "to the byte");
    assert_eq!(cycle.batch(pending(1..=3, half + 1)).unwrap().len(), 1);
    assert_eq!(cycle.batch(pending(1..=2, 2 * MAX_PUSH_BYTES)).unwrap().len(), 1);
}

#[test]
fn a_push_that_is_too_large_is_halved_and_grows_again() {
    let mut cycle = FlushCycle::default();
    assert!(cycle.too_large(9));
    assert_eq!(cycle.at_most(), 4);
    assert_eq!(cycle.batch(pending(1..=9, 10)).unwrap().len(), 4);
    assert!(cycle.too_large(2));
    assert_eq!(cycle.at_most(), 1);
    assert!(!cycle.too_large(1), "one operation cannot be split");
    assert_eq!(cycle.at_most(), 1);
    for at_most in [2, 4, 8] {
        let sent = ops(1..=1);
        cycle.results(&sent, &answer(&sent, &[Applied])).unwrap();
        assert_eq!(cycle.at_most(), at_most);
    }
    for _ in 0..20 {
        let sent = ops(1..=1);
        cycle.results(&sent, &answer(&sent, &[Applied])).unwrap();
    }
    assert_eq!(cycle.at_most(), MAX_PUSH_OPERATIONS);
}

#[test]
fn each_status_does_its_own_to_the_queue() {
    let sent = ops(1..=5);
    let answer = answer(&sent, &[Applied, AlreadyApplied, OutdatedOp, InvalidOp, Applied]);
    let commit = committed(FlushCycle::default().results(&sent, &answer).unwrap());
    assert_eq!(names(&commit.acknowledged), ["op-1", "op-2", "op-5"]);
    assert_eq!(commit.outdated.len(), 1);
    assert_eq!(commit.outdated[0].op_id.as_str(), "op-3");
    assert_eq!(commit.rejected.len(), 1);
    assert_eq!(commit.rejected[0].op_id.as_str(), "op-4");
    assert_eq!(commit.rejected[0].reason, Some(PushReason::NotPermitted));
    assert_eq!((commit.shift, commit.believed), (0, None));
}

#[test]
fn a_clock_is_told_off_only_where_less_was_believed_than_it_said() {
    let believed = |times: [Option<i64>; 2]| {
        let sent = ops(1..=2);
        let mut answer = answer(&sent, &[Applied, Applied]);
        for (result, time) in answer.results.iter_mut().zip(times) {
            result.authored_at = time.map(at);
        }
        committed(FlushCycle::default().results(&sent, &answer).unwrap()).believed
    };
    assert_eq!(believed([Some(999), None]), Some(at(999)));
    assert_eq!(believed([Some(998), Some(999)]), Some(at(999)), "the greatest");
    assert_eq!(believed([Some(999), Some(1_000)]), Some(at(1_000)));
    assert_eq!(believed([Some(1_000), Some(1_000)]), None);
    assert_eq!(believed([Some(1_001), None]), None);
    assert_eq!(believed([None, None]), None);
}

#[test]
fn what_is_stale_is_renumbered_and_kept_only_with_a_push_that_got_somewhere() {
    let mut cycle = FlushCycle::default();
    let step = stale(&mut cycle, Some(40)).unwrap();
    assert_eq!(step, FlushStep::Recover { commit: None, last_write_id: Some(write_id(40)) });
    let times = BTreeMap::from([(OpId::new("op-2").unwrap(), at(7))]);
    cycle.recover(write_id(1), write_id(40), times.clone());
    let batch = cycle.batch(pending(1..=2, 10)).unwrap();
    assert_eq!(batch.iter().map(|op| op.write_id.get()).collect::<Vec<_>>(), [41, 42]);
    assert_eq!(batch[0].op_id.as_str(), "op-1", "and nothing else of it changes");
    assert_eq!(batch[0].occurred_at, pending(1..=1, 10)[0].0.occurred_at);
    assert_eq!(batch[1].occurred_at, at(7), "the time that goes with the number");

    let commit = committed(cycle.results(&batch, &answer(&batch, &[Applied, Applied])).unwrap());
    assert_eq!((commit.shift, commit.times), (40, times));
    let next = cycle.batch(pending(43..=43, 10)).unwrap();
    assert_eq!(next[0].write_id, write_id(43), "it is durable now");
}

#[test]
fn a_renumbering_never_goes_back_and_is_none_where_there_is_no_need() {
    let mut cycle = FlushCycle::default();
    let first = |cycle: &FlushCycle| cycle.batch(pending(7..=7, 10)).unwrap()[0].write_id.get();
    cycle.recover(write_id(7), write_id(6), BTreeMap::new());
    assert_eq!(first(&cycle), 7);
    cycle.recover(write_id(7), write_id(7), BTreeMap::new());
    assert_eq!(first(&cycle), 8);
    cycle.recover(write_id(7), write_id(20), BTreeMap::new());
    assert_eq!(first(&cycle), 21);
    cycle.recover(write_id(7), write_id(9), BTreeMap::new());
    assert_eq!(first(&cycle), 21);
}

#[test]
fn what_was_decided_before_the_first_stale_one_is_kept() {
    let mut cycle = FlushCycle::default();
    let sent = ops(1..=4);
    let mut answer = answer(&sent, &[Applied, InvalidOp, StaleWriteId, StaleWriteId]);
    answer.results[2].last_write_id = Some(write_id(9));
    answer.results[3].last_write_id = Some(write_id(8));
    let FlushStep::Recover { commit: Some(commit), last_write_id } =
        cycle.results(&sent, &answer).unwrap()
    else {
        panic!("something was decided")
    };
    assert_eq!(names(&commit.acknowledged), ["op-1"]);
    assert_eq!(commit.rejected.len(), 1);
    assert_eq!(last_write_id, Some(write_id(9)), "the greatest that was told");
}

#[test]
fn write_ids_that_stay_stale_end_the_flush_and_a_push_that_gets_somewhere_begins_anew() {
    let exhausted = |error: FlushError| match error {
        FlushError::Violation(violation) => violation,
        other => panic!("{other}"),
    };
    let mut cycle = FlushCycle::default();
    stale(&mut cycle, Some(10)).unwrap();
    stale(&mut cycle, None).unwrap();
    let violation = exhausted(stale(&mut cycle, Some(10)).unwrap_err());
    assert_eq!(violation.signature(), "flush:staleWriteRecoveryExhausted");
    let message = "stale write-id recovery exceeded max retry attempts without forward progress";
    assert_eq!(violation.message(), message);
    let details = json!({"attempts": 2, "maxAttempts": 2, "staleResults": 2});
    assert_eq!(Value::Object(violation.details()), details);
    assert_eq!(exhausted(stale(&mut cycle, None).unwrap_err()), violation, "and again");

    let mut cycle = FlushCycle::default();
    for _ in 0..5 {
        stale(&mut cycle, Some(10)).unwrap();
        stale(&mut cycle, Some(10)).unwrap();
        let sent = ops(1..=2);
        cycle.results(&sent, &answer(&sent, &[Applied, StaleWriteId])).unwrap();
        cycle.results(&sent, &answer(&sent, &[Applied, Applied])).unwrap();
    }
}

#[test]
fn a_pull_that_brings_back_what_was_stuck_is_progress() {
    let mut cycle = FlushCycle::default();
    stale(&mut cycle, Some(10)).unwrap();
    stale(&mut cycle, Some(10)).unwrap();
    let mut behind = |sent: &[Operation]| cycle.results(sent, &answer(sent, &[StaleWriteId]));
    let sent = ops(2..=2);
    behind(&sent).unwrap();
    behind(&sent).unwrap();
    assert!(matches!(behind(&sent), Err(FlushError::Violation(_))));
}

#[test]
fn an_answer_that_does_not_fit_names_the_field() {
    let sent = ops(1..=3);
    let field = |answer: &PushResponse| {
        let mut cycle = FlushCycle::default();
        match cycle.results(&sent, answer).unwrap_err() {
            FlushError::Malformed(malformed) => malformed.field,
            other => panic!("{other}"),
        }
    };
    let good = answer(&sent, &[Applied, StaleWriteId, StaleWriteId]);
    assert!(FlushCycle::default().results(&sent, &good).is_ok());
    let mut other = good.clone();
    other.client_id = ReplicaId::new("you").unwrap();
    assert_eq!(field(&other), "clientId");
    let mut short = good.clone();
    short.results.pop();
    assert_eq!(field(&short), "results");
    let mut mixed = good.clone();
    mixed.results.swap(1, 2);
    assert_eq!(field(&mixed), "results[1].opId");
    mixed.results[1].op_id = None;
    assert_eq!(field(&mixed), "results[1].opId");
    assert_eq!(
        field(&answer(&sent, &[StaleWriteId, StaleWriteId, Applied])),
        "results[2].status",
        "nothing is decided after a stale one"
    );
}

#[test]
fn write_ids_end() {
    let last = (1 << 53) - 1;
    let mut cycle = FlushCycle::default();
    assert!(cycle.batch(pending(last..=last, 10)).is_ok());
    cycle.recover(write_id(1), write_id(1), BTreeMap::new());
    let error = cycle.batch(pending(last..=last, 10)).unwrap_err();
    assert!(matches!(error, FlushError::WriteIdsUsedUp), "{error}");
}

#[test]
fn an_answer_tells_the_epoch_and_the_times_that_it_acknowledges_in() {
    let sent = ops(1..=2);
    let epoch = Epoch::from_u64(7);
    let mut told = PushResponse { epoch, ..answer(&sent, &[Applied, AlreadyApplied]) };
    told.results[0].authored_at = Some(at(900));
    let commit = committed(FlushCycle::default().results(&sent, &told).unwrap());
    assert_eq!(commit.epoch, epoch);
    let times: Vec<_> = commit.acknowledged.iter().map(|one| one.authored_at).collect();
    assert_eq!(times, [Some(at(900)), None]);
}
