//! The state of the server in one answer: what the console shows first, and asks for every second.

use std::time::Instant;

use axum::extract::{Path, State};
use axum::{Extension, Json};
use http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};
use vfs_sync_core::time::Timestamp;
use vfs_sync_store::{DatabaseFacts, OldestRows};

use super::session::{CurrentSession, note_look};
use super::vitals::Vitals;
use crate::error::ApiError;
use crate::http::extract::Administrator;
use crate::operator::{admin, audit};
use crate::state::App;

/// The bound on the part of requests that fail, in the window that is looked at.
const MAX_FAILED: f64 = 0.01;
/// The bound on the time of all but one push of a hundred, in seconds.
const MAX_PUSH_SECONDS: f64 = 2.5;
/// The seconds after which a background task counts as late, as in the alert rules.
const LATE: [(&str, u64); 3] = [("sweep", 900), ("sample", 900), ("prune", 14_400)];
/// The bounds on what is left of a disk, on the lag of a standby, and on open descriptors, as in the alert rules.
const MIN_DISK_BYTES: u64 = 2_000_000_000;
const MAX_REPLICATION_LAG: u64 = 30;
const MAX_DESCRIPTORS: f64 = 0.9;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Overview {
    version: &'static str,
    now: Timestamp,
    /// The time that the database took to answer, in milliseconds.
    database_millis: f64,
    objectives: Value,
    /// The limits of users who have none of their own.
    limits: Value,
    vitals: Vitals,
}

pub(crate) async fn overview(
    State(app): State<App>,
    Administrator(admin): Administrator,
    session: Option<Extension<CurrentSession>>,
) -> Result<Json<Overview>, ApiError> {
    note_look(&app, &admin, session.as_deref(), "overview_shown");
    let begun = Instant::now();
    app.store.ping().await?;
    let database_millis = begun.elapsed().as_secs_f64() * 1_000.0;
    let config = &app.config;
    Ok(Json(Overview {
        version: env!("CARGO_PKG_VERSION"),
        now: app.now(),
        database_millis,
        objectives: json!({
            "maxFailed": MAX_FAILED,
            "maxPushSeconds": MAX_PUSH_SECONDS,
            "lateSeconds": LATE.into_iter().collect::<std::collections::BTreeMap<_, _>>(),
            "minDiskBytes": MIN_DISK_BYTES,
            "maxReplicationLagSeconds": MAX_REPLICATION_LAG,
            "maxDescriptors": MAX_DESCRIPTORS,
        }),
        limits: json!({
            "maxStoredBytes": config.max_stored_bytes,
            "maxStagedBytes": config.max_staged_bytes,
            "maxOpenStages": config.max_open_stages,
            "maxItems": config.metadata.items,
            "maxLinks": config.metadata.links,
            "maxGrants": config.metadata.grants,
            "maxRegisterBytes": config.metadata.bytes,
            "maxReplicas": config.metadata.replicas,
        }),
        vitals: Vitals::of(&admin::rendered()),
    }))
}

pub(crate) async fn database(
    State(app): State<App>,
    Administrator(admin): Administrator,
) -> Result<Json<Value>, ApiError> {
    audit::note(&app, &admin, "database_shown", &admin, "");
    let DatabaseFacts { product, clock, bytes, unused_bytes, unsafe_settings, server } =
        app.store.database_facts().await?;
    let now = app.now();
    let oldest = app.store.oldest_rows(now).await?;
    let server = server.map(|server| {
        let standbys: Vec<Value> = server
            .standbys
            .iter()
            .map(|one| {
                json!({
                    "name": one.name,
                    "state": one.state,
                    "syncState": one.sync_state,
                    "lagSeconds": one.lag,
                })
            })
            .collect();
        json!({
            "connections": server.connections.0,
            "maxConnections": server.connections.1,
            "isStandby": server.is_standby,
            "isInPlace": server.is_in_place,
            "synchronousCommit": server.synchronous_commit,
            "standbys": standbys,
            "oldestTransactionSeconds": server.oldest_transaction,
        })
    });
    Ok(Json(json!({
        "product": product,
        "clock": clock,
        "now": now,
        "bytes": bytes,
        "unusedBytes": unused_bytes,
        "unsafeSettings": unsafe_settings,
        "server": server,
        "waiting": waiting(&app, &oldest),
    })))
}

/// Describes what waits for each kind of background work: the time at which the oldest was due.
fn waiting(app: &App, oldest: &OldestRows) -> Vec<Value> {
    let config = &app.config;
    let after = |at: Option<Timestamp>, keep: std::time::Duration| {
        at.map(|at| at.plus_millis(crate::config::millis(keep)))
    };
    [
        ("sweeps.stages", oldest.stage),
        ("sweeps.contents", oldest.reclaim),
        ("sweeps.versions", after(oldest.version, config.keep_versions)),
        ("sweeps.trash", after(oldest.trashed, config.keep_deleted)),
        ("sweeps.purges", oldest.purging),
        ("sweeps.removals", after(oldest.removal, config.keep_removals)),
        ("sweeps.results", after(oldest.result, config.keep_accepted)),
        ("sweeps.deletions", oldest.deletion),
    ]
    .into_iter()
    .map(|(id, due)| json!({"id": id, "due": due}))
    .collect()
}

pub(crate) async fn run_task(
    State(app): State<App>,
    Administrator(admin): Administrator,
    Path(task): Path<String>,
) -> Result<StatusCode, ApiError> {
    let (wake, name) = match &*task {
        "sweep" => (&app.wake.sweep, "sweep"),
        "prune" => (&app.wake.prune, "prune"),
        _ => return Err(ApiError::invalid("task", "must be sweep or prune")),
    };
    wake.notify_one();
    audit::note(&app, &admin, "task_run", &admin, name);
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounds_are_those_of_the_alert_rules() {
        let rules = include_str!("../../../../../docs/alerts/rules.yml");
        let late = |task: &str| LATE.iter().find(|(name, _)| *name == task).unwrap().1;
        assert_eq!(late("sweep"), late("sample"));
        for bound in [
            format!("vfs_sync_http_requests_total[5m])) > {MAX_FAILED}"),
            format!("route=\"/v1/vfs/crdt/push\"}}[5m]))) > {MAX_PUSH_SECONDS}"),
            format!("task=~\"sweep|sample\"}} > {}", late("sweep")),
            format!("task=\"prune\"}} > {}", late("prune")),
            format!("vfs_sync_database_replication_lag_seconds) > {MAX_REPLICATION_LAG}"),
            format!("vfs_sync_disk_free_bytes) < {MIN_DISK_BYTES:e}"),
            format!("process_max_fds{{job=\"vfs-sync\"}} > {MAX_DESCRIPTORS}"),
        ] {
            let ends = |after: &str| rules.contains(&format!("{bound}{after}"));
            assert!(ends("\n") || ends(" or "), "{bound}");
        }
    }
}
