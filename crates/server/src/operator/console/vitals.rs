//! The numbers of the metrics that the console shows, by names of its own.

use std::collections::BTreeMap;

use serde::Serialize;

/// The bounds of a histogram, with the number of values up to each.
type Buckets = Vec<(f64, u64)>;

/// The numbers of one process: counters since its start, and gauges.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Vitals {
    /// The requests of clients.
    requests: u64,
    /// The requests of clients that the server failed to serve.
    failed: u64,
    /// The requests of clients that were refused.
    refused: u64,
    /// The times of the requests of clients, in seconds.
    request_seconds: Buckets,
    /// The times of pushes, in seconds.
    push_seconds: Buckets,
    /// The results of operations, by status.
    push_results: BTreeMap<String, u64>,
    /// The feed entries sent.
    pull_items: u64,
    /// The reports of violations, by signature, without those that never came.
    violations: BTreeMap<String, u64>,
    /// The failures of the database, by kind.
    database_errors: BTreeMap<String, u64>,
    /// The failures of the object store, by operation and code.
    blob_errors: BTreeMap<String, u64>,
    /// The requests without a valid token, by reason.
    auth_failures: BTreeMap<String, u64>,
    /// The requests beyond a share or a rate, by its name.
    beyond_limits: BTreeMap<String, u64>,
    /// The devices that called within 7 days, by condition.
    devices: BTreeMap<String, u64>,
    /// The connections to PostgreSQL, by state.
    connections: BTreeMap<String, u64>,
    /// The seconds since background tasks last succeeded.
    task_seconds: BTreeMap<String, f64>,
    /// Other gauges, by the names of their families.
    gauges: BTreeMap<String, f64>,
}

/// The families of which the console shows the one number.
const GAUGES: [&str; 19] = [
    "vfs_sync_uptime_seconds",
    "vfs_sync_http_requests_in_flight",
    "vfs_sync_event_streams",
    "vfs_sync_commit_queue",
    "vfs_sync_users",
    "vfs_sync_items",
    "vfs_sync_register_bytes",
    "vfs_sync_stored_bytes",
    "vfs_sync_staged_bytes",
    "vfs_sync_open_stages",
    "vfs_sync_trashed_items",
    "vfs_sync_trashed_bytes",
    "vfs_sync_database_primary",
    "vfs_sync_database_standbys",
    "vfs_sync_database_replication_lag_seconds",
    "vfs_sync_disk_free_bytes",
    "process_resident_memory_bytes",
    "process_open_fds",
    "process_max_fds",
];

/// The routes that are not of clients, by their starts.
const NOT_OF_CLIENTS: [&str; 6] =
    ["/v1/vfs/admin", "/console", "/metrics", "/healthz", "/readyz", "/v1/openapi"];

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a count, which a metric has as a double"
)]
fn whole(value: f64) -> u64 {
    value as u64
}

impl Vitals {
    /// Reads the numbers from the text that Prometheus gets.
    pub(super) fn of(text: &str) -> Self {
        let mut found = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<f64>() else { continue };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            found.add(name, labels.trim_end_matches('}'), value);
        }
        found
    }

    fn add(&mut self, name: &str, labels: &str, value: f64) {
        let label = |name| label(labels, name);
        let of_client = || {
            let route = label("route").unwrap_or_default();
            !NOT_OF_CLIENTS.iter().any(|start| route.starts_with(start))
        };
        let mut by = |map: fn(&mut Self) -> &mut BTreeMap<String, u64>, key: Option<String>| {
            if value > 0.0 {
                *map(self).entry(key.unwrap_or_default()).or_default() += whole(value);
            }
        };
        match name {
            "vfs_sync_push_results_total" => by(|it| &mut it.push_results, label("status")),
            "vfs_sync_guardrail_violation_total" => {
                by(|it| &mut it.violations, label("signature"));
            }
            "vfs_sync_store_errors_total" => by(|it| &mut it.database_errors, label("kind")),
            "vfs_sync_blob_store_errors_total" => {
                let (operation, code) = (label("operation"), label("storage_code"));
                let key =
                    operation.zip(code).map(|(operation, code)| format!("{operation} {code}"));
                by(|it| &mut it.blob_errors, key);
            }
            "vfs_sync_auth_failures_total" => by(|it| &mut it.auth_failures, label("reason")),
            "vfs_sync_refused_total" => by(|it| &mut it.beyond_limits, label("share")),
            "vfs_sync_rate_limited_total" => by(|it| &mut it.beyond_limits, label("rate")),
            "vfs_sync_devices" => by(|it| &mut it.devices, label("condition")),
            "vfs_sync_database_connections" => by(|it| &mut it.connections, label("state")),
            "vfs_sync_task_age_seconds" => {
                self.task_seconds.insert(label("task").unwrap_or_default(), value);
            }
            "vfs_sync_pull_items_total" => self.pull_items += whole(value),
            "vfs_sync_http_requests_total" if of_client() => {
                self.requests += whole(value);
                match label("status").unwrap_or_default().as_bytes().first() {
                    Some(b'5') => self.failed += whole(value),
                    Some(b'4') => self.refused += whole(value),
                    _ => {}
                }
            }
            "vfs_sync_http_request_duration_seconds_bucket" if of_client() => {
                add_bucket(&mut self.request_seconds, label("le"), value);
            }
            "vfs_sync_push_duration_seconds_bucket" => {
                add_bucket(&mut self.push_seconds, label("le"), value);
            }
            _ if GAUGES.contains(&name) => {
                self.gauges.insert(name.to_owned(), value);
            }
            _ => {}
        }
    }
}

