//! The file system of an [`OddDisk`](super::OddDisk): each request goes to the directory under it,
//! unless a trait of the disk has another answer.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::{self as sys, AtFlags, Mode, OFlags};
use unicode_normalization::UnicodeNormalization as _;

use super::Traits;

type Answer<T> = Result<T, Errno>;

/// The mode of a file on a disk that has none, as far as the mount tells.
const FIXED_MODE: u16 = 0o755;

fn errno(error: impl Into<std::io::Error>) -> Errno {
    Errno::from(error.into())
}

/// A file that the kernel knows.
struct Node {
    file: OwnedFd,
    lookups: u64,
    /// The inode under the disk.
    under: u64,
}

#[derive(Default)]
struct State {
    nodes: HashMap<u64, Node>,
    /// The numbers of inodes, by those under the disk.
    numbers: HashMap<u64, u64>,
    next: u64,
    files: HashMap<u64, (File, OsString)>,
    listings: HashMap<u64, Vec<(u64, FileType, OsString)>>,
    /// The name of each folder, for listings that break off.
    names: HashMap<u64, OsString>,
}

pub(super) struct FileSystem {
    traits: Arc<Mutex<Traits>>,
    state: Mutex<State>,
}

impl FileSystem {
    pub(super) fn new(back: &Path, traits: Arc<Mutex<Traits>>) -> std::io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let file = sys::open(back, flags, Mode::empty())?;
        let under = sys::fstat(&file)?.st_ino;
        let mut state = State::default();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // Other numbers each time.
        state.next = u64::from(now.subsec_nanos()) << 16 | 2;
        state.nodes.insert(INodeNo::ROOT.0, Node { file, lookups: 1, under });
        state.numbers.insert(under, INodeNo::ROOT.0);
        Ok(Self { traits, state: Mutex::new(state) })
    }

    /// Returns the traits and the state, unless the disk is gone.
    fn begin(&self) -> Answer<(Traits, MutexGuard<'_, State>)> {
        let traits = self.traits.lock().unwrap().clone();
        if traits.gone {
            return Err(Errno::ENODEV);
        }
        Ok((traits, self.state.lock().unwrap()))
    }

    fn vanish(&self) -> Errno {
        self.traits.lock().unwrap().gone = true;
        Errno::EIO
    }

    /// Looks a name up, as the kernel counts it.
    fn entry(
        &self,
        traits: &Traits,
        state: &mut State,
        parent: u64,
        name: &OsStr,
    ) -> Answer<FileAttr> {
        if traits.goes_at.is_some_and(|at| name == at) {
            return Err(self.vanish());
        }
        let name = state.find(traits, parent, name)?.ok_or(Errno::ENOENT)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file =
            sys::openat(&state.node(parent)?.file, &name, flags, Mode::empty()).map_err(errno)?;
        let stat = sys::fstat(&file).map_err(errno)?;
        let number = state.number(traits, stat.st_ino);
        let node = Node { file, lookups: 0, under: stat.st_ino };
        state.nodes.entry(number).or_insert(node).lookups += 1;
        state.names.insert(number, name);
        Ok(attr(traits, number, &stat))
    }
}

impl State {
    fn node(&self, number: u64) -> Answer<&Node> {
        self.nodes.get(&number).ok_or(Errno::ESTALE)
    }

    fn number(&mut self, traits: &Traits, under: u64) -> u64 {
        if let Some(number) = self.numbers.get(&under) {
            return *number;
        }
        let number = if traits.new_inodes { self.next } else { under.max(2) };
        self.next += 1;
        self.numbers.insert(under, number);
        number
    }

