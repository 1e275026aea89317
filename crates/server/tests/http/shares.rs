//! What one user takes is missed by nobody else: requests, memory, uploads, connections.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use vfs_sync_store::{Call, Capacity, MetadataStore, Reply, StoreError};
use vfs_sync_testkit::TestServer;

use crate::blobs::{stage, upload};
use crate::lifecycle::{begin_push, connect, everything, head, with};
use crate::scene::{Caller, Scene, create, send, soon};

const SHORT: Duration = Duration::from_millis(20);

/// The same caller, over HTTP/2.
fn over_h2(scene: &Scene, name: &str) -> impl AsyncFn(&str) -> u16 {
    let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let (url, token) = (scene.server.url(), scene.server.token(name));
    async move |path| {
        let request = client.get(format!("{url}{path}")).bearer_auth(&token);
        request.send().await.unwrap().status().as_u16()
    }
}

#[tokio::test]
async fn requests_of_one_user_leave_places_for_others() {
    let scene = with(|config| {
        (config.max_user_requests, config.queue_wait) = (2, SHORT);
    })
    .await;
    let (alice, bob) = (scene.user("alice"), scene.user("bob"));
    let alice_h2 = over_h2(&scene, "alice");
    let first = begin_push(&scene, 100).await;
    alice.get("/v1/vfs/limits").await.ok();
    let second = begin_push(&scene, 100).await;
    let refused = alice.get("/v1/vfs/limits").await;
    refused.refused(429, "too_many_requests");
    assert_eq!((refused.header("retry-after"), refused.header("vfs-sync-user")), ("1", "alice"));
    assert_eq!(alice_h2("/v1/vfs/limits").await, 429);
    let upload = send(alice.request("PUT", "/v1/vfs/blobs/stage/s/data").body("x")).await;
    upload.refused(429, "too_many_requests");
    bob.push("laptop", vec![create("b", 1)]).await.ok();
    drop(first);
    soon(async || alice.get("/v1/vfs/limits").await.status == 200).await;
    drop(second);
}

#[tokio::test]
async fn a_request_waits_for_its_users_turn() {
    let scene = with(|config| {
        (config.max_user_requests, config.queue_wait) = (1, Duration::from_secs(20));
    })
    .await;
    let body = json!({"clientId": "laptop", "operations": [create("a", 1)]}).to_string();
    let mut slow = begin_push(&scene, body.len()).await;
    let alice = scene.user("alice");
    let (waited, ()) = tokio::join!(alice.get("/v1/vfs/crdt/vfs-sync"), async {
        slow.write_all(body.as_bytes()).await.unwrap();
    });
    assert_eq!(waited.ok()["items"][0]["itemId"], "a");
}

/// Without a token, or with one of somebody else, nothing is taken.
#[tokio::test]
async fn who_is_not_served_takes_no_place() {
    let scene = with(|config| (config.max_requests, config.queue_wait) = (1, SHORT)).await;
    let _slow = begin_push(&scene, 100).await;
    scene.nobody().get("/v1/vfs/limits").await.refused(401, "unauthorized");
    scene.bearer("none").get("/v1/vfs/blobs/b").await.refused(401, "unauthorized");
    let other = scene.user("bob").request("GET", "/v1/vfs/limits").header("vfs-sync-user", "eve");
    send(other).await.refused(403, "wrong_user");
    scene.user("bob").get("/v1/vfs/limits").await.refused(503, "overloaded");
}

