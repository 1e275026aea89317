//! What an attach comes to: who may, behind which checkpoint, in place of what; each rule at its edge.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::json;
use vfs_sync_core::access::{AccessLevel, Audience, PrincipalType};
use vfs_sync_core::content::{Attachment, RelationKind, Sha256Digest};
use vfs_sync_core::cursor::Cursor;
use vfs_sync_core::entry::Change;
use vfs_sync_core::id::{BlobId, ChangeId, ItemId, RefId, ReplicaId, StagingId, UserId, WriteId};
use vfs_sync_core::operation::Basis;
use vfs_sync_core::register::{Item, ItemFields, Register};
use vfs_sync_core::server::attach::{
    AttachRefusal, AttachRows, Attached, Checkpoint, CheckpointGap, Expected, MadeAttach,
    WriteIdGap, decide_attach,
};
use vfs_sync_core::server::stage::StageRow;
use vfs_sync_core::stamp::{Author, Stamp};
use vfs_sync_core::wire::{AttachRequest, ReconcileState, StageStatus, WriteIds};

use super::world::{at, user};

fn item() -> ItemId {
    ItemId::new("item").unwrap()
}

fn blob(name: &str) -> BlobId {
    BlobId::new(name).unwrap()
}

fn replica(name: &str) -> ReplicaId {
    ReplicaId::new(name).unwrap()
}

fn cursor(millis: i64) -> Cursor {
    Cursor {
        changed_at: at(millis),
        change_id: ChangeId::new("000000000001-0000000000000001").unwrap(),
    }
}

fn write_ids(ids: &[(&str, u64)]) -> WriteIds {
    ids.iter().map(|(name, id)| (replica(name), WriteId::new(*id).unwrap())).collect()
}

fn state(millis: i64, ids: &[(&str, u64)]) -> ReconcileState {
    ReconcileState { cursor: cursor(millis), last_reconciled_write_ids: write_ids(ids) }
}

fn attachment(item: &str, blob_id: &str, relation_kind: RelationKind) -> Attachment {
    Attachment {
        item_id: ItemId::new(item).unwrap(),
        blob_id: blob(blob_id),
        relation_kind,
        size: 3,
        digest: Sha256Digest([7; 32]),
        content_type: None,
        ref_id: RefId::new("first").unwrap(),
        attached_at: at(5),
        modified_at: None,
    }
}

/// The owner alice's item, that bob may write and carol read, and alice's stage until 100 ms.
fn rows() -> AttachRows {
    let levels = [("bob", AccessLevel::Write), ("carol", AccessLevel::Read)];
    let stage = StageRow {
        staging_id: StagingId::new("stage").unwrap(),
        owner: user("alice"),
        blob_id: blob("new"),
        status: StageStatus::Staged,
        staged_at: at(1),
        expires_at: at(100),
        content_type: Some("text/plain".into()),
        uploaded: Some((3, Sha256Digest([7; 32]))),
    };
    AttachRows {
        stage: Some(Ok(stage)),
        item: Some(Item { owner: user("alice"), created_at: at(0), fields: ItemFields::default() }),
        audience: levels.map(|(name, level)| (user(name), level)).into_iter().collect(),
        ..AttachRows::default()
    }
}

fn with_stage(change: impl FnOnce(&mut StageRow)) -> AttachRows {
    let mut rows = rows();
    change(rows.stage.as_mut().unwrap().as_mut().unwrap());
    rows
}

fn request() -> AttachRequest {
    AttachRequest::to(item())
}

fn behind(required: &ReconcileState) -> AttachRequest {
    AttachRequest {
        client_id: Some(replica("r")),
        required_cursor: Some(required.cursor.clone()),
        required_last_reconciled_write_ids: Some(required.last_reconciled_write_ids.clone()),
        ..request()
    }
}

fn decide(
    who: &str,
    request: &AttachRequest,
    rows: &AttachRows,
) -> Result<Attached, AttachRefusal> {
    decide_attach(&user(who), request, rows, RefId::new("ref").unwrap(), at(99))
}

fn refusal(who: &str, request: &AttachRequest, rows: &AttachRows) -> AttachRefusal {
    decide(who, request, rows).unwrap_err()
}

