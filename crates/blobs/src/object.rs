//! [`BlobStore`] over the `object_store` library.

use std::ops::Range;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, GetResultPayload, ObjectStore, ObjectStoreExt as _, PutMode,
};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::id::BlobId;

use crate::barrier::Barrier;
use crate::error::refusal;
use crate::files::{self, FileUpload};
use crate::multipart::{self, PartsUpload};
use crate::s3::Service;
use crate::{
    BlobError, BlobOperation, BlobStore, Listing, Object, Outgoing, PutError, S3Config, Stored,
    Upload, key,
};

/// Blobs in an object store, under a prefix.
#[derive(Clone)]
pub struct ObjectBlobs {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) prefix: Path,
    kind: Kind,
}

/// The ways in which a store takes an upload in parts.
#[derive(Clone)]
enum Kind {
    /// A temporary file that is linked to its name.
    Directory(PathBuf, Arc<Barrier>),
    /// A multipart upload at the blob's own location.
    S3(Arc<dyn MultipartStore>, Arc<S3>),
    /// A multipart upload at a separate location, with the counter of its temporary names.
    Memory(Arc<dyn MultipartStore>, Arc<AtomicU64>),
}

/// The capabilities of an S3 store, as a probe found them.
struct S3 {
    service: Arc<Service>,
    pages: Arc<dyn PaginatedListStore>,
    /// True if the store can write an object only if none exists.
    conditional_put: AtomicBool,
}

/// The size of the first parts, which doubles after each thousand parts up to the largest: S3
/// allows 10,000 parts, and memory holds a part while it is sent.
const PART: usize = 8 * 1024 * 1024;
const PARTS_OF_A_SIZE: u32 = 1_000;
const LARGEST_PART: usize = 128 * 1024 * 1024;
const MAX_PARTS: u32 = 10_000;
/// The number of objects that are written or read concurrently.
const AT_A_TIME: usize = 64;
/// The number of bytes that a read from a directory requests at a time.
const READ_CHUNK: usize = 128 * 1024;

fn part_size(part: u32) -> usize {
    let doublings = (part / PARTS_OF_A_SIZE).min(4);
    (PART << doublings).min(LARGEST_PART)
}

impl ObjectBlobs {
    /// Opens a store in a directory, which is created if needed. Every write is flushed to the disk
    /// before it counts.
    ///
    /// # Errors
    /// [`BlobError`] if the directory cannot be made or opened.
    pub fn directory(path: impl AsRef<FsPath>) -> Result<Self, BlobError> {
        let path = path.as_ref();
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(path).map_err(|error| BlobError::io(BlobOperation::Persist, &error))?;
        let store = LocalFileSystem::new_with_prefix(path).map_err(persist)?;
        Ok(Self {
            store: Arc::new(store.with_fsync(true)),
            prefix: Path::default(),
            kind: Kind::Directory(path.to_owned(), Arc::default()),
        })
    }

    /// Opens an S3 bucket for blobs, without a request: [`BlobStore::probe`] sends the first one.
    ///
    /// # Errors
    /// [`BlobError`] if the library rejects the configuration.
    pub fn s3(config: &S3Config) -> Result<Self, BlobError> {
        let service = Arc::new(Service::default());
        let store = Arc::new(config.build(&service).map_err(persist)?);
        let about = S3 {
            service,
            pages: Arc::clone(&store) as Arc<dyn PaginatedListStore>,
            conditional_put: AtomicBool::new(false),
        };
        Ok(Self {
            store: Arc::clone(&store) as Arc<dyn ObjectStore>,
            prefix: Path::parse(&config.key_prefix).map_err(|error| persist(error.into()))?,
            kind: Kind::S3(store, Arc::new(about)),
        })
    }

    /// Creates a store in memory, which ends with the process.
    #[must_use]
    pub fn memory() -> Self {
        let store = Arc::new(InMemory::new());
        Self {
            store: Arc::clone(&store) as Arc<dyn ObjectStore>,
            prefix: Path::default(),
            kind: Kind::Memory(store, Arc::default()),
        }
    }

