//! Waits until what was written to a disk would survive a loss of power.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs as sys;

use super::dir::{Folder, Root, is_gone};
use crate::seam::{self, Operation};

/// The type of file systems in user space.
#[cfg(target_os = "linux")]
const FUSE: u64 = 0x6573_5546;

/// The way in which a disk is synchronised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Syncs {
    /// One call for everything on the disk.
    Whole,
    /// A call for each file and each folder: Linux passes the one for everything on to no file system
    /// in user space, and other systems have none.
    Each,
}

impl Syncs {
    /// Detects it for the disk of an open folder.
    pub(super) fn of(folder: impl AsFd) -> Self {
        #[cfg(target_os = "linux")]
        if sys::fstatfs(folder).is_ok_and(|found| u64::try_from(found.f_type) != Ok(FUSE)) {
            return Self::Whole;
        }
        Self::Each
    }
}

impl Folder {
    /// Returns whether each file and folder of the disk has to be synchronised by itself.
    pub(crate) fn syncs_each(&self) -> bool {
        self.1 == Syncs::Each
    }

    /// Waits until everything written to the folder's disk is durable, where one call does that.
    pub(crate) fn sync_disk(&self) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        if self.1 == Syncs::Whole {
            seam::before(Operation::Sync)?;
            if seam::is_simulated() {
                return Ok(());
            }
            sys::syncfs(&*self.0)?;
        }
        Ok(())
    }

    /// Waits until a file that was written is durable, where its disk is not synchronised as a whole.
    pub(crate) fn sync_file(&self, file: &File) -> io::Result<()> {
        if self.syncs_each() { file.sync_all() } else { Ok(()) }
    }

    /// Waits until the attributes of the file `name` are durable, where its disk is not synchronised as
    /// a whole.
    pub(crate) fn sync_attributes(&self, name: &OsStr) -> io::Result<()> {
        if !self.syncs_each() {
            return Ok(());
        }
        match self.open_file(name) {
            Ok((file, _)) => file.sync_all(),
            // One that may not be read, or is another one by now.
            Err(_) => Ok(()),
        }
    }

    /// Waits until the names in the folder are durable, where its disk is not synchronised as a whole.
    pub(crate) fn sync_names(&self) -> io::Result<()> {
        use rustix::io::Errno as E;
        if !self.syncs_each() {
            return Ok(());
        }
        match sys::fsync(&*self.0) {
            // Some disks cannot, and have no names to lose.
            Err(E::INVAL | E::NOTSUP | E::NOSYS | E::BADF) => Ok(()),
            synced => Ok(synced?),
        }
    }
}

/// The folders of a disk whose names or attributes changed since it was last synchronised.
#[derive(Debug, Default)]
pub(crate) struct Unsynced(BTreeSet<PathBuf>);

impl Unsynced {
    /// Notes a change in the folder at `path`.
    pub(crate) fn add(&mut self, path: &Path) {
        if !self.0.contains(path) {
            // A folder that is new needs those above it.
            self.0.extend(path.ancestors().map(Path::to_owned));
        }
    }

    /// Waits until all changes are durable.
    pub(crate) fn sync(&mut self, root: &mut Root) -> io::Result<()> {
        let top = root.folder(Path::new(""))?;
        let changed = std::mem::take(&mut self.0);
        if !top.syncs_each() {
            return top.sync_disk();
        }
        for path in changed {
            match root.folder(&path) {
                Ok(folder) => folder.sync_names()?,
                // Renamed or removed since: then the folder around it is one of these.
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
