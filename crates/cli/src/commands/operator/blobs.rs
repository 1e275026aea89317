//! `blobs check`: compares the registry of contents with the object store.

use std::collections::{BTreeMap, BTreeSet};

use futures::TryStreamExt as _;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use vfs_sync_blobs::{BlobError, BlobStore, Listing, Object, key};
use vfs_sync_core::id::BlobId;
use vfs_sync_core::wire::StageStatus;
use vfs_sync_store::MetadataStore;

use super::existing;
use crate::args::BlobsCheck;
use crate::error::{Failure, Kind, Result};
use crate::output::Output;
use crate::server;

/// The number of registry rows that are read at a time.
const ROWS: u32 = 1_000;

/// An entry that exists only on one side.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::commands) struct Orphan {
    pub(in crate::commands) kind: OrphanKind,
    /// The id of a registered content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::commands) blob_id: Option<BlobId>,
    /// The name of an object under the store's prefix.
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<String>,
    size: u64,
    mended: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::commands) enum OrphanKind {
    /// The content is registered, but not in the object store.
    MissingBytes,
    /// The content is registered with another size than the object has.
    OtherBytes,
    /// The content is registered with another digest than its bytes have.
    RottenBytes,
    /// The object is not registered.
    UnknownObject,
    /// The object is a leftover of an unfinished write.
    Temporary,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::commands) struct Report {
    pub(in crate::commands) registered: u64,
    pub(in crate::commands) objects: u64,
    pub(in crate::commands) orphans: Vec<Orphan>,
}

fn store_failed(error: BlobError) -> Failure {
    let kind = if error.retryable { Kind::Network } else { Kind::Failed };
    Failure::new(kind, error.to_string())
}

pub(in crate::commands) async fn check(args: BlobsCheck, output: Output) -> Result<()> {
    let database = existing(&args.database)?;
    let blobs = server::existing_blobs(args.database.data.as_deref()).await?;
    let store =
        vfs_sync_store::open(&database, server::now()).await.map_err(server::store_failure)?;
    let report = compare(&*store, &*blobs, blobs.list(), &args).await?;
    for orphan in &report.orphans {
        let name = orphan.blob_id.as_ref().map(BlobId::as_str);
        let name = name.or(orphan.object.as_deref()).unwrap_or_default();
        let what = match orphan.kind {
            OrphanKind::MissingBytes => "registered, but its object is missing",
            OrphanKind::OtherBytes => "registered, but its object has another size",
            OrphanKind::RottenBytes => "registered, but its bytes have another digest",
            OrphanKind::UnknownObject => "an object that nothing registers",
            OrphanKind::Temporary => "left behind by a write that did not finish",
        };
        let mended = if orphan.mended { " (repaired)" } else { "" };
        output.say(format_args!("{}: {what}{mended}", crate::escape::escaped(name)))?;
    }
    let left = report.orphans.iter().filter(|orphan| !orphan.mended).count();
    output.say(format_args!(
        "{} contents registered, {} objects, {} orphans, {left} left",
        report.registered,
        report.objects,
        report.orphans.len(),
    ))?;
    output.json(&report)?;
    if left == 0 {
        return Ok(());
    }
    let failure = Failure::new(Kind::Partial, format!("{left} orphans remain"));
    Err(if args.repair {
        failure.hint("these are current contents: restore their objects, or upload the files again")
    } else {
        failure.hint("--repair repairs what can be repaired; see docs/en/vfs-blob-persistence.md")
    })
}

