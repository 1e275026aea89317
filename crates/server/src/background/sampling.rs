//! Numbers that nobody's request counts: taken once a minute in the background, each by a bounded
//! look, so that a scrape reads only what is in memory.

use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use vfs_sync_core::server::device::{ACTIVE_MILLIS, Condition};
use vfs_sync_store::{StoreError, Totals};

use crate::state::App;

/// The interval between two samples of the database.
const SAMPLE_EVERY: Duration = Duration::from_secs(60);
/// The interval between two looks at the process.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Devices of a sample, the last ones to call.
const MAX_DEVICES: u32 = 10_000;
/// The time since a device's last call for which it is counted, in milliseconds.
const COUNTED_MILLIS: i64 = 7 * 24 * 3_600_000;

/// A background task whose success an operator watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    Sweep,
    Prune,
    Sample,
}

const TASKS: [(Task, &str); 3] =
    [(Task::Sweep, "sweep"), (Task::Prune, "prune"), (Task::Sample, "sample")];

/// The times at which the background tasks last succeeded, first of all that of the start.
pub(crate) struct Successes(Mutex<[Instant; 3]>);

impl Default for Successes {
    fn default() -> Self {
        Self(Mutex::new([Instant::now(); 3]))
    }
}

impl Successes {
    /// Notes that a task succeeded.
    pub(crate) fn note(&self, task: Task) {
        let mut all = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        all[task as usize] = Instant::now();
    }

    fn ages(&self) -> [Duration; 3] {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).map(|at| at.elapsed())
    }
}

#[allow(clippy::cast_precision_loss, reason = "a metric is a double")]
fn set(name: &'static str, value: u64) {
    metrics::gauge!(name).set(value as f64);
}

/// Samples regularly, until `stop` is cancelled.
pub(crate) async fn keep_up(app: App, stop: CancellationToken) {
    let begun = Instant::now();
    metrics::gauge!("vfs_sync_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sampled: Option<Instant> = None;
    let work = async {
        loop {
            looks.tick().await;
            metrics::gauge!("vfs_sync_uptime_seconds").set(begun.elapsed().as_secs_f64());
            look(&app);
            if sampled.is_none_or(|at| at.elapsed() >= SAMPLE_EVERY) {
                sampled = Some(Instant::now());
                match sample(&app).await {
                    Ok(()) => app.successes.note(Task::Sample),
                    Err(error) => tracing::debug!(%error, "the database cannot be sampled"),
                }
            }
            for ((_, name), age) in TASKS.into_iter().zip(app.successes.ages()) {
                metrics::gauge!("vfs_sync_task_age_seconds", "task" => name).set(age.as_secs_f64());
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
}

/// Looks at the process and its disk.
fn look(app: &App) {
    if let Some(bytes) = resident_bytes(Path::new("/proc/self/statm")) {
        set("process_resident_memory_bytes", bytes);
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        set("process_open_fds", open.count() as u64);
    }
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    set("process_max_fds", limit.current.unwrap_or(u64::MAX));
    if let Some(directory) = &app.config.data
        && let Ok(disk) = rustix::fs::statvfs(directory)
    {
        set("vfs_sync_disk_free_bytes", disk.f_bavail.saturating_mul(disk.f_frsize));
    }
}

/// Reads the resident pages of a process; `None` on a system without such a file.
fn resident_bytes(statm: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(statm).ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    pages.checked_mul(u64::try_from(rustix::param::page_size()).ok()?)
}

/// Takes the sums over all users, and the conditions of the devices that called last.
async fn sample(app: &App) -> Result<(), StoreError> {
    let Totals {
        users,
        items,
        register_bytes,
        stored_bytes,
        staged_bytes,
        open_stages,
        feed_positions: _,
        trashed_items,
        trashed_bytes,
        is_primary,
        standbys,
        replication_lag,
    } = app.store.totals().await?;
    for (name, value) in [
        ("vfs_sync_users", users),
        ("vfs_sync_items", items),
        ("vfs_sync_register_bytes", register_bytes),
        ("vfs_sync_stored_bytes", stored_bytes),
        ("vfs_sync_staged_bytes", staged_bytes),
        ("vfs_sync_open_stages", open_stages),
        ("vfs_sync_trashed_items", trashed_items),
        ("vfs_sync_trashed_bytes", trashed_bytes),
        ("vfs_sync_database_primary", is_primary.into()),
        ("vfs_sync_database_standbys", standbys),
    ] {
        set(name, value);
    }
    metrics::gauge!("vfs_sync_database_replication_lag_seconds")
        .set(replication_lag.unwrap_or(0.0));
    sample_devices(app).await
}

#[allow(clippy::cast_precision_loss, reason = "a metric is a double")]
async fn sample_devices(app: &App) -> Result<(), StoreError> {
    let now = app.now();
    let since = now.plus_millis(-COUNTED_MILLIS);
    let found = app.store.active_devices(since, MAX_DEVICES).await?;
    let conditions = [
        Condition::Active,
        Condition::Stuck,
        Condition::Stopped,
        Condition::Away,
        Condition::Revoked,
    ];
    let mut counts = [0_u32; 5];
    for state in &found {
        counts[state.condition(now) as usize] += 1;
        let age = now.as_millis() - state.device.last_seen.as_millis();
        if let Some(lag) = state.lag().filter(|_| age <= ACTIVE_MILLIS) {
            metrics::histogram!("vfs_sync_feed_lag_entries").record(lag as f64);
        }
    }
    for (condition, count) in conditions.into_iter().zip(counts) {
        metrics::gauge!("vfs_sync_devices", "condition" => condition.as_str())
            .set(f64::from(count));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_the_second_number_of_pages() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "900 20 3 4 0 6 0").unwrap();
        let page = u64::try_from(rustix::param::page_size()).unwrap();
        assert_eq!(resident_bytes(file.path()), Some(20 * page));
        std::fs::write(file.path(), "nonsense").unwrap();
        assert_eq!(resident_bytes(file.path()), None);
    }
}
