//! Every refusal to hydrate: the state contradicts itself, and nothing of it is taken.

use std::sync::Arc;

use serde_json::{Value, json};
use vfs_sync_client::SyncClient;
use vfs_sync_client::core::id::{ReplicaId, UserId};
use vfs_sync_testkit::{
    ScriptedTransport, ViolationCollector, build, expect_exact_guardrail_signatures,
    expect_hydrate_guardrail_violation,
};

use crate::support::export;

const AT: &str = "2026-01-01T00:00:00.000Z";
const LATER: &str = "2026-01-02T00:00:00.000Z";

fn client(id: &str) -> SyncClient {
    let (user, id) = (UserId::new("alice").unwrap(), ReplicaId::new(id).unwrap());
    let server = Arc::new(ScriptedTransport::new());
    SyncClient::builder(server).client_id(id).in_memory(user).unwrap()
}

fn operation(op_id: &str, write_id: u64) -> Value {
    json!({"acknowledged": false, "operation": {
        "opId": op_id, "opType": "item_upsert", "itemId": "new", "replicaId": "laptop",
        "writeId": write_id, "occurredAt": AT, "objectType": "folder", "name": "n",
    }})
}

fn item(id: &str) -> Value {
    json!({
        "itemId": id, "ownerId": "alice", "objectType": "folder", "name": "n", "metadata": {"a": 1},
        "encrypted": null, "createdAt": AT, "accessLevel": "admin", "authoredAt": AT,
    })
}

fn link(parent: &str, child: &str) -> Value {
    json!({"parentId": parent, "childId": child, "authoredAt": AT})
}

fn clock(id: &str, at: &str) -> Value {
    json!({"containerId": id, "changedAt": at, "changeId": "c1"})
}

/// A state that is good.
fn good() -> Value {
    json!({
        "format": "vfs-sync.replica-state", "version": 1,
        "clientId": "laptop", "userId": "alice",
        "replayCursor": {"changedAt": AT, "changeId": "c9"}, "baseline": null,
        "writeIdFloor": {"laptop": 4},
        "reconcileState": {
            "cursor": {"changedAt": AT, "changeId": "c8"}, "lastReconciledWriteIds": {"laptop": 4},
        },
        "clock": {"last": AT, "seen": AT}, "nextLocalWriteId": 7,
        "items": [item("a"), item("b")], "links": [link("a", "b")],
        "grants": [{
            "itemId": "a", "principalType": "user", "principalId": "bob", "accessLevel": "read",
            "authoredAt": AT,
        }],
        "attachments": [{
            "itemId": "b", "blobId": "blob", "relationKind": "file", "size": 1,
            "digest": "0".repeat(64), "contentType": null, "refId": "ref", "attachedAt": AT,
            "authoredAt": AT,
        }],
        "containerClocks": [clock("a", AT)],
        "queue": [operation("o5", 5), operation("o6", 6)],
        "rejected": [{
            "operation": operation("o1", 1)["operation"], "reason": "notPermitted", "detail": null,
        }],
    })
}

