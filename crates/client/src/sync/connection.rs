//! The state of the connection to the server, for an application to show.

use std::time::Duration;

use vfs_sync_core::time::Timestamp;

/// The way in which changes of others reach this replica at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Connectivity {
    /// No call was made yet.
    #[default]
    Unknown,
    /// The server answers, and live updates are interrupted for a moment, or it is not known yet
    /// whether it sends them.
    Online,
    /// Changes arrive at once.
    Live,
    /// Changes arrive at the configured interval.
    Polling(PollingReason),
    /// The server cannot be reached.
    Offline {
        /// The time of the first call without an answer.
        since: Timestamp,
    },
}

/// The reason why changes arrive only at an interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::Display, strum::IntoStaticStr)]
#[strum(serialize_all = "camelCase")]
pub enum PollingReason {
    /// The server or the transport has no live updates.
    Unsupported,
    /// Live updates do not get through: something on the way holds them back.
    HeldBack,
    /// The server has too many streams open, or failed to open one.
    Refused,
}

/// The state of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Connection {
    /// The way in which changes reach this replica.
    pub state: Connectivity,
    /// The last time at which the replica was known to have everything that the server had, and
    /// nothing to send.
    pub in_step_at: Option<Timestamp>,
}

/// The time after which live updates are tried again where they do not get through.
pub(crate) const TRY_AGAIN: Duration = Duration::from_secs(3_600);
/// The time without any event after which a stream counts as dead. A server sends a sign of life
/// every 25 seconds.
pub(crate) const SILENCE: Duration = Duration::from_secs(60);
