//! Sharing over real HTTP, with the real client: what must hold whenever somebody gains or loses
//! sight of something.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use vfs_sync_client::core::access::{AccessLevel, Principal, PrincipalType};
use vfs_sync_client::core::id::{ItemId, PrincipalId, UserId};
use vfs_sync_client::core::item::ObjectType;
use vfs_sync_client::core::wire::PushReason;
use vfs_sync_client::{
    ChangeEvent, ClientConfig, ClientError, Delete, HttpConfig, HttpTransport, StaticToken,
    SyncClient, TransportError,
};
use vfs_sync_testkit::{TestDevice, TestServer, everything};

use AccessLevel::{Admin, Read, Write};

use crate::support::name;

/// A replica of somebody's, on a disk of its own.
struct Replica {
    client: SyncClient,
    dir: tempfile::TempDir,
}

impl std::ops::Deref for Replica {
    type Target = SyncClient;
    fn deref(&self) -> &SyncClient {
        &self.client
    }
}

fn of(kind: PrincipalType, id: &str) -> Principal {
    Principal { kind, id: PrincipalId::new(id).unwrap() }
}

fn somebody(id: &str) -> Principal {
    of(PrincipalType::User, id)
}

fn transport(server: &TestServer, token: &str) -> HttpTransport {
    HttpTransport::new(HttpConfig::new(server.url()), StaticToken::new(token)).unwrap()
}

impl Replica {
    fn of(server: &TestServer, user: &str) -> Self {
        let transport = transport(server, &server.token(user));
        let dir = tempfile::tempdir().unwrap();
        let config = ClientConfig::default();
        let user = UserId::new(user).unwrap();
        let client = SyncClient::builder(Arc::new(transport))
            .server("s")
            .config(config)
            .create(dir.path(), user)
            .unwrap();
        Self { client, dir }
    }

    async fn file(&self, parent: Option<&ItemId>, called: &str, text: &str) -> ItemId {
        let item = self.create_file(parent, name(called)).unwrap();
        self.contents().put(&item, text.as_bytes()).unwrap();
        self.sync().await.unwrap();
        item
    }

    fn folder(&self, parent: Option<&ItemId>, called: &str) -> ItemId {
        self.create_folder(parent, name(called)).unwrap()
    }

    /// Grants and sends it.
    async fn grants(&self, item: &ItemId, who: &str, level: AccessLevel) {
        self.sharing().share(item, somebody(who), level).unwrap();
        self.sync().await.unwrap();
    }

    async fn revokes(&self, item: &ItemId, who: &str) {
        self.sharing().unshare(item, somebody(who)).unwrap();
        self.sync().await.unwrap();
    }

    /// Syncs, and gives what is then shown.
    async fn synced(&self) -> Vec<String> {
        self.sync().await.unwrap();
        self.paths()
    }

    fn paths(&self) -> Vec<String> {
        everything(self).unwrap().into_iter().map(|entry| entry.path).collect()
    }

    fn level(&self, item: &ItemId) -> Option<AccessLevel> {
        self.node(item).unwrap().map(|node| node.access_level)
    }

    fn refusals(&self) -> Vec<PushReason> {
        self.queue().rejected(100).unwrap().into_iter().map(|one| one.reason.unwrap()).collect()
    }

    async fn read(&self, item: &ItemId) -> String {
        let content = self.contents().read(item).await.unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut content.reader().unwrap(), &mut text).unwrap();
        text
    }

    /// The bytes of contents that are on its disk.
    fn cached(&self) -> Vec<String> {
        let mut texts: BTreeMap<PathBuf, String> = BTreeMap::new();
        let mut folders = vec![self.dir.path().join("contents")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).unwrap() {
                let path: PathBuf = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    texts.insert(path.clone(), text_of(&path));
                }
            }
        }
        let mut texts: Vec<String> = texts.into_values().collect();
        texts.sort();
        texts
    }
}

fn text_of(path: &Path) -> String {
    String::from_utf8(std::fs::read(path).unwrap()).unwrap()
}

