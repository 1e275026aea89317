//! What is deleted: listed, restored, removed for good; and what that frees.

use serde_json::json;
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::id::{BlobId, ItemId, RefId, StagingId};
use vfs_sync_core::server::attach::AttachRefusal;
use vfs_sync_core::wire::{AttachResponse, PushReason, PushStatus};
use vfs_sync_store::{
    NewStage, PurgeAnswer, Quota, RestoreAnswer, StageAnswer, TrashListing, UploadAnswer,
};

use super::scene::*;

const KEEP: i64 = 1_000_000;

fn item(id: &str) -> ItemId {
    ItemId::new(id).unwrap()
}

impl Scene {
    async fn trash(&self, who: &str) -> TrashListing {
        self.store.trash(&user(who), None, 500, KEEP).await.unwrap()
    }

    /// The ids in somebody's trash, the newest deletion first, in pages of two.
    async fn trashed(&self, who: &str) -> Vec<String> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let page = self.store.trash(&user(who), after.clone(), 2, KEEP).await.unwrap();
            assert!(page.items.len() <= 2);
            all.extend(page.items.iter().map(|found| found.item_id.to_string()));
            after = page.next;
            if after.is_none() {
                return all;
            }
        }
    }

    async fn restore(&self, who: &str, id: &str) -> RestoreAnswer {
        self.store.restore(&user(who), &item(id), true, self.now()).await.unwrap()
    }

    async fn purge(&self, who: &str, id: &str) -> PurgeAnswer {
        self.store.purge(&user(who), &item(id), true, self.now()).await.unwrap()
    }

    /// Attaches `size` new bytes to an item.
    pub(crate) async fn content(
        &self,
        who: &str,
        name: &str,
        to: &str,
        size: u64,
        quota: &Quota,
    ) -> Result<AttachResponse, AttachRefusal> {
        let stage = NewStage {
            staging_id: StagingId::new(format!("stage-{name}")).unwrap(),
            blob_id: BlobId::new(format!("blob-{name}")).unwrap(),
            expires_at: at(86_400_000),
            expiry_chosen: true,
            content_type: None,
            size: 0,
        };
        let (owner, id) = (user(who), stage.staging_id.clone());
        let opened = self.store.open_stage(&owner, &stage, &QUOTA, self.now()).await.unwrap();
        assert!(matches!(opened, StageAnswer::Open(_)), "{opened:?}");
        let upload = uploaded(size, Sha256Digest([1; 32]));
        let done = self.store.record_upload(&owner, &id, &upload, &QUOTA, self.now()).await;
        assert!(matches!(done.unwrap(), UploadAnswer::Recorded { .. }));
        let request = serde_json::from_value(json!({ "itemId": to })).unwrap();
        let ref_id = RefId::new(format!("ref-{name}")).unwrap();
        self.store.attach(&owner, &id, &request, ref_id, quota, self.now()).await.unwrap()
    }

    async fn stored(&self, who: &str) -> u64 {
        self.store.blob_usage(&user(who)).await.unwrap().stored
    }

    /// Removes what was deleted before `before`, in small steps; gives how many.
    async fn sweep(&self, before: vfs_sync_core::time::Timestamp) -> u64 {
        let mut steps = 0;
        while self.store.purge_step(before, at(0), self.now(), 2).await.unwrap() > 0 {
            steps += 1;
            assert!(steps < 1_000, "the sweeper does not end");
        }
        steps
    }
}

fn grant(write_id: u64, id: &str, who: &str, level: &str) -> serde_json::Value {
    json!({"opType": "acl_add", "writeId": write_id, "itemId": id, "principalType": "user",
        "principalId": who, "accessLevel": level, "occurredAt": "2026-01-01T00:00:10Z"})
}

fn later(mut op: serde_json::Value, seconds: u32) -> serde_json::Value {
    op["occurredAt"] = json!(format!("2026-01-01T00:00:{seconds:02}Z"));
    op
}

