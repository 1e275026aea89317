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
    let follower = followed(&standby, "item-1").await;
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
    let former = connect(&primary.url(primary.address(), "vfs")).await.unwrap();
    assert_eq!(number(&former, ITEMS).await, 1);
    assert_eq!(number(&follower, ITEMS).await, 3);
}

const ITEMS: &str = "SELECT count(*) FROM items";
const EPOCH: &str = "SELECT value FROM meta WHERE name = 'epoch'";

async fn number(client: &tokio_postgres::Client, query: &str) -> i64 {
    client.query_one(query, &[]).await.unwrap().get(0)
}

/// Waits until a standby has replayed an item; returns a connection to it.
async fn followed(standby: &PostgresServer, item: &str) -> tokio_postgres::Client {
    let follower = connect(&standby.url(standby.address(), "vfs")).await.unwrap();
    let replayed = "SELECT pg_last_wal_replay_lsn() >= pg_last_wal_receive_lsn() \
                    AND EXISTS (SELECT FROM items WHERE item_id = $1)";
    let until = Instant::now() + Duration::from_secs(20);
    while !follower.query_one(replayed, &[&item]).await.is_ok_and(|row| row.get(0)) {
        assert!(Instant::now() < until, "the standby does not follow");
    }
    follower
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL"]
async fn of_two_primaries_the_later_one_is_used_and_the_former_never_again() {
    let primary = PostgresServer::start().unwrap();
    primary.create_database("vfs").await.unwrap();
    let standby = primary.standby().unwrap();
    let url = format!("postgres://vfs@{},{}/vfs", primary.address(), standby.address());
    let store = vfs_sync_store::open(&url, at(0)).await.unwrap();
    assert!(push(&*store, 1).await);
    let follower = followed(&standby, "item-1").await;
    follower.query_one("SELECT pg_promote()", &[]).await.unwrap();
    // Both answer and take writes: nobody has told the former one.
    let began = Instant::now();
    let mut next = 2;
    while number(&follower, ITEMS).await < 2 {
        assert!(began.elapsed() < Duration::from_secs(10), "the former primary is still used");
        next += u64::from(push(&*store, next).await);
    }
    let former = connect(&primary.url(primary.address(), "vfs")).await.unwrap();
    let left = number(&former, ITEMS).await;
    standby.freeze(true).unwrap();
    for _ in 0..2 {
        assert!(!push(&*store, next).await, "the former primary takes what its successor does not");
    }
    standby.freeze(false).unwrap();
    while !push(&*store, next).await {
        assert!(began.elapsed() < Duration::from_secs(60), "no push is accepted");
    }
    assert_eq!(number(&former, ITEMS).await, left);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL"]
async fn a_start_begins_no_epoch_at_what_may_be_a_former_primary() {
    let primary = PostgresServer::start().unwrap();
    primary.create_database("vfs").await.unwrap();
    let standby = primary.standby().unwrap();
    let url = format!("postgres://vfs@{},{}/vfs", primary.address(), standby.address());
    let epoch_at = async |server: &PostgresServer| {
        let client = connect(&server.url(server.address(), "vfs")).await.unwrap();
        number(&client, EPOCH).await
    };
    assert!(push(&*vfs_sync_store::open(&url, at(0)).await.unwrap(), 1).await);
    let first = epoch_at(&primary).await;
    drop(vfs_sync_store::open(&url, at(1)).await.unwrap());
    let second = epoch_at(&primary).await;
    assert!(second > first, "both hosts answer: the start begins an epoch");
    let follower = followed(&standby, "item-1").await;
    while number(&follower, EPOCH).await < second {}
    follower.query_one("SELECT pg_promote()", &[]).await.unwrap();
    standby.freeze(true).unwrap();
    // Only the former primary answers, and it is where its epoch began.
    let alone = vfs_sync_store::open(&url, at(2)).await.unwrap();
    assert!(push(&*alone, 2).await);
    assert_eq!(epoch_at(&primary).await, second);
    standby.freeze(false).unwrap();
    // Only the successor answers, which is elsewhere.
    primary.freeze(true).unwrap();
    let later = vfs_sync_store::open(&url, at(3)).await.unwrap();
    assert!(push(&*later, 3).await);
    assert!(epoch_at(&standby).await > second, "a start after a failover begins an epoch");
}

/// Listens at an address that leads new connections to the present target; open ones stay.
async fn moving_address(
    target: tokio::sync::watch::Receiver<std::net::SocketAddr>,
) -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let to = *target.borrow();
            tokio::spawn(async move {
                let mut far = tokio::net::TcpStream::connect(to).await?;
                tokio::io::copy_bidirectional(&mut near, &mut far).await
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL"]
async fn an_address_that_leads_elsewhere_takes_every_connection_along() {
    let primary = PostgresServer::start().unwrap();
    primary.create_database("vfs").await.unwrap();
    let standby = primary.standby().unwrap();
    let target = tokio::sync::watch::Sender::new(primary.address());
    let url = primary.url(moving_address(target.subscribe()).await, "vfs");
    let store = vfs_sync_store::open(&url, at(0)).await.unwrap();
    assert!(push(&*store, 1).await);
    // All of the pool's connections are open.
    let calls = || futures::future::join_all((0..40).map(|_| store.identity()));
    assert!(calls().await.iter().all(Result::is_ok));
    let follower = followed(&standby, "item-1").await;
    let epoch = number(&follower, EPOCH).await;
    // The former primary is not even told: as behind a pooler, its connections stay open.
    primary.freeze(true).unwrap();
    follower.query_one("SELECT pg_promote()", &[]).await.unwrap();
    target.send_replace(standby.address());
    let began = Instant::now();
    while !push(&*store, 2).await {
        assert!(began.elapsed() < Duration::from_secs(30), "no push is accepted");
    }
    assert!(began.elapsed() < Duration::from_secs(10), "it took {:?}", began.elapsed());
    assert!(calls().await.iter().all(Result::is_ok), "a connection to the former primary is used");
    assert!(number(&follower, EPOCH).await > epoch, "an epoch has begun");
    primary.freeze(false).unwrap();
    assert!(push(&*store, 3).await);
    let former = connect(&primary.url(primary.address(), "vfs")).await.unwrap();
    assert_eq!(number(&former, ITEMS).await, 1);
}
