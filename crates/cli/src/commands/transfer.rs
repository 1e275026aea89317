//! Bytes in and out: `import`, `export`, `cat`, `get`, `put`.

use std::io::{self, IsTerminal as _, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;
use tokio_util::sync::CancellationToken;
use vfs_sync_client::{ClientError, LocalContent, Node, SyncClient};
use vfs_sync_core::id::ItemId;
use vfs_sync_core::item::ObjectType;
use vfs_sync_core::time::Timestamp;

use super::sync::Shown;
use super::versions;
use crate::args::{Cat, Export, Get, Global, Import, Put};
use crate::error::{Failure, Kind, Result};
use crate::fs::export::{self, ExportOptions, ExportReport};
use crate::fs::import::{self, ImportOptions, ImportReport};
use crate::fs::metadata;
use crate::fs::names;
use crate::fs::root::{Kind as DiskKind, Root, set_mode_and_mtime};
use crate::fs::scan::Scanner;
use crate::fs::stable::{Cut, StableReader};
use crate::output::{Output, bytes_text, count_text, raw};
use crate::path::{self, Place};
use crate::report::Problems;
use crate::safe::{Safe, SafeBytes};
use crate::stdin::Stdin;
use crate::{replica, stop};

/// How many conflicted copies a person is shown.
const CONFLICTS_SHOWN: usize = 20;

pub(super) fn import(
    global: &Global,
    args: Import,
    output: Output,
    stop: CancellationToken,
) -> Result<()> {
    let client = replica::open(global, replica::config())?;
    path::check_way(&client, &args.path)?;
    let own = replica::directory(global)?;
    let what = format!("cannot read {}", args.dir.display());
    let mut scanner = Scanner::open(&args.dir, &[own]).map_err(|error| {
        Failure::io(what)(error).hint("name a directory that is there and can be read")
    })?;
    if scanner.is_excluded() {
        return Err(Failure::usage("this is the replica's own directory"));
    }
    let options = ImportOptions {
        delete: args.delete,
        yes: args.yes,
        checksum: args.checksum,
        dry_run: args.dry_run,
    };
    let progress = output.progress("importing");
    let mut tell = |report: &ImportReport| {
        progress.set(format!("{} looked at, {}", report.seen(), bytes_text(report.bytes)));
    };
    let top = import_into(&client, &args)?;
    let report = import::import(&client, scanner, top, options, &stop, &mut tell)?;
    drop(progress);
    output.json(&report)?;
    if args.dry_run {
        for one in &report.changes.entries {
            output.say(format_args!("{}: {}", one.change.text(), Safe(&one.path)))?;
        }
        if report.changes.more > 0 {
            output.say(format_args!("… and {} more", count_text(report.changes.more)))?;
        }
    }
    let would = if args.dry_run { "would be " } else { "" };
    output.say(format_args!(
        "{would}new: {} folders, {} files · changed: {} contents, {} attributes · moved: {} · \
         deleted: {} · unchanged: {} · {} taken",
        count_text(report.folders_created),
        count_text(report.files_created),
        count_text(report.contents_changed),
        count_text(report.metadata_changed),
        count_text(report.moved),
        count_text(report.deleted),
        count_text(report.unchanged),
        bytes_text(report.bytes),
    ))?;
    for conflict in report.conflicts.first.iter().take(CONFLICTS_SHOWN) {
        let (path, copy) = (Safe(&conflict.path), Safe(&conflict.copy));
        output.note(format!("{path} differs from the tree's: it is kept beside it as {copy}"));
    }
    if report.conflicts.count > CONFLICTS_SHOWN as u64 {
        let count = count_text(report.conflicts.count);
        output.note(format!("{count} files in all are kept beside the tree's: see --json"));
    }
    if report.stale > 0 {
        let count = count_text(report.stale);
        output.note(format!(
            "{count} entries are older than in the tree, or deleted there: `vfs-sync export --delete` \
             brings the directory up to date"
        ));
    }
    if report.changes() > 0 && !args.dry_run {
        output.note("`vfs-sync sync` sends it");
    }
    finish(output, report.interrupted, &report.problems)?;
    import::held(&report, &args.dir).map_or(Ok(()), Err)
}

/// The folder that an import goes into (`None`: the top), which is made if it is not there; with a
/// dry run it is one that is not there.
fn import_into(client: &SyncClient, args: &Import) -> Result<Option<ItemId>> {
    let (mut at, mut missing) = (args.path.clone(), Vec::new());
    let place = loop {
        match path::find_if_there(client, &at)? {
            Some(place) if place.is_folder() => break place,
            Some(_) => return Err(Failure::failed(format!("{at} is a file, not a folder"))),
            None => {
                let (above, name) = path::split(&at)?;
                missing.push(path::name(&name)?);
                at = above;
            }
        }
    };
    let mut parent = place.container()?.cloned();
    if missing.is_empty() {
        return Ok(parent);
    }
    if args.dry_run {
        return Ok(Some(client.new_item_id()));
    }
    let mut batch = client.batch();
    for name in missing.into_iter().rev() {
        parent = Some(batch.create(ObjectType::Folder, parent.as_ref(), name, Vec::new()));
    }
    batch.commit().map_err(path::explain(client))?;
    Ok(parent)
}

pub(super) async fn export(
    global: &Global,
    args: Export,
    output: Output,
    stop: CancellationToken,
) -> Result<()> {
    let client = replica::open(global, replica::config())?;
    let place = path::find(&client, &args.path)?;
    if !place.is_folder() {
        return Err(Failure::usage(format!("{} is a file", args.path))
            .hint(format!("use `vfs-sync get '{}'`", args.path)));
    }
    // Nothing that somebody else shares is written to a disk unless that share was named.
    let top = place.container()?.cloned();
    let options = ExportOptions {
        replica: Some(replica::directory(global)?),
        force: args.force,
        delete: args.delete,
        yes: args.yes,
        checksum: args.checksum,
    };
    let progress = output.progress("exporting");
    let mut tell = |report: &ExportReport| {
        let files = report.files_written + report.unchanged;
        progress.set(format!("{files} done, {}", bytes_text(report.bytes)));
    };
    let report = export::export(&client, top, &args.dir, options, &stop, &mut tell).await?;
    drop(progress);
    output.json(&report)?;
    output.say(format_args!(
        "new: {} folders, {} files · attributes: {} · removed: {} · unchanged: {} · {} written",
        count_text(report.folders_created),
        count_text(report.files_written),
        count_text(report.metadata_changed),
        count_text(report.removed),
        count_text(report.unchanged),
        bytes_text(report.bytes),
    ))?;
    finish(output, report.interrupted, &report.problems)?;
    export::held(&report, &args.dir).map_or(Ok(()), Err)
}

/// The end of an import or export: interrupted, done but for some, or done.
fn finish(output: Output, interrupted: bool, problems: &Problems) -> Result<()> {
    output.problems(problems);
    if interrupted {
        return Err(stop::interrupted());
    }
    match problems.failures() {
        0 => Ok(()),
        count => Err(Failure::new(
            Kind::Partial,
            format!("entries left out: {count} (see what was reported)"),
        )),
    }
}

/// An item's content, or one of its versions, and the time of its bytes.
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
    let version = match version {
        Some(which) => Some(versions::one(client, &node, path, which, stop).await?),
        None => None,
    };
    let shown = Arc::new(Shown::default());
    shown.with(Some(output.progress("fetching")));
    client.observe(shown.clone());
    let read = async {
        match &version {
            Some(version) => client.read_version(&node.id, version).await,
            None => client.read_content(&node.id).await,
        }
    };
    let content = tokio::select! {
        content = read => content.map_err(Failure::from),
        () = stop.cancelled() => Err(stop::interrupted()),
    };
    shown.with(None);
    let mtime = match version {
        Some(version) => version.modified_at.unwrap_or(version.attached_at),
        None => node.modified_at(),
    };
    Ok((node, content?, mtime))
}

