//! A cursor and its parts.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vfs_sync_core::cursor::{Cursor, Position};
use vfs_sync_core::id::ChangeId;
use vfs_sync_core::time::Timestamp;

fuzz_target!(|text: &str| {
    if let Ok(cursor) = Cursor::decode(text) {
        assert_eq!(Cursor::decode(&cursor.encode()), Ok(cursor));
    }
    if let Ok(time) = Timestamp::parse(text) {
        assert_eq!(Timestamp::parse(&time.to_string()), Ok(time));
    }
    if let Some(position) = ChangeId::new(text).ok().and_then(|id| Position::parse(&id)) {
        assert_eq!(position.to_string(), text);
    }
});
