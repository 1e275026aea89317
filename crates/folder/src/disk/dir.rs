//! A directory and its contents, opened folder by folder and never through a symbolic link.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{self as sys, AtFlags, Mode, OFlags};
use vfs_sync_client::DiskTime;
use vfs_sync_core::time::Timestamp;

use super::durable::Syncs;
use crate::seam::{self, Operation};

/// The number of folders that are kept open at each end of a path; those between are reopened from
/// the nearest open one above.
const KEPT_OPEN: usize = 64;

/// The bytes of a disk that nothing is written into from elsewhere.
const RESERVE: u64 = 500_000_000;

/// The type of an entry on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A file with a content.
    File,
    /// A folder with entries of its own.
    Folder,
    /// A symbolic link, which nothing follows.
    Link,
    /// Another type, with its name in a message.
    Special(&'static str),
}

/// The attributes of an entry on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// The kind of the entry.
    pub kind: Kind,
    /// The entry's size in bytes.
    pub size: u64,
    /// The modification time in milliseconds, clamped to the protocol's range.
    pub mtime: Timestamp,
    /// The permission bits, without set-id and sticky bits.
    pub mode: u32,
    /// Device and inode, which are equal for two names of one file.
    pub id: (u64, u64),
    /// The modification time at the disk's precision.
    pub modified: DiskTime,
    /// The time of the last change of the inode.
    pub changed: DiskTime,
    /// The time of birth, if the file system reports it.
    pub born: Option<DiskTime>,
}

/// Reads the attributes of a name in a folder, or of the open file itself.
#[cfg(target_os = "linux")]
fn stat_at<Fd: std::os::fd::AsFd>(fd: Fd, name: Option<&OsStr>) -> io::Result<Stat> {
    seam::before(Operation::Stat)?;
    use sys::StatxFlags as F;
    let (path, flags) = match name {
        Some(name) => (name, AtFlags::SYMLINK_NOFOLLOW),
        None => (OsStr::new(""), AtFlags::EMPTY_PATH),
    };
    match sys::statx(&fd, path, flags, F::BASIC_STATS | F::BTIME) {
        Ok(found) => Ok(Stat::of_statx(&found)),
        // The kernel or a sandbox lacks the call.
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => plain_stat_at(fd, name),
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(target_os = "linux"))]
fn stat_at<Fd: std::os::fd::AsFd>(fd: Fd, name: Option<&OsStr>) -> io::Result<Stat> {
    plain_stat_at(fd, name)
}

fn plain_stat_at<Fd: std::os::fd::AsFd>(fd: Fd, name: Option<&OsStr>) -> io::Result<Stat> {
    Ok(Stat::of(&match name {
        Some(name) => sys::statat(fd, name, AtFlags::SYMLINK_NOFOLLOW)?,
        None => sys::fstat(fd)?,
    }))
}

