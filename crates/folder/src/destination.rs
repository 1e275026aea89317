//! The destination of an export: the disk's rules for names, and files that are replaced
//! atomically.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write as _};

use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::time::Timestamp;

use super::disk::dir::{Folder, Stat, accept_refused_mode, set_mode_and_mtime, stat_file};
use super::disk::names::{self, DiskRules};
use super::record::is_same_but_renamed;
use super::seam::{self, Operation};

/// The number of bytes that are written at a time.
const CHUNK: usize = 64 * 1024;

/// Detects how the disk of `folder` distinguishes names, by creating a file and looking it up under
/// variants of its name. A disk that cannot be written to counts as one that distinguishes all
/// names.
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
    let normalising = folder.stat(&name("cafe\u{301}-a")).is_ok();
    let decomposed = name("cafe\u{301}-a");
    let lists =
        |name: &OsStr| folder.names().is_ok_and(|names| names.iter().any(|listed| listed == name));
    let rules = DiskRules {
        case_insensitive: folder.stat(&name("caf\u{e9}-A")).is_ok(),
        normalising,
        decomposing: normalising && lists(&decomposed),
        strips_dots: folder.stat(&name("caf\u{e9}-a.")).is_ok(),
        strips_spaces: folder.stat(&name("caf\u{e9}-a ")).is_ok(),
    };
    let _ = folder.remove_file(&made);
    rules
}

/// Detects whether the disk of `folder` keeps permission bits, by creating a file and changing its
/// bits. A disk that cannot be written to counts as one that does.
pub(crate) fn keeps_modes(folder: &Folder) -> bool {
    let keeps = |file: &File, mode| {
        set_mode_and_mtime(file, Some(mode), None).is_ok()
            && stat_file(file).is_ok_and(|stat| stat.mode == mode)
    };
    let keeps_all = |file: &File| keeps(file, 0o640) && keeps(file, 0o600);
    // A process that is killed now leaves nothing in the user's directory.
    if let Ok(file) = folder.create_unnamed() {
        return keeps_all(&file);
    }
    let name = names::temporary("");
    let Ok(file) = folder.create_new(&name) else { return true };
    let kept = keeps_all(&file);
    let _ = folder.remove_file(&name);
    kept
}

/// The intended state of a file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) size: u64,
    pub(crate) digest: Sha256Digest,
    pub(crate) mtime: Option<Timestamp>,
    pub(crate) mode: Option<u32>,
}

/// The reason why a file was not written.
#[derive(Debug)]
pub(crate) enum NotWritten {
    /// The user stopped the command.
    Interrupted,
    /// The bytes differ from those of the item in the tree.
    WrongBytes,
    /// The disk reported an error.
    Io(io::Error),
}

impl From<io::Error> for NotWritten {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The files that a write may replace.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Over {
    /// No file may be replaced: if the name is taken, nothing is written.
    Nothing,
    /// Only this file may be replaced; any other is kept beside the new one.
    Expected(Stat),
    /// Any file may be replaced, and is kept beside the new one.
    Anything,
}

/// Disposes of a file that lost its name and is as it was expected: its folder, and its present name.
pub(crate) type Dispose<'a> = &'a mut dyn FnMut(&Folder, &OsStr) -> io::Result<()>;

/// Writes a file under the temporary name of `unique`, and verifies its bytes.
pub(crate) fn write_file(
    folder: &Folder,
    unique: &str,
    wanted: &Wanted,
    mut bytes: impl Read,
    stop: &CancellationToken,
) -> Result<Stat, NotWritten> {
    let temporary = names::temporary_of(unique);
    let mut file = match wanted.mode {
        Some(_) => folder.create_new(&temporary)?,
        None => folder.create_new_shared(&temporary)?,
    };
    let written = fill(&mut file, wanted, &mut bytes, stop).and_then(|()| {
        folder.sync_file(&file)?;
        Ok(stat_file(&file)?)
    });
    if written.is_err() {
        // If this fails too, the next export removes it.
        let _ = folder.remove_file(&temporary);
    }
    written
}

/// Makes a symbolic link under the temporary name of `unique`.
pub(crate) fn write_link(folder: &Folder, unique: &str, target: &OsStr) -> io::Result<Stat> {
    let temporary = names::temporary_of(unique);
    folder.create_link(target, &temporary)?;
    folder.stat(&temporary).inspect_err(|_| {
        let _ = folder.remove_file(&temporary);
    })
}

/// Gives the file with the temporary name of `unique` its final name; returns the name under which
/// the previous file was kept. It gets the name of `device` then; an expected one is disposed of.
pub(crate) fn place(
    folder: &Folder,
    unique: &str,
    name: &OsStr,
    over: Over,
    device: &str,
    dispose: Dispose<'_>,
) -> io::Result<Option<OsString>> {
    let temporary = &names::temporary_of(unique);
    let expected = match over {
        Over::Nothing => {
            folder.rename(temporary, name, false)?;
            return Ok(None);
        }
        Over::Expected(stat) => Some(stat),
        Over::Anything => None,
    };
    // After a crash from here on, the file under this name may be the user's work.
    let displaced = names::displaced_of(unique);
    folder.rename(temporary, &displaced, false)?;
    let swapped = folder.exchange(&displaced, name);
    let aside = match swapped {
        Ok(true) => Some(displaced),
        Ok(false) => {
            // Here the previous file gets that name.
            folder.rename(&displaced, temporary, false)?;
            let there = match folder.rename(name, &displaced, false) {
                Ok(()) => Some(displaced),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => {
                    let _ = folder.remove_file(temporary);
                    return Err(error);
                }
            };
            if let Err(error) = folder.rename(temporary, name, false) {
                let _ = folder.remove_file(temporary);
                if let Some(aside) = &there {
                    keep(folder, aside, name, device)?;
                }
                return Err(error);
            }
            there
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            folder.rename(&displaced, name, false).inspect_err(|_| {
                let _ = folder.remove_file(&displaced);
            })?;
            None
        }
        Err(error) => {
            let _ = folder.remove_file(&displaced);
            return Err(error);
        }
    };
    let Some(aside) = aside else { return Ok(None) };
    let now = folder.stat(&aside)?;
    if expected.is_some_and(|expected| is_same_but_renamed(&expected, &now)) {
        dispose(folder, &aside)?;
        return Ok(None);
    }
    keep(folder, &aside, name, device).map(Some)
}

/// Disposes of a file if it is unchanged since `seen`; returns `false` if it changed and stays.
pub(crate) fn remove_expected(
    folder: &Folder,
    name: &OsStr,
    seen: &Stat,
    dispose: Dispose<'_>,
) -> io::Result<bool> {
    let aside = names::displaced();
    match folder.rename(name, &aside, false) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        done => done?,
    }
    if is_same_but_renamed(seen, &folder.stat(&aside)?) {
        dispose(folder, &aside)?;
        return Ok(true);
    }
    // It gets its name back, unless another file has taken it.
    if folder.rename(&aside, name, false).is_err() {
        keep(folder, &aside, name, "device")?;
    }
    Ok(false)
}

