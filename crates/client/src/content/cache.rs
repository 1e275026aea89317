//! The contents on this machine: a directory beside the replica, or memory, limited in size.
//!
//! A file's name follows from its blob's id. A content for the queue is first written to `drafts`:
//! it is made durable there under its name, then queued, then moved to its place; the next start
//! repairs a crash in between. A downloaded content need not survive a power failure, so a later
//! process hashes it before using it.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::id::BlobId;

use super::index::{Index, Key};
use super::local::{CHUNK, ContentWriter, Draft, FIRST_CHUNK, LocalContent, NewContent, Source};
use crate::config::ClientConfig;
use crate::environment::Environment;
use crate::error::{ClientError, Result};
use crate::lock::lock;
use crate::replica::directory::{CONTENTS, private_dir};

/// The size from which an interrupted download is resumed; a shorter one starts again.
const WORTH_RESUMING: u64 = 1024 * 1024;
/// The number of files that are made durable at one time.
const SYNCS_AT_A_TIME: usize = 16;
/// The number of download turns from which finished turns are removed.
const MANY_TURNS: usize = 1_024;
/// The number of files above which one synchronisation of the whole disk is cheaper than one for
/// each file.
const WORTH_A_BARRIER: usize = 16;
/// The time for which an interrupted download is kept.
const PARTIAL_KEPT: Duration = Duration::from_secs(7 * 24 * 3_600);

/// The contents on this machine, as the module describes.
pub(crate) struct Cache {
    place: Place,
    /// The limit of the size in bytes, apart from contents that must stay.
    limit: Option<u64>,
    environment: Arc<dyn Environment>,
    index: Mutex<Index>,
    /// A lock for each blob, so that only one download of it runs at a time.
    turns: Mutex<HashMap<Key, Weak<tokio::sync::Mutex<()>>>>,
}

enum Place {
    Directory(PathBuf),
    Memory(Mutex<HashMap<Key, Bytes>>),
}

/// The size of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheUsage {
    /// The number of bytes in the cache, including queued contents.
    pub bytes: u64,
    /// The number of contents in the cache.
    pub contents: u64,
    /// The limit that [`crate::ClientConfig::cache_size`] sets.
    pub limit: Option<u64>,
}

/// A guard that keeps a content from being evicted.
#[derive(Debug)]
pub(crate) struct Lease {
    cache: Weak<Cache>,
    key: Key,
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(cache) = self.cache.upgrade() {
            let mut index = lock(&cache.index);
            if index.release(self.key, cache.limit) {
                cache.remove_one(self.key);
            }
        }
    }
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").finish_non_exhaustive()
    }
}

fn name(key: Key) -> String {
    key.0.to_string()
}

fn shard_path(dir: &Path, key: Key) -> PathBuf {
    let name = name(key);
    dir.join(&name[..2]).join(&name[2..])
}

fn draft_path(dir: &Path, key: Key) -> PathBuf {
    dir.join("drafts").join(name(key))
}

fn partial_path(dir: &Path, key: Key) -> PathBuf {
    dir.join("partial").join(name(key))
}

/// Lists the files of a directory; none if it does not exist.
fn files(dir: &Path) -> std::io::Result<Vec<(PathBuf, std::fs::Metadata)>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        match entry.metadata() {
            Ok(metadata) if metadata.is_file() => files.push((entry.path(), metadata)),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(files)
}

fn file_key(path: &Path) -> Option<Key> {
    Key::parse(path.file_name()?.to_str()?)
}

/// Returns whether the cache beside the replica in `replica` has a file of this size for a content.
/// The bytes are not read.
pub(crate) fn is_on_disk(replica: &Path, blob_id: &BlobId, size: u64) -> bool {
    let (dir, key) = (replica.join(CONTENTS), Key::of(blob_id));
    let is_one = |path: PathBuf| std::fs::metadata(path).is_ok_and(|file| file.len() == size);
    is_one(shard_path(&dir, key)) || is_one(draft_path(&dir, key))
}

