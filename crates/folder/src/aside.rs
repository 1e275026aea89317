//! The agent's own folder in a live directory: files that the tree replaced or removed, kept until no
//! program can still be writing to them, and the trash.
//!
//! A file that loses its name may still be open in a program, which then saves into nothing. So it
//! is kept under [`OWN`], is compared with what it was from time to time, and comes back as a
//! conflicted copy if it has changed. What the tree deleted goes to the trash instead, by day and
//! original path.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use vfs_sync_core::time::Timestamp;

use super::disk::dir::{Folder, Kind, Root, Stat};
use super::disk::durable::Unsynced;
use super::disk::names;
use super::disk::open_files::OpenFiles;
use super::record::is_same_but_renamed;
use super::seam;

/// The name of the agent's own folder in a live directory.
pub const OWN: &str = ".vfs-sync";
const DISPLACED: &str = "displaced";
const TRASH: &str = "trash";
/// The list of displaced files, a line for each.
const LIST: &str = "list";
/// The time after which a displaced file that nobody changed is removed.
const KEPT_FOR: Duration = Duration::from_secs(60 * 60);
/// The interval at which displaced files are tidied at.
pub const LOOK_EVERY: Duration = Duration::from_secs(60);
/// The interval at which the trash is tidied through.
pub const EMPTY_EVERY: Duration = Duration::from_secs(60 * 60);
/// The number of days for which the trash keeps a file.
const DAYS_IN_TRASH: i64 = 30;
/// The part of the disk that the trash takes at most, as a divisor.
const PART_OF_DISK: u64 = 10;
/// The number of deletions of one path on one day that the trash can hold.
const MOST_OF_A_DAY: u32 = 100;
/// The longest line of the list, in bytes.
const LONGEST_LINE: usize = 64 * 1024;

/// A file that lost its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Displaced {
    /// Its name in the folder of displaced files.
    file: String,
    /// The path that it had.
    path: PathBytes,
    size: u64,
    modified: (i64, u32),
    /// The time at which it was displaced, in seconds.
    since: u64,
}

/// A path as the bytes that the disk has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct PathBytes(Vec<u8>);

impl PathBytes {
    fn of(path: &Path) -> Self {
        Self(path.as_os_str().as_bytes().to_vec())
    }

    /// Returns the path; `None` if it leads out of the directory.
    fn path(&self) -> Option<PathBuf> {
        let path = PathBuf::from(OsString::from_vec(self.0.clone()));
        let normal = |part| matches!(part, std::path::Component::Normal(_));
        let inside = !path.as_os_str().is_empty() && path.components().all(normal);
        inside.then_some(path)
    }
}

/// The place in a live directory for files that lose their names; the own folder is created for the
/// first of them.
pub(crate) struct Aside {
    top: Folder,
    /// The folder of displaced files, and their list.
    displaced: Option<(Folder, File)>,
    /// The trash's folders of this day, by path.
    trash: HashMap<PathBuf, Folder>,
    /// The folders that were changed.
    unsynced: Vec<PathBuf>,
}

impl Aside {
    pub(crate) fn new(top: &Folder) -> Self {
        let (displaced, trash, unsynced) = (None, HashMap::new(), Vec::new());
        Self { top: top.clone(), displaced, trash, unsynced }
    }

    /// Adds the folders that were changed to `unsynced`.
    pub(crate) fn changed(&mut self, unsynced: &mut Unsynced) -> io::Result<()> {
        self.unsynced.drain(..).for_each(|path| unsynced.add(&path));
        match &self.displaced {
            Some((folder, list)) => folder.sync_file(list),
            None => Ok(()),
        }
    }

