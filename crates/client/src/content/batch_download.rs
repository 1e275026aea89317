//! Downloads many small contents in one answer. A failure here is no error: a content that is still
//! missing is downloaded alone, with retries and a reported reason.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream;
use sha2::{Digest as _, Sha256};
use vfs_sync_core::id::{BlobId, ItemId};
use vfs_sync_core::limits::{MAX_BLOB_BATCH, MAX_BLOB_BATCH_BYTES, MAX_INLINE_BLOB_BYTES};
use vfs_sync_core::tree::NodeContent;

use super::download::{Counted, is_there};
use super::local::LocalContent;
use crate::client::Inner;
use crate::lock::lock;
use crate::transport::TransportExt as _;

/// The largest content in a batch: a larger one is as fast alone, and its failure then affects no
/// others.
const TOGETHER: u64 = MAX_INLINE_BLOB_BYTES as u64 / 4;
/// The greatest number of bytes of content in one answer.
const ANSWER_BYTES: u64 = MAX_BLOB_BATCH_BYTES as u64 / 4;

pub(crate) struct Found {
    pub(crate) local: LocalContent,
    pub(crate) downloaded: bool,
}

/// A content to download.
struct Wanted {
    /// The index in the list of items.
    at: usize,
    item: ItemId,
    content: NodeContent,
}

/// The place where a downloaded content is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// The content goes into the cache.
    InCache,
    /// The content stays in the caller's memory, for as long as the caller holds the value.
    Nowhere,
}

/// Returns the contents of `items` that are in the cache, or are small and were downloaded; `None`
/// for the others.
pub(crate) async fn batch_read(
    inner: &Arc<Inner>,
    items: &[ItemId],
    keep: Keep,
) -> Vec<Option<Found>> {
    let (own, asked) = (Arc::clone(inner), items.to_vec());
    let here = inner.environment().blocking(move || Ok(look(&own, asked))).await;
    let (mut found, wanted) =
        here.unwrap_or_else(|_| (items.iter().map(|_| None).collect(), Vec::new()));
    if inner.reads_many.load(Ordering::Relaxed) {
        let answers = stream::iter(into_answers(wanted)).map(|wanted| fetch(inner, wanted, keep));
        let mut answers = answers.buffer_unordered(inner.config.transfers);
        while let Some(answer) = answers.next().await {
            for (at, local) in answer {
                found[at] = Some(Found { local, downloaded: true });
            }
        }
    }
    found
}

/// Returns the contents in the cache, and the small ones that are missing.
fn look(inner: &Arc<Inner>, items: Vec<ItemId>) -> (Vec<Option<Found>>, Vec<Wanted>) {
    let mut found: Vec<Option<Found>> = Vec::with_capacity(items.len());
    let (mut wanted, mut blobs) = (Vec::new(), HashSet::new());
    for (at, item) in items.into_iter().enumerate() {
        found.push(None);
        let node = lock(&inner.store).node(&item);
        let Ok(Some(content)) = node.map(|node| node.and_then(|node| node.content)) else {
            continue;
        };
        match inner.cache.find_verified(&content.blob_id, content.size, content.digest) {
            Ok(Some(local)) => found[at] = Some(Found { local, downloaded: false }),
            Ok(None) if content.size <= TOGETHER && blobs.insert(content.blob_id.clone()) => {
                wanted.push(Wanted { at, item, content });
            }
            _ => {}
        }
    }
    (found, wanted)
}

fn into_answers(wanted: Vec<Wanted>) -> Vec<Vec<Wanted>> {
    let mut answers = Vec::new();
    let (mut answer, mut bytes) = (Vec::new(), 0);
    for one in wanted {
        if answer.len() == MAX_BLOB_BATCH || bytes + one.content.size > ANSWER_BYTES {
            answers.push(std::mem::take(&mut answer));
            bytes = 0;
        }
        bytes += one.content.size;
        answer.push(one);
    }
    if answer.len() > 1 || !answers.is_empty() && !answer.is_empty() {
        answers.push(answer);
    }
    answers
}

async fn fetch(inner: &Arc<Inner>, wanted: Vec<Wanted>, keep: Keep) -> Vec<(usize, LocalContent)> {
    let Ok(_permit) = inner.downloads.acquire().await else { return Vec::new() };
    // A content that somebody else is downloading is left to them.
    let (mut turns, mut mine) = (Vec::new(), Vec::new());
    for one in wanted {
        if let Some(turn) = inner.cache.try_turn(&one.content.blob_id) {
            turns.push(turn);
            mine.push(one);
        }
    }
    let mut counted: Vec<Counted<'_>> =
        mine.iter().map(|one| Counted::begin(inner, one.content.size)).collect();
    let blobs: Vec<BlobId> = mine.iter().map(|one| one.content.blob_id.clone()).collect();
    let answer = match inner.transport.read_blobs(&blobs).await {
        Ok(Some(answer)) if answer.len() == mine.len() => answer,
        Ok(None) => {
            inner.reads_many.store(false, Ordering::Relaxed);
            return Vec::new();
        }
        Ok(Some(_)) => return Vec::new(),
        Err(error) => {
            tracing::debug!(%error, "contents do not come together; they come one by one");
            return Vec::new();
        }
    };
    let mut came = Vec::with_capacity(mine.len());
    for ((one, bytes), counted) in mine.into_iter().zip(answer).zip(&mut counted) {
        if let Ok(bytes) = bytes {
            counted.received(bytes.len() as u64);
            came.push((one, bytes));
        }
    }
    let own = Arc::clone(inner);
    let taken = inner.environment().blocking(move || Ok(take_in(&own, came, keep))).await;
    let taken = taken.unwrap_or_default();
    for counted in counted.iter().take(taken.len()) {
        counted.whole();
    }
    drop(turns);
    taken
}

/// Takes in the downloaded contents that have the expected bytes and are still wanted.
fn take_in(
    inner: &Arc<Inner>,
    came: Vec<(Wanted, Bytes)>,
    keep: Keep,
) -> Vec<(usize, LocalContent)> {
    let mut taken = Vec::with_capacity(came.len());
    for (Wanted { at, item, content }, bytes) in came {
        let NodeContent { blob_id, size, digest, .. } = &content;
        if bytes.len() as u64 != *size || Sha256::digest(&bytes)[..] != digest.0 {
            continue;
        }
        let local = match keep {
            Keep::Nowhere => Some(inner.cache.pass(blob_id, *digest, bytes)),
            Keep::InCache => match inner.cache.place_small(blob_id, &bytes) {
                Ok(()) => inner.cache.find(blob_id, *size, *digest),
                Err(_) => None,
            },
        };
        if let (Some(local), Ok(())) = (local, is_there(inner, &item, &content)) {
            taken.push((at, local));
        }
    }
    if keep == Keep::InCache
        && let Err(error) = inner.trim_cache()
    {
        tracing::warn!(%error, "the cache cannot be trimmed");
    }
    taken
}
