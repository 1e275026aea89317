//! The registry of blobs, from a stage to an item's content.

use std::sync::Arc;

use serde_json::{Value, json};
use vfs_sync_core::content::{RelationKind, Sha256Digest};
use vfs_sync_core::id::{BlobId, ItemId, RefId, StagingId};
use vfs_sync_core::operation::Basis;
use vfs_sync_core::server::attach::AttachRefusal;
use vfs_sync_core::server::stage::StageRow;
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::{AttachRequest, AttachResponse, StageStatus};
use vfs_sync_store::{
    AbandonAnswer, Advance, BlobRow, DeleteAnswer, NewStage, NewUpload, Quota, Reclaim,
    StageAnswer, UploadAccess, UploadAnswer, UploadReplacement,
};

use super::scene::*;

const DIGEST: Sha256Digest = Sha256Digest([7; 32]);

fn stage_of(name: &str) -> NewStage {
    NewStage {
        staging_id: staging(name),
        blob_id: blob(name),
        expires_at: at(86_400_000),
        expiry_chosen: true,
        content_type: Some("text/plain".into()),
        size: 0,
    }
}

fn staging(name: &str) -> StagingId {
    StagingId::new(format!("stage-{name}")).unwrap()
}

fn blob(name: &str) -> BlobId {
    BlobId::new(format!("blob-{name}")).unwrap()
}

fn to(item: &str) -> AttachRequest {
    serde_json::from_value(json!({ "itemId": item })).unwrap()
}

impl Scene {
    async fn open(&self, name: &str) -> StageRow {
        match self
            .store
            .open_stage(&user("alice"), &stage_of(name), &QUOTA, self.now())
            .await
            .unwrap()
        {
            StageAnswer::Open(row) => row,
            refused => panic!("{name}: {refused:?}"),
        }
    }

    async fn upload(&self, name: &str, size: u64) -> UploadAnswer {
        let (user, now) = (user("alice"), self.now());
        self.store
            .record_upload(&user, &staging(name), &uploaded(size, DIGEST), &QUOTA, now)
            .await
            .unwrap()
    }

    async fn staged(&self, name: &str, size: u64) {
        self.open(name).await;
        assert!(matches!(self.upload(name, size).await, UploadAnswer::Recorded { .. }));
    }

    async fn attach(
        &self,
        name: &str,
        request: &AttachRequest,
    ) -> Result<AttachResponse, AttachRefusal> {
        let now = self.now();
        let ref_id = RefId::new(format!("ref-{}", now.as_millis())).unwrap();
        self.store
            .attach(&user("alice"), &staging(name), request, ref_id, &QUOTA, now)
            .await
            .unwrap()
    }

    async fn abandon(&self, name: &str) -> AbandonAnswer {
        self.store.abandon(&user("alice"), &staging(name), self.now()).await.unwrap()
    }

    async fn readable(&self, who: &str, name: &str) -> Option<BlobRow> {
        let one = self.store.readable_blob(&user(who), &blob(name)).await.unwrap();
        let several = [blob(name), blob("never"), blob(name)];
        let found = self.store.readable_blobs(&user(who), &several[..]).await.unwrap();
        assert_eq!(found, [one.clone(), None, one.clone()]);
        one
    }
}

