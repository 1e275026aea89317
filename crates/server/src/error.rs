//! Errors of the API, with each message defined once.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde_json::{Map, Value, json};
use vfs_sync_blobs::{BlobError, BlobOperation, PutError};
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::cursor::{Cursor, Epoch};
use vfs_sync_core::id::UserId;
use vfs_sync_core::limits;
use vfs_sync_core::server::attach::{AttachRefusal, WriteIdGap};
use vfs_sync_core::wire::{ErrorBody, code};
use vfs_sync_store::{Rematerialize, StoreError};

use crate::admission::Denial;
use crate::auth::TokenError;
use crate::http::body::{Idle, SourceError};

/// An error of the API. The observing layer writes its body, with the request's id.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) error: Cow<'static, str>,
    pub(crate) code: &'static str,
    pub(crate) details: Map<String, Value>,
    /// The value of `Retry-After` in seconds.
    pub(crate) retry_after: Option<u32>,
}

impl ApiError {
    pub(crate) fn new(
        status: StatusCode,
        code: &'static str,
        error: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { status, error: error.into(), code, details: Map::new(), retry_after: None }
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }

    fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// Creates the error for a request that breaks the protocol's form; it names the field.
    pub(crate) fn invalid(field: &str, problem: impl std::fmt::Display) -> Self {
        let sentence = format!("{field} {problem}");
        Self::new(StatusCode::BAD_REQUEST, code::INVALID_REQUEST, sentence).with("field", field)
    }