impl Stat {
    #[allow(clippy::unnecessary_cast, reason = "the fields' types differ between systems")]
    fn of(stat: &sys::Stat) -> Self {
        let time = |seconds: i64, nanos: i64| DiskTime {
            seconds,
            nanos: u32::try_from(nanos).unwrap_or(0),
        };
        Self::new(
            stat.st_mode as u32,
            u64::try_from(stat.st_size).unwrap_or(0),
            (stat.st_dev as u64, stat.st_ino as u64),
            time(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            time(stat.st_ctime as i64, stat.st_ctime_nsec as i64),
            None,
        )
    }

    #[cfg(target_os = "linux")]
    fn of_statx(found: &sys::Statx) -> Self {
        let time = |at: &sys::StatxTimestamp| DiskTime { seconds: at.tv_sec, nanos: at.tv_nsec };
        let has_born = found.stx_mask & sys::StatxFlags::BTIME.bits() != 0;
        let device = sys::makedev(found.stx_dev_major, found.stx_dev_minor);
        Self::new(
            u32::from(found.stx_mode),
            found.stx_size,
            (device, found.stx_ino),
            time(&found.stx_mtime),
            time(&found.stx_ctime),
            has_born.then(|| time(&found.stx_btime)),
        )
    }

    fn new(
        mode: u32,
        size: u64,
        id: (u64, u64),
        modified: DiskTime,
        changed: DiskTime,
        born: Option<DiskTime>,
    ) -> Self {
        let kind = match sys::FileType::from_raw_mode(mode as _) {
            sys::FileType::RegularFile => Kind::File,
            sys::FileType::Directory => Kind::Folder,
            sys::FileType::Symlink => Kind::Link,
            sys::FileType::Fifo => Kind::Special("a named pipe"),
            sys::FileType::Socket => Kind::Special("a socket"),
            sys::FileType::CharacterDevice => Kind::Special("a character device"),
            sys::FileType::BlockDevice => Kind::Special("a block device"),
            _ => Kind::Special("of an unknown kind"),
        };
        let (seconds, nanos) = (modified.seconds, i64::from(modified.nanos));
        let millis = seconds.saturating_mul(1_000).saturating_add(nanos / 1_000_000);
        let held = millis.clamp(Timestamp::MIN.as_millis(), Timestamp::MAX.as_millis());
        Self {
            kind,
            size,
            mtime: Timestamp::from_millis(held).unwrap_or(Timestamp::MIN),
            mode: mode & 0o777,
            id,
            modified,
            changed,
            born,
        }
    }

    /// Describes a modification time that the protocol cannot represent.
    pub fn time_problem(&self) -> Option<String> {
        let (seconds, nanos) = (self.modified.seconds, i64::from(self.modified.nanos));
        let millis = seconds.saturating_mul(1_000).saturating_add(nanos / 1_000_000);
        Timestamp::from_millis(millis).is_none().then(|| {
            let nearest = self.mtime;
            format!("its time, {seconds} s from 1970, cannot be represented: {nearest} is used")
        })
    }

    /// Returns whether the file is unchanged since `other`, as far as its attributes show.
    pub(crate) fn unchanged_since(&self, other: &Self) -> bool {
        self == other
    }
}

/// Reads the attributes of an open file, for [`Stat::unchanged_since`].
pub(crate) fn stat_file(file: &File) -> io::Result<Stat> {
    stat_at(file, None)
}

/// The top folder of a tree on the disk.
pub struct Root {
    path: PathBuf,
    top: Folder,
    /// The folders on the path to the last opened folder, from the top; the middle ones of a long
    /// path are closed.
    chain: Vec<(OsString, Option<Folder>)>,
}

impl Root {
    /// Opens the folder at `path`; links in `path` itself are the caller's and are followed.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = sys::open(path, flags, Mode::empty())?;
        let syncs = Syncs::of(&fd);
        Ok(Self { path: path.to_owned(), top: Folder(Arc::new(fd), syncs), chain: Vec::new() })
    }

    /// Returns the path as it was given.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the folder at `relative`; no step may be a link.
    pub fn folder(&mut self, relative: &Path) -> io::Result<Folder> {
        let mut steps = Vec::new();
        for component in relative.components() {
            match component {
                Component::Normal(name) => steps.push(name),
                Component::CurDir => {}
                _ => {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidInput,
                        "the path leads outside",
                    ));
                }
            }
        }
        let shared = self.chain.iter().zip(&steps).take_while(|((a, _), b)| a == *b).count();
        self.chain.truncate(shared);
        let open = self.chain.iter().rposition(|(_, folder)| folder.is_some());
        let nearest = open.and_then(|at| self.chain[at].1.clone());
        let mut folder = nearest.unwrap_or_else(|| self.top.clone());
        for (depth, name) in steps.iter().enumerate().skip(open.map_or(0, |at| at + 1)) {
            folder = folder.folder(name)?;
            match self.chain.get_mut(depth) {
                Some((_, kept)) => *kept = Some(folder.clone()),
                None => self.chain.push(((*name).to_owned(), Some(folder.clone()))),
            }
            if let Some(middle) = depth.checked_sub(KEPT_OPEN).filter(|at| *at >= KEPT_OPEN) {
                self.chain[middle].1 = None;
            }
        }
        Ok(folder)
    }

    /// Closes the folders at and under `relative`, which is about to be renamed or removed.
    pub(crate) fn forget(&mut self, relative: &Path) {
        let depth = relative.components().count().saturating_sub(1);
        self.chain.truncate(depth);
    }
}