pub(crate) async fn a_staged_blob_becomes_an_items_content(scene: Scene) {
    scene.apply("laptop", vec![folder(1, "a")]).await;
    let before = scene.head().await;
    let row = scene.open("one").await;
    assert_eq!((row.status, row.uploaded), (StageStatus::Staged, None));
    assert_eq!(scene.readable("alice", "one").await, None, "no bytes yet");
    assert_eq!(scene.attach("one", &to("a")).await, Err(AttachRefusal::Empty));
    let UploadAnswer::Recorded { row, left_over: false } = scene.upload("one", 5).await else {
        panic!()
    };
    assert_eq!(row.uploaded, Some((5, DIGEST)));
    assert_eq!(scene.attach("one", &to("nowhere")).await, Err(AttachRefusal::UnknownItem));

    let attached = scene.attach("one", &to("a")).await.unwrap();
    let entries = scene.settle_as("alice", Some(before), 500).await;
    assert_eq!(told(&entries), ["blob_attach a"]);
    assert_eq!(entries[0]["blobId"], "blob-one");
    assert_eq!(entries[0]["refId"], attached.ref_id.as_str());
    assert_eq!(entries[0]["contentType"], "text/plain");
    let expected = BlobRow {
        blob_id: blob("one"),
        size: 5,
        digest: DIGEST,
        content_type: Some("text/plain".into()),
    };
    assert_eq!(scene.readable("alice", "one").await, Some(expected));
    assert_eq!(scene.readable("bob", "one").await, None);
}

pub(crate) async fn repeating_a_call_gives_the_same_answer(scene: Scene) {
    scene.apply("laptop", vec![folder(1, "a")]).await;
    let opened = scene.open("one").await;
    assert_eq!(scene.open("one").await, opened);
    let recorded = scene.upload("one", 5).await;
    assert_eq!(scene.upload("one", 5).await, recorded);
    let attached = scene.attach("one", &to("a")).await.unwrap();
    let head = scene.head().await;
    assert_eq!(scene.attach("one", &to("a")).await.unwrap(), attached);
    assert_eq!(scene.head().await, head, "nothing is told twice");
    assert_eq!(scene.open("one").await.status, StageStatus::Attached);
    assert!(matches!(scene.upload("one", 5).await, UploadAnswer::Recorded { .. }));
    assert!(matches!(scene.abandon("one").await, AbandonAnswer::Attached(_)));
    scene.staged("two", 1).await;
    let AbandonAnswer::Abandoned(first) = scene.abandon("two").await else { panic!() };
    assert_eq!(scene.abandon("two").await, AbandonAnswer::Abandoned(first));
}

pub(crate) async fn an_id_that_is_taken_is_refused_whoever_asks(scene: Scene) {
    scene.open("one").await;
    let other_blob = NewStage { blob_id: blob("two"), ..stage_of("one") };
    let other_stage = NewStage { staging_id: staging("two"), ..stage_of("one") };
    let other_expiry = NewStage { expires_at: at(5_000), ..stage_of("one") };
    let other_type = NewStage { content_type: None, ..stage_of("one") };
    for stage in [other_blob, other_stage.clone(), other_expiry, other_type] {
        let answer =
            scene.store.open_stage(&user("alice"), &stage, &QUOTA, scene.now()).await.unwrap();
        assert_eq!(answer, StageAnswer::Taken, "{stage:?}");
    }
    let answer = scene.store.open_stage(&user("bob"), &stage_of("one"), &QUOTA, scene.now()).await;
    assert_eq!(answer.unwrap(), StageAnswer::Taken);
    scene.abandon("one").await;
    let answer =
        scene.store.open_stage(&user("alice"), &other_stage, &QUOTA, scene.now()).await.unwrap();
    assert_eq!(answer, StageAnswer::Taken, "a blob's id is burnt");
    let left = scene.store.stage(&user("alice"), &staging("two")).await.unwrap();
    assert_eq!(left, None, "a refused stage leaves nothing behind");
    assert_eq!(scene.store.stage(&user("bob"), &staging("one")).await.unwrap(), None);
}

pub(crate) async fn an_upload_is_recorded_once(scene: Scene) {
    scene.staged("one", 5).await;
    assert!(matches!(scene.upload("one", 6).await, UploadAnswer::Differs(_)));
    assert_eq!(scene.upload("none", 6).await, UploadAnswer::Unknown);
    let (bob, now) = (user("bob"), scene.now());
    let answer = scene
        .store
        .record_upload(&bob, &staging("one"), &uploaded(5, DIGEST), &QUOTA, now)
        .await
        .unwrap();
    assert_eq!(answer, UploadAnswer::Unknown);
    let row = scene.store.stage(&user("alice"), &staging("one")).await.unwrap().unwrap();
    assert_eq!(row.uploaded, Some((5, DIGEST)));
}

