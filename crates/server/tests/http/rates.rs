//! Rates of users and addresses: what is beyond gets 429 and `Retry-After`, and nobody else notices.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vfs_sync_server::{Rate, Rates, ServerConfig};

use crate::blobs::{stage, upload};
use crate::lifecycle::with;
use crate::scene::{Answer, Caller, Scene, create, send, soon};

const NONE: Rates = Rates {
    user_requests: None,
    user_operations: None,
    user_bytes: None,
    address_requests: None,
    address_operations: None,
    address_bytes: None,
};

const fn rate(per_second: u64, burst: u64) -> Option<Rate> {
    Some(Rate { per_second, burst })
}

async fn limited(rates: Rates) -> Scene {
    with(|config| {
        config.rates = rates;
        config.proxies = vec!["127.0.0.0/8".parse().unwrap()];
    })
    .await
}

/// A request that a proxy passes on for a client at `address`.
async fn forwarded(who: &Caller, address: &str, path: &str) -> Answer {
    send(who.request("GET", path).header("x-forwarded-for", address)).await
}

fn refused(answer: &Answer, rate: &str, seconds: &str) {
    assert_eq!(answer.refused(429, "too_many_requests")["rate"], rate);
    assert_eq!(answer.header("retry-after"), seconds);
}

#[tokio::test]
async fn requests_of_a_user_have_a_rate() {
    let scene = limited(Rates { user_requests: rate(1, 5), ..NONE }).await;
    let (alice, bob) = (scene.user("alice"), scene.user("bob"));
    for _ in 0..5 {
        alice.get("/v1/vfs/limits").await.ok();
    }
    for path in ["/v1/vfs/limits", "/v1/vfs/blobs/b", "/v1/vfs/trash"] {
        let answer = alice.get(path).await;
        refused(&answer, "userRequests", "1");
        assert_eq!(answer.header("vfs-sync-user"), "alice");
    }
    let limits = bob.get("/v1/vfs/limits").await.ok();
    assert_eq!(
        (&limits["maxRequestsPerSecond"], &limits["maxRequestBurst"]),
        (&json!(1), &json!(5))
    );
    assert_eq!(limits["maxOperationsPerSecond"], 0, "no limit");
    // HTTP/2 has the same.
    let h2 = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let url = format!("{}/v1/vfs/limits", scene.server.url());
    let request = h2.get(url).bearer_auth(scene.server.token("alice"));
    refused(&send(request).await, "userRequests", "1");
    soon(async || alice.get("/v1/vfs/limits").await.status == 200).await;
}

#[tokio::test]
async fn operations_of_a_user_have_a_rate() {
    let scene = limited(Rates { user_operations: rate(10, 20), ..NONE }).await;
    let alice = scene.user("alice");
    let operations = |from: u64, to: u64| -> Vec<Value> {
        (from..=to).map(|at| create(&format!("i{at}"), at)).collect()
    };
    alice.push("laptop", operations(1, 15)).await.ok();
    refused(&alice.push("laptop", operations(16, 40)).await, "userOperations", "2");
    let none = alice.pull_all().await;
    assert_eq!(none["items"].as_array().unwrap().len(), 15, "nothing of it was applied");
    let file =
        |at: u64| json!({"blobId": format!("b{at}"), "dataBase64": "", "attach": {"itemId": "i1"}});
    let files: Vec<Value> = (0..30).map(file).collect();
    let batch = alice.post("/v1/vfs/blobs/batch", json!({ "files": files })).await;
    assert_eq!(batch.refused(429, "too_many_requests")["rate"], "userOperations");
    scene.user("bob").push("laptop", vec![create("b", 1)]).await.ok();
    soon(async || alice.push("laptop", operations(16, 18)).await.status == 200).await;
}

