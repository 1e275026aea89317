//! Facts that only the database knows.

use std::collections::BTreeSet;

use vfs_sync_client::core::id::ItemId;
use vfs_sync_store::testing::connect;

/// The links that are there, those of deleted items too.
pub(crate) async fn links(database: &str) -> BTreeSet<(ItemId, ItemId)> {
    let client = connect(database).await.unwrap();
    let links = client.query("SELECT parent, child FROM links WHERE present", &[]).await.unwrap();
    let id = |text: &str| ItemId::new(text).unwrap();
    links.iter().map(|row| (id(row.get(0)), id(row.get(1)))).collect()
}

/// Deadlocks that PostgreSQL broke, once nobody else is connected.
pub(crate) async fn deadlocks(database: &str) -> i64 {
    let client = connect(database).await.unwrap();
    // A back end reports what it counted when it ends, at the latest.
    loop {
        let others = "SELECT count(*) FROM pg_stat_activity \
                      WHERE datname = current_database() AND pid <> pg_backend_pid()";
        if client.query_one(others, &[]).await.unwrap().get::<_, i64>(0) == 0 {
            break;
        }
    }
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    client.query_one(deadlocks, &[]).await.unwrap().get(0)
}
