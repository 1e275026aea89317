//! Users who are deleted: what goes, what stays, and what others are told.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use vfs_sync_core::access::{Principal, PrincipalType};
use vfs_sync_core::server::deletion::{Deletion, DeletionPace, DeletionPhase};
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::{PushReason, PushStatus};
use vfs_sync_store::testing::session;
use vfs_sync_store::{
    AllowAnswer, NewStage, Retention, SignInAnswer, StageAnswer, StoreError, TrashCursor,
    UserChange,
};

use super::credentials::secret;
use super::scene::*;

const PACE: DeletionPace = DeletionPace { settle_millis: 50, retry_millis: 5 };
/// Texts that only the deleted user wrote, or that name the user.
const OF_BOB: [&str; 5] = ["bob", "bobphone", "secret", "text/x-private", "laptop of"];

fn grant(write_id: u64, item: &str, kind: &str, to: &str) -> Value {
    json!({"opType": "acl_add", "writeId": write_id, "itemId": item, "principalType": kind,
        "principalId": to, "accessLevel": "write"})
}

fn named(write_id: u64, item: &str, name: &str) -> Value {
    json!({"opType": "item_upsert", "writeId": write_id, "itemId": item, "name": name,
        "occurredAt": "2026-01-01T00:00:40Z"})
}

impl Scene {
    pub(crate) async fn delete_user(&self, who: &str, wait: u64) -> Option<Deletion> {
        let now = self.now();
        let due = now.plus_millis(i64::try_from(wait).unwrap());
        self.store.delete_user(&user(who), due, now).await.unwrap()
    }

    pub(crate) async fn deletion(&self, who: &str) -> Deletion {
        self.store.deletion(&user(who)).await.unwrap().unwrap()
    }

    /// Takes a step, and does what the object store has to.
    pub(crate) async fn step(&self, pseudonym: &str, at_most: u32) -> Deletion {
        let now = self.now();
        let step = self.store.deletion_step(pseudonym, now, at_most, PACE).await.unwrap().unwrap();
        for done in self.store.to_reclaim(now, 100).await.unwrap() {
            self.store.reclaimed(&done, now, now.plus_millis(1_000)).await.unwrap();
        }
        if step.due_at > now {
            self.pass(u64::try_from(step.due_at.as_millis() - now.as_millis()).unwrap());
        }
        step
    }

    /// Takes steps until all is removed; returns the receipt and the number of steps.
    pub(crate) async fn remove_all(&self, who: &str, at_most: u32) -> (Deletion, usize) {
        let pseudonym = self.deletion(who).await.pseudonym;
        for steps in 1..2_000 {
            let deletion = self.step(&pseudonym, at_most).await;
            if deletion.is_done() {
                return (deletion, steps);
            }
        }
        panic!("it does not end: {:?}", self.deletion(who).await)
    }

    async fn is_denied(&self, who: &str) -> (bool, bool) {
        let found = self.store.admission(user(who), None).await.unwrap();
        (found.is_disabled, found.is_deleted)
    }

