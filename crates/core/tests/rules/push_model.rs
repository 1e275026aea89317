//! Random pushes against a from-scratch model: what a replica folds from its feed, at any lag and
//! page size, is exactly what a query of everything says that the user may see.
//!

//! `VFS_SYNC_TEST_CASES` says how many histories to play.

use crate::world::{Database, Replica, at, cases, item};
use proptest::prelude::*;
use vfs_sync_core::access::{AccessLevel, Principal, PrincipalType};
use vfs_sync_core::id::{OpId, PrincipalId, ReplicaId, UserId, WriteId};
use vfs_sync_core::item::{Name, ObjectType};
use vfs_sync_core::operation::{Action, Operation, Upsert};
use vfs_sync_core::register::Item;
use vfs_sync_core::wire::{PushReason, PushResponse, PushStatus};

/// One step of a random history; ids, times and choices are small numbers, so that they collide.
#[derive(Debug, Clone)]
enum Step {
    Push { replica: usize, ops: Vec<(u8, u8, u8, i64)> },
    Pull { replica: usize, limit: usize },
    Clock(i64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let op = (0u8..14, 0u8..7, 0u8..7, -40i64..80);
    let step = prop_oneof![
        4 => (0usize..3, prop::collection::vec(op, 1..6)).prop_map(|(replica, ops)| Step::Push { replica, ops }),
        2 => (0usize..3, 1usize..5).prop_map(|(replica, limit)| Step::Pull { replica, limit }),
        1 => (-20i64..60).prop_map(Step::Clock),
    ];
    prop::collection::vec(step, 1..60)
}

fn action((kind, a, b, _): (u8, u8, u8, i64)) -> Action {
    let (parent, child) = (item(a), item(b));
    let parent = if parent == child { item(a + 10) } else { parent };
    let upsert = |upsert| Action::Upsert(Box::new(upsert));
    match kind {
        0..=2 => upsert(Upsert {
            object_type: Some(ObjectType::Folder),
            name: Some(Name::new(format!("n{a}")).unwrap()),
            parent: (kind < 2).then_some(parent),
            ..Upsert::default()
        }),
        3 => {
            upsert(Upsert { name: Some(Name::new(format!("m{a}")).unwrap()), ..Upsert::default() })
        }
        4 => upsert(Upsert {
            metadata: [(format!("k{}", a % 2).into(), (a % 3 > 0).then(|| a.into()))].into(),
            ..Upsert::default()
        }),
        5 | 6 => Action::Delete,
        7 | 8 => Action::LinkAdd { parent },
        9 => Action::LinkRemove { parent },
        10 | 11 => Action::LinkReassign { parent },
        _ => {
            let principal = Principal {
                kind: PrincipalType::User,
                id: PrincipalId::new(format!("p{a}")).unwrap(),
            };
            if kind == 12 {
                Action::GrantAdd { principal, level: AccessLevel::Read }
            } else {
                Action::GrantRemove { principal }
            }
        }
    }
}

/// What has seen the feed up to `position`, if it tells.
fn operation_after(
    replica: &str,
    write_id: u64,
    spec: (u8, u8, u8, i64),
    now: i64,
    position: u64,
) -> Operation {
    let basis = (!spec.1.is_multiple_of(3)).then(|| Database::basis(position));
    Operation { basis, ..operation(replica, write_id, spec, now) }
}

fn operation(replica: &str, write_id: u64, spec: (u8, u8, u8, i64), now: i64) -> Operation {
    Operation {
        op_id: OpId::new(format!("{replica}-{write_id}-{spec:?}")).unwrap(),
        item_id: item(spec.2),
        replica_id: ReplicaId::new(replica).unwrap(),
        write_id: WriteId::new(write_id).unwrap(),
        occurred_at: at(now + spec.3),
        basis: None,
        action: action(spec),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(1_500), ..ProptestConfig::default() })]

    #[test]
    fn every_replica_at_any_lag_is_what_a_query_from_scratch_says(steps in steps()) {
        let names = ["a", "b", "c"];
        let mut database = Database::new();
        let mut replicas = [(); 3].map(|()| Replica::of("u"));
        let mut following = Replica::following("u");
        let mut next = [1u64; 3];
        for step in steps {
            match step {
                Step::Clock(by) => database.now += by,
                Step::Pull { replica, limit } => {
                    replicas[replica].pull(&database, limit);
                }
                Step::Push { replica, ops } => {
                    let operations: Vec<_> = ops
                        .into_iter()
                        .map(|spec| {
                            next[replica] += 1;
                            let position = replicas[replica].position;
                            operation_after(names[replica], next[replica], spec, database.now, position)
                        })
                        .collect();
                    let first = database.push(names[replica], operations.clone());
                    let before = database.view();
                    let again = database.push(names[replica], operations);
                    assert_repeated(&first, &again);
                    prop_assert_eq!(database.view(), before, "a retry changed something");
                }
            }
            database.assert_acyclic();
            Replica::of("u").settle(&database, 1_000);
            following.settle(&database, 1_000);
        }
        for replica in &mut replicas {
            replica.settle(&database, 2);
        }
    }

    /// Fields, deletion and grants: in whatever order the pushes of three replicas arrive, as long
    /// as each replica's own stay in order, one state comes of it.
    #[test]
    fn the_order_of_arrival_does_not_matter(
        ops in prop::collection::vec((0usize..3, (3u8..14, 0u8..4, 0u8..3, 0i64..50)), 1..25),
        order in prop::collection::vec(0usize..3, 40),
    ) {
        let names = ["a", "b", "c"];
        let run = |order: &[usize]| {
            let mut database = Database::new();
            let create = |n: u8| operation("z", u64::from(n) + 1, (2, 0, n, -100), database.now);
            let creations = (0..3).map(create).collect();
            database.push("z", creations);
            let mut queues: [Vec<_>; 3] = Default::default();
            for (index, (replica, spec)) in ops.iter().enumerate() {
                if !(7..=11).contains(&spec.0) {
                    let write_id = index as u64 + 1;
                    queues[*replica].push(operation(names[*replica], write_id, *spec, database.now));
                }
            }
            queues.iter_mut().for_each(|queue| queue.reverse());
            for &replica in order.iter().chain(&[0, 1, 2].repeat(25)) {
                if let Some(op) = queues[replica].pop() {
                    database.push(names[replica], vec![op]);
                }
            }
            (database.items, database.grants)
        };
        prop_assert_eq!(run(&order), run(&[]));
    }
}

