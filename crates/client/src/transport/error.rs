//! Failures of a call.

use std::time::Duration;

use vfs_sync_core::cursor::{Cursor, EarlierEpoch};
use vfs_sync_core::id::{ReplicaId, UserId, WriteId};
use vfs_sync_core::wire::{EpochEnd, code};

/// The reason for which a call has no usable answer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TransportError {
    /// No answer, `429` or `5xx`: the identical request may be repeated.
    #[error("the server cannot be reached or is busy: {reason}")]
    Network {
        /// A description of what happened.
        reason: String,
        /// The time that the server asks to wait.
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
    /// The server cannot serve the cursor: `409 crdt_rematerialization_required`.
    #[error("pull requires re-materialization from canonical state")]
    RematerializationRequired {
        /// The cursor asked for.
        requested: Option<Cursor>,
        /// The oldest that the server can serve.
        oldest_available: Option<Cursor>,
        /// The epochs of the feed, ascending; older servers do not send them.
        history: Option<Vec<EpochEnd>>,
    },
    /// The server knows fewer write ids than the client reports: `409 write_ids_ahead_of_server`.
    #[error("the server knows fewer write ids of {replica_id:?} than this client")]
    WriteIdsAhead {
        /// The replica whose write id it is.
        replica_id: Option<ReplicaId>,
        /// The replica's last, as the server knows it.
        last: Option<WriteId>,
    },
    /// The request is too large: `413`.
    #[error("the request is too large: {0}")]
    TooLarge(String),
    /// There is no such server to ask: its address is none, or TLS cannot be set up.
    #[error("{0}")]
    InvalidAddress(String),
    /// The server refused for any other reason.
    #[error("the server refused ({status} {code}): {message}")]
    Refused {
        /// The status of the HTTP answer.
        status: u16,
        /// The code of the error.
        code: String,
        /// The text of the error.
        message: String,
        /// The other fields of the error.
        details: serde_json::Map<String, serde_json::Value>,
    },
    /// An answer that cannot be parsed or is not of the protocol's form.
    #[error("malformedResponse: {call}: {field} {reason}")]
    MalformedResponse {
        /// The call that was answered.
        call: &'static str,
        /// The field, as a path from the answer's root.
        field: String,
        /// The difference from the protocol's form.
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
    /// Returns true if the identical request may succeed later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Network { .. })
    }

    /// Returns true if the server refused for a reason outside the request that somebody can
    /// repair: a full disk, a used-up quota, a damaged row. The identical request succeeds after
    /// that, and until then nothing of it may be given up.
    #[must_use]
    pub fn waits(&self) -> bool {
        match self {
            Self::Refused { status, code, .. } => *status >= 500 || code == code::QUOTA_EXCEEDED,
            _ => false,
        }
    }

    /// Returns true if there is no room for the bytes, on the server's disk or in its object store.
    pub(crate) fn is_full(&self) -> bool {
        let Self::Refused { code, details, .. } = self else { return false };
        code == code::STORAGE_FULL
            || details.get("storageCode").is_some_and(|code| code == STORAGE_FULL)
    }

    /// Returns the time that the server asks to wait.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Network { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// The answer of a transport that does not have the call.
    #[must_use]
    pub fn unsupported(call: impl std::fmt::Display) -> Self {
        Self::Refused {
            status: 404,
            code: "not_found".into(),
            message: format!("this transport has no call {call}"),
            details: serde_json::Map::new(),
        }
    }

    /// Reports an answer of an earlier epoch than one before it, which no server of the protocol gives.
    pub(crate) fn earlier_epoch(call: &'static str, earlier: &EarlierEpoch) -> Self {
        let (field, reason) = ("epoch".into(), earlier.to_string());
        Self::MalformedResponse { call, field, reason }
    }

    /// A network error without a time to wait.
    #[must_use]
    pub fn network(reason: impl Into<String>) -> Self {
        Self::Network { reason: reason.into(), retry_after: None }
    }
}
