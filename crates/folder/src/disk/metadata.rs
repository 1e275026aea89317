//! File attributes that are synchronised as metadata: `mode`, the nine permission bits as a number
//! (420 is 0644). The modification time belongs to the content.

use std::sync::OnceLock;

use serde_json::Value;
use vfs_sync_client::{DiskState, MetadataChange, Node};
use vfs_sync_core::id::UserId;
use vfs_sync_core::item::ObjectType;

use super::dir::Stat;

const MODE: &str = "mode";

/// Returns the permission bits in an item's metadata, if they are valid.
pub fn mode(node: &Node) -> Option<u32> {
    let mode = node.metadata.get(MODE)?.as_u64()?;
    u32::try_from(mode).ok().filter(|mode| *mode <= 0o7777).map(|mode| mode & 0o777)
}

/// Returns the permission bits for an item's file on this disk, for `user`: items of other owners
/// are masked by this process's umask, so that no one else decides who may write here.
pub fn mode_here(node: &Node, user: &UserId) -> Option<u32> {
    let mode = mode(node)?;
    Some(if node.owner == *user { mode } else { mode & !umask() })
}

/// Returns the umask of this process from `/proc`, or 022 if there is none.
fn umask() -> u32 {
    static UMASK: OnceLock<u32> = OnceLock::new();
    *UMASK.get_or_init(|| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
        line.and_then(|octal| u32::from_str_radix(octal.trim(), 8).ok()).unwrap_or(0o022)
    })
}

/// Returns the metadata change that gives `node` (`None`: a new item) the bits of `stat`.
pub fn change(node: Option<&Node>, stat: &Stat) -> MetadataChange {
    let mut change = MetadataChange::new();
    if node.and_then(mode) != Some(stat.mode) {
        change.push((MODE.to_owned(), Some(Value::from(stat.mode))));
    }
    change
}

/// Returns the metadata change for the bits of `stat`, if they changed since `recorded`.
pub(crate) fn since(recorded: &DiskState, stat: &Stat) -> MetadataChange {
    if recorded.mode == stat.mode { MetadataChange::new() } else { mode_change(stat.mode) }
}

/// Returns the metadata change that sets these permission bits.
pub(crate) fn mode_change(mode: u32) -> MetadataChange {
    vec![(MODE.to_owned(), Some(Value::from(mode)))]
}

/// The representation of an item on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDisk {
    /// The item is written as a folder.
    Folder,
    /// The item is written as a file.
    File,
    /// The item has no representation: a contact, a playlist…
    Nothing,
}

/// Returns the representation of an item type on a disk.
pub fn on_disk(object_type: ObjectType) -> OnDisk {
    match object_type {
        ObjectType::Folder => OnDisk::Folder,
        ObjectType::File | ObjectType::Photo | ObjectType::Audio | ObjectType::Video => {
            OnDisk::File
        }
        _ => OnDisk::Nothing,
    }
}
