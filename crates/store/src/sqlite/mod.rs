//! SQLite: one file, one writer that groups what is waiting into one commit, a few readers.

mod access;
mod blobs;
mod feed;
mod file;
mod history;
mod load;
mod members;
mod migrations;
mod repair;
mod retention;
mod rows;
mod transaction;
mod trash;
mod uploads;
mod versions;
mod write;
mod writer;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::executor::block_on;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use tokio::sync::Semaphore;
use vfs_sync_core::access::Principal;
use vfs_sync_core::content::Attachment;
use vfs_sync_core::cursor::Epoch;
use vfs_sync_core::id::{BlobId, ItemId, RefId, ReplicaId, StagingId, UserId};
use vfs_sync_core::server::attach::{AttachRefusal, StageRow};
use vfs_sync_core::server::push::PushBatch;
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::{
    AttachRequest, AttachResponse, PushResponse, ReconcileRequest, StateResponse,
};

use crate::codes;
use crate::flow::Decision;
use crate::reclaim;
use crate::transaction::Transaction as _;
use crate::trash as trashing;
use crate::trash::{MAX_TRASH_ITEMS, PurgeAnswer, RestoreAnswer, TrashCursor, TrashListing};
use crate::uploads as uploading;
use crate::{
    AbandonAnswer, Advance, Anew, BlobRecord, BlobRow, BlobSummary, DeleteAnswer, Identity,
    MalformedState, MetadataStore, NewStage, NewUpload, Pruned, PullAnswer, PullRequest, Quota,
    Reclaim, ReconcileAnswer, Retention, StageAnswer, StageRecord, StoreError, UploadAccess,
    UploadAnswer, Usage, flow,
};
use file::Files;
use transaction::SqliteTransaction;
use writer::{Writer, contained};

/// Reads at one time; more wait.
const READERS: usize = 4;
/// Rows that a transaction loads at most while others wait to write: some 100 ms.
const LARGE: usize = 10_000;
/// Snapshots on which a large transaction is tried before others have to wait for it.
const SNAPSHOTS: usize = 3;
/// How long another process may hold the database before a call gives up.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait before what was busy is tried once more.
const BUSY_PAUSE: Duration = Duration::from_millis(20);
/// Pages that the writer keeps: the upper part of its trees, and what it last wrote.
const WRITER_CACHE_KIB: i64 = 32 * 1024;
/// Pages that each reader keeps; a feed is read once, front to back.
const READER_CACHE_KIB: i64 = 4 * 1024;
/// Distinct statements that a connection keeps compiled: all there are.
const STATEMENT_CACHE: usize = 128;

/// The metadata in one SQLite file.
pub struct SqliteStore {
    writer: Writer,
    /// `None` for a store that has one connection only.
    readers: Option<Arc<Readers>>,
    /// Where they can be watched.
    files: Option<Arc<Files>>,
    large: usize,
}

struct Readers {
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
}

impl SqliteStore {
    /// Opens the database at `path`, making or migrating it where needed. `now` begins an epoch.
    ///
    /// # Errors
    /// [`StoreError::NewerSchema`] for a database of a newer version, others if it is no
    /// database or cannot be opened.
    pub fn open(path: &Path, now: Timestamp) -> Result<Self, StoreError> {
        let mut connection = open_file(path, WRITER_CACHE_KIB)?;
        named(path, migrations::migrate(&mut connection, now, Some(codes::chance())))?;
        let mut idle = Vec::with_capacity(READERS);
        for _ in 0..READERS {
            let reader = open_file(path, READER_CACHE_KIB)?;
            reader.pragma_update(None, "query_only", true)?;
            idle.push(reader);
        }
        let permits = Arc::new(Semaphore::new(READERS));
        let readers = Readers { idle: Mutex::new(idle), permits };
        let files = Some(Arc::new(Files::of(path)));
        Ok(Self {
            writer: Writer::start(connection, files.clone())?,
            readers: Some(Arc::new(readers)),
            files,
            large: LARGE,
        })
    }

    /// Others wait for a transaction while it loads up to `rows` rows, 10,000 unless told. One that
    /// takes more is decided beside them, and waits in its turn if they change what it decides on.
    #[must_use]
    pub fn large_beyond(mut self, rows: usize) -> Self {
        self.large = rows;
        self
    }

