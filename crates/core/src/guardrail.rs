//! The guardrails: each check whose failure means that the protocol was broken, in one table.
//!
//! A violation stops the client and changes nothing. Its signature, message and details are the
//! same every time the same rule is broken in the same way; nothing in them depends on time,
//! chance or addresses. An operator's runbook explains each signature.

use std::fmt;

use serde_json::{Map, Value, json};

use crate::cursor::Cursor;
use crate::id::{ChangeId, ReplicaId, WriteId};

/// The part of a client's work in which a violation is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, strum::IntoStaticStr)]
#[allow(missing_docs)]
#[strum(serialize_all = "lowercase")]
pub enum Stage {
    Pull,
    Reconcile,
    Flush,
    Hydrate,
}

impl Stage {
    /// Returns the stage's name in a signature.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// The stage and code of every violation: what a signature consists of.
pub const SIGNATURES: [(Stage, &str); 9] = [
    (Stage::Pull, "pullPageInvariantViolation"),
    (Stage::Pull, "pullDuplicateOpReplay"),
    (Stage::Pull, "pullCursorRegression"),
    (Stage::Pull, "lastWriteIdRegression"),
    (Stage::Pull, "pullRematerializationRequired"),
    (Stage::Reconcile, "reconcileCursorRegression"),
    (Stage::Reconcile, "lastWriteIdRegression"),
    (Stage::Flush, "staleWriteRecoveryExhausted"),
    (Stage::Hydrate, "hydrateGuardrailViolation"),
];

/// A violated rule, with the details for its diagnosis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// The server's write id for a replica is below an earlier one.
    LastWriteIdRegression {
        /// The stage, [`Stage::Pull`] or [`Stage::Reconcile`].
        stage: Stage,
        /// The replica whose write id regressed.
        replica_id: ReplicaId,
        /// The write id that was seen or sent before.
        previous: WriteId,
        /// The write id in the answer.
        incoming: WriteId,
    },
    /// A page that has `hasMore` but no items.
    EmptyPageWithMore,
    /// A change id occurs twice within one pull cycle.
    DuplicateOpReplay {
        /// The change id that occurred twice.
        op_id: ChangeId,
    },
    /// `nextCursor` is not the cursor of the page's last item, or is missing although `hasMore` is
    /// set.
    NextCursorMismatch {
        /// The value of `nextCursor` in the page.
        next_cursor: Option<Cursor>,
        /// The cursor of the page's last item.
        page_cursor: Cursor,
    },
    /// The cursor of the page is before the replica's.
    PullCursorRegression {
        /// The cursor of the replica.
        previous: Cursor,
        /// The cursor of the page.
        incoming: Cursor,
    },
    /// An item is not strictly after the one before it, or not after the local cursor.
    ItemsOutOfOrder {
        /// The index of the item in the page, from 0.
        item_index: usize,
        /// The id of the item's position.
        op_id: ChangeId,
    },
    /// The server can no longer serve the cursor.
    RematerializationRequired {
        /// The cursor that the client asked for.
        requested: Option<Cursor>,
        /// The oldest cursor that the server can serve.
        oldest_available: Option<Cursor>,
    },
    /// The acknowledged cursor is before the one sent.
    ReconcileCursorRegression {
        /// The cursor that the client sent.
        previous: Cursor,
        /// The cursor that the server acknowledged.
        incoming: Cursor,
    },
    /// Stale write ids persist after all recoveries.
    StaleWriteRecoveryExhausted {
        /// The number of recoveries made.
        attempts: u32,
        /// The number of recoveries allowed.
        max_attempts: u32,
        /// Stale results in the last push.
        stale_results: usize,
    },
    /// An exported state is malformed or contradicts itself.
    Hydrate {
        /// The path of the field.
        field: String,
        /// The index of the element in the field, from 0.
        index: Option<usize>,
        /// The problem with the field.
        reason: String,
    },
}

impl Violation {
    /// Returns the stage in which the violation was found.
    #[must_use]
    pub const fn stage(&self) -> Stage {
        match self {
            Self::LastWriteIdRegression { stage, .. } => *stage,
            Self::EmptyPageWithMore
            | Self::DuplicateOpReplay { .. }
            | Self::NextCursorMismatch { .. }
            | Self::PullCursorRegression { .. }
            | Self::ItemsOutOfOrder { .. }
            | Self::RematerializationRequired { .. } => Stage::Pull,
            Self::ReconcileCursorRegression { .. } => Stage::Reconcile,
            Self::StaleWriteRecoveryExhausted { .. } => Stage::Flush,
            Self::Hydrate { .. } => Stage::Hydrate,
        }
    }

