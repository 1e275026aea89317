//! The last good exports of a replica: states that it had after settled pulls, kept beside it so that
//! a damaged replica can be hydrated from one.
//!
//! A file's name has its number, which orders the files whatever the clock does, and the time at which
//! it was made.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};

use vfs_sync_core::client::state::{self, ReplicaState};
use vfs_sync_core::time::Timestamp;

use crate::error::{ClientError, Result};
use crate::replica::directory::private_dir;

/// The folder of the exports in a replica's directory.
const EXPORTS: &str = "exports";
/// The number of exports that are kept.
const KEPT: usize = 3;
/// The shortest time between two exports, in milliseconds.
const EVERY: i64 = 24 * 3_600 * 1_000;
/// The greatest size of an export in bytes; of a larger state none is kept.
const MAX_BYTES: u64 = 256 << 20;
/// The greatest number of items of a replica whose state is exported.
const MAX_ITEMS: u64 = 500_000;
/// The file that an attempt writes, and that becomes the export at its end.
const UNFINISHED: &str = "unfinished";
/// The file with the time of the last attempt, which holds up the next one even if it failed.
const TRIED: &str = "tried";

/// An export of a replica's state that was made after a settled pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoodExport {
    /// The path of the file.
    pub path: PathBuf,
    /// The time at which it was made, by this device's clock.
    pub made_at: Timestamp,
    /// The size of the file in bytes.
    pub size: u64,
    number: u64,
}

/// The contents of a good export in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExportedCounts {
    /// The number of items.
    pub items: u64,
    /// The number of queued operations.
    pub queued: u64,
}

impl GoodExport {
    /// Lists the exports of the replica in `dir`, the newest first.
    ///
    /// # Errors
    /// A failure to read the directory.
    pub fn list(dir: impl AsRef<Path>) -> Result<Vec<Self>> {
        let folder = dir.as_ref().join(EXPORTS);
        list(&folder).map_err(ClientError::io(format!("cannot read {}", folder.display())))
    }

    /// Checks that a replica can be hydrated from the export.
    ///
    /// # Errors
    /// A failure to read the file, or the violation with which hydrating would refuse it.
    pub fn check(&self) -> Result<ExportedCounts> {
        let failed = || ClientError::io(format!("cannot read {}", self.path.display()));
        let mut json = Vec::new();
        let file = File::open(&self.path).map_err(failed())?;
        file.take(MAX_BYTES + 1).read_to_end(&mut json).map_err(failed())?;
        let client_id = state::client_id(&json)?;
        let state = state::parse(&json, &client_id)?;
        Ok(ExportedCounts { items: state.items.len() as u64, queued: state.queue.len() as u64 })
    }
}

fn list(folder: &Path) -> io::Result<Vec<GoodExport>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let named = entry.file_name().to_str().and_then(parse_name);
        let (Some((number, made_at)), Ok(meta)) = (named, entry.metadata()) else { continue };
        if meta.is_file() {
            found.push(GoodExport { path: entry.path(), made_at, size: meta.len(), number });
        }
    }
    found.sort_by_key(|export| std::cmp::Reverse(export.number));
    Ok(found)
}

fn parse_name(name: &str) -> Option<(u64, Timestamp)> {
    let (number, millis) = name.strip_prefix("state-")?.strip_suffix(".json")?.split_once('-')?;
    Some((number.parse().ok()?, Timestamp::from_millis(millis.parse().ok()?)?))
}

/// Returns whether an export is due at `now`: none was made or tried in the day before. A time that
/// is still to come is that of a clock that was set back, and holds up nothing.
pub(crate) fn is_due(replica: &Path, items: u64, now: Timestamp) -> bool {
    if items > MAX_ITEMS {
        return false;
    }
    let folder = replica.join(EXPORTS);
    let tried = std::fs::read_to_string(folder.join(TRIED)).ok();
    let tried = tried.and_then(|text| text.trim().parse::<i64>().ok());
    let made = list(&folder).unwrap_or_default();
    let made = made.iter().map(|export| export.made_at.as_millis());
    let recent = |at: i64| (0..EVERY).contains(&now.as_millis().saturating_sub(at));
    !tried.into_iter().chain(made).any(recent)
}

/// Keeps a state as the newest export, and removes those beyond the last few. Either the whole file
/// appears under its name, or none.
pub(crate) fn keep(replica: &Path, state: ReplicaState, now: Timestamp) -> io::Result<()> {
    let folder = replica.join(EXPORTS);
    private_dir(&folder)?;
    // Before the attempt: one that fails is not repeated by each sync.
    private_file(&folder.join(TRIED))?.write_all(now.as_millis().to_string().as_bytes())?;
    let unfinished = folder.join(UNFINISHED);
    let written = write(&unfinished, state).and_then(|()| {
        let earlier = list(&folder)?;
        let number = earlier.first().map_or(0, |newest| newest.number).saturating_add(1);
        let name = format!("state-{number:08}-{}.json", now.as_millis());
        std::fs::rename(&unfinished, folder.join(name))?;
        File::open(&folder)?.sync_all()?;
        earlier.iter().skip(KEPT - 1).try_for_each(|old| std::fs::remove_file(&old.path))
    });
    if written.is_err() {
        // It takes room that the disk may not have.
        let _ = std::fs::remove_file(&unfinished);
    }
    written
}

fn private_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn write(path: &Path, state: ReplicaState) -> io::Result<()> {
    let mut writer = Bounded { inner: io::BufWriter::new(private_file(path)?), left: MAX_BYTES };
    state.write(&mut writer, false)?;
    writer.inner.flush()?;
    writer.inner.get_ref().sync_all()
}

/// A writer that fails beyond a number of bytes.
struct Bounded<W> {
    inner: W,
    left: u64,
}

impl<W: Write> Write for Bounded<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let size = bytes.len() as u64;
        if size > self.left {
            return Err(io::Error::other("the state is too large to be kept"));
        }
        let written = self.inner.write(bytes)?;
        self.left -= written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_none_of_an_export_is_passed_over() {
        assert!(parse_name("state-00000001-1700000000000.json").is_some());
        for other in ["tried", "state-1.json", "state--1.json", "state-x-1.json", "state-1-1.tmp"] {
            assert_eq!(parse_name(other), None, "{other}");
        }
    }

    #[test]
    fn a_state_beyond_the_bound_is_not_written() {
        let mut bounded = Bounded { inner: Vec::new(), left: 3 };
        bounded.write_all(b"abc").unwrap();
        assert!(bounded.write_all(b"d").is_err());
    }
}
