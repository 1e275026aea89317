//! An exported state, as somebody hydrates it: what is accepted comes out again as it went in.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vfs_sync_core::client::state::parse;
use vfs_sync_core::id::ReplicaId;

fuzz_target!(|json: &[u8]| {
    let client = ReplicaId::new("c").expect("an id");
    let Ok(state) = parse(json, &client) else { return };
    let mut text = Vec::new();
    state.write(&mut text, false).expect("memory takes it");
    let again = parse(&text, &client).expect("what was written can be read");
    let mut twice = Vec::new();
    again.write(&mut twice, false).expect("memory takes it");
    assert_eq!(text, twice);
});
