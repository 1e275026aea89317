//! Random histories: what replicas are told, at any lag and page size, against a view that is
//! reckoned from the rows from scratch.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use tokio_postgres::NoTls;
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::cursor::Cursor;
use vfs_sync_core::id::{BlobId, RefId, StagingId};
use vfs_sync_core::register::ItemFields;
use vfs_sync_core::wire::PushStatus;
use vfs_sync_store::{NewStage, PullAnswer, PullRequest, Retention};

use super::scene::*;

const DEVICES: [&str; 2] = ["laptop", "phone"];
const ITEMS: u64 = 9;
const STEPS: u64 = 120;

/// A generator small enough to need no crate (SplitMix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize].clone()
    }
}

/// What somebody sees: what each thing is, by its name.
type View = BTreeMap<String, Value>;

/// A replica that knows only what it was told.
#[derive(Default)]
struct Replica {
    view: View,
    cursor: Option<Cursor>,
    baseline: Option<Cursor>,
    started_again: u32,
}

impl Replica {
    /// Pulls a page; tells whether it has settled.
    async fn pull(&mut self, scene: &Scene, who: &str, limit: u32) -> bool {
        let (cursor, baseline) = (self.cursor.clone(), self.baseline.clone());
        let request = PullRequest { cursor, baseline, client_id: None, limit };
        let page = match scene.pull_as(who, request).await {
            PullAnswer::Page(page) => page,
            PullAnswer::Rematerialize { .. } => {
                *self = Self { started_again: self.started_again + 1, ..Self::default() };
                return false;
            }
        };
        for entry in parsed(&page) {
            let position = cursor_of(&entry);
            assert!(self.cursor.as_ref() < Some(&position), "out of order");
            self.cursor = Some(position);
            self.take(&entry);
        }
        self.baseline = page.baseline.or(self.baseline.take());
        !page.has_more
    }

    fn take(&mut self, entry: &Value) {
        let text = |field: &str| entry[field].as_str().unwrap_or_default();
        let (item, kind) = (text("itemId"), text("opType"));
        let link = format!("link {} {item}", text("parentId"));
        let grant = format!("grant {item} {} {}", text("principalType"), text("principalId"));
        match kind {
            "item_upsert" => {
                let fields = json!([entry["name"], entry["objectType"], entry["metadata"]]);
                self.view.insert(format!("item {item}"), fields);
            }
            "link_add" => drop(self.view.insert(link, json!(true))),
            "acl_add" => drop(self.view.insert(grant, entry["accessLevel"].clone())),
            "blob_attach" => {
                self.view.insert(format!("content {item}"), entry["blobId"].clone());
            }
            "item_delete" => drop(self.view.remove(&format!("item {item}"))),
            "link_remove" => drop(self.view.remove(&link)),
            "acl_remove" => drop(self.view.remove(&grant)),
            "blob_detach" => drop(self.view.remove(&format!("content {item}"))),
            other => panic!("{other}"),
        }
    }
}

/// One operation at random; most are valid, some are refused or beaten.
fn operation(dice: &mut Dice, users: &[&str], who: &str, write_id: u64, now: i64) -> Value {
    let owner = if dice.below(12) == 0 { dice.one(users) } else { who };
    let item = format!("{owner}-{}", dice.below(ITEMS));
    let parent = format!("{owner}-{}", dice.below(ITEMS));
    let occurred_at = at(now + dice.below(40_000) as i64 - 20_000).to_string();
    let mut op = match dice.below(16) {
        0..5 => {
            json!({"opType": "item_upsert", "objectType": "folder", "name": format!("n{write_id}")})
        }
        5 => {
            json!({"opType": "item_upsert", "objectType": "file", "name": "n", "parentId": parent})
        }
        6 => json!({"opType": "item_upsert", "metadata": {"mtime": write_id, "mode": null}}),
        7 | 8 => json!({"opType": "item_delete"}),
        9 => json!({"opType": "acl_add", "principalType": "user", "principalId": "carol",
            "accessLevel": dice.one(&["read", "write"])}),
        10 => json!({"opType": "acl_remove", "principalType": "user", "principalId": "carol"}),
        11 => json!({"opType": "link_remove", "parentId": parent, "childId": item}),
        12 | 13 => json!({"opType": "link_add", "parentId": parent, "childId": item}),
        _ => json!({"opType": "link_reassign", "parentId": parent, "childId": item}),
    };
    op["itemId"] = json!(item);
    op["writeId"] = json!(write_id);
    op["occurredAt"] = json!(occurred_at);
    op
}

