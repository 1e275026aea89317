//! Checks of the replica itself: its settings, file, rows, disk, and what waits in it.

use std::cell::RefCell;
use std::path::Path;

use serde_json::{Value, json};
use vfs_sync_client::{
    ClientError, ExportedCounts, GoodExport, Inspection, QueuedOp, QueuedUpload, RejectedOp,
    SyncState,
};
use vfs_sync_core::runbook::{self, Entry};
use vfs_sync_core::wire::PushReason;

use super::check::Check;
use super::site::{Site, quoted};
use crate::error::Kind;
use crate::output::{bytes_text, count_text, counted};
use crate::replica::{self, Settings, handoff};

/// The free space on the replica's disk below which it is a problem.
const LITTLE_ROOM: u64 = 16 << 20;
/// The free space on the replica's disk below which it is a note.
const SOME_ROOM: u64 = 512 << 20;
/// The number of queued contents that are looked at.
const UPLOADS: usize = 1_000;
/// The number of rejected operations whose reasons are shown.
const REJECTED: usize = 20;

/// The facts about a replica that can be read.
pub(super) struct Local {
    pub(super) state: SyncState,
    /// The oldest operation that waits, with its item's path.
    pub(super) oldest: Option<(QueuedOp, Option<String>)>,
    pub(super) uploads: Vec<QueuedUpload>,
    /// The path of the first content's item.
    pub(super) upload_path: Option<String>,
    pub(super) rejected: Vec<RejectedOp>,
    pub(super) rejected_upload: Option<String>,
}

/// Checks the settings; returns them if they can be read.
pub(super) fn settings(site: &Site<'_>, checks: &mut Vec<Check>) -> Option<Settings> {
    const ID: &str = "replica.settings";
    let shown = site.directory.display();
    match replica::read_settings(&site.directory) {
        Ok(settings) => {
            let text = format!("the replica in {shown} is one of {}", settings.server);
            checks.push(
                Check::ok(ID, text)
                    .name("directory", &site.directory)
                    .name("server", &settings.server)
                    .name("user", &settings.user)
                    .with("folders", settings.folders.len())
                    .with("insecureHttp", settings.insecure_http),
            );
            Some(settings)
        }
        Err(failure) => {
            let has_file = site.directory.join("replica.db").exists();
            let next = match failure.kind {
                Kind::NotFound if has_file => site.command("doctor --fix"),
                Kind::NotFound => site.command("init --server URL --token-file FILE"),
                _ => format!("cat {}", quoted(&site.directory.join("settings.json"))),
            };
            checks.push(
                Check::problem(ID, failure.message.clone())
                    .name("directory", &site.directory)
                    .text("reason", &failure.message)
                    .with("replicaFile", has_file)
                    .next(next),
            );
            None
        }
    }
}

/// Checks the replica's file; returns what can be read of it. `up` gives the replica away for a
/// moment.
pub(super) fn file(site: &Site<'_>, checks: &mut Vec<Check>) -> Option<Local> {
    const ID: &str = "replica.file";
    // The failure as a check: the error itself does not leave the loop that waits for `up`.
    let unused = RefCell::new(None);
    let open = || {
        Inspection::open(&site.directory)
            .inspect_err(|error| *unused.borrow_mut() = Some(unusable(site, error)))
    };
    let mut inspection = match handoff::open(&site.directory, open) {
        Ok(inspection) => inspection,
        Err(failure) => {
            let check = unused.into_inner();
            checks.push(check.unwrap_or_else(|| Check::problem(ID, failure.message)));
            for id in ["replica.integrity", "replica.contents", "sync.stopped", "sync.queue"] {
                checks.push(Check::skipped(id, "the replica's file is not read"));
            }
            return None;
        }
    };
    checks.push(Check::ok(ID, "the replica's file is one of this program, of its present format"));
    checks.push(integrity(&mut inspection));
    match local(&mut inspection) {
        Ok(local) => Some(local),
        Err(error) => {
            checks.push(
                Check::problem(
                    "sync.queue",
                    format!("the replica's state cannot be read: {error}"),
                )
                .text("error", error.to_string())
                .explained(&error.key())
                .next(site.command("state export state.json")),
            );
            None
        }
    }
}

