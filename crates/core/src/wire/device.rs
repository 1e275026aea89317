//! The headers by which a client says which device it is, and the wire format of devices and users.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::{of_percent, percent, telemetry};
use crate::cursor::Epoch;
use crate::id::{ReplicaId, UserId};
use crate::server::deletion::{Deletion, DeletionCounts, DeletionPhase, out_of_reach};
use crate::server::device::{Device, DeviceState, KeptReport};
use crate::server::user::UserLimits;
use crate::time::Timestamp;
use crate::tree::device_name;

/// The header that names the calling replica, encoded by [`client_header`].
pub const CLIENT_HEADER: &str = "Vfs-Sync-Client";
/// The header in which a replica describes its device: a [`Description`].
pub const DEVICE_HEADER: &str = "Vfs-Sync-Device";

/// Bytes of a [`DEVICE_HEADER`]; a longer one describes nothing.
const MAX_HEADER_BYTES: usize = 1_024;
/// The beginning of the pair that has the epoch.
const EPOCH: &str = "epoch=";
/// Bytes of UTF-8 in a version or a platform.
const MAX_WORD_BYTES: usize = telemetry::MAX_VERSION_BYTES;

/// Encodes a replica as the value of [`CLIENT_HEADER`]: every byte except unreserved characters
/// (RFC 3986) as `%XX`.
#[must_use]
pub fn client_header(client: &ReplicaId) -> String {
    percent(client.as_str())
}

/// Decodes a value of [`CLIENT_HEADER`]; `None` if it names no replica.
#[must_use]
pub fn client_of_header(value: &str) -> Option<ReplicaId> {
    ReplicaId::new(of_percent(value)?).ok()
}

/// A device as its client describes it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Description {
    /// The device's name, such as that of its host; empty if it has none.
    pub name: String,
    /// The version of the client's program.
    pub version: String,
    /// The operating system and the processor.
    pub platform: String,
    /// The number of operations and contents that wait to be sent.
    pub queue: Option<u64>,
    /// The signature or code with which synchronisation is stopped.
    pub stopped: Option<String>,
    /// The latest epoch of the server's database that the client has seen. A server whose database
    /// is of an earlier one does not serve the client.
    pub epoch: Option<Epoch>,
}

impl Description {
    /// Encodes the description as the value of [`DEVICE_HEADER`].
    #[must_use]
    pub fn header(&self) -> String {
        let (name, version) = (percent(&self.name), percent(&self.version));
        let mut text =
            format!("name={name}&version={version}&platform={}", percent(&self.platform));
        if let Some(queue) = self.queue {
            let _ = write!(text, "&queue={queue}");
        }
        if let Some(stopped) = &self.stopped {
            let _ = write!(text, "&stopped={}", percent(stopped));
        }
        if let Some(epoch) = self.epoch {
            let _ = write!(text, "&{EPOCH}{}", epoch.as_u64());
        }
        text
    }

    /// Decodes a value of [`DEVICE_HEADER`] from anybody: texts are shortened and made printable,
    /// unknown signatures are [`telemetry::OTHER`], and unknown fields are ignored.
    #[must_use]
    pub fn of_header(value: &str) -> Option<Self> {
        if value.len() > MAX_HEADER_BYTES {
            return None;
        }
        let mut found = Self::default();
        for (field, value) in value.split('&').filter_map(|pair| pair.split_once('=')) {
            let value = of_percent(value)?;
            match field {
                "name" => found.name = if value.is_empty() { value } else { device_name(&value) },
                "version" => found.version = word(&value),
                "platform" => found.platform = word(&value),
                "queue" => found.queue = value.parse().ok(),
                "stopped" => found.stopped = Some(telemetry::known_signature(&value)),
                _ => {}
            }
        }
        found.epoch = Self::epoch_in(value);
        Some(found)
    }

