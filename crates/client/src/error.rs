//! Errors of the client.

use vfs_sync_core::access::AccessLevel;
use vfs_sync_core::cursor::Cursor;
use vfs_sync_core::guardrail::Violation;
use vfs_sync_core::id::{BlobId, ItemId};
use vfs_sync_core::time::Timestamp;

use crate::api::node::Reader;
use crate::transport::TransportError;

/// The result of a call of the client.
pub type Result<T, E = ClientError> = std::result::Result<T, E>;

/// The reason why a call failed. The call changed nothing unless the variant says so.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server broke the protocol. The violation is emitted to the observers before the call
    /// returns.
    #[error("{0}")]
    Violation(Box<Violation>),
    /// The call failed at the server or on the network.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The replica's tree has no such item.
    #[error("there is no item {0}")]
    UnknownItem(ItemId),
    /// The path leads to no item.
    #[error("there is nothing at {0}")]
    UnknownPath(String),
    /// A move or link would put an item under itself.
    #[error("{child} cannot hang under {parent}: it would contain itself")]
    Cycle {
        /// The container to move or link into.
        parent: ItemId,
        /// The item to move or link.
        child: ItemId,
    },
    /// A pull or another call changed the item while it was being copied, so the copy is
    /// incomplete.
    #[error("{0} changed while it was copied, and nothing was done: try again")]
    Changed(ItemId),
    /// The user's level on the item is too low, as far as this replica knows.
    #[error("{item} takes the level {needs} for this, and you have {has}")]
    NotPermitted {
        /// The item that was to be edited.
        item: ItemId,
        /// The level that the call needs.
        needs: AccessLevel,
        /// The level that the user has.
        has: AccessLevel,
    },
    /// An item cannot move from one owner's tree into another's;
    /// [`SyncClient::move_by_copy`](crate::SyncClient::move_by_copy) copies it and deletes the
    /// original.
    #[error("{item} cannot be moved into another owner's tree")]
    OtherTree {
        /// The item that was to move.
        item: ItemId,
        /// The target; `None` for the top of the user's own tree.
        parent: Option<ItemId>,
    },
    /// The call is not possible; the text gives the reason and a remedy.
    #[error("{0}")]
    Invalid(String),
    /// The item has no content.
    #[error("{0} has no content")]
    NoContent(ItemId),
    /// The server repeatedly returned a complete answer whose bytes are not the content.
    #[error("the server's bytes of {item}, content {blob_id}, are not the content: {reason}")]
    WrongContent {
        /// The id of the content.
        blob_id: BlobId,
        /// The item that has the content.
        item: ItemId,
        /// The difference between the bytes and the content.
        reason: String,
    },
    /// No grant on the item names the user: the item is shared with a group, or through a container
    /// above it.
    #[error("{item} is not shared with the user by name: no grant on it can be declined")]
    NotDeclined {
        /// The item that cannot be declined.
        item: ItemId,
        /// The grants that reach the user, as far as this replica knows.
        through: Vec<Reader>,
    },
    /// No operation with this id is in the list.
    #[error("there is no rejected operation {0}")]
    UnknownRejected(String),
    /// Another process has this replica open.
    #[error("the replica {0} is in use by another process")]
    InUse(String),
    /// The replica was made by a newer version.
    #[error("the replica {path} has format {found}, this program knows {known}: use a newer one")]
    NewerReplica {
        /// The path of the replica's file.
        path: String,
        /// The format of the file.
        found: i64,
        /// The format that this program knows.
        known: i64,
    },
    /// The replica has the format of an earlier version, and is only read: the next command that
    /// opens it upgrades it.
    #[error("the replica {path} has format {found}, and is upgraded to {known} when it is used")]
    OlderReplica {
        /// The path of the replica's file.
        path: String,
        /// The format of the file.
        found: i64,
        /// The format that this program writes.
        known: i64,
    },
    /// The replica's file is damaged, or is not a replica.
    #[error("the replica {path} cannot be read: {reason}")]
    CorruptReplica {
        /// The path of the replica's file.
        path: String,
        /// The reason that SQLite gives.
        reason: String,
    },
    /// The directory already contains a replica.
    #[error("there is a replica in {0} already")]
    ReplicaExists(String),
    /// The directory does not contain a replica.
    #[error("there is no replica in {0}: make one first")]
    NoReplica(String),
    /// The replica's disk failed; a retry may help once the cause (often lack of space) is
    /// repaired.
    #[error("the replica's storage failed: {0}")]
    Storage(String),
    /// Reading or writing a content failed.
    #[error("{what}: {source}")]
    Io {
        /// The action that failed, such as "cannot open …".
        what: String,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// Background work stopped on a violation and can only be started by hand.
    #[error("synchronisation is stopped: {}", .0.message)]
    Stopped(StopReason),
    /// The server was restored repeatedly while the replica was rebuilt; the replica is unchanged.
    #[error("the server was restored again while the replica was rebuilt: sync again")]
    RestoredDuringRebuild,
}

impl From<Violation> for ClientError {
    fn from(violation: Violation) -> Self {
        Self::Violation(Box::new(violation))
    }
}

impl ClientError {
    /// Returns the violation, if the error is one.
    #[must_use]
    pub fn violation(&self) -> Option<&Violation> {
        match self {
            Self::Violation(violation) => Some(violation),
            _ => None,
        }
    }

    /// Returns the key by which the runbook ([`vfs_sync_core::runbook`]) explains the error.
    #[must_use]
    pub fn key(&self) -> String {
        let own = match self {
            Self::Violation(violation) => return violation.signature(),
            Self::Transport(error) => return error.key(),
            Self::Stopped(reason) => return reason.signature.clone(),
            Self::InUse(_) => "inUse",
            Self::NewerReplica { .. } => "newerReplica",
            Self::CorruptReplica { .. } => "corruptReplica",
            Self::Storage(_) | Self::Io { .. } => "storage",
            Self::WrongContent { .. } => "wrongContent",
            Self::RestoredDuringRebuild => "restoredDuringRebuild",
            _ => "client",
        };
        own.to_owned()
    }

    /// Returns true if the same call may succeed later without intervention.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Transport(error) if error.is_transient())
    }

    /// Returns the time that the server asks to wait.
    pub(crate) fn retry_after(&self) -> Option<std::time::Duration> {
        match self {
            Self::Transport(error) => error.retry_after(),
            _ => None,
        }
    }

    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// The reason why background work stopped; the replica keeps it until work is started by hand.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StopReason {
    /// The `stage:code` of a violation, or the code of a fatal answer.
    pub signature: String,
    /// The text of the error.
    pub message: String,
    /// The details, as JSON text.
    pub details: String,
    /// The oldest position that the server can serve, if rematerialising would help.
    pub oldest_available: Option<Cursor>,
}

/// The reason why synchronising has failed since its last success, for a diagnosis. A retry may
/// succeed: work that cannot go on has a [`StopReason`].
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failing {
    /// The key of the error in the runbook.
    pub key: String,
    /// The text of the first failure with this key.
    pub message: String,
    /// The time of the first failure since the last success, by this device's clock.
    pub since: Timestamp,
    /// The time of the first failure with this key, by this device's clock.
    pub at: Timestamp,
}
