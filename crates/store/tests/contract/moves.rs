//! The heads of feeds: reading many at once, and hearing of those that move.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Notify;
use vfs_sync_core::access::PrincipalType;
use vfs_sync_core::cursor::Position;
use vfs_sync_store::testing::{PostgresServer, new_postgres_database};
use vfs_sync_store::{Announcements, FeedHeads, HeadObserver, MetadataStore, MovedHead};

use super::scene::*;

/// Collects what a store reports.
#[derive(Default)]
struct Heard {
    moved: Mutex<Vec<MovedHead>>,
    any: Mutex<u32>,
    changed: Notify,
}

impl HeadObserver for Heard {
    fn moved(&self, heads: &[MovedHead]) {
        self.moved.lock().unwrap().extend_from_slice(heads);
        self.changed.notify_one();
    }

    fn any_moved(&self) {
        *self.any.lock().unwrap() += 1;
        self.changed.notify_one();
    }
}

impl Heard {
    fn of(store: &dyn MetadataStore) -> Arc<Self> {
        let heard = Arc::new(Self::default());
        let observer: Arc<dyn HeadObserver> = heard.clone();
        store.observe_heads(Arc::downgrade(&observer));
        heard
    }

    /// Takes what was reported: user, counter, and whether it was the user's own change.
    fn take(&self) -> Vec<(String, u64, bool)> {
        let moved = std::mem::take(&mut *self.moved.lock().unwrap());
        let one =
            |head: MovedHead| (head.user.as_str().to_owned(), head.position.counter, head.own);
        let mut moved: Vec<_> = moved.into_iter().map(one).collect();
        moved.sort();
        moved
    }

