//! A replica over a line that can be cut, and bytes to put into it.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use vfs_sync_client::core::id::{ItemId, UserId};
use vfs_sync_client::{ClientConfig, LocalContent, SyncClient, Transport};
use vfs_sync_testkit::{FaultyTransport, Random, TestServer};

pub(crate) const MIB: usize = 1024 * 1024;

pub(crate) fn config() -> ClientConfig {
    ClientConfig {
        backoff: (Duration::from_millis(1), Duration::from_millis(2)),
        ..ClientConfig::default()
    }
}

pub(crate) fn limited(cache_size: u64) -> ClientConfig {
    ClientConfig { cache_size: Some(cache_size), ..config() }
}

fn user() -> UserId {
    UserId::new("alice").unwrap()
}

fn line(server: &TestServer) -> Arc<FaultyTransport> {
    Arc::new(FaultyTransport::new(server.transport("alice")))
}

/// A client of alice's in a directory, over a line that can be cut.
pub(crate) struct Replica {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) line: Arc<FaultyTransport>,
    client: Option<SyncClient>,
}

impl Replica {
    pub(crate) fn new(server: &TestServer, config: ClientConfig) -> Self {
        let (dir, line) = (tempfile::tempdir().unwrap(), line(server));
        let transport: Arc<dyn Transport> = line.clone();
        let client =
            SyncClient::builder(transport).server("s").config(config).create(dir.path(), user());
        Self { dir, line, client: Some(client.unwrap()) }
    }

    pub(crate) fn client(&self) -> &SyncClient {
        self.client.as_ref().unwrap()
    }

    pub(crate) fn reopen(&mut self, config: ClientConfig) {
        self.client = None;
        let client = SyncClient::builder(self.line.clone()).config(config).open(self.dir.path());
        self.client = Some(client.unwrap());
    }

    pub(crate) fn files(&self, of: &str) -> Vec<PathBuf> {
        files(&self.dir.path().join("contents").join(of))
    }

    /// The files of contents that are in their place.
    pub(crate) fn contents(&self) -> Vec<PathBuf> {
        let all = self.files("").into_iter();
        all.filter(|path| {
            let shard = path.parent().unwrap().file_name().unwrap();
            shard.len() == 2
        })
        .collect()
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

/// Bytes that are not alike anywhere.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    Random::new(seed).bytes(len)
}

pub(crate) fn bytes(content: &LocalContent) -> Vec<u8> {
    let mut bytes = Vec::new();
    content.reader().unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

pub(crate) async fn read(client: &SyncClient, item: &ItemId) -> Vec<u8> {
    bytes(&client.contents().read(item).await.unwrap())
}
