//! Users as operators see them: usage, limits of their own, and who is disabled.

use vfs_sync_core::server::user::UserLimits;
use vfs_sync_core::wire::PushStatus;
use vfs_sync_store::{MetadataQuota, StageAnswer, StoreError, UserChange};

use super::scene::*;

pub(crate) async fn a_user_is_listed_with_what_the_user_has(scene: Scene) {
    let store = &scene.store;
    scene.apply_as("bob", "laptop", vec![folder(1, "a"), folder(2, "b")]).await;
    scene.apply_as("alice", "laptop", vec![folder(1, "c")]).await;
    store.note_devices(vec![super::devices::sighting("bob", "laptop", at(0))]).await.unwrap();
    let found = store.users(None, 10).await.unwrap();
    let seen: Vec<_> =
        found.iter().map(|one| (one.user.as_str(), one.metadata.items, one.devices)).collect();
    assert_eq!(seen, [("alice", 1, 0), ("bob", 2, 1)]);
    assert_eq!(store.users(Some(user("alice")), 10).await.unwrap(), found[1..]);
    assert_eq!(store.users(None, 1).await.unwrap(), found[..1]);
    assert_eq!(store.user_record(user("bob")).await.unwrap().as_ref(), Some(&found[1]));
    assert_eq!(store.user_record(user("nobody")).await.unwrap(), None);
}

pub(crate) async fn a_disabled_user_is_not_admitted_until_enabled(scene: Scene) {
    let store = &scene.store;
    let admitted = async |who: &str| {
        let admission = store.admission(user(who), None).await.unwrap();
        (!admission.is_disabled, admission.generation)
    };
    let change = async |who: &str, change: UserChange| {
        store.change_user(user(who), change, at(7)).await.unwrap()
    };
    let (_, before) = admitted("alice").await;
    assert!(!change("alice", UserChange::Disable).await, "nobody knew alice");
    assert!(change("alice", UserChange::Disable).await);
    assert_eq!(admitted("alice").await, (false, before + 1));
    assert!(admitted("bob").await.0);
    let record = store.user_record(user("alice")).await.unwrap().unwrap();
    assert_eq!(record.disabled_at, Some(at(7)));
    assert!(change("alice", UserChange::Enable).await);
    assert!(change("alice", UserChange::Enable).await);
    assert_eq!(admitted("alice").await, (true, before + 2));
}

pub(crate) async fn limits_of_ones_own_take_the_place_of_the_servers(scene: Scene) {
    let store = &scene.store;
    scene.apply("laptop", vec![folder(1, "a"), folder(2, "b")]).await;
    let limit = async |limits: UserLimits| {
        store.change_user(user("alice"), UserChange::Limit(limits), at(0)).await.unwrap()
    };
    limit(UserLimits { max_items: Some(2), ..UserLimits::default() }).await;
    let push = async |n: u64, id: &str| {
        store.push(batch("alice", "laptop", vec![folder(n, id)]), scene.now()).await
    };
    let Err(StoreError::OverQuota { own: true, over }) = push(3, "c").await else {
        panic!("beyond the limit")
    };
    assert_eq!((over.limit, over.max), ("maxItems", 2));
    // The owner's limit counts, whoever writes.
    let shared = serde_json::json!({"opType": "acl_add", "writeId": 3, "itemId": "a",
        "principalType": "user", "principalId": "bob", "accessLevel": "write"});
    scene.apply("laptop", vec![shared]).await;
    store.arrive(&user("bob")).await.unwrap();
    let by_bob = batch("bob", "phone", vec![file_in(1, "d", "a")]);
    let by_bob = store.push(by_bob, scene.now()).await;
    assert!(matches!(by_bob, Err(StoreError::OverQuota { own: false, .. })), "{by_bob:?}");
    scene.apply_as("bob", "phone", vec![folder(1, "e"), folder(2, "f"), folder(3, "g")]).await;

    limit(UserLimits { max_replicas: Some(1), max_open_stages: Some(0), ..Default::default() })
        .await;
    assert_eq!(push(4, "c").await.unwrap().results[0].status, PushStatus::Applied);
    let other = store.push(batch("alice", "tablet", vec![folder(1, "h")]), scene.now()).await;
    assert!(matches!(other, Err(StoreError::OverQuota { own: true, .. })), "{other:?}");
    let stage = vfs_sync_store::NewStage {
        staging_id: "s".parse().unwrap(),
        blob_id: "b".parse().unwrap(),
        expires_at: at(86_400_000),
        expiry_chosen: false,
        content_type: None,
        size: 0,
    };
    let open = async |who: &str, stage: &vfs_sync_store::NewStage| {
        store.open_stage(user(who), stage, &QUOTA, scene.now()).await.unwrap()
    };
    assert!(matches!(open("alice", &stage).await, StageAnswer::OverQuota(_)));
    assert!(matches!(open("bob", &stage).await, StageAnswer::Open(_)));
    // A limit of the server's own takes no part for who has another one.
    limit(UserLimits { max_items: Some(50), ..UserLimits::default() }).await;
    let small = MetadataQuota { items: 1, ..MetadataQuota::NONE };
    let batch = batch("alice", "laptop", vec![folder(5, "i")]).with_quota(small);
    assert_eq!(store.push(batch, scene.now()).await.unwrap().results.len(), 1);
}