pub(crate) async fn what_is_deleted_is_listed_and_comes_back_with_its_content(scene: Scene) {
    let tree = vec![folder(1, "a"), file_in(2, "b", "a"), file_in(3, "c", "a")];
    scene.apply("laptop", tree).await;
    scene.content("alice", "one", "b", 5, &QUOTA).await.unwrap();
    scene.apply("phone", vec![delete(1, "c")]).await;
    scene.apply("laptop", vec![delete(4, "a")]).await;
    scene.apply("laptop", vec![delete(5, "b")]).await;
    assert_eq!(scene.trashed("alice").await, ["b", "a", "c"]);
    assert!(scene.trashed("bob").await.is_empty());
    let listing = scene.trash("alice").await;
    let b = &listing.items[0];
    assert_eq!((b.size, &b.deleted_by), (Some(5), &user("alice")));
    assert_eq!(b.expires_at, b.deleted_at.plus_millis(KEEP));
    assert_eq!(b.path[0].name.as_ref().unwrap().as_str(), "a");
    assert!(b.path[0].deleted && b.parents == b.path);

    let before = scene.head().await;
    assert_eq!(scene.restore("bob", "a").await, RestoreAnswer::Unknown);
    assert_eq!(scene.restore("alice", "nowhere").await, RestoreAnswer::Unknown);
    assert_eq!(scene.restore("alice", "a").await, RestoreAnswer::Restored(2));
    let entries = scene.settle_as("alice", Some(before), 500).await;
    let expected = ["item_upsert a", "item_upsert b", "link_add a/b", "blob_attach b"];
    assert_eq!(told(&entries), expected);
    assert!(entries[..3].iter().all(|entry| entry["actorId"] == "alice"), "{entries:?}");
    assert!(entries.iter().all(|entry| entry["writeId"].is_null()));
    assert_eq!(scene.trashed("alice").await, ["c"], "another replica deleted it");
    assert_eq!(scene.restore("alice", "a").await, RestoreAnswer::Restored(0));
    assert_eq!(scene.restore("bob", "a").await, RestoreAnswer::Unknown);
    assert_eq!(scene.restore("alice", "c").await, RestoreAnswer::Restored(1));
    assert!(scene.trashed("alice").await.is_empty());
    // What is brought back can be deleted again.
    scene.apply("laptop", vec![later(delete(6, "a"), 50)]).await;
    assert_eq!(scene.trashed("alice").await, ["a"]);
}

pub(crate) async fn who_deleted_may_restore_while_they_may_write(scene: Scene) {
    scene.store.arrive(&user("carol")).await.unwrap();
    scene.apply("laptop", vec![folder(1, "a"), file_in(2, "b", "a"), folder(3, "x")]).await;
    scene
        .apply("laptop", vec![grant(4, "a", "bob", "admin"), grant(5, "a", "carol", "write")])
        .await;
    scene.apply_as("bob", "desk", vec![delete(1, "b")]).await;
    assert_eq!(scene.trashed("bob").await, ["b"]);
    assert_eq!(scene.trashed("alice").await, ["b"]);
    assert!(scene.trashed("carol").await.is_empty(), "she did not delete it");
    let listing = scene.trash("bob").await;
    assert_eq!(listing.items[0].path.len(), 1);
    assert_eq!(scene.restore("carol", "b").await, RestoreAnswer::Unknown);
    assert_eq!(scene.purge("carol", "b").await, PurgeAnswer::Unknown);
    assert_eq!(scene.purge("bob", "b").await, PurgeAnswer::NotOwner);
    assert_eq!(scene.restore("bob", "b").await, RestoreAnswer::Restored(1));
    assert_eq!(scene.purge("bob", "b").await, PurgeAnswer::Unknown);
    assert_eq!(scene.purge("alice", "b").await, PurgeAnswer::Live);
    scene.apply_as("bob", "desk", vec![later(delete(2, "b"), 40)]).await;
    let revoked = json!({"opType": "acl_remove", "writeId": 6, "itemId": "a",
        "principalType": "user", "principalId": "bob", "occurredAt": "2026-01-01T00:00:41Z"});
    scene.apply("laptop", vec![revoked]).await;
    assert!(scene.trashed("bob").await.is_empty());
    assert_eq!(scene.restore("bob", "b").await, RestoreAnswer::Unknown);
    assert_eq!(scene.purge("bob", "b").await, PurgeAnswer::Unknown);
    let before = scene.settle_as("carol", None, 500).await;
    assert_eq!(scene.restore("alice", "b").await, RestoreAnswer::Restored(1));
    let after = scene.settle_as("carol", Some(cursor_of(before.last().unwrap())), 500).await;
    assert_eq!(told(&after), ["acl_remove a", "item_upsert b", "link_add a/b"]);
}

