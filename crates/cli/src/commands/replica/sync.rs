//! Synchronisation with the server: `sync`, once or continuously.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use vfs_sync_client::{
    ChangeEvent, ClientConfig, Connection, Connectivity, PollingReason, SyncClient, SyncReport,
};
use vfs_sync_core::access::AccessLevel;
use vfs_sync_core::id::{ItemId, UserId};
use vfs_sync_folder::merge::merge;

use super::super::render::{SyncProgress, with_field};
use super::{outstanding, recover};
use crate::args::{Global, Sync};
use crate::error::{Failure, Kind, Result};
use crate::escape::escaped;
use crate::output::{Output, bytes_text, count_text, counted};
use crate::shutdown;
use crate::{path, replica};

/// The interval at which a watch merges imports with those of other devices.
const MERGES_EVERY: Duration = Duration::from_secs(2);
/// The number of shares that are shown to a person.
const SHARES_SHOWN: usize = 20;

/// The number of kept items that are shown to a person.
const KEPT_SHOWN: usize = 50;

/// Returns an error if the server rejected operations.
pub(in crate::commands) fn outcome(report: &SyncReport) -> Result<()> {
    if report.rejected == 0 {
        return Ok(());
    }
    let refused = format!("the server rejected {} operations", report.rejected);
    Err(Failure::new(Kind::Partial, refused).hint("see `vfs-sync rejected`"))
}

pub(in crate::commands) async fn sync(
    global: &Global,
    args: Sync,
    output: Output,
    stop: CancellationToken,
) -> Result<()> {
    let config = ClientConfig {
        rematerialise: !args.no_rematerialise,
        interval: Duration::from_secs(args.interval),
        ..replica::config()
    };
    let client = replica::open(global, config)?;
    if args.watch {
        return watch(&client, output, &stop).await;
    }
    let mut changes = client.subscribe();
    let started = Instant::now();
    let shown = Arc::new(SyncProgress::default());
    shown.with(Some(output.progress("syncing")));
    client.observe(shown.clone());
    let mut events = Vec::new();
    let report = sync_and_merge(&client, &mut changes, &mut events, &stop).await;
    shown.with(None);
    let (report, merged) = report?;
    let notices = notices(&client, events)?;
    let left = client.queue().outstanding()?;
    let document = with_field(json!(report), "shared", notices.shared_json());
    let document = with_field(document, "outstanding", outstanding::json(&client, &left)?);
    let document = with_field(document, "kept", json!(notices.kept));
    let document = with_field(document, "notMoved", json!(notices.not_moved));
    let document = with_field(document, "conflictedCopies", notices.copies_json());
    let document = with_field(document, "merged", merged);
    output.json(&with_field(document, "revoked", notices.revoked))?;
    output.say(format_args!(
        "pushed {} ({} overridden, {} rejected) · pulled {} · uploaded {} ({}) in {:.1} s{}",
        count_text(report.applied),
        count_text(report.outdated),
        count_text(report.rejected),
        count_text(report.pulled),
        count_text(report.uploaded),
        bytes_text(report.uploaded_bytes),
        started.elapsed().as_secs_f64(),
        if report.rematerialised { " · rebuilt from the server's state" } else { "" },
    ))?;
    if let Some(text) = recover::offered_text(&report.offered) {
        output.say(text)?;
    }
    notices.say(output)?;
    outstanding::say(&client, output)?;
    let mut failure = match outstanding::failure(&left) {
        Some(failure) => failure,
        None => return outcome(&report),
    };
    if let Some(refusal) = notices.refused {
        failure.message = format!("{refusal}; {}", failure.message);
    }
    Err(failure)
}

