//! Blobs in a directory: each file is written under a temporary name, then renamed.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Semaphore;
use vfs_sync_core::id::BlobId;

use crate::barrier::Barrier;
use crate::{BlobError, BlobOperation, Object, ObjectBlobs, PutError, Stored, Upload, key};

/// The time to wait for the previous writer of an upload, whose connection may be stalled or who is
/// about to learn that it lost the lease.
const LOCK_WAIT: Duration = Duration::from_secs(8);
/// The interval at which to check whether the previous writer has gone.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// The turn of one part of a large upload after the other: many at once would keep the processors and
/// the disk from all other work, and are no faster.
static PARTS: Semaphore = Semaphore::const_new(1);

fn persist(error: io::Error) -> BlobError {
    BlobError::io(BlobOperation::Persist, &error)
}

/// Runs blocking file operations on a thread for blocking work.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Makes the directory's entries durable.
fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// The number of files from which one synchronisation of the whole disk is cheaper than one for
/// each file.
const WORTH_A_BARRIER: usize = 8;

/// Writes new files; returns `false` for each whose name is taken. A name appears only after its
/// bytes are on the disk, and all files are durable when this returns.
pub(crate) async fn create(
    directory: &Path,
    barrier: &Arc<Barrier>,
    files: Vec<(String, Bytes)>,
) -> Vec<io::Result<bool>> {
    let (directory, barrier, count) = (directory.to_owned(), Arc::clone(barrier), files.len());
    match blocking(move || Ok(create_now(&directory, &barrier, files))).await {
        Ok(outcomes) => outcomes,
        Err(error) => (0..count).map(|_| Err(same(&error))).collect(),
    }
}

fn create_now(
    directory: &Path,
    barrier: &Barrier,
    files: Vec<(String, Bytes)>,
) -> Vec<io::Result<bool>> {
    let together = cfg!(target_os = "linux") && files.len() >= WORTH_A_BARRIER;
    let mut written: Vec<io::Result<(PathBuf, PathBuf)>> = files
        .into_iter()
        .map(|(name, bytes)| {
            let target = inside(directory, &name).map_err(io::Error::other)?;
            // The name of a leftover of a killed write: see `key::is_temporary`.
            let path = directory.join(format!("{}#put", key::temporary_name()));
            match write_draft(&path, &bytes, !together) {
                Ok(()) => Ok((path, target)),
                Err(error) => {
                    let _ = std::fs::remove_file(&path);
                    Err(error)
                }
            }
        })
        .collect();
    if together && let Err(error) = barrier.wait(|| sync_disk(directory)) {
        for draft in &mut written {
            if let Ok((path, _)) = draft {
                let _ = std::fs::remove_file(path);
                *draft = Err(same(&error));
            }
        }
    }
    let mut placed: Vec<io::Result<bool>> = written
        .into_iter()
        .map(|draft| {
            let (path, target) = draft?;
            let placed = place(&path, &target);
            if !matches!(placed, Ok(true)) {
                let _ = std::fs::remove_file(&path);
            }
            placed
        })
        .collect();
    let named = || match together {
        true => barrier.wait(|| sync_disk(directory)),
        false => sync_directory(directory),
    };
    if placed.iter().any(|one| matches!(one, Ok(true)))
        && let Err(error) = named()
    {
        for one in placed.iter_mut().filter(|one| matches!(one, Ok(true))) {
            *one = Err(same(&error));
        }
    }
    placed
}

fn write_draft(path: &Path, bytes: &[u8], durable: bool) -> io::Result<()> {
    use io::Write as _;
    let mut file = private().create_new(true).open(path)?;
    file.write_all(bytes)?;
    if durable { file.sync_all() } else { Ok(()) }
}

/// Waits until everything written to the directory's disk is durable.
fn sync_disk(directory: &Path) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::fs::syncfs(File::open(directory)?)?;
    #[cfg(not(target_os = "linux"))]
    let _ = directory;
    Ok(())
}

