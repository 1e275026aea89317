//! Moves into another owner's tree: a content is at the server in the original or in the copy at any time,
//! whatever keeps the copy from it.

use std::sync::Arc;

use vfs_sync_client::core::access::{AccessLevel, Principal, PrincipalType};
use vfs_sync_client::core::id::{ItemId, PrincipalId, UserId};
use vfs_sync_client::transport::CallKind;
use vfs_sync_client::{ChangeEvent, ClientConfig, QueuedState, SyncClient, TransportError};
use vfs_sync_testkit::{Fault, FaultyTransport, TestDevice, TestServer, everything};

use crate::support::name;

fn refused(status: u16, code: &str) -> TransportError {
    TransportError::Refused {
        status,
        code: code.into(),
        message: "No".into(),
        details: serde_json::Map::new(),
    }
}

fn paths(client: &SyncClient) -> Vec<String> {
    everything(client).unwrap().into_iter().map(|entry| entry.path).collect()
}

async fn text(client: &SyncClient, path: &str) -> String {
    let item = client.resolve(path).unwrap().id;
    let content = client.contents().read(&item).await.unwrap();
    std::io::read_to_string(content.reader().unwrap()).unwrap()
}

/// Alice shares `docs/plan.txt` with Bob, who has fetched it. Bob's line can be given faults.
struct Scene {
    server: TestServer,
    alice: TestDevice,
    bob: TestDevice,
    line: Arc<FaultyTransport>,
    docs: ItemId,
}

const SHARED: [&str; 3] = ["docs", "docs/empty", "docs/plan.txt"];
const MOVED: [&str; 3] = ["own", "own/empty", "own/plan.txt"];

/// What Bob is shown if the original stays.
fn both() -> Vec<String> {
    let shared = SHARED.iter().map(|path| format!("shared:alice/{path}"));
    MOVED.iter().map(ToString::to_string).chain(shared).collect()
}

impl Scene {
    async fn new(durable: bool) -> Self {
        let server = TestServer::start().await;
        let alice = server.device("alice");
        let docs = alice.create_folder(None, name("docs")).unwrap();
        alice.create_folder(Some(&docs), name("empty")).unwrap();
        let plan = alice.create_file(Some(&docs), name("plan.txt")).unwrap();
        alice.contents().put(&plan, &b"the plan"[..]).unwrap();
        let bob = Principal { kind: PrincipalType::User, id: PrincipalId::new("bob").unwrap() };
        alice.sharing().share(&docs, bob, AccessLevel::Admin).unwrap();
        alice.sync().await.unwrap();
        let line = Arc::new(FaultyTransport::new(server.transport("bob")));
        let config = ClientConfig::default();
        let bob = match durable {
            true => TestDevice::on_disk("bob", line.clone(), config),
            false => TestDevice::in_memory("bob", line.clone(), config),
        };
        bob.sync().await.unwrap();
        bob.contents().fetch(&[plan]).await.unwrap();
        Self { server, alice, bob, line, docs }
    }

    /// Bob takes the folder over, and the line refuses the first request of `kind`.
    async fn moves(&self, kind: CallKind, error: TransportError) {
        self.bob.move_by_copy(&self.docs, None, name("own")).unwrap();
        assert_eq!(paths(&self.bob), MOVED);
        self.line.next(kind, Fault::Refuse(error));
        self.bob.sync().await.unwrap();
    }

    fn held(&self) -> usize {
        let queue = self.bob.queue().operations(100).unwrap();
        queue.iter().filter(|one| one.state == QueuedState::Held).count()
    }

    async fn has_moved(&self) {
        let bob = &self.bob;
        bob.sync().await.unwrap();
        assert_eq!(paths(bob), MOVED);
        assert_eq!(bob.status().unwrap().pending, 0);
        self.alice.sync().await.unwrap();
        assert_eq!(paths(&self.alice), [""; 0]);
        let fresh = self.server.device("bob");
        fresh.sync().await.unwrap();
        assert_eq!(paths(&fresh), MOVED);
        assert_eq!(text(&fresh, "own/plan.txt").await, "the plan");
    }

    async fn original_stays(&self) {
        self.alice.sync().await.unwrap();
        assert_eq!(paths(&self.alice), SHARED);
        assert_eq!(text(&self.alice, "docs/plan.txt").await, "the plan");
    }
}

#[tokio::test]
async fn the_original_stays_while_the_content_of_the_copy_waits_and_goes_once_it_is_there() {
    for durable in [false, true] {
        let scene = Scene::new(durable).await;
        let mut changes = scene.bob.subscribe();
        scene.moves(CallKind::BlobBatch, refused(507, "storage_full")).await;
        assert_eq!(scene.held(), 3);
        assert_eq!(scene.bob.status().unwrap().pending, 3, "it is still to be sent");
        assert_eq!(paths(&scene.bob), MOVED);
        scene.original_stays().await;
        scene.has_moved().await;
        let told = std::iter::from_fn(|| changes.try_recv().ok())
            .find(|change| matches!(change, ChangeEvent::NotMoved(_)));
        assert_eq!(told, None);
    }
}

