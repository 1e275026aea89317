//! Live updates: the stream of hints that a feed has moved.

use std::time::Duration;

use serde_json::{Value, json};
use vfs_sync_server::ServerConfig;
use vfs_sync_server::auth::{AuthConfig, Secret};
use vfs_sync_store::testing::new_postgres_database;
use vfs_sync_testkit::TestServer;

use crate::described::{Seen, undocumented};
use crate::lifecycle::with;
use crate::scene::{Caller, Scene, create, soon};

/// An open stream.
struct Events {
    answer: reqwest::Response,
    rest: String,
}

/// An event: its name, or "" for a comment, and its data.
#[derive(Debug, PartialEq)]
struct Event {
    name: String,
    data: Value,
    retry: Option<u64>,
}

impl Events {
    async fn open(caller: &Caller, client: &str) -> Self {
        let path = format!("/v1/vfs/crdt/events?clientId={client}");
        let answer = caller.request("GET", &path).send().await.unwrap();
        let header = |name: &str| {
            answer.headers().get(name).map_or("", |value| value.to_str().unwrap()).to_owned()
        };
        let seen = Seen {
            method: "GET",
            target: &path,
            status: answer.status().as_u16(),
            content_type: &header("content-type"),
            body: b"",
        };
        assert_eq!(undocumented(&seen), None);
        assert_eq!(answer.status(), 200);
        assert_eq!(header("content-type"), "text/event-stream");
        assert_eq!(header("cache-control"), "no-store");
        assert_eq!(header("x-accel-buffering"), "no");
        assert_eq!(header("content-encoding"), "");
        assert_eq!(header("vfs-sync-user"), "alice");
        let mut events = Self { answer, rest: String::new() };
        let retry = events.next().await.unwrap().retry.unwrap();
        assert!((1_000..=5_000).contains(&retry));
        events
    }

    /// The next event; `None` at the stream's end.
    async fn next(&mut self) -> Option<Event> {
        let reading = async {
            loop {
                if let Some((event, rest)) = self.rest.split_once("\n\n") {
                    let event = parse(event);
                    self.rest = rest.to_owned();
                    return Some(event);
                }
                let bytes = self.answer.chunk().await.ok().flatten()?;
                self.rest.push_str(std::str::from_utf8(&bytes).unwrap());
            }
        };
        tokio::time::timeout(Duration::from_secs(20), reading).await.expect("in time")
    }

    /// The position of the next event, which is a head.
    async fn head(&mut self) -> Value {
        let event = self.next().await.unwrap();
        assert_eq!(event.name, "head", "{event:?}");
        assert!(event.data["epoch"].as_str().unwrap().parse::<u64>().is_ok());
        event.data["position"].clone()
    }

    /// The reason in the next event, which is the last.
    async fn bye(mut self) -> String {
        let event = self.next().await.unwrap();
        assert_eq!(event.name, "bye", "{event:?}");
        assert!(event.retry.is_some());
        assert_eq!(self.next().await, None);
        event.data["reason"].as_str().unwrap().to_owned()
    }
}

fn parse(text: &str) -> Event {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    Event {
        name: field("event:").unwrap_or_default().to_owned(),
        data: field("data:").map_or(Value::Null, |data| serde_json::from_str(data).unwrap()),
        retry: field("retry:").map(|retry| retry.parse().unwrap()),
    }
}

/// The head of a user's feed, in the words of triage.
async fn head_of(caller: &Caller) -> Value {
    let state = caller.get("/v1/vfs/crdt/state?clientId=any").await.ok();
    let cursor = vfs_sync_core::cursor::Cursor::decode(state["feedHead"].as_str().unwrap());
    json!(cursor.unwrap().change_id)
}

#[tokio::test]
async fn a_stream_begins_with_the_head_and_tells_when_it_moves() {
    let scene = Scene::new().await;
    let alice = scene.user("alice");
    let mut events = Events::open(&alice, "phone").await;
    assert_eq!(events.head().await, Value::Null, "a feed without entries");
    alice.file(1).await;
    assert_eq!(events.head().await, head_of(&alice).await);
    // It is the same for the one who pushed, and for one who connects later.
    let mut later = Events::open(&alice, "laptop").await;
    assert_eq!(later.head().await, head_of(&alice).await);
    alice.file(2).await;
    assert_eq!(later.head().await, head_of(&alice).await);
    assert_eq!(events.head().await, head_of(&alice).await);
    // A push that moves nothing is no news; the next one is.
    alice.push("laptop", vec![create("item-2", 2)]).await.ok();
    alice.file(3).await;
    assert_eq!(events.head().await, head_of(&alice).await);
}

