//! Sharing: `share`, `unshare`, `shares`, `shared-with-me`.

use std::time::Duration;

use serde_json::{Value, json};
use vfs_sync_client::{Child, Grant, SyncClient, Transport as _, TreePath};
use vfs_sync_core::access::{AccessLevel, Principal};
use vfs_sync_core::id::ItemId;

use super::look::{node_json, shown, with};
use crate::args::{Global, Share, Shares, Unshare};
use crate::error::{Failure, Kind, Result};
use crate::output::{Output, table, table_text};
use crate::safe::{Safe, safe};
use crate::{path, replica};

/// How long the server may take to say whether it knows somebody.
const PATIENCE: Duration = Duration::from_secs(3);

fn principal_json(principal: &Principal, level: AccessLevel) -> Value {
    json!({
        "principalType": principal.kind, "principalId": principal.id, "accessLevel": level,
    })
}

fn grant_json(grant: &Grant) -> Value {
    with(principal_json(&grant.principal, grant.level), "pending", grant.pending)
}

pub(super) async fn share(global: &Global, args: Share, output: Output) -> Result<()> {
    let client = replica::open(global, replica::config())?;
    let node = path::item(&client, &args.path)?;
    let level = AccessLevel::from(args.level);
    client.share(&node.id, args.who.clone(), level).map_err(path::explain(&client))?;
    let known = known(global, &client, &args.who).await;
    let who = safe(&args.who.to_string());
    if known == Some(false) {
        output.note(format_args!(
            "warning: the server knows nothing of {who} yet; is the name right?"
        ));
    }
    output.say(format_args!("{} is shared with {who}: {level}", Safe(&args.path)))?;
    let grant = principal_json(&args.who, level);
    output.json(&json!({ "id": node.id, "path": args.path, "grant": grant, "known": known }))
}

/// Whether the server knows of a principal; `None` where it cannot be asked.
async fn known(global: &Global, client: &SyncClient, principal: &Principal) -> Option<bool> {
    let server = replica::server(global, None, None, Some(PATIENCE)).ok()?;
    server.meant_for(&client.user()).ok()?;
    tokio::time::timeout(PATIENCE, server.knows(principal)).await.ok()?.ok()
}

pub(super) fn unshare(global: &Global, args: Unshare, output: Output) -> Result<()> {
    let client = replica::open(global, replica::config())?;
    let node = path::item(&client, &args.path)?;
    let granted = client.grants(&node.id)?.iter().any(|grant| grant.principal == args.who);
    let who = safe(&args.who.to_string());
    if !granted {
        let readers = client.audience(&node.id)?;
        let through = readers.iter().find(|reader| reader.principal == args.who);
        let message = format!("{} is not shared with {who} itself", args.path);
        return Err(Failure::new(Kind::NotFound, message).hint(match through {
            Some(reader) if reader.through != node.id => {
                let at = path::of(&client, &reader.through)?;
                format!("what reaches {who} is a grant on {at}")
            }
            Some(_) => format!("{who} owns it"),
            None => format!("see `vfs-sync shares '{}'`; is this replica synced?", args.path),
        }));
    }
    client.unshare(&node.id, args.who.clone()).map_err(path::explain(&client))?;
    output.say(format_args!("{} is no longer shared with {who}", Safe(&args.path)))?;
    let (kind, id) = (args.who.kind, &args.who.id);
    output.json(&json!({
        "id": node.id, "path": args.path, "principalType": kind, "principalId": id,
    }))
}

pub(super) fn shares(global: &Global, args: Shares, output: Output) -> Result<()> {
    let client = replica::open(global, replica::config())?;
    match &args.path {
        Some(path) => of_item(&client, path, output),
        None => all(&client, output),
    }
}

fn of_item(client: &SyncClient, path: &str, output: Output) -> Result<()> {
    let node = path::item(client, path)?;
    let grants = client.grants(&node.id)?;
    let mut rows = table(&["who", "level", "by a grant on", ""], &[]);
    let mut readers = Vec::new();
    for reader in client.audience(&node.id)? {
        let owns = reader.principal.id.as_str() == node.owner.as_str() && reader.through == node.id;
        let through = path::of(client, &reader.through)?;
        let own = grants.iter().find(|grant| grant.principal == reader.principal);
        rows.add_row([
            safe(&reader.principal.to_string()),
            reader.level.to_string(),
            if owns { "owns it".to_owned() } else { safe(&through) },
            if own.is_some_and(|grant| grant.pending) { "*" } else { "" }.to_owned(),
        ]);
        let json = principal_json(&reader.principal, reader.level);
        readers.push(with(json, "through", if owns { Value::Null } else { through.into() }));
    }
    if output.json {
        let grants: Vec<_> = grants.iter().map(grant_json).collect();
        return output.json(&json!({
            "id": node.id, "path": path, "owner": node.owner, "grants": grants, "readers": readers,
        }));
    }
    output.text(table_text(rows))
}

fn all(client: &SyncClient, output: Output) -> Result<()> {
    let mut shares = Vec::new();
    for (item, grants) in client.shares()? {
        let owner = client.node(&item)?.map(|node| node.owner);
        let Some(owner) = owner else { continue };
        shares.push((path::of(client, &item)?, item, owner, grants));
    }
    shares.sort_by(|a, b| a.0.cmp(&b.0));
    if output.json {
        let shares: Vec<_> = shares
            .iter()
            .map(|(path, id, owner, grants)| {
                let grants: Vec<_> = grants.iter().map(grant_json).collect();
                json!({ "path": path, "id": id, "owner": owner, "grants": grants })
            })
            .collect();
        return output.json(&json!({ "shares": shares }));
    }
    if shares.is_empty() {
        return output.say("nothing is shared");
    }
    let mut rows = table(&["path", "owner", "with", "level", ""], &[]);
    for (path, _, owner, grants) in &shares {
        for grant in grants {
            rows.add_row([
                safe(path),
                safe(owner.as_str()),
                safe(&grant.principal.to_string()),
                grant.level.to_string(),
                if grant.pending { "*" } else { "" }.to_owned(),
            ]);
        }
    }
    output.text(table_text(rows))
}

pub(super) fn shared_with_me(global: &Global, output: Output) -> Result<()> {
    let client = replica::open(global, replica::config())?;
    let shared = client.shared_with_me()?;
    let at = |child: &Child| {
        let owner = child.node.owner.clone();
        TreePath::Shared { owner, steps: vec![child.name.clone()] }.to_string()
    };
    if output.json {
        let entries: Vec<_> = shared
            .iter()
            .map(|child| {
                let json = with(node_json(&child.node), "name", child.name.as_str());
                with(json, "path", at(child))
            })
            .collect();
        return output.json(&json!({ "entries": entries }));
    }
    if shared.is_empty() {
        return output.say("nobody shares anything with you, as far as this replica knows");
    }
    let mut rows = table(&["owner", "level", "path"], &[]);
    for child in &shared {
        rows.add_row([
            safe(child.node.owner.as_str()),
            child.node.access_level.to_string(),
            shown(&at(child), &child.node, false),
        ]);
    }
    output.text(table_text(rows))
}

/// Who is told of an item, for `stat`: the principals of its grants.
pub(super) fn grants_text(client: &SyncClient, item: &ItemId) -> Result<Vec<String>> {
    let grants = client.grants(item)?;
    let text = |grant: &Grant| format!("{}: {}", grant.principal, grant.level);
    Ok(grants.iter().map(text).collect())
}
