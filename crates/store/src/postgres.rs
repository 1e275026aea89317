//! The store in PostgreSQL: any number of servers share one database.
//!
//! Writers run at READ COMMITTED and take their locks in one order (`transaction`), so nothing
//! deadlocks. A feed's head is locked until the commit, so the order of positions is the order of
//! commit. A pull reads one REPEATABLE READ snapshot.

pub(crate) mod dump;
mod hosts;
mod migrations;
mod place;
mod relay;
mod rows;
mod tls;
mod topics;
mod transaction;

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::Semaphore;
use tokio_postgres::IsolationLevel;
use tokio_postgres::error::SqlState;
use vfs_sync_core::time::Timestamp;

use crate::backend::plan_memory::PlanMemory;
use crate::backend::row_limit::RowLimit;
use crate::backend::served::{Served, went_back};
use crate::command::{Backend, Call, Capacity, Command, Decides, MetadataStore, NewEpoch, Reply};
use crate::encoding;
use crate::error::{Result, StoreError};
use crate::moves::{Announcements, HeadObserver, Observers};
use crate::open::SchemaVersion;
use hosts::{CONNECTIONS, Hosts};
use place::Place;
use relay::Relay;
use transaction::{PostgresTransaction, answered};

/// Those that stay for the server's own calls, which nobody's requests may hold up.
const OWN_CONNECTIONS: usize = 2;
/// The time after which it is asked whether the database answers at all, of a call that is still under
/// way: together with the time for the answer less than what a caller's push may take.
const STILL: Duration = Duration::from_secs(3);
/// Large transactions that run at one time: each takes seconds, a connection and hundreds of
/// megabytes.
pub(crate) const LARGE_AT_ONCE: usize = 2;
/// Rows that a transaction loads at most without being large.
const LARGE: usize = 10_000;
/// The number of times that a transaction runs before its caller is asked to try again.
const ATTEMPTS: u32 = 8;

/// The metadata in a PostgreSQL database.
pub struct PostgresStore {
    hosts: Arc<Hosts>,
    served: Arc<Served>,
    large: usize,
    /// The bytes of memory that planning one change may take.
    plan_memory: PlanMemory,
    large_turns: Semaphore,
    observers: Arc<Observers>,
    relay: Relay,
}

impl PostgresStore {
    /// Connects to the database at `url` (`postgres://user:password@host:port/database`, with the
    /// parameters of libpq), and creates or migrates the schema if needed. `now` begins an epoch; so
    /// does each later connection that leads to another place.
    ///
    /// Of several hosts (`host1:port1,host2:port2`), the one that takes writes is used. Unless all
    /// others answer, it may be a former primary: then the present epoch goes on, if it began there.
    ///
    /// # Errors
    /// [`StoreError::NewerSchema`] for a database of a newer version, others if it cannot be
    /// reached.
    pub async fn connect(url: &str, now: Timestamp) -> Result<Self> {
        let store = Self::of(url)?;
        let mut client = store.hosts.writer().await?;
        migrations::migrate(&mut client, now).await?;
        let place = Place::of(&client).await?;
        // Where it is, an epoch of its own would be later than its successor's.
        let start = (!store.hosts.may_be_former().await).then_some(now);
        place::check(&mut client, &place, start, &store.served).await?;
        store.hosts.start(&place);
        drop(client);
        Ok(store)
    }

    /// Migrates the database at `url` to this program's schema; returns the schema's version.
    ///
    /// # Errors
    /// As [`PostgresStore::connect`].
    pub async fn migrate(url: &str, now: Timestamp) -> Result<i64> {
        let store = Self::of(url)?;
        migrations::migrate(&mut store.hosts.writer().await?, now).await
    }

    /// Connects to the existing database at `url` to read it, as [`crate::open_to_read`] does.
    ///
    /// # Errors
    /// As [`PostgresStore::connect`].
    pub(crate) async fn connect_to_read(url: &str) -> Result<(SchemaVersion, Self)> {
        let store = Self::of(url)?;
        let client = store.hosts.writer().await?;
        let version = migrations::version(&client).await?;
        if version.found == version.known {
            migrations::check_tables(&client).await?;
        }
        drop(client);
        Ok((version, store))
    }