#[tokio::test]
async fn a_content_that_went_leaves_every_cache_and_one_that_came_back_stays() {
    let server = TestServer::start().await;
    let (laptop, phone) = (Replica::of(&server, "alice"), Replica::of(&server, "alice"));
    let going = laptop.file(None, "going.txt", "goes").await;
    let edited = laptop.file(None, "edited.txt", "before").await;
    phone.sync().await.unwrap();
    assert_eq!(
        (phone.read(&going).await, phone.read(&edited).await),
        ("goes".into(), "before".into())
    );
    assert_eq!(phone.cached(), ["before", "goes"]);

    laptop.delete(&going, Delete::Item).unwrap();
    laptop.contents().put(&edited, &b"after"[..]).unwrap();
    laptop.sync().await.unwrap();
    phone.sync().await.unwrap();
    assert_eq!(phone.cached(), [""; 0]);
    assert_eq!(laptop.cached(), ["after"]);
    assert_eq!(phone.read(&edited).await, "after");

    phone.rematerialise().await.unwrap();
    assert_eq!(phone.cached(), ["after"], "what is still there stays");
    laptop.delete(&edited, Delete::Item).unwrap();
    laptop.sync().await.unwrap();
    phone.rematerialise().await.unwrap();
    assert_eq!(phone.cached(), [""; 0]);
}

/// Pushes operations as `user`, as a client would that checks nothing itself; gives the status and
/// the reason of each.
async fn push(server: &TestServer, user: &str, operations: &[Value]) -> Vec<(String, String)> {
    let replica = format!("raw-{}", uuid::Uuid::now_v7());
    let now = vfs_sync_client::core::time::Timestamp::from_millis(1_900_000_000_000).unwrap();
    let operations: Vec<Value> = operations
        .iter()
        .enumerate()
        .map(|(at, more)| {
            let mut op = json!({
                "opId": uuid::Uuid::now_v7().to_string(), "replicaId": replica, "writeId": at + 1,
                "occurredAt": now,
            });
            op.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            op
        })
        .collect();
    let answer = reqwest::Client::new()
        .post(format!("{}/v1/vfs/crdt/push", server.url()))
        .bearer_auth(server.token(user))
        .json(&json!({"clientId": replica, "operations": operations}))
        .send()
        .await
        .unwrap();
    let answer: Value = answer.json().await.unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let results = answer["results"].as_array().unwrap_or_else(|| panic!("{answer}"));
    results.iter().map(|one| (text(&one["status"]), text(&one["reason"]))).collect()
}

fn link(parent: &ItemId, child: &ItemId) -> Value {
    json!({"opType": "link_add", "itemId": child, "parentId": parent, "childId": child})
}

fn rename(item: &ItemId) -> Value {
    json!({"opType": "item_upsert", "itemId": item, "name": "renamed"})
}

fn applied() -> (String, String) {
    ("applied".into(), String::new())
}

fn refused(reason: &str) -> (String, String) {
    ("invalidOp".into(), reason.into())
}

/// The status that a read of a blob gets.
async fn blob_status(server: &TestServer, user: &str, replica: &Replica, item: &ItemId) -> u16 {
    let blob = replica.node(item).unwrap().unwrap().content.unwrap().blob_id;
    let url = format!("{}/v1/vfs/blobs/{blob}", server.url());
    let request = reqwest::Client::new().get(url).bearer_auth(server.token(user));
    request.send().await.unwrap().status().as_u16()
}

/// Alice and bob, each with a replica that is synced; alice has `docs` with `deep` with `plan.txt`.
struct Scene {
    server: TestServer,
    alice: Replica,
    bob: Replica,
    docs: ItemId,
    deep: ItemId,
    plan: ItemId,
}

impl Scene {
    async fn new() -> Self {
        let server = TestServer::start().await;
        let (alice, bob) = (Replica::of(&server, "alice"), Replica::of(&server, "bob"));
        let docs = alice.folder(None, "docs");
        let deep = alice.folder(Some(&docs), "deep");
        let plan = alice.file(Some(&deep), "plan.txt", "the plan").await;
        bob.folder(None, "own");
        bob.sync().await.unwrap();
        Self { server, alice, bob, docs, deep, plan }
    }

    /// Bob has `docs` too.
    async fn shared(level: AccessLevel) -> Self {
        let scene = Self::new().await;
        scene.alice.grants(&scene.docs, "bob", level).await;
        assert_eq!(scene.bob.synced().await, SHARED);
        scene
    }

    async fn set_member(&self, group: &Principal, user: &str, present: bool) {
        let token = self.server.token_with_scope("root", "vfs:admin");
        let admin = transport(&self.server, &token);
        admin.set_member(group, &UserId::new(user).unwrap(), present).await.unwrap();
    }
}

