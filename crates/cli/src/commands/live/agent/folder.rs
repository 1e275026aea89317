//! One live folder: what is due, its import and its export.

mod marking;

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;
use tokio_util::sync::CancellationToken;
use vfs_sync_client::SyncClient;
use vfs_sync_core::cursor::Cursor;
use vfs_sync_core::id::ItemId;
use vfs_sync_core::time::Timestamp;
use vfs_sync_folder::aside;
use vfs_sync_folder::disk::names;
use vfs_sync_folder::export::{self, ExportOptions, ExportReport, Part};
use vfs_sync_folder::import::{self, ImportOptions, ImportReport, Looks};
use vfs_sync_folder::report::{Problem, ProblemKind, Problems};
use vfs_sync_folder::scan::Scanner;
use vfs_sync_folder::scope::Scope;
use vfs_sync_folder::watcher::Watcher;

use super::super::{check, shown};
use super::board::Board;
use super::remember;
use crate::error::{Failure, Kind, Result};
use crate::escape::escaped;
use crate::output::{Output, bytes_text, count_text, counted};
use crate::replica::live_state::{FolderState, Held, Scanned, State};
use crate::replica::{self, LiveFolder, ScanRequest, crossing};
use crate::report::{export_text, held_deletions, held_removals, import_text, next_step};
use crate::shutdown;

/// The interval of scans where changes are not noticed otherwise.
const SCAN_AT_LEAST: Duration = Duration::from_secs(30);
/// The interval of scans in any case.
const SCAN_EVERY: Duration = Duration::from_secs(3_600);
/// The ratio of the interval of scans to their duration, where changes are not noticed otherwise.
const SCAN_RATIO: u32 = 50;
/// The time after which a folder that could not be read or written is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(10);
/// The time after which changed files are looked at again: a disk's clock may be coarse, and a
/// change right after the first look would not show.
const SETTLES_AFTER: Duration = Duration::from_secs(3);
/// The times after which entries that could not be written are tried again: the first one, which
/// doubles, and the last.
const RETRY_LEFT_OUT: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3_600));
/// The greatest number of problems of which a folder remembers that they were shown.
const PROBLEMS_REMEMBERED: usize = 10_000;

/// The problems of an export that the next import takes as changes, or reports.
const BY_IMPORT: [ProblemKind; 3] =
    [ProblemKind::Differs, ProblemKind::TypeChanged, ProblemKind::Kept];

pub(super) struct Folder {
    pub(super) live: LiveFolder,
    pub(super) watcher: Watcher,
    output: Output,
    looks: Looks,
    /// True once an import has seen all that the directory has: what is missing after that was deleted.
    seen: bool,
    /// The time of the next scan, if nothing is noticed before.
    scan_due: Instant,
    /// The time of a scan that completes what is under way.
    follow_up: Option<Instant>,
    /// The part of the directory that the next import visits.
    scope: Scope,
    /// True if the tree may have changed since the last export.
    pub(super) export: bool,
    /// The part of the tree that the next export writes.
    part: Part,
    /// The problems of the last export that are changes of the directory for the next import.
    left: Problems,
    /// The number of entries that the last export left out because they are missing here.
    missing: u64,
    /// The position of the feed at the last complete export.
    written: Option<Cursor>,
    /// The time after which entries that could not be written are tried again.
    retry: Duration,
    /// The failure of the last import or export.
    failed: Option<String>,
    /// The reasons why deletions of the last import, and removals of the last export, wait for the
    /// user.
    held: (Option<String>, Option<String>),
    /// The number of entries that the last import and export left out.
    left_out: (u64, u64),
    /// The number of files whose contents the server does not have yet.
    awaited: u64,
    shown_problems: BTreeSet<(String, ProblemKind)>,
    /// The time of the next look at displaced files.
    tidy_due: Instant,
    /// The time of the next look through the trash.
    empty_due: Instant,
    /// The problems of the last import and export.
    problems: (Problems, Problems),
    /// The deletions of the last import that wait for the user.
    held_entries: Option<Held>,
    /// The last time at which the folder was in step.
    pub(super) last_in_step: Option<Timestamp>,
    /// The last scan that the user asked for and that is done.
    scanned: Option<Scanned>,
    /// The lock of the directory, once this agent has it.
    lock: Option<File>,
    /// True once an import has resolved what a crash has left.
    resolved: bool,
}

