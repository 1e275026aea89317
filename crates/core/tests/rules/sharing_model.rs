//! Random histories of several users who share, against a from-scratch model: whoever sees what is
//! what a query of everything says, for replicas at any lag; and every operation that is refused
//! for lack of rights is one that a look at everything refuses as well.
//!

//! `VFS_SYNC_TEST_CASES` says how many histories to play, of some 50 steps each.

use std::collections::BTreeSet;

use crate::world::{Database, Replica, at, cases, item, user};
use proptest::prelude::*;
use vfs_sync_core::access::{AccessLevel, Principal, PrincipalType};
use vfs_sync_core::id::{ItemId, OpId, PrincipalId, ReplicaId, WriteId};
use vfs_sync_core::item::{Name, ObjectType};
use vfs_sync_core::operation::{Action, Operation, Upsert};
use vfs_sync_core::wire::{PushReason, PushResult, PushStatus};

const USERS: [&str; 4] = ["u", "v", "w", "x"];
const ITEMS: u8 = 10;

fn principal(n: u8) -> Principal {
    let (kind, name) = match n % 7 {
        n @ 0..=3 => (PrincipalType::User, USERS[usize::from(n)]),
        4 => (PrincipalType::Group, "g"),
        5 => (PrincipalType::Group, "h"),
        _ => (PrincipalType::Organization, "g"),
    };
    Principal { kind, id: PrincipalId::new(name).unwrap() }
}

#[derive(Debug, Clone)]
struct Op {
    kind: u8,
    a: u8,
    b: u8,
    millis: i64,
    /// Whether it says what its author had seen.
    tells: bool,
}

#[derive(Debug, Clone)]
enum Step {
    Push { who: usize, ops: Vec<Op> },
    Member { who: usize, group: u8, present: bool },
    Block { who: usize, owner: usize, blocked: bool },
    Pull { replica: usize, limit: usize },
    Clock(i64),
}

fn op(kind: u8, a: u8, b: u8) -> Op {
    Op { kind, a, b, millis: 0, tells: false }
}

/// What every history begins with: three trees, with grants at random.
fn trees(grants: &[(u8, u8)]) -> Vec<Step> {
    let mut steps = vec![
        Step::Push { who: 0, ops: vec![op(3, 0, 0), op(0, 0, 1), op(0, 1, 2), op(0, 0, 3)] },
        Step::Push { who: 1, ops: vec![op(3, 0, 4), op(0, 4, 5), op(0, 4, 6)] },
        Step::Push { who: 2, ops: vec![op(3, 0, 7)] },
        Step::Member { who: 3, group: 4, present: true },
    ];
    for (to, on) in grants {
        let who = usize::from(*on >= 4) + usize::from(*on >= 7);
        steps.push(Step::Push { who, ops: vec![op(14, *to, *on)] });
    }
    steps
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let grant = (14u8..20, 0u8..21, 0u8..ITEMS, -20i64..60);
    let other = (0u8..14, 0u8..ITEMS, 0u8..ITEMS, -20i64..60);
    let op = prop_oneof![1 => grant, 3 => other];
    let op = (op, any::<bool>());
    let op = op.prop_map(|((kind, a, b, millis), tells)| Op { kind, a, b, millis, tells });
    let step = prop_oneof![
        12 => (0..USERS.len(), prop::collection::vec(op.clone(), 1)).prop_map(|(who, ops)| Step::Push { who, ops }),
        4 => (0..USERS.len(), prop::collection::vec(op, 2..6)).prop_map(|(who, ops)| Step::Push { who, ops }),
        2 => (0..USERS.len(), 4u8..7, any::<bool>()).prop_map(|(who, group, present)| Step::Member { who, group, present }),
        2 => (0..USERS.len(), 0..USERS.len(), any::<bool>()).prop_map(|(who, owner, blocked)| Step::Block { who, owner, blocked }),
        3 => (0..USERS.len(), 1usize..6).prop_map(|(replica, limit)| Step::Pull { replica, limit }),
        1 => (0i64..60).prop_map(Step::Clock),
    ];
    let grants = prop::collection::vec((0u8..21, 0u8..8), 0..6);
    (grants, prop::collection::vec(step, 1..100)).prop_map(|(grants, steps)| {
        let mut all = trees(&grants);
        all.extend(steps);
        all
    })
}