    fn location(&self, id: &BlobId) -> Path {
        self.prefix.clone().join(key::object_name(id))
    }

    fn temporary(&self) -> Path {
        self.prefix.clone().join(self.temporary_name())
    }

    /// Returns a new temporary name. In memory, where objects belong to this process alone, names
    /// are counted, so that the same calls give the same names.
    fn temporary_name(&self) -> String {
        match &self.kind {
            Kind::Memory(_, names) => {
                format!("{}{}", key::TEMPORARY, names.fetch_add(1, Ordering::Relaxed))
            }
            _ => key::temporary_name(),
        }
    }

    /// Returns the location where the parts of an upload are joined.
    fn parts_location(&self, id: &BlobId, upload: &str) -> Path {
        match &self.kind {
            Kind::Memory(..) => {
                let name = upload.split(' ').next().unwrap_or_default();
                self.prefix.clone().join(format!("{}-whole", name))
            }
            _ => self.location(id),
        }
    }

    /// Returns whether completing an upload in parts leaves an existing object unchanged.
    pub(crate) fn conditional_finish(&self) -> bool {
        match &self.kind {
            Kind::S3(_, s3) => s3.service.conditional_finish.load(Ordering::Relaxed),
            _ => true,
        }
    }

    pub(crate) fn is_memory(&self) -> bool {
        matches!(self.kind, Kind::Memory(..))
    }

    /// Returns whether the store rejected a write because the object exists.
    pub(crate) fn is_refused(&self, error: &object_store::Error) -> bool {
        matches!(
            error,
            object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }
        ) || refusal(error).is_some_and(|refusal| refusal.code == "ConditionalRequestConflict")
    }

    /// Moves an object that was joined at a separate location to the blob's own.
    pub(crate) async fn put_in_place(
        &self,
        at: &Path,
        id: &BlobId,
        stored: Stored,
    ) -> Result<(), PutError> {
        let location = self.location(id);
        if *at == location {
            return Ok(());
        }
        match self.store.rename_if_not_exists(at, &location).await {
            Ok(()) => Ok(()),
            Err(object_store::Error::AlreadyExists { .. }) => {
                self.store.delete(at).await.map_err(persist)?;
                self.must_be(id, stored).await
            }
            Err(error) => Err(persist(error).into()),
        }
    }

    pub(crate) async fn is_there(&self, id: &BlobId) -> Result<bool, BlobError> {
        match self.store.head(&self.location(id)).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(persist(error)),
        }
    }

    /// Checks that the existing bytes equal the given ones.
    pub(crate) async fn must_be(&self, id: &BlobId, stored: Stored) -> Result<(), PutError> {
        let there = self.store.get(&self.location(id)).await.map_err(persist)?;
        if there.meta.size != stored.size {
            return Err(PutError::Differs);
        }
        let mut hash = Sha256::new();
        let mut bytes = stream_of(there).await.map_err(persist)?;
        while let Some(chunk) = bytes.next().await {
            hash.update(chunk.map_err(persist)?);
        }
        let same = Sha256Digest(hash.finalize().into()) == stored.digest;
        if same { Ok(()) } else { Err(PutError::Differs) }
    }

    /// Writes an object if none exists, as far as the store can detect it.
    async fn create(&self, location: &Path, bytes: Bytes) -> Result<(), object_store::Error> {
        let mode = match &self.kind {
            Kind::S3(_, s3) if !s3.conditional_put.load(Ordering::Relaxed) => {
                match self.store.head(location).await {
                    Ok(_) => {
                        return Err(object_store::Error::AlreadyExists {
                            path: location.to_string(),
                            source: "the object exists".into(),
                        });
                    }
                    Err(object_store::Error::NotFound { .. }) => PutMode::Overwrite,
                    Err(error) => return Err(error),
                }
            }
            _ => PutMode::Create,
        };
        self.store.put_opts(location, bytes.into(), mode.into()).await.map(drop)
    }

    /// Handles the outcome of writing a file; an existing file must have these bytes.
    async fn created(
        &self,
        id: &BlobId,
        bytes: &Bytes,
        created: std::io::Result<bool>,
    ) -> Result<(), PutError> {
        match created {
            Ok(true) => Ok(()),
            Ok(false) => self.already(id, bytes, "the object exists already").await,
            Err(error) => Err(BlobError::io(BlobOperation::Persist, &error).into()),
        }
    }

    /// Checks that the existing object has these bytes.
    async fn already(&self, id: &BlobId, bytes: &Bytes, refusal: &str) -> Result<(), PutError> {
        match self.must_be(id, stored(bytes)).await {
            // Two writes conflicted, and neither succeeded.
            Err(PutError::Store(missing)) if missing.storage_code == "NoSuchKey" => {
                Err(BlobError::new(BlobOperation::Persist, "ServiceUnavailable", refusal).into())
            }
            compared => compared,
        }
    }

    /// Probes whether the store rejects writes to existing objects.
    async fn learn(&self, at: &Path, parts: &dyn MultipartStore, s3: &S3) -> Result<(), BlobError> {
        let again = self.store.put_opts(at, Bytes::new().into(), PutMode::Create.into()).await;
        let refused = again.is_err_and(|error| self.is_refused(&error));
        s3.conditional_put.store(refused, Ordering::Relaxed);
        s3.service.conditional_finish.store(true, Ordering::Relaxed);
        let upload = parts.create_multipart(at).await.map_err(persist)?;
        let finished = async {
            let part = parts.put_part(at, &upload, 0, Bytes::from_static(b"part").into()).await?;
            parts.complete_multipart(at, &upload, vec![part]).await
        };
        let refused = match finished.await {
            Ok(_) => false,
            Err(error) => {
                parts.abort_multipart(at, &upload).await.map_err(persist)?;
                self.is_refused(&error)
            }
        };
        s3.service.conditional_finish.store(refused, Ordering::Relaxed);
        Ok(())
    }
}

