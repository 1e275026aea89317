//! Decides an attach: rights, the required checkpoint, the expected present content.

use std::collections::BTreeMap;

use crate::access::{AccessLevel, Audience};
use crate::content::{Attachment, RelationKind};
use crate::cursor::Cursor;
use crate::entry::{Change, EntryBody};
use crate::id::{BlobId, RefId, ReplicaId, UserId, WriteId};
use crate::register::Item;
use crate::server::push::{Addition, Cause};
use crate::server::stage::StageRow;
use crate::time::Timestamp;
use crate::wire::{AttachRequest, AttachResponse, ReconcileState, StageStatus, WriteIds};

/// The checkpoint that an attach must come after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The replica whose reconcile state is required.
    pub client_id: ReplicaId,
    /// The state that the stored one must dominate.
    pub required: ReconcileState,
}

impl Checkpoint {
    /// Parses the checkpoint of a request: it has all three fields or none.
    ///
    /// # Errors
    /// [`AttachRefusal::IncompleteCheckpoint`] if only some fields are present.
    pub fn of(request: &AttachRequest) -> Result<Option<Self>, AttachRefusal> {
        let fields = (
            &request.client_id,
            &request.required_cursor,
            &request.required_last_reconciled_write_ids,
        );
        match fields {
            (None, None, None) => Ok(None),
            (Some(client_id), Some(cursor), Some(write_ids)) => Ok(Some(Self {
                client_id: client_id.clone(),
                required: ReconcileState {
                    cursor: cursor.clone(),
                    last_reconciled_write_ids: write_ids.clone(),
                },
            })),
            _ => Err(AttachRefusal::IncompleteCheckpoint),
        }
    }

    /// Compares the stored state with the checkpoint; returns `None` if the state has reached it.
    fn missing_in(&self, stored: Option<&ReconcileState>) -> Option<CheckpointGap> {
        let none = WriteIds::new();
        let cursor = stored.map(|state| &state.cursor);
        let has = stored.map_or(&none, |state| &state.last_reconciled_write_ids);
        let write_ids = self.required.last_reconciled_write_ids.iter();
        let write_ids: Vec<WriteIdGap> = write_ids
            .filter(|(replica, required)| has.get(*replica).is_none_or(|id| id < *required))
            .map(|(replica, required)| WriteIdGap {
                replica_id: replica.clone(),
                required: *required,
                reconciled: has.get(replica).copied(),
            })
            .collect();
        let cursor_behind = cursor.is_none_or(|cursor| *cursor < self.required.cursor);
        (cursor_behind || !write_ids.is_empty()).then(|| CheckpointGap {
            client_id: self.client_id.clone(),
            cursor_behind,
            required: self.required.cursor.clone(),
            reconciled: cursor.cloned(),
            write_ids,
        })
    }
}

/// The part of a checkpoint that the stored reconcile state does not have yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointGap {
    /// The replica whose state is compared.
    pub client_id: ReplicaId,
    /// True if the stored cursor is below the required one.
    pub cursor_behind: bool,
    /// The cursor that the checkpoint requires.
    pub required: Cursor,
    /// The stored cursor; `None` if nothing was reconciled yet.
    pub reconciled: Option<Cursor>,
    /// The write ids that are below the required ones.
    pub write_ids: Vec<WriteIdGap>,
}

/// A replica's write id that a reconcile state does not have yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteIdGap {
    /// The replica that the write ids belong to.
    pub replica_id: ReplicaId,
    /// The write id that the checkpoint requires.
    pub required: WriteId,
    /// The write id that is stored; `None` if there is none.
    pub reconciled: Option<WriteId>,
}

/// The rows that deciding an attach needs, read under their locks.
#[derive(Debug, Clone, Default)]
pub struct AttachRows {
    /// The stage; an error names the malformed part of the row.
    pub stage: Option<Result<StageRow, String>>,
    /// The item, if it exists.
    pub item: Option<Item>,
    /// The users other than the owner who see the item.
    pub audience: Audience,
    /// The user's level as if nothing were deleted, if the item is deleted and the attach would
    /// bring it back.
    pub returning: Option<AccessLevel>,
    /// The stored reconcile state of the checkpoint's client, or the description of a malformed
    /// one.
    pub reconcile: Option<Result<ReconcileState, String>>,
    /// The item's current content.
    pub current: Option<Attachment>,
    /// The attachments that the stage's blob already has.
    pub attached: Vec<MadeAttach>,
}

