//! Contents on this machine, and contents being written to the cache.

use std::fs::File;
use std::io::{Cursor, ErrorKind, Read, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::id::{BlobId, ItemId};
use vfs_sync_core::time::Timestamp;

use crate::environment::Environment;
use crate::error::{ClientError, Result};
use crate::replica::{Upload, UploadState};
use crate::transport::ByteStream;

/// The number of bytes that are copied at one time.
pub(crate) const CHUNK: usize = 256 * 1024;
/// The number of bytes that are read of a content before it is known to be larger.
pub(crate) const FIRST_CHUNK: usize = 8 * 1024;

/// A content that the replica has stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredContent {
    /// The id of the content's bytes, also at the server later.
    pub blob_id: BlobId,
    /// The size in bytes.
    pub size: u64,
    /// The digest of the bytes.
    pub digest: Sha256Digest,
}

/// A content that is on this machine, and stays there while this value or a clone of it lives.
#[derive(Debug, Clone)]
pub struct LocalContent {
    size: u64,
    digest: Sha256Digest,
    source: Source,
    /// A guard that keeps the cache from evicting the content.
    _lease: Arc<dyn std::fmt::Debug + Send + Sync>,
}

#[derive(Debug, Clone)]
pub(crate) enum Source {
    File(PathBuf),
    Memory(Bytes),
}

impl LocalContent {
    pub(crate) fn new(
        size: u64,
        digest: Sha256Digest,
        source: Source,
        lease: Arc<dyn std::fmt::Debug + Send + Sync>,
    ) -> Self {
        Self { size, digest, source, _lease: lease }
    }

    /// Returns the size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the digest, which was verified when the content was stored.
    #[must_use]
    pub fn digest(&self) -> Sha256Digest {
        self.digest
    }

    pub(crate) fn path(&self) -> Option<&Path> {
        match &self.source {
            Source::File(path) => Some(path),
            Source::Memory(_) => None,
        }
    }

    /// Streams the content from `offset` on.
    pub(crate) async fn stream(&self, offset: u64) -> Result<ByteStream> {
        match &self.source {
            Source::Memory(bytes) => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                let bytes = bytes.slice(from..);
                Ok(Box::pin(futures::stream::once(async move { Ok(bytes) })))
            }
            #[cfg(target_family = "wasm")]
            Source::File(path) => {
                let no_disk = std::io::Error::from(ErrorKind::Unsupported);
                Err(ClientError::io(format!("cannot read {}", path.display()))(no_disk))
            }
            #[cfg(not(target_family = "wasm"))]
            Source::File(path) => {
                let what = || format!("cannot read the cached content {}", path.display());
                let opened = tokio::fs::File::open(path).await;
                let mut file = opened.map_err(ClientError::io(what()))?;
                let to = std::io::SeekFrom::Start(offset);
                let sought = tokio::io::AsyncSeekExt::seek(&mut file, to).await;
                sought.map_err(ClientError::io(what()))?;
                Ok(Box::pin(tokio_util::io::ReaderStream::with_capacity(file, CHUNK)))
            }
        }
    }

    /// Reads the content from its start.
    ///
    /// # Errors
    /// [`ClientError::Io`] if the cache's file cannot be opened.
    pub fn reader(&self) -> Result<Box<dyn Read + Send>> {
        match &self.source {
            Source::Memory(bytes) => Ok(Box::new(Cursor::new(bytes.clone()))),
            Source::File(path) => {
                let file = File::open(path);
                let what = format!("cannot open the cached content {}", path.display());
                Ok(Box::new(file.map_err(ClientError::io(what))?))
            }
        }
    }
}

/// Bytes in the cache that nothing refers to yet. They are removed when this is dropped.
pub(crate) struct NewContent {
    pub(crate) blob_id: BlobId,
    pub(crate) size: u64,
    digest: Sha256Digest,
    /// The time of the bytes; if none was given, the time when they are queued.
    pub(crate) modified_at: Option<Timestamp>,
    draft: Draft,
}

/// Bytes that are in the cache but in no batch yet; they are removed when this is dropped.
pub struct TakenContent(pub(crate) NewContent);

impl TakenContent {
    /// Sets the modification time of the bytes; by default it is the time when they are queued.
    #[must_use]
    pub fn with_time(mut self, modified_at: Timestamp) -> Self {
        self.0.modified_at = Some(modified_at);
        self
    }

    /// Returns the size and digest, and the id that the content will have.
    #[must_use]
    pub fn stored(&self) -> StoredContent {
        self.0.stored()
    }
}

/// A content that is being written to the cache, in no batch yet. It is removed when this is dropped.
pub struct DraftContent(pub(crate) ContentWriter);

impl DraftContent {
    /// Writes the next bytes.
    ///
    /// # Errors
    /// A failure to write; the draft must then be dropped.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.write(bytes)
    }

    /// Ends the content, for [`crate::Batch::put_taken`].
    #[must_use]
    pub fn finish(self) -> TakenContent {
        TakenContent(self.0.finish())
    }
}

impl std::fmt::Debug for DraftContent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DraftContent").field("size", &self.0.size()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for TakenContent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TakenContent").field(&self.0.stored()).finish()
    }
}

