//! Calls and answers as values: what stands between a client and its server, and treats all calls
//! alike, is one function.

use async_trait::async_trait;
use bytes::Bytes;
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::id::{BlobId, ItemId, ReplicaId, StagingId, UserId};
use vfs_sync_core::limits::Limits;
use vfs_sync_core::wire::trash::{PurgeResponse, RestoreResponse, TrashPage};
use vfs_sync_core::wire::{
    AttachRequest, AttachResponse, PullPage, PushRequest, PushResponse, ReconcileRequest,
    ReconcileResponse, StageRequest, StageResponse, StateResponse, UploadResponse,
    VersionsResponse,
};

use super::{BatchFile, ByteStream, PullQuery, Transport, TransportError};

/// Which method of [`Transport`] a call is one of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "as the methods")]
pub enum CallKind {
    Push,
    Pull,
    Reconcile,
    State,
    Limits,
    Stage,
    Upload,
    StageState,
    OpenUpload,
    Append,
    Attach,
    BlobBatch,
    Versions,
    Trash,
    Restore,
    Purge,
    ReadBlobs,
    Download,
}

impl CallKind {
    /// The method's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Pull => "pull",
            Self::Reconcile => "reconcile",
            Self::State => "state",
            Self::Limits => "limits",
            Self::Stage => "stage",
            Self::Upload => "upload",
            Self::StageState => "stage_state",
            Self::OpenUpload => "open_upload",
            Self::Append => "append",
            Self::Attach => "attach",
            Self::BlobBatch => "blob_batch",
            Self::Versions => "versions",
            Self::Trash => "trash",
            Self::Restore => "restore",
            Self::Purge => "purge",
            Self::ReadBlobs => "read_blobs",
            Self::Download => "download",
        }
    }
}

impl std::fmt::Display for CallKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A call of [`Transport`], with its arguments.
#[allow(missing_docs, reason = "as the methods and their arguments")]
pub enum Call {
    Push(PushRequest),
    Pull(PullQuery),
    Reconcile(ReconcileRequest),
    State(ReplicaId),
    Limits,
    Stage(StageRequest),
    Upload { staging_id: StagingId, size: u64, digest: Sha256Digest, data: ByteStream },
    StageState(StagingId),
    OpenUpload { stage: StageRequest, size: u64 },
    Append { staging_id: StagingId, offset: u64, size: u64, data: ByteStream },
    Attach { staging_id: StagingId, request: AttachRequest },
    BlobBatch(Vec<BatchFile>),
    Versions(ItemId),
    Trash { cursor: Option<String>, limit: u32 },
    Restore { item_id: ItemId, recursive: bool },
    Purge { item_id: ItemId, recursive: bool },
    ReadBlobs(Vec<BlobId>),
    Download { blob_id: BlobId, offset: u64 },
}

/// What a call of [`Transport`] gave.
#[allow(missing_docs, reason = "as the methods")]
pub enum Answer {
    Push(PushResponse),
    Pull(PullPage),
    Reconcile(ReconcileResponse),
    State(StateResponse),
    Limits(Limits),
    Stage(StageResponse),
    Upload(UploadResponse),
    StageState(StageResponse),
    OpenUpload(u64),
    Append(()),
    Attach(AttachResponse),
    BlobBatch(Vec<Result<AttachResponse, TransportError>>),
    Versions(VersionsResponse),
    Trash(TrashPage),
    Restore(RestoreResponse),
    Purge(PurgeResponse),
    ReadBlobs(Option<Vec<Result<Bytes, TransportError>>>),
    Download(ByteStream),
}

