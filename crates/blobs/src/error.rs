//! Errors of an object store, with the codes that operators look up.

use std::error::Error as StdError;
use std::io;

use object_store::client::{HttpError, HttpErrorKind};

use crate::s3::Refusal;

/// The operation that failed at the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, strum::Display, strum::IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum BlobOperation {
    /// The storing of bytes.
    Persist,
    /// The reading of bytes.
    Read,
    /// The removal of bytes.
    Delete,
}

impl BlobOperation {
    /// Returns the operation's name in metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Returns the sentence of an error body.
    #[must_use]
    pub const fn failure(self) -> &'static str {
        match self {
            Self::Persist => "Failed to persist blob data",
            Self::Read => "Failed to read blob data",
            Self::Delete => "Failed to delete blob data",
        }
    }
}

/// An error of the object store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot {operation} blob data ({storage_code}): {message}")]
pub struct BlobError {
    /// The operation that failed.
    pub operation: BlobOperation,
    /// The code of the error: S3's name if one fits, else the store's own.
    pub storage_code: String,
    /// True if the same call may succeed later.
    pub retryable: bool,
    /// The store's message, for the log only, since it may name the places of objects.
    pub message: String,
    /// The known facts about the cause, without the places of objects.
    pub hint: Option<&'static str>,
}

impl BlobError {
    /// Creates a failure with one of the store's codes.
    #[must_use]
    pub fn new(operation: BlobOperation, storage_code: &str, message: impl Into<String>) -> Self {
        Self {
            operation,
            storage_code: storage_code.to_owned(),
            retryable: is_retryable(storage_code),
            message: message.into(),
            hint: None,
        }
    }

    pub(crate) fn of(operation: BlobOperation, error: &object_store::Error) -> Self {
        let refusal = refusal(error);
        let code = refusal.map_or_else(|| storage_code(error), |refusal| &refusal.code);
        let code = if STORES_ARE_FULL.contains(&code) { STORAGE_FULL } else { code };
        let mut failure = Self::new(operation, code, with_causes(error));
        // S3 hides whether an object exists from keys that may not list.
        if code == "AccessDenied" && refusal.is_some() && operation == BlobOperation::Read {
            failure.hint = Some(
                "the server lacks a right on the bucket, or the object is missing and the server \
                 lacks the right to list",
            );
        }
        failure
    }

    /// Creates the failure of an object whose size differs from the registry.
    pub(crate) fn not_of_size(size: u64) -> Self {
        let message = format!("the object does not have the registered size of {size} bytes");
        Self::new(BlobOperation::Read, "InternalError", message)
    }

    pub(crate) fn io(operation: BlobOperation, error: &io::Error) -> Self {
        Self::new(operation, io_code(error.kind()), error.to_string())
    }
}

/// Joins the chain of causes, because the library's outermost error often says least.
fn with_causes(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(this) = cause {
        let more = this.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = this.source();
    }
    text
}

/// Finds S3's error answer among the library's errors.
pub(crate) fn refusal(error: &object_store::Error) -> Option<&Refusal> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

fn causes<'e>(
    error: &'e object_store::Error,
) -> impl Iterator<Item = &'e (dyn StdError + 'static)> {
    let first: &'e (dyn StdError + 'static) = error;
    std::iter::successors(Some(first), |this: &&'e (dyn StdError + 'static)| (*this).source())
}

/// The code for a full store, whatever the store calls it.
const STORAGE_FULL: &str = "StorageFull";

/// The error codes of S3 stores that are full, or whose bucket quota is exhausted.
const STORES_ARE_FULL: [&str; 6] = [
    "XMinioStorageFull",
    "XMinioAdminBucketQuotaExceeded",
    "InsufficientStorage",
    "InsufficientCapacity",
    "QuotaExceeded",
    "StorageQuotaExceeded",
];

/// The codes of errors that runbooks explain; a store may have others of its own.
pub const STORAGE_CODES: [&str; 6] =
    ["NoSuchKey", "AccessDenied", "ServiceUnavailable", "SlowDown", "InternalError", STORAGE_FULL];

/// Returns whether a code is retryable; codes outside the table are not.
fn is_retryable(storage_code: &str) -> bool {
    matches!(storage_code, "ServiceUnavailable" | "SlowDown" | "InternalError" | STORAGE_FULL)
}

fn storage_code(error: &object_store::Error) -> &'static str {
    use object_store::Error;
    match error {
        Error::NotFound { .. } => return "NoSuchKey",
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => return "AccessDenied",
        _ => {}
    }
    for cause in causes(error) {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            return io_code(io.kind());
        }
        if let Some(http) = cause.downcast_ref::<HttpError>()
            && !matches!(http.kind(), HttpErrorKind::Decode)
        {
            return "ServiceUnavailable";
        }
    }
    "InternalError"
}

fn io_code(kind: io::ErrorKind) -> &'static str {
    use io::ErrorKind as Kind;
    match kind {
        Kind::NotFound => "NoSuchKey",
        Kind::PermissionDenied | Kind::ReadOnlyFilesystem => "AccessDenied",
        Kind::StorageFull | Kind::QuotaExceeded => STORAGE_FULL,
        Kind::TimedOut
        | Kind::ConnectionRefused
        | Kind::ConnectionReset
        | Kind::ConnectionAborted
        | Kind::NotConnected
        | Kind::HostUnreachable
        | Kind::NetworkUnreachable
        | Kind::ResourceBusy
        | Kind::WouldBlock => "ServiceUnavailable",
        _ => "InternalError",
    }
}

/// The reasons why bytes were not stored; the store then kept none of them.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// The blob already has other bytes.
    #[error("the blob has other bytes already")]
    Differs,
    /// The store reported an error.
    #[error(transparent)]
    Store(#[from] BlobError),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(kind: io::ErrorKind) -> object_store::Error {
        object_store::Error::Generic { store: "t", source: Box::new(io::Error::from(kind)) }
    }

    #[test]
    fn a_failure_has_the_code_that_its_cause_has_whatever_it_is_wrapped_in() {
        for (kind, code, retryable) in [
            (io::ErrorKind::NotFound, "NoSuchKey", false),
            (io::ErrorKind::PermissionDenied, "AccessDenied", false),
            (io::ErrorKind::TimedOut, "ServiceUnavailable", true),
            (io::ErrorKind::ConnectionRefused, "ServiceUnavailable", true),
            (io::ErrorKind::StorageFull, "StorageFull", true),
            (io::ErrorKind::QuotaExceeded, "StorageFull", true),
            (io::ErrorKind::UnexpectedEof, "InternalError", true),
        ] {
            let error = BlobError::of(BlobOperation::Read, &generic(kind));
            assert_eq!((&*error.storage_code, error.retryable), (code, retryable), "{kind:?}");
        }
    }

    #[test]
    fn a_code_of_the_table_is_retryable_as_the_table_says() {
        for (code, retryable) in [
            ("NoSuchKey", false),
            ("AccessDenied", false),
            ("ServiceUnavailable", true),
            ("SlowDown", true),
            ("InternalError", true),
            ("SomethingNew", false),
        ] {
            assert_eq!(BlobError::new(BlobOperation::Delete, code, "").retryable, retryable);
        }
    }
}
