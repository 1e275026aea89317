//! An operation of a push: what is accepted has one canonical form.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vfs_sync_core::operation::Operation;

fuzz_target!(|text: &str| {
    if let Ok(op) = Operation::parse(text) {
        let again = Operation::parse(&op.to_json()).expect("what was written can be read");
        assert_eq!(op.digest(), again.digest());
        assert_eq!(op, again);
    }
});
