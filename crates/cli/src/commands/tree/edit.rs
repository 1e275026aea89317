//! Edits of the tree: `mkdir`, `mv`, `cp`, `rm`, `ln`. They apply locally at once; `sync` sends
//! them.

use serde_json::json;
use tokio_util::sync::CancellationToken;
use vfs_sync_client::{ClientError, Delete, Node, SyncClient, TreePath};
use vfs_sync_core::id::ItemId;
use vfs_sync_core::item::{Name, ObjectType};
use vfs_sync_folder::disk::metadata::{OnDisk, on_disk};

use crate::args::{FromTo, Global, Ln, Mkdir, Rm};
use crate::error::{Failure, Kind, Result};
use crate::escape::Escaped;
use crate::output::Output;
use crate::path::{self, Place};
use crate::{replica, shutdown};

pub(in crate::commands) fn mkdir(global: &Global, args: Mkdir, output: Output) -> Result<()> {
    let client = replica::open(global, replica::config())?;
    let mut made = Vec::new();
    for path in &args.paths {
        path::check_way(&client, path)?;
        if args.parents {
            make_all(&client, path, &mut made)?;
        } else {
            if path::parse(path)?.steps().is_empty() {
                return Err(match path::find(&client, path)?.container() {
                    Ok(_) => Failure::new(Kind::Exists, "the top folder exists already"),
                    Err(failure) => failure,
                });
            }
            let (parent, text) = path::split(path)?;
            let parent = path::folder(&client, &parent)?;
            if path::find_if_there(&client, path)?.is_some() {
                return Err(Failure::new(Kind::Exists, format!("{path} exists already"))
                    .hint("--parents accepts an existing folder"));
            }
            let made_it = client.create_folder(parent.container()?, path::name(&text)?);
            made.push((path.clone(), made_it.map_err(path::explain(&client))?));
        }
    }
    for (path, _) in &made {
        output.say(format_args!("created {}", Escaped(path)))?;
    }
    let made: Vec<_> = made.iter().map(|(path, id)| json!({ "path": path, "id": id })).collect();
    output.json(&json!({ "made": made }))
}

fn make_all(client: &SyncClient, path: &str, made: &mut Vec<(String, ItemId)>) -> Result<()> {
    let whole = path::parse(path)?;
    let mut above = match &whole {
        TreePath::Shared { owner, .. } => {
            TreePath::Shared { owner: owner.clone(), steps: Vec::new() }
        }
        TreePath::Own(_) => TreePath::Own(Vec::new()),
        TreePath::Owners => TreePath::Owners,
    };
    let mut parent = path::find(client, &above.to_string())?;
    for step in whole.steps() {
        above = above.join(step).unwrap_or(above);
        let at = above.to_string();
        parent = match path::find_if_there(client, &at)? {
            Some(place) if place.is_folder() => place,
            Some(_) => return Err(Failure::failed(format!("{at} is a file, not a folder"))),
            None => {
                let id = client
                    .create_folder(parent.container()?, path::name(step)?)
                    .map_err(path::explain(client))?;
                made.push((at.clone(), id));
                path::find(client, &at)?
            }
        };
    }
    if whole.steps().is_empty() {
        parent.container()?;
    }
    Ok(())
}

pub(in crate::commands) async fn mv(
    global: &Global,
    args: FromTo,
    output: Output,
    stop: CancellationToken,
) -> Result<()> {
    let client = replica::open(global, replica::config())?;
    path::check_way(&client, &path::above(&args.from)?)?;
    path::check_way(&client, &args.to)?;
    let (node, shortcut_in) = path::entry(&client, &args.from)?;
    let (_, own) = path::split(&args.from)?;
    let (parent, name) = path::destination(&client, &args.to, &own)?;
    if let Some(folder) = shortcut_in {
        let to = move_shortcut(&client, &node, &folder, &parent, &args)?;
        let path = format!("{}/{own}", path::of(&client, &to)?);
        output.say(format_args!("{} -> {}", Escaped(&args.from), Escaped(&path)))?;
        return output.json(&json!({
            "id": node.id, "from": args.from, "path": path, "copied": false,
        }));
    }
    if parent.owner(&client).as_ref() != Some(&node.owner) {
        return move_by_copy(&client, node, parent, name, args, output, stop).await;
    }
    // Moved first: if that is impossible, it is not renamed either.
    if !hangs_in(&client, &node, &parent)? {
        client
            .move_to(&node.id, parent.container()?)
            .map_err(|error| impossible(&client, error, &args))?;
    }
    if node.name.as_ref() != Some(&name) {
        client.rename(&node.id, name).map_err(path::explain(&client))?;
    }
    let path = path::of(&client, &node.id)?;
    output.say(format_args!("{} -> {}", Escaped(&args.from), Escaped(&path)))?;
    output.json(&json!({ "id": node.id, "from": args.from, "path": path, "copied": false }))
}

