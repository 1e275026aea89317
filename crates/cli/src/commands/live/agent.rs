//! The agent behind `up`: waits for changes on either side, and then imports, synchronises and
//! exports.
//!
//! Each round opens the replica, and closes it at the end or when another command waits for it; all
//! steps resume where they were cut. A folder is exported only after it was imported, so that an
//! export meets changes made here only if they are newer than the import; it leaves these alone.

mod board;
mod folder;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures::FutureExt as _;
use futures::future::select_all;
use serde_json::json;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::TryRecvError;
use tokio_util::sync::CancellationToken;
use vfs_sync_client::{ChangeEvent, ClientError, Hints, SyncClient};
use vfs_sync_core::id::{ChangeId, ItemId};
use vfs_sync_folder::watcher::Watcher;

use self::board::Board;
use self::folder::Folder;
use crate::args::{Global, Up};
use crate::commands::render::SyncProgress;
use crate::commands::replica::outstanding;
use crate::commands::replica::sync::{notices, sync_and_merge};
use crate::error::{Failure, Kind, Result};
use crate::escape::escaped;
use crate::output::Output;
use crate::replica::live_state::{self, State};
use crate::replica::{self, LiveFolder, handoff};

/// The interval at which a round looks for commands that wait for the replica.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The interval at which it looks for commits of other commands where they are not noticed.
const LOOK_FOR_COMMITS_EVERY: Duration = Duration::from_secs(5);
/// The interval at which it looks at the progress of a synchronisation.
const LOOK_AT_PROGRESS_EVERY: Duration = Duration::from_millis(500);
/// The time after which it reports that another command has the replica.
const PATIENCE: Duration = Duration::from_secs(5);
/// The time after which `--once` gives up if another command has the replica.
const ONCE_PATIENCE: Duration = Duration::from_secs(60);
/// The interval at which the agent looks whether the replica is free again.
const TRY_EVERY: Duration = Duration::from_millis(20);
/// The time for which the agent keeps the replica at least, once a command has cut its work; it doubles
/// with each cut, so that frequent commands do not stop the work.
const SLICE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// The time for which it lets all commands that wait go first.
const LETS_GO_FIRST: Duration = Duration::from_secs(2);
/// The interval of synchronisations while the server's hints arrive.
const LIVE_INTERVAL: Duration = Duration::from_secs(300);
/// The greatest interval between two attempts to reach the server.
const RETRY_AT_MOST: Duration = Duration::from_secs(60);

/// The state of the connection to the server.
enum Reach {
    /// No attempt was made yet.
    Unknown,
    Online,
    /// The last attempt failed; the next one comes after the pause.
    Offline {
        failure: Box<Failure>,
        pause: Duration,
    },
}

/// The end of a round.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    Complete,
    /// Another command needs the replica, or the user stopped the agent.
    Cut,
}

pub(in crate::commands) struct Agent<'a> {
    global: &'a Global,
    /// The directory of the replica.
    replica: PathBuf,
    output: Output,
    stop: CancellationToken,
    interval: Duration,
    once: bool,
    folders: Vec<Folder>,
    board: Board,
    /// Notices commits of other commands.
    commits: Watcher,
    /// The replica's file after the last round.
    stamp: Option<(SystemTime, u64)>,
    reach: Reach,
    /// The time of the next synchronisation.
    sync_due: Instant,
    /// The server's hints, once it was reached.
    hints: Option<Hints>,
    /// The time for which the next round keeps the replica at least.
    slice: Duration,
    /// The position of the last hint that was looked at.
    hinted: Option<ChangeId>,
    /// True if the hints arrived when they were last looked at.
    was_live: bool,
    /// The position in the feed up to which the replica has it.
    position: Option<ChangeId>,
    /// True if the last round was cut in a mere poll for changes.
    polls: bool,
    /// The work that waits although the server was reached.
    outstanding: Option<String>,
    /// The state that was last reported: the reason why not everything is in step.
    reported: Option<Option<String>>,
}

impl<'a> Agent<'a> {
    pub(in crate::commands) fn new(
        global: &'a Global,
        replica: PathBuf,
        args: &Up,
        output: Output,
        stop: CancellationToken,
    ) -> Self {
        let commits = Watcher::new(&replica, false);
        let board = Board::new(replica.clone(), output);
        Self {
            global,
            replica,
            output,
            stop,
            interval: Duration::from_secs(args.interval),
            once: args.once,
            folders: Vec::new(),
            board,
            commits,
            stamp: None,
            reach: Reach::Unknown,
            sync_due: Instant::now(),
            hints: None,
            slice: Duration::ZERO,
            hinted: None,
            was_live: false,
            position: None,
            polls: false,
            outstanding: None,
            reported: None,
        }
    }

