//! Live folders: `up` keeps directories in step with folders of the tree, `folder` manages them.

mod agent;
mod confirm;
mod crossing;
mod forget;
mod scan;
pub(super) mod service;
pub(super) mod state;
mod trash;

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use serde_json::json;
use tokio_util::sync::CancellationToken;
use vfs_sync_client::{FoundDirectory, SyncClient};
use vfs_sync_folder::disk::dir::Root;
use vfs_sync_folder::record::Record;
use vfs_sync_folder::{aside, marker};

pub(super) use self::agent::Agent;
use super::replica::sync::sync_and_merge;
use super::tree::directory::folder_at;
use crate::args::{FolderAction, Global, Up};
use crate::error::{Failure, Kind, Result};
use crate::escape::escaped;
use crate::output::Output;
use crate::path;
use crate::replica::{self, LiveFolder, Settings, handoff};

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
        bind(global, &replica, (dir, &args.path), &stop).await?;
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

/// Adds a directory to those that are kept in step with the folder `at` of the tree.
async fn bind(
    global: &Global,
    replica: &Path,
    (dir, at): (&Path, &str),
    stop: &CancellationToken,
) -> Result<LiveFolder> {
    let what = || format!("cannot use {}", dir.display());
    let absolute = std::path::absolute(dir).map_err(Failure::io(what()))?;
    let folders = replica::read_settings(replica)?.folders;
    // A directory that was there may be on a disk that is not mounted.
    if folders.iter().all(|folder| folder.directory != absolute) {
        std::fs::create_dir_all(dir).map_err(Failure::io(what()))?;
    }
    let directory = dir.canonicalize().unwrap_or(absolute);
    check_place(replica, &directory)?;
    let client = replica::open(global, replica::config())?;
    if path::find_if_there(&client, at)?.is_none() {
        learn(&client, at, stop).await?;
    }
    path::check_way(&client, at)?;
    let item = folder_at(&client, at, false)?;
    let folder = LiveFolder::new(directory.clone(), item);
    // Read with the replica open, so that two commands do not overwrite each other's entry.
    let mut settings = replica::read_settings(replica)?;
    for other in &settings.folders {
        if other.is_same(&folder) {
            return Ok(folder);
        }
        check_apart(&client, &directory, other)?;
    }
    check_above(&directory)?;
    settings.folders.push(folder.clone());
    settings.write(replica)?;
    Ok(folder)
}

/// Asks the server for the folder `at`, which the replica lacks: another device may have it, and a new
/// one of its name would be another folder.
async fn learn(client: &SyncClient, at: &str, stop: &CancellationToken) -> Result<()> {
    match sync_and_merge(client, &mut client.subscribe(), &mut Vec::new(), stop).await {
        // What waits to be sent does not matter here.
        Err(failure) if failure.kind == Kind::Partial => Ok(()),
        Err(failure) if matches!(failure.kind, Kind::Network | Kind::Failed | Kind::Auth) => {
            let text = format!(
                "this replica has no {at}, and the server did not say whether another device has it: {}",
                failure.message
            );
            let new = format!("`vfs-sync mkdir '{at}'` makes a new folder without it");
            let hint = match (failure.kind, failure.hint) {
                (Kind::Auth, Some(hint)) => hint,
                _ => format!("try again once the server answers; {new}"),
            };
            Err(Failure::new(failure.kind, text).hint(hint))
        }
        synced => synced.map(drop),
    }
}

/// Fails if a directory and the replica's own are inside each other.
fn check_place(replica: &Path, directory: &Path) -> Result<()> {
    let shown = directory.display();
    let own = replica.canonicalize().map_err(Failure::io(format!("cannot use {shown}")))?;
    if !directory.starts_with(&own) && !own.starts_with(directory) {
        return Ok(());
    }
    let text = format!("{shown} and the replica's own directory are inside each other");
    Err(Failure::usage(text)
        .hint("choose another directory, or keep the replica elsewhere: see --replica"))
}

/// Fails if a directory and that of another live folder are inside each other.
fn check_apart(client: &SyncClient, directory: &Path, other: &LiveFolder) -> Result<()> {
    let two = &other.directory;
    if !directory.starts_with(two) && !two.starts_with(directory) {
        return Ok(());
    }
    let (two, with) = (two.display(), shown(client, other));
    let text = format!("{two} is kept in step with {with} already");
    Err(Failure::failed(text).hint(format!(
        "`vfs-sync folder remove '{two}'` ends that; one directory cannot be inside another"
    )))
}