impl Folder {
    pub(super) fn new(live: LiveFolder, output: Output) -> Self {
        let watcher = Watcher::new(&live.directory, true);
        Self {
            seen: live.joined,
            live,
            watcher,
            output,
            looks: Looks::default(),
            scan_due: Instant::now(),
            follow_up: None,
            scope: Scope::Whole,
            export: true,
            part: Part::whole(),
            left: Problems::default(),
            missing: 0,
            written: None,
            retry: RETRY_LEFT_OUT.0,
            failed: None,
            held: (None, None),
            left_out: (0, 0),
            awaited: 0,
            shown_problems: BTreeSet::new(),
            tidy_due: Instant::now(),
            empty_due: Instant::now(),
            problems: (Problems::default(), Problems::default()),
            held_entries: None,
            last_in_step: None,
            scanned: None,
            lock: None,
            resolved: false,
        }
    }

    /// Takes over what an earlier run found, until the folder was looked at.
    pub(super) fn begin_with(&mut self, earlier: FolderState) {
        self.last_in_step = earlier.last_in_step;
        self.looks = Looks::begin(earlier.held.is_some());
        self.held_entries = earlier.held;
        self.scanned = earlier.scanned;
        let own = [ProblemKind::Directory, ProblemKind::HeldDeletions, ProblemKind::HeldRemovals];
        let held = |one: &&Problem| one.kind == ProblemKind::HeldDeletions;
        self.held.0 = earlier.problems.first.iter().find(held).map(|one| one.detail.clone());
        self.problems.0 = earlier.problems.only(|kind| !own.contains(&kind));
    }

    /// Describes the folder for other commands.
    pub(super) fn state(&self, state: State, reason: Option<String>) -> FolderState {
        let mut problems = Problems::default();
        for (kind, reason) in [
            (ProblemKind::Directory, &self.failed),
            (ProblemKind::HeldDeletions, &self.held.0),
            (ProblemKind::HeldRemovals, &self.held.1),
        ] {
            if let Some(reason) = reason {
                problems.add(Problem::new(Path::new(""), kind, reason.as_str()));
            }
        }
        problems.add_all(&self.problems.0);
        problems.add_all(&self.problems.1.except(&self.problems.0));
        FolderState {
            directory: self.live.directory.clone(),
            item: self.live.item.clone(),
            state,
            reason,
            bytes_per_second: None,
            last_in_step: self.last_in_step,
            held: self.held_entries.clone(),
            problems,
            scanned: self.scanned.clone(),
            scans: self.watcher.broken(),
        }
    }

    /// Returns the time of the next [`Self::tidy`].
    pub(super) fn tidy_due(&self) -> Instant {
        self.tidy_due
    }

