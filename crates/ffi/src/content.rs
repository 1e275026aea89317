//! Contents as streams of bytes.

use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;
use serde_json::Value;
use vfs_sync_client::core::id::ItemId;
use vfs_sync_client::core::time::Timestamp;
use vfs_sync_client::{DraftContent, SyncClient, TakenContent};

use crate::runtime::{Cancellation, blocking, detached, forked, guarded, spawned, turn};
use crate::{Client, Error, ErrorCode, Result, call, value};

/// The greatest number of bytes that a reader returns at a time.
const MAX_CHUNK: usize = 1 << 20;

/// The item of a new content, and the time of the bytes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PutOptions {
    /// The item that gets the content.
    pub item: ItemId,
    /// The modification time of the bytes; by default the time when they are queued.
    pub modified_at: Option<Timestamp>,
}

impl PutOptions {
    /// Parses options from JSON.
    ///
    /// # Errors
    /// [`ErrorCode::Invalid`], with the field and the reason.
    pub fn parse(json: &str) -> Result<Self> {
        call::parse(json)
    }
}

/// Queues bytes that the cache has as the content of an item.
pub(crate) fn queue(
    client: &SyncClient,
    options: PutOptions,
    taken: TakenContent,
) -> Result<Value> {
    known(client, &options.item)?;
    let taken = match options.modified_at {
        Some(at) => taken.with_time(at),
        None => taken,
    };
    let mut batch = client.batch();
    let stored = batch.put_taken(&options.item, taken);
    batch.commit()?;
    Ok(value::stored(&stored))
}

fn known(client: &SyncClient, item: &ItemId) -> Result<()> {
    let unknown = || vfs_sync_client::ClientError::UnknownItem(item.clone());
    client.node(item)?.ok_or_else(unknown)?;
    Ok(())
}

/// The bytes of a content that are still to be read.
struct Rest {
    source: Box<dyn Read + Send>,
    size: u64,
}

impl Rest {
    /// Fills `bytes`, which are no longer than the rest.
    fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.source.read_exact(bytes).map_err(unreadable)?;
        self.size -= bytes.len() as u64;
        Ok(())
    }

    /// Reads the next bytes, at most so many.
    fn take(&mut self, at_most: u64) -> Result<Vec<u8>> {
        let size = self.size.min(at_most);
        let mut bytes = Vec::new();
        let room = usize::try_from(size).map_err(|_| too_large(size))?;
        bytes.try_reserve_exact(room).map_err(|_| too_large(size))?;
        // This leaves out the zeros that a slice would have to have first.
        let read = self.source.by_ref().take(size).read_to_end(&mut bytes).map_err(unreadable)?;
        if read != room {
            return Err(unreadable(std::io::ErrorKind::UnexpectedEof.into()));
        }
        self.size -= size;
        Ok(bytes)
    }
}

fn unreadable(error: std::io::Error) -> Error {
    Error::new(ErrorCode::Io, format!("cannot read the cached content: {error}"))
}

fn too_large(size: u64) -> Error {
    let reason = format!("there is no memory for {size} bytes: read the content as a stream");
    Error::new(ErrorCode::Io, reason)
}

/// The rest of a content; `None` while a part is being read, and after a failure.
type Place = Arc<Mutex<Option<Rest>>>;

/// Reads from the rest of a content, if nobody else does.
fn part<T>(place: &Place, read: impl FnOnce(&mut Rest) -> Result<T>) -> Result<T> {
    let taken = || place.lock().unwrap_or_else(PoisonError::into_inner).take();
    let busy = || Error::invalid("the content is being read, or failed: open it again");
    let mut rest = taken().ok_or_else(busy)?;
    let done = read(&mut rest)?;
    *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(rest);
    Ok(done)
}

/// A content that is read from its start to its end. It stays on this machine as long as the reader
/// lives.
pub struct ContentReader {
    size: u64,
    digest: String,
    rest: Place,
    content: Option<vfs_sync_client::LocalContent>,
}

impl Drop for ContentReader {
    fn drop(&mut self) {
        if forked() {
            std::mem::forget(self.content.take());
        }
    }
}

impl ContentReader {
    pub(crate) async fn open(
        client: SyncClient,
        item: String,
        version: Option<String>,
    ) -> Result<Self> {
        let item =
            ItemId::new(item).map_err(|reason| Error::invalid(format!("`item` {reason}")))?;
        let contents = client.contents();
        let content = match version {
            None => contents.read(&item).await?,
            Some(blob) => {
                let versions = contents.versions(&item).await?.into_iter();
                let mut found = versions.filter(|version| version.blob_id.as_str() == blob);
                let missing = || Error::invalid(format!("{item} has no version {blob}"));
                contents.read_version(&item, &found.next().ok_or_else(missing)?).await?
            }
        };
        let (size, digest) = (content.size(), content.digest().to_string());
        let rest = Arc::new(Mutex::new(Some(Rest { source: content.reader()?, size })));
        Ok(Self { size, digest, rest, content: Some(content) })
    }

