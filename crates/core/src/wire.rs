//! The JSON bodies of requests and answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::content::{Attachment, RelationKind, Sha256Digest};
use crate::cursor::{Cursor, Epoch};
use crate::entry::Entry;
use crate::id::{BlobId, ItemId, OpId, PrincipalId, RefId, ReplicaId, StagingId, UserId, WriteId};
use crate::operation::{Basis, Malformed, Operation, present, required};
use crate::time::Timestamp;

pub mod credential;
pub mod device;
pub mod telemetry;
pub mod trash;

/// The version of the protocol that this code speaks, sent as [`PROTOCOL_HEADER`].
pub const PROTOCOL_VERSION: u32 = 1;
/// The header with the protocol version.
pub const PROTOCOL_HEADER: &str = "Vfs-Sync-Protocol";

/// The header that names a user, encoded by [`user_header`]. In a request it names the user that
/// the token must belong to, in an answer the token's user.
pub const USER_HEADER: &str = "Vfs-Sync-User";

/// Encodes a user as the value of [`USER_HEADER`]: every byte except unreserved characters (RFC
/// 3986) as `%XX`.
#[must_use]
pub fn user_header(user: &UserId) -> String {
    percent(user.as_str())
}

/// Decodes a value of [`USER_HEADER`]; `None` if it names no user.
#[must_use]
pub fn user_of_header(value: &str) -> Option<UserId> {
    UserId::new(of_percent(value)?).ok()
}

/// Encodes every byte of a text except unreserved characters (RFC 3986) as `%XX`.
fn percent(plain: &str) -> String {
    let mut text = String::with_capacity(plain.len());
    for byte in plain.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push('%');
            for half in [byte >> 4, byte & 15] {
                let digit = char::from_digit(u32::from(half), 16).unwrap_or('0');
                text.push(digit.to_ascii_uppercase());
            }
        }
    }
    text
}

/// Decodes a text that [`percent`] encoded; `None` if it is malformed.
fn of_percent(value: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        let byte = match byte {
            b'%' => {
                let mut half = || char::from(rest.next()?).to_digit(16);
                u8::try_from(half()? * 16 + half()?).ok()?
            }
            other => other,
        };
        bytes.push(byte);
    }
    String::from_utf8(bytes).ok()
}

/// `lastReconciledWriteIds`: the greatest write id of each replica.
pub type WriteIds = BTreeMap<ReplicaId, WriteId>;

/// The body of `POST /v1/vfs/crdt/push`, as a client sends it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PushRequest {
    /// The replica that pushes.
    pub client_id: ReplicaId,
    /// The operations, in the order of their write ids.
    pub operations: Vec<Operation>,
}

/// The answer to a push: one result for each operation, in the order sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PushResponse {
    /// The replica that pushed.
    pub client_id: ReplicaId,
    /// The results, in the order of the operations.
    pub results: Vec<PushResult>,
    /// The epoch of the database that decided the push; absent from older servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
}

/// The result of one operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PushResult {
    /// The id of the operation; `None` if it had no readable id.
    pub op_id: Option<OpId>,
    /// The outcome of the operation.
    pub status: PushStatus,
    /// The reason, for `outdatedOp` and `invalidOp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<PushReason>,
    /// The malformed field and its problem.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The time that the server stored for an applied operation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authored_at: Option<Timestamp>,
    /// The replica's last write id, for `staleWriteId`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_write_id: Option<WriteId>,
}

/// The outcomes of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, strum::VariantArray)]
#[serde(rename_all = "camelCase")]
pub enum PushStatus {
    /// The operation changed the canonical state.
    Applied,
    /// The same operation was applied before.
    AlreadyApplied,
    /// A newer write or a cycle superseded the operation; a retry gets the same answer.
    OutdatedOp,
    /// The write id is not above the replica's last one, and belongs to another operation.
    StaleWriteId,
    /// The operation is malformed or not allowed.
    InvalidOp,
}