    fn displaced(&mut self) -> io::Result<&mut (Folder, File)> {
        if self.displaced.is_none() {
            let own = private_folder(&self.top, OsStr::new(OWN))?;
            let folder = private_folder(&own, OsStr::new(DISPLACED))?;
            let mut list = folder.append(OsStr::new(LIST))?;
            if list.metadata()?.len() > 0 {
                // A crash may have left half a line at its end.
                list.write_all(b"\n")?;
            }
            self.displaced = Some((folder, list));
        }
        self.unsynced.push(Path::new(OWN).join(DISPLACED));
        self.displaced.as_mut().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Keeps a file of `folder` that another one replaced at `path`, under the name `unique`.
    pub(crate) fn displace(
        &mut self,
        folder: &Folder,
        name: &OsStr,
        path: &Path,
        unique: &str,
    ) -> io::Result<()> {
        // Before the file: one without a line counts as changed.
        self.list(&folder.stat(name)?, path, unique)?;
        let (displaced, _) = self.displaced()?;
        folder.move_to(name, displaced, OsStr::new(unique))
    }

    /// Lists a file that was displaced before a crash, which may have lost its line.
    pub(crate) fn list_again(&mut self, path: &Path, unique: &str) -> io::Result<()> {
        let (displaced, _) = self.displaced()?;
        let Ok(stat) = displaced.stat(OsStr::new(unique)) else { return Ok(()) };
        if read_list(displaced)?.contains_key(unique) {
            return Ok(());
        }
        self.list(&stat, path, unique)
    }

    fn list(&mut self, stat: &Stat, path: &Path, unique: &str) -> io::Result<()> {
        let line = Displaced {
            file: unique.to_owned(),
            path: PathBytes::of(path),
            size: stat.size,
            modified: (stat.modified.seconds, stat.modified.nanos),
            since: seconds(seam::now()),
        };
        let mut line = serde_json::to_vec(&line)?;
        line.push(b'\n');
        let (_, list) = self.displaced()?;
        seam::before(seam::Operation::Write)?;
        list.write_all(&line)
    }

    /// Moves a file of `folder` that the tree deleted at `path` to the trash if it is unchanged since
    /// `seen`; returns `false` if it changed and stays. At no time is it anywhere else.
    pub(crate) fn discard(
        &mut self,
        folder: &Folder,
        name: &OsStr,
        path: &Path,
        seen: &Stat,
        device: &str,
    ) -> io::Result<bool> {
        let parent = path.parent().unwrap_or(Path::new(""));
        let last = path.file_name().unwrap_or(name);
        let today = day(seam::now());
        let mut failure = io::Error::from(io::ErrorKind::AlreadyExists);
        for number in 1..=MOST_OF_A_DAY {
            let day = if number == 1 { today.clone() } else { format!("{today}.{number}") };
            let to = match self.trash_folder(&Path::new(&day).join(parent)) {
                Ok(to) => to,
                // Another entry has a part of this path.
                Err(error) => {
                    failure = error;
                    continue;
                }
            };
            match folder.move_to(name, &to, last) {
                Ok(()) => return give_back_if_changed((&to, last), (folder, name), seen, device),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
                // Another entry had this path.
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    fn trash_folder(&mut self, path: &Path) -> io::Result<Folder> {
        self.unsynced.push(Path::new(OWN).join(TRASH).join(path));
        if let Some(folder) = self.trash.get(path) {
            return Ok(folder.clone());
        }
        let own = private_folder(&self.top, OsStr::new(OWN))?;
        let mut folder = private_folder(&own, OsStr::new(TRASH))?;
        for name in path {
            folder = private_folder(&folder, name)?;
        }
        // Each is an open file.
        if self.trash.len() >= 16 {
            self.trash.clear();
        }
        self.trash.insert(path.to_owned(), folder.clone());
        Ok(folder)
    }
}

/// Returns a file to its place if it changed since `seen`, or beside what is there now; returns
/// `false` then.
fn give_back_if_changed(
    (folder, name): (&Folder, &OsStr),
    (place, plain): (&Folder, &OsStr),
    seen: &Stat,
    device: &str,
) -> io::Result<bool> {
    let now = folder.stat(name)?;
    if is_same_but_renamed(seen, &now) {
        return Ok(true);
    }
    match folder.move_to(name, place, plain) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            move_as_copy(folder, name, place, plain, device, now.mtime)?;
        }
        done => done?,
    }
    Ok(false)
}

/// Opens a folder that only this user may enter; creates it if needed.
pub(super) fn private_folder(above: &Folder, name: &OsStr) -> io::Result<Folder> {
    match above.create_private_folder(name) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    above.folder(name)
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Returns a time's day as the trash names it.
fn day(time: SystemTime) -> String {
    let millis = i64::try_from(seconds(time).saturating_mul(1_000)).unwrap_or(0);
    let at = Timestamp::from_millis(millis).unwrap_or(Timestamp::MIN).to_string();
    at.split('T').next().unwrap_or_default().to_owned()
}

/// The outcome of [`tidy`].
#[derive(Debug, Default)]
pub struct Tidied {
    /// The number of displaced files that are kept.
    pub kept: usize,
    /// The paths at which changed files came back.
    pub returned: Vec<PathBuf>,
}

/// Looks at the displaced files of a live directory, and with `trash` through the trash. Does nothing
/// while an export writes to the directory.
pub fn tidy(directory: &Path, device: &str, trash: bool, now: SystemTime) -> io::Result<Tidied> {
    let mut root = Root::open(directory)?;
    let top = root.folder(Path::new(""))?;
    if !top.lock()? {
        return Ok(Tidied { kept: 1, ..Tidied::default() });
    }
    let tidied = look(&mut root, device, &mut OpenFiles::default(), now)?;
    if trash {
        empty_old(&mut root, now)?;
    }
    Ok(tidied)
}

/// Looks at the displaced files of a live directory: those that changed come back as conflicted
/// copies, and those that nobody changed for an hour are removed.
fn look(
    root: &mut Root,
    device: &str,
    open_files: &mut OpenFiles,
    now: SystemTime,
) -> io::Result<Tidied> {
    let mut tidied = Tidied::default();
    let top = root.folder(Path::new(""))?;
    let opened = top.folder(OsStr::new(OWN)).and_then(|own| own.folder(OsStr::new(DISPLACED)));
    let displaced = match opened {
        Ok(displaced) => displaced,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(tidied),
        Err(error) => return Err(error),
    };
    let listed = read_list(&displaced)?;
    let mut stay = Vec::new();
    for name in displaced.names()? {
        if name == LIST || name == new_list() {
            continue;
        }
        let Ok(stat) = displaced.stat(&name) else { continue };
        let line = name.to_str().and_then(|name| listed.get(name));
        let same = line.is_some_and(|line| {
            line.size == stat.size && line.modified == (stat.modified.seconds, stat.modified.nanos)
        });
        let is_open = open_files.is_written(stat.id);
        let age = line.map(|line| seconds(now).saturating_sub(line.since));
        if same && !is_open && age.is_some_and(|age| age >= KEPT_FOR.as_secs()) {
            displaced.remove_file(&name)?;
        } else if same || is_open {
            stay.extend(line.cloned());
            tidied.kept += 1;
        } else {
            let path = line.and_then(|line| line.path.path());
            tidied.returned.push(bring_back(root, &displaced, &name, path, device, &stat)?);
        }
    }
    if stay.len() != listed.len() {
        write_list(&displaced, &stay)?;
    }
    Ok(tidied)
}

/// Returns a file to the folder that it was in, as a conflicted copy.
fn bring_back(
    root: &mut Root,
    displaced: &Folder,
    name: &OsStr,
    path: Option<PathBuf>,
    device: &str,
    stat: &Stat,
) -> io::Result<PathBuf> {
    let path = path.unwrap_or_else(|| PathBuf::from("recovered"));
    let parent = path.parent().unwrap_or(Path::new(""));
    let (folder, parent) = match root.folder(parent) {
        Ok(folder) => (folder, parent),
        // The folder is gone.
        Err(_) => (root.folder(Path::new(""))?, Path::new("")),
    };
    let last = path.file_name().unwrap_or_default();
    let copy = move_as_copy(displaced, name, &folder, last, device, stat.mtime)?;
    Ok(parent.join(copy))
}

/// Moves a file to a folder as a conflicted copy of `of`; returns its name there.
fn move_as_copy(
    from: &Folder,
    name: &OsStr,
    folder: &Folder,
    of: &OsStr,
    device: &str,
    at: Timestamp,
) -> io::Result<OsString> {
    for number in 0.. {
        let copy = names::conflict_copy(of, device, at, number);
        match from.move_to(name, folder, &copy) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            done => return done.map(|()| copy),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

fn new_list() -> OsString {
    OsString::from(format!("{LIST}.new"))
}

fn read_list(displaced: &Folder) -> io::Result<HashMap<String, Displaced>> {
    let mut listed = HashMap::new();
    let file = match displaced.open_file(OsStr::new(LIST)) {
        Ok((file, _)) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(listed),
        Err(error) => return Err(error),
    };
    // A damaged line is that of a file which counts as changed.
    for line in BufReader::new(file).split(b'\n') {
        let line = line?;
        if line.len() <= LONGEST_LINE
            && let Ok(line) = serde_json::from_slice::<Displaced>(&line)
        {
            listed.insert(line.file.clone(), line);
        }
    }
    Ok(listed)
}

fn write_list(displaced: &Folder, lines: &[Displaced]) -> io::Result<()> {
    let mut text = Vec::new();
    for line in lines {
        serde_json::to_writer(&mut text, line)?;
        text.push(b'\n');
    }
    displaced.replace_file(OsStr::new(LIST), &new_list(), &text)
}

/// A file in the trash.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Discarded {
    /// The day on which it was deleted.
    pub day: String,
    /// The path under the directory, as it was before.
    #[serde(skip)]
    pub path: PathBuf,
    /// The file's size in bytes.
    pub size: u64,
    /// The time of the file's last change.
    pub modified_at: Timestamp,
}

/// Lists the trash of a live directory: the oldest day first, then by path.
pub fn discarded(root: &mut Root) -> io::Result<Vec<Discarded>> {
    let trash = Path::new(OWN).join(TRASH);
    let days = match root.folder(&trash) {
        Ok(folder) => folder.names()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for day in days {
        let Some(text) = day.to_str().filter(|day| is_day(day)) else { continue };
        let mut folders = vec![PathBuf::new()];
        while let Some(path) = folders.pop() {
            let Ok(folder) = root.folder(&trash.join(&day).join(&path)) else { continue };
            for name in folder.names()? {
                let Ok(stat) = folder.stat(&name) else { continue };
                let path = path.join(&name);
                if stat.kind == Kind::Folder {
                    folders.push(path);
                    continue;
                }
                let (size, modified_at) = (stat.size, stat.mtime);
                found.push(Discarded { day: text.to_owned(), path, size, modified_at });
            }
        }
    }
    found.sort_by(|a, b| (&a.day, &a.path).cmp(&(&b.day, &b.path)));
    Ok(found)
}

fn is_day(text: &str) -> bool {
    let is_of_a_day = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    text.len() >= 10 && text.bytes().all(is_of_a_day)
}

/// Takes a file out of the trash to the path that it had, or beside what is there now. Returns its
/// path.
pub fn restore(root: &mut Root, one: &Discarded, device: &str) -> io::Result<PathBuf> {
    let parent = one.path.parent().unwrap_or(Path::new(""));
    let mut above = root.folder(Path::new(""))?;
    for name in parent {
        match above.create_folder(name) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => above = above.folder(name)?,
        }
    }
    let from = Path::new(OWN).join(TRASH).join(&one.day).join(parent);
    let from = root.folder(&from)?;
    let name = one.path.file_name().unwrap_or_default();
    match from.move_to(name, &above, name) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        done => return done.map(|()| one.path.clone()),
    }
    let copy = move_as_copy(&from, name, &above, name, device, one.modified_at)?;
    Ok(parent.join(copy))
}

/// Removes from the trash what is older than its days, and the oldest files beyond its part of the
/// disk.
fn empty_old(root: &mut Root, now: SystemTime) -> io::Result<()> {
    let all = discarded(root)?;
    let oldest = UNIX_EPOCH
        + Duration::from_secs(
            seconds(now).saturating_sub(u64::try_from(DAYS_IN_TRASH).unwrap_or(0) * 24 * 60 * 60),
        );
    let oldest = day(oldest);
    let at_most = root.folder(Path::new(""))?.disk_size()? / PART_OF_DISK;
    let mut size: u64 = all.iter().map(|one| one.size).sum();
    let mut emptied = HashSet::new();
    for one in &all {
        if one.day[..10] >= *oldest && size <= at_most {
            break;
        }
        let path = Path::new(OWN).join(TRASH).join(&one.day).join(&one.path);
        let (parent, name) =
            (path.parent().unwrap_or(Path::new("")), path.file_name().unwrap_or_default());
        if root.folder(parent).and_then(|folder| folder.remove_file(name)).is_ok() {
            size = size.saturating_sub(one.size);
            emptied.insert(parent.to_owned());
        }
    }
    for folder in emptied {
        remove_empty(root, &folder);
    }
    Ok(())
}

/// Removes a folder of the trash and those above it, as far as they are empty.
fn remove_empty(root: &mut Root, folder: &Path) {
    let trash = Path::new(OWN).join(TRASH);
    for path in folder.ancestors() {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return };
        if path == trash {
            return;
        }
        root.forget(path);
        if root.folder(parent).and_then(|above| above.remove_folder(name)).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Dir(tempfile::TempDir);

    impl Dir {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn write(&self, name: &str, text: &str) {
            let path = self.0.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }

        fn root(&self) -> Root {
            Root::open(self.0.path()).unwrap()
        }

        /// Displaces or discards a file.
        fn lose(&self, path: &str, to_trash: bool) {
            let (mut root, path) = (self.root(), Path::new(path));
            let top = root.folder(Path::new("")).unwrap();
            let folder = root.folder(path.parent().unwrap()).unwrap();
            let mut aside = Aside::new(&top);
            let name = path.file_name().unwrap();
            match to_trash {
                true => {
                    let seen = folder.stat(name).unwrap();
                    assert!(aside.discard(&folder, name, path, &seen, "laptop").unwrap());
                }
                false => aside.displace(&folder, name, path, &names::unique()).unwrap(),
            }
        }

        fn displaced(&self) -> Vec<PathBuf> {
            let folder = self.0.path().join(OWN).join(DISPLACED);
            let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
            entries.filter(|path| path.file_name().unwrap() != LIST).collect()
        }

        fn tidy(&self, later: Duration) -> Tidied {
            tidy(self.0.path(), "laptop", true, SystemTime::now() + later).unwrap()
        }

        /// The names in a folder, without the agent's own.
        fn names(&self, folder: &str) -> Vec<String> {
            let entries = std::fs::read_dir(self.0.path().join(folder)).unwrap();
            let name = |entry: io::Result<std::fs::DirEntry>| {
                entry.unwrap().file_name().into_string().unwrap()
            };
            let mut names: Vec<_> = entries.map(name).filter(|name| name != OWN).collect();
            names.sort();
            names
        }
    }

    #[test]
    fn a_displaced_file_goes_after_an_hour_and_comes_back_if_a_program_changed_it() {
        let dir = Dir::new();
        dir.write("in/same", "same");
        dir.write("in/late", "before");
        dir.lose("in/same", false);
        let was: HashSet<_> = dir.displaced().into_iter().collect();
        dir.lose("in/late", false);
        assert_eq!(dir.tidy(Duration::ZERO).kept, 2);
        let late = dir.displaced().into_iter().find(|path| !was.contains(path)).unwrap();
        std::fs::write(late, "saved afterwards").unwrap();
        let tidied = dir.tidy(Duration::from_secs(60));
        assert_eq!((tidied.kept, tidied.returned.len()), (1, 1));
        let copy = dir.0.path().join(&tidied.returned[0]);
        assert!(copy.starts_with(dir.0.path().join("in")), "{copy:?}");
        assert_eq!(std::fs::read(copy).unwrap(), b"saved afterwards");
        assert_eq!(dir.tidy(KEPT_FOR - Duration::from_secs(60)).kept, 1);
        let tidied = dir.tidy(KEPT_FOR + Duration::from_secs(60));
        assert_eq!((tidied.kept, tidied.returned.len()), (0, 0));
        assert!(dir.displaced().is_empty());
    }

    #[test]
    fn a_displaced_file_of_an_unknown_kind_is_kept_as_a_copy() {
        let dir = Dir::new();
        dir.write("f", "text");
        dir.lose("f", false);
        let list = dir.0.path().join(OWN).join(DISPLACED).join(LIST);
        for damage in ["", "{\"file\":", "[]\n\u{0}\n"] {
            std::fs::write(&list, damage).unwrap();
            let tidied = dir.tidy(KEPT_FOR * 2);
            if !tidied.returned.is_empty() {
                let copy = dir.0.path().join(&tidied.returned[0]);
                assert_eq!(std::fs::read(copy).unwrap(), b"text");
                return;
            }
        }
        panic!("it never came back");
    }

    #[test]
    fn no_line_of_the_list_leads_out_of_the_directory() {
        for path in ["../out", "/etc/passwd", "", "a/../../b", "."] {
            assert_eq!(PathBytes(path.as_bytes().to_vec()).path(), None, "{path}");
        }
        assert_eq!(PathBytes(b"a/\xFF".to_vec()).path().unwrap().as_os_str().as_bytes(), b"a/\xFF");
    }

    #[test]
    fn the_trash_keeps_each_deletion_and_gives_it_back_beside_what_is_there() {
        let dir = Dir::new();
        for text in ["one", "two"] {
            dir.write("in/deep/f", text);
            dir.lose("in/deep/f", true);
        }
        // Now a file is where a folder of the trash is.
        std::fs::remove_dir_all(dir.0.path().join("in")).unwrap();
        dir.write("in", "three");
        dir.lose("in", true);
        let found = discarded(&mut dir.root()).unwrap();
        let paths: Vec<_> =
            found.iter().map(|one| (one.path.to_str().unwrap(), one.size)).collect();
        assert_eq!(paths.len(), 3, "{paths:?}");
        let deep: Vec<_> = found.iter().filter(|one| one.path.ends_with("f")).collect();
        for one in &deep {
            restore(&mut dir.root(), one, "laptop").unwrap();
        }
        let names = dir.names("in/deep");
        assert_eq!(names.len(), 2, "{names:?}");
        assert_eq!(names[0], "f");
        assert_eq!(discarded(&mut dir.root()).unwrap().len(), 1);
    }

    #[test]
    fn the_trash_forgets_after_its_days() {
        let dir = Dir::new();
        dir.write("in/f", "text");
        dir.lose("in/f", true);
        let day = Duration::from_secs(24 * 60 * 60);
        dir.tidy(day * 29);
        assert_eq!(discarded(&mut dir.root()).unwrap().len(), 1);
        dir.tidy(day * 32);
        assert_eq!(discarded(&mut dir.root()).unwrap().len(), 0);
        assert_eq!(dir.names(&format!("{OWN}/{TRASH}")), [""; 0], "folders go too");
    }
}
