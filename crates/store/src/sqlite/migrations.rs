//! The schema, step by step. A database records how many steps it has applied.

use futures::executor::block_on;
use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior, params};
use vfs_sync_core::cursor::Epoch;
use vfs_sync_core::time::Timestamp;

use super::topics::trash::fill;
use super::transaction::SqliteTransaction;
use crate::backend::schema::{COMPATIBLE_SINCE, DECIDED_FOR, tables, works_on_newer};
use crate::command::users::members::regrant_all;
use crate::encoding;
use crate::error::{Result, StoreError};
use crate::open::SchemaVersion;
use crate::topics::Feeds as _;

/// The steps of the schema, each applied once, in order; published steps never change.
const STEPS: &[&str] = &[
    include_str!("migrations/0001.sql"),
    include_str!("migrations/0002.sql"),
    include_str!("migrations/0003.sql"),
    include_str!("migrations/0004.sql"),
    include_str!("migrations/0005.sql"),
    include_str!("migrations/0006.sql"),
    include_str!("migrations/0007.sql"),
    include_str!("migrations/0008.sql"),
    include_str!("migrations/0009.sql"),
    include_str!("migrations/0010.sql"),
    include_str!("migrations/0011.sql"),
    include_str!("migrations/0012.sql"),
    include_str!("migrations/0013.sql"),
    include_str!("migrations/0014.sql"),
    include_str!("migrations/0015.sql"),
];
const _: () = assert!(STEPS.len() == DECIDED_FOR);

/// The first version in which grants give access.
const GRANTS_GIVE_ACCESS: i64 = 2;
/// The first version that keeps deleted items in the trash.
const HAS_TRASH: i64 = 6;

/// Marks the file as this program's: "VfsS".
const APPLICATION: i64 = 0x5666_7353;

/// Rejects another program's database before touching it.
pub(super) fn check_ours(connection: &Connection) -> Result<()> {
    let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    // In this order: where another start of ours makes the tables, it has set the mark with them.
    let ours = number("SELECT count(*) FROM sqlite_schema")? == 0
        || number("PRAGMA application_id")? == APPLICATION;
    if ours {
        Ok(())
    } else {
        Err(StoreError::Failed("it is the database of another program".into()))
    }
}

/// Returns the version of the database's schema.
pub(super) fn version(connection: &Connection) -> Result<SchemaVersion> {
    let known = STEPS.len() as i64;
    let there = "SELECT count(*) FROM sqlite_schema WHERE name = 'schema_version'";
    if connection.query_row(there, [], |row| row.get::<_, i64>(0))? == 0 {
        return Ok(SchemaVersion { found: 0, known });
    }
    let found: Option<i64> =
        connection.query_row("SELECT max(version) FROM schema_version", [], |row| row.get(0))?;
    Ok(SchemaVersion { found: found.unwrap_or(0), known })
}

/// Rejects a database that lacks a table of its schema.
pub(super) fn check_tables(connection: &Connection) -> Result<()> {
    for table in tables(STEPS) {
        let sql = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1";
        if connection.query_row(sql, [table], |_| Ok(())).optional()?.is_none() {
            return Err(StoreError::MissingTable { table: table.to_owned() });
        }
    }
    Ok(())
}

/// Migrates the database to this program's schema; returns its version. With `begins`, the random
/// number of a server's start, it also begins an epoch.
pub(super) fn migrate(
    connection: &mut Connection,
    now: Timestamp,
    begins: Option<u64>,
) -> Result<i64> {
    let known = STEPS.len() as i64;
    // Held until the last step is done: of two programs that start at one time, one migrates.
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    tx.pragma_update(None, "application_id", APPLICATION)?;
    tx.execute_batch(
        "CREATE TABLE IF NOT EXISTS schema_version (
            version INTEGER PRIMARY KEY, applied_at INTEGER NOT NULL
        ) STRICT",
    )?;
    let found: Option<i64> =
        tx.query_row("SELECT max(version) FROM schema_version", [], |row| row.get(0))?;
    let found = found.unwrap_or(0);
    if found > known {
        let since = "SELECT value FROM meta WHERE name = 'compatible'";
        let since = tx.query_row(since, [], |row| row.get(0)).optional()?;
        if !works_on_newer(known, since) {
            return Err(StoreError::NewerSchema { found, known });
        }
    }
    for (version, step) in (1..).zip(STEPS) {
        if version > found {
            tx.execute_batch(step)?;
            tx.execute(
                "INSERT INTO schema_version VALUES (?1, ?2)",
                params![version, now.as_millis()],
            )?;
        }
    }
    check_tables(&tx)?;
    if (1..GRANTS_GIVE_ACCESS).contains(&found) {
        block_on(regrant_all(&mut SqliteTransaction::new(&tx), now))?;
    }
    if (1..HAS_TRASH).contains(&found) {
        block_on(fill(&mut SqliteTransaction::new(&tx), now))?;
    }
    if found < known {
        tx.execute(
            "INSERT OR REPLACE INTO meta (name, value) VALUES ('compatible', ?1)",
            [COMPATIBLE_SINCE],
        )?;
    }
    let epoch: Option<i64> = tx
        .query_row("SELECT value FROM meta WHERE name = 'epoch'", [], |row| row.get(0))
        .optional()?;
    if epoch.is_none() {
        let epoch = Epoch::first(now).as_u64() as i64;
        tx.execute("INSERT INTO meta (name, value) VALUES ('epoch', ?1)", [epoch])?;
    } else if let Some(chance) = begins {
        block_on(SqliteTransaction::new(&tx).begin_epoch(now, encoding::low_bits(chance)))?;
    }
    let id = encoding::database_id(now, begins.unwrap_or(0));
    tx.execute("INSERT OR IGNORE INTO identity (name, value) VALUES ('id', ?1)", [id])?;
    tx.commit()?;
    Ok(known.max(found))
}
