//! `backup create`: a copy of a database and of the contents that it names, while servers run.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;
use tokio_util::sync::CancellationToken;
use vfs_sync_blobs::{BlobError, BlobStore};
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_store::backup::{self, CopyKind, NamedBlob};
use vfs_sync_store::{MetadataStore, StoreError};

use super::archive::{Archive, Entry, Manifest, digest_of, files};
use super::{Faults, copy_failure, kind_name, room};
use crate::args::BackupCreate;
use crate::commands::operator::existing;
use crate::error::{Failure, Kind, Result};
use crate::output::{Output, bytes_text, count_text, counted};
use crate::server;

/// The contents that are copied at one time.
const AT_ONCE: usize = 8;
/// The time for which removals are held, and the interval at which that is renewed.
const HOLD: Duration = Duration::from_secs(15 * 60);
const RENEW: Duration = Duration::from_secs(60);
/// The longest time that a backup may take: what is deleted meanwhile keeps its space.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Holds removals, again and again, until the backup is done. It ends only when they cannot be held.
async fn hold(store: &dyn MetadataStore) -> StoreError {
    let mut held = tokio::time::Instant::now();
    let mut ticks = tokio::time::interval(RENEW);
    loop {
        ticks.tick().await;
        match hold_once(store).await {
            Ok(()) => held = tokio::time::Instant::now(),
            Err(error) if held.elapsed() + RENEW >= HOLD => return error,
            Err(_) => {}
        }
    }
}

async fn hold_once(store: &dyn MetadataStore) -> Result<(), StoreError> {
    let now = server::now();
    let millis = i64::try_from(HOLD.as_millis()).unwrap_or(i64::MAX);
    store.hold_removals(now.plus_millis(millis), now).await
}

pub(in crate::commands) async fn create(
    args: BackupCreate,
    output: Output,
    stop: CancellationToken,
) -> Result<()> {
    let database = existing(&args.database)?;
    let blobs = server::existing_blobs(args.database.data.as_deref()).await?;
    let store =
        vfs_sync_store::open(&database, server::now()).await.map_err(server::store_failure)?;
    let (archive, _lock) = Archive::for_new(&args.backups)?;
    hold_once(&*store).await.map_err(server::store_failure)?;
    let made = make(&archive, &database, &*store, blobs, output);
    tokio::select! {
        made = made => made,
        error = hold(&*store) => Err(copy_failure("removals cannot be held any more", error)),
        () = tokio::time::sleep(LONGEST) => {
            Err(Failure::failed("the backup took longer than 24 hours")
                .hint("run it again: contents that were copied are not copied again"))
        }
        () = stop.cancelled() => Err(Failure::new(Kind::Interrupted, "interrupted: the earlier backups are as they were")
            .hint("run it again: contents that were copied are not copied again")),
    }
}

async fn make(
    archive: &Archive,
    database: &str,
    store: &dyn MetadataStore,
    blobs: Arc<dyn BlobStore>,
    output: Output,
) -> Result<()> {
    let created_at = server::now();
    let partial = archive.begin()?;
    let (copy, list) = files(&partial);
    let progress = output.progress("copying the database");
    let named = backup::dump(database, &copy).await;
    let named = named.map_err(|error| copy_failure("the database could not be copied", error))?;
    drop(progress);
    let identity = store.identity().await.map_err(server::store_failure)?;
    let trusted = archive.trusted()?;
    let progress = output.progress("copying contents");
    let copier = Copier { archive, partial: &partial, blobs: &*blobs, trusted: &trusted };
    let mut outcomes =
        futures::stream::iter(&named).map(|blob| copier.outcome(blob)).buffered(AT_ONCE);
    let failed = || format!("cannot write {}", list.display());
    let mut lines = BufWriter::new(File::create_new(&list).map_err(Failure::io(failed()))?);
    let mut faults = Faults::default();
    let (mut count, mut bytes, mut copied) = (0_u64, 0_u64, 0_u64);
    while let Some((blob, outcome)) = outcomes.next().await {
        match outcome? {
            Copied::Gone => continue,
            Copied::Faulty(text) => {
                faults.add(format!("{}: {text}", blob.blob_id));
                continue;
            }
            Copied::Present => {}
            Copied::Now => copied += 1,
        }
        count += 1;
        bytes += blob.size;
        let entry = Entry { id: blob.blob_id.clone(), size: blob.size, sha256: blob.digest };
        serde_json::to_writer(&mut lines, &entry)
            .map_err(std::io::Error::from)
            .and_then(|()| lines.write_all(b"\n"))
            .map_err(Failure::io(failed()))?;
        progress.set(format!(
            "{} of {}, {}",
            count_text(count),
            count_text(named.len() as u64),
            bytes_text(bytes)
        ));
    }
    drop(outcomes);
    lines.flush().map_err(Failure::io(failed()))?;
    let read = |file: &Path| Failure::io(format!("cannot read {}", file.display()));
    let digests = [
        digest_of(copy.clone()).await.map_err(read(&copy))?,
        digest_of(list.clone()).await.map_err(read(&list))?,
    ];
    let kind = kind_name(CopyKind::of(database));
    let manifest = Manifest::new(created_at, kind, identity.id, digests);
    let name = archive.complete(&partial, &Manifest { contents: count, bytes, ..manifest })?;
    drop(progress);
    faults.show(output)?;
    output.say(format_args!(
        "{name}: {} of {}, {} new",
        counted(count, "content", "contents"),
        bytes_text(bytes),
        count_text(copied)
    ))?;
    output.json(&json!({
        "backup": name, "contents": count, "bytes": bytes, "new": copied,
        "missing": faults.count, "firstMissing": faults.first,
    }))?;
    if faults.count > 0 {
        let text = format!("{} contents could not be backed up", faults.count);
        return Err(Failure::new(Kind::Partial, text).hint(
            "the backup has everything else; `vfs-sync blobs check --digests` shows the state of the object store",
        ));
    }
    Ok(())
}

