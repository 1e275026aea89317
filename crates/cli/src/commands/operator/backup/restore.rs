//! `backup restore`: contents first, then the database, which makes them reachable.

use std::collections::HashMap;
use std::io::{Read as _, Seek as _};
use std::path::PathBuf;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;
use vfs_sync_blobs::{BlobError, BlobStore, PutError, Stored, key, part_start};
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_store::backup::{self, CopyKind};

use super::archive::{Archive, Entry, Saved};
use super::{copy_failure, kind_name};
use crate::args::BackupRestore;
use crate::error::{Failure, Kind, Result};
use crate::output::{Output, bytes_text, count_text, counted};
use crate::server;

/// The contents that are stored at one time.
const AT_ONCE: usize = 8;
/// The size in bytes up to which a content is stored by one call.
const WHOLE: u64 = 4 << 20;

pub(in crate::commands) async fn restore(
    args: BackupRestore,
    output: Output,
    stop: CancellationToken,
) -> Result<()> {
    let archive = Archive::existing(&args.backups)?;
    let saved = archive.pick(args.at.as_deref())?;
    let database = server::database(Some(&args.data))?;
    let kind = CopyKind::of(&database);
    if kind_name(kind) != saved.manifest.kind {
        return Err(Failure::usage(format!(
            "the backup is of a {} database, and the place for it is one of {}",
            saved.manifest.kind,
            kind_name(kind)
        ))
        .hint("VFS_SYNC_DATABASE_URL names a PostgreSQL database; unset it for SQLite in --data"));
    }
    saved.check_files().await?;
    if !backup::is_free(&database).await.map_err(server::store_failure)? {
        let text = match kind {
            CopyKind::Sqlite => format!("{database} exists: nothing is replaced"),
            CopyKind::Postgres => {
                "the PostgreSQL database has tables: nothing is replaced".to_owned()
            }
        };
        return Err(Failure::new(Kind::Exists, text).hint(
            "name an empty directory with --data, or an empty database with VFS_SYNC_DATABASE_URL",
        ));
    }
    server::make_directory(&args.data)?;
    let blobs = server::existing_blobs(Some(&args.data)).await?;
    refuse_others(&*blobs, &saved).await?;
    let work = async {
        put_all(&archive, &saved, &*blobs, output).await?;
        let progress = output.progress("restoring the database");
        let loaded = backup::load(&database, &saved.database()).await;
        loaded.map_err(|error| copy_failure("the database could not be restored", error))?;
        // Opening it begins an epoch.
        let store = vfs_sync_store::open(&database, server::now()).await;
        let store = store.map_err(server::store_failure)?;
        let identity = store.identity().await.map_err(server::store_failure)?;
        server::leave_mark(&args.data, &identity.id)?;
        drop(progress);
        Ok::<_, Failure>(())
    };
    tokio::select! {
        done = work => done?,
        () = stop.cancelled() => {
            return Err(Failure::new(Kind::Interrupted, "interrupted: there is no database yet")
                .hint("run it again: it goes on with what is missing"));
        }
    }
    output.say(format_args!(
        "{} restored: {} of {}; start the server with --data {}",
        saved.name,
        counted(saved.manifest.contents, "content", "contents"),
        bytes_text(saved.manifest.bytes),
        args.data.display()
    ))?;
    output.json(&json!({
        "backup": saved.name, "contents": saved.manifest.contents, "bytes": saved.manifest.bytes,
    }))
}

fn unwritable(error: BlobError) -> Failure {
    let kind = if error.retryable { Kind::Network } else { Kind::Failed };
    Failure::new(kind, format!("the object store: {error}"))
        .hint("run it again: it goes on with what is missing")
}

