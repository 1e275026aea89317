//! The JSON of an exported state: fields in one order, rows in the order of their keys, one row a
//! line so that two exports can be compared with a line diff.

use std::io::{self, Write};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    AttachmentRegister, ContainerClock, FORMAT, GrantRegister, ItemRegister, LinkRegister,
    QueuedOperation, RejectedOperation, ReplicaState, VERSION,
};
use crate::access::{AccessLevel, Principal, PrincipalType};
use crate::client::clock::HybridClock;
use crate::content::{Attachment, RelationKind, Sha256Digest, is_content_type};
use crate::cursor::Cursor;
use crate::entry::ItemView;
use crate::id::{BlobId, ChangeId, ItemId, PrincipalId, RefId, UserId};
use crate::item::{Encrypted, Metadata, Name, ObjectType, metadata_problem};
use crate::operation::Operation;
use crate::time::Timestamp;
use crate::wire::{PushReason, ReconcileState, WriteIds};

/// A cursor in readable form, for people to compare.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct CursorForm {
    changed_at: Timestamp,
    change_id: ChangeId,
}

impl From<&Cursor> for CursorForm {
    fn from(cursor: &Cursor) -> Self {
        Self { changed_at: cursor.changed_at, change_id: cursor.change_id.clone() }
    }
}

