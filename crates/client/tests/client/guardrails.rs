//! Every row of the guardrail table: the rule is broken on the wire, and the client stops with the
//! exact violation, emitted once, its state unchanged to the byte.

use std::sync::Arc;

use serde_json::{Value, json};
use vfs_sync_client::core::entry::Entry;
use vfs_sync_client::core::guardrail::Stage;
use vfs_sync_client::core::id::{ChangeId, ReplicaId, UserId, WriteId};
use vfs_sync_client::core::item::Name;
use vfs_sync_client::core::wire::{PullPage, PushStatus, ReconcileResponse};
use vfs_sync_client::{ClientConfig, ClientError, Observer, SyncClient, TransportError, Violation};
use vfs_sync_testkit::build::{cursor, write_ids};
use vfs_sync_testkit::{
    ScriptedTransport, ViolationCollector, all_results, build, expect_exact_guardrail_signatures,
    expect_last_write_id_regression_violation, expect_pull_cursor_regression_violation,
    expect_pull_duplicate_op_replay_violation, expect_pull_page_invariant_violation,
    expect_pull_rematerialization_required_violation, expect_reconcile_cursor_regression_violation,
    expect_stale_write_recovery_exhausted_violation,
};

use crate::support::export;

/// An entry that makes an item, at a position.
fn entry(at: i64, id: &str) -> Entry {
    build::entry(at, id, build::folder(&format!("item-{id}")))
}

fn page(items: Vec<Entry>, has_more: bool, ids: &[(&str, u64)]) -> PullPage {
    let page = build::page().entries(items).write_ids(write_ids(ids));
    if has_more { page.more() } else { page }.build()
}

/// Answers so, whatever is asked.
fn given<Q, A>(answer: Result<A, TransportError>) -> impl FnOnce(&Q) -> Result<A, TransportError> {
    move |_| answer
}

/// A client that has applied one good entry at (10, "b") and knows write id 5 of `other`.
struct Scene {
    server: Arc<ScriptedTransport>,
    client: SyncClient,
    violations: Arc<ViolationCollector>,
    _dir: tempfile::TempDir,
}

struct Panics;

impl Observer for Panics {
    fn violation(&self, _: &Violation) {
        panic!("an observer that fails");
    }
}

impl Scene {
    async fn set() -> Self {
        let server = Arc::new(ScriptedTransport::new());
        let dir = tempfile::tempdir().unwrap();
        let user = UserId::new("alice").unwrap();
        let config = ClientConfig::default();
        let client = SyncClient::builder(server.clone())
            .server("s")
            .config(config)
            .create(dir.path(), user)
            .unwrap();
        let violations = Arc::new(ViolationCollector::default());
        client.observe(Arc::new(Panics));
        client.observe(violations.clone());
        server.on_pull(move |_| Ok(page(vec![entry(10, "b")], false, &[("other", 5)])));
        client.sync().await.unwrap();
        Self { server, client, violations, _dir: dir }
    }

    /// Syncs twice, each time after `script`: both fail alike and change nothing; then a good
    /// page goes through. Gives the one violation of each attempt.
    async fn broken_by(&self, script: impl Fn(&ScriptedTransport)) -> Violation {
        let before = export(&self.client);
        let mut seen = Vec::new();
        for _ in 0..2 {
            script(&self.server);
            let error = self.client.sync().await.unwrap_err();
            let violation = error.violation().unwrap_or_else(|| panic!("{error}")).clone();
            assert_eq!(error.to_string(), violation.message());
            let emitted = self.violations.take();
            assert_eq!(emitted, std::slice::from_ref(&violation), "emitted once");
            assert_eq!(export(&self.client), before);
            let stopped = self.client.status().unwrap().stopped.unwrap();
            assert_eq!(stopped.signature, violation.signature());
            seen.push(violation);
        }
        assert_eq!(seen[0], seen[1], "the same violation every time");
        seen.remove(0)
    }

    /// A good page goes through.
    async fn goes_on(&self) {
        self.server.on_pull(move |_| Ok(page(vec![entry(90, "z")], false, &[("other", 6)])));
        self.client.sync().await.unwrap();
        assert_eq!(self.client.status().unwrap().cursor, Some(cursor(90, "z")));
        assert_eq!(self.client.status().unwrap().stopped, None);
        assert_eq!(self.violations.violations(), []);
    }
}