/// The reason why an operation was superseded or rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[derive(strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "camelCase")]
pub enum PushReason {
    /// A newer write holds the register.
    Superseded,
    /// The deletion's author had not seen the item's newest change by another replica.
    Unseen,
    /// The link would close a cycle.
    Cycle,
    /// The operation breaks a rule of form.
    Malformed,
    /// The user sees the item but has too few rights on it.
    NotPermitted,
    /// The item does not exist or is not visible; the two cannot be distinguished.
    UnknownItem,
    /// The item has the greatest number of grants, or the owner has granted the user the greatest
    /// number of single items.
    TooManyGrants,
    /// The operation would show others more than one transaction may.
    TooManyConsequences,
}

impl PushReason {
    /// Returns the reason's name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// A page of a feed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PullPage {
    /// The entries, in strictly ascending order.
    pub items: Vec<Entry>,
    /// The position of the last entry, if there are more.
    pub next_cursor: Option<Cursor>,
    /// True if the feed has more entries.
    pub has_more: bool,
    /// The greatest write id used by each of the user's replicas.
    pub last_reconciled_write_ids: WriteIds,
    /// The head of the feed, in the answer to a pull without a cursor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Cursor>,
    /// The head of the feed when the page was read, if there are more entries; older servers omit
    /// it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<Cursor>,
    /// The epoch of the feed; older servers omit it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
}

/// The body of `POST /v1/vfs/crdt/reconcile`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReconcileRequest {
    /// The replica that reconciles.
    pub client_id: ReplicaId,
    /// The cursor that the replica has applied.
    pub cursor: Cursor,
    /// The write ids that the client has applied.
    #[serde(default)]
    pub last_reconciled_write_ids: WriteIds,
}

/// The answer to a reconcile: the merged state.
pub type ReconcileResponse = ReconcileRequest;

/// The answer to `GET /v1/vfs/crdt/state`: the server's side, for triage to compare with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StateResponse {
    /// The client that the request asked about.
    pub client_id: ReplicaId,
    /// The stored reconcile state, if there is one.
    pub reconcile_state: Option<ReconcileState>,
    /// The head of the user's feed, if it has any entry.
    pub feed_head: Option<Cursor>,
    /// The epoch of the feed.
    pub epoch: Option<u64>,
    /// The greatest position of the feed that was pruned.
    pub pruned_through: Option<Cursor>,
    /// The last write id of each of the user's replicas.
    pub last_write_ids: WriteIds,
    /// Owners whose grants before the user's first call show more than one transaction may: none of
    /// their grants has an effect. It is tried again after the owner's next grant to the user. In
    /// ascending order, 1,000 at most.
    #[serde(default)]
    pub withheld_owners: Vec<UserId>,
}

/// A page of a group's or an organization's members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MembersResponse {
    /// The members, in ascending order.
    pub members: Vec<UserId>,
    /// True if there are further members after these.
    pub has_more: bool,
}

/// The groups and organizations that the caller belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupsResponse {
    /// Groups, by their ids.
    pub groups: Vec<PrincipalId>,
    /// Organizations, by their ids.
    pub organizations: Vec<PrincipalId>,
}

/// The owners whom the caller blocks.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlocksResponse {
    /// The users whose grants give the caller no access, ascending.
    pub owners: Vec<UserId>,
}

/// The answer to the question whether the server knows a principal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KnownResponse {
    /// True for a user who has written something, or a group that has members.
    pub known: bool,
}

/// An epoch of a feed's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EpochEnd {
    /// The epoch of the entry.
    pub epoch: Epoch,
    /// The counter of the feed's last entry in this epoch.
    pub last_counter: u64,
}

/// The state that a client has acknowledged to the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReconcileState {
    /// The cursor that the client has applied.
    pub cursor: Cursor,
    /// The write ids that the client has seen.
    pub last_reconciled_write_ids: WriteIds,
}

/// The body of every error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorBody {
    /// The message, one sentence.
    pub error: String,
    /// The machine-readable code, in snake case.
    pub code: String,
    /// The id by which to find the request in the server's log.
    #[serde(default)]
    pub request_id: Option<String>,
    /// The remaining fields of the body.
    #[serde(flatten)]
    pub details: serde_json::Map<String, serde_json::Value>,
}

