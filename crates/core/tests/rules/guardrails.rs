//! The guardrail table, row by row, where it is decided: what breaks each rule by the least, what

//! just does not, and that a cycle goes on behind a broken page as if it had never come.

use serde_json::{Value, json};
use vfs_sync_core::client::pull::PullCycle;
use vfs_sync_core::client::reconcile;
use vfs_sync_core::cursor::{Cursor, Epoch};
use vfs_sync_core::entry::{Change, Entry, EntryBody};
use vfs_sync_core::guardrail::{SIGNATURES, Stage, Violation};
use vfs_sync_core::id::{ChangeId, ItemId, ReplicaId, WriteId};
use vfs_sync_core::wire::{PullPage, ReconcileRequest, ReconcileState, WriteIds};

use super::world::at;

const AT_10: &str = "1970-01-01T00:00:00.010Z";
const AT_20: &str = "1970-01-01T00:00:00.020Z";
const AT_30: &str = "1970-01-01T00:00:00.030Z";

fn cursor(millis: i64, id: &str) -> Cursor {
    Cursor { changed_at: at(millis), change_id: ChangeId::new(id).unwrap() }
}

fn ids(of: &[(&str, u64)]) -> WriteIds {
    let id = |(replica, id): &(&str, u64)| {
        (ReplicaId::new(replica).unwrap(), WriteId::new(*id).unwrap())
    };
    of.iter().map(id).collect()
}

fn entry(millis: i64, id: &str) -> Entry {
    let change = Change::ItemDelete { item: ItemId::new("i").unwrap(), reason: None };
    let body = EntryBody {
        actor: None,
        authored_at: at(millis),
        origin: None,
        author_replica: None,
        change,
    };
    Entry { position: cursor(millis, id), body }
}

fn page(items: &[(i64, &str)], has_more: bool, write_ids: &[(&str, u64)]) -> PullPage {
    let items: Vec<Entry> = items.iter().map(|(millis, id)| entry(*millis, id)).collect();
    let tail = items.last().map(|entry| entry.position.clone());
    PullPage {
        next_cursor: tail.filter(|_| has_more),
        items,
        has_more,
        last_reconciled_write_ids: ids(write_ids),
        baseline: None,
        head: None,
        epoch: None,
    }
}

/// A cycle at (20, "m") that knows write id 5 of `other`.
fn cycle() -> PullCycle {
    PullCycle::new(Some(cursor(20, "m")), None, ids(&[("other", 5)]))
}

#[track_caller]
fn is(violation: &Violation, signature: &str, message: &str, details: Value) {
    assert_eq!(violation.signature(), signature);
    assert_eq!(violation.message(), message);
    assert_eq!(violation.to_string(), message);
    assert_eq!(Value::Object(violation.details()), details);
    assert!(SIGNATURES.contains(&(violation.stage(), violation.code())), "{signature}");
}

/// The page is refused twice alike; a good one goes through behind it.
#[track_caller]
fn refused(broken: &PullPage) -> Violation {
    let mut cycle = cycle();
    let violation = cycle.page(broken.clone()).unwrap_err();
    assert_eq!(cycle.page(broken.clone()).unwrap_err(), violation);
    assert_eq!(cycle.cursor(), Some(&cursor(20, "m")));
    let all: Vec<(i64, &str)> = vec![(30, "c"), (40, "d"), (50, "m")];
    let commit = cycle.page(page(&all, false, &[("other", 5)])).unwrap();
    assert_eq!(commit.entries.len(), 3);
    violation
}

#[test]
fn a_write_id_that_goes_back() {
    let violation = refused(&page(&[(30, "c")], false, &[("other", 4)]));
    is(
        &violation,
        "pull:lastWriteIdRegression",
        "transport regressed lastReconciledWriteIds for replica other",
        json!({"replicaId": "other", "previousWriteId": 5, "incomingWriteId": 4}),
    );
    let mut cycle = cycle();
    assert!(cycle.page(page(&[(30, "c")], true, &[("other", 5)])).is_ok(), "the same");
    assert!(cycle.page(page(&[(40, "d")], true, &[])).is_ok(), "absent is no regression");
    assert!(cycle.page(page(&[(50, "e")], true, &[("other", 7)])).is_ok());
    let violation = cycle.page(page(&[(60, "f")], true, &[("other", 6)])).unwrap_err();
    assert_eq!(violation.signature(), "pull:lastWriteIdRegression", "of a page of this cycle");
}

