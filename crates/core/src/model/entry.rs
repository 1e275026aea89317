//! Feed entries: changes to a user's view, as the user's replicas receive them.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::access::{AccessLevel, Principal, PrincipalType};
use crate::content::{Attachment, RelationKind, Sha256Digest, is_content_type};
use crate::cursor::Cursor;
use crate::id::{BlobId, ChangeId, ItemId, OpId, PrincipalId, RefId, ReplicaId, UserId, WriteId};
use crate::item::{Encrypted, Metadata, Name, ObjectType, metadata_problem};
use crate::operation::OpType;
use crate::problem::write_field;
use crate::time::Timestamp;

/// An entry of a feed.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The entry's position in the feed; on the wire `occurredAt` and `opId`.
    pub position: Cursor,
    /// The change, with its author and time.
    pub body: EntryBody,
}

/// An entry without its position.
#[derive(Debug, Clone, PartialEq)]
pub struct EntryBody {
    /// The user who caused the change; `None` if the server did.
    pub actor: Option<UserId>,
    /// The greatest stamp among the registers that the entry shows.
    pub authored_at: Timestamp,
    /// The operation that caused the change, present only in its author's feed.
    pub origin: Option<Origin>,
    /// The replica that attached a content, if it named itself; present only in its author's feed.
    pub author_replica: Option<ReplicaId>,
    /// The change to the user's view.
    pub change: Change,
}

/// The operation behind an entry, in its author's own feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The operation's id; on the wire `authorOpId`.
    pub op_id: OpId,
    /// The replica that authored the operation.
    pub replica_id: ReplicaId,
    /// The operation's write id in its replica.
    pub write_id: WriteId,
}

/// The reason why something left the view.
///
/// On the wire the field `reason` is `revoked` for both, as earlier clients know it, and
/// `because` says the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemovalReason {
    /// The reader may no longer see the subject.
    Revoked,
    /// The owner of the subject was deleted, with everything that the owner had.
    OwnerDeleted,
}

/// The field `reason` of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum WireReason {
    Revoked,
}

/// The field `because` of an entry whose subject's owner was deleted. An unknown text counts as none.
const OWNER_DELETED: &str = "ownerDeleted";

impl RemovalReason {
    const fn because(self) -> Option<&'static str> {
        match self {
            Self::Revoked => None,
            Self::OwnerDeleted => Some(OWNER_DELETED),
        }
    }

    fn of_wire(reason: Option<WireReason>, because: Option<&str>) -> Option<Self> {
        let WireReason::Revoked = reason?;
        Some(if because == Some(OWNER_DELETED) { Self::OwnerDeleted } else { Self::Revoked })
    }
}

/// A change to a user's view.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// An item that appeared or changed, with its whole present state.
    ItemUpsert(Box<ItemView>),
    /// An item was deleted or left the view.
    ItemDelete {
        /// The item that was deleted.
        item: ItemId,
        /// The reason, unless the item was deleted.
        reason: Option<RemovalReason>,
    },
    /// A grant on an item.
    GrantAdd {
        /// The item that the grant is on.
        item: ItemId,
        /// The principal that the grant names.
        principal: Principal,
        /// The level that the grant gives.
        level: AccessLevel,
    },
    /// A grant was removed or left the view.
    GrantRemove {
        /// The item that the grant was on.
        item: ItemId,
        /// The principal that the grant named.
        principal: Principal,
        /// The reason, unless the grant was removed.
        reason: Option<RemovalReason>,
    },
    /// A link that appeared or changed.
    LinkAdd {
        /// The container of the link.
        parent: ItemId,
        /// The item that hangs under the container.
        child: ItemId,
    },
    /// A link was removed or left the view.
    LinkRemove {
        /// The container of the link.
        parent: ItemId,
        /// The item that hung under the container.
        child: ItemId,
        /// The reason, unless the link was removed.
        reason: Option<RemovalReason>,
    },
    /// A content of an item; with [`RelationKind::File`] it replaces the previous content.
    BlobAttach(Box<Attachment>),
    /// A content was detached or left the view.
    BlobDetach {
        /// The item that the content belonged to.
        item: ItemId,
        /// The relation of the content to the item.
        relation_kind: RelationKind,
        /// The blob with the bytes.
        blob_id: BlobId,
        /// The id of the attachment.
        ref_id: RefId,
        /// The reason, unless the content was detached.
        reason: Option<RemovalReason>,
    },
}

