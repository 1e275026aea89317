//! Every field of every body, replaced by what it must not be.

use serde_json::{Value, json};

use crate::blobs::{stage, upload};
use crate::scene::{Caller, Scene, create};

fn odd_values() -> Vec<Value> {
    vec![
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(1.5),
        json!(1e300),
        json!(u64::MAX),
        json!(""),
        json!(" "),
        json!("\u{0}"),
        json!("../.."),
        json!("é".repeat(200)),
        json!("x".repeat(20_000)),
        json!("2026-13-45T00:00:00Z"),
        json!([]),
        json!([[[]]]),
        json!({}),
        json!({"": {"": []}}),
        json!([null, 1, "x"]),
    ]
}

/// The places of a body: every member and element, however deep.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    let inner: Vec<(String, &Value)> = match value {
        Value::Object(members) => {
            members.iter().map(|(name, member)| (format!("{at}/{name}"), member)).collect()
        }
        Value::Array(elements) => {
            elements.iter().enumerate().map(|(n, one)| (format!("{at}/{n}"), one)).collect()
        }
        _ => vec![],
    };
    for (place, value) in inner {
        places(value, &place, found);
        found.push(place);
    }
}

/// A server that fails on a request has a bug; one that is refused says why, in one form.
async fn bombard(caller: &Caller, path: &str, good: &Value) {
    let mut all = vec![String::new()];
    places(good, "", &mut all);
    for place in all {
        for odd in odd_values() {
            let mut body = good.clone();
            *body.pointer_mut(&place).unwrap() = odd.clone();
            let answer = caller.post(path, body).await;
            let told = answer.json();
            assert!(answer.status < 500, "{path} {place} {odd}: {told}");
            if answer.status >= 400 {
                assert!(told["code"].is_string() && told["error"].is_string(), "{told}");
            }
        }
    }
}

#[tokio::test]
async fn no_body_makes_the_server_fail() {
    let scene = Scene::new().await;
    let alice = scene.user("alice");
    let item = alice.file(1).await;
    let head = alice.pull_all().await["baseline"].clone();
    stage(&alice, "s", "b").await.ok();
    upload(&alice, "s", b"bytes").await.ok();

    let mut link = create("link", 3);
    link["opType"] = json!("link_add");
    (link["parentId"], link["childId"]) = (json!(item), json!("link"));
    let mut operation = create("o", 2);
    operation["metadata"] = json!({"mtime": "2026-01-01T00:00:00Z", "mode": 420});
    operation["parentId"] = json!(item);
    let push = json!({"clientId": "laptop", "operations": [operation, link]});
    bombard(&alice, "/v1/vfs/crdt/push", &push).await;

    let write_ids = json!({"laptop": 1});
    let state = json!({"clientId": "laptop", "cursor": head, "lastReconciledWriteIds": write_ids});
    bombard(&alice, "/v1/vfs/crdt/reconcile", &state).await;

    let opened = json!({
        "stagingId": "t", "blobId": "c", "contentType": "text/plain", "dataBase64": "aGVsbG8=",
        "expiresAt": "2026-01-01T00:00:00Z",
    });
    bombard(&alice, "/v1/vfs/blobs/stage", &opened).await;

    let attach = json!({
        "itemId": item, "relationKind": "file", "clientId": "laptop", "requiredCursor": head,
        "requiredLastReconciledWriteIds": write_ids, "expectedBlobId": null,
    });
    bombard(&alice, "/v1/vfs/blobs/stage/s/attach", &attach).await;

    let file = json!({
        "stagingId": "u", "blobId": "d", "contentType": "text/plain", "dataBase64": "aGVsbG8=",
        "attach": attach,
    });
    bombard(&alice, "/v1/vfs/blobs/batch", &json!({"files": [file]})).await;
    assert_eq!(scene.nobody().get("/readyz").await.status, 200);
    alice.pull_all().await;
}
