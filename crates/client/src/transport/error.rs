//! Failures of a call.

use std::time::Duration;

use vfs_sync_core::cursor::{Cursor, EarlierEpoch, Epoch};
use vfs_sync_core::id::{ReplicaId, UserId, WriteId};
use vfs_sync_core::wire::{EpochEnd, code};

/// The result of a call to a server.
pub type Result<T, E = TransportError> = std::result::Result<T, E>;

/// The reason why a call has no usable answer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TransportError {
    /// The server sent no answer, `429` or `5xx`: the identical request may be repeated.
    #[error("the server cannot be reached or is busy: {reason}")]
    Network {
        /// A description of the failure.
        reason: String,
        /// The time that the server asks to wait.
        retry_after: Option<Duration>,
    },
    /// The server answered `401`, even after the token provider was asked again.
    #[error("cannot sign in to the server: {0}")]
    Unauthorized(String),
    /// The token belongs to another user than the replica: to `actual`, or to an unknown user if
    /// the server names none, as servers of earlier versions do. No data was exchanged.
    #[error("{}", wrong_user(expected, actual.as_ref()))]
    WrongUser {
        /// The user that the replica belongs to.
        expected: UserId,
        /// The user that the token belongs to, if it is known.
        actual: Option<UserId>,
    },
    /// The server serves this user, or this device, no longer: `403 user_disabled`, `403
    /// user_deleted` or `403 device_revoked`. The replica and its queue stay.
    #[error("the server refuses this device (403 {code}): {message}")]
    Denied {
        /// The code of the error.
        code: String,
        /// The text of the error.
        message: String,
    },
    /// The server cannot serve the cursor: `409 crdt_rematerialization_required`.
    #[error("pull requires re-materialization from canonical state")]
    RematerializationRequired {
        /// The cursor asked for.
        requested: Option<Cursor>,
        /// The oldest cursor that the server can serve.
        oldest_available: Option<Cursor>,
        /// The epochs of the feed, ascending; older servers do not send them.
        history: Option<Vec<EpochEnd>>,
        /// The present epoch of the server's database; older servers do not send it.
        epoch: Option<Epoch>,
    },
    /// The server knows fewer write ids than the client reports: `409 write_ids_ahead_of_server`.
    #[error("the server knows fewer write ids of {replica_id:?} than this client")]
    WriteIdsAhead {
        /// The replica that the write id belongs to.
        replica_id: Option<ReplicaId>,
        /// The last write id of the replica, as the server knows it.
        last: Option<WriteId>,
    },
    /// The request is too large: `413`.
    #[error("the request is too large: {0}")]
    TooLarge(String),
    /// The address is not a valid server URL, or TLS cannot be set up.
    #[error("{0}")]
    InvalidAddress(String),
    /// The server rejected the request for any other reason.
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
    /// The answer cannot be parsed, or does not have the protocol's form.
    #[error("malformedResponse: {call}: {field} {reason}")]
    MalformedResponse {
        /// The call that was answered.
        call: &'static str,
        /// The field, as a path from the answer's root.
        field: String,
        /// The problem with the field.
        reason: String,
    },
}

/// The `storageCode` of an object store that is full.
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
    /// Returns the name by which the runbook
    /// ([`vfs_sync_core::runbook`]) explains the error: the code of the server's answer, or the
    /// client's own.
    #[must_use]
    pub fn key(&self) -> String {
        let key = match self {
            Self::Network { .. } => "network",
            Self::Unauthorized(_) => code::UNAUTHORIZED,
            Self::WrongUser { .. } => code::WRONG_USER,
            Self::RematerializationRequired { .. } => code::REMATERIALIZATION_REQUIRED,
            Self::WriteIdsAhead { .. } => code::WRITE_IDS_AHEAD,
            Self::TooLarge(_) => code::TOO_LARGE,
            Self::InvalidAddress(_) => "invalid_address",
            Self::Denied { code, .. } | Self::Refused { code, .. } => code,
            Self::MalformedResponse { .. } => "malformedResponse",
        };
        key.to_owned()
    }

    /// Returns true if the identical request may succeed later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Network { .. })
    }

    /// Returns true if the server rejected the request for a reason outside it that somebody can
    /// repair: a full disk, an exhausted quota, a damaged row. The identical request succeeds after
    /// the repair, so until then none of it may be dropped.
    #[must_use]
    pub fn waits(&self) -> bool {
        match self {
            Self::Refused { status, code, .. } => *status >= 500 || code == code::QUOTA_EXCEEDED,
            _ => false,
        }
    }

    /// Returns true if the server's disk or its object store has no space for the bytes.
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

    /// Creates the error of a transport that does not have the call.
    #[must_use]
    pub fn unsupported(call: impl std::fmt::Display) -> Self {
        Self::Refused {
            status: 404,
            code: "not_found".into(),
            message: format!("this transport has no call {call}"),
            details: serde_json::Map::new(),
        }
    }

    /// Creates the error for an answer with an earlier epoch than one before it, which breaks the
    /// protocol.
    pub(crate) fn earlier_epoch(call: &'static str, earlier: &EarlierEpoch) -> Self {
        let (field, reason) = ("epoch".into(), earlier.to_string());
        Self::MalformedResponse { call, field, reason }
    }

    /// Creates a network error without a time to wait.
    #[must_use]
    pub fn network(reason: impl Into<String>) -> Self {
        Self::Network { reason: reason.into(), retry_after: None }
    }
}
