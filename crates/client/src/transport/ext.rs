//! The typed calls over [`Transport`].

use async_trait::async_trait;
use bytes::Bytes;
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::id::{BlobId, ItemId, ReplicaId, StagingId};
use vfs_sync_core::limits::Limits;
use vfs_sync_core::wire::telemetry::TelemetryRequest;
use vfs_sync_core::wire::trash::{PurgeResponse, RestoreResponse, TrashPage};
use vfs_sync_core::wire::{
    AttachRequest, AttachResponse, PullPage, PushRequest, PushResponse, ReconcileRequest,
    ReconcileResponse, StageRequest, StageResponse, StateResponse, UploadResponse,
    VersionsResponse,
};

use super::call::{Answer, BatchFile, ByteStream, Call, CallKind, PullQuery, Transport};
use super::error::{Result, TransportError};
use super::events::EventStream;

macro_rules! answer {
    ($transport:ident, $kind:ident, $call:expr) => {
        match $transport.call($call).await? {
            Answer::$kind(answer) => Ok(answer),
            _ => Err(TransportError::MalformedResponse {
                call: CallKind::$kind.as_str(),
                field: "body".into(),
                reason: "answers another call".into(),
            }),
        }
    };
}

/// A typed method for each [`Call`], with the errors of [`Transport::call`]. An answer of the wrong
/// kind is [`TransportError::MalformedResponse`].
#[async_trait]
pub trait TransportExt: Transport {
    /// Pushes operations: `POST /v1/vfs/crdt/push`.
    async fn push(&self, request: &PushRequest) -> Result<PushResponse> {
        answer!(self, Push, Call::Push(request.clone()))
    }

    /// Pulls a page of the feed: `GET /v1/vfs/crdt/vfs-sync`.
    async fn pull(&self, query: &PullQuery) -> Result<PullPage> {
        answer!(self, Pull, Call::Pull(query.clone()))
    }

    /// Reports the applied cursor: `POST /v1/vfs/crdt/reconcile`.
    async fn reconcile(&self, request: &ReconcileRequest) -> Result<ReconcileResponse> {
        answer!(self, Reconcile, Call::Reconcile(request.clone()))
    }

    /// Asks for the server's state of a replica: `GET /v1/vfs/crdt/state`.
    async fn state(&self, client_id: &ReplicaId) -> Result<StateResponse> {
        answer!(self, State, Call::State(client_id.clone()))
    }

    /// Asks for the server's limits: `GET /v1/vfs/limits`.
    async fn limits(&self) -> Result<Limits> {
        answer!(self, Limits, Call::Limits).map(|limits| *limits)
    }

    /// Opens a stage: `POST /v1/vfs/blobs/stage`.
    async fn stage(&self, request: &StageRequest) -> Result<StageResponse> {
        answer!(self, Stage, Call::Stage(request.clone()))
    }

    /// Uploads a stage's bytes, verified against `digest`: `PUT /v1/vfs/blobs/stage/{stagingId}/data`.
    async fn upload(
        &self,
        staging_id: &StagingId,
        size: u64,
        digest: Sha256Digest,
        data: ByteStream,
    ) -> Result<UploadResponse> {
        let staging_id = staging_id.clone();
        answer!(self, Upload, Call::Upload { staging_id, size, digest, data })
    }

    /// Asks for the state of a stage: `GET /v1/vfs/blobs/stage/{stagingId}`.
    async fn stage_state(&self, staging_id: &StagingId) -> Result<StageResponse> {
        answer!(self, StageState, Call::StageState(staging_id.clone()))
    }

    /// Opens the stage and a resumable upload of `size` bytes, or returns the existing ones: `POST
    /// /v1/vfs/blobs/uploads`. Returns the number of bytes that the server has.
    async fn open_upload(&self, stage: &StageRequest, size: u64) -> Result<u64> {
        answer!(self, OpenUpload, Call::OpenUpload { stage: stage.clone(), size })
    }

    /// Appends the bytes from `offset` to the end at `size`: `PATCH
    /// /v1/vfs/blobs/uploads/{stagingId}`.
    async fn append(
        &self,
        staging_id: &StagingId,
        offset: u64,
        size: u64,
        data: ByteStream,
    ) -> Result<()> {
        let staging_id = staging_id.clone();
        answer!(self, Append, Call::Append { staging_id, offset, size, data })
    }

    /// Attaches a stage to an item: `POST /v1/vfs/blobs/stage/{stagingId}/attach`.
    async fn attach(
        &self,
        staging_id: &StagingId,
        request: &AttachRequest,
    ) -> Result<AttachResponse> {
        let (staging_id, request) = (staging_id.clone(), request.clone());
        answer!(self, Attach, Call::Attach { staging_id, request })
    }

    /// Stages and attaches small files: `POST /v1/vfs/blobs/batch`. Returns one result for each file, in
    /// the order sent.
    async fn blob_batch(&self, files: Vec<BatchFile>) -> Result<Vec<Result<AttachResponse>>> {
        answer!(self, BlobBatch, Call::BlobBatch(files))
    }

    /// Lists an item's versions: `GET /v1/vfs/items/{itemId}/versions`.
    async fn versions(&self, item_id: &ItemId) -> Result<VersionsResponse> {
        answer!(self, Versions, Call::Versions(item_id.clone()))
    }

    /// Lists a page of restorable items, from `cursor` on: `GET /v1/vfs/trash`.
    async fn trash(&self, cursor: Option<&str>, limit: u32) -> Result<TrashPage> {
        answer!(self, Trash, Call::Trash { cursor: cursor.map(str::to_owned), limit })
    }

    /// Restores a deleted item: `POST /v1/vfs/trash/{itemId}/restore`.
    async fn restore(&self, item_id: &ItemId, recursive: bool) -> Result<RestoreResponse> {
        answer!(self, Restore, Call::Restore { item_id: item_id.clone(), recursive })
    }

    /// Removes a deleted item for good: `DELETE /v1/vfs/trash/{itemId}`.
    async fn purge(&self, item_id: &ItemId, recursive: bool) -> Result<PurgeResponse> {
        answer!(self, Purge, Call::Purge { item_id: item_id.clone(), recursive })
    }

    /// Reads many small blobs: `POST /v1/vfs/blobs/batch/read`. Returns one outcome for each, in
    /// the order of the request, with unverified bytes; `None` if the server or the transport lacks
    /// the call, so that each blob has to be downloaded.
    async fn read_blobs(&self, blobs: &[BlobId]) -> Result<Option<Vec<Result<Bytes>>>> {
        answer!(self, ReadBlobs, Call::ReadBlobs(blobs.to_vec()))
    }

    /// Downloads a blob from byte `offset` to its end: `GET /v1/vfs/blobs/{blobId}`. `offset` is below the
    /// blob's size, or 0.
    async fn download(&self, blob_id: &BlobId, offset: u64) -> Result<ByteStream> {
        answer!(self, Download, Call::Download { blob_id: blob_id.clone(), offset })
    }

    /// Opens the stream of live updates: `GET /v1/vfs/crdt/events`. A server or a transport without
    /// the call answers with the status 404 or 405.
    async fn events(&self, client_id: &ReplicaId) -> Result<EventStream> {
        answer!(self, Events, Call::Events(client_id.clone()))
    }

    /// Reports violations and stops: `POST /v1/vfs/telemetry`. A server or a transport without the
    /// call answers with the status 404 or 405.
    async fn telemetry(&self, request: &TelemetryRequest) -> Result<()> {
        answer!(self, Telemetry, Call::Telemetry(request.clone()))
    }
}

impl<T: Transport + ?Sized> TransportExt for T {}