fn unusable(site: &Site<'_>, error: &ClientError) -> Check {
    const ID: &str = "replica.file";
    let check = match error {
        ClientError::InUse(_) => {
            let text = "another command uses the replica: it is not looked at";
            Check::note(ID, text)
                .next(format!("fuser -v {}", quoted(&site.directory.join("replica.lock"))))
        }
        ClientError::OlderReplica { .. } => {
            Check::note(ID, error.to_string()).next(site.command("status"))
        }
        ClientError::NewerReplica { .. } => {
            Check::problem(ID, error.to_string()).next("vfs-sync --version")
        }
        ClientError::NoReplica(_) => Check::problem(ID, "the replica's file is missing"),
        _ => Check::problem(ID, error.to_string()),
    };
    check.text("error", error.to_string()).explained(&error.key())
}

fn integrity(inspection: &mut Inspection) -> Check {
    const ID: &str = "replica.integrity";
    let problem = |reason: String| {
        Check::problem(ID, format!("the replica's file is damaged: {reason}"))
            .text("reason", reason)
            .explained("corruptReplica")
    };
    match inspection.integrity() {
        Ok(problems) if problems.is_empty() => {}
        Ok(problems) => return problem(problems.join("; ")),
        Err(error) => return problem(error.to_string()),
    }
    match inspection.verify() {
        Ok(rows) => {
            let count = counted(rows, "row", "rows");
            Check::ok(ID, format!("SQLite finds the file whole, and its {count} can be read"))
                .with("rows", rows)
        }
        Err(error) => problem(error.to_string()),
    }
}

fn local(inspection: &mut Inspection) -> Result<Local, ClientError> {
    let state = inspection.state()?;
    let oldest = match inspection.oldest_operation()? {
        Some(queued) => {
            let path = inspection.path(&queued.operation.item_id)?;
            Some((queued, path))
        }
        None => None,
    };
    let uploads = inspection.uploads(UPLOADS)?;
    let upload_path = match uploads.first() {
        Some(upload) => inspection.path(&upload.item_id)?,
        None => None,
    };
    let rejected = inspection.rejected(REJECTED)?;
    let rejected_upload = inspection.rejected_upload_reason()?;
    Ok(Local { state, oldest, uploads, upload_path, rejected, rejected_upload })
}

/// Checks what stopped, waits, was rejected or lost.
pub(super) fn work(site: &Site<'_>, local: &Local, checks: &mut Vec<Check>) {
    checks.push(stopped(site, local));
    checks.push(queue(site, local));
    checks.push(uploads(site, local));
    checks.push(contents(site, local));
    checks.push(rejected(site, local));
    let lost = local.state.lost;
    checks.push(match lost {
        0 => Check::ok("sync.recover", "no change is listed as lost by a restored server"),
        _ => {
            let count = counted(lost, "change", "changes");
            Check::problem(
                "sync.recover",
                format!("{count} that a restored server lost could not be offered again"),
            )
            .with("count", lost)
            .next(site.command("recover"))
        }
    });
}

fn stopped(site: &Site<'_>, local: &Local) -> Check {
    const ID: &str = "sync.stopped";
    let Some(reason) = &local.state.stopped else {
        return Check::ok(ID, "synchronising is not stopped");
    };
    let next = match runbook::entry(&reason.signature) {
        Some(entry) if needs_no_retry(entry) => site.command_of(entry),
        _ => site.command("doctor --retry"),
    };
    Check::problem(ID, format!("stopped: {}: {}", reason.signature, reason.message))
        .with("signature", runbook::entry(&reason.signature).map(|entry| entry.key))
        .text("message", &reason.message)
        .text("details", &reason.details)
        .explained(&reason.signature)
        .next(next)
}

/// Returns whether the runbook names another step than a retry, and not the doctor itself.
fn needs_no_retry(entry: &Entry) -> bool {
    !entry.command.starts_with("vfs-sync doctor")
}

/// Returns the reason why the queue waits, as far as the replica knows it.
fn waits_for(local: &Local) -> (String, Option<&'static str>) {
    if let Some(reason) = &local.state.stopped {
        let key = runbook::entry(&reason.signature).map(|entry| entry.key);
        return (format!("synchronising is stopped by {}", reason.signature), key);
    }
    if let Some(failing) = &local.state.failing {
        let key = runbook::entry(&failing.key).map(|entry| entry.key);
        return (format!("synchronising fails since {}: {}", failing.since, failing.message), key);
    }
    ("the next synchronisation".to_owned(), None)
}

