//! The hosts of the database: one pool of connections, to the host that takes writes.
//!
//! A URL with several hosts names a primary and its standbys. Connections go to one host, until it
//! does not answer, refuses, or has become a standby; then all hosts are asked at one time, and the
//! first of them that takes writes gets a new pool. A connection of the old pool is not used again,
//! even if its host returns: it may be one that believes to be the primary still.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deadpool_postgres::{
    Hook, HookError, Manager, ManagerConfig, Pool, PoolError, RecyclingMethod, Runtime,
};
use futures::future::join_all;
use percent_encoding::percent_decode_str;
use tokio::sync::watch;
use tokio_postgres::config::Host;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, Connection, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{place, tls};
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

/// The hosts of the database, and the pool of the present one.
pub(super) struct Hosts {
    /// The settings of each host, in the order of the URL.
    hosts: Vec<Config>,
    tls: MakeRustlsConnect,
    served: Arc<Served>,
    /// True once the schema is there: each new connection is then checked for its place.
    started: Arc<AtomicBool>,
    present: watch::Sender<Present>,
    /// Held by the caller that looks for another host.
    looking: tokio::sync::Mutex<()>,
}

/// The host that connections go to.
#[derive(Clone)]
pub(super) struct Present {
    index: usize,
    pub(super) pool: Pool,
}

impl Hosts {
    /// Parses the database's URL, and reads the certificates that it names.
    ///
    /// # Errors
    /// [`StoreError::InvalidUrl`] says what is wrong with the URL, without its password.
    pub(super) fn of(url: &str, served: Arc<Served>) -> Result<Self> {
        let (hosts, parameters) = parse(url)?;
        let tls = parameters.connector()?;
        let started = Arc::<AtomicBool>::default();
        let pool = pool(&hosts[0], hosts.len() > 1, &tls, &started, &served)?;
        let present = watch::Sender::new(Present { index: 0, pool });
        Ok(Self { hosts, tls, served, started, present, looking: tokio::sync::Mutex::default() })
    }

    /// Has each new connection checked for its place from now on.
    pub(super) fn start(&self) {
        self.started.store(true, Ordering::Release);
    }

    pub(super) fn present(&self) -> Present {
        self.present.borrow().clone()
    }

    /// Takes a connection of the pool. If it cannot be had and there are other hosts, looks for one
    /// that takes writes.
    pub(super) async fn client(&self) -> Result<deadpool_postgres::Client> {
        let present = self.present();
        match present.pool.get().await {
            Ok(client) => Ok(client),
            Err(error) if self.hosts.len() > 1 && is_of_host(&error) => {
                self.look_beyond(present.index).await;
                self.present().pool.get().await.map_err(unavailable)
            }
            Err(error) => Err(unavailable(error)),
        }
    }

    /// Takes a connection to a host that takes writes, whichever of them it is.
    pub(super) async fn writer(&self) -> Result<deadpool_postgres::Client> {
        let first = self.present().index;
        if self.hosts.len() > 1 && !self.takes_writes(&self.hosts[first]).await {
            self.look_beyond(first).await;
        }
        self.client().await
    }

    /// Returns whether connections still go to `host`.
    pub(super) fn is_present(&self, host: &Present) -> bool {
        self.present().index == host.index
    }

    /// Returns a signal that connections go to another host.
    pub(super) fn moves(&self) -> watch::Receiver<Present> {
        self.present.subscribe()
    }

    /// Opens a connection outside of the pool, to the present host.
    pub(super) async fn connect(&self) -> Result<Connected, tokio_postgres::Error> {
        self.hosts[self.present().index].connect(self.tls.clone()).await
    }

    /// Asks the present host whether it answers, on a connection of its own; one that refuses has
    /// answered.
    pub(super) async fn answers(&self) -> bool {
        let within = if self.hosts.len() > 1 { HOST_WAIT } else { ANSWERS_WITHIN };
        let ask = async {
            match self.connect().await {
                Ok((client, connection)) => {
                    let connection = tokio::spawn(connection);
                    let answered = client.simple_query("SELECT 1").await;
                    connection.abort();
                    answered.is_ok()
                }
                Err(error) => error.as_db_error().is_some(),
            }
        };
        tokio::time::timeout(within, ask).await.unwrap_or(false)
    }

    /// Looks for another host if `failed` is still the present one, without keeping its caller.
    pub(super) fn look_beyond_soon(self: &Arc<Self>, failed: &Present) {
        if self.hosts.len() > 1 && self.present().index == failed.index {
            let (hosts, index) = (Arc::clone(self), failed.index);
            tokio::spawn(async move { hosts.look_beyond(index).await });
        }
    }

    /// Asks all hosts at one time; the first in their order that takes writes becomes the present
    /// one. Nothing changes if that is the present one, or if none does.
    async fn look_beyond(&self, failed: usize) {
        let _looking = self.looking.lock().await;
        if self.present().index != failed {
            return;
        }
        let answers = join_all(self.hosts.iter().map(|host| self.takes_writes(host))).await;
        let Some(index) = answers.iter().position(|takes| *takes) else {
            tracing::warn!("no host of the database takes writes");
            return;
        };
        if index == failed {
            return;
        }
        match pool(&self.hosts[index], true, &self.tls, &self.started, &self.served) {
            Ok(pool) => {
                tracing::warn!(from = failed, to = index, "the database is at another host now");
                self.present.send_replace(Present { index, pool }).pool.close();
            }
            Err(error) => tracing::error!(%error, "another host's pool could not be made"),
        }
    }

    async fn takes_writes(&self, host: &Config) -> bool {
        let ask = async {
            let (client, connection) = host.connect(self.tls.clone()).await?;
            let connection = tokio::spawn(connection);
            let row = client.query_one("SELECT NOT pg_is_in_recovery()", &[]).await;
            connection.abort();
            row?.try_get(0)
        };
        matches!(tokio::time::timeout(HOST_WAIT, ask).await, Ok(Ok(true)))
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
) -> Result<Pool> {
    let recycling_method = RecyclingMethod::Fast;
    let manager =
        Manager::from_config(host.clone(), tls.clone(), ManagerConfig { recycling_method });
    let (started, served) = (Arc::clone(started), Arc::clone(served));
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
        .create_timeout(Some(if of_several { HOST_WAIT } else { CONNECTION_WAIT }))
        .runtime(Runtime::Tokio1)
        .post_create(configure)
        .build()
        .map_err(|error| StoreError::Failed(error.to_string()))
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
