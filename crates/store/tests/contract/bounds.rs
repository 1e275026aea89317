//! What one user may keep and change: at each bound, and over it.

use serde_json::{Value, json};
use vfs_sync_core::access::{Principal, PrincipalType};
use vfs_sync_core::id::PrincipalId;
use vfs_sync_core::limits::{MAX_ITEM_GRANTS, MAX_ITEM_GRANTS_EVER, MAX_USER_GRANTS};
use vfs_sync_core::server::push::{Bound, Bounds, PushBatch};
use vfs_sync_core::wire::{PushReason, PushResult, PushStatus};
use vfs_sync_store::postgres::PostgresStore;
use vfs_sync_store::sqlite::SqliteStore;
use vfs_sync_store::testing::new_postgres_database;
use vfs_sync_store::{Call, MetadataQuota, MetadataStore, Reply, Retention, StoreError};

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

/// A push with bounds small enough for a test.
fn bounded(batch: PushBatch, part: usize, operation: usize) -> PushBatch {
    let part = Bound { rows: part, ..Bound::PART };
    let operation = Bound { rows: operation, ..Bound::OPERATION };
    batch.within(Bounds { part, operation })
}

/// A folder of 20 files; bob was there before.
async fn folder_of_20(scene: &Scene) {
    scene.store.arrive(&user("bob")).await.unwrap();
    let files = (0..20).map(|n| file_in(2 + n, &format!("f{n}"), "a"));
    scene.apply("laptop", std::iter::once(folder(1, "a")).chain(files).collect()).await;
}

pub(crate) async fn a_push_of_many_consequences_is_applied_in_parts(scene: Scene) {
    folder_of_20(&scene).await;
    scene.apply("laptop", vec![grant(22, "a", "bob")]).await;
    let cursor = scene.settle_as("bob", None, 500).await.last().map(cursor_of);
    // Each takes a row of access, and two entries for each of alice and bob: 8 make 40.
    let files: Vec<Value> = (0..9).map(|n| file_in(23 + n, &format!("g{n}"), "a")).collect();
    let push = |count: usize| batch("alice", "laptop", files[..count].to_vec());
    let at_bound = scene.store.push_part(bounded(push(8), 40, 40), scene.now()).await.unwrap();
    assert!(at_bound.rest.is_none());
    assert_eq!(at_bound.response.results.len(), 8);
    let later: Vec<Value> = (0..9).map(|n| file_in(31 + n, &format!("h{n}"), "a")).collect();
    let beyond = bounded(batch("alice", "laptop", later.clone()), 40, 40);
    let part = scene.store.push_part(beyond, scene.now()).await.unwrap();
    assert_eq!(part.response.results.len(), 5, "half of them");
    let rest = part.rest.unwrap();
    assert_eq!(rest.len(), 4);
    // A push that was broken off here goes on where it was.
    let again = bounded(batch("alice", "laptop", later.clone()), 40, 40);
    let answer = scene.store.push(again, scene.now()).await.unwrap();
    let statuses: Vec<PushStatus> = answer.results.iter().map(|one| one.status).collect();
    assert_eq!(statuses[..5], [PushStatus::AlreadyApplied; 5]);
    assert_eq!(statuses[5..], [PushStatus::Applied; 4]);
    assert_eq!(told(&scene.settle_as("bob", cursor, 500).await).len(), 2 * 17);
    // Of a stale operation all others are, in whichever part.
    let stale = bounded(batch("alice", "laptop", vec![folder(1, "z"), folder(50, "y")]), 0, 40);
    let answer = scene.store.push(stale, scene.now()).await.unwrap();
    assert!(answer.results.iter().all(|one| one.status == PushStatus::StaleWriteId), "{answer:?}");
    assert!(answer.results.iter().all(|one| one.last_write_id == Some(write_id(39))));
}