fn stored(bytes: &Bytes) -> Stored {
    Stored { size: bytes.len() as u64, digest: Sha256Digest(Sha256::digest(bytes).into()) }
}

/// Collects the bytes of a read, which must be `size` bytes.
pub(crate) async fn collected(mut chunks: Outgoing, size: u64) -> Result<Bytes, BlobError> {
    let mut bytes = BytesMut::new();
    while let Some(chunk) = chunks.try_next().await? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() as u64 > size {
            break;
        }
    }
    if bytes.len() as u64 == size { Ok(bytes.freeze()) } else { Err(BlobError::not_of_size(size)) }
}

fn read(error: object_store::Error) -> BlobError {
    BlobError::of(BlobOperation::Read, &error)
}

fn persist(error: object_store::Error) -> BlobError {
    BlobError::of(BlobOperation::Persist, &error)
}

type Chunks = futures::stream::BoxStream<'static, Result<Bytes, object_store::Error>>;

/// Returns the bytes of a read as a stream of large chunks: the library reads files in small ones,
/// each with a hop to another thread.
async fn stream_of(result: object_store::GetResult) -> Result<Chunks, object_store::Error> {
    let range = result.range.clone();
    let GetResultPayload::File(file, _) = result.payload else {
        return Ok(result.into_stream());
    };
    let failed =
        |source| object_store::Error::Generic { store: "directory", source: Box::new(source) };
    let mut file = tokio::fs::File::from_std(file);
    if range.start > 0 {
        file.seek(std::io::SeekFrom::Start(range.start)).await.map_err(failed)?;
    }
    let length = range.end - range.start;
    let chunk = usize::try_from(length).unwrap_or(READ_CHUNK).clamp(1, READ_CHUNK);
    let chunks = ReaderStream::with_capacity(file.take(length), chunk);
    Ok(chunks.map_err(failed).boxed())
}

#[async_trait]
impl BlobStore for ObjectBlobs {
    async fn put(&self, id: &BlobId, bytes: Bytes) -> Result<(), PutError> {
        if let Kind::Directory(directory, barrier) = &self.kind {
            let names = vec![(key::object_name(id), bytes.clone())];
            let created = files::create(directory, barrier, names).await.pop();
            return self.created(id, &bytes, created.unwrap_or(Ok(false))).await;
        }
        match self.create(&self.location(id), bytes.clone()).await {
            Ok(()) => Ok(()),
            Err(error) if self.is_refused(&error) => {
                self.already(id, &bytes, &error.to_string()).await
            }
            Err(error) => Err(persist(error).into()),
        }
    }

