//! The numbers and texts that represent enum values in rows, the same in every back end.

use std::fmt::Display;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};

use vfs_sync_core::access::{AccessLevel, PrincipalType};
use vfs_sync_core::content::RelationKind;
use vfs_sync_core::cursor::Cursor;
use vfs_sync_core::id::ChangeId;
use vfs_sync_core::server::deletion::Deletion;
use vfs_sync_core::server::device::DeviceFacts;
use vfs_sync_core::server::push::Awaited;
use vfs_sync_core::server::push::Outcome;
use vfs_sync_core::server::stage::BlobStatus;
use vfs_sync_core::server::user::UserLimits;
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::credential::CredentialId;
use vfs_sync_core::wire::{PushReason, ReconcileState, StageStatus, WriteIds};

use crate::error::{Result, StoreError};
use crate::values::TrashState;

pub(crate) fn malformed(
    table: &'static str,
    key: impl Display,
    reason: impl Display,
) -> StoreError {
    StoreError::MalformedRow { table, key: key.to_string(), reason: reason.to_string() }
}

/// Converts a number that began at 0 to what a database stores.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Reads the 32 bytes of a digest or key.
pub(crate) fn key_bytes(bytes: &[u8]) -> Option<[u8; 32]> {
    bytes.try_into().ok()
}

/// Reads the id of a credential.
pub(crate) fn credential_id(text: Option<&str>) -> Result<CredentialId> {
    let id = text.and_then(CredentialId::parse);
    id.ok_or_else(|| malformed("credentials", text.unwrap_or_default(), "id is malformed"))
}

pub(crate) const fn level_code(level: AccessLevel) -> i64 {
    match level {
        AccessLevel::Read => 1,
        AccessLevel::Write => 2,
        AccessLevel::Admin => 3,
    }
}

pub(crate) const fn level(code: i64) -> Option<AccessLevel> {
    Some(match code {
        1 => AccessLevel::Read,
        2 => AccessLevel::Write,
        3 => AccessLevel::Admin,
        _ => return None,
    })
}

pub(crate) const fn principal_code(kind: PrincipalType) -> i64 {
    match kind {
        PrincipalType::User => 1,
        PrincipalType::Group => 2,
        PrincipalType::Organization => 3,
    }
}

pub(crate) const fn principal(code: i64) -> Option<PrincipalType> {
    Some(match code {
        1 => PrincipalType::User,
        2 => PrincipalType::Group,
        3 => PrincipalType::Organization,
        _ => return None,
    })
}

pub(crate) const fn awaited_code(awaited: Awaited) -> i64 {
    match awaited {
        Awaited::No => 0,
        Awaited::Call => 1,
        Awaited::Less => 2,
    }
}

/// Encodes a deletion as the text of its row.
pub(crate) fn deletion_json(deletion: &Deletion) -> Result<String> {
    serde_json::to_string(deletion).map_err(|error| StoreError::Failed(error.to_string()))
}

/// Decodes the text of a deletion's row.
pub(crate) fn deletion(pseudonym: &str, text: &str) -> Result<Deletion> {
    serde_json::from_str(text).map_err(|error| malformed("deletions", pseudonym, error))
}

/// Returns a text as JSON writes it.
pub(crate) fn json_text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// An outcome as `(outcome, authored_at)`.
pub(crate) const fn outcome_code(outcome: Outcome) -> (i64, Option<i64>) {
    match outcome {
        Outcome::Applied(at) => (1, Some(at.as_millis())),
        Outcome::Outdated(PushReason::Superseded) => (2, None),
        Outcome::Outdated(PushReason::Unseen) => (7, None),
        // No other reason uses up a write id.
        Outcome::Outdated(_) => (3, None),
        Outcome::Refused(PushReason::NotPermitted) => (4, None),
        Outcome::Refused(PushReason::UnknownItem) => (5, None),
        Outcome::Refused(PushReason::TooManyGrants) => (8, None),
        Outcome::Refused(PushReason::TooManyConsequences) => (9, None),
        // A malformed operation is known by its form, but for one that the item makes malformed.
        Outcome::Refused(_) => (6, None),
    }
}

pub(crate) fn outcome(code: i64, authored_at: Option<i64>) -> Option<Outcome> {
    Some(match (code, authored_at) {
        (1, Some(at)) => Outcome::Applied(Timestamp::from_millis(at)?),
        (2, None) => Outcome::Outdated(PushReason::Superseded),
        (3, None) => Outcome::Outdated(PushReason::Cycle),
        (4, None) => Outcome::Refused(PushReason::NotPermitted),
        (5, None) => Outcome::Refused(PushReason::UnknownItem),
        (6, None) => Outcome::Refused(PushReason::Malformed),
        (7, None) => Outcome::Outdated(PushReason::Unseen),
        (8, None) => Outcome::Refused(PushReason::TooManyGrants),
        (9, None) => Outcome::Refused(PushReason::TooManyConsequences),
        _ => return None,
    })
}

pub(crate) const fn kind_code(kind: RelationKind) -> &'static str {
    match kind {
        RelationKind::File => "file",
        RelationKind::Photo => "photo",
        RelationKind::EmailAttachment => "emailAttachment",
        RelationKind::Other => "other",
    }
}

