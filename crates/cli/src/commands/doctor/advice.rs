//! The way back if the replica does not fit the server any more, or is damaged.

use vfs_sync_client::{ExportedCounts, GoodExport};
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::code;

use super::check::Check;
use super::replica::Local;
use super::site::{Site, quoted};
use crate::output::counted;
use crate::replica::Settings;

/// Advises whether to rematerialise or to hydrate; `None` if neither is needed.
pub(super) fn check(
    site: &Site<'_>,
    settings: Option<&Settings>,
    local: Option<&Local>,
    export: Option<&(GoodExport, ExportedCounts)>,
    found: &[Check],
    now: Timestamp,
) -> Option<Check> {
    const ID: &str = "recovery";
    let is_problem = |id: &str| found.iter().any(|check| check.id == id && check.is_problem());
    // A newer program reads what it wrote.
    let newer = |check: &Check| check.entry().is_some_and(|entry| entry.key == "newerReplica");
    let file = |check: &&Check| check.id == "replica.file" && check.is_problem();
    let unusable = found.iter().find(file).is_some_and(|check| !newer(check));
    let damaged = unusable || is_problem("replica.integrity");
    let apart =
        is_problem("sync.stopped") || is_problem("server.feed") || is_problem("server.writeIds");
    if damaged {
        return Some(damaged_replica(site, settings, export, now));
    }
    if found.iter().any(is_revoked) {
        return Some(revoked_device(site, settings, local, now));
    }
    let (local, true) = (local?, apart) else { return None };
    let state = &local.state;
    let offered = state.pending + state.acknowledged + state.uploads;
    let text = format!(
        "if it lasts, rematerialise: the replica is rebuilt beside itself from the server's state; its \
         queue of {} and {}, and what the server has lost, are offered again; nothing is lost",
        counted(state.pending + state.acknowledged, "operation", "operations"),
        counted(state.uploads, "content", "contents"),
    );
    Some(
        Check::note(ID, text)
            .with("advice", "rematerialise")
            .with("offeredAgain", offered)
            .with("lost", 0)
            .next(site.command("rematerialise")),
    )
}

/// Returns whether a check found that the device is revoked.
pub(super) fn is_revoked(check: &Check) -> bool {
    check.is_problem() && check.entry().is_some_and(|entry| entry.key == code::DEVICE_REVOKED)
}

fn damaged_replica(
    site: &Site<'_>,
    settings: Option<&Settings>,
    export: Option<&(GoodExport, ExportedCounts)>,
    now: Timestamp,
) -> Check {
    const ID: &str = "recovery";
    let dir = &site.directory;
    let anew = Anew::of(site, settings, now);
    let (begin, options, sync, aside) = (&anew.begin, &anew.options, &anew.sync, &anew.aside);
    let Some((export, counts)) = export else {
        let text = "the replica is damaged, and keeps no good export: it is moved aside, never \
                    deleted, and a new one gets everything that the server has; lost is what was never \
                    sent";
        return Check::note(ID, text)
            .with("advice", "init")
            .with("lost", "what was never sent")
            .next(format!("{begin} init {options} && {sync}"));
    };
    // The export moves with the directory.
    let file = export.path.strip_prefix(dir).unwrap_or(&export.path);
    let file = quoted(&aside.join(file));
    let text = format!(
        "the replica is damaged: it is moved aside, never deleted, and hydrated from its good export of \
         {}, with {}; {} of it are offered again; lost is what was done after it and never sent, and \
         contents that were not uploaded, whose bytes stay in the directory aside",
        export.made_at,
        counted(counts.items, "item", "items"),
        counted(counts.queued, "queued operation", "queued operations"),
    );
    Check::note(ID, text)
        .with("advice", "hydrate")
        .with("export", export.made_at)
        .with("offeredAgain", counts.queued)
        .with("lost", "what was done after the export and never sent")
        .next(format!("{begin} state hydrate {file} {options} && {sync}"))
}

/// Advises another replica: a revoked device is never served again under its id.
fn revoked_device(
    site: &Site<'_>,
    settings: Option<&Settings>,
    local: Option<&Local>,
    now: Timestamp,
) -> Check {
    let anew = Anew::of(site, settings, now);
    let begin = match settings.is_some_and(|settings| settings.signed_in().is_some()) {
        true => format!("{} login --server {}", anew.begin, anew.server),
        false => format!("{} init {}", anew.begin, anew.options),
    };
    let state = local.map(|local| &local.state);
    let unsent = state.map(|state| (state.pending + state.acknowledged, state.uploads));
    let (operations, uploads) = unsent.unwrap_or_default();
    let text = format!(
        "the device is revoked, and this replica is served no longer: it is moved aside, never deleted, \
         and a new one gets everything that the server has; what was never sent stays in the one aside: {} \
         and {}",
        counted(operations, "operation", "operations"),
        counted(uploads, "content", "contents"),
    );
    Check::note("recovery", text)
        .with("advice", "init")
        .with("lost", 0)
        .with("unsent", operations + uploads)
        .next(format!("{begin} && {}", anew.sync))
}

/// The parts of the commands that make another replica in the place of this one.
struct Anew {
    /// The directory to which this replica is moved.
    aside: std::path::PathBuf,
    /// Moves it, and begins a command of the new one.
    begin: String,
    server: String,
    options: String,
    sync: String,
}

impl Anew {
    fn of(site: &Site<'_>, settings: Option<&Settings>, now: Timestamp) -> Self {
        let dir = &site.directory;
        let stamp: String = now.to_string().chars().filter(char::is_ascii_digit).take(14).collect();
        let aside = std::path::PathBuf::from(format!("{}.aside-{stamp}", dir.display()));
        let server = settings
            .map_or("URL".to_owned(), |settings| quoted(std::path::Path::new(&settings.server)));
        let token = settings.and_then(|settings| settings.token_file.as_ref());
        let token = token.map(|file| format!(" --token-file {}", quoted(file))).unwrap_or_default();
        let user = settings.and_then(|settings| settings.user.as_ref());
        let user =
            user.map(|user| format!(" --user {}", quoted(std::path::Path::new(user.as_str()))));
        let user = user.unwrap_or_default();
        let replica = quoted(dir);
        Self {
            begin: format!("mv {replica} {} && vfs-sync --replica {replica}", quoted(&aside)),
            options: format!("--server {server}{token}{user}"),
            sync: format!("vfs-sync --replica {replica} sync"),
            aside,
            server,
        }
    }
}
