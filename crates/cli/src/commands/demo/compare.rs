//! Compares two directories: names, types, bytes, times and permission bits.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::Serialize;
use vfs_sync_folder::disk::digest::digest;
use vfs_sync_folder::disk::dir::{Folder, Kind, Root, Stat};
use vfs_sync_folder::disk::names::path_text;

use crate::error::{Failure, Result};

const KEPT: usize = 100;

/// The result of a comparison.
#[derive(Debug, Default, Serialize)]
pub(super) struct Comparison {
    pub(super) files: u64,
    pub(super) folders: u64,
    pub(super) bytes: u64,
    pub(super) differing: u64,
    /// The first differences that were found.
    pub(super) differences: Vec<String>,
}

/// Compares two directories, reading both completely.
pub(super) fn compare(one: &Path, two: &Path) -> Result<Comparison> {
    let read = Failure::io("cannot compare");
    let mut roots = match (Root::open(one), Root::open(two)) {
        (Ok(one), Ok(two)) => [one, two],
        (Err(error), _) | (_, Err(error)) => return Err(read(error)),
    };
    let mut comparison = Comparison::default();
    let mut folders = vec![PathBuf::new()];
    while let Some(path) = folders.pop() {
        let deeper = folder(&mut roots, &path, &mut comparison)
            .map_err(Failure::io(format!("cannot compare {}", path_text(&path))))?;
        folders.extend(deeper);
    }
    Ok(comparison)
}

fn list(folder: &Folder) -> std::io::Result<BTreeMap<OsString, Stat>> {
    folder.names()?.into_iter().map(|name| Ok((name.clone(), folder.stat(&name)?))).collect()
}

fn folder(
    roots: &mut [Root; 2],
    path: &Path,
    comparison: &mut Comparison,
) -> std::io::Result<Vec<PathBuf>> {
    let [one, two] = roots;
    let (one, two) = (one.folder(path)?, two.folder(path)?);
    let (first, mut second) = (list(&one)?, list(&two)?);
    let mut deeper = Vec::new();
    let mut differs = |name: &OsString, what: &str| {
        comparison.differing += 1;
        if comparison.differences.len() < KEPT {
            comparison.differences.push(format!("{}: {what}", path_text(&path.join(name))));
        }
    };
    for (name, a) in &first {
        let Some(b) = second.remove(name) else {
            differs(name, "only in the first");
            continue;
        };
        if a.kind != b.kind {
            differs(name, "of another kind");
            continue;
        }
        if a.mode != b.mode {
            differs(name, "other permission bits");
        }
        match a.kind {
            Kind::Folder => {
                comparison.folders += 1;
                deeper.push(path.join(name));
            }
            Kind::File => {
                comparison.files += 1;
                comparison.bytes += a.size;
                if a.mtime != b.mtime {
                    differs(name, "another time");
                }
                if a.size != b.size
                    || digest(one.open_file(name)?.0)? != digest(two.open_file(name)?.0)?
                {
                    differs(name, "other bytes");
                }
            }
            Kind::Link | Kind::Special(_) => differs(name, "neither file nor folder"),
        }
    }
    second.keys().for_each(|name| differs(name, "only in the second"));
    Ok(deeper)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vfs_sync_core::time::Timestamp;
    use vfs_sync_folder::disk::dir::set_mode_and_mtime;

    #[test]
    fn every_kind_of_difference_is_found() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for dir in [one.path(), two.path()] {
            for name in ["same", "bytes", "time", "mode", "kind"] {
                std::fs::write(dir.join(name), "x").unwrap();
                let file = std::fs::File::open(dir.join(name)).unwrap();
                set_mode_and_mtime(&file, Some(0o644), Timestamp::from_millis(5_000)).unwrap();
            }
            std::fs::create_dir(dir.join("folder")).unwrap();
        }
        assert_eq!(compare(one.path(), two.path()).unwrap().differing, 0);
        let file = |name: &str| std::fs::File::open(two.path().join(name)).unwrap();
        std::fs::write(two.path().join("bytes"), "y").unwrap();
        set_mode_and_mtime(&file("bytes"), None, Timestamp::from_millis(5_000)).unwrap();
        set_mode_and_mtime(&file("time"), None, Timestamp::from_millis(5_001)).unwrap();
        set_mode_and_mtime(&file("mode"), Some(0o755), None).unwrap();
        std::fs::remove_file(two.path().join("kind")).unwrap();
        std::fs::create_dir(two.path().join("kind")).unwrap();
        std::fs::create_dir(one.path().join("folder/only one")).unwrap();
        std::fs::write(two.path().join("only two"), "").unwrap();
        let found = compare(one.path(), two.path()).unwrap();
        assert_eq!(found.differing, 6, "{:?}", found.differences);
    }
}
