//! The contract of every object store, run against S3, the directory and memory.

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt as _;
use sha2::{Digest as _, Sha256};
use vfs_sync_blobs::testing::new_s3_place;
use vfs_sync_blobs::{BlobStore, ObjectBlobs, PutError, Stored, Upload, key, part_start};
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::id::BlobId;

struct Scene {
    name: &'static str,
    store: Arc<dyn BlobStore>,
    directory: Option<tempfile::TempDir>,
}

impl Scene {
    fn directory() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let blobs = ObjectBlobs::directory(directory.path().join("blobs")).unwrap();
        Self { name: "directory", store: Arc::new(blobs), directory: Some(directory) }
    }

    async fn s3() -> Self {
        let blobs = ObjectBlobs::s3(&new_s3_place().await.unwrap()).unwrap();
        blobs.probe().await.unwrap();
        Self { name: "S3", store: Arc::new(blobs), directory: None }
    }

    fn memory() -> Self {
        Self { name: "memory", store: Arc::new(ObjectBlobs::memory()), directory: None }
    }

    async fn put(&self, id: &str, bytes: &[u8]) -> Result<(), PutError> {
        self.store.put(&blob(id), Bytes::copy_from_slice(bytes)).await
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

    async fn begin(&self, id: &str) -> Part<'_> {
        let upload = self.store.begin(&blob(id)).await.unwrap();
        self.take_up(id, upload).await
    }

    async fn take_up(&self, id: &str, upload: String) -> Part<'_> {
        let writer = self.store.take_up(&blob(id), &upload).await.unwrap();
        Part { scene: self, upload, writer, parts: Vec::new() }
    }

    async fn names(&self) -> Vec<String> {
        let objects: Vec<_> = self.store.list().try_collect().await.unwrap();
        let mut names: Vec<String> = objects.into_iter().map(|object| object.name).collect();
        names.sort();
        names
    }

    async fn assert_names(&self, expected: &[&str]) {
        let mut expected: Vec<String> =
            expected.iter().map(|id| key::object_name(&blob(id))).collect();
        expected.sort();
        assert_eq!(self.names().await, expected, "{}", self.name);
    }
}

/// An upload under way.
struct Part<'s> {
    scene: &'s Scene,
    upload: String,
    writer: Box<dyn Upload>,
    parts: Vec<String>,
}

impl Part<'_> {
    /// Writes all full parts of `bytes`; gives where the tail begins.
    async fn write_full_parts(&mut self, bytes: &[u8]) -> usize {
        let mut number = 0;
        loop {
            let start = part_start(&*self.scene.store, number);
            let (at, size) = (usize::try_from(start).unwrap(), self.scene.store.part_size(number));
            if at + size > bytes.len() {
                return at;
            }
            let part = Bytes::copy_from_slice(&bytes[at..at + size]);
            let tag = self.writer.write_part(number, start, part).await.unwrap();
            self.parts.push(tag);
            number += 1;
        }
    }

    /// Writes the last part, and makes the blob.
    async fn finish(&mut self, bytes: &[u8], tail: usize) -> Result<(), PutError> {
        if tail < bytes.len() {
            let number = u32::try_from(self.parts.len()).unwrap();
            let last = Bytes::copy_from_slice(&bytes[tail..]);
            let tag = self.writer.write_part(number, tail as u64, last).await?;
            self.parts.push(tag);
        }
        self.writer.finish(self.parts.clone(), stored(bytes)).await
    }

    async fn write_all(&mut self, bytes: &[u8]) -> Result<(), PutError> {
        let tail = self.write_full_parts(bytes).await;
        self.finish(bytes, tail).await
    }
}

fn blob(id: &str) -> BlobId {
    BlobId::new(id).unwrap()
}

fn stored(bytes: &[u8]) -> Stored {
    Stored { size: bytes.len() as u64, digest: Sha256Digest(Sha256::digest(bytes).into()) }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

/// Two parts and some.
fn large() -> Vec<u8> {
    pattern(2 * 8 * 1024 * 1024 + 17)
}

/// A test of each listed behaviour for each object store.
macro_rules! contract {
    ($($behaviour:ident)*) => {
        mod directory { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $behaviour() {
                super::$behaviour(super::Scene::directory()).await;
            }
        )* }
        mod memory { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $behaviour() {
                super::$behaviour(super::Scene::memory()).await;
            }
        )* }
        mod s3 { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            #[ignore = "needs an S3 server"]
            async fn $behaviour() {
                super::$behaviour(super::Scene::s3().await).await;
            }
        )* }
    };
}

