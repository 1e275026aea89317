//! The state that handlers share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use tokio::sync::{Notify, Semaphore};
use vfs_sync_blobs::BlobStore;
use vfs_sync_core::id::{ReplicaId, UserId};
use vfs_sync_core::time::Timestamp;
use vfs_sync_store::{HeadObserver, MetadataStore};

use crate::admission::fair_store::FairStore;
use crate::admission::rates::{Origin, Rates};
use crate::admission::shares::{Bounds, Share, Shares};
use crate::admission::{Admissions, Admitted};
use crate::auth::access::AccessTokens;
use crate::auth::{Authenticator, TokenError};
use crate::background::devices::{Caller, Sightings};
use crate::background::maintenance::Wake;
use crate::background::sampling::Successes;
use crate::config::ServerConfig;
use crate::environment::Environment;
use crate::error::ApiError;
use crate::http::body::{Reader, Received, memory_units};
use crate::http::extract::refused;
use crate::live::Live;
use crate::operator::console::problems::LastLook;
use crate::operator::pseudonym::Pseudonyms;

/// Requests of one user that wait for their turn.
const WAITING: usize = 64;

/// The state shared by all handlers. It holds nothing that another server instance would need.
#[derive(Clone)]
pub(crate) struct App(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) store: Arc<dyn MetadataStore>,
    pub(crate) blobs: Arc<dyn BlobStore>,
    pub(crate) auth: Authenticator,
    pub(crate) access: AccessTokens,
    pub(crate) environment: Arc<dyn Environment>,
    pub(crate) config: ServerConfig,
    pub(crate) rates: Rates,
    pub(crate) live: Arc<Live>,
    pub(crate) admissions: Admissions,
    pub(crate) sightings: Sightings,
    pub(crate) pseudonyms: Pseudonyms,
    pub(crate) successes: Successes,
    /// Wakes the regular work before its time.
    pub(crate) wake: Wake,
    /// The last look at the devices, for the console.
    pub(crate) last_look: LastLook,
    /// Wakes the removal of deleted users.
    pub(crate) deletions: Notify,
    /// The latest epoch that the database is known to have reached.
    epoch: AtomicU64,
    memory: Shares,
    requests: Shares,
    large_uploads: Shares,
    /// The turns in which bytes of uploads are hashed: they leave a processor to other requests.
    pub(crate) upload_turns: Semaphore,
}

impl std::ops::Deref for App {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl App {
    pub(crate) fn new(
        store: Arc<dyn MetadataStore>,
        blobs: Arc<dyn BlobStore>,
        auth: Authenticator,
        environment: Arc<dyn Environment>,
        config: ServerConfig,
    ) -> Self {
        let shares = |name, total, per_user| {
            Shares::new(name, Bounds { total, per_user, of_free: 1, waiting: WAITING })
        };
        let (all, of_user) = (config.max_body_memory, config.max_user_memory);
        let memory = shares("memory", memory_units(all), memory_units(of_user));
        let requests = shares("requests", config.max_requests, config.max_user_requests);
        let (all, of_user) = (config.max_large_uploads, config.max_user_large_uploads);
        let large_uploads = shares("large_uploads", all, of_user);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let store: Arc<dyn MetadataStore> = Arc::new(FairStore::new(store));
        let live = Arc::new(Live::new(&config, environment.unique() as u64));
        let observer: Weak<dyn HeadObserver> = Arc::downgrade(&live) as _;
        store.observe_heads(observer);
        Self(Arc::new(Inner {
            store,
            blobs,
            auth,
            access: AccessTokens::default(),
            environment,
            live,
            admissions: Admissions::default(),
            sightings: Sightings::default(),
            pseudonyms: Pseudonyms::default(),
            successes: Successes::default(),
            wake: Wake::default(),
            last_look: LastLook::default(),
            deletions: Notify::new(),
            epoch: AtomicU64::new(0),
            rates: Rates::new(&config),
            config,
            memory,
            requests,
            large_uploads,
            upload_turns: Semaphore::new(cores.saturating_sub(1).max(1)),
        }))
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.environment.now()
    }

