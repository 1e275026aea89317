//! Two PostgreSQL servers under Patroni with etcd, a pgbouncer before them, and the lines between
//! all of them.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use vfs_sync_store::testing::{connect, programs};
use vfs_sync_testkit::{Direction, Proxy};

use crate::packages::sample;

/// The name of the database.
pub(super) const DATABASE: &str = "vfs_sync";
/// The time that the parts may take for what they do.
const WITHIN: Duration = Duration::from_secs(60);
/// The time for which a standby has to follow: two looks of its Patroni.
const FOLLOWS_FOR: Duration = Duration::from_secs(2);
/// The pause between two looks at what is waited for.
const PAUSE: Duration = Duration::from_millis(50);

/// Ends everything once its standard input is closed, even if the test is killed. Frozen processes
/// end only by these signals.
const CLEANER: &str = r#"
read -r end
for pid in $(cat "$1/pids"); do kill -9 "$pid" 2>/dev/null; done
for file in "$1"/*/data/postmaster.pid; do
    pid=$(head -n 1 "$file" 2>/dev/null) || continue
    pkill -9 -P "$pid"; kill -9 "$pid" 2>/dev/null
done
rm -rf "$1"
"#;

/// A fault of the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    /// Its PostgreSQL is killed.
    Killed,
    /// Its PostgreSQL and its Patroni are frozen.
    Frozen,
    /// Everybody but one server process is cut off from it.
    CutOff,
    /// Its Patroni is frozen, and its PostgreSQL goes on as if nothing were.
    Orphaned,
}

impl Fault {
    /// Returns whether the former primary takes writes on.
    pub(super) fn splits(self) -> bool {
        matches!(self, Self::CutOff | Self::Orphaned)
    }
}

struct Member {
    directory: PathBuf,
    postgres: SocketAddr,
    rest: SocketAddr,
    patroni: u32,
    /// The lines by which Patroni reaches etcd, and others reach this member.
    to_etcd: Proxy,
    to_rest: Proxy,
    replication: Proxy,
}

/// The whole of it.
pub(super) struct Patroni {
    directory: PathBuf,
    /// The command that runs the programs as another user, if any.
    run_as: Vec<String>,
    etcd: SocketAddr,
    members: Vec<Member>,
    /// From each server process to each member; the last process has pgbouncer instead.
    lines: Vec<Vec<Proxy>>,
    bouncer: SocketAddr,
    /// The address that leads to the primary, as Patroni says.
    follower: Arc<Proxy>,
    following: tokio::task::JoinHandle<()>,
    http: reqwest::Client,
    _cleaner: Option<ChildStdin>,
}

impl Drop for Patroni {
    fn drop(&mut self) {
        self.following.abort();
    }
}

fn free_address() -> SocketAddr {
    std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

fn number_of(command: &[&str]) -> u32 {
    let output = Command::new(command[0]).args(&command[1..]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().parse().unwrap()
}

impl Patroni {
    /// Starts all parts, with lines for `direct` server processes and one behind pgbouncer.
    pub(super) async fn start(direct: usize) -> Self {
        let directory = tempfile::Builder::new().prefix("vfs-sync-ha-").tempdir().unwrap().keep();
        // PostgreSQL refuses to run as root. In a user namespace it is somebody else, who still reads
        // what belongs to root, as the programs may.
        let as_postgres = |what, id| format!("--map-{what}={}", number_of(&["id", id, "postgres"]));
        let run_as = match number_of(&["id", "-u"]) {
            0 => vec![
                "unshare".to_owned(),
                "--user".to_owned(),
                as_postgres("user", "-u"),
                as_postgres("group", "-g"),
            ],
            _ => Vec::new(),
        };
        let cleaner = Command::new("/bin/sh")
            .args(["-c", CLEANER, "sh"])
            .arg(&directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn();
        let cleaner = cleaner.unwrap().stdin.take();
        let [etcd, peers] = [free_address(), free_address()];
        let [first, second] = [free_address(), free_address()];
        let follower = Arc::new(Proxy::to(first).await);
        let mut lines = Vec::new();
        for _ in 0..direct {
            lines.push(vec![Proxy::to(first).await, Proxy::to(second).await]);
        }
        let mut patroni = Self {
            run_as,
            etcd,
            members: Vec::new(),
            lines,
            bouncer: free_address(),
            following: tokio::spawn(async {}),
            follower,
            http: reqwest::Client::builder().timeout(Duration::from_secs(1)).build().unwrap(),
            _cleaner: cleaner,
            directory,
        };
        patroni.start_etcd(peers);
        patroni.until("etcd", async |it| it.leader_key().await.is_some()).await;
        patroni.add("one", first).await;
        patroni.until("a primary", async |it| it.is_primary(0).await).await;
        patroni.add("two", second).await;
        let client = connect(&patroni.url_of(0, "postgres")).await.unwrap();
        client.batch_execute(&format!("CREATE DATABASE {DATABASE}")).await.unwrap();
        patroni.start_bouncer();
        patroni.follow();
        patroni.until_followed(0).await;
        patroni
    }

    /// Makes a directory for one of the programs.
    fn make_directory(&self, name: &str) -> PathBuf {
        let path = self.directory.join(name);
        std::fs::create_dir(&path).unwrap();
        path
    }

    /// Starts a program with its output in a file; returns its id.
    #[allow(clippy::zombie_processes, reason = "the cleaner ends it, after this process")]
    fn spawn(&self, name: &str, program: &str, args: &[&str]) -> u32 {
        let log = File::create(self.directory.join(format!("{name}.log"))).unwrap();
        let mut command = Command::new(self.run_as.first().map_or(program, String::as_str));
        command.args(self.run_as.iter().skip(1));
        if !self.run_as.is_empty() {
            command.arg(program);
        }
        command.args(args).current_dir(&self.directory).env("HOME", &self.directory);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let pid = command.spawn().unwrap().id();
        let pids = File::options().create(true).append(true).open(self.directory.join("pids"));
        std::io::Write::write_all(&mut pids.unwrap(), format!("{pid}\n").as_bytes()).unwrap();
        pid
    }

    fn start_etcd(&self, peers: SocketAddr) {
        let data = self.directory.join("etcd");
        let (clients, peers) = (format!("http://{}", self.etcd), format!("http://{peers}"));
        let cluster = format!("default={peers}");
        let args = [
            ["--data-dir", data.to_str().unwrap()],
            ["--listen-client-urls", &clients],
            ["--advertise-client-urls", &clients],
            ["--listen-peer-urls", &peers],
            ["--initial-advertise-peer-urls", &peers],
            ["--initial-cluster", &cluster],
        ];
        self.spawn("etcd", "etcd", args.as_flattened());
    }

    async fn add(&mut self, name: &str, postgres: SocketAddr) {
        let directory = self.make_directory(name);
        let rest = free_address();
        let to_etcd = Proxy::to(self.etcd).await;
        let to_rest = Proxy::to(rest).await;
        let replication = Proxy::to(postgres).await;
        let path = |name: &str| directory.join(name).display().to_string();
        let bin = programs().unwrap().display().to_string();
        let config = sample(
            "patroni.yml",
            &[
                ("name: one", format!("name: {name}")),
                ("  listen: 10.0.0.1:8008", format!("  listen: {rest}")),
                ("connect_address: 10.0.0.1:8008", {
                    format!("connect_address: {}", to_rest.address())
                }),
                // Without it Patroni asks etcd for its own address, and goes past the line.
                ("10.0.0.11:2379,10.0.0.12:2379,10.0.0.13:2379", {
                    format!("{}\n  use_proxies: true", to_etcd.address())
                }),
                ("on_failover: 1048576", "on_failover: 104857600".into()),
                ("loop_wait: 2", "loop_wait: 1".into()),
                ("retry_timeout: 5", "retry_timeout: 3".into()),
                ("  listen: 10.0.0.1:5432", format!("  listen: {postgres}")),
                ("connect_address: 10.0.0.1:5432", {
                    format!("connect_address: {}", replication.address())
                }),
                ("/var/lib/postgresql/vfs-sync", path("data")),
                ("/usr/lib/postgresql/15/bin", bin),
                ("/var/lib/postgresql/patroni.pgpass", path("pgpass")),
                ("/var/run/postgresql", directory.display().to_string()),
                ("local all all peer", "local all all trust".into()),
                (
                    "host all all 10.0.0.0/24 scram-sha-256",
                    "host all all 127.0.0.1/32 trust".into(),
                ),
                (
                    "host replication replicator 10.0.0.0/24 scram-sha-256",
                    "host replication replicator 127.0.0.1/32 trust".into(),
                ),
                ("mode: automatic", "mode: off".into()),
            ],
        );
        let file = directory.join("patroni.yml");
        std::fs::write(&file, config).unwrap();
        let patroni = self.spawn(name, "patroni", &[file.to_str().unwrap()]);
        let member = Member { directory, postgres, rest, patroni, to_etcd, to_rest, replication };
        self.members.push(member);
    }

    fn start_bouncer(&self) {
        let directory = self.make_directory("pgbouncer");
        let path = |name: &str| directory.join(name).display().to_string();
        let (to, at) = (self.follower.address(), self.bouncer);
        let config = sample(
            "pgbouncer.ini",
            &[
                ("host=10.0.0.10 port=5432", format!("host={} port={}", to.ip(), to.port())),
                ("listen_port = 6432", format!("listen_port = {}", at.port())),
                ("auth_type = scram-sha-256", "auth_type = any\nunix_socket_dir =".into()),
                ("/etc/pgbouncer/userlist.txt", path("userlist.txt")),
                ("/run/pgbouncer/pgbouncer.pid", path("pgbouncer.pid")),
                ("/var/log/pgbouncer/pgbouncer.log", path("pgbouncer.log")),
            ],
        )
        // `any` takes whoever comes for the one user that is named.
        .replace("vfs_sync = ", "vfs_sync = user=postgres ");
        std::fs::write(directory.join("userlist.txt"), "\"postgres\" \"\"\n").unwrap();
        let file = directory.join("pgbouncer.ini");
        std::fs::write(&file, config).unwrap();
        self.spawn("bouncer", "pgbouncer", &[file.to_str().unwrap()]);
    }

    /// Has the address before pgbouncer lead to the primary, as Patroni says by HTTP.
    fn follow(&mut self) {
        let members: Vec<_> = self.members.iter().map(|one| (one.rest, one.postgres)).collect();
        let (follower, http) = (Arc::clone(&self.follower), self.http.clone());
        self.following = tokio::spawn(async move {
            loop {
                let mut newest = None;
                for (rest, postgres) in &members {
                    let Ok(answer) = http.get(format!("http://{rest}/primary")).send().await else {
                        continue;
                    };
                    let is_primary = answer.status() == 200;
                    let state: Value = answer.json().await.unwrap_or_default();
                    if is_primary {
                        newest = newest.max(Some((state["timeline"].as_u64(), *postgres)));
                    }
                }
                if let Some((_, postgres)) = newest {
                    follower.redirect(postgres);
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
    }

    /// Waits for a condition.
    async fn until(&self, what: &str, condition: impl AsyncFn(&Self) -> bool) {
        let until = Instant::now() + WITHIN;
        while !condition(self).await {
            if Instant::now() > until {
                panic!("no {what}: {}", self.logs());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Returns the last lines that each program wrote.
    pub(super) fn logs(&self) -> String {
        let of = |name: &str| {
            let text = std::fs::read_to_string(self.directory.join(name)).unwrap_or_default();
            let lines: Vec<_> = text.lines().rev().take(25).collect();
            format!("\n{name}:\n{}", lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
        };
        ["etcd.log", "one.log", "two.log", "bouncer.log"].map(of).concat()
    }

    /// The URL of each server process's database.
    pub(super) fn databases(&self) -> Vec<String> {
        let hosts = |line: &Vec<Proxy>| {
            let hosts: Vec<_> = line.iter().map(|proxy| proxy.address().to_string()).collect();
            format!("postgres://postgres@{}/{DATABASE}", hosts.join(","))
        };
        let bouncer = format!("postgres://postgres@{}/{DATABASE}", self.bouncer);
        self.lines.iter().map(hosts).chain([bouncer]).collect()
    }

    /// The URL of a database of one member, without any proxy.
    fn url_of(&self, member: usize, database: &str) -> String {
        format!("postgres://postgres@{}/{database}", self.members[member].postgres)
    }

    /// The URL of the database at a member.
    pub(super) fn url(&self, member: usize) -> String {
        self.url_of(member, DATABASE)
    }

    async fn ask<T: for<'a> tokio_postgres::types::FromSql<'a>>(
        &self,
        member: usize,
        query: &str,
    ) -> Option<T> {
        let ask = async {
            let client = connect(&self.url_of(member, "postgres")).await.ok()?;
            client.query_one(query, &[]).await.ok()?.try_get(0).ok()
        };
        tokio::time::timeout(Duration::from_secs(1), ask).await.ok().flatten()
    }

    async fn is_primary(&self, member: usize) -> bool {
        self.ask(member, "SELECT NOT pg_is_in_recovery()").await == Some(true)
    }

    async fn state(&self, member: usize) -> Option<Value> {
        let url = format!("http://{}/patroni", self.members[member].rest);
        self.http.get(url).send().await.ok()?.json().await.ok()
    }

    /// Returns whether the other member follows the primary `member`, on its timeline.
    async fn follows(&self, member: usize) -> bool {
        let query = "SELECT EXISTS (SELECT FROM pg_stat_replication WHERE state = 'streaming' \
                     AND application_name IN ('one', 'two'))";
        let (primary, standby) = (self.state(member).await, self.state(1 - member).await);
        let (Some(primary), Some(standby)) = (primary, standby) else { return false };
        standby["role"] == "replica"
            && standby["replication_state"] == "streaming"
            && standby["timeline"] == primary["timeline"]
            && self.ask(member, query).await == Some(true)
    }

    /// Waits until the other member follows the primary, and goes on with it: Patroni may look a
    /// moment later and begin to rewind it.
    async fn until_followed(&self, member: usize) {
        let until = Instant::now() + WITHIN;
        let mut since = None;
        while since.is_none_or(|since: Instant| since.elapsed() < FOLLOWS_FOR) {
            assert!(Instant::now() < until, "no standby that follows: {}", self.logs());
            let follows = self.follows(member).await;
            since = follows.then(|| since.unwrap_or_else(Instant::now));
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Returns which member is the primary.
    pub(super) async fn primary(&self) -> usize {
        for member in 0..self.members.len() {
            if self.is_primary(member).await {
                return member;
            }
        }
        panic!("no primary: {}", self.logs())
    }

    /// Has commits wait for the standby, or not.
    pub(super) async fn set_synchronous(&self, synchronous: bool) {
        let primary = self.primary().await;
        let config = json!({ "synchronous_mode": synchronous });
        let url = format!("http://{}/config", self.members[primary].rest);
        let answer = self.http.patch(url).json(&config).send().await.unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
        let query = "SELECT (current_setting('synchronous_standby_names') <> '') = EXISTS \
                     (SELECT FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')) \
                     AND (current_setting('synchronous_standby_names') <> '')";
        let waits = async |it: &Self| it.ask(primary, query).await == Some(synchronous);
        self.until("change of the mode", waits).await;
        if synchronous {
            // Only a standby that Patroni has noted as synchronous may take over.
            let noted = async |it: &Self| {
                let standby = it.value("sync").await.and_then(|sync| {
                    let sync: Value = serde_json::from_slice(&sync).ok()?;
                    Some(sync["sync_standby"].as_str()?.to_owned())
                });
                standby.is_some_and(|standby| !standby.is_empty())
            };
            self.until("synchronous standby", noted).await;
        }
    }

    async fn etcd(&self, call: &str, key: &str) -> Option<Value> {
        let body = json!({ "key": STANDARD.encode(format!("/service/vfs-sync/{key}")) });
        let url = format!("http://{}/v3/kv/{call}", self.etcd);
        self.http.post(url).json(&body).send().await.ok()?.json().await.ok()
    }

    async fn value(&self, key: &str) -> Option<Vec<u8>> {
        let value = self.etcd("range", key).await?;
        STANDARD.decode(value["kvs"][0]["value"].as_str()?).ok()
    }

    async fn leader_key(&self) -> Option<Value> {
        self.etcd("range", "leader").await
    }

    /// Holds back what the primary sends to its standby.
    pub(super) fn hold_replication(&self, primary: usize) {
        self.members[primary].replication.hold(Direction::Back);
    }

    /// Injects a fault of the primary, in the moment in which its lease in etcd ends too. Nothing of
    /// what was held back from the standby arrives.
    pub(super) async fn fail(&self, primary: usize, fault: Fault) {
        let member = &self.members[primary];
        match fault {
            Fault::Killed => self.signal_postgres(primary, "KILL"),
            Fault::Frozen => {
                signal(member.patroni, "STOP");
                self.signal_postgres(primary, "STOP");
            }
            Fault::Orphaned => signal(member.patroni, "STOP"),
            Fault::CutOff => {
                for line in [&member.to_etcd, &member.to_rest] {
                    line.hold(Direction::Forth);
                    line.hold(Direction::Back);
                }
                for line in &self.lines[1..] {
                    line[primary].hold(Direction::Forth);
                    line[primary].hold(Direction::Back);
                }
            }
        }
        member.replication.cut();
        if fault.splits() {
            self.lines[0][1 - primary].cut();
        }
        if fault != Fault::Killed {
            // As the time of 20 seconds would.
            self.etcd("deleterange", "leader").await.unwrap();
        }
    }

    /// Waits until the standby of `former` takes writes.
    pub(super) async fn succeeded(&self, former: usize) -> usize {
        let successor = 1 - former;
        self.until("successor", async |it| it.is_primary(successor).await).await;
        successor
    }

    /// Has every server process reach the primary.
    pub(super) fn heal_lines(&self) {
        for line in self.lines.iter().flatten() {
            line.heal();
        }
    }

    /// Ends all faults, and waits until the former primary follows its successor.
    pub(super) async fn heal(&self, former: usize) {
        self.heal_lines();
        let member = &self.members[former];
        for line in [&member.to_etcd, &member.to_rest, &member.replication] {
            line.cut();
            line.heal();
        }
        self.signal_postgres(former, "CONT");
        signal(member.patroni, "CONT");
        self.until_followed(1 - former).await;
    }

    fn signal_postgres(&self, member: usize, name: &str) {
        let file = self.members[member].directory.join("data/postmaster.pid");
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let Some(pid) = text.lines().next() else { return };
        let script = match name {
            "CONT" => "pkill -CONT -P $1; kill -CONT $1",
            _ => "kill -$0 $1; pkill -$0 -P $1",
        };
        // One that has ended meanwhile gets no signal.
        let _ = Command::new("/bin/sh").args(["-c", script, name, pid]).output().unwrap();
    }
}

fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status();
    assert!(sent.unwrap().success());
}
