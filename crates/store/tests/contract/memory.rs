//! What the store in memory answers, compared with what SQLite does, byte for byte; and backups.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use vfs_sync_store::memory::MemoryStore;
use vfs_sync_store::sqlite::SqliteStore;
use vfs_sync_store::{MetadataStore, PullAnswer, Quota, Retention, StoreError};

use super::scene::*;
use super::views::{Cast, DEVICES, Dice, ITEMS, attach_by, attach_content, operation, with_basis};

const HISTORIES: u64 = 40;
const STEPS: u64 = 100;

/// The same of each scene.
macro_rules! both {
    ($scenes:expr, |$scene:ident| $call:expr) => {{
        let mut answers = Vec::new();
        for $scene in &$scenes {
            answers.push($call);
        }
        let other = answers.pop().unwrap();
        assert_eq!(answers.pop().as_ref(), Some(&other));
        other
    }};
}

async fn play(seed: u64) {
    let sqlite = SqliteStore::open_in_memory(at(0)).unwrap();
    let scenes = [Scene::new(Arc::new(MemoryStore::new(at(0)))), Scene::new(Arc::new(sqlite))];
    let mut dice = Dice::new(seed);
    let cast = Cast::of(seed);
    let mut next: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for step in 0..STEPS {
        let by = dice.below(5_000);
        let now = both!(scenes, |scene| scene.pass(by)).as_millis() - START;
        let (who, device) = (cast.one(&mut dice), dice.one(&DEVICES));
        let item = format!("{}-{}", cast.one(&mut dice), dice.below(ITEMS));
        match dice.below(10) {
            0..5 => {
                let first = next.entry((who, device)).or_insert(1);
                let count = 1 + dice.below(8);
                let all = both!(scenes, |scene| scene.settle_as(who, None, 500).await);
                let seen = dice.below(1 + all.len() as u64) as usize;
                let seen = all.get(seen).map(cursor_of);
                let operations: Vec<Value> = (0..count)
                    .map(|n| operation(&mut dice, &cast, who, *first + n, now))
                    .collect::<Vec<_>>()
                    .into_iter()
                    .map(|op| with_basis(&mut dice, op, seen.as_ref()))
                    .collect();
                // Some come twice.
                *first += count - dice.below(2);
                both!(scenes, |scene| scene.push_as(who, device, operations.clone()).await);
            }
            5 => {
                let by = [None, Some(device)][dice.below(2) as usize];
                for scene in &scenes {
                    match by {
                        None => attach_content(scene, who, &item, &format!("b{step}")).await,
                        by => attach_by(scene, who, &item, &format!("b{step}"), by).await,
                    }
                }
            }
            6 => {
                let (group, member) = (dice.one(&cast.groups), user(who));
                let present = dice.below(2) == 0;
                for scene in &scenes {
                    let now = scene.now();
                    scene.store.set_member(&group, &member, present, now).await.unwrap();
                }
            }
            7 => {
                let (owner, blocked) = (user(cast.one(&mut dice)), dice.below(3) == 0);
                for scene in scenes.iter().filter(|_| owner != user(who)) {
                    let now = scene.now();
                    scene.store.set_block(&user(who), &owner, blocked, now).await.unwrap();
                }
            }
            8 => {
                let removals_before = at(now - dice.below(60_000) as i64);
                let accepted_before = at(now - dice.below(200_000) as i64);
                // All of it: which of several removals of one moment goes first is a store's own.
                let at_most = 10_000;
                let retention = Retention { removals_before, accepted_before, at_most };
                both!(scenes, |scene| scene.store.prune(retention).await.unwrap());
            }
            _ => {
                let request = from(None);
                both!(scenes, |scene| scene.pull_as(who, request.clone()).await);
            }
        }
    }
    for who in &cast.users {
        let all = from(None);
        both!(scenes, |scene| scene.pull_as(who, all.clone()).await);
        both!(scenes, |scene| scene.store.groups_of(&user(who)).await.unwrap());
        both!(scenes, |scene| scene.store.blocked_by(&user(who)).await.unwrap());
        both!(scenes, |scene| scene.store.blob_usage(&user(who)).await.unwrap());
        for device in DEVICES {
            let device = replica(device);
            both!(scenes, |scene| scene.store.state(&user(who), &device).await.unwrap());
        }
        for n in 0..ITEMS {
            let item = format!("{who}-{n}").parse().unwrap();
            both!(scenes, |scene| scene.store.versions(&user(who), &item, 5).await.unwrap());
        }
    }
    both!(scenes, |scene| scene.store.totals().await.unwrap());
    both!(scenes, |scene| scene.store.blobs_after(None, 1_000).await.unwrap());
    let later = at(i64::from(u32::MAX));
    both!(scenes, |scene| scene.store.expired_stages(later, 1_000).await.unwrap());
    both!(scenes, |scene| scene.store.to_reclaim(later, 1_000).await.unwrap());
}

