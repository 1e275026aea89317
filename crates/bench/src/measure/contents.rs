//! Contents: a large file through the server, compared with the disk or S3 that stores it; and a
//! tree of files from folder to folder through two replicas, compared with `cp -r`.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use object_store::aws::AmazonS3Builder;
use object_store::path::Path as Location;
use object_store::{ObjectStoreExt as _, WriteMultipart};
use vfs_sync_blobs::S3Config;
use vfs_sync_blobs::testing::new_s3_place;
use vfs_sync_client::{HttpConfig, HttpTransport, StaticToken, TransportExt as _};
use vfs_sync_core::id::{BlobId, StagingId};
use vfs_sync_core::wire::StageRequest;

use crate::Failure;
use crate::process::{Server, binary, peak_memory_of};
use crate::report::Report;

const CHUNK: usize = 1024 * 1024;
const MEGABYTE: f64 = 1_000_000.0;

/// A chunk of bytes that do not compress.
fn chunk() -> Bytes {
    let mut bytes = vec![0; CHUNK];
    fastrand::Rng::with_seed(1).fill(&mut bytes);
    bytes.into()
}

/// The megabytes a second, written and read.
struct Rates {
    up: f64,
    down: f64,
}

/// Measures uploads and downloads through the server against the disk itself.
pub(crate) async fn on_disk(report: &mut Report, dir: &Path, mib: usize) -> Result<(), Failure> {
    let direct = disk_directly(dir, mib)?;
    let data = dir.join("large");
    std::fs::create_dir(&data)?;
    let server = Server::start(&data, None).await?;
    let through = through(&server, dir, mib).await?;
    compare(report, "the disk", &direct, &through);
    report.at_most("server memory at its peak", server.peak_memory()?, 150.0, "MB");
    drop(server);
    Ok(std::fs::remove_dir_all(&data)?)
}

/// Measures the same against an S3 server that is started for it.
pub(crate) async fn on_s3(report: &mut Report, dir: &Path, mib: usize) -> Result<(), Failure> {
    let place = new_s3_place().await?;
    let direct = s3_directly(&place, dir, mib).await?;
    let data = dir.join("large-s3");
    std::fs::create_dir(&data)?;
    let server = Server::start_with(&data, variables(&place)).await?;
    let through = through(&server, dir, mib).await?;
    compare(report, "S3", &direct, &through);
    report.at_most("server memory at its peak", server.peak_memory()?, 150.0, "MB");
    Ok(())
}

fn compare(report: &mut Report, to: &str, direct: &Rates, through: &Rates) {
    report.note(&format!("a large file written to {to}"), direct.up, "MB/s");
    report.note("  through the server", through.up, "MB/s");
    report.at_least(&format!("  against {to}"), through.up / direct.up, 0.6, "x");
    report.note(&format!("a large file read from {to} to a file"), direct.down, "MB/s");
    report.note("  through the server", through.down, "MB/s");
    report.at_least(&format!("  against {to}"), through.down / direct.down, 0.6, "x");
}

fn rate(mib: usize, begun: Instant) -> f64 {
    (mib * CHUNK) as f64 / MEGABYTE / begun.elapsed().as_secs_f64()
}

fn disk_directly(dir: &Path, mib: usize) -> Result<Rates, Failure> {
    let (bytes, path, copy) = (chunk(), dir.join("direct"), dir.join("copy"));
    let begun = Instant::now();
    let mut file = File::create(&path)?;
    for _ in 0..mib {
        file.write_all(&bytes)?;
    }
    file.sync_all()?;
    let up = rate(mib, begun);
    let begun = Instant::now();
    let (mut file, mut buffer) = (File::open(&path)?, vec![0; CHUNK]);
    let mut to = File::create(&copy)?;
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => to.write_all(&buffer[..count])?,
        }
    }
    to.sync_all()?;
    let down = rate(mib, begun);
    std::fs::remove_file(&path)?;
    std::fs::remove_file(&copy)?;
    Ok(Rates { up, down })
}

/// Measures a program that uses the object store directly: parts of 8 MiB, several at a time.
async fn s3_directly(place: &S3Config, dir: &Path, mib: usize) -> Result<Rates, Failure> {
    let (id, secret) = place.key.clone().ok_or("the S3 server has no key")?;
    let store = AmazonS3Builder::new()
        .with_endpoint(place.endpoint.clone().unwrap_or_default())
        .with_allow_http(true)
        .with_bucket_name(&place.bucket)
        .with_region(&place.region)
        .with_access_key_id(id)
        .with_secret_access_key(secret)
        .build()?;
    let (bytes, path) = (chunk(), Location::from(format!("{}-direct", place.key_prefix)));
    let begun = Instant::now();
    let upload = store.put_multipart(&path).await?;
    let mut writer = WriteMultipart::new_with_chunk_size(upload, 8 * CHUNK);
    for _ in 0..mib {
        writer.wait_for_capacity(4).await?;
        writer.put(bytes.clone());
    }
    writer.finish().await?;
    let up = rate(mib, begun);
    let begun = Instant::now();
    to_file(dir, mib, store.get(&path).await?.into_stream()).await?;
    let down = rate(mib, begun);
    store.delete(&path).await?;
    Ok(Rates { up, down })
}