/// An item as a reader sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ItemView {
    /// The id of the item.
    pub item_id: ItemId,
    /// The user who owns the item, which never changes.
    pub owner_id: UserId,
    /// The type of the item.
    pub object_type: ObjectType,
    /// The name; `None` if the item has none, or an encrypted one.
    pub name: Option<Name>,
    /// The metadata of the item.
    pub metadata: Metadata,
    /// The encrypted form, if the item has one.
    pub encrypted: Option<Encrypted>,
    /// The time of the item's creation.
    pub created_at: Timestamp,
    /// The reader's own level.
    pub access_level: AccessLevel,
}

/// The subject of an entry. A feed holds one entry for each key: the newest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntryKey {
    /// An item, identified by its id.
    Item(ItemId),
    /// A link between two items.
    Link {
        /// The container of the link.
        parent: ItemId,
        /// The item that hangs under the container.
        child: ItemId,
    },
    /// A grant to a principal.
    Grant {
        /// The item that the grant is on.
        item: ItemId,
        /// The principal that the grant names.
        principal: Principal,
    },
    /// The current content of an item.
    Content(ItemId),
    /// Another attachment of an item.
    Attachment {
        /// The item that the attachment belongs to.
        item: ItemId,
        /// The id of the attachment.
        ref_id: RefId,
    },
}

impl EntryKey {
    /// The key of an attachment. An item has one current content, and any number of other
    /// attachments.
    #[must_use]
    pub fn attachment(item: &ItemId, kind: RelationKind, ref_id: &RefId) -> Self {
        match kind {
            RelationKind::File => Self::Content(item.clone()),
            _ => Self::Attachment { item: item.clone(), ref_id: ref_id.clone() },
        }
    }

    /// Encodes the key as bytes. Different keys have different bytes, for any ids.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        // The first id is closed by a byte that no UTF-8 has, so no two pairs join alike.
        let join = |tag: u8, parts: &[&str]| {
            let mut bytes =
                Vec::with_capacity(1 + parts.iter().map(|part| part.len() + 1).sum::<usize>());
            bytes.push(tag);
            for (index, part) in parts.iter().enumerate() {
                if index > 0 {
                    bytes.push(0xFF);
                }
                bytes.extend_from_slice(part.as_bytes());
            }
            bytes
        };
        match self {
            Self::Item(item) => join(b'i', &[item.as_str()]),
            Self::Link { parent, child } => join(b'l', &[parent.as_str(), child.as_str()]),
            Self::Grant { item, principal } => {
                let tag = match principal.kind {
                    PrincipalType::User => b'u',
                    PrincipalType::Group => b'g',
                    PrincipalType::Organization => b'o',
                };
                join(tag, &[item.as_str(), principal.id.as_str()])
            }
            Self::Content(item) => join(b'c', &[item.as_str()]),
            Self::Attachment { item, ref_id } => join(b'a', &[item.as_str(), ref_id.as_str()]),
        }
    }
}

impl Change {
    /// Returns the key of the change's subject.
    #[must_use]
    pub fn key(&self) -> EntryKey {
        match self {
            Self::ItemUpsert(view) => EntryKey::Item(view.item_id.clone()),
            Self::ItemDelete { item, .. } => EntryKey::Item(item.clone()),
            Self::GrantAdd { item, principal, .. } | Self::GrantRemove { item, principal, .. } => {
                EntryKey::Grant { item: item.clone(), principal: principal.clone() }
            }
            Self::LinkAdd { parent, child } | Self::LinkRemove { parent, child, .. } => {
                EntryKey::Link { parent: parent.clone(), child: child.clone() }
            }
            Self::BlobAttach(a) => EntryKey::attachment(&a.item_id, a.relation_kind, &a.ref_id),
            Self::BlobDetach { item, relation_kind, ref_id, .. } => {
                EntryKey::attachment(item, *relation_kind, ref_id)
            }
        }
    }

    /// Returns the reason why something left the view, if there is one.
    #[must_use]
    pub const fn reason(&self) -> Option<RemovalReason> {
        match self {
            Self::ItemDelete { reason, .. }
            | Self::GrantRemove { reason, .. }
            | Self::LinkRemove { reason, .. }
            | Self::BlobDetach { reason, .. } => *reason,
            _ => None,
        }
    }

    /// Sets the reason of a removal.
    pub(crate) const fn set_reason(&mut self, to: Option<RemovalReason>) {
        match self {
            Self::ItemDelete { reason, .. }
            | Self::GrantRemove { reason, .. }
            | Self::LinkRemove { reason, .. }
            | Self::BlobDetach { reason, .. } => *reason = to,
            _ => {}
        }
    }

