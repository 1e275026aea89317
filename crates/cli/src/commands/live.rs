//! Live folders: `up` keeps directories in step with folders of the tree, `folder` manages them.

mod agent;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use serde_json::json;
use tokio_util::sync::CancellationToken;
use vfs_sync_client::{Node, SyncClient};
use vfs_sync_core::id::ItemId;

pub(super) use self::agent::Agent;
use super::tree::directory::folder_at;
use crate::args::{FolderAction, Global, Up};
use crate::error::{Failure, Kind, Result};
use crate::escape::escaped;
use crate::fs::metadata::{OnDisk, on_disk};
use crate::fs::{link, names};
use crate::output::{Output, table};
use crate::path;
use crate::replica::{self, LiveFolder, MAX_ALLOWED_LINKS, MAX_EXCLUDED, Settings, handoff};

pub(super) async fn up(
    global: &Global,
    args: Up,
    output: Output,
    stop: CancellationToken,
) -> Result<()> {
    let replica = replica::directory(global)?;
    match (replica::read_settings(&replica), args.init()) {
        (Ok(settings), _) => is_of_server(&settings, &args)?,
        (Err(failure), Some(init)) if failure.kind == Kind::NotFound => {
            drop(replica::create(global, &init)?);
            output
                .note(format_args!("created a replica in {}", escaped(&replica.to_string_lossy())));
        }
        (Err(failure), None) if failure.kind == Kind::NotFound => {
            return Err(failure.hint(
                "name the server: `vfs-sync up DIR --server URL --token-file FILE` creates a replica",
            ));
        }
        (Err(failure), _) => return Err(failure),
    }
    let what = format!("cannot lock {}", replica.display());
    let Some(_running) = handoff::begin(&replica).map_err(Failure::io(what))? else {
        return Err(Failure::failed("`vfs-sync up` is running on this replica already").hint(
            "`vfs-sync folder add DIR` gives it one more directory; --replica names another replica",
        ));
    };
    if let Some(dir) = &args.dir {
        bind(global, &replica, dir, &args.path)?;
    }
    if replica::read_settings(&replica)?.folders.is_empty() {
        return Err(
            Failure::usage("no directory is kept in step yet").hint("name one: `vfs-sync up DIR`")
        );
    }
    Agent::new(global, replica, &args, output, stop).run().await
}

/// Fails if the arguments name another server than the replica's.
fn is_of_server(settings: &Settings, args: &Up) -> Result<()> {
    match &args.server {
        Some(server) if server.trim_end_matches('/') != settings.server => {
            let text = format!("the replica is one of {}, not of {server}", settings.server);
            Err(Failure::usage(text)
                .hint("leave out --server, or name another replica with --replica"))
        }
        _ => Ok(()),
    }
}

/// Adds a directory to those that are kept in step with a folder of the tree.
fn bind(global: &Global, replica: &Path, dir: &Path, at: &str) -> Result<LiveFolder> {
    let what = || format!("cannot use {}", dir.display());
    let absolute = std::path::absolute(dir).map_err(Failure::io(what()))?;
    let folders = replica::read_settings(replica)?.folders;
    // A directory that was there may be on a disk that is not mounted.
    if folders.iter().all(|folder| folder.directory != absolute) {
        std::fs::create_dir_all(dir).map_err(Failure::io(what()))?;
    }
    let directory = dir.canonicalize().unwrap_or(absolute);
    let own = replica.canonicalize().map_err(Failure::io(what()))?;
    if directory.starts_with(&own) || own.starts_with(&directory) {
        let text =
            format!("{} and the replica's own directory are inside each other", dir.display());
        return Err(Failure::usage(text)
            .hint("choose another directory, or keep the replica elsewhere: see --replica"));
    }
    let client = replica::open(global, replica::config())?;
    path::check_way(&client, at)?;
    let item = folder_at(&client, at, false)?;
    let folder = LiveFolder {
        directory,
        item,
        joined: false,
        trust_ignore: false,
        allowed_links: BTreeMap::new(),
        excluded: BTreeSet::new(),
    };
    // Read with the replica open, so that two commands do not overwrite each other's entry.
    let mut settings = replica::read_settings(replica)?;
    for other in &settings.folders {
        if other.is_same(&folder) {
            return Ok(folder);
        }
        let (one, two) = (&folder.directory, &other.directory);
        if one.starts_with(two) || two.starts_with(one) {
            let with = shown(&client, other);
            let text = format!("{} is kept in step with {with} already", two.display());
            return Err(Failure::failed(text).hint(format!(
                "`vfs-sync folder remove '{}'` ends that; one directory cannot be inside another",
                two.display()
            )));
        }
    }
    settings.folders.push(folder.clone());
    settings.write(replica)?;
    Ok(folder)
}

/// Returns the folders that are excluded from a live folder, with their paths in the tree.
fn excluded<'a>(client: &SyncClient, folder: &'a LiveFolder) -> Vec<(&'a ItemId, String)> {
    let shown = |item: &ItemId| {
        path::of(client, item).unwrap_or_else(|_| format!("a folder that is gone ({item})"))
    };
    folder.excluded.iter().map(|item| (item, shown(item))).collect()
}