/// Fails if a directory is inside one that another replica keeps in step.
fn check_above(directory: &Path) -> Result<()> {
    let marker = |above: &&Path| above.join(aside::OWN).join(marker::MARKER).is_file();
    let Some(above) = directory.ancestors().skip(1).find(marker) else { return Ok(()) };
    let (shown, above) = (directory.display(), above.display());
    let text = format!("{shown} is inside {above}, which another replica keeps in step");
    Err(Failure::failed(text).hint(format!(
        "choose another directory; if nothing keeps {above} in step any more, remove {above}/{}",
        aside::OWN
    )))
}

/// Returns the live folder at `dir`, whether the directory is there or not.
fn find<'a>(settings: &'a Settings, dir: &Path) -> Result<&'a LiveFolder> {
    let what = || format!("cannot use {}", dir.display());
    let absolute = std::path::absolute(dir).map_err(Failure::io(what()))?;
    let above = absolute.parent().and_then(|above| above.canonicalize().ok());
    let in_above = above.zip(absolute.file_name()).map(|(above, name)| above.join(name));
    let names = [dir.canonicalize().ok(), in_above, Some(absolute)];
    let is_named = |folder: &&LiveFolder| names.iter().flatten().any(|n| *n == folder.directory);
    settings.folders.iter().find(is_named).ok_or_else(|| {
        let text = format!("{} is not kept in step", dir.display());
        Failure::new(Kind::NotFound, text).hint("see `vfs-sync folder list`")
    })
}

