//! Every limit of the protocol, in one place. `GET /v1/vfs/limits` serves them.

use serde::{Deserialize, Serialize};

/// Operations in one push.
pub const MAX_PUSH_OPERATIONS: usize = 500;
/// Bytes of a push's body, before compression.
pub const MAX_PUSH_BYTES: usize = 4 * 1024 * 1024;
/// Entries in one pull page.
pub const MAX_PULL_LIMIT: u32 = 500;
/// Entries in a pull page if the client asks for no limit.
pub const DEFAULT_PULL_LIMIT: u32 = 100;
/// The number of bytes at which a pull page ends early.
pub const MAX_PULL_BYTES: usize = 4 * 1024 * 1024;
/// Entries of a `lastReconciledWriteIds` map.
pub const MAX_WRITE_ID_ENTRIES: usize = 512;
/// The greatest number of owners whom one user may block.
pub const MAX_BLOCKED_OWNERS: usize = 10_000;
/// Groups and organizations that one user is a member of.
pub const MAX_USER_GROUPS: usize = 1_000;
/// Members of a group or an organization.
pub const MAX_GROUP_MEMBERS: u64 = 100_000;
/// Reconcile states that a user's clients may have which never pushed anything.
pub const MAX_READER_STATES: u64 = 256;
/// Rows of feeds and of access that an operation which shows things to others may take.
pub const MAX_CONSEQUENCES: usize = 1_000_000;
/// Bytes of items that an operation which shows things to others may copy into feeds.
pub const MAX_CONSEQUENCE_BYTES: usize = 512 * 1024 * 1024;
/// Grants that an item may have at one time.
pub const MAX_ITEM_GRANTS: usize = 256;
/// Principals that an item may ever have been granted to, removed grants included.
pub const MAX_ITEM_GRANTS_EVER: usize = 1_024;
/// Items that one owner may have granted to one user by name at one time.
pub const MAX_USER_GRANTS: u64 = 10_000;
/// Bytes of UTF-8 in a name.
pub const MAX_NAME_BYTES: usize = 255;
/// Keys that an item's metadata may have at one time.
pub const MAX_METADATA_KEYS: usize = 64;
/// Keys that an item's metadata may ever have had, removed ones included.
pub const MAX_METADATA_KEYS_EVER: usize = 1_024;
/// Bytes of an item's metadata: its keys and the JSON text of its values.
pub const MAX_METADATA_BYTES: usize = 16 * 1024;
/// Bytes of an encrypted payload, as base64.
pub const MAX_ENCRYPTED_BYTES: usize = 64 * 1024;
/// Milliseconds that an author's clock may run ahead of the server's before its time is reduced.
pub const MAX_CLOCK_AHEAD_MILLIS: i64 = 60_000;
/// Bytes of content that a JSON body may contain, before base64.
pub const MAX_INLINE_BLOB_BYTES: usize = 1024 * 1024;
/// Files in one blob batch.
pub const MAX_BLOB_BATCH: usize = 256;
/// Bytes of a blob batch's body.
pub const MAX_BLOB_BATCH_BYTES: usize = 8 * 1024 * 1024;
/// The number of recoveries from stale write ids before a flush gives up.
pub const MAX_STALE_RECOVERIES: u32 = 2;

/// The limits as `GET /v1/vfs/limits` serves them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Bytes of UTF-8 in an id.
    pub max_id_bytes: u64,
    /// The greatest write id.
    pub max_write_id: u64,
    /// Operations in one push.
    pub max_push_operations: u64,
    /// Bytes of a push's body.
    pub max_push_bytes: u64,
    /// Entries in one pull page.
    pub max_pull_limit: u64,
    /// Entries in a pull page if the client asks for no limit.
    pub default_pull_limit: u64,
    /// Bytes at which a pull page ends early.
    pub max_pull_bytes: u64,
    /// Entries of a `lastReconciledWriteIds` map.
    pub max_write_id_entries: u64,
    /// Rows of feeds and of access that an operation which shows things to others may take.
    #[serde(default)]
    pub max_consequences: u64,
    /// Bytes of items that such an operation may copy into feeds.
    #[serde(default)]
    pub max_consequence_bytes: u64,
    /// Grants that an item may have at one time; 0 where the server does not state it, as older
    /// ones do.
    #[serde(default)]
    pub max_item_grants: u64,
    /// Principals that an item may ever have been granted to.
    #[serde(default)]
    pub max_item_grants_ever: u64,
    /// Items that one owner may have granted to one user by name.
    #[serde(default)]
    pub max_user_grants: u64,
    /// Owners whom one user may block.
    #[serde(default)]
    pub max_blocked_owners: u64,
    /// Groups and organizations that one user is a member of.
    #[serde(default)]
    pub max_user_groups: u64,
    /// Members of a group or an organization.
    #[serde(default)]
    pub max_group_members: u64,
    /// Bytes of UTF-8 in a name.
    pub max_name_bytes: u64,
    /// Keys of an item's metadata.
    pub max_metadata_keys: u64,
    /// Keys of an item's metadata, removed ones included.
    pub max_metadata_keys_ever: u64,
    /// Bytes of an item's metadata.
    pub max_metadata_bytes: u64,
    /// Bytes of an encrypted payload, as base64.
    pub max_encrypted_bytes: u64,
    /// Milliseconds that an author's clock may run ahead.
    pub max_clock_ahead_millis: u64,
    /// Bytes of content that a JSON body may contain.
    pub max_inline_blob_bytes: u64,
    /// Files in one blob batch.
    pub max_blob_batch: u64,
    /// Bytes of a blob batch's body.
    pub max_blob_batch_bytes: u64,
    /// True if the server decides deletions by what their author had seen (`basis`). Older servers
    /// omit it.
    #[serde(default)]
    pub decides_by_basis: bool,
    /// The server's bounds on what a user's realm holds besides contents.
    #[serde(flatten)]
    pub metadata: MetadataLimits,
    /// The server's bounds on contents.
    #[serde(flatten)]
    pub blobs: BlobLimits,
    /// The server's bounds on a user's requests.
    #[serde(flatten)]
    pub rates: RequestRates,
}

