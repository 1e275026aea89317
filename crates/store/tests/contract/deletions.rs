//! Deletions against what their authors saw, by the rows of feeds.

use serde_json::{Value, json};
use vfs_sync_core::cursor::Cursor;
use vfs_sync_core::id::RefId;
use vfs_sync_core::server::attach::AttachRefusal;
use vfs_sync_core::wire::{AttachRequest, PushReason, PushStatus};

use super::scene::*;
use super::views::attach_by;

fn after(mut op: Value, seen: Option<&Cursor>) -> Value {
    op["basis"] = json!(seen.map(Cursor::encode));
    op
}

fn rename(write_id: u64, id: &str, name: &str) -> Value {
    json!({"opType": "item_upsert", "writeId": write_id, "itemId": id, "name": name,
        "occurredAt": format!("2026-01-01T00:00:{}Z", 10 + write_id)})
}

fn grant(write_id: u64, id: &str, to: &str, level: &str) -> Value {
    json!({"opType": "acl_add", "writeId": write_id, "itemId": id, "principalType": "user",
        "principalId": to, "accessLevel": level})
}

impl Scene {
    async fn one(&self, who: &str, from: &str, op: Value) -> (PushStatus, Option<PushReason>) {
        let result = &self.push_as(who, from, vec![op]).await.results[0];
        (result.status, result.reason)
    }

    async fn head_of(&self, who: &str) -> Cursor {
        self.settle_as(who, None, 500).await.last().map(cursor_of).unwrap()
    }

    /// Names of what is live to alice.
    async fn live(&self) -> Vec<String> {
        let mut live = Vec::new();
        for entry in self.settle().await {
            let item = entry["itemId"].as_str().unwrap().to_owned();
            match entry["opType"].as_str().unwrap() {
                "item_upsert" => live.push(item),
                "item_delete" => live.retain(|one| *one != item),
                _ => {}
            }
        }
        live.sort();
        live
    }
}

const UNSEEN: (PushStatus, Option<PushReason>) = (PushStatus::OutdatedOp, Some(PushReason::Unseen));
const APPLIED: (PushStatus, Option<PushReason>) = (PushStatus::Applied, None);

pub(crate) async fn a_delete_of_what_another_changed_meanwhile_does_not_apply(scene: Scene) {
    scene.apply("laptop", vec![folder(1, "docs"), file_in(2, "a", "docs")]).await;
    let seen = scene.head().await;
    scene.apply("phone", vec![rename(1, "a", "by phone")]).await;
    // Its own write does not hide the other's.
    scene.apply("laptop", vec![after(rename(3, "a", "by laptop"), Some(&seen))]).await;
    let stale = after(delete(4, "a"), Some(&seen));
    assert_eq!(scene.one("alice", "laptop", stale.clone()).await, UNSEEN);
    assert_eq!(scene.one("alice", "laptop", stale).await, UNSEEN, "the same answer again");
    let none = after(delete(5, "a"), None);
    assert_eq!(scene.one("alice", "laptop", none).await, UNSEEN);
    assert_eq!(scene.live().await, ["a", "docs"]);
    let now = scene.head().await;
    let known = after(delete(6, "a"), Some(&now));
    assert_eq!(scene.one("alice", "laptop", known).await, APPLIED);
    assert_eq!(scene.live().await, ["docs"]);
}

pub(crate) async fn the_folders_of_what_stays_stay(scene: Scene) {
    let tree = vec![folder(1, "top"), file_in(2, "mid", "top"), file_in(3, "leaf", "mid")];
    scene.apply("laptop", tree).await;
    let seen = scene.head().await;
    scene.apply("phone", vec![rename(1, "leaf", "by phone")]).await;
    for (write_id, id) in [(4, "top"), (5, "mid")] {
        let gone = after(delete(write_id, id), Some(&seen));
        assert_eq!(scene.one("alice", "laptop", gone).await, APPLIED);
    }
    assert_eq!(scene.live().await, ["leaf"]);
    let gone = after(delete(6, "leaf"), Some(&seen));
    assert_eq!(scene.one("alice", "laptop", gone).await, UNSEEN);
    assert_eq!(scene.live().await, ["leaf", "mid", "top"]);
    let links = scene.settle().await.iter().filter(|entry| entry["opType"] == "link_add").count();
    assert_eq!(links, 2, "with their links");
}

pub(crate) async fn what_changes_a_deleted_item_brings_it_and_its_folders_back(scene: Scene) {
    let tree = vec![folder(1, "top"), file_in(2, "mid", "top"), file_in(3, "leaf", "mid")];
    scene.apply("laptop", tree).await;
    let seen = scene.head().await;
    let removal = [(4, "top"), (5, "mid"), (6, "leaf")];
    let removal = removal.map(|(write_id, id)| after(delete(write_id, id), Some(&seen)));
    scene.apply("laptop", removal.to_vec()).await;
    assert!(scene.live().await.is_empty());
    let same = after(rename(1, "leaf", "leaf"), Some(&seen));
    scene.one("alice", "phone", same).await;
    assert!(scene.live().await.is_empty(), "it changes nothing");
    let edit = after(rename(2, "leaf", "by phone"), Some(&seen));
    assert_eq!(scene.one("alice", "phone", edit).await, APPLIED);
    assert_eq!(scene.live().await, ["leaf", "mid", "top"]);
}

