//! Reports of clients: counted, logged with their devices, and kept with them.

use axum::extract::State;
use http::StatusCode;
use vfs_sync_core::server::device::Sighting;
use vfs_sync_core::wire::device::word;
use vfs_sync_core::wire::telemetry::{
    Counted, Kind, MAX_REPORTS, MAX_TELEMETRY_BYTES, Report, TelemetryRequest,
};

use crate::admission::rates::Origin;
use crate::error::ApiError;
use crate::http::extract::{CallerDevice, RawBody};
use crate::state::App;

pub(crate) async fn telemetry(
    State(app): State<App>,
    origin: Origin,
    CallerDevice(caller): CallerDevice,
    raw: RawBody,
) -> Result<StatusCode, ApiError> {
    let user = origin.user.clone();
    let (request, _memory): (TelemetryRequest, _) =
        app.reader(&user).json(&raw.headers, raw.body, MAX_TELEMETRY_BYTES).await?;
    let TelemetryRequest { client_id, client_version, reports } = request;
    if reports.len() > MAX_REPORTS {
        let sentence = format!("reports has at most {MAX_REPORTS} elements");
        return Err(ApiError::too_large(sentence).with("maxReports", MAX_REPORTS));
    }
    app.rates.reports(&origin, reports.len())?;
    app.check_device(&user, caller.as_ref(), &client_id).await?;
    let now = app.now();
    let seen = match caller.filter(|caller| caller.client == client_id) {
        Some(caller) => caller.sighting(&user, now),
        None => Sighting {
            user: user.clone(),
            client: client_id,
            at: now,
            address: origin.address.map(|address| address.to_string()),
            description: None,
        },
    };
    let device = seen.client.clone();
    let counted: Vec<Counted> = reports.into_iter().map(Report::counted).collect();
    let fresh = app.store.record_reports(&user, seen, counted, now).await?;
    let (user, version) = (app.pseudonyms.of(&user), word(&client_version));
    for report in &fresh {
        count(report.kind, 1);
        tracing::warn!(
            user,
            device = %device,
            version,
            signature = report.kind.signature(),
            stage = report.kind.stage(),
            code = report.kind.code(),
            details = %serde_json::Value::Object(report.details.clone()),
            occurred_at = %report.occurred_at,
            "a client reports",
        );
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Counts so many reports of a kind.
pub(crate) fn count(kind: Kind, reports: u64) {
    let signature = kind.signature();
    match kind {
        Kind::Violation { stage, code } => metrics::counter!(
            "vfs_sync_guardrail_violation_total",
            "stage" => stage, "code" => code, "signature" => signature.clone(),
        )
        .increment(reports),
        Kind::Stop { code } => {
            metrics::counter!("vfs_sync_client_stops_total", "code" => code).increment(reports);
        }
    }
    if kind.is_rematerialization() {
        metrics::counter!(
            "vfs_sync_rematerialization_required_total",
            "code" => kind.code(), "signature" => signature,
        )
        .increment(reports);
    }
}