pub(crate) async fn what_is_over_takes_no_upload(scene: Scene) {
    scene.open("one").await;
    scene.abandon("one").await;
    assert!(matches!(scene.upload("one", 5).await, UploadAnswer::Over(_)));
    scene.open("two").await;
    scene.staged("three", 1).await;
    scene.apply("laptop", vec![folder(1, "a")]).await;
    scene.pass(100_000_000);
    assert!(matches!(scene.upload("two", 5).await, UploadAnswer::Over(_)));
    assert_eq!(scene.attach("three", &to("a")).await, Err(AttachRefusal::Expired));
}

pub(crate) async fn an_abandoned_blob_is_not_readable(scene: Scene) {
    scene.staged("one", 5).await;
    assert!(scene.readable("alice", "one").await.is_some(), "to who staged it");
    scene.abandon("one").await;
    assert_eq!(scene.readable("alice", "one").await, None);
    scene.apply("laptop", vec![folder(1, "a")]).await;
    let refused = Err(AttachRefusal::NotAttachable(StageStatus::Abandoned));
    assert_eq!(scene.attach("one", &to("a")).await, refused);
}

pub(crate) async fn a_content_keeps_its_time_and_author(scene: Scene) {
    let grant = json!({"opType": "acl_add", "writeId": 2, "itemId": "a", "accessLevel": "read",
        "principalType": "user", "principalId": "bob"});
    scene.store.arrive(&user("bob")).await.unwrap();
    scene.apply("laptop", vec![folder(1, "a"), grant]).await;
    for name in ["one", "two", "three"] {
        scene.staged(name, 5).await;
    }
    let first = AttachRequest {
        modified_at: Some(Timestamp::MIN),
        basis: Some(Basis::Start),
        replica_id: Some(replica("laptop")),
        occurred_at: Some(at(3)),
        expected_blob_id: Some(None),
        ..to("a")
    };
    let attached = scene.attach("one", &first).await.unwrap();
    let again = AttachRequest { basis: None, occurred_at: Some(at(4)), ..first.clone() };
    assert_eq!(scene.attach("one", &again).await.unwrap(), attached);
    let differs = |field| Err(AttachRefusal::Differs(field));
    let other = AttachRequest { modified_at: Some(Timestamp::MAX), ..first.clone() };
    assert_eq!(scene.attach("one", &other).await, differs("modifiedAt"));
    let other = AttachRequest { expected_blob_id: None, ..first.clone() };
    assert_eq!(scene.attach("one", &other).await, differs("expectedBlobId"));
    let other = AttachRequest { expected_blob_id: Some(Some(blob("*"))), ..first.clone() };
    assert_eq!(scene.attach("one", &other).await, differs("expectedBlobId"));

    let second = AttachRequest {
        modified_at: Some(Timestamp::MAX),
        expected_blob_id: Some(Some(blob("one"))),
        ..first
    };
    let entry = |entries: Vec<Value>| entries.into_iter().find(|e| e["opType"] == "blob_attach");
    let told = entry(scene.settle_as("alice", None, 500).await).unwrap();
    assert_eq!(told["modifiedAt"], "0000-01-01T00:00:00.000Z");
    assert_eq!((&told["actorId"], &told["authorReplicaId"]), (&json!("alice"), &json!("laptop")));
    scene.attach("two", &second).await.unwrap();
    let told = entry(scene.settle_as("bob", None, 500).await).unwrap();
    assert_eq!(told["modifiedAt"], "9999-12-31T23:59:59.999Z");
    assert_eq!((&told["actorId"], told.get("authorReplicaId")), (&json!("alice"), None));
    scene.attach("three", &to("a")).await.unwrap();
    let item = ItemId::new("a").unwrap();
    let versions = scene.store.versions(&user("alice"), &item, 5).await.unwrap().unwrap();
    let times: Vec<_> = versions.into_iter().map(|version| version.modified_at).collect();
    assert_eq!(times, [None, Some(Timestamp::MAX), Some(Timestamp::MIN)]);
}