fn action(op: &Op) -> Action {
    let (mut parent, child) = (item(op.a), item(op.b));
    if parent == child {
        parent = item((op.a + 1) % ITEMS);
    }
    let upsert = |upsert| Action::Upsert(Box::new(upsert));
    let level = [AccessLevel::Read, AccessLevel::Write, AccessLevel::Admin][usize::from(op.a / 7)];
    match op.kind {
        0..=3 => upsert(Upsert {
            object_type: Some(ObjectType::Folder),
            name: Some(Name::new(format!("n{}", op.a)).unwrap()),
            parent: (op.kind < 3).then_some(parent),
            ..Upsert::default()
        }),
        4 => upsert(Upsert {
            name: Some(Name::new(format!("m{}", op.a)).unwrap()),
            ..Upsert::default()
        }),
        5 | 6 => Action::Delete,
        7..=9 => Action::LinkAdd { parent },
        10 => Action::LinkRemove { parent },
        11..=13 => Action::LinkReassign { parent },
        14..=17 => Action::GrantAdd { principal: principal(op.a), level },
        _ => Action::GrantRemove { principal: principal(op.a) },
    }
}

/// What a look at everything says of an operation's rights.
fn expected_refusal(database: &Database, who: &str, op: &Operation) -> Option<PushReason> {
    let who = user(who);
    let level = |id: &ItemId| database.level(&who, id, true);
    let needs = |id: &ItemId, needed: AccessLevel| match level(id) {
        None => Some(PushReason::UnknownItem),
        Some(level) if level < needed => Some(PushReason::NotPermitted),
        Some(_) => None,
    };
    let id = &op.item_id;
    match &op.action {
        Action::Upsert(upsert) if !database.items.contains_key(id) => match &upsert.parent {
            _ if upsert.object_type.is_none() => Some(PushReason::UnknownItem),
            Some(parent) => needs(parent, AccessLevel::Write),
            None => None,
        },
        Action::Upsert(upsert) if upsert.object_type.is_some() => {
            let parent = upsert.parent.as_ref().filter(|parent| level(parent).is_some());
            let owner = parent.map_or(&who, |parent| &database.items[parent].owner);
            let taken = database.items[id].owner != *owner;
            let refused = taken || needs(id, AccessLevel::Write).is_some();
            refused.then_some(PushReason::NotPermitted)
        }
        Action::Upsert(_) => needs(id, AccessLevel::Write),
        Action::GrantRemove { principal } if principal.user().as_ref() == Some(&who) => {
            needs(id, AccessLevel::Read)
        }
        Action::Delete => {
            let parents = database.parents(id);
            let writes = |parent: &ItemId| level(parent) >= Some(AccessLevel::Write);
            let by_parents = !parents.is_empty() && parents.iter().all(writes);
            needs(id, if by_parents { AccessLevel::Write } else { AccessLevel::Admin })
        }
        Action::GrantAdd { .. } | Action::GrantRemove { .. } => needs(id, AccessLevel::Admin),
        Action::LinkRemove { parent } => needs(parent, AccessLevel::Write).or_else(|| {
            let link = database.links.get(&(parent.clone(), id.clone()));
            let there = link.is_some_and(|link| link.register.value);
            let last = database.parents(id) == BTreeSet::from([parent.clone()]);
            match (there, last) {
                (false, _) => needs(id, AccessLevel::Read),
                (true, true) => needs(id, AccessLevel::Admin),
                (true, false) => None,
            }
        }),
        Action::LinkAdd { parent } | Action::LinkReassign { parent } => {
            let refused = needs(parent, AccessLevel::Write);
            let refused = refused.or_else(|| needs(id, AccessLevel::Read));
            let owner = |id: &ItemId| &database.items[id].owner;
            if refused.is_some() || owner(parent) != owner(id) {
                return refused;
            }
            let reaches = |id: &ItemId| {
                let lineage = database.lineage(id, true);
                let grants = database.grants.iter().filter(|(_, grant)| grant.value.is_some());
                let all = grants.map(|(key, _)| key).filter(|(at, _)| lineage.contains(at));
                all.cloned().collect::<BTreeSet<_>>()
            };
            let widens = !reaches(parent).is_subset(&reaches(id));
            needs(id, if widens { AccessLevel::Admin } else { AccessLevel::Write })
        }
    }
}

/// Whether a look at everything says that the author of a deletion had not seen what it deletes.
fn expected_unseen(database: &Database, who: &str, op: &Operation, seen: u64) -> bool {
    let deletes = op.basis.is_some() && op.action == Action::Delete;
    deletes
        && database.live(&op.item_id)
        && expected_refusal(database, who, op).is_none()
        && database.changed_unseen(&user(who), &op.replica_id, &op.item_id, seen)
}

