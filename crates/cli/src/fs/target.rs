//! The directory that an export writes to: what its disk is like, and files that appear whole.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write as _};

use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::time::Timestamp;

use super::names::{self, DiskRules};
use super::root::{Folder, set_mode_and_mtime, stat_file};

/// Bytes that are written at one time.
const CHUNK: usize = 64 * 1024;

/// Finds out how the disk of `folder` tells names apart, by making a file and looking for it under
/// other names. A disk that cannot be written to is taken for one that tells all apart.
pub(crate) fn probe(folder: &Folder) -> DiskRules {
    let unique = names::temporary("-");
    let name = |end: &str| {
        let mut name = unique.clone();
        name.push(end);
        name
    };
    let made = name("caf\u{e9}-a");
    if folder.create_new(&made).is_err() {
        return DiskRules::default();
    }
    let rules = DiskRules {
        case_insensitive: folder.stat(&name("caf\u{e9}-A")).is_ok(),
        normalising: folder.stat(&name("cafe\u{301}-a")).is_ok(),
    };
    let _ = folder.remove_file(&made);
    rules
}

/// What a file is to be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) size: u64,
    pub(crate) digest: Sha256Digest,
    pub(crate) mtime: Option<Timestamp>,
    pub(crate) mode: Option<u32>,
}

/// Why a file was not written.
#[derive(Debug)]
pub(crate) enum NotWritten {
    /// The user stops.
    Interrupted,
    /// The bytes are not those that the tree names.
    WrongBytes,
    /// The disk.
    Io(io::Error),
}

impl From<io::Error> for NotWritten {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Writes a file beside its place, checks its bytes, then gives it its name; with `replace` in
/// place of what has it. Gives the file's device and inode.
pub(crate) fn write_file(
    folder: &Folder,
    name: &OsStr,
    wanted: &Wanted,
    mut bytes: impl Read,
    replace: bool,
    stop: &CancellationToken,
) -> Result<(u64, u64), NotWritten> {
    let temporary = names::temporary("");
    let mut file = match wanted.mode {
        Some(_) => folder.create_new(&temporary)?,
        None => folder.create_new_shared(&temporary)?,
    };
    let written = fill(&mut file, wanted, &mut bytes, stop).and_then(|()| {
        let id = stat_file(&file)?.id;
        folder.rename(&temporary, name, replace)?;
        Ok(id)
    });
    if written.is_err() {
        // If this fails too, the next export removes it.
        let _ = folder.remove_file(&temporary);
    }
    written
}

fn fill(
    file: &mut File,
    wanted: &Wanted,
    bytes: &mut impl Read,
    stop: &CancellationToken,
) -> Result<(), NotWritten> {
    let mut hasher = Sha256::new();
    let length = usize::try_from(wanted.size).unwrap_or(CHUNK).clamp(1, CHUNK);
    let mut buffer = vec![0; length];
    let mut size = 0;
    loop {
        if stop.is_cancelled() {
            return Err(NotWritten::Interrupted);
        }
        let count = match bytes.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        };
        hasher.update(&buffer[..count]);
        file.write_all(&buffer[..count])?;
        size += count as u64;
    }
    if size != wanted.size || hasher.finalize()[..] != wanted.digest.0 {
        return Err(NotWritten::WrongBytes);
    }
    Ok(set_mode_and_mtime(file, wanted.mode, wanted.mtime)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::digest::digest_bytes;
    use crate::fs::root::Root;
    use std::path::Path;

    fn wanted(bytes: &[u8]) -> Wanted {
        Wanted {
            size: bytes.len() as u64,
            digest: digest_bytes(bytes),
            mtime: Timestamp::from_millis(1_234),
            mode: Some(0o755),
        }
    }

    #[test]
    fn a_file_appears_whole_with_its_time_and_bits_and_replaces_only_if_told_to() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Root::open(dir.path()).unwrap().folder(Path::new("")).unwrap();
        let stop = CancellationToken::new();
        let name = OsStr::new("f");
        let write = |bytes: &[u8], replace| {
            write_file(&folder, name, &wanted(bytes), bytes, replace, &stop)
        };
        let id = write(b"one", false).unwrap();
        let stat = folder.stat(name).unwrap();
        assert_eq!((stat.id, stat.mode, stat.mtime.as_millis()), (id, 0o755, 1_234));
        let NotWritten::Io(error) = write(b"two", false).unwrap_err() else { panic!("not told") };
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(dir.path().join("f")).unwrap(), b"one");
        write(b"two", true).unwrap();
        assert_eq!(std::fs::read(dir.path().join("f")).unwrap(), b"two");

        let lie = write_file(&folder, OsStr::new("g"), &wanted(b"abc"), &b"abd"[..], false, &stop);
        assert!(matches!(lie, Err(NotWritten::WrongBytes)));
        stop.cancel();
        let stopped = write_file(&folder, OsStr::new("h"), &wanted(b"a"), &b"a"[..], false, &stop);
        assert!(matches!(stopped, Err(NotWritten::Interrupted)));
        assert_eq!(folder.names().unwrap(), ["f"], "nothing half-done stays");
    }

    #[test]
    fn this_disk_is_probed_without_a_trace() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Root::open(dir.path()).unwrap().folder(Path::new("")).unwrap();
        let rules = probe(&folder);
        assert!(folder.names().unwrap().is_empty());
        std::fs::write(dir.path().join("x"), "").unwrap();
        assert_eq!(rules.case_insensitive, dir.path().join("X").exists());
    }
}