pub(crate) async fn a_newer_content_takes_the_older_ones_place(scene: Scene) {
    scene.apply("laptop", vec![folder(1, "a")]).await;
    for name in ["one", "two", "photo"] {
        scene.staged(name, 5).await;
    }
    scene.attach("one", &to("a")).await.unwrap();
    let photo = AttachRequest { relation_kind: RelationKind::Photo, ..to("a") };
    scene.attach("photo", &photo).await.unwrap();
    scene.attach("two", &to("a")).await.unwrap();
    let entries = scene.settle().await;
    assert_eq!(told(&entries), ["item_upsert a", "blob_attach a", "blob_attach a"]);
    assert_eq!(
        (&entries[1]["blobId"], &entries[2]["blobId"]),
        (&json!("blob-photo"), &json!("blob-two"))
    );
    assert!(scene.readable("alice", "one").await.is_some(), "a version of the file");
    let refused = Err(AttachRefusal::OtherKind(RelationKind::Photo));
    assert_eq!(scene.attach("photo", &to("a")).await, refused);
}

pub(crate) async fn content_that_changed_meanwhile_is_not_replaced(scene: Scene) {
    scene.apply("laptop", vec![folder(1, "a")]).await;
    for name in ["one", "two"] {
        scene.staged(name, 5).await;
    }
    let expecting =
        |name: Option<&str>| AttachRequest { expected_blob_id: Some(name.map(blob)), ..to("a") };
    scene.attach("one", &expecting(None)).await.unwrap();
    let refused = Err(AttachRefusal::ContentChanged(Some(blob("one"))));
    assert_eq!(scene.attach("two", &expecting(None)).await, refused);
    scene.attach("two", &expecting(Some("one"))).await.unwrap();
}

pub(crate) async fn an_attach_waits_for_its_checkpoint(scene: Scene) {
    scene.apply("laptop", vec![folder(1, "a")]).await;
    scene.staged("one", 5).await;
    let head = scene.head().await;
    let request = AttachRequest {
        client_id: Some(replica("laptop")),
        required_cursor: Some(head.clone()),
        required_last_reconciled_write_ids: Some(write_ids(&[("laptop", 1)])),
        ..to("a")
    };
    assert!(matches!(scene.attach("one", &request).await, Err(AttachRefusal::Behind(_))));
    scene.reconcile("laptop", &head, &[]).await;
    assert!(matches!(scene.attach("one", &request).await, Err(AttachRefusal::Behind(_))));
    scene.reconcile("laptop", &head, &[("laptop", 1)]).await;
    scene.attach("one", &request).await.unwrap();
    let part = AttachRequest { required_cursor: None, ..request };
    assert_eq!(scene.attach("one", &part).await, Err(AttachRefusal::IncompleteCheckpoint));
}

pub(crate) async fn a_deleted_item_takes_its_content_along(scene: Scene) {
    scene.apply("laptop", vec![folder(1, "a")]).await;
    for name in ["one", "two", "photo"] {
        scene.staged(name, 5).await;
    }
    for name in ["one", "two"] {
        scene.attach(name, &to("a")).await.unwrap();
    }
    let photo = AttachRequest { relation_kind: RelationKind::Photo, ..to("a") };
    scene.attach("photo", &photo).await.unwrap();
    let before = scene.head().await;
    scene.apply("laptop", vec![delete(2, "a")]).await;
    let entries = scene.settle_as("alice", Some(before.clone()), 500).await;
    assert_eq!(told(&entries), ["blob_detach a", "blob_detach a", "item_delete a"]);
    let mut back = folder(3, "a");
    back["occurredAt"] = json!("2026-01-01T00:00:45Z");
    scene.apply("laptop", vec![back]).await;
    let entries = scene.settle_as("alice", Some(before), 500).await;
    assert_eq!(told(&entries), ["item_upsert a", "blob_attach a", "blob_attach a"]);
    assert!(entries.iter().all(|entry| entry["blobId"] != "blob-one"), "an older version");
}

