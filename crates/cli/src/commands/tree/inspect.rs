//! Inspection of the tree: `ls`, `tree`, `stat`.

use std::fmt::Write as _;

use serde_json::{Value, json};
use vfs_sync_client::{Child, ClientError, Node, SyncClient, TreeEntry, TreePath};
use vfs_sync_core::id::UserId;
use vfs_sync_core::shown::{MTIME, TOUCHED};
use vfs_sync_folder::disk::link;
use vfs_sync_folder::disk::metadata::{self, OnDisk, on_disk};

use super::super::render::{display_name, node_json, with_field};
use super::super::sharing::share;
use crate::args::{Global, Ls, OnePath, Tree};
use crate::error::{Failure, Result};
use crate::escape::escaped;
use crate::output::{Output, count_text, json_text, table};
use crate::path::{self, Place};
use crate::replica;

pub(in crate::commands) fn ls(global: &Global, args: Ls, output: Output) -> Result<()> {
    let client = replica::open(global, replica::config())?;
    let entries: Vec<Child> = match path::find(&client, &args.path)? {
        Place::Item(node) if on_disk(node.object_type) == OnDisk::File => {
            let (_, name) = path::split(&args.path)?;
            vec![Child { name, shortcut: false, node: *node }]
        }
        Place::Owners => return owners(&client, &args, output),
        place => place.children(&client)?,
    };
    if output.json {
        let entries: Vec<_> = entries
            .iter()
            .map(|child| {
                let json = with_field(node_json(&child.node), "name", child.name.as_str());
                with_field(json, "shortcut", child.shortcut)
            })
            .collect();
        return output.json(&json!({ "path": args.path, "entries": entries }));
    }
    if !args.long {
        let line = |child: &Child| display_name(&child.name, &child.node, child.shortcut);
        return entries.iter().try_for_each(|child| output.text(line(child)));
    }
    let header = ["type", "mode", "size", "modified", "owner", "access", "", "name"];
    let mut rows = table(&header, &[2]);
    for Child { name, shortcut, node } in &entries {
        rows.add_row([
            node.object_type.as_str().to_owned(),
            metadata::mode(node).map_or("-".to_owned(), |mode| format!("{mode:04o}")),
            node.content.as_ref().map_or("-".to_owned(), |content| count_text(content.size)),
            node.modified_at().to_string(),
            escaped(node.owner.as_str()),
            node.access_level.to_string(),
            if node.pending { "*" } else { "" }.to_owned(),
            display_name(name, node, *shortcut),
        ]);
    }
    output.table(rows)
}

/// Returns the path step that stands for an owner.
fn owner_step(owner: &UserId) -> String {
    let path = TreePath::Shared { owner: owner.clone(), steps: Vec::new() }.to_string();
    path.strip_prefix("shared:").unwrap_or(&path).to_owned()
}

/// Lists the users who share something.
fn owners(client: &SyncClient, args: &Ls, output: Output) -> Result<()> {
    let owners = client.shared_owners()?;
    if output.json {
        let entries: Vec<_> = owners
            .iter()
            .map(|owner| json!({ "name": owner_step(owner), "type": "owner", "owner": owner }))
            .collect();
        return output.json(&json!({ "path": args.path, "entries": entries }));
    }
    if !args.long {
        let line = |owner: &UserId| format!("{}/", escaped(&owner_step(owner)));
        return owners.iter().try_for_each(|owner| output.text(line(owner)));
    }
    let mut rows = table(&["shares", "owner"], &[0]);
    for owner in &owners {
        let count = client.shared_by(owner)?.len() as u64;
        rows.add_row([count_text(count), format!("{}/", escaped(&owner_step(owner)))]);
    }
    output.table(rows)
}

type Entries = Box<dyn Iterator<Item = Result<TreeEntry, ClientError>>>;

/// The walks through a place: one, or one for each owner.
type Walks = Vec<(Option<UserId>, Entries)>;

fn walks(client: &SyncClient, top: &Place) -> Result<Walks> {
    Ok(match top {
        Place::Top => vec![(None, Box::new(client.walk(None)?))],
        Place::Item(node) => vec![(None, Box::new(client.walk(Some(&node.id))?))],
        Place::Owner(owner) => vec![(None, Box::new(client.walk_shared(owner)?))],
        Place::Owners => {
            let mut walks: Walks = Vec::new();
            for owner in client.shared_owners()? {
                let walk = client.walk_shared(&owner)?;
                walks.push((Some(owner), Box::new(walk)));
            }
            walks
        }
    })
}

