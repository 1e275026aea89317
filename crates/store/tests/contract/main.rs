//! The contract of `MetadataStore`, run against every back end.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(dead_code)]

mod feeds;
mod scene;

use std::sync::Arc;

use scene::{Scene, at};
use vfs_sync_store::postgres::PostgresStore;
use vfs_sync_store::sqlite::SqliteStore;
use vfs_sync_store::testing::new_postgres_database;

/// One test of each listed behaviour for each back end.
macro_rules! contract {
    ($($area:ident: $($behaviour:ident)*;)*) => {
        mod sqlite_file { $($(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $behaviour() {
                let directory = tempfile::tempdir().unwrap();
                let path = directory.path().join("metadata.sqlite");
                let store = super::SqliteStore::open(&path, super::at(0)).unwrap();
                super::$area::$behaviour(super::Scene::new(super::Arc::new(store))).await;
            }
        )*)* }
        mod postgres { $($(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $behaviour() {
                let url = super::new_postgres_database().await.unwrap();
                let store = super::PostgresStore::connect(&url, super::at(0)).await.unwrap();
                super::$area::$behaviour(super::Scene::new(super::Arc::new(store))).await;
            }
        )*)* }
        mod sqlite_memory { $($(
            #[tokio::test]
            async fn $behaviour() {
                let store = super::SqliteStore::open_in_memory(super::at(0)).unwrap();
                super::$area::$behaviour(super::Scene::new(super::Arc::new(store))).await;
            }
        )*)* }
    };
}

contract! {
    feeds:
        a_push_is_told_in_the_feed
        a_change_moves_its_entry_to_the_head
        pages_of_any_size_give_the_same_feed
        a_feed_that_never_began_is_an_empty_page
        everybody_has_a_feed_of_their_own
        a_page_ends_early_at_4_mib
        a_cursor_that_cannot_be_served_is_refused;
}