/// Moves a file to its final name; returns `false` if the name is taken.
fn place(from: &Path, to: &Path) -> io::Result<bool> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        use rustix::io::Errno;
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(true),
            Err(Errno::EXIST) => return Ok(false),
            // Some file systems cannot do it.
            Err(Errno::INVAL | Errno::NOSYS) => {}
            Err(error) => return Err(error.into()),
        }
    }
    match std::fs::hard_link(from, to) {
        Ok(()) => std::fs::remove_file(from).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// Copies an error, to report it to each caller that it affects.
fn same(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(
        || io::Error::new(error.kind(), error.to_string()),
        io::Error::from_raw_os_error,
    )
}

/// Reads whole files, each of the given size.
pub(crate) async fn read_whole(
    directory: &Path,
    files: Vec<(String, u64)>,
) -> Vec<Result<Bytes, BlobError>> {
    let (directory, count) = (directory.to_owned(), files.len());
    let failed = |error: &io::Error| BlobError::io(BlobOperation::Read, error);
    let read = blocking(move || {
        let read = |(name, size): (String, u64)| {
            let bytes = read_file(&inside(&directory, &name)?, size).map_err(|e| failed(&e))?;
            if bytes.len() as u64 == size {
                return Ok(Bytes::from(bytes));
            }
            Err(BlobError::not_of_size(size))
        };
        Ok(files.into_iter().map(read).collect())
    });
    read.await.unwrap_or_else(|error| (0..count).map(|_| Err(failed(&error))).collect())
}

/// Reads the file's bytes, up to one more than `size`.
fn read_file(path: &Path, size: u64) -> io::Result<Vec<u8>> {
    use io::Read as _;
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1);
    File::open(path)?.take(size + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Creates an upload's file; returns its name.
pub(crate) async fn begin(directory: &Path) -> Result<String, BlobError> {
    let name = key::temporary_name();
    let (directory, path) = (directory.to_owned(), directory.join(&name));
    let made = blocking(move || {
        private().create_new(true).open(path)?;
        sync_directory(&directory)
    });
    made.await.map_err(persist)?;
    Ok(name)
}

/// Returns the path of a name in the directory; fails for a name with characters that the store
/// never uses.
pub(crate) fn inside(directory: &Path, name: &str) -> Result<PathBuf, BlobError> {
    let plain = !name.is_empty()
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_#".contains(&b));
    if plain {
        return Ok(directory.join(name));
    }
    Err(persist(io::Error::new(
        io::ErrorKind::InvalidInput,
        "the name does not belong to the store",
    )))
}

pub(crate) async fn remove(directory: &Path, name: &str) -> Result<(), BlobError> {
    let path = inside(directory, name)?;
    let removed = blocking(move || remove_if_there(&path)).await;
    removed.map_err(|error| BlobError::io(BlobOperation::Delete, &error))
}

/// Removes a file, if it exists.
fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Lists everything in the directory.
pub(crate) async fn list(directory: PathBuf) -> Result<Vec<Object>, BlobError> {
    let listed = blocking(move || {
        let mut objects = Vec::new();
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            let about = match entry.metadata() {
                Ok(about) if about.is_file() => about,
                // Gone since the listing, or not of this store.
                _ => continue,
            };
            let Ok(name) = entry.file_name().into_string() else { continue };
            let since = about.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
            let modified = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
            objects.push(Object { name, size: about.len(), modified });
        }
        Ok(objects)
    });
    listed.await.map_err(|error| BlobError::io(BlobOperation::Read, &error))
}

/// An upload that holds its file exclusively.
pub(crate) struct FileUpload {
    /// The locked file; `None` if the upload was completed or removed. Background work holds the
    /// lock too, so that a late write precedes the first write of the next writer.
    file: Option<Arc<Mutex<File>>>,
    path: PathBuf,
    directory: PathBuf,
    blobs: ObjectBlobs,
    id: BlobId,
}

impl FileUpload {
    pub(crate) async fn take_up(
        blobs: &ObjectBlobs,
        directory: &Path,
        id: &BlobId,
        name: &str,
    ) -> Result<Self, BlobError> {
        let path = inside(directory, name)?;
        let file = match opened(path.clone()).await.map_err(persist)? {
            Some(file) => locked(file).await?,
            None => None,
        };
        // The previous writer may have completed it: then the file is the blob's, which never changes.
        let there = file.filter(|_| path.exists());
        let (directory, id, blobs) = (directory.to_owned(), id.clone(), blobs.clone());
        Ok(Self { file: there, path, directory, blobs, id })
    }

    fn file(&self) -> Result<Arc<Mutex<File>>, BlobError> {
        let gone = || {
            BlobError::new(
                BlobOperation::Persist,
                "NoSuchUpload",
                "the upload's file does not exist",
            )
        };
        self.file.clone().ok_or_else(gone)
    }

    /// Writes bytes; the `last` ones are the file's end, and all before them is durable with them.
    async fn write_at(&self, start: u64, bytes: Bytes, last: bool) -> Result<(), BlobError> {
        let file = self.file()?;
        // Never closed, so nobody fails here.
        let turn = PARTS.acquire().await;
        let write = blocking(move || {
            use io::Write as _;
            let _turn = turn;
            let mut file = at(&file, start)?;
            file.write_all(&bytes)?;
            if !last {
                return Ok(());
            }
            // Bytes beyond it are an abandoned part's, which nobody counts.
            let end = start + bytes.len() as u64;
            if file.metadata()?.len() > end {
                file.set_len(end)?;
            }
            file.sync_data()
        });
        write.await.map_err(persist)
    }
}

async fn opened(path: PathBuf) -> io::Result<Option<File>> {
    blocking(move || match private().open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some),
    })
    .await
}

