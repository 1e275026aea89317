//! How the statements run: by index, whatever the history; and in one order of locks.

use std::sync::Arc;

use serde_json::json;
use vfs_sync_core::access::PrincipalType;
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::id::{BlobId, ItemId, RefId, StagingId};
use vfs_sync_core::limits::MAX_READER_STATES;
use vfs_sync_core::server::credential::SigningKey;
use vfs_sync_store::testing::{connect, statements};
use vfs_sync_store::{
    Advance, DeviceChange, ItemsOf, MetadataQuota, NewStage, NewUpload, PurgeAnswer, RestoreAnswer,
    Retention, UploadReplacement, UserChange,
};

use super::scene::*;

/// A deletion that beats what was made at the usual times.
fn later_deletion(write_id: u64, id: &str) -> serde_json::Value {
    json!({"opType": "item_delete", "writeId": write_id, "itemId": id,
        "occurredAt": "2026-01-01T00:00:55Z"})
}

/// Every call of the store, every kind of row.
async fn tour(scene: &Scene) {
    let grant = json!({"opType": "acl_add", "writeId": 4, "itemId": "b", "principalType": "user",
        "principalId": "bob", "accessLevel": "read"});
    let made = || vec![folder(1, "a"), file_in(2, "b", "a"), folder(3, "c"), grant.clone()];
    scene.apply("laptop", made()).await;
    scene.push("laptop", made()).await;
    scene.apply("laptop", vec![link(5, "link_reassign", "c", "b"), folder(6, "d")]).await;
    scene.apply("laptop", vec![link(7, "link_add", "d", "b"), delete(8, "d")]).await;
    let head = scene.head().await;
    scene.page(from(None)).await;
    scene.page(from(Some(head.clone()))).await;
    scene.store.heads([user("alice"), user("bob")].as_slice()).await.unwrap();
    scene.reconcile("laptop", &head, &[("laptop", 8)]).await;
    scene.reconcile("laptop", &head, &[("laptop", 7)]).await;
    for reader in 0..=MAX_READER_STATES {
        scene.reconcile(&format!("reader-{reader}"), &head, &[]).await;
    }

    let alice = user("alice");
    let open = |name: &str| NewStage {
        staging_id: StagingId::new(name).unwrap(),
        blob_id: BlobId::new(name).unwrap(),
        expires_at: at(86_400_000),
        expiry_chosen: false,
        content_type: None,
        size: 0,
    };
    for name in ["one", "two"] {
        scene.store.open_stage(&alice, &open(name), &QUOTA, scene.now()).await.unwrap();
    }
    let staging = StagingId::new("one").unwrap();
    let digest = Sha256Digest([1; 32]);
    scene
        .store
        .record_upload(&alice, &staging, &uploaded(1, digest), &QUOTA, scene.now())
        .await
        .unwrap();
    let request = serde_json::from_value(json!({
        "itemId": "b", "clientId": "laptop", "requiredCursor": head.encode(),
        "requiredLastReconciledWriteIds": {},
    }));
    let (request, ref_id) = (request.unwrap(), RefId::new("ref").unwrap());
    let attached =
        scene.store.attach(&alice, &staging, &request, ref_id, &QUOTA, scene.now()).await;
    attached.unwrap().unwrap();
    let other = StagingId::new("two").unwrap();
    scene.store.abandon(&alice, &other, scene.now()).await.unwrap();
    let group = super::members::principal(PrincipalType::Group, "eng");
    let granted = json!({"opType": "acl_add", "writeId": 9, "itemId": "c", "accessLevel": "write",
        "principalType": "group", "principalId": "eng"});
    scene.apply("laptop", vec![granted]).await;
    for present in [true, false, true] {
        scene.store.set_member(&group, &user("bob"), present, scene.now()).await.unwrap();
    }
    scene.store.members(&group, None, 9).await.unwrap();
    scene.store.groups_of(&user("bob")).await.unwrap();
    scene.store.knows(&group).await.unwrap();
    for blocked in [true, false] {
        scene.store.set_block(&user("bob"), &alice, blocked, scene.now()).await.unwrap();
    }
    scene.store.blocked_by(&user("bob")).await.unwrap();
    scene.store.knows(&super::members::principal(PrincipalType::User, "bob")).await.unwrap();
    scene.apply_as("bob", "laptop", vec![file_in(1, "e", "c")]).await;
    scene.apply("laptop", vec![delete(10, "c")]).await;
    let quota = MetadataQuota { results: 1, ..MetadataQuota::NONE };
    let forgets = batch("alice", "tablet", vec![folder(1, "y"), folder(2, "z")]).with_quota(quota);
    scene.store.push(forgets, scene.now()).await.unwrap();
    for name in ["three", "four"] {
        scene.store.open_stage(&alice, &open(name), &QUOTA, scene.now()).await.unwrap();
    }
    let three = StagingId::new("three").unwrap();
    let (store, now) = (&scene.store, || scene.now());
    store.reserve_upload(&alice, &three, 1, &QUOTA, now()).await.unwrap();
    store
        .open_upload(&alice, &three, Some(5), Some("a b".to_owned()), &QUOTA, now())
        .await
        .unwrap();
    let anew = UploadReplacement { handle: "h".into(), instead_of: None };
    store.claim_upload(&alice, &three, "lease", Some(anew), now()).await.unwrap();
    let advance = Advance {
        received: 5,
        parts: 1,
        new_parts: vec!["tag".into()],
        tail: String::new(),
        hash: vec![1],
        length: None,
    };
    store.advance_upload(&alice, &three, "lease", &advance, &QUOTA, now()).await.unwrap();
    assert!(store.holds_upload(&alice, &three, "lease", now()).await.unwrap());
    assert_eq!(store.upload_parts(&three).await.unwrap(), ["tag"]);
    let upload = NewUpload { size: 5, digest, lease: Some("lease".into()) };
    store.record_upload(&alice, &three, &upload, &QUOTA, now()).await.unwrap();
    let (blob, reference) = (BlobId::new("three").unwrap(), RefId::new("ref2").unwrap());
    let plain = serde_json::from_value(json!({ "itemId": "b" })).unwrap();
    store.attach(&alice, &three, &plain, reference, &QUOTA, now()).await.unwrap().unwrap();
    let late = at(900_000_000);
    let (bob, e) = (user("bob"), ItemId::new("e").unwrap());
    for who in [&alice, &bob] {
        store.trash(who, None, 10, 1).await.unwrap();
        store.trashed_bytes(who).await.unwrap();
    }
    let c = ItemId::new("c").unwrap();
    assert_eq!(store.restore(&alice, &c, true, now()).await.unwrap(), RestoreAnswer::Restored(1));
    scene.apply("laptop", vec![later_deletion(11, "c"), later_deletion(12, "e")]).await;
    store.restore(&bob, &e, false, now()).await.unwrap();
    assert_eq!(store.purge(&alice, &c, true, now()).await.unwrap(), PurgeAnswer::Purged(2));
    while store.purge_step(now(), at(0), now(), 10).await.unwrap() > 0 {}
    store.purge_step(now(), now(), now(), 10).await.unwrap();
    let left = store.reclaim_of(&blob, at(0)).await.unwrap().unwrap();
    store.reclaimed(&left, now(), late).await.unwrap();
    assert!(!store.to_reclaim(now(), 10).await.unwrap().is_empty());
    assert_eq!(store.expired_stages(late, 10).await.unwrap().len(), 1);
    let four = BlobId::new("four").unwrap();
    store.delete_blob(&alice, &four, now()).await.unwrap();
    let left = store.reclaim_of(&four, at(0)).await.unwrap().unwrap();
    store.reclaimed(&left, now(), late).await.unwrap();
    let item = ItemId::new("b").unwrap();
    assert_eq!(store.versions(&alice, &item, 10).await.unwrap().unwrap().len(), 2);
    store.surplus_versions(late, 10).await.unwrap();
    let old = (RefId::new("ref").unwrap(), BlobId::new("one").unwrap());
    assert!(store.remove_version(&old.0, &old.1, now()).await.unwrap());
    store.any_blob(&blob).await.unwrap().unwrap();
    store.blobs_after(None, 10).await.unwrap();
    store.blob_usage(&alice).await.unwrap();
    for who in ["alice", "bob"] {
        scene.store.readable_blob(&user(who), &BlobId::new("one").unwrap()).await.unwrap();
    }
    let seen = super::devices::sighting("alice", "laptop", now());
    for _ in 0..2 {
        store.note_devices(vec![seen.clone()]).await.unwrap();
        let reports = vec![super::devices::report(1)];
        store.record_reports(&alice, &seen, reports, now()).await.unwrap();
    }
    store.devices(None, None, 10).await.unwrap();
    store.devices(Some(user("alice")), None, 10).await.unwrap();
    store.active_devices(at(0), 10).await.unwrap();
    let revoke = DeviceChange::Revoke;
    store.change_device(&alice, replica("laptop"), revoke, now()).await.unwrap();
    store.admission(&alice, Some(replica("laptop"))).await.unwrap();
    let first = super::credentials::secret(0);
    store.sign_in(&bob, replica("laptop"), first.proposal(), now()).await.unwrap();
    let next = first.next([2; 32]).hash();
    store.renew_credential(&first, replica("laptop"), next, now()).await.unwrap();
    store.end_credential(&first).await.unwrap();
    store.signing_keys().await.unwrap();
    for id in ["a", "b"] {
        let key = SigningKey { id: id.into(), secret: [1; 32], made_at: now() };
        store.add_signing_key(key, true).await.unwrap();
    }
    store.begin_session(super::sessions::session("a", 0)).await.unwrap();
    store.session("a").await.unwrap();
    store.end_session("a").await.unwrap();
    store.drop_ended_sessions(now()).await.unwrap();
    store.any_item(&item).await.unwrap();
    store.admission_generation().await.unwrap();
    store.users(None, 10).await.unwrap();
    store.totals().await.unwrap();
    store.user_record(&alice).await.unwrap();
    for change in [UserChange::Limit(Default::default()), UserChange::Disable, UserChange::Enable] {
        store.change_user(&alice, change, now()).await.unwrap();
    }
    for of in [
        ItemsOf::All,
        ItemsOf::Owner(alice.clone()),
        ItemsOf::Unshown(alice.clone()),
        ItemsOf::Reader(alice.clone()),
        ItemsOf::Reader(bob.clone()),
        ItemsOf::Grantee(bob.clone()),
    ] {
        store.examine_items(of, None, None, 1_u32).await.unwrap();
    }
    for who in [&alice, &bob] {
        store.examine_feed(who, 0_u64, 10_u32, true).await.unwrap();
        store.count_held(who, None, 10_u32).await.unwrap();
        store.count_charges(who, None, 10_u32).await.unwrap();
        store.examine_states(who, "", 10_u32).await.unwrap();
    }
    store.known_users(None, 1_u32).await.unwrap();
    store.oldest_rows(now()).await.unwrap();
    let late = at(1_000_000);
    let retention = Retention { removals_before: late, accepted_before: late, at_most: 100 };
    scene.store.prune(retention).await.unwrap();
    scene.delete_user("alice", 0).await.unwrap();
    scene.remove_all("alice", 10).await;
    store.allow_user(&alice, now(), 1).await.unwrap();
}

