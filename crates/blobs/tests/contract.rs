//! What every object store must hold, run against the directory and against memory.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt as _;
use sha2::{Digest as _, Sha256};
use vfs_sync_blobs::{
    BlobStore, Expected, Incoming, ObjectBlobs, PutError, SourceError, Stored, incoming,
};
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::id::BlobId;

const ANY: Expected = Expected { max_size: u64::MAX, digest: None };
/// Several parts.
const LARGE: usize = 3 * 1024 * 1024 + 17;

struct Scene {
    store: Arc<dyn BlobStore>,
    directory: Option<tempfile::TempDir>,
}

impl Scene {
    fn all() -> [Self; 2] {
        let directory = tempfile::tempdir().unwrap();
        let blobs = ObjectBlobs::directory(directory.path().join("blobs")).unwrap();
        [
            Self { store: Arc::new(blobs), directory: Some(directory) },
            Self { store: Arc::new(ObjectBlobs::memory()), directory: None },
        ]
    }

    async fn put(&self, id: &str, bytes: &[u8]) -> Result<Stored, PutError> {
        self.store.put(&blob(id), chunks(bytes), ANY).await
    }

    async fn read(&self, id: &str) -> Vec<u8> {
        let chunks: Vec<Bytes> =
            self.store.get(&blob(id), None).await.unwrap().try_collect().await.unwrap();
        chunks.concat()
    }

    async fn is_missing(&self, id: &str) -> bool {
        match self.store.get(&blob(id), None).await {
            Ok(_) => false,
            Err(error) => {
                assert_eq!((&*error.storage_code, error.retryable), ("NoSuchKey", false));
                true
            }
        }
    }

