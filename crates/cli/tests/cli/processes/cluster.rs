//! Server processes over one PostgreSQL database and one directory of blobs, and the line from a
//! device to all of them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use vfs_sync_client::transport::{Answer, Call};
use vfs_sync_client::{Device, HttpConfig, HttpTransport, StaticToken, Transport, TransportError};
use vfs_sync_core::id::UserId;
use vfs_sync_testkit::Random;

use crate::support::ServerProcess;

const PROGRAM: &str = env!("CARGO_BIN_EXE_vfs-sync");
const SECRET: &str = "only for tests: at least thirty-two bytes";

pub(crate) struct Cluster {
    dir: tempfile::TempDir,
    servers: Vec<Server>,
}

struct Server {
    process: Mutex<Option<ServerProcess>>,
    program: Mutex<PathBuf>,
    database: String,
    url: String,
    address: String,
    /// Odd while it is down.
    changes: AtomicU64,
}

impl Cluster {
    /// A server for each of `databases`, the ways to the one database.
    pub(crate) fn start(databases: &[String]) -> Self {
        Self::start_as(Path::new(PROGRAM), databases)
    }

    /// The same, of a program of another version.
    pub(crate) fn start_as(program: &Path, databases: &[String]) -> Self {
        let mut cluster = Self { dir: tempfile::tempdir().unwrap(), servers: Vec::new() };
        for database in databases {
            let process = cluster.spawn(program, database, "127.0.0.1:0");
            cluster.servers.push(Server {
                url: process.url().to_owned(),
                address: process.address().to_owned(),
                process: Mutex::new(Some(process)),
                program: Mutex::new(program.to_owned()),
                database: database.clone(),
                changes: AtomicU64::new(0),
            });
        }
        cluster
    }

