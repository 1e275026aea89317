//! Contents of single files: `cat`, `get`, `put`.

use std::io::{self, IsTerminal as _, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;
use tokio_util::sync::CancellationToken;
use vfs_sync_client::{ClientError, LocalContent, Node, SyncClient};
use vfs_sync_core::item::ObjectType;
use vfs_sync_core::time::Timestamp;
use vfs_sync_folder::disk::dir::{Kind as DiskKind, Root, set_mode_and_mtime};
use vfs_sync_folder::disk::link;
use vfs_sync_folder::disk::metadata;
use vfs_sync_folder::disk::names;
use vfs_sync_folder::disk::stable_reader::{Cut, StableReader};

use super::super::render::SyncProgress;
use super::versions;
use crate::args::{Cat, Get, Global, Put};
use crate::error::{Failure, Kind, Result};
use crate::escape::{Escaped, EscapingBytes};
use crate::output::{Output, bytes_text, raw};
use crate::path::{self, Place};
use crate::stdin::Stdin;
use crate::{replica, shutdown};

/// Reads an item's content, or one of its versions, with its modification time.
async fn content(
    client: &SyncClient,
    path: &str,
    version: Option<&str>,
    output: Output,
    stop: &CancellationToken,
) -> Result<(Node, LocalContent, Timestamp)> {
    let node = path::item(client, path)?;
    if Place::Item(Box::new(node.clone())).is_folder() && node.content.is_none() {
        return Err(Failure::failed(format!("{path} is a folder"))
            .hint(format!("see `vfs-sync ls '{path}'` or `vfs-sync export DIR '{path}'`")));
    }
    if let Some(target) = link::target(&node).filter(|_| version.is_none()) {
        let target = target.to_string_lossy();
        return Err(Failure::failed(format!("{path} is a symbolic link: {path} -> {target}"))
            .hint("`vfs-sync export` makes it; it has no content of its own"));
    }
    let version = match version {
        Some(which) => Some(versions::one(client, &node, path, which, stop).await?),
        None => None,
    };
    let shown = Arc::new(SyncProgress::default());
    shown.with(Some(output.progress("fetching")));
    client.observe(shown.clone());
    let read = async {
        match &version {
            Some(version) => client.contents().read_version(&node.id, version).await,
            None => client.contents().read(&node.id).await,
        }
    };
    let content = shutdown::unless_stopped(stop, read).await;
    shown.with(None);
    let mtime = match version {
        Some(version) => version.modified_at.unwrap_or(version.attached_at),
        None => node.modified_at(),
    };
    Ok((node, content?, mtime))
}

pub(in crate::commands) async fn cat(
    global: &Global,
    args: Cat,
    output: Output,
    stop: CancellationToken,
) -> Result<()> {
    let client = replica::open(global, replica::config())?;
    let (_, content, _) = content(&client, &args.path, None, output, &stop).await?;
    let mut stdout = raw();
    let escape = !args.raw && stdout.is_terminal();
    copy_out(&content, &mut stdout, escape, &stop)
}

fn copy_out(
    content: &LocalContent,
    out: &mut impl io::Write,
    escape: bool,
    stop: &CancellationToken,
) -> Result<()> {
    let mut reader = content.reader()?;
    let mut buffer = vec![0; 64 * 1024];
    let mut harmless = EscapingBytes::default();
    loop {
        if stop.is_cancelled() {
            return Err(shutdown::interrupted());
        }
        let count = reader.read(&mut buffer).map_err(Failure::io("cannot read the content"))?;
        let bytes = &buffer[..count];
        match (count, escape) {
            (0, true) => {
                let rest = harmless.finish();
                out.write_all(rest.as_bytes()).map_err(Failure::output)?;
                break;
            }
            (0, false) => break,
            (_, true) => out.write_all(harmless.feed(bytes).as_bytes()).map_err(Failure::output)?,
            (_, false) => out.write_all(bytes).map_err(Failure::output)?,
        }
    }
    out.flush().map_err(Failure::output)
}

pub(in crate::commands) async fn get(
    global: &Global,
    args: Get,
    output: Output,
    stop: CancellationToken,
) -> Result<()> {
    let client = replica::open(global, replica::config())?;
    let version = args.version.as_deref();
    let (node, content, mtime) = content(&client, &args.path, version, output, &stop).await?;
    let to_stdout = args.file.as_deref() == Some(Path::new("-"));
    if to_stdout {
        return copy_out(&content, &mut raw(), false, &stop);
    }
    let (_, own) = path::split(&args.path)?;
    let own = names::to_disk(&own);
    let file = match args.file {
        None => PathBuf::from(own),
        Some(file) if file.is_dir() => file.join(own),
        Some(file) => file,
    };
    let exists = || {
        Failure::new(Kind::Exists, format!("{} exists already", file.display()))
            .hint("use --force to replace it")
    };
    if !args.force && file.symlink_metadata().is_ok() {
        return Err(exists());
    }
    let what = || format!("cannot write {}", file.display());
    let parent = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut temporary = tempfile::Builder::new()
        .prefix(&names::temporary(""))
        .rand_bytes(0)
        .tempfile_in(parent)
        .map_err(Failure::io(what()))?;
    copy_out(&content, &mut temporary, false, &stop)?;
    let mode = metadata::mode_here(&node, &client.user()).unwrap_or(0o644);
    set_mode_and_mtime(temporary.as_file(), Some(mode), Some(mtime))
        .map_err(Failure::io(what()))?;
    let placed = if args.force {
        temporary.persist(&file).map(drop)
    } else {
        temporary.persist_noclobber(&file).map(drop)
    };
    placed.map_err(|error| match error.error.kind() {
        io::ErrorKind::AlreadyExists => exists(),
        _ => Failure::io(what())(error.error),
    })?;
    output.say(format_args!(
        "{} -> {} ({})",
        Escaped(&args.path),
        Escaped(&file.to_string_lossy()),
        bytes_text(content.size())
    ))?;
    output.json(&json!({
        "id": node.id, "path": args.path, "file": file.to_string_lossy(),
        "size": content.size(), "digest": content.digest(),
    }))
}

fn interrupted_or(stop: &CancellationToken, error: ClientError) -> Failure {
    if stop.is_cancelled() { shutdown::interrupted() } else { error.into() }
}

pub(in crate::commands) fn put(
    global: &Global,
    args: Put,
    output: Output,
    stop: CancellationToken,
) -> Result<()> {
    let client = replica::open(global, replica::config())?;
    path::check_way(&client, &args.path)?;
    let from_stdin = args.file == Path::new("-");
    let own = match args.file.file_name() {
        Some(own) if !from_stdin => Some(
            names::to_protocol(own)
                .map_err(|reason| Failure::failed(format!("the file's name {reason}")))?,
        ),
        _ => None,
    };
    let (parent, name, there) = match path::find_if_there(&client, &args.path)? {
        Some(place) if place.is_folder() => {
            let own = own.ok_or_else(|| {
                Failure::usage("standard input has no name").hint("name the file, not the folder")
            })?;
            place.container()?;
            if let Some(at) = path::parse(&args.path)?.join(own.as_str()) {
                path::check_way(&client, &at.to_string())?;
            }
            let there = place
                .children(&client)?
                .into_iter()
                .find(|child| child.name == own.as_str())
                .map(|child| child.node);
            (place, own, there)
        }
        Some(Place::Item(node)) => (Place::Top, path::name("-")?, Some(*node)),
        _ => {
            let (parent, name) = path::split(&args.path)?;
            (path::folder(&client, &parent)?, path::name(&name)?, None)
        }
    };
    if let Some(node) = &there
        && Place::Item(Box::new(node.clone())).is_folder()
    {
        return Err(Failure::new(Kind::Exists, format!("{name} is a folder in the tree")));
    }
    let container = parent.container()?;
    let mut batch = client.batch();
    let mut create = |change| match &there {
        Some(node) => {
            if !Vec::is_empty(&change) {
                batch.set_metadata(&node.id, change);
            }
            node.id.clone()
        }
        None => batch.create(ObjectType::File, container, name.clone(), change),
    };
    let (id, stored) = if from_stdin {
        let id = create(Vec::new());
        let stored = batch.put_content(&id, Stdin::new(stop.clone()));
        (id, stored.map_err(|error| interrupted_or(&stop, error))?)
    } else {
        let what = format!("cannot read {}", args.file.display());
        // A link given by name is followed.
        let path = args.file.canonicalize().map_err(|error| {
            Failure::io(&what)(error)
                .hint("name an existing file that can be read, or - for standard input")
        })?;
        let (folder, file) = path
            .parent()
            .zip(path.file_name())
            .ok_or_else(|| Failure::usage(format!("{} is not a file", args.file.display())))?;
        let disk = Root::open(folder)
            .and_then(|mut root| root.folder(Path::new("")))
            .map_err(Failure::io(&what))?;
        if disk.stat(file).map_err(Failure::io(&what))?.kind != DiskKind::File {
            return Err(Failure::usage(format!("{} is not a file", args.file.display()))
                .hint("use `vfs-sync import` for a directory"));
        }
        let mut reader = StableReader::open(&disk, file, &stop).map_err(Failure::io(&what))?;
        let id = create(metadata::change(there.as_ref(), reader.stat()));
        let mtime = reader.stat().mtime;
        if let Some(problem) = reader.stat().time_problem() {
            output.note(format_args!("{}: {problem}", Escaped(&args.file.to_string_lossy())));
        }
        match batch.put_content_at(&id, &mut reader, mtime) {
            Ok(stored) => (id, stored),
            Err(error) => {
                return Err(match reader.cut() {
                    Some(Cut::Interrupted) => shutdown::interrupted(),
                    Some(Cut::Changed) => Failure::failed(format!(
                        "{} changed while it was read",
                        args.file.display()
                    ))
                    .hint("try again when no program writes to it"),
                    Some(Cut::Io(error)) => Failure::io(&what)(error),
                    None => error.into(),
                });
            }
        }
    };
    batch.commit().map_err(path::explain(&client))?;
    let path = path::of(&client, &id)?;
    output.say(format_args!("{} ({})", Escaped(&path), bytes_text(stored.size)))?;
    output.json(&json!({
        "id": id, "path": path, "created": there.is_none(),
        "size": stored.size, "digest": stored.digest, "blobId": stored.blob_id,
    }))
}
