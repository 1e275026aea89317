//! A push's body: whatever is received is decided, and every operation gets its result.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vfs_sync_core::id::UserId;
use vfs_sync_core::server::push::{PushBatch, Rows, Told, decide};
use vfs_sync_core::time::Timestamp;

fuzz_target!(|body: &[u8]| {
    let user = UserId::new("u").expect("an id");
    let Ok(batch) = PushBatch::parse(user, body) else { return };
    let mut rows = Rows::default();
    while let Some(needs) = batch.needs(&rows) {
        rows.absorb(needs, Rows::default());
    }
    let now = Timestamp::from_millis(1_700_000_000_000).expect("a time");
    let mut decided = decide(&batch, rows, now);
    assert_eq!(decided.response.results.len(), batch.len());
    serde_json::to_string(&decided.response).expect("an answer serializes");
    while let Some(needs) = decided.spread.needs() {
        decided.spread.absorb(needs, Rows::default());
    }
    let readers = decided.spread.readers();
    let _ = decided.spread.doubtful();
    let changes = decided.spread.finish(&Told::new());
    assert!(changes.feed.keys().all(|user| readers.contains(user)), "a head was not locked");
});
