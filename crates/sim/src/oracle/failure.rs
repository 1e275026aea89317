//! Failures that a run can find.

use std::fmt;

/// The kind of the broken promise. Each has its own exit code.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    serde::Serialize,
    strum::Display,
    strum::IntoStaticStr,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum FailureKind {
    /// A replica that has settled does not hold what its user may see.
    Convergence,
    /// The server's answer is not the one that the protocol's rules give.
    Answer,
    /// An operation that the client took is nowhere: not applied, not refused, not queued.
    Lost,
    /// An operation was applied more than once.
    AppliedTwice,
    /// A reader saw its own write vanish, or something older than before.
    Session,
    /// A write was superseded by one that its author had seen.
    Causality,
    /// An item contains itself.
    Cycle,
    /// A failed call changed the replica, or failed otherwise than it had to.
    FailClosed,
    /// A guardrail fired, or a call was refused, though nobody broke the protocol.
    FalseAlarm,
    /// All is well again, and something is still waiting.
    Drain,
    /// A user received, or keeps, what they may not see.
    Secrecy,
    /// A content that was attached cannot be had, or is another one.
    Content,
    /// The program panicked, or a server failed by its own fault.
    Panic,
    /// The same seed gave another run.
    Determinism,
    /// A history did not end.
    Endless,
}

impl FailureKind {
    /// All kinds of failures.
    pub const ALL: [Self; 15] = [
        Self::Convergence,
        Self::Answer,
        Self::Lost,
        Self::AppliedTwice,
        Self::Session,
        Self::Causality,
        Self::Cycle,
        Self::FailClosed,
        Self::FalseAlarm,
        Self::Drain,
        Self::Secrecy,
        Self::Content,
        Self::Panic,
        Self::Determinism,
        Self::Endless,
    ];

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

/// A promise that was broken, and how.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Failure {
    /// The kind of the broken promise.
    pub kind: FailureKind,
    /// The finding, with the expected state.
    pub message: String,
    /// The step of the history at which it was found.
    pub step: usize,
    /// Simulated milliseconds since the beginning.
    pub at_millis: u64,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.at_millis / 1_000;
        let millis = self.at_millis % 1_000;
        write!(f, "{} at step {} ({seconds}.{millis:03} s): {}", self.kind, self.step, self.message)
    }
}
