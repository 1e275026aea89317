//! Deletions with the real client over HTTP: what somebody changed, and the one who deletes had not
//! seen, lives on, whoever comes first, and is told.

use std::sync::Arc;

use serde_json::json;
use tokio::sync::broadcast::Receiver;
use vfs_sync_client::core::access::{AccessLevel, Principal, PrincipalType};
use vfs_sync_client::core::id::{ItemId, PrincipalId, UserId};
use vfs_sync_client::core::wire::PushReason;
use vfs_sync_client::{
    ChangeEvent, ClientConfig, Delete, HttpConfig, HttpTransport, StateExport, StaticToken,
    SyncClient,
};
use vfs_sync_testkit::{TestServer, everything};

use crate::support::name;

struct Device {
    client: SyncClient,
    events: Receiver<ChangeEvent>,
    _dir: tempfile::TempDir,
}

impl std::ops::Deref for Device {
    type Target = SyncClient;
    fn deref(&self) -> &SyncClient {
        &self.client
    }
}

impl Device {
    fn of(server: &TestServer, user: &str) -> Self {
        let token = StaticToken::new(server.token(user));
        let transport = HttpTransport::new(HttpConfig::new(server.url()), token).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (user, config) = (UserId::new(user).unwrap(), ClientConfig::default());
        let client = SyncClient::builder(Arc::new(transport))
            .server("s")
            .config(config)
            .create(dir.path(), user)
            .unwrap();
        let events = client.subscribe();
        Self { client, events, _dir: dir }
    }

    /// A copy that is made of an exported state, in the place of the device that exported it.
    fn into_copy(self, server: &TestServer, exported: &[u8]) -> Self {
        let (user, id) = (self.user(), self.client_id());
        drop(self);
        let token = StaticToken::new(server.token(user.as_str()));
        let transport = Arc::new(HttpTransport::new(HttpConfig::new(server.url()), token).unwrap());
        let dir = tempfile::tempdir().unwrap();
        let (client, _) = SyncClient::builder(transport)
            .server("s")
            .client_id(id)
            .hydrate(dir.path(), user, exported)
            .unwrap();
        let events = client.subscribe();
        Self { client, events, _dir: dir }
    }

    fn at(&self, path: &str) -> ItemId {
        self.resolve(path).unwrap().id
    }

    fn file(&self, parent: Option<&ItemId>, called: &str) -> ItemId {
        let item = self.create_file(parent, name(called)).unwrap();
        self.contents().put(&item, called.as_bytes()).unwrap();
        item
    }

    fn paths(&self) -> Vec<String> {
        everything(self).unwrap().into_iter().map(|entry| entry.path).collect()
    }

    async fn read(&self, path: &str) -> String {
        let content = self.contents().read(&self.at(path)).await.unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut content.reader().unwrap(), &mut text).unwrap();
        text
    }

    /// Where what was deleted here, and was told to live on, is.
    fn kept(&mut self) -> Vec<String> {
        let mut kept = Vec::new();
        while let Ok(event) = self.events.try_recv() {
            if let ChangeEvent::Kept(item) = event {
                kept.push(self.client.path_of(&item).unwrap());
            }
        }
        kept.sort();
        kept
    }
}

/// Two devices that have seen `dir/{a,b}`, `dir/deep/{c,d}` and `else`.
async fn two() -> (TestServer, Device, Device) {
    let server = TestServer::start().await;
    let (one, other) = (Device::of(&server, "alice"), Device::of(&server, "alice"));
    let dir = one.create_folder(None, name("dir")).unwrap();
    let deep = one.create_folder(Some(&dir), name("deep")).unwrap();
    one.create_folder(None, name("else")).unwrap();
    for (parent, called) in [(&dir, "a"), (&dir, "b"), (&deep, "c"), (&deep, "d")] {
        one.file(Some(parent), called);
    }
    one.sync().await.unwrap();
    other.sync().await.unwrap();
    (server, one, other)
}