fn assert_repeated(first: &PushResponse, again: &PushResponse) {
    for (first, again) in first.results.iter().zip(&again.results) {
        match first.status {
            PushStatus::Applied => {
                assert_eq!(again.status, PushStatus::AlreadyApplied);
                assert_eq!(again.authored_at, first.authored_at);
            }
            PushStatus::OutdatedOp => assert_eq!(again, first),
            // What was refused did not use up its write id: a later one of the batch did.
            _ => break,
        }
    }
}

fn push_one(database: &mut Database, op: Operation) -> (PushStatus, Option<PushReason>) {
    let replica = op.replica_id.to_string();
    let result = &database.push(&replica, vec![op]).results[0];
    (result.status, result.reason)
}

fn op(replica: &str, write_id: u64, id: u8, millis: i64, action: Action) -> Operation {
    Operation {
        op_id: OpId::new(format!("{replica}{write_id}{id}{millis}")).unwrap(),
        item_id: item(id),
        replica_id: ReplicaId::new(replica).unwrap(),
        write_id: WriteId::new(write_id).unwrap(),
        occurred_at: at(millis),
        basis: None,
        action,
    }
}

fn folder(parent: Option<u8>) -> Action {
    Action::Upsert(Box::new(Upsert {
        object_type: Some(ObjectType::Folder),
        name: Some(Name::new("f").unwrap()),
        parent: parent.map(item),
        ..Upsert::default()
    }))
}

fn rename(name: &str) -> Action {
    Action::Upsert(Box::new(Upsert { name: Some(Name::new(name).unwrap()), ..Upsert::default() }))
}

const APPLIED: (PushStatus, Option<PushReason>) = (PushStatus::Applied, None);
const SUPERSEDED: (PushStatus, Option<PushReason>) =
    (PushStatus::OutdatedOp, Some(PushReason::Superseded));
const CYCLE: (PushStatus, Option<PushReason>) = (PushStatus::OutdatedOp, Some(PushReason::Cycle));

fn scene(ops: &[(u8, Option<u8>)]) -> Database {
    let mut database = Database::new();
    for (index, (id, parent)) in ops.iter().enumerate() {
        let write_id = index as u64 + 1;
        assert_eq!(push_one(&mut database, op("z", write_id, *id, 1, folder(*parent))), APPLIED);
    }
    database
}

#[test]
fn of_two_moves_into_each_other_one_wins() {
    let mut database = scene(&[(0, None), (1, None)]);
    let (a_under_b, b_under_a) =
        (Action::LinkReassign { parent: item(1) }, Action::LinkReassign { parent: item(0) });
    assert_eq!(push_one(&mut database, op("a", 1, 0, 1_000, a_under_b)), APPLIED);
    assert_eq!(push_one(&mut database, op("b", 1, 1, 1_001, b_under_a)), CYCLE);
    database.assert_acyclic();
}

