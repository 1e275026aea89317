//! Changes that a restored server lost and this replica could not offer again: `recover`.

use serde_json::{Value, json};
use vfs_sync_client::{LostEntry, SyncClient};
use vfs_sync_core::client::offer::{LostChange, Offered};

use crate::args::{Global, Limit, Recover, RecoverAction};
use crate::error::{Failure, Kind, Result};
use crate::escape::escaped;
use crate::output::{Output, bytes_text, count_text, table};
use crate::replica;

/// The greatest number of entries in a request for all of them.
const ALL: usize = 1_000_000;
/// The number of lost changes that `status` shows.
const SHOWN: usize = 20;

pub(in crate::commands) fn recover(global: &Global, args: Recover, output: Output) -> Result<()> {
    let client = replica::open(global, replica::config())?;
    if args.grants {
        return grants(&client, output);
    }
    match args.action.unwrap_or(RecoverAction::List(Limit { limit: 100 })) {
        RecoverAction::List(limit) => list(&client, limit, output),
        RecoverAction::Discard { numbers, all } => {
            let entries = client.lost().list(0, ALL)?;
            let known = |number: &i64| entries.iter().any(|entry| entry.number == *number);
            let chosen: Vec<i64> = match all {
                true => entries.iter().map(|entry| entry.number).collect(),
                false => numbers,
            };
            if let Some(unknown) = chosen.iter().find(|number| !known(number)) {
                let what = format!("the list of lost changes has no entry {unknown}");
                return Err(Failure::new(Kind::NotFound, what).hint("see `vfs-sync recover`"));
            }
            client.lost().discard(&chosen)?;
            output.say(format_args!("{} discarded", count_text(chosen.len() as u64)))?;
            output.json(&json!({ "discarded": chosen }))
        }
    }
}

fn grants(client: &SyncClient, output: Output) -> Result<()> {
    let granted = client.lost().grant_again()?;
    let left = client.lost().list(0, ALL)?;
    let left = left.iter().filter(|entry| matches!(entry.lost.change, LostChange::Grant { .. }));
    let left = left.count() as u64;
    let documents: Vec<Value> = granted
        .iter()
        .map(|(item, principal)| {
            json!({
                "itemId": item, "principalType": principal.kind, "principalId": principal.id,
            })
        })
        .collect();
    let count = count_text(granted.len() as u64);
    output.say(format_args!("{count} grants queued; `vfs-sync sync` sends them"))?;
    output.json(&json!({ "granted": documents, "left": left }))?;
    if left == 0 {
        return Ok(());
    }
    let what = format!("{} lost grants could not be restored", count_text(left));
    Err(Failure::new(Kind::Partial, what).hint("see `vfs-sync recover`"))
}

/// Renders a lost change as JSON.
fn entry_json(entry: &LostEntry) -> Value {
    json!({
        "number": entry.number, "itemId": entry.lost.item, "path": entry.lost.path,
        "change": entry.lost.change, "reason": entry.lost.reason,
        "authoredAt": entry.lost.authored_at,
    })
}

fn change_text(change: &LostChange) -> String {
    match change {
        LostChange::Item => "item".to_owned(),
        LostChange::Fields => "name or metadata".to_owned(),
        LostChange::Deletion => "deletion".to_owned(),
        LostChange::Link { .. } => "link or move".to_owned(),
        LostChange::LinkRemoval { .. } => "removal of a link".to_owned(),
        LostChange::Grant { principal_id, access_level, .. } => {
            format!("grant: {access_level} to {principal_id}")
        }
        LostChange::Revocation { principal_id, .. } => format!("revocation of {principal_id}"),
        LostChange::Content { size, .. } => format!("content, {}", bytes_text(*size)),
        LostChange::Attachment { .. } => "attachment".to_owned(),
    }
}

fn list(client: &SyncClient, limit: Limit, output: Output) -> Result<()> {
    let entries = client.lost().list(0, limit.limit)?;
    if output.json {
        let entries: Vec<Value> = entries.iter().map(entry_json).collect();
        return output.json(&json!({ "entries": entries }));
    }
    if entries.is_empty() {
        return output.say("no changes are lost");
    }
    let mut rows = table(&["number", "path", "change", "reason"], &[0]);
    for entry in &entries {
        rows.add_row([
            entry.number.to_string(),
            escaped(&entry.lost.path),
            escaped(&change_text(&entry.lost.change)),
            entry.lost.reason.text().to_owned(),
        ]);
    }
    output.table(rows)
}

/// Renders the first lost changes as JSON, for `status`.
pub(in crate::commands) fn first_json(client: &SyncClient) -> Result<Vec<Value>> {
    Ok(client.lost().list(0, SHOWN)?.iter().map(entry_json).collect())
}

/// Returns a line for each of the first lost changes, for `status`.
pub(in crate::commands) fn first_lines(client: &SyncClient) -> Result<Vec<String>> {
    let line = |entry: &LostEntry| {
        let (change, reason) = (change_text(&entry.lost.change), entry.lost.reason.text());
        format!("{} ({change}): {reason}", entry.lost.path)
    };
    Ok(client.lost().list(0, SHOWN)?.iter().map(line).collect())
}

/// Describes what a sync offered again; `None` if the server had lost nothing.
pub(in crate::commands) fn offered_text(offered: &Offered) -> Option<String> {
    let all = offered.sent() + offered.listed;
    if all == 0 {
        return None;
    }
    let kinds = [
        (offered.revocations, "revocations"),
        (offered.deletions, "deletions"),
        (offered.items, "items"),
        (offered.links, "links"),
        (offered.contents, "contents"),
    ];
    let kinds: Vec<String> = kinds
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, kind)| format!("{} {kind}", count_text(*count)))
        .collect();
    let sent = if kinds.is_empty() { "nothing".to_owned() } else { kinds.join(", ") };
    let listed = match offered.listed {
        0 => String::new(),
        listed => format!("; {} could not be, see `vfs-sync recover`", count_text(listed)),
    };
    let all = count_text(all);
    Some(format!("the server had lost {all} changes; offered again: {sent}{listed}"))
}
