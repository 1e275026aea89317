//! The built binary as a server process.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use serde_json::Value;

/// The number of attempts to start a server at an address whose port may be taken.
const STARTS: u32 = 20;

/// A server that listens; killed when it is dropped.
pub(crate) struct ServerProcess {
    child: Child,
    url: String,
}

impl ServerProcess {
    /// Runs what `binary` gives, the program in the environment that a server needs, as a server
    /// at `listen` over `data`.
    pub(crate) fn start(binary: impl Fn() -> Command, listen: &str, data: &Path) -> Self {
        let started = (0..STARTS).find_map(|_| Self::try_start(binary(), listen, data));
        started.expect("a server starts")
    }

    fn try_start(mut binary: Command, listen: &str, data: &Path) -> Option<Self> {
        let serve = binary.args(["--json", "serve", "--listen", listen, "--data"]).arg(data);
        let mut child = serve.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        if line.is_empty() {
            child.wait().unwrap();
            return None;
        }
        let event: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(event["event"], "listening");
        Some(Self { child, url: event["url"].as_str().unwrap().to_owned() })
    }

    /// Returns its URL: `http://127.0.0.1:<port>`.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Returns its address without the scheme, to start another one there.
    pub(crate) fn address(&self) -> &str {
        self.url.strip_prefix("http://").unwrap()
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(&self.child, name);
    }

    /// Returns its exit status, if it ended by itself.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Asks it to end, and waits until it did.
    pub(crate) fn terminate(mut self) -> ExitStatus {
        self.signal("TERM");
        self.child.wait().unwrap()
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal, as a terminal or an operator does.
pub(crate) fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status();
    assert!(sent.unwrap().success());
}
