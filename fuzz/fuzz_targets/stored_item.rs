//! The registers of an item, as a database row holds them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vfs_sync_core::register::ItemFields;

fuzz_target!(|row: &[u8]| {
    if let Ok(fields) = ItemFields::from_bytes(row) {
        assert_eq!(ItemFields::from_bytes(&fields.to_bytes()), Ok(fields));
    }
});
