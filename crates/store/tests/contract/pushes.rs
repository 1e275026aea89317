//! What a push comes to, by the rows that it finds.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::json;
use vfs_sync_core::cursor::Position;
use vfs_sync_core::wire::{PushReason, PushStatus};
use vfs_sync_store::{PullAnswer, PullRequest};

use super::scene::*;

pub(crate) async fn a_retry_after_a_lost_answer_is_already_applied(scene: Scene) {
    let operations = || vec![folder(1, "docs"), file_in(2, "a", "docs"), folder(3, "b")];
    let first = scene.push("laptop", operations()).await;
    let before = scene.settle().await;
    scene.pass(3_600_000);
    let again = scene.push("laptop", operations()).await;
    for (first, again) in first.results.iter().zip(&again.results) {
        assert_eq!(again.status, PushStatus::AlreadyApplied);
        assert_eq!(again.authored_at, first.authored_at);
    }
    assert_eq!(scene.settle().await, before);
    let longer = [operations(), vec![folder(4, "c")]].concat();
    let statuses: Vec<_> =
        scene.push("laptop", longer).await.results.iter().map(|result| result.status).collect();
    assert_eq!(statuses[2..], [PushStatus::AlreadyApplied, PushStatus::Applied]);
}

/// Otherwise the refused one is stale, and what follows it is applied once more under new numbers.
pub(crate) async fn a_retry_finds_a_refused_operation_refused_and_those_after_it_applied(
    scene: Scene,
) {
    let operations = || vec![folder(1, "a"), link(2, "link_add", "nowhere", "a"), folder(3, "b")];
    let statuses = async |scene: &Scene| {
        let results = scene.push("laptop", operations()).await.results;
        results.into_iter().map(|result| (result.status, result.reason)).collect::<Vec<_>>()
    };
    let refused = (PushStatus::InvalidOp, Some(PushReason::UnknownItem));
    let first = [(PushStatus::Applied, None), refused, (PushStatus::Applied, None)];
    assert_eq!(statuses(&scene).await, first);
    let again = [(PushStatus::AlreadyApplied, None), refused, (PushStatus::AlreadyApplied, None)];
    assert_eq!(statuses(&scene).await, again);
}

pub(crate) async fn a_late_link_under_a_container_of_the_same_push_is_beaten_by_the_last_move(
    scene: Scene,
) {
    let at = |mut op: serde_json::Value, time: &str| {
        op["occurredAt"] = json!(time);
        op
    };
    scene.apply("laptop", vec![folder(1, "a"), folder(2, "x")]).await;
    let moved = at(link(3, "link_reassign", "x", "a"), "2026-01-01T00:00:50Z");
    scene.apply("laptop", vec![moved]).await;
    for (replica, op_type, id) in [("phone", "link_add", "y"), ("tablet", "link_reassign", "z")] {
        let late = at(link(2, op_type, id, "a"), "2026-01-01T00:00:20Z");
        let response = scene.push(replica, vec![folder(1, id), late]).await;
        let result = &response.results[1];
        assert_eq!(result.reason, Some(PushReason::Superseded), "{op_type}: {result:?}");
    }
}

pub(crate) async fn another_operation_under_a_used_write_id_is_stale(scene: Scene) {
    scene.apply("laptop", vec![folder(1, "a"), folder(2, "b")]).await;
    let mut other = folder(1, "c");
    other["opId"] = json!("new");
    let response = scene.push("laptop", vec![other, folder(3, "d")]).await;
    for result in &response.results {
        assert_eq!(result.status, PushStatus::StaleWriteId);
        assert_eq!(result.last_write_id, Some(write_id(2)));
    }
    assert_eq!(told(&scene.settle().await), ["item_upsert a", "item_upsert b"]);
}

pub(crate) async fn a_beaten_operation_gets_the_same_answer_again(scene: Scene) {
    scene.apply("laptop", vec![folder(1, "a")]).await;
    let mut older = folder(1, "a");
    older["occurredAt"] = json!("2025-01-01T00:00:00Z");
    for _ in 0..2 {
        let response = scene.push("phone", vec![older.clone()]).await;
        assert_eq!(response.results[0].status, PushStatus::OutdatedOp);
        assert_eq!(response.results[0].reason, Some(PushReason::Superseded));
    }
}

