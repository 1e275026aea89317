//! What one user may keep and change: at each bound, and over it.

use serde_json::{Value, json};
use vfs_sync_core::access::{Principal, PrincipalType};
use vfs_sync_core::id::PrincipalId;
use vfs_sync_core::limits::{MAX_ITEM_GRANTS, MAX_ITEM_GRANTS_EVER, MAX_USER_GRANTS};
use vfs_sync_core::wire::{PushReason, PushResult, PushStatus};

use super::scene::*;

fn grant(write_id: u64, item: &str, who: &str) -> Value {
    json!({"opType": "acl_add", "writeId": write_id, "itemId": item, "principalType": "user",
        "principalId": who, "accessLevel": "read"})
}

fn group_grant(write_id: u64, item: &str, group: &str) -> Value {
    json!({"opType": "acl_add", "writeId": write_id, "itemId": item, "principalType": "group",
        "principalId": group, "accessLevel": "read"})
}

fn revoke(write_id: u64, item: &str, who: &str) -> Value {
    json!({"opType": "acl_remove", "writeId": write_id, "itemId": item, "principalType": "user",
        "principalId": who})
}

fn group(name: &str) -> Principal {
    Principal { kind: PrincipalType::Group, id: PrincipalId::new(name).unwrap() }
}

const TOO_MANY: (PushStatus, Option<PushReason>) =
    (PushStatus::InvalidOp, Some(PushReason::TooManyGrants));
const APPLIED: (PushStatus, Option<PushReason>) = (PushStatus::Applied, None);

fn outcome(result: &PushResult) -> (PushStatus, Option<PushReason>) {
    (result.status, result.reason)
}

async fn outcomes(scene: &Scene, operations: Vec<Value>) -> Vec<(PushStatus, Option<PushReason>)> {
    let response = scene.push("laptop", operations).await;
    response.results.iter().map(outcome).collect()
}

/// The keys of what a user's feed shows, from its start.
async fn shown(scene: &Scene, who: &str) -> Vec<String> {
    told(&scene.settle_as(who, None, 500).await)
}

pub(crate) async fn an_item_has_so_many_grants_and_no_more(scene: Scene) {
    scene.apply("laptop", vec![folder(1, "a")]).await;
    let max = MAX_ITEM_GRANTS as u64;
    let all = (0..max).map(|n| grant(2 + n, "a", &format!("u{n}"))).collect();
    scene.apply("laptop", all).await;
    let next = 2 + max;
    // Another level is no further grant; one more is, and what follows it goes on.
    let again = json!({"opType": "acl_add", "writeId": next, "itemId": "a",
        "principalType": "user", "principalId": "u0", "accessLevel": "write"});
    let beyond = vec![again, grant(next + 1, "a", "more"), folder(next + 2, "b")];
    assert_eq!(outcomes(&scene, beyond.clone()).await, [APPLIED, TOO_MANY, APPLIED]);
    let retried = outcomes(&scene, beyond).await;
    assert_eq!(retried[1], TOO_MANY, "a retry finds it refused");
    let room = vec![
        revoke(next + 3, "a", "u1"),
        grant(next + 4, "a", "more"),
        group_grant(next + 5, "a", "still"),
    ];
    assert_eq!(outcomes(&scene, room).await, [APPLIED, APPLIED, TOO_MANY]);
}

pub(crate) async fn an_item_was_granted_to_so_many_and_no_more(scene: Scene) {
    scene.apply("laptop", vec![folder(1, "a")]).await;
    let max = MAX_ITEM_GRANTS_EVER as u64;
    let mut write_id = 1;
    let mut next = || {
        write_id += 1;
        write_id
    };
    let all: Vec<u64> = (0..max).collect();
    for part in all.chunks(200) {
        let given = part.iter().map(|n| group_grant(next(), "a", &format!("g{n}"))).collect();
        scene.apply("laptop", given).await;
        let taken = part.iter().map(|n| {
            json!({"opType": "acl_remove", "writeId": next(), "itemId": "a",
                "principalType": "group", "principalId": format!("g{n}")})
        });
        let taken = taken.collect();
        scene.apply("laptop", taken).await;
    }
    // A removal of what was never there takes a row too.
    let beyond = vec![
        grant(next(), "a", "more"),
        revoke(next(), "a", "more"),
        group_grant(next(), "a", "g7"),
    ];
    assert_eq!(outcomes(&scene, beyond).await, [TOO_MANY, TOO_MANY, APPLIED]);
}

