//! The traps of sync protocols, each sprung over real HTTP, named for what must hold.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};
use vfs_sync_core::cursor::{Cursor, Position};
use vfs_sync_core::entry::Change;
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::{PullPage, PushResponse, PushStatus};
use vfs_sync_testkit::{Retention, TestServer};

const NOON: &str = "2026-03-01T12:00:00.000Z";

fn noon() -> Timestamp {
    Timestamp::parse(NOON).unwrap()
}

/// A server whose clock stands at noon.
async fn at_noon() -> TestServer {
    let server = TestServer::start().await;
    server.clock().freeze(noon());
    server
}

/// A replica of alice's that keeps nothing but its cursor and what it was told.
struct Replica<'a> {
    server: &'a TestServer,
    http: reqwest::Client,
    name: String,
    next: u64,
    cursor: Option<Cursor>,
    baseline: Option<Cursor>,
    view: BTreeMap<String, Value>,
}

impl<'a> Replica<'a> {
    fn new(server: &'a TestServer, name: &str) -> Self {
        Self {
            server,
            http: reqwest::Client::new(),
            name: name.into(),
            next: 1,
            cursor: None,
            baseline: None,
            view: BTreeMap::new(),
        }
    }

    /// An operation of this replica's, with the next write id, made at noon and some.
    fn op(&mut self, kind: &str, item: &str, millis: i64, more: Value) -> Value {
        let write_id = self.next;
        self.next += 1;
        let mut op = json!({
            "opId": format!("{}-{write_id}-{}", self.name, uuid::Uuid::now_v7()),
            "opType": kind, "itemId": item, "replicaId": self.name, "writeId": write_id,
            "occurredAt": noon().plus_millis(millis),
        });
        op.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        op
    }

    fn folder(&mut self, item: &str, parent: Option<&str>) -> Value {
        let more = match parent {
            Some(parent) => json!({"objectType": "folder", "name": item, "parentId": parent}),
            None => json!({"objectType": "folder", "name": item}),
        };
        self.op("item_upsert", item, 0, more)
    }

    fn rename(&mut self, item: &str, name: &str, millis: i64) -> Value {
        self.op("item_upsert", item, millis, json!({"name": name}))
    }

    fn delete(&mut self, item: &str, millis: i64) -> Value {
        self.op("item_delete", item, millis, json!({}))
    }

    fn link(&mut self, kind: &str, parent: &str, child: &str, millis: i64) -> Value {
        self.op(kind, child, millis, json!({"parentId": parent, "childId": child}))
    }

    async fn push(&self, operations: Vec<Value>) -> PushResponse {
        let answer = self
            .http
            .post(format!("{}/v1/vfs/crdt/push", self.server.url()))
            .bearer_auth(self.server.token("alice"))
            .json(&json!({"clientId": self.name, "operations": operations}))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200);
        answer.json().await.unwrap()
    }

    /// Pushes and sees everything applied.
    async fn applied(&self, operations: Vec<Value>) {
        let count = operations.len();
        assert_eq!(statuses(&self.push(operations).await), vec!["applied"; count]);
    }

    async fn page(&self, limit: usize) -> PullPage {
        let mut url = format!(
            "{}/v1/vfs/crdt/vfs-sync?limit={limit}&clientId={}",
            self.server.url(),
            self.name
        );
        for (name, cursor) in [("cursor", &self.cursor), ("baseline", &self.baseline)] {
            if let Some(cursor) = cursor {
                url += &format!("&{name}={}", cursor.encode());
            }
        }
        let token = self.server.token("alice");
        let answer = self.http.get(url).bearer_auth(token).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.json().await.unwrap()
    }

    /// Pulls until settled; how many entries came.
    async fn pull(&mut self, limit: usize) -> usize {
        let mut entries = 0;
        loop {
            let page = self.page(limit).await;
            self.baseline = self.baseline.take().or(page.baseline);
            entries += page.items.len();
            for entry in page.items {
                assert!(Some(&entry.position) > self.cursor.as_ref(), "the feed goes on");
                self.cursor = Some(entry.position);
                self.told(&entry.body.change);
            }
            if !page.has_more {
                return entries;
            }
        }
    }

    fn told(&mut self, change: &Change) {
        let link = |parent, child| format!("link {}", json!([parent, child]));
        match change {
            Change::ItemUpsert(item) => {
                let value = json!({"name": item.name, "metadata": item.metadata});
                self.view.insert(format!("item {}", item.item_id), value);
            }
            Change::ItemDelete { item, .. } => {
                self.view.remove(&format!("item {item}"));
            }
            Change::LinkAdd { parent, child } => {
                self.view.insert(link(parent, child), Value::Null);
            }
            Change::LinkRemove { parent, child, .. } => {
                self.view.remove(&link(parent, child));
            }
            other => panic!("nobody made a {other:?}"),
        }
    }

    fn keys(&self) -> Vec<&str> {
        self.view.keys().map(String::as_str).collect()
    }
}

