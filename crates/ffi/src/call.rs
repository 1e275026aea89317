//! The calls of a client as data: JSON with the name of the call under `call`, and its arguments.
//! An unknown call, an unknown argument and a value of the wrong form are refused by name.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;
use vfs_sync_client::core::access::{AccessLevel, Principal};
use vfs_sync_client::core::id::{BlobId, ItemId, OpId, UserId};
use vfs_sync_client::core::item::{Name, ObjectType};
use vfs_sync_client::core::time::Timestamp;

use crate::query::QueryForm;
use crate::{Error, Result};

/// The greatest number of entries that a listing returns.
pub const MAX_LISTED: usize = 100_000;

const fn listed() -> usize {
    10_000
}

/// The calls that read the replica, on the caller's thread.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "call", rename_all = "camelCase", rename_all_fields = "camelCase")]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "as the calls of SyncClient and its groups")]
pub enum Read {
    User {},
    ClientId {},
    Device {},
    NewItemId {},
    Status {},
    SyncState {},
    Node {
        item: ItemId,
    },
    Children {
        parent: Option<ItemId>,
    },
    Resolve {
        path: String,
    },
    PathOf {
        item: ItemId,
    },
    ParentsOf {
        item: ItemId,
    },
    Walk {
        root: Option<ItemId>,
        owner: Option<UserId>,
        #[serde(default = "listed")]
        limit: usize,
    },
    SharedOwners {},
    SharedBy {
        owner: UserId,
    },
    SharedWithMe {},
    Grants {
        item: ItemId,
    },
    Audience {
        item: ItemId,
    },
    MayDelete {
        item: ItemId,
    },
    Operations {
        #[serde(default = "listed")]
        limit: usize,
    },
    Rejected {
        #[serde(default = "listed")]
        limit: usize,
    },
    RejectedUploads {},
    WaitingUploads {},
    Outstanding {},
    Lost {
        #[serde(default)]
        after: i64,
        #[serde(default = "listed")]
        limit: usize,
    },
    PendingTrash {},
    CacheUsage {},
    ExportState {
        #[serde(default)]
        redact: bool,
    },
}

/// An edit of the tree. Several edits of one call enter the queue together, or none does.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "edit", rename_all = "camelCase", rename_all_fields = "camelCase")]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "as the calls of Batch")]
pub enum Edit {
    /// Creates an item, under an id of the caller's or a new one; its result is the id.
    Create {
        id: Option<ItemId>,
        #[serde(rename = "type")]
        object_type: ObjectType,
        parent: Option<ItemId>,
        name: Name,
        #[serde(default)]
        metadata: BTreeMap<String, Value>,
    },
    Rename {
        item: ItemId,
        name: Name,
    },
    /// Moves an item under a container; without one, to the top.
    Move {
        item: ItemId,
        parent: Option<ItemId>,
    },
    Link {
        item: ItemId,
        parent: ItemId,
    },
    Unlink {
        item: ItemId,
        parent: ItemId,
    },
    /// Deletes an item; its result is the number of deleted items.
    Delete {
        item: ItemId,
        #[serde(default)]
        recursive: bool,
    },
    /// Sets metadata keys; `null` removes a key.
    SetMetadata {
        item: ItemId,
        metadata: BTreeMap<String, Value>,
    },
    Touch {
        item: ItemId,
        modified_at: Timestamp,
    },
    Share {
        item: ItemId,
        principal: Principal,
        level: AccessLevel,
    },
    Unshare {
        item: ItemId,
        principal: Principal,
    },
}

/// The calls that write the replica. They run one after another, in the order in which they were
/// made, on a thread for disk work.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "call", rename_all = "camelCase", rename_all_fields = "camelCase")]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "as the calls of SyncClient and its groups")]
pub enum Write {
    /// Makes several edits in one transaction; the result has one value for each.
    Edit {
        edits: Vec<Edit>,
    },
    GetOrCreateFolder {
        parent: Option<ItemId>,
        name: Name,
    },
    Copy {
        item: ItemId,
        parent: Option<ItemId>,
        name: Name,
    },
    MoveByCopy {
        item: ItemId,
        parent: Option<ItemId>,
        name: Name,
    },
    PutFile {
        item: ItemId,
        path: PathBuf,
    },
    Decline {
        item: ItemId,
    },
    Retry {
        op_id: OpId,
    },
    Discard {
        op_id: OpId,
    },
    RetryUpload {
        blob_id: BlobId,
    },
    DiscardUpload {
        blob_id: BlobId,
    },
    DiscardLost {
        numbers: Vec<i64>,
    },
    GrantAgain {},
    HydrateState {
        state: String,
    },
}

/// The calls that may need the server. They can be cancelled at any point.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "call", rename_all = "camelCase", rename_all_fields = "camelCase")]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "as the calls of SyncClient and its groups")]
pub enum Remote {
    Sync {},
    Flush {},
    Pull {},
    Rematerialise {},
    ServerState {},
    StartBackground {},
    StopBackground {},
    RequestSync {},
    Fetch {
        items: Vec<ItemId>,
    },
    Find {
        query: Box<QueryForm>,
    },
    Versions {
        item: ItemId,
    },
    Trash {},
    Restore {
        item: ItemId,
        #[serde(default)]
        recursive: bool,
    },
    Purge {
        item: ItemId,
        #[serde(default)]
        recursive: bool,
    },
    EmptyTrash {},
}

/// The streams that a client has.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "stream", rename_all = "camelCase", rename_all_fields = "camelCase")]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "each is described where the client opens it")]
pub enum Stream {
    /// The changes of the tree, each with the item before and after.
    Changes {},
    /// The events of synchronisation: rejected edits, conflicts, pauses, stops.
    Events {},
    /// The state of synchronisation, at first and after each change.
    SyncState {},
    /// The progress of syncs and downloads.
    Progress {},
    /// The children of a container, at first and after each change.
    Children { parent: Option<ItemId> },
    /// The first result of a query, all of it added, and each difference after it.
    Query { query: Box<QueryForm> },
}

/// Parses a call from its JSON.
///
/// # Errors
/// [`crate::ErrorCode::Invalid`], with the field and the reason.
pub fn parse<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T> {
    serde_json::from_str(json).map_err(|error| {
        // The position within generated text says nothing to the caller.
        let text = error.to_string();
        let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(reason, _)| reason);
        Error::invalid(format!("the call is not valid: {text}"))
    })
}