    /// Returns the name that an entry has in a folder.
    fn find(&self, traits: &Traits, parent: u64, name: &OsStr) -> Answer<Option<OsString>> {
        let folder = &self.node(parent)?.file;
        if sys::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            return Ok(Some(name.to_owned()));
        }
        let wanted = key(traits, name);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = sys::openat(folder, ".", flags, Mode::empty()).map_err(errno)?;
        for entry in sys::Dir::read_from(&folder).map_err(errno)? {
            let name = OsString::from_vec(entry.map_err(errno)?.file_name().to_bytes().to_vec());
            if key(traits, &name) == wanted {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    /// Returns the name under which a new entry is kept.
    fn new_name(&self, traits: &Traits, parent: u64, name: &OsStr) -> Answer<OsString> {
        if let Some(name) = self.find(traits, parent, name)? {
            return Ok(name);
        }
        let Some(text) = name.to_str() else { return Ok(name.to_owned()) };
        if traits.windows_names && text.chars().any(|c| c < ' ' || "\"*:<>?\\|".contains(c)) {
            return Err(Errno::EINVAL);
        }
        let text = if traits.strips_dots { text.trim_end_matches('.') } else { text };
        if text.is_empty() {
            return Err(Errno::EINVAL);
        }
        Ok(if traits.decomposing { text.nfd().collect::<String>().into() } else { text.into() })
    }

    fn is_free(&self, traits: &Traits, parent: u64, name: &OsStr) -> Answer<OsString> {
        match self.find(traits, parent, name)? {
            Some(_) => Err(Errno::EEXIST),
            None => self.new_name(traits, parent, name),
        }
    }

    fn attr(&self, traits: &Traits, number: u64) -> Answer<FileAttr> {
        let stat = sys::fstat(&self.node(number)?.file).map_err(errno)?;
        Ok(attr(traits, number, &stat))
    }

    fn keep(&mut self, file: File, name: OsString) -> FileHandle {
        self.next += 1;
        self.files.insert(self.next, (file, name));
        FileHandle(self.next)
    }

    fn forget(&mut self, number: u64, lookups: u64) {
        let Some(node) = self.nodes.get_mut(&number) else { return };
        node.lookups = node.lookups.saturating_sub(lookups);
        if node.lookups == 0 && number != INodeNo::ROOT.0 {
            let under = node.under;
            self.nodes.remove(&number);
            self.names.remove(&number);
            // Another file may get this inode. On a disk with stable numbers it has no other.
            self.numbers.remove(&under);
        }
    }
}

/// Returns a key that is equal for names that the disk takes for one.
fn key(traits: &Traits, name: &OsStr) -> Vec<u8> {
    let Some(text) = name.to_str() else { return name.as_bytes().to_vec() };
    let mut text = text.to_owned();
    if traits.strips_dots && !text.trim_end_matches('.').is_empty() {
        text.truncate(text.trim_end_matches('.').len());
    }
    if traits.case_insensitive {
        text = text.to_lowercase();
    }
    if traits.decomposing {
        text = text.nfd().collect();
    }
    text.into_bytes()
}

#[allow(
    clippy::cast_sign_loss,
    clippy::cast_possible_truncation,
    reason = "of the C library's types"
)]
fn attr(traits: &Traits, number: u64, stat: &sys::Stat) -> FileAttr {
    let time = |seconds: i64, nanos: u64| {
        let (seconds, nanos) = match traits.coarse_times {
            true => (seconds.max(315_532_800) / 2 * 2, 0),
            false => (seconds, nanos),
        };
        let whole = Duration::from_secs(seconds.unsigned_abs());
        let whole = if seconds < 0 { UNIX_EPOCH - whole } else { UNIX_EPOCH + whole };
        whole + Duration::from_nanos(nanos)
    };
    let mtime = time(stat.st_mtime, stat.st_mtime_nsec);
    let ctime = if traits.coarse_times { mtime } else { time(stat.st_ctime, stat.st_ctime_nsec) };
    FileAttr {
        ino: INodeNo(number),
        size: stat.st_size as u64,
        blocks: stat.st_blocks as u64,
        atime: mtime,
        mtime,
        ctime,
        crtime: UNIX_EPOCH,
        kind: kind(sys::FileType::from_raw_mode(stat.st_mode)),
        perm: if traits.fixed_mode { FIXED_MODE } else { (stat.st_mode & 0o7777) as u16 },
        nlink: stat.st_nlink as u32,
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: 0,
        blksize: 4_096,
        flags: 0,
    }
}