pub(crate) async fn a_purge_leaves_no_row_and_no_byte_that_counts(scene: Scene) {
    let tree = vec![folder(1, "a"), file_in(2, "b", "a"), folder(3, "s"), folder(4, "other")];
    scene.apply("laptop", tree).await;
    scene.apply("laptop", vec![grant(5, "a", "bob", "write"), link(6, "link_add", "s", "b")]).await;
    scene.content("alice", "one", "b", 5, &QUOTA).await.unwrap();
    scene.content("bob", "two", "b", 7, &QUOTA).await.unwrap();
    assert_eq!((scene.stored("alice").await, scene.stored("bob").await), (12, 0));
    scene.apply("laptop", vec![delete(7, "a"), delete(8, "b")]).await;
    assert_eq!(scene.stored("alice").await, 12, "what is in the trash counts");
    assert_eq!(scene.store.trashed_bytes(&user("alice")).await.unwrap(), 12);
    assert_eq!(scene.purge("bob", "a").await, PurgeAnswer::Unknown);
    assert_eq!(scene.purge("alice", "a").await, PurgeAnswer::Purged(2));
    assert_eq!(scene.purge("alice", "a").await, PurgeAnswer::Purged(0));
    assert_eq!(scene.restore("alice", "a").await, RestoreAnswer::Unknown);
    assert!(scene.trashed("alice").await.is_empty());
    // Nothing was deleted before the epoch: only what was purged goes.
    assert!(scene.sweep(at(-1)).await > 0);
    assert_eq!(scene.stored("alice").await, 0);
    let reclaims = scene.store.to_reclaim(scene.now(), 10).await.unwrap();
    assert_eq!(reclaims.len(), 2, "{reclaims:?}");
    assert!(reclaims.iter().all(|reclaim| reclaim.bytes));
    for name in ["one", "two"] {
        let blob = BlobId::new(format!("blob-{name}")).unwrap();
        let found = scene.store.any_blob(&blob).await.unwrap().unwrap();
        assert!(found.attachments.is_empty());
        assert_eq!(scene.store.readable_blob(&user("alice"), &blob).await.unwrap(), None);
    }
    assert_eq!(scene.store.versions(&user("alice"), &item("b"), 10).await.unwrap(), None);
    // The bytes go, and after a long time the ids: first they are looked at twice.
    let days = |days: i64| at(days * 86_400_000);
    for (day, left) in [(1, 2), (2, 2), (300, 0), (400, 2), (800, 0)] {
        let due = scene.store.to_reclaim(days(day), 10).await.unwrap();
        assert_eq!(due.len(), left, "on day {day}");
        for reclaim in due {
            let again = days(day).plus_millis(900_000);
            scene.store.reclaimed(&reclaim, days(day), again).await.unwrap();
        }
    }
    let blob = BlobId::new("blob-one").unwrap();
    assert!(scene.store.any_blob(&blob).await.unwrap().is_none());

    // A tombstone is no place any more: its owner's things stand at the top.
    let before = scene.head().await;
    let made = vec![file_in(9, "n", "a"), later(link(10, "link_reassign", "a", "other"), 45)];
    scene.apply("laptop", made).await;
    let entries = scene.settle_as("alice", Some(before), 500).await;
    assert_eq!(told(&entries), ["item_upsert n"]);
    let mut results = Vec::new();
    for (who, op) in [
        (
            "alice",
            later(json!({"opType": "item_upsert", "writeId": 11, "itemId": "b", "name": "z"}), 50),
        ),
        ("alice", later(delete(11, "b"), 50)),
        ("bob", later(file_in(1, "m", "a"), 50)),
        ("bob", later(delete(1, "b"), 50)),
    ] {
        let response = scene.push_as(who, "laptop", vec![op]).await;
        results.push((response.results[0].status, response.results[0].reason));
    }
    let unknown = (PushStatus::InvalidOp, Some(PushReason::UnknownItem));
    let beaten = (PushStatus::OutdatedOp, Some(PushReason::Superseded));
    assert_eq!(results, [unknown, beaten, unknown, unknown]);
    let refused = scene.content("alice", "three", "b", 1, &QUOTA).await;
    assert_eq!(refused, Err(AttachRefusal::UnknownItem));

    // In the end the tombstone goes too.
    let late = scene.pass(10);
    while scene.store.purge_step(at(-1), late, scene.now(), 2).await.unwrap() > 0 {}
    scene.apply_as("bob", "laptop", vec![folder(1, "a")]).await;
}