/// Returns the path of a live folder in the tree.
fn shown(client: &SyncClient, folder: &LiveFolder) -> String {
    match &folder.item {
        None => "/".to_owned(),
        Some(item) => {
            path::of(client, item).unwrap_or_else(|_| format!("a folder that is gone ({item})"))
        }
    }
}

pub(super) fn folder(global: &Global, action: FolderAction, output: Output) -> Result<()> {
    let replica = replica::directory(global)?;
    match action {
        FolderAction::Add { dir, path } => {
            replica::read_settings(&replica)?;
            let folder = bind(global, &replica, &dir, &path)?;
            let running = handoff::is_running(&replica);
            output.json(
                &json!({ "directory": folder.directory, "item": folder.item, "running": running }),
            )?;
            output.say(format_args!("added {}", escaped(&folder.directory.to_string_lossy())))?;
            if !running {
                output.note("`vfs-sync up` keeps it in step");
            }
            Ok(())
        }
        FolderAction::Allow { path } => allow(global, &replica, &path, output),
        FolderAction::Exclude { dir, path } => {
            exclude(global, &replica, (&dir, &path), true, output)
        }
        FolderAction::Include { dir, path } => {
            exclude(global, &replica, (&dir, &path), false, output)
        }
        FolderAction::TrustIgnore { dir } => trust_ignore(global, &replica, &dir, output),
        FolderAction::List => list(global, &replica, output),
        FolderAction::Remove { dir } => {
            let _client = replica::open(global, replica::config())?;
            let mut settings = replica::read_settings(&replica)?;
            let directory = dir.canonicalize().or_else(|_| std::path::absolute(&dir));
            let directory: PathBuf =
                directory.map_err(Failure::io(format!("cannot use {}", dir.display())))?;
            let before = settings.folders.len();
            settings.folders.retain(|folder| folder.directory != directory);
            if settings.folders.len() == before {
                let text = format!("{} is not kept in step", dir.display());
                return Err(Failure::new(Kind::NotFound, text).hint("see `vfs-sync folder list`"));
            }
            settings.write(&replica)?;
            output.json(&json!({ "removed": directory }))?;
            output.say(format_args!(
                "{} is no longer kept in step",
                escaped(&directory.to_string_lossy())
            ))
        }
    }
}

/// Lets the rules of `.vfsignore` files count in a directory although others may have written them.
fn trust_ignore(global: &Global, replica: &Path, dir: &Path, output: Output) -> Result<()> {
    let _client = replica::open(global, replica::config())?;
    let mut settings = replica::read_settings(replica)?;
    let folder = bound(&mut settings, dir)?;
    folder.trust_ignore = true;
    let directory = folder.directory.clone();
    settings.write(replica)?;
    output.json(&json!({ "directory": directory, "trustIgnore": true }))?;
    output.say(format_args!(
        "all rules count in {} from now on",
        escaped(&directory.to_string_lossy())
    ))
}

/// Lets a link out of a live folder be made there although another user may have written it.
fn allow(global: &Global, replica: &Path, path: &Path, output: Output) -> Result<()> {
    let client = replica::open(global, replica::config())?;
    let mut settings = replica::read_settings(replica)?;
    let (folder, node) = live_item(&client, &mut settings, path)?;
    let Some(target) = link::target(&node) else {
        return Err(Failure::failed(format!("{} is no symbolic link in the tree", path.display())));
    };
    if folder.allowed_links.len() >= MAX_ALLOWED_LINKS {
        let text = format!("{MAX_ALLOWED_LINKS} links are allowed there already");
        return Err(Failure::failed(text).hint("see `vfs-sync export --allow-links`"));
    }
    folder.allowed_links.insert(node.id.clone(), link::digest(&target).to_string());
    settings.write(replica)?;
    let target = target.to_string_lossy();
    output.json(&json!({ "path": path, "id": node.id, "target": target }))?;
    output.say(format_args!(
        "{} -> {} may be made",
        escaped(&path.to_string_lossy()),
        escaped(&target)
    ))
}

/// Finds the item at a path in a live folder's directory, where it need not exist.
fn live_item<'a>(
    client: &SyncClient,
    settings: &'a mut Settings,
    path: &Path,
) -> Result<(&'a mut LiveFolder, Node)> {
    let what = || format!("cannot use {}", path.display());
    let absolute = std::path::absolute(path).map_err(Failure::io(what()))?;
    // The last name may be a link; the folders above may be there.
    let above = absolute.parent().and_then(|above| above.canonicalize().ok());
    let at = match (above, absolute.file_name()) {
        (Some(above), Some(name)) => above.join(name),
        _ => absolute,
    };
    let missing = |text: String| Failure::new(Kind::NotFound, text);
    let folder = settings.folders.iter_mut().find(|folder| at.starts_with(&folder.directory));
    let folder = folder.ok_or_else(|| {
        missing(format!("{} is in no directory that is kept in step", path.display()))
            .hint("see `vfs-sync folder list`")
    })?;
    let names = at.strip_prefix(&folder.directory).unwrap_or(&at).to_owned();
    let node = item_under(client, folder, &names, path)?;
    Ok((folder, node))
}

