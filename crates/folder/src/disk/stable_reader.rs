//! Reads files that another program may be writing.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};

use tokio_util::sync::CancellationToken;

use super::dir::{Folder, Stat, stat_file};
use crate::seam::{self, Operation};

/// The number of times a changing file is read before it is reported.
pub(crate) const ATTEMPTS: u32 = 3;

/// The reason why a read ended early.
#[derive(Debug)]
pub enum Cut {
    /// The file changed during the read; it must be read again.
    Changed,
    /// The user stopped the command.
    Interrupted,
    /// The disk reported an error.
    Io(io::Error),
}

/// A reader of a file that fails at the end if the file changed during the read, so that the caller
/// gets the bytes of one moment or none.
pub struct StableReader<'a> {
    folder: Folder,
    file: File,
    stat: Stat,
    stop: &'a CancellationToken,
    cut: Option<Cut>,
}

impl<'a> StableReader<'a> {
    /// Opens the file `name` of `folder`, as long as `stop` is not cancelled.
    pub fn open(folder: &Folder, name: &OsStr, stop: &'a CancellationToken) -> io::Result<Self> {
        let (file, stat) = folder.open_file(name)?;
        Ok(Self { folder: folder.clone(), file, stat, stop, cut: None })
    }

    /// Returns the attributes at opening, which are still valid if the file was read to the end.
    pub fn stat(&self) -> &Stat {
        &self.stat
    }

    /// Returns why the read failed, if it did.
    pub fn cut(self) -> Option<Cut> {
        self.cut
    }

    fn synced(&self) -> io::Result<Stat> {
        self.folder.sync_file(&self.file)?;
        stat_file(&self.file)
    }

    fn fail(&mut self, cut: Cut) -> io::Error {
        let error = match &cut {
            Cut::Changed => io::Error::other("the file changed while it was read"),
            Cut::Interrupted => io::Error::other("stopped"),
            Cut::Io(error) => io::Error::new(error.kind(), error.to_string()),
        };
        self.cut = Some(cut);
        error
    }
}

impl Read for StableReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.is_cancelled() {
            return Err(self.fail(Cut::Interrupted));
        }
        let read = seam::before(Operation::Read).and_then(|()| self.file.read(buffer));
        match read {
            // Synchronised here where the disk is not as a whole, so that the bytes that were read
            // are those that survive.
            Ok(0) if !buffer.is_empty() => match self.synced() {
                Ok(now) if now.unchanged_since(&self.stat) => Ok(0),
                Ok(_) => Err(self.fail(Cut::Changed)),
                Err(error) => Err(self.fail(Cut::Io(error))),
            },
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                Err(self.fail(Cut::Io(error)))
            }
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::dir::Root;
    use std::io::Write as _;
    use std::path::Path;

    #[test]
    fn a_file_that_changes_while_it_is_read_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, "first line\n").unwrap();
        let folder = Root::open(dir.path()).unwrap().folder(Path::new("")).unwrap();
        let stop = CancellationToken::new();

        let mut reader = StableReader::open(&folder, OsStr::new("log"), &stop).unwrap();
        let mut half = [0; 5];
        reader.read_exact(&mut half).unwrap();
        let mut writer = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        writer.write_all(b"second line\n").unwrap();
        assert!(reader.read_to_end(&mut Vec::new()).is_err());
        assert!(matches!(reader.cut(), Some(Cut::Changed)));

        let mut reader = StableReader::open(&folder, OsStr::new("log"), &stop).unwrap();
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"first line\nsecond line\n");
        assert!(reader.cut().is_none());
    }

    #[test]
    fn a_stop_ends_the_reading_of_a_large_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), "x").unwrap();
        let folder = Root::open(dir.path()).unwrap().folder(Path::new("")).unwrap();
        let stop = CancellationToken::new();
        stop.cancel();
        let mut reader = StableReader::open(&folder, OsStr::new("f"), &stop).unwrap();
        assert!(reader.read(&mut [0; 1]).is_err());
        assert!(matches!(reader.cut(), Some(Cut::Interrupted)));
    }
}
