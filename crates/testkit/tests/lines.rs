//! Lines that lose what they carry: what each fault does to a call, and to a connection.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use vfs_sync_client::core::id::ReplicaId;
use vfs_sync_client::core::wire::{PushRequest, PushStatus};
use vfs_sync_client::transport::{CallKind, PullQuery};
use vfs_sync_client::{TransportError, TransportExt as _};
use vfs_sync_testkit::core::item::ObjectType;
use vfs_sync_testkit::{Direction, Fault, FaultyTransport, Proxy, Random, TestServer, build};

struct Scene {
    line: FaultyTransport,
    server: TestServer,
}

impl Scene {
    async fn set() -> Self {
        let server = TestServer::start().await;
        Self { line: FaultyTransport::new(server.transport("alice")), server }
    }

    /// Pushes a folder, the `nth` of the replica; gives what came of it.
    async fn push(&self, nth: u64) -> Result<PushStatus, TransportError> {
        let folder = format!("item-{nth}");
        let making = build::operation(&folder).by("laptop", nth).at(1_000);
        let operations = vec![making.create(ObjectType::Folder, "f", None)];
        let request = PushRequest { client_id: ReplicaId::new("laptop").unwrap(), operations };
        self.line.push(&request).await.map(|answer| answer.results[0].status)
    }

    async fn pushed_under(&self, nth: u64, fault: Fault) -> Result<PushStatus, TransportError> {
        self.line.next(CallKind::Push, fault);
        self.push(nth).await
    }

    async fn pull(&self) -> Result<usize, TransportError> {
        let client_id = ReplicaId::new("laptop").unwrap();
        let query = PullQuery { client_id, cursor: None, baseline: None, head: None, limit: 500 };
        self.line.pull(&query).await.map(|page| page.items.len())
    }

    /// Entries of the feed, as asked for over a line of its own.
    async fn items(&self) -> usize {
        let client = self.server.device("alice");
        client.sync().await.unwrap();
        client.children(None).unwrap().len()
    }
}

fn is_network<T: std::fmt::Debug>(outcome: &Result<T, TransportError>) -> bool {
    matches!(outcome, Err(TransportError::Network { .. }))
}

fn is_malformed<T: std::fmt::Debug>(outcome: &Result<T, TransportError>, of: &str) -> bool {
    matches!(outcome, Err(TransportError::MalformedResponse { call, .. }) if *call == of)
}

#[tokio::test]
async fn a_request_that_is_lost_does_nothing_and_an_answer_that_is_lost_undoes_nothing() {
    let scene = Scene::set().await;
    for fault in [Fault::DropRequest, Fault::CutRequest(10)] {
        assert!(is_network(&scene.pushed_under(1, fault).await));
        assert_eq!(scene.items().await, 0);
    }
    assert!(is_network(&scene.pushed_under(1, Fault::DropAnswer).await));
    assert!(is_network(&scene.pushed_under(2, Fault::CutAnswer(10)).await));
    assert_eq!(scene.items().await, 2);
    assert_eq!(scene.push(2).await.unwrap(), PushStatus::AlreadyApplied);
    assert_eq!(scene.line.record().count(CallKind::Push), 5);
}

#[tokio::test]
async fn a_call_that_is_doubled_or_delayed_is_answered() {
    let scene = Scene::set().await;
    let twice = scene.pushed_under(1, Fault::Duplicate).await.unwrap();
    assert_eq!(twice, PushStatus::AlreadyApplied, "the second answer");
    let by = Duration::from_millis(20);
    let before = std::time::Instant::now();
    assert_eq!(scene.pushed_under(2, Fault::Delay(by)).await.unwrap(), PushStatus::Applied);
    assert!(before.elapsed() >= by);
}

#[tokio::test]
async fn a_call_that_is_out_of_order_arrives_behind_the_next_that_gets_through() {
    let scene = Scene::set().await;
    assert!(is_network(&scene.pushed_under(1, Fault::Reorder).await));
    assert!(is_network(&scene.pushed_under(2, Fault::DropRequest).await));
    assert_eq!(scene.items().await, 0);
    assert_eq!(scene.pull().await.unwrap(), 0, "the pull was first");
    assert_eq!(scene.items().await, 1);
}

#[tokio::test]
async fn an_answer_that_is_short_or_damaged_is_malformed_and_was_given() {
    let scene = Scene::set().await;
    for (nth, fault) in [Fault::TruncateAnswer(30), Fault::DamageAnswer(5)].into_iter().enumerate()
    {
        let nth = nth as u64 + 1;
        assert!(is_malformed(&scene.pushed_under(nth, fault).await, "push"));
        assert_eq!(scene.push(nth).await.unwrap(), PushStatus::AlreadyApplied);
    }
    scene.line.next(CallKind::Pull, Fault::TruncateAnswer(1 << 20));
    assert_eq!(scene.pull().await.unwrap(), 2, "there is not as much to cut");
}

#[tokio::test]
async fn a_stale_answer_is_from_an_earlier_moment() {
    let scene = Scene::set().await;
    for items in 0..3 {
        assert_eq!(scene.pull().await.unwrap(), items);
        scene.push(items as u64 + 1).await.unwrap();
    }
    for (ago, items) in [(1, 2), (3, 0), (4, 3)] {
        scene.line.next(CallKind::Pull, Fault::Stale(ago));
        assert_eq!(scene.pull().await.unwrap(), items, "{ago} ago");
    }
}

