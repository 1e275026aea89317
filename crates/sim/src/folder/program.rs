//! Programs that work in a directory: each is a list of system calls, of which the world makes one at a time.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use vfs_sync_testkit::Random;

use super::saved::{Last, Saved};

/// A system call of a program. Paths are relative to the directory.
#[derive(Debug, Clone)]
enum Call {
    Open {
        path: PathBuf,
        truncate: bool,
        append: bool,
    },
    Write(Vec<u8>),
    /// Closes the file, which is complete now; with a time the program sets it first.
    Close {
        mtime: Option<SystemTime>,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Exchange {
        one: PathBuf,
        other: PathBuf,
    },
    Link {
        from: PathBuf,
        to: PathBuf,
    },
    Symlink {
        target: PathBuf,
        path: PathBuf,
    },
    Remove(PathBuf),
    MakeFolder(PathBuf),
    RemoveFolder(PathBuf),
    Bits(PathBuf, u32),
}

/// A program that runs in a directory.
pub(crate) struct Program {
    pub(crate) device: usize,
    calls: VecDeque<Call>,
    /// The open file, with its path.
    file: Option<(File, PathBuf)>,
}

const FOLDERS: [&str; 4] = ["", "d", "e", "d/f"];
const NAMES: [&str; 4] = ["a", "b", "c.txt", "x"];
/// A time of long ago, which several files share.
const OLD: u64 = 1_500_000_000;

fn place(random: &mut Random) -> PathBuf {
    Path::new(*random.one(&FOLDERS)).join(*random.one(&NAMES))
}

fn old() -> SystemTime {
    SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(OLD)
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

impl Program {
    /// Draws a program for the directory at `root`, with its name.
    pub(crate) fn draw(
        device: usize,
        root: &Path,
        random: &mut Random,
        saved: &mut Saved,
    ) -> (&'static str, Self) {
        let mut calls = Vec::new();
        let path = place(random);
        if let Some(parent) = path.parent() {
            for folder in parent.ancestors().collect::<Vec<_>>().into_iter().rev() {
                if folder != Path::new("") && !root.join(folder).exists() {
                    calls.push(Call::MakeFolder(folder.to_owned()));
                }
            }
        }
        let size = *random.one(&[0, 8, 8, 8, 30, 30, 400]);
        let content = if size == 0 { Vec::new() } else { saved.make(size) };
        let mtime = (random.below(4) == 0).then(old);
        let write = |calls: &mut Vec<Call>, path: &Path, truncate: bool, append: bool| {
            calls.push(Call::Open { path: path.to_owned(), truncate, append });
            let half = content.len() / 2;
            calls.push(Call::Write(content[..half].to_vec()));
            calls.push(Call::Write(content[half..].to_vec()));
            calls.push(Call::Close { mtime });
        };
        let other = place(random);
        let name = match random.below(24) {
            0 | 1 => {
                write(&mut calls, &path, true, false);
                "truncates and writes"
            }
            2 | 3 => {
                write(&mut calls, &path, false, false);
                "writes in place"
            }
            4 => {
                write(&mut calls, &path, false, true);
                "appends"
            }
            5..=7 => {
                let temporary = suffixed(&path, ".new");
                write(&mut calls, &temporary, true, false);
                calls.push(Call::Rename { from: temporary, to: path });
                "renames a new file over"
            }
            8 => {
                calls.push(Call::Rename { from: path.clone(), to: suffixed(&path, "~") });
                write(&mut calls, &path, true, false);
                if random.below(2) == 0 {
                    calls.push(Call::Remove(suffixed(&path, "~")));
                }
                "keeps a backup"
            }
            9 => {
                let temporary = suffixed(&path, ".new");
                write(&mut calls, &temporary, true, false);
                calls.push(Call::Exchange { one: temporary.clone(), other: path });
                calls.push(Call::Remove(temporary));
                "exchanges"
            }
            10 => {
                let temporary = suffixed(&path, ".new");
                write(&mut calls, &temporary, true, false);
                calls.push(Call::Remove(path.clone()));
                calls.push(Call::Link { from: temporary.clone(), to: path });
                calls.push(Call::Remove(temporary));
                "saves by a link"
            }
            11 => {
                calls.push(Call::Bits(path, *random.one(&[0o644, 0o600, 0o755])));
                "changes bits"
            }
            12 => {
                let link = suffixed(&path, ".link");
                calls.push(Call::Remove(link.clone()));
                let target = random.one(&NAMES).to_string();
                calls.push(Call::Symlink { target: target.into(), path: link });
                "makes a symbolic link"
            }
            13 | 14 => {
                calls.push(Call::Rename { from: path, to: other });
                "moves a file"
            }
            15 => {
                let (from, to) = *random.one(&[
                    ("d", "e"),
                    ("e", "d"),
                    ("d/f", "g"),
                    ("g", "d/f"),
                    ("d", "e/d"),
                    ("e", "d/e"),
                    ("e/d", "d"),
                    ("d/e", "e"),
                ]);
                calls.push(Call::Rename { from: from.into(), to: to.into() });
                "moves a folder"
            }
            16 | 17 => {
                calls.push(Call::Remove(path));
                "deletes a file"
            }
            18 => {
                let folder = PathBuf::from(*random.one(&["d", "e", "d/f", "g"]));
                remove_all(root, &folder, &mut calls);
                "deletes a folder"
            }
            19 => {
                calls.push(Call::Remove(path.clone()));
                calls.push(Call::MakeFolder(path.clone()));
                write(&mut calls, &path.join("in"), true, false);
                "makes a file a folder"
            }
            20 => {
                remove_all(root, &path, &mut calls);
                write(&mut calls, &path, true, false);
                "makes a folder a file"
            }
            21 => {
                // A database with a write-ahead log.
                let log = suffixed(&path, "-wal");
                write(&mut calls, &log, false, true);
                write(&mut calls, &path, false, false);
                calls.push(Call::Remove(log));
                "commits to a database"
            }
            22 => {
                calls.push(Call::Link { from: path, to: other });
                "makes a hard link"
            }
            _ => {
                // Several references are replaced through lock files, and one goes.
                for name in NAMES {
                    let at = path.with_file_name(name);
                    let lock = suffixed(&at, ".lock");
                    let bytes = saved_for(&content, name);
                    calls.push(Call::Open { path: lock.clone(), truncate: true, append: false });
                    calls.push(Call::Write(bytes));
                    calls.push(Call::Close { mtime: None });
                    calls.push(Call::Rename { from: lock, to: at });
                }
                calls.push(Call::Remove(path.with_file_name(NAMES[0])));
                "replaces references"
            }
        };
        (name, Self { device, calls: calls.into(), file: None })
    }

    /// Returns the inode that the program has open for writing.
    pub(crate) fn open_file(&self) -> Option<(u64, u64)> {
        let meta = self.file.as_ref()?.0.metadata().ok()?;
        Some((meta.dev(), meta.ino()))
    }

    pub(crate) fn is_over(&self) -> bool {
        self.calls.is_empty()
    }

    /// Makes the next system call; returns a description. A call that fails ends the program, unless
    /// it only cleans up.
    pub(crate) fn step(&mut self, root: &Path, now: SystemTime, saved: &mut Saved) -> String {
        let Some(call) = self.calls.pop_front() else { return "nothing".to_owned() };
        let cleans = matches!(call, Call::Remove(_) | Call::RemoveFolder(_) | Call::MakeFolder(_));
        let shown = describe(&call);
        match self.make(call, root, now, saved) {
            Ok(()) => shown,
            Err(error) => {
                if !cleans {
                    self.calls.clear();
                    self.file = None;
                }
                format!("{shown}: {:?}", error.kind())
            }
        }
    }

    fn make(
        &mut self,
        call: Call,
        root: &Path,
        now: SystemTime,
        saved: &mut Saved,
    ) -> io::Result<()> {
        match call {
            Call::Open { path, truncate, append } => {
                let at = root.join(&path);
                if truncate && let Ok(content) = read(&at) {
                    saved.supersede(&content);
                }
                let mut options = OpenOptions::new();
                options.create(true).read(true).write(true).truncate(truncate);
                let mut file = options.open(&at)?;
                if append {
                    file.seek(SeekFrom::End(0))?;
                }
                file.set_modified(now)?;
                saved.existed(&whole(&mut file)?);
                self.file = Some((file, path));
                Ok(())
            }
            Call::Write(bytes) => {
                let Some((file, _)) = &mut self.file else { return Ok(()) };
                if bytes.is_empty() {
                    return Ok(());
                }
                saved.supersede(&whole(file)?);
                file.write_all(&bytes)?;
                file.set_modified(now)?;
                saved.existed(&whole(file)?);
                Ok(())
            }
            Call::Close { mtime } => {
                let Some((mut file, path)) = self.file.take() else { return Ok(()) };
                if let Some(mtime) = mtime {
                    file.set_modified(mtime)?;
                }
                let at = format!("device {}, {}", self.device, path.display());
                let meta = file.metadata()?;
                if meta.nlink() > 0 || !saved.is_nameless((meta.dev(), meta.ino())) {
                    saved.save(&whole(&mut file)?, at);
                }
                Ok(())
            }
            Call::Rename { from, to } => {
                let (from, to) = (root.join(from), root.join(to));
                let same = fs::symlink_metadata(&from)?.ino()
                    == fs::symlink_metadata(&to).map_or(0, |meta| meta.ino());
                let lost = if same { None } else { last_of(&to) };
                fs::rename(from, to)?;
                if let Some(last) = lost {
                    saved.remove(&last);
                }
                Ok(())
            }
            Call::Exchange { one, other } => {
                super::disk::exchange(&root.join(one), &root.join(other))
            }
            Call::Link { from, to } => fs::hard_link(root.join(from), root.join(to)),
            Call::Symlink { target, path } => std::os::unix::fs::symlink(target, root.join(path)),
            Call::Remove(path) => {
                let at = root.join(path);
                let lost = last_of(&at);
                fs::remove_file(at)?;
                if let Some(last) = lost {
                    saved.remove(&last);
                }
                Ok(())
            }
            Call::MakeFolder(path) => fs::create_dir(root.join(path)),
            Call::RemoveFolder(path) => fs::remove_dir(root.join(path)),
            Call::Bits(path, bits) => {
                let at = root.join(path);
                if fs::symlink_metadata(&at)?.is_file() {
                    fs::set_permissions(at, fs::Permissions::from_mode(bits))?;
                }
                Ok(())
            }
        }
    }
}

fn saved_for(content: &[u8], name: &str) -> Vec<u8> {
    [content, b"/", name.as_bytes()].concat()
}

fn describe(call: &Call) -> String {
    match call {
        Call::Write(bytes) => format!("Write {}", super::saved::text(bytes)),
        call => format!("{call:?}"),
    }
}

/// Lists the calls that remove a folder with everything in it, as it is now.
fn remove_all(root: &Path, path: &Path, calls: &mut Vec<Call>) {
    let at = root.join(path);
    let Ok(meta) = fs::symlink_metadata(&at) else { return };
    if !meta.is_dir() {
        return calls.push(Call::Remove(path.to_owned()));
    }
    let mut names: Vec<_> =
        fs::read_dir(at).into_iter().flatten().flatten().map(|one| one.file_name()).collect();
    names.sort_unstable();
    for name in names {
        remove_all(root, &path.join(name), calls);
    }
    calls.push(Call::RemoveFolder(path.to_owned()));
}

/// Returns the file that goes with this name; `None` if it has another one.
fn last_of(path: &Path) -> Option<Last> {
    let meta = fs::symlink_metadata(path).ok()?;
    let content = (meta.is_file() && meta.nlink() == 1).then(|| read(path).ok()).flatten()?;
    Some(Last { id: (meta.dev(), meta.ino()), content })
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    if !fs::symlink_metadata(path)?.is_file() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    fs::read(path)
}

/// Reads an open file from its beginning, without moving the place of the next write.
fn whole(file: &mut File) -> io::Result<Vec<u8>> {
    let at = file.stream_position()?;
    let mut content = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut content)?;
    file.seek(SeekFrom::Start(at))?;
    Ok(content)
}
