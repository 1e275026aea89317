//! Operations: the writes of a replica. The wire format is one struct of optional fields, defined
//! here once; in memory, each variant of an operation has exactly its own fields.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::access::{AccessLevel, Principal, PrincipalType};
use crate::cursor::{Cursor, Position};
use crate::id::{ItemId, OpId, PrincipalId, ReplicaId, WriteId};
use crate::item::{Encrypted, MAX_METADATA_KEY_BYTES, Name, ObjectType, metadata_bytes};
use crate::limits;
use crate::problem::write_field;
use crate::time::Timestamp;

/// A write by one replica.
#[derive(Debug, Clone, PartialEq)]
pub struct Operation {
    /// The operation's random id, never derived from the write id.
    pub op_id: OpId,
    /// The item that the operation changes; for links, the child.
    pub item_id: ItemId,
    /// The replica that authored the operation.
    pub replica_id: ReplicaId,
    /// The write id of the operation in its replica.
    pub write_id: WriteId,
    /// The time of the author's hybrid logical clock.
    pub occurred_at: Timestamp,
    /// The part of the feed that the author had applied when the operation was queued; `None` from
    /// clients that do not state it, and for a deletion that applies regardless. It never changes.
    pub basis: Option<Basis>,
    /// The change that the operation makes.
    pub action: Action,
}

/// The part of its user's feed that a replica had applied when it queued a write: on the wire a
/// cursor or `null`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "Option<Cursor>", into = "Option<Cursor>")]
pub enum Basis {
    /// The replica had applied nothing.
    Start,
    /// The replica had applied the feed up to this position.
    At(Cursor),
}

impl Basis {
    /// Returns whether the entry at `position` of the feed came after the basis.
    #[must_use]
    pub fn is_before(&self, position: Position) -> bool {
        match self {
            Self::Start => true,
            Self::At(cursor) => {
                Position::parse(&cursor.change_id).is_none_or(|seen| seen < position)
            }
        }
    }
}

impl From<Option<Cursor>> for Basis {
    fn from(cursor: Option<Cursor>) -> Self {
        cursor.map_or(Self::Start, Self::At)
    }
}

impl From<Basis> for Option<Cursor> {
    fn from(basis: Basis) -> Self {
        match basis {
            Basis::Start => None,
            Basis::At(cursor) => Some(cursor),
        }
    }
}

/// Reads an optional field in which `null` is a value: only an absent field is `None`.
///
/// # Errors
/// The errors of the value.
pub fn present<'de, T: Deserialize<'de>, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// The change that an operation makes.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Creates the item or sets the given fields, and clears "deleted".
    Upsert(Box<Upsert>),
    /// Marks the item as deleted.
    Delete,
    /// Gives the principal a grant on the item.
    GrantAdd {
        /// The principal that gets the grant.
        principal: Principal,
        /// The level that the grant gives.
        level: AccessLevel,
    },
    /// Removes the principal's grant on the item.
    GrantRemove {
        /// The principal that loses the grant.
        principal: Principal,
    },
    /// Links the item under `parent`.
    LinkAdd {
        /// The container of the link.
        parent: ItemId,
    },
    /// Removes the link of the item under `parent`.
    LinkRemove {
        /// The container of the link.
        parent: ItemId,
    },
    /// Moves the item under `parent`, away from its other parents in the same realm.
    LinkReassign {
        /// The new container of the child.
        parent: ItemId,
    },
}

/// The fields of an item that an operation sets; a `None` field is unchanged.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Upsert {
    /// The type, required to create an item.
    pub object_type: Option<ObjectType>,
    /// The new name, if it changes.
    pub name: Option<Name>,
    /// The metadata keys to set; `None` removes a key.
    pub metadata: BTreeMap<Arc<str>, Option<serde_json::Value>>,
    /// The encrypted form, instead of name and metadata.
    pub encrypted: Option<Encrypted>,
    /// The container of a new item; the item gets the same owner. Ignored if the item exists.
    pub parent: Option<ItemId>,
}

/// The name of an operation or of a feed entry on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum OpType {
    ItemUpsert,
    ItemDelete,
    AclAdd,
    AclRemove,
    LinkAdd,
    LinkRemove,
    LinkReassign,
    /// A content was attached; occurs only in feeds.
    BlobAttach,
    /// A content was detached; occurs only in feeds.
    BlobDetach,
}

/// The wire format of an operation. Unknown fields are ignored.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct WireOperation<'a> {
    pub op_id: OpId,
    pub op_type: OpType,
    pub item_id: ItemId,
    pub replica_id: ReplicaId,
    pub write_id: WriteId,
    pub occurred_at: Timestamp,
    /// An absent field differs from `null`.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub basis: Option<Basis>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_type: Option<ObjectType>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Cow<'a, BTreeMap<Arc<str>, Option<serde_json::Value>>>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encrypted_payload: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_epoch: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption_nonce: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption_aad: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption_signature: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal_type: Option<PrincipalType>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal_id: Option<PrincipalId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_level: Option<AccessLevel>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_id: Option<ItemId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub child_id: Option<ItemId>,
}

