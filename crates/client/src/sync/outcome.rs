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

/// The failures in a row before an answer of an earlier epoch stops background work: some minutes.
const EARLIER_EPOCHS: u32 = 10;

/// Returns whether background work tries again after `failures` in a row, although the error is one
/// that stops it. While a database fails over, a server may still answer from the former primary.
pub(crate) fn may_pass(error: &ClientError, failures: u32) -> bool {
    let ClientError::Transport(error) = error else { return false };
    error.is_of_earlier_epoch() && failures < EARLIER_EPOCHS
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

#[cfg(test)]
mod tests {
    use vfs_sync_core::cursor::{EarlierEpoch, Epoch};

    use super::*;

    #[test]
    fn an_answer_of_an_earlier_epoch_stops_only_if_it_keeps_coming() {
        let epoch = |value| Epoch::from_u64(value).unwrap();
        let earlier = EarlierEpoch { seen: epoch(2), told: epoch(1) };
        let earlier = ClientError::from(TransportError::earlier_epoch("pull", &earlier));
        assert!(stop_reason(&earlier).is_some());
        assert!(may_pass(&earlier, 0) && may_pass(&earlier, EARLIER_EPOCHS - 1));
        assert!(!may_pass(&earlier, EARLIER_EPOCHS));
        let field = "nextCursor".to_owned();
        let other = TransportError::MalformedResponse { call: "pull", field, reason: "".into() };
        assert!(!may_pass(&ClientError::from(other), 0));
    }
}