    /// Returns a random number, for an epoch.
    pub(crate) fn chance(&self) -> u16 {
        // The end of an id is random.
        u16::try_from(self.environment.unique() & 0xffff).unwrap_or(0)
    }

    /// Returns the admission of a user and of the device that a request names, and notes the call.
    pub(crate) async fn admit(
        &self,
        user: &UserId,
        caller: Option<&Caller>,
    ) -> Result<Arc<Admitted>, ApiError> {
        let client = caller.map(|caller| &caller.client);
        let credential = caller.and_then(|caller| caller.credential);
        let admitted = self.admissions.admit(&*self.store, user, client, credential).await?;
        self.pseudonyms.load(&*self.store).await?;
        if let Some(caller) = caller {
            self.sightings.note(user, caller.clone(), self.now());
        }
        Ok(admitted)
    }

    /// Checks that the database has reached the epoch that a device has seen. Otherwise it is a former
    /// primary or an older copy: what it answered would be of a history that has ended, and what it
    /// acknowledged would be lost.
    ///
    /// # Errors
    /// [`ApiError`], of a kind after which the device asks again.
    pub(crate) async fn check_epoch(&self, caller: Option<&Caller>) -> Result<(), ApiError> {
        let Some(seen) = caller.and_then(Caller::epoch) else { return Ok(()) };
        if self.epoch.load(Ordering::Relaxed) >= seen.as_u64() {
            return Ok(());
        }
        let present = self.store.heads(Vec::new()).await?.epoch;
        self.epoch.fetch_max(present.as_u64(), Ordering::Relaxed);
        if present < seen { Err(ApiError::behind(seen, present)) } else { Ok(()) }
    }

    /// Checks that a replica may be served which the body of a request names, and perhaps not its
    /// headers.
    pub(crate) async fn check_device(
        &self,
        user: &UserId,
        caller: Option<&Caller>,
        client: &ReplicaId,
    ) -> Result<(), ApiError> {
        if caller.is_some_and(|caller| caller.client == *client) {
            return Ok(());
        }
        if caller.is_some_and(|caller| caller.credential.is_some()) {
            return Err(refused(TokenError::OtherDevice));
        }
        self.admissions.admit(&*self.store, user, Some(client), None).await.map(drop)
    }

    /// Returns the size of the largest blob: the lesser of the configured limit and the object
    /// store's.
    pub(crate) fn max_blob_bytes(&self) -> u64 {
        self.config.max_blob_bytes.min(self.blobs.max_size())
    }

    /// Counts a request of a user, and takes one of the user's places for requests in progress.
    pub(crate) async fn request_share(&self, origin: &Origin) -> Result<Share, ApiError> {
        self.rates.request(origin)?;
        let user = &origin.user;
        Ok(self.requests.take(user, 1, self.config.queue_wait).await?)
    }

    /// Takes one of the user's places for uploads that are too large for memory.
    pub(crate) async fn upload_share(&self, user: &UserId) -> Result<Share, ApiError> {
        Ok(self.large_uploads.take(user, 1, self.config.idle_timeout).await?)
    }

    /// Takes memory of the user's for an answer of at most `bytes`.
    pub(crate) async fn answer_memory(
        &self,
        user: &UserId,
        bytes: usize,
    ) -> Result<Share, ApiError> {
        Ok(self.memory.take(user, memory_units(bytes), self.config.queue_wait).await?)
    }

    /// Begins to count the bytes of a user that are received into memory.
    pub(crate) fn received(&self, user: &UserId) -> Result<Received, ApiError> {
        Received::new(&self.memory, user)
    }

    pub(crate) fn reader<'a>(&'a self, user: &'a UserId) -> Reader<'a> {
        Reader { memory: &self.memory, user, pace: self.config.pace() }
    }
}