    /// Reads the epoch alone of a value of [`DEVICE_HEADER`].
    #[must_use]
    pub fn epoch_in(value: &str) -> Option<Epoch> {
        if value.len() > MAX_HEADER_BYTES {
            return None;
        }
        let digits = value.split('&').find_map(|pair| pair.strip_prefix(EPOCH))?;
        digits.parse().ok().and_then(Epoch::from_u64)
    }
}

/// A device in an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceView {
    /// The user of the device, in answers to operators.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<UserId>,
    /// The id of the device's replica.
    pub client_id: ReplicaId,
    /// The name that the user gave the device, or else its own.
    pub name: String,
    /// The version of the client's program.
    pub version: String,
    /// The operating system and the processor.
    pub platform: String,
    /// The address of the last noted call.
    pub address: Option<String>,
    /// The time of the first noted call.
    pub first_seen: Timestamp,
    /// The time of the last noted call.
    pub last_seen: Timestamp,
    /// `active`, `stuck`, `stopped`, `away` or `revoked`.
    pub condition: String,
    /// The positions between what the device has acknowledged and the head of the feed.
    pub lag: Option<u64>,
    /// The operations and contents that wait, as the device last said.
    pub queue: Option<u64>,
    /// The signature or code with which the device is stopped.
    pub stopped: Option<String>,
    /// The time at which the device was revoked.
    pub revoked_at: Option<Timestamp>,
    /// The last reports, the oldest first.
    pub reports: Vec<KeptReport>,
}

impl DeviceView {
    /// Describes a device at `now`; to an operator, with its user.
    #[must_use]
    pub fn of(state: DeviceState, now: Timestamp, to_operator: bool) -> Self {
        let (condition, lag) = (state.condition(now).as_str().to_owned(), state.lag());
        let name = state.device.name().to_owned();
        let Device { user, client, last_seen, revoked_at, facts } = state.device;
        Self {
            user_id: to_operator.then_some(user),
            client_id: client,
            name,
            version: facts.version,
            platform: facts.platform,
            address: facts.address,
            first_seen: facts.first_seen,
            last_seen,
            condition,
            lag,
            queue: facts.queue,
            stopped: facts.stopped,
            revoked_at,
            reports: facts.reports,
        }
    }
}

/// The answer to a listing of devices.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DevicesResponse {
    /// The devices, ascending by user and client.
    pub devices: Vec<DeviceView>,
    /// The start of the next page; `None` after the last one.
    pub next_cursor: Option<String>,
}

/// The body of a call that renames a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenameDevice {
    /// The name, which [`crate::tree::device_name`] shortens.
    pub name: String,
}

/// A user in an answer to an operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UserView {
    /// The id of the user.
    pub user_id: UserId,
    /// The name by which logs name the user.
    pub pseudonym: String,
    /// The time since when the user is disabled.
    pub disabled_at: Option<Timestamp>,
    /// The limits of the user's own.
    pub limits: UserLimits,
    /// The number of stored bytes, including staged ones.
    pub stored_bytes: u64,
    /// The number of bytes that are staged and not attached.
    pub staged_bytes: u64,
    /// The number of open stages.
    pub open_stages: u64,
    /// The number of items, deleted ones included.
    pub items: u64,
    /// The number of links, removed ones included.
    pub links: u64,
    /// The number of grants, removed ones included.
    pub grants: u64,
    /// The bytes of the items' registers.
    pub register_bytes: u64,
    /// The number of devices.
    pub devices: u64,
    /// The user's deletion, or its receipt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion: Option<DeletionView>,
}

/// The deletion of a user in an answer to an operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeletionView {
    /// The state: `waiting` until `dueAt`, `removing`, `done`, or `allowed` after that.
    pub state: DeletionState,
    /// The time of the request.
    pub requested_at: Timestamp,
    /// The time of the next step; while the deletion waits, of the first removal.
    pub due_at: Timestamp,
    /// The time at which all was removed.
    pub finished_at: Option<Timestamp>,
    /// The time at which the user was allowed again.
    pub allowed_at: Option<Timestamp>,
    /// The numbers of the things that were removed so far.
    pub removed: DeletionCounts,
    /// The parts that no deletion reaches, by name.
    pub out_of_reach: BTreeMap<String, String>,
}

