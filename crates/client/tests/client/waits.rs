//! What is refused is not forgotten: a token that ran out, a disk or a quota that is full and a row that
//! is damaged are told, nothing of what waits for them is given up, and all goes on by itself.

use std::sync::Arc;
use std::time::Duration;

use vfs_sync_client::core::id::UserId;
use vfs_sync_client::transport::CallKind;
use vfs_sync_client::{
    ChangeEvent, ClientConfig, Delete, HttpConfig, HttpTransport, SyncClient, Transport,
    TransportError,
};
use vfs_sync_testkit::{Fault, FaultyTransport, MetadataQuota, ServerConfig, TestServer};

use crate::support::{Replaceable, put, told};

fn quick() -> ClientConfig {
    ClientConfig {
        interval: Duration::from_millis(20),
        backoff: (Duration::from_millis(1), Duration::from_millis(20)),
        ..ClientConfig::default()
    }
}

fn refused(status: u16, code: &str, details: serde_json::Value) -> TransportError {
    TransportError::Refused {
        status,
        code: code.into(),
        message: "There is no room".into(),
        details: details.as_object().cloned().unwrap_or_default(),
    }
}

#[tokio::test]
async fn background_work_pauses_while_the_token_has_run_out_and_goes_on_with_a_new_one() {
    let server = TestServer::start().await;
    let token = Replaceable::new(server.token("alice"));
    let http = HttpTransport::new(HttpConfig::new(server.url()), token.clone()).unwrap();
    let alice = UserId::new("alice").unwrap();
    let client = SyncClient::builder(Arc::new(http)).config(quick()).in_memory(alice).unwrap();
    let mut changes = client.subscribe();
    client.start_background().unwrap();
    put(&client, "one", b"1");
    told(&mut changes, |change| matches!(change, ChangeEvent::Changed(_))).await;
    token.set("e30.e30.ran-out".into());
    put(&client, "two", b"2");
    client.request_sync();
    let is_pause = |change: &ChangeEvent| match change {
        ChangeEvent::Paused(reason) => reason.signature == "unauthorized",
        ChangeEvent::Stopped(reason) => panic!("stopped: {reason:?}"),
        _ => false,
    };
    told(&mut changes, is_pause).await;
    let status = client.status().unwrap();
    assert!(status.running && status.stopped.is_none(), "{status:?}");
    assert_eq!(status.paused.unwrap().signature, "unauthorized");
    tokio::time::sleep(Duration::from_millis(200)).await;
    let again = std::iter::from_fn(|| changes.try_recv().ok()).find(is_pause);
    assert_eq!(again, None, "told once");
    token.set(server.token("alice"));
    told(&mut changes, |change| matches!(change, ChangeEvent::Resumed)).await;
    assert_eq!(client.status().unwrap().paused, None);
    let other = server.device("alice");
    for _ in 0..500 {
        other.sync().await.unwrap();
        let children = other.children(None).unwrap();
        if children.len() == 2 && children.iter().all(|child| child.node.content.is_some()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("what was made while it paused did not arrive");
}

#[tokio::test]
async fn a_content_over_quota_waits_and_does_not_hold_up_the_others() {
    let config = ServerConfig { max_stored_bytes: 1_000_000, ..ServerConfig::default() };
    let server = TestServer::builder().config(config).start().await;
    let client = server.device("alice");
    put(&client, "large", &vec![1; 3_000_000]);
    put(&client, "larger", &vec![2; 20_000_000]);
    put(&client, "small", b"small");
    for _ in 0..2 {
        let report = client.sync().await.unwrap();
        assert_eq!(report.waiting, 2, "{report:?}");
        let status = client.status().unwrap();
        assert_eq!((status.uploads, status.rejected_uploads), (2, 0), "{status:?}");
    }
    let waiting = client.queue().waiting_uploads().unwrap();
    assert!(waiting.iter().all(|one| one.reason.contains("quota_exceeded")), "{waiting:?}");
    let left = client.queue().outstanding().unwrap();
    assert!(!left.is_empty() && left.waiting.is_some(), "{left:?}");
    let other = server.device("alice");
    other.sync().await.unwrap();
    let arrived: Vec<String> = other
        .children(None)
        .unwrap()
        .into_iter()
        .filter(|child| child.node.content.is_some())
        .map(|child| child.name)
        .collect();
    assert_eq!(arrived, ["small"]);
}

#[tokio::test]
async fn items_over_quota_hold_up_neither_the_contents_of_others_nor_what_makes_room() {
    let metadata = MetadataQuota { items: 2, ..MetadataQuota::default() };
    let config = ServerConfig { metadata, ..ServerConfig::default() };
    let server = TestServer::builder().config(config).start().await;
    let (client, other) = (server.device("alice"), server.device("alice"));
    put(&client, "one", b"1");
    put(&client, "two", b"2");
    put(&client, "three", b"3");
    for _ in 0..2 {
        let error = client.sync().await.unwrap_err();
        assert!(error.to_string().contains("quota_exceeded"), "{error}");
        let status = client.status().unwrap();
        assert_eq!((status.pending, status.uploads, status.rejected), (1, 1, 0), "{status:?}");
        assert_eq!(status.stopped, None);
    }
    other.sync().await.unwrap();
    let arrived = other.children(None).unwrap();
    assert!(arrived.iter().all(|child| child.node.content.is_some()), "{arrived:?}");
    assert_eq!(arrived.len(), 2);
    other.delete(&arrived[0].node.id, Delete::Item).unwrap();
    other.sync().await.unwrap();
    assert_eq!(client.trash().empty().await.unwrap().purged, 1, "beside a queue that waits");
    assert_eq!(client.status().unwrap().pending, 1, "nothing is given up");
}

#[tokio::test]
async fn a_full_disk_of_the_server_gives_nothing_up() {
    let server = TestServer::start().await;
    let line = Arc::new(FaultyTransport::new(server.transport("alice")));
    let to: Arc<dyn Transport> = line.clone();
    let alice = UserId::new("alice").unwrap();
    let client = SyncClient::builder(to).config(quick()).in_memory(alice).unwrap();
    let full = || refused(507, "storage_full", serde_json::Value::Null);
    let store = serde_json::json!({"storageCode": "StorageFull", "retryable": false});
    put(&client, "file", b"content");
    put(&client, "large", &vec![1; 2_000_000]);
    let other = server.device("alice");
    put(&other, "others", b"of another device");
    other.sync().await.unwrap();
    line.next(CallKind::Push, Fault::Refuse(full()));
    let error = client.sync().await.unwrap_err();
    assert_eq!(client.children(None).unwrap().len(), 3, "what others did arrives meanwhile");
    assert!(error.to_string().contains("storage_full"), "{error}");
    assert_eq!(client.status().unwrap().stopped, None);
    // Servers of earlier versions call it final; the database may be full as well.
    line.next(CallKind::BlobBatch, Fault::Refuse(refused(500, "blob_store_error", store)));
    line.next(CallKind::Stage, Fault::Refuse(full()));
    let report = client.sync().await.unwrap();
    assert_eq!((report.waiting, report.uploaded, report.rejected), (2, 0, 0), "{report:?}");
    let left = client.queue().outstanding().unwrap();
    assert_eq!((left.uploads, left.rejected_uploads), (2, 0), "{left:?}");
    let reasons: Vec<String> =
        client.queue().waiting_uploads().unwrap().into_iter().map(|one| one.reason).collect();
    assert_eq!(
        reasons,
        [
            "There is no room (500 blob_store_error, StorageFull)",
            "There is no room (507 storage_full)",
        ]
    );
    assert_eq!(left.waiting.as_ref(), Some(&reasons[0]));
    let report = client.sync().await.unwrap();
    assert_eq!((report.waiting, report.uploaded), (0, 2), "{report:?}");
    assert!(client.queue().outstanding().unwrap().is_empty());
}

#[tokio::test]
async fn background_work_tells_each_round_what_is_outstanding() {
    let server = TestServer::start().await;
    let line = Arc::new(FaultyTransport::new(server.transport("alice")));
    let to: Arc<dyn Transport> = line.clone();
    let alice = UserId::new("alice").unwrap();
    let client = SyncClient::builder(to).config(quick()).in_memory(alice).unwrap();
    let full = || refused(507, "storage_full", serde_json::Value::Null);
    put(&client, "file", b"content");
    line.next(CallKind::Push, Fault::Refuse(full()));
    for _ in 0..3 {
        line.next(CallKind::BlobBatch, Fault::Refuse(full()));
    }
    let mut changes = client.subscribe();
    client.start_background().unwrap();
    told(&mut changes, |change| {
        matches!(change, ChangeEvent::Paused(reason) if reason.signature == "storage_full")
    })
    .await;
    told(&mut changes, |change| matches!(change, ChangeEvent::Resumed)).await;
    for _ in 0..2 {
        told(
            &mut changes,
            |change| matches!(change, ChangeEvent::Outstanding(left) if left.uploads == 1),
        )
        .await;
    }
    for _ in 0..500 {
        if client.queue().outstanding().unwrap().is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{:?}", client.queue().outstanding());
}
