//! A PostgreSQL for tests: one throw-away cluster for each test process, a new database for each
//! test.
//!
//! `VFS_SYNC_TEST_POSTGRES_URL` names a server to use instead, whose user may create databases.
//! And the statements that the back ends ran, for tests of their plans.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use tokio_postgres::NoTls;

/// Names the server to use, where there is one.
pub const URL_VARIABLE: &str = "VFS_SYNC_TEST_POSTGRES_URL";

/// Ends when its standard input does, however this process ends; then nothing of it is left.
const SUPERVISOR: &str = r#"
"$1/postgres" -D "$2/data" -c listen_addresses= -c unix_socket_directories="$2" \
    -c fsync=off -c max_connections=300 -c log_min_messages=fatal \
    -c shared_buffers=64MB >"$2/log" 2>&1 </dev/null &
server=$!
cat >/dev/null
kill -INT $server
wait $server
rm -rf "$2"
"#;

struct Cluster {
    url: String,
    /// Held open as long as the cluster is wanted.
    _supervisor: Option<ChildStdin>,
}

/// Makes a new, empty database and gives its URL.
///
/// # Errors
/// What is missing, and what to do about it. A test that needs PostgreSQL fails without it: a test
/// that skips itself says nothing.
pub async fn new_postgres_database() -> Result<String, String> {
    static CLUSTER: OnceLock<Result<Cluster, String>> = OnceLock::new();
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let cluster = CLUSTER.get_or_init(Cluster::start).as_ref().map_err(Clone::clone)?;
    let name = format!("vfs_test_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let failed = |error: tokio_postgres::Error| format!("PostgreSQL for tests: {error}");
    let (client, connection) =
        tokio_postgres::connect(&cluster.url, NoTls).await.map_err(failed)?;
    let connection = tokio::spawn(connection);
    let made = client.batch_execute(&format!("CREATE DATABASE {name}")).await;
    drop(client);
    let _ = connection.await;
    made.map_err(failed)?;
    with_database(&cluster.url, &name)
}

/// The URL with another database in it.
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
            return Ok(Self { url, _supervisor: None });
        }
        let programs = programs().ok_or_else(|| {
            format!(
                "these tests need PostgreSQL: install it (Debian: apt-get install postgresql), \
                 or name a server in {URL_VARIABLE}"
            )
        })?;
        Self::start_in(&programs).map_err(|error| format!("PostgreSQL for tests: {error}"))
    }

    fn start_in(programs: &Path) -> io::Result<Self> {
        let name = format!("vfs-sync-pg-{}", std::process::id());
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
        let made = command(&programs.join("initdb"))
            .args(["-U", "vfs", "--auth=trust", "--no-sync", "-E", "UTF8", "-D"])
            .arg(directory.join("data"))
            .output()?;
        succeeded(&made)?;
        let mut supervisor = command(Path::new("/bin/sh"))
            .args(["-c", SUPERVISOR, "sh"])
            .args([programs, &directory])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        wait_until_ready(&programs.join("pg_isready"), &directory)?;
        let host = directory.to_string_lossy().replace('/', "%2F");
        let url = format!("postgres://vfs@{host}/postgres");
        Ok(Self { url, _supervisor: supervisor.stdin.take() })
    }
}

/// `pg_isready` answers as soon as the server takes connections, or that it does not yet.
fn wait_until_ready(pg_isready: &Path, directory: &Path) -> io::Result<()> {
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while std::time::Instant::now() < until {
        let asked = Command::new(pg_isready).arg("-q").arg("-h").arg(directory).status()?;
        if asked.success() {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let log = std::fs::read_to_string(directory.join("log")).unwrap_or_default();
    Err(io::Error::other(format!("the server does not start: {log}")))
}

/// The directory with the newest `initdb`.
fn programs() -> Option<PathBuf> {
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

/// Notes a statement that a back end runs.
pub(crate) fn note_statement(back_end: &'static str, sql: &str) {
    let mut statements = STATEMENTS.lock().unwrap_or_else(PoisonError::into_inner);
    statements.insert((back_end, sql.to_owned()));
}

/// The statements that a back end (`sqlite`, `postgres`) ran so far in this process.
#[must_use]
pub fn statements(back_end: &str) -> Vec<String> {
    let statements = STATEMENTS.lock().unwrap_or_else(PoisonError::into_inner);
    statements.iter().filter(|(of, _)| *of == back_end).map(|(_, sql)| sql.clone()).collect()
}
