//! What of a file's attributes travels: `mtime`, an RFC 3339 time in milliseconds, and `mode`, the
//! nine permission bits as a number (420 is 0644).

use serde_json::Value;
use vfs_sync_client::{MetadataChange, Node};
use vfs_sync_core::item::ObjectType;
use vfs_sync_core::time::Timestamp;

use super::root::{Kind, Stat};

const MTIME: &str = "mtime";
const MODE: &str = "mode";

/// The time of an item's file: what it says, or when the item was made, which is the same on
/// every replica.
pub(crate) fn mtime(node: &Node) -> Timestamp {
    let said = node.metadata.get(MTIME).and_then(Value::as_str);
    said.and_then(|text| Timestamp::parse(text).ok()).unwrap_or(node.created_at)
}

/// The permission bits that an item's file had, if they are there and are some.
pub(crate) fn mode(node: &Node) -> Option<u32> {
    let mode = node.metadata.get(MODE)?.as_u64()?;
    u32::try_from(mode).ok().filter(|mode| *mode <= 0o7777).map(|mode| mode & 0o777)
}

/// The metadata to set so that `node` (`None`: a new item) has what `stat` says. A folder's time
/// does not travel: it changes with every file in it.
pub(crate) fn change(node: Option<&Node>, stat: &Stat) -> MetadataChange {
    let mut change = MetadataChange::new();
    if stat.kind == Kind::File && node.map(mtime) != Some(stat.mtime) {
        change.push((MTIME.to_owned(), Some(Value::from(stat.mtime.to_string()))));
    }
    if node.and_then(mode) != Some(stat.mode) {
        change.push((MODE.to_owned(), Some(Value::from(stat.mode))));
    }
    change
}

/// What an item is on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnDisk {
    Folder,
    File,
    /// Nothing: a contact, a playlist…
    Nothing,
}

/// What an item of a type is on a disk.
pub(crate) fn on_disk(object_type: ObjectType) -> OnDisk {
    match object_type {
        ObjectType::Folder => OnDisk::Folder,
        ObjectType::File | ObjectType::Photo | ObjectType::Audio | ObjectType::Video => {
            OnDisk::File
        }
        _ => OnDisk::Nothing,
    }
}