fn check(violation: &Violation, signature: &str, message: &str, details: &Value) {
    assert_eq!(violation.signature(), signature);
    assert_eq!(violation.message(), message);
    assert_eq!(&Value::Object(violation.details()), details);
}

const AT_10: &str = "1970-01-01T00:00:00.010Z";
const AT_20: &str = "1970-01-01T00:00:00.020Z";

#[tokio::test]
async fn a_page_that_regresses_a_write_id_stops_the_client() {
    let scene = Scene::set().await;
    let bad = || Ok(page(vec![entry(20, "c")], false, &[("other", 4)]));
    let violation = scene.broken_by(|server| server.on_pull(given(bad()))).await;
    check(
        &violation,
        "pull:lastWriteIdRegression",
        "transport regressed lastReconciledWriteIds for replica other",
        &json!({"replicaId": "other", "previousWriteId": 5, "incomingWriteId": 4}),
    );
    let id = |n| WriteId::new(n).unwrap();
    let replica = ReplicaId::new("other").unwrap();
    expect_last_write_id_regression_violation(&[violation], Stage::Pull, &replica, id(5), id(4));
    scene.goes_on().await;
}

#[tokio::test]
async fn a_write_id_regresses_within_one_cycle_too_and_good_pages_before_stay() {
    let scene = Scene::set().await;
    scene.server.on_pull(move |_| Ok(page(vec![entry(20, "c")], true, &[("other", 9)])));
    scene.server.on_pull(move |_| Ok(page(vec![entry(30, "d")], false, &[("other", 8)])));
    let error = scene.client.sync().await.unwrap_err();
    assert_eq!(error.violation().unwrap().signature(), "pull:lastWriteIdRegression");
    assert_eq!(scene.client.status().unwrap().cursor, Some(cursor(20, "c")));
    scene.server.on_pull(move |_| Ok(page(Vec::new(), false, &[("other", 8)])));
    let error = scene.client.sync().await.unwrap_err();
    assert_eq!(error.to_string(), "transport regressed lastReconciledWriteIds for replica other");
}

#[tokio::test]
async fn an_absent_replica_is_no_regression() {
    let scene = Scene::set().await;
    scene.server.on_pull(move |_| Ok(page(vec![entry(20, "c")], false, &[])));
    scene.client.sync().await.unwrap();
    assert_eq!(scene.violations.violations(), []);
}

#[tokio::test]
async fn more_to_come_but_nothing_here_stops_the_client() {
    let scene = Scene::set().await;
    let bad = || Ok(page(Vec::new(), true, &[]));
    let violation = scene.broken_by(|server| server.on_pull(given(bad()))).await;
    check(
        &violation,
        "pull:pullPageInvariantViolation",
        "transport returned hasMore=true with an empty pull page",
        &json!({"hasMore": true, "itemsLength": 0}),
    );
    expect_pull_page_invariant_violation(&[violation], true, 0);
    scene.goes_on().await;
}

#[tokio::test]
async fn an_operation_that_comes_twice_in_a_cycle_stops_the_client() {
    let scene = Scene::set().await;
    let bad = || Ok(page(vec![entry(20, "c"), entry(30, "c")], false, &[]));
    let violation = scene.broken_by(|server| server.on_pull(given(bad()))).await;
    check(
        &violation,
        "pull:pullDuplicateOpReplay",
        "transport replayed opId c during pull pagination",
        &json!({"opId": "c"}),
    );
    expect_pull_duplicate_op_replay_violation(&[violation], &ChangeId::new("c").unwrap());
    scene.goes_on().await;
}

#[tokio::test]
async fn an_operation_that_comes_again_on_a_later_page_stops_the_client() {
    let scene = Scene::set().await;
    scene.server.on_pull(move |_| Ok(page(vec![entry(20, "c")], true, &[])));
    scene.server.on_pull(move |_| Ok(page(vec![entry(30, "c")], false, &[])));
    let error = scene.client.sync().await.unwrap_err();
    assert_eq!(error.violation().unwrap().signature(), "pull:pullDuplicateOpReplay");
    assert_eq!(scene.client.status().unwrap().cursor, Some(cursor(20, "c")));
}

