//! Reads a replica's file without changing a byte of it, and checks it as a whole.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::path::Path;

use reqwest::Url;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, Row};

use super::open::{FILE, LOCK, missing, pragma};
use super::schema::{APPLICATION_ID, FORMAT};
use super::{SqliteRows, by_slot, storage_error};
use crate::error::ClientError;
use crate::replica::engine::ReplicaStore;
use crate::replica::rows::{Result, Rows as _};
use crate::replica::store::Slot;

/// The number of problems that SQLite's check names.
const PROBLEMS: u32 = 10;

/// Opens the replica in `dir` for reading: every write to it fails, and no file is made or changed,
/// also if a process that wrote it was killed.
pub(crate) fn inspect_store(dir: &Path) -> Result<ReplicaStore> {
    let path = dir.join(FILE);
    if !path.is_file() {
        return Err(missing(dir));
    }
    let lock = lock_for_reading(dir, &path)?;
    let conn = connect_for_reading(dir, &path)?;
    let foreign =
        |reason: String| ClientError::CorruptReplica { path: path.display().to_string(), reason };
    if pragma(&conn, &path, "application_id")? != APPLICATION_ID {
        return Err(foreign("it is a database of another program".into()));
    }
    let found = pragma(&conn, &path, "user_version")?;
    let (shown, known) = (path.display().to_string(), FORMAT);
    match found {
        FORMAT => {}
        _ if found > FORMAT => return Err(ClientError::NewerReplica { path: shown, found, known }),
        1.. => return Err(ClientError::OlderReplica { path: shown, found, known }),
        _ => return Err(foreign(format!("it has format {found}, which no version ever wrote"))),
    }
    let (current_b, committed_b) = (false, false);
    let mut rows = SqliteRows { conn, path, current_b, committed_b, at_once: true, _lock: lock };
    let meta = rows.load_meta()?;
    Ok(ReplicaStore::new(rows, meta))
}

/// Locks the replica as its users do. A replica without a lock file is used by nobody.
fn lock_for_reading(dir: &Path, path: &Path) -> Result<File> {
    let lock = dir.join(LOCK);
    if std::fs::metadata(&lock).is_ok_and(|lock| !lock.is_file()) {
        let text = format!("{} is not a regular file", lock.display());
        return Err(ClientError::Storage(text));
    }
    let opened = match OpenOptions::new().write(true).open(&lock) {
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem
            ) =>
        {
            File::open(&lock)
        }
        opened => opened,
    };
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let what = format!("cannot open {}", path.display());
            return File::open(path).map_err(ClientError::io(what));
        }
        Err(error) => {
            return Err(ClientError::io(format!("cannot open {}", lock.display()))(error));
        }
    };
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(ClientError::InUse(dir.display().to_string())),
        Err(TryLockError::Error(error)) => {
            Err(ClientError::io(format!("cannot lock {}", lock.display()))(error))
        }
    }
}

fn connect_for_reading(dir: &Path, path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let log = dir.join("replica.db-wal");
    let has_log = std::fs::metadata(&log).is_ok_and(|log| log.len() > 0);
    let open = || {
        if has_log {
            // The log of a process that was killed is read where it is. Without SQLite's locks, which
            // the replica's own replaces, its index is in memory, and nothing is moved at the end.
            let conn = Connection::open_with_flags_and_vfs(path, flags, "unix-none")?;
            conn.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
            conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
            return Ok(conn);
        }
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let Ok(mut url) = Url::from_file_path(&absolute) else {
            return Connection::open_with_flags(path, flags);
        };
        // Else SQLite makes an empty log.
        url.set_query(Some("immutable=1"));
        Connection::open_with_flags(url.as_str(), flags | OpenFlags::SQLITE_OPEN_URI)
    };
    let conn = open().map_err(|error| storage_error(path, &error))?;
    for (name, value) in [("query_only", true), ("trusted_schema", false)] {
        conn.pragma_update(None, name, value).map_err(|error| storage_error(path, &error))?;
    }
    Ok(conn)
}

impl SqliteRows {
    /// Checks pages and indexes of the file.
    pub(super) fn check_integrity(&self) -> Result<Vec<String>> {
        let sql = format!("PRAGMA integrity_check({PROBLEMS})");
        let mut problems = self.all(&sql, [], |row| self.get::<String>(row, 0))?;
        problems.retain(|problem| problem != "ok");
        Ok(problems)
    }

    /// Reads all rows, as the calls that use them do.
    pub(super) fn verify_all(&mut self) -> Result<u64> {
        let slot = Slot::Current;
        let mut rows = 0;
        let items = by_slot!(self, slot, "SELECT id, owner, body, position FROM items", "");
        rows += self.each(items, |row| self.item_row(row).map(drop))?;
        let links =
            by_slot!(self, slot, "SELECT parent, child, authored_at, position FROM links", "");
        rows += self.each(links, |row| self.link_row(row).map(drop))?;
        let grants = by_slot!(
            self,
            slot,
            "SELECT item, kind, principal, level, authored_at, position FROM grants",
            ""
        );
        rows += self.each(grants, |row| self.grant_row(row).map(drop))?;
        let contents =
            by_slot!(self, slot, "SELECT body, authored_at, position FROM attachments", "");
        rows += self.each(contents, |row| self.attachment_row(row).map(drop))?;
        let all = usize::MAX;
        let lists = [
            self.changed_containers(None, all)?.len(),
            self.tops()?.len(),
            self.queue(all)?.len(),
            self.rejected(all)?.len(),
            self.queued_uploads(all)?.len(),
            self.rejected_uploads()?.len(),
            self.lost(0, all)?.len(),
            self.removals(0, all)?.len(),
            self.directories()?.len(),
        ];
        Ok(rows + lists.into_iter().map(|count| count as u64).sum::<u64>())
    }

    /// Reads the rows of a statement one after the other; returns their number.
    fn each(&self, sql: &str, mut read: impl FnMut(&Row<'_>) -> Result<()>) -> Result<u64> {
        let failed = |error: rusqlite::Error| self.failed(&error);
        let mut statement = self.conn.prepare(sql).map_err(failed)?;
        let mut rows = statement.query([]).map_err(failed)?;
        let mut count = 0;
        while let Some(row) = rows.next().map_err(failed)? {
            read(row)?;
            count += 1;
        }
        Ok(count)
    }
}