pub(crate) async fn what_shows_too_much_is_refused_and_the_rest_goes_on(scene: Scene) {
    folder_of_20(&scene).await;
    // 21 items with their rows of access, and 20 links.
    let sent = || vec![folder(22, "b"), grant(23, "a", "bob"), folder(24, "c")];
    let push = |max| bounded(batch("alice", "laptop", sent()), 1, max);
    let refused = scene.store.push(push(61), scene.now()).await.unwrap();
    let found: Vec<_> = refused.results.iter().map(outcome).collect();
    let too_much = (PushStatus::InvalidOp, Some(PushReason::TooManyConsequences));
    assert_eq!(found, [APPLIED, too_much, APPLIED]);
    let again = scene.store.push(push(62), scene.now()).await.unwrap();
    let found: Vec<_> = again.results.iter().map(outcome).collect();
    assert_eq!(found[1], too_much, "its write id is used up");
    assert!(shown(&scene, "bob").await.is_empty());
    let granted = bounded(batch("alice", "laptop", vec![grant(25, "a", "bob")]), 1, 62);
    let answer = scene.store.push(granted, scene.now()).await.unwrap();
    assert_eq!(outcome(&answer.results[0]), APPLIED, "{answer:?}");
    assert_eq!(shown(&scene, "bob").await.len(), 42);
    // What narrows a view is never refused.
    let taken = bounded(batch("alice", "laptop", vec![revoke(26, "a", "bob")]), 1, 0);
    let answer = scene.store.push(taken, scene.now()).await.unwrap();
    assert_eq!(outcome(&answer.results[0]), APPLIED, "{answer:?}");
    assert!(shown(&scene, "bob").await.is_empty());
}

/// Pushes within a quota: the results, or the bound that was passed, and whether it is one's own.
async fn within_quota(
    scene: &Scene,
    who: &str,
    quota: MetadataQuota,
    operations: Vec<Value>,
) -> Result<usize, (&'static str, bool)> {
    let batch = batch(who, "laptop", operations).with_quota(quota);
    match scene.store.push(batch, scene.now()).await {
        Ok(response) => {
            assert!(response.results.iter().all(|one| outcome(one) == APPLIED), "{response:?}");
            Ok(response.results.len())
        }
        Err(StoreError::OverQuota { own, over }) => Err((over.limit, own)),
        Err(error) => panic!("{error:?}"),
    }
}

pub(crate) async fn what_a_realm_holds_is_counted_and_bounded(scene: Scene) {
    let none = MetadataQuota::NONE;
    let three = MetadataQuota { items: 3, ..none };
    let made = vec![folder(1, "a"), file_in(2, "b", "a"), file_in(3, "c", "a")];
    assert_eq!(within_quota(&scene, "alice", three, made).await, Ok(3));
    let more = vec![link(4, "link_add", "c", "b"), folder(5, "d"), folder(6, "e")];
    let refused = within_quota(&scene, "alice", three, more.clone()).await;
    assert_eq!(refused, Err(("maxItems", true)));
    // What came before it in the push was applied, and nothing after it.
    let state = scene.store.state(&user("alice"), &replica("laptop")).await.unwrap();
    assert_eq!(state.last_write_ids, write_ids(&[("laptop", 4)]));
    let four = MetadataQuota { items: 4, links: 3, ..none };
    assert_eq!(within_quota(&scene, "alice", four, vec![folder(5, "d")]).await, Ok(1));
    // Three links there are; a change of one takes no room, nor does a deletion.
    let change = vec![link(6, "link_remove", "c", "b"), delete(7, "c")];
    let change = change.into_iter().map(|mut op| {
        op["occurredAt"] = json!("2026-01-01T00:00:50Z");
        op
    });
    assert_eq!(within_quota(&scene, "alice", four, change.collect()).await, Ok(2));
    let over = within_quota(&scene, "alice", four, vec![link(8, "link_add", "d", "b")]).await;
    assert_eq!(over, Err(("maxLinks", true)));
    let over = within_quota(&scene, "alice", four, vec![link(8, "link_reassign", "d", "b")]).await;
    assert_eq!(over, Err(("maxLinks", true)));
    let over = within_quota(&scene, "alice", four, vec![link(8, "link_remove", "d", "b")]).await;
    assert_eq!(over, Err(("maxLinks", true)));
    let grants = MetadataQuota { grants: 1, ..none };
    let given = vec![json!({"opType": "acl_add", "writeId": 8, "itemId": "a",
        "principalType": "user", "principalId": "bob", "accessLevel": "write"})];
    assert_eq!(within_quota(&scene, "alice", grants, given).await, Ok(1));
    let over = within_quota(&scene, "alice", grants, vec![grant(9, "a", "carol")]).await;
    assert_eq!(over, Err(("maxGrants", true)));
    // What others write into a realm counts against its owner, and is not told in numbers.
    let over = within_quota(&scene, "bob", four, vec![file_in(1, "x", "a")]).await;
    assert_eq!(over, Err(("maxItems", false)));
    assert_eq!(within_quota(&scene, "bob", four, vec![folder(1, "mine")]).await, Ok(1));
    // What is purged and forgotten leaves room.
    let c = vfs_sync_core::id::ItemId::new("c").unwrap();
    scene.store.purge(&user("alice"), &c, false, scene.now()).await.unwrap();
    while scene.store.purge_step(at(0), at(900_000), scene.now(), 10).await.unwrap() > 0 {}
    let last = MetadataQuota { items: 4, links: 3, ..none };
    let made = vec![file_in(9, "e", "a")];
    assert_eq!(within_quota(&scene, "alice", last, made).await, Ok(1));
    let over = within_quota(&scene, "alice", last, vec![folder(10, "f")]).await;
    assert_eq!(over, Err(("maxItems", true)));
}

