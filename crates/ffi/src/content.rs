//! Contents as streams of bytes.

use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf as _, Bytes};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;
use vfs_sync_client::core::id::ItemId;
use vfs_sync_client::core::time::Timestamp;
use vfs_sync_client::{SyncClient, TakenContent};

use crate::runtime::{blocking, spawned};
use crate::{Error, ErrorCode, Result, call, value};

/// The greatest number of bytes that a reader returns at a time.
const MAX_CHUNK: usize = 1 << 20;
/// The number of chunks that wait between a writer and the disk.
const CHUNKS_WAITING: usize = 4;

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

type Source = Box<dyn Read + Send>;

/// A content that is read from its start to its end. It stays on this machine as long as the reader
/// lives.
pub struct ContentReader {
    size: u64,
    digest: String,
    /// The rest of the bytes; `None` while a chunk is being read, and after a failure.
    source: Arc<Mutex<Option<Source>>>,
    _content: vfs_sync_client::LocalContent,
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
        let source = Arc::new(Mutex::new(Some(content.reader()? as Source)));
        let (size, digest) = (content.size(), content.digest().to_string());
        Ok(Self { size, digest, source, _content: content })
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
        let place = Arc::clone(&self.source);
        spawned(blocking(move || {
            let taken = || place.lock().unwrap_or_else(PoisonError::into_inner).take();
            let busy = || Error::invalid("the content is being read, or failed: open it again");
            let mut source = taken().ok_or_else(busy)?;
            let mut bytes = Vec::new();
            let at_most = u64::try_from(at_most.clamp(1, MAX_CHUNK)).unwrap_or(1);
            let read = source.by_ref().take(at_most).read_to_end(&mut bytes);
            let failed = |error: std::io::Error| {
                Error::new(ErrorCode::Io, format!("cannot read the cached content: {error}"))
            };
            read.map_err(failed)?;
            *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(source);
            Ok(bytes)
        }))
    }
}

impl std::fmt::Debug for ContentReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ContentReader").field("size", &self.size).finish_non_exhaustive()
    }
}

/// A part of a content on its way to the disk.
enum Chunk {
    Bytes(Bytes),
    End,
}

/// The bytes of a writer, as a reader: without [`Chunk::End`] they end in a failure.
struct Chunks {
    receiver: mpsc::Receiver<Chunk>,
    present: Bytes,
    ended: bool,
}

impl Read for Chunks {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        while self.present.is_empty() && !self.ended {
            match self.receiver.blocking_recv() {
                Some(Chunk::Bytes(bytes)) => self.present = bytes,
                Some(Chunk::End) => self.ended = true,
                None => return Err(std::io::Error::other("the writer was dropped")),
            }
        }
        let count = self.present.len().min(to.len());
        self.present.copy_to_slice(&mut to[..count]);
        Ok(count)
    }
}

type Stored = tokio::sync::oneshot::Receiver<Result<Value>>;

/// A content that is written from its start to its end. A writer that is dropped before
/// [`ContentWriter::finish`] leaves nothing.
pub struct ContentWriter {
    chunks: Mutex<Option<mpsc::Sender<Chunk>>>,
    stored: Mutex<Option<Stored>>,
}

impl ContentWriter {
    pub(crate) fn open(
        client: SyncClient,
        options: PutOptions,
        calls: &TaskTracker,
    ) -> Result<Self> {
        known(&client, &options.item)?;
        let (sender, receiver) = mpsc::channel(CHUNKS_WAITING);
        let (done, stored) = tokio::sync::oneshot::channel();
        let chunks = Chunks { receiver, present: Bytes::new(), ended: false };
        calls.spawn(async move {
            let work = blocking(move || {
                let taken = client.contents().take_from(chunks)?;
                queue(&client, options, taken)
            });
            // Nobody may wait any more.
            let _ = done.send(work.await);
        });
        Ok(Self { chunks: Mutex::new(Some(sender)), stored: Mutex::new(Some(stored)) })
    }

    fn sender(&self) -> Result<mpsc::Sender<Chunk>> {
        let sender = self.chunks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        sender.ok_or_else(|| Error::new(ErrorCode::Closed, "the content is finished"))
    }

    /// Writes bytes behind those before; waits while the disk is behind.
    ///
    /// # Errors
    /// [`ErrorCode::Closed`] after the end; the failure of the disk is returned by
    /// [`ContentWriter::finish`].
    pub fn write(&self, bytes: Vec<u8>) -> impl Future<Output = Result<()>> + Send + use<> {
        let sender = self.sender();
        spawned(async move {
            // A receiver that is gone has failed: `finish` says why.
            let _ = sender?.send(Chunk::Bytes(bytes.into())).await;
            Ok(())
        })
    }

    /// Queues the content; returns its id, size and digest.
    ///
    /// # Errors
    /// A failure to write, and those of `Contents::put`.
    pub fn finish(&self) -> impl Future<Output = Result<Value>> + Send + use<> {
        let sender = self.sender();
        drop(self.chunks.lock().unwrap_or_else(PoisonError::into_inner).take());
        let stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner).take();
        spawned(async move {
            let _ = sender?.send(Chunk::End).await;
            let finished = || Error::new(ErrorCode::Closed, "the content is finished");
            let lost = |_| Error::new(ErrorCode::Panicked, "the write panicked");
            stored.ok_or_else(finished)?.await.map_err(lost)?
        })
    }

    /// Gives the content up: nothing of it stays.
    pub fn abort(&self) {
        drop(self.chunks.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

impl std::fmt::Debug for ContentWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ContentWriter").finish_non_exhaustive()
    }
}
