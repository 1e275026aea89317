//! The families of metrics that a server has, with their meaning: the one list that the recorder,
//! the documentation and the tests share.

use metrics::Unit;
use vfs_sync_core::guardrail::SIGNATURES;
use vfs_sync_core::wire::telemetry::{Kind as RuleKind, OTHER, STOP_CODES};

use crate::routes::telemetry;

/// The kind of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A family of metrics.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Family {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// The labels, as in a query; empty if there are none.
    pub(crate) labels: &'static str,
    /// The text of `# HELP`.
    pub(crate) help: &'static str,
}

const fn counter(name: &'static str, labels: &'static str, help: &'static str) -> Family {
    Family { name, kind: Kind::Counter, labels, help }
}

const fn gauge(name: &'static str, labels: &'static str, help: &'static str) -> Family {
    Family { name, kind: Kind::Gauge, labels, help }
}

const fn histogram(name: &'static str, labels: &'static str, help: &'static str) -> Family {
    Family { name, kind: Kind::Histogram, labels, help }
}

/// All families, by topic.
pub(crate) const FAMILIES: &[Family] = &[
    gauge("vfs_sync_build_info", "version", "1, with the version of the server."),
    gauge("vfs_sync_uptime_seconds", "", "Seconds since the server began to serve."),
    gauge("process_resident_memory_bytes", "", "Resident memory of the process."),
    gauge("process_open_fds", "", "Open file descriptors of the process."),
    gauge("process_max_fds", "", "File descriptors that the process may open."),
    counter("vfs_sync_http_requests_total", "method, route, status", "Requests answered."),
    histogram(
        "vfs_sync_http_request_duration_seconds",
        "route, status",
        "Time until the head of an answer, from 1 ms to 10 min.",
    ),
    gauge("vfs_sync_http_requests_in_flight", "", "Requests that are not answered yet."),
    counter("vfs_sync_connections_ended_total", "reason", "Connections closed for want of room."),
    counter("vfs_sync_push_results_total", "status, reason", "Results of pushed operations."),
    histogram("vfs_sync_push_duration_seconds", "", "Time to decide and commit a push."),
    histogram("vfs_sync_push_operations", "", "Operations of a push."),
    histogram("vfs_sync_commit_duration_seconds", "", "Time of the database to commit."),
    histogram("vfs_sync_commit_transactions", "", "Transactions that shared a commit."),
    gauge("vfs_sync_commit_queue", "", "Transactions that wait for SQLite's writer or run."),
    counter("vfs_sync_pull_items_total", "", "Feed entries sent."),
    counter(
        "vfs_sync_pulls_refused_total",
        "",
        "Pulls whose cursor the feed cannot serve: their replicas are rebuilt.",
    ),
    histogram(
        "vfs_sync_feed_lag_entries",
        "",
        "Entries between the head of a user's feed and what an active device has acknowledged: a \
         sample of each such device a minute.",
    ),
    gauge(
        "vfs_sync_devices",
        "condition",
        "Devices that called within 7 days, by condition: active, stuck, stopped, away, revoked.",
    ),
    counter(
        "vfs_sync_guardrail_violation_total",
        "stage, code, signature",
        "Guardrail violations that clients reported.",
    ),
    counter(
        "vfs_sync_rematerialization_required_total",
        "code, signature",
        "Reports of clients that have to rebuild their replicas.",
    ),
    counter("vfs_sync_client_stops_total", "code", "Stops without a violation, as reported."),
    gauge("vfs_sync_users", "", "Users."),
    gauge("vfs_sync_items", "", "Items, deleted ones included until they are forgotten."),
    gauge("vfs_sync_register_bytes", "", "Bytes of names, metadata and encrypted forms."),
    gauge("vfs_sync_stored_bytes", "", "Bytes of contents, staged ones included."),
    gauge("vfs_sync_staged_bytes", "", "Bytes that are staged and not attached."),
    gauge("vfs_sync_open_stages", "", "Stages that are neither attached nor abandoned."),
    gauge("vfs_sync_trashed_items", "", "Items in the trash."),
    gauge("vfs_sync_trashed_bytes", "", "Bytes of contents of items in the trash."),
    counter("vfs_sync_store_errors_total", "kind", "Failures of the database, by kind."),
    counter(
        "vfs_sync_blob_store_errors_total",
        "operation, storage_code",
        "Failures of the object store.",
    ),
    gauge(
        "vfs_sync_database_connections",
        "state",
        "Connections to PostgreSQL: open, idle, waited for, and the most.",
    ),
    counter(
        "vfs_sync_database_moves_total",
        "",
        "Times that PostgreSQL was found at another place: a failover, a restart or a restore.",
    ),
    gauge("vfs_sync_database_primary", "", "1 if the database takes writes, 0 on a standby."),
    gauge("vfs_sync_database_standbys", "", "Standbys that the database knows of."),
    gauge(
        "vfs_sync_database_replication_lag_seconds",
        "",
        "Seconds by which the slowest standby is behind, where the database says so.",
    ),
    gauge("vfs_sync_event_streams", "", "Open streams of live updates."),
    counter("vfs_sync_event_heads_sent_total", "", "Hints sent on streams of live updates."),
    counter("vfs_sync_event_streams_ended_total", "reason", "Streams that the server ended."),
    counter("vfs_sync_refused_total", "share, of", "Requests beyond a share of the server."),
    counter("vfs_sync_rate_limited_total", "rate", "Requests beyond a rate."),
    counter("vfs_sync_quota_exceeded_total", "limit", "Requests beyond a user's quota."),
    counter("vfs_sync_auth_failures_total", "reason", "Requests without a valid token."),
    counter("vfs_sync_wrong_user_total", "", "Requests for another user than the token's."),
    counter(
        "vfs_sync_denied_total",
        "code",
        "Requests of revoked devices, and of disabled and deleted users.",
    ),
    counter("vfs_sync_users_deleted_total", "", "Deletions of users that came to their end."),
    counter("vfs_sync_pruned_total", "kind", "Rows that retention removed."),
    counter(
        "vfs_sync_swept_total",
        "kind",
        "Stages, versions and objects that the sweeper removed.",
    ),
    gauge(
        "vfs_sync_task_age_seconds",
        "task",
        "Seconds since a background task last succeeded: sweep, prune, sample.",
    ),
    gauge("vfs_sync_disk_free_bytes", "", "Bytes that are free on the disk of --data."),
];

