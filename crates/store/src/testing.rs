//! A PostgreSQL for tests, and certificates: one throw-away cluster for each test process, a new database for each
//! test.
//!
//! `VFS_SYNC_TEST_POSTGRES_URL` names a server to use instead, whose user may create databases. The
//! module also records the statements that the back ends ran, for tests of their plans.

mod authority;

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio_postgres::{Client, NoTls};

pub use authority::{Authority, Pair};

/// The variable that names a server to use instead.
pub const URL_VARIABLE: &str = "VFS_SYNC_TEST_POSTGRES_URL";

const MISSING: &str =
    "these tests need PostgreSQL: install it (Debian: apt-get install postgresql)";
const READY_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A supervisor script that runs a server, on a TCP port if it is given one. For each signal name
/// that it reads, it stops the server with that signal and starts it again. It ends when its
/// standard input closes, even if this process is killed, and removes everything. The short
/// authentication time-out matters because a stopping server waits for clients that have not
/// authenticated yet.
const SUPERVISOR: &str = r#"
programs=$1 directory=$2 port=$3
start() {
    "$programs/postgres" -D "$directory/data" -c unix_socket_directories="$directory" \
        -c listen_addresses="${port:+127.0.0.1}" -c port="${port:-5432}" \
        -c fsync=off -c max_connections=300 -c log_min_messages=fatal \
        -c shared_buffers=64MB -c authentication_timeout=3s >>"$directory/log" 2>&1 </dev/null &
    server=$!
}
start
while read -r signal; do
    kill "-$signal" $server
    wait $server
    start
done
# One that has only just begun does not hear it, nor one that is frozen.
pkill -CONT -P $server
kill -CONT $server
while kill -INT $server 2>/dev/null; do sleep 0.1; done
rm -rf "$directory"
"#;

/// The origin of a server's data.
enum Source<'a> {
    /// A new cluster, with the text of some files of its data directory.
    New(&'a [(&'a str, &'a str)]),
    /// The server on this port, which is followed.
    Primary(u16),
}

struct Cluster {
    url: String,
    directory: PathBuf,
    /// The supervisor's input, held open as long as the cluster is needed.
    supervisor: Option<ChildStdin>,
}

/// A PostgreSQL server for one test, on a TCP port, that can be restarted.
pub struct PostgresServer {
    cluster: Cluster,
    port: u16,
    pg_isready: PathBuf,
}

impl PostgresServer {
    /// Starts a server for one test.
    ///
    /// # Errors
    /// The missing requirement, with advice.
    pub fn start() -> Result<Self, String> {
        Self::start_from(&Source::New(&[]))
    }

