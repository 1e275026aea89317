//! The faults of disks in a world.

use super::World;
use crate::infra::disk::{DiskFault, Unsynced};
use crate::plan::{DiskEvent, DiskTrouble};

impl World {
    pub(super) async fn inject(&mut self, trouble: DiskTrouble) {
        self.ledger.note(|| format!("disk {trouble:?}"));
        match trouble.device {
            Some(device) => self.inject_into_device(device, trouble.event).await,
            None => self.inject_into_servers(trouble.event),
        }
    }

    async fn inject_into_device(&mut self, device: usize, event: DiskEvent) {
        let device = &mut self.devices[device];
        device.home.iter().for_each(|home| home.apply(event));
        match event {
            DiskEvent::Killed => {
                self.ledger.fault("device: killed", || device.index.to_string());
                device.restart(Unsynced::Kept).await;
            }
            DiskEvent::Power => device.lose_power().await,
            _ => {}
        }
    }

    fn inject_into_servers(&mut self, event: DiskEvent) {
        let Some(disk) = self.database.disk() else { return };
        match event {
            // Other steps crash servers, which affects no disk.
            DiskEvent::Killed => {}
            DiskEvent::Power => {
                disk.power_off();
                disk.power_on(&self.ledger);
            }
            DiskEvent::PowerAt(at) => disk.fault_next(DiskFault::PowerFails, at),
            DiskEvent::FailsAt(at) => disk.fault_next(DiskFault::Fails, at),
            DiskEvent::Full(bytes) => disk.set_room(Some(bytes)),
            DiskEvent::Room => disk.set_room(None),
        }
    }

    /// Ends the faults of all disks.
    pub(super) async fn heal_disks(&mut self) {
        self.database.disk().into_iter().for_each(crate::infra::power::ServerDisk::heal);
        for device in &mut self.devices {
            device.revive().await;
            device.home.iter().for_each(crate::actor::replica_disk::Home::heal);
        }
    }
}
