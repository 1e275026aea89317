//! A push's body: whatever is received is decided, and every operation gets its result.
#![no_main]

use std::collections::BTreeSet;

use libfuzzer_sys::fuzz_target;
use vfs_sync_core::id::UserId;
use vfs_sync_core::server::push::{PresentInFeed, PushBatch, Rows, Step, decide};
use vfs_sync_core::time::Timestamp;

fuzz_target!(|body: &[u8]| {
    let user = UserId::new("u").expect("an id");
    let Ok(batch) = PushBatch::parse(user, body) else { return };
    let mut rows = Rows::default();
    while let Some(needs) = batch.needs(&rows) {
        rows.absorb(needs, Rows::default());
    }
    let now = Timestamp::from_millis(1_700_000_000_000).expect("a time");
    let decided = decide(&batch, rows, now);
    assert_eq!(decided.response.results.len(), batch.len());
    serde_json::to_string(&decided.response).expect("an answer serializes");
    let (mut step, mut readers) = (decided.propagation.step(), BTreeSet::new());
    let changes = loop {
        step = match step {
            Step::Load(load) => load.resume(Rows::default()),
            Step::LockHeads(lock) => {
                readers.clone_from(lock.readers());
                lock.resume()
            }
            Step::LookUp(look_up) => look_up.resume(&PresentInFeed::new()),
            Step::Write(changes) => break changes,
            Step::TooMuch | Step::NoMemory => return,
        };
    };
    assert!(changes.feed.keys().all(|user| readers.contains(user)), "a head was not locked");
});
