//! Reading contents: from the cache, or downloaded into it; verified either way.

use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream;
use vfs_sync_core::id::ItemId;
use vfs_sync_core::tree::NodeContent;

use crate::client::{Inner, SyncClient};
use crate::content::LocalContent;
use crate::error::ClientError;
use crate::transport::TransportError;

impl SyncClient {
    /// The content of an item, from the cache, or downloaded into it and verified.
    ///
    /// # Errors
    /// [`ClientError::NoContent`], [`ClientError::UnknownItem`], or why it cannot be had.
    pub async fn read_content(&self, item: &ItemId) -> Result<LocalContent, ClientError> {
        let node = self.node(item)?.ok_or_else(|| ClientError::UnknownItem(item.clone()))?;
        let content = node.content.ok_or_else(|| ClientError::NoContent(item.clone()))?;
        if let Some(local) = cached(&self.inner, &content).await? {
            return Ok(local);
        }
        download(&self.inner, &content).await
    }

    /// Downloads the contents of `items` that are not in the cache, several at a time; gives how
    /// many were downloaded. Items without content are passed over.
    ///
    /// # Errors
    /// The first that could not be had; those before it are in the cache.
    pub async fn fetch_contents(&self, items: &[ItemId]) -> Result<u64, ClientError> {
        let fetches = stream::iter(items.to_vec()).map(|item| {
            let client = self.clone();
            async move {
                let content = client.node(&item)?.and_then(|node| node.content);
                let Some(content) = content else { return Ok(0) };
                if cached(&client.inner, &content).await?.is_some() {
                    return Ok(0);
                }
                download(&client.inner, &content).await.map(|_| 1)
            }
        });
        let mut fetches = fetches.buffer_unordered(self.inner.config.transfers);
        let mut count = 0;
        while let Some(one) = fetches.next().await {
            count += one?;
        }
        Ok(count)
    }
}

/// The content if it is in the cache and whole. What is not whole leaves the cache.
async fn cached(
    inner: &Arc<Inner>,
    content: &NodeContent,
) -> Result<Option<LocalContent>, ClientError> {
    let (inner, content) = (Arc::clone(inner), content.clone());
    let verified = tokio::task::spawn_blocking(move || {
        inner.cache.find_verified(&content.blob_id, content.size, content.digest)
    });
    verified.await.map_err(|error| ClientError::Storage(error.to_string()))?
}

async fn download(inner: &Arc<Inner>, content: &NodeContent) -> Result<LocalContent, ClientError> {
    let malformed = |reason: &str| TransportError::MalformedResponse {
        call: "download",
        field: "body".into(),
        reason: reason.into(),
    };
    let mut bytes = inner.transport.download(&content.blob_id).await?;
    let mut writer = inner.cache.writer()?;
    while let Some(chunk) = bytes.next().await {
        let chunk = chunk.map_err(|error| TransportError::network(error.to_string()))?;
        writer.write(&chunk)?;
        if writer.size() > content.size {
            return Err(malformed("is longer than the content").into());
        }
    }
    if writer.size() < content.size {
        return Err(TransportError::network("the download was cut off").into());
    }
    let (inner, content) = (Arc::clone(inner), content.clone());
    let kept = tokio::task::spawn_blocking(move || {
        let new = writer.finish(content.blob_id.clone());
        if new.stored().digest != content.digest {
            return Err(ClientError::from(TransportError::MalformedResponse {
                call: "download",
                field: "body".into(),
                reason: "does not have the content's digest".into(),
            }));
        }
        inner.cache.keep_fetched(new)?;
        let local = inner.cache.find(&content.blob_id, content.size, content.digest);
        local.ok_or_else(|| ClientError::Storage("the cache lost a content at once".into()))
    });
    kept.await.map_err(|error| ClientError::Storage(error.to_string()))?
}
