//! Calls and answers as JSON.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use serde::Serialize;
use serde_json::{Value, json};
use vfs_sync_client::TransportError;
use vfs_sync_client::core::cursor::Cursor;
use vfs_sync_client::core::id::ReplicaId;
use vfs_sync_client::core::wire::{
    AttachResponse, BlobBatchAttached, BlobBatchError, BlobBatchResponse, BlobBatchResult,
    BlobBatchStatus, ErrorBody, ReconcileResponse, WriteIds,
};
use vfs_sync_client::transport::{
    Answer, BatchFile, ByteStream, Call, CallKind, batch_request, batch_results, read_answer,
};

use super::{ForeignAnswer, MAX_DATA, MAX_RETRY_AFTER};

type Sent<T> = std::result::Result<T, TransportError>;

/// Converts a name to the spelling of the host languages.
pub(super) fn camel(snake: &str) -> String {
    let mut name = String::with_capacity(snake.len());
    let mut upper = false;
    for letter in snake.chars() {
        if letter == '_' {
            upper = true;
        } else if upper {
            name.extend(letter.to_uppercase());
            upper = false;
        } else {
            name.push(letter);
        }
    }
    name
}

async fn gathered(mut stream: ByteStream) -> Sent<Bytes> {
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|error| TransportError::network(error.to_string()))?;
        if bytes.len() + chunk.len() > MAX_DATA {
            return Err(TransportError::TooLarge("more than 64 MiB for this transport".into()));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.into())
}

fn of_bytes(bytes: Bytes) -> ByteStream {
    Box::pin(futures::stream::iter([Ok(bytes)]))
}

fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// A call that can be made again: its bytes are in memory.
pub(super) struct Kept {
    /// The call without its bytes, and with a lock, because a stream is not shared by threads.
    call: Mutex<Call>,
    pub(super) data: Option<Bytes>,
}

impl Kept {
    /// Takes the bytes of a call into memory.
    pub(super) async fn of(mut call: Call) -> Sent<Self> {
        let data = match &mut call {
            Call::Upload { data, .. } | Call::Append { data, .. } => {
                Some(gathered(std::mem::replace(data, of_bytes(Bytes::new()))).await?)
            }
            _ => None,
        };
        Ok(Self { call: Mutex::new(call), data })
    }

    fn call(&self) -> MutexGuard<'_, Call> {
        self.call.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn kind(&self) -> CallKind {
        self.call().kind()
    }

    fn bytes(&self) -> ByteStream {
        of_bytes(self.data.clone().unwrap_or_default())
    }

    /// Returns the arguments of the call as JSON.
    pub(super) fn body(&self) -> String {
        let json = match &*self.call() {
            Call::Push(request) => return to_json(request),
            Call::Reconcile(request) => return to_json(request),
            Call::Stage(request) => return to_json(request),
            Call::BlobBatch(files) => return to_json(&batch_request(files)),
            Call::Pull(query) => json!({
                "clientId": query.client_id, "cursor": query.cursor, "baseline": query.baseline,
                "head": query.head, "limit": query.limit,
            }),
            Call::State(client_id) | Call::Events(client_id) => json!({ "clientId": client_id }),
            Call::Limits => json!({}),
            Call::Upload { staging_id, size, digest, .. } => {
                json!({ "stagingId": staging_id, "size": size, "digest": digest })
            }
            Call::StageState(staging_id) => json!({ "stagingId": staging_id }),
            Call::OpenUpload { stage, size } => json!({ "stage": stage, "size": size }),
            Call::Append { staging_id, offset, size, .. } => {
                json!({ "stagingId": staging_id, "offset": offset, "size": size })
            }
            Call::Attach { staging_id, request } => {
                json!({ "stagingId": staging_id, "request": request })
            }
            Call::Versions(item_id) => json!({ "itemId": item_id }),
            Call::Trash { cursor, limit } => json!({ "cursor": cursor, "limit": limit }),
            Call::Restore { item_id, recursive } | Call::Purge { item_id, recursive } => {
                json!({ "itemId": item_id, "recursive": recursive })
            }
            Call::ReadBlobs(blobs) => json!({ "blobIds": blobs }),
            Call::Download { blob_id, offset } => json!({ "blobId": blob_id, "offset": offset }),
            Call::Telemetry(request) => return to_json(request),
        };
        json.to_string()
    }

    /// Returns the call, to make it once more.
    pub(super) fn again(&self) -> Call {
        self.call().with_data(self.bytes())
    }

    fn files(&self) -> Vec<BatchFile> {
        match &*self.call() {
            Call::BlobBatch(files) => files.clone(),
            _ => Vec::new(),
        }
    }

