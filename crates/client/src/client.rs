//! The client: a replica, a transport, and the calls between them.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;
use vfs_sync_core::cursor::Cursor;
use vfs_sync_core::id::{ItemId, OpId, ReplicaId, UserId};
use vfs_sync_core::wire::{StateResponse, WriteIds};

use crate::error::{ClientError, StopReason};
use crate::event::{ChangeEvent, Observer, SyncReport};
use crate::node::{Child, Node, QueuedOp, RejectedOp, TreeEntry};
use crate::transport::Transport;

pub(crate) fn later<T>() -> Result<T, ClientError> {
    Err(ClientError::Invalid("not there yet".into()))
}

/// How a client behaves.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Rematerialise by itself, once in a sync, when the server asks for it; otherwise stop.
    pub rematerialise: bool,
    /// Entries in a page: 1 to 500.
    pub page_limit: u32,
    /// Contents on their way at one time: 1 to 64.
    pub transfers: usize,
    /// How long background work rests between two syncs when nothing pokes it.
    pub interval: Duration,
    /// The shortest and the longest back-off after a failure of the network.
    pub backoff: (Duration, Duration),
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            rematerialise: false,
            page_limit: 500,
            transfers: 4,
            interval: Duration::from_secs(30),
            backoff: (Duration::from_millis(500), Duration::from_secs(60)),
        }
    }
}

/// The state of a replica, for people and for triage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// This replica.
    pub client_id: ReplicaId,
    /// Whose it is.
    pub user: UserId,
    /// The server that it was made for.
    pub server: String,
    /// What it has applied.
    pub cursor: Option<Cursor>,
    /// The write ids that a settled pull has told.
    pub last_reconciled_write_ids: WriteIds,
    /// Operations to push.
    pub pending: u64,
    /// Operations that the server has and the feed has not brought back.
    pub acknowledged: u64,
    /// Operations that were refused.
    pub rejected: u64,
    /// Contents to upload.
    pub uploads: u64,
    /// Contents whose upload was refused for good; their bytes are kept.
    pub rejected_uploads: u64,
    /// Items confirmed by the server.
    pub items: u64,
    /// Why background work stopped, if it did.
    pub stopped: Option<StopReason>,
    /// Whether background work is running.
    pub running: bool,
}

/// What [`SyncClient::export_state`] writes besides the confirmed state as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StateExport {
    /// Replace names and metadata by digests, for a bug report. Cannot be hydrated.
    pub redact: bool,
}

/// What [`SyncClient::hydrate_state`] took over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HydrateOutcome {
    /// Items.
    pub items: u64,
    /// Queued operations.
    pub queued: u64,
}

/// A replica of a user's tree and the way to its server. Cheap to clone; clones are one client.
///
/// Calls that are not `async` touch only the replica and block for a disk write at most.
#[derive(Clone)]
pub struct SyncClient {
    inner: Arc<Inner>,
}

struct Inner {
    _transport: Arc<dyn Transport>,
}

impl SyncClient {
    /// Makes a new replica in the directory `dir` (made if missing) for `user` at `server`, a
    /// name of the server that [`Status`] shows.
    ///
    /// # Errors
    /// [`ClientError::ReplicaExists`] if there is one already.
    pub fn create_replica(
        dir: &Path,
        user: UserId,
        server: &str,
        transport: Arc<dyn Transport>,
        config: ClientConfig,
    ) -> Result<Self, ClientError> {
        let _ = (dir, user, server, transport, config);
        later()
    }

    /// Opens the replica in `dir`.
    ///
    /// # Errors
    /// [`ClientError::ReplicaExists`] if there is none, [`ClientError::InUse`],
    /// [`ClientError::NewerReplica`], [`ClientError::CorruptReplica`].
    pub fn open(
        dir: &Path,
        transport: Arc<dyn Transport>,
        config: ClientConfig,
    ) -> Result<Self, ClientError> {
        let _ = (dir, transport, config);
        later()
    }

