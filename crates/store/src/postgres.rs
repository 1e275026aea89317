//! The store in PostgreSQL: any number of servers share one database.
//!
//! Writers run at READ COMMITTED and take their locks in one order (`transaction`), so nothing
//! deadlocks. A feed's head is locked until the commit, so the order of positions is the order of
//! commit. A pull reads one REPEATABLE READ snapshot.

mod feeds;
mod locks;
mod maintenance;
mod members;
mod migrations;
mod place;
mod registers;
mod relay;
mod replicas;
mod rows;
mod stages;
mod transaction;
mod trash;
mod uploads;
mod versions;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use deadpool_postgres::{Hook, HookError, Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use tokio::sync::Semaphore;
use tokio_postgres::error::SqlState;
use tokio_postgres::{IsolationLevel, NoTls};
use vfs_sync_core::time::Timestamp;

use crate::command::{Backend, Call, Capacity, Command, Decides, MetadataStore, NewEpoch, Reply};
use crate::encoding;
use crate::error::{Result, StoreError};
use crate::moves::{Announcements, HeadObserver, Observers};
use crate::row_limit::RowLimit;
use crate::served::{Served, went_back};
use relay::Relay;
use transaction::PostgresTransaction;

/// The number of connections of one server.
const CONNECTIONS: usize = 16;
/// Those that stay for the server's own calls, which nobody's requests may hold up.
const OWN_CONNECTIONS: usize = 2;
/// The time that a call waits for a connection.
const CONNECTION_WAIT: Duration = Duration::from_secs(10);
/// The time without any response from the database, to statements or to keep-alive probes, after
/// which a connection is closed. Otherwise a connection that vanished without a FIN would block its
/// callers for a quarter of an hour.
const SILENCE: Duration = Duration::from_secs(30);
/// The keep-alive interval if the URL names none.
const DEFAULT_KEEPALIVE: Duration = Duration::from_secs(2 * 60 * 60);
/// The time after which it is asked whether the database answers at all, of a call that is still under
/// way, and the time that it has for it: together less than what a caller's push may take.
const STILL: Duration = Duration::from_secs(4);
const ANSWERS_WITHIN: Duration = Duration::from_secs(4);
/// Large transactions that run at one time: each takes seconds, a connection and hundreds of
/// megabytes.
pub(crate) const LARGE_AT_ONCE: usize = 2;
/// Rows that a transaction loads at most without being large.
const LARGE: usize = 10_000;
/// The number of times that a transaction runs before its caller is asked to try again.
const ATTEMPTS: u32 = 8;

/// The settings of every connection. All statements are index look-ups by design; without
/// statistics yet, the planner would scan a young table as a whole, and keep that plan while the
/// table grows.
const SESSION: &str = "\
    SET statement_timeout = '30s'; \
    SET lock_timeout = '15s'; \
    SET idle_in_transaction_session_timeout = '60s'; \
    SET enable_seqscan = off; \
    SET enable_hashjoin = off; \
    SET enable_mergejoin = off; \
    SET jit = off";

/// The metadata in a PostgreSQL database.
pub struct PostgresStore {
    pool: Pool,
    served: Arc<Served>,
    watch: Watch,
    large: usize,
    /// The bytes of memory that planning one change may take.
    plan_memory: usize,
    large_turns: Semaphore,
    observers: Arc<Observers>,
    relay: Relay,
}

/// A look at whether the database answers anybody: one that is frozen keeps its connections, and
/// what was sent to it arrives.
struct Watch {
    config: tokio_postgres::Config,
    /// The time of the last look, and whether it answered. Held while it is asked, once for all callers.
    last: tokio::sync::Mutex<Option<(Instant, bool)>>,
}

impl Watch {
    fn of(url: &str) -> Result<Self> {
        Ok(Self { config: parse(url)?, last: tokio::sync::Mutex::default() })
    }

    /// Asks the database on a connection of its own.
    async fn answers(&self) -> bool {
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        if let Some((at, answered)) = *last
            && at >= asked
        {
            return answered;
        }
        let answered = tokio::time::timeout(ANSWERS_WITHIN, self.ask()).await.unwrap_or(false);
        *last = Some((Instant::now(), answered));
        answered
    }

    async fn ask(&self) -> bool {
        match self.config.connect(NoTls).await {
            Ok((client, connection)) => {
                let connection = tokio::spawn(connection);
                let answered = client.simple_query("SELECT 1").await;
                connection.abort();
                answered.is_ok()
            }
            // A database that refuses has answered.
            Err(error) => error.as_db_error().is_some(),
        }
    }
}

impl PostgresStore {
    /// Connects to the database at `url` (`postgres://user:password@host:port/database`), and
    /// creates or migrates the schema if needed. `now` begins an epoch; so does each later
    /// connection that leads to another place.
    ///
    /// # Errors
    /// [`StoreError::NewerSchema`] for a database of a newer version, others if it cannot be
    /// reached.
    pub async fn connect(url: &str, now: Timestamp) -> Result<Self> {
        let started = Arc::new(AtomicBool::new(false));
        let served = Arc::new(Served::default());
        let pool = pool(url, started.clone(), served.clone())?;
        let store = Self::of(pool, served, url)?;
        let mut client = store.client().await?;
        migrations::migrate(&mut client, now).await?;
        place::check(&mut client, Some(now), &store.served).await?;
        started.store(true, Ordering::Release);
        drop(client);
        Ok(store)
    }

