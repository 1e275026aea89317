//! Shows the state of the live folders: `folder list`, `folder problems`, a part of `status`.

use std::path::Path;

use serde_json::{Value, json};
use vfs_sync_client::SyncClient;
use vfs_sync_core::id::ItemId;
use vfs_sync_core::time::Timestamp;
use vfs_sync_folder::report::Problem;

use super::crossing::excluded;
use super::{chosen, shown};
use crate::args::Global;
use crate::commands::replica::outstanding;
use crate::error::{Failure, Kind, Result, explain_command};
use crate::escape::escaped;
use crate::output::{Output, bytes_text, count_text, counted, table};
use crate::replica::live_state::{self, FolderState, LiveState, State};
use crate::replica::{self, LiveFolder, handoff};
use crate::report::next_step;

/// The number of problems of a folder that are shown to a person.
const SHOWN: usize = 1_000;

/// The live folders of a replica, with the states that `up` wrote.
pub(in crate::commands) struct View {
    running: bool,
    /// The time of the states; `None` if no `up` ever wrote one.
    at: Option<Timestamp>,
    folders: Vec<FolderView>,
}

/// A live folder with its state.
struct FolderView {
    live: LiveFolder,
    /// The path of the folder in the tree.
    path: String,
    /// The folders that are not on this device, with their paths in the tree.
    excluded: Vec<(ItemId, String)>,
    state: Option<FolderState>,
}

impl View {
    /// Reads the states of all live folders. Fails if the file is damaged.
    pub(in crate::commands) fn read(client: &SyncClient, replica: &Path) -> Result<Self> {
        let live = replica::read_settings(replica)?.folders;
        Self::of(client, replica, live)
    }

    fn of(client: &SyncClient, replica: &Path, live: Vec<LiveFolder>) -> Result<Self> {
        let state = if live.is_empty() { None } else { live_state::read(replica)? };
        let one = |live: LiveFolder| FolderView {
            path: shown(client, &live),
            excluded: excluded(client, &live),
            state: state.as_ref().and_then(|state: &LiveState| state.of(&live)).cloned(),
            live,
        };
        Ok(Self {
            running: handoff::is_running(replica),
            at: state.as_ref().map(|state| state.at),
            folders: live.into_iter().map(one).collect(),
        })
    }

    /// Renders the folders as JSON; the problems only as counts.
    pub(in crate::commands) fn json(&self) -> Value {
        self.json_with(|_, state| json!({ "counts": state.problems.counts }))
    }

    fn json_with(&self, problems: impl Fn(&FolderView, &FolderState) -> Value) -> Value {
        let one = |folder: &FolderView| {
            let state = folder.state.as_ref();
            json!({
                "directory": folder.live.directory,
                "item": folder.live.item,
                "path": folder.path,
                "state": folder.state_name(),
                "reason": state.and_then(|state| state.reason.as_ref()),
                "bytesPerSecond": state.and_then(|state| state.bytes_per_second),
                "lastInStep": state.and_then(|state| state.last_in_step),
                "held": state.and_then(|state| state.held.as_ref()).map(|held| {
                    json!({ "entries": held.entries, "of": held.of })
                }),
                "problems": state.map(|state| problems(folder, state)),
                "scans": state.and_then(|state| state.scans.as_ref()),
                "trustIgnore": folder.live.trust_ignore,
                "excluded": folder.excluded.iter().map(|(item, path)| {
                    json!({ "item": item, "path": path })
                }).collect::<Vec<_>>(),
            })
        };
        let folders: Vec<_> = self.folders.iter().map(one).collect();
        json!({ "running": self.running, "at": self.at, "folders": folders })
    }

    /// Describes the folders for people, each with its directory.
    pub(in crate::commands) fn lines(&self) -> Vec<(String, String)> {
        let one = |folder: &FolderView| {
            let mut text = folder.state_text();
            if let Some(at) = folder.last_in_step() {
                text.push_str(&format!("; last in step {at}"));
            }
            match folder.problems() {
                0 => {}
                count => {
                    let count = counted(count, "problem", "problems");
                    text.push_str(&format!("; {count}: see `vfs-sync folder problems`"));
                }
            }
            (folder.live.directory.to_string_lossy().into_owned(), text)
        };
        self.folders.iter().map(one).collect()
    }

    /// Describes the age of the states, if `up` does not run.
    pub(in crate::commands) fn not_running(&self) -> Option<String> {
        match self.at {
            _ if self.running || self.folders.is_empty() => None,
            Some(at) => Some(format!("`vfs-sync up` is not running; the states are of {at}")),
            None => Some("`vfs-sync up` is not running".to_owned()),
        }
    }

    /// Returns the failure of a command that finds a paused folder.
    pub(in crate::commands) fn paused(&self) -> Option<Failure> {
        let folder = self.folders.iter().find(|folder| folder.live.paused)?;
        let dir = folder.live.directory.to_string_lossy();
        let text = format!("{dir} is paused");
        let hint = format!("`vfs-sync folder resume '{dir}'` ends that");
        Some(Failure::new(Kind::Partial, text).hint(hint))
    }

    /// Returns the failure of a command that finds folders with problems.
    pub(in crate::commands) fn failure(&self) -> Option<Failure> {
        let failing =
            |folder: &&FolderView| folder.state.as_ref().is_some_and(FolderState::has_failures);
        let bad: Vec<_> = self.folders.iter().filter(failing).collect();
        let first = bad.first()?.live.directory.to_string_lossy();
        let text = match bad.len() {
            1 => format!("{first} has problems"),
            count => format!("{} directories have problems", count_text(count as u64)),
        };
        let hint = "`vfs-sync folder problems` lists them, each with your next step";
        Some(Failure::new(Kind::Partial, text).hint(hint))
    }
}