#[tokio::test]
async fn sharing_reaches_the_other_user_and_nobody_else() {
    let scene = Scene::new().await;
    let (alice, bob) = (scene.user("alice"), scene.user("bob"));
    let item = bob.file(1).await;
    let mut events = Events::open(&alice, "phone").await;
    assert_eq!(events.head().await, Value::Null);
    let push = |write_id: u64, operation: Value| {
        let mut operation = operation;
        let fields = operation.as_object_mut().unwrap();
        fields.extend(
            json!({"opId": format!("op-{write_id}"), "itemId": item,
            "replicaId": "laptop", "writeId": write_id, "occurredAt": "2026-01-01T00:00:01Z"})
            .as_object()
            .unwrap()
            .clone(),
        );
        vec![operation]
    };
    // What does not concern alice moves nothing of hers.
    bob.push("laptop", push(2, json!({"opType": "item_upsert", "name": "other"}))).await.ok();
    let grant = json!({"opType": "acl_add", "principalType": "user", "principalId": "alice",
        "accessLevel": "read"});
    bob.push("laptop", push(3, grant)).await.ok();
    let shared = events.head().await;
    assert_eq!(shared, head_of(&alice).await);
    bob.push("laptop", push(4, json!({"opType": "item_upsert", "name": "renamed"}))).await.ok();
    assert_eq!(events.head().await, head_of(&alice).await);
    let revoke = json!({"opType": "acl_remove", "principalType": "user", "principalId": "alice"});
    bob.push("laptop", push(5, revoke)).await.ok();
    assert_eq!(events.head().await, head_of(&alice).await);
}

#[tokio::test]
async fn a_client_has_one_stream_and_all_have_a_bound() {
    let scene = with(|config| {
        config.max_user_event_streams = 2;
        config.max_event_streams = 3;
    })
    .await;
    let alice = scene.user("alice");
    let first = Events::open(&alice, "phone").await;
    let mut second = Events::open(&alice, "phone").await;
    let mut first = first;
    first.head().await;
    assert_eq!(first.bye().await, "replaced");
    second.head().await;
    let path = |client: &str| format!("/v1/vfs/crdt/events?clientId={client}");
    // The place is free once the stream has ended.
    let mut third = None;
    for _ in 0..1_000 {
        let answer = alice.request("GET", &path("laptop")).send().await.unwrap();
        if answer.status() == 200 {
            third = Some(answer);
            break;
        }
        tokio::task::yield_now().await;
    }
    let _third = third.expect("a place");
    let refused = alice.get(&path("tablet")).await;
    refused.refused(429, "too_many_requests");
    assert!((1..=5).contains(&refused.header("retry-after").parse::<u64>().unwrap()));
    let bob = scene.user("bob").request("GET", &path("x")).send().await.unwrap();
    assert_eq!(bob.status(), 200);
    let refused = scene.user("carol").get(&path("x")).await;
    refused.refused(429, "too_many_requests");
    let metrics = scene.server.admin_url().unwrap();
    let metrics = reqwest::get(format!("{metrics}/metrics")).await.unwrap().text().await.unwrap();
    for name in ["vfs_sync_event_streams ", "vfs_sync_event_heads_sent_total "] {
        assert!(metrics.contains(name), "{name}");
    }
    drop(bob);
    soon(async || {
        scene.user("carol").request("GET", &path("x")).send().await.unwrap().status() == 200
    })
    .await;
}

#[tokio::test]
async fn a_stream_holds_no_place_of_requests_and_outlives_their_time() {
    let scene = with(|config| {
        config.max_requests = 1;
        config.max_user_requests = 1;
        config.max_connections = 1;
        config.request_timeout = Duration::from_millis(50);
        config.idle_timeout = Duration::from_millis(50);
        config.events_keepalive = Duration::from_millis(200);
    })
    .await;
    let alice = scene.user("alice");
    let mut streams = Vec::new();
    for n in 0..4 {
        let mut events = Events::open(&alice, &format!("client-{n}")).await;
        events.head().await;
        streams.push(events);
    }
    // A comment comes after many times that which would end a request.
    for events in &mut streams {
        assert_eq!(events.next().await.unwrap().name, "");
    }
    alice.file(1).await;
    for events in &mut streams {
        let position = loop {
            let event = events.next().await.unwrap();
            if event.name == "head" {
                break event.data["position"].clone();
            }
        };
        assert_eq!(position, head_of(&alice).await);
    }
}