#[tokio::test]
async fn a_next_cursor_that_is_not_the_last_item_stops_the_client() {
    for (next, details) in [
        (
            Some(cursor(20, "x")),
            json!({
                "nextCursorChangedAt": AT_20, "nextCursorChangeId": "x",
                "pageCursorChangedAt": AT_20, "pageCursorChangeId": "c",
            }),
        ),
        (
            None,
            json!({
                "nextCursorChangedAt": null, "nextCursorChangeId": null,
                "pageCursorChangedAt": AT_20, "pageCursorChangeId": "c",
            }),
        ),
    ] {
        let scene = Scene::set().await;
        let bad = || {
            let next_cursor = next.clone();
            Ok(PullPage { next_cursor, ..page(vec![entry(20, "c")], true, &[]) })
        };
        let violation = scene.broken_by(|server| server.on_pull(given(bad()))).await;
        check(
            &violation,
            "pull:pullPageInvariantViolation",
            "transport returned nextCursor that does not match pull page tail",
            &details,
        );
        scene.goes_on().await;
    }
}

#[tokio::test]
async fn a_page_before_the_local_cursor_stops_the_client() {
    let scene = Scene::set().await;
    let violation = scene
        .broken_by(|server| server.on_pull(move |_| Ok(page(vec![entry(10, "a")], false, &[]))))
        .await;
    check(
        &violation,
        "pull:pullCursorRegression",
        "transport returned regressing sync cursor",
        &json!({
            "previousChangedAt": AT_10, "previousChangeId": "b",
            "incomingChangedAt": AT_10, "incomingChangeId": "a",
        }),
    );
    let (previous, incoming) = (cursor(10, "b"), cursor(10, "a"));
    expect_pull_cursor_regression_violation(&[violation], &previous, &incoming);
    // An empty page has only its next cursor to go by.
    let bad = || Ok(PullPage { next_cursor: Some(cursor(9, "z")), ..page(Vec::new(), false, &[]) });
    let violation = scene.broken_by(|server| server.on_pull(given(bad()))).await;
    expect_pull_cursor_regression_violation(&[violation], &previous, &cursor(9, "z"));
    scene.goes_on().await;
}

#[tokio::test]
async fn items_out_of_order_stop_the_client() {
    let scene = Scene::set().await;
    for (items, index, op_id) in [
        (vec![entry(30, "d"), entry(20, "c")], 1, "c"),
        (vec![entry(10, "a"), entry(30, "d")], 0, "a"),
        (vec![entry(10, "b"), entry(30, "d")], 0, "b"),
    ] {
        let violation = scene
            .broken_by(|server| server.on_pull(given(Ok(page(items.clone(), false, &[])))))
            .await;
        check(
            &violation,
            "pull:pullPageInvariantViolation",
            "transport returned items out of feed order",
            &json!({"itemIndex": index, "opId": op_id}),
        );
    }
    scene.goes_on().await;
}

#[tokio::test]
async fn a_cursor_that_cannot_be_served_stops_the_client() {
    let scene = Scene::set().await;
    for oldest_available in [Some(cursor(50, "o")), None] {
        let bad = || {
            let (requested, oldest_available) = (Some(cursor(10, "b")), oldest_available.clone());
            Err(TransportError::RematerializationRequired {
                requested,
                oldest_available,
                history: None,
                epoch: None,
            })
        };
        let violation = scene.broken_by(|server| server.on_pull(given(bad()))).await;
        check(
            &violation,
            "pull:pullRematerializationRequired",
            "pull requires re-materialization from canonical state",
            &json!({
                "requestedChangedAt": AT_10, "requestedChangeId": "b",
                "oldestAvailableChangedAt": oldest_available.as_ref().map(|c| c.changed_at),
                "oldestAvailableChangeId": oldest_available.as_ref().map(|c| &c.change_id),
            }),
        );
        let (asked, oldest) = (cursor(10, "b"), oldest_available.as_ref());
        expect_pull_rematerialization_required_violation(&[violation], Some(&asked), oldest);
    }
    scene.goes_on().await;
}

