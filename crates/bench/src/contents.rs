//! Contents: a large file through the server against the disk it ends on, and a tree of files from
//! folder to folder through two replicas against `cp -r`.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use bytes::Bytes;
use futures::StreamExt as _;
use vfs_sync_client::{HttpConfig, HttpTransport, StaticToken, Transport as _};
use vfs_sync_core::id::{BlobId, StagingId};
use vfs_sync_core::wire::StageRequest;

use crate::Failure;
use crate::process::{Server, binary, peak_memory_of};
use crate::report::Report;

const CHUNK: usize = 1024 * 1024;
const MEGABYTE: f64 = 1_000_000.0;

/// A chunk of bytes that do not compress.
fn chunk() -> Bytes {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).take(CHUNK / 8).flatten().collect::<Vec<u8>>().into()
}

/// Up and down through the server, and written to and read from the disk directly.
pub(crate) async fn large(report: &mut Report, dir: &Path, mib: usize) -> Result<(), Failure> {
    let (bytes, megabytes) = (chunk(), (mib * CHUNK) as f64 / MEGABYTE);
    let path = dir.join("direct");
    let rate = |begun: Instant| megabytes / begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    let mut file = File::create(&path)?;
    for _ in 0..mib {
        file.write_all(&bytes)?;
    }
    file.sync_all()?;
    let written = rate(begun);
    let begun = Instant::now();
    let (mut file, mut buffer) = (File::open(&path)?, vec![0; CHUNK]);
    let copy = dir.join("copy");
    let mut to = File::create(&copy)?;
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => to.write_all(&buffer[..count])?,
        }
    }
    to.sync_all()?;
    let copied = rate(begun);
    std::fs::remove_file(&path)?;
    std::fs::remove_file(&copy)?;

    let data = dir.join("large");
    std::fs::create_dir(&data)?;
    let server = Server::start(&data, None).await?;
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
    let size = (mib * CHUNK) as u64;
    let begun = Instant::now();
    http.open_upload(&stage, size).await?;
    let sent = futures::stream::iter((0..mib).map(move |_| Ok(bytes.clone())));
    http.append(&staging_id, 0, size, Box::pin(sent)).await?;
    let up = rate(begun);
    let begun = Instant::now();
    let (mut stream, mut came) = (http.download(&blob_id, 0).await?, 0);
    let mut to = File::create(&copy)?;
    while let Some(chunk) = stream.next().await {
        let chunk = chunk?;
        came += chunk.len() as u64;
        to.write_all(&chunk)?;
    }
    to.sync_all()?;
    std::fs::remove_file(&copy)?;
    if came != size {
        return Err(format!("{came} of {size} bytes came down").into());
    }
    let down = rate(begun);
    report.note("a large file written to the disk", written, "MB/s");
    report.note("  through the server", up, "MB/s");
    report.at_least("  against the disk", up / written, 0.6, "x");
    report.note("a large file copied on the disk", copied, "MB/s");
    report.note("  to a file through the server", down, "MB/s");
    report.at_least("  against the disk", down / copied, 0.6, "x");
    report.at_most("server memory at its peak", server.peak_memory()?, 150.0, "MB");
    Ok(())
}

/// Runs a command to its end; gives its seconds and the most memory it used, in MB.
async fn timed(mut command: Command) -> Result<(f64, f64), Failure> {
    let begun = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
    let mut peak = 0.0_f64;
    loop {
        peak = peak_memory_of(child.id()).unwrap_or(0.0).max(peak);
        if let Some(status) = child.try_wait()? {
            let seconds = begun.elapsed().as_secs_f64();
            return if status.success() {
                Ok((seconds, peak))
            } else {
                Err(format!("{command:?}: {status}").into())
            };
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// Folder → replica → server → second replica → folder.
pub(crate) async fn tree(report: &mut Report, dir: &Path, tree: &Path) -> Result<(), Failure> {
    let copy = dir.join("copy");
    let mut cp = Command::new("cp");
    cp.arg("-r").arg(tree).arg(&copy);
    let (copied, _) = timed(cp).await?;
    std::fs::remove_dir_all(&copy)?;
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
    report.at_most("  all of it against cp -r", all / copied, 3.0, "x");
    report.at_most("client memory at its peak", most, 150.0, "MB");
    report.at_most("server memory at its peak", server.peak_memory()?, 150.0, "MB");
    Ok(())
}
