//! Random histories: what replicas are told, at any lag and page size, against a view that is
//! reckoned from the rows from scratch.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use vfs_sync_core::access::{Principal, PrincipalType};
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::cursor::Cursor;
use vfs_sync_core::id::{BlobId, RefId, StagingId};
use vfs_sync_core::operation::Basis;
use vfs_sync_core::register::ItemFields;
use vfs_sync_core::wire::{AttachRequest, PushStatus};
use vfs_sync_store::testing::connect;
use vfs_sync_store::{NewStage, PullAnswer, PullRequest, Retention};

use super::members::principal;
use super::scene::*;

pub(crate) const DEVICES: [&str; 2] = ["laptop", "phone"];
pub(crate) const ITEMS: u64 = 7;
const STEPS: u64 = 120;

/// Choices that a seed repeats.
pub(crate) struct Dice(fastrand::Rng);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0.u64(..limit)
    }

    pub(crate) fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize].clone()
    }
}

/// What somebody sees: what each thing is, by its name.
pub(crate) type View = BTreeMap<String, Value>;

/// A replica that knows only what it was told.
#[derive(Default)]
pub(crate) struct Replica {
    pub(crate) view: View,
    cursor: Option<Cursor>,
    baseline: Option<Cursor>,
    head: Option<Cursor>,
    started_again: u32,
}

impl Replica {
    /// Pulls a page; tells whether it has settled.
    pub(crate) async fn pull(&mut self, scene: &Scene, who: &str, limit: u32) -> bool {
        let (cursor, baseline) = (self.cursor.clone(), self.baseline.clone());
        let head = self.head.clone();
        let request = PullRequest { cursor, baseline, head, client_id: None, limit };
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
        self.head = page.head;
        !page.has_more
    }