/// An earlier attach, with the data to compare a repetition with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MadeAttach {
    /// The attachment that was made.
    pub attachment: Attachment,
    /// The content that the request expected to replace; `None` if an older server stored nothing
    /// about it.
    pub expected: Option<Expected>,
}

/// The content that an attach was to replace, as its request said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// The request named no expectation.
    Any,
    /// The item was expected to have no content.
    Nothing,
    /// The item was expected to have this content.
    Blob(BlobId),
}

impl Expected {
    /// Returns the expectation of a request.
    #[must_use]
    pub fn of(request: &AttachRequest) -> Self {
        match &request.expected_blob_id {
            None => Self::Any,
            Some(None) => Self::Nothing,
            Some(Some(blob)) => Self::Blob(blob.clone()),
        }
    }

    /// Encodes the expectation for a store: a mark, and for a blob its id.
    #[must_use]
    pub fn to_text(&self) -> String {
        match self {
            Self::Any => "*".into(),
            Self::Nothing => "-".into(),
            Self::Blob(blob) => format!("={blob}"),
        }
    }

    /// Decodes the stored form; `None` for any other text.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        match text {
            "*" => Some(Self::Any),
            "-" => Some(Self::Nothing),
            _ => Some(Self::Blob(BlobId::new(text.strip_prefix('=')?).ok()?)),
        }
    }
}