/// Synchronises, merges items that this device and others imported under the same names, and
/// synchronises again. Notices are collected in `events`.
pub(in crate::commands) async fn sync_and_merge(
    client: &SyncClient,
    changes: &mut Receiver<ChangeEvent>,
    events: &mut Vec<ChangeEvent>,
    stop: &CancellationToken,
) -> Result<(SyncReport, u64)> {
    let mut report = sync_once(client, changes, events, stop).await?;
    let merged = merge(client)?;
    if merged.merged + merged.renamed > 0 {
        let again = sync_once(client, changes, events, stop).await?;
        report = SyncReport {
            applied: report.applied + again.applied,
            outdated: report.outdated + again.outdated,
            rejected: report.rejected + again.rejected,
            pulled: report.pulled + again.pulled,
            uploaded: report.uploaded + again.uploaded,
            uploaded_bytes: report.uploaded_bytes + again.uploaded_bytes,
            pushes: report.pushes + again.pushes,
            pages: report.pages + again.pages,
            rematerialised: report.rematerialised || again.rematerialised,
            ..report
        };
    }
    Ok((report, merged.merged))
}

async fn sync_once(
    client: &SyncClient,
    changes: &mut Receiver<ChangeEvent>,
    events: &mut Vec<ChangeEvent>,
    stop: &CancellationToken,
) -> Result<SyncReport> {
    let mut syncing = std::pin::pin!(client.sync());
    let report = loop {
        tokio::select! {
            report = &mut syncing => break report.map_err(Failure::from),
            () = stop.cancelled() => break Err(shutdown::interrupted()),
            change = changes.recv() => keep(change.ok(), events),
        }
    };
    while let Ok(change) = changes.try_recv() {
        keep(Some(change), events);
    }
    report
}

/// Collects the events that are reported at the end of a sync.
fn keep(change: Option<ChangeEvent>, events: &mut Vec<ChangeEvent>) {
    use ChangeEvent as E;
    events.extend(change.filter(|change| {
        matches!(
            change,
            E::UploadRejected { .. }
                | E::Shared { .. }
                | E::Revoked(_)
                | E::Kept(_)
                | E::NotMoved(_)
                | E::ConflictedCopy { .. }
        )
    }));
}

/// Notices of a sync for the user.
#[derive(Default)]
pub(in crate::commands) struct Notices {
    /// The first content that was rejected.
    refused: Option<String>,
    /// New shares of others: path, owner, and the user's access level.
    shared: Vec<(String, UserId, AccessLevel)>,
    /// The number of items that are no longer visible.
    revoked: u64,
    /// The paths of items that were deleted here and kept, because somebody changed them.
    kept: Vec<String>,
    /// The paths of items that stay in place, because the server rejected the copy to which they
    /// were moved.
    not_moved: Vec<String>,
    /// The conflicted copies: the path of each item and of its copy.
    copies: Vec<(String, String)>,
}

impl Notices {
    fn shared_json(&self) -> Vec<Value> {
        let one = |(path, owner, level): &(String, UserId, AccessLevel)| json!({ "path": path, "owner": owner, "accessLevel": level });
        self.shared.iter().map(one).collect()
    }

    fn copies_json(&self) -> Vec<Value> {
        let one = |(path, copy): &(String, String)| json!({ "path": path, "copy": copy });
        self.copies.iter().map(one).collect()
    }