    /// A replica in memory, gone with its last clone.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] if the configuration is out of bounds.
    pub fn in_memory(
        user: UserId,
        transport: Arc<dyn Transport>,
        config: ClientConfig,
    ) -> Result<Self, ClientError> {
        let _ = (user, transport, config);
        later()
    }

    /// This replica's id.
    #[must_use]
    pub fn client_id(&self) -> ReplicaId {
        ReplicaId::new("later").expect("a constant")
    }

    /// A new, random item id.
    #[must_use]
    pub fn new_item_id(&self) -> ItemId {
        ItemId::new(uuid::Uuid::now_v7().to_string()).expect("a UUID is an id")
    }

    // Reading the tree.

    /// What hangs under `parent`, by name; `None` is the top: what hangs under nothing visible.
    ///
    /// # Errors
    /// [`ClientError::UnknownItem`].
    pub fn children(&self, parent: Option<&ItemId>) -> Result<Vec<Child>, ClientError> {
        let _ = parent;
        later()
    }

    /// An item, if it is there.
    ///
    /// # Errors
    /// Only if the replica cannot be read.
    pub fn node(&self, id: &ItemId) -> Result<Option<Node>, ClientError> {
        let _ = id;
        later()
    }

    /// The item at a path of `/`-separated names from the top; `/` and empty steps are ignored,
    /// so that the path of the top itself names no item.
    ///
    /// # Errors
    /// [`ClientError::UnknownPath`].
    pub fn resolve(&self, path: &str) -> Result<Node, ClientError> {
        let _ = path;
        later()
    }

    /// A path of an item, from the top, by its first container at each step.
    ///
    /// # Errors
    /// [`ClientError::UnknownItem`].
    pub fn path_of(&self, id: &ItemId) -> Result<String, ClientError> {
        let _ = id;
        later()
    }

    /// The containers that an item hangs under.
    ///
    /// # Errors
    /// [`ClientError::UnknownItem`].
    pub fn parents_of(&self, id: &ItemId) -> Result<Vec<ItemId>, ClientError> {
        let _ = id;
        later()
    }

    /// Walks the tree under `root` (`None`: all of it), containers before what hangs under them,
    /// siblings by name.
    ///
    /// # Errors
    /// [`ClientError::UnknownItem`]; each step may fail to read the replica.
    pub fn snapshot(
        &self,
        root: Option<&ItemId>,
    ) -> Result<impl Iterator<Item = Result<TreeEntry, ClientError>> + Send + use<>, ClientError>
    {
        let _ = root;
        later::<std::iter::Empty<_>>()
    }