pub(crate) async fn of_an_attach_and_an_abandon_at_once_one_wins(scene: Scene) {
    scene.apply("laptop", vec![folder(1, "a")]).await;
    let scene = Arc::new(scene);
    for round in 0..10 {
        let name = format!("s{round}");
        scene.staged(&name, 1).await;
        let other = (scene.clone(), name.clone());
        let abandoned = tokio::spawn(async move { other.0.abandon(&other.1).await });
        let attached = scene.attach(&name, &to("a")).await;
        match abandoned.await.unwrap() {
            AbandonAnswer::Abandoned(_) => {
                let refused = AttachRefusal::NotAttachable(StageStatus::Abandoned);
                assert_eq!(attached, Err(refused));
            }
            AbandonAnswer::Attached(_) => assert!(attached.is_ok()),
            AbandonAnswer::Unknown => panic!("{name} is unknown"),
        }
    }
}

pub(crate) async fn of_two_attaches_of_one_stage_at_once_one_wins(scene: Scene) {
    scene.apply("laptop", vec![folder(1, "a"), folder(2, "b")]).await;
    let scene = Arc::new(scene);
    for round in 0..10 {
        let name = format!("s{round}");
        scene.staged(&name, 1).await;
        let other = (scene.clone(), name.clone());
        let second = tokio::spawn(async move { other.0.attach(&other.1, &to("b")).await });
        let first = scene.attach(&name, &to("a")).await;
        let second = second.await.unwrap();
        assert!(first.is_ok() != second.is_ok(), "{first:?} {second:?}");
        let refused = Err(AttachRefusal::NotAttachable(StageStatus::Attached));
        assert!([first, second].contains(&refused));
    }
}

pub(crate) async fn of_two_contents_in_place_of_the_same_at_once_one_wins(scene: Scene) {
    scene.apply("laptop", vec![folder(1, "a")]).await;
    let scene = Arc::new(scene);
    let mut current = None;
    for round in 0..10 {
        let names = [format!("one{round}"), format!("two{round}")];
        for name in &names {
            scene.staged(name, 1).await;
        }
        let request = AttachRequest { expected_blob_id: Some(current), ..to("a") };
        let other = (scene.clone(), names[1].clone(), request.clone());
        let second = tokio::spawn(async move { other.0.attach(&other.1, &other.2).await });
        let first = scene.attach(&names[0], &request).await;
        let second = second.await.unwrap();
        let (won, lost) = if first.is_ok() { (first, second) } else { (second, first) };
        current = Some(won.unwrap().blob_id);
        assert_eq!(lost, Err(AttachRefusal::ContentChanged(current.clone())));
    }
}

pub(crate) async fn staging_the_same_at_once_opens_one_stage(scene: Scene) {
    let scene = Arc::new(scene);
    for round in 0..5 {
        let name = format!("s{round}");
        let calls: Vec<_> = (0..4)
            .map(|_| {
                let (scene, name) = (scene.clone(), name.clone());
                tokio::spawn(async move { scene.open(&name).await })
            })
            .collect();
        let mut rows = Vec::new();
        for call in calls {
            rows.push(call.await.unwrap());
        }
        assert!(rows.iter().all(|row| *row == rows[0]), "{rows:?}");
    }
}

pub(crate) async fn of_an_attach_and_a_deletion_at_once_one_wins(scene: Scene) {
    scene.apply("laptop", vec![folder(1, "a")]).await;
    let scene = Arc::new(scene);
    for round in 0..10 {
        let name = format!("s{round}");
        scene.staged(&name, 1).await;
        let (other, id) = (scene.clone(), blob(&name));
        let deleted = tokio::spawn(async move {
            other.store.delete_blob(&user("alice"), &id, other.now()).await.unwrap()
        });
        let attached = scene.attach(&name, &to("a")).await;
        match deleted.await.unwrap() {
            DeleteAnswer::Deleting => {
                let refused = AttachRefusal::NotAttachable(StageStatus::Abandoned);
                assert_eq!(attached, Err(refused));
                assert_eq!(scene.readable("alice", &name).await, None);
            }
            DeleteAnswer::Attached => assert!(attached.is_ok()),
            DeleteAnswer::Unknown => panic!("{name} is unknown"),
        }
    }
}