#[tokio::test]
async fn memory_answers_every_call_of_a_random_history_as_sqlite_does() {
    for seed in 0..HISTORIES {
        play(seed).await;
    }
}

#[tokio::test]
async fn what_is_over_quota_leaves_nothing_behind() {
    let store: &dyn MetadataStore = &MemoryStore::new(at(0));
    let before = store.totals().await.unwrap();
    let stage = vfs_sync_store::NewStage {
        staging_id: "s".parse().unwrap(),
        blob_id: "b".parse().unwrap(),
        expires_at: at(1_000),
        expiry_chosen: false,
        content_type: None,
        size: 0,
    };
    let none = Quota { open_stages: 0, ..QUOTA };
    store.open_stage(&user("alice"), &stage, &none, at(0)).await.unwrap();
    assert!(store.any_stage(&stage.staging_id).await.unwrap().is_none());
    assert_eq!(store.totals().await.unwrap().open_stages, before.open_stages);
}

#[tokio::test]
async fn a_backup_that_is_put_back_under_a_running_server_is_noticed() {
    for by_a_push in [false, true] {
        let store = MemoryStore::new(at(0));
        let scene = Scene::new(Arc::new(store.clone()));
        scene.apply("phone", vec![folder(1, "a")]).await;
        let backup = store.snapshot();
        let kept = scene.head().await;
        scene.apply("phone", vec![folder(2, "b")]).await;
        let lost = scene.page(from(None)).await;
        store.restore(&backup);
        let noticed = if by_a_push {
            let batch = batch("alice", "phone", vec![folder(3, "c")]);
            scene.store.push(batch, scene.now()).await.map(|_| ())
        } else {
            scene.store.pull(&user("alice"), &from(None)).await.map(|_| ())
        };
        assert!(matches!(noticed, Err(StoreError::Unavailable(_))), "{noticed:?}");
        scene.apply("phone", vec![folder(3, "c")]).await;
        let refused = scene.pull(from(lost.baseline)).await;
        assert!(matches!(refused, PullAnswer::Rematerialize(_)), "{refused:?}");
        let page = scene.page(from(Some(kept))).await;
        assert!(page.epoch > lost.epoch);
        assert_eq!(told(&parsed(&page)), ["item_upsert c"]);
    }
}

#[tokio::test]
async fn a_backup_that_is_put_back_is_what_every_clone_holds() {
    let store = MemoryStore::new(at(0));
    let scene = Scene::new(Arc::new(store.clone()));
    scene.apply("phone", vec![folder(1, "a")]).await;
    let backup = store.snapshot();
    let old = scene.settle().await;
    scene.apply("phone", vec![folder(2, "b")]).await;
    let cursor = scene.head().await;
    let newer = MemoryStore::of_snapshot(&store.snapshot());
    store.restore(&backup);
    scene.store.new_epoch(scene.now(), 7).await.unwrap();
    let refused = scene.pull(from(Some(cursor.clone()))).await;
    assert!(matches!(refused, PullAnswer::Rematerialize(_)), "{refused:?}");
    assert_eq!(scene.settle().await, old);
    let kept = cursor_of(&old[0]);
    assert!(scene.page(from(Some(kept.clone()))).await.items.is_empty());
    scene.apply("phone", vec![folder(2, "c"), folder(3, "d")]).await;
    let refused = scene.pull(from(Some(cursor))).await;
    assert!(matches!(refused, PullAnswer::Rematerialize(_)), "what is there now is another");
    assert_eq!(scene.page(from(Some(kept))).await.items.len(), 2);
    let newer = Scene::new(Arc::new(newer));
    assert_eq!(newer.settle().await.len(), 2, "a store of its own");
}
