//! The file that a database was opened from, and whether it is still the one at its path.

use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Result, StoreError};

/// The files of an open database. SQLite goes on writing to files that were removed or replaced:
/// what it writes there is gone when it ends.
#[derive(Debug)]
pub(super) struct Files {
    path: PathBuf,
    files: Vec<(PathBuf, Option<Mark>)>,
}

/// The identity of a file, which another file at its path does not have.
type Mark = (u64, u64);

#[cfg(unix)]
fn mark(path: &Path) -> io::Result<Mark> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

#[cfg(not(unix))]
fn mark(path: &Path) -> io::Result<Mark> {
    std::fs::metadata(path).map(|_| (0, 0))
}

impl Files {
    /// The files of the database that was just opened at `path`, and has written its log.
    pub(super) fn of(path: &Path) -> Self {
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        let found = [path.to_owned(), log.into()];
        let marked = |file: PathBuf| {
            let mark = mark(&file).ok();
            (file, mark)
        };
        Self { path: path.to_owned(), files: found.into_iter().map(marked).collect() }
    }

    /// # Errors
    /// [`StoreError::Unavailable`] if one of them is not at its path any more.
    pub(super) fn check(&self) -> Result<()> {
        for (file, expected) in &self.files {
            let Some(expected) = expected else { continue };
            let what = match mark(file) {
                Ok(found) if found == *expected => continue,
                Ok(_) => "was replaced by another file",
                Err(error) if error.kind() == io::ErrorKind::NotFound => "was removed",
                Err(error) => {
                    let text = format!("cannot look at {}: {error}", file.display());
                    return Err(StoreError::Unavailable(text));
                }
            };
            return Err(StoreError::Unavailable(format!(
                "{} {what} while this server has {} open: nothing is read or written any more; \
                 stop the server, see to it that the right database is there, start it again",
                file.display(),
                self.path.display(),
            )));
        }
        Ok(())
    }
}