pub(crate) async fn an_upload_is_its_last_writers_alone(scene: Scene) {
    scene.open("one").await;
    let (alice, id) = (user("alice"), staging("one"));
    let store = &scene.store;
    let claim = async |lease: &str, anew: Option<UploadReplacement>| {
        store.claim_upload(&alice, &id, lease, anew, scene.now()).await.unwrap()
    };
    let anew = |handle: &str, instead_of: Option<&str>| {
        Some(UploadReplacement { handle: handle.into(), instead_of: instead_of.map(Into::into) })
    };
    assert!(matches!(claim("first", anew("h1", None)).await, UploadAccess::Open(..)));
    let late = claim("late", anew("h2", None)).await;
    assert_eq!(late, UploadAccess::Lost, "another began meanwhile");
    let advance = Advance {
        received: 3,
        parts: 1,
        new_parts: vec!["tag".into()],
        tail: "tail".into(),
        hash: vec![1, 2],
        length: Some(7),
    };
    let told = async |lease: &str| {
        store.advance_upload(&alice, &id, lease, &advance, &QUOTA, scene.now()).await.unwrap()
    };
    assert!(matches!(told("first").await, UploadAccess::Open(..)));
    let UploadAccess::Open(_, upload) = claim("second", None).await else { panic!() };
    assert_eq!((upload.received, upload.length, &*upload.tail), (3, Some(7), "tail"));
    assert_eq!(told("first").await, UploadAccess::Lost);
    let record = |lease: &str| NewUpload { size: 7, digest: DIGEST, lease: Some(lease.into()) };
    let recorded = async |lease: &str| {
        store.record_upload(&alice, &id, &record(lease), &QUOTA, scene.now()).await.unwrap()
    };
    assert_eq!(recorded("first").await, UploadAnswer::Lost);
    assert!(matches!(recorded("second").await, UploadAnswer::Recorded { left_over: true, .. }));
    let left = store.reclaim_of(&blob("one"), at(0)).await.unwrap().unwrap();
    assert_eq!((left.upload.as_deref(), left.bytes), (Some("h1"), false));
    store.reclaimed(&left, scene.now(), scene.now()).await.unwrap();
    assert_eq!(store.reclaim_of(&blob("one"), at(0)).await.unwrap(), None);
    assert_eq!(store.upload_parts(&id).await.unwrap(), [""; 0]);
    assert!(matches!(claim("third", None).await, UploadAccess::Complete(_)));
    let bob = store.upload(&user("bob"), &id, scene.now()).await.unwrap();
    assert_eq!(bob, UploadAccess::Unknown);
}

pub(crate) async fn while_removals_are_held_no_object_is_removed(scene: Scene) {
    let store = &*scene.store;
    scene.staged("one", 5).await;
    store.delete_blob(&user("alice"), &blob("one"), scene.now()).await.unwrap();
    let now = scene.now();
    let due = async |now| store.to_reclaim(now, 10).await.unwrap();
    let due_of = async |now| store.reclaim_of(&blob("one"), now).await.unwrap();
    assert!(due(now).await.len() == 1 && due_of(now).await.is_some());
    let until = now.plus_millis(60_000);
    store.hold_removals(until, now).await.unwrap();
    // A shorter hold of somebody else changes nothing.
    store.hold_removals(now, now).await.unwrap();
    let last = until.plus_millis(-1);
    assert!(due(last).await.is_empty() && due_of(last).await.is_none());
    assert!(due(until).await.len() == 1 && due_of(until).await.is_some());
    // Nobody holds them for ever.
    store.hold_removals(now.plus_millis(i64::from(i32::MAX) * 1_000), now).await.unwrap();
    let longest = i64::try_from(vfs_sync_store::MAX_HOLD.as_millis()).unwrap();
    assert!(due(now.plus_millis(longest - 1)).await.is_empty());
    assert_eq!(due(now.plus_millis(longest)).await.len(), 1);
}

