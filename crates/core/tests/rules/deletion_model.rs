//! Deletions against what others do meanwhile: a delete removes what its author saw, whoever comes
//! first.
//!

//! `VFS_SYNC_TEST_CASES` says how many histories to play.

use std::collections::{BTreeMap, BTreeSet};

use crate::world::{Database, Replica, at, cases, item, user};
use proptest::prelude::*;
use vfs_sync_core::access::{AccessLevel, Principal, PrincipalType};
use vfs_sync_core::id::{ItemId, OpId, PrincipalId, ReplicaId, WriteId};
use vfs_sync_core::item::{Name, ObjectType};
use vfs_sync_core::operation::{Action, Basis, Operation, Upsert};
use vfs_sync_core::wire::{PushReason, PushStatus};

const ROOT: u8 = 0;
const DIR: u8 = 1;
const DEEP: u8 = 2;
const ELSE: u8 = 3;
/// The files of `DIR`, then those of `DEEP`.
const FILES: [u8; 5] = [4, 5, 6, 7, 8];
/// What is made meanwhile.
const NEW: [u8; 4] = [20, 21, 22, 23];

/// The tree that everybody has seen; gives it with the position up to which "u" has.
fn tree() -> (Database, u64) {
    let mut database = Database::new();
    let places = [
        (ROOT, None),
        (DIR, Some(ROOT)),
        (DEEP, Some(DIR)),
        (ELSE, Some(ROOT)),
        (FILES[0], Some(DIR)),
        (FILES[1], Some(DIR)),
        (FILES[2], Some(DEEP)),
        (FILES[3], Some(DEEP)),
        (FILES[4], Some(DEEP)),
    ];
    let made = places
        .iter()
        .zip(1..)
        .map(|((id, parent), write_id)| op("z", write_id, 900, None, *id, create(*parent, "made")));
    database.push("z", made.collect());
    (database, seen_by("u"))
}

/// Reads everything; gives the position. The tree is the same each time.
fn seen_by(_: &str) -> u64 {
    // An entry for each item and for each link.
    9 + 8
}

fn create(parent: Option<u8>, name: &str) -> Action {
    Action::Upsert(Box::new(Upsert {
        object_type: Some(ObjectType::Folder),
        name: Some(Name::new(name).unwrap()),
        parent: parent.map(item),
        ..Upsert::default()
    }))
}

fn rename(name: &str) -> Action {
    Action::Upsert(Box::new(Upsert { name: Some(Name::new(name).unwrap()), ..Upsert::default() }))
}

fn op(
    replica: &str,
    write_id: u64,
    millis: i64,
    basis: Option<Basis>,
    id: u8,
    action: Action,
) -> Operation {
    Operation {
        op_id: OpId::new(format!("{replica}{write_id}")).unwrap(),
        item_id: item(id),
        replica_id: ReplicaId::new(replica).unwrap(),
        write_id: WriteId::new(write_id).unwrap(),
        occurred_at: at(millis),
        basis,
        action,
    }
}

/// `rm -r` of `DIR`, from the top down.
fn removal(replica: &str, millis: i64, basis: Option<Basis>) -> Vec<Operation> {
    let going = [DIR, DEEP].into_iter().chain(FILES);
    let delete = |(id, write_id)| op(replica, write_id, millis, basis.clone(), id, Action::Delete);
    going.zip(1..).map(delete).collect()
}

/// What is live, and which links between live items there are.
type Shape = (BTreeSet<ItemId>, BTreeSet<(ItemId, ItemId)>);

fn shape(database: &Database) -> Shape {
    let live = |id: &ItemId| database.live(id);
    let items = database.items.keys().filter(|id| live(id)).cloned().collect();
    let links = database.links.iter().filter(|(_, link)| link.register.value);
    let links = links.map(|(key, _)| key.clone()).filter(|(p, c)| live(p) && live(c)).collect();
    (items, links)
}

fn live(database: &Database) -> Vec<u8> {
    (0..30).filter(|id| database.live(&item(*id))).collect()
}

/// What another device does meanwhile: kind, item, place.
fn meanwhile() -> impl Strategy<Value = Vec<(u8, u8, u8)>> {
    prop::collection::vec((0u8..5, 0u8..9, 0u8..6), 1..5)
}

