//! Downloads of single contents into the cache, verified.

use std::sync::Arc;

use futures::StreamExt as _;
use vfs_sync_core::id::ItemId;
use vfs_sync_core::tree::NodeContent;

use super::cache::Cache;
use super::local::{ContentWriter, LocalContent};
use crate::client::Inner;
use crate::error::{ClientError, Result};
use crate::host;
use crate::lock::lock;
use crate::sync::backoff::{ATTEMPTS, back_off};
use crate::transport::{TransportError, TransportExt as _};

/// The number of complete but wrong answers before a download gives up: damage on the way may be
/// gone in the next answer, damage at the server is not.
const WRONG_ANSWERS: u32 = 3;

/// Contents that are on this machine, and stay there while this value lives.
#[derive(Debug, Default)]
pub struct Fetched {
    /// The number of contents that were downloaded; the others were in the cache.
    pub downloaded: u64,
    pub(crate) held: Vec<LocalContent>,
}

impl Fetched {
    /// Returns the number of contents.
    #[must_use]
    pub fn count(&self) -> usize {
        self.held.len()
    }
}

/// Checks that the item was not removed during the download of its content. If it was, the content
/// is removed too; if the item has another content now, the next pull removes this one.
pub(super) fn is_there(inner: &Inner, item: &ItemId, content: &NodeContent) -> Result<()> {
    let mut store = lock(&inner.store);
    let node = store.node(item)?;
    let present = node.as_ref().and_then(|node| node.content.as_ref());
    if present.is_none_or(|present| present.blob_id != content.blob_id) {
        store.forget(item, &content.blob_id)?;
    }
    node.map(drop).ok_or_else(|| ClientError::UnknownItem(item.clone()))
}

pub(crate) async fn read(
    inner: &Arc<Inner>,
    item: &ItemId,
    content: &NodeContent,
) -> Result<LocalContent> {
    match cached(inner, content).await? {
        Some(local) => Ok(local),
        None => download(inner, item, content).await,
    }
}

/// Returns the content if it is in the cache and intact. A damaged content leaves the cache.
pub(crate) async fn cached(
    inner: &Arc<Inner>,
    content: &NodeContent,
) -> Result<Option<LocalContent>> {
    if inner.cache.find(&content.blob_id, content.size, content.digest).is_none() {
        return Ok(None);
    }
    let (own, content) = (Arc::clone(inner), content.clone());
    let work = move || own.cache.find_verified(&content.blob_id, content.size, content.digest);
    inner.environment().blocking(work).await
}

/// A download's part in the progress; its missing bytes are subtracted when it ends.
pub(super) struct Counted<'a> {
    inner: &'a Inner,
    missing: u64,
}

impl<'a> Counted<'a> {
    pub(super) fn begin(inner: &'a Inner, size: u64) -> Self {
        inner.advance(|progress| {
            if progress.to_download == 0 {
                (progress.downloaded, progress.downloaded_bytes) = (0, 0);
                progress.to_download_bytes = 0;
            }
            progress.to_download += 1;
            progress.to_download_bytes += size;
        });
        Self { inner, missing: size }
    }

    pub(super) fn received(&mut self, bytes: u64) {
        let bytes = bytes.min(self.missing);
        self.missing -= bytes;
        self.inner.advance(|progress| {
            progress.downloaded_bytes += bytes;
            progress.to_download_bytes = progress.to_download_bytes.saturating_sub(bytes);
        });
    }

    /// Subtracts bytes that were received but are not those of the content.
    fn again(&mut self, bytes: u64) {
        self.missing += bytes;
        self.inner.advance(|progress| {
            progress.downloaded_bytes = progress.downloaded_bytes.saturating_sub(bytes);
            progress.to_download_bytes += bytes;
        });
    }

    pub(super) fn whole(&self) {
        self.inner.advance(|progress| progress.downloaded += 1);
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        // It may be dropped anywhere: observers hear of it with the next step.
        let mut progress = lock(&self.inner.progress);
        progress.to_download_bytes = progress.to_download_bytes.saturating_sub(self.missing);
        progress.to_download = progress.to_download.saturating_sub(1);
    }
}