pub(crate) async fn what_a_user_has_is_counted_and_bounded(scene: Scene) {
    scene.apply("laptop", vec![folder(1, "a")]).await;
    let usage = async || {
        let usage = scene.store.blob_usage(&user("alice")).await.unwrap();
        (usage.stored, usage.staged, usage.open_stages)
    };
    assert_eq!(usage().await, (0, 0, 0));
    for (name, size) in [("one", 5), ("two", 7), ("three", 11)] {
        scene.staged(name, size).await;
    }
    assert_eq!(usage().await, (23, 23, 3));
    scene.attach("one", &to("a")).await.unwrap();
    assert_eq!(usage().await, (23, 18, 2));
    scene.abandon("two").await;
    scene.abandon("two").await;
    assert_eq!(usage().await, (16, 11, 1));
    let deleted = scene.store.delete_blob(&user("alice"), &blob("three"), scene.now()).await;
    assert_eq!(deleted.unwrap(), DeleteAnswer::Deleting);
    assert_eq!(usage().await, (5, 0, 0));

    let tight = Quota { stored: 8, staged: 2, open_stages: 1 };
    let open = async |name: &str| {
        let stage = stage_of(name);
        scene.store.open_stage(&user("alice"), &stage, &tight, scene.now()).await.unwrap()
    };
    assert!(matches!(open("four").await, StageAnswer::Open(_)));
    let StageAnswer::OverQuota(over) = open("five").await else { panic!() };
    assert_eq!((over.limit, over.max, over.wanted), ("maxOpenStages", 1, 2));
    for (size, limit) in [(3, "maxStagedBytes"), (4, "maxStoredBytes")] {
        let (alice, id) = (user("alice"), staging("four"));
        let record = uploaded(size, DIGEST);
        let answer = scene.store.record_upload(&alice, &id, &record, &tight, scene.now()).await;
        let UploadAnswer::OverQuota(over) = answer.unwrap() else { panic!("{size}") };
        assert_eq!(over.limit, limit);
    }
    assert_eq!(usage().await, (5, 0, 1));
}

