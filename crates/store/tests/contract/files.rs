//! A database that is not the one any more that the store has open.

use std::path::Path;

use vfs_sync_store::sqlite::SqliteStore;
use vfs_sync_store::{MetadataStore, StoreError};

use super::scene::*;

fn with_suffix(path: &Path, suffix: &str) -> std::path::PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

fn is_unavailable<T>(answer: Result<T, StoreError>, says: &str) {
    match answer {
        Err(StoreError::Unavailable(text)) => assert!(text.contains(says), "{text}"),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("{says}: something was answered"),
    }
}

#[tokio::test]
async fn a_file_that_was_removed_or_replaced_answers_nothing() {
    for (what, says) in [
        ("all files", "removed"),
        ("the database", "removed"),
        ("the log", "removed"),
        ("another in its place", "replaced"),
        ("a copy of its own in its place", "replaced"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metadata.sqlite3");
        let store: &dyn MetadataStore = &SqliteStore::open(&path, at(0)).unwrap();
        let push = |n: u64| store.push(batch("alice", "laptop", vec![folder(n, "a")]), at(1));
        push(1).await.unwrap();
        let all = ["", "-wal", "-shm"];
        let gone: &[&str] = match what {
            "all files" => &all,
            "the log" => &["-wal"],
            _ => &[""],
        };
        let copy = std::fs::read(&path).unwrap();
        for suffix in gone {
            std::fs::remove_file(with_suffix(&path, suffix)).unwrap();
        }
        // The file that was there is open, so that a new one is another.
        match what {
            "another in its place" => std::fs::write(&path, "").unwrap(),
            "a copy of its own in its place" => std::fs::write(&path, copy).unwrap(),
            _ => {}
        }
        is_unavailable(store.ping().await, says);
        is_unavailable(push(2).await, says);
        is_unavailable(store.pull(&user("alice"), &from(None)).await, says);
        is_unavailable(store.state(&user("alice"), &replica("laptop")).await, says);
    }
}

#[tokio::test]
async fn each_start_begins_an_epoch_and_the_database_keeps_its_id() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("metadata.sqlite3");
    let (mut last, mut id) = (None, None);
    for n in 0..4 {
        let store: &dyn MetadataStore = &SqliteStore::open(&path, at(0)).unwrap();
        let identity = store.identity().await.unwrap();
        assert_eq!(identity.is_empty, n == 0);
        assert_eq!(*id.get_or_insert(identity.id.clone()), identity.id);
        let batch = batch("alice", "laptop", vec![folder(n + 1, &format!("f{n}"))]);
        let epoch = store.push(batch, at(0)).await.unwrap().epoch;
        assert!(epoch > last, "{n}");
        last = epoch;
    }
}

/// A PostgreSQL database that was put back, or is another one than before, under a store.
pub(crate) async fn a_database_that_is_not_where_it_was_begins_an_epoch(scene: Scene) {
    if !scene.database.as_ref().is_some_and(|database| database.starts_with("postgres")) {
        return;
    }
    scene.apply("laptop", vec![folder(1, "a"), folder(2, "b")]).await;
    let before = scene.page(from(None)).await;
    scene.tamper("UPDATE identity SET value = 'elsewhere' WHERE name = 'place'").await;
    // So many calls at one time take further connections.
    let alice = user("alice");
    let request = from(before.baseline.clone());
    let calls = (0..16).map(|_| scene.store.pull(&alice, &request));
    for answer in futures::future::join_all(calls).await {
        answer.unwrap();
    }
    let after = scene.page(from(before.baseline.clone())).await;
    assert!(after.epoch > before.epoch && after.items.is_empty());

    // A copy from before the second folder takes its place, in the same tables.
    scene.tamper("DELETE FROM feed WHERE counter > 1; UPDATE feed_head SET counter = 1").await;
    is_unavailable(scene.store.pull(&alice, &from(None)).await, "older");
    let restored = scene.page(from(None)).await;
    assert!(restored.epoch > after.epoch);
    let lost = scene.pull(from(before.baseline)).await;
    assert!(matches!(lost, vfs_sync_store::PullAnswer::Rematerialize(_)), "{lost:?}");
}
