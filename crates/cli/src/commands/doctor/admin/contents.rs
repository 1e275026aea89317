//! Checks of the store of contents: its rights one by one, and the registry against its objects.

use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use vfs_sync_blobs::{BlobError, BlobOperation, BlobStore, ObjectBlobs};
use vfs_sync_core::id::BlobId;
use vfs_sync_store::{BlobSummary, Extent, MetadataStore};

use super::super::check::Check;
use super::{Ground, random_place};
use crate::commands::operator::blobs::{OrphanKind, Report, compare, is_missing};
use crate::error::Failure;
use crate::output::{count_text, counted};
use crate::server;

/// Contents of a sample.
const SAMPLE: u32 = 200;
/// Contents that are looked for at a time.
const AT_ONCE: usize = 8;
/// Contents that are named.
const SHOWN: usize = 20;
/// The age of an object, in seconds, from which it must be registered: writes in progress have none yet.
const OLD_ENOUGH: u64 = 3_600;

pub(super) async fn checks(
    ground: &Ground<'_>,
    store: &Arc<dyn MetadataStore>,
    checks: &mut Vec<Check>,
) {
    const STORE: &str = "contents.store";
    ground.progress.set("contents".to_owned());
    let (place, blobs) = match server::unprobed_blobs(ground.data()) {
        Ok(Some(found)) => found,
        Ok(None) => {
            checks.push(Check::skipped(STORE, "no store of contents is configured here"));
            return;
        }
        Err(failure) => {
            checks.push(Check::problem(STORE, failure.message).next(ground.command("blobs check")));
            return;
        }
    };
    let check = rights(ground, &place, &blobs).await;
    let is_usable = !check.is_problem();
    checks.push(check);
    if !is_usable {
        checks.push(Check::skipped("contents.registry", "the store of contents cannot be used"));
        return;
    }
    let check = match ground.extent {
        Extent::All => whole(ground, &**store, &blobs).await,
        Extent::Sample { .. } | Extent::User(_) => sample(ground, &**store, &blobs).await,
    };
    checks.push(check.unwrap_or_else(|failure| {
        Check::problem("contents.registry", failure.message).next(ground.command("blobs check"))
    }));
}

/// Tries each right that a server needs. The probe is an object of a name of its own, which is removed.
async fn rights(ground: &Ground<'_>, place: &str, blobs: &ObjectBlobs) -> Check {
    const ID: &str = "contents.store";
    let probed = blobs.probe().await;
    let missing = BlobId::new(format!("doctor-{}", uuid::Uuid::now_v7())).ok();
    let right = |outcome: Option<BlobError>| match outcome {
        None => "ok".to_owned(),
        Some(error) => error.storage_code,
    };
    let listed = blobs.list().next().await.and_then(Result::err);
    let (mut read, mut deleted) = (None, None);
    if let (Err(_), Some(id)) = (&probed, &missing) {
        // An object that is not there says who may read and delete.
        let is_absent = |error: &BlobError| error.storage_code == "NoSuchKey";
        read = blobs.get(id, None).await.err().filter(|error| !is_absent(error));
        deleted = blobs.delete(id).await.err();
    }
    let written = probed.as_ref().err().filter(|error| error.operation == BlobOperation::Persist);
    let check = match (&probed, &listed) {
        (Ok(()), None) => {
            Check::ok(ID, format!("{place} takes, gives, lists and removes contents"))
        }
        (Err(error), _) | (Ok(()), Some(error)) => {
            let text = format!("{place} cannot be used: {error}");
            let check = Check::problem(ID, text).text("error", error.to_string());
            let check = check.explained(&error.storage_code).next(ground.command("blobs check"));
            match error.hint {
                Some(hint) => check.text("hint", hint),
                None => check,
            }
        }
    };
    check
        .name("place", place)
        .with("write", right(written.cloned()))
        .with("read", right(read))
        .with("delete", right(deleted))
        .with("list", right(listed))
        .with("writesOnce", blobs.writes_once())
}

