//! The record of a directory: what this replica read from it and wrote to it, one row an entry.
//!
//! What changed in a directory, and what may be replaced or removed there, is decided against this
//! record alone. Rows are written in the transaction that queues the operations they belong to
//! ([`crate::Batch::record`]), or by themselves after what they describe is on the disk
//! ([`Directories::write`](crate::Directories::write)).

use serde::{Deserialize, Serialize};
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::id::{BlobId, ItemId};
use vfs_sync_core::time::Timestamp;

/// The row of a directory itself, as the parent of the entries right in it.
pub const ROOT_ENTRY: u64 = 0;

/// A directory that has a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DirectoryRecord {
    /// The number that its entries name.
    pub id: i64,
    /// The path at its last use, as bytes.
    pub path: Vec<u8>,
    /// The folder of the tree that it belongs to; `None` is the top.
    pub target: Option<ItemId>,
    /// The identity of the directory on its disk, which a move does not change.
    pub identity: Vec<u8>,
    /// The moment of its last use.
    pub used_at: Timestamp,
    /// The number of rebuilds of the replica when the directory was last brought in step with it.
    pub rebuilds: u64,
}

/// A moment to the nanosecond, as a disk has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DiskTime {
    /// Seconds since the Unix epoch.
    pub seconds: i64,
    /// Nanoseconds in that second.
    pub nanos: u32,
}

/// The kind of an entry on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EntryKind {
    /// The entry is a regular file.
    File,
    /// The entry is a folder.
    Folder,
}

/// The disk half of a row: the state of the entry on the disk when it was read or written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskState {
    /// The kind of the entry.
    pub kind: EntryKind,
    /// Bytes of the file; 0 for a folder.
    pub size: u64,
    /// The time of the last change of its bytes.
    pub mtime: DiskTime,
    /// The time of the last change of anything of it.
    pub ctime: DiskTime,
    /// The number of its inode.
    pub inode: u64,
    /// The time at which the inode was made, if the disk keeps it.
    pub born: Option<DiskTime>,
    /// The nine permission bits.
    pub mode: u32,
    /// True if it is on another file system than the directory.
    pub elsewhere: bool,
    /// The digest of the bytes as they were on the disk.
    pub digest: Option<Sha256Digest>,
    /// True if a change right after the reading might not show in the times: the bytes are compared
    /// at the next scan.
    pub unsettled: bool,
}

/// The tree half of a row: the state of the item that the disk half was brought in step with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeState {
    /// The id of the item.
    pub item: ItemId,
    /// The container it was found under; `None` is the top.
    pub parent: Option<ItemId>,
    /// The name it had among its siblings.
    pub name: String,
    /// The id of its content.
    pub blob_id: Option<BlobId>,
    /// The digest of its content.
    pub digest: Option<Sha256Digest>,
    /// The time of its content.
    pub mtime: Option<Timestamp>,
    /// The permission bits of the item.
    pub mode: Option<u32>,
}

/// The permission of the tree to touch the entry on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EntryState {
    /// The bytes on the disk are in the tree, or on their way there.
    Agreed,
    /// The server refused it: the bytes on the disk may be the only ones.
    Local,
}

/// One entry of a directory, as it was read or written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryRecord {
    /// The row's number in its directory, above [`ROOT_ENTRY`].
    pub id: u64,
    /// The row of the folder that it is in.
    pub parent: u64,
    /// Its name on the disk, as bytes.
    pub name: Vec<u8>,
    /// The state on the disk.
    pub disk: DiskState,
    /// The state in the tree.
    pub tree: TreeState,
    /// The permission of the tree to touch it.
    pub state: EntryState,
    /// The digest of a content that an export was about to give to it: a row is written before, and
    /// again after, so that what a killed export wrote is nobody's edit.
    pub coming: Option<Sha256Digest>,
    /// True if this replica made the item, in a folder into which others may have put the same.
    pub made: bool,
}

/// A change of a directory's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordChange {
    /// Writes a row, in place of the one of that number and of the one of that name.
    Put(Box<EntryRecord>),
    /// Removes a row and all rows below it.
    Remove(u64),
}

/// The record of a directory, or the next best thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FoundDirectory {
    /// This very directory has a record.
    Known(DirectoryRecord),
    /// There is none, but of another directory that was at this path: it was replaced, or its disk
    /// is not mounted.
    Replaced(DirectoryRecord),
    /// The directory has no record.
    Unknown,
}
