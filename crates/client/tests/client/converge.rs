//! Clients and a server over HTTP: what one writes the others show.

use std::io::Read as _;
use std::sync::Arc;

use vfs_sync_client::core::id::{ItemId, UserId};
use vfs_sync_client::{
    ClientConfig, Delete, HttpConfig, HttpTransport, StaticToken, SyncClient, Transport,
};
use vfs_sync_testkit::TestServer;

use crate::support::{export, name, paths};

fn transport(server: &TestServer) -> Arc<dyn Transport> {
    let token = StaticToken::new(server.token("alice"));
    Arc::new(HttpTransport::new(HttpConfig::new(server.url()), token).unwrap())
}

fn config() -> ClientConfig {
    ClientConfig { rematerialise: true, ..ClientConfig::default() }
}

/// A client of alice's, in memory.
fn client(server: &TestServer) -> SyncClient {
    let user = UserId::new("alice").unwrap();
    SyncClient::builder(transport(server)).config(config()).in_memory(user).unwrap()
}

/// A client of alice's in a directory.
fn durable(server: &TestServer) -> (tempfile::TempDir, SyncClient) {
    let (dir, user) = (tempfile::tempdir().unwrap(), UserId::new("alice").unwrap());
    let made = SyncClient::builder(transport(server))
        .server("s")
        .config(config())
        .create(dir.path(), user);
    (dir, made.unwrap())
}

async fn text(client: &SyncClient, item: &ItemId) -> String {
    let mut text = String::new();
    let content = client.contents().read(item).await.unwrap();
    content.reader().unwrap().read_to_string(&mut text).unwrap();
    text
}

#[tokio::test]
async fn what_one_replica_writes_another_shows() {
    let server = TestServer::start().await;
    let (_dir, one) = durable(&server);
    let other = client(&server);
    let folder = one.create_folder(None, name("docs")).unwrap();
    let file = one.create_file(Some(&folder), name("a.txt")).unwrap();
    one.contents().put(&file, &b"hello"[..]).unwrap();
    let large = one.create_file(Some(&folder), name("large")).unwrap();
    one.contents().put(&large, "x".repeat(3_000_000).as_bytes()).unwrap();
    let report = one.sync().await.unwrap();
    assert_eq!((report.applied, report.uploaded), (3, 2));
    let status = one.status().unwrap();
    assert_eq!((status.pending, status.acknowledged, status.uploads), (0, 0, 0));
    assert!(!one.node(&file).unwrap().unwrap().pending);

    other.sync().await.unwrap();
    assert_eq!(paths(&other), ["docs", "docs/a.txt", "docs/large"]);
    assert_eq!(text(&other, &file).await, "hello");
    assert_eq!(text(&other, &large).await.len(), 3_000_000);

    other.rename(&folder, name("papers")).unwrap();
    one.set_metadata(&folder, vec![("colour".into(), Some("red".into()))]).unwrap();
    one.delete(&large, Delete::Item).unwrap();
    for client in [&other, &one, &other] {
        client.sync().await.unwrap();
    }
    assert_eq!(paths(&one), ["papers", "papers/a.txt"]);
    assert_eq!(paths(&other), paths(&one));
    assert_eq!(other.node(&folder).unwrap().unwrap().metadata["colour"], "red");
    let before = export(&one);
    one.sync().await.unwrap();
    assert_eq!(export(&one), before, "a sync with nothing to do changes nothing");
}

#[tokio::test]
async fn a_queue_longer_than_a_push_drains() {
    let server = TestServer::start().await;
    let (_dir, one) = durable(&server);
    let mut batch = one.batch();
    let folder = batch.create(
        vfs_sync_client::core::item::ObjectType::Folder,
        None,
        name("many"),
        Vec::new(),
    );
    for n in 0..501 {
        let file = vfs_sync_client::core::item::ObjectType::File;
        batch.create(file, Some(&folder), name(&format!("f{n}")), Vec::new());
    }
    batch.commit().unwrap();
    let report = one.sync().await.unwrap();
    assert_eq!((report.applied, report.pushes), (502, 2));
    let other = client(&server);
    other.sync().await.unwrap();
    assert_eq!(paths(&other), paths(&one));
    assert_eq!(other.status().unwrap().items, 502);
}