/// Codes of errors that a client acts upon.
pub mod code {
    /// The server can no longer serve the cursor.
    pub const REMATERIALIZATION_REQUIRED: &str = "crdt_rematerialization_required";
    /// A write id above the replica's own last, or of an unknown replica.
    pub const WRITE_IDS_AHEAD: &str = "write_ids_ahead_of_server";
    /// The client's protocol is below the server's minimum.
    pub const UPGRADE_REQUIRED: &str = "upgrade_required";
    /// The client's reconcile state is behind the attach's checkpoint.
    pub const RECONCILE_BEHIND: &str = "reconcile_state_behind";
    /// Another content has been attached in the meantime.
    pub const CONTENT_CHANGED: &str = "content_changed";
    /// A stage that cannot be attached any more.
    pub const STAGE_NOT_ATTACHABLE: &str = "stage_not_attachable";
    /// A stage that has expired.
    pub const STAGE_EXPIRED: &str = "stage_expired";
    /// A stage that has no bytes yet.
    pub const STAGE_EMPTY: &str = "stage_empty";
    /// An earlier request attached the stage with other values.
    pub const ATTACH_DIFFERS: &str = "attach_differs";
    /// The blob is attached to the item as another kind.
    pub const ATTACHED_AS_OTHER_KIND: &str = "attached_as_other_kind";
    /// A staging id or a blob id that is already used for something else.
    pub const ID_TAKEN: &str = "id_taken";
    /// A stage that has other bytes already.
    pub const UPLOAD_DIFFERS: &str = "upload_differs";
    /// Another call has taken over the upload.
    pub const UPLOAD_SUPERSEDED: &str = "upload_superseded";
    /// The offset of the call differs from the upload's.
    pub const OFFSET_MISMATCH: &str = "offset_mismatch";
    /// The bytes do not match the checksum sent along; the server did not keep them.
    pub const CHECKSUM_MISMATCH: &str = "checksum_mismatch";
    /// The user has as much in progress as one user may, or sends too fast; see `Retry-After`.
    pub const TOO_MANY_REQUESTS: &str = "too_many_requests";
    /// The user's quota is exhausted; `limit` names the limit.
    pub const QUOTA_EXCEEDED: &str = "quota_exceeded";
    /// It would show others more than one transaction can.
    pub const TOO_MANY_CONSEQUENCES: &str = "too_many_consequences";
    /// The blob is attached to something.
    pub const BLOB_ATTACHED: &str = "blob_attached";
    /// The bytes do not match the digest sent along.
    pub const DIGEST_MISMATCH: &str = "digest_mismatch";
    /// The object store failed; see `storageCode` and `retryable`.
    pub const BLOB_STORE_ERROR: &str = "blob_store_error";
    /// The user has no such stage.
    pub const UNKNOWN_STAGE: &str = "unknown_stage";
    /// The user sees no such item.
    pub const UNKNOWN_ITEM: &str = "unknown_item";
    /// The user may read no such blob.
    pub const UNKNOWN_BLOB: &str = "unknown_blob";
    /// A purge of an item that is not deleted.
    pub const NOT_IN_TRASH: &str = "not_in_trash";
    /// Too few rights on an item that the user sees.
    pub const NOT_PERMITTED: &str = "not_permitted";
    /// The database is full (`507`); the same request succeeds once there is space.
    pub const STORAGE_FULL: &str = "storage_full";
    /// A stored row is malformed (`500`); `table`, `key` and `malformed` name the row and the
    /// problem.
    pub const MALFORMED_ROW: &str = "malformed_row";
    /// A row that an attach depends on is malformed (`500`); `malformed` names the problem.
    pub const ATTACH_FAILED: &str = "attach_failed";
    /// The token belongs to another user than the request expects (`403`); `expected` and `actual`
    /// name both.
    pub const WRONG_USER: &str = "wrong_user";
    /// The device was revoked (`403`): the server serves it no longer.
    pub const DEVICE_REVOKED: &str = "device_revoked";
    /// An operator has disabled the user (`403`): the server serves none of the user's devices.
    pub const USER_DISABLED: &str = "user_disabled";
    /// The user was deleted (`403`): the server serves none of the user's devices until an operator
    /// allows the user again.
    pub const USER_DELETED: &str = "user_deleted";
    /// The user is being deleted (`409`): that has to be called off, or come to its end, first.
    pub const DELETION_UNDER_WAY: &str = "deletion_under_way";
    /// The user has no such device.
    pub const UNKNOWN_DEVICE: &str = "unknown_device";
    /// The server has no provider to sign in with: it takes tokens by hand.
    pub const NO_SIGN_IN: &str = "no_sign_in";
    /// There is no such session of the operator's console.
    pub const UNKNOWN_SESSION: &str = "unknown_session";
    /// A request to the console that names a host which is not the server's (`403`).
    pub const UNTRUSTED_HOST: &str = "untrusted_host";
    /// A request with the console's cookie that is not of the console's page (`403`).
    pub const UNTRUSTED_ORIGIN: &str = "untrusted_origin";
    /// The server knows no such user.
    pub const UNKNOWN_USER: &str = "unknown_user";
    /// The token is valid but lacks a scope; `requiredScope` names it.
    pub const INSUFFICIENT_SCOPE: &str = "insufficient_scope";
    /// The cursor was not created by a server.
    pub const INVALID_CURSOR: &str = crate::cursor::InvalidCursor::NAME;
    /// The request is malformed; `field` names the field, if it is known.
    pub const INVALID_REQUEST: &str = "invalid_request";
    /// The request has no valid bearer token; `reason` names the problem.
    pub const UNAUTHORIZED: &str = "unauthorized";
    /// A body or a list in it is larger than the limits allow.
    pub const TOO_LARGE: &str = "too_large";
}

