//! Notices changes under a directory, as hints to scan some of its folders.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

use super::aside;
use super::disk::names;
use super::ignore::RULES_FILE;
use super::scope::Scope;

/// The time without a change after which a directory counts as quiet.
const QUIET: Duration = Duration::from_millis(500);
/// The time after which a directory that is never quiet is scanned all the same.
const AT_MOST: Duration = Duration::from_secs(60);

/// The changes that nobody has looked at.
#[derive(Debug, Default)]
struct Unseen {
    /// The times of the first and the last of them.
    times: Option<(Instant, Instant)>,
    /// The folders with these changes.
    scope: Scope,
}

impl Unseen {
    fn add(&mut self, now: Instant, scope: Scope) {
        let first = self.times.map_or(now, |(first, _)| first);
        self.times = Some((first, now));
        self.scope.add(scope);
    }

    /// Returns the time at which the directory is quiet, unless more changes come.
    fn due(&self) -> Option<Instant> {
        self.times.map(|(first, last)| (last + QUIET).min(first + AT_MOST))
    }
}

#[derive(Debug)]
struct Shared {
    /// The directory that is watched.
    directory: PathBuf,
    unseen: Mutex<Unseen>,
    /// The reason why some changes are not noticed.
    broken: Mutex<Option<String>>,
    wake: Notify,
}

impl Shared {
    fn with<T>(&self, f: impl FnOnce(&mut Unseen) -> T) -> T {
        f(&mut self.unseen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            unseen: Mutex::default(),
            broken: Mutex::default(),
            wake: Notify::new(),
        }
    }

    fn handle(&self, event: notify::Result<Event>) {
        let mut scope = Scope::nothing();
        match event {
            Ok(event) if !is_change(&event) => return,
            Ok(event) => match self.scope(&event) {
                Some(folders) => scope.add(folders),
                None => scope = Scope::Whole,
            },
            // Some folder is not watched: too many are, or it cannot be read.
            Err(error) => {
                let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
                broken.get_or_insert_with(|| error.to_string());
                scope = Scope::Whole;
            }
        }
        self.with(|unseen| unseen.add(Instant::now(), scope));
        self.wake.notify_one();
    }

    /// Returns the folders with the changed entries of an event; `None` if they may be anywhere.
    fn scope(&self, event: &Event) -> Option<Scope> {
        if event.need_rescan() || event.paths.is_empty() {
            return None;
        }
        let mut scope = Scope::nothing();
        for path in &event.paths {
            let inside = path.strip_prefix(&self.directory).ok()?;
            // Its rules hold for everything under its folder.
            if inside.file_name().is_some_and(|name| name == RULES_FILE) {
                return None;
            }
            scope.add_folder(inside.parent().unwrap_or(Path::new("")).to_owned());
        }
        Some(scope)
    }
}

/// Returns whether an event may be a change of a user's file: not a read, and not an export's own
/// unfinished file.
fn is_change(event: &Event) -> bool {
    if let EventKind::Access(kind) = event.kind
        && kind != AccessKind::Close(AccessMode::Write)
    {
        return false;
    }
    let own = |path: &std::path::PathBuf| {
        let own = |name| names::is_temporary(name) || names::is_displaced(name);
        path.file_name().is_some_and(own) || path.iter().any(|name| name == aside::OWN)
    };
    event.paths.is_empty() || !event.paths.iter().all(own)
}

/// A watch of a directory with everything in it.
pub struct Watcher {
    shared: Arc<Shared>,
    /// The system's watch; `None` if it refused.
    _system: Option<notify::RecommendedWatcher>,
}

