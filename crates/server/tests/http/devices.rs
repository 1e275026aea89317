//! Devices and users over HTTP: who is listed, and who is served no longer.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use serde_json::{Value, json};

use crate::scene::{Answer, Caller, Scene, create, send, soon};

const DEVICE: &str = "name=My%20laptop&version=9.9&platform=linux-x86_64&queue=4";

async fn as_device(caller: &Caller, method: &str, path: &str, client: &str) -> Answer {
    let request = caller.request(method, path);
    send(request.header("vfs-sync-client", client).header("vfs-sync-device", DEVICE)).await
}

async fn devices(caller: &Caller) -> Vec<Value> {
    caller.get("/v1/vfs/devices").await.ok()["devices"].as_array().unwrap().clone()
}

/// Waits until the server has noted that a device called.
async fn noted(caller: &Caller, client: &str) {
    soon(async || devices(caller).await.iter().any(|one| one["clientId"] == client)).await;
}

#[tokio::test]
async fn a_device_is_listed_renamed_and_revoked_by_its_user_alone() {
    let scene = Scene::new().await;
    let (alice, bob) = (scene.user("alice"), scene.user("bob"));
    as_device(&alice, "GET", "/v1/vfs/limits", "laptop").await.ok();
    noted(&alice, "laptop").await;
    let found = devices(&alice).await;
    for (field, value) in [
        ("name", json!("My laptop")),
        ("version", json!("9.9")),
        ("platform", json!("linux-x86_64")),
        ("queue", json!(4)),
        ("lag", json!(null)),
        ("condition", json!("active")),
    ] {
        assert_eq!(found[0][field], value, "{field}");
    }
    assert!(found[0].get("userId").is_none());
    assert_eq!(devices(&bob).await, [] as [Value; 0]);

    let path = "/v1/vfs/devices/laptop";
    bob.post(path, json!({"name": "x"})).await.refused(404, "unknown_device");
    bob.delete(path).await.refused(404, "unknown_device");
    assert_eq!(alice.post(path, json!({"name": "Work\u{7}"})).await.status, 204);
    assert_eq!(devices(&alice).await[0]["name"], "Work");
    for bad in [json!({}), json!({"name": " "}), json!({"name": 7})] {
        assert_eq!(alice.post(path, bad).await.status, 400);
    }
    for _ in 0..2 {
        assert_eq!(alice.delete(path).await.status, 204);
    }
    as_device(&alice, "GET", "/v1/vfs/limits", "laptop").await.refused(403, "device_revoked");
    assert_eq!(devices(&alice).await[0]["condition"], "revoked");
}

#[tokio::test]
async fn a_revoked_device_is_refused_by_every_call_however_it_names_itself() {
    let scene = Scene::new().await;
    let alice = scene.user("alice");
    as_device(&alice, "GET", "/v1/vfs/limits", "laptop").await.ok();
    noted(&alice, "laptop").await;
    assert_eq!(alice.delete("/v1/vfs/devices/laptop").await.status, 204);
    for (method, path) in [
        ("POST", "/v1/vfs/crdt/push"),
        ("GET", "/v1/vfs/crdt/vfs-sync"),
        ("POST", "/v1/vfs/crdt/reconcile"),
        ("GET", "/v1/vfs/crdt/events?clientId=laptop"),
        ("POST", "/v1/vfs/blobs/stage"),
        ("PUT", "/v1/vfs/blobs/stage/s/data"),
        ("GET", "/v1/vfs/blobs/b"),
        ("POST", "/v1/vfs/telemetry"),
        ("GET", "/v1/vfs/devices"),
    ] {
        as_device(&alice, method, path, "laptop").await.refused(403, "device_revoked");
    }
    // Clients of earlier versions send no header.
    alice.get("/v1/vfs/crdt/vfs-sync?clientId=laptop").await.refused(403, "device_revoked");
    alice.push("laptop", vec![create("a", 1)]).await.refused(403, "device_revoked");
    let state = json!({"clientId": "laptop", "cursor": "x", "lastReconciledWriteIds": {}});
    assert!(alice.post("/v1/vfs/crdt/reconcile", state).await.status >= 400);
    alice.get("/v1/vfs/limits").await.ok();
    as_device(&alice, "GET", "/v1/vfs/limits", "phone").await.ok();
    for bad in ["a:b", "%zz", ""] {
        let answer = as_device(&alice, "GET", "/v1/vfs/limits", bad).await;
        answer.refused_field("Vfs-Sync-Client");
    }
}