/// The state of a deletion, as operators see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, strum::IntoStaticStr)]
#[serde(rename_all = "camelCase")]
#[strum(serialize_all = "camelCase")]
pub enum DeletionState {
    /// Nothing is removed yet.
    Waiting,
    /// The removal has begun.
    Removing,
    /// Everything of the user is removed.
    Done,
    /// All is removed, and the user may call again.
    Allowed,
}

impl From<&Deletion> for DeletionView {
    fn from(deletion: &Deletion) -> Self {
        let reach = out_of_reach().into_iter();
        Self {
            state: match deletion.phase {
                DeletionPhase::Waiting => DeletionState::Waiting,
                DeletionPhase::Done if deletion.allowed_at.is_some() => DeletionState::Allowed,
                DeletionPhase::Done => DeletionState::Done,
                _ => DeletionState::Removing,
            },
            requested_at: deletion.requested_at,
            due_at: deletion.due_at,
            finished_at: deletion.finished_at,
            allowed_at: deletion.allowed_at,
            removed: deletion.counts,
            out_of_reach: reach.map(|(name, text)| (name.to_owned(), text.to_owned())).collect(),
        }
    }
}

/// The body of a call that deletes a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeleteUserRequest {
    /// The seconds before anything is removed; seven days without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_seconds: Option<u64>,
}

/// The answer to a call that allows a user again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AllowUserResponse {
    /// The change by the call.
    pub outcome: AllowOutcome,
}

/// The change by a call that allows a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AllowOutcome {
    /// Nothing: the user is not being deleted, and was not.
    NotDeleted,
    /// The deletion was called off before anything was removed.
    CalledOff,
    /// The user may call again, as one who never did.
    Allowed,
}

/// The answer to a listing of users.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UsersResponse {
    /// The users in ascending order.
    pub users: Vec<UserView>,
    /// True if there are more.
    pub has_more: bool,
}

/// Returns the letters, digits and `.-_+` at the beginning of a text.
#[must_use]
pub fn word(text: &str) -> String {
    let plain = |c: &char| c.is_ascii_alphanumeric() || ".-_+".contains(*c);
    text.chars().take_while(plain).take(MAX_WORD_BYTES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_comes_through_its_header() {
        let given = Description {
            name: "Åsa's laptop & more".into(),
            version: "0.1.0".into(),
            platform: "linux-x86_64".into(),
            queue: Some(3),
            stopped: Some("pull:pullCursorRegression".into()),
            epoch: Epoch::from_u64(7),
        };
        let header = given.header();
        assert!(header.is_ascii(), "{header}");
        assert_eq!(Description::of_header(&header), Some(given));
        let client = ReplicaId::new("låptop 1").unwrap();
        assert_eq!(client_of_header(&client_header(&client)), Some(client));
    }

    #[test]
    fn what_a_hostile_header_says_is_bounded() {
        let name = "%0a".repeat(3) + &"x".repeat(300);
        let text = format!("name={name}&version=1%0A2&platform=<b>&queue=-1&stopped=hm&more=1");
        let found = Description::of_header(&text).unwrap();
        assert!(found.name.len() <= 64 && !found.name.contains('\n'), "{found:?}");
        assert_eq!((&*found.version, &*found.platform, found.queue), ("1", "", None));
        assert_eq!(found.stopped.as_deref(), Some(telemetry::OTHER));
        for bad in ["x".repeat(MAX_HEADER_BYTES + 1), "name=%ff".into(), "name=%z".into()] {
            assert_eq!(Description::of_header(&bad), None, "{bad}");
        }
        assert_eq!(Description::of_header("nothing"), Some(Description::default()));
        for bad in ["epoch=", "epoch=-1", "epoch=x", "epoch=281474976710656", "xepoch=1"] {
            assert_eq!(Description::epoch_in(bad), None, "{bad}");
        }
    }
}
