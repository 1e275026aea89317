//! What the tests of the built binary stand on: a server that can be killed, replicas, and trees
//! of files that can be compared.

use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const SECRET: &str = "only for tests: at least thirty-two bytes";

/// A server and the replicas of one user, in a temporary directory.
pub struct World {
    pub dir: tempfile::TempDir,
    pub port: u16,
    server: Option<Child>,
    pub token: String,
    /// More variables for every command.
    variables: Vec<(&'static str, String)>,
}

impl World {
    /// With a running server.
    pub fn new() -> Self {
        Self::with(Vec::new())
    }

    /// With a running server, and more variables for every command.
    pub fn with(variables: Vec<(&'static str, String)>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut world = Self { dir, port, server: None, token: String::new(), variables };
        let token = world.command(&["token", "--user", "alice"]).output().unwrap();
        assert!(token.status.success(), "{token:?}");
        world.token = String::from_utf8(token.stdout).unwrap().trim().to_owned();
        world.start_server();
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn command(&self, args: &[&str]) -> Command {
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

    /// Starts the server and waits until it takes connections.
    pub fn start_server(&mut self) {
        let listen = format!("127.0.0.1:{}", self.port);
        let data = self.path("server");
        let child = self
            .command(&["serve", "--listen", &listen, "--data", data.to_str().unwrap()])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        self.server = Some(child);
        self.wait_for_server();
    }

    fn wait_for_server(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let ended = self.server.as_mut().and_then(|child| child.try_wait().unwrap());
            assert!(ended.is_none(), "the server ended: {ended:?}");
            assert!(Instant::now() < deadline, "the server does not come up");
            std::thread::yield_now();
        }
    }

    /// `kill -9`.
    pub fn kill_server(&mut self) {
        let mut child = self.server.take().expect("the server runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Runs a command on a replica and waits for it.
    pub fn run(&self, replica: &str, args: &[&str]) -> Output {
        self.on(replica, args).output().unwrap()
    }

    /// A command on a replica, not started.
    pub fn on(&self, replica: &str, args: &[&str]) -> Command {
        let mut command = self.command(&["--replica", self.path(replica).to_str().unwrap()]);
        command.args(args);
        command
    }

    /// Runs a command on a replica that must succeed; gives what it printed.
    pub fn ok(&self, replica: &str, args: &[&str]) -> String {
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

    pub fn init(&self, replica: &str) {
        self.ok(replica, &["init", "--server", &self.url()]);
    }

    /// Exports a replica to a new directory and gives its tree.
    pub fn exported(&self, replica: &str, to: &str) -> Tree {
        let to = self.path(to);
        self.ok(replica, &["export", to.to_str().unwrap()]);
        tree(&to)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(mut child) = self.server.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A directory's files by path: content, execute bit and modification time; of folders nothing.
pub type Tree = BTreeMap<PathBuf, Option<(Vec<u8>, bool, i64)>>;

pub fn tree(root: &Path) -> Tree {
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

/// Random numbers that a seed repeats (xorshift64*).
pub struct Random(u64);

impl Random {
    /// Seeded by `VFS_SYNC_TEST_SEED`, or by the time; prints the seed.
    pub fn new(test: &str) -> Self {
        let given = std::env::var("VFS_SYNC_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let seed =
            given.unwrap_or_else(|| u64::try_from(now.as_nanos() & u128::from(u64::MAX)).unwrap());
        println!("{test}: VFS_SYNC_TEST_SEED={seed}");
        Self(seed | 1)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % bound
    }
}

/// How often a crash test kills: `VFS_SYNC_TEST_KILLS`, or 200.
pub fn kills() -> u64 {
    std::env::var("VFS_SYNC_TEST_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(200)
}
