//! Failures, by variant.

use std::collections::HashMap;

use vfs_sync_ffi::{Error, ErrorCode};

use crate::json::{self, JsonValue};

macro_rules! failures {
    ($($(#[doc = $doc:literal])+ $code:ident,)+) => {
        /// The reason why a call failed. The call changed nothing, except where its description says so.
        #[derive(Debug, Clone, PartialEq, thiserror::Error, uniffi::Error)]
        pub enum VfsSyncError {
            /// A guardrail: the server broke the protocol, or a state contradicts itself.
            #[error("{reason}")]
            Violation {
                /// The failure in words.
                reason: String,
                /// The `stage:code` of the guardrail.
                signature: String,
                /// The stage of the guardrail.
                stage: String,
                /// The details by name.
                details: HashMap<String, JsonValue>,
            },
            $(
                $(#[doc = $doc])+
                #[error("{reason}")]
                $code {
                    /// The failure in words.
                    reason: String,
                    /// True if the same call may succeed later.
                    transient: bool,
                    /// The details by name.
                    details: HashMap<String, JsonValue>,
                },
            )+
        }

        impl From<Error> for VfsSyncError {
            fn from(error: Error) -> Self {
                let Error { code, message: reason, signature, stage, details, transient } = error;
                let details = json::fields(details);
                match code {
                    ErrorCode::Violation => Self::Violation {
                        reason,
                        signature: signature.unwrap_or_default(),
                        stage: stage.unwrap_or_default().to_owned(),
                        details,
                    },
                    $(ErrorCode::$code => Self::$code { reason, transient, details },)+
                }
            }
        }
    };
}

failures! {
    /// The server cannot be reached or is busy: the same call may succeed later.
    Network,
    /// The server accepted none of the tokens.
    Unauthorized,
    /// The token belongs to another user than the replica.
    WrongUser,
    /// The server cannot serve the replica's position.
    RematerializationRequired,
    /// The server knows fewer write ids than the client.
    WriteIdsAhead,
    /// The request is larger than the server accepts.
    TooLarge,
    /// The server's address is not valid.
    InvalidAddress,
    /// The server refused the request for another reason.
    Refused,
    /// The answer does not have the protocol's form.
    MalformedResponse,
    /// The tree has no such item.
    UnknownItem,
    /// The path leads to no item.
    UnknownPath,
    /// An item would hang under itself.
    Cycle,
    /// The item changed while it was copied.
    Changed,
    /// The user's level on the item is too low.
    NotPermitted,
    /// The item cannot move into another owner's tree.
    OtherTree,
    /// An argument is not valid, or the call is not possible.
    Invalid,
    /// The item has no content.
    NoContent,
    /// The server's bytes are not the content.
    WrongContent,
    /// No grant names the user.
    NotDeclined,
    /// The list has no such rejected operation or content.
    UnknownRejected,
    /// Another process has the replica open.
    InUse,
    /// The replica was made by a newer version.
    NewerReplica,
    /// The replica was made by an older version, and the call only reads.
    OlderReplica,
    /// The replica's file is damaged.
    CorruptReplica,
    /// The directory has a replica already.
    ReplicaExists,
    /// The directory has no replica.
    NoReplica,
    /// The replica's disk failed.
    Storage,
    /// A file or a content could not be read or written.
    Io,
    /// Synchronisation is stopped until it is started by hand.
    Stopped,
    /// The server was restored again while the replica was rebuilt.
    RestoredDuringRebuild,
    /// The caller cancelled the call.
    Cancelled,
    /// The client, or the stream, is closed.
    Closed,
    /// The call panicked: a bug. The replica has rolled back what was not finished.
    Panicked,
}