const SHARED: [&str; 4] =
    ["own", "shared:alice/docs", "shared:alice/docs/deep", "shared:alice/docs/deep/plan.txt"];

#[tokio::test]
async fn access_granted_after_the_cursor_passed_brings_the_item_its_subtree_and_its_content() {
    let scene = Scene::new().await;
    let Scene { alice, bob, docs, plan, .. } = &scene;
    // Bob's cursor is past everything that happened to these, and goes on past more.
    for n in 0..3 {
        bob.folder(None, &format!("more{n}"));
        bob.sync().await.unwrap();
        bob.delete(&bob.resolve(&format!("more{n}")).unwrap().id, Delete::Item).unwrap();
    }
    assert_eq!(bob.synced().await, ["own"]);
    let mut changes = bob.subscribe();
    alice.grants(docs, "bob", Read).await;
    assert_eq!(bob.synced().await, SHARED);
    assert_eq!(bob.read(plan).await, "the plan");
    assert_eq!((bob.level(docs), bob.level(plan)), (Some(Read), Some(Read)));
    let told: Vec<_> = std::iter::from_fn(|| changes.try_recv().ok()).collect();
    let owner = UserId::new("alice").unwrap();
    let shared = ChangeEvent::Shared { item_id: docs.clone(), owner, level: Read };
    assert_eq!(told.iter().filter(|one| **one == shared).count(), 1, "{told:?}");

    alice.grants(docs, "bob", Write).await;
    bob.sync().await.unwrap();
    assert_eq!((bob.level(docs), bob.level(plan)), (Some(Write), Some(Write)));
    let note = bob.file(Some(docs), "note.txt", "by bob").await;
    alice.sync().await.unwrap();
    assert_eq!(alice.node(&note).unwrap().unwrap().owner.as_str(), "alice");
    assert_eq!(alice.read(&note).await, "by bob");
}

#[tokio::test]
async fn what_was_revoked_while_the_replica_was_offline_is_gone_after_its_next_pull() {
    for then in ["nothing", "changed", "deleted", "moved"] {
        let scene = Scene::shared(Read).await;
        let Scene { alice, bob, docs, deep, plan, .. } = &scene;
        assert_eq!(bob.read(plan).await, "the plan");
        assert_eq!(bob.cached(), ["the plan"]);
        alice.revokes(docs, "bob").await;
        match then {
            "changed" => {
                alice.rename(plan, name("secret.txt")).unwrap();
                alice.contents().put(plan, &b"a secret"[..]).unwrap();
            }
            "deleted" => drop(alice.delete(docs, Delete::Recursive).unwrap()),
            "moved" => alice.move_to(deep, None).unwrap(),
            _ => {}
        }
        alice.sync().await.unwrap();
        let mut changes = bob.subscribe();
        assert_eq!(bob.synced().await, ["own"], "{then}");
        for item in [docs, deep, plan] {
            assert_eq!(bob.node(item).unwrap(), None, "{then}");
        }
        assert_eq!(bob.cached(), [""; 0], "{then}: the bytes went too");
        let told: Vec<_> = std::iter::from_fn(|| changes.try_recv().ok()).collect();
        assert!(told.contains(&ChangeEvent::Revoked(docs.clone())), "{then}: {told:?}");
        assert_eq!(bob.refusals(), []);
    }
}

#[tokio::test]
async fn the_grant_in_the_crdt_is_the_access() {
    let scene = Scene::new().await;
    let Scene { server, alice, bob, docs, plan, .. } = &scene;
    let grant = |level: &str| {
        json!({
            "opType": "acl_add", "itemId": docs, "principalType": "user", "principalId": "bob",
            "accessLevel": level,
        })
    };
    for round in 0..2 {
        assert_eq!(push(server, "bob", &[rename(plan)]).await, [refused("unknownItem")]);
        assert_eq!(blob_status(server, "bob", alice, plan).await, 404, "{round}");
        assert_eq!(push(server, "alice", &[grant("read")]).await, [applied()]);
        assert_eq!(blob_status(server, "bob", alice, plan).await, 200);
        assert_eq!(push(server, "bob", &[rename(plan)]).await, [refused("notPermitted")]);
        assert_eq!(bob.synced().await.len(), 4);
        assert_eq!(push(server, "alice", &[grant("write")]).await, [applied()]);
        assert_eq!(push(server, "bob", &[rename(plan)]).await, [applied()]);
        assert_eq!(push(server, "bob", &[grant("admin")]).await, [refused("notPermitted")]);
        alice.sync().await.unwrap();
        alice.revokes(docs, "bob").await;
        assert_eq!(bob.synced().await, ["own"]);
    }
}