pub(crate) async fn a_link_that_would_close_a_cycle_is_outdated(scene: Scene) {
    scene.apply("laptop", vec![folder(1, "a"), file_in(2, "b", "a"), file_in(3, "c", "b")]).await;
    let response = scene.push("phone", vec![link(1, "link_reassign", "c", "a")]).await;
    assert_eq!(response.results[0].reason, Some(PushReason::Cycle));
    let response = scene.push("phone", vec![link(1, "link_reassign", "c", "a")]).await;
    assert_eq!(response.results[0].reason, Some(PushReason::Cycle), "the same answer again");
    scene.apply("phone", vec![link(2, "link_remove", "b", "c")]).await;
    scene.apply("phone", vec![link(3, "link_add", "c", "a")]).await;
}

pub(crate) async fn a_move_takes_the_older_links_away(scene: Scene) {
    let operations = vec![
        folder(1, "x"),
        folder(2, "y"),
        folder(3, "z"),
        file_in(4, "a", "x"),
        link(5, "link_add", "y", "a"),
    ];
    scene.apply("laptop", operations).await;
    let before = scene.head().await;
    let mut moved = link(6, "link_reassign", "z", "a");
    moved["occurredAt"] = json!("2026-01-01T00:00:25Z");
    scene.apply("laptop", vec![moved]).await;
    let entries = scene.settle_as("alice", Some(before), 500).await;
    assert_eq!(told(&entries), ["link_add z/a", "link_remove x/a", "link_remove y/a"]);

    // A link that is older than the move, by another replica that had not seen it.
    let late = scene.push("phone", vec![link(1, "link_add", "x", "a")]).await;
    assert_eq!(late.results[0].reason, Some(PushReason::Superseded));
}

pub(crate) async fn an_item_that_comes_back_brings_what_hangs_around_it(scene: Scene) {
    let grant = json!({"opType": "acl_add", "writeId": 4, "itemId": "b", "principalType": "group",
        "principalId": "g", "accessLevel": "read"});
    let operations =
        vec![folder(1, "a"), file_in(2, "b", "a"), file_in(3, "c", "b"), grant, delete(5, "b")];
    scene.apply("laptop", operations).await;
    let before = scene.head().await;
    let mut edit = json!({"opType": "item_upsert", "writeId": 6, "itemId": "b", "name": "back"});
    edit["occurredAt"] = json!("2026-01-01T00:00:40Z");
    scene.apply("laptop", vec![edit]).await;
    let entries = scene.settle_as("alice", Some(before), 500).await;
    let expected = ["item_upsert b", "link_add a/b", "link_add b/c", "acl_add b"];
    assert_eq!(told(&entries), expected);
}

pub(crate) async fn grants_and_their_removals_are_told(scene: Scene) {
    let grant = |write_id: u64, op_type: &str, kind: &str| {
        json!({"opType": op_type, "writeId": write_id, "itemId": "a", "principalType": kind,
            "principalId": "bob", "accessLevel": "write"})
    };
    let mut operations = vec![folder(1, "a")];
    operations.extend([grant(2, "acl_add", "user"), grant(3, "acl_add", "organization")]);
    scene.apply("laptop", operations).await;
    scene.apply("laptop", vec![grant(4, "acl_remove", "user")]).await;
    let entries = scene.settle_as("alice", None, 500).await;
    assert_eq!(told(&entries), ["item_upsert a", "acl_add a"]);
    assert_eq!(entries[1]["principalType"], "organization");
    assert_eq!(entries[1]["accessLevel"], "write");
}

pub(crate) async fn a_malformed_operation_leaves_the_others_alone(scene: Scene) {
    let long = json!({"opType": "item_upsert", "writeId": 2, "itemId": "x".repeat(200),
        "objectType": "file", "name": "n"});
    let odd = json!({"opType": "item_upsert", "writeId": 3, "itemId": "i:'\"\u{1F600}%_\\",
        "objectType": "file", "name": "line\nbreak\u{1}", "metadata": {"k": "a\u{0}b"}});
    let response = scene.push("laptop", vec![folder(1, "a"), long, odd]).await;
    let statuses: Vec<_> = response.results.iter().map(|result| result.status).collect();
    assert_eq!(statuses, [PushStatus::Applied, PushStatus::InvalidOp, PushStatus::Applied]);
    let entries = scene.settle().await;
    assert_eq!(entries[1]["name"], "line\nbreak\u{1}");
    assert_eq!(entries[1]["metadata"]["k"], "a\u{0}b");
}

