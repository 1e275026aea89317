//! [`BlobStore`] over the `object_store` library.

use std::ops::Range;
use std::path::Path as FsPath;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, GetResultPayload, ObjectStore, ObjectStoreExt as _, PutMode,
    WriteMultipart,
};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::id::BlobId;

use crate::{
    BlobError, BlobOperation, BlobStore, Expected, Incoming, Outgoing, PutError, Stored, key,
};

/// Blobs in an object store, under a prefix.
#[derive(Debug, Clone)]
pub struct ObjectBlobs {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    /// What is no longer than this is written in one request, the rest in parts of this size.
    part_size: usize,
}

/// Parts on their way to the store at one time; memory is bounded by so many.
const PARTS_IN_FLIGHT: usize = 2;
/// A directory's parts may be of any size.
const DIRECTORY_PART: usize = 1024 * 1024;
/// Bytes that a read from a directory takes at a time.
const READ_CHUNK: usize = 128 * 1024;

impl ObjectBlobs {
    /// Blobs in a directory, which is made if it is not there. Every write is flushed to the disk
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
        let made = builder.create(path).map_err(|source| object_store::Error::Generic {
            store: "directory",
            source: Box::new(source),
        });
        let store = made
            .and_then(|()| LocalFileSystem::new_with_prefix(path))
            .map_err(|error| BlobError::of(BlobOperation::Persist, &error))?;
        Ok(Self::over(Arc::new(store.with_fsync(true)), Path::default(), DIRECTORY_PART))
    }

    /// Blobs in memory, gone with the process.
    #[must_use]
    pub fn memory() -> Self {
        Self::over(Arc::new(InMemory::new()), Path::default(), DIRECTORY_PART)
    }

    fn over(store: Arc<dyn ObjectStore>, prefix: Path, part_size: usize) -> Self {
        Self { store, prefix, part_size }
    }

    fn location(&self, id: &BlobId) -> Path {
        self.prefix.clone().join(key::object_name(id))
    }

    fn temporary(&self) -> Path {
        self.prefix.clone().join(key::temporary_name())
    }

    /// Writes what fits in one part, if nothing is there yet.
    async fn put_whole(&self, location: &Path, bytes: Bytes) -> Result<(), object_store::Error> {
        self.store.put_opts(location, bytes.into(), PutMode::Create.into()).await.map(drop)
    }

    /// Writes parts beside the blob's place and moves them there, if nothing is there yet: the
    /// end of an upload in parts overwrites, a move need not.
    async fn put_parts(
        &self,
        location: &Path,
        head: Bytes,
        bytes: &mut Measured,
    ) -> Result<(), PutError> {
        let temporary = self.temporary();
        let upload = self.store.put_multipart(&temporary).await.map_err(persist)?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, self.part_size);
        upload.put(head);
        let received = loop {
            match bytes.next().await {
                Ok(Some(chunk)) => upload.put(chunk),
                Ok(None) => break bytes.verify(),
                Err(error) => break Err(error),
            }
            if let Err(error) = upload.wait_for_capacity(PARTS_IN_FLIGHT).await {
                break Err(persist(error).into());
            }
        };
        if let Err(error) = received {
            if let Err(abort) = upload.abort().await {
                tracing::warn!(error = %abort, "an upload could not be aborted");
            }
            return Err(error);
        }
        upload.finish().await.map_err(persist)?;
        match self.store.rename_if_not_exists(&temporary, location).await {
            Ok(()) => Ok(()),
            Err(object_store::Error::AlreadyExists { .. }) => {
                self.store.delete(&temporary).await.map_err(persist)?;
                self.must_be(location, bytes.stored()).await
            }
            Err(error) => {
                let _ = self.store.delete(&temporary).await;
                Err(persist(error).into())
            }
        }
    }

    /// The bytes that are there already must be the same.
    async fn must_be(&self, location: &Path, stored: Stored) -> Result<(), PutError> {
        let there = self.store.get(location).await.map_err(persist)?;
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
}

fn persist(error: object_store::Error) -> BlobError {
    BlobError::of(BlobOperation::Persist, &error)
}

/// Incoming bytes, counted and hashed as they pass.
struct Measured {
    bytes: Incoming,
    expected: Expected,
    size: u64,
    hash: Sha256,
}

impl Measured {
    async fn next(&mut self) -> Result<Option<Bytes>, PutError> {
        let Some(chunk) = self.bytes.try_next().await.map_err(PutError::Source)? else {
            return Ok(None);
        };
        self.size += chunk.len() as u64;
        if self.size > self.expected.max_size {
            return Err(PutError::TooLarge { max_size: self.expected.max_size });
        }
        self.hash.update(&chunk);
        Ok(Some(chunk))
    }

    /// To be asked once all bytes have passed.
    fn stored(&self) -> Stored {
        Stored { size: self.size, digest: Sha256Digest(self.hash.clone().finalize().into()) }
    }

    fn verify(&self) -> Result<(), PutError> {
        let actual = self.stored().digest;
        match self.expected.digest {
            Some(expected) if expected != actual => {
                Err(PutError::DigestMismatch { expected, actual })
            }
            _ => Ok(()),
        }
    }
}

type Chunks = futures::stream::BoxStream<'static, Result<Bytes, object_store::Error>>;

/// A read's bytes. The library reads files in small chunks, each a hop to another thread.
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
    async fn put(
        &self,
        id: &BlobId,
        bytes: Incoming,
        expected: Expected,
    ) -> Result<Stored, PutError> {
        let location = self.location(id);
        let mut bytes = Measured { bytes, expected, size: 0, hash: Sha256::new() };
        let mut head = BytesMut::new();
        while let Some(chunk) = bytes.next().await? {
            if head.len() + chunk.len() > self.part_size {
                head.extend_from_slice(&chunk);
                self.put_parts(&location, head.freeze(), &mut bytes).await?;
                return Ok(bytes.stored());
            }
            head.extend_from_slice(&chunk);
        }
        bytes.verify()?;
        match self.put_whole(&location, head.freeze()).await {
            Ok(()) => {}
            Err(object_store::Error::AlreadyExists { .. }) => {
                self.must_be(&location, bytes.stored()).await?;
            }
            Err(error) => return Err(persist(error).into()),
        }
        Ok(bytes.stored())
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

    async fn probe(&self) -> Result<(), BlobError> {
        let location = self.temporary();
        let written = Bytes::from_static(b"vfs-sync probe");
        self.put_whole(&location, written.clone()).await.map_err(persist)?;
        let read = async { self.store.get(&location).await?.bytes().await }.await;
        let deleted = self.store.delete(&location).await;
        let read = read.map_err(|error| BlobError::of(BlobOperation::Read, &error))?;
        deleted.map_err(|error| BlobError::of(BlobOperation::Delete, &error))?;
        if read == written {
            Ok(())
        } else {
            Err(BlobError::new(BlobOperation::Read, "InternalError", "a probe came back changed"))
        }
    }
}