pub(crate) async fn the_bytes_of_registers_are_bounded(scene: Scene) {
    let note = |write_id: u64, id: &str, bytes: usize| {
        json!({"opType": "item_upsert", "writeId": write_id, "itemId": id, "objectType": "note",
            "encryptedPayload": "A".repeat(bytes), "keyEpoch": 1,
            "occurredAt": format!("2026-01-01T00:00:{write_id:02}Z")})
    };
    let quota = MetadataQuota { bytes: 1_000, ..MetadataQuota::NONE };
    let made = vec![note(1, "a", 600), note(2, "b", 400)];
    assert_eq!(within_quota(&scene, "alice", quota, made).await, Ok(2));
    let over = within_quota(&scene, "alice", quota, vec![note(3, "b", 404)]).await;
    assert_eq!(over, Err(("maxRegisterBytes", true)));
    let less = vec![note(3, "b", 200), note(4, "c", 200)];
    assert_eq!(within_quota(&scene, "alice", quota, less).await, Ok(2));
    let over = within_quota(&scene, "alice", quota, vec![note(5, "d", 4)]).await;
    assert_eq!(over, Err(("maxRegisterBytes", true)));
    let bin = json!({"opType": "item_delete", "writeId": 5, "itemId": "a",
        "occurredAt": "2026-01-01T00:00:55Z"});
    assert_eq!(within_quota(&scene, "alice", quota, vec![bin]).await, Ok(1));
    let a = vfs_sync_core::id::ItemId::new("a").unwrap();
    scene.store.purge(&user("alice"), &a, false, scene.now()).await.unwrap();
    assert_eq!(within_quota(&scene, "alice", quota, vec![note(6, "d", 600)]).await, Ok(1));
}

pub(crate) async fn a_user_has_so_many_replicas_and_no_more(scene: Scene) {
    let quota = MetadataQuota { replicas: 2, ..MetadataQuota::NONE };
    let push = async |from: &str, id: &str, write_id| {
        let batch = batch("alice", from, vec![folder(write_id, id)]).with_quota(quota);
        scene.store.push(batch, scene.now()).await
    };
    push("one", "a", 1).await.unwrap();
    push("two", "b", 1).await.unwrap();
    let refused = push("three", "c", 1).await.unwrap_err();
    let StoreError::OverQuota { own: true, over } = refused else { panic!("{refused:?}") };
    assert_eq!((over.limit, over.max, over.wanted), ("maxReplicas", 2, 3));
    push("one", "d", 2).await.unwrap();
}

