//! What carries the protocol: one trait, so that tests and applications can put their own in.

mod call;

use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::cursor::Cursor;
use vfs_sync_core::id::{BlobId, ItemId, ReplicaId, StagingId, UserId, WriteId};
use vfs_sync_core::limits::Limits;
use vfs_sync_core::wire::code;
use vfs_sync_core::wire::trash::{PurgeResponse, RestoreResponse, TrashPage};
use vfs_sync_core::wire::{
    AttachRequest, AttachResponse, EpochEnd, PullPage, PushRequest, PushResponse, ReconcileRequest,
    ReconcileResponse, StageRequest, StageResponse, StateResponse, UploadResponse,
    VersionsResponse,
};

pub use crate::http::{
    MeantFor, batch_request, batch_results, read_answer, read_blobs_answer, token_subject,
};
pub use call::{Answer, Call, CallHandler, CallKind};

/// Why there is no answer that the protocol goes on with.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TransportError {
    /// No answer, `429` or `5xx`: the identical request may be repeated.
    #[error("the server cannot be reached or is busy: {reason}")]
    Network {
        /// What happened.
        reason: String,
        /// How long the server asks to wait.
        retry_after: Option<Duration>,
    },
    /// `401`, after the token provider was asked once more.
    #[error("the server does not accept the token: {0}")]
    Unauthorized(String),
    /// The token is of another user than the replica: of `actual`, or of nobody that the server names,
    /// as servers of earlier versions do not. Nothing was sent or taken in.
    #[error("{}", wrong_user(expected, actual.as_ref()))]
    WrongUser {
        /// The user that the replica belongs to.
        expected: UserId,
        /// The user that the token is of.
        actual: Option<UserId>,
    },
    /// `409 crdt_rematerialization_required`.
    #[error("pull requires re-materialization from canonical state")]
    RematerializationRequired {
        /// The cursor asked for.
        requested: Option<Cursor>,
        /// The oldest that the server can serve.
        oldest_available: Option<Cursor>,
        /// The epochs of the feed, ascending; older servers do not tell them.
        history: Option<Vec<EpochEnd>>,
    },
    /// `409 write_ids_ahead_of_server`.
    #[error("the server knows fewer write ids of {replica_id:?} than this client")]
    WriteIdsAhead {
        /// Whose write id it is.
        replica_id: Option<ReplicaId>,
        /// The replica's last, as the server knows it.
        last: Option<WriteId>,
    },
    /// `413`.
    #[error("the request is too large: {0}")]
    TooLarge(String),
    /// There is no such server to ask: its address is none, or TLS cannot be set up.
    #[error("{0}")]
    InvalidAddress(String),
    /// Any other refusal.
    #[error("the server refused ({status} {code}): {message}")]
    Refused {
        /// HTTP's status.
        status: u16,
        /// The error's code.
        code: String,
        /// The error's sentence.
        message: String,
        /// What else the error told.
        details: serde_json::Map<String, serde_json::Value>,
    },
    /// An answer that cannot be parsed or is not of the protocol's form.
    #[error("malformedResponse: {call}: {field} {reason}")]
    MalformedResponse {
        /// The call that was answered.
        call: &'static str,
        /// The field, as a path from the answer's root.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// The `storageCode` of an object store that has no room.
pub(crate) const STORAGE_FULL: &str = "StorageFull";

fn wrong_user(expected: &UserId, actual: Option<&UserId>) -> String {
    match actual {
        Some(actual) => format!(
            "the token is of {actual}, and this replica belongs to {expected}: nothing was exchanged"
        ),
        None => format!(
            "the server does not say whose the token is, and this replica belongs to {expected}: \
             nothing was exchanged; the server has to be upgraded"
        ),
    }
}

impl TransportError {
    /// Whether the identical request may succeed later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Network { .. })
    }

    /// Whether the server refused for a reason that is none of the request's and that somebody mends: a
    /// full disk, a quota that is used up, a row that is damaged. The identical request succeeds once that
    /// is done, and until then nothing of it may be given up.
    #[must_use]
    pub fn waits(&self) -> bool {
        match self {
            Self::Refused { status, code, .. } => *status >= 500 || code == code::QUOTA_EXCEEDED,
            _ => false,
        }
    }

    /// Whether there is no room for the bytes: on the server's disk, or in its object store.
    pub(crate) fn is_full(&self) -> bool {
        let Self::Refused { code, details, .. } = self else { return false };
        code == code::STORAGE_FULL
            || details.get("storageCode").is_some_and(|code| code == STORAGE_FULL)
    }

    /// How long the server asks to wait.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Network { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// The answer of a transport that has no such call.
    fn without(call: &str) -> Self {
        Self::Refused {
            status: 404,
            code: "not_found".into(),
            message: format!("this transport has no call {call}"),
            details: serde_json::Map::new(),
        }
    }

    /// A network error without a time to wait.
    #[must_use]
    pub fn network(reason: impl Into<String>) -> Self {
        Self::Network { reason: reason.into(), retry_after: None }
    }
}

/// What a pull asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullQuery {
    /// Whose write id must be in the map.
    pub client_id: ReplicaId,
    /// What has been applied; `None` starts from the beginning.
    pub cursor: Option<Cursor>,
    /// The feed's head at the first pull, while the cursor is below it.
    pub baseline: Option<Cursor>,
    /// The newest head of the pages of a pull that is not settled.
    pub head: Option<Cursor>,
    /// Entries at most: 1 to 500.
    pub limit: u32,
}

