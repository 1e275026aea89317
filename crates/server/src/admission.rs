//! The admission of users and devices: what the database says of them, remembered for seconds.
//!
//! A revocation and every other change of an admission changes one number of the database, the
//! generation. A process asks for that number, however many devices it serves; only if it changed
//! are the rows of users and devices read again.

pub(crate) mod fair_store;
pub(crate) mod rates;
pub(crate) mod shares;

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::StatusCode;
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use vfs_sync_core::id::{ReplicaId, UserId};
use vfs_sync_core::wire::code;
use vfs_sync_core::wire::credential::CredentialId;
use vfs_sync_store::{Admission, MetadataStore};

use crate::auth::TokenError;
use crate::error::ApiError;
use crate::http::extract::refused;
use crate::state::App;
use fair_store::calling_for;

/// The time for which the generation counts as known. With the time of [`keep_up`]'s next look, a
/// device that was revoked is served for less than 5 seconds.
const KNOWN_FOR: Duration = Duration::from_secs(2);
/// Users and devices that are remembered.
const MAX_ENTRIES: usize = 64 * 1024;

/// A user, and the device that a request names.
type Key = (UserId, Option<ReplicaId>);

/// The reason why a user or a device is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denial {
    /// An operator has disabled the user.
    UserDisabled,
    /// The user was deleted.
    UserDeleted,
    /// The device was revoked.
    DeviceRevoked,
}

impl Denial {
    pub(crate) fn of(admission: Admission) -> Option<Self> {
        match admission {
            Admission { is_deleted: true, .. } => Some(Self::UserDeleted),
            Admission { is_disabled: true, .. } => Some(Self::UserDisabled),
            Admission { is_revoked: true, .. } => Some(Self::DeviceRevoked),
            _ => None,
        }
    }
}

impl From<Denial> for ApiError {
    fn from(denial: Denial) -> Self {
        let (code, sentence) = match denial {
            Denial::UserDisabled => (
                code::USER_DISABLED,
                "The server's operator has disabled this user: the device keeps everything it has",
            ),
            Denial::UserDeleted => (
                code::USER_DELETED,
                "The user was deleted from the server: the device keeps everything it has",
            ),
            Denial::DeviceRevoked => (
                code::DEVICE_REVOKED,
                "This device was revoked: it keeps everything it has, and is served no longer",
            ),
        };
        metrics::counter!("vfs_sync_denied_total", "code" => code).increment(1);
        Self::new(StatusCode::FORBIDDEN, code, sentence)
    }
}

/// An admission that a request holds while it is in progress.
pub(crate) struct Admitted {
    generation: AtomicU64,
    denial: Option<Denial>,
    /// The credential of the device that is good.
    credential: Option<CredentialId>,
    /// Cancelled once the user or the device is no longer served.
    ended: CancellationToken,
}

impl Admitted {
    fn new(read: Admission) -> Arc<Self> {
        let ended = CancellationToken::new();
        let (generation, denial) = (AtomicU64::new(read.generation), Denial::of(read));
        Arc::new(Self { generation, denial, credential: read.credential, ended })
    }

    /// Waits until the user or the device is no longer served.
    pub(crate) async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

/// The admissions that a process remembers.
#[derive(Default)]
pub(crate) struct Admissions {
    known: Mutex<Known>,
    /// The turn of one look at the generation after the other.
    looking: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Known {
    generation: u64,
    /// The time at which the generation was read; none if it has to be read again.
    at: Option<Instant>,
    entries: HashMap<Key, Arc<Admitted>>,
}

impl Known {
    fn is_fresh(&self) -> bool {
        self.at.is_some_and(|at| at.elapsed() < KNOWN_FOR)
    }
}

impl Admissions {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the next request ask the database, because this process changed an admission.
    pub(crate) fn changed(&self) {
        self.known().at = None;
    }

    /// Returns the admission of a user, and of a device of the user's; with `credential`, that of a
    /// token which came from a credential of the device.
    ///
    /// # Errors
    /// [`Denial`] as an [`ApiError`], [`TokenError::CredentialEnded`] if the credential is not good any
    /// more, or the failure of the database: a process that cannot reach it serves nobody.
    pub(crate) async fn admit(
        &self,
        store: &dyn MetadataStore,
        user: &UserId,
        client: Option<&ReplicaId>,
        credential: Option<CredentialId>,
    ) -> Result<Arc<Admitted>, ApiError> {
        let key = (user.clone(), client.cloned());
        let fits = |one: &Admitted| credential.is_none() || one.credential == credential;
        self.look(store).await?;
        let found = {
            let known = self.known();
            let current =
                |one: &&Arc<Admitted>| one.generation.load(Ordering::Relaxed) == known.generation;
            known.entries.get(&key).filter(current).cloned()
        };
        let admitted = match found {
            // What another process has just signed in is not known here yet.
            Some(found) if found.denial.is_some() || fits(&found) => found,
            _ => self.read(store, key).await?,
        };
        match admitted.denial {
            Some(denial) => Err(denial.into()),
            None if fits(&admitted) => Ok(admitted),
            None => Err(refused(TokenError::CredentialEnded)),
        }
    }

    /// Reads the generation, unless it is known.
    async fn look(&self, store: &dyn MetadataStore) -> Result<(), ApiError> {
        if self.known().is_fresh() {
            return Ok(());
        }
        let _turn = self.looking.lock().await;
        if self.known().is_fresh() {
            return Ok(());
        }
        let begun = Instant::now();
        let generation = store.admission_generation().await?;
        let mut known = self.known();
        (known.generation, known.at) = (generation, Some(begun));
        Ok(())
    }