#[tokio::test]
async fn a_shortcut_to_somebodys_item_passes_no_access_and_keeps_nothing() {
    let scene = Scene::shared(Read).await;
    let Scene { server, alice, bob, docs, plan, .. } = &scene;
    let carol = Replica::of(server, "carol");
    let own = bob.resolve("own").unwrap().id;
    bob.link(docs, &own).unwrap();
    bob.link(plan, &own).unwrap();
    bob.sharing().share(&own, somebody("carol"), Admin).unwrap();
    let shown = [&["own", "own/docs", "own/plan.txt"], &SHARED[1..]].concat();
    assert_eq!(bob.synced().await, shown);
    assert_eq!(bob.level(plan), Some(Read), "nobody becomes admin by linking");
    let delete = json!({"opType": "item_delete", "itemId": plan});
    let answers = push(server, "bob", &[rename(plan), delete]).await;
    assert_eq!(answers, [refused("notPermitted"), refused("notPermitted")]);
    assert_eq!(carol.synced().await, ["shared:bob/own"], "what it leads to stays out of sight");
    assert_eq!(blob_status(server, "carol", alice, plan).await, 404);

    alice.revokes(docs, "bob").await;
    assert_eq!(bob.synced().await, ["own"], "and nothing is kept by it");
    assert_eq!(blob_status(server, "bob", alice, plan).await, 404);
    alice.grants(docs, "bob", Read).await;
    assert_eq!(bob.synced().await, shown, "the shortcut is still there, for who can see both ends");
}

#[tokio::test]
async fn what_others_share_stands_apart_whatever_of_a_shortcut_to_it_comes_first() {
    let server = TestServer::start().await;
    let (alice, bob) = (Replica::of(&server, "alice"), Replica::of(&server, "bob"));
    let report = alice.folder(None, "report");
    alice.grants(&report, "bob", Read).await;
    bob.sync().await.unwrap();
    let mine = bob.folder(None, "mine");
    bob.link(&report, &mine).unwrap();
    bob.sync().await.unwrap();
    bob.rename(&mine, name("renamed")).unwrap();
    bob.sync().await.unwrap();

    let config = ClientConfig { page_limit: 1, ..ClientConfig::default() };
    let late = TestDevice::in_memory("bob", server.transport("bob"), config);
    late.sync().await.unwrap();
    let top = |client: &SyncClient| {
        let id = |child: vfs_sync_client::Child| child.node.id;
        let own: Vec<ItemId> = client.children(None).unwrap().into_iter().map(id).collect();
        let shared: Vec<ItemId> = client.sharing().with_me().unwrap().into_iter().map(id).collect();
        (own, shared)
    };
    let apart = (vec![mine], vec![report]);
    assert_eq!(top(late.client()), apart);
    assert_eq!(top(&bob), apart);
}

