//! The hosts of the database: one pool of connections, to the host that takes writes.
//!
//! A URL with several hosts names a primary and its standbys; one host may be a pooler or an address
//! that moves. All hosts are asked at one time, every few seconds and whenever the present one does
//! not answer, refuses, or has become a standby. The primary of the latest timeline gets a new pool
//! if it is another server than the present pool's, and no connection of the old pool is used again:
//! its server may believe to be the primary still.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use deadpool_postgres::{
    ClientWrapper, Hook, HookError, Manager, ManagerConfig, Pool, PoolError, RecyclingMethod,
    Runtime,
};
use futures::future::join_all;
use percent_encoding::percent_decode_str;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_postgres::config::Host;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, Connection, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::place::{self, Place};
use super::tls;
use crate::backend::served::Served;
use crate::error::{Result, StoreError};

/// The number of connections of one server.
pub(super) const CONNECTIONS: usize = 16;
/// The time that a call waits for a connection.
const CONNECTION_WAIT: Duration = Duration::from_secs(10);
/// The time that one of several hosts has to be connected to: a caller's push has some seconds left
/// for the others.
const HOST_WAIT: Duration = Duration::from_secs(2);
/// The time that the only host has to answer at all.
const ANSWERS_WITHIN: Duration = Duration::from_secs(4);
/// The time between two looks at the hosts: for so long at most, a process that reaches a former
/// primary and its successor is served by the former one.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// The time without any response from the database, to statements or to keep-alive probes, after
/// which a connection is closed. Otherwise a connection that vanished without a FIN would block its
/// callers for a quarter of an hour.
const SILENCE: Duration = Duration::from_secs(30);
/// The keep-alive interval if the URL names none.
const DEFAULT_KEEPALIVE: Duration = Duration::from_secs(2 * 60 * 60);
/// The greatest number of hosts in a URL.
const MAX_HOSTS: usize = 16;

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

type Connected =
    (Client, Connection<Socket, <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream>);

/// A connection of a pool, and the signal that the pool is replaced.
type Lease = (deadpool_postgres::Client, watch::Receiver<Present>);

/// The hosts of the database, and the pool of the present one.
pub(super) struct Hosts {
    /// The settings of each host, in the order of the URL.
    hosts: Vec<Config>,
    tls: MakeRustlsConnect,
    served: Arc<Served>,
    /// True once the schema is there: each new connection is then checked for its place.
    started: Arc<AtomicBool>,
    present: watch::Sender<Present>,
    /// The last look at the hosts. Held while they are asked, once for all callers.
    last: tokio::sync::Mutex<Look>,
}

/// The pool of the host that connections go to.
#[derive(Clone)]
pub(super) struct Present {
    index: usize,
    pub(super) pool: Pool,
    /// The place of all connections of the pool, once one of them is checked.
    place: Arc<OnceLock<Place>>,
}

impl Present {
    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.place, &other.place)
    }
}

/// The findings of a look at the hosts.
#[derive(Default)]
struct Look {
    begun: Option<Instant>,
    /// True if the present host answered, or refused.
    answered: bool,
    /// True if every host said whether it is a primary.
    complete: bool,
    /// The last warning, which is not logged again as long as it holds.
    complaint: Option<&'static str>,
}

/// The condition in which a host is found.
#[derive(Debug)]
enum Found {
    Silent,
    /// It refuses connections or questions.
    Refusing,
    Standby,
    Primary(Place),
}

impl Hosts {
    /// Parses the database's URL, and reads the certificates that it names.
    ///
    /// # Errors
    /// [`StoreError::InvalidUrl`] says what is wrong with the URL, without its password.
    pub(super) fn of(url: &str, served: Arc<Served>) -> Result<Arc<Self>> {
        let (hosts, parameters) = parse(url)?;
        let tls = parameters.connector()?;
        let started = Arc::<AtomicBool>::default();
        let place = Arc::default();
        let pool = pool(&hosts[0], hosts.len() > 1, &tls, &started, &served, &place)?;
        let present = watch::Sender::new(Present { index: 0, pool, place });
        let last = tokio::sync::Mutex::default();
        Ok(Arc::new(Self { hosts, tls, served, started, present, last }))
    }

