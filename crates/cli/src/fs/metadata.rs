//! What of a file's attributes travels as metadata: `mode`, the nine permission bits as a number
//! (420 is 0644). Its time travels with its bytes.

use std::sync::OnceLock;

use serde_json::Value;
use vfs_sync_client::{DiskState, MetadataChange, Node};
use vfs_sync_core::id::UserId;
use vfs_sync_core::item::ObjectType;

use super::dir::Stat;

const MODE: &str = "mode";

/// The permission bits that an item's file had, if they are there and are some.
pub(crate) fn mode(node: &Node) -> Option<u32> {
    let mode = node.metadata.get(MODE)?.as_u64()?;
    u32::try_from(mode).ok().filter(|mode| *mode <= 0o7777).map(|mode| mode & 0o777)
}

/// The permission bits that the file of an item gets on this disk, where `user` is: of what others
/// own, those that the umask of this process leaves, so that nobody else decides who may write here.
pub(crate) fn mode_here(node: &Node, user: &UserId) -> Option<u32> {
    let mode = mode(node)?;
    Some(if node.owner == *user { mode } else { mode & !umask() })
}

/// The umask of this process, as Linux tells it; elsewhere the usual one.
fn umask() -> u32 {
    static UMASK: OnceLock<u32> = OnceLock::new();
    *UMASK.get_or_init(|| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let told = status.lines().find_map(|line| line.strip_prefix("Umask:"));
        told.and_then(|octal| u32::from_str_radix(octal.trim(), 8).ok()).unwrap_or(0o022)
    })
}

/// The metadata to set so that `node` (`None`: a new item) has the bits of `stat`.
pub(crate) fn change(node: Option<&Node>, stat: &Stat) -> MetadataChange {
    let mut change = MetadataChange::new();
    if node.and_then(mode) != Some(stat.mode) {
        change.push((MODE.to_owned(), Some(Value::from(stat.mode))));
    }
    change
}

/// The metadata to set so that an item has the bits of `stat`, if they changed since `recorded`.
pub(crate) fn since(recorded: &DiskState, stat: &Stat) -> MetadataChange {
    if recorded.mode == stat.mode { MetadataChange::new() } else { mode_change(stat.mode) }
}

/// The metadata to set so that an item has these permission bits.
pub(crate) fn mode_change(mode: u32) -> MetadataChange {
    vec![(MODE.to_owned(), Some(Value::from(mode)))]
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
