//! The way to a server: one trait with one call, which tests and applications can implement or wrap.

mod call;
mod ext;

use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::cursor::Cursor;
use vfs_sync_core::id::{BlobId, ReplicaId, StagingId, UserId, WriteId};
use vfs_sync_core::wire::code;
use vfs_sync_core::wire::{AttachRequest, EpochEnd};

pub use crate::http::{
    MeantFor, batch_request, batch_results, read_answer, read_blobs_answer, token_subject,
};
pub use call::{Answer, Call, CallKind};
pub use ext::TransportExt;

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

    /// The answer of a transport that does not have the call.
    #[must_use]
    pub fn unsupported(call: CallKind) -> Self {
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

/// The contract with a server: one call, one answer. An implementation carries calls to a server, or
/// stands between a client and another transport and passes on, records or changes what goes through.
/// [`TransportExt`] has a typed method for each call.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Answers `call` with the [`Answer`] of the same kind.
    ///
    /// # Errors
    /// [`TransportError::unsupported`] for a call that the transport does not have, otherwise whatever
    /// kept the server from answering.
    async fn call(&self, call: Call) -> Result<Answer, TransportError>;

    /// Binds the transport to the user of a replica, before its first call. From then on every request
    /// names `user`, and an answer for another user is [`TransportError::WrongUser`]. A transport that
    /// passes calls on binds the one behind it; this method has no default so that none forgets to.
    ///
    /// # Errors
    /// The user that the transport is bound to already, if that is another.
    fn bind_user(&self, user: &UserId) -> Result<(), UserId>;
}