contract! {
    what_is_stored_is_read_whole_and_in_ranges
    bytes_that_are_there_never_change
    parts_that_are_written_at_the_same_time_each_come_to_their_place
    an_upload_goes_on_where_it_was_left
    an_upload_that_is_aborted_leaves_nothing_and_takes_nothing
    what_is_temporary_is_told_apart
    of_two_different_writes_at_the_same_time_one_wins
    deleting_is_repeatable
    no_id_leaves_the_store_or_meets_another
    a_probe_leaves_nothing_behind
    many_blobs_are_put_and_read_together_each_with_its_own_outcome
}

async fn what_is_stored_is_read_whole_and_in_ranges(scene: Scene) {
    for (id, length) in [("empty", 0), ("small", 10)] {
        scene.put(id, &pattern(length)).await.unwrap();
        assert_eq!(scene.read(id).await, pattern(length));
    }
    let bytes = large();
    scene.begin("large").await.write_all(&bytes).await.unwrap();
    assert!(scene.read("large").await == bytes, "{}", scene.name);
    let part = scene.store.get(&blob("large"), Some(9_000_000..9_000_010)).await.unwrap();
    let part: Vec<Bytes> = part.try_collect().await.unwrap();
    assert_eq!(part.concat(), bytes[9_000_000..9_000_010]);
    scene.assert_names(&["empty", "large", "small"]).await;
}

async fn bytes_that_are_there_never_change(scene: Scene) {
    let bytes = pattern(1_000);
    scene.put("b", &bytes).await.unwrap();
    scene.put("b", &bytes).await.unwrap();
    scene.begin("b").await.write_all(&bytes).await.unwrap();
    let mut other = bytes.clone();
    other[500] ^= 1;
    for other in [&other[..], &bytes[..999], b""] {
        let refused = scene.put("b", other).await.unwrap_err();
        assert!(matches!(refused, PutError::Differs), "{}: {refused}", scene.name);
    }
    let mut upload = scene.begin("b").await;
    let refused = upload.write_all(&other).await.unwrap_err();
    assert!(matches!(refused, PutError::Differs), "{}: {refused}", scene.name);
    assert_eq!(scene.read("b").await, bytes);
    let upload = upload.upload.clone();
    scene.store.abort(&blob("b"), &upload).await.unwrap();
    scene.assert_names(&["b"]).await;
}

/// A server has several parts of an upload on their way to the store at one time.
async fn parts_that_are_written_at_the_same_time_each_come_to_their_place(scene: Scene) {
    let part = scene.store.part_size(0);
    let bytes: Vec<u8> = (0..4u8).flat_map(|number| vec![number; part]).collect();
    for round in 0..4 {
        let id = format!("b{round}");
        let mut upload = scene.begin(&id).await;
        let writes = bytes.chunks(part).zip(0..).map(|(part, number)| {
            let start = part_start(&*scene.store, number);
            upload.writer.write_part(number, start, Bytes::copy_from_slice(part))
        });
        let parts = futures::future::try_join_all(writes).await.unwrap();
        upload.parts = parts;
        upload.finish(&bytes, bytes.len()).await.unwrap();
        drop(upload);
        assert!(scene.read(&id).await == bytes, "{}", scene.name);
    }
}