/// The reason why an operation is malformed, with the field's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Malformed {
    /// The field on the wire.
    pub field: &'static str,
    /// The problem with the field.
    pub problem: String,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_field(f, self.field, &self.problem)
    }
}

fn malformed(field: &'static str, problem: impl Into<String>) -> Malformed {
    Malformed { field, problem: problem.into() }
}

/// Finds the field that makes `json` malformed, by a second, slower parse.
fn form_error(json: &str) -> Malformed {
    let mut source = serde_json::Deserializer::from_str(json);
    let problem = match serde_path_to_error::deserialize::<_, WireOperation<'_>>(&mut source) {
        Ok(_) => "it continues after its end".to_owned(),
        Err(error) if error.path().iter().next().is_none() => error.inner().to_string(),
        Err(error) => format!("{}: {}", error.path(), error.inner()),
    };
    malformed("operation", format!("is malformed: {problem}"))
}

pub(crate) fn required<T>(field: &'static str, value: Option<T>) -> Result<T, Malformed> {
    value.ok_or_else(|| malformed(field, "is missing"))
}

impl Operation {
    /// Reads one element of a push's `operations`.
    ///
    /// # Errors
    /// [`Malformed`] names the field that is wrong.
    pub fn parse(json: &str) -> Result<Self, Malformed> {
        // Serde would take an array for a struct's fields in their order.
        if json.trim_ascii_start().starts_with('[') {
            return Err(malformed("operation", "must be an object"));
        }
        let wire: WireOperation<'_> = serde_json::from_str(json).map_err(|_| form_error(json))?;
        wire.try_into()
    }

    /// The operation's JSON, the same for the same operation.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(&WireOperation::from(self)).expect("an operation serializes")
    }

    /// Returns the digest of the whole operation in its canonical form. It distinguishes a retry
    /// from another operation with the same ids.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        *blake3::hash(self.to_json().as_bytes()).as_bytes()
    }

    /// The parent that the operation names, if any.
    #[must_use]
    pub fn parent(&self) -> Option<&ItemId> {
        match &self.action {
            Action::Upsert(upsert) => upsert.parent.as_ref(),
            Action::LinkAdd { parent }
            | Action::LinkRemove { parent }
            | Action::LinkReassign { parent } => Some(parent),
            Action::Delete | Action::GrantAdd { .. } | Action::GrantRemove { .. } => None,
        }
    }

    /// Returns the principal whose grant the operation adds or removes, if it does.
    #[must_use]
    pub fn principal(&self) -> Option<&Principal> {
        match &self.action {
            Action::GrantAdd { principal, .. } | Action::GrantRemove { principal } => {
                Some(principal)
            }
            Action::Upsert(_)
            | Action::Delete
            | Action::LinkAdd { .. }
            | Action::LinkRemove { .. }
            | Action::LinkReassign { .. } => None,
        }
    }
}

impl Upsert {
    fn from_wire(wire: &mut WireOperation<'_>) -> Result<Self, Malformed> {
        let encrypted = Encrypted::from_fields((
            wire.encrypted_payload.take(),
            wire.key_epoch,
            wire.encryption_nonce.take(),
            wire.encryption_aad.take(),
            wire.encryption_signature.take(),
        ))
        .map_err(|(field, problem)| malformed(field, problem))?;
        let metadata = wire.metadata.take().map(Cow::into_owned).unwrap_or_default();
        if encrypted.is_some() && (wire.name.is_some() || !metadata.is_empty()) {
            return Err(malformed("encryptedPayload", "stands instead of name and metadata"));
        }
        if metadata.len() > limits::MAX_METADATA_KEYS_EVER {
            return Err(malformed("metadata", "has too many keys"));
        }
        if let Some(key) = metadata.keys().find(|key| key.len() > MAX_METADATA_KEY_BYTES) {
            return Err(malformed("metadata", format!("has a key of {} bytes", key.len())));
        }
        let values = metadata.iter().filter_map(|(key, value)| Some((key, value.as_ref()?)));
        if metadata_bytes(values) > limits::MAX_METADATA_BYTES {
            return Err(malformed("metadata", "must be at most 16384 bytes"));
        }
        if wire.parent_id.as_ref() == Some(&wire.item_id) {
            return Err(malformed("parentId", "must not be the item itself"));
        }
        Ok(Self {
            object_type: wire.object_type,
            name: wire.name.take(),
            metadata,
            encrypted,
            parent: wire.parent_id.take(),
        })
    }
}