#[tokio::test]
async fn a_refusal_is_the_one_that_was_asked_for_and_of_that_kind_of_call_only() {
    let scene = Scene::set().await;
    let busy = TransportError::network("busy");
    scene.line.next(CallKind::Push, Fault::Refuse(busy.clone()));
    assert_eq!(scene.pull().await.unwrap(), 0);
    assert_eq!(scene.push(1).await.unwrap_err(), busy);
    assert_eq!(scene.push(1).await.unwrap(), PushStatus::Applied);
}

#[tokio::test]
async fn a_line_that_is_cut_or_stormy_is_good_again_once_healed() {
    let scene = Scene::set().await;
    scene.line.cut();
    assert!(is_network(&scene.push(1).await));
    scene.line.heal();
    scene.line.storm(Random::new(1), 2);
    let (mut failed, mut passed) = (0, 0);
    for nth in 1..=60 {
        while scene.push(nth).await.is_err() {
            failed += 1;
        }
        passed += 1;
    }
    assert!(failed > 10, "{failed} of {passed}");
    scene.line.heal();
    for nth in 1..=60 {
        assert_eq!(scene.push(nth).await.unwrap(), PushStatus::AlreadyApplied);
    }
    assert_eq!(scene.items().await, 60);
}

#[tokio::test]
async fn an_upload_that_is_doubled_out_of_order_or_lost_leaves_the_content_whole() {
    let faults = [Fault::Duplicate, Fault::Reorder, Fault::DropAnswer, Fault::CutRequest(9 << 20)];
    let server = TestServer::start().await;
    for (kind, size) in [
        (CallKind::BlobBatch, 100),
        (CallKind::Upload, 3 << 20),
        (CallKind::Append, 17 << 20),
        (CallKind::Attach, 3 << 20),
        (CallKind::Attach, 17 << 20),
    ] {
        for fault in &faults {
            let line = Arc::new(FaultyTransport::new(server.transport("alice")));
            let config = vfs_sync_client::ClientConfig {
                backoff: (Duration::from_millis(1), Duration::from_millis(2)),
                ..Default::default()
            };
            let device = vfs_sync_testkit::TestDevice::in_memory("alice", line.clone(), config);
            let name = vfs_sync_testkit::core::item::Name::new("f").unwrap();
            let file = device.create_file(None, name).unwrap();
            let content = Random::new(1).bytes(size);
            device.contents().put(&file, content.as_slice()).unwrap();
            line.next(kind, fault.clone());
            while device.sync().await.is_err() {}
            assert!(line.record().count(kind) > 0, "{kind} {fault:?}");
            assert_eq!(device.queue().rejected_uploads().unwrap(), [], "{kind} {fault:?}");

            let other = server.device("alice");
            other.sync().await.unwrap();
            let local = other.contents().read(&file).await.unwrap();
            let mut read = Vec::new();
            std::io::Read::read_to_end(&mut local.reader().unwrap(), &mut read).unwrap();
            assert!(read == content, "{kind} {fault:?}");
        }
    }
}

/// A proxy to somebody who sends back what comes.
async fn echo() -> Proxy {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    Proxy::to(target).await
}

async fn said(stream: &mut TcpStream, text: &[u8]) -> std::io::Result<Vec<u8>> {
    stream.write_all(text).await?;
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back).await?;
    Ok(back)
}

#[tokio::test]
async fn a_proxy_that_is_cut_ends_its_connections_and_takes_none_until_it_is_healed() {
    let proxy = echo().await;
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(said(&mut stream, b"one").await.unwrap(), b"one");
    proxy.cut();
    assert!(stream.read_u8().await.is_err(), "it ends");
    let mut refused = TcpStream::connect(proxy.address()).await.unwrap();
    assert!(refused.read_u8().await.is_err());
    proxy.heal();
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(said(&mut stream, b"two").await.unwrap(), b"two");
}

#[tokio::test]
async fn what_is_held_in_either_direction_arrives_when_it_is_healed() {
    for direction in [Direction::Forth, Direction::Back] {
        let proxy = echo().await;
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        proxy.hold(direction);
        let held = said(&mut stream, b"held");
        tokio::pin!(held);
        let waiting = tokio::time::timeout(Duration::from_millis(50), &mut held).await;
        assert!(waiting.is_err(), "{direction:?}: nothing comes");
        proxy.heal();
        assert_eq!(held.await.unwrap(), b"held");
    }
}

#[tokio::test]
async fn a_connection_is_cut_at_a_byte_and_the_next_is_not() {
    let proxy = echo().await;
    proxy.cut_next_after(Direction::Forth, 5);
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(said(&mut stream, b"four").await.unwrap(), b"four");
    assert!(said(&mut stream, b"more").await.is_err());
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(said(&mut stream, b"and more").await.unwrap(), b"and more");
}

#[tokio::test]
async fn a_proxy_that_leads_nowhere_ends_its_connections() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nowhere = listener.local_addr().unwrap();
    drop(listener);
    let proxy = Proxy::to(nowhere).await;
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    assert!(stream.read_u8().await.is_err());
}
