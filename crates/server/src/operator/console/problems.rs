//! Devices in trouble: those that stopped or are stuck, and the last reports, each with its entry of the
//! runbook.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::{Extension, Json};
use serde::Serialize;
use serde_json::Value;
use vfs_sync_core::id::{ReplicaId, UserId};
use vfs_sync_core::runbook;
use vfs_sync_core::server::device::{Condition, DeviceState, KeptReport};
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::device::DeviceView;

use super::session::{CurrentSession, note_look};
use crate::error::ApiError;
use crate::http::extract::Administrator;
use crate::state::App;

/// The time for which devices that called are looked at, in milliseconds.
const LOOKED_AT_MILLIS: i64 = 7 * 24 * 3_600_000;
/// Devices that are looked at, the last ones to call.
const MAX_DEVICES: u32 = 10_000;
/// Devices in an answer, and reports.
const MAX_SHOWN: usize = 100;
/// The age of reports that are shown, in milliseconds.
const REPORT_MILLIS: i64 = 24 * 3_600_000;
/// The least time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The part of the time that looking may take, as a divisor; a look of 200 ms is good for 2 s.
const SHARE: u32 = 10;

/// The last look at the devices, which all consoles of this process share.
#[derive(Default)]
pub(crate) struct LastLook(tokio::sync::Mutex<Option<Look>>);

struct Look {
    good_until: Instant,
    devices: Arc<Vec<DeviceState>>,
}

/// Returns the devices that called within 7 days, the last ones first, as they were at most a few
/// seconds ago.
pub(super) async fn recent_devices(app: &App) -> Result<Arc<Vec<DeviceState>>, ApiError> {
    let mut last = app.last_look.0.lock().await;
    if let Some(look) = last.as_ref().filter(|look| Instant::now() < look.good_until) {
        return Ok(Arc::clone(&look.devices));
    }
    let begun = Instant::now();
    let since = app.now().plus_millis(-LOOKED_AT_MILLIS);
    let devices = Arc::new(app.store.active_devices(since, MAX_DEVICES).await?);
    let good_until = begun + LOOK_EVERY.max(begun.elapsed() * SHARE);
    *last = Some(Look { good_until, devices: Arc::clone(&devices) });
    Ok(devices)
}

/// A device that is stopped or stuck.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Troubled {
    device: DeviceView,
    /// The runbook's entry of the signature or code, or of devices that are stuck.
    entry: Option<Value>,
}

/// A report with the device that it is of.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Reported {
    user_id: UserId,
    client_id: ReplicaId,
    name: String,
    report: KeptReport,
    entry: Option<Value>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Problems {
    at: Timestamp,
    /// The number of devices that were looked at.
    looked_at: usize,
    stopped: usize,
    stuck: usize,
    /// The numbers of devices by condition.
    conditions: BTreeMap<&'static str, usize>,
    /// The devices that are stopped or stuck, the stopped ones first, the last to call first.
    devices: Vec<Troubled>,
    /// The reports of the last day, the newest first.
    reports: Vec<Reported>,
}

/// Returns the runbook's entry of a signature, a code or a check.
fn entry(key: &str) -> Option<Value> {
    runbook::entry(key).map(runbook::Entry::to_json)
}

pub(crate) async fn problems(
    State(app): State<App>,
    Administrator(admin): Administrator,
    session: Option<Extension<CurrentSession>>,
) -> Result<Json<Problems>, ApiError> {
    note_look(&app, &admin, session.as_deref(), "problems_shown");
    let devices = recent_devices(&app).await?;
    let now = app.now();
    let (mut stopped, mut stuck, mut conditions) = (Vec::new(), Vec::new(), BTreeMap::new());
    for state in devices.iter() {
        let condition = state.condition(now);
        *conditions.entry(condition.as_str()).or_default() += 1;
        match condition {
            Condition::Stopped => stopped.push(state),
            Condition::Stuck => stuck.push(state),
            Condition::Active | Condition::Away | Condition::Revoked => {}
        }
    }
    let troubled = stopped.iter().chain(&stuck).take(MAX_SHOWN).map(|state| {
        let key = state.device.facts.stopped.as_deref().unwrap_or("devices.stuck");
        Troubled { entry: entry(key), device: DeviceView::of((*state).clone(), now, true) }
    });
    let is_recent = |report: &&KeptReport| {
        now.as_millis().saturating_sub(report.received_at.as_millis()) <= REPORT_MILLIS
    };
    let mut reports: Vec<(&DeviceState, &KeptReport)> = devices
        .iter()
        .flat_map(|state| {
            let recent = state.device.facts.reports.iter().filter(is_recent);
            recent.map(move |report| (state, report))
        })
        .collect();
    reports.sort_by_key(|(_, report)| std::cmp::Reverse(report.received_at));
    let reports = reports.into_iter().take(MAX_SHOWN).map(|(state, report)| Reported {
        user_id: state.device.user.clone(),
        client_id: state.device.client.clone(),
        name: state.device.name().to_owned(),
        entry: entry(&report.signature),
        report: report.clone(),
    });
    Ok(Json(Problems {
        at: now,
        looked_at: devices.len(),
        stopped: stopped.len(),
        stuck: stuck.len(),
        conditions,
        devices: troubled.collect(),
        reports: reports.collect(),
    }))
}