/// The outcome of copying a content.
enum Copied {
    /// The archive has it already.
    Present,
    Now,
    /// It was marked for removal before the database was copied.
    Gone,
    /// The object store does not have its bytes; the text says why.
    Faulty(String),
}

struct Copier<'a> {
    archive: &'a Archive,
    /// The directory for contents that are not whole yet: the next backup clears it.
    partial: &'a Path,
    blobs: &'a dyn BlobStore,
    trusted: &'a HashSet<Sha256Digest>,
}

impl Copier<'_> {
    async fn outcome<'b>(&self, blob: &'b NamedBlob) -> (&'b NamedBlob, Result<Copied>) {
        (blob, self.copy(blob).await)
    }

    async fn copy(&self, blob: &NamedBlob) -> Result<Copied> {
        let file = self.archive.content(&blob.digest);
        if file.metadata().is_ok_and(|metadata| metadata.len() == blob.size) {
            let entry = Entry { id: blob.blob_id.clone(), size: blob.size, sha256: blob.digest };
            if self.trusted.contains(&blob.digest) || self.archive.check(&entry).await?.is_ok() {
                return Ok(Copied::Present);
            }
        }
        let source = match self.blobs.get(&blob.blob_id, None).await {
            Ok(source) => source,
            Err(error) => return self.faulty(blob, error),
        };
        if let Some(directory) = file.parent() {
            server::make_directory(directory)?;
        }
        // Two contents with the same bytes are written at one time, each to a file of its own.
        let temporary = self.partial.join(format!("{}-{}", blob.digest, fastrand::u64(..)));
        let written = self.write(blob, source, &temporary).await;
        let outcome = match written {
            Ok(Copied::Now) => {
                let named = std::fs::rename(&temporary, &file).map(|()| Copied::Now);
                named.map_err(Failure::io(format!("cannot write {}", file.display())))
            }
            other => other,
        };
        if !matches!(outcome, Ok(Copied::Now)) {
            let _ = std::fs::remove_file(&temporary);
        }
        outcome
    }

    fn faulty(&self, blob: &NamedBlob, error: BlobError) -> Result<Copied> {
        match &*error.storage_code {
            "NoSuchKey" if !blob.is_live => Ok(Copied::Gone),
            "NoSuchKey" => Ok(Copied::Faulty("registered, but its object is missing".into())),
            _ => {
                let text = format!("cannot read {}: {error}", blob.blob_id);
                Err(Failure::new(Kind::Network, text).hint(
                    "run it again once the object store answers: contents that were copied are not copied again",
                ))
            }
        }
    }

    async fn write(
        &self,
        blob: &NamedBlob,
        mut source: vfs_sync_blobs::Outgoing,
        to: &Path,
    ) -> Result<Copied> {
        let failed = |error: std::io::Error| {
            let failure = Failure::io(format!("cannot write {}", to.display()))(error);
            failure.hint(to.parent().map(room).unwrap_or_default())
        };
        let mut file = tokio::fs::File::create_new(to).await.map_err(failed)?;
        let (mut hasher, mut size) = (Sha256::new(), 0);
        loop {
            let chunk = match source.try_next().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break,
                Err(error) => return self.faulty(blob, error),
            };
            hasher.update(&chunk);
            size += chunk.len() as u64;
            file.write_all(&chunk).await.map_err(failed)?;
        }
        file.flush().await.map_err(failed)?;
        if size != blob.size || Sha256Digest(hasher.finalize().into()) != blob.digest {
            return Ok(Copied::Faulty("registered, but its object has other bytes".into()));
        }
        Ok(Copied::Now)
    }
}