fn statuses(response: &PushResponse) -> Vec<String> {
    let text = |value: Value| value.as_str().map(str::to_owned);
    let one = |status, reason| {
        let status = text(json!(status)).unwrap();
        text(json!(reason)).map_or(status.clone(), |reason| format!("{status}:{reason}"))
    };
    response.results.iter().map(|result| one(result.status, result.reason)).collect()
}

#[tokio::test]
async fn a_late_push_reaches_every_replica() {
    let server = at_noon().await;
    let (mut offline, mut online) = (Replica::new(&server, "offline"), Replica::new(&server, "on"));
    let written_yesterday =
        offline.op("item_upsert", "old", -86_400_000, json!({"objectType": "note", "name": "old"}));
    let now = online.folder("new", None);
    online.applied(vec![now]).await;
    online.pull(100).await;
    offline.applied(vec![written_yesterday]).await;
    online.pull(100).await;
    assert_eq!(online.keys(), ["item new", "item old"]);
}

#[tokio::test]
async fn a_device_dated_2036_is_beaten_within_a_minute_and_beats_others_again_once_told() {
    let server = at_noon().await;
    let (mut ahead, mut other) = (Replica::new(&server, "ahead"), Replica::new(&server, "other"));
    let decade = 10 * 365 * 86_400_000;
    let made = other.folder("i", None);
    other.applied(vec![made]).await;
    let future = ahead.rename("i", "from 2036", decade);
    let told = ahead.push(vec![future]).await.results.remove(0).authored_at.unwrap();
    assert_eq!(told, noon().plus_millis(60_000));
    other.pull(100).await;
    assert_eq!(other.view["item i"]["name"], "from 2036", "it arrives");
    server.clock().advance(Duration::from_secs(61));
    let later = other.rename("i", "from now", 61_000);
    other.applied(vec![later]).await;
    server.clock().advance(Duration::from_secs(1));
    let lowered = ahead.rename("i", "again", 61_500);
    ahead.applied(vec![lowered]).await;
    other.pull(100).await;
    assert_eq!(other.view["item i"]["name"], "again");
}

#[tokio::test]
async fn after_the_servers_clock_stepped_back_an_edit_made_after_seeing_x_still_beats_x() {
    let server = at_noon().await;
    let (mut a, mut b) = (Replica::new(&server, "a"), Replica::new(&server, "b"));
    let ops = vec![a.folder("i", None), a.rename("i", "x", 0)];
    a.applied(ops).await;
    b.pull(100).await;
    let seen = b.cursor.as_ref().unwrap().changed_at;
    server.clock().step_back(Duration::from_secs(3_600));
    let after = b.rename("i", "after x", seen.as_millis() - noon().as_millis() + 1);
    b.applied(vec![after]).await;
    let before_changed = a.pull(100).await;
    assert!(before_changed > 0);
    assert_eq!(a.view["item i"]["name"], "after x");
    assert!(a.cursor.as_ref().unwrap().changed_at >= seen, "feed times never step back");
}

#[tokio::test]
async fn a_puller_that_races_with_pushes_skips_none() {
    let server = TestServer::start().await;
    let (writers, rounds) = (4u64, 25u64);
    let pushing = async {
        let one = |index: u64| {
            let mut writer = Replica::new(&server, &format!("w{index}"));
            async move {
                for round in 0..rounds {
                    let op = writer.folder(&format!("i{index}-{round}"), None);
                    writer.applied(vec![op]).await;
                }
            }
        };
        futures::future::join_all((0..writers).map(one)).await;
    };
    let mut reader = Replica::new(&server, "reader");
    let pulling = async {
        while (reader.view.len() as u64) < writers * rounds {
            reader.pull(3).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), futures::future::join(pushing, pulling))
        .await
        .expect("every entry reaches the reader");
}