    /// The directory of the servers' contents.
    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("server")
    }

    pub(crate) fn len(&self) -> usize {
        self.servers.len()
    }

    /// Returns the program in the environment of the servers.
    pub(crate) fn command() -> Command {
        Self::command_of(Path::new(PROGRAM))
    }

    pub(crate) fn command_of(program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("RUST_LOG", "error")
            .env("VFS_SYNC_JWT_SECRET", SECRET)
            .stdin(Stdio::null());
        command
    }

    fn spawn(&self, program: &Path, database: &str, listen: &str) -> ServerProcess {
        let binary = || {
            let mut command = Self::command_of(program);
            // What it says of a network that fails on purpose is nobody's business.
            command.env("VFS_SYNC_DATABASE_URL", database).stderr(Stdio::null());
            command
        };
        ServerProcess::start(binary, listen, &self.data())
    }

    /// Kills a server with `kill -9`.
    pub(crate) fn kill(&self, server: usize) {
        let server = &self.servers[server];
        let process = server.process.lock().unwrap().take().expect("the server runs");
        server.changes.fetch_add(1, Ordering::SeqCst);
        drop(process);
    }

    pub(crate) fn start_again(&self, server: usize) {
        let server = &self.servers[server];
        let program = server.program.lock().unwrap().clone();
        let started = self.spawn(&program, &server.database, &server.address);
        *server.process.lock().unwrap() = Some(started);
        server.changes.fetch_add(1, Ordering::SeqCst);
    }

    /// Ends a server as an operator does, and starts another program in its place.
    pub(crate) fn replace(&self, server: usize, program: &Path) {
        let at = &self.servers[server];
        let process = at.process.lock().unwrap().take().expect("the server runs");
        at.changes.fetch_add(1, Ordering::SeqCst);
        assert!(process.terminate().success());
        program.clone_into(&mut at.program.lock().unwrap());
        self.start_again(server);
    }

    /// Sends a signal to a server that runs.
    pub(crate) fn signal(&self, server: usize, name: &str) {
        let process = self.servers[server].process.lock().unwrap();
        process.as_ref().expect("the server runs").signal(name);
    }

    /// Fails if a server ended that nobody killed.
    pub(crate) fn check(&self) {
        for server in &self.servers {
            let ended = server.process.lock().unwrap().as_mut().and_then(ServerProcess::ended);
            assert_eq!(ended, None, "a server ended by itself");
        }
    }

    /// Ends all of them as an operator does; each must end well.
    pub(crate) fn terminate(&self) {
        for server in &self.servers {
            let process = server.process.lock().unwrap().take().expect("the server runs");
            assert!(process.terminate().success());
        }
    }

    pub(crate) fn url(&self, server: usize) -> String {
        self.servers[server].url.clone()
    }

    pub(crate) fn address(&self, server: usize) -> SocketAddr {
        self.servers[server].address.parse().unwrap()
    }

    pub(crate) fn token(user: &str, scope: Option<&str>) -> String {
        let mut command = Self::command();
        command.args(["token", "--user", user]);
        if let Some(scope) = scope {
            command.args(["--scope", scope]);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

/// Sends each call to any one of the servers, whatever it sent to which before.
pub(crate) struct Line {
    to: Vec<HttpTransport>,
    random: Mutex<Random>,
    /// Set where the line leads to its servers without a faulty component: then a call that fails
    /// although its server was up the whole time fails the test.
    cluster: Option<Arc<Cluster>>,
}

impl Line {
    pub(crate) fn new(cluster: &Arc<Cluster>, user: &str, random: Random) -> Self {
        let urls = (0..cluster.len()).map(|server| cluster.url(server));
        let to = transports(urls, user, |_| {});
        Self { to, random: Mutex::new(random), cluster: Some(Arc::clone(cluster)) }
    }

    /// By way of `urls`, where anything may happen.
    pub(crate) fn through(urls: impl Iterator<Item = String>, user: &str, random: Random) -> Self {
        let to = transports(urls, user, |config| {
            config.connect_timeout = Duration::from_secs(1);
            config.request_timeout = Duration::from_secs(2);
            config.idle_timeout = Duration::from_secs(2);
        });
        Self { to, random: Mutex::new(random), cluster: None }
    }

    fn changes(&self, server: usize) -> Option<u64> {
        let cluster = self.cluster.as_ref()?;
        Some(cluster.servers[server].changes.load(Ordering::SeqCst))
    }

    fn check<T>(
        &self,
        (server, before): (usize, Option<u64>),
        outcome: Result<T, TransportError>,
    ) -> Result<T, TransportError> {
        if let (Err(error), Some(before)) = (&outcome, before) {
            let was_up = self.changes(server) == Some(before) && before.is_multiple_of(2);
            let server_failed = error.is_transient()
                || matches!(error, TransportError::Refused { status, .. } if *status >= 500);
            assert!(!(was_up && server_failed), "server {server} was up: {error}");
        }
        outcome
    }
}

fn transports(
    urls: impl Iterator<Item = String>,
    user: &str,
    configure: impl Fn(&mut HttpConfig),
) -> Vec<HttpTransport> {
    let token = StaticToken::new(Cluster::token(user, None));
    urls.map(|url| {
        let mut config = HttpConfig::new(url);
        configure(&mut config);
        HttpTransport::new(config, token.clone()).unwrap()
    })
    .collect()
}

#[async_trait]
impl Transport for Line {
    fn bind_user(&self, user: &UserId) -> Result<(), UserId> {
        self.to.iter().try_for_each(|to| to.bind_user(user))
    }

    fn bind_device(&self, device: &Arc<Device>) {
        self.to.iter().for_each(|to| to.bind_device(device));
    }

    async fn call(&self, call: Call) -> Result<Answer, TransportError> {
        let server = self.random.lock().unwrap().below(self.to.len());
        let chosen = (server, self.changes(server));
        let answer = self.to[server].call(call).await;
        match self.check(chosen, answer)? {
            Answer::BlobBatch(results) => {
                let results = results.into_iter().map(|result| self.check(chosen, result));
                Ok(Answer::BlobBatch(results.collect()))
            }
            answer => Ok(answer),
        }
    }
}
