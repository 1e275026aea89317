//! Many small files in one request.

use axum::Json;
use axum::extract::{Extension, State};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::join_all;
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::id::{BlobId, StagingId, UserId};
use vfs_sync_core::limits;
use vfs_sync_core::server::stage::StageRow;
use vfs_sync_core::wire::{
    AttachRequest, BlobBatchAttached, BlobBatchError, BlobBatchFile, BlobBatchRequest,
    BlobBatchResponse, BlobBatchResult, BlobBatchStatus, UploadResponse,
};

use crate::admission::fair_store::complete_for;
use crate::admission::rates::Origin;
use crate::blobs::stage::{self, StageOrder};
use crate::error::ApiError;
use crate::http::extract::RawBody;
use crate::http::observe::RequestId;
use crate::state::App;

/// The number of files that are uploaded in parts at one time, if the store needs that.
const IN_PARTS_AT_A_TIME: usize = 8;

pub(crate) async fn batch(
    State(app): State<App>,
    origin: Origin,
    Extension(id): Extension<RequestId>,
    raw: RawBody,
) -> Result<Json<BlobBatchResponse>, ApiError> {
    let user = origin.user.clone();
    let max = limits::MAX_BLOB_BATCH_BYTES;
    let held = app.reader(&user).json_bytes(&raw.headers, raw.body, max).await?;
    let request: BlobBatchRequest = crate::http::body::parse(&held.bytes)?;
    let count = request.files.len();
    if count > limits::MAX_BLOB_BATCH {
        let max = limits::MAX_BLOB_BATCH;
        return Err(ApiError::too_large(format!(
            "A batch has at most {max} files, this one {count}"
        ))
        .with("maxFiles", max));
    }
    app.rates.operations(&origin, count)?;
    // A caller who disconnects leaves no file half-written.
    let results = complete_for(&user.clone(), async move {
        let results = all_files(&app, &user, request.files).await;
        drop(held);
        results
    })
    .await?;
    let results = results.into_iter().map(|(names, outcome)| told(names, outcome, &id)).collect();
    Ok(Json(BlobBatchResponse { results }))
}

type Names = (StagingId, BlobId);
type Outcome<T> = (Names, Result<T, ApiError>);

/// A file whose stage is open.
struct Opened {
    stage: StageRow,
    bytes: Bytes,
    digest: Option<Sha256Digest>,
    attach: AttachRequest,
}

/// A file whose bytes are in the object store.
struct Written {
    stage: StageRow,
    upload: UploadResponse,
    attach: AttachRequest,
}

/// Takes the files through each step together: the transactions of a step share a commit, and the
/// bytes of all files share a wait for the disk.
async fn all_files(
    app: &App,
    user: &UserId,
    files: Vec<BlobBatchFile>,
) -> Vec<Outcome<BlobBatchAttached>> {
    let files = files.into_iter().enumerate();
    let opened: Vec<Outcome<Opened>> =
        join_all(files.map(|(at, file)| open(app, user, at, file))).await;
    let written = write(app, user, opened).await;
    let attached = written
        .into_iter()
        .map(|(names, written)| async move { (names, attach(app, user, written).await) });
    join_all(attached).await
}

async fn open(app: &App, user: &UserId, at: usize, file: BlobBatchFile) -> Outcome<Opened> {
    let staging_id = file.staging_id.unwrap_or_else(|| app.environment.new_staging_id());
    let names = (staging_id.clone(), file.blob_id.clone());
    let opened = async {
        let bytes = stage::inline(&format!("files[{at}].dataBase64"), &file.data_base64)?;
        let order = StageOrder {
            staging_id,
            blob_id: file.blob_id,
            expires_at: None,
            content_type: file.content_type,
            size: bytes.len() as u64,
        };
        let stage = stage::open(app, user, order).await?;
        Ok(Opened { stage, bytes, digest: file.digest, attach: file.attach })
    };
    (names, opened.await)
}

/// Writes the bytes of opened stages to the object store.
async fn write(app: &App, user: &UserId, opened: Vec<Outcome<Opened>>) -> Vec<Outcome<Written>> {
    let mut written = Vec::with_capacity(opened.len());
    let (mut puts, mut places) = (Vec::new(), Vec::new());
    for (names, opened) in opened {
        let checked = opened.and_then(|Opened { stage, bytes, digest, attach }| {
            let upload = stage::check_bytes(app, &stage, &bytes, digest)?;
            if stage.uploaded.is_none() {
                puts.push((stage.clone(), bytes));
                places.push(written.len());
            }
            Ok(Written { stage, upload, attach })
        });
        written.push((names, checked));
    }
    for (at, put) in places.into_iter().zip(put_all(app, user, puts).await) {
        if let Err(error) = put {
            written[at].1 = Err(error);
        }
    }
    written
}

async fn put_all(
    app: &App,
    user: &UserId,
    puts: Vec<(StageRow, Bytes)>,
) -> Vec<Result<(), ApiError>> {
    if app.blobs.writes_once() {
        let puts = puts.into_iter().map(|(stage, bytes)| (stage.blob_id, bytes)).collect();
        let outcomes = app.blobs.put_many(puts).await;
        return outcomes.into_iter().map(|put| put.map_err(ApiError::from)).collect();
    }
    let puts = puts
        .into_iter()
        .map(|(stage, bytes)| async move { stage::put_in_parts(app, user, &stage, bytes).await });
    futures::stream::iter(puts).buffered(IN_PARTS_AT_A_TIME).collect().await
}

async fn attach(
    app: &App,
    user: &UserId,
    written: Result<Written, ApiError>,
) -> Result<BlobBatchAttached, ApiError> {
    let Written { stage, upload, attach } = written?;
    stage::record(app, user, &stage, &upload).await?;
    let attached = stage::attach(app, user, &stage.staging_id, &attach).await?;
    Ok(BlobBatchAttached {
        size: upload.size,
        digest: upload.digest,
        item_id: attached.item_id,
        relation_kind: attached.relation_kind,
        ref_id: attached.ref_id,
        attached_at: attached.attached_at,
        modified_at: attached.modified_at,
    })
}

/// Converts a file's outcome to its result in the answer.
fn told(
    (staging_id, blob_id): Names,
    outcome: Result<BlobBatchAttached, ApiError>,
    request: &RequestId,
) -> BlobBatchResult {
    let (status, attached, error) = match outcome {
        Ok(attached) => (BlobBatchStatus::Attached, Some(attached), None),
        Err(error) => {
            let http_status = error.status.as_u16();
            let error = BlobBatchError { http_status, body: error.body(&request.0) };
            (BlobBatchStatus::Failed, None, Some(error))
        }
    };
    BlobBatchResult { staging_id, blob_id, status, attached, error }
}