/// `one` removes the folder, `other` does `meanwhile`, in both orders of arrival: what is left, and
/// what is told to have been kept where the deletion comes last.
async fn check(meanwhile: impl Fn(&Device), left: &[&str], kept: &[&str]) {
    for deletes_first in [true, false] {
        let (_server, mut one, other) = two().await;
        one.delete(&one.at("/dir"), Delete::Recursive).unwrap();
        meanwhile(&other);
        let order = if deletes_first { [&one, &other] } else { [&other, &one] };
        for device in order {
            device.sync().await.unwrap();
        }
        for device in [&one, &other, &one, &other] {
            device.sync().await.unwrap();
        }
        assert_eq!(one.kept(), kept, "told; deletes first: {deletes_first}");
        assert_eq!(one.kept(), [""; 0], "once");
        for device in [&one, &other] {
            assert_eq!(device.paths(), left, "deletes first: {deletes_first}");
            assert!(device.queue().rejected(10).unwrap().is_empty());
            assert!(device.queue().rejected_uploads().unwrap().is_empty());
        }
        for path in left.iter().filter(|path| path.ends_with("new") || path.ends_with("saved")) {
            let text = path.rsplit('/').next().unwrap();
            assert_eq!(one.read(&format!("/{path}")).await, text, "{path}");
        }
    }
}

#[tokio::test]
async fn an_edit_keeps_the_file_and_its_folders() {
    let rename = |other: &Device| other.rename(&other.at("/dir/deep/c"), name("c2")).unwrap();
    let left = ["dir", "dir/deep", "dir/deep/c2", "else"];
    check(rename, &left, &["/dir", "/dir/deep", "/dir/deep/c2"]).await;
}

#[tokio::test]
async fn a_content_keeps_the_file_and_its_folders() {
    let write = |other: &Device| {
        let file = other.at("/dir/deep/c");
        other.rename(&file, name("saved")).unwrap();
        other.contents().put(&file, &b"saved"[..]).unwrap();
    };
    let left = ["dir", "dir/deep", "dir/deep/saved", "else"];
    check(write, &left, &["/dir", "/dir/deep", "/dir/deep/saved"]).await;
}

#[tokio::test]
async fn a_content_alone_brings_its_file_back() {
    for deletes_first in [true, false] {
        let (_server, one, other) = two().await;
        one.delete(&one.at("/dir"), Delete::Recursive).unwrap();
        other.contents().put(&other.at("/dir/deep/c"), &b"written"[..]).unwrap();
        let order = if deletes_first { [&one, &other] } else { [&other, &one] };
        for device in order.into_iter().chain(order) {
            device.sync().await.unwrap();
        }
        assert_eq!(one.paths(), ["dir", "dir/deep", "dir/deep/c", "else"]);
        assert_eq!(one.read("/dir/deep/c").await, "written");
        assert!(other.queue().rejected_uploads().unwrap().is_empty());
    }
}

#[tokio::test]
async fn what_moves_out_lives_where_it_went() {
    let out = |other: &Device| {
        other.move_to(&other.at("/dir/deep/c"), Some(&other.at("/else"))).unwrap();
    };
    check(out, &["else", "else/c"], &["/else/c"]).await;
}

#[tokio::test]
async fn what_is_made_inside_keeps_its_folders() {
    let make = |other: &Device| {
        let folder = other.create_folder(Some(&other.at("/dir/deep")), name("folder")).unwrap();
        other.file(Some(&folder), "new");
    };
    let left = ["dir", "dir/deep", "dir/deep/folder", "dir/deep/folder/new", "else"];
    check(make, &left, &["/dir", "/dir/deep"]).await;
}

#[tokio::test]
async fn what_moves_in_keeps_the_folder() {
    let into = |other: &Device| {
        other.move_to(&other.at("/else"), Some(&other.at("/dir"))).unwrap();
    };
    check(into, &["dir", "dir/else"], &["/dir"]).await;
}

#[tokio::test]
async fn what_both_delete_is_gone() {
    let delete = |other: &Device| {
        other.delete(&other.at("/dir"), Delete::Recursive).unwrap();
    };
    check(delete, &["else"], &[]).await;
}

