//! What a push leaves in the feed, and how a feed is read.

use serde_json::json;
use vfs_sync_core::cursor::{Cursor, Epoch, Position};
use vfs_sync_core::id::ChangeId;
use vfs_sync_core::limits::MAX_PULL_BYTES;
use vfs_sync_core::wire::{EpochEnd, PushStatus};
use vfs_sync_store::{PullAnswer, PullRequest, ReconcileAnswer, Rematerialize, Retention};

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

pub(crate) async fn a_page_names_the_head_where_there_is_more(scene: Scene) {
    scene.apply("laptop", vec![folder(1, "a"), folder(2, "b"), folder(3, "c")]).await;
    let epoch = scene.store.new_epoch(scene.now(), 7).await.unwrap();
    let first = scene.page(PullRequest { limit: 1, ..from(None) }).await;
    assert_eq!(first.head, Some(scene.head().await));
    scene.apply("laptop", vec![folder(4, "d")]).await;
    let cursor = first.next_cursor.clone();
    let request = PullRequest { limit: 1, head: first.head.clone(), ..from(cursor.clone()) };
    let second = scene.page(request).await;
    assert_eq!(second.head, Some(scene.head().await), "it is the head of each page");
    assert_eq!(cursor_epoch(second.head.as_ref()), Some(epoch));
    assert_eq!(told(&parsed(&second)), ["item_upsert b"]);
    let last = scene.page(PullRequest { head: first.head, ..from(cursor) }).await;
    assert_eq!((last.items.len(), last.head), (3, None));
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
        let request = PullRequest { head: Some(bad.clone()), ..from(Some(head.clone())) };
        assert!(is_refused(&scene.pull(request).await), "{bad} as head");
    }
    assert!(scene.page(from(Some(head))).await.items.is_empty());
}

fn cursor_epoch(cursor: Option<&Cursor>) -> Option<Epoch> {
    cursor.and_then(|cursor| Position::parse(&cursor.change_id)).map(|position| position.epoch)
}

fn is_refused(answer: &PullAnswer) -> bool {
    matches!(answer, PullAnswer::Rematerialize(refused) if refused.oldest_available.is_none())
}

fn position_of(entry: &serde_json::Value) -> Position {
    Position::parse(&cursor_of(entry).change_id).unwrap()
}

pub(crate) async fn a_new_epoch_goes_on_from_every_position_before_it(scene: Scene) {
    scene.apply("laptop", vec![folder(1, "a"), folder(2, "b")]).await;
    let first = scene.head().await;
    let middle = cursor_of(&scene.settle().await[0]);
    let epoch = scene.store.new_epoch(scene.now(), 7).await.unwrap();
    let nothing = scene.page(from(Some(first.clone()))).await;
    assert!(nothing.items.is_empty());
    assert_eq!(nothing.epoch, epoch, "the database's, whatever its feeds have");
    assert_eq!(scene.head().await, first, "nothing moved");
    let answer = scene.reconcile("laptop", &first, &[]).await;
    assert!(matches!(answer, ReconcileAnswer::Merged(_)), "{answer:?}");

    scene.apply("laptop", vec![folder(3, "c")]).await;
    let second = scene.head().await;
    let later = scene.store.new_epoch(at(0), 0).await.unwrap();
    assert!(later > epoch, "a clock that stepped back");
    scene.apply("laptop", vec![folder(4, "d")]).await;
    let all = scene.settle().await;
    assert_eq!(told(&all), ["item_upsert a", "item_upsert b", "item_upsert c", "item_upsert d"]);
    let positions: Vec<_> = all.iter().map(position_of).collect();
    assert!(positions.is_sorted());
    let before = Position::parse(&first.change_id).unwrap().epoch;
    let epochs: Vec<_> = positions.iter().map(|position| position.epoch).collect();
    assert_eq!(epochs, [before, before, epoch, later]);
    let counters: Vec<_> = positions.iter().map(|position| position.counter).collect();
    assert_eq!(counters, [1, 2, 3, 4], "counters go on");

    for (cursor, rest) in [(&middle, 3), (&first, 2), (&second, 1)] {
        let entries = scene.settle_as("alice", Some(cursor.clone()), 1).await;
        assert_eq!(entries.len(), rest, "{cursor}");
        let baseline = PullRequest { baseline: Some(first.clone()), ..from(Some(cursor.clone())) };
        assert_eq!(scene.page(baseline).await.items.len(), rest);
        let answer = scene.reconcile("laptop", cursor, &[]).await;
        assert!(matches!(answer, ReconcileAnswer::Merged(_)), "{answer:?}");
    }
    let state = scene.store.state(&user("alice"), &replica("laptop")).await.unwrap();
    assert_eq!(state.epoch, Some(later.as_u64()));
    assert_eq!(state.reconcile_state.unwrap().cursor, second);
}