    /// Alice, Bob and Carol, who share in every way.
    async fn neighbours(&self) {
        let store = &self.store;
        let now = || self.now();
        self.apply("alicelap", vec![folder(1, "a1"), file_in(2, "a2", "a1"), folder(3, "a3")])
            .await;
        let mine = vec![
            folder(1, "b1"),
            file_in(2, "b2", "b1"),
            file_in(3, "b3", "b1"),
            folder(4, "b4"),
            named(5, "b2", "secret plans"),
            folder(6, "b5"),
            delete(7, "b5"),
            file_in(8, "b6", "b4"),
        ];
        self.apply_as("bob", "bobphone", mine).await;
        self.apply_as("carol", "carolpad", vec![folder(1, "c1")]).await;
        store.set_member(group(), user("bob"), true, now()).await.unwrap();
        store.set_member(group(), user("carol"), true, now()).await.unwrap();
        let given = vec![grant(9, "b1", "user", "alice"), grant(10, "b4", "group", "team")];
        self.apply_as("bob", "bobphone", given).await;
        self.apply(
            "alicelap",
            vec![grant(4, "a1", "user", "bob"), grant(5, "a3", "group", "team")],
        )
        .await;
        for who in ["alice", "bob", "carol"] {
            store.arrive(&user(who)).await.unwrap();
        }
        // Each writes in the other's folder, and alice keeps a shortcut.
        let there = vec![
            file_in(11, "a4", "a1"),
            named(12, "a2", "renamed by somebody"),
            file_in(13, "a5", "a1"),
            link(14, "link_add", "a3", "a4"),
            link(15, "link_reassign", "a3", "a4"),
            delete(16, "a5"),
        ];
        self.push_as("bob", "bobphone", there).await;
        let here = vec![file_in(6, "b7", "b1"), link(7, "link_add", "a1", "b2")];
        self.apply("alicelap", here).await;
        for (who, name, item) in [
            ("bob", "one", "b2"),
            ("bob", "two", "b2"),
            ("bob", "three", "a2"),
            ("alice", "four", "b3"),
            ("alice", "five", "a4"),
        ] {
            self.content(who, name, item, 100, &QUOTA).await.unwrap();
        }
        store.open_stage(&user("bob"), &private_stage(), &QUOTA, now()).await.unwrap();
        for (who, other) in [("bob", "dave"), ("dave", "bob")] {
            store.set_block(user(who), user(other), true, now()).await.unwrap();
        }
        let seen = vec![super::devices::sighting("bob", "bobphone", now())];
        store.note_devices(seen).await.unwrap();
        let signed_in = self.sign_in("bob", "bobphone", &secret(1)).await;
        assert_eq!(signed_in, SignInAnswer::SignedIn);
        let state = store.state(&user("bob"), &replica("bobphone")).await.unwrap();
        let request = vfs_sync_core::wire::ReconcileRequest {
            client_id: replica("bobphone"),
            cursor: state.feed_head.unwrap(),
            last_reconciled_write_ids: write_ids(&[("bobphone", 1)]),
        };
        store.reconcile(&user("bob"), &request, now()).await.unwrap();
    }
}

fn group() -> Principal {
    Principal { kind: PrincipalType::Group, id: "team".parse().unwrap() }
}

fn private_stage() -> NewStage {
    NewStage {
        staging_id: "open-stage".parse().unwrap(),
        blob_id: "open-blob".parse().unwrap(),
        expires_at: at(86_400_000),
        expiry_chosen: true,
        content_type: Some("text/x-private".into()),
        size: 10,
    }
}

/// What a feed shows in the end, by subject.
fn folded(entries: &[Value]) -> BTreeMap<String, Value> {
    let mut shown = BTreeMap::new();
    for entry in entries {
        let kind = entry["opType"].as_str().unwrap();
        let (class, gone) = match kind {
            "item_upsert" => ("item", false),
            "item_delete" => ("item", true),
            "link_add" => ("link", false),
            "link_remove" => ("link", true),
            "acl_add" => ("grant", false),
            "acl_remove" => ("grant", true),
            "blob_attach" => ("content", false),
            _ => ("content", true),
        };
        let key =
            format!("{class} {} {} {}", entry["itemId"], entry["parentId"], entry["principalId"]);
        if gone {
            shown.remove(&key);
        } else {
            let mut entry = entry.clone();
            for place in ["opId", "occurredAt", "authorOpId", "replicaId", "writeId", "actorId"] {
                entry.as_object_mut().unwrap().remove(place);
            }
            entry.as_object_mut().unwrap().remove("authorReplicaId");
            shown.insert(key, entry);
        }
    }
    shown
}

