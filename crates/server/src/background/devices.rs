//! The calls of devices, collected and written together: one row of a device at most once a minute.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderValue;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use vfs_sync_core::cursor::Epoch;
use vfs_sync_core::id::{ReplicaId, UserId};
use vfs_sync_core::server::device::Sighting;
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::credential::CredentialId;
use vfs_sync_core::wire::device::Description;
use vfs_sync_store::{MetadataStore, StoreError};

use crate::state::App;

/// The shortest time between two writes of a device's row.
const WRITE_EVERY: Duration = Duration::from_secs(60);
/// The shortest time before a device's row is written again because it stopped or goes on.
const WRITE_STOPS_EVERY: Duration = Duration::from_secs(5);
/// The interval at which what is due is written.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Devices whose calls are collected, and those of one user.
const MAX_DEVICES: usize = 64 * 1024;
const MAX_USER_DEVICES: usize = 100;
/// Rows that one transaction writes, and transactions of one look.
const WRITTEN_AT_ONCE: usize = 100;
const WRITES_A_LOOK: usize = 20;

/// The device that a request names, with its description as it was sent.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) client: ReplicaId,
    pub(crate) address: Option<IpAddr>,
    pub(crate) description: Option<HeaderValue>,
    /// The credential of the device that the request's token came from; `None` for a token that was
    /// given by hand.
    pub(crate) credential: Option<CredentialId>,
}

impl Caller {
    /// Returns the latest epoch that the device has seen, if it says so.
    pub(crate) fn epoch(&self) -> Option<Epoch> {
        self.description.as_ref()?.to_str().ok().and_then(Description::epoch_in)
    }

    /// Returns the call in the form in which it is stored.
    pub(crate) fn sighting(&self, user: &UserId, at: Timestamp) -> Sighting {
        let text = self.description.as_ref().and_then(|value| value.to_str().ok());
        Sighting {
            user: user.clone(),
            client: self.client.clone(),
            at,
            address: self.address.map(|address| address.to_string()),
            description: text.and_then(Description::of_header),
        }
    }
}

/// Returns the part of a description that says why the device is stopped.
fn stop_in(description: &Option<HeaderValue>) -> Option<&str> {
    let text = description.as_ref()?.to_str().ok()?;
    text.split('&').find(|pair| pair.starts_with("stopped="))
}

/// The last call of a device.
struct Seen {
    caller: Caller,
    at: Timestamp,
    is_written: bool,
    /// True if the device has stopped or gone on since its row was written.
    has_turned: bool,
    written: Option<Instant>,
}

impl Seen {
    fn is_due(&self) -> bool {
        let every = if self.has_turned { WRITE_STOPS_EVERY } else { WRITE_EVERY };
        !self.is_written && self.written.is_none_or(|at| at.elapsed() >= every)
    }

    fn is_forgettable(&self) -> bool {
        self.is_written && self.written.is_none_or(|at| at.elapsed() >= WRITE_EVERY)
    }
}

/// The calls that are not written yet, and when the rows of their devices were.
#[derive(Default)]
pub(crate) struct Sightings(Mutex<HashMap<UserId, HashMap<ReplicaId, Seen>>>);

impl Sightings {
    fn all(&self) -> MutexGuard<'_, HashMap<UserId, HashMap<ReplicaId, Seen>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a call of a user's device, without waiting.
    pub(crate) fn note(&self, user: &UserId, caller: Caller, at: Timestamp) {
        let mut all = self.all();
        if let Some(seen) = all.get_mut(user).and_then(|of_user| of_user.get_mut(&caller.client)) {
            // A call that does not describe its device, such as a look by a doctor, takes nothing back.
            let before = seen.caller.description.take();
            let turns =
                caller.description.is_some() && stop_in(&caller.description) != stop_in(&before);
            seen.has_turned |= turns;
            let description = caller.description.or(before);
            seen.caller = Caller { description, ..caller };
            (seen.at, seen.is_written) = (at, false);
            return;
        }
        let total: usize = if all.len() >= MAX_DEVICES / MAX_USER_DEVICES {
            all.values().map(HashMap::len).sum()
        } else {
            0
        };
        let of_user = all.entry(user.clone()).or_default();
        if total < MAX_DEVICES && of_user.len() < MAX_USER_DEVICES {
            let client = caller.client.clone();
            let (is_written, has_turned, written) = (false, false, None);
            of_user.insert(client, Seen { caller, at, is_written, has_turned, written });
        }
    }

    /// Takes calls that are due, at most so many.
    fn due(&self, at_most: usize) -> Vec<Sighting> {
        let mut due = Vec::new();
        let mut all = self.all();
        for (user, of_user) in all.iter_mut() {
            for seen in of_user.values_mut().filter(|seen| seen.is_due()) {
                if due.len() == at_most {
                    return due;
                }
                due.push(seen.caller.sighting(user, seen.at));
                (seen.is_written, seen.has_turned) = (true, false);
                seen.written = Some(Instant::now());
            }
        }
        due
    }