    fn writes_once(&self) -> bool {
        match &self.kind {
            Kind::S3(_, s3) => s3.conditional_put.load(Ordering::Relaxed),
            _ => true,
        }
    }

    async fn put_many(&self, blobs: Vec<(BlobId, Bytes)>) -> Vec<Result<(), PutError>> {
        let Kind::Directory(directory, barrier) = &self.kind else {
            let puts = blobs.into_iter().map(|(id, bytes)| {
                let store = self.clone();
                async move { store.put(&id, bytes).await }
            });
            return futures::stream::iter(puts).buffered(AT_A_TIME).collect().await;
        };
        let names = blobs.iter().map(|(id, bytes)| (key::object_name(id), bytes.clone())).collect();
        let mut outcomes = Vec::with_capacity(blobs.len());
        for ((id, bytes), created) in
            blobs.iter().zip(files::create(directory, barrier, names).await)
        {
            outcomes.push(self.created(id, bytes, created).await);
        }
        outcomes
    }

    async fn get_many(&self, blobs: Vec<(BlobId, u64)>) -> Vec<Result<Bytes, BlobError>> {
        if let Kind::Directory(directory, _) = &self.kind {
            let names = blobs.iter().map(|(id, size)| (key::object_name(id), *size)).collect();
            return files::read_whole(directory, names).await;
        }
        let gets = blobs.into_iter().map(|(id, size)| {
            let store = self.clone();
            async move { collected(store.get(&id, None).await?, size).await }
        });
        futures::stream::iter(gets).buffered(AT_A_TIME).collect().await
    }

    async fn begin(&self, id: &BlobId) -> Result<String, BlobError> {
        match &self.kind {
            Kind::Directory(directory, _) => files::begin(directory).await,
            Kind::S3(parts, _) => {
                multipart::begin(&**parts, &self.location(id), &self.temporary_name()).await
            }
            // Its parts are stored under the name, wherever they are joined.
            Kind::Memory(parts, _) => {
                multipart::begin(&**parts, &self.location(id), &self.temporary_name()).await
            }
        }
    }

    async fn take_up(&self, id: &BlobId, upload: &str) -> Result<Box<dyn Upload>, BlobError> {
        match &self.kind {
            Kind::Directory(directory, _) => {
                Ok(Box::new(FileUpload::take_up(self, directory, id, upload).await?))
            }
            Kind::S3(parts, _) | Kind::Memory(parts, _) => Ok(Box::new(PartsUpload {
                blobs: self.clone(),
                parts: Arc::clone(parts),
                id: id.clone(),
                at: self.parts_location(id, upload),
                upload: upload.to_owned(),
            })),
        }
    }

    async fn abort(&self, id: &BlobId, upload: &str) -> Result<(), BlobError> {
        match &self.kind {
            Kind::Directory(directory, _) => files::remove(directory, upload).await,
            Kind::S3(parts, _) | Kind::Memory(parts, _) => {
                let at = self.parts_location(id, upload);
                multipart::abort(self, &**parts, &at, upload).await
            }
        }
    }

    fn part_size(&self, part: u32) -> usize {
        part_size(part)
    }

    fn max_size(&self) -> u64 {
        match &self.kind {
            Kind::S3(..) => (0..MAX_PARTS).map(|part| part_size(part) as u64).sum(),
            _ => i64::MAX.unsigned_abs(),
        }
    }

    async fn get(&self, id: &BlobId, range: Option<Range<u64>>) -> Result<Outgoing, BlobError> {
        let failed = |error: object_store::Error| BlobError::of(BlobOperation::Read, &error);
        let options = GetOptions { range: range.map(GetRange::Bounded), ..GetOptions::default() };
        let result = self.store.get_opts(&self.location(id), options).await.map_err(failed)?;
        Ok(stream_of(result).await.map_err(failed)?.map_err(failed).boxed())
    }