    fn take(&mut self, entry: &Value) {
        let text = |field: &str| entry[field].as_str().unwrap_or_default();
        let (item, kind) = (text("itemId"), text("opType"));
        let link = format!("link {} {item}", text("parentId"));
        let grant = format!("grant {item} {} {}", text("principalType"), text("principalId"));
        match kind {
            "item_upsert" => {
                let fields = json!([
                    entry["name"],
                    entry["objectType"],
                    entry["metadata"],
                    entry["accessLevel"]
                ]);
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

/// Those who play a history, and the groups that they are in and out of.
#[derive(Clone)]
pub(crate) struct Cast {
    pub(crate) users: [String; 4],
    pub(crate) groups: [Principal; 3],
}

impl Cast {
    pub(crate) fn of(seed: u64) -> Self {
        let group = |kind, name: &str| principal(kind, &format!("{name}{seed}"));
        Self {
            users: ["alice", "bob", "carol", "dave"].map(|name| format!("{name}{seed}")),
            groups: [
                group(PrincipalType::Group, "g"),
                group(PrincipalType::Group, "h"),
                group(PrincipalType::Organization, "g"),
            ],
        }
    }

    pub(crate) fn one(&self, dice: &mut Dice) -> &str {
        &self.users[dice.below(4) as usize]
    }
}

/// One operation at random; most are valid, some are refused or beaten.
pub(crate) fn operation(dice: &mut Dice, cast: &Cast, who: &str, write_id: u64, now: i64) -> Value {
    let mut owner = || if dice.below(3) == 0 { cast.one(dice) } else { who };
    let (of_item, of_parent) = (owner(), owner());
    let of_parent = if dice.below(3) == 0 { of_parent } else { of_item };
    let item = format!("{of_item}-{}", dice.below(ITEMS));
    let parent = format!("{of_parent}-{}", dice.below(ITEMS));
    let occurred_at = at(now + dice.below(40_000) as i64 - 20_000).to_string();
    let mut op = match dice.below(20) {
        0..5 => {
            json!({"opType": "item_upsert", "objectType": "folder", "name": format!("n{write_id}")})
        }
        5 | 6 => {
            json!({"opType": "item_upsert", "objectType": "file", "name": "n", "parentId": parent})
        }
        7 => json!({"opType": "item_upsert", "metadata": {"mtime": write_id, "mode": null}}),
        8 | 9 => json!({"opType": "item_delete"}),
        10..13 => {
            let (kind, id) = match dice.below(3) {
                0 => {
                    let group = &cast.groups[dice.below(3) as usize];
                    (group.kind.as_str(), group.id.to_string())
                }
                _ => ("user", cast.one(dice).to_owned()),
            };
            let granted = dice.below(3) > 0;
            let op_type = if granted { "acl_add" } else { "acl_remove" };
            json!({"opType": op_type, "principalType": kind, "principalId": id,
                "accessLevel": granted.then(|| dice.one(&["read", "write", "admin"]))})
        }
        13 => json!({"opType": "link_remove", "parentId": parent, "childId": item}),
        14..17 => json!({"opType": "link_add", "parentId": parent, "childId": item}),
        _ => json!({"opType": "link_reassign", "parentId": parent, "childId": item}),
    };
    op["itemId"] = json!(item);
    op["writeId"] = json!(write_id);
    op["occurredAt"] = json!(occurred_at);
    op
}

/// Sometimes an operation tells what its author had seen.
pub(crate) fn with_basis(dice: &mut Dice, mut op: Value, seen: Option<&Cursor>) -> Value {
    if dice.below(3) > 0 {
        op["basis"] = json!(seen.map(Cursor::encode));
    }
    op
}

/// Attaches a new content, without a basis; an item that is not there, or gone, is refused: that too
/// is part of a history.
pub(crate) async fn attach_content(scene: &Scene, who: &str, item: &str, name: &str) {
    scene.staged_by(who, name).await;
    let (owner, staging_id) = (user(who), StagingId::new(name).unwrap());
    let request = AttachRequest {
        modified_at: name.len().is_multiple_of(2).then(|| at(-1)),
        replica_id: Some(replica("laptop")),
        ..AttachRequest::to(item.parse().unwrap())
    };
    let ref_id = RefId::new(name).unwrap();
    let _ = scene
        .store
        .attach(&owner, &staging_id, &request, ref_id, &QUOTA, scene.now())
        .await
        .unwrap();
}

/// Attaches a new content of a replica, which brings an item back.
pub(crate) async fn attach_by(
    scene: &Scene,
    who: &str,
    item: &str,
    name: &str,
    replica: Option<&str>,
) {
    scene.staged_by(who, name).await;
    let (owner, staging_id) = (user(who), StagingId::new(name).unwrap());
    let request = AttachRequest {
        basis: Some(Basis::Start),
        replica_id: replica.map(|name| name.parse().unwrap()),
        occurred_at: Some(scene.now()),
        ..AttachRequest::to(item.parse().unwrap())
    };
    let ref_id = RefId::new(name).unwrap();
    let _ = scene
        .store
        .attach(&owner, &staging_id, &request, ref_id, &QUOTA, scene.now())
        .await
        .unwrap();
}

impl Scene {
    /// A content that waits to be attached.
    pub(crate) async fn staged_by(&self, who: &str, name: &str) {
        stage_content(self, who, name).await;
    }
}

async fn stage_content(scene: &Scene, who: &str, name: &str) {
    let (owner, staging_id) = (user(who), StagingId::new(name).unwrap());
    let stage = NewStage {
        staging_id: staging_id.clone(),
        blob_id: BlobId::new(name).unwrap(),
        expires_at: at(i64::from(u32::MAX)),
        expiry_chosen: true,
        content_type: None,
        size: 0,
    };
    scene.store.open_stage(&owner, &stage, &QUOTA, scene.now()).await.unwrap();
    let digest = Sha256Digest([0; 32]);
    scene
        .store
        .record_upload(&owner, &staging_id, &uploaded(1, digest), &QUOTA, scene.now())
        .await
        .unwrap();
}

/// Plays a history; gives how many steps it had: operations, changes of members, attaches.
pub(crate) async fn play(scene: &Scene, seed: u64) -> u64 {
    let mut dice = Dice::new(seed);
    let cast = Cast::of(seed);
    let mut next: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    let mut last: BTreeMap<(&str, &str), Vec<Value>> = BTreeMap::new();
    let mut replicas: Vec<(&str, Replica)> =
        cast.users.iter().flat_map(|who| (0..2).map(|_| (&**who, Replica::default()))).collect();
    let mut steps = 0;
    for step in 0..STEPS {
        let now = scene.pass(dice.below(5_000)).as_millis() - START;
        let (who, device) = (cast.one(&mut dice), dice.one(&DEVICES));
        steps += 1;
        match dice.below(12) {
            0..5 => {
                let first = next.entry((who, device)).or_insert(1);
                let count = 1 + dice.below(8);
                let known: Vec<&Replica> =
                    replicas.iter().filter(|(of, _)| *of == who).map(|(_, one)| one).collect();
                let seen = known[dice.below(known.len() as u64) as usize].cursor.clone();
                let operations: Vec<Value> = (0..count)
                    .map(|n| operation(&mut dice, &cast, who, *first + n, now))
                    .collect::<Vec<_>>()
                    .into_iter()
                    .map(|op| with_basis(&mut dice, op, seen.as_ref()))
                    .collect();
                *first += count;
                steps += count - 1;
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
                let owner = cast.one(&mut dice);
                let item = format!("{owner}-{}", dice.below(ITEMS));
                let name = format!("b{seed}-{step}");
                match dice.below(2) {
                    0 => attach_content(scene, who, &item, &name).await,
                    _ => attach_by(scene, who, &item, &name, Some(device)).await,
                }
            }
            7 => {
                let group = dice.one(&cast.groups);
                let present = dice.below(2) == 0;
                scene.store.set_member(&group, &user(who), present, scene.now()).await.unwrap();
            }
            8 => block(scene, &cast, who, &mut dice).await,
            9 if dice.below(4) == 0 => {
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
    if seed.is_multiple_of(8) {
        scene.assert_healthy(&format!("seed {seed}"), 50).await;
    }
    replicas.extend(cast.users.iter().map(|who| (&**who, Replica::default())));
    for (who, mut replica) in replicas {
        while !replica.pull(scene, who, 1 + dice.below(20) as u32).await {}
        assert!(replica.started_again <= 2 * STEPS as u32);
        assert_eq!(replica.view, rows.view_of(who), "seed {seed}: a replica of {who}");
    }
    steps
}

/// Has `who` block somebody else, or end that.
pub(crate) async fn block(scene: &Scene, cast: &Cast, who: &str, dice: &mut Dice) {
    let (owner, blocked) = (cast.one(dice).to_owned(), dice.below(3) == 0);
    if owner != who {
        let now = scene.now();
        scene.store.set_block(&user(who), &user(&owner), blocked, now).await.unwrap();
    }
}

/// The registers, as they are in the tables.
pub(crate) struct Tables {
    items: BTreeMap<String, (String, ItemFields)>,
    /// Parent and child, and whether of one realm.
    links: BTreeMap<(String, String), bool>,
    /// Item, kind and id of the principal, level.
    grants: Vec<(String, i64, String, i64)>,
    contents: Vec<(String, String)>,
    /// Kind and id of the group, and who is in it.
    members: BTreeSet<(i64, String, String)>,
    /// Who blocks whom.
    blocks: BTreeSet<(String, String)>,
}

const KINDS: [&str; 3] = ["user", "group", "organization"];
const LEVELS: [&str; 3] = ["read", "write", "admin"];

impl Tables {
    pub(crate) async fn read(database: &str) -> Self {
        let postgres = database.starts_with("postgres");
        let queries = [
            if postgres {
                "SELECT item_id, owner, fields FROM items"
            } else {
                "SELECT item_id, user_id, fields FROM items JOIN realms ON uid = owner"
            },
            "SELECT parent, child, CAST(in_realm AS INTEGER) FROM links \
             WHERE CAST(present AS INTEGER) = 1",
            "SELECT item_id, kind, principal_id, level FROM grants WHERE level IS NOT NULL",
            "SELECT item_id, blob_id FROM blob_refs WHERE CAST(is_current AS INTEGER) = 1",
            if postgres {
                "SELECT kind, group_id, user_id FROM members"
            } else {
                "SELECT kind, group_id, user_id FROM members JOIN realms USING (uid)"
            },
            if postgres {
                "SELECT user_id, owner FROM blocks"
            } else {
                "SELECT u.user_id, o.user_id FROM blocks b JOIN realms u ON u.uid = b.uid \
                 JOIN realms o ON o.uid = b.owner"
            },
        ];
        let mut tables = Self {
            items: BTreeMap::new(),
            links: BTreeMap::new(),
            grants: Vec::new(),
            contents: Vec::new(),
            members: BTreeSet::new(),
            blocks: BTreeSet::new(),
        };
        if postgres {
            let client = connect(database).await.unwrap();
            for row in client.query(queries[0], &[]).await.unwrap() {
                tables.item(row.get(0), row.get(1), row.get(2));
            }
            for row in client.query(queries[1], &[]).await.unwrap() {
                tables.links.insert((row.get(0), row.get(1)), row.get::<_, i32>(2) == 1);
            }
            for row in client.query(queries[2], &[]).await.unwrap() {
                tables.grants.push((row.get(0), row.get(1), row.get(2), row.get(3)));
            }
            for row in client.query(queries[3], &[]).await.unwrap() {
                tables.contents.push((row.get(0), row.get(1)));
            }
            for row in client.query(queries[4], &[]).await.unwrap() {
                tables.members.insert((row.get(0), row.get(1), row.get(2)));
            }
            for row in client.query(queries[5], &[]).await.unwrap() {
                tables.blocks.insert((row.get(0), row.get(1)));
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
                let in_realm = row.get::<_, i64>(2).unwrap() == 1;
                tables.links.insert((row.get(0).unwrap(), row.get(1).unwrap()), in_realm);
            });
            each(queries[2], &mut |row| {
                let (item, kind) = (row.get(0).unwrap(), row.get(1).unwrap());
                tables.grants.push((item, kind, row.get(2).unwrap(), row.get(3).unwrap()));
            });
            each(queries[3], &mut |row| {
                tables.contents.push((row.get(0).unwrap(), row.get(1).unwrap()));
            });
            each(queries[4], &mut |row| {
                let (kind, group) = (row.get(0).unwrap(), row.get(1).unwrap());
                tables.members.insert((kind, group, row.get(2).unwrap()));
            });
            each(queries[5], &mut |row| {
                tables.blocks.insert((row.get(0).unwrap(), row.get(1).unwrap()));
            });
        }
        tables
    }

    fn item(&mut self, id: String, owner: String, fields: Vec<u8>) {
        self.items.insert(id, (owner, ItemFields::from_bytes(&fields).unwrap()));
    }

    /// What `who` may do with each item that they see.
    fn levels(&self, who: &str) -> BTreeMap<&str, i64> {
        let mut levels = BTreeMap::new();
        let live = |id: &str| self.items.get(id).is_some_and(|(_, fields)| !fields.is_deleted());
        for (item, kind, to, level) in &self.grants {
            let named = match kind {
                1 => to == who,
                _ => self.members.contains(&(*kind, to.clone(), who.to_owned())),
            };
            let owner = self.items.get(item).map(|(owner, _)| owner.clone()).unwrap_or_default();
            let named = named && !self.blocks.contains(&(who.to_owned(), owner));
            let mut open = vec![item.as_str()];
            let mut seen = BTreeSet::new();
            while let Some(at) = open.pop() {
                if !(named && live(at) && seen.insert(at)) {
                    continue;
                }
                let held = levels.entry(at).or_insert(*level);
                *held = (*level).max(*held);
                let below =
                    self.links.iter().filter(|((parent, _), in_realm)| parent == at && **in_realm);
                open.extend(below.map(|((_, child), _)| child.as_str()));
            }
        }
        let own = self.items.iter().filter(|(id, (owner, _))| owner == who && live(id));
        levels.extend(own.map(|(id, _)| (id.as_str(), 3)));
        levels
    }

    /// What `who` sees.
    pub(crate) fn view_of(&self, who: &str) -> View {
        let levels = self.levels(who);
        let sees = |id: &String| levels.contains_key(id.as_str());
        let mut view = View::new();
        for (id, level) in &levels {
            let (_, fields) = &self.items[*id];
            let name = fields.name.as_ref().map(|register| register.value.as_str());
            let kind = fields.object_type.as_ref().map(|register| register.value);
            let level = LEVELS[*level as usize - 1];
            view.insert(format!("item {id}"), json!([name, kind, fields.live_metadata(), level]));
        }
        for (parent, child) in self.links.keys() {
            if sees(parent) && sees(child) {
                view.insert(format!("link {parent} {child}"), json!(true));
            }
        }
        for (item, kind, principal, level) in &self.grants {
            if sees(item) {
                let kind = KINDS[*kind as usize - 1];
                let level = LEVELS[*level as usize - 1];
                view.insert(format!("grant {item} {kind} {principal}"), json!(level));
            }
        }
        for (item, blob) in &self.contents {
            if sees(item) {
                view.insert(format!("content {item}"), json!(blob));
            }
        }
        view
    }

    /// Takes away what has nothing above it, again and again: of a cycle something is left.
    pub(crate) fn assert_acyclic(&self, seed: u64) {
        let mut left: BTreeSet<(String, String)> = self
            .links
            .iter()
            .filter(|(_, in_realm)| **in_realm)
            .map(|(link, _)| link.clone())
            .collect();
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

/// `VFS_SYNC_TEST_SEED` plays one history again; `VFS_SYNC_TEST_STEPS` says how many steps to play
/// on each back end.
pub(crate) async fn replicas_at_any_lag_see_what_the_rows_say(scene: Scene) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("VFS_SYNC_TEST_SEED") {
        play(&scene, seed).await;
        return;
    }
    let (mut steps, mut seed) = (0, 0);
    while steps < number("VFS_SYNC_TEST_STEPS").unwrap_or(15_000) {
        seed += 1;
        steps += play(&scene, seed).await;
    }
}