impl FolderView {
    /// Returns the state that `up` wrote, unless the folder was paused or resumed since.
    fn state(&self) -> Option<State> {
        match self.state.as_ref().map(|state| state.state) {
            _ if self.live.paused => Some(State::Paused),
            Some(State::Paused) => None,
            state => state,
        }
    }

    fn state_name(&self) -> Value {
        self.state().map_or(json!("unknown"), |state| json!(state))
    }

    fn state_text(&self) -> String {
        let mut text = self.plain_state_text();
        if !self.excluded.is_empty() {
            let paths: Vec<_> = self.excluded.iter().map(|(_, path)| path.as_str()).collect();
            text.push_str(&format!("; without {}", paths.join(", ")));
        }
        if let Some(why) = self.state.as_ref().and_then(|state| state.scans.as_ref()) {
            text.push_str(&format!("; scanned from time to time, because {why}"));
        }
        text
    }

    fn plain_state_text(&self) -> String {
        let Some(name) = self.state() else { return "not started yet".to_owned() };
        let name = match name {
            State::InStep => "in step",
            State::Working => "working",
            State::Waiting => "waiting",
            State::Paused => return "paused".to_owned(),
        };
        let Some(state) = &self.state else { return name.to_owned() };
        let mut text = name.to_owned();
        if let Some(reason) = &state.reason {
            text.push_str(&format!(": {reason}"));
        }
        if let Some(rate) = state.bytes_per_second {
            text.push_str(&format!(" ({}/s)", bytes_text(rate)));
        }
        text
    }

    fn next_step(&self, problem: &Problem) -> String {
        let directory = &self.live.directory;
        let entry = directory.join(&problem.path);
        next_step(problem.kind, &directory.to_string_lossy(), &self.path, &entry.to_string_lossy())
    }

    fn last_in_step(&self) -> Option<Timestamp> {
        self.state.as_ref()?.last_in_step
    }

    fn problems(&self) -> u64 {
        self.state.as_ref().map_or(0, |state| state.problems.total())
    }
}

pub(super) fn list(global: &Global, replica: &Path, output: Output) -> Result<()> {
    let client = replica::open(global, replica::config())?;
    let view = View::read(&client, replica)?;
    output.json(&view.json())?;
    if output.json {
        return Ok(());
    }
    let mut rows = table(&["directory", "folder", "last in step", "problems", "state"], &[3]);
    for folder in &view.folders {
        rows.add_row([
            folder.live.directory.to_string_lossy().into_owned(),
            folder.path.clone(),
            folder.last_in_step().map_or("never".to_owned(), |at| at.to_string()),
            count_text(folder.problems()),
            folder.state_text(),
        ]);
    }
    output.table(rows)?;
    if !view.running {
        let text = view.not_running();
        output.note(text.unwrap_or_else(|| "`vfs-sync up` is not running".to_owned()));
    }
    Ok(())
}

pub(super) fn problems(
    global: &Global,
    replica: &Path,
    dir: Option<&Path>,
    output: Output,
) -> Result<()> {
    let live = chosen(&replica::read_settings(replica)?, dir)?;
    let client = replica::open(global, replica::config())?;
    let view = View::of(&client, replica, live)?;
    let stopped = client.status()?.stopped.as_ref().map(outstanding::stopped);
    drop(client);
    output.json(&view.json_with(|folder, state| {
        let next = |problem: &Problem| {
            json!({
                "path": problem.path, "kind": problem.kind, "detail": problem.detail,
                "next": folder.next_step(problem),
                "explain": explain_command(problem.kind.as_str()),
            })
        };
        let first: Vec<_> = state.problems.first.iter().map(next).collect();
        json!({ "first": first, "counts": state.problems.counts })
    }))?;
    if !output.json {
        for folder in &view.folders {
            say(folder, output)?;
        }
    }
    if let Some(text) = view.not_running() {
        output.note(text);
    }
    let failing = view.failure().map(|failure| Failure { hint: None, ..failure });
    stopped.or(failing).map_or(Ok(()), Err)
}

fn say(folder: &FolderView, output: Output) -> Result<()> {
    let directory = folder.live.directory.to_string_lossy();
    let Some(state) = &folder.state else {
        return output.say(format_args!("{}: {}", escaped(&directory), folder.state_text()));
    };
    if folder.live.paused {
        output.say(format_args!("{}: paused", escaped(&directory)))?;
    } else if let (Some(State::Waiting), Some(reason)) = (folder.state(), &state.reason) {
        output.say(format_args!("{}: waiting: {}", escaped(&directory), escaped(reason)))?;
    } else if state.problems.total() == 0 {
        return output.say(format_args!("{}: nothing is left out", escaped(&directory)));
    }
    for problem in state.problems.first.iter().take(SHOWN) {
        let path = folder.live.directory.join(&problem.path);
        // The directory itself.
        let path = if problem.path == "." { &folder.live.directory } else { &path };
        let (path, detail) = (path.to_string_lossy(), &problem.detail);
        output.text(format_args!("{}: {path}: {detail}", problem.kind.as_str()))?;
        let explain = explain_command(problem.kind.as_str());
        let explain = explain.map_or(String::new(), |command| format!(" (`{command}`)"));
        output.text(format_args!("  next: {}{explain}", folder.next_step(problem)))?;
    }
    let shown = state.problems.first.len().min(SHOWN) as u64;
    let more = state.problems.total().saturating_sub(shown);
    if more > 0 {
        output.say(format_args!("… and {} more", count_text(more)))?;
    }
    Ok(())
}
