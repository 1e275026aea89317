//! Contents: the cache beside the replica, and putting and reading them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::{Cursor, ErrorKind, Read, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::id::{BlobId, ItemId};

use crate::client::{SyncClient, lock, new_blob_id, new_staging_id};
use crate::error::ClientError;
use crate::store::{Upload, UploadState};
use crate::transport::ByteStream;

/// Where the contents of a replica are, in its directory.
pub(crate) const DIRECTORY: &str = "contents";

/// Bytes that are copied at one time.
const CHUNK: usize = 256 * 1024;

/// A content that was taken into the replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredContent {
    /// Its bytes, once they are with the server too.
    pub blob_id: BlobId,
    /// How many.
    pub size: u64,
    /// Their digest.
    pub digest: Sha256Digest,
}

/// A content that is on this machine.
#[derive(Debug, Clone)]
pub struct LocalContent {
    size: u64,
    digest: Sha256Digest,
    place: Place,
}

#[derive(Debug, Clone)]
enum Place {
    File(PathBuf),
    Memory(Bytes),
}

impl LocalContent {
    /// How many bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Its digest, which was verified when it came.
    #[must_use]
    pub fn digest(&self) -> Sha256Digest {
        self.digest
    }

    /// Streams it from the start.
    pub(crate) async fn stream(&self) -> Result<ByteStream, ClientError> {
        match &self.place {
            Place::Memory(bytes) => {
                let bytes = bytes.clone();
                Ok(Box::pin(futures::stream::once(async move { Ok(bytes) })))
            }
            Place::File(path) => {
                let what = format!("cannot open the cached content {}", path.display());
                let file = tokio::fs::File::open(path).await.map_err(ClientError::io(what))?;
                Ok(Box::pin(tokio_util::io::ReaderStream::with_capacity(file, CHUNK)))
            }
        }
    }

    /// Reads it from the start.
    ///
    /// # Errors
    /// [`ClientError::Io`] if the cache's file cannot be opened.
    pub fn reader(&self) -> Result<Box<dyn Read + Send>, ClientError> {
        match &self.place {
            Place::Memory(bytes) => Ok(Box::new(Cursor::new(bytes.clone()))),
            Place::File(path) => {
                let file = File::open(path);
                let what = format!("cannot open the cached content {}", path.display());
                Ok(Box::new(file.map_err(ClientError::io(what))?))
            }
        }
    }
}

/// Contents on this machine: files named by the digest of their blob's id, or memory.
pub(crate) enum Cache {
    Directory {
        dir: PathBuf,
        drafts: AtomicU64,
        /// What this process wrote or has hashed: a file of an earlier one may have been cut by a
        /// loss of power.
        verified: Mutex<HashSet<BlobId>>,
    },
    Memory(Mutex<HashMap<BlobId, Bytes>>),
}

/// Bytes that were taken, under a name that nothing knows yet.
pub(crate) struct NewContent {
    blob_id: BlobId,
    size: u64,
    digest: Sha256Digest,
    draft: Draft,
}

enum Draft {
    File { path: PathBuf, file: File },
    Memory(Bytes),
}

impl NewContent {
    pub(crate) fn stored(&self) -> StoredContent {
        StoredContent { blob_id: self.blob_id.clone(), size: self.size, digest: self.digest }
    }

    pub(crate) fn upload(&self, item: ItemId) -> Upload {
        Upload {
            seq: 0,
            item,
            blob_id: self.blob_id.clone(),
            staging_id: new_staging_id(),
            size: self.size,
            digest: self.digest,
            content_type: None,
            expected: None,
            state: UploadState::Queued,
            attach: None,
            reason: None,
        }
    }
}

/// Takes bytes and counts and hashes them on the way.
pub(crate) struct ContentWriter {
    size: u64,
    hash: Sha256,
    draft: WriterDraft,
}

enum WriterDraft {
    File { path: PathBuf, file: File },
    Memory(Vec<u8>),
}

