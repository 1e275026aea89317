//! A transport that can be cut, as by a train going into a tunnel.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use vfs_sync_client::transport::{BatchFile, ByteStream, PullQuery};
use vfs_sync_client::{Transport, TransportError};
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::id::{BlobId, ItemId, ReplicaId, StagingId};
use vfs_sync_core::limits::Limits;
use vfs_sync_core::wire::{
    AttachRequest, AttachResponse, PullPage, PushRequest, PushResponse, ReconcileRequest,
    ReconcileResponse, StageRequest, StageResponse, StateResponse, UploadResponse,
    VersionsResponse,
};

/// Passes every call on, unless it is cut.
pub(super) struct Cuttable {
    inner: Arc<dyn Transport>,
    cut: AtomicBool,
}

impl Cuttable {
    pub(super) fn new(inner: Arc<dyn Transport>) -> Self {
        Self { inner, cut: AtomicBool::new(false) }
    }

    pub(super) fn set_cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::SeqCst);
    }

    fn line(&self) -> Result<&dyn Transport, TransportError> {
        if self.cut.load(Ordering::SeqCst) {
            return Err(TransportError::network("the network is cut"));
        }
        Ok(&*self.inner)
    }
}

#[async_trait]
impl Transport for Cuttable {
    async fn push(&self, request: &PushRequest) -> Result<PushResponse, TransportError> {
        self.line()?.push(request).await
    }
    async fn pull(&self, query: &PullQuery) -> Result<PullPage, TransportError> {
        self.line()?.pull(query).await
    }
    async fn reconcile(
        &self,
        request: &ReconcileRequest,
    ) -> Result<ReconcileResponse, TransportError> {
        self.line()?.reconcile(request).await
    }
    async fn state(&self, client_id: &ReplicaId) -> Result<StateResponse, TransportError> {
        self.line()?.state(client_id).await
    }
    async fn limits(&self) -> Result<Limits, TransportError> {
        self.line()?.limits().await
    }
    async fn stage(&self, request: &StageRequest) -> Result<StageResponse, TransportError> {
        self.line()?.stage(request).await
    }
    async fn upload(
        &self,
        staging_id: &StagingId,
        size: u64,
        digest: Sha256Digest,
        data: ByteStream,
    ) -> Result<UploadResponse, TransportError> {
        self.line()?.upload(staging_id, size, digest, data).await
    }
    async fn stage_state(&self, staging_id: &StagingId) -> Result<StageResponse, TransportError> {
        self.line()?.stage_state(staging_id).await
    }
    async fn open_upload(&self, stage: &StageRequest, size: u64) -> Result<u64, TransportError> {
        self.line()?.open_upload(stage, size).await
    }
    async fn append(
        &self,
        staging_id: &StagingId,
        offset: u64,
        size: u64,
        data: ByteStream,
    ) -> Result<(), TransportError> {
        self.line()?.append(staging_id, offset, size, data).await
    }
    async fn attach(
        &self,
        staging_id: &StagingId,
        request: &AttachRequest,
    ) -> Result<AttachResponse, TransportError> {
        self.line()?.attach(staging_id, request).await
    }
    async fn blob_batch(
        &self,
        files: Vec<BatchFile>,
    ) -> Result<Vec<Result<AttachResponse, TransportError>>, TransportError> {
        self.line()?.blob_batch(files).await
    }
    async fn versions(&self, item_id: &ItemId) -> Result<VersionsResponse, TransportError> {
        self.line()?.versions(item_id).await
    }

    async fn download(&self, blob_id: &BlobId, offset: u64) -> Result<ByteStream, TransportError> {
        self.line()?.download(blob_id, offset).await
    }
}
