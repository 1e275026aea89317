//! Connections, time-outs, overload, stopping and starting, the operator's numbers.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use vfs_sync_server::ServerConfig;
use vfs_sync_testkit::TestServer;

use crate::scene::{Scene, create, send, soon};

pub(crate) async fn with(change: impl FnOnce(&mut ServerConfig)) -> Scene {
    let mut config = ServerConfig::default();
    change(&mut config);
    Scene::of(TestServer::builder().config(config).admin()).await
}

pub(crate) async fn connect(scene: &Scene) -> TcpStream {
    TcpStream::connect(scene.server.url().strip_prefix("http://").unwrap()).await.unwrap()
}

/// The head of a push of alice's whose body is still to come.
pub(crate) fn head(scene: &Scene, length: usize) -> String {
    format!(
        "POST /v1/vfs/crdt/push HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n",
        scene.server.token("alice")
    )
}

/// A push that the server has begun to read; its body is still to come.
pub(crate) async fn begin_push(scene: &Scene, length: usize) -> TcpStream {
    let mut stream = connect(scene).await;
    let head = head(scene, length).replace("\r\n\r\n", "\r\nexpect: 100-continue\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).await.unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream
}

pub(crate) async fn everything(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    stream.read_to_end(&mut text).await.unwrap();
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn a_caller_who_sends_no_whole_head_is_hung_up_on() {
    let scene = with(|config| config.head_timeout = Duration::from_millis(50)).await;
    for part in ["", "P", "PRI * HTTP/2.0\r\n", "GET /healthz HTTP/1.1\r\nhost:"] {
        let mut stream = connect(&scene).await;
        stream.write_all(part.as_bytes()).await.unwrap();
        let hung_up = tokio::time::timeout(Duration::from_secs(20), everything(&mut stream)).await;
        assert!(hung_up.is_ok(), "{part}");
    }
}

#[tokio::test]
async fn a_caller_who_sends_no_body_is_told_so() {
    let scene = with(|config| config.idle_timeout = Duration::from_millis(50)).await;
    let mut stream = connect(&scene).await;
    stream.write_all(head(&scene, 100).as_bytes()).await.unwrap();
    stream.write_all(b"{").await.unwrap();
    let answer = everything(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("request_timeout"), "{answer}");
}

#[tokio::test]
async fn a_request_is_bounded_in_time_as_a_whole() {
    let scene = with(|config| config.request_timeout = Duration::from_millis(50)).await;
    let mut stream = connect(&scene).await;
    stream.write_all(head(&scene, 100).as_bytes()).await.unwrap();
    let answer = everything(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("\"timeout\"") && answer.contains("retry-after: 1"), "{answer}");
}

#[tokio::test]
async fn more_than_the_server_can_do_is_told_to_come_back() {
    let scene = with(|config| config.max_requests = 1).await;
    let alice = scene.user("alice");
    let _slow = begin_push(&scene, 100).await;
    let refused = alice.get("/v1/vfs/limits").await;
    refused.refused(503, "overloaded");
    assert_eq!(refused.header("retry-after"), "1");
    assert_eq!(scene.nobody().get("/healthz").await.status, 200);
}

#[tokio::test]
async fn bodies_take_no_more_memory_than_they_may() {
    let scene = with(|config| config.max_body_memory = 64 * 1024).await;
    let alice = scene.user("alice");
    let mut large = create("large", 1);
    large["metadata"] = json!({"k": "x".repeat(100 * 1024)});
    alice.push("laptop", vec![large]).await.refused(503, "overloaded");
    alice.push("laptop", vec![create("small", 1)]).await.ok();
}

#[tokio::test]
async fn a_push_that_is_under_way_is_finished_before_the_server_stops() {
    let mut scene = with(|_| {}).await;
    let body = json!({"clientId": "laptop", "operations": [create("a", 1)]}).to_string();
    let (first, rest) = body.split_at(10);
    let mut stream = begin_push(&scene, body.len()).await;
    stream.write_all(first.as_bytes()).await.unwrap();

    let address = scene.server.url().strip_prefix("http://").unwrap().to_owned();
    let stopping = async {
        scene.server.stop().await;
        scene
    };
    let finishing = async {
        soon(async || TcpStream::connect(&address).await.is_err()).await;
        stream.write_all(rest.as_bytes()).await.unwrap();
        everything(&mut stream).await
    };
    let (mut stopped, answer) = tokio::join!(stopping, finishing);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("\"applied\""), "{answer}");
    stopped.server.start_again().await;
    let page = stopped.user("alice").pull_all().await;
    assert_eq!(page["items"][0]["itemId"], "a");
}

#[tokio::test]
async fn a_request_that_never_ends_does_not_keep_the_server_up() {
    let mut scene = with(|config| config.drain_timeout = Duration::from_millis(50)).await;
    let mut stream = begin_push(&scene, 100).await;
    stream.write_all(b"{").await.unwrap();
    scene.server.stop().await;
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert!(rest.is_empty());
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let mut scene = with(|_| {}).await;
    scene.user("alice").push("laptop", vec![create("a", 1)]).await.ok();
    // Each start begins an epoch, which an answer tells beside what it holds.
    let mut epochs = Vec::new();
    let mut held = |mut page: serde_json::Value| {
        epochs.push(page["epoch"].take());
        page
    };
    let before = held(scene.user("alice").pull_all().await);
    scene.server.restart().await;
    assert_eq!(held(scene.user("alice").pull_all().await), before);
    scene.server.abort().await;
    scene.server.start_again().await;
    assert_eq!(held(scene.user("alice").pull_all().await), before);
    assert!(epochs.is_sorted_by_key(|epoch| epoch.as_u64()), "{epochs:?}");
}

#[tokio::test]
async fn what_retention_no_longer_keeps_is_pruned() {
    let scene = with(|config| {
        config.prune_interval = Duration::from_millis(5);
    })
    .await;
    let alice = scene.user("alice");
    let mut delete = create("a", 2);
    delete["opType"] = json!("item_delete");
    delete["opId"] = json!("gone");
    delete["occurredAt"] = json!("2026-01-02T00:00:00Z");
    alice.push("laptop", vec![create("a", 1)]).await.ok();
    alice.push("laptop", vec![delete]).await.ok();
    let state = |alice: crate::scene::Caller| async move {
        alice.get("/v1/vfs/crdt/state?clientId=laptop").await.ok()
    };
    assert_eq!(state(alice.clone()).await["prunedThrough"], json!(null));
    scene.server.clock().advance(Duration::from_secs(91 * 24 * 3_600));
    soon(async || !state(alice.clone()).await["prunedThrough"].is_null()).await;
    assert_eq!(alice.pull_all().await["items"], json!([]));
}

#[tokio::test]
async fn the_operator_sees_numbers_without_a_token_and_nobody_else_does() {
    let scene = with(|_| {}).await;
    let alice = scene.user("alice");
    alice.push("laptop", vec![create("a", 1)]).await.ok();
    alice.pull_all().await;
    alice.get("/v1/vfs/blobs/none").await.refused(404, "unknown_blob");
    alice.get("/made/up/route").await.refused(404, "not_found");
    let admin = scene.server.admin_url().unwrap();
    let answer = reqwest::get(format!("{admin}/metrics")).await.unwrap();
    let text = answer.text().await.unwrap();
    for expected in [
        r#"vfs_sync_http_requests_total{method="POST",route="/v1/vfs/crdt/push",status="200"}"#,
        r#"vfs_sync_http_requests_total{method="GET",route="/v1/vfs/blobs/{blobId}",status="404"}"#,
        r#"vfs_sync_http_requests_total{method="GET",route="none",status="404"}"#,
        r#"vfs_sync_push_results_total{status="applied",reason=""}"#,
        "vfs_sync_pull_items_total",
        r#"vfs_sync_http_request_duration_seconds_bucket{route="/v1/vfs/crdt/push",status="200",le="#,
        "# HELP vfs_sync_push_results_total Results of pushed operations.",
        "# TYPE vfs_sync_push_duration_seconds histogram",
        r#"le="600""#,
        "vfs_sync_commit_duration_seconds_count",
        r#"vfs_sync_build_info{version="#,
        "process_resident_memory_bytes",
        r#"code="staleWriteRecoveryExhausted",signature="flush:staleWriteRecoveryExhausted"}"#,
        r#"vfs_sync_store_errors_total{kind="full"}"#,
        "vfs_sync_pulls_refused_total",
    ] {
        assert!(text.contains(expected), "{expected} is not in\n{text}");
    }
    assert!(!text.contains("alice") && !text.contains("made/up"));
    assert_eq!(reqwest::get(format!("{admin}/healthz")).await.unwrap().status(), 200);
    alice.get("/metrics").await.refused(404, "not_found");
}

#[tokio::test]
async fn the_operators_listener_has_the_operators_api_and_nothing_else() {
    let scene = with(|_| {}).await;
    let admin = scene.server.admin_url().unwrap();
    let http = reqwest::Client::new();
    let status = async |token: Option<&str>, path: &str| {
        let request = http.get(format!("{admin}{path}"));
        let request = match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        request.send().await.unwrap().status().as_u16()
    };
    for path in ["/metrics", "/healthz", "/readyz"] {
        assert_eq!(status(None, path).await, 200, "{path}");
    }
    let (root, alice) =
        (scene.server.token_with_scope("root", "vfs:admin"), scene.server.token("alice"));
    for path in ["/v1/vfs/admin/users", "/v1/vfs/admin/devices"] {
        assert_eq!(status(Some(&root), path).await, 200, "{path}");
        assert_eq!(status(Some(&alice), path).await, 403, "{path}");
        assert_eq!(status(None, path).await, 401, "{path}");
    }
    for path in
        ["/v1/vfs/limits", "/v1/vfs/devices", "/v1/vfs/crdt/vfs-sync", "/v1/openapi.json", "/"]
    {
        for token in [Some(&*root), None] {
            assert_eq!(status(token, path).await, 404, "{path}");
        }
    }
}

#[tokio::test]
async fn sums_are_sampled_in_the_background() {
    let scene = with(|_| {}).await;
    let admin = scene.server.admin_url().unwrap();
    let text =
        async || reqwest::get(format!("{admin}/metrics")).await.unwrap().text().await.unwrap();
    crate::scene::soon(async || {
        let text = text().await;
        [
            "vfs_sync_users ",
            "vfs_sync_database_primary 1",
            r#"vfs_sync_devices{condition="stuck"} "#,
        ]
        .iter()
        .all(|line| text.contains(line))
    })
    .await;
}

#[tokio::test]
async fn http_2_is_spoken_without_tls() {
    let scene = with(|_| {}).await;
    let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let answer = client.get(format!("{}/healthz", scene.server.url())).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.version()), (200, http::Version::HTTP_2));
}

#[tokio::test]
async fn a_slow_upload_is_taken_for_as_long_as_it_flows() {
    use futures::StreamExt as _;
    let scene = with(|config| {
        config.request_timeout = Duration::from_secs(1);
        config.idle_timeout = Duration::from_secs(30);
    })
    .await;
    let alice = scene.user("alice");
    alice.post("/v1/vfs/blobs/stage", json!({"stagingId": "s", "blobId": "b"})).await.ok();
    let ticks = tokio::time::interval(Duration::from_millis(100));
    let chunks = futures::stream::unfold(ticks, |mut ticks| async {
        ticks.tick().await;
        Some((Ok::<_, std::io::Error>(vec![1_u8; 10]), ticks))
    })
    .take(12);
    let request =
        alice.request("PUT", "/v1/vfs/blobs/stage/s/data").body(reqwest::Body::wrap_stream(chunks));
    assert_eq!(send(request).await.ok()["size"], 120);
}