pub(crate) async fn a_deleted_user_goes_and_others_keep_what_is_theirs(scene: Scene) {
    scene.neighbours().await;
    let mut views = BTreeMap::new();
    for who in ["alice", "carol"] {
        views.insert(who, scene.settle_as(who, None, 500).await);
    }
    let before = scene.store.user_record(user("alice")).await.unwrap().unwrap();
    assert!(scene.delete_user("bob", 0).await.is_some());
    let (receipt, _) = scene.remove_all("bob", 4).await;
    // b1 to b7, of which one was deleted before.
    assert_eq!((receipt.counts.items, receipt.user.is_none()), (7, true));
    // The open stage too; what bob uploaded to alice's file stays.
    assert_eq!(receipt.counts.shares, 2, "{receipt:?}");
    for (who, entries) in views {
        let cursor = cursor_of(entries.last().unwrap());
        let after = scene.settle_as(who, Some(cursor), 3).await;
        let told = |item: &str| {
            let one = |entry: &&Value| entry["opType"] == "item_delete" && entry["itemId"] == item;
            after.iter().find(one).map(|entry| entry["because"].clone())
        };
        let lost: &[&str] = if who == "alice" { &["b1", "b2", "b3", "b7"] } else { &["b4", "b6"] };
        for item in lost {
            assert_eq!(told(item), Some("ownerDeleted".into()), "{who} {item}: {after:#?}");
        }
        assert!(after.iter().all(|entry| entry["itemId"] != "a2" || told("a2").is_none()));
        // A replica that was there and one that comes new see the same.
        let all: Vec<Value> = entries.into_iter().chain(after).collect();
        let fresh = scene.settle_as(who, None, 500).await;
        assert_eq!(folded(&all), folded(&fresh), "{who}");
        let shown = folded(&fresh);
        let left: Vec<_> = shown
            .values()
            .filter(|entry| entry["itemId"].as_str().unwrap().starts_with('b'))
            .collect();
        assert!(left.is_empty(), "{who}: {left:#?}");
        let mentioned = fresh.iter().filter(|entry| entry["opType"] != "acl_remove");
        for entry in mentioned {
            assert!(!entry.to_string().contains("\"bob\""), "{who}: {entry}");
        }
    }
    let after = scene.store.user_record(user("alice")).await.unwrap().unwrap();
    assert_eq!(after.blobs, before.blobs, "alice's own contents count as before");
    assert_eq!(after.metadata.items, before.metadata.items);
    let (alice, three) = (user("alice"), vec!["blob-three".parse().unwrap()]);
    let readable = scene.store.readable_blobs(&alice, three).await.unwrap();
    assert!(readable[0].is_some(), "what bob uploaded to alice's file stays");
    let answer = scene.push("alicelap", vec![file_in(8, "b9", "b1")]).await;
    assert_eq!(answer.results[0].reason, Some(PushReason::UnknownItem));
    scene.apply("alicelap", vec![named(8, "a4", "still alice's")]).await;
    let trash = scene.store.trash(&user("alice"), None::<TrashCursor>, 10, 1_000).await.unwrap();
    assert_eq!(trash.items.len(), 1, "what bob deleted of alice's can be restored");
    assert_eq!(scene.store.user_record(user("bob")).await.unwrap(), None);
    let users = scene.store.users(None, 10).await.unwrap();
    assert_eq!(
        users.iter().map(|one| one.user.as_str()).collect::<Vec<_>>(),
        ["alice", "carol", "dave"]
    );
}

pub(crate) async fn nothing_goes_before_its_time_and_a_deletion_can_be_called_off(scene: Scene) {
    scene.apply_as("bob", "bobphone", vec![folder(1, "b1")]).await;
    assert_eq!(scene.delete_user("nobody", 0).await, None);
    let deletion = scene.delete_user("bob", 100).await.unwrap();
    assert_eq!(scene.is_denied("bob").await, (true, false), "only disabled as yet");
    let step = scene.store.deletion_step(&deletion.pseudonym, scene.now(), 100, PACE).await;
    assert_eq!(step.unwrap().unwrap(), deletion);
    assert_eq!(scene.store.due_deletions(scene.now(), 10).await.unwrap(), Vec::<String>::new());
    let allow = async || scene.store.allow_user(user("bob"), scene.now(), 7).await.unwrap();
    assert_eq!(allow().await, AllowAnswer::CalledOff);
    assert_eq!(scene.is_denied("bob").await, (false, false));
    assert_eq!(allow().await, AllowAnswer::NotDeleted);
    scene.apply_as("bob", "bobphone", vec![folder(2, "b2")]).await;

    // One who was disabled before stays so.
    scene.store.change_user(user("bob"), UserChange::Disable, scene.now()).await.unwrap();
    scene.delete_user("bob", 100).await.unwrap();
    assert_eq!(allow().await, AllowAnswer::CalledOff);
    assert_eq!(scene.is_denied("bob").await, (true, false));

    // A repetition with another wait replaces the first.
    scene.delete_user("bob", 1_000_000).await.unwrap();
    scene.delete_user("bob", 0).await.unwrap();
    let step = scene.step(&deletion.pseudonym, 100).await;
    assert_eq!(step.phase, DeletionPhase::Shares);
    assert_eq!(allow().await, AllowAnswer::UnderWay);
    assert!(scene.is_denied("bob").await.1);
    scene.remove_all("bob", 100).await;
    assert!(scene.is_denied("bob").await.1, "until somebody allows it");
    assert_eq!(scene.deletion("bob").await.counts.items, 2);
}

