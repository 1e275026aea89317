//! Checks of the live folders: the agent, each directory, and what is left out of it.

use serde_json::{Value, json};

use super::check::Check;
use super::site::{Site, quoted};
use crate::output::counted;
use crate::replica::live_state::{self, FolderState, State};
use crate::replica::{LiveFolder, Settings, handoff};

/// The number of problems of a folder that are shown.
const SHOWN: usize = 5;

pub(super) fn checks(site: &Site<'_>, settings: &Settings, checks: &mut Vec<Check>) {
    if settings.folders.is_empty() {
        checks.push(Check::ok("folders.agent", "no directory is kept in step by `up`"));
        return;
    }
    let running = handoff::is_running(&site.directory);
    let states = live_state::read(&site.directory);
    let at = states.as_ref().ok().and_then(|state| state.as_ref().map(|state| state.at));
    let active = settings.folders.iter().filter(|folder| !folder.paused).count();
    let check = if running {
        Check::ok("folders.agent", "`up` runs")
    } else if active == 0 {
        Check::ok("folders.agent", "`up` does not run, and all directories are paused")
    } else {
        Check::note("folders.agent", "`up` does not run: directories are not kept in step")
            .next(site.command("up"))
    };
    checks.push(check.with("running", running).with("statesAt", at));
    let states = match states {
        Ok(states) => states,
        Err(failure) => {
            checks.push(
                Check::problem("folders.state", failure.message.clone())
                    .text("reason", &failure.message)
                    .next(site.command("up")),
            );
            None
        }
    };
    for folder in &settings.folders {
        let state = states.as_ref().and_then(|states| states.of(folder));
        checks.push(check_folder(site, folder, state));
    }
}

fn check_folder(site: &Site<'_>, folder: &LiveFolder, state: Option<&FolderState>) -> Check {
    const ID: &str = "folders.state";
    let dir = folder.directory.display();
    if folder.paused {
        return Check::note(ID, format!("{dir} is paused"))
            .name("directory", &folder.directory)
            .with("state", "paused")
            .next(site.command(&format!("folder resume {}", quoted(&folder.directory))));
    }
    let readable = std::fs::read_dir(&folder.directory).map(drop);
    let problems = state.map_or(0, |state| state.problems.failures());
    let held = state.and_then(|state| state.held.as_ref());
    let list = site.command(&format!("folder problems {}", quoted(&folder.directory)));
    let check = if let Err(error) = readable {
        Check::problem(ID, format!("{dir} cannot be read: {error}"))
            .text("reason", error.to_string())
            .explained("directory")
            .next(format!("ls -ld {}", quoted(&folder.directory)))
    } else if let Some(held) = held {
        let text = format!(
            "{} of {} entries of {dir} are gone: nothing is deleted until you confirm it",
            held.entries, held.of
        );
        let confirm = format!("folder confirm-deletions {}", quoted(&folder.directory));
        Check::problem(ID, text).explained("heldDeletions").next(site.command(&confirm))
    } else if problems > 0 {
        let first = state.and_then(|state| state.problems.first.first());
        let kind = first.map_or("directory", |problem| problem.kind.as_str());
        let count = counted(problems, "problem", "problems");
        Check::problem(ID, format!("{dir} has {count}, the first one: {kind}"))
            .explained(kind)
            .next(list)
    } else if let Some(State::Waiting) = state.map(|state| state.state) {
        let reason = state.and_then(|state| state.reason.clone()).unwrap_or_default();
        Check::note(ID, format!("{dir} waits: {reason}")).text("reason", reason).next(list)
    } else if state.is_none() {
        Check::note(ID, format!("{dir} was not looked at by `up` yet")).next(site.command("up"))
    } else {
        Check::ok(ID, format!("{dir} has no problems"))
    };
    let shown: Vec<Value> = state
        .iter()
        .flat_map(|state| state.problems.first.iter().take(SHOWN))
        .map(|problem| json!({ "path": problem.path, "kind": problem.kind, "detail": problem.detail }))
        .collect();
    check
        .name("directory", &folder.directory)
        .with("state", state.map(|state| state.state))
        .with("lastInStep", state.and_then(|state| state.last_in_step))
        .with("counts", state.map(|state| &state.problems.counts))
        .with("heldEntries", held.map(|held| held.entries))
        .name("problems", shown)
}