impl Cache {
    fn over(place: Place, config: &ClientConfig) -> Arc<Self> {
        let (limit, environment) = (config.cache_size, Arc::clone(&config.environment));
        let (index, turns) = (Mutex::default(), Mutex::default());
        Arc::new(Self { place, limit, environment, index, turns })
    }

    /// Returns the directory of the replica beside the cache, if both are on the disk.
    pub(crate) fn replica_dir(&self) -> Option<&Path> {
        match &self.place {
            Place::Directory(contents) => contents.parent(),
            Place::Memory(_) => None,
        }
    }

    pub(crate) fn in_memory(config: &ClientConfig) -> Arc<Self> {
        Self::over(Place::Memory(Mutex::default()), config)
    }

    /// Opens the cache beside the replica in `replica`; `queued` returns the contents of its queue.
    /// Files that a crash left behind are moved to their place if they are queued, else removed.
    pub(crate) fn in_directory(
        replica: &Path,
        config: &ClientConfig,
        queued: impl FnOnce() -> Result<Vec<BlobId>>,
    ) -> Result<Arc<Self>> {
        let dir = replica.join(CONTENTS);
        let failed = || ClientError::io(format!("cannot prepare {}", dir.display()));
        for of in ["drafts", "partial"] {
            private_dir(&dir.join(of)).map_err(failed())?;
        }
        let drafts = files(&dir.join("drafts")).map_err(failed())?;
        if !drafts.is_empty() {
            let queued: HashSet<Key> = queued()?.iter().map(Key::of).collect();
            for (path, _) in drafts {
                match file_key(&path).filter(|key| queued.contains(key)) {
                    Some(key) => settle(&dir, key),
                    None => std::fs::remove_file(&path),
                }
                .map_err(failed())?;
            }
        }
        let now = config.environment.file_time();
        for (path, metadata) in files(&dir.join("partial")).map_err(failed())? {
            let age = metadata.modified().ok().and_then(|at| now.duration_since(at).ok());
            if metadata.len() < WORTH_RESUMING || age.is_some_and(|age| age > PARTIAL_KEPT) {
                std::fs::remove_file(&path).map_err(failed())?;
            }
        }
        Ok(Self::over(Place::Directory(dir), config))
    }

    // Taking contents in.

    /// Begins to write a content of the application.
    pub(crate) fn writer(&self) -> Result<ContentWriter> {
        let blob_id = self.environment.new_blob_id();
        match &self.place {
            Place::Memory(_) => Ok(ContentWriter::in_memory(blob_id)),
            Place::Directory(dir) => {
                let path = draft_path(dir, Key::of(&blob_id));
                let what = format!("cannot make {}", path.display());
                let file = File::create_new(&path).map_err(ClientError::io(what))?;
                Ok(ContentWriter::in_file(blob_id, path, file, None))
            }
        }
    }