pub(crate) async fn so_many_results_of_a_replica_are_kept_and_no_more(scene: Scene) {
    let push = async |from: &str, operations: Vec<Value>, results| {
        let quota = MetadataQuota { results, ..MetadataQuota::NONE };
        let batch = batch("alice", from, operations).with_quota(quota);
        let answer = scene.store.push(batch, scene.now()).await.unwrap();
        answer.results.iter().map(|one| one.status).collect::<Vec<_>>()
    };
    let one = |n: u64| vec![folder(n, &format!("f{n}"))];
    let many = (1..=20).flat_map(one).collect::<Vec<_>>();
    assert_eq!(push("laptop", many, u64::MAX).await, [PushStatus::Applied; 20]);
    push("phone", vec![folder(1, "p")], 4).await;
    // A push forgets no more than twice as many as it adds, the oldest first.
    assert_eq!(push("laptop", one(21), 4).await, [PushStatus::Applied]);
    let repeated = |from, to| (from..=to).flat_map(one).collect::<Vec<_>>();
    assert_eq!(push("laptop", repeated(2, 2), 4).await, [PushStatus::StaleWriteId]);
    assert_eq!(push("laptop", repeated(3, 21), 4).await, [PushStatus::AlreadyApplied; 19]);
    assert_eq!(push("laptop", repeated(22, 41), 4).await, [PushStatus::Applied; 20]);
    assert_eq!(push("laptop", repeated(38, 41), 4).await, [PushStatus::AlreadyApplied; 4]);
    assert_eq!(push("laptop", repeated(37, 37), 4).await, [PushStatus::StaleWriteId]);
    assert_eq!(push("phone", vec![folder(1, "p")], 4).await, [PushStatus::AlreadyApplied]);
    // Retention goes on with what is left.
    let all = Retention { removals_before: at(0), accepted_before: at(100_000), at_most: 1_000 };
    assert_eq!(scene.store.prune(all).await.unwrap().accepted, 5);
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

/// The number of entries that views ever took.
async fn rows(scene: &Scene) -> u64 {
    scene.store.totals().await.unwrap().feed_positions
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
    let grown = rows(&scene).await;
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
pub(crate) async fn who_granted_too_much_before_the_first_call_is_listed(scene: Scene) {
    scene.apply("laptop", vec![folder(1, "a"), folder(2, "b")]).await;
    scene.apply("laptop", vec![grant(3, "a", "bob"), grant(4, "b", "bob")]).await;
    scene.apply_as("carol", "phone", vec![folder(1, "x"), grant(2, "x", "bob")]).await;
    let bob = user("bob");
    let little = Bound { rows: 3, ..Bound::OPERATION };
    scene.store.begin_feed(&bob).await.unwrap();
    for owner in ["alice", "carol"] {
        scene.store.give_effect(&bob, user(owner), little).await.unwrap();
    }
    let client = replica("phone");
    let withheld = async || scene.store.state(&bob, &client).await.unwrap().withheld_owners;
    assert_eq!(withheld().await, [user("alice")]);
    assert_eq!(shown(&scene, "bob").await, ["item_upsert x", "acl_add x"]);
    // The next grant has it tried again.
    scene.apply("laptop", vec![grant(5, "b", "bob")]).await;
    let mut shown = shown(&scene, "bob").await;
    shown.sort_unstable();
    assert_eq!(
        shown,
        ["acl_add a", "acl_add b", "acl_add x", "item_upsert a", "item_upsert b", "item_upsert x"]
    );
    assert_eq!(withheld().await, []);
}

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

/// The store loads nothing without being large.
async fn a_large_call_comes_back_and_changes_nothing_before_it_is_run_as_one(
    store: &dyn MetadataStore,
) {
    store.push(batch("alice", "laptop", vec![folder(1, "a")]), at(1)).await.unwrap();
    let batch = batch("alice", "laptop", vec![delete(2, "a")]);
    let push = Call::Push(vfs_sync_store::command::Push { batch, now: at(2) });
    let Err(push) = store.call_if_small(push).await.unwrap() else { panic!("it is large") };
    let state = async || store.state(&user("alice"), &replica("laptop")).await.unwrap();
    assert_eq!(state().await.last_write_ids, write_ids(&[("laptop", 1)]));
    let Reply::Push(answer) = store.call_large(push).await.unwrap() else { panic!("no push") };
    assert_eq!(answer.response.results.len(), 1);
    assert_eq!(state().await.last_write_ids, write_ids(&[("laptop", 2)]));
    // A call that only reads, or writes little by its nature, is never large.
    store.call_if_small(Call::Ping(vfs_sync_store::command::Ping {})).await.unwrap().unwrap();
}

/// Less than the memory that it takes to show a folder of 20 files to one user.
const LITTLE_MEMORY: usize = 20_000;

/// Shows a folder with too little memory and with enough, and hides it with too little.
async fn a_change_that_has_no_memory_waits(little: impl MetadataStore, enough: impl MetadataStore) {
    let little = Scene::new(std::sync::Arc::new(little));
    let enough = Scene::new(std::sync::Arc::new(enough));
    folder_of_20(&enough).await;
    let shows = || batch("alice", "laptop", vec![folder(22, "b"), grant(23, "a", "bob")]);
    let refused = little.store.push(shows(), at(100)).await;
    assert!(matches!(refused, Err(StoreError::NoMemory)), "{refused:?}");
    assert!(shown(&enough, "bob").await.is_empty());
    let before = little.store.state(&user("alice"), &replica("laptop")).await.unwrap();
    assert_eq!(before.last_write_ids, write_ids(&[("laptop", 22)]), "the one before is applied");
    little.apply("phone", vec![folder(1, "c")]).await;
    // Who comes for the first time is not kept out by who shows too much.
    enough.apply("laptop", vec![grant(24, "a", "carol")]).await;
    assert!(shown(&little, "carol").await.is_empty());
    let state = little.store.state(&user("carol"), &replica("laptop")).await.unwrap();
    assert_eq!(state.withheld_owners, [user("alice")]);
    enough.apply("laptop", vec![grant(25, "a", "bob")]).await;
    assert_eq!(shown(&enough, "bob").await.len(), 43, "with the grants to both");
    // What narrows a view has memory enough.
    let hides = batch("alice", "laptop", vec![revoke(26, "a", "bob")]);
    let answer = little.store.push(hides, at(101)).await.unwrap();
    assert_eq!(outcome(answer.results.last().unwrap()), APPLIED, "{answer:?}");
    assert!(shown(&enough, "bob").await.is_empty());
}

#[tokio::test]
async fn a_change_that_has_no_memory_waits_on_sqlite() {
    for large in [0, 10_000] {
        let directory = tempfile::tempdir().unwrap();
        let database = directory.path().join("db");
        let open = || SqliteStore::open(&database, at(0)).unwrap().large_beyond(large);
        a_change_that_has_no_memory_waits(open().plans_within(LITTLE_MEMORY), open()).await;
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_change_that_has_no_memory_waits_on_postgres() {
    let url = new_postgres_database().await.unwrap();
    let open = async || PostgresStore::connect(&url, at(0)).await.unwrap();
    let (little, enough) = (open().await.plans_within(LITTLE_MEMORY), open().await);
    a_change_that_has_no_memory_waits(little, enough).await;
}

#[tokio::test]
async fn a_large_call_comes_back_on_sqlite() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&directory.path().join("db"), at(0)).unwrap().large_beyond(0);
    assert_eq!(store.capacity().large, Some(1));
    a_large_call_comes_back_and_changes_nothing_before_it_is_run_as_one(&store).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_large_call_comes_back_on_postgres() {
    let url = new_postgres_database().await.unwrap();
    let store = PostgresStore::connect(&url, at(0)).await.unwrap().large_beyond(0);
    assert_eq!(store.capacity().large, Some(2));
    a_large_call_comes_back_and_changes_nothing_before_it_is_run_as_one(&store).await;
}