    pub(crate) fn invalid_cursor(field: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code::INVALID_CURSOR, "Invalid cursor")
            .with("field", field)
    }

    /// The server knows no OpenID provider at which one could sign in.
    pub(crate) fn no_provider() -> Self {
        let sentence =
            "This server has no OpenID provider to sign in with: it takes tokens by hand";
        Self::new(StatusCode::NOT_FOUND, code::NO_SIGN_IN, sentence)
    }

    pub(crate) fn too_large(sentence: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, code::TOO_LARGE, sentence)
    }

    fn too_many_consequences() -> Self {
        let sentence = "It would show others more than one transaction can: nothing was changed";
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, code::TOO_MANY_CONSEQUENCES, sentence)
            .with("maxConsequences", limits::MAX_CONSEQUENCES)
            .with("maxConsequenceBytes", limits::MAX_CONSEQUENCE_BYTES)
    }

    pub(crate) fn overloaded() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "overloaded",
            "The server is busy: try again later",
        )
        .retry_after(1)
    }

    /// A user has as much in progress as one user may.
    pub(crate) fn too_many_requests() -> Self {
        Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            code::TOO_MANY_REQUESTS,
            "The user has too much in progress: try again later",
        )
        .retry_after(1)
    }

    /// A user, or the whole server, has as many event streams open as may be.
    pub(crate) fn too_many_streams(of_user: bool, wait: Duration) -> Self {
        let sentence = match of_user {
            true => "The user has too many event streams open: try again later",
            false => "The server has too many event streams open: try again later",
        };
        let seconds = u32::try_from(wait.as_secs()).unwrap_or(u32::MAX);
        Self::new(StatusCode::TOO_MANY_REQUESTS, code::TOO_MANY_REQUESTS, sentence)
            .retry_after(seconds.max(1))
    }

    /// A user or an address asks for more than its rate, of which there is enough after `wait`.
    pub(crate) fn too_fast(rate: &'static str, wait: Duration) -> Self {
        let sentence = "The rate limit is reached: try again later";
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        Self::new(StatusCode::TOO_MANY_REQUESTS, code::TOO_MANY_REQUESTS, sentence)
            .with("rate", rate)
            .retry_after(u32::try_from(seconds.max(1)).unwrap_or(u32::MAX))
    }

    /// The database is of an earlier epoch than the caller has seen.
    pub(crate) fn behind(seen: Epoch, present: Epoch) -> Self {
        let (seen, present) = (seen.as_u64(), present.as_u64());
        tracing::warn!(
            seen,
            present,
            "a device has seen a later epoch than the database has: this is a former primary or an \
             older copy; if devices of several users say so and it is the one to go on with: \
             vfs-sync admin new-epoch --after {seen}"
        );
        let sentence = "The database is behind what this device has seen: try again later";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "database_behind", sentence).retry_after(1)
    }

    pub(crate) fn timed_out() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "timeout", "The request took too long")
            .retry_after(1)
    }

    pub(crate) fn slow_body() -> Self {
        let sentence = "The request's body came too slowly";
        Self::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", sentence)
    }

    pub(crate) fn internal() -> Self {
        let sentence = "The server failed; its log has the reason";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", sentence)
    }

    pub(crate) fn unknown_stage() -> Self {
        let sentence = "There is no such stage";
        Self::new(StatusCode::NOT_FOUND, code::UNKNOWN_STAGE, sentence)
    }

    pub(crate) fn unknown_blob() -> Self {
        Self::new(StatusCode::NOT_FOUND, code::UNKNOWN_BLOB, "There is no such blob")
    }

    pub(crate) fn unknown_device() -> Self {
        Self::new(StatusCode::NOT_FOUND, code::UNKNOWN_DEVICE, "The user has no such device")
    }

    pub(crate) fn unknown_user() -> Self {
        Self::new(StatusCode::NOT_FOUND, code::UNKNOWN_USER, "The server knows no such user")
    }

    pub(crate) fn deletion_under_way() -> Self {
        let sentence = "The user is being deleted: call that off before it begins, or let it end";
        Self::new(StatusCode::CONFLICT, code::DELETION_UNDER_WAY, sentence)
    }

    pub(crate) fn unknown_session() -> Self {
        let sentence = "There is no such session of the console";
        Self::new(StatusCode::NOT_FOUND, code::UNKNOWN_SESSION, sentence)
    }

    /// A request to the console names a host that is not the server's.
    pub(crate) fn untrusted_host() -> Self {
        let sentence =
            "The console is opened at an address, at localhost, or at a name of --admin-hosts";
        Self::new(StatusCode::FORBIDDEN, code::UNTRUSTED_HOST, sentence)
    }

    /// A request with the console's cookie comes from another page than the console.
    pub(crate) fn untrusted_origin() -> Self {
        let sentence = "The console's session is good for its own page alone";
        Self::new(StatusCode::FORBIDDEN, code::UNTRUSTED_ORIGIN, sentence)
    }

    pub(crate) fn lacks_scope(scope: &'static str) -> Self {
        let sentence = format!("The token lacks the scope {scope}");
        Self::new(StatusCode::FORBIDDEN, code::INSUFFICIENT_SCOPE, sentence)
            .with("requiredScope", scope)
    }

    /// Creates the error for a token of another user than the one in the request. The caller knows
    /// both names: its header and its token contain them.
    pub(crate) fn wrong_user(expected: &UserId, actual: &UserId) -> Self {
        let sentence = format!("The request is for {expected}, the token belongs to {actual}");
        Self::new(StatusCode::FORBIDDEN, code::WRONG_USER, sentence)
            .with("expected", expected.as_str())
            .with("actual", actual.as_str())
    }

    pub(crate) fn unknown_item() -> Self {
        Self::new(StatusCode::NOT_FOUND, code::UNKNOWN_ITEM, "There is no such item")
    }

    pub(crate) fn rematerialize(
        requested: Option<&Cursor>,
        Rematerialize { oldest_available, history, epoch }: &Rematerialize,
    ) -> Self {
        Self::conflict(
            code::REMATERIALIZATION_REQUIRED,
            "The cursor cannot be served: pull from the start",
        )
        .with("requestedCursor", json!(requested))
        .with("oldestAvailableCursor", json!(oldest_available))
        .with("history", json!(history))
        .with("epoch", json!(epoch))
    }

    pub(crate) fn conflict(code: &'static str, sentence: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::CONFLICT, code, sentence)
    }

    /// Creates an error from the status of an answer that axum made.
    pub(crate) fn of_status(status: StatusCode) -> Self {
        let (code, sentence) = match status {
            StatusCode::NOT_FOUND => ("not_found", "There is no such route"),
            StatusCode::METHOD_NOT_ALLOWED => {
                ("method_not_allowed", "The route does not have this method")
            }
            StatusCode::PAYLOAD_TOO_LARGE => (code::TOO_LARGE, "The request is too large"),
            status if status.is_server_error() => ("internal_error", "The server failed"),
            _ => (code::INVALID_REQUEST, "The request is malformed"),
        };
        Self::new(status, code, sentence)
    }

    /// Builds the error body for the request `id`.
    pub(crate) fn body(&self, id: &str) -> ErrorBody {
        ErrorBody {
            error: self.error.clone().into_owned(),
            code: self.code.to_owned(),
            request_id: Some(id.to_owned()),
            details: self.details.clone(),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        let headers = response.headers_mut();
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        response.extensions_mut().insert(Arc::new(self));
        response
    }
}