impl Watcher {
    /// Watches `directory`; with `deep` everything under it too.
    pub fn new(directory: &Path, deep: bool) -> Self {
        let shared = Arc::new(Shared::new(directory));
        let handler = Arc::clone(&shared);
        let mode = if deep { RecursiveMode::Recursive } else { RecursiveMode::NonRecursive };
        // A link may lead out of the directory, to the whole machine.
        let config = notify::Config::default().with_follow_symlinks(false);
        let system = notify::RecommendedWatcher::new(move |event| handler.handle(event), config)
            .and_then(|mut system| system.watch(directory, mode).map(|()| system));
        let system = match system {
            Ok(system) => {
                if let Some(why) = silent(directory) {
                    let mut broken = shared.broken.lock().unwrap_or_else(PoisonError::into_inner);
                    broken.get_or_insert(why);
                }
                Some(system)
            }
            Err(error) => {
                *shared.broken.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some(error.to_string());
                None
            }
        };
        Self { shared, _system: system }
    }

    /// Returns the reason why changes may go unnoticed, if they may.
    pub fn broken(&self) -> Option<String> {
        self.shared.broken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for a change that nobody has looked at.
    pub async fn changed(&self) {
        while self.due().is_none() {
            self.shared.wake.notified().await;
        }
    }

    /// Returns the time at which the directory is to be scanned; `None` if nothing changed.
    pub fn due(&self) -> Option<Instant> {
        self.shared.with(|unseen| unseen.due())
    }

    /// Forgets the changes so far, before they are looked at; returns where they were.
    pub fn take(&self) -> Scope {
        self.shared.with(|unseen| std::mem::take(unseen).scope)
    }
}

/// Returns the reason why a directory's disk does not tell of all changes, if it does not: on a disk
/// of the network, those of other machines.
#[cfg(target_os = "linux")]
fn silent(directory: &Path) -> Option<String> {
    // From statfs(2) and linux/magic.h.
    let network = match rustix::fs::statfs(directory).ok()?.f_type as u32 {
        0x6969 => "NFS",
        0x517B | 0xFE53_4D42 | 0xFF53_4D42 => "SMB",
        0x6573_5546 => "FUSE",
        0x0102_1997 => "9P",
        0x00C3_6400 => "Ceph",
        0x5346_414F | 0x6B41_4653 => "AFS",
        0x786F_4256 => "VirtualBox",
        _ => return None,
    };
    Some(format!("a disk of type {network} does not tell of others' changes"))
}

#[cfg(not(target_os = "linux"))]
fn silent(_directory: &Path) -> Option<String> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_never_quiet_is_due_after_a_minute() {
        let (mut unseen, start) = (Unseen::default(), Instant::now());
        assert_eq!(unseen.due(), None);
        for second in 0..120 {
            unseen.add(start + Duration::from_secs(second), Scope::nothing());
            let due = unseen.due().unwrap();
            let quiet = start + Duration::from_secs(second) + QUIET;
            assert_eq!(due, quiet.min(start + AT_MOST));
        }
    }

    #[tokio::test]
    async fn changes_at_any_depth_are_noticed_and_reads_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("in")).unwrap();
        std::fs::write(at("in/file"), "x").unwrap();
        let watcher = Watcher::new(dir.path(), true);
        assert_eq!(watcher.broken(), None);
        assert_eq!(std::fs::read(at("in/file")).unwrap(), b"x");
        std::fs::write(dir.path().join(names::temporary("")), "half").unwrap();
        // Events come in order, so an event of this file comes after those of the ones before.
        std::fs::write(at("in/file"), "y").unwrap();
        watcher.changed().await;
        let event = Event::new(EventKind::Access(AccessKind::Read));
        assert!(!is_change(&event));
        let own = dir.path().join(names::temporary(""));
        assert!(!is_change(&Event::new(EventKind::Any).add_path(own)));
        assert_eq!(watcher.take(), Scope::Folders([PathBuf::from("in")].into()));
        // Events of the write above may still come.
        let mut seen = Scope::nothing();
        std::fs::rename(at("in"), at("out")).unwrap();
        while !matches!(&seen, Scope::Folders(folders) if folders.contains(Path::new(""))) {
            watcher.changed().await;
            seen.add(watcher.take());
        }
        // Not in the renamed folder, whose watch may still be on its way.
        std::fs::write(at(RULES_FILE), "x").unwrap();
        while seen != Scope::Whole {
            watcher.changed().await;
            seen.add(watcher.take());
        }
    }
}
