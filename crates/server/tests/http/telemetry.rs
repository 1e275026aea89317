//! Reports of clients: counted once, kept with their devices, and harmless whatever they say.

use serde_json::{Value, json};
use vfs_sync_core::id::UserId;

use crate::scene::{Caller, Scene};

const TELEMETRY: &str = "/v1/vfs/telemetry";

fn report(id: &str, signature: &str) -> Value {
    let (stage, code) = signature.split_once(':').unwrap_or(("", signature));
    let mut report = json!({
        "reportId": id, "signature": signature, "code": code,
        "occurredAt": "2026-01-01T00:00:00Z", "details": {"attempts": 2, "name": "Holiday.jpg"},
    });
    if !stage.is_empty() {
        report["stage"] = stage.into();
    }
    report
}

fn body(client: &str, reports: &[Value]) -> Value {
    json!({"clientId": client, "clientVersion": "9.9.9", "reports": reports})
}

async fn kept(scene: &Scene, user: &str) -> Vec<(String, Vec<String>)> {
    let user = UserId::new(user).unwrap();
    let found = scene.server.store().devices(Some(user), None, 100).await.unwrap();
    let of = |one: vfs_sync_core::server::device::DeviceState| {
        let reports = one.device.facts.reports.into_iter();
        (one.device.client.to_string(), reports.map(|report| report.signature).collect())
    };
    found.into_iter().map(of).collect()
}

async fn sent(caller: &Caller, reports: &[Value]) {
    assert_eq!(caller.post(TELEMETRY, body("phone", reports)).await.status, 204);
}

#[tokio::test]
async fn a_report_is_kept_with_its_device_and_once() {
    let scene = Scene::new().await;
    let alice = scene.user("alice");
    let reports = [report("1", "pull:pullCursorRegression"), report("2", "wrong_user")];
    for _ in 0..2 {
        sent(&alice, &reports).await;
    }
    sent(&scene.user("bob"), &[report("1", "client")]).await;
    let expected = vec!["pull:pullCursorRegression".to_owned(), "wrong_user".to_owned()];
    assert_eq!(kept(&scene, "alice").await, [("phone".to_owned(), expected)]);
    assert_eq!(kept(&scene, "bob").await, [("phone".to_owned(), vec!["client".to_owned()])]);
    let store = scene.server.store();
    let found = store.devices(None, None, 1).await.unwrap().remove(0);
    let details = &found.device.facts.reports[0].details;
    assert_eq!(Value::Object(details.clone()), json!({"attempts": 2}), "no names");
}

#[tokio::test]
async fn hostile_reports_are_refused_or_count_as_other() {
    let scene = Scene::new().await;
    let alice = scene.user("alice");
    let odd = [report("1", "pull:made up\nby me"), report("2", &"x".repeat(5_000))];
    sent(&alice, &odd).await;
    let other = vec!["other".to_owned(); 2];
    assert_eq!(kept(&scene, "alice").await, [("phone".to_owned(), other)]);

    let many: Vec<Value> = (0..11).map(|n| report(&format!("m{n}"), "client")).collect();
    alice.post(TELEMETRY, body("phone", &many)).await.refused(413, "too_large");
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    for bad in [
        "",
        "[]",
        "7",
        "{}",
        r#"{"clientId":"a:b","clientVersion":"1","reports":[]}"#,
        r#"{"clientId":"a","clientVersion":1,"reports":[]}"#,
        r#"{"clientId":"a","clientVersion":"1","reports":[{}]}"#,
        &deep,
    ] {
        let request = alice.request("POST", TELEMETRY).header("content-type", "application/json");
        let answer = crate::scene::send(request.body(bad.to_owned())).await;
        assert_eq!(answer.status, 400, "{bad:.60}");
    }
    let large = report("l", "client").to_string().replace("Holiday", &"x".repeat(40_000));
    let large: Value = serde_json::from_str(&large).unwrap();
    alice.post(TELEMETRY, body("phone", &[large])).await.refused(413, "too_large");
    scene.nobody().post(TELEMETRY, body("phone", &[])).await.refused(401, "unauthorized");
}

#[tokio::test]
async fn a_flood_of_reports_is_refused_and_leaves_room_for_others() {
    let scene = Scene::new().await;
    let mallory = scene.user("mallory");
    let mut refused = 0;
    for n in 0..20 {
        let reports: Vec<Value> = (0..10).map(|m| report(&format!("{n}-{m}"), "client")).collect();
        let answer = mallory.post(TELEMETRY, body("phone", &reports)).await;
        if answer.status == 429 {
            assert_eq!(answer.refused(429, "too_many_requests")["rate"], "userReports");
            refused += 1;
        }
    }
    assert!((8..=10).contains(&refused), "{refused}");
    assert_eq!(kept(&scene, "mallory").await[0].1.len(), 10);
    sent(&scene.user("alice"), &[report("1", "client")]).await;
}