pub(crate) async fn what_is_about_to_be_written_counts_first(scene: Scene) {
    let (alice, store) = (user("alice"), &scene.store);
    let usage = async || {
        let usage = store.blob_usage(&alice).await.unwrap();
        (usage.stored, usage.staged, usage.open_stages)
    };
    let tight = Quota { stored: 100, staged: 10, open_stages: 3 };
    let open = async |name: &str, size: u64| {
        let stage = NewStage { size, ..stage_of(name) };
        store.open_stage(&alice, &stage, &tight, scene.now()).await.unwrap()
    };
    let reserve = async |name: &str, size: u64| {
        store.reserve_upload(&alice, &staging(name), size, &tight, scene.now()).await.unwrap()
    };
    let record = async |name: &str, size: u64| {
        let upload = uploaded(size, DIGEST);
        store.record_upload(&alice, &staging(name), &upload, &tight, scene.now()).await.unwrap()
    };

    // What comes with a stage is refused with it.
    let StageAnswer::OverQuota(over) = open("one", 11).await else { panic!() };
    assert_eq!((over.limit, over.max, over.wanted), ("maxStagedBytes", 10, 11));
    assert_eq!(store.stage(&alice, &staging("one")).await.unwrap(), None);
    assert_eq!(usage().await, (0, 0, 0));
    let StageAnswer::Open(row) = open("one", 6).await else { panic!() };
    assert_eq!((row.uploaded, usage().await), (None, (6, 6, 1)));
    assert!(matches!(open("one", 6).await, StageAnswer::Open(_)), "counted once");
    assert!(matches!(open("one", 11).await, StageAnswer::OverQuota(_)));
    assert_eq!(usage().await, (6, 6, 1));

    // What comes later counts when it comes; of two for one stage, the larger.
    assert!(matches!(open("two", 0).await, StageAnswer::Open(_)));
    assert!(matches!(reserve("two", 3).await, UploadAccess::Open(..)));
    assert!(matches!(reserve("two", 2).await, UploadAccess::Open(..)));
    let UploadAccess::OverQuota(over) = reserve("two", 5).await else { panic!() };
    assert_eq!((over.limit, over.wanted), ("maxStagedBytes", 11));
    assert_eq!(usage().await, (9, 9, 2));
    assert!(matches!(record("two", 2).await, UploadAnswer::Recorded { .. }));
    assert!(matches!(record("one", 6).await, UploadAnswer::Recorded { .. }));
    assert_eq!(usage().await, (8, 8, 2));

    // What has its bytes, is over or another's, counts nothing.
    assert!(matches!(open("one", 9).await, StageAnswer::Open(_)));
    assert!(matches!(reserve("one", 9).await, UploadAccess::Complete(_)));
    scene.abandon("one").await;
    assert!(matches!(open("one", 9).await, StageAnswer::Open(_)));
    assert!(matches!(reserve("one", 9).await, UploadAccess::Over(_)));
    assert_eq!(reserve("none", 1).await, UploadAccess::Unknown);
    let bob = store.reserve_upload(&user("bob"), &staging("two"), 1, &tight, scene.now()).await;
    assert_eq!(bob.unwrap(), UploadAccess::Unknown);
    assert_eq!(usage().await, (2, 2, 1));
}

pub(crate) async fn a_blob_is_deleted_in_two_steps_and_looked_at_once_more(scene: Scene) {
    scene.staged("one", 5).await;
    let (alice, id) = (user("alice"), blob("one"));
    let delete = async || scene.store.delete_blob(&alice, &id, scene.now()).await.unwrap();
    let due = async |now| scene.store.to_reclaim(now, 10).await.unwrap().len();
    assert_eq!(delete().await, DeleteAnswer::Deleting);
    assert_eq!(delete().await, DeleteAnswer::Deleting, "said, and not done yet");
    assert_eq!(scene.readable("alice", "one").await, None);
    assert_eq!(due(scene.now()).await, 1);
    let (again, done) = (at(5_000), Reclaim { blob_id: id.clone(), upload: None, bytes: true });
    scene.store.reclaimed(&done, scene.now(), again).await.unwrap();
    scene.store.reclaimed(&done, scene.now(), again).await.unwrap();
    assert_eq!(delete().await, DeleteAnswer::Unknown);
    assert_eq!((due(scene.now()).await, due(again).await), (0, 1));
    scene.store.reclaimed(&done, again, at(9_000)).await.unwrap();
    assert_eq!(due(at(100_000)).await, 0);
}

pub(crate) async fn a_blob_deleted_while_its_upload_is_cleared_away_keeps_bytes_to_remove(
    scene: Scene,
) {
    scene.staged("one", 5).await;
    let (alice, blob_id) = (user("alice"), blob("one"));
    // Somebody looked when the blob was live, and clears away no more than its upload in parts.
    let of_the_upload =
        Reclaim { blob_id: blob_id.clone(), upload: Some("h1".into()), bytes: false };
    let deleted = scene.store.delete_blob(&alice, &blob_id, scene.now()).await.unwrap();
    assert_eq!(deleted, DeleteAnswer::Deleting);
    scene.store.reclaimed(&of_the_upload, scene.now(), at(5_000)).await.unwrap();
    let left = scene.store.reclaim_of(&blob_id, at(0)).await.unwrap();
    assert!(left.is_some_and(|left| left.bytes), "nobody has removed its bytes yet");
}