/// Finds the item at a path relative to a live folder's directory.
fn item_under(
    client: &SyncClient,
    folder: &LiveFolder,
    names: &Path,
    shown: &Path,
) -> Result<Node> {
    let missing = |what: &str| Failure::new(Kind::NotFound, format!("{} {what}", shown.display()));
    let mut found: Option<Node> = None;
    for name in names.components().filter(|name| !matches!(name, Component::CurDir)) {
        let Component::Normal(name) = name else {
            return Err(missing("leads out of the directory"));
        };
        let parent = found.as_ref().map(|node| node.id.clone()).or_else(|| folder.item.clone());
        let children = client.children(parent.as_ref())?.into_iter();
        let mut named = children.filter(|child| names::to_disk(&child.name) == name);
        let child = named.next().filter(|child| !child.shortcut);
        found = Some(child.ok_or_else(|| missing("is not in the tree"))?.node);
    }
    found.ok_or_else(|| missing("is the directory itself"))
}

/// Excludes a folder of the tree from a live folder's directory, or includes it again.
fn exclude(
    global: &Global,
    replica: &Path,
    (dir, path): (&Path, &Path),
    excludes: bool,
    output: Output,
) -> Result<()> {
    let client = replica::open(global, replica::config())?;
    let mut settings = replica::read_settings(replica)?;
    let folder = bound(&mut settings, dir)?;
    let node = item_under(&client, folder, path, path)?;
    if on_disk(node.object_type) != OnDisk::Folder {
        let text = format!("{} is no folder: only folders are excluded", path.display());
        return Err(Failure::failed(text).hint("a `.vfsignore` keeps a file out"));
    }
    if excludes && folder.excluded.len() >= MAX_EXCLUDED {
        return Err(Failure::failed(format!("{MAX_EXCLUDED} folders are excluded there already")));
    }
    let changed = match excludes {
        true => folder.excluded.insert(node.id.clone()),
        false => folder.excluded.remove(&node.id),
    };
    if !changed && !excludes {
        let text = format!("{} is not excluded", path.display());
        return Err(Failure::new(Kind::NotFound, text).hint("see `vfs-sync folder list`"));
    }
    let directory = folder.directory.clone();
    settings.write(replica)?;
    output.json(&json!({ "directory": directory, "item": node.id, "excluded": excludes }))?;
    let shown = escaped(&path.to_string_lossy());
    let directory = escaped(&directory.to_string_lossy());
    match excludes {
        true => output.say(format_args!("{shown} is excluded from {directory}")),
        false => output.say(format_args!("{shown} is in {directory} again")),
    }
}

/// Returns the live folder of a directory.
fn bound<'a>(settings: &'a mut Settings, dir: &Path) -> Result<&'a mut LiveFolder> {
    let directory = dir.canonicalize().or_else(|_| std::path::absolute(dir));
    let directory = directory.map_err(Failure::io(format!("cannot use {}", dir.display())))?;
    let mut folders = settings.folders.iter_mut();
    folders.find(|folder| folder.directory == directory).ok_or_else(|| {
        let text = format!("{} is not kept in step", dir.display());
        Failure::new(Kind::NotFound, text).hint("see `vfs-sync folder list`")
    })
}

fn list(global: &Global, replica: &Path, output: Output) -> Result<()> {
    let settings = replica::read_settings(replica)?;
    let client = replica::open(global, replica::config())?;
    let running = handoff::is_running(replica);
    let folders: Vec<_> = settings.folders.iter().map(|one| (one, shown(&client, one))).collect();
    if output.json {
        let one = |(folder, path): &(&LiveFolder, String)| {
            let excluded = excluded(&client, folder);
            let excluded: Vec<_> = excluded
                .into_iter()
                .map(|(item, path)| json!({ "item": item, "path": path }))
                .collect();
            json!({
                "directory": folder.directory, "item": folder.item, "path": path,
                "trustIgnore": folder.trust_ignore, "excluded": excluded,
            })
        };
        let folders: Vec<_> = folders.iter().map(one).collect();
        return output.json(&json!({ "running": running, "folders": folders }));
    }
    let mut rows = table(&[], &[]);
    for (folder, path) in folders {
        let without: Vec<_> = excluded(&client, folder).into_iter().map(|(_, path)| path).collect();
        let without = match without.is_empty() {
            true => String::new(),
            false => format!("without {}", without.join(", ")),
        };
        rows.add_row(
            [folder.directory.to_string_lossy().into_owned(), path, without]
                .map(|cell| escaped(&cell)),
        );
    }
    output.table(rows)?;
    if !running {
        output.note("`vfs-sync up` is not running");
    }
    Ok(())
}