#[tokio::test]
async fn what_a_revoked_device_has_open_ends_within_five_seconds() {
    let scene = Scene::new().await;
    let alice = scene.user("alice");
    let stream = alice.request("GET", "/v1/vfs/crdt/events?clientId=laptop");
    let stream = stream.header("vfs-sync-client", "laptop").send().await.unwrap();
    assert_eq!(stream.status(), 200);
    let other = alice.request("GET", "/v1/vfs/crdt/events?clientId=phone");
    let mut other = other.send().await.unwrap().bytes_stream();
    other.next().await.unwrap().unwrap();
    // An upload whose bytes never end.
    alice.post("/v1/vfs/blobs/stage", json!({"stagingId": "s", "blobId": "b"})).await.ok();
    let endless = futures::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![7; 1024])).then(
        |bytes| async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            bytes
        },
    );
    let upload = alice.request("PUT", "/v1/vfs/blobs/stage/s/data");
    let upload =
        upload.header("vfs-sync-client", "laptop").body(reqwest::Body::wrap_stream(endless));
    let upload = tokio::spawn(upload.send());
    noted(&alice, "laptop").await;

    let begun = Instant::now();
    assert_eq!(alice.delete("/v1/vfs/devices/laptop").await.status, 204);
    let mut events = stream.bytes_stream();
    while events.next().await.is_some_and(|event| event.is_ok()) {}
    // The server may hang up on a body that still comes.
    if let Ok(answer) = upload.await.unwrap() {
        assert_eq!(answer.status(), 403);
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let open = tokio::time::timeout(Duration::from_millis(100), async {
        while other.next().await.is_some_and(|event| event.is_ok()) {}
    });
    assert!(open.await.is_err(), "the other device's stream is open");
}

#[tokio::test]
async fn operators_list_and_revoke_devices_of_anybody() {
    let scene = Scene::new().await;
    let (alice, root) = (scene.user("alice"), scene.administrator("root"));
    for client in ["laptop", "phone", "tablet"] {
        as_device(&alice, "GET", "/v1/vfs/limits", client).await.ok();
        noted(&alice, client).await;
    }
    alice.get("/v1/vfs/admin/devices").await.refused(403, "insufficient_scope");
    let delete = alice.delete("/v1/vfs/admin/devices/alice/phone").await;
    delete.refused(403, "insufficient_scope");
    let first = root.get("/v1/vfs/admin/devices?limit=2").await.ok();
    let cursor = first["nextCursor"].as_str().unwrap();
    let rest = root.get(&format!("/v1/vfs/admin/devices?limit=2&cursor={cursor}")).await.ok();
    assert_eq!(rest["devices"][0]["clientId"], "tablet");
    assert_eq!(rest["devices"][0]["userId"], "alice");
    assert_eq!(rest["nextCursor"], Value::Null);
    let none = root.get("/v1/vfs/admin/devices?userId=bob").await.ok();
    assert_eq!(none["devices"], json!([]));
    root.get("/v1/vfs/admin/devices?cursor=x").await.refused(400, "invalid_cursor");
    assert_eq!(root.delete("/v1/vfs/admin/devices/alice/phone").await.status, 204);
    root.delete("/v1/vfs/admin/devices/bob/phone").await.refused(404, "unknown_device");
    as_device(&alice, "GET", "/v1/vfs/limits", "phone").await.refused(403, "device_revoked");
}