pub(in crate::commands) fn tree(global: &Global, args: Tree, output: Output) -> Result<()> {
    let client = replica::open(global, replica::config())?;
    let top = path::folder(&client, &args.path)?;
    let (mut folders, mut files, mut others) = (0_u64, 0_u64, 0_u64);
    let text = |value: &Value| json_text(value).map_err(Failure::output);
    // Written while it is read: a tree may be larger than memory.
    output.json_part(&format!("{{\"path\":{},\"entries\":[", text(&json!(args.path))?))?;
    let mut separator = "\n";
    let base = path::parse(&args.path)?.to_string();
    let base = base.trim_end_matches('/');
    for (owner, entries) in walks(&client, &top)? {
        let above = usize::from(owner.is_some());
        let before = owner.map(|owner| format!("{}/", owner_step(&owner))).unwrap_or_default();
        if !before.is_empty() && !output.json {
            output.text(escaped(&before))?;
        }
        for entry in entries {
            let entry = entry?;
            if args.depth.is_some_and(|depth| entry.depth + above >= depth) {
                continue;
            }
            match on_disk(entry.node.object_type) {
                OnDisk::Folder => folders += 1,
                OnDisk::File => files += 1,
                OnDisk::Nothing => others += 1,
            }
            let at = |path: &str| format!("{before}{path}");
            if output.json {
                let json = with_field(node_json(&entry.node), "path", at(&entry.path));
                let json = with_field(json, "shortcut", entry.shortcut);
                let json = with_field(json, "linkedAgain", entry.linked_again.as_deref().map(at));
                output.json_part(&format!("{separator}{}", text(&json)?))?;
                separator = ",\n";
            } else {
                let name = entry.path.rsplit('/').next().unwrap_or(&entry.path);
                let indent = "  ".repeat(entry.depth + above);
                let mut line =
                    format!("{indent}{}", display_name(name, &entry.node, entry.shortcut));
                if let Some(first) = &entry.linked_again {
                    let slash = if first.is_empty() || base.ends_with(':') { "" } else { "/" };
                    let _ =
                        write!(line, " (see {})", escaped(&format!("{base}{slash}{}", at(first))));
                }
                output.text(line)?;
            }
        }
    }
    output.json_part(&format!(
        "\n],\"folders\":{folders},\"files\":{files},\"others\":{others}}}\n"
    ))?;
    output.note(format_args!(
        "{} folders, {} files, {} others",
        count_text(folders),
        count_text(files),
        count_text(others)
    ));
    Ok(())
}

pub(in crate::commands) fn stat(global: &Global, args: OnePath, output: Output) -> Result<()> {
    let client = replica::open(global, replica::config())?;
    let node = path::item(&client, &args.path)?;
    let places = places(&client, &node)?;
    if output.json {
        let value = with_field(node_json(&node), "path", args.path.as_str());
        return output.json(&with_field(value, "places", places));
    }
    let mut rows = table(&[], &[]);
    let mut row = |name: &str, value: String| {
        rows.add_row([name.to_owned(), escaped(&value)]);
    };
    row("path", args.path.clone());
    row("id", node.id.to_string());
    row("type", node.object_type.as_str().to_owned());
    let target = link::target(&node);
    if let Some(target) = &target {
        row("link to", target.to_string_lossy().into_owned());
    }
    row("owner", node.owner.to_string());
    row("access", node.access_level.to_string());
    for grant in share::grants_text(&client, &node.id)? {
        row("shared with", grant);
    }
    row("created", node.created_at.to_string());
    row("modified", node.modified_at().to_string());
    if let Some(content) = &node.content {
        row("size", content.size.to_string());
        row("sha256", content.digest.to_string());
        row("blob", content.blob_id.to_string());
        if let Some(content_type) = &content.content_type {
            row("content type", content_type.to_string());
        }
    }
    for (key, value) in &node.metadata {
        match (&**key, metadata::mode(&node)) {
            ("mode", Some(mode)) => row("mode", format!("{mode:04o}")),
            (MTIME | TOUCHED, _) => {}
            _ => row(key, value.to_string()),
        }
    }
    for place in places {
        row("in", place);
    }
    row("on its way", if node.pending { "yes" } else { "no" }.to_owned());
    output.table(rows)
}

/// Returns the paths of the folders that contain an item.
fn places(client: &SyncClient, node: &Node) -> Result<Vec<String>> {
    let parents = client.parents_of(&node.id)?;
    if parents.is_empty() {
        let own = node.owner == client.user();
        let owner = || TreePath::Shared { owner: node.owner.clone(), steps: Vec::new() };
        return Ok(vec![if own { "/".to_owned() } else { owner().to_string() }]);
    }
    parents.iter().map(|parent| Ok(path::of(client, parent)?)).collect()
}