/// The number of grants is set in the database: so many are long in the making.
pub(crate) async fn one_user_is_granted_so_many_items_of_an_owner_and_no_more(scene: Scene) {
    let made = vec![folder(1, "a"), folder(2, "b"), folder(3, "c"), folder(4, "d")];
    scene.apply("laptop", made).await;
    scene.apply("laptop", vec![grant(5, "a", "bob"), grant(6, "b", "bob")]).await;
    scene.apply("laptop", vec![revoke(7, "b", "bob")]).await;
    let all_but_one = MAX_USER_GRANTS - 2;
    scene.tamper(&format!("UPDATE grantees SET grants = grants + {all_but_one}")).await;
    let more = vec![grant(8, "b", "bob"), grant(9, "c", "bob"), grant(10, "c", "carol")];
    assert_eq!(outcomes(&scene, more).await, [APPLIED, TOO_MANY, APPLIED]);
    // A change of the level takes no room; a new item of the same push counts as well.
    let write = json!({"opType": "acl_add", "writeId": 11, "itemId": "a", "principalType": "user",
        "principalId": "bob", "accessLevel": "write"});
    let new = vec![write, folder(12, "e"), grant(13, "e", "bob")];
    assert_eq!(outcomes(&scene, new).await, [APPLIED, APPLIED, TOO_MANY]);
    let room = vec![revoke(14, "a", "bob"), grant(15, "e", "bob"), grant(16, "d", "bob")];
    assert_eq!(outcomes(&scene, room).await, [APPLIED, APPLIED, TOO_MANY]);
    // What is purged does not count any more.
    let bin = json!({"opType": "item_delete", "writeId": 17, "itemId": "b",
        "occurredAt": "2026-01-01T00:00:55Z"});
    scene.apply("laptop", vec![bin]).await;
    let b = vfs_sync_core::id::ItemId::new("b").unwrap();
    scene.store.purge(&user("alice"), &b, false, scene.now()).await.unwrap();
    while scene.store.purge_step(at(0), at(0), scene.now(), 10).await.unwrap() > 0 {}
    assert_eq!(outcomes(&scene, vec![grant(18, "d", "bob")]).await, [APPLIED]);
    assert_eq!(outcomes(&scene, vec![grant(19, "c", "bob")]).await, [TOO_MANY]);
}

/// Counts of rows that views take, by name.
async fn rows(scene: &Scene) -> Vec<(&'static str, u64)> {
    let mut counts = scene.store.counts().await.unwrap();
    counts.retain(|(name, _)| name.contains("feed") || name.contains("access"));
    counts
}

pub(crate) async fn a_grant_to_somebody_who_never_came_takes_no_rows_of_views(scene: Scene) {
    scene.apply("laptop", vec![folder(1, "a")]).await;
    let files = (0..40).map(|n| file_in(2 + n, &format!("f{n}"), "a")).collect();
    scene.apply("laptop", files).await;
    scene.store.set_member(&group("team"), &user("gwen"), true, scene.now()).await.unwrap();
    let before = rows(&scene).await;
    let grants =
        vec![grant(50, "a", "ghost"), grant(51, "f0", "ghost"), group_grant(52, "a", "team")];
    scene.apply("laptop", grants).await;
    scene.apply("laptop", vec![file_in(53, "late", "a"), delete(54, "f1")]).await;
    // Alice's own feed tells of the grants.
    let grown: u64 = rows(&scene).await.iter().map(|(_, n)| n).sum();
    let before: u64 = before.iter().map(|(_, n)| n).sum();
    assert!(grown <= before + 10, "{before} rows became {grown}");
    let page = scene.store.pull_page(&user("ghost"), &from(None)).await.unwrap();
    assert!(page.is_none(), "nothing before the first call's transaction");
    for who in ["ghost", "gwen"] {
        let items = shown(&scene, who).await;
        let files = items.iter().filter(|one| one.starts_with("item_upsert f")).count();
        assert_eq!(files, 39, "{who}: {items:?}");
        assert!(items.contains(&"item_upsert late".to_owned()), "{who}");
    }
    // From then on a change is told when it is made.
    let cursor = scene.settle_as("ghost", None, 500).await.last().map(cursor_of);
    scene.apply("laptop", vec![file_in(55, "later", "a")]).await;
    let news = told(&scene.settle_as("ghost", cursor, 500).await);
    assert_eq!(news, ["item_upsert later", "link_add a/later"]);
}

pub(crate) async fn what_was_granted_and_taken_before_the_first_call_is_never_seen(scene: Scene) {
    scene.apply("laptop", vec![folder(1, "a"), folder(2, "b"), folder(3, "c")]).await;
    let grants = vec![grant(4, "a", "bob"), grant(5, "b", "bob"), revoke(6, "a", "bob")];
    scene.apply("laptop", grants).await;
    scene.store.set_member(&group("team"), &user("bob"), true, scene.now()).await.unwrap();
    scene.apply("laptop", vec![group_grant(7, "c", "team")]).await;
    scene.store.set_member(&group("team"), &user("bob"), false, scene.now()).await.unwrap();
    scene.apply_as("carol", "phone", vec![folder(1, "x"), grant(2, "x", "bob")]).await;
    scene.store.set_block(&user("bob"), &user("carol"), true, scene.now()).await.unwrap();
    assert_eq!(shown(&scene, "bob").await, ["item_upsert b", "acl_add b"]);
    scene.store.set_block(&user("bob"), &user("carol"), false, scene.now()).await.unwrap();
    assert_eq!(
        shown(&scene, "bob").await,
        ["item_upsert b", "acl_add b", "item_upsert x", "acl_add x"]
    );
}

/// A grant that was decided before the first call commits after it: the next call finds it.
pub(crate) async fn a_grant_and_a_first_call_at_once_miss_each_other_never(scene: Scene) {
    for round in 0..12 {
        let (alice, bob) = (format!("alice{round}"), format!("bob{round}"));
        let item = format!("i{round}");
        scene.apply_as(&alice, "laptop", vec![folder(1, &item)]).await;
        let granted = scene.apply_as(&alice, "laptop", vec![grant(2, &item, &bob)]);
        let called = async { scene.store.pull(&user(&bob), &from(None)).await.map(drop).unwrap() };
        futures::join!(granted, called);
        let seen = shown(&scene, &bob).await;
        assert_eq!(seen, [format!("item_upsert {item}"), format!("acl_add {item}")]);
    }
}