#[test]
fn the_write_ids_of_another_epoch_bind_nobody() {
    let epoch = |number: Option<u64>| number.map(|number| Epoch::from_u64(number).unwrap());
    let take = |at: Option<Cursor>, known: Option<u64>, told: Option<u64>, id: u64| {
        let mut cycle = PullCycle::new(at, None, ids(&[("gone", 3), ("other", 5)]));
        cycle = cycle.in_epoch(epoch(known));
        let mut page = page(&[], false, &[("other", id)]);
        page.epoch = epoch(told);
        let floor = cycle.page(page.clone()).map(|commit| commit.floor)?;
        page.last_reconciled_write_ids = ids(&[("other", id - 1)]);
        assert_eq!(cycle.page(page).unwrap_err().code(), "lastWriteIdRegression");
        Ok::<_, Violation>(floor)
    };
    for known in [Some(1), None] {
        for id in [4, 5] {
            assert_eq!(take(None, known, Some(2), id), Ok(Some(ids(&[("other", id)]))));
        }
        take(None, known, None, 4).unwrap_err();
        let with_cursor = take(Some(cursor(20, "m")), known, Some(2), 4);
        assert_eq!(with_cursor, Ok(Some(ids(&[("other", 4)]))));
        take(Some(cursor(20, "m")), known, None, 4).unwrap_err();
    }
    take(None, Some(2), Some(2), 4).unwrap_err();
    take(Some(cursor(20, "m")), Some(2), Some(2), 4).unwrap_err();
    assert_eq!(take(None, Some(2), Some(2), 5), Ok(None), "nothing changes");
}

#[test]
fn more_and_nothing() {
    is(
        &refused(&page(&[], true, &[])),
        "pull:pullPageInvariantViolation",
        "transport returned hasMore=true with an empty pull page",
        json!({"hasMore": true, "itemsLength": 0}),
    );
    assert!(cycle().page(page(&[], false, &[])).is_ok());
    assert!(cycle().page(page(&[(30, "c")], true, &[])).is_ok());
}

#[test]
fn an_id_that_comes_twice() {
    let violation = refused(&page(&[(30, "c"), (40, "d"), (50, "c")], false, &[]));
    is(
        &violation,
        "pull:pullDuplicateOpReplay",
        "transport replayed opId c during pull pagination",
        json!({"opId": "c"}),
    );
    let mut cycle = cycle();
    cycle.page(page(&[(30, "c")], true, &[])).unwrap();
    let again = cycle.page(page(&[(40, "c")], false, &[])).unwrap_err();
    assert_eq!(again.signature(), "pull:pullDuplicateOpReplay", "on a later page");
}

#[test]
fn a_next_cursor_that_is_not_the_tail() {
    let mut wrong = page(&[(30, "c")], true, &[]);
    wrong.next_cursor = Some(cursor(30, "d"));
    let message = "transport returned nextCursor that does not match pull page tail";
    is(
        &refused(&wrong),
        "pull:pullPageInvariantViolation",
        message,
        json!({
            "nextCursorChangedAt": AT_30, "nextCursorChangeId": "d",
            "pageCursorChangedAt": AT_30, "pageCursorChangeId": "c",
        }),
    );
    let mut missing = page(&[(30, "c")], true, &[]);
    missing.next_cursor = None;
    is(
        &refused(&missing),
        "pull:pullPageInvariantViolation",
        message,
        json!({
            "nextCursorChangedAt": null, "nextCursorChangeId": null,
            "pageCursorChangedAt": AT_30, "pageCursorChangeId": "c",
        }),
    );
    let mut last = page(&[(30, "c")], false, &[]);
    assert!(cycle().page(last.clone()).is_ok(), "none where there is no more");
    last.next_cursor = Some(cursor(30, "c"));
    assert!(cycle().page(last.clone()).is_ok(), "but it may be there");
    last.next_cursor = Some(cursor(31, "c"));
    assert!(cycle().page(last).is_err());
}

#[test]
fn a_page_before_the_local_cursor() {
    let message = "transport returned regressing sync cursor";
    let details = json!({
        "previousChangedAt": AT_20, "previousChangeId": "m",
        "incomingChangedAt": AT_20, "incomingChangeId": "l",
    });
    let violation = refused(&page(&[(20, "l")], false, &[]));
    is(&violation, "pull:pullCursorRegression", message, details.clone());
    let mut empty = page(&[], false, &[]);
    empty.next_cursor = Some(cursor(20, "l"));
    is(&refused(&empty), "pull:pullCursorRegression", message, details);
    empty.next_cursor = Some(cursor(20, "m"));
    assert!(cycle().page(empty.clone()).is_ok(), "the local one itself");
    let mut first = PullCycle::new(None, None, WriteIds::new());
    assert!(first.page(page(&[(1, "a")], false, &[])).is_ok(), "there is none yet");
}

