//! Live updates: changes of others arrive at once, edits go out at once, and whatever the stream does, the
//! replica falls back to polling and loses nothing.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use vfs_sync_client::core::cursor::Epoch;
use vfs_sync_client::core::id::{ChangeId, ReplicaId, UserId};
use vfs_sync_client::transport::{Answer, CallKind, EventStream, LiveEvent};
use vfs_sync_client::{
    ChangeEvent, ClientConfig, Connectivity, HttpConfig, HttpTransport, PollingReason, StaticToken,
    SyncClient, TransportError, TransportExt as _,
};
use vfs_sync_testkit::{Phase, ScriptedTransport, TestEnvironment, TestServer};

use crate::support::{name, told};

const HOUR: Duration = Duration::from_secs(3_600);

/// A client that does not poll within a test.
fn client(server: &TestServer, user: &str) -> SyncClient {
    let config = ClientConfig { interval: 24 * HOUR, live_interval: 24 * HOUR, ..quick() };
    let user_id = UserId::new(user).unwrap();
    SyncClient::builder(server.transport(user)).config(config).in_memory(user_id).unwrap()
}

fn quick() -> ClientConfig {
    let backoff = (Duration::from_millis(1), Duration::from_millis(20));
    ClientConfig { backoff, ..ClientConfig::default() }
}

async fn until(client: &SyncClient, is: impl Fn(Connectivity) -> bool) {
    let mut connection = client.connection();
    let reached = connection.wait_for(|connection| is(connection.state));
    let reached = tokio::time::timeout(Duration::from_secs(30), reached).await;
    reached.expect("in time").expect("a client");
}

fn is_live(state: Connectivity) -> bool {
    state == Connectivity::Live
}

#[tokio::test]
async fn what_one_device_writes_is_on_the_other_at_once() {
    let server = TestServer::start().await;
    let (one, other) = (client(&server, "alice"), client(&server, "alice"));
    let mut changes = other.subscribe();
    for client in [&one, &other] {
        client.start_background().unwrap();
        until(client, is_live).await;
    }
    told(
        &mut changes,
        |change| matches!(change, ChangeEvent::Connection(connection) if is_live(connection.state)),
    )
    .await;
    for n in 0..10 {
        let made = one.create_folder(None, name(&format!("f{n}"))).unwrap();
        told(&mut changes, |change| *change == ChangeEvent::Appeared(made.clone())).await;
    }
    assert!(other.status().unwrap().connection.in_step_at.is_some());
    other.stop_background().await;
    assert_eq!(other.connection().borrow().state, Connectivity::Online);
}

#[tokio::test]
async fn a_server_that_goes_away_and_comes_back_is_followed() {
    let mut server = TestServer::start().await;
    let (one, other) = (client(&server, "alice"), client(&server, "alice"));
    let mut changes = other.subscribe();
    for client in [&one, &other] {
        client.start_background().unwrap();
        until(client, is_live).await;
    }
    server.stop().await;
    until(&other, |state| !is_live(state)).await;
    one.request_sync();
    until(&one, |state| matches!(state, Connectivity::Offline { .. })).await;
    server.start_again().await;
    until(&one, is_live).await;
    until(&other, is_live).await;
    let made = one.create_folder(None, name("after")).unwrap();
    told(&mut changes, |change| *change == ChangeEvent::Appeared(made.clone())).await;
}

#[tokio::test]
async fn the_stream_of_one_client_ends_when_it_opens_another() {
    let server = TestServer::start().await;
    let transport = server.transport("alice");
    let id = ReplicaId::new("phone").unwrap();
    let mut first = transport.events(&id).await.unwrap();
    assert!(matches!(first.next().await, Some(Ok(LiveEvent::Retry(_)))));
    assert!(matches!(first.next().await, Some(Ok(LiveEvent::Head { position: None, .. }))));
    let _second = transport.events(&id).await.unwrap();
    let rest: Vec<_> = first.collect().await;
    let bye = LiveEvent::Bye { reason: "replaced".into() };
    assert!(matches!(&rest[..], [Ok(LiveEvent::Retry(_)), Ok(last)] if *last == bye), "{rest:?}");
}