    /// The containers that something changed in after `after` (`None`: ever), in the order of the
    /// last change, with its position; at most `limit`.
    ///
    /// # Errors
    /// Only if the replica cannot be read.
    pub fn list_changed_containers(
        &self,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Vec<(ItemId, Cursor)>, ClientError> {
        let _ = (after, limit);
        later()
    }

    // The queue.

    /// The queue in order, at most `limit` operations of it.
    ///
    /// # Errors
    /// Only if the replica cannot be read.
    pub fn queue(&self, limit: usize) -> Result<Vec<QueuedOp>, ClientError> {
        let _ = limit;
        later()
    }

    /// The operations that were refused, oldest first, at most `limit`.
    ///
    /// # Errors
    /// Only if the replica cannot be read.
    pub fn rejected(&self, limit: usize) -> Result<Vec<RejectedOp>, ClientError> {
        let _ = limit;
        later()
    }

    /// Puts a rejected operation into the queue again, as a new one; gives its new id.
    ///
    /// # Errors
    /// [`ClientError::UnknownRejected`].
    pub fn retry_rejected(&self, op_id: &OpId) -> Result<OpId, ClientError> {
        let _ = op_id;
        later()
    }

    /// Forgets a rejected operation.
    ///
    /// # Errors
    /// [`ClientError::UnknownRejected`].
    pub fn discard_rejected(&self, op_id: &OpId) -> Result<(), ClientError> {
        let _ = op_id;
        later()
    }

    // Synchronising.

    /// Pushes the queue, pulls until settled, tells the server what was applied, and uploads
    /// queued contents. Cancelled at any point it loses nothing; calls in parallel take turns.
    ///
    /// # Errors
    /// [`ClientError::Violation`] and [`ClientError::Transport`]; what was done before stays.
    pub async fn sync(&self) -> Result<SyncReport, ClientError> {
        later()
    }

    /// Pushes the queue only.
    ///
    /// # Errors
    /// As [`Self::sync`].
    pub async fn flush(&self) -> Result<SyncReport, ClientError> {
        later()
    }

    /// Pulls until settled, and tells the server so.
    ///
    /// # Errors
    /// As [`Self::sync`].
    pub async fn pull(&self) -> Result<SyncReport, ClientError> {
        later()
    }

    /// Rebuilds the replica from the server's state, beside the present one, and swaps it in at
    /// once. The queue, the rejected list and the clock stay.
    ///
    /// # Errors
    /// As [`Self::sync`]; then the replica is as it was.
    pub async fn rematerialise(&self) -> Result<SyncReport, ClientError> {
        later()
    }

    /// What the server knows of this client.
    ///
    /// # Errors
    /// [`ClientError::Transport`].
    pub async fn server_state(&self) -> Result<StateResponse, ClientError> {
        later()
    }

    /// Starts synchronising in the background, at the configured interval and when poked. Clears
    /// the reason of an earlier stop. Does nothing if it is running.
    ///
    /// # Errors
    /// [`ClientError::Storage`]. Must be called within a tokio runtime.
    pub fn start_background(&self) -> Result<(), ClientError> {
        later()
    }

    /// Synchronise soon: something changed. Does nothing without background work.
    pub fn poke(&self) {}

    /// Ends background work and waits until it has.
    pub async fn stop_background(&self) {}

    // Watching.

    /// The changes from now on. A subscriber that is too slow misses some and is told so.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<ChangeEvent> {
        broadcast::channel(1).1
    }

    /// Adds an observer of violations and progress.
    pub fn observe(&self, observer: Arc<dyn Observer>) {
        let _ = observer;
    }

    /// How the replica stands.
    ///
    /// # Errors
    /// Only if the replica cannot be read.
    pub fn status(&self) -> Result<Status, ClientError> {
        later()
    }

    // Export and hydrate.

    /// Writes the replica's state as canonical JSON: the same state gives the same bytes.
    ///
    /// # Errors
    /// What failed in reading or writing.
    pub fn export_state(
        &self,
        options: StateExport,
        writer: impl Write,
    ) -> Result<(), ClientError> {
        let _ = (options, writer);
        later()
    }

    /// Takes over an exported state. The client must be pristine and have the same client id
    /// (see [`SyncClient::create_replica_for_hydrate`]).
    ///
    /// # Errors
    /// [`ClientError::Violation`] `hydrate:hydrateGuardrailViolation`; then nothing was taken.
    pub fn hydrate_state(&self, reader: impl Read) -> Result<HydrateOutcome, ClientError> {
        let _ = reader;
        later()
    }

    /// Makes a new, pristine replica with a given client id, to hydrate it.
    ///
    /// # Errors
    /// As [`Self::create_replica`].
    pub fn create_replica_for_hydrate(
        dir: &Path,
        user: UserId,
        server: &str,
        client_id: ReplicaId,
        transport: Arc<dyn Transport>,
        config: ClientConfig,
    ) -> Result<Self, ClientError> {
        let _ = (dir, user, server, client_id, transport, config);
        later()
    }
}

impl std::fmt::Debug for SyncClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let _ = &self.inner;
        f.debug_struct("SyncClient").finish_non_exhaustive()
    }
}
