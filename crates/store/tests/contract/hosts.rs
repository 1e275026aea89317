//! The way to PostgreSQL: encrypted connections, and several hosts of which one takes writes.

use std::path::Path;
use std::time::{Duration, Instant};

use vfs_sync_core::wire::PushStatus;
use vfs_sync_store::testing::{Authority, PostgresServer, connect};
use vfs_sync_store::{MetadataStore, StoreError};

use super::scene::*;

/// Connects to a server with these parameters; returns the error.
async fn refusal(server: &PostgresServer, parameters: &str) -> Option<String> {
    let url = format!("{}?{parameters}", server.url(server.address(), "postgres"));
    match vfs_sync_store::open(&url, at(0)).await {
        Ok(store) => {
            store.ping().await.unwrap();
            None
        }
        Err(error) => Some(error.to_string()),
    }
}

fn root(file: &Path) -> String {
    format!("sslrootcert={}", file.display())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL"]
async fn a_connection_is_encrypted_and_verified_as_libpq_means_it() {
    let authority = Authority::new().unwrap();
    let other = Authority::new().unwrap();
    let pair = authority.signed("db", "IP:127.0.0.1").unwrap();
    let server = PostgresServer::with_tls(&pair).unwrap();
    let (ours, theirs) = (root(&authority.root()), root(&other.root()));
    for (parameters, refused) in [
        ("", None),
        ("sslmode=prefer", None),
        ("sslmode=require", None),
        ("sslmode=disable", Some("no encryption")),
        (&format!("sslmode=require&{ours}"), None),
        (&format!("sslmode=require&{theirs}"), Some("invalid peer certificate")),
        (&format!("sslmode=verify-ca&{ours}"), None),
        (&format!("sslmode=verify-ca&{theirs}"), Some("invalid peer certificate")),
        (&format!("sslmode=verify-full&{ours}"), None),
        (&format!("sslmode=verify-full&{theirs}"), Some("invalid peer certificate")),
        ("sslmode=verify-full&sslrootcert=system", Some("invalid peer certificate")),
    ] {
        let answer = refusal(&server, parameters).await;
        match (answer, refused) {
            (None, None) => {}
            (Some(error), Some(says)) if error.contains(says) => {}
            (answer, _) => panic!("{parameters}: {answer:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL"]
async fn another_hosts_certificate_passes_only_without_its_name() {
    let authority = Authority::new().unwrap();
    let pair = authority.signed("db", "DNS:db.example").unwrap();
    let server = PostgresServer::with_tls(&pair).unwrap();
    let ours = root(&authority.root());
    assert_eq!(refusal(&server, &format!("sslmode=verify-ca&{ours}")).await, None);
    let error = refusal(&server, &format!("sslmode=verify-full&{ours}")).await.unwrap();
    assert!(error.contains("not valid for name"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL"]
async fn a_self_signed_certificate_is_its_own_root() {
    let authority = Authority::new().unwrap();
    let pair = authority.self_signed("db", "IP:127.0.0.1").unwrap();
    let server = PostgresServer::with_tls(&pair).unwrap();
    let (own, other) = (root(&pair.certificate), root(&authority.root()));
    for mode in ["verify-ca", "verify-full"] {
        assert_eq!(refusal(&server, &format!("sslmode={mode}&{own}")).await, None);
        let error = refusal(&server, &format!("sslmode={mode}&{other}")).await;
        assert!(error.is_some(), "{mode} accepts a certificate that nothing trusted signed");
    }
    let named = authority.self_signed("named", "DNS:db.example").unwrap();
    let server = PostgresServer::with_tls(&named).unwrap();
    let own = root(&named.certificate);
    assert_eq!(refusal(&server, &format!("sslmode=verify-ca&{own}")).await, None);
    assert!(refusal(&server, &format!("sslmode=verify-full&{own}")).await.is_some());
}

/// Pushes an item; returns whether it was applied.
async fn push(store: &dyn MetadataStore, write_id: u64) -> bool {
    let operation = folder(write_id, &format!("item-{write_id}"));
    match store.push(batch("alice", "r1", vec![operation]), at(1)).await {
        Ok(answer) => {
            let statuses: Vec<_> = answer.results.iter().map(|result| result.status).collect();
            // A push whose answer was lost is repeated.
            assert!(
                matches!(statuses[..], [PushStatus::Applied | PushStatus::AlreadyApplied]),
                "{answer:?}"
            );
            true
        }
        Err(StoreError::Unavailable(_)) => false,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL"]
async fn work_goes_on_at_a_promoted_standby_when_the_primary_is_frozen() {
    let primary = PostgresServer::start().unwrap();
    primary.create_database("vfs").await.unwrap();
    let standby = primary.standby().unwrap();
    let url = format!(
        "postgres://vfs@{},{}/vfs",
        // A standby that stands first is passed over.
        standby.address(),
        primary.address()
    );
    let store = vfs_sync_store::open(&url, at(0)).await.unwrap();
    assert!(push(&*store, 1).await);
    let replayed = "SELECT pg_last_wal_replay_lsn() >= pg_last_wal_receive_lsn() \
                    AND EXISTS (SELECT FROM items WHERE item_id = 'item-1')";
    let follower = connect(&standby.url(standby.address(), "vfs")).await.unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    while !follower.query_one(replayed, &[]).await.is_ok_and(|row| row.get(0)) {
        assert!(Instant::now() < until, "the standby does not follow");
    }
    primary.freeze(true).unwrap();
    follower.query_one("SELECT pg_promote()", &[]).await.unwrap();
    let began = Instant::now();
    while !push(&*store, 2).await {
        assert!(began.elapsed() < Duration::from_secs(30), "no push is accepted");
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(10), "it took {took:?}");
    // The former primary wakes, and believes to be one still: it gets nothing more.
    primary.freeze(false).unwrap();
    assert!(push(&*store, 3).await);
    let count = "SELECT count(*) FROM items";
    let former = connect(&primary.url(primary.address(), "vfs")).await.unwrap();
    let rows = |row: tokio_postgres::Row| row.get::<_, i64>(0);
    assert_eq!(rows(former.query_one(count, &[]).await.unwrap()), 1);
    assert_eq!(rows(follower.query_one(count, &[]).await.unwrap()), 3);
}