    /// Returns whether the change removes something from the view.
    #[must_use]
    pub fn is_removal(&self) -> bool {
        matches!(
            self,
            Self::ItemDelete { .. }
                | Self::GrantRemove { .. }
                | Self::LinkRemove { .. }
                | Self::BlobDetach { .. }
        )
    }

    /// The item that the change concerns; for a link, the child.
    #[must_use]
    pub fn item(&self) -> &ItemId {
        match self {
            Self::ItemUpsert(view) => &view.item_id,
            Self::BlobAttach(attachment) => &attachment.item_id,
            Self::LinkAdd { child, .. } | Self::LinkRemove { child, .. } => child,
            Self::ItemDelete { item, .. }
            | Self::GrantAdd { item, .. }
            | Self::GrantRemove { item, .. }
            | Self::BlobDetach { item, .. } => item,
        }
    }
}

/// The wire form of an entry: flat, with `null` for fields that do not apply. A feed stores it
/// without the two fields of the position.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireEntry<'a> {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    op_id: Option<ChangeId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    occurred_at: Option<Timestamp>,
    item_id: ItemId,
    op_type: OpType,
    principal_type: Option<PrincipalType>,
    principal_id: Option<PrincipalId>,
    access_level: Option<AccessLevel>,
    parent_id: Option<ItemId>,
    child_id: Option<ItemId>,
    actor_id: Option<UserId>,
    #[serde(default)]
    source_table: Option<Cow<'a, str>>,
    #[serde(default)]
    source_id: Option<Cow<'a, str>>,
    authored_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<WireReason>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    because: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    author_op_id: Option<OpId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replica_id: Option<ReplicaId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    write_id: Option<WriteId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    author_replica_id: Option<ReplicaId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    object_type: Option<ObjectType>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<Name>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    metadata: Option<Cow<'a, Metadata>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner_id: Option<UserId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    encrypted_payload: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key_epoch: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    encryption_nonce: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    encryption_aad: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    encryption_signature: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    blob_id: Option<BlobId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    relation_kind: Option<RelationKind>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    digest: Option<Sha256Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content_type: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ref_id: Option<RefId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    attached_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    modified_at: Option<Timestamp>,
}

impl<'a> WireEntry<'a> {
    fn new(op_type: OpType, item: &'a ItemId, body: &EntryBody) -> Self {
        let source = match op_type {
            OpType::ItemUpsert | OpType::ItemDelete => "items",
            OpType::AclAdd | OpType::AclRemove => "grants",
            OpType::LinkAdd | OpType::LinkRemove | OpType::LinkReassign => "links",
            OpType::BlobAttach | OpType::BlobDetach => "blob_refs",
        };
        let origin = body.origin.as_ref();
        Self {
            op_id: None,
            occurred_at: None,
            item_id: item.clone(),
            op_type,
            principal_type: None,
            principal_id: None,
            access_level: None,
            parent_id: None,
            child_id: None,
            actor_id: body.actor.clone(),
            source_table: Some(Cow::Borrowed(source)),
            source_id: Some(Cow::Borrowed(item.as_str())),
            authored_at: body.authored_at,
            reason: None,
            because: None,
            author_op_id: origin.map(|o| o.op_id.clone()),
            replica_id: origin.map(|o| o.replica_id.clone()),
            write_id: origin.map(|o| o.write_id),
            author_replica_id: body.author_replica.clone(),
            object_type: None,
            name: None,
            metadata: None,
            owner_id: None,
            created_at: None,
            encrypted_payload: None,
            key_epoch: None,
            encryption_nonce: None,
            encryption_aad: None,
            encryption_signature: None,
            blob_id: None,
            relation_kind: None,
            size: None,
            digest: None,
            content_type: None,
            ref_id: None,
            attached_at: None,
            modified_at: None,
        }
    }
}

impl<'a> From<&'a EntryBody> for WireEntry<'a> {
    fn from(body: &'a EntryBody) -> Self {
        let reason = body.change.reason();
        let mut wire = Self::of_change(body);
        wire.reason = reason.map(|_| WireReason::Revoked);
        wire.because = reason.and_then(RemovalReason::because).map(Cow::Borrowed);
        wire
    }
}

