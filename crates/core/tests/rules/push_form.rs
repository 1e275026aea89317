//! A push's body: what is one, what is refused as a whole, and what of it is to be locked.

use serde_json::{Value, json};
use vfs_sync_core::access::{Principal, PrincipalType};
use vfs_sync_core::cursor::{Epoch, Position};
use vfs_sync_core::id::{ItemId, PrincipalId, UserId, WriteId};
use vfs_sync_core::limits::MAX_PUSH_OPERATIONS;
use vfs_sync_core::server::push::{Head, InvalidPush, PushBatch, Rows, Step, decide};
use vfs_sync_core::time::Timestamp;

fn parse(body: &str) -> Result<PushBatch, InvalidPush> {
    PushBatch::parse(UserId::new("u").unwrap(), body.as_bytes())
}

fn operation(nth: u64, more: &Value) -> Value {
    let mut operation = json!({
        "opId": format!("op-{nth}"), "opType": "item_delete", "itemId": format!("item-{nth}"),
        "replicaId": "r", "writeId": nth, "occurredAt": "2026-01-01T00:00:00Z",
    });
    operation.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    operation
}

fn push(operations: &[Value]) -> PushBatch {
    parse(&json!({"clientId": "r", "operations": operations}).to_string()).unwrap()
}

fn of_count(count: usize) -> Result<PushBatch, InvalidPush> {
    let operations: Vec<Value> = (1..=count).map(|nth| operation(nth as u64, &json!({}))).collect();
    parse(&json!({"clientId": "r", "operations": operations}).to_string())
}

#[test]
fn a_push_is_an_object_with_a_client_and_operations() {
    let empty = parse(r#" {"clientId": "r", "operations": [], "more": 1}"#).unwrap();
    assert!(empty.is_empty());
    assert_eq!((empty.len(), empty.user.as_str(), empty.replica.as_str()), (0, "u", "r"));
    for body in [
        "",
        "[]",
        r#"["r", []]"#,
        r#"  ["r", []]"#,
        r#"{"operations": []}"#,
        r#"{"clientId": "r"}"#,
        r#"{"clientId": "r:s", "operations": []}"#,
        r#"{"clientId": "r", "operations": {}}"#,
        r#"{"clientId": "r", "operations": []} {}"#,
    ] {
        assert!(matches!(parse(body), Err(InvalidPush::Form(_))), "{body}");
    }
}

#[test]
fn a_push_has_so_many_operations_at_most() {
    let most = of_count(MAX_PUSH_OPERATIONS).unwrap();
    assert!(!most.is_empty());
    assert_eq!(most.len(), MAX_PUSH_OPERATIONS);
    let over = MAX_PUSH_OPERATIONS + 1;
    assert_eq!(of_count(over).unwrap_err(), InvalidPush::TooMany(over));
    assert!(of_count(3 * MAX_PUSH_OPERATIONS).is_err());
}

#[test]
fn a_malformed_operation_is_one_of_the_push_and_names_nothing() {
    let push =
        push(&[operation(1, &json!({})), json!(5), operation(2, &json!({"replicaId": "x"}))]);
    assert_eq!(push.len(), 3);
    assert_eq!(push.named_items(), [ItemId::new("item-1").unwrap()].into());
}

#[test]
fn what_is_to_be_locked_is_every_item_and_every_group_that_is_named() {
    let acl = |op_type: &str, kind: &str, id: &str| {
        json!({
            "opType": op_type, "principalType": kind, "principalId": id, "accessLevel": "read",
        })
    };
    let push = push(&[
        operation(1, &acl("acl_add", "group", "g")),
        operation(2, &acl("acl_remove", "organization", "o")),
        operation(3, &acl("acl_add", "user", "bob")),
        operation(4, &json!({"opType": "link_add", "parentId": "p", "childId": "item-4"})),
    ]);
    let of = |kind, id| Principal { kind, id: PrincipalId::new(id).unwrap() };
    let groups = [of(PrincipalType::Group, "g"), of(PrincipalType::Organization, "o")];
    assert_eq!(push.named_groups(), groups.into());
    let items = ["item-1", "item-2", "item-3", "item-4", "p"];
    assert_eq!(push.named_items(), items.map(|id| ItemId::new(id).unwrap()).into());
    assert_eq!(push.replayed(None), [].into());
    let ids = |ids: &[u64]| ids.iter().map(|id| WriteId::new(*id).unwrap()).collect();
    assert_eq!(push.replayed(WriteId::new(2)), ids(&[1, 2]));
}

#[test]
fn what_is_new_is_looked_for_once_and_nothing_around_it_is() {
    let create = json!({"opType": "item_upsert", "objectType": "folder", "name": "n"});
    let push = push(&[operation(1, &create)]);
    let mut rows = Rows::default();
    let needs = push.needs(&rows).unwrap();
    assert_eq!(needs.items, [ItemId::new("item-1").unwrap()].into());
    rows.absorb(needs, Rows::default());
    assert!(push.needs(&rows).is_none());
    let decided = decide(&push, rows, Timestamp::from_millis(0).unwrap());
    assert!(matches!(decided.propagation.step(), Step::LockHeads(_)), "no row is loaded");
}

#[test]
fn a_feed_has_a_head_once_it_has_an_entry() {
    let at = |millis| Timestamp::from_millis(millis).unwrap();
    let epoch = Epoch::from_u64(7).unwrap();
    let head = |counter, pruned| Head { epoch, counter, changed_at: at(20), pruned };
    let position = |counter, time| Position { epoch, counter }.at(at(time));
    assert_eq!(head(0, None).cursor(), None);
    assert_eq!(head(9, Some((4, at(10)))).cursor(), Some(position(9, 20)));
    assert_eq!(head(1, None).cursor(), Some(position(1, 20)));
}

#[test]
fn a_head_notes_its_first_entry_in_an_epoch_and_never_goes_back_to_an_earlier_one() {
    let at = |millis| Timestamp::from_millis(millis).unwrap();
    let epoch = |value| Epoch::from_u64(value).unwrap();
    let mut head = Head { epoch: epoch(7), counter: 0, changed_at: at(20), pruned: None };
    let mut take = |count, present| {
        let places = head.advance(count, at(10), epoch(present));
        (places.first, places.begins, head.epoch.as_u64(), head.counter)
    };
    assert_eq!(take(0, 9), (1, false, 7, 0));
    assert_eq!(take(2, 7), (1, true, 7, 2));
    assert_eq!(take(1, 7), (3, false, 7, 3));
    assert_eq!(take(0, 8), (4, false, 7, 3));
    assert_eq!(take(3, 8), (4, true, 8, 6));
    assert_eq!(take(1, 7), (7, false, 8, 7), "a transaction that read the epoch before");
}