impl Call {
    /// Which it is.
    #[must_use]
    pub const fn kind(&self) -> CallKind {
        match self {
            Self::Push(_) => CallKind::Push,
            Self::Pull(_) => CallKind::Pull,
            Self::Reconcile(_) => CallKind::Reconcile,
            Self::State(_) => CallKind::State,
            Self::Limits => CallKind::Limits,
            Self::Stage(_) => CallKind::Stage,
            Self::Upload { .. } => CallKind::Upload,
            Self::StageState(_) => CallKind::StageState,
            Self::OpenUpload { .. } => CallKind::OpenUpload,
            Self::Append { .. } => CallKind::Append,
            Self::Attach { .. } => CallKind::Attach,
            Self::BlobBatch(_) => CallKind::BlobBatch,
            Self::Versions(_) => CallKind::Versions,
            Self::Trash { .. } => CallKind::Trash,
            Self::Restore { .. } => CallKind::Restore,
            Self::Purge { .. } => CallKind::Purge,
            Self::ReadBlobs(_) => CallKind::ReadBlobs,
            Self::Download { .. } => CallKind::Download,
        }
    }

    /// Makes the call.
    ///
    /// # Errors
    /// What `to` answers.
    pub async fn send(self, to: &dyn Transport) -> Result<Answer, TransportError> {
        Ok(match self {
            Self::Push(request) => Answer::Push(to.push(&request).await?),
            Self::Pull(query) => Answer::Pull(to.pull(&query).await?),
            Self::Reconcile(request) => Answer::Reconcile(to.reconcile(&request).await?),
            Self::State(client_id) => Answer::State(to.state(&client_id).await?),
            Self::Limits => Answer::Limits(to.limits().await?),
            Self::Stage(request) => Answer::Stage(to.stage(&request).await?),
            Self::Upload { staging_id, size, digest, data } => {
                Answer::Upload(to.upload(&staging_id, size, digest, data).await?)
            }
            Self::StageState(staging_id) => Answer::StageState(to.stage_state(&staging_id).await?),
            Self::OpenUpload { stage, size } => {
                Answer::OpenUpload(to.open_upload(&stage, size).await?)
            }
            Self::Append { staging_id, offset, size, data } => {
                Answer::Append(to.append(&staging_id, offset, size, data).await?)
            }
            Self::Attach { staging_id, request } => {
                Answer::Attach(to.attach(&staging_id, &request).await?)
            }
            Self::BlobBatch(files) => Answer::BlobBatch(to.blob_batch(files).await?),
            Self::Versions(item_id) => Answer::Versions(to.versions(&item_id).await?),
            Self::Trash { cursor, limit } => {
                Answer::Trash(to.trash(cursor.as_deref(), limit).await?)
            }
            Self::Restore { item_id, recursive } => {
                Answer::Restore(to.restore(&item_id, recursive).await?)
            }
            Self::Purge { item_id, recursive } => {
                Answer::Purge(to.purge(&item_id, recursive).await?)
            }
            Self::ReadBlobs(blobs) => Answer::ReadBlobs(to.read_blobs(&blobs).await?),
            Self::Download { blob_id, offset } => {
                Answer::Download(to.download(&blob_id, offset).await?)
            }
        })
    }
}

/// Answers calls: by sending them on, or otherwise. It is a [`Transport`] by that.
#[async_trait]
pub trait CallHandler: Send + Sync + 'static {
    /// Answers `call`. An answer to a call of another kind is told to the caller as
    /// [`TransportError::MalformedResponse`].
    async fn handle(&self, call: Call) -> Result<Answer, TransportError>;

    /// Binds the transports that calls are sent on to, as [`Transport::meant_for`] says.
    ///
    /// # Errors
    /// The user that one of them is bound to already, if that is another.
    fn meant_for(&self, user: &UserId) -> Result<(), UserId>;
}

macro_rules! answer {
    ($handler:ident, $kind:ident, $call:expr) => {
        match $handler.handle($call).await? {
            Answer::$kind(answer) => Ok(answer),
            _ => Err(TransportError::MalformedResponse {
                call: CallKind::$kind.as_str(),
                field: "body".into(),
                reason: "answers another call".into(),
            }),
        }
    };
}

#[async_trait]
impl<H: CallHandler> Transport for H {
    fn meant_for(&self, user: &UserId) -> Result<(), UserId> {
        CallHandler::meant_for(self, user)
    }