impl ContentWriter {
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        self.size += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.hash.update(bytes);
        match &mut self.draft {
            WriterDraft::Memory(to) => to.extend_from_slice(bytes),
            WriterDraft::File { path, file } => {
                let what = format!("cannot write {}", path.display());
                file.write_all(bytes).map_err(ClientError::io(what))?;
            }
        }
        Ok(())
    }

    pub(crate) fn finish(self, blob_id: BlobId) -> NewContent {
        let draft = match self.draft {
            WriterDraft::Memory(bytes) => Draft::Memory(bytes.into()),
            WriterDraft::File { path, file } => Draft::File { path, file },
        };
        let digest = Sha256Digest(self.hash.finalize().into());
        NewContent { blob_id, size: self.size, digest, draft }
    }
}

impl Cache {
    pub(crate) fn in_memory() -> Self {
        Self::Memory(Mutex::default())
    }

    /// The cache beside the replica in `replica`. Drafts that a crash left behind are removed.
    pub(crate) fn in_directory(replica: &Path) -> Result<Self, ClientError> {
        let dir = replica.join(DIRECTORY);
        let drafts = dir.join("drafts");
        let failed = |path: &Path| ClientError::io(format!("cannot prepare {}", path.display()));
        match std::fs::remove_dir_all(&drafts) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(failed(&drafts)(error));
            }
            _ => {}
        }
        crate::store::private_dir(&drafts).map_err(failed(&drafts))?;
        Ok(Self::Directory { dir, drafts: AtomicU64::new(0), verified: Mutex::default() })
    }

    /// Where a blob's bytes are: the id itself could name anything.
    fn path(dir: &Path, blob_id: &BlobId) -> PathBuf {
        let name = Sha256Digest(Sha256::digest(blob_id.as_str().as_bytes()).into()).to_string();
        dir.join(&name[..2]).join(&name[2..])
    }

    pub(crate) fn writer(&self) -> Result<ContentWriter, ClientError> {
        let draft = match self {
            Self::Memory(_) => WriterDraft::Memory(Vec::new()),
            Self::Directory { dir, drafts, .. } => {
                let number = drafts.fetch_add(1, Ordering::Relaxed);
                let path = dir.join("drafts").join(number.to_string());
                let what = format!("cannot make {}", path.display());
                let file = File::create_new(&path).map_err(ClientError::io(what))?;
                WriterDraft::File { path, file }
            }
        };
        Ok(ContentWriter { size: 0, hash: Sha256::new(), draft })
    }

    /// Takes a new content from a reader.
    pub(crate) fn take(&self, mut reader: impl Read) -> Result<NewContent, ClientError> {
        let mut writer = self.writer()?;
        let mut chunk = vec![0; CHUNK];
        loop {
            match reader.read(&mut chunk) {
                Ok(0) => return Ok(writer.finish(new_blob_id())),
                Ok(count) => writer.write(&chunk[..count])?,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(ClientError::io("cannot read the content")(error)),
            }
        }
    }

    /// Makes contents durable under their names; gives their ids.
    pub(crate) fn keep(&self, contents: Vec<NewContent>) -> Result<Vec<BlobId>, ClientError> {
        let mut kept = Vec::with_capacity(contents.len());
        let mut shards = BTreeSet::new();
        for content in contents {
            kept.push(content.blob_id.clone());
            if let Draft::File { path, file } = &content.draft {
                let what = format!("cannot write {}", path.display());
                file.sync_all().map_err(ClientError::io(what))?;
            }
            shards.extend(self.place(content)?);
        }
        if let (Self::Directory { dir, .. }, false) = (self, shards.is_empty()) {
            shards.insert(dir.clone());
        }
        for shard in shards {
            let synced = File::open(&shard).and_then(|shard| shard.sync_all());
            synced.map_err(ClientError::io(format!("cannot sync {}", shard.display())))?;
        }
        Ok(kept)
    }

    /// Takes in what was downloaded. It need not survive a loss of power: then it is downloaded
    /// again.
    pub(crate) fn keep_fetched(&self, content: NewContent) -> Result<(), ClientError> {
        self.place(content).map(drop)
    }

    /// Puts a content where its name says; gives the directory that this changed.
    fn place(&self, content: NewContent) -> Result<Option<PathBuf>, ClientError> {
        match (self, content.draft) {
            (Self::Memory(all), Draft::Memory(bytes)) => {
                lock(all).insert(content.blob_id, bytes);
                Ok(None)
            }
            (Self::Directory { dir, verified, .. }, Draft::File { path, .. }) => {
                let to = Self::path(dir, &content.blob_id);
                let failed = || ClientError::io(format!("cannot keep {}", to.display()));
                let shard = to.parent().map(Path::to_owned);
                if let Some(shard) = &shard {
                    std::fs::create_dir_all(shard).map_err(failed())?;
                }
                std::fs::rename(&path, &to).map_err(failed())?;
                lock(verified).insert(content.blob_id);
                Ok(shard)
            }
            _ => Err(ClientError::Invalid("a content of another client".into())),
        }
    }

    /// Gives the bytes of a blob another name too, durably.
    pub(crate) fn also(&self, blob_id: &BlobId, other: &BlobId) -> Result<(), ClientError> {
        match self {
            Self::Memory(all) => {
                let mut all = lock(all);
                if let Some(bytes) = all.get(blob_id).cloned() {
                    all.insert(other.clone(), bytes);
                }
                Ok(())
            }
            Self::Directory { dir, .. } => {
                let file = File::open(Self::path(dir, blob_id));
                let what = format!("cannot open the cached content of {blob_id}");
                let mut content = self.take(file.map_err(ClientError::io(what))?)?;
                content.blob_id = other.clone();
                self.keep(vec![content]).map(drop)
            }
        }
    }

    /// Forgets contents; that one is not there is no failure.
    pub(crate) fn remove(&self, blobs: &[BlobId]) {
        for blob_id in blobs {
            match self {
                Self::Memory(all) => drop(lock(all).remove(blob_id)),
                Self::Directory { dir, verified, .. } => {
                    lock(verified).remove(blob_id);
                    let _ = std::fs::remove_file(Self::path(dir, blob_id));
                }
            }
        }
    }

    /// A blob's bytes, if they are here and as many as they should be.
    pub(crate) fn find(
        &self,
        blob_id: &BlobId,
        size: u64,
        digest: Sha256Digest,
    ) -> Option<LocalContent> {
        let place = match self {
            Self::Memory(all) => Place::Memory(lock(all).get(blob_id)?.clone()),
            Self::Directory { dir, .. } => {
                let path = Self::path(dir, blob_id);
                if std::fs::metadata(&path).ok()?.len() != size {
                    return None;
                }
                Place::File(path)
            }
        };
        Some(LocalContent { size, digest, place })
    }

    /// [`Self::find`], hashed unless this process knows them. What is damaged leaves the cache.
    pub(crate) fn find_verified(
        &self,
        blob_id: &BlobId,
        size: u64,
        digest: Sha256Digest,
    ) -> Result<Option<LocalContent>, ClientError> {
        let Some(local) = self.find(blob_id, size, digest) else { return Ok(None) };
        let Self::Directory { verified, .. } = self else { return Ok(Some(local)) };
        if lock(verified).contains(blob_id) {
            return Ok(Some(local));
        }
        let mut hash = Sha256::new();
        let mut reader = local.reader()?;
        let mut chunk = vec![0; CHUNK];
        loop {
            match reader.read(&mut chunk) {
                Ok(0) => break,
                Ok(count) => hash.update(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(ClientError::io("cannot read a cached content")(error)),
            }
        }
        if Sha256Digest(hash.finalize().into()) != digest {
            self.remove(std::slice::from_ref(blob_id));
            return Ok(None);
        }
        lock(verified).insert(blob_id.clone());
        Ok(Some(local))
    }
}

impl SyncClient {
    /// Takes a content for an item, to be uploaded by the next sync. Durable when it returns, and
    /// read back from then on. The bytes are copied, in bounded memory.
    ///
    /// # Errors
    /// [`ClientError::UnknownItem`], or what failed in reading or writing.
    pub fn put_content(
        &self,
        item: &ItemId,
        reader: impl Read,
    ) -> Result<StoredContent, ClientError> {
        self.node(item)?.ok_or_else(|| ClientError::UnknownItem(item.clone()))?;
        let mut batch = self.batch();
        let stored = batch.put_content(item, reader)?;
        batch.commit()?;
        Ok(stored)
    }

    /// [`Self::put_content`] from a file.
    ///
    /// # Errors
    /// As [`Self::put_content`].
    pub fn put_file(&self, item: &ItemId, path: &Path) -> Result<StoredContent, ClientError> {
        let file =
            File::open(path).map_err(ClientError::io(format!("cannot open {}", path.display())))?;
        self.put_content(item, file)
    }
}