/// The state of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs)]
#[derive(strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "lowercase", prefix = "blob-stage:")]
pub enum StageStatus {
    #[serde(rename = "blob-stage:staged")]
    Staged,
    #[serde(rename = "blob-stage:attached")]
    Attached,
    #[serde(rename = "blob-stage:abandoned")]
    Abandoned,
}

impl StageStatus {
    /// Returns the status as it appears on the wire and in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// The body of `POST /v1/vfs/blobs/stage`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StageRequest {
    /// The id of the stage; the server chooses one if it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staging_id: Option<StagingId>,
    /// The id of the blob, never used before.
    pub blob_id: BlobId,
    /// The time at which the stage expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// The media type of the bytes, a hint for readers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// Small content, sent within the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_base64: Option<String>,
}

/// The answer to a stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StageResponse {
    /// The id of the stage.
    pub staging_id: StagingId,
    /// The blob of the stage.
    pub blob_id: BlobId,
    /// The status of the stage.
    pub status: StageStatus,
    /// The time at which the stage was opened.
    pub staged_at: Timestamp,
    /// The time at which the stage expires.
    pub expires_at: Timestamp,
    /// The size of the bytes, once the stage has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// The digest of the bytes, once the stage has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Sha256Digest>,
    /// The number of bytes received so far; present in answers to a query of the stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
}

/// The answer to an upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UploadResponse {
    /// The number of bytes stored.
    pub size: u64,
    /// The SHA-256 digest of the bytes.
    pub digest: Sha256Digest,
}

/// The answer to a deletion of a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeleteResponse {
    /// Always true in an answer.
    pub deleted: bool,
    /// The blob that was deleted.
    pub blob_id: BlobId,
}

/// The present and earlier contents of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VersionsResponse {
    /// The file whose versions are listed.
    pub item_id: ItemId,
    /// The newest thousand versions at most, the newest (current) one first.
    pub versions: Vec<Version>,
}

/// A present or earlier content of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Version {
    /// The blob with the bytes.
    pub blob_id: BlobId,
    /// The size of the content in bytes.
    pub size: u64,
    /// The SHA-256 digest of the bytes.
    pub digest: Sha256Digest,
    /// The media type of the bytes, a hint for readers.
    pub content_type: Option<Arc<str>>,
    /// The id of the attachment.
    pub ref_id: RefId,
    /// The time at which it became the file's content.
    pub attached_at: Timestamp,
    /// The time of the bytes; contents that older clients attached have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modified_at: Option<Timestamp>,
}

