//! The values that a client takes and returns.

use std::collections::HashMap;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::json::JsonValue;
use crate::time;

/// The type of an item, fixed at its creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, uniffi::Enum)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "their names say it")]
pub enum ObjectType {
    File,
    Folder,
    Photo,
    Audio,
    Video,
    Contact,
    Note,
    Email,
    Playlist,
    Album,
    ContactGroup,
    EmailFolder,
    Tag,
}

/// A level of access; each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, uniffi::Enum)]
#[serde(rename_all = "camelCase")]
pub enum AccessLevel {
    /// May see the item and its content.
    Read,
    /// May change fields, content and children.
    Write,
    /// May delete the item and decide who sees it.
    Admin,
}

/// The kind of a principal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, uniffi::Enum)]
#[serde(rename_all = "camelCase")]
pub enum PrincipalKind {
    /// A single user.
    User,
    /// The members of a group.
    Group,
    /// The members of an organization.
    Organization,
}

/// A user, group or organization that a grant names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, uniffi::Record)]
pub struct Principal {
    /// The kind.
    pub kind: PrincipalKind,
    /// The id within the kind.
    pub id: String,
}

/// The content of an item.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, uniffi::Record)]
#[serde(rename_all = "camelCase")]
pub struct ItemContent {
    /// The id of the content.
    pub blob_id: String,
    /// The size in bytes.
    pub size: u64,
    /// The SHA-256 digest.
    pub digest: String,
    /// The media type, if the server knows it.
    pub content_type: Option<String>,
}

/// An item as this replica shows it: the confirmed state with the queued edits on top.
#[derive(Debug, Clone, PartialEq, Deserialize, uniffi::Record)]
#[serde(rename_all = "camelCase")]
pub struct Item {
    /// The id.
    pub id: String,
    /// The user in whose tree the item is.
    pub owner: String,
    /// The type.
    #[serde(rename = "type")]
    pub object_type: ObjectType,
    /// The name; an encrypted item may have none.
    pub name: Option<String>,
    /// The metadata by key.
    pub metadata: HashMap<String, JsonValue>,
    /// The encrypted fields of an item that has some, as JSON.
    pub encrypted: Option<JsonValue>,
    /// The time when it was created.
    #[serde(deserialize_with = "time::required")]
    pub created_at: SystemTime,
    /// The time when it was changed last.
    #[serde(deserialize_with = "time::required")]
    pub modified_at: SystemTime,
    /// This user's level.
    pub access_level: AccessLevel,
    /// The content, if it has one.
    pub content: Option<ItemContent>,
    /// True if queued edits of it wait for the server.
    pub pending: bool,
}

/// An item under a container.
#[derive(Debug, Clone, PartialEq, Deserialize, uniffi::Record)]
#[serde(rename_all = "camelCase")]
pub struct Child {
    /// The item.
    #[serde(flatten)]
    pub item: Item,
    /// The name to show, unique among the siblings.
    pub shown_name: String,
    /// True if the item is a link to another place.
    pub shortcut: bool,
}

/// An item that a walk visits.
#[derive(Debug, Clone, PartialEq, Deserialize, uniffi::Record)]
#[serde(rename_all = "camelCase")]
pub struct TreeEntry {
    /// The item.
    #[serde(flatten)]
    pub item: Item,
    /// The path from the start of the walk.
    pub path: String,
    /// The number of containers above it.
    pub depth: u32,
    /// The container.
    pub parent: Option<String>,
    /// True if the item is a link to another place.
    pub shortcut: bool,
    /// The path at which the walk visited the item before.
    pub linked_again: Option<String>,
}

/// An item with its place.
#[derive(Debug, Clone, PartialEq, Deserialize, uniffi::Record)]
pub struct ShownItem {
    /// The item.
    #[serde(flatten)]
    pub item: Item,
    /// The path, with the names as they were set.
    pub path: String,
    /// The containers.
    pub parents: Vec<String>,
}

/// A change of the tree.
#[derive(Debug, Clone, PartialEq, Deserialize, uniffi::Enum)]
#[serde(tag = "type", rename_all = "camelCase")]
#[allow(
    clippy::large_enum_variant,
    reason = "the languages have no boxes, and a value lives for a call"
)]
pub enum TreeChange {
    /// An item is there now.
    Appeared {
        /// The item's id.
        id: String,
        /// True for an edit on this device.
        local: bool,
        /// The item.
        after: ShownItem,
    },
    /// An item is not what it was, or not where it was.
    Changed {
        /// The item's id.
        id: String,
        /// True for an edit on this device.
        local: bool,
        /// The item before.
        before: ShownItem,
        /// The item now.
        after: ShownItem,
    },
    /// An item is not there any more.
    Went {
        /// The item's id.
        id: String,
        /// True for an edit on this device.
        local: bool,
        /// The item before.
        before: ShownItem,
    },
    /// The replica was rebuilt: anything may have changed.
    Rebuilt,
    /// Changes were missed because the reader was too slow.
    Missed {
        /// Their number.
        count: u64,
    },
}