/// Waits until another writer releases the file.
async fn locked(file: File) -> Result<Option<Arc<Mutex<File>>>, BlobError> {
    let until = Instant::now() + LOCK_WAIT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(Arc::new(Mutex::new(file)))),
            Err(TryLockError::WouldBlock) if Instant::now() < until => {
                tokio::time::sleep(LOCK_PAUSE).await;
            }
            Err(TryLockError::WouldBlock) => {
                let busy = "another call is still writing to the upload";
                return Err(persist(io::Error::new(io::ErrorKind::ResourceBusy, busy)));
            }
            Err(TryLockError::Error(error)) => return Err(persist(error)),
        }
    }
}

/// Seeks to a position of the file and holds it for one writer: parts written concurrently share
/// the file.
fn at(file: &Mutex<File>, start: u64) -> io::Result<MutexGuard<'_, File>> {
    use io::Seek as _;
    let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
    file.seek(io::SeekFrom::Start(start))?;
    Ok(file)
}

#[async_trait]
impl Upload for FileUpload {
    async fn write_part(&self, _: u32, start: u64, bytes: Bytes) -> Result<String, BlobError> {
        self.write_at(start, bytes, false).await?;
        Ok(String::new())
    }

    async fn write_tail(&self, start: u64, tail: Bytes) -> Result<String, BlobError> {
        self.write_at(start, tail, true).await?;
        Ok(String::new())
    }

    async fn cut(&self, length: u64) -> Result<bool, BlobError> {
        let file = self.file()?;
        let cut = blocking(move || {
            let file = file.lock().unwrap_or_else(PoisonError::into_inner);
            // What was never written is not there either.
            if file.metadata()?.len() > length { file.set_len(length) } else { Ok(()) }
        });
        cut.await.map_err(persist)?;
        Ok(true)
    }

    async fn read_tail(&self, _: &str, start: u64, length: usize) -> Result<Bytes, BlobError> {
        let file = self.file()?;
        let read = blocking(move || {
            use io::Read as _;
            let mut tail = vec![0; length];
            at(&file, start)?.read_exact(&mut tail)?;
            Ok(tail.into())
        });
        read.await.map_err(|error| BlobError::io(BlobOperation::Read, &error))
    }

    async fn finish(&self, _: Vec<String>, stored: Stored) -> Result<(), PutError> {
        let target = inside(&self.directory, &key::object_name(&self.id))?;
        if let Some(file) = self.file.clone() {
            let (path, directory) = (self.path.clone(), self.directory.clone());
            let linked = blocking(move || {
                let file = file.lock().unwrap_or_else(PoisonError::into_inner);
                // Bytes beyond the end belong to an abandoned part.
                let length = file.metadata()?.len();
                if length < stored.size {
                    return Err(io::Error::other("the upload's file lost bytes"));
                }
                if length > stored.size {
                    file.set_len(stored.size)?;
                }
                file.sync_all()?;
                match std::fs::hard_link(&path, &target) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                        return Ok(false);
                    }
                    Err(error) => return Err(error),
                }
                remove_if_there(&path)?;
                sync_directory(&directory)?;
                Ok(true)
            });
            if linked.await.map_err(persist)? {
                return Ok(());
            }
        }
        // It was completed before, or another upload was.
        self.blobs.must_be(&self.id, stored).await?;
        let (path, directory) = (self.path.clone(), self.directory.clone());
        let removed = blocking(move || {
            remove_if_there(&path)?;
            sync_directory(&directory)
        });
        Ok(removed.await.map_err(persist)?)
    }
}
