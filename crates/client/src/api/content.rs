//! Contents of items: stores them, and reads them from the cache or the server.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use futures::StreamExt as _;
use futures::stream;
use vfs_sync_core::id::ItemId;
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::tree::NodeContent;
use vfs_sync_core::wire::Version;

use crate::client::SyncClient;
use crate::content::{
    CacheUsage, DraftContent, Fetched, Keep, LocalContent, StoredContent, TakenContent, batch_read,
    cached, download, read,
};
use crate::error::{ClientError, Result};
use crate::host::{self, AbortOnDropHandle};
use crate::transport::TransportExt as _;

/// The number of items whose contents are looked up together.
const FETCHED_TOGETHER: usize = 128;

/// The calls that store the contents of items, and read them from the cache or the server.
#[derive(Clone, Copy)]
pub struct Contents<'a> {
    client: &'a SyncClient,
}

impl SyncClient {
    /// Returns the calls that store and read the contents of items.
    #[must_use]
    pub fn contents(&self) -> Contents<'_> {
        Contents { client: self }
    }
}

impl Contents<'_> {
    /// Returns the size of the content cache, and its limit.
    ///
    /// # Errors
    /// [`ClientError::Io`] if its directory cannot be read.
    pub fn usage(self) -> Result<CacheUsage> {
        self.client.inner.cache.usage()
    }

    /// Copies bytes into the cache, for [`crate::Batch::put_taken`], so that several threads can
    /// copy the contents of one batch.
    ///
    /// # Errors
    /// A failure to write.
    pub fn take(self, bytes: &[u8]) -> Result<TakenContent> {
        self.client.inner.cache.take_bytes(bytes).map(TakenContent)
    }

    /// Copies the bytes of a reader into the cache, in bounded memory, for
    /// [`crate::Batch::put_taken`].
    ///
    /// # Errors
    /// A failure to read or write.
    pub fn take_from(self, reader: impl Read) -> Result<TakenContent> {
        self.client.inner.cache.take(reader).map(TakenContent)
    }

    /// Begins a content that is written to the cache part by part, for [`crate::Batch::put_taken`].
    ///
    /// # Errors
    /// A failure to write.
    pub fn begin(self) -> Result<DraftContent> {
        self.client.inner.cache.writer().map(DraftContent)
    }

    /// Stores a content for an item; the next sync uploads it. The content is durable when the call
    /// returns, and reads return it from then on. The bytes are copied, in bounded memory. Their
    /// modification time is the present.
    ///
    /// # Errors
    /// [`ClientError::UnknownItem`], or a failure to read or write.
    pub fn put(self, item: &ItemId, reader: impl Read) -> Result<StoredContent> {
        self.client.node(item)?.ok_or_else(|| ClientError::UnknownItem(item.clone()))?;
        let mut batch = self.client.batch();
        let stored = batch.put_content(item, reader)?;
        batch.commit()?;
        Ok(stored)
    }

    /// Works as [`Self::put`], with the modification time of the bytes.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub fn put_at(
        self,
        item: &ItemId,
        reader: impl Read,
        modified_at: Timestamp,
    ) -> Result<StoredContent> {
        self.client.node(item)?.ok_or_else(|| ClientError::UnknownItem(item.clone()))?;
        let mut batch = self.client.batch();
        let stored = batch.put_content_at(item, reader, modified_at)?;
        batch.commit()?;
        Ok(stored)
    }

    /// Works as [`Self::put`] for a file, with the file's modification time.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub fn put_file(self, item: &ItemId, path: &Path) -> Result<StoredContent> {
        let file =
            File::open(path).map_err(ClientError::io(format!("cannot open {}", path.display())))?;
        // Of a disk that keeps no times, and of a time that the protocol cannot carry, it is now.
        let modified = file.metadata().and_then(|metadata| metadata.modified()).ok();
        match modified.and_then(Timestamp::from_system_time) {
            Some(modified_at) => self.put_at(item, file, modified_at),
            None => self.put(item, file),
        }
    }

    /// Returns the content of an item from the cache, or downloads it into the cache and verifies
    /// it. A download that was cut resumes where it stopped, even in a later call or process.
    ///
    /// # Errors
    /// [`ClientError::NoContent`], [`ClientError::UnknownItem`], [`ClientError::WrongContent`] if
    /// the server repeatedly returns other bytes, or the reason why the download failed.
    pub async fn read(self, item: &ItemId) -> Result<LocalContent> {
        let node = self.client.node(item)?.ok_or_else(|| ClientError::UnknownItem(item.clone()))?;
        let content = node.content.ok_or_else(|| ClientError::NoContent(item.clone()))?;
        read(&self.client.inner, item, &content).await
    }

    /// Lists the present and earlier contents of a file that the server keeps, the newest (present)
    /// one first. Contents that are still to be uploaded are not included.
    ///
    /// # Errors
    /// [`ClientError::Transport`]; the server has no versions of an item that it does not know.
    pub async fn versions(self, item: &ItemId) -> Result<Vec<Version>> {
        Ok(self.client.inner.transport.versions(item).await?.versions)
    }

    /// Reads one of an item's [`Self::versions`], as [`Self::read`] reads the present content. The
    /// next pull evicts an earlier version from the cache.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn read_version(self, item: &ItemId, version: &Version) -> Result<LocalContent> {
        let content = NodeContent {
            blob_id: version.blob_id.clone(),
            size: version.size,
            digest: version.digest,
            content_type: version.content_type.clone(),
            modified_at: version.modified_at,
        };
        read(&self.client.inner, item, &content).await
    }

    /// Works as [`Self::read`] for several items: small contents that are not in the cache are
    /// downloaded many at a time. Returns one outcome for each, in the order of `items`.
    pub async fn read_many(self, items: &[ItemId]) -> Vec<Result<LocalContent>> {
        self.read_several(items, Keep::InCache).await
    }

    /// Works as [`Self::read_many`] for callers that copy the contents elsewhere: small contents
    /// that are not in the cache bypass it, and stay in memory for as long as the caller holds
    /// them.
    pub async fn read_uncached(self, items: &[ItemId]) -> Vec<Result<LocalContent>> {
        self.read_several(items, Keep::Nowhere).await
    }

    async fn read_several(self, items: &[ItemId], keep: Keep) -> Vec<Result<LocalContent>> {
        let found = batch_read(&self.client.inner, items, keep).await;
        // The contents that are missing are downloaded alone, with a reason if that fails.
        let alone = items.iter().cloned().zip(found).map(|(item, found)| async move {
            match found {
                Some(found) => Ok(found.local),
                None => self.read(&item).await,
            }
        });
        stream::iter(alone).buffered(2 * self.client.inner.config.transfers).collect().await
    }

    /// Downloads the contents of `items` that are not in the cache, at most
    /// [`crate::ClientConfig::transfers`] at a time. Items without content are skipped.
    ///
    /// # Errors
    /// The first failure; contents downloaded before it are in the cache.
    pub async fn fetch(self, items: &[ItemId]) -> Result<Fetched> {
        let groups: Vec<Vec<ItemId>> = items.chunks(FETCHED_TOGETHER).map(<[_]>::to_vec).collect();
        let fetches = stream::iter(groups).map(|group| {
            let client = self.client.clone();
            AbortOnDropHandle::new(host::spawn(async move {
                client.contents().fetch_group(&group).await
            }))
        });
        // The downloads among them wait for their turn; the others need not.
        let mut fetches = fetches.buffer_unordered(2 * self.client.inner.config.transfers);
        let mut fetched = Fetched::default();
        while let Some(group) = fetches.next().await {
            let group =
                group.unwrap_or_else(|error| Err(ClientError::Storage(error.to_string())))?;
            fetched.downloaded += group.downloaded;
            fetched.held.extend(group.held);
        }
        Ok(fetched)
    }

    async fn fetch_group(self, items: &[ItemId]) -> Result<Fetched> {
        let found = batch_read(&self.client.inner, items, Keep::InCache).await;
        let rest = items.iter().cloned().zip(found).map(|(item, found)| async move {
            if let Some(found) = found {
                return Ok(Some((found.local, u64::from(found.downloaded))));
            }
            let content = self.client.node(&item)?.and_then(|node| node.content);
            let Some(content) = content else { return Ok(None) };
            match cached(&self.client.inner, &content).await? {
                Some(local) => Ok(Some((local, 0))),
                None => {
                    let local = download(&self.client.inner, &item, &content).await?;
                    Ok::<_, ClientError>(Some((local, 1)))
                }
            }
        });
        let mut rest = stream::iter(rest).buffer_unordered(2 * self.client.inner.config.transfers);
        let mut fetched = Fetched::default();
        while let Some(one) = rest.next().await {
            if let Some((local, downloaded)) = one? {
                fetched.downloaded += downloaded;
                fetched.held.push(local);
            }
        }
        Ok(fetched)
    }
}
