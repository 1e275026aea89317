//! Sharing: `share`, `unshare`, `shares`, `shared-with-me`.

use std::time::Duration;

use serde_json::{Value, json};
use vfs_sync_client::{
    Child, ClientError, Grant, Node, Reader, SyncClient, Transport as _, TreePath,
};
use vfs_sync_core::access::{AccessLevel, Principal, PrincipalType};
use vfs_sync_core::id::ItemId;

use super::super::render::{display_name, node_json, with_field};
use crate::args::{Global, Share, Shares, SharesAction, Unshare};
use crate::error::{Failure, Kind, Result};
use crate::escape::{Escaped, escaped};
use crate::output::{Output, table};
use crate::{path, replica};

/// The time limit for asking the server whether it knows a principal.
const PATIENCE: Duration = Duration::from_secs(3);

fn principal_json(principal: &Principal, level: AccessLevel) -> Value {
    json!({
        "principalType": principal.kind, "principalId": principal.id, "accessLevel": level,
    })
}

fn grant_json(grant: &Grant) -> Value {
    with_field(principal_json(&grant.principal, grant.level), "pending", grant.pending)
}

pub(in crate::commands) async fn share(global: &Global, args: Share, output: Output) -> Result<()> {
    let client = replica::open(global, replica::config())?;
    let node = path::item(&client, &args.path)?;
    let level = AccessLevel::from(args.level);
    client.sharing().share(&node.id, args.who.clone(), level).map_err(path::explain(&client))?;
    let known = known(global, &client, &args.who).await;
    let who = escaped(&args.who.to_string());
    if known == Some(false) {
        output.note(format_args!("warning: the server does not know {who} yet; check the name"));
    }
    output.say(format_args!("{} is shared with {who}: {level}", Escaped(&args.path)))?;
    let grant = principal_json(&args.who, level);
    output.json(&json!({ "id": node.id, "path": args.path, "grant": grant, "known": known }))
}

/// Asks whether the server knows a principal; `None` if the server cannot be asked.
async fn known(global: &Global, client: &SyncClient, principal: &Principal) -> Option<bool> {
    let server = replica::server(global, None, None, Some(PATIENCE)).ok()?;
    server.bind_user(&client.user()).ok()?;
    tokio::time::timeout(PATIENCE, server.knows(principal)).await.ok()?.ok()
}

pub(in crate::commands) fn unshare(global: &Global, args: Unshare, output: Output) -> Result<()> {
    let client = replica::open(global, replica::config())?;
    let node = path::item(&client, &args.path)?;
    let granted =
        client.sharing().grants(&node.id)?.iter().any(|grant| grant.principal == args.who);
    let who = escaped(&args.who.to_string());
    if !granted {
        let readers = client.sharing().audience(&node.id)?;
        let through = readers.iter().find(|reader| reader.principal == args.who);
        let message = format!("{} is not shared with {who} itself", args.path);
        return Err(Failure::new(Kind::NotFound, message).hint(match through {
            Some(reader) if reader.through != node.id => {
                let at = path::of(&client, &reader.through)?;
                format!("{who} has access by a grant on {at}")
            }
            Some(_) => format!("{who} owns it"),
            None => format!(
                "see `vfs-sync shares '{}'`; check that this replica is synchronised",
                args.path
            ),
        }));
    }
    client.sharing().unshare(&node.id, args.who.clone()).map_err(path::explain(&client))?;
    output.say(format_args!("{} is no longer shared with {who}", Escaped(&args.path)))?;
    let (kind, id) = (args.who.kind, &args.who.id);
    output.json(&json!({
        "id": node.id, "path": args.path, "principalType": kind, "principalId": id,
    }))
}

pub(in crate::commands) fn shares(global: &Global, args: Shares, output: Output) -> Result<()> {
    let client = replica::open(global, replica::config())?;
    if let Some(SharesAction::Decline { path }) = &args.action {
        return decline(&client, path, output);
    }
    match &args.path {
        Some(path) => of_item(&client, path, output),
        None => all(&client, output),
    }
}