    /// Copies a new content from a reader.
    pub(crate) fn take(&self, mut reader: impl Read) -> Result<NewContent> {
        let mut writer = self.writer()?;
        // Most contents are small: only one that fills this chunk is worth a larger one.
        let mut chunk = vec![0; FIRST_CHUNK];
        loop {
            match reader.read(&mut chunk) {
                Ok(0) => return Ok(writer.finish()),
                Ok(count) => {
                    writer.write(&chunk[..count])?;
                    if count == chunk.len() {
                        chunk.resize(CHUNK, 0);
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(ClientError::io("cannot read the content")(error)),
            }
        }
    }

    /// Works as [`Self::take`] for bytes in memory.
    pub(crate) fn take_bytes(&self, bytes: &[u8]) -> Result<NewContent> {
        let mut writer = self.writer()?;
        // A system may take many times longer for one large write than for its parts.
        bytes.chunks(CHUNK).try_for_each(|chunk| writer.write(chunk))?;
        Ok(writer.finish())
    }

    /// Makes new contents durable, so that they can be queued. [`Self::find`] finds them from then
    /// on. Contents that are dropped before [`Self::place`] are removed.
    pub(crate) fn keep(&self, contents: &[NewContent]) -> Result<()> {
        let Place::Directory(dir) = &self.place else { return Ok(()) };
        if contents.is_empty() {
            return Ok(());
        }
        let drafts = dir.join("drafts");
        let failed = || ClientError::io(format!("cannot sync {}", drafts.display()));
        let opened = File::open(&drafts).map_err(failed())?;
        if contents.len() >= WORTH_A_BARRIER && barrier(&opened).map_err(failed())? {
            return Ok(());
        }
        if self.environment.is_single_threaded() {
            contents.iter().try_for_each(NewContent::sync)?;
        } else {
            sync_all(contents)?;
        }
        opened.sync_all().map_err(failed())
    }

    /// Moves contents to their places, once they are queued. A content that cannot be moved stays
    /// where it is and is found there.
    pub(crate) fn place(&self, contents: Vec<NewContent>) {
        let now = self.environment.file_time();
        for content in contents {
            let key = Key::of(&content.blob_id);
            let size = content.size;
            match (&self.place, content.into_draft()) {
                (Place::Memory(all), Draft::Memory(bytes)) => drop(lock(all).insert(key, bytes)),
                (Place::Directory(dir), Draft::File(draft)) => {
                    let path = draft.persist();
                    if let Err(error) = move_into(dir, key, &path) {
                        tracing::warn!(%error, path = %path.display(), "a content stays a draft");
                    }
                }
                _ => continue,
            }
            lock(&self.index).put(key, size, now, true);
        }
    }

    /// Copies the bytes of a blob durably to a new content under another id.
    pub(crate) fn renamed(&self, blob_id: &BlobId, digest: Sha256Digest) -> Result<NewContent> {
        let what = || format!("cannot open the cached content of {blob_id}");
        let key = Key::of(blob_id);
        match &self.place {
            Place::Memory(all) => {
                let bytes = lock(all).get(&key).cloned();
                let lost = std::io::Error::from(ErrorKind::NotFound);
                let bytes = bytes.ok_or(lost).map_err(ClientError::io(what()))?;
                self.take(&*bytes)
            }
            Place::Directory(dir) => {
                let from = self.path(dir, key);
                let new = self.environment.new_blob_id();
                let to = draft_path(dir, Key::of(&new));
                // Not every disk has hard links.
                if std::fs::hard_link(&from, &to).is_err() {
                    std::fs::copy(&from, &to).map_err(ClientError::io(what()))?;
                }
                let file = File::open(&to).map_err(ClientError::io(what()))?;
                let size = file.metadata().map_err(ClientError::io(what()))?.len();
                let content = NewContent::of_file(new, size, digest, to, file);
                self.keep(std::slice::from_ref(&content))?;
                Ok(content)
            }
        }
    }

    // Downloading.

    /// Returns true if a download is so small that it may begin on the runtime.
    pub(crate) fn is_quick(size: u64) -> bool {
        size < WORTH_RESUMING
    }

    /// Waits for the turn to download a blob; only the holder of the turn downloads it.
    pub(crate) async fn turn(&self, blob_id: &BlobId) -> tokio::sync::OwnedMutexGuard<()> {
        self.turn_of(blob_id).lock_owned().await
    }

    fn turn_of(&self, blob_id: &BlobId) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = lock(&self.turns);
        if turns.len() >= MANY_TURNS {
            turns.retain(|_, turn| turn.strong_count() > 0);
        }
        let known = turns.get(&Key::of(blob_id)).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let turn = Arc::default();
            turns.insert(Key::of(blob_id), Arc::downgrade(&turn));
            turn
        })
    }

    /// Begins the download of a content of `size` bytes, or resumes an interrupted one, whose
    /// existing bytes the writer has hashed.
    pub(crate) fn download(&self, blob_id: &BlobId, size: u64) -> Result<ContentWriter> {
        let Place::Directory(dir) = &self.place else {
            return Ok(ContentWriter::in_memory(blob_id.clone()));
        };
        let path = partial_path(dir, Key::of(blob_id));
        let what = || format!("cannot write {}", path.display());
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(&path).map_err(ClientError::io(what()))?;
        let there = file.metadata().map_err(ClientError::io(what()))?.len();
        let stays_from = Some(WORTH_RESUMING);
        let mut writer = ContentWriter::in_file(blob_id.clone(), path.clone(), file, stays_from);
        let usable = (WORTH_RESUMING..=size).contains(&there);
        let ready = match there {
            0 => Ok(()),
            _ if usable => writer.resume(),
            _ => writer.restart(),
        };
        ready.map_err(ClientError::io(what()))?;
        Ok(writer)
    }

    /// Adds a content that was downloaded and verified.
    pub(crate) fn place_fetched(&self, content: NewContent) {
        let key = Key::of(&content.blob_id);
        self.place(vec![content]);
        lock(&self.index).mark_fetched(key);
    }

    /// Takes the turn as [`Self::turn`] does, but only if it is free.
    pub(crate) fn try_turn(&self, blob_id: &BlobId) -> Option<tokio::sync::OwnedMutexGuard<()>> {
        self.turn_of(blob_id).try_lock_owned().ok()
    }

    /// Adds a small content that was downloaded and verified.
    ///
    /// It is written directly in its place: an incomplete file has the wrong size, and a later
    /// process hashes every file before trusting it.
    pub(crate) fn place_small(&self, blob_id: &BlobId, bytes: &Bytes) -> Result<()> {
        let key = Key::of(blob_id);
        match &self.place {
            Place::Memory(all) => drop(lock(all).insert(key, bytes.clone())),
            Place::Directory(dir) => {
                let path = shard_path(dir, key);
                let written = match std::fs::write(&path, bytes) {
                    Err(error) if error.kind() == ErrorKind::NotFound => {
                        private_dir(path.parent().unwrap_or(dir))
                            .and_then(|()| std::fs::write(&path, bytes))
                    }
                    written => written,
                };
                if let Err(error) = written {
                    let _ = std::fs::remove_file(&path);
                    return Err(ClientError::io(format!("cannot write {}", path.display()))(error));
                }
            }
        }
        let now = self.environment.file_time();
        let mut index = lock(&self.index);
        index.put(key, bytes.len() as u64, now, true);
        index.mark_fetched(key);
        Ok(())
    }

    // Giving contents out.

    /// Makes a content of downloaded, verified bytes that the cache does not keep.
    pub(crate) fn pass(
        self: &Arc<Self>,
        blob_id: &BlobId,
        digest: Sha256Digest,
        bytes: Bytes,
    ) -> LocalContent {
        let lease = self.lease(Key::of(blob_id));
        LocalContent::new(bytes.len() as u64, digest, Source::Memory(bytes), lease)
    }

    fn lease(self: &Arc<Self>, key: Key) -> Arc<Lease> {
        lock(&self.index).hold(key);
        Arc::new(Lease { cache: Arc::downgrade(self), key })
    }

    /// Returns the path of a blob's bytes: their final place, or the draft that was not moved yet.
    fn path(&self, dir: &Path, key: Key) -> PathBuf {
        let path = shard_path(dir, key);
        if path.exists() { path } else { draft_path(dir, key) }
    }

    /// Returns a blob's bytes if they are present in full.
    pub(crate) fn find(
        self: &Arc<Self>,
        blob_id: &BlobId,
        size: u64,
        digest: Sha256Digest,
    ) -> Option<LocalContent> {
        let key = Key::of(blob_id);
        // The lease is taken before the look-up, because only held contents stay.
        let lease = self.lease(key);
        let source = match &self.place {
            Place::Memory(all) => Source::Memory(lock(all).get(&key)?.clone()),
            Place::Directory(dir) => {
                let of = |path: PathBuf| {
                    let len = std::fs::metadata(&path).ok()?.len();
                    (len == size).then_some(path)
                };
                Source::File(of(shard_path(dir, key)).or_else(|| of(draft_path(dir, key)))?)
            }
        };
        Some(LocalContent::new(size, digest, source, lease))
    }

    /// Returns true if a content is present with all its bytes, hashed or not.
    pub(crate) fn has(&self, blob_id: &BlobId, size: u64) -> bool {
        let key = Key::of(blob_id);
        match &self.place {
            Place::Memory(all) => {
                lock(all).get(&key).is_some_and(|bytes| bytes.len() as u64 == size)
            }
            Place::Directory(dir) => {
                let paths = [shard_path(dir, key), draft_path(dir, key)];
                let is_whole =
                    |path: &PathBuf| std::fs::metadata(path).is_ok_and(|of| of.len() == size);
                paths.iter().any(is_whole)
            }
        }
    }

    /// Works as [`Self::find`], and hashes the bytes unless this process knows them. A damaged
    /// content leaves the cache.
    pub(crate) fn find_verified(
        self: &Arc<Self>,
        blob_id: &BlobId,
        size: u64,
        digest: Sha256Digest,
    ) -> Result<Option<LocalContent>> {
        let Some(local) = self.find(blob_id, size, digest) else { return Ok(None) };
        let key = Key::of(blob_id);
        let known = lock(&self.index).is_verified(key);
        if !known && digest_of(local.reader()?)? != digest {
            self.remove(std::slice::from_ref(blob_id));
            return Ok(None);
        }
        let now = self.environment.file_time();
        if let Some(path) = local.path() {
            // For the next process; that the disk keeps no times only makes eviction less apt.
            let _ = File::open(path).and_then(|file| file.set_modified(now));
        }
        lock(&self.index).put(key, size, now, true);
        Ok(Some(local))
    }

    /// Reads and verifies the bytes of a small content; `None` if they are missing or damaged. It
    /// does not count as a use.
    pub(crate) fn read_whole(
        &self,
        blob_id: &BlobId,
        size: u64,
        digest: Sha256Digest,
    ) -> Result<Option<Bytes>> {
        let key = Key::of(blob_id);
        let bytes: Bytes = match &self.place {
            Place::Memory(all) => match lock(all).get(&key) {
                Some(bytes) => bytes.clone(),
                None => return Ok(None),
            },
            Place::Directory(dir) => {
                let read = |path: PathBuf| {
                    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1);
                    File::open(path)?.take(size + 1).read_to_end(&mut bytes)?;
                    Ok::<_, std::io::Error>(bytes)
                };
                let read = match read(shard_path(dir, key)) {
                    Err(error) if error.kind() == ErrorKind::NotFound => read(draft_path(dir, key)),
                    read => read,
                };
                match read {
                    Ok(bytes) => bytes.into(),
                    Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                    Err(error) => {
                        return Err(ClientError::io("cannot read a cached content")(error));
                    }
                }
            }
        };
        if bytes.len() as u64 == size && Sha256::digest(&bytes)[..] == digest.0 {
            return Ok(Some(bytes));
        }
        self.remove(std::slice::from_ref(blob_id));
        Ok(None)
    }

    // Letting contents go.

    /// Removes contents; a missing one is no error.
    pub(crate) fn remove(&self, blobs: &[BlobId]) {
        for key in blobs.iter().map(Key::of) {
            self.remove_one(key);
            lock(&self.index).forget(key);
        }
    }

    fn remove_one(&self, key: Key) {
        match &self.place {
            Place::Memory(all) => drop(lock(all).remove(&key)),
            Place::Directory(dir) => {
                let _ = std::fs::remove_file(shard_path(dir, key));
                let _ = std::fs::remove_file(draft_path(dir, key));
                let _ = std::fs::remove_file(partial_path(dir, key));
            }
        }
    }

    /// Reads the directory's contents into the index, once.
    fn load(&self) -> Result<()> {
        let Place::Directory(dir) = &self.place else { return Ok(()) };
        if lock(&self.index).is_loaded() {
            return Ok(());
        }
        let mut found = Vec::new();
        let failed = || ClientError::io(format!("cannot read {}", dir.display()));
        for shard in std::fs::read_dir(dir).map_err(failed())? {
            let shard = shard.map_err(failed())?.file_name();
            let Some(shard) = shard.to_str().filter(|name| name.len() == 2) else { continue };
            for (path, metadata) in files(&dir.join(shard)).map_err(failed())? {
                let rest = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                let Some(key) = Key::parse(&format!("{shard}{rest}")) else { continue };
                let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                found.push((key, metadata.len(), used));
            }
        }
        lock(&self.index).load(found);
        Ok(())
    }

    /// Returns true if the cache exceeds its limit.
    pub(crate) fn is_over(&self) -> Result<bool> {
        let Some(limit) = self.limit else { return Ok(false) };
        self.load()?;
        Ok(lock(&self.index).is_over(limit))
    }

    /// Evicts the least recently used contents, except `queued` and held ones, until the cache is
    /// below its limit.
    pub(crate) fn trim(&self, queued: &[BlobId]) {
        let Some(limit) = self.limit else { return };
        let queued: HashSet<Key> = queued.iter().map(Key::of).collect();
        let mut index = lock(&self.index);
        for key in index.evict(limit, &queued) {
            self.remove_one(key);
        }
    }

    pub(crate) fn usage(&self) -> Result<CacheUsage> {
        self.load()?;
        let (bytes, contents) = lock(&self.index).totals();
        Ok(CacheUsage { bytes, contents, limit: self.limit })
    }
}

