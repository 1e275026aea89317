//! What surrounds a request: forms, sizes, encodings, versions, ids, routes.

use std::io::Write as _;

use serde_json::{Value, json};
use vfs_sync_server::OPENAPI;

use crate::described::is_of_operators;
use crate::scene::{Scene, create, send};

const PUSH: &str = "/v1/vfs/crdt/push";

#[tokio::test]
async fn a_push_that_is_none_is_refused_and_changes_nothing() {
    let scene = Scene::new().await;
    let alice = scene.user("alice");
    let body = |text: &str| {
        let request = alice.request("POST", PUSH).header("content-type", "application/json");
        send(request.body(text.to_owned()))
    };
    for bad in [
        "",
        "{",
        "[]",
        "null",
        "{}",
        r#"{"clientId":"a:b","operations":[]}"#,
        r#"{"clientId":"a"}"#,
        r#"{"clientId":"a","operations":{}}"#,
        "\u{0}",
        r#"{"clientId":"a","operations":[]} trailing"#,
        r#"["a", []]"#,
    ] {
        body(bad).await.refused(400, "invalid_request");
    }
    let missing = body(r#"{"clientId":"a"}"#).await.json();
    assert!(missing["error"].as_str().unwrap().contains("operations"), "{missing}");
    let deep = format!(r#"{{"clientId":"a","operations":{}"#, "[".repeat(100_000));
    body(&deep).await.refused(400, "invalid_request");
    assert_eq!(alice.pull_all().await["items"], json!([]));
}

#[tokio::test]
async fn a_push_is_bounded_in_operations_and_bytes() {
    let scene = Scene::new().await;
    let alice = scene.user("alice");
    let operations = |count: u64| (1..=count).map(|id| create(&format!("i{id}"), id)).collect();
    alice.push("laptop", operations(501)).await.refused(413, "too_large");
    assert_eq!(alice.pull_all().await["items"], json!([]));
    alice.push("laptop", operations(500)).await.ok();
    let mut large = create("large", 501);
    large["metadata"] = json!({"k": "x".repeat(4 * 1024 * 1024)});
    for _ in 0..5 {
        alice.push("laptop", vec![large.clone()]).await.refused(413, "too_large");
    }
}

#[tokio::test]
async fn a_refusal_reaches_a_caller_who_is_still_sending() {
    let scene = Scene::new().await;
    let body = vec![b' '; 3 * 1024 * 1024];
    for _ in 0..10 {
        let request = scene.bearer("bad").request("POST", PUSH).body(body.clone());
        send(request.header("content-type", "application/json")).await.refused(401, "unauthorized");
    }
}

#[tokio::test]
async fn a_compressed_push_counts_as_what_it_decompresses_to() {
    let scene = Scene::new().await;
    let alice = scene.user("alice");
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let zstd = |bytes: &[u8]| zstd::bulk::compress(bytes, 3).unwrap();
    let post = |coding: &str, body: Vec<u8>| {
        let request = alice.request("POST", PUSH).header("content-type", "application/json");
        send(request.header("content-encoding", coding).body(body))
    };
    let push = |id: u64| {
        let operations = [create(&format!("i{id}"), id)];
        serde_json::to_vec(&json!({"clientId": "laptop", "operations": operations})).unwrap()
    };
    for (coding, body) in
        [("zstd", zstd(&push(1))), ("gzip", gzip(&push(2))), ("identity", push(3))]
    {
        assert_eq!(post(coding, body).await.ok()["results"][0]["status"], "applied");
    }
    let bomb = vec![b' '; 200 * 1024 * 1024];
    post("gzip", gzip(&bomb)).await.refused(413, "too_large");
    post("zstd", zstd(&bomb)).await.refused(413, "too_large");
    post("zstd", push(4)).await.refused(400, "invalid_request");
    post("gzip", gzip(&push(4))[..20].to_vec()).await.refused(400, "invalid_request");
    for coding in ["br", "zstd, gzip", "zstd,zstd", "nonsense"] {
        post(coding, push(4)).await.refused(415, "unsupported_media_type");
    }
}

#[tokio::test]
async fn only_json_is_taken_for_json() {
    let scene = Scene::new().await;
    let alice = scene.user("alice");
    let post = |content_type: &str| {
        let body = r#"{"clientId":"a","operations":[]}"#;
        send(alice.request("POST", PUSH).header("content-type", content_type).body(body))
    };
    post("application/json; charset=utf-8").await.ok();
    post("Application/JSON").await.ok();
    for other in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp"] {
        post(other).await.refused(415, "unsupported_media_type");
    }
    send(alice.request("POST", PUSH).body("{}")).await.refused(415, "unsupported_media_type");
}

#[tokio::test]
async fn answers_are_compressed_for_those_who_like_it() {
    let scene = Scene::new().await;
    let alice = scene.user("alice");
    alice.push("laptop", (1..=50).map(|id| create(&format!("i{id}"), id)).collect()).await.ok();
    for (coding, decode) in [
        ("zstd", (|bytes| zstd::decode_all(bytes).unwrap()) as fn(&[u8]) -> Vec<u8>),
        ("gzip", |bytes| {
            let mut decoded = Vec::new();
            std::io::copy(&mut flate2::read::GzDecoder::new(bytes), &mut decoded).unwrap();
            decoded
        }),
    ] {
        let request =
            alice.request("GET", "/v1/vfs/crdt/vfs-sync").header("accept-encoding", coding);
        let answer = send(request).await;
        assert_eq!(answer.header("content-encoding"), coding);
        let page: Value = serde_json::from_slice(&decode(&answer.bytes)).unwrap();
        assert_eq!(page["items"].as_array().unwrap().len(), 50);
    }
}

#[tokio::test]
async fn a_protocol_is_spoken_or_refused() {
    let scene = Scene::new().await;
    let alice = scene.user("alice");
    let with = |version: &str| {
        send(alice.request("GET", "/v1/vfs/limits").header("Vfs-Sync-Protocol", version))
    };
    with("1").await.ok();
    with("2").await.ok();
    let refused = with("0").await.refused(426, "upgrade_required");
    assert_eq!(refused["minimum"], 1);
    for bad in ["", "one", "-1", "+1", "1.0", "1, 1", "99999999999999"] {
        with(bad).await.refused_field("Vfs-Sync-Protocol");
    }
}

#[tokio::test]
async fn every_answer_has_the_id_of_its_request() {
    let scene = Scene::new().await;
    let alice = scene.user("alice");
    for path in ["/v1/vfs/limits", "/healthz", "/nowhere", "/v1/vfs/crdt/vfs-sync?cursor=x"] {
        let answer = send(alice.request("GET", path).header("x-request-id", "mine-1")).await;
        assert_eq!(answer.header("x-request-id"), "mine-1", "{path}");
        if answer.status >= 400 {
            assert_eq!(answer.json()["requestId"], "mine-1");
        }
        let made = alice.get(path).await;
        assert_eq!(made.header("x-request-id").len(), 36, "{path}");
        let odd = send(alice.request("GET", path).header("x-request-id", "a b\"c")).await;
        assert_eq!(odd.header("x-request-id").len(), 36, "{path}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_told_in_json() {
    let scene = Scene::new().await;
    let alice = scene.user("alice");
    alice.get("/").await.refused(404, "not_found");
    alice.get("/v1/vfs/crdt/pull").await.refused(404, "not_found");
    let refused = alice.get(PUSH).await;
    refused.refused(405, "method_not_allowed");
    assert_eq!(refused.header("allow"), "POST");
    send(alice.request("BREW", "/healthz")).await.refused(405, "method_not_allowed");
}

#[tokio::test]
async fn the_served_document_tells_the_methods_and_who_needs_a_token() {
    let scene = Scene::of(vfs_sync_testkit::TestServer::builder().admin()).await;
    let (alice, nobody) = (scene.user("alice"), scene.nobody());
    let served = nobody.get("/v1/openapi.json").await.ok();
    assert_eq!(served, serde_json::from_str::<Value>(OPENAPI).unwrap());
    for (path, operations) in served["paths"].as_object().unwrap() {
        let path = path.replace("{stagingId}", "s").replace("{blobId}", "b");
        let mut described = operations.as_object().unwrap().clone();
        let (alice, nobody) = match is_of_operators(&described) {
            true => (scene.operator(Some(&scene.server.token("alice"))), scene.operator(None)),
            false => (alice.clone(), nobody.clone()),
        };
        // A blob may have the name of a call.
        if path.strip_prefix("/v1/vfs/blobs/").is_some_and(|name| !name.contains('/')) {
            described
                .extend(served["paths"]["/v1/vfs/blobs/{blobId}"].as_object().unwrap().clone());
        }
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH"] {
            let answer = send(alice.request(method, &path)).await;
            let is_described = described.contains_key(&method.to_lowercase());
            assert_eq!(answer.status != 405, is_described, "{method} {path}");
            if is_described {
                let open = described[&method.to_lowercase()]["security"] == json!([]);
                let status = send(nobody.request(method, &path)).await.status;
                assert_eq!(status == 401, !open, "{method} {path}: {status}");
            }
        }
    }
}

#[tokio::test]
async fn health_needs_no_token() {
    let scene = Scene::new().await;
    for path in ["/healthz", "/readyz"] {
        assert_eq!(scene.nobody().get(path).await.ok(), json!({"status": "ok"}));
    }
}

/// A request that is done is not answered as if it were refused.
#[tokio::test]
async fn who_refuses_plain_answers_gets_them_anyway() {
    let scene = Scene::new().await;
    let alice = scene.user("alice");
    for (at, refusal) in ["identity;q=0", "*;q=0", "identity; q=0.0, *;q=0.000"].iter().enumerate()
    {
        let operation = create(&format!("i{at}"), at as u64 + 1);
        let body = json!({"clientId": "laptop", "operations": [operation]});
        let push = alice.request("POST", "/v1/vfs/crdt/push").json(&body);
        let answer = send(push.header("accept-encoding", *refusal)).await.ok();
        assert_eq!(answer["results"][0]["status"], "applied", "{refusal}");
    }
    let page = alice.request("GET", "/v1/vfs/limits");
    let page = send(page.header("accept-encoding", "gzip, identity;q=0")).await;
    assert_eq!((page.status, page.header("content-encoding")), (200, "gzip"));
}