    /// Converts the answer to this call to JSON.
    pub(super) async fn answered(&self, answer: Answer) -> Sent<ForeignAnswer> {
        let mut data = None;
        let body = match answer {
            Answer::Push(body) => to_json(&body),
            Answer::Pull(body) => to_json(&body),
            Answer::Reconcile(body) => to_json(&body),
            Answer::State(body) => to_json(&body),
            Answer::Limits(body) => to_json(&body),
            Answer::Stage(body) | Answer::StageState(body) => to_json(&body),
            Answer::Upload(body) => to_json(&body),
            Answer::Attach(body) => to_json(&body),
            Answer::Versions(body) => to_json(&body),
            Answer::Trash(body) => to_json(&body),
            Answer::Restore(body) => to_json(&body),
            Answer::Purge(body) => to_json(&body),
            Answer::OpenUpload(offset) => json!({ "offset": offset }).to_string(),
            Answer::BlobBatch(results) => {
                let results = results.into_iter().zip(self.files());
                let results = results.map(|(result, file)| batch_result(&file, result)).collect();
                to_json(&BlobBatchResponse { results })
            }
            Answer::Download(stream) => {
                data = Some(gathered(stream).await?);
                "{}".into()
            }
            Answer::Append(())
            | Answer::ReadBlobs(_)
            | Answer::Events(_)
            | Answer::Telemetry(()) => "{}".into(),
        };
        Ok(ForeignAnswer { status: 200, body, data, retry_after: None })
    }

    /// Reads the answer that a foreign transport gave, as strictly as that of a server.
    pub(super) fn read(&self, answer: ForeignAnswer) -> Sent<Answer> {
        let ForeignAnswer { status, body, data, retry_after } = answer;
        let retry_after = retry_after
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .map(|time| time.min(MAX_RETRY_AFTER));
        let kind = self.kind();
        let body = body.as_bytes();
        macro_rules! parsed {
            ($of:ty) => {
                read_answer::<$of>(kind.as_str(), status, retry_after, body)
            };
        }
        Ok(match kind {
            CallKind::Push => Answer::Push(parsed!(_)?),
            CallKind::Pull => Answer::Pull(parsed!(_)?),
            CallKind::Reconcile => {
                let Reconciled { client_id, cursor, last_reconciled_write_ids } = parsed!(_)?;
                Answer::Reconcile(ReconcileResponse {
                    client_id,
                    cursor,
                    last_reconciled_write_ids,
                })
            }
            CallKind::State => Answer::State(parsed!(_)?),
            CallKind::Limits => Answer::Limits(parsed!(_)?),
            CallKind::Stage => Answer::Stage(parsed!(_)?),
            CallKind::StageState => Answer::StageState(parsed!(_)?),
            CallKind::Upload => Answer::Upload(parsed!(_)?),
            CallKind::Attach => Answer::Attach(parsed!(_)?),
            CallKind::Versions => Answer::Versions(parsed!(_)?),
            CallKind::Trash => Answer::Trash(parsed!(_)?),
            CallKind::Restore => Answer::Restore(parsed!(_)?),
            CallKind::Purge => Answer::Purge(parsed!(_)?),
            CallKind::OpenUpload => Answer::OpenUpload(parsed!(Opened)?.offset),
            CallKind::BlobBatch => Answer::BlobBatch(batch_results(parsed!(_)?, self.files())?),
            CallKind::Append => {
                parsed!(Value)?;
                Answer::Append(())
            }
            CallKind::Download => {
                parsed!(Value)?;
                Answer::Download(of_bytes(data.unwrap_or_default()))
            }
            CallKind::ReadBlobs => Answer::ReadBlobs(None),
            CallKind::Events | CallKind::Telemetry => {
                return Err(TransportError::unsupported(kind.as_str()));
            }
        })
    }
}

/// The answer to a reconcile with no optional fields: one that omits the write ids has acknowledged
/// none.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reconciled {
    client_id: ReplicaId,
    cursor: Cursor,
    last_reconciled_write_ids: WriteIds,
}

/// The offset at which an upload begins.
#[derive(serde::Deserialize)]
struct Opened {
    offset: u64,
}

fn batch_result(file: &BatchFile, result: Sent<AttachResponse>) -> BlobBatchResult {
    let (staging_id, blob_id) = (file.staging_id.clone(), file.blob_id.clone());
    match result {
        Ok(attached) => BlobBatchResult {
            staging_id,
            blob_id,
            status: BlobBatchStatus::Attached,
            attached: Some(BlobBatchAttached {
                size: u64::try_from(file.data.len()).unwrap_or(u64::MAX),
                digest: file.digest,
                item_id: attached.item_id,
                relation_kind: attached.relation_kind,
                ref_id: attached.ref_id,
                attached_at: attached.attached_at,
                modified_at: attached.modified_at,
            }),
            error: None,
        },
        Err(error) => {
            let (http_status, body) = match error {
                TransportError::Refused { status, code, message, details } => {
                    (status, ErrorBody { error: message, code, request_id: None, details })
                }
                other => {
                    let (error, code) = (other.to_string(), "unavailable".to_owned());
                    let details = serde_json::Map::new();
                    (503, ErrorBody { error, code, request_id: None, details })
                }
            };
            let error = Some(BlobBatchError { http_status, body });
            let status = BlobBatchStatus::Failed;
            BlobBatchResult { staging_id, blob_id, status, attached: None, error }
        }
    }
}
