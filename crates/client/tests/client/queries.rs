//! Queries: whatever happens to the tree, a query finds what a walk through it would.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;
use vfs_sync_client::core::id::ItemId;
use vfs_sync_client::core::item::ObjectType;
use vfs_sync_client::core::time::Timestamp;
use vfs_sync_client::core::wire::{PushReason, PushStatus};
use vfs_sync_client::{ClientConfig, Delete, NameIs, Node, Query, QueryCursor, SortBy, SyncClient};
use vfs_sync_testkit::{
    Random, ScriptedTransport, TestDevice, TestServer, all_results, everything, seeds,
};

use crate::support::name;

fn names(found: &[Node]) -> Vec<&str> {
    found.iter().map(|node| node.name.as_ref().unwrap().as_str()).collect()
}

/// Returns what a query has to find, by looking at every item.
fn expected(all: &[Node], query: &Query) -> Vec<ItemId> {
    let mut found: Vec<&Node> = all
        .iter()
        .filter(|node| {
            let text = node.name.as_ref().map_or("", |name| name.as_str());
            let named = match &query.name {
                None => true,
                Some(NameIs::Exactly(name)) => text == name,
                Some(NameIs::StartsWith(prefix)) => text.starts_with(prefix),
            };
            named
                && query.object_type.is_none_or(|kind| node.object_type == kind)
                && query.owner.as_ref().is_none_or(|owner| node.owner == *owner)
                && query.modified_since.is_none_or(|since| node.modified_at() >= since)
                && query
                    .metadata
                    .as_ref()
                    .is_none_or(|(key, value)| node.metadata.get(key.as_str()) == Some(value))
        })
        .collect();
    found.sort_by_key(|node| {
        let place = QueryCursor::of(node);
        match query.sort_by {
            SortBy::Name => (place.name, Timestamp::from_millis(0), place.id),
            SortBy::ModifiedAt => (String::new(), Some(place.modified_at), place.id),
        }
    });
    if query.descending {
        found.reverse();
    }
    found.into_iter().map(|node| node.id.clone()).collect()
}

/// Returns all pages of a query.
fn paged(client: &SyncClient, query: &Query) -> Vec<ItemId> {
    let mut query = Query { limit: 3, ..query.clone() };
    let mut ids = Vec::new();
    loop {
        let page = client.find(&query).unwrap();
        let Some(last) = page.last() else { return ids };
        query.after = Some(QueryCursor::of(last));
        ids.extend(page.into_iter().map(|node| node.id));
    }
}

fn queries(client: &SyncClient) -> Vec<Query> {
    let base = [
        Query::default(),
        Query { name: Some(NameIs::Exactly("n1".into())), ..Query::default() },
        Query { name: Some(NameIs::StartsWith("n".into())), ..Query::default() },
        Query { object_type: Some(ObjectType::Photo), ..Query::default() },
        Query { owner: Some(client.user()), ..Query::default() },
        Query { metadata: Some(("stars".into(), json!(1))), ..Query::default() },
        Query { modified_since: Timestamp::from_millis(1_000), ..Query::default() },
        Query {
            metadata: Some(("stars".into(), json!(2))),
            object_type: Some(ObjectType::Photo),
            ..Query::default()
        },
    ];
    let sorted = |query: Query| {
        [(SortBy::Name, false), (SortBy::Name, true), (SortBy::ModifiedAt, true)]
            .map(|(sort_by, descending)| Query { sort_by, descending, ..query.clone() })
    };
    base.into_iter().flat_map(sorted).collect()
}

/// Returns every item that the replica shows, once.
fn shown(client: &SyncClient) -> BTreeMap<ItemId, Node> {
    let entries = everything(client).unwrap().into_iter();
    entries.map(|entry| (entry.node.id.clone(), entry.node)).collect()
}

fn agrees(client: &SyncClient, when: &str) {
    let all: Vec<Node> = shown(client).into_values().collect();
    for query in queries(client) {
        assert_eq!(paged(client, &query), expected(&all, &query), "{when}: {query:?}");
    }
}