#[tokio::test]
async fn the_second_sync_after_any_kind_of_write_is_clean() {
    let server = TestServer::start().await;
    let mut a = Replica::new(&server, "a");
    let mut b = Replica::new(&server, "b");
    let kinds = vec![
        vec![a.folder("i", None), a.folder("j", Some("i"))],
        vec![a.rename("j", "named", 5)],
        vec![a.folder("k", None), a.link("link_reassign", "k", "j", 6)],
        vec![a.link("link_remove", "k", "j", 7)],
        vec![a.delete("i", 8)],
    ];
    for ops in kinds {
        a.applied(ops).await;
        assert!(b.pull(2).await > 0);
        let cursor = b.cursor.clone();
        assert_eq!(b.pull(2).await, 0, "nothing comes twice");
        let answer = b
            .http
            .post(format!("{}/v1/vfs/crdt/reconcile", server.url()))
            .bearer_auth(server.token("alice"))
            .json(&json!({"clientId": "b", "cursor": cursor}))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200);
        let acknowledged: Value = answer.json().await.unwrap();
        assert_eq!(acknowledged["cursor"], json!(cursor), "to the last digit");
    }
}

#[tokio::test]
async fn a_burst_of_one_replica_applies_in_its_order_also_while_its_clock_trails() {
    let server = at_noon().await;
    let (mut a, mut trailing) = (Replica::new(&server, "a"), Replica::new(&server, "trailing"));
    let made = a.folder("i", None);
    a.applied(vec![made]).await;
    let burst = (1..=5).map(|n| trailing.rename("i", &format!("n{n}"), 1)).collect();
    trailing.applied(burst).await;
    a.pull(100).await;
    assert_eq!(a.view["item i"]["name"], "n5");
}