#[test]
fn items_out_of_order() {
    for (items, index, id) in [
        (vec![(40, "d"), (30, "c"), (50, "e")], 1, "c"),
        (vec![(20, "m"), (30, "c")], 0, "m"),
        (vec![(30, "b"), (30, "a"), (40, "d")], 1, "a"),
    ] {
        is(
            &refused(&page(&items, false, &[])),
            "pull:pullPageInvariantViolation",
            "transport returned items out of feed order",
            json!({"itemIndex": index, "opId": id}),
        );
    }
    assert!(cycle().page(page(&[(20, "n"), (20, "o")], false, &[])).is_ok());
}

#[test]
fn a_page_that_is_broken_in_several_ways_has_the_first_answer_of_the_table() {
    let mut broken = page(&[(30, "d"), (20, "a"), (20, "a")], true, &[("other", 1)]);
    broken.next_cursor = None;
    let mut signatures = Vec::new();
    let mut take = |page: &PullPage| signatures.push(refused(page).code());
    take(&broken);
    broken.last_reconciled_write_ids.clear();
    take(&broken);
    broken.items.pop();
    take(&broken);
    broken.next_cursor = Some(cursor(20, "a"));
    take(&broken);
    broken.items[1] = entry(20, "n");
    broken.next_cursor = Some(cursor(20, "n"));
    take(&broken);
    assert_eq!(
        signatures,
        [
            "lastWriteIdRegression",
            "pullDuplicateOpReplay",
            "pullPageInvariantViolation",
            "pullCursorRegression",
            "pullPageInvariantViolation",
        ]
    );
}

#[test]
fn a_good_page_says_what_to_commit() {
    let mut cycle = cycle();
    let more = cycle.page(page(&[(30, "c"), (40, "d")], true, &[("other", 6)])).unwrap();
    assert_eq!((&more.cursor, cycle.cursor()), (&Some(cursor(40, "d")), Some(&cursor(40, "d"))));
    assert_eq!(more.floor, Some(ids(&[("other", 6)])));
    assert_eq!((more.settled, more.latest), (None, Some(at(40))));

    let mut late = page(&[(50, "e")], false, &[("other", 6), ("new", 1)]);
    late.items[0].body.authored_at = at(70);
    let last = cycle.page(late).unwrap();
    assert_eq!(last.latest, Some(at(70)), "written by a clock that is ahead");
    assert_eq!(last.floor, Some(ids(&[("other", 6), ("new", 1)])));
    assert_eq!(last.settled, Some(ids(&[("other", 6), ("new", 1)])));

    let nothing = cycle.page(page(&[], false, &[("other", 6)])).unwrap();
    assert_eq!((nothing.floor, nothing.latest), (None, None), "nothing is raised");
    assert_eq!(nothing.cursor, Some(cursor(50, "e")));
}

#[test]
fn a_baseline_comes_with_the_first_page_and_goes_once_it_is_reached() {
    let mut cycle = PullCycle::new(None, None, WriteIds::new());
    let mut first = page(&[(30, "c")], true, &[]);
    first.baseline = Some(cursor(50, "e"));
    let commit = cycle.page(first).unwrap();
    assert_eq!(
        (&commit.baseline, cycle.baseline()),
        (&Some(cursor(50, "e")), Some(&cursor(50, "e")))
    );
    let mut second = page(&[(40, "d")], true, &[]);
    second.baseline = Some(cursor(90, "z"));
    assert_eq!(cycle.page(second).unwrap().baseline, Some(cursor(50, "e")), "the first counts");
    assert_eq!(cycle.page(page(&[(50, "e")], false, &[])).unwrap().baseline, None, "reached");

    let mut again = PullCycle::new(None, Some(cursor(50, "e")), WriteIds::new());
    assert_eq!(again.page(page(&[], false, &[])).unwrap().baseline, Some(cursor(50, "e")));
}