    async fn delete(&self, id: &BlobId) -> Result<(), BlobError> {
        match self.store.delete(&self.location(id)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(BlobError::of(BlobOperation::Delete, &error)),
        }
    }

    fn list(&self) -> Listing {
        let failed = |error: object_store::Error| BlobError::of(BlobOperation::Read, &error);
        if let Kind::Directory(directory, _) = &self.kind {
            // The library omits leftovers of killed writes.
            let listed = files::list(directory.clone());
            return futures::stream::once(listed)
                .map_ok(|objects| futures::stream::iter(objects).map(Ok))
                .try_flatten()
                .boxed();
        }
        let prefix = self.prefix.clone();
        let listed =
            self.store.list(Some(&self.prefix).filter(|prefix| !prefix.as_ref().is_empty()));
        listed
            .map_err(failed)
            .try_filter_map(move |object| {
                let name = object.location.prefix_match(&prefix).map(|rest| {
                    rest.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/")
                });
                let modified = object.last_modified.timestamp_millis();
                let found = name.map(|name| Object { name, size: object.size, modified });
                std::future::ready(Ok(found))
            })
            .boxed()
    }

    fn list_temporary(&self) -> Listing {
        let Kind::S3(_, s3) = &self.kind else {
            let temporary = |object: &Object| std::future::ready(key::is_temporary(&object.name));
            return self.list().try_filter(temporary).boxed();
        };
        let start = if self.prefix.as_ref().is_empty() {
            String::new()
        } else {
            format!("{}/", self.prefix)
        };
        let pages = (s3.pages.clone(), start, Some(PaginatedListOptions::default()));
        futures::stream::try_unfold(pages, |(pages, start, options)| async move {
            let Some(options) = options else { return Ok(None) };
            let prefix = format!("{start}{}", key::TEMPORARY);
            let page = pages.list_paginated(Some(&prefix), options).await.map_err(read)?;
            let objects: Vec<_> = page
                .result
                .objects
                .into_iter()
                .filter_map(|object| {
                    let name = object.location.as_ref().strip_prefix(&start)?.to_owned();
                    let modified = object.last_modified.timestamp_millis();
                    Some(Ok(Object { name, size: object.size, modified }))
                })
                .collect();
            let next = page.page_token.map(|token| PaginatedListOptions {
                page_token: Some(token),
                ..PaginatedListOptions::default()
            });
            Ok(Some((futures::stream::iter(objects), (pages, start, next))))
        })
        .try_flatten()
        .boxed()
    }

    async fn remove(&self, name: &str) -> Result<(), BlobError> {
        if let Kind::Directory(directory, _) = &self.kind {
            return files::remove(directory, name).await;
        }
        let location = name.split('/').fold(self.prefix.clone(), |path, part| path.join(part));
        match self.store.delete(&location).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(BlobError::of(BlobOperation::Delete, &error)),
        }
    }

    async fn probe(&self) -> Result<(), BlobError> {
        let location = self.temporary();
        let written = Bytes::from_static(b"vfs-sync probe");
        self.store.put(&location, written.clone().into()).await.map_err(persist)?;
        let read = async { self.store.get(&location).await?.bytes().await }.await;
        let learnt = match &self.kind {
            Kind::S3(parts, s3) => self.learn(&location, &**parts, s3).await,
            _ => Ok(()),
        };
        let deleted = self.store.delete(&location).await;
        let read = read.map_err(|error| BlobError::of(BlobOperation::Read, &error))?;
        deleted.map_err(|error| BlobError::of(BlobOperation::Delete, &error))?;
        learnt?;
        if read == written {
            Ok(())
        } else {
            Err(BlobError::new(
                BlobOperation::Read,
                "InternalError",
                "a probe returned other bytes",
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_bounded_size_come_to_a_terabyte() {
        let store = ObjectBlobs::memory();
        assert_eq!(store.part_size(0), PART);
        assert_eq!(store.part_size(MAX_PARTS), LARGEST_PART);
        let total: u64 = (0..MAX_PARTS).map(|part| part_size(part) as u64).sum();
        assert!(total > 850 << 30, "{total}");
    }
}
