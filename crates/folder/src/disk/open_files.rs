//! Files that programs of this user have open for writing, as Linux shows them under `/proc`.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::seam;

/// The time for which an answer holds.
const HOLDS: Duration = Duration::from_secs(1);

/// The open files, by device and inode. A program that maps a file and closes it is not seen, and
/// neither is one of another user.
#[derive(Debug, Default)]
pub(crate) struct OpenFiles {
    looked: Option<Instant>,
    for_writing: HashSet<(u64, u64)>,
}

impl OpenFiles {
    /// Returns whether another process has the file open for writing.
    pub(crate) fn is_written(&mut self, id: (u64, u64)) -> bool {
        if let Some(is_open) = seam::is_open(id) {
            return is_open;
        }
        if self.looked.is_none_or(|looked| looked.elapsed() >= HOLDS) {
            self.for_writing = look();
            self.looked = Some(Instant::now());
        }
        self.for_writing.contains(&id)
    }
}

fn look() -> HashSet<(u64, u64)> {
    let own = std::process::id().to_string();
    let mut found = HashSet::new();
    let Ok(processes) = std::fs::read_dir("/proc") else { return found };
    for process in processes.flatten() {
        let name = process.file_name();
        if !name.as_encoded_bytes().iter().all(u8::is_ascii_digit) || name == *own {
            continue;
        }
        // A process may end at any time, or belong to somebody else.
        let Ok(files) = std::fs::read_dir(process.path().join("fd")) else { continue };
        for file in files.flatten() {
            let info = process.path().join("fdinfo").join(file.file_name());
            if let Ok(meta) = std::fs::metadata(file.path())
                && meta.is_file()
                && is_for_writing(&info)
            {
                found.insert((meta.dev(), meta.ino()));
            }
        }
    }
    found
}

/// Reads the flags of an open file: the two lowest bits are 0 for reading only.
fn is_for_writing(info: &Path) -> bool {
    let Ok(text) = std::fs::read_to_string(info) else { return false };
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
    flags.is_some_and(|flags| flags & 0b11 != 0)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn another_process_that_writes_a_file_is_seen_and_one_that_reads_is_not() {
        let dir = tempfile::tempdir().unwrap();
        for (how, written) in [("<", false), (">>", true), ("<>", true)] {
            let path = dir.path().join(format!("{written}{}", how.len()));
            std::fs::write(&path, "x").unwrap();
            let meta = std::fs::metadata(&path).unwrap();
            let mut holder = Command::new("sh")
                .args(["-c", &format!("exec 3{how}\"$0\"; echo; read wait")])
                .arg(&path)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut ready = [0];
            std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut ready).unwrap();
            let found = OpenFiles::default().is_written((meta.dev(), meta.ino()));
            assert_eq!(found, written, "{how}");
            drop(holder.stdin.take());
            holder.wait().unwrap();
        }
    }
}
