//! The steps that many tests take: names, contents, exports, and a token that is replaced.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::broadcast::Receiver;
use vfs_sync_client::core::id::ItemId;
use vfs_sync_client::core::item::Name;
use vfs_sync_client::{ChangeEvent, StateExport, SyncClient, TokenProvider};

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// Creates a file at the top, with a content.
pub(crate) fn put(client: &SyncClient, name: &str, bytes: &[u8]) -> ItemId {
    let file = client.create_file(None, Name::new(name).unwrap()).unwrap();
    client.contents().put(&file, bytes).unwrap();
    file
}

pub(crate) fn export(client: &SyncClient) -> String {
    let mut bytes = Vec::new();
    client.export_state(StateExport::default(), &mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

pub(crate) fn paths(client: &SyncClient) -> Vec<String> {
    client.walk(None).unwrap().map(|entry| entry.unwrap().path).collect()
}

/// Waits for a change.
pub(crate) async fn told(changes: &mut Receiver<ChangeEvent>, is: impl Fn(&ChangeEvent) -> bool) {
    let told = async { while !is(&changes.recv().await.unwrap()) {} };
    tokio::time::timeout(Duration::from_secs(30), told).await.expect("in time");
}

/// A token that is replaced, as a file is.
#[derive(Clone)]
pub(crate) struct Replaceable(Arc<Mutex<String>>);

impl Replaceable {
    pub(crate) fn new(token: String) -> Self {
        Self(Arc::new(Mutex::new(token)))
    }

    pub(crate) fn set(&self, token: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = token;
    }
}

#[async_trait]
impl TokenProvider for Replaceable {
    async fn token(&self, _: bool) -> Result<String, String> {
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}
