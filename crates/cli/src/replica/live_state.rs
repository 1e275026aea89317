//! The state of the live folders, which `up` writes into the replica's directory for other
//! commands.

use std::collections::BTreeSet;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vfs_sync_core::id::ItemId;
use vfs_sync_core::time::Timestamp;
use vfs_sync_folder::disk::digest::digest_bytes;
use vfs_sync_folder::report::Problems;

use super::LiveFolder;
use crate::error::{Failure, Kind, Result};

/// The name of the file in the replica's directory.
pub(crate) const FILE: &str = "live.json";
/// The name under which the file is written before it replaces the other one.
const UNFINISHED: &str = "live.json.new";
const VERSION: u32 = 1;

/// The greatest size of a file that is read.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;
/// The greatest size of the problems that are written, before their text is escaped.
const MAX_PROBLEM_BYTES: usize = 8 * 1024 * 1024;

/// The state of all live folders of a replica.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LiveState {
    version: u32,
    /// The time at which the state was written.
    pub(crate) at: Timestamp,
    pub(crate) folders: Vec<FolderState>,
}

/// The state of a live folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FolderState {
    pub(crate) directory: PathBuf,
    #[serde(default)]
    pub(crate) item: Option<ItemId>,
    pub(crate) state: State,
    /// The step that is under way with its progress, or the reason why the folder waits.
    #[serde(default)]
    pub(crate) reason: Option<String>,
    /// The bytes that the step under way moves in a second.
    #[serde(default)]
    pub(crate) bytes_per_second: Option<u64>,
    /// The last time at which both sides were the same.
    #[serde(default)]
    pub(crate) last_in_step: Option<Timestamp>,
    /// The deletions that wait for the user's confirmation.
    #[serde(default)]
    pub(crate) held: Option<Held>,
    #[serde(default)]
    pub(crate) problems: Problems,
    /// The last scan that the user asked for and that is done.
    #[serde(default)]
    pub(crate) scanned: Option<Scanned>,
    /// The reason why changes are noticed by scans only, if they are.
    #[serde(default)]
    pub(crate) scans: Option<String>,
}

/// A scan of a live folder that the user asked for, and that is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Scanned {
    /// The number of the request.
    pub(crate) number: u64,
    /// The number of entries that were looked at.
    pub(crate) entries: u64,
    /// The number of changes that were found.
    pub(crate) changes: u64,
    /// The number of entries that were left out.
    pub(crate) left_out: u64,
    /// The reason why the directory could not be scanned.
    pub(crate) failed: Option<String>,
}

/// The situation of a live folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum State {
    /// Both sides are the same, as far as is known.
    InStep,
    /// A step is under way or about to begin.
    Working,
    /// A cause has to go away, or the user has to act.
    Waiting,
    /// The user has paused the folder.
    Paused,
}

/// The deletions that wait for the user's confirmation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Held {
    /// The number of entries that are gone.
    pub(crate) entries: u64,
    /// The number of entries that the directory had.
    pub(crate) of: u64,
    /// A digest of the set of entries.
    pub(crate) digest: String,
}

impl Held {
    /// Describes the entries of the rows `rows`; `entries` counts those under them too.
    pub(crate) fn new(entries: u64, of: u64, rows: &BTreeSet<u64>) -> Self {
        let bytes: Vec<u8> = rows.iter().flat_map(|row| row.to_le_bytes()).collect();
        Self { entries, of, digest: digest_bytes(&bytes).to_string() }
    }
}

impl FolderState {
    /// Returns whether the state is one of this folder.
    pub(crate) fn is_of(&self, live: &LiveFolder) -> bool {
        (&self.directory, &self.item) == (&live.directory, &live.item)
    }

    /// Returns whether something is left out that does not pass by itself.
    pub(crate) fn has_failures(&self) -> bool {
        self.problems.failures() > 0
    }
}

impl LiveState {
    pub(crate) fn new(at: Timestamp, folders: Vec<FolderState>) -> Self {
        Self { version: VERSION, at, folders }
    }

    /// Returns the state of a folder, if there is one.
    pub(crate) fn of(&self, live: &LiveFolder) -> Option<&FolderState> {
        self.folders.iter().find(|state| state.is_of(live))
    }