/// The operator's command that repairs a malformed reconcile state.
const REPAIR: &str = "vfs-sync admin repair reconcile-state";

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(reason) => {
                tracing::warn!(%reason, "the database is unavailable");
                metrics::counter!("vfs_sync_store_errors_total", "kind" => "unavailable")
                    .increment(1);
                let sentence = "The database is unavailable: try again later";
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "database_unavailable", sentence)
                    .retry_after(1)
            }
            StoreError::Full(reason) => {
                tracing::error!(%reason, "the database has no room");
                metrics::counter!("vfs_sync_store_errors_total", "kind" => "full").increment(1);
                let sentence = "The server's database has no room: nothing was changed";
                Self::new(StatusCode::INSUFFICIENT_STORAGE, code::STORAGE_FULL, sentence)
                    .retry_after(5)
            }
            StoreError::OverQuota { own, over } => {
                metrics::counter!("vfs_sync_quota_exceeded_total", "limit" => over.limit)
                    .increment(1);
                let error = |sentence| {
                    Self::new(StatusCode::PAYLOAD_TOO_LARGE, code::QUOTA_EXCEEDED, sentence)
                };
                // How much the owner has is the owner's affair.
                let error = if own {
                    error("That would be more than the user may have")
                        .with("max", over.max)
                        .with("wanted", over.wanted)
                } else {
                    error("The owner of the item may have no more").with("whose", "owner")
                };
                error.with("limit", over.limit)
            }
            StoreError::TooManyConsequences => Self::too_many_consequences(),
            StoreError::UserDeleted => Denial::UserDeleted.into(),
            StoreError::MalformedRow { table, key, reason } => {
                tracing::error!(table, key, reason, "a row is malformed");
                metrics::counter!("vfs_sync_store_errors_total", "kind" => "malformed_row")
                    .increment(1);
                let sentence = "A stored row is malformed";
                let error =
                    Self::new(StatusCode::INTERNAL_SERVER_ERROR, code::MALFORMED_ROW, sentence)
                        .with("table", table)
                        .with("key", key)
                        .with("malformed", reason)
                        .with("retryable", false);
                match table {
                    "reconcile_state" => error.with("repair", REPAIR),
                    _ => error,
                }
            }
            StoreError::TooMany => Self::too_many_requests(),
            error @ StoreError::NoMemory => {
                tracing::error!(%error, "a change waits for more memory");
                metrics::counter!("vfs_sync_store_errors_total", "kind" => "no_memory")
                    .increment(1);
                Self::overloaded().retry_after(60)
            }
            error @ StoreError::Conflict => Self::from(StoreError::Unavailable(error.to_string())),
            StoreError::WentBack => {
                Self::from(StoreError::Unavailable("it went back while it was served".into()))
            }
            error @ (StoreError::NewerSchema { .. }
            | StoreError::MissingTable { .. }
            | StoreError::InvalidUrl(_)
            | StoreError::Failed(_)) => {
                tracing::error!(%error, "the database failed");
                metrics::counter!("vfs_sync_store_errors_total", "kind" => "failed").increment(1);
                Self::internal()
            }
        }
    }
}