    /// Reads the admission of `key`; ends the requests of one that is no longer served.
    async fn read(&self, store: &dyn MetadataStore, key: Key) -> Result<Arc<Admitted>, ApiError> {
        let (user, client) = &key;
        let read = calling_for(user, store.admission(user, client.clone())).await?;
        let new = Admitted::new(read);
        let mut known = self.known();
        if read.generation != known.generation {
            // It changed since the look.
            known.at = None;
        }
        let before = known.entries.get(&key).cloned();
        let is_same = |before: &Admitted| {
            before.denial.is_none() && new.denial.is_none() && before.credential == new.credential
        };
        let admitted = match before {
            Some(before) if is_same(&before) => {
                before.generation.store(read.generation, Ordering::Relaxed);
                return Ok(before);
            }
            Some(before) => {
                before.ended.cancel();
                new
            }
            None => new,
        };
        if known.entries.len() >= MAX_ENTRIES {
            known.entries.retain(|_, entry| Arc::strong_count(entry) > 1);
        }
        if known.entries.len() < MAX_ENTRIES {
            known.entries.insert(key, Arc::clone(&admitted));
        }
        Ok(admitted)
    }

    /// Reads again what requests in progress hold and what may have changed.
    async fn recheck(&self, store: &dyn MetadataStore) -> Result<(), ApiError> {
        self.look(store).await?;
        let held: Vec<Key> = {
            let known = self.known();
            let stale = known.entries.iter().filter(|(_, entry)| {
                Arc::strong_count(entry) > 1
                    && entry.generation.load(Ordering::Relaxed) != known.generation
            });
            stale.map(|(key, _)| key.clone()).collect()
        };
        for key in held {
            self.read(store, key).await?;
        }
        Ok(())
    }
}

/// Returns a body that breaks off once the user or the device is no longer served. A body that is
/// whole already stays as it is.
pub(crate) fn until_ended(body: Body, admitted: Arc<Admitted>) -> Body {
    if body.size_hint().exact().is_some_and(|bytes| bytes <= WHOLE_BYTES) {
        return body;
    }
    let ended = Box::pin({
        let ended = admitted.ended.clone();
        async move { ended.cancelled_owned().await }
    });
    Body::new(Ending { body, ended, _admitted: admitted })
}

/// Bytes of an answer that are sent so soon that nobody ends them.
const WHOLE_BYTES: u64 = 64 * 1024;

/// A body that breaks off.
struct Ending {
    body: Body,
    ended: Pin<Box<dyn Future<Output = ()> + Send>>,
    _admitted: Arc<Admitted>,
}

impl http_body::Body for Ending {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        if this.ended.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Err(axum::Error::new("no longer served"))));
        }
        Pin::new(&mut this.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Ends the requests of users and devices that are no longer served, until `stop` is cancelled.
pub(crate) async fn keep_up(app: App, stop: CancellationToken) {
    let work = async {
        loop {
            tokio::time::sleep(KNOWN_FOR).await;
            if let Err(error) = app.admissions.recheck(&*app.store).await {
                tracing::debug!(code = error.code, "admissions cannot be read");
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
}

#[cfg(test)]
mod tests {
    use vfs_sync_core::server::device::Sighting;
    use vfs_sync_core::time::Timestamp;
    use vfs_sync_store::DeviceChange;
    use vfs_sync_store::memory::MemoryStore;

    use super::*;

    fn alice() -> (UserId, ReplicaId) {
        (UserId::new("alice").unwrap(), ReplicaId::new("phone").unwrap())
    }

    async fn revoke(store: &dyn MetadataStore) {
        let (user, client) = alice();
        let (at, address, description) = (Timestamp::MIN, None, None);
        let seen =
            Sighting { user: user.clone(), client: client.clone(), at, address, description };
        store.note_devices(vec![seen]).await.unwrap();
        assert!(store.change_device(user, client, DeviceChange::Revoke, at).await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_revocation_counts_in_less_than_five_seconds_in_every_process() {
        let store: Arc<dyn MetadataStore> = Arc::new(MemoryStore::new(Timestamp::MIN));
        let (here, there) = (Admissions::default(), Admissions::default());
        let (user, client) = alice();
        let admit = async |at: &Admissions| {
            at.admit(&*store, &user, Some(&client), None).await.map_err(|error| error.code)
        };
        let held = admit(&there).await.unwrap();
        admit(&here).await.unwrap();
        revoke(&*store).await;
        assert!(admit(&there).await.is_ok(), "remembered");
        here.changed();
        assert_eq!(admit(&here).await.err(), Some(code::DEVICE_REVOKED));

        let begun = Instant::now();
        tokio::time::sleep(KNOWN_FOR).await;
        there.recheck(&*store).await.unwrap();
        tokio::time::timeout(KNOWN_FOR, held.ended()).await.expect("what was open ends");
        assert!(begun.elapsed() < Duration::from_secs(5));
        assert_eq!(admit(&there).await.err(), Some(code::DEVICE_REVOKED));
        assert!(
            there.admit(&*store, &user, None, None).await.is_ok(),
            "a request that names no device"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_of_one_device_ends_nothing_of_another() {
        let store: Arc<dyn MetadataStore> = Arc::new(MemoryStore::new(Timestamp::MIN));
        let admissions = Admissions::default();
        let (user, _) = alice();
        let laptop = ReplicaId::new("laptop").unwrap();
        let held = admissions.admit(&*store, &user, Some(&laptop), None).await.unwrap();
        revoke(&*store).await;
        tokio::time::sleep(KNOWN_FOR).await;
        admissions.recheck(&*store).await.unwrap();
        assert!(!held.ended.is_cancelled());
        let again = admissions.admit(&*store, &user, Some(&laptop), None).await.unwrap();
        assert!(Arc::ptr_eq(&held, &again));
    }
}