pub(crate) async fn who_is_allowed_again_begins_with_nothing(scene: Scene) {
    scene.neighbours().await;
    scene.delete_user("bob", 0).await.unwrap();
    scene.remove_all("bob", 50).await;
    let generation = scene.store.admission_generation().await.unwrap();
    let allowed = scene.store.allow_user(user("bob"), scene.now(), 7).await.unwrap();
    assert_eq!(allowed, AllowAnswer::Allowed);
    assert!(scene.store.admission_generation().await.unwrap() > generation);
    assert_eq!(scene.is_denied("bob").await, (false, false));
    assert_eq!(scene.settle_as("bob", None, 500).await, Vec::<Value>::new());
    scene.apply_as("bob", "newphone", vec![folder(1, "n1")]).await;
    assert_eq!(told(&scene.settle_as("bob", None, 500).await), ["item_upsert n1"]);
    scene.apply("alicelap", vec![grant(8, "a1", "user", "bob")]).await;
    assert!(told(&scene.settle_as("bob", None, 500).await).contains(&"item_upsert a2".to_owned()));
    // And can be deleted once more.
    scene.delete_user("bob", 0).await.unwrap();
    let (receipt, _) = scene.remove_all("bob", 50).await;
    assert_eq!(receipt.counts.items, 1);
    assert!(scene.is_denied("bob").await.1);
}

pub(crate) async fn calls_that_are_under_way_leave_nothing_either(scene: Scene) {
    scene.neighbours().await;
    let pseudonym = scene.delete_user("bob", 0).await.unwrap().pseudonym;
    scene.step(&pseudonym, 20).await;
    // A push that was admitted before is decided after.
    let push =
        scene.store.push(batch("bob", "bobphone", vec![folder(20, "b9")]), scene.now()).await;
    assert!(matches!(push, Err(StoreError::UserDeleted)), "{push:?}");
    let late = NewStage {
        staging_id: "late-stage".parse().unwrap(),
        blob_id: "late-blob".parse().unwrap(),
        ..private_stage()
    };
    let mut opened = false;
    for _ in 0..2_000 {
        let step = scene.step(&pseudonym, 20).await;
        // In the midst, and once all was removed: an upload, and a noted call.
        if !opened && step.phase == DeletionPhase::Shares && step.counts.rows > 0 {
            let stage = scene.store.open_stage(&user("bob"), &late, &QUOTA, scene.now()).await;
            assert!(matches!(stage.unwrap(), StageAnswer::Open(_)));
            let seen = vec![super::devices::sighting("bob", "bobphone", scene.now())];
            scene.store.note_devices(seen).await.unwrap();
            opened = true;
        }
        if step.is_done() {
            assert!(opened);
            assert_eq!(scene.store.user_record(user("bob")).await.unwrap(), None);
            let devices = scene.store.devices(Some(user("bob")), None, 10).await.unwrap();
            assert!(devices.is_empty());
            let refused = scene.sign_in("bob", "new", &secret(2)).await;
            assert!(matches!(refused, SignInAnswer::Denied(why) if why.is_deleted), "{refused:?}");
            let stage = scene.store.any_stage(&late.staging_id).await.unwrap().unwrap();
            assert!(stage.stage.owner.as_str().starts_with("deleted:"));
            assert_eq!(stage.blob_status, "deleted");
            return;
        }
    }
    panic!("it does not end");
}

