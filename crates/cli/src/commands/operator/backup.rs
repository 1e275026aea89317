//! `backup create`, `verify` and `restore`: a database and the contents that it names.
//!
//! A directory of backups has one directory for each backup, with a copy of the database, the list of
//! its contents, and a manifest that is written last; and `contents/`, where each content is once, under
//! its digest. A content never changes, so a later backup copies only new ones.

mod archive;
mod create;
mod restore;

use std::path::Path;

use serde_json::json;
use tokio_util::sync::CancellationToken;
use vfs_sync_core::time::Timestamp;
use vfs_sync_store::backup::{self, CopyKind, NamedBlob};

pub(in crate::commands) use create::create;
pub(in crate::commands) use restore::restore;

use self::archive::{Archive, Saved};
use crate::args::BackupVerify;
use crate::error::{Failure, Kind, Result};
use crate::escape::escaped;
use crate::output::{Output, bytes_text, count_text, counted};
use crate::server;

/// The number of problems that are kept and shown.
const PROBLEMS: usize = 1_000;

/// Problems with contents: their number, and the first ones.
#[derive(Debug, Default)]
struct Faults {
    count: u64,
    first: Vec<String>,
}

impl Faults {
    fn add(&mut self, text: String) {
        self.count += 1;
        if self.first.len() < PROBLEMS {
            self.first.push(text);
        }
    }

    fn show(&self, output: Output) -> Result<()> {
        for fault in self.first.iter().take(20) {
            output.say(escaped(fault))?;
        }
        Ok(())
    }
}

pub(in crate::commands) async fn verify(
    args: BackupVerify,
    output: Output,
    stop: CancellationToken,
) -> Result<()> {
    let archive = Archive::existing(&args.backups)?;
    let saved = archive.pick(args.at.as_deref())?;
    let progress = output.progress("verifying");
    let mut faults = Faults::default();
    let (mut count, mut bytes) = (0, 0);
    match saved.check_files().await {
        Err(error) => faults.add(error.message),
        Ok(()) => {
            if saved.manifest.kind == "sqlite" {
                match backup::read(&saved.database()).await {
                    Ok(named) => compare(&named, &saved, &mut faults)?,
                    Err(error) => faults.add(format!("the database: {error}")),
                }
            }
            for entry in saved.entries()? {
                let entry = entry?;
                if stop.is_cancelled() {
                    return Err(Failure::new(Kind::Interrupted, "interrupted"));
                }
                if let Err(text) = archive.check(&entry).await? {
                    faults.add(format!("{}: {text}", entry.id));
                }
                count += 1;
                bytes += entry.size;
                progress.set(format!("{} contents, {}", count_text(count), bytes_text(bytes)));
            }
            if count != saved.manifest.contents {
                faults.add(format!(
                    "{count} contents are listed instead of {}",
                    saved.manifest.contents
                ));
            }
        }
    }
    drop(progress);
    faults.show(output)?;
    output.json(&json!({
        "backup": saved.name, "contents": count, "bytes": bytes,
        "whole": faults.count == 0, "problems": faults.count, "firstProblems": faults.first,
    }))?;
    if faults.count > 0 {
        let text = format!("the backup {} is not whole: {} problems", saved.name, faults.count);
        return Err(Failure::new(Kind::Corrupt, text)
            .hint("restore from another backup with --at NAME, and make a new one"));
    }
    output.say(format_args!(
        "{}: whole, {} of {}",
        saved.name,
        counted(count, "content", "contents"),
        bytes_text(bytes)
    ))
}

/// Returns the name of the newest backup in a directory, and the time at which it was made.
pub(in crate::commands) fn newest(directory: &Path) -> Result<(String, Timestamp)> {
    let saved = Archive::existing(directory)?.pick(None)?;
    Ok((saved.name, saved.manifest.created_at))
}

/// Adds the contents that the database names and the backup does not list.
fn compare(named: &[NamedBlob], saved: &Saved, faults: &mut Faults) -> Result<()> {
    // Both are in the order of their ids.
    let mut listed = saved.entries()?.peekable();
    for blob in named {
        let mut found = None;
        while let Some(entry) = listed.next_if(|entry| match entry {
            Ok(entry) => entry.id.as_str() <= blob.blob_id.as_str(),
            Err(_) => true,
        }) {
            let entry = entry?;
            if entry.id == blob.blob_id {
                found = Some(entry);
            }
        }
        match found {
            None => faults
                .add(format!("{}: the database names it, and the backup lacks it", blob.blob_id)),
            Some(entry) if entry.size != blob.size || entry.sha256 != blob.digest => {
                faults.add(format!("{}: the database names other bytes", blob.blob_id));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Returns the name of a kind in manifests.
fn kind_name(kind: CopyKind) -> &'static str {
    match kind {
        CopyKind::Sqlite => "sqlite",
        CopyKind::Postgres => "postgres",
    }
}

/// Converts an error of a copy, whose fault is rarely the database's.
fn copy_failure(what: &str, error: vfs_sync_store::StoreError) -> Failure {
    let failure = server::store_failure(error);
    Failure { message: format!("{what}: {}", failure.message), ..failure }
}

/// Returns the bytes of a path's file system that are free, for a hint.
fn room(path: &Path) -> String {
    match rustix::fs::statvfs(path) {
        Ok(disk) => format!("{} are free", bytes_text(disk.f_bavail.saturating_mul(disk.f_frsize))),
        Err(_) => "how much is free is not known".into(),
    }
}
