//! The requests of the kernel to a [`CrashDisk`](super::CrashDisk). `syncfs` is not among them: the kernel passes it on for no file
//! system in user space without a device.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use super::image::Image;

pub(super) struct FileSystem(pub(super) Arc<Mutex<Image>>);

type Answer<T> = Result<T, Errno>;

/// The time for which the kernel may keep an answer: none.
const TTL: Duration = Duration::ZERO;

macro_rules! answer {
    ($reply:ident, $done:expr, $ok:expr) => {
        match $done {
            Ok(found) => $ok($reply, found),
            Err(error) => $reply.error(error),
        }
    };
}

fn attr(image: &Image, inode: u64) -> Answer<(FileAttr, Generation)> {
    let node = image.node(inode)?;
    let size = node.data.len() as u64;
    let attr = FileAttr {
        ino: INodeNo(inode),
        size,
        blocks: size.div_ceil(512),
        atime: node.mtime,
        mtime: node.mtime,
        ctime: node.ctime,
        crtime: UNIX_EPOCH,
        kind: node.kind,
        perm: node.mode,
        nlink: if node.kind == FileType::Directory { 2 } else { 1 },
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        rdev: 0,
        blksize: 4_096,
        flags: 0,
    };
    Ok((attr, Generation(node.generation)))
}

fn bits(mode: u32, umask: u32) -> u16 {
    u16::try_from(mode & !umask & 0o777).unwrap_or(0)
}

impl FileSystem {
    fn with<T>(&self, run: impl FnOnce(&mut Image) -> Answer<T>) -> Answer<T> {
        run(&mut self.0.lock().unwrap())
    }

    /// Changes the disk, or synchronises it.
    fn act<T>(&self, run: impl FnOnce(&mut Image) -> Answer<T>) -> Answer<T> {
        self.with(|image| image.count().and_then(|()| run(image)))
    }

    fn make(
        &self,
        folder: INodeNo,
        name: &OsStr,
        kind: FileType,
        mode: u16,
        data: &[u8],
    ) -> Answer<(FileAttr, Generation)> {
        self.act(|image| {
            let inode = image.make(folder.0, name, kind, mode, data)?;
            attr(image, inode)
        })
    }

    fn remove(&self, folder: INodeNo, name: &OsStr) -> Answer<()> {
        self.act(|image| {
            let inode = image.find(folder.0, name)?.ok_or(Errno::ENOENT)?;
            if !image.node(inode)?.entries.is_empty() {
                return Err(Errno::ENOTEMPTY);
            }
            image.rename(vec![(folder.0, name.to_owned(), None)])
        })
    }
}

