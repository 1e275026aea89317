//! What a push is told of each of its operations, by name, with why and with what helps next.

use std::sync::Arc;

use crate::world::{Database, at, item, user};
use vfs_sync_core::access::{AccessLevel, Principal, PrincipalType};
use vfs_sync_core::entry::{Change, EntryBody};
use vfs_sync_core::id::{OpId, PrincipalId, ReplicaId, WriteId};
use vfs_sync_core::item::{Name, ObjectType};
use vfs_sync_core::operation::{Action, Operation, Upsert};
use vfs_sync_core::wire::{PushReason, PushResult, PushStatus};

fn op(replica: &str, write_id: u64, id: u8, action: Action) -> Operation {
    Operation {
        op_id: OpId::new(format!("{replica}-{write_id}")).unwrap(),
        item_id: item(id),
        replica_id: ReplicaId::new(replica).unwrap(),
        write_id: WriteId::new(write_id).unwrap(),
        occurred_at: at(i64::try_from(write_id).unwrap()),
        basis: None,
        action,
    }
}

fn folder() -> Action {
    let (object_type, name) = (Some(ObjectType::Folder), Name::new("f").ok());
    Action::Upsert(Box::new(Upsert { object_type, name, ..Upsert::default() }))
}

fn named(name: &str) -> Action {
    Action::Upsert(Box::new(Upsert { name: Name::new(name).ok(), ..Upsert::default() }))
}

fn ids(results: &[PushResult]) -> Vec<&str> {
    results.iter().map(|result| result.op_id.as_ref().unwrap().as_str()).collect()
}

fn statuses(results: &[PushResult]) -> Vec<PushStatus> {
    results.iter().map(|result| result.status).collect()
}

#[test]
fn every_result_names_its_operation_whatever_came_of_it() {
    use PushStatus::{AlreadyApplied, Applied, InvalidOp, OutdatedOp, StaleWriteId};
    let mut database = Database::new();
    let large = Arc::from("x".repeat(255));
    let mut metadata = Upsert::default();
    metadata.metadata.insert(large, Some("x".repeat(17_000).into()));
    let mut of_another = op("s", 5, 1, Action::Delete);
    of_another.op_id = OpId::new("of another").unwrap();
    let mut older = op("r", 4, 1, named("older"));
    older.occurred_at = at(0);
    let operations = vec![
        op("r", 1, 1, folder()),
        op("r", 2, 9, Action::Delete),
        op("r", 3, 1, Action::Upsert(Box::new(metadata))),
        older,
        of_another.clone(),
    ];
    let first = database.push("r", operations.clone()).results;
    assert_eq!(ids(&first), ["r-1", "r-2", "r-3", "r-4", "of another"]);
    assert_eq!(statuses(&first), [Applied, InvalidOp, InvalidOp, OutdatedOp, InvalidOp]);
    assert_eq!(first[1].reason, Some(PushReason::UnknownItem));
    assert_eq!(first[2].reason, Some(PushReason::Malformed));
    assert!(first[2].detail.as_ref().unwrap().contains("metadata"), "{first:?}");
    assert_eq!(first[3].reason, Some(PushReason::Superseded));
    assert_eq!(first[4].reason, Some(PushReason::Malformed));
    assert!(first[4].detail.as_ref().unwrap().contains("replicaId"), "{first:?}");

    let again = database.push("r", operations[..1].to_vec()).results;
    assert_eq!((ids(&again), statuses(&again)), (vec!["r-1"], vec![AlreadyApplied]));

    let mut lost = vec![op("r", 1, 2, folder()), op("r", 2, 3, folder()), of_another];
    lost[0].op_id = OpId::new("new").unwrap();
    let stale = database.push("r", lost).results;
    assert_eq!(ids(&stale), ["new", "r-2", "of another"]);
    assert_eq!(statuses(&stale), [StaleWriteId; 3]);
    assert!(stale.iter().all(|result| result.last_write_id == WriteId::new(4)), "{stale:?}");
}

#[test]
fn an_operation_is_the_same_by_its_id_and_by_its_content() {
    let mut database = Database::new();
    let first = op("r", 1, 1, folder());
    let mut push = |op: &Operation| database.push("r", vec![op.clone()]).results[0].status;
    assert_eq!(push(&first), PushStatus::Applied);
    let renumbered = Operation { op_id: OpId::new("other").unwrap(), ..first.clone() };
    assert_eq!(push(&renumbered), PushStatus::StaleWriteId);
    let changed = Operation { action: named("g"), ..first.clone() };
    assert_eq!(push(&changed), PushStatus::StaleWriteId);
    assert_eq!(push(&first), PushStatus::AlreadyApplied);
}

