//! The tree of somebody who is shared with: what others own in it, and what may be done there. The
//! feed is scripted; `sharing.rs` has the same over HTTP.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use serde_json::{Value, json};
use vfs_sync_client::core::access::{AccessLevel, Principal, PrincipalType};
use vfs_sync_client::core::entry::Entry;
use vfs_sync_client::core::id::{ItemId, PrincipalId, UserId};
use vfs_sync_client::core::item::ObjectType;
use vfs_sync_client::core::time::Timestamp;
use vfs_sync_client::{ChangeEvent, ClientConfig, ClientError, Delete, SyncClient};
use vfs_sync_testkit::{ScriptedTransport, build, everything};

use crate::support::name;

/// A replica of alice's, and the server that tells it what to see.
struct Scene {
    server: Arc<ScriptedTransport>,
    client: SyncClient,
    position: AtomicI64,
    _dir: Option<tempfile::TempDir>,
}

impl Scene {
    fn new(durable: bool) -> Self {
        let server = Arc::new(ScriptedTransport::new());
        let alice = UserId::new("alice").unwrap();
        let config = ClientConfig::default();
        let transport = server.clone();
        let dir = durable.then(|| tempfile::tempdir().unwrap());
        let client = match &dir {
            Some(dir) => {
                SyncClient::builder(transport).server("s").config(config).create(dir.path(), alice)
            }
            None => SyncClient::builder(transport).config(config).in_memory(alice),
        };
        Self { server, client: client.unwrap(), position: AtomicI64::new(0), _dir: dir }
    }

    fn entry(&self, op_type: &str, item: &str, more: Value) -> Entry {
        let at = self.position.fetch_add(1, Ordering::SeqCst) + 1;
        let time = Timestamp::from_millis(at).unwrap();
        let mut entry = json!({
            "opId": format!("{at:08}"), "occurredAt": time, "itemId": item, "opType": op_type,
            "authoredAt": time, "actorId": null,
        });
        entry.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(entry).unwrap()
    }

    /// An item called as its id says, with the reader's own level on it.
    fn item(&self, owner: &str, item: &str, level: &str) -> Entry {
        let kind = if item.contains('.') { "file" } else { "folder" };
        let created = Timestamp::from_millis(1).unwrap();
        let more = json!({
            "objectType": kind, "name": item, "metadata": {}, "ownerId": owner,
            "createdAt": created, "accessLevel": level,
        });
        self.entry("item_upsert", item, more)
    }

    fn link(&self, parent: &str, child: &str) -> Entry {
        self.entry("link_add", child, json!({"parentId": parent, "childId": child}))
    }

    fn grant(&self, item: &str, to: &str, level: &str) -> Entry {
        let more = json!({"principalType": "user", "principalId": to, "accessLevel": level});
        self.entry("acl_add", item, more)
    }

    /// Lets the client pull these, a page each.
    async fn pulls(&self, pages: Vec<Vec<Entry>>) {
        let count = pages.len();
        for (at, items) in pages.into_iter().enumerate() {
            let has_more = at + 1 < count;
            let page = build::page().entries(items);
            let page = if has_more { page.more() } else { page }.build();
            self.server.on_pull(move |_| Ok(page));
        }
        self.client.pull().await.unwrap();
    }

    fn paths(&self) -> Vec<String> {
        everything(&self.client).unwrap().into_iter().map(|entry| entry.path).collect()
    }
}

/// Runs a test on both kinds of replica.
async fn check(test: impl AsyncFn(Scene)) {
    for durable in [true, false] {
        test(Scene::new(durable)).await;
    }
}

fn id(text: &str) -> ItemId {
    ItemId::new(text).unwrap()
}

fn somebody(text: &str) -> Principal {
    Principal { kind: PrincipalType::User, id: PrincipalId::new(text).unwrap() }
}

/// Bob shares the folder `docs` with a file in it, and alice has a folder `work`.
async fn shared(scene: &Scene, level: &str) {
    scene
        .pulls(vec![vec![
            scene.item("alice", "work", "admin"),
            scene.item("bob", "docs", level),
            scene.item("bob", "plan.txt", level),
            scene.link("docs", "plan.txt"),
            scene.grant("docs", "alice", level),
        ]])
        .await;
}

#[tokio::test]
async fn what_others_share_stands_apart_with_its_owner_and_ones_own_level() {
    check(async |scene| {
        shared(&scene, "write").await;
        assert_eq!(scene.paths(), ["work", "shared:bob/docs", "shared:bob/docs/plan.txt"]);
        let shared = scene.client.sharing().with_me().unwrap();
        assert_eq!(shared.len(), 1);
        let node = &shared[0].node;
        assert_eq!((shared[0].name.as_str(), node.owner.as_str()), ("docs", "bob"));
        assert_eq!(node.access_level, AccessLevel::Write);
        assert_eq!(scene.client.resolve("shared:bob/docs/plan.txt").unwrap().owner.as_str(), "bob");
    })
    .await;
}