    fn of(url: &str) -> Result<Self> {
        let served = Arc::<Served>::default();
        let hosts = Hosts::of(url, Arc::clone(&served))?;
        let large_turns = Semaphore::new(LARGE_AT_ONCE);
        let (large, plan_memory) = (LARGE, PlanMemory::UNBOUNDED);
        let observers = Arc::<Observers>::default();
        let relay = Relay::new(Arc::clone(&hosts), Arc::clone(&observers));
        Ok(Self { hosts, served, large, plan_memory, large_turns, observers, relay })
    }

    /// Sets the number of rows that a transaction loads without being large; 10,000 by default.
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

    /// Records the state of the pool of connections.
    #[allow(clippy::cast_precision_loss, reason = "connections are few")]
    fn note_pool(&self) {
        let status = self.hosts.present().pool.status();
        for (state, count) in [
            ("open", status.size),
            ("idle", status.available),
            ("waiting", status.waiting),
            ("most", status.max_size),
        ] {
            metrics::gauge!("vfs_sync_database_connections", "state" => state).set(count as f64);
        }
    }

    /// Runs a command in transactions until one commits without a conflict. Returns `None` if it
    /// loads more than `rows` rows; then it has no effect.
    async fn transact<C: Command>(&self, command: &C, rows: usize) -> Result<Option<C::Answer>> {
        self.note_pool();
        let mut realms = BTreeSet::new();
        for _ in 0..ATTEMPTS {
            let (mut client, moves) = self.hosts.lease().await?;
            let attempt = async {
                let transaction = answered(client.transaction()).await?;
                let mut tx = PostgresTransaction::new(&transaction, std::mem::take(&mut realms))
                    .held_to(&self.served);
                tx.limit = RowLimit::of(rows);
                tx.plan_memory = self.plan_memory;
                let outcome = command.run(&mut tx).await;
                let is_large = tx.limit.is_exceeded();
                let (begun, written, moved) = (tx.begun, tx.written, tx.moved);
                realms = tx.realms;
                let committed = match outcome {
                    Ok(answer) => commit(transaction).await.map(|()| answer),
                    Err(error) => {
                        // A connection that cannot roll back is dropped, which does.
                        let _ = transaction.rollback().await;
                        Err(error)
                    }
                };
                Ok::<_, StoreError>((committed, is_large, begun, written, moved))
            };
            let (committed, is_large, begun, written, moved) =
                hosts::while_present(moves, Box::pin(attempt)).await?;
            match committed {
                Err(_) if is_large => return Ok(None),
                Err(StoreError::Conflict) => {}
                Err(error) => return Err(error),
                Ok(answer) => {
                    if let Some(epoch) = begun {
                        self.served.begin(epoch);
                    }
                    for (user, counter, present) in written {
                        self.served.note(&user, counter, present);
                    }
                    self.observers.moved(&moved);
                    self.relay.announce(moved);
                    return Ok(Some(answer));
                }
            }
        }
        Err(StoreError::Conflict)
    }

    /// Watches whether the database answers while an operation is in progress.
    async fn watched<T>(&self, running: impl Future<Output = Result<T>>) -> Result<T> {
        let mut running = std::pin::pin!(running);
        let answer = loop {
            match tokio::time::timeout(STILL, &mut running).await {
                Ok(answer) => break answer,
                Err(_) if self.hosts.look().await => {}
                Err(_) => {
                    let text = "it does not answer".to_owned();
                    break Err(StoreError::Unavailable(text));
                }
            }
        };
        if matches!(answer, Err(StoreError::Unavailable(_))) {
            drop(self.hosts.look());
        }
        if !matches!(answer, Err(StoreError::WentBack)) {
            return answer;
        }
        let (now, chance) = (Timestamp::MIN, encoding::low_bits(encoding::chance()));
        self.writes(NewEpoch { now, chance }).await?;
        Err(went_back())
    }
}

