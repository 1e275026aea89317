//! Push, pull, reconcile, state, limits.

use serde_json::{Value, json};

use crate::scene::{Scene, create};

#[tokio::test]
async fn what_is_pushed_is_pulled_by_the_same_user_alone() {
    let scene = Scene::new().await;
    let (alice, bob) = (scene.user("alice"), scene.user("bob"));
    let pushed = alice.push("laptop", vec![create("a", 1), create("b", 2)]).await.ok();
    assert_eq!(pushed["clientId"], "laptop");
    assert_eq!(pushed["results"][1]["opId"], "op-b");
    assert_eq!(pushed["results"][1]["status"], "applied");

    let page = alice.pull_all().await;
    assert_eq!(page["items"].as_array().unwrap().len(), 2);
    assert_eq!(page["items"][0]["name"], "a.txt");
    assert_eq!(page["hasMore"], false);
    assert_eq!(page["nextCursor"], Value::Null);
    assert_eq!(page["lastReconciledWriteIds"], json!({"laptop": 2}));
    assert!(page["baseline"].is_string());
    assert_eq!(bob.pull_all().await["items"], json!([]));
}

#[tokio::test]
async fn a_feed_is_read_in_pages() {
    let scene = Scene::new().await;
    let alice = scene.user("alice");
    let operations = (1..=7).map(|id| create(&format!("i{id}"), id)).collect();
    alice.push("laptop", operations).await.ok();
    let (mut path, mut seen) = ("/v1/vfs/crdt/vfs-sync?limit=3".to_owned(), Vec::new());
    loop {
        let answer = alice.get(&path).await;
        assert_eq!(answer.header("cache-control"), "no-store");
        let page = answer.ok();
        seen.extend(page["items"].as_array().unwrap().iter().map(|item| item["itemId"].clone()));
        if page["hasMore"] == false {
            assert!(page["head"].is_null(), "{page}");
            break;
        }
        assert!(page["head"].is_string(), "{page}");
        path = format!(
            "/v1/vfs/crdt/vfs-sync?limit=3&clientId=laptop&cursor={}",
            page["nextCursor"].as_str().unwrap()
        );
    }
    assert_eq!(json!(seen), json!(["i1", "i2", "i3", "i4", "i5", "i6", "i7"]));
}

#[tokio::test]
async fn a_reconcile_never_goes_back_and_state_tells_it() {
    let scene = Scene::new().await;
    let alice = scene.user("alice");
    alice.push("laptop", vec![create("a", 1), create("b", 2)]).await.ok();
    let first = alice.get("/v1/vfs/crdt/vfs-sync?limit=1").await.ok();
    let head = &first["baseline"];
    let reconcile = |cursor: &Value, write_id: u64| {
        let body = json!({"clientId": "laptop", "cursor": cursor,
                          "lastReconciledWriteIds": {"laptop": write_id}});
        let alice = alice.clone();
        async move { alice.post("/v1/vfs/crdt/reconcile", body).await }
    };
    let merged = reconcile(head, 2).await.ok();
    assert_eq!(merged["cursor"], *head);
    assert_eq!(reconcile(&first["nextCursor"], 1).await.ok(), merged);

    let refused = reconcile(head, 3).await.refused(409, "write_ids_ahead_of_server");
    assert_eq!(
        (&refused["replicaId"], &refused["sentWriteId"], &refused["lastWriteId"]),
        (&json!("laptop"), &json!(3), &json!(2))
    );
    let state = alice.get("/v1/vfs/crdt/state?clientId=laptop").await.ok();
    assert_eq!(state["reconcileState"]["cursor"], *head);
    assert_eq!(state["feedHead"], *head);
    assert_eq!(state["lastWriteIds"], json!({"laptop": 2}));
    let other = scene.user("bob").get("/v1/vfs/crdt/state?clientId=laptop").await.ok();
    assert_eq!(other["reconcileState"], Value::Null);
}

#[tokio::test]
async fn a_cursor_beyond_the_head_is_to_be_rematerialised() {
    let scene = Scene::new().await;
    let (alice, bob) = (scene.user("alice"), scene.user("bob"));
    alice.push("laptop", (1..=3).map(|id| create(&format!("i{id}"), id)).collect()).await.ok();
    bob.push("laptop", vec![create("j", 1)]).await.ok();
    let ahead = alice.pull_all().await["baseline"].as_str().unwrap().to_owned();
    let refused = bob
        .get(&format!("/v1/vfs/crdt/vfs-sync?cursor={ahead}"))
        .await
        .refused(409, "crdt_rematerialization_required");
    assert_eq!(refused["requestedCursor"], ahead);
    assert_eq!(refused["oldestAvailableCursor"], Value::Null);
    let own = bob.pull_all().await["baseline"].as_str().unwrap().to_owned();
    let path = format!("/v1/vfs/crdt/vfs-sync?cursor={own}&head={ahead}");
    bob.get(&path).await.refused(409, "crdt_rematerialization_required");
    assert!(refused["history"].is_array(), "{refused}");
    let body = json!({"clientId": "laptop", "cursor": ahead});
    let refused = bob.post("/v1/vfs/crdt/reconcile", body).await;
    assert_eq!(refused.refused(409, "crdt_rematerialization_required")["requestedCursor"], ahead);
}