#[tokio::test]
async fn what_is_deleted_by_force_goes_with_what_was_not_seen() {
    let (_server, mut one, other) = two().await;
    other.rename(&other.at("/dir/a"), name("edited")).unwrap();
    other.sync().await.unwrap();
    one.delete_unseen(&one.at("/dir"), Delete::Recursive).unwrap();
    one.sync().await.unwrap();
    assert_eq!(one.paths(), ["else"]);
    assert!(one.kept().is_empty());
}

#[tokio::test]
async fn ones_own_unsynced_edit_is_deleted_knowingly() {
    let (_server, mut one, other) = two().await;
    let file = one.at("/dir/a");
    one.contents().put(&file, &b"more"[..]).unwrap();
    one.sync().await.unwrap();
    one.rename(&file, name("renamed")).unwrap();
    one.delete(&file, Delete::Item).unwrap();
    one.sync().await.unwrap();
    other.sync().await.unwrap();
    assert!(!other.paths().iter().any(|path| path.ends_with('a') || path.ends_with("renamed")));
    assert!(one.kept().is_empty());
}

#[tokio::test]
async fn a_content_that_ones_own_covers_is_not_deleted_with_it() {
    for saves_again in [false, true] {
        let (_server, mut one, other) = two().await;
        let file = one.at("/dir/a");
        one.contents().put(&file, &b"ours"[..]).unwrap();
        other.contents().put(&file, &b"theirs"[..]).unwrap();
        other.sync().await.unwrap();
        one.pull().await.unwrap();
        assert_eq!(one.read("/dir/a").await, "ours", "what is on its way covers what came");
        if saves_again {
            one.contents().put(&file, &b"ours again"[..]).unwrap();
        }
        one.delete(&one.at("/dir"), Delete::Recursive).unwrap();
        for device in [&one, &other, &one] {
            device.sync().await.unwrap();
        }
        assert_eq!(one.kept(), ["/dir", "/dir/a"], "saves again: {saves_again}");
        for device in [&one, &other] {
            assert_eq!(device.paths(), ["dir", "dir/a", "else"], "saves again: {saves_again}");
            assert_eq!(device.read("/dir/a").await, "theirs");
        }
    }
}

#[tokio::test]
async fn ones_own_content_is_deleted_once_the_feed_has_brought_it() {
    let (_server, one, other) = two().await;
    let file = one.at("/dir/a");
    other.rename(&file, name("renamed")).unwrap();
    other.sync().await.unwrap();
    for text in ["ours", "ours again"] {
        one.contents().put(&file, text.as_bytes()).unwrap();
        one.sync().await.unwrap();
    }
    one.delete(&file, Delete::Item).unwrap();
    one.sync().await.unwrap();
    other.sync().await.unwrap();
    assert_eq!(other.node(&file).unwrap(), None, "one's own content that came by the feed is seen");
}