/// A stream of bytes.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes, std::io::Error>> + Send>>;

/// A small file that is staged and attached in one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchFile {
    /// The stage.
    pub staging_id: StagingId,
    /// The blob.
    pub blob_id: BlobId,
    /// A hint for readers.
    pub content_type: Option<String>,
    /// Its bytes.
    pub data: Bytes,
    /// Of the bytes: the server verifies it.
    pub digest: Sha256Digest,
    /// What to attach it to, behind which checkpoint, in place of what.
    pub attach: AttachRequest,
}

/// The contract with a server, one method for each call. What treats all calls alike, a proxy or a
/// recorder, is easier made as a [`CallHandler`].
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Binds the transport to the user of a replica, before its first call. From then on every request
    /// says that it is meant for `user`, and an answer that is not for `user` is
    /// [`TransportError::WrongUser`]. What stands before other transports passes it on to them.
    ///
    /// # Errors
    /// The user that the transport is bound to already, if that is another.
    fn meant_for(&self, user: &UserId) -> Result<(), UserId>;

    /// `POST /v1/vfs/crdt/push`.
    async fn push(&self, request: &PushRequest) -> Result<PushResponse, TransportError>;

    /// `GET /v1/vfs/crdt/vfs-sync`.
    async fn pull(&self, query: &PullQuery) -> Result<PullPage, TransportError>;

    /// `POST /v1/vfs/crdt/reconcile`.
    async fn reconcile(
        &self,
        request: &ReconcileRequest,
    ) -> Result<ReconcileResponse, TransportError>;

    /// `GET /v1/vfs/crdt/state`.
    async fn state(&self, client_id: &ReplicaId) -> Result<StateResponse, TransportError>;

    /// `GET /v1/vfs/limits`.
    async fn limits(&self) -> Result<Limits, TransportError>;

    /// `POST /v1/vfs/blobs/stage`.
    async fn stage(&self, request: &StageRequest) -> Result<StageResponse, TransportError>;

    /// `PUT /v1/vfs/blobs/stage/{stagingId}/data`, verified against `digest`.
    async fn upload(
        &self,
        staging_id: &StagingId,
        size: u64,
        digest: Sha256Digest,
        data: ByteStream,
    ) -> Result<UploadResponse, TransportError>;

    /// `GET /v1/vfs/blobs/stage/{stagingId}`.
    async fn stage_state(&self, staging_id: &StagingId) -> Result<StageResponse, TransportError>;

    /// `POST /v1/vfs/blobs/uploads`: opens the stage and a resumable upload of `size` bytes, or
    /// finds them. Gives how many bytes the server has.
    async fn open_upload(&self, stage: &StageRequest, size: u64) -> Result<u64, TransportError>;

    /// `PATCH /v1/vfs/blobs/uploads/{stagingId}`: the bytes from `offset` up to `size`, the end.
    async fn append(
        &self,
        staging_id: &StagingId,
        offset: u64,
        size: u64,
        data: ByteStream,
    ) -> Result<(), TransportError>;

    /// `POST /v1/vfs/blobs/stage/{stagingId}/attach`.
    async fn attach(
        &self,
        staging_id: &StagingId,
        request: &AttachRequest,
    ) -> Result<AttachResponse, TransportError>;

    /// `POST /v1/vfs/blobs/batch`: one result for each file, in the order sent.
    async fn blob_batch(
        &self,
        files: Vec<BatchFile>,
    ) -> Result<Vec<Result<AttachResponse, TransportError>>, TransportError>;

    /// `GET /v1/vfs/items/{itemId}/versions`.
    async fn versions(&self, item_id: &ItemId) -> Result<VersionsResponse, TransportError>;

    /// `GET /v1/vfs/trash`: a page of what can be restored, from `cursor` on.
    async fn trash(&self, cursor: Option<&str>, limit: u32) -> Result<TrashPage, TransportError> {
        let _ = (cursor, limit);
        Err(TransportError::without("trash"))
    }

    /// `POST /v1/vfs/trash/{itemId}/restore`.
    async fn restore(
        &self,
        item_id: &ItemId,
        recursive: bool,
    ) -> Result<RestoreResponse, TransportError> {
        let _ = (item_id, recursive);
        Err(TransportError::without("restore"))
    }

    /// `DELETE /v1/vfs/trash/{itemId}`.
    async fn purge(
        &self,
        item_id: &ItemId,
        recursive: bool,
    ) -> Result<PurgeResponse, TransportError> {
        let _ = (item_id, recursive);
        Err(TransportError::without("purge"))
    }

    /// `POST /v1/vfs/blobs/batch/read`: many small blobs, one outcome for each, in the order
    /// asked for; the bytes are not verified yet. `None` where the server or the transport has no
    /// such call: then each is downloaded.
    async fn read_blobs(
        &self,
        blobs: &[BlobId],
    ) -> Result<Option<Vec<Result<Bytes, TransportError>>>, TransportError> {
        let _ = blobs;
        Ok(None)
    }

    /// `GET /v1/vfs/blobs/{blobId}`, from byte `offset` to its end; `offset` is below its size,
    /// or 0.
    async fn download(&self, blob_id: &BlobId, offset: u64) -> Result<ByteStream, TransportError>;
}
