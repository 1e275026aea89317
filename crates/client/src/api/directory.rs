//! The durable record of a directory that an application synchronises with the tree.

use vfs_sync_core::id::ItemId;

use crate::api::record::{DirectoryRecord, EntryRecord, FoundDirectory, Intent, RecordChange};
use crate::client::SyncClient;
use crate::error::Result;

/// The greatest number of directories with a record; beyond it, the least recently used one is
/// forgotten.
const MAX_DIRECTORIES: usize = 256;

/// The calls about the durable records of directories that an application synchronises with the
/// tree.
#[derive(Clone, Copy)]
pub struct Directories<'a> {
    client: &'a SyncClient,
}

impl SyncClient {
    /// Returns the calls about the records of directories.
    #[must_use]
    pub fn directories(&self) -> Directories<'_> {
        Directories { client: self }
    }
}

impl Directories<'_> {
    /// Finds the record of a directory, by the directory's identity and the folder that it belongs
    /// to.
    ///
    /// # Errors
    /// Only if the replica cannot be read.
    pub fn find(
        self,
        identity: &[u8],
        path: &[u8],
        target: Option<&ItemId>,
    ) -> Result<FoundDirectory> {
        let mut of_target = self.list()?;
        of_target.retain(|one| one.target.as_ref() == target);
        if let Some(known) = of_target.iter().find(|one| one.identity == identity) {
            return Ok(FoundDirectory::Known(known.clone()));
        }
        let mut at_path: Vec<_> = of_target.into_iter().filter(|one| one.path == path).collect();
        at_path.sort_by_key(|one| one.used_at);
        for one in at_path.into_iter().rev() {
            if self.client.store().count_entries(one.id)? > 0 {
                return Ok(FoundDirectory::Replaced(one));
            }
        }
        Ok(FoundDirectory::Unknown)
    }

    /// Lists the directories that have a record.
    ///
    /// # Errors
    /// Only if the replica cannot be read.
    pub fn list(self) -> Result<Vec<DirectoryRecord>> {
        self.client.store().directories()
    }

    /// Records that a directory is used now. `known` is its record, or that of a directory that it
    /// replaces; without one a new record begins. `rebuilds` is the value of [`Self::rebuilds`]
    /// when the directory was last synchronised.
    ///
    /// # Errors
    /// Only if the replica cannot be written.
    pub fn mark_used(
        self,
        known: Option<DirectoryRecord>,
        identity: &[u8],
        path: &[u8],
        target: Option<&ItemId>,
        rebuilds: u64,
    ) -> Result<DirectoryRecord> {
        let used_at = self.client.environment().now();
        let mut store = self.client.store();
        let record = DirectoryRecord {
            id: known.map_or(0, |known| known.id),
            path: path.to_vec(),
            target: target.cloned(),
            identity: identity.to_vec(),
            used_at,
            rebuilds,
        };
        store.put_directory(record, MAX_DIRECTORIES)
    }

    /// Returns the number of times that the replica was rebuilt from the server's state.
    #[must_use]
    pub fn rebuilds(self) -> u64 {
        self.client.store().meta().rebuilds
    }

    /// Returns the rows of the entries directly in the folder of row `parent`, by name.
    ///
    /// # Errors
    /// Only if the replica cannot be read.
    pub fn entries(self, directory: i64, parent: u64) -> Result<Vec<EntryRecord>> {
        self.client.store().entries(directory, parent)
    }

    /// Returns the row of the entry `name` in the folder of row `parent`.
    ///
    /// # Errors
    /// Only if the replica cannot be read.
    pub fn entry_named(
        self,
        directory: i64,
        parent: u64,
        name: &[u8],
    ) -> Result<Option<EntryRecord>> {
        self.client.store().entry_named(directory, parent, name)
    }

    /// Returns a row of a directory's record.
    ///
    /// # Errors
    /// Only if the replica cannot be read.
    pub fn entry(self, directory: i64, id: u64) -> Result<Option<EntryRecord>> {
        self.client.store().entry(directory, id)
    }

    /// Returns the rows that have a certain inode.
    ///
    /// # Errors
    /// Only if the replica cannot be read.
    pub fn entries_of_inode(self, directory: i64, inode: u64) -> Result<Vec<EntryRecord>> {
        self.client.store().entries_of_inode(directory, inode)
    }

    /// Returns the rows whose items this replica created in folders where other replicas may have
    /// created the same, each with its directory.
    ///
    /// # Errors
    /// Only if the replica cannot be read.
    pub fn entries_made(self) -> Result<Vec<(i64, EntryRecord)>> {
        self.client.store().entries_made()
    }

    /// Returns the rows of an item, each with its directory.
    ///
    /// # Errors
    /// Only if the replica cannot be read.
    pub fn entries_of_item(self, item: &ItemId) -> Result<Vec<(i64, EntryRecord)>> {
        self.client.store().entries_of_item(item)
    }

    /// Returns the changes of a directory that were announced and not settled, in the order in which
    /// they were announced.
    ///
    /// # Errors
    /// Only if the replica cannot be read.
    pub fn intents(self, directory: i64) -> Result<Vec<Intent>> {
        self.client.store().intents(directory)
    }

    /// Returns the number of rows in a directory's record, and the greatest row number.
    ///
    /// # Errors
    /// Only if the replica cannot be read.
    pub fn count(self, directory: i64) -> Result<(u64, u64)> {
        let mut store = self.client.store();
        Ok((store.count_entries(directory)?, store.last_entry(directory)?))
    }

    /// Changes a directory's record, in one transaction. The state that the rows describe must
    /// already be on the disk. Unless `at_once` is set, a power failure may lose the change, but no
    /// crash of this process.
    ///
    /// # Errors
    /// Only if the replica cannot be written.
    pub fn write(self, directory: i64, changes: Vec<RecordChange>, at_once: bool) -> Result<()> {
        self.client.store().write_entries(directory, changes, at_once)
    }
}