/// Renames `aside` to a conflicted copy of `name`.
pub(crate) fn keep(
    folder: &Folder,
    aside: &OsStr,
    name: &OsStr,
    device: &str,
) -> io::Result<OsString> {
    let at = folder.stat(aside)?.mtime;
    let mut number = 0;
    loop {
        let copy = names::conflict_copy(name, device, at, number);
        match folder.rename(aside, &copy, false) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            done => return done.map(|()| copy),
        }
    }
}

/// Gives an entry another spelling of its name, which the disk takes for the same name.
pub(crate) fn respell(folder: &Folder, from: &OsStr, to: &OsStr) -> io::Result<()> {
    // Some disks take this for no change at all.
    folder.rename(from, to, true)?;
    if folder.names()?.iter().any(|name| name == to) {
        return Ok(());
    }
    let between = names::displaced();
    folder.rename(from, &between, false)?;
    folder.rename(&between, to, false).or_else(|error| {
        folder.rename(&between, from, false)?;
        Err(error)
    })
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
        seam::before(Operation::Write)?;
        file.write_all(&buffer[..count])?;
        size += count as u64;
    }
    if size != wanted.size || hasher.finalize()[..] != wanted.digest.0 {
        return Err(NotWritten::WrongBytes);
    }
    set_mode_and_mtime(file, wanted.mode, None).or_else(accept_refused_mode)?;
    Ok(set_mode_and_mtime(file, None, wanted.mtime)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::digest::digest_bytes;
    use crate::disk::dir::Root;
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
        struct Placed {
            stat: Stat,
            kept: Option<OsString>,
        }
        let write_as = |name: &str, says: &[u8], bytes: &[u8], over| {
            let (unique, name) = (names::unique(), OsStr::new(name));
            write_file(&folder, &unique, &wanted(says), bytes, &stop)?;
            let mut remove = |folder: &Folder, name: &OsStr| folder.remove_file(name);
            let kept = place(&folder, &unique, name, over, "laptop", &mut remove);
            let kept = kept.inspect_err(|_| {
                let _ = folder.remove_file(&names::temporary_of(&unique));
            })?;
            Ok::<_, NotWritten>(Placed { stat: folder.stat(name)?, kept })
        };
        let write = |bytes: &[u8], over| write_as("f", bytes, bytes, over);
        let one = write(b"one", Over::Nothing).unwrap().stat;
        let stat = folder.stat(name).unwrap();
        assert_eq!((stat, stat.mode, stat.mtime.as_millis()), (one, 0o755, 1_234));
        let Err(NotWritten::Io(error)) = write(b"two", Over::Nothing) else {
            panic!("an error of the disk")
        };
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(dir.path().join("f")).unwrap(), b"one");
        let two = write(b"two", Over::Expected(one)).unwrap();
        assert_eq!((std::fs::read(dir.path().join("f")).unwrap(), two.kept), (b"two".into(), None));
        // Saved since it was compared: it is kept, even with the same size.
        std::fs::write(dir.path().join("f"), "mine").unwrap();
        let kept = write(b"three", Over::Expected(two.stat)).unwrap().kept.unwrap();
        assert!(kept.to_str().unwrap().starts_with("f (conflict laptop "), "{kept:?}");
        assert_eq!(std::fs::read(dir.path().join(&kept)).unwrap(), b"mine");
        assert_eq!(std::fs::read(dir.path().join("f")).unwrap(), b"three");
        let other = write(b"four", Over::Anything).unwrap().kept.unwrap();
        assert_eq!(std::fs::read(dir.path().join(&other)).unwrap(), b"three");
        folder.remove_file(&kept).unwrap();
        folder.remove_file(&other).unwrap();

        let lie = write_as("g", b"abc", b"abd", Over::Nothing);
        assert!(matches!(lie, Err(NotWritten::WrongBytes)));
        stop.cancel();
        let stopped = write_as("h", b"a", b"a", Over::Nothing);
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