/// The reason why background work stopped or pauses.
#[derive(Debug, Clone, PartialEq, Deserialize, uniffi::Record)]
#[serde(rename_all = "camelCase")]
pub struct StopReason {
    /// The `stage:code` of a violation, or the code of a fatal answer.
    pub signature: String,
    /// The reason in words.
    pub message: String,
    /// The details as JSON.
    pub details: Option<JsonValue>,
    /// The oldest position that the server can serve, if rematerialising would help.
    pub oldest_available: Option<String>,
}

/// The numbers of changes that were sent again to a restored server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, uniffi::Record)]
pub struct Offered {
    /// The number of grants that were removed or lowered.
    pub revocations: u64,
    /// The number of deleted items and removed links.
    pub deletions: u64,
    /// The number of items that were created again or updated.
    pub items: u64,
    /// The number of links and moves.
    pub links: u64,
    /// The number of contents.
    pub contents: u64,
    /// The number of changes that are now in the list of lost ones.
    pub listed: u64,
}

/// The result of a sync.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, uniffi::Record)]
#[serde(rename_all = "camelCase")]
pub struct SyncReport {
    /// The number of operations that the server applied.
    pub applied: u64,
    /// The number of operations that the server had newer values for.
    pub outdated: u64,
    /// The number of operations that the server rejected.
    pub rejected: u64,
    /// The number of changes that were pulled.
    pub pulled: u64,
    /// The number of contents that were uploaded.
    pub uploaded: u64,
    /// The number of contents that the server cannot take at present.
    pub waiting: u64,
    /// The bytes that were uploaded.
    pub uploaded_bytes: u64,
    /// The number of pushes.
    pub pushes: u64,
    /// The number of pages that were pulled.
    pub pages: u64,
    /// True if the replica was rebuilt.
    pub rematerialised: bool,
    /// The changes that were sent again to a restored server.
    pub offered: Offered,
}

/// Work that is still to be sent, and work that was rejected.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, uniffi::Record)]
#[serde(rename_all = "camelCase")]
pub struct Outstanding {
    /// The number of operations in the queue.
    pub pending: u64,
    /// The number of contents in the queue.
    pub uploads: u64,
    /// The server's reason for the first upload that it cannot take at present.
    pub waiting: Option<String>,
    /// The number of rejected operations.
    pub rejected: u64,
    /// The number of rejected contents.
    pub rejected_uploads: u64,
    /// The reason for the first rejection.
    pub refused: Option<String>,
    /// The number of changes that a restored server lost and that could not be offered again.
    pub lost: u64,
}

/// The way in which changes of other devices arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, uniffi::Enum)]
#[serde(rename_all = "camelCase")]
pub enum Connection {
    /// Nothing was tried yet.
    Unknown,
    /// The server was reached at the last attempt.
    Online,
    /// Changes arrive as they are made.
    Live,
    /// Changes arrive at an interval.
    Polling,
    /// The server cannot be reached.
    Offline,
}

/// The state of synchronisation, for an application to show.
#[derive(Debug, Clone, PartialEq, Deserialize, uniffi::Record)]
#[serde(rename_all = "camelCase")]
pub struct SyncState {
    /// The way in which changes arrive.
    pub connection: Connection,
    /// The time since when the server cannot be reached.
    #[serde(default, deserialize_with = "time::optional")]
    pub offline_since: Option<SystemTime>,
    /// The reason why changes arrive at an interval only.
    pub polling_reason: Option<String>,
    /// The last time at which the replica had everything that the server had, and nothing to send.
    #[serde(default, deserialize_with = "time::optional")]
    pub last_in_step_at: Option<SystemTime>,
    /// The outstanding work.
    #[serde(flatten)]
    pub outstanding: Outstanding,
    /// True if background work runs.
    pub running: bool,
    /// The reason why background work stopped.
    pub stopped: Option<StopReason>,
    /// The reason why background work pauses.
    pub paused: Option<StopReason>,
}

