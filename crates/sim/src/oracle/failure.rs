//! Failures that a run can find.

use std::fmt;

/// The kind of the broken promise. Each kind has its own exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[derive(strum::Display, strum::IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
pub enum FailureKind {
    /// A settled replica does not equal its user's view.
    Convergence,
    /// The server's answer differs from the one that the protocol's rules give.
    Answer,
    /// An operation that the client accepted is lost: neither applied, nor rejected, nor queued.
    Lost,
    /// An operation was applied more than once.
    AppliedTwice,
    /// A reader saw its own write disappear, or an older state than before.
    Session,
    /// A write was superseded by one that its author had seen.
    Causality,
    /// An item contains itself through its links.
    Cycle,
    /// A failed call changed the replica, or failed in another way than required.
    FailClosed,
    /// A guardrail fired, or a call was rejected, although nobody broke the protocol.
    FalseAlarm,
    /// Work still waits although all faults have ended.
    Drain,
    /// A user received, or keeps, data that they may not see.
    Secrecy,
    /// An attached content is missing, or has other bytes.
    Content,
    /// The program panicked, or a server failed by its own fault.
    Panic,
    /// The same seed gave a different run.
    Determinism,
    /// A history did not end in time.
    Endless,
    /// A file has a content that no file had at any one moment.
    Torn,
    /// A look at a directory in step found changes, or read contents.
    Echo,
    /// A file that was saved or moved is another item.
    Identity,
    /// The database derived something that does not follow from its registers.
    Derived,
}

impl FailureKind {
    /// Returns the exit code of the program if this is the first failure.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        10 + self as u8
    }

    /// Returns the kind's name in the output.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// A broken promise, with a description.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Failure {
    /// The kind of the broken promise.
    pub kind: FailureKind,
    /// The finding, and the expected state.
    pub message: String,
    /// The step of the history at which it was found.
    pub step: usize,
    /// The simulated milliseconds since the start.
    pub at_millis: u64,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.at_millis / 1_000;
        let millis = self.at_millis % 1_000;
        write!(f, "{} at step {} ({seconds}.{millis:03} s): {}", self.kind, self.step, self.message)
    }
}
