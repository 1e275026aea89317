//! Writers who share, all at once, through several stores on one PostgreSQL database.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};
use tokio_postgres::Client;
use vfs_sync_core::access::Principal;
use vfs_sync_core::server::push::PushBatch;
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::PushResult;
use vfs_sync_store::MetadataStore;
use vfs_sync_store::sqlite::SqliteStore;
use vfs_sync_store::testing::session;

use super::plans::deadlocks;
use super::scene::*;
use super::views::{Cast, DEVICES, Dice, ITEMS, Replica, Tables, block, operation};

/// Notes in which order transactions had the locks that decide what they see of one another: the
/// statement that locks realms ends when all of them are held, and they are held to the commit.
const TURNS: &str = "
    CREATE SEQUENCE turn;
    CREATE TABLE turns (tx BIGINT, turn BIGINT, locked TEXT);
    CREATE FUNCTION note_turn() RETURNS trigger AS $$ BEGIN
        INSERT INTO turns VALUES (txid_current(), nextval('turn'), TG_TABLE_NAME);
        RETURN NULL;
    END $$ LANGUAGE plpgsql;
    CREATE TRIGGER note AFTER INSERT OR UPDATE ON realms EXECUTE FUNCTION note_turn();
    CREATE TRIGGER note AFTER INSERT OR UPDATE ON groups EXECUTE FUNCTION note_turn();

    CREATE TABLE pushes (tx BIGINT, user_id TEXT, replica_id TEXT);
    CREATE FUNCTION note_push() RETURNS trigger AS $$ BEGIN
        INSERT INTO pushes VALUES (txid_current(), NEW.user_id, NEW.replica_id);
        RETURN NULL;
    END $$ LANGUAGE plpgsql;
    CREATE TRIGGER note AFTER INSERT OR UPDATE ON replicas
        FOR EACH ROW EXECUTE FUNCTION note_push();

    CREATE TABLE joins (tx BIGINT, kind BIGINT, group_id TEXT, user_id TEXT, present BOOLEAN);
    CREATE FUNCTION note_join() RETURNS trigger AS $$ BEGIN
        IF TG_OP = 'INSERT' THEN
            INSERT INTO joins VALUES (txid_current(), NEW.kind, NEW.group_id, NEW.user_id, true);
        ELSE
            INSERT INTO joins VALUES (txid_current(), OLD.kind, OLD.group_id, OLD.user_id, false);
        END IF;
        RETURN NULL;
    END $$ LANGUAGE plpgsql;
    CREATE TRIGGER note AFTER INSERT OR DELETE ON members
        FOR EACH ROW EXECUTE FUNCTION note_join();

    CREATE TABLE blockings (tx BIGINT, user_id TEXT, owner TEXT, blocked BOOLEAN);
    CREATE FUNCTION note_block() RETURNS trigger AS $$ BEGIN
        IF TG_OP = 'INSERT' THEN
            INSERT INTO blockings VALUES (txid_current(), NEW.user_id, NEW.owner, true);
        ELSE
            INSERT INTO blockings VALUES (txid_current(), OLD.user_id, OLD.owner, false);
        END IF;
        RETURN NULL;
    END $$ LANGUAGE plpgsql;
    CREATE TRIGGER note AFTER INSERT OR DELETE ON blocks
        FOR EACH ROW EXECUTE FUNCTION note_block();";

const PUSHES: u64 = 40;
const STORES: usize = 3;

/// A push as it was made, and what came of it.
#[derive(Debug)]
struct Pushed {
    batch: PushBatch,
    now: Timestamp,
    results: Vec<PushResult>,
}

async fn write(scene: Arc<Scene>, cast: Cast, who: String, device: &str, seed: u64) -> Vec<Pushed> {
    let mut dice = Dice::new(seed);
    let mut pushed = Vec::new();
    let mut next = 1;
    for _ in 0..PUSHES {
        let now = scene.pass(dice.below(2_000));
        let millis = now.as_millis() - START;
        let count = 1 + dice.below(6);
        let mut operations: Vec<Value> =
            (0..count).map(|n| operation(&mut dice, &cast, &who, next + n, millis)).collect();
        for made in operations.iter_mut().filter(|op| op["objectType"] == "file") {
            made["itemId"] = json!(format!("{who} {device} {}", made["writeId"]));
        }
        next += count;
        let batch = batch(&who, device, operations);
        let response = scene.store.push(batch.clone(), now).await.unwrap();
        pushed.push(Pushed { batch, now, results: response.results });
    }
    pushed
}

async fn shuffle_members(scene: Arc<Scene>, cast: Cast, seed: u64) {
    let mut dice = Dice::new(seed);
    for _ in 0..PUSHES {
        let (group, who) = (dice.one(&cast.groups), user(cast.one(&mut dice)));
        let present = dice.below(2) == 0;
        scene.store.set_member(&group, &who, present, scene.now()).await.unwrap();
    }
}

async fn shuffle_blocks(scene: Arc<Scene>, cast: Cast, seed: u64) {
    let mut dice = Dice::new(seed);
    for _ in 0..PUSHES {
        let who = cast.one(&mut dice).to_owned();
        block(&scene, &cast, &who, &mut dice).await;
    }
}