    /// Starts a server that only takes encrypted connections, by this certificate.
    ///
    /// # Errors
    /// The missing requirement, with advice.
    pub fn with_tls(pair: &Pair) -> Result<Self, String> {
        let read = |file: &Path| {
            std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))
        };
        let (certificate, key) = (read(&pair.certificate)?, read(&pair.key)?);
        let access = "local all all trust\nhostssl all all 127.0.0.1/32 trust\n";
        Self::start_from(&Source::New(&[
            ("server.crt", &certificate),
            ("server.key", &key),
            ("pg_hba.conf", access),
            ("postgresql.auto.conf", "ssl = on\n"),
        ]))
    }

    /// Starts a standby of this server, which follows it until it is promoted.
    ///
    /// # Errors
    /// The missing requirement, with advice.
    pub fn standby(&self) -> Result<Self, String> {
        Self::start_from(&Source::Primary(self.port))
    }

    fn start_from(source: &Source<'_>) -> Result<Self, String> {
        let programs = programs().ok_or(MISSING)?;
        let failed = |error: io::Error| format!("PostgreSQL for tests: {error}");
        // Nobody else takes it before the server does, but for great misfortune.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        drop(listener);
        let cluster = Cluster::start_in(&programs, Some(port), source).map_err(failed)?;
        Ok(Self { cluster, port, pg_isready: programs.join("pg_isready") })
    }

    /// Freezes all processes of the server, or lets them go on.
    ///
    /// # Errors
    /// If they cannot be found.
    pub fn freeze(&self, freeze: bool) -> io::Result<()> {
        let started = std::fs::read_to_string(self.cluster.directory.join("data/postmaster.pid"))?;
        let pid = started.lines().next().unwrap_or_default();
        let signal = if freeze { "STOP" } else { "CONT" };
        let script = "kill -$1 $2 && pkill -$1 -P $2";
        let run = Command::new("/bin/sh").args(["-c", script, "sh", signal, pid]).output()?;
        succeeded(&run)
    }

    /// Returns the address on which the server listens.
    #[must_use]
    pub fn address(&self) -> std::net::SocketAddr {
        (std::net::Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Returns the URL of the server's database `name`, reached through `address`.
    #[must_use]
    pub fn url(&self, address: std::net::SocketAddr, name: &str) -> String {
        format!("postgres://vfs@{address}/{name}")
    }

    /// Creates a new, empty database `name`.
    ///
    /// # Errors
    /// The server's error.
    pub async fn create_database(&self, name: &str) -> Result<(), String> {
        create_database(&self.url(self.address(), "postgres"), name).await
    }

    /// Stops the server as an operator does, or as a crash does if it is `at_once`. Then starts it
    /// again, and waits until it accepts connections.
    ///
    /// # Errors
    /// If the server does not start again.
    pub fn restart(&mut self, at_once: bool) -> io::Result<()> {
        let signal: &[u8] = if at_once { b"QUIT\n" } else { b"INT\n" };
        let before = self.started()?;
        let supervisor = self.cluster.supervisor.as_mut();
        supervisor.ok_or_else(|| io::Error::other("no supervisor"))?.write_all(signal)?;
        let until = std::time::Instant::now() + READY_WITHIN;
        while self.started().is_ok_and(|now| now == before) {
            if std::time::Instant::now() > until {
                return Err(io::Error::other("the server does not end"));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        wait_until_ready(&self.pg_isready, &self.cluster.directory, Some(self.port))
    }

    /// Returns the first lines of the server's lock file: its process, and its start time.
    fn started(&self) -> io::Result<String> {
        let file = self.cluster.directory.join("data/postmaster.pid");
        let text = std::fs::read_to_string(file)?;
        Ok(text.lines().take(3).collect())
    }
}

/// Creates a new, empty database and returns its URL.
///
/// # Errors
/// The missing requirement, with advice. A test that needs PostgreSQL fails without it, because a
/// skipped test proves nothing.
pub async fn new_postgres_database() -> Result<String, String> {
    static CLUSTER: OnceLock<Result<Cluster, String>> = OnceLock::new();
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let cluster = CLUSTER.get_or_init(Cluster::start).as_ref().map_err(Clone::clone)?;
    let name = format!("vfs_test_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    create_database(&cluster.url, &name).await?;
    with_database(&cluster.url, &name)
}

/// Connects to the database at `url` until the client is dropped.
///
/// # Errors
/// The server's error.
pub async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    session(url).await.map(|(client, _)| client)
}

/// Connects to the database at `url`. The task ends when the client is dropped and the connection
/// is closed: a server counts a session's statistics when the session ends.
///
/// # Errors
/// The server's error.
pub async fn session(url: &str) -> Result<(Client, Session), tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    Ok((client, tokio::spawn(connection)))
}

/// The task of a connection, with the error that ended it.
pub type Session = tokio::task::JoinHandle<Result<(), tokio_postgres::Error>>;

/// Creates the database `name` on the server at `url`.
async fn create_database(url: &str, name: &str) -> Result<(), String> {
    let failed = |error: tokio_postgres::Error| format!("PostgreSQL for tests: {error}");
    let (client, connection) = session(url).await.map_err(failed)?;
    let made = client.batch_execute(&format!("CREATE DATABASE {name}")).await;
    drop(client);
    let _ = connection.await;
    made.map_err(failed)
}

/// Returns the URL with another database name.
fn with_database(url: &str, name: &str) -> Result<String, String> {
    let (before, parameters) = url.split_once('?').map_or((url, None), |(a, b)| (a, Some(b)));
    let authority = before.find("://").map(|at| at + 3);
    let authority = authority.ok_or_else(|| format!("{URL_VARIABLE} is not a URL"))?;
    let end = before[authority..].find('/').map_or(before.len(), |at| authority + at);
    let parameters = parameters.map_or_else(String::new, |text| format!("?{text}"));
    Ok(format!("{}/{name}{parameters}", &before[..end]))
}

impl Cluster {
    fn start() -> Result<Self, String> {
        if let Ok(url) = std::env::var(URL_VARIABLE) {
            return Ok(Self { url, directory: PathBuf::new(), supervisor: None });
        }
        let programs =
            programs().ok_or_else(|| format!("{MISSING}, or name a server in {URL_VARIABLE}"))?;
        let new = Source::New(&[]);
        Self::start_in(&programs, None, &new)
            .map_err(|error| format!("PostgreSQL for tests: {error}"))
    }

    fn start_in(programs: &Path, port: Option<u16>, source: &Source<'_>) -> io::Result<Self> {
        let own = port.map(|port| format!("-{port}")).unwrap_or_default();
        let name = format!("vfs-sync-pg-{}{own}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory)?;
        // PostgreSQL refuses to run as root.
        let run_as = if id(&["-u"])? == 0 { Some(postgres_user()?) } else { None };
        if let Some((uid, gid)) = run_as {
            chown(&directory, Some(uid), Some(gid))?;
        }
        let command = |program: &Path| {
            let mut command = Command::new(program);
            command.current_dir(&directory);
            if let Some((uid, gid)) = run_as {
                command.uid(uid).gid(gid);
            }
            command
        };
        let data = directory.join("data");
        let made = match source {
            Source::New(_) => command(&programs.join("initdb"))
                .args(["-U", "vfs", "--auth=trust", "--no-sync", "-E", "UTF8", "-D"])
                .arg(&data)
                .output()?,
            Source::Primary(port) => command(&programs.join("pg_basebackup"))
                .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-U", "vfs"])
                .args(["--no-sync", "--checkpoint=fast", "--write-recovery-conf", "-D"])
                .arg(&data)
                .output()?,
        };
        succeeded(&made)?;
        if let Source::New(files) = source {
            for (name, text) in *files {
                let file = data.join(name);
                std::fs::write(&file, text)?;
                std::fs::set_permissions(&file, Permissions::from_mode(0o600))?;
                if let Some((uid, gid)) = run_as {
                    chown(&file, Some(uid), Some(gid))?;
                }
            }
        }
        let mut supervisor = command(Path::new("/bin/sh"))
            .args(["-c", SUPERVISOR, "sh"])
            .args([programs, &directory])
            .arg(port.map(|port| port.to_string()).unwrap_or_default())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        wait_until_ready(&programs.join("pg_isready"), &directory, port)?;
        let host = directory.to_string_lossy().replace('/', "%2F");
        let url = format!("postgres://vfs@{host}/postgres");
        Ok(Self { url, directory, supervisor: supervisor.stdin.take() })
    }
}

/// Waits until `pg_isready` reports that the server accepts connections.
fn wait_until_ready(pg_isready: &Path, directory: &Path, port: Option<u16>) -> io::Result<()> {
    let until = std::time::Instant::now() + READY_WITHIN;
    let port = port.unwrap_or(5432).to_string();
    while std::time::Instant::now() < until {
        let mut ask = Command::new(pg_isready);
        if ask.args(["-q", "-p", &port, "-h"]).arg(directory).status()?.success() {
            return Ok(());
        }
        std::thread::sleep(LOOK_EVERY);
    }
    let log = std::fs::read_to_string(directory.join("log")).unwrap_or_default();
    Err(io::Error::other(format!("the server does not start: {log}")))
}

/// Returns the directory with the newest `initdb`, and PostgreSQL's other programs.
#[must_use]
pub fn programs() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut debian: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|versions| versions.flatten().map(|version| version.path().join("bin")).collect())
        .unwrap_or_default();
    debian.sort();
    let all = debian.into_iter().rev().chain(std::env::split_paths(&path));
    all.into_iter().find(|bin| bin.join("initdb").exists() && bin.join("postgres").exists())
}

fn postgres_user() -> io::Result<(u32, u32)> {
    Ok((id(&["-u", "postgres"])?, id(&["-g", "postgres"])?))
}

fn id(arguments: &[&str]) -> io::Result<u32> {
    let output = Command::new("id").args(arguments).output()?;
    succeeded(&output)?;
    String::from_utf8_lossy(&output.stdout).trim().parse().map_err(io::Error::other)
}

fn succeeded(output: &Output) -> io::Result<()> {
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()))
}

static STATEMENTS: Mutex<BTreeSet<(&str, String)>> = Mutex::new(BTreeSet::new());

/// Records a statement that a back end runs.
pub(crate) fn note_statement(back_end: &'static str, sql: &str) {
    let mut statements = STATEMENTS.lock().unwrap_or_else(PoisonError::into_inner);
    statements.insert((back_end, sql.to_owned()));
}

/// Returns the statements that a back end (`sqlite`, `postgres`) has run so far in this process.
#[must_use]
pub fn statements(back_end: &str) -> Vec<String> {
    let statements = STATEMENTS.lock().unwrap_or_else(PoisonError::into_inner);
    statements.iter().filter(|(of, _)| *of == back_end).map(|(_, sql)| sql.clone()).collect()
}