/// A client over a script, in time that passes only while everybody waits.
struct Scripted {
    line: Arc<ScriptedTransport>,
    client: SyncClient,
    /// The streams that the client opened, each with the time.
    opened: Arc<Mutex<Vec<Instant>>>,
}

type Sender = mpsc::UnboundedSender<Result<LiveEvent, TransportError>>;

impl Scripted {
    /// Creates a client whose streams `open` answers.
    fn new(
        mut open: impl FnMut(usize) -> Result<EventStream, TransportError> + Send + 'static,
    ) -> Self {
        let line = Arc::new(ScriptedTransport::new());
        let opened = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&opened);
        line.begin(Phase::new("live").on_call(CallKind::Events, move |_| {
            let mut noted = noted.lock().unwrap();
            noted.push(Instant::now());
            open(noted.len()).map(Answer::Events)
        }));
        let now = "2026-01-01T12:00:00.000Z".parse().unwrap();
        let environment = Arc::new(TestEnvironment::new(7, now));
        let config = ClientConfig { environment, ..quick() };
        let client = SyncClient::builder(line.clone()).config(config);
        let client = client.in_memory(UserId::new("alice").unwrap()).unwrap();
        Self { line, client, opened }
    }

    /// Creates a client with one stream, which the test sends.
    fn with_stream() -> (Self, Sender) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut receiver = Some(receiver);
        let scripted = Self::new(move |_| match receiver.take() {
            Some(receiver) => Ok(stream(receiver)),
            None => Ok(Box::pin(futures::stream::pending())),
        });
        (scripted, sender)
    }

    fn pulls(&self) -> usize {
        self.line.record().count(CallKind::Pull)
    }

    fn opened(&self) -> usize {
        self.opened.lock().unwrap().len()
    }
}

fn stream(mut receiver: mpsc::UnboundedReceiver<Result<LiveEvent, TransportError>>) -> EventStream {
    Box::pin(futures::stream::poll_fn(move |context| receiver.poll_recv(context)))
}

