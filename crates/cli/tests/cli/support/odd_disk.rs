//! Disks of other systems, and disks that fail: a file system of the test over a directory.

mod file_system;

use std::cell::OnceCell;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use fuser::{BackgroundSession, Config, MountOption};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use file_system::FileSystem;

/// The traits of a disk in which it differs from the one under it. They can change while it is in
/// use.
#[derive(Debug, Clone, Default)]
pub(crate) struct Traits {
    /// `A` and `a` are one name; the one that was created is kept.
    pub(crate) case_insensitive: bool,
    /// `é` and `e` with an accent are one name, which is kept decomposed.
    pub(crate) decomposing: bool,
    /// `a.` is the name `a`, as vfat and exfat of Linux have it.
    pub(crate) strips_dots: bool,
    /// Names that Windows does not allow are refused.
    pub(crate) windows_names: bool,
    /// Times come back as even seconds, and there is no time of the last change.
    pub(crate) coarse_times: bool,
    /// All files have one mode; another one is taken, and ignored.
    pub(crate) fixed_mode: bool,
    /// Changes of modes are refused.
    pub(crate) refuses_chmod: bool,
    pub(crate) no_hard_links: bool,
    pub(crate) no_symlinks: bool,
    /// There is neither an exchange of names nor a rename that does not replace.
    pub(crate) plain_renames: bool,
    /// The inodes have other numbers each time that the disk is mounted.
    pub(crate) new_inodes: bool,
    /// The number of bytes that can still be written.
    pub(crate) room: Option<u64>,
    /// The disk always says that it has much room.
    pub(crate) hides_room: bool,
    /// The disk is gone instead of full once no byte can be written any more.
    pub(crate) goes_when_full: bool,
    /// The name of a file that cannot be read.
    pub(crate) unreadable: Option<&'static str>,
    /// The name of a folder whose listing fails after so many entries.
    pub(crate) breaks_off: Option<(&'static str, usize)>,
    /// The name whose first look-up finds the disk gone.
    pub(crate) goes_at: Option<&'static str>,
    /// Every request fails: the device is gone.
    pub(crate) gone: bool,
}

impl Traits {
    /// A stick with FAT, as Linux mounts it.
    pub(crate) fn fat() -> Self {
        Self {
            case_insensitive: true,
            strips_dots: true,
            windows_names: true,
            coarse_times: true,
            fixed_mode: true,
            no_hard_links: true,
            no_symlinks: true,
            plain_renames: true,
            new_inodes: true,
            ..Self::default()
        }
    }
}

/// A mounted disk, which is unmounted when it is dropped.
pub(crate) struct OddDisk {
    traits: Arc<Mutex<Traits>>,
    at: PathBuf,
    back: PathBuf,
    session: Option<BackgroundSession>,
    /// The number that the system gave the device at first.
    device: u64,
    /// A disk that has the number while this one is not mounted.
    place: Option<Box<OddDisk>>,
    /// The mount point, if it goes with the disk.
    #[allow(dead_code, reason = "it is removed when it is dropped")]
    spare: Option<tempfile::TempDir>,
}

/// Held while disks are mounted: the numbers of devices are of all tests.
pub(super) static MOUNTING: Mutex<()> = Mutex::new(());

/// The number of disks that may be mounted at once.
const MANY: usize = 100;

impl OddDisk {
    /// Mounts a disk at `at` that has the files of the directory `back`. Returns `None` where no
    /// such disk can be mounted, and says so.
    #[allow(clippy::print_stderr, reason = "a skipped test says so")]
    pub(crate) fn mount(back: &Path, at: &Path, traits: Traits) -> Option<Self> {
        has_own_mounts();
        std::fs::create_dir_all(back).unwrap();
        let traits = Arc::new(Mutex::new(traits));
        let (at, back) = (at.to_owned(), back.to_owned());
        let mut disk =
            Self { traits, at, back, session: None, device: 0, place: None, spare: None };
        let _alone = MOUNTING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = disk.try_mount() {
            let test = std::thread::current();
            let test = test.name().unwrap_or_default();
            eprintln!("SKIPPED: {test}: no file system in user space can be mounted: {error}");
            return None;
        }
        disk.device = disk.at.metadata().unwrap().dev();
        Some(disk)
    }

