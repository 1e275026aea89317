//! The device's doctor: checks of a replica, its token, the network and the server, as values.

mod admin;
mod advice;
mod attach;
mod bundle;
mod check;
mod fix;
mod folders;
mod network;
mod redact;
mod replica;
mod retry;
mod server;
mod site;
mod token;

use std::path::Path;

use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;
use vfs_sync_core::limits;
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::PROTOCOL_VERSION;

use self::check::{Check, Outcome};
use self::fix::Action;
use self::replica::Local;
use self::site::Site;
use crate::args::{Doctor, Global};
use crate::error::{Failure, Kind, Result};
use crate::escape::escaped;
use crate::output::{Output, counted};
use crate::replica::{Settings, handoff, live_state};
use crate::shutdown;

/// The age of the oldest operation from which a queue does not drain, if everything else is well.
const NEVER_DRAINS: i64 = 3_600 * 1_000;

/// The result of an examination.
struct Examined {
    checks: Vec<Check>,
    local: Option<Local>,
    /// The actions that were taken before, to resolve what an earlier examination found.
    actions: Vec<Action>,
}

pub(super) use self::admin::doctor as server_doctor;

pub(super) async fn doctor(
    global: &Global,
    args: Doctor,
    output: Output,
    stop: CancellationToken,
) -> Result<()> {
    let site = Site::new(global)?;
    let progress = output.progress("examining");
    let examined = tokio::select! {
        examined = work(&site, &args) => examined?,
        () = stop.cancelled() => return Err(shutdown::interrupted()),
    };
    drop(progress);
    if let Some(file) = &args.bundle {
        bundle::write(&site, file, &examined).await?;
        output.note(format_args!("written to {}", escaped(&file.to_string_lossy())));
    }
    report(&site, &examined, args.bundle.as_deref(), output)
}

/// Retries and fixes as the arguments say, then examines.
async fn work(site: &Site<'_>, args: &Doctor) -> Result<Examined> {
    let retried = match args.retry {
        true => Some(retry::retry(site).await?),
        false => None,
    };
    let actions = match args.fix {
        true => {
            let found = examine(site).await;
            fix::fix(site, &found.checks, found.local.as_ref()).await
        }
        false => Vec::new(),
    };
    let mut examined = examine(site).await;
    // First, because it was first.
    examined.checks.splice(0..0, retried);
    Ok(Examined { actions, ..examined })
}

/// Makes all checks in their order. It changes nothing on this device or at the server.
async fn examine(site: &Site<'_>) -> Examined {
    let now = live_state::now();
    let mut checks = Vec::new();
    let settings = replica::settings(site, &mut checks);
    let local = replica::file(site, &mut checks);
    if let Some(local) = &local {
        replica::work(site, local, &mut checks);
    }
    let export = replica::exports(site, local.as_ref(), &mut checks);
    checks.push(replica::disk(site));
    if let Some(settings) = &settings {
        folders::checks(site, settings, &mut checks);
        beyond(site, settings, local.as_ref(), now, &mut checks).await;
    } else {
        for id in ["token.present", "network.address"] {
            checks.push(Check::skipped(id, "there are no settings"));
        }
        server::skipped("there are no settings", &mut checks);
    }
    if let Some(local) = &local {
        checks.push(failing(site, local, &checks));
        drains(local, now, &site.directory, &mut checks);
    }
    by_a_wrong_clock(&mut checks);
    let advice =
        advice::check(site, settings.as_ref(), local.as_ref(), export.as_ref(), &checks, now);
    if let Some(advice) = &advice {
        let damaged = ["replica.file", "replica.integrity"];
        for check in checks.iter_mut().filter(|one| one.is_problem() && damaged.contains(&one.id)) {
            // Nothing else is left to do with a file that cannot be read.
            check.next = check.next.take().or_else(|| advice.next.clone());
        }
        for check in checks.iter_mut().filter(|check| advice::is_revoked(check)) {
            check.next.clone_from(&advice.next);
        }
    }
    checks.extend(advice);
    checks.push(versions(&checks));
    for check in &mut checks {
        if check.outcome == Outcome::Problem && check.next.is_none() {
            check.next = check.entry().map(|entry| site.command_of(entry));
        }
    }
    Examined { checks, local, actions: Vec::new() }
}

/// Checks what lies between the replica and the server, and the server.
async fn beyond(
    site: &Site<'_>,
    settings: &Settings,
    local: Option<&Local>,
    now: Timestamp,
    checks: &mut Vec<Check>,
) {
    let user = local.map(|local| &local.state.user).or(settings.user.as_ref());
    let has_token = token::checks(site, settings, user, now, checks);
    let reached = network::checks(site, settings, checks).await;
    let because = match (&reached, has_token, local) {
        (None, ..) => "the server is not reached",
        (_, false, _) => "there is no token",
        (_, _, None) => "the replica cannot be read",
        (Some(_), true, Some(_)) => "",
    };
    let (Some((transport, _)), Some(local)) = (reached.filter(|_| has_token), local) else {
        server::skipped(because, checks);
        if local.is_some_and(|local| !local.uploads.is_empty()) {
            checks.push(Check::skipped("sync.attach", because));
        }
        return;
    };
    let there = server::checks(site, &transport, &local.state, checks).await;
    let there = there.as_ref().map(|there| &there.state);
    if local.uploads.is_empty()
        || checks.iter().any(|one| one.id == "server.user" && one.is_problem())
    {
        return;
    }
    let uploads = &local.uploads;
    checks.push(attach::check(site, &transport, &local.state, there, uploads, now).await);
}

