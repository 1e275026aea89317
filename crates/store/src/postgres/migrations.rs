//! The schema, step by step. A database records how many steps it has applied.

use std::collections::BTreeSet;

use deadpool_postgres::{Client, GenericClient};
use vfs_sync_core::cursor::Epoch;
use vfs_sync_core::time::Timestamp;

use super::topics::trash::fill;
use super::transaction::PostgresTransaction;
use crate::backend::schema::{COMPATIBLE_SINCE, DECIDED_FOR, tables, works_on_newer};
use crate::command::users::members::regrant_all;
use crate::encoding;
use crate::error::{Result, StoreError};
use crate::open::SchemaVersion;

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

/// The id of the lock that a migration holds, so that only one of several programs migrates.
const LOCK: i64 = 0x7666_735F_7379_6E63;

/// Returns the version of the database's schema.
pub(super) async fn version(client: &impl GenericClient) -> Result<SchemaVersion> {
    let known = STEPS.len() as i64;
    let there = client.query_one("SELECT to_regclass('schema_version') IS NOT NULL", &[]).await?;
    if !there.try_get::<_, bool>(0)? {
        return Ok(SchemaVersion { found: 0, known });
    }
    let row = client.query_one("SELECT coalesce(max(version), 0) FROM schema_version", &[]).await?;
    Ok(SchemaVersion { found: row.try_get(0)?, known })
}

/// Rejects a database that lacks a table of its schema.
pub(super) async fn check_tables(client: &impl GenericClient) -> Result<()> {
    let missing = "SELECT name FROM unnest($1::TEXT[]) AS name WHERE to_regclass(name) IS NULL";
    let tables: Vec<&str> = tables(STEPS).into_iter().collect();
    if let Some(row) = client.query(missing, &[&tables]).await?.first() {
        return Err(StoreError::MissingTable { table: row.try_get(0)? });
    }
    Ok(())
}

/// Migrates the database to this program's schema; returns its version.
pub(super) async fn migrate(client: &mut Client, now: Timestamp) -> Result<i64> {
    let tx = client.transaction().await?;
    tx.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK]).await?;
    let SchemaVersion { found, known } = version(&tx).await?;
    if found == 0 {
        tx.batch_execute(
            "CREATE TABLE IF NOT EXISTS schema_version \
             (version BIGINT PRIMARY KEY, applied_at BIGINT NOT NULL)",
        )
        .await?;
    }
    if found > known {
        let row = tx.query_opt("SELECT value FROM meta WHERE name = 'compatible'", &[]).await?;
        if !works_on_newer(known, row.map(|row| row.try_get(0)).transpose()?) {
            return Err(StoreError::NewerSchema { found, known });
        }
    }
    for (version, step) in (1i64..).zip(STEPS) {
        if version > found {
            tx.batch_execute(step).await?;
            let applied_at = now.as_millis();
            tx.execute("INSERT INTO schema_version VALUES ($1, $2)", &[&version, &applied_at])
                .await?;
        }
    }
    check_tables(&tx).await?;
    if (1..GRANTS_GIVE_ACCESS).contains(&found) {
        regrant_all(&mut PostgresTransaction::new(&tx, BTreeSet::new()), now).await?;
    }
    if (1..HAS_TRASH).contains(&found) {
        fill(&mut PostgresTransaction::new(&tx, BTreeSet::new()), now).await?;
    }
    if found < known {
        tx.execute(
            "INSERT INTO meta (name, value) VALUES ('compatible', $1) \
             ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            &[&COMPATIBLE_SINCE],
        )
        .await?;
    }
    let epoch = Epoch::first(now).as_u64() as i64;
    tx.execute(
        "INSERT INTO meta (name, value) VALUES ('epoch', $1) ON CONFLICT (name) DO NOTHING",
        &[&epoch],
    )
    .await?;
    tx.execute(
        "INSERT INTO identity (name, value) VALUES ('id', $1) ON CONFLICT (name) DO NOTHING",
        &[&encoding::database_id(now, encoding::chance())],
    )
    .await?;
    tx.commit().await?;
    Ok(known.max(found))
}
