//! Multipart uploads in a store that supports them. A tail, which is too small for a part, becomes
//! an object of its own under a new name each time, so that a late write changes nothing.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt as _;
use object_store::ObjectStoreExt as _;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use sha2::{Digest as _, Sha256};
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::id::BlobId;

use crate::error::refusal;
use crate::{BlobError, BlobOperation, ObjectBlobs, PutError, Stored, Upload, key};

/// The number of hexadecimal digits of a tail's digest in its name.
const TAIL_DIGITS: usize = 32;

fn persist(error: object_store::Error) -> BlobError {
    BlobError::of(BlobOperation::Persist, &error)
}

/// Begins a multipart upload. Its name consists of our name for its tails and the store's name.
pub(crate) async fn begin(
    parts: &dyn MultipartStore,
    at: &Path,
    ours: &str,
) -> Result<String, BlobError> {
    let id = parts.create_multipart(at).await.map_err(persist)?;
    Ok(format!("{ours} {id}"))
}

/// Splits an upload's name into its two parts.
fn names(upload: &str) -> Result<(&str, &str), BlobError> {
    upload.split_once(' ').filter(|(ours, _)| key::is_temporary(ours)).ok_or_else(|| {
        BlobError::new(BlobOperation::Persist, "NoSuchUpload", "the upload has an invalid name")
    })
}

/// Returns whether the error says that the upload does not exist: it was completed or aborted.
fn is_gone(blobs: &ObjectBlobs, error: &object_store::Error) -> bool {
    match refusal(error) {
        Some(refusal) => refusal.code == "NoSuchUpload",
        // The store in memory fails for no other reason.
        None => blobs.is_memory() || matches!(error, object_store::Error::NotFound { .. }),
    }
}

pub(crate) async fn abort(
    blobs: &ObjectBlobs,
    parts: &dyn MultipartStore,
    at: &Path,
    upload: &str,
) -> Result<(), BlobError> {
    let failed = |error: object_store::Error| BlobError::of(BlobOperation::Delete, &error);
    let (ours, theirs) = names(upload)?;
    match parts.abort_multipart(at, &theirs.to_owned()).await {
        Err(error) if !is_gone(blobs, &error) => return Err(failed(error)),
        _ => {}
    }
    let tails = blobs.prefix.clone().join(ours);
    let mut listed = blobs.store.list(Some(&tails));
    while let Some(tail) = listed.try_next().await.map_err(failed)? {
        match blobs.store.delete(&tail.location).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(())
}

pub(crate) struct PartsUpload {
    pub(crate) blobs: ObjectBlobs,
    pub(crate) parts: Arc<dyn MultipartStore>,
    pub(crate) id: BlobId,
    /// The location where the parts are joined.
    pub(crate) at: Path,
    pub(crate) upload: String,
}

impl PartsUpload {
    fn tail(&self, name: &str) -> Result<Path, BlobError> {
        let (ours, _) = names(&self.upload)?;
        Ok(self.blobs.prefix.clone().join(ours).join(name))
    }
}

#[async_trait]
impl Upload for PartsUpload {
    async fn write_part(&self, number: u32, _: u64, bytes: Bytes) -> Result<String, BlobError> {
        let (_, theirs) = names(&self.upload)?;
        let number = number as usize;
        let part = self.parts.put_part(&self.at, &theirs.to_owned(), number, bytes.into()).await;
        Ok(part.map_err(persist)?.content_id)
    }

    async fn write_tail(&self, start: u64, tail: Bytes) -> Result<String, BlobError> {
        if tail.is_empty() {
            return Ok(String::new());
        }
        let digest = Sha256Digest(Sha256::digest(&tail).into()).to_string();
        let name = format!("{start}-{}-{}", tail.len(), &digest[..TAIL_DIGITS]);
        self.blobs.store.put(&self.tail(&name)?, tail.into()).await.map_err(persist)?;
        Ok(name)
    }

    async fn read_tail(&self, name: &str, _: u64, length: usize) -> Result<Bytes, BlobError> {
        if length == 0 {
            return Ok(Bytes::new());
        }
        let failed = |error: object_store::Error| BlobError::of(BlobOperation::Read, &error);
        let read = self.blobs.store.get(&self.tail(name)?).await.map_err(failed)?;
        let tail = read.bytes().await.map_err(failed)?;
        let digest = Sha256Digest(Sha256::digest(&tail).into()).to_string();
        if tail.len() == length && name.ends_with(&digest[..TAIL_DIGITS]) {
            return Ok(tail);
        }
        Err(BlobError::new(BlobOperation::Read, "InternalError", "the tail of an upload changed"))
    }

    async fn finish(&self, parts: Vec<String>, stored: Stored) -> Result<(), PutError> {
        let (_, theirs) = names(&self.upload)?;
        if !self.blobs.conditional_finish() && self.blobs.is_there(&self.id).await? {
            return self.blobs.must_be(&self.id, stored).await;
        }
        let parts = parts.into_iter().map(|content_id| PartId { content_id }).collect();
        let finished = self.parts.complete_multipart(&self.at, &theirs.to_owned(), parts).await;
        match finished {
            Ok(_) => self.blobs.put_in_place(&self.at, &self.id, stored).await,
            Err(error) if self.blobs.is_refused(&error) || is_gone(&self.blobs, &error) => {
                match self.blobs.must_be(&self.id, stored).await {
                    // It was aborted: the written parts are gone with it.
                    Err(PutError::Store(missing)) if missing.storage_code == "NoSuchKey" => {
                        Err(persist(error).into())
                    }
                    compared => compared,
                }
            }
            Err(error) => Err(persist(error).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::BlobStore as _;

    use super::*;

    #[tokio::test]
    async fn a_tail_that_changed_is_not_gone_on_with() {
        let blobs = ObjectBlobs::memory();
        let id = BlobId::new("b").unwrap();
        let handle = blobs.begin(&id).await.unwrap();
        let upload = blobs.take_up(&id, &handle).await.unwrap();
        let name = upload.write_tail(0, Bytes::from_static(b"tail")).await.unwrap();
        assert_eq!(upload.read_tail(&name, 0, 4).await.unwrap(), "tail");
        let mut listed = blobs.list_temporary();
        let tail = listed.try_next().await.unwrap().unwrap();
        for changed in ["tall", "tails", ""] {
            let at = tail.name.split('/').fold(blobs.prefix.clone(), |path, part| path.join(part));
            blobs.store.put(&at, changed.into()).await.unwrap();
            let error = upload.read_tail(&name, 0, 4).await.unwrap_err();
            assert_eq!(error.storage_code, "InternalError", "{changed:?}");
        }
    }
}