impl TryFrom<WireOperation<'_>> for Operation {
    type Error = Malformed;

    fn try_from(mut wire: WireOperation<'_>) -> Result<Self, Malformed> {
        let action = match wire.op_type {
            OpType::ItemUpsert => Action::Upsert(Box::new(Upsert::from_wire(&mut wire)?)),
            OpType::ItemDelete => Action::Delete,
            OpType::AclAdd | OpType::AclRemove => {
                let principal = Principal {
                    kind: required("principalType", wire.principal_type)?,
                    id: required("principalId", wire.principal_id.take())?,
                };
                if wire.op_type == OpType::AclAdd {
                    let level = required("accessLevel", wire.access_level)?;
                    Action::GrantAdd { principal, level }
                } else {
                    Action::GrantRemove { principal }
                }
            }
            OpType::LinkAdd | OpType::LinkRemove | OpType::LinkReassign => {
                let parent = required("parentId", wire.parent_id.take())?;
                if required("childId", wire.child_id.take())? != wire.item_id {
                    return Err(malformed("childId", "must be the itemId"));
                }
                if parent == wire.item_id {
                    return Err(malformed("parentId", "must not be the child itself"));
                }
                match wire.op_type {
                    OpType::LinkAdd => Action::LinkAdd { parent },
                    OpType::LinkRemove => Action::LinkRemove { parent },
                    _ => Action::LinkReassign { parent },
                }
            }
            OpType::BlobAttach | OpType::BlobDetach => {
                return Err(malformed("opType", "is not one that a client may push"));
            }
        };
        Ok(Self {
            op_id: wire.op_id,
            item_id: wire.item_id,
            replica_id: wire.replica_id,
            write_id: wire.write_id,
            occurred_at: wire.occurred_at,
            basis: wire.basis,
            action,
        })
    }
}

impl<'a> From<&'a Operation> for WireOperation<'a> {
    fn from(op: &'a Operation) -> Self {
        let mut wire = Self {
            op_id: op.op_id.clone(),
            op_type: OpType::ItemDelete,
            item_id: op.item_id.clone(),
            replica_id: op.replica_id.clone(),
            write_id: op.write_id,
            occurred_at: op.occurred_at,
            basis: op.basis.clone(),
            object_type: None,
            name: None,
            metadata: None,
            encrypted_payload: None,
            key_epoch: None,
            encryption_nonce: None,
            encryption_aad: None,
            encryption_signature: None,
            principal_type: None,
            principal_id: None,
            access_level: None,
            parent_id: None,
            child_id: None,
        };
        let mut link = |op_type, parent: &ItemId| {
            wire.op_type = op_type;
            wire.parent_id = Some(parent.clone());
            wire.child_id = Some(op.item_id.clone());
        };
        match &op.action {
            Action::Delete => {}
            Action::LinkAdd { parent } => link(OpType::LinkAdd, parent),
            Action::LinkRemove { parent } => link(OpType::LinkRemove, parent),
            Action::LinkReassign { parent } => link(OpType::LinkReassign, parent),
            Action::GrantAdd { principal, level } => {
                wire.op_type = OpType::AclAdd;
                wire.principal_type = Some(principal.kind);
                wire.principal_id = Some(principal.id.clone());
                wire.access_level = Some(*level);
            }
            Action::GrantRemove { principal } => {
                wire.op_type = OpType::AclRemove;
                wire.principal_type = Some(principal.kind);
                wire.principal_id = Some(principal.id.clone());
            }
            Action::Upsert(upsert) => {
                wire.op_type = OpType::ItemUpsert;
                wire.object_type = upsert.object_type;
                wire.name.clone_from(&upsert.name);
                if !upsert.metadata.is_empty() {
                    wire.metadata = Some(Cow::Borrowed(&upsert.metadata));
                }
                (
                    wire.encrypted_payload,
                    wire.key_epoch,
                    wire.encryption_nonce,
                    wire.encryption_aad,
                    wire.encryption_signature,
                ) = Encrypted::to_fields(upsert.encrypted.as_ref());
                wire.parent_id.clone_from(&upsert.parent);
            }
        }
        wire
    }
}

impl Serialize for Operation {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        WireOperation::from(self).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Operation {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        WireOperation::deserialize(deserializer)?.try_into().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn parse(change: serde_json::Value) -> Result<Operation, Malformed> {
        let mut op = json!({
            "opId": "o", "opType": "item_upsert", "itemId": "i", "replicaId": "r", "writeId": 1,
            "occurredAt": "2026-01-01T00:00:00Z",
        });
        for (key, value) in change.as_object().unwrap() {
            op[key] = value.clone();
        }
        Operation::parse(&op.to_string())
    }