pub(crate) enum Draft {
    File(DraftFile),
    Memory(Bytes),
}

/// A file that is not complete yet.
pub(crate) struct DraftFile {
    path: PathBuf,
    file: File,
    /// The size from which the file stays when dropped; `None` if it never does.
    stays_from: Option<u64>,
}

impl DraftFile {
    /// Closes the file and keeps it in place.
    pub(crate) fn persist(mut self) -> PathBuf {
        self.stays_from = Some(0);
        self.path.clone()
    }
}

impl Drop for DraftFile {
    fn drop(&mut self) {
        let len = || self.file.metadata().map_or(0, |metadata| metadata.len());
        if self.stays_from.is_none_or(|bytes| len() < bytes) {
            // If this fails, the next start does it.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl NewContent {
    /// Takes over an existing file whose digest is known.
    pub(crate) fn of_file(
        blob_id: BlobId,
        size: u64,
        digest: Sha256Digest,
        path: PathBuf,
        file: File,
    ) -> Self {
        let draft = Draft::File(DraftFile { path, file, stays_from: None });
        Self { blob_id, size, digest, modified_at: None, draft }
    }

    pub(crate) fn stored(&self) -> StoredContent {
        StoredContent { blob_id: self.blob_id.clone(), size: self.size, digest: self.digest }
    }

    pub(crate) fn sync(&self) -> Result<()> {
        let Draft::File(draft) = &self.draft else { return Ok(()) };
        let what = format!("cannot write {}", draft.path.display());
        draft.file.sync_all().map_err(ClientError::io(what))
    }

    pub(crate) fn into_draft(self) -> Draft {
        self.draft
    }

    pub(crate) fn upload(&self, item: ItemId, environment: &dyn Environment) -> Upload {
        Upload {
            seq: 0,
            item,
            blob_id: self.blob_id.clone(),
            staging_id: environment.new_staging_id(),
            size: self.size,
            digest: self.digest,
            content_type: None,
            modified_at: Some(self.modified_at.unwrap_or_else(|| environment.now())),
            expected: None,
            basis: None,
            occurred_at: None,
            state: UploadState::Queued,
            attach: None,
            reason: None,
            offered: false,
            renewed: false,
            sent: false,
            moved: None,
        }
    }
}

/// A writer of a content, which counts and hashes the bytes.
pub(crate) struct ContentWriter {
    blob_id: BlobId,
    size: u64,
    hash: Sha256,
    draft: WriterDraft,
}

enum WriterDraft {
    File(DraftFile),
    Memory(Vec<u8>),
}

impl ContentWriter {
    pub(crate) fn in_memory(blob_id: BlobId) -> Self {
        let draft = WriterDraft::Memory(Vec::new());
        Self { blob_id, size: 0, hash: Sha256::new(), draft }
    }

    /// Writes from the file's present position on. A writer that is dropped unfinished leaves the
    /// file if it has `stays_from` bytes.
    pub(crate) fn in_file(
        blob_id: BlobId,
        path: PathBuf,
        file: File,
        stays_from: Option<u64>,
    ) -> Self {
        let draft = WriterDraft::File(DraftFile { path, file, stays_from });
        Self { blob_id, size: 0, hash: Sha256::new(), draft }
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    fn count(&mut self, bytes: &[u8]) {
        self.size += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.hash.update(bytes);
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.count(bytes);
        match &mut self.draft {
            WriterDraft::Memory(to) => to.extend_from_slice(bytes),
            WriterDraft::File(DraftFile { path, file, .. }) => {
                file.write_all(bytes).map_err(|source| {
                    let what = format!("cannot write {}", path.display());
                    ClientError::Io { what, source }
                })?;
            }
        }
        Ok(())
    }

    /// Counts and hashes the bytes that the file already has.
    pub(crate) fn resume(&mut self) -> std::io::Result<()> {
        let WriterDraft::File(DraftFile { file, .. }) = &self.draft else { return Ok(()) };
        let mut file = file.try_clone()?;
        file.rewind()?;
        let mut chunk = vec![0; CHUNK];
        loop {
            match file.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(count) => self.count(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Begins again with an empty content.
    pub(crate) fn restart(&mut self) -> std::io::Result<()> {
        (self.size, self.hash) = (0, Sha256::new());
        match &mut self.draft {
            WriterDraft::Memory(bytes) => bytes.clear(),
            WriterDraft::File(DraftFile { file, .. }) => {
                file.set_len(0)?;
                file.rewind()?;
            }
        }
        Ok(())
    }

    /// Returns the digest of the bytes written so far.
    pub(crate) fn digest(&self) -> Sha256Digest {
        Sha256Digest(self.hash.clone().finalize().into())
    }

    pub(crate) fn finish(self) -> NewContent {
        let digest = self.digest();
        let draft = match self.draft {
            WriterDraft::Memory(bytes) => Draft::Memory(bytes.into()),
            WriterDraft::File(draft) => Draft::File(draft),
        };
        NewContent { blob_id: self.blob_id, size: self.size, digest, modified_at: None, draft }
    }
}