    /// Returns the name of the rule.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::LastWriteIdRegression { .. } => "lastWriteIdRegression",
            Self::EmptyPageWithMore
            | Self::NextCursorMismatch { .. }
            | Self::ItemsOutOfOrder { .. } => "pullPageInvariantViolation",
            Self::DuplicateOpReplay { .. } => "pullDuplicateOpReplay",
            Self::PullCursorRegression { .. } => "pullCursorRegression",
            Self::RematerializationRequired { .. } => "pullRematerializationRequired",
            Self::ReconcileCursorRegression { .. } => "reconcileCursorRegression",
            Self::StaleWriteRecoveryExhausted { .. } => "staleWriteRecoveryExhausted",
            Self::Hydrate { .. } => "hydrateGuardrailViolation",
        }
    }

    /// Returns `stage:code`, the name by which a runbook lists the violation.
    #[must_use]
    pub fn signature(&self) -> String {
        format!("{}:{}", self.stage().as_str(), self.code())
    }

    /// Returns the text of the error.
    #[must_use]
    pub fn message(&self) -> String {
        match self {
            Self::LastWriteIdRegression { replica_id, .. } => {
                format!("transport regressed lastReconciledWriteIds for replica {replica_id}")
            }
            Self::EmptyPageWithMore => {
                "transport returned hasMore=true with an empty pull page".into()
            }
            Self::DuplicateOpReplay { op_id } => {
                format!("transport replayed opId {op_id} during pull pagination")
            }
            Self::NextCursorMismatch { .. } => {
                "transport returned nextCursor that does not match pull page tail".into()
            }
            Self::PullCursorRegression { .. } => "transport returned regressing sync cursor".into(),
            Self::ItemsOutOfOrder { .. } => "transport returned items out of feed order".into(),
            Self::RematerializationRequired { .. } => {
                "pull requires re-materialization from canonical state".into()
            }
            Self::ReconcileCursorRegression { .. } => {
                "transport reconcile regressed sync cursor".into()
            }
            Self::StaleWriteRecoveryExhausted { .. } => {
                "stale write-id recovery exceeded max retry attempts without forward progress"
                    .into()
            }
            Self::Hydrate { field, index: Some(index), reason } => {
                format!("{field}[{index}] {reason}")
            }
            Self::Hydrate { field, index: None, reason } => format!("{field} {reason}"),
        }
    }

    /// The details of the violation, by name.
    #[must_use]
    pub fn details(&self) -> Map<String, Value> {
        let pair = |previous: &Cursor, incoming: &Cursor| {
            json!({
                "previousChangedAt": previous.changed_at, "previousChangeId": previous.change_id,
                "incomingChangedAt": incoming.changed_at, "incomingChangeId": incoming.change_id,
            })
        };
        let at = |cursor: &Option<Cursor>| cursor.as_ref().map(|c| c.changed_at);
        let id = |cursor: &Option<Cursor>| cursor.as_ref().map(|c| c.change_id.clone());
        let details = match self {
            Self::LastWriteIdRegression { replica_id, previous, incoming, .. } => json!({
                "replicaId": replica_id, "previousWriteId": previous, "incomingWriteId": incoming,
            }),
            Self::EmptyPageWithMore => json!({"hasMore": true, "itemsLength": 0}),
            Self::DuplicateOpReplay { op_id } => json!({"opId": op_id}),
            Self::NextCursorMismatch { next_cursor, page_cursor } => json!({
                "nextCursorChangedAt": at(next_cursor), "nextCursorChangeId": id(next_cursor),
                "pageCursorChangedAt": page_cursor.changed_at,
                "pageCursorChangeId": page_cursor.change_id,
            }),
            Self::PullCursorRegression { previous, incoming }
            | Self::ReconcileCursorRegression { previous, incoming } => pair(previous, incoming),
            Self::ItemsOutOfOrder { item_index, op_id } => {
                json!({"itemIndex": item_index, "opId": op_id})
            }
            Self::RematerializationRequired { requested, oldest_available } => json!({
                "requestedChangedAt": at(requested), "requestedChangeId": id(requested),
                "oldestAvailableChangedAt": at(oldest_available),
                "oldestAvailableChangeId": id(oldest_available),
            }),
            Self::StaleWriteRecoveryExhausted { attempts, max_attempts, stale_results } => json!({
                "attempts": attempts, "maxAttempts": max_attempts, "staleResults": stale_results,
            }),
            Self::Hydrate { field, index, reason } => {
                json!({"field": field, "index": index, "reason": reason})
            }
        };
        match details {
            Value::Object(details) => details,
            _ => Map::new(),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message())
    }
}

impl std::error::Error for Violation {}
