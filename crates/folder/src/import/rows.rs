//! Record rows that an import writes.

use std::os::unix::ffi::OsStrExt as _;

use vfs_sync_client::{DiskState, EntryKind, EntryRecord, EntryState, RecordChange, TreeState};

use super::super::record::NO_TIME;
use super::super::scan::ScannedEntry;
use super::Import;
use super::tree_folder::TreeFolder;

impl Import<'_> {
    /// Writes the row of an imported entry if it differs from `before`.
    #[allow(clippy::too_many_arguments, reason = "the parts of a row")]
    pub(super) fn put_row(
        &mut self,
        before: &EntryRecord,
        id: u64,
        place: &TreeFolder,
        seen: &ScannedEntry,
        disk: DiskState,
        tree: TreeState,
        made: bool,
    ) {
        let (parent, name) = (place.0.row, seen.disk_name.as_bytes().to_vec());
        let (state, folder) = (before.state, disk.kind == EntryKind::Folder);
        let coming = None;
        let row = EntryRecord { id, parent, name, disk, tree, state, coming, made };
        let same = if folder { is_same_folder(before, &row) } else { *before == row };
        if !same {
            self.row(RecordChange::Put(Box::new(row)));
        }
    }

    pub(super) fn put(
        &mut self,
        id: u64,
        place: &TreeFolder,
        seen: &ScannedEntry,
        disk: DiskState,
        tree: TreeState,
        made: bool,
    ) {
        let (parent, name) = (place.0.row, seen.disk_name.as_bytes().to_vec());
        let (state, coming) = (EntryState::Agreed, None);
        let row = EntryRecord { id, parent, name, disk, tree, state, coming, made };
        self.row(RecordChange::Put(Box::new(row)));
    }

    pub(super) fn row(&mut self, change: RecordChange) {
        self.batch_rows += 1;
        self.batch.record(self.record.directory.id, change);
    }
}

/// Returns whether two rows of a folder are equal except for its times, which change with every
/// entry in it.
fn is_same_folder(one: &EntryRecord, other: &EntryRecord) -> bool {
    let still = |row: &EntryRecord| {
        let mut row = row.clone();
        (row.disk.mtime, row.disk.ctime) = (NO_TIME, NO_TIME);
        row
    };
    still(one) == still(other)
}

/// Returns the tree half for an entry that matched an item, without the item's time and bits: the
/// entry may have others, and the next export applies those of the item.
pub(super) fn without_metadata(tree: TreeState) -> TreeState {
    TreeState { mtime: None, mode: None, ..tree }
}
