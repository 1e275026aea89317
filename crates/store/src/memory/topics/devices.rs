//! Devices, and the number by which servers notice that one was revoked.

use vfs_sync_core::id::{ReplicaId, UserId};
use vfs_sync_core::server::device::{Device, DeviceState};
use vfs_sync_core::time::Timestamp;

use crate::error::Result;
use crate::memory::state::{State, count};
use crate::memory::transaction::MemoryTransaction;
use crate::topics::Devices;
use crate::values::Admission;

impl State {
    fn device_state(&self, device: &Device) -> DeviceState {
        let applied = self.reconciled.get(&device.user, &device.client);
        DeviceState {
            device: device.clone(),
            applied: applied.map(|state| state.cursor.change_id.clone()),
            head: self.heads.get(&device.user).map(|head| head.counter),
        }
    }
}

impl Devices for MemoryTransaction<'_> {
    async fn device(&mut self, user: &UserId, client: &ReplicaId) -> Result<Option<DeviceState>> {
        let device = self.state.devices.get(&(user.clone(), client.clone()));
        Ok(device.map(|device| self.state.device_state(device)))
    }

    async fn devices_after(
        &mut self,
        of: Option<&UserId>,
        after: Option<&(UserId, ReplicaId)>,
        limit: u32,
    ) -> Result<Vec<DeviceState>> {
        let all = self.state.devices.rows().iter();
        let found = all
            .filter(|(key, _)| of.is_none_or(|of| key.0 == *of) && after.is_none_or(|at| *key > at))
            .take(count(limit));
        Ok(found.map(|(_, device)| self.state.device_state(device)).collect())
    }

    async fn devices_seen_since(
        &mut self,
        since: Timestamp,
        at_most: u32,
    ) -> Result<Vec<DeviceState>> {
        let all = self.state.devices.rows().values();
        let mut found: Vec<&Device> = all.filter(|device| device.last_seen >= since).collect();
        found.sort_by_key(|device| std::cmp::Reverse(device.last_seen));
        found.truncate(count(at_most));
        Ok(found.into_iter().map(|device| self.state.device_state(device)).collect())
    }

    async fn put_device(&mut self, device: &Device, _new: bool) -> Result<()> {
        self.state.devices.put((device.user.clone(), device.client.clone()), device.clone());
        Ok(())
    }

    async fn count_devices(&mut self, user: &UserId, enough: u64) -> Result<u64> {
        let of_user = self.state.devices.rows().keys().filter(|(owner, _)| owner == user);
        Ok((of_user.count() as u64).min(enough))
    }

    async fn drop_oldest_device(&mut self, user: &UserId) -> Result<bool> {
        let of_user = self
            .state
            .devices
            .rows()
            .iter()
            .filter(|((owner, _), device)| owner == user && device.revoked_at.is_none());
        let oldest = of_user.min_by_key(|(_, device)| device.last_seen);
        let Some(key) = oldest.map(|(key, _)| key.clone()) else { return Ok(false) };
        Ok(self.state.devices.remove(&key))
    }

    async fn admission(&mut self, user: &UserId, client: Option<&ReplicaId>) -> Result<Admission> {
        let key = client.map(|client| (user.clone(), client.clone()));
        let device = key.as_ref().and_then(|key| self.state.devices.get(key));
        let credential = key.as_ref().and_then(|key| self.state.credentials.get(key));
        Ok(Admission {
            generation: self.state.admission.get(&()).copied().unwrap_or(0),
            is_disabled: self.state.disabled.get(user).is_some(),
            is_deleted: false,
            is_revoked: device.is_some_and(|device| device.revoked_at.is_some()),
            credential: credential.filter(|one| one.ended_at.is_none()).map(|one| one.id),
        })
    }

    async fn admission_generation(&mut self) -> Result<u64> {
        Ok(self.state.admission.get(&()).copied().unwrap_or(0))
    }

    async fn next_admission_generation(&mut self) -> Result<()> {
        let next = self.admission_generation().await? + 1;
        self.state.admission.put((), next);
        Ok(())
    }
}