async fn attach_content(scene: &Scene, who: &str, item: &str, name: &str) {
    let (owner, staging_id) = (user(who), StagingId::new(name).unwrap());
    let stage = NewStage {
        staging_id: staging_id.clone(),
        blob_id: BlobId::new(name).unwrap(),
        expires_at: at(i64::from(u32::MAX)),
        expiry_chosen: true,
        content_type: None,
    };
    scene.store.open_stage(&owner, &stage, &QUOTA, scene.now()).await.unwrap();
    let digest = Sha256Digest([0; 32]);
    scene
        .store
        .record_upload(&owner, &staging_id, &uploaded(1, digest), &QUOTA, scene.now())
        .await
        .unwrap();
    let request = serde_json::from_value(json!({ "itemId": item })).unwrap();
    let ref_id = RefId::new(name).unwrap();
    // An item that is not there, or gone, is refused: that too is part of a history.
    let _ = scene.store.attach(&owner, &staging_id, &request, ref_id, scene.now()).await.unwrap();
}

async fn play(scene: &Scene, seed: u64) {
    let mut dice = Dice(seed);
    let users = ["alice", "bob"].map(|name| format!("{name}{seed}"));
    let users = [users[0].as_str(), users[1].as_str()];
    let mut next: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    let mut last: BTreeMap<(&str, &str), Vec<Value>> = BTreeMap::new();
    let mut replicas: Vec<(&str, Replica)> =
        users.into_iter().flat_map(|who| (0..3).map(move |_| (who, Replica::default()))).collect();
    for step in 0..STEPS {
        let now = scene.pass(dice.below(5_000)).as_millis() - START;
        let (who, device) = (dice.one(&users), dice.one(&DEVICES));
        match dice.below(10) {
            0..5 => {
                let first = next.entry((who, device)).or_insert(1);
                let count = 1 + dice.below(8);
                let operations: Vec<Value> = (0..count)
                    .map(|n| operation(&mut dice, &users, who, *first + n, now))
                    .collect();
                *first += count;
                scene.push_as(who, device, operations.clone()).await;
                last.insert((who, device), operations);
            }
            5 => {
                let again = last.get(&(who, device)).cloned().unwrap_or_default();
                let before = scene.settle_as(who, None, 500).await;
                let response = scene.push_as(who, device, again).await;
                let applied =
                    response.results.iter().any(|result| result.status == PushStatus::Applied);
                // What was refused may be allowed by now; what was not, changes nothing again.
                let same = scene.settle_as(who, None, 500).await == before;
                assert!(applied || same, "seed {seed}, step {step}");
            }
            6 => {
                let item = format!("{who}-{}", dice.below(ITEMS));
                attach_content(scene, who, &item, &format!("b{seed}-{step}")).await;
            }
            7 if dice.below(4) == 0 => {
                let removals_before = at(now - dice.below(60_000) as i64);
                let at_most = 1 + dice.below(6) as u32;
                let retention = Retention { removals_before, accepted_before: at(0), at_most };
                scene.store.prune(retention).await.unwrap();
            }
            _ => {
                let index = dice.below(replicas.len() as u64) as usize;
                let (who, replica) = &mut replicas[index];
                let limit = 1 + dice.below(9) as u32;
                replica.pull(scene, who, limit).await;
            }
        }
    }
    let rows = Tables::read(scene.database.as_deref().unwrap()).await;
    rows.assert_acyclic(seed);
    for (who, mut replica) in replicas {
        while !replica.pull(scene, who, 1 + dice.below(20) as u32).await {}
        assert!(replica.started_again <= 2 * STEPS as u32);
        assert_eq!(replica.view, rows.view_of(who), "seed {seed}: a replica of {who}");
    }
}

/// The registers, as they are in the tables.
struct Tables {
    items: BTreeMap<String, (String, ItemFields)>,
    links: BTreeSet<(String, String)>,
    grants: Vec<(String, String, i64)>,
    contents: Vec<(String, String)>,
}

