//! A disk in memory that loses power: what was not synchronised may be lost, and a seed says what is.

mod file_system;
mod image;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use fuser::{BackgroundSession, Config, MountOption};
use nix::mount::{MntFlags, umount2};

use super::odd_disk::{MOUNTING, has_own_mounts};
use file_system::FileSystem;
use image::Image;
pub(crate) use image::Order;

/// A mounted disk, which is unmounted when it is dropped.
pub(crate) struct CrashDisk {
    image: Arc<Mutex<Image>>,
    at: std::path::PathBuf,
    session: Option<BackgroundSession>,
}

impl CrashDisk {
    /// Mounts an empty disk at `at`. Returns `None` where no such disk can be mounted, and says so.
    #[allow(clippy::print_stderr, reason = "a skipped test says so")]
    pub(crate) fn mount(at: &Path, order: Order) -> Option<Self> {
        has_own_mounts();
        std::fs::create_dir_all(at).unwrap();
        let image = Arc::new(Mutex::new(Image::new(order)));
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("vfs-sync-test".to_owned())];
        let _alone = MOUNTING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match fuser::spawn_mount(FileSystem(Arc::clone(&image)), at, &config) {
            Ok(session) => Some(Self { image, at: at.to_owned(), session: Some(session) }),
            Err(error) => {
                let test = std::thread::current();
                let test = test.name().unwrap_or_default();
                eprintln!("SKIPPED: {test}: no file system in user space can be mounted: {error}");
                None
            }
        }
    }

    fn image(&self) -> MutexGuard<'_, Image> {
        self.image.lock().unwrap()
    }

    /// Has the power fail at the operation after `operations` more, and kills the process then.
    pub(crate) fn fail_after(&self, operations: u64, victim: u32) {
        self.image().fail_after(operations, victim);
    }

    /// Returns the number of operations that change the disk or synchronise it, so far.
    pub(crate) fn operations(&self) -> u64 {
        self.image().operations
    }

    /// Returns whether the power has failed.
    pub(crate) fn is_off(&self) -> bool {
        self.image().is_off
    }

    /// Turns the power off, and on again: the disk has what was synchronised, and of the rest what
    /// the random numbers leave. No process may have a file open.
    pub(crate) fn restart(&self, random: &mut fastrand::Rng) -> Vec<String> {
        self.image().restart(random)
    }
}

impl Drop for CrashDisk {
    fn drop(&mut self) {
        if let Ok(mut image) = self.image.lock() {
            image.is_off = true;
        }
        if let Some(session) = self.session.take() {
            let _ = umount2(&self.at, MntFlags::MNT_DETACH);
            drop(session);
        }
    }
}