#[tokio::test]
async fn what_somebody_shares_is_never_met_by_a_name_in_ones_own_tree() {
    check(async |scene| {
        let client = &scene.client;
        shared(&scene, "write").await;
        for name in ["docs", "/docs", "/docs/plan.txt", "/shared:bob/docs", "/bob/docs"] {
            let error = client.resolve(name).unwrap_err();
            assert!(matches!(error, ClientError::UnknownPath(_)), "{name}: {error}");
        }
        let own = client.create_folder(None, name("docs")).unwrap();
        assert_eq!(client.resolve("/docs").unwrap().id, own);
        assert_eq!(client.resolve("shared:bob/docs").unwrap().id, id("docs"));
        assert_eq!(client.path_of(&own).unwrap(), "/docs");
        assert_eq!(client.path_of(&id("plan.txt")).unwrap(), "shared:bob/docs/plan.txt");
        let names = client.children(None).unwrap().into_iter().map(|child| child.name);
        assert_eq!(names.collect::<Vec<_>>(), ["docs", "work"], "no own name is marked");
        let copy = client.create_folder(None, name("shared:bob")).unwrap();
        assert_eq!(client.path_of(&copy).unwrap(), "/shared:bob");
        assert_eq!(client.resolve("/shared:bob").unwrap().id, copy);
        let owners: Vec<_> = client.shared_owners().unwrap();
        assert_eq!(owners, [UserId::new("bob").unwrap()]);
    })
    .await;
}

#[tokio::test]
async fn owners_whose_ids_look_like_paths_stand_beside_each_other() {
    check(async |scene| {
        let owners = ["..", ".", "a/b", "a", "A", "%raw%a%2Fb", "carol"];
        let mut entries = Vec::new();
        for (at, owner) in owners.iter().enumerate() {
            entries.push(scene.item(owner, &format!("i{at}"), "read"));
        }
        scene.pulls(vec![entries]).await;
        let client = &scene.client;
        assert_eq!(client.shared_owners().unwrap().len(), owners.len());
        assert!(client.children(None).unwrap().is_empty());
        let mut seen = std::collections::BTreeSet::new();
        for (at, _) in owners.iter().enumerate() {
            let item = id(&format!("i{at}"));
            let path = client.path_of(&item).unwrap();
            assert_eq!(path.matches('/').count(), 1, "{path}");
            assert_eq!(client.resolve(&path).unwrap().id, item, "{path}");
            seen.insert(path);
        }
        assert_eq!(seen.len(), owners.len());
        assert!(client.resolve("shared:../i0").is_err(), "the way up is no owner's name");
    })
    .await;
}

#[tokio::test]
async fn a_shortcut_is_an_entry_that_is_found_and_not_walked() {
    check(async |scene| {
        shared(&scene, "read").await;
        let (client, docs, work) = (&scene.client, id("docs"), id("work"));
        client.link(&docs, &work).unwrap();
        assert_eq!(
            scene.paths(),
            ["work", "work/docs", "shared:bob/docs", "shared:bob/docs/plan.txt"]
        );
        let child = &client.children(Some(&work)).unwrap()[0];
        assert!(child.shortcut && child.node.id == docs);
        assert_eq!(client.resolve("/work/docs/plan.txt").unwrap().id, id("plan.txt"));
        assert_eq!(client.path_of(&id("plan.txt")).unwrap(), "shared:bob/docs/plan.txt");

        let other = client.create_folder(None, name("other")).unwrap();
        client.move_to(&docs, Some(&other)).unwrap();
        let shared = ["shared:bob/docs", "shared:bob/docs/plan.txt"];
        assert_eq!(scene.paths(), [&["other", "other/docs", "work"], &shared[..]].concat());
        assert_eq!(client.delete(&other, Delete::Recursive).unwrap(), 1, "not what it leads to");
        assert_eq!(scene.paths(), [&["work"], &shared[..]].concat());
    })
    .await;
}

#[tokio::test]
async fn shortcuts_in_a_ring_close_no_cycle() {
    check(async |scene| {
        shared(&scene, "write").await;
        let client = &scene.client;
        client.link(&id("docs"), &id("work")).unwrap();
        client.link(&id("work"), &id("docs")).unwrap();
        let paths = [
            "work",
            "work/docs",
            "shared:bob/docs",
            "shared:bob/docs/plan.txt",
            "shared:bob/docs/work",
        ];
        assert_eq!(scene.paths(), paths);
        let inner = client.create_folder(Some(&id("work")), name("inner")).unwrap();
        let error = client.move_to(&id("work"), Some(&inner)).unwrap_err();
        assert!(matches!(error, ClientError::Cycle { .. }), "{error}");
    })
    .await;
}