/// Everything happens again, one after the other in the order of the locks; every answer must be
/// the one that was given.
async fn repeat_in_order(client: &Client, mut pushed: BTreeMap<(String, String), Vec<Pushed>>) {
    pushed.values_mut().for_each(|pushes| pushes.reverse());
    let alone: &dyn MetadataStore = &SqliteStore::open_in_memory(at(0)).unwrap();
    let transactions = client
        .query(
            "SELECT t.tx, max(turn) FILTER (WHERE locked = 'realms'), max(turn) FROM turns t \
             GROUP BY t.tx ORDER BY coalesce(max(turn) FILTER (WHERE locked = 'realms'), max(turn))",
            &[],
        )
        .await
        .unwrap();
    for row in transactions {
        let tx: i64 = row.get(0);
        let sql = "SELECT kind, group_id, user_id, present FROM joins WHERE tx = $1";
        for row in client.query(sql, &[&tx]).await.unwrap() {
            let kind = [None, Some("user"), Some("group"), Some("organization")];
            let kind = kind[row.get::<_, i64>(0) as usize].unwrap();
            let group = Principal {
                kind: serde_json::from_value(kind.into()).unwrap(),
                id: row.get::<_, String>(1).parse().unwrap(),
            };
            let who = user(row.get(2));
            alone.set_member(&group, &who, row.get::<_, bool>(3), at(0)).await.unwrap();
        }
        let sql = "SELECT user_id, owner, blocked FROM blockings WHERE tx = $1";
        for row in client.query(sql, &[&tx]).await.unwrap() {
            let (who, owner) = (user(row.get(0)), user(row.get(1)));
            alone.set_block(&who, &owner, row.get::<_, bool>(2), at(0)).await.unwrap();
        }
        let sql = "SELECT DISTINCT user_id, replica_id FROM pushes WHERE tx = $1";
        for row in client.query(sql, &[&tx]).await.unwrap() {
            let push = pushed.get_mut(&(row.get(0), row.get(1))).unwrap().pop().unwrap();
            let again = alone.push(push.batch.clone(), push.now).await.unwrap();
            assert_eq!(again.results, push.results, "{push:?}");
        }
    }
    assert!(pushed.values().all(Vec::is_empty), "every push had its turn");
}

pub(crate) async fn writers_who_share_end_as_if_one_had_come_after_the_other(scene: Scene) {
    let database = scene.database.clone().unwrap();
    let postgres = database.starts_with("postgres");
    if postgres {
        scene.tamper(TURNS).await;
    }
    let cast = Cast::of(1);
    // All that others name is there from the beginning: an id that is not known yet is in no realm,
    // and what is made under it meanwhile comes before or after, as it happens.
    let mut first = BTreeMap::new();
    for who in &cast.users {
        let items = (0..ITEMS).map(|n| folder(n + 1, &format!("{who}-{n}"))).collect();
        let (batch, now) = (batch(who, "first", items), scene.now());
        let results = scene.store.push(batch.clone(), now).await.unwrap().results;
        first.insert((who.clone(), "first".to_owned()), vec![Pushed { batch, now, results }]);
    }
    // Each is as a server of its own: nothing is shared but the database.
    let mut scenes = vec![Arc::new(scene)];
    for _ in 1..STORES {
        scenes.push(Arc::new(Scene::at(database.clone()).await));
    }
    let mut writers = BTreeMap::new();
    let mut others = Vec::new();
    for (index, who) in cast.users.iter().enumerate() {
        for (number, device) in DEVICES.into_iter().enumerate() {
            let (scene, seed) = (&scenes[(index + number) % STORES], (index * 2 + number) as u64);
            let writing = write(scene.clone(), cast.clone(), who.clone(), device, seed);
            writers.insert((who.clone(), device.to_owned()), tokio::spawn(writing));
        }
    }
    for (index, scene) in scenes.iter().enumerate() {
        let shuffling = shuffle_members(scene.clone(), cast.clone(), 100 + index as u64);
        others.push(tokio::spawn(shuffling));
        let blocking = shuffle_blocks(scene.clone(), cast.clone(), 200 + index as u64);
        others.push(tokio::spawn(blocking));
    }
    let mut pushed = first;
    for (key, writer) in writers {
        pushed.insert(key, writer.await.unwrap());
    }
    for other in others {
        other.await.unwrap();
    }
    let tables = Tables::read(&database).await;
    tables.assert_acyclic(1);
    for who in &cast.users {
        let mut replica = Replica::default();
        while !replica.pull(&scenes[0], who, 100).await {}
        assert_eq!(replica.view, tables.view_of(who), "{who}");
    }
    let visible: BTreeSet<usize> = cast.users.iter().map(|who| tables.view_of(who).len()).collect();
    assert!(visible.iter().any(|count| *count > 10), "there is something to see: {visible:?}");
    drop(scenes);
    if postgres {
        let (client, connection) = session(&database).await.unwrap();
        repeat_in_order(&client, pushed).await;
        drop(client);
        connection.await.unwrap().unwrap();
        assert_eq!(deadlocks(&database).await, 0);
    }
}