/// The state of a replica, for people and for triage.
#[derive(Debug, Clone, PartialEq, Deserialize, uniffi::Record)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The id of this replica.
    pub client_id: String,
    /// The user that the replica belongs to.
    pub user: String,
    /// The address of the server.
    pub server: String,
    /// The position in the feed.
    pub cursor: Option<String>,
    /// The last write id of each replica of the user that the server has.
    pub last_reconciled_write_ids: HashMap<String, u64>,
    /// The number of pending operations.
    pub pending: u64,
    /// The number of operations that the server has, and the feed does not show yet.
    pub acknowledged: u64,
    /// The number of rejected operations.
    pub rejected: u64,
    /// The number of contents in the queue.
    pub uploads: u64,
    /// The number of rejected contents.
    pub rejected_uploads: u64,
    /// The number of changes that a restored server lost and that could not be offered again.
    pub lost: u64,
    /// The number of items.
    pub items: u64,
    /// The reason why background work stopped.
    pub stopped: Option<StopReason>,
    /// The reason why background work pauses.
    pub paused: Option<StopReason>,
    /// True if background work runs.
    pub running: bool,
}

/// A content that the replica has stored.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, uniffi::Record)]
#[serde(rename_all = "camelCase")]
pub struct StoredContent {
    /// The id of the content.
    pub blob_id: String,
    /// The size in bytes.
    pub size: u64,
    /// The SHA-256 digest.
    pub digest: String,
}

/// A grant on an item.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, uniffi::Record)]
pub struct Grant {
    /// The principal.
    pub principal: Principal,
    /// The level.
    pub level: AccessLevel,
    /// True if the grant waits for the server.
    pub pending: bool,
}

/// A principal that may read an item.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, uniffi::Record)]
pub struct Reader {
    /// The principal.
    pub principal: Principal,
    /// The level.
    pub level: AccessLevel,
    /// The item with the grant.
    pub through: String,
}

/// An event of synchronisation.
#[derive(Debug, Clone, PartialEq, Deserialize, uniffi::Enum)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum SyncEvent {
    /// An item went because a grant was removed.
    Revoked {
        /// The item.
        item: String,
    },
    /// An item stays although another device deleted it: it was edited here.
    Kept {
        /// The item.
        item: String,
    },
    /// A move has no effect: it would have made a circle.
    NotMoved {
        /// The item.
        item: String,
    },
    /// Another user shares an item with this one.
    Shared {
        /// The item.
        item: String,
        /// The other user.
        owner: String,
        /// The level.
        level: AccessLevel,
    },
    /// The server rejected an operation.
    Rejected {
        /// The operation.
        op_id: String,
        /// The item.
        item: String,
        /// The server's reason.
        reason: Option<String>,
    },
    /// The server had newer values than an operation.
    Outdated {
        /// The operation.
        op_id: String,
        /// The item.
        item: String,
        /// The server's reason.
        reason: Option<String>,
    },
    /// Two devices changed one content: this device's is now a copy beside the other.
    ConflictedCopy {
        /// The item.
        item: String,
        /// The copy.
        copy: String,
    },
    /// The server rejected a content.
    UploadRejected {
        /// The item.
        item: String,
        /// The reason.
        reason: String,
    },
    /// Background work pauses.
    Paused {
        /// The reason.
        reason: StopReason,
    },
    /// Background work goes on.
    Resumed,
    /// The outstanding work changed.
    Outstanding {
        /// The outstanding work.
        outstanding: Outstanding,
    },
    /// Background work stopped, until it is started again.
    Stopped {
        /// The reason.
        reason: StopReason,
    },
    /// Changes were sent again to a restored server.
    Offered {
        /// Their numbers.
        offered: Offered,
    },
    /// Events were missed because the reader was too slow.
    Missed {
        /// Their number.
        count: u64,
    },
}

/// The progress of the present sync and of the downloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, uniffi::Record)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// The number of operations that were pushed.
    pub pushed: u64,
    /// The number of operations to push.
    pub to_push: u64,
    /// The number of changes that were pulled.
    pub pulled: u64,
    /// The number of contents that were uploaded.
    pub uploaded: u64,
    /// The number of contents to upload.
    pub to_upload: u64,
    /// The bytes that were uploaded.
    pub uploaded_bytes: u64,
    /// The number of contents that were downloaded.
    pub downloaded: u64,
    /// The number of contents to download.
    pub to_download: u64,
    /// The bytes that were downloaded.
    pub downloaded_bytes: u64,
    /// The bytes to download.
    pub to_download_bytes: u64,
}