#[test]
fn an_attach_is_told_to_everybody_who_sees_the_item() {
    let request = AttachRequest {
        modified_at: Some(at(-7)),
        replica_id: Some(replica("laptop")),
        ..request()
    };
    let attached = decide("alice", &request, &rows()).unwrap();
    let changes = attached.changes.unwrap();
    let expected = Attachment {
        content_type: Some("text/plain".into()),
        ref_id: RefId::new("ref").unwrap(),
        attached_at: at(99),
        modified_at: Some(at(-7)),
        ..attachment("item", "new", RelationKind::File)
    };
    assert_eq!(changes.attachment, expected);
    let readers: BTreeSet<&str> = changes.feed.keys().map(UserId::as_str).collect();
    assert_eq!(readers, BTreeSet::from(["alice", "bob", "carol"]));
    for (reader, entries) in &changes.feed {
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].body.actor, Some(user("alice")));
        let told = (*reader == user("alice")).then(|| replica("laptop"));
        assert_eq!(entries[0].body.author_replica, told, "to {reader}");
        assert_eq!(entries[0].body.authored_at, at(99));
        assert_eq!(entries[0].body.change, Change::BlobAttach(Box::new(expected.clone())));
    }
    let response = attached.response;
    assert!(response.attached);
    assert_eq!((response.blob_id, response.item_id), (blob("new"), item()));
    assert_eq!((response.ref_id, response.attached_at), (expected.ref_id, at(99)));
}

#[test]
fn who_may_not_is_told_no_more_than_they_may_know() {
    assert_eq!(refusal("bob", &request(), &rows()), AttachRefusal::UnknownStage, "alice's stage");
    let of = |who: &str| with_stage(|stage| stage.owner = user(who));
    decide("bob", &request(), &of("bob")).unwrap();
    assert_eq!(refusal("carol", &request(), &of("carol")), AttachRefusal::NotPermitted);
    assert_eq!(refusal("dave", &request(), &of("dave")), AttachRefusal::UnknownItem);
    let nothing = AttachRows { stage: None, ..rows() };
    assert_eq!(refusal("alice", &request(), &nothing), AttachRefusal::UnknownStage);
    let nowhere = AttachRows { item: None, ..rows() };
    assert_eq!(refusal("alice", &request(), &nowhere), AttachRefusal::UnknownItem);
    let mut deleted = rows();
    let author =
        Author { user: user("alice"), replica: replica("r"), write_id: WriteId::new(1).unwrap() };
    let stamp = Stamp { authored_at: at(1), author: Arc::new(author) };
    deleted.item.as_mut().unwrap().fields.deleted = Some(Register { value: true, stamp });
    assert_eq!(refusal("alice", &request(), &deleted), AttachRefusal::UnknownItem);
    // An owner needs no grant, and one that would give them less takes nothing.
    let mut little = rows();
    little.audience = Audience::from([(user("alice"), AccessLevel::Read)]);
    decide("alice", &request(), &little).unwrap();
}

#[test]
fn a_stage_is_attached_while_it_lasts_and_has_bytes() {
    let last = with_stage(|stage| stage.expires_at = at(100));
    decide("alice", &request(), &last).unwrap();
    let over = with_stage(|stage| stage.expires_at = at(99));
    assert_eq!(refusal("alice", &request(), &over), AttachRefusal::Expired);
    let empty = with_stage(|stage| stage.uploaded = None);
    assert_eq!(refusal("alice", &request(), &empty), AttachRefusal::Empty);
    let abandoned = with_stage(|stage| stage.status = StageStatus::Abandoned);
    let expected = AttachRefusal::NotAttachable(StageStatus::Abandoned);
    assert_eq!(refusal("alice", &request(), &abandoned), expected);
    let broken = AttachRows { stage: Some(Err("stages.status".into())), ..rows() };
    let expected = AttachRefusal::MalformedRow("stages.status".into());
    assert_eq!(refusal("alice", &request(), &broken), expected);
}