/// Downloads a content, resuming after each interruption, and verifies all of it.
pub(crate) async fn download(
    inner: &Arc<Inner>,
    item: &ItemId,
    content: &NodeContent,
) -> Result<LocalContent> {
    let mut counted = Counted::begin(inner, content.size);
    let _turn = inner.cache.turn(&content.blob_id).await;
    let permit = inner.downloads.acquire().await;
    let _permit = permit.map_err(|error| ClientError::Storage(error.to_string()))?;
    if let Some(local) = cached(inner, content).await? {
        return Ok(local);
    }
    let quick = Cache::is_quick(content.size);
    let mut writer = if quick {
        inner.cache.download(&content.blob_id, content.size)?
    } else {
        let (own, content) = (Arc::clone(inner), content.clone());
        let work = move || own.cache.download(&content.blob_id, content.size);
        inner.environment().blocking(work).await?
    };
    let mut resumed = writer.size() > 0;
    counted.received(writer.size());
    let (mut failures, mut wrong) = (0, 0);
    loop {
        let before = writer.size();
        let answer = receive(inner, content, &mut writer, &mut counted).await;
        let (attempt, asked) = match answer {
            Ok(Answer::Content) => break,
            Ok(Answer::Wrong(reason)) => {
                counted.again(writer.size());
                writer.restart().map_err(ClientError::io("cannot begin a download again"))?;
                // Bytes left by an earlier process may be damaged.
                if std::mem::take(&mut resumed) {
                    continue;
                }
                wrong += 1;
                if wrong == WRONG_ANSWERS {
                    let (blob_id, item) = (content.blob_id.clone(), item.clone());
                    return Err(ClientError::WrongContent { blob_id, item, reason });
                }
                tracing::warn!(blob_id = %content.blob_id, reason, "a download was not the content");
                (wrong, None)
            }
            Err(error) if error.is_transient() => {
                failures = if writer.size() > before { 1 } else { failures + 1 };
                if failures == ATTEMPTS {
                    return Err(error);
                }
                tracing::debug!(%error, at = writer.size(), "a download was cut; it resumes");
                (failures, error.retry_after())
            }
            Err(error) => return Err(error),
        };
        host::sleep(back_off(&inner.config, attempt, asked)).await;
    }
    counted.whole();
    let (own, item, content) = (Arc::clone(inner), item.clone(), content.clone());
    inner.environment().blocking(move || take_in(&own, &item, &content, writer)).await
}

/// Adds a downloaded content completely or not at all, even if its caller was cancelled: a content
/// whose item was removed during the download must not stay.
fn take_in(
    inner: &Inner,
    item: &ItemId,
    content: &NodeContent,
    writer: ContentWriter,
) -> Result<LocalContent> {
    inner.cache.place_fetched(writer.finish());
    let local = inner.cache.find(&content.blob_id, content.size, content.digest);
    let there = is_there(inner, item, content);
    inner.trim_cache()?;
    there?;
    local.ok_or_else(|| ClientError::Storage("the cache lost a content at once".into()))
}

/// The kind of a complete answer.
enum Answer {
    /// The answer completes the content in the writer.
    Content,
    /// The answer has other bytes; the text describes the difference.
    Wrong(String),
}

/// Receives the bytes that the writer lacks. An interruption is an error; the answer's own end is
/// not.
async fn receive(
    inner: &Inner,
    content: &NodeContent,
    writer: &mut ContentWriter,
    counted: &mut Counted<'_>,
) -> Result<Answer> {
    let size = content.size;
    if writer.size() < size || size == 0 {
        let mut bytes = inner.transport.download(&content.blob_id, writer.size()).await?;
        while let Some(chunk) = bytes.next().await {
            let chunk = chunk.map_err(|error| TransportError::network(error.to_string()))?;
            if chunk.len() as u64 > size - writer.size() {
                return Ok(Answer::Wrong(format!("there are more than its {size} bytes")));
            }
            writer.write(&chunk)?;
            counted.received(chunk.len() as u64);
        }
    }
    Ok(if writer.size() < size {
        Answer::Wrong(format!("there are {} of its {size} bytes", writer.size()))
    } else if writer.digest() != content.digest {
        Answer::Wrong("they have another digest".into())
    } else {
        Answer::Content
    })
}