async fn an_upload_goes_on_where_it_was_left(scene: Scene) {
    let bytes = large();
    let mut upload = scene.begin("b").await;
    let start = upload.write_full_parts(&bytes).await;
    let tail = |length: usize| Bytes::copy_from_slice(&bytes[start..start + length]);
    let (name, parts) = (upload.upload.clone(), upload.parts.clone());
    let short = upload.writer.write_tail(start as u64, tail(5)).await.unwrap();
    let longer = upload.writer.write_tail(start as u64, tail(11)).await.unwrap();
    drop(upload);

    let mut upload = scene.take_up("b", name.clone()).await;
    for (name, length) in [(&short, 5), (&longer, 11)] {
        let read = upload.writer.read_tail(name, start as u64, length).await.unwrap();
        assert_eq!(read, tail(length), "{}", scene.name);
    }
    upload.parts = parts;
    upload.finish(&bytes, start).await.unwrap();
    let parts = upload.parts.clone();
    drop(upload);
    assert!(scene.read("b").await == bytes);

    let again = scene.take_up("b", name.clone()).await;
    again.writer.finish(parts, stored(&bytes)).await.unwrap();
    drop(again);
    scene.store.abort(&blob("b"), &name).await.unwrap();
    scene.store.abort(&blob("b"), &name).await.unwrap();
    scene.assert_names(&["b"]).await;
    assert!(scene.read("b").await == bytes, "aborting what is finished changes nothing");
}

async fn an_upload_that_is_aborted_leaves_nothing_and_takes_nothing(scene: Scene) {
    let mut upload = scene.begin("b").await;
    let bytes = pattern(8 * 1024 * 1024 + 5);
    let start = upload.write_full_parts(&bytes).await;
    let tail = Bytes::copy_from_slice(&bytes[start..]);
    upload.writer.write_tail(start as u64, tail.clone()).await.unwrap();
    let name = upload.upload.clone();
    scene.store.abort(&blob("b"), &name).await.unwrap();
    if scene.name != "directory" {
        upload.finish(&bytes, start).await.unwrap_err();
    }
    drop(upload);
    let late = scene.take_up("b", name.clone()).await;
    late.writer.write_part(0, 0, tail).await.unwrap_err();
    late.writer.finish(Vec::new(), stored(&bytes)).await.unwrap_err();
    scene.assert_names(&[]).await;
    assert!(scene.is_missing("b").await);
}

async fn what_is_temporary_is_told_apart(scene: Scene) {
    for id in ["_t", "a#1", "~"] {
        scene.put(id, b"bytes").await.unwrap();
    }
    let temporary = async || -> Vec<String> {
        let listed: Vec<_> = scene.store.list_temporary().try_collect().await.unwrap();
        listed.into_iter().map(|object| object.name).collect()
    };
    assert_eq!(temporary().await, [""; 0], "{}", scene.name);
    let upload = scene.begin("b").await;
    upload.writer.write_tail(0, Bytes::from_static(b"tail")).await.unwrap();
    let found = temporary().await;
    assert_eq!(found.len(), 1, "{}", scene.name);
    assert!(key::is_temporary(&found[0]));
    scene.store.remove(&found[0]).await.unwrap();
    assert_eq!(temporary().await, [""; 0]);
    scene.assert_names(&["_t", "a#1", "~"]).await;
}

async fn of_two_different_writes_at_the_same_time_one_wins(scene: Scene) {
    for round in 0..5 {
        let id = format!("b{round}");
        let (one, mut other) = (pattern(1_000), pattern(1_000));
        other[0] ^= 1;
        let (first, second) = tokio::join!(scene.put(&id, &one), scene.put(&id, &other));
        assert!(first.is_ok() != second.is_ok(), "{}: {first:?} {second:?}", scene.name);
        assert_eq!(scene.read(&id).await, if first.is_ok() { &one } else { &other }[..]);

        // Not every S3 decides between two ends of uploads: the registry's lease does.
        if scene.name == "S3" {
            continue;
        }
        let id = format!("c{round}");
        let (mut upload, mut rival) = (scene.begin(&id).await, scene.begin(&id).await);
        let (first, second) = tokio::join!(upload.write_all(&one), rival.write_all(&other));
        assert!(first.is_ok() != second.is_ok(), "{}: {first:?} {second:?}", scene.name);
        assert_eq!(scene.read(&id).await, if first.is_ok() { &one } else { &other }[..]);
    }
}

async fn deleting_is_repeatable(scene: Scene) {
    scene.put("b", b"bytes").await.unwrap();
    scene.store.delete(&blob("b")).await.unwrap();
    assert!(scene.is_missing("b").await);
    scene.store.delete(&blob("b")).await.unwrap();
    scene.store.delete(&blob("never was")).await.unwrap();
    scene.put("c", b"bytes").await.unwrap();
    scene.store.remove("c").await.unwrap();
    scene.store.remove("c").await.unwrap();
    scene.assert_names(&[]).await;
}