    /// Waits until something that was reported holds.
    async fn until(&self, holds: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !holds(self) {
                self.changed.notified().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("in time");
    }
}

fn grant(write_id: u64, item: &str, to: &str) -> Value {
    json!({"opType": "acl_add", "writeId": write_id, "itemId": item, "principalType": "user",
        "principalId": to, "accessLevel": "write"})
}

async fn heads(scene: &Scene, users: &[&str]) -> FeedHeads {
    let users: Vec<_> = users.iter().map(|name| user(name)).collect();
    let mut heads = scene.store.heads(users).await.unwrap();
    heads.heads.sort();
    heads
}

pub(crate) async fn heads_are_read_for_many_users_at_once(scene: Scene) {
    let who = ["alice", "bob", "carol"];
    assert_eq!(heads(&scene, &who).await.heads, []);
    assert_eq!(heads(&scene, &[]).await.heads, []);
    scene.apply("laptop", vec![folder(1, "a"), folder(2, "b")]).await;
    scene.store.arrive(&user("carol")).await.unwrap();
    let found = heads(&scene, &who).await;
    let position = |counter| Some(Position { epoch: found.epoch, counter });
    assert_eq!(found.heads, [(user("alice"), position(2)), (user("carol"), None)]);
    let head = scene.head().await;
    assert_eq!(found.heads[0].1.map(Position::change_id), Some(head.change_id));
    // A new epoch moves no head; the next entry is in it.
    let epoch = scene.store.new_epoch(scene.now(), 7).await.unwrap();
    let again = heads(&scene, &who).await;
    assert_eq!((again.epoch, again.heads), (epoch, found.heads.clone()));
    scene.apply("laptop", vec![folder(3, "c")]).await;
    let after = heads(&scene, &["alice"]).await;
    assert_eq!(after.heads, [(user("alice"), Some(Position { epoch, counter: 3 }))]);
}

pub(crate) async fn a_commit_reports_the_heads_that_it_moved_and_whose_change_it_was(scene: Scene) {
    let told = |name: &str, counter, own| (name.to_owned(), counter, own);
    scene.store.arrive(&user("bob")).await.unwrap();
    let heard = Heard::of(&*scene.store);
    scene.apply("laptop", vec![folder(1, "a")]).await;
    assert_eq!(heard.take(), [told("alice", 1, true)]);
    scene.apply("laptop", vec![grant(2, "a", "bob")]).await;
    let moved = heard.take();
    let counters: Vec<_> = heads(&scene, &["alice", "bob"])
        .await
        .heads
        .into_iter()
        .map(|(user, position)| (user.as_str().to_owned(), position.unwrap().counter))
        .collect();
    let bare: Vec<_> = moved.iter().map(|(user, counter, _)| (user.clone(), *counter)).collect();
    assert_eq!(bare, counters);
    assert_eq!(moved.iter().map(|moved| moved.2).collect::<Vec<_>>(), [true, false]);
    scene.apply_as("bob", "phone", vec![file_in(1, "b", "a")]).await;
    let moved = heard.take();
    assert_eq!(moved.iter().map(|moved| moved.2).collect::<Vec<_>>(), [false, true], "{moved:?}");
    // So does a change of members.
    let group = super::members::principal(PrincipalType::Group, "eng");
    let mut to_group = grant(3, "a", "eng");
    to_group["principalType"] = json!("group");
    scene.apply("laptop", vec![to_group]).await;
    scene.store.arrive(&user("carol")).await.unwrap();
    heard.take();
    scene.store.set_member(&group, &user("carol"), true, scene.now()).await.unwrap();
    assert!(heard.take().iter().any(|(user, _, own)| user == "carol" && !own));
    // An observer that is gone hears nothing, and is no failure.
    drop(heard);
    scene.apply("laptop", vec![folder(4, "d")]).await;
}

pub(crate) async fn what_is_rejected_or_repeated_moves_no_head(scene: Scene) {
    scene.apply("laptop", vec![folder(1, "a")]).await;
    let heard = Heard::of(&*scene.store);
    scene.push("laptop", vec![folder(1, "a")]).await;
    scene.push("laptop", vec![file_in(2, "x", "nowhere")]).await;
    assert_eq!(heard.take(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL"]
async fn processes_of_one_database_hear_of_each_others_moves() {
    let url = new_postgres_database().await.unwrap();
    let one = Scene::at(url.clone()).await;
    let other = Scene::at(url).await;
    let (here, there) = (Heard::of(&*one.store), Heard::of(&*other.store));
    // Before anybody listens, and without an announcement from this process.
    one.apply("laptop", vec![folder(1, "a")]).await;
    assert_eq!(other.store.announce_heads().await, Announcements::Notified);
    there.until(|heard| *heard.any.lock().unwrap() > 0).await;
    assert_eq!(there.take(), []);
    assert_eq!(one.store.announce_heads().await, Announcements::Notified);
    assert_eq!(one.store.announce_heads().await, Announcements::Notified);
    here.take();
    one.apply("laptop", vec![folder(2, "b")]).await;
    there.until(|heard| !heard.moved.lock().unwrap().is_empty()).await;
    assert_eq!(there.take(), [("alice".to_owned(), 2, true)]);
    assert_eq!(here.take(), [("alice".to_owned(), 2, true)], "once, not by its own notification");
    other.apply("phone", vec![folder(1, "c")]).await;
    here.until(|heard| !heard.moved.lock().unwrap().is_empty()).await;
    assert_eq!(here.take(), [("alice".to_owned(), 3, true)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL"]
async fn a_restart_of_the_database_is_followed_by_a_look() {
    let mut server = PostgresServer::start().unwrap();
    server.create_database("moves").await.unwrap();
    let url = server.url(server.address(), "moves");
    let scene = Scene::at(url).await;
    let heard = Heard::of(&*scene.store);
    assert_eq!(scene.store.announce_heads().await, Announcements::Notified);
    let before = *heard.any.lock().unwrap();
    server.restart(true).unwrap();
    heard.until(|heard| *heard.any.lock().unwrap() > before).await;
}