impl From<CursorForm> for Cursor {
    fn from(form: CursorForm) -> Self {
        Self { changed_at: form.changed_at, change_id: form.change_id }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ReconcileForm {
    cursor: CursorForm,
    last_reconciled_write_ids: WriteIds,
}

impl From<&ReconcileState> for ReconcileForm {
    fn from(state: &ReconcileState) -> Self {
        let last_reconciled_write_ids = state.last_reconciled_write_ids.clone();
        Self { cursor: (&state.cursor).into(), last_reconciled_write_ids }
    }
}

impl From<ReconcileForm> for ReconcileState {
    fn from(form: ReconcileForm) -> Self {
        let last_reconciled_write_ids = form.last_reconciled_write_ids;
        Self { cursor: form.cursor.into(), last_reconciled_write_ids }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ClockForm {
    last: Option<Timestamp>,
    seen: Option<Timestamp>,
}

impl From<ClockForm> for HybridClock {
    fn from(form: ClockForm) -> Self {
        Self::new(form.last, form.seen)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct EncryptedForm {
    encrypted_payload: Arc<str>,
    key_epoch: u64,
    encryption_nonce: Option<Arc<str>>,
    encryption_aad: Option<Arc<str>>,
    encryption_signature: Option<Arc<str>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ItemForm {
    item_id: ItemId,
    owner_id: UserId,
    object_type: ObjectType,
    name: Option<Name>,
    metadata: Metadata,
    encrypted: Option<EncryptedForm>,
    created_at: Timestamp,
    access_level: AccessLevel,
    authored_at: Timestamp,
}

impl From<&ItemRegister> for ItemForm {
    fn from(row: &ItemRegister) -> Self {
        let view = row.item.clone();
        Self {
            item_id: view.item_id,
            owner_id: view.owner_id,
            object_type: view.object_type,
            name: view.name,
            metadata: view.metadata,
            encrypted: view.encrypted.map(|encrypted| EncryptedForm {
                encrypted_payload: encrypted.payload,
                key_epoch: encrypted.key_epoch,
                encryption_nonce: encrypted.nonce,
                encryption_aad: encrypted.aad,
                encryption_signature: encrypted.signature,
            }),
            created_at: view.created_at,
            access_level: view.access_level,
            authored_at: row.authored_at,
        }
    }
}

impl TryFrom<ItemForm> for ItemRegister {
    type Error = String;
    fn try_from(form: ItemForm) -> Result<Self, String> {
        let encrypted = form.encrypted.map(|encrypted| Encrypted {
            payload: encrypted.encrypted_payload,
            key_epoch: encrypted.key_epoch,
            nonce: encrypted.encryption_nonce,
            aad: encrypted.encryption_aad,
            signature: encrypted.encryption_signature,
        });
        if let Some((field, problem)) = encrypted.as_ref().and_then(Encrypted::problem) {
            return Err(format!("is malformed: {field} {problem}"));
        }
        if let Some(problem) = metadata_problem(form.metadata.iter()) {
            return Err(format!("is malformed: metadata {problem}"));
        }
        let item = ItemView {
            item_id: form.item_id,
            owner_id: form.owner_id,
            object_type: form.object_type,
            name: form.name,
            metadata: form.metadata,
            encrypted,
            created_at: form.created_at,
            access_level: form.access_level,
        };
        Ok(Self { item, authored_at: form.authored_at })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct LinkForm {
    parent_id: ItemId,
    child_id: ItemId,
    authored_at: Timestamp,
}

impl From<&LinkRegister> for LinkForm {
    fn from(row: &LinkRegister) -> Self {
        let (parent_id, child_id) = (row.parent_id.clone(), row.child_id.clone());
        Self { parent_id, child_id, authored_at: row.authored_at }
    }
}

impl TryFrom<LinkForm> for LinkRegister {
    type Error = String;
    fn try_from(form: LinkForm) -> Result<Self, String> {
        if form.parent_id == form.child_id {
            return Err("is malformed: its parent is its child".into());
        }
        let LinkForm { parent_id, child_id, authored_at } = form;
        Ok(Self { parent_id, child_id, authored_at })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct GrantForm {
    item_id: ItemId,
    principal_type: PrincipalType,
    principal_id: PrincipalId,
    access_level: AccessLevel,
    authored_at: Timestamp,
}

impl From<&GrantRegister> for GrantForm {
    fn from(row: &GrantRegister) -> Self {
        Self {
            item_id: row.item_id.clone(),
            principal_type: row.principal.kind,
            principal_id: row.principal.id.clone(),
            access_level: row.access_level,
            authored_at: row.authored_at,
        }
    }
}

impl TryFrom<GrantForm> for GrantRegister {
    type Error = String;
    fn try_from(form: GrantForm) -> Result<Self, String> {
        Ok(Self {
            item_id: form.item_id,
            principal: Principal { kind: form.principal_type, id: form.principal_id },
            access_level: form.access_level,
            authored_at: form.authored_at,
        })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct AttachmentForm {
    item_id: ItemId,
    blob_id: BlobId,
    relation_kind: RelationKind,
    size: u64,
    digest: Sha256Digest,
    content_type: Option<Arc<str>>,
    ref_id: RefId,
    attached_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    modified_at: Option<Timestamp>,
    authored_at: Timestamp,
}

impl From<&AttachmentRegister> for AttachmentForm {
    fn from(row: &AttachmentRegister) -> Self {
        let attachment = row.attachment.clone();
        Self {
            item_id: attachment.item_id,
            blob_id: attachment.blob_id,
            relation_kind: attachment.relation_kind,
            size: attachment.size,
            digest: attachment.digest,
            content_type: attachment.content_type,
            ref_id: attachment.ref_id,
            attached_at: attachment.attached_at,
            modified_at: attachment.modified_at,
            authored_at: row.authored_at,
        }
    }
}

impl TryFrom<AttachmentForm> for AttachmentRegister {
    type Error = String;
    fn try_from(form: AttachmentForm) -> Result<Self, String> {
        if !form.content_type.as_deref().is_none_or(is_content_type) {
            return Err("is malformed: contentType is none".into());
        }
        let attachment = Attachment {
            item_id: form.item_id,
            blob_id: form.blob_id,
            relation_kind: form.relation_kind,
            size: form.size,
            digest: form.digest,
            content_type: form.content_type,
            ref_id: form.ref_id,
            attached_at: form.attached_at,
            modified_at: form.modified_at,
        };
        Ok(Self { attachment, authored_at: form.authored_at })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ClockRowForm {
    container_id: ItemId,
    changed_at: Timestamp,
    change_id: ChangeId,
}

impl From<&ContainerClock> for ClockRowForm {
    fn from(row: &ContainerClock) -> Self {
        let CursorForm { changed_at, change_id } = (&row.clock).into();
        Self { container_id: row.container_id.clone(), changed_at, change_id }
    }
}

impl TryFrom<ClockRowForm> for ContainerClock {
    type Error = String;
    fn try_from(form: ClockRowForm) -> Result<Self, String> {
        let clock = Cursor { changed_at: form.changed_at, change_id: form.change_id };
        Ok(Self { container_id: form.container_id, clock })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct QueuedForm {
    acknowledged: bool,
    operation: Operation,
}

impl From<&QueuedOperation> for QueuedForm {
    fn from(row: &QueuedOperation) -> Self {
        Self { acknowledged: row.acknowledged, operation: row.operation.clone() }
    }
}

impl TryFrom<QueuedForm> for QueuedOperation {
    type Error = String;
    fn try_from(form: QueuedForm) -> Result<Self, String> {
        Ok(Self { acknowledged: form.acknowledged, operation: form.operation })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RejectedForm {
    operation: Operation,
    reason: Option<PushReason>,
    detail: Option<String>,
}

impl From<&RejectedOperation> for RejectedForm {
    fn from(row: &RejectedOperation) -> Self {
        let RejectedOperation { operation, reason, detail } = row.clone();
        Self { operation, reason, detail }
    }
}

impl TryFrom<RejectedForm> for RejectedOperation {
    type Error = String;
    fn try_from(form: RejectedForm) -> Result<Self, String> {
        let RejectedForm { operation, reason, detail } = form;
        Ok(Self { operation, reason, detail })
    }
}

fn field(writer: &mut impl Write, name: &str, value: &impl Serialize) -> io::Result<()> {
    write!(writer, ",\n\"{name}\":")?;
    serde_json::to_writer(writer, value).map_err(io::Error::from)
}

fn rows<'a, T: 'a, F: From<&'a T> + Serialize>(
    writer: &mut impl Write,
    name: &str,
    rows: &'a [T],
) -> io::Result<()> {
    write!(writer, ",\n\"{name}\":[")?;
    for (index, row) in rows.iter().enumerate() {
        writer.write_all(if index == 0 { b"\n" } else { b",\n" })?;
        serde_json::to_writer(&mut *writer, &F::from(row)).map_err(io::Error::from)?;
    }
    writer.write_all(if rows.is_empty() { b"]" } else { b"\n]" })
}

pub(super) fn write(state: &ReplicaState, writer: impl Write, redacted: bool) -> io::Result<()> {
    let mut writer = io::BufWriter::new(writer);
    let to = &mut writer;
    write!(to, "{{\n\"format\":\"{FORMAT}\",\n\"version\":{VERSION}")?;
    if redacted {
        field(to, "redacted", &true)?;
    }
    field(to, "clientId", &state.client_id)?;
    field(to, "userId", &state.user_id)?;
    field(to, "replayCursor", &state.replay_cursor.as_ref().map(CursorForm::from))?;
    field(to, "baseline", &state.baseline.as_ref().map(CursorForm::from))?;
    if let Some(head) = &state.head {
        field(to, "head", &CursorForm::from(head))?;
    }
    field(to, "writeIdFloor", &state.write_id_floor)?;
    field(to, "reconcileState", &state.reconcile_state.as_ref().map(ReconcileForm::from))?;
    let clock = ClockForm { last: state.clock.last(), seen: state.clock.seen() };
    field(to, "clock", &clock)?;
    field(to, "nextLocalWriteId", &state.next_local_write_id)?;
    rows::<_, ItemForm>(to, "items", &state.items)?;
    rows::<_, LinkForm>(to, "links", &state.links)?;
    rows::<_, GrantForm>(to, "grants", &state.grants)?;
    rows::<_, AttachmentForm>(to, "attachments", &state.attachments)?;
    rows::<_, ClockRowForm>(to, "containerClocks", &state.container_clocks)?;
    rows::<_, QueuedForm>(to, "queue", &state.queue)?;
    rows::<_, RejectedForm>(to, "rejected", &state.rejected)?;
    to.write_all(b"\n}\n")?;
    to.flush()
}