fn edits(replica: &str, specs: &[(u8, u8, u8)], millis: i64, seen: &Basis) -> Vec<Operation> {
    let (tree, _) = tree();
    let mut edits = Vec::new();
    for (index, (kind, id, place)) in specs.iter().enumerate() {
        let write_id = index as u64 + 1;
        let parent = [ROOT, DIR, DEEP, ELSE, NEW[0], DEEP][usize::from(*place)];
        let (id, action) = match kind {
            0 => (*id, rename(&format!("edited {index}"))),
            1 => (NEW[index], create(Some(if parent == NEW[0] { DEEP } else { parent }), "new")),
            2 => (*id, Action::LinkReassign { parent: item(parent) }),
            3 => (*id, Action::LinkAdd { parent: item(parent) }),
            _ => (*id, Action::LinkRemove { parent: item(parent) }),
        };
        // Nor one that changes nothing, or the same thing again.
        let again = edits.iter().any(|one: &Operation| one.item_id == item(id));
        let parent = action_parent(&action);
        let linked = |parent: &ItemId| tree.links.contains_key(&(parent.clone(), item(id)));
        let is_no_change = match &action {
            Action::LinkRemove { parent } => !linked(parent),
            _ => parent.as_ref().is_some_and(linked),
        };
        if parent == Some(item(id)) || again || is_no_change {
            continue;
        }
        edits.push(op(replica, write_id, millis, Some(seen.clone()), id, action));
    }
    edits
}

fn action_parent(action: &Action) -> Option<ItemId> {
    match action {
        Action::LinkReassign { parent }
        | Action::LinkAdd { parent }
        | Action::LinkRemove { parent } => Some(parent.clone()),
        _ => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(500), ..ProptestConfig::default() })]

    /// One device removes a folder; another, which has not seen that, edits, makes, moves and links
    /// in it. Whatever the clocks say and in whatever order that arrives, the same things are left,
    /// everything that was edited, made or moved among them.
    #[test]
    fn the_same_is_left_whoever_comes_first(
        specs in meanwhile(),
        clocks in (950i64..1_050, 950i64..1_050),
        order in prop::collection::vec(any::<bool>(), 20),
    ) {
        let (_, seen) = tree();
        let seen = Database::basis(seen);
        let deletes = removal("a", clocks.0, Some(seen.clone()));
        let edits = edits("b", &specs, clocks.1, &seen);
        let play = |order: &[bool]| {
            let (mut database, _) = tree();
            let (mut a, mut b) = (deletes.iter(), edits.iter());
            let mut results = BTreeMap::new();
            for first in order.iter().chain(&[true; 12]).chain(&[false; 12]) {
                let (replica, next) = if *first { ("a", a.next()) } else { ("b", b.next()) };
                let Some(next) = next else { continue };
                let answer = database.push(replica, vec![next.clone()]);
                results.insert(next.op_id.clone(), answer.results[0].status);
                database.assert_acyclic();
            }
            Replica::of("u").settle(&database, 1_000);
            (shape(&database), results)
        };
        // A folder that an edit kept, and that the next one emptied, may stay or not.
        let without_folders = |shape: &Shape| {
            let mut shape = shape.clone();
            for folder in [item(DIR), item(DEEP)] {
                shape.1.retain(|(parent, child)| *parent != folder && *child != folder);
                shape.0.remove(&folder);
            }
            shape
        };
        let (alone, _) = play(&[]);
        let (first, results) = play(&[false; 12]);
        let (mixed, _) = play(&order);
        prop_assert_eq!(without_folders(&first), without_folders(&alone), "edits first");
        prop_assert_eq!(without_folders(&mixed), without_folders(&alone), "mixed");
        if edits.len() == 1 {
            prop_assert_eq!(&first, &alone, "edits first");
            prop_assert_eq!(&mixed, &alone, "mixed");
        }
        for op in edits.iter().filter(|op| results.get(&op.op_id) == Some(&PushStatus::Applied)) {
            let saves = !matches!(op.action, Action::LinkRemove { .. });
            prop_assert!(!saves || alone.0.contains(&op.item_id), "{op:?} is lost");
        }
    }
}

fn push(database: &mut Database, replica: &str, op: Operation) -> (PushStatus, Option<PushReason>) {
    let result = &database.push(replica, vec![op]).results[0];
    (result.status, result.reason)
}

const UNSEEN: (PushStatus, Option<PushReason>) = (PushStatus::OutdatedOp, Some(PushReason::Unseen));
const APPLIED: (PushStatus, Option<PushReason>) = (PushStatus::Applied, None);