impl<'a> WireEntry<'a> {
    /// Returns the wire form of an entry without the reason of a removal.
    fn of_change(body: &'a EntryBody) -> Self {
        match &body.change {
            Change::ItemUpsert(view) => {
                let mut wire = Self::new(OpType::ItemUpsert, &view.item_id, body);
                wire.access_level = Some(view.access_level);
                wire.object_type = Some(view.object_type);
                wire.name.clone_from(&view.name);
                wire.metadata = Some(Cow::Borrowed(&view.metadata));
                wire.owner_id = Some(view.owner_id.clone());
                wire.created_at = Some(view.created_at);
                (
                    wire.encrypted_payload,
                    wire.key_epoch,
                    wire.encryption_nonce,
                    wire.encryption_aad,
                    wire.encryption_signature,
                ) = Encrypted::to_fields(view.encrypted.as_ref());
                wire
            }
            Change::ItemDelete { item, .. } => Self::new(OpType::ItemDelete, item, body),
            Change::GrantAdd { item, principal, level } => Self {
                principal_type: Some(principal.kind),
                principal_id: Some(principal.id.clone()),
                access_level: Some(*level),
                ..Self::new(OpType::AclAdd, item, body)
            },
            Change::GrantRemove { item, principal, .. } => Self {
                principal_type: Some(principal.kind),
                principal_id: Some(principal.id.clone()),
                ..Self::new(OpType::AclRemove, item, body)
            },
            Change::LinkAdd { parent, child } => Self {
                parent_id: Some(parent.clone()),
                child_id: Some(child.clone()),
                ..Self::new(OpType::LinkAdd, child, body)
            },
            Change::LinkRemove { parent, child, .. } => Self {
                parent_id: Some(parent.clone()),
                child_id: Some(child.clone()),
                ..Self::new(OpType::LinkRemove, child, body)
            },
            Change::BlobAttach(a) => Self {
                blob_id: Some(a.blob_id.clone()),
                relation_kind: Some(a.relation_kind),
                size: Some(a.size),
                digest: Some(a.digest),
                content_type: a.content_type.clone(),
                ref_id: Some(a.ref_id.clone()),
                attached_at: Some(a.attached_at),
                modified_at: a.modified_at,
                ..Self::new(OpType::BlobAttach, &a.item_id, body)
            },
            Change::BlobDetach { item, relation_kind, blob_id, ref_id, .. } => Self {
                blob_id: Some(blob_id.clone()),
                relation_kind: Some(*relation_kind),
                ref_id: Some(ref_id.clone()),
                ..Self::new(OpType::BlobDetach, item, body)
            },
        }
    }
}

/// A field that is missing from an entry, or malformed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct MalformedEntry {
    field: &'static str,
    problem: &'static str,
}

impl fmt::Display for MalformedEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_field(f, self.field, &self.problem)
    }
}

fn need<T>(field: &'static str, value: Option<T>) -> Result<T, MalformedEntry> {
    value.ok_or(MalformedEntry { field, problem: "is missing" })
}