fn head(position: &str) -> LiveEvent {
    let position = Some(ChangeId::new(position).unwrap());
    LiveEvent::Head { epoch: Epoch::from_u64(1).unwrap(), position }
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[tokio::test(start_paused = true)]
async fn while_a_stream_is_up_the_poll_is_slow_and_only_news_is_pulled() {
    let (scripted, events) = Scripted::with_stream();
    scripted.client.start_background().unwrap();
    until(&scripted.client, |state| state == Connectivity::Online).await;
    let nothing = LiveEvent::Head { epoch: Epoch::from_u64(1).unwrap(), position: None };
    events.send(Ok(nothing)).unwrap();
    until(&scripted.client, is_live).await;
    tokio::time::sleep(seconds(1)).await;
    assert_eq!(scripted.pulls(), 1, "what it hints at is there");
    // Of a thousand heads, those that come while a pull is under way are one pull.
    for n in 1..=1_000 {
        events.send(Ok(head(&format!("c-{n}")))).unwrap();
    }
    tokio::time::sleep(seconds(1)).await;
    assert!((2..=20).contains(&scripted.pulls()), "{}", scripted.pulls());
    let before = scripted.pulls();
    events.send(Ok(head("c-1000"))).unwrap();
    let begun = Instant::now();
    while begun.elapsed() < seconds(270) {
        tokio::time::sleep(seconds(25)).await;
        events.send(Ok(LiveEvent::Alive)).unwrap();
    }
    assert_eq!(scripted.pulls(), before, "polled by no interval of half a minute");
    tokio::time::sleep(seconds(40)).await;
    assert_eq!(scripted.pulls(), before + 1);
    assert_eq!(scripted.opened(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_edits_is_one_push() {
    let (scripted, events) = Scripted::with_stream();
    scripted.client.start_background().unwrap();
    events.send(Ok(head("c-1"))).unwrap();
    until(&scripted.client, is_live).await;
    tokio::time::sleep(seconds(1)).await;
    let begun = Instant::now();
    for n in 0..100 {
        scripted.client.create_folder(None, name(&format!("f{n}"))).unwrap();
        tokio::time::sleep(Duration::from_micros(10)).await;
    }
    while scripted.line.record().count(CallKind::Push) == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(begun.elapsed() < Duration::from_millis(300), "{:?}", begun.elapsed());
    tokio::time::sleep(seconds(1)).await;
    let pushed = scripted.line.record().pushed();
    let sizes: Vec<_> = pushed.iter().map(|push| push.operations.len()).collect();
    assert_eq!(sizes.iter().sum::<usize>(), 100, "{sizes:?}");
    assert!(sizes.len() <= 30, "{sizes:?}");
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_stream_is_followed_by_the_wait_that_the_server_asks_for() {
    let (scripted, events) = Scripted::with_stream();
    scripted.client.start_background().unwrap();
    events.send(Ok(LiveEvent::Retry(seconds(50)))).unwrap();
    events.send(Ok(head("c-1"))).unwrap();
    until(&scripted.client, is_live).await;
    for _ in 0..8 {
        tokio::time::sleep(seconds(25)).await;
        events.send(Ok(LiveEvent::Alive)).unwrap();
    }
    let (pulls, begun) = (scripted.pulls(), Instant::now());
    events.send(Ok(LiveEvent::Bye { reason: "shutdown".into() })).unwrap();
    until(&scripted.client, |state| !is_live(state)).await;
    while scripted.opened() == 1 {
        assert_eq!(scripted.pulls(), pulls, "its first poll waits too");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!((49..=51).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_server_or_a_proxy_without_live_updates_is_polled_and_asked_again_hourly() {
    let refused = |status| TransportError::Refused {
        status,
        code: "not_found".into(),
        message: "There is nothing here".into(),
        details: serde_json::Map::new(),
    };
    let wrong = || TransportError::MalformedResponse {
        call: "events",
        field: "Content-Type".into(),
        reason: "is not that of events".into(),
    };
    type Open = Box<dyn FnMut(usize) -> Result<EventStream, TransportError> + Send>;
    let cases: Vec<(PollingReason, u64, Open)> = vec![
        (PollingReason::Unsupported, 0, Box::new(move |_| Err(refused(404)))),
        (PollingReason::Unsupported, 0, Box::new(move |_| Err(refused(405)))),
        (PollingReason::Refused, 0, Box::new(move |_| Err(refused(403)))),
        (PollingReason::HeldBack, 0, Box::new(move |_| Err(wrong()))),
        // Nothing comes at all.
        (PollingReason::HeldBack, 60, Box::new(|_| Ok(Box::pin(futures::stream::pending())))),
        // Something comes that is no stream of events.
        (
            PollingReason::HeldBack,
            0,
            Box::new(move |_| Ok(Box::pin(futures::stream::iter([Err(wrong())])))),
        ),
    ];
    for (reason, after, open) in cases {
        let scripted = Scripted::new(open);
        let begun = Instant::now();
        scripted.client.start_background().unwrap();
        let polling = Connectivity::Polling(reason);
        let mut connection = scripted.client.connection();
        connection.wait_for(|connection| connection.state == polling).await.unwrap();
        assert!(begun.elapsed() <= seconds(after + 1), "{reason}: {:?}", begun.elapsed());
        let pulls = scripted.pulls();
        tokio::time::sleep(seconds(300)).await;
        assert!((9..=11).contains(&(scripted.pulls() - pulls)), "{reason}: every 30 s");
        assert_eq!(scripted.opened(), 1, "{reason}");
        tokio::time::sleep(HOUR - seconds(299)).await;
        assert_eq!(scripted.opened(), 2, "{reason}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_falls_silent_is_opened_again_and_given_up_the_second_time() {
    let scripted = Scripted::new(|_| {
        let first = futures::stream::iter([Ok(head("c-1"))]);
        Ok(Box::pin(first.chain(futures::stream::pending())))
    });
    scripted.client.start_background().unwrap();
    until(&scripted.client, is_live).await;
    let begun = Instant::now();
    let mut connection = scripted.client.connection();
    let polling = Connectivity::Polling(PollingReason::HeldBack);
    connection.wait_for(|connection| connection.state == polling).await.unwrap();
    assert!((115..=135).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert_eq!(scripted.opened(), 2);
}

#[tokio::test(start_paused = true)]
async fn streams_that_break_are_opened_again_with_back_off_and_never_in_a_loop() {
    let lost = || Err(TransportError::network("lost"));
    let scripted = Scripted::new(move |n| match n % 3 {
        0 => Err(TransportError::network("lost")),
        1 => Ok(Box::pin(futures::stream::iter([lost()]))),
        _ => Ok(Box::pin(futures::stream::iter([Ok(head("c-1")), lost()]))),
    });
    scripted.client.start_background().unwrap();
    tokio::time::sleep(seconds(600)).await;
    let opened = scripted.opened();
    assert!((20..=400).contains(&opened), "{opened}");
    assert!(scripted.pulls() <= 2 * opened + 40, "{} {opened}", scripted.pulls());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_hints_at_nothing_without_end_does_not_keep_a_client_busy() {
    let endless = futures::stream::unfold(0_u64, |n| async move {
        tokio::time::sleep(Duration::from_micros(10)).await;
        let event = if n % 2 == 0 { head(&format!("c-{n}")) } else { LiveEvent::Retry(seconds(0)) };
        Some((Ok(event), n + 1))
    });
    let mut endless = Some(endless);
    let scripted = Scripted::new(move |_| match endless.take() {
        Some(endless) => Ok(Box::pin(endless.take(100_000))),
        None => {
            Ok(Box::pin(futures::stream::iter([Ok(LiveEvent::Retry(seconds(0))), Ok(head("c-0"))])))
        }
    });
    scripted.client.start_background().unwrap();
    tokio::time::sleep(seconds(100)).await;
    assert!(scripted.pulls() <= 30, "{}", scripted.pulls());
    tokio::time::sleep(seconds(100)).await;
    assert!((80..=210).contains(&scripted.opened()), "{}", scripted.opened());
    // What it hints at is still followed, at the interval at the latest.
    assert!(scripted.pulls() <= 40, "{}", scripted.pulls());
}

#[tokio::test(start_paused = true)]
async fn without_live_updates_no_stream_is_opened() {
    let line = Arc::new(ScriptedTransport::new());
    let config = ClientConfig { live: false, ..quick() };
    let client = SyncClient::builder(line.clone()).config(config);
    let client = client.in_memory(UserId::new("alice").unwrap()).unwrap();
    client.start_background().unwrap();
    tokio::time::sleep(seconds(100)).await;
    assert_eq!(line.record().count(CallKind::Events), 0);
    assert!(line.record().count(CallKind::Pull) >= 3);
}

/// A server that answers every request with these bytes, and keeps the connection.
async fn hostile(answer: Vec<u8>) -> (HttpTransport, CancellationToken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Some(Ok((mut stream, _))) = stopped.run_until_cancelled(listener.accept()).await {
            let mut request = [0; 4_096];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(&answer).await;
            open.push(stream);
        }
    });
    (HttpTransport::new(HttpConfig::new(url), StaticToken::new("t")).unwrap(), stop)
}

#[tokio::test]
async fn hostile_answers_end_a_stream_with_an_error() {
    let begin = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
    let endless = format!("{begin}{}", "x".repeat(100_000));
    let long = format!("{begin}{}", format!("data: {}\n", "x".repeat(1_000)).repeat(100));
    let wrong = format!("{begin}event: head\ndata: {{\"epoch\":1}}\n\n");
    let bytes = [begin.as_bytes(), &[0xff; 10_000]].concat();
    for answer in [endless.into_bytes(), long.into_bytes(), wrong.into_bytes(), bytes] {
        let (transport, stop) = hostile(answer).await;
        let mut stream = transport.events(&ReplicaId::new("x").unwrap()).await.unwrap();
        let outcome = tokio::time::timeout(seconds(20), async {
            loop {
                match stream.next().await {
                    Some(Ok(_)) => {}
                    other => return other,
                }
            }
        });
        let error = outcome.await.expect("in time").expect("an error").unwrap_err();
        assert!(matches!(error, TransportError::MalformedResponse { .. }), "{error}");
        assert!(stream.next().await.is_none());
        stop.cancel();
    }
    let page = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 2\r\n\r\nhi";
    let (transport, stop) = hostile(page.into()).await;
    let error = transport.events(&ReplicaId::new("x").unwrap()).await.err().unwrap();
    assert!(matches!(error, TransportError::MalformedResponse { .. }), "{error}");
    stop.cancel();
}
