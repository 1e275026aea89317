//! Times and bytes travel together: nobody sees a time on bytes that it does not belong to.

use std::time::Duration;

use serde_json::{Map, Value, json};
use vfs_sync_client::core::id::{ItemId, UserId};
use vfs_sync_client::core::item::Name;
use vfs_sync_client::core::time::Timestamp;
use vfs_sync_client::core::wire::code;
use vfs_sync_client::transport::{Answer, Call, CallKind};
use vfs_sync_client::{ClientError, StateExport, SyncClient, Transport, TransportError};
use vfs_sync_testkit::{Fault, TestServer};

use super::scene::{MIB, Replica, config, noise, read};
use crate::support::put;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(seconds * 1_000).unwrap()
}

fn down() -> TransportError {
    TransportError::network("the line is down")
}

fn shown(client: &SyncClient, item: &ItemId) -> Timestamp {
    client.node(item).unwrap().unwrap().modified_at()
}

/// Two replicas that have the item `f` with `bytes`, of the time 100.
async fn scene(server: &TestServer, bytes: &[u8]) -> (Replica, Replica, ItemId) {
    let (one, other) = (Replica::new(server, config()), Replica::new(server, config()));
    let item = put(one.client(), "f", b"");
    one.client().contents().put_at(&item, bytes, at(100)).unwrap();
    one.client().sync().await.unwrap();
    other.client().sync().await.unwrap();
    (one, other, item)
}

#[tokio::test]
async fn no_time_arrives_before_the_bytes_that_it_belongs_to() {
    let server = TestServer::start().await;
    let (one, other, item) = scene(&server, &noise(2 * MIB, 1)).await;
    one.client().contents().put_at(&item, &noise(2 * MIB, 2)[..], at(200)).unwrap();
    assert_eq!(shown(one.client(), &item), at(200), "at once where it was written");
    (0..4).for_each(|_| one.line.next(CallKind::Attach, Fault::Refuse(down())));
    one.client().sync().await.unwrap_err();
    other.client().sync().await.unwrap();
    assert_eq!(shown(other.client(), &item), at(100));
    assert_eq!(read(other.client(), &item).await, noise(2 * MIB, 1));
    one.client().sync().await.unwrap();
    other.client().sync().await.unwrap();
    assert_eq!(shown(other.client(), &item), at(200));
    assert_eq!(read(other.client(), &item).await, noise(2 * MIB, 2));
    let versions = other.client().contents().versions(&item).await.unwrap();
    let times: Vec<_> = versions.iter().map(|version| version.modified_at).collect();
    assert_eq!(times[..2], [Some(at(200)), Some(at(100))], "each version keeps its own");
}

#[tokio::test]
async fn a_touch_may_go_backwards_and_never_lands_on_other_bytes() {
    let server = TestServer::start().await;
    let (one, other, item) = scene(&server, b"first").await;
    one.client().touch(&item, at(50)).unwrap();
    one.client().sync().await.unwrap();
    other.client().sync().await.unwrap();
    assert_eq!([one.client(), other.client()].map(|client| shown(client, &item)), [at(50); 2]);
    // Here a touch, there other bytes.
    one.client().touch(&item, at(300)).unwrap();
    other.client().contents().put_at(&item, &b"other"[..], at(10)).unwrap();
    one.client().sync().await.unwrap();
    assert_eq!(shown(one.client(), &item), at(300));
    other.client().sync().await.unwrap();
    one.client().sync().await.unwrap();
    for client in [one.client(), other.client()] {
        assert_eq!(shown(client, &item), at(10));
        assert_eq!(read(client, &item).await, b"other");
    }
}

#[tokio::test]
async fn a_touch_goes_with_bytes_that_are_still_on_their_way() {
    let server = TestServer::start().await;
    let (one, other, item) = scene(&server, b"").await;
    one.client().contents().put_at(&item, &noise(2 * MIB, 3)[..], at(200)).unwrap();
    one.client().touch(&item, at(7)).unwrap();
    assert_eq!(shown(one.client(), &item), at(7));
    // Its stage is over by then, and it goes under another id.
    let refused = TransportError::Refused {
        status: 409,
        code: code::STAGE_EXPIRED.into(),
        message: "no".into(),
        details: Map::<String, Value>::new(),
    };
    one.line.next(CallKind::Attach, Fault::Refuse(refused));
    one.client().sync().await.unwrap();
    one.client().sync().await.unwrap();
    assert_eq!(one.client().status().unwrap().uploads, 0);
    other.client().sync().await.unwrap();
    assert_eq!([one.client(), other.client()].map(|client| shown(client, &item)), [at(7); 2]);
    // In one batch it is the time of the content itself.
    let mut batch = one.client().batch();
    batch.put_content_at(&item, &b"x"[..], at(1)).unwrap();
    batch.touch(&item, at(2)).unwrap();
    batch.commit().unwrap();
    let content = one.client().node(&item).unwrap().unwrap().content.unwrap();
    assert_eq!(content.modified_at, Some(at(2)));
    let nowhere: ItemId = "nowhere".parse().unwrap();
    assert!(matches!(one.client().touch(&nowhere, at(1)), Err(ClientError::UnknownItem(_))));
}