/// Returns whether a place is the only parent of an item within its own tree.
fn hangs_in(client: &SyncClient, node: &Node, place: &Place) -> Result<bool> {
    let mut parents = Vec::new();
    for parent in client.parents_of(&node.id)? {
        if client.node(&parent)?.is_some_and(|above| above.owner == node.owner) {
            parents.push(parent);
        }
    }
    Ok(match place {
        Place::Item(folder) => parents == [folder.id.clone()],
        _ => parents.is_empty(),
    })
}

/// Moves a shortcut to another folder of the same tree; returns that folder.
fn move_shortcut(
    client: &SyncClient,
    node: &Node,
    folder: &ItemId,
    parent: &Place,
    args: &FromTo,
) -> Result<ItemId> {
    let refused = |message: String| {
        Failure::failed(message).hint(format!(
            "`vfs-sync ln` creates another one, `vfs-sync ln --remove '{}' FOLDER` removes this one",
            args.from
        ))
    };
    let from_owner = client.node(folder)?.map(|folder| folder.owner);
    let Place::Item(to) = parent else {
        return Err(refused(format!("{} is a shortcut: only a folder can contain it", args.from)));
    };
    if from_owner.as_ref() != Some(&to.owner) {
        return Err(refused(format!("{} is a shortcut in another owner's tree", args.from)));
    }
    if path::find_if_there(client, &args.to)?.is_none_or(|place| !place.is_folder()) {
        let named = format!("{} is a shortcut: it has the name of its target", args.from);
        return Err(refused(named));
    }
    client.move_to(&node.id, Some(&to.id)).map_err(|error| impossible(client, error, args))?;
    Ok(to.id.clone())
}

/// Moves an item between owners: copies it, then deletes the original.
async fn move_by_copy(
    client: &SyncClient,
    node: Node,
    parent: Place,
    name: Name,
    args: FromTo,
    output: Output,
    stop: CancellationToken,
) -> Result<()> {
    if !client.sharing().may_delete(&node.id)? {
        let (owner, level) = (&node.owner, node.access_level);
        return Err(Failure::failed(format!(
            "{} is in {owner}'s tree: moving it out copies and deletes it, and deleting needs admin on \
             it, or write on all folders that it is in; you have {level}",
            args.from
        ))
        .hint("`vfs-sync cp` copies it; `vfs-sync ln` adds a shortcut in a folder of yours"));
    }
    let to = parent.container()?;
    let fetched = fetch(client, &node, &stop).await?;
    let copy = client
        .move_by_copy(&node.id, to, name)
        .map_err(|error| impossible(client, error, &args))?;
    let path = path::of(client, &copy)?;
    let whose =
        if node.owner == client.user() { "your".into() } else { format!("{}'s", node.owner) };
    output.say(format_args!(
        "{} copied to {} and deleted in {} tree, since the two have different owners; others see the \
         original until `vfs-sync sync` has sent the copy",
        Escaped(&args.from),
        Escaped(&path),
        Escaped(&whose)
    ))?;
    output.json(&json!({
        "id": copy, "from": args.from, "path": path, "copied": true, "fetched": fetched,
    }))
}

/// Downloads the contents of an item and of everything under it; returns the number of downloads.
async fn fetch(client: &SyncClient, node: &Node, stop: &CancellationToken) -> Result<u64> {
    let mut contents = Vec::new();
    let take = |node: &Node, contents: &mut Vec<ItemId>| {
        if node.content.is_some() {
            contents.push(node.id.clone());
        }
    };
    take(node, &mut contents);
    if on_disk(node.object_type) != OnDisk::File {
        for entry in client.walk(Some(&node.id))? {
            let entry = entry?;
            if !entry.shortcut {
                take(&entry.node, &mut contents);
            }
        }
    }
    let fetched = shutdown::unless_stopped(stop, client.contents().fetch(&contents)).await?;
    Ok(fetched.downloaded)
}