#[tokio::test]
async fn a_writer_reorganises_and_widens_no_audience() {
    let scene = Scene::shared(Write).await;
    let Scene { server, alice, bob, docs, deep, plan } = &scene;
    let carol = Replica::of(server, "carol");
    let (wide, ours) = (alice.folder(None, "wide"), alice.folder(None, "ours"));
    alice.grants(&wide, "bob", Write).await;
    alice.grants(&wide, "carol", Read).await;
    alice.grants(&ours, "bob", Admin).await;
    bob.sync().await.unwrap();
    bob.move_to(plan, Some(docs)).unwrap();
    assert!(
        bob.synced().await.contains(&"shared:alice/docs/plan.txt".to_owned()),
        "within one audience"
    );

    for (to, why) in [(&wide, "carol would see it"), (&ours, "bob would be its admin")] {
        for item in [plan, deep] {
            bob.move_to(item, Some(to)).unwrap();
            bob.sync().await.unwrap();
            assert_eq!(bob.refusals(), [PushReason::NotPermitted], "{why}");
            let first = bob.queue().rejected(1).unwrap()[0].operation.op_id.clone();
            bob.queue().discard(&first).unwrap();
            assert_eq!(bob.parents_of(item).unwrap(), std::slice::from_ref(docs));
            assert_eq!(push(server, "bob", &[link(to, item)]).await, [refused("notPermitted")]);
        }
    }
    assert_eq!(carol.synced().await, ["shared:alice/wide"]);
    alice.grants(deep, "carol", Read).await;
    bob.move_to(plan, Some(deep)).unwrap();
    bob.sync().await.unwrap();
    assert_eq!(bob.refusals(), [PushReason::NotPermitted], "carol reads what is in there");
    let note = alice.file(Some(deep), "note.txt", "x").await;
    assert_eq!(
        carol.synced().await,
        ["shared:alice/deep", "shared:alice/deep/note.txt", "shared:alice/wide"]
    );
    bob.sync().await.unwrap();
    bob.move_to(&note, Some(docs)).unwrap();
    bob.sync().await.unwrap();
    assert_eq!(bob.refusals().len(), 1, "what fewer may see is no widening");
    assert_eq!(carol.synced().await, ["shared:alice/deep", "shared:alice/wide"]);
}

#[tokio::test]
async fn linking_under_a_folder_that_one_cannot_see_is_refused_like_one_that_does_not_exist() {
    let scene = Scene::new().await;
    let Scene { server, bob, docs, plan, .. } = &scene;
    let own = bob.resolve("own").unwrap().id;
    let nowhere = ItemId::new("nowhere").unwrap();
    let error = bob.link(&own, docs).unwrap_err();
    assert!(matches!(error, ClientError::UnknownItem(_)), "{error}");
    let create = |parent: &ItemId| {
        json!({
            "opType": "item_upsert", "itemId": uuid::Uuid::now_v7().to_string(), "objectType": "file",
            "name": "x", "parentId": parent,
        })
    };
    for hidden in [docs, &nowhere] {
        let answers = push(
            server,
            "bob",
            &[link(hidden, &own), create(hidden), link(&own, hidden), rename(hidden)],
        )
        .await;
        assert_eq!(answers, vec![refused("unknownItem"); 4]);
    }
    assert_eq!(push(server, "bob", &[link(docs, plan)]).await, [refused("unknownItem")]);
}

#[tokio::test]
async fn the_blob_of_an_item_is_read_by_whoever_reads_the_item_and_by_nobody_else() {
    let scene = Scene::shared(Read).await;
    let Scene { server, alice, bob, docs, deep, plan } = &scene;
    let carol = Replica::of(server, "carol");
    carol.sync().await.unwrap();
    assert_eq!(bob.read(plan).await, "the plan");
    assert_eq!(blob_status(server, "carol", alice, plan).await, 404);
    // By a grant on the file alone, and not on what is beside it.
    let other = alice.file(Some(deep), "other.txt", "another").await;
    alice.grants(plan, "carol", Read).await;
    assert_eq!(carol.synced().await, ["shared:alice/plan.txt"]);
    assert_eq!(carol.read(plan).await, "the plan");
    assert_eq!(blob_status(server, "carol", alice, &other).await, 404);
    // Out of the shared folder, and back.
    alice.move_to(deep, None).unwrap();
    alice.sync().await.unwrap();
    assert_eq!(blob_status(server, "bob", alice, plan).await, 404);
    assert_eq!(bob.synced().await, ["own", "shared:alice/docs"]);
    assert_eq!(carol.read(plan).await, "the plan");
    alice.move_to(deep, Some(docs)).unwrap();
    alice.sync().await.unwrap();
    bob.sync().await.unwrap();
    assert_eq!(bob.read(&other).await, "another");
}

