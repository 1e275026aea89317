//! Failures of calls, as values that every language can show.

use serde::Serialize;
use serde_json::{Map, Value, json};
use vfs_sync_client::{ClientError, TransportError, Violation};

/// The kind of an [`Error`]: the variant of the client's or the transport's error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ErrorCode {
    /// A guardrail: the server broke the protocol, or a state contradicts itself.
    Violation,
    /// The server cannot be reached or is busy: the same call may succeed later.
    Network,
    /// The server accepted none of the tokens.
    Unauthorized,
    /// The token belongs to another user than the replica.
    WrongUser,
    /// The server cannot serve the replica's position.
    RematerializationRequired,
    /// The server knows fewer write ids than the client.
    WriteIdsAhead,
    /// The request is larger than the server accepts.
    TooLarge,
    /// The server's address is not valid.
    InvalidAddress,
    /// The server refused the request for another reason.
    Refused,
    /// The answer does not have the protocol's form.
    MalformedResponse,
    /// The tree has no such item.
    UnknownItem,
    /// The path leads to no item.
    UnknownPath,
    /// An item would hang under itself.
    Cycle,
    /// The item changed while it was copied.
    Changed,
    /// The user's level on the item is too low.
    NotPermitted,
    /// The item cannot move into another owner's tree.
    OtherTree,
    /// An argument is not valid, or the call is not possible.
    Invalid,
    /// The item has no content.
    NoContent,
    /// The server's bytes are not the content.
    WrongContent,
    /// No grant names the user.
    NotDeclined,
    /// The list has no such rejected operation or content.
    UnknownRejected,
    /// Another process has the replica open.
    InUse,
    /// The replica was made by a newer version.
    NewerReplica,
    /// The replica was made by an older version, and the call only reads.
    OlderReplica,
    /// The replica's file is damaged.
    CorruptReplica,
    /// The directory has a replica already.
    ReplicaExists,
    /// The directory has no replica.
    NoReplica,
    /// The replica's disk failed.
    Storage,
    /// A file or a content could not be read or written.
    Io,
    /// Synchronisation is stopped until it is started by hand.
    Stopped,
    /// The server was restored again while the replica was rebuilt.
    RestoredDuringRebuild,
    /// The caller cancelled the call.
    Cancelled,
    /// The client, or the stream, is closed.
    Closed,
    /// The call panicked: a bug. The replica has rolled back what was not finished.
    Panicked,
}

/// The reason why a call failed. The call changed nothing, except where its description says so.
#[derive(Debug, Clone, PartialEq, Serialize, thiserror::Error)]
#[serde(rename_all = "camelCase")]
#[error("{message}")]
pub struct Error {
    /// The kind of the failure.
    pub code: ErrorCode,
    /// The text of the failure, for people.
    pub message: String,
    /// The `stage:code` of a violation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    /// The stage of a violation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<&'static str>,
    /// The details, by name.
    pub details: Map<String, Value>,
    /// True if the same call may succeed later without intervention.
    pub transient: bool,
}

impl Error {
    /// Creates an error without details.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let (signature, stage) = (None, None);
        Self {
            code,
            message: message.into(),
            signature,
            stage,
            details: Map::new(),
            transient: false,
        }
    }

    /// Creates the error of an argument that is not valid.
    #[must_use]
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Invalid, message)
    }

    /// Creates the error of a client or stream that is closed.
    #[must_use]
    pub fn closed() -> Self {
        Self::new(ErrorCode::Closed, "the client is closed: open it again")
    }

    /// Creates the error of a call that its caller cancelled.
    #[must_use]
    pub fn cancelled() -> Self {
        Self::new(ErrorCode::Cancelled, "the call was cancelled")
    }

    #[cfg(not(target_family = "wasm"))]
    pub(crate) fn panicked(payload: &(dyn std::any::Any + Send)) -> Self {
        let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
        let text = text.unwrap_or_else(|| "no message".into());
        Self::new(ErrorCode::Panicked, format!("the call panicked, which is a bug: {text}"))
    }

    fn with(code: ErrorCode, message: String, details: Value) -> Self {
        let details = match details {
            Value::Object(details) => details,
            _ => Map::new(),
        };
        Self { details, ..Self::new(code, message) }
    }
}

impl From<&Violation> for Error {
    fn from(violation: &Violation) -> Self {
        Self {
            signature: Some(violation.signature()),
            stage: Some(violation.stage().as_str()),
            details: violation.details(),
            ..Self::new(ErrorCode::Violation, violation.message())
        }
    }
}