#[test]
fn the_same_attach_gets_the_same_answer_and_changes_nothing() {
    let mut rows = with_stage(|stage| {
        stage.status = StageStatus::Attached;
        stage.expires_at = at(1);
    });
    let elsewhere = attachment("elsewhere", "new", RelationKind::File);
    let here = attachment("item", "new", RelationKind::File);
    let elsewhere = MadeAttach { attachment: elsewhere, expected: None };
    rows.attached = vec![elsewhere.clone(), MadeAttach { attachment: here, expected: None }];
    let again = decide("alice", &request(), &rows).unwrap();
    assert_eq!(again.changes, None);
    assert_eq!((again.response.item_id.as_str(), again.response.attached_at), ("item", at(5)));
    assert_eq!(again.response.ref_id.as_str(), "first");

    let other_kind = AttachRequest { relation_kind: RelationKind::Photo, ..request() };
    let expected = AttachRefusal::OtherKind(RelationKind::File);
    assert_eq!(refusal("alice", &other_kind, &rows), expected);
    rows.attached = vec![elsewhere];
    let expected = AttachRefusal::NotAttachable(StageStatus::Attached);
    assert_eq!(refusal("alice", &request(), &rows), expected);
}

#[test]
fn a_repetition_is_the_same_time_and_expectation_whatever_its_checkpoint() {
    let first = AttachRequest {
        modified_at: Some(at(-7)),
        expected_blob_id: Some(Some(blob("old"))),
        basis: Some(Basis::Start),
        ..request()
    };
    let current =
        AttachRows { current: Some(attachment("item", "old", RelationKind::File)), ..rows() };
    let made = decide("alice", &first, &current).unwrap().changes.unwrap();
    let text = made.expected.to_text();
    assert_eq!(Expected::from_text(&text).as_ref(), Some(&made.expected));
    let made = MadeAttach { attachment: made.attachment, expected: Some(made.expected) };
    let mut rows = with_stage(|stage| stage.status = StageStatus::Attached);
    rows.attached = vec![made];
    let again = AttachRequest {
        basis: Some(Basis::At(cursor(50))),
        occurred_at: Some(at(3)),
        ..behind(&state(10, &[("r", 3)]))
    };
    let again = AttachRequest {
        modified_at: first.modified_at,
        expected_blob_id: first.expected_blob_id.clone(),
        ..again
    };
    assert_eq!(decide("alice", &again, &rows).unwrap().changes, None);
    let other_times = [None, Some(at(-6))];
    for modified_at in other_times {
        let other = AttachRequest { modified_at, ..again.clone() };
        assert_eq!(refusal("alice", &other, &rows), AttachRefusal::Differs("modifiedAt"));
    }
    for expected_blob_id in [None, Some(None), Some(Some(blob("other")))] {
        let other = AttachRequest { expected_blob_id, ..again.clone() };
        assert_eq!(refusal("alice", &other, &rows), AttachRefusal::Differs("expectedBlobId"));
    }
    for expected in [Expected::Any, Expected::Nothing, Expected::Blob(blob("-"))] {
        assert_eq!(Expected::from_text(&expected.to_text()), Some(expected));
    }
    assert_eq!(Expected::from_text("other"), None);
}

#[test]
fn a_checkpoint_is_whole_or_absent() {
    assert_eq!(Checkpoint::of(&request()), Ok(None));
    let whole = behind(&state(10, &[("r", 3)]));
    let checkpoint = Checkpoint::of(&whole).unwrap().unwrap();
    assert_eq!(checkpoint.client_id, replica("r"));
    assert_eq!(checkpoint.required, state(10, &[("r", 3)]));
    let parts: [fn(&mut AttachRequest); 3] = [
        |request| request.client_id = None,
        |request| request.required_cursor = None,
        |request| request.required_last_reconciled_write_ids = None,
    ];
    for first in parts {
        let mut part = whole.clone();
        first(&mut part);
        assert_eq!(Checkpoint::of(&part), Err(AttachRefusal::IncompleteCheckpoint));
        assert_eq!(refusal("alice", &part, &rows()), AttachRefusal::IncompleteCheckpoint);
    }
}