/// Pulls what is new, page by page, until it has seen so many items.
async fn follow(scene: Arc<Scene>, who: &'static str, items: usize) -> Vec<String> {
    let mut cursor = None;
    let mut seen = Vec::new();
    while seen.len() < items {
        let request = PullRequest { cursor: cursor.clone(), limit: 7, ..from(None) };
        let PullAnswer::Page(page) = scene.pull_as(who, request).await else {
            panic!("the pull was refused")
        };
        for entry in parsed(&page) {
            let position = cursor_of(&entry);
            let counter = |cursor| Position::parse(cursor).unwrap().counter;
            let before = cursor
                .as_ref()
                .map_or(0, |c: &vfs_sync_core::cursor::Cursor| counter(&c.change_id));
            // Nothing is changed twice here, so a position that is missing was skipped.
            assert_eq!(counter(&position.change_id), before + 1, "a gap in the feed");
            cursor = Some(position);
            seen.extend(told(&[entry]));
        }
        if page.items.is_empty() {
            tokio::task::yield_now().await;
        }
    }
    seen
}

pub(crate) async fn many_writers_of_one_feed_are_told_in_the_order_of_commit(scene: Scene) {
    const WRITERS: usize = 8;
    const PUSHES: u64 = 12;
    let scene = Arc::new(scene);
    let reader = tokio::spawn(follow(scene.clone(), "alice", WRITERS * PUSHES as usize * 2));
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let scene = scene.clone();
        writers.push(tokio::spawn(async move {
            let name = format!("w{writer}");
            for n in 0..PUSHES {
                let ids = [format!("{name}-{n}-a"), format!("{name}-{n}-b")];
                let operations = vec![folder(2 * n + 1, &ids[0]), folder(2 * n + 2, &ids[1])];
                scene.apply(&name, operations).await;
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let seen = reader.await.unwrap();
    let distinct: BTreeSet<&String> = seen.iter().collect();
    assert_eq!(distinct.len(), WRITERS * PUSHES as usize * 2);
    for writer in 0..WRITERS {
        let own: Vec<_> =
            seen.iter().filter(|told| told.contains(&format!(" w{writer}-"))).collect();
        let expected: Vec<String> = (0..PUSHES)
            .flat_map(|n| ["a", "b"].map(|x| format!("item_upsert w{writer}-{n}-{x}")))
            .collect();
        assert_eq!(own, expected.iter().collect::<Vec<_>>());
    }
}

pub(crate) async fn several_users_write_at_once(scene: Scene) {
    let scene = Arc::new(scene);
    let mut all = Vec::new();
    for who in ["alice", "bob", "carol"] {
        all.push(tokio::spawn(follow(scene.clone(), who, 20)));
        for device in ["one", "two"] {
            let scene = scene.clone();
            all.push(tokio::spawn(async move {
                for n in 1..=10 {
                    let id = format!("{who}-{device}-{n}");
                    scene.apply_as(who, device, vec![folder(n, &id)]).await;
                }
                Vec::new()
            }));
        }
    }
    for one in all {
        one.await.unwrap();
    }
}

pub(crate) async fn one_id_created_by_two_users_at_once_belongs_to_one(scene: Scene) {
    let scene = Arc::new(scene);
    for round in 1..=10 {
        let id = format!("prize-{round}");
        let push = |who: &'static str| {
            let (scene, id) = (scene.clone(), id.clone());
            tokio::spawn(async move {
                let own = format!("{who}-{round}");
                let operations = vec![folder(2 * round - 1, &id), folder(2 * round, &own)];
                let response = scene.push_as(who, "laptop", operations).await;
                assert_eq!(response.results[1].status, PushStatus::Applied);
                response.results[0].clone()
            })
        };
        let (alices, bobs) = (push("alice"), push("bob"));
        let (alices, bobs) = (alices.await.unwrap(), bobs.await.unwrap());
        let mut statuses = [alices.status, bobs.status];
        statuses.sort_by_key(|status| *status == PushStatus::InvalidOp);
        assert_eq!(statuses, [PushStatus::Applied, PushStatus::InvalidOp]);
        let loser = if alices.status == PushStatus::InvalidOp { alices } else { bobs };
        assert_eq!(loser.reason, Some(PushReason::NotPermitted));
    }
}