#[test]
fn an_edit_below_keeps_the_folders_above_it_and_nothing_else() {
    for deletes_first in [true, false] {
        let (mut database, seen) = tree();
        let seen = Some(Database::basis(seen));
        let removal = removal("a", 2_000, seen.clone());
        let edit = op("b", 1, 1_500, seen, FILES[2], rename("edited"));
        if deletes_first {
            database.push("a", removal);
            database.push("b", vec![edit]);
        } else {
            database.push("b", vec![edit]);
            database.push("a", removal);
        }
        assert_eq!(live(&database), [ROOT, DIR, DEEP, ELSE, FILES[2]]);
    }
}

#[test]
fn a_delete_with_a_basis_applies_whatever_its_stamp() {
    let (mut database, seen) = tree();
    database.push("b", vec![op("b", 1, 50_000, None, FILES[0], rename("later"))]);
    let seen = Some(Database::basis(seen + 1));
    let delete = op("a", 1, 1_000, seen, FILES[0], Action::Delete);
    assert_eq!(push(&mut database, "a", delete), APPLIED);
    assert!(!database.live(&item(FILES[0])));
}

#[test]
fn ones_own_write_does_not_hide_anothers() {
    let (mut database, seen) = tree();
    let seen = Some(Database::basis(seen));
    database.push("b", vec![op("b", 1, 1_000, seen.clone(), FILES[0], rename("by b"))]);
    database.push("a", vec![op("a", 1, 1_100, seen.clone(), FILES[0], rename("by a"))]);
    let delete = op("a", 2, 1_200, seen, FILES[0], Action::Delete);
    assert_eq!(push(&mut database, "a", delete), UNSEEN);
    assert!(database.live(&item(FILES[0])));
}

#[test]
fn ones_own_writes_are_no_news() {
    let (mut database, seen) = tree();
    let seen = Some(Database::basis(seen));
    database.push("a", vec![op("a", 1, 1_000, seen.clone(), FILES[0], rename("by a"))]);
    let delete = op("a", 2, 1_200, seen, FILES[0], Action::Delete);
    assert_eq!(push(&mut database, "a", delete), APPLIED);
}

#[test]
fn a_basis_of_an_epoch_that_the_feed_never_had_has_seen_nothing() {
    let (mut database, seen) = tree();
    let Basis::At(mut cursor) = Database::basis(seen) else { panic!() };
    let delete = |write_id, basis| op("a", write_id, 2_000, Some(basis), FILES[0], Action::Delete);
    cursor.change_id = cursor.change_id.as_str().replacen('1', "2", 1).parse().unwrap();
    assert_eq!(push(&mut database, "a", delete(1, Basis::At(cursor))), UNSEEN);
    assert_eq!(push(&mut database, "a", delete(2, Basis::Start)), UNSEEN);
    let beyond = Database::basis(u64::MAX);
    assert_eq!(push(&mut database, "a", delete(3, beyond)), APPLIED);
}

#[test]
fn what_changes_nothing_brings_nothing_back() {
    let (mut database, seen) = tree();
    let seen = Some(Database::basis(seen));
    database.push("a", removal("a", 1_000, seen.clone()));
    let same = [
        rename("made"),
        Action::Upsert(Box::default()),
        Action::LinkAdd { parent: item(DEEP) },
        Action::LinkReassign { parent: item(DEEP) },
    ];
    for (action, write_id) in same.into_iter().zip(1..) {
        database.push("b", vec![op("b", write_id, 9_000, seen.clone(), FILES[2], action)]);
        assert_eq!(live(&database), [ROOT, ELSE]);
    }
    let older = op("b", 9, 100, seen, FILES[2], rename("older"));
    assert_eq!(push(&mut database, "b", older).1, Some(PushReason::Superseded));
    assert_eq!(live(&database), [ROOT, ELSE]);
}

#[test]
fn without_a_basis_the_later_stamp_decides() {
    let (mut database, _) = tree();
    database.push("b", vec![op("b", 1, 3_000, None, FILES[0], rename("later"))]);
    let earlier = op("a", 1, 2_000, None, FILES[0], Action::Delete);
    assert_eq!(push(&mut database, "a", earlier).1, Some(PushReason::Superseded));
    let later = op("a", 2, 4_000, None, FILES[0], Action::Delete);
    assert_eq!(push(&mut database, "a", later), APPLIED);
    let edit = op("b", 2, 3_500, None, FILES[0], rename("too late"));
    database.push("b", vec![edit]);
    assert!(!database.live(&item(FILES[0])));
}