impl TryFrom<WireEntry<'_>> for Entry {
    type Error = MalformedEntry;

    fn try_from(wire: WireEntry<'_>) -> Result<Self, MalformedEntry> {
        let position = Cursor {
            changed_at: need("occurredAt", wire.occurred_at)?,
            change_id: need("opId", wire.op_id)?,
        };
        let item = wire.item_id;
        let principal = |kind, id| {
            Ok::<_, MalformedEntry>(Principal {
                kind: need("principalType", kind)?,
                id: need("principalId", id)?,
            })
        };
        let link = |parent, child: Option<ItemId>| {
            let (parent, child) = (need("parentId", parent)?, need("childId", child)?);
            if parent == child {
                return Err(MalformedEntry { field: "parentId", problem: "is the child itself" });
            }
            if child != item {
                return Err(MalformedEntry { field: "childId", problem: "is not the itemId" });
            }
            Ok((parent, child))
        };
        let reason = RemovalReason::of_wire(wire.reason, wire.because.as_deref());
        let change = match wire.op_type {
            OpType::ItemUpsert => {
                let encrypted = Encrypted::from_fields((
                    wire.encrypted_payload,
                    wire.key_epoch,
                    wire.encryption_nonce,
                    wire.encryption_aad,
                    wire.encryption_signature,
                ))
                .map_err(|(field, problem)| MalformedEntry { field, problem })?;
                let metadata = wire.metadata.map(Cow::into_owned).unwrap_or_default();
                if let Some(problem) = metadata_problem(metadata.iter()) {
                    return Err(MalformedEntry { field: "metadata", problem });
                }
                Change::ItemUpsert(Box::new(ItemView {
                    item_id: item,
                    owner_id: need("ownerId", wire.owner_id)?,
                    object_type: need("objectType", wire.object_type)?,
                    name: wire.name,
                    metadata,
                    encrypted,
                    created_at: need("createdAt", wire.created_at)?,
                    access_level: need("accessLevel", wire.access_level)?,
                }))
            }
            OpType::ItemDelete => Change::ItemDelete { item, reason },
            OpType::AclAdd => Change::GrantAdd {
                item,
                principal: principal(wire.principal_type, wire.principal_id)?,
                level: need("accessLevel", wire.access_level)?,
            },
            OpType::AclRemove => Change::GrantRemove {
                item,
                principal: principal(wire.principal_type, wire.principal_id)?,
                reason,
            },
            OpType::LinkAdd => {
                let (parent, child) = link(wire.parent_id, wire.child_id)?;
                Change::LinkAdd { parent, child }
            }
            OpType::LinkRemove => {
                let (parent, child) = link(wire.parent_id, wire.child_id)?;
                Change::LinkRemove { parent, child, reason }
            }
            OpType::BlobAttach => {
                let content_type = wire.content_type;
                if !content_type.as_deref().is_none_or(is_content_type) {
                    let problem = "must be 1 to 255 bytes of printable ASCII";
                    return Err(MalformedEntry { field: "contentType", problem });
                }
                Change::BlobAttach(Box::new(Attachment {
                    item_id: item,
                    blob_id: need("blobId", wire.blob_id)?,
                    relation_kind: need("relationKind", wire.relation_kind)?,
                    size: need("size", wire.size)?,
                    digest: need("digest", wire.digest)?,
                    content_type,
                    ref_id: need("refId", wire.ref_id)?,
                    attached_at: need("attachedAt", wire.attached_at)?,
                    modified_at: wire.modified_at,
                }))
            }
            OpType::BlobDetach => Change::BlobDetach {
                item,
                relation_kind: need("relationKind", wire.relation_kind)?,
                blob_id: need("blobId", wire.blob_id)?,
                ref_id: need("refId", wire.ref_id)?,
                reason,
            },
            OpType::LinkReassign => {
                return Err(MalformedEntry { field: "opType", problem: "is not one of a feed" });
            }
        };
        // All three, or none.
        let origin = match (wire.author_op_id, wire.replica_id, wire.write_id) {
            (None, None, None) => None,
            (op_id, replica_id, write_id) => Some(Origin {
                op_id: need("authorOpId", op_id)?,
                replica_id: need("replicaId", replica_id)?,
                write_id: need("writeId", write_id)?,
            }),
        };
        let body = EntryBody {
            actor: wire.actor_id,
            authored_at: wire.authored_at,
            origin,
            author_replica: wire.author_replica_id,
            change,
        };
        Ok(Self { position, body })
    }
}

impl EntryBody {
    /// The JSON object that a feed stores: the wire form without `opId` and `occurredAt`.
    #[must_use]
    pub fn to_stored_json(&self) -> String {
        serde_json::to_string(&WireEntry::from(self)).expect("an entry serializes")
    }
}

/// Replaces the name of the user who caused a stored entry; `None` if it names somebody else.
#[must_use]
pub fn with_actor(stored: &str, from: &UserId, to: &UserId) -> Option<String> {
    let mut wire: WireEntry<'_> = serde_json::from_str(stored).ok()?;
    if wire.actor_id.as_ref() != Some(from) {
        return None;
    }
    wire.actor_id = Some(to.clone());
    serde_json::to_string(&wire).ok()
}

/// Returns the id of the item whose own entry has this key; `None` for the key of anything else.
#[must_use]
pub fn item_of_key(key: &[u8]) -> Option<ItemId> {
    let id = key.strip_prefix(b"i")?;
    std::str::from_utf8(id).ok()?.parse().ok()
}

