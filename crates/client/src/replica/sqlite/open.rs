//! Creates and opens a replica's file, and reads the small rows that describe it.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use vfs_sync_core::client::clock::HybridClock;
use vfs_sync_core::time::Timestamp;

use super::schema::{APPLICATION_ID, FORMAT, create, upgrade};
use super::{SqliteRows, storage_error};
use crate::error::ClientError;
use crate::replica::directory::{self, private_dir};
use crate::replica::engine::ReplicaStore;
use crate::replica::rows::{Result, Rows as _};
use crate::replica::store::Meta;

pub(super) const FILE: &str = "replica.db";
pub(super) const LOCK: &str = "replica.lock";

fn lock(dir: &Path) -> Result<File> {
    let path = dir.join(LOCK);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(ClientError::io(format!("cannot open {}", path.display())))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(ClientError::InUse(dir.display().to_string())),
        Err(TryLockError::Error(error)) => {
            Err(ClientError::io(format!("cannot lock {}", path.display()))(error))
        }
    }
}

fn connect(path: &Path, vfs: Option<&str>) -> Result<Connection> {
    let open = || {
        let conn = match vfs {
            Some(vfs) => Connection::open_with_flags_and_vfs(path, OpenFlags::default(), vfs)?,
            None => Connection::open(path)?,
        };
        conn.set_prepared_statement_cache_capacity(128);
        // Else a statement on a table with a partial index is compiled again for each value.
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        // The file is this process's alone: no lock to take and check at each statement.
        conn.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        conn.pragma_update(None, "journal_mode", "WAL")?;
        conn.pragma_update(None, "synchronous", "FULL")?;
        conn.pragma_update(None, "cache_size", -32_768)?;
        conn.pragma_update(None, "trusted_schema", false)?;
        conn.pragma_update(None, "wal_autocheckpoint", 4_000)?;
        Ok(conn)
    };
    open().map_err(|error| storage_error(path, &error))
}

pub(super) fn pragma(conn: &Connection, path: &Path, name: &str) -> Result<i64> {
    conn.pragma_query_value(None, name, |row| row.get(0))
        .map_err(|error| storage_error(path, &error))
}

/// Creates an empty file that only its owner may read. SQLite takes it for a new database.
fn private_file(path: &Path) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

/// Creates a replica in `dir`.
pub(crate) fn create_store(dir: &Path, vfs: Option<&str>, meta: Meta) -> Result<ReplicaStore> {
    private_dir(dir).map_err(ClientError::io(format!("cannot make {}", dir.display())))?;
    let path = dir.join(FILE);
    let exists = || ClientError::ReplicaExists(dir.display().to_string());
    if let Some(vfs) = vfs {
        // Where files cannot be renamed it is made in its place, in one transaction.
        let lock = lock(dir)?;
        let conn = connect(&path, Some(vfs))?;
        if pragma(&conn, &path, "application_id")? != 0 {
            return Err(exists());
        }
        fill(conn, path, lock.try_clone(), &meta)?;
        return open_locked(dir, Some(vfs), lock);
    }
    if path.exists() {
        return Err(exists());
    }
    let lock = lock(dir)?;
    if path.exists() {
        return Err(exists());
    }
    // A crash on the way leaves a file under another name, which the next attempt replaces.
    let draft = dir.join("replica.db.new");
    match std::fs::remove_file(&draft) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(ClientError::io(format!("cannot remove {}", draft.display()))(error));
        }
        _ => {}
    }
    {
        private_file(&draft)
            .map_err(ClientError::io(format!("cannot make {}", draft.display())))?;
        let conn = Connection::open(&draft).map_err(|error| storage_error(&draft, &error))?;
        fill(conn, draft.clone(), lock.try_clone(), &meta)?;
    }
    std::fs::rename(&draft, &path)
        .map_err(ClientError::io(format!("cannot make {}", path.display())))?;
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(ClientError::io(format!("cannot sync {}", dir.display())))?;
    open_locked(dir, None, lock)
}

