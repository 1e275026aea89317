//! Directories of this machine: `import`, `export`.

use std::path::Path;

use tokio_util::sync::CancellationToken;
use vfs_sync_client::SyncClient;
use vfs_sync_core::id::ItemId;
use vfs_sync_core::item::ObjectType;
use vfs_sync_folder::export::{self, ExportOptions, ExportReport};
use vfs_sync_folder::ignore::Trust;
use vfs_sync_folder::import::{self, ImportOptions, ImportReport};
use vfs_sync_folder::report::{Changes, Problems};
use vfs_sync_folder::scan::Scanner;

use crate::args::{Export, Global, Import};
use crate::error::{Failure, Kind, Result};
use crate::escape::Escaped;
use crate::output::{Output, bytes_text, count_text, counted};
use crate::path;
use crate::replica::crossing;
use crate::report::{change_text, export_text, held_deletions, held_removals, import_text};
use crate::{replica, shutdown};

/// The number of conflicted copies that are shown to a person.
const CONFLICTS_SHOWN: usize = 20;

pub(in crate::commands) fn import(
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
        Failure::io(what)(error).hint("name an existing directory that can be read")
    })?;
    if scanner.is_excluded() {
        return Err(Failure::usage("this is the replica's own directory"));
    }
    scanner.trust = trust(global, &args.dir, args.dry_run)?;
    scanner.not_here = replica::excluded_from(&replica::directory(global)?, &args.dir)?;
    let options = ImportOptions {
        delete: args.delete,
        yes: args.yes,
        checksum: args.checksum,
        dry_run: args.dry_run,
        forget_missing: false,
    };
    let progress = output.progress("importing");
    let mut show = |report: &ImportReport| {
        progress.set(format!("{} entries, {}", report.seen(), bytes_text(report.bytes)));
    };
    let top = folder_at(&client, &args.path, args.dry_run)?;
    let report = import::import(&client, scanner, top, options, None, &stop, &mut show)?;
    drop(progress);
    output.json(&report)?;
    list_changes(output, &report.changes)?;
    let would = if args.dry_run { "would be " } else { "" };
    output.say(format_args!(
        "{would}{} · unchanged: {} · {} imported",
        import_text(&report),
        count_text(report.unchanged),
        bytes_text(report.bytes),
    ))?;
    note_ignored(output, report.ignored);
    for conflict in report.conflicts.first.iter().take(CONFLICTS_SHOWN) {
        let (path, copy) = (Escaped(&conflict.path), Escaped(&conflict.copy));
        output.note(format!("{path} differs from the tree's: it is kept beside it as {copy}"));
    }
    if report.conflicts.count > CONFLICTS_SHOWN as u64 {
        let count = count_text(report.conflicts.count);
        output.note(format!("{count} files in total are kept beside the tree's: see --json"));
    }
    if report.stale > 0 {
        let count = count_text(report.stale);
        output.note(format!(
            "{count} entries are older than in the tree, or deleted there: `vfs-sync export --delete` \
             brings the directory up to date"
        ));
    }
    if report.changes() > 0 && !args.dry_run {
        output.note("`vfs-sync sync` sends the changes");
    }
    finish(output, report.interrupted, &report.problems)?;
    held_deletions(&report, &args.dir).map_or(Ok(()), Err)
}

/// Returns the rules that count in a directory of another owner's tree.
fn trust(global: &Global, directory: &Path, dry_run: bool) -> Result<Trust> {
    let trust = crossing::trust(&replica::directory(global)?, directory)?;
    Ok(if dry_run { trust.without_saving() } else { trust })
}

/// Lists the changes of a dry run; the list is empty without one.
fn list_changes(output: Output, changes: &Changes) -> Result<()> {
    for one in &changes.entries {
        output.say(format_args!("{}: {}", change_text(one.change), Escaped(&one.path)))?;
    }
    if changes.more > 0 {
        output.say(format_args!("… and {} more", count_text(changes.more)))?;
    }
    Ok(())
}

/// Returns the folder at `path` (`None`: the top), which is created if needed; in a dry run the id
/// is new.
pub(in crate::commands) fn folder_at(
    client: &SyncClient,
    path: &str,
    dry_run: bool,
) -> Result<Option<ItemId>> {
    let (mut at, mut missing) = (path.to_owned(), Vec::new());
    let place = loop {
        match path::find_if_there(client, &at)? {
            Some(place) if place.is_folder() => break place,
            Some(_) => return Err(Failure::failed(format!("{at} is a file, not a folder"))),
            None => {
                let Ok((above, name)) = path::split(&at) else {
                    let text = format!("no {path} is shared with you");
                    return Err(Failure::new(Kind::NotFound, text).hint(
                        "`vfs-sync ls shared:` lists what is; `vfs-sync sync` brings what is new",
                    ));
                };
                missing.push(path::name(&name)?);
                at = above;
            }
        }
    };
    let mut parent = place.container()?.cloned();
    if missing.is_empty() {
        return Ok(parent);
    }
    if dry_run {
        return Ok(Some(client.new_item_id()));
    }
    let mut batch = client.batch();
    for name in missing.into_iter().rev() {
        parent = Some(batch.create(ObjectType::Folder, parent.as_ref(), name, Vec::new()));
    }
    batch.commit().map_err(path::explain(client))?;
    Ok(parent)
}

pub(in crate::commands) async fn export(
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
    // Shared items are written to a disk only if their share was named.
    let top = place.container()?.cloned();
    let options = ExportOptions {
        part: None,
        replica: Some(replica::directory(global)?),
        force: args.force,
        delete: args.delete,
        yes: args.yes,
        checksum: args.checksum,
        dry_run: args.dry_run,
        live: false,
        leave_missing: false,
        trust: trust(global, &args.dir, args.dry_run)?,
        links: crossing::allowed_links(&replica::directory(global)?, &args.dir)?
            .or_all(args.allow_links),
        not_here: replica::excluded_from(&replica::directory(global)?, &args.dir)?,
    };
    let progress = output.progress("exporting");
    let mut show = |report: &ExportReport| {
        let files = report.files_written + report.unchanged;
        progress.set(format!("{files} done, {}", bytes_text(report.bytes)));
    };
    let report = export::export(&client, top, &args.dir, options, &stop, &mut show).await?;
    drop(progress);
    output.json(&report)?;
    list_changes(output, &report.changes)?;
    let would = if args.dry_run { "would be " } else { "" };
    output.say(format_args!(
        "{would}{} · unchanged: {}",
        export_text(&report),
        count_text(report.unchanged),
    ))?;
    note_ignored(output, report.ignored);
    finish(output, report.interrupted, &report.problems)?;
    held_removals(&report, &args.dir).map_or(Ok(()), Err)
}

/// Says how many entries the rules ignore, if they ignore any.
fn note_ignored(output: Output, ignored: u64) {
    if ignored > 0 {
        output.note(format!("ignored by rules: {}", count_text(ignored)));
    }
}

/// Reports problems; fails if the command was interrupted or left out entries.
fn finish(output: Output, interrupted: bool, problems: &Problems) -> Result<()> {
    output.problems(problems);
    if interrupted {
        return Err(shutdown::interrupted());
    }
    match problems.failures() {
        0 => Ok(()),
        count => {
            let entries = counted(count, "entry was", "entries were");
            Err(Failure::new(Kind::Partial, format!("{entries} left out (see above)")))
        }
    }
}