    /// Migrates the database at `url` to this program's schema; returns the schema's version.
    ///
    /// # Errors
    /// As [`PostgresStore::connect`].
    pub async fn migrate(url: &str, now: Timestamp) -> Result<i64> {
        let pool = pool(url, Arc::default(), Arc::default())?;
        let store = Self::of(pool, Arc::default(), url)?;
        migrations::migrate(&mut store.client().await?, now).await
    }

    fn of(pool: Pool, served: Arc<Served>, url: &str) -> Result<Self> {
        let (watch, large_turns) = (Watch::of(url)?, Semaphore::new(LARGE_AT_ONCE));
        let (large, plan_memory) = (LARGE, usize::MAX);
        let observers = Arc::<Observers>::default();
        let relay = Relay::new(watch.config.clone(), Arc::clone(&observers));
        Ok(Self { pool, served, watch, large, plan_memory, large_turns, observers, relay })
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
        self.plan_memory = bytes;
        self
    }

    /// Runs a command in transactions until one commits without a conflict. Returns `None` if it
    /// loads more than `rows` rows; then it has no effect.
    async fn transact<C: Command>(&self, command: &C, rows: usize) -> Result<Option<C::Answer>> {
        let mut realms = BTreeSet::new();
        for _ in 0..ATTEMPTS {
            let mut client = self.client().await?;
            let transaction = client.transaction().await?;
            let mut tx = PostgresTransaction::new(&transaction, realms).held_to(&self.served);
            tx.limit = RowLimit::of(rows);
            tx.plan_memory = self.plan_memory;
            let outcome = command.run(&mut tx).await;
            let is_large = tx.limit.is_exceeded();
            let (begun, written, moved) = (tx.begun, tx.written, tx.moved);
            realms = tx.realms;
            let committed = match outcome {
                Ok(answer) => transaction.commit().await.map(|()| answer).map_err(StoreError::from),
                Err(error) => {
                    // A connection that cannot roll back is dropped, which does.
                    let _ = transaction.rollback().await;
                    Err(error)
                }
            };
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
                Err(_) if self.watch.answers().await => {}
                Err(_) => {
                    let text = "it does not answer".to_owned();
                    break Err(StoreError::Unavailable(text));
                }
            }
        };
        if !matches!(answer, Err(StoreError::WentBack)) {
            return answer;
        }
        let (now, chance) = (Timestamp::MIN, encoding::low_bits(encoding::chance()));
        self.writes(NewEpoch { now, chance }).await?;
        Err(went_back())
    }

    async fn client(&self) -> Result<deadpool_postgres::Client> {
        self.pool.get().await.map_err(|error| StoreError::Unavailable(error.to_string()))
    }
}

/// Builds the pool, which connects on demand. Once the store has `started`, each new connection is
/// checked for its place before it is used.
fn pool(url: &str, started: Arc<AtomicBool>, served: Arc<Served>) -> Result<Pool> {
    let recycling_method = RecyclingMethod::Fast;
    let manager = Manager::from_config(parse(url)?, NoTls, ManagerConfig { recycling_method });
    let configure = Hook::async_fn(move |client, _| {
        let (started, served) = (started.load(Ordering::Acquire), served.clone());
        Box::pin(async move {
            client.batch_execute(SESSION).await.map_err(|e| HookError::message(e.to_string()))?;
            if started {
                let checked = place::check(client, None, &served).await;
                checked.map_err(|error| HookError::message(error.to_string()))?;
            }
            Ok(())
        })
    });
    Pool::builder(manager)
        .max_size(CONNECTIONS)
        .wait_timeout(Some(CONNECTION_WAIT))
        .create_timeout(Some(CONNECTION_WAIT))
        .runtime(Runtime::Tokio1)
        .post_create(configure)
        .build()
        .map_err(|error| StoreError::Failed(error.to_string()))
}

/// Parses the database's URL. Errors do not quote it, because it contains a password.
fn parse(url: &str) -> Result<tokio_postgres::Config> {
    let mut config: tokio_postgres::Config = url
        .parse()
        .map_err(|_| StoreError::Failed("the database URL is not one of PostgreSQL".into()))?;
    if config.get_application_name().is_none() {
        config.application_name("vfs-sync");
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECTION_WAIT);
    }
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(SILENCE);
    }
    if config.get_keepalives_idle() == DEFAULT_KEEPALIVE {
        config.keepalives_idle(SILENCE / 2).keepalives_interval(SILENCE / 6).keepalives_retries(3);
    }
    Ok(config)
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
        let mut client = self.client().await?;
        let transaction = client
            .build_transaction()
            .isolation_level(IsolationLevel::RepeatableRead)
            .read_only(true)
            .start()
            .await?;
        let mut tx = PostgresTransaction::on_snapshot(&transaction).held_to(&self.served);
        let answer = command.run(&mut tx).await?;
        transaction.commit().await?;
        Ok(answer)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_that_is_silent_is_given_up_after_as_long_as_the_url_says_or_half_a_minute() {
        let silence = |url: &str| {
            let config = parse(url).unwrap();
            (config.get_tcp_user_timeout().copied().unwrap(), config.get_keepalives_idle())
        };
        let seconds = Duration::from_secs;
        assert_eq!(silence("postgres://u@h/d"), (seconds(30), seconds(15)));
        let url = "postgres://u@h/d?tcp_user_timeout=7&keepalives_idle=3";
        assert_eq!(silence(url), (seconds(7), seconds(3)));
    }
}