/// Adds the number of values up to a bound; the last bound, which is infinite, has that of all.
fn add_bucket(buckets: &mut Buckets, bound: Option<String>, value: f64) {
    let bound = match bound.as_deref() {
        // JSON has no such number.
        Some("+Inf") => f64::MAX,
        Some(text) => text.parse().unwrap_or(f64::MAX),
        None => return,
    };
    match buckets.binary_search_by(|(known, _)| known.total_cmp(&bound)) {
        Ok(at) => buckets[at].1 += whole(value),
        Err(at) => buckets.insert(at, (bound, whole(value))),
    }
}

/// Returns the value of a label, of labels as the text format has them.
fn label(labels: &str, wanted: &str) -> Option<String> {
    let mut rest = labels;
    loop {
        let (name, after) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut characters = after.char_indices();
        let end = loop {
            match characters.next()? {
                (_, '\\') => match characters.next()?.1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (at, '"') => break at,
                (_, other) => value.push(other),
            }
        };
        if name.trim_start_matches(',') == wanted {
            return Some(value);
        }
        rest = &after[end + 1..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::families::FAMILIES;

    #[test]
    fn numbers_of_clients_are_summed_up_and_those_of_operators_are_not() {
        let text = r#"# HELP vfs_sync_http_requests_total Requests answered.
vfs_sync_http_requests_total{method="POST",route="/v1/vfs/crdt/push",status="200"} 7
vfs_sync_http_requests_total{method="GET",route="/v1/vfs/crdt/vfs-sync",status="503"} 2
vfs_sync_http_requests_total{method="GET",route="/v1/vfs/admin/overview",status="200"} 900
vfs_sync_http_requests_total{method="GET",route="none",status="404"} 1
vfs_sync_http_request_duration_seconds_bucket{route="/v1/vfs/crdt/push",status="200",le="0.01"} 5
vfs_sync_http_request_duration_seconds_bucket{route="/v1/vfs/crdt/push",status="200",le="+Inf"} 7
vfs_sync_http_request_duration_seconds_bucket{route="none",status="404",le="0.001"} 1
vfs_sync_http_request_duration_seconds_bucket{route="none",status="404",le="0.01"} 1
vfs_sync_guardrail_violation_total{stage="pull",code="x",signature="pull:x"} 3
vfs_sync_guardrail_violation_total{stage="pull",code="y",signature="pull:y"} 0
vfs_sync_task_age_seconds{task="sweep"} 1.5
vfs_sync_users 4
no number
"#;
        let found = Vitals::of(text);
        assert_eq!((found.requests, found.failed, found.refused), (10, 2, 1));
        assert_eq!(found.request_seconds, [(0.001, 1), (0.01, 6), (f64::MAX, 7)]);
        assert_eq!(found.violations, BTreeMap::from([("pull:x".to_owned(), 3)]));
        assert_eq!(found.task_seconds["sweep"], 1.5);
        assert_eq!(found.gauges["vfs_sync_users"], 4.0);
    }

    #[test]
    fn every_number_is_of_a_family() {
        let is_family = |name: &str| FAMILIES.iter().any(|family| family.name == name);
        let source = include_str!("vitals.rs").split("#[cfg(test)]").next().unwrap();
        let quoted = source.split('"').filter(|part| {
            (part.starts_with("vfs_sync_") || part.starts_with("process_"))
                && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        });
        let names: Vec<&str> = quoted.collect();
        assert!(names.len() > 25);
        for name in names {
            assert!(is_family(name.strip_suffix("_bucket").unwrap_or(name)), "{name}");
        }
    }

    #[test]
    fn labels_are_read_with_their_escapes() {
        assert_eq!(label(r#"a="1",b="x\"y\\z\n,c=",d="2""#, "b").as_deref(), Some("x\"y\\z\n,c="));
        assert_eq!(label(r#"a="1",b="2""#, "b").as_deref(), Some("2"));
        for odd in ["", "a", "a=", "a=\"", "a=\"x\\"] {
            assert_eq!(label(odd, "a"), None, "{odd}");
        }
    }
}
