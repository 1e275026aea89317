//! Checks of the background work, by what waits for it, and of the devices.

use std::time::Duration;

use vfs_sync_core::server::device::{Condition, DeviceState};
use vfs_sync_core::time::Timestamp;
use vfs_sync_store::{Extent, MetadataStore, OldestRows};

use super::super::check::Check;
use super::super::site::quoted;
use super::Ground;
use super::database::failed;
use crate::output::counted;
use crate::server;

/// Devices that are looked at.
const MAX_DEVICES: usize = 20_000;
const PAGE: u32 = 1_000;
/// Devices that are named.
const SHOWN: usize = 20;
/// The times for which a row may wait beyond its time.
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(24 * 3_600);

pub(super) async fn checks(
    ground: &Ground<'_>,
    store: &dyn MetadataStore,
    checks: &mut Vec<Check>,
) {
    ground.progress.set("background work and devices".to_owned());
    match store.oldest_rows(ground.now).await {
        Ok(oldest) => sweeps(ground, &oldest, checks),
        Err(error) => {
            checks.push(failed(ground, "sweeps.stages", "its rows cannot be read", error))
        }
    }
    devices(ground, store, checks).await;
}

fn since(at: Timestamp, now: Timestamp) -> Duration {
    let millis = now.as_millis().saturating_sub(at.as_millis());
    Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

/// Checks each kind of background work by the oldest row that it should have removed.
fn sweeps(ground: &Ground<'_>, oldest: &OldestRows, checks: &mut Vec<Check>) {
    let (now, config) = (ground.now, &ground.config);
    // Objects that a backup holds are left by intention, and some time to catch up after it.
    let held = oldest.held_until.is_some_and(|until| since(until, now) < HOUR);
    for (id, what, at, keep, patience) in [
        ("sweeps.stages", "expired stage", oldest.stage, Duration::ZERO, HOUR),
        (
            "sweeps.contents",
            "content to remove",
            oldest.reclaim.filter(|_| !held),
            Duration::ZERO,
            HOUR,
        ),
        ("sweeps.versions", "old version", oldest.version, config.keep_versions, DAY),
        ("sweeps.trash", "deleted item", oldest.trashed, config.keep_deleted, DAY),
        ("sweeps.purges", "purged item", oldest.purging, Duration::ZERO, HOUR),
        ("sweeps.removals", "old removal in a feed", oldest.removal, config.keep_removals, DAY),
        ("sweeps.results", "old result of an operation", oldest.result, config.keep_accepted, DAY),
        ("sweeps.deletions", "step of a user's deletion", oldest.deletion, Duration::ZERO, HOUR),
    ] {
        let late = at.map(|at| since(at, now).saturating_sub(keep));
        let check = match late.filter(|late| *late > patience) {
            Some(late) => {
                let hours = late.as_secs() / 3_600;
                let text = format!("the oldest {what} waits for {hours} h beyond its time");
                Check::problem(id, text).next("journalctl -u vfs-sync -p warning --since -1h")
            }
            None => Check::ok(id, format!("no {what} waits beyond its time")),
        };
        checks.push(check.with("oldest", at).with("keptSeconds", keep.as_secs()));
    }
}

async fn devices(ground: &Ground<'_>, store: &dyn MetadataStore, checks: &mut Vec<Check>) {
    let of = match &ground.extent {
        Extent::User(user) => Some(user.clone()),
        Extent::Sample { .. } | Extent::All => None,
    };
    let (mut stopped, mut stuck) = (Vec::new(), Vec::new());
    let (mut seen, mut after) = (0, None);
    loop {
        let page = match store.devices(of.clone(), after.clone(), PAGE).await {
            Ok(page) => page,
            Err(error) => {
                checks.push(failed(ground, "devices.stopped", "the devices cannot be read", error));
                return;
            }
        };
        seen += page.len();
        let last = page.last().map(|one| (one.device.user.clone(), one.device.client.clone()));
        let is_full = page.len() == PAGE as usize;
        for state in page {
            match state.condition(server::now()) {
                Condition::Stopped => stopped.push(state),
                Condition::Stuck => stuck.push(state),
                Condition::Active | Condition::Away | Condition::Revoked => {}
            }
        }
        after = last;
        if !is_full || seen >= MAX_DEVICES {
            break;
        }
    }
    let count = counted(seen as u64, "device", "devices");
    let reason = |state: &DeviceState| state.device.facts.stopped.clone();
    checks.push(match stopped.first().and_then(|first| Some((first, reason(first)?))) {
        None => Check::ok("devices.stopped", format!("none of {count} is stopped")),
        Some((first, reason)) => {
            let text = format!("{} of {count} are stopped, one by {reason}", stopped.len());
            named(Check::problem("devices.stopped", text), &stopped)
                .with("signature", &reason)
                .explained(&reason)
                .next(list(first))
        }
    });
    checks.push(match stuck.first() {
        None => Check::ok("devices.stuck", format!("none of {count} is stuck")),
        Some(first) => {
            let text = format!("{} of {count} call, and have not got on for an hour", stuck.len());
            named(Check::problem("devices.stuck", text), &stuck)
                .with("lag", first.lag())
                .with("queue", first.device.facts.queue)
                .next(list(first))
        }
    });
}

fn named(check: Check, devices: &[DeviceState]) -> Check {
    let named = devices.iter().take(SHOWN).map(|state| {
        let device = &state.device;
        (device.user.clone(), device.client.clone(), device.facts.stopped.clone(), state.lag())
    });
    check.with("count", devices.len()).name("devices", named.collect::<Vec<_>>())
}

fn list(state: &DeviceState) -> String {
    let user = quoted(std::path::Path::new(state.device.user.as_str()));
    format!("vfs-sync admin devices list --user {user}")
}