    pub(in crate::commands) fn say(&self, output: Output) -> Result<()> {
        for (path, copy) in self.copies.iter().take(SHARES_SHOWN) {
            let (path, copy) = (escaped(path), escaped(copy));
            output.say(format_args!(
                "{path} was also changed elsewhere: your version is kept as {copy}"
            ))?;
        }
        if self.copies.len() > SHARES_SHOWN {
            let count = count_text(self.copies.len() as u64);
            output.say(format_args!("{count} conflicted copies in total: see --json"))?;
        }
        for (path, owner, level) in self.shared.iter().take(SHARES_SHOWN) {
            let (path, owner) = (escaped(path), escaped(owner.as_str()));
            output.say(format_args!("shared with you by {owner}: {path} ({level})"))?;
        }
        if self.shared.len() > SHARES_SHOWN {
            output.say("… and more: see `vfs-sync shared-with-me`")?;
        }
        for (what, paths, why) in [
            (
                "kept",
                &self.kept,
                "was changed elsewhere after you saw it; your delete did not apply",
            ),
            (
                "not moved",
                &self.not_moved,
                "stays, since the server refused a part of the copy: see `vfs-sync rejected`",
            ),
        ] {
            for path in paths.iter().take(KEPT_SHOWN) {
                output.say(format_args!("{what}: {} {why}", escaped(path)))?;
            }
            if paths.len() > KEPT_SHOWN {
                let more = count_text((paths.len() - KEPT_SHOWN) as u64);
                output.say(format_args!("{what}: {more} more, see `vfs-sync --json sync`"))?;
            }
        }
        if self.revoked > 0 {
            let items = counted(self.revoked, "item", "items");
            output.say(format_args!("no longer shared with you: {items}"))?;
        }
        Ok(())
    }
}

pub(in crate::commands) fn notices(
    client: &SyncClient,
    events: Vec<ChangeEvent>,
) -> Result<Notices> {
    let mut notices = Notices::default();
    for change in events {
        match change {
            ChangeEvent::UploadRejected { item_id, reason } if notices.refused.is_none() => {
                let at = path::of(client, &item_id).unwrap_or_else(|_| item_id.to_string());
                notices.refused = Some(format!("the content of {at} was rejected: {reason}"));
            }
            // It may be gone again.
            ChangeEvent::Shared { item_id, owner, level } if client.node(&item_id)?.is_some() => {
                notices.shared.push((path::of(client, &item_id)?, owner, level));
            }
            ChangeEvent::Kept(item_id) if client.node(&item_id)?.is_some() => {
                notices.kept.push(path::of(client, &item_id)?);
            }
            ChangeEvent::NotMoved(item_id) => {
                let at = path::of(client, &item_id).unwrap_or_else(|_| item_id.to_string());
                notices.not_moved.push(at);
            }
            ChangeEvent::Revoked(_) => notices.revoked += 1,
            ChangeEvent::ConflictedCopy { item_id, copy } => {
                let at =
                    |item: &ItemId| path::of(client, item).unwrap_or_else(|_| item.to_string());
                notices.copies.push((at(&item_id), at(&copy)));
            }
            _ => {}
        }
    }
    Ok(notices)
}

async fn watch(client: &SyncClient, output: Output, stop: &CancellationToken) -> Result<()> {
    let mut changes = client.subscribe();
    client.start_background()?;
    output.note("watching; Ctrl-C ends it");
    let mut look = tokio::time::interval(MERGES_EVERY);
    let ended = loop {
        let change = tokio::select! {
            change = changes.recv() => change,
            _ = look.tick() => {
                merge(client)?;
                continue;
            }
            () = stop.cancelled() => break Ok(()),
        };
        let change = match change {
            Ok(change) => change,
            Err(RecvError::Lagged(count)) => {
                output.json(&json!({ "event": "missed", "more": count }))?;
                output
                    .say(format_args!("missed {count} change events: the output was too slow"))?;
                continue;
            }
            Err(RecvError::Closed) => break Ok(()),
        };
        report(client, output, &change)?;
        if let ChangeEvent::Stopped(reason) = change {
            break Err(Failure::from(vfs_sync_client::ClientError::Stopped(reason)));
        }
    };
    client.stop_background().await;
    ended
}