pub(crate) async fn what_is_deleted_goes_after_its_time_unless_it_came_back(scene: Scene) {
    scene.apply("laptop", vec![folder(1, "a"), folder(2, "b"), folder(3, "c")]).await;
    scene.content("alice", "one", "a", 5, &QUOTA).await.unwrap();
    scene.apply("laptop", vec![delete(4, "a"), delete(5, "b")]).await;
    let first = scene.pass(1_000);
    scene.apply("laptop", vec![delete(6, "c")]).await;
    assert_eq!(scene.restore("alice", "b").await, RestoreAnswer::Restored(1));
    assert!(scene.sweep(first).await > 0);
    assert_eq!(scene.trashed("alice").await, ["c"]);
    assert_eq!(scene.stored("alice").await, 0);
    assert_eq!(scene.restore("alice", "a").await, RestoreAnswer::Unknown);
    assert_eq!(scene.restore("alice", "c").await, RestoreAnswer::Restored(1));
    let live: Vec<String> = told(&scene.settle().await);
    assert!(live.contains(&"item_upsert b".into()) && live.contains(&"item_upsert c".into()));
}

pub(crate) async fn bytes_count_against_the_items_owner_from_the_attach_on(scene: Scene) {
    scene.apply("laptop", vec![folder(1, "a"), grant(2, "a", "bob", "write")]).await;
    let small = Quota { stored: 10, ..QUOTA };
    scene.content("bob", "one", "a", 8, &small).await.unwrap();
    assert_eq!((scene.stored("alice").await, scene.stored("bob").await), (8, 0));
    let refused = scene.content("bob", "two", "a", 3, &small).await;
    assert_eq!(refused, Err(AttachRefusal::OwnerOverQuota));
    assert_eq!((scene.stored("alice").await, scene.stored("bob").await), (8, 3));
    let usage = scene.store.blob_usage(&user("bob")).await.unwrap();
    assert_eq!((usage.staged, usage.open_stages), (3, 1));
    // It stays staged, and is attached once there is room.
    let request = serde_json::from_value(json!({ "itemId": "a" })).unwrap();
    let (id, ref_id) = (StagingId::new("stage-two").unwrap(), RefId::new("ref-2").unwrap());
    let attached =
        scene.store.attach(&user("bob"), &id, &request, ref_id, &QUOTA, scene.now()).await;
    attached.unwrap().unwrap();
    assert_eq!((scene.stored("alice").await, scene.stored("bob").await), (11, 0));
    let versions = scene.store.versions(&user("alice"), &item("a"), 10).await.unwrap().unwrap();
    let old = versions.last().unwrap();
    let removed = scene.store.remove_version(&old.ref_id, &old.blob_id, scene.now()).await;
    assert!(removed.unwrap());
    assert_eq!((scene.stored("alice").await, scene.stored("bob").await), (3, 0));
}