fn kind(of: sys::FileType) -> FileType {
    match of {
        sys::FileType::Directory => FileType::Directory,
        sys::FileType::Symlink => FileType::Symlink,
        _ => FileType::RegularFile,
    }
}

/// Returns a path that leads to an open file without following a link.
fn through(file: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// The time for which the kernel may keep an answer: none.
const TTL: Duration = Duration::ZERO;
const FIRST: Generation = Generation(0);

macro_rules! answer {
    ($reply:ident, $done:expr, $ok:expr) => {
        match $done {
            Ok(found) => $ok($reply, found),
            Err(error) => $reply.error(error),
        }
    };
}

impl Filesystem for FileSystem {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self
            .begin()
            .and_then(|(traits, mut state)| self.entry(&traits, &mut state, parent.0, name));
        answer!(reply, found, |reply: ReplyEntry, attr| reply.entry(&TTL, &attr, FIRST));
    }

    fn forget(&self, _: &Request, node: INodeNo, lookups: u64) {
        self.state.lock().unwrap().forget(node.0, lookups);
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let found = self.begin().and_then(|(traits, state)| state.attr(&traits, node.0));
        answer!(reply, found, |reply: ReplyAttr, attr| reply.attr(&TTL, &attr));
    }

    fn setattr(
        &self,
        _: &Request,
        node: INodeNo,
        mode: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = self.begin().and_then(|(traits, state)| {
            let file = &state.node(node.0)?.file;
            if let Some(mode) = mode.filter(|_| !traits.fixed_mode) {
                if traits.refuses_chmod {
                    return Err(Errno::EPERM);
                }
                sys::chmod(through(file), Mode::from_raw_mode(mode & 0o7777)).map_err(errno)?;
            }
            if let Some(size) = size {
                let file = File::options().write(true).open(through(file)).map_err(errno)?;
                file.set_len(size).map_err(errno)?;
            }
            if let Some(mtime) = mtime {
                let mtime = match mtime {
                    TimeOrNow::Now => SystemTime::now(),
                    TimeOrNow::SpecificTime(time) => time,
                };
                let since = mtime.duration_since(UNIX_EPOCH).unwrap_or_default();
                let to = |tv_sec, tv_nsec| sys::Timespec { tv_sec, tv_nsec };
                let times = sys::Timestamps {
                    last_access: to(0, sys::UTIME_OMIT),
                    last_modification: to(
                        i64::try_from(since.as_secs()).unwrap_or(0),
                        i64::from(since.subsec_nanos()),
                    ),
                };
                sys::utimensat(file, "", &times, AtFlags::EMPTY_PATH).map_err(errno)?;
            }
            state.attr(&traits, node.0)
        });
        answer!(reply, set, |reply: ReplyAttr, attr| reply.attr(&TTL, &attr));
    }

    fn readlink(&self, _: &Request, node: INodeNo, reply: ReplyData) {
        let target = self.begin().and_then(|(_, state)| {
            sys::readlinkat(&state.node(node.0)?.file, "", Vec::new()).map_err(errno)
        });
        answer!(reply, target, |reply: ReplyData, target: std::ffi::CString| {
            reply.data(target.as_bytes());
        });
    }

    fn mkdir(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let made = self.begin().and_then(|(traits, mut state)| {
            let new = state.is_free(&traits, parent.0, name)?;
            let mode = Mode::from_raw_mode(mode & !umask & 0o777);
            sys::mkdirat(&state.node(parent.0)?.file, &new, mode).map_err(errno)?;
            self.entry(&traits, &mut state, parent.0, &new)
        });
        answer!(reply, made, |reply: ReplyEntry, attr| reply.entry(&TTL, &attr, FIRST));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer!(reply, self.remove(parent, name, AtFlags::empty()), |reply: ReplyEmpty, ()| reply
            .ok());
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer!(reply, self.remove(parent, name, AtFlags::REMOVEDIR), |reply: ReplyEmpty, ()| {
            reply.ok()
        });
    }

    fn symlink(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let made = self.begin().and_then(|(traits, mut state)| {
            if traits.no_symlinks {
                return Err(Errno::EPERM);
            }
            let new = state.is_free(&traits, parent.0, name)?;
            sys::symlinkat(target, &state.node(parent.0)?.file, &new).map_err(errno)?;
            self.entry(&traits, &mut state, parent.0, &new)
        });
        answer!(reply, made, |reply: ReplyEntry, attr| reply.entry(&TTL, &attr, FIRST));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let renamed = self.begin().and_then(|(traits, state)| {
            if traits.plain_renames && !flags.is_empty() {
                return Err(Errno::EINVAL);
            }
            let old = state.find(&traits, parent.0, name)?.ok_or(Errno::ENOENT)?;
            let new = state.new_name(&traits, new_parent.0, new_name)?;
            let (from, to) = (&state.node(parent.0)?.file, &state.node(new_parent.0)?.file);
            let flags = sys::RenameFlags::from_bits_retain(flags.bits());
            sys::renameat_with(from, &old, to, &new, flags).map_err(errno)
        });
        answer!(reply, renamed, |reply: ReplyEmpty, ()| reply.ok());
    }

    fn link(&self, _: &Request, node: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let made = self.begin().and_then(|(traits, mut state)| {
            if traits.no_hard_links {
                return Err(Errno::EPERM);
            }
            let new = state.is_free(&traits, parent.0, name)?;
            let (file, folder) = (&state.node(node.0)?.file, &state.node(parent.0)?.file);
            sys::linkat(sys::CWD, through(file), folder, &new, AtFlags::SYMLINK_FOLLOW)
                .map_err(errno)?;
            self.entry(&traits, &mut state, parent.0, &new)
        });
        answer!(reply, made, |reply: ReplyEntry, attr| reply.entry(&TTL, &attr, FIRST));
    }

    fn open(&self, _: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let opened = self.begin().and_then(|(_, mut state)| {
            let name = state.names.get(&node.0).cloned().unwrap_or_default();
            let flags = OFlags::from_bits_retain(flags.0.cast_unsigned())
                .difference(OFlags::NOFOLLOW)
                | OFlags::CLOEXEC;
            let file = &state.node(node.0)?.file;
            let file = sys::open(through(file), flags, Mode::empty()).map_err(errno)?;
            Ok(state.keep(File::from(file), name))
        });
        answer!(reply, opened, |reply: ReplyOpen, file| reply.opened(file, FopenFlags::empty()));
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let made = self.begin().and_then(|(traits, mut state)| {
            let new = state.new_name(&traits, parent.0, name)?;
            let flags =
                OFlags::from_bits_retain(flags.cast_unsigned()) | OFlags::CREATE | OFlags::CLOEXEC;
            let mode = Mode::from_raw_mode(mode & !umask & 0o777);
            let file =
                sys::openat(&state.node(parent.0)?.file, &new, flags, mode).map_err(errno)?;
            let attr = self.entry(&traits, &mut state, parent.0, &new)?;
            Ok((attr, state.keep(File::from(file), new)))
        });
        answer!(reply, made, |reply: ReplyCreate, (attr, file)| {
            reply.created(&TTL, &attr, FIRST, file, FopenFlags::empty());
        });
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        file: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = self.begin().and_then(|(traits, state)| {
            let (file, name) = state.files.get(&file.0).ok_or(Errno::EBADF)?;
            if traits.unreadable.is_some_and(|unreadable| name == unreadable) {
                return Err(Errno::EIO);
            }
            let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
            let mut count = 0;
            while count < bytes.len() {
                match file.read_at(&mut bytes[count..], offset + count as u64).map_err(errno)? {
                    0 => break,
                    more => count += more,
                }
            }
            bytes.truncate(count);
            Ok(bytes)
        });
        answer!(reply, read, |reply: ReplyData, bytes: Vec<u8>| reply.data(&bytes));
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        file: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = self.begin().and_then(|(traits, state)| {
            let (file, _) = state.files.get(&file.0).ok_or(Errno::EBADF)?;
            let room =
                traits.room.map_or(data.len(), |room| usize::try_from(room).unwrap_or(usize::MAX));
            let count = data.len().min(room);
            if count == 0 && !data.is_empty() {
                return Err(if traits.goes_when_full { self.vanish() } else { Errno::ENOSPC });
            }
            file.write_all_at(&data[..count], offset).map_err(errno)?;
            if let Some(room) = &mut self.traits.lock().unwrap().room {
                *room = room.saturating_sub(count as u64);
            }
            Ok(u32::try_from(count).unwrap_or(u32::MAX))
        });
        answer!(reply, written, |reply: ReplyWrite, count| reply.written(count));
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        answer!(reply, self.begin(), |reply: ReplyEmpty, _| reply.ok());
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        file: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.state.lock().unwrap().files.remove(&file.0);
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer!(reply, self.begin(), |reply: ReplyEmpty, _| reply.ok());
    }

    fn opendir(&self, _: &Request, node: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let opened = self.begin().and_then(|(traits, mut state)| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let folder =
                sys::openat(&state.node(node.0)?.file, ".", flags, Mode::empty()).map_err(errno)?;
            let mut listing = Vec::new();
            for entry in sys::Dir::read_from(&folder).map_err(errno)? {
                let entry = entry.map_err(errno)?;
                let name = OsString::from_vec(entry.file_name().to_bytes().to_vec());
                let number = state.number(&traits, entry.ino());
                listing.push((number, kind(entry.file_type()), name));
            }
            listing.sort_by(|a, b| a.2.cmp(&b.2));
            let handle = state.next + 1;
            state.next = handle;
            state.listings.insert(handle, listing);
            Ok(FileHandle(handle))
        });
        answer!(reply, opened, |reply: ReplyOpen, file| reply.opened(file, FopenFlags::empty()));
    }

    fn readdir(
        &self,
        _: &Request,
        node: INodeNo,
        folder: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let (traits, state) = match self.begin() {
            Ok(begun) => begun,
            Err(error) => return reply.error(error),
        };
        let Some(listing) = state.listings.get(&folder.0) else { return reply.error(Errno::EBADF) };
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let name = state.names.get(&node.0).map(OsString::as_os_str).unwrap_or_default();
        let end = traits.breaks_off.filter(|(broken, _)| name == *broken).map(|(_, end)| end);
        if end.is_some_and(|end| start >= end) {
            return reply.error(Errno::EIO);
        }
        let until = listing.len().min(end.unwrap_or(usize::MAX));
        for (index, (number, kind, name)) in listing.iter().enumerate().take(until).skip(start) {
            if reply.add(INodeNo(*number), index as u64 + 1, *kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(
        &self,
        _: &Request,
        _: INodeNo,
        folder: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.state.lock().unwrap().listings.remove(&folder.0);
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer!(reply, self.begin(), |reply: ReplyEmpty, _| reply.ok());
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let block = 4_096;
        let told = |traits: &Traits| traits.room.filter(|_| !traits.hides_room);
        let room =
            self.begin().map(|(traits, _)| told(&traits).map_or(1 << 20, |room| room / block));
        answer!(reply, room, |reply: ReplyStatfs, free| {
            reply.statfs(1 << 21, free, free, 1 << 20, 1 << 20, 4_096, 255, 4_096);
        });
    }
}

impl FileSystem {
    fn remove(&self, parent: INodeNo, name: &OsStr, flags: AtFlags) -> Answer<()> {
        let (traits, state) = self.begin()?;
        let name = state.find(&traits, parent.0, name)?.ok_or(Errno::ENOENT)?;
        sys::unlinkat(&state.node(parent.0)?.file, &name, flags).map_err(errno)
    }
}