    /// Looks at the files that the directory lost: those that a program has changed since come back.
    pub(super) fn tidy(&mut self, device: &str) {
        let now = Instant::now();
        if !self.resolved {
            // An import first finds out what a crash has left there.
            self.tidy_due = now + aside::LOOK_EVERY;
            return;
        }
        let trash = self.empty_due <= now;
        let tidied = aside::tidy(&self.live.directory, device, trash, SystemTime::now());
        if trash {
            self.empty_due = now + aside::EMPTY_EVERY;
        }
        self.tidy_due = self.empty_due;
        match tidied {
            Ok(tidied) => {
                if tidied.kept > 0 {
                    self.tidy_due = now + aside::LOOK_EVERY;
                }
                for path in tidied.returned {
                    self.scan_due = now;
                    self.output.note(format_args!(
                        "a program saved to a file after it was replaced: its version is kept as {}",
                        escaped(&names::path_text(&path))
                    ));
                }
            }
            // The import reports a directory that is not there.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => self.output.note(format_args!(
                "{}: cannot look through .vfs-sync: {error}",
                escaped(&self.shown())
            )),
        }
    }

    /// Returns the directory's path, for people.
    pub(super) fn shown(&self) -> String {
        self.live.directory.to_string_lossy().into_owned()
    }

    /// Pauses the folder, or ends the pause: then both sides are looked at.
    pub(super) fn set_paused(&mut self, paused: bool) {
        if paused == self.live.paused {
            return;
        }
        self.live.paused = paused;
        self.follow_up = None;
        self.looks = Looks::begin(self.held_entries.is_some());
        self.lock = None;
        if !paused {
            self.watcher = Watcher::new(&self.live.directory, true);
            self.scan_due = Instant::now();
            self.export_whole();
        }
    }

    /// Plans an export of the whole tree.
    pub(super) fn export_whole(&mut self) {
        self.export = true;
        self.part = Part::whole();
    }

    /// Takes notice of a change in the tree; `None` stands for any.
    pub(super) fn changed(&mut self, item: Option<&ItemId>) {
        match item {
            Some(item) => self.part.add_item(item.clone()),
            None => self.part = Part::whole(),
        }
    }

    /// Returns whether a part of both sides can be looked at: all that is known to be out of step is of
    /// single entries.
    fn looks_at_parts(&self) -> bool {
        let (imported, exported) = &self.problems;
        self.live.joined
            && self.failed.is_none()
            && self.held == (None, None)
            && self.held_entries.is_none()
            && self.left.total() == 0
            && imported.are_of_entries()
            && exported.are_of_entries()
    }

    /// Plans the scan that the user asks for, unless it is done.
    pub(super) fn ask_to_scan(&mut self, request: Option<ScanRequest>) {
        self.live.scan = request;
        if self.scan_request().is_some() {
            self.scan_due = Instant::now();
        }
    }

    /// Returns the scan that the user asked for and that is not done.
    fn scan_request(&self) -> Option<ScanRequest> {
        let done = self.scanned.as_ref().map(|scanned| scanned.number);
        self.live.scan.filter(|request| done.is_none_or(|done| request.number > done))
    }

    /// Reports that the scan is done that the user asked for, if there is one.
    fn has_scanned(&mut self, board: &Board, report: Option<&ImportReport>) {
        let Some(request) = self.scan_request() else { return };
        let count = |of: fn(&ImportReport) -> u64| report.map_or(0, of);
        let scanned = Scanned {
            number: request.number,
            entries: count(ImportReport::seen),
            changes: count(ImportReport::changes),
            left_out: count(|report| report.problems.failures()),
            failed: self.failed.clone(),
        };
        board.scanned(&self.live, &scanned);
        self.scanned = Some(scanned);
    }

    /// Returns the time of the next import; `None` while the folder is paused.
    pub(super) fn due(&self) -> Option<Instant> {
        if self.live.paused {
            return None;
        }
        [Some(self.scan_due), self.follow_up, self.watcher.due()].into_iter().flatten().min()
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due().is_some_and(|due| due <= now)
    }

    /// Returns whether an import is planned that completes what is under way.
    pub(super) fn has_plans(&self) -> bool {
        !self.live.paused && (self.follow_up.is_some() || self.watcher.due().is_some())
    }

    pub(super) fn is_to_export(&self) -> bool {
        self.export && !self.live.paused && self.failed.is_none()
    }

    /// Plans an export if the replica has moved on since the last one.
    pub(super) fn follow(&mut self, cursor: Option<&Cursor>) {
        self.export |= self.written.as_ref() != cursor;
    }

    /// Takes over settings that a command has changed, and plans a scan that follows them.
    pub(super) fn follow_settings(&mut self, live: LiveFolder) {
        let (joined, marker) = (self.live.joined, self.live.marker.clone());
        let live = LiveFolder { joined, marker, ..live };
        if self.live != live {
            self.live = live;
            self.export_whole();
            self.scan_due = Instant::now();
        }
    }

    /// Plans a look at what waits for the user or for a cause to go away.
    pub(super) fn look_again(&mut self) {
        self.export_whole();
        if self.why_not_in_step().is_some() {
            self.scan_due = Instant::now();
        }
    }

    /// Returns the reason why the folder is not in step; `None` while it is paused.
    pub(super) fn why_not_in_step(&self) -> Option<String> {
        if self.live.paused {
            return None;
        }
        let (imported, exported) = self.left_out;
        let left_out = || {
            let text = counted(imported + exported, "entry is", "entries are");
            (imported + exported > 0)
                .then(|| format!("{text} left out (see `vfs-sync folder problems`)"))
        };
        let awaited = || {
            let text = counted(self.awaited, "content is", "contents are");
            let why = "not at the server yet: another device has to send";
            let them = if self.awaited == 1 { "it" } else { "them" };
            (self.awaited > 0).then(|| format!("{text} {why} {them}"))
        };
        let deletions = |held: &String| {
            let step = next_step(ProblemKind::HeldDeletions, &self.shown(), "", "");
            format!("{held}; {step}")
        };
        let held = || self.held.0.as_ref().map(deletions).or_else(|| self.held.1.clone());
        self.failed.clone().or_else(held).or_else(left_out).or_else(awaited)
    }

    /// Imports the directory's changes. Fails only if it was cut, or the replica fails.
    pub(super) fn import(
        &mut self,
        client: &SyncClient,
        replica: &Path,
        board: &Board,
        cut: &CancellationToken,
    ) -> Result<()> {
        if self.failed.is_some() {
            // The directory may be another one, or its disk may have been away.
            self.watcher = Watcher::new(&self.live.directory, true);
        }
        self.scope.add(self.watcher.take());
        let started = Instant::now();
        // Only when it is time for another attempt: one that fails alike would go on for ever.
        self.export |= self.left_out.1 > 0 && self.scan_due <= started;
        if self.scan_due <= started || !self.looks_at_parts() {
            self.scope = Scope::Whole;
        }
        let imported = self.try_import(client, replica, board, cut);
        let now = Instant::now();
        if self.scope == Scope::Whole {
            self.scan_due = now
                + match self.watcher.broken() {
                    Some(_) => SCAN_AT_LEAST.max((now - started) * SCAN_RATIO),
                    None => SCAN_EVERY,
                };
        }
        let report = match imported {
            Ok(report) => report,
            Err(failure) => {
                self.fails(failure)?;
                self.has_scanned(board, None);
                return Ok(());
            }
        };
        if report.interrupted {
            self.follow_up = Some(now);
            return Err(shutdown::interrupted());
        }
        self.failed = None;
        self.resolved = true;
        self.seen |= report.problems.failures() == 0;
        self.has_scanned(board, Some(&report));
        let held = held_deletions(&report, &self.live.directory).map(|failure| failure.message);
        // While entries are looked at once more, those that were held still are.
        if held.is_some() || report.missing == 0 {
            let set = || Held::new(report.held, report.recorded, &report.held_rows);
            self.held_entries = held.is_some().then(set);
            self.held.0 = held;
        }
        self.problems.0 = report.problems.clone().after(&self.problems.0, &report.visited);
        self.left_out.0 = self.problems.0.failures();
        let left = report.moved + report.deleted > 0;
        if left && self.problems.0.total() > 0 && report.visited != Scope::Whole {
            // They may have been of folders that have other names now, or are gone.
            self.scan_due = now;
        }
        self.show_import(&report)?;
        let was_left = std::mem::take(&mut self.left);
        let was_missing = std::mem::take(&mut self.missing);
        let missing = report.missing + report.held_rows.len() as u64;
        if report.changes() + report.conflicts.count + report.kept > 0 {
            self.export = true;
            self.part.folders.add(report.visited.clone());
            self.retry = RETRY_LEFT_OUT.0;
        } else if was_left.total() > 0 {
            // The directory has no change that explains them: an export alone does not help.
            let was_left = was_left.except(&report.problems);
            self.left_out.1 += was_left.failures();
            self.problems.1.add_all(&was_left);
            self.show_problems(&was_left, |_| true);
            self.retry_later(now);
        } else if report.stale > 0 || was_missing > missing {
            self.export = true;
            self.part.folders.add(report.visited.clone());
        }
        if missing > 0 {
            self.missing = was_missing;
        }
        let settles = report.files_created + report.contents_changed > 0;
        let settles = settles.then(|| now + SETTLES_AFTER);
        self.follow_up = [self.looks.due(), settles].into_iter().flatten().min();
        self.scope = match self.follow_up {
            _ if report.needs_whole => Scope::Whole,
            Some(_) => report.visited,
            None => Scope::nothing(),
        };
        if report.needs_whole {
            self.follow_up = Some(now + SETTLES_AFTER);
        }
        Ok(())
    }

    fn try_import(
        &mut self,
        client: &SyncClient,
        replica: &Path,
        board: &Board,
        cut: &CancellationToken,
    ) -> Result<ImportReport> {
        let what = format!("cannot read {}", self.live.directory.display());
        let own: PathBuf = replica.to_owned();
        let mut scanner = Scanner::open(&self.live.directory, &[own]).map_err(Failure::io(what))?;
        check(client, scanner.root(), &self.live)?;
        self.mark(client, replica, scanner.root())?;
        scanner.scope = self.scope.clone();
        scanner.trust = crossing::trust(replica, &self.live.directory)?;
        scanner.not_here = replica::excluded_from(replica, &self.live.directory)?;
        let progress = self.output.progress("scanning");
        let (live, began) = (&self.live, Instant::now());
        let mut show = |report: &ImportReport| {
            let text =
                || format!("{} entries, {}", count_text(report.seen()), bytes_text(report.bytes));
            progress.set(text());
            let all = count_text(report.recorded.max(report.seen()));
            board.progress(Some(live), began, report.bytes, || {
                format!("scanning: {} of {all}", text())
            });
        };
        // At first both sides are joined: nothing that is missing on one side counts as deleted.
        let checksum = self.scan_request().is_some_and(|request| request.checksum);
        let options = ImportOptions {
            delete: self.live.joined,
            forget_missing: !self.seen,
            checksum,
            ..ImportOptions::default()
        };
        let (item, looks) = (self.live.item.clone(), Some(&mut self.looks));
        Ok(tokio::task::block_in_place(|| {
            import::import(client, scanner, item, options, looks, cut, &mut show)
        })?)
    }

    /// Exports the tree's changes. Fails only if it was cut, or the replica fails.
    pub(super) async fn export(
        &mut self,
        client: &SyncClient,
        replica: &Path,
        board: &Board,
        cut: &CancellationToken,
    ) -> Result<()> {
        let progress = self.output.progress("writing");
        let (live, began) = (&self.live, Instant::now());
        let mut show = |report: &ExportReport| {
            let files = report.files_written + report.unchanged;
            let text = || format!("{} done, {}", count_text(files), bytes_text(report.bytes));
            progress.set(text());
            board.progress(Some(live), began, report.bytes, || format!("writing: {}", text()));
        };
        let part = self.looks_at_parts().then(|| self.part.clone());
        let options = ExportOptions {
            part,
            replica: Some(replica.to_owned()),
            delete: true,
            live: true,
            leave_missing: self.seen,
            trust: crossing::trust(replica, &self.live.directory)?,
            links: crossing::allowed_links(replica, &self.live.directory)?,
            not_here: replica::excluded_from(replica, &self.live.directory)?,
            ..ExportOptions::default()
        };
        let item = self.live.item.clone();
        let exported =
            export::export(client, item, &self.live.directory, options, cut, &mut show).await;
        drop(progress);
        let report = match exported {
            Ok(report) => report,
            Err(error) => return self.fails(error.into()),
        };
        if self.live.refused_links != report.refused_links {
            self.live.refused_links.clone_from(&report.refused_links);
            remember(replica, &self.live)?;
        }
        if report.interrupted {
            return Err(shutdown::interrupted());
        }
        if report.needs_whole {
            // The next round writes it.
            self.part = Part::whole();
            return self.show_export(&report);
        }
        self.export = false;
        self.part = Part::nothing();
        if report.files_written + report.removed > 0 {
            self.tidy_due = self.tidy_due.min(Instant::now() + aside::LOOK_EVERY);
        }
        self.written = client.status()?.cursor;
        if !self.live.joined {
            self.live.joined = true;
            self.scan_due = Instant::now();
        }
        self.held.1 = held_removals(&report, &self.live.directory).map(|failure| {
            let (dir, path) = (self.shown(), shown(client, &self.live));
            let command = format!("vfs-sync export '{dir}' '{path}' --delete --yes");
            format!("{}; to remove them: `{command}`", failure.message)
        });
        let problems = report.problems.clone().after(&self.problems.1, &report.visited);
        let left = report.moved + report.removed > 0;
        if left && problems.total() > 0 && report.visited != Scope::Whole {
            // They may have been of folders that have other names now, or are gone.
            self.export_whole();
        }
        let counts = &problems.counts;
        let by_import: u64 = BY_IMPORT.iter().filter_map(|kind| counts.get(kind)).sum();
        self.awaited = counts.get(&ProblemKind::NoContent).copied().unwrap_or(0);
        self.left_out.1 = problems.failures().saturating_sub(by_import + self.awaited);
        self.missing = report.missing;
        self.left = problems.only(|kind| BY_IMPORT.contains(&kind));
        self.problems.1 = problems.only(|kind| !BY_IMPORT.contains(&kind));
        let now = Instant::now();
        // What is held waits for the user, not for another look.
        if by_import > 0 || (report.missing > 0 && self.held_entries.is_none()) {
            self.scope = Scope::Whole;
            let soon = now + Duration::from_secs(1);
            self.follow_up = Some(self.follow_up.map_or(soon, |due| due.min(soon)));
        }
        if counts.contains_key(&ProblemKind::Open) {
            self.scan_due = self.scan_due.min(now + RETRY_AFTER);
        } else if self.left_out.1 > 0 {
            self.retry_later(now);
        }
        self.show_export(&report)
    }

    /// Plans another attempt to write the entries that were left out.
    fn retry_later(&mut self, now: Instant) {
        self.scan_due = self.scan_due.min(now + self.retry);
        self.retry = (self.retry * 2).min(RETRY_LEFT_OUT.1);
    }

    /// Remembers a failure that may pass, and plans the next attempt; returns any other.
    fn fails(&mut self, failure: Failure) -> Result<()> {
        match failure.kind {
            Kind::Interrupted => {
                self.follow_up = Some(Instant::now());
                return Err(failure);
            }
            Kind::Guardrail | Kind::Corrupt => return Err(failure),
            _ => {}
        }
        self.follow_up = None;
        self.scan_due = Instant::now() + RETRY_AFTER;
        self.failed = Some(match failure.hint {
            Some(hint) => format!("{}; {hint}", failure.message),
            None => failure.message,
        });
        Ok(())
    }

    fn show_import(&mut self, report: &ImportReport) -> Result<()> {
        let dir = self.shown();
        if report.changes() > 0 {
            self.output.json(&json!({ "event": "imported", "directory": dir, "more": report }))?;
            self.output.say(format_args!(
                "{}: changed here: {}",
                escaped(&dir),
                import_text(report),
            ))?;
        }
        for conflict in &report.conflicts.first {
            let (path, copy) = (escaped(&conflict.path), escaped(&conflict.copy));
            self.output.note(format_args!(
                "{path} was also changed elsewhere: your version is kept as {copy}"
            ));
        }
        self.show_problems(&report.problems, |_| true);
        Ok(())
    }

    fn show_export(&mut self, report: &ExportReport) -> Result<()> {
        let dir = self.shown();
        if report.changes() > 0 {
            self.output.json(&json!({ "event": "exported", "directory": dir, "more": report }))?;
            self.output.say(format_args!(
                "{}: changed elsewhere: {}",
                escaped(&dir),
                export_text(report),
            ))?;
        }
        self.show_problems(&report.problems, |kind| {
            !BY_IMPORT.contains(&kind) && kind != ProblemKind::NoContent
        });
        Ok(())
    }

    /// Shows the problems that were not shown before.
    fn show_problems(&mut self, problems: &Problems, counts: impl Fn(ProblemKind) -> bool) {
        if self.shown_problems.len() > PROBLEMS_REMEMBERED {
            self.shown_problems.clear();
        }
        let mut new = Problems::default();
        for problem in problems.first.iter().filter(|problem| counts(problem.kind)) {
            if self.shown_problems.insert((problem.path.clone(), problem.kind)) {
                new.add(problem.clone());
            }
        }
        if new.total() > 0 {
            self.output.problems(&new);
        }
    }
}