    /// Has each new connection checked for its place from now on, and the hosts looked at regularly
    /// as long as they are used. `place` is that of the present connections.
    pub(super) fn start(self: &Arc<Self>, place: &Place) {
        self.present.borrow().place.get_or_init(|| place.clone());
        self.started.store(true, Ordering::Release);
        let hosts = Arc::downgrade(self);
        tokio::spawn(async move {
            let mut looks = tokio::time::interval(LOOK_EVERY);
            looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                looks.tick().await;
                let Some(hosts) = hosts.upgrade() else { return };
                hosts.look().await;
            }
        });
    }

    pub(super) fn present(&self) -> Present {
        self.present.borrow().clone()
    }

    /// Takes a connection of the pool. If it cannot be had, or leads elsewhere than the others,
    /// looks for a host that takes writes.
    pub(super) async fn client(self: &Arc<Self>) -> Result<deadpool_postgres::Client> {
        self.lease().await.map(|lease| lease.0)
    }

    /// Takes a connection as [`Hosts::client`] does, with the signal that its pool is replaced.
    pub(super) async fn lease(self: &Arc<Self>) -> Result<Lease> {
        let (present, moves) = self.present_and_moves();
        match present.pool.get().await {
            Ok(client) => Ok((client, moves)),
            Err(error) if is_of_host(&error) => {
                self.look().await;
                let (now, moves) = self.present_and_moves();
                if now.is(&present) {
                    return Err(unavailable(error));
                }
                let client = now.pool.get().await;
                client.map(|client| (client, moves)).map_err(unavailable)
            }
            Err(error) => Err(unavailable(error)),
        }
    }

    fn present_and_moves(&self) -> (Present, watch::Receiver<Present>) {
        let moves = self.moves();
        let present = moves.borrow().clone();
        (present, moves)
    }

    /// Takes a connection to a host that takes writes, whichever of them it is.
    pub(super) async fn writer(self: &Arc<Self>) -> Result<deadpool_postgres::Client> {
        if self.hosts.len() > 1 {
            self.look().await;
        }
        self.client().await
    }

    /// Returns whether the present host may be a former primary: of several hosts, not each said at
    /// the last look whether it is a primary, so one of them may be the successor.
    pub(super) async fn may_be_former(&self) -> bool {
        self.hosts.len() > 1 && !self.last.lock().await.complete
    }

    /// Returns a signal that the present pool is replaced.
    pub(super) fn moves(&self) -> watch::Receiver<Present> {
        self.present.subscribe()
    }

    /// Opens a connection outside of the pool, to the present host.
    pub(super) async fn connect(&self) -> Result<Connected, tokio_postgres::Error> {
        self.hosts[self.present().index].connect(self.tls.clone()).await
    }

    /// Looks at the hosts, in a task of its own: it goes on if its caller does not wait for it, or
    /// waits for something else first. Returns whether the present host answers.
    pub(super) fn look(self: &Arc<Self>) -> impl Future<Output = bool> + use<> {
        let hosts = Arc::clone(self);
        let looking = tokio::spawn(async move { hosts.ask_all().await });
        async move { looking.await.unwrap_or(false) }
    }

    /// Asks all hosts at one time, each on a new connection, and replaces the pool if another
    /// primary is the newest, or if the present host's name leads elsewhere. Returns whether the
    /// present host answers; one that refuses has answered.
    ///
    /// Nothing is known of a former primary that was not told of its successor, so of several
    /// primaries the one of the latest timeline counts, and the process never goes back to a host
    /// of an earlier one. If there is one host only, whoever directs its name decides.
    async fn ask_all(&self) -> bool {
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        if last.begun.is_some_and(|begun| begun >= asked) {
            return last.answered;
        }
        last.begun = Some(Instant::now());
        let found = join_all(self.hosts.iter().map(|host| self.find(host))).await;
        let present = self.present();
        last.answered = !matches!(found[present.index], Found::Silent);
        last.complete =
            found.iter().all(|found| matches!(found, Found::Standby | Found::Primary(_)));
        let newest = newest(&found, present.index);
        let complaint = match (newest, present.place.get()) {
            (None, _) => Some("no host of the database takes writes"),
            (Some((_, place)), Some(known))
                if self.hosts.len() > 1 && place.timeline() < known.timeline() =>
            {
                Some(
                    "the only host that takes writes is of an earlier timeline than was seen: it is \
                     not used, because it may be a former primary; if it was restored on purpose, \
                     restart this server",
                )
            }
            (Some((index, place)), known) => {
                if index != present.index || known.is_some_and(|known| known != place) {
                    self.go_to(index, place);
                }
                None
            }
        };
        if last.complaint != complaint
            && let Some(text) = complaint
        {
            tracing::warn!(?found, "{text}");
        }
        last.complaint = complaint;
        last.answered
    }

    /// Replaces the pool by one to a primary. What is under way on the old one is cut off, and does
    /// not count as answered.
    fn go_to(&self, index: usize, place: &Place) {
        // A migration may make the tables that are a part of the place.
        let started = self.started.load(Ordering::Acquire);
        let to = Arc::new(if started { OnceLock::from(place.clone()) } else { OnceLock::new() });
        let several = self.hosts.len() > 1;
        match pool(&self.hosts[index], several, &self.tls, &self.started, &self.served, &to) {
            Ok(pool) => {
                let before = self.present.send_replace(Present { index, pool, place: to });
                before.pool.close();
                if started {
                    metrics::counter!("vfs_sync_database_moves_total").increment(1);
                    tracing::warn!(
                        from = before.index,
                        to = index,
                        timeline = place.timeline(),
                        "the database is at another place now"
                    );
                }
            }
            Err(error) => tracing::error!(%error, "another host's pool could not be made"),
        }
    }

    async fn find(&self, host: &Config) -> Found {
        let ask = async {
            let (client, connection) = host.connect(self.tls.clone()).await?;
            let connection = tokio::spawn(connection);
            let place = Place::find(&client).await;
            connection.abort();
            place
        };
        let within = if self.hosts.len() > 1 { HOST_WAIT } else { ANSWERS_WITHIN };
        match tokio::time::timeout(within, ask).await {
            Err(_) => Found::Silent,
            Ok(Err(error)) if error.as_db_error().is_some() => Found::Refusing,
            Ok(Err(_)) => Found::Silent,
            Ok(Ok(None)) => Found::Standby,
            Ok(Ok(Some(place))) => Found::Primary(place),
        }
    }
}