#[tokio::test]
async fn nothing_is_lost_when_a_folder_goes_while_somebody_works_in_it() {
    let server = at_noon().await;
    let (mut a, mut b) = (Replica::new(&server, "a"), Replica::new(&server, "b"));
    let ops = vec![a.folder("f", None), a.folder("old", Some("f"))];
    a.applied(ops).await;
    let gone = a.delete("f", 10);
    a.applied(vec![gone]).await;
    let meanwhile = vec![b.folder("made", Some("f")), b.delete("old", 5)];
    b.applied(meanwhile).await;
    a.pull(1).await;
    assert_eq!(a.keys(), ["item made"], "unfiled, not gone");
    let back = b.rename("f", "back", 20);
    b.applied(vec![back]).await;
    a.pull(1).await;
    assert_eq!(a.keys(), ["item f", "item made", r#"link ["f","made"]"#]);
}

#[tokio::test]
async fn linking_under_what_is_not_there_and_under_what_is_somebody_elses_is_refused_alike() {
    let server = at_noon().await;
    let mut a = Replica::new(&server, "a");
    let mut theirs = Replica::new(&server, "theirs");
    let op = theirs.folder("secret", None);
    let answer = theirs
        .http
        .post(format!("{}/v1/vfs/crdt/push", server.url()))
        .bearer_auth(server.token("mallory"))
        .json(&json!({"clientId": "theirs", "operations": [op]}))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    let mine = a.folder("mine", None);
    a.applied(vec![mine]).await;
    let mut answers = Vec::new();
    for parent in ["secret", "nowhere"] {
        let ops = vec![
            a.link("link_add", parent, "mine", 1),
            a.link("link_reassign", parent, "mine", 1),
            a.link("link_remove", parent, "mine", 1),
            a.link("link_add", "mine", parent, 1),
            a.folder("new", Some(parent)),
            a.rename(parent, "x", 1),
            a.delete(parent, 1),
        ];
        answers.push(statuses(&a.push(ops).await));
    }
    assert_eq!(answers[0], vec!["invalidOp:unknownItem"; 7]);
    assert_eq!(answers[0], answers[1]);
}

#[tokio::test]
async fn of_two_folders_moved_into_each_other_one_move_wins_everywhere() {
    let server = at_noon().await;
    let (mut a, mut b) = (Replica::new(&server, "a"), Replica::new(&server, "b"));
    let ops = vec![a.folder("x", None), a.folder("y", None)];
    a.applied(ops).await;
    let x_into_y = a.link("link_reassign", "y", "x", 10);
    let y_into_x = b.link("link_reassign", "x", "y", 11);
    assert_eq!(statuses(&a.push(vec![x_into_y]).await), ["applied"]);
    assert_eq!(statuses(&b.push(vec![y_into_x.clone()]).await), ["outdatedOp:cycle"]);
    assert_eq!(statuses(&b.push(vec![y_into_x]).await), ["outdatedOp:cycle"], "a retry");
    a.pull(100).await;
    b.pull(1).await;
    assert_eq!(a.view, b.view);
    assert_eq!(a.keys(), ["item x", "item y", r#"link ["y","x"]"#]);
}

#[tokio::test]
async fn a_dead_link_closes_no_cycle_when_its_end_comes_back() {
    let server = at_noon().await;
    let mut a = Replica::new(&server, "a");
    let ops = vec![a.folder("x", None), a.folder("y", Some("x")), a.delete("y", 10)];
    a.applied(ops).await;
    let under_the_dead = a.link("link_add", "y", "x", 20);
    assert_eq!(statuses(&a.push(vec![under_the_dead]).await), ["outdatedOp:cycle"]);
    let back = a.rename("y", "y", 30);
    a.applied(vec![back]).await;
    a.pull(100).await;
    assert_eq!(a.keys(), ["item x", "item y", r#"link ["x","y"]"#]);
}

#[tokio::test]
async fn a_rename_here_and_a_new_mtime_there_both_stay() {
    let server = at_noon().await;
    let (mut a, mut b) = (Replica::new(&server, "a"), Replica::new(&server, "b"));
    let made = a.folder("i", None);
    a.applied(vec![made]).await;
    let touched = b.op("item_upsert", "i", 5, json!({"metadata": {"mtime": NOON}}));
    let renamed = a.rename("i", "new", 5);
    a.applied(vec![renamed]).await;
    b.applied(vec![touched]).await;
    a.pull(100).await;
    assert_eq!(a.view["item i"], json!({"name": "new", "metadata": {"mtime": NOON}}));
}

#[tokio::test]
async fn ids_that_join_alike_are_distinct() {
    let server = at_noon().await;
    let mut a = Replica::new(&server, "a");
    let mut ops: Vec<_> = ["a:b", "c", "a", "b:c"].map(|id| a.folder(id, None)).into();
    ops.push(a.link("link_add", "a:b", "c", 1));
    ops.push(a.link("link_add", "a", "b:c", 1));
    ops.push(a.link("link_remove", "a:b", "c", 2));
    a.applied(ops).await;
    a.pull(100).await;
    let links: Vec<_> = a.keys().into_iter().filter(|key| key.starts_with("link")).collect();
    assert_eq!(links, [r#"link ["a","b:c"]"#]);
}

#[tokio::test]
async fn two_devices_delete_one_tree_parents_first_and_nothing_is_rejected() {
    let server = at_noon().await;
    let (mut a, mut b) = (Replica::new(&server, "a"), Replica::new(&server, "b"));
    let ops = vec![a.folder("f", None), a.folder("g", Some("f")), a.folder("h", Some("g"))];
    a.applied(ops).await;
    for (replica, millis) in [(&mut a, 5), (&mut b, 6)] {
        let ops = ["f", "g", "h"].map(|id| replica.delete(id, millis)).into();
        replica.applied(ops).await;
    }
    a.pull(1).await;
    assert!(a.view.is_empty());
}

#[tokio::test]
async fn a_replica_that_lost_its_state_gets_nothing_old_for_something_new() {
    let server = at_noon().await;
    let mut a = Replica::new(&server, "a");
    let ops = vec![a.folder("i", None), a.folder("j", None)];
    a.applied(ops).await;
    let mut reborn = Replica::new(&server, "a");
    let ops = vec![reborn.folder("new", None), reborn.folder("newer", None)];
    let response = reborn.push(ops).await;
    for result in &response.results {
        assert_eq!(result.status, PushStatus::StaleWriteId);
        assert_eq!(result.last_write_id.unwrap().get(), 2);
    }
    reborn.pull(100).await;
    assert_eq!(reborn.keys(), ["item i", "item j"]);
    reborn.next = 3;
    let ops = vec![reborn.folder("new", None)];
    reborn.applied(ops).await;
}

#[tokio::test]
async fn the_first_sync_of_a_fresh_replica_ends_while_old_removals_are_pruned() {
    let server = at_noon().await;
    let mut a = Replica::new(&server, "a");
    let names: Vec<String> = (0..20).map(|n| format!("i{n:02}")).collect();
    let made = names.iter().map(|id| a.folder(id, None)).collect();
    a.applied(made).await;
    let gone = names.iter().step_by(2).map(|id| a.delete(id, 5)).collect();
    a.applied(gone).await;
    let kept: BTreeSet<_> =
        names.iter().skip(1).step_by(2).map(|id| format!("item {id}")).collect();
    let mut fresh = Replica::new(&server, "fresh");
    let page = fresh.page(3).await;
    fresh.baseline = page.baseline.clone();
    for entry in page.items {
        fresh.cursor = Some(entry.position.clone());
        fresh.told(&entry.body.change);
    }
    server.clock().advance(Duration::from_secs(100));
    let before = noon().plus_millis(90_000);
    let retention = Retention { removals_before: before, accepted_before: before, at_most: 1_000 };
    assert!(server.store().prune(retention).await.unwrap().removals >= 10);
    fresh.pull(3).await;
    assert_eq!(fresh.view.into_keys().collect::<BTreeSet<_>>(), kept);
}

#[tokio::test]
async fn with_more_than_512_replicas_in_a_users_life_everything_goes_on() {
    let server = TestServer::start().await;
    for index in 0..520 {
        let mut replica = Replica::new(&server, &format!("r{index}"));
        let op = replica.folder(&format!("i{index}"), None);
        replica.applied(vec![op]).await;
    }
    let mut first = Replica::new(&server, "r0");
    let page = first.page(500).await;
    assert_eq!(page.last_reconciled_write_ids.len(), 512);
    assert!(
        page.last_reconciled_write_ids.keys().any(|id| id.as_str() == "r0"),
        "its own is there"
    );
    first.pull(500).await;
    let answer = first
        .http
        .post(format!("{}/v1/vfs/crdt/reconcile", server.url()))
        .bearer_auth(server.token("alice"))
        .json(&json!({
            "clientId": "r0", "cursor": first.cursor,
            "lastReconciledWriteIds": page.last_reconciled_write_ids,
        }))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
}

#[tokio::test]
async fn one_malformed_operation_is_refused_alone() {
    let server = at_noon().await;
    let mut a = Replica::new(&server, "a");
    let bad = [
        a.op("item_upsert", "a\u{0}b", 0, json!({"objectType": "note"})),
        a.op("item_upsert", &"x".repeat(1_000), 0, json!({"objectType": "note"})),
        a.op("item_upsert", "i", 0, json!({"objectType": "note", "name": "a\u{0}b"})),
        a.op(
            "item_upsert",
            "i",
            0,
            json!({"objectType": "note", "keyEpoch": 1, "encryptedPayload": "A".repeat(70_000)}),
        ),
        a.op(
            "item_upsert",
            "i",
            0,
            json!({"objectType": "note", "metadata": {"k": "v".repeat(20_000)}}),
        ),
        a.op("item_explode", "i", 0, json!({})),
        json!(7),
        json!(null),
    ];
    let mut ops = vec![a.folder("before", None)];
    ops.extend(bad);
    ops.push(a.folder("after", None));
    let got = statuses(&a.push(ops).await);
    assert_eq!(got[0], "applied");
    assert_eq!(got[1..9], vec!["invalidOp:malformed"; 8]);
    assert_eq!(got[9], "applied");
}

#[tokio::test]
async fn a_cursor_that_the_server_cannot_honour_is_refused_with_what_it_has() {
    let server = at_noon().await;
    let mut a = Replica::new(&server, "a");
    let op = a.folder("i", None);
    a.applied(vec![op]).await;
    a.pull(100).await;
    let cursor = a.cursor.clone().unwrap();
    let last = Position::parse(&cursor.change_id).unwrap();
    let old = Position { counter: last.counter + 1, ..last }.at(cursor.changed_at);
    let url = format!("{}/v1/vfs/crdt/vfs-sync?cursor={}", server.url(), old.encode());
    let answer = a.http.get(url).bearer_auth(server.token("alice")).send().await.unwrap();
    assert_eq!(answer.status(), 409);
    let body: Value = answer.json().await.unwrap();
    assert_eq!(body["code"], "crdt_rematerialization_required");
    assert_eq!(body["requestedCursor"], old.encode());
    assert!(body.as_object().unwrap().contains_key("oldestAvailableCursor"));
    let end = json!({"epoch": last.epoch, "lastCounter": last.counter});
    assert_eq!(body["history"], json!([end]));
    let mut fresh = Replica::new(&server, "fresh");
    fresh.pull(1).await;
    assert_eq!(fresh.view, a.view);
}