#[tokio::test]
async fn queries_find_what_a_walk_finds_through_random_histories() {
    for seed in seeds(4) {
        let server = TestServer::start().await;
        let mut random = Random::new(seed);
        let config = ClientConfig { rematerialise: true, ..ClientConfig::default() };
        let mut devices = [
            TestDevice::on_disk("alice", server.transport("alice"), config.clone()),
            TestDevice::in_memory("alice", server.transport("alice"), config),
        ];
        agrees(&devices[0], "at first");
        for step in 0..60 {
            let which = random.below(2);
            let device = &devices[which];
            let items: Vec<ItemId> = shown(device).into_keys().collect();
            let any = |random: &mut Random| items[random.below(items.len())].clone();
            let text = name(&format!("n{}", random.below(4)));
            match random.below(9) {
                0..3 => {
                    let kinds = [ObjectType::Folder, ObjectType::Photo, ObjectType::File];
                    let stars = json!(random.below(3));
                    let mut batch = device.batch();
                    let kind = kinds[random.below(3)];
                    batch.create(kind, None, text, vec![("stars".into(), Some(stars))]);
                    batch.commit().unwrap();
                }
                3 if !items.is_empty() => device.rename(&any(&mut random), text).unwrap(),
                4 if !items.is_empty() => {
                    let stars = vec![("stars".into(), Some(json!(random.below(3))))];
                    device.set_metadata(&any(&mut random), stars).unwrap();
                }
                5 if !items.is_empty() => {
                    device.delete(&any(&mut random), Delete::Recursive).unwrap();
                }
                6 if !items.is_empty() => {
                    let bytes = text.as_str().as_bytes().to_vec();
                    let at = Timestamp::from_millis(random.below(2_000) as i64).unwrap();
                    device.contents().put_at(&any(&mut random), &bytes[..], at).unwrap();
                }
                7 if which == 0 => devices[0].reopen().await,
                _ => drop(device.sync().await.unwrap()),
            }
            agrees(&devices[which], &format!("seed {seed}, step {step}"));
        }
        for device in &devices {
            device.rematerialise().await.unwrap();
            device.sync().await.unwrap();
            agrees(device, &format!("seed {seed}, rebuilt"));
        }
    }
}

#[tokio::test]
async fn what_others_share_is_found_and_goes() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.device("alice"), server.device("bob"));
    bob.sync().await.unwrap();
    assert_eq!(bob.find(&Query::default()).unwrap(), []);
    let plans = alice.create_folder(None, name("plans")).unwrap();
    alice.create_file(Some(&plans), name("goal")).unwrap();
    let of_bob = "user:bob";
    let principal = vfs_sync_client::core::access::Principal::of_user(&bob.user()).unwrap();
    assert_eq!(principal.to_string(), of_bob);
    let read = vfs_sync_client::core::access::AccessLevel::Read;
    alice.sharing().share(&plans, principal.clone(), read).unwrap();
    alice.sync().await.unwrap();
    bob.sync().await.unwrap();
    let by_alice = Query { owner: Some(alice.user()), ..Query::default() };
    assert_eq!(names(&bob.find(&by_alice).unwrap()), ["goal", "plans"]);
    alice.sharing().unshare(&plans, principal).unwrap();
    alice.sync().await.unwrap();
    bob.sync().await.unwrap();
    assert_eq!(bob.find(&by_alice).unwrap(), []);
}

#[tokio::test]
async fn a_watch_returns_the_first_result_and_each_difference() {
    let server = Arc::new(ScriptedTransport::new());
    let device = TestDevice::in_memory("alice", server.clone(), ClientConfig::default());
    let photos = Query { object_type: Some(ObjectType::Photo), ..Query::default() };
    let mut watch = device.watch(photos);
    assert_eq!(watch.next().await.unwrap(), Some(Default::default()));
    let one = device.create(ObjectType::Photo, None, name("b")).unwrap();
    device.create_file(None, name("no photo")).unwrap();
    let two = device.create(ObjectType::Photo, None, name("a")).unwrap();
    let change = watch.next().await.unwrap().unwrap();
    assert_eq!(
        (names(&change.added), &change.order),
        (vec!["a", "b"], &vec![two.clone(), one.clone()])
    );

    device.rename(&two, name("c")).unwrap();
    let change = watch.next().await.unwrap().unwrap();
    assert_eq!(
        (names(&change.changed), &change.order),
        (vec!["c"], &vec![one.clone(), two.clone()])
    );
    device.delete(&one, Delete::Item).unwrap();
    let change = watch.next().await.unwrap().unwrap();
    assert_eq!((change.removed, change.order), (vec![one], vec![two.clone()]));

    // A rejection takes an edit back.
    device.rename(&two, name("d")).unwrap();
    watch.next().await.unwrap().unwrap();
    server.on_push(|request| {
        let mut answer = all_results(request, PushStatus::Applied);
        for result in &mut answer.results {
            result.status = PushStatus::InvalidOp;
            result.reason = Some(PushReason::NotPermitted);
        }
        Ok(answer)
    });
    device.sync().await.unwrap();
    let change = watch.next().await.unwrap().unwrap();
    assert_eq!((change.removed, change.order), (vec![two], vec![]));
}
