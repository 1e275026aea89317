//! The reasons why background work pauses or stops.

use vfs_sync_core::guardrail::Violation;
use vfs_sync_core::wire::code;

use crate::error::{ClientError, StopReason};
use crate::transport::TransportError;

/// Returns the reason why a failure pauses background work. The work resumes once somebody has
/// renewed the token, made space, or repaired damaged data.
pub(crate) fn pause_reason(error: &ClientError) -> Option<StopReason> {
    let ClientError::Transport(cause) = error else { return None };
    let (signature, details) = match cause {
        TransportError::Unauthorized(_) => (code::UNAUTHORIZED, "{}".to_owned()),
        TransportError::Refused { code, details, .. } if cause.waits() => {
            (&**code, serde_json::Value::Object(details.clone()).to_string())
        }
        _ => return None,
    };
    let (signature, message) = (signature.to_owned(), error.to_string());
    Some(StopReason { signature, message, details, oldest_available: None })
}

/// Returns the reason why a failure stops background work; `None` if a retry may succeed.
pub(crate) fn stop_reason(error: &ClientError) -> Option<StopReason> {
    let message = error.to_string();
    let plain = |signature: &str| StopReason {
        signature: signature.to_owned(),
        message: message.clone(),
        details: "{}".into(),
        oldest_available: None,
    };
    match error {
        ClientError::Violation(violation) => {
            let oldest_available = match &**violation {
                Violation::RematerializationRequired { oldest_available, .. } => {
                    oldest_available.clone()
                }
                _ => None,
            };
            let details = serde_json::Value::Object(violation.details()).to_string();
            Some(StopReason { details, oldest_available, ..plain(&violation.signature()) })
        }
        ClientError::Transport(error) => match error {
            TransportError::Network { .. } => None,
            // Somebody renews the token, makes room or mends a row: it is tried again until then.
            TransportError::Unauthorized(_) => None,
            error if error.waits() => None,
            error => Some(plain(&error.key())),
        },
        ClientError::Storage(_) | ClientError::Io { .. } => None,
        _ => Some(plain("client")),
    }
}
