//! Commands for what crosses between a live folder's directory and the tree: `folder exclude`, `folder include`,
//! `folder allow`, `folder trust-ignore`.

use std::path::{Component, Path, PathBuf};

use serde_json::json;
use vfs_sync_client::{Node, SyncClient};
use vfs_sync_core::id::ItemId;
use vfs_sync_folder::disk::metadata::{OnDisk, on_disk};
use vfs_sync_folder::disk::{link, names};

use super::find;
use crate::args::Global;
use crate::error::{Failure, Kind, Result};
use crate::escape::escaped;
use crate::output::Output;
use crate::path;
use crate::replica::{self, LiveFolder, MAX_ALLOWED_LINKS, MAX_EXCLUDED, Settings};

/// Returns the folders that are excluded from a live folder, with their paths in the tree.
pub(super) fn excluded(client: &SyncClient, folder: &LiveFolder) -> Vec<(ItemId, String)> {
    let shown = |item: &ItemId| {
        path::of(client, item).unwrap_or_else(|_| format!("a folder that is gone ({item})"))
    };
    folder.excluded.iter().map(|item| (item.clone(), shown(item))).collect()
}

/// Lets the rules of `.vfsignore` files count in a directory although others may have written them.
pub(super) fn trust_ignore(
    global: &Global,
    replica: &Path,
    dir: &Path,
    output: Output,
) -> Result<()> {
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
pub(super) fn allow(global: &Global, replica: &Path, path: &Path, output: Output) -> Result<()> {
    let client = replica::open(global, replica::config())?;
    let mut settings = replica::read_settings(replica)?;
    let (folder, at) = live_place(&mut settings, path)?;
    let node = item_under(&client, folder, &at, path)?;
    let Some(target) = link::target(&node) else {
        return Err(Failure::failed(format!("{} is no symbolic link in the tree", path.display())));
    };
    if folder.allowed_links.len() >= MAX_ALLOWED_LINKS {
        let text = format!("{MAX_ALLOWED_LINKS} links are allowed there already");
        return Err(Failure::failed(text).hint("see `vfs-sync export --allow-links`"));
    }
    folder.allowed_links.insert(node.id.clone(), link::digest(&target).to_string());
    folder.refused_links.remove(&node.id);
    settings.write(replica)?;
    let target = target.to_string_lossy();
    output.json(&json!({ "path": path, "id": node.id, "target": target }))?;
    output.say(format_args!(
        "{} -> {} may be made",
        escaped(&path.to_string_lossy()),
        escaped(&target)
    ))
}

/// Finds the live folder that a path is in, where it need not exist, and the path relative to the
/// directory.
pub(super) fn live_place<'a>(
    settings: &'a mut Settings,
    path: &Path,
) -> Result<(&'a mut LiveFolder, PathBuf)> {
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
    Ok((folder, names))
}

/// Finds the item at a path relative to a live folder's directory.
pub(super) fn item_under(
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
pub(super) fn exclude(
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

/// Returns the live folder of a directory, to change it.
fn bound<'a>(settings: &'a mut Settings, dir: &Path) -> Result<&'a mut LiveFolder> {
    let found = find(settings, dir)?.clone();
    let mut folders = settings.folders.iter_mut();
    folders
        .find(|folder| folder.is_same(&found))
        .ok_or_else(|| Failure::failed(format!("{} is not kept in step", dir.display())))
}
