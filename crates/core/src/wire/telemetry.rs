//! The wire format of reports: what a client tells its server of violations and stops.
//!
//! A report has no names, messages or contents: a signature, and details that are numbers, times
//! and ids. A server takes reports from anybody, so what it does not know counts as
//! [`OTHER`], and details are bounded in number and size.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::code;
use crate::guardrail::{SIGNATURES, Stage, Violation};
use crate::id::{MAX_ID_BYTES, OpId, ReplicaId};
use crate::time::Timestamp;

/// The greatest number of reports in one request, and of those that a client keeps until they are
/// sent.
pub const MAX_REPORTS: usize = 10;
/// The number of a device's latest reports that a server keeps.
pub const KEPT_REPORTS: usize = 10;
/// Bytes of the body of a request with reports.
pub const MAX_TELEMETRY_BYTES: usize = 32 * 1024;
/// Details of a report.
pub const MAX_DETAILS: usize = 8;
/// Bytes of UTF-8 in the text of a detail.
pub const MAX_DETAIL_BYTES: usize = MAX_ID_BYTES;
/// Bytes of UTF-8 in a client's version.
pub const MAX_VERSION_BYTES: usize = 32;

/// The signature, stage or code of what the server does not know.
pub const OTHER: &str = "other";

/// The codes with which a client stops, besides those of guardrails.
pub const STOP_CODES: [&str; 18] = [
    code::DEVICE_REVOKED,
    code::USER_DISABLED,
    code::USER_DELETED,
    code::REMATERIALIZATION_REQUIRED,
    code::WRITE_IDS_AHEAD,
    code::UPGRADE_REQUIRED,
    code::WRONG_USER,
    code::NOT_PERMITTED,
    code::INSUFFICIENT_SCOPE,
    code::INVALID_CURSOR,
    code::INVALID_REQUEST,
    code::TOO_LARGE,
    code::TOO_MANY_CONSEQUENCES,
    "not_found",
    "method_not_allowed",
    "invalid_address",
    "malformedResponse",
    "client",
];

/// The names of the details that violations have, except for texts that may quote an input.
const DETAILS: [&str; 23] = [
    "attempts",
    "hasMore",
    "incomingChangeId",
    "incomingChangedAt",
    "incomingWriteId",
    "index",
    "itemIndex",
    "itemsLength",
    "maxAttempts",
    "nextCursorChangeId",
    "nextCursorChangedAt",
    "oldestAvailableChangeId",
    "oldestAvailableChangedAt",
    "opId",
    "pageCursorChangeId",
    "pageCursorChangedAt",
    "previousChangeId",
    "previousChangedAt",
    "previousWriteId",
    "replicaId",
    "requestedChangeId",
    "requestedChangedAt",
    "staleResults",
];

/// The body of `POST /v1/vfs/telemetry`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TelemetryRequest {
    /// The replica that reports.
    pub client_id: ReplicaId,
    /// The version of the client's program.
    pub client_version: String,
    /// The reports, the oldest first.
    pub reports: Vec<Report>,
}

/// A violation, or a stop of a client's synchronisation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The random id by which a server recognises a repetition.
    pub report_id: OpId,
    /// The `stage:code` of a violation, or the code of a stop.
    pub signature: String,
    /// The stage of a violation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// The code of the violation or the stop.
    pub code: String,
    /// The details of the violation: numbers, times and ids.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub details: Map<String, Value>,
    /// The time of the client's clock.
    pub occurred_at: Timestamp,
}

impl Report {
    /// Creates the report of a violation, without the details that may quote an input.
    #[must_use]
    pub fn of_violation(report_id: OpId, violation: &Violation, occurred_at: Timestamp) -> Self {
        Self {
            report_id,
            signature: violation.signature(),
            stage: Some(violation.stage().as_str().to_owned()),
            code: violation.code().to_owned(),
            details: bounded(violation.details()),
            occurred_at,
        }
    }

    /// Creates the report of a stop for another reason than a violation.
    #[must_use]
    pub fn of_stop(report_id: OpId, code: &str, occurred_at: Timestamp) -> Self {
        let code = known_code(code);
        Self {
            report_id,
            signature: code.to_owned(),
            stage: None,
            code: code.to_owned(),
            details: Map::new(),
            occurred_at,
        }
    }

    /// Returns the report as a server counts and keeps it: unknown names are [`OTHER`], and only
    /// known details of bounded size remain.
    #[must_use]
    pub fn counted(self) -> Counted {
        let kind = match (
            known_guardrail(&self.signature),
            self.stage.is_some() || self.signature.contains(':'),
        ) {
            (Some((stage, code)), _) => Kind::Violation { stage: stage.as_str(), code },
            (None, true) => Kind::Violation { stage: OTHER, code: OTHER },
            (None, false) => Kind::Stop { code: known_code(&self.signature) },
        };
        Counted {
            report_id: self.report_id,
            kind,
            details: bounded(self.details),
            occurred_at: self.occurred_at,
        }
    }
}

/// The kind of a report, in names from a fixed list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A guardrail of the client failed.
    Violation {
        /// The stage, or [`OTHER`].
        stage: &'static str,
        /// The name of the rule, or [`OTHER`].
        code: &'static str,
    },
    /// Synchronisation stopped for another reason.
    Stop {
        /// The code of the answer, or [`OTHER`].
        code: &'static str,
    },
}

impl Kind {
    /// Returns the name by which a runbook lists it: `stage:code`, the code of a stop, or
    /// [`OTHER`].
    #[must_use]
    pub fn signature(self) -> String {
        match self {
            Self::Violation { stage: OTHER, .. } => OTHER.to_owned(),
            Self::Violation { stage, code } => format!("{stage}:{code}"),
            Self::Stop { code } => code.to_owned(),
        }
    }