fn check_rights(expected: Option<PushReason>, result: &PushResult) {
    let refused = (result.status == PushStatus::InvalidOp).then_some(result.reason).flatten();
    assert_eq!(refused, expected, "{result:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(700), ..ProptestConfig::default() })]

    #[test]
    fn every_feed_is_exactly_what_its_user_may_see(steps in steps()) {
        let mut database = Database::new();
        let mut next = [0u64; USERS.len()];
        let mut following = USERS.map(Replica::following);
        let mut lagging = USERS.map(Replica::of);
        for step in steps {
            match step {
                Step::Clock(by) => database.now += by,
                Step::Pull { replica, limit } => {
                    lagging[replica].pull(&database, limit);
                }
                Step::Member { who, group, present } => {
                    database.set_member(&principal(group), &user(USERS[who]), present);
                }
                Step::Block { who, owner, .. } if who == owner => {}
                Step::Block { who, owner, blocked } => {
                    database.set_block(&user(USERS[who]), &user(USERS[owner]), blocked);
                }
                Step::Push { who, ops } => {
                    let operations: Vec<_> = ops.iter().map(|op| {
                        next[who] += 1;
                        Operation {
                            op_id: OpId::new(format!("{who}-{}", next[who])).unwrap(),
                            item_id: item(op.b),
                            replica_id: ReplicaId::new("r").unwrap(),
                            write_id: WriteId::new(next[who]).unwrap(),
                            occurred_at: at(database.now + op.millis),
                            basis: op.tells.then(|| Database::basis(lagging[who].position)),
                            action: action(op),
                        }
                    }).collect();
                    let only = (operations.len() == 1)
                        .then(|| expected_refusal(&database, USERS[who], &operations[0]));
                    let unseen = (operations.len() == 1)
                        .then(|| expected_unseen(&database, USERS[who], &operations[0], lagging[who].position));
                    let response = database.push_as(USERS[who], "r", operations);
                    if let Some(expected) = unseen {
                        let unseen = response.results[0].reason == Some(PushReason::Unseen);
                        assert_eq!(unseen, expected, "{:?}", response.results[0]);
                    }
                    if let Some(expected) = only {
                        check_rights(expected, &response.results[0]);
                    }
                }
            }
            database.assert_acyclic();
            for (who, following) in USERS.iter().zip(&mut following) {
                following.settle(&database, 1_000);
                Replica::of(who).settle(&database, 1_000);
            }
        }
        for lagging in &mut lagging {
            lagging.settle(&database, 2);
        }
    }
}

fn made(who: &str, write_id: u64, id: u8, action: Action) -> Operation {
    Operation {
        op_id: OpId::new(format!("{who}{write_id}")).unwrap(),
        item_id: item(id),
        replica_id: ReplicaId::new("r").unwrap(),
        write_id: WriteId::new(write_id).unwrap(),
        occurred_at: at(1_000),
        basis: None,
        action,
    }
}

fn folder(parent: Option<u8>) -> Action {
    Action::Upsert(Box::new(Upsert {
        object_type: Some(ObjectType::Folder),
        parent: parent.map(item),
        ..Upsert::default()
    }))
}

fn parents_of(database: &Database, child: u8) -> Vec<String> {
    let links =
        database.links.iter().filter(|(key, link)| key.1 == item(child) && link.register.value);
    links.map(|((parent, _), _)| parent.to_string()).collect()
}

fn applied(database: &mut Database, who: &str, ops: Vec<Operation>) {
    let results = database.push_as(who, "r", ops).results;
    assert!(results.iter().all(|one| one.status == PushStatus::Applied), "{results:?}");
}

#[test]
fn a_shortcut_that_moves_leaves_where_it_was() {
    let mut database = Database::new();
    let grant = Action::GrantAdd { principal: principal(1), level: AccessLevel::Read };
    applied(&mut database, "u", vec![made("u", 1, 0, folder(None)), made("u", 2, 0, grant)]);
    let here = vec![
        made("v", 1, 4, folder(None)),
        made("v", 2, 5, folder(None)),
        made("v", 3, 0, Action::LinkAdd { parent: item(4) }),
    ];
    applied(&mut database, "v", here);
    let there = Action::LinkReassign { parent: item(5) };
    applied(&mut database, "v", vec![made("v", 4, 0, there)]);
    assert_eq!(parents_of(&database, 0), ["i5"]);
}

/// "u" has folders 0 and 1 with 2 in both, and 3 under 1; "v" may write in 1, and 0 if `both`.
fn moved_by_a_writer(both: bool) -> Vec<String> {
    let mut database = Database::new();
    let to_v = || Action::GrantAdd { principal: principal(1), level: AccessLevel::Write };
    let mut ops = vec![
        made("u", 1, 0, folder(None)),
        made("u", 2, 1, folder(None)),
        made("u", 3, 2, folder(Some(0))),
        made("u", 4, 2, Action::LinkAdd { parent: item(1) }),
        made("u", 5, 3, folder(Some(1))),
        made("u", 6, 1, to_v()),
    ];
    if both {
        ops.push(made("u", 7, 0, to_v()));
    }
    applied(&mut database, "u", ops);
    let moved = Action::LinkReassign { parent: item(3) };
    applied(&mut database, "v", vec![made("v", 1, 2, moved)]);
    parents_of(&database, 2)
}

#[test]
fn a_writers_move_takes_away_the_links_under_parents_that_the_writer_may_write() {
    assert_eq!(moved_by_a_writer(true), ["i3"]);
    assert_eq!(moved_by_a_writer(false), ["i0", "i3"]);
}

#[test]
fn a_shortcut_to_ones_own_item_moves_within_somebody_elses_tree() {
    let mut database = Database::new();
    let to_v = || Action::GrantAdd { principal: principal(1), level: AccessLevel::Write };
    let theirs = vec![
        made("u", 1, 0, folder(None)),
        made("u", 2, 1, folder(None)),
        made("u", 3, 0, to_v()),
        made("u", 4, 1, to_v()),
    ];
    applied(&mut database, "u", theirs);
    let link = Action::LinkAdd { parent: item(0) };
    applied(&mut database, "v", vec![made("v", 1, 5, folder(None)), made("v", 2, 5, link)]);
    let moved = Action::LinkReassign { parent: item(1) };
    applied(&mut database, "v", vec![made("v", 3, 5, moved)]);
    assert_eq!(parents_of(&database, 5), ["i1"]);
}

#[test]
fn what_is_made_in_ones_own_tree_never_goes_to_an_item_of_somebody_else() {
    let mut database = Database::new();
    // "v" has an item of the id under which "u" makes a folder, and lets "u" do anything with it.
    let to_u = Action::GrantAdd { principal: principal(0), level: AccessLevel::Admin };
    applied(&mut database, "v", vec![made("v", 1, 4, folder(None)), made("v", 2, 4, to_u)]);
    let named = |name: &str| {
        Action::Upsert(Box::new(Upsert {
            name: Some(Name::new(name).unwrap()),
            ..Upsert::default()
        }))
    };
    let push = || {
        vec![
            made("u", 1, 4, folder(None)),
            made("u", 2, 5, folder(Some(4))),
            made("u", 3, 6, folder(None)),
            made("u", 4, 4, named("private")),
            made("u", 5, 5, named("private")),
            made("u", 6, 6, Action::LinkAdd { parent: item(5) }),
        ]
    };
    let before = database.items[&item(4)].clone();
    let refused = (PushStatus::InvalidOp, Some(PushReason::NotPermitted));
    // The answer may be lost: the same again is answered the same.
    for made in [PushStatus::Applied, PushStatus::AlreadyApplied] {
        let results = database.push_as("u", "r", push()).results;
        let results: Vec<_> = results.iter().map(|one| (one.status, one.reason)).collect();
        assert_eq!(results, [refused, refused, (made, None), refused, refused, refused]);
    }
    assert_eq!(database.items[&item(4)], before);
    assert!(!database.items.contains_key(&item(5)), "it is in nobody's tree");
    assert!(parents_of(&database, 6).is_empty());
    // What is of it in a later push is of an item that one may see.
    applied(&mut database, "u", vec![made("u", 7, 4, named("shared"))]);
}

#[test]
fn what_is_made_in_a_shared_folder_never_goes_to_an_item_of_ones_own() {
    let mut database = Database::new();
    let to_v = Action::GrantAdd { principal: principal(1), level: AccessLevel::Write };
    applied(&mut database, "u", vec![made("u", 1, 0, folder(None)), made("u", 2, 0, to_v)]);
    applied(&mut database, "v", vec![made("v", 1, 4, folder(None))]);
    let results = database.push_as("v", "r", vec![made("v", 2, 4, folder(Some(0)))]).results;
    assert_eq!(results[0].reason, Some(PushReason::NotPermitted));
    // Where it is of the tree that it is made in, it is as if it were made twice.
    applied(&mut database, "v", vec![made("v", 3, 5, folder(Some(0)))]);
    let again = database.push_as("v", "r", vec![made("v", 4, 5, folder(Some(0)))]).results;
    assert_eq!(again[0].reason, None, "{again:?}");
}
