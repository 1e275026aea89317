//! Pulls, polls and reconciles over HTTP.

use std::time::{Duration, Instant};

use vfs_sync_core::cursor::Cursor;
use vfs_sync_core::wire::{PullPage, ReconcileRequest};

use crate::Failure;
use crate::process::Server;

/// Reads the whole feed in pages of 500 over each of `connections`, decoding every page; returns
/// the total entries per second, for the first and the last tenth of the pages, and the last page's
/// cursor.
pub(crate) async fn run(
    server: &Server,
    connections: usize,
) -> Result<(Rates, Option<Cursor>), Failure> {
    let started = Instant::now();
    let workers = (0..connections).map(|_| {
        let url = format!("{}/v1/vfs/crdt/vfs-sync", server.url);
        let token = server.token.clone();
        tokio::spawn(async move {
            let http = reqwest::Client::builder().tcp_nodelay(true).no_gzip().no_zstd().build()?;
            let mut cursor: Option<Cursor> = None;
            let mut pages = Vec::new();
            loop {
                let text =
                    cursor.as_ref().map_or(String::new(), |c| format!("&cursor={}", c.encode()));
                let answer = http
                    .get(format!("{url}?limit=500&clientId=reader{text}"))
                    .bearer_auth(&token)
                    .send()
                    .await?;
                let status = answer.status();
                let body = answer.bytes().await?;
                if status != 200 {
                    return Err(Failure::from(format!("pull failed: {status}")));
                }
                let page: PullPage = serde_json::from_slice(&body)?;
                if let Some(last) = page.items.last() {
                    cursor = Some(last.position.clone());
                }
                pages.push((started.elapsed().as_secs_f64(), page.items.len()));
                if !page.has_more {
                    return Ok((pages, cursor));
                }
            }
        })
    });
    let mut pages = Vec::new();
    let mut end = None;
    for worker in futures::future::join_all(workers).await {
        let (more, cursor) = worker??;
        pages.extend(more);
        end = cursor;
    }
    pages.sort_by(|a, b| a.0.total_cmp(&b.0));
    let rate = |pages: &[(f64, usize)], since: f64| {
        let span = pages.last().map_or(since, |page| page.0) - since;
        pages.iter().map(|page| page.1).sum::<usize>() as f64 / span
    };
    let tenth = (pages.len() / 10).max(1);
    let tail = pages.len() - tenth;
    let rates = Rates {
        all: rate(&pages, 0.0),
        first: rate(&pages[..tenth], 0.0),
        last: rate(&pages[tail..], pages[tail.saturating_sub(1)].0),
    };
    Ok((rates, end))
}

/// The rates in entries per second.
pub(crate) struct Rates {
    pub(crate) all: f64,
    pub(crate) first: f64,
    pub(crate) last: f64,
}

/// Measures the server's processor time for one empty poll and for one reconcile, in milliseconds.
pub(crate) async fn polls(server: &Server, cursor: &Cursor) -> Result<(f64, f64), Failure> {
    const ROUNDS: u32 = 2_000;
    let http = reqwest::Client::builder().tcp_nodelay(true).build()?;
    let url = format!(
        "{}/v1/vfs/crdt/vfs-sync?limit=500&clientId=reader&cursor={}",
        server.url,
        cursor.encode()
    );
    let before = server.cpu()?;
    for _ in 0..ROUNDS {
        let answer = http.get(&url).bearer_auth(&server.token).send().await?;
        let page: PullPage = serde_json::from_slice(&answer.bytes().await?)?;
        if !page.items.is_empty() {
            return Err("an empty poll was not empty".into());
        }
    }
    let poll = millis(server.cpu()? - before, ROUNDS);
    let url = format!("{}/v1/vfs/crdt/reconcile", server.url);
    let request = ReconcileRequest {
        client_id: vfs_sync_core::id::ReplicaId::new("reader")?,
        cursor: cursor.clone(),
        last_reconciled_write_ids: std::collections::BTreeMap::new(),
    };
    let before = server.cpu()?;
    for _ in 0..ROUNDS {
        let answer = http.post(&url).bearer_auth(&server.token).json(&request).send().await?;
        if answer.status() != 200 {
            return Err(format!("reconcile failed: {}", answer.text().await?).into());
        }
    }
    let reconcile = millis(server.cpu()? - before, ROUNDS);
    Ok((poll, reconcile))
}

fn millis(spent: Duration, rounds: u32) -> f64 {
    spent.as_secs_f64() * 1_000.0 / f64::from(rounds)
}
