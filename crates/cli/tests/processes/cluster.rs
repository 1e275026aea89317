//! Server processes over one PostgreSQL database and one directory of blobs, and the line from a
//! device to all of them.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use serde_json::Value;
use vfs_sync_client::transport::{Answer, Call, CallHandler};
use vfs_sync_client::{HttpConfig, HttpTransport, StaticToken, TransportError};
use vfs_sync_testkit::Random;

const SECRET: &str = "only for tests: at least thirty-two bytes";
/// How often a killed server is tried again where it was, should its port be taken meanwhile.
const STARTS: u32 = 20;

pub(crate) struct Cluster {
    dir: tempfile::TempDir,
    database: String,
    servers: Vec<Server>,
}

struct Server {
    child: Mutex<Option<Child>>,
    address: String,
    /// Odd while it is down.
    changes: AtomicU64,
}

impl Cluster {
    pub(crate) fn start(database: String, servers: usize) -> Self {
        let mut cluster = Self { dir: tempfile::tempdir().unwrap(), database, servers: Vec::new() };
        for _ in 0..servers {
            let (child, address) = cluster.spawn("127.0.0.1:0").expect("a server starts");
            let (child, changes) = (Mutex::new(Some(child)), AtomicU64::new(0));
            cluster.servers.push(Server { child, address, changes });
        }
        cluster
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vfs-sync"));
        command
            .env_clear()
            .env("RUST_LOG", "error")
            .env("VFS_SYNC_JWT_SECRET", SECRET)
            .env("VFS_SYNC_DATABASE_URL", &self.database)
            .stdin(Stdio::null());
        command
    }

    /// A server that listens, and where; `None` if it ended at once.
    fn spawn(&self, listen: &str) -> Option<(Child, String)> {
        let mut child = self
            .command()
            .args(["--json", "serve", "--listen", listen, "--data"])
            .arg(self.dir.path().join("server"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        if line.is_empty() {
            child.wait().unwrap();
            return None;
        }
        let event: Value = serde_json::from_str(&line).unwrap();
        let url = event["url"].as_str().unwrap();
        Some((child, url.strip_prefix("http://").unwrap().to_owned()))
    }

    /// `kill -9`.
    pub(crate) fn kill(&self, server: usize) {
        let server = &self.servers[server];
        let mut child = server.child.lock().unwrap().take().expect("the server runs");
        server.changes.fetch_add(1, Ordering::SeqCst);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub(crate) fn start_again(&self, server: usize) {
        let server = &self.servers[server];
        let started = (0..STARTS).find_map(|_| self.spawn(&server.address));
        *server.child.lock().unwrap() = Some(started.expect("a server starts").0);
        server.changes.fetch_add(1, Ordering::SeqCst);
    }

    /// Ends all of them as an operator does; each must end well.
    pub(crate) fn terminate(&self) {
        for server in &self.servers {
            let mut child = server.child.lock().unwrap().take().expect("the server runs");
            let sent = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
            assert!(sent.unwrap().success());
            assert!(child.wait().unwrap().success());
        }
    }

    pub(crate) fn url(&self, server: usize) -> String {
        format!("http://{}", self.servers[server].address)
    }

    pub(crate) fn token(&self, user: &str, scope: Option<&str>) -> String {
        let mut command = self.command();
        command.args(["token", "--user", user]);
        if let Some(scope) = scope {
            command.args(["--scope", scope]);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for server in &self.servers {
            if let Some(mut child) = server.child.lock().ok().and_then(|mut child| child.take()) {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

/// Sends each call to any one of the servers, whatever it sent to which before. A call that fails
/// although its server was up the whole time fails the test.
pub(crate) struct Line {
    cluster: Arc<Cluster>,
    to: Vec<HttpTransport>,
    random: Mutex<Random>,
}

impl Line {
    pub(crate) fn new(cluster: &Arc<Cluster>, user: &str, random: Random) -> Self {
        let token = StaticToken::new(cluster.token(user, None));
        let transport = |server| {
            HttpTransport::new(HttpConfig::new(cluster.url(server)), token.clone()).unwrap()
        };
        let to = (0..cluster.servers.len()).map(transport).collect();
        Self { cluster: Arc::clone(cluster), to, random: Mutex::new(random) }
    }

    fn any(&self) -> (usize, u64) {
        let server = self.random.lock().unwrap().below(self.to.len());
        (server, self.cluster.servers[server].changes.load(Ordering::SeqCst))
    }

    fn check<T>(
        &self,
        (server, before): (usize, u64),
        outcome: Result<T, TransportError>,
    ) -> Result<T, TransportError> {
        if let Err(error) = &outcome {
            let changes = self.cluster.servers[server].changes.load(Ordering::SeqCst);
            let was_up = before == changes && before.is_multiple_of(2);
            let server_failed = error.is_transient()
                || matches!(error, TransportError::Refused { status, .. } if *status >= 500);
            assert!(!(was_up && server_failed), "server {server} was up: {error}");
        }
        outcome
    }
}

#[async_trait]
impl CallHandler for Line {
    async fn handle(&self, call: Call) -> Result<Answer, TransportError> {
        let chosen = self.any();
        let answer = call.send(&self.to[chosen.0]).await;
        match self.check(chosen, answer)? {
            Answer::BlobBatch(results) => {
                let results = results.into_iter().map(|result| self.check(chosen, result));
                Ok(Answer::BlobBatch(results.collect()))
            }
            answer => Ok(answer),
        }
    }
}
