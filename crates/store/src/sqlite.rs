//! The store in SQLite: one file, one writer that groups waiting jobs into one commit, a few
//! readers.

mod conflicts;
mod migrations;
mod queue;
mod rows;
mod topics;
mod transaction;
mod writer;

use std::mem::take;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::executor::block_on;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use tokio::sync::Semaphore;
use vfs_sync_core::time::Timestamp;

use crate::backend::plan_memory::PlanMemory;
use crate::command::{Backend, Call, Capacity, Command, Decides, MetadataStore, Reply, carry_out};
use crate::encoding;
use crate::error::{Result, StoreError};
use crate::moves::{HeadObserver, Observers};
use crate::open::SchemaVersion;
use crate::topics::Decision;
use conflicts::{Files, Locks};
use transaction::{Deferred, SqliteTransaction};
use writer::{AnyAnswer, Once, Work, Writer, contained, known, once};

/// The number of concurrent reads; further ones wait.
const READERS: usize = 4;
/// Large transactions that are decided at one time, on a reader of their own: each takes seconds, in
/// which others read and write, and hundreds of megabytes.
pub(crate) const LARGE_AT_ONCE: usize = 1;
/// Rows that a transaction loads at most while others wait to write: some 100 ms.
const LARGE: usize = 10_000;
/// The number of snapshots on which a large transaction is tried before all others have to wait for
/// it.
const SNAPSHOTS: usize = 8;
/// The number of these tries after which those wait that take the same locks.
const RESERVES_AFTER: usize = 2;
/// The time that a call waits for another process that holds the database.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The pause before a busy database is tried again.
const BUSY_PAUSE: Duration = Duration::from_millis(20);
/// The size of the writer's page cache: the upper levels of its trees, and the pages last written.
const WRITER_CACHE_KIB: i64 = 32 * 1024;
/// The size of each reader's page cache; a feed is read once, front to back.
const READER_CACHE_KIB: i64 = 4 * 1024;
/// The number of compiled statements that a connection keeps: enough for all of them.
const STATEMENT_CACHE: usize = 128;

/// The metadata in one SQLite file.
pub struct SqliteStore {
    writer: Writer,
    /// The connections for reading; `None` for a store that has only one connection.
    readers: Option<Arc<Readers>>,
    /// Readers for deciding large transactions, where there are others.
    deciders: Option<Arc<Readers>>,
    /// The files, where they can be watched.
    files: Option<Arc<Files>>,
    large: usize,
    /// The bytes of memory that planning one change may take.
    plan_memory: PlanMemory,
    /// The turn of one large transaction after the other: each may take hundreds of megabytes, and
    /// a reader.
    large_turn: Semaphore,
    observers: Arc<Observers>,
}

struct Readers {
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
}

impl Readers {
    /// Opens `count` connections that only read.
    fn open(path: &Path, count: usize) -> Result<Self> {
        let mut idle = Vec::with_capacity(count);
        for _ in 0..count {
            let reader = open_file(path, READER_CACHE_KIB)?;
            reader.pragma_update(None, "query_only", true)?;
            idle.push(reader);
        }
        Ok(Self { idle: Mutex::new(idle), permits: Arc::new(Semaphore::new(count)) })
    }
}

impl SqliteStore {
    /// Opens the database at `path`, and creates or migrates it if needed. `now` begins an epoch.
    ///
    /// # Errors
    /// [`StoreError::NewerSchema`] for a database of a newer version, others if the file is no
    /// database or cannot be opened.
    pub fn open(path: &Path, now: Timestamp) -> Result<Self> {
        let mut connection = open_file(path, WRITER_CACHE_KIB)?;
        named(path, migrations::migrate(&mut connection, now, Some(encoding::chance())))?;
        let files = Some(Arc::new(Files::of(path)));
        let observers = Arc::default();
        Ok(Self {
            writer: Writer::start(connection, files.clone(), Arc::clone(&observers))?,
            readers: Some(Arc::new(Readers::open(path, READERS)?)),
            deciders: Some(Arc::new(Readers::open(path, LARGE_AT_ONCE)?)),
            files,
            large: LARGE,
            plan_memory: PlanMemory::UNBOUNDED,
            large_turn: Semaphore::new(LARGE_AT_ONCE),
            observers,
        })
    }

    /// Opens the existing database at `path` to read it, as [`crate::open_to_read`] does.
    ///
    /// # Errors
    /// As [`SqliteStore::open`].
    pub(crate) fn open_to_read(path: &Path) -> Result<(SchemaVersion, Option<Self>)> {
        let connection = open_reader(path)?;
        let version = named(path, migrations::version(&connection))?;
        if version.found != version.known {
            return Ok((version, None));
        }
        named(path, migrations::check_tables(&connection))?;
        let observers = Arc::default();
        let writer = Writer::start(connection, None, Arc::clone(&observers))?;
        let idle = (0..READERS).map(|_| open_reader(path)).collect::<Result<Vec<_>>>()?;
        let permits = Arc::new(Semaphore::new(READERS));
        let readers = Some(Arc::new(Readers { idle: Mutex::new(idle), permits }));
        Ok((version, Some(Self { readers, ..Self::of_writer(writer, None, observers) })))
    }