#[tokio::test]
async fn what_ones_level_does_not_allow_is_refused_at_once() {
    check(async |scene| {
        shared(&scene, "read").await;
        let (client, docs, plan) = (&scene.client, id("docs"), id("plan.txt"));
        let denied = |done: Result<(), ClientError>, level: AccessLevel| match done {
            Err(ClientError::NotPermitted { needs, has, .. }) => {
                assert_eq!((needs, has), (level, AccessLevel::Read));
            }
            other => panic!("{other:?}"),
        };
        denied(client.rename(&plan, name("x")), AccessLevel::Write);
        denied(client.create_file(Some(&docs), name("new")).map(drop), AccessLevel::Write);
        denied(client.contents().put(&plan, &b"x"[..]).map(drop), AccessLevel::Write);
        denied(client.link(&id("work"), &docs), AccessLevel::Write);
        denied(client.delete(&plan, Delete::Item).map(drop), AccessLevel::Admin);
        denied(
            client.sharing().share(&docs, somebody("carol"), AccessLevel::Read),
            AccessLevel::Admin,
        );
        assert!(
            client.sharing().unshare(&docs, somebody("alice")).unwrap(),
            "one's own grant needs nothing"
        );
        assert_eq!(client.queue().operations(10).unwrap().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn what_is_made_in_a_shared_folder_is_its_owners_and_has_ones_level_there() {
    check(async |scene| {
        shared(&scene, "write").await;
        let client = &scene.client;
        let folder = client.create_folder(Some(&id("docs")), name("new")).unwrap();
        let file = client.create_file(Some(&folder), name("a.txt")).unwrap();
        let node = client.node(&file).unwrap().unwrap();
        assert_eq!((node.owner.as_str(), node.access_level), ("bob", AccessLevel::Write));
        client.rename(&file, name("b.txt")).unwrap();
        assert_eq!(client.delete(&folder, Delete::Recursive).unwrap(), 2, "who writes deletes");
        assert_eq!(client.delete(&id("plan.txt"), Delete::Item).unwrap(), 1);
        let error = client.delete(&id("docs"), Delete::Item).unwrap_err();
        assert!(matches!(error, ClientError::NotPermitted { .. }), "{error}");
    })
    .await;
}

#[tokio::test]
async fn nothing_moves_into_another_owners_tree_but_by_an_explicit_copy() {
    check(async |scene| {
        shared(&scene, "admin").await;
        let (client, work, plan) = (&scene.client, id("work"), id("plan.txt"));
        for to in [Some(&work), None] {
            match client.move_to(&plan, to).unwrap_err() {
                ClientError::OtherTree { item, parent } => {
                    assert_eq!((&item, parent.as_ref()), (&plan, to));
                }
                other => panic!("{other}"),
            }
        }
        let note = client.create_file(None, name("note.txt")).unwrap();
        assert!(client.move_to(&note, Some(&id("docs"))).is_err());

        let copy = client.move_by_copy(&id("docs"), Some(&work), name("taken")).unwrap();
        assert_eq!(client.node(&copy).unwrap().unwrap().owner.as_str(), "alice");
        assert_eq!(scene.paths(), ["note.txt", "work", "work/taken", "work/taken/plan.txt"]);
        let error = client.move_by_copy(&copy, None, name("x")).unwrap_err();
        assert!(matches!(error, ClientError::Invalid(_)), "{error}");
    })
    .await;
    check(async |scene| {
        shared(&scene, "write").await;
        let moved = scene.client.move_by_copy(&id("docs"), None, name("x"));
        assert!(matches!(moved, Err(ClientError::NotPermitted { .. })), "{moved:?}");
        assert_eq!(scene.client.queue().operations(10).unwrap(), [], "all of it or nothing");
    })
    .await;
}

#[tokio::test]
async fn a_move_by_copy_takes_all_levels_along_before_it_deletes() {
    const DEPTH: usize = 1_500;
    check(async |scene| {
        shared(&scene, "admin").await;
        let client = &scene.client;
        let mut batch = client.batch();
        let mut above = id("work");
        for _ in 0..DEPTH {
            above = batch.create(ObjectType::Folder, Some(&above), name("d"), Vec::new());
        }
        let thesis = batch.create(ObjectType::File, Some(&above), name("thesis"), Vec::new());
        batch.put_content(&thesis, &b"three years of work"[..]).unwrap();
        batch.commit().unwrap();
        client.move_by_copy(&id("work"), Some(&id("docs")), name("taken")).unwrap();
        let all: Vec<_> = client.walk(Some(&id("docs"))).unwrap().map(Result::unwrap).collect();
        let deepest = all.iter().max_by_key(|entry| entry.depth).unwrap();
        assert_eq!((deepest.depth, deepest.node.name.as_ref()), (DEPTH + 1, Some(&name("thesis"))));
        assert_eq!(deepest.node.content.as_ref().map(|content| content.size), Some(19));
        assert_eq!(client.node(&id("work")).unwrap(), None);
    })
    .await;
}

#[tokio::test]
async fn grants_are_shown_with_the_queue_on_top_and_add_up_to_an_audience() {
    check(async |scene| {
        let (client, work) = (&scene.client, id("work"));
        scene
            .pulls(vec![vec![
                scene.item("alice", "work", "admin"),
                scene.item("alice", "a.txt", "admin"),
                scene.link("work", "a.txt"),
                scene.grant("work", "bob", "write"),
                scene.grant("work", "carol", "read"),
                scene.grant("a.txt", "bob", "read"),
            ]])
            .await;
        client.sharing().share(&id("a.txt"), somebody("dave"), AccessLevel::Read).unwrap();
        assert!(client.sharing().unshare(&work, somebody("carol")).unwrap());
        assert!(!client.sharing().unshare(&work, somebody("erin")).unwrap());
        let owner = client.sharing().share(&work, somebody("alice"), AccessLevel::Read);
        assert!(matches!(owner, Err(ClientError::Invalid(_))));

        let shown = |item: &str| -> Vec<(String, AccessLevel, bool)> {
            let grants = client.sharing().grants(&id(item)).unwrap().into_iter();
            grants.map(|one| (one.principal.to_string(), one.level, one.pending)).collect()
        };
        assert_eq!(shown("work"), [("user:bob".into(), AccessLevel::Write, false)]);
        assert_eq!(shown("a.txt")[1], ("user:dave".into(), AccessLevel::Read, true));
        let shared: Vec<_> =
            client.sharing().list().unwrap().into_iter().map(|(item, _)| item).collect();
        assert_eq!(shared, [id("a.txt"), work.clone()]);

        let audience: Vec<_> = client
            .sharing()
            .audience(&id("a.txt"))
            .unwrap()
            .into_iter()
            .map(|one| (one.principal.id.to_string(), one.level, one.through))
            .collect();
        assert_eq!(
            audience,
            [
                ("alice".into(), AccessLevel::Admin, id("a.txt")),
                ("bob".into(), AccessLevel::Write, work.clone()),
                ("dave".into(), AccessLevel::Read, id("a.txt")),
            ]
        );
    })
    .await;
}

/// What was told since the last time.
fn told(changes: &mut tokio::sync::broadcast::Receiver<ChangeEvent>) -> Vec<ChangeEvent> {
    std::iter::from_fn(|| changes.try_recv().ok()).collect()
}

#[tokio::test]
async fn a_share_is_told_once_it_is_whole_and_a_revocation_item_by_item() {
    check(async |scene| {
        let mut changes = scene.client.subscribe();
        // The link comes a page after the item: in between the item looks like a share of its own.
        scene
            .pulls(vec![
                vec![scene.item("bob", "plan.txt", "read"), scene.item("alice", "own", "admin")],
                vec![scene.item("bob", "docs", "read"), scene.link("docs", "plan.txt")],
            ])
            .await;
        let shared = |item: &str, level| ChangeEvent::Shared {
            item_id: id(item),
            owner: UserId::new("bob").unwrap(),
            level,
        };
        let all = told(&mut changes);
        for item in ["plan.txt", "docs", "own"] {
            assert!(all.contains(&ChangeEvent::Appeared(id(item))), "{item} in {all:?}");
        }
        let shares: Vec<_> =
            all.iter().filter(|one| matches!(one, ChangeEvent::Shared { .. })).collect();
        assert_eq!(shares, [&shared("docs", AccessLevel::Read)], "and at the end");
        assert_eq!(all.last(), Some(shares[0]));

        scene.pulls(vec![vec![scene.item("bob", "new.txt", "read")]]).await;
        let all = told(&mut changes);
        assert!(all.contains(&shared("new.txt", AccessLevel::Read)), "{all:?}");
        let more = vec![scene.item("bob", "more.txt", "read"), scene.link("docs", "more.txt")];
        scene.pulls(vec![more]).await;
        assert_eq!(told(&mut changes), [ChangeEvent::Appeared(id("more.txt"))], "made in a share");

        let gone = |item: &str, reason: Value| {
            scene.entry("item_delete", item, json!({ "reason": reason }))
        };
        scene.pulls(vec![vec![gone("new.txt", json!("revoked")), gone("own", json!(null))]]).await;
        let mut all = told(&mut changes);
        all.sort_by_key(|one| matches!(one, ChangeEvent::Went(_)));
        assert_eq!(all, [ChangeEvent::Revoked(id("new.txt")), ChangeEvent::Went(id("own"))]);
    })
    .await;
}