fn report(client: &SyncClient, output: Output, change: &ChangeEvent) -> Result<()> {
    let path = |item: &ItemId| path::of(client, item).ok();
    let line = |event: &str, item: &ItemId, more: Value| {
        let path = path(item);
        output.json(&json!({ "event": event, "itemId": item, "path": path, "more": more }))?;
        let at = path.unwrap_or_else(|| item.to_string());
        let text = match event {
            "went" => "removed",
            "outdated" => "overridden",
            "conflictedCopy" => "conflicted copy of",
            "uploadRejected" => "content rejected:",
            "notMoved" => "not moved:",
            other => other,
        };
        output.say(format_args!("{text} {}", escaped(&at)))
    };
    match change {
        ChangeEvent::Appeared(item) => line("appeared", item, Value::Null),
        ChangeEvent::Changed(item) => line("changed", item, Value::Null),
        ChangeEvent::Went(item) => line("went", item, Value::Null),
        ChangeEvent::Revoked(item) => line("revoked", item, Value::Null),
        ChangeEvent::Kept(item) => line("kept", item, Value::Null),
        ChangeEvent::NotMoved(item) => line("notMoved", item, Value::Null),
        ChangeEvent::Shared { item_id, owner, level } => {
            line("shared", item_id, json!({ "owner": owner, "accessLevel": level }))
        }
        ChangeEvent::Rejected { op_id, item_id, reason } => {
            line("rejected", item_id, json!({ "opId": op_id, "reason": reason }))
        }
        ChangeEvent::Outdated { op_id, item_id, reason } => {
            line("outdated", item_id, json!({ "opId": op_id, "reason": reason }))
        }
        ChangeEvent::ConflictedCopy { item_id, copy } => {
            line("conflictedCopy", item_id, json!({ "copy": copy }))
        }
        ChangeEvent::UploadRejected { item_id, reason } => {
            line("uploadRejected", item_id, json!({ "reason": reason }))
        }
        ChangeEvent::Paused(reason) => {
            output.json(&json!({ "event": "paused", "more": reason }))?;
            output.note(format_args!("paused: {}; it resumes by itself", escaped(&reason.message)));
            Ok(())
        }
        ChangeEvent::Resumed => {
            output.json(&json!({ "event": "resumed" }))?;
            output.note("resumed");
            Ok(())
        }
        ChangeEvent::Outstanding(left) => {
            let more = outstanding::json(client, left)?;
            output.json(&json!({ "event": "outstanding", "more": more }))?;
            if let Some(sentence) = outstanding::sentence(left) {
                output.note(escaped(&sentence));
            }
            Ok(())
        }
        ChangeEvent::Offered(offered) => {
            output.json(&json!({ "event": "offered", "more": offered }))?;
            recover::offered_text(offered).map_or(Ok(()), |text| output.say(text))
        }
        ChangeEvent::Rebuilt => {
            output.json(&json!({ "event": "rebuilt" }))?;
            output.say("the replica was rebuilt from the server's state")
        }
        ChangeEvent::Connection(connection) => {
            output.json(&json!({ "event": "connection", "more": connection_json(connection) }))?;
            output.note(connection_text(connection));
            Ok(())
        }
        ChangeEvent::Stopped(reason) => output.json(&json!({ "event": "stopped", "more": reason })),
    }
}

fn connection_json(connection: &Connection) -> Value {
    let (state, reason, since) = match connection.state {
        Connectivity::Unknown => ("unknown", None, None),
        Connectivity::Online => ("online", None, None),
        Connectivity::Live => ("live", None, None),
        Connectivity::Polling(reason) => ("polling", Some(<&str>::from(reason)), None),
        Connectivity::Offline { since } => ("offline", None, Some(since)),
    };
    json!({
        "state": state, "reason": reason, "since": since, "inStepAt": connection.in_step_at,
    })
}

fn connection_text(connection: &Connection) -> String {
    match connection.state {
        Connectivity::Unknown | Connectivity::Online => "online".into(),
        Connectivity::Live => "live: changes of others arrive at once".into(),
        Connectivity::Polling(reason) => {
            let why = match reason {
                PollingReason::Unsupported => "the server has no live updates",
                PollingReason::HeldBack => {
                    "live updates do not get through; does a proxy on the way hold them back?"
                }
                PollingReason::Refused => "the server refuses live updates at present",
            };
            format!("polling: {why}")
        }
        Connectivity::Offline { since } => format!("offline since {since}"),
    }
}
