//! A directory of backups: its layout, and what is read from it.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::id::BlobId;
use vfs_sync_core::time::Timestamp;

use crate::error::{Failure, Kind, Result};
use crate::server;

const CONTENTS: &str = "contents";
const MANIFEST: &str = "manifest.json";
const LIST: &str = "contents.jsonl";
const DATABASE: &str = "database";
const LOCK: &str = "lock";
/// The directory of a backup that is being made.
const PARTIAL: &str = "partial";
/// The format of a backup.
const FORMAT: u32 = 1;
/// The greatest size of a manifest, and of a line of the list, in bytes.
const MAX_MANIFEST: u64 = 64 * 1024;

/// The description of a whole backup.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Manifest {
    pub(super) format: u32,
    pub(super) created_at: Timestamp,
    /// The version of the program.
    pub(super) version: String,
    /// The kind of the database: `sqlite` or `postgres`.
    pub(super) kind: String,
    /// The id of the database.
    pub(super) database_id: String,
    pub(super) database: FileDigest,
    pub(super) list: FileDigest,
    /// The number of contents.
    pub(super) contents: u64,
    /// The size of all contents in bytes.
    pub(super) bytes: u64,
}

/// The size and digest of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileDigest {
    size: u64,
    sha256: Sha256Digest,
}

impl FileDigest {
    /// Returns whether it is that of a content.
    pub(super) fn is(&self, entry: &Entry) -> bool {
        (self.size, self.sha256) == (entry.size, entry.sha256)
    }
}

/// A content of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    pub(super) id: BlobId,
    pub(super) size: u64,
    pub(super) sha256: Sha256Digest,
}

/// A directory of backups.
#[derive(Debug, Clone)]
pub(super) struct Archive {
    directory: PathBuf,
}

/// A backup that has its manifest.
#[derive(Debug)]
pub(super) struct Saved {
    pub(super) name: String,
    directory: PathBuf,
    pub(super) manifest: Manifest,
}

impl Archive {
    pub(super) fn existing(directory: &Path) -> Result<Self> {
        let archive = Self { directory: directory.to_owned() };
        if !archive.directory.join(CONTENTS).is_dir() {
            return Err(Failure::new(
                Kind::NotFound,
                format!("{} is not a directory of backups", directory.display()),
            )
            .hint("name the directory that `vfs-sync backup create` was given"));
        }
        Ok(archive)
    }

    /// Opens the directory for a new backup, making it if needed. The file is locked until it is
    /// dropped: backups are made one after another.
    pub(super) fn for_new(directory: &Path) -> Result<(Self, File)> {
        server::make_directory(directory)?;
        let archive = Self { directory: directory.to_owned() };
        let failed = || format!("cannot use {}", directory.display());
        let is_new = !archive.directory.join(CONTENTS).exists();
        let entries = std::fs::read_dir(directory).map_err(Failure::io(failed()))?;
        if is_new && entries.flatten().any(|entry| entry.file_name() != LOCK) {
            return Err(Failure::usage(format!("{} has other files", directory.display()))
                .hint("name an empty directory, or one of earlier backups"));
        }
        let lock = File::options().create(true).append(true).open(directory.join(LOCK));
        let lock = lock.map_err(Failure::io(failed()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(Failure::failed(format!(
                    "another backup is being made in {}",
                    directory.display()
                )));
            }
            Err(std::fs::TryLockError::Error(error)) => return Err(Failure::io(failed())(error)),
        }
        server::make_directory(&archive.directory.join(CONTENTS))?;
        Ok((archive, lock))
    }