/// Compares the registry with a listing of the object store. Servers may run at the same time: an
/// apparent difference is checked once more before it is reported.
pub(in crate::commands) async fn compare(
    store: &dyn MetadataStore,
    blobs: &dyn BlobStore,
    mut listed: Listing,
    args: &BlobsCheck,
) -> Result<Report> {
    // Objects first: every object in the store was registered before.
    let mut objects: BTreeMap<String, Object> = BTreeMap::new();
    while let Some(object) = listed.try_next().await.map_err(store_failed)? {
        objects.insert(object.name.clone(), object);
    }
    let mut report = Report { registered: 0, objects: objects.len() as u64, orphans: Vec::new() };
    let mut after: Option<BlobId> = None;
    loop {
        let rows = store.blobs_after(after.clone(), ROWS).await.map_err(server::store_failure)?;
        let Some(last) = rows.last() else { break };
        after = Some(last.blob_id.clone());
        for row in rows.into_iter().filter(|row| row.live) {
            let object = objects.remove(&key::object_name(&row.blob_id));
            let Some(size) = row.size else { continue };
            report.registered += 1;
            let kind = match object {
                None if !is_missing(store, blobs, &row.blob_id).await? => continue,
                None => OrphanKind::MissingBytes,
                Some(object) if object.size != size => OrphanKind::OtherBytes,
                Some(_) if args.digests && is_rotten(store, blobs, &row.blob_id).await? => {
                    OrphanKind::RottenBytes
                }
                Some(_) => continue,
            };
            let mended = args.repair
                && kind == OrphanKind::MissingBytes
                && let_go(store, &row.blob_id).await?;
            let (blob_id, object) = (Some(row.blob_id), None);
            report.orphans.push(Orphan { kind, blob_id, object, size, mended });
        }
    }
    let uploads = store.upload_handles().await.map_err(server::store_failure)?;
    let uploads: BTreeSet<&str> =
        uploads.iter().map(|handle| handle.split(' ').next().unwrap_or_default()).collect();
    let age = i64::try_from(args.older_than).unwrap_or(i64::MAX).saturating_mul(1_000);
    let youngest = server::now().as_millis().saturating_sub(age);
    objects.retain(|name, object| {
        let of_upload = uploads.contains(name.split('/').next().unwrap_or_default());
        object.modified <= youngest && !of_upload
    });
    forget_registered(store, &mut objects).await?;
    for (name, object) in objects {
        if args.repair {
            blobs.remove(&name).await.map_err(store_failed)?;
        }
        let temporary = key::is_temporary(&name);
        report.orphans.push(Orphan {
            kind: if temporary { OrphanKind::Temporary } else { OrphanKind::UnknownObject },
            blob_id: None,
            object: Some(name),
            size: object.size,
            mended: args.repair,
        });
    }
    Ok(report)
}

/// Returns whether an object has other bytes than were registered.
async fn is_rotten(
    store: &dyn MetadataStore,
    blobs: &dyn BlobStore,
    blob_id: &BlobId,
) -> Result<bool> {
    let found = store.any_blob(blob_id).await.map_err(server::store_failure)?;
    let Some((_, expected)) = found.and_then(|found| found.stage.stage.uploaded) else {
        return Ok(false);
    };
    let mut bytes = match blobs.get(blob_id, None).await {
        Ok(bytes) => bytes,
        // It was removed since the objects were listed.
        Err(error) if error.storage_code == "NoSuchKey" => return Ok(false),
        Err(error) => return Err(store_failed(error)),
    };
    let mut digest = Sha256::new();
    while let Some(chunk) = bytes.try_next().await.map_err(store_failed)? {
        digest.update(&chunk);
    }
    Ok(digest.finalize()[..] != expected.0)
}

/// Returns whether a registered content still has no object: since the objects were listed, the
/// object may have arrived, or the content may have been removed.
pub(in crate::commands) async fn is_missing(
    store: &dyn MetadataStore,
    blobs: &dyn BlobStore,
    blob_id: &BlobId,
) -> Result<bool> {
    match blobs.get(blob_id, None).await {
        Ok(_) => return Ok(false),
        Err(error) if error.storage_code == "NoSuchKey" => {}
        Err(error) => return Err(store_failed(error)),
    }
    let found = store.any_blob(blob_id).await.map_err(server::store_failure)?;
    Ok(found.is_some_and(|found| found.stage.blob_status == "live"))
}

/// Removes from the list the objects of contents that were registered since the registry was read:
/// after a restore, objects exist before clients register them again.
async fn forget_registered(
    store: &dyn MetadataStore,
    objects: &mut BTreeMap<String, Object>,
) -> Result<()> {
    let mut after: Option<BlobId> = None;
    while !objects.is_empty() {
        let rows = store.blobs_after(after.clone(), ROWS).await.map_err(server::store_failure)?;
        let Some(last) = rows.last() else { break };
        after = Some(last.blob_id.clone());
        for row in rows.iter().filter(|row| row.live) {
            objects.remove(&key::object_name(&row.blob_id));
        }
    }
    Ok(())
}

