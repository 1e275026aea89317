//! The server under test: the built binary as a separate process, so that its CPU and memory use
//! are measured separately.

use std::future::pending;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use vfs_sync_blobs::ObjectBlobs;
use vfs_sync_server::auth::{AuthConfig, Authenticator};
use vfs_sync_server::{Environment as _, SystemEnvironment};

use crate::Failure;

/// The arguments of [`Server::bare`]'s process.
#[derive(clap::Args)]
pub(crate) struct Bare {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    data: PathBuf,
    #[arg(long)]
    database: Option<String>,
}

/// Serves as `vfs-sync serve` does, but records nothing.
pub(crate) async fn serve_bare(args: Bare) -> Result<(), Failure> {
    std::fs::create_dir_all(&args.data)?;
    let database =
        args.database.unwrap_or(args.data.join("metadata.sqlite3").display().to_string());
    let store = vfs_sync_store::open(&database, SystemEnvironment.now()).await?;
    let blobs = Arc::new(ObjectBlobs::directory(args.data.join("blobs"))?);
    let keys = AuthConfig::from_lookup(|name| std::env::var(name).ok())?;
    let server =
        vfs_sync_server::Server::builder(store, blobs, Authenticator::load(&keys).await?).build();
    server.serve(tokio::net::TcpListener::bind(args.listen).await?, None, pending()).await;
    Ok(())
}

const SECRET: &str = "a secret for benchmarks on the loopback only";

/// Returns the path of the `vfs-sync` binary beside this one.
pub(crate) fn binary() -> Result<PathBuf, Failure> {
    let path = std::env::current_exe()?.with_file_name("vfs-sync");
    if path.exists() {
        Ok(path)
    } else {
        Err(format!("{} is missing: cargo build --release --workspace", path.display()).into())
    }
}

/// A running `vfs-sync serve`, killed when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) url: String,
    pub(crate) token: String,
}

impl Server {
    /// Starts a server on `data`, with PostgreSQL if `database` names it.
    pub(crate) async fn start(data: &Path, database: Option<&str>) -> Result<Self, Failure> {
        let database = database.map(|url| ("VFS_SYNC_DATABASE_URL", url.to_owned()));
        Self::start_with(data, database).await
    }

    /// Starts a server that records all that an operator is told, though it logs no requests.
    pub(crate) async fn recording(data: &Path, database: Option<&str>) -> Result<Self, Failure> {
        let database = database.map(|url| ("VFS_SYNC_DATABASE_URL", url.to_owned()));
        let mut command = Command::new(binary()?);
        command.arg("serve").env("RUST_LOG", "warn,audit=info").stderr(Stdio::null());
        command.args(["--admin-listen", "127.0.0.1:0"]).envs(database);
        Self::run(command, data).await
    }

    /// Starts a server without metrics and logs, in a process of this program.
    pub(crate) async fn bare(data: &Path, database: Option<&str>) -> Result<Self, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("bare").args(database.map(|url| format!("--database={url}")));
        Self::run(command, data).await
    }

    /// Starts a server on `data` with these environment variables.
    pub(crate) async fn start_with(
        data: &Path,
        variables: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Result<Self, Failure> {
        let mut command = Command::new(binary()?);
        command.arg("serve").env("RUST_LOG", "warn").envs(variables);
        Self::run(command, data).await
    }

    async fn run(mut command: Command, data: &Path) -> Result<Self, Failure> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        command
            .args(["--listen", &format!("127.0.0.1:{port}"), "--data"])
            .arg(data)
            .env("VFS_SYNC_JWT_SECRET", SECRET)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let child = command.spawn()?;
        let token = Self::token_of("bench")?;
        let server = Self { child, url: format!("http://127.0.0.1:{port}"), token };
        let deadline = Instant::now() + Duration::from_secs(30);
        while reqwest::get(format!("{}/healthz", server.url)).await.is_err() {
            if Instant::now() > deadline {
                return Err("the server did not come up".into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(server)
    }

    /// Creates a token of another user.
    pub(crate) fn token_of(user: &str) -> Result<String, Failure> {
        Self::token(&["--user", user])
    }

    /// Creates a token of an operator.
    pub(crate) fn operator_token() -> Result<String, Failure> {
        Self::token(&["--user", "root", "--scope", "vfs:admin"])
    }

    fn token(args: &[&str]) -> Result<String, Failure> {
        let token = Command::new(binary()?)
            .arg("token")
            .args(args)
            .env("VFS_SYNC_JWT_SECRET", SECRET)
            .output()?;
        Ok(String::from_utf8(token.stdout)?.trim().to_owned())
    }

    /// Returns the processor time used so far.
    pub(crate) fn cpu(&self) -> Result<Duration, Failure> {
        cpu_of(self.child.id())
    }

    /// Returns the resident memory, in MB.
    pub(crate) fn memory(&self) -> Result<f64, Failure> {
        memory_of(self.child.id(), "VmRSS:")
    }

    /// Returns the number of open descriptors.
    pub(crate) fn descriptors(&self) -> Result<usize, Failure> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.child.id()))?.count())
    }

    /// Returns the peak memory so far, in MB.
    pub(crate) fn peak_memory(&self) -> Result<f64, Failure> {
        peak_memory_of(self.child.id())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads the user and system time of a process from `/proc`.
pub(crate) fn cpu_of(pid: u32) -> Result<Duration, Failure> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit_once(')').ok_or("/proc/pid/stat has no name")?.1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks = |index: usize| -> Result<u64, Failure> {
        Ok(fields.get(index).ok_or("/proc/pid/stat is short")?.parse()?)
    };
    // Linux counts in hundredths of a second there, on every architecture.
    Ok(Duration::from_millis((ticks(11)? + ticks(12)?) * 10))
}

/// Reads the peak resident memory of a process, in MB.
pub(crate) fn peak_memory_of(pid: u32) -> Result<f64, Failure> {
    memory_of(pid, "VmHWM:")
}

/// Reads a line of a process's status that is a size, in MB.
pub(crate) fn memory_of(pid: u32, name: &str) -> Result<f64, Failure> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with(name)).ok_or("no such memory")?;
    let kilobytes: f64 = line.split_whitespace().nth(1).ok_or("no size of memory")?.parse()?;
    Ok(kilobytes / 1024.0)
}

/// Runs a first sync by the built binary as a separate process, into `replica`; returns its
/// duration and its peak memory in MB.
pub(crate) async fn first_sync(
    server: &Server,
    replica: &Path,
) -> Result<(Duration, f64), Failure> {
    let command = |args: &[&str]| -> Result<Command, Failure> {
        let mut command = Command::new(binary()?);
        command.arg("--quiet").arg("--replica").arg(replica).args(args);
        command.env("VFS_SYNC_TOKEN", &server.token).stdin(Stdio::null()).stdout(Stdio::null());
        Ok(command)
    };
    if !command(&["init", "--server", &server.url])?.status()?.success() {
        return Err("the client could not be made".into());
    }
    let begun = Instant::now();
    let mut client = command(&["sync"])?.spawn()?;
    let mut peak = 0.0_f64;
    loop {
        // A process that has just ended has no memory to ask for.
        peak = peak_memory_of(client.id()).unwrap_or(0.0).max(peak);
        if let Some(status) = client.try_wait()? {
            let taken = begun.elapsed();
            return if status.success() {
                Ok((taken, peak))
            } else {
                Err("the sync failed".into())
            };
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