/// Requests are refused while the bytes are used up, those in progress are delayed.
#[tokio::test]
async fn bytes_of_a_user_have_a_rate() {
    let scene = limited(Rates { user_bytes: rate(1 << 20, 1 << 20), ..NONE }).await;
    let alice = scene.user("alice");
    let started = Instant::now();
    stage(&alice, "s", "b").await.ok();
    let bytes = vec![7; 3 << 20];
    let sent = upload(&alice, "s", &bytes);
    let others = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        soon(async || alice.get("/v1/vfs/limits").await.status == 429).await;
        scene.user("bob").get("/v1/vfs/limits").await.ok();
    };
    let (sent, ()) = tokio::join!(sent, others);
    sent.ok();
    let took = started.elapsed();
    assert!((1_500..15_000).contains(&took.as_millis()), "{took:?}");
    let read = async || loop {
        let answer = alice.get("/v1/vfs/blobs/b").await;
        match answer.status {
            429 => tokio::time::sleep(Duration::from_millis(50)).await,
            _ => return answer,
        }
    };
    let started = Instant::now();
    assert!(read().await.bytes == bytes);
    let took = started.elapsed();
    assert!((1_500..15_000).contains(&took.as_millis()), "{took:?}");
}

#[tokio::test]
async fn who_has_no_token_is_counted_by_address() {
    let scene = limited(Rates { address_requests: rate(1, 3), ..NONE }).await;
    let (nobody, alice) = (scene.nobody(), scene.user("alice"));
    for path in ["/v1/vfs/limits", "/healthz", "/none"] {
        assert_ne!(forwarded(&nobody, "9.9.9.9", path).await.status, 429, "{path}");
    }
    let forged = scene.bearer("forged");
    for path in ["/v1/vfs/limits", "/healthz", "/none", "/v1/vfs/blobs/b", "/v1/openapi.json"] {
        refused(&forwarded(&forged, "9.9.9.9", path).await, "addressRequests", "1");
        // What a client claims to have passed by before does not count.
        refused(&forwarded(&nobody, "8.8.8.8, 9.9.9.9", path).await, "addressRequests", "1");
    }
    forwarded(&alice, "9.9.9.9", "/v1/vfs/limits").await.ok();
    forwarded(&nobody, "8.8.8.8", "/healthz").await.ok();
    // The proxy itself, which checks the server's health.
    for _ in 0..10 {
        nobody.get("/healthz").await.ok();
    }
}

#[tokio::test]
async fn users_of_an_address_may_share_rates() {
    let rates =
        Rates { address_operations: rate(1, 2), address_bytes: rate(1 << 20, 1 << 20), ..NONE };
    let scene = limited(rates).await;
    let push = async |who: &str, address: &str, at: u64| {
        let operations = [create(&format!("{who}-{at}"), at)];
        let body = json!({"clientId": "laptop", "operations": operations});
        let request = scene.user(who).request("POST", "/v1/vfs/crdt/push").json(&body);
        send(request.header("x-forwarded-for", address)).await
    };
    push("alice", "9.9.9.9", 1).await.ok();
    push("bob", "9.9.9.9", 1).await.ok();
    refused(&push("carol", "9.9.9.9", 1).await, "addressOperations", "1");
    push("carol", "8.8.8.8", 1).await.ok();
}

/// Without proxies that are known, requests of this machine are a proxy's, of whoever.
#[tokio::test]
async fn an_address_that_is_not_known_has_no_rate() {
    let rates = Rates { address_requests: rate(1, 1), ..NONE };
    let scene = with(|config: &mut ServerConfig| config.rates = rates).await;
    for _ in 0..10 {
        forwarded(&scene.nobody(), "9.9.9.9", "/healthz").await.ok();
    }
}

/// The Rust client repeats what is refused.
#[tokio::test]
async fn a_client_beyond_its_rate_gets_everything_done() {
    let scene = limited(Rates { user_requests: rate(20, 20), ..NONE }).await;
    let device = scene.server.device("alice");
    let client = device.client();
    let name = |at: usize| vfs_sync_testkit::core::item::Name::new(format!("f{at}")).unwrap();
    client.start_background().unwrap();
    for at in 0..40 {
        client.create_file(None, name(at)).unwrap();
        client.request_sync();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    soon(async || client.queue().outstanding().unwrap().is_empty()).await;
    client.stop_background().await;
}