pub(super) async fn cat(
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
    let mut harmless = SafeBytes::default();
    loop {
        if stop.is_cancelled() {
            return Err(stop::interrupted());
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

pub(super) async fn get(
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
        Failure::new(Kind::Exists, format!("{} is there already", file.display()))
            .hint("--force replaces it")
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
        Safe(&args.path),
        Safe(&file.to_string_lossy()),
        bytes_text(content.size())
    ))?;
    output.json(&json!({
        "id": node.id, "path": args.path, "file": file.to_string_lossy(),
        "size": content.size(), "digest": content.digest(),
    }))
}

fn interrupted_or(stop: &CancellationToken, error: ClientError) -> Failure {
    if stop.is_cancelled() { stop::interrupted() } else { error.into() }
}

pub(super) fn put(
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
        return Err(Failure::new(Kind::Exists, format!("{name} is a folder there")));
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
        // A link given by name is the user's own to follow.
        let path = args.file.canonicalize().map_err(Failure::io(&what))?;
        let (folder, file) = path
            .parent()
            .zip(path.file_name())
            .ok_or_else(|| Failure::usage(format!("{} is no file", args.file.display())))?;
        let disk = Root::open(folder)
            .and_then(|mut root| root.folder(Path::new("")))
            .map_err(Failure::io(&what))?;
        if disk.stat(file).map_err(Failure::io(&what))?.kind != DiskKind::File {
            return Err(Failure::usage(format!("{} is no file", args.file.display()))
                .hint("a directory is taken by `vfs-sync import`"));
        }
        let mut reader = StableReader::open(&disk, file, &stop).map_err(Failure::io(&what))?;
        let id = create(metadata::change(there.as_ref(), reader.stat()));
        let mtime = reader.stat().mtime;
        if let Some(problem) = reader.stat().time_problem() {
            output.note(format_args!("{}: {problem}", Safe(&args.file.to_string_lossy())));
        }
        match batch.put_content_at(&id, &mut reader, mtime) {
            Ok(stored) => (id, stored),
            Err(error) => {
                return Err(match reader.cut() {
                    Some(Cut::Interrupted) => stop::interrupted(),
                    Some(Cut::Changed) => Failure::failed(format!(
                        "{} changed while it was read",
                        args.file.display()
                    ))
                    .hint("try again when nobody writes it"),
                    Some(Cut::Io(error)) => Failure::io(&what)(error),
                    None => error.into(),
                });
            }
        }
    };
    batch.commit().map_err(path::explain(&client))?;
    let path = path::of(&client, &id)?;
    output.say(format_args!("{} ({})", Safe(&path), bytes_text(stored.size)))?;
    output.json(&json!({
        "id": id, "path": path, "created": there.is_none(),
        "size": stored.size, "digest": stored.digest, "blobId": stored.blob_id,
    }))
}