#[tokio::test]
async fn pending_operations_on_what_was_revoked_are_rejected_and_hold_nothing_back() {
    let scene = Scene::shared(Write).await;
    let Scene { alice, bob, docs, deep, plan, .. } = &scene;
    bob.rename(plan, name("mine.txt")).unwrap();
    bob.contents().put(plan, &b"bob's words"[..]).unwrap();
    let inner = bob.folder(Some(deep), "inner");
    let note = bob.create_file(Some(&inner), name("note.txt")).unwrap();
    bob.contents().put(&note, &b"a note"[..]).unwrap();
    let after = bob.folder(None, "after");
    alice.revokes(docs, "bob").await;
    alice.create_folder(None, name("unrelated")).unwrap();
    alice.sync().await.unwrap();

    let report = bob.sync().await.unwrap();
    assert_eq!(bob.paths(), ["after", "own"]);
    assert_eq!(report.rejected, 3, "the rename, and the two that were made there");
    assert_eq!(bob.refusals(), [PushReason::UnknownItem; 3]);
    assert!(!bob.node(&after).unwrap().unwrap().pending, "the others went");
    let status = bob.status().unwrap();
    assert_eq!((status.pending, status.uploads, status.rejected_uploads), (0, 0, 2));
    let mut kept = bob.cached();
    kept.sort();
    assert_eq!(kept, ["a note", "bob's words"], "until bob decides");
    assert_eq!(alice.synced().await, ["docs", "docs/deep", "docs/deep/plan.txt", "unrelated"]);

    // Shared again, what was refused can be sent again.
    alice.grants(docs, "bob", Write).await;
    bob.sync().await.unwrap();
    for one in bob.queue().rejected(10).unwrap() {
        bob.queue().retry(&one.operation.op_id).unwrap();
    }
    for one in bob.queue().rejected_uploads().unwrap() {
        bob.queue().retry_upload(&one.blob_id).unwrap();
    }
    bob.sync().await.unwrap();
    assert_eq!(bob.refusals(), []);
    alice.sync().await.unwrap();
    assert_eq!(alice.read(&note).await, "a note");
    assert_eq!(alice.node(plan).unwrap().unwrap().name, Some(name("mine.txt")));
}

#[tokio::test]
async fn a_large_content_for_what_was_revoked_is_not_sent_first() {
    let scene = Scene::shared(Write).await;
    let Scene { server, alice, bob, docs, plan, .. } = &scene;
    let bytes = vec![7_u8; 3 << 20];
    let stored = bob.contents().put(plan, &bytes[..]).unwrap();
    alice.revokes(docs, "bob").await;
    bob.sync().await.unwrap();
    let rejected = bob.queue().rejected_uploads().unwrap();
    assert_eq!((rejected.len(), rejected[0].size), (1, bytes.len() as u64));
    assert!(rejected[0].reason.contains("no longer shared"), "{rejected:?}");
    let url = format!("{}/v1/vfs/blobs/{}", server.url(), stored.blob_id);
    let read = reqwest::Client::new().get(url).bearer_auth(server.token("bob")).send().await;
    assert_eq!(read.unwrap().status(), 404, "the server never had it");
}

#[tokio::test]
async fn what_is_queued_for_an_item_of_ones_own_never_goes_to_somebody_elses_of_the_same_id() {
    let scene = Scene::new().await;
    let Scene { server, alice, bob, .. } = &scene;
    let diary = alice.folder(None, "diary");
    let page = alice.create_file(None, name("page")).unwrap();
    let (same_push, other_push) = (alice.folder(Some(&diary), "may"), alice.folder(None, "fine"));
    // More than one push carries.
    let mut batch = alice.batch();
    for n in 0..500 {
        batch.create(ObjectType::Folder, Some(&other_push), name(&format!("f{n}")), Vec::new());
    }
    batch.commit().unwrap();
    alice.rename(&page, name("my page")).unwrap();
    alice.contents().put(&page, &b"dear diary"[..]).unwrap();
    let below = alice.create_file(Some(&diary), name("june")).unwrap();
    alice.contents().put(&below, &b"in june"[..]).unwrap();

    // Bob has guessed both ids, and lets alice do anything with what is of them.
    let mut ops = Vec::new();
    for (id, kind) in [(&diary, "folder"), (&page, "file")] {
        ops.push(json!({
            "opType": "item_upsert", "itemId": id, "objectType": kind, "name": format!("bob's {kind}"),
        }));
        ops.push(json!({
            "opType": "acl_add", "itemId": id, "principalType": "user", "principalId": "alice",
            "accessLevel": "admin",
        }));
    }
    assert_eq!(push(server, "bob", &ops).await, [applied(), applied(), applied(), applied()]);

    let report = alice.sync().await.unwrap();
    assert_eq!(report.rejected, 5, "both creations, what is in the folder, and the rename");
    assert_eq!(alice.refusals(), [PushReason::NotPermitted; 5]);
    let status = alice.status().unwrap();
    assert_eq!((status.pending, status.uploads, status.rejected_uploads), (0, 0, 2));
    assert!(!alice.node(&other_push).unwrap().unwrap().pending, "the others went");
    assert!(alice.node(&same_push).unwrap().is_none());
    assert_eq!(bob.synced().await, ["bob's file", "bob's folder", "own"]);
    assert_eq!(bob.node(&page).unwrap().unwrap().content, None);
    let mut kept = alice.cached();
    kept.retain(|text| text != "the plan");
    assert_eq!(kept, ["dear diary", "in june"], "until alice decides");

    // Trying all of it again makes it no more bob's.
    for one in alice.queue().rejected(10).unwrap() {
        alice.queue().retry(&one.operation.op_id).unwrap();
    }
    for one in alice.queue().rejected_uploads().unwrap() {
        alice.queue().retry_upload(&one.blob_id).unwrap();
    }
    alice.sync().await.unwrap();
    assert_eq!(alice.refusals(), [PushReason::NotPermitted; 5]);
    assert_eq!(alice.status().unwrap().rejected_uploads, 2);
    assert_eq!(bob.synced().await, ["bob's file", "bob's folder", "own"]);
    assert_eq!(bob.node(&page).unwrap().unwrap().content, None);
    // What alice then writes into what bob shares is bob's, as it is shown.
    let shared = alice.resolve("shared:bob/bob's folder").unwrap();
    assert_eq!(shared.id, diary);
}

