//! Reads a directory for an import, one folder at a time.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use vfs_sync_core::id::ItemId;
use vfs_sync_core::item::Name;

use super::disk::dir::{Folder, Kind, Root, Stat};
use super::disk::names;
use super::ignore::{Rules, Trust};
use super::scope::Scope;
use super::{aside, marker};
use crate::report::{Problem, ProblemKind};

/// A file, folder or link that can be imported.
#[derive(Debug, Clone)]
pub(crate) struct ScannedEntry {
    /// The name on the disk.
    pub(crate) disk_name: OsString,
    /// The name in the protocol.
    pub(crate) name: Name,
    pub(crate) stat: Stat,
}

/// The entries of one folder.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// The entries that can be imported, sorted by their names on the disk.
    pub(crate) entries: Vec<ScannedEntry>,
    /// The names that exist but cannot be imported, and do not count as deleted.
    pub(crate) held: Vec<Name>,
    /// The entries that the rules ignore.
    pub(crate) ignored: Vec<(OsString, Stat)>,
    /// The entries that were left out, with reasons.
    pub(crate) problems: Vec<Problem>,
    /// True if the folder could be read completely.
    pub(crate) complete: bool,
}

/// A reader of the folders under a directory.
pub struct Scanner {
    root: Root,
    /// The folders (device and inode) that are not entered: the replica's own.
    excluded: Vec<(u64, u64)>,
    /// The rules that count in another owner's tree.
    pub trust: Trust,
    /// The folders of the tree that are not on this device.
    pub not_here: BTreeSet<ItemId>,
    /// The part of the directory that an import visits: at first all of it.
    pub scope: Scope,
}

impl Scanner {
    /// Opens `directory` for a scan that omits the folders at the paths `excluded`.
    pub fn open(directory: &Path, excluded: &[PathBuf]) -> io::Result<Self> {
        let root = Root::open(directory)?;
        let excluded = excluded
            .iter()
            .filter_map(|path| Root::open(path).ok()?.folder(Path::new("")).ok()?.stat_self().ok())
            .map(|stat| stat.id)
            .collect();
        Ok(Self {
            root,
            excluded,
            trust: Trust::default(),
            not_here: BTreeSet::new(),
            scope: Scope::Whole,
        })
    }

    /// Opens the folder at `relative`, to read its files.
    pub(crate) fn folder(&mut self, relative: &Path) -> io::Result<Folder> {
        self.root.folder(relative)
    }

    /// Returns the scanned directory itself.
    pub fn root(&mut self) -> &mut Root {
        &mut self.root
    }

    /// Returns whether the directory itself is excluded.
    pub fn is_excluded(&mut self) -> bool {
        let top = self.root.folder(Path::new("")).and_then(|folder| folder.stat_self());
        top.is_ok_and(|stat| self.excluded.contains(&stat.id))
    }

    /// Lists the folder at `relative`, to whose entries `rules` apply. Entries that cannot be read
    /// are problems in the listing.
    pub(crate) fn list(&mut self, relative: &Path, rules: &Rules) -> Listing {
        let mut listing = Listing::default();
        let found = self.root.folder(relative).and_then(|folder| {
            let names = folder.names()?;
            Ok((folder, names))
        });
        let (folder, disk_names) = match found {
            Ok(found) => found,
            Err(error) => {
                listing.problems.push(Problem::unreadable(relative, &error));
                return listing;
            }
        };
        listing.complete = true;
        for disk_name in disk_names {
            self.take(&folder, relative, disk_name, rules, &mut listing);
        }
        listing
    }