fn impossible(client: &SyncClient, error: ClientError, args: &FromTo) -> Failure {
    match error {
        ClientError::Cycle { .. } => {
            Failure::failed(format!("{} cannot be moved into itself ({})", args.from, args.to))
        }
        other => path::explain(client)(other),
    }
}

pub(in crate::commands) async fn cp(
    global: &Global,
    args: FromTo,
    output: Output,
    stop: CancellationToken,
) -> Result<()> {
    let client = replica::open(global, replica::config())?;
    path::check_way(&client, &args.to)?;
    let node = path::item(&client, &args.from)?;
    let (_, own) = path::split(&args.from)?;
    let (parent, name) = path::destination(&client, &args.to, &own)?;
    let to = parent.container()?;
    let fetched = fetch(&client, &node, &stop).await?;
    let copy =
        client.copy(&node.id, to, name).map_err(|error| impossible(&client, error, &args))?;
    let path = path::of(&client, &copy)?;
    output.say(format_args!("{} copied to {}", Escaped(&args.from), Escaped(&path)))?;
    output.json(&json!({ "id": copy, "from": args.from, "path": path, "fetched": fetched }))
}

pub(in crate::commands) fn rm(global: &Global, args: Rm, output: Output) -> Result<()> {
    let client = replica::open(global, replica::config())?;
    // All are looked up before the first is deleted: a typing error deletes nothing.
    let mut found = Vec::new();
    for path in &args.paths {
        path::check_way(&client, &path::above(path)?)?;
        let (node, shortcut_in) = path::entry(&client, path)?;
        if shortcut_in.is_none()
            && on_disk(node.object_type) != OnDisk::File
            && !args.recursive
            && !client.children(Some(&node.id))?.is_empty()
        {
            return Err(Failure::failed(format!("{path} is not empty"))
                .hint("--recursive deletes it with its contents"));
        }
        found.push((path, node, shortcut_in));
    }
    let (mut deleted, mut unlinked) = (0, 0);
    for (path, node, shortcut_in) in found {
        match shortcut_in {
            Some(folder) if client.node(&folder)?.is_some() => {
                client.unlink(&node.id, &folder).map_err(path::explain(&client))?;
                unlinked += 1;
                output.say(format_args!(
                    "removed the shortcut {}; its target stays",
                    Escaped(path)
                ))?;
            }
            // Its folder may have been one of the others.
            None if client.node(&node.id)?.is_some() => {
                let gone = match args.force {
                    false => client.delete(&node.id, Delete::Recursive),
                    true => client.delete_unseen(&node.id, Delete::Recursive),
                };
                deleted += gone.map_err(|error| not_ours(error, path, &node))?;
                output.say(format_args!("deleted {}", Escaped(path)))?;
            }
            _ => {}
        }
    }
    output.json(&json!({ "deleted": deleted, "unlinked": unlinked }))
}

fn not_ours(error: ClientError, path: &str, node: &Node) -> Failure {
    match error {
        ClientError::NotPermitted { has, .. } => Failure::failed(format!(
            "{path} is in {}'s tree: deleting needs admin on it, or write on all folders that it is in; \
             you have {has}",
            node.owner
        ))
        .hint(format!("to hide it: `vfs-sync shares decline '{path}'`")),
        other => other.into(),
    }
}

pub(in crate::commands) fn ln(global: &Global, args: Ln, output: Output) -> Result<()> {
    let client = replica::open(global, replica::config())?;
    let node = path::item(&client, &args.path)?;
    let folder = path::item(&client, &args.folder)?;
    if folder.object_type == ObjectType::File {
        return Err(Failure::failed(format!("{} is a file, not a folder", args.folder)));
    }
    let (item, at) = (Escaped(&args.path), Escaped(&args.folder));
    if args.remove {
        client.unlink(&node.id, &folder.id).map_err(path::explain(&client))?;
        output.say(format_args!("{item} is no longer in {at}"))?;
    } else {
        client.link(&node.id, &folder.id).map_err(path::explain(&client))?;
        output.say(format_args!("{item} is also in {at}"))?;
    }
    output.json(&json!({ "id": node.id, "folder": folder.id, "linked": !args.remove }))
}