/// Returns the primary of the latest timeline: of several the present one, else the first.
fn newest(found: &[Found], present: usize) -> Option<(usize, &Place)> {
    let primaries = found.iter().enumerate().filter_map(|(index, found)| match found {
        Found::Primary(place) => Some((index, place)),
        _ => None,
    });
    primaries.max_by_key(|(index, place)| {
        (place.timeline(), *index == present, std::cmp::Reverse(*index))
    })
}

/// Runs work on a connection until its pool is replaced: its server is then a former one, which may
/// never answer, and whose answer must not count.
///
/// # Errors
/// [`StoreError::Unavailable`] if the work is cut off, else those of the work.
pub(super) async fn while_present<T>(
    mut moves: watch::Receiver<Present>,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    tokio::select! {
        biased;
        _ = moves.changed() => {
            Err(StoreError::Unavailable("it is at another place now, ask again".into()))
        }
        done = work => done,
    }
}

/// Returns whether an error of a pool comes from its host, and not from too many callers.
fn is_of_host(error: &PoolError) -> bool {
    !matches!(error, PoolError::Timeout(deadpool_postgres::TimeoutType::Wait))
}

fn unavailable(error: PoolError) -> StoreError {
    let mut text = error.to_string();
    if let PoolError::Backend(error) = &error
        && let Some(cause) = std::error::Error::source(error)
    {
        text.push_str(&format!(": {cause}"));
    }
    StoreError::Unavailable(text)
}