pub(crate) async fn somebody_in_the_folders_of_one_who_goes_keeps_nothing_up(scene: Scene) {
    scene.neighbours().await;
    let pseudonym = scene.delete_user("bob", 0).await.unwrap().pseudonym;
    let mut write_id = 20;
    for round in 0..2_000 {
        let step = scene.step(&pseudonym, 3).await;
        if step.is_done() {
            let left = scene.settle().await;
            assert!(left.iter().all(|entry| entry["ownerId"] != "bob"), "{left:#?}");
            return;
        }
        if round < 30 {
            let made = vec![file_in(write_id, &format!("b1{write_id}"), "b1")];
            let answer = scene.push("alicelap", made).await;
            if answer.results[0].status == PushStatus::Applied {
                write_id += 1;
            }
        }
    }
    panic!("it does not end");
}

/// Every value of every table, as bytes, by table.
async fn everything(database: &str) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    if database.starts_with("postgres") {
        let (client, connection) = session(database).await.unwrap();
        let tables = client
            .query("SELECT tablename FROM pg_tables WHERE schemaname = 'public'", &[])
            .await
            .unwrap();
        assert!(tables.len() > 20);
        for table in tables {
            let table: String = table.get(0);
            // As text, bytes come as hexadecimal digits.
            let sql = format!("SELECT to_jsonb(t)::text FROM {table} AS t");
            for row in client.query(&sql, &[]).await.unwrap() {
                found.push((table.clone(), unhexed(row.get(0))));
            }
        }
        drop(client);
        connection.await.unwrap().unwrap();
        return found;
    }
    let connection = rusqlite::Connection::open(database).unwrap();
    let mut tables = connection
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
        .unwrap();
    let tables: Vec<String> =
        tables.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap();
    assert!(tables.len() > 20);
    for table in tables {
        let mut select = connection.prepare(&format!("SELECT * FROM {table}")).unwrap();
        let columns = select.column_count();
        let mut rows = select.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            for column in 0..columns {
                use rusqlite::types::ValueRef::{Blob, Integer, Null, Real, Text};
                let value = match row.get_ref(column).unwrap() {
                    Text(bytes) | Blob(bytes) => bytes.to_vec(),
                    Integer(number) => number.to_string().into_bytes(),
                    Null | Real(_) => Vec::new(),
                };
                found.push((table.clone(), value));
            }
        }
    }
    found
}

/// Adds the bytes that `\x…` stands for in a text.
fn unhexed(text: String) -> Vec<u8> {
    let mut bytes = text.clone().into_bytes();
    for part in text.split("\\\\x").skip(1) {
        let digits: Vec<u8> = part.bytes().take_while(u8::is_ascii_hexdigit).collect();
        for pair in digits.chunks_exact(2) {
            let pair = std::str::from_utf8(pair).unwrap();
            bytes.push(u8::from_str_radix(pair, 16).unwrap());
        }
    }
    bytes
}

fn names_bob(value: &[u8]) -> Option<&'static str> {
    let contains = |text: &str| value.windows(text.len()).any(|part| part == text.as_bytes());
    OF_BOB.into_iter().find(|text| contains(text))
}