/// The state of an operation in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, uniffi::Enum)]
#[serde(rename_all = "camelCase")]
pub enum QueuedState {
    /// It waits for the server.
    Pending,
    /// The server has it, and the feed does not show it yet.
    Acknowledged,
    /// It waits for another operation or a content.
    Held,
}

/// An operation in the queue.
#[derive(Debug, Clone, PartialEq, Deserialize, uniffi::Record)]
pub struct QueuedOperation {
    /// The operation as on the wire, as JSON.
    pub operation: JsonValue,
    /// Its state.
    pub state: QueuedState,
}

/// A change that a restored server lost and that was not offered again.
#[derive(Debug, Clone, PartialEq, Deserialize, uniffi::Record)]
#[serde(rename_all = "camelCase")]
pub struct LostChange {
    /// The number in the list.
    pub number: i64,
    /// The item.
    pub item: String,
    /// The path that it had.
    pub path: String,
    /// The change, as JSON.
    pub change: JsonValue,
    /// The reason why it was not offered.
    pub reason: String,
    /// The time of the change.
    #[serde(deserialize_with = "time::required")]
    pub authored_at: SystemTime,
}

/// A lost grant that was given again.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, uniffi::Record)]
pub struct GrantedAgain {
    /// The item.
    pub item: String,
    /// The principal.
    pub principal: Principal,
}

/// The numbers of an imported state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, uniffi::Record)]
pub struct Hydrated {
    /// The number of items.
    pub items: u64,
    /// The number of queued operations.
    pub queued: u64,
}

/// A rejected operation.
#[derive(Debug, Clone, PartialEq, Deserialize, uniffi::Record)]
#[serde(rename_all = "camelCase")]
pub struct RejectedOperation {
    /// The operation.
    pub op_id: String,
    /// The item.
    pub item: String,
    /// The operation as on the wire, as JSON.
    pub operation: JsonValue,
    /// The server's reason.
    pub reason: Option<String>,
    /// The reason in words.
    pub detail: Option<String>,
}

/// A content that waits for the server, or that it rejected.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, uniffi::Record)]
#[serde(rename_all = "camelCase")]
pub struct HeldUpload {
    /// The item.
    pub item: String,
    /// The id of the content.
    pub blob_id: String,
    /// The size in bytes.
    pub size: u64,
    /// The reason.
    pub reason: String,
}

/// A deleted item that can be restored.
#[derive(Debug, Clone, PartialEq, Deserialize, uniffi::Record)]
#[serde(rename_all = "camelCase")]
pub struct Trashed {
    /// The item.
    pub item: String,
    /// The type.
    #[serde(rename = "type")]
    pub object_type: ObjectType,
    /// The name.
    pub name: Option<String>,
    /// The user in whose tree it was.
    pub owner: String,
    /// The names from the top of the tree.
    pub path: Vec<String>,
    /// The time of the deletion.
    #[serde(deserialize_with = "time::required")]
    pub deleted_at: SystemTime,
    /// The user who deleted it.
    pub deleted_by: String,
    /// The size of its content.
    pub size: Option<u64>,
    /// The time when it goes for good.
    #[serde(default, deserialize_with = "time::optional")]
    pub expires_at: Option<SystemTime>,
    /// True if the deletion is still queued.
    pub pending: bool,
}

/// A content of a file that the server keeps.
#[derive(Debug, Clone, PartialEq, Deserialize, uniffi::Record)]
#[serde(rename_all = "camelCase")]
pub struct Version {
    /// The id of the content.
    pub blob_id: String,
    /// The size in bytes.
    pub size: u64,
    /// The SHA-256 digest.
    pub digest: String,
    /// The media type.
    pub content_type: Option<String>,
    /// The time when it became the file's content.
    #[serde(deserialize_with = "time::required")]
    pub attached_at: SystemTime,
    /// The modification time of the bytes.
    #[serde(default, deserialize_with = "time::optional")]
    pub modified_at: Option<SystemTime>,
}

/// The size of the content cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, uniffi::Record)]
pub struct CacheUsage {
    /// The bytes in it.
    pub bytes: u64,
    /// The number of contents in it.
    pub contents: u64,
    /// The greatest size.
    pub limit: Option<u64>,
}

/// The numbers of an emptied trash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, uniffi::Record)]
#[serde(rename_all = "camelCase")]
pub struct Emptied {
    /// The number of items that went for good.
    pub purged: u64,
    /// The number of items that stay because others own them.
    pub of_others: u64,
}