/// Builds the pool of a host, which connects on demand.
fn pool(
    host: &Config,
    of_several: bool,
    tls: &MakeRustlsConnect,
    started: &Arc<AtomicBool>,
    served: &Arc<Served>,
    place: &Arc<OnceLock<Place>>,
) -> Result<Pool> {
    let recycling_method = RecyclingMethod::Fast;
    let manager =
        Manager::from_config(host.clone(), tls.clone(), ManagerConfig { recycling_method });
    let (started, served, place) = (Arc::clone(started), Arc::clone(served), Arc::clone(place));
    let configure = Hook::async_fn(move |client, _| {
        let (started, served) = (started.load(Ordering::Acquire), served.clone());
        let place = Arc::clone(&place);
        Box::pin(async move {
            client.batch_execute(SESSION).await.map_err(|e| HookError::message(e.to_string()))?;
            if started {
                let checked = check(client, &place, &served).await;
                checked.map_err(|error| HookError::message(error.to_string()))?;
            }
            Ok(())
        })
    });
    Pool::builder(manager)
        .max_size(CONNECTIONS)
        .wait_timeout(Some(CONNECTION_WAIT))
        .create_timeout(Some(if of_several { HOST_WAIT } else { CONNECTION_WAIT }))
        .runtime(Runtime::Tokio1)
        .post_create(configure)
        .build()
        .map_err(|error| StoreError::Failed(error.to_string()))
}

/// Checks that a new connection leads to where the others of its pool do, and that the epoch began
/// there.
async fn check(client: &mut ClientWrapper, known: &OnceLock<Place>, served: &Served) -> Result<()> {
    let place = Place::of(client).await?;
    if known.get_or_init(|| place.clone()) != &place {
        let text = "the address leads to another server than before";
        return Err(StoreError::Unavailable(text.into()));
    }
    place::check(client, &place, None, served).await
}

/// Parses the database's URL to the settings of each of its hosts. Errors do not quote it, because
/// it contains a password.
fn parse(url: &str) -> Result<(Vec<Config>, tls::Parameters)> {
    let wrong = || StoreError::InvalidUrl("it is not one of PostgreSQL".into());
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let mut encryption = tls::Parameters::default();
    let mut others = Vec::new();
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').ok_or_else(wrong)?;
        let value = percent_decode_str(value).decode_utf8().map_err(|_| wrong())?;
        if encryption.take(name, &value)? {
            continue;
        }
        match (name, &*value) {
            // Only a host that takes writes is ever used.
            ("target_session_attrs", "any" | "read-write" | "primary") => {}
            ("target_session_attrs", _) => {
                let text = "target_session_attrs must be primary or read-write: the server writes";
                return Err(StoreError::InvalidUrl(text.into()));
            }
            _ => others.push(parameter),
        }
    }
    let (scheme, rest) = base.split_once("://").ok_or_else(wrong)?;
    let (authority, path) = rest
        .split_once('/')
        .map_or((rest, String::new()), |(authority, path)| (authority, format!("/{path}")));
    let (user, hosts) = authority
        .rsplit_once('@')
        .map_or((String::new(), authority), |(user, hosts)| (format!("{user}@"), hosts));
    let hosts: Vec<&str> = hosts.split(',').collect();
    if hosts.len() > MAX_HOSTS {
        let text = format!("it has more than {MAX_HOSTS} hosts");
        return Err(StoreError::InvalidUrl(text));
    }
    let several = hosts.len() > 1;
    let of_host = |host: &&str| {
        let url = format!("{scheme}://{user}{host}{path}?{}", others.join("&"));
        let mut config: Config = url.parse().map_err(|_| wrong())?;
        config.ssl_mode(encryption.driver_mode());
        if config.get_application_name().is_none() {
            config.application_name("vfs-sync");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(if several { HOST_WAIT } else { CONNECTION_WAIT });
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(SILENCE);
        }
        if config.get_keepalives_idle() == DEFAULT_KEEPALIVE {
            config
                .keepalives_idle(SILENCE / 2)
                .keepalives_interval(SILENCE / 6)
                .keepalives_retries(3);
        }
        Ok(config)
    };
    let hosts = hosts.iter().map(of_host).collect::<Result<Vec<_>>>()?;
    Ok((hosts, encryption))
}

/// Returns the variables by which PostgreSQL's own tools reach the database at `url`.
pub(super) fn tool_environment(url: &str) -> Result<Vec<(&'static str, String)>> {
    let (hosts, encryption) = parse(url)?;
    let mut variables = encryption.tool_environment();
    let (mut names, mut ports) = (Vec::new(), Vec::new());
    for host in &hosts {
        names.push(match host.get_hosts().first() {
            Some(Host::Tcp(name)) => name.clone(),
            #[cfg(unix)]
            Some(Host::Unix(directory)) => directory.display().to_string(),
            _ => String::new(),
        });
        ports.push(host.get_ports().first().map_or_else(|| "5432".to_owned(), u16::to_string));
    }
    variables.push(("PGHOST", names.join(",")));
    variables.push(("PGPORT", ports.join(",")));
    variables.push(("PGTARGETSESSIONATTRS", "read-write".into()));
    let first = &hosts[0];
    let password = first.get_password().map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    for (name, value) in [
        ("PGUSER", first.get_user().map(str::to_owned)),
        ("PGPASSWORD", password),
        ("PGDATABASE", first.get_dbname().or(first.get_user()).map(str::to_owned)),
    ] {
        variables.extend(value.map(|value| (name, value)));
    }
    Ok(variables)
}