    /// Makes an empty directory for a backup in place of an interrupted one's.
    pub(super) fn begin(&self) -> Result<PathBuf> {
        let partial = self.directory.join(PARTIAL);
        let failed = || format!("cannot write {}", partial.display());
        match std::fs::remove_dir_all(&partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Failure::io(failed())(error));
            }
            _ => {}
        }
        server::make_directory(&partial)?;
        Ok(partial)
    }

    /// Completes the backup in `partial`; returns its name.
    pub(super) fn complete(&self, partial: &Path, manifest: &Manifest) -> Result<String> {
        let name = manifest.created_at.to_string().replace(':', "-");
        let failed = || format!("cannot write {}", self.directory.join(&name).display());
        let write = || {
            let text = serde_json::to_vec_pretty(manifest).map_err(io::Error::other)?;
            std::fs::write(partial.join(MANIFEST), text)?;
            // All that was written since the beginning is on the disk before the name is.
            rustix::fs::syncfs(File::open(&self.directory)?)?;
            std::fs::rename(partial, self.directory.join(&name))?;
            File::open(&self.directory)?.sync_all()
        };
        write().map_err(Failure::io(failed()))?;
        Ok(name)
    }

    /// Returns the names of the whole backups, the oldest first.
    fn names(&self) -> Result<Vec<String>> {
        let failed = || format!("cannot read {}", self.directory.display());
        let entries = std::fs::read_dir(&self.directory).map_err(Failure::io(failed()))?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(Failure::io(failed()))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name != PARTIAL && entry.path().join(MANIFEST).exists() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Opens the backup `name`, or the newest one.
    pub(super) fn pick(&self, name: Option<&str>) -> Result<Saved> {
        let names = self.names()?;
        let chosen = match name {
            Some(name) => names.iter().find(|known| *known == name),
            None => names.last(),
        };
        let Some(chosen) = chosen else {
            let text = match name {
                Some(name) => format!("there is no whole backup {name}"),
                None => format!("there is no whole backup in {}", self.directory.display()),
            };
            let known = names.iter().rev().take(10).cloned().collect::<Vec<_>>().join(", ");
            let hint = if known.is_empty() {
                "there is none".into()
            } else {
                format!("there are {known}")
            };
            return Err(Failure::new(Kind::NotFound, text).hint(hint));
        };
        self.open(chosen)
    }

    fn open(&self, name: &str) -> Result<Saved> {
        let directory = self.directory.join(name);
        let file = directory.join(MANIFEST);
        let corrupt = |text: String| {
            Failure::new(Kind::Corrupt, format!("{}: {text}", file.display()))
                .hint("use another backup with --at NAME")
        };
        let mut text = String::new();
        File::open(&file)
            .and_then(|file| file.take(MAX_MANIFEST).read_to_string(&mut text))
            .map_err(|error| corrupt(error.to_string()))?;
        let manifest: Manifest =
            serde_json::from_str(&text).map_err(|error| corrupt(error.to_string()))?;
        if manifest.format != FORMAT {
            return Err(corrupt(format!("format {} is not known", manifest.format))
                .hint("use a newer vfs-sync"));
        }
        Ok(Saved { name: name.to_owned(), directory, manifest })
    }

    /// Returns the digests of the contents that the newest backup lists. Others may have been cut
    /// short by a crash.
    pub(super) fn trusted(&self) -> Result<HashSet<Sha256Digest>> {
        // A damaged backup only means that its contents are looked at again.
        let Ok(newest) = self.pick(None) else { return Ok(HashSet::new()) };
        Ok(newest.entries()?.map_while(Result::ok).map(|entry| entry.sha256).collect())
    }

    /// Returns the file of a content.
    pub(super) fn content(&self, digest: &Sha256Digest) -> PathBuf {
        let name = digest.to_string();
        let start = name.get(..2).unwrap_or_default();
        self.directory.join(CONTENTS).join(start).join(&name)
    }

    /// Compares a content's bytes with its digest; returns what is wrong with them.
    pub(super) async fn check(&self, entry: &Entry) -> Result<std::result::Result<(), String>> {
        let file = self.content(&entry.sha256);
        let found = digest_of(file.clone()).await;
        match found {
            Ok(found) if found.is(entry) => Ok(Ok(())),
            Ok(_) => Ok(Err(format!("{} has other bytes", file.display()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(Err(format!("{} is missing", file.display())))
            }
            Err(error) => Err(Failure::io(format!("cannot read {}", file.display()))(error)),
        }
    }
}

impl Saved {
    pub(super) fn database(&self) -> PathBuf {
        self.directory.join(DATABASE)
    }

    /// Compares the copy of the database and the list with their digests.
    pub(super) async fn check_files(&self) -> Result<()> {
        let files = [(DATABASE, &self.manifest.database), (LIST, &self.manifest.list)];
        for (name, expected) in files {
            let file = self.directory.join(name);
            let found = digest_of(file.clone()).await;
            let found = found.map_err(Failure::io(format!("cannot read {}", file.display())))?;
            if found != *expected {
                let text = format!("{} is damaged: it has other bytes", file.display());
                return Err(
                    Failure::new(Kind::Corrupt, text).hint("use another backup with --at NAME")
                );
            }
        }
        Ok(())
    }

    /// Returns the contents, in the order of their ids.
    pub(super) fn entries(&self) -> Result<impl Iterator<Item = Result<Entry>> + use<>> {
        let path = self.directory.join(LIST);
        let failed =
            move |error: io::Error| Failure::io(format!("cannot read {}", path.display()))(error);
        let file = File::open(self.directory.join(LIST)).map_err(&failed)?;
        let mut reader = BufReader::new(file);
        Ok(std::iter::from_fn(move || {
            let mut line = String::new();
            match reader.by_ref().take(MAX_MANIFEST).read_line(&mut line) {
                Ok(0) => None,
                Ok(_) => Some(serde_json::from_str(&line).map_err(|error| failed(error.into()))),
                Err(error) => Some(Err(failed(error))),
            }
        }))
    }
}

/// The names of the files of a backup that is being made.
pub(super) fn files(partial: &Path) -> (PathBuf, PathBuf) {
    (partial.join(DATABASE), partial.join(LIST))
}

impl Manifest {
    /// Creates a manifest of this version's format.
    pub(super) fn new(
        created_at: Timestamp,
        kind: &str,
        database_id: String,
        [database, list]: [FileDigest; 2],
    ) -> Self {
        Self {
            format: FORMAT,
            created_at,
            version: env!("CARGO_PKG_VERSION").into(),
            kind: kind.into(),
            database_id,
            database,
            list,
            contents: 0,
            bytes: 0,
        }
    }
}

/// Reads a file for its size and digest.
pub(super) async fn digest_of(file: PathBuf) -> io::Result<FileDigest> {
    let read = move || {
        let mut file = File::open(file)?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 128 * 1024];
        let mut size = 0;
        loop {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                return Ok(FileDigest { size, sha256: Sha256Digest(hasher.finalize().into()) });
            }
            size += read as u64;
            hasher.update(&buffer[..read]);
        }
    };
    tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
}