#[tokio::test]
async fn joining_a_group_shows_what_it_is_granted_and_leaving_hides_it() {
    let scene = Scene::new().await;
    let Scene { server, alice, bob, docs, plan, .. } = &scene;
    let (eng, acme) = (of(PrincipalType::Group, "eng"), of(PrincipalType::Organization, "acme"));
    let only = alice.folder(None, "only");
    alice.sharing().share(docs, eng.clone(), Write).unwrap();
    alice.sharing().share(&only, acme.clone(), Read).unwrap();
    alice.sync().await.unwrap();
    assert_eq!(bob.synced().await, ["own"]);
    scene.set_member(&eng, "bob", true).await;
    assert_eq!(bob.synced().await, SHARED);
    assert_eq!((bob.level(docs), bob.read(plan).await), (Some(Write), "the plan".into()));
    scene.set_member(&acme, "bob", true).await;
    assert_eq!(bob.synced().await.len(), 5);
    let groups = transport(server, &server.token("bob")).groups().await.unwrap();
    assert_eq!(
        (groups.groups, groups.organizations),
        (vec![eng.id.clone()], vec![acme.id.clone()])
    );

    // What also comes by another way stays when one leaves.
    alice.grants(plan, "bob", Read).await;
    scene.set_member(&eng, "bob", false).await;
    scene.set_member(&acme, "bob", false).await;
    assert_eq!(bob.synced().await, ["own", "shared:alice/plan.txt"]);
    assert_eq!(bob.level(plan), Some(Read));
    alice.revokes(plan, "bob").await;
    assert_eq!(bob.synced().await, ["own"]);
    assert_eq!(bob.cached(), [""; 0]);
}

#[tokio::test]
async fn one_of_two_grants_revoked_leaves_what_the_other_gives() {
    let scene = Scene::shared(Write).await;
    let Scene { alice, bob, docs, deep, plan, .. } = &scene;
    alice.grants(deep, "bob", Read).await;
    bob.sync().await.unwrap();
    assert_eq!(bob.level(plan), Some(Write), "the higher of the two");
    alice.revokes(docs, "bob").await;
    assert_eq!(bob.synced().await, ["own", "shared:alice/deep", "shared:alice/deep/plan.txt"]);
    assert_eq!((bob.level(deep), bob.level(plan)), (Some(Read), Some(Read)));
    bob.sharing().unshare(deep, somebody("bob")).unwrap();
    assert_eq!(bob.synced().await, ["own"], "one's own grant can be given back");
    assert_eq!(bob.refusals(), []);
}