    /// Works until the user stops it; with `once` until everything is in step or cannot get there.
    pub(in crate::commands) async fn run(mut self) -> Result<()> {
        let ended = self.work().await;
        match ended {
            Ok(settled) => {
                self.publish(None, true);
                self.outcome(settled)
            }
            Err(failure) => {
                self.publish(Some(failure.message.clone()), true);
                Err(failure)
            }
        }
    }

    /// Returns whether it ended because nothing was on its way any more.
    async fn work(&mut self) -> Result<bool> {
        self.reload()?;
        self.publish(None, false);
        if !self.once {
            self.output.note("keeping in step; Ctrl-C ends it");
        }
        while !self.stop.is_cancelled() {
            if self.has_work() {
                match self.round().await? {
                    Ended::Complete => self.report()?,
                    // Nothing was on its way but a question for changes.
                    Ended::Cut if self.polls => {}
                    // What was cut is on its way again.
                    Ended::Cut => self.reported = None,
                }
                self.publish(None, false);
                continue;
            }
            if self.once && self.folders.iter().all(|folder| !folder.has_plans()) {
                return Ok(true);
            }
            self.wait().await;
            self.notice_hint();
            self.notice_commits()?;
        }
        Ok(false)
    }

    /// Publishes the state of all folders; `stuck` is a reason why none is in step.
    fn publish(&mut self, stuck: Option<String>, ends: bool) {
        let now = live_state::now();
        let busy = self.reported.is_none() || matches!(self.reach, Reach::Unknown);
        let waits = self.why_unreachable();
        let outstanding = self.outstanding.clone();
        let has_work = self.folders.iter().map(|folder| self.exports(folder)).collect::<Vec<_>>();
        let mut states = Vec::new();
        for (folder, exports) in self.folders.iter_mut().zip(has_work) {
            let why = stuck.clone().or_else(|| folder.why_not_in_step());
            let why = why.or_else(|| waits.clone()).or_else(|| outstanding.clone());
            let state = match why {
                _ if folder.live.paused => State::Paused,
                Some(_) => State::Waiting,
                None if exports || folder.has_plans() || folder.is_due(Instant::now()) => {
                    State::Working
                }
                None if busy => State::Working,
                None => State::InStep,
            };
            if state == State::InStep {
                folder.last_in_step = Some(now);
            }
            let why = why.filter(|_| !folder.live.paused);
            states.push(folder.state(state, why));
        }
        self.board.publish(states, ends);
    }

    /// Returns the failure of an agent that ends while something is undone. What is noticed after all
    /// was `settled`, perhaps an echo of the agent's own writes, does not count.
    fn outcome(self, settled: bool) -> Result<()> {
        let has_plans = |folder: &Folder| folder.has_plans() || folder.is_to_export();
        let on_the_way = self.reported.is_none() || !settled && self.folders.iter().any(has_plans);
        let reason = self.why_not_in_step();
        match self.reach {
            Reach::Offline { failure, .. } if self.once => return Err(*failure),
            _ => {}
        }
        let reason = match reason {
            Some(reason) => reason,
            None if on_the_way => "it ended while changes were on their way".to_owned(),
            None => return Ok(()),
        };
        Err(Failure::new(Kind::Partial, reason)
            .hint("`vfs-sync up` continues from here; see `vfs-sync status`"))
    }

    /// Reads the list of folders again.
    fn reload(&mut self) -> Result<()> {
        let live = replica::read_settings(&self.replica)?.folders;
        // A folder that was removed and added again joins again.
        self.folders.retain(|folder| {
            let same = live.iter().find(|live| live.is_same(&folder.live));
            same.is_some_and(|live| live.joined == folder.live.joined)
        });
        for live in live {
            if let Some(folder) = self.folders.iter_mut().find(|one| one.live.is_same(&live)) {
                folder.set_paused(live.paused);
                folder.ask_to_scan(live.scan);
                folder.follow_settings(live);
            } else {
                let mut folder = Folder::new(live, self.output);
                if let Some(earlier) = self.board.earlier(&folder.live) {
                    folder.begin_with(earlier);
                }
                if let Some(why) = folder.watcher.broken() {
                    self.output.note(format_args!(
                        "{}: changes are noticed by scanning from time to time ({})",
                        escaped(&folder.shown()),
                        escaped(&why)
                    ));
                }
                self.folders.push(folder);
            }
        }
        Ok(())
    }

