//! Has a running `up` scan live folders: `folder scan`.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::chosen;
use crate::args::Global;
use crate::error::{Failure, Kind, Result};
use crate::escape::escaped;
use crate::output::{Output, counted};
use crate::replica::live_state::{self, Scanned};
use crate::replica::{self, LiveFolder, ScanRequest, handoff};
use crate::shutdown;

/// The interval at which the command looks whether the scan is done.
const LOOK_EVERY: Duration = Duration::from_millis(50);

pub(super) fn scan(
    global: &Global,
    replica: &Path,
    dir: Option<&Path>,
    checksum: bool,
    output: Output,
    stop: &CancellationToken,
) -> Result<()> {
    chosen(&replica::read_settings(replica)?, dir)?;
    is_running(replica)?;
    let folders = request(global, replica, dir, checksum)?;
    let progress = output.progress("waiting for the scan");
    let mut done = Vec::new();
    for live in &folders {
        done.push(wait(replica, live, stop)?);
    }
    drop(progress);
    let documents: Vec<_> = folders
        .iter()
        .zip(&done)
        .map(|(live, scanned)| {
            json!({
                "directory": live.directory, "entries": scanned.entries,
                "changes": scanned.changes, "leftOut": scanned.left_out,
                "failed": scanned.failed,
            })
        })
        .collect();
    output.json(&json!({ "folders": documents }))?;
    let mut failure = None;
    for (live, scanned) in folders.iter().zip(&done) {
        let dir = live.directory.to_string_lossy();
        if let Some(reason) = &scanned.failed {
            failure = Some(format!("{dir} was not scanned: {reason}"));
            continue;
        }
        let changes = counted(scanned.changes, "change", "changes");
        let entries = counted(scanned.entries, "entry", "entries");
        output.say(format_args!("{}: {entries}, {changes}", escaped(&dir)))?;
        if scanned.left_out > 0 {
            let left = counted(scanned.left_out, "entry is", "entries are");
            failure = failure.or(Some(format!("{dir}: {left} left out")));
        }
    }
    failure.map_or(Ok(()), |text| {
        Err(Failure::new(Kind::Partial, text).hint("see `vfs-sync folder problems`"))
    })
}

fn is_running(replica: &Path) -> Result<()> {
    if handoff::is_running(replica) {
        return Ok(());
    }
    Err(Failure::failed("`vfs-sync up` is not running").hint(
        "`vfs-sync up --once` scans all directories; `vfs-sync import DIR PATH --checksum` reads the \
         contents of one, too",
    ))
}

/// Saves the request for a running `up`; returns the folders with it.
fn request(
    global: &Global,
    replica: &Path,
    dir: Option<&Path>,
    checksum: bool,
) -> Result<Vec<LiveFolder>> {
    // With the replica open, so that `up` does not overwrite the entry.
    let _client = replica::open(global, replica::config())?;
    let mut settings = replica::read_settings(replica)?;
    let mut requested = Vec::new();
    let chosen = chosen(&settings, dir)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    for folder in settings.folders.iter_mut().filter(|one| chosen.iter().any(|c| c.is_same(one))) {
        if folder.paused {
            let path = folder.directory.display();
            return Err(Failure::failed(format!("{path} is paused"))
                .hint(format!("`vfs-sync folder resume '{path}'` ends that")));
        }
        let before = folder.scan.map_or(0, |scan| scan.number);
        let number = u64::try_from(now).unwrap_or(0).max(before.saturating_add(1));
        folder.scan = Some(ScanRequest { number, checksum });
        requested.push(folder.clone());
    }
    settings.write(replica)?;
    Ok(requested)
}

/// Waits until `up` has done the scan that a folder requests, or a later one.
fn wait(replica: &Path, live: &LiveFolder, stop: &CancellationToken) -> Result<Scanned> {
    let wanted = live.scan.map_or(0, |scan| scan.number);
    loop {
        let running = is_running(replica);
        let state = live_state::read(replica)?;
        let scanned = state.as_ref().and_then(|state| state.of(live)?.scanned.clone());
        if let Some(scanned) = scanned.filter(|scanned| scanned.number >= wanted) {
            return Ok(scanned);
        }
        if stop.is_cancelled() {
            return Err(shutdown::interrupted());
        }
        running?;
        let settings = replica::read_settings(replica)?;
        match settings.folders.iter().find(|one| one.is_same(live)) {
            Some(folder) if !folder.paused => {}
            _ => {
                let dir = live.directory.display();
                return Err(Failure::failed(format!("{dir} was paused or removed meanwhile")));
            }
        }
        std::thread::sleep(LOOK_EVERY);
    }
}