fn queue(site: &Site<'_>, local: &Local) -> Check {
    const ID: &str = "sync.queue";
    let state = &local.state;
    let check = match &local.oldest {
        None => Check::ok(ID, "no operation waits to be pushed"),
        Some((queued, path)) => {
            let operation = &queued.operation;
            let json: Value = serde_json::from_str(&operation.to_json()).unwrap_or_default();
            let kind = json["opType"].as_str().unwrap_or_default().to_owned();
            let at = path.clone().unwrap_or_else(|| operation.item_id.to_string());
            let (why, key) = waits_for(local);
            let before = state.rejected + state.rejected_uploads;
            let mut text = format!(
                "{} to push; the oldest ({kind} of {at}) is of {} and waits for {why}",
                counted(state.pending, "operation waits", "operations wait"),
                operation.occurred_at,
            );
            if before > 0 {
                text.push_str(&format!("; before it {} refused", counted(before, "was", "were")));
            }
            let check = Check::note(ID, text)
                .with("opType", kind)
                .with("writeId", operation.write_id)
                .with("since", operation.occurred_at)
                .name("opId", &operation.op_id)
                .name("item", &operation.item_id)
                .name("path", path)
                .with("held", queued.state == vfs_sync_client::QueuedState::Held)
                .text("waitsFor", &why)
                .with("refusalsBefore", before)
                .next(site.command("sync"));
            key.map_or(check.clone(), |key| check.explained(key))
        }
    };
    check.with("pending", state.pending).with("acknowledged", state.acknowledged)
}

fn uploads(site: &Site<'_>, local: &Local) -> Check {
    const ID: &str = "sync.uploads";
    let count = local.state.uploads;
    if count == 0 {
        return Check::ok(ID, "no content waits to be uploaded").with("count", count);
    }
    let refused = local.uploads.iter().find(|upload| upload.reason.is_some());
    let first = refused.or(local.uploads.first());
    let at = local.upload_path.clone().unwrap_or_default();
    let waiting = counted(count, "content waits", "contents wait");
    let check = match (first, refused.and_then(|upload| upload.reason.as_ref())) {
        (_, Some(reason)) => {
            let key = runbook::find(reason).into_iter().next().map(|entry| entry.key);
            let check = Check::problem(ID, format!("{waiting} to be uploaded: {reason}"))
                .text("waitsFor", reason);
            let check = check.explained(key.unwrap_or("network"));
            let next = check.entry().map(|entry| site.command_of(entry)).unwrap_or_default();
            check.next(next)
        }
        (_, None) => {
            let (why, _) = waits_for(local);
            let text = format!("{waiting} to be uploaded; the oldest ({at}) waits for {why}");
            Check::note(ID, text).text("waitsFor", why).next(site.command("sync"))
        }
    };
    check
        .with("count", count)
        .with("since", first.and_then(|upload| upload.queued_at))
        .with("size", first.map(|upload| upload.size))
        .name("item", first.map(|upload| &upload.item_id))
        .name("path", &local.upload_path)
}

fn contents(site: &Site<'_>, local: &Local) -> Check {
    const ID: &str = "replica.contents";
    let lost: Vec<_> = local.uploads.iter().filter(|upload| !upload.on_disk).collect();
    if lost.is_empty() {
        return Check::ok(ID, "the bytes of all contents that wait are on this device");
    }
    let count = counted(lost.len() as u64, "content", "contents");
    Check::problem(ID, format!("the bytes of {count} that wait are no longer on this device"))
        .with("count", lost.len())
        .name("items", lost.iter().take(5).map(|upload| &upload.item_id).collect::<Vec<_>>())
        .next(site.command("queue"))
}

