//! The built binary in directories of its own.

#[cfg(target_os = "linux")]
pub(crate) mod crash_disk;
#[cfg(target_os = "linux")]
pub(crate) mod odd_disk;
mod server;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

pub(crate) use server::{ServerProcess, signal};

pub(crate) const SECRET: &str = "a secret of the tests that is long enough";

/// The result of a run of the binary.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Ran {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Fails unless the exit code is `code`.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        self
    }

    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Self {
        let said = self.stdout.contains(text) || self.stderr.contains(text);
        assert!(said, "{text:?} is not in {self:#?}");
        self
    }
}

/// A directory with a user's files, replicas and perhaps a server in it.
pub(crate) struct Scene {
    pub(crate) dir: tempfile::TempDir,
    server: Option<ServerProcess>,
    url: String,
    /// The file of certificates that the commands trust, instead of the system's.
    trusted: Option<PathBuf>,
}

impl Scene {
    /// Without a server: what is sent goes nowhere.
    pub(crate) fn offline() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir, server: None, url: "http://127.0.0.1:9".to_owned(), trusted: None }
    }

    pub(crate) fn with_server() -> Self {
        let mut scene = Self::offline();
        scene.start_server("127.0.0.1:0");
        scene
    }

    /// Serves at `listen` over the scene's own data.
    pub(crate) fn start_server(&mut self, listen: &str) {
        self.start_server_with(listen, &[]);
    }

    /// Serves with additional environment variables.
    pub(crate) fn start_server_with(&mut self, listen: &str, environment: &[(&str, &str)]) {
        let binary = || {
            let mut command = self.command();
            command.env("RUST_LOG", "off").envs(environment.iter().copied());
            command
        };
        let server = ServerProcess::start(binary, listen, &self.path("server"));
        self.url = server.url().to_owned();
        self.server = Some(server);
    }

    /// Has the commands trust the certificates in a file.
    pub(crate) fn trust(&mut self, file: &Path) {
        self.trusted = Some(file.to_owned());
    }

    pub(crate) fn stop_server(&mut self) {
        self.server = None;
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Sends SIGTERM to the server; gives its exit code.
    pub(crate) fn terminate_server(&mut self) -> i32 {
        self.server.take().unwrap().terminate().code().unwrap()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vfs-sync"));
        command.current_dir(self.dir.path());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("VFS_") || name == "RUST_LOG" {
                command.env_remove(name);
            }
        }
        command.env("VFS_SYNC_JWT_SECRET", SECRET).env("XDG_DATA_HOME", self.path("xdg"));
        command.envs(self.trusted.iter().map(|file| ("SSL_CERT_FILE", file)));
        command
    }

    /// Runs the binary to its end.
    pub(crate) fn run<A: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Ran {
        finish(self.command().args(args).stdin(Stdio::null()), None)
    }

    /// Runs the binary with something on standard input.
    pub(crate) fn run_with_input(&self, args: &[&str], input: &[u8]) -> Ran {
        finish(self.command().args(args).stdin(Stdio::piped()), Some(input))
    }

    /// Runs a command on the replica `name`.
    pub(crate) fn on(&self, name: &str, args: &[&str]) -> Ran {
        self.run(["--replica", name].iter().chain(args))
    }

    pub(crate) fn token(&self, user: &str) -> String {
        self.run(["token", "--user", user]).expect(0).stdout.trim().to_owned()
    }

    /// Makes the replica `name` for alice.
    pub(crate) fn replica(&self, name: &str) {
        let file = self.path("token");
        if !file.exists() {
            std::fs::write(&file, self.token("alice")).unwrap();
        }
        self.on(name, &["init", "--server", &self.url, "--token-file", "token"]).expect(0);
    }

    /// Makes a replica for `user`, called as they are.
    pub(crate) fn replica_of(&self, user: &str) {
        let file = format!("{user}.token");
        std::fs::write(self.path(&file), self.token(user)).unwrap();
        self.on(user, &["init", "--server", &self.url, "--token-file", &file]).expect(0);
    }

    /// Makes the replica `name` for `user`, whose token is there.
    pub(crate) fn replica_of_as(&self, user: &str, name: &str) {
        let file = format!("{user}.token");
        self.on(name, &["init", "--server", &self.url, "--token-file", &file]).expect(0);
    }

    /// Writes a file, with the folders on the way.
    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }
}

fn finish(command: &mut Command, input: Option<&[u8]>) -> Ran {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    if let Some(input) = input {
        child.stdin.take().unwrap().write_all(input).unwrap();
    }
    let output = child.wait_with_output().unwrap();
    output.into()
}

/// Lists a directory: for each path its type, permission bits, time and bytes.
pub(crate) fn tree_of(top: &Path) -> Vec<(PathBuf, String)> {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    let mut entries = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(top.join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let path = folder.join(entry.file_name());
            // The agent's own folder is none of the user's.
            if path == Path::new(".vfs-sync") {
                continue;
            }
            let metadata = entry.path().symlink_metadata().unwrap();
            let mode = metadata.permissions().mode() & 0o777;
            let what = if metadata.is_symlink() {
                format!("link {:?}", std::fs::read_link(entry.path()).unwrap())
            } else if metadata.is_dir() {
                folders.push(path.clone());
                format!("folder {mode:o}")
            } else {
                let millis = metadata.mtime() * 1_000 + metadata.mtime_nsec() / 1_000_000;
                format!("file {mode:o} {millis} {:?}", std::fs::read(entry.path()).unwrap())
            };
            entries.push((path, what));
        }
    }
    entries.sort();
    entries
}