impl From<Attachment> for Version {
    fn from(attachment: Attachment) -> Self {
        Self {
            blob_id: attachment.blob_id,
            size: attachment.size,
            digest: attachment.digest,
            content_type: attachment.content_type,
            ref_id: attachment.ref_id,
            attached_at: attachment.attached_at,
            modified_at: attachment.modified_at,
        }
    }
}

/// The body of an attach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttachRequest {
    /// The item that the blob is attached to.
    pub item_id: ItemId,
    /// The relation of the blob to the item.
    #[serde(default)]
    pub relation_kind: RelationKind,
    /// The client of the checkpoint that the attach requires; the checkpoint's three fields are all
    /// present or all absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<ReplicaId>,
    /// The cursor that the client must have reconciled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required_cursor: Option<Cursor>,
    /// The write ids that the client must have reconciled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required_last_reconciled_write_ids: Option<WriteIds>,
    /// The content that the writer saw before the attach: absent, `null` (none) or an id.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub expected_blob_id: Option<Option<BlobId>>,
    /// The time at which the content was last modified at its source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modified_at: Option<Timestamp>,
    /// The part of the feed that the author had applied when the content was queued, as in an
    /// operation: absent, `null` or a cursor. With it the attach brings a deleted item back.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub basis: Option<Basis>,
    /// The replica on which the content was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica_id: Option<ReplicaId>,
    /// The author's hybrid logical clock when the content was queued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub occurred_at: Option<Timestamp>,
}

impl AttachRequest {
    /// Creates a request to attach to `item_id` as its content, without a checkpoint and without an
    /// expected content.
    #[must_use]
    pub fn to(item_id: ItemId) -> Self {
        Self {
            item_id,
            relation_kind: RelationKind::default(),
            client_id: None,
            required_cursor: None,
            required_last_reconciled_write_ids: None,
            expected_blob_id: None,
            modified_at: None,
            basis: None,
            replica_id: None,
            occurred_at: None,
        }
    }
}

/// The answer to an attach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttachResponse {
    /// Always true in an answer.
    pub attached: bool,
    /// The stage that was attached.
    pub staging_id: StagingId,
    /// The blob that was attached.
    pub blob_id: BlobId,
    /// The item that the blob is attached to.
    pub item_id: ItemId,
    /// The relation of the blob to the item.
    pub relation_kind: RelationKind,
    /// The id of the attachment.
    pub ref_id: RefId,
    /// The server's time of the attach.
    pub attached_at: Timestamp,
    /// The time of the bytes, as stored with them; older servers omit it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modified_at: Option<Timestamp>,
}

/// The body of `POST /v1/vfs/blobs/batch`: many small files in one request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobBatchRequest {
    /// The files, at most [`crate::limits::MAX_BLOB_BATCH`].
    pub files: Vec<BlobBatchFile>,
}

/// A file of a batch: stage, bytes and attach at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlobBatchFile {
    /// The id of the stage; the server chooses one if it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staging_id: Option<StagingId>,
    /// The id of the blob, never used before.
    pub blob_id: BlobId,
    /// The media type of the bytes, a hint for readers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// The content, at most [`crate::limits::MAX_INLINE_BLOB_BYTES`] long.
    pub data_base64: String,
    /// The SHA-256 digest of the content. If it is present, bytes with another digest are rejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Sha256Digest>,
    /// The attach of the file: item, relation and checkpoint.
    pub attach: AttachRequest,
}

/// The answer to a batch: one result for each file, in the order sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BlobBatchResponse {
    /// The results, in the order of the files.
    pub results: Vec<BlobBatchResult>,
}

