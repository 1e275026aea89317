//! Copies of a database by PostgreSQL's own tools, `pg_dump` and `pg_restore`.

use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;
use tokio_postgres::Row;

use super::hosts::{self, Hosts};
use super::rows::Columns;
use crate::backup::NamedBlob;
use crate::encoding::{BLOB_DELETED, BLOB_LIVE};
use crate::error::{Result, StoreError};

/// The rows of blobs that one query returns.
const ROWS: i64 = 10_000;

/// Copies the database to a new file.
pub(crate) async fn dump(url: &str, to: &Path) -> Result<()> {
    let mut command = Command::new("pg_dump");
    command.args(["--format=custom", "--no-owner", "--no-privileges", "--file"]).arg(to);
    run("pg_dump", command, hosts::tool_environment(url)?).await
}

/// Fills an empty database from a copy, whole or not at all.
pub(crate) async fn load(url: &str, from: &Path) -> Result<()> {
    let mut command = Command::new("pg_restore");
    let environment = hosts::tool_environment(url)?;
    let database = environment.iter().find(|(name, _)| *name == "PGDATABASE");
    let database = database.map(|(_, value)| value.clone()).unwrap_or_default();
    command
        .args(["--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction"])
        .args(["--dbname", &database])
        .arg(from);
    run("pg_restore", command, environment).await
}

/// Returns whether the database has no table of its own.
pub(crate) async fn is_free(url: &str) -> Result<bool> {
    let client = Hosts::of(url, Default::default())?.writer().await?;
    let any = "SELECT NOT EXISTS (SELECT 1 FROM pg_catalog.pg_tables WHERE schemaname NOT IN \
               ('pg_catalog', 'information_schema'))";
    Ok(client.query_one(any, &[]).await?.try_get(0)?)
}

/// Returns the blobs that a copy made just before may name, in the order of their ids: those that
/// were marked for removal since are among them.
pub(crate) async fn blobs(url: &str) -> Result<Vec<NamedBlob>> {
    let hosts = Hosts::of(url, Default::default())?;
    let client = hosts.writer().await?;
    let mut found: Vec<NamedBlob> = Vec::new();
    loop {
        let after = found.last().map_or("", |blob| blob.blob_id.as_str()).to_owned();
        let rows = client
            .query(
                "SELECT blob_id, status, size, digest FROM blobs \
                 WHERE blob_id > $1 AND status <> $2 AND size IS NOT NULL \
                 ORDER BY blob_id LIMIT $3",
                &[&after, &BLOB_DELETED, &ROWS],
            )
            .await?;
        let last = rows.len() < ROWS as usize;
        for row in &rows {
            found.push(blob(row)?);
        }
        if last {
            return Ok(found);
        }
    }
}

fn blob(row: &Row) -> Result<NamedBlob> {
    let columns = Columns { row, table: "blobs", key: "?" };
    let digest: &[u8] = columns.get(3)?;
    Ok(NamedBlob {
        blob_id: columns.parse(0)?,
        is_live: columns.get::<&str>(1)? == BLOB_LIVE,
        size: columns.unsigned(2)?,
        digest: crate::backup::digest(digest)?,
    })
}

async fn run(
    tool: &str,
    mut command: Command,
    environment: Vec<(&'static str, String)>,
) -> Result<()> {
    let failed = |text: String| StoreError::Failed(format!("{tool}: {text}"));
    command.envs(environment).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => failed(
            "it is not installed; it is in PostgreSQL's client package (Debian: postgresql-client)"
                .into(),
        ),
        _ => failed(error.to_string()),
    })?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).take(5).collect();
    Err(failed(lines.join("; ")))
}
