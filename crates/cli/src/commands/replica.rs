//! Commands on the replica itself: `init`, `status`, `rematerialise`, `completions`, and `man`.

pub(super) mod devices;
pub(super) mod outstanding;
pub(super) mod queue;
pub(super) mod recover;
pub(super) mod sign_in;
pub(super) mod state;
pub(super) mod sync;

use std::io::Write as _;

use clap::CommandFactory as _;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use self::sync::outcome;
use super::live::state::View;
use crate::args::{Cli, Completions, Global, Init, Man, Status};
use crate::error::{Failure, Result};
use crate::escape::escaped;
use crate::output::{Output, bytes_text, count_text, raw, table};
use crate::{replica, shutdown};

pub(super) fn init(global: &Global, args: Init, output: Output) -> Result<()> {
    let client = replica::create(global, &args)?;
    let directory = replica::directory(global)?;
    let status = client.status()?;
    output.say(format_args!(
        "created a replica of {}'s tree in {}; `vfs-sync sync` fills it",
        escaped(status.user.as_str()),
        escaped(&directory.to_string_lossy())
    ))?;
    output.json(&json!({
        "replica": directory.to_string_lossy(), "clientId": status.client_id,
        "user": status.user, "server": status.server,
    }))
}

pub(super) async fn status(global: &Global, args: Status, output: Output) -> Result<()> {
    let client = replica::open(global, replica::config())?;
    let directory = replica::directory(global)?;
    let status = client.status()?;
    let cache = client.contents().usage()?;
    let left = client.queue().outstanding()?;
    let live = View::read(&client, &directory);
    let end = || {
        let stopped = status.stopped.as_ref().map(outstanding::stopped);
        let failure = stopped.or_else(|| outstanding::failure(&left));
        match &live {
            Err(failure) => Err(failure.clone()),
            Ok(live) => {
                failure.or_else(|| live.failure()).or_else(|| live.paused()).map_or(Ok(()), Err)
            }
        }
    };
    let server = match args.server {
        true => Some(client.server_state().await?),
        false => None,
    };
    if output.json {
        output.json(&json!({
            "replica": directory.to_string_lossy(),
            "clientId": status.client_id,
            "user": status.user,
            "server": status.server,
            "cursor": status.cursor,
            "lastReconciledWriteIds": status.last_reconciled_write_ids,
            "items": status.items,
            "pending": status.pending,
            "acknowledged": status.acknowledged,
            "rejected": status.rejected,
            "uploads": status.uploads,
            "rejectedUploads": status.rejected_uploads,
            "lost": status.lost,
            "lostFirst": recover::first_json(&client)?,
            "cache": { "bytes": cache.bytes, "contents": cache.contents, "limit": cache.limit },
            "stopped": status.stopped,
            "failing": status.failing,
            "outstanding": outstanding::json(&client, &left)?,
            "serverState": server,
            "live": live.as_ref().ok().map(View::json),
        }))?;
        return end();
    }
    let mut rows = table(&[], &[]);
    let mut row = |name: &str, value: String| {
        rows.add_row([name.to_owned(), escaped(&value)]);
    };
    row("replica", directory.to_string_lossy().into_owned());
    row("client id", status.client_id.to_string());
    row("user", status.user.to_string());
    row("server", status.server.clone());
    let never = "nothing yet".to_owned();
    row("seen through", status.cursor.as_ref().map_or(never, |c| c.changed_at.to_string()));
    row("items", count_text(status.items));
    row("to push", count_text(status.pending));
    row("pushed, not yet pulled", count_text(status.acknowledged));
    row(
        "to upload",
        match &left.waiting {
            Some(reason) => format!("{}: {reason}", count_text(status.uploads)),
            None => count_text(status.uploads),
        },
    );
    let limit =
        cache.limit.map_or("no limit".to_owned(), |limit| format!("of {}", bytes_text(limit)));
    row("content cache", format!("{} ({limit})", bytes_text(cache.bytes)));
    if status.rejected > 0 {
        row("rejected", format!("{}: see `vfs-sync rejected`", count_text(status.rejected)));
    }
    if status.rejected_uploads > 0 {
        let count = count_text(status.rejected_uploads);
        row("rejected contents", format!("{count}: see `vfs-sync rejected`"));
    }
    if status.lost > 0 {
        row("lost by the server", format!("{}: see `vfs-sync recover`", count_text(status.lost)));
        for line in recover::first_lines(&client)? {
            row("", line);
        }
    }
    match &live {
        Ok(live) => {
            for (directory, state) in live.lines() {
                row("live folder", format!("{directory}: {state}"));
            }
            live.not_running().into_iter().for_each(|text| row("", text));
        }
        Err(failure) => row("live folders", failure.message.clone()),
    }
    if let Some(reason) = &status.stopped {
        row("STOPPED", format!("{}: {}", reason.signature, reason.message));
        if reason.details != "{}" {
            row("", reason.details.clone());
        }
        row("", outstanding::next_of_stop(&reason.signature));
    }
    if let Some(failing) = &status.failing {
        row("failing", format!("since {}: {}", failing.since, failing.message));
        row("", "see `vfs-sync doctor`".to_owned());
    }
    if let Some(server) = server {
        let at = |cursor: Option<&vfs_sync_core::cursor::Cursor>| {
            cursor.map_or("none".to_owned(), |cursor| {
                format!("{} {}", cursor.changed_at, cursor.change_id)
            })
        };
        row("server: feed head", at(server.feed_head.as_ref()));
        row("server: acknowledged", at(server.reconcile_state.as_ref().map(|state| &state.cursor)));
        row("server: replicas", count_text(server.last_write_ids.len() as u64));
        for owner in &server.withheld_owners {
            let why = "shared more before your first sync than the server shows at once, so nothing \
                       of theirs is shown: ask them to unshare a part, and to share another again";
            row("server: NOT SHOWN", format!("{owner} {why}"));
        }
    }
    output.table(rows)?;
    end()
}

pub(super) async fn rematerialise(
    global: &Global,
    output: Output,
    stop: CancellationToken,
) -> Result<()> {
    let client = replica::open(global, replica::config())?;
    let progress = output.progress("rebuilding");
    let report = shutdown::unless_stopped(&stop, client.rematerialise()).await?;
    drop(progress);
    output.json(&json!(report))?;
    output.say(format_args!("rebuilt from {} entries", count_text(report.pulled)))?;
    if let Some(text) = recover::offered_text(&report.offered) {
        output.say(text)?;
        output.say("`vfs-sync sync` sends the queued changes")?;
    }
    outcome(&report)?;
    outstanding::failure(&client.queue().outstanding()?)
        .filter(|_| report.offered.listed > 0)
        .map_or(Ok(()), Err)
}

/// Writes the manual pages of all commands.
pub(super) fn man(args: Man, output: Output) -> Result<()> {
    let failed = || format!("cannot write to {}", args.directory.display());
    std::fs::create_dir_all(&args.directory).map_err(Failure::io(failed()))?;
    let command = Cli::command().disable_help_subcommand(true);
    clap_mangen::generate_to(command, &args.directory).map_err(Failure::io(failed()))?;
    output.say(format_args!("the pages are in {}", args.directory.display()))?;
    output.json(&json!({ "directory": args.directory }))
}

pub(super) fn completions(args: Completions) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "vfs-sync", &mut script);
    raw().write_all(&script).map_err(Failure::output)
}
