//! Pushes over HTTP, durable when acknowledged, and the raw engine writing the same rows.

use std::path::Path;
use std::time::Instant;

use rusqlite::types::Value;
use vfs_sync_core::id::{OpId, WriteId};
use vfs_sync_core::operation::{Action, Basis};
use vfs_sync_core::wire::{PushRequest, StateResponse};

use crate::Failure;
use crate::process::Server;
use crate::workload::{Ids, Workload};

/// The number of operations in a push.
pub(crate) const BATCH: usize = 500;

/// Pushes `operations` over `connections` at once, each with its own replica; returns operations
/// per second over the first tenth, over the last tenth, and over all.
pub(crate) async fn run(
    server: &Server,
    name: &str,
    ids: Ids,
    operations: usize,
    connections: usize,
) -> Result<Rates, Failure> {
    let started = Instant::now();
    let per_connection = operations / connections / BATCH;
    let workers = (0..connections).map(|index| {
        let url = format!("{}/v1/vfs/crdt/push", server.url);
        let token = server.token.clone();
        let replica = format!("{name}-{index}");
        tokio::spawn(async move {
            let http = reqwest::Client::builder().tcp_nodelay(true).build()?;
            let mut workload = Workload::new(&replica, ids);
            let mut done = Vec::with_capacity(per_connection);
            for _ in 0..per_connection {
                let body = serde_json::to_vec(&workload.push(BATCH))?;
                let answer = http
                    .post(&url)
                    .bearer_auth(&token)
                    .header("content-type", "application/json")
                    .body(body)
                    .send()
                    .await?;
                let status = answer.status();
                let text = answer.text().await?;
                if status != 200 || text.matches("\"applied\"").count() != BATCH {
                    return Err(Failure::from(format!("push failed: {status} {text:.300}")));
                }
                done.push(started.elapsed().as_secs_f64());
            }
            Ok(done)
        })
    });
    let mut times = Vec::new();
    for worker in futures::future::join_all(workers).await {
        times.extend(worker??);
    }
    times.sort_by(f64::total_cmp);
    let rate = |times: &[f64], since: f64| {
        let span = times.last().copied().unwrap_or(since) - since;
        (times.len() * BATCH) as f64 / span
    };
    let tenth = (times.len() / 10).max(1);
    let tail = times.len() - tenth;
    Ok(Rates {
        first: rate(&times[..tenth], 0.0),
        last: rate(&times[tail..], times[tail.saturating_sub(1)]),
        all: rate(&times, 0.0),
    })
}

/// Creates `operations` files as one replica, then deletes them; returns deletions per second. With
/// `with_basis` the deletions state the whole feed as their basis.
pub(crate) async fn deletions(
    server: &Server,
    name: &str,
    operations: usize,
    with_basis: bool,
) -> Result<f64, Failure> {
    let url = format!("{}/v1/vfs/crdt/push", server.url);
    let http = reqwest::Client::builder().tcp_nodelay(true).build()?;
    let send = async |request: &PushRequest| {
        let answer = http.post(&url).bearer_auth(&server.token).json(request).send().await?;
        let text = answer.text().await?;
        match text.matches("\"applied\"").count() == request.operations.len() {
            true => Ok(()),
            false => Err(Failure::from(format!("push failed: {text:.300}"))),
        }
    };
    let mut workload = Workload::new(name, Ids::UuidV7);
    let mut made = Vec::new();
    for _ in 0..operations / BATCH {
        let request = workload.push(BATCH);
        send(&request).await?;
        made.push(request.operations);
    }
    let state = format!("{}/v1/vfs/crdt/state?clientId={name}", server.url);
    let state = http.get(&state).bearer_auth(&server.token).send().await?.bytes().await?;
    let state: StateResponse = serde_json::from_slice(&state)?;
    let basis = with_basis.then(|| Basis::from(state.feed_head));
    let started = Instant::now();
    let count = (operations / BATCH * BATCH) as u64;
    for mut deletions in made {
        for op in &mut deletions {
            op.op_id = OpId::new(uuid::Uuid::now_v7().to_string())?;
            op.write_id = WriteId::new(op.write_id.get() + count).ok_or("a write id")?;
            op.basis.clone_from(&basis);
            op.action = Action::Delete;
            op.occurred_at = op.occurred_at.plus_millis(1_000_000_000);
        }
        let client_id = deletions.first().ok_or("an empty push")?.replica_id.clone();
        send(&PushRequest { client_id, operations: deletions }).await?;
    }
    Ok(count as f64 / started.elapsed().as_secs_f64())
}

/// The rates in operations per second.
pub(crate) struct Rates {
    pub(crate) first: f64,
    pub(crate) last: f64,
    pub(crate) all: f64,
}

/// Writes the rows of a server's database into a new one with the same schema and settings, in
/// commits of one push's rows; returns operations per second.
pub(crate) fn raw_sqlite(from: &Path, to: &Path, operations: usize) -> Result<f64, Failure> {
    let source = rusqlite::Connection::open(from)?;
    let target = rusqlite::Connection::open(to)?;
    let page_size: i64 = source.pragma_query_value(None, "page_size", |row| row.get(0))?;
    target.pragma_update(None, "page_size", page_size)?;
    target.pragma_update(None, "journal_mode", "wal")?;
    target.pragma_update(None, "synchronous", "full")?;
    target.pragma_update(None, "cache_size", -64_000)?;
    let mut schema = source.prepare(
        "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'",
    )?;
    for sql in schema.query_map([], |row| row.get::<_, String>(0))? {
        target.execute_batch(&sql?)?;
    }
    let mut tables = Vec::new();
    let names: Vec<String> = source
        .prepare(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'",
        )?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    for name in names {
        let count: i64 =
            source.query_row(&format!("SELECT count(*) FROM {name}"), [], |row| row.get(0))?;
        let count = usize::try_from(count)?;
        // The other tables have a few rows for each user or replica, which a push does not write.
        if count >= operations / 2 {
            tables.push((name, count));
        }
    }
    let commits = operations.div_ceil(BATCH);
    let mut spent = 0.0;
    let mut readers = Vec::new();
    for (name, count) in &tables {
        let statement = source.prepare(&format!("SELECT * FROM {name}"))?;
        readers.push((name, count.div_ceil(commits), statement));
    }
    let mut rows: Vec<_> = Vec::new();
    for (name, per_commit, statement) in &mut readers {
        let columns = statement.column_count();
        let marks = vec!["?"; columns].join(",");
        let insert = target.prepare(&format!("INSERT INTO {name} VALUES ({marks})"))?;
        rows.push((*per_commit, columns, insert, statement.query([])?));
    }
    for _ in 0..commits {
        let mut batch: Vec<Vec<Vec<Value>>> = Vec::new();
        for (per_commit, columns, _, reader) in &mut rows {
            let mut part = Vec::with_capacity(*per_commit);
            while part.len() < *per_commit {
                let Some(row) = reader.next()? else { break };
                part.push((0..*columns).map(|at| row.get(at)).collect::<Result<Vec<Value>, _>>()?);
            }
            batch.push(part);
        }
        let start = Instant::now();
        target.execute_batch("BEGIN IMMEDIATE")?;
        for ((_, _, insert, _), part) in rows.iter_mut().zip(batch) {
            for row in part {
                insert.execute(rusqlite::params_from_iter(row))?;
            }
        }
        target.execute_batch("COMMIT")?;
        spent += start.elapsed().as_secs_f64();
    }
    Ok(operations as f64 / spent)
}