/// The result of one file of a batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", try_from = "BlobBatchResultForm")]
pub struct BlobBatchResult {
    /// The stage of the file.
    pub staging_id: StagingId,
    /// The blob of the file.
    pub blob_id: BlobId,
    /// The outcome for the file.
    pub status: BlobBatchStatus,
    /// The answers that the single calls would have returned, if the file was attached.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub attached: Option<BlobBatchAttached>,
    /// The error, if the file was not attached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<BlobBatchError>,
}

/// The parsed form of a [`BlobBatchResult`], in which an error names its own field.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BlobBatchResultForm {
    staging_id: StagingId,
    blob_id: BlobId,
    status: BlobBatchStatus,
    size: Option<u64>,
    digest: Option<Sha256Digest>,
    item_id: Option<ItemId>,
    relation_kind: Option<RelationKind>,
    ref_id: Option<RefId>,
    attached_at: Option<Timestamp>,
    modified_at: Option<Timestamp>,
    error: Option<BlobBatchErrorForm>,
}

impl TryFrom<BlobBatchResultForm> for BlobBatchResult {
    type Error = Malformed;

    fn try_from(form: BlobBatchResultForm) -> Result<Self, Malformed> {
        let attached = match form.status {
            BlobBatchStatus::Failed => None,
            BlobBatchStatus::Attached => Some(BlobBatchAttached {
                size: required("size", form.size)?,
                digest: required("digest", form.digest)?,
                item_id: required("itemId", form.item_id)?,
                relation_kind: required("relationKind", form.relation_kind)?,
                ref_id: required("refId", form.ref_id)?,
                attached_at: required("attachedAt", form.attached_at)?,
                modified_at: form.modified_at,
            }),
        };
        let error = match form.status {
            BlobBatchStatus::Failed => Some(required("error", form.error)?.into()),
            BlobBatchStatus::Attached => None,
        };
        let (staging_id, blob_id, status) = (form.staging_id, form.blob_id, form.status);
        Ok(Self { staging_id, blob_id, status, attached, error })
    }
}

/// The outcomes of a file of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum BlobBatchStatus {
    /// The bytes were attached to the item.
    Attached,
    /// The file failed at the step that the error names; repeating it is safe.
    Failed,
}

/// The bytes and the attachment of a file of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlobBatchAttached {
    /// The size of the content in bytes.
    pub size: u64,
    /// The SHA-256 digest of the bytes.
    pub digest: Sha256Digest,
    /// The item that the blob is attached to.
    pub item_id: ItemId,
    /// The relation of the blob to the item.
    pub relation_kind: RelationKind,
    /// The id of the attachment.
    pub ref_id: RefId,
    /// The server's time of the attach.
    pub attached_at: Timestamp,
    /// The time of the bytes, as stored with them; older servers omit it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modified_at: Option<Timestamp>,
}

/// The media type of the answer to `POST /v1/vfs/blobs/batch/read`: for each blob a line of JSON, a
/// [`BlobReadHead`], followed by the blob's bytes if the line has a size.
pub const BLOB_READ_TYPE: &str = "application/vnd.vfs-sync.blobs";

/// The body of `POST /v1/vfs/blobs/batch/read`: many small blobs in one answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlobReadRequest {
    /// The blobs, at most [`crate::limits::MAX_BLOB_BATCH`]. The server rejects blobs with more
    /// than [`crate::limits::MAX_INLINE_BLOB_BYTES`], and those after the first
    /// [`crate::limits::MAX_BLOB_BATCH_BYTES`] of content: read them by other calls.
    pub blob_ids: Vec<BlobId>,
}

/// The line before a blob's bytes in a batch answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlobReadHead {
    /// The id of the blob; lines have the order of the request.
    pub blob_id: BlobId,
    /// The number of bytes that follow; absent in an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// The SHA-256 digest of the bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Sha256Digest>,
    /// The error that a request for this blob alone would have returned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<BlobBatchError>,
}

/// The error that a call for this file alone would have returned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", from = "BlobBatchErrorForm")]
pub struct BlobBatchError {
    /// The HTTP status of the error.
    pub http_status: u16,
    /// The body of the error.
    #[serde(flatten)]
    pub body: ErrorBody,
}