/// Removes references to a content whose bytes are lost, except as a file's current content, which
/// people must decide on. Returns whether nothing refers to it any more.
async fn let_go(store: &dyn MetadataStore, blob_id: &BlobId) -> Result<bool> {
    let now = server::now();
    let Some(found) = store.any_blob(blob_id).await.map_err(server::store_failure)? else {
        return Ok(false);
    };
    let stage = &found.stage.stage;
    if stage.status == StageStatus::Staged {
        let abandoned = store.abandon(&stage.owner, &stage.staging_id, now).await;
        abandoned.map_err(server::store_failure)?;
        return Ok(true);
    }
    let mut left = false;
    for attachment in &found.attachments {
        let removed = store.remove_version(&attachment.ref_id, blob_id, now).await;
        left |= !removed.map_err(server::store_failure)?;
    }
    Ok(!left)
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use vfs_sync_blobs::ObjectBlobs;
    use vfs_sync_core::content::Sha256Digest;
    use vfs_sync_store::memory::MemoryStore;
    use vfs_sync_store::{NewStage, NewUpload, Quota};

    use super::*;
    use crate::args::Database;

    const QUOTA: Quota = Quota { stored: 100, staged: 100, open_stages: 10 };

    struct Scene {
        store: Box<dyn MetadataStore>,
        blobs: ObjectBlobs,
    }

    impl Scene {
        fn new() -> Self {
            let store = Box::new(MemoryStore::new(server::now()));
            Self { store, blobs: ObjectBlobs::memory() }
        }

        async fn put(&self, name: &str) {
            let blob_id = BlobId::new(name).unwrap();
            self.blobs.put(&blob_id, "bytes".into()).await.unwrap();
        }

        async fn register(&self, name: &str) {
            let (alice, now) = ("alice".parse().unwrap(), server::now());
            let stage = NewStage {
                staging_id: name.parse().unwrap(),
                blob_id: name.parse().unwrap(),
                expires_at: now.plus_millis(60_000),
                expiry_chosen: false,
                content_type: None,
                size: 0,
            };
            self.store.open_stage(&alice, &stage, &QUOTA, now).await.unwrap();
            let digest = Sha256Digest(Sha256::digest("bytes").into());
            let upload = NewUpload { size: 5, digest, lease: None };
            let recorded =
                self.store.record_upload(&alice, &stage.staging_id, &upload, &QUOTA, now);
            recorded.await.unwrap();
        }

        /// Repairs with a given list of objects; returns what it found.
        async fn repair(&self, listed: Listing) -> Vec<OrphanKind> {
            let database = Database { data: None };
            let args = BlobsCheck { database, repair: true, digests: true, older_than: 0 };
            let report = compare(&*self.store, &self.blobs, listed, &args).await.unwrap();
            report.orphans.iter().map(|orphan| orphan.kind).collect()
        }

        async fn is_whole(&self, name: &str) -> bool {
            let blob_id = BlobId::new(name).unwrap();
            let registered = self.store.readable_blob(&"alice".parse().unwrap(), &blob_id).await;
            registered.unwrap().is_some() && self.blobs.get(&blob_id, None).await.is_ok()
        }
    }

    #[tokio::test]
    async fn what_came_after_the_objects_were_listed_is_not_missing() {
        let scene = Scene::new();
        scene.put("b").await;
        scene.register("b").await;
        assert_eq!(scene.repair(futures::stream::empty().boxed()).await, []);
        assert!(scene.is_whole("b").await);
        scene.register("lost").await;
        let found = scene.repair(scene.blobs.list()).await;
        assert_eq!(found, [OrphanKind::MissingBytes]);
        assert!(scene.is_whole("b").await && !scene.is_whole("lost").await);
    }

    #[tokio::test]
    async fn bytes_that_are_no_longer_those_of_their_digest_are_told_and_left() {
        let scene = Scene::new();
        scene.put("good").await;
        scene.register("good").await;
        let blob_id = BlobId::new("bad").unwrap();
        scene.blobs.put(&blob_id, "bytez".into()).await.unwrap();
        scene.register("bad").await;
        assert_eq!(scene.repair(scene.blobs.list()).await, [OrphanKind::RottenBytes]);
        assert!(scene.is_whole("good").await && scene.is_whole("bad").await);
    }

    #[tokio::test]
    async fn an_object_that_is_registered_again_meanwhile_stays() {
        let scene = Scene::new();
        for name in ["b", "stranger"] {
            scene.put(name).await;
        }
        let mut objects: BTreeMap<String, Object> = scene
            .blobs
            .list()
            .map_ok(|object| (object.name.clone(), object))
            .try_collect()
            .await
            .unwrap();
        scene.register("b").await;
        forget_registered(&*scene.store, &mut objects).await.unwrap();
        assert_eq!(objects.keys().collect::<Vec<_>>(), ["stranger"]);
        assert_eq!(scene.repair(scene.blobs.list()).await, [OrphanKind::UnknownObject]);
        assert!(scene.is_whole("b").await);
    }
}