    /// Returns whether both have the same folders in the same states, whenever they were in step.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let same = |(a, b): (&FolderState, &FolderState)| {
            let b = FolderState { last_in_step: a.last_in_step, ..b.clone() };
            *a == b
        };
        self.folders.len() == other.folders.len()
            && self.folders.iter().zip(&other.folders).all(same)
    }

    /// Writes the state into a replica's directory, completely or not at all. Only the process that
    /// holds the lock of `up` may call it. Unless `durable` is set, a power failure may damage it.
    pub(crate) fn write(&self, replica: &Path, durable: bool) -> io::Result<()> {
        let unfinished = replica.join(UNFINISHED);
        let mut options = std::fs::OpenOptions::new();
        let mut file =
            options.create(true).truncate(true).write(true).mode(0o600).open(&unfinished)?;
        file.write_all(&serde_json::to_vec(&self.bounded())?)?;
        if durable {
            file.sync_data()?;
        }
        drop(file);
        std::fs::rename(unfinished, replica.join(FILE))
    }

    /// Leaves out the problems that would make the file too large; their counts stay.
    fn bounded(&self) -> Self {
        let mut state = self.clone();
        let mut room = MAX_PROBLEM_BYTES;
        for folder in &mut state.folders {
            let fits = folder.problems.first.iter().take_while(|problem| {
                let size = problem.path.len() + problem.detail.len();
                let fits = size <= room;
                room = room.saturating_sub(size);
                fits
            });
            let fits = fits.count();
            folder.problems.first.truncate(fits);
        }
        state
    }
}

/// Reads the state of the live folders of a replica; `None` if `up` has not written one yet.
pub(crate) fn read(replica: &Path) -> Result<Option<LiveState>> {
    let path = replica.join(FILE);
    let bad = |reason: String| {
        Failure::new(Kind::Corrupt, format!("{}: {reason}", path.display())).hint(
            "the next `vfs-sync up` replaces the file; it has only the state that was shown last",
        )
    };
    let mut bytes = Vec::new();
    let file = match std::fs::symlink_metadata(&path) {
        Ok(meta) if !meta.is_file() => return Err(bad("it is not a regular file".to_owned())),
        Ok(_) => std::fs::File::open(&path),
        Err(error) => Err(error),
    };
    let read = file.and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes));
    match read {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::io(format!("cannot read {}", path.display()))(error)),
    }
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(bad(format!("it has more than {MAX_FILE_BYTES} bytes")));
    }
    let state: LiveState =
        serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
    if state.version != VERSION {
        return Err(bad(format!("version {} is unknown", state.version)));
    }
    Ok(Some(state))
}

/// Returns the present time.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_system_time(std::time::SystemTime::now()).unwrap_or(Timestamp::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use vfs_sync_folder::report::{Problem, ProblemKind};

    fn folder(problems: usize, detail: usize) -> FolderState {
        let mut folder = FolderState {
            directory: "/home/a\u{1b}[2J".into(),
            item: None,
            state: State::Waiting,
            reason: Some("why".to_owned()),
            bytes_per_second: None,
            last_in_step: Some(now()),
            held: None,
            problems: Problems::default(),
            scanned: None,
            scans: None,
        };
        for _ in 0..problems {
            let problem =
                Problem::new(Path::new("x"), ProblemKind::Unreadable, "\u{1}".repeat(detail));
            folder.problems.add(problem);
        }
        folder
    }

    #[test]
    fn a_state_is_read_as_it_was_written_and_its_size_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
        let state = LiveState::new(now(), vec![folder(3, 10)]);
        state.write(dir.path(), true).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Some(state));
        let state = LiveState::new(now(), vec![folder(1_000, 5_000), folder(1_000, 5_000)]);
        state.write(dir.path(), false).unwrap();
        let size = std::fs::metadata(dir.path().join(FILE)).unwrap().len();
        assert!(size < MAX_FILE_BYTES, "{size}");
        let read = read(dir.path()).unwrap().unwrap();
        assert_eq!(read.folders[1].problems.total(), 1_000, "what is left out is counted");
    }

    #[test]
    fn a_damaged_or_foreign_file_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let huge = format!(
            r#"{{"version":1,"at":"2024-01-01T00:00:00Z","folders":[{{"directory":"/","state":"inStep",
            "problems":{{"first":[],"counts":{{"open":{0},"kept":{0}}}}}}}]}}"#,
            u64::MAX
        );
        for text in [
            "",
            "{",
            "[]",
            r#"{"version":1}"#,
            r#"{"version":2,"at":"2024-01-01T00:00:00Z","folders":[]}"#,
        ] {
            std::fs::write(&path, text).unwrap();
            let failure = read(dir.path()).unwrap_err();
            assert_eq!(failure.kind, Kind::Corrupt, "{text}");
            assert!(failure.message.contains(FILE), "{failure:?}");
        }
        std::fs::write(&path, huge).unwrap();
        let state = read(dir.path()).unwrap().unwrap();
        assert_eq!(state.folders[0].problems.total(), u64::MAX, "nothing overflows");
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert!(read(dir.path()).unwrap_err().message.contains("regular"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_reading_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join(FILE), bytes).unwrap();
            let _ = read(dir.path());
        }
    }
}