impl From<TransportError> for Error {
    fn from(error: TransportError) -> Self {
        let message = error.to_string();
        let transient = error.is_transient();
        let (code, details) = match error {
            TransportError::Network { retry_after, .. } => {
                let seconds = retry_after.map(|time| time.as_secs_f64());
                (ErrorCode::Network, json!({ "retryAfterSeconds": seconds }))
            }
            TransportError::Unauthorized(_) => (ErrorCode::Unauthorized, Value::Null),
            TransportError::WrongUser { expected, actual } => {
                (ErrorCode::WrongUser, json!({ "expected": expected, "actual": actual }))
            }
            TransportError::RematerializationRequired { requested, oldest_available, .. } => {
                let details =
                    json!({ "requested": requested, "oldestAvailable": oldest_available });
                (ErrorCode::RematerializationRequired, details)
            }
            TransportError::WriteIdsAhead { replica_id, last } => {
                let details = json!({ "replicaId": replica_id, "lastWriteId": last });
                (ErrorCode::WriteIdsAhead, details)
            }
            TransportError::Denied { code, .. } => {
                (ErrorCode::Refused, json!({ "status": 403, "code": code, "details": {} }))
            }
            TransportError::TooLarge(_) => (ErrorCode::TooLarge, Value::Null),
            TransportError::InvalidAddress(_) => (ErrorCode::InvalidAddress, Value::Null),
            TransportError::Refused { status, code, details, .. } => {
                let details = json!({ "status": status, "code": code, "details": details });
                (ErrorCode::Refused, details)
            }
            TransportError::MalformedResponse { call, field, reason } => {
                let details = json!({ "call": call, "field": field, "reason": reason });
                (ErrorCode::MalformedResponse, details)
            }
        };
        Self { transient, ..Self::with(code, message, details) }
    }
}

impl From<ClientError> for Error {
    fn from(error: ClientError) -> Self {
        let message = error.to_string();
        let (code, details) = match error {
            ClientError::Violation(violation) => return Self::from(&*violation),
            ClientError::Transport(error) => return error.into(),
            ClientError::UnknownItem(item) => (ErrorCode::UnknownItem, json!({ "item": item })),
            ClientError::UnknownPath(path) => (ErrorCode::UnknownPath, json!({ "path": path })),
            ClientError::Cycle { parent, child } => {
                (ErrorCode::Cycle, json!({ "parent": parent, "child": child }))
            }
            ClientError::Changed(item) => (ErrorCode::Changed, json!({ "item": item })),
            ClientError::NotPermitted { item, needs, has } => {
                (ErrorCode::NotPermitted, json!({ "item": item, "needs": needs, "has": has }))
            }
            ClientError::OtherTree { item, parent } => {
                (ErrorCode::OtherTree, json!({ "item": item, "parent": parent }))
            }
            ClientError::Invalid(_) => (ErrorCode::Invalid, Value::Null),
            ClientError::NoContent(item) => (ErrorCode::NoContent, json!({ "item": item })),
            ClientError::WrongContent { blob_id, item, reason } => {
                let details = json!({ "blobId": blob_id, "item": item, "reason": reason });
                (ErrorCode::WrongContent, details)
            }
            ClientError::NotDeclined { item, .. } => {
                (ErrorCode::NotDeclined, json!({ "item": item }))
            }
            ClientError::UnknownRejected(id) => (ErrorCode::UnknownRejected, json!({ "id": id })),
            ClientError::InUse(path) => (ErrorCode::InUse, json!({ "path": path })),
            ClientError::NewerReplica { path, found, known } => {
                let details = json!({ "path": path, "found": found, "known": known });
                (ErrorCode::NewerReplica, details)
            }
            ClientError::OlderReplica { path, found, known } => {
                let details = json!({ "path": path, "found": found, "known": known });
                (ErrorCode::OlderReplica, details)
            }
            ClientError::CorruptReplica { path, .. } => {
                (ErrorCode::CorruptReplica, json!({ "path": path }))
            }
            ClientError::ReplicaExists(path) => (ErrorCode::ReplicaExists, json!({ "path": path })),
            ClientError::NoReplica(path) => (ErrorCode::NoReplica, json!({ "path": path })),
            ClientError::Storage(_) => (ErrorCode::Storage, Value::Null),
            ClientError::Io { source, .. } => {
                (ErrorCode::Io, json!({ "kind": format!("{:?}", source.kind()) }))
            }
            ClientError::Stopped(reason) => {
                (ErrorCode::Stopped, json!({ "signature": reason.signature }))
            }
            ClientError::RestoredDuringRebuild => (ErrorCode::RestoredDuringRebuild, Value::Null),
        };
        Self::with(code, message, details)
    }
}