#[test]
fn whoever_was_granted_something_may_give_it_back_and_take_it_from_nobody_else() {
    let principal = |kind, id| Principal { kind, id: PrincipalId::new(id).unwrap() };
    let bob = principal(PrincipalType::User, "bob");
    let namesake = principal(PrincipalType::Group, "bob");
    let carol = principal(PrincipalType::User, "carol");
    let mut database = Database::new();
    let level = AccessLevel::Read;
    let mut operations = vec![op("r", 1, 1, folder())];
    for (write_id, principal) in [(2, &bob), (3, &namesake), (4, &carol)] {
        let principal = principal.clone();
        operations.push(op("r", write_id, 1, Action::GrantAdd { principal, level }));
    }
    let granted = database.push("u", operations.clone()).results;
    assert!(granted.iter().all(|result| result.status == PushStatus::InvalidOp), "of another");
    assert_eq!(statuses(&database.push("r", operations).results), [PushStatus::Applied; 4]);

    let mut write_id = 0;
    let mut remove = |principal: &Principal| {
        write_id += 1;
        let mut op = op("b", write_id, 1, Action::GrantRemove { principal: principal.clone() });
        op.occurred_at = at(100);
        let result = database.push_as("bob", "b", vec![op]).results.remove(0);
        (result.status, result.reason)
    };
    let refused = (PushStatus::InvalidOp, Some(PushReason::NotPermitted));
    assert_eq!(remove(&namesake), refused, "a group called as the user is");
    assert_eq!(remove(&carol), refused);
    assert_eq!(remove(&bob), (PushStatus::Applied, None));
    let unknown = (PushStatus::InvalidOp, Some(PushReason::UnknownItem));
    assert_eq!(remove(&carol), unknown, "what one cannot see");
}

#[test]
fn an_item_has_so_many_metadata_keys_in_its_life_removed_ones_included() {
    let mut database = Database::new();
    database.push("r", vec![op("r", 1, 1, folder())]);
    let mut write_id = 1;
    let mut push = |keys: std::ops::Range<usize>, gone: std::ops::Range<usize>| {
        let key = |at: usize| Arc::from(format!("k{at}"));
        let mut upsert = Upsert::default();
        upsert.metadata.extend(gone.map(|at| (key(at), None)));
        upsert.metadata.extend(keys.map(|at| (key(at), Some(1.into()))));
        write_id += 1;
        let results = database.push("r", vec![op("r", write_id, 1, Action::Upsert(upsert.into()))]);
        results.results[0].status
    };
    for at in (0..1_024).step_by(64) {
        let before = at.max(64) - 64..at;
        assert_eq!(push(at..at + 64, before), PushStatus::Applied, "{at}");
    }
    assert_eq!(push(1_024..1_025, 0..1_024), PushStatus::InvalidOp);
    assert_eq!(push(5..6, 1_000..1_024), PushStatus::Applied, "one that there was");
}

fn origins(database: &Database, who: &str) -> Vec<(Option<String>, Option<String>)> {
    let name = |entry: &EntryBody| {
        let origin = entry.origin.as_ref().map(|origin| {
            format!("{} {} {}", origin.op_id, origin.replica_id, origin.write_id.get())
        });
        (entry.actor.as_ref().map(ToString::to_string), origin)
    };
    database.feed(&user(who)).iter().map(name).collect()
}

#[test]
fn only_the_author_is_told_by_which_operation_and_everybody_by_whom() {
    let to = |id| Principal { kind: PrincipalType::User, id: PrincipalId::new(id).unwrap() };
    let mut database = Database::new();
    let share = Action::GrantAdd { principal: to("bob"), level: AccessLevel::Read };
    database.push("r", vec![op("r", 1, 1, folder()), op("r", 2, 1, share)]);
    let by_u = || Some("u".to_owned());
    let own = [(by_u(), Some("r-1 r 1".to_owned())), (by_u(), Some("r-2 r 2".to_owned()))];
    assert_eq!(origins(&database, "u"), own);
    assert_eq!(origins(&database, "bob"), [(by_u(), None), (by_u(), None)]);

    let unshare = Action::GrantRemove { principal: to("bob") };
    database.push("r", vec![op("r", 3, 1, unshare)]);
    let bobs = origins(&database, "bob");
    assert_eq!(bobs, [(by_u(), None), (None, None)], "the server takes the item away");
}

#[test]
fn additions_are_told_before_removals_and_what_hangs_before_what_it_hangs_on_goes() {
    let mut database = Database::new();
    let under = |parent| {
        let upsert = Upsert {
            object_type: Some(ObjectType::Folder),
            name: Name::new("f").ok(),
            parent: Some(item(parent)),
            ..Upsert::default()
        };
        Action::Upsert(Box::new(upsert))
    };
    database
        .push("r", vec![op("r", 1, 1, folder()), op("r", 2, 2, folder()), op("r", 3, 3, under(1))]);
    let kinds = |database: &Database| -> Vec<&'static str> {
        let kind = |entry: &EntryBody| match entry.change {
            Change::ItemUpsert(_) => "item",
            Change::LinkAdd { .. } => "link",
            Change::LinkRemove { .. } => "link gone",
            Change::ItemDelete { .. } => "item gone",
            _ => "other",
        };
        database.feed(&user("u")).iter().map(kind).collect()
    };
    assert_eq!(kinds(&database), ["item", "item", "item", "link"]);
    let away = op("r", 4, 3, Action::LinkRemove { parent: item(1) });
    database.push("r", vec![away, op("r", 5, 3, Action::LinkAdd { parent: item(2) })]);
    assert_eq!(kinds(&database), ["item", "item", "item", "link", "link gone"]);
    database.push("r", vec![op("r", 6, 2, Action::Delete)]);
    assert_eq!(kinds(&database), ["item", "item", "link gone", "link gone", "item gone"]);
}