#[tokio::test]
async fn an_acknowledged_cursor_before_the_one_sent_stops_the_client() {
    let scene = Scene::set().await;
    scene.server.on_pull(move |_| Ok(page(vec![entry(20, "c")], false, &[])));
    let bad = |server: &ScriptedTransport| {
        server
            .on_reconcile(|sent| Ok(ReconcileResponse { cursor: cursor(10, "b"), ..sent.clone() }));
    };
    bad(&scene.server);
    scene.client.sync().await.unwrap_err();
    scene.violations.take();
    let violation = scene.broken_by(bad).await;
    check(
        &violation,
        "reconcile:reconcileCursorRegression",
        "transport reconcile regressed sync cursor",
        &json!({
            "previousChangedAt": AT_20, "previousChangeId": "c",
            "incomingChangedAt": AT_10, "incomingChangeId": "b",
        }),
    );
    let (sent, told) = (cursor(20, "c"), cursor(10, "b"));
    expect_reconcile_cursor_regression_violation(&[violation], &sent, &told);
    scene.goes_on().await;
    let reconciled = scene.server.record().reconciled();
    assert!(reconciled.iter().all(|sent| sent.cursor != cursor(10, "a")));
}

#[tokio::test]
async fn an_acknowledged_write_id_below_the_one_sent_stops_the_client() {
    let scene = Scene::set().await;
    let pull = |server: &ScriptedTransport| {
        server.on_pull(move |_| Ok(page(Vec::new(), false, &[("other", 7)])));
        server.on_reconcile(|sent| {
            let last_reconciled_write_ids = write_ids(&[("other", 6)]);
            Ok(ReconcileResponse { last_reconciled_write_ids, ..sent.clone() })
        });
    };
    pull(&scene.server);
    scene.client.sync().await.unwrap_err();
    scene.violations.take();
    let violation = scene.broken_by(pull).await;
    check(
        &violation,
        "reconcile:lastWriteIdRegression",
        "transport regressed lastReconciledWriteIds for replica other",
        &json!({"replicaId": "other", "previousWriteId": 7, "incomingWriteId": 6}),
    );
    let id = |n| WriteId::new(n).unwrap();
    let other = ReplicaId::new("other").unwrap();
    expect_last_write_id_regression_violation(&[violation], Stage::Reconcile, &other, id(7), id(6));
    scene.server.on_pull(move |_| Ok(page(Vec::new(), false, &[("other", 7)])));
    scene.client.sync().await.unwrap();
}

#[tokio::test]
async fn write_ids_that_stay_stale_stop_the_client() {
    let scene = Scene::set().await;
    scene.client.create_folder(None, Name::new("f").unwrap()).unwrap();
    scene.client.create_folder(None, Name::new("g").unwrap()).unwrap();
    let stale = |server: &ScriptedTransport| {
        // Each recovery pulls.
        server.on_pull(move |_| Ok(page(Vec::new(), false, &[("other", 5)])));
        server.on_pull(move |_| Ok(page(Vec::new(), false, &[("other", 5)])));
        for _ in 0..3 {
            server.on_push(|request| {
                let mut answer = all_results(request, PushStatus::StaleWriteId);
                for result in &mut answer.results {
                    let last = request.operations.last().unwrap().write_id.get() + 10;
                    result.last_write_id = WriteId::new(last);
                }
                Ok(answer)
            });
        }
    };
    let violation = scene.broken_by(stale).await;
    check(
        &violation,
        "flush:staleWriteRecoveryExhausted",
        "stale write-id recovery exceeded max retry attempts without forward progress",
        &json!({"attempts": 2, "maxAttempts": 2, "staleResults": 2}),
    );
    expect_stale_write_recovery_exhausted_violation(&[violation], 2, 2);
    assert_eq!(scene.client.status().unwrap().pending, 2);
    scene.goes_on().await;
    assert_eq!(scene.client.status().unwrap().pending, 0);
}

