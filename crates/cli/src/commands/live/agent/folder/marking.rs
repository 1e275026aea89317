//! The marker of a live folder's directory, compared with the settings before each import.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use vfs_sync_client::{
    DirectoryRecord, EntryRecord, FoundDirectory, ROOT_ENTRY, RecordChange, SyncClient,
};
use vfs_sync_folder::disk::dir::{Folder as DiskFolder, Root};
use vfs_sync_folder::intents;
use vfs_sync_folder::marker::{self, Marker};
use vfs_sync_folder::record::Record;

use super::super::remember;
use super::Folder;
use crate::error::{Failure, Result};
use crate::escape::escaped;

impl Folder {
    /// Compares the directory's marker with the settings. If the directory is a copy, or one of the
    /// two is of an earlier time, the record is dropped, and both sides join as the first time.
    ///
    /// # Errors
    /// If another agent has the directory, or the marker is gone with most of the entries.
    pub(super) fn mark(
        &mut self,
        client: &SyncClient,
        replica: &Path,
        root: &mut Root,
    ) -> Result<()> {
        let dir = self.live.directory.display().to_string();
        let top = root.folder(Path::new("")).map_err(Failure::io(format!("cannot read {dir}")))?;
        let starts = self.lock.is_none();
        if starts {
            // A disk that takes no file still gives its own.
            if let Ok(lock) = marker::lock(&top) {
                let Some(lock) = lock else {
                    let text = format!("another `vfs-sync up` keeps {dir} in step");
                    return Err(Failure::failed(text).hint(
                        "end that one, or take the directory from its replica: `folder remove`",
                    ));
                };
                self.lock = Some(lock);
            }
        }
        let found =
            marker::read(&top).map_err(Failure::io(format!("cannot read the marker of {dir}")))?;
        let wanted = match (&self.live.marker, &found) {
            (Some(known), Some(found)) if known.agrees_with(found) => {
                // The disk may have refused the last one: then it has to catch up first.
                match starts && known == found {
                    true => known.next(),
                    false => known.clone(),
                }
            }
            (Some(known), None) => {
                if self.live.joined && !self.has_half_of_its_entries(client, root, &top)? {
                    return Err(Failure::failed(format!(
                        "{dir} lacks most of its entries, and the marker in .vfs-sync: nothing was \
                         changed on either side"
                    ))
                    .hint(format!(
                        "if its disk is not mounted, mount it, or put the entries back; to join what is \
                         there now: `vfs-sync folder remove '{dir}'`, then `vfs-sync folder add '{dir}'` \
                         with its folder"
                    )));
                }
                known.clone()
            }
            (Some(_), Some(_)) => {
                self.drop_record(client, root)?;
                Marker::generate()
            }
            (None, _) => Marker::generate(),
        };
        if self.live.marker.as_ref() != Some(&wanted) {
            self.live.marker = Some(wanted.clone());
            remember(replica, &self.live)?;
        }
        if found.as_ref() != Some(&wanted) {
            // A disk that cannot take it is written to at the next start.
            let _ = marker::write(&top, &wanted);
        }
        Ok(())
    }

    /// Returns the rows of the entries at the top of the directory, and the record that has them.
    fn top_rows(
        &self,
        client: &SyncClient,
        root: &mut Root,
    ) -> Result<Option<(DirectoryRecord, Vec<EntryRecord>)>> {
        let what = format!("cannot read {}", self.live.directory.display());
        let found = Record::find(client, root, self.live.item.as_ref());
        let FoundDirectory::Known(record) = found.map_err(Failure::io(what))??.found else {
            return Ok(None);
        };
        let rows = client.directories().entries(record.id, ROOT_ENTRY)?;
        Ok(Some((record, rows)))
    }

    /// Returns whether at least half of the recorded entries at the top are there.
    fn has_half_of_its_entries(
        &self,
        client: &SyncClient,
        root: &mut Root,
        top: &DiskFolder,
    ) -> Result<bool> {
        let Some((_, rows)) = self.top_rows(client, root)? else { return Ok(true) };
        let rows: Vec<_> = rows.into_iter().filter(|row| row.disk.inode != 0).collect();
        let is_there = |row: &&EntryRecord| top.stat(OsStr::from_bytes(&row.name)).is_ok();
        Ok(rows.iter().filter(is_there).count() * 2 >= rows.len())
    }

    /// Removes all rows of the directory's record: both sides join as the first time.
    fn drop_record(&mut self, client: &SyncClient, root: &mut Root) -> Result<()> {
        if let Some((record, rows)) = self.top_rows(client, root)? {
            let mut removed = intents::forget(client, record.id)?;
            removed.extend(rows.into_iter().map(|row| RecordChange::Remove(row.id)));
            client.directories().write(record.id, removed, true)?;
        }
        self.live.joined = false;
        self.seen = false;
        self.export_whole();
        self.output.note(format_args!(
            "{} is a copy, or was brought back to an earlier state: both sides are joined, and nothing is \
             deleted because it is missing on one of them",
            escaped(&self.shown())
        ));
        Ok(())
    }
}