/// Looks for the objects of some registered contents.
async fn sample(
    ground: &Ground<'_>,
    store: &dyn MetadataStore,
    blobs: &dyn BlobStore,
) -> Result<Check, Failure> {
    const ID: &str = "contents.registry";
    let place = BlobId::new(random_place()).ok();
    let mut rows = store.blobs_after(place, SAMPLE).await.map_err(server::store_failure)?;
    if rows.len() < SAMPLE as usize {
        let left = SAMPLE - u32::try_from(rows.len()).unwrap_or(SAMPLE);
        let more = store.blobs_after(None, left).await.map_err(server::store_failure)?;
        rows.extend(more);
    }
    rows.sort_by(|one, other| one.blob_id.cmp(&other.blob_id));
    rows.dedup_by(|one, other| one.blob_id == other.blob_id);
    let looked: Vec<BlobSummary> =
        rows.into_iter().filter(|row| row.live && row.size.is_some()).collect();
    let count = looked.len();
    let found: Vec<Option<BlobId>> = futures::stream::iter(looked)
        .map(|row| async move {
            let is_gone = is_missing(store, blobs, &row.blob_id).await?;
            Ok::<_, Failure>(is_gone.then_some(row.blob_id))
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    let missing: Vec<BlobId> = found.into_iter().flatten().collect();
    let count = counted(count as u64, "content", "contents");
    if missing.is_empty() {
        return Ok(Check::ok(ID, format!("the objects of a sample are there: {count}")));
    }
    let text = format!("{} of a sample of {count} have no object", missing.len());
    Ok(Check::problem(ID, text)
        .with("missing", missing.len())
        .name("contents", missing.iter().take(SHOWN).collect::<Vec<_>>())
        .explained("NoSuchKey")
        .next(ground.command("blobs check")))
}

/// Compares the whole registry with all objects, both ways.
async fn whole(
    ground: &Ground<'_>,
    store: &dyn MetadataStore,
    blobs: &dyn BlobStore,
) -> Result<Check, Failure> {
    const ID: &str = "contents.registry";
    let args = crate::args::BlobsCheck {
        database: crate::args::Database { data: ground.args.database.data.clone() },
        repair: false,
        digests: false,
        older_than: OLD_ENOUGH,
    };
    let Report { registered, objects, orphans } =
        compare(store, blobs, blobs.list(), &args).await?;
    let of =
        |kinds: &[OrphanKind]| orphans.iter().filter(|orphan| kinds.contains(&orphan.kind)).count();
    let missing = of(&[OrphanKind::MissingBytes]);
    let other = of(&[OrphanKind::OtherBytes, OrphanKind::RottenBytes]);
    let unknown = of(&[OrphanKind::UnknownObject, OrphanKind::Temporary]);
    let counts = format!("{} contents, {} objects", count_text(registered), count_text(objects));
    let check = if missing + other > 0 {
        let text = format!(
            "{counts}: {missing} contents have no object, {other} one of another size, {unknown} \
             objects are not registered"
        );
        let key = if missing > 0 { "NoSuchKey" } else { ID };
        let named = orphans.iter().filter_map(|orphan| orphan.blob_id.as_ref());
        Check::problem(ID, text)
            .name("contents", named.take(SHOWN).collect::<Vec<_>>())
            .explained(key)
            .next(ground.command("blobs check"))
    } else if unknown > 0 {
        let text = format!("{counts}: {unknown} objects are not registered, and take room");
        Check::note(ID, text).next(ground.command("blobs check --repair"))
    } else {
        Check::ok(ID, format!("registry and objects agree: {counts}"))
    };
    Ok(check
        .with("registered", registered)
        .with("objects", objects)
        .with("missing", missing)
        .with("otherSize", other)
        .with("unknown", unknown))
}