#[tokio::test]
async fn copies_have_the_time_of_their_bytes() {
    let server = TestServer::start().await;
    let (one, other, item) = scene(&server, b"first").await;
    one.client().touch(&item, at(60)).unwrap();
    let copy = one.client().copy(&item, None, Name::new("copy").unwrap()).unwrap();
    assert_eq!(shown(one.client(), &copy), at(60));
    let metadata = one.client().node(&copy).unwrap().unwrap().metadata;
    assert!(metadata.is_empty(), "{metadata:?}");
    one.client().contents().put_at(&item, &b"of one"[..], at(200)).unwrap();
    one.client().sync().await.unwrap();
    other.client().contents().put_at(&item, &b"of the other"[..], at(150)).unwrap();
    other.client().touch(&item, at(151)).unwrap();
    other.client().sync().await.unwrap();
    other.client().sync().await.unwrap();
    one.client().sync().await.unwrap();
    for client in [one.client(), other.client()] {
        let children = client.children(None).unwrap().into_iter();
        let mut files = Vec::new();
        for child in children {
            let bytes = read(client, &child.node.id).await;
            files.push((String::from_utf8(bytes).unwrap(), child.node.modified_at()));
        }
        files.sort();
        let expected = [("first", at(60)), ("of one", at(200)), ("of the other", at(151))];
        assert_eq!(files, expected.map(|(text, time)| (text.to_owned(), time)));
    }
}

#[tokio::test]
async fn the_first_and_the_last_time_that_can_be_carried_come_back() {
    let server = TestServer::start().await;
    let mut one = Replica::new(&server, config());
    let times = [Timestamp::MIN, Timestamp::MAX, at(-1)];
    let items = ["a", "b", "c"].map(|name| put(one.client(), name, b""));
    for (item, time) in items.iter().zip(times) {
        one.client().contents().put_at(item, item.as_str().as_bytes(), time).unwrap();
    }
    one.reopen(config());
    one.client().sync().await.unwrap();
    one.reopen(config());
    let other = Replica::new(&server, config());
    other.client().sync().await.unwrap();
    for client in [one.client(), other.client()] {
        assert_eq!(items.each_ref().map(|item| shown(client, item)), times);
    }
    // Touched, exported and taken over.
    for (item, time) in items.iter().rev().zip(times) {
        other.client().touch(item, time).unwrap();
    }
    other.client().sync().await.unwrap();
    let mut state = Vec::new();
    other.client().export_state(StateExport::default(), &mut state).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (taken, _) = SyncClient::builder(server.transport("alice"))
        .server("s")
        .config(config())
        .client_id(other.client().client_id())
        .hydrate(dir.path(), "alice".parse().unwrap(), &state[..])
        .unwrap();
    let reversed = [times[2], times[1], times[0]];
    assert_eq!(items.each_ref().map(|item| shown(&taken, item)), reversed);
}

#[tokio::test]
async fn a_plain_time_shows_with_no_content_that_has_its_own() {
    let server = TestServer::start().await;
    let (one, _, item) = scene(&server, b"first").await;
    let set = |key: &str, value: Value| {
        one.client().set_metadata(&item, vec![(key.to_owned(), Some(value))]).unwrap();
    };
    set("mtime", json!(at(9)));
    assert_eq!(shown(one.client(), &item), at(100), "as an older client sets it");
    for odd in [json!(7), json!({"mtime": "never", "blobId": 7}), json!([])] {
        set("touched", odd);
        assert_eq!(shown(one.client(), &item), at(100));
    }
    let empty = one.client().create_file(None, Name::new("e").unwrap()).unwrap();
    one.client().touch(&empty, at(11)).unwrap();
    assert_eq!(shown(one.client(), &empty), at(11));
    one.client().contents().put(&empty, &b"x"[..]).unwrap();
    let now = shown(one.client(), &empty);
    assert_ne!(now, at(11));
    tokio::time::sleep(Duration::from_millis(2)).await;
    one.client().sync().await.unwrap();
    assert_eq!(shown(one.client(), &empty), now, "when it was put, not when it was sent");
}

/// A server from before contents had times: it takes and tells none.
struct Older(std::sync::Arc<dyn Transport>);

#[async_trait::async_trait]
impl Transport for Older {
    async fn call(&self, mut call: Call) -> Result<Answer, TransportError> {
        match &mut call {
            Call::Attach { request, .. } => request.modified_at = None,
            Call::BlobBatch(files) => {
                files.iter_mut().for_each(|file| file.attach.modified_at = None);
            }
            _ => {}
        }
        self.0.call(call).await
    }

    fn bind_user(&self, user: &UserId) -> Result<(), UserId> {
        self.0.bind_user(user)
    }

    fn bind_device(&self, device: &std::sync::Arc<vfs_sync_client::Device>) {
        self.0.bind_device(device);
    }
}

#[tokio::test]
async fn an_older_server_carries_a_time_as_a_touch_of_these_bytes() {
    let server = TestServer::start().await;
    let older = || {
        let user = "alice".parse().unwrap();
        let to = std::sync::Arc::new(Older(server.transport("alice")));
        SyncClient::builder(to).config(config()).in_memory(user).unwrap()
    };
    let (one, other) = (older(), older());
    let small = put(&one, "small", b"");
    let large = put(&one, "large", b"");
    one.sync().await.unwrap();
    one.contents().put_at(&small, &b"small"[..], at(5)).unwrap();
    one.contents().put_at(&large, &noise(2 * MIB, 4)[..], at(6)).unwrap();
    one.sync().await.unwrap();
    assert_eq!([&small, &large].map(|item| shown(&one, item)), [at(5), at(6)]);
    one.sync().await.unwrap();
    assert_eq!(one.status().unwrap().pending, 0, "told once");
    other.sync().await.unwrap();
    assert_eq!([&small, &large].map(|item| shown(&other, item)), [at(5), at(6)]);
}
