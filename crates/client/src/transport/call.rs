//! Calls and answers as values, and the trait that maps one to the other.

use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::cursor::Cursor;
use vfs_sync_core::id::{BlobId, ItemId, ReplicaId, StagingId, UserId};
use vfs_sync_core::limits::Limits;
use vfs_sync_core::wire::telemetry::TelemetryRequest;
use vfs_sync_core::wire::trash::{PurgeResponse, RestoreResponse, TrashPage};
use vfs_sync_core::wire::{
    AttachRequest, AttachResponse, PullPage, PushRequest, PushResponse, ReconcileRequest,
    ReconcileResponse, StageRequest, StageResponse, StateResponse, UploadResponse,
    VersionsResponse,
};

use super::error::Result;
use super::events::EventStream;
use crate::device::Device;

/// The parameters of a pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullQuery {
    /// The replica whose write id must be in the map.
    pub client_id: ReplicaId,
    /// The position up to which the feed is applied; `None` starts from the beginning.
    pub cursor: Option<Cursor>,
    /// The feed's head at the first pull, while the cursor is below it.
    pub baseline: Option<Cursor>,
    /// The newest head of the pages of a pull that is not settled.
    pub head: Option<Cursor>,
    /// The greatest number of entries: 1 to 500.
    pub limit: u32,
}

/// A stream of bytes.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes, std::io::Error>> + Send>>;

/// A small file that is staged and attached in one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchFile {
    /// The id of the stage.
    pub staging_id: StagingId,
    /// The id of the blob.
    pub blob_id: BlobId,
    /// The media type of the bytes, a hint for readers.
    pub content_type: Option<String>,
    /// The bytes of the file.
    pub data: Bytes,
    /// The digest of the bytes, which the server verifies.
    pub digest: Sha256Digest,
    /// The attach that follows: the item, the checkpoint and the content to replace.
    pub attach: AttachRequest,
}

impl CallKind {
    /// Returns the name of the call's method in [`TransportExt`](super::TransportExt).
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// A call to a server, with the arguments of its method in [`TransportExt`](super::TransportExt).
#[derive(strum::EnumDiscriminants)]
#[allow(missing_docs, reason = "as the methods of TransportExt and their arguments")]
#[strum_discriminants(name(CallKind), doc = "The kind of a [`Call`].")]
#[strum_discriminants(derive(PartialOrd, Ord, Hash, strum::Display, strum::IntoStaticStr))]
#[strum_discriminants(strum(serialize_all = "snake_case"))]
#[strum_discriminants(allow(missing_docs, reason = "as the methods of TransportExt"))]
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
    Events(ReplicaId),
    Telemetry(TelemetryRequest),
}

/// The answer to a [`Call`] of the same kind.
#[allow(missing_docs, reason = "as the methods of TransportExt")]
pub enum Answer {
    Push(PushResponse),
    Pull(PullPage),
    Reconcile(ReconcileResponse),
    State(StateResponse),
    Limits(Box<Limits>),
    Stage(StageResponse),
    Upload(UploadResponse),
    StageState(StageResponse),
    OpenUpload(u64),
    Append(()),
    Attach(AttachResponse),
    BlobBatch(Vec<Result<AttachResponse>>),
    Versions(VersionsResponse),
    Trash(TrashPage),
    Restore(RestoreResponse),
    Purge(PurgeResponse),
    ReadBlobs(Option<Vec<Result<Bytes>>>),
    Download(ByteStream),
    Events(EventStream),
    Telemetry(()),
}

impl Call {
    /// Returns the kind of the call.
    #[must_use]
    pub fn kind(&self) -> CallKind {
        self.into()
    }

    /// Copies the call, with `data` as the bytes that it uploads, if it uploads any.
    #[must_use]
    pub fn with_data(&self, data: ByteStream) -> Self {
        match self {
            Self::Push(request) => Self::Push(request.clone()),
            Self::Pull(query) => Self::Pull(query.clone()),
            Self::Reconcile(request) => Self::Reconcile(request.clone()),
            Self::State(client_id) => Self::State(client_id.clone()),
            Self::Limits => Self::Limits,
            Self::Stage(request) => Self::Stage(request.clone()),
            Self::Upload { staging_id, size, digest, .. } => {
                Self::Upload { staging_id: staging_id.clone(), size: *size, digest: *digest, data }
            }
            Self::StageState(staging_id) => Self::StageState(staging_id.clone()),
            Self::OpenUpload { stage, size } => {
                Self::OpenUpload { stage: stage.clone(), size: *size }
            }
            Self::Append { staging_id, offset, size, .. } => {
                Self::Append { staging_id: staging_id.clone(), offset: *offset, size: *size, data }
            }
            Self::Attach { staging_id, request } => {
                Self::Attach { staging_id: staging_id.clone(), request: request.clone() }
            }
            Self::BlobBatch(files) => Self::BlobBatch(files.clone()),
            Self::Versions(item_id) => Self::Versions(item_id.clone()),
            Self::Trash { cursor, limit } => Self::Trash { cursor: cursor.clone(), limit: *limit },
            Self::Restore { item_id, recursive } => {
                Self::Restore { item_id: item_id.clone(), recursive: *recursive }
            }
            Self::Purge { item_id, recursive } => {
                Self::Purge { item_id: item_id.clone(), recursive: *recursive }
            }
            Self::ReadBlobs(blobs) => Self::ReadBlobs(blobs.clone()),
            Self::Download { blob_id, offset } => {
                Self::Download { blob_id: blob_id.clone(), offset: *offset }
            }
            Self::Events(client_id) => Self::Events(client_id.clone()),
            Self::Telemetry(request) => Self::Telemetry(request.clone()),
        }
    }
}

/// The connection to a server: one call, one answer. An implementation carries calls to a server,
/// or wraps another transport and passes on, records or changes the calls.
/// [`TransportExt`](super::TransportExt) has a typed method for each call.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Answers `call` with the [`Answer`] of the same kind.
    ///
    /// # Errors
    /// [`TransportError::unsupported`](crate::TransportError::unsupported) for a call that the
    /// transport does not have, otherwise the failure of the call.
    async fn call(&self, call: Call) -> Result<Answer>;

    /// Binds the transport to the user of a replica, before its first call. From then on every
    /// request names `user`, and an answer for another user is
    /// [`TransportError::WrongUser`](crate::TransportError::WrongUser). A wrapping transport binds the
    /// inner one; this method has no default so that no wrapper forgets that.
    ///
    /// # Errors
    /// The user to which the transport is already bound, if it is another.
    fn bind_user(&self, user: &UserId) -> Result<(), UserId>;

    /// Binds the transport to the device of a replica, before its first call. From then on requests
    /// say which device they come from, so that the server can list the device and refuse it once
    /// it is revoked. A wrapping transport binds the inner one; this method has no default so that
    /// no wrapper forgets that.
    fn bind_device(&self, device: &Arc<Device>);
}