pub(crate) async fn no_statement_reads_a_table_whole(scene: Scene) {
    tour(&scene).await;
    let database = scene.database.clone().unwrap();
    let plans = if database.starts_with("postgres") {
        postgres_plans(&database).await
    } else {
        sqlite_plans(&database)
    };
    assert!(plans.len() > 20, "the tour runs more statements than that");
    // What an operator asks for, or does once after a restore.
    let whole = ["count(*)", "sum(counter)", "UPDATE feed_head SET epoch", "LOCK TABLE"];
    // What a migration reads once.
    let once = [
        "FROM grants WHERE level IS NOT NULL",
        "SELECT user_id FROM members",
        "SELECT user_id FROM members JOIN realms USING (uid)",
    ];
    for (sql, plan) in plans {
        if once.iter().any(|end| sql.ends_with(end)) {
            continue;
        }
        if !whole.iter().any(|part| sql.contains(part)) {
            let plan = plan.replace("SCAN CONSTANT ROW", "");
            let bad = ["SCAN ", "TEMP B-TREE", "Seq Scan"].iter().any(|part| plan.contains(part));
            assert!(!bad, "{sql}\n{plan}");
        }
    }
}

fn sqlite_plans(database: &str) -> Vec<(String, String)> {
    let connection = rusqlite::Connection::open(database).unwrap();
    let plan = |sql: &String| {
        let mut explain = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let mut rows = explain.raw_query();
        let mut lines = Vec::new();
        while let Some(row) = rows.next().unwrap() {
            lines.push(row.get::<_, String>(3).unwrap());
        }
        (sql.clone(), lines.join("\n"))
    };
    statements("sqlite").iter().map(plan).collect()
}