pub(crate) fn kind(code: &str) -> Option<RelationKind> {
    Some(match code {
        "file" => RelationKind::File,
        "photo" => RelationKind::Photo,
        "emailAttachment" => RelationKind::EmailAttachment,
        "other" => RelationKind::Other,
        _ => return None,
    })
}

pub(crate) fn stage_status(code: &str) -> Option<StageStatus> {
    [StageStatus::Staged, StageStatus::Attached, StageStatus::Abandoned]
        .into_iter()
        .find(|status| status.as_str() == code)
}

/// The column `blobs.status` of a blob that is or may become readable.
pub(crate) const BLOB_LIVE: &str = "live";
/// The column `blobs.status` of a blob whose bytes are to be removed; its id is never used again.
pub(crate) const BLOB_DELETING: &str = "deleting";
/// The column `blobs.status` of a blob whose bytes were removed.
pub(crate) const BLOB_DELETED: &str = "deleted";

pub(crate) const fn blob_status_code(status: BlobStatus) -> &'static str {
    match status {
        BlobStatus::Live => BLOB_LIVE,
        BlobStatus::Deleting => BLOB_DELETING,
        BlobStatus::Deleted => BLOB_DELETED,
    }
}

pub(crate) fn blob_status(code: &str) -> Option<BlobStatus> {
    Some(match code {
        BLOB_LIVE => BlobStatus::Live,
        BLOB_DELETING => BlobStatus::Deleting,
        BLOB_DELETED => BlobStatus::Deleted,
        _ => return None,
    })
}

pub(crate) const fn trash_code(state: TrashState) -> i64 {
    match state {
        TrashState::Kept => 0,
        TrashState::Purging => 1,
        TrashState::Gone => 2,
    }
}

pub(crate) const fn trash_state(code: i64) -> Option<TrashState> {
    Some(match code {
        0 => TrashState::Kept,
        1 => TrashState::Purging,
        2 => TrashState::Gone,
        _ => return None,
    })
}

/// The key under which a client's reconcile state is stored.
pub(crate) fn client_key(client: &vfs_sync_core::id::ReplicaId) -> String {
    format!("crdt:{client}")
}

/// Reads a reconcile state from the columns `changed_at`, `change_id` and `write_ids`.
pub(crate) fn reconcile_state(
    key: &str,
    changed_at: i64,
    change_id: &str,
    write_ids: &str,
) -> Result<ReconcileState> {
    let wrong = |reason: String| malformed("reconcile_state", key, reason);
    let changed_at =
        Timestamp::from_millis(changed_at).ok_or_else(|| wrong("changed_at is no time".into()))?;
    let change_id =
        ChangeId::new(change_id).map_err(|error| wrong(format!("change_id {error}")))?;
    let write_ids: WriteIds = serde_json::from_str(write_ids).map_err(|error| {
        wrong(format!("write_ids is not an object of replica ids and positive integers: {error}"))
    })?;
    Ok(ReconcileState {
        cursor: Cursor { changed_at, change_id },
        last_reconciled_write_ids: write_ids,
    })
}

/// Encodes the column `write_ids` of a reconcile state.
pub(crate) fn write_ids_json(write_ids: &WriteIds) -> Result<String> {
    serde_json::to_string(write_ids).map_err(|error| StoreError::Failed(error.to_string()))
}

/// Encodes the column `body` of a device.
pub(crate) fn device_json(facts: &DeviceFacts) -> Result<String> {
    serde_json::to_string(facts).map_err(|error| StoreError::Failed(error.to_string()))
}

/// Reads the column `body` of a device.
pub(crate) fn device_facts(client: &str, json: &str) -> Result<DeviceFacts> {
    serde_json::from_str(json)
        .map_err(|error| malformed("devices", client, format_args!("body {error}")))
}

/// Encodes the column `realms.limits`; no limits are no value.
pub(crate) fn limits_json(limits: &UserLimits) -> Result<Option<String>> {
    if limits.is_empty() {
        return Ok(None);
    }
    let json = serde_json::to_string(limits);
    json.map(Some).map_err(|error| StoreError::Failed(error.to_string()))
}

/// Reads the column `realms.limits`.
pub(crate) fn limits(user: &str, json: Option<&str>) -> Result<UserLimits> {
    let read = |json| {
        serde_json::from_str(json)
            .map_err(|error| malformed("realms", user, format_args!("limits {error}")))
    };
    json.map_or(Ok(UserLimits::default()), read)
}

/// Converts a blob's size for its column.
pub(crate) fn size(size: u64) -> Result<i64> {
    i64::try_from(size).map_err(|_| StoreError::Failed(format!("a blob of {size} bytes")))
}

/// Returns an unpredictable number.
pub(crate) fn chance() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// The part of a random number that an epoch uses.
pub(crate) fn low_bits(chance: u64) -> u16 {
    (chance & 0xffff) as u16
}

/// Returns the id of a database that is created at `now`.
pub(crate) fn database_id(now: Timestamp, chance: u64) -> String {
    format!("{:012x}-{chance:016x}", now.as_millis().max(0))
}