    /// Returns the stage of a violation.
    #[must_use]
    pub const fn stage(self) -> Option<&'static str> {
        match self {
            Self::Violation { stage, .. } => Some(stage),
            Self::Stop { .. } => None,
        }
    }

    /// Returns the code of the violation or the stop.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Violation { code, .. } | Self::Stop { code } => code,
        }
    }

    /// Returns whether the client has to rebuild its replica.
    #[must_use]
    pub fn is_rematerialization(self) -> bool {
        let stage = Stage::Pull.as_str();
        self == Self::Violation { stage, code: "pullRematerializationRequired" }
            || self == Self::Stop { code: code::REMATERIALIZATION_REQUIRED }
    }
}

/// A report in the form in which a server counts and keeps it.
#[derive(Debug, Clone, PartialEq)]
pub struct Counted {
    /// The random id by which a repetition is recognised.
    pub report_id: OpId,
    /// The kind, in known names.
    pub kind: Kind,
    /// The known details, of bounded number and size.
    pub details: Map<String, Value>,
    /// The time of the client's clock.
    pub occurred_at: Timestamp,
}

/// Returns the code if it is a known one, else [`OTHER`].
#[must_use]
pub fn known_code(text: &str) -> &'static str {
    STOP_CODES.into_iter().find(|known| *known == text).unwrap_or(OTHER)
}

/// Returns the signature of a violation or the code of a stop if it is a known one, else [`OTHER`].
#[must_use]
pub fn known_signature(text: &str) -> String {
    match known_guardrail(text) {
        Some((stage, code)) => format!("{}:{code}", stage.as_str()),
        None => known_code(text).to_owned(),
    }
}

fn known_guardrail(signature: &str) -> Option<(Stage, &'static str)> {
    let (stage, code) = signature.split_once(':')?;
    SIGNATURES.into_iter().find(|known| (known.0.as_str(), known.1) == (stage, code))
}

/// Returns the details with known names whose values are numbers, true, false, null, or short
/// texts.
fn bounded(details: Map<String, Value>) -> Map<String, Value> {
    let fits = |value: &Value| match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => true,
        Value::String(text) => {
            text.len() <= MAX_DETAIL_BYTES && !text.chars().any(char::is_control)
        }
        Value::Array(_) | Value::Object(_) => false,
    };
    let kept = |(name, value): &(String, Value)| DETAILS.contains(&name.as_str()) && fits(value);
    details.into_iter().filter(kept).take(MAX_DETAILS).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report(signature: &str, stage: Option<&str>, details: Value) -> Report {
        Report {
            report_id: OpId::new("r").unwrap(),
            signature: signature.into(),
            stage: stage.map(str::to_owned),
            code: "anything".into(),
            details: details.as_object().cloned().unwrap(),
            occurred_at: Timestamp::MIN,
        }
    }

    #[test]
    fn a_known_signature_determines_stage_and_code() {
        let counted = report("pull:pullCursorRegression", Some("hostile"), json!({})).counted();
        assert_eq!(counted.kind.signature(), "pull:pullCursorRegression");
        assert_eq!(
            (counted.kind.stage(), counted.kind.code()),
            (Some("pull"), "pullCursorRegression")
        );
        let required = report("pull:pullRematerializationRequired", None, json!({})).counted();
        assert!(required.kind.is_rematerialization());
    }

    #[test]
    fn what_is_not_known_counts_as_other() {
        for (signature, stage, expected) in [
            ("pull:invented", Some("pull"), Kind::Violation { stage: OTHER, code: OTHER }),
            ("a:b:c", None, Kind::Violation { stage: OTHER, code: OTHER }),
            ("invented", None, Kind::Stop { code: OTHER }),
            ("wrong_user", None, Kind::Stop { code: code::WRONG_USER }),
        ] {
            let counted = report(signature, stage, json!({})).counted();
            assert_eq!(counted.kind, expected, "{signature}");
        }
        let other = report("x:y", None, json!({})).counted();
        assert_eq!(other.kind.signature(), OTHER);
    }

    #[test]
    fn details_are_known_ones_and_small() {
        let long = "x".repeat(MAX_DETAIL_BYTES + 1);
        let given = json!({
            "opId": "a", "attempts": 2, "hasMore": true, "nextCursorChangeId": null,
            "reason": "quotes \"Holiday.jpg\"", "replicaId": long, "itemIndex": [1],
            "previousChangeId": "a\u{7}", "name": "Holiday.jpg",
        });
        let counted = report("pull:pullDuplicateOpReplay", Some("pull"), given).counted();
        let kept = json!({"opId": "a", "attempts": 2, "hasMore": true, "nextCursorChangeId": null});
        assert_eq!(Value::Object(counted.details), kept);
        let all: Map<String, Value> =
            DETAILS.iter().map(|name| ((*name).into(), json!(1))).collect();
        assert_eq!(bounded(all).len(), MAX_DETAILS);
    }

    #[test]
    fn a_refused_state_is_reported_without_what_it_quotes() {
        let reason = "invalid type: string \"Holiday.jpg\"".to_owned();
        let violation = Violation::Hydrate { field: "items".into(), index: Some(3), reason };
        let report = Report::of_violation(OpId::new("r").unwrap(), &violation, Timestamp::MIN);
        assert_eq!(Value::Object(report.details), json!({"index": 3}));
        assert_eq!(report.signature, "hydrate:hydrateGuardrailViolation");
    }
}
