//! Counts of the events of a run: a fault that never occurred proves nothing.

use std::collections::BTreeMap;

/// Counts of events by name. The names of each kind are declared, so that missing ones can be reported.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage(BTreeMap<(Kind, &'static str), u64>);

/// The kind of event that is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[derive(strum::IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
pub enum Kind {
    /// A fault that was injected.
    Fault,
    /// A guardrail that fired.
    Guardrail,
    /// An edit that was queued.
    Edit,
    /// A call that succeeded.
    Call,
    /// The result of an operation.
    Result,
    /// A check that was made.
    Check,
}

impl Kind {
    /// Returns the kind's name in the output.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// The events that a run over many seeds must have.
const EXPECTED: &[(Kind, &[&str])] = &[
    (
        Kind::Fault,
        &[
            "breach: a bad item in the middle of a page",
            "breach: a page behind the cursor",
            "breach: a page's write id goes back",
            "breach: a result for another operation",
            "breach: an acknowledged cursor goes back",
            "breach: an acknowledged write id goes back",
            "breach: an acknowledgement for another client",
            "breach: an empty page behind the cursor",
            "breach: an empty page with more",
            "breach: an entry twice",
            "breach: an item at the cursor",
            "breach: endlessly stale",
            "breach: nextCursor is missing",
            "breach: nextCursor is not the tail",
            "breach: other bytes",
            "breach: too few results",
            "database: committed, answer lost",
            "database: refused",
            "device: an old export took its place",
            "device: clock jumped",
            "device: crashed while talking",
            "device: set up anew",
            "network: answer broken off",
            "network: answer lost",
            "network: no server",
            "network: request doubled",
            "network: request lost",
            "objects: AccessDenied",
            "objects: InternalError",
            "objects: NoSuchKey",
            "objects: ServiceUnavailable",
            "objects: SlowDown",
            "objects: cut while reading",
            "objects: done, answer lost",
            "server: clock jumped",
            "server: crashed",
            "server: restored from a backup",
            "user: a rogue request",
        ],
    ),
    (
        Kind::Guardrail,
        &[
            "client: a token of another user",
            "client: other bytes are refused",
            "flush:staleWriteRecoveryExhausted",
            "malformedResponse",
            "pull:lastWriteIdRegression",
            "pull:pullCursorRegression",
            "pull:pullDuplicateOpReplay",
            "pull:pullPageInvariantViolation",
            "pull:pullRematerializationRequired",
            "reconcile:lastWriteIdRegression",
            "reconcile:reconcileCursorRegression",
        ],
    ),
    (
        Kind::Call,
        &[
            "append",
            "attach",
            "blobBatch",
            "client: a content was read",
            "client: a content was read among others",
            "download",
            "openUpload",
            "readBlobs",
            "stage",
            "stageState",
            "upload",
        ],
    ),
    (
        Kind::Result,
        &[
            "alreadyApplied",
            "applied",
            "attach: attached",
            "attach: content changed",
            "attach: expired",
            "invalidOp: notPermitted",
            "invalidOp: unknownItem",
            "outdatedOp: cycle",
            "outdatedOp: superseded",
            "outdatedOp: unseen",
            "pull: rematerialize",
            "staleWriteId",
        ],
    ),
];

/// The further events that worlds on disks must have.
const ON_DISKS: [&str; 9] = [
    "device's disk: a call failed",
    "device's disk: it was full",
    "device's disk: the power failed",
    "device's disk: the power failed, torn",
    "device: killed",
    "server's disk: a transaction failed",
    "server's disk: it was full",
    "server's disk: the power failed",
    "server's disk: the power failed, torn",
];

impl Coverage {
    /// Adds the faults of disks to the expected events.
    pub(crate) fn expect_disks(&mut self) {
        for name in ON_DISKS {
            self.0.entry((Kind::Fault, name)).or_default();
        }
    }

    pub(crate) fn count(&mut self, kind: Kind, name: &'static str) {
        *self.0.entry((kind, name)).or_default() += 1;
    }

    /// Adds the counts of another run.
    pub fn absorb(&mut self, other: &Self) {
        for (key, count) in &other.0 {
            *self.0.entry(*key).or_default() += count;
        }
    }

    /// Returns every count, with a zero for each expected event that never occurred.
    #[must_use]
    pub fn table(&self) -> Vec<(Kind, &'static str, u64)> {
        let expected =
            EXPECTED.iter().flat_map(|(kind, names)| names.iter().map(|name| (*kind, *name)));
        let mut all: BTreeMap<(Kind, &'static str), u64> = expected.map(|key| (key, 0)).collect();
        all.extend(self.0.iter().map(|(key, count)| (*key, *count)));
        all.into_iter().map(|((kind, name), count)| (kind, name, count)).collect()
    }

    /// Returns the expected events that never occurred.
    #[must_use]
    pub fn missing(&self) -> Vec<(Kind, &'static str)> {
        let table = self.table().into_iter();
        table.filter(|(_, _, count)| *count == 0).map(|(kind, name, _)| (kind, name)).collect()
    }
}
