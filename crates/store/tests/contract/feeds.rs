//! What a push leaves in the feed, and how a feed is read.

use serde_json::json;
use vfs_sync_core::limits::MAX_PULL_BYTES;
use vfs_sync_core::wire::PushStatus;
use vfs_sync_store::{PullAnswer, PullRequest, ReconcileAnswer};

use super::scene::*;

pub(crate) async fn a_push_is_told_in_the_feed(scene: Scene) {
    scene.apply("laptop", vec![folder(1, "docs"), file_in(2, "a", "docs")]).await;
    let entries = scene.settle().await;
    assert_eq!(told(&entries), ["item_upsert docs", "item_upsert a", "link_add docs/a"]);
    assert_eq!(entries[1]["metadata"], json!({"mtime": 1, "mode": 420}));
    assert_eq!(entries[1]["ownerId"], "alice");
    assert_eq!(entries[1]["writeId"], 2);
    let page = scene.page(from(None)).await;
    assert_eq!(page.last_reconciled_write_ids, write_ids(&[("laptop", 2)]));
    assert_eq!(page.baseline, Some(scene.head().await));
}

pub(crate) async fn a_change_moves_its_entry_to_the_head(scene: Scene) {
    scene.apply("laptop", vec![folder(1, "a"), folder(2, "b")]).await;
    let before = scene.head().await;
    let mut rename = folder(3, "a");
    rename["occurredAt"] = json!("2026-01-01T00:00:01Z");
    scene.apply("laptop", vec![rename]).await;
    assert_eq!(told(&scene.settle().await), ["item_upsert b", "item_upsert a"]);
    let later = scene.settle_as("alice", Some(before), 500).await;
    assert_eq!(told(&later), ["item_upsert a"]);
}

pub(crate) async fn pages_of_any_size_give_the_same_feed(scene: Scene) {
    let operations = (1..=23).map(|n| folder(n, &format!("f{n:02}"))).collect();
    scene.apply("laptop", operations).await;
    let whole = scene.settle().await;
    assert_eq!(whole.len(), 23);
    for limit in [1, 2, 7, 22, 23, 24] {
        assert_eq!(scene.settle_as("alice", None, limit).await, whole, "pages of {limit}");
    }
}

pub(crate) async fn a_feed_that_never_began_is_an_empty_page(scene: Scene) {
    let page = scene.page(from(None)).await;
    assert!(page.items.is_empty() && !page.has_more && page.next_cursor.is_none());
    assert_eq!(page.baseline, None);
    assert!(page.last_reconciled_write_ids.is_empty());
}

pub(crate) async fn everybody_has_a_feed_of_their_own(scene: Scene) {
    scene.apply_as("alice", "laptop", vec![folder(1, "hers")]).await;
    scene.apply_as("bob", "laptop", vec![folder(1, "his")]).await;
    assert_eq!(told(&scene.settle().await), ["item_upsert hers"]);
    assert_eq!(told(&scene.settle_as("bob", None, 500).await), ["item_upsert his"]);
    let refused = scene.push_as("bob", "laptop", vec![file_in(2, "x", "hers")]).await;
    assert_eq!(refused.results[0].status, PushStatus::InvalidOp);
    let taken = scene.push_as("bob", "laptop", vec![folder(2, "hers")]).await;
    assert_eq!(taken.results[0].status, PushStatus::InvalidOp);
}

pub(crate) async fn a_page_ends_early_at_4_mib(scene: Scene) {
    let payload = "A".repeat(60_000);
    for write_id in 1..=100 {
        let op = json!({"opType": "item_upsert", "writeId": write_id, "objectType": "note",
            "itemId": format!("n{write_id}"), "encryptedPayload": payload, "keyEpoch": 1});
        scene.apply("laptop", vec![op]).await;
    }
    let first = scene.page(from(None)).await;
    let bytes: usize = first.items.iter().map(String::len).sum();
    assert!(first.has_more && bytes <= MAX_PULL_BYTES, "{bytes}");
    assert!(bytes > MAX_PULL_BYTES - 70_000, "{bytes}");
    assert_eq!(scene.settle().await.len(), 100);
}

