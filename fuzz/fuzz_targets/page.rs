//! A pull page, as a client receives it: what is accepted survives the wire.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vfs_sync_core::wire::PullPage;

fuzz_target!(|body: &[u8]| {
    if let Ok(page) = serde_json::from_slice::<PullPage>(body) {
        let text = serde_json::to_vec(&page).expect("a page serializes");
        assert_eq!(serde_json::from_slice::<PullPage>(&text).expect("can be read"), page);
    }
});