    /// Sets the number of rows up to which others wait for a transaction; 10,000 by default. A
    /// transaction that loads more is decided while others write. If they change what it was
    /// decided on, it runs again, finally while they wait.
    #[must_use]
    pub fn large_beyond(mut self, rows: usize) -> Self {
        self.large = rows;
        self
    }

    /// Sets the bytes of memory that planning one change may take; without a bound by default.
    #[must_use]
    pub fn plans_within(mut self, bytes: usize) -> Self {
        self.plan_memory = PlanMemory::within(bytes);
        self
    }

    /// Sets the bytes of memory from which a change that narrows views is written in chunks.
    #[must_use]
    pub fn in_chunks_of(mut self, bytes: usize) -> Self {
        self.plan_memory.chunk = bytes;
        self
    }

    /// Opens the database at `path` for this store alone, as [`SqliteStore::open`] does: with one
    /// connection, which locks all other programs out, and without threads. A call blocks the
    /// thread that polls it, and completes at the first poll. `vfs` names a VFS that was registered
    /// with SQLite, for a disk that is not the system's.
    ///
    /// # Errors
    /// As [`SqliteStore::open`].
    pub fn open_alone(path: &Path, vfs: Option<&str>, now: Timestamp) -> Result<Self> {
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
        let observers = Arc::default();
        let writer = Writer::of_caller(connection, files.clone(), Arc::clone(&observers));
        Ok(Self::of_writer(writer, files, observers))
    }

    /// Creates a store that has no connection but the writer's.
    fn of_writer(writer: Writer, files: Option<Arc<Files>>, observers: Arc<Observers>) -> Self {
        Self {
            writer,
            readers: None,
            deciders: None,
            files,
            large: LARGE,
            plan_memory: PlanMemory::UNBOUNDED,
            large_turn: Semaphore::new(LARGE_AT_ONCE),
            observers,
        }
    }

    /// Opens a new database in memory, which ends with the store.
    ///
    /// # Errors
    /// [`StoreError`] if SQLite has no memory for it.
    pub fn open_in_memory(now: Timestamp) -> Result<Self> {
        let mut connection = Connection::open_in_memory()?;
        configure(&connection, WRITER_CACHE_KIB)?;
        migrations::migrate(&mut connection, now, None)?;
        let observers = Arc::default();
        let writer = Writer::start(connection, None, Arc::clone(&observers))?;
        Ok(Self::of_writer(writer, None, observers))
    }

    /// Migrates the database at `path` to this program's schema, or creates it if it is missing;
    /// returns the schema's version.
    ///
    /// # Errors
    /// As [`SqliteStore::open`].
    pub fn migrate(path: &Path, now: Timestamp) -> Result<i64> {
        let mut connection = open_file(path, WRITER_CACHE_KIB)?;
        let step = migrations::migrate(&mut connection, now, None);
        named(path, step)
    }