pub(crate) async fn what_comes_back_in_a_folder_keeps_the_folder(scene: Scene) {
    let tree = vec![folder(1, "top"), folder(2, "one"), folder(3, "two")];
    scene.apply("laptop", tree).await;
    let children = [(4, "a", "one"), (5, "b", "two")];
    let children = children.map(|(write_id, id, parent)| file_in(write_id, id, parent));
    scene.apply("laptop", children.to_vec()).await;
    let with_children = scene.head().await;
    let removal = [(6, "a"), (7, "b")];
    let removal = removal.map(|(write_id, id)| after(delete(write_id, id), Some(&with_children)));
    scene.apply("laptop", removal.to_vec()).await;
    let seen = scene.head().await;
    // One comes back because something is created in it, the other because it is renamed by a
    // client without basis.
    let within = after(file_in(1, "new", "a"), Some(&with_children));
    assert_eq!(scene.one("alice", "phone", within).await, APPLIED);
    let late = json!({"opType": "item_upsert", "writeId": 2, "itemId": "b", "name": "late",
        "occurredAt": "2026-01-01T00:01:00Z"});
    assert_eq!(scene.one("alice", "phone", late).await, APPLIED);
    assert_eq!(scene.live().await, ["a", "b", "new", "one", "top", "two"]);
    for (write_id, id) in [(8, "one"), (9, "two")] {
        let gone = after(delete(write_id, id), Some(&seen));
        assert_eq!(scene.one("alice", "laptop", gone).await, UNSEEN, "{id}");
    }
    // A container that comes back is no change of what is in it.
    let now = scene.head().await;
    let gone = after(delete(10, "one"), Some(&now));
    assert_eq!(scene.one("alice", "laptop", gone).await, APPLIED);
    let back = after(rename(3, "one", "back"), Some(&now));
    assert_eq!(scene.one("alice", "phone", back).await, APPLIED);
    let gone = after(delete(11, "a"), Some(&now));
    assert_eq!(scene.one("alice", "laptop", gone).await, APPLIED);
}

pub(crate) async fn another_level_is_no_change_and_coming_into_sight_is(scene: Scene) {
    scene
        .apply("laptop", vec![folder(1, "top"), file_in(2, "a", "top"), file_in(3, "b", "top")])
        .await;
    scene.apply("laptop", vec![grant(4, "top", "bob", "write")]).await;
    let seen = scene.head_of("bob").await;
    scene.apply("laptop", vec![grant(5, "a", "bob", "admin")]).await;
    let known = after(delete(1, "a"), Some(&seen));
    assert_eq!(scene.one("bob", "tablet", known).await, APPLIED);
    let unknown = after(delete(2, "b"), None);
    assert_eq!(scene.one("bob", "tablet", unknown).await, UNSEEN);
}

pub(crate) async fn a_content_counts_as_its_authors_change(scene: Scene) {
    scene.apply("laptop", vec![folder(1, "a"), folder(2, "b")]).await;
    let seen = scene.head().await;
    attach_by(&scene, "alice", "a", "mine", Some("laptop")).await;
    attach_by(&scene, "alice", "b", "theirs", Some("phone")).await;
    let own = after(delete(3, "a"), Some(&seen));
    assert_eq!(scene.one("alice", "laptop", own).await, APPLIED);
    let other = after(delete(4, "b"), Some(&seen));
    assert_eq!(scene.one("alice", "laptop", other).await, UNSEEN);
}

pub(crate) async fn a_content_brings_its_item_back_with_its_folder(scene: Scene) {
    scene.apply("laptop", vec![folder(1, "top"), file_in(2, "a", "top")]).await;
    scene.apply("laptop", vec![grant(3, "top", "bob", "read")]).await;
    let seen = scene.head().await;
    let removal = [(4, "top"), (5, "a")];
    let removal = removal.map(|(write_id, id)| after(delete(write_id, id), Some(&seen)));
    scene.apply("laptop", removal.to_vec()).await;
    scene.staged_by("alice", "one").await;
    let attach = async |request: &AttachRequest| {
        let (staging, ref_id) = ("one".parse().unwrap(), RefId::new("ref").unwrap());
        let now = scene.now();
        scene.store.attach(&user("alice"), &staging, request, ref_id, &QUOTA, now).await.unwrap()
    };
    let plain = AttachRequest::to("a".parse().unwrap());
    assert_eq!(attach(&plain).await, Err(AttachRefusal::UnknownItem));
    let telling = AttachRequest {
        basis: Some(Some(seen.clone()).into()),
        replica_id: Some(replica("phone")),
        ..plain
    };
    let answer = attach(&telling).await.unwrap();
    assert_eq!(attach(&telling).await.as_ref(), Ok(&answer), "the same answer again");
    assert_eq!(scene.live().await, ["a", "top"]);
    for who in ["alice", "bob"] {
        let entries = scene.settle_as(who, None, 500).await;
        let told: Vec<String> = told(&entries);
        assert!(told.contains(&"blob_attach a".to_owned()), "{who}: {told:?}");
        assert!(told.iter().any(|one| one.starts_with("link_add")), "{who}: {told:?}");
    }
    let stale = after(delete(6, "top"), Some(&seen));
    assert_eq!(scene.one("alice", "laptop", stale).await, UNSEEN);
}