/// The parsed form of a [`BlobBatchError`], in which an error names its own field.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BlobBatchErrorForm {
    http_status: u16,
    error: String,
    code: String,
    #[serde(default)]
    request_id: Option<String>,
    #[serde(flatten)]
    details: serde_json::Map<String, serde_json::Value>,
}

impl From<BlobBatchErrorForm> for BlobBatchError {
    fn from(form: BlobBatchErrorForm) -> Self {
        let BlobBatchErrorForm { http_status, error, code, request_id, details } = form;
        Self { http_status, body: ErrorBody { error, code, request_id, details } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expecting_no_content_differs_from_expecting_nothing() {
        let parse = |text: &str| serde_json::from_str::<AttachRequest>(text).unwrap();
        assert_eq!(parse(r#"{"itemId":"i"}"#).expected_blob_id, None);
        assert_eq!(parse(r#"{"itemId":"i","expectedBlobId":null}"#).expected_blob_id, Some(None));
    }

    #[test]
    fn a_basis_at_the_start_differs_from_none_at_all() {
        let parse = |text: &str| serde_json::from_str::<AttachRequest>(text).unwrap();
        let bases = [
            (r#"{"itemId":"i","relationKind":"file"}"#.to_owned(), None),
            (r#"{"itemId":"i","relationKind":"file","basis":null}"#.to_owned(), Some(Basis::Start)),
            {
                let change_id = crate::id::ChangeId::new("c").unwrap();
                let cursor = Cursor { changed_at: Timestamp::MIN, change_id };
                let text = cursor.encode();
                let text = format!(r#"{{"itemId":"i","relationKind":"file","basis":"{text}"}}"#);
                (text, Some(Basis::At(cursor)))
            },
        ];
        for (text, basis) in bases {
            let request = parse(&text);
            assert_eq!(request.basis, basis);
            assert_eq!(serde_json::to_string(&request).unwrap(), text);
        }
    }

    #[test]
    fn a_batch_result_has_the_fields_of_the_calls_that_it_stands_for() {
        let failed = BlobBatchResult {
            staging_id: StagingId::new("s").unwrap(),
            blob_id: BlobId::new("b").unwrap(),
            status: BlobBatchStatus::Failed,
            attached: None,
            error: Some(BlobBatchError {
                http_status: 409,
                body: ErrorBody {
                    error: "Stale".into(),
                    code: code::STAGE_EXPIRED.into(),
                    request_id: None,
                    details: serde_json::from_str(r#"{"why": 1}"#).unwrap(),
                },
            }),
        };
        let text = r#"{"stagingId":"s","blobId":"b","status":"failed","error":{"httpStatus":409,"error":"Stale","code":"stage_expired","requestId":null,"why":1}}"#;
        assert_eq!(serde_json::to_string(&failed).unwrap(), text);
        assert_eq!(serde_json::from_str::<BlobBatchResult>(text).unwrap(), failed);
        let attached = BlobBatchResult {
            attached: Some(BlobBatchAttached {
                size: 1,
                digest: Sha256Digest([0; 32]),
                item_id: ItemId::new("i").unwrap(),
                relation_kind: RelationKind::File,
                ref_id: RefId::new("r").unwrap(),
                attached_at: Timestamp::MIN,
                modified_at: Some(Timestamp::MAX),
            }),
            status: BlobBatchStatus::Attached,
            error: None,
            ..failed
        };
        let text = serde_json::to_string(&attached).unwrap();
        assert_eq!(serde_json::from_str::<BlobBatchResult>(&text).unwrap(), attached);
    }

    #[test]
    fn a_push_result_is_spelt_as_the_protocol_spells_it() {
        let result = PushResult {
            op_id: Some(OpId::new("o").unwrap()),
            status: PushStatus::StaleWriteId,
            reason: None,
            detail: None,
            authored_at: None,
            last_write_id: WriteId::new(3),
        };
        assert_eq!(
            serde_json::to_string(&result).unwrap(),
            r#"{"opId":"o","status":"staleWriteId","lastWriteId":3}"#
        );
    }
}