fn decline(client: &SyncClient, path: &str, output: Output) -> Result<()> {
    let node = path::item(client, path)?;
    let at = path::of(client, &node.id)?;
    if node.owner == client.user() {
        return Err(Failure::usage(format!("{at} is your own: nobody shares it with you")));
    }
    client.sharing().decline(&node.id).map_err(|error| match error {
        ClientError::NotDeclined { through, .. } => not_declined(client, &at, &node, &through),
        other => path::explain(client)(other),
    })?;
    output.say(format_args!("declined {}: the next sync removes it", escaped(&at)))?;
    // A grant to a group, or on a folder above, still gives access.
    let left: Vec<String> = client
        .sharing()
        .audience(&node.id)?
        .iter()
        .filter(|reader| reaches(client, reader))
        .map(|reader| grant_text(client, reader))
        .collect();
    if !left.is_empty() {
        output.note(format_args!("you may still have access by {}", escaped(&left.join(", "))));
    }
    output.json(&json!({ "id": node.id, "path": at, "owner": node.owner, "stillBy": left }))
}

/// Returns whether a grant may reach this user: it names the user, or a group with unknown members.
fn reaches(client: &SyncClient, reader: &Reader) -> bool {
    match reader.principal.kind {
        PrincipalType::User => reader.principal.id.as_str() == client.user().as_str(),
        PrincipalType::Group | PrincipalType::Organization => true,
    }
}

fn grant_text(client: &SyncClient, reader: &Reader) -> String {
    let at = path::of(client, &reader.through).unwrap_or_else(|_| reader.through.to_string());
    format!("the grant to {} on {at}", reader.principal)
}

fn not_declined(client: &SyncClient, at: &str, node: &Node, through: &[Reader]) -> Failure {
    let owner = &node.owner;
    let by = match through {
        [] => "you have access by a grant on a folder above it that you do not see".to_owned(),
        grants => {
            let grants: Vec<String> = grants.iter().map(|one| grant_text(client, one)).collect();
            format!("you have access by {}", grants.join(", "))
        }
    };
    Failure::failed(format!("{at} is not shared with you by name: {by}")).hint(format!(
        "{owner} can revoke it; `vfs-sync block '{owner}'` hides all that {owner} shares"
    ))
}

fn of_item(client: &SyncClient, path: &str, output: Output) -> Result<()> {
    let node = path::item(client, path)?;
    let grants = client.sharing().grants(&node.id)?;
    let mut rows = table(&["who", "level", "by a grant on", ""], &[]);
    let mut readers = Vec::new();
    for reader in client.sharing().audience(&node.id)? {
        let owns = reader.principal.id.as_str() == node.owner.as_str() && reader.through == node.id;
        let through = path::of(client, &reader.through)?;
        let own = grants.iter().find(|grant| grant.principal == reader.principal);
        rows.add_row([
            escaped(&reader.principal.to_string()),
            reader.level.to_string(),
            if owns { "owner".to_owned() } else { escaped(&through) },
            if own.is_some_and(|grant| grant.pending) { "*" } else { "" }.to_owned(),
        ]);
        let json = principal_json(&reader.principal, reader.level);
        readers.push(with_field(json, "through", if owns { Value::Null } else { through.into() }));
    }
    if output.json {
        let grants: Vec<_> = grants.iter().map(grant_json).collect();
        return output.json(&json!({
            "id": node.id, "path": path, "owner": node.owner, "grants": grants, "readers": readers,
        }));
    }
    output.table(rows)
}

fn all(client: &SyncClient, output: Output) -> Result<()> {
    let mut shares = Vec::new();
    for (item, grants) in client.sharing().list()? {
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
                escaped(path),
                escaped(owner.as_str()),
                escaped(&grant.principal.to_string()),
                grant.level.to_string(),
                if grant.pending { "*" } else { "" }.to_owned(),
            ]);
        }
    }
    output.table(rows)
}

pub(in crate::commands) fn shared_with_me(global: &Global, output: Output) -> Result<()> {
    let client = replica::open(global, replica::config())?;
    let shared = client.sharing().with_me()?;
    let at = |child: &Child| {
        let owner = child.node.owner.clone();
        TreePath::Shared { owner, steps: vec![child.name.clone()] }.to_string()
    };
    if output.json {
        let entries: Vec<_> = shared
            .iter()
            .map(|child| {
                let json = with_field(node_json(&child.node), "name", child.name.as_str());
                with_field(json, "path", at(child))
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
            escaped(child.node.owner.as_str()),
            child.node.access_level.to_string(),
            display_name(&at(child), &child.node, false),
        ]);
    }
    output.table(rows)
}

/// Formats the grants on an item, for `stat`.
pub(in crate::commands) fn grants_text(client: &SyncClient, item: &ItemId) -> Result<Vec<String>> {
    let grants = client.sharing().grants(item)?;
    let text = |grant: &Grant| format!("{}: {}", grant.principal, grant.level);
    Ok(grants.iter().map(text).collect())
}
