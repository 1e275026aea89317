//! A PostgreSQL database that version 0.1.0 wrote, brought to this schema. (SQLite's is with the command line's tests.)

use serde_json::Value;
use vfs_sync_core::id::ItemId;
use vfs_sync_core::wire::PushStatus;
use vfs_sync_store::PullAnswer;
use vfs_sync_store::testing::new_postgres_database;

use super::scene::*;

const WRITTEN_BY_0_1_0: &str = include_str!("../fixtures/postgres-0.1.0.sql");
const NOTES: &str = "01a22404-e558-774a-98d1-3f57934eb7cd";
const BOAT: &str = "01a22404-e517-7251-847d-0e08bdfbccfe";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL"]
async fn a_database_of_0_1_0_goes_on_with_all_that_it_had() {
    let url = new_postgres_database().await.unwrap();
    tamper(&url, WRITTEN_BY_0_1_0).await;
    let now = at(1_795_900_700_000);
    let store = vfs_sync_store::open(&url, now).await.unwrap();

    let request = from(None);
    for (who, shown) in [("alice", 10), ("bob", 8)] {
        let PullAnswer::Page(page) = store.pull(&user(who), &request).await.unwrap() else {
            panic!("a pull from the start is served")
        };
        let entries: Vec<Value> =
            page.items.iter().map(|json| serde_json::from_str(json).unwrap()).collect();
        let types: Vec<&str> = entries.iter().map(|one| one["opType"].as_str().unwrap()).collect();
        assert_eq!(types.len(), shown, "{who}: {types:?}");
    }
    let notes = ItemId::new(NOTES).unwrap();
    let versions = store.versions(&user("alice"), &notes, 10).await.unwrap().unwrap();
    assert_eq!(versions.len(), 2, "{versions:?}");

    // An operation as 0.1.0's clients send it.
    let delete = serde_json::json!({
        "opId": "late", "opType": "item_delete", "itemId": BOAT, "replicaId": "tablet", "writeId": 1,
        "occurredAt": "2026-11-28T21:20:00.000Z",
    });
    let pushed = store.push(batch("alice", "tablet", vec![delete]), now).await.unwrap();
    assert_eq!(pushed.results[0].status, PushStatus::Applied, "{pushed:?}");
}
