//! What a doctor reads and repairs: derived rows against what they are derived from.

use std::collections::BTreeSet;

use serde_json::json;
use vfs_sync_core::id::{BlobId, ItemId, StagingId, UserId};
use vfs_sync_store::{
    ChargePlace, DerivedFault, Extent, ItemsOf, MalformedRow, MetadataUsage, NewStage, Usage,
    examine, open_to_read,
};

use super::scene::*;

/// Everything that an examination of all finds.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) faults: Vec<DerivedFault>,
    pub(crate) malformed: Vec<MalformedRow>,
    /// Users whose numbers differ: as stored, and as counted.
    pub(crate) held: Vec<(UserId, MetadataUsage, MetadataUsage)>,
    pub(crate) charges: Vec<(UserId, Usage, Usage)>,
    pub(crate) items: u64,
    pub(crate) entries: u64,
}

impl Scene {
    /// Examines some items in pages of `limit`, and the feeds and numbers of users.
    pub(crate) async fn examine(&self, of: &ItemsOf, users: &[UserId], limit: u32) -> Seen {
        let mut seen = Seen::default();
        let mut after = None;
        loop {
            let page = self.store.examine_items(of, after, None, limit).await.unwrap();
            seen.items += page.items;
            seen.faults.extend(page.faults);
            seen.malformed.extend(page.malformed);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        for user in users {
            let mut after = 0;
            loop {
                let page = self.store.examine_feed(user, after, limit, false).await.unwrap();
                seen.entries += page.entries;
                seen.faults.extend(page.faults);
                seen.malformed.extend(page.malformed);
                let Some(next) = page.next else { break };
                after = next;
            }
            let mut client = String::new();
            loop {
                let (malformed, next) =
                    self.store.examine_states(user, client, limit).await.unwrap();
                seen.malformed.extend(malformed);
                let Some(next) = next else { break };
                client = next;
            }
            self.count(user, limit, &mut seen).await;
        }
        seen
    }

    async fn count(&self, user: &UserId, limit: u32, seen: &mut Seen) {
        let (mut sum, mut after) = (MetadataUsage::default(), None);
        let stored = loop {
            let (counts, next) = self.store.count_held(user, after, limit).await.unwrap();
            sum.items += counts.counted.items;
            sum.links += counts.counted.links;
            sum.grants += counts.counted.grants;
            after = next;
            if after.is_none() {
                break counts.stored;
            }
        };
        sum.bytes = stored.bytes;
        if sum != stored {
            seen.held.push((user.clone(), stored, sum));
        }
        let (mut sum, mut after): (Usage, Option<ChargePlace>) = Default::default();
        let stored = loop {
            let (counts, next) = self.store.count_charges(user, after, limit).await.unwrap();
            sum.stored += counts.counted.stored;
            sum.staged += counts.counted.staged;
            sum.open_stages += counts.counted.open_stages;
            after = next;
            if after.is_none() {
                break counts.stored;
            }
        };
        if sum != stored {
            seen.charges.push((user.clone(), stored, sum));
        }
    }

    pub(crate) async fn all_users(&self) -> Vec<UserId> {
        let (mut users, mut after) = (Vec::new(), None);
        loop {
            let page = self.store.known_users(after, 2).await.unwrap();
            after = page.last().cloned();
            users.extend(page);
            if after.is_none() {
                return users;
            }
        }
    }

    /// Names the faults that the walk over a user's rows finds.
    async fn walked(&self, who: &UserId) -> BTreeSet<String> {
        let extent = Extent::User(who.clone());
        let (found, walked) = examine(&*self.store, &extent, async |_, _| {}).await;
        walked.unwrap();
        let faults: BTreeSet<_> = found.faults.iter().map(|fault| format!("{fault:?}")).collect();
        assert_eq!(found.levels + found.entries_off, faults.len() as u64, "each once");
        faults
    }

    /// Names the faults that are met where each item of a user is looked at, and each entry.
    async fn met(&self, who: &UserId) -> BTreeSet<String> {
        let [owned, read, granted] = [ItemsOf::Owner, ItemsOf::Reader, ItemsOf::Grantee];
        let mut faults = Vec::new();
        for of in [owned(who.clone()), read(who.clone()), granted(who.clone())] {
            let seen = self.examine(&of, std::slice::from_ref(who), 3).await;
            faults.extend(seen.faults);
        }
        faults.iter().map(|fault| format!("{fault:?}")).collect()
    }

    /// Fails unless an examination of everything, and of each user, finds nothing.
    pub(crate) async fn assert_healthy(&self, what: &str, limit: u32) {
        let users = self.all_users().await;
        let seen = self.examine(&ItemsOf::All, &users, limit).await;
        seen.assert_clean(what);
        for user in users {
            let grantee = ItemsOf::Grantee(user.clone());
            for of in [ItemsOf::Owner(user.clone()), ItemsOf::Reader(user.clone()), grantee] {
                self.examine(&of, &[], limit).await.assert_clean(what);
            }
        }
    }
}

impl Seen {
    #[track_caller]
    fn assert_clean(&self, what: &str) {
        let clean = self.faults.is_empty()
            && self.malformed.is_empty()
            && self.held.is_empty()
            && self.charges.is_empty();
        assert!(clean, "{what}: {self:#?}");
    }
}

/// Alice has a folder with a file, which Bob may read and Carol is in a group that may write; Alice
/// has a content and an open stage.
async fn shared(scene: &Scene) {
    let grant = |write_id: u64, kind: &str, to: &str, level: &str| {
        json!({"opType": "acl_add", "writeId": write_id, "itemId": "a", "principalType": kind,
            "principalId": to, "accessLevel": level})
    };
    for who in ["bob", "carol"] {
        scene.apply_as(who, "phone", vec![folder(1, &format!("top of {who}"))]).await;
    }
    let group = super::members::principal(vfs_sync_core::access::PrincipalType::Group, "eng");
    scene.store.set_member(&group, &user("carol"), true, scene.now()).await.unwrap();
    let made = vec![
        folder(1, "a"),
        file_in(2, "b", "a"),
        grant(3, "user", "bob", "read"),
        grant(4, "group", "eng", "write"),
        folder(5, "gone"),
    ];
    scene.apply("laptop", made).await;
    scene.apply("laptop", vec![delete(6, "gone")]).await;
    super::views::attach_content(scene, "alice", "b", "content").await;
    for name in ["open", "open too"] {
        let stage = NewStage {
            staging_id: StagingId::new(name).unwrap(),
            blob_id: BlobId::new(name).unwrap(),
            expires_at: at(86_400_000),
            expiry_chosen: false,
            content_type: None,
            size: 7,
        };
        scene.store.open_stage(&user("alice"), &stage, &QUOTA, scene.now()).await.unwrap();
    }
}

pub(crate) async fn nothing_is_found_where_all_is_well(scene: Scene) {
    scene.assert_healthy("an empty database", 10).await;
    shared(&scene).await;
    for limit in [1, 2, 1_000] {
        scene.assert_healthy("a shared folder", limit).await;
    }
    let seen = scene.examine(&ItemsOf::All, &scene.all_users().await, 2).await;
    assert_eq!(seen.items, 5);
    assert!(seen.entries > 10, "{seen:?}");
    let until = |id: &str| Some(ItemId::new(id).unwrap());
    let part = scene.store.examine_items(ItemsOf::All, until("a"), until("gone"), 9).await.unwrap();
    assert_eq!((part.items, part.next), (2, None), "those after a, up to gone");
    let of_bob = scene.examine(&ItemsOf::Reader(user("bob")), &[], 1).await;
    assert_eq!(of_bob.items, 2, "what is shared with bob");
    scene.store.set_block(&user("bob"), &user("alice"), true, scene.now()).await.unwrap();
    scene.assert_healthy("a block", 3).await;
    scene.delete_user("alice", 0).await.unwrap();
    let pseudonym = scene.deletion("alice").await.pseudonym;
    for step in 0..200 {
        let deletion = scene.step(&pseudonym, 2).await;
        scene.assert_healthy(&format!("step {step} of a deletion"), 3).await;
        if deletion.is_done() {
            return;
        }
    }
    panic!("the deletion does not end");
}

pub(crate) async fn facts_and_the_oldest_rows_are_those_of_the_database(scene: Scene) {
    let before = at(i64::from(u32::MAX));
    let none = scene.store.oldest_rows(before).await.unwrap();
    assert_eq!((none.stage, none.reclaim, none.trashed, none.removal), (None, None, None, None));
    shared(&scene).await;
    let oldest = scene.store.oldest_rows(before).await.unwrap();
    assert_eq!(oldest.stage, Some(at(86_400_000)));
    assert_eq!(scene.store.oldest_rows(at(86_400_000)).await.unwrap().stage, None);
    assert!(oldest.trashed.is_some() && oldest.removal.is_some() && oldest.result.is_some());
    assert!(oldest.deletion.is_none() && oldest.purging.is_none());
    let facts = scene.store.database_facts().await.unwrap();
    assert!(!facts.product.is_empty() && facts.server.is_none_or(|server| server.is_in_place));
    // The throw-away server of the tests does not wait for its disk.
    let told: &[&str] = if facts.clock.is_some() { &["fsync = off"] } else { &[] };
    assert_eq!(facts.unsafe_settings, told);
}

/// Repairs everything that an examination found.
async fn repair(scene: &Scene, seen: &Seen) {
    let levels = |fault: &DerivedFault| match fault {
        DerivedFault::Level { item, user, .. } => Some((item.clone(), user.clone())),
        _ => None,
    };
    let (items, users): (Vec<ItemId>, Vec<UserId>) = seen.faults.iter().filter_map(levels).unzip();
    scene.store.repair_levels(items, users, scene.now()).await.unwrap();
    let readers: BTreeSet<&UserId> = seen.faults.iter().map(DerivedFault::user).collect();
    for reader in readers {
        let of = seen.faults.iter().filter(|fault| fault.user() == reader).cloned();
        // Two walks may meet the same entry.
        let of: Vec<_> = of.clone().chain(of).collect();
        scene.store.repair_feed(reader, of, scene.now()).await.unwrap();
    }
    for (user, stored, counted) in &seen.held {
        assert!(scene.store.repair_held(user, *stored, *counted).await.unwrap());
        assert!(!scene.store.repair_held(user, *stored, *counted).await.unwrap(), "only once");
    }
    for (user, stored, counted) in &seen.charges {
        assert!(scene.store.repair_usage(user, *stored, *counted).await.unwrap());
        assert!(!scene.store.repair_usage(user, *stored, *counted).await.unwrap(), "only once");
    }
}

/// The names of what was found.
fn kinds(seen: &Seen) -> BTreeSet<&'static str> {
    let kind = |fault: &DerivedFault| match fault {
        DerivedFault::Level { .. } => "level",
        DerivedFault::Missing { .. } => "missing",
        DerivedFault::Stray { .. } => "stray",
        DerivedFault::Differs { .. } => "differs",
    };
    let mut kinds: BTreeSet<_> = seen.faults.iter().map(kind).collect();
    kinds.extend((!seen.held.is_empty()).then_some("held"));
    kinds.extend((!seen.charges.is_empty()).then_some("charges"));
    kinds.extend((!seen.malformed.is_empty()).then_some("malformed"));
    kinds
}