/// Writes received bytes to a file, and removes it.
async fn to_file<E: Into<Failure>>(
    dir: &Path,
    mib: usize,
    mut stream: impl Stream<Item = Result<Bytes, E>> + Unpin,
) -> Result<(), Failure> {
    let copy = dir.join("copy");
    let (mut to, mut came) = (File::create(&copy)?, 0);
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(Into::into)?;
        came += chunk.len();
        to.write_all(&chunk)?;
    }
    to.sync_all()?;
    std::fs::remove_file(&copy)?;
    if came == mib * CHUNK { Ok(()) } else { Err(format!("{came} bytes were downloaded").into()) }
}

async fn through(server: &Server, dir: &Path, mib: usize) -> Result<Rates, Failure> {
    let token = StaticToken::new(server.token.clone());
    let http = HttpTransport::new(HttpConfig::new(&server.url), token)?;
    let (staging_id, blob_id) = (StagingId::new("bench")?, BlobId::new("bench")?);
    let stage = StageRequest {
        staging_id: Some(staging_id.clone()),
        blob_id: blob_id.clone(),
        expires_at: None,
        content_type: None,
        data_base64: None,
    };
    let (bytes, size) = (chunk(), (mib * CHUNK) as u64);
    let begun = Instant::now();
    http.open_upload(&stage, size).await?;
    let sent = futures::stream::iter((0..mib).map(move |_| Ok(bytes.clone())));
    http.append(&staging_id, 0, size, Box::pin(sent)).await?;
    let up = rate(mib, begun);
    let begun = Instant::now();
    to_file(dir, mib, http.download(&blob_id, 0).await?).await?;
    Ok(Rates { up, down: rate(mib, begun) })
}

/// Returns the server's environment for blobs at `place`.
fn variables(place: &S3Config) -> Vec<(&'static str, String)> {
    let (id, secret) = place.key.clone().unwrap_or_default();
    vec![
        ("VFS_BLOB_S3_BUCKET", place.bucket.clone()),
        ("VFS_BLOB_S3_KEY_PREFIX", place.key_prefix.clone()),
        ("VFS_BLOB_S3_ENDPOINT", place.endpoint.clone().unwrap_or_default()),
        ("VFS_BLOB_S3_REGION", place.region.clone()),
        ("VFS_BLOB_S3_ACCESS_KEY_ID", id),
        ("VFS_BLOB_S3_SECRET_ACCESS_KEY", secret),
        ("VFS_BLOB_S3_FORCE_PATH_STYLE", place.force_path_style.to_string()),
    ]
}

/// Measures the memory use of the command line for a large file, from a pipe through two replicas
/// to a pipe. It needs twice the file's size on the disk.
pub(crate) async fn memory(
    report: &mut Report,
    dir: &Path,
    mib: usize,
    s3: bool,
) -> Result<(), Failure> {
    let data = dir.join("memory");
    std::fs::create_dir(&data)?;
    let place = if s3 { Some(new_s3_place().await?) } else { None };
    let server = Server::start_with(&data, place.iter().flat_map(variables)).await?;
    let on = |replica: &str, args: &[&str]| -> Result<Command, Failure> {
        let mut command = Command::new(binary()?);
        command.arg("--quiet").arg("--replica").arg(data.join(replica)).args(args);
        command.env("VFS_SYNC_TOKEN", &server.token).stdin(Stdio::null()).stdout(Stdio::null());
        Ok(command)
    };
    for replica in ["one", "two"] {
        watched(on(replica, &["init", "--server", &server.url])?.spawn()?).await?;
    }
    let mut most = Vec::new();
    let mut put = on("one", &["put", "-", "/large"])?.stdin(Stdio::piped()).spawn()?;
    let mut pipe = put.stdin.take().ok_or("no pipe")?;
    let written = std::thread::spawn(move || {
        let bytes = chunk();
        (0..mib).try_for_each(|_| pipe.write_all(&bytes))
    });
    most.push(("  put", watched(put).await?));
    written.join().map_err(|_| "the writer failed")??;
    most.push(("  sync", watched(on("one", &["sync"])?.spawn()?).await?));
    std::fs::remove_dir_all(data.join("one"))?;
    most.push(("  sync of the second replica", watched(on("two", &["sync"])?.spawn()?).await?));
    let mut get = on("two", &["get", "/large", "-"])?.stdout(Stdio::piped()).spawn()?;
    let mut pipe = get.stdout.take().ok_or("no pipe")?;
    let read = std::thread::spawn(move || -> std::io::Result<bool> {
        let (expected, mut bytes) = (chunk(), vec![0; CHUNK]);
        for _ in 0..mib {
            pipe.read_exact(&mut bytes)?;
            if bytes != expected {
                return Ok(false);
            }
        }
        Ok(pipe.read(&mut bytes)? == 0)
    });
    most.push(("  get", watched(get).await?));
    if !read.join().map_err(|_| "the reader failed")?? {
        return Err("the downloaded bytes differ from the uploaded ones".into());
    }
    let to = if s3 { "S3" } else { "a directory" };
    report.note(&format!("a large file from pipe to pipe over {to}"), mib as f64, "MiB");
    for (what, peak) in most {
        report.at_most(&format!("{what}, client memory"), peak, 150.0, "MB");
    }
    report.at_most("  server memory", server.peak_memory()?, 150.0, "MB");
    drop(server);
    Ok(std::fs::remove_dir_all(&data)?)
}