/// An open folder on the disk.
#[derive(Debug, Clone)]
pub struct Folder(pub(super) Arc<OwnedFd>, pub(super) Syncs);

impl Folder {
    /// Opens a subfolder; a link is an error.
    pub(crate) fn folder(&self, name: &OsStr) -> io::Result<Self> {
        seam::before(Operation::Open)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = sys::openat(&*self.0, name, flags, Mode::empty())?;
        Ok(Self(Arc::new(fd), self.1))
    }

    /// Returns the names in the folder, sorted by bytes.
    pub fn names(&self) -> io::Result<Vec<OsString>> {
        seam::before(Operation::List)?;
        let mut names = Vec::new();
        for entry in sys::Dir::read_from(&*self.0)? {
            seam::before(Operation::List)?;
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(OsStr::from_bytes(name).to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Reads the attributes of `name`; for a link, those of the link rather than of its target.
    pub fn stat(&self, name: &OsStr) -> io::Result<Stat> {
        stat_at(&*self.0, Some(name))
    }

    /// Reads the attributes of the folder itself.
    pub(crate) fn stat_self(&self) -> io::Result<Stat> {
        stat_at(&*self.0, None)
    }

    /// Opens a file for reading; a link is an error, and a pipe in its place does not block.
    pub fn open_file(&self, name: &OsStr) -> io::Result<(File, Stat)> {
        seam::before(Operation::Open)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(sys::openat(&*self.0, name, flags, Mode::empty())?);
        let stat = stat_file(&file)?;
        if stat.kind != Kind::File {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no longer a file"));
        }
        Ok((file, stat))
    }

    /// Creates a new file that only its owner may read and write.
    pub(crate) fn create_new(&self, name: &OsStr) -> io::Result<File> {
        self.create_with(name, 0o600)
    }

    /// Creates a new file with the permission bits that the umask allows.
    pub(crate) fn create_new_shared(&self, name: &OsStr) -> io::Result<File> {
        self.create_with(name, 0o666)
    }

    /// Creates a file that has no name, and goes when it is closed; not every disk can.
    #[cfg(target_os = "linux")]
    pub(crate) fn create_unnamed(&self) -> io::Result<File> {
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        Ok(File::from(sys::openat(&*self.0, ".", flags, Mode::RUSR | Mode::WUSR)?))
    }

    /// Fails, because only Linux has files without a name.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn create_unnamed(&self) -> io::Result<File> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn create_with(&self, name: &OsStr, mode: u32) -> io::Result<File> {
        seam::before(Operation::Create)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(sys::openat(&*self.0, name, flags, Mode::from_raw_mode(mode as _))?))
    }

    /// Writes a file for its owner alone in place of any other, completely or not at all; `unfinished`
    /// is its name until then.
    pub(crate) fn replace_file(
        &self,
        name: &OsStr,
        unfinished: &OsStr,
        bytes: &[u8],
    ) -> io::Result<()> {
        match self.remove_file(unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = self.create_new(unfinished)?;
        seam::before(Operation::Write)?;
        file.write_all(bytes)?;
        seam::before(Operation::Sync)?;
        file.sync_all()?;
        self.rename(unfinished, name, true)
    }

    /// Reads the target of a symbolic link.
    pub(crate) fn read_link(&self, name: &OsStr) -> io::Result<OsString> {
        seam::before(Operation::Target)?;
        let target = sys::readlinkat(&*self.0, name, Vec::new())?;
        Ok(OsString::from_vec(target.into_bytes()))
    }

    /// Creates a symbolic link under a name that must not exist yet.
    pub(crate) fn create_link(&self, target: &OsStr, name: &OsStr) -> io::Result<()> {
        seam::before(Operation::Create)?;
        Ok(sys::symlinkat(target, &*self.0, name)?)
    }

    /// Creates a folder that must not exist yet.
    pub(crate) fn create_folder(&self, name: &OsStr) -> io::Result<()> {
        seam::before(Operation::Create)?;
        Ok(sys::mkdirat(&*self.0, name, Mode::from_raw_mode(0o777))?)
    }

    /// Creates a folder that must not exist yet, for this user only.
    pub(crate) fn create_private_folder(&self, name: &OsStr) -> io::Result<()> {
        seam::before(Operation::Create)?;
        Ok(sys::mkdirat(&*self.0, name, Mode::from_raw_mode(0o700))?)
    }

    /// Opens a file for appending; it is created for this user only.
    pub(crate) fn append(&self, name: &OsStr) -> io::Result<File> {
        seam::before(Operation::Create)?;
        let flags =
            OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(sys::openat(&*self.0, name, flags, Mode::from_raw_mode(0o600))?))
    }

    /// Renames `from` to `to`; an existing `to` is replaced only if `replace`.
    pub(crate) fn rename(&self, from: &OsStr, to: &OsStr, replace: bool) -> io::Result<()> {
        seam::before(Operation::Rename)?;
        if replace {
            return Ok(sys::renameat(&*self.0, from, &*self.0, to)?);
        }
        match sys::renameat_with(&*self.0, from, &*self.0, to, sys::RenameFlags::NOREPLACE) {
            // The disk cannot do it atomically: a hard link fails where the name is taken.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                match sys::linkat(&*self.0, from, &*self.0, to, AtFlags::empty()) {
                    Ok(()) => Ok(sys::unlinkat(&*self.0, from, AtFlags::empty())?),
                    Err(rustix::io::Errno::EXIST) => Err(rustix::io::Errno::EXIST.into()),
                    Err(_) if self.stat(to).is_ok() => Err(rustix::io::Errno::EXIST.into()),
                    Err(_) => Ok(sys::renameat(&*self.0, from, &*self.0, to)?),
                }
            }
            done => Ok(done?),
        }
    }

    /// Renames an entry to a name in another folder, which must be free. Fails where the disk cannot
    /// do so atomically.
    pub(crate) fn rename_to(&self, from: &OsStr, folder: &Self, to: &OsStr) -> io::Result<()> {
        seam::before(Operation::Rename)?;
        let flags = sys::RenameFlags::NOREPLACE;
        Ok(sys::renameat_with(&*self.0, from, &*folder.0, to, flags)?)
    }

    /// Renames an entry to a name in another folder, which must be free, also where the disk cannot
    /// do so atomically.
    pub(crate) fn move_to(&self, from: &OsStr, folder: &Self, to: &OsStr) -> io::Result<()> {
        match self.rename_to(from, folder, to) {
            Err(error) if is_unsupported(&error) => match folder.stat(to) {
                Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
                Err(_) => Ok(sys::renameat(&*self.0, from, &*folder.0, to)?),
            },
            done => done,
        }
    }

    /// Exchanges two names atomically; returns `false` if the file system does not support it.
    pub(crate) fn exchange(&self, one: &OsStr, other: &OsStr) -> io::Result<bool> {
        seam::before(Operation::Rename)?;
        #[cfg(target_os = "linux")]
        match sys::renameat_with(&*self.0, one, &*self.0, other, sys::RenameFlags::EXCHANGE) {
            Ok(()) => return Ok(true),
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(false)
    }

    /// Sets the permission bits and the modification time of a file by name, also of one that may
    /// not be read; a link is an error.
    pub(crate) fn set_file_mode_and_mtime(
        &self,
        name: &OsStr,
        mode: Option<u32>,
        mtime: Option<Timestamp>,
    ) -> io::Result<()> {
        match self.open_file(name) {
            Ok((file, _)) => {
                set_mode_and_mtime(&file, mode, None).or_else(accept_refused_mode)?;
                set_mode_and_mtime(&file, None, mtime)
            }
            #[cfg(target_os = "linux")]
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let fd = sys::openat(&*self.0, name, flags, Mode::empty())?;
                if stat_at(&fd, None)?.kind != Kind::File {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidInput,
                        "it is no longer a file",
                    ));
                }
                let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
                if let Some(mode) = mode {
                    sys::chmod(path.as_str(), Mode::from_raw_mode((mode & 0o777) as _))
                        .or_else(|error| accept_refused_mode(error.into()))?;
                }
                if let Some(mtime) = mtime {
                    let times = timestamps(mtime);
                    sys::utimensat(sys::CWD, path.as_str(), &times, AtFlags::empty())?;
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Removes a name that is not a folder.
    pub(crate) fn remove_file(&self, name: &OsStr) -> io::Result<()> {
        seam::before(Operation::Remove)?;
        Ok(sys::unlinkat(&*self.0, name, AtFlags::empty())?)
    }

    /// Removes an empty folder.
    pub(crate) fn remove_folder(&self, name: &OsStr) -> io::Result<()> {
        seam::before(Operation::Remove)?;
        Ok(sys::unlinkat(&*self.0, name, AtFlags::REMOVEDIR)?)
    }

    /// Sets the permission bits of the folder itself.
    pub(crate) fn set_mode(&self, mode: u32) -> io::Result<()> {
        seam::before(Operation::Attributes)?;
        Ok(sys::fchmod(&*self.0, Mode::from_raw_mode(mode as _))?)
    }

    /// Returns the size of the folder's file system, in bytes.
    pub(crate) fn disk_size(&self) -> io::Result<u64> {
        let found = sys::fstatvfs(&*self.0)?;
        Ok(found.f_blocks.saturating_mul(found.f_frsize))
    }

    /// Returns whether the folder's file system can take `bytes` more and still has 1 % of its size, or
    /// [`RESERVE`] if that is less. Also true if it does not say.
    pub(crate) fn has_room(&self, bytes: u64) -> bool {
        let Ok(found) = sys::fstatvfs(&*self.0) else { return true };
        let (size, free) = (found.f_blocks.saturating_mul(found.f_frsize), found.f_bavail);
        let free = free.saturating_mul(found.f_frsize);
        size == 0 || free >= bytes.saturating_add(RESERVE.min(size / 100))
    }

    /// Locks the folder for this process; returns `false` if another process holds the lock.
    pub(crate) fn lock(&self) -> io::Result<bool> {
        match sys::flock(&*self.0, sys::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
            // Some network file systems have no locks on folders.
            Err(rustix::io::Errno::BADF | rustix::io::Errno::NOTSUP | rustix::io::Errno::INVAL) => {
                Ok(true)
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    let errno = error.raw_os_error();
    [rustix::io::Errno::INVAL, rustix::io::Errno::NOSYS]
        .iter()
        .any(|no| errno == Some(no.raw_os_error()))
}

/// Returns whether an error says that there is no entry of a name, or of a part of a path.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Accepts that a disk does not support permission bits, or not these.
pub(crate) fn accept_refused_mode(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported => Ok(()),
        _ => Err(error),
    }
}

/// Sets the permission bits and the modification time of an open file.
pub fn set_mode_and_mtime(
    file: &File,
    mode: Option<u32>,
    mtime: Option<Timestamp>,
) -> io::Result<()> {
    seam::before(Operation::Attributes)?;
    if let Some(mode) = mode {
        sys::fchmod(file, Mode::from_raw_mode((mode & 0o777) as _))?;
    }
    if let Some(mtime) = mtime {
        sys::futimens(file, &timestamps(mtime))?;
    }
    Ok(())
}

fn timestamps(mtime: Timestamp) -> sys::Timestamps {
    let millis = mtime.as_millis();
    let nanos = millis.rem_euclid(1_000) * 1_000_000;
    sys::Timestamps {
        last_access: sys::Timespec { tv_sec: 0, tv_nsec: sys::UTIME_OMIT as _ },
        last_modification: sys::Timespec {
            tv_sec: millis.div_euclid(1_000) as _,
            tv_nsec: nanos as _,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_on_the_way_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("in")).unwrap();
        std::fs::create_dir_all(dir.path().join("out/deep")).unwrap();
        std::os::unix::fs::symlink("../out", dir.path().join("in/link")).unwrap();
        let mut root = Root::open(&dir.path().join("in")).unwrap();
        assert!(root.folder(Path::new("link")).is_err());
        assert!(root.folder(Path::new("link/deep")).is_err());
        assert!(root.folder(Path::new("..")).is_err());
        assert!(root.folder(Path::new("/etc")).is_err());
        std::fs::write(dir.path().join("out/f"), "x").unwrap();
        let out = Root::open(&dir.path().join("out")).unwrap().folder(Path::new("")).unwrap();
        std::os::unix::fs::symlink("f", dir.path().join("out/l")).unwrap();
        assert!(out.open_file(OsStr::new("l")).is_err());
        assert!(out.create_new(OsStr::new("l")).is_err());
    }

    #[test]
    fn a_tree_deeper_than_any_path_may_be_long_is_reached_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let mut root = Root::open(dir.path()).unwrap();
        let name = "d".repeat(100);
        let mut path = PathBuf::new();
        for _ in 0..150 {
            root.folder(&path).unwrap().create_folder(OsStr::new(&name)).unwrap();
            path.push(&name);
        }
        assert!(path.as_os_str().len() > 4_096);
        let open = root.chain.iter().filter(|(_, folder)| folder.is_some()).count();
        assert!(open <= 2 * KEPT_OPEN, "{open} folders are open");
        root.folder(&path).unwrap().create_new(OsStr::new("file")).unwrap();
        // Upwards again, step by step, and to folders beside the path.
        let deepest = path.clone();
        for _ in 0..150 {
            root.folder(&path).unwrap();
            path.pop();
        }
        let found = root.folder(&deepest).unwrap().names().unwrap();
        assert_eq!(found, [OsStr::new("file")]);
        root.folder(&deepest).unwrap().remove_file(OsStr::new("file")).unwrap();
        path = deepest;
        while let Some(parent) = path.parent().map(Path::to_owned) {
            root.forget(&path);
            root.folder(&parent).unwrap().remove_folder(OsStr::new(&name)).unwrap();
            path = parent;
        }
    }

    #[test]
    fn a_rename_replaces_only_if_told_to() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Root::open(dir.path()).unwrap().folder(Path::new("")).unwrap();
        std::fs::write(dir.path().join("a"), "a").unwrap();
        std::fs::write(dir.path().join("b"), "b").unwrap();
        let (a, b) = (OsStr::new("a"), OsStr::new("b"));
        assert_eq!(
            folder.rename(a, b, false).unwrap_err().kind(),
            std::io::ErrorKind::AlreadyExists
        );
        folder.rename(a, b, true).unwrap();
        assert_eq!(std::fs::read(dir.path().join("b")).unwrap(), b"a");
        folder.rename(b, a, false).unwrap();
    }

    #[test]
    fn times_and_bits_are_set_to_the_millisecond() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Root::open(dir.path()).unwrap().folder(Path::new("")).unwrap();
        let file = folder.create_new(OsStr::new("f")).unwrap();
        for millis in [1_700_000_000_123, -1_500, 0] {
            let mtime = Timestamp::from_millis(millis).unwrap();
            set_mode_and_mtime(&file, Some(0o754), Some(mtime)).unwrap();
            let stat = folder.stat(OsStr::new("f")).unwrap();
            assert_eq!((stat.mode, stat.mtime), (0o754, mtime));
        }
    }
}
