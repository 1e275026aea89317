//! The setting of crash tests: a server that can be killed, replicas, and trees of files that can
//! be compared.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::support::ServerProcess;
use vfs_sync_testkit::{Random, number, seed};

const SECRET: &str = "only for tests: at least thirty-two bytes";

/// A server and the replicas of one user, in a temporary directory.
pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    url: String,
    /// The server's address, once it was started.
    address: String,
    server: Option<ServerProcess>,
    pub(crate) token: String,
    /// More variables for every command.
    variables: Vec<(&'static str, String)>,
}

impl World {
    /// With a running server.
    pub(crate) fn new() -> Self {
        Self::with(Vec::new())
    }

    /// With a running server, and more variables for every command.
    pub(crate) fn with(variables: Vec<(&'static str, String)>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (url, address, token) = (String::new(), "127.0.0.1:0".to_owned(), String::new());
        let mut world = Self { dir, url, address, server: None, token, variables };
        let token = world.command(&["token", "--user", "alice"]).output().unwrap();
        assert!(token.status.success(), "{token:?}");
        world.token = String::from_utf8(token.stdout).unwrap().trim().to_owned();
        world.start_server();
        world
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vfs-sync"));
        command
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.dir.path())
            .env("RUST_LOG", "error")
            .env("VFS_SYNC_JWT_SECRET", SECRET)
            .env("VFS_SYNC_TOKEN", &self.token)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }

    /// Starts the server, where it was before, and waits until it takes connections.
    pub(crate) fn start_server(&mut self) {
        let binary = || self.command(&[]);
        let server = ServerProcess::start(binary, &self.address, &self.path("server"));
        (self.url, self.address) = (server.url().to_owned(), server.address().to_owned());
        self.server = Some(server);
    }

    /// Kills the server with `kill -9`.
    pub(crate) fn kill_server(&mut self) {
        drop(self.server.take().expect("the server runs"));
    }

    /// Runs a command on a replica and waits for it.
    pub(crate) fn run(&self, replica: &str, args: &[&str]) -> Output {
        self.on(replica, args).output().unwrap()
    }

    /// A command on a replica, not started.
    pub(crate) fn on(&self, replica: &str, args: &[&str]) -> Command {
        let mut command = self.command(&["--replica", self.path(replica).to_str().unwrap()]);
        command.args(args);
        command
    }

    /// Runs a command on a replica that must succeed; gives what it printed.
    pub(crate) fn ok(&self, replica: &str, args: &[&str]) -> String {
        let output = self.run(replica, args);
        assert!(
            output.status.success(),
            "{args:?}: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn init(&self, replica: &str) {
        self.ok(replica, &["init", "--server", &self.url()]);
    }

    /// Exports a replica to a new directory and gives its tree.
    pub(crate) fn exported(&self, replica: &str, to: &str) -> Tree {
        let to = self.path(to);
        self.ok(replica, &["export", to.to_str().unwrap()]);
        tree(&to)
    }
}

/// A directory's files by path: content, execute bit and modification time; of folders nothing.
pub(crate) type Tree = BTreeMap<PathBuf, Option<(Vec<u8>, bool, i64)>>;

pub(crate) fn tree(root: &Path) -> Tree {
    let mut found = Tree::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let metadata = path.symlink_metadata().unwrap();
            let name = path.strip_prefix(root).unwrap().to_path_buf();
            if metadata.is_dir() {
                found.insert(name, None);
                open.push(path);
            } else {
                let time = metadata.modified().unwrap();
                let millis = time.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
                let executable = metadata.permissions().mode() & 0o100 != 0;
                let content = std::fs::read(&path).unwrap();
                found.insert(name, Some((content, executable, i64::try_from(millis).unwrap())));
            }
        }
    }
    found
}

/// Random numbers of the test's seed, which it prints.
pub(crate) fn seeded(test: &str) -> Random {
    let seed = seed();
    println!("{test}: VFS_SYNC_TEST_SEED={seed}");
    Random::new(seed)
}

/// The number of kills of a crash test: `VFS_SYNC_TEST_KILLS`, or 200.
pub(crate) fn kills() -> u64 {
    number("VFS_SYNC_TEST_KILLS").unwrap_or(200)
}
