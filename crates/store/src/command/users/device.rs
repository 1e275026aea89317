//! Devices: who called, what they reported, and which of them are revoked.

use std::collections::BTreeMap;

use vfs_sync_core::id::{ReplicaId, UserId};
use vfs_sync_core::server::deletion::is_replacement;
use vfs_sync_core::server::device::{Device, DeviceState, MAX_USER_DEVICES, Sighting};
use vfs_sync_core::time::Timestamp;

use super::deletion::is_deleted;
use crate::command::{
    ActiveDevices, AdmissionOf, ChangeDevice, Command, ListDevices, NoteDevices,
    ReadAdmissionGeneration, RecordReports, one_call,
};
use crate::error::Result;
use crate::topics::Topics;
use crate::values::{Admission, DeviceChange};

one_call! {
    ReadAdmissionGeneration: |tx, _it| tx.admission_generation();
    ListDevices: |tx, it| tx.devices_after(it.of.as_ref(), it.after.as_ref(), it.limit);
    ActiveDevices: |tx, it| tx.devices_seen_since(it.since, it.at_most);
}

impl Command for AdmissionOf {
    async fn run<T: Topics>(&self, tx: &mut T) -> Result<Self::Answer> {
        admission(tx, &self.user, self.client.as_ref()).await
    }
}

/// Returns what is known of a caller.
pub(super) async fn admission<T: Topics>(
    tx: &mut T,
    user: &UserId,
    client: Option<&ReplicaId>,
) -> Result<Admission> {
    let found = tx.admission(user, client).await?;
    let is_deleted = is_replacement(user) || is_deleted(tx, user).await?;
    Ok(Admission { is_deleted, ..found })
}

impl Command for NoteDevices {
    async fn run<T: Topics>(&self, tx: &mut T) -> Result<Self::Answer> {
        // In the order of their keys, in which all transactions lock rows.
        let ordered: BTreeMap<(&UserId, &ReplicaId), &Sighting> =
            self.sightings.iter().map(|seen| ((&seen.user, &seen.client), seen)).collect();
        for ((user, client), seen) in ordered {
            let Some((mut found, new)) = found_or_new(tx, user, client, seen.at).await? else {
                continue;
            };
            found.device.note(seen, found.applied);
            tx.put_device(&found.device, new).await?;
        }
        Ok(())
    }
}

impl Command for RecordReports {
    async fn run<T: Topics>(&self, tx: &mut T) -> Result<Self::Answer> {
        let Self { user, seen, reports, now } = self;
        let Some((mut found, new)) = found_or_new(tx, user, &seen.client, *now).await? else {
            return Ok(reports.clone());
        };
        if seen.description.is_some() {
            found.device.note(seen, found.applied);
        }
        let fresh = found.device.report(reports.clone(), *now);
        tx.put_device(&found.device, new).await?;
        Ok(fresh)
    }
}

impl Command for ChangeDevice {
    async fn run<T: Topics>(&self, tx: &mut T) -> Result<Self::Answer> {
        let Self { user, client, change, now } = self;
        let Some(DeviceState { mut device, .. }) = tx.device(user, client).await? else {
            return Ok(false);
        };
        match change {
            DeviceChange::Rename(name) => device.facts.given_name = Some(name.clone()),
            DeviceChange::Revoke if device.revoked_at.is_some() => return Ok(true),
            DeviceChange::Revoke => {
                device.revoked_at = Some(*now);
                tx.next_admission_generation().await?;
            }
        }
        tx.put_device(&device, false).await?;
        Ok(true)
    }
}

/// Returns the row of a device, or a new one and `true`; `None` if the user has no room for another
/// device.
async fn found_or_new<T: Topics>(
    tx: &mut T,
    user: &UserId,
    client: &ReplicaId,
    now: Timestamp,
) -> Result<Option<(DeviceState, bool)>> {
    if let Some(found) = tx.device(user, client).await? {
        return Ok(Some((found, false)));
    }
    // A call that was noted before its user was deleted leaves no row.
    if is_deleted(tx, user).await? {
        return Ok(None);
    }
    let room = tx.count_devices(user, MAX_USER_DEVICES).await? < MAX_USER_DEVICES;
    if !room && !tx.drop_oldest_device(user).await? {
        return Ok(None);
    }
    let device = Device::new(user.clone(), client.clone(), now);
    Ok(Some((DeviceState { device, applied: None, head: None }, true)))
}