/// Rejects an object store that has contents of another server.
async fn refuse_others(blobs: &dyn BlobStore, saved: &Saved) -> Result<()> {
    let mut known = HashMap::new();
    for entry in saved.entries()? {
        let entry = entry?;
        known.insert(key::object_name(&entry.id), entry.size);
    }
    let mut listing = blobs.list();
    while let Some(object) = listing.try_next().await.map_err(unwritable)? {
        if !key::is_temporary(&object.name) && known.get(&object.name) != Some(&object.size) {
            return Err(Failure::new(
                Kind::Exists,
                format!(
                    "the object store has {}, which is not in the backup: nothing is replaced",
                    object.name
                ),
            )
            .hint("name an empty directory or bucket, or another VFS_BLOB_S3_KEY_PREFIX"));
        }
    }
    Ok(())
}

async fn put_all(
    archive: &Archive,
    saved: &Saved,
    blobs: &dyn BlobStore,
    output: Output,
) -> Result<()> {
    let progress = output.progress("restoring contents");
    let mut stored = futures::stream::iter(saved.entries()?)
        .map(|entry| async {
            let entry = entry?;
            put(blobs, archive.content(&entry.sha256), &entry).await?;
            Ok::<_, Failure>(entry.size)
        })
        .buffered(AT_ONCE);
    let (mut count, mut bytes) = (0_u64, 0_u64);
    while let Some(size) = stored.next().await {
        count += 1;
        bytes += size?;
        progress.set(format!(
            "{} of {}, {}",
            count_text(count),
            count_text(saved.manifest.contents),
            bytes_text(bytes)
        ));
    }
    Ok(())
}

/// Stores a content, whose bytes are compared with its digest first.
async fn put(blobs: &dyn BlobStore, file: PathBuf, entry: &Entry) -> Result<()> {
    let path = file.clone();
    let unreadable = move |error: std::io::Error| {
        Failure::new(Kind::Corrupt, format!("cannot read {}: {error}", path.display()))
            .hint("use another backup with --at NAME")
    };
    let other = |error: PutError| match error {
        PutError::Differs => {
            Failure::new(Kind::Exists, format!("the object store has other bytes as {}", entry.id))
        }
        PutError::Store(error) => unwritable(error),
    };
    if entry.size <= WHOLE {
        let read = tokio::task::spawn_blocking(move || std::fs::read(file)).await;
        let bytes = read.map_err(std::io::Error::other).flatten().map_err(unreadable)?;
        if Sha256Digest(Sha256::digest(&bytes).into()) != entry.sha256 {
            return Err(damaged(entry));
        }
        return blobs.put(&entry.id, bytes.into()).await.map_err(other);
    }
    let found = super::archive::digest_of(file.clone()).await.map_err(&unreadable)?;
    if !found.is(entry) {
        return Err(damaged(entry));
    }
    let name = blobs.begin(&entry.id).await.map_err(unwritable)?;
    let upload = blobs.take_up(&entry.id, &name).await.map_err(unwritable)?;
    let (mut parts, mut start) = (Vec::new(), 0);
    while start < entry.size {
        let number =
            u32::try_from(parts.len()).map_err(std::io::Error::other).map_err(&unreadable)?;
        debug_assert_eq!(start, part_start(blobs, number));
        let size = (entry.size - start).min(blobs.part_size(number) as u64);
        let source = file.clone();
        let read = tokio::task::spawn_blocking(move || {
            let mut file = std::fs::File::open(source)?;
            file.seek(std::io::SeekFrom::Start(start))?;
            let mut bytes = Vec::new();
            file.take(size).read_to_end(&mut bytes)?;
            Ok(Bytes::from(bytes))
        });
        let bytes = read.await.map_err(std::io::Error::other).flatten().map_err(&unreadable)?;
        parts.push(upload.write_part(number, start, bytes).await.map_err(unwritable)?);
        start += size;
    }
    let stored = Stored { size: entry.size, digest: entry.sha256 };
    upload.finish(parts, stored).await.map_err(other)?;
    blobs.abort(&entry.id, &name).await.map_err(unwritable)
}

fn damaged(entry: &Entry) -> Failure {
    Failure::new(Kind::Corrupt, format!("the backup's bytes of {} are damaged", entry.id))
        .hint("use another backup with --at NAME: `vfs-sync backup verify` checks one")
}