#[test]
fn a_dead_link_cannot_close_a_cycle_on_revival() {
    let mut database = scene(&[(0, None), (1, Some(0))]);
    assert_eq!(push_one(&mut database, op("a", 1, 1, 1_000, Action::Delete)), APPLIED);
    let under_the_dead = Action::LinkAdd { parent: item(1) };
    assert_eq!(push_one(&mut database, op("a", 2, 0, 1_001, under_the_dead)), CYCLE);
    assert_eq!(push_one(&mut database, op("a", 3, 1, 1_002, rename("back"))), APPLIED);
    database.assert_acyclic();
}

#[test]
fn a_cycle_within_one_push_is_found() {
    let mut database = Database::new();
    let ops = vec![
        op("a", 1, 0, 1_000, folder(None)),
        op("a", 2, 1, 1_000, folder(Some(0))),
        op("a", 3, 0, 1_000, Action::LinkReassign { parent: item(1) }),
    ];
    let results = database.push("a", ops).results;
    assert_eq!(results[2].reason, Some(PushReason::Cycle));
}

#[test]
fn a_link_that_arrives_later_than_a_newer_move_is_superseded() {
    let mut database = scene(&[(0, None), (1, None), (2, None)]);
    let moved = Action::LinkReassign { parent: item(1) };
    assert_eq!(push_one(&mut database, op("a", 1, 2, 1_000, moved)), APPLIED);
    let late = Action::LinkAdd { parent: item(0) };
    assert_eq!(push_one(&mut database, op("b", 1, 2, 900, late)), SUPERSEDED);
}

#[test]
fn a_move_leaves_links_alone_that_were_made_later() {
    let mut database = scene(&[(0, None), (1, None), (2, Some(0))]);
    let linked = Action::LinkAdd { parent: item(1) };
    assert_eq!(push_one(&mut database, op("a", 1, 2, 1_000, linked)), APPLIED);
    database.push("z", vec![op("z", 9, 3, 1, folder(None))]);
    let moved = Action::LinkReassign { parent: item(3) };
    assert_eq!(push_one(&mut database, op("b", 1, 2, 500, moved)), APPLIED);
    let parents: Vec<_> =
        database.view().into_keys().filter(|key| key.starts_with("link")).collect();
    assert_eq!(parents, ["link i1 i2", "link i3 i2"]);
}

#[test]
fn an_edit_later_than_a_deletion_that_its_author_had_not_seen_brings_the_item_back_whole() {
    let mut database = scene(&[(0, None), (1, Some(0)), (2, Some(1))]);
    let before = database.view();
    assert_eq!(push_one(&mut database, op("a", 1, 1, 1_000, Action::Delete)), APPLIED);
    assert_eq!(database.view().len(), 2, "what hung under it is unfiled");
    assert_eq!(push_one(&mut database, op("b", 1, 1, 1_001, rename("f"))), APPLIED);
    assert_eq!(database.view(), before);
    assert_eq!(push_one(&mut database, op("a", 2, 1, 1_000, Action::Delete)), SUPERSEDED);
}

#[test]
fn one_device_dated_2036_wins_for_no_longer_than_a_minute() {
    let mut database = scene(&[(0, None)]);
    let ahead = op("fast", 1, 0, 2_000_000_000_000, rename("future"));
    let result = database.push("fast", vec![ahead]).results.remove(0);
    assert_eq!(result.authored_at, Some(at(61_000)), "its clock is told");
    assert_eq!(push_one(&mut database, op("b", 1, 0, 60_000, rename("now"))), SUPERSEDED);
    database.now = 62_000;
    assert_eq!(push_one(&mut database, op("b", 2, 0, 61_001, rename("now"))), APPLIED);
}

#[test]
fn when_the_servers_clock_steps_back_an_honest_edit_keeps_its_time() {
    let mut database = scene(&[(0, None)]);
    database.now = 5_000_000;
    assert_eq!(push_one(&mut database, op("a", 1, 0, 5_000_000, rename("x"))), APPLIED);
    database.now = 1_400_000;
    let seen_x = op("b", 1, 0, 5_000_001, rename("after x"));
    let result = database.push("b", vec![seen_x]).results.remove(0);
    assert_eq!(result.authored_at, Some(at(5_000_001)));
}

