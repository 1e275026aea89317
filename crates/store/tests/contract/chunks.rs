//! What narrows views, written in chunks of an item: it ends as if it had been written at once.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};
use vfs_sync_core::access::{Principal, PrincipalType};
use vfs_sync_core::id::PrincipalId;
use vfs_sync_store::MetadataStore;
use vfs_sync_store::memory::MemoryStore;
use vfs_sync_store::postgres::PostgresStore;
use vfs_sync_store::sqlite::SqliteStore;
use vfs_sync_store::testing::new_postgres_database;

use super::scene::*;
use super::{sharing, views};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL"]
async fn replicas_see_what_the_rows_say_on_postgres() {
    let url = new_postgres_database().await.unwrap();
    let store = PostgresStore::connect(&url, at(0)).await.unwrap().in_chunks_of(0);
    let scene = Scene::of(Arc::new(store), url);
    for seed in 1..=10 {
        views::play(&scene, seed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL"]
async fn writers_end_as_if_one_had_come_after_the_other_on_postgres() {
    let url = new_postgres_database().await.unwrap();
    let store = PostgresStore::connect(&url, at(0)).await.unwrap().in_chunks_of(0);
    let scene = Scene::of(Arc::new(store), url);
    sharing::writers_who_share_end_as_if_one_had_come_after_the_other(scene).await;
}

fn grant(write_id: u64, item: &str, kind: &str, who: &str) -> Value {
    json!({"opType": "acl_add", "writeId": write_id, "itemId": item, "principalType": kind,
        "principalId": who, "accessLevel": "read"})
}

fn removal(write_id: u64, item: &str) -> Value {
    json!({"opType": "acl_remove", "writeId": write_id, "itemId": item, "principalType": "group",
        "principalId": "team"})
}

const FILES: u64 = 12;

/// Plays a history with one of several ends; returns what the end tells each user, and what each sees
/// then.
async fn play(store: Arc<dyn MetadataStore>, end: &str) -> Vec<BTreeSet<String>> {
    let scene = Scene::new(store);
    let team = Principal { kind: PrincipalType::Group, id: PrincipalId::new("team").unwrap() };
    for who in ["bob", "carol"] {
        scene.store.arrive(&user(who)).await.unwrap();
        scene.store.set_member(&team, &user(who), true, scene.now()).await.unwrap();
    }
    let sub = json!({"opType": "item_upsert", "writeId": 3, "itemId": "sub",
        "objectType": "folder", "name": "sub", "parentId": "top"});
    scene.apply("laptop", vec![folder(1, "top"), folder(2, "kept"), sub]).await;
    let files = (0..FILES).map(|n| file_in(4 + n, &format!("f{n:02}"), "sub")).collect();
    scene.apply("laptop", files).await;
    // Bob sees half of the files in another folder too, and has shortcuts to two of them.
    let also = (0..FILES / 2).map(|n| link(20 + n, "link_add", "kept", &format!("f{n:02}")));
    scene.apply("laptop", also.collect()).await;
    let grants = vec![grant(40, "top", "group", "team"), grant(41, "kept", "user", "bob")];
    scene.apply("laptop", grants).await;
    let shortcuts = vec![
        folder(1, "mine"),
        link(2, "link_add", "mine", "f01"),
        link(3, "link_add", "mine", "f11"),
    ];
    scene.apply_as("bob", "phone", shortcuts).await;
    let users = ["alice", "bob", "carol"];
    let mut before = Vec::new();
    for who in users {
        before.push(scene.settle_as(who, None, 500).await.last().map(cursor_of));
    }
    match end {
        "revoke" => scene.apply("laptop", vec![removal(50, "top")]).await,
        "unlink" => scene.apply("laptop", vec![link(50, "link_remove", "top", "sub")]).await,
        "delete" => scene.apply("laptop", vec![delete(50, "sub")]).await,
        "leave" => {
            scene.store.set_member(&team, &user("bob"), false, scene.now()).await.unwrap();
        }
        _ => scene.store.set_block(&user("bob"), &user("alice"), true, scene.now()).await.unwrap(),
    }
    let mut all = Vec::new();
    for (who, cursor) in users.into_iter().zip(before) {
        let news = told(&scene.settle_as(who, cursor, 500).await);
        let count = news.len();
        let news = BTreeSet::from_iter(news);
        assert_eq!(news.len(), count, "{end}: {who} is told once of each: {news:?}");
        all.extend([news, told(&scene.settle_as(who, None, 500).await).into_iter().collect()]);
    }
    all
}

async fn compare(stores: impl AsyncFn() -> Vec<Arc<dyn MetadataStore>>) {
    for end in ["revoke", "unlink", "delete", "leave", "block"] {
        let whole = play(Arc::new(MemoryStore::new(at(0))), end).await;
        // Bob loses the half of the files that he does not see elsewhere, and their links.
        let least = FILES as usize;
        assert!(whole[2].len() >= least, "{end}: {:?}", whole[2]);
        for store in stores().await {
            assert_eq!(play(store, end).await, whole, "{end}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_way_of_narrowing_ends_as_if_written_at_once_on_sqlite() {
    let directory = tempfile::tempdir().unwrap();
    let number = std::cell::Cell::new(0);
    compare(async || {
        let open = || {
            number.set(number.get() + 1);
            SqliteStore::open(&directory.path().join(number.get().to_string()), at(0)).unwrap()
        };
        let stores = [
            open().in_chunks_of(0),
            open().in_chunks_of(3_000),
            open().large_beyond(0).in_chunks_of(3_000),
        ];
        stores.map(|store| Arc::new(store) as Arc<dyn MetadataStore>).into()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL"]
async fn each_way_of_narrowing_ends_as_if_written_at_once_on_postgres() {
    compare(async || {
        let url = new_postgres_database().await.unwrap();
        let store = PostgresStore::connect(&url, at(0)).await.unwrap();
        vec![Arc::new(store.in_chunks_of(0)) as Arc<dyn MetadataStore>]
    })
    .await;
}
