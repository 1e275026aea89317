//! A replica's exported state: canonical JSON, the same bytes for the same state, and all checks
//! that it must pass before a replica is created from it.

mod check;
mod form;

use std::io::Write;

use crate::access::{AccessLevel, Principal};
use crate::client::clock::HybridClock;
use crate::content::Attachment;
use crate::cursor::Cursor;
use crate::entry::ItemView;
use crate::id::{ItemId, ReplicaId, UserId};
use crate::item::{Encrypted, Metadata, Name};
use crate::operation::{Action, Operation};
use crate::time::Timestamp;
use crate::wire::{PushReason, ReconcileState, WriteIds};

pub use check::{client_id, parse};

/// The name of the format in the JSON.
pub const FORMAT: &str = "vfs-sync.replica-state";
/// The version of the JSON form.
pub const VERSION: u64 = 1;

/// The whole state of a replica, without contents and transient values: attempts, times, the stop
/// reason.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplicaState {
    /// The id of the replica.
    pub client_id: ReplicaId,
    /// The user whom the replica belongs to.
    pub user_id: UserId,
    /// The cursor that the replica has applied.
    pub replay_cursor: Option<Cursor>,
    /// The feed's head at the first pull, while the cursor is below it.
    pub baseline: Option<Cursor>,
    /// The newest head of the pages of a pull that is not settled.
    pub head: Option<Cursor>,
    /// The greatest write ids seen in any page.
    pub write_id_floor: WriteIds,
    /// The reconcile state of the last settled pull.
    pub reconcile_state: Option<ReconcileState>,
    /// The clock's last stamp, and the greatest time seen.
    pub clock: HybridClock,
    /// The greatest write id used, plus one.
    pub next_local_write_id: u64,
    /// The items, in order of their ids.
    pub items: Vec<ItemRegister>,
    /// The links, in order of parent, then child.
    pub links: Vec<LinkRegister>,
    /// The grants, in order of item, then principal.
    pub grants: Vec<GrantRegister>,
    /// The attachments, in order of item; an item's content before its other attachments, those in
    /// order of id.
    pub attachments: Vec<AttachmentRegister>,
    /// The container clocks, in order of the container ids.
    pub container_clocks: Vec<ContainerClock>,
    /// The queued operations, in order.
    pub queue: Vec<QueuedOperation>,
    /// The rejected operations, in order.
    pub rejected: Vec<RejectedOperation>,
}

/// An item as the server confirmed it.
#[derive(Debug, Clone, PartialEq)]
pub struct ItemRegister {
    /// The item as the feed delivered it.
    pub item: ItemView,
    /// The time of the item's greatest stamp.
    pub authored_at: Timestamp,
}

/// A link as the server confirmed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkRegister {
    /// The container of the link.
    pub parent_id: ItemId,
    /// The item that hangs under the container.
    pub child_id: ItemId,
    /// The time of the link's stamp.
    pub authored_at: Timestamp,
}

/// A grant as the server confirmed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantRegister {
    /// The item that the grant is on.
    pub item_id: ItemId,
    /// The principal that the grant names.
    pub principal: Principal,
    /// The level that the grant gives.
    pub access_level: AccessLevel,
    /// The time of the grant's stamp.
    pub authored_at: Timestamp,
}

/// An attachment as the server confirmed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachmentRegister {
    /// The attachment as the feed delivered it.
    pub attachment: Attachment,
    /// The time of the attach.
    pub authored_at: Timestamp,
}

/// The last change in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerClock {
    /// The container that changed.
    pub container_id: ItemId,
    /// The position of the container's last change.
    pub clock: Cursor,
}

/// An operation of the queue.
#[derive(Debug, Clone, PartialEq)]
pub struct QueuedOperation {
    /// True if the server has acknowledged the operation.
    pub acknowledged: bool,
    /// The operation that is queued.
    pub operation: Operation,
}

/// An operation that the server rejected.
#[derive(Debug, Clone, PartialEq)]
pub struct RejectedOperation {
    /// The operation as it was sent.
    pub operation: Operation,
    /// The reason that the server gave.
    pub reason: Option<PushReason>,
    /// Further detail from the server.
    pub detail: Option<String>,
}

impl ReplicaState {
    /// Writes the canonical JSON. With `redacted`, the JSON is marked as redacted and cannot be
    /// hydrated.
    ///
    /// # Errors
    /// The error of `writer`.
    pub fn write(&self, writer: impl Write, redacted: bool) -> std::io::Result<()> {
        form::write(self, writer, redacted)
    }

    /// Replaces names and metadata by digests, so that the state can go into a bug report.
    #[must_use]
    pub fn redact(mut self) -> Self {
        for row in &mut self.items {
            row.item.name = row.item.name.as_ref().map(redact_name);
            row.item.metadata = redact_metadata(&row.item.metadata);
            row.item.encrypted = row.item.encrypted.as_ref().map(redact_encrypted);
        }
        for row in &mut self.attachments {
            row.attachment.content_type = row.attachment.content_type.as_deref().map(digest_of);
        }
        for one in &mut self.queue {
            redact_operation(&mut one.operation);
        }
        for one in &mut self.rejected {
            redact_operation(&mut one.operation);
            one.detail = one.detail.as_deref().map(|detail| digest_of(detail).to_string());
        }
        self
    }
}

fn digest_of(text: &str) -> std::sync::Arc<str> {
    format!("blake3:{}", &blake3::hash(text.as_bytes()).to_hex()[..32]).into()
}

fn redact_name(name: &Name) -> Name {
    Name::new(digest_of(name.as_str())).expect("a digest is a name")
}

fn redact_metadata(metadata: &Metadata) -> Metadata {
    let digest = |value: &serde_json::Value| (*digest_of(&value.to_string())).into();
    metadata.iter().map(|(key, value)| (digest_of(key), digest(value))).collect()
}

fn redact_encrypted(encrypted: &Encrypted) -> Encrypted {
    use base64::Engine as _;
    let digest = |text: &std::sync::Arc<str>| {
        let hash = blake3::hash(text.as_bytes());
        std::sync::Arc::from(base64::engine::general_purpose::STANDARD.encode(hash.as_bytes()))
    };
    Encrypted {
        payload: digest(&encrypted.payload),
        key_epoch: encrypted.key_epoch,
        nonce: encrypted.nonce.as_ref().map(digest),
        aad: encrypted.aad.as_ref().map(digest),
        signature: encrypted.signature.as_ref().map(digest),
    }
}

fn redact_operation(op: &mut Operation) {
    let Action::Upsert(upsert) = &mut op.action else { return };
    upsert.name = upsert.name.as_ref().map(redact_name);
    upsert.encrypted = upsert.encrypted.as_ref().map(redact_encrypted);
    let metadata = std::mem::take(&mut upsert.metadata);
    upsert.metadata = metadata
        .into_iter()
        .map(|(key, value)| {
            let digest = |value: serde_json::Value| (*digest_of(&value.to_string())).into();
            (digest_of(&key), value.map(digest))
        })
        .collect();
}