/// Completes a stored entry with its position, and returns its wire form.
///
/// `stored` comes from [`EntryBody::to_stored_json`]; the position's id needs no escape.
#[must_use]
pub fn wire_json(stored: &str, position: crate::cursor::Position, changed_at: Timestamp) -> String {
    let rest = stored.strip_prefix('{').unwrap_or(stored);
    format!(r#"{{"opId":"{position}","occurredAt":"{changed_at}",{rest}"#)
}

impl Serialize for Entry {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut wire = WireEntry::from(&self.body);
        wire.op_id = Some(self.position.change_id.clone());
        wire.occurred_at = Some(self.position.changed_at);
        wire.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        WireEntry::deserialize(deserializer)?.try_into().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cursor::{Epoch, Position};
    use serde_json::json;

    #[test]
    fn an_entry_has_the_contracts_form_and_survives_the_wire() {
        let body = EntryBody {
            actor: Some(UserId::new("u").unwrap()),
            authored_at: Timestamp::from_millis(1).unwrap(),
            origin: None,
            author_replica: None,
            change: Change::LinkAdd {
                parent: ItemId::new("p").unwrap(),
                child: ItemId::new("c").unwrap(),
            },
        };
        let position = Position { epoch: Epoch::from_u64(7).unwrap(), counter: 2 };
        let at = Timestamp::from_millis(5).unwrap();
        let text = wire_json(&body.to_stored_json(), position, at);
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&text).unwrap(),
            json!({
                "opId": "000000000007-0000000000000002", "occurredAt": "1970-01-01T00:00:00.005Z",
                "itemId": "c", "opType": "link_add", "principalType": null, "principalId": null,
                "accessLevel": null, "parentId": "p", "childId": "c", "actorId": "u",
                "sourceTable": "links", "sourceId": "c", "authoredAt": "1970-01-01T00:00:00.001Z",
            })
        );
        let entry: Entry = serde_json::from_str(&text).unwrap();
        assert_eq!(entry, Entry { position: position.at(at), body });
        assert_eq!(
            serde_json::from_str::<Entry>(&serde_json::to_string(&entry).unwrap()).unwrap(),
            entry
        );
    }

    #[test]
    fn keys_of_different_things_have_different_bytes() {
        let link = |parent: &str, child: &str| {
            EntryKey::Link {
                parent: ItemId::new(parent).unwrap(),
                child: ItemId::new(child).unwrap(),
            }
            .to_bytes()
        };
        assert_ne!(link("a:b", "c"), link("a", "b:c"));
        assert_ne!(link("ab", "c"), link("a", "bc"));
    }

    #[test]
    fn an_item_beyond_the_protocols_limits_is_malformed() {
        let entry = |change: serde_json::Value| {
            let mut entry = json!({
                "opId": "1", "occurredAt": "1970-01-01T00:00:00Z", "itemId": "i",
                "opType": "item_upsert", "authoredAt": "1970-01-01T00:00:00Z", "ownerId": "u",
                "objectType": "file", "createdAt": "1970-01-01T00:00:00Z", "accessLevel": "read",
            });
            entry.as_object_mut().unwrap().append(&mut change.as_object().unwrap().clone());
            serde_json::from_value::<Entry>(entry).map_err(|error| error.to_string())
        };
        let keys = |count: usize| {
            let keys = (0..count).map(|n| (format!("k{n}"), json!(n)));
            json!({ "metadata": keys.collect::<serde_json::Map<_, _>>() })
        };
        assert!(entry(keys(64)).is_ok());
        assert_eq!(entry(keys(65)).unwrap_err(), "metadata has more than 64 keys");
        let bytes = |count: usize| json!({ "metadata": { "k": "x".repeat(count) } });
        assert!(entry(bytes(16 * 1024 - 3)).is_ok());
        assert_eq!(entry(bytes(16 * 1024 - 2)).unwrap_err(), "metadata is more than 16384 bytes");
        let key = json!({ "metadata": { "k".repeat(256): 1 } });
        assert_eq!(entry(key).unwrap_err(), "metadata has a key of more than 255 bytes");
        let part = json!({ "name": "n", "encryptionNonce": "AAAA" });
        assert!(entry(part).unwrap_err().starts_with("encryptionNonce comes with"));
        let attached = |content_type: &str| {
            entry(json!({
                "opType": "blob_attach", "blobId": "b", "relationKind": "file", "size": 1,
                "digest": "ab".repeat(32), "refId": "r", "attachedAt": "1970-01-01T00:00:00Z",
                "contentType": content_type,
            }))
        };
        assert!(attached("text/plain; charset=utf-8").is_ok());
        assert!(attached(&"t".repeat(256)).unwrap_err().starts_with("contentType"));
    }

    #[test]
    fn a_malformed_entry_names_its_field() {
        let error = serde_json::from_str::<Entry>(
            r#"{"opId":"1","occurredAt":"1970-01-01T00:00:00Z","itemId":"c","opType":"link_add","authoredAt":"1970-01-01T00:00:00Z","childId":"c"}"#,
        )
        .unwrap_err();
        assert!(error.to_string().contains("parentId is missing"), "{error}");
    }
}