/// Returns the live folder at `dir`, or all without one. Fails if there is none.
fn chosen(settings: &Settings, dir: Option<&Path>) -> Result<Vec<LiveFolder>> {
    match dir {
        Some(dir) => Ok(vec![find(settings, dir)?.clone()]),
        None if settings.folders.is_empty() => {
            let text = "no directory is kept in step";
            Err(Failure::new(Kind::NotFound, text).hint("name one: `vfs-sync up DIR`"))
        }
        None => Ok(settings.folders.clone()),
    }
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

pub(super) async fn folder(
    global: &Global,
    action: FolderAction,
    output: Output,
    stop: &CancellationToken,
) -> Result<()> {
    let replica = replica::directory(global)?;
    match action {
        FolderAction::Add { dir, path } => {
            replica::read_settings(&replica)?;
            let folder = bind(global, &replica, (&dir, &path), stop).await?;
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
        FolderAction::List => state::list(global, &replica, output),
        FolderAction::Problems { dir } => state::problems(global, &replica, dir.as_deref(), output),
        FolderAction::Pause { dir } => pause(global, &replica, dir.as_deref(), true, output),
        FolderAction::Resume { dir } => pause(global, &replica, dir.as_deref(), false, output),
        FolderAction::ConfirmDeletions { dir, yes } => {
            let dir = dir.as_deref();
            confirm::Confirmation { global, replica: &replica, output, stop, answers: None }
                .run(dir, yes)
        }
        FolderAction::Scan { dir, checksum } => {
            scan::scan(global, &replica, dir.as_deref(), checksum, output, stop)
        }
        FolderAction::Move { old, new } => moved(global, &replica, &old, &new, output),
        FolderAction::Trash(action) => trash::trash(global, &replica, action, output),
        FolderAction::Forget { path, dry_run } => {
            forget::forget(global, &replica, (&path, dry_run), output, stop)
        }
        FolderAction::Allow { path } => crossing::allow(global, &replica, &path, output),
        FolderAction::Exclude { dir, path } => {
            crossing::exclude(global, &replica, (&dir, &path), true, output)
        }
        FolderAction::Include { dir, path } => {
            crossing::exclude(global, &replica, (&dir, &path), false, output)
        }
        FolderAction::TrustIgnore { dir } => crossing::trust_ignore(global, &replica, &dir, output),
        FolderAction::Remove { dir } => {
            let _client = replica::open(global, replica::config())?;
            let mut settings = replica::read_settings(&replica)?;
            let LiveFolder { directory, marker, .. } = find(&settings, &dir)?.clone();
            settings.folders.retain(|folder| folder.directory != directory);
            settings.write(&replica)?;
            if let (Some(marker), Ok(mut root)) = (marker, Root::open(&directory)) {
                // Where the disk refuses, the next `folder add` takes the directory all the same.
                let _ = root.folder(Path::new("")).and_then(|top| marker::remove(&top, &marker));
            }
            output.json(&json!({ "removed": directory }))?;
            output.say(format_args!(
                "{} is no longer kept in step",
                escaped(&directory.to_string_lossy())
            ))
        }
    }
}

/// Fails if the folder of the tree is gone, or a directory that was joined is another one now.
fn check(client: &SyncClient, root: &mut Root, live: &LiveFolder) -> Result<()> {
    let dir = live.directory.display();
    if let Some(item) = &live.item
        && client.node(item)?.is_none()
    {
        return Err(Failure::failed(format!(
            "the folder of the tree was deleted, or is no longer shared with you; nothing in {dir} \
             was changed: `vfs-sync folder remove '{dir}'` ends this"
        )));
    }
    if !live.joined {
        return Ok(());
    }
    let what = format!("cannot read {}", live.directory.display());
    let found = Record::find(client, root, live.item.as_ref()).map_err(Failure::io(what))??;
    let FoundDirectory::Replaced(_) = found.found else { return Ok(()) };
    Err(Failure::failed(format!(
        "{dir} is not the directory that was kept in step: another disk or none is mounted, or it was \
         created again; nothing was changed on either side"
    ))
    .hint(format!(
        "if its disk is not mounted, mount it; to join what is there now: `vfs-sync folder remove \
         '{dir}'`, then `vfs-sync folder add '{dir}'` with its folder"
    )))
}

/// Pauses the live folder at `dir`, or all without one, or ends the pause.
fn pause(
    global: &Global,
    replica: &Path,
    dir: Option<&Path>,
    paused: bool,
    output: Output,
) -> Result<()> {
    chosen(&replica::read_settings(replica)?, dir)?;
    // Read again with the replica open, so that `up` does not overwrite the entry.
    let _client = replica::open(global, replica::config())?;
    let mut settings = replica::read_settings(replica)?;
    let chosen = chosen(&settings, dir)?;
    for folder in &mut settings.folders {
        if chosen.iter().any(|one| one.is_same(folder)) {
            folder.paused = paused;
        }
    }
    settings.write(replica)?;
    let directories: Vec<_> = chosen.iter().map(|folder| &folder.directory).collect();
    output.json(&json!({ "directories": directories, "paused": paused }))?;
    let word = if paused { "paused" } else { "resumed" };
    for directory in directories {
        output.say(format_args!("{word} {}", escaped(&directory.to_string_lossy())))?;
    }
    if !paused && !handoff::is_running(replica) {
        output.note("`vfs-sync up` keeps it in step");
    }
    Ok(())
}

/// Records that the user has moved a live folder's directory from `old` to `new`.
fn moved(global: &Global, replica: &Path, old: &Path, new: &Path, output: Output) -> Result<()> {
    find(&replica::read_settings(replica)?, old)?;
    let what = || format!("cannot use {}", new.display());
    let directory = new.canonicalize().map_err(|error| {
        let hint = format!("move the directory first: mv '{}' '{}'", old.display(), new.display());
        Failure::io(what())(error).hint(hint)
    })?;
    check_place(replica, &directory)?;
    let client = replica::open(global, replica::config())?;
    let mut settings = replica::read_settings(replica)?;
    let live = find(&settings, old)?.clone();
    let others = settings.folders.iter().filter(|other| !other.is_same(&live));
    others.map(|other| check_apart(&client, &directory, other)).collect::<Result<Vec<()>>>()?;
    if directory != live.directory {
        let mut root = Root::open(&directory).map_err(Failure::io(what()))?;
        let found = Record::find(&client, &mut root, live.item.as_ref());
        let found = found.map_err(Failure::io(what()))??;
        // The record has the path at which the directory was used last.
        let path = live.directory.as_os_str().as_bytes();
        match &found.found {
            FoundDirectory::Known(record) if record.path == path => {}
            _ => {
                let (old, new) = (live.directory.display(), directory.display());
                let text = format!(
                    "{new} is not the directory that was kept in step at {old}: it was copied, or moved \
                     to another disk"
                );
                return Err(Failure::failed(text).hint(format!(
                    "`vfs-sync folder remove '{old}'`, then `vfs-sync folder add '{new}'` with its \
                     folder joins it; equal files are not sent again"
                )));
            }
        }
        Record::begin(&client, found, live.item.as_ref(), false, true)?;
    }
    for folder in settings.folders.iter_mut().filter(|folder| folder.is_same(&live)) {
        folder.directory.clone_from(&directory);
    }
    settings.write(replica)?;
    output.json(&json!({ "from": live.directory, "directory": directory }))?;
    output.say(format_args!("kept in step at {}", escaped(&directory.to_string_lossy())))
}
