//! Many small blobs in one answer.

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse as _, Response};
use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use vfs_sync_core::id::BlobId;
use vfs_sync_core::limits;
use vfs_sync_core::wire::{BLOB_READ_TYPE, BlobBatchError, BlobReadHead, BlobReadRequest};
use vfs_sync_store::BlobRow;

use crate::error::ApiError;
use crate::http::body::MAX_JSON_BYTES;
use crate::http::extract::{AuthenticatedUser, RawBody};
use crate::http::observe::RequestId;
use crate::state::App;

/// The bytes of content that a batch answer holds in memory, besides those in flight.
const AT_A_TIME: u64 = limits::MAX_INLINE_BLOB_BYTES as u64;

type Planned = (BlobId, Result<BlobRow, ApiError>);

pub(crate) async fn read_many(
    State(app): State<App>,
    AuthenticatedUser(user): AuthenticatedUser,
    Extension(request): Extension<RequestId>,
    raw: RawBody,
) -> Result<Response, ApiError> {
    let (asked, _memory): (BlobReadRequest, _) =
        app.reader(&user).json(&raw.headers, raw.body, MAX_JSON_BYTES).await?;
    let (count, max) = (asked.blob_ids.len(), limits::MAX_BLOB_BATCH);
    if count > max {
        let sentence = format!("A batch has at most {max} blobs, this one {count}");
        return Err(ApiError::too_large(sentence).with("maxFiles", max));
    }
    let rows = app.store.readable_blobs(&user, &asked.blob_ids).await?;
    let mut left = limits::MAX_BLOB_BATCH_BYTES as u64;
    let planned: Vec<Planned> = asked
        .blob_ids
        .into_iter()
        .zip(rows)
        .map(|(id, row)| {
            let row = row.ok_or_else(ApiError::unknown_blob).and_then(|row| fits(row, &mut left));
            (id, row)
        })
        .collect();
    // What is read, and the part that is put together from it.
    let memory = app.answer_memory(&user, 2 * limits::MAX_INLINE_BLOB_BYTES).await?;
    let begin = (app, planned.into_iter().peekable(), request, memory);
    let parts = futures::stream::unfold(begin, |(app, mut planned, request, memory)| async move {
        let mut group = Vec::new();
        let mut bytes = 0;
        let size = |(_, row): &Planned| row.as_ref().map_or(0, |row| row.size);
        while let Some(next) =
            planned.next_if(|next| group.is_empty() || bytes + size(next) <= AT_A_TIME)
        {
            bytes += size(&next);
            group.push(next);
        }
        if group.is_empty() {
            return None;
        }
        let part = written(&app, group, &request).await;
        Some((Ok::<_, std::convert::Infallible>(part), (app, planned, request, memory)))
    });
    let fields = [
        (CONTENT_TYPE, BLOB_READ_TYPE),
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    Ok((fields, Body::from_stream(parts)).into_response())
}

/// Checks that a blob may be part of a batch answer that has `left` bytes of room.
fn fits(row: BlobRow, left: &mut u64) -> Result<BlobRow, ApiError> {
    let refused = |sentence: &'static str, max: usize| {
        Err(ApiError::too_large(sentence).with("size", row.size).with("maxBytes", max))
    };
    if row.size > limits::MAX_INLINE_BLOB_BYTES as u64 {
        return refused("The blob is read by itself", limits::MAX_INLINE_BLOB_BYTES);
    }
    match left.checked_sub(row.size) {
        None => refused("The answer is full: ask for it again", limits::MAX_BLOB_BATCH_BYTES),
        Some(rest) => {
            *left = rest;
            Ok(row)
        }
    }
}

/// Encodes a group of blobs in the form of the batch answer.
async fn written(app: &App, group: Vec<Planned>, request: &RequestId) -> Bytes {
    let wanted: Vec<(BlobId, u64)> = group
        .iter()
        .filter_map(|(id, row)| row.as_ref().ok().map(|row| (id.clone(), row.size)))
        .collect();
    let mut objects = app.blobs.get_many(wanted).await.into_iter();
    let mut part = BytesMut::new();
    for (blob_id, row) in group {
        let found = row.and_then(|row| match objects.next() {
            Some(bytes) => Ok((bytes?, row.digest)),
            None => Err(ApiError::internal()),
        });
        let mut head = BlobReadHead { blob_id, size: None, digest: None, error: None };
        let mut content = Bytes::new();
        match found {
            Ok((bytes, digest)) => {
                (head.size, head.digest) = (Some(bytes.len() as u64), Some(digest));
                content = bytes;
            }
            Err(error) => {
                let http_status = error.status.as_u16();
                head.error = Some(BlobBatchError { http_status, body: error.body(&request.0) });
            }
        }
        let head = serde_json::to_vec(&head).expect("a head serializes");
        part.reserve(head.len() + 1 + content.len());
        part.put_slice(&head);
        part.put_u8(b'\n');
        part.put_slice(&content);
    }
    part.freeze()
}