#[tokio::test]
async fn an_old_copy_does_not_delete_what_its_replica_wrote_since() {
    for (pulls, saves) in [(false, false), (false, true), (true, false), (true, true)] {
        let (server, one, other) = two().await;
        let mut exported = Vec::new();
        one.export_state(StateExport::default(), &mut exported).unwrap();
        one.contents().put(&one.at("/dir/a"), &b"later"[..]).unwrap();
        let made = one.create_folder(Some(&one.at("/dir/deep")), name("made")).unwrap();
        one.sync().await.unwrap();
        let mut copy = one.into_copy(&server, &exported);
        if saves {
            copy.contents().put(&copy.at("/dir/a"), &b"covers it"[..]).unwrap();
        }
        if pulls {
            copy.pull().await.unwrap();
            assert!(copy.node(&made).unwrap().is_some(), "a copy misses nothing");
        }
        copy.delete(&copy.at("/dir"), Delete::Recursive).unwrap();
        copy.flush().await.unwrap();
        copy.sync().await.unwrap();
        other.sync().await.unwrap();
        let (left, kept): (&[&str], &[&str]) = match (pulls, saves) {
            (false, _) => (
                &["dir", "dir/a", "dir/deep", "dir/deep/made", "else"],
                &["/dir", "/dir/a", "/dir/deep"],
            ),
            (true, true) => (&["dir", "dir/a", "else"], &["/dir", "/dir/a"]),
            (true, false) => (&["else"], &[]),
        };
        assert_eq!(copy.kept(), kept, "pulls: {pulls}, saves: {saves}");
        for device in [&copy, &other] {
            assert_eq!(device.paths(), left, "pulls: {pulls}, saves: {saves}");
            if left.contains(&"dir/a") {
                assert_eq!(device.read("/dir/a").await, "later");
            }
        }
        assert!(copy.queue().outstanding().unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_delete_that_did_not_apply_is_told_with_its_reason() {
    let (_server, mut one, other) = two().await;
    other.rename(&other.at("/dir/a"), name("edited")).unwrap();
    other.sync().await.unwrap();
    let file = one.at("/dir/a");
    one.delete(&file, Delete::Item).unwrap();
    assert_eq!(one.node(&file).unwrap(), None, "it is not shown until the server has decided");
    let report = one.sync().await.unwrap();
    assert_eq!((report.outdated, report.rejected), (1, 0));
    let mut reasons = Vec::new();
    while let Ok(event) = one.events.try_recv() {
        if let ChangeEvent::Outdated { reason, .. } = event {
            reasons.extend(reason);
        }
    }
    assert_eq!(reasons, [PushReason::Unseen]);
    assert!(one.node(&file).unwrap().is_some());
    one.delete(&file, Delete::Item).unwrap();
    one.sync().await.unwrap();
    assert_eq!(one.node(&file).unwrap(), None, "known now");
}

#[tokio::test]
async fn an_older_client_is_decided_by_stamps() {
    let (server, one, _other) = two().await;
    let (file, now) =
        (one.at("/dir/a"), vfs_sync_client::core::time::Timestamp::from_millis(1_000));
    let operation = json!({
        "opId": uuid::Uuid::now_v7().to_string(), "replicaId": "old", "writeId": 1,
        "occurredAt": now.unwrap(), "opType": "item_delete", "itemId": file,
    });
    let answer: serde_json::Value = reqwest::Client::new()
        .post(format!("{}/v1/vfs/crdt/push", server.url()))
        .bearer_auth(server.token("alice"))
        .json(&json!({"clientId": "old", "operations": [operation]}))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(answer["results"][0]["reason"], "superseded");
}

#[tokio::test]
async fn who_may_write_in_a_shared_folder_deletes_and_saves_in_it() {
    let (server, one, _other) = two().await;
    let bob = Device::of(&server, "bob");
    let id = PrincipalId::new("bob").unwrap();
    let bob_is = Principal { kind: PrincipalType::User, id };
    one.sharing().share(&one.at("/dir"), bob_is, AccessLevel::Write).unwrap();
    one.sync().await.unwrap();
    bob.sync().await.unwrap();
    let find = |called: &str| {
        let all = everything(&one).unwrap();
        one.at(&format!("/{}", all.iter().find(|entry| entry.path.ends_with(called)).unwrap().path))
    };
    let (a, c) = (find("/a"), find("/c"));
    bob.delete(&a, Delete::Item).unwrap();
    one.delete(&one.at("/dir/deep"), Delete::Recursive).unwrap();
    one.sync().await.unwrap();
    bob.contents().put(&c, &b"by bob"[..]).unwrap();
    bob.sync().await.unwrap();
    one.sync().await.unwrap();
    assert_eq!(one.paths(), ["dir", "dir/b", "dir/deep", "dir/deep/c", "else"]);
    assert_eq!(one.read("/dir/deep/c").await, "by bob");
    assert!(bob.queue().rejected(10).unwrap().is_empty());
}

#[tokio::test]
async fn an_edit_of_an_older_content_brings_the_file_back_too() {
    for saves_again in [false, true] {
        let (server, one, other) = two().await;
        let file = one.at("/dir/a");
        other.contents().put(&file, &b"theirs"[..]).unwrap();
        if saves_again {
            other.contents().put(&file, &b"theirs again"[..]).unwrap();
        }
        one.contents().put(&file, &b"ours"[..]).unwrap();
        one.sync().await.unwrap();
        one.delete(&file, Delete::Item).unwrap();
        one.sync().await.unwrap();
        for device in [&other, &one] {
            device.sync().await.unwrap();
        }
        let text = if saves_again { "theirs again" } else { "theirs" };
        for device in [&one, &other] {
            assert_eq!(device.at("/dir/a"), file);
            assert_eq!(device.read("/dir/a").await, text);
            assert!(device.queue().rejected_uploads().unwrap().is_empty());
        }
        assert_eq!(other.paths(), one.paths());
        let versions = one.contents().versions(&file).await.unwrap();
        assert!(versions.len() > 2, "what was deleted is a version: {versions:?}");
        drop(server);
    }
}

#[tokio::test]
async fn an_edit_of_an_older_content_is_a_copy_beside_a_file_that_came_back_otherwise() {
    let (server, one, other) = two().await;
    let third = Device::of(&server, "alice");
    third.sync().await.unwrap();
    let file = one.at("/dir/a");
    for (device, text) in [(&other, "theirs"), (&third, "others'")] {
        device.contents().put(&file, text.as_bytes()).unwrap();
    }
    one.contents().put(&file, &b"ours"[..]).unwrap();
    one.sync().await.unwrap();
    one.delete(&file, Delete::Item).unwrap();
    one.sync().await.unwrap();
    for device in [&other, &third, &other, &one] {
        device.sync().await.unwrap();
    }
    assert_eq!(one.read("/dir/a").await, "theirs");
    let paths = one.paths();
    let copy = paths.iter().find(|path| path.starts_with("dir/a (conflict")).unwrap();
    assert_eq!(one.read(&format!("/{copy}")).await, "others'");
    assert_eq!(third.paths(), paths);
}

#[tokio::test]
async fn a_content_on_its_way_stays_with_a_deleted_file_that_lives_on() {
    let (_server, mut one, other) = two().await;
    let (edited, dir) = (one.at("dir/a"), one.at("dir"));
    let made = one.create_file(Some(&dir), name("new")).unwrap();
    one.flush().await.unwrap();
    other.sync().await.unwrap();
    // Neither content has reached the server when its file is deleted here, and renamed there.
    one.contents().put(&made, &b"new"[..]).unwrap();
    one.contents().put(&edited, &b"edited"[..]).unwrap();
    one.delete(&edited, Delete::Item).unwrap();
    one.delete(&made, Delete::Item).unwrap();
    other.rename(&other.at("dir/a"), name("y")).unwrap();
    other.rename(&other.at("dir/new"), name("z")).unwrap();
    other.sync().await.unwrap();
    one.sync().await.unwrap();
    one.sync().await.unwrap();
    other.sync().await.unwrap();
    assert_eq!(one.kept(), ["/dir/y", "/dir/z"]);
    for device in [&one, &other] {
        assert_eq!(device.read("dir/y").await, "edited");
        assert_eq!(device.read("dir/z").await, "new");
    }
}

#[tokio::test]
async fn a_content_on_its_way_goes_with_its_deleted_file() {
    let (_server, one, other) = two().await;
    let dir = one.at("dir");
    let made = one.create_file(Some(&dir), name("new")).unwrap();
    one.contents().put(&made, &b"new"[..]).unwrap();
    one.contents().put(&one.at("dir/a"), &b"edited"[..]).unwrap();
    for path in ["dir/new", "dir/a"] {
        one.delete(&one.at(path), Delete::Item).unwrap();
    }
    let report = one.sync().await.unwrap();
    assert_eq!(report.uploaded, 0);
    let outstanding = one.queue().outstanding().unwrap();
    assert_eq!((outstanding.uploads, outstanding.rejected_uploads), (0, 0));
    other.sync().await.unwrap();
    assert!(!other.paths().iter().any(|path| path == "dir/new" || path == "dir/a"));
}