    /// Opens the database at `path` for this store alone, as [`SqliteStore::open`] does: with one
    /// connection, which keeps everybody else out, and without threads. A call blocks whoever polls
    /// it, and is done at the first poll. `vfs` names a VFS that was registered with SQLite, for a
    /// disk that is not the system's.
    ///
    /// # Errors
    /// As [`SqliteStore::open`].
    pub fn open_alone(path: &Path, vfs: Option<&str>, now: Timestamp) -> Result<Self, StoreError> {
        let open = || {
            let mut connection = match vfs {
                Some(vfs) => Connection::open_with_flags_and_vfs(path, OpenFlags::default(), vfs)?,
                None => {
                    make_private(path);
                    Connection::open(path)?
                }
            };
            connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
            migrations::check_ours(&connection)?;
            configure(&connection, WRITER_CACHE_KIB)?;
            migrations::migrate(&mut connection, now, Some(0))?;
            Ok(connection)
        };
        let connection = named(path, open())?;
        let files = vfs.is_none().then(|| Arc::new(Files::of(path)));
        let writer = Writer::of_caller(connection, files.clone());
        Ok(Self { writer, readers: None, files, large: LARGE })
    }

    /// A new database in memory, gone with the store.
    ///
    /// # Errors
    /// [`StoreError`] if SQLite has no memory for it.
    pub fn open_in_memory(now: Timestamp) -> Result<Self, StoreError> {
        let mut connection = Connection::open_in_memory()?;
        configure(&connection, WRITER_CACHE_KIB)?;
        migrations::migrate(&mut connection, now, None)?;
        let writer = Writer::start(connection, None)?;
        Ok(Self { writer, readers: None, files: None, large: LARGE })
    }

    /// Brings the database at `path` to this program's schema, making it where it is missing;
    /// gives the schema's version.
    ///
    /// # Errors
    /// As [`SqliteStore::open`].
    pub fn migrate(path: &Path, now: Timestamp) -> Result<i64, StoreError> {
        let mut connection = open_file(path, WRITER_CACHE_KIB)?;
        let step = migrations::migrate(&mut connection, now, None);
        named(path, step)
    }

    async fn read<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut SqliteTransaction<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let Some(readers) = self.readers.clone() else {
            return self.writer.run(1, job).await;
        };
        let closed = |_| StoreError::Unavailable("the store is closed".into());
        let permit = readers.permits.clone().acquire_owned().await.map_err(closed)?;
        let files = self.files.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let taken = readers.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(connection) = taken else {
                return Err(StoreError::Unavailable("no reader is left".into()));
            };
            let answer = contained(|| read_snapshot(&connection, job));
            readers.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            if let Some(files) = files {
                files.check()?;
            }
            answer
        });
        reading.await.map_err(|error| StoreError::Failed(format!("a read did not end: {error}")))?
    }
}

/// What decides a transaction; it may do so again.
trait Decide<A>:
    Fn(&mut SqliteTransaction<'_>) -> Result<(A, Option<Decision>), StoreError> + Clone + Send + 'static
{
}
impl<A, F> Decide<A> for F where
    F: Fn(&mut SqliteTransaction<'_>) -> Result<(A, Option<Decision>), StoreError>
        + Clone
        + Send
        + 'static
{
}

impl SqliteStore {
    /// Decides and writes in one transaction. What turns out to be large is decided on a reader's
    /// snapshot instead, while others write, and written if nothing that it locks has changed since.
    async fn decide_and_write<A: Send + 'static>(
        &self,
        weight: usize,
        decide: impl Decide<A>,
        write: impl Fn(&mut SqliteTransaction<'_>, Option<&Decision>) -> Result<(), StoreError>
        + Clone
        + Send
        + 'static,
    ) -> Result<A, StoreError> {
        let whole = {
            let (decide, write) = (decide.clone(), write.clone());
            move |tx: &mut SqliteTransaction<'_>| {
                let (answer, decision) = decide(tx)?;
                write(tx, decision.as_ref())?;
                Ok(answer)
            }
        };
        if self.readers.is_none() {
            return self.writer.run(weight, whole).await;
        }
        if let Some(answer) = self.writer.run_if_small(weight, self.large, whole.clone()).await? {
            return Ok(answer);
        }
        for _ in 0..SNAPSHOTS {
            let (base, decide, write) = (self.writer.commits(), decide.clone(), write.clone());
            let on_snapshot = move |tx: &mut SqliteTransaction<'_>| {
                let (answer, decision) = decide(tx)?;
                Ok((answer, decision, std::mem::take(&mut tx.locks)))
            };
            let (answer, decision, locks) = self.read(on_snapshot).await?;
            let weight = decision.as_ref().map_or(weight, Decision::rows);
            let job = move |tx: &mut SqliteTransaction<'_>| {
                write(tx, decision.as_ref())?;
                Ok(answer)
            };
            if let Some(answer) = self.writer.run_if_unchanged(weight, base, locks, job).await? {
                return Ok(answer);
            }
        }
        self.writer.run(weight, whole).await
    }
}