/// A server's limits on what a user's realm holds besides contents, as configured; 0 where the
/// server does not state one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MetadataLimits {
    /// Items, deleted ones included.
    pub max_items: u64,
    /// Links, removed ones included.
    pub max_links: u64,
    /// Grants, removed ones included.
    pub max_grants: u64,
    /// Bytes of the names, metadata and encrypted forms of items.
    pub max_register_bytes: u64,
    /// Replicas of a user.
    pub max_replicas: u64,
}

/// A server's limits on contents, as configured; 0 where the server does not state one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BlobLimits {
    /// The size of the largest blob, in bytes.
    pub max_blob_bytes: u64,
    /// The total bytes of a user's blobs, staged ones included.
    pub max_stored_bytes: u64,
    /// Bytes that a user may have staged and not attached.
    pub max_staged_bytes: u64,
    /// Stages that a user may have open.
    pub max_open_stages: u64,
    /// Seconds that a stage may last.
    pub max_stage_seconds: u64,
    /// Seconds that a stage lasts if its client names no expiry.
    pub default_stage_seconds: u64,
    /// The number of earlier contents of a file that are always kept.
    pub kept_versions: u64,
    /// Seconds for which further earlier contents are kept.
    pub keep_versions_seconds: u64,
    /// Seconds for which deleted items can be restored.
    pub keep_deleted_seconds: u64,
}

/// A server's limits on the requests of a user, as configured; 0 where there is none, or the server
/// does not state one. Beyond them a request gets `429` with `Retry-After`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestRates {
    /// Requests in a second.
    pub max_requests_per_second: u64,
    /// Requests at once after a pause.
    pub max_request_burst: u64,
    /// Operations, and files of batches, in a second.
    pub max_operations_per_second: u64,
    /// Operations at once after a pause.
    pub max_operation_burst: u64,
    /// Bytes of bodies and answers in a second.
    pub max_bytes_per_second: u64,
    /// Bytes at once after a pause.
    pub max_byte_burst: u64,
    /// Requests in progress at one time.
    pub max_concurrent_requests: u64,
    /// Streams of live updates at one time; 0 on servers without them.
    pub max_event_streams: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_id_bytes: crate::id::MAX_ID_BYTES as u64,
            max_write_id: crate::id::WriteId::MAX.get(),
            max_push_operations: MAX_PUSH_OPERATIONS as u64,
            max_push_bytes: MAX_PUSH_BYTES as u64,
            max_pull_limit: u64::from(MAX_PULL_LIMIT),
            default_pull_limit: u64::from(DEFAULT_PULL_LIMIT),
            max_pull_bytes: MAX_PULL_BYTES as u64,
            max_write_id_entries: MAX_WRITE_ID_ENTRIES as u64,
            max_consequences: MAX_CONSEQUENCES as u64,
            max_consequence_bytes: MAX_CONSEQUENCE_BYTES as u64,
            max_item_grants: MAX_ITEM_GRANTS as u64,
            max_item_grants_ever: MAX_ITEM_GRANTS_EVER as u64,
            max_user_grants: MAX_USER_GRANTS,
            max_blocked_owners: MAX_BLOCKED_OWNERS as u64,
            max_user_groups: MAX_USER_GROUPS as u64,
            max_group_members: MAX_GROUP_MEMBERS,
            max_name_bytes: MAX_NAME_BYTES as u64,
            max_metadata_keys: MAX_METADATA_KEYS as u64,
            max_metadata_keys_ever: MAX_METADATA_KEYS_EVER as u64,
            max_metadata_bytes: MAX_METADATA_BYTES as u64,
            max_encrypted_bytes: MAX_ENCRYPTED_BYTES as u64,
            max_clock_ahead_millis: MAX_CLOCK_AHEAD_MILLIS as u64,
            max_inline_blob_bytes: MAX_INLINE_BLOB_BYTES as u64,
            max_blob_batch: MAX_BLOB_BATCH as u64,
            max_blob_batch_bytes: MAX_BLOB_BATCH_BYTES as u64,
            decides_by_basis: true,
            metadata: MetadataLimits::default(),
            blobs: BlobLimits::default(),
            rates: RequestRates::default(),
        }
    }
}