/// Fails if any table still has anything of bob's.
async fn nothing_names_bob(scene: &Scene) {
    let database = scene.database.clone().unwrap();
    for (table, value) in everything(&database).await {
        let found = names_bob(&value);
        assert_eq!(found, None, "{table}: {}", String::from_utf8_lossy(&value));
    }
    if !database.starts_with("postgres") {
        // No number stands for a user who is not there.
        let connection = rusqlite::Connection::open(&database).unwrap();
        for (table, column) in [
            ("items", "owner"),
            ("moves", "realm"),
            ("access", "uid"),
            ("feed", "uid"),
            ("feed_head", "uid"),
            ("replicas", "uid"),
            ("reconcile_state", "uid"),
            ("blobs", "owner"),
            ("blobs", "charged"),
            ("blob_stages", "owner"),
            ("blob_usage", "owner"),
            ("members", "uid"),
            ("writers", "uid"),
            ("trash", "owner"),
            ("trash", "deleted_by"),
            ("feed_epochs", "uid"),
            ("blocks", "owner"),
            ("blocks", "uid"),
            ("grantees", "owner"),
        ] {
            let sql = format!(
                "SELECT count(*) FROM {table} WHERE {column} IS NOT NULL \
                 AND {column} NOT IN (SELECT uid FROM realms)"
            );
            let left: i64 = connection.query_row(&sql, [], |row| row.get(0)).unwrap();
            assert_eq!(left, 0, "{table}.{column}");
        }
        for table in ["links", "grants", "moves", "accepted_ops"] {
            let column = if table == "accepted_ops" { "rid" } else { "author" };
            let sql = format!(
                "SELECT count(*) FROM {table} WHERE {column} NOT IN (SELECT rid FROM replicas)"
            );
            let left: i64 = connection.query_row(&sql, [], |row| row.get(0)).unwrap();
            assert_eq!(left, 0, "{table}.{column}");
        }
    }
}

/// Removes the removals by which others' feeds name a grant to bob.
async fn prune(scene: &Scene) {
    let far = at(10_000_000_000);
    let retention = Retention { removals_before: far, accepted_before: at(-1), at_most: 1_000 };
    while scene.store.prune(retention).await.unwrap().removals > 0 {}
}

pub(crate) async fn no_column_of_any_table_names_a_deleted_user(scene: Scene) {
    scene.neighbours().await;
    let everywhere = everything(scene.database.as_ref().unwrap()).await;
    assert!(everywhere.iter().filter(|(_, value)| names_bob(value).is_some()).count() > 20);
    scene.delete_user("bob", 0).await.unwrap();
    scene.remove_all("bob", 100).await;
    prune(&scene).await;
    nothing_names_bob(&scene).await;
}

pub(crate) async fn a_deletion_goes_on_after_a_crash_at_every_step(scene: Scene) {
    scene.neighbours().await;
    let pseudonym = scene.delete_user("bob", 0).await.unwrap().pseudonym;
    let mut scene = scene;
    for steps in 0..2_000 {
        let step = scene.step(&pseudonym, 2).await;
        if step.is_done() {
            assert!(steps > 30, "{steps} small steps");
            assert_eq!(step.counts.items, 7);
            prune(&scene).await;
            nothing_names_bob(&scene).await;
            return;
        }
        scene = scene.reopened().await;
    }
    panic!("it does not end");
}

pub(crate) async fn two_processes_delete_one_user_together(scene: Scene) {
    scene.neighbours().await;
    let pseudonym = scene.delete_user("bob", 0).await.unwrap().pseudonym;
    let database = scene.database.clone().unwrap();
    let other = vfs_sync_store::open(&database, at(0)).await.unwrap();
    let late = |n: i64| at(1_000_000 + 1_000 * n);
    let done = |step: Result<Option<Deletion>, StoreError>| match step {
        Ok(step) => step.unwrap().is_done(),
        // The other one was in the way.
        Err(StoreError::Conflict | StoreError::Unavailable(_)) => false,
        Err(error) => panic!("{error}"),
    };
    for n in 0..2_000 {
        let now: Timestamp = late(n);
        let (one, two) = tokio::join!(
            scene.store.deletion_step(&pseudonym, now, 3, PACE),
            other.deletion_step(&pseudonym, now, 3, PACE),
        );
        for reclaim in other.to_reclaim(now, 100).await.unwrap() {
            other.reclaimed(&reclaim, now, now.plus_millis(1)).await.unwrap();
        }
        if done(one) | done(two) {
            let receipt = scene.deletion("bob").await;
            assert_eq!((receipt.counts.items, receipt.counts.shares), (7, 2), "each counts once");
            drop(other);
            prune(&scene).await;
            nothing_names_bob(&scene).await;
            return;
        }
    }
    panic!("it does not end");
}