#[tokio::test]
async fn a_replica_that_rematerialises_has_what_is_shared_and_nothing_that_was_revoked() {
    let scene = Scene::shared(Write).await;
    let Scene { server, alice, bob, docs, deep, plan } = &scene;
    let (gone, note) = (alice.folder(None, "gone"), alice.file(Some(docs), "note.txt", "n").await);
    alice.grants(&gone, "bob", Read).await;
    let secret = alice.file(Some(&gone), "secret.txt", "a secret").await;
    bob.sync().await.unwrap();
    assert_eq!(
        (bob.read(plan).await, bob.read(&secret).await),
        ("the plan".into(), "a secret".into())
    );
    alice.revokes(&gone, "bob").await;
    alice.delete(&note, Delete::Item).unwrap();
    alice.sync().await.unwrap();
    bob.rename(deep, name("deeper")).unwrap();
    let now = vfs_sync_client::core::time::Timestamp::from_millis(1).unwrap();
    server.store().new_epoch(now, 0).await.unwrap();

    assert!(!bob.sync().await.unwrap().rematerialised, "an epoch alone costs nothing");
    let report = bob.rematerialise().await.unwrap();
    assert!(report.rematerialised);
    let shown = [
        "own",
        "shared:alice/docs",
        "shared:alice/docs/deeper",
        "shared:alice/docs/deeper/plan.txt",
    ];
    assert_eq!(bob.synced().await, shown);
    assert_eq!(bob.cached(), ["the plan"]);
    assert_eq!((bob.level(plan), bob.refusals()), (Some(Write), vec![]));
    alice.rematerialise().await.unwrap();
    alice.sync().await.unwrap();
    let fresh = Replica::of(server, "bob");
    assert_eq!(fresh.synced().await, shown);
}

#[tokio::test]
async fn an_earlier_content_that_was_read_goes_with_the_right_to_see_it() {
    let scene = Scene::shared(Admin).await;
    let Scene { alice, bob, docs, plan, .. } = &scene;
    alice.contents().put(plan, &b"the second plan"[..]).unwrap();
    alice.sync().await.unwrap();
    bob.sync().await.unwrap();
    let versions = bob.contents().versions(plan).await.unwrap();
    bob.contents().read_version(plan, &versions[1]).await.unwrap();
    bob.contents().read(plan).await.unwrap();
    assert_eq!(bob.cached(), ["the plan", "the second plan"]);
    alice.revokes(docs, "bob").await;
    bob.sync().await.unwrap();
    assert_eq!(bob.cached(), [""; 0]);
}

#[tokio::test]
async fn a_shared_folder_moves_into_ones_own_tree_as_a_copy_with_its_contents() {
    let scene = Scene::shared(Admin).await;
    let Scene { server, alice, bob, docs, plan, .. } = &scene;
    let own = bob.resolve("own").unwrap().id;
    assert!(matches!(bob.move_to(docs, Some(&own)), Err(ClientError::OtherTree { .. })));
    let error = bob.move_by_copy(docs, Some(&own), name("docs")).unwrap_err();
    assert!(matches!(error, ClientError::NoContent(_)), "{error}");
    bob.contents().fetch(std::slice::from_ref(plan)).await.unwrap();
    bob.move_by_copy(docs, Some(&own), name("docs")).unwrap();
    let shown = ["own", "own/docs", "own/docs/deep", "own/docs/deep/plan.txt"];
    assert_eq!(bob.synced().await, shown);
    assert_eq!(bob.refusals(), []);
    assert_eq!(alice.synced().await, [""; 0]);
    let fresh = Replica::of(server, "bob");
    assert_eq!(fresh.synced().await, shown);
    let copy = fresh.resolve("own/docs/deep/plan.txt").unwrap();
    assert_eq!((copy.owner.as_str(), fresh.read(&copy.id).await), ("bob", "the plan".into()));
}

#[tokio::test]
async fn who_is_known_is_told_to_those_who_ask() {
    let scene = Scene::new().await;
    let bob = transport(&scene.server, &scene.server.token("bob"));
    assert!(bob.knows(&somebody("alice")).await.unwrap());
    assert!(!bob.knows(&somebody("alcie")).await.unwrap());
    let eng = of(PrincipalType::Group, "eng/é ?");
    assert!(!bob.knows(&eng).await.unwrap());
    scene.set_member(&eng, "carol", true).await;
    assert!(bob.knows(&eng).await.unwrap());
    let refused = bob.members(&eng, None, 10).await.unwrap_err();
    assert!(matches!(refused, TransportError::Refused { status: 403, .. }), "{refused}");
}
