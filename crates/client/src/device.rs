//! The device that a replica is on, as its requests describe it to the server.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use vfs_sync_core::cursor::Epoch;
use vfs_sync_core::id::ReplicaId;
use vfs_sync_core::wire::device::{Description, client_header};

use crate::lock::lock;

/// The version of this library, which reports and requests name.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The number that stands for an unknown length of the queue.
const UNKNOWN: u64 = u64::MAX;

/// A replica's description of its device. The client keeps it up to date; a transport sends it with
/// each request.
#[derive(Debug)]
pub struct Device {
    client_id: ReplicaId,
    name: Option<String>,
    queue: AtomicU64,
    stopped: Mutex<Option<String>>,
    /// The latest epoch that was seen; 0 if none was.
    epoch: AtomicU64,
}

impl Device {
    /// Describes the device of a replica, with the name that its user knows it by.
    #[must_use]
    pub fn new(client_id: ReplicaId, name: Option<String>) -> Self {
        let (queue, stopped, epoch) =
            (AtomicU64::new(UNKNOWN), Mutex::default(), AtomicU64::new(0));
        Self { client_id, name, queue, stopped, epoch }
    }

    /// Returns the id of the replica.
    #[must_use]
    pub fn client_id(&self) -> &ReplicaId {
        &self.client_id
    }

    /// Returns the value of the header
    /// [`CLIENT_HEADER`](vfs_sync_core::wire::device::CLIENT_HEADER).
    #[must_use]
    pub fn client_header(&self) -> String {
        client_header(&self.client_id)
    }

    /// Returns the value of the header
    /// [`DEVICE_HEADER`](vfs_sync_core::wire::device::DEVICE_HEADER).
    #[must_use]
    pub fn description_header(&self) -> String {
        let queue = self.queue.load(Ordering::Relaxed);
        let epoch = self.epoch.load(Ordering::Relaxed);
        let description = Description {
            name: self.name.clone().unwrap_or_default(),
            version: VERSION.to_owned(),
            platform: format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH),
            queue: (queue != UNKNOWN).then_some(queue),
            stopped: lock(&self.stopped).clone(),
            epoch: if epoch == 0 { None } else { Epoch::from_u64(epoch) },
        };
        description.header()
    }

    /// Sets the number of operations and contents that wait to be sent.
    pub(crate) fn set_queue(&self, queue: u64) {
        self.queue.store(queue, Ordering::Relaxed);
    }

    /// Sets the signature or code with which synchronisation is stopped.
    pub(crate) fn set_stopped(&self, signature: Option<String>) {
        *lock(&self.stopped) = signature;
    }

    /// Notes the epoch of an answer.
    pub(crate) fn saw(&self, epoch: Option<Epoch>) {
        self.epoch.fetch_max(epoch.map_or(0, Epoch::as_u64), Ordering::Relaxed);
    }
}

/// The device that a transport's requests name: none before it is bound, and none again once
/// different replicas share the transport, because a request does not tell whose it is.
#[derive(Debug, Default)]
pub struct BoundDevice(Mutex<Bound>);

#[derive(Debug, Default)]
enum Bound {
    #[default]
    None,
    One(Arc<Device>),
    Several,
}

impl BoundDevice {
    /// Binds a transport to a device, as [`crate::Transport::bind_device`] describes.
    pub fn bind(&self, device: &Arc<Device>) {
        let mut bound = lock(&self.0);
        *bound = match &*bound {
            Bound::One(other) if other.client_id != device.client_id => Bound::Several,
            Bound::Several => Bound::Several,
            Bound::None | Bound::One(_) => Bound::One(Arc::clone(device)),
        };
    }

    /// Returns the device that requests name.
    #[must_use]
    pub fn get(&self) -> Option<Arc<Device>> {
        match &*lock(&self.0) {
            Bound::One(device) => Some(Arc::clone(device)),
            Bound::None | Bound::Several => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transport_that_replicas_share_names_none_of_them() {
        let device = |id: &str| Arc::new(Device::new(ReplicaId::new(id).unwrap(), None));
        let bound = BoundDevice::default();
        assert!(bound.get().is_none());
        bound.bind(&device("a"));
        bound.bind(&device("a"));
        assert_eq!(bound.get().unwrap().client_header(), "a");
        bound.bind(&device("b"));
        bound.bind(&device("b"));
        assert!(bound.get().is_none());
    }

    #[test]
    fn a_device_says_what_it_knows() {
        let device = Device::new(ReplicaId::new("a").unwrap(), Some("Åsa's".into()));
        let of = |device: &Device| Description::of_header(&device.description_header()).unwrap();
        assert_eq!((of(&device).queue, of(&device).stopped), (None, None));
        device.set_queue(7);
        device.set_stopped(Some("client".into()));
        assert_eq!((of(&device).queue, of(&device).stopped.as_deref()), (Some(7), Some("client")));
        assert_eq!((&*of(&device).name, &*of(&device).version), ("Åsa's", VERSION));
        assert_eq!(of(&device).epoch, None);
        for (told, latest) in [(5, 5), (7, 7), (6, 7)] {
            device.saw(Epoch::from_u64(told));
            assert_eq!(of(&device).epoch, Epoch::from_u64(latest));
        }
    }
}