    /// Everything in the directory, its surroundings included.
    fn files(&self) -> Option<Vec<String>> {
        let root = self.directory.as_ref()?.path();
        let mut files = Vec::new();
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
                if entry.file_type().unwrap().is_dir() {
                    folders.push(entry.path());
                } else {
                    let path = entry.path();
                    files.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        files.sort();
        Some(files)
    }

    fn assert_files(&self, expected: &[&str]) {
        if let Some(files) = self.files() {
            assert_eq!(files, expected);
        }
    }
}

fn blob(id: &str) -> BlobId {
    BlobId::new(id).unwrap()
}

fn digest(bytes: &[u8]) -> Sha256Digest {
    Sha256Digest(Sha256::digest(bytes).into())
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

fn chunks(bytes: &[u8]) -> Incoming {
    let chunks: Vec<_> =
        bytes.chunks(70_000).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
    Box::pin(futures::stream::iter(chunks))
}

/// Bytes that break off.
fn broken(bytes: &[u8]) -> Incoming {
    let mut chunks: Vec<Result<Bytes, SourceError>> =
        bytes.chunks(70_000).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
    chunks.push(Err("the connection is gone".into()));
    Box::pin(futures::stream::iter(chunks))
}

#[tokio::test]
async fn what_is_stored_is_read_whole_and_in_ranges() {
    for scene in Scene::all() {
        for (id, length) in [("empty", 0), ("small", 10), ("large", LARGE)] {
            let bytes = pattern(length);
            let stored = scene.put(id, &bytes).await.unwrap();
            assert_eq!(stored, Stored { size: length as u64, digest: digest(&bytes) });
            assert_eq!(scene.read(id).await, bytes);
        }
        let part = scene.store.get(&blob("large"), Some(1_000_000..1_000_010)).await.unwrap();
        let part: Vec<Bytes> = part.try_collect().await.unwrap();
        assert_eq!(part.concat(), pattern(LARGE)[1_000_000..1_000_010]);
    }
}

#[tokio::test]
async fn bytes_that_are_there_never_change() {
    for scene in Scene::all() {
        for length in [10, LARGE] {
            let (id, bytes) = (format!("b{length}"), pattern(length));
            let first = scene.put(&id, &bytes).await.unwrap();
            assert_eq!(scene.put(&id, &bytes).await.unwrap(), first, "the same again is fine");
            let mut other = bytes.clone();
            other[length / 2] ^= 1;
            for other in [&other[..], &bytes[..length - 1], &pattern(LARGE + 1)[..], b""] {
                let refused = scene.put(&id, other).await.unwrap_err();
                assert!(matches!(refused, PutError::Differs), "{refused}");
            }
            assert_eq!(scene.read(&id).await, bytes);
        }
        scene.assert_files(&["blobs/b10", "blobs/b3145745"]);
    }
}

#[tokio::test]
async fn a_put_that_fails_leaves_nothing_behind() {
    for scene in Scene::all() {
        for length in [10, LARGE] {
            let bytes = pattern(length);
            let id = blob("b");
            let put = |bytes, expected| scene.store.put(&id, bytes, expected);

            let mismatch = Expected { digest: Some(digest(b"other")), ..ANY };
            let error = put(chunks(&bytes), mismatch).await.unwrap_err();
            assert!(
                matches!(error, PutError::DigestMismatch { actual, .. } if actual == digest(&bytes))
            );
            let short = Expected { max_size: length as u64 - 1, digest: None };
            let error = put(chunks(&bytes), short).await.unwrap_err();
            assert!(matches!(error, PutError::TooLarge { .. }));
            let error = put(broken(&bytes), ANY).await.unwrap_err();
            assert!(matches!(error, PutError::Source(_)));

            assert!(scene.is_missing("b").await);
            scene.assert_files(&[]);
        }
    }
}

#[tokio::test]
async fn the_digest_that_was_named_is_the_digest_of_what_is_stored() {
    for scene in Scene::all() {
        for length in [0, 10, LARGE] {
            let bytes = pattern(length);
            let expected = Expected { max_size: length as u64, digest: Some(digest(&bytes)) };
            let id = blob(&format!("b{length}"));
            assert_eq!(
                scene.store.put(&id, chunks(&bytes), expected).await.unwrap().digest,
                digest(&bytes)
            );
        }
    }
}

#[tokio::test]
async fn of_two_different_puts_at_the_same_time_one_wins() {
    for scene in Scene::all() {
        for length in [10, LARGE] {
            let id = format!("b{length}");
            let (one, mut other) = (pattern(length), pattern(length));
            other[0] ^= 1;
            let (first, second) = tokio::join!(scene.put(&id, &one), scene.put(&id, &other));
            assert!(first.is_ok() != second.is_ok(), "{first:?} {second:?}");
            let kept = scene.read(&id).await;
            assert_eq!(kept, if first.is_ok() { one } else { other });
        }
    }
}

#[tokio::test]
async fn deleting_is_repeatable() {
    for scene in Scene::all() {
        scene.put("b", b"bytes").await.unwrap();
        scene.store.delete(&blob("b")).await.unwrap();
        assert!(scene.is_missing("b").await);
        scene.store.delete(&blob("b")).await.unwrap();
        scene.store.delete(&blob("never was")).await.unwrap();
        scene.assert_files(&[]);
    }
}

#[tokio::test]
async fn no_id_leaves_the_store_or_meets_another() {
    let long = "é".repeat(64);
    let other_long = format!("{}e", "é".repeat(63));
    let ids = [
        "a",
        "A",
        "_41",
        "..",
        ".",
        "../b",
        "/etc/passwd",
        "a/b",
        "a\\b",
        "a%2fb",
        "a:b",
        "~",
        "a#1",
        "~root",
        "con",
        &long,
        &other_long,
    ];
    for scene in Scene::all() {
        for id in ids {
            scene.put(id, id.as_bytes()).await.unwrap();
        }
        for id in ids {
            assert_eq!(scene.read(id).await, id.as_bytes(), "{id}");
        }
        if let Some(files) = scene.files() {
            assert_eq!(files.len(), ids.len());
            for file in files {
                let name = file.strip_prefix("blobs/").expect("inside the store");
                assert!(!name.contains(['/', '\\', '.']), "{name}");
                assert_eq!(name, name.to_lowercase());
            }
        }
    }
}

#[tokio::test]
async fn a_probe_leaves_nothing_behind() {
    for scene in Scene::all() {
        scene.store.probe().await.unwrap();
        scene.assert_files(&[]);
    }
}

#[tokio::test]
async fn a_directory_that_is_a_file_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    std::fs::write(&path, "").unwrap();
    assert!(ObjectBlobs::directory(&path).is_err());
}

#[tokio::test]
async fn bytes_in_memory_are_put_as_they_are() {
    let store = ObjectBlobs::memory();
    let stored = store.put(&blob("b"), incoming(Bytes::from_static(b"x")), ANY).await.unwrap();
    assert_eq!(stored.size, 1);
}