#[tokio::test]
async fn operators_disable_and_limit_users() {
    let scene = Scene::new().await;
    let (alice, root) = (scene.user("alice"), scene.administrator("root"));
    alice.file(1).await;
    let users = root.get("/v1/vfs/admin/users").await.ok();
    assert_eq!(users["users"][0]["userId"], "alice");
    assert_eq!(users["users"][0]["items"], 1);
    let shown = root.get("/v1/vfs/admin/users/alice").await.ok();
    assert_eq!(shown, users["users"][0]);
    assert_eq!(shown["pseudonym"].as_str().unwrap().len(), 16);
    root.get("/v1/vfs/admin/users/nobody").await.refused(404, "unknown_user");
    alice.get("/v1/vfs/admin/users").await.refused(403, "insufficient_scope");

    let limits = json!({"maxItems": 1, "maxStoredBytes": 10});
    assert_eq!(root.post("/v1/vfs/admin/users/alice/limits", limits.clone()).await.status, 204);
    assert_eq!(root.get("/v1/vfs/admin/users/alice").await.ok()["limits"], limits);
    let served = alice.get("/v1/vfs/limits").await.ok();
    assert_eq!((&served["maxItems"], &served["maxStoredBytes"]), (&json!(1), &json!(10)));
    let refused = alice.push("laptop", vec![create("b", 2)]).await.refused(413, "quota_exceeded");
    assert_eq!(refused["limit"], "maxItems");
    for bad in [json!({"maxThings": 1}), json!({"maxItems": -1}), json!({"maxItems": 1u64 << 63})] {
        let answer = root.post("/v1/vfs/admin/users/alice/limits", bad.clone()).await;
        assert_eq!(answer.status, 400, "{bad}");
    }

    let change = async |step: &str| {
        let path = format!("/v1/vfs/admin/users/alice/{step}");
        send(root.request("POST", &path)).await.status
    };
    assert_eq!(change("disable").await, 204);
    alice.get("/v1/vfs/limits").await.refused(403, "user_disabled");
    as_device(&alice, "GET", "/v1/vfs/limits", "phone").await.refused(403, "user_disabled");
    scene.user("bob").get("/v1/vfs/limits").await.ok();
    assert_eq!(change("enable").await, 204);
    alice.get("/v1/vfs/limits").await.ok();
    let own = send(root.request("POST", "/v1/vfs/admin/users/root/disable")).await;
    own.refused_field("userId");
}