#[tokio::test]
async fn a_stream_ends_when_its_token_expires() {
    let mut auth = AuthConfig::with_secret(Secret::new("s".repeat(64))).unwrap();
    auth.leeway = Duration::ZERO;
    let scene = Scene::of(TestServer::builder().auth(auth.clone())).await;
    let alice = vfs_sync_core::id::UserId::new("alice").unwrap();
    let now = scene.server.clock().now();
    let token = auth.mint(&alice, None, Duration::from_secs(2), now).unwrap();
    let caller = scene.bearer(&token);
    let mut events = Events::open(&caller, "phone").await;
    events.head().await;
    assert_eq!(events.bye().await, "expired");
    caller.get("/v1/vfs/crdt/events?clientId=phone").await.refused(401, "unauthorized");
}

#[tokio::test]
async fn a_stream_ends_when_the_server_stops() {
    let config = ServerConfig { drain_timeout: Duration::from_secs(20), ..ServerConfig::default() };
    let mut scene = Scene::of(TestServer::builder().config(config)).await;
    let alice = scene.user("alice");
    let mut events = Events::open(&alice, "phone").await;
    events.head().await;
    let begun = std::time::Instant::now();
    let (reason, ()) = tokio::join!(events.bye(), scene.server.stop());
    assert_eq!(reason, "shutdown");
    assert!(begun.elapsed() < Duration::from_secs(10), "it did not wait for the stream");
}

#[tokio::test]
async fn a_stream_is_refused_like_every_call() {
    let scene = Scene::new().await;
    let path = "/v1/vfs/crdt/events?clientId=phone";
    scene.nobody().get(path).await.refused(401, "unauthorized");
    let alice = scene.user("alice");
    alice.get("/v1/vfs/crdt/events").await.refused_field("clientId");
    alice.get("/v1/vfs/crdt/events?clientId=a%3Ab").await.refused_field("clientId");
    let wrong = alice.request("GET", path).header("vfs-sync-user", "bob");
    assert_eq!(wrong.send().await.unwrap().status(), 403);
    let answer = alice.request("POST", path).send().await.unwrap();
    assert_eq!(answer.status(), 405);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL"]
async fn two_servers_on_one_database_tell_each_others_moves() {
    let url = new_postgres_database().await.unwrap();
    let auth = AuthConfig::with_secret(Secret::new("s".repeat(64))).unwrap();
    let server = || TestServer::builder().database(&url).auth(auth.clone());
    let (one, other) = (Scene::of(server()).await, Scene::of(server()).await);
    // Both listen; from then on nobody has to wait for a sweep.
    for scene in [&one, &other] {
        scene.server.store().announce_heads().await;
    }
    let (here, there) = (one.user("alice"), other.user("alice"));
    let mut events = Events::open(&there, "phone").await;
    assert_eq!(events.head().await, Value::Null);
    for n in 1..=20 {
        here.file(n).await;
        let begun = std::time::Instant::now();
        assert_eq!(events.head().await, head_of(&here).await);
        assert!(begun.elapsed() < Duration::from_millis(1_500), "by the sweep only");
    }
}

#[tokio::test]
async fn what_another_process_writes_is_found_by_the_sweep() {
    let scene = Scene::new().await;
    let alice = scene.user("alice");
    let mut events = Events::open(&alice, "phone").await;
    assert_eq!(events.head().await, Value::Null);
    // Another store on the same file, as an operator's command has.
    let file = scene.server.database_file();
    let now = vfs_sync_core::time::Timestamp::from_millis(1_800_000_000_000).unwrap();
    let store = vfs_sync_store::open(file.to_str().unwrap(), now).await.unwrap();
    let body = json!({"clientId": "laptop", "operations": [create("a", 1)]}).to_string();
    let user = vfs_sync_core::id::UserId::new("alice").unwrap();
    let batch = vfs_sync_core::server::push::PushBatch::parse(user, body.as_bytes()).unwrap();
    store.push(batch, now).await.unwrap();
    assert_eq!(events.head().await, head_of(&alice).await);
}