/// Makes a token that is not valid by this device's clock a note, if the server takes it.
fn by_a_wrong_clock(checks: &mut [Check]) {
    let taken = checks.iter().any(|one| one.id == "server.user" && one.outcome == Outcome::Ok);
    let expiry = checks.iter_mut().find(|one| one.id == "token.expiry" && one.is_problem());
    if let Some(check) = expiry.filter(|_| taken) {
        check.outcome = Outcome::Note;
        check.summary.push_str(", by this device's clock; the server takes it");
    }
}

/// Checks whether attempts to synchronise fail, in the light of what else was found.
fn failing(site: &Site<'_>, local: &Local, found: &[Check]) -> Check {
    const ID: &str = "sync.failing";
    let Some(failing) = &local.state.failing else {
        return Check::ok(ID, "the last attempt to synchronise did not fail");
    };
    let text = format!("attempts fail since {}: {}", failing.since, failing.message);
    let is_ok = |id: &str| found.iter().any(|check| check.id == id && check.outcome == Outcome::Ok);
    // What is resolved now, the next attempt finds resolved.
    let resolved = match failing.key.as_str() {
        "network" => true,
        "unauthorized" | "wrong_user" => is_ok("server.user"),
        _ => false,
    };
    let check = if resolved { Check::note(ID, text) } else { Check::problem(ID, text) };
    check
        .with("key", vfs_sync_core::runbook::entry(&failing.key).map(|entry| entry.key))
        .with("since", failing.since)
        .with("at", failing.at)
        .text("message", &failing.message)
        .explained(&failing.key)
        .next(site.command("sync"))
}

/// Makes an old queue a problem if `up` runs and nothing else explains it.
fn drains(local: &Local, now: Timestamp, directory: &Path, checks: &mut [Check]) {
    let Some((queued, _)) = &local.oldest else { return };
    let age = now.as_millis().saturating_sub(queued.operation.occurred_at.as_millis());
    if age < NEVER_DRAINS || !handoff::is_running(directory) || checks.iter().any(Check::is_problem)
    {
        return;
    }
    for check in checks.iter_mut().filter(|check| check.id == "sync.queue") {
        check.outcome = Outcome::Problem;
    }
}

fn versions(found: &[Check]) -> Check {
    let version = env!("CARGO_PKG_VERSION");
    let check = Check::ok("versions", format!("vfs-sync {version}, protocol {PROTOCOL_VERSION}"))
        .with("version", version)
        .with("protocol", PROTOCOL_VERSION)
        .with("maxPullLimit", limits::MAX_PULL_LIMIT);
    let old = |check: &&Check| {
        check.entry().is_some_and(|entry| entry.key == "upgrade_required") && check.is_problem()
    };
    if !found.iter().any(|check| old(&check)) {
        return check;
    }
    let text = format!("vfs-sync {version} is too old for the server");
    check.becomes(Outcome::Problem, text).explained("upgrade_required")
}

fn report(
    site: &Site<'_>,
    examined: &Examined,
    bundle: Option<&Path>,
    output: Output,
) -> Result<()> {
    let mut document = Map::new();
    document.insert("replica".into(), site.directory.to_string_lossy().into());
    document.insert("bundle".into(), json!(bundle.map(Path::to_string_lossy)));
    show(document, &examined.checks, &examined.actions, output)
}

/// Prints the checks, after the actions that were taken before; `document` has the other fields of the
/// JSON document.
///
/// # Errors
/// Problems are a failure, with the exit code 1.
fn show(
    mut document: Map<String, Value>,
    checks: &[Check],
    actions: &[Action],
    output: Output,
) -> Result<()> {
    let count = |outcome| checks.iter().filter(|check| check.outcome == outcome).count() as u64;
    let (problems, notes) = (count(Outcome::Problem), count(Outcome::Note));
    document.insert("at".into(), json!(live_state::now()));
    document.insert("checks".into(), checks.iter().map(Check::json).collect());
    document.insert("problems".into(), problems.into());
    document.insert("notes".into(), notes.into());
    document.insert("actions".into(), actions.iter().map(Action::json).collect());
    output.json(&document)?;
    if !output.json {
        actions.iter().try_for_each(|action| output.say(action.text()))?;
        for check in checks {
            if !output.quiet || check.is_problem() {
                check.lines().into_iter().try_for_each(|line| output.text(line))?;
            }
        }
    }
    let Some(first) = checks.iter().find(|check| check.is_problem()) else {
        return output.say(format_args!("no problem found; {}", counted(notes, "note", "notes")));
    };
    let text = counted(problems, "problem", "problems");
    let failure = Failure::new(Kind::Failed, format!("{text} found, the first one: {}", first.id));
    let key = first.entry().map_or(first.id, |entry| entry.key);
    Err(failure.explained(key))
}
