//! The record of a directory: the state that this replica read from it and wrote to it, one row for
//! each entry.
//!
//! This record alone decides which entries of a directory changed, and which may be replaced or
//! removed. Rows are written in the transaction that queues their operations
//! ([`crate::Batch::record`]), or alone once the state that they describe is on the disk
//! ([`Directories::write`](crate::Directories::write)).

use serde::{Deserialize, Serialize};
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::id::{BlobId, ItemId};
use vfs_sync_core::time::Timestamp;

/// The row of a directory itself, as the parent of its direct entries.
pub const ROOT_ENTRY: u64 = 0;

/// A directory that has a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DirectoryRecord {
    /// The number by which entries name the directory.
    pub id: i64,
    /// The path at the last use, as bytes.
    pub path: Vec<u8>,
    /// The folder of the tree that the directory belongs to; `None` is the top.
    pub target: Option<ItemId>,
    /// The identity of the directory on its disk, which does not change when it is moved.
    pub identity: Vec<u8>,
    /// The time of the last use.
    pub used_at: Timestamp,
    /// The number of rebuilds of the replica when the directory was last synchronised.
    pub rebuilds: u64,
}

/// A time to the nanosecond, as file systems store it.
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
    /// The entry is a symbolic link; its digest is one of its target.
    Link,
}

/// The disk half of a row: the state of the entry on the disk when it was read or written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskState {
    /// The kind of the entry.
    pub kind: EntryKind,
    /// Bytes of the file or of the link's target; 0 for a folder.
    pub size: u64,
    /// The time of the last change of the bytes.
    pub mtime: DiskTime,
    /// The time of the last change of the entry, including its metadata.
    pub ctime: DiskTime,
    /// The number of the inode.
    pub inode: u64,
    /// The time at which the inode was created, if the file system stores it.
    pub born: Option<DiskTime>,
    /// The nine permission bits.
    pub mode: u32,
    /// True if the entry is on another file system than the directory.
    pub elsewhere: bool,
    /// The digest of the bytes as they were on the disk.
    pub digest: Option<Sha256Digest>,
    /// True if the times might not show a change right after the reading: the next scan then
    /// compares the bytes.
    pub unsettled: bool,
}

/// The tree half of a row: the state of the item with which the disk half was synchronised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeState {
    /// The id of the item.
    pub item: ItemId,
    /// The container of the item; `None` is the top.
    pub parent: Option<ItemId>,
    /// The name of the item among its siblings.
    pub name: String,
    /// The id of the item's content.
    pub blob_id: Option<BlobId>,
    /// The digest of the item's content.
    pub digest: Option<Sha256Digest>,
    /// The time of the item's content.
    pub mtime: Option<Timestamp>,
    /// The permission bits of the item.
    pub mode: Option<u32>,
}

/// The tree's permission to change the entry on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EntryState {
    /// The bytes on the disk are in the tree, or are being uploaded.
    Agreed,
    /// The server rejected the content: the bytes on the disk may be the only copy.
    Local,
}

/// One entry of a directory, in the state in which it was read or written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryRecord {
    /// The row's number in its directory, above [`ROOT_ENTRY`].
    pub id: u64,
    /// The row of the folder that contains the entry.
    pub parent: u64,
    /// The name on the disk, as bytes.
    pub name: Vec<u8>,
    /// The state on the disk.
    pub disk: DiskState,
    /// The state in the tree.
    pub tree: TreeState,
    /// The tree's permission to change the entry.
    pub state: EntryState,
    /// The digest of a content that an export is about to write to the entry. The row is written
    /// before and after the export, so that the output of a killed export does not count as an
    /// edit.
    pub coming: Option<Sha256Digest>,
    /// True if this replica created the item in a folder where other replicas may have created the
    /// same.
    pub made: bool,
}

/// A change of a directory that is about to be made, and of which a crash may have left any part.
///
/// It is durable before the change, and removed by the transaction that writes the row. Those that
/// are left are resolved before the directory is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// The unique part of the names that the entry, and the one that it replaces, have meanwhile;
    /// for [`IntentKind::Move`] it only tells intents apart.
    pub unique: String,
    /// The kind of the change.
    pub kind: IntentKind,
    /// The path of the entry's place in the directory, as bytes.
    pub path: Vec<u8>,
    /// The row of the entry at its place. The disk half describes the entry before it is renamed,
    /// which changes its `ctime`.
    pub row: EntryRecord,
    /// The state in which the entry that is replaced was last compared.
    pub replaces: Option<DiskState>,
}

/// The kind of an [`Intent`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum IntentKind {
    /// A complete entry under a temporary name gets its name.
    Place,
    /// The entry of an item that moved is renamed from the place of its present row.
    Move,
}

/// A change of a directory's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordChange {
    /// Writes a row, replacing rows with the same number or the same name.
    Put(Box<EntryRecord>),
    /// Removes a row and all rows below it.
    Remove(u64),
    /// Announces a change of the directory.
    Intend(Box<Intent>),
    /// Removes the intent with this [`Intent::unique`].
    Settle(String),
}

/// The record of a directory, or its closest match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FoundDirectory {
    /// The directory itself has a record.
    Known(DirectoryRecord),
    /// Only another directory that was at this path has a record: it was replaced, or its disk is
    /// not mounted.
    Replaced(DirectoryRecord),
    /// The directory has no record.
    Unknown,
}