pub(crate) async fn a_cursor_that_cannot_be_served_is_refused(scene: Scene) {
    use vfs_sync_core::cursor::{Cursor, Epoch, Position};
    use vfs_sync_core::id::ChangeId;
    let nothing_yet = Position { epoch: Epoch::from_u64(1).unwrap(), counter: 1 }.at(at(0));
    assert!(is_refused(&scene.pull(from(Some(nothing_yet))).await));
    scene.apply("laptop", vec![folder(1, "a")]).await;
    let head = scene.head().await;
    let position = Position::parse(&head.change_id).unwrap();
    let with = |counter, changed_at| Position { counter, ..position }.at(changed_at);
    let foreign = Cursor { change_id: ChangeId::new("x").unwrap(), ..head.clone() };
    let other_epoch = Position { epoch: Epoch::from_u64(7).unwrap(), counter: 1 };
    for bad in [
        with(position.counter + 1, head.changed_at),
        with(position.counter, at(1_000_000)),
        other_epoch.at(head.changed_at),
        foreign,
    ] {
        assert!(is_refused(&scene.pull(from(Some(bad.clone()))).await), "{bad}");
        let request = PullRequest { baseline: Some(bad.clone()), ..from(Some(head.clone())) };
        assert!(is_refused(&scene.pull(request).await), "{bad} as baseline");
    }
    assert!(scene.page(from(Some(head))).await.items.is_empty());
}

fn is_refused(answer: &PullAnswer) -> bool {
    *answer == PullAnswer::Rematerialize { oldest_available: None }
}

pub(crate) async fn a_new_epoch_refuses_every_position_before_it(scene: Scene) {
    use vfs_sync_core::cursor::Position;
    scene.apply("laptop", vec![folder(1, "a"), folder(2, "b")]).await;
    let before = scene.head().await;
    let epoch = scene.store.new_epoch(scene.now(), 7).await.unwrap();
    assert!(is_refused(&scene.pull(from(Some(before.clone()))).await));
    let answer = scene.reconcile("laptop", &before, &[]).await;
    assert_eq!(answer, ReconcileAnswer::Rematerialize { oldest_available: None });

    let again = scene.settle().await;
    assert_eq!(told(&again), ["item_upsert a", "item_upsert b"]);
    let positions = again.iter().map(|entry| Position::parse(&cursor_of(entry).change_id).unwrap());
    assert!(positions.clone().all(|position| position.epoch == epoch));
    scene.apply("laptop", vec![folder(3, "c")]).await;
    scene.apply_as("bob", "phone", vec![folder(1, "d")]).await;
    let bobs = scene.settle_as("bob", None, 500).await;
    assert_eq!(Position::parse(&cursor_of(&bobs[0]).change_id).unwrap().epoch, epoch);
    let next = scene.store.new_epoch(at(0), 0).await.unwrap();
    assert!(next > epoch, "a clock that stepped back");
}

pub(crate) async fn a_new_epoch_amid_pushes_is_every_feeds(scene: Scene) {
    use vfs_sync_core::cursor::Position;
    let scene = std::sync::Arc::new(scene);
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let scene = scene.clone();
            tokio::spawn(async move {
                for n in 0..10 {
                    let who = format!("user-{writer}-{n}");
                    scene.apply_as(&who, "laptop", vec![folder(1, &who)]).await;
                }
            })
        })
        .collect();
    let mut epoch = None;
    for _ in 0..5 {
        epoch = Some(scene.store.new_epoch(scene.now(), 7).await.unwrap());
    }
    for writer in writers {
        writer.await.unwrap();
    }
    for who in (0..4).flat_map(|writer| (0..10).map(move |n| format!("user-{writer}-{n}"))) {
        let entries = scene.settle_as(&who, None, 500).await;
        let position = Position::parse(&cursor_of(&entries[0]).change_id).unwrap();
        assert_eq!(Some(position.epoch), epoch, "{who}");
    }
}

pub(crate) async fn six_hundred_replicas_leave_room_for_ones_own(scene: Scene) {
    for n in 0..600 {
        let name = format!("r{n:03}");
        scene.apply(&name, vec![folder(1, &name)]).await;
    }
    let request = PullRequest { client_id: Some(replica("r000")), ..from(None) };
    let map = scene.page(request).await.last_reconciled_write_ids;
    assert_eq!(map.len(), 512);
    assert!(map.contains_key("r000") && map.contains_key("r599") && !map.contains_key("r080"));
    let map = scene.page(from(None)).await.last_reconciled_write_ids;
    assert_eq!(map.len(), 512);
    assert!(!map.contains_key("r000") && map.contains_key("r088"));
    let state = scene.store.state(&user("alice"), &replica("r001")).await.unwrap();
    assert!(state.last_write_ids.contains_key("r001"));
}
