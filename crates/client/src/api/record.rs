//! The record of a directory: what this replica read from it and wrote to it, one row an entry.
//!
//! What changed in a directory, and what may be replaced or removed there, is decided against this
//! record alone. Rows are written in the transaction that queues the operations they belong to
//! ([`crate::Batch::record`]), or by themselves after what they describe is on the disk
//! ([`SyncClient::write_records`](crate::SyncClient::write_records)).

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
    /// Where it was when it was last used, as bytes.
    pub path: Vec<u8>,
    /// The folder of the tree that it belongs to; `None` is the top.
    pub target: Option<ItemId>,
    /// What identifies the directory on its disk, wherever it is moved.
    pub identity: Vec<u8>,
    /// The moment of its last use.
    pub used_at: Timestamp,
    /// How often the replica had been rebuilt when the directory was last brought in step with it.
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

/// What an entry is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
}

/// The disk half of a row: what the disk told of the entry when it was read or written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskState {
    /// File or folder.
    pub kind: EntryKind,
    /// Bytes of the file; 0 for a folder.
    pub size: u64,
    /// The time of the last change of its bytes.
    pub mtime: DiskTime,
    /// The time of the last change of anything of it.
    pub ctime: DiskTime,
    /// Its inode.
    pub inode: u64,
    /// When the inode was made, where the disk tells it.
    pub born: Option<DiskTime>,
    /// The nine permission bits.
    pub mode: u32,
    /// Whether it is on another file system than the directory.
    pub elsewhere: bool,
    /// The digest of the bytes as they were on the disk.
    pub digest: Option<Sha256Digest>,
    /// Whether a change right after the reading might not show in the times: the bytes are
    /// compared at the next look.
    pub unsettled: bool,
}

/// The tree half of a row: the state of the item that the disk half was brought in step with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeState {
    /// The item.
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
    /// Its permission bits.
    pub mode: Option<u32>,
}

/// Whether the tree may touch the entry on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EntryState {
    /// What is on the disk is in the tree, or on its way there.
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
    /// What the disk told.
    pub disk: DiskState,
    /// What the tree had.
    pub tree: TreeState,
    /// Whether the tree may touch it.
    pub state: EntryState,
    /// The digest of a content that an export was about to give to it: a row is written before, and
    /// again after, so that what a killed export wrote is nobody's edit.
    pub coming: Option<Sha256Digest>,
    /// Whether this replica made the item, in a folder that others may have put the same into.
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
    /// Nothing is known of it.
    Unknown,
}