    async fn push(&self, request: &PushRequest) -> Result<PushResponse, TransportError> {
        answer!(self, Push, Call::Push(request.clone()))
    }

    async fn pull(&self, query: &PullQuery) -> Result<PullPage, TransportError> {
        answer!(self, Pull, Call::Pull(query.clone()))
    }

    async fn reconcile(
        &self,
        request: &ReconcileRequest,
    ) -> Result<ReconcileResponse, TransportError> {
        answer!(self, Reconcile, Call::Reconcile(request.clone()))
    }

    async fn state(&self, client_id: &ReplicaId) -> Result<StateResponse, TransportError> {
        answer!(self, State, Call::State(client_id.clone()))
    }

    async fn limits(&self) -> Result<Limits, TransportError> {
        answer!(self, Limits, Call::Limits)
    }

    async fn stage(&self, request: &StageRequest) -> Result<StageResponse, TransportError> {
        answer!(self, Stage, Call::Stage(request.clone()))
    }

    async fn upload(
        &self,
        staging_id: &StagingId,
        size: u64,
        digest: Sha256Digest,
        data: ByteStream,
    ) -> Result<UploadResponse, TransportError> {
        let staging_id = staging_id.clone();
        answer!(self, Upload, Call::Upload { staging_id, size, digest, data })
    }

    async fn stage_state(&self, staging_id: &StagingId) -> Result<StageResponse, TransportError> {
        answer!(self, StageState, Call::StageState(staging_id.clone()))
    }

    async fn open_upload(&self, stage: &StageRequest, size: u64) -> Result<u64, TransportError> {
        answer!(self, OpenUpload, Call::OpenUpload { stage: stage.clone(), size })
    }

    async fn append(
        &self,
        staging_id: &StagingId,
        offset: u64,
        size: u64,
        data: ByteStream,
    ) -> Result<(), TransportError> {
        let staging_id = staging_id.clone();
        answer!(self, Append, Call::Append { staging_id, offset, size, data })
    }

    async fn attach(
        &self,
        staging_id: &StagingId,
        request: &AttachRequest,
    ) -> Result<AttachResponse, TransportError> {
        let (staging_id, request) = (staging_id.clone(), request.clone());
        answer!(self, Attach, Call::Attach { staging_id, request })
    }

    async fn blob_batch(
        &self,
        files: Vec<BatchFile>,
    ) -> Result<Vec<Result<AttachResponse, TransportError>>, TransportError> {
        answer!(self, BlobBatch, Call::BlobBatch(files))
    }

    async fn versions(&self, item_id: &ItemId) -> Result<VersionsResponse, TransportError> {
        answer!(self, Versions, Call::Versions(item_id.clone()))
    }

    async fn trash(&self, cursor: Option<&str>, limit: u32) -> Result<TrashPage, TransportError> {
        answer!(self, Trash, Call::Trash { cursor: cursor.map(str::to_owned), limit })
    }

    async fn restore(
        &self,
        item_id: &ItemId,
        recursive: bool,
    ) -> Result<RestoreResponse, TransportError> {
        answer!(self, Restore, Call::Restore { item_id: item_id.clone(), recursive })
    }

    async fn purge(
        &self,
        item_id: &ItemId,
        recursive: bool,
    ) -> Result<PurgeResponse, TransportError> {
        answer!(self, Purge, Call::Purge { item_id: item_id.clone(), recursive })
    }

    async fn read_blobs(
        &self,
        blobs: &[BlobId],
    ) -> Result<Option<Vec<Result<Bytes, TransportError>>>, TransportError> {
        answer!(self, ReadBlobs, Call::ReadBlobs(blobs.to_vec()))
    }

    async fn download(&self, blob_id: &BlobId, offset: u64) -> Result<ByteStream, TransportError> {
        answer!(self, Download, Call::Download { blob_id: blob_id.clone(), offset })
    }
}