/// Waits until all writes to a directory's disk are durable, names and bytes; returns `false` if
/// the system cannot do that.
fn barrier(dir: &File) -> std::io::Result<bool> {
    #[cfg(target_os = "linux")]
    {
        rustix::fs::syncfs(dir)?;
        Ok(true)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = dir;
        Ok(false)
    }
}

/// Makes contents durable, many at one time: a file system commits them together.
fn sync_all(contents: &[NewContent]) -> Result<()> {
    let share = contents.len().div_ceil(SYNCS_AT_A_TIME).max(1);
    std::thread::scope(|scope| {
        let sync = |share: &[NewContent]| share.iter().try_for_each(NewContent::sync);
        let (own, others) = contents.split_at(share.min(contents.len()));
        let others: Vec<_> =
            others.chunks(share).map(|share| scope.spawn(move || sync(share))).collect();
        let mut outcome = sync(own);
        for other in others {
            let lost = || Err(ClientError::Storage("a write to the disk ended oddly".into()));
            outcome = outcome.and(other.join().unwrap_or_else(|_| lost()));
        }
        outcome
    })
}

fn move_into(dir: &Path, key: Key, from: &Path) -> std::io::Result<()> {
    let to = shard_path(dir, key);
    match std::fs::rename(from, &to) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            private_dir(to.parent().unwrap_or(dir))?;
            std::fs::rename(from, &to)
        }
        renamed => renamed,
    }
}

/// Moves a draft of an earlier process to its place.
fn settle(dir: &Path, key: Key) -> std::io::Result<()> {
    move_into(dir, key, &draft_path(dir, key))
}

pub(crate) fn digest_of(mut reader: impl Read) -> Result<Sha256Digest> {
    let mut hash = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        match reader.read(&mut chunk) {
            Ok(0) => return Ok(Sha256Digest(hash.finalize().into())),
            Ok(count) => hash.update(&chunk[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(ClientError::io("cannot read a cached content")(error)),
        }
    }
}