async fn no_id_leaves_the_store_or_meets_another(scene: Scene) {
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
    for id in ids {
        scene.put(id, id.as_bytes()).await.unwrap();
    }
    for id in ids {
        assert_eq!(scene.read(id).await, id.as_bytes(), "{id}");
    }
    let names = scene.names().await;
    assert_eq!(names.len(), ids.len());
    for name in names {
        assert!(!name.contains(['/', '\\', '.']), "{name}");
        assert_eq!(name, name.to_lowercase());
    }
    if let Some(directory) = &scene.directory {
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }
    for outside in ["../x", "/x", ".", ""] {
        if scene.directory.is_some() {
            scene.store.remove(outside).await.unwrap_err();
        }
    }
}

async fn a_probe_leaves_nothing_behind(scene: Scene) {
    scene.store.probe().await.unwrap();
    scene.assert_names(&[]).await;
}

#[tokio::test]
async fn a_directory_that_is_a_file_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    std::fs::write(&path, "").unwrap();
    assert!(ObjectBlobs::directory(&path).is_err());
}

#[tokio::test]
async fn one_at_a_time_writes_to_an_upload_in_a_directory() {
    let scene = Scene::directory();
    let mut upload = scene.begin("b").await;
    let name = upload.upload.clone();
    let waiting = scene.take_up("b", name);
    let finishing = async {
        upload.write_all(b"bytes").await.unwrap();
        drop(upload);
    };
    let (late, ()) = tokio::join!(waiting, finishing);
    // What it waited for is the blob now.
    let error = late.writer.write_part(0, 0, Bytes::from_static(b"other")).await.unwrap_err();
    assert_eq!(error.storage_code, "NoSuchUpload");
    assert_eq!(scene.read("b").await, b"bytes");
}

async fn many_blobs_are_put_and_read_together_each_with_its_own_outcome(scene: Scene) {
    let bytes = |at: usize| Bytes::from(format!("content {at}"));
    scene.put("b3", &bytes(3)).await.unwrap();
    scene.put("b5", b"other bytes").await.unwrap();
    let all: Vec<_> = (0..40).map(|at| (blob(&format!("b{at}")), bytes(at))).collect();
    let twice: Vec<_> = all.iter().chain(&all[..1]).cloned().collect();
    let outcomes = scene.store.put_many(twice).await;
    assert_eq!(outcomes.len(), 41);
    for (at, outcome) in outcomes.into_iter().enumerate() {
        match (at, outcome) {
            (5, Err(PutError::Differs)) => {}
            (at, outcome) => assert!(at != 5 && outcome.is_ok(), "{} {at}", scene.name),
        }
    }
    assert!(scene.store.put_many(Vec::new()).await.is_empty());
    let names: Vec<String> = (0..40).map(|at| format!("b{at}")).collect();
    scene.assert_names(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;

    let mut wanted: Vec<_> = all.iter().map(|(id, b)| (id.clone(), b.len() as u64)).collect();
    wanted[5].1 = 11;
    wanted[7].0 = blob("missing");
    wanted[9].1 += 1;
    wanted[11].1 -= 1;
    let read = scene.store.get_many(wanted).await;
    assert_eq!(read.len(), 40);
    for (at, read) in read.into_iter().enumerate() {
        match at {
            5 => assert_eq!(read.unwrap(), "other bytes"),
            7 => assert_eq!(read.unwrap_err().storage_code, "NoSuchKey", "{}", scene.name),
            9 | 11 => assert_eq!(read.unwrap_err().storage_code, "InternalError"),
            _ => assert_eq!(read.unwrap(), bytes(at), "{}", scene.name),
        }
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_directory_that_cannot_be_written_to_refuses_each_of_many_and_keeps_none() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blobs");
    let store = ObjectBlobs::directory(&path).unwrap();
    std::fs::remove_dir(&path).unwrap();
    let many = (0..20).map(|at| (blob(&format!("b{at}")), Bytes::from_static(b"bytes"))).collect();
    let outcomes = store.put_many(many).await;
    assert!(outcomes.len() == 20 && outcomes.iter().all(Result::is_err));
}