/// Waits until a process succeeds; returns its peak memory in MB.
async fn watched(mut child: Child) -> Result<f64, Failure> {
    let mut peak = 0.0_f64;
    loop {
        // A process that has just ended has no memory to ask for.
        peak = peak_memory_of(child.id()).unwrap_or(0.0).max(peak);
        if let Some(status) = child.try_wait()? {
            return if status.success() { Ok(peak) } else { Err(status.to_string().into()) };
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// Runs a command to its end; returns its seconds and its peak memory in MB.
async fn timed(mut command: Command) -> Result<(f64, f64), Failure> {
    let begun = Instant::now();
    let peak = watched(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?).await?;
    Ok((begun.elapsed().as_secs_f64(), peak))
}

/// The time limit for a file on the whole way, in milliseconds: three times the 21 s that `cp -r`
/// of 40,000 files takes on a disk that allocates inodes slowly. With fast inodes and everything in
/// the page cache, a copy takes a tenth of that and is no measure: the whole way makes three
/// copies, each of them durable.
const FOR_A_FILE: f64 = 3.0 * 21_000.0 / 40_000.0;

/// Counts the files in a directory and everything below it.
fn count_files(dir: &Path) -> Result<u64, Failure> {
    let mut count = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        count += if entry.file_type()?.is_dir() { count_files(&entry.path())? } else { 1 };
    }
    Ok(count)
}

/// Measures a tree from a folder through a replica, the server and a second replica to a folder.
pub(crate) async fn tree(report: &mut Report, dir: &Path, tree: &Path) -> Result<(), Failure> {
    let copy = dir.join("copy");
    let mut cp = Command::new("cp");
    cp.arg("-r").arg(tree).arg(&copy);
    // The copy stays until all is measured: ext4 looks long for an inode where many have just been
    // deleted.
    let (copied, _) = timed(cp).await?;
    let data = dir.join("tree");
    std::fs::create_dir(&data)?;
    let server = Server::start(&data, None).await?;
    let on = |replica: &str| -> Result<Command, Failure> {
        let mut command = Command::new(binary()?);
        command.arg("--quiet").arg("--replica").arg(dir.join(replica));
        command.env("VFS_SYNC_TOKEN", &server.token);
        Ok(command)
    };
    for replica in ["one", "two"] {
        let mut init = on(replica)?;
        init.args(["init", "--server", &server.url]);
        timed(init).await?;
    }
    report.note("cp -r of the tree", copied, "s");
    let (mut all, mut most) = (0.0, 0.0_f64);
    let (from, to) = (tree.as_os_str(), dir.join("out"));
    let steps: [(&str, &str, &[&std::ffi::OsStr]); 4] = [
        ("  import", "one", &["import".as_ref(), from]),
        ("  sync", "one", &["sync".as_ref()]),
        ("  sync of the second replica", "two", &["sync".as_ref()]),
        ("  export", "two", &["export".as_ref(), to.as_os_str()]),
    ];
    for (what, replica, args) in steps {
        let mut command = on(replica)?;
        command.args(args);
        let (seconds, peak) = timed(command).await?;
        report.note(what, seconds, "s");
        (all, most) = (all + seconds, most.max(peak));
    }
    let files = count_files(tree)?;
    report.note("  all of it", all, "s");
    report.note("  against cp -r", all / copied, "x");
    report.at_most("  for a file", all * 1_000.0 / files as f64, FOR_A_FILE, "ms");
    report.at_most("client memory at its peak", most, 200.0, "MB");
    report.at_most("server memory at its peak", server.peak_memory()?, 200.0, "MB");
    Ok(())
}
