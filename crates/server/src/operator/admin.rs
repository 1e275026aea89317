//! The operator's listener: metrics, and whether the process is alive.

use std::sync::OnceLock;
use std::time::Duration;

use axum::Router;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;

use super::families;
use crate::router;
use crate::state::App;

/// The bounds of the buckets of times in seconds: from a fast look-up to a request that streams for
/// minutes.
const TIME_BUCKETS: [f64; 17] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    300.0, 600.0,
];
/// The bounds of the buckets of numbers: of operations, transactions and feed entries.
const COUNT_BUCKETS: [f64; 13] =
    [0.0, 1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1_000.0, 10_000.0, 100_000.0];

/// Returns the recorder of the process's metrics, which all servers in the process share.
fn recorder() -> Option<&'static PrometheusHandle> {
    static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    let install = || {
        PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &TIME_BUCKETS)
            .and_then(|builder| builder.set_buckets(&COUNT_BUCKETS))
            .and_then(PrometheusBuilder::install_recorder)
            .inspect(|_| {
                families::describe();
                families::begin();
            })
            .inspect_err(|error| tracing::warn!(%error, "another recorder of metrics is installed"))
            .ok()
    };
    HANDLE.get_or_init(install).as_ref()
}

/// Builds the routes of the operator's listener, and starts recording metrics. Without a token it
/// answers [`metrics`], whether the server is alive and ready, and the files of the console; the rest is
/// the API for operators, which needs the scope `vfs:admin` here too.
pub(crate) fn router(app: &App) -> Router {
    recorder();
    router::operated(app).merge(Router::new().route("/metrics", get(metrics)))
}

/// The interval at which recorded numbers are put into their buckets: until then each is kept.
const UPKEEP: Duration = Duration::from_secs(5);

/// Keeps the memory of the recorded numbers bounded, whether or not anybody asks for them.
pub(crate) async fn keep_up(stop: CancellationToken) {
    let Some(handle) = recorder() else { return };
    let mut ticks = tokio::time::interval(UPKEEP);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => handle.run_upkeep(),
        }
    }
}

/// Returns the metrics as Prometheus gets them; nothing if they are not recorded.
pub(super) fn rendered() -> String {
    let Some(handle) = recorder() else { return String::new() };
    handle.run_upkeep();
    handle.render()
}

async fn metrics() -> Response {
    let Some(handle) = recorder() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    handle.run_upkeep();
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], handle.render()).into_response()
}