impl Tables {
    async fn read(database: &str) -> Self {
        let owner = if database.starts_with("postgres") {
            "SELECT item_id, owner, fields FROM items"
        } else {
            "SELECT item_id, user_id, fields FROM items JOIN realms ON uid = owner"
        };
        let queries = [
            owner,
            "SELECT parent, child FROM links WHERE CAST(present AS INTEGER) = 1",
            "SELECT item_id, principal_id, level FROM grants WHERE level IS NOT NULL",
            "SELECT item_id, blob_id FROM blob_refs WHERE CAST(is_current AS INTEGER) = 1",
        ];
        let mut tables = Self {
            items: BTreeMap::new(),
            links: BTreeSet::new(),
            grants: Vec::new(),
            contents: Vec::new(),
        };
        if database.starts_with("postgres") {
            let (client, connection) = tokio_postgres::connect(database, NoTls).await.unwrap();
            tokio::spawn(connection);
            for row in client.query(queries[0], &[]).await.unwrap() {
                tables.item(row.get(0), row.get(1), row.get(2));
            }
            for row in client.query(queries[1], &[]).await.unwrap() {
                tables.links.insert((row.get(0), row.get(1)));
            }
            for row in client.query(queries[2], &[]).await.unwrap() {
                tables.grants.push((row.get(0), row.get(1), row.get(2)));
            }
            for row in client.query(queries[3], &[]).await.unwrap() {
                tables.contents.push((row.get(0), row.get(1)));
            }
        } else {
            let connection = rusqlite::Connection::open(database).unwrap();
            let each = |sql: &str, take: &mut dyn FnMut(&rusqlite::Row<'_>)| {
                let mut select = connection.prepare(sql).unwrap();
                let mut rows = select.query([]).unwrap();
                while let Some(row) = rows.next().unwrap() {
                    take(row);
                }
            };
            each(queries[0], &mut |row| {
                tables.item(row.get(0).unwrap(), row.get(1).unwrap(), row.get(2).unwrap());
            });
            each(queries[1], &mut |row| {
                tables.links.insert((row.get(0).unwrap(), row.get(1).unwrap()));
            });
            each(queries[2], &mut |row| {
                tables.grants.push((row.get(0).unwrap(), row.get(1).unwrap(), row.get(2).unwrap()));
            });
            each(queries[3], &mut |row| {
                tables.contents.push((row.get(0).unwrap(), row.get(1).unwrap()));
            });
        }
        tables
    }

    fn item(&mut self, id: String, owner: String, fields: Vec<u8>) {
        self.items.insert(id, (owner, ItemFields::from_bytes(&fields).unwrap()));
    }

    fn live(&self, who: &str, id: &str) -> Option<&ItemFields> {
        let (owner, fields) = self.items.get(id)?;
        (owner == who && !fields.is_deleted()).then_some(fields)
    }

    /// What `who` sees.
    fn view_of(&self, who: &str) -> View {
        let mut view = View::new();
        for id in self.items.keys() {
            let Some(fields) = self.live(who, id) else { continue };
            let name = fields.name.as_ref().map(|register| register.value.as_str());
            let kind = fields.object_type.as_ref().map(|register| register.value);
            view.insert(format!("item {id}"), json!([name, kind, fields.live_metadata()]));
        }
        for (parent, child) in &self.links {
            if self.live(who, parent).is_some() && self.live(who, child).is_some() {
                view.insert(format!("link {parent} {child}"), json!(true));
            }
        }
        for (item, principal, level) in &self.grants {
            if self.live(who, item).is_some() {
                let level = ["read", "write", "admin"][*level as usize - 1];
                view.insert(format!("grant {item} user {principal}"), json!(level));
            }
        }
        for (item, blob) in &self.contents {
            if self.live(who, item).is_some() {
                view.insert(format!("content {item}"), json!(blob));
            }
        }
        view
    }

    /// Takes away what has nothing above it, again and again: of a cycle something is left.
    fn assert_acyclic(&self, seed: u64) {
        let mut left = self.links.clone();
        loop {
            let children: BTreeSet<String> = left.iter().map(|(_, child)| child.clone()).collect();
            let before = left.len();
            left.retain(|(parent, _)| children.contains(parent));
            if left.len() == before {
                break;
            }
        }
        assert!(left.is_empty(), "seed {seed}: a cycle among {left:?}");
    }
}

/// `VFS_SYNC_TEST_SEED` plays one history again; `VFS_SYNC_TEST_SEEDS` says how many to play.
pub(crate) async fn replicas_at_any_lag_see_what_the_rows_say(scene: Scene) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("VFS_SYNC_TEST_SEED") {
        return play(&scene, seed).await;
    }
    for seed in 1..=number("VFS_SYNC_TEST_SEEDS").unwrap_or(12) {
        play(&scene, seed).await;
    }
}