#[cfg(test)]
mod tests {
    use tokio_postgres::config::SslMode;

    use super::*;

    fn hosts(url: &str) -> Vec<Config> {
        parse(url).unwrap().0
    }

    #[test]
    fn a_database_that_is_silent_is_given_up_after_as_long_as_the_url_says_or_half_a_minute() {
        let silence = |url: &str| {
            let config = &hosts(url)[0];
            (config.get_tcp_user_timeout().copied().unwrap(), config.get_keepalives_idle())
        };
        let seconds = Duration::from_secs;
        assert_eq!(silence("postgres://u@h/d"), (seconds(30), seconds(15)));
        let url = "postgres://u@h/d?tcp_user_timeout=7&keepalives_idle=3";
        assert_eq!(silence(url), (seconds(7), seconds(3)));
    }

    #[test]
    fn each_host_of_a_url_has_its_own_settings() {
        let url =
            "postgresql://u:p%40@one,two:6000,[::1]:6001/d?sslmode=disable&application_name=x";
        let hosts = hosts(url);
        let at = |config: &Config| {
            let Host::Tcp(host) = &config.get_hosts()[0] else { panic!("no host") };
            (host.clone(), config.get_ports().first().copied())
        };
        let all: Vec<_> = hosts.iter().map(at).collect();
        assert_eq!(
            all,
            [("one".into(), Some(5432)), ("two".into(), Some(6000)), ("::1".into(), Some(6001))]
        );
        for config in &hosts {
            assert_eq!(config.get_password(), Some(&b"p@"[..]));
            assert_eq!(config.get_dbname(), Some("d"));
            assert_eq!(config.get_application_name(), Some("x"));
            assert_eq!(config.get_ssl_mode(), SslMode::Disable);
            assert_eq!(config.get_connect_timeout(), Some(&HOST_WAIT));
        }
    }

    #[test]
    fn encryption_is_taken_from_libpqs_parameters() {
        for (mode, negotiated) in [
            ("disable", SslMode::Disable),
            ("prefer", SslMode::Prefer),
            ("require", SslMode::Require),
            ("verify-ca", SslMode::Require),
            ("verify-full", SslMode::Require),
        ] {
            let config = &hosts(&format!("postgres://u@h/d?sslmode={mode}"))[0];
            assert_eq!(config.get_ssl_mode(), negotiated, "{mode}");
        }
        assert_eq!(hosts("postgres://u@h/d")[0].get_ssl_mode(), SslMode::Prefer);
    }

    #[test]
    fn a_wrong_url_is_named_without_its_password() {
        let error = |url: &str| match Hosts::of(url, Arc::default()) {
            Ok(_) => panic!("{url} is accepted"),
            Err(error) => error.to_string(),
        };
        for (url, says) in [
            ("postgres://u:geheim@h/d?sslmode=allow", "sslmode must be"),
            ("postgres://u:geheim@h/d?sslmode=verify_full", "sslmode must be"),
            ("postgres://u:geheim@h/d?sslrootcert=system", "needs sslmode=verify-full"),
            ("postgres://u:geheim@h/d?sslmode=verify-full&sslrootcert=/nowhere", "sslrootcert"),
            ("postgres://u:geheim@h/d?sslcert=/nowhere", "one is missing"),
            ("postgres://u:geheim@h/d?target_session_attrs=standby", "the server writes"),
            ("postgres://u:geheim@h/d?colour=red", "not one of PostgreSQL"),
            ("postgres://u:geheim@h/d?colour", "not one of PostgreSQL"),
        ] {
            let error = error(url);
            assert!(error.contains(says), "{url}: {error}");
            assert!(!error.contains("geheim"), "{error}");
        }
    }
}