    /// Returns the size of the content in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the digest of the content.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Reads the next bytes, at most `at_most` and at most 1 MiB; nothing means the end. One read at
    /// a time.
    ///
    /// # Errors
    /// [`ErrorCode::Io`], after which the reader has failed.
    pub fn read(&self, at_most: usize) -> impl Future<Output = Result<Vec<u8>>> + Send + use<> {
        let place = Arc::clone(&self.rest);
        let at_most = at_most.clamp(1, MAX_CHUNK) as u64;
        spawned(blocking(move || part(&place, |rest| rest.take(at_most))))
    }

    /// Reads the rest of the bytes.
    ///
    /// # Errors
    /// As [`Self::read`], and [`ErrorCode::Cancelled`].
    pub fn read_rest(
        &self,
        cancel: Option<Cancellation>,
    ) -> impl Future<Output = Result<Vec<u8>>> + Send + use<> {
        let place = Arc::clone(&self.rest);
        let reading = blocking(move || part(&place, |rest| rest.take(u64::MAX)));
        spawned(cancel.unwrap_or_default().over(reading))
    }

    /// Returns the number of bytes that are still to be read.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn left(&self) -> Result<u64> {
        part(&self.rest, |rest| Ok(rest.size))
    }

    /// Fills `bytes` with the next ones, on the caller's thread. The rest has to be at least as long.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn fill(&self, bytes: &mut [u8]) -> Result<()> {
        guarded(|| part(&self.rest, |rest| rest.fill(bytes)))
    }
}

impl std::fmt::Debug for ContentReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ContentReader").field("size", &self.size).finish_non_exhaustive()
    }
}

type Draft = Arc<tokio::sync::Mutex<Option<DraftContent>>>;

/// A content that is written from its start to its end. A writer that is dropped before
/// [`ContentWriter::finish`] leaves nothing.
pub struct ContentWriter {
    client: Client,
    options: PutOptions,
    /// The bytes so far; `None` after the end, and after a failure.
    draft: Draft,
}

impl Drop for ContentWriter {
    fn drop(&mut self) {
        if let (true, Ok(mut draft)) = (forked(), self.draft.try_lock()) {
            std::mem::forget(draft.take());
        }
    }
}

fn finished() -> Error {
    Error::new(ErrorCode::Closed, "the content is finished, or failed")
}

impl ContentWriter {
    pub(crate) fn open(client: Client, options: PutOptions) -> Result<Self> {
        let open = client.client()?;
        known(&open, &options.item)?;
        let draft = Some(open.contents().begin()?);
        Ok(Self { client, options, draft: Arc::new(tokio::sync::Mutex::new(draft)) })
    }

    /// Writes bytes behind those of the calls before.
    ///
    /// # Errors
    /// [`ErrorCode::Closed`] after the end, and a failure to write, which ends the writer.
    pub fn write(&self, bytes: Vec<u8>) -> impl Future<Output = Result<()>> + Send + use<> {
        let (open, turn) = (self.client.client(), turn(&self.draft));
        spawned(async move {
            open?;
            let mut place = turn.await;
            blocking(move || {
                // Dropped where writing fails.
                let mut draft = place.take().ok_or_else(finished)?;
                draft.write(&bytes)?;
                *place = Some(draft);
                Ok(())
            })
            .await
        })
    }

    /// Queues the content; returns its id, size and digest.
    ///
    /// # Errors
    /// [`ErrorCode::Closed`] after the end, and those of `Contents::put`.
    pub fn finish(&self) -> impl Future<Output = Result<Value>> + Send + use<> {
        let (client, options) = (self.client.clone(), self.options.clone());
        let turn = turn(&self.draft);
        spawned(async move {
            let draft = turn.await.take().ok_or_else(finished)?;
            client.in_turn(move |client| queue(&client, options, draft.finish())).await
        })
    }

    /// Gives the content up: nothing of it stays.
    pub fn abort(&self) {
        let turn = turn(&self.draft);
        // Without a runtime there is no writer.
        let _ = detached(async move { drop(turn.await.take()) });
    }
}

impl std::fmt::Debug for ContentWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ContentWriter").finish_non_exhaustive()
    }
}
