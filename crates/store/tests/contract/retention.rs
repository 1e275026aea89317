//! Removals: told, kept for a while, pruned; and who has to start again then.

use vfs_sync_core::wire::PushStatus;
use vfs_sync_store::{Pruned, PullAnswer, PullRequest, Retention};

use super::scene::*;

fn everything_until(millis: i64) -> Retention {
    Retention { removals_before: at(millis), accepted_before: at(0), at_most: 1_000 }
}

/// Two folders, one of them deleted: positions 1 and 3 are left.
async fn one_removed(scene: &Scene) {
    scene.apply("laptop", vec![folder(1, "a"), folder(2, "b")]).await;
    scene.apply("laptop", vec![delete(3, "b")]).await;
}

pub(crate) async fn a_removal_is_told_to_those_who_were_there(scene: Scene) {
    scene.apply("laptop", vec![folder(1, "a"), file_in(2, "b", "a")]).await;
    let before = scene.head().await;
    scene.apply("laptop", vec![delete(3, "b")]).await;
    let entries = scene.settle_as("alice", Some(before), 500).await;
    assert_eq!(told(&entries), ["link_remove a/b", "item_delete b"]);
}

pub(crate) async fn a_replica_that_missed_pruned_removals_starts_again(scene: Scene) {
    scene.apply("laptop", vec![folder(1, "a"), folder(2, "b")]).await;
    let early = scene.head().await;
    scene.apply("laptop", vec![delete(3, "b")]).await;
    let removed = scene.head().await;
    scene.apply("laptop", vec![folder(4, "c")]).await;
    let pruned = scene.store.prune(everything_until(100_000)).await.unwrap();
    assert_eq!(pruned, Pruned { removals: 1, accepted: 0 });

    let refused = scene.pull(from(Some(early.clone()))).await;
    let PullAnswer::Rematerialize(refused) = refused else { panic!("{refused:?}") };
    assert_eq!(refused.oldest_available.as_ref(), Some(&removed));
    assert_eq!(scene.page(from(Some(removed.clone()))).await.items.len(), 1);
    let kept = PullRequest { baseline: Some(removed), ..from(Some(early)) };
    assert_eq!(scene.page(kept).await.items.len(), 1, "a baseline behind what was pruned");
    let state = scene.store.state(&user("alice"), &replica("laptop")).await.unwrap();
    assert!(state.pruned_through < state.feed_head && state.pruned_through.is_some());
}

pub(crate) async fn a_fresh_replica_is_not_told_old_removals(scene: Scene) {
    one_removed(&scene).await;
    let first = scene.page(from(None)).await;
    assert_eq!(told(&parsed(&first)), ["item_upsert a"]);
    let baseline = first.baseline.clone().unwrap();
    let cursor = cursor_of(&parsed(&first)[0]);
    let request = PullRequest { baseline: Some(baseline), ..from(Some(cursor.clone())) };
    assert!(scene.page(request.clone()).await.items.is_empty());
    scene.apply("laptop", vec![delete(4, "a")]).await;
    assert_eq!(told(&parsed(&scene.page(request).await)), ["item_delete a"]);
    let forgot = scene.page(from(Some(cursor))).await;
    assert_eq!(told(&parsed(&forgot)), ["item_delete b", "item_delete a"]);
}

pub(crate) async fn a_fresh_replica_settles_while_old_removals_are_pruned(scene: Scene) {
    for n in 0..20 {
        let id = format!("f{n:02}");
        scene.apply("laptop", vec![folder(2 * n + 1, &id)]).await;
        if n % 2 == 0 {
            scene.apply("laptop", vec![delete(2 * n + 2, &id)]).await;
        }
    }
    let mut request = PullRequest { limit: 2, ..from(None) };
    let mut seen = Vec::new();
    loop {
        let page = scene.page(request.clone()).await;
        seen.extend(told(&parsed(&page)));
        request.baseline = page.baseline.or(request.baseline);
        if let Some(last) = page.items.last() {
            request.cursor = Some(cursor_of(&serde_json::from_str(last).unwrap()));
        }
        if !page.has_more {
            break;
        }
        scene.store.prune(Retention { at_most: 3, ..everything_until(100_000) }).await.unwrap();
    }
    let expected: Vec<String> =
        (0..20).filter(|n| n % 2 == 1).map(|n| format!("item_upsert f{n:02}")).collect();
    assert_eq!(seen, expected);
}

pub(crate) async fn an_old_operation_leaves_the_audit_trail_and_is_stale_then(scene: Scene) {
    scene.apply("laptop", vec![folder(1, "a"), folder(2, "b")]).await;
    let between = scene.pass(1_000);
    scene.apply("laptop", vec![folder(3, "c")]).await;
    let retention = Retention { removals_before: at(0), accepted_before: between, at_most: 1_000 };
    assert_eq!(scene.store.prune(retention).await.unwrap(), Pruned { removals: 0, accepted: 2 });
    assert_eq!(scene.store.prune(retention).await.unwrap(), Pruned::default());
    let status = scene.push("laptop", vec![folder(2, "b")]).await.results[0].status;
    assert_eq!(status, PushStatus::StaleWriteId);
    let status = scene.push("laptop", vec![folder(3, "c")]).await.results[0].status;
    assert_eq!(status, PushStatus::AlreadyApplied);
    let all = Retention { accepted_before: at(1_000_000), ..retention };
    assert_eq!(scene.store.prune(all).await.unwrap().accepted, 1);
    scene.apply("laptop", vec![folder(4, "d")]).await;
    assert_eq!(scene.store.prune(all).await.unwrap().accepted, 1);
}

pub(crate) async fn pruning_goes_on_in_small_steps(scene: Scene) {
    for who in ["alice", "bob"] {
        let made = (1..=10).map(|n| folder(n, &format!("{who}{n}"))).collect();
        scene.apply_as(who, "laptop", made).await;
        let gone = (1..=10).map(|n| delete(10 + n, &format!("{who}{n}"))).collect();
        scene.apply_as(who, "laptop", gone).await;
    }
    let step =
        Retention { removals_before: at(1_000_000), accepted_before: at(1_000_000), at_most: 7 };
    let mut total = Pruned::default();
    loop {
        let pruned = scene.store.prune(step).await.unwrap();
        assert!(pruned.removals <= 7 && pruned.accepted <= 7);
        if pruned == Pruned::default() {
            break;
        }
        total.removals += pruned.removals;
        total.accepted += pruned.accepted;
    }
    assert_eq!(total, Pruned { removals: 20, accepted: 40 });
    assert!(scene.settle().await.is_empty());
    assert!(scene.page(from(Some(scene.head().await))).await.items.is_empty());
}