pub(crate) async fn a_position_that_an_epoch_never_had_is_refused_with_the_history(scene: Scene) {
    scene.apply("laptop", vec![folder(1, "a"), folder(2, "b")]).await;
    let first = Position::parse(&scene.head().await.change_id).unwrap();
    scene.store.new_epoch(scene.now(), 7).await.unwrap();
    let skipped = scene.store.new_epoch(scene.now(), 8).await.unwrap();
    let third = scene.store.new_epoch(scene.now(), 9).await.unwrap();
    scene.apply("laptop", vec![folder(3, "c"), folder(4, "d"), folder(5, "e")]).await;
    let head = scene.head().await;
    let end = |epoch, last_counter| EpochEnd { epoch, last_counter };
    let history = vec![end(first.epoch, 2), end(third, 5)];
    let refused = Rematerialize { oldest_available: None, history, epoch: Some(third) };
    for bad in [
        Position { counter: 3, ..first },
        Position { epoch: skipped, counter: 2 },
        Position { epoch: skipped, counter: 3 },
        Position { epoch: third, counter: 6 },
    ] {
        let bad = bad.at(head.changed_at);
        let baseline = PullRequest { baseline: Some(bad.clone()), ..from(Some(head.clone())) };
        let later = PullRequest { head: Some(bad.clone()), ..from(Some(head.clone())) };
        for request in [from(Some(bad.clone())), baseline, later] {
            let answer = scene.pull(request).await;
            assert_eq!(answer, PullAnswer::Rematerialize(refused.clone()), "{bad}");
        }
        let answer = scene.reconcile("laptop", &bad, &[]).await;
        assert_eq!(answer, ReconcileAnswer::Rematerialize(refused.clone()), "{bad}");
    }
    scene.apply("laptop", vec![delete(6, "a")]).await;
    scene.store.new_epoch(scene.now(), 1).await.unwrap();
    let retention =
        Retention { removals_before: at(1_000_000), accepted_before: at(0), at_most: 9 };
    scene.store.prune(retention).await.unwrap();
    let PullAnswer::Rematerialize(Rematerialize { oldest_available, history, .. }) =
        scene.pull(from(Some(first.at(at(0))))).await
    else {
        panic!("what the cursor lacks was pruned")
    };
    let oldest = Position::parse(&oldest_available.unwrap().change_id).unwrap();
    assert_eq!((oldest.epoch, oldest.counter), (third, 6));
    assert_eq!(history, [end(first.epoch, 2), end(third, 6)]);
}

pub(crate) async fn a_new_epoch_amid_pushes_never_follows_a_later_one(scene: Scene) {
    let scene = std::sync::Arc::new(scene);
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let scene = scene.clone();
            tokio::spawn(async move {
                for n in 0..10 {
                    let id = format!("i-{writer}-{n}");
                    scene.apply(&format!("r{writer}"), vec![folder(n + 1, &id)]).await;
                }
            })
        })
        .collect();
    let mut epochs = Vec::new();
    for chance in 0..5 {
        epochs.push(scene.store.new_epoch(scene.now(), chance).await.unwrap());
    }
    for writer in writers {
        writer.await.unwrap();
    }
    assert!(epochs.is_sorted());
    let entries = scene.settle().await;
    let positions: Vec<_> = entries.iter().map(position_of).collect();
    assert_eq!(positions.len(), 40);
    assert!(positions.is_sorted_by(|a, b| a.epoch <= b.epoch && a.counter < b.counter));
    for entry in &entries {
        let rest = scene.settle_as("alice", Some(cursor_of(entry)), 7).await;
        assert_eq!(rest.len() as u64, 40 - position_of(entry).counter);
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