#[tokio::test]
async fn a_user_is_deleted_after_a_wait_and_denied_until_allowed() {
    let quick = Duration::from_millis(20);
    let scene = crate::lifecycle::with(|config| {
        (config.deletion_interval, config.deletion_settle) = (quick, quick);
    })
    .await;
    let (alice, bob, root) = (scene.user("alice"), scene.user("bob"), scene.administrator("root"));
    let item = bob.file(1).await;
    as_device(&bob, "GET", "/v1/vfs/limits", "phone").await.ok();
    noted(&bob, "phone").await;
    let path = |step: &str| format!("/v1/vfs/admin/users/bob/{step}");
    alice.post(&path("delete"), json!({})).await.refused(403, "insufficient_scope");
    let nobody = root.post("/v1/vfs/admin/users/nobody/delete", json!({})).await;
    nobody.refused(404, "unknown_user");
    let own = root.post("/v1/vfs/admin/users/root/delete", json!({})).await;
    own.refused_field("userId");
    let long = json!({"waitSeconds": 366 * 24 * 3_600 + 1});
    root.post(&path("delete"), long).await.refused_field("waitSeconds");
    for bad in [json!({"waitSeconds": -1}), json!({"waitSeconds": "x"}), json!([])] {
        assert_eq!(root.post(&path("delete"), bad.clone()).await.status, 400, "{bad}");
    }

    let waiting = root.post(&path("delete"), json!({})).await.ok();
    assert_eq!(waiting["state"], "waiting");
    bob.get("/v1/vfs/limits").await.refused(403, "user_disabled");
    let enable = async || send(root.request("POST", &path("enable"))).await;
    enable().await.refused(409, "deletion_under_way");
    let allow = async || send(root.request("POST", &path("allow"))).await.ok();
    assert_eq!(allow().await["outcome"], "calledOff");
    bob.get("/v1/vfs/limits").await.ok();

    // An upload is under way, and a push comes in between.
    let stage = json!({"stagingId": "s", "blobId": "b"});
    assert_eq!(bob.post("/v1/vfs/blobs/stage", stage).await.status, 201);
    let upload = bob.request("PUT", "/v1/vfs/blobs/stage/s/data");
    let (more, parts) = futures::channel::mpsc::unbounded::<Result<Vec<u8>, std::io::Error>>();
    more.unbounded_send(Ok(vec![1; 100_000])).unwrap();
    let upload = tokio::spawn(upload.body(reqwest::Body::wrap_stream(parts)).send());
    let pushing = async || bob.push("phone", vec![create("late", 2)]).await.status;
    let delete = path("delete");
    let (begun, _) = tokio::join!(root.post(&delete, json!({"waitSeconds": 0})), pushing());
    assert!(["waiting", "removing"].contains(&begun.ok()["state"].as_str().unwrap()));
    let show = async || root.get("/v1/vfs/admin/users/bob").await.ok()["deletion"].clone();
    soon(async || show().await["state"] == "done").await;
    drop(more);
    if let Ok(answer) = upload.await.unwrap() {
        assert_ne!(answer.status(), 200);
    }
    let receipt = show().await;
    assert!(receipt["removed"]["items"].as_u64() >= Some(1), "{receipt}");
    assert!(receipt["removed"]["rows"].as_u64() >= Some(2), "{receipt}");
    assert!(receipt["outOfReach"]["backups"].is_string());
    bob.get("/v1/vfs/limits").await.refused(403, "user_deleted");
    bob.push("phone", vec![create("x", 9)]).await.refused(403, "user_deleted");
    bob.get(&format!("/v1/vfs/items/{item}/versions")).await.refused(403, "user_deleted");
    enable().await.refused(409, "deletion_under_way");
    soon(async || scene.objects().await.is_empty()).await;
    let users = root.get("/v1/vfs/admin/users").await.ok();
    let names: Vec<_> = users["users"].as_array().unwrap().iter().map(|u| &u["userId"]).collect();
    assert!(!names.contains(&&json!("bob")), "{names:?}");

    assert_eq!(allow().await["outcome"], "allowed");
    bob.get("/v1/vfs/limits").await.ok();
    assert_eq!(bob.get("/v1/vfs/crdt/vfs-sync").await.ok()["items"], json!([]));
    assert_eq!(allow().await["outcome"], "notDeleted");
    assert_eq!(show().await["state"], "allowed");
}

#[tokio::test]
async fn a_device_that_has_seen_a_later_epoch_than_the_database_is_not_served() {
    let scene = Scene::new().await;
    let alice = scene.user("alice");
    let pushed = alice.push("laptop", vec![create("a", 1)]).await.ok();
    let present = pushed["epoch"].as_u64().unwrap();
    let pull = async |description: String| {
        let request =
            alice.request("GET", "/v1/vfs/crdt/vfs-sync").header("vfs-sync-client", "laptop");
        send(request.header("vfs-sync-device", description)).await
    };
    for served in ["name=x".to_owned(), format!("epoch={present}"), "epoch=x".into()] {
        assert_eq!(pull(served).await.ok()["epoch"], present);
    }
    let behind = pull(format!("name=x&epoch={}", present + 1)).await;
    behind.refused(503, "database_behind");
    assert_eq!(behind.header("retry-after"), "1");
    // It is asked each time: another process may have begun an epoch since.
    let later = scene.server.store().new_epoch(scene.server.clock().now(), 1).await.unwrap();
    assert_eq!(pull(format!("epoch={}", later.as_u64())).await.ok()["epoch"], later.as_u64());
}