/// A request whose answer is not taken: the blob is larger than what the network holds.
async fn untaken(scene: &Scene, blob: &str) -> TcpStream {
    let mut stream = connect(scene).await;
    let head = format!(
        "GET /v1/vfs/blobs/{blob} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n",
        scene.server.token("alice")
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.read_exact(&mut [0; 12]).await.unwrap();
    stream
}

async fn large_blob(alice: &Caller) {
    stage(alice, "s", "large").await.ok();
    upload(alice, "s", &vec![7; 32 << 20]).await.ok();
}

#[tokio::test]
async fn a_place_is_held_until_the_answer_is_taken_or_its_connection_gone() {
    let scene = with(|config| (config.max_user_requests, config.queue_wait) = (1, SHORT)).await;
    let alice = scene.user("alice");
    large_blob(&alice).await;
    let mut taken = untaken(&scene, "large").await;
    alice.get("/v1/vfs/limits").await.refused(429, "too_many_requests");
    let mut left = 32 << 20;
    let mut buffer = vec![0; 1 << 20];
    while left > 0 {
        left -= taken.read(&mut buffer).await.unwrap().min(left);
    }
    soon(async || alice.get("/v1/vfs/limits").await.status == 200).await;
    let dropped = untaken(&scene, "large").await;
    alice.get("/v1/vfs/limits").await.refused(429, "too_many_requests");
    drop(dropped);
    soon(async || alice.get("/v1/vfs/limits").await.status == 200).await;
}

#[tokio::test]
async fn an_answer_that_is_not_taken_is_given_up() {
    let scene = with(|config| {
        (config.max_user_requests, config.queue_wait) = (1, SHORT);
        config.idle_timeout = Duration::from_millis(200);
    })
    .await;
    let alice = scene.user("alice");
    large_blob(&alice).await;
    let mut never = untaken(&scene, "large").await;
    soon(async || alice.get("/v1/vfs/limits").await.status == 200).await;
    let mut rest = Vec::new();
    let _ = never.read_to_end(&mut rest).await;
    assert!(rest.len() < 32 << 20);
}

/// Streams of one connection whose peer gives no window: each answer is held until it is given up,
/// and what it takes counts.
#[tokio::test]
async fn streams_without_a_window_hold_no_more_than_their_users_share() {
    let scene = with(|config| {
        (config.max_user_requests, config.queue_wait) = (4, SHORT);
        config.idle_timeout = Duration::from_millis(500);
    })
    .await;
    let alice = scene.user("alice");
    for at in 1..=100 {
        alice.file(at).await;
    }
    let page = alice.get("/v1/vfs/crdt/vfs-sync").await;
    assert!(page.bytes.len() > 20_000);
    let stream = connect(&scene).await;
    let mut builder = h2::client::Builder::new();
    let (mut h2, connection) =
        builder.initial_window_size(0).handshake::<_, bytes::Bytes>(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut answers = Vec::new();
    let mut statuses = Vec::new();
    for _ in 0..6 {
        let request = http::Request::get(format!("{}/v1/vfs/crdt/vfs-sync", scene.server.url()))
            .header("authorization", format!("Bearer {}", scene.server.token("alice")));
        h2 = h2.ready().await.unwrap();
        let (answer, _) = h2.send_request(request.body(()).unwrap(), true).unwrap();
        let answer = answer.await.unwrap();
        statuses.push(answer.status().as_u16());
        answers.push(answer);
    }
    assert_eq!(statuses, [200, 200, 200, 200, 429, 429]);
    scene.user("bob").get("/v1/vfs/crdt/vfs-sync").await.ok();
    alice.get("/v1/vfs/limits").await.refused(429, "too_many_requests");
    // The connection has nothing but answers that nobody takes.
    soon(async || connection.is_finished()).await;
    soon(async || alice.get("/v1/vfs/limits").await.status == 200).await;
    drop(answers);
}

#[tokio::test]
async fn bodies_of_one_user_leave_memory_for_others() {
    let scene = with(|config| config.max_user_memory = 64 * 1024).await;
    let (alice, bob) = (scene.user("alice"), scene.user("bob"));
    let mut large = create("large", 1);
    large["metadata"] = json!({"k": "x".repeat(8 * 1024)});
    let mut held = begin_push(&scene, 100 * 1024).await;
    // Two thirds are taken; what is above the user's part is refused.
    held.write_all(&[b' '; 60 * 1024]).await.unwrap();
    soon(async || alice.push("laptop", vec![large.clone()]).await.status == 429).await;
    bob.push("laptop", vec![large.clone()]).await.ok();
    drop(held);
    soon(async || alice.push("laptop", vec![large.clone()]).await.status == 200).await;
}

/// Bytes of contents are in memory until there are enough of them to be written.
#[tokio::test]
async fn contents_of_one_user_leave_memory_for_others() {
    let scene = with(|config| config.max_user_memory = 64 * 1024).await;
    let (alice, bob) = (scene.user("alice"), scene.user("bob"));
    let mut slow = begin_upload(&scene, "alice", 1_000_000, 60 * 1024).await;
    stage(&alice, "t", "u").await.ok();
    soon(async || upload(&alice, "t", &[0; 20_000]).await.status == 429).await;
    stage(&bob, "v", "w").await.ok();
    upload(&bob, "v", &[0; 20_000]).await.ok();
    slow.shutdown().await.unwrap();
    soon(async || upload(&alice, "t", &[0; 20_000]).await.status == 200).await;
}

/// A stage of the user's, and an upload to it of which `sent` bytes have come.
async fn begin_upload(scene: &Scene, name: &str, length: usize, sent: usize) -> TcpStream {
    let user = scene.user(name);
    let id = uuid::Uuid::now_v7();
    stage(&user, &format!("s{id}"), &format!("b{id}")).await.ok();
    let mut stream = connect(scene).await;
    let head = format!(
        "PUT /v1/vfs/blobs/stage/s{id}/data HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
         content-length: {length}\r\nexpect: 100-continue\r\n\r\n",
        scene.server.token(name)
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.read_exact(&mut [0; 25]).await.unwrap();
    stream.write_all(&vec![7; sent]).await.unwrap();
    stream
}

#[tokio::test]
async fn large_uploads_of_one_user_leave_places_for_others_and_small_ones_take_none() {
    let scene = with(|config| {
        (config.max_large_uploads, config.max_user_large_uploads) = (4, 1);
        config.idle_timeout = Duration::from_secs(2);
    })
    .await;
    let (alice, bob) = (scene.user("alice"), scene.user("bob"));
    // By what came, not by what was announced.
    let _announced = begin_upload(&scene, "alice", 100_000_000, 1_000).await;
    let mut large = begin_upload(&scene, "alice", 100_000_000, 2_000_000).await;
    let flows = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(200));
        loop {
            ticks.tick().await;
            large.write_all(&[7; 100]).await.unwrap();
        }
    };
    let others = async {
        stage(&bob, "b", "b").await.ok();
        upload(&bob, "b", &vec![0; 2_000_000]).await.ok();
        stage(&alice, "a", "a").await.ok();
        upload(&alice, "a", &vec![0; 1_000_000]).await.ok();
        let tus = |method: &str, path: &str| {
            let request = alice.request(method, &format!("/v1/vfs/blobs/uploads{path}"));
            request.header("tus-resumable", "1.0.0")
        };
        let create = tus("POST", "").header("upload-metadata", "stagingId dA==");
        assert_eq!(send(create.header("upload-length", 50_000_000)).await.status, 201);
        let append = tus("PATCH", "/t").header("upload-offset", 0);
        let append = append.header("content-type", "application/offset+octet-stream");
        assert_eq!(send(append.body(vec![0; 1_000_000])).await.status, 204);
        stage(&alice, "c", "c").await.ok();
        upload(&alice, "c", &vec![0; 2_000_000]).await.refused(429, "too_many_requests");
    };
    tokio::select! {
        () = flows => unreachable!(),
        () = others => {}
    }
}

/// It sends a byte whenever the server would otherwise give up.
#[tokio::test]
async fn a_body_that_comes_too_slowly_is_given_up() {
    let scene = with(|config| {
        (config.idle_timeout, config.min_rate) = (Duration::from_secs(1), 200);
    })
    .await;
    let push = |stream: TcpStream| (stream, "HTTP/1.1 408");
    let upload = begin_upload(&scene, "alice", 1_000_000, 10).await;
    for (stream, expected) in [push(begin_push(&scene, 100_000).await), push(upload)] {
        let (mut reading, mut writing) = stream.into_split();
        let dribble = async {
            let mut ticks = tokio::time::interval(Duration::from_millis(100));
            loop {
                ticks.tick().await;
                if writing.write_all(b" ").await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let mut text = [0; 12];
        tokio::select! {
            () = dribble => unreachable!(),
            read = reading.read_exact(&mut text) => drop(read.unwrap()),
        }
        assert_eq!(std::str::from_utf8(&text).unwrap(), expected);
    }
}

#[tokio::test]
async fn idle_connections_make_room_and_those_without_a_token_go_first() {
    let scene = with(|config| config.max_connections = 8).await;
    let get = format!(
        "GET /v1/vfs/limits HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n",
        scene.server.token("alice")
    );
    let mut kept = connect(&scene).await;
    let mut status = [0; 15];
    let ask = async |stream: &mut TcpStream, status: &mut [u8; 15]| {
        stream.write_all(get.as_bytes()).await.unwrap();
        let mut buffer = [0; 8_192];
        let read = stream.read(&mut buffer).await.unwrap();
        status.copy_from_slice(&buffer[..15.min(read)]);
    };
    ask(&mut kept, &mut status).await;
    assert_eq!(&status, b"HTTP/1.1 200 OK");
    let mut idle = Vec::new();
    for _ in 0..40 {
        idle.push(connect(&scene).await);
        assert_eq!(scene.nobody().get("/healthz").await.status, 200);
    }
    ask(&mut kept, &mut status).await;
    assert_eq!(&status, b"HTTP/1.1 200 OK");
    // The first of those that said nothing are closed.
    assert_eq!(everything(&mut idle[0]).await, "");
}

#[tokio::test]
async fn requests_of_users_are_not_ended_for_new_connections() {
    let scene = with(|config| config.max_connections = 2).await;
    let body = json!({"clientId": "laptop", "operations": [create("a", 1)]}).to_string();
    let mut first = begin_push(&scene, body.len()).await;
    let mut second = connect(&scene).await;
    second.write_all(head(&scene, body.len()).as_bytes()).await.unwrap();
    for _ in 0..20 {
        // Hung up on, or served while the second has not said whose it is.
        drop(connect(&scene).await);
    }
    first.write_all(body.as_bytes()).await.unwrap();
    let mut answer = [0; 15];
    first.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
}

/// A store of four connections, in which pulls of alice's stay for as long as a test wants.
struct Slow {
    inner: Arc<dyn MetadataStore>,
    /// Whether they stay, and how many are there.
    state: watch::Sender<(bool, usize)>,
}

#[async_trait]
impl MetadataStore for Slow {
    async fn call(&self, call: Call) -> Result<Reply, StoreError> {
        if matches!(&call, Call::Pull(pull) if pull.user.as_str() == "alice") {
            self.state.send_modify(|(_, there)| *there += 1);
            let mut state = self.state.subscribe();
            state.wait_for(|(stay, _)| !stay).await.unwrap();
        }
        self.inner.call(call).await
    }

    fn capacity(&self) -> Capacity {
        Capacity { calls: Some(4), ..Capacity::default() }
    }
}

/// A store in a file.
async fn store() -> (tempfile::TempDir, Arc<dyn MetadataStore>) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("db").to_str().unwrap().to_owned();
    let now = vfs_sync_core::time::Timestamp::from_millis(1_800_000_000_000).unwrap();
    let inner = vfs_sync_store::open(&file, now).await.unwrap();
    (directory, inner)
}

#[tokio::test]
async fn calls_of_one_user_leave_a_connection_of_the_database_for_others() {
    let (_directory, inner) = store().await;
    let slow = Arc::new(Slow { inner, state: watch::Sender::new((true, 0)) });
    let scene = Scene::of(TestServer::builder().store(Arc::clone(&slow) as _)).await;
    let pulls: Vec<_> = (0..8)
        .map(|_| {
            let alice = scene.user("alice");
            tokio::spawn(async move { alice.get("/v1/vfs/crdt/vfs-sync").await.status })
        })
        .collect();
    let mut state = slow.state.subscribe();
    drop(state.wait_for(|(_, there)| *there == 3).await.unwrap());
    scene.user("bob").push("laptop", vec![create("b", 1)]).await.ok();
    scene.user("bob").get("/v1/vfs/crdt/vfs-sync").await.ok();
    assert_eq!(slow.state.borrow().1, 3);
    slow.state.send_modify(|(stay, _)| *stay = false);
    for pull in pulls {
        assert_eq!(pull.await.unwrap(), 200);
    }
}

/// A store in which all pushes are large but those of carol. They stay for as long as a test wants.
struct Large {
    inner: Arc<dyn MetadataStore>,
    /// Whether they stay.
    stay: watch::Sender<bool>,
    /// The number of pushes that turned out to be large.
    came: watch::Sender<usize>,
    /// The users whose large pushes began, in their order.
    begun: watch::Sender<Vec<String>>,
}

#[async_trait]
impl MetadataStore for Large {
    async fn call(&self, call: Call) -> Result<Reply, StoreError> {
        self.inner.call(call).await
    }

    async fn call_if_small(&self, call: Call) -> Result<Result<Reply, Call>, StoreError> {
        match &call {
            Call::Push(push) if push.batch.user.as_str() != "carol" => {
                self.came.send_modify(|came| *came += 1);
                Ok(Err(call))
            }
            _ => self.inner.call(call).await.map(Ok),
        }
    }

    async fn call_large(&self, call: Call) -> Result<Reply, StoreError> {
        let Call::Push(push) = &call else { panic!("{call:?} is not large") };
        let user = push.batch.user.to_string();
        self.begun.send_modify(|begun| begun.push(user));
        self.stay.subscribe().wait_for(|stay| !stay).await.unwrap();
        self.inner.call(call).await
    }

    fn capacity(&self) -> Capacity {
        Capacity { calls: Some(4), reads: None, large: Some(1) }
    }
}

#[tokio::test]
async fn large_pushes_take_turns_and_hold_nothing_while_they_wait() {
    let ((_directory, inner), stay) = (store().await, watch::Sender::new(true));
    let large = Arc::new(Large {
        inner,
        stay,
        came: watch::Sender::default(),
        begun: watch::Sender::default(),
    });
    let scene = Scene::of(TestServer::builder().store(Arc::clone(&large) as _)).await;
    let push = |name: &str, n: usize| {
        let (user, item) = (scene.user(name), create(&format!("{name}{n}"), 1));
        let replica = format!("laptop{n}");
        tokio::spawn(async move { user.push(&replica, vec![item]).await.status })
    };
    let mut begun = large.begun.subscribe();
    let mut pushes = vec![push("alice", 0)];
    drop(begun.wait_for(|begun| begun.len() == 1).await.unwrap());
    pushes.extend((1..8).map(|n| push("alice", n)));
    let mut came = large.came.subscribe();
    drop(came.wait_for(|came| *came == 8).await.unwrap());
    pushes.push(push("bob", 0));
    drop(came.wait_for(|came| *came == 9).await.unwrap());
    tokio::time::sleep(SHORT).await;
    scene.user("carol").push("phone", vec![create("c", 1)]).await.ok();
    assert_eq!(*large.begun.borrow(), ["alice"]);
    large.stay.send_replace(false);
    for push in pushes {
        assert_eq!(push.await.unwrap(), 200);
    }
    assert_eq!(large.begun.borrow()[..2], ["alice", "bob"]);
}