async fn commit(transaction: deadpool_postgres::Transaction<'_>) -> Result<()> {
    let begun = Instant::now();
    let committed = answered(transaction.commit()).await;
    metrics::histogram!("vfs_sync_commit_duration_seconds").record(begun.elapsed());
    metrics::histogram!("vfs_sync_commit_transactions").record(1.0);
    committed
}

fn is_conflict(error: &tokio_postgres::Error) -> bool {
    let code = error.code();
    code == Some(&SqlState::T_R_SERIALIZATION_FAILURE)
        || code == Some(&SqlState::T_R_DEADLOCK_DETECTED)
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        if is_conflict(&error) {
            tracing::warn!(%error, "transactions were in each other's way");
            return Self::Conflict;
        }
        let Some(database) = error.as_db_error() else {
            let cause = std::error::Error::source(&error);
            return Self::Unavailable(match cause {
                Some(cause) => format!("{error}: {cause}"),
                None => error.to_string(),
            });
        };
        let text = format!("{} ({})", database.message(), database.code().code());
        let transient = [
            SqlState::LOCK_NOT_AVAILABLE,
            SqlState::QUERY_CANCELED,
            SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
            SqlState::READ_ONLY_SQL_TRANSACTION,
        ];
        // Connections, resources, the operator's intervention, the system.
        let classes = ["08", "53", "57", "58"];
        let code = database.code();
        if *code == SqlState::DISK_FULL {
            return Self::Full(text);
        }
        if transient.contains(code)
            || code.code().get(..2).is_some_and(|class| classes.contains(&class))
        {
            Self::Unavailable(text)
        } else {
            Self::Failed(text)
        }
    }
}

impl Backend for PostgresStore {
    async fn reads<C: Command>(&self, command: C) -> Result<C::Answer> {
        let (mut client, moves) = self.hosts.lease().await?;
        let reading = async {
            let snapshot =
                client.build_transaction().isolation_level(IsolationLevel::RepeatableRead);
            let transaction = answered(snapshot.read_only(true).start()).await?;
            let mut tx = PostgresTransaction::on_snapshot(&transaction).held_to(&self.served);
            let answer = command.run(&mut tx).await?;
            answered(transaction.commit()).await?;
            Ok(answer)
        };
        hosts::while_present(moves, Box::pin(reading)).await
    }

    async fn writes<C: Command>(&self, command: C) -> Result<C::Answer> {
        let not_run = || StoreError::Failed("a transaction was not run".into());
        self.transact(&command, usize::MAX).await?.ok_or_else(not_run)
    }

    async fn decides_if_small<C: Decides>(&self, command: C) -> Result<Result<C::Answer, C>> {
        if command.is_known_large() {
            return Ok(Err(command));
        }
        let answer = self.transact(&command, self.large).await?;
        Ok(answer.ok_or(command))
    }

    async fn decides_large<C: Decides>(&self, command: C) -> Result<C::Answer> {
        let closed = |_| StoreError::Unavailable("the store is closed".into());
        let _turn = self.large_turns.acquire().await.map_err(closed)?;
        self.writes(command).await
    }
}

#[async_trait]
impl MetadataStore for PostgresStore {
    async fn call(&self, call: Call) -> Result<Reply> {
        self.watched(call.run_on(self)).await
    }

    async fn call_if_small(&self, call: Call) -> Result<Result<Reply, Call>> {
        self.watched(call.run_small_on(self)).await
    }

    async fn call_large(&self, call: Call) -> Result<Reply> {
        self.watched(call.run_large_on(self)).await
    }

    fn capacity(&self) -> Capacity {
        let calls = Some(CONNECTIONS - OWN_CONNECTIONS);
        Capacity { calls, reads: None, large: Some(LARGE_AT_ONCE) }
    }

    fn observe_heads(&self, observer: Weak<dyn HeadObserver>) {
        self.observers.add(observer);
    }

    async fn announce_heads(&self) -> Announcements {
        self.relay.start().await
    }
}
