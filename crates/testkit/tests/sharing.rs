//! Sharing over real HTTP, with the real client: what must hold whenever somebody gains or loses
//! sight of something.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vfs_sync_client::core::id::{ItemId, UserId};
use vfs_sync_client::core::item::Name;
use vfs_sync_client::{ClientConfig, Delete, HttpConfig, HttpTransport, StaticToken, SyncClient};
use vfs_sync_testkit::TestServer;

/// A replica of somebody's, on a disk of its own.
struct Replica {
    client: SyncClient,
    dir: tempfile::TempDir,
}

impl std::ops::Deref for Replica {
    type Target = SyncClient;
    fn deref(&self) -> &SyncClient {
        &self.client
    }
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

impl Replica {
    fn of(server: &TestServer, user: &str) -> Self {
        let token = StaticToken::new(server.token(user));
        let transport = HttpTransport::new(HttpConfig::new(server.url()), token).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let config = ClientConfig::default();
        let user = UserId::new(user).unwrap();
        let client =
            SyncClient::create_replica(dir.path(), user, "s", Arc::new(transport), config).unwrap();
        Self { client, dir }
    }

    async fn file(&self, parent: Option<&ItemId>, called: &str, text: &str) -> ItemId {
        let item = self.create_file(parent, name(called)).unwrap();
        self.put_content(&item, text.as_bytes()).unwrap();
        self.sync().await.unwrap();
        item
    }

    async fn read(&self, item: &ItemId) -> String {
        let content = self.read_content(item).await.unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut content.reader().unwrap(), &mut text).unwrap();
        text
    }

    /// The bytes of contents that are on its disk.
    fn cached(&self) -> Vec<String> {
        let mut texts: BTreeMap<PathBuf, String> = BTreeMap::new();
        let mut folders = vec![self.dir.path().join("contents")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).unwrap() {
                let path: PathBuf = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    texts.insert(path.clone(), text_of(&path));
                }
            }
        }
        let mut texts: Vec<String> = texts.into_values().collect();
        texts.sort();
        texts
    }
}

fn text_of(path: &Path) -> String {
    String::from_utf8(std::fs::read(path).unwrap()).unwrap()
}

#[tokio::test]
async fn a_content_that_went_leaves_every_cache_and_one_that_came_back_stays() {
    let server = TestServer::start().await;
    let (laptop, phone) = (Replica::of(&server, "alice"), Replica::of(&server, "alice"));
    let going = laptop.file(None, "going.txt", "goes").await;
    let edited = laptop.file(None, "edited.txt", "before").await;
    phone.sync().await.unwrap();
    assert_eq!(
        (phone.read(&going).await, phone.read(&edited).await),
        ("goes".into(), "before".into())
    );
    assert_eq!(phone.cached(), ["before", "goes"]);

    laptop.delete(&going, Delete::Item).unwrap();
    laptop.put_content(&edited, &b"after"[..]).unwrap();
    laptop.sync().await.unwrap();
    phone.sync().await.unwrap();
    assert_eq!(phone.cached(), [""; 0]);
    assert_eq!(laptop.cached(), ["after"]);
    assert_eq!(phone.read(&edited).await, "after");

    phone.rematerialise().await.unwrap();
    assert_eq!(phone.cached(), ["after"], "what is still there stays");
    laptop.delete(&edited, Delete::Item).unwrap();
    laptop.sync().await.unwrap();
    phone.rematerialise().await.unwrap();
    assert_eq!(phone.cached(), [""; 0]);
}