#[test]
fn an_attach_waits_until_what_it_must_come_after_is_reconciled() {
    let required = state(10, &[("r", 3), ("s", 7)]);
    let request = behind(&required);
    let stored = |state| AttachRows { reconcile: Some(Ok(state)), ..rows() };
    let told = |rows: &AttachRows| match refusal("alice", &request, rows) {
        AttachRefusal::Behind(details) => details,
        other => panic!("{other:?}"),
    };
    for enough in [required.clone(), state(11, &[("r", 4), ("s", 7), ("t", 1)])] {
        decide("alice", &request, &stored(enough)).unwrap();
    }

    let gap = CheckpointGap {
        client_id: ReplicaId::new("r").unwrap(),
        cursor_behind: true,
        required: cursor(10),
        reconciled: Some(cursor(9)),
        write_ids: Vec::new(),
    };
    assert_eq!(*told(&stored(state(9, &[("r", 3), ("s", 8)]))), gap);

    let write_id = |replica: &str, required, reconciled: Option<u64>| WriteIdGap {
        replica_id: ReplicaId::new(replica).unwrap(),
        required: WriteId::new(required).unwrap(),
        reconciled: reconciled.map(|id| WriteId::new(id).unwrap()),
    };
    let behind = told(&stored(state(10, &[("r", 2)])));
    assert!(!behind.cursor_behind);
    assert_eq!(behind.write_ids, [write_id("r", 3, Some(2)), write_id("s", 7, None)]);

    let nothing = told(&rows());
    assert_eq!((nothing.cursor_behind, &nothing.reconciled), (true, &None));

    let broken = AttachRows { reconcile: Some(Err("cursor".into())), ..rows() };
    assert_eq!(refusal("alice", &request, &broken), AttachRefusal::MalformedRow("cursor".into()));
}

#[test]
fn a_content_is_replaced_only_by_who_had_it_in_view() {
    let current = |name: Option<&str>| AttachRows {
        current: name.map(|name| attachment("item", name, RelationKind::File)),
        ..rows()
    };
    let expecting =
        |name: Option<&str>| AttachRequest { expected_blob_id: Some(name.map(blob)), ..request() };
    decide("alice", &expecting(Some("old")), &current(Some("old"))).unwrap();
    decide("alice", &expecting(None), &current(None)).unwrap();
    decide("alice", &request(), &current(Some("old"))).unwrap();
    let changed = |name: Option<&str>| AttachRefusal::ContentChanged(name.map(blob));
    for (expected, there) in
        [(Some("old"), Some("other")), (None, Some("other")), (Some("old"), None)]
    {
        let found = refusal("alice", &expecting(expected), &current(there));
        assert_eq!(found, changed(there));
    }
    // Only a file's content has a place that another one takes.
    let photo = AttachRequest { relation_kind: RelationKind::Photo, ..expecting(Some("old")) };
    decide("alice", &photo, &current(Some("other"))).unwrap();
}

#[test]
fn levels_and_principals_are_written_as_they_are_read() {
    let levels = [AccessLevel::Read, AccessLevel::Write, AccessLevel::Admin];
    for (level, text) in levels.into_iter().zip(["read", "write", "admin"]) {
        assert_eq!((level.as_str(), json!(level)), (text, json!(text)));
        assert_eq!(serde_json::from_value::<AccessLevel>(json!(text)).unwrap(), level);
    }
    let kinds = [PrincipalType::User, PrincipalType::Group, PrincipalType::Organization];
    for (kind, text) in kinds.into_iter().zip(["user", "group", "organization"]) {
        assert_eq!((kind.as_str(), json!(kind)), (text, json!(text)));
        assert_eq!(serde_json::from_value::<PrincipalType>(json!(text)).unwrap(), kind);
    }
}

#[test]
fn a_stage_is_told_with_what_it_has() {
    let stage = rows().stage.unwrap().unwrap();
    let told = stage.to_response();
    assert_eq!((told.status, told.size, told.offset), (StageStatus::Staged, Some(3), None));
    assert_eq!((told.staged_at, told.expires_at), (at(1), at(100)));
    assert_eq!((told.digest, told.blob_id), (Some(Sha256Digest([7; 32])), blob("new")));
    let empty = StageRow { uploaded: None, ..stage }.to_response();
    assert_eq!((empty.size, empty.digest), (None, None));
}
