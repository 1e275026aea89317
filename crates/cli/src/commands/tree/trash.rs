//! Deleted items: `trash`, `trash restore`, `trash empty`.

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use vfs_sync_client::{ClientError, SyncClient, Trashed};
use vfs_sync_core::id::ItemId;

use crate::args::{Global, Trash, TrashAction, TrashEmpty, TrashRestore};
use crate::error::{Failure, Kind, Result};
use crate::escape::escaped;
use crate::output::{Output, bytes_text, table};
use crate::{replica, shutdown};

pub(in crate::commands) async fn trash(
    global: &Global,
    args: Trash,
    output: Output,
    stop: CancellationToken,
) -> Result<()> {
    let client = replica::open(global, replica::config())?;
    let work = async {
        match args.action.unwrap_or(TrashAction::List) {
            TrashAction::List => list(&client, output).await,
            TrashAction::Restore(args) => restore(&client, args, output).await,
            TrashAction::Empty(args) => empty(&client, args, output).await,
        }
    };
    shutdown::unless_stopped(&stop, work).await
}

/// Returns the former path of an item, in the user's own tree or an owner's.
fn place(client: &SyncClient, found: &Trashed) -> String {
    let path = found.path.join("/");
    if found.owner == client.user() {
        format!("/{path}")
    } else {
        format!("shared:{}/{path}", found.owner)
    }
}

fn trashed_json(client: &SyncClient, found: &Trashed) -> Value {
    json!({
        "id": found.item,
        "path": place(client, found),
        "type": found.object_type,
        "name": found.name,
        "owner": found.owner,
        "deletedAt": found.deleted_at,
        "deletedBy": found.deleted_by,
        "size": found.size,
        "expiresAt": found.expires_at,
        "pending": found.pending,
    })
}

async fn list(client: &SyncClient, output: Output) -> Result<()> {
    let all = match client.trash().list().await {
        Ok(all) => all,
        Err(error) => {
            let pending = client.trash().pending()?;
            return Err(Failure::from(error).hint(format!(
                "{} deletions of this device wait for the server; the server lists the others",
                pending.len()
            )));
        }
    };
    if output.json {
        let items: Vec<_> = all.iter().map(|found| trashed_json(client, found)).collect();
        return output.json(&json!({ "items": items }));
    }
    if all.is_empty() {
        return output.say("the trash is empty");
    }
    let mut rows = table(&["deleted", "by", "kept until", "size", "path"], &[3]);
    for found in &all {
        rows.add_row([
            found.deleted_at.to_string(),
            escaped(found.deleted_by.as_str()),
            found.expires_at.map_or_else(|| "not synchronised yet".into(), |at| at.to_string()),
            found.size.map_or_else(String::new, bytes_text),
            escaped(&place(client, found)),
        ]);
    }
    output.table(rows)
}

/// Finds an item by its former path or its id; a path selects the newest deletion there.
fn chosen<'a>(client: &SyncClient, all: &'a [Trashed], which: &str) -> Result<&'a Trashed> {
    let is_path = which.starts_with('/') || which.starts_with("shared:");
    let wanted = which.trim_end_matches('/');
    let mut found = all.iter().filter(|one| {
        if is_path { place(client, one) == wanted } else { one.item.as_str() == which }
    });
    found.next().ok_or_else(|| {
        Failure::new(Kind::NotFound, format!("{which} is not in the trash"))
            .hint("see `vfs-sync trash` for what can be restored, and its ids with --json")
    })
}

async fn restore(client: &SyncClient, args: TrashRestore, output: Output) -> Result<()> {
    let all = client.trash().list().await?;
    // All of them are looked up before the first is restored.
    let chosen: Vec<&Trashed> =
        args.items.iter().map(|which| chosen(client, &all, which)).collect::<Result<_>>()?;
    let mut restored = Vec::new();
    for found in chosen {
        let path = place(client, found);
        let count = client.trash().restore(&found.item, !args.only).await.map_err(gone(&path))?;
        // It may have another place now, where its old folder no longer exists.
        let now_at = client.path_of(&found.item).ok();
        match &now_at {
            Some(at) if count > 1 => output.say(format_args!(
                "restored {} with {} more",
                escaped(&shown(at)),
                count - 1
            ))?,
            Some(at) => output.say(format_args!("restored {}", escaped(&shown(at))))?,
            None => output.say(format_args!("restored {}", escaped(&path)))?,
        }
        restored.push(json!({
            "id": found.item, "path": path, "restoredAt": now_at.map(|at| shown(&at)),
            "restored": count,
        }));
    }
    output.json(&json!({ "restored": restored }))
}

/// Formats a path of the client as an argument.
fn shown(path: &str) -> String {
    if path.starts_with('/') || path.starts_with("shared:") {
        path.to_owned()
    } else {
        format!("/{path}")
    }
}

/// Explains that the item left the trash in between.
fn gone(path: &str) -> impl Fn(ClientError) -> Failure {
    let path = path.to_owned();
    move |error| match error {
        ClientError::UnknownItem(_) => {
            Failure::new(Kind::NotFound, format!("{path} is no longer in the trash"))
                .hint("it was restored or permanently removed: see `vfs-sync trash`")
        }
        other => other.into(),
    }
}

async fn empty(client: &SyncClient, args: TrashEmpty, output: Output) -> Result<()> {
    let all = client.trash().list().await?;
    let Some(which) = &args.item else {
        let own = all.iter().filter(|found| found.owner == client.user()).count();
        confirm(args.yes, own, "everything of yours in the trash")?;
        let emptied = client.trash().empty().await?;
        output.say(format_args!("permanently removed {}", emptied.purged))?;
        output.json(&json!({ "purged": emptied.purged, "ofOthers": emptied.of_others }))?;
        if emptied.of_others > 0 {
            let others = emptied.of_others;
            let stay = format!("{others} items in the trash belong to others and stay there");
            return Err(Failure::new(Kind::Partial, stay).hint("only their owners may remove them"));
        }
        return Ok(());
    };
    let found = chosen(client, &all, which)?;
    let path = place(client, found);
    confirm(args.yes, 1, &path)?;
    let purged = purge(client, &found.item, &path).await?;
    output.say(format_args!("permanently removed {}", escaped(&path)))?;
    output.json(&json!({ "id": found.item, "path": path, "purged": purged }))
}

fn confirm(yes: bool, items: usize, what: &str) -> Result<()> {
    if yes || items == 0 {
        return Ok(());
    }
    Err(Failure::usage(format!("{what} would be permanently removed, and could not be restored"))
        .hint("add --yes to confirm"))
}

async fn purge(client: &SyncClient, item: &ItemId, path: &str) -> Result<u64> {
    client.trash().purge(item, true).await.map_err(gone(path))
}