#[tokio::test]
async fn two_contents_written_at_the_same_time_are_both_kept() {
    let server = TestServer::start().await;
    let (one, other) = (client(&server), client(&server));
    let file = one.create_file(None, name("a.txt")).unwrap();
    one.contents().put(&file, &b"first"[..]).unwrap();
    one.sync().await.unwrap();
    other.sync().await.unwrap();
    one.contents().put(&file, &b"from one"[..]).unwrap();
    other.contents().put(&file, &b"from other"[..]).unwrap();
    one.sync().await.unwrap();
    let mut changes = other.subscribe();
    other.sync().await.unwrap();
    one.sync().await.unwrap();
    assert_eq!(paths(&one), paths(&other));
    let children = other.children(None).unwrap();
    assert_eq!(children.len(), 2, "{:?}", paths(&other));
    let copy = children.iter().find(|child| child.node.id != file).unwrap();
    assert!(copy.name.starts_with("a (conflict "), "{}", copy.name);
    assert_eq!(text(&one, &file).await, "from one");
    assert_eq!(text(&one, &copy.node.id).await, "from other");
    let mut told = false;
    while let Ok(change) = changes.try_recv() {
        told |= matches!(change, vfs_sync_client::ChangeEvent::ConflictedCopy { .. });
    }
    assert!(told);
}

#[tokio::test]
async fn a_lost_state_with_the_same_client_id_takes_nothing_new_for_something_old() {
    let server = TestServer::start().await;
    let one = client(&server);
    for n in 0..3 {
        one.create_folder(None, name(&format!("old{n}"))).unwrap();
    }
    one.sync().await.unwrap();
    let user = UserId::new("alice").unwrap();
    let again = SyncClient::builder(transport(&server))
        .config(config())
        .client_id(one.client_id())
        .in_memory(user);
    let again = again.unwrap();
    again.create_folder(None, name("new")).unwrap();
    let report = again.sync().await.unwrap();
    assert_eq!((report.applied, report.rejected), (1, 0));
    assert_eq!(paths(&again), ["new", "old0", "old1", "old2"]);
    one.sync().await.unwrap();
    assert_eq!(paths(&one), paths(&again));
}

#[tokio::test]
async fn after_a_new_epoch_everything_drains() {
    let server = TestServer::start().await;
    let (_dir, one) = durable(&server);
    one.create_folder(None, name("before")).unwrap();
    one.sync().await.unwrap();
    one.create_folder(None, name("queued")).unwrap();
    let now = vfs_sync_client::core::time::Timestamp::from_millis(4_000_000_000_000).unwrap();
    server.store().new_epoch(now, 0).await.unwrap();
    let report = one.sync().await.unwrap();
    assert!(!report.rematerialised, "what it has is what the server has");
    assert_eq!(paths(&one), ["before", "queued"]);
    let status = one.status().unwrap();
    assert_eq!((status.pending, status.acknowledged, status.items), (0, 0, 2));
    assert_eq!(status.stopped, None);
}

#[tokio::test]
async fn background_work_syncs_when_poked() {
    let server = TestServer::start().await;
    let (one, other) = (client(&server), client(&server));
    one.start_background().unwrap();
    let mut changes = other.subscribe();
    other.start_background().unwrap();
    one.create_folder(None, name("f")).unwrap();
    let seen = async {
        loop {
            other.request_sync();
            let wait = std::time::Duration::from_millis(20);
            if let Ok(Ok(vfs_sync_client::ChangeEvent::Appeared(_))) =
                tokio::time::timeout(wait, changes.recv()).await
            {
                return;
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), seen).await.unwrap();
    assert_eq!(paths(&other), ["f"]);
    one.stop_background().await;
    assert!(!one.status().unwrap().running);
}
