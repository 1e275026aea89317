//! Copies of a database: taken while servers write, read on their own, and put in place.
//!
//! A copy is one transaction's view. The objects of the blobs that it names have to be copied as
//! well, while [`hold_removals`](crate::command::HoldRemovals) keeps them.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::id::BlobId;

use crate::encoding::{self, BLOB_LIVE};
use crate::error::{Result, StoreError};
use crate::open::is_postgres;
use crate::postgres;

/// A blob whose bytes belong to a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedBlob {
    /// The id of the blob.
    pub blob_id: BlobId,
    /// False if the blob may have been marked for removal before the copy was made: then its bytes
    /// may be missing.
    pub is_live: bool,
    /// The size in bytes.
    pub size: u64,
    /// The digest of the bytes.
    pub digest: Sha256Digest,
}

/// The kind of a copy, which is that of its database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyKind {
    /// A database file of SQLite.
    Sqlite,
    /// An archive of `pg_dump`.
    Postgres,
}

impl CopyKind {
    /// Returns the kind of copies of `database`.
    #[must_use]
    pub fn of(database: &str) -> Self {
        if is_postgres(database) { Self::Postgres } else { Self::Sqlite }
    }
}

/// Copies `database` to the new file `to`, while others write, and returns the blobs that the copy
/// names, in the order of their ids.
///
/// # Errors
/// [`StoreError`] if the database cannot be read or the file not be written.
pub async fn dump(database: &str, to: &Path) -> Result<Vec<NamedBlob>> {
    if is_postgres(database) {
        postgres::dump::dump(database, to).await?;
        return postgres::dump::blobs(database).await;
    }
    let (database, to) = (database.to_owned(), to.to_owned());
    blocking(move || {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(database, flags)?;
        let file = to.to_str().ok_or_else(|| failed("the copy's name is not UTF-8"))?;
        connection.execute("VACUUM INTO ?1", [file])?;
        std::fs::File::open(&to).and_then(|file| file.sync_all()).map_err(io)?;
        named_in(&to)
    })
    .await
}

/// Reads a copy of a SQLite database on its own: checks its structure, and returns the blobs that it
/// names, in the order of their ids. The copy does not change.
///
/// # Errors
/// [`StoreError`] names the damage.
pub async fn read(copy: &Path) -> Result<Vec<NamedBlob>> {
    let copy = copy.to_owned();
    blocking(move || {
        let connection = immutable(&copy)?;
        let problems: Vec<String> = connection
            .prepare("PRAGMA integrity_check(3)")?
            .query_map([], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        if problems.len() != 1 || problems.first().is_none_or(|first| first != "ok") {
            return Err(failed(format!("the copy is damaged: {}", problems.join("; "))));
        }
        named_in(&copy)
    })
    .await
}

/// Returns whether a copy can be put in the place of `database`: the file does not exist (SQLite), or
/// the database has no table (PostgreSQL).
///
/// # Errors
/// [`StoreError`] if PostgreSQL cannot be asked.
pub async fn is_free(database: &str) -> Result<bool> {
    if is_postgres(database) {
        return postgres::dump::is_free(database).await;
    }
    Ok(!Path::new(database).exists())
}

/// Puts a copy in the place of `database`, which must not exist (SQLite) or be empty (PostgreSQL).
/// An interrupted call leaves the place as it was.
///
/// # Errors
/// [`StoreError`] if the place is taken or cannot be written.
pub async fn load(database: &str, copy: &Path) -> Result<()> {
    if is_postgres(database) {
        return postgres::dump::load(database, copy).await;
    }
    let (database, copy) = (Path::new(database).to_owned(), copy.to_owned());
    blocking(move || {
        if database.exists() {
            return Err(failed(format!("{} exists", database.display())));
        }
        let mut temporary = database.clone().into_os_string();
        temporary.push(".restoring");
        std::fs::copy(&copy, &temporary).map_err(io)?;
        std::fs::File::open(&temporary).and_then(|file| file.sync_all()).map_err(io)?;
        std::fs::rename(&temporary, &database).map_err(io)?;
        let directory = database.parent().unwrap_or(Path::new("."));
        std::fs::File::open(directory).and_then(|file| file.sync_all()).map_err(io)
    })
    .await
}

/// Opens a copy so that nothing is written beside it.
fn immutable(copy: &Path) -> Result<Connection> {
    let path = copy.to_str().ok_or_else(|| failed("the copy's name is not UTF-8"))?;
    let escaped = path.replace('%', "%25").replace('?', "%3f").replace('#', "%23");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Ok(Connection::open_with_flags(format!("file:{escaped}?immutable=1"), flags)?)
}

fn named_in(copy: &Path) -> Result<Vec<NamedBlob>> {
    let connection = immutable(copy)?;
    let mut select = connection.prepare(
        "SELECT blob_id, size, digest FROM blobs WHERE status = ?1 AND size IS NOT NULL \
         ORDER BY blob_id",
    )?;
    let mut rows = select.query([BLOB_LIVE])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let id: String = row.get(0)?;
        let size: i64 = row.get(1)?;
        let bytes: Vec<u8> = row.get(2)?;
        found.push(NamedBlob {
            blob_id: BlobId::new(&id)
                .map_err(|reason| encoding::malformed("blobs", &id, reason))?,
            is_live: true,
            size: u64::try_from(size)
                .map_err(|_| encoding::malformed("blobs", &id, "size is negative"))?,
            digest: digest(&bytes)?,
        });
    }
    Ok(found)
}

/// Converts the column of a digest.
pub(crate) fn digest(bytes: &[u8]) -> Result<Sha256Digest> {
    let bytes = bytes.try_into().map_err(|_| {
        encoding::malformed("blobs", "?", format_args!("a digest has {} bytes", bytes.len()))
    })?;
    Ok(Sha256Digest(bytes))
}

fn failed(text: impl Into<String>) -> StoreError {
    StoreError::Failed(text.into())
}

fn io(error: std::io::Error) -> StoreError {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            StoreError::Full(error.to_string())
        }
        _ => failed(error.to_string()),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(failed(error.to_string())))
}