impl From<TokenError> for ApiError {
    fn from(error: TokenError) -> Self {
        let reason = error.reason();
        if error == TokenError::KeysUnavailable {
            return Self::new(StatusCode::SERVICE_UNAVAILABLE, reason, error.to_string())
                .retry_after(5);
        }
        Self::new(StatusCode::UNAUTHORIZED, code::UNAUTHORIZED, error.to_string())
            .with("reason", reason)
    }
}

impl From<BlobError> for ApiError {
    fn from(error: BlobError) -> Self {
        count_blob_error(&error);
        let slow_down = error.storage_code == "SlowDown";
        let api = Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            code::BLOB_STORE_ERROR,
            error.operation.failure(),
        )
        .with("storageCode", error.storage_code)
        .with("retryable", error.retryable);
        let api = match error.hint {
            Some(hint) => api.with("hint", hint),
            None => api,
        };
        if slow_down { api.retry_after(1) } else { api }
    }
}

/// Logs and counts a failure of the object store; its message goes only into the log, because it
/// may name places.
pub(crate) fn count_blob_error(error: &BlobError) {
    tracing::error!(
        operation = error.operation.as_str(),
        storage_code = error.storage_code,
        retryable = error.retryable,
        message = error.message,
        "the object store failed"
    );
    metrics::counter!(
        "vfs_sync_blob_store_errors_total",
        "operation" => error.operation.as_str(),
        "storage_code" => error.storage_code.clone(),
    )
    .increment(1);
}

impl From<PutError> for ApiError {
    fn from(error: PutError) -> Self {
        match error {
            PutError::Store(error) => error.into(),
            PutError::Differs => upload_differs(),
        }
    }
}

pub(crate) fn digest_mismatch(expected: Sha256Digest, actual: Sha256Digest) -> ApiError {
    let sentence = "The bytes do not match the digest";
    ApiError::new(StatusCode::BAD_REQUEST, code::DIGEST_MISMATCH, sentence)
        .with("expectedDigest", expected.to_string())
        .with("actualDigest", actual.to_string())
}

/// Returns the error for a body that broke off or arrived too slowly.
pub(crate) fn broken_source(error: &SourceError) -> ApiError {
    if error.is::<Idle>() {
        return ApiError::slow_body();
    }
    let sentence = "The request's body broke off";
    ApiError::new(StatusCode::BAD_REQUEST, code::INVALID_REQUEST, sentence)
}

pub(crate) fn upload_differs() -> ApiError {
    ApiError::conflict(code::UPLOAD_DIFFERS, "The stage has other bytes already")
}

fn write_id_gap(gap: &WriteIdGap) -> Value {
    json!({
        "replicaId": gap.replica_id,
        "requiredWriteId": gap.required,
        "reconciledWriteId": gap.reconciled,
    })
}