impl Filesystem for FileSystem {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.with(|image| {
            let inode = image.find(parent.0, name)?.ok_or(Errno::ENOENT)?;
            attr(image, inode)
        });
        answer!(reply, found, |reply: ReplyEntry, (attr, generation)| {
            reply.entry(&TTL, &attr, generation);
        });
    }

    fn forget(&self, _: &Request, _: INodeNo, _: u64) {}

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let found = self.with(|image| attr(image, node.0));
        answer!(reply, found, |reply: ReplyAttr, (attr, _)| reply.attr(&TTL, &attr));
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
        let set = self.act(|image| {
            if let Some(size) = size {
                image.resize(node.0, usize::try_from(size).map_err(|_| Errno::EFBIG)?)?;
            }
            let of = image.change(node.0)?;
            of.mode = mode.map_or(of.mode, |mode| bits(mode, 0));
            match mtime {
                Some(TimeOrNow::Now) => of.mtime = of.ctime,
                Some(TimeOrNow::SpecificTime(time)) => of.mtime = time,
                None => {}
            }
            attr(image, node.0)
        });
        answer!(reply, set, |reply: ReplyAttr, (attr, _)| reply.attr(&TTL, &attr));
    }

    fn readlink(&self, _: &Request, node: INodeNo, reply: ReplyData) {
        let target = self.with(|image| Ok(image.node(node.0)?.data.clone()));
        answer!(reply, target, |reply: ReplyData, target: Vec<u8>| reply.data(&target));
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
        let made = self.make(parent, name, FileType::Directory, bits(mode, umask), &[]);
        answer!(reply, made, |reply: ReplyEntry, (attr, generation)| {
            reply.entry(&TTL, &attr, generation);
        });
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer!(reply, self.remove(parent, name), |reply: ReplyEmpty, ()| reply.ok());
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer!(reply, self.remove(parent, name), |reply: ReplyEmpty, ()| reply.ok());
    }

    fn symlink(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let target = target.as_os_str().as_encoded_bytes();
        let made = self.make(parent, name, FileType::Symlink, 0o777, target);
        answer!(reply, made, |reply: ReplyEntry, (attr, generation)| {
            reply.entry(&TTL, &attr, generation);
        });
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
        let renamed = self.act(|image| {
            let one = image.find(parent.0, name)?.ok_or(Errno::ENOENT)?;
            let other = image.find(new_parent.0, new_name)?;
            let (from, to) = ((parent.0, name.to_owned()), (new_parent.0, new_name.to_owned()));
            let exchanged = match other {
                None if flags.contains(RenameFlags::RENAME_EXCHANGE) => return Err(Errno::ENOENT),
                Some(_) if flags.contains(RenameFlags::RENAME_NOREPLACE) => {
                    return Err(Errno::EEXIST);
                }
                Some(same) if same == one => return Ok(()),
                Some(other) if flags.contains(RenameFlags::RENAME_EXCHANGE) => Some(other),
                Some(other) if !image.node(other)?.entries.is_empty() => {
                    return Err(Errno::ENOTEMPTY);
                }
                _ => None,
            };
            image.rename(vec![(from.0, from.1, exchanged), (to.0, to.1, Some(one))])
        });
        answer!(reply, renamed, |reply: ReplyEmpty, ()| reply.ok());
    }

    fn open(&self, _: &Request, node: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let found = self.with(|image| image.node(node.0).map(drop));
        answer!(reply, found, |reply: ReplyOpen, ()| {
            reply.opened(FileHandle(0), FopenFlags::empty());
        });
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let made = self.make(parent, name, FileType::RegularFile, bits(mode, umask), &[]);
        answer!(reply, made, |reply: ReplyCreate, (attr, generation)| {
            reply.created(&TTL, &attr, generation, FileHandle(0), FopenFlags::empty());
        });
    }

    fn read(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = self.with(|image| {
            let data = &image.node(node.0)?.data;
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(data.len());
            let end = start.saturating_add(size as usize).min(data.len());
            Ok(data[start..end].to_vec())
        });
        answer!(reply, read, |reply: ReplyData, bytes: Vec<u8>| reply.data(&bytes));
    }

    fn write(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = self.act(|image| {
            let of = image.change(node.0)?;
            let start = usize::try_from(offset).map_err(|_| Errno::EFBIG)?;
            let end = start + data.len();
            if of.data.len() < end {
                of.data.resize(end, 0);
            }
            of.data[start..end].copy_from_slice(data);
            of.mtime = of.ctime;
            u32::try_from(data.len()).map_err(|_| Errno::EFBIG)
        });
        answer!(reply, written, |reply: ReplyWrite, count| reply.written(count));
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, node: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let synced = self.act(|image| image.sync(node.0));
        answer!(reply, synced, |reply: ReplyEmpty, ()| reply.ok());
    }

    fn fsyncdir(
        &self,
        request: &Request,
        node: INodeNo,
        handle: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.fsync(request, node, handle, datasync, reply);
    }

    fn opendir(&self, request: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.open(request, node, flags, reply);
    }

    fn readdir(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listed = self.with(|image| {
            let entries = image.node(node.0)?.entries.clone();
            let kind = |inode: &u64| image.node(*inode).map(|node| node.kind);
            let all = entries.iter().map(|(name, inode)| Ok((*inode, kind(inode)?, name.clone())));
            all.collect::<Answer<Vec<(u64, FileType, OsString)>>>()
        });
        let listed = match listed {
            Ok(listed) => listed,
            Err(error) => return reply.error(error),
        };
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        for (index, (inode, kind, name)) in listed.iter().enumerate().skip(start) {
            if reply.add(INodeNo(*inode), index as u64 + 1, *kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(&self, _: &Request, _: INodeNo, _: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(1 << 21, 1 << 20, 1 << 20, 1 << 20, 1 << 20, 4_096, 255, 4_096);
    }
}