async fn postgres_plans(database: &str) -> Vec<(String, String)> {
    let client = connect(database).await.unwrap();
    let session = "SET enable_seqscan = off; SET enable_hashjoin = off; \
        SET enable_mergejoin = off; SET plan_cache_mode = force_generic_plan";
    client.batch_execute(session).await.unwrap();
    let mut plans = Vec::new();
    for sql in statements("postgres") {
        if sql.starts_with("LOCK") {
            continue;
        }
        client.batch_execute(&format!("PREPARE one AS {sql}")).await.unwrap();
        let parameters = (1..).take_while(|n| sql.contains(&format!("${n}"))).count();
        let nulls = vec!["NULL"; parameters].join(", ");
        let nulls = if nulls.is_empty() { nulls } else { format!("({nulls})") };
        let rows = client.simple_query(&format!("EXPLAIN EXECUTE one {nulls}")).await.unwrap();
        let mut lines = Vec::new();
        for row in rows {
            if let tokio_postgres::SimpleQueryMessage::Row(row) = row {
                lines.push(row.get(0).unwrap().to_owned());
            }
        }
        client.batch_execute("DEALLOCATE one").await.unwrap();
        plans.push((sql, lines.join("\n")));
    }
    plans
}

pub(crate) async fn writers_across_realms_never_dead_lock(scene: Scene) {
    const USERS: [&str; 4] = ["alice", "bob", "carol", "dave"];
    for who in USERS {
        scene.apply_as(who, "laptop", vec![folder(1, &format!("top of {who}"))]).await;
    }
    let scene = Arc::new(scene);
    let mut writers = Vec::new();
    for (index, who) in USERS.into_iter().enumerate() {
        let scene = scene.clone();
        writers.push(tokio::spawn(async move {
            for n in 0..20 {
                // Each names what is another's: refused, and its realm locked all the same.
                let others = (1..4).map(|step| USERS[(index + step) % 4]);
                let mut operations: Vec<_> =
                    others.map(|other| file_in(100, "x", &format!("top of {other}"))).collect();
                operations.push(folder(n + 2, &format!("{who}-{n}")));
                let response = scene.push_as(who, "laptop", operations).await;
                let applied = response.results.last().unwrap();
                assert_eq!(applied.status, vfs_sync_core::wire::PushStatus::Applied);
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let database = scene.database.clone().unwrap();
    if database.starts_with("postgres") {
        drop(scene);
        assert_eq!(deadlocks(&database).await, 0);
    }
}

/// The server counts a connection's dead-locks at the latest when that ends.
pub(crate) async fn deadlocks(database: &str) -> i64 {
    let client = connect(database).await.unwrap();
    let one = |sql: &'static str| {
        let client = &client;
        async move { client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) }
    };
    while one("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()").await > 1
    {
        tokio::task::yield_now().await;
    }
    one("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").await
}
