//! Faults of disks during a world.

use super::World;
use crate::disk::{DiskFault, Unsynced};
use crate::plan::{Blow, DiskTrouble};

impl World {
    pub(super) async fn befall(&mut self, trouble: DiskTrouble) {
        self.ledger.note(|| format!("disk {trouble:?}"));
        match trouble.device {
            Some(device) => self.befall_device(device, trouble.blow).await,
            None => self.befall_servers(trouble.blow),
        }
    }

    async fn befall_device(&mut self, device: usize, blow: Blow) {
        let device = &mut self.devices[device];
        device.home.iter().for_each(|home| home.suffer(blow));
        match blow {
            Blow::Killed => {
                self.ledger.fault("device: killed", || device.index.to_string());
                device.restart(Unsynced::Kept).await;
            }
            Blow::Power => device.lose_power().await,
            _ => {}
        }
    }

    fn befall_servers(&mut self, blow: Blow) {
        let Some(disk) = self.database.disk() else { return };
        match blow {
            // Other steps crash servers; what they have written is the disk's.
            Blow::Killed => {}
            Blow::Power => {
                disk.power_off();
                disk.power_on(&self.ledger);
            }
            Blow::PowerAt(at) => disk.fault_next(DiskFault::PowerFails, at),
            Blow::FailsAt(at) => disk.fault_next(DiskFault::Fails, at),
            Blow::Full(bytes) => disk.set_room(Some(bytes)),
            Blow::Room => disk.set_room(None),
        }
    }

    /// All disks are well from now on.
    pub(super) async fn heal_disks(&mut self) {
        self.database.disk().into_iter().for_each(crate::power::ServerDisk::heal);
        for device in &mut self.devices {
            device.revive().await;
            device.home.iter().for_each(crate::home::Home::heal);
        }
    }
}
