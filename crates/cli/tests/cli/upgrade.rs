//! Servers are replaced one after another by those of another version while files come in, and put
//! back.
//!
//! `VFS_SYNC_TEST_PREVIOUS` names the program of the version before; `scripts/upgrade-test` builds it
//! and runs this. Without it this version stands for both: what a later one leaves in the database
//! for it is put there.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use vfs_sync_store::testing::{connect, new_postgres_database};

use crate::processes::cluster::Cluster;
use crate::support::{Ran, tree_of};

const SERVERS: usize = 2;
const USERS: [&str; 3] = ["alice", "bob", "carol"];
/// The devices that keep the version before; the others get the new one after the servers.
const OLD_DEVICES: usize = 1;
/// Synchronisations of each device between two steps.
const SYNCS: u64 = 2;
const WITHIN: Duration = Duration::from_secs(120);
/// What a later version may leave behind, if programs of this one work on it.
const LATER: &str = "INSERT INTO schema_version VALUES (1000, 0); \
    ALTER TABLE realms ADD COLUMN later TEXT; \
    CREATE TABLE later (id TEXT)";
const LATER_GONE: &str = "DELETE FROM schema_version WHERE version = 1000; \
    ALTER TABLE realms DROP COLUMN later; \
    DROP TABLE later";

/// A device that takes files in and synchronises, by a program that may be replaced.
struct Device {
    user: &'static str,
    directory: tempfile::TempDir,
    program: Mutex<PathBuf>,
    syncs: AtomicU64,
    stop: AtomicBool,
}

impl Device {
    fn new(cluster: &Cluster, number: usize, user: &'static str, program: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("token"), Cluster::token(user, None)).unwrap();
        std::fs::create_dir(directory.path().join("files")).unwrap();
        let program = Mutex::new(program.to_owned());
        let (syncs, stop) = (AtomicU64::new(0), AtomicBool::new(false));
        let device = Self { user, directory, program, syncs, stop };
        let server = cluster.url(number % SERVERS);
        device.run(&["init", "--server", &server, "--token-file", "token"]).expect(0);
        device
    }

    fn run(&self, args: &[&str]) -> Ran {
        let program = self.program.lock().unwrap().clone();
        let mut command = Cluster::command_of(&program);
        command.current_dir(self.directory.path()).args(["--replica", "replica"]).args(args);
        command.stdin(Stdio::null()).output().unwrap().into()
    }

    /// Synchronises; the server may be down, as it is being replaced.
    fn sync(&self) -> bool {
        let ran = self.run(&["sync"]);
        assert!(matches!(ran.code, 0 | 4), "{}: {ran:#?}", self.user);
        ran.code == 0
    }

    fn work(&self) {
        let mut files = 0;
        while !self.stop.load(Ordering::Relaxed) {
            files += 1;
            let file = |number: u64| {
                let name = format!("files/{} {}", number % 20, number % 7);
                self.directory.path().join(name)
            };
            std::fs::write(file(files), format!("{} {files}", self.user)).unwrap();
            if files % 5 == 0 {
                std::fs::remove_file(file(files - 2)).unwrap();
            }
            self.run(&["import", "files", "/files", "--delete"]).expect(0);
            if self.sync() {
                self.syncs.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Waits until each device has synchronised some more times.
fn wait(devices: &[Arc<Device>]) {
    let until = Instant::now() + WITHIN;
    for device in devices {
        let enough = device.syncs.load(Ordering::Relaxed) + SYNCS;
        while device.syncs.load(Ordering::Relaxed) < enough {
            assert!(Instant::now() < until, "{} does not get on", device.user);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Examines everything; returns the checks with a problem, but for what the tests' PostgreSQL is.
fn problems(cluster: &Cluster, database: &str, more: &[&str]) -> Vec<String> {
    let mut command = Cluster::command();
    command.env("VFS_SYNC_DATABASE_URL", database);
    command.args(["--json", "admin", "doctor", "--all", "--data"]).arg(cluster.data()).args(more);
    let output = command.output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let checks = report["checks"].as_array().unwrap().iter();
    let found = checks.filter(|one| one["outcome"] == "problem");
    let found = found.filter(|one| one["id"] != "database.durability");
    found.map(|one| format!("{}: {}", one["id"], one["summary"])).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL"]
async fn servers_and_devices_are_upgraded_and_put_back_under_load() {
    let new = Path::new(env!("CARGO_BIN_EXE_vfs-sync"));
    let previous = std::env::var_os("VFS_SYNC_TEST_PREVIOUS").map(PathBuf::from);
    let old = previous.as_deref().unwrap_or(new);
    let database = new_postgres_database().await.unwrap();
    let cluster =
        tokio::task::block_in_place(|| Cluster::start_as(old, &vec![database.clone(); SERVERS]));
    if previous.is_none() {
        connect(&database).await.unwrap().batch_execute(LATER).await.unwrap();
    }
    let devices = tokio::task::block_in_place(|| upgrade_and_back(&cluster, old, new));
    if previous.is_none() {
        connect(&database).await.unwrap().batch_execute(LATER_GONE).await.unwrap();
    }
    tokio::task::block_in_place(|| check(&cluster, &database, new, &devices));
}

/// Replaces the servers one after another, then devices, and puts the servers back.
fn upgrade_and_back(cluster: &Cluster, old: &Path, new: &Path) -> Vec<Arc<Device>> {
    let devices: Vec<_> =
        (0..USERS.len()).map(|at| Arc::new(Device::new(cluster, at, USERS[at], old))).collect();
    let working: Vec<_> = devices
        .iter()
        .map(|device| {
            let device = Arc::clone(device);
            std::thread::spawn(move || device.work())
        })
        .collect();
    wait(&devices);
    // The first new one migrates the database under the other.
    for server in 0..SERVERS {
        cluster.replace(server, new);
        wait(&devices);
    }
    for device in &devices[OLD_DEVICES..] {
        new.clone_into(&mut device.program.lock().unwrap());
    }
    wait(&devices);
    for server in 0..SERVERS {
        cluster.replace(server, old);
        wait(&devices);
    }
    devices.iter().for_each(|device| device.stop.store(true, Ordering::Relaxed));
    for working in working {
        working.join().unwrap();
    }
    devices
}

/// Fails unless everything is there, for new devices too, and nothing is wrong in the database.
fn check(cluster: &Cluster, database: &str, new: &Path, devices: &[Arc<Device>]) {
    for (at, device) in devices.iter().enumerate() {
        assert!(device.sync(), "{}", device.user);
        let fresh = Device::new(cluster, at + 1, device.user, new);
        assert!(fresh.sync());
        fresh.run(&["export", "copy", "/files"]).expect(0);
        let copy = tree_of(&fresh.directory.path().join("copy"));
        assert_eq!(copy, tree_of(&device.directory.path().join("files")), "{}", device.user);
    }
    cluster.check();
    // What old servers wrote on the new schema may leave numbers to be counted again, nothing else.
    let found = problems(cluster, database, &[]);
    let only_counts = found.iter().all(|one| one.starts_with("\"state.counts\""));
    assert!(only_counts, "{found:#?}");
    assert_eq!(problems(cluster, database, &["--fix"]), [""; 0]);
    cluster.terminate();
}