/// Converts the rejection of an attach into the error of its answer.
pub(crate) fn attach_refused(refusal: AttachRefusal) -> ApiError {
    let conflict = ApiError::conflict;
    match refusal {
        AttachRefusal::IncompleteCheckpoint => ApiError::new(
            StatusCode::BAD_REQUEST,
            code::INVALID_REQUEST,
            "clientId, requiredCursor and requiredLastReconciledWriteIds come together or not at all",
        ),
        AttachRefusal::UnknownStage => ApiError::unknown_stage(),
        AttachRefusal::UnknownItem => ApiError::unknown_item(),
        AttachRefusal::NotPermitted => ApiError::new(
            StatusCode::FORBIDDEN,
            code::NOT_PERMITTED,
            "The user may read the item, not write it",
        ),
        AttachRefusal::Behind(gap) => {
            let write_ids: Vec<Value> = gap.write_ids.iter().map(write_id_gap).collect();
            conflict(code::RECONCILE_BEHIND, "Client reconcile state is behind required visibility")
                .with("clientId", gap.client_id.as_str())
                .with("cursorBehind", gap.cursor_behind)
                .with("requiredCursor", json!(gap.required))
                .with("reconciledCursor", json!(gap.reconciled))
                .with("writeIdsBehind", write_ids)
        }
        AttachRefusal::Empty => conflict(code::STAGE_EMPTY, "The stage has no bytes yet"),
        AttachRefusal::NotAttachable(status) => {
            conflict(code::STAGE_NOT_ATTACHABLE, "The stage can no longer be attached")
                .with("status", status.as_str())
        }
        AttachRefusal::Expired => conflict(code::STAGE_EXPIRED, "The stage has expired"),
        AttachRefusal::OtherKind(kind) => conflict(
            code::ATTACHED_AS_OTHER_KIND,
            "The blob is attached to the item as another kind",
        )
        .with("relationKind", json!(kind)),
        AttachRefusal::Differs(field) => {
            conflict(code::ATTACH_DIFFERS, "The stage is attached already, by a different request")
                .with("field", field)
        }
        AttachRefusal::ContentChanged(current) => {
            conflict(code::CONTENT_CHANGED, "Another content has been attached in the meantime")
                .with("currentBlobId", json!(current))
        }
        // How much the owner has is the owner's affair.
        AttachRefusal::OwnerOverQuota => ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            code::QUOTA_EXCEEDED,
            "The owner of the item has no room for more bytes",
        )
        .with("limit", "maxStoredBytes")
        .with("whose", "owner"),
        AttachRefusal::MalformedRow(malformed) => attach_failed(&malformed),
    }
}

/// Returns the error for a malformed row that an attach depends on; a retry gets the same answer.
pub(crate) fn attach_failed(malformed: &str) -> ApiError {
    tracing::error!(malformed, "an attach met a malformed row");
    let (status, sentence) = (StatusCode::INTERNAL_SERVER_ERROR, "Failed to attach staged blob");
    let error = ApiError::new(status, code::ATTACH_FAILED, sentence)
        .with("malformed", malformed)
        .with("retryable", false);
    if malformed.contains("reconcile_state") { error.with("repair", REPAIR) } else { error }
}

/// Creates the error for an object that ends early while its bytes stream: the answer can only
/// break off.
pub(crate) fn truncated(missing: u64) -> BlobError {
    let message = format!("the object is {missing} bytes short of what the registry says");
    BlobError::new(BlobOperation::Read, "InternalError", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_that_is_away_is_no_fault_of_the_request() {
        let error = ApiError::from(StoreError::Unavailable("at 10.0.0.7:5432".into()));
        assert_eq!((error.status, error.retry_after), (StatusCode::SERVICE_UNAVAILABLE, Some(1)));
        assert!(!error.error.contains("10.0.0.7"));
        let error = ApiError::from(StoreError::Failed("disk I/O error in /data/x".into()));
        assert_eq!(
            (error.status, error.code),
            (StatusCode::INTERNAL_SERVER_ERROR, "internal_error")
        );
        assert!(!error.error.contains("/data"));
        let error = ApiError::from(StoreError::Full("/data/x: database or disk is full".into()));
        assert_eq!((error.status, error.code), (StatusCode::INSUFFICIENT_STORAGE, "storage_full"));
        assert!(!error.error.contains("/data"));
    }

    #[test]
    fn a_failure_of_the_object_store_tells_its_code_and_not_its_place() {
        for (operation, sentence) in [
            (BlobOperation::Persist, "Failed to persist blob data"),
            (BlobOperation::Read, "Failed to read blob data"),
            (BlobOperation::Delete, "Failed to delete blob data"),
        ] {
            let error = ApiError::from(BlobError::new(operation, "SlowDown", "at /data/blobs/b"));
            assert_eq!(error.status, StatusCode::INTERNAL_SERVER_ERROR);
            assert_eq!((&*error.error, error.code), (sentence, "blob_store_error"));
            assert_eq!(error.retry_after, Some(1));
            let details = Value::Object(error.details);
            assert_eq!(details, json!({"storageCode": "SlowDown", "retryable": true}));
        }
    }
}
