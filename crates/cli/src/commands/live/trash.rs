//! The trash of live directories: `folder trash list`, `folder trash restore`.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde_json::json;
use vfs_sync_folder::aside::{self, Discarded};
use vfs_sync_folder::disk::dir::Root;
use vfs_sync_folder::disk::names;

use super::{chosen, find};
use crate::args::{FolderTrash, Global};
use crate::error::{Failure, Kind, Result};
use crate::escape::escaped;
use crate::output::{Output, bytes_text, table};
use crate::replica::{self, LiveFolder};

pub(super) fn trash(
    global: &Global,
    replica: &Path,
    action: FolderTrash,
    output: Output,
) -> Result<()> {
    match action {
        FolderTrash::List { dir } => list(replica, dir.as_deref(), output),
        FolderTrash::Restore { dir, path, day } => {
            restore(global, replica, &dir, &path, day.as_deref(), output)
        }
    }
}

fn open(live: &LiveFolder) -> Result<Root> {
    let what = || format!("cannot read {}", live.directory.display());
    Root::open(&live.directory).map_err(Failure::io(what()))
}

fn read(live: &LiveFolder, root: &mut Root) -> Result<Vec<Discarded>> {
    let what = || format!("cannot read the trash of {}", live.directory.display());
    aside::discarded(root).map_err(Failure::io(what()))
}

fn list(replica: &Path, dir: Option<&Path>, output: Output) -> Result<()> {
    let mut folders = Vec::new();
    for live in chosen(&replica::read_settings(replica)?, dir)? {
        let found = read(&live, &mut open(&live)?)?;
        folders.push((live.directory, found));
    }
    let entry = |one: &Discarded| {
        json!({
            "day": one.day,
            "path": names::path_text(&one.path),
            "size": one.size,
            "modifiedAt": one.modified_at,
        })
    };
    let shown = folders.iter().map(|(directory, found)| {
        json!({ "directory": directory, "entries": found.iter().map(entry).collect::<Vec<_>>() })
    });
    if output.json {
        return output.json(&json!({ "folders": shown.collect::<Vec<_>>() }));
    }
    let several = folders.len() > 1;
    for (directory, found) in folders {
        if several {
            output.say(format_args!("{}:", escaped(&directory.to_string_lossy())))?;
        }
        let mut rows = table(&["deleted", "size", "path"], &[1]);
        for one in &found {
            let path = escaped(&names::path_text(&one.path));
            rows.add_row([escaped(&one.day), bytes_text(one.size), path]);
        }
        output.table(rows)?;
    }
    Ok(())
}

/// Restores what was deleted at `path`, a file or a folder: of each file the latest, or that of `day`.
fn restore(
    global: &Global,
    replica: &Path,
    dir: &Path,
    path: &Path,
    day: Option<&str>,
    output: Output,
) -> Result<()> {
    let live = find(&replica::read_settings(replica)?, dir)?.clone();
    let inside = path.strip_prefix(&live.directory).unwrap_or(path);
    let mut root = open(&live)?;
    let mut found = read(&live, &mut root)?;
    found.retain(|one| {
        let of_day = day.is_none_or(|day| one.day.starts_with(day));
        of_day
            && (one.path.starts_with(inside)
                || names::path_text(&one.path) == inside.to_string_lossy())
    });
    // Sorted by day: the last of each path is the latest.
    let mut paths = HashSet::new();
    found.reverse();
    found.retain(|one| paths.insert(one.path.clone()));
    if found.is_empty() {
        let (path, dir) = (path.display(), live.directory.display());
        let text = format!("{path} is not in the trash of {dir}");
        return Err(Failure::new(Kind::NotFound, text).hint(
            "see `vfs-sync folder trash list`; the server's trash may have it: `vfs-sync trash`",
        ));
    }
    let device = replica::open(global, replica::config())?.device();
    let mut restored: Vec<PathBuf> = Vec::new();
    for one in found.iter().rev() {
        let to = aside::restore(&mut root, one, &device);
        let what = || format!("cannot restore {}", names::path_text(&one.path));
        restored.push(to.map_err(Failure::io(what()))?);
    }
    let texts: Vec<_> = restored.iter().map(|path| names::path_text(path)).collect();
    output.json(&json!({ "directory": live.directory, "restored": texts }))?;
    for text in &texts {
        output.say(format_args!("restored {}", escaped(text)))?;
    }
    Ok(())
}