    /// Plans a synchronisation if the server hinted at something that the replica lacks, or if its
    /// hints stopped, or arrive again while the server counts as unreachable.
    fn notice_hint(&mut self) {
        let Some(hints) = &self.hints else { return };
        let now = Instant::now();
        let was_live = std::mem::replace(&mut self.was_live, hints.is_live());
        if !matches!(self.reach, Reach::Online) {
            // The server is back.
            if self.was_live && !was_live {
                self.sync_due = now;
            }
            return;
        }
        if !hints.is_live() {
            self.sync_due = self.sync_due.min(now + self.interval);
        }
        let hinted = hints.position();
        if hinted != self.hinted {
            self.hinted.clone_from(&hinted);
            if hinted.is_some() && hinted != self.position {
                self.sync_due = now;
            }
        }
    }

    /// Plans a round if another command committed to the replica.
    fn notice_commits(&mut self) -> Result<()> {
        if self.commits.due().is_none() && self.commits.broken().is_none() {
            return Ok(());
        }
        self.commits.take();
        self.look_for_commits()
    }

    fn look_for_commits(&mut self) -> Result<()> {
        self.reload()?;
        let stamp = self.read_stamp();
        if stamp != self.stamp {
            self.stamp = stamp;
            self.sync_due = Instant::now();
            self.folders.iter_mut().for_each(Folder::look_again);
        }
        Ok(())
    }

    fn read_stamp(&self) -> Option<(SystemTime, u64)> {
        let meta = std::fs::metadata(self.replica.join("replica.db")).ok()?;
        Some((meta.modified().ok()?, meta.len()))
    }

    fn has_work(&self) -> bool {
        let now = Instant::now();
        self.sync_due <= now
            || self.folders.iter().any(|folder| {
                folder.is_due(now) || folder.tidy_due() <= now || self.exports(folder)
            })
    }

    /// Returns whether a folder is to be exported now: the tree is known as the server has it.
    fn exports(&self, folder: &Folder) -> bool {
        matches!(self.reach, Reach::Online) && folder.is_to_export()
    }

    /// Waits until something changes or is due.
    async fn wait(&mut self) {
        let hinted = async {
            match &mut self.hints {
                Some(hints) => hints.changed().await,
                None => std::future::pending().await,
            }
        };
        // Chosen before the times are read: what changes meanwhile ends the wait. A folder that has changed
        // already has its time; a commit has none.
        let quiet = self.folders.iter().map(|folder| &folder.watcher);
        let quiet = quiet.filter(|watcher| watcher.due().is_none()).chain([&self.commits]);
        let mut changes: Vec<_> = quiet.map(|watcher| watcher.changed().boxed()).collect();
        changes.push(self.stop.cancelled().boxed());
        let planned = self.folders.iter().filter_map(Folder::due);
        let planned = planned.chain(self.folders.iter().map(Folder::tidy_due));
        let unnoticed = self.commits.broken().map(|_| Instant::now() + LOOK_FOR_COMMITS_EVERY);
        let due = planned.chain([self.sync_due]).chain(unnoticed).min().unwrap_or(self.sync_due);
        tokio::select! {
            () = tokio::time::sleep_until(due.into()) => {}
            _ = select_all(changes) => {}
            () = hinted => {}
        }
    }

    /// Opens the replica once no other command waits for it or has it open; `None` if the user
    /// stopped the agent.
    async fn open(&mut self) -> Result<Option<SyncClient>> {
        let open = replica::opener(self.global, replica::config())?;
        let started = Instant::now();
        while !self.stop.is_cancelled() {
            let busy = || "another command has the replica".to_owned();
            if started.elapsed() > PATIENCE && self.reported != Some(Some(busy())) {
                self.say(Some(busy()))?;
                self.publish(Some(busy()), false);
            }
            if self.once && started.elapsed() > ONCE_PATIENCE {
                return Err(Failure::failed(busy()).hint("wait until it ends, and try again"));
            }
            if started.elapsed() > LETS_GO_FIRST || !handoff::is_wanted(&self.replica) {
                match open() {
                    Err(ClientError::InUse(_)) => {}
                    opened => return Ok(Some(opened?)),
                }
            }
            tokio::time::sleep(TRY_EVERY).await;
        }
        Ok(None)
    }