    #[test]
    fn part_of_an_encrypted_form_is_malformed() {
        let whole = json!({
            "encryptedPayload": "AAAA", "keyEpoch": 1, "encryptionNonce": "AAAA",
            "encryptionAad": "AAAA", "encryptionSignature": "AAAA",
        });
        assert!(parse(whole.clone()).is_ok());
        for (field, value) in whole.as_object().unwrap() {
            let part = parse(json!({ "name": "n", field.as_str(): value })).unwrap_err();
            let expected = if field == "encryptedPayload" { "keyEpoch" } else { field.as_str() };
            assert_eq!(part.field, expected);
        }
    }

    #[test]
    fn a_field_of_the_wrong_type_is_named() {
        for field in ["opId", "itemId", "replicaId", "writeId", "occurredAt", "opType", "name"] {
            let error = parse(json!({ field: {} })).unwrap_err().to_string();
            assert!(error.starts_with(&format!("operation is malformed: {field}: ")), "{error}");
        }
        let array = Operation::parse(r#"["o", "item_upsert", "i", "r", 1]"#).unwrap_err();
        assert_eq!(array.to_string(), "operation must be an object");
    }

    #[test]
    fn an_operation_has_one_canonical_form() {
        let op = parse(json!({
            "objectType": "file", "name": "a", "metadata": {"b": 1, "a": null}, "unknown": true,
            "occurredAt": "2026-01-01T01:00:00.0009+01:00",
        }))
        .unwrap();
        assert_eq!(
            op.to_json(),
            r#"{"opId":"o","opType":"item_upsert","itemId":"i","replicaId":"r","writeId":1,"occurredAt":"2026-01-01T00:00:00.000Z","objectType":"file","name":"a","metadata":{"a":null,"b":1}}"#
        );
        assert_eq!(Operation::parse(&op.to_json()), Ok(op));
    }

    #[test]
    fn a_basis_that_is_absent_null_or_a_cursor_is_three_things() {
        let cursor = Cursor {
            changed_at: Timestamp::from_millis(7).unwrap(),
            change_id: crate::id::ChangeId::new("c").unwrap(),
        };
        let absent = parse(json!({})).unwrap();
        let start = parse(json!({"basis": null})).unwrap();
        let at = parse(json!({"basis": cursor.encode()})).unwrap();
        assert_eq!(absent.basis, None);
        assert_eq!(start.basis, Some(Basis::Start));
        assert_eq!(at.basis, Some(Basis::At(cursor)));
        assert!(!absent.to_json().contains("basis"), "the digest of what has none stays");
        assert!(start.to_json().contains(r#""basis":null"#));
        for op in [&absent, &start, &at] {
            assert_eq!(Operation::parse(&op.to_json()).as_ref(), Ok(op));
        }
        assert_ne!(absent.digest(), start.digest());
        assert_ne!(start.digest(), at.digest());
        for malformed in [json!("*"), json!(7), json!({})] {
            let error = parse(json!({"basis": malformed})).unwrap_err().to_string();
            assert!(error.starts_with("operation is malformed: basis: "), "{error}");
        }
    }

    #[test]
    fn a_malformed_operation_names_its_field() {
        for (change, field) in [
            (json!({"opType": "link_add", "childId": "i"}), "parentId"),
            (json!({"opType": "link_add", "childId": "x", "parentId": "p"}), "childId"),
            (json!({"opType": "link_reassign", "childId": "i", "parentId": "i"}), "parentId"),
            (
                json!({"opType": "acl_add", "principalId": "u", "accessLevel": "read"}),
                "principalType",
            ),
            (
                json!({"opType": "acl_add", "principalId": "u", "principalType": "user"}),
                "accessLevel",
            ),
            (json!({"opType": "blob_attach"}), "opType"),
            (json!({"parentId": "i"}), "parentId"),
            (json!({"encryptedPayload": "AA=="}), "keyEpoch"),
            (json!({"encryptedPayload": "AA==", "keyEpoch": 0}), "keyEpoch"),
            (json!({"encryptedPayload": "*", "keyEpoch": 1}), "encryptedPayload"),
            (json!({"encryptedPayload": "A".repeat(65_540), "keyEpoch": 1}), "encryptedPayload"),
            (json!({"encryptedPayload": "AA==", "keyEpoch": 1, "name": "n"}), "encryptedPayload"),
            (json!({"metadata": {"k": "x".repeat(17_000)}}), "metadata"),
            (json!({"metadata": {"k".repeat(300): 1}}), "metadata"),
            (json!({"writeId": 0}), "operation"),
            (json!({"itemId": "a\u{0}"}), "operation"),
            (json!({"name": "a/b"}), "operation"),
            (json!({"objectType": "socket"}), "operation"),
            (json!({"opType": "item_explode"}), "operation"),
        ] {
            let error = parse(change.clone()).unwrap_err();
            assert_eq!(error.field, field, "{change}: {error}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(json in "\\PC{0,200}") {
            let _ = Operation::parse(&json);
        }
    }
}