#[tokio::test]
async fn a_page_broken_in_two_ways_has_the_first_answer() {
    let scene = Scene::set().await;
    let twice = || {
        let items = vec![entry(30, "d"), entry(20, "d")];
        Ok(PullPage { next_cursor: None, ..page(items, true, &[("other", 1)]) })
    };
    let violation = scene.broken_by(|server| server.on_pull(given(twice()))).await;
    expect_exact_guardrail_signatures(&[violation], &["pull:lastWriteIdRegression"]);
    let both = || {
        let items = vec![entry(10, "a"), entry(5, "a")];
        Ok(PullPage { next_cursor: None, ..page(items, true, &[]) })
    };
    let violation = scene.broken_by(|server| server.on_pull(given(both()))).await;
    expect_exact_guardrail_signatures(&[violation], &["pull:pullDuplicateOpReplay"]);
}

#[tokio::test]
async fn an_answer_that_does_not_fit_the_push_is_fatal_and_changes_nothing() {
    let scene = Scene::set().await;
    scene.client.create_folder(None, Name::new("f").unwrap()).unwrap();
    let before = export(&scene.client);
    for _ in 0..2 {
        scene.server.on_push(|request| {
            let mut answer = all_results(request, PushStatus::Applied);
            answer.results.clear();
            Ok(answer)
        });
        let error = scene.client.sync().await.unwrap_err();
        assert!(
            matches!(
                &error,
                ClientError::Transport(TransportError::MalformedResponse { field, .. })
                if field == "results"
            ),
            "{error}"
        );
        assert_eq!(export(&scene.client), before);
        let stopped = scene.client.status().unwrap().stopped.unwrap();
        assert_eq!(stopped.signature, "malformedResponse");
    }
    scene.goes_on().await;
}

#[tokio::test]
async fn background_work_stops_at_the_first_answer_of_an_earlier_epoch() {
    let scene = Scene::set().await;
    scene.server.on_pull(|_| Ok(build::page().epoch(2).build()));
    scene.client.sync().await.unwrap();
    scene.server.on_pull(|_| Ok(build::page().epoch(1).build()));
    let mut changes = scene.client.subscribe();
    scene.client.start_background().unwrap();
    let stopped = loop {
        if let vfs_sync_client::ChangeEvent::Stopped(reason) = changes.recv().await.unwrap() {
            break reason;
        }
    };
    assert_eq!(stopped.signature, "malformedResponse");
    assert!(stopped.message.contains("epoch is 1 after an answer of 2"), "{stopped:?}");
}

#[tokio::test]
async fn background_work_stops_at_a_violation_until_it_is_started_by_hand() {
    let scene = Scene::set().await;
    scene.server.on_pull(move |_| Ok(page(Vec::new(), true, &[])));
    let mut changes = scene.client.subscribe();
    scene.client.start_background().unwrap();
    let stopped = loop {
        if let vfs_sync_client::ChangeEvent::Stopped(reason) = changes.recv().await.unwrap() {
            break reason;
        }
    };
    assert_eq!(stopped.signature, "pull:pullPageInvariantViolation");
    let pulled = scene.server.record().pulled().len();
    for _ in 0..3 {
        scene.client.request_sync();
        tokio::task::yield_now().await;
    }
    assert_eq!(scene.server.record().pulled().len(), pulled);
    assert_eq!(scene.client.status().unwrap().stopped, Some(stopped));
    scene.violations.take();
    scene.client.start_background().unwrap();
    assert_eq!(scene.client.status().unwrap().stopped, None);
    scene.client.stop_background().await;
    assert_eq!(scene.violations.violations(), []);
}

#[tokio::test]
async fn a_page_beyond_the_protocols_bounds_is_malformed_and_changes_nothing() {
    let scene = Scene::set().await;
    let before = export(&scene.client);
    let replicas: Vec<String> = (0..513).map(|n| format!("r{n}")).collect();
    let ids: Vec<(&str, u64)> = replicas.iter().map(|id| (id.as_str(), 1)).collect();
    let entries = (0..501).map(|n| entry(20, &format!("c{n:03}"))).collect();
    let broken = [
        (page(Vec::new(), false, &ids), "lastReconciledWriteIds"),
        (page(entries, false, &[]), "items"),
    ];
    for (page, expected) in broken {
        scene.server.on_pull(move |_| Ok(page));
        match scene.client.pull().await.unwrap_err() {
            ClientError::Transport(TransportError::MalformedResponse { field, .. }) => {
                assert_eq!(field, expected);
            }
            other => panic!("{other}"),
        }
        assert_eq!(export(&scene.client), before);
    }
}
