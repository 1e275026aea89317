//! The disk of a device's replica: the database on a simulated disk, its contents in a directory.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempDir;
use vfs_sync_client::{ClientConfig, ClientError, SyncClient, Transport};
use vfs_sync_core::id::{ReplicaId, UserId};
use vfs_sync_testkit::Random;

use crate::infra::disk::{Disk, DiskFault, Unsynced};
use crate::infra::power::unsynced;
use crate::plan::DiskEvent;

thread_local! {
    /// A directory shared by all worlds of a thread, so that a world is the same whenever it is
    /// played.
    static ROOT: TempDir = tempfile::tempdir().expect("a directory");
}

pub(crate) struct Home {
    device: usize,
    random: Random,
    made: u32,
    dir: PathBuf,
    pub(crate) disk: Disk,
    /// True if the disk had a fault, so that a call may fail.
    pub(crate) troubled: Arc<AtomicBool>,
}

impl Home {
    pub(crate) fn new(device: usize, random: Random) -> Self {
        let (dir, disk) = place(device, 0);
        Self { device, random, made: 0, dir, disk, troubled: Arc::default() }
    }

    /// Creates a replica on a new disk, with the given id if there is one.
    pub(crate) fn create(
        &mut self,
        user: UserId,
        id: Option<ReplicaId>,
        to: Arc<dyn Transport>,
        config: ClientConfig,
    ) -> Result<SyncClient, ClientError> {
        let _ = std::fs::remove_dir_all(&self.dir);
        self.made += 1;
        (self.dir, self.disk) = place(self.device, self.made);
        let config = ClientConfig { vfs: Some(Disk::vfs()), ..config };
        match id {
            None => SyncClient::builder(to).server("sim").config(config).create(&self.dir, user),
            Some(id) => SyncClient::builder(to)
                .server("sim")
                .config(config)
                .client_id(id)
                .create(&self.dir, user),
        }
    }

    pub(crate) fn open(
        &self,
        to: Arc<dyn Transport>,
        config: ClientConfig,
    ) -> Result<SyncClient, ClientError> {
        SyncClient::builder(to)
            .config(ClientConfig { vfs: Some(Disk::vfs()), ..config })
            .open(&self.dir)
    }

    /// Draws the fate of unsynced writes after a power failure.
    pub(crate) fn unsynced(&mut self) -> Unsynced {
        unsynced(&mut self.random)
    }

    /// Applies a fault that does not end the process at once.
    pub(crate) fn apply(&self, event: DiskEvent) {
        self.troubled.store(true, Ordering::Relaxed);
        let fault_in = |at: u64, fault| self.disk.fault_at(self.disk.operations() + at, fault);
        match event {
            DiskEvent::PowerAt(at) => fault_in(at, DiskFault::PowerFails),
            DiskEvent::FailsAt(at) => fault_in(at, DiskFault::Fails),
            DiskEvent::Full(bytes) => self.disk.set_capacity(Some(self.disk.used() + bytes)),
            DiskEvent::Room => self.disk.set_capacity(None),
            DiskEvent::Killed | DiskEvent::Power => {}
        }
    }

    /// Ends all faults of the disk.
    pub(crate) fn heal(&self) {
        self.disk.forget_faults();
        self.disk.set_capacity(None);
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn place(device: usize, made: u32) -> (PathBuf, Disk) {
    let dir = ROOT.with(|root| root.path().join(format!("device-{device}-{made}")));
    let disk = Disk::below(&dir);
    (dir, disk)
}