#[test]
fn several_edits_of_one_replica_in_one_millisecond_all_apply_in_its_order() {
    let mut database = scene(&[(0, None)]);
    let ops = (1..=5).map(|n| op("a", n, 0, 1_000, rename(&format!("n{n}")))).collect();
    assert!(database.push("a", ops).results.iter().all(|r| r.status == PushStatus::Applied));
    assert!(database.view()["item i0"].contains("n5"));
}

#[test]
fn two_devices_delete_the_same_thing_and_nothing_is_rejected() {
    let mut database = scene(&[(0, None), (1, Some(0))]);
    for (replica, millis) in [("a", 1_000), ("b", 1_001)] {
        for (write_id, id) in [(1, 0), (2, 1)] {
            let delete = op(replica, write_id, id, millis, Action::Delete);
            assert_eq!(push_one(&mut database, delete), APPLIED);
        }
    }
    assert!(database.view().is_empty());
}

#[test]
fn what_is_made_under_a_folder_that_was_deleted_meanwhile_is_not_lost() {
    let mut database = scene(&[(0, None)]);
    assert_eq!(push_one(&mut database, op("a", 1, 0, 1_000, Action::Delete)), APPLIED);
    assert_eq!(push_one(&mut database, op("b", 1, 1, 990, folder(Some(0)))), APPLIED);
    assert_eq!(database.view().into_keys().collect::<Vec<_>>(), ["item i1"]);
}

#[test]
fn a_replica_that_lost_its_state_gets_stale_write_ids_and_nothing_later_is_decided() {
    let mut database = scene(&[(0, None), (1, None)]);
    let again = vec![op("z", 1, 5, 2_000, folder(None)), op("z", 7, 6, 2_000, folder(None))];
    let results = database.push("z", again).results;
    for result in results {
        assert_eq!(result.status, PushStatus::StaleWriteId);
        assert_eq!(result.last_write_id, WriteId::new(2));
    }
    assert_eq!(database.items.len(), 2);
}

#[test]
fn linking_under_what_is_not_there_or_is_not_ones_own_is_refused_the_same_way() {
    let mut database = scene(&[(0, None)]);
    let stranger = UserId::new("v").unwrap();
    let theirs = Item { owner: stranger, ..database.items[&item(0)].clone() };
    database.items.insert(item(1), theirs);
    let mut results = Vec::new();
    for (write_id, parent) in [(1, 1), (2, 9)] {
        results.push(push_one(
            &mut database,
            op("a", write_id, 0, 1_000, Action::LinkAdd { parent: item(parent) }),
        ));
        results.push(push_one(&mut database, op("a", write_id, parent, 1_000, rename("mine"))));
        results.push(push_one(&mut database, op("a", write_id, parent, 1_000, Action::Delete)));
        results.push(push_one(&mut database, op("a", write_id, 20, 1_000, folder(Some(parent)))));
    }
    let unknown = (PushStatus::InvalidOp, Some(PushReason::UnknownItem));
    assert_eq!(results, [unknown; 8]);
    assert_eq!(
        push_one(&mut database, op("a", 3, 1, 1_000, folder(None))),
        (PushStatus::InvalidOp, Some(PushReason::NotPermitted)),
        "creating under an id that is taken"
    );
}

#[test]
fn rename_here_and_new_metadata_there_both_stay() {
    let mut database = scene(&[(0, None)]);
    let touch = |key: &str| {
        Action::Upsert(Box::new(Upsert {
            metadata: [(key.into(), Some(1.into()))].into(),
            ..Upsert::default()
        }))
    };
    assert_eq!(push_one(&mut database, op("a", 1, 0, 1_000, rename("new"))), APPLIED);
    assert_eq!(push_one(&mut database, op("b", 1, 0, 1_000, touch("mtime"))), APPLIED);
    let text = &database.view()["item i0"];
    assert!(text.contains("new") && text.contains("mtime"), "{text}");
}

#[test]
fn metadata_is_bounded_in_the_merged_item() {
    let mut database = scene(&[(0, None)]);
    let keys = |range: std::ops::Range<u32>| {
        Action::Upsert(Box::new(Upsert {
            metadata: range.map(|n| (format!("k{n}").into(), Some(n.into()))).collect(),
            ..Upsert::default()
        }))
    };
    assert_eq!(push_one(&mut database, op("a", 1, 0, 1_000, keys(0..40))), APPLIED);
    let before = database.view();
    let refused = (PushStatus::InvalidOp, Some(PushReason::Malformed));
    assert_eq!(push_one(&mut database, op("a", 2, 0, 1_001, keys(30..70))), refused);
    assert_eq!(database.view(), before);
}