    async fn round(&mut self) -> Result<Ended> {
        let Some(client) = self.open().await? else { return Ok(Ended::Cut) };
        self.look_for_commits()?;
        let cut = self.stop.child_token();
        let looking = {
            let (cut, replica) = (cut.clone(), self.replica.clone());
            let slice = self.slice;
            tokio::spawn(async move {
                tokio::time::sleep(slice).await;
                while !cut.is_cancelled() {
                    tokio::time::sleep(LOOK_EVERY).await;
                    if handoff::is_wanted(&replica) {
                        cut.cancel();
                    }
                }
            })
        };
        let ended = self.steps(&client, &cut).await;
        looking.abort();
        // Before another command can have the replica: what it changes is noticed.
        self.commits.take();
        drop(client);
        self.stamp = self.read_stamp();
        match ended {
            Ok(()) => {
                self.slice = Duration::ZERO;
                Ok(Ended::Complete)
            }
            Err(failure) if failure.kind == Kind::Interrupted => {
                self.slice = (self.slice * 2).clamp(SLICE.0, SLICE.1);
                Ok(Ended::Cut)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Imports, synchronises and exports what is due. Fails with [`Kind::Interrupted`] if it was
    /// cut.
    async fn steps(&mut self, client: &SyncClient, cut: &CancellationToken) -> Result<()> {
        self.polls = false;
        let due = |folder: &Folder| folder.is_due(Instant::now()) || folder.is_to_export();
        let works = self.folders.iter().any(due);
        if matches!(self.reach, Reach::Unknown) {
            // What the server has comes first, so that equal files on both sides become one item.
            self.sync(client, cut).await?;
        }
        for folder in &mut self.folders {
            if folder.is_due(Instant::now()) {
                folder.import(client, &self.replica, &self.board, cut)?;
            }
            if folder.tidy_due() <= Instant::now() {
                folder.tidy(&client.device());
            }
        }
        let status = client.status()?;
        let sync_due = self.sync_due <= Instant::now();
        let sends = status.pending + status.uploads > 0;
        if sync_due || (sends && matches!(self.reach, Reach::Online)) {
            self.polls = !works && !sends;
            let synced = self.sync(client, cut).await;
            if synced.is_err()
                && let Ok(status) = client.status()
            {
                // A poll that was cut may have received something.
                let cursor = status.cursor;
                self.folders.iter_mut().for_each(|folder| folder.follow(cursor.as_ref()));
            }
            synced?;
            self.polls = false;
        }
        let cursor = client.status()?.cursor;
        self.folders.iter_mut().for_each(|folder| folder.follow(cursor.as_ref()));
        if matches!(self.reach, Reach::Online) {
            for folder in self.folders.iter_mut().filter(|folder| folder.is_to_export()) {
                let joined = folder.live.joined;
                folder.export(client, &self.replica, &self.board, cut).await?;
                if folder.live.joined != joined {
                    remember(&self.replica, &folder.live)?;
                }
            }
        }
        Ok(())
    }

    async fn sync(&mut self, client: &SyncClient, cut: &CancellationToken) -> Result<()> {
        let (mut changes, mut events) = (client.subscribe(), Vec::new());
        let progress = Arc::new(SyncProgress::default());
        progress.with(Some(self.output.progress("syncing")));
        client.observe(progress.clone());
        let began = Instant::now();
        let mut look = tokio::time::interval(LOOK_AT_PROGRESS_EVERY);
        let mut all = client.subscribe();
        let synced = {
            let mut syncing =
                std::pin::pin!(sync_and_merge(client, &mut changes, &mut events, cut));
            loop {
                tokio::select! {
                    synced = &mut syncing => break synced,
                    _ = look.tick() => {
                        let (bytes, text) = progress.last();
                        self.board.progress(None, began, bytes, || format!("syncing: {text}"));
                    }
                }
            }
        };
        progress.with(None);
        self.notice_changes(&mut all);
        match synced {
            Ok((report, merged)) => {
                let hints = self.hints.get_or_insert_with(|| client.hints());
                let least = if hints.is_live() { LIVE_INTERVAL } else { Duration::ZERO };
                self.sync_due = Instant::now() + self.interval.max(least);
                self.reach = Reach::Online;
                self.position = client.status()?.cursor.map(|cursor| cursor.change_id);
                let moved = report.applied + report.pulled + report.uploaded + merged > 0;
                if moved || report.rematerialised {
                    self.output.json(&json!({ "event": "synced", "more": report }))?;
                }
                // A merge changes items that are confirmed later.
                if merged > 0 || report.rematerialised {
                    self.folders.iter_mut().for_each(Folder::export_whole);
                }
                notices(client, events)?.say(self.output)?;
                self.outstanding = outstanding::sentence(&client.queue().outstanding()?);
                Ok(())
            }
            // The server takes not everything at present; what it has was pulled all the same.
            Err(failure) if failure.kind == Kind::Partial => {
                self.sync_due = Instant::now() + self.interval.max(Duration::from_secs(30));
                self.reach = Reach::Online;
                self.outstanding = Some(failure.message);
                Ok(())
            }
            Err(failure) if is_passing(&failure) => {
                let pause = match &self.reach {
                    Reach::Offline { pause, .. } => (*pause * 2).min(RETRY_AT_MOST),
                    _ => Duration::from_secs(1),
                };
                self.sync_due = Instant::now() + pause;
                self.reach = Reach::Offline { failure: Box::new(failure), pause };
                Ok(())
            }
            Err(failure) => Err(failure),
        }
    }

    /// Passes the changes of a synchronisation on to the folders.
    fn notice_changes(&mut self, changes: &mut Receiver<ChangeEvent>) {
        use ChangeEvent as E;
        let mut notice = |item: Option<&ItemId>| {
            self.folders.iter_mut().for_each(|folder| folder.changed(item));
        };
        loop {
            match changes.try_recv() {
                Ok(E::Appeared(id) | E::Changed(id) | E::Went(id) | E::Revoked(id))
                | Ok(E::Kept(id) | E::NotMoved(id)) => notice(Some(&id)),
                Ok(
                    E::Shared { item_id, .. }
                    | E::Rejected { item_id, .. }
                    | E::Outdated { item_id, .. }
                    | E::UploadRejected { item_id, .. },
                ) => notice(Some(&item_id)),
                Ok(E::ConflictedCopy { item_id, copy }) => {
                    notice(Some(&item_id));
                    notice(Some(&copy));
                }
                Ok(E::Offered(_) | E::Rebuilt) | Err(TryRecvError::Lagged(_)) => notice(None),
                Ok(
                    E::Paused(_)
                    | E::Resumed
                    | E::Outstanding(_)
                    | E::Connection(_)
                    | E::Stopped(_),
                ) => {}
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }

    fn why_unreachable(&self) -> Option<String> {
        match &self.reach {
            Reach::Offline { failure, .. } => Some(failure.message.clone()),
            _ => None,
        }
    }

    /// Returns the reason why not everything is in step, if one is known.
    fn why_not_in_step(&self) -> Option<String> {
        let offline = self.why_unreachable();
        let of_folder = |folder: &Folder| {
            let why = folder.why_not_in_step()?;
            Some(format!("{}: {why}", folder.shown()))
        };
        let paused = || {
            let folder = self.folders.iter().find(|folder| folder.live.paused)?;
            let dir = folder.shown();
            Some(format!("{dir} is paused: `vfs-sync folder resume '{dir}'` ends that"))
        };
        offline
            .or_else(|| self.folders.iter().find_map(of_folder))
            .or_else(|| self.outstanding.clone())
            .or_else(paused)
    }

    /// Reports whether everything is in step, if that has changed.
    fn report(&mut self) -> Result<()> {
        if self.has_work() {
            return Ok(());
        }
        let reason = self.why_not_in_step();
        if reason.is_none() && self.folders.iter().any(Folder::has_plans) {
            // It looks again in a moment.
            return Ok(());
        }
        self.say(reason)
    }

    /// Reports the state, if it is another than the one that was last reported.
    fn say(&mut self, reason: Option<String>) -> Result<()> {
        if self.reported.as_ref() == Some(&reason) {
            return Ok(());
        }
        match &reason {
            None => {
                self.output.json(&json!({ "event": "inStep" }))?;
                self.output.say("in step")?;
            }
            Some(reason) => {
                self.output.json(&json!({ "event": "notInStep", "more": reason }))?;
                self.output.note(format_args!("not in step: {}", escaped(reason)));
            }
        }
        self.reported = Some(reason);
        Ok(())
    }
}

/// Saves whether both sides of a folder are joined, its marker, and the links that are refused. The
/// replica must be open, so that no other command writes the settings.
fn remember(replica: &Path, live: &LiveFolder) -> Result<()> {
    let mut settings = replica::read_settings(replica)?;
    for folder in settings.folders.iter_mut().filter(|folder| folder.is_same(live)) {
        folder.joined = live.joined;
        folder.marker.clone_from(&live.marker);
        folder.refused_links.clone_from(&live.refused_links);
    }
    settings.write(replica)
}

/// Returns whether a failure of the synchronisation may go away by itself, or by a new token.
fn is_passing(failure: &Failure) -> bool {
    let another_user = failure.details.contains_key("expected");
    match failure.kind {
        Kind::Network | Kind::Failed => true,
        Kind::Auth => !another_user,
        _ => false,
    }
}