#[test]
fn the_newest_head_of_a_pull_is_sent_along_until_the_feed_is_settled() {
    let mut cycle = PullCycle::new(None, None, WriteIds::new());
    let mut page_of = |id: (i64, &str), head: Option<Cursor>, has_more| {
        let page = PullPage { head, ..page(&[id], has_more, &[]) };
        let commit = cycle.page(page).unwrap();
        assert_eq!(commit.head.as_ref(), cycle.head());
        commit.head
    };
    assert_eq!(page_of((30, "c"), Some(cursor(50, "e")), true), Some(cursor(50, "e")));
    assert_eq!(page_of((40, "d"), Some(cursor(60, "f")), true), Some(cursor(60, "f")));
    assert_eq!(page_of((41, "da"), None, true), Some(cursor(60, "f")), "of an older server");
    assert_eq!(page_of((60, "f"), None, false), None);

    let later = PullCycle::new(Some(cursor(30, "c")), None, WriteIds::new());
    let later = later.seen_through(Some(cursor(50, "e")));
    assert_eq!(later.head(), Some(&cursor(50, "e")), "of a pull that was left unsettled");
}

#[test]
fn the_floor_forgets_who_is_no_longer_named_once_there_are_too_many() {
    let names: Vec<String> = (0..1_025).map(|n| format!("r{n:04}")).collect();
    let of = |count: usize| {
        ids(&names[..count].iter().map(|name| (name.as_str(), 1)).collect::<Vec<_>>())
    };
    for (known, kept) in [(1_023, 1_024), (1_024, 2)] {
        let mut cycle = PullCycle::new(None, None, of(known));
        let commit = cycle.page(page(&[], false, &[("r0000", 2), ("s", 1)])).unwrap();
        assert_eq!(commit.floor.unwrap().len(), kept);
    }
}

fn told(at: i64, id: &str, write_ids: &[(&str, u64)]) -> ReconcileRequest {
    let state =
        ReconcileState { cursor: cursor(at, id), last_reconciled_write_ids: ids(write_ids) };
    reconcile::request(ReplicaId::new("me").unwrap(), &state)
}

#[test]
fn an_acknowledgement_that_goes_back() {
    let sent = told(20, "m", &[("me", 3), ("other", 5)]);
    assert_eq!(sent.client_id.as_str(), "me");
    is(
        &reconcile::check(&sent, &told(20, "l", &[])).unwrap_err(),
        "reconcile:reconcileCursorRegression",
        "transport reconcile regressed sync cursor",
        json!({
            "previousChangedAt": AT_20, "previousChangeId": "m",
            "incomingChangedAt": AT_20, "incomingChangeId": "l",
        }),
    );
    is(
        &reconcile::check(&sent, &told(20, "m", &[("me", 3), ("other", 4)])).unwrap_err(),
        "reconcile:lastWriteIdRegression",
        "transport regressed lastReconciledWriteIds for replica other",
        json!({"replicaId": "other", "previousWriteId": 5, "incomingWriteId": 4}),
    );
    for good in [
        told(20, "m", &[("me", 3), ("other", 5)]),
        told(30, "a", &[("me", 4), ("other", 9), ("third", 1)]),
        told(20, "m", &[]),
    ] {
        assert_eq!(reconcile::check(&sent, &good), Ok(()));
    }
}

#[test]
fn what_no_cycle_decides_has_its_row_too() {
    let rematerialise = |oldest: Option<Cursor>| Violation::RematerializationRequired {
        requested: Some(cursor(20, "m")),
        oldest_available: oldest,
    };
    let message = "pull requires re-materialization from canonical state";
    is(
        &rematerialise(Some(cursor(10, "a"))),
        "pull:pullRematerializationRequired",
        message,
        json!({
            "requestedChangedAt": AT_20, "requestedChangeId": "m",
            "oldestAvailableChangedAt": AT_10, "oldestAvailableChangeId": "a",
        }),
    );
    is(
        &rematerialise(None),
        "pull:pullRematerializationRequired",
        message,
        json!({
            "requestedChangedAt": AT_20, "requestedChangeId": "m",
            "oldestAvailableChangedAt": null, "oldestAvailableChangeId": null,
        }),
    );
    let hydrate = |index| Violation::Hydrate {
        field: "queue".into(),
        index,
        reason: "is not in order".into(),
    };
    is(
        &hydrate(Some(3)),
        "hydrate:hydrateGuardrailViolation",
        "queue[3] is not in order",
        json!({"field": "queue", "index": 3, "reason": "is not in order"}),
    );
    is(
        &hydrate(None),
        "hydrate:hydrateGuardrailViolation",
        "queue is not in order",
        json!({"field": "queue", "index": null, "reason": "is not in order"}),
    );
    assert_eq!(Stage::Flush.as_str(), "flush");
}