fn grant(database: &mut Database, write_id: u64, on: u8, to: &str, level: AccessLevel) {
    let id = PrincipalId::new(to).unwrap();
    let principal = Principal { kind: PrincipalType::User, id };
    let action = Action::GrantAdd { principal, level };
    database.push("z", vec![op("z", write_id, 1_000, None, on, action)]);
}

#[test]
fn who_may_not_write_above_brings_back_no_more_than_they_may_write() {
    let (mut database, _) = tree();
    grant(&mut database, 20, DEEP, "v", AccessLevel::Write);
    let mut v = Replica::of("v");
    v.settle(&database, 100);
    let mut u = Replica::of("u");
    u.settle(&database, 100);
    database.push("a", removal("a", 2_000, Some(Database::basis(u.position))));
    let edit = op("r", 1, 1_500, Some(Database::basis(v.position)), FILES[2], rename("by v"));
    database.push_as("v", "r", vec![edit]);
    assert_eq!(live(&database), [ROOT, DEEP, ELSE, FILES[2]], "not the folder above");
    v.settle(&database, 100);
    u.settle(&database, 100);
}

#[test]
fn a_writer_deletes_in_a_shared_folder_but_not_the_folder() {
    let (mut database, _) = tree();
    grant(&mut database, 20, DIR, "v", AccessLevel::Write);
    let mut v = Replica::of("v");
    v.settle(&database, 100);
    let seen = Some(Database::basis(v.position));
    let deletes = removal("r", 2_000, seen);
    let answer = database.push_as("v", "r", deletes);
    assert_eq!(answer.results[0].reason, Some(PushReason::NotPermitted));
    assert!(answer.results[1..].iter().all(|result| result.status == PushStatus::Applied));
    assert_eq!(live(&database), [ROOT, DIR, ELSE]);
    let unlink = Action::LinkRemove { parent: item(DIR) };
    let mut u = Replica::of("u");
    u.settle(&database, 100);
    database.push("a", vec![op("a", 1, 3_000, None, NEW[0], create(Some(DIR), "new"))]);
    let answer = database.push_as("v", "r", vec![op("r", 20, 4_000, None, NEW[0], unlink)]);
    assert_eq!(answer.results[0].reason, Some(PushReason::NotPermitted), "its last link");
    assert_eq!(user("v"), v.who);
}

#[test]
fn a_level_that_changes_is_no_change_of_the_item() {
    let (mut database, _) = tree();
    grant(&mut database, 20, DIR, "v", AccessLevel::Write);
    let mut v = Replica::of("v");
    v.settle(&database, 100);
    let seen = Some(Database::basis(v.position));
    grant(&mut database, 21, ROOT, "v", AccessLevel::Write);
    grant(&mut database, 22, DEEP, "v", AccessLevel::Admin);
    let delete = op("r", 1, 2_000, seen, FILES[2], Action::Delete);
    let answer = database.push_as("v", "r", vec![delete]);
    assert_eq!((answer.results[0].status, answer.results[0].reason), APPLIED);
}

#[test]
fn what_came_into_sight_was_not_seen() {
    let (mut database, _) = tree();
    grant(&mut database, 20, DIR, "v", AccessLevel::Admin);
    let delete = op("r", 1, 2_000, Some(Basis::Start), FILES[2], Action::Delete);
    let answer = database.push_as("v", "r", vec![delete]);
    assert_eq!((answer.results[0].status, answer.results[0].reason), UNSEEN);
}

#[test]
fn a_link_that_a_revival_tells_first_was_not_seen() {
    let (mut database, seen) = tree();
    let seen = Some(Database::basis(seen));
    let here = [Action::LinkAdd { parent: item(ELSE) }, Action::Delete];
    let here = here.into_iter().zip(1..);
    let here = here.map(|(action, id)| op("a", id, 1_000, seen.clone(), FILES[0], action));
    database.push("a", here.collect());
    database.push("b", vec![op("b", 1, 1_100, seen.clone(), FILES[0], rename("by b"))]);
    let delete = op("a", 3, 1_200, seen, ELSE, Action::Delete);
    assert_eq!(push(&mut database, "a", delete), UNSEEN);
    assert!(database.live(&item(FILES[0])) && database.live(&item(ELSE)));
}