    fn try_mount(&mut self) -> std::io::Result<()> {
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("vfs-sync-test".to_owned())];
        let system = FileSystem::new(&self.back, Arc::clone(&self.traits))?;
        self.session = Some(fuser::spawn_mount(system, &self.at, &config)?);
        Ok(())
    }

    /// Changes the traits of the disk.
    pub(crate) fn set(&self, change: impl FnOnce(&mut Traits)) {
        change(&mut self.traits.lock().unwrap());
    }

    /// Returns whether the disk is gone.
    pub(crate) fn is_gone(&self) -> bool {
        self.traits.lock().unwrap().gone
    }

    /// Unmounts the disk, also while a process uses it.
    pub(crate) fn detach(&mut self) {
        if let Some(session) = self.session.take() {
            let _ = umount2(&self.at, MntFlags::MNT_DETACH);
            drop(session);
        }
    }

    /// Mounts the disk, under any device number.
    pub(crate) fn attach(&mut self) {
        let _alone = MOUNTING.lock().unwrap_or_else(PoisonError::into_inner);
        self.try_mount().unwrap();
    }

    /// Unmounts the disk, and keeps its device number for [`Self::mount_again`].
    pub(crate) fn unmount(&mut self) {
        let _alone = MOUNTING.lock().unwrap_or_else(PoisonError::into_inner);
        self.detach();
        // The system gives the lowest number that is free.
        let mut others = Vec::new();
        loop {
            let other = self.another();
            if other.device == self.device {
                self.place = Some(Box::new(other));
                return;
            }
            assert!(others.len() < MANY, "the number is not free");
            others.push(other);
        }
    }

    /// Mounts the disk again, with the device number that it had.
    pub(crate) fn mount_again(&mut self) {
        if self.place.is_none() {
            self.unmount();
        }
        let _alone = MOUNTING.lock().unwrap_or_else(PoisonError::into_inner);
        self.place = None;
        let mut others = Vec::new();
        loop {
            self.try_mount().unwrap();
            if self.at.metadata().unwrap().dev() == self.device {
                return;
            }
            assert!(others.len() < MANY, "the number is not free");
            self.detach();
            others.push(self.another());
        }
    }

    /// Mounts the disk again, under another device number, as after a start of the machine.
    pub(crate) fn mount_as_another_device(&mut self) {
        self.unmount();
        self.attach();
        self.place = None;
    }

    /// Mounts another disk beside this one.
    fn another(&self) -> Self {
        let name = self.at.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let at = tempfile::Builder::new().prefix(&name).tempdir().unwrap();
        let traits = Arc::new(Mutex::new(Traits::default()));
        let (back, spare) = (self.back.clone(), Some(at));
        let at = spare.as_ref().map_or_else(PathBuf::new, |at| at.path().to_owned());
        let mut other = Self { traits, at, back, session: None, device: 0, place: None, spare };
        other.try_mount().unwrap();
        other.device = other.at.metadata().unwrap().dev();
        other
    }
}

impl Drop for OddDisk {
    fn drop(&mut self) {
        // What waits for the disk goes on.
        if let Ok(mut traits) = self.traits.lock() {
            traits.gone = true;
        }
        self.detach();
    }
}

/// Gives this thread, and the processes that it starts, mounts of their own, where that is allowed:
/// they end with them, even if they are killed.
pub(super) fn has_own_mounts() {
    thread_local! {
        static DONE: OnceCell<()> = const { OnceCell::new() };
    }
    DONE.with(|done| {
        done.get_or_init(|| {
            if unshare(CloneFlags::CLONE_NEWNS).is_ok() {
                let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
                let nothing = None::<&str>;
                let _ = mount(nothing, "/", nothing, flags, nothing);
            }
        });
    });
}