/// Describes all families to the recorder, for `# HELP` and `# TYPE`.
pub(crate) fn describe() {
    for Family { name, kind, help, .. } in FAMILIES {
        let (name, help) = (*name, *help);
        match kind {
            Kind::Counter => metrics::describe_counter!(name, Unit::Count, help),
            Kind::Gauge => metrics::describe_gauge!(name, Unit::Count, help),
            Kind::Histogram => metrics::describe_histogram!(name, Unit::Count, help),
        }
    }
}

/// Begins counters whose labels have known values at zero: of one that appears with its first event,
/// a query for an increase does not see that event.
pub(crate) fn begin() {
    for family in FAMILIES.iter().filter(|one| one.kind == Kind::Counter && one.labels.is_empty()) {
        metrics::counter!(family.name).increment(0);
    }
    let known = SIGNATURES.map(|(stage, code)| RuleKind::Violation { stage: stage.as_str(), code });
    let other = RuleKind::Violation { stage: OTHER, code: OTHER };
    let stops = STOP_CODES.map(|code| RuleKind::Stop { code });
    let last = RuleKind::Stop { code: OTHER };
    for kind in known.into_iter().chain([other]).chain(stops).chain([last]) {
        telemetry::count(kind, 0);
    }
    for kind in ["unavailable", "full", "malformed_row", "no_memory", "failed"] {
        metrics::counter!("vfs_sync_store_errors_total", "kind" => kind).increment(0);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    fn sources(dir: &Path, into: &mut String) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, into);
            } else if path.extension().is_some_and(|end| end == "rs")
                && !path.ends_with("families.rs")
                // It reads what others record.
                && !path.ends_with("vitals.rs")
            {
                into.push_str(&std::fs::read_to_string(&path).unwrap());
            }
        }
    }

    /// The names in quotes that look like those of families.
    fn names(text: &str) -> BTreeSet<&str> {
        let quoted = text.split('"');
        let is_name = |part: &&str| {
            (part.starts_with("vfs_sync_") || part.starts_with("process_"))
                && part.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
        };
        quoted.filter(is_name).filter(|name| !OTHERS.contains(name)).collect()
    }

    /// Other names of that form: a channel of the database, and what spans of traces are recorded for.
    const OTHERS: [&str; 2] = ["vfs_sync_heads", "vfs_sync_traces"];

    #[test]
    fn the_code_records_these_families_and_no_others() {
        let mut code = String::new();
        let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for of in ["server/src", "store/src"] {
            sources(&crates.join(of), &mut code);
        }
        let listed: BTreeSet<&str> = FAMILIES.iter().map(|family| family.name).collect();
        assert_eq!(listed.len(), FAMILIES.len(), "each once");
        assert_eq!(names(&code), listed);
    }

    #[test]
    fn the_page_lists_every_family_with_its_meaning() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
        let page = std::fs::read_to_string(root.join("docs/metrics.md")).unwrap();
        let rows: BTreeSet<&str> = page
            .lines()
            .filter(|line| line.starts_with("| `vfs_sync_") || line.starts_with("| `process_"))
            .collect();
        let expected: Vec<String> = FAMILIES
            .iter()
            .map(|Family { name, kind, labels, help }| {
                let kind: &str = kind.into();
                format!("| `{name}` | {kind} | {labels} | {help} |")
            })
            .collect();
        let expected: BTreeSet<&str> = expected.iter().map(String::as_str).collect();
        assert_eq!(rows, expected);
    }
}