fn rejected(site: &Site<'_>, local: &Local) -> Check {
    const ID: &str = "sync.rejected";
    let (operations, contents) = (local.state.rejected, local.state.rejected_uploads);
    if operations + contents == 0 {
        return Check::ok(ID, "nothing was rejected");
    }
    let reasons: Vec<Value> = local
        .rejected
        .iter()
        .map(|one| json!({ "reason": one.reason, "detail": one.detail }))
        .collect();
    let first = local.rejected.first().and_then(|one| one.reason);
    let key = first.map_or("sync.rejected", PushReason::as_str).to_owned();
    let text = match (operations, contents) {
        (0, contents) => counted(contents, "content was rejected", "contents were rejected"),
        (operations, 0) => {
            counted(operations, "operation was rejected", "operations were rejected")
        }
        (operations, contents) => format!(
            "{} operations and {} contents were rejected",
            count_text(operations),
            count_text(contents)
        ),
    };
    let why = match (&first, &local.rejected_upload) {
        (Some(_), _) => format!(": {key}"),
        (None, Some(reason)) => format!(": {reason}"),
        _ => String::new(),
    };
    Check::problem(ID, format!("{text} for good{why}"))
        .with("operations", operations)
        .with("contents", contents)
        .text("reasons", reasons)
        .text("contentReason", &local.rejected_upload)
        .explained(&key)
        .next(site.command("rejected"))
}

/// Checks the good exports that the replica keeps; returns the newest that can be hydrated.
pub(super) fn exports(
    site: &Site<'_>,
    local: Option<&Local>,
    checks: &mut Vec<Check>,
) -> Option<(GoodExport, ExportedCounts)> {
    const ID: &str = "replica.exports";
    let exports = match GoodExport::list(&site.directory) {
        Ok(exports) => exports,
        Err(error) => {
            checks.push(Check::note(ID, error.to_string()).text("error", error.to_string()));
            return None;
        }
    };
    let whole = exports.iter().find_map(|one| Some((one.clone(), one.check().ok()?)));
    let count = counted(exports.len() as u64, "good export", "good exports");
    let check = match &whole {
        Some((newest, _)) => {
            let text = format!("the replica keeps {count}, the newest of {}", newest.made_at);
            Check::ok(ID, text).with("newest", newest.made_at).with("bytes", newest.size)
        }
        None if !exports.is_empty() => {
            Check::note(ID, format!("none of the {count} can be hydrated"))
                .next(site.command("sync"))
        }
        None if local.is_some_and(|local| local.state.cursor.is_some()) => {
            let text = "the replica keeps no good export yet: the next settled pull makes one";
            Check::note(ID, text).next(site.command("sync"))
        }
        None => Check::ok(ID, "the replica has nothing to export yet"),
    };
    checks.push(check.with("count", exports.len()));
    whole
}

/// Checks the disk of the replica.
pub(super) fn disk(site: &Site<'_>) -> Check {
    disk_of("replica.disk", "replica", &site.directory)
}

/// Checks the disk of a directory, whose owner is a `replica` or a `server`.
pub(super) fn disk_of(id: &'static str, whose: &str, dir: &Path) -> Check {
    let stat = match rustix::fs::statvfs(dir) {
        Ok(stat) => stat,
        Err(error) => {
            return Check::note(id, format!("the disk cannot be looked at: {error}"))
                .text("reason", error.to_string());
        }
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let read_only = stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY)
        || rustix::fs::access(dir, rustix::fs::Access::WRITE_OK).is_err();
    // A file system without a table of inodes says 0 of 0.
    let no_inodes = stat.f_files > 0 && stat.f_favail == 0;
    let next = format!("df -h {0}; df -i {0}", quoted(dir));
    let check = if read_only {
        Check::problem(id, format!("the {whose}'s directory cannot be written"))
            .next(format!("ls -ld {0}; findmnt -T {0}", quoted(dir)))
    } else if no_inodes {
        Check::problem(id, format!("the {whose}'s disk has no room for one more file")).next(next)
    } else if free < LITTLE_ROOM {
        let text = format!("the {whose}'s disk is full: {} are free", bytes_text(free));
        Check::problem(id, text).next(next)
    } else if free < SOME_ROOM {
        let text = format!("the {whose}'s disk has little room: {} are free", bytes_text(free));
        Check::note(id, text).next(next)
    } else {
        Check::ok(id, format!("the {whose}'s disk has room: {} are free", bytes_text(free)))
    };
    check.with("freeBytes", free).with("readOnly", read_only)
}
