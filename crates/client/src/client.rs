//! The client: a replica, a transport, and the state that connects them.

pub(crate) mod builder;

use std::panic::AssertUnwindSafe;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{Notify, Semaphore, broadcast, watch};
use vfs_sync_core::cursor::Cursor;
use vfs_sync_core::guardrail::Violation;
use vfs_sync_core::id::{ItemId, ReplicaId, UserId};
use vfs_sync_core::tree::device_name;
use vfs_sync_core::wire::WriteIds;

use crate::config::ClientConfig;
use crate::content::cache::Cache;
use crate::device::Device;
use crate::environment::Environment;
use crate::error::{ClientError, Failing, Result, StopReason};
use crate::event::{ChangeEvent, Observer, Progress, TreeChange};
use crate::host::Instant;
use crate::lock::lock;
use crate::replica::{ReplicaStore, Reports};
use crate::sync::connection::{Connection, Connectivity};
use crate::sync::task::Background;
use crate::transport::Transport;

/// The number of changes that a subscriber may fall behind before it misses some.
const CHANGES_KEPT: usize = 4_096;
/// The number of changes of the tree that a subscriber may fall behind before it misses some.
const TREE_CHANGES_KEPT: usize = 8_192;

/// The state of a replica, for people and for triage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The id of this replica.
    pub client_id: ReplicaId,
    /// The user that the replica belongs to.
    pub user: UserId,
    /// The server that the replica was created for.
    pub server: String,
    /// The position up to which the feed is applied.
    pub cursor: Option<Cursor>,
    /// The write ids of the last settled pull.
    pub last_reconciled_write_ids: WriteIds,
    /// The number of operations to push.
    pub pending: u64,
    /// The number of operations that the server has decided, shown until a pull covers them.
    pub acknowledged: u64,
    /// The number of rejected operations.
    pub rejected: u64,
    /// The number of contents to upload.
    pub uploads: u64,
    /// The number of contents whose upload was rejected for good; their bytes are kept.
    pub rejected_uploads: u64,
    /// The number of changes that a restored server lost and that could not be offered again.
    pub lost: u64,
    /// The number of items confirmed by the server.
    pub items: u64,
    /// The reason why synchronisation stopped, until it succeeds or is started by hand.
    pub stopped: Option<StopReason>,
    /// The reason why synchronising has failed since its last success.
    pub failing: Option<Failing>,
    /// The reason why background work pauses; it resumes once the cause is gone.
    pub paused: Option<StopReason>,
    /// True while background work is running.
    pub running: bool,
    /// The state of the connection to the server.
    pub connection: Connection,
}

/// A replica of a user's tree, and the transport to its server. Clones are cheap and share one
/// client.
///
/// Calls that are not `async` touch only the replica, and block at most for a disk write.
#[derive(Clone)]
pub struct SyncClient {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) store: Mutex<ReplicaStore>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) config: ClientConfig,
    /// The device as requests describe it.
    pub(crate) description: Arc<Device>,
    /// The time before which no reports are sent, after an attempt that failed.
    pub(crate) report_from: Mutex<Option<Instant>>,
    pub(crate) cache: Arc<Cache>,
    /// A permit for each download that may be in progress.
    pub(crate) downloads: Semaphore,
    /// False once the server is known to lack the call for several small contents.
    pub(crate) reads_many: AtomicBool,
    pub(crate) progress: Mutex<Progress>,
    observers: Mutex<Vec<Arc<dyn Observer>>>,
    changes: broadcast::Sender<ChangeEvent>,
    tree_changes: broadcast::Sender<TreeChange>,
    /// A number that grows with every transaction that may change the tree.
    version: watch::Receiver<u64>,
    /// A lock that every call to the server holds: one sync at a time.
    pub(crate) work: Arc<tokio::sync::Mutex<()>>,
    pub(crate) sync_requested: Arc<Notify>,
    pub(crate) background: Mutex<Option<Background>>,
    /// The reason why background work pauses, if it does.
    pub(crate) paused: Mutex<Option<StopReason>>,
    /// The last field: it is dropped after the replica, which [`SyncClient::released`] waits for.
    connection: watch::Sender<Connection>,
}