/// Turns an empty database into a replica, in one transaction, and closes it.
fn fill(conn: Connection, path: PathBuf, lock: std::io::Result<File>, meta: &Meta) -> Result<()> {
    let mut rows = SqliteRows {
        conn,
        path: path.clone(),
        current_b: false,
        committed_b: false,
        at_once: true,
        _lock: lock.map_err(ClientError::io("cannot share the lock"))?,
    };
    rows.begin(true)?;
    let fill = rows.conn.execute_batch(&format!(
        "{} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT};",
        create()
    ));
    fill.map_err(|error| storage_error(&path, &error))?;
    rows.put_meta(None, meta)?;
    rows.run("COMMIT", [])?;
    rows.conn.close().map_err(|(_, error)| storage_error(&path, &error))
}

/// Removes a replica that this process has open: only its own files and its contents.
pub(crate) fn remove_store(dir: &Path) -> std::io::Result<()> {
    for file in [FILE, "replica.db-wal", "replica.db-shm", LOCK] {
        match std::fs::remove_file(dir.join(file)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    std::fs::remove_dir_all(dir.join(directory::CONTENTS))
}

/// Opens the replica in `dir`.
pub(crate) fn open_store(dir: &Path, vfs: Option<&str>) -> Result<ReplicaStore> {
    if vfs.is_none() && !dir.join(FILE).is_file() {
        return Err(missing(dir));
    }
    open_locked(dir, vfs, lock(dir)?)
}

pub(super) fn missing(dir: &Path) -> ClientError {
    ClientError::NoReplica(dir.display().to_string())
}

fn open_locked(dir: &Path, vfs: Option<&str>, lock: File) -> Result<ReplicaStore> {
    let path = dir.join(FILE);
    let conn = connect(&path, vfs)?;
    let foreign =
        |reason: String| ClientError::CorruptReplica { path: path.display().to_string(), reason };
    let application = pragma(&conn, &path, "application_id")?;
    if vfs.is_some() && application == 0 {
        return Err(missing(dir));
    }
    if application != APPLICATION_ID {
        return Err(foreign("it is a database of another program".into()));
    }
    let found = pragma(&conn, &path, "user_version")?;
    if found > FORMAT {
        let path = path.display().to_string();
        return Err(ClientError::NewerReplica { path, found, known: FORMAT });
    }
    let lacks = upgrade(found)
        .ok_or_else(|| foreign(format!("it has format {found}, which no version ever wrote")))?;
    if !lacks.is_empty() {
        let upgraded =
            conn.execute_batch(&format!("BEGIN; {lacks} PRAGMA user_version = {FORMAT}; COMMIT;"));
        upgraded.map_err(|error| storage_error(&path, &error))?;
    }
    let (current_b, committed_b) = (false, false);
    let mut rows = SqliteRows { conn, path, current_b, committed_b, at_once: true, _lock: lock };
    let meta = rows.load_meta()?;
    Ok(ReplicaStore::new(rows, meta))
}

type StoredClock = (Option<Timestamp>, Option<Timestamp>);

impl SqliteRows {
    fn put<T: Serialize + PartialEq>(
        &self,
        key: &str,
        before: Option<&T>,
        value: &T,
    ) -> Result<()> {
        if before == Some(value) {
            return Ok(());
        }
        let text = serde_json::to_string(value).expect("the replica's values serialize");
        let sql = "INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)";
        self.run(sql, params![key, text]).map(drop)
    }

    pub(super) fn put_meta(&self, before: Option<&Meta>, meta: &Meta) -> Result<()> {
        let clock = |meta: &Meta| -> StoredClock { (meta.clock.last(), meta.clock.seen()) };
        self.put("clientId", before.map(|b| &b.client_id), &meta.client_id)?;
        self.put("user", before.map(|b| &b.user), &meta.user)?;
        self.put("server", before.map(|b| &b.server), &meta.server)?;
        self.put("cursor", before.map(|b| &b.cursor), &meta.cursor)?;
        self.put("baseline", before.map(|b| &b.baseline), &meta.baseline)?;
        self.put("head", before.map(|b| &b.head), &meta.head)?;
        self.put("epoch", before.map(|b| &b.epoch), &meta.epoch)?;
        self.put("unsettled", before.map(|b| &b.unsettled), &meta.unsettled)?;
        self.put("trail", before.map(|b| &b.trail), &meta.trail)?;
        self.put("floor", before.map(|b| &b.floor), &meta.floor)?;
        self.put("settled", before.map(|b| &b.settled), &meta.settled)?;
        self.put("reconciled", before.map(|b| &b.reconciled), &meta.reconciled)?;
        self.put("clock", before.map(clock).as_ref(), &clock(meta))?;
        self.put("nextWriteId", before.map(|b| &b.next_write_id), &meta.next_write_id)?;
        self.put("stopped", before.map(|b| &b.stopped), &meta.stopped)?;
        self.put("failing", before.map(|b| &b.failing), &meta.failing)?;
        self.put("items", before.map(|b| &b.items), &meta.items)?;
        self.put("rebuilds", before.map(|b| &b.rebuilds), &meta.rebuilds)?;
        self.put("deleted", before.map(|b| &b.deleted), &meta.deleted)?;
        self.put("copied", before.map(|b| &b.copied), &meta.copied)?;
        self.put("reports", before.map(|b| &b.reports), &meta.reports)
    }

    fn load<T: DeserializeOwned>(&self, key: &str) -> Result<T> {
        let sql = "SELECT value FROM meta WHERE key = ?1";
        let text: Option<String> = self.one(sql, [key], |row| row.get(0))?;
        let text = text.ok_or_else(|| self.corrupt(key, "is missing"))?;
        self.json(key, &text)
    }

    /// Loads a value that replicas of earlier versions do not have.
    fn load_if_there<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        let sql = "SELECT value FROM meta WHERE key = ?1";
        let text: Option<String> = self.one(sql, [key], |row| row.get(0))?;
        Ok(text.map(|text| self.json::<Option<T>>(key, &text)).transpose()?.flatten())
    }

    pub(super) fn load_meta(&mut self) -> Result<Meta> {
        let sql = "SELECT value FROM meta WHERE key = 'slot'";
        let slot: Option<String> = self.one(sql, [], |row| row.get(0))?;
        self.current_b = match slot.as_deref() {
            None | Some("a") => false,
            Some("b") => true,
            Some(other) => return Err(self.corrupt("slot", other)),
        };
        let (last, seen): StoredClock = self.load("clock")?;
        Ok(Meta {
            client_id: self.load("clientId")?,
            user: self.load("user")?,
            server: self.load::<Arc<str>>("server")?,
            cursor: self.load("cursor")?,
            baseline: self.load("baseline")?,
            head: self.load_if_there("head")?,
            epoch: self.load_if_there("epoch")?,
            unsettled: self.load_if_there("unsettled")?.unwrap_or(false),
            trail: self.load_if_there("trail")?.unwrap_or_default(),
            floor: self.load("floor")?,
            settled: self.load("settled")?,
            reconciled: self.load("reconciled")?,
            clock: HybridClock::new(last, seen),
            next_write_id: self.load("nextWriteId")?,
            stopped: self.load("stopped")?,
            failing: self.load_if_there("failing")?,
            items: self.load("items")?,
            rebuilds: self.load_if_there("rebuilds")?.unwrap_or(0),
            deleted: self.load_if_there("deleted")?.unwrap_or_default(),
            copied: self.load_if_there("copied")?.unwrap_or(false),
            reports: self.load_if_there("reports")?.unwrap_or_default(),
        })
    }
}
