//! The marker of a live directory: a small file in the agent's own folder that says which live folder
//! the directory belongs to, and how often that was started.
//!
//! The replica's settings say the same. Where the two differ the directory is a copy, or one of the
//! two was restored from an earlier state: what the record says of the directory is then not true
//! of it, and nothing that is missing in it was deleted by anybody.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::aside::{OWN, private_folder};
use super::disk::dir::{Folder, Kind};
use crate::report::{Problem, ProblemKind};

/// The name of the marker in the own folder.
pub const MARKER: &str = "marker";
/// The marker while it is written.
const NEW_MARKER: &str = "marker.new";
const LOCK: &str = "lock";
/// The greatest size of a marker.
const MAX_BYTES: u64 = 1_024;

/// The live folder that a directory belongs to, and the number of its starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    pub(crate) id: String,
    pub(crate) generation: u64,
}

impl Marker {
    /// Creates the marker of a directory that was not kept in step before.
    pub fn generate() -> Self {
        Self { id: uuid::Uuid::now_v7().simple().to_string(), generation: 1 }
    }

    /// Returns the marker of the next start.
    pub fn next(&self) -> Self {
        Self { generation: self.generation.saturating_add(1), ..self.clone() }
    }

    /// Returns whether `found`, on the disk, is what this one, of the settings, lets expect: the
    /// settings are written first, so the disk may be one start behind.
    pub fn agrees_with(&self, found: &Self) -> bool {
        let generations = [self.generation, self.generation.saturating_sub(1)];
        self.id == found.id && generations.contains(&found.generation)
    }
}

/// Reads the marker of the directory `top`. One that no agent wrote completely counts as missing.
pub fn read(top: &Folder) -> io::Result<Option<Marker>> {
    let opened =
        top.folder(OsStr::new(OWN)).and_then(|own| Ok(own.open_file(OsStr::new(MARKER))?.0));
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text).ok())
}

/// Writes the marker of the directory `top`, completely or not at all.
pub fn write(top: &Folder, marker: &Marker) -> io::Result<()> {
    let own = private_folder(top, OsStr::new(OWN))?;
    let bytes = serde_json::to_vec(marker)?;
    own.replace_file(OsStr::new(MARKER), OsStr::new(NEW_MARKER), &bytes)
}

/// Removes the marker `marker` of the directory `top`, and what nobody needs without it; another
/// marker stays.
pub fn remove(top: &Folder, marker: &Marker) -> io::Result<()> {
    match read(top)? {
        Some(found) if found.id == marker.id => {}
        _ => return Ok(()),
    }
    let own = top.folder(OsStr::new(OWN))?;
    own.remove_file(OsStr::new(MARKER))?;
    own.remove_file(OsStr::new(LOCK))?;
    // It stays as long as there is a trash in it.
    let _ = top.remove_folder(OsStr::new(OWN));
    Ok(())
}

/// Returns whether the folder `name` has a marker: it is a live directory of its own.
pub(crate) fn is_in(folder: &Folder, name: &OsStr) -> bool {
    let marker = Path::new(name).join(OWN).join(MARKER);
    folder.stat(marker.as_os_str()).is_ok_and(|stat| stat.kind == Kind::File)
}

/// Reports a folder that is a live directory of its own, or was copied from one.
pub(crate) fn of_another(at: &Path) -> Problem {
    let detail =
        "it is kept in step by itself, or was copied from a directory that is: it is left alone";
    Problem::new(at, ProblemKind::OwnLiveFolder, detail)
}

/// Locks the directory `top` for one agent, until the file is closed; `None` if another has it.
pub fn lock(top: &Folder) -> io::Result<Option<File>> {
    let file = private_folder(top, OsStr::new(OWN))?.append(OsStr::new(LOCK))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(std::fs::TryLockError::WouldBlock) => Ok(None),
        // Some network file systems have no locks.
        Err(std::fs::TryLockError::Error(_)) => Ok(Some(file)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::dir::Root;

    #[test]
    fn a_marker_is_read_as_it_was_written_and_a_torn_one_counts_as_missing() {
        let dir = tempfile::tempdir().unwrap();
        let top = Root::open(dir.path()).unwrap().folder(Path::new("")).unwrap();
        assert_eq!(read(&top).unwrap(), None);
        let marker = Marker::generate();
        for marker in [marker.clone(), marker.next()] {
            write(&top, &marker).unwrap();
            assert_eq!(read(&top).unwrap(), Some(marker));
        }
        let above = Root::open(dir.path().parent().unwrap()).unwrap().folder(Path::new(""));
        assert!(is_in(&above.unwrap(), dir.path().file_name().unwrap()));
        remove(&top, &Marker::generate()).unwrap();
        assert!(read(&top).unwrap().is_some(), "another one's stays");
        std::fs::write(dir.path().join(OWN).join(MARKER), "{\"id\":").unwrap();
        assert_eq!(read(&top).unwrap(), None);
        write(&top, &marker).unwrap();
        drop(lock(&top).unwrap());
        remove(&top, &marker).unwrap();
        assert!(!dir.path().join(OWN).exists(), "nothing is left");
        assert_eq!(read(&top).unwrap(), None);
    }

    #[test]
    fn a_disk_may_be_one_start_behind_and_in_nothing_else_differ() {
        let marker = Marker { generation: 7, ..Marker::generate() };
        for (generation, agrees) in [(5, false), (6, true), (7, true), (8, false)] {
            let found = Marker { generation, ..marker.clone() };
            assert_eq!(marker.agrees_with(&found), agrees, "{generation}");
        }
        assert!(!marker.agrees_with(&Marker { generation: 7, ..Marker::generate() }));
    }

    #[test]
    fn one_agent_has_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let top = Root::open(dir.path()).unwrap().folder(Path::new("")).unwrap();
        let held = lock(&top).unwrap().unwrap();
        assert!(lock(&top).unwrap().is_none());
        drop(held);
        assert!(lock(&top).unwrap().is_some());
    }
}