impl SyncClient {
    pub(crate) fn over(
        mut store: ReplicaStore,
        cache: Arc<Cache>,
        transport: Arc<dyn Transport>,
        config: ClientConfig,
    ) -> Self {
        let meta = store.meta();
        let description = Device::new(meta.client_id.clone(), config.device.clone());
        description.set_stopped(meta.stopped.as_ref().map(|reason| reason.signature.clone()));
        description.saw(meta.epoch);
        let description = Arc::new(description);
        transport.bind_device(&description);
        let tree_changes = broadcast::channel(TREE_CHANGES_KEPT).0;
        let (changed, version) = watch::channel(0);
        store.report_to(Reports { changes: tree_changes.clone(), version: changed });
        let inner = Inner {
            store: Mutex::new(store),
            transport,
            description,
            report_from: Mutex::default(),
            downloads: Semaphore::new(config.transfers),
            reads_many: AtomicBool::new(true),
            config,
            cache,
            progress: Mutex::default(),
            observers: Mutex::default(),
            changes: broadcast::channel(CHANGES_KEPT).0,
            tree_changes,
            version,
            work: Arc::default(),
            sync_requested: Arc::default(),
            background: Mutex::default(),
            paused: Mutex::default(),
            connection: watch::channel(Connection::default()).0,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Returns the id of this replica.
    #[must_use]
    pub fn client_id(&self) -> ReplicaId {
        self.store().meta().client_id.clone()
    }

    /// Returns the name of this device in the names of conflicted copies.
    #[must_use]
    pub fn device(&self) -> String {
        self.inner.device(&self.client_id())
    }

    /// Returns the user that the replica belongs to.
    #[must_use]
    pub fn user(&self) -> UserId {
        self.store().meta().user.clone()
    }

    /// Returns a new, random item id.
    #[must_use]
    pub fn new_item_id(&self) -> ItemId {
        self.environment().new_item_id()
    }

    pub(crate) fn environment(&self) -> &dyn Environment {
        self.inner.environment()
    }

    /// Subscribes to the changes from now on. A subscriber that is too slow misses some; its channel
    /// reports how many.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<ChangeEvent> {
        self.inner.changes.subscribe()
    }

    /// Subscribes to the changes of the tree from now on: by edits of this replica and by pulls, each
    /// with the item as it was before. A subscriber that is too slow misses some; its channel reports
    /// how many. While there is a subscriber, each transaction looks its items up before and after.
    #[must_use]
    pub fn tree_changes(&self) -> broadcast::Receiver<TreeChange> {
        self.inner.tree_changes.subscribe()
    }

    /// Returns a number that grows with every transaction that may have changed the tree, for reads
    /// that are repeated after a change.
    #[must_use]
    pub fn tree_version(&self) -> watch::Receiver<u64> {
        self.inner.version.clone()
    }

    /// Returns the state of the connection to the server, and each change of it. Background work also
    /// emits [`ChangeEvent::Connection`].
    #[must_use]
    pub fn connection(&self) -> watch::Receiver<Connection> {
        self.inner.connection.subscribe()
    }

    /// Waits until the replica is released: the last clone is dropped, and the disk work that cancelled
    /// calls left running is done. Another client can open the replica then.
    pub fn released(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut connection = self.connection();
        async move { while connection.changed().await.is_ok() {} }
    }

    /// Adds an observer of violations and progress.
    pub fn observe(&self, observer: Arc<dyn Observer>) {
        lock(&self.inner.observers).push(observer);
    }

    /// Returns the state of the replica.
    ///
    /// # Errors
    /// Only if the replica cannot be read.
    pub fn status(&self) -> Result<Status> {
        let paused = lock(&self.inner.paused).clone();
        let running = lock(&self.inner.background).as_ref().is_some_and(Background::is_running);
        let mut store = self.store();
        let counts = store.counts()?;
        let meta = store.meta();
        let settled = meta.settled.as_ref();
        Ok(Status {
            client_id: meta.client_id.clone(),
            user: meta.user.clone(),
            server: meta.server.to_string(),
            cursor: meta.cursor.clone(),
            last_reconciled_write_ids: settled
                .map(|state| state.last_reconciled_write_ids.clone())
                .unwrap_or_default(),
            pending: counts.pending,
            acknowledged: counts.acknowledged,
            rejected: counts.rejected,
            uploads: counts.uploads,
            rejected_uploads: counts.rejected_uploads,
            lost: counts.lost,
            items: meta.items,
            stopped: meta.stopped.as_ref().map(|reason| (**reason).clone()),
            failing: meta.failing.as_ref().map(|failing| (**failing).clone()),
            paused,
            running,
            connection: *self.inner.connection.borrow(),
        })
    }

    pub(crate) fn store(&self) -> MutexGuard<'_, ReplicaStore> {
        lock(&self.inner.store)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Background work that rests finds the client gone.
        self.sync_requested.notify_one();
    }
}