    fn take(
        &self,
        folder: &Folder,
        relative: &Path,
        disk_name: OsString,
        rules: &Rules,
        listing: &mut Listing,
    ) {
        let path = relative.join(&disk_name);
        let problem = |kind, detail: &str| Problem::new(&path, kind, detail);
        if disk_name == aside::OWN {
            // An earlier version may have imported one: it is not gone.
            listing.held.extend(names::to_protocol(&disk_name));
            return;
        }
        if names::is_displaced(&disk_name) {
            let detail = "moved aside by an interrupted export; the next export keeps it";
            listing.problems.push(problem(ProblemKind::Temporary, detail));
            return;
        }
        if names::is_temporary(&disk_name) {
            let detail = "left behind by an interrupted export; the next export removes it";
            listing.problems.push(problem(ProblemKind::Temporary, detail));
            return;
        }
        let stat = folder.stat(&disk_name);
        if let Ok(stat) = &stat
            && !self.excluded.contains(&stat.id)
            && rules.ignore_entry(relative, &disk_name, stat)
        {
            listing.ignored.push((disk_name, *stat));
            return;
        }
        let name = match names::to_protocol(&disk_name) {
            Ok(name) => name,
            Err(reason) => {
                let detail = format!("the name, once escaped, {reason}");
                listing.problems.push(problem(ProblemKind::Name, &detail));
                return;
            }
        };
        let stat = match stat {
            Ok(stat) => stat,
            // Gone since the listing: it does not exist.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                listing.problems.push(Problem::unreadable(&path, &error));
                listing.held.push(name);
                return;
            }
        };
        let refused = match stat.kind {
            Kind::File | Kind::Link => None,
            Kind::Folder if self.excluded.contains(&stat.id) => {
                Some(problem(ProblemKind::OwnReplica, "the replica keeps its own files here"))
            }
            Kind::Folder if marker::is_in(folder, &disk_name) => Some(marker::of_another(&path)),
            Kind::Folder => None,
            Kind::Special(what) => {
                Some(problem(ProblemKind::SpecialFile, &format!("it is {what}")))
            }
        };
        match refused {
            None => {
                if let Some(detail) = stat.time_problem().filter(|_| stat.kind == Kind::File) {
                    listing.problems.push(problem(ProblemKind::Time, &detail));
                }
                listing.entries.push(ScannedEntry { disk_name, name, stat });
            }
            Some(problem) => {
                listing.problems.push(problem);
                listing.held.push(name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;

    #[test]
    fn a_time_that_cannot_be_carried_is_told_and_the_file_is_kept() {
        // Most disks cannot represent such a time.
        let shm = Path::new("/dev/shm");
        let dir = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() };
        let dir = dir.unwrap();
        for (name, seconds) in [("last", 253_402_300_799), ("after", 253_402_300_800)] {
            let file = std::fs::File::create(dir.path().join(name)).unwrap();
            let time = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: 999_000_000 };
            let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
            rustix::fs::futimens(&file, &times).unwrap();
        }
        let listing =
            Scanner::open(dir.path(), &[]).unwrap().list(Path::new(""), &Rules::default());
        let at = |name: &str| listing.entries.iter().find(|e| e.disk_name == *name).unwrap();
        let last = vfs_sync_core::time::Timestamp::MAX;
        if at("last").stat.mtime != last {
            return;
        }
        assert_eq!(at("after").stat.mtime, last, "the nearest");
        assert_eq!(listing.problems.len(), 1, "{:?}", listing.problems);
        assert_eq!(
            (&*listing.problems[0].path, listing.problems[0].kind),
            ("after", ProblemKind::Time)
        );
    }

    #[test]
    fn pipes_sockets_and_the_replica_are_reported_and_the_rest_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("file"), "x").unwrap();
        std::fs::create_dir(at("empty")).unwrap();
        std::fs::create_dir(at("replica")).unwrap();
        std::fs::create_dir(at(aside::OWN)).unwrap();
        std::fs::write(at(".vfs-sync-tmp-1"), "own").unwrap();
        std::fs::write(dir.path().join(names::temporary("")), "half").unwrap();
        std::os::unix::fs::symlink("file", at("link")).unwrap();
        std::os::unix::fs::symlink("/nowhere", at("dangling")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        std::fs::write(dir.path().join(OsStr::from_bytes(b"caf\xE9")), "é").unwrap();
        std::fs::write(dir.path().join(OsStr::from_bytes(&[0xFE; 120])), "long").unwrap();

        let mut scanner = Scanner::open(dir.path(), &[at("replica")]).unwrap();
        let listing = scanner.list(Path::new(""), &Rules::default());
        let names: Vec<_> = listing.entries.iter().map(|seen| seen.name.as_str()).collect();
        assert_eq!(names, [".vfs-sync-tmp-1", "%raw%caf%E9", "dangling", "empty", "file", "link"]);
        let mut kinds: Vec<_> = listing.problems.iter().map(|p| p.kind.as_str()).collect();
        kinds.sort_unstable();
        assert_eq!(kinds, ["name", "ownReplica", "specialFile", "temporary"]);
        let held: Vec<_> = listing.held.iter().map(Name::as_str).collect();
        assert_eq!(held, [aside::OWN, "replica", "socket"]);
        assert!(listing.complete);
    }

    #[test]
    fn a_folder_that_cannot_be_read_is_not_taken_for_empty() {
        let dir = tempfile::tempdir().unwrap();
        let mut scanner = Scanner::open(dir.path(), &[]).unwrap();
        let listing = scanner.list(Path::new("gone"), &Rules::default());
        assert!(!listing.complete && listing.entries.is_empty());
        assert_eq!(listing.problems[0].kind, ProblemKind::Unreadable);
    }
}