#[tokio::test]
async fn limits_are_those_of_the_protocol() {
    let scene = Scene::new().await;
    let limits = scene.user("alice").get("/v1/vfs/limits").await.ok();
    assert_eq!(limits["maxPushOperations"], 500);
    assert_eq!(limits["maxPushBytes"], 4 * 1024 * 1024);
}

#[tokio::test]
async fn a_malformed_query_is_told_by_its_field() {
    let scene = Scene::new().await;
    let alice = scene.user("alice");
    for limit in ["0", "501", "-1", "1.5", "ten", "", "99999999999"] {
        alice.get(&format!("/v1/vfs/crdt/vfs-sync?limit={limit}")).await.refused_field("limit");
    }
    alice.get("/v1/vfs/crdt/vfs-sync?limit=1&limit=2").await.refused_field("limit");
    alice.get("/v1/vfs/crdt/vfs-sync?clientId=a:b").await.refused_field("clientId");
    alice.get("/v1/vfs/crdt/state").await.refused_field("clientId");
    alice.get("/v1/vfs/crdt/state?clientId=").await.refused_field("clientId");
    let long = "A".repeat(5_000);
    for cursor in ["", "x", "%00", "eyJ2ZXJzaW9uIjoyfQ", &long] {
        for field in ["cursor", "baseline", "head"] {
            let answer = alice.get(&format!("/v1/vfs/crdt/vfs-sync?{field}={cursor}")).await;
            let body = answer.refused(400, "invalid_cursor");
            assert_eq!(
                (body["error"].as_str(), body["field"].as_str()),
                (Some("Invalid cursor"), Some(field))
            );
        }
    }
}

#[tokio::test]
async fn a_malformed_reconcile_is_told_by_its_field() {
    let scene = Scene::new().await;
    let alice = scene.user("alice");
    alice.push("laptop", vec![create("a", 1)]).await.ok();
    let cursor = alice.pull_all().await["baseline"].clone();
    let reconcile = |body: Value| {
        let alice = alice.clone();
        async move { alice.post("/v1/vfs/crdt/reconcile", body).await }
    };
    let bad_cursor = reconcile(json!({"clientId": "laptop", "cursor": "x"})).await;
    assert_eq!(bad_cursor.refused(400, "invalid_cursor")["error"], "Invalid cursor");
    reconcile(json!({"clientId": "a:b", "cursor": cursor})).await.refused_field("clientId");
    reconcile(
        json!({"clientId": "laptop", "cursor": cursor, "lastReconciledWriteIds": {"laptop": 0}}),
    )
    .await
    .refused_field("lastReconciledWriteIds.laptop");
    let many: serde_json::Map<String, Value> =
        (0..513).map(|id| (format!("r{id}"), json!(1))).collect();
    reconcile(json!({"clientId": "laptop", "cursor": cursor, "lastReconciledWriteIds": many}))
        .await
        .refused_field("lastReconciledWriteIds");
}

#[tokio::test]
async fn a_bad_operation_does_not_hold_back_the_others() {
    let scene = Scene::new().await;
    let mut nul = create("b", 2);
    nul["name"] = json!("a\u{0}b");
    let answer =
        scene.user("alice").push("laptop", vec![create("a", 1), nul, create("c", 3)]).await;
    let answer = answer.ok();
    let statuses: Vec<_> =
        answer["results"].as_array().unwrap().iter().map(|one| &one["status"]).collect();
    assert_eq!(json!(statuses), json!(["applied", "invalidOp", "applied"]));
    assert_eq!(answer["results"][1]["reason"], "malformed");
}

#[tokio::test]
async fn the_servers_clock_is_its_own() {
    let scene = Scene::new().await;
    let at = vfs_sync_core::time::Timestamp::parse("2030-05-06T07:08:09.010Z").unwrap();
    scene.server.clock().freeze(at);
    let alice = scene.user("alice");
    alice.push("laptop", vec![create("a", 1)]).await.ok();
    assert_eq!(alice.pull_all().await["items"][0]["occurredAt"], "2030-05-06T07:08:09.010Z");
}