/// Each kind of damage, and what is found of it.
const DAMAGES: [(&str, &str); 11] = [
    ("DELETE FROM access WHERE item_id = 'b'", "level stray"),
    ("UPDATE access SET level = 3 WHERE item_id = 'a'", "differs level"),
    (
        "INSERT INTO access ({who}, item_id, level) \
         SELECT {who}, 'top of carol', 1 FROM realms WHERE user_id = 'bob'",
        "level missing",
    ),
    ("DELETE FROM feed WHERE key = {key b}", "missing"),
    ("UPDATE feed SET removal = {true} WHERE key = {key a}", "missing"),
    ("UPDATE feed SET json = replace(json, '\"name\":\"b\"', '\"name\":\"x\"')", "differs"),
    ("UPDATE links SET present = {false} WHERE child = 'b'", "level stray"),
    ("DELETE FROM blob_refs", "stray"),
    ("UPDATE realms SET items = items + 1, links = links + 2, grants = 0 WHERE items > 1", "held"),
    ("UPDATE blob_usage SET stored = stored + 5, staged = 0", "charges"),
    ("UPDATE grants SET level = NULL WHERE kind = 1", "level stray"),
];

pub(crate) async fn each_damage_is_found_and_repaired(scene: Scene) {
    let postgres = scene.database.as_ref().unwrap().starts_with("postgres");
    shared(&scene).await;
    for (sql, found) in DAMAGES {
        let key = |name: &str| match postgres {
            true => format!("'i{name}'::bytea"),
            false => format!("CAST('i{name}' AS BLOB)"),
        };
        let (is, is_not) = if postgres { ("TRUE", "FALSE") } else { ("1", "0") };
        let who = if postgres { "user_id" } else { "uid" };
        let sql = sql.replace("{key a}", &key("a")).replace("{key b}", &key("b"));
        let sql = sql.replace("{true}", is).replace("{false}", is_not);
        let sql = sql.replace("{who}", who);
        scene.tamper(&sql).await;
        let users = scene.all_users().await;
        let seen = scene.examine(&ItemsOf::All, &users, 3).await;
        let expected: BTreeSet<&str> = found.split(' ').collect();
        assert_eq!(kinds(&seen), expected, "{sql}: {seen:#?}");
        for who in &users {
            assert_eq!(scene.walked(who).await, scene.met(who).await, "{sql}, of {who}");
        }
        repair(&scene, &seen).await;
        // What a level shows in feeds is known once it is right.
        let seen = scene.examine(&ItemsOf::All, &users, 3).await;
        repair(&scene, &seen).await;
        scene.assert_healthy(&sql, 3).await;
    }
}