    /// Runs `job` on a snapshot of one of the readers.
    async fn read(
        &self,
        readers: &Option<Arc<Readers>>,
        work: Work,
        job: Once,
    ) -> Result<AnyAnswer> {
        let Some(readers) = readers.clone() else {
            return self.writer.run_once(work, job).await;
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

impl Backend for SqliteStore {
    async fn reads<C: Command>(&self, command: C) -> Result<C::Answer> {
        let work = Work::of(&command);
        let job = once(move |tx| block_on(command.run(tx)));
        self.read(&self.readers, work, job).await.and_then(known)
    }

    async fn writes<C: Command>(&self, command: C) -> Result<C::Answer> {
        let (work, command) = (Work::of(&command), Arc::new(command));
        self.writer.run(work, move |tx| block_on(command.run(tx))).await
    }

    async fn decides_if_small<C: Decides>(&self, command: C) -> Result<Result<C::Answer, C>> {
        if self.readers.is_none() {
            return self.writes(command).await.map(Ok);
        }
        if command.is_known_large() {
            return Ok(Err(command));
        }
        let (work, command) = (Work::of(&command), Arc::new(command));
        let job = self.whole(command.clone());
        let answer = self.writer.run_if_small(work, self.large, job).await?;
        Ok(answer.ok_or_else(|| Arc::unwrap_or_clone(command)))
    }

    /// Decides a command on a reader's snapshot, while others write. It is written if nothing that
    /// it locks has changed since; otherwise it is decided again, and from some try on those who
    /// take the same locks wait.
    async fn decides_large<C: Decides>(&self, command: C) -> Result<C::Answer> {
        if self.readers.is_none() {
            return self.writes(command).await;
        }
        let (work, command) = (Work::of(&command), Arc::new(command));
        let closed = |_| StoreError::Unavailable("the store is closed".into());
        let _turn = self.large_turn.acquire().await.map_err(closed)?;
        let reserving = self.writer.reserve();
        for tries in 1..=SNAPSHOTS {
            let (base, decided) = (self.writer.commits(), command.clone());
            let plan_memory = self.plan_memory;
            let on_snapshot = once(move |tx| {
                tx.plan_memory = plan_memory;
                let (answer, decision) = block_on(decided.decide(tx))?;
                let (locks, deferred) = (take(&mut tx.locks), take(&mut tx.deferred));
                Ok(Decided::<C> { answer, decision, locks, deferred })
            });
            let decided = self.read(&self.deciders, work.clone(), on_snapshot).await?;
            let Decided::<C> { answer, decision, locks, deferred } = known(decided)?;
            if tries >= RESERVES_AFTER {
                reserving.add(&locks);
            }
            let rows = decision.as_ref().map(Decision::rows);
            let work = Work { weight: rows.unwrap_or(work.weight), ..work.clone() };
            let written = command.clone();
            let job = once(move |tx| {
                tx.plan_memory = plan_memory;
                block_on(deferred.write(tx))?;
                if let Some(decision) = decision {
                    block_on(carry_out(&*written, tx, decision))?;
                }
                Ok(answer)
            });
            if let Some(answer) = self.writer.run_if_unchanged(work, base, locks, job).await? {
                return known(answer);
            }
        }
        drop(reserving);
        self.writer.run(work, self.whole(command)).await
    }
}

impl SqliteStore {
    /// Returns the job that decides a command and writes the decision.
    fn whole<C: Decides>(
        &self,
        command: Arc<C>,
    ) -> impl Fn(&mut SqliteTransaction<'_>) -> Result<C::Answer> + Send + Sync + use<C> + 'static
    {
        let plan_memory = self.plan_memory;
        move |tx| {
            tx.plan_memory = plan_memory;
            block_on(Command::run(&*command, tx))
        }
    }
}

#[async_trait]
impl MetadataStore for SqliteStore {
    async fn call(&self, call: Call) -> Result<Reply> {
        call.run_on(self).await
    }

    async fn call_if_small(&self, call: Call) -> Result<Result<Reply, Call>> {
        call.run_small_on(self).await
    }

    async fn call_large(&self, call: Call) -> Result<Reply> {
        call.run_large_on(self).await
    }

    fn capacity(&self) -> Capacity {
        let several = self.readers.is_some();
        let large = several.then_some(LARGE_AT_ONCE);
        Capacity { calls: None, reads: several.then_some(READERS), large }
    }

    fn observe_heads(&self, observer: Weak<dyn HeadObserver>) {
        self.observers.add(observer);
    }
}

/// A decision on a snapshot, with its answer.
struct Decided<C: Decides> {
    answer: C::Answer,
    decision: Option<Decision>,
    locks: Locks,
    deferred: Deferred,
}

/// Runs `job` on one snapshot.
fn read_snapshot(connection: &Connection, job: Once) -> Result<AnyAnswer> {
    let snapshot = connection.unchecked_transaction()?;
    let answer = job(&mut SqliteTransaction::on_snapshot(&snapshot));
    snapshot.rollback()?;
    answer
}

fn open_file(path: &Path, cache_kib: i64) -> Result<Connection> {
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

/// Opens an existing file to read it, in the mode in which it is.
fn open_reader(path: &Path) -> Result<Connection> {
    let open = || {
        // A log without an index is only readable for those who may write the index.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        migrations::check_ours(&connection)?;
        connection.set_prepared_statement_cache_capacity(STATEMENT_CACHE);
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        connection.pragma_update(None, "cache_size", -READER_CACHE_KIB)?;
        connection.pragma_update(None, "trusted_schema", false)?;
        connection.pragma_update(None, "query_only", true)?;
        Ok(connection)
    };
    named(path, open())
}

/// Switches to write-ahead logging. If two programs do so at one time, SQLite rejects one at once,
/// regardless of its time-out.
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

/// Creates a database file that only its owner may read, whatever the directory allows; its log
/// inherits the permissions. A failure here is ignored: SQLite then fails with the reason when it
/// opens the file.
fn make_private(path: &Path) {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    drop(options.open(path));
}

/// Adds the file's path to an error.
fn named<T>(path: &Path, result: Result<T>) -> Result<T> {
    result.map_err(|error| match error {
        StoreError::Unavailable(text) => {
            StoreError::Unavailable(format!("{}: {text}", path.display()))
        }
        StoreError::Full(text) => StoreError::Full(format!("{}: {text}", path.display())),
        StoreError::Failed(text) => StoreError::Failed(format!("{}: {text}", path.display())),
        other => other,
    })
}

fn configure(connection: &Connection, cache_kib: i64) -> Result<()> {
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