/// The reasons why an attach is rejected.
#[derive(Debug, Clone, PartialEq)]
pub enum AttachRefusal {
    /// `400`: the request has only part of a checkpoint.
    IncompleteCheckpoint,
    /// `404`: the user has no such stage.
    UnknownStage,
    /// `404`: the user sees no such item.
    UnknownItem,
    /// `403`: the user may read the item but not write it.
    NotPermitted,
    /// `409`: the reconcile state is behind the checkpoint.
    Behind(Box<CheckpointGap>),
    /// `409`: the stage has no bytes.
    Empty,
    /// `409`: the stage is abandoned, or attached to another item.
    NotAttachable(StageStatus),
    /// `409`: the stage has expired.
    Expired,
    /// `409`: the blob is attached to this item with another relation.
    OtherKind(RelationKind),
    /// `409`: the stage was attached with another value of this field.
    Differs(&'static str),
    /// `409`: another content was attached since, with this blob.
    ContentChanged(Option<BlobId>),
    /// `413`: the bytes would exceed the quota of the item's owner. The store decides this once it
    /// has locked the usage.
    OwnerOverQuota,
    /// `500`: a stored row is malformed; the text names the row and the problem.
    MalformedRow(String),
}

/// The outcome of an attach.
#[derive(Debug, Clone, PartialEq)]
pub struct Attached {
    /// The answer to the request.
    pub response: AttachResponse,
    /// The changes to write; `None` for a repetition of an earlier attach.
    pub changes: Option<AttachChanges>,
}

/// The row changes of an attach; the stage itself becomes attached.
#[derive(Debug, Clone, PartialEq)]
pub struct AttachChanges {
    /// The new attachment, which replaces the current content if it is a `file`.
    pub attachment: Attachment,
    /// The content that the request expected, for comparison with its repetitions.
    pub expected: Expected,
    /// The entries for each user's feed; empty if the item comes back, because [`Revival`] makes
    /// them then.
    ///
    /// [`Revival`]: crate::server::push::Revival
    pub feed: BTreeMap<UserId, Vec<Addition>>,
}

/// Decides an attach by `user`; `ref_id` is the id that a new attachment gets.
///
/// # Errors
/// [`AttachRefusal`] gives the reason; nothing changes then.
pub fn decide_attach(
    user: &UserId,
    request: &AttachRequest,
    rows: &AttachRows,
    ref_id: RefId,
    now: Timestamp,
) -> Result<Attached, AttachRefusal> {
    let checkpoint = Checkpoint::of(request)?;
    let stage = match &rows.stage {
        None => return Err(AttachRefusal::UnknownStage),
        Some(Err(malformed)) => return Err(AttachRefusal::MalformedRow(malformed.clone())),
        Some(Ok(stage)) if stage.owner != *user => return Err(AttachRefusal::UnknownStage),
        Some(Ok(stage)) => stage,
    };
    let item = rows.item.as_ref().ok_or(AttachRefusal::UnknownItem)?;
    let level = match rows.audience.get(user) {
        _ if item.fields.is_deleted() => rows.returning.ok_or(AttachRefusal::UnknownItem)?,
        _ if item.owner == *user => AccessLevel::Admin,
        Some(level) => *level,
        None => return Err(AttachRefusal::UnknownItem),
    };
    if level < AccessLevel::Write {
        return Err(AttachRefusal::NotPermitted);
    }
    if stage.status == StageStatus::Attached {
        return repeated(stage, request, &rows.attached);
    }
    if stage.status != StageStatus::Staged {
        return Err(AttachRefusal::NotAttachable(stage.status));
    }
    if stage.expires_at <= now {
        return Err(AttachRefusal::Expired);
    }
    let (size, digest) = stage.uploaded.ok_or(AttachRefusal::Empty)?;
    if let Some(checkpoint) = checkpoint {
        let stored = rows.reconcile.as_ref().map(Result::as_ref).transpose();
        let stored = stored.map_err(|malformed| AttachRefusal::MalformedRow(malformed.clone()))?;
        if let Some(gap) = checkpoint.missing_in(stored) {
            return Err(AttachRefusal::Behind(Box::new(gap)));
        }
    }
    if let Some(expected) = &request.expected_blob_id {
        let current = rows.current.as_ref().map(|attachment| &attachment.blob_id);
        if request.relation_kind == RelationKind::File && current != expected.as_ref() {
            return Err(AttachRefusal::ContentChanged(current.cloned()));
        }
    }
    let attachment = Attachment {
        item_id: request.item_id.clone(),
        blob_id: stage.blob_id.clone(),
        relation_kind: request.relation_kind,
        size,
        digest,
        content_type: stage.content_type.clone(),
        ref_id,
        attached_at: now,
        modified_at: request.modified_at,
    };
    let entry = |reader: &UserId| EntryBody {
        actor: Some(user.clone()),
        authored_at: now,
        origin: None,
        author_replica: request.replica_id.clone().filter(|_| reader == user),
        change: Change::BlobAttach(Box::new(attachment.clone())),
    };
    let readers = rows.audience.keys().chain([&item.owner]);
    let addition = |reader: &UserId| {
        let own = request.replica_id.clone().filter(|_| reader == user);
        let cause = own.map_or(Cause::Another, Cause::Replica);
        (reader.clone(), vec![Addition { body: entry(reader), cause }])
    };
    let feed = readers.map(addition).collect();
    let response = answer(stage, &attachment);
    let expected = Expected::of(request);
    Ok(Attached { response, changes: Some(AttachChanges { attachment, expected, feed }) })
}

/// Decides an attach of a stage that is already attached: a repeated request gets the same answer,
/// regardless of its checkpoint and basis.
fn repeated(
    stage: &StageRow,
    request: &AttachRequest,
    attached: &[MadeAttach],
) -> Result<Attached, AttachRefusal> {
    let here = attached.iter().find(|made| made.attachment.item_id == request.item_id);
    let Some(MadeAttach { attachment, expected }) = here else {
        return Err(AttachRefusal::NotAttachable(stage.status));
    };
    if attachment.relation_kind != request.relation_kind {
        return Err(AttachRefusal::OtherKind(attachment.relation_kind));
    }
    if let Some(expected) = expected {
        if attachment.modified_at != request.modified_at {
            return Err(AttachRefusal::Differs("modifiedAt"));
        }
        if *expected != Expected::of(request) {
            return Err(AttachRefusal::Differs("expectedBlobId"));
        }
    }
    Ok(Attached { response: answer(stage, attachment), changes: None })
}

fn answer(stage: &StageRow, attachment: &Attachment) -> AttachResponse {
    AttachResponse {
        attached: true,
        staging_id: stage.staging_id.clone(),
        blob_id: attachment.blob_id.clone(),
        item_id: attachment.item_id.clone(),
        relation_kind: attachment.relation_kind,
        ref_id: attachment.ref_id.clone(),
        attached_at: attachment.attached_at,
        modified_at: attachment.modified_at,
    }
}