    /// Forgets devices that have not called for a while.
    fn forget(&self) {
        self.all().retain(|_, of_user| {
            of_user.retain(|_, seen| !seen.is_forgettable());
            !of_user.is_empty()
        });
    }

    /// Writes the calls that are due.
    ///
    /// # Errors
    /// Those of the database; what was to be written is written with the devices' next calls.
    pub(crate) async fn write(&self, store: &dyn MetadataStore) -> Result<(), StoreError> {
        for _ in 0..WRITES_A_LOOK {
            let mut due = self.due(WRITTEN_AT_ONCE);
            if due.is_empty() {
                break;
            }
            due.sort_by(|a, b| (&a.user, &a.client).cmp(&(&b.user, &b.client)));
            store.note_devices(due).await?;
        }
        self.forget();
        Ok(())
    }
}

/// Writes the calls of devices regularly, until `stop` is cancelled, and then once more.
pub(crate) async fn keep_up(app: App, stop: CancellationToken) {
    loop {
        let ends = tokio::select! {
            () = stop.cancelled() => true,
            () = tokio::time::sleep(LOOK_EVERY) => false,
        };
        if let Err(error) = app.sightings.write(&*app.store).await {
            tracing::debug!(%error, "the calls of devices cannot be written");
        }
        if ends {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use vfs_sync_store::memory::MemoryStore;

    use super::*;

    fn caller(client: &str) -> Caller {
        let client = ReplicaId::new(client).unwrap();
        let description = Some(HeaderValue::from_static("name=x&version=1&platform=p&queue=2"));
        Caller { client, address: Some([192, 0, 2, 1].into()), description, credential: None }
    }

    fn user(name: &str) -> UserId {
        UserId::new(name).unwrap()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_millis(1_767_225_600_000 + second * 1_000).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_device_is_written_at_once_and_then_once_a_minute() {
        let store: Arc<dyn MetadataStore> = Arc::new(MemoryStore::new(at(0)));
        let sightings = Sightings::default();
        let last_seen = async || {
            sightings.write(&*store).await.unwrap();
            let found = store.devices(None, None, 10).await.unwrap();
            let of = |one: &vfs_sync_core::server::device::DeviceState| one.device.last_seen;
            found.first().map(of)
        };
        assert_eq!(last_seen().await, None);
        for second in 1..=59 {
            sightings.note(&user("alice"), caller("phone"), at(second));
            assert_eq!(last_seen().await, Some(at(1)));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(last_seen().await, Some(at(59)));
        tokio::time::advance(WRITE_EVERY).await;
        assert_eq!(last_seen().await, Some(at(59)));
        assert!(sightings.all().is_empty(), "what is written is forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn a_device_that_stops_or_goes_on_is_written_in_seconds() {
        let store: Arc<dyn MetadataStore> = Arc::new(MemoryStore::new(at(0)));
        let sightings = Sightings::default();
        let stopped = async || {
            sightings.write(&*store).await.unwrap();
            store.devices(None, None, 10).await.unwrap()[0].device.facts.stopped.clone()
        };
        let text = "name=x&version=1&platform=p&stopped=pull:pullCursorRegression";
        let describing = |text| Some(HeaderValue::from_static(text));
        let stops = || Caller { description: describing(text), ..caller("phone") };
        sightings.note(&user("alice"), caller("phone"), at(1));
        assert_eq!(stopped().await, None);
        for (call, then) in [(stops(), Some("pull:pullCursorRegression")), (caller("phone"), None)]
        {
            let before = stopped().await;
            sightings.note(&user("alice"), call.clone(), at(2));
            sightings.note(&user("alice"), Caller { description: None, ..call }, at(2));
            assert_eq!(stopped().await, before, "not as often as it turns");
            tokio::time::advance(WRITE_STOPS_EVERY).await;
            assert_eq!(stopped().await.as_deref(), then);
        }
    }

    #[tokio::test]
    async fn a_call_without_a_description_takes_none_back() {
        let store: Arc<dyn MetadataStore> = Arc::new(MemoryStore::new(at(0)));
        let sightings = Sightings::default();
        sightings.note(&user("alice"), caller("phone"), at(1));
        let silent = Caller { description: None, ..caller("phone") };
        sightings.note(&user("alice"), silent, at(2));
        sightings.write(&*store).await.unwrap();
        let found = store.devices(None, None, 10).await.unwrap();
        assert_eq!((&*found[0].device.facts.name, found[0].device.last_seen), ("x", at(2)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_one_user_makes_up_is_bounded() {
        let store: Arc<dyn MetadataStore> = Arc::new(MemoryStore::new(at(0)));
        let sightings = Sightings::default();
        for n in 0..10_000 {
            sightings.note(&user("mallory"), caller(&format!("d{n}")), at(1));
        }
        sightings.note(&user("alice"), caller("phone"), at(1));
        sightings.write(&*store).await.unwrap();
        let found = store.devices(Some(user("mallory")), None, 500).await.unwrap();
        assert_eq!(found.len(), MAX_USER_DEVICES);
        assert_eq!(store.devices(Some(user("alice")), None, 500).await.unwrap().len(), 1);
    }
}
