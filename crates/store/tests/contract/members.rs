//! Groups and organizations.

use serde_json::json;
use vfs_sync_core::access::{Principal, PrincipalType};
use vfs_sync_core::id::PrincipalId;
use vfs_sync_core::limits::MAX_USER_GROUPS;
use vfs_sync_core::wire::ReconcileRequest;
use vfs_sync_store::StoreError;

use super::scene::*;

pub(crate) fn principal(kind: PrincipalType, name: &str) -> Principal {
    Principal { kind, id: PrincipalId::new(name).unwrap() }
}

pub(crate) async fn who_is_in_a_group_is_told(scene: Scene) {
    let group = principal(PrincipalType::Group, "eng");
    let organization = principal(PrincipalType::Organization, "eng");
    let store = &scene.store;
    for who in ["carol", "bob", "alice", "bob"] {
        store.set_member(&group, &user(who), true, scene.now()).await.unwrap();
    }
    store.set_member(&organization, &user("bob"), true, scene.now()).await.unwrap();
    let all = store.members(&group, None, 10).await.unwrap();
    assert_eq!(all, ["alice", "bob", "carol"].map(user));
    assert_eq!(store.members(&group, Some(user("alice")), 1).await.unwrap(), [user("bob")]);
    let both = vec![group.clone(), organization.clone()];
    assert_eq!(store.groups_of(&user("bob")).await.unwrap(), both);

    for _ in 0..2 {
        store.set_member(&group, &user("bob"), false, scene.now()).await.unwrap();
    }
    store.set_member(&group, &user("nobody"), false, scene.now()).await.unwrap();
    assert_eq!(store.members(&group, None, 10).await.unwrap(), ["alice", "carol"].map(user));
    assert_eq!(store.groups_of(&user("bob")).await.unwrap(), [organization]);
    assert_eq!(store.groups_of(&user("nobody")).await.unwrap(), []);
}

pub(crate) async fn who_was_ever_seen_is_known(scene: Scene) {
    scene.apply_as("alice", "laptop", vec![folder(1, "f")]).await;
    let group = principal(PrincipalType::Group, "eng");
    scene.store.set_member(&group, &user("bob"), true, scene.now()).await.unwrap();
    let known = async |kind, name| scene.store.knows(&principal(kind, name)).await.unwrap();
    assert!(known(PrincipalType::User, "alice").await);
    assert!(!known(PrincipalType::User, "bob").await);
    assert!(!known(PrincipalType::User, "eng").await);
    assert!(known(PrincipalType::Group, "eng").await);
    assert!(!known(PrincipalType::Organization, "eng").await);

    let grant = json!({"opType": "acl_add", "writeId": 2, "itemId": "f", "accessLevel": "read",
        "principalType": "user", "principalId": "dave"});
    scene.apply("laptop", vec![grant]).await;
    assert!(!known(PrincipalType::User, "dave").await, "a grant alone is nobody");
    let cursor = cursor_of(scene.settle_as("dave", None, 500).await.last().unwrap());
    let request = ReconcileRequest {
        client_id: replica("phone"),
        cursor,
        last_reconciled_write_ids: write_ids(&[]),
    };
    scene.store.reconcile(&user("dave"), &request, scene.now()).await.unwrap();
    assert!(known(PrincipalType::User, "dave").await);
}

pub(crate) async fn a_block_counts_until_it_ends_and_the_owner_cannot_tell(scene: Scene) {
    let store = &scene.store;
    let group = principal(PrincipalType::Group, "eng");
    let grant = |write_id: u64, item: &str, kind: &str, to: &str| {
        json!({"opType": "acl_add", "writeId": write_id, "itemId": item, "accessLevel": "write",
            "principalType": kind, "principalId": to})
    };
    scene.apply("laptop", vec![folder(1, "f"), folder(2, "g"), file_in(3, "in", "f")]).await;
    scene.apply_as("bob", "laptop", vec![folder(1, "own")]).await;
    scene.apply("laptop", vec![grant(4, "f", "user", "bob"), grant(5, "g", "group", "eng")]).await;
    store.set_member(&group, &user("bob"), true, scene.now()).await.unwrap();
    let shown = async || {
        let mut view = super::views::View::new();
        let mut replica = super::views::Replica::default();
        while !replica.pull(&scene, "bob", 10).await {}
        view.append(&mut replica.view);
        view.into_keys().filter(|key| key.starts_with("item ")).collect::<Vec<_>>()
    };
    let all = ["item f", "item g", "item in", "item own"];
    assert_eq!(shown().await, all);
    let before = scene.settle_as("alice", None, 500).await;
    for _ in 0..2 {
        store.set_block(&user("bob"), &user("alice"), true, scene.now()).await.unwrap();
    }
    assert_eq!(
        shown().await,
        ["item own"],
        "a grant to a group counts no more than one to the user"
    );
    assert_eq!(store.blocked_by(&user("bob")).await.unwrap(), [user("alice")]);
    assert_eq!(scene.settle_as("alice", None, 500).await, before, "the owner cannot tell");
    let edit = json!({"opType": "item_upsert", "writeId": 2, "itemId": "f", "name": "x"});
    let refused = scene.push_as("bob", "laptop", vec![edit]).await.results.remove(0);
    assert_eq!(refused.reason, Some(vfs_sync_core::wire::PushReason::UnknownItem));
    // What is granted, joined and made meanwhile counts no more.
    scene.apply("laptop", vec![file_in(6, "new", "g"), grant(7, "in", "user", "bob")]).await;
    for present in [false, true] {
        store.set_member(&group, &user("bob"), present, scene.now()).await.unwrap();
    }
    assert_eq!(shown().await, ["item own"]);
    store.set_block(&user("bob"), &user("alice"), false, scene.now()).await.unwrap();
    assert_eq!(shown().await, ["item f", "item g", "item in", "item new", "item own"]);
    assert_eq!(store.blocked_by(&user("bob")).await.unwrap(), []);
}

pub(crate) async fn a_user_is_in_so_many_groups_and_no_more(scene: Scene) {
    let join = async |at: usize, who: &str| {
        let group = principal(PrincipalType::Group, &format!("g{at}"));
        scene.store.set_member(&group, &user(who), true, scene.now()).await
    };
    for at in 0..MAX_USER_GROUPS {
        join(at, "bob").await.unwrap();
    }
    let refused = join(MAX_USER_GROUPS, "bob").await.unwrap_err();
    let StoreError::OverQuota { over, .. } = refused else { panic!("{refused:?}") };
    assert_eq!((over.limit, over.max, over.wanted), ("maxUserGroups", 1_000, 1_001));
    assert_eq!(scene.store.groups_of(&user("bob")).await.unwrap().len(), MAX_USER_GROUPS);
    join(0, "bob").await.unwrap();
    join(MAX_USER_GROUPS, "carol").await.unwrap();
    let group = principal(PrincipalType::Group, "g0");
    scene.store.set_member(&group, &user("bob"), false, scene.now()).await.unwrap();
    join(MAX_USER_GROUPS, "bob").await.unwrap();
}