pub(crate) async fn a_large_folder_is_removed_in_small_steps(scene: Scene) {
    let mut made = vec![folder(1, "a")];
    made.extend((2..30).map(|n| file_in(n, &format!("f{n}"), "a")));
    scene.apply("laptop", made).await;
    for n in 2..6 {
        scene.content("alice", &format!("v{n}"), "f2", 1, &QUOTA).await.unwrap();
    }
    let mut gone = vec![delete(30, "a")];
    gone.extend((2..30).map(|n| delete(29 + n, &format!("f{n}"))));
    scene.apply("laptop", gone).await;
    assert_eq!(scene.trashed("alice").await.len(), 29);
    assert_eq!(scene.purge("alice", "a").await, PurgeAnswer::Purged(29));
    assert!(scene.sweep(at(-1)).await > 29);
    assert_eq!(scene.stored("alice").await, 0);
    assert_eq!(scene.purge("alice", "a").await, PurgeAnswer::Purged(0));
}

/// A server that is killed between any two transactions leaves what the next one finishes.
pub(crate) async fn a_purge_goes_on_after_every_restart(mut scene: Scene) {
    let tree = vec![folder(1, "a"), file_in(2, "b", "a"), file_in(3, "c", "a"), folder(4, "x")];
    scene.apply("laptop", tree).await;
    scene.apply("laptop", vec![grant(5, "a", "bob", "write"), link(6, "link_add", "x", "b")]).await;
    scene.content("alice", "one", "b", 5, &QUOTA).await.unwrap();
    scene.content("bob", "two", "b", 6, &QUOTA).await.unwrap();
    scene.content("alice", "three", "c", 7, &QUOTA).await.unwrap();
    let gone = vec![delete(7, "a"), delete(8, "b"), delete(9, "c")];
    scene.apply("laptop", gone).await;
    let late = scene.pass(1_000);
    let mut steps = 0;
    while scene.store.purge_step(late, at(-1), scene.now(), 1).await.unwrap() > 0 {
        scene = scene.reopened().await;
        steps += 1;
        let restored = scene.restore("alice", "a").await;
        assert!(steps < 100 && (steps < 3 || restored == RestoreAnswer::Unknown), "{restored:?}");
    }
    assert_eq!((scene.stored("alice").await, scene.stored("bob").await), (0, 0));
    assert_eq!(scene.store.to_reclaim(scene.now(), 10).await.unwrap().len(), 3);
    nothing_is_left(&scene, 3).await;
}

/// Behind the store's back: only so many tombstones, and no row that names them.
async fn nothing_is_left(scene: &Scene, tombstones: u32) {
    // A row that were there would break the constraint.
    for table in ["links", "grants", "moves", "access", "blob_refs"] {
        let sql = format!(
            "CREATE TABLE check_{table} (n INTEGER CHECK (n = 0)); \
             INSERT INTO check_{table} SELECT count(*) FROM {table};"
        );
        scene.tamper(&sql).await;
    }
    let sql = format!(
        "CREATE TABLE check_trash (n INTEGER CHECK (n = {tombstones})); \
         INSERT INTO check_trash SELECT count(*) FROM trash WHERE state = 2;"
    );
    scene.tamper(&sql).await;
}

/// The rows that a purge leaves, counted behind the store's back.
pub(crate) async fn a_purge_leaves_a_tombstone_and_nothing_else(scene: Scene) {
    scene.apply("laptop", vec![folder(1, "a"), file_in(2, "b", "a"), folder(3, "c")]).await;
    scene.apply("laptop", vec![grant(4, "a", "bob", "write")]).await;
    scene
        .apply("laptop", vec![link(5, "link_reassign", "a", "b"), link(6, "link_add", "c", "b")])
        .await;
    scene.content("alice", "one", "b", 5, &QUOTA).await.unwrap();
    scene.content("alice", "two", "b", 5, &QUOTA).await.unwrap();
    scene.apply("laptop", vec![delete(7, "a"), delete(8, "b")]).await;
    scene.purge("alice", "a").await;
    scene.sweep(at(-1)).await;
    nothing_is_left(&scene, 2).await;
}