pub(crate) async fn a_user_is_examined_alone(scene: Scene) {
    shared(&scene).await;
    scene.tamper("DELETE FROM access WHERE item_id = 'b'").await;
    for (of, found) in [
        (ItemsOf::Reader(user("bob")), 1),
        (ItemsOf::Reader(user("carol")), 1),
        (ItemsOf::Owner(user("alice")), 0),
        (ItemsOf::Grantee(user("bob")), 0),
        (ItemsOf::All, 2),
    ] {
        let seen = scene.examine(&of, &[], 1).await;
        assert_eq!(seen.faults.len(), found, "{of:?}: {seen:#?}");
    }
    scene.tamper("DELETE FROM access").await;
    for (of, found) in [
        (ItemsOf::Reader(user("bob")), 0),
        (ItemsOf::Grantee(user("bob")), 1),
        (ItemsOf::Grantee(user("carol")), 1),
        (ItemsOf::Grantee(user("alice")), 0),
    ] {
        let seen = scene.examine(&of, &[], 1).await;
        assert_eq!(seen.faults.len(), found, "{of:?}: {seen:#?}");
    }
}

pub(crate) async fn malformed_rows_are_named_and_hide_nothing_else(scene: Scene) {
    shared(&scene).await;
    scene.tamper("UPDATE items SET fields = {blob} WHERE item_id = 'gone'").await;
    for client in ["one", "two"] {
        scene.reconcile(client, &scene.head().await, &[]).await;
    }
    scene.tamper("UPDATE reconcile_state SET write_ids = '[]' WHERE client = 'crdt:two'").await;
    scene.tamper("UPDATE feed SET json = '{\"itemId\":1' WHERE json LIKE '%top of bob%'").await;
    scene.tamper("DELETE FROM access WHERE item_id = 'b'").await;
    let seen = scene.examine(&ItemsOf::All, &scene.all_users().await, 1).await;
    let tables: BTreeSet<&str> = seen.malformed.iter().map(|row| row.table.as_str()).collect();
    assert_eq!(tables, BTreeSet::from(["feed", "items", "reconcile_state"]), "{seen:#?}");
    let levels = seen.faults.iter().filter(|f| matches!(f, DerivedFault::Level { .. })).count();
    assert_eq!(levels, 2, "{seen:#?}");
}

pub(crate) async fn a_database_is_read_as_it_is(scene: Scene) {
    shared(&scene).await;
    let database = scene.database.clone().unwrap();
    let epoch = scene.store.state(&user("alice"), &replica("laptop")).await.unwrap().epoch;
    let (version, store) = open_to_read(&database).await.unwrap();
    assert_eq!(version.found, version.known);
    let store = store.unwrap();
    let page = store.examine_items(ItemsOf::All, None, None, 100_u32).await.unwrap();
    assert_eq!(page.items, 5);
    let after = store.state(&user("alice"), &replica("laptop")).await.unwrap().epoch;
    assert_eq!(after, epoch, "no epoch begins");
    drop(store);
    scene.tamper("INSERT INTO schema_version VALUES (99, 0)").await;
    let (version, store) = open_to_read(&database).await.unwrap();
    assert!(store.is_none() && version.found == 99 && version.known < 99);
    scene.tamper("DELETE FROM schema_version WHERE version > 3").await;
    let (version, store) = open_to_read(&database).await.unwrap();
    assert!(store.is_none() && version.found == 3);
    let rows = scene.store.users(None, 10_u32).await.unwrap();
    assert_eq!(rows.len(), 3, "it was not migrated");
}