#[test]
fn a_good_state_round_trips_byte_for_byte() {
    let first = client("laptop");
    let outcome = first.hydrate_state(good().to_string().as_bytes()).unwrap();
    assert_eq!((outcome.items, outcome.queued), (2, 2));
    let text = export(&first);
    let second = client("laptop");
    second.hydrate_state(text.as_bytes()).unwrap();
    assert_eq!(export(&second), text);
    let names: Vec<String> =
        second.children(None).unwrap().into_iter().map(|child| child.name).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert_eq!(second.status().unwrap().items, 2);

    let mut unsettled = good();
    unsettled["head"] = json!({"changedAt": LATER, "changeId": "d1"});
    let client = client("laptop");
    client.hydrate_state(unsettled.to_string().as_bytes()).unwrap();
    assert!(export(&client).contains(r#""head":{"changedAt":"2026-01-02T00:00:00.000Z""#));
    assert!(!text.contains(r#""head""#), "only of a pull that is not settled");
}

#[test]
fn the_next_write_id_is_above_all_that_are_in_use() {
    for (queue, next) in [(json!([operation("o5", 5)]), 6), (json!([]), 5)] {
        let mut state = good();
        state["nextLocalWriteId"] = 1.into();
        state["queue"] = queue;
        let client = client("laptop");
        client.hydrate_state(state.to_string().as_bytes()).unwrap();
        assert!(export(&client).contains(&format!(r#""nextLocalWriteId":{next}"#)), "{next}");
    }
}

#[test]
fn a_state_that_is_malformed_or_contradicts_itself_is_refused() {
    let missing = |field: &str| {
        let mut state = good();
        state.as_object_mut().unwrap().remove(field);
        state
    };
    let with = |field: &str, value: Value| {
        let mut state = good();
        state[field] = value;
        state
    };
    let foreign = {
        let mut op = operation("o5", 5);
        op["operation"]["replicaId"] = "other".into();
        op
    };
    let mut cases = vec![
        (json!([]), "state", None, "is not an object"),
        (with("format", "x".into()), "format", None, "is not vfs-sync.replica-state"),
        (with("version", 2.into()), "version", None, "is 2, this program knows 1: use a newer one"),
        (
            with("clientId", "phone".into()),
            "clientId",
            None,
            "is not the client that exported the state",
        ),
        (with("userId", "bob".into()), "userId", None, "is not the user of the client"),
        (
            with("containerClocks", json!([clock("a", AT), clock("b", LATER)])),
            "containerClocks",
            Some(1),
            "is ahead of the replay cursor",
        ),
        (
            with("containerClocks", json!([clock("a", AT), clock("a", AT)])),
            "containerClocks",
            Some(1),
            "has the container id of another",
        ),
        (
            with("queue", json!([operation("o5", 5), operation("o6", 5)])),
            "queue",
            Some(1),
            "has a writeId that is not above the one before",
        ),
        (
            with("queue", json!([operation("o5", 5), operation("o5", 6)])),
            "queue",
            Some(1),
            "has the opId of another",
        ),
        (
            with("queue", json!([operation("c9", 5)])),
            "queue",
            Some(0),
            "has an opId that is the changeId of a persisted cursor",
        ),
        (
            with("queue", json!([operation("c8", 5)])),
            "queue",
            Some(0),
            "has an opId that is the changeId of a persisted cursor",
        ),
        (
            with("queue", json!([foreign])),
            "queue",
            Some(0),
            "has a replicaId that is not the client's",
        ),
        (with("items", json!([item("a"), item("a")])), "items", Some(1), "is a duplicate"),
        (
            with("links", json!([link("a", "b"), link("a", "b")])),
            "links",
            Some(1),
            "is a duplicate",
        ),
        (
            with("links", json!([link("a", "a")])),
            "links",
            Some(0),
            "is malformed: its parent is its child",
        ),
        (with("items", json!(5)), "items", None, "is not an array"),
        (with("surprise", json!(5)), "surprise", None, "is not a field of an exported state"),
    ];
    for value in [json!(0), json!(-1), json!("7"), json!(1.5), json!(null)] {
        let state = with("nextLocalWriteId", value);
        cases.push((state, "nextLocalWriteId", None, "is not a positive integer"));
    }
    for field in good().as_object().unwrap().keys() {
        let reason = match field.as_str() {
            "format" => "is not vfs-sync.replica-state",
            "version" => "is not 1",
            _ => "is missing",
        };
        cases.push((missing(field), Box::leak(field.clone().into_boxed_str()), None, reason));
    }
    let mut none = with("replayCursor", Value::Null);
    none["reconcileState"] = Value::Null;
    for field in ["items", "links", "grants", "attachments"] {
        cases.push((none.clone(), field, Some(0), "is there without a replay cursor"));
        none[field] = json!([]);
    }
    cases.push((none, "containerClocks", Some(0), "is there without a replay cursor"));
    for (state, field, index, reason) in cases {
        let (client, violations) = (client("laptop"), Arc::new(ViolationCollector::default()));
        client.observe(violations.clone());
        let before = export(&client);
        for _ in 0..2 {
            let error = client.hydrate_state(state.to_string().as_bytes()).unwrap_err();
            let violation = error.violation().unwrap_or_else(|| panic!("{error}"));
            assert_eq!(
                Value::Object(violation.details()),
                json!({"field": field, "index": index, "reason": reason}),
            );
            let seen = violations.take();
            expect_exact_guardrail_signatures(&seen, &["hydrate:hydrateGuardrailViolation"]);
            expect_hydrate_guardrail_violation(&seen, reason);
            assert_eq!(export(&client), before);
        }
        client.hydrate_state(good().to_string().as_bytes()).unwrap();
    }
}

#[test]
fn malformed_elements_are_named() {
    for (field, index, element) in [
        ("items", 1, json!({"itemId": "x"})),
        ("items", 0, json!(null)),
        ("links", 0, json!({"parentId": "a", "childId": "", "authoredAt": AT})),
        ("attachments", 0, json!({"itemId": "b", "digest": "xyz"})),
        ("queue", 1, json!({"acknowledged": true, "operation": {"opId": "o"}})),
        ("rejected", 0, json!("text")),
    ] {
        let mut state = good();
        state[field][index] = element;
        let error = client("laptop").hydrate_state(state.to_string().as_bytes()).unwrap_err();
        let details = error.violation().unwrap().details();
        assert_eq!(details["field"], field);
        assert_eq!(details["index"], index);
        assert!(details["reason"].as_str().unwrap().starts_with("is malformed"), "{details:?}");
    }
}

#[tokio::test]
async fn a_client_that_works_or_is_not_pristine_is_not_hydrated() {
    let client = client("laptop");
    let violations = Arc::new(ViolationCollector::default());
    client.observe(violations.clone());
    client.start_background().unwrap();
    let state = good().to_string();
    client.hydrate_state(state.as_bytes()).unwrap_err();
    expect_hydrate_guardrail_violation(&violations.take(), "background work");
    client.stop_background().await;
    client.hydrate_state(state.as_bytes()).unwrap();
    client.hydrate_state(state.as_bytes()).unwrap_err();
    expect_hydrate_guardrail_violation(&violations.take(), "client is not pristine");
}

#[tokio::test]
async fn a_hydrated_client_with_an_empty_feed_keeps_what_its_first_page_tells() {
    let state = build::state("laptop", "alice")
        .page(&build::page().write_id("laptop", 2).write_id("other", 5).build());
    // The copy does not say of which epoch it is: the server may have been restored since.
    for (other, floor) in [(5, r#"{"laptop":2,"other":5}"#), (4, r#"{"laptop":2,"other":4}"#)] {
        let server = Arc::new(ScriptedTransport::new());
        let (user, id) = (UserId::new("alice").unwrap(), ReplicaId::new("laptop").unwrap());
        let to = server.clone();
        let client = SyncClient::builder(to).client_id(id).in_memory(user).unwrap();
        client.hydrate_state(state.json().as_bytes()).unwrap();
        let page = move |other| {
            build::page().epoch(1).write_id("laptop", 2).write_id("other", other).build()
        };
        server.on_pull(move |_| Ok(page(other)));
        client.pull().await.unwrap();
        let told = export(&client);
        assert!(told.contains(&format!(r#""writeIdFloor":{floor}"#)), "{told}");

        server.on_pull(move |_| Ok(page(other - 1)));
        let error = client.pull().await.unwrap_err();
        assert_eq!(error.violation().unwrap().signature(), "pull:lastWriteIdRegression");
        assert_eq!(export(&client), told);
    }
}