/// Runs `job` on one snapshot.
fn read_snapshot<T>(
    connection: &Connection,
    job: impl FnOnce(&mut SqliteTransaction<'_>) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let snapshot = connection.unchecked_transaction()?;
    let answer = job(&mut SqliteTransaction::on_snapshot(&snapshot));
    snapshot.rollback()?;
    answer
}

fn open_file(path: &Path, cache_kib: i64) -> Result<Connection, StoreError> {
    let open = || {
        make_private(path);
        let connection = Connection::open(path)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        migrations::check_ours(&connection)?;
        configure(&connection, cache_kib)?;
        Ok(connection)
    };
    named(path, open())
}

/// Switches to a log. Of two programs that do so at one time SQLite sends one away at once,
/// whatever time-out it was given.
fn make_log(connection: &Connection) -> Result<(), rusqlite::Error> {
    let until = Instant::now() + BUSY_TIMEOUT;
    loop {
        match connection.pragma_update(None, "journal_mode", "WAL") {
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                    && Instant::now() < until =>
            {
                std::thread::sleep(BUSY_PAUSE);
            }
            switched => return switched,
        }
    }
}

/// A new database is for its owner's eyes, whatever the directory allows; its log inherits that.
/// What fails here fails again, with its reason, when SQLite opens the file.
fn make_private(path: &Path) {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    drop(options.open(path));
}

/// Says in an error which file it is about.
fn named<T>(path: &Path, result: Result<T, StoreError>) -> Result<T, StoreError> {
    result.map_err(|error| match error {
        StoreError::Unavailable(text) => {
            StoreError::Unavailable(format!("{}: {text}", path.display()))
        }
        StoreError::Full(text) => StoreError::Full(format!("{}: {text}", path.display())),
        StoreError::Failed(text) => StoreError::Failed(format!("{}: {text}", path.display())),
        other => other,
    })
}

fn configure(connection: &Connection, cache_kib: i64) -> Result<(), StoreError> {
    connection.set_prepared_statement_cache_capacity(STATEMENT_CACHE);
    // Else a statement on a table with a partial index is compiled anew for each value.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    // The log is written page by page: half as many of them are half as many writes.
    connection.pragma_update(None, "page_size", 8_192)?;
    make_log(connection)?;
    // An acknowledged push survives a power cut.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "cache_size", -cache_kib)?;
    connection.pragma_update(None, "wal_autocheckpoint", 4_000)?;
    // The log's file does not stay as large as its busiest moment made it.
    connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    Ok(())
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full(error.to_string()),
            Some(
                ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::CannotOpen
                | ErrorCode::SystemIoFailure
                | ErrorCode::OutOfMemory
                | ErrorCode::ReadOnly,
            ) => Self::Unavailable(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}

#[async_trait]
impl MetadataStore for SqliteStore {
    async fn push(&self, batch: PushBatch, now: Timestamp) -> Result<PushResponse, StoreError> {
        let (weight, batch) = (batch.len(), Arc::new(batch));
        let decided = Arc::clone(&batch);
        let decide = move |tx: &mut SqliteTransaction<'_>| {
            let (response, decision) = block_on(flow::decide_push(tx, &decided, now))?;
            Ok((response, Some(decision)))
        };
        let write = move |tx: &mut SqliteTransaction<'_>, decision: Option<&Decision>| {
            let Some(decision) = decision else { return Ok(()) };
            block_on(flow::write_push(tx, &batch, decision, now))
        };
        self.decide_and_write(weight, decide, write).await
    }

    async fn pull(&self, user: &UserId, request: &PullRequest) -> Result<PullAnswer, StoreError> {
        let (user, request) = (user.clone(), request.clone());
        self.read(move |tx| feed::pull(tx, &user, &request)).await
    }

    async fn reconcile(
        &self,
        user: &UserId,
        request: &ReconcileRequest,
        now: Timestamp,
    ) -> Result<ReconcileAnswer, StoreError> {
        let (user, request) = (user.clone(), request.clone());
        self.writer.run(1, move |tx| block_on(flow::reconcile(tx, &user, &request, now))).await
    }

    async fn state(&self, user: &UserId, client: &ReplicaId) -> Result<StateResponse, StoreError> {
        let (user, client) = (user.clone(), client.clone());
        self.read(move |tx| block_on(flow::state(tx, &user, &client))).await
    }

    async fn open_stage(
        &self,
        user: &UserId,
        stage: &NewStage,
        quota: &Quota,
        now: Timestamp,
    ) -> Result<StageAnswer, StoreError> {
        let (user, stage, quota) = (user.clone(), stage.clone(), *quota);
        let job = move |tx: &mut SqliteTransaction<'_>| {
            block_on(flow::open_stage(tx, &user, &stage, &quota, now))
        };
        self.writer.run(1, job).await
    }

    async fn stage(
        &self,
        user: &UserId,
        staging_id: &StagingId,
    ) -> Result<Option<StageRow>, StoreError> {
        let (user, staging_id) = (user.clone(), staging_id.clone());
        self.read(move |tx| block_on(flow::stage(tx, &user, &staging_id))).await
    }

    async fn reserve_upload(
        &self,
        user: &UserId,
        staging_id: &StagingId,
        size: u64,
        quota: &Quota,
        now: Timestamp,
    ) -> Result<UploadAccess, StoreError> {
        let (user, id, quota) = (user.clone(), staging_id.clone(), *quota);
        let job = move |tx: &mut SqliteTransaction<'_>| {
            block_on(uploading::reserve_upload(tx, &user, &id, size, &quota, now))
        };
        self.writer.run(1, job).await
    }

    async fn record_upload(
        &self,
        user: &UserId,
        staging_id: &StagingId,
        upload: &NewUpload,
        quota: &Quota,
        now: Timestamp,
    ) -> Result<UploadAnswer, StoreError> {
        let (user, id) = (user.clone(), staging_id.clone());
        let (upload, quota) = (upload.clone(), *quota);
        let job = move |tx: &mut SqliteTransaction<'_>| {
            block_on(flow::record_upload(tx, &user, &id, &upload, &quota, now))
        };
        self.writer.run(1, job).await
    }

    async fn upload(
        &self,
        user: &UserId,
        staging_id: &StagingId,
        now: Timestamp,
    ) -> Result<UploadAccess, StoreError> {
        let (user, id) = (user.clone(), staging_id.clone());
        self.read(move |tx| block_on(uploading::upload(tx, &user, &id, now))).await
    }

    async fn open_upload(
        &self,
        user: &UserId,
        staging_id: &StagingId,
        length: Option<u64>,
        metadata: Option<&str>,
        quota: &Quota,
        now: Timestamp,
    ) -> Result<UploadAccess, StoreError> {
        let (user, id) = (user.clone(), staging_id.clone());
        let (metadata, quota) = (metadata.map(str::to_owned), *quota);
        let job = move |tx: &mut SqliteTransaction<'_>| {
            let metadata = metadata.as_deref();
            block_on(uploading::open_upload(tx, &user, &id, length, metadata, &quota, now))
        };
        self.writer.run(1, job).await
    }

    async fn claim_upload(
        &self,
        user: &UserId,
        staging_id: &StagingId,
        lease: &str,
        anew: Option<&Anew>,
        now: Timestamp,
    ) -> Result<UploadAccess, StoreError> {
        let (user, id) = (user.clone(), staging_id.clone());
        let (lease, anew) = (lease.to_owned(), anew.cloned());
        let job = move |tx: &mut SqliteTransaction<'_>| {
            let anew = anew.as_ref();
            block_on(uploading::claim_upload(tx, &user, &id, &lease, anew, now))
        };
        self.writer.run(1, job).await
    }

    async fn advance_upload(
        &self,
        user: &UserId,
        staging_id: &StagingId,
        lease: &str,
        advance: &Advance,
        quota: &Quota,
        now: Timestamp,
    ) -> Result<UploadAccess, StoreError> {
        let (user, id) = (user.clone(), staging_id.clone());
        let (lease, advance, quota) = (lease.to_owned(), advance.clone(), *quota);
        let job = move |tx: &mut SqliteTransaction<'_>| {
            block_on(uploading::advance_upload(tx, &user, &id, &lease, &advance, &quota, now))
        };
        self.writer.run(1, job).await
    }

    async fn holds_upload(
        &self,
        user: &UserId,
        staging_id: &StagingId,
        lease: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let (user, id, lease) = (user.clone(), staging_id.clone(), lease.to_owned());
        self.read(move |tx| block_on(uploading::holds_upload(tx, &user, &id, &lease, now))).await
    }

    async fn upload_parts(&self, staging_id: &StagingId) -> Result<Vec<String>, StoreError> {
        let id = staging_id.clone();
        self.read(move |tx| uploads::parts(tx, &id)).await
    }

    async fn attach(
        &self,
        user: &UserId,
        staging_id: &StagingId,
        request: &AttachRequest,
        ref_id: RefId,
        quota: &Quota,
        now: Timestamp,
    ) -> Result<Result<AttachResponse, AttachRefusal>, StoreError> {
        let (user, id, request) = (user.clone(), staging_id.clone(), request.clone());
        let quota = *quota;
        let job = move |tx: &mut SqliteTransaction<'_>| {
            block_on(flow::attach(tx, &user, &id, &request, ref_id, &quota, now))
        };
        self.writer.run(1, job).await
    }

    async fn abandon(
        &self,
        user: &UserId,
        staging_id: &StagingId,
        now: Timestamp,
    ) -> Result<AbandonAnswer, StoreError> {
        let (user, id) = (user.clone(), staging_id.clone());
        self.writer.run(1, move |tx| block_on(flow::abandon(tx, &user, &id, now))).await
    }

    async fn expired_stages(
        &self,
        now: Timestamp,
        at_most: u32,
    ) -> Result<Vec<(UserId, StagingId)>, StoreError> {
        self.read(move |tx| blobs::expired(tx, now, at_most)).await
    }

    async fn delete_blob(
        &self,
        user: &UserId,
        blob_id: &BlobId,
        now: Timestamp,
    ) -> Result<DeleteAnswer, StoreError> {
        let (user, id) = (user.clone(), blob_id.clone());
        self.writer.run(1, move |tx| block_on(reclaim::delete_blob(tx, &user, &id, now))).await
    }

    async fn to_reclaim(&self, now: Timestamp, at_most: u32) -> Result<Vec<Reclaim>, StoreError> {
        self.read(move |tx| blobs::to_reclaim(tx, now, at_most)).await
    }

    async fn any_stage(&self, staging_id: &StagingId) -> Result<Option<StageRecord>, StoreError> {
        let id = staging_id.clone();
        self.read(move |tx| block_on(reclaim::any_stage(tx, &id))).await
    }

    async fn any_blob(&self, blob_id: &BlobId) -> Result<Option<BlobRecord>, StoreError> {
        let id = blob_id.clone();
        self.read(move |tx| block_on(reclaim::any_blob(tx, &id))).await
    }

    async fn blobs_after(
        &self,
        after: Option<&BlobId>,
        at_most: u32,
    ) -> Result<Vec<BlobSummary>, StoreError> {
        let after = after.cloned();
        self.read(move |tx| blobs::after(tx, after.as_ref(), at_most)).await
    }

    async fn upload_handles(&self) -> Result<Vec<String>, StoreError> {
        self.read(uploads::handles).await
    }

    async fn blob_usage(&self, user: &UserId) -> Result<Usage, StoreError> {
        let user = user.clone();
        self.read(move |tx| uploads::usage(tx, &user)).await
    }

    async fn reclaim_of(&self, blob_id: &BlobId) -> Result<Option<Reclaim>, StoreError> {
        let id = blob_id.clone();
        self.read(move |tx| blobs::reclaim_of(tx, &id)).await
    }

    async fn reclaimed(
        &self,
        done: &Reclaim,
        now: Timestamp,
        again: Timestamp,
    ) -> Result<(), StoreError> {
        let done = done.clone();
        self.writer.run(1, move |tx| block_on(reclaim::reclaimed(tx, &done, now, again))).await
    }

    async fn versions(
        &self,
        user: &UserId,
        item_id: &ItemId,
        limit: u32,
    ) -> Result<Option<Vec<Attachment>>, StoreError> {
        let (user, item) = (user.clone(), item_id.clone());
        self.read(move |tx| versions::of(tx, &user, &item, limit)).await
    }

    async fn surplus_versions(
        &self,
        before: Timestamp,
        at_most: u32,
    ) -> Result<Vec<(RefId, BlobId)>, StoreError> {
        self.read(move |tx| versions::surplus(tx, before, at_most)).await
    }

    async fn remove_version(
        &self,
        ref_id: &RefId,
        blob_id: &BlobId,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let (reference, blob) = (ref_id.clone(), blob_id.clone());
        let job = move |tx: &mut SqliteTransaction<'_>| {
            block_on(reclaim::remove_version(tx, &reference, &blob, now))
        };
        self.writer.run(1, job).await
    }

    async fn trash(
        &self,
        user: &UserId,
        after: Option<&TrashCursor>,
        limit: u32,
        keep_millis: i64,
    ) -> Result<TrashListing, StoreError> {
        let (user, after) = (user.clone(), after.cloned());
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        self.read(move |tx| block_on(trashing::list(tx, &user, after.as_ref(), limit, keep_millis)))
            .await
    }

    async fn restore(
        &self,
        user: &UserId,
        item_id: &ItemId,
        recursive: bool,
        now: Timestamp,
    ) -> Result<RestoreAnswer, StoreError> {
        let (user, id) = (user.clone(), item_id.clone());
        let decide = move |tx: &mut SqliteTransaction<'_>| {
            block_on(trashing::decide_restore(tx, &user, &id, recursive, now))
        };
        let write = |tx: &mut SqliteTransaction<'_>, decision: Option<&Decision>| {
            let Some(decision) = decision else { return Ok(()) };
            block_on(flow::write_decision(tx, decision))
        };
        self.decide_and_write(1, decide, write).await
    }

    async fn purge(
        &self,
        user: &UserId,
        item_id: &ItemId,
        recursive: bool,
        now: Timestamp,
    ) -> Result<PurgeAnswer, StoreError> {
        let (user, id) = (user.clone(), item_id.clone());
        let job = move |tx: &mut SqliteTransaction<'_>| {
            block_on(trashing::purge(tx, &user, &id, recursive, now))
        };
        self.writer.run(1, job).await
    }

    async fn purge_step(
        &self,
        before: Timestamp,
        forget: Timestamp,
        now: Timestamp,
        at_most: u32,
    ) -> Result<u64, StoreError> {
        let job = move |tx: &mut SqliteTransaction<'_>| {
            block_on(trashing::step(tx, before, forget, now, at_most))
        };
        self.writer.run(1, job).await
    }

    async fn trashed_bytes(&self, user: &UserId) -> Result<u64, StoreError> {
        let user = user.clone();
        self.read(move |tx| trash::bytes(tx, &user, MAX_TRASH_ITEMS as u32)).await
    }

    async fn readable_blob(
        &self,
        user: &UserId,
        blob_id: &BlobId,
    ) -> Result<Option<BlobRow>, StoreError> {
        let (user, blob_id) = (user.clone(), blob_id.clone());
        self.read(move |tx| blobs::readable(tx, &user, &blob_id)).await
    }

    async fn readable_blobs(
        &self,
        user: &UserId,
        blob_ids: &[BlobId],
    ) -> Result<Vec<Option<BlobRow>>, StoreError> {
        let (user, blob_ids) = (user.clone(), blob_ids.to_vec());
        self.read(move |tx| blob_ids.iter().map(|id| blobs::readable(tx, &user, id)).collect())
            .await
    }

    async fn set_member(
        &self,
        group: &Principal,
        member: &UserId,
        present: bool,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let change = Arc::new((group.clone(), member.clone()));
        let decided = Arc::clone(&change);
        let decide = move |tx: &mut SqliteTransaction<'_>| {
            let (group, member) = &*decided;
            Ok(((), block_on(flow::decide_member(tx, group, member, present, now))?))
        };
        let write = move |tx: &mut SqliteTransaction<'_>, decision: Option<&Decision>| {
            let (group, member) = &*change;
            block_on(tx.write_member(group, member, present))?;
            let Some(decision) = decision else { return Ok(()) };
            block_on(flow::write_regranted(tx, decision))
        };
        self.decide_and_write(1, decide, write).await
    }

    async fn members(
        &self,
        group: &Principal,
        after: Option<&UserId>,
        limit: u32,
    ) -> Result<Vec<UserId>, StoreError> {
        let (group, after) = (group.clone(), after.cloned());
        self.read(move |tx| members::members(tx, &group, after.as_ref(), limit)).await
    }

    async fn groups_of(&self, user: &UserId) -> Result<Vec<Principal>, StoreError> {
        let user = user.clone();
        self.read(move |tx| members::groups_of(tx, &user)).await
    }

    async fn set_block(
        &self,
        user: &UserId,
        owner: &UserId,
        blocked: bool,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let change = Arc::new((user.clone(), owner.clone()));
        let decided = Arc::clone(&change);
        let decide = move |tx: &mut SqliteTransaction<'_>| {
            let (user, owner) = &*decided;
            Ok(((), block_on(flow::decide_block(tx, user, owner, blocked, now))?))
        };
        let write = move |tx: &mut SqliteTransaction<'_>, decision: Option<&Decision>| {
            let (user, owner) = &*change;
            block_on(tx.write_block(user, owner, blocked))?;
            let Some(decision) = decision else { return Ok(()) };
            block_on(flow::write_regranted(tx, decision))
        };
        self.decide_and_write(1, decide, write).await
    }

    async fn blocked_by(&self, user: &UserId) -> Result<Vec<UserId>, StoreError> {
        let user = user.clone();
        self.read(move |tx| Ok(members::blocked_by(tx, &user)?.into_iter().collect())).await
    }

    async fn knows(&self, principal: &Principal) -> Result<bool, StoreError> {
        let principal = principal.clone();
        self.read(move |tx| members::knows(tx, &principal)).await
    }

    async fn prune(&self, retention: Retention) -> Result<Pruned, StoreError> {
        self.writer.run(1_000, move |tx| retention::prune(tx, retention)).await
    }

    async fn repair_reconcile_states(
        &self,
        user: Option<&UserId>,
        dry_run: bool,
    ) -> Result<Vec<MalformedState>, StoreError> {
        let user = user.cloned();
        self.writer.run(1, move |tx| repair::reconcile_states(tx, user.as_ref(), dry_run)).await
    }

    async fn new_epoch(&self, now: Timestamp, chance: u16) -> Result<Epoch, StoreError> {
        self.writer.run(1, move |tx| feed::new_epoch(tx, now, chance)).await
    }

    async fn identity(&self) -> Result<Identity, StoreError> {
        self.read(|tx| {
            let number = "SELECT value FROM identity WHERE name = 'id'";
            let id = tx.connection.query_row(number, [], |row| row.get(0))?;
            let any = "SELECT EXISTS (SELECT 1 FROM realms) OR EXISTS (SELECT 1 FROM blobs)";
            let any: bool = tx.connection.query_row(any, [], |row| row.get(0))?;
            Ok(Identity { id, is_empty: !any })
        })
        .await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.read(|tx| Ok(tx.connection.query_row("SELECT 1", [], |_| Ok(()))?)).await
    }

    async fn counts(&self) -> Result<Vec<(&'static str, u64)>, StoreError> {
        self.read(retention::counts).await
    }
}