#[tokio::test]
async fn a_move_that_waits_goes_on_after_the_program_was_ended() {
    let mut scene = Scene::new(true).await;
    scene.moves(CallKind::BlobBatch, refused(507, "storage_full")).await;
    scene.bob.reopen().await;
    assert_eq!(paths(&scene.bob), MOVED);
    scene.has_moved().await;
}

#[tokio::test]
async fn what_changed_in_the_original_while_the_move_waited_lives_on() {
    let scene = Scene::new(false).await;
    scene.moves(CallKind::BlobBatch, refused(507, "storage_full")).await;
    scene.alice.sync().await.unwrap();
    let plan = scene.alice.resolve("docs/plan.txt").unwrap().id;
    scene.alice.contents().put(&plan, &b"a better plan"[..]).unwrap();
    scene.alice.sync().await.unwrap();
    scene.bob.sync().await.unwrap();
    scene.alice.sync().await.unwrap();
    assert_eq!(paths(&scene.alice), ["docs", "docs/plan.txt"]);
    assert_eq!(text(&scene.alice, "docs/plan.txt").await, "a better plan");
    assert_eq!(text(&scene.bob, "own/plan.txt").await, "the plan");
}

#[tokio::test]
async fn the_original_stays_for_good_if_the_content_of_the_copy_is_refused() {
    for durable in [false, true] {
        let scene = Scene::new(durable).await;
        let mut changes = scene.bob.subscribe();
        scene.moves(CallKind::BlobBatch, refused(400, "malformed")).await;
        scene.original_stays().await;
        assert_eq!(scene.held(), 0);
        let told = std::iter::from_fn(|| changes.try_recv().ok())
            .any(|change| change == ChangeEvent::NotMoved(scene.docs.clone()));
        assert!(told);
        let shown = both();
        assert_eq!(paths(&scene.bob), shown);
        let rejected = scene.bob.queue().rejected_uploads().unwrap();
        scene.bob.queue().retry_upload(&rejected[0].blob_id).unwrap();
        scene.bob.sync().await.unwrap();
        assert_eq!(paths(&scene.bob), shown, "a retry does not delete");
        scene.original_stays().await;
    }
}

#[tokio::test]
async fn the_original_stays_for_good_if_the_copy_is_refused() {
    let scene = Scene::new(false).await;
    let own = scene.bob.create_folder(None, name("own")).unwrap();
    let empty = scene.bob.create_folder(Some(&own), name("empty")).unwrap();
    scene.bob.sync().await.unwrap();
    // The right goes before the copy arrives.
    let bob = Principal { kind: PrincipalType::User, id: PrincipalId::new("bob").unwrap() };
    scene.alice.sharing().share(&scene.docs, bob, AccessLevel::Read).unwrap();
    scene.alice.sync().await.unwrap();
    scene.bob.move_by_copy(&empty, Some(&scene.docs), name("taken")).unwrap();
    scene.bob.sync().await.unwrap();
    assert_eq!(scene.bob.queue().rejected(10).unwrap().len(), 1, "the copy, and not the deletion");
    assert!(paths(&scene.bob).contains(&"own/empty".into()));
    let fresh = scene.server.device("bob");
    fresh.sync().await.unwrap();
    assert!(paths(&fresh).contains(&"own/empty".into()));
}

#[tokio::test]
async fn a_restore_ends_a_move_that_waits() {
    let scene = Scene::new(true).await;
    scene.moves(CallKind::BlobBatch, refused(507, "storage_full")).await;
    let trashed = scene.bob.trash().pending().unwrap();
    assert_eq!(trashed.len(), 3);
    assert_eq!(scene.bob.trash().restore(&scene.docs, true).await.unwrap(), 3);
    scene.bob.sync().await.unwrap();
    assert_eq!(paths(&scene.bob), both());
    scene.original_stays().await;
}

#[tokio::test]
async fn an_exported_state_deletes_nothing_whose_copy_has_no_content_yet() {
    let scene = Scene::new(false).await;
    scene.moves(CallKind::BlobBatch, refused(507, "storage_full")).await;
    let state = scene.bob.exported();
    let bob = UserId::new("bob").unwrap();
    let client_id = scene.bob.status().unwrap().client_id;
    let other = SyncClient::builder(scene.server.transport("bob")).client_id(client_id);
    let other = other.in_memory(bob).unwrap();
    other.hydrate_state(state.as_bytes()).unwrap();
    other.sync().await.unwrap();
    assert!(paths(&other).contains(&"shared:alice/docs/plan.txt".into()), "{:?}", paths(&other));
    scene.original_stays().await;
}