impl Inner {
    pub(crate) fn environment(&self) -> &dyn Environment {
        &*self.config.environment
    }

    /// Returns the name of this device in the names of conflicted copies.
    pub(crate) fn device(&self, client_id: &ReplicaId) -> String {
        let id = client_id.as_str();
        let end = || id.char_indices().rev().nth(7).map_or(id, |(at, _)| &id[at..]).to_owned();
        device_name(&self.config.device.clone().unwrap_or_else(end))
    }

    /// Evicts contents if the cache is over its limit. It must not be called with the store locked.
    pub(crate) fn trim_cache(&self) -> Result<()> {
        if self.cache.is_over()? {
            // Locked until it is done: a content that is queued in between would not be known to stay.
            let mut store = lock(&self.store);
            let queued = store.blobs_to_keep()?;
            self.cache.trim(&queued);
        }
        Ok(())
    }

    /// Changes the state of the connection; returns it.
    pub(crate) fn connected(&self, change: impl FnOnce(&mut Connection)) -> Connection {
        self.connection.send_if_modified(|connection| {
            let before = *connection;
            change(connection);
            *connection != before
        });
        *self.connection.borrow()
    }

    /// Records whether the server could be reached.
    pub(crate) fn reached(&self, reached: bool) {
        let now = self.environment().now();
        self.connected(|connection| {
            connection.state = match (connection.state, reached) {
                (Connectivity::Unknown | Connectivity::Offline { .. }, true) => {
                    Connectivity::Online
                }
                (offline @ Connectivity::Offline { .. }, false) => offline,
                (_, false) => Connectivity::Offline { since: now },
                (state, true) => state,
            };
        });
    }

    fn notify(&self, what: impl Fn(&dyn Observer)) {
        let observers = lock(&self.observers).clone();
        for observer in observers {
            // What an observer does must not change what the client does.
            let _ = std::panic::catch_unwind(AssertUnwindSafe(|| what(&*observer)));
        }
    }

    /// Changes the progress, and notifies the observers.
    pub(crate) fn advance(&self, change: impl FnOnce(&mut Progress)) {
        let progress = {
            let mut progress = lock(&self.progress);
            change(&mut progress);
            *progress
        };
        self.notify(|observer| observer.progress(&progress));
    }

    pub(crate) fn has_subscribers(&self) -> bool {
        self.changes.receiver_count() > 0
    }

    pub(crate) fn emit(&self, changes: impl IntoIterator<Item = ChangeEvent>) {
        for change in changes {
            // Nobody listening is no failure.
            let _ = self.changes.send(change);
        }
    }

    /// Emits the violation in which a call ends: logs it, counts it, and notifies the observers. It
    /// is called once, where the call returns; inner functions only return a violation.
    pub(crate) fn emitted(&self, error: ClientError) -> ClientError {
        if let ClientError::Violation(violation) = &error {
            report_violation((**violation).clone());
            self.notify(|observer| observer.violation(violation));
        }
        error
    }
}

/// Logs and counts a violation that is found before a client exists, such as a state file that does
/// not name its client.
pub fn report_violation(violation: Violation) -> ClientError {
    let (stage, code) = (violation.stage().as_str(), violation.code());
    let signature = violation.signature();
    let details = serde_json::Value::Object(violation.details());
    tracing::error!(stage, code, signature, %details, "guardrail: {violation}");
    let total = "vfs_sync_guardrail_violation_total";
    metrics::counter!(total, "stage" => stage, "code" => code, "signature" => signature)
        .increment(1);
    if matches!(violation, Violation::RematerializationRequired { .. }) {
        let total = "vfs_sync_rematerialization_required_total";
        metrics::counter!(total, "code" => code, "signature" => violation.signature()).increment(1);
    }
    violation.into()
}

impl std::fmt::Debug for SyncClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SyncClient").finish_non_exhaustive()
    }
}
